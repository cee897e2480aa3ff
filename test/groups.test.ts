// Writes that commit together follow exactly the rules of single ones: the same answers, the same rows, the same
// events. Random lists are run both ways; then by hand what random lists cannot reach: other connections, lost
// connections, deadlines, deadlocks.
import { randomUUID } from "node:crypto";
import { createConnection, createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readConfig } from "../src/config.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { newEntity, remove, update } from "../src/domain/entity.ts";
import type { EntityState } from "../src/domain/entity-state.ts";
import { DomainError } from "../src/domain/errors.ts";
import { addExternalIds } from "../src/domain/external-ids.ts";
import { type Command, type OneEntityCommand, onlyOutcome, type Result, toOneEntity } from "../src/entities/command.ts";
import { createReader } from "../src/entities/reader.ts";
import { writeGroup as writeCommands } from "../src/entities/write-group.ts";
import { createWriter as createCommandWriter } from "../src/entities/writer.ts";
import {
  type Answer,
  call,
  type Ground,
  newOrganizationId,
  oneByOne,
  type Step,
  seed,
  stepsUpTo,
  together,
  traceOf,
} from "./commands.ts";
import { author, creation, requestOf } from "./commands-by-hand.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { forget, startService, type TestService } from "./harness.ts";

const SEED = Number(process.env.TEST_SEED ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env.TEST_RUNS ?? 200);

let service: TestService;
let orm: Orm;

/** A separate pool on the service's database. */
const openOrm = (at: { host?: string; port?: number } = {}, limits: { lockTimeoutMs?: number } = {}): Orm => {
  const { host, port } = { ...service.database, ...at };
  return createOrm(
    { ...service.database, host, port, user: "entity_service", password: RUNTIME_PASSWORD },
    { ...readConfig({}), ...limits },
  );
};

/** Commands written by hand have one entity each; handlers pass on a Command. */
type Given = Command | OneEntityCommand;
const commandOf = (given: Given): Command => ("targets" in given ? given : toOneEntity(given));

const writeGroup = (to: Orm, organizationId: string, commands: readonly Given[]) =>
  writeCommands(to, organizationId, commands.map(commandOf));

function createWriter(...given: Parameters<typeof createCommandWriter>) {
  const { write } = createCommandWriter(...given);
  return {
    write: (organizationId: string, command: Given, options?: Parameters<typeof write>[2]) =>
      write(organizationId, commandOf(command), options),
  };
}

