// How many values a message holds, counted on its bytes before anything is made of them: what decoding costs, and what
// its objects take, goes by their number and not by the size of the message. A MiB may hold a million of them.
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import { toConnectError } from "../errors.ts";
import { MALFORMED, readVarint } from "./varint.ts";

/** Throws MESSAGE_TOO_LARGE where the message of this type has more than LIMITS.messageValues values, as ConnectError. */
export function assertFewValues(desc: DescMessage, bytes: Uint8Array): void {
  // Each takes a byte at least.
  if (bytes.length <= LIMITS.messageValues) return;
  const count = countValues(desc, bytes, LIMITS.messageValues);
  if (count === undefined) throw malformed();
  if (count > LIMITS.messageValues) throw tooMany();
}

/** Bytes that are no message, as the library says it. */
export const malformed = () => new ConnectError("parse binary: malformed", Code.Internal);

/** The same for JSON. */
export function assertFewJsonValues(bytes: Uint8Array): void {
  if (bytes.length <= LIMITS.messageValues) return;
  const { values, digits } = measureJson(bytes, LIMITS.messageValues);
  if (values > LIMITS.messageValues) throw tooMany();
  if (digits > NUMBER_DIGITS) {
    throw toConnectError(
      new DomainError("VALIDATION_ERROR", `The request holds a number of more than ${NUMBER_DIGITS} digits`),
    );
  }
}

/** Any double can be written with fewer. Reading one goes by its digits: four million take over 100 ms, a million of a duration too. */
const NUMBER_DIGITS = 1_000;
/** No text is longer that is taken. A number may stand in one. */
const TEXT_BYTES = LIMITS.structBytes;

function tooMany(): ConnectError {
  const limit = String(LIMITS.messageValues);
  return toConnectError(
    new DomainError("MESSAGE_TOO_LARGE", `The request message holds more than ${limit} values: send fewer at once`, {
      limit_values: limit,
    }),
  );
}

/** What is known of the fields of a message. */
interface Plan {
  /** A value of a Struct has a field for its kind, and one to be in its list or map. */
  weight: number;
  fields: Map<number, Known>;
}
interface Known {
  /** The wire type that it must have: the decoder reads a field by its declaration, whatever its tag says. */
  wire: number;
  /** What is in a length-delimited one: fields again, or the items of a packed list. */
  inside?: Plan | Packed | undefined;
}
type Packed = { itemBytes: number | "varint" };

const [VARINT_WIRE, FIXED64_WIRE, LENGTH_WIRE, FIXED32_WIRE] = [0, 1, 2, 5];

/** The wire type of a field, by which it is read; that of one item where it is a list. */
export function wireOf(field: DescField): number {
  if (field.fieldKind === "map" || field.message !== undefined) return LENGTH_WIRE;
  if (field.enum !== undefined) return VARINT_WIRE;
  if (field.scalar === ScalarType.STRING || field.scalar === ScalarType.BYTES) return LENGTH_WIRE;
  const itemBytes = PACKED[field.scalar ?? 0]?.itemBytes;
  return itemBytes === 8 ? FIXED64_WIRE : itemBytes === 4 ? FIXED32_WIRE : VARINT_WIRE;
}

const plans = new WeakMap<DescMessage, Plan>();

function planOf(desc: DescMessage): Plan {
  const known = plans.get(desc);
  if (known !== undefined) return known;
  const weight = /^google\.protobuf\.(Struct|Value|ListValue)$/.test(desc.typeName) ? 0.5 : 1;
  const plan: Plan = { weight, fields: new Map() };
  // Before its fields, which may be of its own type.
  plans.set(desc, plan);
  for (const field of desc.fields) {
    plan.fields.set(field.number, { wire: wireOf(field), inside: insideOf(field, weight) });
  }
  return plan;
}

function insideOf(field: DescField, weight: number): Plan | Packed | undefined {
  if (field.fieldKind === "map") {
    // Keys are texts, in every map of the contract.
    const fields = new Map<number, Known>([[1, { wire: LENGTH_WIRE }]]);
    if (field.message !== undefined) fields.set(2, { wire: LENGTH_WIRE, inside: planOf(field.message) });
    return { weight, fields };
  }
  if (field.message !== undefined) return planOf(field.message);
  if (field.fieldKind !== "list") return undefined;
  // A reader takes a packed list, however the field is declared.
  if (field.enum !== undefined) return { itemBytes: "varint" };
  return PACKED[field.scalar ?? 0];
}

