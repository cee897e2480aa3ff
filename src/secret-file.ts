// A file that holds a secret: of this process alone from its first byte, on the disk before anybody relies on it.
import { constants } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/**
 * Writes `text` to `path` with mode 0600. What is there already, a link too, is neither written to nor lost: it is moved
 * aside, to a name with the time. The folder is made where it is missing.
 */
export async function writeSecretFile(path: string, text: string, now: Date): Promise<void> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  const stamp = now.toISOString().replaceAll(/[^0-9TZ]/g, "");
  // Under a temporary name first: `path` is complete or not there.
  const unfinished = join(folder, `.${basename(path)}.${process.pid}.${stamp}`);
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
  const file = await open(unfinished, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0o600);
  try {
    try {
      await file.chmod(0o600);
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await moveAside(path, `${path}.${stamp}`);
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    throw error;
  }
  const parent = await open(folder, "r");
  await parent.sync().finally(() => parent.close());
}

async function moveAside(path: string, to: string): Promise<void> {
  try {
    await rename(path, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  // It may hold a secret too, under a mode of its own. A link is left as it is.
  const file = await open(to, constants.O_RDONLY | constants.O_NOFOLLOW).catch(() => undefined);
  await file?.chmod(0o600).finally(() => file.close());
}
