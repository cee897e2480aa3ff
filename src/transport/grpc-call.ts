// One gRPC call, from the headers of its stream to its close. This file has what all calls with one request share; unary.ts
// and server-streaming.ts answer them. The parts of a call: its context for the implementation (grpc-context.ts), the
// events of its stream (grpc-stream.ts), its request (grpc-request.ts), answer (grpc-answer.ts) and time (grpc-deadline.ts).
//
//     waiting for the body ── complete, and there is room ──> being answered
//              │                                                     │
//              └─────────────── fail, stop ───────┬─── end, fail, stop ┘
//                                                 v
//                                    written and not yet read ─── the stream closes ──> closed
//
// - In the first two, a stream that closes (its caller leaves) goes straight to closed.
// - Waiting begins with the gate: the body is read once the key is known and good.
// - If the caller does not read the answer or a part of it in time, the stream is reset, and closes.
// - `isOver` is true from written on: the implementation has nothing left to do. The call keeps its place among those in
//   flight until it is closed; if its answer is headers only, until those are written.
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import type { DescMethod, DescMethodServerStreaming, DescMethodUnary, Message } from "@bufbuild/protobuf";
import type { ConnectError, ContextValues } from "@connectrpc/connect";
import { callerLeft, DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import { inTurn } from "../in-turn.ts";
import { requestBytesKey, workOwnerOf } from "../interceptors/call.ts";
import type { CallHead } from "../interceptors/credentials.ts";
import type { CallOutcome } from "../interceptors/telemetry.ts";
import type { Alarm } from "./alarms.ts";
import type { Arrivals, Arriving } from "./arrivals.ts";
import type { ByteBudget } from "./byte-budget.ts";
import { type AnswerOptions, GrpcAnswer } from "./grpc-answer.ts";
import { GrpcContext } from "./grpc-context.ts";
import { GrpcDeadline, namedTimeout } from "./grpc-deadline.ts";
import { addChunk, messageIn } from "./grpc-request.ts";
import { link, readRequest, type StreamUser } from "./grpc-stream.ts";
import { lengthOf } from "./parts.ts";
import type { Place } from "./places.ts";
import { RequestBytes } from "./request-bytes.ts";

/** An RPC as this path serves it. */
export interface GrpcRoute {
  method: DescMethodUnary | DescMethodServerStreaming;
  readMaxBytes: number;
  /** The longest deadline that a caller may set, and the deadline of a call without one; undefined: none. */
  maxTimeoutMs: number;
  defaultTimeoutMs: number | undefined;
  /** When it is aborted, the calls end with its reason. */
  shutdownSignal?: AbortSignal | undefined;
  /** Answers the call; an error it throws becomes the error of the call. */
  answer: Answer;
}

export type Answer = (call: GrpcCall, message: Message) => Promise<void>;

export interface GrpcOptions extends AnswerOptions {
  gate: (call: CallHead) => Promise<void> | void;
  /** Admits a call whose request is complete to those in flight. Throws OVERLOADED. */
  enter: (method: DescMethod, values: ContextValues, connection: object) => void;
  /** The budget of incomplete requests. */
  requestBytes: ByteBudget;
  arrivals: Arrivals;
  begin: (call: {
    method: DescMethod;
    headers: IncomingHttpHeaders;
    values: ContextValues;
  }) => (outcome: CallOutcome) => void;
  /** Frees the place of a call among those in flight. */
  release: (values: ContextValues) => void;
  limits: { bodyTimeoutMs: number };
  /** Creates the one alarm of a call. */
  alarm: (call: GrpcCall) => Alarm;
}

export class GrpcCall extends GrpcContext implements StreamUser, Arriving {
  readonly #options: GrpcOptions;
  readonly #route: GrpcRoute;
  readonly #stream: ServerHttp2Stream;
  /** The owner of the bytes in the budgets. */
  readonly connection: object;
  readonly #finish: (outcome: CallOutcome) => void;
  readonly #deadline: GrpcDeadline;
  readonly #answer: GrpcAnswer;
  #namesDeadline = false;
  #request: RequestBytes | undefined;
  #arrival: Place | undefined;
  #hasArrived = false;
  #over = false;
  #whenOver: (() => void) | undefined;
  #onShutdown: (() => void) | undefined;

  constructor(options: GrpcOptions, route: GrpcRoute, stream: ServerHttp2Stream, headers: IncomingHttpHeaders) {
    super(route.method, stream, headers);
    this.#options = options;
    this.#route = route;
    this.#stream = stream;
    this.connection = stream.session ?? stream;
    this.#deadline = new GrpcDeadline(options.alarm(this));
    this.#answer = new GrpcAnswer(this, stream, this.connection, options);
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

  /** Whether the answer is written or the caller has disconnected: nothing is left to do. */
  get isOver(): boolean {
    return this.#over;
  }

  /** Calls back when the call is over; at once if it is. */
  whenOver(listener: () => void): void {
    if (this.#over) listener();
    else this.#whenOver = listener;
  }

  #read(): void {
    // The caller may have disconnected, or its time run out, during the lookup of its key.
    if (this.#over) return;
    this.#request = new RequestBytes(this.#options.requestBytes, this.connection);
    this.#arrival = this.#options.arrivals.enter(this);
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
    this.#arrival?.leave();
    this.#deadline.requestArrived();
    inTurn.run(workOwnerOf(this.values), () => this.#answerRequest());
  }

  /** Decodes it, which may take some milliseconds. */
  #answerRequest(): void {
    if (this.#over || this.#request === undefined) return;
    const body = this.#request.take();
    this.values.set(requestBytesKey, body.length);
    try {
      this.#options.enter(this.method, this.values, this.connection);
      this.#route.answer(this, messageIn(body, this.method)).catch((error: unknown) => this.fail(error));
    } catch (error) {
      this.fail(error);
    }
  }

  /** Sends some bytes of the answer; false: the reader falls behind, wait for `drained` before the next. */
  write(bytes: Buffer): boolean {
    return this.#over || this.#answer.write(bytes);
  }

  /** Resolves when all that was written has left, or when the call is over; ends the call if that takes too long. */
  drained(): Promise<void> {
    return this.#over ? Promise.resolve() : this.#answer.drained();
  }

  /** To be awaited before more is made of an answer that has so many bytes. Throws where there is no room for them. */
  more(bytes: number): Promise<void> | undefined {
    if (this.#over) throw callerLeft();
    this.#answer.reserve(bytes);
    return inTurn.enter(workOwnerOf(this.values), true);
  }

  /** Ends the call with the last pieces of its answer, if any. */
  end(pieces: readonly Buffer[] = []): void {
    if (this.#over) return;
    this.#answer.reserve(lengthOf(pieces));
    this.#conclude(undefined, pieces);
  }

  fail(error: unknown): void {
    if (!this.#over) this.#conclude(this.#options.present(error, this), []);
  }

  /** Ends the call with an error, and tells the implementation to stop. */
  stop(error: unknown): void {
    if (this.#over) return;
    this.abort(error);
    this.fail(error);
  }

  /** The alarm: the time is up for what the call waits for, which is its request, its answer or its reader. */
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

  /** The caller does not read the answer, and the stream is about to be reset. */
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

  #conclude(error: ConnectError | undefined, pieces: readonly Buffer[]): void {
    this.#leave();
    this.#answer.end(error, pieces);
  }

  #leave(): void {
    this.#over = true;
    this.#deadline.pause();
    this.#arrival?.leave();
    this.#request?.release();
    this.#whenOver?.();
    this.#answer.stopWaiting();
  }

  trailersWanted(): void {
    this.#answer.sendTrailers();
  }

  closed(): void {
    // Not before: an answer that nobody reads must not delay the shutdown either.
    if (this.#onShutdown !== undefined) this.#route.shutdownSignal?.removeEventListener("abort", this.#onShutdown);
    this.#deadline.end();
    this.#answer.close();
    if (this.#over) return;
    this.#leave();
    this.abort(toConnectError(callerLeft()));
    this.#answer.count({ code: "CANCELLED", reason: "CANCELLED" });
  }
}
