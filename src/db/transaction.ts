// One way into the database: a transaction of one organization, tried again where trying again is right,
// and every failure of the database turned into a reason of the contract.
import type { EntityManager } from "@mikro-orm/postgresql";
import { DomainError } from "../domain/errors.ts";
import { CommitUnknownError } from "./driver.ts";
import { forOrganization, type Orm, poolOf } from "./orm.ts";
import type { Pipeline, Statements } from "./queries.ts";

const MAX_ATTEMPTS = 4;
/** Thrown by PostgreSQL at one of two transactions that cannot both be: run it again. */
const SERIALIZATION = new Set(["40001", "40P01"]);
/** A cached plan no longer fits the table, after a migration: the next attempt plans anew. */
const PLAN_CHANGED = "0A000";

/** A unique constraint or index of the database was hurt: `constraint` is its name. */
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
  signal?: AbortSignal;
}

/**
 * Runs `work` as a MikroORM unit of work that sees `organizationId` alone. READ COMMITTED; a deadlock or a
 * serialisation failure is tried again with jitter, a unique violation is thrown as UniqueViolation, a lost
 * COMMIT is never tried again: COMMIT_UNKNOWN. `work` may run several times.
 */
export async function transaction<T>(
  orm: Orm,
  organizationId: string,
  work: (em: EntityManager) => Promise<T>,
  { validateOnly = false, signal }: TransactionOptions = {},
): Promise<T> {
  return attempts(signal, async () => {
    try {
      return await forOrganization(orm, organizationId).transactional(async (em) => {
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
  { validateOnly = false, signal }: TransactionOptions = {},
): Promise<T> {
  const pool = await poolOf(orm);
  return attempts(signal, async () => {
    const client = await pool.connect();
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
      send("begin");
      send("select set_config('app.organization_id', $1, true)", [organizationId]);
      const value = await work({
        execute: async <R>(text: string, values: readonly unknown[]) => (await send(text, values)).rows as R,
        send: (text, values) => void send(text, values),
      });
      if (validateOnly) send("set constraints all immediate");
      send(validateOnly ? "rollback" : "commit");
      await allOf(sent);
      broken = false;
      return value;
    } catch (error) {
      // Whatever is still on its way fails in the aborted transaction; the connection is clean after it.
      await client.query("rollback").then(
        () => {
          broken = false;
        },
        () => {},
      );
      // The statement that failed first is the cause; those after it only say that the transaction is aborted.
      const failures = (await Promise.allSettled(sent)).flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
      const [cause] = failures;
      if (error instanceof DomainError || cause === undefined) throw error;
      // COMMIT was on its way behind it: that an answer is missing does not say that the statement failed.
      throw sqlState(cause) === undefined ? (failures.find((failure) => failure instanceof CommitUnknownError) ?? cause) : cause;
    } finally {
      client.release(broken);
    }
  });
}

/** Reads in one round trip: BEGIN, the organization, the statements that `work` sends at once, COMMIT. */
export async function pipelinedRead<T>(
  orm: Orm,
  organizationId: string,
  work: (db: Statements) => Promise<T>,
): Promise<T> {
  return attempts(undefined, async () => {
    const client = await (await poolOf(orm)).connect();
    const sent: Promise<unknown>[] = [];
    const send = (text: string, values: readonly unknown[] = []) => {
      const result = client.send(text, values as unknown[]);
      result.catch(() => {});
      sent.push(result);
      return result;
    };
    let broken = true;
    try {
      send("begin read only");
      send("select set_config('app.organization_id', $1, true)", [organizationId]);
      const value = work({ execute: async <R>(text: string, values: readonly unknown[]) => (await send(text, values)).rows as R });
      value.catch(() => {});
      send("commit");
      // The first failure is the cause, the COMMIT's the last.
      await allOf(sent);
      broken = false;
      return await value;
    } finally {
      client.release(broken);
    }
  });
}

/** Waits for all, then throws the failure of the first that failed. */
async function allOf(promises: readonly Promise<unknown>[]): Promise<void> {
  const results = await Promise.allSettled(promises);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

async function attempts<T>(signal: AbortSignal | undefined, attempt: () => Promise<T>): Promise<T> {
  for (let count = 1; ; count++) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      const code = sqlState(error);
      if (code === undefined || !(SERIALIZATION.has(code) || code === PLAN_CHANGED)) throw toReason(error);
      if (count === MAX_ATTEMPTS) throw conflict(error);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 20 * 2 ** count));
    }
  }
}

/** Reads of one organization, outside of any write. */
export async function read<T>(orm: Orm, organizationId: string, work: (em: EntityManager) => Promise<T>): Promise<T> {
  try {
    return await work(forOrganization(orm, organizationId));
  } catch (error) {
    throw toReason(error);
  }
}

function conflict(cause: unknown): DomainError {
  return new DomainError(
    "WRITE_CONFLICT",
    "Another write held the rows for too long: retry",
    { retry_after_ms: "100" },
    [],
    { cause },
  );
}

function sqlState(error: unknown): string | undefined {
  for (let e = error; e instanceof Error; e = e.cause) {
    const code = (e as Error & { code?: unknown }).code;
    if (typeof code === "string" && /^[0-9A-Z]{5}$/.test(code)) return code;
  }
  return undefined;
}

/** What a failure of the database means to the caller. Anything unknown stays as it is and ends as INTERNAL. */
export function toReason(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof DomainError) return error;
  for (let e: unknown = error; e instanceof Error; e = e.cause) {
    if (e instanceof CommitUnknownError) {
      return new DomainError(
        "COMMIT_UNKNOWN",
        "The connection to the database was lost during the commit: retry with the same request_id",
        {},
        [],
        { cause: error },
      );
    }
  }
  const code = sqlState(error);
  if (code === "23505") return new UniqueViolation(constraintOf(error) ?? "", { cause: error });
  if (code === "55P03" || (code !== undefined && SERIALIZATION.has(code))) return conflict(error);
  if (code === "57014") {
    return new DomainError("DEADLINE_EXCEEDED", "The database took too long", {}, [], { cause: error });
  }
  if (code === undefined ? isConnectionFailure(error) : /^(08|53|57P|58)/.test(code)) {
    return new DomainError("DATABASE_UNAVAILABLE", "The database does not answer: retry", { retry_after_ms: "500" }, [], {
      cause: error,
    });
  }
  return error;
}

function constraintOf(error: unknown): string | undefined {
  for (let e = error; e instanceof Error; e = e.cause) {
    const name = (e as Error & { constraint?: unknown }).constraint;
    if (typeof name === "string") return name;
  }
  return undefined;
}

/** `pg` throws plain errors for these, told apart by their text alone. */
function isConnectionFailure(error: Error): boolean {
  for (let e: unknown = error; e instanceof Error; e = e.cause) {
    const code = (e as Error & { code?: unknown }).code;
    if (typeof code === "string" && /^E(CONN|PIPE|TIMEDOUT|NOTFOUND|AI_AGAIN|NOENT|HOST|NET)/.test(code)) return true;
    if (/connection terminated|timeout exceeded when trying to connect|not queryable|connection (ended|error)/i.test(e.message)) {
      return true;
    }
  }
  return false;
}
