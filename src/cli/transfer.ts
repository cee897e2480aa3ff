// The arguments of `import` and `export`.
import type { Command } from "commander";
import type { EntityClient, EntityType } from "../../clients/typescript/index.ts";
import { entityType, statusesOf } from "./arguments.ts";
import { exportEntities } from "./export.ts";
import { EXPORT_HELP, IMPORT_HELP } from "./help.ts";
import { importEntities } from "./import.ts";
import { type Counts, errorsFileOf } from "./report.ts";

export function addImport(
  program: Command,
  connect: () => EntityClient,
  report: (counts: Counts, errorsFile: string) => void,
): void {
  program
    .command("import")
    .description("create or update entities from a file, found by their external_id; safe to run again")
    .argument("<file>", "NDJSON, the JSON form of an Entity a line, or CSV, gzip or not; - for standard input")
    .option("--errors <file>", "where rows that failed are told of (default: FILE.errors.ndjson)")
    .option("--dry-run", "check every row and write nothing", false)
    .option("--update-only", "create no entity: a row whose entity is not there fails", false)
    .option("--columns <file>", "FILE is CSV: which field each of its columns is")
    .option("--reason <text>", "the reason of rows that have none")
    .addHelpText("after", IMPORT_HELP)
    .action(
      async (
        file: string,
        options: { errors?: string; dryRun: boolean; updateOnly: boolean; columns?: string; reason?: string },
      ) => {
        const errorsFile = options.errors ?? errorsFileOf(file);
        const { dryRun, updateOnly, columns: columnsFile, reason } = options;
        const counts = await importEntities(connect(), {
          file,
          errorsFile,
          dryRun,
          updateOnly,
          columnsFile,
          reason,
        });
        report(counts, errorsFile);
      },
    );
}

export function addExport(program: Command, connect: () => EntityClient): void {
  program
    .command("export")
    .description("write all entities of one moment to a file that import takes; run again, it goes on where it stopped")
    .argument("<file>", "NDJSON, with gzip where its name ends in .gz; - for standard output")
    .option("--type <type>", "only persons, or only companies", entityType)
    .option("--status <status...>", "only these statuses, such as ACTIVE")
    .option("--country <code...>", "only these countries, such as AR")
    .option("--reason <text>", "the reason of rows whose status needs one (default: that they were exported with it)")
    .addHelpText("after", EXPORT_HELP)
    .action(
      async (file: string, options: { type?: EntityType; status?: string[]; country?: string[]; reason?: string }) => {
        const { rows, others, othersFile, position } = await exportEntities(connect(), {
          file,
          type: options.type,
          statuses: statusesOf(options.status),
          countryCodes: options.country ?? [],
          reason: options.reason,
        });
        // The rows may be on standard output.
        const print = (line: string) => (file === "-" ? process.stderr : process.stdout).write(`${line}\n`);
        print(`exported ${rows}, without an external id ${others}${others === 0 ? "" : `, see ${othersFile}`}`);
        print(`position ${position}`);
      },
    );
}
