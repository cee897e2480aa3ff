// Section J of the rules: deletion is soft and can be taken back.
import { randomUUID } from "node:crypto";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, EntityStatus, EntityType, EventType, ImportOutcome } from "../clients/typescript/index.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const reason = "closed on the customer's wish";
const fresh = () => `x-${randomUUID()}`;
const freshTaxId = () => `T${randomUUID().replaceAll("-", "")}`;
const byId = ({ id }: Entity) => ({ lookup: { by: { case: "entityId" as const, value: id } } });
const byExternalId = (value: string) => ({ lookup: { by: { case: "externalId" as const, value } } });
const byTaxId = (value: string) => ({ lookup: { by: { case: "taxId" as const, value } } });

async function newEntity(values: Record<string, unknown> = {}): Promise<Entity> {
  const { entity } = await service.client.entities.createEntity({
    entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: fresh(), ...values },
  });
  if (entity === undefined) throw new Error("no entity");
  return entity;
}

async function deleted(values: Record<string, unknown> = {}): Promise<Entity> {
  const { entity } = await service.client.entities.deleteEntity({ ...byId(await newEntity(values)), reason });
  if (entity === undefined) throw new Error("no entity");
  return entity;
}

const get = async (entity: Entity) => (await service.client.entities.getEntity(byId(entity))).entity;
const eventsOf = async (entity: Entity) => (await service.client.entities.listEntityEvents(byId(entity))).events;
/** All that is stored of an entity and its log, to check that nothing changed. */
const stored = (entity: Entity) =>
  service.sql(
    `select to_jsonb(e) as entity, (select jsonb_agg(to_jsonb(x) order by x.external_id) from external_id x where x.entity_id = e.id) as ids,
       (select count(*)::int from entity_event v where v.entity_id = e.id) as events
     from entity e where e.id = $1`,
    [entity.id],
  );
async function listedIds(filter: Record<string, unknown>): Promise<string[]> {
  return (await service.client.entities.listEntities({ pageSize: 1000, ...filter })).entities.map(({ id }) => id);
}

