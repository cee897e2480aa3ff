// What text is acceptable (rule 73). Each check returns what is wrong, in words that hold no value (rule 75), or null.
import type { JsonObject, JsonValue } from "./json.ts";
import { LIMITS } from "./limits.ts";

/** White space of Unicode off both ends, U+FEFF included. */
export function trim(value: string): string {
  return value.trim();
}

/** Any text: no NUL, control character (tab and line ends only if multiline), lone surrogate or noncharacter; at most `max` code points. */
export function textProblem(
  value: string,
  { max, multiline = false }: { max: number; multiline?: boolean },
): string | null {
  if (isLongerThan(value, max)) return `must not be longer than ${max} characters`;
  if (!value.isWellFormed()) return "must not contain a lone surrogate";
  if (multiline ? CONTROL_BUT_TAB_AND_LINE_END.test(value) : CONTROL.test(value))
    return "must not contain control characters";
  if (NONCHARACTER.test(value)) return "must not contain Unicode noncharacters";
  return null;
}

/** Something that things are found by: one line, and nothing invisible that would make two of them look the same. */
export function identifierProblem(value: string, max: number = LIMITS.externalId): string | null {
  return (
    textProblem(value, { max }) ??
    (INVISIBLE.test(value) ? "must not contain invisible characters" : null) ??
    (LINE_SEPARATOR.test(value) ? "must be one line" : null)
  );
}

/**
 * A name (rule 14): one line with something that shows. Joiners and direction marks stay beside it, as scripts need
 * them; overrides, embeddings and isolates reorder what is read.
 */
export function nameProblem(value: string, max: number = LIMITS.name): string | null {
  return (
    textProblem(value, { max }) ??
    (SHOWS.test(value) ? null : "must have a character that shows, such as a letter or a digit") ??
    (BIDI_CONTROL.test(value) ? "must not contain bidirectional control characters" : null) ??
    (LINE_SEPARATOR.test(value) ? "must be one line" : null)
  );
}

const CONTROL_BUT_TAB_AND_LINE_END = /(?![\t\n\r])\p{Cc}/u;
const CONTROL = /\p{Cc}/u;
const NONCHARACTER = /\p{Noncharacter_Code_Point}/u;
const LINE_SEPARATOR = /[\u2028\u2029]/;
const BIDI_CONTROL = /[\u202a-\u202e\u2066-\u2069]/;
// Joiners, variation selectors, direction marks, Hangul fillers and the like; and the blank pattern of Braille.
const INVISIBLE = /[\p{Default_Ignorable_Code_Point}\u2800]/u;
const SHOWS = /(?![\p{Default_Ignorable_Code_Point}\u2800])[\p{L}\p{N}\p{P}\p{S}]/u;

function isLongerThan(value: string, max: number): boolean {
  if (value.length <= max) return false;
  if (value.length > max * 2) return true;
  let codePoints = 0;
  for (const _ of value) if (++codePoints > max) return true;
  return false;
}

/**
 * A calendar date `YYYY-MM-DD` of the years 0001 to 9999 that exists, or as much of one as is known: `YYYY-MM`, `YYYY`
 * (rule 27). `notAfter`: the latest date that has begun anywhere on Earth, YYYY-MM-DD.
 */
