// Unary gRPC calls without compression, served straight from their HTTP/2 stream: the same gate,
// interceptors and implementations as any other call, a fraction of the work around them. Headers, signals
// and context values are made only when somebody asks for them. What is not for it falls through.
import type { IncomingHttpHeaders, OutgoingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { type DescMethodUnary, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextValues,
  type HandlerContext,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import { parseTimeout, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import { requestIdKey } from "../interceptors/call.ts";
import type { CallHead, HeaderSource } from "../interceptors/credentials.ts";
import type { Outcome } from "../interceptors/telemetry.ts";

/** An RPC as this path serves it. */
export interface UnaryRoute {
  method: DescMethodUnary;
  readMaxBytes: number;
  /** The implementation within the interceptors that do not need a stream. */
  invoke: (request: UnaryRequest) => Promise<UnaryResponse>;
}

export interface UnaryOptions {
  routes: ReadonlyMap<string, UnaryRoute>;
  gate: (call: CallHead) => Promise<void> | void;
  present: (error: unknown, call: { method: DescMethodUnary; requestId: string }) => ConnectError;
  begin: (call: {
    method: DescMethodUnary;
    headers: IncomingHttpHeaders;
    values: ContextValues;
  }) => (outcome: Outcome) => void;
  outcomeOf: (error: ConnectError | undefined) => Outcome;
  /** A call ends its place among those in flight. */
  release: (values: ContextValues) => void;
  limits: { defaultTimeoutMs: number; maxTimeoutMs: number; bodyTimeoutMs: number };
}

const PREFIX_BYTES = 5;
const BINARY = { readUnknownFields: false };
/** Time for the last bytes of an answer to leave before the unread rest of its request is given up. */
const LINGER_MS = 100;

/** Serves the stream and says true, or leaves it alone and says false. */
export function unaryPath(options: UnaryOptions): (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean {
  return (stream, headers) => {
    const route = options.routes.get(headers[":path"] as string);
    const type = headers["content-type"];
    if (route === undefined || headers[":method"] !== "POST") return false;
    if (type !== "application/grpc" && type !== "application/grpc+proto") return false;
    const encoding = headers["grpc-encoding"];
    if (encoding !== undefined && encoding !== "identity") return false;
    // A malformed authority is for the adapter to refuse, as HTTP.
    if (!isAuthority(headers[":authority"])) return false;
    new UnaryCall(options, route, stream, headers).serve();
    return true;
  };
}

/** A name or an address with a port up to 9999, or up to 65535 as URL has it. */
const isAuthority = (authority: string | undefined) =>
  authority !== undefined && (/^[\w.-]+(:\d{1,4})?$/.test(authority) || URL.canParse(`http://${authority}`));

class UnaryCall implements CallHead {
  readonly service;
  readonly method: DescMethodUnary;
  readonly requestId = crypto.randomUUID();
  readonly values: ContextValues = createContextValues().set(requestIdKey, this.requestId);
  readonly header: HeaderSource;
  readonly #options: UnaryOptions;
  readonly #route: UnaryRoute;
  readonly #stream: ServerHttp2Stream;
  readonly #headers: IncomingHttpHeaders;
  readonly #finish: (outcome: Outcome) => void;
  #expiresAt: number;
  #timer: NodeJS.Timeout;
  #ended = false;
  #answered = false;
  #abort: AbortController | undefined;
  #abortReason: unknown;
  #requestHeader: Headers | undefined;
  #responseHeader: Headers | undefined;
  #responseTrailer: Headers | undefined;

  constructor(options: UnaryOptions, route: UnaryRoute, stream: ServerHttp2Stream, headers: IncomingHttpHeaders) {
    this.#options = options;
    this.#route = route;
    this.#stream = stream;
    this.#headers = headers;
    this.method = route.method;
    this.service = route.method.parent;
    this.header = { get: (name) => textOf(headers[name]), [Symbol.iterator]: () => pairsOf(headers) };
    this.#finish = options.begin({ method: route.method, headers, values: this.values });
    this.#expiresAt = performance.now() + options.limits.bodyTimeoutMs;
    this.#timer = setTimeout(() => {}, 0);
    clearTimeout(this.#timer);
  }

  serve(): void {
    const stream = this.#stream;
    stream.on("error", () => {});
    stream.once("close", () => this.#close());
    const timeout = this.#deadline();
    if (timeout instanceof Error) {
      this.#fail(timeout);
      return;
    }
    const { limits } = this.#options;
    // One timer: for the body first, for the whole call once it is there.
    const deadlineMs = timeout ?? limits.defaultTimeoutMs;
    const started = performance.now();
    this.#expiresAt = started + deadlineMs;
    this.#timer = setTimeout(
      () => this.#expire("The request did not arrive in time"),
      Math.min(deadlineMs, limits.bodyTimeoutMs),
    );
    try {
      const gate = this.#options.gate(this);
      if (gate === undefined) this.#read(started, deadlineMs);
      else
        gate.then(
          () => this.#read(started, deadlineMs),
          (error: unknown) => this.#fail(error),
        );
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Milliseconds that are left of the deadline that the caller names; undefined where it names none. */
  timeoutMs(): number | undefined {
    return this.#headers["grpc-timeout"] === undefined ? undefined : Math.max(0, this.#expiresAt - performance.now());
  }

  #deadline(): number | undefined | ConnectError {
    const text = textOf(this.#headers["grpc-timeout"]);
    if (text === null) return undefined;
    const { timeoutMs, error } = parseTimeout(text, this.#options.limits.maxTimeoutMs);
    return error ?? timeoutMs;
  }

  #read(started: number, deadlineMs: number): void {
    const stream = this.#stream;
    let first: Buffer | undefined;
    let more: Buffer[] | undefined;
    let size = 0;
    stream.on("data", (chunk: Buffer) => {
      if (this.#answered) return;
      size += chunk.length;
      if (first === undefined) first = chunk;
      else (more ??= [first]).push(chunk);
      const head =
        more === undefined ? first : size >= PREFIX_BYTES && first.length < PREFIX_BYTES ? Buffer.concat(more) : first;
      const { readMaxBytes } = this.#route;
      if (head.length >= PREFIX_BYTES && Math.max(head.readUInt32BE(1), size - PREFIX_BYTES) > readMaxBytes) {
        const which = `message size is larger than configured readMaxBytes ${readMaxBytes}`;
        this.#fail(new ConnectError(which, Code.ResourceExhausted));
      }
    });
    const arrived = () => {
      if (this.#answered) return;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(
        () => this.#expire("The call took longer than its deadline"),
        Math.max(0, deadlineMs - (performance.now() - started)),
      );
      const body = more === undefined ? first : Buffer.concat(more);
      this.#invoke(body ?? Buffer.alloc(0)).catch((error: unknown) => this.#fail(error));
    };
    // A stream without a body says so at once, or never where it ends with its headers.
    if (stream.endAfterHeaders || stream.readableEnded) arrived();
    else stream.on("end", arrived);
  }

  async #invoke(body: Buffer): Promise<void> {
    const { input, output } = this.method;
    const message = decode(input, envelope(body));
    const response = await this.#route.invoke(this.#request(message));
    if (this.#answered) return;
    const bytes = toBinary(output, response.message);
    const framed = Buffer.allocUnsafe(PREFIX_BYTES + bytes.length);
    framed[0] = 0;
    framed.writeUInt32BE(bytes.length, 1);
    framed.set(bytes, PREFIX_BYTES);
    this.#answer(undefined, framed);
  }

  /** What interceptors see; it is the HandlerContext too. */
  #request(message: Message): UnaryRequest {
    const call = this;
    return {
      stream: false,
      service: this.service,
      method: this.method,
      requestMethod: "POST",
      url: `http://${this.#headers[":authority"]}${this.#headers[":path"]}`,
      message,
      contextValues: this.values,
      get header() {
        return call.#lazyRequestHeader();
      },
      get signal() {
        return call.#lazySignal();
      },
      // Not of UnaryRequest: handed on to the implementation.
      context: this.#context(),
    } as UnaryRequest;
  }

  #context(): HandlerContext {
    const call = this;
    return {
      service: this.service,
      method: this.method,
      requestMethod: "POST",
      protocolName: "grpc",
      url: this.#headers[":path"] as string,
      values: this.values,
      timeoutMs: () => call.timeoutMs(),
      get signal() {
        return call.#lazySignal();
      },
      get requestHeader() {
        return call.#lazyRequestHeader();
      },
      get responseHeader() {
        call.#responseHeader ??= new Headers();
        return call.#responseHeader;
      },
      get responseTrailer() {
        call.#responseTrailer ??= new Headers();
        return call.#responseTrailer;
      },
    };
  }

  #lazySignal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#abortReason !== undefined) this.#abort.abort(this.#abortReason);
    }
    return this.#abort.signal;
  }

  #lazyRequestHeader(): Headers {
    this.#requestHeader ??= new Headers([...pairsOf(this.#headers)]);
    return this.#requestHeader;
  }

  #stop(reason: unknown): void {
    this.#abortReason ??= reason;
    this.#abort?.abort(reason);
  }

  #expire(message: string): void {
    const error = new DomainError("DEADLINE_EXCEEDED", message);
    this.#stop(error);
    this.#fail(error);
  }

  #fail(error: unknown): void {
    if (this.#answered) return;
    this.#answer(this.#options.present(error, this), undefined);
  }

  #answer(error: ConnectError | undefined, body: Buffer | undefined): void {
    if (this.#answered) return;
    this.#answered = true;
    clearTimeout(this.#timer);
    const stream = this.#stream;
    this.#end(this.#options.outcomeOf(error));
    if (stream.destroyed) return;
    const headers: OutgoingHttpHeaders = {
      ":status": 200,
      "content-type": "application/grpc+proto",
      "x-request-id": this.requestId,
    };
    this.#responseHeader?.forEach((value, name) => {
      headers[name] = value;
    });
    const trailers: OutgoingHttpHeaders = { "grpc-status": "0" };
    this.#responseTrailer?.forEach((value, name) => {
      trailers[name] = value;
    });
    if (error !== undefined) {
      const status = new Headers();
      setTrailerStatus(status, error);
      status.forEach((value, name) => {
        trailers[name] = value;
      });
    }
    if (body === undefined) {
      stream.respond({ ...headers, ...trailers }, { endStream: true });
      // The rest of a request that nobody reads would hold the stream.
      if (!stream.readableEnded) setTimeout(() => stream.destroyed || stream.close(), LINGER_MS).unref();
      return;
    }
    stream.respond(headers, { waitForTrailers: true });
    stream.once("wantTrailers", () => stream.sendTrailers(trailers));
    stream.end(body);
  }

  #close(): void {
    clearTimeout(this.#timer);
    if (!this.#answered) {
      this.#answered = true;
      this.#stop(toConnectError(new DomainError("CANCELLED", "The caller went away before the answer")));
    }
    this.#end({ code: "CANCELLED", reason: "CANCELLED" });
  }

  #end(outcome: Outcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#options.release(this.values);
    this.#finish(outcome);
  }
}

