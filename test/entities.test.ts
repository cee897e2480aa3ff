// Sections B and C of the rules: creating and updating an entity.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type CompanyDataSchema,
  Designation,
  type Entity,
  type EntityEvent,
  type EntitySchema,
  EntityStatus,
  EntityType,
  EventType,
  type PersonDataSchema,
  TaxIdCheck,
  type UpdateEntityRequestSchema,
} from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId } from "./given.ts";
import { captureHeaders, forget, refusal, startService, type TestService } from "./harness.ts";

type EntityInit = MessageInitShape<typeof EntitySchema>;
type UpdateInit = MessageInitShape<typeof UpdateEntityRequestSchema>;

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const reason = "a reason of some length";
const fresh = () => `x-${randomUUID()}`;
const freshTaxId = () => `T${randomUUID().replaceAll("-", "")}`;
const person = (value: MessageInitShape<typeof PersonDataSchema>) => ({ kind: { case: "person" as const, value } });
const company = (value: MessageInitShape<typeof CompanyDataSchema>) => ({ kind: { case: "company" as const, value } });

const minimal = { type: EntityType.PERSON, name: "Ana", countryCode: "AR" };
const create = async (
  values: EntityInit = {},
  more: { reason?: string; requireUniqueTaxId?: boolean; validateOnly?: boolean } = {},
): Promise<Entity> => {
  const { entity } = await service.client.entities.createEntity({
    entity: { ...minimal, ...values } as EntityInit,
    ...more,
  });
  if (entity === undefined) throw new Error("no entity");
  return entity;
};
const newCompany = (values: EntityInit = {}) => create({ type: EntityType.COMPANY, name: "Acme", ...values });
const get = async ({ id }: { id: string }): Promise<Entity> => {
  const { entity } = await service.client.entities.getEntity({ lookup: byId({ id }) });
  if (entity === undefined) throw new Error("no entity");
  return entity;
};
const updateCall = (target: { id: string }, entity: EntityInit | undefined, more: UpdateInit = {}) =>
  service.client.entities.updateEntity({ lookup: byId(target), entity, ...more } as UpdateInit);
/** An update whose answer is checked against what is read afterwards. */
async function update(target: { id: string }, entity: EntityInit | undefined, more: UpdateInit = {}) {
  const answer = await updateCall(target, entity, more);
  expect(answer.entity).toEqual(await get(target));
  if (answer.entity === undefined || answer.previousEntity === undefined) throw new Error("no entity");
  return { ...answer, entity: answer.entity, previousEntity: answer.previousEntity };
}
const masked = (...paths: string[]): UpdateInit => ({ updateMask: { paths } });
const eventsOf = async ({ id }: { id: string }): Promise<EntityEvent[]> =>
  (await service.client.entities.listEntityEvents({ lookup: byId({ id }), pageSize: 1000 })).events;
const dataOf = ({ entityData }: Entity) => {
  const { $typeName: _, ...data } = (entityData?.kind.value ?? {}) as Record<string, unknown>;
  return data;
};
const micros = (time: { seconds: bigint; nanos: number } | undefined) =>
  time === undefined ? -1n : time.seconds * 1_000_000n + BigInt(time.nanos / 1000);
/** All rows of the organization, to check that nothing was written. */
const everything = async () =>
  service.sql(`select (select count(*)::int from entity) as entities, (select count(*)::int from external_id) as ids,
    (select count(*)::int from entity_event) as events, (select coalesce(sum(version), 0)::int from entity) as versions,
    (select count(*)::int from request_record) as requests`);

async function connectJson(method: string, body: string) {
  const response = await fetch(`${service.baseUrl}/entity.v1.EntityService/${method}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${service.organization.apiKey}` },
    body,
  });
  const text = await response.text();
  return { status: response.status, text, body: JSON.parse(text) as any };
}

// --- Creation -----------------------------------------------------------------------------------

