// Entity on the wire and in the rules: toProto, fromProto.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import {
  type Address,
  type AddressSchema,
  type CompanyData,
  type CompanyDataSchema,
  Designation,
  type Entity,
  EntityStatus,
  EntityType,
  type PersonData,
  type PersonDataSchema,
} from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import { countryCodeProblem, parseCountryCode } from "../domain/country.ts";
import type { EntityPatch } from "../domain/entity.ts";
import { type EntityType as EntityTypeName, primaryOf } from "../domain/entity-state.ts";
import { invalidField } from "../domain/errors.ts";
import type { JsonObject, JsonValue } from "../domain/json.ts";
import type { PastEntity } from "../domain/past.ts";
import { taxIdKey } from "../domain/tax-id.ts";
import { dateProblem, nameProblem, parseUuid, trim, uuidProblem } from "../domain/text.ts";
import type { Outcome } from "../entities/command.ts";
import {
  ADDRESS_TEXT_KEYS,
  COMPANY_TEXT_KEYS,
  DATA_PATHS,
  DATE_KEYS,
  type EntityInit,
  LISTED_KEYS,
  PERSON_TEXT_KEYS,
  snake,
  splitListed,
  statusFromProto,
  statusToProto,
  taxIdCheckToProto,
  typeFromProto,
  typeToProto,
} from "./entity-fields.ts";
import type { ReadMask } from "./read-mask.ts";
import { parseExternalId, taxIdProblem, toTimestamp } from "./request.ts";
import { checkUpdateMask, ignoredPaths } from "./update-mask.ts";
import type { Violations } from "./violations.ts";

// --- toProto ------------------------------------------------------------------------------------

/** The entity as callers see it, as it is or as it was; with a mask only its paths. */
export function toProto(entity: PastEntity, readMask?: ReadMask): EntityInit {
  const init: EntityInit = {
    id: entity.id,
    organizationId: entity.organizationId,
    externalId: primaryOf(entity)?.externalId ?? "",
    externalIds: entity.externalIds.map((id) => ({
      externalId: id.externalId,
      type: id.type,
      designation: id.primary ? Designation.PRIMARY : Designation.UNSPECIFIED,
      attachedAt: toTimestamp(id.attachedAt),
      trackedSince: id.trackedSince === null ? undefined : toTimestamp(id.trackedSince),
      lastResolvedOn: id.lastResolvedOn ?? "",
    })),
    type: typeToProto(entity.type),
    countryCode: entity.countryCode,
    name: entity.name,
    taxId: entity.taxId ?? undefined,
    taxIdCheck: taxIdCheckToProto(entity.taxIdCheck),
    status: statusToProto(entity.status),
    nationality: entity.nationality ?? undefined,
    riskMatrixId: entity.riskMatrixId ?? undefined,
    riskScore: entity.riskScore ?? undefined,
    entityData: entity.entityData === null ? undefined : { kind: entityDataToProto(entity.type, entity.entityData) },
    attributes: Object.keys(entity.attributes).length === 0 ? undefined : entity.attributes,
    metadata: Object.keys(entity.metadata).length === 0 ? undefined : entity.metadata,
    etag: entity.etag,
    createdAt: toTimestamp(entity.createdAt),
    updatedAt: entity.updatedAt === null ? undefined : toTimestamp(entity.updatedAt),
    deletedAt: entity.deletedAt === null ? undefined : toTimestamp(entity.deletedAt),
    mergedInto: entity.mergedInto ?? "",
  };
  return readMask === undefined ? init : readMask(init);
}

type DataInit =
  | { case: "person"; value: MessageInitShape<typeof PersonDataSchema> }
  | { case: "company"; value: MessageInitShape<typeof CompanyDataSchema> };

function entityDataToProto(type: EntityTypeName, data: JsonObject): DataInit {
  const [listed, additional] = splitListed(data, LISTED_KEYS[type]);
  const address = data.address === undefined ? undefined : addressToProto(data.address as JsonObject);
  return { case: type, value: { ...(listed as object), address, additional } };
}

function addressToProto(data: JsonObject): MessageInitShape<typeof AddressSchema> {
  const [listed, additional] = splitListed(data, LISTED_KEYS.address);
  return { ...(listed as object), additional };
}

/** The entity after a write, and whether that changed anything. */
export const presentChange = ({ before, after, redirectedFrom }: Outcome) => ({
  entity: toProto(after),
  changed: before !== after,
  redirectedFrom,
});

