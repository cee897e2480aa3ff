// The checkpoints of an organization, one after the other: each by itself, behind the one before it, and against the events
// that are there.

import {
  bodyHash,
  bodyOf,
  isBehindBefore,
  LEAF_BYTES,
  leafTimeAt,
  leafXidAt,
  NO_CHECKPOINT_BEFORE,
} from "../domain/checkpoint.ts";
import type { Finding } from "../domain/finding.ts";
import type { Instant } from "../domain/time.ts";
import { readLeaves, readUnlisted } from "../log/leaves.ts";
import { BEGINNING, isSame, parseSnapshot, sees } from "../log/snapshot.ts";
import { type ListedCheckpoint, listCheckpoints, type Place } from "./checkpoints.ts";
import { compareLeaves, extraEvents, type Log, type MissingEvent, MORE_EVENTS } from "./compare-leaves.ts";
import { rootOf } from "./make.ts";
import type { ShortTurns } from "./short-turns.ts";
import type { VerifyingKey } from "./signing-key.ts";

/** Checkpoints that are read at once: with their leaves a few. */
const PAGE = { rows: 500, bytes: 2 * 1024 * 1024 };

/** What checkpoints are held against beside the events. */
export interface Expected {
  /** Where the first one begins. */
  start: Place;
  keys: ReadonlyMap<string, VerifyingKey>;
  mustBeSigned: boolean;
  turns: ShortTurns;
}

export interface CheckpointsOptions extends Expected, Log {
  /** Behind this one, which is taken as it is, up to a number. */
  after: ListedCheckpoint | undefined;
  upTo: number;
  /** Up to when events may have been pruned by now. */
  horizon(): Promise<Instant | null>;
}

export interface CheckpointsStep {
  findings: Finding[];
  missing: MissingEvent[];
  checkpoints: number;
  unsigned: number;
  /** The last that was looked at. */
  number: number;
}

export async function* verifyCheckpoints(options: CheckpointsOptions): AsyncGenerator<CheckpointsStep, void> {
  const { organizationId, upTo, read } = options;
  let before = options.after;
  /** The first of those without leaves that stand behind one another. */
  let unlisted: ListedCheckpoint | undefined;
  for (;;) {
    const { rows } = await read((db) =>
      listCheckpoints(db, organizationId, { after: before?.number ?? 0, withLeaves: true, bound: PAGE }),
    );
    // Asked for behind them: what they lack was pruned by then.
    const horizon = rows.some(({ leaves }) => leaves === null) ? await options.horizon() : null;
    for (const checkpoint of rows) {
      if (checkpoint.number > upTo) break;
      const findings = await checkByItself(checkpoint, before, options);
      const missing: MissingEvent[] = [];
      if (checkpoint.leaves !== null) {
        const compared = await compareLeaves(options, checkpoint, checkpoint.leaves);
        findings.push(...compared.findings);
        missing.push(...compared.missing);
      } else if (horizon === null || checkpoint.lastAt > horizon) {
        findings.push(broken(checkpoint.number, "its leaves are not there, and its events were not pruned"));
      }
      await findBetween(options, before, checkpoint, findings);
      if (checkpoint.leaves === null) unlisted ??= checkpoint;
      if (unlisted !== undefined && (checkpoint.leaves !== null || checkpoint.epoch !== unlisted.epoch)) {
        await findPruned(options, unlisted, before as ListedCheckpoint, findings);
        unlisted = checkpoint.leaves === null ? checkpoint : undefined;
      }
      yield {
        findings,
        missing,
        checkpoints: 1,
        unsigned: checkpoint.keyId === null ? 1 : 0,
        number: checkpoint.number,
      };
      before = checkpoint;
    }
    if (rows.length > 0 && (before?.number ?? 0) < upTo) continue;
    const findings: Finding[] = [];
    if (unlisted !== undefined) await findPruned(options, unlisted, before as ListedCheckpoint, findings);
    yield { findings, missing: [], checkpoints: 0, unsigned: 0, number: upTo };
    return;
  }
}

/** No event may be there of checkpoints whose events were all pruned. */
async function findPruned(
  options: CheckpointsOptions,
  first: ListedCheckpoint,
  last: ListedCheckpoint,
  findings: Finding[],
): Promise<void> {
  const { organizationId, read } = options;
  const range = { epoch: first.epoch, from: parseSnapshot(first.fromPosition), to: parseSnapshot(last.toPosition) };
  const there = await read((db) => readLeaves(db, organizationId, range, MORE_EVENTS));
  const ids = there.map(({ id }) => id);
  findings.push(...(await extraEvents(options, ids, last.number, "all events of its checkpoint were pruned")));
}

