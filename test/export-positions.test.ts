// ExportEntities at positions of a log whose transactions commit in another order than that of their ids, and some never:
// what it sends is what had been committed when the position was taken. Random, by TEST_SEED.
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, type EntityClient, EntityStatus } from "../clients/typescript/index.ts";
import { reseal } from "./chains.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byId, newPerson } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";
import { randomOf } from "./hostile/random.ts";
import { beginning, watching } from "./watchers.ts";
import { RENAME, timedId } from "./writes-by-sql.ts";

const SEED = process.env.TEST_SEED ?? String(Date.now());
const STEPS = 400;
const CONNECTIONS = 6;
const REASON = { reason: "because of a test" };

interface Truth {
  position: string;
  /** Of the entities that are not merged, in the order of their ids. */
  rows: { id: string; etag: string; name: string; status: string; deleted: boolean }[];
}

let service: TestService;
let client: EntityClient;
beforeAll(async () => {
  service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
  ({ client } = service);
});
afterAll(() => service[Symbol.asyncDispose]());

async function exported(query: Parameters<EntityClient["entities"]["exportEntities"]>[0]): Promise<Entity[]> {
  const entities: Entity[] = [];
  for await (const message of client.entities.exportEntities(query)) entities.push(...message.entities);
  return entities;
}

const shown = (entities: readonly Entity[]) => entities.map(({ id, etag, name }) => ({ id, etag, name }));
const picked = (rows: Truth["rows"]) => rows.map(({ id, etag, name }) => ({ id, etag, name }));

/** A position, and what is committed: nothing is, in between. */
async function look(): Promise<Truth> {
  const { watchPosition: position } = await client.entities.listEntities({ pageSize: 1 });
  const rows = await service.sql<Truth["rows"][number]>(
    "select id, etag, name, status, deleted_at is not null as deleted from entity where merged_into is null order by id",
  );
  return { position, rows };
}

const truths: Truth[] = [];

