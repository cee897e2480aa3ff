// A row of an import as a request: the JSON form of Entity, with what ImportEntitiesRequest has beside it.
import { type DescMessage, fromJson, toBinary } from "@bufbuild/protobuf";
import {
  AddressSchema,
  CompanyDataSchema,
  type ImportEntitiesRequest,
  ImportEntitiesRequestSchema,
  PersonDataSchema,
} from "../../clients/typescript/index.ts";
import { DomainError, invalidField } from "../domain/errors.ts";
import { isObject, type JsonObject, type JsonValue } from "../domain/json.ts";
import { jsonProblem } from "../interceptors/json-problem.ts";
import { assertWellFormed } from "../rpc/well-formed.ts";

/** What the service takes in one message. One that is larger would end the stream, and with it the import. */
const MAX_ROW_BYTES = 4 * 1024 * 1024;
/** A row is at most a few times as large in binary as in JSON: shorter lines need no measuring. */
const SURELY_SMALL = 256 * 1024;

/** Keys of a row that are not the entity's. */
const ROW_KEYS = new Set([
  ...["reason", "request_id", "requestId", "occurred_at", "occurredAt"],
  ...["external_ids", "externalIds", "update_mask", "updateMask"],
]);

/** Throws the refusal of a row that must not reach the stream, which it would end for all others. */
export function importRowOf(
  object: JsonObject,
  bytes: number,
  options: { dryRun: boolean; reason: string | undefined; updateOnly: boolean },
): ImportEntitiesRequest {
  const members = Object.entries(object);
  const entity = Object.fromEntries(members.filter(([key]) => !ROW_KEYS.has(key)));
  const json = { ...Object.fromEntries(members.filter(([key]) => ROW_KEYS.has(key))), entity: withAdditional(entity) };
  const problem = jsonProblem(ImportEntitiesRequestSchema, json);
  if (problem !== undefined) throw problem;
  const request: ImportEntitiesRequest = fromJson(ImportEntitiesRequestSchema, json);
  if (request.reason === "" && options.reason !== undefined) request.reason = options.reason;
  request.validateOnly = options.dryRun;
  request.updateOnly = options.updateOnly;
  // Beyond these limits there are rows that cannot even be decoded at the other end.
  assertWellFormed(ImportEntitiesRequestSchema, request);
  if (bytes > SURELY_SMALL && toBinary(ImportEntitiesRequestSchema, request).length > MAX_ROW_BYTES) {
    throw new DomainError("MESSAGE_TOO_LARGE", `The row is larger than ${MAX_ROW_BYTES} bytes`, {
      limit_bytes: String(MAX_ROW_BYTES),
    });
  }
  return request;
}

/** Rule 25: keys of the person, the company and the address that the contract does not list go to `additional`. */
function withAdditional(entity: JsonObject): JsonObject {
  return mapMembers(entity, (key, data) => {
    if (key !== "entity_data" && key !== "entityData") return data;
    return mapMembers(data, (kind, values) => {
      const at = `entity.entity_data.${kind}`;
      if (kind === "person") return moveUnlisted(PersonDataSchema, values, at);
      return kind === "company" ? moveUnlisted(CompanyDataSchema, values, at) : values;
    });
  });
}

function moveUnlisted(desc: DescMessage, value: JsonValue, at: string): JsonValue {
  if (!isObject(value)) return value;
  const listed: [string, JsonValue][] = [];
  const unlisted: [string, JsonValue][] = [];
  let additional: JsonValue = null;
  for (const [key, member] of Object.entries(value)) {
    if (key === "additional") additional = member;
    else if (key === "address") listed.push([key, moveUnlisted(AddressSchema, member, `${at}.address`)]);
    else (isField(desc, key) ? listed : unlisted).push([key, member]);
  }
  if (additional !== null && !isObject(additional)) throw invalidField(`${at}.additional`, "must be an object");
  if (unlisted.length === 0) return Object.fromEntries([...listed, ["additional", additional]]);
  const given = Object.entries(additional ?? {});
  if (unlisted.some(([key]) => Object.hasOwn((additional ?? {}) as object, key))) {
    throw invalidField(`${at}.additional`, "has a key that is also given beside it");
  }
  return Object.fromEntries([...listed, ["additional", Object.fromEntries([...given, ...unlisted])]]);
}

function isField(desc: DescMessage, key: string): boolean {
  return desc.fields.some((field) => field.name === key || field.jsonName === key);
}

/** What is not an object stays as it is, for the decoder to refuse. */
function mapMembers<T extends JsonValue>(value: T, map: (key: string, member: JsonValue) => JsonValue): T {
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, map(key, member)])) as T;
}
