// gRPC calls without compression, served straight from their HTTP/2 stream: the same gate, interceptors and
// implementations as any other call, a fraction of the work around them. Headers, signals and context values are
// made only when somebody asks for them. What is not for it falls through. Here is what calls with one request have
// in common; how they are answered is in unary.ts and server-streaming.ts.
import { constants, type IncomingHttpHeaders, type OutgoingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import {
  type DescMessage,
  type DescMethod,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type Message,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextValues,
  type HandlerContext,
  type StreamRequest,
  type UnaryRequest,
} from "@connectrpc/connect";
import { parseTimeout, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { callerLeft, DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import { connectionKey, peerKey, requestBytesKey, requestIdKey } from "../interceptors/call.ts";
import type { CallHead, HeaderSource } from "../interceptors/credentials.ts";
import type { CallOutcome } from "../interceptors/telemetry.ts";
import { type AnswerLimits, NOT_TAKEN, PIECE_BYTES, SMALL_BYTES, unreadAnswers } from "./answer-limits.ts";
import type { ByteBudget } from "./byte-budget.ts";
import { PREFIX_BYTES } from "./encode.ts";
import { isEndedByCaller } from "./guard.ts";
import { assertKinds } from "./kindless.ts";
import { peerOfSession } from "./peer.ts";
import { RequestBytes } from "./request-bytes.ts";
import { giveUpRest } from "./unread-rest.ts";
import { assertFewValues } from "./values.ts";

/** An RPC as this path serves it. */
export interface GrpcRoute {
  method: DescMethodUnary | DescMethodServerStreaming;
  readMaxBytes: number;
  /** The longest deadline that a caller may name, and that of one who names none; undefined: none. */
  maxTimeoutMs: number;
  defaultTimeoutMs: number | undefined;
  /** Aborted: its calls end with the reason. */
  shutdownSignal?: AbortSignal | undefined;
  /** Answers the call. What it throws becomes the error of the call. */
  answer: Answer;
}

export type Answer = (call: GrpcCall, message: Message) => Promise<void>;

export interface GrpcOptions {
  routes: ReadonlyMap<string, GrpcRoute>;
  gate: (call: CallHead) => Promise<void> | void;
  /** Takes a place among the calls in flight, when the request is complete. Throws OVERLOADED. */
  enter: (method: DescMethod, values: ContextValues, connection: object) => void;
  /** Where the bytes of incomplete requests are counted. */
  requestBytes: ByteBudget;
  answers: AnswerLimits;
  present: (error: unknown, call: { method: DescMethod; requestId: string }) => ConnectError;
  begin: (call: {
    method: DescMethod;
    headers: IncomingHttpHeaders;
    values: ContextValues;
  }) => (outcome: CallOutcome) => void;
  outcomeOf: (error: ConnectError | undefined) => CallOutcome;
  /** A call ends its place among those in flight. */
  release: (values: ContextValues) => void;
  limits: { bodyTimeoutMs: number };
}

const { NO_SIDE_EFFECTS } = MethodOptions_IdempotencyLevel;
const BINARY = { readUnknownFields: false };

/** Serves the stream and says true, or leaves it alone and says false. */
export function grpcPath(options: GrpcOptions): (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean {
  return (stream, headers) => {
    const route = options.routes.get(headers[":path"] as string);
    const type = headers["content-type"];
    if (route === undefined || headers[":method"] !== "POST") return false;
    if (type !== "application/grpc" && type !== "application/grpc+proto") return false;
    const encoding = headers["grpc-encoding"];
    if (encoding !== undefined && encoding !== "identity") return false;
    // A malformed authority is for the adapter to refuse, as HTTP.
    if (!isAuthority(headers[":authority"])) return false;
    new GrpcCall(options, route, stream, headers).serve();
    return true;
  };
}

/** A name or an address with a port up to 9999, or up to 65535 as URL has it. */
const isAuthority = (authority: string | undefined) =>
  authority !== undefined && (/^[\w.-]+(:\d{1,4})?$/.test(authority) || URL.canParse(`http://${authority}`));

export class GrpcCall implements CallHead, HandlerContext {
  readonly service;
  readonly method;
  readonly requestId = crypto.randomUUID();
  readonly values: ContextValues;
  readonly header: HeaderSource;
  readonly #options: GrpcOptions;
  readonly #route: GrpcRoute;
  readonly #stream: ServerHttp2Stream;
  readonly #headers: IncomingHttpHeaders;
  readonly #finish: (outcome: CallOutcome) => void;
  readonly #shutDown = () => {
    this.stop(this.#route.shutdownSignal?.reason);
    this.#takenWithin(this.#options.answers.shutdownLingerMs);
  };
  /** What bytes are counted for. */
  readonly #connection: object;
  #expiresAt: number;
  #timer: NodeJS.Timeout | undefined;
  #request: RequestBytes | undefined;
  #counted = true;
  /** How the call ended, once its answer is written and before it is taken. */
  #outcome: CallOutcome | undefined;
  /** Bytes of the answer in the budget of unread ones. */
  #unread = 0;
  #over = false;
  #whenOver: (() => void) | undefined;
  #drained: (() => void) | undefined;
  #abort: AbortController | undefined;
  #abortReason: unknown;
  #requestHeader: Headers | undefined;
  #responseHeader: Headers | undefined;
  #responseTrailer: Headers | undefined;

  constructor(options: GrpcOptions, route: GrpcRoute, stream: ServerHttp2Stream, headers: IncomingHttpHeaders) {
    this.#options = options;
    this.#route = route;
    this.#stream = stream;
    this.#headers = headers;
    this.#connection = stream.session ?? stream;
    this.method = route.method;
    this.service = route.method.parent;
    const peer = peerOfSession(stream.session);
    this.values = createContextValues().set(requestIdKey, this.requestId).set(peerKey, peer);
    if (stream.session !== undefined) this.values.set(connectionKey, stream.session);
    this.header = { get: (name) => textOf(headers[name]), [Symbol.iterator]: () => pairsOf(headers) };
    this.#finish = options.begin({ method: route.method, headers, values: this.values });
    this.#expiresAt = performance.now() + options.limits.bodyTimeoutMs;
  }

  serve(): void {
    const stream = this.#stream;
    stream.on("error", () => {});
    stream.once("close", () => this.#close());
    const { shutdownSignal, defaultTimeoutMs } = this.#route;
    const timeout = this.#deadline();
    if (timeout instanceof Error) {
      this.fail(timeout);
      return;
    }
    // One timer: for the body first, for the whole call once it is there.
    const deadlineMs = timeout ?? defaultTimeoutMs ?? Number.POSITIVE_INFINITY;
    const started = performance.now();
    this.#expiresAt = started + deadlineMs;
    this.#timer = setTimeout(
      () => this.#expire("The request did not arrive in time"),
      Math.min(deadlineMs, this.#options.limits.bodyTimeoutMs),
    );
    if (shutdownSignal?.aborted) {
      this.#shutDown();
      return;
    }
    shutdownSignal?.addEventListener("abort", this.#shutDown, { once: true });
    try {
      const gate = this.#options.gate(this);
      if (gate === undefined) this.#read(started, deadlineMs);
      else
        gate.then(
          () => this.#read(started, deadlineMs),
          (error: unknown) => this.fail(error),
        );
    } catch (error) {
      this.fail(error);
    }
  }

  /** Milliseconds that are left of the deadline that the caller names; undefined where it names none. */
  timeoutMs(): number | undefined {
    return this.#headers["grpc-timeout"] === undefined ? undefined : Math.max(0, this.#expiresAt - performance.now());
  }

  hasLeft(): boolean {
    return this.#over;
  }

  #deadline(): number | undefined | ConnectError {
    const text = textOf(this.#headers["grpc-timeout"]);
    if (text === null) return undefined;
    const { maxTimeoutMs } = this.#route;
    const { timeoutMs, error } = parseTimeout(text, maxTimeoutMs);
    return timeoutMs === undefined ? error : Math.min(timeoutMs, maxTimeoutMs);
  }

  #read(started: number, deadlineMs: number): void {
    // The caller left, or the time was up, while its key was looked up.
    if (this.#over) return;
    const stream = this.#stream;
    const { readMaxBytes } = this.#route;
    const bytes = new RequestBytes(this.#options.requestBytes, this.#connection);
    this.#request = bytes;
    stream.on("data", (chunk: Buffer) => {
      if (this.#over) return;
      try {
        bytes.add(chunk);
      } catch (error) {
        this.fail(error);
        return;
      }
      if (Math.max(bytes.announced() ?? 0, bytes.size - PREFIX_BYTES) > readMaxBytes) {
        const which = `message size is larger than configured readMaxBytes ${readMaxBytes}`;
        this.fail(new ConnectError(which, Code.ResourceExhausted));
      }
    });
    const arrived = () => {
      if (this.#over) return;
      clearTimeout(this.#timer);
      if (Number.isFinite(deadlineMs)) {
        this.#timer = setTimeout(
          () => this.#expire("The call took longer than its deadline"),
          Math.max(0, deadlineMs - (performance.now() - started)),
        );
      }
      this.#answer(bytes.take()).catch((error: unknown) => this.fail(error));
    };
    // A stream without a body says so at once, or never where it ends with its headers.
    if (stream.endAfterHeaders || stream.readableEnded) arrived();
    else stream.on("end", arrived);
  }

  async #answer(body: Buffer): Promise<void> {
    this.values.set(requestBytesKey, body.length);
    this.#options.enter(this.method, this.values, this.#connection);
    const message = decode(this.method.input, envelope(body, this.method.methodKind.replace("_", "-")));
    await this.#route.answer(this, message);
  }

  /** The call as interceptors see it; `context` is for the implementation. */
  request(message: Message): UnaryRequest & { context: HandlerContext };
  request(message: AsyncIterable<Message>): StreamRequest & { context: HandlerContext };
  request(message: Message | AsyncIterable<Message>): unknown {
    return new CallRequest(this, message);
  }

  // What the implementation sees of the call. On the prototype, not in an object made for each: getters that are new with
  // each call give its object a hidden class of its own, which keeps the call alive until the next full collection.
  get requestMethod(): "POST" {
    return "POST";
  }

  get protocolName(): string {
    return "grpc";
  }

  get url(): string {
    return this.#headers[":path"] as string;
  }

  get authority(): string | undefined {
    return this.#headers[":authority"];
  }

  /** What `signal` would say, for who only asks: most calls need no AbortController. */
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

  get requestHeader(): Headers {
    this.#requestHeader ??= new Headers([...pairsOf(this.#headers)]);
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

  /** Answered, or the caller is gone: there is nothing to do any more. */
  get isOver(): boolean {
    return this.#over;
  }

  /** Calls back when the call is over; at once where it is. */
  whenOver(listener: () => void): void {
    if (this.#over) listener();
    else this.#whenOver = listener;
  }

  /** Sends some bytes of the answer; false: whoever reads has not kept up, wait for `drained` before the next. */
  write(bytes: Buffer): boolean {
    if (this.#over || this.#stream.closed) return true;
    this.#respond();
    return this.#stream.write(bytes);
  }

  /** Resolves when what was written has left, or when the call is over: it ends where that takes too long. */
  drained(): Promise<void> {
    const stream = this.#stream;
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.#over || !stream.writableNeedDrain) resolve();
    else {
      const limit = setTimeout(() => this.#giveUp(), this.#options.answers.timeoutMs);
      const taken = () => {
        clearTimeout(limit);
        resolve();
      };
      this.#drained = taken;
      stream.once("drain", taken);
    }
    return promise;
  }

  /** Ends the call with its last bytes, if there are any. */
  end(body?: Buffer): void {
    const { budget, tally } = this.#options.answers;
    if (this.#over) return;
    if (body !== undefined && body.length > SMALL_BYTES) {
      if (this.method.idempotency !== NO_SIDE_EFFECTS) budget.add(this.#connection, body.length);
      else if (!budget.take(this.#connection, body.length)) {
        tally.note("over_budget");
        throw unreadAnswers();
      }
      this.#unread = body.length;
    }
    this.#conclude(undefined, body);
  }

  fail(error: unknown): void {
    if (!this.#over) this.#conclude(this.#options.present(error, this), undefined);
  }

  /** Ends the call from without: its implementation is told to stop, its caller why. */
  stop(error: unknown): void {
    if (this.#over) return;
    this.#abortWith(error);
    this.fail(error);
  }

  #expire(message: string): void {
    this.stop(new DomainError("DEADLINE_EXCEEDED", message));
  }

  #abortWith(reason: unknown): void {
    this.#abortReason ??= reason;
    this.#abort?.abort(reason);
  }

  #respond(): void {
    const stream = this.#stream;
    if (stream.headersSent) return;
    stream.respond(this.#answerHeaders(), { waitForTrailers: true });
  }

  #answerHeaders(): OutgoingHttpHeaders {
    const headers: OutgoingHttpHeaders = {
      ":status": 200,
      "content-type": "application/grpc+proto",
      "x-request-id": this.requestId,
    };
    // nginx would keep what is streamed until it has some kilobytes.
    if (this.method.methodKind !== "unary") headers["x-accel-buffering"] = "no";
    this.#responseHeader?.forEach((value, name) => {
      headers[name] = value;
    });
    return headers;
  }

  #answerTrailers(error: ConnectError | undefined): OutgoingHttpHeaders {
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
    return trailers;
  }

  #conclude(error: ConnectError | undefined, body: Buffer | undefined): void {
    if (this.#over) return;
    const stream = this.#stream;
    this.#leave();
    const outcome = this.#options.outcomeOf(error);
    // One that its caller has reset without an error is closed first, and nothing can be sent on it either.
    if (stream.destroyed || stream.closed) return this.#count(outcome);
    try {
      this.#send(error, body, outcome);
    } catch (failure) {
      // Such as a header of the handler's that HTTP does not allow.
      if (!isEndedByCaller(failure)) this.#outcome = this.#options.outcomeOf(this.#options.present(failure, this));
      stream.destroy();
    }
  }

  #send(error: ConnectError | undefined, body: Buffer | undefined, outcome: CallOutcome): void {
    const stream = this.#stream;
    const trailers = this.#answerTrailers(error);
    // A failure before the first message is one frame, but for headers that must stay apart from the status.
    if (body === undefined && !stream.headersSent && (this.method.methodKind === "unary" || !this.#responseHeader)) {
      this.#count(outcome);
      stream.respond({ ...this.#answerHeaders(), ...trailers }, { endStream: true });
      giveUpRest(stream);
      return;
    }
    this.#respond();
    stream.once("wantTrailers", () => stream.closed || stream.sendTrailers(trailers));
    // What its caller has not read yet holds its place: it ends when the stream closes.
    this.#outcome = outcome;
    this.#sendRest(body, 0);
  }

  /** The last bytes piece by piece, each when the one before was taken; and the end. */
  #sendRest(body: Buffer | undefined, at: number): void {
    const stream = this.#stream;
    if (stream.destroyed || stream.closed) return;
    this.#takenWithin(this.#options.answers.timeoutMs);
    const next = at + PIECE_BYTES;
    if (body === undefined) stream.end();
    else if (next >= body.length) stream.end(at === 0 ? body : body.subarray(at));
    else {
      stream.write(body.subarray(at, next));
      stream.once("drain", () => this.#sendRest(body, next));
    }
  }

  #takenWithin(timeoutMs: number): void {
    if (!this.#counted || this.#stream.destroyed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#giveUp(), timeoutMs);
  }

  /** The caller does not read: not even the reason would reach it, so the stream is reset. */
  #giveUp(): void {
    this.#options.answers.tally.note("answer_not_taken");
    if (!this.#over) this.#leave();
    this.#abortWith(toConnectError(new DomainError("CANCELLED", "The caller does not read its answer")));
    this.#outcome = NOT_TAKEN;
    this.#stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  }

  #close(): void {
    clearTimeout(this.#timer);
    // Not before: one that has ended and is not read must not hold up the end of the process either.
    this.#route.shutdownSignal?.removeEventListener("abort", this.#shutDown);
    if (this.#unread > 0) this.#options.answers.budget.give(this.#connection, this.#unread);
    this.#unread = 0;
    if (this.#outcome !== undefined) this.#count(this.#outcome);
    if (!this.#over) {
      this.#leave();
      this.#abortWith(toConnectError(callerLeft()));
      this.#count({ code: "CANCELLED", reason: "CANCELLED" });
    }
  }

  #leave(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#request?.release();
    this.#whenOver?.();
    this.#drained?.();
  }

  #count(outcome: CallOutcome): void {
    if (!this.#counted) return;
    this.#counted = false;
    this.#options.release(this.values);
    this.#finish(outcome);
  }
}

/** The one message of the request; throws what the library would. */
function envelope(body: Buffer, kind: string): Buffer {
  if (body.length === 0) {
    throw new ConnectError(`protocol error: missing input message for ${kind} method`, Code.Unimplemented);
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
    throw new ConnectError(`protocol error: received extra input message for ${kind} method`, Code.Unimplemented);
  }
  return body.subarray(PREFIX_BYTES);
}

function decode(input: DescMessage, bytes: Uint8Array): Message {
  assertFewValues(input, bytes);
  assertKinds(input, bytes);
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

/** A call with its message, as interceptors pass it on. */
class CallRequest {
  readonly context: GrpcCall;
  readonly message: Message | AsyncIterable<Message>;
  readonly stream: boolean;
  readonly service: GrpcCall["service"];
  readonly method: GrpcCall["method"];
  readonly requestMethod = "POST";
  readonly contextValues: ContextValues;

  constructor(call: GrpcCall, message: Message | AsyncIterable<Message>) {
    this.context = call;
    this.message = message;
    this.stream = call.method.methodKind !== "unary";
    this.service = call.service;
    this.method = call.method;
    this.contextValues = call.values;
  }

  get url(): string {
    return `http://${this.context.authority}${this.context.url}`;
  }

  get header(): Headers {
    return this.context.requestHeader;
  }

  get signal(): AbortSignal {
    return this.context.signal;
  }
}
