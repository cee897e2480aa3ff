// Section A of the rules: how an EntityLookup finds its entity, the same in every RPC that takes one.
import { randomUUID } from "node:crypto";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Entity,
  type EntityClient,
  type EntityLookupSchema,
  EntityStatus,
  EntityType,
  EventType,
  GetEntityRequestSchema,
} from "../clients/typescript/index.ts";
import { forget, refusal, startService, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";
import { beginning } from "./watchers.ts";

type By = NonNullable<MessageInitShape<typeof EntityLookupSchema>["by"]>;

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

/** Of the organization that a client is of. */
async function newMatrix({ riskMatrices }: EntityClient): Promise<string> {
  const rules = [{ id: "one", displayName: "x", expression: "true", points: "1" }];
  return (await riskMatrices.createRiskMatrix({ matrix: { displayName: "x", rules } })).matrix?.id ?? "";
}

const reason = "a reason of some length";
const now = { seconds: 1_760_000_000n, nanos: 0 };
const byId = (value: string): By => ({ case: "entityId", value });
const byExternalId = (value: string): By => ({ case: "externalId", value });
const byTaxId = (value: string): By => ({ case: "taxId", value });
const fresh = (prefix = "x") => `${prefix}-${randomUUID()}`;
/** A tax id that no other test uses. */
const freshTaxId = () => `T${randomUUID().replaceAll("-", "")}`;

async function newEntity(values: Record<string, unknown> = {}, client: EntityClient = service.client): Promise<Entity> {
  const { entity } = await client.entities.createEntity({
    entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: fresh(), ...values },
  });
  if (entity === undefined) throw new Error("no entity");
  return entity;
}

/** Gives an entity one transaction and one user event, so that the lists of activity identify it. */
async function withActivity(entity: Entity, client: EntityClient = service.client): Promise<Entity> {
  await client.activity.recordTransactions({
    transactions: [
      { type: "payment", amount: "1.00", currency: "ARS", transactedAt: now, origin: { entityId: entity.id } },
    ],
  });
  await client.activity.recordUserEvents({
    userEvents: [{ entityId: entity.id, eventType: "login", occurredAt: now }],
  });
  return entity;
}

/** Every RPC that takes a lookup: returns the id of the entity that it found and, with validate_only, changes nothing. */
const RPCS: Record<string, (by: By | undefined, client?: EntityClient) => Promise<string | undefined>> = {
  GetEntity: async (by, { entities } = service.client) => (await entities.getEntity({ lookup: lookup(by) })).entity?.id,
  UpdateEntity: async (by, { entities } = service.client) =>
    (await entities.updateEntity({ lookup: lookup(by) })).entity?.id,
  ChangeExternalId: async (by, { entities } = service.client) =>
    (await entities.changeExternalId({ lookup: lookup(by), newExternalId: fresh(), reason, validateOnly: true })).entity
      ?.id,
  AssignExternalId: async (by, { entities } = service.client) => {
    const request = { lookup: lookup(by), externalId: fresh(), validateOnly: true };
    // The tests' entities have an external id already: the refusal names the entity that was found.
    const refused = await refusal(entities.assignExternalId(request));
    if (refused.reason !== "EXTERNAL_ID_ALREADY_ASSIGNED") return (await entities.assignExternalId(request)).entity?.id;
    return undefined;
  },
  AddExternalIds: async (by, { entities } = service.client) =>
    (await entities.addExternalIds({ lookup: lookup(by), externalIds: [{ externalId: fresh() }], validateOnly: true }))
      .entity?.id,
  ReleaseExternalId: async (by, { entities } = service.client) => {
    const request = { lookup: lookup(by), externalId: fresh(), reason, validateOnly: true };
    const refused = await refusal(entities.releaseExternalId(request));
    // Found, and it has no such alias: the other RPCs say which one was found.
    if (refused.reason === "NOT_FOUND" && refused.message === "External id not found") return undefined;
    return (await entities.releaseExternalId(request)).entity?.id;
  },
  ListExternalIdHistory: async (by, { entities } = service.client) =>
    (await entities.listExternalIdHistory({ lookup: lookup(by) })).periods[0]?.entityId,
  SuggestDuplicates: async (by, { entities } = service.client) => {
    const found = (await entities.suggestDuplicates({ lookup: { by: by ?? { case: undefined } } })).suggestions;
    return found[0]?.firstEntityId;
  },
  DeleteEntity: async (by, { entities } = service.client) =>
    (await entities.deleteEntity({ lookup: lookup(by), reason, validateOnly: true })).entity?.id,
  UndeleteEntity: async (by, { entities } = service.client) =>
    (await entities.undeleteEntity({ lookup: lookup(by), reason, validateOnly: true })).entity?.id,
  ListEntityEvents: async (by, { entities } = service.client) =>
    (await entities.listEntityEvents({ lookup: { by: by ?? { case: undefined } }, types: [EventType.CREATED] }))
      .events[0]?.entityId,
  WatchEntities: async (by, client = service.client) => {
    const { entities } = client;
    // From the beginning, the events of the entity come first, and then a checkpoint.
    const position = await beginning(service, client);
    const request = { lookup: { by: by ?? { case: undefined } }, types: [EventType.CREATED], position };
    for await (const { event } of entities.watchEntities(request)) return event?.entityId;
    return undefined;
  },
  // It answers no entity: of the one that was found there is one, and its events are right.
  VerifyAuditTrail: async (by, { entities } = service.client) => {
    const { entity } = await entities.getEntity({ lookup: lookup(by) });
    for await (const { counts, findings } of entities.verifyAuditTrail({ lookup: lookup(by) })) {
      if (counts?.entities === 1n && findings.length === 0) return entity?.id;
    }
    return undefined;
  },
  ListTransactions: async (by, { activity } = service.client) =>
    (await activity.listTransactions({ lookup: lookup(by) })).transactions[0]?.origin?.entityId,
  ListUserEvents: async (by, { activity } = service.client) =>
    (await activity.listUserEvents({ lookup: lookup(by) })).userEvents[0]?.entityId,
  // Nothing is merged here: merges.test.ts tests that these list what an entity has.
  ListMerges: async (by, { entities } = service.client) =>
    (await entities.listMerges({ lookup: by && { by } })).merges[0]?.primaryId,
  ListDistinct: async (by, { entities } = service.client) =>
    (await entities.listDistinct({ lookup: lookup(by) })).pairs[0]?.firstId,
  AnalyzeEntity: async (by, client = service.client) => {
    const request = { lookup: lookup(by), riskMatrixId: await newMatrix(service.client), validateOnly: true };
    return (await client.entities.analyzeEntity(request)).entity?.id;
  },
  // Nothing is analyzed here: risk.test.ts tests that it lists what an entity has.
  ListEvaluations: async (by, { entities } = service.client) =>
    (await entities.listEvaluations({ lookup: lookup(by) })).evaluations[0]?.entityId,
  // Nothing is delivered here: webhooks.test.ts tests that it lists the entity's deliveries.
  ListWebhookDeliveries: async (by, { webhooks } = service.client) =>
    (await webhooks.listWebhookDeliveries({ lookup: by && { by } })).deliveries[0]?.entityId,
};
const lookup = (by: By | undefined) => (by === undefined ? undefined : { by });
const FINDERS = Object.keys(RPCS).filter(
  (name) =>
    ![
      ...["AssignExternalId", "ReleaseExternalId", "ListMerges", "ListDistinct", "ListEvaluations"],
      "ListWebhookDeliveries",
    ].includes(name),
);
/** Without a lookup they apply to the whole organization. */
const FILTERS = [
  ...["ListEntityEvents", "WatchEntities", "VerifyAuditTrail", "ListMerges", "ListWebhookDeliveries"],
  "SuggestDuplicates",
];
const rpc = (name: string, by: By | undefined, client?: EntityClient) => {
  const call = RPCS[name];
  if (call === undefined) throw new Error(name);
  return call(by, client);
};

