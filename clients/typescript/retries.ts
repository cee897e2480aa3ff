// Retries that are safe by construction: a call is sent again only where it was not done, where doing it again changes
// nothing, or where its request_id makes the service answer what it did the first time.
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodUnary,
  type MessageInitShape,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type StreamResponse, type Transport } from "@connectrpc/connect";
import { errorInfo } from "./errors.ts";
import { isUnseen, withoutAnswer } from "./lost.ts";
import { pause } from "./pause.ts";
import { replayable } from "./replayable.ts";

export interface RetryOptions {
  /** How often a call is sent, at most. Default: 6. */
  attempts?: number;
  /**
   * How many retries there may be at once; each that does not help uses one up, and ten calls that succeed give one back. So
   * retries never make more than a tenth of the calls of a service that is in trouble. All calls of a client share it.
   * Default: 100.
   */
  budget?: number;
  /** Told of each retry before its pause: for logs and metrics. */
  onRetry?: (retry: Retry) => void;
}

export interface Retry {
  /** Such as "UpdateEntity". */
  method: string;
  /** 1 for the first retry. */
  retry: number;
  /** Why. */
  error: ConnectError;
  /** Milliseconds until then. */
  pauseMs: number;
}

const ATTEMPTS = 6;
/** Without retries, what nobody has seen is sent so often all the same. */
const UNSEEN_ATTEMPTS = 3;
const BUDGET = 100;
const EARNED_BY_SUCCESS = 0.1;
/** The pause is random, from 0 to this doubled with every retry, so that callers that failed together do not come back together. */
const PAUSE_MS = 50;
const MAX_PAUSE_MS = 2_000;

/** These say that nothing was done, as OVERLOADED does; but in an import, of one group of its rows alone. */
const NOT_DONE: ReadonlySet<string> = new Set(["DATABASE_UNAVAILABLE", "WRITE_CONFLICT"]);

/** After what a call is sent again: what nobody has seen, or what was not let in too, or not done, or may have been done. */
type Repeated = "unseen" | "refused" | "undone" | "all";

/** A transport that retries on `transport`, within the deadline of the call. `false`: only what nobody has seen. */
export function retrying(
  transport: Transport,
  { retries, defaultTimeoutMs }: { retries: RetryOptions | false; defaultTimeoutMs: number },
): Transport {
  const repeat = repeater(retries);
  return {
    unary(method, signal, timeoutMs = defaultTimeoutMs, header, input, contextValues) {
      const request = retries === false ? input : withRequestId(method, input);
      return repeat({ method, signal, timeoutMs, repeated: () => (isIdempotent(method) ? "all" : "undone") }, (left) =>
        transport.unary(method, signal, left, header, request, contextValues),
      );
    },
    // An import takes as long as it takes, and so does a watch; 0 is no deadline.
    stream(method, signal, timeoutMs = 0, header, input, contextValues) {
      const requests = replayable(input);
      const waits = method.methodKind === "server_streaming" && isRead(method);
      const answered = repeat(
        // Before the first answer of an import some of its rows may have been written.
        { method, signal, timeoutMs, repeated: () => (waits ? "all" : "refused"), mayRepeat: requests.isWhole },
        async (left) => {
          const response = await transport.stream(method, signal, left, header, requests.fromTheStart(), contextValues);
          if (waits && retries !== false) await begun(response);
          requests.keepNoLonger();
          return response;
        },
      );
      // A stream may be left before anybody reads it: an error that nobody has asked for would end the process.
      answered.catch(() => {});
      return answered;
    },
  };
}

interface Call {
  method: DescMethod;
  signal: AbortSignal | undefined;
  /** 0: none. */
  timeoutMs: number;
  /** After what it is sent again. */
  repeated(): Repeated;
  /** Whether it still can be sent again. */
  mayRepeat?(): boolean;
}