const VARINT: Packed = { itemBytes: "varint" };
const FIXED32: Packed = { itemBytes: 4 };
const FIXED64: Packed = { itemBytes: 8 };
/** By ScalarType; not texts and bytes. */
const PACKED: Record<number, Packed | undefined> = {
  1: FIXED64,
  2: FIXED32,
  3: VARINT,
  4: VARINT,
  5: VARINT,
  6: FIXED64,
  7: FIXED32,
  8: VARINT,
  13: VARINT,
  15: FIXED32,
  16: FIXED64,
  17: VARINT,
  18: VARINT,
};
const isPacked = ({ inside }: Known, wire: number) =>
  wire === LENGTH_WIRE && inside !== undefined && "itemBytes" in inside;
const UNKNOWN: Plan = { weight: 1, fields: new Map() };

/**
 * The values of the message, or some number over `max`; undefined for bytes that are no message. Fields at any depth,
 * unknown ones too, and items of packed lists.
 */
export function countValues(desc: DescMessage, bytes: Uint8Array, max: number): number | undefined {
  const place = { at: 0 };
  let count = 0;
  return walk(planOf(desc), bytes.length, 0) ? count : undefined;

  /** False: malformed. */
  function walk(plan: Plan, end: number, depth: number): boolean {
    // Deeper than the decoder goes.
    if (depth > 200) return false;
    let groups = 0;
    while (place.at < end) {
      if (count > max) return true;
      const tag = readVarint(bytes, place, end);
      if (tag === MALFORMED) return false;
      count += plan.weight;
      // In a group, which no field of ours is, everything is unknown.
      const known = (groups > 0 ? UNKNOWN : plan).fields.get(tag >>> 3);
      if (known !== undefined && known.wire !== (tag & 7) && !isPacked(known, tag & 7)) return false;
      switch (tag & 7) {
        case 0:
          if (readVarint(bytes, place, end) === MALFORMED) return false;
          break;
        case 1:
          place.at += 8;
          break;
        case 2: {
          const length = readVarint(bytes, place, end);
          if (length === MALFORMED || length > end - place.at) return false;
          const inside = known?.inside;
          if (inside === undefined) place.at += length;
          else if ("itemBytes" in inside) countPacked(inside, place.at + length);
          else if (!walk(inside, place.at + length, depth + 1)) return false;
          break;
        }
        case 3:
          groups += 1;
          break;
        case 4:
          if (groups === 0) return false;
          groups -= 1;
          break;
        case 5:
          place.at += 4;
          break;
        default:
          return false;
      }
      if (place.at > end) return false;
    }
    return groups === 0;
  }

  function countPacked({ itemBytes }: Packed, end: number): void {
    if (itemBytes === "varint") {
      for (let i = place.at; i < end; i++) if ((bytes[i] as number) < 0x80) count += 1;
    } else count += (end - place.at) / itemBytes;
    place.at = end;
  }
}

const [QUOTE, COMMA, COLON, BACKSLASH, BRACKET, BRACE, MINUS, SECONDS] = [...'",:\\[{-s'].map((sign) =>
  sign.charCodeAt(0),
);

/**
 * `values`: the values and the names of fields, at least the half of them, or some number over `max`; `digits`: those of
 * the longest number or duration until there.
 */
export function measureJson(bytes: Uint8Array, max: number): { values: number; digits: number } {
  let values = 0;
  let digits = 0;
  /** Since the last sign that ends a number. */
  let run = 0;
  for (let i = 0; i < bytes.length && values <= max; i++) {
    const byte = bytes[i] as number;
    if (isDigit(byte)) {
      run += 1;
      if (run > digits) digits = run;
    } else if (byte === COMMA || byte === COLON || byte === BRACKET || byte === BRACE) {
      values += 1;
      run = 0;
    } else if (byte === QUOTE) {
      const start = i + 1;
      for (i++; i < bytes.length && bytes[i] !== QUOTE; i++) if (bytes[i] === BACKSLASH) i++;
      digits = Math.max(digits, secondsDigits(bytes, i));
      if (i - start > TEXT_BYTES) digits = Math.max(digits, longestRun(bytes, start, i));
    }
  }
  return { values, digits };
}

/** The digits of a duration, such as "90s", whose closing quotation mark is at `end`; 0 for another text. */
function secondsDigits(bytes: Uint8Array, end: number): number {
  if (bytes[end - 1] !== SECONDS) return 0;
  let start = end - 1;
  while (isDigit(bytes[start - 1])) start -= 1;
  return bytes[start - 1] === QUOTE || bytes[start - 1] === MINUS ? end - 1 - start : 0;
}

/** The digits of the longest number in a text, where they are more than any text may have. */
function longestRun(bytes: Uint8Array, start: number, end: number): number {
  let longest = 0;
  for (let i = start, run = 0; i < end; i++) {
    run = isDigit(bytes[i]) ? run + 1 : 0;
    if (run > longest) longest = run;
  }
  return longest > TEXT_BYTES ? longest : 0;
}

const isDigit = (byte = 0) => byte >= 0x30 && byte <= 0x39;
