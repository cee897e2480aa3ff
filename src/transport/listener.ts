// One port for HTTP/2 and HTTP/1.1. Node's cleartext HTTP/2 server refuses HTTP/1.1, so without TLS the first
// bytes of a connection decide which of two servers gets it; with TLS the handshake does (ALPN).
import { once } from "node:events";
import {
  createServer as createHttp1Server,
  type ServerOptions as Http1Options,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import {
  constants,
  createServer as createHttp2Server,
  createSecureServer,
  type ServerOptions as Http2Options,
  type Http2Server,
  Http2ServerRequest,
  Http2ServerResponse,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import { type AddressInfo, createServer as createNetServer, type Server, type Socket } from "node:net";
import type { Logger } from "pino";
import type { Adapter, RequestHandler } from "./adapter.ts";
import { createPipelining } from "./pipelining.ts";

export interface ListenOptions {
  host: string;
  /** 0: any free port. */
  port: number;
  /** Contents of PEM files. With clientCa, only callers with a certificate of that authority are let in. */
  tls?: { cert: string; key: string; clientCa: string | undefined } | undefined;
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
  log: Logger;
}

export interface Listener extends AsyncDisposable {
  port: number;
  /** Stops accepting, lets calls in flight end, cuts off what remains after the time. Resolves when every connection is closed. */
  drain(timeoutMs: number): Promise<void>;
}

/** Time for the last bytes of an answer to leave before the unread rest of its request is given up. */
const LINGER_MS = 100;
/** Between the word that no call should come any more and the end of those that come: a round trip and some. */
const GOAWAY_MS = 200;
/** The highest id of a stream: a GOAWAY that names it refuses none. */
const LAST_STREAM = 2 ** 31 - 1;
/** Keep-alive probes find callers that vanished without a word. */
const TCP = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 };
const MAX_HEADER_BYTES = 16_384;
/** Requests of an HTTP/1.1 connection that wait for the answer to the one before. */
const MAX_PIPELINED = 32;
const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

const HTTP2_LIMITS: Http2Options = {
  settings: { maxConcurrentStreams: 100, maxHeaderListSize: MAX_HEADER_BYTES },
  maxSessionInvalidFrames: 50,
  maxSessionRejectedStreams: 20,
  // Rapid reset (CVE-2023-44487): both must be set to have effect. Lower ones would end the connection of
  // an honest caller whose short deadlines pass while the service is slow.
  streamResetBurst: 1_000,
  streamResetRate: 33,
};

/** Listens; rejects where the port cannot be had. */
export async function listen(options: ListenOptions): Promise<Listener> {
  const {
    maxConnections = 10_000,
    headersTimeoutMs = 10_000,
    requestTimeoutMs = 60_000,
    idleTimeoutMs = 300_000,
  } = options;
  const { maxConnectionAgeMs = 1_800_000, log } = options;
  const http1Limits: Http1Options = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: headersTimeoutMs,
    requestTimeout: requestTimeoutMs,
    keepAliveTimeout: idleTimeoutMs / 5,
    connectionsCheckingInterval: Math.min(headersTimeoutMs, 5_000),
  };
  const sockets = new Set<Socket>();
  /** Connections that have not said yet what they speak. */
  const undecided = new Set<Socket>();
  const sessions = new Set<ServerHttp2Session>();
  /** Calls in flight of each HTTP/1.1 connection. */
  const http1 = new Map<Socket, number>();
  const inOrder = createPipelining(MAX_PIPELINED);
  let draining = false;

  const onRequest = (request: Parameters<RequestHandler>[0], response: Parameters<RequestHandler>[1]) => {
    if (!("stream" in request)) {
      trackHttp1(request, response as ServerResponse);
      inOrder(request, response as ServerResponse, () => options.request(request, response));
      return;
    }
    // Node announces maxHeaderListSize to HTTP/2 callers but does not hold them to it.
    if (request.rawHeaders.reduce((bytes, text) => bytes + text.length, 0) > MAX_HEADER_BYTES) {
      response.statusCode = 431;
      response.end();
      return;
    }
    options.request(request, response);
  };

  /** What Node does for a listener of "request", but for the streams that are served without one. */
  const onStream = (
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    _flags: number,
    rawHeaders: string[],
  ): void => {
    // Before all else: a stream that is reset with an error code emits it, and without a listener that ends the process.
    stream.on("error", () => {});
    // A caller may have reset it in the same packet: there is nothing to answer, and writing to it throws.
    if (stream.destroyed || stream.closed) return;
    try {
      const bytes = rawHeaders.reduce((sum, text) => sum + text.length, 0);
      if (bytes <= MAX_HEADER_BYTES && options.stream?.(stream, headers)) return;
      const request = new Http2ServerRequest(stream, headers, {}, rawHeaders);
      const response = new Http2ServerResponse(stream);
      if (headers.expect === "100-continue") response.writeContinue();
      onRequest(request, response);
    } catch (error) {
      // Nothing that a caller sends may end the process.
      log.error({ code: (error as NodeJS.ErrnoException).code }, "a stream could not be served");
      stream.destroy();
    }
  };

  function trackHttp1(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    http1.set(socket, (http1.get(socket) ?? 0) + 1);
    if (draining) response.shouldKeepAlive = false;
    const { writeHead } = response;
    response.writeHead = ((...head: Parameters<typeof writeHead>) => {
      if (!request.complete) closeAfterAnswer(socket, response);
      return writeHead.apply(response, head);
    }) as typeof writeHead;
    response.once("close", () => {
      const calls = (http1.get(socket) ?? 1) - 1;
      if (http1.has(socket)) http1.set(socket, calls);
      if (draining && calls === 0) socket.end();
    });
  }

  function trackSession(session: ServerHttp2Session): void {
    sessions.add(session);
    let calls = 0;
    const closeWhenIdle = () => setTimeout(() => retire(session), idleTimeoutMs).unref();
    let idle = closeWhenIdle();
    const age = setTimeout(() => retire(session), maxConnectionAgeMs * (0.9 + Math.random() / 5)).unref();
    session.on("stream", (stream: ServerHttp2Stream) => {
      calls += 1;
      clearTimeout(idle);
      stream.once("close", () => {
        calls -= 1;
        if (calls === 0 && !session.closed) idle = closeWhenIdle();
      });
      // connect-node 2.2.0 leaves the unread rest of an oversized request: its stream never closes, and the
      // session with it. close(NO_ERROR) and resume() cut the answer or do nothing.
      stream.once("finish", () => {
        setTimeout(() => {
          if (!stream.destroyed && !stream.readableEnded) stream.destroy();
        }, LINGER_MS).unref();
      });
    });
    session.on("error", () => {});
    session.once("close", () => {
      sessions.delete(session);
      clearTimeout(idle);
      clearTimeout(age);
    });
    if (draining) retire(session);
  }

  /** Calls that cross the goodbye are served: refused, connect-node takes them for INTERNAL, and not for one to send again. */
  function retire(session: ServerHttp2Session): void {
    if (session.closed || session.destroyed) return;
    session.goaway(constants.NGHTTP2_NO_ERROR, LAST_STREAM);
    setTimeout(() => session.close(), GOAWAY_MS);
  }

  const trackSocket = (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => {
      sockets.delete(socket);
      undecided.delete(socket);
      http1.delete(socket);
    });
  };

  const server = options.tls === undefined ? cleartext() : secure(options.tls);
  // The second (not in the types yet) is for workers: when all have so many, they would hand a further connection to
  // each other without end.
  Object.assign(server, { maxConnections, dropMaxConnection: true });
  server.on("error", (error: NodeJS.ErrnoException) => log.error({ code: error.code }, "listener failed"));
  server.listen({ port: options.port, host: options.host });
  await once(server, "listening");

  function cleartext(): Server {
    const http2Server = createHttp2Server(HTTP2_LIMITS);
    http2Server.on("stream", onStream);
    const http1Server = createHttp1Server(http1Limits, onRequest);
    http2Server.on("session", trackSession);
    // It does not listen itself, but only then does it begin to watch headersTimeout and requestTimeout.
    http1Server.emit("listening");
    return createNetServer({ ...TCP, allowHalfOpen: true }, (socket) => {
      trackSocket(socket);
      undecided.add(socket);
      sniff(socket, headersTimeoutMs, (protocol) => {
        undecided.delete(socket);
        if (protocol === "h1") http1.set(socket, 0);
        // An HTTP/2 connection whose caller says goodbye has nothing more to tell.
        else socket.allowHalfOpen = false;
        (protocol === "h2" ? http2Server : http1Server).emit("connection", socket);
      });
    });
  }

  function secure({ cert, key, clientCa }: NonNullable<ListenOptions["tls"]>): Server {
    const server: Http2Server = createSecureServer({
      ...TCP,
      ...HTTP2_LIMITS,
      ...http1Limits,
      cert,
      key,
      ...(clientCa !== undefined && { ca: clientCa, requestCert: true, rejectUnauthorized: true }),
      minVersion: "TLSv1.2",
      handshakeTimeout: headersTimeoutMs,
      allowHTTP1: true,
    } as never);
    // A listener of "request" would make every stream a request; HTTP/1.1 comes as one.
    server.removeAllListeners("newListener");
    server.on("request", onRequest);
    server.on("stream", onStream);
    server.on("session", trackSession);
    server.on("connection", trackSocket);
    server.on("secureConnection", (socket) => {
      trackSocket(socket);
      if (socket.alpnProtocol !== "h2") http1.set(socket, 0);
    });
    server.on("tlsClientError", (_, socket) => socket.destroy());
    return server as unknown as Server;
  }

  async function drain(timeoutMs: number): Promise<void> {
    draining = true;
    const closed = new Promise((resolve) => server.close(resolve));
    for (const session of sessions) retire(session);
    for (const [socket, calls] of http1) if (calls === 0) socket.destroy();
    for (const socket of undecided) socket.destroy();
    const cut = setTimeout(() => {
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
    }, timeoutMs);
    await closed;
    clearTimeout(cut);
  }

  return { port: (server.address() as AddressInfo).port, drain, [Symbol.asyncDispose]: () => drain(0) };
}

