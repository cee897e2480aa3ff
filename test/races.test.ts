// Rules 5, 17, 18, 35, 36, 39, 50, 52 and 55 under 64 callers at once, over eight connections.
import { randomUUID } from "node:crypto";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  createEntityClient,
  Designation,
  type EntityClient,
  EntityStatus,
  EntityType,
  ImportOutcome,
  RecordOutcome,
} from "../clients/typescript/index.ts";
import { reseal } from "./chains.ts";
import { byExternalId, byId, current, eventsOf, lastEventOf, newPerson, tally, together, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

const CALLERS = 64;
const AT = { seconds: 1_760_000_000n, nanos: 0 };

let service: TestService;
let clients: EntityClient[];
beforeAll(async () => {
  // Room and time for all callers: the test counts who wins, not who is too slow on a busy machine.
  service = await startService({
    config: { poolSize: 80, lockTimeoutMs: 20_000, statementTimeoutMs: 20_000, defaultTimeoutMs: 60_000 },
  });
  clients = Array.from({ length: 8 }, () =>
    createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: service.organization.apiKey }),
  );
});
afterAll(() => service[Symbol.asyncDispose]());

const client = (i: number) => clients[i % clients.length] as EntityClient;
const change = (
  i: number,
  lookup: ReturnType<typeof byId> | ReturnType<typeof byExternalId>,
  newExternalId: string,
  keepPreviousAsAlias = false,
) => client(i).entities.changeExternalId({ lookup, newExternalId, reason: "migration", keepPreviousAsAlias });
const pay = (from: object, to: object, externalId = "") => ({
  externalId,
  type: "payment",
  amount: "1.00",
  currency: "BRL",
  origin: from,
  destination: to,
  transactedAt: AT,
});
/** Imports persons; what became of each. */
async function importAll(at: EntityClient, persons: readonly { externalId: string; name: string }[]) {
  async function* rows() {
    for (const person of persons) yield { entity: { type: EntityType.PERSON, countryCode: "BR", ...person } };
  }
  const outcomes: ImportOutcome[] = [];
  for await (const { results } of at.entities.importEntities(rows()))
    outcomes.push(...results.map((result) => result.outcome));
  return outcomes;
}
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const shuffled = <T>(items: readonly T[]) =>
  items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);

/** Holds the row of an entity, as another writer would, until it is released. */
async function hold(entity: { id: string }, at: TestService = service) {
  const holder = new pg.Client(at.database);
  await holder.connect();
  await holder.query("begin");
  await holder.query("select from entity where id = $1 for no key update", [entity.id]);
  let held = true;
  const giveBack = async () => {
    if (!held) return;
    held = false;
    await holder.query("rollback");
    await holder.end();
  };
  return {
    giveBack,
    /** Resolves when `count` sessions of the service wait for a lock. */
    async waiting(count: number) {
      for (const until = performance.now() + 15_000; performance.now() < until; ) {
        const rows = await at.sql(
          "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and application_name = 'entity-service'",
        );
        if (rows.length >= count) return;
        await sleep(10);
      }
      throw new Error(`never saw ${count} sessions wait for a lock`);
    },
    [Symbol.asyncDispose]: giveBack,
  };
}

describe("creation", () => {
  it("rule 17: of 64 creations racing for one external id one wins and 63 are DUPLICATE_EXTERNAL_ID", async () => {
    for (let round = 0; round < 2; round++) {
      const externalId = unique("x");
      const endings = await together(CALLERS, (i) => newPerson(client(i), { externalId, name: `Caller ${i}` }));
      expect(tally(endings)).toEqual({ OK: 1, DUPLICATE_EXTERNAL_ID: 63 });
      const winner = endings.find((ending) => ending.answer !== undefined)?.answer;
      const { entities } = await service.client.entities.listEntities({ externalIds: [externalId], showDeleted: true });
      expect(entities).toEqual([winner]);
      expect(await eventsOf(service.client, winner ?? { id: "" })).toHaveLength(1);
    }
  });

  it("rule 17: of 64 upserts of one external id one creates, 63 update, and the keys of all are there", async () => {
    for (let round = 0; round < 2; round++) {
      const externalId = unique("x");
      const endings = await together(CALLERS, (i) =>
        client(i).entities.updateEntity({
          lookup: byExternalId(externalId),
          entity: { type: EntityType.PERSON, name: "Ana", countryCode: "BR", attributes: { [`key${i}`]: i } },
          allowMissing: true,
        }),
      );
      expect(tally(endings)).toEqual({ OK: 64 });
      expect(endings.filter((ending) => ending.answer?.created === true)).toHaveLength(1);
      const { entity } = await service.client.entities.getEntity({ lookup: byExternalId(externalId) });
      expect(entity?.attributes).toEqual(Object.fromEntries(Array.from({ length: CALLERS }, (_, i) => [`key${i}`, i])));
      const events = await eventsOf(service.client, entity ?? { id: "" });
      expect(events.map((event) => event.entityVersion)).toEqual(
        Array.from({ length: CALLERS }, (_, i) => BigInt(i + 1)),
      );
    }
  });

  it("rule 17: eight imports of the same new rows, in other orders, create each once", async () => {
    const ids = Array.from({ length: 40 }, () => unique("row"));
    const endings = await together(8, (i) =>
      importAll(
        client(i),
        shuffled(ids).map((externalId) => ({ externalId, name: "Ana" })),
      ),
    );
    const outcomes = endings.flatMap((ending) => ending.answer ?? []);
    expect(outcomes).toHaveLength(8 * 40);
    expect(outcomes.filter((outcome) => outcome === ImportOutcome.CREATED)).toHaveLength(40);
    expect(outcomes.filter((outcome) => outcome === ImportOutcome.FAILED)).toHaveLength(0);
    expect((await service.client.entities.listEntities({ externalIds: ids, pageSize: 1000 })).entities).toHaveLength(
      40,
    );
  });

  it("rule 18: of 64 creations that want one tax id for themselves one wins, however it is written", async () => {
    for (let round = 0; round < 2; round++) {
      const digits = randomUUID().replaceAll("-", "");
      const endings = await together(CALLERS, (i) =>
        client(i).entities.createEntity({
          entity: {
            type: EntityType.PERSON,
            name: "Ana",
            countryCode: "BR",
            taxId:
              i % 2 === 0
                ? digits
                : (digits
                    .match(/.{1,4}/g)
                    ?.join("-")
                    .toUpperCase() ?? ""),
          },
          requireUniqueTaxId: true,
        }),
      );
      expect(tally(endings)).toEqual({ OK: 1, DUPLICATE_TAX_ID: 63 });
    }
  });

  it("rule 18: 64 creations that want different tax ids, and share none, all win", async () => {
    const endings = await together(CALLERS, (i) =>
      client(i).entities.createEntity({
        entity: { type: EntityType.PERSON, name: "Ana", countryCode: "BR", taxId: unique("tax") },
        requireUniqueTaxId: true,
      }),
    );
    expect(tally(endings)).toEqual({ OK: 64 });
  });
});

