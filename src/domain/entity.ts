// The entity and the rules that change it. A rule takes plain data and returns the values after, or null
// when nothing changes, or throws a DomainError. What is written and told of a change is derived from
// the state before and after it (changedFields), never stated twice.

import { parseCountryCode } from "./country.ts";
import { DomainError, invalidField } from "./errors.ts";
import { type JsonObject, type JsonValue, sameJson } from "./json.ts";
import { LIMITS } from "./limits.ts";
import { checkTaxId, type TaxIdCheck, taxIdKey } from "./tax-id.ts";
import { structProblem } from "./text.ts";
import { type Instant, instantToText } from "./time.ts";

export type EntityType = "person" | "company";
export type EntityStatus = "pending" | "under_review" | "active" | "inactive" | "suspended" | "blocked" | "rejected";
export type ExternalIdPolicy = "MUTABLE_WITH_REASON" | "IMMUTABLE";

/** An attached external id. `type` is the caller's label, "" for none. */
export interface ExternalIdState {
  readonly externalId: string;
  readonly type: string;
  readonly primary: boolean;
  readonly attachedAt: Instant;
}

/** The values of an entity: what rules change and events tell. Unset is null, or an empty map. */
export interface EntityValues {
  readonly type: EntityType;
  readonly countryCode: string;
  /** The primary first, then by time attached. */
  readonly externalIds: readonly ExternalIdState[];
  readonly name: string;
  readonly taxId: string | null;
  readonly taxIdCheck: TaxIdCheck | null;
  readonly status: EntityStatus;
  readonly nationality: string | null;
  readonly riskMatrixId: string | null;
  /** A decimal with two places. */
  readonly riskScore: string | null;
  /** The keys of the person or company, listed and additional ones side by side, in camelCase; null when there are none. */
  readonly entityData: JsonObject | null;
  readonly attributes: JsonObject;
  readonly metadata: JsonObject;
  readonly deletedAt: Instant | null;
}

/** An entity as stored. */
export interface EntityState extends EntityValues {
  readonly id: string;
  readonly organizationId: string;
  /** 1 at creation, one more with every change. */
  readonly version: number;
  readonly etag: string;
  readonly createdAt: Instant;
  readonly updatedAt: Instant;
}

/** A change to a map: whole, or per top-level key. A null value removes its key. */
export interface MapPatch {
  readonly replace: boolean;
  /** Without replace: keys outside this set are removed first. */
  readonly keep?: ReadonlySet<string>;
  readonly entries: JsonObject;
}

/** What an update asks for. An absent field is unchanged, null clears. */
export interface EntityPatch {
  readonly type?: EntityType;
  readonly countryCode?: string;
  readonly name?: string;
  readonly taxId?: string | null;
  readonly status?: EntityStatus;
  readonly nationality?: string | null;
  readonly riskMatrixId?: string | null;
  /** `kind` is what the caller wrote; null clears all of it. */
  readonly entityData?: (MapPatch & { readonly kind: EntityType }) | null;
  readonly attributes?: MapPatch;
  readonly metadata?: MapPatch;
}

/** A patch that can make an entity. */
export interface NewEntity extends EntityPatch {
  readonly externalId?: string;
}

export const EVENT_TYPES = ["CREATED", "ATTRIBUTE_CHANGED", "EXTERNAL_ID_CHANGED", "DELETED", "UNDELETED"] as const;
export type EventType = (typeof EVENT_TYPES)[number];

/** The name under which consumers know each. */
export const EVENT_NAMES = {
  CREATED: "entity.created",
  ATTRIBUTE_CHANGED: "entity.updated",
  EXTERNAL_ID_CHANGED: "entity.updated",
  DELETED: "entity.deleted",
  UNDELETED: "entity.undeleted",
} as const satisfies Record<EventType, string>;

/** The outcome of a rule: the values after, and what the event says beside them. */
export interface Change {
  readonly values: EntityValues;
  readonly type: EventType;
  readonly reason: string;
  /** Overrides the source of the call. */
  readonly source?: string;
  readonly metadata?: JsonObject;
}

const RESTRICTED: readonly EntityStatus[] = ["blocked", "suspended", "rejected"];

// --- Creation and update ------------------------------------------------------------------------

