// The peer without a framework: @grpc/grpc-js over pg, statements by hand, named so that PostgreSQL plans
// them once a connection; one transaction per call, which names its organization for row level security.
import {
  create,
  type DescMethod,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type handleUnaryCall,
  type Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  status,
} from "@grpc/grpc-js";
import pg from "pg";
import { EntityService, GetEntityResponseSchema } from "../../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { digestOf } from "../../../src/db/api-keys.ts";
import { type EntityState, primaryOf, taxIdKeyOf } from "../../../src/domain/entity-state.ts";
import { DomainError, notFound } from "../../../src/domain/errors.ts";
import { instantToText } from "../../../src/domain/time.ts";
import { toState } from "../../../src/entities/rows.ts";
import { CODE } from "../../../src/errors.ts";
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

const { port, poolSize, database } = peerSettings();
const TIMESTAMPTZ = 1184;
const pool = new pg.Pool({
  ...database,
  max: poolSize,
  options: "-c timezone=UTC",
  // Text and not a Date, which would cut the microseconds off.
  types: {
    getTypeParser: ((oid: number, format: "text") =>
      oid === TIMESTAMPTZ
        ? (text: string) => text
        : pg.types.getTypeParser(oid, format)) as typeof pg.types.getTypeParser,
  },
});

const BEGIN = { name: "begin", text: "begin" };
const COMMIT = { name: "commit", text: "commit" };
const SESSION = { name: "session", text: "select set_config('app.organization_id', $1, true)" };
const FIND_KEY = { name: "find_key", text: "select * from find_api_key($1)" };
const FIND = {
  name: "find",
  text: `select e.* from external_id x
         join entity e on e.organization_id = x.organization_id and e.id = x.entity_id
         where x.organization_id = $1 and x.external_id = $2`,
};
const LOCK = { name: "lock", text: `${FIND.text} for no key update of e` };
const UPDATE = {
  name: "update",
  text: `update entity set version = $3, external_id = $4, name = $5, tax_id = $6, tax_id_key = $7, tax_id_check = $8,
           status = $9, nationality = $10, risk_matrix_id = $11, entity_data = $12, attributes = $13, metadata = $14,
           etag = $15, updated_at = $16
         where organization_id = $1 and id = $2`,
};
const INSERT_EVENT = {
  name: "insert_event",
  text: `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_id,
           external_ids, updated_fields, previous_values, new_values, actor, principal, source, reason, metadata,
           recorded_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`,
};

const callers = callersOf(async (secret) => {
  const { rows } = await pool.query({ ...FIND_KEY, values: [digestOf(secret)] });
  const [key] = rows;
  return key === undefined
    ? null
    : { organizationId: key.organization_id, apiKeyId: key.id, scopes: new Set(key.scopes) };
});

/** A transaction that sees one organization. */
async function within<T>(organizationId: string, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  try {
    await client.query(BEGIN);
    await client.query({ ...SESSION, values: [organizationId] });
    const value = await work(client);
    await client.query(COMMIT);
    return value;
  } catch (error) {
    await client.query("rollback");
    throw error;
  } finally {
    client.release();
  }
}

const getEntity = unary(EntityService.method.getEntity, async ({ request, metadata }) => {
  const externalId = parseGet(request);
  const { organizationId } = await callerOf(bearerOf(metadata), "entities:read", callers);
  const row = await within(organizationId, async (client) => {
    const { rows } = await client.query({ ...FIND, values: [organizationId, externalId] });
    return rows[0];
  });
  if (row === undefined) throw notFound("external_id");
  return create(GetEntityResponseSchema, { entity: toProto(toState(row)) });
});

const updateEntity = unary(EntityService.method.updateEntity, async ({ request, metadata }) => {
  const parsed = parseUpdate(request);
  const caller = await callerOf(bearerOf(metadata), "entities:write", callers);
  const { organizationId } = caller;
  const decided = await within(organizationId, async (client) => {
    const { rows } = await client.query({ ...LOCK, values: [organizationId, parsed.externalId] });
    const outcome = decideUpdate(rows[0] === undefined ? null : toState(rows[0]), parsed);
    if (outcome.change === null) return outcome;
    await client.query({ ...UPDATE, values: columnsOf(outcome.after) });
    const event = eventOf(outcome, caller, metadata.get("x-actor-id")[0]?.toString());
    await client.query({
      ...INSERT_EVENT,
      values: [
        organizationId,
        event.id,
        event.entityId,
        event.entityVersion,
        event.entityType,
        event.type,
        event.externalId,
        event.externalIds,
        event.updatedFields,
        event.previousValues,
        event.newValues,
        event.actor,
        event.principal,
        event.source,
        event.reason,
        event.metadata,
        instantToText(event.recordedAt),
      ],
    });
    return outcome;
  });
  return presentUpdate(decided, parsed);
});

const columnsOf = (state: EntityState) => [
  state.organizationId,
  state.id,
  state.version,
  primaryOf(state)?.externalId ?? null,
  state.name,
  state.taxId,
  taxIdKeyOf(state),
  state.taxIdCheck,
  state.status,
  state.nationality,
  state.riskMatrixId,
  state.entityData,
  state.attributes,
  state.metadata,
  state.etag,
  instantToText(state.updatedAt),
];

const bearerOf = (metadata: Metadata) => metadata.get("authorization")[0]?.toString();

/** An async function as grpc-js wants its handlers. */
function unary<M extends DescMethodUnary>(
  method: M,
  serve: (call: ServerUnaryCall<MessageShape<M["input"]>, unknown>) => Promise<MessageShape<M["output"]>>,
): { method: M; handler: handleUnaryCall<any, any> } {
  return {
    method,
    handler: async (call, callback) => {
      try {
        const response = await serve(call);
        callback(null, response);
      } catch (error) {
        const refusal = error instanceof DomainError ? error : undefined;
        if (refusal === undefined) console.error(error);
        const code = refusal === undefined ? status.INTERNAL : (CODE[refusal.reason] as number as status);
        callback({ code, details: refusal?.message ?? "internal error" });
      }
    },
  };
}

function definitionOf(method: DescMethod): MethodDefinition<any, any> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: false,
    responseStream: false,
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    requestSerialize: (message) => Buffer.from(toBinary(method.input, message)),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(method.output, message)),
  };
}

const server = new Server({ "grpc.max_receive_message_length": 1024 * 1024 });
const rpcs = [getEntity, updateEntity];
server.addService(
  Object.fromEntries(rpcs.map(({ method }) => [method.localName, definitionOf(method)])),
  Object.fromEntries(rpcs.map(({ method, handler }) => [method.localName, handler])),
);
server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error;
});
process.once("SIGTERM", () => process.exit(0));
