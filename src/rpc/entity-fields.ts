// The fields of Entity: their values and names on the wire and in the rules, and the paths into entity_data.
import { EntityStatus, EntityType, TaxIdCheck } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import type * as domain from "../domain/entity-state.ts";
import type { JsonObject, JsonValue } from "../domain/json.ts";
import type { TaxIdCheck as TaxIdCheckName } from "../domain/tax-id.ts";

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
  const own: [string, JsonValue][] = [];
  const others: [string, JsonValue][] = [];
  for (const entry of Object.entries(data)) (listed.has(entry[0]) ? own : others).push(entry);
  return [Object.fromEntries(own), others.length === 0 ? undefined : Object.fromEntries(others)];
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
