// What does a merge cost, and what do others notice? npm run bench:merge [-- --rows 100000] [--seconds N] [--rounds N]
// Two entities with so many transactions each are merged and parted again, one call after the other, while other entities
// of the same organization are read and updated; and the same reads and updates alone. Ends with 1 where a merge or an
// unmerge took more than 300 ms, or the p99 of others beside them more than 100 ms (rule 114).
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { createEntityClient, type EntityClient, EntityType } from "../clients/typescript/index.ts";
import { startLoad } from "./bench.ts";
import { fill } from "./fill.ts";
import type { Measurement } from "./load.ts";
import { type Service, startService } from "./processes.ts";

const IN_FLIGHT = 16;
const ENTITIES = 10_000;
const WARM_UP_SECONDS = 1;
/** Merges that are measured while nothing else goes on. */
const QUIET = 20;
/** Between two merges beside others. */
const PAUSE_MS = 20;
const BAR_MS = { merge: 300, others: 100 };
const REASON = "measured";
const OPERATIONS = ["get", "update"] as const;

type Times = Record<"preview" | "merge" | "unmerge", number[]>;
const noTimes = (): Times => ({ preview: [], merge: [], unmerge: [] });

/** Two persons of the organization, each with so many transactions, one in ten of them between the two. */
async function fillPair(client: EntityClient, { sql }: Service, rows: number): Promise<[string, string]> {
  const made = await Promise.all(
    ["one", "other"].map(async (externalId) => {
      const entity = { type: EntityType.PERSON, name: `Person ${externalId}`, countryCode: "AR", externalId };
      return (await client.entities.createEntity({ entity })).entity;
    }),
  );
  const [one, other] = made as [NonNullable<(typeof made)[0]>, NonNullable<(typeof made)[0]>];
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    // Half of those between the two come from each.
    await sql(
      `insert into transaction (organization_id, id, type, amount, currency, origin_entity_id, origin_external_id,
         destination_entity_id, destination_external_id, transacted_at, content_hash)
       select $1, gen_random_uuid(), 'payment', '1', 'ARS', $2, $3, case when n <= $6 / 20 then $4::uuid end,
         case when n <= $6 / 20 then $5 end, '2026-01-01Z'::timestamptz + n * interval '1 second', ''
       from generate_series(1, $6::int - $6::int / 20) n`,
      [from.organizationId, from.id, from.externalId, to.id, to.externalId, rows],
    );
  }
  await sql("vacuum analyze transaction");
  await sql("checkpoint");
  return [one.id, other.id];
}

/** Merges and parts the two, and adds what each call took, in milliseconds. */
async function mergeOnce({ entities }: EntityClient, [primaryId, secondaryId]: [string, string], times: Times) {
  const byId = (value: string) => ({ by: { case: "entityId" as const, value } });
  const pair = { primary: byId(primaryId), secondary: byId(secondaryId), reason: REASON };
  const timed = async <T>(name: keyof Times, call: () => Promise<T>): Promise<T> => {
    const start = performance.now();
    const answer = await call();
    times[name].push(performance.now() - start);
    return answer;
  };
  await timed("preview", () => entities.mergeEntities({ ...pair, validateOnly: true }));
  const { mergeId } = await timed("merge", () => entities.mergeEntities(pair));
  await timed("unmerge", () => entities.unmergeEntities({ mergeId, reason: REASON }));
}

/** One call after the other until it is stopped. */
function mergeOn(client: EntityClient, pair: [string, string], times: Times): () => Promise<void> {
  let isStopped = false;
  const running = (async () => {
    while (!isStopped) {
      await mergeOnce(client, pair, times);
      await sleep(PAUSE_MS);
    }
  })();
  return async () => {
    isStopped = true;
    await running;
  };
}

const at = (values: readonly number[], share: number) => {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
};
const middle = (measured: readonly Measurement[]): Measurement =>
  measured.toSorted((a, b) => a.requestsPerSecond - b.requestsPerSecond)[measured.length >> 1] as Measurement;

const say = (line: string) => process.stdout.write(`${line}\n`);
const columns = (...cells: (string | number)[]) =>
  cells
    .map((cell, i) => (typeof cell === "number" ? cell.toFixed(1) : cell)[i === 0 ? "padEnd" : "padStart"](14))
    .join("");

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      rows: { type: "string", default: "100000" },
      seconds: { type: "string", default: "5" },
      rounds: { type: "string", default: "3" },
    },
  });
  const [rows, seconds, rounds] = [Number(values.rows), Number(values.seconds), Number(values.rounds)];
  process.once("SIGINT", () => process.exit(130));
  process.once("SIGTERM", () => process.exit(143));

  await using all = new AsyncDisposableStack();
  const service = all.use(await startService());
  const apiKeys = await fill(service, { organizations: 1, entitiesEach: ENTITIES });
  const [apiKey = ""] = apiKeys;
  const client = createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  const pair = await fillPair(client, service, rows);
  const load = all.use(startLoad());
  const others = (operation: (typeof OPERATIONS)[number]) =>
    load.run({
      ...{ port: service.port, serverPid: service.pid, databasePid: service.address.pid, operation, apiKeys },
      ...{ concurrency: IN_FLIGHT, entitiesPerOrganization: ENTITIES, warmUpSeconds: WARM_UP_SECONDS, seconds },
    });

  const [quiet, beside] = [noTimes(), noTimes()];
  const measured = { get: { alone: [], beside: [] }, update: { alone: [], beside: [] } } as Record<
    (typeof OPERATIONS)[number],
    Record<"alone" | "beside", Measurement[]>
  >;
  await mergeOnce(client, pair, noTimes());
  for (let i = 0; i < QUIET; i++) await mergeOnce(client, pair, quiet);
  for (let round = 0; round < rounds; round++) {
    for (const operation of OPERATIONS) {
      measured[operation].alone.push(await others(operation));
      const stop = mergeOn(client, pair, beside);
      measured[operation].beside.push(await others(operation));
      await stop();
    }
  }

  say(`two entities with ${rows.toLocaleString("en-US")} transactions each, ms`);
  say(columns("", "alone p50", "most", "beside p50", "most", "times"));
  for (const name of ["preview", "merge", "unmerge"] as const) {
    const [own, with16] = [quiet[name], beside[name]];
    say(columns(name, at(own, 0.5), Math.max(...own), at(with16, 0.5), Math.max(...with16), String(with16.length)));
  }
  say(`\nother entities of the organization, ${IN_FLIGHT} in flight, ms`);
  say(columns("", "alone p50", "p99", "beside p50", "p99", "rate"));
  for (const operation of OPERATIONS) {
    const { alone, beside: with1 } = {
      alone: middle(measured[operation].alone),
      beside: middle(measured[operation].beside),
    };
    const rate = (with1.requestsPerSecond / alone.requestsPerSecond).toFixed(2);
    say(columns(operation, alone.p50, alone.p99, with1.p50, with1.p99, rate));
  }
  const slowest = Math.max(at(quiet.merge, 0.5), at(quiet.unmerge, 0.5));
  const p99 = Math.max(...OPERATIONS.map((operation) => middle(measured[operation].beside).p99));
  const isKept = slowest < BAR_MS.merge && p99 < BAR_MS.others;
  say(
    `\nbars: merge and unmerge ${BAR_MS.merge} ms, p99 of others ${BAR_MS.others} ms: ${isKept ? "kept" : "not kept"}`,
  );
  return isKept ? 0 : 1;
}

process.exitCode = await main();
