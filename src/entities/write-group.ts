// Every write to entities goes through here, a group of commands at a time, in as few transactions as possible: a
// refused command fails alone, one on locked entities waits or is left out, and the others commit together.

import { UniqueViolation } from "../db/failures.ts";
import type { Connections } from "../db/kept-connection.ts";
import type { Orm } from "../db/orm.ts";
import type { Pipeline } from "../db/statements.ts";
import { pipelined, pipelinedTogether, type TransactionOptions } from "../db/transaction.ts";
import { DomainError, type Reason } from "../domain/errors.ts";
import type { Command, Result } from "./command.ts";
import { type GroupOptions, type GroupResult, runGroup } from "./group.ts";
import { keptMoving, LookupMoved, MAX_LOCK_ROUNDS } from "./locked.ts";
import { ManyCopies } from "./references.ts";
import { heldByOthers } from "./refusals.ts";

/** How often a single command is tried again after another write took an id that was free a moment ago. */
export const MAX_COLLISIONS = 3;

/**
 * Runs commands in order, in as few transactions as possible. A result per command, in order: what is true of
 * one that is committed stays so whatever happens to those after it. A command on entities that another transaction has
 * locked waits for them alone, so that the others' are not locked meanwhile; at most for the lock time: then it is refused.
 */
export async function writeGroup(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
  options: TransactionOptions = {},
): Promise<Result[]> {
  const itsOptions = { ...options, skipLocked: true, keepsOrder: true, isShort: false };
  const results = await writeCommands(orm, organizationId, commands, itsOptions);
  return results.map((result) => (typeof result === "string" ? { kind: "refused", error: heldByOthers() } : result));
}

/**
 * What was not done: "busy" of locked entities, "long" what others should not wait for: it goes alone, by writeGroup.
 */
export type Undone = "busy" | "long";

/** The same, where commands whose entities were locked for all of that time are "busy", one alone too: they may try again. */
export function writeGroupWaiting(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
  options: TransactionOptions = {},
): Promise<(Result | Undone)[]> {
  return writeCommands(orm, organizationId, commands, { ...options, skipLocked: false, isShort: true });
}

/** The same without waiting: commands on locked entities are "busy", and nothing of them is done. */
export function writeGroupUnlessBusy(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
): Promise<(Result | Undone)[]> {
  return writeCommands(orm, organizationId, commands, { skipLocked: true, isShort: true });
}

/** The commands of one organization in a transaction that several share. */
export interface GroupOfShared {
  organizationId: string;
  commands: readonly Command[];
}

/**
 * Commands of several organizations in one transaction, without waiting: results for each group, in order. What is
 * undefined has been left undone, and wants a transaction of its organization alone; all of it where the shared one
 * fails, for whose fault `blame` is told.
 */
export async function writeGroupsUnlessBusy(
  connections: Connections,
  groups: readonly GroupOfShared[],
  blame: (organizationId: string) => void,
): Promise<(Result | "busy" | undefined)[][]> {
  const isShared = groups.length > 1;
  const works = groups.map(({ organizationId, commands }) => ({
    organizationId,
    work: (db: Pipeline) => runThoseWaitedFor(db, organizationId, commands, { skipLocked: true, isShared }),
  }));
  try {
    const results = await pipelinedTogether(connections, works, blame);
    return results.map((own) => own.map((result) => (result === "later" ? undefined : result)));
  } catch (error) {
    const failure: Result | undefined = isFailureOfAll(error) ? { kind: "failed", error } : undefined;
    return groups.map(({ commands }) => commands.map(() => failure));
  }
}

async function writeCommands(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
  options: TransactionOptions & { skipLocked: boolean; keepsOrder?: boolean; isShort: boolean },
): Promise<(Result | Undone)[]> {
  const { skipLocked, isShort, keepsOrder: isInOrder = false, ...ofTransactions } = options;
  let keepsOrder = isInOrder;
  const results = new Array<Result | Undone>(commands.length);
  const begun = performance.now();
  const mayTryAgain = isShort && !skipLocked;
  const alone = async (index: number): Promise<Result | Undone> => {
    // One after the other they wait no longer than one would.
    const waitedMs = (ofTransactions.waitedMs ?? 0) + performance.now() - begun;
    const itsOptions = { ...ofTransactions, isShort, mayTryAgain, waitedMs };
    const result = await writeAlone(orm, organizationId, commands[index] as Command, itsOptions);
    results[index] = result;
    return result;
  };
  let skip = skipLocked;
  const moves = lockRounds();
  let waiting = commands.map((_, index) => index);
  while (waiting.length > 0) {
    waiting = waiting.filter((index) => {
      const { signal } = commands[index] as Command;
      if (signal?.aborted) results[index] = { kind: "failed", error: signal.reason };
      return !signal?.aborted;
    });
    const group = waiting.map((index) => commands[index] as Command);
    const [first] = waiting;
    if (first === undefined) break;
    if (group.length === 1 && (!skip || keepsOrder)) {
      await alone(first);
      break;
    }
    let attempt: GroupResult[];
    try {
      attempt = await pipelined(
        orm,
        organizationId,
        (db) => runThoseWaitedFor(db, organizationId, group, { skipLocked: skip, keepsOrder, also: moves.also }),
        ofTransactions,
      );
    } catch (error) {
      if (moves.add(error)) continue;
      if (isFailureOfAll(error)) {
        for (const index of waiting) results[index] = { kind: "failed", error };
        break;
      }
      if (isRefusal(error) && group.length === 1) {
        results[first] = { kind: "refused", error };
        break;
      }
      if (isConflict(error) && !skip) {
        // Another transaction held a row for the whole lock time: now without those rows.
        skip = true;
        continue;
      }
      // Another writer took an id between our look and our insert, or a command has a defect: only those that it
      // concerns are refused.
      for (const [i, index] of waiting.entries()) {
        const result = await alone(index);
        if (typeof result === "string" || result.kind !== "failed" || !isFailureOfAll(result.error)) continue;
        for (const next of waiting.slice(i + 1)) results[next] = { kind: "failed", error: unavailable() };
        break;
      }
      break;
    }
    const later: number[] = [];
    attempt.forEach((result, i) => {
      const index = waiting[i] as number;
      if (result === "later") later.push(index);
      else results[index] = result;
    });
    // The first command needs a transaction of its own. Where it has waited in vain, no other waits too.
    if (later.length === waiting.length && hasConflict(await alone(later.shift() as number))) keepsOrder = false;
    waiting = later;
  }
  return results;
}

