// Memory of the service under a mixed load: npm run bench:memory [-- --minutes 10]
// 32 reads and 32 updates in flight, without a pause, beside imports of new rows, one after the other. Prints the resident
// memory at the end of each minute; ends with 1 where it is over the limit, or where it still grows in the second half.
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { startLoad } from "./bench.ts";
import { fill } from "./fill.ts";
import { DEFAULT_ORGANIZATION, memoryOf, startService } from "./processes.ts";
import { median } from "./report.ts";
import { importRows, openRows } from "./rows.ts";

const ENTITIES = 100_000;
const IMPORT_ROWS = 5_000;
const SAMPLE_MS = 1_000;
const LIMIT_MIB = 250;
/** Of the medians of two halves, which differ by chance. */
const FLAT = 1.1;

async function main(minutes: number): Promise<void> {
  await using service = await startService();
  const apiKeys = await fill(service, { organizations: 1, entitiesEach: ENTITIES });
  const rows = openRows();
  await using reads = startLoad();
  await using updates = startLoad();
  const job = {
    port: service.port,
    serverPid: service.pid,
    databasePid: service.address.pid,
    concurrency: 32,
    apiKeys,
    entitiesPerOrganization: ENTITIES,
    warmUpSeconds: 0,
    seconds: 60,
  };
  const samples: number[] = [];
  process.stdout.write(`at rest ${memoryOf(service.pid)} MiB\n`);
  for (let minute = 1; minute <= minutes; minute++) {
    let running = true;
    let imported = 0;
    const importing = async () => {
      for (; running; imported += IMPORT_ROWS) {
        const from = (minute - 1) * 1_000_000 + imported;
        await importRows(service.port, DEFAULT_ORGANIZATION.apiKey, rows, IMPORT_ROWS, from);
      }
    };
    const sampling = async () => {
      for (; running; await sleep(SAMPLE_MS)) samples.push(memoryOf(service.pid));
    };
    const beside = [importing(), sampling()];
    const [get, update] = await Promise.all([
      reads.run({ ...job, operation: "get" }),
      updates.run({ ...job, operation: "update" }),
    ]);
    running = false;
    await Promise.all(beside);
    const calls = [get, update].map(({ requestsPerSecond }) => requestsPerSecond.toFixed(0));
    process.stdout.write(
      `minute ${minute}: ${memoryOf(service.pid)} MiB; ${calls.join(" reads/s, ")} updates/s, ${(imported / 60).toFixed(0)} rows/s imported\n`,
    );
  }
  const half = samples.length >> 1;
  const [before, after] = [median(samples.slice(0, half)), median(samples.slice(half))];
  const peak = Math.max(...samples);
  process.stdout.write(`first half ${before} MiB, second half ${after} MiB (medians), peak ${peak} MiB\n`);
  if (peak > LIMIT_MIB || after > before * FLAT) process.exitCode = 1;
}

const { values } = parseArgs({ options: { minutes: { type: "string", default: "10" } } });
await main(Number(values.minutes));