describe(`random transactions, TEST_SEED=${SEED}`, () => {
  it("rule 153: at each position the export is what was committed then, whichever transactions were open or rolled back", async () => {
    process.stdout.write(`TEST_SEED=${SEED}\n`);
    const random = randomOf(SEED);
    const below = (max: number) => random.int(0, max - 1);
    const { host, port, database } = service.database;
    const writers = await Promise.all(
      Array.from({ length: CONNECTIONS }, async () => {
        const db = new pg.Client({ host, port, database, user: "entity_service", password: RUNTIME_PASSWORD });
        await db.connect();
        return { db, isOpen: false, locks: new Set<string>() };
      }),
    );
    const renamed: string[] = [];
    for (let i = 0; i < 30; i++) renamed.push((await newPerson(client, { name: `renamed ${i}` })).id);
    const others: Entity[] = [];
    for (let i = 0; i < 20; i++) others.push(await newPerson(client, { name: `other ${i}`, externalId: `o-${i}` }));
    const merges: string[] = [];
    const { entities } = client;
    const ignored = async (call: Promise<unknown>) => call.catch(() => {});

    async function writeByCall(): Promise<void> {
      const [one, two] = [random.pick(others), random.pick(others)];
      const lookup = byId(one);
      switch (below(6)) {
        case 0:
          return void (await ignored(entities.deleteEntity({ lookup, ...REASON })));
        case 1:
          return void (await ignored(entities.undeleteEntity({ lookup, ...REASON })));
        case 2: {
          const merge = { primary: lookup, secondary: byId(two), ...REASON };
          const merged = await entities.mergeEntities(merge).catch(() => undefined);
          if (merged !== undefined) merges.push(merged.mergeId);
          return;
        }
        case 3: {
          const mergeId = merges.splice(below(Math.max(1, merges.length)), 1)[0];
          return void (mergeId !== undefined && (await ignored(entities.unmergeEntities({ mergeId, ...REASON }))));
        }
        case 4:
          return void others.push(await newPerson(client, { name: "made" }));
        default: {
          const status = random.pick([EntityStatus.BLOCKED, EntityStatus.ACTIVE]);
          return void (await ignored(entities.updateEntity({ lookup, entity: { status }, ...REASON })));
        }
      }
    }

    async function writeBySql(writer: (typeof writers)[number]): Promise<void> {
      const { db, locks } = writer;
      if (!writer.isOpen) {
        writer.isOpen = true;
        await db.query("begin");
        await db.query("select set_config('app.organization_id', $1, true)", [service.organization.id]);
        // Its id is older than those of transactions that commit before it.
        if (random.chance(0.6)) await db.query("select pg_current_xact_id()");
        return;
      }
      if (random.chance(0.3)) {
        await db.query(random.chance(0.3) ? "rollback" : "commit");
        writer.isOpen = false;
        locks.clear();
        return;
      }
      const free = renamed.filter((id) => writers.every((other) => other === writer || !other.locks.has(id)));
      for (let i = 1 + below(4); i > 0 && free.length > 0; i--) {
        const id = random.pick(free);
        locks.add(id);
        await db.query(RENAME, [service.organization.id, id, `name ${below(1e9)}`, timedId()]);
      }
    }

    for (let step = 0; step < STEPS; step++) {
      const kind = below(10);
      if (kind < 6) await writeBySql(random.pick(writers));
      else if (kind < 8) await writeByCall();
      else truths.push(await look());
    }
    for (const { db, isOpen } of writers) {
      if (isOpen) await db.query("commit");
      await db.end();
    }
    truths.push(await look());
    // Of an event without a seal nobody knows the etag.
    await reseal(service.sql);
    expect(truths.length).toBeGreaterThan(STEPS / 10);
    const [{ events }] = (await service.sql("select count(*)::int as events from entity_event")) as [
      { events: number },
    ];
    // Some 300; chance may roll back half of them.
    expect(events).toBeGreaterThan(STEPS / 4);

    for (const { position, rows } of truths) {
      expect(shown(await exported({ position, showDeleted: true }))).toEqual(picked(rows));
      expect(shown(await exported({ position }))).toEqual(picked(rows.filter(({ deleted }) => !deleted)));
      const blocked = rows.filter(({ deleted, status }) => !deleted && status === "blocked");
      expect(shown(await exported({ position, statuses: [EntityStatus.BLOCKED] }))).toEqual(picked(blocked));
      const half = rows[Math.floor(rows.length / 2)]?.id ?? "";
      expect(shown(await exported({ position, after: half, showDeleted: true }))).toEqual(
        picked(rows.filter(({ id }) => id > half)),
      );
    }
  }, 120_000);

  it("rule 153: at the position of any message of a watch it is what had come until then, within a long range too", async () => {
    // A range of more than a page, which is read in the order of time.
    for (let i = 0; i < 25; i++) {
      const person = await newPerson(client, { name: "0" });
      for (let k = 1; k < 25; k++)
        await client.entities.updateEntity({ lookup: byId(person), entity: { name: `${k}` } });
    }
    await using watch = watching(client, { position: await beginning(service, client) });
    await watch.started();
    const random = randomOf(SEED);
    const { messages } = watch;
    expect(messages.length).toBeGreaterThan(700);
    for (let i = 0; i < 30; i++) {
      const count = random.int(1, messages.length);
      const came = messages.slice(0, count).flatMap(({ event }) => event ?? []);
      const copy = new Map(came.map((event) => [event.entityId, event]));
      const merged = new Map<string, unknown>();
      for (const { entityId, newValues = {} } of came)
        if ("mergedInto" in newValues) merged.set(entityId, newValues.mergedInto);
      const expected = [...copy]
        .filter(([id]) => merged.get(id) == null)
        .map(([id, event]) => ({ id, etag: event.id }));
      const { position = "" } = messages[count - 1] ?? {};
      expect(
        (await exported({ position, showDeleted: true })).map(({ id, etag }) => ({ id, etag })),
        `message ${count}`,
      ).toEqual(expected.sort((a, b) => (a.id < b.id ? -1 : 1)));
    }
  }, 60_000);

  it("rule 153: a restored database gives out the ids anew: what was there is in every position, and older positions have expired", async () => {
    const [old] = truths;
    // Ids that no transaction of the new cluster will reach for long.
    await service.sql("update entity_event set xid = (xid::text::bigint + 1000000000)::text::xid8");
    await service.sql("update feed_epoch set cluster = 'another', started_at = '-infinity'");
    const before = await look();
    expect((await refusal(exported({ position: old?.position ?? "" }))).reason).toBe("POSITION_EXPIRED");
    const person = await newPerson(client, { name: "behind it" });
    const blocked = before.rows.find(({ deleted, status }) => !deleted && status === "blocked");
    if (blocked !== undefined)
      await client.entities.updateEntity({ lookup: byId(blocked), entity: { status: EntityStatus.ACTIVE } });
    const now = await look();
    expect(now.rows.some(({ id }) => id === person.id)).toBe(true);
    for (const { position, rows } of [before, now]) {
      expect(shown(await exported({ position, showDeleted: true }))).toEqual(picked(rows));
      expect(shown(await exported({ position, statuses: [EntityStatus.BLOCKED], showDeleted: true }))).toEqual(
        picked(rows.filter(({ status }) => status === "blocked")),
      );
    }
  });
});
