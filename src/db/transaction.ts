// One way into the database: a transaction of one organization, tried again where trying again is right,
// and every failure of the database turned into a reason of the contract.
import type { EntityManager } from "@mikro-orm/postgresql";
import { DomainError } from "../domain/errors.ts";
import { type Access, causeOf, isStatementError, toReason, whatHappened } from "./failures.ts";
import { type Connections, pooled } from "./kept-connection.ts";
import type { NamedStatementClient } from "./named-statements.ts";
import { forOrganization, type Orm } from "./orm.ts";
import { PLAN_CHANGED } from "./sqlstate.ts";
import { createStamps } from "./stamps.ts";
import type { Pipeline, Statements } from "./statements.ts";
import { setOrganization, setOrganizationAndPlans, setPlans, setPlansAndLimits } from "./tenant.ts";

const ignore = () => {};

const MAX_ATTEMPTS = 4;
/** After a migration each connection may have to plan anew, and a retry may come to another connection. */
const MAX_PLAN_CHANGES = 20;

/** Ends the transaction with a rollback and answers `value`: for validate_only. */
class Rollback extends Error {
  readonly value: unknown;

  constructor(value: unknown) {
    super("rolled back on purpose");
    this.value = value;
  }
}

export interface TransactionOptions {
  /** Do everything, deferred constraints included, then roll back. */
  validateOnly?: boolean;
  /** Ended: no further attempt. */
  signal?: AbortSignal | undefined;
  /** How long the caller has waited for its turn, in milliseconds: its wait for locks is shortened by as much. */
  waitedMs?: number | undefined;
}

export interface ConnectionOptions {
  /** Where its connection comes from; by default the pool. */
  connections?: Connections | undefined;
}

/** A shorter wait for the turn does not justify a statement that shortens the wait for locks. */
const SOON_MS = 100;
/** The least wait for locks in milliseconds, however long the turn took: rows that are free then are taken. */
const LEAST_LOCK_MS = 50;
/** The setting has a unit, as '2s'. The view pg_settings says milliseconds, but reads all settings for it. */
const SHORTEN_LOCK_TIMEOUT = `select set_config('lock_timeout', greatest(
  (extract(epoch from current_setting('lock_timeout')::interval) * 1000)::int - $1, ${LEAST_LOCK_MS})::text, true)`;

/**
 * Runs `work` as a MikroORM unit of work that sees `organizationId` alone. READ COMMITTED; a deadlock or a
 * serialisation failure is tried again with jitter, a unique violation is thrown as UniqueViolation, a lost
 * COMMIT is never tried again: COMMIT_UNKNOWN. `work` may run several times.
 */
export async function transaction<T>(
  orm: Orm,
  organizationId: string,
  work: (em: EntityManager) => Promise<T>,
  { validateOnly = false, signal, waitedMs = 0 }: TransactionOptions = {},
): Promise<T> {
  return attempts("write", signal, async () => {
    try {
      return await forOrganization(orm, organizationId).transactional(async (em) => {
        if (waitedMs > SOON_MS) await em.execute(SHORTEN_LOCK_TIMEOUT, [Math.round(waitedMs)]);
        const value = await work(em as EntityManager);
        if (!validateOnly) return value;
        await em.execute("set constraints all immediate");
        throw new Rollback(value);
      });
    } catch (error) {
      if (error instanceof Rollback) return error.value as T;
      throw error;
    }
  });
}

/**
 * Runs `work` like `transaction`, for the hot paths: statements travel without waiting for the answer to the one before,
 * the first with BEGIN, the last with COMMIT. They are named and bound; `work` sends or awaits them.
 */
export function pipelined<T>(
  orm: Orm,
  organizationId: string,
  work: (pipeline: Pipeline) => Promise<T>,
  options: TransactionOptions & ConnectionOptions = {},
): Promise<T> {
  const { validateOnly = false, signal, waitedMs = 0, connections = pooled(orm) } = options;
  return attempts("write", signal, () =>
    begun(connections, { validateOnly }, (pipeline) => {
      setOrganizationAndPlans(pipeline.send, organizationId);
      if (waitedMs > SOON_MS) pipeline.send(SHORTEN_LOCK_TIMEOUT, [Math.round(waitedMs)]);
      return work(pipeline);
    }),
  );
}

/** What one organization does in a transaction that several share. */
export interface Share<T> {
  organizationId: string;
  work: (pipeline: Pipeline) => Promise<T>;
}

/** The longest that a statement of a shared transaction may take, and wait for a lock: the others wait with it. */
const SHARED_LIMITS = { statementMs: 1_000, lockMs: 50 };

/**
 * Like `pipelined`, for several organizations in one transaction: all of them or none. Every statement runs under the
 * setting of its own organization, which travels before it wherever the statement before was of another one. Where it
 * fails for what an organization's own statement did, `blame` is told whose.
 */
