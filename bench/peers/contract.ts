// What both peers share with the service: the contract, its validation, the pure rule of an update and the
// messages. What they do not share is what is measured: the transport, the way into the database, the way back.
import { create } from "@bufbuild/protobuf";
import { EntitySchema } from "../../clients/typescript/gen/entity/v1/entity_pb.ts";
import {
  type GetEntityRequest,
  GetEntityRequestSchema,
  type UpdateEntityRequest,
  UpdateEntityRequestSchema,
  type UpdateEntityResponse,
  UpdateEntityResponseSchema,
} from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { newId } from "../../src/db/uuid.ts";
import { changedFields, changedValues } from "../../src/domain/changed-fields.ts";
import { type EntityPatch, update } from "../../src/domain/entity.ts";
import type { EntityState } from "../../src/domain/entity-state.ts";
import { DomainError, notFound } from "../../src/domain/errors.ts";
import { latestDate } from "../../src/domain/time.ts";
import { cachedCallers } from "../../src/interceptors/cached-callers.ts";
import type { Caller } from "../../src/interceptors/call.ts";
import { fromProto, toProto } from "../../src/rpc/entity-message.ts";
import { parseLookup, parseReason } from "../../src/rpc/request.ts";
import { Violations } from "../../src/rpc/violations.ts";
import { assertWellFormed } from "../../src/rpc/well-formed.ts";

/** Where the peers listen and what they read: set by the bench, the same for both. */
export function peerSettings() {
  const { PORT, DATABASE_HOST, DATABASE_PORT, DATABASE_NAME, DATABASE_USER } = process.env;
  return {
    port: Number(PORT),
    poolSize: 10,
    database: {
      host: DATABASE_HOST ?? "",
      port: Number(DATABASE_PORT),
      database: DATABASE_NAME ?? "",
      user: DATABASE_USER ?? "",
    },
  };
}

/** The service's own cache of API keys, over the peer's own query. */
export const callersOf = (findCaller: (secret: string) => Promise<Caller | null>) =>
  cachedCallers((secrets) => Promise.all(secrets.map(findCaller)), {
    positiveMs: 4_000,
    negativeMs: 1_000,
    max: 10_000,
  });

/** The caller of a header `authorization: Bearer <key>`, of the scope. Throws UNAUTHENTICATED or PERMISSION_DENIED. */
export async function callerOf(
  authorization: string | null | undefined,
  scope: string,
  find: (secret: string) => Promise<Caller | null>,
): Promise<Caller> {
  const secret = /^Bearer +([A-Za-z0-9._~+/=-]{1,256})$/i.exec(authorization ?? "")?.[1];
  const caller = secret === undefined ? null : await find(secret);
  if (caller === null) throw new DomainError("UNAUTHENTICATED", "The API key is unknown, expired or revoked");
  if (!caller.scopes.has(scope)) throw new DomainError("PERMISSION_DENIED", `The API key has not the scope ${scope}`);
  return caller;
}

/** The external id that a GetEntity asks for: the other lookups and the read mask are not measured. */
export function parseGet(request: GetEntityRequest): string {
  assertWellFormed(GetEntityRequestSchema, request);
  if (request.readMask !== undefined) throw notServed();
  return externalIdOf(request);
}

export interface ParsedUpdate {
  externalId: string;
  patch: EntityPatch;
  reason: string;
  etag: string;
  ignored: string[];
}

/** An UpdateEntity, checked as the service checks it; what is not measured is refused. */
export function parseUpdate(request: UpdateEntityRequest): ParsedUpdate {
  assertWellFormed(UpdateEntityRequestSchema, request);
  if (request.requestId !== "" || request.validateOnly || request.allowMissing || request.occurredAt !== undefined) {
    throw notServed();
  }
  const externalId = externalIdOf(request);
  const violations = new Violations();
  const input = fromProto(
    request.entity ?? create(EntitySchema),
    request.updateMask,
    latestDate(Date.now()),
    violations,
  );
  const reason = parseReason(request.reason, violations, false);
  violations.throwIfAny();
  return { externalId, patch: input.patch, reason, etag: request.etag, ignored: input.ignored };
}

/** What an update makes of the entity that was locked: the state after it and the fields that change, if any. */
export function decideUpdate(before: EntityState | null, { patch, reason, etag }: ParsedUpdate) {
  if (before === null) throw notFound("external_id");
  if (etag !== "" && etag !== before.etag) {
    throw new DomainError("ETAG_MISMATCH", "The entity has changed since it was read: read it again, then retry");
  }
  const change = update(before, patch, reason);
  if (change === null) return { before, after: before, change: null, updatedFields: [] };
  const now = BigInt(Date.now()) * 1000n;
  const after: EntityState = {
    ...change.values,
    id: before.id,
    organizationId: before.organizationId,
    version: before.version + 1,
    etag: newId(),
    createdAt: before.createdAt,
    updatedAt: now > before.updatedAt ? now : before.updatedAt + 1n,
  };
  return { before, after, change, updatedFields: changedFields(before, change.values) };
}

type Decided = ReturnType<typeof decideUpdate>;

/** The row of the log, as columns of entity_event are called in MikroORM's camel case. */
export function eventOf(
  { before, after, change, updatedFields }: Decided,
  caller: Caller,
  actor: string | null | undefined,
) {
  if (change === null) throw new Error("no change, no event");
  return {
    organizationId: after.organizationId,
    id: newId(),
    entityId: after.id,
    entityVersion: after.version,
    entityType: after.type,
    type: change.type,
    externalId: after.externalIds.find((id) => id.primary)?.externalId ?? null,
    externalIds: after.externalIds.map((id) => id.externalId),
    updatedFields: [...updatedFields],
    ...changedValues(before, change.values, updatedFields),
    actor: actor ?? caller.apiKeyId,
    principal: caller.apiKeyId,
    source: "api",
    reason: change.reason === "" ? null : change.reason,
    requestId: null,
    metadata: {},
    recordedAt: after.updatedAt,
    occurredAt: null,
  };
}

export function presentUpdate(
  { before, after, updatedFields }: Decided,
  { ignored }: ParsedUpdate,
): UpdateEntityResponse {
  return create(UpdateEntityResponseSchema, {
    entity: toProto(after),
    previousEntity: toProto(before),
    updatedFields: [...updatedFields],
    ignoredFields: ignored,
    created: false,
  });
}

function externalIdOf(request: GetEntityRequest | UpdateEntityRequest): string {
  const lookup = parseLookup(request.lookup);
  if (lookup.by !== "external_id") throw notServed();
  return lookup.key;
}

const notServed = () => new DomainError("UNIMPLEMENTED", "The peer serves what is measured");
