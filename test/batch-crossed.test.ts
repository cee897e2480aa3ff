// Rule 151 under many callers at once, on two processes: 64 batches over the same entities in random order, batches that
// create the same entities, and batches crossed with merges, unmerges and single updates. Nobody is told of a deadlock, and
// no update that was acknowledged is lost. The invariants of every suite hold at the end.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createEntityClient, type Entity, type EntityClient, EntityType } from "../clients/typescript/index.ts";
import { byExternalId, byId, current, eventsOf, newPerson, tally, together, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { randomOf } from "./hostile/random.ts";
import { type OtherServer, startOther } from "./wall-harness.ts";

const SEED = process.env.TEST_SEED ?? String(Date.now() % 2 ** 31);
const ENTITIES = 100;
const BATCHES = 64;
/** The test counts what is lost, not who is too slow on a busy machine. */
const TIMES = { lockTimeoutMs: 20_000, statementTimeoutMs: 20_000, defaultTimeoutMs: 60_000 };

let service: TestService;
let other: OtherServer;
let clients: EntityClient[];
beforeAll(async () => {
  process.stdout.write(`TEST_SEED=${SEED}\n`);
  service = await startService({ config: { poolSize: 20, ...TIMES } });
  other = await startOther(service, { config: { poolSize: 20, ...TIMES } });
  clients = Array.from({ length: 8 }, (_, i) =>
    createEntityClient({
      retries: false,
      baseUrl: i % 2 === 0 ? service.baseUrl : other.baseUrl,
      ...{ apiKey: service.organization.apiKey, defaultTimeoutMs: 60_000 },
    }),
  );
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

const client = (caller: number) => clients[caller % clients.length] as EntityClient;
const shuffled = <T>(items: readonly T[], name: string): T[] => {
  const random = randomOf(`${SEED} ${name}`);
  return items
    .map((item) => ({ item, at: random.next() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
};
const people = async (count: number): Promise<Entity[]> => {
  const made: Entity[] = [];
  for (let i = 0; i < count; i++)
    made.push(await newPerson(client(i), { externalId: unique("p"), taxId: unique("T") }));
  return made;
};
const deadlocks = async () => {
  const [row] = await service.sql<{ deadlocks: string }>(
    "select deadlocks from pg_stat_database where datname = current_database()",
  );
  return Number(row?.deadlocks);
};

it(`rule 151: ${BATCHES} batches at once over ${ENTITIES} entities in random order: no deadlock, and no update is lost`, async () => {
  const some = await people(ENTITIES);
  const before = await deadlocks();
  const endings = await together(BATCHES, async (caller) => {
    const requests = shuffled(some, `order ${caller}`).map((one, i) => ({
      lookup: i % 2 === 0 ? byId(one) : byExternalId(one.externalId),
      entity: { attributes: { [`of ${caller}`]: caller } },
    }));
    return client(caller).entities.batchUpdateEntities({ requests });
  });
  expect(tally(endings)).toEqual({ OK: BATCHES });
  const all = Object.fromEntries(Array.from({ length: BATCHES }, (_, i) => [`of ${i}`, i]));
  for (const one of some) {
    expect((await current(client(0), one)).attributes).toEqual(all);
    const versions = (await eventsOf(client(0), one)).map(({ entityVersion }) => entityVersion);
    expect(versions).toEqual(Array.from({ length: BATCHES + 1 }, (_, i) => BigInt(i + 1)));
  }
  expect(await deadlocks()).toBe(before);
}, 120_000);

it("rules 17, 151: batches that create the same entities, each in another order: each is created once", async () => {
  const ids = Array.from({ length: 50 }, () => unique("new"));
  const entity = (caller: number) => ({
    ...{ type: EntityType.PERSON, name: "Ana", countryCode: "BR" },
    attributes: { [`of ${caller}`]: caller },
  });
  const endings = await together(16, async (caller) =>
    client(caller).entities.batchUpdateEntities({
      requests: shuffled(ids, `creation ${caller}`).map((id) => ({
        ...{ lookup: byExternalId(id), entity: entity(caller), allowMissing: true },
      })),
    }),
  );
  // Who meets creations that are not committed yet tries again, a few times.
  const { OK = 0, WRITE_CONFLICT = 0 } = tally(endings);
  expect(OK + WRITE_CONFLICT).toBe(16);
  expect(OK).toBeGreaterThan(0);
  const done = endings.flatMap(({ answer }, caller) => (answer === undefined ? [] : [{ caller, answer }]));
  expect(done.filter(({ answer }) => answer.results.some(({ created }) => created))).toHaveLength(1);
  const all = Object.fromEntries(done.map(({ caller }) => [`of ${caller}`, caller]));
  const { entities } = await client(0).entities.listEntities({ externalIds: ids, pageSize: 1000 });
  expect(entities).toHaveLength(ids.length);
  for (const one of entities) expect(one.attributes).toEqual(all);
}, 120_000);

it("rules 83, 113, 151: batches crossed with merges and unmerges of their entities lose nothing", async () => {
  const some = await people(12);
  const WRITERS = 8;
  const ROUNDS = 10;
  const REASON = "the same person, seen by two systems";
  const before = await deadlocks();
  const reasons: Record<string, number> = {};
  const note = (reason: string) => {
    reasons[reason] = (reasons[reason] ?? 0) + 1;
  };
  /** For each attribute, which has one writer: the last value that was acknowledged. */
  const told = new Map<string, number>();
  const etags = new Set<string>();
  let isOver = false;
  const writers = Array.from({ length: WRITERS }, async (_, caller) => {
    for (let round = 0; round < ROUNDS; round++) {
      const entity = { attributes: { [`w${caller}`]: round } };
      const requests = shuffled(some, `crossed ${caller} ${round}`).map((one, i) => ({
        ...{ lookup: i % 2 === 0 ? byId(one) : byExternalId(one.externalId), entity },
      }));
      const [ending] = await together(1, () => client(caller).entities.batchUpdateEntities({ requests }));
      note(ending?.reason ?? "OK");
      if (ending?.answer === undefined) continue;
      told.set(`w${caller}`, round);
      for (const { etag } of ending.answer.results) etags.add(etag);
    }
  });
  const mergers = Array.from({ length: 4 }, async (_, caller) => {
    const random = randomOf(`${SEED} merger ${caller}`);
    while (!isOver) {
      await sleep(5);
      const [primary, secondary] = [random.pick(some), random.pick(some)];
      const sides = { primary: byId(primary), secondary: byId(secondary), reason: REASON };
      const [made] = await together(1, () => client(caller).entities.mergeEntities(sides));
      const mergeId = made?.answer?.mergeId;
      if (mergeId === undefined) continue;
      let undone = false;
      while (!undone) {
        await sleep(5);
        const [ending] = await together(1, () => client(caller).entities.unmergeEntities({ mergeId, reason: REASON }));
        // Down a chain the outer merge is to be undone first, by whoever made it.
        undone = ending?.reason === undefined;
      }
    }
  });
  await Promise.all(writers);
  isOver = true;
  await Promise.all(mergers);
  console.log(
    `TEST_SEED=${SEED}: batches beside merges: ${JSON.stringify(reasons)}, ${(await deadlocks()) - before} deadlocks`,
  );
  expect(Object.keys(reasons).filter((reason) => !["OK", "WRITE_CONFLICT"].includes(reason))).toEqual([]);
  expect(reasons.OK).toBeGreaterThan(0.9 * WRITERS * ROUNDS);
  expect(await deadlocks()).toBe(before);
  // An etag is the id of the event that made it.
  const events = await service.sql("select id from entity_event where id = any($1)", [[...etags]]);
  expect(events).toHaveLength(etags.size);
  // An update of a merged entity is its survivor's, and stays with it: each value is on at least one of them.
  const shown = await Promise.all(some.map((one) => current(client(0), one)));
  for (const [key, value] of told) {
    const values = shown.map(({ attributes }) => attributes?.[key]).filter((found) => found !== undefined);
    expect(values.length, key).toBeGreaterThan(0);
    expect(Math.max(...values.map(Number)), key).toBeGreaterThanOrEqual(value);
  }
}, 120_000);
