// One attempt of one delivery: the request, signed, and what its outcome means.

import type { Instant } from "../domain/time.ts";
import { bodyOf, judge, nextAttempt, type Verdict, type WebhookEvent } from "../domain/webhook.ts";
import type { LeasedEndpoint } from "./lease.ts";
import type { AttemptResult } from "./metrics.ts";
import type { AttemptOutcome, DueDelivery } from "./queue.ts";
import type { Sender } from "./send.ts";
import { sign } from "./signature.ts";

export interface AttemptDeps {
  sender: Sender;
  userAgent: string;
  /** An attempt has ended. */
  attempted(result: AttemptResult, latencyMs: number): void;
}

export interface Attempted {
  outcome: AttemptOutcome;
  /** Undefined: nothing was sent, so that nothing is known of the endpoint. */
  verdict: Verdict | undefined;
}

/** The error of a delivery whose event was removed before it was sent. */
const EVENT_REMOVED = "EVENT_REMOVED";

/** Sends the delivery once. Undefined when it was aborted half way, and its outcome is unknown. */
export async function attempt(
  deps: AttemptDeps,
  delivery: DueDelivery,
  { endpoint, now, signal }: { endpoint: LeasedEndpoint; now: () => Instant; signal: AbortSignal },
): Promise<Attempted | undefined> {
  const at = now();
  const number = delivery.attempts + 1;
  const { id, subjectId, logged } = delivery;
  const body =
    delivery.payload === undefined
      ? logged && bodyOf(delivery.event as WebhookEvent, logged)
      : JSON.stringify(delivery.payload);
  // Old events are removed eventually, even if deliveries still wait for them.
  if (body === undefined) {
    const outcome = { at, status: 0, error: EVENT_REMOVED, latencyMs: 0 };
    deps.attempted("given_up", 0);
    return {
      outcome: { id, subjectId, number, attempt: outcome, state: "FAILED", nextAttemptAt: null },
      verdict: undefined,
    };
  }

  // Receivers compare with their own clock: the time of day, not that of the schedule.
  const timestamp = Math.floor(Date.now() / 1000);
  const result = await deps.sender.send({
    url: endpoint.url,
    headers: {
      "content-type": "application/json",
      "user-agent": deps.userAgent,
      "webhook-id": id,
      "webhook-timestamp": String(timestamp),
      "webhook-signature": sign(endpoint.secrets, id, timestamp, body),
      ...(logged === undefined ? {} : { "x-entity-version": String(delivery.entityVersion) }),
    },
    body,
    signal,
  });
  if ("error" in result && result.error === "ABORTED") return undefined;

  const verdict = judge(result);
  const endedAt = now();
  const next =
    verdict.kind === "FAILED"
      ? nextAttempt(
          {
            attempts: number,
            firstAttemptAt: delivery.firstAttemptAt ?? at,
            endedAt,
            retryAfterMs: verdict.retryAfterMs,
          },
          Math.random(),
        )
      : null;
  const state = verdict.kind === "DELIVERED" ? "DELIVERED" : next === null ? "FAILED" : "PENDING";
  deps.attempted(RESULTS[verdict.kind === "GONE" ? "GONE" : state], result.latencyMs);
  return {
    outcome: {
      id,
      subjectId,
      number,
      attempt: {
        at,
        status: "status" in result ? result.status : 0,
        error: "error" in result ? result.error : "",
        latencyMs: result.latencyMs,
      },
      state,
      nextAttemptAt: next,
    },
    verdict,
  };
}

const RESULTS = { DELIVERED: "delivered", PENDING: "retried", FAILED: "given_up", GONE: "gone" } as const;
