// How far the log of an organization was pruned, and so what is no longer there to be read.

import type { Statements } from "../db/statements.ts";
import { type Instant, parseInstant } from "../domain/time.ts";
import { parseSnapshot, type Snapshot, upTo } from "./snapshot.ts";

/** What was pruned is of this epoch or an older one; of this one, it is in `seen`; and it is not later than `recordedAt`. */
export interface Horizon {
  epoch: number;
  seen: Snapshot;
  recordedAt: Instant;
}

/** Undefined where nothing was pruned. Read after other rows, it tells what these may lack. */
export async function readHorizon(db: Statements, organizationId: string): Promise<Horizon | undefined> {
  const [row] = await db.execute<{ epoch: number; xid: string; snapshot: string; recorded_at: string }[]>(
    "select epoch, xid::text, snapshot::text, recorded_at from event_horizon where organization_id = $1",
    [organizationId],
  );
  if (row === undefined) return undefined;
  return {
    epoch: row.epoch,
    seen: upTo(BigInt(row.xid) + 1n, parseSnapshot(row.snapshot)),
    recordedAt: parseInstant(row.recorded_at),
  };
}
