// The feed with writers that hold their transactions open, so that the order of commits differs from the order of
// their ids. Every watcher must get the whole log, once, and the versions of each entity in order.
// The writers run SQL on the real tables as the run-time role: the service itself never holds a transaction open for
// long, but another writer of the database might some day.
// TORTURE_SECONDS=60 is the full run (npm run test:torture); the ordinary run takes a few seconds.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { errorInfo } from "../clients/typescript/index.ts";
import { reseal } from "./chains.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { newPerson } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";
import { type Seen, watchProblems } from "./watch-checker.ts";
import { watching } from "./watchers.ts";
import { RENAME, timedId } from "./writes-by-sql.ts";

const SECONDS = Number(process.env.TORTURE_SECONDS ?? 6);
const WRITERS = 16;
const ENTITIES = 250;
const MAX_EVENTS = 20;
const MAX_HOLD_MS = 200;
/** The full run must reach this many; a short one, beside other tests, enough for something to go wrong. */
const LEAST_EVENTS = SECONDS >= 60 ? 50_000 : 200 * SECONDS;

let service: TestService;
let organization: TestOrganization;
let entities: string[];
/** The time at which the COMMIT of an event was answered, in milliseconds of performance.now(). */
const committedAt = new Map<string, number>();

beforeAll(async () => {
  service = await startService({ config: { poolSize: 10 } });
});
afterAll(async () => {
  await reseal(service.sql);
  await service[Symbol.asyncDispose]();
});

const random = (max: number) => Math.floor(Math.random() * max);