/** Rules 14, 15, 18a, 19, 28: a new entity, with its external id as the primary. */
export function newEntity(input: NewEntity, reason: string, now: Instant): Change {
  const { type, countryCode, name } = input;
  if (type === undefined) throw invalidField("entity.type", "is required: ENTITY_TYPE_PERSON or ENTITY_TYPE_COMPANY");
  if (countryCode === undefined) throw invalidField("entity.country_code", "is required");
  if (name === undefined) throw invalidField("entity.name", "is required");
  const blank: EntityValues = {
    type,
    countryCode,
    name,
    externalIds:
      input.externalId === undefined
        ? []
        : [{ externalId: input.externalId, type: "", primary: true, attachedAt: now }],
    taxId: null,
    taxIdCheck: null,
    status: "pending",
    nationality: null,
    riskMatrixId: null,
    riskScore: null,
    entityData: null,
    attributes: {},
    metadata: {},
    deletedAt: null,
  };
  return { values: applyPatch(blank, input, reason), type: "CREATED", reason };
}

/** Rules 21 to 31, 40 to 43: the values after a patch, or null when it changes none. */
export function update(entity: EntityState, patch: EntityPatch, reason: string): Change | null {
  refuseDeleted(entity);
  refuseImmutable("type", patch.type, entity.type);
  refuseImmutable("countryCode", patch.countryCode, entity.countryCode);
  const values = applyPatch(entity, patch, reason);
  if (changedFields(entity, values).length === 0) return null;
  return { values, type: "ATTRIBUTE_CHANGED", reason };
}

function applyPatch(before: EntityValues, patch: EntityPatch, reason: string): EntityValues {
  const status = nextStatus(before.status, patch.status, reason);
  const taxId = patch.taxId === undefined ? before.taxId : patch.taxId;
  return {
    ...before,
    name: patch.name ?? before.name,
    taxId,
    taxIdCheck: taxId === null ? null : checkTaxId(taxId, before.countryCode, before.type),
    status,
    nationality: nextNationality(before, patch),
    riskMatrixId: patch.riskMatrixId === undefined ? before.riskMatrixId : patch.riskMatrixId,
    entityData: nextEntityData(before, patch.entityData),
    attributes: nextMap("attributes", before.attributes, patch.attributes),
    metadata: nextMap("metadata", before.metadata, patch.metadata),
  };
}

function nextStatus(before: EntityStatus, wanted: EntityStatus | undefined, reason: string): EntityStatus {
  if (wanted === undefined || wanted === before) return before;
  if (wanted === "pending") {
    throw invalidField("entity.status", "PENDING can be given at creation only");
  }
  if (RESTRICTED.includes(wanted) && reason === "") {
    throw new DomainError(
      "STATUS_REASON_REQUIRED",
      `Changing status to '${wanted}' requires a reason for audit purposes.`,
      { field: "reason", status: wanted },
      [{ field: "reason", description: `is required to change the status to ${wanted}` }],
    );
  }
  return wanted;
}

/** Rule 28: the root one wins; a nested one that is a country code recalculates it. */
function nextNationality(before: EntityValues, patch: EntityPatch): string | null {
  if (patch.nationality !== undefined) return patch.nationality;
  if (before.type !== "person" || !patch.entityData || !Object.hasOwn(patch.entityData.entries, "nationality")) {
    return before.nationality;
  }
  const nested = patch.entityData.entries.nationality;
  return (typeof nested === "string" ? parseCountryCode(nested) : null) ?? before.nationality;
}

function nextEntityData(before: EntityValues, patch: EntityPatch["entityData"]): JsonObject | null {
  if (patch === undefined) return before.entityData;
  if (patch === null) return null;
  if (patch.kind !== before.type) {
    throw invalidField(`entity.entity_data.${patch.kind}`, `the entity is a ${before.type}`);
  }
  const after = nextMap(`entity_data.${patch.kind}`, before.entityData ?? {}, patch);
  // Without any key it is unset: clearing what is not there changes nothing (rule 33).
  return Object.keys(after).length === 0 ? null : after;
}

/** Rule 24. The limits hold for what would be stored, which a merge can grow past them. */
function nextMap(field: string, before: JsonObject, patch: MapPatch | undefined): JsonObject {
  if (patch === undefined) return before;
  const kept = Object.entries(before).filter(([key]) => !patch.replace && (patch.keep?.has(key) ?? true));
  const entries = new Map<string, JsonValue>(kept);
  for (const [key, value] of Object.entries(patch.entries)) {
    if (value === null) entries.delete(key);
    else entries.set(key, value);
  }
  // Object.fromEntries makes own properties of any key, __proto__ included.
  const after: JsonObject = Object.fromEntries(entries);
  const problem = structProblem(after);
  if (problem !== null) throw invalidField(`entity.${field}`, `after the merge, ${problem.description}`);
  return after;
}

