// PostgreSQL as operators have it: owners that are no superusers, roles made by an administrator, poolers, standbys,
// certificates, backups. Each test has a separate cluster, of POSTGRES_BIN or the embedded version.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, chown, copyFile, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, connect as netConnect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import pg from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { createEntityClient, type EntityClient, EntityType, errorInfo } from "../clients/typescript/index.ts";
import { freePort } from "../scripts/service-process.ts";
import { ConfigError, readConfig } from "../src/config.ts";
import { MIGRATIONS } from "../src/db/migrations/index.ts";
import { migrate } from "../src/db/orm.ts";
import { startServer } from "../src/server.ts";
import { refusal } from "./harness.ts";
import { type Cluster, isInstalled, startCluster, startPgBouncer } from "./postgres-cluster.ts";

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

/** The service as `npm start` starts it, from the environment. */
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
    client: createEntityClient({ retries: false, baseUrl, apiKey: KEY }),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await remove();
    },
  };
}

/** Each RPC that needs a special role in the database answers. */
async function works({ client }: Served): Promise<void> {
  const { entity } = await client.entities.createEntity({ entity: person });
  expect(
    (await client.entities.getEntity({ lookup: { by: { case: "entityId", value: entity?.id ?? "" } } })).entity?.name,
  ).toBe("Ana");
  expect((await client.organizations.listOrganizations({})).organizations.length).toBeGreaterThan(0);
  expect((await client.entities.listEntities({})).entities.length).toBeGreaterThan(0);
}

/** The logins and application names of the service's connections to a database. */
const logins = (database: string) =>
  cluster.sql<{ usename: string; application_name: string }>(
    "select distinct usename, application_name from pg_stat_activity where datname = $1 and application_name = 'entity-service'",
    { values: [database] },
  );