// --- fromProto ----------------------------------------------------------------------------------

/** What a request says of an entity, checked. */
export interface EntityInput {
  patch: EntityPatch;
  etag: string | undefined;
  /** Paths that were sent and cannot be written here. */
  ignored: string[];
}

/**
 * Reads an entity of a request. Without a mask its populated fields are written; with one exactly the
 * paths of the mask, cleared where unset (rule 21). `today` is the latest date that has begun on Earth.
 */
export function fromProto(
  entity: Entity,
  mask: FieldMask | undefined,
  today: string,
  violations: Violations,
): EntityInput {
  const paths = mask === undefined || mask.paths.length === 0 ? undefined : new Set(mask.paths);
  if (paths !== undefined) checkUpdateMask(paths, violations);
  const wanted = (path: string, populated: boolean) => (paths === undefined ? populated : paths.has(path));
  const patch: { -readonly [K in keyof EntityPatch]: EntityPatch[K] } = {};

  if (wanted("type", entity.type !== EntityType.UNSPECIFIED)) {
    const type = typeFromProto(entity.type);
    if (type === undefined) violations.add("entity.type", "cannot be cleared");
    else patch.type = type;
  }
  if (wanted("country_code", entity.countryCode !== "")) {
    violations.check("entity.country_code", countryCodeProblem(entity.countryCode));
    patch.countryCode = parseCountryCode(entity.countryCode) ?? "";
  }
  if (wanted("name", entity.name !== "")) {
    patch.name = trim(entity.name);
    violations.check("entity.name", patch.name === "" ? "must not be blank" : nameProblem(patch.name));
  }
  if (wanted("status", entity.status !== EntityStatus.UNSPECIFIED)) {
    const status = statusFromProto(entity.status);
    if (status === undefined) violations.add("entity.status", "cannot be cleared");
    else patch.status = status;
  }
  if (wanted("tax_id", entity.taxId !== undefined)) {
    patch.taxId = optionalText(entity.taxId, "entity.tax_id", violations, taxIdProblem, (value) => {
      const trimmed = trim(value);
      return taxIdKey(trimmed) === "" ? null : trimmed;
    });
  }
  if (wanted("nationality", entity.nationality !== undefined)) {
    patch.nationality = optionalText(
      entity.nationality,
      "entity.nationality",
      violations,
      countryCodeProblem,
      parseCountryCode,
    );
  }
  if (wanted("risk_matrix_id", entity.riskMatrixId !== undefined)) {
    patch.riskMatrixId = optionalText(entity.riskMatrixId, "entity.risk_matrix_id", violations, uuidProblem, parseUuid);
  }
  for (const map of ["attributes", "metadata"] as const) {
    if (wanted(map, entity[map] !== undefined))
      patch[map] = { replace: paths !== undefined, entries: entity[map] ?? {} };
  }
  const entityData = entityDataFromProto(entity, paths, today, violations);
  if (entityData !== undefined) patch.entityData = entityData;

  return {
    patch,
    etag: entity.etag === "" ? undefined : entity.etag,
    ignored: ignoredPaths(entity, paths),
  };
}

/** The external id that an entity is made with. Not part of fromProto: an update ignores it unread (rule 23). */
export function externalIdFromProto(entity: Entity | undefined, violations: Violations): string | undefined {
  const value = entity?.externalId ?? "";
  return value === "" ? undefined : parseExternalId(value, "entity.external_id", violations);
}

/** Undefined clears; an empty string is refused, since it says neither "unchanged" nor "clear". */
function optionalText(
  value: string | undefined,
  field: string,
  violations: Violations,
  problem: (value: string) => string | null,
  parse: (value: string) => string | null,
): string | null {
  if (value === undefined) return null;
  violations.check(
    field,
    value === "" ? "must not be empty: to clear it, name it in update_mask and leave it unset" : problem(value),
  );
  return parse(value);
}

