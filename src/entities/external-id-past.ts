// The past of external ids: a row for each time that one has left an entity. The period that goes on is the row of
// external_id, so that to attach one writes nothing here.

import { columnsOf, insertOf, type RowOf } from "../db/columns.ts";
import { ExternalIdPastRow } from "../db/schema.ts";
import type { Pipeline } from "../db/statements.ts";
import type { Move } from "./command.ts";

export type PastExternalId = Omit<RowOf<typeof ExternalIdPastRow>, "organizationId">;

const insertRows = insertOf<PastExternalId>("external_id_past", columnsOf(ExternalIdPastRow));

/** Rule 137: the periods that end with a move, which is one of the `moves` of its command. */
export function endedPeriods(
  { before, after, change }: Move,
  moves: readonly Move[],
  eventId: string,
): PastExternalId[] {
  // Rules keep what they do not change.
  if (change === null || before?.externalIds === after.externalIds) return [];
  const old = new Map(before?.externalIds.map((id) => [id.externalId, id]));
  for (const { externalId, attachedAt } of after.externalIds) {
    const had = old.get(externalId);
    old.delete(externalId);
    // Else the period would overlap with that of the entity before, or begin without an event.
    if (attachedAt !== (had?.attachedAt ?? after.updatedAt)) throw new Error("a rule attached an id at another time");
  }
  const isElsewhere = (externalId: string) =>
    moves.some((other) => other.after !== after && other.after.externalIds.some((id) => id.externalId === externalId));
  return [...old.values()].map(({ externalId, attachedAt, type }) => ({
    externalId,
    attachedAt,
    detachedAt: after.updatedAt,
    entityId: after.id,
    type: type === "" ? null : type,
    cause: change.detaches ?? (isElsewhere(externalId) ? "MOVED" : "CHANGED"),
    eventId,
  }));
}

export function insertPast(db: Pipeline, organizationId: string, periods: readonly PastExternalId[]): void {
  if (periods.length === 0) return;
  db.send(...insertRows(organizationId, periods));
}
