// Connect tells a handler of its deadline but does not enforce it: here the answer is given by the deadline,
// whatever the handler does, and the handler's signal is aborted so that it stops.
import type { Interceptor, StreamRequest, UnaryRequest } from "@connectrpc/connect";
import { createDeadlineSignal, createLinkedAbortController } from "@connectrpc/connect/protocol";
import { DomainError } from "../domain/errors.ts";

/** Settles as the promise does, or rejects with expired() after the time. The promise itself goes on. */
export async function within<T>(promise: Promise<T>, timeoutMs: number, expired: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(expired()), Math.max(0, timeoutMs));
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * A unary call that names no deadline has defaultTimeoutMs; a stream has that of streamTimeoutMs, which may be none.
 * The call ends with the reason of its signal as soon as that is aborted: deadline, caller gone, shutdown.
 */
export function deadline(options: {
  defaultTimeoutMs: number;
  streamTimeoutMs?: (request: StreamRequest) => number | undefined;
}): Interceptor {
  const timeoutMs = (request: UnaryRequest | StreamRequest) =>
    request.stream ? options.streamTimeoutMs?.(request) : options.defaultTimeoutMs;
  return (next) => async (request) => {
    const own = createDeadlineSignal(namesDeadline(request) ? undefined : timeoutMs(request));
    const call = createLinkedAbortController(request.signal, own.signal);
    const end = () => {
      own.cleanup();
      call.abort();
    };
    try {
      const response = await unlessAborted(next({ ...request, signal: call.signal }), call.signal);
      if (!response.stream) {
        end();
        return response;
      }
      return { ...response, message: eachUnlessAborted(response.message, call.signal, end) };
    } catch (error) {
      end();
      throw error;
    }
  };
}

/** Ends a request stream whose next message does not arrive in time. */
export function messageIdleLimit({ idleMs }: { idleMs: number }): Interceptor {
  return (next) => (request) => {
    const kind = request.method.methodKind;
    if (!request.stream || (kind !== "client_streaming" && kind !== "bidi_streaming")) return next(request);
    return next({ ...request, message: eachWithin(request.message, idleMs) });
  };
}

function namesDeadline(request: UnaryRequest | StreamRequest): boolean {
  return request.header.has("grpc-timeout") || request.header.has("connect-timeout-ms");
}

function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

async function* eachUnlessAborted<T>(source: AsyncIterable<T>, signal: AbortSignal, end: () => void) {
  const iterator = source[Symbol.asyncIterator]();
  // One listener for all items: a stream may have thousands a second.
  let fail: (reason: unknown) => void = () => {};
  const abort = () => fail(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    for (;;) {
      const item = await new Promise<IteratorResult<T>>((resolve, reject) => {
        fail = reject;
        if (signal.aborted) abort();
        else iterator.next().then(resolve, reject);
      });
      if (item.done === true) return;
      yield item.value;
    }
  } finally {
    signal.removeEventListener("abort", abort);
    end();
    abandon(iterator);
  }
}

async function* eachWithin<T>(source: AsyncIterable<T>, idleMs: number) {
  const iterator = source[Symbol.asyncIterator]();
  const expired = () => new DomainError("DEADLINE_EXCEEDED", `No message arrived within ${idleMs} ms`);
  try {
    for (;;) {
      const item = await within(iterator.next(), idleMs, expired);
      if (item.done === true) return;
      yield item.value;
    }
  } finally {
    abandon(iterator);
  }
}

/** Not awaited: a generator returns only after the item that it waits for, which may never come. */
export function abandon(iterator: AsyncIterator<unknown>): void {
  iterator.return?.().catch(() => {});
}
