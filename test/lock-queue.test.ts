// Commands on entities that others hold: how long they wait where many of them do, and whom they keep waiting.
import pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createBell } from "../src/bell.ts";
import { readConfig } from "../src/config.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { update } from "../src/domain/entity.ts";
import type { EntityState } from "../src/domain/entity-state.ts";
import { type OneEntityCommand, toOneEntity } from "../src/entities/command.ts";
import { writeGroup } from "../src/entities/write-group.ts";
import { createWriter, type Writer } from "../src/entities/writer.ts";
import { newOrganizationId } from "./commands.ts";
import { author, creation } from "./commands-by-hand.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { startService, type TestService } from "./harness.ts";

const MANY = 400;
/** Of a request that shares its transaction with no other. */
const MUCH = 200_000;

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

/** A writer with its own lock time. */
function openWriter(lockTimeoutMs: number, bell = createBell()): { orm: Orm; writer: Writer } & AsyncDisposable {
  const address = { ...service.database, user: "entity_service", password: RUNTIME_PASSWORD };
  const orm = createOrm(address, { ...readConfig({}), lockTimeoutMs });
  return { orm, writer: createWriter(orm, { lockTimeoutMs, bell }), [Symbol.asyncDispose]: () => orm.close(true) };
}

/** An organization with entities that have these external ids. */
async function organizationWith(writer: Writer, externalIds: readonly string[]): Promise<string> {
  const organizationId = await newOrganizationId(service);
  await Promise.all(externalIds.map((id) => writer.write(organizationId, toOneEntity(creation("new", id)))));
  return organizationId;
}

const rename = (externalId: string, more: Partial<OneEntityCommand> = {}) =>
  toOneEntity({
    author,
    lookup: { by: "external_id", key: externalId },
    decide: (entity) => update(entity as EntityState, { name: `${(entity as EntityState).version}` }, ""),
    ...more,
  });

const write = async (writer: Writer, organizationId: string, command: ReturnType<typeof rename>): Promise<string> => {
  const result = await writer.write(organizationId, command);
  return result.kind === "refused" ? result.error.reason : result.kind;
};

/** Holds the organization's entities whose external ids begin so, as another writer would. */
async function hold(organizationId: string, prefix: string) {
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin");
  const { rowCount } = await holder.query(
    "select from entity where organization_id = $1 and starts_with(external_id, $2) for no key update",
    [organizationId, prefix],
  );
  return { rowCount, [Symbol.asyncDispose]: () => holder.end() };
}

/** A signal that counts how often it is asked whether the caller is there: by every transaction that begins with it. */
const counting = () => ({
  count: 0,
  reason: undefined,
  get aborted() {
    this.count += 1;
    return false;
  },
});

test("rule 36: however many wait for one entity, and however much they write, none waits for much longer than the lock time", async () => {
  await using own = openWriter(500);
  const organizationId = await organizationWith(own.writer, ["held"]);
  await using _ = await hold(organizationId, "held");
  const begun = performance.now();
  const ends = await Promise.all(
    Array.from({ length: MANY }, () => write(own.writer, organizationId, rename("held", { bytes: MUCH }))),
  );
  expect(new Set(ends)).toEqual(new Set(["WRITE_CONFLICT"]));
  expect(performance.now() - begun).toBeGreaterThanOrEqual(500);
  // One after the other, at the least time that each waits for a lock, they would be at it for 20 s.
  expect(performance.now() - begun).toBeLessThan(5_000);
});

test("rule 36: commands that are tried again keep those waiting that come meanwhile for a few of them, not for all", async () => {
  await using own = openWriter(20_000);
  const held = Array.from({ length: MANY }, (_, i) => `held ${i}`);
  const organizationId = await organizationWith(own.writer, [...held, "free"]);
  const tries = counting();
  let waiting: Promise<string>[];
  {
    await using holder = await hold(organizationId, "held");
    expect(holder.rowCount).toBe(MANY);
    waiting = held.map((id) => write(own.writer, organizationId, rename(id, { bytes: MUCH, signal: tries })));
    // Each has been tried, and most are tried again.
    await expect.poll(() => tries.count, { interval: 5 }).toBeGreaterThan(3 * MANY);
    const meanwhile: number[] = [];
    for (let i = 0; i < 9; i++) {
      const before = tries.count;
      expect(await write(own.writer, organizationId, rename("free"))).toBe("done");
      meanwhile.push(tries.count - before);
    }
    expect(meanwhile.sort((a, b) => a - b)[4]).toBeLessThan(MANY / 4);
  }
  expect(new Set(await Promise.all(waiting))).toEqual(new Set(["done"]));
});

test("rule 36: an import of many rows whose entities are held waits for the lock time once, and writes the others", async () => {
  await using own = openWriter(500);
  const held = Array.from({ length: MANY / 2 }, (_, i) => `held ${i}`);
  const organizationId = await organizationWith(own.writer, [...held, "first", "last"]);
  await using _ = await hold(organizationId, "held");
  const commands = ["first", ...held, "last"].map((id) => rename(id));
  const begun = performance.now();
  const results = await writeGroup(own.orm, organizationId, commands);
  expect(performance.now() - begun).toBeGreaterThanOrEqual(500);
  // One after the other, at the least time that each waits for a lock, they would be at it for 10 s.
  expect(performance.now() - begun).toBeLessThan(5_000);
  const ends = results.map((result) => (result.kind === "refused" ? result.error.reason : result.kind));
  expect(ends).toEqual(["done", ...held.map(() => "WRITE_CONFLICT"), "done"]);
});

test("whoever looks for what was written is not called while commands only wait for their locks", async () => {
  const bell = createBell();
  let rings = 0;
  bell.hear(() => void (rings += 1));
  await using own = openWriter(20_000, bell);
  const held = Array.from({ length: 40 }, (_, i) => `held ${i}`);
  const organizationId = await organizationWith(own.writer, held);
  const tries = counting();
  let waiting: Promise<string>[];
  {
    await using _ = await hold(organizationId, "held");
    rings = 0;
    waiting = held.map((id) => write(own.writer, organizationId, rename(id, { signal: tries })));
    await expect.poll(() => tries.count).toBeGreaterThan(10 * held.length);
    expect(rings).toBe(0);
  }
  expect(new Set(await Promise.all(waiting))).toEqual(new Set(["done"]));
  expect(rings).toBeGreaterThan(0);
});
