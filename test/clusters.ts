// Lends a PostgreSQL that a test may crash, copy and restore: a data folder and the embedded binaries; and the service
// on it.
import { execFile, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { appendFile, chmod, chown, mkdtemp, open, readFile, realpath, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import pg from "pg";
import { createEntityClient, type EntityClient } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { DEFAULT_ORGANIZATION_ID } from "../src/db/across.ts";
import { createOrm, type DatabaseAddress, migrate, type Orm } from "../src/db/orm.ts";
import { createLogger } from "../src/logger.ts";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../src/postgres/embedded.ts";
import { startServer } from "../src/server.ts";

const run = promisify(execFile);
const DATABASE = "entity_service";
const API_KEY = `test-${randomUUID()}`;

export interface ServiceOn extends AsyncDisposable {
  orm: Orm;
  /** A client of the organization `default`. */
  client: EntityClient;
}

/** A service, as the run-time role, on a migrated database. */
export async function serve(address: DatabaseAddress): Promise<ServiceOn> {
  const config = {
    ...readConfig({}),
    port: 0,
    bootstrapApiKey: API_KEY,
    drainTimeoutMs: 1_000,
    poolSize: 5,
    webhookAllow: "127.0.0.1",
  };
  const orm = createOrm(address, config);
  const running = await startServer(config, createLogger("silent"), {
    database: { orm, lost: new Promise(() => {}), [Symbol.asyncDispose]: async () => {} },
  });
  return {
    orm,
    client: createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${running.port}`, apiKey: API_KEY }),
    async [Symbol.asyncDispose]() {
      await running[Symbol.asyncDispose]();
      await orm.close(true);
    },
  };
}

export { DEFAULT_ORGANIZATION_ID as ORGANIZATION };

export interface Cluster extends AsyncDisposable {
  /** The address for the run-time role. */
  address(): DatabaseAddress & { host: string; port: number };
  serve(): Promise<ServiceOn>;
  /** Runs a query as the superuser. */
  sql<T = Record<string, any>>(text: string): Promise<T[]>;
  /** Stops it as PostgreSQL stops when a backend dies: without a checkpoint, what was not flushed is lost. */
  crash(): Promise<void>;
  stop(): Promise<void>;
  start(): Promise<void>;
  /** A copy of the files as they are now, running or not; as a backup, taken in PostgreSQL's backup mode. */
  copy(as?: "backup"): Promise<string>;
  /** Starts another cluster on a copy of the files. */
  startCopy(files: string): Promise<Cluster>;
  /** Starts a standby from a base backup, which follows this cluster. */
  startStandby(): Promise<Standby>;
  /** Replaces the files by copied ones, while it is stopped. */
  putBack(files: string): Promise<void>;
}

/** Ends together with its primary. */
export interface Standby {
  address(): DatabaseAddress & { host: string; port: number };
  serve(): Promise<ServiceOn>;
  /** Returns when it has replayed all that the primary has written by now. */
  caughtUp(): Promise<void>;
  /** From now on it receives nothing more from the primary. */
  cutOff(): Promise<void>;
  promote(): Promise<void>;
}

/** Why no standby can be started here, or undefined. */
export const standbyMissing = () =>
  process.platform === "linux" ? undefined : "a standby is started with the binary that /proc tells of";

/** Uses up transaction ids in transactions that are rolled back. */
export const rollBack = (count: number) =>
  `do $$ begin for i in 1..${count} loop perform pg_current_xact_id(); rollback; end loop; end $$`;

/** A folder that the server's user may enter. */
async function newFolder(prefix: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), prefix));
  await chmod(folder, 0o755);
  return folder;
}

const filesOf = (directory: string) => realpath(join(directory, "postgres"));

/** The server cannot read files that root has written. */
async function giveToOwner(files: string, names: string[]): Promise<void> {
  const { uid, gid } = await stat(files);
  for (const name of names) await chown(join(files, name), uid, gid);
}

/** A new, migrated cluster that flushes what no commit waits for only after seconds: a crash loses it for certain. */
export async function newCluster(): Promise<Cluster> {
  const directory = await newFolder("entity-cluster-");
  const cluster = clusterIn(directory);
  await cluster.start();
  await queries({ ...cluster.owner(), database: "postgres" })(`create database ${DATABASE}`);
  await migrate(cluster.owner());
  await cluster.sql("alter role entity_service login");
  return cluster;
}

/** Each statement on a separate connection. */
const queries =
  (address: pg.ClientConfig) =>
  async <T = Record<string, any>>(text: string): Promise<T[]> => {
    const client = new pg.Client(address);
    client.on("error", () => {});
    await client.connect();
    try {
      return (await client.query(text)).rows;
    } finally {
      await client.end();
    }
  };

async function waitFor(done: () => Promise<boolean>): Promise<void> {
  for (const until = performance.now() + 30_000; ; ) {
    if (await done().catch(() => false)) return;
    if (performance.now() > until) throw new Error("late");
    await sleep(50);
  }
}

function clusterIn(directory: string): Cluster & { owner(): DatabaseAddress } {
  let server: EmbeddedPostgres | undefined;
  const copies: string[] = [];
  const others: AsyncDisposable[] = [];
  const running = () => {
    if (server === undefined) throw new Error("the cluster does not run");
    return server;
  };
  const address = (user: string, database = DATABASE) => ({
    host: running().socketDir,
    port: running().port,
    user,
    password: "",
    database,
  });
  return {
    owner: () => address(running().ownerUser),
    address: () => address("entity_service"),
    serve: () => serve(address("entity_service")),
    sql: (text) => queries(address(running().ownerUser))(text),
    async crash() {
      process.kill(running().pid, "SIGQUIT");
      await running().exited;
      await running().stop();
      server = undefined;
    },
    async stop() {
      await running().stop();
      server = undefined;
    },
    async start() {
      server = await startEmbeddedPostgres({
        directory,
        settings: { wal_writer_delay: "10s", autovacuum: "off", checkpoint_timeout: "1h" },
      });
    },
    async copy(as) {
      const copy = await newFolder("entity-copy-");
      copies.push(copy);
      const [from, to] = [await filesOf(directory), join(copy, "postgres")];
      if (as === undefined) {
        await run("cp", ["-a", from, to]);
        return copy;
      }
      const client = new pg.Client(address(running().ownerUser));
      await client.connect();
      await client.query("select pg_backup_start('test', true)");
      await run("cp", ["-a", from, to]);
      const { rows } = await client.query("select labelfile from pg_backup_stop(false)");
      await client.end();
      // The write-ahead log up to the end of the backup.
      await run("cp", ["-a", `${from}/pg_wal/.`, join(to, "pg_wal")]);
      await writeFile(join(to, "backup_label"), rows[0].labelfile);
      await giveToOwner(to, ["backup_label"]);
      return copy;
    },
    async startCopy(files) {
      const other = clusterIn(files);
      others.push(other);
      await other.start();
      return other;
    },
    async startStandby() {
      const files = join(await this.copy("backup"), "postgres");
      const primary = queries(address(running().ownerUser));
      const { host, port, user } = address(running().ownerUser);
      const own = { host: files, port, user, password: "", database: DATABASE };
      const settings = {
        primary_conninfo: `host=${host} port=${port} user=${user}`,
        unix_socket_directories: files,
        listen_addresses: "",
      };
      await appendFile(
        join(files, "postgresql.auto.conf"),
        Object.entries(settings)
          .map(([name, value]) => `${name} = '${value}'\n`)
          .join(""),
      );
      await writeFile(join(files, "standby.signal"), "");
      await giveToOwner(files, ["standby.signal"]);
      // Files of the server that was copied.
      for (const name of ["postmaster.pid", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"]) {
        await rm(join(files, name), { force: true });
      }
      const { uid, gid } = await stat(files);
      const log = join(files, "../standby.log");
      const output = await open(log, "w");
      const child = spawn(await realpath(`/proc/${running().pid}/exe`), ["-D", files, "-c", "shared_buffers=32MB"], {
        cwd: "/",
        stdio: ["ignore", "ignore", output.fd],
        ...(process.getuid?.() === 0 ? { uid, gid } : {}),
      });
      const exited = once(child, "exit");
      const sql = queries(own);
      const until = (text: string) => waitFor(async () => (await sql<{ yes: boolean }>(text))[0]?.yes === true);
      others.push({
        async [Symbol.asyncDispose]() {
          child.kill("SIGINT");
          await exited;
        },
      });
      await output.close();
      await until("select true as yes").catch(async (cause: unknown) => {
        throw new Error(`the standby did not start: ${await readFile(log, "utf8")}`, { cause });
      });
      const runtime = { ...own, user: "entity_service" };
      return {
        address: () => runtime,
        serve: () => serve(runtime),
        async caughtUp() {
          const [row] = await primary<{ lsn: string }>("select pg_current_wal_flush_lsn()::text as lsn");
          await until(`select pg_last_wal_replay_lsn() >= '${row?.lsn}' as yes`);
        },
        async cutOff() {
          await sql("alter system set primary_conninfo = ''");
          await sql("select pg_reload_conf()");
          await until("select not exists (select from pg_stat_wal_receiver) as yes");
        },
        async promote() {
          await sql("select pg_promote()");
          await until("select not pg_is_in_recovery() as yes");
        },
      };
    },
    async putBack(files) {
      const own = await filesOf(directory);
      await run("find", [own, "-mindepth", "1", "-delete"]);
      await run("cp", ["-a", `${await filesOf(files)}/.`, own]);
    },
    async [Symbol.asyncDispose]() {
      for (const other of others.toReversed()) await other[Symbol.asyncDispose]();
      await server?.stop();
      for (const folder of [directory, ...copies]) await rm(folder, { recursive: true, force: true });
    },
  };
}