describe("updates", () => {
  it("rule 36: 64 updates of other attributes of one entity all survive, as versions 1 to 65", async () => {
    for (let round = 0; round < 2; round++) {
      const person = await newPerson(service.client, { externalId: unique("x"), taxId: unique("t") });
      const lookups = [
        byId(person),
        byExternalId(person.externalId),
        { by: { case: "taxId" as const, value: person.taxId ?? "" } },
      ];
      const endings = await together(CALLERS, (i) =>
        client(i).entities.updateEntity({
          lookup: lookups[i % 3] as (typeof lookups)[0],
          entity: { attributes: { [`key${i}`]: i } },
        }),
      );
      expect(tally(endings)).toEqual({ OK: 64 });
      const after = await current(service.client, person);
      expect(after.attributes).toEqual(Object.fromEntries(Array.from({ length: CALLERS }, (_, i) => [`key${i}`, i])));
      const events = await eventsOf(service.client, person);
      expect(events.map((event) => event.entityVersion)).toEqual(
        Array.from({ length: CALLERS + 1 }, (_, i) => BigInt(i + 1)),
      );
      // The previous_entity of each answer is the entity of the answer before.
      const etags = endings.map((ending) => ending.answer?.entity?.etag);
      expect(new Set(etags).size).toBe(CALLERS);
      for (const { answer } of endings) {
        expect(Object.keys(answer?.entity?.attributes ?? {})).toHaveLength(
          Object.keys(answer?.previousEntity?.attributes ?? {}).length + 1,
        );
        expect([person.etag, ...etags]).toContain(answer?.previousEntity?.etag);
      }
    }
  });

  it("rule 36: an update of another entity does not wait for one that is held", async () => {
    const [held, free] = [await newPerson(service.client), await newPerson(service.client)];
    await using holder = await hold(held);
    const waiting = service.client.entities.updateEntity({ lookup: byId(held), entity: { name: "Held" } });
    await holder.waiting(1);
    const begun = performance.now();
    const endings = await together(CALLERS, (i) =>
      client(i).entities.updateEntity({ lookup: byId(free), entity: { attributes: { [`k${i}`]: i } } }),
    );
    expect(tally(endings)).toEqual({ OK: 64 });
    expect(performance.now() - begun).toBeLessThan(10_000);
    await holder.giveBack();
    expect((await waiting).entity?.name).toBe("Held");
  });

  it("rule 36: an update that found its entity locked does not wait for another entity that is held for longer", async () => {
    const [held, free] = [await newPerson(service.client), await newPerson(service.client)];
    const rename = (entity: { id: string }, name: string) =>
      service.client.entities.updateEntity({ lookup: byId(entity), entity: { name } });
    await using longer = await hold(held);
    const first = rename(held, "Held");
    await longer.waiting(1);
    await using shorter = await hold(free);
    const second = Array.from({ length: 3 }, () => rename(free, "Free"));
    // Long enough for each to have found it locked, and to have tried again.
    await sleep(300);
    expect((await current(service.client, free)).name).toBe("Ana Souza");
    await shorter.giveBack();
    for (const { entity } of await Promise.all(second)) expect(entity?.name).toBe("Free");
    expect((await current(service.client, held)).name).toBe("Ana Souza");
    await longer.giveBack();
    expect((await first).entity?.name).toBe("Held");
  });

  it("rule 36: an update that waits for its entity locks no other one meanwhile", async () => {
    const entities = [
      await newPerson(service.client),
      await newPerson(service.client),
      await newPerson(service.client),
    ];
    await using held = new AsyncDisposableStack();
    const holders: Awaited<ReturnType<typeof hold>>[] = [];
    for (const entity of entities) holders.push(held.use(await hold(entity)));
    // At once, so that they are one group.
    const renamed = entities.map((entity, i) =>
      service.client.entities.updateEntity({ lookup: byId(entity), entity: { name: `Eva ${i}` } }),
    );
    await holders[0]?.waiting(1);
    // All of them have found theirs locked, and have waited together for a moment.
    await sleep(300);
    // In the reverse order of ids: whoever waits for the first of them, and has locked the others, would hold them.
    for (const i of [2, 1, 0]) {
      await holders[i]?.giveBack();
      expect((await renamed[i])?.entity?.name).toBe(`Eva ${i}`);
      for (const [j, other] of entities.entries()) {
        const { name } = await current(service.client, other);
        expect(name).toBe(j < i ? "Ana Souza" : `Eva ${j}`);
      }
    }
  });

  it("rule 36: an update that has waited gets its entity, however many come for others that are held", async () => {
    const [a, b, c] = [
      await newPerson(service.client),
      await newPerson(service.client),
      await newPerson(service.client),
    ];
    await using holdsA = await hold(a);
    await using holdsB = await hold(b);
    await using holdsC = await hold(c);
    const rename = (entity: { id: string }, i: number) =>
      client(i).entities.updateEntity({ lookup: byId(entity), entity: { attributes: { [`k${i}`]: i } } });
    const late = rename(c, 0);
    const poured: Promise<unknown>[] = [];
    let rounds = 0;
    // Always some that have just come; fewer than may be in flight.
    const pouring = (async () => {
      for (; rounds < 50; rounds++) {
        poured.push(rename(a, rounds), rename(b, rounds));
        await sleep(40);
      }
    })();
    while (rounds < 10) await sleep(10);
    await holdsC.giveBack();
    await late;
    expect(rounds).toBeLessThan(50);
    await pouring;
    for (const holder of [holdsA, holdsB]) await holder.giveBack();
    await Promise.all(poured);
  });

  it("rule 36: an import that waits for an entity locks no other one meanwhile, and keeps the order of its rows", async () => {
    const [free, held] = [unique("free"), unique("held")];
    const first = await newPerson(service.client, { externalId: free });
    const second = await newPerson(service.client, { externalId: held });
    const last = unique("last");
    await using holder = await hold(second);
    const imported = importAll(service.client, [
      { externalId: free, name: "Imported" },
      { externalId: held, name: "Imported" },
      { externalId: free, name: "Twice" },
      { externalId: last, name: "New" },
    ]);
    await holder.waiting(1);
    await service.client.entities.updateEntity({ lookup: byId(first), entity: { attributes: { k: "v" } } });
    expect(await current(service.client, first)).toMatchObject({ name: "Imported", attributes: { k: "v" } });
    expect((await refusal(service.client.entities.getEntity({ lookup: byExternalId(last) }))).reason).toBe("NOT_FOUND");
    await holder.giveBack();
    const { CREATED, UPDATED } = ImportOutcome;
    expect(await imported).toEqual([UPDATED, UPDATED, UPDATED, CREATED]);
    expect(await current(service.client, first)).toMatchObject({ name: "Twice", attributes: { k: "v" } });
  });

  it("rule 36: a reader does not wait for a writer", async () => {
    const person = await newPerson(service.client, { externalId: unique("x") });
    await using _holder = await hold(person);
    const begun = performance.now();
    expect(await current(service.client, person)).toEqual(person);
    expect(
      (await service.client.activity.listTransactions({ lookup: byExternalId(person.externalId) })).transactions,
    ).toEqual([]);
    expect(performance.now() - begun).toBeLessThan(10_000);
  });

  it("rule 35: of 64 updates with one etag one is done and 63 are ETAG_MISMATCH", async () => {
    const person = await newPerson(service.client);
    const endings = await together(CALLERS, (i) =>
      client(i).entities.updateEntity({
        lookup: byId(person),
        entity: { attributes: { [`k${i}`]: i } },
        etag: person.etag,
      }),
    );
    expect(tally(endings)).toEqual({ OK: 1, ETAG_MISMATCH: 63 });
  });

  it("rule 33: 64 updates to the same values are one change and one event", async () => {
    const person = await newPerson(service.client);
    const endings = await together(CALLERS, (i) =>
      client(i).entities.updateEntity({
        lookup: byId(person),
        entity: { status: EntityStatus.BLOCKED, name: "Same" },
        reason: "listed",
      }),
    );
    expect(endings.filter((ending) => (ending.answer?.updatedFields.length ?? 0) > 0)).toHaveLength(1);
    expect(await eventsOf(service.client, person)).toHaveLength(2);
  });

  it("rule 77: 64 deletions are one; an update is before it or ENTITY_DELETED", async () => {
    const person = await newPerson(service.client);
    const endings = await together(CALLERS, async (i) =>
      i % 2 === 0
        ? client(i).entities.deleteEntity({ lookup: byId(person), reason: "customer left" })
        : client(i).entities.updateEntity({ lookup: byId(person), entity: { attributes: { [`k${i}`]: i } } }),
    );
    const counts = tally(endings);
    expect(Object.keys(counts).filter((reason) => !["OK", "ENTITY_DELETED"].includes(reason))).toEqual([]);
    expect(
      endings.filter((ending) => ending.answer !== undefined && "changed" in ending.answer && ending.answer.changed),
    ).toHaveLength(1);
    const events = await eventsOf(service.client, person);
    expect(events.at(-1)?.event).toBe("entity.deleted");
    expect(events).toHaveLength(2 + (counts.OK ?? 0) - 32);
  });
});

