// The user that the server runs as: under root, another one.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { EmbeddedPostgresError } from "./error.ts";
import { statIfThere } from "./files.ts";

export const run = promisify(execFile);

/** Nothing of the service's own environment: no PG* variable reaches the server, and no secret its /proc entry. */
const ENVIRONMENT = { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" };

/** A user that is not root and has a passwd entry; PostgreSQL asks for both. */
export interface User {
  name: string;
  uid: number;
  gid: number;
}

/** As root: the cluster's owner, else `postgres`, else `nobody`. Otherwise undefined: the server runs as this process does. */
export async function serverUser(cluster: string): Promise<User | undefined> {
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

export function asUser(user: User | undefined) {
  // The working directory may be one that the user cannot enter.
  return { cwd: "/", env: ENVIRONMENT, ...(user && { uid: user.uid, gid: user.gid }) };
}
