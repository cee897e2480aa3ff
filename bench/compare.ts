// This checkout against another one, in one run on one database, for a change that should be faster, or no slower:
//
//   npm run bench:compare -- <folder of the other> [get.64,get.1,update.64,update.1,import] [rounds] [organizations]
//
// alias.64 and alias.1 are gets by an alias; with one of them every entity has one. id.64 and id.1 are gets by the entity's
// id, of one organization; edit.64 are updates that change no name, hot.64 are updates of ten entities, which meet.
// The other folder is a worktree of another commit. Each is started as its `npm start` does, beside the service that made
// the database and then rests, and anew behind every five rounds, the other one first: whoever starts first, or serves
// first, has other luck with memory, leases and compilation. Told for each are medians, and the median of the rounds'
// ratios. For a difference of a few percent take 40 rounds.
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { startLoad } from "./bench.ts";
import { addAliases, fill } from "./fill.ts";
import type { Measurement } from "./load.ts";
import { type Contender, cpuOf, cpuOfDatabase, type Service, startSecond, startService } from "./processes.ts";
import { median } from "./report.ts";
import type { Operation } from "./requests.ts";
import { importRows, openRows } from "./rows.ts";

const ENTITIES = 100_000;
/** Rows of one import; its names go on where those of the fill and of the imports before it end. */
const IMPORTED = 10_000;
const HOT_ENTITIES = 10;
const SETTINGS = [
  ...(["get.64", "get.1", "get.16", "alias.64", "alias.1", "id.64", "id.1"] as const),
  ...(["update.64", "update.1", "update.16", "edit.64", "hot.64", "import"] as const),
];
type Setting = (typeof SETTINGS)[number];
const SECONDS = 1.5;
/** The services are started anew behind so many: what one start has of luck, all its rounds have. */
const ROUNDS_OF_START = 5;

/** Of one setting, in one round. */
type Found = Pick<Measurement, "requestsPerSecond" | "serverCpu" | "databaseCpu" | "p50" | "p99">;
type Side = "this" | "other";

const MAINS = (other: string): Record<Side, string> => ({
  this: fileURLToPath(new URL("../src/main.ts", import.meta.url)),
  other: resolve(other, "src/main.ts"),
});

async function compare(other: string, settings: Setting[], rounds: number, organizations: number): Promise<void> {
  await using service = await startService();
  const entitiesEach = ENTITIES / organizations;
  const apiKeys = await fill(service, { organizations, entitiesEach });
  if (settings.some((setting) => setting.startsWith("alias"))) await addAliases(service);
  await using load = startLoad();
  const rows = openRows();
  let imported = entitiesEach;
  const measure = async (contender: Contender, setting: Setting, isFirst: boolean): Promise<Found> => {
    if (setting === "import") {
      const from = imported;
      imported += IMPORTED;
      return measureImport(service, contender, (port) => importRows(port, apiKeys[0] as string, rows, IMPORTED, from));
    }
    const [called, concurrency] = setting.split(".") as [Operation | "hot", string];
    return load.run({
      port: contender.port,
      serverPid: contender.pid,
      databasePid: service.address.pid,
      operation: called === "hot" ? "update" : called,
      concurrency: Number(concurrency),
      apiKeys,
      entitiesPerOrganization: called === "hot" ? HOT_ENTITIES : entitiesEach,
      warmUpSeconds: isFirst ? 3 : 0.3,
      seconds: SECONDS,
    });
  };

  const found = new Map(settings.map((setting) => [setting, { this: [] as Found[], other: [] as Found[] }]));
  for (let start = 0; start * ROUNDS_OF_START < rounds; start++) {
    const order = start % 2 === 0 ? (["this", "other"] as const) : (["other", "this"] as const);
    await using started = new AsyncDisposableStack();
    const contenders = {} as Record<Side, Contender>;
    for (const side of order) {
      contenders[side] = started.use(await startSecond(MAINS(other)[side], service.address));
    }
    for (let round = 0; round <= ROUNDS_OF_START; round++) {
      const turn = round % 2 === 0 ? order : order.toReversed();
      for (const setting of settings) {
        for (const side of turn) {
          const measured = await measure(contenders[side], setting, round === 0);
          // The first warms up: compiled by Node, planned by PostgreSQL.
          if (round > 0) found.get(setting)?.[side].push(measured);
        }
      }
    }
  }
  for (const [setting, sides] of found) report(setting, sides);
}

async function measureImport(
  service: Service,
  contender: Contender,
  run: (port: number) => Promise<number>,
): Promise<Found> {
  const now = () => ({ server: cpuOf(contender.pid), database: cpuOfDatabase(service.address.pid) });
  const before = now();
  const requestsPerSecond = await run(contender.port);
  const after = now();
  return {
    requestsPerSecond,
    serverCpu: (after.server - before.server) / IMPORTED,
    databaseCpu: (after.database - before.database) / IMPORTED,
    p50: Number.NaN,
    p99: Number.NaN,
  };
}

function report(setting: Setting, sides: Record<Side, Found[]>): void {
  for (const [side, measured] of Object.entries(sides)) {
    const of = (pick: (m: Found) => number) => median(measured.map(pick)).toFixed(1).padStart(8);
    const times = setting === "import" ? "" : `  p50 ${of((m) => m.p50)} ms  p99 ${of((m) => m.p99)} ms`;
    process.stdout.write(
      `${setting.padEnd(10)} ${side.padEnd(6)} ${of((m) => m.requestsPerSecond)}/s  server ${of((m) => m.serverCpu)} µs  database ${of((m) => m.databaseCpu)} µs${times}\n`,
    );
  }
  const ratio = (pick: (m: Found) => number) => {
    const ratios = sides.this.map((m, round) => pick(m) / pick(sides.other[round] as Found));
    return `${median(ratios).toFixed(3)} (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`;
  };
  process.stdout.write(
    `${setting.padEnd(10)} ratio  rate ${ratio((m) => m.requestsPerSecond)}  server ${ratio((m) => m.serverCpu)}\n`,
  );
}

const [other, chosen = "get.64,get.1,update.64,update.1,import", rounds = "10", organizations = "1"] =
  process.argv.slice(2);
const settings = chosen.split(",") as Setting[];
const hasIds = organizations === "1" || !settings.some((setting) => setting.startsWith("id"));
if (other === undefined || !hasIds || settings.some((setting) => !SETTINGS.includes(setting))) {
  throw new Error(
    `usage: npm run bench:compare -- <folder of another checkout> [some of ${SETTINGS.join(",")}] [rounds] [organizations]`,
  );
}
await compare(other, settings, Number(rounds), Number(organizations));
