// A google.protobuf.Value without a kind, which only the binary form can hold: the library reads it as null, and null
// removes a key. A caller's slip must not delete data, so the request is refused with the field's path.
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { invalidField } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import { malformed, wireOf } from "./values.ts";
import { MALFORMED, readVarint } from "./varint.ts";

/**
 * Throws VALIDATION_ERROR where the message, as sent, has a Value without a kind; and where its bytes are malformed, what the
 * decoder would: that one reads on behind the end of a field, and would see a Value that is not there.
 */
export function assertKinds(desc: DescMessage, bytes: Uint8Array): void {
  if (!mayHoldValues(desc)) return;
  const path = kindlessIn(desc, bytes, 0, bytes.length, 0);
  if (path !== undefined) throw kindless(path);
}

function kindless(path: string): ConnectError {
  return toConnectError(invalidField(path, "has a value without a kind: send null_value to mean null"));
}

const VALUE = "google.protobuf.Value";
/** The decoder goes no deeper. */
const MAX_DEPTH = 100;

const known = new WeakMap<DescMessage, boolean>();

/** Whether a message of this type can hold a Value at any depth. */
function mayHoldValues(desc: DescMessage): boolean {
  const answer = known.get(desc);
  if (answer !== undefined) return answer;
  // Before its fields, which may be of its own type.
  known.set(desc, desc.typeName === VALUE);
  const may = desc.typeName === VALUE || desc.fields.some((field) => field.message && mayHoldValues(field.message));
  known.set(desc, may);
  return may;
}

/** The path of the first message field that holds one, without the keys inside, which are the caller's; undefined where there is none. */
function kindlessIn(
  desc: DescMessage,
  bytes: Uint8Array,
  start: number,
  end: number,
  depth: number,
): string | undefined {
  if (depth > MAX_DEPTH) return undefined;
  const reader = { at: start };
  let hasKind = false;
  while (reader.at < end) {
    const tag = readVarint(bytes, reader, end);
    if (tag === MALFORMED) throw malformed();
    const field = fieldOf(desc, tag >>> 3);
    if (field !== undefined) {
      hasKind = true;
      // The decoder reads a field by its declaration, whatever its tag says: it would see other values than we do.
      if (field.message !== undefined && wireOf(field) !== (tag & 7)) throw malformed();
    }
    if ((tag & 7) !== 2) {
      skip(tag & 7, bytes, reader, end);
      continue;
    }
    const length = readVarint(bytes, reader, end);
    if (length === MALFORMED || length > end - reader.at) throw malformed();
    const behind = reader.at + length;
    if (field?.message !== undefined && mayHoldValues(field.message)) {
      const inside =
        field.fieldKind === "map"
          ? kindlessEntry(field.message, bytes, reader.at, behind, depth)
          : kindlessIn(field.message, bytes, reader.at, behind, depth + 1);
      if (inside !== undefined) return isFreeForm(desc) ? "" : join(field.name, inside);
    }
    reader.at = behind;
  }
  return desc.typeName === VALUE && !hasKind ? "" : undefined;
}

/** An entry of a map of values: its value is field 2, and one that is absent has no kind either. */
function kindlessEntry(
  value: DescMessage,
  bytes: Uint8Array,
  start: number,
  end: number,
  depth: number,
): string | undefined {
  const reader = { at: start };
  let hasValue = false;
  while (reader.at < end) {
    const tag = readVarint(bytes, reader, end);
    if (tag === MALFORMED) throw malformed();
    if (tag !== 0x12) {
      if (tag >>> 3 <= 2 && (tag & 7) !== 2) throw malformed();
      skip(tag & 7, bytes, reader, end);
      continue;
    }
    const length = readVarint(bytes, reader, end);
    if (length === MALFORMED || length > end - reader.at) throw malformed();
    const behind = reader.at + length;
    hasValue = true;
    const inside = kindlessIn(value, bytes, reader.at, behind, depth + 1);
    if (inside !== undefined) return inside;
    reader.at = behind;
  }
  return hasValue || value.typeName !== VALUE ? undefined : "";
}

const fields = new WeakMap<DescMessage, Map<number, DescField>>();

function fieldOf(desc: DescMessage, number: number): DescField | undefined {
  let byNumber = fields.get(desc);
  if (byNumber === undefined) {
    byNumber = new Map(desc.fields.map((field) => [field.number, field]));
    fields.set(desc, byNumber);
  }
  return byNumber.get(number);
}

/** Moves past a field that is not looked into. */
function skip(wire: number, bytes: Uint8Array, reader: { at: number }, end: number): void {
  if (wire === 3) return skipGroup(bytes, reader, end);
  if (wire === 0) {
    if (readVarint(bytes, reader, end) === MALFORMED) throw malformed();
  } else if (wire === 2) {
    const length = readVarint(bytes, reader, end);
    if (length === MALFORMED) throw malformed();
    reader.at += length;
  } else if (wire === 1) reader.at += 8;
  else if (wire === 5) reader.at += 4;
  else throw malformed();
  if (reader.at > end) throw malformed();
}

/** A group, which no field of ours is, goes on to its own end. */
function skipGroup(bytes: Uint8Array, reader: { at: number }, end: number): void {
  for (let groups = 1; groups > 0; ) {
    const tag = readVarint(bytes, reader, end);
    if (tag === MALFORMED) throw malformed();
    const inner = tag & 7;
    if (inner === 3) groups += 1;
    else if (inner === 4) groups -= 1;
    else skip(inner, bytes, reader, end);
  }
}

const isFreeForm = ({ typeName }: DescMessage) => typeName.startsWith("google.protobuf.");
const join = (path: string, inside: string) => (inside === "" ? path : `${path}.${inside}`);
