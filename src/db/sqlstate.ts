// What PostgreSQL's error codes mean for a call, by class and, where one class holds several kinds, by code: the only
// place in src that knows one. INTERNAL is for defects of ours: whatever the server, its administrator or another
// session may cause by itself has another reason.
import type { Reason } from "../domain/errors.ts";

/** What a failure of the database means. */
export interface Meaning {
  /** For a call that only reads: it holds no rows of others and leaves nothing in doubt. */
  read: Extract<Reason, "DATABASE_UNAVAILABLE" | "DEADLINE_EXCEEDED" | "INTERNAL">;
  /** For one that writes. UNIQUE: a unique constraint, which the unit of work turns into a refusal of its own. */
  write: Meaning["read"] | Extract<Reason, "WRITE_CONFLICT" | "COMMIT_UNKNOWN"> | "UNIQUE";
  /** The connection can be used again; it must not be; or the server has ended it, without an answer to COMMIT. */
  connection: "keep" | "drop" | "ended";
  /** Nothing was done, and the same again may succeed at once. */
  again: boolean;
}

const DEFECT: Meaning = { read: "INTERNAL", write: "INTERNAL", connection: "keep", again: false };
const AWAY: Meaning = {
  read: "DATABASE_UNAVAILABLE",
  write: "DATABASE_UNAVAILABLE",
  connection: "drop",
  again: false,
};
const FULL: Meaning = { ...AWAY, connection: "keep" };
const SERIALIZATION: Meaning = {
  read: "DATABASE_UNAVAILABLE",
  write: "WRITE_CONFLICT",
  connection: "keep",
  again: true,
};
const TOO_SLOW: Meaning = { read: "DEADLINE_EXCEEDED", write: "DEADLINE_EXCEEDED", connection: "keep", again: false };

/** The connection could not be made, or ended while something was asked on it. */
export const ENDED: Meaning = { ...AWAY, connection: "ended" };
/** COMMIT was sent and not answered. */
export const IN_DOUBT: Meaning = { ...ENDED, write: "COMMIT_UNKNOWN" };
/** The plan of a prepared statement no longer fits, after a migration: nothing was done. */
export const PLAN_CHANGED: Meaning = { ...DEFECT, again: true };

/** Appendix A of PostgreSQL's manual, class by class; a test holds it against the server's own list. */
export const CLASSES: Readonly<Record<string, Meaning>> = {
  "00": DEFECT, // successful completion
  "01": DEFECT, // warning
  "02": DEFECT, // no data
  "03": DEFECT, // SQL statement not yet complete
  "08": ENDED, // connection exception; also what a pooler answers when it has no server
  "09": DEFECT, // triggered action exception
  "0A": DEFECT, // feature not supported, but for PLAN_CHANGED
  "0B": DEFECT, // invalid transaction initiation
  "0F": DEFECT, // locator exception
  "0L": DEFECT, // invalid grantor
  "0P": DEFECT, // invalid role specification
  "0Z": DEFECT, // diagnostics exception
  "10": DEFECT, // XQuery error
  "20": DEFECT, // case not found
  "21": DEFECT, // cardinality violation
  "22": DEFECT, // data exception
  "23": DEFECT, // integrity constraint violation
  "24": DEFECT, // invalid cursor state
  "25": DEFECT, // invalid transaction state
  "26": AWAY, // invalid SQL statement name: what this connection had prepared is gone, as behind a pooler
  "27": DEFECT, // triggered data change violation
  "28": AWAY, // invalid authorization specification
  "2B": DEFECT, // dependent privilege descriptors still exist
  "2D": DEFECT, // invalid transaction termination
  "2F": DEFECT, // SQL routine exception
  "34": DEFECT, // invalid cursor name
  "38": DEFECT, // external routine exception
  "39": DEFECT, // external routine invocation exception
  "3B": DEFECT, // savepoint exception
  "3D": AWAY, // invalid catalog name: there is no such database, as while it is restored
  "3F": DEFECT, // invalid schema name
  "40": SERIALIZATION, // transaction rollback
  "42": DEFECT, // syntax error or access rule violation
  "44": DEFECT, // WITH CHECK OPTION violation
  "53": AWAY, // insufficient resources
  "54": DEFECT, // program limit exceeded
  "55": DEFECT, // object not in prerequisite state
  "57": AWAY, // operator intervention
  "58": AWAY, // system error
  "72": SERIALIZATION, // snapshot too old; up to PostgreSQL 16
  F0: AWAY, // configuration file error
  HV: DEFECT, // foreign data wrapper error
  P0: DEFECT, // PL/pgSQL error
  XX: DEFECT, // internal error: corruption too, which nobody should retry
};