beforeAll(async () => {
  service = await startService();
  orm = openOrm();
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

describe("rules 13, 33 to 39: a group obeys the rules of one by one", () => {
  test(`random lists of calls, one by one and as one group (TEST_SEED=${SEED})`, { timeout: 600_000 }, async () => {
    const reasons: Record<string, number> = {};
    await fc.assert(
      fc.asyncProperty(stepsUpTo(30), fc.boolean(), async (list, immutable) => {
        const policy = immutable ? "IMMUTABLE" : "MUTABLE_WITH_REASON";
        const [alone, grouped] = await Promise.all(
          [1, 2].map(async () => seed(service, orm, await newOrganizationId(service, policy))),
        );
        if (alone === undefined || grouped === undefined) throw new Error("no ground");
        const expected = await traceOf(service, alone, await oneByOne(orm, alone, list));
        const actual = await traceOf(service, grouped, await together(orm, grouped, list));
        expect(actual).toEqual(expected);
        for (const answer of expected.answers) {
          const { reason = "OK", replay } = answer as { reason?: string; replay?: boolean };
          const name = replay === true ? "REPLAYED" : reason;
          reasons[name] = (reasons[name] ?? 0) + 1;
        }
      }),
      { seed: SEED, numRuns: RUNS, endOnFailure: false },
    );
    console.log(`seed ${SEED}, ${RUNS} lists: ${JSON.stringify(reasons)}`);
  });
});

describe("the queue", () => {
  test(`many callers at once, each on its own entities, get what one by one would give (TEST_SEED=${SEED})`, {
    timeout: 600_000,
  }, async () => {
    const CALLERS = 12;
    await fc.assert(
      fc.asyncProperty(fc.array(stepsUpTo(12), { minLength: CALLERS, maxLength: CALLERS }), async (lists) => {
        const [queued, alone] = [await newOrganizationId(service), await newOrganizationId(service)];
        const grounds = async (organizationId: string) =>
          Promise.all(
            lists.map((_, caller) => seed(service, orm, organizationId, `c${String(caller).padStart(2, "0")}x`)),
          );
        const [busy, quiet] = [await grounds(queued), await grounds(alone)];
        const writer = createWriter(orm);
        const order: { caller: number; index: number }[] = [];
        const answers = await Promise.all(
          lists.map(async (list, caller) => {
            const own: Answer[] = [];
            for (const index of list.keys()) {
              own.push(
                await call(busy[caller] as Ground, list, index, (command) => {
                  order.push({ caller, index });
                  return writer.write(queued, command);
                }),
              );
            }
            return own;
          }),
        );
        const expected = lists.map((): Answer[] => []);
        const run = async (caller: number, index: number) => {
          const answer = await call(quiet[caller] as Ground, lists[caller] as Step[], index, (command) =>
            one(alone, command),
          );
          (expected[caller] as Answer[])[index] = answer;
        };
        for (const { caller, index } of order) await run(caller, index);
        // Calls that their handlers refuse have no order.
        for (const [caller, list] of lists.entries()) {
          for (const index of list.keys()) if (expected[caller]?.[index] === undefined) await run(caller, index);
        }
        for (const caller of lists.keys()) {
          const [actual, right] = await Promise.all([
            traceOf(service, busy[caller] as Ground, answers[caller] as Answer[]),
            traceOf(service, quiet[caller] as Ground, expected[caller] as Answer[]),
          ]);
          expect(actual).toEqual(right);
        }
      }),
      { seed: SEED, numRuns: Math.ceil(RUNS / 20) },
    );
  });

  test("128 updates of one entity are one group: versions without a gap, times that go forward, one transaction", async () => {
    const organizationId = await newOrganizationId(service);
    const { id } = await entityWith(organizationId, "one");
    const writer = createWriter(orm);
    const results = await Promise.all(
      Array.from({ length: 128 }, (_, i) => writer.write(organizationId, rename(id, `n${i}`))),
    );
    const states = results.map((result) => outcomeOf(result).after);
    expect(states.map((state) => state.version)).toEqual(Array.from({ length: 128 }, (_, i) => i + 2));
    for (const [i, result] of results.entries()) {
      const { before, after } = outcomeOf(result);
      expect([before?.name, after.name]).toEqual([i === 0 ? "one" : `n${i - 1}`, `n${i}`]);
      expect(after.updatedAt > (before as EntityState).updatedAt).toBe(true);
      expect(after.etag).not.toBe(before?.etag);
    }
    const events = await service.sql<{ entity_version: string; transaction: string }>(
      "select entity_version, xmin::text as transaction from entity_event where entity_id = $1 and entity_version > 1 order by 1",
      [id],
    );
    expect(events.map((event) => Number(event.entity_version))).toEqual(states.map((state) => state.version));
    expect(new Set(events.map((event) => event.transaction)).size).toBe(1);
  });

  test("a clock that stands still or goes back does not stop the times of an entity", async () => {
    const organizationId = await newOrganizationId(service);
    const { id } = await entityWith(organizationId, "ahead");
    await service.sql("update entity set updated_at = clock_timestamp() + interval '1 hour' where id = $1", [id]);
    const results = await writeGroup(
      orm,
      organizationId,
      ["a", "b", "c"].map((name) => rename(id, name)),
    );
    const times = results.map((result) => outcomeOf(result).after.updatedAt);
    expect(outcomeOf(results[0]).before?.updatedAt).toBe((times[0] as bigint) - 1n);
    expect(times[1]).toBe((times[0] as bigint) + 1n);
    expect(times[2]).toBe((times[0] as bigint) + 2n);
    await forget(service, [id]);
  });

  test("a command refused in the middle of a group leaves no trace", async () => {
    const organizationId = await newOrganizationId(service);
    const taken = await entityWith(organizationId, "taken", "taken");
    const requestId = randomUUID();
    const results = await writeGroup(orm, organizationId, [
      creation("before", "a"),
      { ...creation("refused", "taken"), request: requestOf(requestId) },
      { ...rename(taken.id, "refused"), etag: randomUUID(), request: requestOf(randomUUID()) },
      creation("after", "b"),
    ]);
    expect(results.map(endOf)).toEqual(["done", "DUPLICATE_EXTERNAL_ID", "ETAG_MISMATCH", "done"]);
    expect(await namesIn(organizationId)).toEqual(["after", "before", "taken"]);
    expect(
      await service.sql("select request_id from request_record where organization_id = $1", [organizationId]),
    ).toEqual([]);
    expect(
      await service.sql("select count(*)::int as n from entity_event where organization_id = $1", [organizationId]),
    ).toEqual([{ n: 3 }]);
    // Nothing was recorded: the same request_id with another request is a new one.
    const [again] = await writeGroup(orm, organizationId, [
      { ...creation("later", "c"), request: { ...requestOf(requestId), hash: Buffer.from("other") } },
    ]);
    expect(endOf(again)).toBe("done");
  });

  test("an id that another connection takes between the look and the insert: only who wanted it is refused", async () => {
    const organizationId = await newOrganizationId(service);
    const owner = await entityWith(organizationId, "owner", "owner-id");
    const requestId = randomUUID();
    await using other = await connection();
    await other.query("begin");
    await other.query(
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) values ($1, 'wanted', $2, false, now())",
      [organizationId, owner.id],
    );
    const writer = createWriter(orm);
    const writing = Promise.all([
      writer.write(organizationId, { ...creation("one", "one"), request: requestOf(requestId) }),
      writer.write(organizationId, { ...creation("two", "wanted"), request: requestOf(randomUUID()) }),
      writer.write(organizationId, creation("three", "three")),
      writer.write(organizationId, rename(owner.id, "owner renamed")),
    ]);
    await waitingOnLocks(1);
    await other.query("commit");
    expect((await writing).map(endOf)).toEqual(["done", "DUPLICATE_EXTERNAL_ID", "done", "done"]);
    expect(await namesIn(organizationId)).toEqual(["one", "owner renamed", "three"]);
    const [replayed] = await writeGroup(orm, organizationId, [
      { ...creation("one", "one"), request: requestOf(requestId) },
    ]);
    expect(replayed?.kind).toBe("replayed");
    expect(await service.sql("select 1 from request_record where organization_id = $1", [organizationId])).toHaveLength(
      1,
    );
    await forget(service, [owner.id]);
  });

  test("a row that another connection holds: only who writes to it is refused", async () => {
    const organizationId = await newOrganizationId(service);
    const [held, free] = [await entityWith(organizationId, "held"), await entityWith(organizationId, "free")];
    await using other = await connection();
    await other.query("begin");
    await other.query("select 1 from entity where id = $1 for update", [held.id]);
    await using limited = disposable(openOrm({}, { lockTimeoutMs: 200 }));
    const writer = createWriter(limited.orm);
    const results = await Promise.all([
      writer.write(organizationId, rename(free.id, "first")),
      writer.write(organizationId, rename(held.id, "refused")),
      writer.write(organizationId, rename(free.id, "second")),
    ]);
    expect(results.map(endOf)).toEqual(["done", "WRITE_CONFLICT", "done"]);
    await other.query("rollback");
    expect(await namesIn(organizationId)).toEqual(["held", "second"]);
  });

  test("a command that breaks the statement or its own rule fails alone", async () => {
    const organizationId = await newOrganizationId(service);
    const { id } = await entityWith(organizationId, "kept");
    const writer = createWriter(orm);
    const broken = (change: () => never | object): OneEntityCommand => ({
      ...creation("broken"),
      decide: () => change() as never,
    });
    const results = await Promise.allSettled([
      writer.write(organizationId, rename(id, "first")),
      writer.write(
        organizationId,
        broken(() => {
          throw new TypeError("a defect");
        }),
      ),
      // An unknown status: a check of the database refuses the row.
      writer.write(
        organizationId,
        broken(() => {
          const change = newEntity({ type: "person", countryCode: "AR", name: "n" }, "", 1n);
          return { ...change, values: { ...change.values, status: "odd" } };
        }),
      ),
      writer.write(organizationId, rename(id, "second")),
    ]);
    expect(results.map((result) => result.status)).toEqual(["fulfilled", "rejected", "rejected", "fulfilled"]);
    expect(String((results[1] as PromiseRejectedResult).reason)).toContain("a defect");
    expect(await namesIn(organizationId)).toEqual(["second"]);
  });

  test("a call past its deadline is in no group, and the others succeed", async () => {
    const organizationId = await newOrganizationId(service);
    const [one, two] = [await entityWith(organizationId, "one"), await entityWith(organizationId, "two")];
    await using other = await connection();
    await other.query("begin");
    // Not a row lock: a group does not wait for those.
    await other.query("lock table entity in access exclusive mode");
    const writer = createWriter(orm);
    // Two groups are under way and wait for the lock; later writes wait for them.
    const held = [writer.write(organizationId, rename(one.id, "a"))];
    await waitingOnLocks(1);
    held.push(writer.write(organizationId, rename(two.id, "b")));
    await waitingOnLocks(2);
    const deadline = new AbortController();
    const late = writer.write(organizationId, creation("late", "late"), { signal: deadline.signal });
    const inTime = writer.write(organizationId, creation("in time", "in-time"));
    const refused = expect(late).rejects.toThrow("too late");
    deadline.abort(new Error("too late"));
    await other.query("commit");
    await refused;
    expect((await Promise.all([...held, inTime])).map(endOf)).toEqual(["done", "done", "done"]);
    expect(await namesIn(organizationId)).toEqual(["a", "b", "in time"]);
  });

  test("a caller that leaves after its group began: the group goes on, its command too", async () => {
    const organizationId = await newOrganizationId(service);
    const { id } = await entityWith(organizationId, "kept");
    await using other = await connection();
    await other.query("begin");
    await other.query("select 1 from entity where id = $1 for update", [id]);
    const writer = createWriter(orm);
    const leaving = new AbortController();
    const group = [
      writer.write(organizationId, creation("first", "first"), { signal: leaving.signal }),
      writer.write(organizationId, rename(id, "second")),
    ];
    await waitingOnLocks(1);
    leaving.abort(new Error("gone"));
    await other.query("commit");
    expect((await Promise.all(group)).map(endOf)).toEqual(["done", "done"]);
    expect(await namesIn(organizationId)).toEqual(["first", "second"]);
  });

  test("a caller that leaves while its group goes back one by one: its command is not begun any more", async () => {
    const organizationId = await newOrganizationId(service);
    const owner = await entityWith(organizationId, "owner", "owner-id");
    await using other = await connection();
    await other.query("begin");
    await other.query(
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) values ($1, 'wanted', $2, false, now())",
      [organizationId, owner.id],
    );
    const writer = createWriter(orm);
    const leaving = new AbortController();
    const first = writer.write(organizationId, creation("never", "wanted"));
    const gone = expect(
      writer.write(organizationId, creation("gone", "gone"), { signal: leaving.signal }),
    ).rejects.toThrow("gone");
    const last = writer.write(organizationId, creation("last", "last"));
    await waitingOnLocks(1);
    leaving.abort(new Error("gone"));
    await other.query("commit");
    expect([endOf(await first), endOf(await last)]).toEqual(["DUPLICATE_EXTERNAL_ID", "done"]);
    await gone;
    expect(await namesIn(organizationId)).toEqual(["last", "owner"]);
    await forget(service, [owner.id]);
  });

  test("rule 10: of many entities with one tax id a group knows no more than it has read", async () => {
    const organizationId = await newOrganizationId(service);
    const made = await writeGroup(
      orm,
      organizationId,
      Array.from({ length: 25 }, (_, i) => creation(`n${i}`, undefined, "30-1")),
    );
    const ids = made.map((result) => outcomeOf(result).after.id).sort();
    const deletion = (id: string): OneEntityCommand => ({
      author,
      lookup: { by: "entity_id", key: id },
      decide: (entity, { now }) => remove(entity as EntityState, "because", now),
    });
    const byTaxId: OneEntityCommand = {
      author,
      lookup: { by: "tax_id", key: "301" },
      decide: (entity) => update(entity as EntityState, { name: "found" }, ""),
    };
    const results = await writeGroup(orm, organizationId, [
      ...ids.slice(0, 20).map(deletion),
      byTaxId,
      ...ids.slice(20, 23).map(deletion),
      byTaxId,
      deletion(ids[23] as string),
      byTaxId,
    ]);
    expect(results.map(endOf)).toEqual([
      ...Array(20).fill("done"),
      "AMBIGUOUS_TAX_ID_LOOKUP",
      ...Array(3).fill("done"),
      "AMBIGUOUS_TAX_ID_LOOKUP",
      "done",
      "done",
    ]);
    const refused = results[20] as { error: DomainError };
    expect(refused.error.metadata.candidates).toBe(ids.slice(20).join());
    expect(outcomeOf(results.at(-1)).after.id).toBe(ids[24]);
  });
});

