// The contract's words as people read them, and times.
import type { DescEnum } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { DuplicateRule, DuplicateRuleSchema } from "../../typescript/gen/entity/v1/duplicate_pb.ts";
import { EventType, EventTypeSchema } from "../../typescript/gen/entity/v1/entity_event_pb.ts";
import {
  type EntityStatus,
  EntityStatusSchema,
  type EntityType,
  EntityTypeSchema,
  type ExternalIdDetachCause,
  ExternalIdDetachCauseSchema,
  type TaxIdCheck,
  TaxIdCheckSchema,
} from "../../typescript/gen/entity/v1/entity_pb.ts";

/** The word of an enum's value: "UNDER_REVIEW" becomes "under review". */
export const wordOf = (desc: DescEnum, value: number): string =>
  (desc.value[value]?.localName ?? "unknown").toLowerCase().replaceAll("_", " ");

export const statusWord = (status: EntityStatus): string => wordOf(EntityStatusSchema, status);
export const typeWord = (type: EntityType): string => wordOf(EntityTypeSchema, type);
export const checkWord = (check: TaxIdCheck): string => wordOf(TaxIdCheckSchema, check);
export const causeWord = (cause: ExternalIdDetachCause): string => wordOf(ExternalIdDetachCauseSchema, cause);

const EVENT_WORDS: Partial<Record<EventType, string>> = {
  [EventType.CREATED]: "Created",
  [EventType.ATTRIBUTE_CHANGED]: "Changed",
  [EventType.EXTERNAL_ID_CHANGED]: "External ids changed",
  [EventType.DELETED]: "Deleted",
  [EventType.UNDELETED]: "Brought back",
  [EventType.MERGED]: "Merged into another",
  [EventType.MERGE_RECEIVED]: "Another merged into it",
  [EventType.UNMERGED]: "Merge undone",
  [EventType.MERGE_RETURNED]: "Parted from another",
  [EventType.DISTINCT_MARKED]: "Marked distinct",
  [EventType.DISTINCT_LIFTED]: "Mark lifted",
  [EventType.EVALUATED]: "Risk evaluated",
};
export const eventWord = (type: EventType): string => EVENT_WORDS[type] ?? wordOf(EventTypeSchema, type);
export const EVENT_TYPES = Object.keys(EVENT_WORDS).map(Number) as EventType[];

const RULE_WORDS: Partial<Record<DuplicateRule, string>> = {
  [DuplicateRule.SAME_TAX_ID]: "same tax id",
  [DuplicateRule.SAME_EXTERNAL_ID]: "same external id",
  [DuplicateRule.SAME_NAME_AND_REGISTRATION_NUMBER]: "same name and registration number",
  [DuplicateRule.SAME_NAME_AND_DATE]: "same name and date",
};
export const ruleWord = (rule: DuplicateRule): string => RULE_WORDS[rule] ?? wordOf(DuplicateRuleSchema, rule);

/** "entityData.person.dateOfBirth" becomes "date of birth"; keys of callers stay as they are. */
export const fieldWord = (name: string): string =>
  /^[a-zA-Z]+$/.test(name) ? name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`) : name;

const two = (number: number) => String(number).padStart(2, "0");

/** Cut off and not rounded, as `timestampDate` does, up into the next one. */
const secondOf = (time: Timestamp) => new Date(Number(time.seconds) * 1_000).toISOString().slice(0, 19);

/** "2026-11-28 04:42:54", in UTC: the same for everybody who talks about it. */
export function timeText(time: Timestamp | undefined): string {
  if (time === undefined) return "";
  return secondOf(time).replace("T", " ");
}

export const dayText = (time: Timestamp | undefined): string => timeText(time).slice(0, 10);
export const clockText = (time: Timestamp | undefined): string => timeText(time).slice(11);

/** With all digits, as it stands in a URL and is given back by `timestampOf`. */
export function exactTime(time: Timestamp): string {
  const micros = String(Math.floor(time.nanos / 1_000)).padStart(6, "0");
  return `${secondOf(time)}.${micros}Z`;
}

export function timestampOf(exact: string): Timestamp {
  const [, seconds = "", fraction = ""] = /^([^.Z]+)(?:\.(\d+))?Z$/.exec(exact) ?? [];
  const time = timestampFromDate(new Date(`${seconds}Z`));
  time.nanos = Number(fraction.padEnd(9, "0"));
  return time;
}

/** The last moment of a day of UTC, or undefined where it is not over. */
export function endOfDay(day: string): string | undefined {
  const end = `${day}T23:59:59.999999Z`;
  return Date.parse(`${day}T23:59:59Z`) < Date.now() ? end : undefined;
}

export const today = (): string => {
  const now = new Date();
  return `${now.getUTCFullYear()}-${two(now.getUTCMonth() + 1)}-${two(now.getUTCDate())}`;
};
