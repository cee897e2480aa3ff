// The rules that note of two entities that they are different, and lift that (rule 111). The mark is between the entities
// that were named; its events are told of their survivors.

import { refuseDeleted } from "./entity.ts";
import type { Change, EntityState, EventType } from "./entity-state.ts";
import { mergeNotAllowed } from "./errors.ts";

export interface DistinctCommand {
  readonly distinctId: string;
  /** Those that the lookups named, merged or not. */
  readonly firstId: string;
  readonly secondId: string;
  readonly reason: string;
}

/** `isMarked`: whether the two that were named are marked now. No changes where they are as they shall be. */
export function markDistinct(
  entities: readonly [EntityState, EntityState],
  command: DistinctCommand,
  isMarked: boolean,
): readonly (Change | null)[] {
  refusePair(entities);
  return isMarked ? [null, null] : changes(entities, command, "DISTINCT_MARKED");
}

export function liftDistinct(
  entities: readonly [EntityState, EntityState],
  command: DistinctCommand,
  isMarked: boolean,
): readonly (Change | null)[] {
  refusePair(entities);
  return isMarked ? changes(entities, command, "DISTINCT_LIFTED") : [null, null];
}

function refusePair([first, second]: readonly [EntityState, EntityState]): void {
  if (first.id === second.id) throw mergeNotAllowed("SAME_ENTITY", { entity_id: first.id });
  refuseDeleted(first, "first");
  refuseDeleted(second, "second");
}

/** No value of either changes: the events alone say who did it and why. */
const changes = (
  entities: readonly EntityState[],
  { distinctId, firstId, secondId, reason }: DistinctCommand,
  type: EventType,
): Change[] => entities.map((values) => ({ values, type, reason, metadata: { distinctId, firstId, secondId } }));