describe("two processes", () => {
  test("rule 5: a lookup that waits on a lock is resolved again under it", async () => {
    const organizationId = await newOrganizationId(service);
    const [old, next] = [await entityWith(organizationId, "old", "moving"), await entityWith(organizationId, "next")];
    await using other = await connection();
    await other.query("begin");
    // What ChangeExternalId and AssignExternalId do, by hand and uncommitted.
    await other.query("select 1 from entity where id = any($1) order by id for no key update", [[old.id, next.id]]);
    await other.query("delete from external_id where organization_id = $1 and external_id = 'moving'", [
      organizationId,
    ]);
    await other.query(
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) values ($1, 'moving', $2, true, now())",
      [organizationId, next.id],
    );
    await other.query(
      `update entity set external_id = case when id = $1 then 'moving' end,
         external_ids = case when id = $1 then jsonb_build_array(jsonb_build_array('moving', '', true, now())) else '[]' end
       where id = any($2)`,
      [next.id, [old.id, next.id]],
    );
    const writer = createWriter(orm);
    const byExternalId: OneEntityCommand = {
      author,
      lookup: { by: "external_id", key: "moving" },
      decide: (entity) => update(entity as EntityState, { name: "written" }, ""),
    };
    const writing = [
      writer.write(organizationId, byExternalId),
      writer.write(organizationId, rename(old.id, "still old")),
    ];
    await waitingOnLocks(1);
    await other.query("commit");
    const [found] = await Promise.all(writing);
    expect(outcomeOf(found).after.id).toBe(next.id);
    expect(await namesIn(organizationId)).toEqual(["still old", "written"]);
    await forget(service, [old.id, next.id]);
  });

  test("two writers over the same entities and external ids in opposite orders: nothing is lost, nothing fails", {
    timeout: 240_000,
  }, async () => {
    const ROUNDS = 300;
    const organizationId = await newOrganizationId(service);
    const made = await writeGroup(
      orm,
      organizationId,
      Array.from({ length: 6 }, (_, i) => creation("0", `own-${i}`)),
    );
    const ids = made.map((result) => outcomeOf(result).after.id);
    await using second = disposable(openOrm());
    const writers = [createWriter(orm), createWriter(second.orm)];
    const ends: Record<string, number> = {};
    let increments = 0;
    const count = (entity: EntityState | null) =>
      update(entity as EntityState, { name: String(Number(entity?.name) + 1) }, "");
    for (let round = 0; round < ROUNDS; round++) {
      const results = await Promise.all(
        writers.flatMap((writer, w) => {
          const order = <T>(items: T[]) => (w === 0 ? items : items.toReversed());
          const updates = order(ids).map(
            (id, i): OneEntityCommand =>
              // By id and by external id in turn: both take the lock.
              ({
                author,
                lookup:
                  i % 2 === 0 ? { by: "entity_id", key: id } : { by: "external_id", key: `own-${ids.indexOf(id)}` },
                decide: count,
              }),
          );
          const claims = order([0, 1, 2, 3]).map((n): OneEntityCommand => {
            const externalIds = order([`x${round}-${n}`, `y${round}-${n}`]);
            return round % 2 === 0
              ? { ...creation("created", externalIds[0]), claims: externalIds }
              : {
                  author,
                  lookup: { by: "entity_id", key: order(ids)[n] as string },
                  claims: externalIds,
                  decide: (entity, { now }) =>
                    (entity as EntityState).externalIds.length > 80
                      ? null
                      : addExternalIds(
                          entity as EntityState,
                          {
                            externalIds: externalIds.map((externalId) => ({ externalId, type: "", primary: false })),
                            reason: "",
                          },
                          now,
                        ),
                };
          });
          return [...updates, ...claims].map((command) =>
            writer.write(organizationId, { ...command, request: requestOf(randomUUID()) }),
          );
        }),
      );
      results.forEach((result, i) => {
        const end = endOf(result);
        ends[end] = (ends[end] ?? 0) + 1;
        if (i % 10 < 6 && end === "done") increments += 1;
      });
    }
    expect(Object.keys(ends).filter((end) => !["done", "DUPLICATE_EXTERNAL_ID"].includes(end))).toEqual([]);
    expect(increments).toBe(ROUNDS * 12);
    const rows = await service.sql<{ name: string }>("select name from entity where id = any($1)", [ids]);
    expect(rows.map((row) => row.name)).toEqual(Array(6).fill(String(ROUNDS * 2)));
    console.log(`${ROUNDS} rounds of two writers: ${JSON.stringify(ends)}`);
  });

  test("rule 17: upserts of one external id from two writers create once and update the rest", async () => {
    const organizationId = await newOrganizationId(service);
    await using second = disposable(openOrm());
    const writers = [createWriter(orm), createWriter(second.orm)];
    for (let round = 0; round < 20; round++) {
      const upsert = (i: number): OneEntityCommand => ({
        author,
        lookup: { by: "external_id", key: `up-${round}` },
        allowMissing: true,
        claims: [`up-${round}`],
        decide: (entity, { now }) =>
          entity === null
            ? newEntity({ type: "person", countryCode: "AR", name: "0", externalId: `up-${round}` }, "", now)
            : update(entity, { name: `${i}` }, ""),
      });
      const results = await Promise.all(
        Array.from({ length: 16 }, (_, i) =>
          (writers[i % 2] as (typeof writers)[0]).write(organizationId, upsert(i + 1)),
        ),
      );
      expect(results.map(endOf)).toEqual(Array(16).fill("done"));
      expect(results.filter((result) => outcomeOf(result).before === null)).toHaveLength(1);
      expect(results.map((result) => outcomeOf(result).after.version).sort((a, b) => a - b)).toEqual(
        Array.from({ length: 16 }, (_, i) => i + 1),
      );
    }
  });
});

