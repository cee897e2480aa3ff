// PostgreSQL as people have it: owners who are no superuser, roles that somebody else made, poolers, standbys,
// certificates, backups. Each test has a cluster of its own, of POSTGRES_BIN or the embedded version.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, chown, copyFile, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer, connect as netConnect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createEntityClient, type EntityClient, EntityType } from "../clients/typescript/index.ts";
import { ConfigError, readConfig } from "../src/config.ts";
import { MIGRATIONS } from "../src/db/migrations/index.ts";
import { migrate } from "../src/db/orm.ts";
import { startServer } from "../src/server.ts";
import { refusal } from "./harness.ts";
import { type Cluster, freePort, isInstalled, startCluster, startPgBouncer } from "./postgres-cluster.ts";

const KEY = "test-0123456789-0123456789-0123456789";
const person = { type: EntityType.PERSON, name: "Ana", countryCode: "AR" };

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster();
});
afterAll(() => cluster[Symbol.asyncDispose]());

interface Served extends AsyncDisposable {
  client: EntityClient;
  baseUrl: string;
  lines: string[];
}

/** The service as `npm start` makes it, from its environment. */
async function serve(env: Record<string, string>): Promise<Served> {
  const dataDir = await mkdtemp(join(tmpdir(), "data-"));
  const lines: string[] = [];
  const log = pino({ level: "info" }, { write: (line: string) => void lines.push(line) });
  const config = readConfig({ PORT: "0", DATA_DIR: dataDir, BOOTSTRAP_API_KEY: KEY, DRAIN_TIMEOUT_MS: "1000", ...env });
  const remove = () => rm(dataDir, { recursive: true, force: true });
  const server = await startServer(config, log).catch(async (error: unknown) => {
    await remove();
    throw error;
  });
  const baseUrl = `http://127.0.0.1:${server.port}`;
  return {
    baseUrl,
    lines,
    client: createEntityClient({ baseUrl, apiKey: KEY }),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await remove();
    },
  };
}

/** Each RPC that needs a role of its own in the database answers. */
async function works({ client }: Served): Promise<void> {
  const { entity } = await client.entities.createEntity({ entity: person });
  expect(
    (await client.entities.getEntity({ lookup: { by: { case: "entityId", value: entity?.id ?? "" } } })).entity?.name,
  ).toBe("Ana");
  expect((await client.organizations.listOrganizations({})).organizations.length).toBeGreaterThan(0);
  expect((await client.entities.listEntities({})).entities.length).toBeGreaterThan(0);
}

/** All that the connections of the service are, in a database. */
const logins = (database: string) =>
  cluster.sql<{ usename: string; application_name: string }>(
    "select distinct usename, application_name from pg_stat_activity where datname = $1 and application_name = 'entity-service'",
    { values: [database] },
  );

/** Roles belong to the cluster: each test begins and ends without any. */
async function withoutRoles(databases: string[], roles: string[]): Promise<void> {
  for (const database of databases) await cluster.sql(`drop database if exists ${database} with (force)`);
  for (const role of [...roles, "entity_service", "entity_directory", "entity_backup", "entity_roles"])
    await cluster.sql(`drop role if exists ${role}`);
}

