// A watch that does not end: it goes on from its position whenever the service or the connection goes away.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { EntityCallOptions, ServiceClient } from "./calls.ts";
import { errorInfo, isReason } from "./errors.ts";
import type {
  EntityService,
  WatchEntitiesRequestSchema,
  WatchEntitiesResponse,
} from "./gen/entity/v1/entity_service_pb.ts";
import { withoutAnswer } from "./lost.ts";
import { pause } from "./pause.ts";

type WatchRequest = Extract<MessageInitShape<typeof WatchEntitiesRequestSchema>, { $typeName?: never }>;

/** The filters of WatchEntities and where to begin, and what to do when it ends. */
export interface WatchOptions
  extends Omit<WatchRequest, "$typeName" | "$unknown">,
    Omit<EntityCallOptions, "timeoutMs"> {
  /**
   * Called on POSITION_EXPIRED: lists again, stores what it lists, and answers the position to go on from, which is the
   * `watchPosition` of the list. Without it a watch throws POSITION_EXPIRED.
   */
  relist?: () => Promise<string>;
  /** Told why the watch begins anew: for logs and metrics. */
  onReconnect?: (error: ConnectError) => void;
  /** A connection that brings nothing for so long is given up, in milliseconds: a checkpoint comes every 5 s. Default: 20 s. */
  silenceMs?: number;
}

const SILENCE_MS = 20_000;
const PAUSE_MS = 100;
const MAX_PAUSE_MS = 5_000;

/** With an answer of the service, these say to come again; without one, all do. */
const PASSING = ["DATABASE_UNAVAILABLE", "OVERLOADED", "WATCH_TOO_SLOW", "DEADLINE_EXCEEDED", "CANCELLED"] as const;

/** Ends at once when it is left, also while the next message is waited for, which may never come. */
export function watch(
  entities: ServiceClient<typeof EntityService>,
  options: WatchOptions = {},
): AsyncIterable<WatchEntitiesResponse> {
  return {
    [Symbol.asyncIterator]() {
      const left = new AbortController();
      const signal = options.signal === undefined ? left.signal : AbortSignal.any([options.signal, left.signal]);
      const messages = messagesOf(entities, { ...options, signal });
      return {
        next: () => messages.next(),
        return() {
          left.abort();
          return messages.return();
        },
      };
    },
  };
}

async function* messagesOf(
  entities: ServiceClient<typeof EntityService>,
  {
    position = "",
    relist,
    onReconnect,
    silenceMs = SILENCE_MS,
    types,
    entityTypes,
    lookup,
    signal,
    ...options
  }: WatchOptions & { signal: AbortSignal },
): AsyncGenerator<WatchEntitiesResponse, void> {
  const filters = { ...(types && { types }), ...(entityTypes && { entityTypes }), ...(lookup && { lookup }) };
  let failures = 0;
  let isListedAnew = false;
  while (!signal.aborted) {
    try {
      for await (const message of whileHeard({ ...filters, position })) {
        [failures, isListedAnew] = [0, false];
        yield message;
        // Whoever asks for the next one is done with this one.
        ({ position } = message);
      }
      throw new ConnectError("the watch ended", Code.Unavailable);
    } catch (thrown) {
      const error = withoutAnswer(thrown);
      if (signal.aborted) return;
      // A list whose position expires at once is none to list a third time.
      const isExpired = isReason(error, "POSITION_EXPIRED") && relist !== undefined && !isListedAnew;
      if (!(error instanceof ConnectError) || !(isExpired || passes(error))) throw error;
      onReconnect?.(error);
      if (isExpired) {
        position = await relist();
        isListedAnew = true;
      } else {
        await comeAgain(error, failures++, signal);
      }
    }
  }

  /** The messages of one call, which ends where nothing comes. */
  async function* whileHeard(request: WatchRequest) {
    const silent = new AbortController();
    const until = AbortSignal.any([signal, silent.signal]);
    const hear = () =>
      setTimeout(() => silent.abort(new ConnectError("nothing comes any more", Code.Unavailable)), silenceMs);
    let timer = hear();
    try {
      for await (const message of entities.watchEntities(request, { ...options, signal: until })) {
        clearTimeout(timer);
        yield message;
        timer = hear();
      }
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Waits until it makes sense to come again, which is random so that not all come at once; or until the signal. */
export async function comeAgain(error: unknown, failures: number, signal: AbortSignal | undefined): Promise<void> {
  const hintMs = isReason(error, "OVERLOADED") ? (errorInfo(error)?.retryAfterMs ?? 0) : 0;
  await pause(hintMs + Math.random() * Math.min(MAX_PAUSE_MS, PAUSE_MS * 2 ** failures), signal).catch(() => {});
}

/** Whether it makes sense to come again. */
export function passes(error: ConnectError): boolean {
  if (errorInfo(error) !== undefined) return isReason(error, ...PASSING);
  // By no reason of the service: refused by a proxy, or by ourselves.
  return ![Code.Unauthenticated, Code.PermissionDenied, Code.Unimplemented, Code.InvalidArgument].includes(error.code);
}
