// The answer to a gRPC call on its HTTP/2 stream: headers, pieces, trailers. Each piece must be taken in time, what is
// written and not taken counts in a budget, and how the call ended is counted when its caller has the answer or is gone.
import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import type { ConnectError } from "@connectrpc/connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import type { CallOutcome } from "../interceptors/telemetry.ts";
import { type AnswerLimits, NOT_TAKEN, noteUnread, PIECE_BYTES, SMALL_BYTES } from "./answer-limits.ts";
import type { GrpcContext } from "./grpc-context.ts";
import { awaitTrailers } from "./grpc-stream.ts";
import { isEndedByCaller } from "./guard.ts";

/** The call that is answered. */
interface AnsweredCall extends Pick<GrpcContext, "method" | "requestId" | "addedHeader" | "addedTrailer"> {
  /** From now on its caller has this time to take what is written; then `giveUp` is called. */
  answerWithin(timeoutMs: number): void;
  /** Its caller does not read what is written: nothing more is. */
  notTaken(): void;
  /** Its place among those in flight is free. Called once. */
  ended(outcome: CallOutcome): void;
}

export interface AnswerOptions {
  answers: AnswerLimits;
  present: (error: unknown, call: { method: DescMethod; requestId: string }) => ConnectError;
  outcomeOf: (error: ConnectError | undefined) => CallOutcome;
}

const OK: OutgoingHttpHeaders = { "grpc-status": "0" };
const WITH_TRAILERS = { waitForTrailers: true };

const { NO_SIDE_EFFECTS } = MethodOptions_IdempotencyLevel;

export class GrpcAnswer {
  readonly #call: AnsweredCall;
  readonly #stream: ServerHttp2Stream;
  /** What bytes are counted for. */
  readonly #connection: object;
  readonly #options: AnswerOptions;
  /** Bytes in the budget. */
  #unread = 0;
  /** How the call ended, once the end is written and before it is taken. */
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

  /** Sends some bytes, the headers before the first; false: whoever reads has not kept up, wait for `drained` before the next. */
  write(bytes: Buffer): boolean {
    if (this.#stream.closed) return true;
    this.#respond();
    return this.#stream.write(bytes);
  }

  /** Resolves when what was written has left, or at `stopWaiting`: the call ends where that takes too long. */
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

  /** Counts the last bytes in the budget, before they are written. Throws OVERLOADED where there is no room and the call can be repeated. */
  reserve(bytes: number): void {
    if (bytes <= SMALL_BYTES) return;
    const { answers } = this.#options;
    if (this.#call.method.idempotency !== NO_SIDE_EFFECTS) answers.budget.add(this.#connection, bytes);
    else if (!answers.budget.take(this.#connection, bytes)) throw noteUnread(answers);
    this.#unread = bytes;
  }

  /** Sends the last bytes, if there are any, and how the call ended. */
  end(error: ConnectError | undefined, body: Buffer | undefined): void {
    const stream = this.#stream;
    const outcome = this.#options.outcomeOf(error);
    // One that its caller has reset without an error is closed first, and nothing can be sent on it either.
    if (stream.destroyed || stream.closed) return this.count(outcome);
    try {
      this.#send(error, body, outcome);
    } catch (failure) {
      // Such as a header of the handler's that HTTP does not allow.
      if (!isEndedByCaller(failure)) {
        this.#outcome = this.#options.outcomeOf(this.#options.present(failure, this.#call));
      }
      stream.destroy();
    }
  }

  /** The end of an answer whose last bytes have left. */
  sendTrailers(): void {
    const trailers = this.#trailers;
    if (trailers !== undefined && !this.#stream.closed) this.#stream.sendTrailers(trailers);
  }

  /** From now on, the time for the caller to take what is written. */
  takenWithin(timeoutMs: number): void {
    if (!this.#isCounted && !this.#stream.destroyed) this.#call.answerWithin(timeoutMs);
  }

  /** The stream is closed: the answer has been taken, or never will be. */
  close(): void {
    if (this.#unread > 0) this.#options.answers.budget.give(this.#connection, this.#unread);
    this.#unread = 0;
    if (this.#outcome !== undefined) this.count(this.#outcome);
  }

  /** Counts how the call ended; the first time is the one that counts. */
  count(outcome: CallOutcome): void {
    if (this.#isCounted) return;
    this.#isCounted = true;
    this.#call.ended(outcome);
  }

  #send(error: ConnectError | undefined, body: Buffer | undefined, outcome: CallOutcome): void {
    const stream = this.#stream;
    const { method, addedHeader } = this.#call;
    const trailers = this.#trailersFor(error);
    // A failure before the first message is one frame, but for headers that must stay apart from the status.
    if (body === undefined && !stream.headersSent && (method.methodKind === "unary" || !addedHeader)) {
      this.count(outcome);
      const headers = this.#headers();
      for (const [name, value] of Object.entries(trailers)) setHeader(headers, name, String(value));
      stream.respond(headers, { endStream: true });
      return;
    }
    this.#respond();
    this.#trailers = trailers;
    awaitTrailers(stream);
    // What its caller has not read yet holds its place: it ends when the stream closes.
    this.#outcome = outcome;
    this.#sendRest(body, 0);
  }

  #respond(): void {
    const stream = this.#stream;
    if (!stream.headersSent) stream.respond(this.#headers(), WITH_TRAILERS);
  }

  /** Names and values, in turn. */
  #headers(): string[] {
    const { requestId, method, addedHeader } = this.#call;
    const headers = [":status", "200", "content-type", "application/grpc+proto", "x-request-id", requestId];
    // nginx would keep what is streamed until it has some kilobytes.
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

  /** The last bytes piece by piece, each when the one before was taken; and the end. */
  #sendRest(body: Buffer | undefined, at: number): void {
    const stream = this.#stream;
    if (stream.destroyed || stream.closed) return;
    this.takenWithin(this.#options.answers.timeoutMs);
    const next = at + PIECE_BYTES;
    if (body === undefined) stream.end();
    else if (next >= body.length) stream.end(at === 0 ? body : body.subarray(at));
    else {
      stream.write(body.subarray(at, next));
      stream.once("drain", () => this.#sendRest(body, next));
    }
  }

  /** The caller does not read: not even the reason would reach it, so the stream is reset. */
  giveUp(): void {
    this.#options.answers.tally.note("answer_not_taken");
    this.#call.notTaken();
    this.#outcome = NOT_TAKEN;
    this.#stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  }
}

/** In a list of names and values: a name that is there gets the value instead of its own. */
function setHeader(headers: string[], name: string, value: string): void {
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i] !== name) continue;
    headers[i + 1] = value;
    return;
  }
  headers.push(name, value);
}
