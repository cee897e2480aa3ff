// Reading many entities: ListEntities, BatchGetEntities, masks and pages (sections A, C, I and J of the rules).
import { randomUUID } from "node:crypto";
import { createRegistry, type MessageInitShape } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  BadRequestSchema,
  type Entity,
  type EntityLookupSchema,
  type EntitySchema,
  EntityStatus,
  EntityType,
  ErrorInfoSchema,
  EventType,
  type ListEntitiesRequestSchema,
} from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

type Filter = MessageInitShape<typeof ListEntitiesRequestSchema>;
type Lookup = MessageInitShape<typeof EntityLookupSchema>;

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const reason = "a reason of some length";
const fresh = () => `x-${randomUUID()}`;

async function create(
  organization: TestOrganization,
  values: MessageInitShape<typeof EntitySchema> = {},
): Promise<Entity> {
  const { entity } = await organization.client.entities.createEntity({
    entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", ...values } as MessageInitShape<
      typeof EntitySchema
    >,
    reason,
  });
  if (entity === undefined) throw new Error("no entity");
  return entity;
}

const ids = (entities: readonly Entity[]) => entities.map(({ id }) => id);

/** All pages of a list, one after the other. */
async function listAll(
  organization: TestOrganization,
  filter: Filter = {},
  between: () => Promise<unknown> = async () => {},
): Promise<Entity[]> {
  const found: Entity[] = [];
  let pageToken = "";
  do {
    const page = await organization.client.entities.listEntities({ ...filter, pageToken } as Filter);
    found.push(...page.entities);
    pageToken = page.nextPageToken;
    await between();
  } while (pageToken !== "");
  return found;
}

