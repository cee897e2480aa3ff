// A file that one process has at a time.
import { DatabaseSync } from "node:sqlite";

/**
 * Locks an empty file, which is made where it is missing, until it is disposed of; undefined where another process has it.
 * The lock is SQLite's: one of the kernel (fcntl), so it ends with its process however that ends, knows nothing of pids
 * that are used again, is not inherited by a child, and two that come at once are told apart; Node has no flock of its own.
 * To open and close the file by other means within this process releases the lock: that is how fcntl works.
 */
export function lockFile(path: string): Disposable | undefined {
  let file: DatabaseSync | undefined;
  try {
    file = new DatabaseSync(path, { timeout: 0 });
    file.exec("PRAGMA journal_mode = memory; BEGIN EXCLUSIVE");
  } catch (cause) {
    file?.close();
    const isBusy = cause instanceof Error && "errcode" in cause && cause.errcode === 5;
    if (isBusy) return undefined;
    throw cause;
  }
  const held = file;
  return { [Symbol.dispose]: () => held.close() };
}
