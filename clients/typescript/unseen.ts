// Calls that nobody has seen are sent again: the server refused the stream before it looked at it, went away before it
// came to it, or was not there. Whatever the method is, it was not done.
import { Code, ConnectError, type Transport } from "@connectrpc/connect";

/** So often a call is sent, at most. */
const ATTEMPTS = 3;
/** Requests of a stream that are kept to be sent again; one that has sent more is not. */
const KEPT_REQUESTS = 256;

/** A transport that sends again what `transport` could not bring before anybody, within the deadline of the call. */
export function sendingAgain(transport: Transport, defaultTimeoutMs: number): Transport {
  return {
    unary: (method, signal, timeoutMs = defaultTimeoutMs, ...rest) =>
      attempts(signal, timeoutMs, (left) => transport.unary(method, signal, left, ...rest)),
    // An import takes as long as it takes, and so does a watch; 0 is no deadline.
    stream: (method, signal, timeoutMs = 0, header, input, ...rest) => {
      const requests = replayable(input);
      return attempts(
        signal,
        timeoutMs,
        async (left) => {
          const response = await transport.stream(method, signal, left, header, requests.fromTheStart(), ...rest);
          requests.keepNoLonger();
          return response;
        },
        () => requests.isWhole(),
      );
    },
  };
}

async function attempts<T>(
  signal: AbortSignal | undefined,
  timeoutMs: number,
  attempt: (timeoutMs: number) => Promise<T>,
  mayRepeat = () => true,
): Promise<T> {
  const began = performance.now();
  for (let sent = 1; ; sent++) {
    // 0 is no deadline.
    const left = timeoutMs <= 0 ? timeoutMs : Math.max(1, Math.ceil(timeoutMs - (performance.now() - began)));
    try {
      return await attempt(left);
    } catch (error) {
      const pauseMs = Math.random() * 50 * 2 ** sent;
      const isLate = timeoutMs > 0 && performance.now() - began + pauseMs >= timeoutMs;
      if (sent === ATTEMPTS || isLate || signal?.aborted || !isUnseen(error) || !mayRepeat()) {
        throw withoutAnswer(error);
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }
}

/** Of a stream that was refused, or came after the last that a GOAWAY names: Node and the library tell in words alone. */
const REFUSED = /^(Stream|http\/2 stream) closed with error code (NGHTTP2_)?REFUSED_STREAM\b/;
const UNSEEN = ["ECONNREFUSED", "ERR_HTTP2_GOAWAY_SESSION"];
const LOST = ["ECONNRESET", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"];

/** Whether nobody can have seen the call that ended so. */
const isUnseen = (error: unknown): boolean =>
  chainOf(error).some((one) => UNSEEN.includes(codeOf(one)) || REFUSED.test(messageOf(one)));

/** A connection that could not be had or was lost is UNAVAILABLE, which Node and the library call by many names. */
function withoutAnswer(error: unknown): unknown {
  const isLost = isUnseen(error) || chainOf(error).some((one) => LOST.includes(codeOf(one)));
  if (!isLost || !(error instanceof ConnectError)) return error;
  return new ConnectError(error.rawMessage, Code.Unavailable, undefined, undefined, error);
}

function chainOf(error: unknown): Error[] {
  const chain: Error[] = [];
  for (let one = error; one instanceof Error && !chain.includes(one); one = one.cause) chain.push(one);
  return chain;
}

const codeOf = (error: Error): string => ("code" in error ? String(error.code) : "");
/** Without the code that ConnectError puts before it. */
const messageOf = (error: Error): string => ("rawMessage" in error ? String(error.rawMessage) : error.message);

/** Requests that can be sent from the first again, until they are said to have arrived. */
function replayable<T>(input: AsyncIterable<T>) {
  const source = input[Symbol.asyncIterator]();
  const kept: (Promise<IteratorResult<T>> | undefined)[] = [];
  let first = 0;
  let isKept = true;
  const forget = (before: number) => {
    for (; first < before; first++) kept[first] = undefined;
  };
  return {
    isWhole: () => first === 0,
    keepNoLonger: () => {
      isKept = false;
    },
    /** One reader at a time: an attempt that has failed reads no further. */
    fromTheStart: (): AsyncIterable<T> => ({
      [Symbol.asyncIterator]() {
        let index = 0;
        return {
          // An attempt that fails while it waits for a request leaves it to the next.
          next() {
            kept[index] ??= source.next();
            const request = kept[index] as Promise<IteratorResult<T>>;
            index++;
            if (!isKept || index > KEPT_REQUESTS) forget(index);
            return request;
          },
          // How an attempt is told that it has ended; its requests may be the next one's.
          throw: (error: unknown) => Promise.reject(error),
        };
      },
    }),
  };
}
