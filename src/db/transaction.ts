// One way into the database: a transaction of one organization, tried again where trying again is right,
// and every failure of the database turned into a reason of the contract.
import type { EntityManager } from "@mikro-orm/postgresql";
import { DomainError } from "../domain/errors.ts";
import { type Connections, pooled } from "./kept-connection.ts";
import { CommitUnknownError, type NamedStatementClient, NO_CONNECTION } from "./named-statements.ts";
import { forOrganization, type Orm } from "./orm.ts";
import { ENDED, IN_DOUBT, type Meaning, meaningOf, PLAN_CHANGED, serverErrorOf } from "./sqlstate.ts";
import type { Pipeline, Statements } from "./statements.ts";
import { setOrganizationAndPlans, setPlans } from "./tenant.ts";

const MAX_ATTEMPTS = 4;
/** After a migration each connection may have to plan anew, and a retry may come to another connection. */
const MAX_PLAN_CHANGES = 20;

/** A unique constraint or index of the database was violated: `constraint` is its name. */
export class UniqueViolation extends Error {
  override readonly name = "UniqueViolation";
  readonly constraint: string;

  constructor(constraint: string, options: ErrorOptions) {
    super(`unique constraint ${constraint}`, options);
    this.constraint = constraint;
  }
}

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
const SHORTEN_LOCK_TIMEOUT = `select set_config('lock_timeout', greatest(setting::int - $1, ${LEAST_LOCK_MS})::text, true)
  from pg_settings where name = 'lock_timeout'`;

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
 * Runs `work` like `transaction`, for the hot paths: on a connection of the same pool, statements travel
 * without waiting for the answer to the one before, the first with BEGIN, the last with COMMIT. Statements
 * are named and bound; `work` sends or awaits them.
 */
export async function pipelined<T>(
  orm: Orm,
  organizationId: string,
  work: (pipeline: Pipeline) => Promise<T>,
  {
    validateOnly = false,
    signal,
    waitedMs = 0,
    connections = pooled(orm),
  }: TransactionOptions & ConnectionOptions = {},
): Promise<T> {
  return attempts("write", signal, async () => {
    const { client, release } = await connections.take();
    let broken = true;
    const sent: Promise<unknown>[] = [];
    const send = (text: string, values: readonly unknown[] = []) => {
      const result = client.send(text, values as unknown[]);
      // Each is looked at in the end; until then none is an unhandled rejection.
      result.catch(() => {});
      sent.push(result);
      return result;
    };
    try {
      // Not plain "begin", which the driver treats as Kysely's; nor "read write", which would overrule an administrator
      // who made the database read-only.
      void send("begin isolation level read committed");
      void setOrganizationAndPlans(send, organizationId);
      if (waitedMs > SOON_MS) void send(SHORTEN_LOCK_TIMEOUT, [Math.round(waitedMs)]);
      const value = await work({
        execute: async <R>(text: string, values: readonly unknown[]) => (await send(text, values)).rows as R,
        send: (text, values) => void send(text, values),
      });
      if (validateOnly) void send("set constraints all immediate");
      void send(validateOnly ? "rollback" : "commit");
      await Promise.all(sent);
      broken = false;
      return value;
    } catch (error) {
      const outcomes = await Promise.allSettled([...sent, client.query("rollback")]);
      // Whatever was still in flight has failed in the aborted transaction: the connection is clean.
      broken = outcomes.some((outcome) => outcome.status === "rejected" && !isStatementError(outcome.reason));
      const cause = causeOf(outcomes);
      if (error instanceof DomainError || cause === undefined) throw error;
      // The statement's own stack ends in the driver: this one says whose it was.
      throw new Error("a statement of the unit of work failed", { cause });
    } finally {
      release(broken);
    }
  });
}

/** The server refused a statement: the transaction is definitely not committed, and the connection can be used again. */
function isStatementError(error: unknown): boolean {
  const found = serverErrorOf(error);
  return found === undefined
    ? error instanceof Error && /not committed/.test(error.message)
    : meaningOf(found).connection === "keep";
}

