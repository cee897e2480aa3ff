// How many updates a second are written one by one, and how many in batches? npm run bench:batch [-- --rounds N] [--seconds N]
// The same updates of the same entities: one by one with 1 and with 64 calls in flight, and 1,000 in a batch; in turn, in
// one run. Then what another organization notices of batches: the p99 of its gets and its updates, quiet and beside them.
// Ends with 1 where batches write less than three times what single updates do, with 1 in flight each, or where
// the p99 of the other is three times what it is alone.
import { parseArgs } from "node:util";
import { startLoad } from "./bench.ts";
import { fill } from "./fill.ts";
import type { Measurement } from "./load.ts";
import { startService } from "./processes.ts";
import { median } from "./report.ts";
import { BATCH_ITEMS, type Operation } from "./requests.ts";

const ENTITIES = 10_000;
const WARM_UP_SECONDS = 1;
const LEAST = 3;
const MOST = 3;
/** Callers of the organization that is measured beside batches. */
const OTHERS = 16;
const SETTINGS = [
  { name: "single, 1 in flight", operation: "update", concurrency: 1, items: 1 },
  { name: "single, 64 in flight", operation: "update", concurrency: 64, items: 1 },
  { name: `batches of ${BATCH_ITEMS}, 1 in flight`, operation: "batch", concurrency: 1, items: BATCH_ITEMS },
  { name: `batches of ${BATCH_ITEMS}, 4 in flight`, operation: "batch", concurrency: 4, items: BATCH_ITEMS },
] as const;

const say = (line: string) => process.stdout.write(`${line}\n`);
const columns = (...cells: (string | number)[]) =>
  cells
    .map((cell, i) =>
      (typeof cell === "number" ? cell.toFixed(1) : cell)[i === 0 ? "padEnd" : "padStart"](i === 0 ? 30 : 12),
    )
    .join("");

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { rounds: { type: "string", default: "5" }, seconds: { type: "string", default: "4" } },
  });
  const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)];
  process.once("SIGINT", () => process.exit(130));
  process.once("SIGTERM", () => process.exit(143));

  await using all = new AsyncDisposableStack();
  const service = all.use(await startService());
  const [own = "", others = ""] = await fill(service, { organizations: 2, entitiesEach: ENTITIES });
  const [load, noise] = [all.use(startLoad()), all.use(startLoad())];
  const run = (by: typeof load, apiKey: string, operation: Operation, concurrency: number, of = { seconds }) =>
    by.run({
      ...{ port: service.port, serverPid: service.pid, databasePid: service.address.pid, operation, concurrency },
      ...{ apiKeys: [apiKey], entitiesPerOrganization: ENTITIES, warmUpSeconds: WARM_UP_SECONDS, ...of },
    });

  const measured = SETTINGS.map((): Measurement[] => []);
  const beside = { get: [[], []], update: [[], []] } as Record<"get" | "update", [Measurement[], Measurement[]]>;
  for (let round = 0; round < rounds; round++) {
    for (const [i, { operation, concurrency }] of SETTINGS.entries())
      measured[i]?.push(await run(load, own, operation, concurrency));
    for (const operation of ["get", "update"] as const) {
      beside[operation][0].push(await run(load, others, operation, OTHERS));
      // Begins before the other is measured, and ends after it.
      const batches = run(noise, own, "batch", 4, { seconds: seconds + 1 });
      beside[operation][1].push(await run(load, others, operation, OTHERS));
      await batches;
    }
  }

  const middle = (all: Measurement[], of: (one: Measurement) => number) => median(all.map(of));
  say(`updates of ${ENTITIES.toLocaleString("en-US")} entities, medians of ${rounds} rounds of ${seconds} s`);
  say(columns("", "updates/s", "p50 ms", "p99 ms", "server µs", "database µs"));
  const rates = SETTINGS.map(({ name, items }, i) => {
    const its = measured[i] ?? [];
    const rate = middle(its, (one) => one.requestsPerSecond * items);
    const cpu = [middle(its, (one) => one.serverCpu / items), middle(its, (one) => one.databaseCpu / items)];
    say(
      columns(
        name,
        rate,
        middle(its, (one) => one.p50),
        middle(its, (one) => one.p99),
        ...cpu,
      ),
    );
    return rate;
  });
  const [single = 0, singles = 0, batches = 0, several = 0] = rates;
  say(
    `\nbatches write ${(batches / single).toFixed(1)} times what single updates do, one in flight each; 4 of them ${(several / singles).toFixed(1)} times what 64 do`,
  );
  say(`\nanother organization, ${OTHERS} in flight, beside batches, ms`);
  say(columns("", "alone p50", "p99", "beside p50", "p99", "times"));
  const tails = (["get", "update"] as const).map((operation) => {
    const [alone, with4] = beside[operation];
    const [quiet, noisy] = [middle(alone, (one) => one.p99), middle(with4, (one) => one.p99)];
    say(
      columns(
        operation,
        middle(alone, (one) => one.p50),
        quiet,
        middle(with4, (one) => one.p50),
        noisy,
        noisy / quiet,
      ),
    );
    return noisy / quiet;
  });
  return batches >= LEAST * single && tails.every((tail) => tail < MOST) ? 0 : 1;
}

process.exitCode = await main();
