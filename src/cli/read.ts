// `get` and `events`: one entity as JSON, and what happened.
import { create, toJson } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";
import type { EntityClient } from "../../clients/typescript/index.ts";
import {
  type EntityEvent,
  EntityEventSchema,
  type EntityLookup,
  EntityLookupSchema,
  EntitySchema,
  EventType,
  EventTypeSchema,
} from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { parseUuid } from "../domain/text.ts";
import { CALL } from "./connection.ts";

/** Undefined when no option names an entity. Throws ConfigError when several do. */
export function lookupOf(options: { id?: string; externalId?: string; taxId?: string }): EntityLookup | undefined {
  const given = (
    [
      { case: "entityId", value: options.id },
      { case: "externalId", value: options.externalId },
      { case: "taxId", value: options.taxId },
    ] as const
  ).filter((by) => by.value !== undefined);
  if (given.length > 1) throw new ConfigError("give only one of --id, --external-id, --tax-id");
  const [by] = given;
  return by && create(EntityLookupSchema, { by: { case: by.case, value: by.value ?? "" } });
}

/** For `get customer-1`: what it may have been meant for. */
export function bareValue(command: string, value: string): ConfigError {
  const option = parseUuid(value) === null ? "--external-id" : "--id";
  return new ConfigError(`${command} takes no bare value: did you mean ${option} ${value}?`);
}

/** With a time, as it was then. */
export async function printEntity(client: EntityClient, lookup: EntityLookup, at?: Timestamp): Promise<void> {
  const { entity } = await client.entities.getEntity({ lookup, ...(at && { readTime: at }) }, CALL);
  process.stdout.write(`${JSON.stringify(toJson(EntitySchema, entity ?? create(EntitySchema)), null, 2)}\n`);
}

/** The type of an event by its name, in any case; undefined for any other word. */
export function eventTypeOf(name: string): EventType | undefined {
  const value = EventTypeSchema.values.find(({ localName }) => localName === name.toUpperCase());
  return value === undefined || value.number === EventType.UNSPECIFIED ? undefined : (value.number as EventType);
}

/** Newest first, a line each: readable, or the event's JSON. */
export async function printEvents(
  client: EntityClient,
  options: { lookup: EntityLookup | undefined; types: EventType[]; actor: string; limit: number; json: boolean },
): Promise<void> {
  let left = options.limit;
  let pageToken = "";
  const filter = { types: options.types, actor: options.actor, pageSize: Math.min(left, 1000) };
  const query = options.lookup === undefined ? filter : { ...filter, lookup: options.lookup };
  do {
    const page = await client.entities.listEntityEvents({ ...query, pageToken }, CALL);
    for (const event of page.events.slice(0, left)) {
      process.stdout.write(`${options.json ? JSON.stringify(toJson(EntityEventSchema, event)) : readable(event)}\n`);
    }
    left -= page.events.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== "" && left > 0);
}

/** An event in a line. Texts of callers are quoted: they may hold line ends. */
export function readable(event: EntityEvent): string {
  const time = event.recordedAt === undefined ? "" : toJson(TimestampSchema, event.recordedAt);
  const who = event.externalId === "" ? event.entityId : `${event.entityId} ${quoted(event.externalId)}`;
  const fields = event.updatedFields.join(",");
  const reason = event.reason === "" ? "" : `  reason ${quoted(event.reason)}`;
  return `${time}  ${who} v${event.entityVersion}  ${EventTypeSchema.value[event.type]?.localName}  ${fields}  by ${quoted(event.actor)} via ${quoted(event.source)}${reason}`;
}

/** A text of a caller as it stands in a line: one line, and between quotation marks unless it is a plain word. */
export const quoted = (text: string): string => (/^[\w.@:-]+$/.test(text) ? text : JSON.stringify(text));
