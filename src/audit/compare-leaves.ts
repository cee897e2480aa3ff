// A checkpoint against the events that are there: every leaf has its event, and every event of the range its leaf.

import { hash } from "node:crypto";
import type { Statements } from "../db/statements.ts";
import { inOrderOfLeaves, LEAF_BYTES, type Leaf, leafAt, leavesToBytes } from "../domain/checkpoint.ts";
import type { Finding } from "../domain/finding.ts";
import type { Instant } from "../domain/time.ts";
import { digestOfLeaves, readLeaves } from "../log/leaves.ts";
import { parseSnapshot } from "../log/snapshot.ts";
import type { StoredCheckpoint } from "./checkpoints.ts";
import type { ShortTurns } from "./short-turns.ts";

/** Events of a range that are looked at beyond those that its checkpoint lists. */
export const MORE_EVENTS = 1_000;

export interface Log {
  organizationId: string;
  /** A read of one round trip, in turn with other work. */
  read<T>(work: (db: Statements) => Promise<T>): Promise<T>;
  turns: ShortTurns;
}

/** An event that a checkpoint lists and that is not there, though no retention can have removed it. */
export interface MissingEvent {
  id: string;
  hash: Buffer | null;
  checkpoint: number;
}

/** `horizon`: up to when events may have been pruned by now. */
export async function compareLeaves(
  log: Log & { horizon(): Promise<Instant | null> },
  { number, epoch, fromPosition, toPosition, count }: StoredCheckpoint,
  bytes: Buffer,
): Promise<{ findings: Finding[]; missing: MissingEvent[] }> {
  const range = { epoch, from: parseSnapshot(fromPosition), to: parseSnapshot(toPosition) };
  const rows = count + MORE_EVENTS;
  const digest = await log.read((db) => digestOfLeaves(db, log.organizationId, range, rows));
  if (digest.equals(sha256(bytes))) return { findings: [], missing: [] };
  const there = await log.read((db) => readLeaves(db, log.organizationId, range, rows));
  there.sort(inOrderOfLeaves);
  if (leavesToBytes(there).equals(bytes)) return { findings: [], missing: [] };
  const changed = new Map<string, string>();
  const extra: string[] = [];
  const absent: Leaf[] = [];
  const { turns } = log;
  const leafCount = Math.floor(bytes.length / LEAF_BYTES);
  for (let [i, j] = [0, 0]; i < leafCount || j < there.length; ) {
    const leaf = i < leafCount ? leafAt(bytes, i) : undefined;
    const event = there[j];
    const order = leaf === undefined ? 1 : event === undefined ? -1 : inOrderOfLeaves(leaf, event);
    if (order === 0 && leaf !== undefined && event !== undefined) {
      const isHash = leaf.hash === null ? event.hash === null : event.hash !== null && leaf.hash.equals(event.hash);
      if (!isHash) changed.set(event.id, "its hash is not the one that its checkpoint lists");
      else if (leaf.recordedAt !== event.recordedAt)
        changed.set(event.id, "its time is not the one that its checkpoint lists");
    } else if (order < 0) absent.push(leaf as Leaf);
    else extra.push((event as Leaf).id);
    if (order <= 0) i += 1;
    if (order >= 0) j += 1;
    if (turns.isOver()) await turns.next();
  }
  // What is not in the range may be elsewhere.
  const elsewhere = await placesOf(
    log,
    absent.map(({ id }) => id),
  );
  const pruned = await log.horizon();
  const missing: MissingEvent[] = [];
  for (const { id, hash, recordedAt } of absent) {
    if (elsewhere.has(id)) changed.set(id, "its transaction or its epoch is not the one that its checkpoint lists");
    else if (pruned === null || recordedAt > pruned) missing.push({ id, hash, checkpoint: number });
  }
  const places = await placesOf(log, [...changed.keys()]);
  const findings = [...changed].map(
    ([id, detail]): Finding => ({ kind: "CHANGED", ...places.get(id), eventId: id, checkpoint: number, detail }),
  );
  findings.push(...(await extraEvents(log, extra, number, "its checkpoint does not list it")));
  return { findings, missing };
}

const sha256 = (bytes: Buffer): Buffer => hash("sha256", bytes, "buffer");

/** Events that should not be there, each with its entity. */
export async function extraEvents(log: Log, ids: string[], checkpoint: number, detail: string): Promise<Finding[]> {
  const places = await placesOf(log, ids);
  return ids.map((eventId) => ({ kind: "EXTRA", ...places.get(eventId), eventId, checkpoint, detail }));
}

/** The entities and versions of those events that are there. */
async function placesOf(
  { organizationId, read }: Log,
  ids: string[],
): Promise<Map<string, { entityId: string; entityVersion: number }>> {
  if (ids.length === 0) return new Map();
  const rows = await read((db) =>
    db.execute<{ id: string; entity_id: string; entity_version: string }[]>(
      "select id, entity_id, entity_version from entity_event where organization_id = $1 and id = any($2::uuid[])",
      [organizationId, ids],
    ),
  );
  return new Map(rows.map((row) => [row.id, { entityId: row.entity_id, entityVersion: Number(row.entity_version) }]));
}
