// Rule 138: a process remembers which aliases named their entities, and writes the day of it behind the calls.
import { randomUUID } from "node:crypto";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, type EntityClient, EntityType } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { type AliasUse, trackAliasUse } from "../src/entities/alias-use.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byExternalId, byId, current, eventsOf, newPerson, together, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { startOther } from "./wall-harness.ts";

const AT = { seconds: 1n, nanos: 0 };
const REASON = "for the test";

let service: TestService;
let client: EntityClient;
beforeAll(async () => {
  service = await startService({ config: { aliasUseIntervalMs: 100 } });
  ({ client } = service);
  // Counts what is written to external ids by anybody.
  await service.sql("create table written (external_id text)");
  await service.sql(`create function count_written() returns trigger language plpgsql security definer set search_path = public
    as $$ begin insert into written values (new.external_id); return new; end $$`);
  await service.sql(
    "create trigger count_written after update of last_resolved_on on external_id for each row execute function count_written()",
  );
});
afterAll(() => service[Symbol.asyncDispose]());

async function withAlias(
  of: EntityClient = client,
  alias = unique("alias"),
): Promise<{ person: Entity; alias: string }> {
  const made = await newPerson(of, { externalId: unique("primary") });
  const { entity } = await of.entities.addExternalIds({ lookup: byId(made), externalIds: [{ externalId: alias }] });
  return { person: entity as Entity, alias };
}

const writes = async (alias: string) =>
  (await service.sql("select from written where external_id = $1", [alias])).length;
/** The day in the table, and in the entity. */
const daysOf = (alias: string, of = service) =>
  of.sql<{ stored: string | null; copied: string | null }>(
    `select x.last_resolved_on::text as stored, c.id ->> 5 as copied
     from external_id x join entity e on e.organization_id = x.organization_id and e.id = x.entity_id
     cross join lateral jsonb_array_elements(e.external_ids) c(id) where x.external_id = $1 and c.id ->> 0 = $1`,
    [alias],
  );
const today = () => new Date().toISOString().slice(0, 10);
const isUsed = (alias: string) => expect.poll(() => daysOf(alias)).toEqual([{ stored: today(), copied: today() }]);

/** A tracker by itself, whose writes the test begins. */
async function tracker(options: { orm?: Orm } = {}) {
  const { host, port, database } = service.database;
  const orm =
    options.orm ??
    createOrm({ host, port, user: "entity_service", password: RUNTIME_PASSWORD, database }, readConfig({}));
  const lines: { names: number; reason?: string }[] = [];
  const use = trackAliasUse(orm, { intervalMs: 86_400_000, log: { warn: (what) => lines.push(what) } });
  return Object.assign(use, {
    lines,
    async [Symbol.asyncDispose]() {
      await use.drain(0);
      await orm.close(true);
    },
  });
}

/** A connection that may hold rows and tables. */
async function superuser(): Promise<pg.Client & AsyncDisposable> {
  const holder = new pg.Client(service.database);
  await holder.connect();
  return Object.assign(holder, { [Symbol.asyncDispose]: () => holder.end() });
}

const tell = (use: AliasUse, organizationId: string, key: string, id: string) =>
  use.namedParty(organizationId, { by: "external_id", key }, { id, externalId: null });

