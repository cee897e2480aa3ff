// The time that a gRPC call has: one timer, for its request first, for the whole call once that is there.
import type { ConnectError } from "@connectrpc/connect";
import { parseTimeout } from "@connectrpc/connect/protocol-grpc";
import { DomainError } from "../domain/errors.ts";
import type { HeaderSource } from "../interceptors/credentials.ts";

/** Milliseconds that the caller names, at most `maxTimeoutMs`; undefined: none. An error where they cannot be read. */
export function namedTimeout(header: HeaderSource, maxTimeoutMs: number): number | undefined | ConnectError {
  const text = header.get("grpc-timeout");
  if (text === null) return undefined;
  const { timeoutMs, error } = parseTimeout(text, maxTimeoutMs);
  return timeoutMs === undefined ? error : Math.min(timeoutMs, maxTimeoutMs);
}

export class GrpcDeadline {
  readonly #call: { stop(error: DomainError): void };
  /** In milliseconds of performance.now(). */
  #expiresAt = Number.POSITIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;

  /** `call` is stopped with DEADLINE_EXCEEDED when the time is up. */
  constructor(call: { stop(error: DomainError): void }) {
    this.#call = call;
  }

  /** Begins to count `timeoutMs`, which may be Infinity; the request must arrive within that and `bodyTimeoutMs`. */
  start(timeoutMs: number, bodyTimeoutMs: number): void {
    this.#expiresAt = performance.now() + timeoutMs;
    this.#expireIn(Math.min(timeoutMs, bodyTimeoutMs), "The request did not arrive in time");
  }

  /** The request is complete: what counts now is the deadline alone. */
  requestArrived(): void {
    this.clear();
    if (Number.isFinite(this.#expiresAt)) this.#expireIn(this.leftMs(), "The call took longer than its deadline");
  }

  /** Milliseconds until the deadline, 0 once it has passed. */
  leftMs(): number {
    return Math.max(0, this.#expiresAt - performance.now());
  }

  clear(): void {
    clearTimeout(this.#timer);
  }

  #expireIn(ms: number, message: string): void {
    this.#timer = setTimeout(() => this.#call.stop(new DomainError("DEADLINE_EXCEEDED", message)), ms);
  }
}