describe("external ids", () => {
  it("rule 52: of two entities changing to one id at once, one wins", async () => {
    for (let round = 0; round < 10; round++) {
      const people = [
        await newPerson(service.client, { externalId: unique("a") }),
        await newPerson(service.client, { externalId: unique("b") }),
      ];
      const wanted = unique("w");
      const endings = await together(2, (i) => change(i, byId(people[i] ?? { id: "" }), wanted));
      expect(tally(endings)).toEqual({ OK: 1, DUPLICATE_EXTERNAL_ID: 1 });
      const loser = people[endings.findIndex((ending) => ending.answer === undefined)];
      expect(await current(service.client, loser ?? { id: "" })).toEqual(loser);
    }
  });

  it("rule 52: of 64 entities changing to one id at once, one wins and 63 are as they were", async () => {
    const people = await Promise.all(
      Array.from({ length: CALLERS }, (_, i) => newPerson(client(i), { externalId: unique("p") })),
    );
    const wanted = unique("w");
    const endings = await together(CALLERS, (i) => change(i, byExternalId(people[i]?.externalId ?? ""), wanted));
    expect(tally(endings)).toEqual({ OK: 1, DUPLICATE_EXTERNAL_ID: 63 });
    for (const [i, ending] of endings.entries()) {
      if (ending.answer === undefined)
        expect(await current(service.client, people[i] ?? { id: "" })).toEqual(people[i]);
    }
    const { entity } = await service.client.entities.getEntity({ lookup: byExternalId(wanted) });
    expect(entity).toEqual(endings.find((ending) => ending.answer !== undefined)?.answer?.entity);
  });

  it("rule 52: 64 changes of one entity serialise: each frees what the one before it set", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const wanted = Array.from({ length: CALLERS }, (_, i) => unique(`w${i}`));
    const endings = await together(CALLERS, (i) => change(i, byId(person), wanted[i] ?? ""));
    expect(tally(endings)).toEqual({ OK: 64 });
    const events = await eventsOf(service.client, person);
    expect(events).toHaveLength(65);
    for (const [i, event] of events.entries()) {
      if (i > 0) expect(event.previousValues?.externalId).toBe(events[i - 1]?.externalId);
    }
    const after = await current(service.client, person);
    expect(after.externalIds.map((id) => id.externalId)).toEqual([events.at(-1)?.externalId]);
    const { results } = await service.client.entities.batchGetEntities({ lookups: wanted.map(byExternalId) });
    expect(results.filter(({ result }) => result.case === "entity")).toHaveLength(1);
  });

  it("rules 5, 52: of 64 changes by the id that the first one frees, one is done and 63 find nobody", async () => {
    for (let round = 0; round < 2; round++) {
      const person = await newPerson(service.client, { externalId: unique("p") });
      const endings = await together(CALLERS, (i) => change(i, byExternalId(person.externalId), unique(`w${i}`)));
      expect(tally(endings)).toEqual({ OK: 1, NOT_FOUND: 63 });
      expect(await eventsOf(service.client, person)).toHaveLength(2);
    }
  });

  it("rule 48: the same with keep_previous_as_alias: all 64 are done, by the id that lost its rank", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const endings = await together(CALLERS, (i) => change(i, byExternalId(person.externalId), unique(`w${i}`), true));
    expect(tally(endings)).toEqual({ OK: 64 });
    expect((await current(service.client, person)).externalIds).toHaveLength(65);
  });

  it("rule 5: a write that waited while its id was freed finds nobody, and touches not the entity that had it", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await using holder = await hold(person);
    const changed = change(0, byId(person), unique("q"));
    await holder.waiting(1);
    const late = Promise.all([
      refusal(
        client(1).entities.updateEntity({ lookup: byExternalId(person.externalId), entity: { name: "Wrong person" } }),
      ),
      refusal(client(2).entities.deleteEntity({ lookup: byExternalId(person.externalId), reason: "wrong person" })),
      refusal(
        client(3).activity.recordTransactions({
          transactions: [pay({ externalId: person.externalId }, { name: "B" })],
        }),
      ),
    ]);
    // Writes of one process may wait as one group: at least the recorder has a separate session.
    await holder.waiting(2);
    await sleep(300);
    await holder.giveBack();
    expect((await changed).changed).toBe(true);
    expect((await late).map((refused) => refused.reason)).toEqual(["NOT_FOUND", "NOT_FOUND", "NOT_FOUND"]);
    const after = await current(service.client, person);
    expect(after).toMatchObject({ name: person.name });
    expect(after.deletedAt).toBeUndefined();
  });

  it("rule 5: a write that waited while its id moved to another entity lands on that one", async () => {
    const [one, two] = [
      await newPerson(service.client, { externalId: unique("a") }),
      await newPerson(service.client, { externalId: unique("b") }),
    ];
    // As a merge or another process would move it: the id moves in one transaction, and back afterwards.
    const move = async (db: pg.Client, from: { id: string }, to: { id: string }) => {
      await db.query("update external_id set is_primary = false, entity_id = $2 where external_id = $1", [
        one.externalId,
        to.id,
      ]);
      await db.query("update entity set external_id = null where id = $1", [from.id]);
      await db.query("update entity set external_id = $2 where id = $1", [
        one.id,
        from.id === one.id ? null : one.externalId,
      ]);
      if (to.id === one.id)
        await db.query("update external_id set is_primary = true where external_id = $1", [one.externalId]);
    };
    const db = new pg.Client(service.database);
    await db.connect();
    try {
      await db.query("begin");
      await db.query("select from entity where id = any($1::uuid[]) order by id for no key update", [[one.id, two.id]]);
      await move(db, one, two);
      const late = service.client.entities.updateEntity({
        lookup: byExternalId(one.externalId),
        entity: { name: "The right one" },
      });
      const recorded = service.client.activity.recordUserEvents({
        userEvents: [{ entityExternalId: one.externalId, eventType: "login", occurredAt: AT }],
      });
      await sleep(300);
      await db.query("commit");
      expect((await late).entity).toMatchObject({ id: two.id, name: "The right one", externalId: two.externalId });
      expect((await recorded).userEvents[0]).toMatchObject({ entityId: two.id, entityExternalId: two.externalId });
      expect((await current(service.client, one)).name).toBe(one.name);
    } finally {
      // Moves the id back, as the events of both entities say.
      await db.query("begin");
      await db.query("update external_id set entity_id = $2, is_primary = true where external_id = $1", [
        one.externalId,
        one.id,
      ]);
      await db.query("update entity set external_id = $2 where id = $1", [one.id, one.externalId]);
      await db.query(
        `update entity_event v set external_ids = array[v.external_id], new_values = new_values - 'externalIds', previous_values = previous_values - 'externalIds',
           updated_fields = array_remove(updated_fields, 'externalIds') where entity_id = $1 and entity_version > 1`,
        [two.id],
      );
      await db.query("commit");
      await db.end();
      await reseal(service.sql, [one.id, two.id]);
    }
  });

  it("rules 5, 48: while an id wanders from entity to entity, a write by it lands on one that has it then", async () => {
    const wandering = unique("wandering");
    const people = await Promise.all(
      Array.from({ length: 4 }, (_, i) =>
        newPerson(client(i), i === 0 ? { externalId: wandering } : { externalId: unique("p") }),
      ),
    );
    let going = true;
    const wander = (async () => {
      try {
        for (let i = 0; i < 20; i++) {
          await change(i, byExternalId(wandering), unique("free"));
          await change(i, byId(people[(i + 1) % 4] ?? { id: "" }), wandering);
        }
      } finally {
        going = false;
      }
    })();
    const wrong: string[] = [];
    const counts: Record<string, number> = {};
    const writers = Array.from({ length: 8 }, async (_, i) => {
      while (going) {
        const [ending] = await together(1, () =>
          client(i).entities.updateEntity({
            lookup: byExternalId(wandering),
            entity: { attributes: { n: Math.random() } },
          }),
        );
        counts[ending?.reason ?? "OK"] = (counts[ending?.reason ?? "OK"] ?? 0) + 1;
        const answer = ending?.answer;
        if (answer !== undefined && answer.entity?.externalId !== wandering)
          wrong.push(answer.entity?.externalId ?? "");
      }
    });
    await Promise.all([wander, ...writers]);
    expect(wrong).toEqual([]);
    expect(Object.keys(counts).filter((reason) => !["OK", "NOT_FOUND"].includes(reason))).toEqual([]);
    expect(counts.OK).toBeGreaterThan(10);
  });

  it("rule 52: two entities that want each other's id are both refused, and nothing hangs", async () => {
    for (let round = 0; round < 10; round++) {
      const people = [
        await newPerson(service.client, { externalId: unique("a") }),
        await newPerson(service.client, { externalId: unique("b") }),
      ];
      const endings = await together(2, (i) =>
        change(i, byId(people[i] ?? { id: "" }), people[1 - i]?.externalId ?? ""),
      );
      expect(tally(endings)).toEqual({ DUPLICATE_EXTERNAL_ID: 2 });
    }
  });

  it("rule 52: in a ring of 20 where each wants the next one's id and one frees its own, ids stay unique and no call is INTERNAL", async () => {
    const ring = await Promise.all(
      Array.from({ length: 20 }, (_, i) => newPerson(client(i), { externalId: unique(`r${i}`) })),
    );
    const endings = await together(20, async (i) => {
      const wanted = i === 0 ? unique("fresh") : (ring[i - 1]?.externalId ?? "");
      // Refused until the id before it has moved: tries again, as a caller would.
      for (let attempt = 0; ; attempt++) {
        const [ending] = await together(1, () => change(i, byId(ring[i] ?? { id: "" }), wanted));
        if (ending?.answer !== undefined || ending?.reason !== "DUPLICATE_EXTERNAL_ID" || attempt === 200)
          return ending?.reason ?? "OK";
        await sleep(5 + Math.random() * 20);
      }
    });
    expect(endings.map((ending) => ending.answer)).toEqual(Array.from({ length: 20 }, () => "OK"));
    const after = await Promise.all(ring.map((entity) => current(service.client, entity)));
    for (const [i, entity] of after.entries()) if (i > 0) expect(entity.externalId).toBe(ring[i - 1]?.externalId);
  });

  it("rule 54: of 64 different first ids for one entity one is assigned", async () => {
    const person = await newPerson(service.client);
    const endings = await together(CALLERS, (i) =>
      client(i).entities.assignExternalId({ lookup: byId(person), externalId: unique("first") }),
    );
    expect(tally(endings)).toEqual({ OK: 1, EXTERNAL_ID_ALREADY_ASSIGNED: 63 });
  });

  it("rule 54: 64 times the same first id is one change", async () => {
    const person = await newPerson(service.client);
    const externalId = unique("first");
    const endings = await together(CALLERS, (i) =>
      client(i).entities.assignExternalId({ lookup: byId(person), externalId }),
    );
    expect(tally(endings)).toEqual({ OK: 64 });
    expect(endings.filter((ending) => ending.answer?.changed === true)).toHaveLength(1);
    expect(await eventsOf(service.client, person)).toHaveLength(2);
  });

  it("rule 55: 64 entities adding the same ten ids, each in an order of its own: one has all of them, 63 none", async () => {
    for (let round = 0; round < 2; round++) {
      const people = await Promise.all(
        Array.from({ length: CALLERS }, (_, i) => newPerson(client(i), { externalId: unique("p") })),
      );
      const wanted = Array.from({ length: 10 }, () => unique("w"));
      const endings = await together(CALLERS, (i) =>
        client(i).entities.addExternalIds({
          lookup: byId(people[i] ?? { id: "" }),
          externalIds: shuffled(wanted).map((externalId) => ({ externalId })),
        }),
      );
      expect(tally(endings)).toEqual({ OK: 1, DUPLICATE_EXTERNAL_ID: 63 });
      const { results } = await service.client.entities.batchGetEntities({ lookups: wanted.map(byExternalId) });
      const owners = results.map(({ result }) => (result.case === "entity" ? result.value.id : "nobody"));
      expect(new Set(owners).size).toBe(1);
    }
  });

  it("rule 55: overlapping lists in opposite orders end without a deadlock, each id with one owner", async () => {
    const pool = Array.from({ length: 12 }, (_, i) => unique(`w${i}`));
    const people = await Promise.all(Array.from({ length: CALLERS }, (_, i) => newPerson(client(i))));
    const begun = performance.now();
    const endings = await together(CALLERS, (i) => {
      const part = [...pool, ...pool].slice(i % 12, (i % 12) + 5);
      return client(i).entities.addExternalIds({
        lookup: byId(people[i] ?? { id: "" }),
        externalIds: (i % 2 === 0 ? part : part.toReversed()).map((externalId) => ({ externalId })),
      });
    });
    expect(Object.keys(tally(endings)).filter((reason) => !["OK", "DUPLICATE_EXTERNAL_ID"].includes(reason))).toEqual(
      [],
    );
    expect(performance.now() - begun).toBeLessThan(15_000);
  });

  it("limit: 64 callers adding one id each to an entity of 90 fill it to 100 and no further", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await service.client.entities.addExternalIds({
      lookup: byId(person),
      externalIds: Array.from({ length: 89 }, () => ({ externalId: unique("n") })),
    });
    const endings = await together(CALLERS, (i) =>
      client(i).entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId: unique("n") }] }),
    );
    expect(tally(endings)).toEqual({ OK: 10, VALIDATION_ERROR: 54 });
    expect((await current(service.client, person)).externalIds).toHaveLength(100);
  });

  it("rule 56: 64 callers making another id the primary leave one primary and every id attached", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const endings = await together(CALLERS, (i) =>
      client(i).entities.addExternalIds({
        lookup: byExternalId(person.externalId),
        externalIds: [{ externalId: unique(`w${i}`), designation: Designation.PRIMARY }],
      }),
    );
    expect(tally(endings)).toEqual({ OK: 64 });
    const after = await current(service.client, person);
    expect(after.externalIds).toHaveLength(65);
    expect(after.externalIds.filter((id) => id.designation === Designation.PRIMARY).map((id) => id.externalId)).toEqual(
      [after.externalId],
    );
    expect((await lastEventOf(service.client, person)).externalId).toBe(after.externalId);
  });
});

