// The client of EntityService for TypeScript and JavaScript on Node: gRPC over HTTP/2.
import { createGrpcTransport } from "@connectrpc/connect-node";
import { inTurn } from "./addresses.ts";
import { authorization, type ClientOptions, type EntityClient, entityClientOver } from "./client.ts";
import { CallSessions, tellSessions } from "./let-go.ts";

export * from "./exports.ts";

export interface EntityClientOptions extends ClientOptions {
  /**
   * Where the service is, such as "http://127.0.0.1:50051". Several are processes of one service: calls go to each in turn, and
   * a retry to the next.
   */
  baseUrl: string | readonly string[];
}

const PING_MS = 20_000;
/**
 * In megabytes; not taken in advance. With Node's 10 a session whose unsent requests are more than that refuses the answers
 * to them itself: as ENHANCE_YOUR_CALM, which is INTERNAL, or without telling anything.
 */
const SESSION_MEMORY = 1_000;

/** A client of all services over one HTTP/2 connection, which is opened by the first call. Errors are ConnectError with google.rpc.ErrorInfo. */
export function createEntityClient({
  baseUrl,
  apiKey,
  interceptors = [],
  ...options
}: EntityClientOptions): EntityClient {
  const transportTo = (url: string) =>
    createGrpcTransport({
      baseUrl: url,
      interceptors: [...interceptors, authorization(apiKey), tellSessions],
      sessionManager: new CallSessions(
        url,
        // A server that says nothing any more ends a watch too, which has no deadline.
        { pingIntervalMs: PING_MS, pingTimeoutMs: PING_MS / 2 },
        { maxSessionMemory: SESSION_MEMORY },
      ),
    });
  return entityClientOver(inTurn([baseUrl].flat().map(transportTo)), options);
}