describe("DeleteEntity", () => {
  it("rule 77: the entity stays as it was, with deleted_at, a new etag and a later updated_at", async () => {
    const taxId = freshTaxId();
    const before = await newEntity({
      taxId,
      status: EntityStatus.ACTIVE,
      attributes: { a: 1 },
      entityData: { kind: { case: "person", value: { firstName: "Ana", nationality: "AR" } } },
    });
    const { entity, changed } = await service.client.entities.deleteEntity({ ...byId(before), reason });
    expect(changed).toBe(true);
    expect(entity?.deletedAt).toEqual(entity?.updatedAt);
    expect(entity?.etag).not.toBe(before.etag);
    expect({ ...entity, etag: "", updatedAt: undefined, deletedAt: undefined }).toEqual({
      ...before,
      etag: "",
      updatedAt: undefined,
      deletedAt: undefined,
    });
    expect(await get(before)).toEqual(entity);
    expect((await service.client.entities.getEntity(byExternalId(before.externalId))).entity).toEqual(entity);
    const { results } = await service.client.entities.batchGetEntities({
      lookups: [byId(before).lookup, byExternalId(before.externalId).lookup, byTaxId(taxId).lookup],
    });
    expect(results.map(({ result }) => result.case)).toEqual(["entity", "entity", "error"]);
  });

  it("rule 77: it leaves lists, unless deleted ones are asked for, and the lookups by tax id", async () => {
    const taxId = freshTaxId();
    const entity = await deleted({ taxId });
    for (const filter of [{ taxId }, { externalIds: [entity.externalId] }, { namePrefix: "Ana" }, {}]) {
      expect(await listedIds(filter)).not.toContain(entity.id);
      expect(await listedIds({ ...filter, showDeleted: true })).toContain(entity.id);
    }
    const { entities, activity } = service.client;
    const calls = [
      entities.getEntity(byTaxId(taxId)),
      entities.updateEntity({ ...byTaxId(taxId), entity: { name: "B" } }),
      entities.deleteEntity({ ...byTaxId(taxId), reason }),
      entities.undeleteEntity({ ...byTaxId(taxId), reason }),
      entities.listEntityEvents(byTaxId(taxId)),
      activity.listTransactions(byTaxId(taxId)),
    ];
    for (const refused of await Promise.all(calls.map(refusal))) expect(refused).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 77: lists of its events and its activity still answer by its other keys", async () => {
    const entity = await newEntity();
    const at = { seconds: 1_700_000_000n, nanos: 0 };
    await service.client.activity.recordUserEvents({
      userEvents: [{ entityId: entity.id, eventType: "login", occurredAt: at }],
    });
    await service.client.entities.deleteEntity({ ...byId(entity), reason });
    for (const lookup of [byId(entity), byExternalId(entity.externalId)]) {
      expect((await service.client.entities.listEntityEvents(lookup)).events.map(({ type }) => type)).toEqual([
        EventType.DELETED,
        EventType.CREATED,
      ]);
      expect((await service.client.activity.listUserEvents(lookup)).userEvents).toHaveLength(1);
    }
  });

  it("rule 77: its primary and its aliases stay taken", async () => {
    const entity = await newEntity();
    const alias = fresh();
    const { entities } = service.client;
    await entities.addExternalIds({ ...byId(entity), externalIds: [{ externalId: alias }] });
    await entities.deleteEntity({ ...byId(entity), reason });
    const other = await newEntity();
    const bare = await newEntity({ externalId: "" });
    for (const externalId of [entity.externalId, alias]) {
      const calls = [
        newEntity({ externalId }),
        entities.changeExternalId({ ...byId(other), newExternalId: externalId, reason }),
        entities.addExternalIds({ ...byId(other), externalIds: [{ externalId }] }),
        entities.assignExternalId({ ...byId(bare), externalId }),
      ];
      for (const refused of await Promise.all(calls.map(refusal))) {
        expect(refused).toMatchObject({ reason: "DUPLICATE_EXTERNAL_ID", code: Code.AlreadyExists });
      }
    }
  });

  it("rules 18, 77: its tax id is free for one that must be alone with it, but not once it is back", async () => {
    const taxId = freshTaxId();
    const entity = await deleted({ taxId });
    const { entities } = service.client;
    const request = {
      entity: { type: EntityType.PERSON, name: "B", countryCode: "AR", taxId },
      requireUniqueTaxId: true,
    };
    const { entity: second } = await entities.createEntity(request);
    expect((await entities.getEntity(byTaxId(taxId))).entity?.id).toBe(second?.id);
    await entities.undeleteEntity({ ...byId(entity), reason });
    expect(await refusal(entities.getEntity(byTaxId(taxId)))).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP" });
    expect(await refusal(entities.createEntity(request))).toMatchObject({ reason: "DUPLICATE_TAX_ID" });
  });

  it("rule 77: every other write is ENTITY_DELETED and says what helps, and writes nothing", async () => {
    const entity = await deleted({ status: EntityStatus.ACTIVE });
    const before = await stored(entity);
    const { entities } = service.client;
    const values = { type: EntityType.PERSON, name: "B", countryCode: "AR" };
    const calls = [
      entities.updateEntity({ ...byId(entity), entity: { name: "B" } }),
      entities.updateEntity({ ...byId(entity), entity: { name: "B" }, etag: entity.etag }),
      entities.updateEntity({ ...byId(entity), entity: { name: "Ana" } }), // even what would change nothing
      entities.updateEntity({ ...byId(entity) }),
      entities.updateEntity({ ...byId(entity), entity: { name: "B" }, validateOnly: true }),
      entities.updateEntity({ ...byExternalId(entity.externalId), entity: values, allowMissing: true }),
      entities.updateEntity({ ...byId(entity), updateMask: { paths: ["deleted_at", "name"] }, entity: { name: "B" } }),
      entities.changeExternalId({ ...byId(entity), newExternalId: fresh(), reason }),
      entities.changeExternalId({ ...byId(entity), newExternalId: entity.externalId, reason }),
      entities.assignExternalId({ ...byId(entity), externalId: entity.externalId }),
      entities.addExternalIds({ ...byId(entity), externalIds: [{ externalId: fresh() }] }),
      entities.addExternalIds({ ...byId(entity), externalIds: [{ externalId: entity.externalId }] }),
    ];
    for (const refused of await Promise.all(calls.map(refusal))) {
      expect(refused).toMatchObject({
        reason: "ENTITY_DELETED",
        code: Code.FailedPrecondition,
        metadata: { entity_id: entity.id, allowed: "UndeleteEntity" },
      });
    }
    expect(await stored(entity)).toEqual(before);
  });

  it("rule 77: an import row for it fails alone", async () => {
    const entity = await deleted();
    const values = { type: EntityType.PERSON, name: "B", countryCode: "AR" };
    const results = [];
    for await (const message of service.client.entities.importEntities(
      (async function* () {
        yield { entity: { ...values, externalId: entity.externalId } };
        yield { entity: { ...values, externalId: fresh() } };
      })(),
    )) {
      results.push(...message.results);
    }
    expect(results.map(({ outcome }) => outcome)).toEqual([ImportOutcome.FAILED, ImportOutcome.CREATED]);
    expect(results[0]?.error?.message).toContain("UndeleteEntity");
  });

  it("rule 77: deleting it again changes nothing, whatever the reason", async () => {
    const entity = await deleted();
    const before = await stored(entity);
    const again = await service.client.entities.deleteEntity({ ...byId(entity), reason: "another reason" });
    expect(again).toMatchObject({ changed: false, entity });
    expect(await stored(entity)).toEqual(before);
    // The request is validated all the same.
    expect(await refusal(service.client.entities.deleteEntity({ ...byId(entity), reason: "no" }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["reason"],
    });
    expect(
      await refusal(service.client.entities.deleteEntity({ ...byId(entity), reason, etag: "stale" })),
    ).toMatchObject({
      reason: "ETAG_MISMATCH",
    });
  });

  it("rule 77: 16 at once delete once and write one event", async () => {
    const entity = await newEntity();
    const answers = await Promise.all(
      Array.from({ length: 16 }, () => service.client.entities.deleteEntity({ ...byId(entity), reason })),
    );
    expect(answers.filter(({ changed }) => changed)).toHaveLength(1);
    expect(new Set(answers.map((answer) => answer.entity?.etag)).size).toBe(1);
    expect(await eventsOf(entity)).toHaveLength(2);
  });
});

describe("UndeleteEntity", () => {
  it("rule 77: brings it back as it was, ids, status and data", async () => {
    const taxId = freshTaxId();
    const { entity: made } = await service.client.entities.createEntity({
      entity: {
        type: EntityType.PERSON,
        name: "Ana",
        countryCode: "AR",
        externalId: fresh(),
        taxId,
        status: EntityStatus.BLOCKED,
        entityData: { kind: { case: "person", value: { firstName: "Ana", additional: { pet: "cat" } } } },
        metadata: { crm: { id: 7 } },
      },
      reason,
    });
    if (made === undefined) throw new Error("no entity");
    await service.client.entities.addExternalIds({
      ...byId(made),
      externalIds: [{ externalId: fresh(), type: "cif" }],
    });
    const live = await get(made);
    const { entity: gone } = await service.client.entities.deleteEntity({ ...byId(made), reason });
    // A status that needs a reason comes back without asking for a new one.
    const { entity: back, changed } = await service.client.entities.undeleteEntity({
      ...byId(made),
      reason: "back again",
    });
    expect(changed).toBe(true);
    expect({ ...back, etag: "", updatedAt: undefined }).toEqual({ ...live, etag: "", updatedAt: undefined });
    expect(new Set([live?.etag, gone?.etag, back?.etag]).size).toBe(3); // rule 34: not even after a restore
    expect(await get(made)).toEqual(back);
    expect((await service.client.entities.getEntity(byTaxId(taxId))).entity).toEqual(back);
    expect(await listedIds({ taxId })).toEqual([made.id]);
    const { entity: written } = await service.client.entities.updateEntity({
      ...byId(made),
      entity: { name: "Ana B" },
    });
    expect(written?.name).toBe("Ana B");
  });

  it("rule 77: of a live entity changes nothing", async () => {
    const entity = await newEntity();
    const before = await stored(entity);
    expect(await service.client.entities.undeleteEntity({ ...byId(entity), reason })).toMatchObject({
      changed: false,
      entity,
    });
    expect(await stored(entity)).toEqual(before);
  });

  it("rule 77: finds it by any external id", async () => {
    const entity = await deleted();
    const { changed } = await service.client.entities.undeleteEntity({ ...byExternalId(entity.externalId), reason });
    expect(changed).toBe(true);
  });
});

describe("both", () => {
  const CALLS = {
    DeleteEntity: { make: () => newEntity(), call: (r: any) => service.client.entities.deleteEntity(r) },
    UndeleteEntity: { make: () => deleted(), call: (r: any) => service.client.entities.undeleteEntity(r) },
  };

  it.each(Object.entries(CALLS))(
    "rules 45, 77: %s needs a reason of 5 to 4000 code points, trimmed, and writes nothing without",
    async (_, { make, call }) => {
      const entity = await make();
      const before = await stored(entity);
      for (const wrong of ["", "    ", "1234", "  1234 \n", "😀😀😀😀", "x".repeat(4001), "bad\u0000reason"]) {
        expect(await refusal(call({ ...byId(entity), reason: wrong })), JSON.stringify(wrong)).toMatchObject({
          reason: "VALIDATION_ERROR",
          fields: ["reason"],
        });
      }
      expect(await stored(entity)).toEqual(before);
      await call({ ...byId(entity), reason: "  😀😀😀😀😀\n" });
      expect((await eventsOf(entity))[0]?.reason).toBe("😀😀😀😀😀");
    },
  );

  it.each(Object.entries(CALLS))(
    "rules 45, 77: %s takes a reason of exactly 4000 code points",
    async (_, { make, call }) => {
      const { changed } = await call({ ...byId(await make()), reason: "😀".repeat(4000) });
      expect(changed).toBe(true);
    },
  );

  it.each(Object.entries(CALLS))(
    "rule 35: %s with a stale etag is ETAG_MISMATCH and tells the current one; with it, it goes through",
    async (_, { make, call }) => {
      const entity = await make();
      const before = await stored(entity);
      for (const etag of [
        randomUUID(),
        "x",
        entity.etag.toUpperCase() === entity.etag ? "y" : entity.etag.toUpperCase(),
      ]) {
        expect(await refusal(call({ ...byId(entity), reason, etag }))).toMatchObject({
          reason: "ETAG_MISMATCH",
          code: Code.Aborted,
          metadata: { etag: entity.etag },
        });
      }
      expect(await stored(entity)).toEqual(before);
      expect((await call({ ...byId(entity), reason, etag: entity.etag })).changed).toBe(true);
    },
  );

  it.each(Object.entries(CALLS))(
    "rule 38: %s with validate_only answers what would be and writes nothing",
    async (_, { make, call }) => {
      const entity = await make();
      const before = await stored(entity);
      const answer = await call({ ...byId(entity), reason, validateOnly: true });
      expect(answer.changed).toBe(true);
      expect(answer.entity?.deletedAt === undefined).toBe(entity.deletedAt !== undefined);
      expect(await stored(entity)).toEqual(before);
      expect(await refusal(call({ ...byId(entity), reason: "no", validateOnly: true }))).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
      expect(await refusal(call({ ...byId(entity), reason, etag: "x", validateOnly: true }))).toMatchObject({
        reason: "ETAG_MISMATCH",
      });
    },
  );

  it("rules 77, 60: both are audited, with reason, actor, source and the field that changed", async () => {
    const client = await service.organization.clientWith(["entities:read", "entities:write"], {
      actorId: "user-7",
      source: "backoffice",
    });
    const entity = await newEntity();
    const occurredAt = { seconds: 1_600_000_000n, nanos: 123_456_000 };
    const { entity: gone } = await client.entities.deleteEntity({
      ...byId(entity),
      reason: "  first reason ",
      occurredAt,
    });
    const { entity: back } = await client.entities.undeleteEntity({ ...byId(entity), reason: "second reason" });
    const [undeleted, removed] = await eventsOf(entity);
    expect(removed).toMatchObject({
      type: EventType.DELETED,
      event: "entity.deleted",
      entityVersion: 2n,
      updatedFields: ["deletedAt"],
      previousValues: {},
      reason: "first reason",
      actor: "user-7",
      source: "backoffice",
      occurredAt,
      recordedAt: gone?.deletedAt,
      externalId: entity.externalId,
    });
    expect(Object.keys(removed?.newValues ?? {})).toEqual(["deletedAt"]);
    expect(undeleted).toMatchObject({
      type: EventType.UNDELETED,
      event: "entity.undeleted",
      entityVersion: 3n,
      updatedFields: ["deletedAt"],
      previousValues: removed?.newValues,
      newValues: { deletedAt: null },
      reason: "second reason",
      recordedAt: back?.updatedAt,
    });
    expect(undeleted?.occurredAt).toBeUndefined();
  });
});
