// One service on a folder.
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { EmbeddedPostgresError } from "./error.ts";
import { readIfThere } from "./files.ts";

/**
 * Takes the folder for this process, or throws. The lock is SQLite's on an empty file: a lock of the kernel (fcntl), so it
 * ends with its process however that ends, knows nothing of pids that are used again, is not inherited by the server, and
 * two that come at once are told apart; Node has no flock of its own. To open and close `service.lock` by other means
 * within this process releases the lock: that is how fcntl works.
 */
export async function lock(folder: string): Promise<AsyncDisposable> {
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
