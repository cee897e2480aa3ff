// Streams that end when whoever reads them goes: Connect's own go on until their signal is aborted.
import type { DescService } from "@bufbuild/protobuf";
import { type CallOptions, type Client, Code, ConnectError } from "@connectrpc/connect";

type Stream = (input: unknown, options?: CallOptions) => AsyncIterable<unknown>;

/** The client, whose streams end the call when a `for await` over them is left, by break, return or throw. */
export function leavable<T extends DescService>(service: T, client: Client<T>): Client<T> {
  const calls = client as Record<string, unknown>;
  for (const { localName, methodKind } of service.methods) {
    if (methodKind !== "server_streaming" && methodKind !== "bidi_streaming") continue;
    calls[localName] = leaving(calls[localName] as Stream);
  }
  return client;
}

function leaving(stream: Stream): Stream {
  return (input, options) => {
    const over = new AbortController();
    const signal = options?.signal === undefined ? over.signal : AbortSignal.any([options.signal, over.signal]);
    const requests = isRequests(input) ? untilAborted(input, signal) : input;
    const answers = stream(requests, { ...options, signal })[Symbol.asyncIterator]();
    const end = () => over.abort(new ConnectError("the stream was left", Code.Canceled));
    return {
      [Symbol.asyncIterator]: () => ({
        async next() {
          try {
            const answer = await answers.next();
            if (answer.done === true) end();
            return answer;
          } catch (error) {
            end();
            throw error;
          }
        },
        async return() {
          end();
          // Where nobody has asked for an answer yet, how the call ends is nobody's either.
          answers.next().catch(() => {});
          return { done: true, value: undefined };
        },
      }),
    };
  };
}

const isRequests = (input: unknown): input is AsyncIterable<unknown> =>
  typeof input === "object" && input !== null && Symbol.asyncIterator in input;

/** The requests, whose source is told when the call is over: a generator that reads a file closes it. */
function untilAborted<T>(requests: AsyncIterable<T>, signal: AbortSignal): AsyncIterable<T> {
  return {
    [Symbol.asyncIterator]() {
      const source = requests[Symbol.asyncIterator]();
      const close = () => void source.return?.().catch(() => {});
      if (signal.aborted) close();
      else signal.addEventListener("abort", close, { once: true });
      return { next: () => source.next(), throw: (error: unknown) => Promise.reject(error) };
    },
  };
}
