// Parameters of array types in PostgreSQL's binary form (array_recv): as text every quotation mark of every document is
// escaped here and unescaped there, which costs more than the documents themselves, and bytes take twice as many digits.
import { JsonText, type JsonValue } from "../domain/json.ts";

const JSONB_OID = 3802;
const BYTEA_OID = 17;
const JSONB_VERSION = 1;
const HEAD_BYTES = 20;
const NULL_LENGTH = -1;

/** jsonb[]. undefined is SQL's null; null is JSON's. */
export function jsonbArray(values: readonly (JsonText | JsonValue | undefined)[]): Buffer {
  const texts = values.map((value) => (value === undefined ? undefined : jsonText(value)));
  const lengths = texts.map((text) => (text === undefined ? NULL_LENGTH : 1 + Buffer.byteLength(text)));
  return binaryArray(JSONB_OID, lengths, (bytes, at, i) => {
    bytes.writeUInt8(JSONB_VERSION, at);
    bytes.write(texts[i] as string, at + 1);
  });
}

/** bytea[]. */
export function byteaArray(values: readonly (Buffer | null)[]): Buffer {
  const lengths = values.map((value) => value?.length ?? NULL_LENGTH);
  return binaryArray(BYTEA_OID, lengths, (bytes, at, i) => (values[i] as Buffer).copy(bytes, at));
}

/** The text that is sent of a value of jsonb. */
export const jsonText = (value: JsonText | JsonValue): string =>
  value instanceof JsonText ? value.text : JSON.stringify(value);

/** An array of one dimension; `write` writes an element that is not null, of its length. */
function binaryArray(
  oid: number,
  lengths: readonly number[],
  write: (bytes: Buffer, at: number, index: number) => void,
): Buffer {
  const bytes = Buffer.allocUnsafe(lengths.reduce((sum, length) => sum + 4 + Math.max(length, 0), HEAD_BYTES));
  bytes.writeInt32BE(1, 0); // dimensions
  bytes.writeInt32BE(lengths.includes(NULL_LENGTH) ? 1 : 0, 4); // has nulls
  bytes.writeInt32BE(oid, 8);
  bytes.writeInt32BE(lengths.length, 12);
  bytes.writeInt32BE(1, 16); // lower bound
  let at = HEAD_BYTES;
  lengths.forEach((length, i) => {
    at = bytes.writeInt32BE(length, at);
    if (length === NULL_LENGTH) return;
    write(bytes, at, i);
    at += length;
  });
  return bytes;
}
