// ExportEntities: all entities as they were at a position of the log, however long they take to read.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  createEntityClient,
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityType,
} from "../clients/typescript/index.ts";
import { asThen, byId, newPerson, tally, together, unique } from "./given.ts";
import { forget, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
});
afterAll(async () => {
  const rows = await service.sql<{ id: string }>("select id from entity where organization_id = any($1)", [altered]);
  await forget(
    service,
    rows.map(({ id }) => id),
  );
  await service[Symbol.asyncDispose]();
});

/** Organizations whose entities a test writes to past the service: their history does not tell of it. */
const altered: string[] = [];

type Query = Parameters<EntityClient["entities"]["exportEntities"]>[0];

/** An export read to its end. */
async function exported(client: EntityClient, query: Query = {}) {
  const entities: Entity[] = [];
  const positions = new Set<string>();
  let done = 0;
  for await (const message of client.entities.exportEntities(query)) {
    entities.push(...message.entities);
    positions.add(message.position);
    expect(message.done).toBeGreaterThanOrEqual(done);
    ({ done } = message);
  }
  expect(done).toBe(1);
  expect(positions.size).toBe(1);
  return { entities, position: [...positions][0] ?? "" };
}

/** Changes every entity so many times, from and to attributes of this length: with events that nothing has sealed. */
const editBySql = (organizationId: string, changes: number, length: number) => {
  altered.push(organizationId);
  return service.sql(
    `with edited as (
       update entity set version = version + $2::int, etag = gen_random_uuid(), updated_at = clock_timestamp(),
         attributes = '{"a": "now"}'
       where organization_id = $1 returning id, type, version, updated_at)
     insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_ids,
       updated_fields, previous_values, new_values, actor, principal, source, recorded_at)
     select $1, gen_random_uuid(), e.id, e.version - $2::int + n, e.type, 'ATTRIBUTE_CHANGED', '{}', '{attributes}',
       case when n = 1 then '{}' else jsonb_build_object('attributes', jsonb_build_object('a', (
         select string_agg(md5(n::text || i), '') from generate_series(1, $3::int / 32 + 1) i))) end,
       '{"attributes": {"a": "now"}}', 'writer', e.id, 'test', e.updated_at
     from edited e, generate_series(1, $2::int) n`,
    [organizationId, changes, length],
  );
};

/** Rows of the table that were read so far: a connection tells of them when it is used a second later. */
async function tuplesRead(table: string): Promise<number> {
  await sleep(1_100);
  await together(30, () => service.client.entities.listMerges({}));
  const [row] = await service.sql<{ read: string }>(
    "select coalesce(idx_tup_fetch, 0) + seq_tup_read as read from pg_stat_user_tables where relname = $1",
    [table],
  );
  return Number(row?.read);
}

const names = (entities: readonly Entity[]) => entities.map(({ name }) => name);

