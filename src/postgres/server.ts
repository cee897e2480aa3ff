// Starts the server on a cluster and waits until it accepts connections.
import { spawn } from "node:child_process";
import { open, readFile, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { clearPreviousServer } from "./cluster.ts";
import { EmbeddedPostgresError } from "./error.ts";
import { ignoreMissing, readIfThere } from "./files.ts";
import { endServer } from "./process.ts";
import { asUser, type User } from "./user.ts";

const START_LIMIT_MS = 30_000;

/** How the server ended; `expected` when stop() asked for it. */
export interface ServerExit {
  code: number | null;
  signal: NodeJS.Signals | null;
  expected: boolean;
}

export async function startServer(
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