async function connectJson(method: string, body: string, type = "application/json") {
  const response = await fetch(`${service.baseUrl}/entity.v1.EntityService/${method}`, {
    method: "POST",
    headers: { "content-type": type, authorization: `Bearer ${service.organization.apiKey}` },
    body,
  });
  return { status: response.status, body: (await response.json()) as any };
}

describe("every RPC that takes a lookup", () => {
  it("is here: those of the descriptors whose request has one", () => {
    const methods = SERVICES.flatMap((family) => family.methods).filter(({ input }) =>
      input.fields.some(({ name }) => name === "lookup"),
    );
    expect(Object.keys(RPCS).sort()).toEqual(methods.map(({ name }) => name).sort());
  });

  let one: Entity;
  const taxId = "20-31415926-5";
  beforeAll(async () => {
    one = await withActivity(await newEntity({ taxId, externalId: "Straße-É-1" }));
    await service.client.entities.addExternalIds({
      lookup: { by: byId(one.id) },
      externalIds: [{ externalId: "alias 1" }],
    });
    await withActivity(await newEntity()); // another one, which is never meant
    await newEntity({ externalId: "ALIAS 1" }); // what SuggestDuplicates finds of it
  });

  it.each(FINDERS)("rules 1, 5, 7, 20: %s finds one entity by its id, primary, alias and tax id", async (name) => {
    const keys = [byId(one.id), byId(one.id.toUpperCase()), byExternalId("Straße-É-1"), byExternalId("alias 1")];
    keys.push(
      byExternalId(" \t alias 1\u00a0"),
      byTaxId(taxId),
      byTaxId("20.314 15926/5"),
      byTaxId("２０３１４１５９２６５"),
    );
    for (const by of keys) expect(await rpc(name, by), JSON.stringify(by)).toBe(one.id);
  });

  it("rules 1, 5, 7, 20: AssignExternalId finds one entity by its id, primary, alias and tax id", async () => {
    for (const by of [byId(one.id), byExternalId("Straße-É-1"), byExternalId(" alias 1 "), byTaxId("20314159265")]) {
      const request = { lookup: { by }, externalId: "Straße-É-1", validateOnly: true };
      expect((await service.client.entities.assignExternalId(request)).entity?.id).toBe(one.id);
      expect(
        await refusal(service.client.entities.assignExternalId({ ...request, externalId: fresh() })),
      ).toMatchObject({
        reason: "EXTERNAL_ID_ALREADY_ASSIGNED",
      });
    }
  });

  it.each(Object.keys(RPCS))(
    "rule 1: %s refuses no lookup, an empty one and a blank one with INVALID_LOOKUP",
    async (name) => {
      const wrong: (By | undefined)[] = [
        { case: undefined },
        byId(""),
        byId("  "),
        byExternalId(""),
        byExternalId(" \t\u00a0"),
        byTaxId(""),
        byTaxId(" "),
      ];
      if (!FILTERS.includes(name)) wrong.push(undefined);
      for (const by of wrong) {
        const refused = await refusal(rpc(name, by));
        expect(refused, JSON.stringify(by)).toMatchObject({ reason: "INVALID_LOOKUP", code: Code.InvalidArgument });
        expect(refused.metadata.field).toMatch(/^lookup/);
      }
    },
  );

  it.each(Object.keys(RPCS))(
    "rule 8: %s refuses a tax id without letter or digit with INVALID_LOOKUP",
    async (name) => {
      for (const value of ["--", " . / ", "…", "—"]) {
        expect(await refusal(rpc(name, byTaxId(value))), value).toMatchObject({ reason: "INVALID_LOOKUP" });
      }
    },
  );

  it.each(Object.keys(RPCS))("rule 4: %s refuses an entity_id that is no UUID with VALIDATION_ERROR", async (name) => {
    for (const value of [
      "1",
      "straße-é-1",
      one.id.replaceAll("-", ""),
      `{${one.id}}`,
      `${one.id} `,
      one.id.slice(1),
      `${one.id}0`,
      `urn:uuid:${one.id}`,
      "gggggggg-0000-7000-8000-000000000000",
      "'; drop table entity; --",
    ]) {
      expect(await refusal(rpc(name, byId(value))), value).toMatchObject({
        reason: "VALIDATION_ERROR",
        code: Code.InvalidArgument,
        fields: ["lookup.entity_id"],
      });
    }
  });

  it.each(Object.keys(RPCS))(
    "rule 3: %s answers NOT_FOUND, in the words of the seed, and says which kind of lookup",
    async (name) => {
      for (const [by, kind] of [
        [byId(randomUUID()), "entity_id"],
        [byExternalId(fresh()), "external_id"],
        [byTaxId(freshTaxId()), "tax_id"],
      ] as const) {
        expect(await refusal(rpc(name, by))).toEqual({
          code: Code.NotFound,
          reason: "NOT_FOUND",
          message: "Entity not found",
          metadata: { lookup: kind },
          fields: [],
        });
      }
    },
  );

  it.each(Object.keys(RPCS))("rules 2, 3: %s answers for another organization's entity as for none", async (name) => {
    const { client } = await service.newOrganization();
    for (const [there, nowhere] of [
      [byId(one.id), byId(randomUUID())],
      [byExternalId("Straße-É-1"), byExternalId(fresh())],
      [byExternalId("alias 1"), byExternalId(fresh())],
      [byTaxId(taxId), byTaxId(freshTaxId())],
    ] as const) {
      expect(await refusal(rpc(name, there, client))).toEqual(await refusal(rpc(name, nowhere, client)));
    }
  });

  it.each(Object.keys(RPCS))(
    "rule 5: %s compares an external id exactly: no case, accent or compatibility folding",
    async (name) => {
      for (const value of [
        "straße-é-1",
        "STRASSE-É-1",
        "Strasse-É-1",
        "Straße-E\u0301-1",
        "Straße-É-１",
        "Straße-É",
        "Straße-É-1x",
        "alias  1",
        "Alias 1",
        "alias%",
        "alias_1",
      ]) {
        expect(await refusal(rpc(name, byExternalId(value))), value).toMatchObject({ reason: "NOT_FOUND" });
      }
    },
  );

  it.each(Object.keys(RPCS))(
    "rules 10, 13: %s names the candidates of an ambiguous tax id and tells nothing else",
    async (name) => {
      const shared = freshTaxId();
      const person = await withActivity(await newEntity({ taxId: shared, name: "Secret Person" }));
      const company = await withActivity(
        await newEntity({ taxId: `${shared.slice(0, 4)}-${shared.slice(4)}`, type: EntityType.COMPANY }),
      );
      const refused = await refusal(rpc(name, byTaxId(shared.toLowerCase())));
      expect(refused).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP", code: Code.FailedPrecondition });
      expect(refused.message).toMatch(/entity_id/);
      expect(refused.message).toMatch(/external_id/);
      expect(Object.keys(refused.metadata)).toEqual(["candidates"]);
      expect(refused.metadata.candidates?.split(",").sort()).toEqual([person.id, company.id].sort());
      expect(JSON.stringify(refused)).not.toMatch(new RegExp(`Secret|${shared}`, "i"));
    },
  );
});

