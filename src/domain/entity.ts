// The rules that create, update, delete and undelete an entity. A rule takes plain data and returns the values after, or
// null when nothing changes, or throws a DomainError. What is written and told of a change is derived from the state before
// and after it (changed-fields.ts), never stated twice.

import { changedFields } from "./changed-fields.ts";
import { parseCountryCode } from "./country.ts";
import type { Change, EntityState, EntityStatus, EntityType, EntityValues } from "./entity-state.ts";
import { DomainError, invalidField, mergeNotAllowed } from "./errors.ts";
import type { JsonObject, JsonValue } from "./json.ts";
import { checkTaxId, nextTaxIdCheck } from "./tax-id.ts";
import { structProblem } from "./text.ts";
import type { Instant } from "./time.ts";

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
        : [
            {
              externalId: input.externalId,
              type: "",
              primary: true,
              attachedAt: now,
              trackedSince: null,
              lastResolvedOn: null,
              homeId: null,
            },
          ],
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
    mergedInto: null,
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

/** Rule 157: the check of the tax id as the validators have it now; null where that is no other, or nobody may write it. */
export function recheckTaxId(entity: EntityState): Change | null {
  const { taxId, countryCode, type } = entity;
  if (taxId === null || entity.deletedAt !== null || entity.mergedInto !== null) return null;
  const taxIdCheck = checkTaxId(taxId, countryCode, type);
  if (taxIdCheck === entity.taxIdCheck) return null;
  const source = "tax_ids_recheck";
  return { values: { ...entity, taxIdCheck }, type: "ATTRIBUTE_CHANGED", reason: "", source };
}

function applyPatch(before: EntityValues, patch: EntityPatch, reason: string): EntityValues {
  const status = nextStatus(before.status, patch.status, reason);
  const taxId = patch.taxId === undefined ? before.taxId : patch.taxId;
  return {
    ...before,
    name: patch.name ?? before.name,
    taxId,
    taxIdCheck: nextTaxIdCheck(before, taxId),
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

// --- Deletion -----------------------------------------------------------------------------------

/**
 * Rule 77: soft. Deleting a deleted entity changes nothing. Rule 82: a lookup of a merged entity names no entity to delete,
 * since who wants the duplicate to go must not lose the customer.
 */
export function remove(entity: EntityState, reason: string, now: Instant, redirectedFrom = ""): Change | null {
  if (redirectedFrom !== "") throw mergeNotAllowed("REDIRECTED", { entity_id: entity.id });
  if (entity.deletedAt !== null) return null;
  return { values: { ...entity, deletedAt: now }, type: "DELETED", reason };
}

/** Rule 77: back as it was. Undeleting a live entity changes nothing. */
export function undelete(entity: EntityState, reason: string): Change | null {
  if (entity.deletedAt === null) return null;
  return { values: { ...entity, deletedAt: null }, type: "UNDELETED", reason };
}

// --- Refusals ----------------------------------------------------------------------------------

/** `field` names the entity where a request has several. */
export function refuseDeleted(entity: EntityState, field?: string): void {
  if (entity.deletedAt === null) return;
  throw new DomainError("ENTITY_DELETED", "The entity is deleted: UndeleteEntity brings it back", {
    entity_id: entity.id,
    ...(field !== undefined && { field }),
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