// --- External ids -------------------------------------------------------------------------------

/** Rules 46 to 53: another primary; the old one is freed or stays as an alias. */
export function changeExternalId(
  entity: EntityState,
  command: { newExternalId: string; reason: string; keepPreviousAsAlias: boolean },
  policy: ExternalIdPolicy,
  now: Instant,
): Change | null {
  refuseDeleted(entity);
  const previous = primaryOf(entity);
  if (previous?.externalId === command.newExternalId) return null;
  if (previous !== undefined && !command.keepPreviousAsAlias && policy === "IMMUTABLE") {
    throw new DomainError(
      "EXTERNAL_ID_IMMUTABLE",
      "External ids of this organization cannot be freed once assigned: keep the previous one as an alias",
      { allowed: "keep_previous_as_alias" },
    );
  }
  const kept = command.keepPreviousAsAlias ? entity.externalIds : entity.externalIds.filter((id) => id !== previous);
  return {
    values: {
      ...entity,
      externalIds: attach(
        kept,
        [{ externalId: command.newExternalId, type: "", primary: true }],
        now,
        "new_external_id",
      ),
    },
    type: "EXTERNAL_ID_CHANGED",
    reason: command.reason,
    source: "change_external_id_endpoint",
    metadata: {
      externalIdChangeReason: command.reason,
      source: "change_external_id_endpoint",
      // Counted where there is a previous one to rewrite.
      rewrittenRows: { transactions: 0, userEvents: 0 },
    },
  };
}

/** Rule 54: the first external id of an entity that has none. */
export function assignExternalId(
  entity: EntityState,
  command: { externalId: string; reason: string },
  now: Instant,
): Change | null {
  refuseDeleted(entity);
  const current = primaryOf(entity);
  if (current?.externalId === command.externalId) return null;
  if (current !== undefined) {
    throw new DomainError(
      "EXTERNAL_ID_ALREADY_ASSIGNED",
      "The entity has another external id already: use ChangeExternalId, or AddExternalIds for a further one",
      { allowed: "ChangeExternalId, AddExternalIds" },
    );
  }
  return {
    values: {
      ...entity,
      externalIds: attach([], [{ externalId: command.externalId, type: "", primary: true }], now, "external_id"),
    },
    type: "EXTERNAL_ID_CHANGED",
    reason: command.reason,
  };
}

/** Rules 55 to 59: attaches ids, removes none, may move the primary. */
export function addExternalIds(
  entity: EntityState,
  command: { externalIds: readonly { externalId: string; type: string; primary: boolean }[]; reason: string },
  now: Instant,
): Change | null {
  refuseDeleted(entity);
  const designated = command.externalIds.some((item) => item.primary) || entity.externalIds.length > 0;
  const items = command.externalIds.map((item, i) => (designated || i > 0 ? item : { ...item, primary: true }));
  const externalIds = attach(entity.externalIds, items, now, "external_ids");
  const values = { ...entity, externalIds };
  if (changedFields(entity, values).length === 0) return null;
  return { values, type: "EXTERNAL_ID_CHANGED", reason: command.reason };
}

export function primaryOf(entity: Pick<EntityValues, "externalIds">): ExternalIdState | undefined {
  return entity.externalIds.find((id) => id.primary);
}

/** The primary first, then by time attached. */
export function orderExternalIds(externalIds: readonly ExternalIdState[]): ExternalIdState[] {
  return externalIds.toSorted(
    (a, b) =>
      Number(b.primary) - Number(a.primary) ||
      (a.attachedAt < b.attachedAt ? -1 : a.attachedAt > b.attachedAt ? 1 : 0) ||
      (a.externalId < b.externalId ? -1 : 1),
  );
}

function attach(
  attached: readonly ExternalIdState[],
  items: readonly { externalId: string; type: string; primary: boolean }[],
  now: Instant,
  field: string,
): ExternalIdState[] {
  const newPrimary = items.find((item) => item.primary)?.externalId;
  const byValue = new Map<string, ExternalIdState>(attached.map((id) => [id.externalId, id]));
  for (const { externalId, type } of items) {
    const own = byValue.get(externalId);
    byValue.set(externalId, {
      externalId,
      type: type === "" ? (own?.type ?? "") : type,
      primary: own?.primary ?? false,
      attachedAt: own?.attachedAt ?? now,
    });
  }
  if (byValue.size > LIMITS.externalIdsPerEntity) {
    throw invalidField(field, `an entity has at most ${LIMITS.externalIdsPerEntity} external ids`, {
      limit: String(LIMITS.externalIdsPerEntity),
    });
  }
  const all = [...byValue.values()];
  return orderExternalIds(
    newPrimary === undefined ? all : all.map((id) => ({ ...id, primary: id.externalId === newPrimary })),
  );
}

