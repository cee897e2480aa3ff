// What it takes to find entities by name, and pairs of entities that may be one, as the data grows:
// npm run bench:names [-- --entities 1000000] [--calls 300]
// A service of its own, filled by the database itself with names as people have them: a few are very common, most are rare.
// One caller, call after call.
import { parseArgs } from "node:util";
import { createEntityClient } from "../clients/typescript/index.ts";
import { fill } from "./fill.ts";
import { startService } from "./processes.ts";

interface Times {
  what: string;
  calls: number;
  /** Rows of a page. */
  rows: number;
  p50: number;
  p99: number;
  most: number;
}

async function measure(what: string, calls: number, call: (i: number) => Promise<number>): Promise<Times> {
  const times: number[] = [];
  let rows = 0;
  // The first calls connect and plan.
  for (let i = -Math.min(20, calls); i < calls; i++) {
    const from = performance.now();
    const found = await call(Math.abs(i));
    if (i < 0) continue;
    times.push(performance.now() - from);
    rows += found;
  }
  times.sort((a, b) => a - b);
  const at = (part: number) => times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? 0;
  return { what, calls, rows: rows / calls, p50: at(0.5), p99: at(0.99), most: at(1) };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { entities: { type: "string", default: "1000000" }, calls: { type: "string", default: "300" } },
  });
  const [entitiesEach, calls] = [Number(values.entities), Number(values.calls)];
  await using service = await startService();
  const start = performance.now();
  const [apiKey = ""] = await fill(service, { organizations: 1, entitiesEach, people: true });
  process.stdout.write(
    `${entitiesEach.toLocaleString("en-US")} entities made in ${((performance.now() - start) / 1000).toFixed(0)} s\n`,
  );
  const { entities } = createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  const some = await service.sql("select e.id, e.name from entity e order by md5(e.id::text) limit 1000");
  const wordsOf = (i: number) =>
    String(some[i % some.length]?.name)
      .toLowerCase()
      .split(" ");
  const list = async (nameQuery: string, more: object = {}) =>
    (await entities.listEntities({ nameQuery, ...more })).entities.length;

  const found: Times[] = [];
  const run = async (what: string, call: (i: number) => Promise<number>, count = calls) =>
    found.push(await measure(what, count, call));
  await run("name_query: first and last name", (i) => list(`${wordsOf(i)[2]} ${wordsOf(i)[0]}`));
  await run("name_query: beginnings of both", (i) =>
    list(`${wordsOf(i)[0]?.slice(0, 4)} ${wordsOf(i)[3]?.slice(0, 5)}`),
  );
  await run("name_query: the whole name", (i) => list(wordsOf(i).join(" ")));
  await run("name_query: a last name", (i) => list(wordsOf(i)[2] ?? ""));
  await run("name_query: a first name", (i) => list(wordsOf(i)[0] ?? ""));
  await run("name_query: one letter", (i) => list("majslcanep"[i % 10] ?? "a"));
  await run("name_query: three letters", (i) => list(`${"mjslcanep"[i % 9]} ${"rlgvd"[i % 5]} f`));
  await run("name_query: common words, rarely together", () => list("mamama rimama josema"), Math.ceil(calls / 10));
  await run("name_query: nobody's", (i) => list(`zz${i}`));
  await run("name_query: 250 words", () =>
    list(Array.from({ length: 250 }, (_, i) => String.fromCharCode(97 + (i % 26))).join(" ")),
  );
  await run("SuggestDuplicates of an entity", async (i) => {
    const lookup = { by: { case: "entityId" as const, value: String(some[i % some.length]?.id) } };
    return (await entities.suggestDuplicates({ lookup })).suggestions.length;
  });
  let pageToken = "";
  const seen = new Set<string>();
  let pages = 0;
  await run(
    "SuggestDuplicates, pages of 100",
    async () => {
      const page = await entities.suggestDuplicates({ pageToken });
      pageToken = page.nextPageToken;
      pages++;
      for (const { firstEntityId, secondEntityId } of page.suggestions) seen.add(`${firstEntityId} ${secondEntityId}`);
      return page.suggestions.length;
    },
    100,
  );
  const width = Math.max(...found.map(({ what }) => what.length));
  process.stdout.write(`${"".padEnd(width)}  rows/page  p50 ms  p99 ms  most ms\n`);
  for (const { what, rows, p50, p99, most } of found) {
    process.stdout.write(
      `${what.padEnd(width)}  ${rows.toFixed(0).padStart(9)}  ${p50.toFixed(1).padStart(6)}  ${p99.toFixed(1).padStart(6)}  ${most.toFixed(1).padStart(7)}\n`,
    );
  }
  process.stdout.write(`${seen.size} pairs in ${pages} pages\n`);
}

if (import.meta.main) await main();
