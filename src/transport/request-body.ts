// Node's HTTP/2 has no time limit for a request's body: a stream whose body never ends would be held for ever.
import type { EventEmitter } from "node:events";
import { type ConnectError, createContextKey } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import type { CallHead } from "../interceptors/credentials.ts";
import { abandon, within } from "../interceptors/deadline.ts";

/** When the body must have arrived, in milliseconds of performance.now(). A gate may bring it forward. */
export interface BodyLimit {
  expiresAt: number;
}

export const bodyLimit = createContextKey<BodyLimit | undefined>(undefined, { description: "bodyLimit" });

/** For the gate: a deadline that has passed spares the handler; one that comes before the body's limit shortens it. */
export function beginDeadline(context: Pick<CallHead, "timeoutMs" | "values">): void {
  const timeoutMs = context.timeoutMs();
  if (timeoutMs === undefined) return;
  if (timeoutMs <= 0) throw new DomainError("DEADLINE_EXCEEDED", "The deadline had passed when the call arrived");
  const limit = context.values.get(bodyLimit);
  if (limit !== undefined) limit.expiresAt = Math.min(limit.expiresAt, performance.now() + timeoutMs);
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

/**
 * The body of a stream, let go of when the response is over and not before: Node destroys a request whose
 * reader leaves, as the library does at a message that it cannot decode, and that would end the call as if
 * its caller had gone, with the answers to the messages before unsent.
 */
export function bodyUntilAnswered(body: AsyncIterable<Uint8Array>, response: EventEmitter): AsyncIterable<Uint8Array> {
  const iterator = body[Symbol.asyncIterator]();
  for (const event of ["finish", "close"]) response.once(event, () => abandon(iterator));
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => iterator.next(),
      return: async () => ({ done: true, value: undefined }),
    }),
  };
}

/** Outside the interceptors the library takes a ConnectError only. */
function expired(): ConnectError {
  return toConnectError(new DomainError("DEADLINE_EXCEEDED", "The request did not arrive in time"));
}