/** One command in a transaction of its own. Its refusal undoes all that it claimed. */
async function writeAlone(
  orm: Orm,
  organizationId: string,
  command: Command,
  { isShort, mayTryAgain, ...options }: TransactionOptions & { isShort: boolean; mayTryAgain: boolean },
): Promise<Result | Undone> {
  const moves = lockRounds();
  let collisions = 0;
  for (;;) {
    if (command.signal?.aborted) return { kind: "failed", error: command.signal.reason };
    try {
      const [result] = await pipelined(
        orm,
        organizationId,
        (db) => runGroup(db, organizationId, [command], { isAtomic: true, isShort, also: moves.also }),
        options,
      );
      if (result === undefined || result === "later" || result === "busy") throw new Error("a command has no result");
      return result;
    } catch (error) {
      if (error instanceof ManyCopies) return "long";
      if (moves.add(error)) continue;
      if (error instanceof LookupMoved) return { kind: "refused", error: keptMoving() };
      if (error instanceof UniqueViolation && ++collisions <= MAX_COLLISIONS) continue;
      if (error instanceof UniqueViolation) return { kind: "refused", error: collision(error) };
      if (mayTryAgain && isConflict(error)) return "busy";
      return isRefusal(error) || isConflict(error) ? { kind: "refused", error } : { kind: "failed", error };
    }
  }
}

/** What a transaction that begins anew is to lock from the beginning, a few times. */
function lockRounds() {
  const also = new Set<string>();
  let rounds = 0;
  return {
    also,
    /** Whether the error says that more is to be locked, and it may still be tried. */
    add(error: unknown): boolean {
      if (!(error instanceof LookupMoved) || ++rounds >= MAX_LOCK_ROUNDS) return false;
      for (const id of error.ids) also.add(id);
      return true;
    },
  };
}

/** For commands whose turn had not come: nothing of theirs was sent, whatever happened to the one before. */
const unavailable = () =>
  new DomainError("DATABASE_UNAVAILABLE", "The database does not answer: retry", { retry_after_ms: "500" });

export const collision = (cause: unknown) =>
  new DomainError("WRITE_CONFLICT", "Other writes took the same ids: retry", { retry_after_ms: "100" }, [], { cause });

/** Failures of the service or the database, as against refusals of the command. */
const FAILURES: readonly Reason[] = [
  "DATABASE_UNAVAILABLE",
  "COMMIT_UNKNOWN",
  "WRITE_CONFLICT",
  "DEADLINE_EXCEEDED",
  "CANCELLED",
];

const isRefusal = (error: unknown): error is DomainError =>
  error instanceof DomainError && !FAILURES.includes(error.reason);

const isConflict = (error: unknown): error is DomainError =>
  error instanceof DomainError && error.reason === "WRITE_CONFLICT";

const hasConflict = (result: Result | Undone): boolean =>
  typeof result === "object" && result.kind === "refused" && isConflict(result.error);

/** One by one it would be no better: the database is away, or what was sent may be there already. */
const isFailureOfAll = (error: unknown): boolean =>
  error instanceof DomainError && (error.reason === "DATABASE_UNAVAILABLE" || error.reason === "COMMIT_UNKNOWN");

/** The wait for a connection may have been long: commands whose callers have disconnected meanwhile are not begun. */
async function runThoseWaitedFor(
  db: Pipeline,
  organizationId: string,
  commands: readonly Command[],
  options: GroupOptions,
): Promise<GroupResult[]> {
  const live = commands.filter(({ signal }) => !signal?.aborted);
  const results = live.length === 0 ? [] : await runGroup(db, organizationId, live, options);
  if (live.length === commands.length) return results;
  const byCommand = new Map(live.map((command, i) => [command, results[i]]));
  return commands.map((command) => byCommand.get(command) ?? { kind: "failed", error: command.signal?.reason });
}