describe("CreateEntity", () => {
  it("rule 14: trims the name, upper-cases the country, makes a pending entity", async () => {
    const entity = await create({ name: "  Ana  ", countryCode: "ar", externalId: " a-1 " });
    expect(entity).toMatchObject({ name: "Ana", countryCode: "AR", externalId: "a-1", status: EntityStatus.PENDING });
    expect(entity.organizationId).toBe(service.organization.id);
    expect(entity.externalIds).toMatchObject([
      { externalId: "a-1", type: "", designation: Designation.PRIMARY, attachedAt: entity.createdAt },
    ]);
    expect(entity.updatedAt).toEqual(entity.createdAt);
    expect(await get(entity)).toEqual(entity);
  });

  it("rule 14: refuses an entity without type, name or country, and says so of each", async () => {
    const fields = ["entity.type", "entity.country_code", "entity.name"];
    expect(await refusal(service.client.entities.createEntity({ entity: {} }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields,
    });
    expect(await refusal(service.client.entities.createEntity({}))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields,
    });
  });

  it.each([
    ["name", "", "entity.name"],
    ["name", " \t ", "entity.name"],
    ["name", "a\nb", "entity.name"],
    ["name", "a\u202eb", "entity.name"],
    ["name", "x".repeat(513), "entity.name"],
    ["name", "😀".repeat(513), "entity.name"],
    ["countryCode", "A", "entity.country_code"],
    ["countryCode", "ARG", "entity.country_code"],
    ["countryCode", "A1", "entity.country_code"],
    ["countryCode", " AR", "entity.country_code"],
    ["countryCode", "ÁR", "entity.country_code"],
    ["countryCode", "ıt", "entity.country_code"],
    ["externalId", "   ", "entity.external_id"],
    ["externalId", "a\tb", "entity.external_id"],
    ["externalId", "a\u200bb", "entity.external_id"],
    ["externalId", "x".repeat(256), "entity.external_id"],
    ["taxId", "", "entity.tax_id"],
    ["taxId", "1".repeat(65), "entity.tax_id"],
    ["taxId", "四二", "entity.tax_id"],
    ["nationality", "", "entity.nationality"],
    ["nationality", "Argentina", "entity.nationality"],
    ["riskMatrixId", "", "entity.risk_matrix_id"],
    ["riskMatrixId", "high-risk-matrix-uuid", "entity.risk_matrix_id"],
  ])("rule 14: refuses %s %j", async (name, value, field) => {
    const before = await everything();
    expect(await refusal(create({ [name]: value }))).toMatchObject({ reason: "VALIDATION_ERROR", fields: [field] });
    expect(await everything()).toEqual(before);
  });

  it("rule 14: takes the longest name and external id, counted in code points, and blanks inside", async () => {
    const name = "😀".repeat(512);
    const externalId = `${"😀".repeat(127)} ${"é".repeat(127)}`;
    expect(await create({ name, externalId })).toMatchObject({ name, externalId });
    expect((await service.client.entities.getEntity({ lookup: byExternalId(externalId) })).entity?.name).toBe(name);
  });

  it("rule 14: output-only fields do not decide anything", async () => {
    const id = randomUUID();
    const entity = await create({
      id,
      organizationId: randomUUID(),
      etag: "mine",
      riskScore: "99.00",
      taxIdCheck: TaxIdCheck.VALID,
      createdAt: { seconds: 1n },
      updatedAt: { seconds: 1n },
      deletedAt: { seconds: 1n },
      externalIds: [{ externalId: fresh() }],
    });
    expect(entity.id).not.toBe(id);
    expect(entity).toMatchObject({
      organizationId: service.organization.id,
      taxIdCheck: TaxIdCheck.UNSPECIFIED,
      externalId: "",
      externalIds: [],
    });
    expect(entity.etag).not.toBe("mine");
    expect([entity.riskScore, entity.deletedAt]).toEqual([undefined, undefined]);
    expect(micros(entity.createdAt)).toBeGreaterThan(1_700_000_000_000_000n);
  });

  it("rule 15: takes every status; a restricted one needs its reason here too", async () => {
    for (const status of [
      EntityStatus.PENDING,
      EntityStatus.UNDER_REVIEW,
      EntityStatus.ACTIVE,
      EntityStatus.INACTIVE,
    ]) {
      expect((await create({ status })).status).toBe(status);
    }
    for (const [status, word] of [
      [EntityStatus.BLOCKED, "blocked"],
      [EntityStatus.SUSPENDED, "suspended"],
      [EntityStatus.REJECTED, "rejected"],
    ] as const) {
      for (const blank of ["", " \n "]) {
        expect(await refusal(create({ status }, { reason: blank }))).toMatchObject({
          reason: "STATUS_REASON_REQUIRED",
          message: `Changing status to '${word}' requires a reason for audit purposes.`,
        });
      }
      const entity = await create({ status }, { reason: "x" });
      expect(entity.status).toBe(status);
      expect((await eventsOf(entity))[0]).toMatchObject({ type: EventType.CREATED, reason: "x" });
    }
  });

  it("rule 16: an external id in use, as a primary or as an alias of any type, is DUPLICATE_EXTERNAL_ID", async () => {
    const owner = await create({ externalId: fresh() });
    const alias = fresh();
    await service.client.entities.addExternalIds({
      lookup: byId(owner),
      externalIds: [{ externalId: alias, type: "cif" }],
    });
    const before = await everything();
    for (const externalId of [owner.externalId, ` ${owner.externalId} `, alias]) {
      expect(await refusal(create({ externalId, type: EntityType.COMPANY }))).toMatchObject({
        reason: "DUPLICATE_EXTERNAL_ID",
        code: Code.AlreadyExists,
        fields: ["entity.external_id"],
      });
    }
    expect(await everything()).toEqual(before);
    // Upper case is another id, and another organization may have the same one.
    expect((await create({ externalId: alias.toUpperCase() })).externalId).toBe(alias.toUpperCase());
    const other = await service.newOrganization();
    const { entity } = await other.client.entities.createEntity({ entity: { ...minimal, externalId: alias } });
    expect(entity?.externalId).toBe(alias);
  });

  it("rule 16: entities without an external id do not collide", async () => {
    const made = await Promise.all([create(), create(), create()]);
    expect(new Set(made.map(({ id }) => id)).size).toBe(3);
  });

  it("rule 18: a tax id may be shared; require_unique_tax_id refuses it by its letters and digits", async () => {
    const taxId = freshTaxId();
    const first = await create({ taxId });
    expect((await create({ taxId })).taxId).toBe(taxId);
    const spelled = `${taxId.slice(0, 3).toLowerCase()}-${taxId.slice(3)}`;
    expect(await refusal(create({ taxId: spelled }, { requireUniqueTaxId: true }))).toMatchObject({
      reason: "DUPLICATE_TAX_ID",
      code: Code.AlreadyExists,
      fields: ["entity.tax_id"],
    });
    expect(await refusal(create({ taxId: spelled }, { requireUniqueTaxId: true, validateOnly: true }))).toMatchObject({
      reason: "DUPLICATE_TAX_ID",
    });
    const other = await service.newOrganization();
    await other.client.entities.createEntity({ entity: { ...minimal, taxId }, requireUniqueTaxId: true });
    // Two entities without a tax id are not duplicates of each other.
    await create({ taxId: "--" }, { requireUniqueTaxId: true });
    await create({}, { requireUniqueTaxId: true });
    expect(first.taxId).toBe(taxId);
  });

  it("rule 18: of 16 that want a tax id for themselves at once, one gets it", async () => {
    const taxId = freshTaxId();
    const outcomes = await Promise.all(
      Array.from({ length: 16 }, () =>
        create({ taxId }, { requireUniqueTaxId: true }).then(
          () => "created",
          async (error) => (await refusal(Promise.reject(error))).reason,
        ),
      ),
    );
    expect(outcomes.toSorted()).toEqual([...Array(15).fill("DUPLICATE_TAX_ID"), "created"].toSorted());
  });

  it.each([
    ["AR", EntityType.PERSON, "20-12345678-9", TaxIdCheck.CHECKSUM_FAILED],
    ["AR", EntityType.PERSON, "20-12345678-6", TaxIdCheck.VALID],
    ["AR", EntityType.PERSON, "hello", TaxIdCheck.UNKNOWN_FORMAT],
    ["BR", EntityType.COMPANY, "12.ABC.345/01DE-35", TaxIdCheck.VALID],
    ["BR", EntityType.COMPANY, "12.ABC.345/01DE-36", TaxIdCheck.CHECKSUM_FAILED],
    ["MX", EntityType.COMPANY, "Ñ&A010101AA9", undefined],
    ["ZZ", EntityType.PERSON, "1", TaxIdCheck.UNKNOWN_FORMAT],
  ])("rule 19: in %s, %s %j is annotated and never refused", async (countryCode, type, taxId, check) => {
    const entity = await create({ type, countryCode, taxId: `  ${taxId} ` });
    expect(entity.taxId).toBe(taxId);
    if (check === undefined) expect(entity.taxIdCheck).not.toBe(TaxIdCheck.UNSPECIFIED);
    else expect(entity.taxIdCheck).toBe(check);
  });

  it("rules 24, 74: a top-level null is not stored at creation either", async () => {
    const entity = await create({
      attributes: { a: null, b: { c: null } },
      metadata: { a: null },
      entityData: person({ firstName: "Ana", additional: { pet: null, car: "red" } }),
    });
    expect(entity.attributes).toEqual({ b: { c: null } });
    expect(entity.metadata).toBeUndefined();
    expect(dataOf(entity).additional).toEqual({ car: "red" });
    expect(await get(entity)).toEqual(entity);
  });

  it("rule 28: nationality comes from the person's data where the root one is not sent", async () => {
    expect((await create({ entityData: person({ nationality: "uy" }) })).nationality).toBe("UY");
    expect((await create({ nationality: "br", entityData: person({ nationality: "UY" }) })).nationality).toBe("BR");
    expect((await create({ entityData: person({ nationality: "Uruguay" }) })).nationality).toBeUndefined();
  });

  it("rule 26: company data for a person, and the reverse, is VALIDATION_ERROR", async () => {
    expect(await refusal(create({ entityData: company({}) }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.entity_data.company"],
    });
    expect(await refusal(newCompany({ entityData: person({ firstName: "A" }) }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.entity_data.person"],
    });
  });

  it("rule 38: validate_only answers what would be, writes nothing and refuses what would be refused", async () => {
    const externalId = fresh();
    const before = await everything();
    const requestId = randomUUID();
    const { entity } = await service.client.entities.createEntity({
      entity: { ...minimal, externalId, taxId: "20-12345678-6" },
      validateOnly: true,
      requestId,
    });
    expect(entity).toMatchObject({
      externalId,
      name: "Ana",
      status: EntityStatus.PENDING,
      taxIdCheck: TaxIdCheck.VALID,
    });
    expect(await everything()).toEqual(before);
    expect(await refusal(service.client.entities.getEntity({ lookup: byExternalId(externalId) }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    const taken = (await create({ externalId: fresh() })).externalId;
    expect(await refusal(create({ externalId: taken }, { validateOnly: true }))).toMatchObject({
      reason: "DUPLICATE_EXTERNAL_ID",
    });
    expect(await refusal(create({ status: EntityStatus.BLOCKED }, { validateOnly: true }))).toMatchObject({
      reason: "STATUS_REASON_REQUIRED",
    });
    expect(await refusal(create({ name: " " }, { validateOnly: true }))).toMatchObject({ reason: "VALIDATION_ERROR" });
    const reader = await service.organization.clientWith(["entities:read"]);
    expect(await refusal(reader.entities.createEntity({ entity: minimal, validateOnly: true }))).toMatchObject({
      reason: "PERMISSION_DENIED",
    });
  });
});

// --- Events rebuild the row ---------------------------------------------------------------------

/** What events and reads have in common: names and words of the seeds; unset fields are absent. */
const WORDS: Record<number, string> = {
  1: "pending",
  2: "under_review",
  3: "active",
  4: "inactive",
  5: "suspended",
  6: "blocked",
  7: "rejected",
};
const CHECK_WORDS: Record<number, string | undefined> = { 1: "valid", 2: "checksum_failed", 3: "unknown_format" };
const iso = (time: { seconds: bigint; nanos: number }) => {
  const fraction = String(time.nanos / 1000)
    .padStart(6, "0")
    .replace(/000$/, "");
  return `${new Date(Number(time.seconds) * 1000).toISOString().slice(0, 19)}.${fraction}Z`;
};
function flat(data: Record<string, unknown>): JsonObject {
  const { $typeName: _, $unknown: __, additional, ...listed } = data;
  const entries = Object.entries(listed).filter(
    ([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0),
  );
  return {
    ...Object.fromEntries(
      entries.map(([key, value]) => [key, key === "address" ? flat(value as Record<string, unknown>) : value]),
    ),
    ...(additional as JsonObject | undefined),
  } as JsonObject;
}
function asEvent(entity: Entity): JsonObject {
  const kind = entity.entityData?.kind;
  const values: Record<string, unknown> = {
    type: entity.type === EntityType.PERSON ? "person" : "company",
    countryCode: entity.countryCode,
    externalId: entity.externalId || undefined,
    externalIds:
      entity.externalIds.length === 0
        ? undefined
        : entity.externalIds.map((id) => ({
            externalId: id.externalId,
            ...(id.type === "" ? {} : { type: id.type }),
            ...(id.designation === Designation.PRIMARY ? { designation: "primary" } : {}),
            attachedAt: iso(id.attachedAt!),
          })),
    name: entity.name,
    taxId: entity.taxId,
    taxIdCheck: CHECK_WORDS[entity.taxIdCheck],
    status: WORDS[entity.status],
    nationality: entity.nationality,
    riskMatrixId: entity.riskMatrixId,
    riskScore: entity.riskScore,
    entityData: kind?.case === undefined ? undefined : { [kind.case]: flat(kind.value as never) },
    attributes: entity.attributes,
    metadata: entity.metadata,
    deletedAt: entity.deletedAt === undefined ? undefined : iso(entity.deletedAt),
  };
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as JsonObject;
}
/** The state that the log alone gives, oldest event first. */
function fold(events: EntityEvent[]): JsonObject {
  const state = new Map<string, unknown>();
  for (const event of events.toSorted((a, b) => Number(a.entityVersion - b.entityVersion))) {
    expect(Object.keys(event.newValues ?? {}).toSorted()).toEqual(event.updatedFields.toSorted());
    for (const field of event.updatedFields) {
      // The previous values agree with the events before.
      expect(event.previousValues?.[field], field).toEqual(state.get(field));
      const value = event.newValues?.[field];
      if (value === null) state.delete(field);
      else state.set(field, value);
    }
  }
  return Object.fromEntries(state) as JsonObject;
}

describe("the log", () => {
  it("rule 18a: CREATED has all values as new values, and none before", async () => {
    const entity = await newCompany({
      externalId: fresh(),
      taxId: "20-12345678-6",
      nationality: "ar",
      status: EntityStatus.ACTIVE,
      riskMatrixId: randomUUID(),
      entityData: company({
        legalName: "Acme SA",
        tradingNames: ["A", "B"],
        employees: 0,
        address: { city: "X", additional: { floor: 2 } },
        additional: { revenue: 5e7 },
      }),
      attributes: { a: { b: [1, null, "x"] } },
      metadata: { m: true },
    });
    const [created, ...rest] = await eventsOf(entity);
    expect(rest).toEqual([]);
    expect(created).toMatchObject({
      type: EventType.CREATED,
      event: "entity.created",
      entityVersion: 1n,
      entityType: EntityType.COMPANY,
      previousValues: {},
      externalId: entity.externalId,
      externalIds: [entity.externalId],
      recordedAt: entity.createdAt,
    });
    expect(created?.newValues).toEqual(asEvent(entity));
    expect((created?.newValues?.entityData as any)?.company).toMatchObject({
      revenue: 5e7,
      employees: 0,
      address: { city: "X", floor: 2 },
    });
  });

  it("rules 18a, 60: the events of an entity alone rebuild it, through every kind of change", async () => {
    const entity = await create({
      externalId: fresh(),
      taxId: freshTaxId(),
      entityData: person({ firstName: "Ana", nationality: "AR", address: { city: "X" }, additional: { pet: "cat" } }),
    });
    const check = async () => expect(fold(await eventsOf(entity))).toEqual(asEvent(await get(entity)));
    await check();
    const steps: [EntityInit, UpdateInit?][] = [
      [{ name: "Ana María", attributes: { a: 1, b: { c: [null] } } }],
      [{ attributes: { a: null, d: "x" }, metadata: { m: 1 } }],
      [{ status: EntityStatus.BLOCKED }, { reason: "fraud" }],
      [{ entityData: person({ nationality: "UY", additional: { pet: null, car: 1 } }) }],
      [{}, masked("entity_data.person.address", "tax_id", "metadata")],
      [{ taxId: "20-12345678-9", status: EntityStatus.ACTIVE }],
      [{ nationality: "BR" }, masked("nationality", "entity_data")],
      [{}, masked("nationality")],
      [{ riskMatrixId: randomUUID() }],
    ];
    for (const [values, more] of steps) {
      await update(entity, values, more);
      await check();
    }
    const { entities } = service.client;
    await entities.changeExternalId({
      lookup: byId(entity),
      newExternalId: fresh(),
      reason,
      keepPreviousAsAlias: true,
    });
    await check();
    await entities.addExternalIds({
      lookup: byId(entity),
      externalIds: [{ externalId: fresh(), type: "cif", designation: Designation.PRIMARY }],
    });
    await check();
    await entities.deleteEntity({ lookup: byId(entity), reason });
    await check();
    await entities.undeleteEntity({ lookup: byId(entity), reason });
    await check();
    const events = await eventsOf(entity);
    expect(events.map(({ entityVersion }) => Number(entityVersion))).toEqual(
      Array.from({ length: 14 }, (_, i) => 14 - i),
    );
  });
});

// --- Update: what is written --------------------------------------------------------------------

describe("UpdateEntity writes", () => {
  it("rule 20: the same by id, external id and tax id", async () => {
    const taxId = freshTaxId();
    const externalId = fresh();
    const bases = [await create({ externalId: fresh() }), await create({ externalId }), await create({ taxId })];
    const change = {
      name: "Bea",
      attributes: { a: 1 },
      status: EntityStatus.ACTIVE,
      entityData: person({ email: "a@b.c" }),
    };
    const answers = [];
    for (const lookup of [byId(bases[0]!), byExternalId(externalId), byTaxId(taxId)]) {
      const { entity, updatedFields, ignoredFields, created } = await service.client.entities.updateEntity({
        lookup,
        entity: { ...change, externalId: "other" },
        reason,
      });
      answers.push({
        name: entity?.name,
        attributes: entity?.attributes,
        status: entity?.status,
        data: entity && dataOf(entity),
        updatedFields,
        ignoredFields,
        created,
      });
    }
    expect(answers[1]).toEqual(answers[0]);
    expect(answers[2]).toEqual(answers[0]);
    expect(answers[0]).toMatchObject({
      updatedFields: ["name", "status", "entityData", "attributes"],
      ignoredFields: ["external_id"],
      created: false,
    });
  });

  const FIELDS: [
    path: string,
    values: EntityInit,
    field: string,
    read: (entity: Entity) => unknown,
    wanted: unknown,
  ][] = [
    ["name", { name: " Bea " }, "name", (e) => e.name, "Bea"],
    ["tax_id", { taxId: " 12-X " }, "taxId", (e) => e.taxId, "12-X"],
    ["status", { status: EntityStatus.UNDER_REVIEW }, "status", (e) => e.status, EntityStatus.UNDER_REVIEW],
    ["nationality", { nationality: "uy" }, "nationality", (e) => e.nationality, "UY"],
    [
      "risk_matrix_id",
      { riskMatrixId: "550E8400-E29B-41D4-A716-446655440000" },
      "riskMatrixId",
      (e) => e.riskMatrixId,
      "550e8400-e29b-41d4-a716-446655440000",
    ],
    [
      "attributes",
      { attributes: { a: { b: [1, "x", null, true] } } },
      "attributes",
      (e) => e.attributes,
      { a: { b: [1, "x", null, true] } },
    ],
    ["metadata", { metadata: { m: -0.5 } }, "metadata", (e) => e.metadata, { m: -0.5 }],
    [
      "entity_data.person.first_name",
      { entityData: person({ firstName: "A" }) },
      "entityData",
      (e) => dataOf(e).firstName,
      "A",
    ],
    [
      "entity_data.person.last_name",
      { entityData: person({ lastName: "B" }) },
      "entityData",
      (e) => dataOf(e).lastName,
      "B",
    ],
    [
      "entity_data.person.middle_name",
      { entityData: person({ middleName: "C" }) },
      "entityData",
      (e) => dataOf(e).middleName,
      "C",
    ],
    [
      "entity_data.person.date_of_birth",
      { entityData: person({ dateOfBirth: "2000-02-29" }) },
      "entityData",
      (e) => dataOf(e).dateOfBirth,
      "2000-02-29",
    ],
    [
      "entity_data.person.nationality",
      { entityData: person({ nationality: "unclear" }) },
      "entityData",
      (e) => dataOf(e).nationality,
      "unclear",
    ],
    ["entity_data.person.email", { entityData: person({ email: "a@b" }) }, "entityData", (e) => dataOf(e).email, "a@b"],
    [
      "entity_data.person.phone",
      { entityData: person({ phone: "+1-555-0123" }) },
      "entityData",
      (e) => dataOf(e).phone,
      "+1-555-0123",
    ],
    [
      "entity_data.person.address",
      { entityData: person({ address: { city: "X" } }) },
      "entityData",
      (e) => (dataOf(e).address as any)?.city,
      "X",
    ],
    [
      "entity_data.person.additional",
      { entityData: person({ additional: { pet: "cat" } }) },
      "entityData",
      (e) => dataOf(e).additional,
      { pet: "cat" },
    ],
  ];
  const COMPANY_FIELDS: typeof FIELDS = [
    [
      "entity_data.company.legal_name",
      { entityData: company({ legalName: "A" }) },
      "entityData",
      (e) => dataOf(e).legalName,
      "A",
    ],
    [
      "entity_data.company.trading_names",
      { entityData: company({ tradingNames: ["A", "A", "B"] }) },
      "entityData",
      (e) => dataOf(e).tradingNames,
      ["A", "A", "B"],
    ],
    [
      "entity_data.company.registration_number",
      { entityData: company({ registrationNumber: "7" }) },
      "entityData",
      (e) => dataOf(e).registrationNumber,
      "7",
    ],
    [
      "entity_data.company.incorporation_date",
      { entityData: company({ incorporationDate: "1999-12-31" }) },
      "entityData",
      (e) => dataOf(e).incorporationDate,
      "1999-12-31",
    ],
    [
      "entity_data.company.industry",
      { entityData: company({ industry: "I" }) },
      "entityData",
      (e) => dataOf(e).industry,
      "I",
    ],
    [
      "entity_data.company.employees",
      { entityData: company({ employees: 0 }) },
      "entityData",
      (e) => dataOf(e).employees,
      0,
    ],
    [
      "entity_data.company.website",
      { entityData: company({ website: "w" }) },
      "entityData",
      (e) => dataOf(e).website,
      "w",
    ],
    [
      "entity_data.company.address",
      { entityData: company({ address: { postalCode: "1" } }) },
      "entityData",
      (e) => (dataOf(e).address as any)?.postalCode,
      "1",
    ],
    [
      "entity_data.company.additional",
      { entityData: company({ additional: { revenue: 5 } }) },
      "entityData",
      (e) => dataOf(e).additional,
      { revenue: 5 },
    ],
  ];
  const REQUIRED = ["name", "status"];

  it.each([
    ...FIELDS.map((row) => ["person", ...row] as const),
    ...COMPANY_FIELDS.map((row) => ["company", ...row] as const),
  ])(
    "rules 21, 32, 33: of a %s, %s alone; the same again changes nothing; the mask clears it",
    async (kind, path, values, field, read, wanted) => {
      const entity = kind === "person" ? await create() : await newCompany();
      const empty = read(entity);
      const fields = path === "tax_id" ? ["taxId", "taxIdCheck"] : [field];

      const first = await update(entity, values);
      expect(read(first.entity)).toEqual(wanted);
      expect(first.updatedFields).toEqual(fields);
      expect(first.ignoredFields).toEqual([]);
      expect(first.created).toBe(false);
      expect(first.previousEntity).toEqual(entity);

      const again = await update(entity, values);
      expect(again.updatedFields).toEqual([]);
      expect(again.previousEntity).toEqual(again.entity);
      expect(again.entity).toEqual(first.entity);
      const sameByMask = await update(entity, values, masked(path));
      expect(sameByMask.entity).toEqual(first.entity);
      expect(await eventsOf(entity)).toHaveLength(2);

      // Fields outside the mask are not written, whatever their values.
      const other = path === "metadata" ? "attributes" : "metadata";
      expect((await update(entity, { ...values, name: "Not this", nationality: "XX" }, masked(other))).entity).toEqual(
        first.entity,
      );

      if (REQUIRED.includes(path)) {
        expect(await refusal(updateCall(entity, {}, masked(path)))).toMatchObject({
          reason: "VALIDATION_ERROR",
          fields: [`entity.${path}`],
        });
        expect(await get(entity)).toEqual(first.entity);
        return;
      }
      const cleared = await update(entity, {}, masked(path));
      expect(read(cleared.entity) ?? empty).toEqual(empty);
      expect(cleared.updatedFields).toEqual(fields);
      const [event] = await eventsOf(entity);
      expect(event).toMatchObject({
        type: EventType.ATTRIBUTE_CHANGED,
        event: "entity.updated",
        updatedFields: fields,
        recordedAt: cleared.entity.updatedAt,
      });
      expect(Object.keys(event?.previousValues ?? {})).toEqual(fields);
      expect(await eventsOf(entity)).toHaveLength(3);
    },
  );

  it.each([
    ...FIELDS.map((row) => ["person", ...row] as const),
    ...COMPANY_FIELDS.map((row) => ["company", ...row] as const),
  ])("rule 33: of a %s, clearing %s where it is not set changes nothing", async (kind, path) => {
    if (REQUIRED.includes(path)) return;
    const entity = kind === "person" ? await create() : await newCompany();
    const { entity: after, updatedFields } = await update(entity, {}, masked(path));
    expect(updatedFields).toEqual([]);
    expect(after).toEqual(entity);
    expect(await eventsOf(entity)).toHaveLength(1);
  });

  it("rules 21, 22: type and country_code cannot be cleared", async () => {
    const entity = await create();
    for (const path of ["type", "country_code"]) {
      expect(await refusal(updateCall(entity, {}, masked(path))), path).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: [`entity.${path}`],
      });
    }
  });

  it("rule 21: an empty mask is no mask; of several paths each is written", async () => {
    const entity = await create({ taxId: "1", nationality: "AR", attributes: { a: 1 } });
    expect((await update(entity, { name: "Bea" }, masked())).updatedFields).toEqual(["name"]);
    const { entity: after, updatedFields } = await update(
      entity,
      { taxId: "2", name: "no" },
      masked("tax_id", "nationality", "attributes", "tax_id"),
    );
    expect(updatedFields).toEqual(["taxId", "nationality", "attributes"]);
    expect(after).toMatchObject({ taxId: "2", name: "Bea" });
    expect([after.nationality, after.attributes]).toEqual([undefined, undefined]);
  });

  it.each([
    ["tax_id", { taxId: "" }],
    ["nationality", { nationality: "" }],
    ["risk_matrix_id", { riskMatrixId: "" }],
    ["entity_data.person.first_name", { entityData: person({ firstName: "" }) }],
    ["entity_data.person.nationality", { entityData: person({ nationality: "" }) }],
    ["entity_data.person.date_of_birth", { entityData: person({ dateOfBirth: "" }) }],
    ["entity_data.person.address.street", { entityData: person({ address: { street: "" } }) }],
  ] as [string, EntityInit][])(
    "rule 21: a present but empty %s is refused and points to update_mask",
    async (path, values) => {
      const entity = await create({ taxId: "1", nationality: "AR" });
      for (const more of [{}, masked(path.startsWith("entity_data") ? "entity_data" : path)]) {
        const refused = await refusal(updateCall(entity, values, more));
        expect(refused).toMatchObject({ reason: "VALIDATION_ERROR", fields: [`entity.${path}`] });
        expect(refused.message).toContain("update_mask");
      }
      expect(await get(entity)).toEqual(entity);
    },
  );

  it.each([
    "nope",
    "*",
    "Name",
    "countryCode",
    "attributes.a",
    "metadata.x",
    "entity_data.person.additional.pet",
    "entity_data.person.address.city",
    "entity_data.company.trading_names[0]",
    "entity_data.person.legal_name",
    "entity_data.kind",
    "external_ids.type",
    "name.x",
    " name",
    "",
    "__proto__",
    "constructor",
  ])("rule 21: the unknown path %j is refused and nothing is written", async (path) => {
    const entity = await create();
    expect(await refusal(updateCall(entity, { name: "Bea" }, masked("name", path)))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["update_mask"],
    });
    expect(await get(entity)).toEqual(entity);
  });

  it("rule 21: output-only paths are ignored and named, sent or masked; only the etag is not", async () => {
    const entity = await create({ externalId: fresh() });
    const outputOnly = [
      "id",
      "organization_id",
      "external_id",
      "external_ids",
      "tax_id_check",
      "risk_score",
      "created_at",
      "updated_at",
      "deleted_at",
      "merged_into",
    ];
    // All that the contract calls so, and external_id, which has its own RPCs.
    const proto = readFileSync(new URL("../proto/entity/v1/entity.proto", import.meta.url), "utf8");
    const [, message = ""] = /^message Entity \{\n(.*?)^\}/ms.exec(proto) ?? [];
    const documented = [...message.matchAll(/^ {2}\/\/ Output only\.(?:.*\n {2}\/\/)*.*\n.* (\w+) = \d+/gm)];
    expect(["external_id", ...documented.map(([, name]) => name).filter((name) => name !== "etag")].toSorted()).toEqual(
      outputOnly.toSorted(),
    );
    const sent: EntityInit = {
      id: randomUUID(),
      organizationId: randomUUID(),
      externalId: fresh(),
      externalIds: [{ externalId: fresh() }],
      taxIdCheck: TaxIdCheck.VALID,
      riskScore: "12.00",
      createdAt: { seconds: 1n },
      updatedAt: { seconds: 1n },
      deletedAt: { seconds: 1n },
      mergedInto: randomUUID(),
    };
    const bySending = await update(entity, sent);
    expect(bySending.ignoredFields.toSorted()).toEqual(outputOnly.toSorted());
    expect(bySending.entity).toEqual(entity);
    const byMask = await update(entity, { ...sent, name: "Bea" }, masked(...outputOnly, "name"));
    expect(byMask.ignoredFields.toSorted()).toEqual(outputOnly.toSorted());
    expect(byMask.updatedFields).toEqual(["name"]);
    expect((await update(entity, { etag: byMask.entity.etag }, masked("etag"))).ignoredFields).toEqual([]);
    // A mask of ignored paths alone writes nothing; it does not mean all fields.
    expect((await update(entity, { ...sent, name: "Cleo" }, masked("id"))).entity.name).toBe("Bea");
  });

  it("rules 21, 32: what was read can be sent back with a change in it", async () => {
    const entity = await create({
      externalId: fresh(),
      taxId: "1",
      attributes: { a: 1 },
      entityData: person({ firstName: "A", address: { city: "X" } }),
    });
    const {
      entity: after,
      updatedFields,
      ignoredFields,
    } = await update(entity, { ...(await get(entity)), name: "Bea" });
    expect(updatedFields).toEqual(["name"]);
    expect(ignoredFields).toContain("external_id");
    expect({ ...after, name: "Ana", etag: "", updatedAt: undefined }).toEqual({
      ...entity,
      etag: "",
      updatedAt: undefined,
    });
  });

  it("rule 21: null in JSON is omitted and changes nothing", async () => {
    const entity = await create({ taxId: "1", nationality: "AR", attributes: { a: 1 } });
    const { status, body } = await connectJson(
      "UpdateEntity",
      JSON.stringify({
        lookup: { entityId: entity.id },
        entity: { taxId: null, nationality: null, attributes: null, entityData: null, name: null },
      }),
    );
    expect(status).toBe(200);
    expect(body.updatedFields).toBeUndefined();
    expect(await get(entity)).toEqual(entity);
  });

  it("rule 22: type and country_code are immutable, in these words; the whole update is refused", async () => {
    const entity = await create({ attributes: { a: 1 } });
    for (const [values, name, field] of [
      [{ type: EntityType.COMPANY }, "type", "entity.type"],
      [{ countryCode: "BR" }, "countryCode", "entity.country_code"],
      [{ countryCode: "br" }, "countryCode", "entity.country_code"],
    ] as const) {
      for (const more of [{}, masked("name", field.slice("entity.".length)), { validateOnly: true }]) {
        expect(await refusal(updateCall(entity, { ...values, name: "Bea", attributes: { b: 2 } }, more))).toMatchObject(
          {
            reason: "IMMUTABLE_FIELD",
            code: Code.InvalidArgument,
            message: `Field '${name}' cannot be changed after entity creation`,
            metadata: { field },
            fields: [field],
          },
        );
      }
    }
    expect(await get(entity)).toEqual(entity);
    expect((await update(entity, { type: EntityType.PERSON, countryCode: "ar", name: "Bea" })).updatedFields).toEqual([
      "name",
    ]);
  });

  it("rule 23: an external_id in the entity is neither written nor refused, and in no event", async () => {
    const taken = (await create({ externalId: fresh() })).externalId;
    const entity = await create({ externalId: fresh() });
    for (const externalId of [fresh(), taken, entity.externalId, "   ", "x".repeat(300), "a\tb"]) {
      const { entity: after, ignoredFields, updatedFields } = await update(entity, { externalId });
      expect(ignoredFields, JSON.stringify(externalId)).toEqual(["external_id"]);
      expect(updatedFields).toEqual([]);
      expect(after).toEqual(entity);
    }
    const { entity: renamed, updatedFields } = await update(entity, { externalId: taken, name: "Bea" });
    expect(updatedFields).toEqual(["name"]);
    expect(renamed.externalId).toBe(entity.externalId);
    const [event] = await eventsOf(entity);
    expect(JSON.stringify([event?.updatedFields, event?.previousValues, event?.newValues])).not.toContain("xternalId");
    expect(await eventsOf(entity)).toHaveLength(2);
  });

  it("rule 30: name and entity_data do not follow each other", async () => {
    const entity = await create({ entityData: person({ firstName: "Ana", lastName: "Lopez" }) });
    expect((await update(entity, { entityData: person({ firstName: "Bea" }) })).entity.name).toBe("Ana");
    expect(dataOf((await update(entity, { name: "Cleo" })).entity)).toMatchObject({
      firstName: "Bea",
      lastName: "Lopez",
    });
  });

  it("rule 31: risk_score is not the caller's; risk_matrix_id is any UUID and runs nothing", async () => {
    const entity = await create();
    const riskMatrixId = randomUUID();
    const { entity: after, updatedFields, ignoredFields } = await update(entity, { riskScore: "35.00", riskMatrixId });
    expect(updatedFields).toEqual(["riskMatrixId"]);
    expect(ignoredFields).toEqual(["risk_score"]);
    expect(after.riskMatrixId).toBe(riskMatrixId);
    expect(after.riskScore).toBeUndefined();
    for (const wrong of ["1", `{${riskMatrixId}}`, riskMatrixId.replaceAll("-", "")]) {
      expect(await refusal(updateCall(entity, { riskMatrixId: wrong }))).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
  });

  it("rule 29: tax_id rewrites key and check in the same write; clearing it ends both", async () => {
    const entity = await create({ taxId: "20-12345678-9" });
    const first = await update(entity, { taxId: "20-12345678-6" });
    expect(first.updatedFields).toEqual(["taxId", "taxIdCheck"]);
    expect(first.entity.taxIdCheck).toBe(TaxIdCheck.VALID);
    // Other punctuation is another value with the same key.
    const second = await update(entity, { taxId: "20123456786" });
    expect(second.updatedFields).toEqual(["taxId"]);
    const third = await update(entity, {}, masked("tax_id"));
    expect(third.updatedFields).toEqual(["taxId", "taxIdCheck"]);
    expect([third.entity.taxId, third.entity.taxIdCheck]).toEqual([undefined, TaxIdCheck.UNSPECIFIED]);
    expect(await service.sql("select tax_id_key, tax_id_check from entity where id = $1", [entity.id])).toEqual([
      { tax_id_key: null, tax_id_check: null },
    ]);
  });
});

// --- Merging ------------------------------------------------------------------------------------

describe("merging", () => {
  it.each(["attributes", "metadata"] as const)(
    "rule 24: %s merge per top-level key; null removes; the mask replaces",
    async (map) => {
      const entity = await create({ [map]: { keep: 1, change: { a: 1, b: 2 }, list: [1, 2], drop: "x" } });
      const set = async (value: JsonObject | undefined, more: UpdateInit = {}) =>
        (await update(entity, { [map]: value } as EntityInit, more)).entity[map];
      expect(await set({ change: { c: 3 }, list: [3], drop: null, add: { deep: null } })).toEqual({
        keep: 1,
        change: { c: 3 },
        list: [3],
        add: { deep: null },
      });
      expect(await set({ nothing: null })).toEqual({ keep: 1, change: { c: 3 }, list: [3], add: { deep: null } });
      expect(await set({})).toEqual({ keep: 1, change: { c: 3 }, list: [3], add: { deep: null } });
      expect(await set({ only: 1, none: null }, masked(map))).toEqual({ only: 1 });
      expect(await set({ only: null })).toBeUndefined();
      expect(await set({ a: 1 })).toEqual({ a: 1 });
      expect(await set(undefined, masked(map))).toBeUndefined();
    },
  );

  it("rule 24: entity_data merges per key; an address or a list is replaced whole", async () => {
    const entity = await newCompany({
      entityData: company({
        legalName: "A",
        tradingNames: ["x", "y"],
        employees: 5,
        address: { street: "1", city: "C", additional: { floor: 1 } },
        additional: { revenue: 1, ceo: { name: "Z" } },
      }),
    });
    const set = async (value: MessageInitShape<typeof CompanyDataSchema>, more: UpdateInit = {}) =>
      flat((await update(entity, { entityData: company(value) }, more)).entity.entityData?.kind.value as never);
    expect(await set({ employees: 250, website: "w" })).toEqual({
      legalName: "A",
      tradingNames: ["x", "y"],
      employees: 250,
      website: "w",
      address: { street: "1", city: "C", floor: 1 },
      revenue: 1,
      ceo: { name: "Z" },
    });
    expect(await set({ address: { city: "D" } })).toMatchObject({ address: { city: "D" } });
    expect((await set({})).address).toEqual({ city: "D" });
    expect((await set({ tradingNames: ["z"] })).tradingNames).toEqual(["z"]);
    expect((await set({ tradingNames: [] })).tradingNames).toEqual(["z"]); // an empty list is the same as none
    expect(await set({ additional: { revenue: null, ceo: { age: 5 } } })).toMatchObject({ ceo: { age: 5 } });
    expect(await set({})).not.toHaveProperty("revenue");
    // By path: the address whole, the unlisted keys whole, the rest stays.
    expect((await set({ address: { state: "S" } }, masked("entity_data.company.address"))).address).toEqual({
      state: "S",
    });
    const unlisted = await set(
      { additional: { stock: 1 }, legalName: "not this" },
      masked("entity_data.company.additional"),
    );
    expect(unlisted).toMatchObject({ legalName: "A", stock: 1, employees: 250 });
    expect(unlisted).not.toHaveProperty("ceo");
    expect(await set({ legalName: "B" }, masked("entity_data.company"))).toEqual({ legalName: "B" });
    expect(await set({ legalName: "C", industry: "I" }, masked("entity_data"))).toEqual({
      legalName: "C",
      industry: "I",
    });
  });

  it("rule 24: entity_data whole is cleared by its paths", async () => {
    for (const path of ["entity_data", "entity_data.person"]) {
      const entity = await create({ entityData: person({ firstName: "A" }) });
      const { entity: after, updatedFields } = await update(entity, {}, masked(path));
      expect(updatedFields).toEqual(["entityData"]);
      expect(flat((after.entityData?.kind.value ?? {}) as never)).toEqual({});
    }
  });

  it("rule 26: a path into the other kind's data refuses and clears nothing", async () => {
    const ana = await create({ entityData: person({ firstName: "A" }) });
    const acme = await newCompany({ entityData: company({ legalName: "A" }) });
    for (const [entity, values, paths] of [
      [ana, {}, ["entity_data.company"]],
      [ana, {}, ["entity_data.company.industry"]],
      [ana, { entityData: company({ industry: "I" }) }, ["entity_data.company.industry"]],
      [ana, { entityData: company({ industry: "I" }) }, ["entity_data"]],
      [ana, { entityData: company({ industry: "I" }) }, []],
      [ana, { entityData: company({}) }, []],
      [acme, {}, ["entity_data.person"]],
      [acme, {}, ["entity_data.person.additional"]],
      [acme, { entityData: person({}) }, ["entity_data"]],
      [acme, {}, ["entity_data.person.email", "entity_data.company.industry"]],
    ] as [Entity, EntityInit, string[]][]) {
      expect(await refusal(updateCall(entity, values, masked(...paths))), paths.join()).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
      expect(await get(entity)).toEqual(entity);
    }
  });

  it("rule 25: unlisted keys are kept, and shown flat beside the others in events", async () => {
    const entity = await newCompany();
    await update(entity, {
      entityData: company({
        legalName: "A",
        additional: { revenue: 50_000_000, additional: { x: 1 }, "first name": "y" },
      }),
    });
    const [event] = await eventsOf(entity);
    expect(event?.newValues).toEqual({
      entityData: { company: { legalName: "A", revenue: 50_000_000, additional: { x: 1 }, "first name": "y" } },
    });
    const { entity: after } = await update(entity, { entityData: company({ industry: "I" }) });
    expect(dataOf(after).additional).toEqual({ revenue: 50_000_000, additional: { x: 1 }, "first name": "y" });
  });

  it("rule 25: a listed name among the unlisted keys is refused", async () => {
    const entity = await newCompany();
    const wrong: MessageInitShape<typeof CompanyDataSchema>[] = [
      { additional: { legalName: "x" } },
      { additional: { address: {} } },
      { address: { additional: { city: "x" } } },
    ];
    for (const value of wrong) {
      expect(await refusal(updateCall(entity, { entityData: company(value) }))).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
    }
  });

  it("rule 25: a JSON field that the contract does not have is refused with its name", async () => {
    const entity = await newCompany();
    for (const [values, name] of [
      [{ entityData: { company: { revenue: 5 } } }, "revenue"],
      [{ colour: "red" }, "colour"],
      [{ entityData: { company: { address: { floor: 1 } } } }, "floor"],
    ] as const) {
      const { status, text } = await connectJson(
        "UpdateEntity",
        JSON.stringify({ lookup: { entityId: entity.id }, entity: values }),
      );
      expect(status).toBe(400);
      expect(text).toContain("VALIDATION_ERROR");
      expect(text).toContain(name);
    }
    expect(await get(entity)).toEqual(entity);
  });

  it("rule 27: dates are days of the calendar", async () => {
    const entity = await create();
    for (const dateOfBirth of [
      "2023-02-30",
      "2023-2-3",
      "1900-02-29",
      "2023-00-10",
      "2023-13-01",
      "0000-01-01",
      "03/04/2023",
      "2023-01-01T00:00:00Z",
      "２０２３-01-01",
      "9999-01-01",
      "9999-01",
      "9999",
      "1965-13",
    ]) {
      expect(await refusal(updateCall(entity, { entityData: person({ dateOfBirth }) })), dateOfBirth).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["entity.entity_data.person.date_of_birth"],
      });
    }
    for (const dateOfBirth of ["2000-02-29", "0001-01-01", "1969-12-31", "1965-03", "1965"]) {
      expect(dataOf((await update(entity, { entityData: person({ dateOfBirth }) })).entity).dateOfBirth).toBe(
        dateOfBirth,
      );
    }
    const acme = await newCompany();
    expect(await refusal(updateCall(acme, { entityData: company({ incorporationDate: "2023-02-29" }) }))).toMatchObject(
      { reason: "VALIDATION_ERROR" },
    );
    // A company may be founded tomorrow.
    expect(
      dataOf((await update(acme, { entityData: company({ incorporationDate: "2099-01-01" }) })).entity)
        .incorporationDate,
    ).toBe("2099-01-01");
  });

  it("rule 27: numbers stay numbers, to the last bit", async () => {
    const numbers = {
      a: 0.1,
      b: 1.5e-300,
      c: 5e-324,
      d: 9_007_199_254_740_991,
      e: -1.5,
      f: 0,
      g: 35,
      h: 0.30000000000000004,
      i: "35.00",
      j: 1e-7,
    };
    const entity = await create({ attributes: numbers });
    expect(entity.attributes).toEqual(numbers);
    expect((await get(entity)).attributes).toEqual(numbers);
    expect((await update(entity, { attributes: numbers })).updatedFields).toEqual([]);
    const acme = await newCompany({ entityData: company({ employees: 2_147_483_647 }) });
    expect(dataOf(await get(acme)).employees).toBe(2_147_483_647);
    expect(await refusal(updateCall(acme, { entityData: company({ employees: -1 }) }))).toMatchObject({
      fields: ["entity.entity_data.company.employees"],
    });
  });

  it("rules 33, 24: equal values are equal whatever the order of their keys, and lists are not", async () => {
    const entity = await create({ attributes: { a: { x: 1, y: [1, 2] }, b: 2 } });
    expect((await update(entity, { attributes: { b: 2, a: { y: [1, 2], x: 1 } } })).updatedFields).toEqual([]);
    expect((await update(entity, { attributes: { a: { y: [2, 1], x: 1 } } })).updatedFields).toEqual(["attributes"]);
    expect((await update(entity, { attributes: { b: "2" } })).updatedFields).toEqual(["attributes"]);
  });

  it("rule 73: a merge cannot grow a map past its limits", async () => {
    const many = (from: number, n: number) =>
      Object.fromEntries(Array.from({ length: n }, (_, i) => [`k${from + i}`, i]));
    const entity = await create({ attributes: many(0, 200) });
    expect(await refusal(updateCall(entity, { attributes: { one: 1 } }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.attributes"],
    });
    expect((await update(entity, { attributes: { k0: null, one: 1 } })).entity.attributes).toHaveProperty("one");
    const big = await create({
      metadata: Object.fromEntries(Array.from({ length: 15 }, (_, i) => [`b${i}`, "x".repeat(4090)])),
    });
    expect(await refusal(updateCall(big, { metadata: { more: "x".repeat(4090), c: "x".repeat(4090) } }))).toMatchObject(
      { reason: "VALIDATION_ERROR", fields: ["entity.metadata"] },
    );
    expect(await get(big)).toEqual(big);
  });

  it("rule 74: __proto__, constructor and the like are ordinary keys, from JSON to the log and back", async () => {
    const keys = `"__proto__":{"polluted":1},"constructor":"c","toString":2,"hasOwnProperty":[{"__proto__":3}],"prototype":{},"toJSON":"j","then":"t"`;
    const wanted = JSON.parse(`{${keys}}`);
    const created = await connectJson(
      "CreateEntity",
      `{"entity":{"type":"ENTITY_TYPE_PERSON","name":"P","countryCode":"AR","attributes":{${keys}},"metadata":{${keys}},"entityData":{"person":{"additional":{${keys}},"address":{"additional":{${keys}}}}}}}`,
    );
    expect(created.status, created.text).toBe(200);
    const id = created.body.entity.id as string;
    const read = await connectJson("GetEntity", JSON.stringify({ lookup: { entityId: id } }));
    for (const { text, body } of [created, read]) {
      const { attributes, metadata, entityData } = body.entity;
      for (const map of [attributes, metadata, entityData.person.additional, entityData.person.address.additional]) {
        expect(Object.keys(map).toSorted(), text).toEqual(Object.keys(wanted).toSorted());
        expect(JSON.stringify(Object.entries(map).toSorted())).toBe(JSON.stringify(Object.entries(wanted).toSorted()));
      }
    }
    expect(({} as any).polluted).toBeUndefined();
    // It is merged, removed and logged like any other key.
    const removed = await connectJson(
      "UpdateEntity",
      `{"lookup":{"entityId":"${id}"},"entity":{"attributes":{"__proto__":null,"constructor":null,"valueOf":1}}}`,
    );
    expect(Object.keys(removed.body.entity.attributes).toSorted()).toEqual([
      "hasOwnProperty",
      "prototype",
      "then",
      "toJSON",
      "toString",
      "valueOf",
    ]);
    expect(removed.body.updatedFields).toEqual(["attributes"]);
    const log = await connectJson("ListEntityEvents", JSON.stringify({ lookup: { entityId: id } }));
    expect(Object.keys(log.body.events[0].previousValues.attributes)).toContain("__proto__");
    expect(Object.keys(log.body.events[1].newValues.entityData.person)).toContain("__proto__");
    // Over gRPC with the generated client too.
    const sent = JSON.parse('{"__proto__":{"x":1},"constructor":1}') as JsonObject;
    const entity = await create({ attributes: sent });
    expect(Object.keys((await get(entity)).attributes ?? {}).toSorted()).toEqual(["__proto__", "constructor"]);
    expect((await update(entity, { attributes: sent })).updatedFields).toEqual([]);
  });
});

// --- Nationality --------------------------------------------------------------------------------

describe("nationality", () => {
  // Before: root AR, nested AR.
  it.each([
    ["neither sent", { name: "Bea" }, [], "AR", ["name"]],
    ["root alone", { nationality: "uy" }, [], "UY", ["nationality"]],
    [
      "nested alone recalculates the root",
      { entityData: person({ nationality: "uy" }) },
      [],
      "UY",
      ["nationality", "entityData"],
    ],
    [
      "both, and the root wins",
      { nationality: "BR", entityData: person({ nationality: "UY" }) },
      [],
      "BR",
      ["nationality", "entityData"],
    ],
    [
      "both, the root as it was",
      { nationality: "AR", entityData: person({ nationality: "UY" }) },
      [],
      "AR",
      ["entityData"],
    ],
    [
      "nested unmappable leaves the root",
      { entityData: person({ nationality: "Uruguayan" }) },
      [],
      "AR",
      ["entityData"],
    ],
    ["other nested keys leave the root", { entityData: person({ firstName: "A" }) }, [], "AR", ["entityData"]],
    ["root cleared by mask", {}, ["nationality"], undefined, ["nationality"]],
    [
      "root cleared by mask while nested is written",
      { entityData: person({ nationality: "UY" }) },
      ["nationality", "entity_data.person.nationality"],
      undefined,
      ["nationality", "entityData"],
    ],
    [
      "nested by mask recalculates the root",
      { nationality: "BR", entityData: person({ nationality: "UY" }) },
      ["entity_data.person.nationality"],
      "UY",
      ["nationality", "entityData"],
    ],
    [
      "nested by mask of the whole",
      { entityData: person({ nationality: "UY" }) },
      ["entity_data"],
      "UY",
      ["nationality", "entityData"],
    ],
    ["nested cleared leaves the root", {}, ["entity_data.person.nationality"], "AR", ["entityData"]],
    ["entity_data cleared leaves the root", {}, ["entity_data"], "AR", ["entityData"]],
    [
      "nested sent outside the mask is nothing",
      { name: "Bea", entityData: person({ nationality: "UY" }) },
      ["name"],
      "AR",
      ["name"],
    ],
    [
      "the mask of another nested key",
      { entityData: person({ nationality: "UY", firstName: "A" }) },
      ["entity_data.person.first_name"],
      "AR",
      ["entityData"],
    ],
  ] as [string, EntityInit, string[], string | undefined, string[]][])(
    "rule 28: %s",
    async (_, values, paths, wanted, fields) => {
      const entity = await create({ nationality: "AR", entityData: person({ nationality: "AR" }) });
      const { entity: after, updatedFields } = await update(entity, values, masked(...paths));
      expect(after.nationality).toBe(wanted);
      expect(updatedFields).toEqual(fields);
      const [event] = await eventsOf(entity);
      expect(event?.updatedFields).toEqual(fields);
      if (fields.includes("nationality")) {
        expect(event?.previousValues).toMatchObject({ nationality: "AR" });
        expect(event?.newValues).toMatchObject({ nationality: wanted ?? null });
      }
    },
  );

  it("rule 28: a nested one that is written as it was still recalculates a root that differs", async () => {
    const entity = await create({ nationality: "BR", entityData: person({ nationality: "UY" }) });
    const { entity: after, updatedFields } = await update(entity, { entityData: person({ nationality: "UY" }) });
    expect(after.nationality).toBe("UY");
    expect(updatedFields).toEqual(["nationality"]);
  });

  it("rule 28: of a company it is only ever the root one, also where unlisted data has the word", async () => {
    const entity = await newCompany({ nationality: "AR" });
    const { entity: after } = await update(entity, { entityData: company({ additional: { nationality: "UY" } }) });
    expect(after.nationality).toBe("AR");
  });
});

// --- Status -------------------------------------------------------------------------------------

describe("status", () => {
  it("rule 42: PENDING is no change for a pending entity and VALIDATION_ERROR for any other", async () => {
    const entity = await create();
    expect((await update(entity, { status: EntityStatus.PENDING })).updatedFields).toEqual([]);
    await update(entity, { status: EntityStatus.ACTIVE });
    const before = await get(entity);
    for (const more of [{}, masked("status"), { validateOnly: true }, { reason }]) {
      expect(await refusal(updateCall(entity, { status: EntityStatus.PENDING, name: "B" }, more))).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["entity.status"],
      });
    }
    expect(await get(entity)).toEqual(before);
  });
});

// --- Etag, time, concurrency --------------------------------------------------------------------

describe("etag and time", () => {
  it("rules 32, 33: an empty update and one of the same values leave etag, updated_at, row and log alone", async () => {
    const entity = await create({ externalId: fresh(), attributes: { a: 1 } });
    const row = () => service.sql("select to_jsonb(e) as row, xmin::text from entity e where id = $1", [entity.id]);
    const before = await row();
    for (const values of [
      undefined,
      {},
      { name: " Ana " },
      { countryCode: "ar" },
      { attributes: { a: 1, gone: null } },
      { attributes: {} },
      { entityData: { kind: { case: undefined } } },
    ]) {
      const {
        entity: after,
        previousEntity,
        updatedFields,
      } = await update(entity, values as EntityInit, { reason: "no reason for an event" });
      expect(after).toEqual(entity);
      expect(previousEntity).toEqual(entity);
      expect(updatedFields).toEqual([]);
    }
    expect(await row()).toEqual(before);
    expect(await eventsOf(entity)).toHaveLength(1);
  });

  it("rule 34: every effective write moves updated_at and the etag, created_at never", async () => {
    const entity = await create();
    const etags = new Set([entity.etag]);
    let last = micros(entity.updatedAt);
    for (let i = 0; i < 20; i++) {
      const { entity: after, previousEntity } = await update(entity, { name: i % 2 ? "Ana" : "Bea" });
      expect(micros(after.updatedAt)).toBeGreaterThan(last);
      expect(micros(previousEntity.updatedAt)).toBe(last);
      expect(after.createdAt).toEqual(entity.createdAt);
      expect(etags.has(after.etag)).toBe(false);
      etags.add(after.etag);
      last = micros(after.updatedAt);
    }
    const events = await eventsOf(entity);
    expect(micros(events[0]?.recordedAt)).toBe(last);
  });

  it("rule 34: updated_at is strictly later even when the clock was set back", async () => {
    const entity = await create();
    await service.sql("update entity set updated_at = clock_timestamp() + interval '1 hour' where id = $1", [
      entity.id,
    ]);
    const before = await get(entity);
    const { entity: after } = await update(entity, { name: "Bea" });
    expect(micros(after.updatedAt)).toBe(micros(before.updatedAt) + 1n);
    await forget(service, [entity.id]);
  });

  it("rule 35: an etag in the request, in the entity or in both lets a current one through and refuses a stale one", async () => {
    const entity = await create();
    let current = entity.etag;
    const stale = randomUUID();
    for (const where of [
      (etag: string) => [{}, { etag }] as const,
      (etag: string) => [{ etag }, {}] as const,
      (etag: string) => [{ etag }, { etag }] as const,
      (etag: string) => [{ etag }, masked("name")] as const,
      (etag: string) => [{ etag }, masked("name", "etag")] as const,
    ]) {
      const [values, more] = where(stale);
      expect(await refusal(updateCall(entity, { ...values, name: randomUUID() }, more))).toMatchObject({
        reason: "ETAG_MISMATCH",
        code: Code.Aborted,
        metadata: { etag: current },
      });
      expect((await get(entity)).etag).toBe(current);
      const [good, goodMore] = where(current);
      const {
        entity: after,
        updatedFields,
        ignoredFields,
      } = await update(entity, { ...good, name: randomUUID() }, goodMore);
      expect([updatedFields, ignoredFields]).toEqual([["name"], []]);
      expect(after.etag).not.toBe(current);
      current = after.etag;
    }
    expect(await refusal(updateCall(entity, { etag: current, name: "B" }, { etag: stale }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["etag"],
    });
    // Also for an update that would change nothing: the etag is a condition all the same.
    expect(await refusal(updateCall(entity, {}, { etag: entity.etag }))).toMatchObject({ reason: "ETAG_MISMATCH" });
  });

  it("rule 35: of 16 with the same etag at once, one writes", async () => {
    const entity = await create();
    const outcomes = await Promise.all(
      Array.from({ length: 16 }, (_, i) =>
        updateCall(entity, { name: `N${i}` }, { etag: entity.etag }).then(
          () => "ok",
          async (error) => (await refusal(Promise.reject(error))).reason,
        ),
      ),
    );
    expect(outcomes.toSorted()).toEqual([...Array(15).fill("ETAG_MISMATCH"), "ok"]);
    expect(await eventsOf(entity)).toHaveLength(2);
  });

  it("rules 34, 36: 32 concurrent merges lose nothing, and each sees the one before", async () => {
    const entity = await create({ entityData: person({ firstName: "A" }) });
    const answers = await Promise.all(
      Array.from({ length: 32 }, (_, i) =>
        updateCall(entity, { attributes: { [`k${i}`]: i }, entityData: person({ additional: { [`d${i}`]: i } }) }),
      ),
    );
    const after = await get(entity);
    expect(Object.keys(after.attributes ?? {})).toHaveLength(32);
    expect(Object.keys(dataOf(after).additional as object)).toHaveLength(32);
    expect(new Set(answers.map((answer) => answer.entity?.etag)).size).toBe(32);
    expect(new Set(answers.map((answer) => micros(answer.entity?.updatedAt))).size).toBe(32);
    // The previous_entity of each is the entity of another update (or of the creation), read under the lock.
    const etags = new Set([entity.etag, ...answers.map((answer) => answer.entity?.etag)]);
    const previous = answers.map((answer) => answer.previousEntity?.etag);
    expect(new Set(previous).size).toBe(32);
    for (const etag of previous) expect(etags).toContain(etag);
    expect(fold(await eventsOf(entity))).toEqual(asEvent(after));
  });
});

// --- Upserts, previews, retries -----------------------------------------------------------------

describe("allow_missing", () => {
  const upsert = (externalId: string, entity: EntityInit, more: UpdateInit = {}) =>
    service.client.entities.updateEntity({
      lookup: byExternalId(externalId),
      entity,
      allowMissing: true,
      ...more,
    } as UpdateInit);

  it("rule 37: creates where there is none, under the id of the lookup, then updates; created says which", async () => {
    const externalId = fresh();
    const first = await upsert(` ${externalId} `, { ...minimal, attributes: { a: 1 }, externalId: "ignored" });
    expect(first.created).toBe(true);
    expect(first.previousEntity).toBeUndefined();
    expect(first.entity).toMatchObject({ externalId, name: "Ana", attributes: { a: 1 }, status: EntityStatus.PENDING });
    expect(first.ignoredFields).toEqual(["external_id"]);
    expect((await eventsOf(first.entity!)).map(({ type }) => type)).toEqual([EventType.CREATED]);

    const second = await upsert(externalId, { ...minimal, attributes: { b: 2 } });
    expect(second).toMatchObject({ created: false, updatedFields: ["attributes"] });
    expect(second.previousEntity).toEqual(first.entity);
    expect(second.entity?.attributes).toEqual({ a: 1, b: 2 });
    const third = await upsert(externalId, { ...minimal });
    expect(third).toMatchObject({ created: false, updatedFields: [] });
    expect(third.entity).toEqual(second.entity);
  });

  it("rule 37: without it, and with other lookups, nothing is made", async () => {
    const before = await everything();
    expect(await refusal(upsert(fresh(), minimal, { allowMissing: false }))).toMatchObject({ reason: "NOT_FOUND" });
    for (const lookup of [byId({ id: randomUUID() }), byTaxId(freshTaxId())]) {
      expect(await refusal(upsert("", minimal, { lookup }))).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["allow_missing"],
      });
    }
    expect(await everything()).toEqual(before);
  });

  it("rule 37: what it makes must be a whole entity, by the rules of creation", async () => {
    const before = await everything();
    expect(await refusal(upsert(fresh(), { name: "Ana" }))).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(await refusal(upsert(fresh(), {}))).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(await refusal(upsert(fresh(), minimal, masked("name")))).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(await refusal(upsert(fresh(), { ...minimal, status: EntityStatus.BLOCKED }))).toMatchObject({
      reason: "STATUS_REASON_REQUIRED",
    });
    expect(await everything()).toEqual(before);
  });

  it("rules 37, 16: an alias is found, not made anew", async () => {
    const entity = await create({ externalId: fresh() });
    const alias = fresh();
    await service.client.entities.addExternalIds({ lookup: byId(entity), externalIds: [{ externalId: alias }] });
    expect(await upsert(alias, { ...minimal, name: "Bea" })).toMatchObject({
      created: false,
      entity: { id: entity.id, externalId: entity.externalId, name: "Bea" },
    });
  });

  it("rules 37, 38: validate_only says whether it would be created, and writes nothing", async () => {
    const externalId = fresh();
    const before = await everything();
    expect(await upsert(externalId, minimal, { validateOnly: true })).toMatchObject({
      created: true,
      entity: { externalId },
    });
    expect(await upsert(externalId, minimal, { validateOnly: true })).toMatchObject({ created: true });
    expect(await everything()).toEqual(before);
  });
});

