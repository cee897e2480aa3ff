// The service against its peers, in one run: npm run bench [-- --quick] [--rounds N] [--seconds N] [--only get.1,update.64orgs]
// Starts the embedded server, imports 100,000 entities, makes sure that all contenders do the same work, then
// measures them in turn, round by round. Writes results.json and results.svg beside this file, except where only some
// settings are measured. Linux only: CPU and memory are read from /proc.
import { writeFile } from "node:fs/promises";
import { loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createEntityClient } from "../clients/typescript/index.ts";
import { fill } from "./fill.ts";
import { buildGoPeer } from "./go-peer.ts";
import type { Job, Measurement } from "./load.ts";
import { findPgbench, type PgbenchResult, recordUpdate, runPgbench, scriptOf } from "./pgbench.ts";
import {
  type Contender,
  DEFAULT_ORGANIZATION,
  memoryOf,
  type Service,
  startJobs,
  startPeer,
  startService,
  watchOthers,
} from "./processes.ts";
import type { Received } from "./receiver.ts";
import { machineOf, median, pictureOf, type Row, ratiosOf, tableOf } from "./report.ts";
import { importRows, openRows, type Rows } from "./rows.ts";
import { verify } from "./verify.ts";
import type { Counted, WatchersJob } from "./watchers.ts";

const ENTITIES = 100_000;
const ORGANIZATIONS = 64;
const ENTITIES_PER_ORGANIZATION = 1_000;
const PGBENCH_CLIENTS = 16;
const CONCURRENCY = [1, 16, 64];
const WATCHERS = 10;
const MEMORY_EVERY_MS = 25;
/** For the last events to reach who consumes them. */
const CONSUMED_MS = 30_000;
/** The entity whose update is recorded for pgbench. */
const RECORDED = 6;

interface Setting {
  operation: "get" | "update";
  concurrency: number;
  organizations: number;
  /** While others get every event. Of this service alone: its peers have none. */
  isConsumed?: boolean;
}
const nameOf = ({ operation, concurrency, organizations, isConsumed }: Setting) =>
  `${operation}.${concurrency}${organizations > 1 ? "orgs" : ""}${isConsumed ? "consumed" : ""}`;
const SETTINGS: Setting[] = [
  ...(["get", "update"] as const).flatMap((operation) =>
    CONCURRENCY.flatMap((concurrency) =>
      [1, ORGANIZATIONS].map((organizations) => ({ operation, concurrency, organizations })),
    ),
  ),
  { operation: "update", concurrency: 64, organizations: 1, isConsumed: true },
];

interface Options {
  quick: boolean;
  rounds: number;
  seconds: number;
  /** The names of the settings; undefined: all. */
  only: string[] | undefined;
}

