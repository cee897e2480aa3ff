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
  // Half the time of writing it key by key.
  const sorted = sortedCopy(value);
  return sorted === undefined ? textOf(value) : JSON.stringify(sorted);
}

/** The value with the keys of its objects in their order; undefined where an object of JavaScript cannot have them so. */
function sortedCopy(value: JsonValue): JsonValue | undefined {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) {
    // A list of texts and numbers is its own copy.
    let items: JsonValue[] | undefined;
    for (let i = 0; i < value.length; i++) {
      const item = value[i]!;
      if (item !== null && typeof item === "object") {
        const sorted = sortedCopy(item);
        if (sorted === undefined) return undefined;
        items ??= value.slice(0, i);
        items.push(sorted);
      } else items?.push(item);
    }
    return items ?? value;
  }
  const copy: JsonObject = {};
  for (const key of sortedKeys(value)) {
    // Numbers come before all else, whenever they were set; __proto__ would set the prototype.
    if (BEGINS_WITH_DIGIT.test(key) || key === "__proto__") return undefined;
    const sorted = sortedCopy(value[key]!);
    if (sorted === undefined) return undefined;
    copy[key] = sorted;
  }
  return copy;
}

const BEGINS_WITH_DIGIT = /^\d/;

function textOf(value: JsonValue): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(textOf).join(",")}]`;
  return `{${sortedKeys(value)
    .map((key) => `${JSON.stringify(key)}:${textOf(value[key]!)}`)
    .join(",")}}`;
}

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
