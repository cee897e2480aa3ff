// The server's process and its socket.
import { chown, mkdtemp, realpath, rm, rmdir, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EmbeddedPostgresError } from "./error.ts";
import { readIfThere } from "./files.ts";
import { findClosedFolder } from "./home.ts";
import { run, type User } from "./user.ts";

/** Only a part of the socket's file name: nothing listens on TCP. */
export const PORT = 5432;

/** Bytes of a socket's path on macOS; Linux allows 107. */
const MAX_SOCKET_PATH = 103;

export const SOCKET_FOLDER_PREFIX = "entity-postgres-";

/** How a server is asked to end, and how long each request may take: fast, immediate (recovers at next start), by force. */
const STOP_STEPS = [
  ["SIGINT", 20_000],
  ["SIGQUIT", 5_000],
  ["SIGKILL", 5_000],
] as const;

export async function isServerOf(pid: number, cluster: string): Promise<boolean> {
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

/** The cluster itself, unless a socket's path there would be too long. Both are folders of mode 0700: trust is all the password there is. */
export async function socketFolder(cluster: string, user: User | undefined): Promise<string> {
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

export function socketFiles(folder: string) {
  const socket = join(folder, `.s.PGSQL.${PORT}`);
  return [socket, `${socket}.lock`] as const;
}

/** Not recursive: as root the path may come from a file of another user. */
export async function clearSocketFolder(folder: string) {
  for (const file of socketFiles(folder)) await rm(file, { force: true });
  await rmdir(folder).catch(() => {});
}

export async function endServer(pid: number, hasEnded: () => Promise<boolean>) {
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
