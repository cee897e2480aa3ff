// The client of the pool: it names each statement, so that PostgreSQL plans it once a connection, says what a failed
// statement means for its connection, and sends those of the hot paths together.
import type { Socket } from "node:net";
import pg from "pg";
import { Batch, NotSentError, type PreparedStatement, type StatementResult } from "./batch.ts";
import { isPlanChange, meaningOf, serverErrorOf } from "./sqlstate.ts";

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

const ignore = () => {};

type Answered = (result: StatementResult) => void;
type Failed = (error: Error) => void;
type QueryArguments = [text: string | pg.QueryConfig, values?: unknown[]];

/** A client whose parameterised statements are named, and whose COMMIT does not lie. The type of a pool's clients. */
export class NamedStatementClient extends pg.Client {
  /** Of `query`. */
  readonly #names = new Map<string, string>();
  /** Counts the migrations that this connection has met: each makes all names new. */
  #generation = 0;
  /** Of `send`. */
  readonly #prepared = new Map<string, PreparedStatement>();
  /** What was sent in this turn of the event loop. */
  #gathered: Batch | undefined;
  /** The longest that the server may take to answer, in milliseconds; 0: for ever. */
  readonly #limitMs: number;
  #isWatched = false;
  /** Batches without an answer, and when the oldest of them was sent, or the one before it answered. */
  #unanswered = 0;
  #since = 0;
  readonly #answered = () => {
    this.#unanswered -= 1;
    this.#since = performance.now();
  };
  readonly #parserOf = this.getTypeParser.bind(this) as unknown as ConstructorParameters<typeof Batch>[0];

  constructor(config: pg.ClientConfig = {}) {
    // Not a copy of it: the pool hides the password in a property that copies lack.
    super(config);
    const { connectionParameters } = this as unknown as { connectionParameters: { query_timeout: unknown } };
    this.#limitMs = Number(connectionParameters.query_timeout) || 0;
    // pg's own limit is a timer for each statement.
    connectionParameters.query_timeout = 0;
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
    return this.#one(text, values).catch((error: unknown) => {
      if (!isPlanChange(error)) throw this.#leaveIfUnfit(error);
      // Within a transaction this fails like everything after an error: the caller that began it begins it again.
      return this.#one(text, values).catch((second: unknown) => {
        throw (second as pg.DatabaseError).code === IN_FAILED_TRANSACTION ? error : this.#leaveIfUnfit(second);
      });
    });
  }

  async #one(text: string, values: unknown[] = []): Promise<pg.QueryResult> {
    this.#flush();
    if (values.length === 0) {
      const sent = super.query(this.#limited({ text }));
      return text === "commit" ? this.#commit(sent) : sent;
    }
    const name = this.#nameOf(text);
    try {
      return await super.query(this.#limited(name === undefined ? { text, values } : { name, text, values }));
    } catch (error) {
      this.#forgetPlansAfter(error);
      throw error;
    }
  }

  #limited<T extends object>(config: T): T {
    return this.#limitMs > 0 ? { ...config, query_timeout: this.#limitMs } : config;
  }

  /** Kysely returns its connections whatever happened on them: one that must not be used again ends itself. */
  #leaveIfUnfit(error: unknown): unknown {
    const found = serverErrorOf(error);
    if (found !== undefined && meaningOf(found).connection !== "keep") this.end().catch(() => {});
    return error;
  }

  /**
   * Sends a statement without waiting for the answer to the one before: those of one turn of the event loop travel
   * together. A plan that no longer fits is an error. Tried again here it could run behind the COMMIT, where no
   * organization is set any more and every table looks empty; the next transaction plans anew.
   */
  send(text: string, values: readonly unknown[] = []): Promise<StatementResult> {
    const sent = new Promise<StatementResult>((resolve, reject) => this.post(text, values, resolve, reject));
    return text === "commit" ? this.#commit(sent) : sent;
  }

  /** The same without a promise, which costs more than most statements do. */
  post(text: string, values: readonly unknown[], answered: Answered, failed: Failed): void {
    if (this.#gathered === undefined) {
      this.#gathered = new Batch(this.#parserOf);
      process.nextTick(() => this.#flush());
    }
    this.#add(this.#gathered, text, values, answered, failed);
  }

  #add(batch: Batch, text: string, values: readonly unknown[], answered: Answered, failed: Failed): void {
    batch.add(this.#preparedOf(text), values, answered, (error) => {
      this.#forgetPlansAfter(error);
      failed(error);
    });
  }

  /**
   * Sends a statement in a transaction of its own, behind one that sets something for it: they travel without a Sync between
   * them, and are one implicit transaction. With BEGIN and COMMIT it would be four statements.
   */
  sendBehind(
    set: (add: (text: string, values: readonly unknown[]) => void) => void,
    text: string,
    values: readonly unknown[],
  ): Promise<StatementResult> {
    this.#flush();
    const batch = new Batch(this.#parserOf);
    // Where the setting fails, so does the statement.
    set((which, its) => this.#add(batch, which, its, ignore, ignore));
    return new Promise((resolve, reject) => {
      this.#add(batch, text, values, resolve, reject);
      this.#submit(batch);
    });
  }

  #flush(): void {
    const batch = this.#gathered;
    this.#gathered = undefined;
    if (batch !== undefined) this.#submit(batch);
  }

  #submit(batch: Batch): void {
    if (this.#unanswered === 0) this.#since = performance.now();
    this.#unanswered += 1;
    if (this.#limitMs > 0 && !this.#isWatched) this.#watch(this.#limitMs);
    batch.callback = this.#answered;
    super.query(batch);
  }

  /** Ends a connection on which nothing has been answered for too long. One timer for all: it looks again. */
  #watch(ms: number): void {
    this.#isWatched = true;
    setTimeout(() => {
      this.#isWatched = false;
      if (this.#unanswered === 0) return;
      const leftMs = this.#since + this.#limitMs - performance.now();
      if (leftMs > 0) this.#watch(leftMs);
      else this.#stream.destroy(new Error("query read timeout"));
    }, ms).unref();
  }

  get #stream(): Socket {
    return (this as unknown as { connection: { stream: Socket } }).connection.stream;
  }

  /** After a migration, statements are prepared anew. */
  #forgetPlansAfter(error: unknown): void {
    if (!isPlanChange(error)) return;
    this.#names.clear();
    this.#generation++;
    for (const statement of this.#prepared.values()) statement.state = "unclear";
  }

  #preparedOf(text: string): PreparedStatement {
    let statement = this.#prepared.get(text);
    if (statement === undefined) {
      const isNamed = this.#prepared.size < MAX_NAMED_STATEMENTS;
      // COMMIT by its own name: whoever watches the wire knows it.
      const name = text === "commit" ? text : `b${this.#prepared.size}`;
      statement = { name: isNamed ? name : "", text, state: "new", columns: undefined };
      if (isNamed) this.#prepared.set(text, statement);
    }
    return statement;
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
      return await super.query(this.#limited({ text }));
    } catch (error) {
      this.end().catch(() => {});
      (this as unknown as { release?: () => void }).release?.();
      throw error;
    }
  }

  async #commit<T extends { command: string }>(sent: Promise<T>): Promise<T> {
    let result: T;
    try {
      result = await sent;
    } catch (error) {
      const found = serverErrorOf(error);
      const isAnswered = found !== undefined && meaningOf(found).connection !== "ended";
      if (isAnswered || error instanceof NotSentError) throw error;
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
    this.#flush();
    try {
      return await super.query(this.#limited({ text: "rollback" }));
    } catch {
      this.end().catch(() => {});
      return { command: "ROLLBACK", rowCount: null, oid: 0, rows: [], fields: [] };
    }
  }
}