describe("ListEntities filters", () => {
  let home: TestOrganization;
  const made: Entity[] = [];
  let started = { seconds: 0n, nanos: 0 };
  beforeAll(async () => {
    home = await service.newOrganization();
    const statuses = [EntityStatus.PENDING, EntityStatus.ACTIVE, EntityStatus.BLOCKED];
    for (let i = 0; i < 12; i++) {
      made.push(
        await create(home, {
          type: i % 2 ? EntityType.PERSON : EntityType.COMPANY,
          status: statuses[i % 3] as EntityStatus,
          countryCode: ["AR", "BR", "MX", "UY"][i % 4] as string,
          taxId: i % 6 ? `TAX-${i}` : "SHA.RED 1",
          externalId: `ext-${i}`,
          name: `Name ${i}`,
        }),
      );
    }
    started = made[6]?.updatedAt ?? started;
    await home.client.entities.deleteEntity({ lookup: byId(made[11]!), reason });
  });
  const live = () => made.slice(0, 11);
  const list = async (filter: Filter) => ids(await listAll(home, filter));
  const where = (test: (entity: Entity, i: number) => boolean) => ids(live().filter(test));

  it("without a filter all live ones, by id, none of another organization", async () => {
    expect(await list({})).toEqual(ids(live()).toSorted());
  });

  it("rules 2, 3: another organization sees none of them, whatever it asks for", async () => {
    const other = await service.newOrganization();
    for (const filter of [
      {},
      { taxId: "shared1" },
      { externalIds: ["ext-1"] },
      { namePrefix: "Name" },
      { showDeleted: true },
      { updatedAfter: { seconds: 0n } },
    ]) {
      expect(await listAll(other, filter as Filter)).toEqual([]);
    }
  });

  it("by type, statuses, countries, in any case", async () => {
    expect(await list({ type: EntityType.PERSON })).toEqual(where((e) => e.type === EntityType.PERSON));
    expect(await list({ statuses: [EntityStatus.ACTIVE, EntityStatus.BLOCKED, EntityStatus.ACTIVE] })).toEqual(
      where((e) => e.status !== EntityStatus.PENDING),
    );
    expect(await list({ statuses: [EntityStatus.REJECTED] })).toEqual([]);
    expect(await list({ countryCodes: ["ar", "MX", "ZZ"] })).toEqual(
      where((e) => ["AR", "MX"].includes(e.countryCode)),
    );
  });

  it("rules 7, 9, 11: by tax id, by its letters and digits, all that have it", async () => {
    expect(await list({ taxId: "sharEd-1" })).toEqual(where((_, i) => i % 6 === 0));
    expect(await list({ taxId: "tax1" })).toEqual(where((_, i) => i === 1));
    expect(await list({ taxId: "tax" })).toEqual([]);
    expect(await list({ taxId: "--" })).toEqual([]);
  });

  it("rule 5: by external ids, primary or alias, exactly, each entity once", async () => {
    await home.client.entities.addExternalIds({ lookup: byId(made[3]!), externalIds: [{ externalId: "alias-3" }] });
    expect(await list({ externalIds: ["ext-1", " ext-2 ", "none", "ext-1"] })).toEqual(
      where((_, i) => i === 1 || i === 2),
    );
    expect(await list({ externalIds: ["alias-3", "ext-3"] })).toEqual(where((_, i) => i === 3));
    expect(await list({ externalIds: ["EXT-1", "ext-1x", "ext", "ext-%"] })).toEqual([]);
    expect(await list({ externalIds: ["none"] })).toEqual([]);
  });

  it("by the time of the last change: after, not at", async () => {
    const since = where((_, i) => i > 6);
    const found = await list({ updatedAfter: started });
    expect(found).toEqual(where((_, i) => i > 6 || i === 3)); // the one with the alias changed later
    expect(found).toEqual(expect.arrayContaining(since));
    expect(await list({ updatedAfter: { seconds: 4_000_000_000n } })).toEqual([]);
    expect(await list({ updatedAfter: { seconds: 0n } })).toEqual(ids(live()));
    const { entity } = await home.client.entities.updateEntity({
      lookup: byId(made[0]!),
      entity: { attributes: { a: randomUUID() } },
    });
    const at = entity?.updatedAt ?? started;
    expect(await list({ updatedAfter: at })).toEqual([]);
    expect(await list({ updatedAfter: { seconds: at.seconds, nanos: at.nanos - 1000 } })).toEqual([entity?.id]);
  });

  it("rule 77: deleted ones only where they are asked for", async () => {
    expect(await list({ showDeleted: true })).toEqual(ids(made).toSorted());
    expect(await list({ showDeleted: true, externalIds: ["ext-11"] })).toEqual([made[11]?.id]);
    expect(await list({ updatedAfter: started, showDeleted: true })).toContain(made[11]?.id);
  });

  it("all filters together, joined by AND", async () => {
    const filter: Filter = {
      type: EntityType.COMPANY,
      statuses: [EntityStatus.PENDING],
      countryCodes: ["AR", "MX"],
      taxId: "shared1",
      externalIds: ["ext-0", "ext-6", "ext-1"],
      namePrefix: "Name ",
      updatedAfter: { seconds: 0n },
      showDeleted: true,
      pageSize: 1,
    };
    expect(await list(filter)).toEqual([made[0]?.id, made[6]?.id]);
    expect(await list({ ...filter, namePrefix: "name " })).toEqual([]);
  });

  it.each(
    [
      [{ pageSize: -1 }, "page_size"],
      [{ countryCodes: ["AR", "ARG"] }, "country_codes[1]"],
      [{ countryCodes: Array(251).fill("AR") }, "country_codes"],
      [{ statuses: [EntityStatus.UNSPECIFIED] }, "statuses[0]"],
      [{ statuses: [99 as EntityStatus] }, "statuses[0]"],
      [{ type: 99 as EntityType }, "type"],
      [{ taxId: "Д123" }, "tax_id"],
      [{ externalIds: Array(1001).fill("a") }, "external_ids"],
      [{ externalIds: ["a\tb"] }, "external_ids[0]"],
      [{ namePrefix: "x".repeat(513) }, "name_prefix"],
      [{ readMask: { paths: ["nope"] } }, "read_mask"],
      [{ pageToken: "nope" }, "page_token"],
      [{ updatedAfter: { seconds: 0n, nanos: -1 } }, "updated_after"],
    ].map(([filter, field]) => [field, filter] as [string, Filter]),
  )("rules 73, 76: refuses a %s at fault with its path (case %#)", async (field, filter) => {
    expect(await refusal(home.client.entities.listEntities(filter))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: [field],
    });
  });
});