function entityDataFromProto(
  entity: Entity,
  paths: Set<string> | undefined,
  today: string,
  violations: Violations,
): EntityPatch["entityData"] {
  const kind = entity.entityData?.kind;
  if (paths === undefined) {
    if (kind?.case === undefined) return undefined;
    return { kind: kind.case, replace: false, entries: keysOf(kind, today, violations) };
  }
  const named = [...paths].filter((path) => DATA_PATHS.has(path));
  if (named.length === 0) return undefined;
  if (named.includes("entity_data")) {
    if (kind?.case === undefined) return null;
    return { kind: kind.case, replace: true, entries: keysOf(kind, today, violations) };
  }
  const kinds = new Set(named.map((path) => path.split(".")[1] as EntityTypeName));
  const [only] = kinds;
  if (kinds.size > 1 || only === undefined) throw invalidField("update_mask", "names both person and company data");
  // Not "clear it": who sends one and names the other has mixed them up.
  if (kind?.case !== undefined && kind.case !== only) {
    throw invalidField("update_mask", `names ${only} data, and entity_data has ${kind.case} data`);
  }
  const sent = kind?.case === only ? keysOf(kind, today, violations) : {};
  if (named.includes(`entity_data.${only}`)) {
    return { kind: only, replace: true, entries: sent };
  }
  const entries = new Map<string, JsonValue>();
  for (const key of LISTED_KEYS[only]) {
    if (named.includes(`entity_data.${only}.${snake(key)}`)) entries.set(key, sent[key] ?? null);
  }
  if (named.includes(`entity_data.${only}.additional`)) {
    for (const [key, value] of Object.entries(splitListed(sent, LISTED_KEYS[only])[1] ?? {})) entries.set(key, value);
    return { kind: only, replace: false, keep: LISTED_KEYS[only], entries: Object.fromEntries(entries) };
  }
  return { kind: only, replace: false, entries: Object.fromEntries(entries) };
}

type Kind = { case: "person"; value: PersonData } | { case: "company"; value: CompanyData };

/** The keys of a person or company as the rules have them: those that are sent. */
function keysOf(kind: Kind, today: string, violations: Violations): JsonObject {
  const path = `entity.entity_data.${kind.case}`;
  const entries: [string, JsonValue][] = [];
  const names = kind.case === "person" ? PERSON_TEXT_KEYS : COMPANY_TEXT_KEYS;
  for (const name of names) {
    const value = (kind.value as unknown as Record<string, string | undefined>)[name];
    if (value === undefined) continue;
    entries.push([name, presentText(value, `${path}.${snake(name)}`, violations)]);
    if (DATE_KEYS.includes(name) && value !== "") {
      violations.check(`${path}.${snake(name)}`, dateProblem(value, name === "dateOfBirth" ? { notAfter: today } : {}));
    }
  }
  if (kind.case === "company") {
    const { tradingNames, employees } = kind.value;
    tradingNames.forEach((name, i) => presentText(name, `${path}.trading_names[${i}]`, violations));
    if (tradingNames.length > 0) entries.push(["tradingNames", tradingNames]);
    if (employees !== undefined) {
      if (employees < 0) violations.add(`${path}.employees`, "must not be negative");
      entries.push(["employees", employees]);
    }
  }
  if (kind.value.address !== undefined)
    entries.push(["address", addressOf(kind.value.address, `${path}.address`, violations)]);
  entries.push(...additionalOf(kind.value.additional, LISTED_KEYS[kind.case], path, violations));
  return Object.fromEntries(entries);
}

function addressOf(address: Address, path: string, violations: Violations): JsonObject {
  const entries: [string, JsonValue][] = [];
  for (const name of ADDRESS_TEXT_KEYS) {
    const value = address[name];
    if (value !== undefined) entries.push([name, presentText(value, `${path}.${snake(name)}`, violations)]);
  }
  // An address is replaced whole, so a null in it would remove nothing: it is left out.
  const additional = additionalOf(address.additional, LISTED_KEYS.address, path, violations).filter(
    ([, value]) => value !== null,
  );
  return Object.fromEntries([...entries, ...additional]);
}

function additionalOf(
  additional: JsonObject | undefined,
  listed: Set<string>,
  path: string,
  violations: Violations,
): [string, JsonValue][] {
  const entries = Object.entries(additional ?? {}) as [string, JsonValue][];
  for (const [key] of entries) {
    if (listed.has(key)) violations.add(`${path}.additional.${key}`, `is a listed field: use ${path}.${snake(key)}`);
  }
  return entries;
}

function presentText(value: string, field: string, violations: Violations): string {
  if (value === "") violations.add(field, "must not be empty: to clear it, name it in update_mask and leave it unset");
  return value;
}
