// Rule 73, for every field of every request: no NUL, no lone surrogates, no control characters, no
// over-long strings, no list of too many items, no Struct that JSON or the database would change. Walks the descriptors, so that a
// new field is covered from its first day. The families add what is particular to a field.
import { type DescField, type DescMessage, getOption, type Message } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { max_items } from "../../clients/typescript/gen/entity/v1/options_pb.ts";
import type { JsonObject } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { structProblem, textProblem, trim } from "../domain/text.ts";
import { presentValue } from "./message.ts";
import { Violations } from "./violations.ts";

/** Fields whose text has a limit of its own, by name: they are trimmed before anything else, so blanks around them do not count. */
const MAX: Record<string, number> = { reason: LIMITS.reason };

/** Throws VALIDATION_ERROR with the path of every field at fault. */
export function assertWellFormed(desc: DescMessage, message: Message): void {
  const violations = new Violations();
  checkMessage(desc, message, "", violations);
  violations.throwIfAny();
}

/** How many items a list or map of a request may have: what its proto says, and none where that says nothing. */
export function maxItems(field: DescField): number {
  let max = known.get(field);
  if (max === undefined) {
    max = field.parent.typeName === "google.protobuf.FieldMask" ? LIMITS.maskPaths : getOption(field, max_items);
    known.set(field, max);
  }
  return max;
}

const known = new WeakMap<DescField, number>();

function checkMessage(desc: DescMessage, message: Message, path: string, violations: Violations): void {
  for (const field of desc.fields) {
    const value = presentValue(field, message);
    if (value === undefined) continue;
    const at = path === "" ? field.name : `${path}.${field.name}`;
    if (Array.isArray(value)) {
      const max = maxItems(field);
      if (value.length > max) violations.add(at, `must not have more than ${max} items`);
      // Not looked into: what costs are the items.
      else value.forEach((item, index) => checkValue(field, item, `${at}[${index}]`, violations));
    } else {
      checkValue(field, value, at, violations);
    }
  }
}

function checkValue(field: DescField, value: unknown, at: string, violations: Violations): void {
  if (typeof value === "string") {
    const max = MAX[field.name];
    violations.check(
      at,
      textProblem(max === undefined ? value : trim(value), { max: max ?? LIMITS.string, multiline: true }),
    );
  } else if (field.message?.typeName === "google.protobuf.Struct") {
    const problem = structProblem(value as JsonObject);
    if (problem !== null) violations.add(problem.path === "" ? at : `${at}.${problem.path}`, problem.description);
  } else if (field.message?.typeName === "google.protobuf.Timestamp") {
    checkTimestamp(value as Timestamp, at, violations);
  } else if (field.enum !== undefined) {
    if (field.enum.value[value as number] === undefined) violations.add(at, "is not a value of its enum");
  } else if (field.message !== undefined) {
    checkMessage(field.message, value as Message, at, violations);
  }
}

/** 0001-01-01 to 9999-12-31, as google.protobuf.Timestamp has it. */
function checkTimestamp({ seconds, nanos }: Timestamp, at: string, violations: Violations): void {
  if (seconds < -62_135_596_800n || seconds > 253_402_300_799n || nanos < 0 || nanos > 999_999_999) {
    violations.add(at, "must be a time from the year 1 to 9999, with nanos from 0 to 999999999");
  }
}