describe("ListEntities by name_prefix", () => {
  const NAMES = [
    "%",
    "%x",
    "_",
    "_x",
    "\\",
    "\\x",
    "a",
    "A",
    "á",
    "a\u0301",
    "ab",
    "a%b",
    "axb",
    "aZ",
    "a\ud7ff",
    "a\ue000",
    "😀",
    "😀x",
    "😁",
    "\u{10fffd}w",
    "\u{10fffd}x",
    "x\u{10fffd}\u{10fffd}",
    "x\u{10fffd}",
    "y",
    "ﬀ",
    "ff",
    "'",
    "\ufffd",
    "\ufffdz",
    "\u{10000}",
  ];
  let home: TestOrganization;
  beforeAll(async () => {
    home = await service.newOrganization();
    for (const name of NAMES) await create(home, { name });
  });

  it.each([...NAMES, "x", "X", "\ud7ff", "a\u{10fffd}", "no such"])(
    "finds exactly what begins with %j, by code points",
    async (namePrefix) => {
      const found = (await listAll(home, { namePrefix })).map(({ name }) => name);
      expect(found.toSorted()).toEqual(NAMES.filter((name) => name.startsWith(namePrefix)).toSorted());
    },
  );

  it("rule 73: a prefix with U+10FFFF, which no name can have, is refused and not passed over", async () => {
    for (const namePrefix of ["\u{10ffff}", "x\u{10ffff}"]) {
      expect(await refusal(home.client.entities.listEntities({ namePrefix }))).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["name_prefix"],
      });
    }
  });
});