async function main({ quick, rounds, seconds, only }: Options): Promise<void> {
  const measuredSettings = SETTINGS.filter((setting) => only === undefined || only.includes(nameOf(setting)));
  if (measuredSettings.length < (only?.length ?? 1)) throw new Error(`--only takes ${SETTINGS.map(nameOf).join(", ")}`);
  if (process.platform !== "linux") throw new Error("the bench reads /proc: it needs Linux");
  process.once("SIGINT", () => process.exit(130));
  process.once("SIGTERM", () => process.exit(143));
  const say = (text: string) => process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${text}\n`);
  const loadBefore = loadavg()[0] ?? 0;
  const warmUpSeconds = quick ? 0.3 : 1;
  const rows = openRows();
  // Before anything is measured: it compiles.
  const go = await buildGoPeer();
  if ("missing" in go) say(`the peer in Go is left out: ${go.missing}`);

  await using all = new AsyncDisposableStack();
  // Into a new database each time; the last one stays.
  const imports: Import[] = [];
  let service: Service | undefined;
  for (let round = 1; round <= (quick || only !== undefined ? 1 : Math.min(3, rounds)); round++) {
    await service?.[Symbol.asyncDispose]();
    service = await startService({ env: { WEBHOOK_ALLOW: "127.0.0.1" } });
    imports.push(await measureImport(service, rows));
    say(`imported ${ENTITIES} entities (${rows.source}): ${imports.at(-1)?.rowsPerSecond.toFixed(0)} rows/s`);
  }
  if (service === undefined) throw new Error("at least one round is needed");
  all.use(service);
  const apiKeys = await fill(service, { organizations: ORGANIZATIONS, entitiesEach: ENTITIES_PER_ORGANIZATION });
  await service.sql("vacuum analyze");
  await service.sql("checkpoint");

  const contenders: Contender[] = [service];
  for (const name of ["guide", "grpc-js"]) contenders.push(all.use(await startPeer(name, service.address)));
  if ("program" in go) contenders.push(all.use(await startPeer("go", service.address, go.program)));
  const pgbench = await openPgbench(service);
  if (pgbench === undefined)
    say("no pgbench here (Debian: apt-get install postgresql-contrib): its ratios are left out");
  // One with as many columns as may be, and those that differ from it in their external ids alone.
  const first = Array.from({ length: rows.distinct }, (_, i) => i).find(
    (i) => i > RECORDED && rows.at(i).entity?.taxId,
  );
  const twinOf = (i: number) => (first ?? RECORDED + 1) + i * rows.distinct;
  const twins = contenders.map((contender, i) => ({ contender, index: twinOf(i) }));
  await verify(service, twins, pgbench && { index: twinOf(contenders.length), update: pgbench.update });
  say("the contenders read, write and refuse alike");

  const load = all.use(startLoad());
  const consumers = [all.use(startWatchers(WATCHERS)), all.use(startEndpoint())];
  const measure = (contender: Contender, setting: Setting, time = { warmUpSeconds, seconds }) =>
    load.run({
      ...time,
      port: contender.port,
      serverPid: contender.pid,
      databasePid: service.address.pid,
      operation: setting.operation,
      concurrency: setting.concurrency,
      apiKeys: setting.organizations === 1 ? [DEFAULT_ORGANIZATION.apiKey] : apiKeys,
      entitiesPerOrganization: setting.organizations === 1 ? ENTITIES : ENTITIES_PER_ORGANIZATION,
    });
  const measureBeside = (contender: Contender, setting: Setting, time?: { warmUpSeconds: number; seconds: number }) =>
    setting.isConsumed
      ? whileConsumed(consumers, service, DEFAULT_ORGANIZATION.apiKey, () => measure(contender, setting, time))
      : measure(contender, setting, time);
  const contendersOf = ({ isConsumed }: Setting) => (isConsumed ? [service] : contenders);
  // Compiled by Node, planned by PostgreSQL, cached by both.
  for (const setting of SETTINGS.filter(({ concurrency }) => concurrency === 64)) {
    for (const contender of contendersOf(setting)) {
      await measureBeside(contender, setting, { warmUpSeconds: quick ? 1 : 3, seconds: 0.2 });
    }
  }

  const found = new Map<
    string,
    { row: Pick<Row, "contender"> & Setting; measured: (Measurement & { memory: number })[] }
  >();
  const baseline: PgbenchResult[] = [];
  const coresOfOthers = watchOthers([process.pid, service.address.pid]);
  for (let round = 1; round <= rounds; round++) {
    await service.sql("vacuum entity, external_id");
    await service.sql("checkpoint");
    for (const setting of measuredSettings) {
      // Each begins a round in its turn: whatever changes over time changes for all.
      const those = contendersOf(setting);
      const turn = those.map((_, i) => those[(i + round) % those.length] as Contender);
      for (const contender of turn) {
        const key = JSON.stringify([contender.name, setting]);
        const cell = found.get(key) ?? { row: { contender: contender.name, ...setting }, measured: [] };
        cell.measured.push({ ...(await measureBeside(contender, setting)), memory: memoryOf(contender.pid) });
        found.set(key, cell);
      }
    }
    if (pgbench !== undefined && only === undefined) baseline.push(await pgbench.measure(seconds + warmUpSeconds));
    say(`round ${round} of ${rounds}`);
  }

  const machine = machineOf([loadBefore, loadavg()[0] ?? 0], coresOfOthers());

  const table: Row[] = [...found.values()].map(({ row, measured }) => ({
    ...row,
    perSecond: median(measured.map((m) => m.requestsPerSecond)),
    perSecondRange: rangeOf(measured.map((m) => m.requestsPerSecond)),
    p50: median(measured.map((m) => m.p50)),
    p99: median(measured.map((m) => m.p99)),
    serverCpu: median(measured.map((m) => m.serverCpu)),
    databaseCpu: median(measured.map((m) => m.databaseCpu)),
    memory: median(measured.map((m) => m.memory)),
  }));
  const names = contenders.map(({ name }) => name);
  table.sort((a, b) => orderOf(a) - orderOf(b) || names.indexOf(a.contender) - names.indexOf(b.contender));
  if (baseline.length > 0) {
    table.push({
      contender: "pgbench",
      operation: "update",
      concurrency: PGBENCH_CLIENTS,
      organizations: 1,
      perSecond: median(baseline.map((m) => m.transactionsPerSecond)),
      perSecondRange: rangeOf(baseline.map((m) => m.transactionsPerSecond)),
      p50: median(baseline.map((m) => m.p50)),
      p99: median(baseline.map((m) => m.p99)),
      databaseCpu: median(baseline.map((m) => m.databaseCpu)),
    });
  }
  table.push({
    contender: service.name,
    operation: "import",
    concurrency: 1,
    organizations: 1,
    perSecond: median(imports.map((m) => m.rowsPerSecond)),
    perSecondRange: rangeOf(imports.map((m) => m.rowsPerSecond)),
    memoryBefore: Math.max(...imports.map((m) => m.memoryBefore)),
    memoryPeak: Math.max(...imports.map((m) => m.memoryPeak)),
  });

  const ratios = ratiosOf(table);
  const settings = { quick, rounds, seconds, warmUpSeconds, entities: ENTITIES, source: rows.source, logLevel: "warn" };
  const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  const json = JSON.stringify({ machine: rounded(machine), settings, rows: table.map(rounded), ratios }, null, 2);
  // Pairs on one line, as the formatter has them.
  if (only === undefined) {
    await writeFile(file("results.json"), `${json.replaceAll(/\[\s+([\d.]+),\s+([\d.]+)\s+\]/g, "[$1, $2]")}\n`);
    await writeFile(file("results.svg"), pictureOf(table, machine));
  }
  process.stdout.write(
    `${tableOf(table, ratios)}\n\n${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, load average ${machine.loadAverage.map((value) => value.toFixed(1)).join(" to ")}, others used ${machine.coresOfOthers.toFixed(2)} cores\n`,
  );
}

interface Import {
  rowsPerSecond: number;
  memoryBefore: number;
  memoryPeak: number;
}

async function measureImport(service: Service, rows: Rows): Promise<Import> {
  const memoryBefore = memoryOf(service.pid);
  let memoryPeak = memoryBefore;
  const watch = setInterval(() => (memoryPeak = Math.max(memoryPeak, memoryOf(service.pid))), MEMORY_EVERY_MS);
  try {
    const rowsPerSecond = await importRows(service.port, DEFAULT_ORGANIZATION.apiKey, rows, ENTITIES);
    return { rowsPerSecond, memoryBefore, memoryPeak };
  } finally {
    clearInterval(watch);
  }
}

async function openPgbench(service: Service) {
  if (findPgbench() === undefined) return undefined;
  const [key] = await service.sql("select id from api_key where organization_id = $1", [DEFAULT_ORGANIZATION.id]);
  const author = { principal: key.id as string, actor: "bench", source: "api" };
  const statements = await recordUpdate(service.address, DEFAULT_ORGANIZATION.id, author, RECORDED, 1_000_000_001);
  const common = {
    address: service.address,
    organizationId: DEFAULT_ORGANIZATION.id,
    author,
    script: scriptOf(statements, RECORDED),
  };
  return {
    update: async (entity: number, value: number) => {
      await runPgbench({ ...common, clients: 1, from: entity, to: entity, limit: { value } });
    },
    measure: (seconds: number) =>
      runPgbench({
        ...common,
        clients: PGBENCH_CLIENTS,
        from: 0,
        to: ENTITIES - 1,
        limit: { seconds: Math.max(1, Math.ceil(seconds)) },
      }),
  };
}

/** The generator of the load, as a process of its own. */
export function startLoad(): AsyncDisposable & { run(job: Job): Promise<Measurement> } {
  const load = startJobs<Job, Measurement>("load.ts");
  return {
    ...load,
    run: (job) =>
      load.run(job).catch((error: Error) => {
        throw new Error(`${job.operation}, ${job.concurrency} in flight: ${error.message}`);
      }),
  };
}

/** Gets every event of an organization while its writes are measured, in a process of its own. */
export interface Consumer extends AsyncDisposable {
  pid: number;
  /** Begins; resolves when every event that is committed from now on will come. */
  begin(service: Service, apiKey: string): Promise<void>;
  /** Waits until it has had N since then, and ends; throws where one is missing, or came twice. */
  end(events: number): Promise<void>;
}

/** So many watchers, which only count. */
export function startWatchers(count: number): Consumer {
  const watchers = startJobs<WatchersJob, Counted>("watchers.ts");
  return {
    pid: watchers.pid,
    async begin({ port }, apiKey) {
      await watchers.run({ kind: "watch", port, apiKey, watchers: count });
    },
    async end(events) {
      await watchers.run({ kind: "count", events, timeoutMs: CONSUMED_MS });
      await watchers.run({ kind: "stop" });
    },
    [Symbol.asyncDispose]: () => watchers[Symbol.asyncDispose](),
  };
}

/**
 * A webhook endpoint. Deliveries give way to calls, so that most of what was written meanwhile still waits when the
 * load ends: that some have come is checked here, that none is lost in test/webhook-deliveries.test.ts.
 */
export function startEndpoint(): Consumer {
  const receiver = startJobs<object, Received>("receiver.ts");
  let remove: (() => Promise<void>) | undefined;
  return {
    pid: receiver.pid,
    async begin({ port }, apiKey) {
      const { webhooks } = createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${port}`, apiKey });
      const before = await receiver.run({});
      const { endpoint } = await webhooks.createWebhookEndpoint({
        endpoint: { url: `http://127.0.0.1:${before.port}/`, displayName: "bench" },
      });
      remove = async () => {
        if ((await receiver.run({})).requests === before.requests) throw new Error("no webhook was delivered");
        await webhooks.deleteWebhookEndpoint({ endpointId: endpoint?.id ?? "" });
      };
    },
    end: async () => remove?.(),
    [Symbol.asyncDispose]: () => receiver[Symbol.asyncDispose](),
  };
}

