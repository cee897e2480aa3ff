// Reading any message by its descriptor, without the library's reflection, which would turn a Struct into
// a message of its own (and throw at what only our checks can name).
import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";
import type { JsonValue } from "../domain/json.ts";

/** The value of a field that is set to something other than its zero value; else undefined. */
export function presentValue(field: DescField, message: Message): unknown {
  const values = message as unknown as Record<string, unknown>;
  if (field.oneof !== undefined) {
    const oneof = values[field.oneof.localName] as { case?: string; value?: unknown };
    return oneof.case === field.localName ? oneof.value : undefined;
  }
  const value = values[field.localName];
  if (Array.isArray(value)) return value.length === 0 ? undefined : value;
  const isZero = value === "" || value === 0 || value === 0n || value === false;
  return isZero && !field.proto.proto3Optional ? undefined : value;
}

/** What the message takes on the wire, or a little more: its texts, and for each value its tag and the most that a number takes. */
export function wireBytes(desc: DescMessage, message: object): number {
  const values = message as Record<string, unknown>;
  let bytes = 0;
  for (const field of desc.fields) {
    let value = values[field.oneof?.localName ?? field.localName];
    if (field.oneof !== undefined) {
      const chosen = value as { case?: string; value?: unknown } | undefined;
      value = chosen?.case === field.localName ? chosen.value : undefined;
    }
    if (value === undefined || value === "" || value === 0 || value === false) continue;
    if (field.fieldKind === "list") for (const item of value as unknown[]) bytes += fieldBytes(field, item);
    else bytes += fieldBytes(field, value);
  }
  return bytes;
}

function fieldBytes(field: DescField, value: unknown): number {
  if (typeof value === "string") return textBytes(value);
  if (value instanceof Uint8Array) return OVERHEAD + value.length;
  if (field.message === undefined) return TAG + NUMBER;
  const inside =
    field.message.typeName === "google.protobuf.Struct"
      ? structBytes(value as Record<string, JsonValue>)
      : wireBytes(field.message, value as object);
  return OVERHEAD + inside;
}

const TAG = 2;
const NUMBER = 10;
/** A tag and a length. */
const OVERHEAD = TAG + 4;

const textBytes = (text: string) => OVERHEAD + Buffer.byteLength(text);

function structBytes(struct: Record<string, JsonValue>): number {
  let bytes = 0;
  for (const key of Object.keys(struct)) bytes += OVERHEAD + textBytes(key) + valueBytes(struct[key] as JsonValue);
  return bytes;
}

/** google.protobuf.Value, with its length before it. */
function valueBytes(value: JsonValue): number {
  if (typeof value === "string") return OVERHEAD + textBytes(value);
  if (value === null || typeof value !== "object") return TAG + NUMBER;
  if (!Array.isArray(value)) return 2 * OVERHEAD + structBytes(value);
  let bytes = 2 * OVERHEAD;
  for (const item of value) bytes += valueBytes(item);
  return bytes;
}
