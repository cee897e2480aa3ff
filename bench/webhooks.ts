// What webhooks cost and how soon they come: npm run bench:webhooks
// The rate of writes with one endpoint and with none, in turn; how fast a backlog is delivered on a service that does
// nothing else; and the time from a change to its arrival. The receiver runs on the same cores.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { createEntityClient } from "../clients/typescript/index.ts";
import { startLoad } from "./bench.ts";
import { fill } from "./fill.ts";
import { startService } from "./processes.ts";
import { median } from "./report.ts";
import { externalIdOf } from "./requests.ts";

const ENTITIES = 100_000;
const ROUNDS = 3;
const CHANGES = 50;
const BACKLOG_SECONDS = 10;

const say = (text: string) => process.stdout.write(`${text}\n`);
const percentile = (values: number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? Number.NaN;

/** Answers 200 to all, and counts. */
async function startReceiver() {
  const state = { url: "", requests: 0, ids: new Set<string>(), arrived: (_: string) => {}, close: () => {} };
  const server = createServer((request, response) => {
    request.resume();
    request.once("end", () => {
      state.requests += 1;
      state.ids.add(String(request.headers["webhook-id"]));
      state.arrived(String(request.headers["x-entity-version"]));
      response.writeHead(200).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  state.close = () => {
    server.close();
    server.closeAllConnections();
  };
  return state;
}

async function main(): Promise<void> {
  const receiver = await startReceiver();
  await using service = await startService({ env: { WEBHOOK_ALLOW: "127.0.0.1" } });
  const [apiKey = ""] = await fill(service, { organizations: 1, entitiesEach: ENTITIES });
  const connect = () => createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  const client = connect();
  await using load = startLoad();
  const job = {
    port: service.port,
    serverPid: service.pid,
    databasePid: service.address.pid,
    operation: "update" as const,
    concurrency: 64,
    apiKeys: [apiKey],
    entitiesPerOrganization: ENTITIES,
    warmUpSeconds: 2,
    seconds: 6,
  };

  const { endpoint } = await client.webhooks.createWebhookEndpoint({
    endpoint: { url: receiver.url, displayName: "bench" },
  });
  const endpointId = endpoint?.id ?? "";
  const latencies: number[] = [];
  for (let i = 0; i < CHANGES; i++) {
    const arrived = new Promise<void>((resolve) => {
      receiver.arrived = () => resolve();
    });
    const begin = performance.now();
    const lookup = { by: { case: "externalId" as const, value: externalIdOf(i) } };
    await client.entities.updateEntity({ lookup, entity: { name: `Late ${begin}` } });
    await arrived;
    latencies.push(performance.now() - begin);
    await sleep(20);
  }
  say(
    `from the call to the receiver, idle: p50 ${percentile(latencies, 0.5).toFixed(0)} ms, p99 ${percentile(latencies, 0.99).toFixed(0)} ms`,
  );

  await client.webhooks.deleteWebhookEndpoint({ endpointId });
  const kinds = ["none", "endpoint"] as const;
  const rates = { none: [], endpoint: [] } as Record<(typeof kinds)[number], number[]>;
  const cpus = { none: [], endpoint: [] } as typeof rates;
  for (let round = 0; round < ROUNDS; round++) {
    for (const kind of kinds) {
      const made =
        kind === "endpoint"
          ? await client.webhooks.createWebhookEndpoint({ endpoint: { url: receiver.url, displayName: "bench" } })
          : undefined;
      const before = receiver.requests;
      const measured = await load.run(job);
      rates[kind].push(measured.requestsPerSecond);
      const cpu = measured.serverCpu + measured.databaseCpu;
      cpus[kind].push(cpu);
      const sent = ((receiver.requests - before) / (job.seconds + job.warmUpSeconds)).toFixed(0);
      say(
        `  ${kind}: ${measured.requestsPerSecond.toFixed(0)} writes/s, ${cpu.toFixed(0)} us of CPU each, ${sent} deliveries/s meanwhile`,
      );
      if (made !== undefined) await client.webhooks.deleteWebhookEndpoint({ endpointId: made.endpoint?.id ?? "" });
      await sleep(2_000);
    }
  }
  const over = (values: typeof rates) => median(values.endpoint) / median(values.none);
  say(`CPU of a write beside an endpoint, over that of one alone: ${over(cpus).toFixed(2)}`);
  say(`writes/s beside an endpoint, over those without: ${over(rates).toFixed(2)}`);

  await client.webhooks.createWebhookEndpoint({ endpoint: { url: receiver.url, displayName: "bench" } });
  await load.run({ ...job, warmUpSeconds: 0, seconds: BACKLOG_SECONDS });
  await sleep(1_000);
  const [requests, ids] = [receiver.requests, receiver.ids.size];
  await sleep(5_000);
  say(
    `a backlog: ${((receiver.requests - requests) / 5).toFixed(0)} deliveries/s, ${receiver.requests - requests - (receiver.ids.size - ids)} of them twice`,
  );
  receiver.close();
}

await main();
process.exit();
