// Statements that travel together: one write, and one Sync behind the last of them, so that the server answers all of them
// with one write of its own and the service is woken once. Outside a transaction block they are one implicit transaction.
// After an error the server passes over the rest of them, each of which fails with the same error.
import type { Socket } from "node:net";
import pg from "pg";
import { serialize } from "pg-protocol";

/** What a statement answers: its rows, and the word of its command, such as COMMIT. */
export interface StatementResult {
  command: string;
  rows: Record<string, unknown>[];
}

/** A statement as a connection has prepared it. What it answers is described once: it changes only with another Parse. */
export interface PreparedStatement {
  /** Empty: prepared anew each time. */
  readonly name: string;
  readonly text: string;
  /** unclear: it was sent, and an error came before the server said that it has it. */
  state: "new" | "prepared" | "unclear";
  columns: Columns | undefined;
}

interface Columns {
  names: string[];
  /** A row without values, whose form V8 keeps for all of them. */
  empty: Record<string, null>;
  parsers: Parse[];
}

type Parse = (text: string) => unknown;
export type ParserOf = (oid: number, format: "text" | "binary") => Parse;

/** Nothing was sent: a value could not be encoded. */
export class NotSentError extends Error {
  override readonly name = "NotSentError";
}

interface Sent {
  statement: PreparedStatement;
  values: readonly unknown[];
  /** As they were when it was sent: a statement in flight may be forgotten meanwhile. Undefined: it is being described. */
  columns: Columns | undefined;
  rows: Record<string, unknown>[];
  /** A value of a row could not be read. */
  failure: Error | undefined;
  resolve: (result: StatementResult) => void;
  reject: (error: Error) => void;
}

const EXECUTE = serialize.execute({});
const SYNC = serialize.sync();
const DESCRIBE = serialize.describe({ type: "P" });
const NO_COLUMNS: Columns = { names: [], empty: {}, parsers: [] };

/** Of pg, which its types leave out. */
const { prepareValue } = (pg as unknown as { utils: { prepareValue: (value: unknown) => unknown } }).utils;

/** To be handed to pg's `query`, which calls its methods with what the server answers. */
export class Batch implements pg.Submittable {
  /** Called when the batch is over, as pg expects of its queries. */
  callback: ((error?: Error | null) => void) | undefined;
  readonly #sent: Sent[] = [];
  readonly #parserOf: ParserOf;
  /** Those that were sent to be prepared. */
  readonly #preparing: PreparedStatement[] = [];
  /** The statement that is being answered. */
  #at = 0;

  constructor(parserOf: ParserOf) {
    this.#parserOf = parserOf;
  }

  /** Adds a statement; it fails with its own error, or with that of one before it. */
  add(
    statement: PreparedStatement,
    values: readonly unknown[],
    resolve: (result: StatementResult) => void,
    reject: (error: Error) => void,
  ): void {
    this.#sent.push({ statement, values, columns: undefined, rows: [], failure: undefined, resolve, reject });
  }

  /** Answers the error where nothing could be sent, as pg expects: it then calls handleError. */
  submit({ stream }: pg.Connection): Error | null {
    try {
      const bytes = this.#encode();
      if ((stream as Socket).writable) (stream as Socket).write(bytes);
      return null;
    } catch (cause) {
      return new NotSentError("a value of a statement could not be encoded", { cause });
    }
  }

  #encode(): Buffer {
    const parts: Buffer[] = [];
    for (const sent of this.#sent) {
      const { statement, values } = sent;
      const { name, text } = statement;
      if (statement.state !== "prepared" || name === "") {
        if (statement.state === "unclear") parts.push(serialize.close({ type: "S", name }));
        parts.push(serialize.parse({ name, text }));
        statement.state = "prepared";
        statement.columns = undefined;
        this.#preparing.push(statement);
      }
      parts.push(serialize.bind({ statement: name, values: values as unknown[], valueMapper: prepareValue }));
      sent.columns = statement.columns;
      if (sent.columns === undefined) parts.push(DESCRIBE);
      parts.push(EXECUTE);
    }
    parts.push(SYNC);
    // One write: each of its own would be an object, a callback and an entry of the system call.
    return Buffer.concat(parts);
  }

  handleRowDescription({
    fields,
  }: {
    fields: { name: string; dataTypeID: number; format: "text" | "binary" }[];
  }): void {
    const sent = this.#sent[this.#at];
    if (sent === undefined) return;
    const names = fields.map(({ name }) => name);
    sent.columns = {
      names,
      empty: JSON.parse(JSON.stringify(Object.fromEntries(names.map((name) => [name, null])))),
      parsers: fields.map(({ dataTypeID, format }) => this.#parserOf(dataTypeID, format)),
    };
    sent.statement.columns = sent.columns;
  }

  handleDataRow({ fields }: { fields: (string | null)[] }): void {
    const sent = this.#sent[this.#at];
    if (sent?.columns === undefined) return;
    try {
      sent.rows.push(rowOf(sent.columns, fields));
    } catch (error) {
      sent.failure = error as Error;
    }
  }

  handleCommandComplete({ text }: { text: string }): void {
    const sent = this.#sent[this.#at];
    if (sent === undefined) return;
    this.#at += 1;
    // It was to be described, and was not: it has no rows.
    if (sent.columns === undefined) sent.statement.columns = NO_COLUMNS;
    const space = text.indexOf(" ");
    if (sent.failure !== undefined) sent.reject(sent.failure);
    else sent.resolve({ command: space === -1 ? text : text.slice(0, space), rows: sent.rows });
  }

  handleEmptyQuery(): void {
    this.handleCommandComplete({ text: "" });
  }

  handleError(error: Error): void {
    for (const statement of this.#preparing) statement.state = "unclear";
    for (const { reject } of this.#sent.slice(this.#at)) reject(error);
    this.#at = this.#sent.length;
    this.#end(error);
  }

  handleReadyForQuery(): void {
    this.#end(null);
  }

  #end(error: Error | null): void {
    this.callback?.(error);
    this.callback = undefined;
  }
}

function rowOf({ names, empty, parsers }: Columns, fields: readonly (string | null)[]): Record<string, unknown> {
  const row: Record<string, unknown> = { ...empty };
  for (let i = 0; i < fields.length; i++) {
    const text = fields[i] as string | null;
    if (text !== null) row[names[i] as string] = (parsers[i] as Parse)(text);
  }
  return row;
}
