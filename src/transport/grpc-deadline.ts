// The time that a gRPC call has: for its request first, for the whole call once that is there, in the end for its caller to
// take the answer. One alarm for all three.
import type { ConnectError } from "@connectrpc/connect";
import { parseTimeout } from "@connectrpc/connect/protocol-grpc";
import type { HeaderSource } from "../interceptors/credentials.ts";
import type { Alarm } from "./alarms.ts";

/** Milliseconds that the caller names, at most `maxTimeoutMs`; undefined: none. An error where they cannot be read. */
export function namedTimeout(header: HeaderSource, maxTimeoutMs: number): number | undefined | ConnectError {
  const text = header.get("grpc-timeout");
  if (text === null) return undefined;
  const { timeoutMs, error } = parseTimeout(text, maxTimeoutMs);
  return timeoutMs === undefined ? error : Math.min(timeoutMs, maxTimeoutMs);
}

export class GrpcDeadline {
  readonly #alarm: Alarm;
  /** In milliseconds of performance.now(). */
  #expiresAt = Number.POSITIVE_INFINITY;

  /** The alarm rings when the time is up for what the call waits for then. */
  constructor(alarm: Alarm) {
    this.#alarm = alarm;
  }

  /** Begins to count `timeoutMs`, which may be Infinity; the request must arrive within that and `bodyTimeoutMs`. */
  start(timeoutMs: number, bodyTimeoutMs: number): void {
    const now = performance.now();
    this.#expiresAt = now + timeoutMs;
    this.#alarm.ringAt(now + Math.min(timeoutMs, bodyTimeoutMs));
  }

  /** The request is complete: what counts now is the deadline alone. */
  requestArrived(): void {
    this.#alarm.ringAt(this.#expiresAt);
  }

  /** The answer is written: what counts now is the time for the caller to take it. */
  answerWithin(timeoutMs: number): void {
    this.#alarm.ringAt(performance.now() + timeoutMs);
  }

  /** Milliseconds until the deadline, 0 once it has passed. */
  leftMs(): number {
    return Math.max(0, this.#expiresAt - performance.now());
  }

  /** Nothing is waited for at the moment. */
  pause(): void {
    this.#alarm.ringAt(Number.POSITIVE_INFINITY);
  }

  /** The call is closed. */
  end(): void {
    this.#alarm.giveBack();
  }
}
