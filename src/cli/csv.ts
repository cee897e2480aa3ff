// CSV with a header as rows of an import: a file of JSON says which field each column is.
import { readFile } from "node:fs/promises";
import { pipeline, Readable } from "node:stream";
import { CsvError, type Info, parse } from "csv-parse";
import { parse as parseNow } from "csv-parse/sync";
import { EntityStatusSchema, EntityTypeSchema } from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { DomainError } from "../domain/errors.ts";
import { isObject, type JsonObject, type JsonValue } from "../domain/json.ts";
import { MAX_LINE_BYTES, type Row } from "./lines.ts";

/** Which field each column is, and the fields that are the same in all rows. */
export interface Columns {
  /** By the names of the columns. */
  paths: ReadonlyMap<string, string>;
  /** By path. */
  values: ReadonlyMap<string, string>;
}

/** What a column may be; a path may go on behind these as far as their form says. */
const PATHS = [
  /^(external_id|type|country_code|name|tax_id|status|nationality|risk_matrix_id)$/,
  /^entity_data\.person\.([a-z][a-z_]*|(additional|address|address\.additional)\.[^.]+)$/,
  /^entity_data\.company\.([a-z][a-z_]*|(additional|address|address\.additional)\.[^.]+)$/,
  /^(attributes|metadata)\.[^.]+$/,
  /^external_ids(\.[^.]+)?$/,
  /^(reason|request_id|occurred_at)$/,
];
/** Several columns may add to these. */
const LISTS = /^(external_ids(\..*)?|entity_data\.company\.trading_names)$/;

/** Throws ConfigError for a file that says nothing usable. */
export async function readColumns(file: string): Promise<Columns> {
  const wrong = (what: string) => new ConfigError(`--columns: ${file} ${what}`);
  const text = await readFile(file, "utf8");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw wrong('must be JSON, such as {"columns": {"Customer": "external_id"}, "values": {"type": "company"}}');
  }
  const { columns, values = {}, ...rest } = isObject(json) ? json : {};
  if (!isObject(columns) || !isObject(values) || Object.keys(rest).length > 0) {
    throw wrong('must have "columns", from the names of columns to paths, and may have "values", from paths to values');
  }
  const paths = new Map<string, string>();
  for (const [column, path] of Object.entries(columns)) paths.set(column, pathOf(path, wrong));
  const fixed = new Map<string, string>();
  for (const [path, value] of Object.entries(values)) {
    if (typeof value !== "string") throw wrong(`must have a string as the value of ${pathOf(path, wrong)}`);
    fixed.set(pathOf(path, wrong), value);
  }
  const single = [...paths.values()].filter((path) => !LISTS.test(path));
  const twice = single.find((path, i) => single.indexOf(path) < i);
  if (twice !== undefined) throw wrong(`names ${twice} for several columns`);
  if (![...paths.values()].includes("external_id")) throw wrong("must have a column for external_id");
  return { paths, values: fixed };
}

function pathOf(path: unknown, wrong: (what: string) => ConfigError): string {
  if (typeof path === "string" && PATHS.some((form) => form.test(path))) return path;
  throw wrong(
    "has a path that is no field of a row: use such as external_id, entity_data.person.email, attributes.segment or external_ids.crm",
  );
}

/** The rows of a CSV. Throws where it is none, or lacks a column. */
export async function* csvRows(
  stream: AsyncIterable<Uint8Array>,
  { file, columns }: { file: string; columns: Columns },
): AsyncGenerator<Row> {
  const texts = textsIn(file, stream);
  const start = await startOf(texts);
  const delimiter = delimiterOf(file, start, columns);
  const parser = parse({ delimiter, info: true, relax_column_count: true, max_record_size: MAX_LINE_BYTES });
  const source = Readable.from(
    (async function* () {
      yield start;
      yield* texts;
    })(),
  );
  // A failure is thrown by the loop over the parser.
  pipeline(source, parser, () => {});
  let header: string[] | undefined;
  let end = 0;
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: Info }>) {
      const bytes = info.bytes - end;
      end = info.bytes;
      const names = header;
      if (names === undefined) header = record.map((name) => name.trim());
      else if (record.some((cell) => cell.trim() !== ""))
        yield { number: info.lines, bytes, end, read: () => rowOf(record, names, columns) };
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    // Its message has what stands there.
    throw new Error(`${file}: line ${String(error.lines)} is no CSV (${error.code}): nothing behind it can be read`);
  }
}

