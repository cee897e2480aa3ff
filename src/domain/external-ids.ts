// The rules that change the external ids of an entity. The database enforces that no two entities share one.

import { changedFields } from "./changed-fields.ts";
import { refuseDeleted } from "./entity.ts";
import { type Change, type EntityState, type ExternalIdState, primaryOf } from "./entity-state.ts";
import { DomainError, invalidField, notFound } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import { DAY, endOfDate, type Instant, instantToText } from "./time.ts";

export type ExternalIdPolicy = "MUTABLE_WITH_REASON" | "IMMUTABLE";

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

/** An external id to attach, or with another label or rank. */
interface AddedExternalId {
  externalId: string;
  type: string;
  primary: boolean;
}

/** Rule 154: what `change` makes of the entity, or of nothing, with external ids attached too: one change. */
export function withExternalIds(
  entity: EntityState | null,
  change: Change | null,
  command: { externalIds: readonly AddedExternalId[]; reason: string },
  now: Instant,
): Change | null {
  if (command.externalIds.length === 0) return change;
  const before = change?.values ?? entity;
  if (before === null) throw new Error("external ids are attached to no entity");
  const values = { ...before, externalIds: attach(before.externalIds, command.externalIds, now, "external_ids") };
  if (change !== null) return { ...change, values };
  if (changedFields(before, values).length === 0) return null;
  return { values, type: "EXTERNAL_ID_CHANGED", reason: command.reason };
}

/** Rules 55 to 59: attaches ids, removes none, may move the primary. */
export function addExternalIds(
  entity: EntityState,
  command: { externalIds: readonly AddedExternalId[]; reason: string },
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

/** Rule 139: detaches an alias, of a deleted entity any external id. */
export function releaseExternalId(
  entity: EntityState,
  command: { externalId: string; reason: string; force: boolean },
  policy: ExternalIdPolicy,
  now: Instant,
): Change {
  const id = entity.externalIds.find(({ externalId }) => externalId === command.externalId);
  if (id === undefined) throw notFound("external_id", "External id");
  const isDeleted = entity.deletedAt !== null;
  if (id.primary && !isDeleted) throw invalidField("external_id", "is the primary one: ChangeExternalId replaces it");
  if (policy === "IMMUTABLE") {
    throw new DomainError(
      "EXTERNAL_ID_IMMUTABLE",
      "External ids of this organization cannot be freed once assigned: its external_id_policy is IMMUTABLE",
      { allowed: "UpdateOrganization" },
    );
  }
  // Nobody writes to a deleted entity: its ids are free for the entity that it was a duplicate of.
  if (!isDeleted && !command.force) refuseInUse(id, now);
  const [next, ...others] = entity.externalIds.filter((other) => other !== id);
  return {
    values: { ...entity, externalIds: next === undefined ? [] : [designate(next, true, now), ...others] },
    type: "EXTERNAL_ID_CHANGED",
    reason: command.reason,
    detaches: "RELEASED",
  };
}

/** One whose tracking nobody knows the beginning of may have been used a moment ago. */
function refuseInUse({ attachedAt, trackedSince, lastResolvedOn }: ExternalIdState, now: Instant): void {
  const resolved = lastResolvedOn === null ? attachedAt : endOfDate(lastResolvedOn);
  const lastUse = [attachedAt, trackedSince ?? now, resolved].reduce((a, b) => (a > b ? a : b));
  if (now - lastUse > BigInt(LIMITS.externalIdInUseDays) * DAY) return;
  throw new DomainError(
    "EXTERNAL_ID_IN_USE",
    `The external id was looked up, or became an alias, within ${LIMITS.externalIdInUseDays} days: force releases it all the same`,
    {
      ...(lastResolvedOn !== null && { last_resolved_on: lastResolvedOn }),
      ...(trackedSince !== null && { tracked_since: instantToText(trackedSince) }),
      allowed: "force",
    },
  );
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

const newAlias = (externalId: string, now: Instant): ExternalIdState => ({
  externalId,
  type: "",
  primary: false,
  attachedAt: now,
  trackedSince: now,
  lastResolvedOn: null,
  homeId: null,
});

/** The same id, attached at this time: to another entity, or to one that had it before. */
export const attachedAnew = (
  { externalId, type }: ExternalIdState,
  primary: boolean,
  now: Instant,
  homeId: string | null,
): ExternalIdState => ({
  ...{ externalId, type, primary, attachedAt: now, homeId },
  trackedSince: primary ? null : now,
  lastResolvedOn: null,
});

/** A primary that becomes an alias is tracked from then on: what is known of its use before is nothing. */
export function designate(id: ExternalIdState, primary: boolean, now: Instant): ExternalIdState {
  return id.primary === primary ? id : { ...id, primary, trackedSince: primary ? null : now, lastResolvedOn: null };
}

function attach(
  attached: readonly ExternalIdState[],
  items: readonly AddedExternalId[],
  now: Instant,
  field: string,
): ExternalIdState[] {
  const newPrimary = items.find((item) => item.primary)?.externalId;
  const byValue = new Map<string, ExternalIdState>(attached.map((id) => [id.externalId, id]));
  for (const { externalId, type } of items) {
    const own = byValue.get(externalId);
    const id = own ?? newAlias(externalId, now);
    byValue.set(externalId, type === "" ? id : { ...id, type });
  }
  if (byValue.size > LIMITS.externalIdsPerEntity) {
    throw invalidField(field, `an entity has at most ${LIMITS.externalIdsPerEntity} external ids`, {
      limit: String(LIMITS.externalIdsPerEntity),
    });
  }
  const all = [...byValue.values()];
  return orderExternalIds(
    newPrimary === undefined ? all : all.map((id) => designate(id, id.externalId === newPrimary, now)),
  );
}
