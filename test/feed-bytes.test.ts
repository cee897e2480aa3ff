// What watchers and sinks hold of the log is limited by its uncompressed size: the database compresses a text of one
// repeated letter to almost nothing.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type EntityClient, EntityType } from "../clients/typescript/index.ts";
import { createBell } from "../src/bell.ts";
import { readConfig } from "../src/config.ts";
import { createOrm, migrate, type Orm } from "../src/db/orm.ts";
import { readStatements } from "../src/db/transaction.ts";
import { createAllowance } from "../src/log/allowance.ts";
import { readEventsByTime } from "../src/log/by-time.ts";
import { createPages, PAGE_BYTES, type Page, type WatchMessage } from "../src/log/pages.ts";
import type { Position } from "../src/log/position.ts";
import { createFeed } from "../src/log/watch.ts";
import { wholeLog } from "../src/log/whole-log.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { newPerson, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const EVENTS = 90;
/** Events with 60 kB of one letter in the new values of each. */
const LETTERS = 60_000;
const ATTRIBUTES = { t: Array(LETTERS / 4_000).fill("x".repeat(4_000)) };
const never = new AbortController().signal;

let service: TestService;
let orm: Orm;
let before: Position;
let organizationId: string;

async function importLarge(client: EntityClient): Promise<void> {
  async function* rows() {
    for (let i = 0; i < EVENTS; i++) {
      const entity = { type: EntityType.PERSON, name: "Ana", countryCode: "BR", externalId: unique("row") };
      yield { entity: { ...entity, attributes: ATTRIBUTES } };
    }
  }
  for await (const { progress } of client.entities.importEntities(rows())) expect(progress?.failed).toBe(0n);
}