/**
 * The error of statements sent together: the first that the server refused, even by ending the connection; those after
 * it, COMMIT included, had no effect. If none was refused and the answer to COMMIT is lost, that is the error,
 * whatever other answers were lost with the connection.
 */
function causeOf(outcomes: readonly PromiseSettledResult<unknown>[]): unknown {
  const failures = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason] : []));
  const unknown = failures.find((failure) => failure instanceof CommitUnknownError);
  return failures.find((failure) => failure !== unknown && sqlState(failure) !== undefined) ?? unknown ?? failures[0];
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

/** The same for statements that name their organizations themselves, by `settingOf`. */
export function readJoined<T>(connections: Connections, work: (db: Statements) => Promise<T>): Promise<T> {
  return reading(connections, setPlans, work);
}

async function reading<T>(
  connections: Connections,
  set: Parameters<NamedStatementClient["sendBehind"]>[0],
  work: (db: Statements) => Promise<T>,
): Promise<T> {
  return attempts("read", undefined, async () => {
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

/** Whether a call only reads, or writes: the same failure means less to a read. */
export type Access = "read" | "write";

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

/** The SQLSTATE of a failure, if the database reported it. */
export const sqlState = (error: unknown): string | undefined => serverErrorOf(error)?.code;

/** What a failure of the database means to the caller. Anything unknown stays as it is and ends as INTERNAL. */
export function toReason(error: unknown, access: Access): unknown {
  if (!(error instanceof Error) || error instanceof DomainError) return error;
  const options = { cause: error };
  switch (whatHappened(error)?.[access]) {
    case "DATABASE_UNAVAILABLE":
      return new DomainError(
        "DATABASE_UNAVAILABLE",
        "The database does not answer: retry",
        { retry_after_ms: "500" },
        [],
        options,
      );
    case "COMMIT_UNKNOWN":
      return new DomainError(
        "COMMIT_UNKNOWN",
        "The connection to the database was lost during the commit: retry with the same request_id",
        {},
        [],
        options,
      );
    case "WRITE_CONFLICT":
      return new DomainError(
        "WRITE_CONFLICT",
        "Another write held the rows for too long: retry",
        { retry_after_ms: "100" },
        [],
        options,
      );
    case "DEADLINE_EXCEEDED":
      return new DomainError("DEADLINE_EXCEEDED", "The database took too long", {}, [], options);
    case "UNIQUE":
      return new UniqueViolation(constraintOf(error) ?? "", options);
    default:
      return error;
  }
}

/** Undefined for what is no failure of the database. */
function whatHappened(error: unknown): Meaning | undefined {
  for (let e = error; e instanceof Error; e = e.cause) {
    if (e instanceof DomainError) return undefined;
    if (e instanceof CommitUnknownError) return IN_DOUBT;
    if ((e as Error & { code?: unknown }).code === NO_CONNECTION) return ENDED;
  }
  const found = serverErrorOf(error);
  if (found !== undefined) return meaningOf(found);
  return isConnectionFailure(error) ? ENDED : undefined;
}

function constraintOf(error: unknown): string | undefined {
  for (let e = error; e instanceof Error; e = e.cause) {
    const name = (e as Error & { constraint?: unknown }).constraint;
    if (typeof name === "string") return name;
  }
  return undefined;
}

/** A connection that ended without a word of the server: `pg` throws plain errors then, told apart by their text alone. */
function isConnectionFailure(error: unknown): boolean {
  for (let e = error; e instanceof Error; e = e.cause) {
    const code = (e as Error & { code?: unknown }).code;
    if (typeof code === "string" && /^E(CONN|PIPE|TIMEDOUT|NOTFOUND|AI_AGAIN|NOENT|HOST|NET)/.test(code)) return true;
    if (
      /connection terminated|timeout exceeded when trying to connect|query read timeout|not queryable|connection (ended|error)/i.test(
        e.message,
      )
    ) {
      return true;
    }
  }
  return false;
}
