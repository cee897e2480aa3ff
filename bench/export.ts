// How fast is an export, and what does the service hold meanwhile? npm run bench:export [-- --entities 1000000]
// One reader, alone and beside eight callers who update entities at random, and one that reads at a fifth of that pace.
// Prints entities per second, and the resident memory of the service beside that at rest; ends with 1 where it is more
// than 50 MiB above, or where an export has not every entity once.
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { createEntityClient, type EntityClient } from "../clients/typescript/index.ts";
import { fill } from "./fill.ts";
import { memoryOf, startService } from "./processes.ts";

const SAMPLE_MS = 50;
const GROWTH_MIB = 50;
const WRITERS = 8;
/** Reads before the memory at rest is taken: a process that has done nothing yet has not its size. */
const WARM_UP = 3_000;

async function main(entities: number): Promise<void> {
  await using service = await startService();
  const [apiKey = ""] = await fill(service, { organizations: 1, entitiesEach: entities });
  const client = createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  const { entities: first } = await client.entities.listEntities({ pageSize: 1000 });
  const someId = () => first[Math.floor(Math.random() * first.length)]?.id ?? "";
  const lookup = () => ({ by: { case: "entityId" as const, value: someId() } });
  for (let i = 0; i < WARM_UP; i++) {
    await client.entities.updateEntity({ lookup: lookup(), entity: { name: `warm ${i}` } });
  }
  await sleep(2_000);
  const rest = memoryOf(service.pid);
  process.stdout.write(`${entities} entities; at rest ${rest} MiB\n`);

  const measure = async (what: string, pauseMs: number, beside: () => Promise<unknown> = async () => {}) => {
    let running = true;
    let peak = 0;
    let calls = 0;
    const sampling = (async () => {
      for (; running; await sleep(SAMPLE_MS)) peak = Math.max(peak, memoryOf(service.pid));
    })();
    const writing = Array.from({ length: WRITERS }, async () => {
      for (; running; calls++) if ((await beside()) === undefined) return;
    });
    const start = performance.now();
    const count = await read(client, pauseMs);
    const seconds = (performance.now() - start) / 1000;
    running = false;
    await Promise.all([sampling, ...writing]);
    const rate = `${Math.round(count / seconds)} entities/s, ${seconds.toFixed(1)} s`;
    const writes = calls === 0 ? "" : `, beside ${Math.round(calls / seconds)} updates/s`;
    process.stdout.write(`${what}: ${rate}${writes}; at most ${peak} MiB, ${peak - rest} above rest\n`);
    if (count !== entities || peak - rest > GROWTH_MIB) process.exitCode = 1;
    return seconds;
  };
  const alone = await measure("alone", 0);
  let number = 0;
  await measure("beside writers", 0, () =>
    client.entities.updateEntity({ lookup: lookup(), entity: { name: `name ${number++}` } }),
  );
  await measure("slow reader", (alone * 4_000) / (entities / 500));
}

/** Reads an export to its end; how many entities came. */
async function read(client: EntityClient, pauseMs: number): Promise<number> {
  let count = 0;
  let last = "";
  for await (const { entities } of client.entities.exportEntities({})) {
    for (const { id } of entities) {
      if (id <= last) throw new Error("an entity came twice, or in another order");
      last = id;
    }
    count += entities.length;
    if (pauseMs > 0) await sleep(pauseMs);
  }
  return count;
}

const { values } = parseArgs({ options: { entities: { type: "string", default: "1000000" } } });
await main(Number(values.entities));
