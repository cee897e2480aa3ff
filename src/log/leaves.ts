// What checkpoints list of the events of a range: neither who nor what, only that they were there.

import type { Statements } from "../db/statements.ts";
import type { Leaf } from "../domain/checkpoint.ts";
import { type Instant, parseInstant } from "../domain/time.ts";
import { endedBetween } from "./snapshot.ts";
import type { Range } from "./source.ts";

interface LeafRow {
  id: string;
  recorded_at: string;
  hash: Buffer | null;
  xid: string;
}

const toLeaf = ({ id, recorded_at: recordedAt, hash, xid }: LeafRow): Leaf => ({
  id,
  recordedAt: timeOf(recordedAt),
  hash,
  xid: BigInt(xid),
});

/** No time that the calendar has: nobody lists an event with it, and whoever compares it finds that it was changed. */
const NO_TIME = -(1n << 63n);

function timeOf(text: string): Instant {
  try {
    return parseInstant(text);
  } catch {
    return NO_TIME;
  }
}

const SELECT = "select v.id, v.recorded_at, v.hash, v.xid::text from entity_event v where v.organization_id = $1";

/**
 * The events of a range in the order of their transactions: at most `rows`, from the first on. Those of one transaction come
 * in no order.
 */
export async function readLeaves(
  db: Statements,
  organizationId: string,
  { epoch, from, to }: Range,
  rows: number,
): Promise<Leaf[]> {
  const late = endedBetween(from, to);
  // By the index of the feed. All of the late are below the others.
  const found = await Promise.all([
    late.length === 0
      ? []
      : db.execute<LeafRow[]>(`${SELECT} and v.epoch = $2 and v.xid = any($3::xid8[]) order by v.xid limit $4`, [
          organizationId,
          epoch,
          late.map(String),
          rows,
        ]),
    db.execute<LeafRow[]>(
      `${SELECT} and v.epoch = $2 and v.xid >= $3::xid8 and v.xid < $4::xid8 and v.xid <> all($5::xid8[])
       order by v.xid limit $6`,
      [organizationId, epoch, String(from.xmax), String(to.xmax), to.running.map(String), rows],
    ),
  ]);
  return found.flat().slice(0, rows).map(toLeaf);
}

/** A time that the calendar lacks is none that a checkpoint lists. */
const LEAF = `uuid_send(v.id)
  || int8send(case when isfinite(v.recorded_at) then (extract(epoch from v.recorded_at) * 1000000)::bigint else ${NO_TIME} end)
  || xid8send(v.xid) || substring(coalesce(v.hash, '') || '\\x${"00".repeat(32)}'::bytea from 1 for 32) as leaf`;

/** SHA-256 of the leaves of the events that readLeaves answers, in their order: what is as it is listed needs no row of its own. */
export async function digestOfLeaves(
  db: Statements,
  organizationId: string,
  { epoch, from, to }: Range,
  rows: number,
): Promise<Buffer> {
  const select = `select v.id, v.xid, ${LEAF} from entity_event v where v.organization_id = $1 and v.epoch = $2`;
  const [row] = await db.execute<{ digest: Buffer }[]>(
    `select sha256(coalesce(string_agg(l.leaf, '' order by l.xid, l.id), '')) as digest from (
       (${select} and v.xid = any($3::xid8[]) order by v.xid limit $7)
       union all
       (${select} and v.xid >= $4::xid8 and v.xid < $5::xid8 and v.xid <> all($6::xid8[]) order by v.xid limit $7)) l`,
    [
      ...[organizationId, epoch, endedBetween(from, to).map(String)],
      ...[String(from.xmax), String(to.xmax), to.running.map(String), rows],
    ],
  );
  if (row === undefined) throw new Error("an aggregate without a row");
  return row.digest;
}

/** What one transaction wrote, at most `rows` of it. */
export async function readLeavesOf(
  db: Statements,
  organizationId: string,
  { epoch, xid }: { epoch: number; xid: bigint },
  rows: number,
): Promise<Leaf[]> {
  const found = await db.execute<LeafRow[]>(`${SELECT} and v.epoch = $2 and v.xid = $3::xid8 limit $4`, [
    ...[organizationId, epoch, String(xid), rows],
  ]);
  return found.map(toLeaf);
}

/** The first epoch of the organization's events behind another; undefined where there is none. */
export async function nextEpoch(db: Statements, organizationId: string, after: number): Promise<number | undefined> {
  const [row] = await db.execute<{ epoch: number }[]>(
    "select epoch from entity_event where organization_id = $1 and epoch > $2 order by epoch limit 1",
    [organizationId, after],
  );
  return row?.epoch;
}

/** The ids of events behind the end of an epoch, of it and of those before another one. */
export async function readUnlisted(
  db: Statements,
  organizationId: string,
  { end, before, rows }: { end: { epoch: number; xmax: bigint }; before: number; rows: number },
): Promise<string[]> {
  const found = await db.execute<{ id: string }[]>(
    `select id from entity_event
     where organization_id = $1 and epoch < $2 and (epoch, xid) >= ($3::int, $4::xid8) order by epoch, xid limit $5`,
    [organizationId, before, end.epoch, String(end.xmax), rows],
  );
  return found.map(({ id }) => id);
}
