// Request messages from JSON: the library's decoder, but for what its messages would cost or its errors would tell. It makes
// a message of every value of a google.protobuf.Struct, which here stays the JSON that it is. Its errors name a type, and echo
// values of the request (`expected bigint: Juan Perez ...`): a refusal names the field by its path, and what to do. And it
// shifts days that no calendar has: 30 February becomes 1 March.
import { type DescMessage, fromJson, fromJsonString, type JsonReadOptions, type Message } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { DomainError } from "../domain/errors.ts";
import { isObject, type JsonObject, type JsonValue } from "../domain/json.ts";
import { toConnectError } from "../errors.ts";
import { depthProblem, duplicateKey, join, jsonProblem, wholeRequest } from "../interceptors/json-problem.ts";
import { syntaxProblem } from "../interceptors/json-syntax.ts";
import { namesImpossibleTime } from "../interceptors/json-times.ts";
import { isPlainStruct, leadsToStruct, type Place, putStructs } from "./plain-message.ts";
import { assertFewJsonValues } from "./values.ts";

/** A longer request that does not decode is refused as a whole: to look for the field at fault would delay other calls. */
const EXPLAINED_BYTES = 128 * 1024;

/** Decodes messages of one type, from JSON in UTF-8; throws the refusal as ConnectError. */
export function jsonDecoder(desc: DescMessage, options: Partial<JsonReadOptions>): (bytes: Uint8Array) => Message {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  const places = leadsToStruct(desc) ? placesIn(desc, new Map()) : undefined;
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
      message =
        places === undefined ? fromJsonString(desc, text, options) : decodeAroundStructs(desc, places, text, options);
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

// --- Structs ------------------------------------------------------------------------------------

/** A field on the way to Structs, by both of its names in JSON. */
interface JsonPlace extends Place {
  name: string;
  jsonName: string;
  inside: { parts: JsonPlace[] } | undefined;
}

/** Those of a message; in maps and oneofs the library reads them. */
function placesIn(desc: DescMessage, made: Map<DescMessage, { parts: JsonPlace[] }>): { parts: JsonPlace[] } {
  const known = made.get(desc);
  if (known !== undefined) return known;
  const places: { parts: JsonPlace[] } = { parts: [] };
  made.set(desc, places);
  for (const field of desc.fields) {
    const { fieldKind, message, name, jsonName, localName } = field;
    if (message === undefined || fieldKind === "map") continue;
    const isStruct = isPlainStruct(field);
    if (!isStruct && !leadsToStruct(message)) continue;
    const inside = isStruct ? undefined : placesIn(message, made);
    places.parts.push({
      name,
      jsonName,
      localName,
      oneof: field.oneof?.localName,
      isList: fieldKind === "list",
      inside,
    });
  }
  return places;
}

/** The message that the library makes of the text without its Structs, and then with them. */
function decodeAroundStructs(
  desc: DescMessage,
  places: { parts: JsonPlace[] },
  text: string,
  options: Partial<JsonReadOptions>,
): Message {
  // Refuses a key that is given twice at any depth, which JSON.parse forgets.
  fromJsonString(EmptySchema, text, { ignoreUnknownFields: true });
  const json = JSON.parse(text) as JsonObject;
  const structs: JsonObject[] = [];
  takeStructs(places.parts, json, "", structs);
  const message = fromJson(desc, json, options);
  let next = 0;
  putStructs(places, message, () => structs[next++] as JsonObject);
  return message;
}

/** Leaves an empty one in the place of each. What has not the form of its field is left for the library to refuse. */
function takeStructs(places: readonly JsonPlace[], json: JsonObject, path: string, structs: JsonObject[]): void {
  for (const { name, jsonName, isList, inside } of places) {
    const key = Object.hasOwn(json, jsonName) ? jsonName : name;
    const value = Object.hasOwn(json, key) ? json[key] : undefined;
    const at = join(path, name);
    if (isList && inside !== undefined) {
      if (!Array.isArray(value)) continue;
      for (const [i, item] of value.entries()) {
        if (isObject(item)) takeStructs(inside.parts, item, `${at}[${i}]`, structs);
      }
    } else if (isObject(value)) {
      if (inside !== undefined) takeStructs(inside.parts, value, at, structs);
      else {
        const problem = depthProblem(value, at);
        if (problem !== undefined) throw problem;
        structs.push(value);
        json[key] = {};
      }
    }
  }
}
