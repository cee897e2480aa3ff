// Which RPCs are served, and within which limits: the services of the contract with health and reflection beside them.
import {
  createRegistry,
  type DescMessage,
  type DescMethod,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  type Message,
} from "@bufbuild/protobuf";
import {
  type ContextValues,
  createConnectRouter,
  type HandlerContext,
  type Interceptor,
  type MethodImpl,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { compressionGzip } from "@connectrpc/connect-node";
import type { Logger } from "pino";
import { Health } from "../../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../clients/typescript/gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../clients/typescript/gen/grpc/reflection/v1alpha/reflection_pb.ts";
import type { Config } from "../config.ts";
import { DomainError } from "../domain/errors.ts";
import { requestIdKey } from "../interceptors/call.ts";
import { type CallHead, credentials, type FindCaller } from "../interceptors/credentials.ts";
import { deadline, messageIdleLimit } from "../interceptors/deadline.ts";
import { errors, type Present, presentable } from "../interceptors/errors.ts";
import type { MetricsSource } from "../interceptors/telemetry.ts";
import { keyWatch, whileAllowed } from "../interceptors/while-allowed.ts";
import { answersInParts } from "./answer-bytes.ts";
import type { GrpcRoute } from "./grpc-call.ts";
import { health, type Readiness, shuttingDown } from "./health.ts";
import { preparePlain } from "./plain-message.ts";
import { DETAILS, reflection } from "./reflection.ts";
import { beginDeadline } from "./request-body.ts";
import { decodedRequests, requestDecoders } from "./request-messages.ts";
import { serverStreamingAnswer } from "./server-streaming.ts";
import type { Tally } from "./tally.ts";
import { unaryAnswer } from "./unary.ts";

export interface HandlerOptions {
  /** Registers the services; their names are known to health and reflection. */
  services(router: ServiceRouter): void;
  /** Validates the request of each unary call: throws its violations. Streams validate their messages themselves. */
  check?: (desc: DescMessage, message: Message) => void;
  findCaller: FindCaller;
  /** For a service whose errors are not of the domain; default `presentable`. */
  present?: Present;
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
    | "maxWatches"
    | "maxMessageBytes"
    | "maxBatchMessageBytes"
    | "defaultTimeoutMs"
    | "maxTimeoutMs"
    | "bodyTimeoutMs"
    | "streamIdleTimeoutMs"
    | "unaryPath"
  >;
  /** The longest life of a stream without a key (health, reflection), in milliseconds; default: half an hour. */
  keylessStreamMs?: number;
  /** Refuses what is no call with the HTTP status alone, as the conformance suite wants it; default: with an error of our shape. */
  bareRefusals?: boolean;
  /** Time for a caller to take the next piece of an answer, in milliseconds. */
  answerTimeoutMs?: number;
  /** Counts what happens before and after calls; default: in the log alone. */
  tally?: Tally | undefined;
  /** Where calls are counted and GET /metrics reads; default: in this process alone. */
  metrics?: MetricsSource | undefined;
  log: Logger;
}

/** What of a ConnectRouter the service uses. An RPC without an implementation is UNIMPLEMENTED. */
export interface ServiceRouter {
  service<T extends DescService>(service: T, implementation: Partial<ServiceImpl<T>>): void;
}

/** Of a message of a stream. Answers of unary calls have limits of their own, before they are written. */
const WRITE_MAX_BYTES = 8 * 1024 * 1024;
/** The longest deadline that the caller of a stream may name: imports and watches outlive a unary call. */
const MAX_STREAM_TIMEOUT_MS = 3_600_000;

const KEYLESS_STREAM_MS = 1_800_000;

/** With the time that an answer about a key is remembered: a revoked one ends its streams within 5 s. */
const RECHECK_MS = 500;

type Implementation = Record<string, unknown>;

/** What is served: all of it by the library's handlers, RPCs with one request by the path of gRPC too. */
export interface Served {
  handlers: Map<string, UniversalHandler>;
  grpc: Map<string, GrpcRoute>;
  /** Decides on caller and deadline, before the body. Throws the refusal. */
  gate: (call: CallHead) => Promise<void> | void;
  /** Admits the call once its request is complete. Throws OVERLOADED. */
  enter: (method: DescMethod, values: ContextValues) => void;
  /** Whether an RPC needs no key. */
  isOpen: (method: DescMethod) => boolean;
  /** `shutdownSignal` ends those that have no end of their own. */
  limitsOf: (method: DescMethod) => {
    readMaxBytes: number;
    maxTimeoutMs: number;
    shutdownSignal?: AbortSignal;
  };
  /** Decodes its requests; throws the refusal, as ConnectError. */
  decoderOf: ReturnType<typeof requestDecoders>;
  methods: DescMethod[];
}

/**
 * `admit` throws for a call too many. A call takes its place when its request is complete, a stream of requests when
 * its first message is: a caller that sends headers alone holds none.
 */
export function createHandlers(
  options: HandlerOptions,
  admit: (call: ContextValues, isEndless: boolean) => void,
): Served {
  const { limits, log, shutdownSignal, present = presentable, check: checkMessage = () => {} } = options;
  const served = new Map<DescService, Implementation>();
  options.services({ service: (service, implementation) => served.set(service, implementation) });
  const open = openServices([...served.keys()], options);
  const keylessMs = options.keylessStreamMs ?? KEYLESS_STREAM_MS;
  /** Not all at once: those that began together would come back together. */
  const keylessStreamMs = () => keylessMs * (0.9 + Math.random() / 10);
  const check = credentials({ findCaller: options.findCaller, services: served.keys(), open: open.keys() });

  const endless = new Set([...(options.endless ?? []), ...ServerReflection.methods, ...ServerReflectionAlpha.methods]);
  /** Those that hold a place for as long as their caller likes. A health watch has its own last word at the shutdown. */
  const streams = new Set<DescMethod>([...endless, Health.method.watch]);
  const gate = (call: CallHead): Promise<void> | void => {
    const checked = check(call);
    return checked === undefined ? beginDeadline(call) : checked.then(() => beginDeadline(call));
  };
  const enter: Served["enter"] = (method, values) => admit(values, streams.has(method));
  const requestGate = async (context: HandlerContext) => {
    try {
      await gate({
        service: context.service,
        method: context.method,
        values: context.values,
        header: context.requestHeader,
        timeoutMs: () => context.timeoutMs(),
        hasLeft: () => context.signal.aborted,
      });
    } catch (error) {
      // Outside the interceptors the library takes a ConnectError only.
      throw present(error, { method: context.method, requestId: context.values.get(requestIdKey), log });
    }
  };

  // The refused items of a batch or an import carry details as google.protobuf.Any, which JSON spells out.
  const registry = createRegistry(...DETAILS, ...Array.from(served.keys(), (service) => service.file));
  const watchKey = keyWatch(check, RECHECK_MS);
  // A unary call ends by its deadline; every stream may outlive its key.
  const rechecked = new Set(
    [...served.keys()].flatMap(({ methods }) => methods.filter(({ methodKind }) => methodKind !== "unary")),
  );
  const router = createConnectRouter({
    requestGate,
    acceptCompression: [compressionGzip],
    readMaxBytes: limits.maxMessageBytes,
    writeMaxBytes: WRITE_MAX_BYTES,
    maxTimeoutMs: limits.maxTimeoutMs,
    jsonOptions: { registry },
    interceptors: [
      errors({ log, present }),
      whileAllowed({ watchKey, methods: rechecked }),
      deadline({ ...limits, streamTimeoutMs: ({ service }) => (open.has(service) ? keylessStreamMs() : undefined) }),
      messageIdleLimit({ idleMs: limits.streamIdleTimeoutMs }),
      atFirstMessage((method, values) => {
        if (!open.has(method.parent)) enter(method, values);
      }),
      answersInParts({ registry }),
      decodedRequests,
      checked(checkMessage),
    ],
  });
  const large = new Set(options.large);
  const ending = new AbortController();
  shutdownSignal.addEventListener("abort", () => ending.abort(shuttingDown()), { once: true });
  const limitsOf = (method: DescMethod) => ({
    readMaxBytes: large.has(method) ? limits.maxBatchMessageBytes : limits.maxMessageBytes,
    maxTimeoutMs:
      method.methodKind === "unary"
        ? limits.maxTimeoutMs
        : open.has(method.parent)
          ? keylessMs
          : Math.max(limits.maxTimeoutMs, MAX_STREAM_TIMEOUT_MS),
    ...(endless.has(method) && { shutdownSignal: ending.signal }),
  });

  // grpc-path.ts needs no interceptors: its calls have their own deadline, and present the error that they end with.
  const unaryOptions: Parameters<typeof unaryAnswer>[2] = {
    check: checkMessage,
    present: (error, { method, requestId }) => present(error, { method, requestId, log }),
  };
  const grpc = new Map<string, GrpcRoute>();
  for (const [service, implementation] of [...served, ...open]) {
    for (const method of service.methods) {
      const rpc = implementation[method.localName];
      const serve = typeof rpc === "function" ? rpc.bind(implementation) : notServed;
      router.rpc(method, serve as MethodImpl<DescMethod>, limitsOf(method));
      const path = `/${service.typeName}/${method.name}`;
      preparePlain(method.input);
      if (method.methodKind === "unary") {
        grpc.set(path, {
          ...limitsOf(method),
          method: method as DescMethodUnary,
          defaultTimeoutMs: limits.defaultTimeoutMs,
          answer: unaryAnswer(method as DescMethodUnary, serve, unaryOptions),
        });
      } else if (method.methodKind === "server_streaming") {
        grpc.set(path, {
          ...limitsOf(method),
          method: method as DescMethodServerStreaming,
          get defaultTimeoutMs() {
            return open.has(service) ? keylessStreamMs() : undefined;
          },
          answer: serverStreamingAnswer(
            method as DescMethodServerStreaming,
            serve,
            rechecked.has(method) ? watchKey : undefined,
          ),
        });
      }
    }
  }
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  const methods = [...served.keys(), ...open.keys()].flatMap((service) => service.methods);
  const decoderOf = requestDecoders(methods, { registry });
  return { handlers, grpc, gate, enter, isOpen: (method) => open.has(method.parent), limitsOf, decoderOf, methods };
}

export const isStreamOfRequests = ({ methodKind }: DescMethod) =>
  methodKind === "client_streaming" || methodKind === "bidi_streaming";

/** The innermost interceptor: it validates the message that the implementation gets. */
const checked =
  (check: (desc: DescMessage, message: Message) => void): Interceptor =>
  (next) =>
  (request) => {
    if (!request.stream) check(request.method.input, request.message);
    return next(request);
  };

/** A stream of requests takes its place with the first of them. */
function atFirstMessage(enter: Served["enter"]): Interceptor {
  async function* entering<T>(messages: AsyncIterable<T>, begin: () => void) {
    let isFirst = true;
    for await (const message of messages) {
      if (isFirst) begin();
      isFirst = false;
      yield message;
    }
  }
  return (next) => (request) => {
    if (!request.stream || !isStreamOfRequests(request.method)) return next(request);
    const begin = () => enter(request.method, request.contextValues);
    return next({ ...request, message: entering(request.message, begin) });
  };
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
