// The client, whatever brings its calls to the service.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import { type CallContext, type EntityCallOptions, type ServiceClient, serviceClient } from "./calls.ts";
import { type CopyOptions, keepCopy } from "./copy.ts";
import { ActivityService } from "./gen/entity/v1/activity_service_pb.ts";
import type { EntitySchema } from "./gen/entity/v1/entity_pb.ts";
import {
  EntityService,
  type UpdateEntityRequestSchema,
  type UpdateEntityResponse,
  type WatchEntitiesResponse,
} from "./gen/entity/v1/entity_service_pb.ts";
import { OrganizationService } from "./gen/entity/v1/organization_service_pb.ts";
import { RiskMatrixService } from "./gen/entity/v1/risk_matrix_service_pb.ts";
import { WebhookService } from "./gen/entity/v1/webhook_service_pb.ts";
import { lookup } from "./lookup.ts";
import { type RetryOptions, retrying } from "./retries.ts";
import { type WatchOptions, watch } from "./watch.ts";

export interface ClientOptions extends CallContext {
  /** The secret of an API key; a function is asked before each attempt, so that keys can be rotated. */
  apiKey: string | (() => string | Promise<string>);
  /** Deadline of each unary call, in milliseconds; 0: none but the service's. Default: 10 s. Streams have none but their own `timeoutMs`. */
  defaultTimeoutMs?: number;
  /** `false`: none, and no request_id is made; only what nobody has seen is sent again, three times at most. */
  retries?: RetryOptions | false;
  /** Asked for the trace context of each call that names none, as that of OpenTelemetry. */
  traceContext?: () => Pick<CallContext, "traceparent" | "tracestate">;
  /** Further interceptors, outermost first. */
  interceptors?: Interceptor[];
}

const DEFAULT_TIMEOUT_MS = 10_000;

type EntityValues = Extract<MessageInitShape<typeof EntitySchema>, { $typeName?: never }>;
type UpdateRequest = Extract<MessageInitShape<typeof UpdateEntityRequestSchema>, { $typeName?: never }>;

export interface EntityClient {
  entities: ServiceClient<typeof EntityService>;
  activity: ServiceClient<typeof ActivityService>;
  organizations: ServiceClient<typeof OrganizationService>;
  riskMatrices: ServiceClient<typeof RiskMatrixService>;
  webhooks: ServiceClient<typeof WebhookService>;
  /** The same client, with another context for each call: for one user, for one request. Costs next to nothing. */
  with(context: CallContext): EntityClient;
  /** Creates the entity, or writes the fields that are given to the one that has the external id. */
  upsert(
    entity: EntityValues & { externalId: string },
    request?: Omit<UpdateRequest, "lookup" | "entity" | "allowMissing">,
    options?: EntityCallOptions,
  ): Promise<UpdateEntityResponse>;
  /**
   * Every event behind the position, for as long as the loop lasts: goes on where it was when the service restarts or the
   * connection is lost. Store `message.position` with what the message did; a watch from there misses nothing.
   */
  watch(options?: WatchOptions): AsyncIterable<WatchEntitiesResponse>;
  /** Makes a copy of the entities and keeps it up to date, until the signal. Throws what the store throws, and what is final. */
  keepCopy(options: CopyOptions): Promise<void>;
}

/** Sets the key of each attempt. */
export function authorization(apiKey: ClientOptions["apiKey"]): Interceptor {
  return (next) => async (request) => {
    request.header.set("authorization", `Bearer ${sendable(typeof apiKey === "function" ? await apiKey() : apiKey)}`);
    return next(request);
  };
}

/** The key without the white space around it, which files and variables end with. */
function sendable(apiKey: string): string {
  // Without types it may be undefined, as of a variable that is not set.
  const key = String(apiKey ?? "").trim();
  // Headers would throw an error that quotes the key, and that nobody takes for a wrong key.
  if (!/^[\x21-\x7e]+$/.test(key)) {
    throw new ConnectError("the API key is empty or has characters that no key has", Code.Unauthenticated);
  }
  return key;
}

/** A client over a transport that authorizes its calls. */
export function entityClientOver(transport: Transport, options: Omit<ClientOptions, "apiKey" | "interceptors">) {
  const { defaultTimeoutMs = DEFAULT_TIMEOUT_MS, retries = {}, traceContext } = options;
  const retried = retrying(transport, { retries, defaultTimeoutMs });

  function clientWith(context: CallContext): EntityClient {
    const contextOf = ({ actorId, source, traceparent, tracestate }: CallContext): CallContext => {
      const trace =
        traceparent !== undefined
          ? { traceparent, tracestate }
          : context.traceparent !== undefined
            ? context
            : traceContext?.();
      return {
        actorId: actorId ?? context.actorId,
        source: source ?? context.source,
        traceparent: trace?.traceparent,
        tracestate: trace?.tracestate,
      };
    };
    const clientOf = <T extends Parameters<typeof serviceClient>[0]>(service: T) =>
      serviceClient(service, retried, contextOf);
    const entities = clientOf(EntityService);
    return {
      entities,
      activity: clientOf(ActivityService),
      organizations: clientOf(OrganizationService),
      riskMatrices: clientOf(RiskMatrixService),
      webhooks: clientOf(WebhookService),
      with: (more) => clientWith({ ...context, ...more }),
      upsert({ externalId, ...entity }, request, callOptions) {
        const which = { lookup: lookup.externalId(externalId), entity, allowMissing: true };
        return entities.updateEntity({ ...request, ...which }, callOptions);
      },
      watch: (watchOptions) => watch(entities, watchOptions),
      keepCopy: (copyOptions) => keepCopy(entities, copyOptions),
    };
  }
  return clientWith(options);
}
