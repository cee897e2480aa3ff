// What requests of several families have in common: lookups, reasons, request ids, times.
import { createHash } from "node:crypto";
import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { Designation, type EntityLookup, type ExternalId } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import { DomainError, invalidField } from "../domain/errors.ts";
import { canonicalJson, type JsonObject, type JsonValue } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import type { Lookup } from "../domain/lookup.ts";
import { hasForeignLetters, taxIdKey } from "../domain/tax-id.ts";
import { identifierProblem, NOT_A_UUID, nameProblem, parseUuid, textProblem, trim } from "../domain/text.ts";
import type { Instant } from "../domain/time.ts";
import { ENDPOINT_DISABLED, WEBHOOK_EVENTS } from "../domain/webhook.ts";
import { presentValue } from "./message.ts";
import type { Violations } from "./violations.ts";

const TAX_ID_LETTERS = "must have ASCII letters and decimal digits only, besides punctuation";

/** Rules 1, 4 to 8. Throws INVALID_LOOKUP or VALIDATION_ERROR; `field` is the lookup's path, in which `externalIdName` names the external id. */
export function parseLookup(
  lookup: EntityLookup | undefined,
  field = "lookup",
  externalIdName = "external_id",
): Lookup {
  const by = lookup?.by;
  switch (by?.case) {
    case "entityId": {
      if (trim(by.value) === "") throw invalidLookup(`${field}.entity_id`, "must not be blank");
      const key = parseUuid(by.value);
      if (key === null) throw invalidField(`${field}.entity_id`, NOT_A_UUID);
      return { by: "entity_id", key };
    }
    case "externalId": {
      const key = trim(by.value);
      if (key === "") throw invalidLookup(`${field}.${externalIdName}`, "must not be blank");
      const problem = identifierProblem(key);
      if (problem !== null) throw invalidField(`${field}.${externalIdName}`, problem);
      return { by: "external_id", key };
    }
    case "taxId": {
      const problem = taxIdProblem(by.value);
      if (problem !== null) throw invalidField(`${field}.tax_id`, problem);
      const key = taxIdKey(by.value);
      if (key === "") throw invalidLookup(`${field}.tax_id`, "must have a letter or a digit");
      return { by: "tax_id", key };
    }
    default:
      throw invalidLookup(field, "must name exactly one of entity_id, external_id, tax_id");
  }
}

export function invalidLookup(field: string, description: string): DomainError {
  return new DomainError("INVALID_LOOKUP", `${field}: ${description}`, { field }, [{ field, description }]);
}

/** What is wrong with a tax id, if anything; its form is never checked here (rule 19). */
export function taxIdProblem(value: string): string | null {
  return textProblem(trim(value), { max: LIMITS.taxId }) ?? (hasForeignLetters(value) ? TAX_ID_LETTERS : null);
}

/** An external id to attach: trimmed, checked. */
export function parseExternalId(value: string, field: string, violations: Violations): string {
  const externalId = trim(value);
  violations.check(field, externalId === "" ? "is required" : identifierProblem(externalId));
  return externalId;
}

/** External ids to attach (rules 55 to 57), and where in the request each is. */
export function parseExternalIds(items: readonly ExternalId[], violations: Violations) {
  const externalIds = items.map(({ externalId, type, designation }, i) => {
    const at = `external_ids[${i}]`;
    violations.check(`${at}.type`, textProblem(type, { max: LIMITS.externalIdType }));
    return {
      externalId: parseExternalId(externalId, `${at}.external_id`, violations),
      type,
      primary: designation === Designation.PRIMARY,
    };
  });
  const places = new Map<string, number>();
  externalIds.forEach(({ externalId }, i) => {
    if (places.has(externalId)) violations.add(`external_ids[${i}].external_id`, "is listed twice");
    places.set(externalId, i);
  });
  if (externalIds.filter((item) => item.primary).length > 1) {
    violations.add("external_ids", "must not have more than 1 item designated PRIMARY");
  }
  return { externalIds, places };
}

