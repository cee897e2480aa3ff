// The events of one entity by its versions, newest first: what undoing them needs, and no more.

import { type Bound, bytesOf, type Part, partOf, withinBytes } from "../db/bytes.ts";
import { columnsOf, hydrator, selected } from "../db/columns.ts";
import { EntityEventRow } from "../db/schema.ts";
import type { Statements } from "../db/statements.ts";
import type { PastEvent } from "../domain/past.ts";

const NEEDED: Record<keyof PastEvent, true> = {
  id: true,
  entityId: true,
  entityVersion: true,
  recordedAt: true,
  updatedFields: true,
  previousValues: true,
  hash: true,
};
const COLUMNS = columnsOf(EntityEventRow).filter(({ property }) => property in NEEDED);
/** The columns of an event `v` that it is taken back by. */
export const PAST_COLUMNS = selected(COLUMNS, "v");
export const toPastEvent: (row: unknown) => PastEvent = hydrator<typeof EntityEventRow>(COLUMNS);

/**
 * Those that made `version` and the versions before it. By version and not by time: the versions of an entity are in the
 * order of time and have an index.
 */
export async function readHistory(
  db: Statements,
  organizationId: string,
  { entityId, version }: { entityId: string; version: number },
  bound: Bound,
): Promise<Part<PastEvent>> {
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select ${PAST_COLUMNS}, ${bytesOf("v", ["updated_fields", "previous_values"])} as bytes
       from entity_event v
       where v.organization_id = $1 and v.entity_id = $2 and v.entity_version <= $3
       order by v.entity_version desc limit $4`,
      bound.bytes,
      "entity_version desc",
    ),
    [organizationId, entityId, version, bound.rows],
  );
  return partOf(rows, toPastEvent);
}
