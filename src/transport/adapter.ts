// How an HTTP request becomes a call. Our own small connectNodeAdapter, of the library's public parts: that one
// throws on a malformed authority (which ends the process), reads bodies for ever and lets its own errors pass.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import {
  type ConnectError,
  type ContextValues,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type HandlerContext,
  type MethodImpl,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { UniversalHandler, UniversalHandlerOptions } from "@connectrpc/connect/protocol";
import { codeToString, parseTimeout as parseConnectTimeout } from "@connectrpc/connect/protocol-connect";
import { parseTimeout as parseGrpcTimeout } from "@connectrpc/connect/protocol-grpc";
import {
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";
import type { Logger } from "pino";
import { Health } from "../../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../clients/typescript/gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../clients/typescript/gen/grpc/reflection/v1alpha/reflection_pb.ts";
import type { Config } from "../config.ts";
import { DomainError } from "../domain/errors.ts";
import { reasonOf } from "../errors.ts";
import { admission } from "../interceptors/admission.ts";
import { requestIdKey } from "../interceptors/call.ts";
import { credentials, type FindCaller } from "../interceptors/credentials.ts";
import { deadline, messageIdleLimit } from "../interceptors/deadline.ts";
import { errors, presentable } from "../interceptors/errors.ts";
import { type Outcome, type Telemetry, telemetry } from "../interceptors/telemetry.ts";
import { protocolOf, withPresentableErrors } from "./error-bodies.ts";
import { health, type Readiness, shuttingDown } from "./health.ts";
import { reflection } from "./reflection.ts";
import { type BodyLimit, bodyWithin } from "./request-body.ts";

export type NodeRequest = IncomingMessage | Http2ServerRequest;
export type NodeResponse = ServerResponse | Http2ServerResponse;
export type RequestHandler = (request: NodeRequest, response: NodeResponse) => void;

export interface AdapterOptions {
  /** Registers the services; their names are known to health and reflection. */
  services(router: ServiceRouter): void;
  findCaller: FindCaller;
  readiness: Readiness;
  /** Ends the streams of `endless` and health's watches; calls with an end of their own are left to it. */
  shutdownSignal: AbortSignal;
  /** RPCs whose messages may have maxBatchMessageBytes: batches, imports. */
  large?: Iterable<DescMethod>;
  /** Streams that have no end of their own. */
  endless?: Iterable<DescMethod>;
  limits: Pick<
    Config,
    | "maxInFlight"
    | "maxMessageBytes"
    | "maxBatchMessageBytes"
    | "defaultTimeoutMs"
    | "maxTimeoutMs"
    | "bodyTimeoutMs"
    | "streamIdleTimeoutMs"
  >;
  log: Logger;
}

/** What of a ConnectRouter the service uses. */
export interface ServiceRouter {
  service<T extends DescService>(service: T, implementation: Partial<ServiceImpl<T>>): void;
}

const OPEN = [Health, ServerReflection, ServerReflectionAlpha];
/** A page of 1000 entities with full attributes is larger than any request. */
const WRITE_MAX_BYTES = 64 * 1024 * 1024;
/** The longest deadline that the caller of a stream may name: imports and watches outlive a unary call. */
const MAX_STREAM_TIMEOUT_MS = 3_600_000;

const TIMER_MAX_MS = 2 ** 31 - 1;

const bodyLimit = createContextKey<BodyLimit | undefined>(undefined, { description: "bodyLimit" });

/** Serves the services with health, reflection and GET /metrics, in gRPC, gRPC-Web and Connect, over HTTP/1.1 and HTTP/2. Never throws. */
export function createAdapter(options: AdapterOptions): RequestHandler {
  const { limits, log } = options;
  const calls = admission(limits.maxInFlight);
  const watch = telemetry({ log });
  const handlers = createHandlers(options, calls.admit);

  function serveCall(handler: UniversalHandler | undefined, request: NodeRequest, response: NodeResponse): void {
    const requestId = crypto.randomUUID();
    const limit = { expiresAt: performance.now() + limits.bodyTimeoutMs };
    const values = createContextValues().set(requestIdKey, requestId).set(bodyLimit, limit);
    const end = begin(watch, handler?.method, request, response, values, () => calls.release(values));
    response.setHeader("x-request-id", requestId);
    if (handler === undefined) return refuse(response, 404, end);
    // Connect would serve reads by GET: the request, personal data included, would stand in the URL.
    if (request.method !== "POST") return refuse(response, 405, end);
    let call: ReturnType<typeof universalRequestFromNodeRequest>;
    try {
      call = universalRequestFromNodeRequest(request as never, response as never, undefined, values);
    } catch {
      // The :authority or Host is missing or none.
      return refuse(response, 400, end);
    }
    capTimeout(call.header);
    answer(handler, call, limit, response, end).catch((error: unknown) => {
      presentable(error, { method: handler.method, requestId, log });
      if (response.headersSent) response.destroy();
      else refuse(response, 500, end);
    });
  }

  async function answer(
    handler: UniversalHandler,
    call: ReturnType<typeof universalRequestFromNodeRequest>,
    limit: BodyLimit,
    response: NodeResponse,
    end: (outcome: Outcome) => void,
  ): Promise<void> {
    const { method } = handler;
    const one = method.methodKind === "unary" || method.methodKind === "server_streaming";
    const body = one ? bodyWithin(call.body as AsyncIterable<Uint8Array>, limit) : call.body;
    const answered = await handler({ ...call, body });
    const protocol = protocolOf(call.header.get("content-type") ?? "");
    if (protocol === undefined || answered.body === undefined) return refuse(response, answered.status, end);
    const requestId = call.contextValues?.get(requestIdKey) ?? "";
    const presented = await withPresentableErrors(answered, protocol, {
      present: (error) => presentable(error, { method, requestId, log }),
      ended: (error) => end(outcomeOf(error)),
    });
    await universalResponseToNodeResponse(presented, response as never);
  }

  return (request, response) => {
    // Without a listener, a connection that breaks at the wrong moment would end the process.
    request.on("error", () => {});
    response.on("error", () => {});
    const path = request.url?.split("?", 1)[0] ?? "";
    if (path === "/metrics" && request.method === "GET") serveMetrics(watch, response);
    else serveCall(handlers.get(path), request, response);
  };
}

function createHandlers(options: AdapterOptions, admit: (call: ContextValues) => void): Map<string, UniversalHandler> {
  const { limits, log, shutdownSignal } = options;
  const large = new Set(options.large);
  const endless = new Set(options.endless);
  const services: DescService[] = [];
  const ending = new AbortController();
  shutdownSignal.addEventListener("abort", () => ending.abort(shuttingDown()), { once: true });

  const router = createConnectRouter({
    acceptCompression: [compressionGzip],
    readMaxBytes: limits.maxMessageBytes,
    writeMaxBytes: WRITE_MAX_BYTES,
    maxTimeoutMs: limits.maxTimeoutMs,
    // Not in the types: the library takes its decoder from here. Its own would replace invalid UTF-8 in silence.
    jsonOptions: { ignoreUnknownFields: false, textDecoder: new TextDecoder("utf-8", { fatal: true }) } as object,
    binaryOptions: { readUnknownFields: false },
    interceptors: [errors({ log }), deadline(limits), messageIdleLimit({ idleMs: limits.streamIdleTimeoutMs })],
  });

  const optionsOf = (
    method: DescMethod,
    gate: UniversalHandlerOptions["requestGate"],
  ): Partial<UniversalHandlerOptions> => ({
    ...(gate && { requestGate: gate }),
    ...(large.has(method) && { readMaxBytes: limits.maxBatchMessageBytes }),
    ...(method.methodKind !== "unary" && { maxTimeoutMs: Math.max(limits.maxTimeoutMs, MAX_STREAM_TIMEOUT_MS) }),
    ...(endless.has(method) && { shutdownSignal: ending.signal }),
  });
  const add = (
    service: DescService,
    implementation: Record<string, unknown>,
    gate: UniversalHandlerOptions["requestGate"],
  ) => {
    for (const method of service.methods) {
      const rpc = implementation[method.localName];
      const serve = typeof rpc === "function" ? rpc.bind(implementation) : notServed;
      router.rpc(method, serve as MethodImpl<DescMethod>, optionsOf(method, gate));
    }
  };

  const registered: [DescService, Record<string, unknown>][] = [];
  options.services({
    service(service, implementation) {
      services.push(service);
      registered.push([service, implementation]);
    },
  });
  const all = [...services, ...OPEN];
  const { v1, v1alpha } = reflection(all);
  const names = all.map((service) => service.typeName);
  registered.push(
    [Health, { ...health({ serviceNames: names, readiness: options.readiness, shutdownSignal }) }],
    [ServerReflection, { ...v1 }],
    [ServerReflectionAlpha, { ...v1alpha }],
  );

  const check = credentials({ findCaller: options.findCaller, services, open: OPEN });
  const gate = async (context: HandlerContext) => {
    try {
      await check(context);
      beginDeadline(context);
      if (context.service !== Health) admit(context.values);
    } catch (error) {
      // Outside the interceptors the library takes a ConnectError only.
      throw presentable(error, { method: context.method, requestId: context.values.get(requestIdKey), log });
    }
  };
  for (const [service, implementation] of registered) add(service, implementation, gate);
  return new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
}

/** The library starts a timer before it refuses a timeout over the maximum; one over 2^31 ms overflows, with a warning to stderr. */
function capTimeout(header: Headers): void {
  const overflows = ({ error, timeoutMs }: { error?: unknown; timeoutMs?: number }) =>
    error !== undefined && timeoutMs !== undefined;
  if (overflows(parseGrpcTimeout(header.get("grpc-timeout"), TIMER_MAX_MS))) header.set("grpc-timeout", "596H");
  if (overflows(parseConnectTimeout(header.get("connect-timeout-ms"), TIMER_MAX_MS))) {
    header.set("connect-timeout-ms", String(TIMER_MAX_MS));
  }
}

/** A deadline that has passed spares the handler; one that comes before the body's time limit shortens it. */
function beginDeadline(context: HandlerContext): void {
  const timeoutMs = context.timeoutMs();
  if (timeoutMs === undefined) return;
  if (timeoutMs <= 0) throw new DomainError("DEADLINE_EXCEEDED", "The deadline had passed when the call arrived");
  const limit = context.values.get(bodyLimit);
  if (limit !== undefined) limit.expiresAt = Math.min(limit.expiresAt, performance.now() + timeoutMs);
}

function notServed(): never {
  throw new DomainError("UNIMPLEMENTED", "The RPC is not served");
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
