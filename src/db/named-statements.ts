// The client of the pool: it names each statement, so that PostgreSQL plans it once a connection, says what a failed
// statement means for its connection, and sends statements before the answer to the one before.
import type { Socket } from "node:net";
import pg from "pg";
import { isPlanChange, meaningOf, serverErrorOf } from "./sqlstate.ts";
import { OrganizationQuery, prepareOrganization } from "./tenant.ts";

/** COMMIT was sent and its answer is lost: the transaction is there or it is not. */
export class CommitUnknownError extends Error {
  override readonly name = "CommitUnknownError";
}

export const NO_CONNECTION = "NO_CONNECTION";

/** A connection could not be made, or not be made what it has to be. Told by its code, which MikroORM's errors copy. */
export class NoConnectionError extends Error {
  override readonly name = "NoConnectionError";
  readonly code = NO_CONNECTION;

  constructor(cause: unknown) {
    super("no connection to the database", { cause });
  }
}

const MAX_NAMED_STATEMENTS = 500;
/** The OID of text[], which pg's types do not list. */
const TEXT_ARRAY = 1009 as Parameters<pg.Client["getTypeParser"]>[0];
/** No element is quoted, empty, null or an array. */
const PLAIN_ARRAY = /^\{(?!\w*NULL)[\w.:-]+(?:,(?!\w*NULL)[\w.:-]+)*\}$/i;
/** What a transaction answers to everything after an error. */
const IN_FAILED_TRANSACTION = "25P02";

type QueryArguments = [text: string | pg.QueryConfig, values?: unknown[]];

/** A client whose parameterised statements are named, and whose COMMIT does not lie. The type of a pool's clients. */
export class NamedStatementClient extends pg.Client {
  readonly #names = new Map<string, string>();
  /** Counts the migrations that this connection has met: each makes all names new. */
  #generation = 0;
  #gathering = false;

  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const parse = this.getTypeParser(TEXT_ARRAY) as (text: string) => string[];
    // Every event has two, and nearly all of them need no parser.
    this.setTypeParser(TEXT_ARRAY, (text) => (PLAIN_ARRAY.test(text) ? text.slice(1, -1).split(",") : parse(text)));
  }

  // The pool uses the callback form.
  // biome-ignore lint/suspicious/noExplicitAny: the overloads of pg.Client.connect cannot be restated by a subclass
  override connect(callback?: (...args: any[]) => void): any {
    if (callback === undefined) return super.connect();
    return super.connect((error: Error | null) => callback(error ? new NoConnectionError(error) : null));
  }

  // The callback and submittable forms of pg pass through untouched; Kysely uses the promise form.
  // biome-ignore lint/suspicious/noExplicitAny: the overloads of pg.Client.query cannot be restated by a subclass
  override query(...args: any[]): any {
    const [text, values] = args as QueryArguments;
    if (typeof text !== "string" || args.length > 2) return (super.query as (...a: unknown[]) => unknown)(...args);
    if (text === "begin" || text.startsWith("start transaction")) return this.#begin(text);
    if (text === "rollback") return this.#rollback();
    return this.send(text, values).catch((error: unknown) => {
      if (!isPlanChange(error)) throw this.#leaveIfUnfit(error);
      // Within a transaction this fails like everything after an error: the caller that began it begins it again.
      return this.send(text, values).catch((second: unknown) => {
        throw (second as pg.DatabaseError).code === IN_FAILED_TRANSACTION ? error : this.#leaveIfUnfit(second);
      });
    });
  }

  /** Kysely returns its connections whatever happened on them: one that must not be used again ends itself. */
  #leaveIfUnfit(error: unknown): unknown {
    const found = serverErrorOf(error);
    if (found !== undefined && meaningOf(found).connection !== "keep") this.end().catch(() => {});
    return error;
  }

  /**
   * Like query, for statements that are sent before the answer to the one before: a plan that no longer fits
   * is an error. Tried again here it could run behind the COMMIT, where no organization is set any more and
   * every table looks empty; the next transaction plans anew.
   */
  async send(text: string, values: unknown[] = []): Promise<pg.QueryResult> {
    this.#gather();
    if (text === "commit") return this.#commit();
    if (values.length === 0) return super.query(text);
    return this.#named(text, (name) => super.query(name === undefined ? { text, values } : { name, text, values }));
  }

  /**
   * Sends a statement that reads, as `send` does, in a transaction of its own that sees one organization: the setting
   * and the statement travel without a Sync between them, and are one implicit transaction. With BEGIN and COMMIT
   * it would be four statements. Needs prepareOrganization once.
   */
  async sendIn(organizationId: string, text: string, values: unknown[]): Promise<pg.QueryResult> {
    this.#gather();
    return this.#named(
      text,
      (name) =>
        new Promise((resolve, reject) => {
          const callback = (error: Error | undefined, result: pg.QueryResult) =>
            error ? reject(error) : resolve(result);
          super.query(new OrganizationQuery(organizationId, { name: name ?? "", text, values, callback }));
        }),
    );
  }

  /** Makes sendIn possible. */
  async prepareOrganization(): Promise<void> {
    await prepareOrganization((config) => super.query(config));
  }

  async #named(text: string, send: (name: string | undefined) => Promise<pg.QueryResult>): Promise<pg.QueryResult> {
    try {
      return await send(this.#nameOf(text));
    } catch (error) {
      if (isPlanChange(error)) {
        this.#names.clear();
        this.#generation++;
      }
      throw error;
    }
  }

  /** What is sent in one turn of the event loop travels in one write: each costs a system call and may wake the server. */
  #gather(): void {
    if (this.#gathering) return;
    this.#gathering = true;
    const { stream } = (this as unknown as { connection: { stream: Socket } }).connection;
    stream.cork();
    process.nextTick(() => {
      this.#gathering = false;
      stream.uncork();
    });
  }

  #nameOf(text: string): string | undefined {
    let name = this.#names.get(text);
    if (name === undefined && this.#names.size < MAX_NAMED_STATEMENTS) {
      name = `s${this.#generation}_${this.#names.size}`;
      this.#names.set(text, name);
    }
    return name;
  }

  /** Kysely (0.29.6) forgets a connection whose BEGIN fails: the pool would count it for ever. */
  async #begin(text: string): Promise<pg.QueryResult> {
    try {
      return await super.query(text);
    } catch (error) {
      this.end().catch(() => {});
      (this as unknown as { release?: () => void }).release?.();
      throw error;
    }
  }

  async #commit(): Promise<pg.QueryResult> {
    let result: pg.QueryResult;
    try {
      result = await super.query("commit");
    } catch (error) {
      const found = serverErrorOf(error);
      if (found !== undefined && meaningOf(found).connection !== "ended") throw error;
      throw new CommitUnknownError("the connection was lost during the commit", { cause: error });
    }
    // A COMMIT of a failed transaction is answered ROLLBACK, which the driver takes for success.
    if (result.command !== "COMMIT") throw new Error(`the transaction was not committed: ${result.command}`);
    return result;
  }

  /**
   * Never fails: a connection that cannot roll back is ended, which rolls back as well. Kysely hands a
   * connection back to the pool only after a rollback that succeeded; each lost one would keep its place.
   */
  async #rollback(): Promise<pg.QueryResult> {
    try {
      return await super.query("rollback");
    } catch {
      this.end().catch(() => {});
      return { command: "ROLLBACK", rowCount: null, oid: 0, rows: [], fields: [] };
    }
  }
}