describe("what is a use of an alias", () => {
  const USES: Record<string, (alias: string, person: Entity) => Promise<unknown>> = {
    GetEntity: (alias) => client.entities.getEntity({ lookup: byExternalId(` ${alias} `) }),
    BatchGetEntities: (alias, { id }) =>
      client.entities.batchGetEntities({ lookups: [byId({ id }), byExternalId(alias)] }),
    "ListEntities, its filter": (alias) => client.entities.listEntities({ externalIds: [unique("other"), alias] }),
    UpdateEntity: (alias) => client.entities.updateEntity({ lookup: byExternalId(alias), entity: { name: "Eva" } }),
    "UpdateEntity that changes nothing": (alias) =>
      client.entities.updateEntity({ lookup: byExternalId(alias), entity: { name: "Ana Souza" } }),
    "UpdateEntity with a stale etag": (alias) =>
      together(1, () =>
        client.entities.updateEntity({ lookup: byExternalId(alias), entity: { name: "x" }, etag: randomUUID() }),
      ),
    "a rehearsal": (alias) =>
      client.entities.updateEntity({ lookup: byExternalId(alias), entity: { name: "x" }, validateOnly: true }),
    BatchUpdateEntities: (alias, { id }) =>
      client.entities.batchUpdateEntities({
        requests: [byId({ id }), byExternalId(alias)].map((lookup) => ({ lookup, entity: { name: "Eva" } })),
      }),
    ImportEntities: async (alias) => {
      const rows = async function* () {
        yield { entity: { externalId: alias, type: EntityType.PERSON, name: "Eva", countryCode: "BR" } };
      };
      for await (const _ of client.entities.importEntities(rows())) void _;
    },
    ListEntityEvents: (alias) => client.entities.listEntityEvents({ lookup: byExternalId(alias) }),
    WatchEntities: async (alias) => {
      for await (const _ of client.entities.watchEntities({ lookup: byExternalId(alias) })) return;
    },
    "a party of a transaction": (alias) =>
      client.activity.recordTransactions({
        transactions: [
          { type: "t", amount: "1", currency: "ARS", transactedAt: AT, destination: { externalId: alias } },
        ],
      }),
    "a user event": (alias) =>
      client.activity.recordUserEvents({ userEvents: [{ eventType: "t", occurredAt: AT, entityExternalId: alias }] }),
    ListTransactions: (alias) => client.activity.listTransactions({ lookup: byExternalId(alias) }),
    "ListExternalIdHistory by a lookup": (alias) =>
      client.entities.listExternalIdHistory({ lookup: byExternalId(alias) }),
  };

  it.each(Object.keys(USES))("rule 138: %s", async (name) => {
    const { person, alias } = await withAlias();
    expect(await daysOf(alias)).toEqual([{ stored: null, copied: null }]);
    await USES[name]?.(alias, person);
    await isUsed(alias);
    const shown = (await current(client, person)).externalIds;
    expect(shown.map(({ lastResolvedOn }) => lastResolvedOn)).toEqual(["", today()]);
    expect(shown[1]?.trackedSince).toEqual(person.externalIds[1]?.attachedAt);
    expect(shown[0]?.trackedSince).toBeUndefined();
  });

  it("rule 138: another key of the entity is none, nor is the history of the id, its release, or its being listed again", async () => {
    const { person, alias } = await withAlias();
    const [lookup, used] = [byId(person), await withAlias()];
    await client.entities.getEntity({ lookup: byExternalId(person.externalId) });
    await client.entities.getEntity({ lookup });
    await client.entities.listEntities({ externalIds: [person.externalId] });
    await client.entities.listExternalIdHistory({ externalId: alias });
    await client.entities.addExternalIds({ lookup, externalIds: [{ externalId: alias }] });
    for (const flags of [{ validateOnly: true, force: true }, {}]) {
      const by = byExternalId(alias);
      await together(1, () =>
        client.entities.releaseExternalId({ lookup: by, externalId: alias, reason: REASON, ...flags }),
      );
    }
    // What comes after them has been written.
    await client.entities.getEntity({ lookup: byExternalId(used.alias) });
    await isUsed(used.alias);
    expect(await daysOf(alias)).toEqual([{ stored: null, copied: null }]);
    expect((await daysOf(person.externalId))[0]?.stored).toBeNull();
  });

  it("rule 138: another alias by which one is released is used", async () => {
    const { person, alias } = await withAlias();
    const other = unique("other");
    await client.entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId: other }] });
    await client.entities.releaseExternalId({
      lookup: byExternalId(alias),
      externalId: other,
      reason: REASON,
      force: true,
    });
    await isUsed(alias);
  });

  it("rules 33, 138: it is no change of the entity: no event, the same etag and updated_at", async () => {
    const { person, alias } = await withAlias();
    await client.entities.getEntity({ lookup: byExternalId(alias) });
    await isUsed(alias);
    const after = await current(client, person);
    expect(after).toEqual({ ...person, externalIds: after.externalIds });
    expect(await eventsOf(client, person)).toHaveLength(2);
    // A change that follows says nothing of it either.
    const { updatedFields } = await client.entities.updateEntity({ lookup: byId(person), entity: { name: "Eva" } });
    expect(updatedFields).toEqual(["name"]);
    expect((await current(client, person)).externalIds).toEqual(after.externalIds);
  });
});

