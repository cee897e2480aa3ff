// JSON values as the wire brings them: compared and written without regard to the order of keys.
// Own properties only, and nothing is assigned by key: `__proto__` is a key like any other (rule 74).

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject;
export interface JsonObject {
  [key: string]: JsonValue;
}

export function isObject(value: unknown): value is JsonObject {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** A value as it is written: the text of a document, where something depends on the very text. */
export class JsonText {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/**
 * JSON text in the form of RFC 8785: without spaces, with sorted keys, the same for equal values. For values that passed
 * structProblem: finite, without lone surrogates, not deeply nested.
 */
export function canonicalJson(value: JsonValue): string {
  if (typeof value === "string") return stringText(value);
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  let text = "";
  if (Array.isArray(value)) {
    for (const item of value) text += `${text === "" ? "" : ","}${canonicalJson(item)}`;
    return `[${text}]`;
  }
  for (const key of sortedKeys(value)) {
    text += `${text === "" ? "" : ","}${stringText(key)}:${canonicalJson(value[key]!)}`;
  }
  return `{${text}}`;
}

/** Nothing is escaped. */
const PLAIN = /^[^"\\\p{Cc}\p{Cs}]*$/u;
const stringText = (text: string): string => (PLAIN.test(text) ? `"${text}"` : JSON.stringify(text));

const FEW_KEYS = 12;

/** By UTF-16 code units: the same everywhere, unlike a locale's order. */
function sortedKeys(value: JsonObject): string[] {
  const keys = Object.keys(value);
  if (keys.length > FEW_KEYS) return keys.sort();
  // By insertion: what `sort` does before it compares costs more than comparing a few.
  for (let i = 1; i < keys.length; i++) {
    const key = keys[i] as string;
    let at = i;
    for (; at > 0 && (keys[at - 1] as string) > key; at--) keys[at] = keys[at - 1] as string;
    keys[at] = key;
  }
  return keys;
}

/** Deep equality; the order of keys does not count, that of arrays does. */
export function sameJson(a: JsonValue, b: JsonValue): boolean {
  if (a === b) return true;
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((item, index) => sameJson(item, b[index]!));
  }
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && sameJson(a[key]!, b[key]!));
}
