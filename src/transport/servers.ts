// The servers behind one port for HTTP/2 and HTTP/1.1. Node's cleartext HTTP/2 server refuses HTTP/1.1, so without TLS the
// first bytes of a connection decide which of two servers gets it; with TLS the handshake does (ALPN).
import { createServer as createHttp1Server, type ServerOptions as Http1Options } from "node:http";
import {
  createServer as createHttp2Server,
  createSecureServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import { createServer as createNetServer, type Server, type Socket } from "node:net";
import type { Tls } from "./certificates.ts";
import type { Guard } from "./guard.ts";
import type { NodeRequest } from "./library-path.ts";
import type { NodeResponse } from "./refusal.ts";
import { HTTP2_LIMITS } from "./sessions.ts";
import { type Spoken, sniff, TLS_ALERT } from "./sniff.ts";
import type { Tally } from "./tally.ts";
import type { Turns } from "./turns.ts";

/** Called with what comes through the port. */
interface Handlers {
  /** A request of HTTP/1.1. */
  onRequest(request: NodeRequest, response: NodeResponse): void;
  /** A stream of HTTP/2. */
  onStream(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, flags: number, rawHeaders: string[]): void;
  onSession(session: ServerHttp2Session): void;
  /** Every connection, before it has said what it speaks. */
  trackSocket(socket: Socket): void;
  /** A connection that speaks HTTP/1.1. */
  trackHttp1(socket: Socket): void;
  http1Limits: Http1Options & { headersTimeout: number };
  tally: Tally;
}

/** Keep-alive probes find callers that vanished without a word. */
const TCP = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 };

/** Without TLS. `undecided` holds the connections that have not said yet what they speak; `turns` are of connections. */
export function cleartextServer({
  undecided,
  turns,
  guard,
  ...handlers
}: Handlers & {
  undecided: Set<Socket>;
  turns: Turns;
  guard: Guard;
}): Server {
  const { tally, http1Limits } = handlers;
  const http2Server = createHttp2Server(HTTP2_LIMITS);
  http2Server.on("stream", handlers.onStream);
  const http1Server = createHttp1Server(http1Limits, handlers.onRequest);
  http2Server.on("session", handlers.onSession);
  // It does not listen itself, but only then does it begin to watch headersTimeout and requestTimeout.
  http1Server.emit("listening");
  const onSpoken = guard(
    (socket: Socket, spoken: Spoken) => {
      undecided.delete(socket);
      if (spoken === "tls") {
        tally.note("tls_on_cleartext");
        socket.end(TLS_ALERT, () => socket.destroy());
        return;
      }
      if (spoken === "h1") handlers.trackHttp1(socket);
      // An HTTP/2 connection whose caller says goodbye has nothing more to tell.
      else socket.allowHalfOpen = false;
      (spoken === "h2" ? http2Server : http1Server).emit("connection", socket);
    },
    (socket) => socket.destroy(),
  );
  const onConnection = guard(
    (socket: Socket) => {
      handlers.trackSocket(socket);
      undecided.add(socket);
      sniff(socket, http1Limits.headersTimeout, {
        // What has been read of it may be hundreds of requests.
        decide: (spoken) => turns(socket, () => onSpoken(socket, spoken)),
        silent: () => tally.note("silent"),
      });
    },
    (socket) => socket.destroy(),
  );
  return createNetServer({ ...TCP, allowHalfOpen: true }, onConnection);
}

export function secureServer(handlers: Handlers, tls: Tls): Server {
  const server: Http2Server = createSecureServer({
    ...TCP,
    ...HTTP2_LIMITS,
    ...handlers.http1Limits,
    ...secureContext(tls),
    ...(tls.clientCa !== undefined && { requestCert: true, rejectUnauthorized: true }),
    handshakeTimeout: handlers.http1Limits.headersTimeout,
    allowHTTP1: true,
  } as never);
  // A listener of "request" would make every stream a request; HTTP/1.1 comes as one.
  server.removeAllListeners("newListener");
  server.on("request", handlers.onRequest);
  server.on("stream", handlers.onStream);
  server.on("session", handlers.onSession);
  server.on("connection", handlers.trackSocket);
  server.on("secureConnection", (socket) => {
    handlers.trackSocket(socket);
    if (socket.alpnProtocol !== "h2") handlers.trackHttp1(socket);
  });
  server.on("tlsClientError", (_, socket) => {
    handlers.tally.note("tls_failed");
    socket.destroy();
  });
  return server as unknown as Server;
}

/** What TLS has of the certificates; may be set anew while the server listens. */
export const secureContext = ({ cert, key, clientCa }: Tls) => ({
  ...{ cert, key, minVersion: "TLSv1.2" as const },
  ...(clientCa !== undefined && { ca: clientCa }),
});