export function dateProblem(value: string, { notAfter }: { notAfter?: string } = {}): string | null {
  const parts = /^(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?$/.exec(value);
  if (!parts) return "must be a date of the form YYYY-MM-DD, or YYYY-MM or YYYY where no more is known";
  const [year, month, day] = [Number(parts[1]), Number(parts[2] ?? 1), Number(parts[3] ?? 1)];
  if (!isCalendarDay(year, month, day)) {
    return parts[3] === undefined ? "must be a year and month of the calendar" : "must be a day of the calendar";
  }
  // A month or year that has begun.
  if (notAfter !== undefined && value > notAfter.slice(0, value.length)) return "must not be in the future";
  return null;
}

export const isCalendarDay = (year: number, month: number, day: number): boolean =>
  year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= daysIn(year, month);

function daysIn(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31;
}

/** A UUID of the form 8-4-4-4-12, lower-cased, or null: PostgreSQL also takes braces and missing dashes, one id has one spelling here. */
export function parseUuid(value: string): string | null {
  return /^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$/.test(value) ? value.toLowerCase() : null;
}

export const NOT_A_UUID = "must be a UUID of the form 8-4-4-4-12";

export function uuidProblem(value: string): string | null {
  return parseUuid(value) === null ? NOT_A_UUID : null;
}

export interface StructLimits {
  /** Bytes of the whole as JSON in UTF-8, without white space. */
  structBytes: number;
  /** Keys of one object, at any level. */
  structKeys: number;
  /** Levels of values; those of the top are level 1. */
  structDepth: number;
  /** Code points of a string. */
  string: number;
}

export interface StructProblem {
  /** Keys joined by `.`, positions as `[i]`, such as `owners[2].share`; `*` for a key that may be personal data; "" for the whole. */
  path: string;
  description: string;
}

const KEY_MAX = 128;

/** A google.protobuf.Struct as JSON. From the binary wire it may hold what JSON cannot: NaN, Infinity, lone surrogates. */
export function structProblem(value: JsonObject, limits: StructLimits = LIMITS): StructProblem | null {
  let bytes = 0;
  const tooLarge = { path: "", description: `must not be larger than ${limits.structBytes} bytes as JSON` };
  return objectProblem(value, 1) ?? sizeProblem();

  // Recursive, but never deeper than the limit: `level` is that of the values inside. The path of a problem is put together on
  // the way back: there is none nearly always.
  function objectProblem(object: JsonObject, level: number): StructProblem | null {
    const keys = Object.keys(object);
    if (keys.length > limits.structKeys)
      return { path: "", description: `must not have more than ${limits.structKeys} keys` };
    bytes += 2 + Math.max(0, keys.length - 1); // braces and commas
    for (const key of keys) {
      const description = keyProblem(key);
      if (description) return { path: pathOfKey(key), description };
      bytes += jsonBytes(key) + 1;
      const problem = valueProblem(object[key]!, level);
      if (problem) return inside(pathOfKey(key), problem);
    }
    return null;
  }

  function arrayProblem(array: readonly JsonValue[], level: number): StructProblem | null {
    bytes += 2 + Math.max(0, array.length - 1); // brackets and commas
    for (let index = 0; index < array.length; index++) {
      const problem = valueProblem(array[index]!, level);
      if (problem) return inside(`[${index}]`, problem);
    }
    return null;
  }

  function valueProblem(item: JsonValue, level: number): StructProblem | null {
    if (level > limits.structDepth)
      return { path: "", description: `must not be nested deeper than ${limits.structDepth} levels` };
    if (Array.isArray(item)) return arrayProblem(item, level + 1) ?? sizeProblem();
    if (item !== null && typeof item === "object") return objectProblem(item, level + 1) ?? sizeProblem();
    if (typeof item === "string") {
      const description = textProblem(item, { max: limits.string, multiline: true });
      if (description) return { path: "", description };
      bytes += jsonBytes(item);
    } else if (typeof item === "number") {
      const description = numberProblem(item);
      if (description) return { path: "", description };
      bytes += String(item).length;
    } else {
      bytes += item === false ? 5 : 4;
    }
    return sizeProblem();
  }

  function sizeProblem(): StructProblem | null {
    return bytes <= limits.structBytes ? null : tooLarge;
  }

  /** The problem of what is at `step`. */
  function inside(step: string, problem: StructProblem): StructProblem {
    const { path, description } = problem;
    // That of the whole is nowhere in it.
    if (problem === tooLarge) return problem;
    return { path: path === "" || path.startsWith("[") ? `${step}${path}` : `${step}.${path}`, description };
  }
}

function numberProblem(value: number): string | null {
  if (!Number.isFinite(value)) return "must be a finite number";
  if (Number.isInteger(value) && !Number.isSafeInteger(value))
    return "is an integer too large to be exact: send it as a string";
  return null;
}

// `.` and `"` belong to paths: a key that holds them could be read as one.
function keyProblem(key: string): string | null {
  if (key === "") return "must not have an empty key";
  const problem = textProblem(key, { max: KEY_MAX });
  if (problem) return `has a key that ${problem}`;
  return /[."]/.test(key) ? "must not have a key with a dot or a quotation mark" : null;
}

// A key is named if it looks like a name in a program; anything else, a tax id as key for one, could be personal data.
function pathOfKey(key: string): string {
  return /^[A-Za-z_][A-Za-z0-9_-]{0,63}$/.test(key) ? key : "*";
}

// Length as a JSON string in UTF-8, as JSON.stringify writes it; for well-formed text.
function jsonBytes(value: string): number {
  let bytes = 2;
  for (let index = 0; index < value.length; index++) {
    const unit = value.charCodeAt(index);
    if (unit === 0x22 || unit === 0x5c || (unit >= 0x08 && unit <= 0x0d && unit !== 0x0b)) bytes += 2;
    else if (unit < 0x20) bytes += 6;
    else if (unit < 0x80) bytes += 1;
    else if (unit < 0x800) bytes += 2;
    else bytes += unit >= 0xd800 && unit <= 0xdfff ? 2 : 3; // half of a pair of 4 bytes
  }
  return bytes;
}
