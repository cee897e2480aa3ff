// Sheds load early: a call too many is refused before its body is read, and says when to come back.
import type { ContextValues } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";

/**
 * At most maxInFlight calls at once. `admit` throws OVERLOADED; `release` may be called for any call, and
 * more than once. A call is known by its context values.
 */
export function admission(maxInFlight: number): {
  admit(call: ContextValues): void;
  release(call: ContextValues): void;
} {
  const inFlight = new Set<ContextValues>();
  return {
    admit(call) {
      if (inFlight.size >= maxInFlight) {
        throw new DomainError("OVERLOADED", "Too many calls are in flight: retry", { retry_after_ms: "500" });
      }
      inFlight.add(call);
    },
    release(call) {
      inFlight.delete(call);
    },
  };
}