/**
 * For an answer that comes before the end of its request: the unread rest would hold the connection, and the
 * caller, who may have written all of it, would put its next call behind. So the answer says that the connection
 * closes, and it closes in two steps: at once, the answer would be lost with what is unread (RFC 9112, 9.6).
 */
function closeAfterAnswer(socket: Socket, response: ServerResponse): void {
  response.shouldKeepAlive = false;
  socket.destroySoon = () => {
    socket.end();
    setTimeout(() => socket.destroy(), LINGER_MS).unref();
  };
}

/** Tells by its first bytes whether a connection speaks HTTP/2, puts them back and says so. Silence is given up. */
function sniff(socket: Socket, timeoutMs: number, decide: (protocol: "h1" | "h2") => void): void {
  let seen = Buffer.alloc(0);
  const timer = setTimeout(() => socket.destroy(), timeoutMs).unref();
  const onReadable = () => {
    const chunk: Buffer | null = socket.read();
    if (chunk === null) return;
    seen = Buffer.concat([seen, chunk]);
    const length = Math.min(seen.length, PREFACE.length);
    const matches = seen.subarray(0, length).equals(PREFACE.subarray(0, length));
    if (matches && length < PREFACE.length) return;
    stop();
    socket.unshift(seen);
    decide(matches ? "h2" : "h1");
  };
  const onEnd = () => socket.destroy();
  const stop = () => {
    clearTimeout(timer);
    socket.off("readable", onReadable);
    socket.off("end", onEnd);
    socket.off("close", stop);
  };
  socket.on("readable", onReadable);
  socket.on("end", onEnd);
  socket.on("close", stop);
}
