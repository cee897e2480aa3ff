// One POST over node:http, whose other end is looked at before anything is sent.
import http from "node:http";
import https from "node:https";
import { isIP, type LookupFunction } from "node:net";
import { SendFailure } from "./send-error.ts";
import { hostOf } from "./url.ts";

/** Bytes of an answer's body that are read, and thrown away, so that the connection can be used again. */
const MAX_BODY_BYTES = 64 * 1024;
const MAX_HEADER_BYTES = 16 * 1024;

export interface ReceiverAnswer {
  status: number;
  retryAfterMs?: number;
}

export interface Post {
  url: URL;
  headers: Record<string, string>;
  body: string;
  /** Where to connect. A URL whose host is an address goes there, whatever stands here. */
  addresses: readonly string[];
  /** Asked once more with the address that the connection has. */
  isAllowed: (address: string) => boolean;
  /** False: a connection for this request alone. */
  agent: http.Agent | false;
  signal: AbortSignal;
}

/**
 * The answer, once its body has ended, or enough of it was read, or `signal` has ended it: the status is what counts.
 * Rejects with an error of Node, or a SendFailure, where no headers came.
 */
export function post({ url, headers, body, addresses, isAllowed, agent, signal }: Post): Promise<ReceiverAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<ReceiverAnswer>();
  const isTls = url.protocol === "https:";
  const host = hostOf(url);
  const request = (isTls ? https : http).request(url, {
    method: "POST",
    headers,
    agent,
    signal,
    lookup: addressesOf(addresses),
    maxHeaderSize: MAX_HEADER_BYTES,
    // Whatever the environment or the flags of the process say:
    insecureHTTPParser: false,
    rejectUnauthorized: true,
    servername: isIP(host) === 0 ? host : "",
  });

  let answer: ReceiverAnswer | undefined;
  let failure: unknown;
  request.on("socket", (socket) => {
    const send = () => {
      if (isAllowed(socket.remoteAddress ?? "")) request.end(body);
      else request.destroy(new SendFailure("ADDRESS_FORBIDDEN"));
    };
    // A connection that is used again is looked at too. A new one of TLS has shown its certificate first.
    if (request.reusedSocket) send();
    else socket.once(isTls ? "secureConnect" : "connect", send);
  });
  request.on("response", (response) => {
    const retryAfterMs = parseRetryAfter(response.headers["retry-after"], Date.now());
    answer = { status: response.statusCode ?? 0, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
    let bytes = 0;
    response.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > MAX_BODY_BYTES) response.destroy();
    });
    response.on("error", () => {}); // its body broke off: there is a status already
  });
  request.on("upgrade", (_response, socket) => {
    failure = new SendFailure("BAD_RESPONSE");
    socket.destroy();
  });
  request.on("error", (error) => {
    failure ??= error;
  });
  request.on("close", () => {
    if (answer !== undefined) resolve(answer);
    else
      reject(
        request.reusedSocket && isClosed(failure)
          ? new StaleConnection()
          : (failure ?? new SendFailure("CONNECTION_RESET")),
      );
  });
  return promise;
}

/** A connection was used again just when the receiver closed it: to be tried once more on a new one. */
export class StaleConnection extends SendFailure {
  constructor() {
    super("CONNECTION_RESET");
  }
}

function isClosed(error: unknown): boolean {
  return error instanceof Error && ["ECONNRESET", "EPIPE"].includes(String((error as NodeJS.ErrnoException).code));
}

/** Answers with what was resolved and checked before, so that the name is not resolved again. */
function addressesOf(addresses: readonly string[]): LookupFunction {
  const found = addresses.map((address) => ({ address, family: isIP(address) }));
  return (_name, { all }, callback) => {
    process.nextTick(() => {
      if (all) callback(null, found);
      else callback(null, found[0]?.address ?? "", found[0]?.family);
    });
  };
}

/** Milliseconds from `now` that a Retry-After asks for: seconds, or a date. Undefined where it is neither. */
export function parseRetryAfter(text: string | undefined, now: number): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,9}$/.test(text.trim())) return Number(text) * 1_000;
  const time = /^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/.test(text.trim())
    ? Date.parse(text)
    : Number.NaN;
  return Number.isNaN(time) ? undefined : Math.max(0, time - now);
}
