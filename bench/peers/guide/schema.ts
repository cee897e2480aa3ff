// The tables as MikroORM's guide has them: entities with a relation between them.
import { defineEntity, p, Type } from "@mikro-orm/core";
import type { JsonObject } from "../../../src/domain/json.ts";
import { type Instant, instantToText, parseInstant } from "../../../src/domain/time.ts";

/** Microseconds, which a Date would cut off. */
class InstantType extends Type<Instant, string> {
  override convertToDatabaseValue(value: Instant): string {
    return typeof value === "bigint" ? instantToText(value) : value;
  }

  override convertToJSValue(value: string): Instant {
    return parseInstant(value);
  }

  override getColumnType(): string {
    return "timestamptz";
  }

  override compareAsType(): string {
    return "string";
  }
}

const instant = () => p.type(InstantType).$type<Instant>();

export const Entity = defineEntity({
  name: "Entity",
  tableName: "entity",
  properties: {
    organizationId: p.uuid().primary(),
    id: p.uuid().primary(),
    version: p.bigint("number"),
    type: p.text().$type<"person" | "company">(),
    countryCode: p.text(),
    externalId: p.text().nullable(),
    externalIds: p.json<[externalId: string, type: string, primary: boolean, attachedAt: string][]>(),
    name: p.text(),
    taxId: p.text().nullable(),
    taxIdKey: p.text().nullable(),
    taxIdCheck: p.text().nullable(),
    status: p.text(),
    nationality: p.text().nullable(),
    riskMatrixId: p.uuid().nullable(),
    riskScore: p.string().columnType("numeric(12,2)").nullable(),
    entityData: p.json<JsonObject>().nullable(),
    attributes: p.json<JsonObject>(),
    metadata: p.json<JsonObject>(),
    etag: p.uuid(),
    createdAt: instant(),
    updatedAt: instant(),
    deletedAt: instant().nullable(),
    names: () => p.oneToMany(ExternalId).mappedBy("entity"),
  },
});

export const ExternalId = defineEntity({
  name: "ExternalId",
  tableName: "external_id",
  properties: {
    organizationId: p.uuid().primary(),
    externalId: p.text().primary(),
    entity: () => p.manyToOne(Entity).joinColumns("organization_id", "entity_id").ownColumns("entity_id"),
    type: p.text().nullable(),
    isPrimary: p.boolean(),
    attachedAt: instant(),
  },
});

export const EntityEvent = defineEntity({
  name: "EntityEvent",
  tableName: "entity_event",
  properties: {
    organizationId: p.uuid().primary(),
    id: p.uuid().primary(),
    entityId: p.uuid(),
    entityVersion: p.bigint("number"),
    entityType: p.text(),
    type: p.text(),
    externalId: p.text().nullable(),
    externalIds: p.array().columnType("text[]"),
    updatedFields: p.array().columnType("text[]"),
    previousValues: p.json<JsonObject>(),
    newValues: p.json<JsonObject>(),
    actor: p.text(),
    principal: p.uuid(),
    source: p.text(),
    reason: p.text().nullable(),
    requestId: p.uuid().nullable(),
    metadata: p.json<JsonObject>(),
    recordedAt: instant(),
    occurredAt: instant().nullable(),
  },
});
