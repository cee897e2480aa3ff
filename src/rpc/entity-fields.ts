// The fields of Entity: their values and names on the wire and in the rules, and the paths into entity_data.
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type EntitySchema,
  EntityStatus,
  EntityType,
  TaxIdCheck,
} from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import type * as domain from "../domain/entity-state.ts";
import type { JsonObject, JsonValue } from "../domain/json.ts";
import type { TaxIdCheck as TaxIdCheckName } from "../domain/tax-id.ts";

/** What a message of an entity is made of. Answers are encoded from it: no message is needed. */
export type EntityInit = MessageInitShape<typeof EntitySchema>;

const TYPES = { person: EntityType.PERSON, company: EntityType.COMPANY } as const;
const STATUSES = {
  pending: EntityStatus.PENDING,
  under_review: EntityStatus.UNDER_REVIEW,
  active: EntityStatus.ACTIVE,
  inactive: EntityStatus.INACTIVE,
  suspended: EntityStatus.SUSPENDED,
  blocked: EntityStatus.BLOCKED,
  rejected: EntityStatus.REJECTED,
} as const;
const CHECKS = {
  valid: TaxIdCheck.VALID,
  checksum_failed: TaxIdCheck.CHECKSUM_FAILED,
  unknown_format: TaxIdCheck.UNKNOWN_FORMAT,
} as const;

const keyOf = <K extends string, V>(table: Record<K, V>, value: V): K | undefined =>
  (Object.keys(table) as K[]).find((key) => table[key] === value);

export const typeFromProto = (type: EntityType): domain.EntityType | undefined => keyOf(TYPES, type as never);
export const typeToProto = (type: domain.EntityType): EntityType => TYPES[type];
export const statusFromProto = (status: EntityStatus): domain.EntityStatus | undefined =>
  keyOf(STATUSES, status as never);
export const statusToProto = (status: domain.EntityStatus): EntityStatus => STATUSES[status];
export const taxIdCheckToProto = (check: TaxIdCheckName | null): TaxIdCheck =>
  check === null ? TaxIdCheck.UNSPECIFIED : CHECKS[check];

// --- Keys of entity_data -------------------------------------------------------------------------
// In the rules and in events they are the JSON names; `additional` lies flat beside the listed ones.

export const ADDRESS_TEXT_KEYS = ["street", "city", "state", "country", "postalCode"] as const;
export const PERSON_TEXT_KEYS = [
  "firstName",
  "lastName",
  "middleName",
  "dateOfBirth",
  "nationality",
  "email",
  "phone",
] as const;
export const COMPANY_TEXT_KEYS = [
  "legalName",
  "registrationNumber",
  "incorporationDate",
  "industry",
  "website",
] as const;
/** Those that are dates. */
export const DATE_KEYS: readonly string[] = ["dateOfBirth", "incorporationDate"];

/** The keys that the contract lists. */
export const LISTED_KEYS = {
  address: new Set<string>(ADDRESS_TEXT_KEYS),
  person: new Set<string>([...PERSON_TEXT_KEYS, "address"]),
  company: new Set<string>([...COMPANY_TEXT_KEYS, "tradingNames", "employees", "address"]),
};

/** The name of a field in a path, from its JSON name. */
export const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** The listed keys, and the others as `additional`, undefined when there are none. */
export function splitListed(data: JsonObject, listed: Set<string>): [JsonObject, JsonObject | undefined] {
  const own: Record<string, JsonValue> = {};
  let others: [string, JsonValue][] | undefined;
  for (const key of Object.keys(data)) {
    const value = data[key] as JsonValue;
    if (listed.has(key)) own[key] = value;
    else (others ??= []).push([key, value]);
  }
  // Not assigned one by one: "__proto__" is a key like any other.
  return [own, others && Object.fromEntries(others)];
}

/** Paths of entity_data and into it, for both masks. */
export const DATA_PATHS = new Set([
  "entity_data",
  ...(["person", "company"] as const).flatMap((kind) => [
    `entity_data.${kind}`,
    `entity_data.${kind}.additional`,
    ...[...LISTED_KEYS[kind]].map((key) => `entity_data.${kind}.${snake(key)}`),
  ]),
]);
