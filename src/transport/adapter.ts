// How an HTTP request becomes a call. Our own small connectNodeAdapter, of the library's public parts: that one
// throws on a malformed authority (which ends the process), reads bodies for ever and lets its own errors pass.
import type { IncomingMessage, ServerResponse } from "node:http";
import { constants, type Http2ServerRequest, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import { type ConnectError, type ContextValues, createContextValues } from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";
import { codeToString, parseTimeout as parseConnectTimeout } from "@connectrpc/connect/protocol-connect";
import { findTrailerError, parseTimeout as parseGrpcTimeout } from "@connectrpc/connect/protocol-grpc";
import { universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import { DomainError } from "../domain/errors.ts";
import { namesField, reasonOf, toConnectError } from "../errors.ts";
import { admission } from "../interceptors/admission.ts";
import { connectionKey, peerKey, requestBytesKey, requestIdKey } from "../interceptors/call.ts";
import { presentable } from "../interceptors/errors.ts";
import { type CallOutcome, type Telemetry, telemetry } from "../interceptors/telemetry.ts";
import { type AnswerLimits, inTime, NOT_TAKEN, unreadAnswers } from "./answer-limits.ts";
import { type ByteBudget, byteBudget } from "./byte-budget.ts";
import { type Protocol, protocolOf, withPresentableErrors } from "./error-bodies.ts";
import { grpcPath } from "./grpc-call.ts";
import { createHandlers, type HandlerOptions, isStreamOfRequests } from "./handlers.ts";
import { withFewValues } from "./message-bytes.ts";
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
import { createTally } from "./tally.ts";

export type NodeRequest = IncomingMessage | Http2ServerRequest;
export type RequestHandler = (request: NodeRequest, response: NodeResponse) => void;

export interface Adapter {
  request: RequestHandler;
  /** Takes the HTTP/2 streams that it can serve faster, and says whether it did. */
  stream?: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean;
  /** Calls that are being answered. */
  inFlight(): number;
}

const MIN_REQUEST_BYTES = 16 * 1024 * 1024;
/** Of answers that their callers have not taken yet. */
const ANSWER_BYTES = { perConnection: 32 * 1024 * 1024, total: 96 * 1024 * 1024 };
const ANSWER_TIMEOUT_MS = 30_000;
const SHUTDOWN_LINGER_MS = 1_000;

/** Serves the services with health, reflection and GET /metrics, in gRPC, gRPC-Web and Connect, over HTTP/1.1 and HTTP/2. Never throws. */
export function createAdapter(options: HandlerOptions): Adapter {
  const { limits, log, metrics, present = presentable } = options;
  const calls = admission(limits);
  const watch = telemetry({ log, metrics });
  const { handlers, grpc, gate, enter, isOpen, limitsOf, methods } = createHandlers(options, calls.admit);
  const requestBytes = requestBudget(limits);
  const answers: AnswerLimits = {
    timeoutMs: options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS,
    shutdownLingerMs: SHUTDOWN_LINGER_MS,
    budget: byteBudget(ANSWER_BYTES),
    tally: options.tally ?? createTally({ log }),
  };
  const isEndless = (method: DescMethod | undefined) =>
    method !== undefined && limitsOf(method).shutdownSignal !== undefined;

  /** A place for a call whose request is complete, unless answers that are not read hold the memory for its own. */
  const enterIfRead = (method: DescMethod, values: ContextValues, connection: object) => {
    if (!isOpen(method) && answers.budget.isSpent(connection)) {
      answers.tally.note("over_budget");
      throw unreadAnswers();
    }
    enter(method, values);
  };

  function serveCall(path: string, request: NodeRequest, response: NodeResponse): void {
    const handler = handlers.get(path);
    const requestId = crypto.randomUUID();
    const limit = { expiresAt: performance.now() + limits.bodyTimeoutMs };
    const values = createContextValues()
      .set(requestIdKey, requestId)
      .set(peerKey, peerOf(request.socket))
      .set(bodyLimit, limit)
      .set(connectionKey, "stream" in request ? request.stream.session : request.socket);
    const end = begin(watch, handler?.method, isEndless(handler?.method), request, response, values, () =>
      calls.release(values),
    );
    response.setHeader("x-request-id", requestId);
    const refuse = (error: DomainError, status: number, protocol?: Protocol) => {
      const refusal = toConnectError(error);
      end(outcomeOf(refusal));
      if (status === 405) response.setHeader("allow", "POST");
      // A caller who expected a bidirectional stream over HTTP/1.1 may wait for ever on an open connection.
      if (status === 505) response.setHeader("connection", "close");
      if (options.bareRefusals) {
        response.statusCode = status;
        response.end();
      } else writeRefusal(response, { protocol, contentType }, refusal, status);
      takenInTime(response);
    };
    const contentType = request.headers["content-type"] ?? "";
    const protocol = request.method === "POST" ? protocolOf(contentType) : undefined;
    if (handler === undefined) return refuse(noSuchRpc(path, methods), 404, protocol);
    // Connect would serve reads by GET: the request, personal data included, would stand in the URL.
    if (request.method !== "POST") return refuse(notByGet(), 405);
    if (protocol === undefined) return refuse(noSuchType(), 415);
    // A stream of requests without a key takes its place with its headers, so that thousands that send nothing more hold
    // none; and one too many is refused before the library has made a call of it, which costs ten times as much.
    if (isOpen(handler.method) && isStreamOfRequests(handler.method)) {
      try {
        enter(handler.method, values);
      } catch (error) {
        return refuse(error as DomainError, 503, protocol);
      }
    }
    let call: UniversalServerRequest;
    try {
      call = universalRequestFromNodeRequest(request as never, response as never, undefined, values);
    } catch {
      // The :authority or Host is missing or none.
      return refuse(noAuthority(), 400, protocol);
    }
    capTimeout(call.header, limitsOf(handler.method).maxTimeoutMs);
    answer({ handler, call, protocol, limit, response, end, refuse }).catch((error: unknown) => {
      // What is written to a caller who has gone fails, and is nobody's fault.
      if (isGone(response)) return response.destroy();
      const presented = present(error, { method: handler.method, requestId, log });
      if (response.headersSent) return response.destroy();
      end(outcomeOf(presented));
      writeRefusal(response, { protocol, contentType }, presented);
      takenInTime(response);
    });
  }

  /** Not even the reason would reach a caller who does not read. */
  function giveUp(response: NodeResponse): void {
    answers.tally.note("answer_not_taken");
    if ("stream" in response) response.stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    else response.destroy();
  }

  /** For answers of one piece, once they are written. */
  function takenInTime(response: NodeResponse): void {
    const timer = setTimeout(() => giveUp(response), answers.timeoutMs).unref();
    response.once("close", () => clearTimeout(timer));
  }

  interface Answering {
    handler: UniversalHandler;
    call: UniversalServerRequest;
    protocol: Protocol;
    limit: BodyLimit;
    response: NodeResponse;
    end: (outcome: CallOutcome) => void;
    refuse: (error: DomainError, status: number) => void;
  }

  async function answer({ handler, call, protocol, limit, response, end, refuse }: Answering): Promise<void> {
    const { method } = handler;
    const one = method.methodKind === "unary" || method.methodKind === "server_streaming";
    const chunks = call.body as AsyncIterable<Uint8Array>;
    const values = call.contextValues as ContextValues;
    const connection = connectionOf(response);
    const reading = {
      readMaxBytes: limitsOf(method).readMaxBytes,
      enveloped: protocol !== "connect",
      budget: requestBytes,
      connection,
    };
    const whole = one
      ? wholeBody(chunks, limit, reading, (bytes) => {
          values.set(requestBytesKey, bytes);
          enterIfRead(method, values, connection);
        })
      : wholeMessages(bodyUntilAnswered(chunks, response), reading);
    const body = withFewValues(whole, {
      input: method.input,
      contentType: call.header.get("content-type") ?? "",
      encoding: call.header.get("content-encoding"),
      readMaxBytes: reading.readMaxBytes,
    });
    // The library's reason is what the reset's code may mean, such as INTERNAL: it would count as a defect of ours.
    const left = new AbortController();
    call.signal.addEventListener("abort", () => left.abort(callerGone()), { once: true });
    const answered = await handler({ ...call, body, signal: left.signal });
    if (answered.status === 415) return refuse(noSuchType(), 415);
    if (answered.status === 505) return refuse(needsHttp2(), 505);
    const requestId = values.get(requestIdKey);
    const presented = await withPresentableErrors(answered, protocol, {
      present: (error) => (isGone(response) ? callerGone() : present(error, { method, requestId, log })),
      ended: (error) => end(outcomeOf(error)),
    });
    if (method.methodKind !== "unary") response.setHeader("x-accel-buffering", "no");
    // Not where the caller may still be sending: connect-node leaves its half of a stream open whose answer ended with
    // its headers, and a process that has printed its error never ends.
    if (one && "stream" in response) endWithLastFrame(response.stream, presented);
    const taken = inTime(presented.body ?? nothing(), {
      limits: answers,
      connection,
      shutdownSignal: limitsOf(method).shutdownSignal,
      whenOver: (listener) => response.once("close", listener),
      giveUp() {
        end(NOT_TAKEN);
        giveUp(response);
      },
    });
    await universalResponseToNodeResponse({ ...presented, body: taken }, response as never);
  }

  const stream = grpcPath({
    routes: grpc,
    gate,
    enter: enterIfRead,
    requestBytes,
    answers,
    present: (error, call) => present(error, { ...call, log }),
    begin: ({ method, headers, values }) => {
      const { traceparent, "x-request-id": callerRequestId } = headers;
      return watch.begin({
        method: `${method.parent.typeName}/${method.name}`,
        isEndless: isEndless(method),
        protocol: "grpc",
        callerRequestId,
        traceparent: typeof traceparent === "string" ? traceparent : undefined,
        values,
      });
    },
    outcomeOf,
    release: calls.release,
    limits,
  });

  const request: RequestHandler = (request, response) => {
    // Without a listener, a connection that breaks at the wrong moment would end the process.
    request.on("error", () => {});
    response.on("error", () => {});
    const path = request.url?.split("?", 1)[0] ?? "";
    if (path === "/metrics" && request.method === "GET") {
      serveMetrics(watch, response);
      takenInTime(response);
    } else serveCall(path, request, response);
  };
  const { inFlight } = calls;
  return limits.unaryPath ? { request, stream, inFlight } : { request, inFlight };
}

/** A deadline over the maximum is as good as the maximum: the library would refuse it. */
function capTimeout(header: Headers, maxMs: number): void {
  const isOver = ({ error, timeoutMs }: { error?: unknown; timeoutMs?: number }) =>
    error !== undefined && timeoutMs !== undefined;
  if (isOver(parseGrpcTimeout(header.get("grpc-timeout"), maxMs))) header.set("grpc-timeout", `${maxMs}m`);
  if (isOver(parseConnectTimeout(header.get("connect-timeout-ms"), maxMs))) {
    header.set("connect-timeout-ms", String(maxMs));
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

/** For requests that are not complete: a few of the largest for one connection, several times that in all. */
function requestBudget({ maxBatchMessageBytes }: { maxBatchMessageBytes: number }): ByteBudget {
  return byteBudget({
    perConnection: Math.max(MIN_REQUEST_BYTES, 4 * maxBatchMessageBytes),
    total: 4 * Math.max(MIN_REQUEST_BYTES, 4 * maxBatchMessageBytes),
  });
}

/** Begins the telemetry of a call; the returned function notes its outcome, which counts once the response is written. */
function begin(
  watch: Telemetry,
  method: DescMethod | undefined,
  isEndless: boolean,
  request: NodeRequest,
  response: NodeResponse,
  values: ContextValues,
  done: () => void,
): (outcome: CallOutcome) => void {
  const traceparent = request.headers.traceparent;
  const finish = watch.begin({
    method: method && `${method.parent.typeName}/${method.name}`,
    isEndless,
    protocol: protocolOf(request.headers["content-type"] ?? "") ?? "http",
    traceparent: typeof traceparent === "string" ? traceparent : undefined,
    callerRequestId: request.headers["x-request-id"],
    values,
  });
  // A caller who goes away leaves a call without an outcome.
  let outcome: CallOutcome = { code: "CANCELLED", reason: "CANCELLED" };
  let open = true;
  const ended = () => {
    if (!open) return;
    open = false;
    done();
    finish(outcome);
  };
  response.once("finish", ended);
  response.once("close", ended);
  return (final) => {
    outcome = final;
  };
}

/**
 * Node would end every answer with an empty frame, a turn of the loop later, for trailers that may come. connect-go
 * gives up the rest of an oversized request as soon as it reads of the error: an answer that is still open then is
 * reset, because the request is shorter than it said it was, and the error is lost. So the last frame says that it
 * is the last; where a gRPC call fails before its first message, and without headers of its own, the only one.
 */
function endWithLastFrame(stream: ServerHttp2Stream, { header, trailer }: UniversalServerResponse): void {
  const { respond } = stream;
  stream.respond = (headers, options) => {
    const failed = trailer !== undefined && findTrailerError(trailer) !== undefined;
    if (failed && [...new Headers(header).keys()].every((name) => /^(content-type$|grpc-)/.test(name))) {
      respond.call(stream, { ...headers, ...Object.fromEntries(trailer) }, { endStream: true });
    } else {
      respond.call(stream, headers, { ...options, waitForTrailers: trailer !== undefined });
    }
  };
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

function serveMetrics(watch: Telemetry, response: NodeResponse): void {
  watch.metrics().then(
    ({ contentType, body }) => {
      response.setHeader("content-type", contentType);
      (response as ServerResponse).end(body);
    },
    () => {
      response.statusCode = 500;
      response.end();
    },
  );
}

function outcomeOf(error: ConnectError | undefined): CallOutcome {
  if (error === undefined) return { code: "OK" };
  const code = codeToString(error.code).toUpperCase();
  // The only code that gRPC spells otherwise.
  return {
    code: code === "CANCELED" ? "CANCELLED" : code,
    reason: reasonOf(error),
    isCallersFault: code === "INTERNAL" && namesField(error),
  };
}
