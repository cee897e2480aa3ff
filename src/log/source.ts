// The statements of the event feed: where the log ends now, and what was committed between two snapshots.

import { type Bound, type Part, partOf, withinBytes } from "../db/bytes.ts";
import { forOrganization, type Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements, toReason } from "../db/transaction.ts";
import { DomainError } from "../domain/errors.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { durableEnd, type EndedStart, reachedAtEnd } from "./durable.ts";
import { EVENT_BYTES, EVENT_COLUMNS, type LoggedEvent, toEvent } from "./events.ts";
import { type Horizon, readHorizon } from "./horizon.ts";
import { BEGINNING, endedBetween, isSame, parseSnapshot, type Snapshot, snapshotToText } from "./snapshot.ts";

/** Where the log ends: all of it that is committed. */
export interface Head {
  /** The number is that of the log, which its events carry; the id is another with every start of the cluster. */
  epoch: { number: number; id: string };
  snapshot: Snapshot;
}

/** What was committed after `from` up to `to`, in the epoch of that number. */
export interface Range {
  epoch: number;
  from: Snapshot;
  to: Snapshot;
}

/** A place in the order of a range: time, then id. */
export interface Place {
  recordedAt: Instant;
  id: string;
  /** Whose, in a range of all organizations, which come one after the other. */
  organizationId?: string;
}

/** An event with the bytes that it holds, not compressed. */
export interface FeedRow {
  organizationId: string;
  event: LoggedEvent;
  bytes: number;
}

/** Rows, and what they may lack because it was pruned. */
export interface Read<T> {
  rows: T;
  horizon?: Horizon | undefined;
}

/** A log that can be read by position: an organization's, or that of all. */
export interface Source {
  /** Where it ends now. */
  head(): Promise<Head>;
  /** What is known of a start before the present one. */
  ended(start: string): Promise<EndedStart | undefined>;
  /** The events of a range, in no order; no rows where there are more than the bound. */
  range(range: Range, bound: Bound): Promise<Read<FeedRow[] | undefined>>;
  /** The place before the first event of a range that has some, and the time of the last; undefined where they are gone. */
  ends(range: Range): Promise<{ before: Place; last: Instant } | undefined>;
  /** The events of a range behind `after` and up to the time `until`, in order; cut too where there may be more. */
  ordered(range: Range, options: { after: Place; until: Instant } & Bound): Promise<Read<Part<FeedRow>>>;
}

/** The log of one organization, read under its row level security. */
export function organizationLog(orm: Orm, organizationId: string): Source {
  /** The horizon is read last, in the same round trip: no row has gone unnoticed. */
  const read = <T>(rowsOf: (db: Statements) => Promise<T>): Promise<Read<T>> =>
    readStatements(orm, organizationId, async (db) => {
      const [rows, horizon] = await Promise.all([rowsOf(db), readHorizon(db, organizationId)]);
      return { rows, horizon };
    });
  return {
    head: () => readHead(orm, organizationId),
    ended: (start) => readEnded(orm, organizationId, start),
    range: (range, bound) => read((db) => readRange(db, organizationId, range, bound)),
    async ends(range) {
      const times = await readTimes(orm, organizationId, range);
      return times && { before: { recordedAt: times.first, id: NO_ID }, last: times.last };
    },
    ordered: (range, options) => read((db) => readOrdered(db, organizationId, range, options)),
  };
}

/** Before every id. */
export const NO_ID = "00000000-0000-0000-0000-000000000000";

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
  // Whoever wrote before the next start was known to the database is told by the time.
  ended: `
    (select e.xid from entity_event e where e.organization_id = $1 and e.epoch = s.number
       and e.xid < s.next_xid and case when e.recorded_at < s.next_started_at then true else false end order by e.xid desc limit 1),
    (select h.xid from event_horizon h where h.organization_id = $1 and h.epoch = s.number and h.xid < s.next_xid)`,
  values: [organizationId],
});

