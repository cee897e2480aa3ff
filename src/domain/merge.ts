// The rules of merging one entity into another (rules 86 to 93). Activity is no part of them: it stays
// with the entity that it was recorded for.

import { refuseDeleted } from "./entity.ts";
import type { Change, EntityState, EntityValues, ExternalIdState, Layer } from "./entity-state.ts";
import { mergeNotAllowed } from "./errors.ts";
import { attachedAnew, orderExternalIds } from "./external-ids.ts";
import type { JsonValue } from "./json.ts";
import { differences, layeredOf, survive, withLayered } from "./layer.ts";
import { LIMITS } from "./limits.ts";
import { structProblem } from "./text.ts";
import type { Instant } from "./time.ts";

/** Rows of activity, by table. */
export interface ActivityRows {
  readonly transactions: number;
  readonly userEvents: number;
}

// --- Merging ------------------------------------------------------------------------------------

/** What a merge depends on beside the two entities, read under their locks. */
export interface MergeFacts {
  /** The merges into the primary that there ever were. */
  readonly lastOrdinal: number;
  readonly primaryLayer: Layer | undefined;
  /** How many entities are merged into each. */
  readonly primaryMembers: number;
  readonly secondaryMembers: number;
  /** A mark of two entities as distinct, one of each group. */
  readonly distinctId: string | undefined;
  /** The activity that comes to the primary. */
  readonly rows: ActivityRows;
}

export interface MergeCommand {
  readonly mergeId: string;
  readonly reason: string;
  /** The entity that the lookup of the secondary named, where that has been merged. */
  readonly secondaryRedirectedFrom: string;
}

/** A path where both entities had a value, and these differ. */
export interface Conflict {
  readonly path: string;
  readonly primary: JsonValue;
  readonly secondary: JsonValue;
  readonly kept: "PRIMARY" | "SECONDARY" | "BOTH";
}

/** Rules 86 to 93: the changes of the primary and of the secondary. */
export function merge(
  primary: EntityState,
  secondary: EntityState,
  command: MergeCommand,
  facts: MergeFacts,
  now: Instant,
): readonly [Change, Change] {
  refuseMerge(primary, secondary, command, facts);
  const layered = survive(layeredOf(primary), {}, [{ ordinal: 1, values: secondary }]);
  const values: EntityValues = {
    ...withLayered(primary, layered),
    externalIds: [...primary.externalIds, ...carried(primary, secondary, now)],
  };
  refuseOverLimits(values);
  const ordinal = facts.lastOrdinal + 1;
  const layer: Layer = {
    own: facts.primaryLayer?.own ?? layeredOf(primary),
    held: facts.primaryLayer?.held ?? {},
    merges: ordinal,
  };
  const told = {
    reason: command.reason,
    metadata: { mergeId: command.mergeId, primaryId: primary.id, secondaryId: secondary.id, rows: { ...facts.rows } },
  };
  return [
    {
      ...told,
      values: { ...values, externalIds: orderExternalIds(values.externalIds) },
      type: "MERGE_RECEIVED",
      layer,
    },
    {
      ...told,
      values: { ...secondary, externalIds: [], mergedInto: primary.id },
      type: "MERGED",
      detaches: "MERGED",
      // The rows stay with the secondary, and show their copies again when the merge is undone.
      copied: null,
    },
  ];
}

function refuseMerge(
  primary: EntityState,
  secondary: EntityState,
  { secondaryRedirectedFrom }: MergeCommand,
  { primaryMembers, secondaryMembers, distinctId }: MergeFacts,
): void {
  if (primary.id === secondary.id) throw mergeNotAllowed("SAME_ENTITY", { entity_id: primary.id });
  if (secondaryRedirectedFrom !== "") throw mergeNotAllowed("SECONDARY_REDIRECTED", { entity_id: secondary.id });
  refuseDeleted(primary, "primary");
  refuseDeleted(secondary, "secondary");
  if (primary.type !== secondary.type) throw mergeNotAllowed("TYPE_DIFFERS", { entity_id: secondary.id });
  if (distinctId !== undefined) throw mergeNotAllowed("DISTINCT", { entity_id: secondary.id, distinct_id: distinctId });
  if (primaryMembers + secondaryMembers + 1 > LIMITS.mergedEntities) {
    throw overLimit("merged_entities", LIMITS.mergedEntities);
  }
}

const overLimit = (field: string, limit: number) => mergeNotAllowed("LIMIT", { field, limit: String(limit) });

/** Rule 88. */
function refuseOverLimits(values: EntityValues): void {
  if (values.externalIds.length > LIMITS.externalIdsPerEntity) {
    throw overLimit("external_ids", LIMITS.externalIdsPerEntity);
  }
  const names = values.entityData?.tradingNames;
  if (values.type === "company" && Array.isArray(names) && names.length > LIMITS.tradingNames) {
    throw overLimit("entity_data.company.trading_names", LIMITS.tradingNames);
  }
  for (const [field, map] of [
    ["entity_data", values.entityData ?? {}],
    ["attributes", values.attributes],
    ["metadata", values.metadata],
  ] as const) {
    if (Object.keys(map).length > LIMITS.structKeys) throw overLimit(field, LIMITS.structKeys);
    if (structProblem(map) !== null) throw overLimit(field, LIMITS.structBytes);
  }
}

/** The external ids of the secondary as the primary gets them; the first to come is its primary one where it has none. */
function carried(primary: EntityState, secondary: EntityState, now: Instant): ExternalIdState[] {
  const isFirst = primary.externalIds.length === 0;
  return secondary.externalIds.map((id) => attachedAnew(id, isFirst && id.primary, now, id.homeId ?? secondary.id));
}

/** Rule 90. */
export function conflictsOf(primary: EntityState, secondary: EntityState, after: EntityValues): Conflict[] {
  const country: Conflict[] =
    primary.countryCode === secondary.countryCode
      ? []
      : [{ path: "countryCode", primary: primary.countryCode, secondary: secondary.countryCode, kept: "PRIMARY" }];
  const [fromPrimary, fromSecondary] = [primary, secondary].map(
    (values) => new Set(differences(values, after).map(({ path }) => path)),
  ) as [Set<string>, Set<string>];
  return [
    ...country,
    ...differences(primary, secondary).flatMap(({ path, before, after: other }): Conflict[] => {
      if (before === undefined || other === undefined) return [];
      const kept = !fromPrimary.has(path) ? "PRIMARY" : !fromSecondary.has(path) ? "SECONDARY" : "BOTH";
      return [{ path, primary: before, secondary: other, kept }];
    }),
  ];
}
