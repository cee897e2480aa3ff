// Node's HTTP/2 has no time limit for a request's body: a stream whose body never ends would be held for ever.
import type { EventEmitter } from "node:events";
import { type ConnectError, createContextKey } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import type { CallHead } from "../interceptors/credentials.ts";
import { abandon, within } from "../interceptors/deadline.ts";
import type { ByteBudget } from "./byte-budget.ts";
import { PREFIX_BYTES } from "./encode.ts";
import { RequestBytes } from "./request-bytes.ts";

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

/** What a body is read with. */
export interface BodyOptions {
  /** Per message. */
  readMaxBytes: number;
  /** Whether messages come behind a prefix that says their length, or the body is the message. */
  enveloped: boolean;
  /** Where its bytes are counted, and for which connection, as long as its message is not complete. */
  budget: ByteBudget;
  connection: object;
}

/**
 * The body of a call with one request, in one piece, once it is complete; throws DEADLINE_EXCEEDED where that is later
 * than the limit. `complete` is called then, and may refuse the call. A body that is too large is handed on just far
 * enough for the library to refuse it; the rest is not read.
 */
export async function* wholeBody(
  body: AsyncIterable<Uint8Array>,
  limit: BodyLimit,
  options: BodyOptions,
  complete: (bytes: number) => void,
): AsyncGenerator<Uint8Array> {
  const iterator = body[Symbol.asyncIterator]();
  const bytes = new RequestBytes(options.budget, options.connection);
  try {
    for (;;) {
      const chunk = await within(iterator.next(), limit.expiresAt - performance.now(), expired);
      if (chunk.done === true) break;
      presentedAsConnectError(() => bytes.add(chunk.value));
      if (isTooLarge(bytes, options)) return yield bytes.take();
    }
    presentedAsConnectError(() => complete(bytes.size));
    if (bytes.size > 0) yield bytes.take();
  } finally {
    bytes.release();
    abandon(iterator);
  }
}

/** The body of a stream of requests, each message in one piece: put together by the library, a message of very many chunks would be copied with each of them. */
export async function* wholeMessages(
  body: AsyncIterable<Uint8Array>,
  { readMaxBytes, budget, connection }: BodyOptions,
): AsyncGenerator<Uint8Array> {
  const bytes = new RequestBytes(budget, connection);
  try {
    for await (const chunk of body) {
      const whole = bytes.size === 0 ? wholeEnvelopes(chunk, readMaxBytes) : 0;
      if (whole > 0) yield chunk.subarray(0, whole);
      for (let rest = chunk.subarray(whole); rest.length > 0; ) {
        const missing = bytes.missing();
        presentedAsConnectError(() => bytes.add(rest.subarray(0, missing)));
        rest = rest.subarray(missing);
        // Refused by the library, with all that comes after it.
        if ((bytes.announced() ?? 0) > readMaxBytes) return yield bytes.take();
        if (bytes.missing() === 0) yield bytes.take();
      }
    }
    if (bytes.size > 0) yield bytes.take();
  } finally {
    bytes.release();
  }
}

/** How many bytes at the beginning of the chunk are envelopes that end within it. */
function wholeEnvelopes(chunk: Uint8Array, readMaxBytes: number): number {
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  let end = 0;
  while (end + PREFIX_BYTES <= chunk.length) {
    const length = view.getUint32(end + 1);
    if (length > readMaxBytes || end + PREFIX_BYTES + length > chunk.length) break;
    end += PREFIX_BYTES + length;
  }
  return end;
}

function isTooLarge(bytes: RequestBytes, { readMaxBytes, enveloped }: BodyOptions): boolean {
  if (!enveloped) return bytes.size > readMaxBytes;
  return Math.max(bytes.size - PREFIX_BYTES, bytes.announced() ?? 0) > readMaxBytes;
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
function presentedAsConnectError(step: () => void): void {
  try {
    step();
  } catch (error) {
    throw error instanceof DomainError ? toConnectError(error) : error;
  }
}

function expired(): ConnectError {
  return toConnectError(new DomainError("DEADLINE_EXCEEDED", "The request did not arrive in time"));
}
