// What is wrong with JSON as a message of the contract: which field, by its path from the request, and what to do.
import { type DescEnum, type DescField, type DescMessage, fromJson, ScalarType } from "@bufbuild/protobuf";
import { DomainError, invalidField } from "../domain/errors.ts";
import { isObject, type JsonObject, type JsonValue } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { dateProblem } from "../domain/text.ts";

const LOOKUP = "entity.v1.EntityLookup";
const STRUCT = "google.protobuf.Struct";
const FIELD_MASK = "google.protobuf.FieldMask";
/** A key that the contract does not have is repeated only where it can hardly be a value: a tax id or an external id has digits. */
const FIELD_LIKE = /^[A-Za-z][A-Za-z_]{0,63}$/;

/** What is wrong with a value as JSON of `request`; undefined where it decodes. */
export function jsonProblem(request: DescMessage, value: JsonValue): DomainError | undefined {
  return messageProblem(request, value, "", request);
}

/** A refusal of the whole request: no field is at fault. */
export function wholeRequest(message: string): DomainError {
  return new DomainError("VALIDATION_ERROR", message);
}

/** Recursive as deep as the contract's messages are nested; free-form JSON is a leaf. */
function messageProblem(
  desc: DescMessage,
  value: JsonValue,
  path: string,
  request: DescMessage,
): DomainError | undefined {
  if (!isObject(value)) {
    if (path === "") return wholeRequest(`The request is not a valid ${request.typeName}: it must be an object`);
    return invalidField(path, `must be ${JSON_FORM[desc.typeName] ?? "an object"}`);
  }
  const seen = new Set<DescField>();
  for (const [key, member] of Object.entries(value)) {
    const field = desc.fields.find(({ name, jsonName }) => name === key || jsonName === key);
    if (field === undefined) return unknownKey(desc, key, path);
    const at = join(path, field.name);
    if (seen.has(field)) return invalidField(at, "is given twice");
    seen.add(field);
    if (member === null && field.message?.typeName !== "google.protobuf.Value") continue;
    const problem = oneofProblem(field, seen, value, path) ?? fieldProblem(field, member, at, request);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function fieldProblem(field: DescField, value: JsonValue, at: string, request: DescMessage): DomainError | undefined {
  if (field.fieldKind === "list") {
    if (!Array.isArray(value)) return invalidField(at, "must be a list");
    for (const [index, item] of value.entries()) {
      if (item === null) return invalidField(`${at}[${index}]`, "must not be null");
      const problem = itemProblem(field, item, `${at}[${index}]`, request, [item]);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }
  if (field.fieldKind === "map" && !isObject(value)) return invalidField(at, "must be an object");
  return itemProblem(field, value, at, request, value);
}

/** `alone`: the value as the field has it where nothing else is in it. */
function itemProblem(
  field: DescField,
  value: JsonValue,
  at: string,
  request: DescMessage,
  alone: JsonValue,
): DomainError | undefined {
  const { message } = field;
  if (field.fieldKind !== "map" && message !== undefined && !isWellKnown(message)) {
    return messageProblem(message, value, at, request);
  }
  if (message?.typeName === "google.protobuf.Timestamp" && typeof value === "string") {
    const [, date = "", hour] = /^(\d{4}-\d\d-\d\d)T(\d\d)/.exec(value) ?? [];
    if (hour === "24") return invalidField(at, "must be a time of the calendar, with hours from 00 to 23");
    if (date !== "" && dateProblem(date) !== null) return invalidField(at, "must be a day of the calendar");
  }
  if (isFreeForm(message)) {
    const problem = depthProblem(value, at);
    if (problem !== undefined) return problem;
    // Nothing else in one is refused, and the library would make a message of each value.
    if (field.fieldKind === "message" && message?.typeName === STRUCT && isObject(value)) return undefined;
  }
  if (field.fieldKind === "message" && message?.typeName === FIELD_MASK) return maskProblem(value, at);
  try {
    fromJson(field.parent, { [field.jsonName]: alone });
    return undefined;
  } catch {
    if (typeof value === "string" && !value.isWellFormed()) {
      return invalidField(at, "must be a string of valid Unicode");
    }
    return invalidField(at, `must be ${expected(field)}`);
  }
}

function oneofProblem(
  field: DescField,
  seen: ReadonlySet<DescField>,
  value: JsonObject,
  path: string,
): DomainError | undefined {
  const { oneof } = field;
  if (oneof === undefined || !oneof.fields.some((other) => other !== field && seen.has(other) && isGiven(other, value)))
    return undefined;
  const names = oneof.fields.map(({ name }) => name).join(", ");
  if (oneof.parent.typeName === LOOKUP) {
    const description = `give exactly one of ${names}`;
    return new DomainError("INVALID_LOOKUP", `${path}: ${description}`, { field: path }, [
      { field: path, description },
    ]);
  }
  return invalidField(join(path, oneof.name), `give only one of ${names}`);
}

const isGiven = ({ name, jsonName }: DescField, value: JsonObject) => (value[jsonName] ?? value[name] ?? null) !== null;

function unknownKey(desc: DescMessage, key: string, path: string): DomainError {
  const cure = cureOf(desc, key, path);
  if (FIELD_LIKE.test(key)) return invalidField(join(path, key), `there is no such field${cure}`);
  const what = `has a field that the contract does not have${cure}`;
  return path === "" ? wholeRequest(`The request ${what}`) : invalidField(path, what);
}

/** Where the key belongs, if anywhere: a field further in, a field of nearly that name, or where free keys go. */
function cureOf(desc: DescMessage, key: string, path: string): string {
  const further = pathsWithin(desc, key)[0];
  if (further !== undefined) return `: did you mean ${join(path, further)}?`;
  const near = desc.fields.find(({ name, jsonName }) => isNear(name, key) || isNear(jsonName, key));
  if (near !== undefined) return `: did you mean ${join(path, near.name)}?`;
  const free = desc.fields.find(({ name }) => name === "additional");
  return free === undefined ? "" : `: keys of your own belong in ${join(path, free.name)}`;
}

/** Paths of the fields of this name inside the message fields of `desc`, nearest first. */
function pathsWithin(desc: DescMessage, key: string): string[] {
  let level: { message: DescMessage; path: string }[] = [{ message: desc, path: "" }];
  for (let depth = 0; depth < 3; depth++) {
    level = level.flatMap(({ message, path }) =>
      message.fields.flatMap((field) =>
        field.fieldKind === "message" && !isWellKnown(field.message)
          ? [{ message: field.message, path: join(path, field.name) }]
          : [],
      ),
    );
    const found = level.flatMap(({ message, path }) =>
      message.fields.flatMap(({ name, jsonName }) => (name === key || jsonName === key ? [join(path, name)] : [])),
    );
    if (found.length > 0) return found;
  }
  return [];
}

/** One letter apart, or two that changed places, however they are cased. */
function isNear(a: string, b: string): boolean {
  const [left, right] = [a.toLowerCase(), b.toLowerCase()];
  if (Math.abs(left.length - right.length) > 1 || left.length < 3) return false;
  let start = 0;
  while (start < left.length && left[start] === right[start]) start++;
  let end = 0;
  const shorter = Math.min(left.length, right.length) - start;
  while (end < shorter && left.at(-1 - end) === right.at(-1 - end)) end++;
  const [x, y] = [left.slice(start, left.length - end), right.slice(start, right.length - end)];
  return (x.length <= 1 && y.length <= 1) || (x.length === 2 && y.length === 2 && x[0] === y[1] && x[1] === y[0]);
}

/** As the library says it; from its beginning, since it repeats other keys of the caller in whole, and looking for this in a long one takes minutes. */
const DUPLICATE_KEY = /^cannot decode message [\w.]+ from JSON: duplicate object key "(.*)"$/s;

/** For the error of a decoder that refused the text. The library tells the key alone, and a key of a Struct is the caller's: it is named only where it is a field of ours. */
export function duplicateKey(error: unknown, request: DescMessage): DomainError | undefined {
  const key = DUPLICATE_KEY.exec(error instanceof Error ? error.message : "")?.[1];
  if (key === undefined) return undefined;
  const isOurs = request.fields.some(({ name, jsonName }) => name === key || jsonName === key);
  return isOurs || pathsWithin(request, key).length > 0
    ? invalidField(key, "is given twice")
    : wholeRequest("A key is given twice in one object of the request");
}

/** More than the rule allows, which names the place in it; fewer than the library reads, which counts from the request. */
const READ_LEVELS = 90;

/** What is wrong with free-form JSON that is nested deeper than anything should go into. */
export function depthProblem(value: JsonValue, at: string): DomainError | undefined {
  if (!isDeeperThan(value, READ_LEVELS)) return undefined;
  return invalidField(at, `must not be nested deeper than ${LIMITS.structDepth} levels`, {
    limit: String(LIMITS.structDepth),
  });
}

/** What is wrong with a mask. The library would make half a million texts of one of a megabyte, or change each of its letters. */
export function maskProblem(value: JsonValue, at: string): DomainError | undefined {
  if (typeof value !== "string" || value.includes("_")) return invalidField(at, `must be ${JSON_FORM[FIELD_MASK]}`);
  const max = LIMITS.maskPaths;
  if (value.split(",", max + 1).length > max)
    return invalidField(join(at, "paths"), `must not have more than ${max} items`);
  const length = max * LIMITS.string;
  return value.length > length ? invalidField(at, `must not be longer than ${length} characters`) : undefined;
}

function isDeeperThan(value: JsonValue, levels: number): boolean {
  let inside: JsonValue[] = [value];
  for (let level = 0; level <= levels; level++) {
    inside = inside.flatMap((each) => (each !== null && typeof each === "object" ? Object.values(each) : []));
    if (inside.length === 0) return false;
  }
  return true;
}

export const join = (path: string, name: string) => (path === "" ? name : `${path}.${name}`);
const isWellKnown = ({ typeName }: DescMessage) => typeName.startsWith("google.protobuf.");
const isFreeForm = (desc: DescMessage | undefined) =>
  desc !== undefined && /^google\.protobuf\.(Struct|Value|ListValue)$/.test(desc.typeName);

// --- In words -----------------------------------------------------------------------------------

const JSON_FORM: Record<string, string> = {
  "google.protobuf.Timestamp": "a time as in 2026-01-31T12:00:00Z, from year 1 to 9999",
  "google.protobuf.Duration": 'a duration as in "1.5s"',
  [FIELD_MASK]: "field paths in lowerCamelCase, separated by commas",
  "google.protobuf.ListValue": "a list",
};

function expected(field: DescField): string {
  if (field.fieldKind === "map") return "an object";
  if (field.scalar !== undefined) return SCALAR[field.scalar];
  if (field.enum !== undefined) return oneOf(field.enum);
  return JSON_FORM[field.message?.typeName ?? ""] ?? "an object";
}

function oneOf(type: DescEnum): string {
  return `one of ${type.values
    .filter((value) => value.number !== 0)
    .map((value) => value.name)
    .join(", ")}`;
}

const INT32 = "a whole number of 32 bits";
const UINT32 = "a whole number of 32 bits, not negative";
const INT64 = "a whole number of 64 bits";
const UINT64 = "a whole number of 64 bits, not negative";

const SCALAR: Record<ScalarType, string> = {
  [ScalarType.STRING]: "a string",
  [ScalarType.BOOL]: "true or false",
  [ScalarType.BYTES]: "a string in base64",
  [ScalarType.DOUBLE]: "a number",
  [ScalarType.FLOAT]: "a number of 32 bits",
  [ScalarType.INT32]: INT32,
  [ScalarType.SINT32]: INT32,
  [ScalarType.SFIXED32]: INT32,
  [ScalarType.UINT32]: UINT32,
  [ScalarType.FIXED32]: UINT32,
  [ScalarType.INT64]: INT64,
  [ScalarType.SINT64]: INT64,
  [ScalarType.SFIXED64]: INT64,
  [ScalarType.UINT64]: UINT64,
  [ScalarType.FIXED64]: UINT64,
};
