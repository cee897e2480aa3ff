// The path of all that grpc-path.ts leaves alone: HTTP/1.1, gRPC-Web, Connect, compression, streams of requests. The
// library's handlers answer; our own small connectNodeAdapter, of the library's public parts, stands around them: theirs
// throws on a malformed authority (which ends the process), reads bodies for ever and lets its own errors pass.
import { randomUUID } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import type { DescMethod, Message } from "@bufbuild/protobuf";
import { type ContextValues, createContextValues } from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest } from "@connectrpc/connect/protocol";
import { universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import type { Logger } from "pino";
import { DomainError } from "../domain/errors.ts";
import { toConnectError } from "../errors.ts";
import { inTurn } from "../in-turn.ts";
import { connectionKey, peerKey, requestBytesKey, requestIdKey, workOwnerOf } from "../interceptors/call.ts";
import type { Present } from "../interceptors/errors.ts";
import type { CallOutcome } from "../interceptors/telemetry.ts";
import type { Slots } from "../slots.ts";
import { type AnswerBytes, answerBytes, answerBytesKey, withAnswer } from "./answer-bytes.ts";
import { type AnswerLimits, giveUp, inTime, NOT_TAKEN, takenInTime } from "./answer-limits.ts";
import type { Arrivals, Arriving } from "./arrivals.ts";
import type { ByteBudget } from "./byte-budget.ts";
import { type CallTelemetry, outcomeOf } from "./call-telemetry.ts";
import { type Protocol, protocolOf, withPresentableErrors } from "./error-bodies.ts";
import { isStreamOfRequests, type Served } from "./handlers.ts";
import { endWithLastFrame } from "./last-frame.ts";
import { emptyMessages, typeOf } from "./message-bytes.ts";
import { peerOf } from "./peer.ts";
import {
  type NodeResponse,
  needsHttp2,
  noAuthority,
  noSuchRpc,
  noSuchType,
  notByGet,
  writeRefusal,
} from "./refusal.ts";
import { type BodyLimit, bodyLimit, bodyUntilAnswered, wholeBody, wholeMessages } from "./request-body.ts";
import { capTimeout, forgetLength, isGzipped } from "./request-headers.ts";
import { decodedKey } from "./request-messages.ts";

export type NodeRequest = IncomingMessage | Http2ServerRequest;

export interface LibraryOptions {
  served: Pick<Served, "handlers" | "enter" | "isOpen" | "limitsOf" | "decoderOf" | "methods">;
  /** `enter` of `served` for a request that is complete. Throws OVERLOADED where unread answers hold the memory, too. */
  enterComplete: (method: DescMethod, values: ContextValues, connection: object) => void;
  /** A call ends its place among those in flight. */
  release: (values: ContextValues) => void;
  /** Where the bytes of incomplete requests are counted. */
  requestBytes: ByteBudget;
  arrivals: Arrivals;
  /** Where compressed messages wait to be unpacked. */
  unpacking: Slots;
  answers: AnswerLimits;
  begin: CallTelemetry["begin"];
  present: Present;
  log: Logger;
  bodyTimeoutMs: number;
  /** See HandlerOptions. */
  bareRefusals?: boolean | undefined;
}

/** Serves a call, or refuses what is none. Never throws. */
export function libraryPath(
  options: LibraryOptions,
): (path: string, request: NodeRequest, response: NodeResponse) => void {
  return (path, request, response) => new LibraryCall(options, path, request, response).serve();
}

class LibraryCall implements Arriving {
  readonly #options: LibraryOptions;
  readonly #path: string;
  readonly #request: NodeRequest;
  readonly #response: NodeResponse;
  readonly connection: object;
  readonly #handler: UniversalHandler | undefined;
  readonly #contentType: string;
  /** Undefined where none is named that is served. */
  readonly #protocol: Protocol | undefined;
  readonly #requestId = randomUUID();
  readonly #values: ContextValues;
  readonly #limit: BodyLimit;
  /** Notes how the call ends. */
  readonly #end: (outcome: CallOutcome) => void;
  #isRefused = false;

  constructor(options: LibraryOptions, path: string, request: NodeRequest, response: NodeResponse) {
    this.#options = options;
    this.#path = path;
    this.#request = request;
    this.#response = response;
    this.connection = connectionOf(response);
    this.#handler = options.served.handlers.get(path);
    this.#contentType = request.headers["content-type"] ?? "";
    this.#limit = { expiresAt: performance.now() + options.bodyTimeoutMs };
    const values = createContextValues()
      .set(requestIdKey, this.#requestId)
      .set(peerKey, peerOf(request.socket))
      .set(bodyLimit, this.#limit)
      .set(connectionKey, "stream" in request ? request.stream.session : request.socket);
    this.#values = values;
    const protocol = protocolOf(this.#contentType);
    this.#protocol = request.method === "POST" ? protocol : undefined;
    this.#end = options.begin(
      { method: this.#handler?.method, headers: request.headers, values, protocol: protocol ?? "http" },
      response,
      () => options.release(values),
    );
  }

  serve(): void {
    const { served } = this.#options;
    const handler = this.#handler;
    const protocol = this.#protocol;
    this.#response.setHeader("x-request-id", this.#requestId);
    if (handler === undefined) return this.#refuse(noSuchRpc(this.#path, served.methods), 404, protocol);
    // Connect would serve reads by GET: the request, personal data included, would stand in the URL.
    if (this.#request.method !== "POST") return this.#refuse(notByGet(), 405);
    if (protocol === undefined) return this.#refuse(noSuchType(), 415);
    // A stream of requests without a key takes its place with its headers, so that thousands that send nothing more hold
    // none; and one too many is refused before the library has made a call of it, which costs ten times as much.
    if (served.isOpen(handler.method) && isStreamOfRequests(handler.method)) {
      try {
        served.enter(handler.method, this.#values);
      } catch (error) {
        return this.#refuse(error as DomainError, 503, protocol);
      }
    }
    let call: UniversalServerRequest;
    try {
      call = universalRequestFromNodeRequest(this.#request as never, this.#response as never, undefined, this.#values);
    } catch {
      // The :authority or Host is missing or none.
      return this.#refuse(noAuthority(), 400, protocol);
    }
    capTimeout(call.header, served.limitsOf(handler.method).maxTimeoutMs);
    this.#answer(handler, call, protocol).catch((error: unknown) => this.#fail(error, handler.method));
  }

  async #answer(handler: UniversalHandler, call: UniversalServerRequest, protocol: Protocol): Promise<void> {
    const { method } = handler;
    const { served, present, log } = this.#options;
    const response = this.#response;
    const body = this.#bodyOf(call, method);
    // The library's reason is what the reset's code may mean, such as INTERNAL: it would count as a defect of ours.
    const left = new AbortController();
    call.signal.addEventListener("abort", () => left.abort(callerGone()), { once: true });
    const answer = method.methodKind === "unary" ? this.#answerBytes(method) : undefined;
    this.#values.set(answerBytesKey, answer);
    const answered = await handler({ ...call, body, signal: left.signal });
    if (answered.status === 415) return this.#refuse(noSuchType(), 415);
    if (answered.status === 505) return this.#refuse(needsHttp2(), 505);
    const errorsPresented = await withPresentableErrors(answered, protocol, {
      present: (error) =>
        isGone(response) ? callerGone() : present(error, { method, requestId: this.#requestId, log }),
      ended: (error) => this.#end(outcomeOf(error)),
    });
    const pieces = answer?.pieces;
    const acceptEncoding = call.header.get("accept-encoding");
    const presented =
      pieces === undefined ? errorsPresented : await withAnswer(errorsPresented, pieces, { protocol, acceptEncoding });
    if (method.methodKind !== "unary") response.setHeader("x-accel-buffering", "no");
    // Not where the caller may still be sending: connect-node leaves its half of a stream open whose answer ended with
    // its headers, and a process that has printed its error never ends.
    if (!isStreamOfRequests(method) && "stream" in response) endWithLastFrame(response.stream, presented);
    const taken = inTime(presented.body ?? nothing(), {
      limits: this.#options.answers,
      connection: this.connection,
      shutdownSignal: served.limitsOf(method).shutdownSignal,
      whenOver: (listener) => response.once("close", listener),
      giveUp: () => {
        this.#end(NOT_TAKEN);
        giveUp(response, this.#options.answers);
      },
    });
    await universalResponseToNodeResponse({ ...presented, body: taken }, response as never);
  }

  #answerBytes(method: DescMethod): AnswerBytes {
    return answerBytes(this.#response, {
      method,
      contentType: this.#contentType,
      limits: this.#options.answers,
      connection: this.connection,
      isGone: () => isGone(this.#response),
      turn: (isUnderWay) => inTurn.enter(workOwnerOf(this.#values), isUnderWay),
    });
  }

  /** The request as the library reads it: within its limits of time and bytes, and decoded before. */
  #bodyOf(call: UniversalServerRequest, method: DescMethod): AsyncIterable<Uint8Array> {
    const { served, enterComplete, requestBytes, arrivals, unpacking } = this.#options;
    const chunks = call.body as AsyncIterable<Uint8Array>;
    const { connection } = this;
    const { readMaxBytes } = served.limitsOf(method);
    const reading = { readMaxBytes, enveloped: this.#protocol !== "connect", budget: requestBytes, connection };
    const arrival = arrivals.enter(this);
    this.#response.once("close", () => arrival.leave());
    const whole = isStreamOfRequests(method)
      ? wholeMessages(bodyUntilAnswered(chunks, this.#response), reading)
      : wholeBody(chunks, this.#limit, reading, (bytes) => {
          arrival.leave();
          this.#values.set(requestBytesKey, bytes);
          enterComplete(method, this.#values, connection);
        });
    const complete = isStreamOfRequests(method) ? each(whole, () => arrival.leave()) : whole;
    const decode = served.decoderOf(method, typeOf(this.#contentType).endsWith("json"));
    const decoded: Message[] = [];
    if (this.#protocol === "connect") forgetLength(call.header, readMaxBytes);
    this.#values.set(decodedKey, decoded);
    return emptyMessages(complete, {
      contentType: this.#contentType,
      decode: (bytes) => decoded.push(decode(bytes)),
      isGzip: isGzipped(call.header, this.#protocol),
      readMaxBytes,
      turn: () => inTurn.enter(workOwnerOf(this.#values)),
      unpacking: (work) => unpacking({ organization: workOwnerOf(this.#values) }, work),
    });
  }

  fail(error: DomainError): void {
    if (this.#handler === undefined || this.#isRefused) return;
    this.#fail(error, this.#handler.method);
    // What the library throws when it finds no more of the request is no news.
    this.#isRefused = true;
  }

  /** Without a protocol the refusal is plain JSON. */
  #refuse(error: DomainError, status: number, protocol?: Protocol): void {
    const response = this.#response;
    const refusal = toConnectError(error);
    this.#end(outcomeOf(refusal));
    if (status === 405) response.setHeader("allow", "POST");
    // A caller who expected a bidirectional stream over HTTP/1.1 may wait for ever on an open connection.
    if (status === 505) response.setHeader("connection", "close");
    if (this.#options.bareRefusals) {
      response.statusCode = status;
      response.end();
    } else writeRefusal(response, { protocol, contentType: this.#contentType }, refusal, status);
    takenInTime(response, this.#options.answers);
  }

  /** What the library or a body throws, once the call is under way. */
  #fail(error: unknown, method: DescMethod): void {
    if (this.#isRefused) return;
    const response = this.#response;
    const { present, log, answers } = this.#options;
    // What is written to a caller who has gone fails, and is nobody's fault.
    if (isGone(response)) return void response.destroy();
    const presented = present(error, { method, requestId: this.#requestId, log });
    if (response.headersSent) return void response.destroy();
    this.#end(outcomeOf(presented));
    writeRefusal(response, { protocol: this.#protocol, contentType: this.#contentType }, presented);
    takenInTime(response, answers);
  }
}

const isGone = (response: NodeResponse): boolean =>
  "stream" in response
    ? response.stream.closed || response.stream.destroyed
    : response.destroyed || response.socket?.destroyed === true;

const callerGone = () => toConnectError(new DomainError("CANCELLED", "The caller went away before the answer"));

/** What of a connection stays the same for all its calls. */
const connectionOf = (response: NodeResponse): object =>
  ("stream" in response ? response.stream.session : response.socket) ?? response;

async function* each<T>(items: AsyncIterable<T>, came: () => void): AsyncGenerator<T> {
  for await (const item of items) {
    came();
    yield item;
  }
}

async function* nothing(): AsyncGenerator<Uint8Array> {}