describe("activity against changes of external ids", () => {
  /** Every copy of an entity's external id in the database. */
  const copies = async (entity: { id: string }) =>
    service.sql<{ id: string }>(
      `select origin_external_id as id from transaction where origin_entity_id = $1
       union all select destination_external_id from transaction where destination_entity_id = $1
       union all select entity_external_id from user_event where entity_id = $1`,
      [entity.id],
    );

  it("rule 50: 64 recorders against 64 changers of one entity leave no stale copy, and all succeed", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const [recorded, eventful, changed] = await Promise.all([
      together(CALLERS, (i) =>
        client(i).activity.recordTransactions({
          transactions: [pay({ entityId: person.id }, { name: "B" }), pay({ name: "A" }, { entityId: person.id })],
        }),
      ),
      together(CALLERS, (i) =>
        client(i).activity.recordUserEvents({
          userEvents: [{ entityId: person.id, eventType: "login", occurredAt: AT }],
        }),
      ),
      together(CALLERS, (i) => change(i, byId(person), unique(`w${i}`))),
    ]);
    expect([tally(recorded), tally(eventful), tally(changed)]).toEqual([{ OK: 64 }, { OK: 64 }, { OK: 64 }]);
    const after = await current(service.client, person);
    const rows = await copies(person);
    expect(rows).toHaveLength(3 * CALLERS);
    expect(rows.filter((row) => row.id !== after.externalId)).toEqual([]);
  });

  it("rule 50: the same over eight entities on both sides of each transaction, by ids that come and go", async () => {
    const people = await Promise.all(
      Array.from({ length: 8 }, (_, i) => newPerson(client(i), { externalId: unique("p") })),
    );
    const at = (i: number) => people[i % 8] ?? { id: "" };
    const [recorded, changed] = await Promise.all([
      together(CALLERS, (i) =>
        client(i).activity.recordTransactions({
          transactions: [
            pay({ entityId: at(i).id }, { entityId: at(i + 3).id }),
            pay({ entityId: at(i + 5).id }, { entityId: at(i).id }),
            pay({ entityId: at(i).id }, { entityId: at(i).id }),
          ],
        }),
      ),
      together(CALLERS, (i) => change(i, byId(at(i)), unique(`w${i}`), i % 2 === 0)),
    ]);
    expect([tally(recorded), tally(changed)]).toEqual([{ OK: 64 }, { OK: 64 }]);
    for (const person of people) {
      const after = await current(service.client, person);
      expect((await copies(person)).filter((row) => row.id !== after.externalId)).toEqual([]);
    }
  });

  it("rule 50: recorders by the id that is being freed record for nobody else than its owner", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const [recorded, changed] = await Promise.all([
      together(CALLERS, (i) =>
        client(i).activity.recordUserEvents({
          userEvents: [{ entityExternalId: person.externalId, eventType: "login", occurredAt: AT }],
        }),
      ),
      together(1, (i) => change(i, byId(person), unique("q"))),
    ]);
    expect(tally(changed)).toEqual({ OK: 1 });
    expect(Object.keys(tally(recorded)).filter((reason) => !["OK", "NOT_FOUND"].includes(reason))).toEqual([]);
    const after = await current(service.client, person);
    const rows = await copies(person);
    expect(rows).toHaveLength(recorded.filter((ending) => ending.answer !== undefined).length);
    expect(rows.filter((row) => row.id !== after.externalId)).toEqual([]);
  });

  it("rule 50: a recorder that waits for a change copies the new id; a change that waits for a recorder rewrites its row", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    await using holder = await hold(person);
    const next = unique("q");
    const changed = change(0, byId(person), next);
    await holder.waiting(1);
    const recorded = client(1).activity.recordTransactions({
      transactions: [pay({ entityId: person.id }, { name: "B" })],
    });
    await holder.waiting(2);
    await holder.giveBack();
    await changed;
    expect((await recorded).results[0]?.transaction?.origin?.externalId).toBe(next);
    expect(await copies(person)).toEqual([{ id: next }]);
  });

  it("rule 50: no reader sees the entity and its rows disagree while the id changes", async () => {
    // The row recorded before there was an external id has no copy: a read shows the entity's own there.
    const person = await newPerson(service.client);
    await service.client.activity.recordTransactions({ transactions: [pay({ entityId: person.id }, { name: "B" })] });
    await service.client.activity.recordUserEvents({
      userEvents: [{ entityId: person.id, eventType: "login", occurredAt: AT }],
    });
    await change(0, byId(person), unique("p"));
    await service.client.activity.recordTransactions({
      transactions: Array.from({ length: 20 }, (_, i) =>
        i % 2 ? pay({ entityId: person.id }, { name: "B" }) : pay({ name: "A" }, { entityId: person.id }),
      ),
    });
    let going = true;
    const torn: string[][] = [];
    let reads = 0;
    const readers = Array.from({ length: 16 }, async (_, i) => {
      while (going) {
        const { transactions } = await client(i).activity.listTransactions({ lookup: byId(person), pageSize: 1000 });
        const shown = new Set(
          transactions.flatMap((row) =>
            [row.origin, row.destination].flatMap((side) => (side?.entityId === person.id ? [side.externalId] : [])),
          ),
        );
        if (shown.size !== 1) torn.push([...shown]);
        reads++;
      }
    });
    const endings = await together(CALLERS, (i) => change(i, byId(person), unique(`w${i}`)));
    await together(16, (i) =>
      client(i).activity.recordTransactions({ transactions: [pay({ entityId: person.id }, { name: "B" })] }),
    );
    going = false;
    await Promise.all(readers);
    expect(tally(endings)).toEqual({ OK: 64 });
    expect(reads).toBeGreaterThan(16);
    expect(torn).toEqual([]);
  });

  it("rule 50: crossing parties, lists in opposite orders and changes of both sides end without a deadlock", async () => {
    const people = await Promise.all(
      Array.from({ length: 6 }, (_, i) => newPerson(client(i), { externalId: unique("p") })),
    );
    const at = (i: number) => ({ entityId: people[((i % 6) + 6) % 6]?.id ?? "" });
    await service.client.activity.recordTransactions({
      transactions: Array.from({ length: 60 }, (_, i) => pay(at(i), at(i + 1 + (i % 5)))),
    });
    const [recorded, changed] = await Promise.all([
      together(CALLERS, (i) => {
        const transactions = Array.from({ length: 6 }, (_, k) =>
          i % 2 === 0 ? pay(at(k), at(k + 1)) : pay(at(-k), at(-k - 1)),
        );
        return client(i).activity.recordTransactions({ transactions });
      }),
      together(24, (i) => change(i, byId(people[i % 6] ?? { id: "" }), unique(`w${i}`))),
    ]);
    expect(
      Object.keys({ ...tally(recorded), ...tally(changed) }).filter(
        (reason) => !["OK", "WRITE_CONFLICT"].includes(reason),
      ),
    ).toEqual([]);
    expect(tally(recorded)).toEqual({ OK: 64 });
    for (const person of people) {
      const after = await current(service.client, person);
      expect((await copies(person)).filter((row) => row.id !== after.externalId)).toEqual([]);
    }
  });

  it("rule 72a: 64 callers recording the same transactions, each in an order of its own, store each once", async () => {
    const person = await newPerson(service.client, { externalId: unique("p") });
    const items = Array.from({ length: 8 }, (_, i) => pay({ entityId: person.id }, { name: "B" }, unique(`t${i}`)));
    const endings = await together(CALLERS, (i) =>
      client(i).activity.recordTransactions({ transactions: shuffled(items) }),
    );
    expect(tally(endings)).toEqual({ OK: 64 });
    const outcomes = endings.flatMap((ending) => ending.answer?.results.map((result) => result.outcome) ?? []);
    expect(outcomes.filter((outcome) => outcome === RecordOutcome.CREATED)).toHaveLength(8);
    expect(outcomes.filter((outcome) => outcome === RecordOutcome.UNCHANGED)).toHaveLength(8 * 63);
    expect(
      new Set(endings.flatMap((ending) => ending.answer?.results.map((result) => result.transaction?.id) ?? [])).size,
    ).toBe(8);
    expect(await copies(person)).toHaveLength(8);
  });
});

