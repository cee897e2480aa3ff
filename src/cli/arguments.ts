// What commands take as options, read and checked.
import { fromJson } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { type Command, InvalidArgumentError } from "commander";
import { EntityStatus, EntityStatusSchema, EntityType, type EventType } from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { bareValue, eventTypeOf } from "./read.ts";

export interface LookupOptions {
  id?: string;
  externalId?: string;
  taxId?: string;
}

export function withLookup(command: Command): Command {
  return command
    .option("--id <uuid>", "the entity by its id")
    .option("--external-id <id>", "the entity by one of its external ids")
    .option("--tax-id <number>", "the entity by its tax id; punctuation does not count")
    .allowExcessArguments()
    .hook("preAction", ({ args: [value] }) => {
      if (value !== undefined) throw bareValue(command.name(), value);
    });
}

export function typesOf(names: string[] = []): EventType[] {
  return names.map((name) => {
    const type = eventTypeOf(name);
    if (type === undefined) throw new ConfigError("--type must be the type of an event, such as CREATED");
    return type;
  });
}

export function statusesOf(names: string[] = []): EntityStatus[] {
  return names.map((name) => {
    const status = EntityStatusSchema.values.find(({ localName }) => localName === name.toUpperCase())?.number;
    if (status === undefined || status === EntityStatus.UNSPECIFIED)
      throw new ConfigError("--status must be a status, such as ACTIVE");
    return status as EntityStatus;
  });
}

export function entityType(text: string): EntityType {
  if (text.toLowerCase() === "person") return EntityType.PERSON;
  if (text.toLowerCase() === "company") return EntityType.COMPANY;
  throw new InvalidArgumentError("It must be person or company.");
}

export function positive(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError("It must be a whole number from 1.");
  return Number(text);
}

export const wholeNumber = (min: number, max: number) => (text: string) => {
  const number = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (!(number >= min && number <= max))
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  return number;
};

export function time(text: string): Date {
  const date = new Date(text);
  const day = new Date(text.slice(0, 10));
  // A Date takes 30 February for the first of March.
  const isDay = !Number.isNaN(day.getTime()) && day.toISOString().startsWith(text.slice(0, 10));
  if (!/^\d{4}-\d\d-\d\dT.*(Z|[+-]\d\d:\d\d)$/.test(text) || Number.isNaN(date.getTime()) || !isDay) {
    throw new InvalidArgumentError("It must be a time with its zone, as in 2027-01-31T00:00:00Z.");
  }
  return date;
}

/** The same with all its decimals. */
export function timestamp(text: string): Timestamp {
  time(text);
  try {
    return fromJson(TimestampSchema, text);
  } catch {
    throw new InvalidArgumentError("It must be a time with its zone, as in 2027-01-31T00:00:00.123456Z.");
  }
}