describe("ExportEntities", () => {
  let organization: TestOrganization;
  let client: EntityClient;
  beforeAll(async () => {
    organization = await service.newOrganization();
    ({ client } = organization);
  });

  it("rule 153: sends what was there at the position, whatever has happened since", async () => {
    const make = (name: string) => newPerson(client, { name, externalId: unique(name) });
    const [kept, edited, deleted, merged, survivor, gone] = [
      await make("kept"),
      await make("edited"),
      await make("deleted"),
      await make("merged"),
      await make("survivor"),
      await make("gone"),
    ];
    const why = { reason: "because of a test" };
    const deletion = await client.entities.deleteEntity({ lookup: byId(gone), ...why });
    const before = [kept, edited, deleted, merged, survivor].map(asThen);
    const { position, entities } = await exported(client);
    expect(entities).toEqual(before);

    await client.entities.updateEntity({ lookup: byId(edited), entity: { name: "other", taxId: "1" } });
    await client.entities.updateEntity({ lookup: byId(edited), entity: { name: "another" } });
    await client.entities.deleteEntity({ lookup: byId(deleted), ...why });
    await client.entities.mergeEntities({ primary: byId(survivor), secondary: byId(merged), ...why });
    await client.entities.undeleteEntity({ lookup: byId(gone), ...why });
    await make("new");
    expect((await exported(client, { position })).entities).toEqual(before);
    expect((await exported(client, { position, showDeleted: true })).entities).toEqual([
      ...before,
      asThen(deletion.entity as Entity),
    ]);
    expect(names((await exported(client)).entities)).toEqual(["kept", "another", "survivor", "gone", "new"]);
    // From the last id that was kept.
    expect((await exported(client, { position, after: deleted.id })).entities).toEqual(before.slice(3));
    expect((await exported(client, { position, after: "ffffffff-ffff-4fff-bfff-ffffffffffff" })).entities).toEqual([]);
  });

  it("rule 153: filters hold for the entities as they were", async () => {
    const own = await service.newOrganization();
    const { entities } = own.client;
    const make = (name: string, countryCode: string, status: EntityStatus, type: EntityType = EntityType.PERSON) =>
      newPerson(own.client, { name, countryCode, status, type }, "because of a test");
    const left = await make("was blocked", "AR", EntityStatus.BLOCKED);
    const came = await make("was active", "AR", EntityStatus.ACTIVE);
    await make("elsewhere", "BR", EntityStatus.BLOCKED);
    await make("company", "AR", EntityStatus.BLOCKED, EntityType.COMPANY);
    const { position } = await exported(own.client);
    await entities.updateEntity({ lookup: byId(left), entity: { status: EntityStatus.ACTIVE } });
    await entities.updateEntity({ lookup: byId(came), entity: { status: EntityStatus.BLOCKED }, reason: "it is now" });
    const query = { statuses: [EntityStatus.BLOCKED], countryCodes: ["ar"], type: EntityType.PERSON };
    expect(names((await exported(own.client, { ...query, position })).entities)).toEqual(["was blocked"]);
    expect(names((await exported(own.client, query)).entities)).toEqual(["was active"]);
    expect(names((await exported(own.client, { position, countryCodes: ["BR"] })).entities)).toEqual(["elsewhere"]);
    const companies = await exported(own.client, { position, type: EntityType.COMPANY });
    expect(names(companies.entities)).toEqual(["company"]);
  });

  it("rule 153: what has changed since is taken back whatever its time is, also where the clock was set back", async () => {
    const own = await service.newOrganization();
    const lookup = byId(await newPerson(own.client, { name: "was pending" }));
    await newPerson(own.client, { name: "another" });
    const query = { statuses: [EntityStatus.PENDING] };
    const before = await exported(own.client, query);
    await own.client.entities.updateEntity({ lookup, entity: { status: EntityStatus.ACTIVE } });
    altered.push(own.id);
    const back = "- interval '5 minutes' where organization_id = $1";
    await service.sql(`update entity set updated_at = updated_at ${back} and version = 2`, [own.id]);
    await service.sql(`update entity_event set recorded_at = recorded_at ${back} and entity_version = 2`, [own.id]);
    expect((await exported(own.client, { ...query, position: before.position })).entities).toEqual(before.entities);
  });

  it("rule 153: many changes of one entity are taken back, a page at a time", async () => {
    const own = await service.newOrganization();
    const person = await newPerson(own.client, { attributes: { big: "x".repeat(4_000) } });
    const before = await exported(own.client);
    for (let i = 0; i < 300; i++) {
      const attributes = { big: String(i % 10).repeat(4_000) };
      await own.client.entities.updateEntity({ lookup: byId(person), entity: { attributes } });
    }
    const after = await exported(own.client, { position: before.position });
    expect(after.entities).toEqual(before.entities);
    expect(after.entities[0]?.etag).toBe(person.etag);
  });

  it.each([
    ["small", 60, 200, 10],
    ["large", 12, 40, 16_000],
  ])(
    "rule 153: many changes of many entities are taken back at a cost that goes with their events, %s ones",
    async (_, count, changes, length) => {
      const own = await service.newOrganization();
      for (let i = 0; i < count; i++) await newPerson(own.client, { name: `${i}` });
      const before = await exported(own.client);
      await editBySql(own.id, changes, length);
      await service.sql("vacuum analyze entity_event");
      const read = () => tuplesRead("entity_event");
      const begun = await read();
      const { entities } = await exported(own.client, { position: before.position });
      expect(entities).toEqual(before.entities);
      const cost = (await read()) - begun;
      expect(cost).toBeGreaterThanOrEqual(count * changes);
      expect(cost).toBeLessThan(4 * count * changes);
    },
    60_000,
  );

  it("rule 153: a page is bounded by what its entities were, not by what is left of them", async () => {
    const own = await service.newOrganization();
    const attributes = Object.fromEntries(Array.from({ length: 15 }, (_, i) => [`k${i}`, "x".repeat(4_000)]));
    const people: Entity[] = [];
    for (let i = 0; i < 60; i++) people.push(await newPerson(own.client, { attributes }));
    const { position } = await exported(own.client);
    for (const person of people)
      await own.client.entities.updateEntity({ lookup: byId(person), updateMask: { paths: ["attributes"] } });
    let [count, after] = [0, ""];
    for await (const message of own.client.entities.exportEntities({ position })) {
      expect(JSON.stringify(message.entities.map(({ attributes }) => attributes)).length).toBeLessThan(600_000);
      expect(message.after >= after).toBe(true);
      ({ after } = message);
      count += message.entities.length;
    }
    expect(count).toBe(60);
  });

  it("rule 153: where the log no longer tells, it is POSITION_EXPIRED; what the position has may be pruned", async () => {
    const own = await service.newOrganization();
    const lookup = byId(await newPerson(own.client, { name: "0" }));
    const rename = (name: string) => own.client.entities.updateEntity({ lookup, entity: { name } });
    const { position: old } = await exported(own.client);
    await rename("1");
    await rename("2");
    const { position } = await exported(own.client);
    await own.client.organizations.updateOrganization({ organization: { eventRetentionDays: 7 } });
    await service.sql(
      "update entity_event set recorded_at = recorded_at - interval '8 days' where organization_id = $1 and entity_version < 3",
      [own.id],
    );
    await service.sql("select prune_events(1000)");
    await rename("3");
    expect(await refusal(exported(own.client, { position: old }))).toMatchObject({ reason: "POSITION_EXPIRED" });
    const [entity] = (await exported(own.client, { position })).entities;
    expect(entity?.name).toBe("2");
  });

  it("refuses what is no query: positions, ids, countries", async () => {
    const bad = async (query: Query) => refusal(exported(client, query));
    expect(await bad({ position: "nonsense" })).toMatchObject({ reason: "POSITION_INVALID", fields: ["position"] });
    const { position } = await exported((await service.newOrganization()).client);
    expect(await bad({ position })).toMatchObject({ reason: "POSITION_INVALID" });
    const id = "0198c0de-0000-7000-8000-000000000001";
    expect(await bad({ after: id })).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["after"] });
    const own = (await exported(client)).position;
    expect(await bad({ position: own, after: "x" })).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["after"] });
    expect(await bad({ countryCodes: ["XYZ"] })).toMatchObject({ fields: ["country_codes[0]"] });
    expect(await bad({ statuses: [EntityStatus.UNSPECIFIED] })).toMatchObject({ fields: ["statuses[0]"] });
    const recorder = await organization.clientWith(["entities:write"]);
    expect(await refusal(exported(recorder))).toMatchObject({ reason: "PERMISSION_DENIED" });
  });
});