describe("validate_only", () => {
  it("rule 38: of every write answers what would be and writes nothing, also under a request_id", async () => {
    const entity = await create({ externalId: fresh() });
    const bare = await create();
    const lookup = byId(entity);
    const before = await everything();
    const { entities } = service.client;
    const flags = { validateOnly: true, requestId: randomUUID() };
    const id = fresh();
    const updated = await entities.updateEntity({ lookup, entity: { name: "Bea" }, ...flags });
    expect(updated).toMatchObject({ entity: { name: "Bea" }, updatedFields: ["name"], created: false });
    expect(updated.previousEntity).toEqual(entity);
    expect(updated.entity?.etag).not.toBe(entity.etag);
    expect((await entities.changeExternalId({ lookup, newExternalId: id, reason, ...flags })).entity?.externalId).toBe(
      id,
    );
    expect((await entities.assignExternalId({ lookup: byId(bare), externalId: id, ...flags })).entity?.externalId).toBe(
      id,
    );
    expect(
      (await entities.addExternalIds({ lookup, externalIds: [{ externalId: id }], ...flags })).entity?.externalIds,
    ).toHaveLength(2);
    expect((await entities.deleteEntity({ lookup, reason, ...flags })).entity?.deletedAt).toBeDefined();
    expect((await entities.undeleteEntity({ lookup, reason, ...flags })).changed).toBe(false);
    expect(await everything()).toEqual(before);
    expect(await get(entity)).toEqual(entity);
    // The preview under a request_id did not use it up.
    expect(
      (await entities.updateEntity({ lookup, entity: { name: "Cleo" }, requestId: flags.requestId })).entity?.name,
    ).toBe("Cleo");
  });

  it("rule 38: refuses what would be refused", async () => {
    const taken = (await create({ externalId: fresh() })).externalId;
    const entity = await create({ externalId: fresh() });
    const lookup = byId(entity);
    const { entities } = service.client;
    const reader = await service.organization.clientWith(["entities:read", "entities:write"]);
    const calls: [() => Promise<unknown>, string][] = [
      [
        () => entities.updateEntity({ lookup, entity: { status: EntityStatus.BLOCKED }, validateOnly: true }),
        "STATUS_REASON_REQUIRED",
      ],
      [
        () => entities.updateEntity({ lookup, entity: { type: EntityType.COMPANY }, validateOnly: true }),
        "IMMUTABLE_FIELD",
      ],
      [() => entities.updateEntity({ lookup, etag: "x", validateOnly: true }), "ETAG_MISMATCH"],
      [() => entities.updateEntity({ lookup: byExternalId(fresh()), validateOnly: true }), "NOT_FOUND"],
      [
        () => entities.changeExternalId({ lookup, newExternalId: taken, reason, validateOnly: true }),
        "DUPLICATE_EXTERNAL_ID",
      ],
      [
        () => entities.changeExternalId({ lookup, newExternalId: fresh(), reason: "no", validateOnly: true }),
        "VALIDATION_ERROR",
      ],
      [
        () => reader.entities.changeExternalId({ lookup, newExternalId: fresh(), reason, validateOnly: true }),
        "PERMISSION_DENIED",
      ],
      [
        () => entities.addExternalIds({ lookup, externalIds: [{ externalId: taken }], validateOnly: true }),
        "DUPLICATE_EXTERNAL_ID",
      ],
      [
        () => entities.assignExternalId({ lookup, externalId: fresh(), validateOnly: true }),
        "EXTERNAL_ID_ALREADY_ASSIGNED",
      ],
      [() => entities.deleteEntity({ lookup, reason: "no", validateOnly: true }), "VALIDATION_ERROR"],
    ];
    for (const [call, wanted] of calls) expect((await refusal(call())).reason).toBe(wanted);
  });
});

