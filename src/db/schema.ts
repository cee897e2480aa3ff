// The tables, and the one list of their columns: MikroORM reads and writes by it what goes through its unit of work, and
// columns.ts makes of it what statements written by hand select and send. migrations/ is what makes the tables;
// test/database.test.ts holds the two together. Every key begins with organization_id: the tenant wall, the index
// prefix, the distribution column.
// Long because it is one list: every table is in it, and nowhere else.
import { defineEntity, type InferEntity, p } from "@mikro-orm/core";
import type { DetachCause, EntityState, EventType, Layer } from "../domain/entity-state.ts";
import type { JsonObject } from "../domain/json.ts";
import type { RiskLevel, RiskRule, RiskRuleResult, RiskThresholds } from "../domain/risk.ts";
import { CountType, ExternalIdsType, InstantType } from "./types.ts";
import { newId } from "./uuid.ts";

const organizationId = p.uuid().primary();
/** Compared byte by byte, whatever the database's own collation. */
const code = () => p.text().collation("C");
/** For times whose milliseconds are enough. */
const date = () => p.datetime().columnType("timestamptz");
/** A new one with each change that MikroORM's dirty check finds. */
const etag = () => p.uuid().onCreate(newId).onUpdate(newId);
/** The time of such a change, later than the one before. */
const changedAt = () =>
  date()
    .defaultRaw("clock_timestamp()")
    .onUpdate(({ updatedAt }: { updatedAt: Date }) => new Date(Math.max(Date.now(), updatedAt.getTime() + 1)));
const instant = () => p.type(InstantType);
const count = () => p.type(CountType);
/** Null in rows that were written before there were hashes. */
const hash = () => p.blob().$type<Buffer>().nullable();
const json = () => p.json().$type<JsonObject>();

export const OrganizationRow = defineEntity({
  name: "OrganizationRow",
  tableName: "organization",
  properties: {
    organizationId,
    displayName: p.text(),
    externalIdPolicy: p.text().$type<"MUTABLE_WITH_REASON" | "IMMUTABLE">(),
    eventRetentionDays: p.integer().nullable(),
    etag: etag(),
    createdAt: date().defaultRaw("clock_timestamp()"),
    updatedAt: changedAt(),
  },
});
export type OrganizationRow = InferEntity<typeof OrganizationRow>;

export const ApiKeyRow = defineEntity({
  name: "ApiKeyRow",
  tableName: "api_key",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    digest: p.blob(),
    displayName: p.text(),
    scopes: p.array().columnType("text[]"),
    createdAt: date().defaultRaw("clock_timestamp()"),
    expiresAt: date().nullable(),
    revokedAt: date().nullable(),
  },
});
export type ApiKeyRow = InferEntity<typeof ApiKeyRow>;

export const EntityRow = defineEntity({
  name: "EntityRow",
  tableName: "entity",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    version: count(),
    type: p.text().$type<EntityState["type"]>(),
    countryCode: p.text(),
    /** The primary one of externalIds, for rows that refer to the entity. */
    externalId: code().nullable().hydrate(false),
    externalIds: p.type(ExternalIdsType),
    name: code(),
    taxId: p.text().nullable(),
    /** The key by which taxId is found. */
    taxIdKey: code().nullable().hydrate(false),
    /** The key's canonical form by the country, where that is another text. */
    taxIdCanonical: code().nullable().hydrate(false),
    /** The version of the rules that made these two and taxIdCheck: TAX_ID_RULES. */
    taxIdRules: p.smallint().default(1).hydrate(false),
    taxIdCheck: p.text().$type<NonNullable<EntityState["taxIdCheck"]>>().nullable(),
    status: p.text().$type<EntityState["status"]>(),
    nationality: p.text().nullable(),
    riskMatrixId: p.uuid().nullable(),
    riskScore: p.string().columnType("numeric(12,2)").nullable(),
    entityData: json().nullable(),
    attributes: json(),
    metadata: json(),
    etag: p.uuid(),
    createdAt: instant(),
    updatedAt: instant(),
    deletedAt: instant().nullable(),
    /** The entity that it was merged into. */
    mergedInto: p.uuid().nullable(),
    /** Where the chain of mergedInto ends. */
    survivorId: p.uuid().nullable().hydrate(false),
    /** What a survivor has by itself, apart from what merged entities have added: read where it is locked. */
    layer: p.json().$type<Layer>().nullable().hydrate(false),
    /** The words of its names, each behind a blank; null in a row of an older version that is not filled in yet. */
    nameWords: code().nullable().hydrate(false),
    /** Digests of what entities that may be one share. */
    nameDateKey: p.uuid().nullable().hydrate(false),
    nameNumberKey: p.uuid().nullable().hydrate(false),
    /** The hash of its last event: read where it is locked, by those who write the next one. */
    auditHead: hash().hydrate(false),
  },
});

