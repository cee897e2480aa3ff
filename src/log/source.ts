// A log that is read by position, and the statements of an organization's: what was committed between two snapshots.

import { type Bound, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import type { EndedStart } from "./durable.ts";
import { EVENT_BYTES, EVENT_COLUMNS, type LoggedEvent, toEvent } from "./events.ts";
import { type LogHead, readEnded, readHead } from "./head.ts";
import { type Horizon, readHorizon } from "./horizon.ts";
import { BEGINNING, endedBetween, isSame, type Snapshot, snapshotToText } from "./snapshot.ts";

/** What was committed after `from` up to `to`, in the epoch of that number. */
export interface Range {
  epoch: number;
  from: Snapshot;
  to: Snapshot;
}

/** A place in the order of a range: time, then id. */
export interface LogPlace {
  recordedAt: Instant;
  id: string;
  /** The organization, in a range of all of them, which come one after the other. */
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
export interface LogSource {
  /** Where it ends now. */
  head(): Promise<LogHead>;
  /** What is known of a start before the present one. */
  ended(start: string): Promise<EndedStart | undefined>;
  /** The events of a range, in no order; no rows where there are more than the bound. */
  range(range: Range, bound: Bound): Promise<Read<FeedRow[] | undefined>>;
  /** The place before the first event of a range that has some, and the time of the last; undefined where they are gone. */
  ends(range: Range): Promise<{ before: LogPlace; last: Instant } | undefined>;
  /** The events of a range behind `after` and up to the time `until`, in order; cut too where there may be more. */
  ordered(range: Range, options: { after: LogPlace; until: Instant } & Bound): Promise<Read<Part<FeedRow>>>;
}

/** The log of one organization, read under its row level security. */
export function organizationLog(orm: Orm, organizationId: string): LogSource {
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

/** What is read of an event and no more: each column of each row has its cost here. */
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
  { after, until, ...bound }: { after: LogPlace; until: Instant } & Bound,
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
