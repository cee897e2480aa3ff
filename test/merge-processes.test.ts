// Merges among processes that are killed, on one database: each is there as a whole or not at all, whichever process is
// asked afterwards, and a caller that sends its request again learns what has become of it.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  createEntityClient,
  Designation,
  type Entity,
  type EntityClient,
  errorInfo,
} from "../clients/typescript/index.ts";
import { type ServiceProcess, startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { byId, lastEventOf, newPerson, unique } from "./given.ts";
import { databaseEnvironment, startService, type TestService } from "./harness.ts";

const ROWS = 12_000;
const REASON = "the same person";

let database: TestService;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
const processes: ServiceProcess[] = [];
beforeAll(async () => {
  database = await startService();
  folder = await temporaryFolder();
  processes.push(await start(), await start());
}, 60_000);
afterAll(async () => {
  await Promise.all(processes.map((one) => one[Symbol.asyncDispose]()));
  await folder[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
}, 60_000);

const start = () =>
  startServiceProcess(folder.path, {
    ...databaseEnvironment(database),
    ...{ BOOTSTRAP_API_KEY: database.organization.apiKey, LOG_LEVEL: "info" },
  });
const clientOf = ({ baseUrl, apiKey }: ServiceProcess) =>
  createEntityClient({ retries: false, baseUrl, apiKey, defaultTimeoutMs: 5_000 });

/** After these, and where no reason came, a caller sends its request again. */
const AGAIN = ["DATABASE_UNAVAILABLE", "COMMIT_UNKNOWN", "OVERLOADED", "WRITE_CONFLICT", "DEADLINE_EXCEEDED"];

/** The answer of the process that is left, once it has one. */
async function settle<T>(call: (client: EntityClient) => Promise<T>): Promise<T> {
  const client = clientOf(processes[1] as ServiceProcess);
  for (let tries = 0; ; tries++) {
    try {
      return await call(client);
    } catch (error) {
      const reason = errorInfo(error)?.reason;
      if (tries === 60 || (reason !== undefined && !AGAIN.includes(reason))) throw error;
      await sleep(200);
    }
  }
}

/** Holds what a statement locks, until it is disposed of. */
async function hold(text: string, values: unknown[]): Promise<AsyncDisposable & { waiting(): Promise<void> }> {
  const client = new pg.Client(database.database);
  await client.connect();
  await client.query("begin");
  expect((await client.query(text, values)).rowCount).toBe(1);
  const { rows } = await client.query("select pg_backend_pid() as pid");
  return {
    /** Until somebody waits for it. */
    async waiting() {
      for (let i = 0; i < 500; i++) {
        const [row] = await database.sql<{ n: number }>(
          "select count(*)::int as n from pg_stat_activity where $1 = any(pg_blocking_pids(pid))",
          [rows[0].pid],
        );
        if ((row?.n ?? 0) > 0) return;
        await sleep(10);
      }
      throw new Error("nobody waits for what is held");
    },
    async [Symbol.asyncDispose]() {
      await client.query("rollback");
      await client.end();
    },
  };
}

/** Calls the first process, which is killed as soon as `isDue`; then another one is started in its place. */
async function killedIn<T>(call: (client: EntityClient) => Promise<T>, isDue: () => Promise<unknown>): Promise<void> {
  const victim = processes[0] as ServiceProcess;
  const ended = call(clientOf(victim)).then(
    () => "answered",
    () => "lost",
  );
  await isDue();
  await victim.kill();
  await ended;
  processes[0] = await start();
}

/** What the ids of some name now, at one moment. */
async function found(persons: readonly Entity[]) {
  const { results } = await database.client.entities.batchGetEntities({ lookups: persons.map(byId) });
  return results.map(({ result, redirectedFrom }) => {
    const { id, externalIds } = result.value as Entity;
    return { id, redirectedFrom, ids: externalIds.map(({ externalId }) => externalId) };
  });
}

const ENTITY = "select 1 from entity where id = $1 for update";
const EXTERNAL_ID = "select 1 from external_id where external_id = $1 for update";

test("rules 93, 113: a merge, and its undoing, in which the process is killed is whole or not there, and is answered once", {
  timeout: 180_000,
}, async () => {
  const reached = { whole: 0, none: 0 };
  for (let round = 0; round < 6; round++) {
    const [one, other] = [
      await newPerson(database.client, { externalId: unique("one") }),
      await newPerson(database.client, { externalId: unique("other") }),
    ];
    const merged = { id: one.id, redirectedFrom: "", ids: [one.externalId, other.externalId] };
    const parted = [one, other].map(({ id, externalId }) => ({ id, redirectedFrom: "", ids: [externalId] }));

    /** Killed where it waits for its first lock, where it writes what it has decided, or at some time. */
    const killed = async (call: (client: EntityClient) => Promise<unknown>) => {
      if (round % 3 === 2) return killedIn(call, () => sleep(Math.random() * 40));
      const [text, value] = round % 3 === 0 ? [ENTITY, one.id] : [EXTERNAL_ID, other.externalId];
      await using held = await hold(text, [value]);
      await killedIn(call, () => held.waiting());
    };
    /** Nothing but the whole or nothing, whether or not its backend has noticed yet; then the answer. */
    const check = async (after: unknown[], before: unknown[]) => {
      const now = await found([one, other]);
      const isWhole = isDeepStrictEqual(now, after);
      reached[isWhole ? "whole" : "none"] += 1;
      if (!isWhole) expect(now).toEqual(before);
    };
    const asMerged = [merged, { ...merged, redirectedFrom: other.id }];

    const request = { primary: byId(one), secondary: byId(other), reason: REASON, requestId: randomUUID() };
    await killed((client) => client.entities.mergeEntities(request));
    await check(asMerged, parted);
    const answer = await settle((client) => client.entities.mergeEntities(request));
    expect(answer.entity?.externalIds.map(({ externalId }) => externalId)).toEqual(merged.ids);
    expect(await found([one, other])).toEqual(asMerged);
    // The same answer once more, and by the process that has come instead.
    expect(await clientOf(processes[0] as ServiceProcess).entities.mergeEntities(request)).toEqual(answer);

    const back = { mergeId: answer.mergeId, reason: REASON, requestId: randomUUID() };
    await killed((client) => client.entities.unmergeEntities(back));
    await check(parted, asMerged);
    await settle((client) => client.entities.unmergeEntities(back));
    expect(await found([one, other])).toEqual(parted);

    const events = await database.sql<{ request_id: string; n: number; times: number }>(
      `select request_id, count(*)::int as n, count(distinct recorded_at)::int as times from entity_event
       where request_id = any($1) group by 1`,
      [[request.requestId, back.requestId]],
    );
    expect(events.map(({ n, times }) => [n, times])).toEqual([
      [2, 1],
      [2, 1],
    ]);
    const { merges } = await database.client.entities.listMerges({ lookup: byId(one) });
    expect(merges.map(({ id, undoneAt }) => [id, undoneAt !== undefined])).toEqual([[answer.mergeId, true]]);
  }
  // Those that waited for their first lock have left nothing.
  expect(reached.none).toBeGreaterThan(0);
});

/** Transactions of the person, all of them with its primary. */
const fill = (person: Entity) =>
  database.sql(
    `insert into transaction (organization_id, id, type, amount, currency, origin_entity_id, origin_external_id,
       transacted_at, content_hash)
     select $1, gen_random_uuid(), 'payment', '1', 'ARS', $2, $3, '2026-01-01Z'::timestamptz + n * interval '1 second', ''
     from generate_series(1, ${ROWS}) n`,
    [person.organizationId, person.id, person.externalId],
  );

const copiesOf = async (person: Entity) => {
  const rows = await database.sql<{ copy: string; n: number }>(
    "select origin_external_id as copy, count(*)::int as n from transaction where origin_entity_id = $1 group by 1",
    [person.id],
  );
  return Object.fromEntries(rows.map(({ copy, n }) => [copy, n]));
};

/** The last of the rows: whoever rewrites them waits for it with all before it rewritten. */
const LAST = "select 1 from transaction where origin_entity_id = $1 order by transacted_at desc limit 1 for update";

test("rules 49, 107, 113: copies that are being rewritten by steps when the process is killed are all rewritten by the next attempt", {
  timeout: 120_000,
}, async () => {
  const [old, alias, next] = [unique("old"), unique("alias"), unique("next")];
  const [one, other] = [await newPerson(database.client), await newPerson(database.client, { externalId: old })];
  const { entities } = database.client;
  await entities.addExternalIds({ lookup: byId(other), externalIds: [{ externalId: alias }] });
  await fill(other);

  const killedAtTheLast = async (call: (client: EntityClient) => Promise<unknown>, copy: string) => {
    await using held = await hold(LAST, [other.id]);
    await killedIn(call, () => held.waiting());
    expect(await copiesOf(other)).toEqual({ [copy]: ROWS });
  };
  // Its primary has gone while it was merged: another one is in its rows when it is parted.
  const merge = { primary: byId(one), secondary: byId(other), reason: REASON };
  const { mergeId } = await entities.mergeEntities(merge);
  await entities.addExternalIds({
    lookup: byId(one),
    externalIds: [{ externalId: unique("own"), designation: Designation.PRIMARY }],
  });
  await entities.releaseExternalId({ lookup: byId(one), externalId: old, reason: REASON, force: true });
  const back = { mergeId, reason: REASON, requestId: randomUUID() };
  await killedAtTheLast((client) => client.entities.unmergeEntities(back), old);
  expect((await found([other]))[0]?.id).toBe(one.id);
  await settle((client) => client.entities.unmergeEntities(back));
  expect(await copiesOf(other)).toEqual({ [alias]: ROWS });

  const change = { lookup: byId(other), newExternalId: next, reason: REASON, requestId: randomUUID() };
  await killedAtTheLast((client) => client.entities.changeExternalId(change), alias);
  expect((await found([other]))[0]?.ids).toEqual([alias]);
  await settle((client) => client.entities.changeExternalId(change));
  expect(await copiesOf(other)).toEqual({ [next]: ROWS });
  expect(await lastEventOf(database.client, other)).toMatchObject({
    requestId: change.requestId,
    metadata: { rewrittenRows: { transactions: ROWS, userEvents: 0 } },
  });
});
