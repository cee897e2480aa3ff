// `export`: all entities of one moment to a file of rows that `import` takes. Killed, it goes on where it was: a file beside
// it says how far the rows go that are whole, and of which moment they are.
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type EntityClient,
  type EntityStatus,
  type EntityType,
  type ExportEntitiesResponse,
  errorInfo,
} from "../../clients/typescript/index.ts";
import { isObject } from "../domain/json.ts";
import { networkCode } from "./connection.ts";
import { exportRowOf, jsonOf } from "./export-row.ts";
import { showProgress } from "./report.ts";
import { exists, openRows, type RowsFile, readWhole, removeFile, tailOf, takeFile, writeWhole } from "./rows-file.ts";

export interface ExportOptions {
  /** `-` for standard output, which cannot be gone on with. */
  file: string;
  type: EntityType | undefined;
  statuses: EntityStatus[];
  countryCodes: string[];
  /** Of rows whose status needs one. */
  reason: string | undefined;
}

export interface Exported {
  /** Rows of the file. */
  rows: number;
  /** Entities without an external id, which no import would find again. */
  others: number;
  othersFile: string;
  /** A watch from here completes it. */
  position: string;
}

/** How far an export has come: all of it is on the disk. */
interface Step {
  /** What was asked for. */
  query: string;
  position: string;
  after: string;
  rows: number;
  others: number;
  /** How long the two files are. */
  rowBytes: number;
  otherBytes: number;
  /** What the last of these bytes are: files of the same name may be others. */
  rowTail: string;
  otherTail: string;
}

/** Rows that are written at once, in characters. */
const STEP_LENGTH = 4 * 1024 * 1024;
const PROGRESS = 1_000;
/** Between two attempts to go on, and how many without an entity more end it. */
const RETRY_MS = 1_000;
const MAX_ATTEMPTS = 30;

const stateFileOf = (file: string): string => `${file}.state`;

/** Where entities without an external id go. */
export function othersFileOf(file: string): string {
  if (file === "-") return "stdout.without-external-id.ndjson";
  const [, base = file, gzip = ""] = /^(.+?)(?:\.ndjson|\.jsonl)?(\.gz)?$/.exec(file) ?? [];
  return `${base}.without-external-id.ndjson${gzip}`;
}

/** Exports what fits; goes on with an export of the same name that was interrupted. */
export async function exportEntities(client: EntityClient, options: ExportOptions): Promise<Exported> {
  const { file } = options;
  const query = JSON.stringify([options.type ?? 0, options.statuses, options.countryCodes]);
  const othersFile = othersFileOf(file);
  // Before anything is looked at: until it ends, nobody else looks, or writes.
  await using _ = file === "-" ? undefined : await takeFile(file);
  const store = await openStore(file, othersFile, query);
  using progress = showProgress(process.stderr, PROGRESS, "entities");
  let { step } = store;
  let done = false;
  try {
    for (let attempts = 1; !done; attempts++) {
      const begun = step;
      try {
        const request = {
          ...(options.type !== undefined && { type: options.type }),
          statuses: options.statuses,
          countryCodes: options.countryCodes,
          position: step.position,
          after: step.after,
        };
        const messages = client.entities.exportEntities(request);
        for await (const written of steps(messages, step, options.reason)) {
          step = await store.write(written);
          ({ done } = written);
          progress.update(written.part * PROGRESS, step.rows + step.others);
        }
        if (!done) throw new Error("the service ended the export before its end");
      } catch (error) {
        // What was sent behind the last step comes again.
        if (step !== begun) attempts = 1;
        if (step.position === "" || attempts >= MAX_ATTEMPTS || !isPassing(error)) throw explained(error, file);
        await sleep(RETRY_MS);
      }
    }
  } finally {
    await store.close();
    // Of what is done or has not begun nothing is left.
    if (done || step.position === "") await store.removeState();
  }
  return { rows: step.rows, others: step.others, othersFile, position: step.position };
}

/** Rows of the two files, and how far the export has come with them. */
interface Written {
  step: Step;
  rows: string;
  others: string;
  done: boolean;
  part: number;
}

/** The first says of which moment they are; then as many rows at once as a step may have. */
async function* steps(
  messages: AsyncIterable<ExportEntitiesResponse>,
  from: Step,
  reason: string | undefined,
): AsyncGenerator<Written> {
  let step = from;
  let [rows, others] = ["", ""];
  for await (const { position, entities, after, done: part } of messages) {
    const isFirst = step.position === "";
    step = { ...step, position, after };
    for (const entity of entities) {
      if (entity.externalId === "") others += `${JSON.stringify(jsonOf(entity))}\n`;
      else rows += `${JSON.stringify(exportRowOf(entity, reason))}\n`;
      step[entity.externalId === "" ? "others" : "rows"]++;
    }
    const done = part === 1;
    if (!isFirst && !done && rows.length + others.length < STEP_LENGTH) continue;
    yield { step, rows, others, done, part };
    [rows, others] = ["", ""];
  }
}

