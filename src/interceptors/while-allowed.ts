// The gate checks a key once, before the call. A stream, of requests as of responses, outlives that: here it is
// checked again and again, and a stream whose key is revoked, has expired or lost its scope ends with the reason.
import type { DescMethod } from "@bufbuild/protobuf";
import type { Interceptor, StreamRequest } from "@connectrpc/connect";
import { createLinkedAbortController } from "@connectrpc/connect/protocol";
import { DomainError, type Reason } from "../domain/errors.ts";
import type { CallHead } from "./credentials.ts";

/** Calls back once the key of a call is refused, at most; the returned function ends that. A database that does not answer refuses nothing: it is asked again. */
export type WatchKey = (call: CallHead, refused: (error: DomainError) => void) => () => void;

/** The key could not be looked up: that says nothing about it. */
const PASSING: ReadonlySet<Reason> = new Set(["DATABASE_UNAVAILABLE", "OVERLOADED"]);

/** `check` is that of the gate. */
export function keyWatch(check: (call: CallHead) => Promise<void> | void, everyMs: number): WatchKey {
  return (call, refused) => {
    // A lookup has the time of any other, whatever is left of the stream's deadline.
    const head: CallHead = {
      service: call.service,
      method: call.method,
      values: call.values,
      header: call.header,
      timeoutMs: () => undefined,
    };
    const timer = setInterval(async () => {
      try {
        await check(head);
      } catch (error) {
        if (error instanceof DomainError && !PASSING.has(error.reason)) refused(error);
      }
    }, everyMs);
    return () => clearInterval(timer);
  };
}

/** Outside of `deadline`, which ends a call whose signal is aborted. */
export function whileAllowed(options: { watchKey: WatchKey; methods: ReadonlySet<DescMethod> }): Interceptor {
  const { watchKey, methods } = options;
  return (next) => async (request) => {
    if (!request.stream || !methods.has(request.method)) return next(request);
    const call = createLinkedAbortController(request.signal);
    const unwatch = watchKey(headOf(request), (error) => call.abort(error));
    // The library aborts the signal of a call when it has ended, however it did; the caller may have left before.
    if (call.signal.aborted) unwatch();
    else call.signal.addEventListener("abort", unwatch, { once: true });
    return next({ ...request, signal: call.signal });
  };
}

const headOf = ({ service, method, contextValues, header }: StreamRequest): CallHead => ({
  service,
  method,
  values: contextValues,
  header,
  timeoutMs: () => undefined,
});