export const ExternalIdRow = defineEntity({
  name: "ExternalIdRow",
  tableName: "external_id",
  properties: {
    organizationId,
    externalId: code().primary(),
    entityId: p.uuid(),
    type: p.text().nullable(),
    isPrimary: p.boolean(),
    attachedAt: instant(),
    /** Of an alias: since when its lookups are recorded. */
    trackedSince: instant().nullable(),
    /** The UTC date of the last of them: YYYY-MM-DD. */
    lastResolvedOn: p.string().columnType("date").nullable(),
    /** The merged entity that brought it. */
    homeId: p.uuid().nullable(),
    /** Without case and blanks, where that is another text. */
    folded: code().nullable().hydrate(false),
  },
});

/** The words of nameWords, to be searched by their beginnings. */
export const EntityWordRow = defineEntity({
  name: "EntityWordRow",
  tableName: "entity_word",
  properties: {
    organizationId,
    word: code().primary(),
    entityId: p.uuid().primary(),
  },
});

/** The times at which external ids were attached to entities and have left them. */
export const ExternalIdPastRow = defineEntity({
  name: "ExternalIdPastRow",
  tableName: "external_id_past",
  properties: {
    organizationId,
    externalId: code().primary(),
    attachedAt: p.type(InstantType).primary(),
    detachedAt: instant(),
    entityId: p.uuid(),
    type: p.text().nullable(),
    cause: p.text().$type<DetachCause>(),
    /** Its event, which may have been pruned. */
    eventId: p.uuid(),
  },
});

/** Merges of entities, those that were undone too. */
export const EntityMergeRow = defineEntity({
  name: "EntityMergeRow",
  tableName: "entity_merge",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    primaryId: p.uuid(),
    secondaryId: p.uuid(),
    /** From 1: the merges into one primary, in their order. */
    ordinal: p.integer(),
    /** Those of the secondary when it was merged. */
    externalIds: p.type(ExternalIdsType),
    /** The primary external id of the primary then. */
    primaryExternalId: code().nullable(),
    reason: p.text(),
    actor: p.text(),
    principal: p.uuid(),
    source: p.text(),
    requestId: p.uuid().nullable(),
    mergedAt: instant(),
    undoneAt: instant().nullable(),
    undoneReason: p.text().nullable(),
    undoneActor: p.text().nullable(),
    undonePrincipal: p.uuid().nullable(),
    undoneSource: p.text().nullable(),
  },
});

/** Pairs of entities that are known to be different, those that were lifted too. */
export const EntityDistinctRow = defineEntity({
  name: "EntityDistinctRow",
  tableName: "entity_distinct",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    lowId: p.uuid(),
    highId: p.uuid(),
    markedAt: instant(),
    markEventId: p.uuid(),
    liftedAt: instant().nullable(),
    liftEventId: p.uuid().nullable(),
  },
});

export const EntityEventRow = defineEntity({
  name: "EntityEventRow",
  tableName: "entity_event",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    entityId: p.uuid(),
    entityVersion: count(),
    entityType: p.text().$type<EntityState["type"]>(),
    type: p.text().$type<EventType>(),
    externalId: p.text().nullable(),
    externalIds: p.array().columnType("text[]"),
    updatedFields: p.array().columnType("text[]"),
    previousValues: json(),
    newValues: json(),
    actor: p.text(),
    principal: p.uuid(),
    source: p.text(),
    reason: p.text().nullable(),
    requestId: p.uuid().nullable(),
    metadata: json(),
    recordedAt: instant(),
    occurredAt: instant().nullable(),
    salt: hash(),
    /** Of what is personal in the event: computed by whoever has the event, and read only where it was erased. */
    personalHash: hash().hydrate(false),
    /** The hash of the entity's event before this one. */
    previousHash: hash(),
    hash: hash(),
    // Both are set by the database and read by the feed.
    xid: p.string().columnType("xid8").defaultRaw("pg_current_xact_id()").hydrate(false),
    /** Its default is the present epoch: move_feed_epoch() changes it. */
    epoch: p.integer().hydrate(false),
  },
});

