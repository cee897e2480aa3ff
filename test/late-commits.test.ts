// Rule 115 answers moments for ever, which needs that no write of a moment commits long after it: here each kind of write is
// held between the reading of its clock and its commit, for longer than it may be.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { type Entity, type EntityClient, errorInfo, ImportOutcome } from "../clients/typescript/index.ts";
import { byId, lastEventOf, newPerson, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const LONGEST_MS = 500;
const REASON = "one person";

let service: TestService;
let client: EntityClient;
beforeAll(async () => {
  // Locks are waited for longer than a write may take.
  const times = { lockTimeoutMs: 20_000, statementTimeoutMs: 20_000, defaultTimeoutMs: 60_000 };
  service = await startService({ config: times, longestWriteMs: LONGEST_MS });
  ({ client } = service);
});
afterAll(() => service[Symbol.asyncDispose]());

/** Holds what `statement` locks until it is given back. */
async function hold(statement: string, values: unknown[] = []) {
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin");
  await holder.query(statement, values);
  return {
    async giveBack() {
      const [{ now }] = (await holder.query("select (extract(epoch from clock_timestamp()) * 1000)::float8 as now"))
        .rows;
      await holder.query("rollback");
      await holder.end();
      return now as number;
    },
  };
}

const waiting = () =>
  vi.waitFor(
    async () => {
      const rows = await service.sql(
        "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
      );
      expect(rows).toHaveLength(1);
    },
    { timeout: 10_000 },
  );

/** The times of the events since, in milliseconds, and how the call ended that was held for longer than it may take. */
async function held(call: () => Promise<unknown>, statement: string, values: unknown[] = []) {
  const [{ count }] = (await service.sql<{ count: number }>("select count(*)::int as count from entity_event")) as [
    { count: number },
  ];
  const lock = await hold(statement, values);
  const ending = call().then(
    () => "OK",
    (error: unknown) => errorInfo(error)?.reason ?? String(error),
  );
  await waiting();
  await sleep(1.5 * LONGEST_MS);
  const givenBackAt = await lock.giveBack();
  const ended = await ending;
  const events = await service.sql<{ at: number }>(
    `select (extract(epoch from recorded_at) * 1000)::float8 as at from entity_event order by recorded_at, id offset $1`,
    [count],
  );
  return { ended, givenBackAt, times: events.map(({ at }) => at) };
}

const person = () => newPerson(client, { externalId: unique("p") });
const rename = (one: Entity, name: string) => ({ lookup: byId(one), entity: { name } });

/** Each is given two entities that are there. */
const WRITES: Record<string, (one: Entity, other: Entity) => Promise<unknown>> = {
  batch: (one, other) => client.entities.batchUpdateEntities({ requests: [rename(one, "A"), rename(other, "B")] }),
  update: (one) => client.entities.updateEntity(rename(one, "A")),
  creation: () => person(),
  merge: (one, other) => client.entities.mergeEntities({ primary: byId(one), secondary: byId(other), reason: REASON }),
  import: async (...people) => {
    async function* rows() {
      for (const { externalId, type, countryCode } of people) {
        yield { entity: { externalId, type, countryCode, name: "A" } };
      }
    }
    for await (const { results } of client.entities.importEntities(rows())) {
      for (const { outcome, error } of results) {
        if (outcome !== ImportOutcome.UPDATED) expect(error?.message).toContain("took too long");
      }
    }
  },
  mark: (one, other) => client.entities.markDistinct({ first: byId(one), second: byId(other), reason: REASON }),
  "external id": (one) =>
    client.entities.changeExternalId({ lookup: byId(one), newExternalId: unique("n"), reason: REASON }),
};
describe("no write commits long after its time", () => {
  for (const [name, write] of Object.entries(WRITES)) {
    it(`rule 115: ${name}: it is tried again with a later time, or WRITE_CONFLICT and nothing is done`, async () => {
      const [one, other] = [await person(), await person()];
      // Which every write of an entity needs at its end, and not before its clock is read.
      const { ended, givenBackAt, times } = await held(
        () => write(one, other),
        "lock table entity_event in share mode",
      );
      expect(["OK", "WRITE_CONFLICT"]).toContain(ended);
      if (ended !== "OK") expect(times).toEqual([]);
      for (const at of times) expect(at).toBeGreaterThan(givenBackAt - LONGEST_MS);
    });
  }
});

const fillEvents = ({ organizationId, id, externalId }: Entity, rows: number) =>
  service.sql(
    `insert into user_event (organization_id, id, entity_id, entity_external_id, event_type, occurred_at)
     select $1, gen_random_uuid(), $2, $3, 'login', '2026-01-01Z'::timestamptz + n * interval '1 second'
     from generate_series(1, ${rows}) n`,
    [organizationId, id, externalId],
  );

it("rules 49, 115: an external id whose copies take long to rewrite is changed all the same, with the time of the end", async () => {
  const one = await person();
  const ROWS = 6_000;
  await fillEvents(one, ROWS);
  const { ended, givenBackAt, times } = await held(
    () => client.entities.changeExternalId({ lookup: byId(one), newExternalId: unique("n"), reason: REASON }),
    `select from user_event where entity_id = $1 order by occurred_at desc limit 1 for update`,
    [one.id],
  );
  expect(ended).toBe("OK");
  expect(times).toHaveLength(1);
  for (const at of times) expect(at).toBeGreaterThanOrEqual(givenBackAt);
  const { metadata } = await lastEventOf(client, one);
  expect(metadata).toMatchObject({ rewrittenRows: { transactions: 0, userEvents: ROWS } });
});

it("rules 38, 49: an id that another entity got while copies were rewritten is refused, and the copies are as they were", async () => {
  const one = await person();
  const ROWS = 6_000;
  await fillEvents(one, ROWS);
  const next = unique("n");
  const copies = async (externalId: string) => {
    const [row] = await service.sql<{ count: number }>(
      "select count(*)::int as count from user_event where entity_id = $1 and entity_external_id = $2",
      [one.id, externalId],
    );
    return row?.count;
  };
  const lock = await hold("select from user_event where entity_id = $1 order by occurred_at desc limit 1 for update", [
    one.id,
  ]);
  const ending = client.entities.changeExternalId({ lookup: byId(one), newExternalId: next, reason: REASON }).then(
    () => "OK",
    (error: unknown) => errorInfo(error)?.reason ?? String(error),
  );
  // Not what goes away after the short time of a lock that others wait behind.
  await waiting();
  await sleep(LONGEST_MS);
  await waiting();
  await newPerson(client, { externalId: next });
  await lock.giveBack();
  expect(await ending).toBe("DUPLICATE_EXTERNAL_ID");
  expect([await copies(next), await copies(one.externalId)]).toEqual([0, ROWS]);
});
