// How an HTTP request becomes a call. Our own small connectNodeAdapter, of the library's public parts: that one
// throws on a malformed authority (which ends the process), reads bodies for ever and lets its own errors pass.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse, IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import { type ConnectError, type ContextValues, createContextValues } from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";
import { codeToString, parseTimeout as parseConnectTimeout } from "@connectrpc/connect/protocol-connect";
import { findTrailerError, parseTimeout as parseGrpcTimeout } from "@connectrpc/connect/protocol-grpc";
import { universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import { reasonOf } from "../errors.ts";
import { admission } from "../interceptors/admission.ts";
import { connectionKey, peerKey, requestIdKey } from "../interceptors/call.ts";
import { presentable } from "../interceptors/errors.ts";
import { type Outcome, type Telemetry, telemetry } from "../interceptors/telemetry.ts";
import { type ByteBudget, byteBudget } from "./byte-budget.ts";
import { protocolOf, withPresentableErrors } from "./error-bodies.ts";
import { grpcPath } from "./grpc-call.ts";
import { createHandlers, type HandlerOptions } from "./handlers.ts";
import { withFewValues } from "./message-bytes.ts";
import { peerOf } from "./peer.ts";
import { type BodyLimit, bodyLimit, bodyUntilAnswered, wholeBody, wholeMessages } from "./request-body.ts";

export type NodeRequest = IncomingMessage | Http2ServerRequest;
export type NodeResponse = ServerResponse | Http2ServerResponse;
export type RequestHandler = (request: NodeRequest, response: NodeResponse) => void;

export interface Adapter {
  request: RequestHandler;
  /** Takes the HTTP/2 streams that it can serve faster, and says whether it did. */
  stream?: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean;
  /** Calls that are being answered. */
  inFlight(): number;
}

const MIN_REQUEST_BYTES = 16 * 1024 * 1024;

/** Serves the services with health, reflection and GET /metrics, in gRPC, gRPC-Web and Connect, over HTTP/1.1 and HTTP/2. Never throws. */
export function createAdapter(options: HandlerOptions): Adapter {
  const { limits, log, metrics, present = presentable } = options;
  const calls = admission(limits);
  const watch = telemetry({ log, metrics });
  const { handlers, grpc, gate, enter, limitsOf } = createHandlers(options, calls.admit);
  const requestBytes = requestBudget(limits);

  function serveCall(handler: UniversalHandler | undefined, request: NodeRequest, response: NodeResponse): void {
    const requestId = crypto.randomUUID();
    const limit = { expiresAt: performance.now() + limits.bodyTimeoutMs };
    const values = createContextValues()
      .set(requestIdKey, requestId)
      .set(peerKey, peerOf(request.socket))
      .set(bodyLimit, limit)
      .set(connectionKey, "stream" in request ? request.stream.session : request.socket);
    const end = begin(watch, handler?.method, request, response, values, () => calls.release(values));
    response.setHeader("x-request-id", requestId);
    if (handler === undefined) {
      refuse(response, 404, end);
      return;
    }
    // Connect would serve reads by GET: the request, personal data included, would stand in the URL.
    if (request.method !== "POST") {
      refuse(response, 405, end);
      return;
    }
    let call: UniversalServerRequest;
    try {
      call = universalRequestFromNodeRequest(request as never, response as never, undefined, values);
    } catch {
      // The :authority or Host is missing or none.
      refuse(response, 400, end);
      return;
    }
    capTimeout(call.header, limitsOf(handler.method).maxTimeoutMs);
    answer(handler, call, limit, response, end).catch((error: unknown) => {
      present(error, { method: handler.method, requestId, log });
      if (response.headersSent) response.destroy();
      else refuse(response, 500, end);
    });
  }

  async function answer(
    handler: UniversalHandler,
    call: UniversalServerRequest,
    limit: BodyLimit,
    response: NodeResponse,
    end: (outcome: Outcome) => void,
  ): Promise<void> {
    const { method } = handler;
    const one = method.methodKind === "unary" || method.methodKind === "server_streaming";
    const chunks = call.body as AsyncIterable<Uint8Array>;
    const protocol = protocolOf(call.header.get("content-type") ?? "");
    const values = call.contextValues as ContextValues;
    const reading = {
      readMaxBytes: limitsOf(method).readMaxBytes,
      enveloped: protocol !== "connect",
      budget: requestBytes,
      connection: connectionOf(response),
    };
    const whole = one
      ? wholeBody(chunks, limit, reading, () => enter(method, values))
      : wholeMessages(bodyUntilAnswered(chunks, response), reading);
    const body = withFewValues(whole, {
      input: method.input,
      contentType: call.header.get("content-type") ?? "",
      encoding: call.header.get("content-encoding"),
      readMaxBytes: reading.readMaxBytes,
    });
    const answered = await handler({ ...call, body });
    if (protocol === undefined || answered.body === undefined) return refuse(response, answered.status, end);
    const requestId = values.get(requestIdKey);
    const presented = await withPresentableErrors(answered, protocol, {
      present: (error) => present(error, { method, requestId, log }),
      ended: (error) => end(outcomeOf(error)),
    });
    // Not where the caller may still be sending: connect-node leaves its half of a stream open whose answer ended with
    // its headers, and a process that has printed its error never ends.
    if (one && "stream" in response) endWithLastFrame(response.stream, presented);
    await universalResponseToNodeResponse(presented, response as never);
  }

  const stream = grpcPath({
    routes: grpc,
    gate,
    enter,
    requestBytes,
    present: (error, call) => present(error, { ...call, log }),
    begin: ({ method, headers, values }) => {
      const { traceparent } = headers;
      return watch.begin({
        method: `${method.parent.typeName}/${method.name}`,
        protocol: "grpc",
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
    if (path === "/metrics" && request.method === "GET") serveMetrics(watch, response);
    else serveCall(handlers.get(path), request, response);
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
  request: NodeRequest,
  response: NodeResponse,
  values: ContextValues,
  done: () => void,
): (outcome: Outcome) => void {
  const traceparent = request.headers.traceparent;
  const finish = watch.begin({
    method: method && `${method.parent.typeName}/${method.name}`,
    protocol: protocolOf(request.headers["content-type"] ?? "") ?? "http",
    traceparent: typeof traceparent === "string" ? traceparent : undefined,
    values,
  });
  // A caller who goes away leaves a call without an outcome.
  let outcome: Outcome = { code: "CANCELLED", reason: "CANCELLED" };
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

/** Answers of HTTP alone: no protocol is spoken yet in which an error could have our shape. Clients read 404 as UNIMPLEMENTED. */
function refuse(response: NodeResponse, status: number, end: (outcome: Outcome) => void): void {
  end({
    code: status === 404 ? "UNIMPLEMENTED" : status === 500 ? "INTERNAL" : "INVALID_ARGUMENT",
    reason: `HTTP_${status}`,
  });
  response.statusCode = status;
  if (status === 405) response.setHeader("allow", "POST");
  // A caller who expected a bidirectional stream over HTTP/1.1 may wait for ever on an open connection.
  if (status === 505) response.setHeader("connection", "close");
  response.end();
}

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

function outcomeOf(error: ConnectError | undefined): Outcome {
  if (error === undefined) return { code: "OK" };
  const code = codeToString(error.code).toUpperCase();
  // The only code that gRPC spells otherwise.
  return { code: code === "CANCELED" ? "CANCELLED" : code, reason: reasonOf(error) };
}