describe("lost connections", () => {
  /** Sends the commands at once, each time with the same request ids; returns how each ended. */
  function senderOf(
    writer: ReturnType<typeof createWriter>,
    organizationId: string,
    commands: OneEntityCommand[],
  ): () => Promise<string[]> {
    const requests = commands.map((command) => ({ ...command, request: requestOf(randomUUID()) }));
    return () =>
      Promise.all(
        requests.map((command) =>
          writer.write(organizationId, command).then(endOf, (error: DomainError) => error.reason ?? String(error)),
        ),
      );
  }

  /** A group of three that has sent its COMMIT and waits for the id that another connection holds. */
  async function groupAtTheInsert(through: Orm) {
    const organizationId = await newOrganizationId(service);
    const owner = await entityWith(organizationId, "owner", "owner-id");
    const other = await connection();
    await other.query("begin");
    await other.query(
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) values ($1, 'held', $2, false, now())",
      [organizationId, owner.id],
    );
    const commands = [creation("one", "one"), creation("two", "held"), rename(owner.id, "three")];
    const send = senderOf(createWriter(through), organizationId, commands);
    const ends = send();
    const [backend] = await waitingOnLocks(1);
    return { organizationId, other, ends, send, backend: backend as number };
  }

  const exactlyOnce = async (organizationId: string) => {
    expect(await namesIn(organizationId)).toEqual(["one", "three", "two"]);
    expect(await service.sql("select 1 from entity_event where organization_id = $1", [organizationId])).toHaveLength(
      4,
    );
    expect(await service.sql("select 1 from request_record where organization_id = $1", [organizationId])).toHaveLength(
      3,
    );
  };

  test("the backend ends before the COMMIT: DATABASE_UNAVAILABLE to all, nothing is written, a retry writes once", async () => {
    const { organizationId, other, ends, send, backend } = await groupAtTheInsert(orm);
    await service.sql("select pg_terminate_backend($1)", [backend]);
    expect(await ends).toEqual(Array(3).fill("DATABASE_UNAVAILABLE"));
    await other.query("rollback");
    await other.end();
    expect(await namesIn(organizationId)).toEqual(["owner"]);
    expect(await send()).toEqual(["done", "done", "done"]);
    await exactlyOnce(organizationId);
    expect(await send()).toEqual(["replayed", "replayed", "replayed"]);
  });

  test("the answers from the first insert to the COMMIT are lost, and it commits: COMMIT_UNKNOWN to all, a retry replays", async () => {
    await using proxy = await openProxy();
    await using through = disposable(openOrm(proxy));
    const { organizationId, other, ends, send } = await groupAtTheInsert(through.orm);
    proxy.mute();
    await other.query("rollback");
    await other.end();
    await expect.poll(() => namesIn(organizationId)).toEqual(["one", "three", "two"]);
    proxy.cut();
    expect(await ends).toEqual(Array(3).fill("COMMIT_UNKNOWN"));
    expect(await send()).toEqual(["replayed", "replayed", "replayed"]);
    await exactlyOnce(organizationId);
  });

  test("the COMMIT never arrives: COMMIT_UNKNOWN to all, nothing is written, a retry writes once", async () => {
    await using proxy = await openProxy();
    await using through = disposable(openOrm(proxy));
    const organizationId = await newOrganizationId(service);
    const commands = ["one", "two", "three"].map((name) => creation(name, name));
    const send = senderOf(createWriter(through.orm), organizationId, commands);
    proxy.cutAtCommit();
    expect(await send()).toEqual(Array(3).fill("COMMIT_UNKNOWN"));
    expect(await namesIn(organizationId)).toEqual([]);
    expect(await send()).toEqual(["done", "done", "done"]);
    expect(await send()).toEqual(["replayed", "replayed", "replayed"]);
    expect(await namesIn(organizationId)).toEqual(["one", "three", "two"]);
  });

  test("the answer to the COMMIT alone is lost: COMMIT_UNKNOWN to all, a retry replays", async () => {
    await using proxy = await openProxy();
    await using through = disposable(openOrm(proxy));
    const organizationId = await newOrganizationId(service);
    const commands = ["one", "two", "three"].map((name) => creation(name, name));
    const send = senderOf(createWriter(through.orm), organizationId, commands);
    proxy.cutAtCommitted();
    expect(await send()).toEqual(Array(3).fill("COMMIT_UNKNOWN"));
    expect(await send()).toEqual(["replayed", "replayed", "replayed"]);
    expect(await namesIn(organizationId)).toEqual(["one", "three", "two"]);
  });

  test("what a group has committed stays done when the connection is lost in its next transaction", async () => {
    await using proxy = await openProxy();
    await using through = disposable(openOrm(proxy));
    const organizationId = await newOrganizationId(service);
    const requestId = randomUUID();
    // The second command with the same request_id goes into a later transaction than the first.
    const results = () =>
      writeGroup(through.orm, organizationId, [
        { ...creation("one", "one"), request: requestOf(requestId) },
        { ...creation("one", "one"), request: requestOf(requestId) },
        creation("two", "two"),
      ]);
    proxy.cutAtCommit(1);
    expect((await results()).map(endOf)).toEqual(["done", "COMMIT_UNKNOWN", "COMMIT_UNKNOWN"]);
    expect(await namesIn(organizationId)).toEqual(["one"]);
    expect((await results()).map(endOf)).toEqual(["replayed", "replayed", "done"]);
  });

  test("of a group that goes back one by one each is told what became of it, those too whose turn never came", async () => {
    await using proxy = await openProxy();
    await using through = disposable(openOrm(proxy));
    const organizationId = await newOrganizationId(service);
    const owner = await entityWith(organizationId, "owner", "owner-id");
    await using other = await connection();
    await other.query("begin");
    await other.query(
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) values ($1, 'held', $2, false, now())",
      [organizationId, owner.id],
    );
    const results = writeGroup(through.orm, organizationId, [
      creation("one", "one"),
      creation("two", "held"),
      creation("three", "three"),
      creation("four", "four"),
    ]);
    await waitingOnLocks(1);
    proxy.cutAtCommit(1);
    await other.query("commit");
    expect((await results).map(endOf)).toEqual([
      "done",
      "DUPLICATE_EXTERNAL_ID",
      "COMMIT_UNKNOWN",
      "DATABASE_UNAVAILABLE",
    ]);
    expect(await namesIn(organizationId)).toEqual(["one", "owner"]);
    await forget(service, [owner.id]);
  });
});

