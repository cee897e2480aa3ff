// The client of EntityService for TypeScript and JavaScript on Node.
import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ActivityService } from "./gen/entity/v1/activity_service_pb.ts";
import { EntityService } from "./gen/entity/v1/entity_service_pb.ts";
import { OrganizationService } from "./gen/entity/v1/organization_service_pb.ts";
import { WebhookService } from "./gen/entity/v1/webhook_service_pb.ts";

export { type EntityErrorInfo, errorInfo } from "./errors.ts";
export * from "./gen/entity/v1/activity_pb.ts";
export * from "./gen/entity/v1/activity_service_pb.ts";
export * from "./gen/entity/v1/administration_event_pb.ts";
export * from "./gen/entity/v1/entity_event_pb.ts";
export * from "./gen/entity/v1/entity_pb.ts";
export * from "./gen/entity/v1/entity_service_pb.ts";
export * from "./gen/entity/v1/error_pb.ts";
export * from "./gen/entity/v1/organization_pb.ts";
export * from "./gen/entity/v1/organization_service_pb.ts";
export * from "./gen/entity/v1/webhook_pb.ts";
export * from "./gen/entity/v1/webhook_service_pb.ts";
export { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.ts";
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
  /** Deadline of each unary call, in milliseconds. Default: the service's, 10 s. Streams have none but their own `timeoutMs`. */
  defaultTimeoutMs?: number;
  /** Further interceptors, outermost first. */
  interceptors?: Interceptor[];
}

export interface EntityClient {
  entities: Client<typeof EntityService>;
  activity: Client<typeof ActivityService>;
  organizations: Client<typeof OrganizationService>;
  webhooks: Client<typeof WebhookService>;
}

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
    ...(options.defaultTimeoutMs === undefined ? {} : { defaultTimeoutMs: options.defaultTimeoutMs }),
  });
  const transport: Transport = {
    unary: grpc.unary,
    // An import takes as long as it takes; 0 is no deadline.
    stream: (method, signal, timeoutMs, ...rest) => grpc.stream(method, signal, timeoutMs ?? 0, ...rest),
  };
  return {
    entities: createClient(EntityService, transport),
    activity: createClient(ActivityService, transport),
    organizations: createClient(OrganizationService, transport),
    webhooks: createClient(WebhookService, transport),
  };
}
