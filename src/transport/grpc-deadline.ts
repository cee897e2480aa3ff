// The time that a gRPC call has: for its request first, for the whole call once that is there, in the end for its caller to
// take the answer. One timer, which looks again when it fires: a timer for each would be made and cleared for every call.
import type { ConnectError } from "@connectrpc/connect";
import { parseTimeout } from "@connectrpc/connect/protocol-grpc";
import type { HeaderSource } from "../interceptors/credentials.ts";

/** Milliseconds that the caller names, at most `maxTimeoutMs`; undefined: none. An error where they cannot be read. */
export function namedTimeout(header: HeaderSource, maxTimeoutMs: number): number | undefined | ConnectError {
  const text = header.get("grpc-timeout");
  if (text === null) return undefined;
  const { timeoutMs, error } = parseTimeout(text, maxTimeoutMs);
  return timeoutMs === undefined ? error : Math.min(timeoutMs, maxTimeoutMs);
}

/** Times are milliseconds of performance.now(). */
export class GrpcDeadline {
  readonly #call: { timeUp(): void };
  /** The deadline of the call. */
  #expiresAt = Number.POSITIVE_INFINITY;
  /** When the time is up for what the call does now. */
  #endsAt = Number.POSITIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #firesAt = 0;

  /** `timeUp` is called when the time is up for what the call does then. */
  constructor(call: { timeUp(): void }) {
    this.#call = call;
  }

  /** Begins to count `timeoutMs`, which may be Infinity; the request must arrive within that and `bodyTimeoutMs`. */
  start(timeoutMs: number, bodyTimeoutMs: number): void {
    const now = performance.now();
    this.#expiresAt = now + timeoutMs;
    this.#endAt(now + Math.min(timeoutMs, bodyTimeoutMs), now);
  }

  /** The request is complete: what counts now is the deadline alone. */
  requestArrived(): void {
    this.#endAt(this.#expiresAt);
  }

  /** The answer is written: what counts now is the time for the caller to take it. */
  answerWithin(timeoutMs: number): void {
    const now = performance.now();
    this.#endAt(now + timeoutMs, now);
  }

  /** Milliseconds until the deadline, 0 once it has passed. */
  leftMs(): number {
    return Math.max(0, this.#expiresAt - performance.now());
  }

  /** Nothing is waited for at the moment. */
  pause(): void {
    this.#endsAt = Number.POSITIVE_INFINITY;
  }

  clear(): void {
    clearTimeout(this.#timer);
  }

  #endAt(at: number, now = performance.now()): void {
    this.#endsAt = at;
    if (at === Number.POSITIVE_INFINITY || (this.#timer !== undefined && this.#firesAt <= at)) return;
    clearTimeout(this.#timer);
    this.#firesAt = at;
    this.#timer = setTimeout(() => this.#look(), at - now);
  }

  #look(): void {
    this.#timer = undefined;
    if (this.#endsAt <= performance.now()) this.#call.timeUp();
    else this.#endAt(this.#endsAt);
  }
}