function repeater(options: RetryOptions | false) {
  const { attempts = ATTEMPTS, budget: size = BUDGET, onRetry } = options || { attempts: UNSEEN_ATTEMPTS };
  let budget = size;
  const earn = (count: number) => {
    budget = Math.min(size, budget + count);
  };

  return async <T>(call: Call, attempt: (timeoutMs: number) => Promise<T>): Promise<T> => {
    const { method, signal, timeoutMs } = call;
    const began = performance.now();
    const leftMs = () => (timeoutMs <= 0 ? Number.POSITIVE_INFINITY : timeoutMs - (performance.now() - began));
    for (let sent = 1; ; sent++) {
      try {
        const answer = await attempt(timeoutMs <= 0 ? timeoutMs : Math.max(1, Math.ceil(leftMs())));
        // A retry that helped was none too many.
        earn(sent === 1 ? EARNED_BY_SUCCESS : 1);
        return answer;
      } catch (thrown) {
        const error = withoutAnswer(thrown);
        const afterMs = retryAfter(error, options === false ? "unseen" : call.repeated());
        if (afterMs === undefined || sent >= attempts || signal?.aborted || call.mayRepeat?.() === false) throw error;
        const pauseMs = afterMs + Math.random() * Math.min(MAX_PAUSE_MS, PAUSE_MS * 2 ** sent);
        if (pauseMs >= leftMs() || budget < 1) throw error;
        budget -= 1;
        onRetry?.({ method: method.name, retry: sent, error: error as ConnectError, pauseMs });
        await pause(pauseMs, signal);
      }
    }
  };
}

/** After how many milliseconds a retry makes sense, which is safe for calls of that kind; undefined: it does not, or is not. */
function retryAfter(error: unknown, repeated: Repeated): number | undefined {
  if (!(error instanceof ConnectError)) return undefined;
  if (isUnseen(error)) return 0;
  if (repeated === "unseen") return undefined;
  const info = errorInfo(error);
  // Only OVERLOADED means its delay: the others are over as soon as they are over, which no service can know.
  if (info?.reason === "OVERLOADED") return info.retryAfterMs ?? 0;
  if (repeated === "refused") return undefined;
  if (info !== undefined && NOT_DONE.has(info.reason)) return 0;
  const isUnknown = info === undefined ? error.code === Code.Unavailable : info.reason === "COMMIT_UNKNOWN";
  return isUnknown && repeated === "all" ? 0 : undefined;
}

export const isRead = (method: DescMethod): boolean => method.idempotency === Idempotency.NO_SIDE_EFFECTS;

/** Whether doing it once more changes nothing. */
const isIdempotent = (method: DescMethod): boolean => isRead(method) || requestIdOf(method) !== undefined;

const requestIdOf = (method: DescMethod) => method.input.fields.find(({ name }) => name === "request_id");

/** The request with a request_id, where the method takes one and the caller gave none. The caller's own object stays as it is. */
function withRequestId<I extends DescMessage>(
  method: DescMethodUnary<I, DescMessage>,
  input: MessageInitShape<I>,
): MessageInitShape<I> {
  const { $typeName: _, ...fields } = input as { $typeName?: string; requestId?: string };
  // That of a read, as ListEntityEvents, asks for what another call did.
  if (isRead(method) || requestIdOf(method) === undefined || fields.requestId) return input;
  return create(method.input as DescMessage, { ...fields, requestId: newRequestId() }) as MessageInitShape<I>;
}

/** A UUID; browsers have randomUUID on pages over https alone. */
function newRequestId(): string {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Waits for the first message: a stream that is refused is refused before it. */
async function begun(response: StreamResponse): Promise<void> {
  const messages = response.message[Symbol.asyncIterator]();
  let first: Promise<IteratorResult<unknown>> | undefined = Promise.resolve(await messages.next());
  Object.assign(response, {
    message: {
      [Symbol.asyncIterator]: () => ({
        next() {
          const next = first ?? messages.next();
          first = undefined;
          return next;
        },
      }),
    },
  });
}
