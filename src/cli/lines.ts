// A file of rows: one JSON object a line, read in constant memory at the consumer's pace.
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { fromJsonString } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { DomainError, invalidField } from "../domain/errors.ts";
import { isObject, type JsonObject } from "../domain/json.ts";

/** A longer line is no row: it is skipped without being kept. */
export const MAX_LINE_BYTES = 16 * 1024 * 1024;

export interface Line {
  /** As editors count: the first is 1. Blank lines count and are left out. */
  number: number;
  /** Its own bytes, and those of the file up to its end. */
  bytes: number;
  end: number;
  /** What is in it, or why it cannot be read. */
  text: string | DomainError;
}

export interface LineSource {
  stream: AsyncIterable<Uint8Array>;
  /** Undefined when unknown: a pipe. */
  bytes: number | undefined;
}

/** What a file may be beside NDJSON, and what to say of one that is CSV where it may not. */
export interface Format {
  isCsv?: boolean;
  csvCure?: string;
}

/** Opens FILE, or standard input for `-`. Throws what the system says when it cannot be read. */
export async function openSource(file: string, format: Format = {}): Promise<LineSource> {
  if (file === "-") return { stream: rowsIn("standard input", process.stdin, format), bytes: undefined };
  const handle = await open(file);
  const stat = await handle.stat();
  if (stat.isDirectory()) {
    await handle.close();
    throw new Error(`${file} is a folder, not a file of rows`);
  }
  const start = Buffer.alloc(2);
  const isGzip = stat.isFile() && (await handle.read(start, 0, 2, 0)).bytesRead === 2 && start.equals(GZIP);
  return {
    stream: rowsIn(file, createReadStream(file, { fd: handle, start: 0, highWaterMark: 256 * 1024 }), format),
    // The unpacked size of a compressed file is not known in advance.
    bytes: stat.isFile() && !isGzip ? stat.size : undefined,
  };
}

const GZIP = Buffer.of(0x1f, 0x8b);

/** The bytes of rows, unpacked where they are gzip. Throws for a file of another kind, with what to do: each of its lines would be refused. */
async function* rowsIn(file: string, stream: AsyncIterable<Uint8Array>, format: Format): AsyncGenerator<Uint8Array> {
  const chunks = stream[Symbol.asyncIterator]();
  let start = Buffer.alloc(0);
  while (start.length < START_BYTES) {
    const next = await chunks.next();
    if (next.done === true) break;
    start = Buffer.concat([start, next.value]);
  }
  const all = (async function* () {
    yield start;
    yield* { [Symbol.asyncIterator]: () => chunks };
  })();
  if (start.subarray(0, 2).equals(GZIP)) {
    const unpacked = createGunzip();
    pipeline(Readable.from(all), unpacked, () => {});
    yield* rowsIn(file, unpacked, format);
    return;
  }
  const problem = otherFormat(start, format);
  if (problem !== undefined) throw new Error(`${file} ${problem}`);
  yield* all;
}

/** Enough to recognize the kind of a file. */
const START_BYTES = 4_096;

/** What a file is that is no NDJSON, and the cure; undefined where its first bytes may be a row. */
function otherFormat(
  start: Buffer,
  { isCsv = false, csvCure = "write a JSON object a line, with the names of the columns as keys" }: Format,
): string | undefined {
  const [first, second] = start;
  const isUtf16 = (first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff);
  if (isUtf16 || (start.length > 1 && (first === 0) !== (second === 0)))
    return "is UTF-16: write it as UTF-8 (in Windows PowerShell with Out-File -Encoding utf8, not with >)";
  const text = start
    .toString("utf8")
    .replace(/^\ufeff/, "")
    .trimStart();
  if (text.startsWith("[")) return "is one JSON array: write an object a line, as jq -c '.[]' does";
  if (isCsv) return undefined;
  const [line = ""] = text.split("\n", 1);
  if (/^[^{}"]*("[^"]*")?[^{}"]*[,;\t]/.test(line) && !/[{}]/.test(line)) return `looks like CSV: ${csvCure}`;
  return undefined;
}

export async function* linesOf(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Line> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let parts: Uint8Array[] = [];
  let length = 0;
  let number = 1;
  let end = 0;
  const take = (): Line | undefined => {
    const line = { number: number++, bytes: length, end, text: textOf(parts, length, decoder) };
    parts = [];
    length = 0;
    return typeof line.text === "string" && line.text.trim() === "" ? undefined : line;
  };
  const keep = (part: Uint8Array) => {
    length += part.length;
    end += part.length;
    if (length <= MAX_LINE_BYTES) parts.push(part);
    else parts = [];
  };
  for await (const chunk of stream) {
    let start = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, start)) {
      keep(chunk.subarray(start, at));
      end++;
      start = at + 1;
      const line = take();
      if (line !== undefined) yield line;
    }
    if (start < chunk.length) keep(chunk.subarray(start));
  }
  if (length > 0) {
    const line = take();
    if (line !== undefined) yield line;
  }
}

function textOf(
  parts: Uint8Array[],
  length: number,
  decoder: { decode(bytes?: Uint8Array): string },
): string | DomainError {
  if (length > MAX_LINE_BYTES)
    return new DomainError("MESSAGE_TOO_LARGE", `The line is longer than ${MAX_LINE_BYTES} bytes`);
  try {
    return decoder.decode(parts.length === 1 ? parts[0] : Buffer.concat(parts));
  } catch {
    return new DomainError("VALIDATION_ERROR", "The line is not valid UTF-8");
  }
}

/** The object of a line. Throws VALIDATION_ERROR without a word of the line: it may hold personal data. */
export function objectOf(text: string | DomainError): JsonObject {
  if (text instanceof DomainError) throw text;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new DomainError("VALIDATION_ERROR", "The line is not JSON");
  }
  if (!isObject(value)) throw new DomainError("VALIDATION_ERROR", "The line is not a JSON object");
  try {
    // JSON.parse keeps the last of two equal keys in silence; this one throws, and reads nothing else.
    fromJsonString(EmptySchema, text, { ignoreUnknownFields: true });
  } catch {
    throw new DomainError("VALIDATION_ERROR", "A key is given twice in one object of the line");
  }
  return value;
}

/** A row of a file, in whatever format. */
export interface Row extends Omit<Line, "text"> {
  /** Throws the refusal of a row that cannot be read. */
  read(): JsonObject;
}

export async function* rowsOfLines(lines: AsyncIterable<Line>): AsyncGenerator<Row> {
  for await (const { text, ...line } of lines) yield { ...line, read: () => objectOf(text) };
}

/** A member that must be a string, if it is there. */
export function stringOf(object: JsonObject, key: string): string | undefined {
  const value = Object.hasOwn(object, key) ? object[key] : undefined;
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") throw invalidField(key, "must be a string");
  return value;
}
