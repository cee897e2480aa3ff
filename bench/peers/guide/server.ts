// The peer that the guides show: Connect's own adapter over http2, MikroORM with its own driver, an entity
// manager forked for each request with the organization as its session, em.transactional around a write.
import { createServer } from "node:http2";
import { type ConnectRouter, createContextKey, type HandlerContext, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type InferEntity, LockMode } from "@mikro-orm/core";
import { MikroORM } from "@mikro-orm/postgresql";
import { EntityService } from "../../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { digestOf } from "../../../src/db/api-keys.ts";
import { type EntityState, primaryOf, taxIdKeyOf } from "../../../src/domain/entity-state.ts";
import { DomainError, notFound } from "../../../src/domain/errors.ts";
import { parseInstant } from "../../../src/domain/time.ts";
import { toConnectError } from "../../../src/errors.ts";
import type { Caller } from "../../../src/interceptors/call.ts";
import { toProto } from "../../../src/rpc/entity-message.ts";
import {
  callerOf,
  callersOf,
  decideUpdate,
  eventOf,
  parseGet,
  parseUpdate,
  peerSettings,
  presentUpdate,
} from "../contract.ts";
import { Entity, EntityEvent, ExternalId } from "./schema.ts";

const { port, poolSize, database } = peerSettings();
const orm = new MikroORM({
  host: database.host,
  port: database.port,
  user: database.user,
  dbName: database.database,
  entities: [Entity, ExternalId, EntityEvent],
  pool: { min: poolSize, max: poolSize },
  driverOptions: { options: "-c timezone=UTC" },
  ensureDatabase: false,
});

const callers = callersOf(async (secret) => {
  const [key] = await orm.em
    .fork()
    .execute<{ organization_id: string; id: string; scopes: string[] }[]>("select * from find_api_key(?)", [
      digestOf(secret),
    ]);
  return key === undefined
    ? null
    : { organizationId: key.organization_id, apiKeyId: key.id, scopes: new Set(key.scopes) };
});

const callerKey = createContextKey<Caller | undefined>(undefined);

const authenticate: Interceptor = (next) => async (request) => {
  const scope = request.method.name === "GetEntity" ? "entities:read" : "entities:write";
  request.contextValues.set(callerKey, await callerOf(request.header.get("authorization"), scope, callers));
  return next(request);
};

const errors: Interceptor = (next) => async (request) => {
  try {
    return await next(request);
  } catch (error) {
    if (error instanceof DomainError) throw toConnectError(error);
    console.error(error);
    throw error;
  }
};

function sessionOf(context: HandlerContext) {
  const caller = context.values.get(callerKey);
  if (caller === undefined) throw new Error("the caller is not known");
  const em = orm.em.fork({ session: { variables: { "app.organization_id": caller.organizationId } } });
  return { caller, em };
}

const routes = (router: ConnectRouter) =>
  router.service(EntityService, {
    async getEntity(request, context) {
      const externalId = parseGet(request);
      const { caller, em } = sessionOf(context);
      const row = await em.findOne(Entity, { organizationId: caller.organizationId, names: { externalId } });
      if (row === null) throw notFound("external_id");
      return { entity: toProto(stateOf(row)) };
    },

    async updateEntity(request, context) {
      const parsed = parseUpdate(request);
      const { caller, em } = sessionOf(context);
      const decided = await em.transactional(async (tx) => {
        const row = await tx.findOne(
          Entity,
          { organizationId: caller.organizationId, names: { externalId: parsed.externalId } },
          { lockMode: LockMode.PESSIMISTIC_WRITE, lockTableAliases: ["e0"] },
        );
        const outcome = decideUpdate(row === null ? null : stateOf(row), parsed);
        if (row === null || outcome.change === null) return outcome;
        Object.assign(row, columnsOf(outcome.after));
        tx.persist(tx.create(EntityEvent, eventOf(outcome, caller, context.requestHeader.get("x-actor-id"))));
        return outcome;
      });
      return presentUpdate(decided, parsed);
    },
  });

function stateOf(row: InferEntity<typeof Entity>): EntityState {
  return {
    id: row.id,
    organizationId: row.organizationId,
    version: row.version,
    type: row.type,
    countryCode: row.countryCode,
    externalIds: row.externalIds.map(([externalId, type, primary, attachedAt]) => ({
      externalId,
      type,
      primary,
      attachedAt: parseInstant(attachedAt),
      trackedSince: null,
      lastResolvedOn: null,
      homeId: null,
    })),
    name: row.name,
    taxId: row.taxId ?? null,
    taxIdCheck: (row.taxIdCheck ?? null) as EntityState["taxIdCheck"],
    status: row.status as EntityState["status"],
    nationality: row.nationality ?? null,
    riskMatrixId: row.riskMatrixId ?? null,
    riskScore: row.riskScore ?? null,
    entityData: row.entityData ?? null,
    attributes: row.attributes,
    metadata: row.metadata,
    etag: row.etag,
    createdAt: row.createdAt,
    updatedAt: row.updatedAt,
    mergedInto: null,
    deletedAt: row.deletedAt ?? null,
  };
}

/** Every column that an update may change; MikroORM writes those that did. */
function columnsOf(state: EntityState) {
  return {
    version: state.version,
    externalId: primaryOf(state)?.externalId ?? null,
    name: state.name,
    taxId: state.taxId,
    taxIdKey: taxIdKeyOf(state),
    taxIdCheck: state.taxIdCheck,
    status: state.status,
    nationality: state.nationality,
    riskMatrixId: state.riskMatrixId,
    entityData: state.entityData,
    attributes: state.attributes,
    metadata: state.metadata,
    etag: state.etag,
    updatedAt: state.updatedAt,
  };
}

const server = createServer(
  connectNodeAdapter({
    routes,
    interceptors: [errors, authenticate],
    readMaxBytes: 1024 * 1024,
    maxTimeoutMs: 60_000,
  }),
);
server.listen(port, "127.0.0.1");
process.once("SIGTERM", () => process.exit(0));
