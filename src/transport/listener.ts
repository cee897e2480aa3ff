// One port for HTTP/2 and HTTP/1.1: its connections, streams and requests, each with its turn, and the end of them all.
import { once } from "node:events";
import type { ServerOptions as Http1Options, ServerResponse } from "node:http";
import {
  Http2ServerRequest,
  Http2ServerResponse,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Server as TlsServer } from "node:tls";
import type { Logger } from "pino";
import type { Adapter, RequestHandler } from "./adapter.ts";
import type { Tls } from "./certificates.ts";
import { createGuard } from "./guard.ts";
import { createHttp1Connections } from "./http1.ts";
import { createIntake } from "./intake.ts";
import type { NodeRequest } from "./library-path.ts";
import { createPipelining } from "./pipelining.ts";
import type { NodeResponse } from "./refusal.ts";
import { cleartextServer, secureContext, secureServer } from "./servers.ts";
import { createSessions, LINGER_MS, MAX_HEADER_BYTES } from "./sessions.ts";
import { createTally, type Tally } from "./tally.ts";
import { createTurns } from "./turns.ts";

export interface ListenOptions {
  host: string;
  /** 0: any free port. */
  port: number;
  tls?: Tls | undefined;
  request: RequestHandler;
  /** Asked first for each HTTP/2 stream; false: it becomes a request. */
  stream?: Adapter["stream"];
  maxConnections?: number;
  /** Time for a connection to say what it speaks, and for HTTP/1.1 headers to arrive. */
  headersTimeoutMs?: number;
  /** Time for an HTTP/1.1 request to arrive as a whole. */
  requestTimeoutMs?: number;
  /** An HTTP/2 connection without a call is closed after this time, an HTTP/1.1 one after a fifth of it. */
  idleTimeoutMs?: number;
  /** Connections are asked to reconnect at this age, give or take a tenth, so that they spread over processes. */
  maxConnectionAgeMs?: number;
  /** Where it is counted what happens to connections; default: in the log alone. */
  tally?: Tally;
  log: Logger;
}

export interface Listener extends AsyncDisposable {
  port: number;
  /** From now on new connections get these; those that are there keep theirs. Throws where they cannot be used. */
  setTls(tls: Tls): void;
  /** Stops accepting, lets calls in flight end, cuts off what remains after the time. Resolves when every connection is closed. */
  drain(timeoutMs: number): Promise<void>;
  /** Connections and streams that are open. */
  open(): { connections: number; streams: number };
}

/** For how long requests come in one turn of the event loop before reading ends until the next, in milliseconds. */
const INTAKE_MS = 10;
/** For how long calls begin in one turn of the event loop, in milliseconds. */
const CALLS_MS = 15;
/** Time for a connection that was said goodbye to to close. */
const GOODBYE_MS = 1_000;
/** Requests of an HTTP/1.1 connection that wait for the answer to the one before. */
const MAX_PIPELINED = 32;

