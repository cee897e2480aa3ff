// A parameter of type jsonb[] in PostgreSQL's binary form (array_recv, jsonb_recv): as text every quotation mark
// of every document is escaped here and unescaped there, which costs more than the documents themselves.
import type { JsonValue } from "../domain/json.ts";

const JSONB_OID = 3802;
const JSONB_VERSION = 1;
const HEAD_BYTES = 20;
const NULL_LENGTH = -1;

/** undefined is SQL's null; null is JSON's. */
export function jsonbArray(values: readonly (JsonValue | undefined)[]): Buffer {
  const texts = values.map((value) => (value === undefined ? undefined : JSON.stringify(value)));
  const lengths = texts.map((text) => (text === undefined ? 0 : 1 + Buffer.byteLength(text)));
  const bytes = Buffer.allocUnsafe(lengths.reduce((sum, length) => sum + 4 + length, HEAD_BYTES));
  bytes.writeInt32BE(1, 0); // dimensions
  bytes.writeInt32BE(texts.includes(undefined) ? 1 : 0, 4); // has nulls
  bytes.writeInt32BE(JSONB_OID, 8);
  bytes.writeInt32BE(texts.length, 12);
  bytes.writeInt32BE(1, 16); // lower bound
  let at = HEAD_BYTES;
  texts.forEach((text, i) => {
    const length = lengths[i] as number;
    at = bytes.writeInt32BE(text === undefined ? NULL_LENGTH : length, at);
    if (text === undefined) return;
    at = bytes.writeUInt8(JSONB_VERSION, at);
    at += bytes.write(text, at);
  });
  return bytes;
}