describe("an export of several pages", () => {
  const ENTITIES = 400;
  let own: TestOrganization;
  beforeAll(async () => {
    own = await service.newOrganization();
    const text = "x".repeat(4_000);
    const attributes = Object.fromEntries(Array.from({ length: 15 }, (_, i) => [`k${i}`, text]));
    const rows = async function* () {
      for (let i = 0; i < ENTITIES; i++)
        yield { entity: { externalId: `big-${i}`, type: EntityType.PERSON, name: "n", countryCode: "AR", attributes } };
    };
    for await (const { results } of own.client.entities.importEntities(rows()))
      expect(results.every(({ error }) => error === undefined)).toBe(true);
  }, 60_000);

  it("rule 153: a reader that stops holds no transaction open, and no more than a page is read for it", async () => {
    const idle = async () =>
      service.sql("select query from pg_stat_activity where datname = current_database() and state like 'idle in%'");
    const stream = own.client.entities.exportEntities({})[Symbol.asyncIterator]();
    await stream.next();
    await stream.next();
    const before = await tuplesRead("entity");
    expect(before).toBeGreaterThan(0);
    expect(await tuplesRead("entity")).toBe(before);
    expect(await idle()).toEqual([]);
    let count = 0;
    for (let next = await stream.next(); next.done !== true; next = await stream.next())
      count += next.value.entities.length;
    expect(count).toBeGreaterThan(ENTITIES / 2);
  });

  it("a key that is revoked in the middle ends it, and what came can be gone on with by another key", async () => {
    const made = await own.client.organizations.createApiKey({ displayName: "x", scopes: ["entities:read"] });
    const reader = createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: made.secret });
    const ids: string[] = [];
    let [position, after] = ["", ""];
    const reading = (async () => {
      for await (const message of reader.entities.exportEntities({})) {
        ({ position, after } = message);
        ids.push(...message.entities.map(({ id }) => id));
        if (ids.length === 0) continue;
        if (ids.length < 50) await own.client.organizations.revokeApiKey({ apiKeyId: made.apiKey?.id ?? "" });
        await sleep(1_000);
      }
    })();
    expect(await refusal(reading)).toMatchObject({ reason: "UNAUTHENTICATED" });
    const rest = await exported(own.client, { position, after });
    ids.push(...rest.entities.map(({ id }) => id));
    expect(new Set(ids).size).toBe(ENTITIES);
    expect(ids).toEqual(ids.toSorted());
  }, 60_000);

  it("too many at once are OVERLOADED, and leave room to others", async () => {
    const abort = new AbortController();
    const open = async () => {
      const stream = own.client.entities.exportEntities({}, { signal: abort.signal })[Symbol.asyncIterator]();
      await stream.next();
    };
    const endings = await together(20, open);
    const counts = tally(endings);
    expect(counts.OK).toBeGreaterThanOrEqual(4);
    expect(counts.OVERLOADED).toBeGreaterThanOrEqual(8);
    await exported(service.client);
    abort.abort();
    const again = async () => (await together(1, () => exported(own.client)))[0]?.reason;
    await expect.poll(again, { timeout: 20_000 }).toBeUndefined();
  }, 60_000);

  it("a restored database in the middle: POSITION_EXPIRED, and nothing of it", async () => {
    const stream = own.client.entities.exportEntities({})[Symbol.asyncIterator]();
    await stream.next();
    await stream.next();
    await service.sql("update feed_epoch set cluster = 'another', started_at = '-infinity'");
    const rest = (async () => {
      for (let next = await stream.next(); next.done !== true; ) next = await stream.next();
    })();
    expect(await refusal(rest)).toMatchObject({ reason: "POSITION_EXPIRED" });
  });
});
