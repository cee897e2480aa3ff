// Rule 128: the next checkpoint of an organization: what was committed since the last one, late commits too. The row of a
// checkpoint is what its position rests on: where it is, all that it has seen is, in a database that went back in time too
// (docs/positions.md, the mark). So a position counts in the log that has its epoch, and there for ever.

import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import {
  bodyHash,
  bodyOf,
  CHECKPOINT_EVENTS,
  inOrderOfLeaves,
  LEAF_BYTES,
  type Leaf,
  leavesToBytes,
  merkleTree,
  NO_CHECKPOINT_BEFORE,
} from "../domain/checkpoint.ts";
import { type Instant, parseInstant } from "../domain/time.ts";
import { readHead } from "../log/head.ts";
import { readHorizon } from "../log/horizon.ts";
import { nextEpoch, readLeaves, readLeavesOf } from "../log/leaves.ts";
import { BEGINNING, extended, parseSnapshot, type Snapshot, snapshotToText } from "../log/snapshot.ts";
import type { Range } from "../log/source.ts";
import {
  insertCheckpoint,
  insertKey,
  lastCheckpoint,
  type Place,
  type StoredCheckpoint,
  startOfAll,
} from "./checkpoints.ts";
import type { ShortTurns } from "./short-turns.ts";
import type { SigningKey } from "./signing-key.ts";

/** Events of one transaction at most. */
const MAX_LEAVES = 200_000;
/** Behind every transaction of an epoch that has ended. */
const END: Snapshot = { xmax: (1n << 63n) - 1n, running: [] };

export interface Made {
  /** False: there was nothing to list, or another process was faster. */
  isMade: boolean;
  /** There may be more for another one at once. */
  isMore: boolean;
}

/** Makes the next checkpoint, if there is something to list. Of two processes that make the same one only one writes it. */
export async function makeCheckpoint(
  orm: Orm,
  organizationId: string,
  { key, turns }: { key: SigningKey | undefined; turns: ShortTurns },
): Promise<Made> {
  const statements = <T>(work: (db: Statements) => Promise<T>) => readStatements(orm, organizationId, work);
  const [last, start] = await statements((db) => Promise.all([lastCheckpoint(db, organizationId), startOfAll(db)]));
  const head = await readHead(orm, organizationId);
  const listed = await statements((db) => readNext(db, organizationId, last === undefined ? start : endOf(last), head));
  if (listed === undefined) return { isMade: false, isMore: false };

  const { range, leaves, to, isCut } = listed;
  const { now, horizon } = await statements(async (db) => {
    const [[row], horizon] = await Promise.all([
      db.execute<{ now: string }[]>("select clock_timestamp() as now", []),
      readHorizon(db, organizationId),
    ]);
    return { now: parseInstant(row?.now ?? ""), horizon };
  });
  const bytes = leavesToBytes(leaves.sort(inOrderOfLeaves));
  const times = timesOf(leaves);
  const checkpoint = {
    organizationId,
    number: (last?.number ?? 0) + 1,
    epoch: range.epoch,
    fromPosition: snapshotToText(range.from),
    toPosition: snapshotToText(to),
    count: leaves.length,
    total: (last?.total ?? 0) + leaves.length,
    firstAt: times.first,
    lastAt: times.last,
    horizon: horizon?.recordedAt ?? null,
    root: await rootOf(bytes, turns),
    previousHash: last === undefined ? NO_CHECKPOINT_BEFORE : bodyHash(last.body),
    keyId: key?.keyId ?? null,
    createdAt: now,
  };
  const body = bodyOf(checkpoint);
  const row = { ...checkpoint, body, signature: key?.sign(body) ?? null, leaves: bytes };
  const isMade = await statements(async (db) => {
    // Whoever sees the checkpoint can have the key.
    const [, isInserted] = await Promise.all([key && insertKey(db, key), insertCheckpoint(db, organizationId, row)]);
    return isInserted;
  });
  return { isMade, isMore: isMade && isCut };
}

/** The times of the first and of the last to be recorded of some events. */
function timesOf(leaves: readonly Leaf[]): { first: Instant; last: Instant } {
  let [first, last]: (Instant | undefined)[] = [];
  for (const { recordedAt } of leaves) {
    if (first === undefined || recordedAt < first) first = recordedAt;
    if (last === undefined || recordedAt > last) last = recordedAt;
  }
  if (first === undefined || last === undefined) throw new Error("a checkpoint without events");
  return { first, last };
}

/** The root of leaves, without holding up others. */
export async function rootOf(leaves: Buffer, turns: ShortTurns): Promise<Buffer> {
  const tree = merkleTree();
  for (let at = 0; at < leaves.length; at += LEAF_BYTES) {
    tree.add(leaves.subarray(at, at + LEAF_BYTES));
    if (turns.isOver()) await turns.next();
  }
  return tree.root();
}

const endOf = ({ epoch, toPosition }: StoredCheckpoint): Place => ({ epoch, position: parseSnapshot(toPosition) });

interface Listed {
  range: Range;
  leaves: Leaf[];
  /** What has been listed of the range. */
  to: Snapshot;
  /** There is more behind it. */
  isCut: boolean;
}

/** The first events behind a place, CHECKPOINT_EVENTS of them; undefined where there are none. */
async function readNext(
  db: Statements,
  organizationId: string,
  after: Place,
  head: { epoch: { number: number }; snapshot: Snapshot },
): Promise<Listed | undefined> {
  let epoch: number | undefined = after.epoch;
  let from = after.position;
  while (epoch !== undefined && epoch <= head.epoch.number) {
    const isPresent = epoch === head.epoch.number;
    // To an epoch that has ended nothing is added any more.
    const range: Range = { epoch, from, to: isPresent ? head.snapshot : END };
    const leaves = await readLeaves(db, organizationId, range, CHECKPOINT_EVENTS + 1);
    if (leaves.length > 0) return listOf(db, organizationId, range, leaves, isPresent);
    epoch = await nextEpoch(db, organizationId, epoch);
    from = BEGINNING;
  }
  return undefined;
}

/** Whole transactions of what was read, which has one more than a checkpoint where it is not all. */
async function listOf(
  db: Statements,
  organizationId: string,
  range: Range,
  read: Leaf[],
  isPresent: boolean,
): Promise<Listed> {
  const { epoch, from, to } = range;
  const lastXid = (read.at(-1) as Leaf).xid;
  if (read.length <= CHECKPOINT_EVENTS) {
    // What is behind an epoch that has ended is for the next look.
    return { range, leaves: read, to: isPresent ? to : extended(from, to, lastXid + 1n), isCut: !isPresent };
  }
  const whole = read.filter(({ xid }) => xid !== lastXid);
  if (whole.length > 0) return { range, leaves: whole, to: extended(from, to, lastXid), isCut: true };
  const leaves = await readLeavesOf(db, organizationId, { epoch, xid: lastXid }, MAX_LEAVES + 1);
  // The service writes a thousand at most: somebody else has, and one who writes at once what memory has no room for.
  if (leaves.length > MAX_LEAVES) throw new Error("a transaction has more events than a checkpoint can list");
  return { range, leaves, to: extended(from, to, lastXid + 1n), isCut: true };
}