describe("what is written", () => {
  it("rule 138: an alias that is looked up 100,000 times in a minute is written once", async () => {
    const { alias } = await withAlias();
    const lookups = Array.from({ length: 1000 }, () => byExternalId(alias));
    const from = performance.now();
    for (let i = 0; i < 100; i++) await client.entities.batchGetEntities({ lookups, readMask: { paths: ["id"] } });
    const took = performance.now() - from;
    await isUsed(alias);
    // And alone, by many callers, while it is written and afterwards.
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let i = 0; i < 100; i++) await client.entities.getEntity({ lookup: byExternalId(alias) });
      }),
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    const count = await writes(alias);
    console.log(
      `100,000 lookups of one alias in ${(took / 1000).toFixed(1)} s, 800 more by 8 callers: written ${count} time(s)`,
    );
    expect(took).toBeLessThan(60_000);
    expect(count).toBe(1);
  });

  it("rule 138: once for all processes", async () => {
    await using other = await startOther(service, { config: { aliasUseIntervalMs: 100 } });
    const callers = [client, other.client(service.organization.apiKey)];
    const made = await Promise.all(Array.from({ length: 40 }, () => withAlias()));
    for (let round = 0; round < 5; round++) {
      await Promise.all(
        made.flatMap(({ alias }) => callers.map(({ entities }) => entities.getEntity({ lookup: byExternalId(alias) }))),
      );
    }
    for (const { alias } of made) await isUsed(alias);
    await new Promise((resolve) => setTimeout(resolve, 300));
    for (const { alias } of made) expect(await writes(alias)).toBe(1);
  });

  it("rule 138: a day that is not over is not written again, the next day is", async () => {
    const { person, alias } = await withAlias();
    await using use = await tracker();
    const write = async () => {
      tell(use, service.organization.id, alias, person.id);
      await use.write();
    };
    await write();
    await write();
    expect(await writes(alias)).toBe(1);
    // As of the day before.
    await service.sql("update external_id set last_resolved_on = last_resolved_on - 1 where external_id = $1", [alias]);
    await write();
    expect(await daysOf(alias)).toEqual([{ stored: today(), copied: today() }]);
  });

  it("rule 138: what a process knows at its end is written", async () => {
    const { alias } = await withAlias();
    {
      await using other = await startOther(service, { config: { aliasUseIntervalMs: 86_400_000 } });
      await other.client(service.organization.apiKey).entities.getEntity({ lookup: byExternalId(alias) });
      expect(await daysOf(alias)).toEqual([{ stored: null, copied: null }]);
    }
    expect(await daysOf(alias)).toEqual([{ stored: today(), copied: today() }]);
  });

  it("rule 138: many names of several organizations, in parts: all of them, and the memory is free", async () => {
    await using use = await tracker();
    const organizations = [service.organization, await service.newOrganization()];
    for (const { id, client: of } of organizations) {
      const { entities } = of;
      for (let i = 0; i < 13; i++) {
        const person = await newPerson(of, { externalId: unique("p") });
        const externalIds = Array.from({ length: 99 }, (_, n) => ({ externalId: `many-${i}-${n}` }));
        await entities.addExternalIds({ lookup: byId(person), externalIds });
        for (const { externalId } of externalIds) tell(use, id, externalId, person.id);
      }
    }
    expect(use.waiting().names).toBe(2 * 13 * 99);
    await use.write();
    expect(use.waiting()).toEqual({ names: 0, bytes: 0 });
    const [row] = await service.sql(
      "select count(*)::int as n, count(distinct organization_id)::int as organizations from external_id where external_id like 'many-%' and last_resolved_on is not null",
    );
    expect(row).toEqual({ n: 2 * 13 * 99, organizations: 2 });
    expect(use.lines).toEqual([]);
  });
});

