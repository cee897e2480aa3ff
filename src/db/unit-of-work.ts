// Every write to entities goes through here: lock, decide, write the change with its event, answer.
// It takes a group of commands. Each is decided by its own pure rule on the state that the one before it
// left, has its own event and its own answer, and is refused alone; what is left is written by set-based
// statements and committed together.
import {
  type Change,
  changedFields,
  changedValues,
  type EntityState,
  type ExternalIdPolicy,
  primaryOf,
  taxIdKeyOf,
} from "../domain/entity.ts";
import { DomainError, notFound, type Reason } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import { type Lookup, lookupKeys, resolve } from "../domain/lookup.ts";
import type { Instant } from "../domain/time.ts";
import type { Orm } from "./orm.ts";
import * as queries from "./queries.ts";
import { claimRequests, forgetRequests, type RequestKey, rememberAnswers } from "./requests.ts";
import { pipelined, type TransactionOptions, UniqueViolation } from "./transaction.ts";
import { newId } from "./uuid.ts";

/** Who writes: from the credentials and the headers of the call. */
export interface Author {
  /** The API key. */
  principal: string;
  /** The user that the caller names, else the API key. */
  actor: string;
  source: string;
}

/** What a rule may know beside the entity. */
export interface World {
  /** Strictly after the entity's updatedAt, and after the command before. */
  now: Instant;
  policy: ExternalIdPolicy;
}

/** One write to one entity. */
export interface Command {
  author: Author;
  /** Which entity; absent: none, the rule makes one. */
  lookup?: Lookup;
  /** Decide on null when the lookup finds none, instead of NOT_FOUND. */
  allowMissing?: boolean;
  etag?: string | undefined;
  /** External ids that the rule may attach: whose they are is read with the entity. */
  claims?: readonly string[];
  /** Where in the request a claim stands, for DUPLICATE_EXTERNAL_ID. */
  claimField?: (externalId: string) => { field: string; index?: string };
  /** Refuse when another live entity has the tax id after the change. */
  uniqueTaxIdKey?: string | undefined;
  occurredAt?: Instant | undefined;
  /** Makes the write safe to retry: `answer` of the first outcome is kept and replayed. */
  request?: (Omit<RequestKey, "principal"> & { answer: (outcome: Outcome) => Uint8Array }) | undefined;
  /** Aborted, the command takes part in no transaction that begins after that. */
  signal?: Pick<AbortSignal, "aborted" | "reason"> | undefined;
  /** The rule: pure, since it may run more than once. */
  decide: (entity: EntityState | null, world: World) => Change | null;
}

/** What became of a command: the states around it (equal when nothing changed), read under one lock. */
export interface Outcome {
  before: EntityState | null;
  after: EntityState;
  updatedFields: readonly string[];
}

export type Result =
  | { kind: "done"; outcome: Outcome }
  | { kind: "replayed"; answer: Uint8Array }
  | { kind: "refused"; error: DomainError }
  /** Failed with its transaction: the database, the commit, the caller's signal, a defect. */
  | { kind: "failed"; error: unknown };

/** How often a single command is tried again after another write took an id that was free a moment ago. */
const MAX_COLLISIONS = 3;
const MAX_LOCK_ROUNDS = 5;

/**
 * Runs commands in order, in as few transactions as possible. A result per command, in order: what is true of
 * one that is committed stays so whatever happens to those after it. Waits for entities that others hold, the
 * lock time at most: then the commands that concern them are refused, not the others.
 */
export async function writeGroup(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
  options: TransactionOptions = {},
): Promise<Result[]> {
  const results = await writeGroupWaiting(orm, organizationId, commands, options);
  return results.map((result) => (result === "busy" ? { kind: "refused", error: heldByOthers() } : result));
}

/** The same, where those whose entities were held for all of that time are "busy": they may try again. */
export function writeGroupWaiting(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
  options: TransactionOptions = {},
): Promise<(Result | "busy")[]> {
  return writeCommands(orm, organizationId, commands, { ...options, skipLocked: false });
}

/** The same without waiting: commands on entities that others hold are "busy", and nothing of them is done. */
export function writeGroupUnlessBusy(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
): Promise<(Result | "busy")[]> {
  return writeCommands(orm, organizationId, commands, { skipLocked: true });
}

