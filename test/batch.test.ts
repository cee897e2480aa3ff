// Statements that travel together on one connection of a real PostgreSQL: what each of them is told, whatever happens to
// those around it, and that the connection goes on or ends.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { CommitUnknownError, NamedStatementClient } from "../src/db/named-statements.ts";
import { startService, type TestService } from "./harness.ts";
import { type DatabaseProxy, startProxy } from "./wall-harness.ts";

let service: TestService;
let proxy: DatabaseProxy;

beforeAll(async () => {
  service = await startService();
  proxy = await startProxy();
});
afterAll(async () => {
  await proxy[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

type Client = NamedStatementClient & AsyncDisposable;

/** A connection of the owner, as the pool makes its own. */
async function open(config: pg.ClientConfig = {}): Promise<Client> {
  const client = new NamedStatementClient({ ...service.database, ...config, pipeline: true } as pg.ClientConfig);
  client.on("error", () => {});
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

const endOf = (sent: Promise<{ rows: Record<string, unknown>[] }>): Promise<unknown> =>
  sent.then(
    ({ rows }) => rows,
    (error) => error.code ?? error.cause?.message ?? error.message,
  );
const endsOf = (...sent: Parameters<typeof endOf>[0][]) => Promise.all(sent.map(endOf));

const pidOf = async (client: NamedStatementClient) =>
  (await client.send("select pg_backend_pid() as pid")).rows[0]?.pid as number;
const terminate = (pid: number) => service.sql("select pg_terminate_backend($1)", [pid]);
const until = async (state: string, pid: number) => {
  const is = () => service.sql("select 1 from pg_stat_activity where pid = $1 and wait_event = $2", [pid, state]);
  await expect.poll(is).toHaveLength(1);
};

/** Whether what is sent arrives, and what comes is told. */
const goesOn = async (client: NamedStatementClient) =>
  expect(await endsOf(client.send("select 1 as a"), client.send("select $1::int as b", [2]))).toEqual([
    [{ a: 1 }],
    [{ b: 2 }],
  ]);

const DIVISION_BY_ZERO = "22012";
const NO_TABLE = "42P01";
const PLAN_CHANGED = "0A000";

test("a password that its pool hides is used", () => {
  const config = Object.defineProperty({ user: "somebody" }, "password", { value: "hidden", enumerable: false });
  expect(new NamedStatementClient(config).password).toBe("hidden");
});

describe("statements of one turn", () => {
  test("are one write with one Sync, and each has its own rows", async () => {
    await using client = await open();
    const { stream } = (client as unknown as { connection: { stream: { write(bytes: Buffer): boolean } } }).connection;
    const write = vi.spyOn(stream, "write");
    const ends = await endsOf(
      client.send("select $1::int as a", [1]),
      client.send("select 2 as b union all select 3 order by 1"),
      client.send("select 1 as none where false"),
      client.send("select $1::int as a", [4]),
    );
    expect(ends).toEqual([[{ a: 1 }], [{ b: 2 }, { b: 3 }], [], [{ a: 4 }]]);
    expect(write).toHaveBeenCalledTimes(1);
    const sent = String(write.mock.calls[0]?.[0].toString("latin1"));
    expect(sent.split("S\0\0\0\x04")).toHaveLength(2);
  });

  test("keep their order among those that are sent otherwise", async () => {
    await using client = await open();
    await client.query("create temp table kept_order (n serial, way text)");
    const insert = (way: string) => ["insert into kept_order (way) values ($1)", [way]] as [string, string[]];
    await Promise.all([
      client.send(...insert("sent")),
      client.query(...insert("query")),
      client.send(...insert("sent again")),
      client.sendBehind((add) => add("select 1", []), ...insert("behind")),
    ]);
    expect((await client.send("select way from kept_order order by n")).rows.map(({ way }) => way)).toEqual([
      "sent",
      "query",
      "sent again",
      "behind",
    ]);
  });

  test("an error in the middle: those before are answered, those behind fail with the same error, and the connection goes on", async () => {
    await using client = await open();
    const ends = () =>
      endsOf(
        client.send("select 1 as before"),
        client.send("select 1 / $1::int as broken", [0]),
        client.send("select 2 as behind"),
        client.send("select 3 as last"),
      );
    for (let round = 0; round < 3; round++) {
      expect(await ends()).toEqual([[{ before: 1 }], DIVISION_BY_ZERO, DIVISION_BY_ZERO, DIVISION_BY_ZERO]);
      await goesOn(client);
    }
    // Those that have never been answered yet, and the one that fails for other values.
    expect(await endsOf(client.send("select 2 as behind"), client.send("select 1 / $1::int as broken", [1]))).toEqual([
      [{ behind: 2 }],
      [{ broken: 1 }],
    ]);
  });

  test("nothing of them is done where one fails outside of a transaction block", async () => {
    await using client = await open();
    await client.query("create temp table all_or_none (n int)");
    await endsOf(client.send("insert into all_or_none values (1)"), client.send("select 1 / $1::int", [0]));
    expect((await client.send("select n from all_or_none")).rows).toEqual([]);
  });

  test("a COMMIT behind an error fails with that error, and is answered anew afterwards", async () => {
    await using client = await open();
    const ends = await endsOf(client.send("begin"), client.send("select 1 / $1::int", [0]), client.send("commit"));
    expect(ends).toEqual([[], DIVISION_BY_ZERO, DIVISION_BY_ZERO]);
    await client.query("rollback");
    expect(await endsOf(client.send("begin"), client.send("commit"))).toEqual([[], []]);
    await client.send("begin");
    await endOf(client.send("select 1 / $1::int", [0]));
    // In a batch of its own it is answered, with another word.
    await expect(client.send("commit")).rejects.toThrow("not committed: ROLLBACK");
    await goesOn(client);
  });

  test("a value of a row that cannot be read fails its own statement alone", async () => {
    await using client = await open();
    client.setTypeParser(pg.types.builtins.INET as never, () => {
      throw new Error("unreadable");
    });
    const ends = await endsOf(
      client.send("select 1 as a"),
      client.send("select '::1'::inet as b"),
      client.send("select 3 as c"),
    );
    expect(ends).toEqual([[{ a: 1 }], "unreadable", [{ c: 3 }]]);
  });
});

describe("values", () => {
  test("null, empty and odd ones come back as they went", async () => {
    await using client = await open();
    const texts = ["", " ", "null", "NULL", "{}", '"', "\\", "'; --", "a,b", "ñ 漢 🙂", "\u2028", "x".repeat(100_000)];
    const select = "select $1::text as one, $2::text[] as many, $3::bytea as bytes, $4::jsonb as document";
    for (const text of [null, ...texts]) {
      const bytes = text === null ? null : Buffer.from(text);
      const { rows } = await client.send(select, [text, [text, ...texts, null], bytes, JSON.stringify({ text })]);
      expect(rows).toEqual([{ one: text, many: [text, ...texts, null], bytes, document: { text } }]);
    }
    expect((await client.send(select, [undefined, [], Buffer.alloc(0), null])).rows).toEqual([
      { one: null, many: [], bytes: Buffer.alloc(0), document: null },
    ]);
  });

  test("a row has its own nulls, not the values of the row before", async () => {
    await using client = await open();
    const { rows } = await client.send("select nullif(n, 2) as a, nullif(n, 1) as b from generate_series(1, 3) n");
    expect(rows).toEqual([
      { a: 1, b: null },
      { a: null, b: 2 },
      { a: 3, b: 3 },
    ]);
  });

  test("one that cannot be encoded: nothing of the batch is sent, its own error is told, and the connection goes on", async () => {
    await using client = await open();
    const circular: Record<string, unknown> = {};
    circular.self = circular;
    for (let round = 0; round < 2; round++) {
      const ends = await endsOf(
        client.send("select $1::int as first", [1]),
        client.send("select $1::jsonb as document", [circular]),
        client.send("select 3 as last"),
      );
      for (const end of ends) expect(end).toContain("circular");
      await goesOn(client);
    }
    expect(await endOf(client.send("select $1::int as first", [1]))).toEqual([{ first: 1 }]);
  });

  test("a COMMIT that was never sent, for a value that cannot be encoded, is in no doubt", async () => {
    await using client = await open();
    await client.send("begin");
    const circular: Record<string, unknown> = {};
    circular.self = circular;
    const [, committed] = await Promise.allSettled([
      client.send("select $1::jsonb as document", [circular]),
      client.send("commit"),
    ]);
    expect(committed.status).toBe("rejected");
    expect((committed as PromiseRejectedResult).reason).not.toBeInstanceOf(CommitUnknownError);
    await client.query("rollback");
    await goesOn(client);
  });

  test("one that the server refuses, as a text with NUL, is the error of its statement", async () => {
    await using client = await open();
    expect(await endsOf(client.send("select 1 as a"), client.send("select $1::text as b", ["a\0b"]))).toEqual([
      [{ a: 1 }],
      "22021",
    ]);
    await goesOn(client);
  });
});

describe("prepared statements", () => {
  const preparedOn = async (client: NamedStatementClient) =>
    (await client.query("select count(*)::int as n from pg_prepared_statements")).rows[0].n as number;

  test("one that failed when it was first prepared is prepared anew, as are those that came with it", async () => {
    await using client = await open();
    const batch = () =>
      endsOf(
        client.send("select 1 as before"),
        client.send("select n from made_later"),
        client.send("select $1::text as behind", ["x"]),
      );
    expect(await batch()).toEqual([[{ before: 1 }], NO_TABLE, NO_TABLE]);
    expect(await batch()).toEqual([[{ before: 1 }], NO_TABLE, NO_TABLE]);
    await service.sql("create table made_later as select 7 as n");
    expect(await batch()).toEqual([[{ before: 1 }], [{ n: 7 }], [{ behind: "x" }]]);
    expect(await batch()).toEqual([[{ before: 1 }], [{ n: 7 }], [{ behind: "x" }]]);
    await service.sql("drop table made_later");
    expect(await batch()).toEqual([[{ before: 1 }], NO_TABLE, NO_TABLE]);
    await goesOn(client);
  });

  test("one whose plan a migration outdates between two uses fails once, and then has the new columns", async () => {
    await using client = await open();
    await service.sql("create table altered as select 1 as a");
    const batch = () =>
      endsOf(client.send("select 1 as before"), client.send("select * from altered where $1", [true]));
    expect(await batch()).toEqual([[{ before: 1 }], [{ a: 1 }]]);
    await service.sql("alter table altered alter a type text, add b int");
    expect(await batch()).toEqual([[{ before: 1 }], PLAN_CHANGED]);
    expect(await batch()).toEqual([[{ before: 1 }], [{ a: "1", b: null }]]);
    await service.sql("drop table altered");
  });

  test("one that is prepared anew is described anew: a migration may have changed it meanwhile", async () => {
    await using client = await open();
    await service.sql("create table described as select 1 as a");
    const select = () => client.send("select * from described where $1", [true]);
    expect(await endsOf(select(), client.send("select 1 / $1::int", [0]))).toEqual([[{ a: 1 }], DIVISION_BY_ZERO]);
    await service.sql("alter table described alter a type text, add b int");
    expect(await endOf(select())).toEqual([{ a: "1", b: null }]);
    await service.sql("drop table described");
  });

  test("one that was in flight when another's plan turned out to be outdated keeps its rows, then and later", async () => {
    await using client = await open();
    await service.sql("create table outdated as select 1 as a");
    const SLOW = "select 'kept' as b, pg_sleep($1)::text as slept";
    const both = () =>
      endsOf(
        client.sendBehind((add) => add("select 1", []), "select * from outdated where $1", [true]),
        client.sendBehind((add) => add("select 1", []), SLOW, [0.1]),
      );
    const kept = [{ b: "kept", slept: "" }];
    expect(await both()).toEqual([[{ a: 1 }], kept]);
    await service.sql("alter table outdated alter a type text");
    expect(await both()).toEqual([PLAN_CHANGED, kept]);
    expect(await both()).toEqual([[{ a: "1" }], kept]);
    await service.sql("drop table outdated");
  });

  test("more than 500 of them are all answered, and no more are kept", async () => {
    await using client = await open();
    const all = Array.from({ length: 620 }, (_, i) => i);
    for (let round = 0; round < 2; round++) {
      const ends = await endsOf(...all.map((i) => client.send(`select $1::int + ${i} as n${i}`, [round])));
      expect(ends).toEqual(all.map((i) => [{ [`n${i}`]: round + i }]));
    }
    expect(await preparedOn(client)).toBeLessThanOrEqual(500);
    // One that has no name is described each time, whatever the one before it was.
    expect(await endsOf(client.send("select 1 as x, 2 as y"), client.send("select 3 as z"))).toEqual([
      [{ x: 1, y: 2 }],
      [{ z: 3 }],
    ]);
    await client.send("begin");
    expect(await endOf(client.send("commit"))).toEqual([]);
  });
});

describe("a connection that ends", () => {
  test("while nothing is asked on it: what is asked next fails", async () => {
    await using client = await open();
    const gone = new Promise((resolve) => client.once("error", resolve));
    await terminate(await pidOf(client));
    await gone;
    expect(await endOf(client.send("select 1"))).toMatch(/not queryable/);
  });

  test("under a statement: those before it are answered, it and those behind it have the server's word", async () => {
    await using client = await open();
    const pid = await pidOf(client);
    const ends = endsOf(
      client.send("select 1 as before, repeat('x', 20000) as long"),
      client.send("select pg_sleep(30)"),
      client.send("select 2 as behind"),
    );
    await until("PgSleep", pid);
    const later = endOf(client.send("select 3"));
    await terminate(pid);
    const [before, under, behind] = await ends;
    expect(before).toHaveLength(1);
    expect([under, behind]).toEqual(["57P01", "57P01"]);
    // It was in flight too, and nothing was said of it.
    expect(await later).toMatch(/terminated|ECONNRESET/);
    expect(await endOf(client.send("select 1"))).toMatch(/not queryable/);
  });

  test("in a transaction between two statements: the next ones fail, and the rollback fails nobody", async () => {
    await using client = await open();
    const pid = await pidOf(client);
    await client.send("begin");
    const gone = new Promise((resolve) => client.once("error", resolve));
    await terminate(pid);
    await gone;
    const [one, commit] = await Promise.allSettled([client.send("select 1"), client.send("commit")]);
    expect([one.status, commit.status]).toEqual(["rejected", "rejected"]);
    expect(await client.query("rollback")).toMatchObject({ command: "ROLLBACK" });
  });

  test("with a COMMIT in flight behind a statement: the statement's error says that nothing was committed", async () => {
    await using client = await open();
    const pid = await pidOf(client);
    const sent = Promise.allSettled([client.send("begin"), client.send("select pg_sleep(30)"), client.send("commit")]);
    await until("PgSleep", pid);
    await terminate(pid);
    const [begun, slept, committed] = (await sent) as PromiseRejectedResult[];
    expect(begun?.status).toBe("fulfilled");
    expect(slept?.reason).toMatchObject({ code: "57P01" });
    expect(committed?.reason).toBeInstanceOf(CommitUnknownError);
  });
});

describe("a connection on which nothing comes", () => {
  /** Connected through the proxy, which then says nothing any more. */
  async function silent(): Promise<Client> {
    const client = await open({ host: proxy.host, port: proxy.port, query_timeout: 1_500 });
    await goesOn(client);
    proxy.abandon();
    return client;
  }
  const within = async (what: Promise<unknown>) =>
    Promise.race([what.then(String, (error) => String(error.cause ?? error)), sleep(8_000, "nothing for 8 s")]);

  test("ends at its limit, with all that is in flight", async () => {
    await using client = await silent();
    const begun = performance.now();
    const first = [within(client.send("select 1")), within(client.send("commit"))];
    await sleep(100);
    const ends = await Promise.all([...first, within(client.send("select 2"))]);
    for (const end of ends) expect(end).toMatch(/read timeout|terminated/);
    expect(performance.now() - begun).toBeLessThan(6_000);
  });

  test.each(["begin", "rollback", "commit", "select 1"])("ends for %s of the driver too", async (text) => {
    await using client = await silent();
    expect(await within(client.query(text))).not.toBe("nothing for 8 s");
    expect(await endOf(client.send("select 1"))).toMatch(/queryable|terminated/);
  });

  test("one that answers, again and again within its limit, does not end", async () => {
    await using client = await open({ query_timeout: 1_500 });
    for (let i = 0; i < 8; i++) {
      const sent = [client.send("select pg_sleep(0.1)")];
      await sleep(50);
      sent.push(client.send("select pg_sleep(0.1)"));
      await Promise.all(sent);
    }
    await sleep(400);
    await goesOn(client);
  });
});