describe("pages", () => {
  let home: TestOrganization;
  let made: Entity[] = [];
  beforeAll(async () => {
    home = await service.newOrganization();
    made = await Promise.all(Array.from({ length: 57 }, (_, i) => create(home, { name: `P${i}` })));
  });

  it("rule 76: every size shows every entity once, by id", async () => {
    const sorted = ids(made).toSorted();
    for (const pageSize of [1, 7, 19, 56, 57, 58, 1000])
      expect(ids(await listAll(home, { pageSize })), String(pageSize)).toEqual(sorted);
    expect((await home.client.entities.listEntities({ pageSize: 57 })).nextPageToken).toBe("");
  });

  it("an entity that is there all the while appears once, however many come and change meanwhile", async () => {
    const org = await service.newOrganization();
    const there = await Promise.all(Array.from({ length: 40 }, () => create(org)));
    let turn = 0;
    const found = ids(
      await listAll(org, { pageSize: 6 }, async () => {
        if (turn++ > 10) return;
        await Promise.all(Array.from({ length: 3 }, () => create(org)));
        await org.client.entities.updateEntity({
          lookup: byId(there[(turn * 7) % 40]!),
          entity: { name: randomUUID() },
        });
      }),
    );
    expect(new Set(found).size).toBe(found.length);
    expect(found).toEqual(expect.arrayContaining(ids(there)));
    expect(found).toEqual(found.toSorted());
  });
  it("rule 76: 100 by default, at most 1000", async () => {
    const org = await service.newOrganization();
    const rows = (async function* () {
      for (let i = 0; i < 1005; i++)
        yield { entity: { type: EntityType.PERSON, name: `N${i}`, countryCode: "AR", externalId: `e${i}` } };
    })();
    for await (const _ of org.client.entities.importEntities(rows));
    const { entities } = org.client;
    expect((await entities.listEntities({})).entities).toHaveLength(100);
    const first = await entities.listEntities({ pageSize: 2_147_483_647 });
    expect(first.entities).toHaveLength(1000);
    expect(
      (await entities.listEntities({ pageSize: 2_147_483_647, pageToken: first.nextPageToken })).entities,
    ).toHaveLength(5);
    expect((await entities.listEntityEvents({ pageSize: 5000 })).events).toHaveLength(1000);
    expect((await entities.listEntityEvents({})).events).toHaveLength(100);
    // A batch of the greatest size, with doubles, in order.
    const lookups = Array.from({ length: 1000 }, (_, i) => byExternalId(`e${(i * 7) % 1005}`));
    const { results } = await entities.batchGetEntities({ lookups });
    expect(results.map(({ result }) => (result.case === "entity" ? result.value.externalId : ""))).toEqual(
      lookups.map(({ by }) => by.value),
    );
  });

  it("rule 76: the size may change from page to page; nothing else of the query may", async () => {
    const query: Filter = { pageSize: 5, namePrefix: "P", type: EntityType.PERSON, countryCodes: ["AR"] };
    const { nextPageToken: pageToken } = await home.client.entities.listEntities(query);
    expect(ids((await home.client.entities.listEntities({ ...query, pageSize: 9, pageToken })).entities)).toEqual(
      ids(made).toSorted().slice(5, 14),
    );
    const others: Filter[] = [
      { ...query, namePrefix: "P1" },
      { ...query, namePrefix: "" },
      { ...query, type: EntityType.COMPANY },
      { ...query, type: EntityType.UNSPECIFIED },
      { ...query, countryCodes: [] },
      { ...query, statuses: [EntityStatus.PENDING] },
      { ...query, taxId: "1" },
      { ...query, externalIds: ["a"] },
      { ...query, showDeleted: true },
      { ...query, updatedAfter: { seconds: 0n } },
      { ...query, readMask: { paths: ["id"] } },
    ];
    for (const other of others) {
      expect(
        await refusal(home.client.entities.listEntities({ ...other, pageToken } as Filter)),
        JSON.stringify(other.namePrefix),
      ).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["page_token"],
      });
    }
  });

  it("rule 76: a token of another organization or of another RPC, or an edited one, is VALIDATION_ERROR", async () => {
    const { client } = home;
    const { nextPageToken: token } = await client.entities.listEntities({ pageSize: 5 });
    const other = await service.newOrganization();
    const invalid = { reason: "VALIDATION_ERROR", fields: ["page_token"] };
    expect(await refusal(other.client.entities.listEntities({ pageSize: 5, pageToken: token }))).toMatchObject(invalid);
    expect(await refusal(client.entities.listEntityEvents({ pageSize: 5, pageToken: token }))).toMatchObject(invalid);
    expect(await refusal(client.activity.listTransactions({ lookup: byId(made[0]!), pageToken: token }))).toMatchObject(
      invalid,
    );
    const events = await client.entities.listEntityEvents({ pageSize: 5 });
    expect(await refusal(client.entities.listEntities({ pageToken: events.nextPageToken }))).toMatchObject(invalid);
    expect(
      await refusal(client.entities.listEntityEvents({ types: [EventType.CREATED], pageToken: events.nextPageToken })),
    ).toMatchObject(invalid);
    const flip = (at: number) => token.slice(0, at) + (token[at] === "A" ? "B" : "A") + token.slice(at + 1);
    const edited = [...token].map((_, at) => flip(at));
    edited.push(
      `${token}A`,
      `${token}=`,
      `${token}!`,
      ` ${token}`,
      `${token}\n`,
      token.slice(1),
      token.slice(0, -1),
      token + token,
      "AAAA",
      "e30",
      "x".repeat(4000),
    );
    edited.push(Buffer.from('["00000000-0000-0000-0000-000000000000"]').toString("base64url"));
    for (const pageToken of edited) {
      const outcome = await client.entities.listEntities({ pageSize: 5, pageToken }).then(
        () => "accepted",
        async (error) => refusal(Promise.reject(error)),
      );
      expect(outcome, pageToken).toMatchObject(invalid);
    }
  });
});

