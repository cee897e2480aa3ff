// BatchUpdateEntities: many updates in one transaction, all of them or none (rules 151 and 152).
import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type BatchUpdateEntitiesResult,
  createEntityClient,
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityType,
  type UpdateEntityRequest,
  type UpdateEntityRequestSchema,
} from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId, current, eventsOf, lastEventOf, newPerson, unique } from "./given.ts";
import { captureHeaders, forget, refusal, startService, type TestService } from "./harness.ts";
import { dump, startOther, startProxy } from "./wall-harness.ts";

type Item = Exclude<MessageInitShape<typeof UpdateEntityRequestSchema>, UpdateEntityRequest>;

const NOBODY = { id: "00000000-0000-7000-8000-00000000dead" };
/** More than are decided at once. */
const PARTS = 250;

let service: TestService;
let client: EntityClient;
beforeAll(async () => {
  // What is behind the calls neither locks an entity nor changes a row while a test looks at either.
  service = await startService({ config: { aliasUseIntervalMs: 86_400_000 } });
  ({ client } = service);
});
afterAll(() => service[Symbol.asyncDispose]());

const batch = async (requests: Item[], more: { requestId?: string; validateOnly?: boolean } = {}, of = client) =>
  (await of.entities.batchUpdateEntities({ requests, ...more })).results;
const rename = (entity: { id: string }, name: string): Item => ({ lookup: byId(entity), entity: { name } });
const upsert = (externalId: string, name: string): Item => ({
  lookup: byExternalId(externalId),
  entity: { name, type: EntityType.PERSON, countryCode: "BR" },
  allowMissing: true,
});
const people = (count: number, fields: Parameters<typeof newPerson>[1] = {}): Promise<Entity[]> =>
  Promise.all(Array.from({ length: count }, () => newPerson(client, fields)));
/** In the order of their ids, in which they are locked. */
const inOrder = (entities: Entity[]) => entities.toSorted((a, b) => (a.id < b.id ? -1 : 1));

describe("rule 152: the answer", () => {
  it("rule 152: says of each item which entity it was, its etag, and what was updated, ignored or created", async () => {
    const person = await newPerson(client);
    const externalId = unique("new");
    const results = await batch([
      { lookup: byId(person), entity: { name: "Bia", riskScore: "1.00" } },
      upsert(externalId, "Caio"),
      { lookup: byExternalId(externalId), entity: { name: "Davi" } },
      { lookup: byExternalId(externalId), entity: { name: "Davi" } },
    ]);
    const { entity: made } = await client.entities.getEntity({ lookup: byExternalId(externalId) });
    const [first, second] = await eventsOf(client, made ?? NOBODY);
    const nothing = { $typeName: "entity.v1.BatchUpdateEntitiesResult", redirectedFrom: "", ignoredFields: [] };
    const { etag } = await current(client, person);
    expect(results).toEqual([
      {
        ...nothing,
        ...{ entityId: person.id, etag, updatedFields: ["name"], created: false },
        ignoredFields: ["risk_score"],
      },
      { ...nothing, entityId: made?.id, etag: first?.id, updatedFields: [], created: true },
      { ...nothing, entityId: made?.id, etag: second?.id, updatedFields: ["name"], created: false },
      { ...nothing, entityId: made?.id, etag: second?.id, updatedFields: [], created: false },
    ]);
    expect(made).toMatchObject({ name: "Davi", etag: second?.id });
  });

  it("rules 79, 152: a merged entity is updated as its survivor, and is named in redirected_from", async () => {
    const [survivor, merged] = [
      await newPerson(client, { externalId: unique("p") }),
      await newPerson(client, { externalId: unique("p"), taxId: unique("T") }),
    ];
    await client.entities.mergeEntities({ primary: byId(survivor), secondary: byId(merged), reason: "one person" });
    const lookups = [byId(merged), byExternalId(merged.externalId), byId(survivor), byTaxId(merged.taxId ?? "")];
    const results = await batch(lookups.map((lookup, i) => ({ lookup, entity: { attributes: { [`k${i}`]: i } } })));
    expect(results.map(({ entityId }) => entityId)).toEqual(Array(4).fill(survivor.id));
    // The survivor has the tax id by itself now.
    expect(results.map(({ redirectedFrom }) => redirectedFrom)).toEqual([merged.id, merged.id, "", ""]);
    expect((await current(client, survivor)).attributes).toEqual({ k0: 0, k1: 1, k2: 2, k3: 3 });
  });

  it("rules 38, 152: validate_only answers what would be and writes nothing", async () => {
    const [person] = await people(1);
    const before = await dump(service.sql);
    const externalId = unique("new");
    const results = await batch([rename(person as Entity, "Bia"), upsert(externalId, "Caio")], { validateOnly: true });
    expect(results.map(({ created, updatedFields }) => [created, updatedFields])).toEqual([
      [false, ["name"]],
      [true, []],
    ]);
    expect(await dump(service.sql)).toEqual(before);
  });
});