/** How far the log was pruned; prune_events() writes it. */
export const EventHorizonRow = defineEntity({
  name: "EventHorizonRow",
  tableName: "event_horizon",
  properties: {
    organizationId,
    epoch: p.integer(),
    xid: p.string().columnType("xid8"),
    snapshot: p.string().columnType("pg_snapshot"),
    recordedAt: date(),
  },
});

export const TransactionRow = defineEntity({
  name: "TransactionRow",
  tableName: "transaction",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    externalId: code().nullable(),
    type: p.text(),
    status: p.text().nullable(),
    amount: p.text(),
    currency: p.text(),
    originEntityId: p.uuid().nullable(),
    originExternalId: code().nullable(),
    originName: p.text().nullable(),
    originCountry: p.text().nullable(),
    destinationEntityId: p.uuid().nullable(),
    destinationExternalId: code().nullable(),
    destinationName: p.text().nullable(),
    destinationCountry: p.text().nullable(),
    transactedAt: instant(),
    details: json().nullable(),
    contentHash: p.blob().$type<Buffer>(),
    recordedAt: instant().defaultRaw("clock_timestamp()"),
  },
});

export const UserEventRow = defineEntity({
  name: "UserEventRow",
  tableName: "user_event",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    entityId: p.uuid(),
    entityExternalId: code().nullable(),
    eventType: p.text(),
    occurredAt: instant(),
    payload: json().nullable(),
    recordedAt: instant().defaultRaw("clock_timestamp()"),
  },
});

export const RequestRecordRow = defineEntity({
  name: "RequestRecordRow",
  tableName: "request_record",
  properties: {
    organizationId,
    principal: p.uuid().primary(),
    method: p.text().primary(),
    requestId: p.uuid().primary(),
    requestHash: p.blob(),
    response: p.blob().nullable(),
    createdAt: date(),
  },
});

export const WebhookEndpointRow = defineEntity({
  name: "WebhookEndpointRow",
  tableName: "webhook_endpoint",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    url: p.text(),
    displayName: p.text(),
    description: p.text().default(""),
    eventTypes: p.array().columnType("text[]"),
    entityTypes: p.array().columnType("text[]"),
    statusChanges: p.text().$type<"ALONE" | "ALWAYS">(),
    state: p.text().$type<"ENABLED" | "DISABLED">(),
    disabledReason: p.text().$type<"REQUESTED" | "GONE" | "FAILING">().nullable(),
    disabledAt: date().nullable(),
    secret: p.text(),
    previousSecret: p.text().nullable(),
    previousSecretExpiresAt: date().nullable(),
    etag: etag(),
    createdAt: date().defaultRaw("clock_timestamp()"),
    updatedAt: changedAt(),
    deletedAt: date().nullable(),
    position: p.text(),
    positionEpoch: p.uuid(),
    positionXmax: p.string().columnType("xid8"),
    positionRunning: p.array().columnType("xid8[]"),
    positionAt: date().defaultRaw("clock_timestamp()"),
    catchUpAt: date().nullable(),
    catchUpId: p.uuid().nullable(),
    catchUpUntil: date().nullable(),
    failures: p.integer().default(0),
    failingSince: date().nullable(),
    pausedUntil: date().nullable(),
    leaseHolder: p.uuid().nullable(),
    leaseUntil: date().nullable(),
  },
});
export type WebhookEndpointRow = InferEntity<typeof WebhookEndpointRow>;

export const WebhookDeliveryRow = defineEntity({
  name: "WebhookDeliveryRow",
  tableName: "webhook_delivery",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    endpointId: p.uuid(),
    eventId: p.uuid(),
    event: p.text(),
    rank: p.smallint(),
    subjectId: p.uuid(),
    entityVersion: p.string().columnType("bigint"),
    recordedAt: date(),
    payload: p.json().nullable(),
    state: p.text(),
    attemptCount: p.integer().default(0),
    attempts: p.json(),
    firstAttemptAt: date().nullable(),
    nextAttemptAt: date().nullable(),
    createdAt: date().defaultRaw("clock_timestamp()"),
    finishedAt: date().nullable(),
  },
});

