// PostgreSQL's pg_snapshot as a value: the set of the transactions that had committed at one moment.

/** Every transaction below `xmax` but the `running` ones, which are in ascending order. */
export interface Snapshot {
  xmax: bigint;
  running: readonly bigint[];
}

/** Before every transaction: where the log begins, the events of earlier epochs included. */
export const BEGINNING: Snapshot = { xmax: 1n, running: [] };

/** From PostgreSQL's text, `xmin:xmax:xip,xip`. */
export function parseSnapshot(text: string): Snapshot {
  const [, xmax = "", running = ""] = text.split(":");
  return { xmax: BigInt(xmax), running: running === "" ? [] : running.split(",").map(BigInt) };
}

export function snapshotToText({ xmax, running }: Snapshot): string {
  return `${running[0] ?? xmax}:${xmax}:${running.join(",")}`;
}

export const sees = ({ xmax, running }: Snapshot, xid: bigint): boolean => xid < xmax && !running.includes(xid);

/** Those that were running at `from` and had committed, or were rolled back, at `to`. */
export const endedBetween = (from: Snapshot, to: Snapshot): bigint[] => from.running.filter((xid) => sees(to, xid));

/** Whether all of `earlier` is in `later`; of two snapshots of one database one always covers the other. */
export const covers = (later: Snapshot, earlier: Snapshot): boolean =>
  later.xmax >= earlier.xmax && later.running.every((xid) => !sees(earlier, xid));

export const isSame = (a: Snapshot, b: Snapshot): boolean => covers(a, b) && covers(b, a);

/** The part of a snapshot below a transaction. */
export const upTo = (bound: bigint, { xmax, running }: Snapshot): Snapshot => ({
  xmax: bound < xmax ? bound : xmax,
  running: running.filter((xid) => xid < bound),
});

/** `from`, and of what `to` sees beyond it the part below a transaction. */
export function extended(from: Snapshot, to: Snapshot, bound: bigint): Snapshot {
  let { xmax } = upTo(bound, to);
  if (from.xmax > xmax) ({ xmax } = from);
  return {
    xmax,
    running: [
      ...from.running.filter((xid) => xid >= bound || !sees(to, xid)),
      ...to.running.filter((xid) => xid >= from.xmax && xid < xmax),
    ],
  };
}