/** Measures while the consumers get every event of the organization of the key, and makes sure that they did. */
export async function whileConsumed<T>(
  consumers: readonly Consumer[],
  service: Service,
  apiKey: string,
  measure: () => Promise<T>,
): Promise<T> {
  const written = async () => Number((await service.sql("select count(*) from entity_event"))[0].count);
  const before = await written();
  for (const consumer of consumers) await consumer.begin(service, apiKey);
  const measured = await measure();
  const events = (await written()) - before;
  for (const consumer of consumers) await consumer.end(events);
  return measured;
}

const rangeOf = (values: number[]): [number, number] => [Math.min(...values), Math.max(...values)];

function orderOf(row: Row): number {
  return SETTINGS.findIndex(
    (s) =>
      s.operation === row.operation &&
      s.concurrency === row.concurrency &&
      s.organizations === row.organizations &&
      s.isConsumed === row.isConsumed,
  );
}

/** Two decimals are more than is known. */
function rounded(row: object): object {
  const round = (value: unknown): unknown =>
    typeof value === "number" ? Math.round(value * 100) / 100 : Array.isArray(value) ? value.map(round) : value;
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, round(value)]));
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      rounds: { type: "string" },
      seconds: { type: "string" },
      only: { type: "string" },
    },
  });
  await main({
    quick: values.quick,
    rounds: Number(values.rounds ?? (values.quick ? 3 : 5)),
    seconds: Number(values.seconds ?? (values.quick ? 1 : 3)),
    only: values.only?.split(","),
  });
}
