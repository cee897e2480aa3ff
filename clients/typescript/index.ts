// The client of EntityService for TypeScript and JavaScript on Node.
import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ActivityService } from "./gen/entity/v1/activity_service_pb.ts";
import { EntityService } from "./gen/entity/v1/entity_service_pb.ts";
import { OrganizationService } from "./gen/entity/v1/organization_service_pb.ts";
import { RiskMatrixService } from "./gen/entity/v1/risk_matrix_service_pb.ts";
import { WebhookService } from "./gen/entity/v1/webhook_service_pb.ts";
import { leavable } from "./leavable.ts";
import { sendingAgain } from "./unseen.ts";

// What is needed beside the messages, so that nobody has to install the same versions of the libraries.
export { create, fromJson, isMessage, toJson } from "@bufbuild/protobuf";
export { timestampDate, timestampFromDate, timestampNow } from "@bufbuild/protobuf/wkt";
export { Code, ConnectError } from "@connectrpc/connect";
export { type EntityErrorInfo, errorInfo } from "./errors.ts";
export * from "./gen/entity/v1/activity_pb.ts";
export * from "./gen/entity/v1/activity_service_pb.ts";
export * from "./gen/entity/v1/administration_event_pb.ts";
export * from "./gen/entity/v1/audit_pb.ts";
export * from "./gen/entity/v1/duplicate_pb.ts";
export * from "./gen/entity/v1/entity_event_pb.ts";
export * from "./gen/entity/v1/entity_pb.ts";
export * from "./gen/entity/v1/entity_service_pb.ts";
export * from "./gen/entity/v1/error_pb.ts";
export * from "./gen/entity/v1/merge_pb.ts";
export * from "./gen/entity/v1/organization_pb.ts";
export * from "./gen/entity/v1/organization_service_pb.ts";
export * from "./gen/entity/v1/risk_matrix_service_pb.ts";
export * from "./gen/entity/v1/risk_pb.ts";
export * from "./gen/entity/v1/webhook_pb.ts";
export * from "./gen/entity/v1/webhook_service_pb.ts";
export { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.ts";
export { type Status, StatusSchema } from "./gen/google/rpc/status_pb.ts";

export interface EntityClientOptions {
  /** Where the service is, such as "http://127.0.0.1:50051". */
  baseUrl: string;
  /** The secret of an API key. */
  apiKey: string;
  /** On whose behalf: becomes the `actor` of events. Default: the API key itself. */
  actorId?: string;
  /** Which system: becomes the `source` of events. Default: "api". */
  source?: string;
  /** Deadline of each unary call, in milliseconds; 0: none but the service's. Default: 10 s. Streams have none but their own `timeoutMs`. */
  defaultTimeoutMs?: number;
  /** Further interceptors, outermost first. */
  interceptors?: Interceptor[];
}

export interface EntityClient {
  entities: Client<typeof EntityService>;
  activity: Client<typeof ActivityService>;
  organizations: Client<typeof OrganizationService>;
  riskMatrices: Client<typeof RiskMatrixService>;
  webhooks: Client<typeof WebhookService>;
}

const DEFAULT_TIMEOUT_MS = 10_000;
const PING_MS = 20_000;
/**
 * In megabytes; not taken in advance. With Node's 10 a session whose unsent requests are more than that refuses the answers
 * to them itself: as ENHANCE_YOUR_CALM, which is INTERNAL, or without telling anything.
 */
const SESSION_MEMORY = 1_000;

/** Clients of all services over one HTTP/2 connection, which is opened by the first call. Errors are ConnectError with google.rpc.ErrorInfo. */
export function createEntityClient(options: EntityClientOptions): EntityClient {
  const headers: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${options.apiKey}`);
    if (options.actorId !== undefined) request.header.set("x-actor-id", options.actorId);
    if (options.source !== undefined) request.header.set("x-source", options.source);
    return next(request);
  };
  const grpc = createGrpcTransport({
    baseUrl: options.baseUrl,
    interceptors: [...(options.interceptors ?? []), headers],
    // A server that says nothing any more ends a watch too, which has no deadline.
    pingIntervalMs: PING_MS,
    pingTimeoutMs: PING_MS / 2,
    nodeOptions: { maxSessionMemory: SESSION_MEMORY },
  });
  const transport = sendingAgain(grpc, options.defaultTimeoutMs ?? DEFAULT_TIMEOUT_MS);
  const clientOf = <T extends DescService>(service: T) => leavable(service, createClient(service, transport));
  return {
    entities: clientOf(EntityService),
    activity: clientOf(ActivityService),
    organizations: clientOf(OrganizationService),
    riskMatrices: clientOf(RiskMatrixService),
    webhooks: clientOf(WebhookService),
  };
}