/** Written and read by the statements of administration.ts. */
export const AdministrationEventRow = defineEntity({
  name: "AdministrationEventRow",
  tableName: "administration_event",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    type: code(),
    subjectId: p.uuid(),
    previousValues: p.json(),
    newValues: p.json(),
    actor: p.text(),
    principal: p.uuid(),
    source: p.text(),
    requestId: p.uuid().nullable(),
    callId: p.uuid().nullable(),
    peer: p.text().nullable(),
    recordedAt: date().defaultRaw("clock_timestamp()"),
  },
});

/** The signed list of events that were there; src/domain/checkpoint.ts says what is in it. */
export const AuditCheckpointRow = defineEntity({
  name: "AuditCheckpointRow",
  tableName: "audit_checkpoint",
  properties: {
    organizationId,
    number: p.type(CountType).primary(),
    epoch: p.integer(),
    fromPosition: p.string().columnType("pg_snapshot"),
    toPosition: p.string().columnType("pg_snapshot"),
    count: count(),
    total: count(),
    firstAt: instant(),
    lastAt: instant(),
    horizon: instant().nullable(),
    root: p.blob().$type<Buffer>(),
    previousHash: p.blob().$type<Buffer>(),
    keyId: p.blob().$type<Buffer>().nullable(),
    createdAt: instant(),
    body: p.text(),
    signature: p.blob().$type<Buffer>().nullable(),
    /** Null once all of its events were pruned. Large: read only where it is needed. */
    leaves: p.blob().$type<Buffer>().nullable().hydrate(false),
  },
});

export const RiskMatrixRow = defineEntity({
  name: "RiskMatrixRow",
  tableName: "risk_matrix",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    displayName: p.text(),
    description: p.text(),
    /** The last. */
    version: p.integer(),
    etag: etag(),
    createdAt: date().defaultRaw("clock_timestamp()"),
    updatedAt: changedAt(),
    deletedAt: date().nullable(),
  },
});
export type RiskMatrixRow = InferEntity<typeof RiskMatrixRow>;

/** What a matrix was in each of its versions: never changed and never removed. */
export const RiskMatrixVersionRow = defineEntity({
  name: "RiskMatrixVersionRow",
  tableName: "risk_matrix_version",
  properties: {
    organizationId,
    riskMatrixId: p.uuid().primary(),
    version: p.integer().primary(),
    rules: p.json().$type<readonly RiskRule[]>(),
    thresholds: p.json().$type<RiskThresholds>(),
    /** Whether a rule depends on the date. */
    mentionsToday: p.boolean(),
    sha256: p.blob().$type<Buffer>(),
    createdAt: date().defaultRaw("clock_timestamp()"),
  },
});
export type RiskMatrixVersionRow = InferEntity<typeof RiskMatrixVersionRow>;

/** The receipts of analyses: never changed and never removed. */
export const EvaluationRow = defineEntity({
  name: "EvaluationRow",
  tableName: "evaluation",
  properties: {
    organizationId,
    id: p.uuid().primary(),
    entityId: p.uuid(),
    entityVersion: count(),
    entityHash: hash(),
    riskMatrixId: p.uuid(),
    matrixVersion: p.integer(),
    matrixSha256: p.blob().$type<Buffer>(),
    engine: p.text(),
    today: p.text(),
    rawScore: p.text().nullable(),
    riskScore: p.text().nullable(),
    level: p.text().$type<RiskLevel>().nullable(),
    incomplete: p.boolean(),
    results: p.json().$type<readonly RiskRuleResult[]>(),
    actor: p.text(),
    principal: p.uuid(),
    source: p.text(),
    requestId: p.uuid().nullable(),
    evaluatedAt: instant(),
    eventId: p.uuid(),
  },
});

/** Every table of an organization's data. */
export const TABLES = [
  OrganizationRow,
  ApiKeyRow,
  EntityRow,
  ExternalIdRow,
  EntityWordRow,
  ExternalIdPastRow,
  EntityMergeRow,
  EntityDistinctRow,
  EntityEventRow,
  EventHorizonRow,
  TransactionRow,
  UserEventRow,
  RequestRecordRow,
  WebhookEndpointRow,
  WebhookDeliveryRow,
  AdministrationEventRow,
  AuditCheckpointRow,
  RiskMatrixRow,
  RiskMatrixVersionRow,
  EvaluationRow,
];
