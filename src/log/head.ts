// Where a log ends now, in the epoch that the cluster is in; and what is known of the ends of earlier starts.

import { managerAcross } from "../db/across.ts";
import { toReason } from "../db/failures.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import { DomainError } from "../domain/errors.ts";
import { durableEnd, type EndedStart, reachedAtEnd } from "./durable.ts";
import { parseSnapshot, type Snapshot } from "./snapshot.ts";

/** Where the log ends: all of it that is committed. */
export interface LogHead {
  /** The number is that of the log, which its events carry; the id is another with every start of the cluster. */
  epoch: { number: number; id: string };
  snapshot: Snapshot;
}

/** Statements that tell of a log which transactions were the last to write to it; $1 is the organization, where it has one. */
export interface LastXids {
  /** In the log of the number `f.number`: expressions, any of which may be null. */
  present: string;
  /** The same of a start `s`, by the end of it. */
  ended: string;
  values: readonly unknown[];
}

/** What was pruned was there: its horizon counts like an event. */
export const lastXidsOf = (organizationId: string): LastXids => ({
  present: `
    (select e.xid from entity_event e where e.organization_id = $1 and e.epoch = f.number order by e.xid desc limit 1),
    (select h.xid from event_horizon h where h.organization_id = $1 and h.epoch = f.number)`,
  // Transactions from before the next start became known to the database are recognized by the time.
  ended: `
    (select e.xid from entity_event e where e.organization_id = $1 and e.epoch = s.number
       and e.xid < s.next_xid and case when e.recorded_at < s.next_started_at then true else false end order by e.xid desc limit 1),
    (select h.xid from event_horizon h where h.organization_id = $1 and h.epoch = s.number and h.xid < s.next_xid)`,
  values: [organizationId],
});

/** Where a log ends now. Moves the epoch on where the cluster was started anew, or has changed under the data. */
export async function readHead(orm: Orm, organizationId: string, last = lastXidsOf(organizationId)): Promise<LogHead> {
  const read = () => readStatements(orm, organizationId, (db) => headOf(db, last));
  const head = await read();
  if (head.isHere) return head;
  await moveEpoch(orm);
  const moved = await read();
  if (!moved.isHere) throw new Error("the epoch of the feed is not that of this cluster");
  return moved;
}

/** What the database knows of a start that is not the present one. */
export async function readEnded(
  orm: Orm,
  organizationId: string,
  start: string,
  { ended, values } = lastXidsOf(organizationId),
): Promise<EndedStart | undefined> {
  const [row] = await readStatements(orm, organizationId, (db) =>
    db.execute<{ number: number; last: string; certain_xid: string | null; certain: string | null }[]>(
      `select s.number, greatest(s.xid, ${ended})::text as last, s.certain_xid::text, s.certain::text
       from feed_start s where s.id = $${values.length + 1}`,
      [...values, start],
    ),
  );
  if (row === undefined) return undefined;
  const certain =
    row.certain === null ? undefined : { xid: BigInt(row.certain_xid ?? 0), snapshot: parseSnapshot(row.certain) };
  return { number: row.number, reached: reachedAtEnd({ lastXid: BigInt(row.last), certain }) };
}

export async function headOf(db: Statements, { present, values }: LastXids): Promise<LogHead & { isHere: boolean }> {
  // The reader's own query, since the epoch may move while the service runs. One statement: the last transaction is
  // one that the snapshot sees.
  const [row] = await db.execute<
    { number: number; id: string; standby: boolean; here: boolean; last: string; snapshot: string }[]
  >(
    `select f.number, f.id, pg_is_in_recovery() as standby,
       f.started_at = pg_postmaster_start_time() and f.log = 'public.entity_event'::regclass
         and f.place = pg_relation_filepath('pg_catalog.pg_class') as here,
       greatest(f.xid, ${present})::text as last, pg_current_snapshot()::text as snapshot
     from feed_epoch f`,
    values,
  );
  if (row === undefined) throw new Error("the feed has no epoch");
  if (row.standby) throw standby();
  return {
    epoch: { number: row.number, id: row.id },
    snapshot: durableEnd(parseSnapshot(row.snapshot), BigInt(row.last)),
    isHere: row.here,
  };
}

/** A standby may lag behind what was given out, and its start is recorded nowhere: it has no positions to give. */
function standby(): DomainError {
  return new DomainError("DATABASE_UNAVAILABLE", "The database is a standby, which has no positions: retry", {
    retry_after_ms: "500",
  });
}

async function moveEpoch(orm: Orm): Promise<void> {
  try {
    await managerAcross(orm).execute("select move_feed_epoch()");
    // The start itself is the first that is certain of it.
    await markFeed(orm);
  } catch (error) {
    throw toReason(error, "read");
  }
}

/** Writes down what is committed by now, for a standby that may take over; and returns it. */
export async function markFeed(orm: Orm): Promise<Snapshot | undefined> {
  const [row] = await managerAcross(orm).execute<{ xid: string; snapshot: string }[]>(
    "select xid::text, snapshot::text from mark_feed()",
  );
  return row && durableEnd(parseSnapshot(row.snapshot), BigInt(row.xid));
}