// --- Deletion -----------------------------------------------------------------------------------

/** Rule 77: soft. Deleting a deleted entity changes nothing. */
export function remove(entity: EntityState, reason: string, now: Instant): Change | null {
  if (entity.deletedAt !== null) return null;
  return { values: { ...entity, deletedAt: now }, type: "DELETED", reason };
}

/** Rule 77: back as it was. Undeleting a live entity changes nothing. */
export function undelete(entity: EntityState, reason: string): Change | null {
  if (entity.deletedAt === null) return null;
  return { values: { ...entity, deletedAt: null }, type: "UNDELETED", reason };
}

function refuseDeleted(entity: EntityState): void {
  if (entity.deletedAt === null) return;
  throw new DomainError("ENTITY_DELETED", "The entity is deleted: UndeleteEntity brings it back", {
    entity_id: entity.id,
    allowed: "UndeleteEntity",
  });
}

function refuseImmutable(name: "type" | "countryCode", wanted: string | undefined, current: string): void {
  if (wanted === undefined || wanted === current) return;
  const field = name === "type" ? "entity.type" : "entity.country_code";
  throw new DomainError("IMMUTABLE_FIELD", `Field '${name}' cannot be changed after entity creation`, { field }, [
    { field, description: "cannot be changed after entity creation" },
  ]);
}

// --- What a change tells ------------------------------------------------------------------------

/** The fields of an event, in the order of the contract. */
const FIELDS = [
  "type",
  "countryCode",
  "externalId",
  "externalIds",
  "name",
  "taxId",
  "taxIdCheck",
  "status",
  "nationality",
  "riskMatrixId",
  "riskScore",
  "entityData",
  "attributes",
  "metadata",
  "deletedAt",
] as const;
export type FieldName = (typeof FIELDS)[number];

/** The value of a field as events show it, undefined where it is unset. */
function fieldValue(values: EntityValues, field: FieldName): JsonValue | undefined {
  switch (field) {
    case "externalId":
      return primaryOf(values)?.externalId;
    case "externalIds":
      return values.externalIds.length === 0 ? undefined : values.externalIds.map(externalIdValue);
    case "entityData":
      return values.entityData === null ? undefined : { [values.type]: values.entityData };
    case "attributes":
    case "metadata":
      return Object.keys(values[field]).length === 0 ? undefined : values[field];
    case "deletedAt":
      return values.deletedAt === null ? undefined : instantToText(values.deletedAt);
    default:
      return values[field] ?? undefined;
  }
}

function externalIdValue(id: ExternalIdState): JsonObject {
  return {
    externalId: id.externalId,
    ...(id.type === "" ? {} : { type: id.type }),
    ...(id.primary ? { designation: "primary" } : {}),
    attachedAt: instantToText(id.attachedAt),
  };
}

/** Rule 61: the top-level fields whose values differ; all that have a value when there was nothing before. */
export function changedFields(before: EntityValues | null, after: EntityValues): FieldName[] {
  return FIELDS.filter((field) => {
    if (before === null) return fieldValue(after, field) !== undefined;
    const source = field === "externalId" ? "externalIds" : field;
    // Rules keep what they do not change.
    if (before[source] === after[source]) return false;
    const [old, now] = [fieldValue(before, field), fieldValue(after, field)];
    return old === undefined || now === undefined ? old !== now : !sameJson(old, now);
  });
}

/** Rule 60: the values of the fields before (absent where unset) and after (null where cleared). */
export function changedValues(
  before: EntityValues | null,
  after: EntityValues,
  fields: readonly FieldName[],
): { previousValues: JsonObject; newValues: JsonObject } {
  const previousValues: JsonObject = {};
  const newValues: JsonObject = {};
  for (const field of fields) {
    const old = before === null ? undefined : fieldValue(before, field);
    if (old !== undefined) previousValues[field] = old;
    newValues[field] = fieldValue(after, field) ?? null;
  }
  return { previousValues, newValues };
}

/** The match key of the entity's tax id; null when it has none. */
export function taxIdKeyOf(entity: Pick<EntityValues, "taxId">): string | null {
  return entity.taxId === null ? null : taxIdKey(entity.taxId);
}
