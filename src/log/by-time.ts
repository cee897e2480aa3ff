// The log by time, for one whose position expired.

import { type Bound, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import { type Instant, instantToText } from "../domain/time.ts";
import { EVENT_BYTES, type LoggedEvent, toEvent } from "./events.ts";

export interface CatchUp {
  after: { recordedAt: Instant; id: string };
  until: Instant;
}

/** Events by time, behind `after` and before `until`, whatever their epoch. */
export async function readEventsByTime(
  db: Statements,
  organizationId: string,
  { after, until }: CatchUp,
  bound: Bound,
): Promise<Part<LoggedEvent>> {
  const rows = await db.execute<Record<string, unknown>[]>(
    withinBytes(
      `select v.*, ${EVENT_BYTES} as bytes from entity_event v
     where v.organization_id = $1 and (v.recorded_at, v.id) > ($2::timestamptz, $3::uuid) and v.recorded_at < $4::timestamptz
     order by v.recorded_at, v.id limit $5`,
      bound.bytes,
      "recorded_at, id",
    ),
    [organizationId, instantToText(after.recordedAt), after.id, instantToText(until), bound.rows],
  );
  return partOf(rows, toEvent);
}
