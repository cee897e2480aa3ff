// The answers of unary calls that the library serves, as bytes that are made in turns of the event loop: the library makes
// those of a long one in one go, which may take a tenth of a second. It is given an empty message, and what it makes of that
// is replaced by these bytes.
import { Readable } from "node:stream";
import { createGzip } from "node:zlib";
import { create, type DescMethod, type JsonWriteOptions } from "@bufbuild/protobuf";
import { createContextKey, type Interceptor } from "@connectrpc/connect";
import { compressionNegotiate, createAsyncIterable, type UniversalServerResponse } from "@connectrpc/connect/protocol";
import { trailerFlag } from "@connectrpc/connect/protocol-grpc-web";
import { compressionGzip } from "@connectrpc/connect-node";
import { callerLeft } from "../domain/errors.ts";
import { type AnswerLimits, holdBytes, SMALL_BYTES } from "./answer-limits.ts";
import { type FrameEncoder, frameEncoder, PREFIX_BYTES } from "./encode.ts";
import { type JsonEncoder, jsonEncoder } from "./encode-json.ts";
import type { Protocol } from "./error-bodies.ts";
import { COMPRESSED, prefix, typeOf } from "./message-bytes.ts";
import { lengthOf, type More } from "./parts.ts";
import type { NodeResponse } from "./refusal.ts";

/** How the answer of a call is to be written; and its bytes, once they are made. */
export interface AnswerBytes {
  isJson: boolean;
  /** Counts so many bytes of it in the budget, those before included. Throws where there is no room, or nobody waits for it. */
  hold(bytes: number): void;
  /** To be awaited before it is made, and then before more of it is. */
  turn(isUnderWay?: boolean): Promise<void> | undefined;
  pieces?: readonly Uint8Array[];
}

/** Set for unary calls. */
export const answerBytesKey = createContextKey<AnswerBytes | undefined>(undefined, { description: "answerBytes" });

/** What is to be known of a call whose answer is made. */
interface AnsweredCall {
  method: DescMethod;
  contentType: string;
  limits: AnswerLimits;
  connection: object;
  isGone: () => boolean;
  turn: AnswerBytes["turn"];
}

/** The bytes are in the budget until the response closes. */
export function answerBytes(
  response: NodeResponse,
  { method, contentType, limits, connection, isGone, turn }: AnsweredCall,
): AnswerBytes {
  let unread = 0;
  response.once("close", () => limits.budget.give(connection, unread));
  return {
    isJson: typeOf(contentType).endsWith("json"),
    hold(bytes) {
      if (isGone()) throw callerLeft();
      if (bytes <= SMALL_BYTES) return;
      holdBytes(limits, connection, method, bytes - unread);
      unread = bytes;
    },
    turn,
  };
}

/** Shorter ones are not compressed: as the library has it. */
const COMPRESSED_FROM_BYTES = 1024;

/** Makes the bytes of each answer. */
export function answersInParts(jsonOptions: Partial<JsonWriteOptions>): Interceptor {
  const encoders = new Map<DescMethod, { json: JsonEncoder; binary: FrameEncoder }>();
  const encoderOf = (method: DescMethod) => {
    const known = encoders.get(method);
    if (known !== undefined) return known;
    const made = { json: jsonEncoder(method.output, jsonOptions), binary: frameEncoder(method.output) };
    encoders.set(method, made);
    return made;
  };
  return (next) => async (request) => {
    const response = await next(request);
    const answer = request.contextValues.get(answerBytesKey);
    if (response.stream || answer === undefined) return response;
    const { json, binary } = encoderOf(request.method);
    const more: More = (bytes) => {
      answer.hold(bytes);
      return answer.turn(true);
    };
    await answer.turn();
    const pieces = answer.isJson
      ? await json(response.message, more)
      : withoutPrefix(await binary.frame(response.message, more));
    answer.hold(lengthOf(pieces));
    answer.pieces = pieces;
    return { ...response, message: create(request.method.output) };
  };
}

const withoutPrefix = ([first, ...rest]: Buffer[]): Buffer[] =>
  first === undefined ? [] : [first.subarray(PREFIX_BYTES), ...rest];

/** The response with the pieces in place of the library's empty message; an error stays as it is. */
export async function withAnswer(
  response: UniversalServerResponse,
  pieces: readonly Uint8Array[],
  { protocol, acceptEncoding }: { protocol: Protocol; acceptEncoding: string | null },
): Promise<UniversalServerResponse> {
  const header = new Headers(response.header);
  if (protocol !== "connect") {
    return { ...response, body: withMessage(response, pieces, header.get("grpc-encoding") === "gzip") };
  }
  if (response.status !== 200) return response;
  const accepted = compressionNegotiate([compressionGzip], null, acceptEncoding, "accept-encoding").response;
  const packed = accepted === null ? undefined : await gzipped(pieces);
  if (packed !== undefined) header.set("content-encoding", compressionGzip.name);
  const body = packed ?? pieces;
  header.set("content-length", String(lengthOf(body)));
  return { ...response, header, body: createAsyncIterable([...body]) };
}

/** Of gRPC and gRPC-Web: the message is one envelope. Behind it, gRPC-Web has one of trailers. */
async function* withMessage({ body }: UniversalServerResponse, pieces: readonly Uint8Array[], isGzip: boolean) {
  for await (const envelope of body ?? []) {
    if (((envelope[0] ?? 0) & trailerFlag) !== 0) yield envelope;
    else {
      const packed = isGzip ? await gzipped(pieces) : undefined;
      const [first = new Uint8Array(), ...rest] = packed ?? pieces;
      yield Buffer.concat([prefix(packed === undefined ? 0 : COMPRESSED, lengthOf([first, ...rest])), first]);
      yield* rest;
    }
  }
}

/** Undefined where that is not worth it. */
async function gzipped(pieces: readonly Uint8Array[]): Promise<Uint8Array[] | undefined> {
  if (lengthOf(pieces) < COMPRESSED_FROM_BYTES) return undefined;
  const packed: Uint8Array[] = [];
  for await (const chunk of Readable.from(pieces).pipe(createGzip())) packed.push(chunk);
  return packed;
}