describe("requests in flight", () => {
  it("rule 39: the second of one id waits for the first and answers what it answered", async () => {
    const person = await newPerson(service.client);
    await using holder = await hold(person);
    const request = { lookup: byId(person), entity: { name: "Once" }, requestId: randomUUID() };
    const first = client(0).entities.updateEntity(request);
    await holder.waiting(1);
    const second = client(1).entities.updateEntity(request);
    await holder.waiting(2);
    await holder.giveBack();
    expect(await second).toEqual(await first);
    expect(await eventsOf(service.client, person)).toHaveLength(2);
  });

  it("rule 39: 32 sends of a request that is refused are refused all alike, and none is remembered", async () => {
    const requestId = randomUUID();
    const lookup = byExternalId(unique("nobody"));
    const endings = await together(32, (i) =>
      client(i).entities.updateEntity({ lookup, entity: { name: "B" }, requestId }),
    );
    expect(tally(endings)).toEqual({ NOT_FOUND: 32 });
    expect(await service.sql("select from request_record where request_id = $1", [requestId])).toEqual([]);
  });

  it("rule 39: 32 sends of a request with external ids that other callers want too have one effect", async () => {
    const externalId = unique("x");
    const entity = { type: EntityType.PERSON, name: "A", countryCode: "BR", externalId };
    const requestId = randomUUID();
    const endings = await together(CALLERS, (i) =>
      client(i).entities.createEntity(i % 2 === 0 ? { entity, requestId } : { entity }),
    );
    const same = endings.filter((_, i) => i % 2 === 0);
    const alone = tally(endings.filter((_, i) => i % 2 === 1));
    const won = tally(same).OK === 32;
    expect(won ? alone : tally(same)).toEqual({ DUPLICATE_EXTERNAL_ID: 32 });
    expect(won ? { OK: 32 } : { OK: 1, DUPLICATE_EXTERNAL_ID: 31 }).toEqual(won ? tally(same) : alone);
  });
});

