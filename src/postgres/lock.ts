// One service on a folder.
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { lockFile } from "../file-lock.ts";
import { EmbeddedPostgresError } from "./error.ts";
import { readIfThere } from "./files.ts";

/** Takes the folder for this process, or throws. */
export async function lock(folder: string): Promise<AsyncDisposable> {
  const pidFile = join(folder, "service.pid");
  const path = join(folder, "service.lock");
  let held: Disposable | undefined;
  try {
    held = lockFile(path);
  } catch (cause) {
    throw new EmbeddedPostgresError(`${path} cannot be locked: ${String(cause)}`, { cause });
  }
  if (held === undefined) {
    await sleep(100); // the holder may just be writing its pid
    const holder = (await readIfThere(pidFile)) ?? "unknown";
    throw new EmbeddedPostgresError(
      `${folder} is in use by process ${holder}: stop that service, or set DATA_DIR to another folder`,
    );
  }
  const taken = held;
  await rm(pidFile, { force: true });
  await writeFile(pidFile, String(process.pid));
  return {
    async [Symbol.asyncDispose]() {
      await rm(pidFile, { force: true });
      taken[Symbol.dispose]();
    },
  };
}