describe("the log of a change", () => {
  it("rules 43, 67: keeps reason, actor, principal, source and the caller's own time; a no-op keeps none of it", async () => {
    const headers = captureHeaders();
    const client = await service.organization.clientWith(["entities:read", "entities:write"], {
      actorId: "user-1",
      source: "crm",
      interceptors: [headers.interceptor],
    });
    const entity = await create();
    const occurredAt = { seconds: 1_500_000_000n, nanos: 999_999_999 };
    await client.entities.updateEntity({
      lookup: byId(entity),
      entity: { name: "Bea" },
      reason: "  moved ",
      occurredAt,
    });
    await client.entities.updateEntity({ lookup: byId(entity), entity: { name: "Bea" }, reason: "nothing" });
    const [event, ...rest] = await eventsOf(entity);
    expect(rest).toHaveLength(1);
    expect(event).toMatchObject({
      reason: "moved",
      actor: "user-1",
      source: "crm",
      updatedFields: ["name"],
      occurredAt: { seconds: 1_500_000_000n, nanos: 999_999_000 },
    });
    expect(event?.principal).not.toBe(service.organization.apiKeyId);
    expect(headers.last.get("idempotent-replay")).toBeNull();
    expect((await eventsOf(await create()))[0]).toMatchObject({
      actor: service.organization.apiKeyId,
      principal: service.organization.apiKeyId,
      source: "api",
    });
  });
});
