// What a position may rest on. Transactions that a snapshot sees above the last one that left something behind do not
// count: a crash forgets that they existed, and the cluster gives their ids out again. And a database may go back in
// time, through a copy of its files or a standby that takes over: then what a position says has come is in it only as
// far as the database knows the start of the cluster that gave the position. docs/positions.md has the reasons.
import { covers, type Snapshot, upTo } from "./snapshot.ts";

/** What the database knows of a start of its cluster that has ended. */
export interface EndedStart {
  /** The number of the log that it wrote to. */
  number: number;
  /** What is known to be here of all that was committed until it ended. */
  reached: Snapshot;
}

/** The last transactions of a log as the database that the start after has found them. */
export interface FoundAtEnd {
  /** The last that has left something that is here. */
  lastXid: bigint;
  /** Set where later ones than this transaction's own may be lost: what it saw is here. */
  certain?: { xid: bigint; snapshot: Snapshot } | undefined;
}

/**
 * Where a log ends, in a snapshot: behind `lastXid`, the last transaction seen that left something durable. That one
 * was committed, so its id, and all below, are never given out again; of what has no row in the log, nothing is missed.
 */
export const durableEnd = (snapshot: Snapshot, lastXid: bigint): Snapshot => upTo(lastXid + 1n, snapshot);

/** What a start has reached by its end. */
export const reachedAtEnd = ({ lastXid, certain }: FoundAtEnd): Snapshot =>
  certain === undefined ? { xmax: lastXid + 1n, running: [] } : durableEnd(certain.snapshot, certain.xid);

/**
 * Whether all of `known`, which the start `given` gave out, is in the log that ends at `head`, and means the same
 * there. `ended` is what the database knows of that start, where it is not the present one.
 */
export function isHere(
  { start: given, snapshot: known }: { start: string; snapshot: Snapshot },
  head: { epoch: { number: number; id: string }; snapshot: Snapshot },
  ended: EndedStart | undefined,
): boolean {
  if (!covers(head.snapshot, known)) return false;
  if (given === head.epoch.id) return true;
  return ended !== undefined && ended.number === head.epoch.number && covers(ended.reached, known);
}
