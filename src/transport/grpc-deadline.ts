// The time limits of a gRPC call: first for its request to arrive, then for the call to be answered, finally for its caller to
// read the answer. One alarm serves all three.
import type { ConnectError } from "@connectrpc/connect";
import { parseTimeout } from "@connectrpc/connect/protocol-grpc";
import type { HeaderSource } from "../interceptors/credentials.ts";
import type { Alarm } from "./alarms.ts";

/** The caller's timeout in milliseconds, at most `maxTimeoutMs`; undefined: none. An error if it cannot be parsed. */
export function namedTimeout(header: HeaderSource, maxTimeoutMs: number): number | undefined | ConnectError {
  const text = header.get("grpc-timeout");
  if (text === null) return undefined;
  const { timeoutMs, error } = parseTimeout(text, maxTimeoutMs);
  return timeoutMs === undefined ? error : Math.min(timeoutMs, maxTimeoutMs);
}

export class GrpcDeadline {
  readonly #alarm: Alarm;
  /** The deadline of the call, in milliseconds of performance.now(). */
  #expiresAt = Number.POSITIVE_INFINITY;

  /** The alarm rings when the current limit is exceeded. */
  constructor(alarm: Alarm) {
    this.#alarm = alarm;
  }

  /** Starts the deadline; `timeoutMs` may be Infinity. The request must arrive within `bodyTimeoutMs` as well. */
  start(timeoutMs: number, bodyTimeoutMs: number): void {
    const now = performance.now();
    this.#expiresAt = now + timeoutMs;
    this.#alarm.ringAt(now + Math.min(timeoutMs, bodyTimeoutMs));
  }

  /** The request is complete: only the deadline is left. */
  requestArrived(): void {
    this.#alarm.ringAt(this.#expiresAt);
  }

  /** The answer is written: the caller must read it in this time. */
  answerWithin(timeoutMs: number): void {
    this.#alarm.ringAt(performance.now() + timeoutMs);
  }

  /** Milliseconds until the deadline, 0 once it has passed. */
  leftMs(): number {
    return Math.max(0, this.#expiresAt - performance.now());
  }

  /** Nothing is limited at the moment. */
  pause(): void {
    this.#alarm.ringAt(Number.POSITIVE_INFINITY);
  }

  /** The call is closed. */
  end(): void {
    this.#alarm.giveBack();
  }
}
