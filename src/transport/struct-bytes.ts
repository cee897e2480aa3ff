// google.protobuf.Struct from its bytes to what our messages hold of it, without a message for each value: the library
// makes four objects for one number, and an entity may have 60,000.
import { getTextEncoding } from "@bufbuild/protobuf/wire";
import type { JsonObject, JsonValue } from "../domain/json.ts";
import { MALFORMED, readVarint } from "./varint.ts";

/** Only as writers write it: bytes that are malformed, or in a rarer form, are for the library to read or to refuse. */
const [ENTRY, KEY, VALUE_OF_KEY, ITEM] = [0x0a, 0x0a, 0x12, 0x0a];
const [NULL, NUMBER, TEXT, BOOL, STRUCT, LIST] = [0x08, 0x11, 0x1a, 0x20, 0x2a, 0x32];
/** More levels than any has that is kept, and fewer than the library reads. */
const MAX_DEPTH = 40;
/** A longer text is decoded at once: to look at each of its bytes takes longer. */
const SHORT_TEXT = 128;
const NUMBER_BYTES = 8;

/** The Struct in these bytes; undefined where the library is to look at them. */
export function readStruct(bytes: Uint8Array): JsonObject | undefined {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return new StructReader(buffer).object(buffer.length, 0);
}

const { decodeUtf8 } = getTextEncoding();

class StructReader {
  /** Where it stands; readVarint moves it. */
  at = 0;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  object(end: number, depth: number): JsonObject | undefined {
    if (depth > MAX_DEPTH) return undefined;
    const object: JsonObject = {};
    while (this.at < end) {
      const behind = this.#inside(ENTRY, end);
      const keyEnd = this.#inside(KEY, behind);
      const key = this.#text(keyEnd);
      const valueEnd = this.#inside(VALUE_OF_KEY, behind);
      if (valueEnd !== behind || key === undefined || key === "__proto__") return undefined;
      const value = this.#value(behind, depth);
      // The last of a key wins, and a struct in it is merged with those before.
      if (value === undefined || Object.hasOwn(object, key)) return undefined;
      object[key] = value;
    }
    return this.at === end ? object : undefined;
  }

  /** One of one kind, all of the bytes until `end`. */
  #value(end: number, depth: number): JsonValue | undefined {
    const bytes = this.#bytes;
    if (this.at >= end) return undefined;
    switch (bytes[this.at]) {
      case NUMBER:
        if (this.at + 1 + NUMBER_BYTES !== end) return undefined;
        this.at = end;
        return bytes.readDoubleLE(end - NUMBER_BYTES);
      case TEXT:
        return this.#inside(TEXT, end) === end ? this.#text(end) : undefined;
      case NULL:
      case BOOL: {
        const [kind, value] = [bytes[this.at], bytes[this.at + 1] as number];
        if (this.at + 2 !== end || value > (kind === BOOL ? 1 : 0)) return undefined;
        this.at = end;
        return kind === BOOL ? value === 1 : null;
      }
      case STRUCT:
        return this.#inside(STRUCT, end) === end ? this.object(end, depth + 1) : undefined;
      case LIST:
        return this.#inside(LIST, end) === end ? this.#list(end, depth + 1) : undefined;
      default:
        return undefined;
    }
  }

  #list(end: number, depth: number): JsonValue[] | undefined {
    if (depth > MAX_DEPTH) return undefined;
    const list: JsonValue[] = [];
    while (this.at < end) {
      const behind = this.#inside(ITEM, end);
      const value = behind < 0 ? undefined : this.#value(behind, depth);
      if (value === undefined) return undefined;
      list.push(value);
    }
    return list;
  }

  /** Where a field of this tag ends that begins here, and within `end`; stands before its content then. Else -1. */
  #inside(tag: number, end: number): number {
    if (this.at >= end || this.#bytes[this.at] !== tag) return -1;
    this.at += 1;
    const length = readVarint(this.#bytes, this, end);
    return length === MALFORMED || length > end - this.at ? -1 : this.at + length;
  }

  #text(end: number): string | undefined {
    const from = this.at;
    if (end < from) return undefined;
    this.at = end;
    if (end - from > SHORT_TEXT) return decoded(this.#bytes, from, end);
    for (let i = from; i < end; i++) if ((this.#bytes[i] as number) > 0x7f) return decoded(this.#bytes, from, end);
    return this.#bytes.toString("latin1", from, end);
  }
}

function decoded(bytes: Buffer, from: number, end: number): string | undefined {
  try {
    return decodeUtf8(bytes.subarray(from, end), true);
  } catch {
    return undefined;
  }
}
