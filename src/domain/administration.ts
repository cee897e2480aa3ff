// What is recorded of an act of administration.
import { canonicalJson, type JsonObject } from "./json.ts";

export const ADMINISTRATION_EVENTS = [
  "ORGANIZATION_CREATED",
  "ORGANIZATION_UPDATED",
  "API_KEY_CREATED",
  "API_KEY_REVOKED",
  "WEBHOOK_ENDPOINT_CREATED",
  "WEBHOOK_ENDPOINT_UPDATED",
  "WEBHOOK_ENDPOINT_DELETED",
  "WEBHOOK_SECRET_ROTATED",
  "WEBHOOK_DELIVERIES_REPLAYED",
  "RISK_MATRIX_CREATED",
  "RISK_MATRIX_UPDATED",
  "RISK_MATRIX_DELETED",
] as const;
export type AdministrationEventName = (typeof ADMINISTRATION_EVENTS)[number];

/** The values that differ between two states. One that is missing or null is absent before and null after. */
export function changedValues(
  before: JsonObject,
  after: JsonObject,
): { previousValues: JsonObject; newValues: JsonObject } {
  const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  const changed = keys.filter((key) => canonicalJson(before[key] ?? null) !== canonicalJson(after[key] ?? null));
  return {
    previousValues: Object.fromEntries(changed.flatMap((key) => (before[key] == null ? [] : [[key, before[key]]]))),
    newValues: Object.fromEntries(changed.map((key) => [key, after[key] ?? null])),
  };
}

/** A URL without its query, where tokens are often put. */
export const withoutQuery = (url: string): string => url.replace(/\?.*$/s, "");
