// What watching costs and how soon it tells: npm run bench:watch
// Memory of 1,000 idle watchers; the time from a change to its event at 1,000 writes/s; the events that one
// watcher takes, when it is behind and when it keeps up; and the rate of writes with ten
// watchers and a webhook endpoint, and without.
import { setTimeout as sleep } from "node:timers/promises";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { createEntityClient, type EntityClient, errorInfo } from "../clients/typescript/index.ts";
import { startEndpoint, startLoad, startWatchers, whileConsumed } from "./bench.ts";
import { fill } from "./fill.ts";
import type { Measurement } from "./load.ts";
import { cpuOf, memoryOf, type Service, startService } from "./processes.ts";
import { median } from "./report.ts";
import { externalIdOf } from "./requests.ts";

const ENTITIES = 100_000;
const IDLE = 1_000;
/** HTTP/2 streams that the service allows a connection. */
const STREAMS = 100;
const WRITES_PER_SECOND = 1_000;
const SECONDS = 20;
const ROUNDS = 8;
const WATCHERS = 10;

interface Beside extends Measurement {
  watchersCpu: number;
}

const say = (text: string) => process.stdout.write(`${text}\n`);
const percentile = (values: number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? Number.NaN;

/** A watcher that counts; `seen` is told of each event with the milliseconds since it was recorded. */
function watch(client: EntityClient, position = "", seen: (ageMs: number) => void = () => {}) {
  const abort = new AbortController();
  const live = Promise.withResolvers<void>();
  const state = { events: 0, streams: 0, live: live.promise, stop: () => abort.abort() };
  const run = async () => {
    while (!abort.signal.aborted) {
      state.streams += 1;
      try {
        for await (const message of client.entities.watchEntities({ position }, { signal: abort.signal })) {
          ({ position } = message);
          if (message.event === undefined) live.resolve();
          else {
            state.events += 1;
            if (message.event.recordedAt) seen(Date.now() - timestampDate(message.event.recordedAt).getTime());
          }
        }
      } catch (error) {
        if (!abort.signal.aborted && errorInfo(error)?.reason !== "WATCH_TOO_SLOW") throw error;
      }
    }
  };
  void run();
  return state;
}

async function idleMemory(service: Service, apiKey: string): Promise<void> {
  const connect = () => createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  // What the first calls bring with them is not the watchers'.
  const first = watch(connect());
  await first.live;
  await sleep(3_000);
  const before = memoryOf(service.pid);
  const watchers: ReturnType<typeof watch>[] = [];
  for (let client = connect(); watchers.length < IDLE; ) {
    if (watchers.length % STREAMS === 0) client = connect();
    watchers.push(watch(client));
  }
  await Promise.all(watchers.map(({ live }) => live));
  const cpu = cpuOf(service.pid);
  await sleep(12_000);
  const used = (cpuOf(service.pid) - cpu) / 12_000_000;
  const after = memoryOf(service.pid);
  say(`${IDLE} idle watchers: ${after - before} MiB (${before} to ${after}), ${(used * 100).toFixed(1)} % of a core`);
  for (const { stop } of [...watchers, first]) stop();
  await sleep(1_000);
}

async function latency(connect: () => EntityClient): Promise<void> {
  const ages: number[] = [];
  const watcher = watch(connect(), "", (age) => ages.push(age));
  // More calls in flight than a connection may have would be the end of it.
  const clients = Array.from({ length: 5 }, connect);
  await watcher.live;
  const pending = new Set<Promise<unknown>>();
  const start = performance.now();
  let sent = 0;
  while (performance.now() - start < SECONDS * 1_000) {
    const due = ((performance.now() - start) / 1_000) * WRITES_PER_SECOND;
    for (; sent < due && pending.size < 200; sent++) {
      const lookup = { by: { case: "externalId" as const, value: externalIdOf((sent * 7_919) % ENTITIES) } };
      const call = (clients[sent % clients.length] ?? connect()).entities.updateEntity({
        lookup,
        entity: { name: `Name ${start} ${sent}` },
      });
      pending.add(call);
      void call.finally(() => pending.delete(call));
    }
    await sleep(2);
  }
  await Promise.all(pending);
  await sleep(500);
  watcher.stop();
  say(
    `${(sent / SECONDS).toFixed(0)} writes/s for ${SECONDS} s: ${ages.length} of ${sent} events, from recorded_at, ` +
      `which is before the commit, to the watcher: p50 ${percentile(ages, 0.5)} ms, p99 ${percentile(ages, 0.99)} ms, most ${Math.max(...ages)} ms`,
  );
}

async function throughput(service: Service, connect: () => EntityClient, apiKey: string): Promise<void> {
  const { watchPosition } = await connect().entities.listEntities({ pageSize: 1 });
  await using load = startLoad();
  const job = jobOf(service, apiKey);
  // A position of before, over what the load has written since.
  const alone = await load.run({ ...job, seconds: 10 });
  const began = performance.now();
  const behind = watch(connect(), watchPosition);
  await behind.live;
  const seconds = (performance.now() - began) / 1_000;
  say(`one watcher that is behind: ${(behind.events / seconds).toFixed(0)} events/s (${behind.events})`);
  const from = { events: behind.events, streams: behind.streams };
  const beside = await load.run({ ...job, seconds: 10 });
  const rate = (behind.events - from.events) / 10;
  const resumed = behind.streams - from.streams;
  behind.stop();
  say(
    `one watcher that keeps up with ${beside.requestsPerSecond.toFixed(0)} updates/s (${alone.requestsPerSecond.toFixed(0)} without): ` +
      `${rate.toFixed(0)} events/s, resumed ${resumed} times`,
  );
}

const jobOf = (service: Service, apiKey: string) => ({
  port: service.port,
  serverPid: service.pid,
  databasePid: service.address.pid,
  operation: "update" as const,
  concurrency: 64,
  apiKeys: [apiKey],
  entitiesPerOrganization: ENTITIES,
  warmUpSeconds: 1,
  seconds: 3,
});

/** Writes to one organization, watched by ten at once and sent to a webhook endpoint, and by none, in turn. */
async function besideWatchers(service: Service, apiKey: string): Promise<void> {
  await using load = startLoad();
  await using watchers = startWatchers(WATCHERS);
  await using endpoint = startEndpoint();
  const consumers = [watchers, endpoint];
  const found = { without: [] as Beside[], with: [] as Beside[] };
  const job = { ...jobOf(service, apiKey), seconds: 3 };
  await whileConsumed(consumers, service, apiKey, () => load.run(job));
  for (let round = 0; round < ROUNDS; round++) {
    found.without.push({ ...(await load.run(job)), watchersCpu: 0 });
    const before = cpuOf(watchers.pid);
    const watched = await whileConsumed(consumers, service, apiKey, () => load.run(job));
    const share = job.seconds / (job.seconds + job.warmUpSeconds);
    found.with.push({ ...watched, watchersCpu: ((cpuOf(watchers.pid) - before) / watched.calls) * share });
  }
  for (const [name, measured] of Object.entries(found)) {
    const each = (of: (one: Beside) => number) => median(measured.map(of)).toFixed(0);
    say(
      `${name} ${WATCHERS} watchers and a webhook endpoint: ${each((one) => one.requestsPerSecond)} updates/s; CPU of each: server ${each((one) => one.serverCpu)} us, ` +
        `database ${each((one) => one.databaseCpu)} us, load ${each((one) => one.loadCpu)} us, watchers ${each((one) => one.watchersCpu)} us`,
    );
  }
  const ratio = found.with.map((one, i) => one.requestsPerSecond / (found.without[i]?.requestsPerSecond ?? Number.NaN));
  say(
    `writes keep ${median(ratio).toFixed(2)} of their rate (of each round: ${ratio.map((one) => one.toFixed(2)).join(" ")})`,
  );
}

async function main(only: string | undefined): Promise<void> {
  // One key holds all of the idle watchers: more than its share of the default.
  await using service = await startService({ env: { WEBHOOK_ALLOW: "127.0.0.1", MAX_WATCHES: "4000" } });
  const [apiKey = ""] = await fill(service, { organizations: 1, entitiesEach: ENTITIES });
  const connect = () => createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  const parts = {
    idle: () => idleMemory(service, apiKey),
    latency: () => latency(connect),
    throughput: () => throughput(service, connect, apiKey),
    writes: () => besideWatchers(service, apiKey),
  };
  for (const [name, measure] of Object.entries(parts)) if (only === undefined || only === name) await measure();
}

await main(process.argv[2]);
process.exit();