/** Listens; rejects where the port cannot be had. */
export async function listen(options: ListenOptions): Promise<Listener> {
  const {
    maxConnections = 10_000,
    headersTimeoutMs = 10_000,
    requestTimeoutMs = 60_000,
    idleTimeoutMs = 300_000,
  } = options;
  const { maxConnectionAgeMs = 1_800_000, log } = options;
  const http1Limits = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: headersTimeoutMs,
    requestTimeout: requestTimeoutMs,
    keepAliveTimeout: idleTimeoutMs / 5,
    connectionsCheckingInterval: Math.min(headersTimeoutMs, 5_000),
  } satisfies Http1Options;
  const { tally = createTally({ log }) } = options;
  const guard = createGuard(log);
  const sockets = new Set<Socket>();
  /** Connections that have not said yet what they speak. */
  const undecided = new Set<Socket>();
  const http1 = createHttp1Connections();
  const sessions = createSessions({ idleTimeoutMs, maxConnectionAgeMs, tally, guard });

  const turns = createTurns(CALLS_MS);
  const intake = createIntake(INTAKE_MS);
  const inOrder = createPipelining(MAX_PIPELINED, () => tally.note("pipelined"));
  const serve = guard(options.request, (_, response) => response.destroy());

  const onRequest = guard(
    (request: NodeRequest, response: NodeResponse) => {
      joinKeys(request.headers, request.rawHeaders);
      if (!("stream" in request)) {
        intake.came(request.socket);
        http1.begin(request, response as ServerResponse);
        inOrder(request, response as ServerResponse, () => turns(request.socket, () => serve(request, response)));
        return;
      }
      if (sizeOf(request.rawHeaders) > MAX_HEADER_BYTES) {
        // Node announces maxHeaderListSize to HTTP/2 callers but does not hold them to it.
        tally.note("headers_too_large");
        response.statusCode = 431;
        response.end();
        return;
      }
      options.request(request, response);
    },
    (_, response) => response.destroy(),
  );

  /** What Node does for a listener of "request", but for the streams that are served without one. */
  const beginStream = guard(
    (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, rawHeaders: string[]) => {
      // A caller may have reset it in the same packet: there is nothing to answer, and writing to it throws.
      if (stream.destroyed || stream.closed) return;
      joinKeys(headers, rawHeaders);
      if (sizeOf(rawHeaders) <= MAX_HEADER_BYTES && options.stream?.(stream, headers)) return;
      const request = new Http2ServerRequest(stream, headers, {}, rawHeaders);
      const response = new Http2ServerResponse(stream);
      request.on("error", () => {});
      response.on("error", () => {});
      if (headers.expect === "100-continue") response.writeContinue();
      onRequest(request, response);
    },
    (stream) => stream.destroy(),
  );
  const onStream = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, _: number, rawHeaders: string[]) => {
    // Before all else: a stream that is reset with an error code emits it, and without a listener that ends the process.
    stream.on("error", ignore);
    intake.came(stream.session ?? stream);
    turns(stream.session ?? stream, () => beginStream(stream, headers, rawHeaders));
  };

  const onSession = guard(
    (session: ServerHttp2Session) => {
      sessions.track(session);
      intake.track(session, session.socket, () => sessions.calls(session));
    },
    (session) => session.destroy(),
  );
  const trackHttp1 = (socket: Socket) => {
    http1.track(socket);
    intake.track(socket, socket);
  };

  const trackSocket = (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => {
      sockets.delete(socket);
      undecided.delete(socket);
    });
  };

  const parts = { onRequest, onStream, onSession, trackSocket, trackHttp1, http1Limits, tally };
  const server =
    options.tls === undefined
      ? cleartextServer({ ...parts, undecided, turns: createTurns(0), guard })
      : secureServer(parts, options.tls);
  // The second (not in the types yet) is for workers: when all have so many, they would hand a further connection to
  // each other without end.
  Object.assign(server, { maxConnections, dropMaxConnection: true });
  server.listen({ port: options.port, host: options.host });
  await once(server, "listening");
  server.on("error", (error: NodeJS.ErrnoException) => log.error({ code: error.code }, "listener failed"));

  async function drain(timeoutMs: number): Promise<void> {
    sessions.retireAll();
    http1.retireAll();
    // Whoever has connected already, and is not accepted yet, is served: the loop accepts before it comes here.
    await nextTurn();
    const closed = new Promise((resolve) => server.close(resolve));
    const silent = setTimeout(() => {
      for (const socket of undecided) socket.destroy();
    }, LINGER_MS);
    const cut = setTimeout(() => {
      log.warn({ connections: sockets.size }, "the time to drain is over: cutting off what is open");
      sessions.destroyAll();
      for (const socket of sockets) socket.destroy();
    }, timeoutMs);
    // What we have said goodbye to is not waited for: a caller who reads slowly answers late, one who is gone never.
    const ended = new Set<Socket>();
    const goodbyes = setInterval(() => {
      for (const socket of sockets) {
        if (ended.has(socket)) socket.destroy();
        else if (socket.writableEnded) ended.add(socket);
      }
    }, GOODBYE_MS);
    await closed;
    clearInterval(goodbyes);
    clearTimeout(silent);
    clearTimeout(cut);
  }

  const open = () => ({ connections: sockets.size, streams: sessions.streams() });
  return {
    port: (server.address() as AddressInfo).port,
    setTls: (tls) => (server as unknown as TlsServer).setSecureContext(secureContext(tls)),
    drain,
    open,
    [Symbol.asyncDispose]: () => drain(0),
  };
}

function ignore(): void {}

function sizeOf(rawHeaders: string[]): number {
  let bytes = 0;
  for (const text of rawHeaders) bytes += text.length;
  return bytes;
}

/** Of two authorization headers Node keeps the first, proxies and others the last: joined, they are invalid for everybody. */
function joinKeys(headers: IncomingHttpHeaders, rawHeaders: string[]): void {
  let keys: string | undefined;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    if (name.length !== 13 || name.toLowerCase() !== "authorization") continue;
    if (keys === undefined) keys = rawHeaders[i + 1] as string;
    else {
      keys = `${keys}, ${rawHeaders[i + 1]}`;
      headers.authorization = keys;
    }
  }
}
