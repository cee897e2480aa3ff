// What a command that works through a file tells: progress on a terminal, errors in a file, counts at the end.
import { closeSync, lstatSync, openSync, realpathSync, rmSync, writeSync } from "node:fs";
import cliProgress from "cli-progress";
import type { EntityErrorInfo } from "../../clients/typescript/index.ts";

export interface Counts {
  created: number;
  updated: number;
  unchanged: number;
  failed: number;
}

export const noCounts = (): Counts => ({ created: 0, updated: 0, unchanged: 0, failed: 0 });

export const countsLine = ({ created, updated, unchanged, failed }: Counts): string =>
  `created ${created}, updated ${updated}, unchanged ${unchanged}, failed ${failed}`;

/** Where the errors of FILE go unless the user says otherwise. */
export const errorsFileOf = (file: string): string => `${file === "-" ? "stdin" : file}.errors.ndjson`;

export interface RowError extends EntityErrorInfo {
  message: string;
}

/** Rows that failed, a line each: where, why, which field, and nothing of the row itself, which may be personal data. */
export interface ErrorsFile extends Disposable {
  write(line: number, error: RowError): void;
}

/** The file appears with the first error; that of a run before goes away now. Throws when it is the input itself. */
export function openErrorsFile(path: string, input: string): ErrorsFile {
  const kind = lstatSync(path, { throwIfNoEntry: false });
  if (kind !== undefined && input !== "-" && realpathSync(path) === realpathSync(input)) {
    throw new Error("the file of errors is the input itself: name another with --errors");
  }
  if (kind?.isFile()) rmSync(path);
  let fd: number | undefined;
  return {
    write(line, { reason, message, metadata, fieldViolations }) {
      fd ??= openSync(path, "w");
      const field = fieldViolations[0]?.field ?? metadata.field;
      const others = fieldViolations.length > 1 ? { violations: fieldViolations } : {};
      writeSync(fd, `${JSON.stringify({ line, reason, message, field, ...others })}\n`);
    },
    [Symbol.dispose]() {
      if (fd !== undefined) closeSync(fd);
    },
  };
}

/** A bar on the terminal with rate and time left; on anything else nothing at all. */
export interface Progress extends Disposable {
  /** How much of the total, such as bytes of the file, and how many rows are done so far. */
  update(done: number, rows: number): void;
}

/** `rows`: what is counted. Without a total there is no bar. */
export function showProgress(stream: NodeJS.WriteStream, total: number | undefined, rows = "rows"): Progress {
  if (!stream.isTTY) return { update() {}, [Symbol.dispose]() {} };
  const bar = new cliProgress.SingleBar({
    stream,
    format:
      total === undefined
        ? `{rows} ${rows} | {rate} ${rows}/s | {duration_formatted}`
        : `{bar} {percentage}% | {rows} ${rows} | {rate} ${rows}/s | {eta_formatted} left`,
    barCompleteChar: "#",
    barIncompleteChar: "-",
    barsize: 30,
    etaBuffer: 200,
    clearOnComplete: true,
    gracefulExit: false,
  });
  const start = performance.now();
  const payload = (count: number) => ({
    rows: count,
    rate: Math.round(count / Math.max(0.001, (performance.now() - start) / 1000)),
  });
  bar.start(total ?? 0, 0, payload(0));
  return {
    update: (done, count) => bar.update(done, payload(count)),
    [Symbol.dispose]: () => bar.stop(),
  };
}
