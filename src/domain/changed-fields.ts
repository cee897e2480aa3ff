// What a change tells: the fields that differ between two states of an entity, and their values as events show them.

import {
  type EntityStatus,
  type EntityType,
  type EntityValues,
  type ExternalIdState,
  primaryOf,
} from "./entity-state.ts";
import { isObject, type JsonObject, type JsonValue, sameJson } from "./json.ts";
import type { TaxIdCheck } from "./tax-id.ts";
import { instantToText, parseInstant } from "./time.ts";

export type FieldName = keyof EntityValues | "externalId";

// A Record, so that a new value without its entry does not compile: no event would tell of it, and an update of it alone
// would change nothing.
const IN_EVENTS: Record<FieldName, true> = {
  type: true,
  countryCode: true,
  externalId: true,
  externalIds: true,
  name: true,
  taxId: true,
  taxIdCheck: true,
  status: true,
  nationality: true,
  riskMatrixId: true,
  riskScore: true,
  entityData: true,
  attributes: true,
  metadata: true,
  deletedAt: true,
  mergedInto: true,
};
/** The fields of an event, in the order of the contract. */
const FIELDS = Object.keys(IN_EVENTS) as FieldName[];

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
    ...(id.homeId === null ? {} : { homeId: id.homeId }),
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

/** The inverse of fieldValue. */
const FROM_EVENTS: Record<FieldName, (shown: JsonValue | undefined, values: EntityValues) => Partial<EntityValues>> = {
  type: (shown) => ({ type: textOf(shown) as EntityType }),
  countryCode: (shown) => ({ countryCode: textOf(shown) }),
  // One of externalIds, which is beside it in every event.
  externalId: () => ({}),
  externalIds: (shown) => ({ externalIds: listOf(shown).map(externalIdOf) }),
  name: (shown) => ({ name: textOf(shown) }),
  taxId: (shown) => ({ taxId: optionalTextOf(shown) }),
  taxIdCheck: (shown) => ({ taxIdCheck: optionalTextOf(shown) as TaxIdCheck | null }),
  status: (shown) => ({ status: textOf(shown) as EntityStatus }),
  nationality: (shown) => ({ nationality: optionalTextOf(shown) }),
  riskMatrixId: (shown) => ({ riskMatrixId: optionalTextOf(shown) }),
  riskScore: (shown) => ({ riskScore: optionalTextOf(shown) }),
  entityData: (shown, { type }) => ({ entityData: shown === undefined ? null : objectOf(objectOf(shown)[type]) }),
  attributes: (shown) => ({ attributes: objectOf(shown ?? {}) }),
  metadata: (shown) => ({ metadata: objectOf(shown ?? {}) }),
  mergedInto: (shown) => ({ mergedInto: optionalTextOf(shown) }),
  deletedAt: (shown) => ({ deletedAt: shown === undefined ? null : parseInstant(textOf(shown)) }),
};

/**
 * The values with these fields as an event shows them, exactly: one that `shown` lacks, or has as null, is unset. Throws for
 * what no event of this version shows: nothing is passed over.
 */
export function withShown(values: EntityValues, fields: readonly string[], shown: JsonObject): EntityValues {
  const after = { ...values };
  for (const field of fields) {
    if (!Object.hasOwn(FROM_EVENTS, field)) throw new Error("an event tells of a field that is not known here");
    const value = Object.hasOwn(shown, field) ? (shown[field] ?? undefined) : undefined;
    Object.assign(after, FROM_EVENTS[field as FieldName](value, after));
  }
  return after;
}

function externalIdOf(shown: JsonValue): ExternalIdState {
  const { externalId, type = "", designation, attachedAt, homeId } = objectOf(shown);
  return {
    externalId: textOf(externalId),
    type: textOf(type),
    primary: designation === "primary",
    attachedAt: parseInstant(textOf(attachedAt)),
    // No event tells of them.
    trackedSince: null,
    lastResolvedOn: null,
    homeId: optionalTextOf(homeId),
  };
}

const listOf = (shown: JsonValue | undefined): JsonValue[] => {
  if (shown !== undefined && !Array.isArray(shown)) throw unreadable();
  return shown ?? [];
};

const objectOf = (shown: JsonValue | undefined): JsonObject => {
  if (!isObject(shown)) throw unreadable();
  return shown;
};

const textOf = (shown: JsonValue | undefined): string => {
  if (typeof shown !== "string") throw unreadable();
  return shown;
};

const optionalTextOf = (shown: JsonValue | undefined): string | null => (shown === undefined ? null : textOf(shown));

const unreadable = () => new Error("an event shows a field in another form than events do");
