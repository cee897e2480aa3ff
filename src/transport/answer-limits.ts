// What is written to callers who do not read is bounded: in time by a limit for each piece, in bytes by a budget.
import { constants } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { DomainError } from "../domain/errors.ts";
import type { ByteBudget } from "./byte-budget.ts";
import type { NodeResponse } from "./refusal.ts";
import type { Tally } from "./tally.ts";

const { NO_SIDE_EFFECTS } = MethodOptions_IdempotencyLevel;

export interface AnswerLimits {
  /** Time for a caller to take the next piece of an answer, in milliseconds; what is longer ends the call. */
  timeoutMs: number;
  /** Time for a caller to take the last word of a stream that the end of the process cuts off. */
  shutdownLingerMs: number;
  /** Bytes of answers that are not taken yet, of those larger than SMALL_BYTES. */
  budget: ByteBudget;
  tally: Tally;
}

/** What is given to a stream at once; the rest waits until that has left. */
export const PIECE_BYTES = 128 * 1024;
/** Smaller answers are refused to nobody: the number of calls bounds them. */
export const SMALL_BYTES = 64 * 1024;

/**
 * Counts so many more bytes of an answer that is made for the caller on the connection. Throws OVERLOADED where there is no
 * room and the call can be repeated.
 */
export function holdBytes(limits: AnswerLimits, connection: object, method: DescMethod, bytes: number): void {
  if (method.idempotency !== NO_SIDE_EFFECTS) limits.budget.add(connection, bytes);
  else if (!limits.budget.take(connection, bytes)) throw noteUnread(limits);
}

/** The refusal of a call for whose answer there is no room; counts it. */
export function noteUnread({ tally }: AnswerLimits): DomainError {
  tally.note("over_budget");
  return new DomainError(
    "OVERLOADED",
    "Answers that were not read yet hold the memory for this one: read them, and retry",
    { retry_after_ms: "500" },
  );
}

/** How a call ends whose caller does not take the answer. */
export const NOT_TAKEN = { code: "RESOURCE_EXHAUSTED", reason: "ANSWER_NOT_TAKEN" } as const;

/**
 * The body in pieces, each of which must be taken before the next is made; `giveUp` is called where one is not
 * taken in time. Taken means: the next is asked for, and for the last, that `whenOver` calls back.
 */
export async function* inTime(
  body: AsyncIterable<Uint8Array>,
  {
    limits,
    connection,
    giveUp,
    whenOver,
    shutdownSignal,
  }: {
    limits: AnswerLimits;
    connection: object;
    giveUp: () => void;
    whenOver: (listener: () => void) => void;
    shutdownSignal: AbortSignal | undefined;
  },
): AsyncGenerator<Uint8Array> {
  let timer: NodeJS.Timeout | undefined;
  let held = 0;
  const start = () => {
    clearTimeout(timer);
    timer = setTimeout(giveUp, limits.timeoutMs);
  };
  const hurry = () => {
    if (timer === undefined) return;
    clearTimeout(timer);
    timer = setTimeout(giveUp, limits.shutdownLingerMs);
  };
  const hold = (bytes: number) => {
    if (bytes - held !== 0) limits.budget.add(connection, bytes - held);
    held = bytes;
  };
  shutdownSignal?.addEventListener("abort", hurry);
  whenOver(() => {
    clearTimeout(timer);
    hold(0);
    shutdownSignal?.removeEventListener("abort", hurry);
  });
  for await (const chunk of body) {
    if (chunk.length > SMALL_BYTES) hold(chunk.length);
    for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
      start();
      yield chunk.length <= PIECE_BYTES ? chunk : chunk.subarray(at, at + PIECE_BYTES);
    }
    clearTimeout(timer);
    timer = undefined;
    hold(0);
  }
  // For the end itself, which waits behind what was written last.
  start();
}

/** For answers of one piece, once they are written. */
export function takenInTime(response: NodeResponse, limits: AnswerLimits): void {
  const timer = setTimeout(() => giveUp(response, limits), limits.timeoutMs).unref();
  response.once("close", () => clearTimeout(timer));
}

/** Resets the stream, or closes the connection: not even the reason would reach a caller who does not read. */
export function giveUp(response: NodeResponse, { tally }: AnswerLimits): void {
  tally.note("answer_not_taken");
  if ("stream" in response) response.stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  else response.destroy();
}