/** Rule 45 where `mandatory`, else rule 43: the reason, trimmed. */
export function parseReason(value: string, violations: Violations, mandatory: boolean): string {
  const reason = trim(value);
  const problem = textProblem(reason, { max: LIMITS.reason, multiline: true });
  if (mandatory && problem === null && [...reason].length < LIMITS.mandatoryReasonMin) {
    violations.add(
      "reason",
      `is required: at least ${LIMITS.mandatoryReasonMin} characters, not counting blanks around it`,
    );
  } else {
    violations.check("reason", problem);
  }
  return reason;
}

/** A name to show: trimmed, required. */
export function parseDisplayName(value: string, field: string, violations: Violations): string {
  const name = trim(value);
  violations.check(field, name === "" ? "is required" : nameProblem(name, LIMITS.name));
  return name;
}

/** Names of events that webhooks send, each once. */
export function parseWebhookEvents(names: readonly string[], field: string, violations: Violations): string[] {
  names.forEach((name, i) => {
    if (!SENT_EVENTS.includes(name)) violations.add(`${field}[${i}]`, `must be one of ${SENT_EVENTS.join(", ")}`);
  });
  return [...new Set(names)];
}

const SENT_EVENTS: readonly string[] = [...WEBHOOK_EVENTS, ENDPOINT_DISABLED];

/** Our name of an enum's value, undefined for one that `table` lacks, such as UNSPECIFIED. */
export const keyOf = <T extends Record<string, number>>(table: T, value: number): (keyof T & string) | undefined =>
  (Object.keys(table) as (keyof T & string)[]).find((key) => table[key] === value);

/** A UUID in lower case, or undefined when empty. */
export function parseOptionalUuid(value: string, field: string, violations: Violations): string | undefined {
  return value === "" ? undefined : requireUuid(value, field, violations) || undefined;
}

/** Empty where it is none, which is noted. */
export function requireUuid(value: string, field: string, violations: Violations): string {
  const id = parseUuid(value);
  if (id === null) violations.add(field, NOT_A_UUID);
  return id ?? "";
}

/** Microseconds; finer is cut off. */
export function fromTimestamp(timestamp: Timestamp): Instant {
  return timestamp.seconds * 1_000_000n + BigInt(Math.floor(timestamp.nanos / 1000));
}

export function toTimestamp(instant: Instant): { seconds: bigint; nanos: number } {
  const number = Number(instant);
  // Until the year 2255 as a number: every step in bigints makes another of them.
  if (Number.isSafeInteger(number)) {
    const seconds = Math.floor(number / 1_000_000);
    return { seconds: BigInt(seconds), nanos: (number - seconds * 1_000_000) * 1000 };
  }
  const micros = ((instant % 1_000_000n) + 1_000_000n) % 1_000_000n;
  return { seconds: (instant - micros) / 1_000_000n, nanos: Number(micros) * 1000 };
}

/**
 * Rule 39: what makes two requests the same, beside their request_id, which may be spelled in either case. A
 * hash of the decoded message, fields in the order of the contract, the keys of a Struct sorted: other
 * languages shuffle maps.
 */
export function requestHash(desc: DescMessage, message: Message & { requestId: string }): Buffer {
  const all = plain(desc, { ...message, requestId: "" } as Message);
  return createHash("sha256").update(desc.typeName).update(canonicalJson(all)).digest();
}

function plain(desc: DescMessage, message: Message): JsonObject {
  const fields: Record<string, JsonValue> = {};
  for (const field of desc.fields) {
    const value = presentValue(field, message);
    if (value === undefined) continue;
    const one = (item: unknown): JsonValue => {
      if (field.message === undefined) return typeof item === "bigint" ? String(item) : (item as JsonValue);
      if (field.message.typeName === "google.protobuf.Struct") return item as JsonObject;
      return plain(field.message, item as Message);
    };
    fields[String(field.number)] = Array.isArray(value) ? value.map(one) : one(value);
  }
  return fields;
}
