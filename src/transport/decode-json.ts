// Request messages from JSON: the library's decoder, but for what its messages would cost or its errors would tell. It makes
// a message of every value of a google.protobuf.Struct, which here stays the JSON that it is. Its errors name a type, and echo
// values of the request (`expected bigint: Juan Perez ...`): a refusal names the field by its path, and what to do. And it
// shifts days that no calendar has: 30 February becomes 1 March.
import {
  type DescField,
  type DescMessage,
  fromJson,
  fromJsonString,
  type JsonReadOptions,
  type Message,
} from "@bufbuild/protobuf";
import { EmptySchema, type FieldMask } from "@bufbuild/protobuf/wkt";
import { DomainError } from "../domain/errors.ts";
import { isObject, type JsonObject, type JsonValue } from "../domain/json.ts";
import { toConnectError } from "../errors.ts";
import {
  depthProblem,
  duplicateKey,
  join,
  jsonProblem,
  maskProblem,
  wholeRequest,
} from "../interceptors/json-problem.ts";
import { syntaxProblem } from "../interceptors/json-syntax.ts";
import { namesImpossibleTime } from "../interceptors/json-times.ts";
import { fillPlaces, isPlainStruct, leadsTo, type Place } from "./plain-message.ts";
import { assertFewJsonValues } from "./values.ts";

/** A longer request that does not decode is refused as a whole: to look for the field at fault would delay other calls. */
const EXPLAINED_BYTES = 128 * 1024;

/** Decodes messages of one type, from JSON in UTF-8; throws the refusal as ConnectError. */
export function jsonDecoder(desc: DescMessage, options: Partial<JsonReadOptions>): (bytes: Uint8Array) => Message {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  const places = leadsTo(desc, isTaken) ? placesIn(desc) : undefined;
  return (bytes) => {
    assertFewJsonValues(bytes);
    let text: string;
    try {
      text = utf8.decode(bytes);
    } catch {
      throw toConnectError(wholeRequest("The request is not valid UTF-8"));
    }
    let message: Message;
    try {
      message = places === undefined ? fromJsonString(desc, text, options) : decodeAround(desc, places, text, options);
    } catch (error) {
      if (error instanceof DomainError) throw toConnectError(error);
      throw toConnectError(problemOf(error, desc, text, bytes.length <= EXPLAINED_BYTES));
    }
    const problem = namesImpossibleTime(bytes) ? jsonProblem(desc, JSON.parse(text) as JsonValue) : undefined;
    if (problem !== undefined) throw toConnectError(problem);
    return message;
  };
}

/** Why the library does not decode the text. */
function problemOf(error: unknown, desc: DescMessage, text: string, isShort: boolean): DomainError {
  let value: JsonValue;
  try {
    value = JSON.parse(text) as JsonValue;
  } catch {
    return wholeRequest(`The request is not JSON${isShort ? `: ${syntaxProblem(text)}` : ""}`);
  }
  const problem = (isShort ? jsonProblem(desc, value) : undefined) ?? duplicateKey(error, desc);
  return problem ?? wholeRequest(`The request is not a valid ${desc.typeName}${whereOf(error)}`);
}

/** The field at fault, without its place in the request; nothing where the library names none. */
function whereOf(error: unknown): string {
  const [, type, field] = /^cannot decode field ([\w.]+)\.(\w+) from JSON: /.exec((error as Error).message) ?? [];
  return field === undefined ? "" : `: look at ${field} of each ${type}`;
}

// --- Structs and masks --------------------------------------------------------------------------

/** A Struct or a mask, or a message that has one. JSON may have it by either of its names. */
interface JsonPlace extends Place {
  name: string;
  jsonName: string;
  isMask: boolean;
  inside: { parts: JsonPlace[] } | undefined;
}

const isMask = ({ fieldKind, message }: DescField) =>
  fieldKind === "message" && message.typeName === "google.protobuf.FieldMask";

const isTaken = (field: DescField) => isPlainStruct(field) || isMask(field);

/** Those of a message. What is in maps is left to the library, and Structs that are cases of a oneof. */
function placesIn(desc: DescMessage, made = new Map<DescMessage, { parts: JsonPlace[] }>()): { parts: JsonPlace[] } {
  const known = made.get(desc);
  if (known !== undefined) return known;
  const places: { parts: JsonPlace[] } = { parts: [] };
  made.set(desc, places);
  for (const field of desc.fields) {
    const { fieldKind, message, name, jsonName, localName } = field;
    if (message === undefined || fieldKind === "map" || !(isTaken(field) || leadsTo(message, isTaken))) continue;
    places.parts.push({
      ...{ name, jsonName, localName, isMask: isMask(field) },
      oneof: field.oneof?.localName,
      isList: fieldKind === "list",
      inside: isTaken(field) ? undefined : placesIn(message, made),
    });
  }
  return places;
}

/** What was taken out of the JSON of a message, as it is put into the place that the library has left for it. */
type Taken = (place: unknown) => unknown;

/** The message that the library makes of the text without its Structs and masks, and then with them. */
function decodeAround(
  desc: DescMessage,
  places: { parts: JsonPlace[] },
  text: string,
  options: Partial<JsonReadOptions>,
): Message {
  // Refuses a key that is given twice at any depth, which JSON.parse forgets.
  fromJsonString(EmptySchema, text, { ignoreUnknownFields: true });
  const json = JSON.parse(text) as JsonObject;
  const taken: Taken[] = [];
  take(places.parts, json, "", taken);
  const message = fromJson(desc, json, options);
  let next = 0;
  fillPlaces(places, message, (place) => taken[next++]?.(place));
  // Else something would be lost, or stand in the place of another.
  if (next !== taken.length) throw new Error(`${taken.length} values were taken out, and ${next} places found`);
  return message;
}

/** Leaves empty ones in their places. What has not the form of its field is left for the library to refuse. */
function take(parts: readonly JsonPlace[], json: JsonObject, path: string, taken: Taken[]): void {
  for (const { name, jsonName, isList, inside, isMask } of parts) {
    // No field is called as what every object has.
    const key = Object.hasOwn(json, jsonName) ? jsonName : name;
    const value = json[key];
    const at = join(path, name);
    if (inside !== undefined) {
      const items = isList ? (Array.isArray(value) ? value : []) : [value];
      for (const [i, item] of items.entries()) {
        if (isObject(item)) take(inside.parts, item, isList ? `${at}[${i}]` : at, taken);
      }
    } else if (isMask && typeof value === "string") {
      throwIfAny(maskProblem(value, at));
      const paths = pathsOf(value);
      taken.push((mask) => Object.assign(mask as FieldMask, { paths }));
      json[key] = "";
    } else if (!isMask && isObject(value)) {
      throwIfAny(depthProblem(value, at));
      taken.push(() => value);
      json[key] = {};
    }
  }
}

function throwIfAny(problem: DomainError | undefined): void {
  if (problem !== undefined) throw problem;
}

const [A, Z, UNDERSCORE, CASE] = [0x41, 0x5a, 0x5f, 0x20];

/** The paths of a mask, as the contract writes them. The library takes ten times as long for a text of capital letters. */
function pathsOf(mask: string): string[] {
  if (mask === "") return [];
  const bytes = Buffer.from(mask);
  const snake = Buffer.allocUnsafe(2 * bytes.length);
  let length = 0;
  for (const byte of bytes) {
    const isCapital = byte >= A && byte <= Z;
    if (isCapital) snake[length++] = UNDERSCORE;
    snake[length++] = isCapital ? byte + CASE : byte;
  }
  return snake.toString("utf8", 0, length).split(",");
}
