// What does an analysis cost? npm run bench:risk [-- --entities 100000] [--seconds N]; ENTITIES=n too.
// Ten rules over all entities of an organization, many calls at a time, beside the rate of the library alone in one process;
// the same again, when nothing has changed; and what other callers notice while rules run that are cut off for their time.
// Ends with 1 where the second run has written anything, or the p99 of others beside cut-off rules is 50 ms or more.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { fromJson } from "@bufbuild/protobuf";
import { createEntityClient, type EntityClient, RiskMatrixSchema } from "../clients/typescript/index.ts";
import { createExpressions, toInput } from "../src/risk/expressions.ts";
import { startLoad } from "./bench.ts";
import { fill } from "./fill.ts";
import { type Service, startService } from "./processes.ts";

const IN_FLIGHT = 128;
const BAR_MS = 50;
const WARM_UP_SECONDS = 1;
const OPERATIONS = ["get", "update"] as const;
const MATRIX = fromJson(
  RiskMatrixSchema,
  JSON.parse(readFileSync(new URL("../examples/risk-matrix.json", import.meta.url), "utf8")),
);

const say = (line: string) => process.stdout.write(`${line}\n`);
const perSecond = (count: number, ms: number) => `${Math.round((count / ms) * 1000).toLocaleString("en-US")}/s`;

/** Entities per second of the library, compiled as the service does, over what it would send to its thread. */
async function libraryAlone({ sql }: Service, count: number): Promise<string> {
  const rows = await sql(
    `select name, country_code, nationality, tax_id, entity_data, attributes, created_at from entity limit ${count}`,
  );
  const texts = rows.map((row) =>
    JSON.stringify({
      ...{ type: "person", name: row.name, countryCode: row.country_code, attributes: row.attributes, metadata: {} },
      ...(row.nationality === null ? {} : { nationality: row.nationality }),
      ...(row.tax_id === null ? {} : { taxId: row.tax_id }),
      ...{
        entityData: { person: row.entity_data ?? {}, company: {} },
        createdAt: new Date(row.created_at).toISOString(),
      },
    }),
  );
  const run = createExpressions().compile(MATRIX.rules.map(({ expression }) => expression));
  const all = () => {
    for (const text of texts) run({ entity: toInput(JSON.parse(text)), today: "2026-11-28" }, () => {});
  };
  all();
  const start = performance.now();
  all();
  return perSecond(texts.length, performance.now() - start);
}

/** Analyzes each of the entities once; answers the milliseconds, and how many evaluations were new. */
async function analyzeAll({ entities }: EntityClient, ids: readonly string[]): Promise<{ ms: number; made: number }> {
  const start = performance.now();
  let [next, made] = [0, 0];
  const work = async () => {
    for (let id = ids[next++]; id !== undefined; id = ids[next++]) {
      const { changed } = await entities.analyzeEntity({ lookup: { by: { case: "entityId", value: id } } });
      if (changed) made += 1;
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, work));
  return { ms: performance.now() - start, made };
}

/** An entity and a matrix whose loop is within its steps and takes far longer than it may. */
async function makeSlow({ entities, riskMatrices }: EntityClient): Promise<string> {
  const expression = "entity.attributes.large.exists(x, x + 0.5 in entity.attributes.large)";
  const rules = [{ id: "slow", displayName: "A loop over a large value", expression, points: "1" }];
  const { matrix } = await riskMatrices.createRiskMatrix({ matrix: { displayName: "Slow", rules } });
  const large = Array.from({ length: 20_000 }, () => 1);
  const { entity } = await entities.createEntity({
    entity: { type: 1, name: "Slow", countryCode: "AR", riskMatrixId: matrix?.id ?? "", attributes: { large } },
  });
  return entity?.id ?? "";
}

/** Is cut off again and again, until it is stopped; answers how often. */
function cutOff({ entities }: EntityClient, id: string): () => Promise<Record<string, number>> {
  const endings: Record<string, number> = {};
  let isStopped = false;
  const running = (async () => {
    while (!isStopped) {
      const ending = await entities.analyzeEntity({ lookup: { by: { case: "entityId", value: id } } }).then(
        ({ evaluation }) => `answered ${evaluation?.rules.map(({ error }) => error)}`,
        (error: Error) => error.message,
      );
      endings[ending] = (endings[ending] ?? 0) + 1;
    }
  })();
  return async () => {
    isStopped = true;
    await running;
    return endings;
  };
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      entities: { type: "string", default: process.env.ENTITIES ?? "100000" },
      seconds: { type: "string", default: "5" },
    },
  });
  const [count, seconds] = [Number(values.entities), Number(values.seconds)];
  process.once("SIGINT", () => process.exit(130));
  process.once("SIGTERM", () => process.exit(143));

  await using all = new AsyncDisposableStack();
  const service = all.use(await startService());
  const apiKeys = await fill(service, { organizations: 1, entitiesEach: count, people: true });
  const [apiKey = ""] = apiKeys;
  const client = createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  const { matrix } = await client.riskMatrices.createRiskMatrix({ matrix: MATRIX });
  await service.sql(`update entity set risk_matrix_id = '${matrix?.id}', attributes = attributes || case when random() < 0.1
    then '{"pep": true, "adverseMedia": ["a", "b"]}'::jsonb else jsonb_build_object('monthlyVolume', floor(random() * 200000)) end`);
  await service.sql("vacuum analyze entity");
  await service.sql("checkpoint");
  const ids = (await service.sql("select id from entity")).map(({ id }) => String(id));

  say(`${MATRIX.rules.length} rules over ${count.toLocaleString("en-US")} entities`);
  say(`  the library alone, in one process   ${await libraryAlone(service, Math.min(count, 20_000))}`);
  const first = await analyzeAll(client, ids);
  say(`  analyzed, ${IN_FLIGHT} calls in flight       ${perSecond(count, first.ms)}, ${first.made} evaluations`);
  const written = async () => (await service.sql("select count(*) as n from evaluation"))[0];
  const before = await written();
  const second = await analyzeAll(client, ids);
  const after = await written();
  say(`  again, nothing has changed          ${perSecond(count, second.ms)}, ${second.made} evaluations`);
  const isQuiet = second.made === 0 && before?.n === after?.n;

  const slow = await makeSlow(client);
  const load = all.use(startLoad());
  const others = (operation: (typeof OPERATIONS)[number]) =>
    load.run({
      ...{ port: service.port, serverPid: service.pid, databasePid: service.address.pid, operation, apiKeys },
      ...{ concurrency: 16, entitiesPerOrganization: count, warmUpSeconds: WARM_UP_SECONDS, seconds },
    });
  let worst = 0;
  say("\nothers of the organization, 16 in flight, p99 in ms, while a rule is cut off again and again");
  for (const operation of OPERATIONS) {
    const alone = await others(operation);
    const stop = cutOff(client, slow);
    const beside = await others(operation);
    const endings = await stop();
    worst = Math.max(worst, beside.p99);
    const how = Object.entries(endings).map(([ending, times]) => `${times} times ${ending}`);
    say(`  ${operation.padEnd(8)} alone ${alone.p99.toFixed(1)}, beside ${beside.p99.toFixed(1)} (${how.join("; ")})`);
  }
  const isKept = isQuiet && worst < BAR_MS;
  say(`\nbars: nothing written twice, p99 of others below ${BAR_MS} ms: ${isKept ? "kept" : "not kept"}`);
  return isKept ? 0 : 1;
}

process.exitCode = await main();
