// A file of rows: one JSON object a line, read in constant memory at the pace of whoever takes the lines.
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { fromJsonString } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { DomainError, invalidField } from "../domain/errors.ts";
import { isObject, type JsonObject } from "../domain/json.ts";

/** A longer line is no row: it is skipped without being kept. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

export interface Line {
  /** As editors count: the first is 1. Blank lines count and are left out. */
  number: number;
  /** Its own bytes, and those of the file up to its end. */
  bytes: number;
  end: number;
  /** What is in it, or why it cannot be read. */
  text: string | DomainError;
}

export interface Source {
  stream: AsyncIterable<Uint8Array>;
  /** Undefined when nobody knows: a pipe. */
  bytes: number | undefined;
}

/** Opens FILE, or standard input for `-`. Throws what the system says when it cannot be read. */
export async function openSource(file: string): Promise<Source> {
  if (file === "-") return { stream: process.stdin, bytes: undefined };
  const handle = await open(file);
  const stat = await handle.stat();
  if (stat.isDirectory()) {
    await handle.close();
    throw new Error(`${file} is a folder, not a file of rows`);
  }
  return {
    stream: createReadStream(file, { fd: handle, highWaterMark: 256 * 1024 }),
    bytes: stat.isFile() ? stat.size : undefined,
  };
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

/** A member that must be a string, if it is there. */
export function stringOf(object: JsonObject, key: string): string | undefined {
  const value = Object.hasOwn(object, key) ? object[key] : undefined;
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") throw invalidField(key, "must be a string");
  return value;
}
