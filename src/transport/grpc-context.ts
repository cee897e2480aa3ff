// A gRPC call as its gate and its implementation see it. Request headers, signal and response headers are created on
// demand: most calls need none of them.
import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import type { DescMethodServerStreaming, DescMethodUnary } from "@bufbuild/protobuf";
import { type ContextValues, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { connectionKey, type Departure, departureKey, peerKey, requestIdKey } from "../interceptors/call.ts";
import type { CallHead, HeaderSource } from "../interceptors/credentials.ts";
import { peerOfSession } from "./peer.ts";

export abstract class GrpcContext implements CallHead, HandlerContext, Departure {
  readonly service;
  readonly method;
  readonly requestId = randomUUID();
  readonly values: ContextValues;
  readonly header: HeaderSource;
  readonly #headers: IncomingHttpHeaders;
  #abort: AbortController | undefined;
  #abortReason: unknown;
  #requestHeader: Headers | undefined;
  #responseHeader: Headers | undefined;
  #responseTrailer: Headers | undefined;

  constructor(
    method: DescMethodUnary | DescMethodServerStreaming,
    { session }: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
  ) {
    this.method = method;
    this.service = method.parent;
    this.#headers = headers;
    this.header = new StreamHeaders(headers);
    this.values = createContextValues()
      .set(requestIdKey, this.requestId)
      .set(peerKey, peerOfSession(session))
      .set(departureKey, this);
    if (session !== undefined) this.values.set(connectionKey, session);
  }

  /** Milliseconds until the caller's deadline; undefined if it set none. */
  abstract timeoutMs(): number | undefined;

  abstract hasLeft(): boolean;

  // Getters on the prototype, not in an object literal per call: a literal's getters are new functions each time, which gives
  // each object its own hidden class, and keeps the call in memory until the next full garbage collection.
  get requestMethod(): "POST" {
    return "POST";
  }

  get protocolName(): string {
    return "grpc";
  }

  get url(): string {
    return this.#headers[":path"] as string;
  }

  /** The state of `signal`, without creating it. */
  get aborted(): boolean {
    return this.#abortReason !== undefined;
  }

  get reason(): unknown {
    return this.#abortReason;
  }

  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#abortReason !== undefined) this.#abort.abort(this.#abortReason);
    }
    return this.#abort.signal;
  }

  /** Tells the implementation to stop. */
  abort(reason: unknown): void {
    this.#abortReason ??= reason;
    this.#abort?.abort(reason);
  }

  get requestHeader(): Headers {
    this.#requestHeader ??= headersOf(this.header);
    return this.#requestHeader;
  }

  get responseHeader(): Headers {
    this.#responseHeader ??= new Headers();
    return this.#responseHeader;
  }

  get responseTrailer(): Headers {
    this.#responseTrailer ??= new Headers();
    return this.#responseTrailer;
  }

  /** `responseHeader` if the implementation has used it. */
  get addedHeader(): Headers | undefined {
    return this.#responseHeader;
  }

  /** `responseTrailer` if the implementation has used it. */
  get addedTrailer(): Headers | undefined {
    return this.#responseTrailer;
  }
}

/** The headers of an HTTP/2 stream. */
class StreamHeaders implements HeaderSource {
  readonly #headers: IncomingHttpHeaders;

  constructor(headers: IncomingHttpHeaders) {
    this.#headers = headers;
  }

  get(name: string): string | null {
    return textOf(this.#headers[name]);
  }

  keys(): string[] {
    return Object.keys(this.#headers);
  }
}

function headersOf(source: HeaderSource): Headers {
  const headers = new Headers();
  for (const name of source.keys()) {
    const value = name.startsWith(":") ? null : source.get(name);
    if (value !== null) headers.set(name, value);
  }
  return headers;
}

const textOf = (value: string | string[] | undefined): string | null =>
  value === undefined ? null : typeof value === "string" ? value : value.join(", ");