describe("with the default limits", () => {
  let strict: TestService;
  /** Who waits for a lock waits until it is given back. */
  let patient: TestService;
  beforeAll(async () => {
    strict = await startService();
    patient = await startService({
      config: { lockTimeoutMs: 30_000, statementTimeoutMs: 30_000, defaultTimeoutMs: 60_000 },
    });
  });
  afterAll(async () => {
    await strict[Symbol.asyncDispose]();
    await patient[Symbol.asyncDispose]();
  });

  it("rule 36: an update that waits too long is WRITE_CONFLICT and has written nothing", async () => {
    const person = await newPerson(strict.client);
    await using _holder = await hold(person, strict);
    expect(
      await refusal(strict.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Late" } })),
    ).toMatchObject({
      code: 10,
      reason: "WRITE_CONFLICT",
    });
    expect(await current(strict.client, person)).toEqual(person);
  });

  it("rule 39: the second of one id waits no longer than the lock time, and works when it is sent again", async () => {
    const person = await newPerson(strict.client);
    await using holder = await hold(person, strict);
    const request = { lookup: byId(person), entity: { name: "Once" }, requestId: randomUUID() };
    const begun = performance.now();
    const refusals = await Promise.all([0, 1, 2].map(() => refusal(strict.client.entities.updateEntity(request))));
    expect(refusals.map((refused) => refused.reason)).toEqual(["WRITE_CONFLICT", "WRITE_CONFLICT", "WRITE_CONFLICT"]);
    expect(performance.now() - begun).toBeLessThan(9_000);
    await holder.giveBack();
    expect((await strict.client.entities.updateEntity(request)).entity?.name).toBe("Once");
  });

  const waiters = {
    updates: (held: { id: string }, i: number) =>
      patient.client.entities.updateEntity({ lookup: byId(held), entity: { attributes: { [`k${i}`]: i } } }),
    changes: (held: { id: string }, i: number) =>
      patient.client.entities.changeExternalId({
        lookup: byId(held),
        newExternalId: unique(`w${i}`),
        reason: "migration",
      }),
    recorders: (held: { id: string }) =>
      patient.client.activity.recordTransactions({ transactions: [pay({ entityId: held.id }, { name: "B" })] }),
  };
  for (const kind of Object.keys(waiters) as (keyof typeof waiters)[])
    it(`rule 36: however many ${kind} wait for one entity, another one is updated and read meanwhile`, async () => {
      const [held, free] = [
        await newPerson(patient.client, { externalId: unique("p") }),
        await newPerson(patient.client),
      ];
      await using holder = await hold(held, patient);
      let ended = 0;
      // In waves, so that they are not all in one group.
      const waiting = together<unknown>(16, async (i) => {
        await sleep((i % 4) * 80);
        return (waiters[kind](held, i) as Promise<unknown>).finally(() => (ended += 1));
      });
      await holder.waiting(1);
      await sleep(400);
      try {
        await patient.client.entities.updateEntity(
          { lookup: byId(free), entity: { name: "Free" } },
          { timeoutMs: 10_000 },
        );
        await current(patient.client, free);
        expect(ended, "the others wait all the while").toBe(0);
      } finally {
        await holder.giveBack();
        await waiting;
      }
    });
});

// Runs last, since the statistics of the database are delayed. A deadlock is retried, so no caller sees it, but it costs
// a second and, after four attempts, a WRITE_CONFLICT: locks are taken in one order everywhere.
it("none of these races deadlocked", async () => {
  await sleep(1_500);
  const [row] = await service.sql<{ deadlocks: string }>(
    "select deadlocks from pg_stat_database where datname = current_database()",
  );
  expect(row?.deadlocks).toBe("0");
});
