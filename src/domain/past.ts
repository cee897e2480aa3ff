// Entities as they were: what they are, with later changes taken back. Only the events after that moment are needed, so the
// past is there as far back as the log is, without the creation.

import { withShown } from "./changed-fields.ts";
import type { EntityState } from "./entity-state.ts";
import type { JsonObject } from "./json.ts";
import type { Instant } from "./time.ts";

/** An entity as it was. Where no event tells them, `etag` is empty and `updatedAt` null. */
export type PastEntity = Omit<EntityState, "updatedAt"> & { readonly updatedAt: Instant | null };

/** The entity as events tell it: how its external ids are used they do not, so that nobody can know how that was. */
export const asKnown = (entity: EntityState): PastEntity => ({
  ...entity,
  externalIds: entity.externalIds.map((id) => ({ ...id, trackedSince: null, lastResolvedOn: null })),
});

/** What a change is taken back by. */
export interface PastEvent {
  readonly id: string;
  readonly entityId: string;
  /** The version that it made. */
  readonly entityVersion: number;
  readonly recordedAt: Instant;
  readonly updatedFields: readonly string[];
  /** The values of these fields before, absent where they were unset. */
  readonly previousValues: JsonObject;
  /** Null in events from before they were sealed, when their ids were no etags. */
  readonly hash: Uint8Array | null;
}

/**
 * Rule 116: a page of entities, by id, without those of their events that are later than the moment asked for; null where
 * even the creation is later. The events of an entity are newest first, from that of its version on, without a gap; those
 * of different entities in any order. They may come in parts: what is returned goes in again with the next. Of the events
 * that are not later only the first of an entity counts: it tells etag and time of the version.
 */
export function undo<Event extends PastEvent>(
  entities: ReadonlyMap<string, PastEntity | null>,
  events: Iterable<Event>,
  isLater: (event: Event) => boolean,
): Map<string, PastEntity | null> {
  const past = new Map(entities);
  for (const event of events) {
    const entity = past.get(event.entityId);
    if (entity === undefined) throw new Error("an event of an entity that is not in the page");
    if (!isLater(event)) {
      if (entity?.version === event.entityVersion) past.set(entity.id, madeBy(entity, event));
    } else {
      if (entity?.version !== event.entityVersion) throw new Error("the log has a gap, or is not in order");
      past.set(entity.id, before(entity, event));
    }
  }
  return past;
}

/** The entity before the change; null where that is its creation. */
function before(entity: PastEntity, event: PastEvent): PastEntity | null {
  if (event.entityVersion === 1) return null;
  const values = withShown(entity, event.updatedFields, event.previousValues);
  return { ...entity, ...values, version: event.entityVersion - 1, etag: "", updatedAt: null };
}

/** A version that was not taken back to knows more than its event tells: the etag that it has. */
function madeBy(entity: PastEntity, { id, hash, recordedAt }: PastEvent): PastEntity {
  return entity.updatedAt === null ? { ...entity, etag: hash === null ? "" : id, updatedAt: recordedAt } : entity;
}