describe("read_mask", () => {
  const unset = (entity: Entity) =>
    Object.entries(entity)
      .filter(
        ([name, value]) =>
          name !== "$typeName" &&
          value !== undefined &&
          value !== "" &&
          value !== 0 &&
          !(Array.isArray(value) && value.length === 0),
      )
      .map(([name]) => name)
      .toSorted();
  let home: TestOrganization;
  let entity: Entity;
  beforeAll(async () => {
    home = await service.newOrganization();
    entity = await create(home, {
      externalId: fresh(),
      taxId: "20-12345678-6",
      nationality: "AR",
      riskMatrixId: randomUUID(),
      attributes: { a: 1 },
      metadata: { m: 1 },
      entityData: {
        kind: {
          case: "person",
          value: { firstName: "A", email: "a@b", address: { city: "X" }, additional: { pet: 1 } },
        },
      },
    });
  });
  const get = async (...paths: string[]) => {
    const { entity: found } = await home.client.entities.getEntity({ lookup: byId(entity), readMask: { paths } });
    if (found === undefined) throw new Error("no entity");
    return found;
  };

  it("answers each field alone", async () => {
    const names: Record<string, keyof Entity> = {
      id: "id",
      organization_id: "organizationId",
      external_id: "externalId",
      external_ids: "externalIds",
      type: "type",
      country_code: "countryCode",
      name: "name",
      tax_id: "taxId",
      tax_id_check: "taxIdCheck",
      status: "status",
      nationality: "nationality",
      risk_matrix_id: "riskMatrixId",
      entity_data: "entityData",
      attributes: "attributes",
      metadata: "metadata",
      etag: "etag",
      created_at: "createdAt",
      updated_at: "updatedAt",
    };
    for (const [path, name] of Object.entries(names)) {
      const found = await get(path);
      expect(unset(found), path).toEqual([name]);
      expect(found[name]).toEqual(entity[name]);
    }
    for (const path of ["risk_score", "deleted_at"]) expect(unset(await get(path))).toEqual([]);
  });

  it("answers several, and paths inside entity_data; an empty mask is all", async () => {
    expect(await get()).toEqual(entity);
    expect(unset(await get("name", "etag", "name"))).toEqual(["etag", "name"]);
    expect(
      (await get("entity_data.person.email", "entity_data.person.additional")).entityData?.kind.value,
    ).toMatchObject({ email: "a@b", additional: { pet: 1 } });
    expect((await get("entity_data.person.email")).entityData?.kind.value).not.toMatchObject({ firstName: "A" });
    expect((await get("entity_data.person")).entityData).toEqual(entity.entityData);
    expect((await get("entity_data", "entity_data.person.email")).entityData).toEqual(entity.entityData);
    expect(unset(await get("entity_data.company", "name"))).toEqual(["name"]);
    expect(unset(await get("entity_data.company.industry"))).toEqual([]);
  });

  it("is the same in ListEntities and BatchGetEntities", async () => {
    const readMask = { paths: ["id", "attributes"] };
    const wanted = await get("id", "attributes");
    expect((await home.client.entities.listEntities({ readMask })).entities).toEqual([wanted]);
    const { results } = await home.client.entities.batchGetEntities({ lookups: [byId(entity)], readMask });
    expect(results.map(({ result }) => result.value)).toEqual([wanted]);
  });

  it("pages are found without the id in the mask", async () => {
    await create(home);
    const first = await home.client.entities.listEntities({ readMask: { paths: ["name"] }, pageSize: 1 });
    expect(first.entities.map(unset)).toEqual([["name"]]);
    const second = await home.client.entities.listEntities({
      readMask: { paths: ["name"] },
      pageSize: 1,
      pageToken: first.nextPageToken,
    });
    expect([second.entities.length, second.nextPageToken]).toEqual([1, ""]);
  });

  it.each([
    "nope",
    "countryCode",
    "*",
    "attributes.a",
    "name.x",
    "entity_data.x",
    "entity_data.person.address.city",
    "entity_data.person.firstName",
    "entity_data.",
    "",
    "__proto__",
    "$typeName",
  ])("refuses the unknown path %j in every read", async (path) => {
    const readMask = { paths: ["id", path] };
    const { entities } = home.client;
    const calls = [
      entities.getEntity({ lookup: byId(entity), readMask }),
      entities.listEntities({ readMask }),
      entities.batchGetEntities({ lookups: [byId(entity)], readMask }),
    ];
    for (const refused of await Promise.all(calls.map(refusal)))
      expect(refused).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["read_mask"] });
  });
});