describe("reads that join", () => {
  test("a read mask and an error are those of their own call", async () => {
    const a = await service.client.entities.createEntity({
      entity: { type: 1, name: "Join A", countryCode: "AR", externalId: `join-${randomUUID()}`, taxId: "77-1" },
    });
    const b = await service.client.entities.createEntity({
      entity: { type: 1, name: "Join B", countryCode: "AR", taxId: "77-1" },
    });
    const [idA, idB] = [a.entity?.id ?? "", b.entity?.id ?? ""];
    const get = (lookup: { case: "entityId" | "externalId" | "taxId"; value: string }, paths: string[] = []) =>
      service.client.entities.getEntity({ lookup: { by: lookup }, readMask: { paths } }).then(
        ({ entity }) =>
          Object.keys(entity ?? {}).length > 0 && [entity?.id, entity?.name, entity?.countryCode].join("|"),
        (error) => error.rawMessage,
      );
    for (let round = 0; round < 10; round++) {
      const answers = await Promise.all([
        get({ case: "entityId", value: idA }),
        get({ case: "entityId", value: idA }, ["name"]),
        get({ case: "externalId", value: a.entity?.externalId ?? "" }, ["id"]),
        get({ case: "entityId", value: randomUUID() }),
        get({ case: "taxId", value: "771" }),
        get({ case: "entityId", value: idB }, ["country_code"]),
        get({ case: "entityId", value: "no id" }),
      ]);
      expect(answers).toEqual([
        `${idA}|Join A|AR`,
        "|Join A|",
        `${idA}||`,
        "Entity not found",
        "Several entities have this tax id: use entity_id or external_id",
        "||AR",
        "lookup.entity_id: must be a UUID of the form 8-4-4-4-12",
      ]);
    }
  });

  test("a failure of the database is that of all joined callers, and the next read works", async () => {
    const organizationId = await newOrganizationId(service);
    const { id } = await entityWith(organizationId, "read");
    await using limited = disposable(openOrm({}, { lockTimeoutMs: 200 }));
    const reader = createReader(limited.orm);
    const find = () => reader.find(organizationId, [{ by: "entity_id", key: id }]);
    await using other = await connection();
    await other.query("begin");
    await other.query("lock table entity in access exclusive mode");
    const reasons = await Promise.all(
      Array.from({ length: 10 }, () =>
        find().then(
          () => "found",
          (error: DomainError) => error.reason,
        ),
      ),
    );
    expect(reasons).toEqual(Array(10).fill("DATABASE_UNAVAILABLE"));
    await other.query("rollback");
    expect((await find()).entities.get(id)?.name).toBe("read");

    // The connection ends during the read.
    await other.query("begin");
    await other.query("lock table entity in access exclusive mode");
    const lost = Promise.all(
      Array.from({ length: 10 }, () =>
        find().then(
          () => "found",
          (error: DomainError) => error.reason,
        ),
      ),
    );
    const [backend] = await waitingOnLocks(1);
    await service.sql("select pg_terminate_backend($1)", [backend]);
    await other.query("rollback");
    expect(new Set(await lost)).toContain("DATABASE_UNAVAILABLE");
    expect((await find()).entities.get(id)?.name).toBe("read");
  });

  test("a read whose plan a migration has outdated plans anew", async () => {
    const organizationId = await newOrganizationId(service);
    const { id } = await entityWith(organizationId, "planned");
    await using own = disposable(openOrm());
    const reader = createReader(own.orm);
    const find = () => reader.find(organizationId, [{ by: "entity_id", key: id }]);
    await find();
    await service.sql("alter table entity alter column tax_id_check type varchar(40)");
    expect((await find()).entities.get(id)?.name).toBe("planned");
    await service.sql("alter table entity alter column tax_id_check type text");
    expect((await find()).entities.get(id)?.name).toBe("planned");
  });

  test("rule 2: two organizations that write and read in parallel on the same keys see only their own", async () => {
    const organizations = await Promise.all([newOrganizationId(service), newOrganizationId(service)]);
    const [writer, reader] = [createWriter(orm), createReader(orm)];
    for (let round = 0; round < 30; round++) {
      const results = await Promise.all(
        organizations.flatMap((organizationId, o) =>
          Array.from({ length: 10 }, async (_, i) => {
            const written = await writer.write(organizationId, creation(`canary ${o}`, `same-${round}-${i}`, "99-9"));
            const { hits, entities } = await reader.find(organizationId, [
              { by: "external_id", key: `same-${round}-${i}` },
              { by: "tax_id", key: "999" },
            ]);
            return { o, organizationId, written, hits, entities };
          }),
        ),
      );
      for (const { o, organizationId, written, hits, entities } of results) {
        expect(endOf(written)).toBe("done");
        expect(hits.externalIds.size).toBeGreaterThan(0);
        for (const state of entities.values())
          expect([state.organizationId, state.name]).toEqual([organizationId, `canary ${o}`]);
      }
    }
    for (const [o, organizationId] of organizations.entries()) {
      expect(await namesIn(organizationId)).toEqual(Array(300).fill(`canary ${o}`));
    }
  });
});

