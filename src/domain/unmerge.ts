// The rules of undoing a merge, whatever has happened since (rules 103 to 109).

import { refuseDeleted } from "./entity.ts";
import type { Change, EntityState, ExternalIdState, Layer } from "./entity-state.ts";
import { attachedAnew, designate, orderExternalIds } from "./external-ids.ts";
import type { JsonObject, JsonValue } from "./json.ts";
import { type Contribution, differences, heldAt, moreSevere, survive, withLayered } from "./layer.ts";
import type { ActivityRows } from "./merge.ts";
import type { Instant } from "./time.ts";

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