describe("rule 151: as if one after the other", () => {
  it("rule 151: each item has its own event, in their order, with the reason, time and request_id that were given", async () => {
    const [person] = (await people(1)) as [Entity];
    const requestId = randomUUID();
    const items: Item[] = Array.from({ length: PARTS }, (_, i) => ({
      ...rename(person, `name ${i}`),
      ...{ reason: `reason ${i}`, occurredAt: { seconds: 1_700_000_000n + BigInt(i), nanos: 0 } },
    }));
    const results = await batch(items, { requestId });
    const [, ...events] = await eventsOf(client, person);
    expect(events.map(({ id }) => id)).toEqual(results.map(({ etag }) => etag));
    expect(events.map((event) => [event.reason, event.occurredAt?.seconds, event.newValues, event.requestId])).toEqual(
      items.map(({ reason, occurredAt, entity }) => [reason, occurredAt?.seconds, { name: entity?.name }, requestId]),
    );
    expect(events.map(({ entityVersion }) => entityVersion)).toEqual(items.map((_, i) => BigInt(i + 2)));
  });

  it("rule 151: a thousand items, over all kinds of lookups, in parts that see what those before them wrote", async () => {
    const tag = unique("m");
    const made = await batch(Array.from({ length: 1_000 }, (_, i) => upsert(`${tag}-${i}`, `name ${i}`)));
    expect(new Set(made.map(({ entityId }) => entityId)).size).toBe(1_000);
    expect(made.every(({ created }) => created)).toBe(true);
    // Created in the first part, found by what the second gives it, in the third.
    const late = `${tag}-late`;
    const filler = (count: number) => made.slice(0, count).map(({ entityId }) => rename({ id: entityId }, "filler"));
    const results = await batch([
      upsert(late, "Eva"),
      ...filler(100),
      { lookup: byExternalId(late), entity: { taxId: tag } },
      ...filler(100),
      { lookup: byTaxId(tag), entity: { name: "Eva, found" } },
    ]);
    const { entity } = await client.entities.getEntity({ lookup: byExternalId(late) });
    expect(entity).toMatchObject({ id: results[0]?.entityId, taxId: tag, name: "Eva, found" });
    expect(results.at(-1)).toMatchObject({ entityId: entity?.id, etag: entity?.etag, updatedFields: ["name"] });
  });

  it("rule 151: the etag of an item is compared with what the items before it left", async () => {
    const [person] = (await people(1)) as [Entity];
    const stale = { ...rename(person, "Caio"), etag: person.etag };
    expect(await refusal(batch([rename(person, "Bia"), stale]))).toMatchObject({
      ...{ reason: "ETAG_MISMATCH", metadata: { index: "1", entity_id: person.id } },
    });
    expect((await batch([stale, rename(person, "Davi")])).map(({ updatedFields }) => updatedFields)).toEqual([
      ["name"],
      ["name"],
    ]);
  });

  it("rule 151: writes of other callers that meet the batch are lost neither way", async () => {
    const some = await people(20);
    const rounds = Array.from({ length: 10 }, (_, i) => i);
    await Promise.all([
      ...rounds.map((i) =>
        batch(some.toReversed().map((one) => ({ lookup: byId(one), entity: { attributes: { [`b${i}`]: i } } }))),
      ),
      ...some.flatMap((one) =>
        rounds.map((i) =>
          client.entities.updateEntity({ lookup: byId(one), entity: { attributes: { [`s${i}`]: i } } }),
        ),
      ),
    ]);
    const all = Object.fromEntries(
      rounds.flatMap((i) => [
        [`b${i}`, i],
        [`s${i}`, i],
      ]),
    );
    for (const one of some) expect((await current(client, one)).attributes).toEqual(all);
  });
});