export function pipelinedTogether<T>(
  connections: Connections,
  shares: readonly Share<T>[],
  blame: (organizationId: string) => void,
): Promise<T[]> {
  return attempts("write", undefined, () =>
    begun(connections, {}, async (pipeline) => {
      let current: string | undefined;
      let culprit: string | undefined;
      setPlansAndLimits(pipeline.send, SHARED_LIMITS);
      const pipelineAs = (organizationId: string): Pipeline => {
        const enter = () => {
          if (current !== organizationId) setOrganization(pipeline.send, organizationId);
          current = organizationId;
        };
        // After the first, all that were sent behind it fail: they are told in the order in which they were sent.
        const failed = () => {
          culprit ??= organizationId;
        };
        return {
          execute(text, values) {
            enter();
            return pipeline.execute(text, values, failed);
          },
          send(text, values) {
            enter();
            pipeline.send(text, values, failed);
          },
          stamp: pipeline.stamp,
        };
      };
      // Whoever fails, the others have nothing more to send before the transaction is over.
      const worked = await Promise.allSettled(
        shares.map(({ organizationId, work }) => work(pipelineAs(organizationId))),
      );
      culprit ??= shares[worked.findIndex(({ status }) => status === "rejected")]?.organizationId;
      if (culprit !== undefined) blame(culprit);
      return worked.map((outcome) => {
        if (outcome.status === "rejected") throw outcome.reason;
        return outcome.value;
      });
    }),
  );
}

/** `failed` is called when the statement fails, in the order of the statements. */
interface WatchedPipeline extends Pipeline {
  execute<R>(text: string, values: readonly unknown[], failed?: () => void): Promise<R>;
  send(text: string, values: readonly unknown[], failed?: () => void): void;
}

/** One attempt: BEGIN, `work`, COMMIT, on one connection. */
async function begun<T>(
  connections: Connections,
  { validateOnly = false }: { validateOnly?: boolean },
  work: (pipeline: WatchedPipeline) => Promise<T>,
): Promise<T> {
  const { client, release } = await connections.take();
  let broken = true;
  /** In the order of the statements. */
  const failures: unknown[] = [];
  const { post, stamp, look, refuseLate } = createStamps(client, failures, connections.writeTimes);
  const pipeline: WatchedPipeline = {
    execute<R>(text: string, values: readonly unknown[], failed = ignore) {
      const executed = new Promise<R>((resolve, reject) => {
        const fail = (error: Error) => {
          failed();
          reject(error);
        };
        post(text, values, fail, (rows) => resolve(rows as R));
      });
      // The failure is kept, also where `work` has ended before it waits for this.
      executed.catch(ignore);
      return executed;
    },
    send: (text, values, failed = ignore) => post(text, values, failed),
    stamp,
  };
  try {
    // Not plain "begin", which the driver treats as Kysely's; nor "read write", which would overrule an administrator
    // who made the database read-only.
    pipeline.send("begin isolation level read committed", []);
    const value = await work(pipeline);
    if (validateOnly) pipeline.send("set constraints all immediate", []);
    else look();
    // Behind a statement that failed it fails too.
    await client.send(validateOnly ? "rollback" : "commit").catch((error: unknown) => {
      failures.push(error);
    });
    refuseLate();
    if (failures.length > 0) throw failures[0];
    broken = false;
    return value;
  } catch (error) {
    await client.query("rollback").catch((failure: unknown) => failures.push(failure));
    // Whatever was still in flight has failed in the aborted transaction: the connection is clean.
    broken = failures.some((failure) => !isStatementError(failure));
    const cause = causeOf(failures);
    if (error instanceof DomainError || cause === undefined) throw error;
    // The statement's own stack ends in the driver: this one says whose it was.
    throw new Error("a statement of the unit of work failed", { cause });
  } finally {
    release(broken);
  }
}

/** Reads in one round trip: each statement of `work` is a transaction of its own that sees `organizationId` alone. */
export async function readStatements<T>(
  orm: Orm,
  organizationId: string,
  work: (db: Statements) => Promise<T>,
  connections: Connections = pooled(orm),
): Promise<T> {
  return reading(connections, (send) => setOrganizationAndPlans(send, organizationId), work);
}

/** The same for statements that wait for rows which others write: WRITE_CONFLICT where these are held for too long. */
export function waitingStatements<T>(
  orm: Orm,
  organizationId: string,
  work: (db: Statements) => Promise<T>,
): Promise<T> {
  return reading(pooled(orm), (send) => setOrganizationAndPlans(send, organizationId), work, "write");
}

/** The same for statements that name their organizations themselves, by `settingOf`. */
export function readJoined<T>(connections: Connections, work: (db: Statements) => Promise<T>): Promise<T> {
  return reading(connections, setPlans, work);
}

async function reading<T>(
  connections: Connections,
  set: Parameters<NamedStatementClient["sendBehind"]>[0],
  work: (db: Statements) => Promise<T>,
  access: Access = "read",
): Promise<T> {
  return attempts(access, undefined, async () => {
    const { client, release } = await connections.take();
    let failure: unknown;
    try {
      return await work({
        execute: async <R>(text: string, values: readonly unknown[]) =>
          (await client.sendBehind(set, text, values)).rows as R,
      });
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      release(failure !== undefined && !isStatementError(failure));
    }
  });
}

async function attempts<T>(access: Access, signal: AbortSignal | undefined, attempt: () => Promise<T>): Promise<T> {
  let count = 0;
  let planChanges = 0;
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      const meaning = whatHappened(error);
      if (meaning?.again !== true) throw toReason(error, access);
      if (meaning === PLAN_CHANGED) {
        if (++planChanges > MAX_PLAN_CHANGES) throw toReason(error, access);
        continue;
      }
      if (++count === MAX_ATTEMPTS) throw toReason(error, access);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 20 * 2 ** count));
    }
  }
}

/** Reads of one organization, outside of any write. */
export async function read<T>(orm: Orm, organizationId: string, work: (em: EntityManager) => Promise<T>): Promise<T> {
  return attempts("read", undefined, () => work(forOrganization(orm, organizationId)));
}
