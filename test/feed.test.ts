// The parts of the feed on their own: the shared reader at the live end, the checker of the torture test, and
// the plans of the feed's statements.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { describe, expect, it, vi } from "vitest";
import { readConfig } from "../src/config.ts";
import { createOrm } from "../src/db/orm.ts";
import { DomainError } from "../src/domain/errors.ts";
import { headOf, lastXidsOf } from "../src/log/head.ts";
import { createLive } from "../src/log/live.ts";
import { createPages, type Page } from "../src/log/pages.ts";
import { decodePosition, encodePosition, type Position } from "../src/log/position.ts";
import { parseSnapshot } from "../src/log/snapshot.ts";
import { readOrdered, readRange } from "../src/log/source.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byId, newPerson } from "./given.ts";
import { startService } from "./harness.ts";
import { watchProblems } from "./watch-checker.ts";

const at = (xmax: number): Position => ({ epoch: "e", from: { xmax: BigInt(xmax), running: [] } });
const never = new AbortController().signal;
/** What is waited for until then is there long before. */
const soon = () => performance.now() + 20_000;

/** A log that grows on demand. */
function source() {
  let end = 1;
  let failure: Error | undefined;
  const state = {
    reads: 0,
    hasEnded: false,
    sizes: [] as number[],
    add(size: number) {
      state.sizes.push(size);
    },
    fail(error: Error | undefined) {
      failure = error;
    },
    async head() {
      state.reads += 1;
      return at(end);
    },
    async read(): Promise<Page> {
      state.reads += 1;
      if (failure !== undefined) throw failure;
      const size = state.sizes.shift() ?? 0;
      if (size > 0) end += 1;
      const none = () => {
        throw new Error("not looked at here");
      };
      return {
        size,
        bytes: size * 1_000,
        rows: [],
        event: none,
        delivery: none,
        deliveries: none,
        end: at(end),
        more: state.sizes.length > 0,
      };
    },
    ended() {
      state.hasEnded = true;
    },
  };
  return state;
}

/** Time that passes only where a test says so, with all that is due in it. */
function standingClock(): Disposable & { passes(ms: number): Promise<unknown> } {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
  return { passes: (ms) => vi.advanceTimersByTimeAsync(ms), [Symbol.dispose]: () => void vi.useRealTimers() };
}

describe("the live end", () => {
  it("is read while somebody watches, and not when nobody does", async () => {
    using clock = standingClock();
    const log = source();
    const live = createLive(log);
    const [one, two] = [live.join(), live.join()];
    await Promise.all([one.start, two.start]);
    await clock.passes(400);
    expect(log.reads, "one reader, 50 to 150 ms").toBeGreaterThan(2);
    expect(log.reads).toBeLessThan(10);
    one[Symbol.dispose]();
    two[Symbol.dispose]();
    await clock.passes(150);
    expect(log.hasEnded).toBe(true);
    const { reads } = log;
    await clock.passes(400);
    expect(log.reads).toBe(reads);
  });

  it("is read at once after a commit, but commits that meet share a read", async () => {
    using clock = standingClock();
    const log = source();
    const live = createLive(log);
    using joined = live.join();
    await joined.start;
    await clock.passes(500);
    log.add(1);
    live.wake();
    // No time passes.
    expect(await joined.next(soon(), never)).toMatchObject({ size: 1 });
    const { reads } = log;
    for (let i = 0; i < 200; i++) {
      live.wake();
      await clock.passes(1);
    }
    expect(log.reads - reads).toBeGreaterThan(5);
    expect(log.reads - reads).toBeLessThan(12);
  });

  it.each([
    { events: 30, reads: 10 },
    { events: 100, reads: 6 },
  ])("is read less often while many events come: $events", async ({ events, reads: atMost }) => {
    using clock = standingClock();
    const log = source();
    const live = createLive(log);
    using joined = live.join();
    await joined.start;
    // What is committed in the first moments is read with what comes then.
    await clock.passes(30);
    log.add(events);
    live.wake();
    expect(await joined.next(soon(), never)).toMatchObject({ size: events });
    const { reads } = log;
    for (let ms = 0; ms < 400; ms++) {
      if (log.sizes.length === 0) log.add(events);
      live.wake();
      await clock.passes(1);
    }
    expect(log.reads - reads).toBeGreaterThan(1);
    expect(log.reads - reads).toBeLessThan(atMost);
  });

  it("is read at once for each who joins, whatever pause it is in, and once for those who join together", async () => {
    const log = source();
    const live = createLive(log);
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      // Timers never fire: a reader that had to wait for one would never start.
      const start = async (count: number) => {
        const joined = Array.from({ length: count }, () => live.join());
        let started = 0;
        for (const one of joined) void one.start.then(() => started++);
        for (let turn = 0; turn < 20 && started < count; turn++) await new Promise((resolve) => setImmediate(resolve));
        return { joined, started };
      };
      const first = await start(1);
      const alone = log.reads;
      let started = first.started;
      for (let i = 0; i < 100; i++) started += (await start(1)).started;
      expect(started).toBe(101);
      expect(log.reads - alone).toBeLessThanOrEqual(100);
      const together = log.reads;
      expect((await start(100)).started).toBe(100);
      expect(log.reads - together).toBeLessThanOrEqual(2);
    } finally {
      vi.useRealTimers();
    }
  });

  it("keeps little for those who do not take it, and tells them that they are behind", async () => {
    const log = source();
    const live = createLive(log);
    using slow = live.join();
    using steady = live.join();
    await Promise.all([slow.start, steady.start]);
    for (let i = 0; i < 10; i++) log.add(500);
    live.wake();
    for (let i = 0; i < 10; i++) expect(await steady.next(soon(), never)).toMatchObject({ size: 500 });
    expect(await steady.next(performance.now() + 20, never)).toBe("idle");
    expect(await slow.next(soon(), never)).toBe("behind");
  });

  it("passes over a failure of a moment, and tells everybody of one that stays", async () => {
    const log = source();
    const live = createLive(log);
    const [one, two] = [live.join(), live.join()];
    await Promise.all([one.start, two.start]);
    log.fail(new DomainError("DATABASE_UNAVAILABLE", "away"));
    await sleep(250);
    log.fail(undefined);
    log.add(1);
    expect(await one.next(soon(), never)).toMatchObject({ size: 1 });
    log.fail(new DomainError("POSITION_EXPIRED", "another epoch"));
    await expect(one.next(soon(), never)).rejects.toMatchObject({ reason: "POSITION_EXPIRED" });
    await two.next(soon(), never).catch(() => {});
    await expect(two.next(soon(), never)).rejects.toMatchObject({ reason: "POSITION_EXPIRED" });
    expect(log.hasEnded).toBe(true);
  });

  it("lets go of a watcher at once when its call ends", async () => {
    const live = createLive(source());
    using joined = live.join();
    await joined.start;
    const leaving = new AbortController();
    const next = joined.next(performance.now() + 60_000, leaving.signal);
    leaving.abort();
    expect(await next).toBe("idle");
  });
});