describe("two keys at once", () => {
  it("rule 1: in JSON is INVALID_LOOKUP", async () => {
    const { id, externalId } = await newEntity();
    for (const body of [
      { lookup: { entityId: id, externalId } },
      { lookup: { externalId, taxId: "1" } },
      { lookup: { entityId: id, externalId, taxId: "1" } },
    ]) {
      const { status, body: answer } = await connectJson("GetEntity", JSON.stringify(body));
      expect(status).toBe(400);
      expect(JSON.stringify(answer)).toContain("INVALID_LOOKUP");
      expect(JSON.stringify(answer)).not.toContain(externalId);
    }
  });

  it("rule 1: on the binary wire the last one counts", async () => {
    const [a, b] = [await newEntity(), await newEntity()];
    const get = (by: By) => toBinary(GetEntityRequestSchema, create(GetEntityRequestSchema, { lookup: { by } }));
    for (const [first, last, wanted] of [
      [byId(a.id), byExternalId(b.externalId), b.id],
      [byExternalId(b.externalId), byId(a.id), a.id],
    ] as const) {
      const response = await fetch(`${service.baseUrl}/entity.v1.EntityService/GetEntity`, {
        method: "POST",
        headers: { "content-type": "application/proto", authorization: `Bearer ${service.organization.apiKey}` },
        body: Buffer.concat([get(first), get(last)]),
      });
      expect(response.status).toBe(200);
      expect(Buffer.from(await response.arrayBuffer()).includes(wanted)).toBe(true);
    }
  });
});

