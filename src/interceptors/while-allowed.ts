// The gate checks a key once, before the call. A stream without an end outlives that: here it is checked again
// and again, and a stream whose key is revoked, has expired or lost its scope ends with the reason.
import type { DescMethod } from "@bufbuild/protobuf";
import type { Interceptor, StreamRequest } from "@connectrpc/connect";
import { createLinkedAbortController } from "@connectrpc/connect/protocol";
import { DomainError } from "../domain/errors.ts";
import type { CallHead } from "./credentials.ts";

/** Outside of `deadline`, which ends a call whose signal is aborted. `check` is that of the gate. A database that does not answer ends nothing: it is asked again. */
export function whileAllowed(options: {
  check: (call: CallHead) => Promise<void> | void;
  everyMs: number;
  methods: ReadonlySet<DescMethod>;
}): Interceptor {
  const { check, everyMs, methods } = options;
  return (next) => async (request) => {
    if (!request.stream || !methods.has(request.method)) return next(request);
    const call = createLinkedAbortController(request.signal);
    const timer = setInterval(async () => {
      try {
        await check(headOf(request));
      } catch (error) {
        if (error instanceof DomainError && error.reason !== "DATABASE_UNAVAILABLE") call.abort(error);
      }
    }, everyMs);
    // The library aborts the signal of a call when it has ended, however it did.
    call.signal.addEventListener("abort", () => clearInterval(timer), { once: true });
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