/** Where a log of another number begins, all that is before it is in the checkpoints of those before. */
async function findBetween(
  options: CheckpointsOptions,
  before: ListedCheckpoint | undefined,
  { epoch, number }: ListedCheckpoint,
  findings: Finding[],
): Promise<void> {
  const { organizationId, read, start } = options;
  const end = endOf(before, start);
  if (epoch === end.epoch) return;
  const after = { epoch: end.epoch, xmax: end.position.xmax };
  const there = await read((db) => readUnlisted(db, organizationId, { end: after, before: epoch, rows: MORE_EVENTS }));
  findings.push(...(await extraEvents(options, there, number, "it is of a log that has ended, and in no checkpoint")));
}

/** What is wrong with a checkpoint behind another, whatever the log is. */
export async function checkByItself(
  checkpoint: ListedCheckpoint,
  before: ListedCheckpoint | undefined,
  expected: Expected,
): Promise<Finding[]> {
  const { leaves } = checkpoint;
  return [
    ...checkBody(checkpoint, before, expected),
    ...checkSignature(checkpoint, expected),
    ...(leaves === null ? [] : await checkLeaves(checkpoint, leaves, expected.turns)),
  ];
}

/** Where the next one begins. */
const endOf = (before: ListedCheckpoint | undefined, start: Place): Place =>
  before === undefined ? start : { epoch: before.epoch, position: parseSnapshot(before.toPosition) };

const broken = (checkpoint: number, detail: string): Finding => ({ kind: "CHECKPOINT_BROKEN", checkpoint, detail });

/** The columns, the body and the checkpoint before agree. */
function checkBody(checkpoint: ListedCheckpoint, before: ListedCheckpoint | undefined, { start }: Expected): Finding[] {
  const { number, epoch, count, total, body, previousHash, fromPosition } = checkpoint;
  const problems: string[] = [];
  if (bodyOf(checkpoint) !== body) problems.push("what it says is not what its body says");
  if (number !== (before?.number ?? 0) + 1) problems.push("the checkpoint before it is not there");
  const previous = before === undefined ? NO_CHECKPOINT_BEFORE : bodyHash(before.body);
  if (!previousHash.equals(previous)) problems.push("it does not follow the checkpoint before it");
  if (total !== (before?.total ?? 0) + count)
    problems.push("its total is not that of the checkpoint before it and its own");
  const end = endOf(before, start);
  // Where a log of another number begins, it begins before all.
  const expected = epoch === end.epoch ? end.position : BEGINNING;
  if (epoch < end.epoch || !isSame(parseSnapshot(fromPosition), expected))
    problems.push("it does not begin where the checkpoint before it ended");
  return problems.map((detail) => broken(number, detail));
}

function checkSignature(checkpoint: ListedCheckpoint, { keys, mustBeSigned }: Expected): Finding[] {
  const { number, keyId, signature, body } = checkpoint;
  const invalid = (detail: string): Finding[] => [{ kind: "SIGNATURE_INVALID", checkpoint: number, detail }];
  if (keyId === null || signature === null) return mustBeSigned ? invalid("it is not signed") : [];
  const key = keys.get(keyId.toString("hex"));
  if (key === undefined) return invalid("it is signed by a key that is not among the known ones");
  return key.verifies(body, signature) ? [] : invalid("its signature is not that of its body");
}

/** The leaves are those of the root, in order, and within what the checkpoint says of them. */
async function checkLeaves(checkpoint: ListedCheckpoint, bytes: Buffer, turns: ShortTurns): Promise<Finding[]> {
  const { number, count, firstAt, lastAt, root } = checkpoint;
  if (bytes.length !== count * LEAF_BYTES) return [broken(number, "it has not as many leaves as it says")];
  const problems = new Set<string>();
  if (!(await rootOf(bytes, turns)).equals(root)) problems.add("its root is not that of its leaves");
  const [from, to] = [parseSnapshot(checkpoint.fromPosition), parseSnapshot(checkpoint.toPosition)];
  let [earliest, latest]: (Instant | undefined)[] = [];
  for (let i = 0; i < count; i++) {
    const [xid, time] = [leafXidAt(bytes, i), leafTimeAt(bytes, i)];
    if (i > 0 && !isBehindBefore(bytes, i)) problems.add("its leaves are not in order");
    if (!sees(to, xid) || sees(from, xid)) problems.add("a leaf is not within its positions");
    if (earliest === undefined || time < earliest) earliest = time;
    if (latest === undefined || time > latest) latest = time;
    if (turns.isOver()) await turns.next();
  }
  if (earliest !== firstAt || latest !== lastAt) problems.add("its times are not those of its leaves");
  return [...problems].map((detail) => broken(number, detail));
}
