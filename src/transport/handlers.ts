// Which RPCs are served, and within which limits: the services of the contract with health and reflection beside them.
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import {
  type ContextValues,
  createConnectRouter,
  type HandlerContext,
  type Interceptor,
  type MethodImpl,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { UniversalHandler, UniversalHandlerOptions } from "@connectrpc/connect/protocol";
import { compressionGzip } from "@connectrpc/connect-node";
import type { Logger } from "pino";
import { Health } from "../../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../clients/typescript/gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../clients/typescript/gen/grpc/reflection/v1alpha/reflection_pb.ts";
import type { Config } from "../config.ts";
import { DomainError } from "../domain/errors.ts";
import { requestIdKey } from "../interceptors/call.ts";
import { credentials, type FindCaller } from "../interceptors/credentials.ts";
import { deadline, messageIdleLimit } from "../interceptors/deadline.ts";
import { errors, presentable } from "../interceptors/errors.ts";
import { health, type Readiness, shuttingDown } from "./health.ts";
import { reflection } from "./reflection.ts";
import { beginDeadline } from "./request-body.ts";

export interface HandlerOptions {
  /** Registers the services; their names are known to health and reflection. */
  services(router: ServiceRouter): void;
  /** Innermost, in this order: what looks at messages. */
  interceptors?: Interceptor[];
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

/** What of a ConnectRouter the service uses. An RPC without an implementation is UNIMPLEMENTED. */
export interface ServiceRouter {
  service<T extends DescService>(service: T, implementation: Partial<ServiceImpl<T>>): void;
}

/** A page of 1000 entities with full attributes is larger than any request. */
const WRITE_MAX_BYTES = 64 * 1024 * 1024;
/** The longest deadline that the caller of a stream may name: imports and watches outlive a unary call. */
const MAX_STREAM_TIMEOUT_MS = 3_600_000;

type Implementation = Record<string, unknown>;

/** The handlers by their paths. `admit` throws for a call too many; it is not asked for health and reflection. */
export function createHandlers(
  options: HandlerOptions,
  admit: (call: ContextValues) => void,
): Map<string, UniversalHandler> {
  const { limits, log, shutdownSignal } = options;
  const served = new Map<DescService, Implementation>();
  options.services({ service: (service, implementation) => served.set(service, implementation) });
  const open = openServices([...served.keys()], options);
  const check = credentials({ findCaller: options.findCaller, services: served.keys(), open: open.keys() });

  const gate = async (context: HandlerContext) => {
    try {
      await check(context);
      beginDeadline(context);
      // Without a key nobody can take the places of those who have one.
      if (!open.has(context.service)) admit(context.values);
    } catch (error) {
      // Outside the interceptors the library takes a ConnectError only.
      throw presentable(error, { method: context.method, requestId: context.values.get(requestIdKey), log });
    }
  };

  const router = createConnectRouter({
    requestGate: gate,
    acceptCompression: [compressionGzip],
    readMaxBytes: limits.maxMessageBytes,
    writeMaxBytes: WRITE_MAX_BYTES,
    maxTimeoutMs: limits.maxTimeoutMs,
    // Not in the types: the library takes its decoder from here. Its own would replace invalid UTF-8 in silence.
    jsonOptions: { ignoreUnknownFields: false, textDecoder: new TextDecoder("utf-8", { fatal: true }) } as object,
    binaryOptions: { readUnknownFields: false },
    interceptors: [
      errors({ log }),
      deadline(limits),
      messageIdleLimit({ idleMs: limits.streamIdleTimeoutMs }),
      ...(options.interceptors ?? []),
    ],
  });
  const large = new Set(options.large);
  const endless = new Set([...(options.endless ?? []), ...ServerReflection.methods, ...ServerReflectionAlpha.methods]);
  const ending = new AbortController();
  shutdownSignal.addEventListener("abort", () => ending.abort(shuttingDown()), { once: true });
  const limitsOf = (method: DescMethod): Partial<UniversalHandlerOptions> => ({
    ...(large.has(method) && { readMaxBytes: limits.maxBatchMessageBytes }),
    ...(method.methodKind !== "unary" && { maxTimeoutMs: Math.max(limits.maxTimeoutMs, MAX_STREAM_TIMEOUT_MS) }),
    ...(endless.has(method) && { shutdownSignal: ending.signal }),
  });

  for (const [service, implementation] of [...served, ...open]) {
    for (const method of service.methods) {
      const rpc = implementation[method.localName];
      const serve = typeof rpc === "function" ? rpc.bind(implementation) : notServed;
      router.rpc(method, serve as MethodImpl<DescMethod>, limitsOf(method));
    }
  }
  return new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
}

/** The services that need no key. */
function openServices(services: DescService[], options: HandlerOptions): Map<DescService, Implementation> {
  const all = [...services, Health, ServerReflection, ServerReflectionAlpha];
  const { v1, v1alpha } = reflection(all);
  const serviceNames = all.map((service) => service.typeName);
  return new Map<DescService, Implementation>([
    [Health, { ...health({ ...options, serviceNames }) }],
    [ServerReflection, { ...v1 }],
    [ServerReflectionAlpha, { ...v1alpha }],
  ]);
}

function notServed(): never {
  throw new DomainError("UNIMPLEMENTED", "The RPC is not served");
}