async function* textsIn(file: string, stream: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decode = (bytes?: Uint8Array) => {
    try {
      return bytes === undefined ? decoder.decode() : decoder.decode(bytes, { stream: true });
    } catch {
      throw new Error(`${file} is not UTF-8: save it as "CSV UTF-8"`);
    }
  };
  for await (const chunk of stream) yield decode(chunk);
  yield decode();
}

/** A header is not longer. */
const HEADER_LENGTH = 64 * 1024;

async function startOf(texts: AsyncGenerator<string>): Promise<string> {
  let start = "";
  while (start.length < HEADER_LENGTH) {
    const next = await texts.next();
    if (next.done === true) break;
    start += next.value;
  }
  return start;
}

/** The one by which the header has all columns that are named. */
function delimiterOf(file: string, start: string, { paths }: Columns): string {
  const headers = [",", ";", "\t", "|"].map((delimiter) => {
    let names: string[] = [];
    try {
      names = (parseNow(start, { delimiter, to: 1, relax_column_count: true }) as string[][])[0] ?? [];
    } catch {
      // With another delimiter it may be one.
    }
    return { delimiter, names: names.map((name) => name.trim()) };
  });
  const found = headers.find(({ names }) => [...paths.keys()].every((column) => names.includes(column)));
  if (found === undefined) {
    const [best] = headers.toSorted((a, b) => b.names.length - a.names.length);
    const missing = [...paths.keys()].filter((column) => best?.names.includes(column) !== true);
    throw new Error(
      `${file} has no column ${missing.map((column) => JSON.stringify(column)).join(", ")} in its first line`,
    );
  }
  const twice = [...paths.keys()].find((column) => found.names.indexOf(column) !== found.names.lastIndexOf(column));
  if (twice !== undefined) throw new Error(`${file} has several columns ${JSON.stringify(twice)}`);
  return found.delimiter;
}

/** Blank cells say nothing. */
function rowOf(record: readonly string[], header: readonly string[], { paths, values }: Columns): JsonObject {
  if (record.length !== header.length) {
    throw new DomainError(
      "VALIDATION_ERROR",
      `The row has ${record.length} cells, and the header has ${header.length}: a cell with a delimiter needs quotation marks`,
    );
  }
  const row: JsonObject = {};
  for (const [path, value] of values) put(row, path, value);
  header.forEach((name, i) => {
    const [path, cell] = [paths.get(name), record[i] ?? ""];
    if (path !== undefined && cell.trim() !== "") put(row, path, cell);
  });
  return row;
}

function put(row: JsonObject, path: string, cell: string): void {
  const [first = "", ...rest] = path.split(".");
  if (first === "external_ids") {
    listAt(row, first).push({ externalId: cell, ...(rest[0] !== undefined && { type: rest[0] }) });
    return;
  }
  const keys = [first, ...rest];
  const last = keys.pop() ?? "";
  const holder = keys.reduce<JsonObject>((object, key) => objectAt(object, key), row);
  if (path === "entity_data.company.trading_names") listAt(holder, last).push(cell);
  else define(holder, last, fieldValue(path, cell));
}

/** Assigned, a key such as `__proto__` would be none of the object's own. */
function define(object: JsonObject, key: string, value: JsonValue): void {
  Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
}

function fieldValue(path: string, cell: string): JsonValue {
  const text = cell.trim();
  if (path === "type") return enumName(EntityTypeSchema, text);
  if (path === "status") return enumName(EntityStatusSchema, text);
  if (path === "entity_data.company.employees" && /^\d{1,10}$/.test(text)) return Number(text);
  return cell;
}

/** "person" as well as ENTITY_TYPE_PERSON; any other word as it stands, to be refused. */
function enumName({ values }: typeof EntityTypeSchema | typeof EntityStatusSchema, text: string): string {
  const word = text.toUpperCase().replaceAll(" ", "_");
  return values.find(({ name, localName }) => localName === word || name === word)?.name ?? text;
}

function objectAt(object: JsonObject, key: string): JsonObject {
  const there = Object.hasOwn(object, key) ? object[key] : undefined;
  if (isObject(there)) return there;
  const made: JsonObject = {};
  define(object, key, made);
  return made;
}

function listAt(object: JsonObject, key: string): JsonValue[] {
  const there = Object.hasOwn(object, key) ? object[key] : undefined;
  if (Array.isArray(there)) return there;
  const made: JsonValue[] = [];
  object[key] = made;
  return made;
}
