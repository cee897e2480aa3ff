// Lends a PostgreSQL of a test's own, to be crashed, copied and put back: its own data folder, the embedded binaries;
// and the service on it.
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { chmod, mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { createEntityClient, type EntityClient } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { DEFAULT_ORGANIZATION_ID } from "../src/db/api-keys.ts";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../src/db/embedded.ts";
import { createOrm, type DatabaseAddress, migrate, type Orm } from "../src/db/orm.ts";
import { createLogger } from "../src/log.ts";
import { startServer } from "../src/server.ts";

const run = promisify(execFile);
const DATABASE = "entity_service";
const API_KEY = `test-${randomUUID()}`;

export interface ServiceOn extends AsyncDisposable {
  orm: Orm;
  /** Of the organization `default`. */
  client: EntityClient;
}

/** A service, as the run-time role, on a database that has been migrated. */
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
    client: createEntityClient({ baseUrl: `http://127.0.0.1:${running.port}`, apiKey: API_KEY }),
    async [Symbol.asyncDispose]() {
      await running[Symbol.asyncDispose]();
      await orm.close(true);
    },
  };
}

export { DEFAULT_ORGANIZATION_ID as ORGANIZATION };

export interface Cluster extends AsyncDisposable {
  /** The run-time role's. */
  address(): DatabaseAddress & { host: string; port: number };
  serve(): Promise<ServiceOn>;
  /** As the superuser. */
  sql<T = Record<string, any>>(text: string): Promise<T[]>;
  /** As PostgreSQL ends where a backend of it dies: without a checkpoint, what was not flushed is lost. */
  crash(): Promise<void>;
  stop(): Promise<void>;
  start(): Promise<void>;
  /** The files as they are now, whether it runs or not; as a backup, those of PostgreSQL's backup mode. */
  copy(as?: "backup"): Promise<string>;
  /** A cluster on a copy of the files, as its own, started. */
  startCopy(files: string): Promise<Cluster>;
  /** Puts copied files in the place of its own, while it is stopped. */
  putBack(files: string): Promise<void>;
}

/** Uses up transaction ids of transactions that are rolled back. */
export const rollBack = (count: number) =>
  `do $$ begin for i in 1..${count} loop perform pg_current_xact_id(); rollback; end loop; end $$`;

/** A folder that the server's user may enter. */
async function newFolder(prefix: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), prefix));
  await chmod(folder, 0o755);
  return folder;
}

const filesOf = (directory: string) => realpath(join(directory, "postgres"));

/** A new cluster, migrated, which flushes what nobody waits for seconds later: a crash loses it for sure. */
export async function newCluster(): Promise<Cluster> {
  const directory = await newFolder("entity-cluster-");
  const cluster = clusterIn(directory);
  await cluster.start();
  await cluster.sql(`create database ${DATABASE}`);
  await migrate(cluster.owner());
  await cluster.sql("alter role entity_service login");
  return cluster;
}

function clusterIn(directory: string): Cluster & { owner(): DatabaseAddress } {
  let server: EmbeddedPostgres | undefined;
  const copies: string[] = [];
  const others: Cluster[] = [];
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
    async sql(text) {
      const isOfCluster = text.startsWith("create database");
      const client = new pg.Client(address(running().ownerUser, isOfCluster ? "postgres" : DATABASE));
      await client.connect();
      client.on("error", () => {});
      try {
        return (await client.query(text)).rows;
      } finally {
        await client.end();
      }
    },
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
      // The log up to the end of the backup.
      await run("cp", ["-a", `${from}/pg_wal/.`, join(to, "pg_wal")]);
      await writeFile(join(to, "backup_label"), rows[0].labelfile);
      return copy;
    },
    async startCopy(files) {
      const other = clusterIn(files);
      others.push(other);
      await other.start();
      return other;
    },
    async putBack(files) {
      const own = await filesOf(directory);
      await run("find", [own, "-mindepth", "1", "-delete"]);
      await run("cp", ["-a", `${await filesOf(files)}/.`, own]);
    },
    async [Symbol.asyncDispose]() {
      for (const other of others) await other[Symbol.asyncDispose]();
      await server?.stop();
      for (const folder of [directory, ...copies]) await rm(folder, { recursive: true, force: true });
    },
  };
}