async function connection(): Promise<pg.Client & AsyncDisposable> {
  const { host, port, database } = service.database;
  const client = new pg.Client({ host, port, database, user: "entity_service", password: RUNTIME_PASSWORD });
  await client.connect();
  // A failed test leaves connections to a database that is dropped.
  client.on("error", () => {});
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

/** One transaction: some entities, 1 to 20 events, held open, sometimes in a savepoint, sometimes rolled back. */
async function writeOnce(client: pg.Client, holdMs: () => Promise<unknown>): Promise<void> {
  const count = 1 + random(MAX_EVENTS);
  const chosen = Array.from({ length: 1 + random(3) }, () => entities[random(entities.length)] as string);
  const ids: string[] = [];
  await client.query("begin");
  await client.query("select set_config('app.organization_id', $1, true)", [organization.id]);
  // Takes its transaction id before it waits for anything.
  if (random(2) === 0) await client.query("select pg_current_xact_id()");
  await client.query("select 1 from entity where id = any($1) order by id for no key update", [chosen]);
  const isNested = random(4) === 0;
  if (isNested) await client.query("savepoint nested");
  for (let i = 0; i < count; i++) {
    const id = timedId();
    ids.push(id);
    await client.query(RENAME, [organization.id, chosen[i % chosen.length], `name ${randomUUID()}`, id]);
  }
  if (isNested) await client.query("release savepoint nested");
  await holdMs();
  if (random(12) === 0) {
    await client.query("rollback");
    return;
  }
  await client.query("commit");
  const now = performance.now();
  for (const id of ids) committedAt.set(id, now);
}

async function writeUntil(end: number): Promise<void> {
  await using client = await connection();
  while (performance.now() < end) await writeOnce(client, () => sleep(random(MAX_HOLD_MS)));
}

/** A watcher over as many streams as it needs: each begins at the last position of the former one. */
function follow(position: string, { pauseMs = 0, restartMs = Number.POSITIVE_INFINITY } = {}) {
  const streams: Seen[][] = [];
  const latencies: number[] = [];
  let resumes = 0;
  let isOver = false;
  const run = async () => {
    while (!isOver) {
      const seen: Seen[] = [];
      streams.push(seen);
      const watch = watching(organization.client, { position }, { pauseMs });
      const from = performance.now();
      for (let next = 0; !isOver; ) {
        for (; next < watch.messages.length; next++) {
          const message = watch.messages[next];
          if (message === undefined) break;
          ({ position } = message);
          if (message.event === undefined) continue;
          const { id, entityId, entityVersion } = message.event;
          seen.push({ id, entityId, version: Number(entityVersion) });
          const committed = committedAt.get(id);
          if (committed !== undefined) latencies.push(performance.now() - committed);
        }
        const ended = await Promise.race([watch.ended, sleep(5, "going" as const)]);
        if (ended === "going" && performance.now() - from < restartMs) continue;
        if (next < watch.messages.length) continue;
        if (ended !== "going" && errorInfo(ended)?.reason !== "WATCH_TOO_SLOW") throw ended ?? new Error("ended");
        break;
      }
      await watch.stop();
      resumes++;
    }
  };
  let failure: unknown;
  const running = run();
  running.catch((error: unknown) => {
    failure = error;
  });
  return {
    streams,
    latencies,
    resumes: () => resumes,
    count() {
      if (failure !== undefined) throw failure;
      return new Set(streams.flat().map(({ id }) => id)).size;
    },
    running,
    async stop() {
      isOver = true;
      await running;
    },
  };
}

/** The obvious but wrong reader: every row behind `last` counts as new. */
function naive() {
  const seen: Seen[] = [];
  let isOver = false;
  const run = async () => {
    await using client = await connection();
    await client.query("select set_config('app.organization_id', $1, false)", [organization.id]);
    let last = "00000000-0000-0000-0000-000000000000";
    while (!isOver) {
      const { rows } = await client.query(
        "select id, entity_id, entity_version from entity_event where source = 'torture' and id > $1 order by id",
        [last],
      );
      for (const row of rows) seen.push({ id: row.id, entityId: row.entity_id, version: Number(row.entity_version) });
      last = rows.at(-1)?.id ?? last;
      await sleep(20);
    }
  };
  const running = run();
  running.catch(() => {});
  return {
    seen,
    async stop() {
      isOver = true;
      await running;
    },
  };
}

async function theLog(): Promise<Seen[]> {
  const rows = await service.sql(
    "select id, entity_id, entity_version from entity_event where organization_id = $1 and source = 'torture'",
    [organization.id],
  );
  return rows.map((row) => ({ id: row.id, entityId: row.entity_id, version: Number(row.entity_version) }));
}

const percentile = (values: number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;

describe.each([{ long: false }, { long: true }])("16 writers, transactions of 0 to 200 ms", ({ long }) => {
  test(
    `${long ? "and one open all the time" : "alone"}: three watchers, steady, slow, killed and resumed: each union is the log, in the order of versions, nothing twice`,
    async () => {
      organization = await service.newOrganization();
      entities = [];
      for (let i = 0; i < ENTITIES; i++) entities.push((await newPerson(organization.client)).id);
      const patientEntity = (await newPerson(organization.client)).id;
      const position = (await organization.client.entities.listEntities({ pageSize: 1 })).watchPosition;
      const watchers = {
        steady: follow(position),
        slow: follow(position, { pauseMs: 1 }),
        resumed: follow(position, { restartMs: SECONDS >= 30 ? 1_000 : 300 }),
      };
      const planted = naive();
      // Begun long before the others, and committed after all of them.
      await using patient = await connection();
      if (long) {
        await patient.query("begin");
        await patient.query("select set_config('app.organization_id', $1, true)", [organization.id]);
        await patient.query(RENAME, [organization.id, patientEntity, "patience", timedId()]);
      }

      const end = performance.now() + SECONDS * 1_000;
      await Promise.all(Array.from({ length: WRITERS }, () => writeUntil(end)));
      if (long) {
        // No watcher has waited for it.
        const others = await theLog();
        await expect.poll(() => watchers.steady.count(), { timeout: 5_000 }).toBe(others.length);
        await patient.query("commit");
      }
      const log = await theLog();
      for (const [name, watcher] of Object.entries(watchers)) {
        await expect.poll(() => watcher.count(), { message: name, timeout: 10_000 + SECONDS * 2_000 }).toBe(log.length);
      }
      // A duplicate would arrive now.
      await sleep(500);
      await Promise.all([...Object.values(watchers).map((watcher) => watcher.stop()), planted.stop()]);

      expect(log.length).toBeGreaterThan(LEAST_EVENTS);
      for (const [name, { streams }] of Object.entries(watchers)) expect(watchProblems(streams, log), name).toEqual([]);
      expect(watchers.resumed.resumes()).toBeGreaterThan(SECONDS);
      const p99 = percentile(watchers.steady.latencies, 0.99);
      process.stdout.write(
        `${log.length} events, commit to watcher p50 ${percentile(watchers.steady.latencies, 0.5).toFixed(0)} ms p99 ${p99.toFixed(0)} ms, ` +
          `streams ${Object.values(watchers).map(({ streams }) => streams.length)}\n`,
      );
      expect(p99, "neither a slow watcher nor a long transaction holds up a steady one").toBeLessThan(1_000);

      // The checker itself works: the obvious reader loses events under the same writers.
      const lost = watchProblems([planted.seen], log).filter((problem) => problem.startsWith("lost"));
      expect(lost.length).toBeGreaterThan(0);
    },
    120_000 + SECONDS * 5_000,
  );
});
