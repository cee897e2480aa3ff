// What one organization at ten times its share does to another's calls: npm run bench:fair
// For each kind of work, rounds in which one organization is alone and rounds in which another does ten times as much,
// in turn. Told is the p99 of the first, quiet and beside the noise, and their ratio: under 3 is what the service
// promises. The noise comes from a process of its own; all of them share the cores.
// SECONDS=4 a round, ROUNDS=3, KINDS=calls,lists to choose.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import pg from "pg";
import { Health, HealthCheckResponse_ServingStatus } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import {
  createEntityClient,
  type EntityClient,
  EntityType,
  type WatchEntitiesResponse,
} from "../clients/typescript/index.ts";
import { fill } from "./fill.ts";
import { type DatabaseAddress, startService } from "./processes.ts";
import { median } from "./report.ts";

/** Callers of the organization that is measured; the noisy one has ten times as many. */
const CALLERS = 4;
const NOISE = 10;
const ENTITIES = 200;
const SECONDS = Number(process.env.SECONDS ?? 4);
const ROUNDS = Number(process.env.ROUNDS ?? 3);
const MOST = 3;

interface Organization {
  client: EntityClient;
  /** Of the organization's entities. */
  ids: string[];
  /** Where the organization's webhooks go, and what resolves when one for the entity has come. */
  url: string;
  arrived: (entityId: string) => Promise<void>;
}

interface Side extends Organization {
  /** Those of the callers that are running, and what ends them. */
  watches: Map<number, AsyncIterator<WatchEntitiesResponse>>;
  signal: AbortSignal;
}

/** One unit of work, of caller `i`; what it takes is measured. */
type Work = (side: Side, i: number) => Promise<void>;

const byId = (value = "") => ({ by: { case: "entityId" as const, value } });
const any = ({ ids }: Side) => ids[Math.floor(Math.random() * ids.length)] ?? "";
let count = 0;

const rename = async ({ client }: Side, id: string) => {
  await client.entities.updateEntity({ lookup: byId(id), entity: { name: `Name ${count++} ${Math.random()}` } });
};
const record = async ({ client }: Side, entityId: string) => {
  const userEvents = [{ entityId, eventType: "login", occurredAt: { seconds: 1_760_000_000n, nanos: 0 } }];
  await client.activity.recordUserEvents({ userEvents });
};
async function importRows({ client }: Side, rows: number): Promise<void> {
  async function* requests() {
    for (let i = 0; i < rows; i++) {
      const externalId = `import-${count++ % 5_000}`;
      yield { entity: { externalId, type: EntityType.PERSON, name: `Name ${Math.random()}`, countryCode: "BR" } };
    }
  }
  for await (const _ of client.entities.importEntities(requests()));
}

/** `noise`: what the other organization does, the same by default; `slow`: its receivers answer after 14 s. */
const KINDS: Record<string, { work: Work; noise?: Work; holds?: boolean; slow?: boolean }> = {
  calls: { work: async (side) => void (await side.client.entities.getEntity({ lookup: byId(any(side)) })) },
  lists: { work: async (side) => void (await side.client.entities.listEntities({ pageSize: 100 })) },
  writes: { work: (side) => rename(side, any(side)) },
  "waiting writes": {
    work: (side) => record(side, any(side)),
    // Their entities are held by somebody else.
    noise: (side, i) => (i % 2 === 0 ? record(side, any(side)) : rename(side, any(side))),
    holds: true,
  },
  watches: {
    async work(side, i) {
      const id = side.ids[i] ?? "";
      let watch = side.watches.get(i);
      if (watch === undefined) {
        const { signal } = side;
        watch = side.client.entities.watchEntities({ lookup: byId(id) }, { signal })[Symbol.asyncIterator]();
        side.watches.set(i, watch);
        await watch.next();
      }
      const renamed = rename(side, id);
      for (let next = await watch.next(); next.value?.event === undefined; next = await watch.next()) {
        if (next.done) throw new Error("the watch ended");
      }
      await renamed;
    },
  },
  imports: { work: (side) => importRows(side, 50) },
  webhooks: {
    async work(side, i) {
      const id = side.ids[i] ?? "";
      const arrived = side.arrived(id);
      await rename(side, id);
      await arrived;
    },
    noise: (side) => rename(side, any(side)),
    slow: true,
  },
};

/** Answers after a delay, and tells of each entity's. */
async function startReceiver(afterMs: number) {
  const waiting = new Map<string, () => void>();
  const server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (chunk) => {
      body += chunk;
    });
    request.on("end", () => {
      waiting.get(JSON.parse(body).entityId)?.();
      setTimeout(() => response.writeHead(204).end(), afterMs);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    arrived: (entityId: string) => new Promise<void>((resolve) => waiting.set(entityId, resolve)),
  };
}

