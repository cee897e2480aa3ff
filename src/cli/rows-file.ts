// Files of rows that grow in steps, each of which is there whole or not at all: what a process that was killed has left
// behind the last step is cut off when the next one opens them.
import { createHash } from "node:crypto";
import { type FileHandle, open, readFile, rename, rm, stat } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { lockFile } from "../file-lock.ts";

/** A file of rows, opened at the end of a step. */
export interface RowsFile {
  /** Appends the rows: on the disk when it resolves. How long the file is then, in bytes. */
  append(rows: string): Promise<number>;
  close(): Promise<void>;
}

/** Holds personal data: for its owner alone. */
const MODE = 0o600;

/** The file with what is up to `bytes` and nothing behind it; a new one at 0. Throws where it is shorter. */
export async function openRows(path: string, bytes: number): Promise<RowsFile> {
  if (bytes === 0) return rowsIn(await open(path, "wx", MODE), path, 0);
  const handle = await open(path, "r+");
  const { size } = await handle.stat();
  if (size >= bytes) {
    await handle.truncate(bytes);
    return rowsIn(handle, path, bytes);
  }
  await handle.close();
  throw new Error(`${path} is shorter than when the export was interrupted: remove it to begin anew`);
}

/** Bytes that tell a file from another of the same name. */
const TAIL = 4 * 1024;

/** The SHA-256 of the last of the first `bytes` of the file; of what there is, where it is shorter or not there. */
export async function tailOf(path: string, bytes: number): Promise<string> {
  const hash = createHash("sha256");
  const handle = await open(path, "r").catch(() => undefined);
  if (handle === undefined) return "";
  try {
    const buffer = Buffer.alloc(Math.min(TAIL, bytes));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, bytes - buffer.length);
    return hash.update(buffer.subarray(0, bytesRead)).digest("hex");
  } finally {
    await handle.close();
  }
}

function rowsIn(handle: FileHandle, path: string, start: number): RowsFile {
  let end = start;
  return {
    async append(rows) {
      // Each step is a member of its own: who unpacks the file gets them as one.
      const bytes = path.endsWith(".gz") ? gzipSync(rows) : Buffer.from(rows);
      for (let at = 0; at < bytes.length; )
        at += (await handle.write(bytes, at, bytes.length - at, end + at)).bytesWritten;
      await handle.datasync();
      end += bytes.length;
      return end;
    },
    close: () => handle.close(),
  };
}

/** The file is for this process alone until it lets go; throws where another one has it. */
export async function takeFile(path: string): Promise<AsyncDisposable> {
  const lockPath = `${path}.lock`;
  const inode = async () => (await stat(lockPath).catch(() => undefined))?.ino;
  for (;;) {
    await (await open(lockPath, "a", MODE)).close();
    const before = await inode();
    const held = lockFile(lockPath);
    if (held === undefined) throw new Error(`another export writes to ${path}: let it end, or stop it`);
    // Whoever had it may have removed it, and somebody made another: this one is nobody's then.
    if (before !== undefined && (await inode()) === before) {
      return {
        async [Symbol.asyncDispose]() {
          await removeFile(lockPath);
          held[Symbol.dispose]();
        },
      };
    }
    held[Symbol.dispose]();
  }
}

/** Replaces the file in one step. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const newPath = `${path}.new`;
  try {
    const handle = await open(newPath, "w", MODE);
    try {
      await handle.writeFile(text);
      await handle.datasync();
    } finally {
      await handle.close();
    }
    await rename(newPath, path);
  } catch (error) {
    await removeFile(newPath);
    throw error;
  }
}

/** What is in the file; undefined where there is none. */
export async function readWhole(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

export const removeFile = (path: string): Promise<void> => rm(path, { force: true });

export const exists = async (path: string): Promise<boolean> => (await stat(path).catch(() => undefined)) !== undefined;
