// The cluster on disk: made, recognized, and cleared of what a server that lost its service left.
import { chown, mkdtemp, open, readdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { EmbeddedPostgresError } from "./error.ts";
import { readIfThere, statIfThere } from "./files.ts";
import { clearSocketFolder, endServer, isServerOf, SOCKET_FOLDER_PREFIX, socketFiles } from "./process.ts";
import { asUser, run, type User } from "./user.ts";

export const OWNER = "entity_owner";

/** False when there is none. Throws when what is there cannot be served by this version; changes nothing. */
export async function hasCluster(cluster: string, major: string): Promise<boolean> {
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

export async function createCluster(initdb: string, home: string, user: User | undefined, log: (line: string) => void) {
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
export async function clearUnfinishedClusters(home: string) {
  for (const name of await readdir(home)) {
    if (!name.startsWith("initdb-")) continue;
    await rm(join(home, name), { recursive: true, force: true, maxRetries: 3 }).catch(() => {});
  }
}

/** Whatever runs on the cluster has lost its service, for we hold the lock: it is stopped. Then its traces are cleared. */
export async function clearPreviousServer(cluster: string, log: (line: string) => void) {
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
