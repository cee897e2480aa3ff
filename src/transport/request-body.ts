// Node's HTTP/2 has no time limit for a request's body: a stream whose body never ends would be held for ever.
import type { ConnectError } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import { abandon, within } from "../interceptors/deadline.ts";

/** When the body must have arrived, in milliseconds of performance.now(). A gate may bring it forward. */
export interface BodyLimit {
  expiresAt: number;
}

/** The body's chunks; throws DEADLINE_EXCEEDED once the limit has passed before its end. */
export async function* bodyWithin(body: AsyncIterable<Uint8Array>, limit: BodyLimit): AsyncGenerator<Uint8Array> {
  const iterator = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const chunk = await within(iterator.next(), limit.expiresAt - performance.now(), expired);
      if (chunk.done === true) return;
      yield chunk.value;
    }
  } finally {
    abandon(iterator);
  }
}

/** Outside the interceptors the library takes a ConnectError only. */
function expired(): ConnectError {
  return toConnectError(new DomainError("DEADLINE_EXCEEDED", "The request did not arrive in time"));
}
