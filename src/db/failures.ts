// What a failure of the database means to a call: its server's error, its connection's end, or a commit in doubt, as a
// reason of the contract.
import { DomainError } from "../domain/errors.ts";
import { CommitUnknownError, NO_CONNECTION } from "./named-statements.ts";
import { ENDED, IN_DOUBT, type Meaning, meaningOf, serverErrorOf } from "./sqlstate.ts";

/** A unique constraint or index of the database was violated: `constraint` is its name. */
export class UniqueViolation extends Error {
  override readonly name = "UniqueViolation";
  readonly constraint: string;

  constructor(constraint: string, options: ErrorOptions) {
    super(`unique constraint ${constraint}`, options);
    this.constraint = constraint;
  }
}

/** Whether a call only reads, or writes: the same failure means less to a read. */
export type Access = "read" | "write";

/** The server refused a statement: the transaction is definitely not committed, and the connection can be used again. */
export function isStatementError(error: unknown): boolean {
  const found = serverErrorOf(error);
  return found === undefined
    ? error instanceof Error && /not committed/.test(error.message)
    : meaningOf(found).connection === "keep";
}

/**
 * The error among those of statements sent together, in their order: the first that the server refused, even by ending
 * the connection; those after it, COMMIT included, had no effect. If none was refused and the answer to COMMIT is lost,
 * that is the error, whatever other answers were lost with the connection.
 */
export function causeOf(failures: readonly unknown[]): unknown {
  const unknown = failures.find((failure) => failure instanceof CommitUnknownError);
  return failures.find((failure) => failure !== unknown && sqlState(failure) !== undefined) ?? unknown ?? failures[0];
}

/** The SQLSTATE of a failure, if the database reported it. */
export const sqlState = (error: unknown): string | undefined => serverErrorOf(error)?.code;

/** One statement took too long; its transaction and its connection are there yet. */
export const isStatementTimeout = (error: unknown): boolean => sqlState(error) === "57014";

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
export function whatHappened(error: unknown): Meaning | undefined {
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