/** The one message of a unary call; throws what the library would. */
function envelope(body: Buffer): Buffer {
  if (body.length === 0) {
    throw new ConnectError("protocol error: missing input message for unary method", Code.Unimplemented);
  }
  if (body.length < PREFIX_BYTES) throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
  if (((body[0] as number) & 1) === 1) {
    throw new ConnectError("received compressed envelope, but do not know how to decompress", Code.Internal);
  }
  const length = body.readUInt32BE(1);
  if (body.length < PREFIX_BYTES + length) {
    throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
  }
  if (body.length > PREFIX_BYTES + length) {
    throw new ConnectError("protocol error: received extra input message for unary method", Code.Unimplemented);
  }
  return body.subarray(PREFIX_BYTES);
}

function decode(input: DescMethodUnary["input"], bytes: Uint8Array): Message {
  try {
    return fromBinary(input, bytes, BINARY);
  } catch (error) {
    // As the library says it; the interceptor of errors knows what may be told of it.
    throw new ConnectError(`parse binary: ${error instanceof Error ? error.message : ""}`, Code.Internal);
  }
}

const textOf = (value: string | string[] | undefined): string | null =>
  value === undefined ? null : typeof value === "string" ? value : value.join(", ");

function* pairsOf(headers: IncomingHttpHeaders): Generator<[string, string]> {
  for (const name of Object.keys(headers)) {
    if (name.startsWith(":")) continue;
    const value = textOf(headers[name]);
    if (value !== null) yield [name, value];
  }
}