beforeAll(async () => {
  service = await startService();
  // As a start with NATS_URL does: the service may read the log of all organizations.
  await migrate(service.database, { publishes: true });
  const { host, port, database } = service.database;
  orm = createOrm(
    { host, port, database, user: "entity_service", password: RUNTIME_PASSWORD },
    { ...readConfig({}), poolSize: 8 },
  );
  const organization = await service.newOrganization();
  organizationId = organization.id;
  before = await createPages(orm).head(organizationId);
  await importLarge(organization.client);
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

const held = (rows: readonly { newValues: unknown }[]) =>
  rows.reduce((sum, { newValues }) => sum + JSON.stringify(newValues).length, 0);
const eventsOf = (page: Page) => page.rows.map(({ event }) => event);

describe.each([
  ["an organization", () => ({ pages: createPages(orm), key: organizationId })],
  ["all of them", () => ({ pages: createPages(orm, () => wholeLog(orm)), key: organizationId })],
])("pages of the log of %s", (_, source) => {
  it("end at a MiB of what they hold, one event in any case, and leave nothing out", async () => {
    const { pages, key } = source();
    const ids: string[] = [];
    let count = 0;
    let position: Position | undefined = before;
    for (let page = await pages.read(key, position); position !== undefined; page = await pages.read(key, position)) {
      expect(page.bytes).toBeGreaterThanOrEqual(held(eventsOf(page)));
      expect(held(eventsOf(page))).toBeLessThan(PAGE_BYTES + 2 * LETTERS);
      ids.push(...eventsOf(page).map(({ id }) => id));
      count += 1;
      position = page.more ? page.end : undefined;
      if (position === undefined) break;
    }
    expect(new Set(ids).size).toBe(EVENTS);
    expect(ids).toHaveLength(EVENTS);
    expect(count).toBeGreaterThan((EVENTS * LETTERS) / PAGE_BYTES - 1);
  });
});

it("events by time, of which webhooks are made after a restore, end at their bytes too", async () => {
  const after = { recordedAt: 0n, id: "00000000-0000-0000-0000-000000000000" };
  const part = await readStatements(orm, organizationId, (db) =>
    readEventsByTime(db, organizationId, { after, until: 4_000_000_000_000_000n }, { rows: 500, bytes: PAGE_BYTES }),
  );
  expect(part.isCut).toBe(true);
  expect(held(part.rows)).toBeLessThan(PAGE_BYTES + 2 * LETTERS);
});

it("watchers who catch up and do not read hold a page each, 64 MiB together and an event each; the others go on when one leaves", async () => {
  const feed = createFeed(orm, { readers: 4 });
  const ends: AbortController[] = [];
  const streams = Array.from({ length: 80 }, () => {
    const end = new AbortController();
    ends.push(end);
    return feed.watch(organizationId, { position: before, filter: undefined, signal: end.signal });
  });
  const taken: (readonly WatchMessage[])[] = [];
  const first = streams.map(async (stream) => {
    const { value } = await stream.next();
    if (value !== undefined) taken.push(value as readonly WatchMessage[]);
  });
  // All readers that have a page; the others wait.
  await expect.poll(() => taken.length, { timeout: 60_000 }).toBeGreaterThan(50);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  const all = taken.reduce((sum, page) => sum + held(page.flatMap(({ event }) => event ?? [])), 0);
  expect(all).toBeLessThan(70 * 1024 * 1024);
  expect(taken.length).toBeLessThan(70);
  const before1 = taken.length;
  await Promise.all(streams.slice(0, 5).map((stream) => stream.return()));
  await expect.poll(() => taken.length, { timeout: 20_000 }).toBeGreaterThan(before1);
  for (const end of ends) end.abort(new Error("over"));
  await Promise.allSettled(first);
  await Promise.allSettled(streams.map((stream) => stream.return()));
});

it("a slow live watcher is told that it is too slow, by what waits for it as it is", async () => {
  const bell = createBell();
  const feed = createFeed(orm, { readers: 4, bell });
  const organization = await service.newOrganization();
  const end = new AbortController();
  const stream = feed.watch(organization.id, { position: undefined, filter: undefined, signal: end.signal });
  await stream.next();
  // It has begun to read live events.
  const person = newPerson(organization.client);
  for (let isEvent = false; !isEvent; ) {
    const { value } = await stream.next();
    isEvent = (value as readonly WatchMessage[]).some(({ event }) => event !== undefined);
  }
  await person;
  // The reader takes none of the rest: four times 5 MB.
  for (let i = 0; i < 4; i++) await importLarge(organization.client);
  bell.ring(organization.id);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const read = async () => {
    for (let next = await stream.next(); !next.done; next = await stream.next()) {
      // Whatever is left.
    }
  };
  await expect(read()).rejects.toMatchObject({ reason: "WATCH_TOO_SLOW" });
  end.abort();
});

describe("an allowance", () => {
  const options = { waitMs: 10_000, expired: () => new Error("late"), signal: never };

  it("is given in order, grows back by what is settled and disposed, and is had whole by one who wants more", async () => {
    const allowance = createAllowance(100);
    const one = await allowance.take(80, options);
    const order: string[] = [];
    const two = allowance.take(60, options).then((got) => {
      order.push("two");
      return got;
    });
    const three = allowance.take(10, options).then((got) => {
      order.push("three");
      return got;
    });
    await Promise.resolve();
    expect(order).toEqual([]);
    one.settle(30);
    await Promise.all([two, three]);
    expect(order).toEqual(["two", "three"]);
    for (const got of [one, await two, await three]) got[Symbol.dispose]();
    using all = await allowance.take(1_000, options);
    expect(all).toBeDefined();
  });

  it("is not waited for longer than one may, nor by who has left, and those leave nothing taken", async () => {
    const allowance = createAllowance(100);
    const one = await allowance.take(100, options);
    const leaving = new AbortController();
    const late = allowance.take(100, { ...options, waitMs: 10 });
    const left = allowance.take(100, { ...options, signal: leaving.signal });
    leaving.signal.addEventListener("abort", () => one[Symbol.dispose]());
    leaving.abort(new Error("left"));
    await expect(left).rejects.toThrow("left");
    const got = await late;
    const later = allowance.take(100, { ...options, waitMs: 10 });
    await expect(later).rejects.toThrow("late");
    got[Symbol.dispose]();
    using last = await allowance.take(100, options);
    expect(last).toBeDefined();
  });
});