/** Where a log ends now. Moves the epoch on where the cluster was started anew, or has changed under the data. */
export async function readHead(orm: Orm, organizationId: string, last = lastXidsOf(organizationId)): Promise<Head> {
  const read = () => readStatements(orm, organizationId, (db) => headOf(db, last));
  const head = await read();
  if (head.isHere) return head;
  await moveEpoch(orm, organizationId);
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

export async function headOf(db: Statements, { present, values }: LastXids): Promise<Head & { isHere: boolean }> {
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

/** A standby may be behind what others have been told, and its start is written nowhere: it has no positions to give. */
function standby(): DomainError {
  return new DomainError("DATABASE_UNAVAILABLE", "The database is a standby, which has no positions: retry", {
    retry_after_ms: "500",
  });
}

async function moveEpoch(orm: Orm, organizationId: string): Promise<void> {
  try {
    await forOrganization(orm, organizationId).execute("select move_feed_epoch()");
    // The start itself is the first that is certain of it.
    await markFeed(orm, organizationId);
  } catch (error) {
    throw toReason(error, "read");
  }
}

/** Writes down what is committed by now, for a standby that may take over; and returns it. */
export async function markFeed(orm: Orm, organizationId: string): Promise<Snapshot | undefined> {
  const [row] = await forOrganization(orm, organizationId).execute<{ xid: string; snapshot: string }[]>(
    "select xid::text, snapshot::text from mark_feed()",
  );
  return row && durableEnd(parseSnapshot(row.snapshot), BigInt(row.xid));
}

/** What is read of an event and no more: each column of each row has its price here. */
export const COLUMNS = `${EVENT_COLUMNS}, ${EVENT_BYTES} as bytes`;
export const toRow = (row: Record<string, unknown>): FeedRow => ({
  organizationId: row.organization_id as string,
  event: toEvent(row),
  bytes: Number(row.bytes),
});

/** In both a range is named by its ends, so that it is the same rows whenever, and in whatever snapshot, they are read. */
const OF_RANGE = `v.organization_id = $1 and v.epoch = $2
  and v.xid >= $3::xid8 and v.xid < $4::xid8 and v.xid <> all($5::xid8[])`;
const OF_LATE = "v.organization_id = $1 and v.epoch = $2 and v.xid = any($3::xid8[])";

const texts = (xids: readonly bigint[]) => xids.map(String);
const valuesOf = (organizationId: string, { epoch, from, to }: Range) => ({
  range: [organizationId, epoch, String(from.xmax), String(to.xmax), texts(to.running)],
  late: [organizationId, epoch, texts(endedBetween(from, to))],
});

/** The events of a range, in no order; undefined where there are more than the bound. */
export async function readRange(
  db: Statements,
  organizationId: string,
  range: Range,
  bound: Bound,
): Promise<FeedRow[] | undefined> {
  const values = valuesOf(organizationId, range);
  const late = endedBetween(range.from, range.to);
  // By the index, whose order this is: the planner has no reason to read all of the log and sort it.
  const rows = await Promise.all([
    db.execute<Record<string, never>[]>(
      withinBytes(`select ${COLUMNS} from entity_event v where ${OF_RANGE} order by v.xid limit $6`, bound.bytes),
      [...values.range, bound.rows + 1],
    ),
    late.length === 0
      ? []
      : db.execute<Record<string, never>[]>(
          withinBytes(`select ${COLUMNS} from entity_event v where ${OF_LATE} order by v.xid limit $4`, bound.bytes),
          [...values.late, bound.rows + 1],
        ),
  ]);
  return allWithin(rows, bound);
}

/** The rows of several statements, unless they are more than the bound. */
export function allWithin(statements: readonly unknown[][], bound: Bound): FeedRow[] | undefined {
  const parts = statements.map((rows) => partOf(rows, toRow));
  const all = parts.flatMap(({ rows }) => rows);
  return parts.some(({ isCut }) => isCut) || all.length > bound.rows ? undefined : all;
}

/** Rows that one statement looks at: it has to end within the statement's time. */
const SCAN_ROWS = 100_000;

/** The times between which the events of a range were recorded; undefined where there are none. */
async function readTimes(
  orm: Orm,
  organizationId: string,
  range: Range,
): Promise<{ first: Instant; last: Instant } | undefined> {
  const values = valuesOf(organizationId, range);
  const of = (where: string, count: string) =>
    `select min(recorded_at) as first, max(recorded_at) as last, max(xid)::text as xid, count(*) as rows
     from (select v.recorded_at, v.xid from entity_event v where ${where} order by v.xid limit ${count}) v`;
  const scan = async (where: string, count: string, bound: unknown[]) => {
    const [row] = await readStatements(orm, organizationId, (db) =>
      db.execute<{ first: string | null; last: string | null; xid: string; rows: string }[]>(of(where, count), bound),
    );
    return row;
  };
  const found = [await scan(OF_LATE, "$4", [...values.late, SCAN_ROWS * 100])];
  let [size, begin] = [SCAN_ROWS, range.from.xmax];
  for (;;) {
    const [organization, epoch, , ...rest] = values.range;
    const row = await scan(OF_RANGE, "$6", [organization, epoch, String(begin), ...rest, size]);
    found.push(row);
    if (row === undefined || Number(row.rows) < size) break;
    // The last transaction may go on behind the limit; one that alone is larger needs a larger limit.
    const last = BigInt(row.xid);
    if (last === begin) size *= 4;
    begin = last;
  }
  const times = found.flatMap((row) => [row?.first ?? [], row?.last ?? []].flat()).map(parseInstant);
  times.sort((a, b) => (a < b ? -1 : 1));
  const [first, last] = [times[0], times.at(-1)];
  return first === undefined || last === undefined ? undefined : { first, last };
}

/** The events of a range behind `after` and up to the time `until`, in order of time and id. */
export async function readOrdered(
  db: Statements,
  organizationId: string,
  { epoch, from, to }: Range,
  { after, until, ...bound }: { after: Place; until: Instant } & Bound,
): Promise<Part<FeedRow>> {
  // By the index of the times. The planner cannot look into a CASE: compared one by one, the columns would tempt
  // it to take the index of the feed and to sort the whole log for every page.
  const rows = await db.execute<Record<string, never>[]>(
    withinBytes(
      `select ${COLUMNS} from entity_event v
     where v.organization_id = $1
       and (v.recorded_at, v.id) > ($3::timestamptz, $4::uuid) and v.recorded_at <= $5::timestamptz
       and case when v.epoch = $2
         then pg_visible_in_snapshot(v.xid, $6::pg_snapshot)
           and ($7::pg_snapshot is null or not pg_visible_in_snapshot(v.xid, $7::pg_snapshot))
         else $7::pg_snapshot is null and v.epoch < $2 end
     order by v.recorded_at, v.id limit $8`,
      bound.bytes,
      "recorded_at, id",
    ),
    [
      organizationId,
      epoch,
      instantToText(after.recordedAt),
      after.id,
      instantToText(until),
      snapshotToText(to),
      isSame(from, BEGINNING) ? null : snapshotToText(from),
      bound.rows,
    ],
  );
  const { rows: all, isCut } = partOf(rows, toRow);
  return { rows: all, isCut: isCut || all.length === bound.rows };
}