// --- OneEntityCommands by hand ---------------------------------------------------------------------------

const rename = (id: string, name: string): OneEntityCommand => ({
  author,
  lookup: { by: "entity_id", key: id },
  decide: (entity) => update(entity as EntityState, { name }, ""),
});

async function one(organizationId: string, command: Given): Promise<Result> {
  const [result] = await writeGroup(orm, organizationId, [command]);
  return result as Result;
}

const entityWith = async (organizationId: string, name: string, externalId?: string) =>
  outcomeOf(await one(organizationId, creation(name, externalId))).after;

function outcomeOf(result: Result | undefined) {
  if (result?.kind !== "done") throw new Error(`not done: ${endOf(result)}`);
  return onlyOutcome(result.outcomes);
}

function endOf(result: Result | undefined): string {
  if (result?.kind === "refused") return result.error.reason;
  if (result?.kind === "failed")
    return result.error instanceof DomainError ? result.error.reason : String(result.error);
  return result?.kind ?? "nothing";
}

const namesIn = async (organizationId: string) =>
  (
    await service.sql<{ name: string }>("select name from entity where organization_id = $1 order by name", [
      organizationId,
    ])
  ).map((row) => row.name);

const disposable = (opened: Orm) => ({ orm: opened, [Symbol.asyncDispose]: () => opened.close(true) });