describe("an owner who is no superuser", () => {
  test("by one URL, with CREATEROLE: it is served, again and again, and after a role was taken away", async () => {
    await cluster.sql("create role app_owner login createrole password 'p'");
    await cluster.sql("create database es owner app_owner");
    try {
      const url = cluster.url("app_owner", "p", "es");
      for (let i = 0; i < 2; i++) {
        await using served = await serve({ DATABASE_URL: url });
        await works(served);
        expect(await logins("es")).toEqual([{ usename: "app_owner", application_name: "entity-service" }]);
      }
      await cluster.sql("revoke entity_service from app_owner cascade");
      await using served = await serve({ DATABASE_URL: url }).catch(async (error: Error) => {
        // Whoever lost the right to grant it is told the statement.
        const [, statement = ""] = /run: (grant .*);$/.exec(error.message) ?? [];
        await cluster.sql(statement);
        return serve({ DATABASE_URL: url });
      });
      await works(served);
    } finally {
      await withoutRoles(["es"], ["app_owner"]);
    }
  });

  test("with the roles that the administrator made by the SQL of the README", async () => {
    const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
    const [, sql = ""] = /<!-- roles -->\n+```sql\n([\s\S]*?)```/.exec(readme) ?? [];
    expect(sql).toContain("create role");
    try {
      for (const statement of sql
        .split(/;\s*\n/)
        .map((text) => text.replaceAll(/--.*$/gm, "").trim())
        .filter(Boolean))
        await cluster.sql(statement);
      const [owner, login] = ["entity_owner", "entity_login"].map((name) => cluster.url(name, "...", "entity_service"));
      for (let i = 0; i < 2; i++) {
        await using served = await serve({ DATABASE_URL: login as string, MIGRATION_DATABASE_URL: owner as string });
        await works(served);
        expect(await logins("entity_service")).toEqual([
          { usename: "entity_login", application_name: "entity-service" },
        ]);
      }
      // And by one URL, of the owner.
      await using served = await serve({ DATABASE_URL: owner as string });
      await works(served);
      // What only those who publish need is granted by the owner too.
      await migrate({ url: owner as string }, { publishes: true });
      expect(
        await cluster.sql(
          "select has_function_privilege('entity_service', 'read_log(int, xid8, xid8, xid8[], xid8[], int)', 'execute') as may",
          { database: "entity_service" },
        ),
      ).toEqual([{ may: true }]);
    } finally {
      await withoutRoles(["entity_service"], ["entity_login", "entity_backup_login", "entity_owner"]);
    }
  });

  test("without CREATEROLE and without the roles: the error says what the administrator has to run, and then it is served", async () => {
    await cluster.sql("create role plain login password 'p'");
    await cluster.sql("create database es owner plain");
    try {
      const url = cluster.url("plain", "p", "es");
      const error = await serve({ DATABASE_URL: url }).catch((thrown: Error) => thrown);
      expect(error).toMatchObject({
        name: "DatabaseStartError",
        message: expect.stringContaining("create role entity_service"),
      });
      const statements = (error as Error).message.matchAll(/(create role|grant) [^;]*;/g);
      for (const [statement] of statements) await cluster.sql(statement);
      await using served = await serve({ DATABASE_URL: url });
      await works(served);
    } finally {
      await withoutRoles(["es"], ["plain"]);
    }
  });

  test("a superuser is refused, nothing is made for it, and what the error says is served", async () => {
    await cluster.sql("alter role postgres password 'p'");
    await cluster.sql("create database es");
    try {
      const url = cluster.url("postgres", "p", "es");
      const error = await serve({ DATABASE_URL: url }).catch((thrown: Error) => thrown);
      expect(String(error)).toMatch(/connects as postgres, which is a superuser/);
      expect(
        await cluster.sql("select relname from pg_class where relnamespace = 'public'::regnamespace", {
          database: "es",
        }),
      ).toEqual([]);
      for (const [statement] of String(error).matchAll(/(create role|grant) [^;]*;/g)) await cluster.sql(statement);
      await using served = await serve({
        DATABASE_URL: cluster.url("entity_login", "...", "es"),
        MIGRATION_DATABASE_URL: url,
      });
      await works(served);
    } finally {
      await withoutRoles(["es"], ["entity_login"]);
    }
  });
});

