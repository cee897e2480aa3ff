// Where the cluster lies, and whether the server's user may reach it.
import { chmod, lstat, mkdir, mkdtemp, readdir, readlink, realpath, stat, symlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { EmbeddedPostgresError } from "./error.ts";
import { ignoreMissing, statIfThere } from "./files.ts";
import type { User } from "./user.ts";

/**
 * The folder that holds the cluster: `directory`, or where its link `postgres` leads. A new cluster that the server's user
 * could not reach in `directory` (a checkout in root's home) gets a folder of its own under `state` and the link. The
 * folder's name is random and not made from `directory`: after DATA_DIR is removed, the database begins empty.
 */
export async function clusterHome(
  directory: string,
  user: User | undefined,
  state: string,
  log: (line: string) => void,
) {
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
export async function findClosedFolder(path: string, user: User): Promise<string | undefined> {
  for (const folder of withAncestors(path)) if (!(await isAllowed(folder, user, 1))) return folder;
  return undefined;
}

export async function isAllowed(path: string, user: User, bits: number) {
  const { mode, uid, gid } = await stat(path);
  const shift = uid === user.uid ? 6 : gid === user.gid ? 3 : 0;
  return ((mode >> shift) & bits) === bits;
}

/** Makes a folder in which nobody but root can have put anything, and which the user may enter; or throws. */
export async function makeRootFolder(path: string, user: User) {
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