/** Roles belong to the cluster: each test begins and ends without any of them. */
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
        // An owner that may no longer grant the role gets the statement in the error.
        const [, statement = ""] = /run: (grant .*);$/.exec(error.message) ?? [];
        await cluster.sql(statement);
        return serve({ DATABASE_URL: url });
      });
      await works(served);
    } finally {
      await withoutRoles(["es"], ["app_owner"]);
    }
  });

  test("with the roles that the administrator made by the SQL of docs/operate/postgresql.md", async () => {
    const page = await readFile(new URL("../docs/operate/postgresql.md", import.meta.url), "utf8");
    const [, sql = ""] = /<!-- roles -->\n+```sql no-run postgres\n([\s\S]*?)```/.exec(page) ?? [];
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
      // With one URL too, the owner's.
      await using served = await serve({ DATABASE_URL: owner as string });
      await works(served);
      // The owner grants the rights for publishing too.
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
  // In the continuous integration it has to be there.
  const here = isInstalled("pgbouncer") || process.env.CI !== undefined;

  test.skipIf(!here)("session pooling: two processes are served at once", async () => {
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
      // The pooler has server connections that other clients have used.
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
      ] as Record<string, string>[]) {
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
      const { entities } = createEntityClient({ retries: false, baseUrl: served.baseUrl, apiKey });
      expect((await entities.createEntity({ entity: person })).entity?.name).toBe("Ana");
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

/** A port in front of a cluster, which can be pointed to another one. */
async function startForwarder(to: Cluster) {
  const open = new Set<Socket>();
  let target = to.port;
  const server = createServer((from) => {
    const onward = netConnect(target, "127.0.0.1");
    for (const [one, other] of [
      [from, onward],
      [onward, from],
    ] as const) {
      open.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => {
        open.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    lead(other: Cluster) {
      target = other.port;
    },
    cut() {
      for (const socket of open) socket.destroy();
    },
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

describe("failover", () => {
  let primary: Cluster;
  let standby: Cluster;
  beforeAll(async () => {
    primary = await startCluster();
    await primary.sql("create role app_owner login createrole password 'p'");
    await primary.sql("create database es owner app_owner");
    standby = await primary.standby();
  });
  afterAll(() => primary[Symbol.asyncDispose]());
  const statusOf = ({ baseUrl }: Served) => {
    const health = createClient(Health, createGrpcTransport({ baseUrl }));
    return async () => ((await health.check({})).status === Status.SERVING ? "SERVING" : "NOT_SERVING");
  };
  const url = (port: number) => `postgres://app_owner:p@127.0.0.1:${port}/es`;

  /** Every kind of call that uses the database, with how each ended. */
  const outcomes = async ({ client }: Served, lookup: object) => {
    const calls = {
      createEntity: client.entities.createEntity({ entity: person }),
      rehearsal: client.entities.createEntity({ entity: person, validateOnly: true }),
      updateEntity: client.entities.updateEntity({ lookup, entity: { name: "Eva" } }),
      recordUserEvents: client.activity.recordUserEvents({
        userEvents: [{ eventType: "t", occurredAt: { seconds: 1n }, entityExternalId: "x-1" }],
      }),
      getEntity: client.entities.getEntity({ lookup }),
      listEntities: client.entities.listEntities({}),
      listEntityEvents: client.entities.listEntityEvents({}),
      listUserEvents: client.activity.listUserEvents({ lookup }),
      getOrganization: client.organizations.getOrganization({}),
      createApiKey: client.organizations.createApiKey({ displayName: "x", scopes: ["entities:read"] }),
    };
    const ended = Object.entries(calls).map(async ([name, call]) => {
      const reason = await call.then(
        () => "OK",
        (error: unknown) => errorInfo(error)?.reason ?? `no reason: ${String(error)}`,
      );
      return [name, reason];
    });
    return Object.fromEntries(await Promise.all(ended)) as Record<string, string>;
  };

  test("a standby behind the same name: DATABASE_UNAVAILABLE for every call and NOT_SERVING; with the primary back the next write succeeds", async () => {
    await using forwarder = await startForwarder(primary);
    await using served = await serve({ DATABASE_URL: url(forwarder.port) });
    const { client } = served;
    const lookup = { by: { case: "externalId" as const, value: "x-1" } };
    await client.entities.createEntity({ entity: { ...person, externalId: "x-1" } });
    await client.entities.createEntity({ entity: person });
    const status = statusOf(served);
    expect(await status()).toBe("SERVING");
    // The standby has replayed everything, roles too.
    const [{ lsn }] = (await primary.sql("select pg_current_wal_lsn()::text as lsn")) as [{ lsn: string }];
    await expect
      .poll(async () => (await standby.sql(`select pg_last_wal_replay_lsn() >= '${lsn}' as there`))[0]?.there)
      .toBe(true);
    forwarder.lead(standby);
    forwarder.cut();
    await sleep(50);
    for (let i = 0; i < 3; i++) {
      const told = await outcomes(served, lookup);
      expect(told).toEqual(Object.fromEntries(Object.keys(told).map((name) => [name, "DATABASE_UNAVAILABLE"])));
    }
    await expect.poll(status, { timeout: 5_000 }).toBe("NOT_SERVING");
    const watch = async () => {
      for await (const _ of client.entities.watchEntities({}, { timeoutMs: 20_000 })) break;
    };
    expect(await refusal(watch())).toMatchObject({ reason: "DATABASE_UNAVAILABLE" });
    // No connection is cut: none to the standby may be left.
    forwarder.lead(primary);
    // Except for connections that are being made at this moment.
    await sleep(300);
    expect((await client.entities.updateEntity({ lookup, entity: { name: "Eva" } })).entity?.name).toBe("Eva");
    await expect.poll(status, { timeout: 5_000 }).toBe("SERVING");
    const told = await outcomes(served, lookup);
    expect(told).toEqual(Object.fromEntries(Object.keys(told).map((name) => [name, "OK"])));
    expect(served.lines.filter((line) => line.includes("defect"))).toEqual([]);
  });

  test("a primary that is made read-only: DATABASE_UNAVAILABLE for writes and NOT_SERVING, then all is well", async () => {
    await using served = await serve({ DATABASE_URL: url(primary.port) });
    const status = statusOf(served);
    const write = () => served.client.entities.createEntity({ entity: person });
    await write();
    await primary.sql("alter system set default_transaction_read_only = on");
    await primary.sql("select pg_reload_conf()");
    try {
      await expect
        .poll(() =>
          write().then(
            () => "OK",
            (error: unknown) => errorInfo(error)?.reason,
          ),
        )
        .toBe("DATABASE_UNAVAILABLE");
      expect(await refusal(write())).toMatchObject({ reason: "DATABASE_UNAVAILABLE" });
      await expect.poll(status, { timeout: 5_000 }).toBe("NOT_SERVING");
    } finally {
      await primary.sql("alter system reset default_transaction_read_only");
      await primary.sql("select pg_reload_conf()");
    }
    await expect
      .poll(
        () =>
          write().then(
            () => "OK",
            () => "not yet",
          ),
        { timeout: 5_000 },
      )
      .toBe("OK");
    await expect.poll(status, { timeout: 5_000 }).toBe("SERVING");
  });

  test("a promotion under steady traffic: only typed errors, and all is well within 10 s of a primary", async () => {
    await using forwarder = await startForwarder(primary);
    await using served = await serve({ DATABASE_URL: url(forwarder.port) });
    const { client } = served;
    const lookup = { by: { case: "externalId" as const, value: "x-1" } };
    let promoted = Number.POSITIVE_INFINITY;
    let stopped = false;
    const told = new Map<string, number>();
    const late: string[] = [];
    const callers = Array.from({ length: 8 }, async (_, i) => {
      while (!stopped) {
        const call =
          i % 2 === 0
            ? client.entities.createEntity({ entity: person })
            : client.entities.listEntities({ pageSize: 1 });
        const reason = await call.then(
          () => "OK",
          (error: unknown) => errorInfo(error)?.reason ?? String(error),
        );
        told.set(reason, (told.get(reason) ?? 0) + 1);
        if (reason !== "OK" && performance.now() > promoted + 10_000) late.push(reason);
        await sleep(10);
      }
    });
    await client.entities.getEntity({ lookup });
    await sleep(300);
    await primary.stop("SIGQUIT");
    forwarder.lead(standby);
    forwarder.cut();
    await sleep(2_000);
    await standby.promote();
    promoted = performance.now();
    await sleep(11_500);
    stopped = true;
    await Promise.all(callers);
    expect(
      [...told.keys()].filter((reason) => !["OK", "DATABASE_UNAVAILABLE", "COMMIT_UNKNOWN"].includes(reason)),
    ).toEqual([]);
    expect(told.get("DATABASE_UNAVAILABLE")).toBeGreaterThan(0);
    expect(late).toEqual([]);
    expect((await outcomes(served, lookup)).listEntities).toBe("OK");
  });
});

describe("TLS", () => {
  let folder: string;
  const settings = () => ({
    ssl: "on",
    ssl_cert_file: join(cluster.folder, "server.pem"),
    ssl_key_file: join(cluster.folder, "server.key"),
  });
  const at = (more: string) => cluster.url("app_owner", "p", "es", more);
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  /** Starts the cluster anew with a certificate of the name. */
  async function serveAs(name: string): Promise<void> {
    await writeFile(join(folder, "san"), `subjectAltName=DNS:${name}`);
    openssl("req", "-new", ...key, "-keyout", "server.key", "-out", "csr", "-subj", `/CN=${name}`);
    const authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl("x509", "-req", "-in", "csr", ...authority, "-extfile", "san", "-days", "2", "-out", "server.pem");
    const { uid, gid } = await stat(cluster.dataDirectory);
    for (const file of ["server.pem", "server.key"]) {
      await copyFile(join(folder, file), join(cluster.folder, file));
      await chmod(join(cluster.folder, file), 0o600);
      await chown(join(cluster.folder, file), uid, gid);
    }
    await cluster.stop();
    await cluster.start(settings());
  }
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "ca-"));
    openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2");
    openssl("req", "-x509", ...key, "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=ca", "-days", "2");
    await serveAs("database.example");
    await cluster.sql("create role app_owner login createrole password 'p'");
    await cluster.sql("create database es owner app_owner");
  });
  afterAll(async () => {
    await withoutRoles(["es"], ["app_owner"]);
    await cluster.stop();
    await cluster.start({});
    await rm(folder, { recursive: true, force: true });
  });
  const isEncrypted = async () =>
    (
      await cluster.sql<{ ssl: boolean }>(
        "select distinct s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid) where a.datname = 'es' and a.application_name = 'entity-service'",
      )
    ).map(({ ssl }) => ssl);

  // In a separate process: its standard error is what an operator sees.
  test.each([
    ["", false],
    ["?sslmode=disable", false],
    ["?sslmode=require", true],
    ["?sslmode=require&sslrootcert=CA", true],
    ["?sslmode=verify-ca&sslrootcert=CA", true],
  ])("%s is served, encrypted: %s, without a warning", async (more, encrypted) => {
    const warnings: string[] = [];
    const onWarning = (warning: Error) => void warnings.push(warning.message);
    process.on("warning", onWarning);
    try {
      await using served = await serve({ DATABASE_URL: at(more.replace("CA", join(folder, "ca.pem"))) });
      await works(served);
      expect(await isEncrypted()).toEqual([encrypted]);
      expect(warnings).toEqual([]);
    } finally {
      process.off("warning", onWarning);
    }
  });

  test.each([
    [
      "?sslmode=verify-full",
      /^DATABASE_URL \(localhost:\d+\/es\) cannot be reached: \w+: name the authority of its certificate with sslrootcert=/,
    ],
    ["?sslmode=verify-full&sslrootcert=system", /name the authority of its certificate/],
    ["?sslmode=verify-ca&sslrootcert=OTHER", /name the authority of its certificate/],
    ["?sslmode=require&sslrootcert=OTHER", /name the authority of its certificate/],
    ["?sslmode=verify-full&sslrootcert=CA", /its certificate is for another name/],
  ])("%s: the error names the variable and the cure, and no password", async (more, message) => {
    const url = at(more.replace("CA", join(folder, "ca.pem")).replace("OTHER", join(folder, "other.pem"))).replace(
      "127.0.0.1",
      "localhost",
    );
    const error = await serve({ DATABASE_URL: url }).catch((thrown: Error) => thrown);
    expect(String((error as Error).message)).toMatch(message);
    expect(String(error)).not.toContain(":p@");
  });

  test("?sslmode=verify-full is served by the host that the certificate names", async () => {
    await serveAs("localhost");
    const url = at(`?sslmode=verify-full&sslrootcert=${join(folder, "ca.pem")}`).replace("127.0.0.1", "localhost");
    await using served = await serve({ DATABASE_URL: url });
    await works(served);
    expect(await isEncrypted()).toEqual([true]);
  });

  test("a server without TLS, one that is away, a database that is not there, a wrong password: each is said, without the password", async () => {
    const port = await freePort();
    for (const [url, message] of [
      [
        `postgres://app_owner:geheim@127.0.0.1:${port}/es`,
        /^DATABASE_URL \(127.0.0.1:\d+\/es\) cannot be reached: .*ECONNREFUSED/,
      ],
      [cluster.url("app_owner", "p", "none"), /cannot be reached: database "none" does not exist \(3D000\)/],
      [cluster.url("app_owner", "geheim", "es"), /cannot be reached: the password is refused/],
      [`postgres://app_owner@127.0.0.1:${cluster.port}/es`, /the server asks for a password, and the URL has none/],
    ] as const) {
      const error = await serve({ DATABASE_URL: url }).catch((thrown: Error) => thrown);
      expect((error as Error).message).toMatch(message);
      expect(String(error)).not.toContain("geheim");
    }
    await using plain = await startCluster();
    await expect(serve({ DATABASE_URL: plain.url("x", "y", "postgres", "?sslmode=require") })).rejects.toThrow(
      /the server does not offer TLS/,
    );
  });

  test.each([
    ["postgres://u:geheim@a:5432,b:5432/es", /^DATABASE_URL names several hosts: name one/],
    ["postgres://u:geheim@a,b/es", /names several hosts/],
    ["postgres:///es?host=a,b&password=geheim", /names several hosts/],
    ["postgres://u:geheim@a/es?sslmode=prefer", /sslmode=prefer, by which/],
    ["postgres://u:geheim@a/es?sslmode=allow", /sslmode=allow, by which/],
    ["postgres://u:geheim@a/es?sslmode=no-verify", /none of disable, require, verify-ca, verify-full/],
    ["postgres://u:geheim@a/es?sslmode=verify-ca", /needs sslrootcert/],
    ["postgres://u:geheim@a/es?sslrootcert=/ca.pem", /sslrootcert without sslmode/],
    ["postgres://u:geheim@a/es?sslmode=require&sslrootcert=system", /needs sslmode=verify-full/],
    [
      "postgres://u:geheim@10.0.0.1/es?sslmode=verify-full",
      /sslmode=verify-full and an address as its host: use the name/,
    ],
    ["postgres://u:geheim@[fd00::1]/es?sslmode=verify-full&sslrootcert=system", /an address as its host/],
    ["postgres://u:geheim@a/es?sslmode=verify-full&host=10.0.0.1", /an address as its host/],
    ["postgres://u:ge#heim@a/es", /special characters/],
    ["mysql://u:geheim@a/es", /must be a URL that begins with postgres/],
  ])("%s is refused by a true sentence", (url, message) => {
    for (const name of ["DATABASE_URL", "MIGRATION_DATABASE_URL"]) {
      const read = () => readConfig({ DATABASE_URL: "postgres://a/b", [name]: url });
      expect(read).toThrow(new RegExp(message.source.replace("^DATABASE_URL", `^${name}`)));
      expect(read).toThrow(ConfigError);
      expect(read).not.toThrow(/geheim|heim/);
    }
  });
});

describe("a backup without a superuser", () => {
  const bin = process.env.POSTGRES_BIN ?? "";
  test.skipIf(!existsSync(join(bin, "pg_dump")))(
    "by the commands of docs/operate/backup.md: every row of every table comes back, and the service serves from it",
    async () => {
      const page = await readFile(new URL("../docs/operate/backup.md", import.meta.url), "utf8");
      const commands = (name: string) =>
        new RegExp(`<!-- ${name} -->\\n+\`\`\`sh no-run postgres\\n([\\s\\S]*?)\`\`\``).exec(page)?.[1] ?? "";
      const folder = await mkdtemp(join(tmpdir(), "dump-"));
      const shell = (script: string, env: Record<string, string>) =>
        execFileSync("bash", ["-euc", script], {
          cwd: folder,
          stdio: ["ignore", "pipe", "pipe"],
          env: { PATH: `${bin}:/usr/bin:/bin`, ...env },
        });
      await cluster.sql("create role app_owner login createrole password 'p'");
      await cluster.sql("create database es owner app_owner");
      await cluster.sql("create database restored owner app_owner");
      const owner = cluster.url("app_owner", "p", "es");
      try {
        const rows = async (database: string) => {
          const tables = await cluster.sql<{ name: string }>(
            "select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1",
            { database },
          );
          const counts: Record<string, number> = {};
          for (const { name } of tables) {
            const [row] = await cluster.sql<{ n: number }>(`select count(*)::int as n from "${name}"`, { database });
            counts[name] = row?.n ?? 0;
          }
          return counts;
        };
        {
          const keyFile = join(folder, "audit-key");
          execFileSync("openssl", ["genpkey", "-algorithm", "ed25519", "-out", keyFile]);
          const audit = { AUDIT_SIGNING_KEY: keyFile, AUDIT_CHECKPOINT_SECONDS: "1" };
          await using served = await serve({ DATABASE_URL: owner, ...audit });
          const { client } = served;
          await client.entities.createEntity({
            entity: { ...person, externalId: "x-0" },
            requestId: "0197f0a0-0000-7000-8000-000000000001",
          });
          await client.entities.changeExternalId({
            lookup: { by: { case: "externalId", value: "x-0" } },
            ...{ newExternalId: "x-1", reason: "another system" },
          });
          await client.activity.recordTransactions({
            transactions: [
              { type: "t", amount: "1", currency: "ARS", transactedAt: { seconds: 1n }, origin: { externalId: "x-1" } },
            ],
          });
          await client.activity.recordUserEvents({
            userEvents: [{ eventType: "t", occurredAt: { seconds: 1n }, entityExternalId: "x-1" }],
          });
          for (const externalId of ["y-1", "y-2"])
            await client.entities.createEntity({ entity: { ...person, externalId } });
          const lookupOf = (value: string) => ({ by: { case: "externalId" as const, value } });
          await client.entities.mergeEntities({
            ...{ primary: lookupOf("x-1"), secondary: lookupOf("y-1"), reason: "the same person" },
          });
          await client.entities.markDistinct({
            ...{ first: lookupOf("x-1"), second: lookupOf("y-2"), reason: "another person" },
          });
          const { matrix } = await client.riskMatrices.createRiskMatrix({
            matrix: {
              displayName: "x",
              rules: [{ id: "all", displayName: "all", expression: "true", points: "1.00" }],
            },
          });
          await client.entities.updateEntity({ lookup: lookupOf("y-2"), entity: { riskMatrixId: matrix?.id ?? "" } });
          await client.entities.analyzeEntity({ lookup: lookupOf("y-2") });
          const { endpoint } = await client.webhooks.createWebhookEndpoint({
            endpoint: { url: "https://example.com/", displayName: "x", state: 2 },
          });
          await client.webhooks.replayWebhookDeliveries({
            endpointId: endpoint?.id ?? "",
            from: { seconds: 1n },
            to: { seconds: 253_402_300_799n },
          });
          await cluster.sql(
            "insert into event_horizon select organization_id, 0, '0', '1:1:', 'epoch' from organization; insert into feed_sink (name) values ('x')",
            { database: "es" },
          );
          await expect.poll(async () => (await rows("es")).audit_checkpoint, { timeout: 20_000 }).toBeGreaterThan(0);
        }
        const before = await rows("es");
        expect(Object.entries(before).filter(([, count]) => count === 0)).toEqual([]);
        // As the owner it is refused, or empty: it must not look like a backup.
        expect(() => shell(`pg_dump -f none "$URL"`, { URL: owner })).toThrow(/row-level security|row security/);

        const admin = new pg.Client({ connectionString: owner });
        await admin.connect();
        await admin.query(
          "create role entity_backup_login login password '...'; grant entity_backup to entity_backup_login;",
        );
        await admin.end();
        shell(commands("backup"), { BACKUP_URL: cluster.url("entity_backup_login", "...", "es") });
        const restored = cluster.url("app_owner", "p", "restored");
        shell(commands("restore"), { NEW_URL: restored });
        expect(await rows("restored")).toEqual(before);

        await using served = await serve({ DATABASE_URL: restored });
        const lookup = { by: { case: "externalId" as const, value: "x-1" } };
        expect((await served.client.entities.getEntity({ lookup })).entity?.name).toBe("Ana");
        await works(served);
        expect(
          await cluster.sql(
            "select member::regrole::text from pg_auth_members where roleid = 'entity_directory'::regrole and (to_jsonb(pg_auth_members) ->> 'set_option') is distinct from 'false'",
            { database: "restored" },
          ),
        ).toEqual([]);
      } finally {
        await withoutRoles(["es", "restored"], ["entity_backup_login", "app_owner"]);
        await rm(folder, { recursive: true, force: true });
      }
    },
  );
});
