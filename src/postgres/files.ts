// Files that may be missing.
import { readFile, stat } from "node:fs/promises";

export function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT" && error.code !== "ESRCH") throw error;
}

export function ignoreExisting(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "EEXIST" && error.code !== "ENOTEMPTY") throw error;
}

export function readIfThere(path: string) {
  return readFile(path, "utf8").catch(ignoreMissing);
}

export function statIfThere(path: string) {
  return stat(path).catch(ignoreMissing);
}
