// The rules of merging one entity into another and of undoing that (rules 86 to 110). Activity is no part of them: it stays
// with the entity that it was recorded for.

import { refuseDeleted } from "./entity.ts";
import type { Change, EntityState, EntityValues, ExternalIdState } from "./entity-state.ts";
import { mergeNotAllowed } from "./errors.ts";
import { designate, orderExternalIds } from "./external-ids.ts";
import type { JsonObject, JsonValue } from "./json.ts";
import {
  type Contribution,
  differences,
  heldAt,
  type Layer,
  layeredOf,
  moreSevere,
  survive,
  withLayered,
} from "./layer.ts";
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

const attachedAnew = (
  { externalId, type }: ExternalIdState,
  primary: boolean,
  now: Instant,
  homeId: string | null,
): ExternalIdState => ({
  ...{ externalId, type, primary, attachedAt: now, homeId },
  trackedSince: primary ? null : now,
  lastResolvedOn: null,
});

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

// --- Unmerging ----------------------------------------------------------------------------------

/** A merge as it is remembered. */
export interface MergeRecord {
  readonly id: string;
  readonly primaryId: string;
  readonly secondaryId: string;
  readonly ordinal: number;
  /** Those of the secondary when it was merged. */
  readonly externalIds: readonly ExternalIdState[];
  /** The primary one of the primary then. */
  readonly primaryExternalId: string | null;
  readonly isUndone: boolean;
}

/** What undoing a merge depends on beside the two entities, read under their locks. */
export interface UnmergeFacts {
  readonly merge: MergeRecord;
  readonly layer: Layer;
  /** What the other entities that are merged into the survivor add, in the order of the merges. */
  readonly remaining: readonly Contribution[];
  /** Those that were merged into the secondary, directly or not. */
  readonly members: ReadonlySet<string>;
  /** The activity that leaves the survivor. */
  readonly rows: ActivityRows;
  /** External ids of the secondary that another entity has now. */
  readonly taken: ReadonlySet<string>;
}

export interface UnmergeCommand {
  readonly reason: string;
  /** The id of the mark as distinct that is made with it. */
  readonly distinctId: string | undefined;
}

/** A path that was edited while the two were one, and that the secondary has too. */
export interface KeptValue {
  readonly path: string;
  readonly survivor: JsonValue;
  readonly secondary: JsonValue;
}

export interface LostExternalId {
  readonly externalId: string;
  readonly why: "RELEASED" | "TAKEN";
}

export interface Unmerged {
  readonly changes: readonly [Change, Change];
  readonly kept: readonly KeptValue[];
  readonly returned: readonly string[];
  readonly lost: readonly LostExternalId[];
  /** What the secondary has from the survivor: the path "status" or none. */
  readonly carried: readonly string[];
}

const DECIDED = ["blocked", "rejected", "suspended"];

/** Rules 103 to 109: the changes of the survivor and of the secondary. */
export function unmerge(
  survivor: EntityState,
  secondary: EntityState,
  command: UnmergeCommand,
  facts: UnmergeFacts,
  now: Instant,
): Unmerged {
  const { merge: made, layer, remaining, members } = facts;
  refuseDeleted(survivor);
  const isTheirs = ({ homeId }: ExternalIdState) => homeId === secondary.id || (homeId !== null && members.has(homeId));
  const leaving = survivor.externalIds.filter(isTheirs);
  const left = withLayered(survivor, survive(layer.own, layer.held, remaining));
  const isDecided = DECIDED.includes(survivor.status) && heldAt(layer.held, "status") >= made.ordinal;
  const status = isDecided ? moreSevere(secondary.status, survivor.status) : secondary.status;

  const metadata: JsonObject = {
    ...{ mergeId: made.id, primaryId: survivor.id, secondaryId: secondary.id, rows: { ...facts.rows } },
    ...(command.distinctId === undefined ? {} : { distinctId: command.distinctId }),
  };
  const told = { reason: command.reason, metadata };
  const returned = restored(leaving, made, secondary.id, now);
  return {
    changes: [
      {
        ...told,
        values: { ...left, externalIds: withPrimary(survivor, isTheirs, made.primaryExternalId, now) },
        type: "MERGE_RETURNED",
        detaches: "UNMERGED",
        layer: remaining.length === 0 ? null : layer,
      },
      {
        ...told,
        values: { ...secondary, status, externalIds: returned, mergedInto: null },
        type: "UNMERGED",
        copied: made.externalIds.find((id) => id.primary)?.externalId ?? null,
      },
    ],
    kept: keptOf(survivor, secondary, facts),
    returned: returned.map(({ externalId }) => externalId),
    lost: lostOf(made, returned, facts.taken),
    carried: status === secondary.status ? [] : ["status"],
  };
}

/** Rule 106: the ids of the secondary, with the primary that it had, else the oldest. */
function restored(
  leaving: readonly ExternalIdState[],
  { externalIds: had }: MergeRecord,
  secondaryId: string,
  now: Instant,
): ExternalIdState[] {
  const old = new Map(had.map((id, i) => [id.externalId, { id, rank: i }]));
  const rank = ({ externalId }: ExternalIdState) => old.get(externalId)?.rank ?? had.length;
  const [first, ...others] = leaving.toSorted((a, b) => rank(a) - rank(b));
  if (first === undefined) return [];
  const primary = leaving.find(({ externalId }) => old.get(externalId)?.id.primary) ?? first;
  return orderExternalIds(
    [first, ...others].map((id) => attachedAnew(id, id === primary, now, id.homeId === secondaryId ? null : id.homeId)),
  );
}

/** What stays with the survivor; another primary where the present one goes. */
function withPrimary(
  { externalIds }: EntityState,
  isTheirs: (id: ExternalIdState) => boolean,
  previous: string | null,
  now: Instant,
): readonly ExternalIdState[] {
  const staying = externalIds.filter((id) => !isTheirs(id));
  if (staying.length === externalIds.length) return externalIds;
  if (staying.length === 0 || staying.some(({ primary }) => primary)) return staying;
  const byAge = orderExternalIds(staying);
  const next =
    staying.find(({ externalId }) => externalId === previous) ??
    byAge.find(({ homeId }) => homeId === null) ??
    byAge[0];
  return orderExternalIds(staying.map((id) => designate(id, id === next, now)));
}

function lostOf(
  { externalIds }: MergeRecord,
  returned: readonly ExternalIdState[],
  taken: ReadonlySet<string>,
): LostExternalId[] {
  const back = new Set(returned.map(({ externalId }) => externalId));
  return externalIds
    .filter(({ externalId }) => !back.has(externalId))
    .map(({ externalId }) => ({ externalId, why: taken.has(externalId) ? "TAKEN" : "RELEASED" }));
}

/** Rule 108: what was edited since the merge stays with the survivor, also where the secondary has a value of its own. */
function keptOf(survivor: EntityState, secondary: EntityState, { layer, merge: made }: UnmergeFacts): KeptValue[] {
  return differences(secondary, survivor).flatMap(({ path, before, after }) =>
    before !== undefined && after !== undefined && heldAt(layer.held, path) >= made.ordinal
      ? [{ path, survivor: after, secondary: before }]
      : [],
  );
}
