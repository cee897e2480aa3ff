// The database is restored: transaction ids begin again below those that are stored, or go on as if nothing had
// been lost. Positions from before must be refused, and no old event may come again.
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Code } from "@connectrpc/connect";
import pg from "pg";
import { expect, it } from "vitest";
import { errorInfo } from "../clients/typescript/index.ts";
import { migrate } from "../src/db/orm.ts";
import { startEmbeddedPostgres } from "../src/postgres/embedded.ts";
import { reseal } from "./chains.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { startOther, tenantTables } from "./wall-harness.ts";
import { watching } from "./watchers.ts";

const run = promisify(execFile);

/** A fresh cluster, with an empty database of the service's name. */
async function freshCluster(database: string) {
  const directory = await mkdtemp(join(tmpdir(), "entity-restore-"));
  const server = await startEmbeddedPostgres({ directory, settings: { fsync: "off" } });
  const address = { host: server.socketDir, port: server.port, user: server.ownerUser, password: "", database };
  const owner = new pg.Client({ ...address, database: "postgres" });
  await owner.connect();
  await owner.query(`create database ${database}`);
  await owner.query("create role entity_service login; create role entity_directory; create role entity_backup");
  await owner.query(`alter role entity_service password '${RUNTIME_PASSWORD}'`);
  await owner.end();
  return {
    address,
    async [Symbol.asyncDispose]() {
      await server.stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

type Address = Awaited<ReturnType<typeof freshCluster>>["address"];

/** Restores a dump: by pg_dump if it is available for this server, else row by row, which gives the same rows and default. */
async function restore(service: TestService, to: Address): Promise<"pg_dump" | "rows"> {
  const { host, port, user, password, database } = service.database;
  const [server] = await service.sql<{ major: number }>(
    "select current_setting('server_version_num')::int / 10000 as major",
  );
  const dumper = await run("pg_dump", ["--version"]).catch(() => undefined);
  const major = Number(/(\d+)/.exec(dumper?.stdout ?? "")?.[1] ?? 0);
  if (major >= (server?.major ?? 0)) {
    const env = { ...process.env, PGPASSWORD: password };
    const from = ["-h", host, "-p", String(port), "-U", user, "--no-owner", database];
    const { stdout } = await run("pg_dump", from, { env, maxBuffer: 1e9 });
    const psql = run("psql", [
      "-q",
      "-v",
      "ON_ERROR_STOP=1",
      "-h",
      to.host,
      "-p",
      String(to.port),
      "-U",
      to.user,
      database,
    ]);
    psql.child.stdin?.end(stdout);
    await psql;
    return "pg_dump";
  }
  await migrate(to);
  const target = new pg.Client(to);
  await target.connect();
  await target.query("set session_replication_role = replica");
  for (const table of [...(await tenantTables(service.sql)), "feed_epoch"]) {
    const columns = await service.sql<{ name: string }>(
      "select column_name as name from information_schema.columns where table_schema = 'public' and table_name = $1 and is_generated = 'NEVER'",
      [table],
    );
    const names = columns.map(({ name }) => name).join(", ");
    const rows = await service.sql<{ row: unknown }>(`select to_jsonb(t) as row from "${table}" t`);
    await target.query(`delete from "${table}"`);
    await target.query(
      `insert into "${table}" (${names}) select ${names} from jsonb_populate_recordset(null::"${table}", $1)`,
      [JSON.stringify(rows.map(({ row }) => row))],
    );
  }
  const [column] = await service.sql<{ expression: string }>(
    `select pg_get_expr(adbin, adrelid) as expression from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
     where d.adrelid = 'entity_event'::regclass and a.attname = 'epoch'`,
  );
  await target.query(`alter table entity_event alter column epoch set default ${column?.expression}`);
  await target.end();
  return "rows";
}

/** Uses up transaction ids. */
const spend = (count: number) =>
  `do $$ begin for i in 1..${count} loop perform pg_current_xact_id(); commit; end loop; end $$`;

it("a dump in a fresh cluster: old positions are POSITION_EXPIRED, old events do not come again, not even when their transaction ids are reached", async () => {
  await using service = await startService();
  const organization = await service.newOrganization();
  await service.sql(spend(4_000));
  const before = (await organization.client.entities.listEntities({})).watchPosition;
  for (let i = 0; i < 5; i++) await newPerson(organization.client);
  const after = (await organization.client.entities.listEntities({})).watchPosition;

  await using cluster = await freshCluster(service.database.database);
  const how = await restore(service, cluster.address);
  const restored = new pg.Client(cluster.address);
  await restored.connect();
  try {
    const { rows } = await restored.query(
      "select (select max(xid) from entity_event) > pg_snapshot_xmax(pg_current_snapshot()) as above, number from feed_epoch",
    );
    const [old] = await service.sql<{ number: number }>("select number from feed_epoch");
    expect(rows, how).toEqual([{ above: true, number: old?.number }]);

    await using other = await startOther(service, { address: cluster.address });
    const client = other.client(organization.apiKey);
    for (const position of [before, after]) {
      await using watch = watching(client, { position });
      const error = await watch.ended;
      expect(error?.code).toBe(Code.OutOfRange);
      expect(errorInfo(error)?.reason).toBe("POSITION_EXPIRED");
    }
    // The cure that the error names.
    const { entities, watchPosition } = await client.entities.listEntities({});
    expect(entities).toHaveLength(5);
    await using watch = watching(client, { position: watchPosition });
    await watch.started();
    const created = [await newPerson(client)];
    // Above all stored ids.
    await restored.query(spend(6_000));
    created.push(await newPerson(client));
    await watch.until(() => watch.events().length >= 2);
    await sleep(600);
    expect(watch.events().map(({ entityId }) => entityId)).toEqual(created.map(({ id }) => id));
    await using again = watching(client, { position: watchPosition });
    await again.started();
    expect(again.events().map(({ entityId }) => entityId)).toEqual(created.map(({ id }) => id));
  } finally {
    await restored.end();
  }
});

it("another log under a running service: watches end with POSITION_EXPIRED, the epoch moves once, and a new list and watch go on", async () => {
  await using service = await startService();
  await using other = await startOther(service);
  const { client, apiKey } = await service.newOrganization();
  await newPerson(client);
  const [epoch] = await service.sql<{ number: number; id: string }>("select * from feed_epoch");
  await using watch = watching(client);
  await using elsewhere = watching(other.client(apiKey));
  await Promise.all([watch.started(), elsewhere.started()]);
  await service.sql("update feed_epoch set cluster = 'another', started_at = '-infinity'");
  for (const one of [watch, elsewhere]) expect(errorInfo(await one.ended)?.reason).toBe("POSITION_EXPIRED");
  expect(await service.sql("select number, id = $1 as same from feed_epoch", [epoch?.id])).toEqual([
    { number: (epoch?.number ?? 0) + 1, same: false },
  ]);
  await using again = watching(client, { position: (await client.entities.listEntities({})).watchPosition });
  await again.started();
  const entity = await newPerson(client);
  await again.until(() => again.events().length === 1);
  expect(again.events()[0]?.entityId).toBe(entity.id);
});

it("the epoch waits for those who write in the old one: no event is between the two", async () => {
  await using service = await startService();
  const { client } = await service.newOrganization();
  await newPerson(client);
  const writer = new pg.Client(service.database);
  await writer.connect();
  try {
    await writer.query("begin");
    await writer.query(
      `insert into entity_event select (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid(), 'entity_version', 2,
         'recorded_at', clock_timestamp(), 'epoch', (select number from feed_epoch), 'xid', pg_current_xact_id()::text,
         'updated_fields', '{}'::text[], 'previous_values', '{}'::jsonb, 'new_values', '{}'::jsonb, 'salt', null))).* from entity_event v`,
    );
    await service.sql("update feed_epoch set cluster = 'another', started_at = '-infinity'");
    const listed = client.entities.listEntities({});
    expect(await Promise.race([listed.then(() => "moved"), sleep(500, "waits")])).toBe("waits");
    await writer.query("commit");
    await using watch = watching(client, { position: (await listed).watchPosition });
    await watch.started();
    expect(watch.events()).toEqual([]);
  } finally {
    await writer.end();
    await service.sql(
      "update entity set version = 2, (etag, updated_at) = (select id, recorded_at from entity_event order by recorded_at desc limit 1)",
    );
    await reseal(service.sql);
  }
});