async function sideOf(port: number, apiKey: string, { slow = false } = {}): Promise<Organization> {
  const client = createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${port}`, apiKey });
  const { entities } = await client.entities.listEntities({ pageSize: ENTITIES });
  const receiver = await startReceiver(slow ? 14_000 : 0);
  return { client, ids: entities.map(({ id }) => id), ...receiver };
}

/** Callers in closed loops, until they are stopped. What failed is counted, and tried again a moment later. */
function start(of: Organization, work: Work, callers: number) {
  const leaving = new AbortController();
  const side: Side = { ...of, watches: new Map(), signal: leaving.signal };
  const took: number[] = [];
  const failures = new Map<string, number>();
  let isOver = false;
  const loops = Array.from({ length: callers }, async (_, i) => {
    while (!isOver) {
      const begun = performance.now();
      try {
        await work(side, i);
        took.push(performance.now() - begun);
      } catch (error) {
        const { message } = error as Error;
        failures.set(message, (failures.get(message) ?? 0) + 1);
        await sleep(20);
      }
    }
  });
  return {
    took,
    failures,
    async stop() {
      isOver = true;
      await Promise.race([Promise.all(loops), sleep(20_000)]);
      leaving.abort();
    },
  };
}

/** The process of the noise: a kind on a line of standard input starts it, an empty line stops it. */
async function noise(port: number, apiKey: string): Promise<void> {
  const side = await sideOf(port, apiKey, { slow: true });
  process.stdout.write(`${side.url}\n`);
  let running: ReturnType<typeof start> | undefined;
  for await (const line of createInterface({ input: process.stdin })) {
    await running?.stop();
    const kind = KINDS[line];
    running = kind && start(side, kind.noise ?? kind.work, CALLERS * NOISE);
    process.stdout.write("\n");
  }
}

const p99 = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? Number.NaN;

const say = (text: string) => process.stdout.write(`${text}\n`);

/** Holds all entities of an organization, as a transaction elsewhere would. */
async function hold({ host, port, database, owner }: DatabaseAddress, ids: string[]) {
  const holder = new pg.Client({ host, port, database, user: owner });
  await holder.connect();
  await holder.query("begin");
  await holder.query("select 1 from entity where id = any($1) for update", [ids]);
  return { [Symbol.asyncDispose]: () => holder.end() };
}

async function measure(side: Organization, work: Work) {
  const running = start(side, work, CALLERS);
  await sleep(SECONDS * 1_000);
  await running.stop();
  return running;
}

/** Asks for health all the time, on a connection of its own, until it is stopped. Answers how long each answer took. */
function askForHealth(port: number) {
  const health = createClient(Health, createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}` }));
  const took: number[] = [];
  let isOver = false;
  const asking = (async () => {
    while (!isOver) {
      const begun = performance.now();
      const { status } = await health.check({});
      took.push(status === HealthCheckResponse_ServingStatus.SERVING ? performance.now() - begun : Number.NaN);
      await sleep(20);
    }
  })();
  return async () => {
    isOver = true;
    await asking;
    return took;
  };
}

async function main(): Promise<void> {
  await using service = await startService({ env: { WEBHOOK_ALLOW: "127.0.0.1" } });
  const [quietKey = "", noisyKey = ""] = await fill(service, { organizations: 2, entitiesEach: ENTITIES });
  await service.sql("update api_key set scopes = scopes || array['activity:write', 'activity:read']");
  const side = await sideOf(service.port, quietKey);
  const other = await sideOf(service.port, noisyKey);
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), "noise", String(service.port), noisyKey], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const { value: slowUrl } = await answers.next();
  const tell = async (line: string) => {
    child.stdin.write(`${line}\n`);
    await answers.next();
  };

  const chosen = process.env.KINDS?.split(",") ?? Object.keys(KINDS);
  for (const [name, { work, holds = false, slow = false }] of Object.entries(KINDS)) {
    if (!chosen.includes(name)) continue;
    if (slow) {
      await side.client.webhooks.createWebhookEndpoint({ endpoint: { url: side.url, displayName: "quick" } });
      for (let i = 0; i < 30; i++) {
        const endpoint = { url: `${slowUrl}${i}`, displayName: "slow" };
        await other.client.webhooks.createWebhookEndpoint({ endpoint });
      }
    }
    await using stack = new AsyncDisposableStack();
    if (holds) stack.use(await hold(service.address, other.ids));
    const tails = { quiet: [] as number[], noisy: [] as number[] };
    const failures = new Set<string>();
    const health: number[] = [];
    await measure(side, work);
    for (let round = 0; round < ROUNDS; round++) {
      tails.quiet.push(p99((await measure(side, work)).took));
      await tell(name);
      await sleep(1_000);
      const stopAsking = askForHealth(service.port);
      const noisy = await measure(side, work);
      health.push(...(await stopAsking()));
      tails.noisy.push(p99(noisy.took));
      for (const failure of noisy.failures.keys()) failures.add(failure);
      await tell("");
    }
    const [quiet, noisy] = [median(tails.quiet), median(tails.noisy)];
    const ratio = noisy / quiet;
    say(
      `${name}: p99 ${quiet.toFixed(1)} ms alone, ${noisy.toFixed(1)} ms beside another's ten times as much: ${ratio.toFixed(2)}${ratio < MOST ? "" : ", too much"}; health p99 ${p99(health).toFixed(1)} ms${failures.size === 0 ? "" : `; failed: ${[...failures].join("; ")}`}`,
    );
  }
  child.kill();
}

await (process.argv[2] === "noise" ? noise(Number(process.argv[3]), process.argv[4] ?? "") : main());
process.exit();
