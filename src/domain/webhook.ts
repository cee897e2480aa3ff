// Webhooks: which deliveries an event makes and what is in them (rules 64 to 67), when an attempt is made, what an
// answer means, what attempts do to their endpoint, and when it has failed for too long.
import { type EntityType, EVENT_NAMES, type EventType } from "./entity-state.ts";
import type { JsonObject, JsonValue } from "./json.ts";
import { type Instant, instantToText } from "./time.ts";

export const WEBHOOK_EVENTS = [
  "entity.created",
  "entity.updated",
  "entity.status_changed",
  "entity.deleted",
  "entity.undeleted",
  "entity.merged",
  "entity.unmerged",
  "entity.distinct_marked",
  "entity.distinct_lifted",
  "entity.evaluated",
] as const;
export type WebhookEvent = (typeof WEBHOOK_EVENTS)[number];

/** What an endpoint asked for. An empty list is all of them. */
export interface Subscription {
  readonly eventTypes: readonly WebhookEvent[];
  readonly entityTypes: readonly EntityType[];
  /** Whether entity.status_changed comes only where status alone changed, or also beside entity.updated. */
  readonly statusChanges: "ALONE" | "ALWAYS";
}

/** What deliveries are made of: an event of the log. What it does not have is null, or "". */
export interface LoggedEvent {
  readonly id: string;
  readonly type: EventType;
  readonly entityId: string;
  readonly entityVersion: number;
  readonly entityType: EntityType;
  readonly externalId: string | null;
  readonly updatedFields: readonly string[];
  readonly previousValues: JsonObject;
  readonly newValues: JsonObject;
  readonly actor: string;
  readonly source: string;
  readonly reason: string | null;
  readonly recordedAt: Instant;
  readonly previousHash: Uint8Array | null;
  readonly hash: Uint8Array | null;
}

/** Rule 65: what an event sends to an endpoint, in the order in which it is sent. */
export function deliveriesOf(event: LoggedEvent, subscription: Subscription): WebhookEvent[] {
  const { eventTypes, entityTypes } = subscription;
  if (entityTypes.length > 0 && !entityTypes.includes(event.entityType)) return [];
  const names = namesOf(event, subscription.statusChanges);
  if (eventTypes.length === 0) return names;
  // An endpoint that asks for updates alone gets changes of the status too: a block must not be missed.
  const isMissed = names.includes("entity.status_changed") && !eventTypes.includes("entity.status_changed");
  const heard = isMissed && event.type === "ATTRIBUTE_CHANGED" ? [EVENT_NAMES[event.type]] : names;
  return heard.filter((name) => eventTypes.includes(name));
}

/** The types of events in which the status of an entity may change. */
const STATUS_CHANGES: readonly EventType[] = ["ATTRIBUTE_CHANGED", "MERGE_RECEIVED", "MERGE_RETURNED"];

function namesOf(event: LoggedEvent, statusChanges: Subscription["statusChanges"]): WebhookEvent[] {
  // A creation has a status too, but no previous one.
  const isStatusChange = STATUS_CHANGES.includes(event.type) && event.updatedFields.includes("status");
  // A merge is never one of the status alone.
  const isUpdate = event.type === "ATTRIBUTE_CHANGED";
  if (isStatusChange && isUpdate && event.updatedFields.length === 1) return ["entity.status_changed"];
  const name = EVENT_NAMES[event.type];
  return isStatusChange && statusChanges === "ALWAYS" ? [name, "entity.status_changed"] : [name];
}

/**
 * The body of a delivery, as the comments of WebhookService in the contract have it: the fields that consumers of the
 * REST API know, then who, when, why and which version, so that what orders events is under the signature. Every key
 * is always there: an absent external id, reason or source is null, so that nobody takes "" for an id. `timestamp` is
 * the time of the change, that of the event (rule 66).
 */
export function bodyOf(name: WebhookEvent, event: LoggedEvent): string {
  const whose = { event: name, entityId: event.entityId, externalId: textOrNull(event.externalId) };
  const trail = {
    id: event.id,
    entityVersion: event.entityVersion,
    timestamp: instantToText(event.recordedAt),
    changedBy: event.actor,
    reason: textOrNull(event.reason),
    source: textOrNull(event.source),
    previousHash: base64OrNull(event.previousHash),
    hash: base64OrNull(event.hash),
  };
  const body: Record<string, JsonValue | readonly string[]> =
    name === "entity.status_changed"
      ? {
          ...whose,
          oldStatus: event.previousValues.status ?? null,
          newStatus: event.newValues.status ?? null,
          ...trail,
        }
      : {
          ...whose,
          updatedFields: event.updatedFields,
          previousValues: event.previousValues,
          newValues: event.newValues,
          ...trail,
        };
  return JSON.stringify(body);
}

const base64OrNull = (bytes: Uint8Array | null): string | null => bytes && Buffer.from(bytes).toString("base64");
const textOrNull = (text: string | null): string | null => (text === "" ? null : text);

// --- Attempts -----------------------------------------------------------------------------------

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/**
 * When attempts are made, in milliseconds after the first one. Told to readers in docs/guide/webhooks.md, in the comment of
 * WebhookEndpoint in webhook.proto and in docs/flow.svg. The last one must come within
 * LIMITS.retentionDaysMin: an event that was pruned is not sent any more.
 */
const ATTEMPTS_MS = [0, 5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 24 * HOUR] as const;

/** Attempts of a delivery, the first one included; after the last it has failed. */
export const MAX_ATTEMPTS = ATTEMPTS_MS.length;

