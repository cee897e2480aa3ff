// The answer to a gRPC call on its HTTP/2 stream: headers, pieces, trailers. The caller must read each piece in time. Unread
// bytes count in a budget. The outcome of the call is counted when its caller has the answer or has disconnected.
import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import type { CallOutcome } from "../interceptors/telemetry.ts";
import { type AnswerLimits, holdBytes, NOT_TAKEN, SMALL_BYTES } from "./answer-limits.ts";
import type { GrpcContext } from "./grpc-context.ts";
import { awaitTrailers } from "./grpc-stream.ts";
import { isEndedByCaller } from "./guard.ts";

/** The call that is answered. */
interface AnsweredCall extends Pick<GrpcContext, "method" | "requestId" | "addedHeader" | "addedTrailer"> {
  /** Starts the time in which the caller must read what is written; then `giveUp` is called. */
  answerWithin(timeoutMs: number): void;
  /** The caller does not read the answer: nothing more is written. */
  notTaken(): void;
  /** Frees the call's place among those in flight. Called once. */
  ended(outcome: CallOutcome): void;
}

export interface AnswerOptions {
  answers: AnswerLimits;
  present: (error: unknown, call: { method: DescMethod; requestId: string }) => ConnectError;
  outcomeOf: (error: ConnectError | undefined) => CallOutcome;
}

const OK: OutgoingHttpHeaders = { "grpc-status": "0" };
const WITH_TRAILERS = { waitForTrailers: true };

export class GrpcAnswer {
  readonly #call: AnsweredCall;
  readonly #stream: ServerHttp2Stream;
  /** The owner of the bytes in the budgets. */
  readonly #connection: object;
  readonly #options: AnswerOptions;
  /** Bytes in the budget. */
  #unread = 0;
  /** The outcome, while the end is written and not yet read. */
  #outcome: CallOutcome | undefined;
  #isCounted = false;
  #trailers: OutgoingHttpHeaders | undefined;
  #wake: (() => void) | undefined;

  constructor(call: AnsweredCall, stream: ServerHttp2Stream, connection: object, options: AnswerOptions) {
    this.#call = call;
    this.#stream = stream;
    this.#connection = connection;
    this.#options = options;
  }