/** A connection as the owner. */
async function connection(): Promise<pg.Client & AsyncDisposable> {
  const client = new pg.Client(service.database);
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

/** Waits until N backends wait for locks; returns their process ids. */
async function waitingOnLocks(count: number): Promise<number[]> {
  for (;;) {
    const rows = await service.sql<{ pid: number }>(
      "select pid from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'",
      [service.database.database],
    );
    if (rows.length >= count) return rows.map((row) => row.pid);
    await sleep(5);
  }
}

interface Proxy extends AsyncDisposable {
  host: string;
  port: number;
  /** From now on nothing from the server reaches the service. */
  mute(): void;
  /** Ends all connections. */
  cut(): void;
  /** Ends the connection that sends the next COMMIT, or the one after `skip` others, instead of forwarding it. */
  cutAtCommit(skip?: number): void;
  /** Forwards the next COMMIT and ends the connection when its answer arrives. */
  cutAtCommitted(): void;
}

/** A proxy between the service and the server. */
async function openProxy(): Promise<Proxy> {
  const { host, port } = service.database;
  const sockets = new Set<Socket>();
  let muted = false;
  let armed: "commit" | "committed" | undefined;
  let skipped = 0;
  const server = createServer((near) => {
    const far = host.startsWith("/") ? createConnection(`${host}/.s.PGSQL.${port}`) : createConnection(port, host);
    const end = () => {
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on("error", end).on("close", () => {
        sockets.delete(socket);
        end();
      });
    }
    near.on("data", (chunk) => {
      const cuts = armed === "commit" && chunk.includes("commit\0") && skipped-- === 0;
      if (cuts) {
        armed = undefined;
        end();
      } else far.write(chunk);
    });
    far.on("data", (chunk) => {
      if (armed === "committed" && chunk.includes("COMMIT\0")) {
        armed = undefined;
        end();
      } else if (!muted) near.write(chunk);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cut = () => {
    muted = false;
    for (const socket of sockets) socket.destroy();
  };
  return {
    host: "127.0.0.1",
    port: (server.address() as { port: number }).port,
    mute: () => (muted = true),
    cut,
    cutAtCommit(skip = 0) {
      armed = "commit";
      skipped = skip;
    },
    cutAtCommitted: () => (armed = "committed"),
    async [Symbol.asyncDispose]() {
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
