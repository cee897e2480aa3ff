// One gRPC call, from the headers of its stream to its close. Here is what calls with one request have in common; how
// they are answered is in unary.ts and server-streaming.ts. What stands around it: what the implementation sees of the call
// (grpc-context.ts), its request (grpc-request.ts), its answer (grpc-answer.ts), its time (grpc-deadline.ts).
//
//     waiting for the body ── complete, and there is room ──> being answered
//              │                                                     │
//              └─────────────── fail, stop ───────┬─── end, fail, stop ┘
//                                                 v
//                                    written and not yet taken ── the stream closes ──> closed
//
// - In the first two, a stream that closes (its caller leaves) goes straight to closed.
// - Waiting begins with the gate: the body is read once the key is known and good.
// - An answer that is not taken in time, in whole or in part, resets its stream, which closes.
// - `isOver` is true from written on: for the implementation there is nothing left to do. The call holds its place among
//   those in flight until it is closed; one whose answer is its headers alone, until that is written.
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import type { DescMethod, DescMethodServerStreaming, DescMethodUnary, Message } from "@bufbuild/protobuf";
import type { ConnectError, ContextValues } from "@connectrpc/connect";
import { callerLeft, DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import { requestBytesKey } from "../interceptors/call.ts";
import type { CallHead } from "../interceptors/credentials.ts";
import type { CallOutcome } from "../interceptors/telemetry.ts";
import type { Alarm } from "./alarms.ts";
import type { ByteBudget } from "./byte-budget.ts";
import { type AnswerOptions, GrpcAnswer } from "./grpc-answer.ts";
import { GrpcContext } from "./grpc-context.ts";
import { GrpcDeadline, namedTimeout } from "./grpc-deadline.ts";
import { addChunk, messageIn } from "./grpc-request.ts";
import { link, readRequest, type StreamUser } from "./grpc-stream.ts";
import { RequestBytes } from "./request-bytes.ts";

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

export interface GrpcOptions extends AnswerOptions {
  gate: (call: CallHead) => Promise<void> | void;
  /** Takes a place among the calls in flight, when the request is complete. Throws OVERLOADED. */
  enter: (method: DescMethod, values: ContextValues, connection: object) => void;
  /** Where the bytes of incomplete requests are counted. */
  requestBytes: ByteBudget;
  begin: (call: {
    method: DescMethod;
    headers: IncomingHttpHeaders;
    values: ContextValues;
  }) => (outcome: CallOutcome) => void;
  /** A call ends its place among those in flight. */
  release: (values: ContextValues) => void;
  limits: { bodyTimeoutMs: number };
  /** Sets up the one alarm of a call. */
  alarm: (call: GrpcCall) => Alarm;
}

export class GrpcCall extends GrpcContext implements StreamUser {
  readonly #options: GrpcOptions;
  readonly #route: GrpcRoute;
  readonly #stream: ServerHttp2Stream;
  /** What bytes are counted for. */
  readonly #connection: object;
  readonly #finish: (outcome: CallOutcome) => void;
  readonly #deadline: GrpcDeadline;
  readonly #answer: GrpcAnswer;
  #namesDeadline = false;
  #request: RequestBytes | undefined;
  #hasArrived = false;
  #over = false;
  #whenOver: (() => void) | undefined;
  #onShutdown: (() => void) | undefined;

  constructor(options: GrpcOptions, route: GrpcRoute, stream: ServerHttp2Stream, headers: IncomingHttpHeaders) {
    super(route.method, stream, headers);
    this.#options = options;
    this.#route = route;
    this.#stream = stream;
    this.#connection = stream.session ?? stream;
    this.#deadline = new GrpcDeadline(options.alarm(this));
    this.#answer = new GrpcAnswer(this, stream, this.#connection, options);
    this.#finish = options.begin({ method: route.method, headers, values: this.values });
  }

  serve(): void {
    link(this.#stream, this);
    const { maxTimeoutMs, defaultTimeoutMs, shutdownSignal } = this.#route;
    const timeoutMs = namedTimeout(this.header, maxTimeoutMs);
    if (timeoutMs instanceof Error) {
      this.fail(timeoutMs);
      return;
    }
    this.#namesDeadline = timeoutMs !== undefined;
    this.#deadline.start(timeoutMs ?? defaultTimeoutMs ?? Number.POSITIVE_INFINITY, this.#options.limits.bodyTimeoutMs);
    if (shutdownSignal !== undefined) this.#stopWhen(shutdownSignal);
    if (this.#over) return;
    try {
      const gate = this.#options.gate(this);
      if (gate === undefined) this.#read();
      else
        gate.then(
          () => this.#read(),
          (error: unknown) => this.fail(error),
        );
    } catch (error) {
      this.fail(error);
    }
  }

  timeoutMs(): number | undefined {
    return this.#namesDeadline ? this.#deadline.leftMs() : undefined;
  }

  hasLeft(): boolean {
    return this.#over;
  }

  /** Written, or the caller is gone: there is nothing to do any more. */
  get isOver(): boolean {
    return this.#over;
  }

  /** Calls back when the call is over; at once where it is. */
  whenOver(listener: () => void): void {
    if (this.#over) listener();
    else this.#whenOver = listener;
  }

  #read(): void {
    // The caller left, or the time was up, while its key was looked up.
    if (this.#over) return;
    this.#request = new RequestBytes(this.#options.requestBytes, this.#connection);
    readRequest(this.#stream);
  }

  requestChunk(chunk: Buffer): void {
    if (this.#over || this.#request === undefined) return;
    try {
      addChunk(this.#request, chunk, this.#route.readMaxBytes);
    } catch (error) {
      this.fail(error);
    }
  }

  requestEnded(): void {
    if (this.#over || this.#request === undefined) return;
    this.#hasArrived = true;
    this.#deadline.requestArrived();
    const body = this.#request.take();
    this.values.set(requestBytesKey, body.length);
    try {
      this.#options.enter(this.method, this.values, this.#connection);
      this.#route.answer(this, messageIn(body, this.method)).catch((error: unknown) => this.fail(error));
    } catch (error) {
      this.fail(error);
    }
  }

  /** Sends some bytes of the answer; false: whoever reads has not kept up, wait for `drained` before the next. */
  write(bytes: Buffer): boolean {
    return this.#over || this.#answer.write(bytes);
  }

  /** Resolves when what was written has left, or when the call is over: it ends where that takes too long. */
  drained(): Promise<void> {
    return this.#over ? Promise.resolve() : this.#answer.drained();
  }

  /** Ends the call with its last bytes, if there are any. */
  end(body?: Buffer): void {
    if (this.#over) return;
    if (body !== undefined) this.#answer.reserve(body.length);
    this.#conclude(undefined, body);
  }

  fail(error: unknown): void {
    if (!this.#over) this.#conclude(this.#options.present(error, this), undefined);
  }

  /** Ends the call from without: its implementation is told to stop, its caller why. */
  stop(error: unknown): void {
    if (this.#over) return;
    this.abort(error);
    this.fail(error);
  }

  /** The time is up for the request, the call or its caller to take the answer, whichever it is that the call waits for. */
  timeUp(): void {
    if (this.#over) this.#answer.giveUp();
    else {
      const what = this.#hasArrived ? "The call took longer than its deadline" : "The request did not arrive in time";
      this.stop(new DomainError("DEADLINE_EXCEEDED", what));
    }
  }

  answerWithin(timeoutMs: number): void {
    this.#deadline.answerWithin(timeoutMs);
  }

  /** The caller does not read its answer, and the stream is about to be reset. */
  notTaken(): void {
    if (!this.#over) this.#leave();
    this.abort(toConnectError(new DomainError("CANCELLED", "The caller does not read its answer")));
  }

  ended(outcome: CallOutcome): void {
    this.#options.release(this.values);
    this.#finish(outcome);
  }

  #stopWhen(signal: AbortSignal): void {
    this.#onShutdown = () => {
      this.stop(signal.reason);
      this.#answer.takenWithin(this.#options.answers.shutdownLingerMs);
    };
    if (signal.aborted) this.#onShutdown();
    else signal.addEventListener("abort", this.#onShutdown, { once: true });
  }

  #conclude(error: ConnectError | undefined, body: Buffer | undefined): void {
    this.#leave();
    this.#answer.end(error, body);
  }

  #leave(): void {
    this.#over = true;
    this.#deadline.pause();
    this.#request?.release();
    this.#whenOver?.();
    this.#answer.stopWaiting();
  }

  trailersWanted(): void {
    this.#answer.sendTrailers();
  }

  closed(): void {
    // Not before: one that has ended and is not read must not hold up the end of the process either.
    if (this.#onShutdown !== undefined) this.#route.shutdownSignal?.removeEventListener("abort", this.#onShutdown);
    this.#deadline.end();
    this.#answer.close();
    if (this.#over) return;
    this.#leave();
    this.abort(toConnectError(callerLeft()));
    this.#answer.count({ code: "CANCELLED", reason: "CANCELLED" });
  }
}
