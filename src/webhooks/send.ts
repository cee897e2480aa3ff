// Sends webhooks, to public addresses alone. A customer chooses the URL and answers for its name, so nothing of it is
// trusted: the URL is checked again, the name is resolved once and every address of it checked, the connection goes
// to those addresses, and its other end is looked at before anything is sent. Redirects are answers like any other,
// no environment sets a proxy, and a receiver is slow, endless or broken at its own cost only.
// Not by fetch: it asks no lookup for a URL whose host is an address, and does not expose its connection.
import http from "node:http";
import https from "node:https";
import { isIP } from "node:net";
import { post, type ReceiverAnswer, StaleConnection } from "./request.ts";
import { createLookup, type ResolveName } from "./resolve-name.ts";
import { errorCode, type SendError, SendFailure } from "./send-error.ts";
import { type AllowList, hostOf, isAllowedAddress, portOf, urlProblem } from "./url.ts";

export interface Message {
  url: string;
  headers: Record<string, string>;
  body: string;
  signal?: AbortSignal;
}

/** An answer of any status; or why there was none. `latencyMs` is the time that it took. */
export type SendResult = (ReceiverAnswer | { error: SendError }) & { latencyMs: number };

export interface Sender extends AsyncDisposable {
  /** Posts the body. Never rejects. */
  send(message: Message): Promise<SendResult>;
}

export interface SenderOptions {
  allow: AllowList;
  lookup?: ResolveName;
  /** For all of it: name, connection, request, and the answer with its body. */
  timeoutMs?: number;
}

/** An idle connection is closed after this: while its address is still that of its name. */
const IDLE_MS = 10_000;

/** After this, the next of several addresses is tried. */
const ADDRESS_TIMEOUT_MS = 1_000;

/** Makes a sender. Disposing of it ends what is under way. */
export function createSender({ allow, lookup = createLookup(), timeoutMs = 15_000 }: SenderOptions): Sender {
  const agentOptions = {
    keepAlive: true,
    timeout: IDLE_MS,
    maxFreeSockets: 4,
    autoSelectFamilyAttemptTimeout: ADDRESS_TIMEOUT_MS,
  };
  const agents = { http: new http.Agent(agentOptions), https: new https.Agent(agentOptions) };
  /** What is under way, by what ends it. */
  const underWay = new Map<() => void, Promise<unknown>>();
  let isDisposed = false;

  const answerOf = async (message: Message, signal: AbortSignal): Promise<ReceiverAnswer> => {
    if (urlProblem(message.url, allow) !== null) throw new SendFailure("ADDRESS_FORBIDDEN");
    const url = new URL(message.url);
    const host = hostOf(url);
    const isNamed = allow.names(host, portOf(url));
    const isAllowed = (address: string) => isNamed || isAllowedAddress(address, allow);
    const addresses = isIP(host) === 0 ? await orAborted(lookup(host, isNamed), signal) : [host];
    if (addresses.length === 0) throw new SendFailure("DNS");
    if (!addresses.every(isAllowed)) throw new SendFailure("ADDRESS_FORBIDDEN");
    const { headers, body } = message;
    const request = { url, headers, body, addresses, isAllowed, signal };
    const agent = url.protocol === "https:" ? agents.https : agents.http;
    return post({ ...request, agent }).catch((error: unknown) => {
      if (error instanceof StaleConnection) return post({ ...request, agent: false });
      throw error;
    });
  };

  return {
    async send(message) {
      const begin = performance.now();
      // Not AbortSignal.any: a signal that lives as long as the process would keep something of every message.
      const end = new AbortController();
      const timer = setTimeout(() => end.abort(new SendFailure("TIMEOUT")), timeoutMs);
      const abort = () => end.abort(new SendFailure("ABORTED"));
      message.signal?.addEventListener("abort", abort);
      if (isDisposed || message.signal?.aborted) abort();
      const result: Promise<ReceiverAnswer | { error: SendError }> = answerOf(message, end.signal).catch(
        (error: unknown) => ({
          error: errorCode(end.signal.aborted ? end.signal.reason : error),
        }),
      );
      underWay.set(abort, result);
      const answer = await result;
      underWay.delete(abort);
      message.signal?.removeEventListener("abort", abort);
      clearTimeout(timer);
      return { ...answer, latencyMs: Math.round(performance.now() - begin) };
    },
    async [Symbol.asyncDispose]() {
      isDisposed = true;
      for (const abort of underWay.keys()) abort();
      await Promise.all(underWay.values());
      for (const agent of Object.values(agents)) agent.destroy();
    },
  };
}

/** The promise, or a rejection as soon as the signal aborts. */
async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  return Promise.race([promise, aborted.promise]).finally(() => signal.removeEventListener("abort", abort));
}