async function writeCommands(
  orm: Orm,
  organizationId: string,
  commands: readonly Command[],
  { skipLocked, ...options }: TransactionOptions & { skipLocked: boolean },
): Promise<(Result | "busy")[]> {
  const results = new Array<Result | "busy">(commands.length);
  const begun = performance.now();
  const alone = async (index: number): Promise<Result> => {
    // One after the other they wait no longer than one would.
    const waitedMs = (options.waitedMs ?? 0) + performance.now() - begun;
    const result = await writeAlone(orm, organizationId, commands[index] as Command, { ...options, waitedMs });
    results[index] = result;
    return result;
  };
  let skip = skipLocked;
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
    if (group.length === 1 && !skip) {
      await alone(first);
      break;
    }
    let attempt: (Result | "later" | "busy")[];
    try {
      attempt = await pipelined(
        orm,
        organizationId,
        (db) => runThoseWaitedFor(db, organizationId, group, skip),
        options,
      );
    } catch (error) {
      if (isFailureOfAll(error)) {
        for (const index of waiting) results[index] = { kind: "failed", error };
        break;
      }
      if (isRefusal(error) && group.length === 1) {
        results[first] = { kind: "refused", error };
        break;
      }
      if (isConflict(error) && !skip) {
        // Somebody held a row for the whole lock time: now without those rows.
        skip = true;
        continue;
      }
      // Somebody took an id between our look and our insert, or a command has a defect: only those that it
      // concerns are refused.
      for (const [i, index] of waiting.entries()) {
        const result = await alone(index);
        if (result.kind !== "failed" || !isFailureOfAll(result.error)) continue;
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
    // The first command needs a transaction of its own.
    if (later.length === waiting.length) await alone(later.shift() as number);
    waiting = later;
  }
  return results;
}

/** One command in a transaction of its own. Its refusal undoes all that it claimed. */
async function writeAlone(
  orm: Orm,
  organizationId: string,
  command: Command,
  options: TransactionOptions,
): Promise<Result> {
  for (let collisions = 1; ; collisions++) {
    if (command.signal?.aborted) return { kind: "failed", error: command.signal.reason };
    try {
      const [result] = await pipelined(
        orm,
        organizationId,
        (db) => runGroup(db, organizationId, [command], false),
        options,
      );
      if (result === undefined || result === "later" || result === "busy") throw new Error("a command has no result");
      return result;
    } catch (error) {
      if (error instanceof UniqueViolation && collisions <= MAX_COLLISIONS) continue;
      if (error instanceof UniqueViolation) return { kind: "refused", error: collision(error) };
      return isRefusal(error) || isConflict(error) ? { kind: "refused", error } : { kind: "failed", error };
    }
  }
}

/** For those whose turn had not come: nothing of theirs was sent, whatever happened to the one before. */
const unavailable = () =>
  new DomainError("DATABASE_UNAVAILABLE", "The database does not answer: retry", { retry_after_ms: "500" });

const collision = (cause: unknown) =>
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

export const heldByOthers = () =>
  new DomainError("WRITE_CONFLICT", "Another write held the rows for too long: retry", { retry_after_ms: "100" });

/** One by one it would be no better: the database is away, or what was sent may be there already. */
const isFailureOfAll = (error: unknown): boolean =>
  error instanceof DomainError && (error.reason === "DATABASE_UNAVAILABLE" || error.reason === "COMMIT_UNKNOWN");

/** A connection may have been long in coming: those whose callers have left meanwhile are not begun. */
async function runThoseWaitedFor(
  db: queries.Pipeline,
  organizationId: string,
  commands: readonly Command[],
  skipLocked: boolean,
): Promise<(Result | "later" | "busy")[]> {
  const live = commands.filter(({ signal }) => !signal?.aborted);
  const results = live.length === 0 ? [] : await runGroup(db, organizationId, live, skipLocked);
  if (live.length === commands.length) return results;
  const byCommand = new Map(live.map((command, i) => [command, results[i]]));
  return commands.map((command) => byCommand.get(command) ?? { kind: "failed", error: command.signal?.reason });
}

async function runGroup(
  db: queries.Pipeline,
  organizationId: string,
  commands: readonly Command[],
  skipLocked: boolean,
): Promise<(Result | "later" | "busy")[]> {
  const requests = commands.map(({ author, request }) => request && { ...request, principal: author.principal });
  // Sent together: claims, locks and what is read under them take one round trip.
  const [claims, group] = await Promise.all([
    claimRequests(db, organizationId, requests),
    openGroup(db, organizationId, commands, skipLocked),
  ]);
  const live = claims.filter((claim) => claim === "claimed").length;

  // What comes after a command that has to wait waits too: the order of the commands is kept.
  let stopped = false;
  const results = commands.map((command, i): Result | "later" | "busy" => {
    const claim = claims[i] ?? "later";
    if (claim === "later") stopped = true;
    else if (claim !== "claimed") {
      return "answer" in claim ? { kind: "replayed", answer: claim.answer } : { kind: "refused", error: claim.refused };
    }
    if (stopped) return "later";
    try {
      const result = group.run(command, live === 1);
      stopped = result === "later";
      return result;
    } catch (error) {
      if (!(error instanceof DomainError)) throw error;
      return { kind: "refused", error };
    }
  });
  const [only] = results;
  if (commands.length === 1 && typeof only === "object" && only.kind === "refused") throw only.error;

  await group.write(db);
  const answers: { key: RequestKey; answer: Uint8Array }[] = [];
  const undone: RequestKey[] = [];
  results.forEach((result, i) => {
    const [key, request] = [requests[i], commands[i]?.request];
    if (key === undefined || request === undefined || claims[i] !== "claimed") return;
    if (typeof result === "object" && result.kind === "done")
      answers.push({ key, answer: request.answer(result.outcome) });
    else undone.push(key);
  });
  // Sent, not waited for: should one fail, the transaction does.
  rememberAnswers(db, organizationId, answers).catch(() => {});
  forgetRequests(db, organizationId, undone).catch(() => {});
  return results;
}

/** Locks what the commands name, reads it, and holds the states that they leave. */
async function openGroup(
  db: queries.Pipeline,
  organizationId: string,
  commands: readonly Command[],
  skipLocked: boolean,
) {
  const keys: queries.Keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
  const claimed: string[] = [];
  const uniqueKeys: string[] = [];
  for (const { lookup, claims = [], uniqueTaxIdKey } of commands) {
    if (lookup !== undefined) lookupKeys(lookup, keys);
    claimed.push(...claims);
    if (uniqueTaxIdKey !== undefined) uniqueKeys.push(uniqueTaxIdKey);
  }
  if (uniqueKeys.length > 0) queries.lockTaxIdKeys(db, organizationId, uniqueKeys);
  const wanted = {
    entityIds: [],
    externalIds: [...new Set([...keys.externalIds, ...claimed])],
    taxIdKeys: [...new Set([...keys.taxIdKeys, ...uniqueKeys])],
  };

  const states = new Map<string, EntityState>();
  // An id that is not there is known not to be: nothing to lock. (Unless it may be there, and held.)
  const known = new Set(skipLocked ? [] : keys.entityIds);
  let hits: GroupHits;
  let clock: { now: Instant; policy: ExternalIdPolicy };
  for (let round = 1; ; round++) {
    // Under the lock, look again: while we waited, a key may have moved to another entity.
    const [locked, found, time] = await Promise.all([
      queries.lockEntities(db, organizationId, keys, { skipLocked }),
      queries.findHits(db, organizationId, wanted),
      queries.readClockAndPolicy(db, organizationId),
    ]);
    for (const state of locked) {
      states.set(state.id, state);
      known.add(state.id);
    }
    [hits, clock] = [{ ...found, cut: new Set() }, time];
    const complete = commands.every(({ lookup }) => {
      const id = lookup === undefined ? undefined : findOne(lookup, found);
      return id === undefined || known.has(id);
    });
    if (complete || skipLocked) break;
    if (round === MAX_LOCK_ROUNDS) {
      throw new DomainError("WRITE_CONFLICT", "The lookup kept moving: retry", { retry_after_ms: "100" });
    }
  }

  const original = new Map(states);
  const events: queries.EventRow[] = [];
  let time = clock.now - 1n;

  return {
    run(command: Command, alone: boolean): Result | "later" | "busy" {
      const taxIdKeys = [command.lookup?.by === "tax_id" ? command.lookup.key : undefined, command.uniqueTaxIdKey];
      if (taxIdKeys.some((key) => key !== undefined && hits.cut.has(key))) return "later";
      const id = command.lookup === undefined ? undefined : resolve(command.lookup, hits);
      // A command before this one moved the key to an entity that is not locked here, or that was not read.
      if (id !== undefined && !known.has(id)) return skipLocked ? "busy" : "later";
      const before = id === undefined ? null : (states.get(id) ?? null);
      if (before === null && command.lookup !== undefined) {
        if (!command.allowMissing || command.etag !== undefined) throw notFound(command.lookup.by);
      }
      if (before !== null && command.etag !== undefined && command.etag !== before.etag) {
        throw new DomainError("ETAG_MISMATCH", "The entity has changed since it was read: read it again, then retry", {
          etag: before.etag,
          entity_id: before.id,
        });
      }
      let now = time + 1n;
      if (before !== null && now <= before.updatedAt) now = before.updatedAt + 1n;
      const change = command.decide(before, { now, policy: clock.policy });
      if (change === null) {
        if (before === null) throw new Error("a rule made no entity");
        return { kind: "done", outcome: { before, after: before, updatedFields: [] } };
      }

      const after: EntityState = {
        ...change.values,
        id: before?.id ?? newId(),
        organizationId,
        version: (before?.version ?? 0) + 1,
        etag: newId(),
        createdAt: before?.createdAt ?? now,
        updatedAt: now,
      };
      refuseTaken(command, after, before, hits);
      // Rewriting the copies in activity rows is for a transaction of its own.
      const moved =
        before !== null &&
        primaryOf(before) !== undefined &&
        primaryOf(before)?.externalId !== primaryOf(after)?.externalId;
      if (moved && !alone) return "later";

      time = now;
      states.set(after.id, after);
      known.add(after.id);
      moveHits(hits, before, after);
      const updatedFields = changedFields(before, change.values);
      events.push({
        id: newId(),
        entity: after,
        type: change.type,
        updatedFields,
        ...changedValues(before, change.values, updatedFields),
        actor: command.author.actor,
        principal: command.author.principal,
        source: change.source ?? command.author.source,
        reason: change.reason,
        requestId: command.request?.requestId,
        metadata: change.metadata ?? {},
        occurredAt: command.occurredAt,
      });
      return { kind: "done", outcome: { before, after, updatedFields } };
    },

    /** Sends the statements; the transaction waits for them. */
    async write(db: queries.Pipeline): Promise<void> {
      const changed = [...states.values()].filter((state) => original.get(state.id) !== state);
      queries.insertEntities(
        db,
        organizationId,
        changed.filter((state) => !original.has(state.id)),
      );
      queries.writeExternalIds(
        db,
        organizationId,
        changed.map((state) => ({
          entityId: state.id,
          before: original.get(state.id)?.externalIds ?? [],
          after: state.externalIds,
        })),
      );
      queries.updateEntities(
        db,
        organizationId,
        changed.flatMap((after) => {
          const before = original.get(after.id);
          return before === undefined ? [] : [{ before, after }];
        }),
      );
      for (const state of changed) {
        const old = original.get(state.id);
        const [previous, next] = [old && primaryOf(old)?.externalId, primaryOf(state)?.externalId];
        if (previous === undefined || next === undefined || previous === next) continue;
        const rewritten = await queries.rewriteCopies(db, organizationId, { entityId: state.id, previous, next });
        for (const event of events) {
          if (event.entity.id === state.id) event.metadata = { ...event.metadata, rewrittenRows: { ...rewritten } };
        }
      }
      queries.insertEvents(db, organizationId, events);
    },
  };
}

/** The id to lock; an ambiguous lookup locks nothing and is refused in its turn. */
function findOne(lookup: Lookup, hits: queries.Hits): string | undefined {
  return lookup.by === "tax_id" && (hits.taxIdKeys.get(lookup.key)?.length ?? 0) > 1
    ? undefined
    : resolve(lookup, hits);
}

/** Rules 16, 47, 55 and 18: uniqueness, the last of the checks. */
function refuseTaken(command: Command, after: EntityState, before: EntityState | null, hits: queries.Hits): void {
  for (const { externalId } of after.externalIds) {
    const owner = hits.externalIds.get(externalId);
    if (owner === undefined || owner === after.id || before?.externalIds.some((id) => id.externalId === externalId))
      continue;
    const { field, index } = command.claimField?.(externalId) ?? { field: "external_id" };
    throw new DomainError(
      "DUPLICATE_EXTERNAL_ID",
      "Another entity has this external id",
      { field, ...(index === undefined ? {} : { index }) },
      [{ field, description: "is in use by another entity of the organization" }],
    );
  }
  if (command.uniqueTaxIdKey === undefined) return;
  if ((hits.taxIdKeys.get(command.uniqueTaxIdKey) ?? []).some((id) => id !== after.id)) {
    throw new DomainError("DUPLICATE_TAX_ID", "Another entity has this tax id", { field: "entity.tax_id" }, [
      { field: "entity.tax_id", description: "is in use by another entity of the organization" },
    ]);
  }
}

/** What the keys name as the commands so far have left it. */
interface GroupHits extends queries.Hits {
  /** Tax ids of which an entity is gone and others, not read, may be left. */
  cut: Set<string>;
}

/** Later commands of the group find entities by the keys that they have now. Only keys that were asked for count. */
function moveHits(hits: GroupHits, before: EntityState | null, after: EntityState): void {
  for (const { externalId } of before?.externalIds ?? []) {
    if (hits.externalIds.get(externalId) === after.id) hits.externalIds.delete(externalId);
  }
  for (const { externalId } of after.externalIds) hits.externalIds.set(externalId, after.id);
  const keyOf = (state: EntityState | null) => (state === null || state.deletedAt !== null ? null : taxIdKeyOf(state));
  const [old, now] = [keyOf(before), keyOf(after)];
  if (old === now) return;
  if (old !== null) {
    const ids = hits.taxIdKeys.get(old) ?? [];
    // There may be more than were read: who they are, the next transaction knows.
    if (ids.length > LIMITS.candidates) hits.cut.add(old);
    hits.taxIdKeys.set(
      old,
      ids.filter((id) => id !== after.id),
    );
  }
  if (now !== null) hits.taxIdKeys.set(now, [...(hits.taxIdKeys.get(now) ?? []), after.id].sort());
}