  /** Sends some bytes, preceded by the headers the first time; false: the reader falls behind, wait for `drained` before the next. */
  write(bytes: Buffer): boolean {
    if (this.#stream.closed) return true;
    this.#respond();
    return this.#stream.write(bytes);
  }

  /** Resolves when all that was written has left, or at `stopWaiting`; ends the call if that takes too long. */
  drained(): Promise<void> {
    const stream = this.#stream;
    const { promise, resolve } = Promise.withResolvers<void>();
    if (!stream.writableNeedDrain) resolve();
    else {
      const limit = setTimeout(() => this.giveUp(), this.#options.answers.timeoutMs);
      const taken = () => {
        clearTimeout(limit);
        resolve();
      };
      this.#wake = taken;
      stream.once("drain", taken);
    }
    return promise;
  }

  stopWaiting(): void {
    this.#wake?.();
  }

  /**
   * Counts so many bytes of the answer in the budget, those before included, before they are written. Throws OVERLOADED if
   * there is no room and the call can be repeated.
   */
  reserve(bytes: number): void {
    if (bytes <= SMALL_BYTES) return;
    holdBytes(this.#options.answers, this.#connection, this.#call.method, bytes - this.#unread);
    this.#unread = bytes;
  }

  /** Sends the last pieces, if there are any, and how the call ended. */
  end(error: ConnectError | undefined, body: readonly Buffer[]): void {
    const stream = this.#stream;
    const outcome = this.#options.outcomeOf(error);
    // A stream that its caller reset without an error is closed and not yet destroyed; nothing can be sent on it either.
    if (stream.destroyed || stream.closed) return this.count(outcome);
    try {
      this.#send(error, body, outcome);
    } catch (failure) {
      // For example, the handler has set a header that HTTP does not allow.
      if (!isEndedByCaller(failure)) {
        this.#outcome = this.#options.outcomeOf(this.#options.present(failure, this.#call));
      }
      stream.destroy();
    }
  }

  /** Ends an answer whose last bytes have left. */
  sendTrailers(): void {
    const trailers = this.#trailers;
    if (trailers !== undefined && !this.#stream.closed) this.#stream.sendTrailers(trailers);
  }

  /** Starts the time in which the caller must read what is written, in milliseconds. */
  takenWithin(timeoutMs: number): void {
    if (!this.#isCounted && !this.#stream.destroyed) this.#call.answerWithin(timeoutMs);
  }

  /** The stream is closed: the caller has the answer, or never will. */
  close(): void {
    if (this.#unread > 0) this.#options.answers.budget.give(this.#connection, this.#unread);
    this.#unread = 0;
    if (this.#outcome !== undefined) this.count(this.#outcome);
  }

  /** Counts the outcome; only the first call has an effect. */
  count(outcome: CallOutcome): void {
    if (this.#isCounted) return;
    this.#isCounted = true;
    this.#call.ended(outcome);
  }

  #send(error: ConnectError | undefined, body: readonly Buffer[], outcome: CallOutcome): void {
    const stream = this.#stream;
    const { method, addedHeader } = this.#call;
    const trailers = this.#trailersFor(error);
    // A failure before the first message is one frame, except where the handler's headers must stay apart from the status.
    if (body.length === 0 && !stream.headersSent && (method.methodKind === "unary" || !addedHeader)) {
      this.count(outcome);
      const headers = this.#headers();
      for (const [name, value] of Object.entries(trailers)) setHeader(headers, name, String(value));
      stream.respond(headers, { endStream: true });
      return;
    }
    this.#respond();
    this.#trailers = trailers;
    awaitTrailers(stream);
    // The call keeps its place until its caller has read the answer: until the stream closes.
    this.#outcome = outcome;
    this.#sendRest(body, 0);
  }

  #respond(): void {
    const stream = this.#stream;
    if (!stream.headersSent) stream.respond(this.#headers(), WITH_TRAILERS);
  }

  /** Names and values, alternating. */
  #headers(): string[] {
    const { requestId, method, addedHeader } = this.#call;
    const headers = [":status", "200", "content-type", "application/grpc+proto", "x-request-id", requestId];
    // nginx would buffer the stream.
    if (method.methodKind !== "unary") headers.push("x-accel-buffering", "no");
    addedHeader?.forEach((value, name) => setHeader(headers, name, value));
    return headers;
  }

  #trailersFor(error: ConnectError | undefined): OutgoingHttpHeaders {
    if (error === undefined && this.#call.addedTrailer === undefined) return OK;
    const trailers: OutgoingHttpHeaders = { "grpc-status": "0" };
    this.#call.addedTrailer?.forEach((value, name) => {
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

  /** Sends the last pieces, each after the one before has left, and the end. */
  #sendRest(pieces: readonly Buffer[], at: number): void {
    const stream = this.#stream;
    if (stream.destroyed || stream.closed) return;
    this.takenWithin(this.#options.answers.timeoutMs);
    const piece = pieces[at];
    if (piece === undefined) stream.end();
    else if (at === pieces.length - 1) stream.end(piece);
    else if (stream.write(piece)) this.#sendRest(pieces, at + 1);
    else stream.once("drain", () => this.#sendRest(pieces, at + 1));
  }

  /** Resets the stream of a caller that does not read: a reason would not reach it either. */
  giveUp(): void {
    this.#options.answers.tally.note("answer_not_taken");
    this.#call.notTaken();
    this.#outcome = NOT_TAKEN;
    this.#stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  }
}

/** Sets the value of a name in a list of alternating names and values. */
function setHeader(headers: string[], name: string, value: string): void {
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i] !== name) continue;
    headers[i + 1] = value;
    return;
  }
  headers.push(name, value);
}