describe("the checker of watchers", () => {
  const event = (entityId: string, version: number) => ({ id: `${entityId}${version}`, entityId, version });
  const log = [event("a", 1), event("b", 1), event("a", 2), event("a", 3), event("b", 2)];
  const [a1, b1, a2, a3, b2] = log as [
    (typeof log)[0],
    (typeof log)[0],
    (typeof log)[0],
    (typeof log)[0],
    (typeof log)[0],
  ];

  it.each([
    ["all of it, in another order over entities", [[b1, b2, a1, a2, a3]], []],
    [
      "a part again after resuming",
      [
        [a1, b1, a2],
        [a2, a3, b2],
      ],
      [],
    ],
    ["one lost", [[a1, b1, a2, a3]], ["lost"]],
    ["one twice in a stream", [[a1, a1, a2, a3, b1, b2]], ["twice", "out"]],
    ["versions in another order", [[a2, a1, a3, b1, b2]], ["skipped", "out", "out", "skipped"]],
    ["one skipped, and told later", [[a1, b1, a3, b2], [a2]], ["out", "skipped", "skipped"]],
    ["one that is not in the log", [[a1, b1, a2, a3, b2, event("c", 1)]], ["invented", "skipped"]],
  ])("%s", (_, streams, kinds) => {
    const found = watchProblems(streams, log).map((problem) => /^\w+/.exec(problem)?.[0]);
    expect(found.toSorted()).toEqual(kinds.toSorted());
  });
});

describe("positions one after the other", () => {
  const ids = Array.from({ length: 6 }, () => randomUUID());
  const [epoch = "", id = "", organizationId = "", one = "", two = "", other = ""] = ids;
  const from = { xmax: 1_000n, running: [7n, 900n, 999n] };
  const to = { xmax: 40_000_000_000n, running: [39_999_999_000n] };
  const after = { recordedAt: 1_700_000_000_000_001n, id };
  const until = 1_700_000_000_000_900n;
  const within = { to, after, until };

  it.each<[string, string, Position]>([
    ["a place within the range", one, { epoch, from, within: { ...within, after: { recordedAt: -1n, id: other } } }],
    ["another end of the range", one, { epoch, from, within: { ...within, to: { xmax: 1_001n, running: [] } } }],
    ["another time of its last", one, { epoch, from, within: { ...within, until: until + 1n } }],
    ["whose the place is", one, { epoch, from, within: { ...within, after: { ...after, organizationId } } }],
    ["another begin", one, { epoch, from: { xmax: 1_000n, running: [] }, within }],
    ["another epoch", one, { epoch: other, from, within }],
    ["no range", one, { epoch, from }],
    ["another organization", two, { epoch, from, within }],
  ])("that differ in %s are different, and each is read as it was", (_, whose, position) => {
    const first = encodePosition(one, { epoch, from, within });
    const second = encodePosition(whose, position);
    expect(second).not.toBe(first);
    expect(decodePosition(whose, second)).toEqual(position);
    expect(decodePosition(one, first)).toEqual({ epoch, from, within });
    expect(second).toMatch(/^[\w-]{1,140}$/);
  });
});