describe("rule 151: all or none", () => {
  it("rule 151: a thousand items of which the last is refused leave nothing at all", async () => {
    const [merged, survivor, ...some] = await people(100);
    const sides = { primary: byId(survivor as Entity), secondary: byId(merged as Entity), reason: "one person" };
    await client.entities.mergeEntities(sides);
    const alias = unique("alias");
    await client.entities.addExternalIds({ lookup: byId(some[0] as Entity), externalIds: [{ externalId: alias }] });
    const items = Array.from({ length: 999 }, (_, i): Item => {
      if (i % 10 === 0) return upsert(unique("new"), `new ${i}`);
      if (i % 10 === 1) return { lookup: byId(merged as Entity), entity: { attributes: { [`k${i}`]: i } } };
      if (i % 10 === 2) return { lookup: byExternalId(alias), entity: { attributes: { [`k${i}`]: i } } };
      return { ...rename(some[i % some.length] as Entity, `name ${i}`), entity: { name: `name ${i}`, taxId: `${i}` } };
    });
    const before = await dump(service.sql);
    const requestId = randomUUID();
    for (let i = 0; i < 2; i++) {
      expect(await refusal(batch([...items, rename(NOBODY, "x")], { requestId }))).toMatchObject({
        ...{ reason: "NOT_FOUND", metadata: { index: "999", lookup: "entity_id" } },
      });
      expect(await dump(service.sql)).toEqual(before);
    }
    expect(await batch(items, { requestId })).toHaveLength(999);
  });

  const blocked = { status: EntityStatus.BLOCKED };
  const REFUSED: Record<string, (person: Entity) => Promise<Item> | Item> = {
    "an unknown entity": () => rename(NOBODY, "x"),
    "an unknown external id with an etag": () => ({ ...upsert(unique("no"), "x"), etag: "x" }),
    "a stale etag": (person) => ({ ...rename(person, "x"), etag: randomUUID() }),
    "a type that cannot change": (person) => ({ lookup: byId(person), entity: { type: EntityType.COMPANY } }),
    "a status without its reason": (person) => ({ lookup: byId(person), entity: blocked }),
    "a status that creation alone has": async (person) => {
      await client.entities.updateEntity({ lookup: byId(person), entity: { status: EntityStatus.ACTIVE } });
      return { lookup: byId(person), entity: { status: EntityStatus.PENDING } };
    },
    "a creation without its name": () => ({
      ...{ lookup: byExternalId(unique("no")), allowMissing: true },
      entity: { type: EntityType.PERSON, countryCode: "BR" },
    }),
    "no lookup": () => ({ entity: { name: "x" } }),
    "a lookup that is no id": () => ({ lookup: byId({ id: "x" }), entity: { name: "x" } }),
    "several fields that are not valid": (person) => ({
      ...{ lookup: byId(person), allowMissing: true, etag: "a" },
      entity: { countryCode: "BRA", etag: "b" },
    }),
    "a tax id of several entities": async () => {
      const taxId = unique("T");
      await people(2, { taxId });
      return { lookup: byTaxId(taxId), entity: { name: "x" } };
    },
    "a deleted entity": async (person) => {
      await client.entities.deleteEntity({ lookup: byId(person), reason: "a duplicate" });
      return rename(person, "x");
    },
    "a map that grows too large": async (person) => {
      const attributes = (i: number) => ({ [`k${i}`]: "x".repeat(4_000), [`l${i}`]: "x".repeat(4_000) });
      for (let i = 0; i < 8; i++)
        await client.entities.updateEntity({ lookup: byId(person), entity: { attributes: attributes(i) } });
      return { lookup: byId(person), entity: { attributes: attributes(8) } };
    },
  };
  it.each(Object.keys(REFUSED))(
    "rule 151: %s is refused as by UpdateEntity, with its index and its fields",
    async (name) => {
      const [other, person] = (await people(2)) as [Entity, Entity];
      const item = (await REFUSED[name]?.(person)) as Item;
      const single = await refusal(client.entities.updateEntity(item));
      const { field, ...metadata } = single.metadata;
      const refused = await refusal(batch([rename(other, "x"), item, rename(other, "y")]));
      expect(refused).toEqual({
        ...single,
        message:
          field !== undefined && single.message.startsWith(field) ? `requests[1].${single.message}` : single.message,
        metadata: { ...metadata, index: "1", ...(field === undefined ? {} : { field: `requests[1].${field}` }) },
        fields: single.fields.map((path) => `requests[1].${path}`),
      });
      expect((await current(client, other)).name).toBe(other.name);
    },
  );

  it("rules 13, 151: an item that is not valid is refused before any entity is looked up", async () => {
    const [person] = (await people(1)) as [Entity];
    const invalid: Item = { lookup: byId(person), entity: { countryCode: "BRA" } };
    expect(await refusal(batch([rename(NOBODY, "x"), invalid]))).toMatchObject({
      ...{ reason: "VALIDATION_ERROR", fields: ["requests[1].entity.country_code"] },
    });
  });

  it("rule 151: request_id and validate_only belong to the batch", async () => {
    const [person] = (await people(1)) as [Entity];
    const own = [{ requestId: randomUUID() }, { validateOnly: true }].map((more) => ({
      ...rename(person, "x"),
      ...more,
    }));
    expect(await refusal(batch([rename(person, "x"), ...own]))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["requests[1].request_id", "requests[2].validate_only"],
    });
  });

  it("rule 151: 1 to 1,000 items, in at most 4 MiB", async () => {
    const [person] = (await people(1)) as [Entity];
    const item = rename(person, "x");
    for (const [items, field] of [
      [[], "requests"],
      [Array(1_001).fill(item), "requests"],
    ] as const)
      expect(await refusal(batch([...items]))).toMatchObject({ reason: "VALIDATION_ERROR", fields: [field] });
    const large = (bytes: number): Item => ({ ...item, entity: { attributes: { text: "x".repeat(bytes) } } });
    expect(await batch(Array(1_000).fill(large(4_096)))).toHaveLength(1_000);
    expect(await refusal(batch(Array(1_000).fill(large(4_300))))).toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
  });

  it("rule 151: an entity of another organization is as one that is not there", async () => {
    const [own, other] = [await newPerson(client), await service.newOrganization()];
    const theirs = await newPerson(other.client, { externalId: unique("p"), taxId: unique("T") });
    const requestId = randomUUID();
    await batch([rename(theirs, "theirs")], { requestId }, other.client);
    const before = await dump(service.sql);
    for (const lookup of [byId(theirs), byExternalId(theirs.externalId), byTaxId(theirs.taxId ?? "")]) {
      const call = batch([rename(own, "x"), { lookup, entity: { name: "x" } }], { requestId });
      expect(await refusal(call)).toMatchObject({ reason: "NOT_FOUND", metadata: { index: "1" } });
    }
    expect(await dump(service.sql)).toEqual(before);
  });
});

