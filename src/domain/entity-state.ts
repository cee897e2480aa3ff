// What an entity is: its values, its state as stored, and what a rule says of a change to it.

import type { JsonObject } from "./json.ts";
import { canonicalTaxId, type TaxIdCheck, taxIdKey } from "./tax-id.ts";
import type { Instant } from "./time.ts";

export type EntityType = "person" | "company";
export type EntityStatus = "pending" | "under_review" | "active" | "inactive" | "suspended" | "blocked" | "rejected";

/** An attached external id. `type` is the caller's label, "" for none. */
export interface ExternalIdState {
  readonly externalId: string;
  readonly type: string;
  readonly primary: boolean;
  readonly attachedAt: Instant;
  /** Of an alias: since when its lookups are recorded. Null for a primary. No event tells of this or the next. */
  readonly trackedSince: Instant | null;
  /** The UTC date of the last of them, YYYY-MM-DD; null before the first. */
  readonly lastResolvedOn: string | null;
  /** The merged entity that brought it; null for one of the entity's own. */
  readonly homeId: string | null;
}

/** Why an external id has left its entity. */
export type DetachCause = "CHANGED" | "RELEASED" | "MERGED" | "UNMERGED" | "MOVED";

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
  /** The entity that it was merged into, which may have been merged itself. */
  readonly mergedInto: string | null;
}

/** The values that a merge brings together. */
export type LayeredValues = Pick<
  EntityValues,
  | ("name" | "taxId" | "status" | "nationality" | "riskMatrixId" | "riskScore")
  | ("entityData" | "attributes" | "metadata")
>;

/** By path (`name`, `attributes.K`): how many merges had been made when it was last edited by hand. */
export type Held = Readonly<Record<string, number>>;

/** What a survivor has by itself (layer.ts). Plain JSON: it is stored as it is. */
export interface Layer {
  readonly own: LayeredValues;
  readonly held: Held;
  /** The ordinal of the last merge. */
  readonly merges: number;
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

export function primaryOf(entity: Pick<EntityValues, "externalIds">): ExternalIdState | undefined {
  return entity.externalIds.find((id) => id.primary);
}

/** The match key of the entity's tax id; null when it has none. */
export function taxIdKeyOf(entity: Pick<EntityValues, "taxId">): string | null {
  return entity.taxId === null ? null : taxIdKey(entity.taxId);
}

/** The key's canonical form by the country of the entity, where that is another text; else null. */
export function taxIdCanonicalOf(entity: Pick<EntityValues, "taxId" | "countryCode">): string | null {
  const key = taxIdKeyOf(entity);
  const form = key === null ? null : canonicalTaxId(key, entity.countryCode);
  return form === key ? null : form;
}

/** Whether a lookup by the tax id of this key could name the entity: by its key, or by the canonical form of its country. */
export function hasTaxId(entity: Pick<EntityValues, "taxId" | "countryCode">, key: string): boolean {
  const own = taxIdKeyOf(entity);
  if (own === null || own === key) return own === key;
  const form = canonicalTaxId(key, entity.countryCode);
  return form !== null && form === canonicalTaxId(own, entity.countryCode);
}

export const EVENT_TYPES = [
  "CREATED",
  "ATTRIBUTE_CHANGED",
  "EXTERNAL_ID_CHANGED",
  "DELETED",
  "UNDELETED",
  "MERGED",
  "MERGE_RECEIVED",
  "UNMERGED",
  "MERGE_RETURNED",
  "DISTINCT_MARKED",
  "DISTINCT_LIFTED",
  "EVALUATED",
] as const;
export type EventType = (typeof EVENT_TYPES)[number];

/** The name under which consumers know each. */
export const EVENT_NAMES = {
  CREATED: "entity.created",
  ATTRIBUTE_CHANGED: "entity.updated",
  EXTERNAL_ID_CHANGED: "entity.updated",
  DELETED: "entity.deleted",
  UNDELETED: "entity.undeleted",
  MERGED: "entity.merged",
  MERGE_RECEIVED: "entity.updated",
  UNMERGED: "entity.unmerged",
  MERGE_RETURNED: "entity.updated",
  DISTINCT_MARKED: "entity.distinct_marked",
  DISTINCT_LIFTED: "entity.distinct_lifted",
  EVALUATED: "entity.evaluated",
} as const satisfies Record<EventType, string>;

/** The outcome of a rule: the values after, and what the event says beside them. */
export interface Change {
  readonly values: EntityValues;
  readonly type: EventType;
  readonly reason: string;
  /** Overrides the source of the call. */
  readonly source?: string;
  readonly metadata?: JsonObject;
  /** Why external ids leave with it. By default MOVED for one that the same command attaches to another entity, else CHANGED. */
  readonly detaches?: DetachCause;
  /**
   * The primary external id that copies in activity rows of the entity have until now, to be replaced by that after the
   * change; null leaves them alone. By default the primary before the change.
   */
  readonly copied?: string | null;
  /** A survivor's layer after the change, null for none. By default the layer before it, with the change carried into it. */
  readonly layer?: Layer | null;
}