describe("external ids as keys", () => {
  it.each(Object.keys(RPCS))(
    "rule 6: %s does not take an entity's id for an external id, nor the reverse",
    async (name) => {
      const { id, externalId } = await withActivity(await newEntity({ taxId: freshTaxId() }));
      expect(await refusal(rpc(name, byExternalId(id)))).toMatchObject({
        reason: "NOT_FOUND",
        metadata: { lookup: "external_id" },
      });
      expect(await refusal(rpc(name, byTaxId(id)))).toMatchObject({ reason: "NOT_FOUND" });
      expect(await refusal(rpc(name, byTaxId(externalId)))).toMatchObject({ reason: "NOT_FOUND" });
      const uuid = randomUUID();
      await newEntity({ externalId: uuid });
      expect(await refusal(rpc(name, byId(uuid)))).toMatchObject({ reason: "NOT_FOUND" });
    },
  );

  it("rule 6: one that looks like a UUID is only ever tried as an external id", async () => {
    const a = await newEntity();
    expect(await refusal(service.client.entities.getEntity({ lookup: { by: byExternalId(a.id) } }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    const b = await newEntity({ externalId: a.id });
    expect((await service.client.entities.getEntity({ lookup: { by: byExternalId(a.id) } })).entity?.id).toBe(b.id);
    expect((await service.client.entities.getEntity({ lookup: { by: byId(a.id) } })).entity?.id).toBe(a.id);
    // The case of a UUID counts as in any other text.
    expect(
      await refusal(service.client.entities.getEntity({ lookup: { by: byExternalId(a.id.toUpperCase()) } })),
    ).toMatchObject({
      reason: "NOT_FOUND",
    });
  });

  it("rule 6: one that looks like a tax id, a number or SQL is only an external id", async () => {
    const owner = await newEntity({ taxId: "AAA-111-EXT" });
    for (const value of [
      "AAA111EXT",
      "0",
      "null",
      "true",
      "' or '1'='1",
      "%",
      "_",
      "\\",
      "{a,b}",
      '"',
      "a,b",
      "😀",
      "null,null",
    ]) {
      const by = byExternalId(value);
      expect(await refusal(service.client.entities.getEntity({ lookup: { by } })), value).toMatchObject({
        reason: "NOT_FOUND",
      });
      const { id } = await newEntity({ externalId: value });
      for (const name of ["GetEntity", "UpdateEntity"]) expect(await rpc(name, by), value).toBe(id);
      expect(id).not.toBe(owner.id);
    }
  });

  it("rule 5: a freed external id finds nobody, and then whoever takes it", async () => {
    const a = await newEntity();
    const old = a.externalId;
    await service.client.entities.changeExternalId({
      lookup: { by: byExternalId(old) },
      newExternalId: fresh(),
      reason,
    });
    expect(await refusal(rpc("GetEntity", byExternalId(old)))).toMatchObject({ reason: "NOT_FOUND" });
    const b = await newEntity({ externalId: old });
    expect(await rpc("GetEntity", byExternalId(old))).toBe(b.id);
  });
});

describe("tax ids as keys", () => {
  it("rule 7: letters count, case and punctuation do not, on both sides", async () => {
    for (const [stored, asked] of [
      ["vecj880326-xk4", ["VECJ880326XK4", " vecj 880326 xk4 ", "V.E.C.J-880326-XK4"]],
      ["12.345.678-K", ["12345678k", "12345678-K", "１２３４５６７８Ｋ"]],
      ["12.ABC.345/01DE-35", ["12abc34501de35", "12ABC34501DE35"]],
      ["ＡＢ１２３", ["ab123", "AB-123"]],
    ] as const) {
      const { id, taxId } = await newEntity({ taxId: stored });
      expect(taxId).toBe(stored);
      for (const value of asked) expect(await rpc("GetEntity", byTaxId(value)), `${stored} by ${value}`).toBe(id);
    }
    // One letter more or less makes another number.
    expect(await refusal(rpc("GetEntity", byTaxId("12345678")))).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 9: entities without a tax id are never found by one, also not by the words for nothing", async () => {
    await newEntity();
    await newEntity({ taxId: "--" });
    for (const value of ["null", "undefined", "0", "none"]) {
      expect(await refusal(rpc("GetEntity", byTaxId(value))), value).toMatchObject({ reason: "NOT_FOUND" });
    }
  });

  it("rule 8: one without letter or digit is stored as none", async () => {
    const entity = await newEntity({ taxId: " -- " });
    expect(entity.taxId).toBeUndefined();
    expect(await service.sql("select tax_id, tax_id_key, tax_id_check from entity where id = $1", [entity.id])).toEqual(
      [{ tax_id: null, tax_id_key: null, tax_id_check: null }],
    );
  });

  it("rule 10: of 23 candidates 20 are named; deleted ones are neither counted nor named", async () => {
    const taxId = freshTaxId();
    const made = await Promise.all(
      Array.from({ length: 23 }, (_, i) =>
        newEntity({ taxId: i % 2 ? taxId : taxId.toLowerCase(), type: i % 3 ? EntityType.PERSON : EntityType.COMPANY }),
      ),
    );
    const candidates = async () =>
      (await refusal(rpc("GetEntity", byTaxId(taxId)))).metadata.candidates?.split(",") ?? [];
    const named = await candidates();
    expect(named).toHaveLength(20);
    expect(new Set(named).size).toBe(20);
    expect(made.map(({ id }) => id)).toEqual(expect.arrayContaining(named));

    const remove = ({ id }: Entity) => service.client.entities.deleteEntity({ lookup: { by: byId(id) }, reason });
    await Promise.all(made.slice(0, 4).map(remove));
    expect((await candidates()).toSorted()).toEqual(
      made
        .slice(4)
        .map(({ id }) => id)
        .toSorted(),
    );
    await Promise.all(made.slice(4, 22).map(remove));
    expect(await rpc("GetEntity", byTaxId(taxId))).toBe(made[22]?.id);
    expect(await rpc("UpdateEntity", byTaxId(taxId))).toBe(made[22]?.id);
    await service.client.entities.deleteEntity({ lookup: { by: byTaxId(taxId) }, reason });
    expect(await refusal(rpc("GetEntity", byTaxId(taxId)))).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 10: an ambiguous write writes, audits and changes nothing", async () => {
    const taxId = freshTaxId();
    const made = [await newEntity({ taxId }), await newEntity({ taxId })];
    const count = async () =>
      service.sql(
        "select count(*)::int as n, max(recorded_at)::text as last from entity_event union all select count(*)::int, max(updated_at)::text from entity",
      );
    const before = await count();
    const { entities } = service.client;
    const target = { lookup: { by: byTaxId(taxId) }, reason };
    const calls = [
      entities.updateEntity({ ...target, entity: { name: "Other" } }),
      entities.updateEntity({ ...target, entity: { taxId: "1" }, etag: made[0]?.etag ?? "" }),
      entities.changeExternalId({ ...target, newExternalId: fresh() }),
      entities.addExternalIds({ ...target, externalIds: [{ externalId: fresh() }] }),
      entities.assignExternalId({ ...target, externalId: made[0]?.externalId ?? "" }),
      entities.deleteEntity(target),
      entities.undeleteEntity(target),
    ];
    for (const refused of await Promise.all(calls.map(refusal))) {
      expect(refused).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP" });
    }
    expect(await count()).toEqual(before);
  });

  it("rule 11: tax ids are not unique; the key follows each write that changes one", async () => {
    const [a, b, c] = [freshTaxId(), freshTaxId(), freshTaxId()];
    const entity = await newEntity({ taxId: a });
    await newEntity({ taxId: b });
    const set = (taxId: string) =>
      service.client.entities.updateEntity({ lookup: { by: byId(entity.id) }, entity: { taxId } });
    await set(b);
    expect(await refusal(rpc("GetEntity", byTaxId(a)))).toMatchObject({ reason: "NOT_FOUND" });
    expect(await refusal(rpc("GetEntity", byTaxId(b)))).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP" });
    await set(`${c.slice(0, 5)}.${c.slice(5)}`);
    expect(await rpc("UpdateEntity", byTaxId(c))).toBe(entity.id);
    // The write that the lookup finds may remove the entity's key.
    const { entity: after } = await service.client.entities.updateEntity({
      lookup: { by: byTaxId(c) },
      updateMask: { paths: ["tax_id"] },
    });
    expect(after).toMatchObject({ id: entity.id });
    expect(after?.taxId).toBeUndefined();
    expect(await refusal(rpc("GetEntity", byTaxId(c)))).toMatchObject({ reason: "NOT_FOUND" });
  });
});

describe("a lookup that waits for a lock", () => {
  /** Moved by SQL: no event records it. */
  const altered: string[] = [];
  afterAll(() => forget(service, altered));

  /** A transaction of the test, on the tables. */
  async function openTransaction() {
    const client = new pg.Client(service.database);
    await client.connect();
    await client.query("set timezone = 'UTC'");
    await client.query("begin");
    return {
      query: (text: string, values: unknown[]) => client.query(text, values),
      async [Symbol.asyncDispose]() {
        await client.query("commit");
        await client.end();
      },
    };
  }
  /** Recomputes the copy in the entity's row. */
  const COPY_EXTERNAL_IDS = `
    update entity e set external_ids = (
      select jsonb_agg(jsonb_build_array(x.external_id, coalesce(x.type, ''), x.is_primary, x.attached_at) order by x.is_primary desc, x.attached_at)
      from external_id x where x.entity_id = e.id)
    where id = any($1::uuid[])`;
  const waiters = async () =>
    Number(
      (
        await service.sql(
          "select count(*) as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
      )[0]?.n,
    );

  const UPDATES: Record<string, (by: By) => Promise<Entity | undefined>> = {
    UpdateEntity: async (by) =>
      (await service.client.entities.updateEntity({ lookup: { by }, entity: { attributes: { hit: true } } })).entity,
    ChangeExternalId: async (by) =>
      (
        await service.client.entities.changeExternalId({
          lookup: { by },
          newExternalId: fresh(),
          reason,
          keepPreviousAsAlias: true,
        })
      ).entity,
    AddExternalIds: async (by) =>
      (await service.client.entities.addExternalIds({ lookup: { by }, externalIds: [{ externalId: fresh() }] })).entity,
    DeleteEntity: async (by) => (await service.client.entities.deleteEntity({ lookup: { by }, reason })).entity,
  };

  it.each(Object.keys(UPDATES))(
    "rule 5: %s writes to the entity that has the external id after the wait",
    async (name) => {
      const [before, after] = [await newEntity(), await newEntity()];
      altered.push(before.id, after.id);
      const hot = fresh("hot");
      await service.client.entities.addExternalIds({
        lookup: { by: byId(before.id) },
        externalIds: [{ externalId: hot }],
      });
      let call: Promise<Entity | undefined>;
      {
        await using holder = await openTransaction();
        await holder.query("select 1 from entity where id = $1 for no key update", [before.id]);
        call = UPDATES[name]!(byExternalId(hot));
        await expect.poll(waiters).toBe(1);
        await holder.query("update external_id set entity_id = $2 where external_id = $1", [hot, after.id]);
        await holder.query(COPY_EXTERNAL_IDS, [[before.id, after.id]]);
      }
      const written = await call;
      expect(written?.id).toBe(after.id);
      expect(written?.externalIds.map((id) => id.externalId)).toContain(hot);
      const { entity: untouched } = await service.client.entities.getEntity({ lookup: { by: byId(before.id) } });
      expect(untouched?.attributes).toBeUndefined();
      expect(untouched?.deletedAt).toBeUndefined();
      expect(untouched?.externalIds.map((id) => id.externalId)).toEqual([before.externalId]);
      const events = async (id: string) =>
        (await service.client.entities.listEntityEvents({ lookup: { by: byId(id) } })).events.length;
      expect(await events(before.id)).toBe(2);
      expect(await events(after.id)).toBe(2);
    },
  );

  it("rule 5: NOT_FOUND when the external id is freed during the wait, and the old owner stays as it is", async () => {
    const entity = await newEntity();
    altered.push(entity.id);
    const hot = fresh("hot");
    await service.client.entities.addExternalIds({
      lookup: { by: byId(entity.id) },
      externalIds: [{ externalId: hot }],
    });
    let refused: ReturnType<typeof refusal>;
    {
      await using holder = await openTransaction();
      await holder.query("select 1 from entity where id = $1 for no key update", [entity.id]);
      refused = refusal(UPDATES.UpdateEntity!(byExternalId(hot)));
      await expect.poll(waiters).toBe(1);
      await holder.query("delete from external_id where external_id = $1", [hot]);
      await holder.query(COPY_EXTERNAL_IDS, [[entity.id]]);
    }
    expect(await refused).toMatchObject({ reason: "NOT_FOUND" });
    const { entity: after } = await service.client.entities.getEntity({ lookup: { by: byId(entity.id) } });
    expect(after?.attributes).toBeUndefined();
  });

  it("rules 5, 7: a tax id that moves during the wait is looked up again too", async () => {
    const taxId = freshTaxId();
    const [before, after] = [await newEntity({ taxId }), await newEntity()];
    altered.push(before.id, after.id);
    let call: Promise<Entity | undefined>;
    {
      await using holder = await openTransaction();
      await holder.query("select 1 from entity where id = $1 for no key update", [before.id]);
      call = UPDATES.UpdateEntity!(byTaxId(taxId));
      await expect.poll(waiters).toBe(1);
      await holder.query("update entity set tax_id = null, tax_id_key = null, tax_id_check = null where id = $1", [
        before.id,
      ]);
      await holder.query(
        "update entity set tax_id = $2, tax_id_key = upper($2), tax_id_check = 'unknown_format' where id = $1",
        [after.id, taxId],
      );
    }
    expect((await call)?.id).toBe(after.id);
  });

  it("rules 5, 10: a tax id that a second entity gets during the wait is ambiguous then", async () => {
    const taxId = freshTaxId();
    const [before, second] = [await newEntity({ taxId }), await newEntity()];
    altered.push(before.id, second.id);
    let refused: ReturnType<typeof refusal>;
    {
      await using holder = await openTransaction();
      await holder.query("select 1 from entity where id = $1 for no key update", [before.id]);
      refused = refusal(UPDATES.UpdateEntity!(byTaxId(taxId)));
      await expect.poll(waiters).toBe(1);
      await holder.query(
        "update entity set tax_id = $2, tax_id_key = upper($2), tax_id_check = 'unknown_format' where id = $1",
        [second.id, taxId],
      );
    }
    expect(await refused).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP" });
  });

  it("rule 5: 64 writers by an external id that moves from one to the other only ever write to its owner", async () => {
    const owners = [await newEntity(), await newEntity()];
    const hot = fresh("hot");
    await service.client.entities.addExternalIds({
      lookup: { by: byId(owners[0]!.id) },
      externalIds: [{ externalId: hot }],
    });
    let moving = true;
    // Each move frees the id and attaches it to the other entity, in separate transactions of the service.
    const mover = (async () => {
      for (let i = 0; i < 2; i++) {
        const [from, to] = i % 2 ? [owners[1]!, owners[0]!] : [owners[0]!, owners[1]!];
        await service.client.entities.changeExternalId({ lookup: { by: byId(from.id) }, newExternalId: hot, reason });
        await service.client.entities.changeExternalId({
          lookup: { by: byExternalId(hot) },
          newExternalId: fresh(),
          reason,
        });
        const attached = await service.client.entities.addExternalIds({
          lookup: { by: byId(to.id) },
          externalIds: [{ externalId: hot }],
        });
        // Until a write has reached the new owner.
        const etag = async () =>
          (await service.client.entities.getEntity({ lookup: { by: byId(to.id) } })).entity?.etag;
        await expect.poll(etag, { timeout: 10_000 }).not.toBe(attached.entity?.etag);
      }
    })().finally(() => {
      moving = false;
    });
    const answers = await Promise.all(
      Array.from({ length: 64 }, async (_, i) => {
        const outcomes: (Entity | string)[] = [];
        for (let round = 0; moving; round++) {
          try {
            const { entity } = await service.client.entities.updateEntity({
              lookup: { by: byExternalId(hot) },
              entity: { attributes: { [`k${i}`]: round } },
            });
            if (entity !== undefined) outcomes.push(entity);
          } catch (error) {
            outcomes.push((await refusal(Promise.reject(error))).reason);
          }
        }
        return outcomes;
      }),
    );
    await mover;
    const written = answers.flat().filter((answer) => typeof answer !== "string");
    for (const answer of answers.flat()) {
      if (typeof answer === "string") expect(["NOT_FOUND", "WRITE_CONFLICT"]).toContain(answer);
      else expect(answer.externalIds.map((id) => id.externalId)).toContain(hot);
    }
    expect(written.length).toBeGreaterThan(32);
    expect(new Set(written.map(({ id }) => id)).size).toBe(2);
    // The log agrees: at each of these changes the entity had the id.
    for (const { id } of owners) {
      const { events } = await service.client.entities.listEntityEvents({
        lookup: { by: byId(id) },
        types: [EventType.ATTRIBUTE_CHANGED],
        pageSize: 1000,
      });
      for (const event of events) expect(event.externalIds).toContain(hot);
    }
  });
});

describe("which error comes first", () => {
  it("rule 13: credentials before the request: without a key a bad request is UNAUTHENTICATED", async () => {
    const response = await fetch(`${service.baseUrl}/entity.v1.EntityService/UpdateEntity`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer nobody" },
      body: JSON.stringify({ lookup: { entityId: "no uuid" } }),
    });
    expect(JSON.stringify(await response.json())).toContain("UNAUTHENTICATED");
  });

  it("rule 13: permission before validation: a key without the scope hears PERMISSION_DENIED of a bad request", async () => {
    const reader = await service.organization.clientWith(["entities:read"]);
    const calls = [
      reader.entities.updateEntity({ lookup: { by: byId("no uuid") } }),
      reader.entities.createEntity({}),
      reader.entities.deleteEntity({ lookup: { by: byId(randomUUID()) } }),
      reader.entities.changeExternalId({}),
      reader.activity.listTransactions({}),
    ];
    for (const refused of await Promise.all(calls.map(refusal))) {
      expect(refused).toMatchObject({ reason: "PERMISSION_DENIED", code: Code.PermissionDenied });
    }
  });

  it("rule 13: validation of the whole request before the lookup: a bad reason, etag, id or field with an unknown entity", async () => {
    const { entities } = service.client;
    const nobody = { lookup: { by: byExternalId(fresh()) } };
    const calls: [() => Promise<unknown>, string][] = [
      [() => entities.deleteEntity({ ...nobody, reason: "no" }), "reason"],
      [() => entities.undeleteEntity({ ...nobody, reason: "" }), "reason"],
      [() => entities.changeExternalId({ ...nobody, newExternalId: "x", reason: "1234" }), "reason"],
      [() => entities.changeExternalId({ ...nobody, newExternalId: " ", reason }), "new_external_id"],
      [() => entities.assignExternalId({ ...nobody, externalId: "" }), "external_id"],
      [() => entities.addExternalIds({ ...nobody }), "external_ids"],
      [() => entities.updateEntity({ ...nobody, entity: { countryCode: "ARG" } }), "entity.country_code"],
      [() => entities.updateEntity({ ...nobody, requestId: "no uuid" }), "request_id"],
      [() => entities.updateEntity({ ...nobody, etag: "a", entity: { etag: "b" } }), "etag"],
      [() => entities.updateEntity({ ...nobody, updateMask: { paths: ["no_field"] } }), "update_mask"],
      [() => entities.updateEntity({ ...nobody, reason: "x".repeat(4001) }), "reason"],
      [() => entities.updateEntity({ ...nobody, entity: { riskMatrixId: "1" } }), "entity.risk_matrix_id"],
      [() => entities.getEntity({ ...nobody, readMask: { paths: ["no_field"] } }), "read_mask"],
      [() => entities.listEntityEvents({ ...nobody, pageSize: -1 }), "page_size"],
      [() => entities.listEntityEvents({ ...nobody, pageToken: "x" }), "page_token"],
      [() => service.client.activity.listTransactions({ ...nobody, pageSize: -1 }), "page_size"],
    ];
    for (const [call, field] of calls) {
      expect(await refusal(call()), field).toMatchObject({ reason: "VALIDATION_ERROR", fields: [field] });
    }
  });

  it("rule 13: the lookup before the etag, the etag before the rule, the rule before uniqueness", async () => {
    const { entities } = service.client;
    const etag = randomUUID();
    const entity = await newEntity();
    const taken = (await newEntity()).externalId;
    const lookup = { by: byId(entity.id) };
    expect(await refusal(entities.updateEntity({ lookup: { by: byExternalId(fresh()) }, etag }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    // Also where a missing entity would be created: an etag implies that it exists.
    expect(
      await refusal(
        entities.updateEntity({
          lookup: { by: byExternalId(fresh()) },
          etag,
          allowMissing: true,
          entity: { type: EntityType.PERSON, name: "A", countryCode: "AR" },
        }),
      ),
    ).toMatchObject({ reason: "NOT_FOUND" });
    for (const change of [
      { type: EntityType.COMPANY },
      { countryCode: "BR" },
      { status: EntityStatus.BLOCKED },
      { status: EntityStatus.PENDING, name: "B" },
    ]) {
      expect(await refusal(entities.updateEntity({ lookup, etag, entity: change }))).toMatchObject({
        reason: "ETAG_MISMATCH",
      });
    }
    expect(await refusal(entities.changeExternalId({ lookup, etag, newExternalId: taken, reason }))).toMatchObject({
      reason: "ETAG_MISMATCH",
    });

    await entities.deleteEntity({ lookup, reason });
    expect(await refusal(entities.updateEntity({ lookup, etag, entity: { name: "B" } }))).toMatchObject({
      reason: "ETAG_MISMATCH",
    });
    expect(await refusal(entities.changeExternalId({ lookup, newExternalId: taken, reason }))).toMatchObject({
      reason: "ENTITY_DELETED",
    });
    expect(await refusal(entities.updateEntity({ lookup, entity: { type: EntityType.COMPANY } }))).toMatchObject({
      reason: "ENTITY_DELETED",
    });
    expect(
      await refusal(
        entities.createEntity({
          entity: {
            type: EntityType.PERSON,
            name: "A",
            countryCode: "AR",
            externalId: taken,
            status: EntityStatus.BLOCKED,
          },
        }),
      ),
    ).toMatchObject({ reason: "STATUS_REASON_REQUIRED" });
  });

  it("rule 13: the replay of a request_id before lookup and etag, validation before the replay", async () => {
    const { entities } = service.client;
    const entity = await newEntity();
    const requestId = randomUUID();
    const request = {
      lookup: { by: byExternalId(entity.externalId) },
      entity: { name: "B" },
      etag: entity.etag,
      requestId,
    };
    const first = await entities.updateEntity(request);
    await entities.changeExternalId({ lookup: { by: byId(entity.id) }, newExternalId: fresh(), reason });
    expect(await entities.updateEntity(request)).toEqual(first); // neither NOT_FOUND nor ETAG_MISMATCH
    expect(await refusal(entities.updateEntity({ ...request, lookup: { by: byExternalId(fresh()) } }))).toMatchObject({
      reason: "REQUEST_ID_REUSED",
    });
    expect(await refusal(entities.updateEntity({ ...request, entity: { countryCode: "x" } }))).toMatchObject({
      reason: "VALIDATION_ERROR",
    });
  });
});
