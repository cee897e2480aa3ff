// What checkpoints say of a few events: for each the one that must list it, found by its position.

import type { Statements } from "../db/statements.ts";
import { LEAF_BYTES, leafAt } from "../domain/checkpoint.ts";
import type { Finding } from "../domain/finding.ts";
import { sees } from "../log/snapshot.ts";
import { endOf, type ListedCheckpoint, listCheckpoints, type Place } from "./checkpoints.ts";
import type { SeenEvent } from "./verify-chains.ts";
import { checkByItself, type Expected } from "./verify-checkpoints.ts";

export interface ListedOptions extends Expected {
  organizationId: string;
  /** The number of the last checkpoint. */
  last: number;
  read<T>(work: (db: Statements) => Promise<T>): Promise<T>;
}

export interface Lists {
  /** What is wrong with an event that some checkpoint must list, and with that checkpoint where it has not been looked at. */
  check(event: SeenEvent): Promise<Finding[]>;
  /** Checkpoints that were looked at. */
  counts: { checkpoints: number; unsigned: number };
}

/** Two: the one that is looked at, and the one before it. */
const PAGE = { rows: 2, bytes: Number.MAX_SAFE_INTEGER };

/** Ends of checkpoints that are remembered. */
const MAX_ENDS = 10_000;

export function createLists({ organizationId, last, read, ...expected }: ListedOptions): Lists {
  const ends = new Map<number, Place | undefined>();
  const counts = { checkpoints: 0, unsigned: 0 };
  /** The one that was looked at last: versions that follow each other are often in one. */
  let open: ListedCheckpoint | undefined;

  async function endAt(number: number) {
    if (ends.size >= MAX_ENDS) ends.clear();
    if (!ends.has(number)) ends.set(number, await read((db) => endOf(db, organizationId, number)));
    return ends.get(number);
  }

  /** The first checkpoint whose end is behind the event. */
  async function numberOf({ epoch, xid }: SeenEvent): Promise<number> {
    let [low, high] = [1, last];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const end = await endAt(middle);
      const isBehind = end !== undefined && (end.epoch > epoch || (end.epoch === epoch && sees(end.position, xid)));
      if (isBehind) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  async function look(number: number): Promise<Finding[]> {
    const { rows } = await read((db) =>
      listCheckpoints(db, organizationId, { after: Math.max(0, number - 2), withLeaves: true, bound: PAGE }),
    );
    const found = rows.find((one) => one.number === number);
    if (found === undefined) return [{ kind: "CHECKPOINT_BROKEN", checkpoint: number, detail: "it is not there" }];
    open = found;
    counts.checkpoints += 1;
    if (found.keyId === null) counts.unsigned += 1;
    return checkByItself(
      found,
      rows.find((one) => one.number === number - 1),
      expected,
    );
  }

  return {
    counts,
    async check(event) {
      const number = await numberOf(event);
      const findings = open?.number === number ? [] : await look(number);
      const { id, entityId, entityVersion, xid, hash, recordedAt } = event;
      const at = { entityId, entityVersion, eventId: id, checkpoint: number };
      const leaf = open?.number === number && open.leaves !== null ? leafOf(open.leaves, id) : undefined;
      if (leaf === undefined) findings.push({ kind: "EXTRA", ...at, detail: "its checkpoint does not list it" });
      else if (!(leaf.hash ?? NONE).equals(hash ?? NONE) || leaf.recordedAt !== recordedAt || leaf.xid !== xid) {
        findings.push({ kind: "CHANGED", ...at, detail: "it is not what its checkpoint lists" });
      }
      return findings;
    },
  };
}

const NONE = Buffer.alloc(0);

function leafOf(leaves: Buffer, id: string) {
  const bytes = Buffer.from(id.replaceAll("-", ""), "hex");
  for (let at = leaves.indexOf(bytes); at >= 0; at = leaves.indexOf(bytes, at + 1)) {
    if (at % LEAF_BYTES === 0) return leafAt(leaves, at / LEAF_BYTES);
  }
  return undefined;
}