describe("PgBouncer", () => {
  const users = { app_owner: "p" };
  beforeAll(async () => {
    await cluster.sql("create role app_owner login createrole password 'p'");
    await cluster.sql("create database es owner app_owner");
  });
  afterAll(() => withoutRoles(["es"], ["app_owner"]));
  const here = isInstalled("pgbouncer");

  test.skipIf(!here)("session pooling: it is served, by two processes, and by the wall's role alone", async () => {
    await using pooler = await startPgBouncer(cluster, { mode: "session", users });
    await using first = await serve({ DATABASE_URL: pooler.url("app_owner", "p", "es") });
    await using second = await serve({ DATABASE_URL: pooler.url("app_owner", "p", "es") });
    for (const one of [first, second]) await Promise.all(Array.from({ length: 20 }, () => works(one)));
  });

  test.skipIf(!here).each([
    ["transaction", []],
    ["transaction", ["server_round_robin = 1"]],
    ["transaction", ["default_pool_size = 1"]],
    ["statement", []],
  ] as const)(
    "%s pooling, %j: refused within seconds, with the cure; nothing is made, no lock is left",
    async (mode, settings) => {
      await using pooler = await startPgBouncer(cluster, { mode, users, settings: [...settings] });
      const through = pooler.url("app_owner", "p", "es");
      // Server connections that others have used lie about.
      if (mode === "transaction" && settings.length < 1) {
        const clients = Array.from({ length: 5 }, () => new pg.Client({ connectionString: through }));
        await Promise.all(clients.map((client) => client.connect()));
        await Promise.all(clients.map((client) => client.query("select pg_sleep(0.1)")));
        await Promise.all(clients.map((client) => client.end()));
      }
      await cluster.sql("drop database es with (force)");
      await cluster.sql("create database es owner app_owner");
      for (const env of [
        { DATABASE_URL: through },
        { DATABASE_URL: cluster.url("app_owner", "p", "es"), MIGRATION_DATABASE_URL: through },
      ]) {
        const name = Object.entries(env).find(([, value]) => value === through)?.[0];
        await expect(serve(env)).rejects.toThrow(
          new RegExp(`^${name} .*pool_mode to session .* or connect to PostgreSQL itself`),
        );
      }
      expect(
        await cluster.sql("select relname from pg_class where relnamespace = 'public'::regnamespace", {
          database: "es",
        }),
      ).toEqual([]);
      expect(await cluster.sql("select pid from pg_locks where locktype = 'advisory'")).toEqual([]);
    },
  );
});

describe("another process migrates", () => {
  test("it is waited for with lines in the log, and not for ever", async () => {
    await cluster.sql("create database es");
    const holder = new pg.Client({ host: cluster.dataDirectory, port: cluster.port, user: "postgres", database: "es" });
    await holder.connect();
    try {
      const { rows } = await holder.query("select pg_advisory_lock(7216354871), pg_backend_pid() as pid");
      const owner = { host: cluster.dataDirectory, port: cluster.port, user: "postgres", database: "es" };
      const lines: string[] = [];
      const log = (line: string) => void lines.push(line);
      await expect(migrate(owner, { waitMs: 500, log })).rejects.toThrow(
        new RegExp(`another process .* PostgreSQL's process ${rows[0].pid}:`),
      );
      expect(lines).toEqual(["waits for another process that is migrating the database"]);
      const waiting = migrate(owner, { waitMs: 60_000 });
      await sleep(300);
      await holder.end();
      expect(await waiting).toHaveLength(MIGRATIONS.length);
      expect(await cluster.sql("select pid from pg_locks where locktype = 'advisory'")).toEqual([]);
    } finally {
      await holder.end().catch(() => {});
      await withoutRoles(["es"], []);
    }
  });
});

describe("the first key", () => {
  beforeAll(async () => {
    await cluster.sql("create role app_owner login createrole password 'p'");
    await cluster.sql("create database es owner app_owner");
  });
  afterAll(() => withoutRoles(["es"], ["app_owner"]));

  test("where its file cannot be written, none is made: the next start makes one, and the file holds it", async () => {
    const url = cluster.url("app_owner", "p", "es");
    const folder = await mkdtemp(join(tmpdir(), "data-"));
    await writeFile(join(folder, "file"), "");
    try {
      for (let i = 0; i < 2; i++) {
        const start = serve({ DATABASE_URL: url, BOOTSTRAP_API_KEY: "", DATA_DIR: join(folder, "file", "data") });
        await expect(start).rejects.toThrow(/^the first API key cannot be written to .*: set BOOTSTRAP_API_KEY/);
        await expect(start).rejects.toBeInstanceOf(ConfigError);
        expect(await cluster.sql("select id from api_key", { database: "es" })).toEqual([]);
      }
      await using served = await serve({ DATABASE_URL: url, BOOTSTRAP_API_KEY: "", DATA_DIR: folder });
      const file = join(folder, "bootstrap-key");
      expect((await stat(file)).mode & 0o777).toBe(0o600);
      const apiKey = (await readFile(file, "utf8")).trim();
      const { entities } = createEntityClient({ baseUrl: served.baseUrl, apiKey });
      expect((await entities.createEntity({ entity: person })).entity?.name).toBe("Ana");
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
