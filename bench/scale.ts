// The same reads and writes as the data grows, and as the organizations grow:
// npm run bench:scale [-- --sizes 10000,100000,1000000,5000000] [--organizations 1,100,10000]
//                     [--entities 1000000] [--seconds N] [--rounds N]
// Every size has an embedded server of its own, filled by the database itself; they are measured in turn. `--sizes none` and
// `--organizations none` leave a part out. 5 million entities need some 15 GB of disk and minutes to fill.
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { startLoad } from "./bench.ts";
import { fill } from "./fill.ts";
import type { Measurement } from "./load.ts";
import { startService } from "./processes.ts";

const CONCURRENCY = 64;
const WARM_UP_SECONDS = 2;

interface Scale {
  entities: number;
  organizations: number;
}

interface Found extends Scale {
  fillSeconds: number;
  diskMiB: number;
  get: Measurement;
  update: Measurement;
}

interface Opened extends Scale {
  fillSeconds: number;
  diskMiB: number;
  run(operation: "get" | "update", seconds: number): Promise<Measurement>;
}

/** Starts a service with so much in it; what it starts ends with `all`. */
async function open(scale: Scale, all: AsyncDisposableStack): Promise<Opened> {
  const { organizations } = scale;
  const entitiesEach = Math.floor(scale.entities / organizations);
  const service = all.use(await startService());
  const start = performance.now();
  const apiKeys = await fill(service, { organizations, entitiesEach }, (done) => {
    if (process.stderr.isTTY) process.stderr.write(`\r${done} of ${scale.entities} entities made `);
  });
  const fillSeconds = (performance.now() - start) / 1000;
  const [{ bytes }] = await service.sql("select pg_database_size(current_database()) as bytes");
  const load = all.use(startLoad());
  return {
    ...scale,
    fillSeconds,
    diskMiB: Math.round(Number(bytes) / 2 ** 20),
    run: (operation, seconds) =>
      load.run({
        port: service.port,
        serverPid: service.pid,
        databasePid: service.address.pid,
        operation,
        concurrency: CONCURRENCY,
        apiKeys,
        entitiesPerOrganization: entitiesEach,
        warmUpSeconds: WARM_UP_SECONDS,
        seconds,
      }),
  };
}

/** All of them at once, measured in turn: whatever changes on the machine over time changes for all. */
async function measure(scales: readonly Scale[], rounds: number, seconds: number): Promise<Found[]> {
  await using all = new AsyncDisposableStack();
  const opened: Opened[] = [];
  for (const scale of scales) opened.push(await open(scale, all));
  const measured = opened.map(() => ({ get: [] as Measurement[], update: [] as Measurement[] }));
  // The first round compiles, plans and fills the caches.
  for (let round = 0; round <= rounds; round++) {
    for (const operation of ["get", "update"] as const) {
      for (let i = 0; i < opened.length; i++) {
        const index = (i + round) % opened.length;
        const result = await opened[index]?.run(operation, round === 0 ? 1 : seconds);
        if (round > 0 && result !== undefined) measured[index]?.[operation].push(result);
      }
    }
  }
  return opened.map(({ run: _, ...scale }, i) => ({
    ...scale,
    get: middle(measured[i]?.get ?? []),
    update: middle(measured[i]?.update ?? []),
  }));
}

/** The measurement whose rate is the median. */
function middle(measured: Measurement[]): Measurement {
  const sorted = measured.toSorted((a, b) => a.requestsPerSecond - b.requestsPerSecond);
  return sorted[sorted.length >> 1] as Measurement;
}

function show(found: readonly Found[]): void {
  const header = [
    "entities",
    "organizations",
    "get/s",
    "p50 ms",
    "p99 ms",
    "DB µs",
    "update/s",
    "p50 ms",
    "p99 ms",
    "DB µs",
    "MiB",
    "filled in s",
  ];
  const rows = found.map(({ entities, organizations, get, update, diskMiB, fillSeconds }) => [
    entities.toLocaleString("en-US"),
    organizations.toLocaleString("en-US"),
    ...[get, update].flatMap((m) => [
      m.requestsPerSecond.toFixed(0),
      m.p50.toFixed(2),
      m.p99.toFixed(2),
      m.databaseCpu.toFixed(0),
    ]),
    String(diskMiB),
    fillSeconds.toFixed(0),
  ]);
  const widths = header.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i]?.length ?? 0)));
  for (const row of [header, ...rows]) {
    process.stdout.write(`${row.map((text, i) => text.padStart(widths[i] ?? 0)).join("  ")}\n`);
  }
}

/** The last over the first: 1 is a service that does not notice. */
function ratio(found: readonly Found[], by: "entities" | "organizations"): void {
  const [first, last] = [found.at(0), found.at(-1)];
  if (first === undefined || last === undefined || first === last) return;
  const what = `${last[by].toLocaleString("en-US")} over ${first[by].toLocaleString("en-US")} ${by}`;
  const of = (name: "get" | "update") => (last[name].requestsPerSecond / first[name].requestsPerSecond).toFixed(2);
  process.stdout.write(`${what}: get ${of("get")}, update ${of("update")}\n`);
}

const numbers = (text: string) => (text === "none" ? [] : text.split(",").map(Number));

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      sizes: { type: "string", default: "10000,100000,1000000,5000000" },
      organizations: { type: "string", default: "1,100,10000" },
      entities: { type: "string", default: "1000000" },
      seconds: { type: "string", default: "5" },
      rounds: { type: "string", default: "3" },
    },
  });
  process.once("SIGINT", () => process.exit(130));
  process.once("SIGTERM", () => process.exit(143));
  const [rounds, seconds] = [Number(values.rounds), Number(values.seconds)];
  const sizes = numbers(values.sizes).map((entities) => ({ entities, organizations: 1 }));
  const organizations = numbers(values.organizations).map((count) => ({
    entities: Number(values.entities),
    organizations: count,
  }));
  for (const [scales, by] of [
    [sizes, "entities"],
    [organizations, "organizations"],
  ] as const) {
    if (scales.length === 0) continue;
    const found = await measure(scales, rounds, seconds);
    show(found);
    ratio(found, by);
    process.stdout.write("\n");
  }
  process.stdout.write(`load average ${(loadavg()[0] ?? 0).toFixed(1)}\n`);
}

if (import.meta.main) await main();