describe("a page", () => {
  it("is the same array for all who watch the same, so that it is made into bytes once", async () => {
    await using service = await startService();
    const { client, id } = await service.newOrganization();
    const { host, port, database } = service.database;
    const orm = createOrm(
      { host, port, database, user: "entity_service", password: RUNTIME_PASSWORD },
      { ...readConfig({}), poolSize: 2 },
    );
    try {
      const pages = createPages(orm);
      const before = await pages.head(id);
      const person = await newPerson(client);
      await client.entities.updateEntity({ lookup: byId(person), entity: { name: "Other" } });
      const page = await pages.read(id, before);
      const created = () => ({ name: "created", accepts: ({ type }: { type: string }) => type === "CREATED" });
      const other = { name: "other", accepts: ({ type }: { type: string }) => type !== "CREATED" };
      const types = [undefined, created(), other].map((filter) =>
        page.deliveries(filter).map(({ event }) => event?.type),
      );
      expect(types).toEqual([["CREATED", "ATTRIBUTE_CHANGED"], ["CREATED"], ["ATTRIBUTE_CHANGED"]]);
      expect(page.deliveries()).toBe(page.deliveries());
      expect(page.deliveries(created())).toBe(page.deliveries(created()));
      expect(page.deliveries(other)[0]).toBe(page.deliveries()[1]);
    } finally {
      await orm.close(true);
    }
  });
});

describe("the statements", () => {
  it("use their indexes, whether the tables were analysed or not", async () => {
    await using service = await startService();
    const { client, id } = await service.newOrganization();
    const other = await service.newOrganization();
    for (let i = 0; i < 10; i++) await newPerson(client);
    // Enough rows that a sequential scan is no option.
    await service.sql("alter table entity_event disable trigger all");
    await service.sql(
      `insert into entity_event select (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid(), 'organization_id', o.id,
         'entity_id', gen_random_uuid(), 'recorded_at', v.recorded_at - n * interval '1 second', 'source', 'planted', 'xid', (3 + n % 600)::text))).*
       from entity_event v, generate_series(1, 5000) n, unnest($1::uuid[]) as o(id)
       where v.id = (select min(id::text)::uuid from entity_event)`,
      [[id, other.id]],
    );
    const { host, port, database } = service.database;
    const runtime = new pg.Client({ host, port, database, user: "entity_service", password: RUNTIME_PASSWORD });
    await runtime.connect();
    try {
      await runtime.query("select set_config('app.organization_id', $1, false)", [id]);
      const [row] = await service.sql<{ snapshot: string; number: number }>(
        "select pg_current_snapshot()::text as snapshot, number from feed_epoch",
      );
      const to = parseSnapshot(row?.snapshot ?? "");
      const range = { epoch: row?.number ?? 0, from: { xmax: to.xmax - 5n, running: [700n] }, to };
      const plans: string[] = [];
      const explain = {
        async execute<T>(text: string, values: readonly unknown[]): Promise<T> {
          const plan = await runtime.query<{ "QUERY PLAN": string }>(`explain ${text}`, [...values]);
          plans.push(plan.rows.map((line) => line["QUERY PLAN"]).join("\n"));
          return [] as T;
        },
      };
      const bound = { rows: 500, bytes: 1_000_000 };
      const page = { after: { recordedAt: 1n, id: id }, until: 4_000_000_000_000_000n, ...bound };
      for (const analysed of [false, true]) {
        if (analysed) await service.sql("analyze");
        await readRange(explain, id, range, bound);
        await readOrdered(explain, id, range, page);
      }
      expect(plans).toHaveLength(6);
      for (const [i, plan] of plans.entries()) {
        expect(plan, String(i)).toContain(i % 3 === 2 ? "entity_event_recorded" : "entity_event_feed");
        expect(plan, String(i)).not.toContain("Seq Scan");
      }
      // Every poll reads the end of the log: one entry of the index.
      await service.sql("analyze");
      await headOf(explain, lastXidsOf(id)).catch(() => {});
      expect(plans.at(-1)).toMatch(/Index (Only )?Scan Backward using entity_event_feed/);
      expect(plans.at(-1)).not.toMatch(/Seq Scan on entity_event/);
    } finally {
      await runtime.end();
      await service.sql("delete from entity_event where source = 'planted'");
    }
  });
});
