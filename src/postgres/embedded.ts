// A real PostgreSQL 18 of the service's own: makes the cluster, starts the server, takes back what a crash left, stops it.
// What it must hold against: two services on one folder, kill -9 at any moment, root (which PostgreSQL refuses), a home that
// only root may enter, npm without install scripts.
//
//   DATA_DIR/service.lock   held for as long as the service lives
//   DATA_DIR/service.pid    who holds it, for the error text only
//   DATA_DIR/postgres       the cluster, or as root a link to it (home.ts)
//   DATA_DIR/postgres.log   the server's log since its start; postgres.log.1 is the one before
import { mkdir, realpath, stat } from "node:fs/promises";
import { totalmem } from "node:os";
import { join, resolve } from "node:path";
import { findBinaries } from "./binaries.ts";
import { clearPreviousServer, clearUnfinishedClusters, createCluster, hasCluster, OWNER } from "./cluster.ts";
import { clusterHome } from "./home.ts";
import { lock } from "./lock.ts";
import { clearSocketFolder, PORT, socketFolder } from "./process.ts";
import { type ServerExit, startServer } from "./server.ts";
import { run, serverUser } from "./user.ts";

/**
 * A part of the memory, that of the container where there is one. What it does not use, it does not take. Its default
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