interface Store {
  step: Step;
  /** Writes the rows, then the step; answers the step with the length of the files. */
  write(written: Written): Promise<Step>;
  removeState(): Promise<void>;
  close(): Promise<void>;
}

async function openStore(file: string, othersFile: string, query: string): Promise<Store> {
  const isStored = file !== "-";
  const stateFile = stateFileOf(file);
  const stored = isStored ? await readStep(stateFile) : undefined;
  if (stored === undefined) {
    for (const path of isStored ? [file, othersFile] : [othersFile]) if (await exists(path)) throw isThere(path);
  } else if (stored.query !== query) {
    throw new Error(
      `${stateFile} is of an export with other filters: run it with those, or remove it and ${file} to begin anew`,
    );
  }
  let step: Step = stored ?? { ...BEGIN, query };
  const begun = [
    { path: file, bytes: step.rowBytes, tail: step.rowTail },
    { path: othersFile, bytes: step.otherBytes, tail: step.otherTail },
  ];
  for (const { path, bytes, tail } of begun) if (bytes > 0 && (await tailOf(path, bytes)) !== tail) throw isThere(path);
  if (isStored) await writeWhole(stateFile, JSON.stringify(step));
  // With nothing of it in a step, what is there was cut off before its first.
  for (const { path, bytes } of begun) if (stored !== undefined && bytes === 0) await removeFile(path);
  // Each file appears with the first of its rows.
  let rows = isStored ? await openBegun(file, step.rowBytes) : standardOutput();
  let others = await openBegun(othersFile, step.otherBytes);
  return {
    step,
    async write(written) {
      const { rowBytes, otherBytes, rowTail, otherTail } = step;
      step = { ...written.step, rowBytes, otherBytes, rowTail, otherTail };
      if (written.rows !== "" || written.done) {
        rows ??= await openRows(file, 0);
        step.rowBytes = await rows.append(written.rows);
        if (isStored) step.rowTail = await tailOf(file, step.rowBytes);
        if (isStored && step.rowTail === "") throw new Error(`${file} was removed while it was written: begin anew`);
      }
      if (written.others !== "") {
        others ??= await openRows(othersFile, 0);
        step.otherBytes = await others.append(written.others);
        step.otherTail = await tailOf(othersFile, step.otherBytes);
      }
      if (isStored) await writeWhole(stateFile, JSON.stringify(step));
      return step;
    },
    async removeState() {
      if (isStored) await removeFile(stateFile);
    },
    async close() {
      await rows?.close();
      await others?.close();
    },
  };
}

const BEGIN = { position: "", after: "", rows: 0, others: 0, rowBytes: 0, otherBytes: 0, rowTail: "", otherTail: "" };

const isThere = (path: string) => new Error(`${path} is there already: remove it, or give another name`);

const openBegun = async (path: string, bytes: number): Promise<RowsFile | undefined> =>
  bytes === 0 ? undefined : openRows(path, bytes);

function standardOutput(): RowsFile {
  let end = 0;
  return {
    async append(rows) {
      if (!process.stdout.write(rows)) await once(process.stdout, "drain");
      end += Buffer.byteLength(rows);
      return end;
    },
    close: async () => {},
  };
}

async function readStep(path: string): Promise<Step | undefined> {
  const text = await readWhole(path);
  if (text === undefined) return undefined;
  const step = parsed(text);
  if (step === undefined) throw new Error(`${path} is no state of an export: remove it and its export to begin anew`);
  return step;
}

function parsed(text: string): Step | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isObject(value)) return undefined;
  const isText = [value.query, value.position, value.after, value.rowTail, value.otherTail].every(
    (one) => typeof one === "string",
  );
  const numbers = [value.rows, value.others, value.rowBytes, value.otherBytes];
  const isCounted = numbers.every((one) => Number.isSafeInteger(one) && (one as number) >= 0);
  return isText && isCounted ? (value as unknown as Step) : undefined;
}

/** Errors that going on from the last step cures. */
function isPassing(error: unknown): boolean {
  const reason = errorInfo(error)?.reason;
  if (reason === undefined) return networkCode(error) !== undefined;
  return reason === "DATABASE_UNAVAILABLE" || reason === "OVERLOADED";
}

function explained(error: unknown, file: string): unknown {
  if (errorInfo(error)?.reason !== "POSITION_EXPIRED" || file === "-") return error;
  const what = `${file}, ${othersFileOf(file)} and ${stateFileOf(file)}`;
  return new Error(
    `POSITION_EXPIRED: what has happened since the export began is no longer known: remove ${what}, and begin anew`,
  );
}
