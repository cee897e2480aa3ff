// `analyze`: the risk of one entity, or of all that have a matrix, many at a time.
import { setTimeout as sleep } from "node:timers/promises";
import { create, toJson } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import type { Command } from "commander";
import {
  type Entity,
  type EntityClient,
  type EntityLookup,
  EntityLookupSchema,
  type Evaluation,
  EvaluationSchema,
  errorInfo,
} from "../../clients/typescript/index.ts";
import { ConfigError } from "../config.ts";
import { type LookupOptions, withLookup } from "./arguments.ts";
import { CALL, describe } from "./connection.ts";
import { ANALYZE_HELP } from "./help.ts";
import { lookupOf } from "./read.ts";
import { showProgress } from "./report.ts";

/** Calls under way: more than the service runs at once, so that it always has some to join. */
const CALLS = 64;
/** What another attempt may mend, and how often it is tried. */
const PASSING = ["OVERLOADED", "WRITE_CONFLICT", "DATABASE_UNAVAILABLE", "COMMIT_UNKNOWN"];
const MAX_ATTEMPTS = 8;
/** Failures that are told one by one; the rest is counted. */
const MAX_TOLD = 20;

/** Adds the command; `failed` is told when some entity could not be analyzed. */
export function addAnalyze(program: Command, connect: () => EntityClient, failed: () => void): void {
  withLookup(program.command("analyze").description("run the rules of its risk matrix over an entity, or over all"))
    .option("--all", "every entity that has a risk matrix", false)
    .option("--matrix <uuid>", "try this matrix on one entity, and store nothing")
    .addHelpText("after", ANALYZE_HELP)
    .action(async (options: LookupOptions & { all: boolean; matrix?: string }) => {
      const lookup = lookupOf(options);
      if ((lookup === undefined) !== options.all || (options.all && options.matrix !== undefined)) {
        throw new ConfigError("give --all alone, or one of --id, --external-id, --tax-id");
      }
      if (lookup !== undefined) await printEvaluation(connect(), lookup, options.matrix);
      else if ((await analyzeAll(connect())) > 0) failed();
    });
}

async function printEvaluation(client: EntityClient, lookup: EntityLookup, matrix: string | undefined): Promise<void> {
  const trial = matrix === undefined ? {} : { riskMatrixId: matrix, validateOnly: true };
  const { evaluation } = await client.entities.analyzeEntity({ lookup, ...trial }, CALL);
  process.stdout.write(`${JSON.stringify(toJson(EvaluationSchema, evaluation as Evaluation), null, 2)}\n`);
}

/** Analyzes every live entity that has a matrix; answers how many could not be. */
async function analyzeAll(client: EntityClient): Promise<number> {
  const counts = { analyzed: 0, unchanged: 0, incomplete: 0, failed: 0 };
  using progress = showProgress(process.stderr, undefined, "entities");
  const entities = withMatrix(client);
  const told: string[] = [];
  const work = async () => {
    for await (const entity of entities) {
      try {
        const { changed, evaluation } = await analyze(client, entity);
        counts[changed === true ? "analyzed" : "unchanged"] += 1;
        if (evaluation?.incomplete) counts.incomplete += 1;
      } catch (error) {
        if (!(error instanceof ConnectError) || errorInfo(error) === undefined) throw error;
        counts.failed += 1;
        if (told.length < MAX_TOLD) told.push(`${entity.id}  ${describe(error, process.env)}`);
      }
      const done = counts.analyzed + counts.unchanged + counts.failed;
      progress.update(done, done);
    }
  };
  await Promise.all(Array.from({ length: CALLS }, work));
  for (const line of told) process.stderr.write(`${line}\n`);
  const { analyzed, unchanged, incomplete, failed } = counts;
  process.stdout.write(
    `analyzed ${analyzed}, unchanged ${unchanged}, failed ${failed}; of the first two ${incomplete} incomplete\n`,
  );
  return failed;
}

/** Entities page by page; several callers take from it in turn. */
async function* withMatrix(client: EntityClient): AsyncGenerator<Entity> {
  let pageToken = "";
  do {
    const page = await client.entities.listEntities(
      { pageSize: 1000, pageToken, readMask: { paths: ["id", "risk_matrix_id"] } },
      CALL,
    );
    for (const entity of page.entities) if (entity.riskMatrixId !== undefined) yield entity;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

async function analyze(client: EntityClient, { id }: Entity) {
  const lookup = create(EntityLookupSchema, { by: { case: "entityId", value: id } });
  for (let attempt = 1; ; attempt++) {
    try {
      return await client.entities.analyzeEntity({ lookup }, CALL);
    } catch (error) {
      const reason = error instanceof ConnectError ? errorInfo(error)?.reason : undefined;
      if (reason === undefined || !PASSING.includes(reason) || attempt === MAX_ATTEMPTS) throw error;
      await sleep(Math.random() * 100 * 2 ** attempt);
    }
  }
}
