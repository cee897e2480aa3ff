// Before anything is done in a database that somebody else runs: does it answer, can it be written, and does a
// connection stay the same one? Each refusal says what to do.
import { randomUUID } from "node:crypto";
import pg from "pg";
import { clientConfig, type DatabaseAddress, placeOf } from "./address.ts";
import { serverErrorOf } from "./sqlstate.ts";

/** SQL: a standby, or a primary whose transactions are read-only. */
export const CANNOT_WRITE = "pg_is_in_recovery() or current_setting('transaction_read_only')::bool";

/** The database cannot be served as it is; the text says what to do, and holds no password. */
export class DatabaseStartError extends Error {
  override readonly name = "DatabaseStartError";
}

/** For a connection, and for an answer on it: a pooler without a free server connection makes its clients wait. */
const LIMIT_MS = 10_000;
const ROUNDS = 10;

/** Throws DatabaseStartError. `variable` is the setting that names the address. */
export async function probe(variable: string, address: DatabaseAddress): Promise<void> {
  const at = `${variable} (${placeOf(address)})`;
  await using first = await open(at, address);
  const { rows } = await first.query(`select pg_backend_pid() as pid, ${CANNOT_WRITE} as cannot_write`);
  if (rows[0].cannot_write) {
    throw new DatabaseStartError(
      `${at} cannot be written: it is a standby, or default_transaction_read_only is on. Name the primary`,
    );
  }
  // A direct connection was told the number of its server process when it connected; a pooler tells its own.
  if (rows[0].pid === first.processID) return;
  await using second = await open(at, address);
  if (await sharesServers(first, second)) {
    throw new DatabaseStartError(
      `${at} is a pooler that changes the server connection from one transaction to the next: the service sets its role and its limits once a connection, and would run without them. Set its pool_mode to session for this database, or connect to PostgreSQL itself`,
    );
  }
}

/** Whether a setting of one session leaks into the other, or is lost from its own. */
async function sharesServers(first: pg.Client, second: pg.Client): Promise<boolean> {
  const mark = randomUUID();
  const look = async (client: pg.Client) =>
    (await client.query("select pg_backend_pid() as pid, current_setting('app.probe', true) as mark")).rows[0];
  try {
    await first.query("select set_config('app.probe', $1, false)", [mark]);
    const before = await look(first);
    if (before.mark !== mark) return true;
    // Repeatedly: other clients of the pooler may take the connection that would have shown it.
    for (let round = 0; round < ROUNDS; round++) {
      // Inside a transaction any pooler gives a client a server connection of its own: the one used last of the free.
      await second.query("begin");
      const other = await look(second);
      if (other.pid === before.pid || other.mark === mark) return true;
      const after = await look(first);
      if (after.pid !== before.pid || after.mark !== mark) return true;
      await second.query("rollback");
    }
    return false;
  } catch (error) {
    // A pooler of single statements refuses BEGIN; one that has no second server connection does not answer.
    if (serverErrorOf(error) !== undefined || /timeout/i.test(String(error))) return true;
    throw error;
  } finally {
    await second.query("rollback").catch(() => {});
    await first.query("select set_config('app.probe', '', false)").catch(() => {});
  }
}

async function open(
  at: string,
  address: DatabaseAddress,
): Promise<pg.Client & AsyncDisposable & { processID: number }> {
  const client = new pg.Client({
    ...clientConfig(address),
    connectionTimeoutMillis: LIMIT_MS,
    query_timeout: LIMIT_MS,
    application_name: "entity-service",
  });
  client.on("error", () => {});
  try {
    await client.connect();
  } catch (cause) {
    await client.end().catch(() => {});
    throw new DatabaseStartError(`${at} cannot be reached: ${explain(cause)}`, { cause });
  }
  return Object.assign(client as pg.Client & { processID: number }, { [Symbol.asyncDispose]: () => client.end() });
}

const NAME_THE_AUTHORITY =
  "name the authority of its certificate with sslrootcert=/path/to/ca.pem in the URL, or encrypt without verifying with sslmode=require";
const CERTIFICATE: Readonly<Record<string, string>> = {
  SELF_SIGNED_CERT_IN_CHAIN: NAME_THE_AUTHORITY,
  DEPTH_ZERO_SELF_SIGNED_CERT: NAME_THE_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT: NAME_THE_AUTHORITY,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: NAME_THE_AUTHORITY,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: NAME_THE_AUTHORITY,
  CERT_SIGNATURE_FAILURE: NAME_THE_AUTHORITY,
  ERR_TLS_CERT_ALTNAME_INVALID:
    "its certificate is for another name: use that name in the URL, or sslmode=verify-ca with sslrootcert",
};

function explain(error: unknown): string {
  const { code, message } = error as Error & { code?: string };
  if (/does not support SSL/i.test(message)) {
    return "the server does not offer TLS: leave sslmode out of the URL, or set it to disable";
  }
  const cure = code === undefined ? undefined : CERTIFICATE[code];
  if (cure !== undefined) return `${code}: ${cure}`;
  if (code === "28P01") return "the password is refused, or there is no such user";
  if (/password must be a string/.test(message)) return "the server asks for a password, and the URL has none";
  return code === undefined || message.includes(code) ? message || String(error) : `${message} (${code})`;
}