/** Codes that mean something else than the rest of their class. */
export const CODES: Readonly<Record<string, Meaning>> = {
  "23505": { ...DEFECT, write: "UNIQUE" }, // unique violation
  "25006": AWAY, // read-only SQL transaction: a standby, or a primary that somebody made read-only
  "25P03": ENDED, // idle in transaction session timeout
  "25P04": { ...TOO_SLOW, connection: "ended" }, // transaction timeout; from PostgreSQL 17
  "40002": DEFECT, // transaction integrity constraint violation
  "40003": IN_DOUBT, // statement completion unknown
  "42P05": AWAY, // duplicate prepared statement: somebody else prepared it on this connection, as behind a pooler
  "53100": FULL, // disk full
  "53200": FULL, // out of memory
  "53400": FULL, // configuration limit exceeded
  "55000": AWAY, // object not in prerequisite state: "recovery is in progress", which a standby answers to the feed
  "55P03": { ...SERIALIZATION, again: false }, // lock not available: the lock time is over
  "57014": TOO_SLOW, // query canceled
  "57P01": ENDED, // admin shutdown
  "57P02": ENDED, // crash shutdown
  "57P03": ENDED, // cannot connect now
  "57P04": ENDED, // database dropped
  "57P05": ENDED, // idle session timeout
};

/** An error as the server sent it. */
export interface ServerError {
  code: string;
  severity?: string | undefined;
  /** The function of the server that reported it, which no language of its messages changes. */
  routine?: string | undefined;
}

/** What an error of the server means; one of an unknown class is a defect. */
export function meaningOf({ code, severity, routine }: ServerError): Meaning {
  if (code === "0A000") {
    if (routine === "RevalidateCachedQuery") return PLAN_CHANGED;
    // `begin read write` on a standby.
    if (routine === "check_transaction_read_only") return AWAY;
  }
  const meaning = CODES[code] ?? CLASSES[code.slice(0, 2)] ?? DEFECT;
  if (meaning.connection === "ended" || (severity !== "FATAL" && severity !== "PANIC")) return meaning;
  return meaning === DEFECT ? ENDED : { ...meaning, connection: "ended" };
}

/** The server's error in a chain of causes. Node's codes may look like SQLSTATEs: EPIPE. */
export function serverErrorOf(error: unknown): ServerError | undefined {
  for (let e = error; e instanceof Error; e = e.cause) {
    const { code, severity, routine } = e as Error & Record<"code" | "severity" | "routine", unknown>;
    if (typeof code === "string" && /^[0-9A-Z]{5}$/.test(code) && typeof severity === "string") {
      return { code, severity, routine: typeof routine === "string" ? routine : undefined };
    }
  }
  return undefined;
}

/** The prepared statement has to be prepared anew. */
export function isPlanChange(error: unknown): boolean {
  const found = serverErrorOf(error);
  return found !== undefined && meaningOf(found) === PLAN_CHANGED;
}

/** The server refused it for want of a right. */
export function isRightMissing(error: unknown): boolean {
  return serverErrorOf(error)?.code === "42501";
}