describe("BatchGetEntities", () => {
  let home: TestOrganization;
  beforeAll(async () => {
    home = await service.newOrganization();
  });
  const registry = createRegistry(ErrorInfoSchema, BadRequestSchema);
  const batch = async (lookups: Lookup[]) =>
    (await home.client.entities.batchGetEntities({ lookups })).results.map(({ result }) => {
      if (result.case === "entity") return result.value.id;
      const [info] = (result.value?.details ?? [])
        .map((detail) => anyUnpack(detail, registry))
        .filter((detail) => detail?.$typeName === "google.rpc.ErrorInfo");
      return {
        code: result.value?.code,
        message: result.value?.message,
        info: info as unknown as { reason: string; metadata: Record<string, string> },
      };
    });

  it("answers in the order of the request, doubles twice, what is missing as an item", async () => {
    const [a, b] = [
      await create(home, { externalId: fresh(), taxId: "B-1" }),
      await create(home, { externalId: fresh() }),
    ];
    const missing = { code: Code.NotFound, message: "Entity not found", info: { reason: "NOT_FOUND" } };
    const answers = await batch([
      byId(b),
      byExternalId(fresh()),
      byExternalId(a.externalId),
      byId(b),
      byId({ id: randomUUID() }),
      byTaxId("b1"),
      byTaxId("none"),
      byId(a),
      byId({ id: b.id.toUpperCase() }),
    ]);
    expect(answers).toMatchObject([b.id, missing, a.id, b.id, missing, a.id, missing, a.id, b.id]);
  });

  it("rule 7: one tax id asked for twice, also in two spellings, is not ambiguous", async () => {
    const entity = await create(home, { taxId: "DBL-7" });
    expect(await batch([byTaxId("DBL-7"), byTaxId("DBL-7"), byTaxId("dbl.7"), byId(entity)])).toEqual([
      entity.id,
      entity.id,
      entity.id,
      entity.id,
    ]);
  });

  it("rule 10: an ambiguous tax id is the error of its item alone, with the candidates", async () => {
    const made = [
      await create(home, { taxId: "AMB-1" }),
      await create(home, { taxId: "amb1", type: EntityType.COMPANY }),
    ];
    const [first, second, third] = await batch([byId(made[0]!), byTaxId("amb/1"), byId(made[1]!)]);
    expect([first, third]).toEqual(ids(made));
    expect(second).toMatchObject({ code: Code.FailedPrecondition, info: { reason: "AMBIGUOUS_TAX_ID_LOOKUP" } });
    expect((second as any).info.metadata.candidates.split(",").toSorted()).toEqual(ids(made).toSorted());
  });

  it("rule 13: a lookup that is none refuses the whole batch, with its index", async () => {
    const good = byId({ id: randomUUID() });
    for (const [wrong, field, code] of [
      [{ by: { case: undefined } }, "lookups[1]", "INVALID_LOOKUP"],
      [byId({ id: "x" }), "lookups[1].entity_id", "VALIDATION_ERROR"],
      [byTaxId("--"), "lookups[1].tax_id", "INVALID_LOOKUP"],
      [byExternalId(" "), "lookups[1].external_id", "INVALID_LOOKUP"],
    ] as [Lookup, string, string][]) {
      expect(await refusal(home.client.entities.batchGetEntities({ lookups: [good, wrong] }))).toMatchObject({
        reason: code,
        fields: [field],
      });
    }
  });

  it("rule 73: 1 to 1000 lookups", async () => {
    const many = (n: number) => Array.from({ length: n }, () => byId({ id: randomUUID() }));
    expect(await refusal(home.client.entities.batchGetEntities({}))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["lookups"],
    });
    expect(await refusal(home.client.entities.batchGetEntities({ lookups: many(1001) }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["lookups"],
      metadata: { limit: "1000" },
    });
    expect((await home.client.entities.batchGetEntities({ lookups: many(1000) })).results).toHaveLength(1000);
  });

  it("is of one moment: an id that moves between two entities is found at exactly one of them", async () => {
    const [a, b] = [await create(home, { externalId: fresh() }), await create(home, { externalId: fresh() })];
    const hot = fresh();
    await home.client.entities.addExternalIds({ lookup: byId(a), externalIds: [{ externalId: hot }] });
    let moving = true;
    const mover = (async () => {
      for (let i = 0; moving; i++) {
        const [from, to] = i % 2 ? [b, a] : [a, b];
        await home.client.entities.changeExternalId({ lookup: byId(from), newExternalId: hot, reason });
        await home.client.entities.changeExternalId({ lookup: byId(from), newExternalId: fresh(), reason });
        await home.client.entities.addExternalIds({ lookup: byId(to), externalIds: [{ externalId: hot }] });
      }
    })();
    for (let i = 0; i < 60; i++) {
      const { results } = await home.client.entities.batchGetEntities({
        lookups: [byId(a), byExternalId(hot), byId(b)],
      });
      const owners = [results[0], results[2]].flatMap((one) =>
        one?.result.case === "entity" && one.result.value.externalIds.some((id) => id.externalId === hot)
          ? [one.result.value.id]
          : [],
      );
      const found = results[1]?.result.case === "entity" ? [results[1].result.value.id] : [];
      expect(owners).toEqual(found);
    }
    moving = false;
    await mover;
  });
});