describe("an alias that is another's by the time it is written", () => {
  it("rule 138: one that has moved to another entity, has become the primary, or was released, is left alone", async () => {
    await using use = await tracker();
    const [moved, promoted, released] = [await withAlias(), await withAlias(), await withAlias()];
    for (const { person, alias } of [moved, promoted, released]) tell(use, service.organization.id, alias, person.id);
    const { entities } = client;
    const release = ({ person, alias }: typeof moved) =>
      entities.releaseExternalId({ lookup: byId(person), externalId: alias, reason: REASON, force: true });
    await release(moved);
    await release(released);
    const owner = await newPerson(client, { externalId: unique("owner") });
    await entities.addExternalIds({ lookup: byId(owner), externalIds: [{ externalId: moved.alias }] });
    await entities.changeExternalId({
      lookup: byId(promoted.person),
      newExternalId: promoted.alias,
      reason: REASON,
      keepPreviousAsAlias: true,
    });
    await use.write();
    expect(await daysOf(moved.alias)).toEqual([{ stored: null, copied: null }]);
    expect(await daysOf(promoted.alias)).toEqual([{ stored: null, copied: null }]);
    expect(await daysOf(released.alias)).toEqual([]);
    expect(use.waiting()).toEqual({ names: 0, bytes: 0 });
  });

  it("rules 2, 138: the same text in another organization is another alias", async () => {
    await using use = await tracker();
    const other = await service.newOrganization();
    const alias = unique("same");
    const [ours, theirs] = [await withAlias(client, alias), await withAlias(other.client, alias)];
    const used = async () =>
      (
        await service.sql<{ entity_id: string }>(
          "select entity_id from external_id where external_id = $1 and last_resolved_on is not null",
          [alias],
        )
      ).map((row) => row.entity_id);
    // By their entity, under our name: nobody's.
    tell(use, service.organization.id, alias, theirs.person.id);
    await use.write();
    expect(await used()).toEqual([]);
    await other.client.entities.getEntity({ lookup: byExternalId(alias) });
    await expect.poll(used, { timeout: 5_000 }).toEqual([theirs.person.id]);
    expect((await current(client, ours.person)).externalIds[1]?.lastResolvedOn).toBe("");
  });

  it("rule 138: an entity that a transaction holds is not waited for: it is written next time", async () => {
    await using use = await tracker();
    const [held, free] = [await withAlias(), await withAlias()];
    for (const { person, alias } of [held, free]) tell(use, service.organization.id, alias, person.id);
    {
      await using holder = await superuser();
      await holder.query("begin");
      await holder.query("select from entity where id = $1 for no key update", [held.person.id]);
      const from = performance.now();
      await use.write();
      // Short of the time for locks, which is 2 s.
      expect(performance.now() - from).toBeLessThan(1_500);
      expect(await daysOf(free.alias)).toEqual([{ stored: today(), copied: today() }]);
      expect(await daysOf(held.alias)).toEqual([{ stored: null, copied: null }]);
      expect(use.waiting().names).toBe(1);
      await holder.query("rollback");
    }
    await use.write();
    expect(await daysOf(held.alias)).toEqual([{ stored: today(), copied: today() }]);
    expect(use.waiting()).toEqual({ names: 0, bytes: 0 });
  });

  it("rules 138, 140: while writers change the same entities and ids, table and copy agree and no write is lost", async () => {
    await using one = await tracker();
    await using two = await tracker();
    const organizationId = service.organization.id;
    const people = await Promise.all(Array.from({ length: 8 }, () => withAlias()));
    const extras = new Map<string, string>();
    let isOver = false;
    let rounds = 0;
    const flush = async (use: typeof one) => {
      while (!isOver) {
        for (const { person, alias } of people) {
          tell(use, organizationId, alias, person.id);
          tell(use, organizationId, person.externalId, person.id);
        }
        for (const [extra, id] of extras) tell(use, organizationId, extra, id);
        await use.write();
        rounds++;
      }
    };
    const flushing = Promise.all([flush(one), flush(two)]);
    await Promise.all(
      people.map(async ({ person, alias }, i) => {
        const { entities } = client;
        const lookup = byId(person);
        for (let round = 0; round < 25; round++) {
          const extra = { externalId: `${alias}-${round}` };
          extras.set(extra.externalId, person.id);
          await entities.addExternalIds({ lookup, externalIds: [extra], reason: REASON });
          await entities.updateEntity({ lookup, entity: { name: `round ${round}` } });
          await entities.updateEntity({ lookup: byExternalId(extra.externalId), entity: { attributes: { round } } });
          await entities.releaseExternalId({ lookup, ...extra, reason: REASON, force: true });
          extras.delete(extra.externalId);
          if (round % 5 === (i + 2) % 5) {
            const change = { lookup, reason: REASON, keepPreviousAsAlias: true };
            await entities.changeExternalId({ ...change, newExternalId: alias });
            await entities.changeExternalId({ ...change, newExternalId: person.externalId });
          }
          if (round % 5 === i % 5) {
            await entities.releaseExternalId({ lookup, externalId: alias, reason: REASON, force: true });
            await entities.addExternalIds({ lookup, externalIds: [{ externalId: alias }] });
          }
        }
      }),
    );
    isOver = true;
    await flushing;
    for (const { person, alias } of people) {
      const now = await current(client, person);
      expect(now.name).toBe("round 24");
      expect(now.externalIds.map(({ externalId }) => externalId)).toEqual([person.externalId, alias]);
    }
    const marked = await service.sql("select from written where external_id like any($1)", [
      people.map(({ alias }) => `${alias}%`),
    ]);
    console.log(`two trackers wrote ${rounds} times beside 8 writers, ${marked.length} aliases`);
    expect(marked.length).toBeGreaterThan(50);
    expect([...one.lines, ...two.lines]).toEqual([]);
    // That copies and tables are equal is checked of the whole database at the end.
  });
});

