// Sheds load early: a call too many is refused before its body is read, and says when to come back.
// Streams without an end have places of their own: however many watch, other calls go on.
import type { ContextValues } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";

/**
 * At most maxInFlight calls at once, and maxWatches streams without an end. `admit` throws OVERLOADED;
 * `release` may be called for any call, and more than once. A call is known by its context values.
 */
export function admission({ maxInFlight, maxWatches }: { maxInFlight: number; maxWatches: number }): {
  admit(call: ContextValues, isEndless: boolean): void;
  release(call: ContextValues): void;
  /** Calls that are being answered; streams without an end are not counted. */
  inFlight(): number;
} {
  const inFlight = new Set<ContextValues>();
  const watches = new Set<ContextValues>();
  /** A caller may leave while its key is looked up: whoever has left is let in no more. */
  const released = new WeakSet<ContextValues>();
  return {
    admit(call, isEndless) {
      if (released.has(call)) throw new DomainError("CANCELLED", "The caller went away before the answer");
      const [calls, max, what] = isEndless
        ? [watches, maxWatches, "Too many callers watch"]
        : [inFlight, maxInFlight, "Too many calls are in flight"];
      if (calls.size >= max) throw new DomainError("OVERLOADED", `${what}: retry`, { retry_after_ms: "500" });
      calls.add(call);
    },
    release(call) {
      inFlight.delete(call);
      watches.delete(call);
      released.add(call);
    },
    inFlight: () => inFlight.size,
  };
}