describe("rule 39: safe to retry", () => {
  it("rules 39, 151: a batch that is sent again answers what it answered first, and does nothing", async () => {
    const headers = captureHeaders();
    const { baseUrl } = service;
    const own = createEntityClient({
      retries: false,
      baseUrl,
      apiKey: service.organization.apiKey,
      interceptors: [headers.interceptor],
    });
    const [person] = (await people(1)) as [Entity];
    const requestId = randomUUID();
    const items = [rename(person, "Bia"), upsert(unique("new"), "Caio"), rename(person, "Davi")];
    const first = await batch(items, { requestId }, own);
    expect(headers.last.get("idempotent-replay")).toBeNull();
    await client.entities.updateEntity(rename(person, "Eva"));
    const before = await dump(service.sql);
    expect(await batch(items, { requestId }, own)).toEqual(first);
    expect(headers.last.get("idempotent-replay")).toBe("true");
    expect(await refusal(batch(items.toReversed(), { requestId }))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
    expect(await dump(service.sql)).toEqual(before);
  });

  it("rules 39, 151: a replay waits for nobody, though an entity of the batch is locked", async () => {
    const [person] = (await people(1)) as [Entity];
    const requestId = randomUUID();
    const first = await batch([rename(person, "Bia")], { requestId });
    await using _held = await hold(person);
    expect(await batch([rename(person, "Bia")], { requestId })).toEqual(first);
  });
});

/** Holds the row of an entity, as another writer would. */
async function hold(entity: { id: string }) {
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin");
  await holder.query("select from entity where id = $1 for no key update", [entity.id]);
  return { [Symbol.asyncDispose]: () => holder.end() };
}

/** The sessions of the service that wait for a lock, once there are as many. */
async function waiting(count: number): Promise<number[]> {
  let pids: number[] = [];
  const look = async () => {
    const rows = await service.sql<{ pid: number }>(
      `select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
         and application_name = 'entity-service'`,
    );
    pids = rows.map(({ pid }) => pid);
    return pids.length;
  };
  await expect.poll(look, { timeout: 5_000 }).toBe(count);
  return pids;
}

describe("rule 151: locks", () => {
  it("rule 151: a batch waits for an entity that is locked; what it has locked before waits for the batch", async () => {
    const [first, second] = inOrder(await people(2)) as [Entity, Entity];
    const held = await hold(second);
    const written = batch([rename(second, "B"), rename(first, "A")]);
    await waiting(1);
    const single = client.entities.updateEntity({ lookup: byId(first), entity: { attributes: { late: true } } });
    await waiting(2);
    await held[Symbol.asyncDispose]();
    expect(await written).toHaveLength(2);
    expect((await single).previousEntity?.name).toBe("A");
  });

  it("rule 151: an entity that is locked for longer than the lock time is WRITE_CONFLICT, and nothing is done", async () => {
    const [first, second] = inOrder(await people(2)) as [Entity, Entity];
    await using _held = await hold(second);
    expect(await refusal(batch([rename(first, "A"), rename(second, "B")]))).toMatchObject({ reason: "WRITE_CONFLICT" });
    expect((await current(client, first)).name).toBe(first.name);
  });

  it("rules 113, 151: locks that come in time, but not within that of their statement, are WRITE_CONFLICT too", async () => {
    const [first, second] = [await newPerson(client), await newPerson(client)];
    await using own = await startOther(service, { config: { lockTimeoutMs: 5_000, statementTimeoutMs: 500 } });
    await using _held = await hold(second);
    const { entities } = own.client(service.organization.apiKey);
    const batched = entities.batchUpdateEntities({ requests: [rename(first, "A"), rename(second, "B")] });
    expect(await refusal(batched)).toMatchObject({ reason: "WRITE_CONFLICT" });
    const merged = entities.mergeEntities({ primary: byId(first), secondary: byId(second), reason: "one person" });
    expect(await refusal(merged)).toMatchObject({ reason: "WRITE_CONFLICT" });
    expect((await current(client, first)).name).toBe(first.name);
  });

  it("rule 151: a lookup that an earlier item moves to an entity that is not locked: all starts again with it locked", async () => {
    const taxId = unique("T");
    // A lookup by tax id locks 21 of them at the beginning: not the last two.
    const holders = inOrder(await people(23, { taxId }));
    const [last] = holders.splice(-1) as [Entity];
    const held = await hold(last);
    const clear = holders.map((one): Item => ({ lookup: byId(one), entity: {}, updateMask: { paths: ["tax_id"] } }));
    const written = batch([...clear, { lookup: byTaxId(taxId), entity: { name: "the last one" } }]);
    // With all that went before undone, it waits for the one that it had not locked.
    await waiting(1);
    await held[Symbol.asyncDispose]();
    const results = await written;
    expect(results.at(-1)).toMatchObject({ entityId: last.id, updatedFields: ["name"] });
    for (const one of holders) expect((await eventsOf(client, one)).length).toBe(2);
    expect((await current(client, last)).name).toBe("the last one");
  });

  it("rule 151: what an item names is ambiguous until the items before it have moved enough of them", async () => {
    const taxId = unique("T");
    const holders = inOrder(await people(24, { taxId }));
    const clear = (some: Entity[]) =>
      some.map((one): Item => ({ lookup: byId(one), entity: {}, updateMask: { paths: ["tax_id"] } }));
    const byTax = { lookup: byTaxId(taxId), entity: { name: "found" } };
    const tooFew = await refusal(batch([...clear(holders.slice(0, 22)), byTax]));
    expect(tooFew).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP", metadata: { index: "22" } });
    expect(tooFew.metadata.candidates).toBe(
      holders
        .slice(22)
        .map(({ id }) => id)
        .join(),
    );
    expect((await batch([...clear(holders.slice(1)), byTax])).at(-1)).toMatchObject({ entityId: holders[0]?.id });
  });

  it("rule 151: a tax id that a survivor gives up may still be that of what is merged into it", async () => {
    const [taxId, other] = [unique("T"), unique("T")];
    const [survivor, merged] = [await newPerson(client, { taxId }), await newPerson(client, { taxId })];
    await client.entities.mergeEntities({ primary: byId(survivor), secondary: byId(merged), reason: "one person" });
    const results = await batch([
      { lookup: byTaxId(taxId), entity: { taxId: other } },
      { lookup: byTaxId(taxId), entity: { name: "by the merged one's" } },
      { lookup: byTaxId(other), entity: { taxId } },
      { lookup: byTaxId(taxId), entity: { name: "by its own" } },
    ]);
    expect(results.map(({ entityId, redirectedFrom }) => [entityId, redirectedFrom])).toEqual([
      [survivor.id, ""],
      [survivor.id, merged.id],
      [survivor.id, ""],
      [survivor.id, ""],
    ]);
  });

  it.each([
    [4, "is done"],
    [5, "is WRITE_CONFLICT"],
  ])("rule 151: a lookup that moves %d times while the batch waits %s", async (moves) => {
    const made = Array.from({ length: moves + 1 }, () => newPerson(client, { externalId: unique("p") }));
    const owners = (await Promise.all(made)).map(({ id }) => id);
    const externalId = unique("moving");
    await client.entities.addExternalIds({ lookup: byId({ id: owners[0] ?? "" }), externalIds: [{ externalId }] });
    await using holders = new AsyncDisposableStack();
    let held = holders.use(await holdAll());
    await held.taken;
    const written = batch([{ lookup: byExternalId(externalId), entity: { name: "moved" } }]);
    const ended = written.then(
      (results) => results[0]?.entityId,
      () => "refused",
    );
    for (let i = 1; i <= moves; i++) {
      await waiting(1);
      await held.query("update external_id set entity_id = $2 where external_id = $1", [externalId, owners[i]]);
      // Behind the batch, and before its next round.
      const next = holders.use(await holdAll());
      await expect.poll(() => sessionsThatWait()).toBe(2);
      await held.commit();
      await next.taken;
      held = next;
    }
    if (moves < 5) await waiting(1);
    await held.commit();
    expect(await ended).toBe(moves < 5 ? owners[moves] : "refused");
    if (moves === 5) {
      const message = "The lookup kept moving: retry";
      expect(await refusal(written)).toMatchObject({ reason: "WRITE_CONFLICT", message });
    }
    const renamed = await service.sql("select id from entity where id = any($1) and name = 'moved'", [owners]);
    expect(renamed).toEqual(moves < 5 ? [{ id: owners[moves] }] : []);
    await forget(service, owners);
  });
});

/** Lets nobody lock an entity; whoever wants to is served in turn. Its queries are those of a superuser. */
async function holdAll() {
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin");
  return {
    taken: holder.query("lock table entity in exclusive mode"),
    query: (text: string, values: unknown[]) => holder.query(text, values),
    commit: () => holder.query("commit"),
    [Symbol.asyncDispose]: () => holder.end(),
  };
}

/** Those of tests too. */
const sessionsThatWait = async () =>
  (await service.sql("select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"))
    .length;

describe("rule 151: failures in the middle", () => {
  it("rule 151: the session ends while the batch waits: nothing is done, and a retry does it once", async () => {
    const [first, second] = inOrder(await people(2)) as [Entity, Entity];
    const held = await hold(second);
    const requestId = randomUUID();
    const items = [rename(first, "A"), rename(second, "B")];
    const refused = refusal(batch(items, { requestId }));
    const [pid] = await waiting(1);
    await service.sql("select pg_terminate_backend($1)", [pid]);
    expect(await refused).toMatchObject({ reason: "DATABASE_UNAVAILABLE" });
    await held[Symbol.asyncDispose]();
    expect((await current(client, first)).name).toBe(first.name);
    expect(await batch(items, { requestId })).toHaveLength(2);
    expect((await lastEventOf(client, first)).entityVersion).toBe(2n);
  });

  it("rule 151: an event that the database refuses in a later part undoes the parts before it", async () => {
    const made = await batch(Array.from({ length: PARTS }, (_, i) => upsert(unique("p"), `name ${i}`)));
    const some = made.map(({ entityId }) => ({ id: entityId }));
    await service.sql("alter table entity_event add constraint sabotage check (reason is distinct from 'sabotage')");
    const before = await dump(service.sql);
    const items = some.map((one, i) => ({ ...rename(one, "x"), reason: i === PARTS - 1 ? "sabotage" : "" }));
    try {
      expect(await refusal(batch(items, { requestId: randomUUID() }))).toMatchObject({ reason: "INTERNAL" });
      expect(await dump(service.sql)).toEqual(before);
    } finally {
      await service.sql("alter table entity_event drop constraint sabotage");
    }
  });

  it.each(["before", "after"] as const)(
    "rule 151: the connection is lost %s the COMMIT: COMMIT_UNKNOWN, and the retry has the batch done once",
    async (when) => {
      await using proxy = await startProxy();
      await using other = await startOther(service, { address: proxy });
      const [person] = (await people(1)) as [Entity];
      const own = createEntityClient({ retries: false, baseUrl: other.baseUrl, apiKey: service.organization.apiKey });
      const requestId = randomUUID();
      const items = [rename(person, "A"), rename(person, "B")];
      await own.entities.getEntity({ lookup: byId(person) });
      proxy.cutAtCommit(when);
      expect(await refusal(batch(items, { requestId }, own))).toMatchObject({ reason: "COMMIT_UNKNOWN" });
      const results = await batch(items, { requestId }, own);
      expect((await eventsOf(client, person)).map(({ id }) => id).slice(1)).toEqual(results.map(({ etag }) => etag));
    },
  );

  it("rule 151: a caller that leaves while its batch waits for its turn or for a lock has nothing done", async () => {
    const [first, second] = inOrder(await people(2)) as [Entity, Entity];
    const held = await hold(second);
    const leaving = new AbortController();
    const calls = ["waits for a lock", "waits for its turn"].map((name) =>
      client.entities
        .batchUpdateEntities({ requests: [rename(first, name), rename(second, name)] }, { signal: leaving.signal })
        .then(
          () => "done",
          () => "left",
        ),
    );
    await waiting(1);
    leaving.abort();
    expect(await Promise.all(calls)).toEqual(["left", "left"]);
    await held[Symbol.asyncDispose]();
    // Behind both of them.
    const results: BatchUpdateEntitiesResult[] = await batch([rename(first, "in time"), rename(second, "in time")]);
    expect(results).toHaveLength(2);
    for (const one of [first, second]) expect((await eventsOf(client, one)).length).toBe(2);
  });
});