describe("a database that does not answer", () => {
  it("rule 138: nothing is lost, nothing grows beyond its bound, no call notices; then all is written", async () => {
    await using use = await tracker();
    const { person, alias } = await withAlias();
    tell(use, service.organization.id, alias, person.id);
    await service.sql("revoke update on external_id from entity_service");
    try {
      await use.write();
      await use.write();
      expect(use.waiting().names).toBe(1);
      expect(use.lines).toMatchObject([{ names: 1 }]);
      expect(JSON.stringify(use.lines)).not.toContain(alias);
      await client.entities.getEntity({ lookup: byExternalId(alias) });
    } finally {
      await service.sql("grant update on external_id to entity_service");
    }
    await new Promise((resolve) => setTimeout(resolve, 1_050));
    await use.write();
    expect(use.waiting()).toEqual({ names: 0, bytes: 0 });
    await isUsed(alias);
  });

  it("rule 138: 300,000 names, and long ones, of one organization and of many: at most 100,000 wait, in at most 24 MiB", async () => {
    const orm = createOrm(
      { host: "127.0.0.1", port: 1, user: "nobody", password: "", database: "none" },
      readConfig({}),
    );
    await using use = await tracker({ orm });
    const [greedy, small] = [randomUUID(), randomUUID()];
    const entityId = randomUUID();
    const longest = "\u{1f600}".repeat(240);
    for (let i = 0; i < 100_000; i++) tell(use, greedy, `${longest}${i}`, entityId);
    const alone = use.waiting();
    expect(alone.bytes).toBeLessThanOrEqual(24 * 1024 * 1024);
    // One organization leaves room to the others.
    for (let i = 0; i < 1_000; i++) tell(use, small, `small-${i}`, entityId);
    expect(use.waiting().names).toBe(alone.names + 1_000);
    for (let i = 0; i < 200_000; i++) tell(use, `organization-${i % 50}`, `name-${i}`, entityId);
    expect(use.waiting().names).toBeLessThanOrEqual(100_000);
    expect(use.waiting().bytes).toBeLessThanOrEqual(24 * 1024 * 1024);
    await use.write();
    // They wait on.
    expect(use.waiting().names).toBeGreaterThan(20_000);
    const { reason } = use.lines.find((line) => line.reason !== undefined) ?? {};
    expect(reason).toBe("DATABASE_UNAVAILABLE");
  });

  it("rule 138: the end does not wait for it", async () => {
    const { host, port, database } = service.database;
    const orm = createOrm({ host, port, user: "entity_service", password: RUNTIME_PASSWORD, database }, readConfig({}));
    await using use = await tracker({ orm });
    const { person, alias } = await withAlias();
    tell(use, service.organization.id, alias, person.id);
    await using holder = await superuser();
    await holder.query("begin");
    await holder.query("lock table external_id in access exclusive mode");
    const from = performance.now();
    await use.drain(300);
    // Short of the time for locks, which is 2 s.
    expect(performance.now() - from).toBeLessThan(1_500);
    await holder.query("rollback");
  });
});