/** The longest Retry-After that is honoured, in milliseconds: a receiver that asks for a day would miss the day. */
const MAX_RETRY_AFTER_MS = HOUR;

/** Jitter: the part of the gap by which an attempt may be late, so that deliveries that failed together spread out. */
const JITTER = 0.1;

export interface FailedAttempts {
  /** How many were made, from 1. */
  readonly attempts: number;
  readonly firstAttemptAt: Instant;
  /** When the last one ended. */
  readonly endedAt: Instant;
  /** What the last answer asked for (Retry-After), in milliseconds; 0 for nothing. */
  readonly retryAfterMs: number;
}

/** When the next attempt is due, null when there is none. `random` is from 0 up to 1. */
export function nextAttempt(failed: FailedAttempts, random: number): Instant | null {
  const at = ATTEMPTS_MS[failed.attempts];
  if (at === undefined) return null;
  const gap = at - (ATTEMPTS_MS[failed.attempts - 1] ?? 0);
  const jitter = gap * JITTER * random;
  const scheduled = failed.firstAttemptAt + micros(at + jitter);
  // Late for whatever reason: attempts that are behind do not follow each other at once.
  const due = scheduled > failed.endedAt ? scheduled : failed.endedAt + micros(gap + jitter);
  const earliest = failed.endedAt + micros(Math.min(failed.retryAfterMs, MAX_RETRY_AFTER_MS));
  if (due < earliest) return earliest;
  return due;
}

const micros = (milliseconds: number): bigint => BigInt(Math.round(milliseconds * 1_000));

/** What came of an attempt: an answer, or an error code of the sender. */
export type AttemptEnd =
  | { readonly status: number; readonly retryAfterMs?: number | undefined }
  | { readonly error: string };

export type Verdict =
  | { readonly kind: "DELIVERED" }
  /** 410: the receiver is gone. The endpoint is disabled. */
  | { readonly kind: "GONE" }
  /** To retry, not before `retryAfterMs`; with `pausesEndpoint` nothing else goes to the endpoint until then either. */
  | { readonly kind: "FAILED"; readonly retryAfterMs: number; readonly pausesEndpoint: boolean };

/** What an outcome means. A redirect is a failure like any other: it is not followed. */
export function judge(outcome: AttemptEnd): Verdict {
  if ("error" in outcome) return { kind: "FAILED", retryAfterMs: 0, pausesEndpoint: false };
  const { status, retryAfterMs = 0 } = outcome;
  if (status >= 200 && status <= 299) return { kind: "DELIVERED" };
  if (status === 410) return { kind: "GONE" };
  return {
    kind: "FAILED",
    retryAfterMs: Math.min(retryAfterMs, MAX_RETRY_AFTER_MS),
    pausesEndpoint: (status === 429 || status === 503) && retryAfterMs > 0,
  };
}

/** An endpoint is disabled after this many consecutive failed attempts, over at least this long. */
const DISABLE_AFTER = { failures: 100, milliseconds: 3 * 24 * HOUR };

/** Whether an endpoint has failed for too long. `firstFailureAt` is that of the present row of failures. */
export function failedForTooLong(row: { failures: number; firstFailureAt: Instant }, now: Instant): boolean {
  return row.failures >= DISABLE_AFTER.failures && now - row.firstFailureAt >= micros(DISABLE_AFTER.milliseconds);
}

// --- Endpoints ----------------------------------------------------------------------------------

/** Sent to the organization's other endpoints that name it. */
export const ENDPOINT_DISABLED = "webhook_endpoint.disabled";

/** Why the service disables an endpoint. */
export type DisabledReason = "GONE" | "FAILING";

/** The body that tells of a disabled endpoint. */
export const endpointDisabled = (endpointId: string, reason: DisabledReason, at: Instant): JsonObject => ({
  event: ENDPOINT_DISABLED,
  endpointId,
  reason: reason.toLowerCase(),
  timestamp: instantToText(at),
});

/** What attempts change of their endpoint. */
export interface EndpointFailures {
  /** Failed attempts in a row, and when the first of them was made. */
  readonly failures: number;
  readonly failingSince: Instant | undefined;
  readonly pausedUntil: Instant | undefined;
}

export interface EndpointAttempt {
  /** When it was made, and how long it took. */
  readonly at: Instant;
  readonly latencyMs: number;
  /** Undefined: nothing was sent. */
  readonly verdict: Verdict | undefined;
}

/**
 * What attempts, in the order of their ends, do to their endpoint: its failures in a row, until when it pauses (undefined:
 * as long as before), and why it is to be disabled, if it is.
 */
export function afterAttempts(
  before: EndpointFailures,
  attempts: readonly EndpointAttempt[],
  now: Instant,
): EndpointFailures & { readonly disable: DisabledReason | undefined } {
  let { failures, failingSince } = before;
  let pausedUntil: Instant | undefined;
  let disable: DisabledReason | undefined;
  for (const { at, latencyMs, verdict } of attempts) {
    if (verdict === undefined) continue;
    if (verdict.kind === "DELIVERED") [failures, failingSince] = [0, undefined];
    else {
      failures += 1;
      failingSince ??= at;
    }
    if (verdict.kind === "GONE") disable = "GONE";
    if (verdict.kind === "FAILED" && verdict.pausesEndpoint) {
      const until = at + micros(latencyMs + verdict.retryAfterMs);
      if (until > (pausedUntil ?? before.pausedUntil ?? 0n)) pausedUntil = until;
    }
  }
  if (failingSince !== undefined && failedForTooLong({ failures, firstFailureAt: failingSince }, now)) {
    disable ??= "FAILING";
  }
  return { failures, failingSince, pausedUntil, disable };
}
