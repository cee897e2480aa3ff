// `import`: a file of entities through ImportEntities, in constant memory at the pace of the service.
import { type EntityClient, errorInfo, ImportOutcome } from "../../clients/typescript/index.ts";
import { DomainError } from "../domain/errors.ts";
import { importRowOf } from "./import-row.ts";
import { linesOf, openSource, type Row, rowsOfLines } from "./lines.ts";
import { type Counts, countsLine, noCounts, openErrorsFile, type RowError, showProgress } from "./report.ts";

export interface ImportOptions {
  file: string;
  errorsFile: string;
  dryRun: boolean;
  /** For rows that give none. */
  reason: string | undefined;
  /** Rows whose entities are not there fail. */
  updateOnly: boolean;
  /** The file that says which field each column of a CSV is; undefined for NDJSON. */
  columnsFile: string | undefined;
}

const CSV_CURE = "say with --columns which field each column is (entity-service import --help shows how)";

/** A run that ended in the middle: how far it came, and the error that ended it as the cause. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

/** Imports the rows of a file. Answers the counts; throws Interrupted when the service went away in the middle. */
export async function importEntities(client: EntityClient, options: ImportOptions): Promise<Counts> {
  const csv = options.columnsFile === undefined ? undefined : await csvOf(options.columnsFile);
  const source = await openSource(options.file, { isCsv: csv !== undefined, csvCure: CSV_CURE });
  using errors = openErrorsFile(options.errorsFile, options.file);
  using progress = showProgress(process.stderr, source.bytes);
  const counts = noCounts();
  // Rows in flight, in order, with the refusals of rows that were not sent. The transport's flow
  // control bounds how many the service has not answered yet.
  const pending: { line: number; end: number; refusal?: RowError }[] = [];
  let done = { line: 0, end: 0 };
  let brokenFile: unknown;

  const settle = (outcome: keyof Counts, error?: RowError) => {
    done = pending.shift() ?? done;
    counts[outcome]++;
    if (error !== undefined) errors.write(done.line, error);
  };
  const settleRefusals = () => {
    for (let next = pending[0]; next?.refusal !== undefined; next = pending[0]) settle("failed", next.refusal);
  };
  const show = () => progress.update(done.end, counts.created + counts.updated + counts.unchanged + counts.failed);

  // A failure of the file, not of the connection, which the transport throws into rows().
  async function* whole() {
    try {
      yield* csv === undefined ? rowsOfLines(linesOf(source.stream)) : csv(source.stream, options.file);
    } catch (error) {
      brokenFile = error;
      throw error;
    }
  }
  async function* rows() {
    for await (const row of whole()) {
      const request = requestOf(row, options);
      if (request instanceof DomainError) {
        pending.push({ line: row.number, end: row.end, refusal: toRowError(request) });
        settleRefusals();
      } else {
        pending.push({ line: row.number, end: row.end });
        yield request;
      }
    }
  }

  try {
    let answered = 0n;
    for await (const { results } of client.entities.importEntities(rows())) {
      for (const result of results) {
        settleRefusals();
        if (pending.length === 0 || result.row !== answered++)
          throw new Error("the service answered a row that was not sent");
        const { error } = result;
        settle(
          OUTCOME[result.outcome] ?? "failed",
          error && { ...(errorInfo(error) ?? UNKNOWN), message: error.message },
        );
      }
      settleRefusals();
      show();
    }
    if (pending.length > 0) throw new Error(`the service left ${pending.length} rows without an answer`);
  } catch (error) {
    if (brokenFile !== undefined) throw brokenFile;
    if (done.line === 0) throw error;
    const what = options.dryRun ? "checked" : "written";
    throw new Interrupted(
      `ended after line ${done.line} (${countsLine(counts)}): what is counted is ${what}, rows after it may be too. ` +
        "Run the same command again: it is safe, rows that are there count as unchanged",
      { cause: error },
    );
  }
  return counts;
}

/** What makes rows of a CSV with these columns. No other import needs the library that reads it. */
async function csvOf(columnsFile: string) {
  const { csvRows, readColumns } = await import("./csv.ts");
  const columns = await readColumns(columnsFile);
  return (stream: AsyncIterable<Uint8Array>, file: string) => csvRows(stream, { file, columns });
}

const UNKNOWN = { reason: "UNKNOWN", metadata: {}, fieldViolations: [] };

const OUTCOME: Partial<Record<ImportOutcome, keyof Counts>> = {
  [ImportOutcome.CREATED]: "created",
  [ImportOutcome.UPDATED]: "updated",
  [ImportOutcome.UNCHANGED]: "unchanged",
};

function requestOf(row: Row, options: ImportOptions) {
  try {
    return importRowOf(row.read(), row.bytes, options);
  } catch (error) {
    if (error instanceof DomainError) return error;
    throw error;
  }
}

export function toRowError({ reason, message, metadata, violations }: DomainError): RowError {
  return { reason, message, metadata, fieldViolations: violations.map((violation) => ({ ...violation })) };
}
