// Faults under load: two processes of the service on a PostgreSQL of the run's own, callers, watchers and receivers, and one
// fault after the other, drawn by the seed. In the end everything that was seen is held against what the database has.
//
//   npm run test:faults                       SECONDS=600 by default; SEED=n draws the same faults again
//   FAULTS="kill,promotion" npm run test:faults   only these
//   npm run test:faults -- --planted           copies with a planted bug each, which a named check must find
import { randomBytes } from "node:crypto";
import { chmodSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createEntityClient } from "../../clients/typescript/index.ts";
import { startCallers, type World } from "./callers.ts";
import { checkDatabase, checkWatcher, missingOf, readLog } from "./checker.ts";
import { createChecks } from "./checks.ts";
import { FAULTS, type Fault, type Scene, untilUp } from "./faults.ts";
import { createJournal } from "./journal.ts";
import { canariesOf, createOrganization, type Organization } from "./organization.ts";
import {
  createDatabase,
  createPostgres,
  DATABASE,
  findBinaries,
  folderOf,
  freePort,
  killPostgres,
  mountSpace,
  PASSWORD,
  removeFolder,
  SERVICE_ROLE,
} from "./postgres.ts";
import { startProxy } from "./proxy.ts";
import { killServices, startService } from "./service.ts";
import { FILTERS, startWatcher } from "./watchers.ts";

const SECONDS = Number(process.env.SECONDS ?? 600);
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9));
const PER_ORGANIZATION = 6;
const RECOVERY_MS = 10_000;
const CATCH_UP_MS = 30_000;
const SHOWN = 5;

const work = mkdtempSync(join(tmpdir(), "entity-service-faults-"));
chmodSync(work, 0o755);
const unmounts: (() => void)[] = [];
process.on("exit", () => {
  killServices();
  killPostgres();
  for (const unmount of unmounts) unmount();
  if (process.env.KEEP === undefined) removeFolder(work);
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

const say = (line: string) => process.stdout.write(`${line}\n`);

try {
  process.exitCode = await faults();
} catch (error) {
  say(error instanceof Error ? (error.stack ?? error.message) : String(error));
  say("faults: 0 passed, 1 failed");
  process.exit(1);
}
process.exit();

interface Run {
  fault: string;
  from: number;
  healed: number;
  /** Milliseconds from there to the first write that succeeded. */
  recoveryMs?: number;
}

async function faults(): Promise<number> {
  say(`SEED=${SEED} SECONDS=${SECONDS}`);
  const random = randomOf(SEED);
  const binaries = findBinaries(work);
  const space = folderOf(binaries, join(work, "space"));
  const unmount = mountSpace(space);
  if (unmount) unmounts.push(unmount);
  folderOf(binaries, space);
  say(
    `${binaries.name}${binaries.user ? `, uid ${binaries.user.uid}` : ""}; the database on ${unmount ? "a file system of its own" : "the disk of all"}`,
  );
  const postgres = await createPostgres(binaries, join(work, "primary"));
  await postgres.start();
  await createDatabase(postgres, space);
  const proxy = await startProxy(postgres.port);

  const checks = createChecks();
  const words = [canariesOf(random), canariesOf(random)] as const;
  const bootstrapKey = randomBytes(24).toString("hex");
  const service = async (name: string) =>
    startService({
      ...{ name, work, bootstrapKey, port: await freePort() },
      source: process.env.SOURCE ?? fileURLToPath(new URL("../..", import.meta.url)),
      databaseUrl: `postgres://${SERVICE_ROLE}:${PASSWORD}@127.0.0.1:${proxy.port}/${DATABASE}`,
      secrets: words.map(({ personal }) => personal),
    });
  const services = [await service("one"), await service("two")];
  const organizations: Organization[] = [];
  for (const [index, name] of ["A", "B"].entries()) {
    const operator = createEntityClient({
      baseUrl: (services[0] as (typeof services)[0]).baseUrl,
      apiKey: bootstrapKey,
    });
    organizations.push(
      await createOrganization(operator, name, words[index] as (typeof words)[0], () => organizations, checks.wall),
    );
  }

  let fault = "no fault";
  const journal = createJournal();
  const world: World = { services, organizations, journal, checks, random: randomOf(SEED + 1), fault: () => fault };
  const watchers = organizations.flatMap((one) =>
    FILTERS.map((filter, number) => startWatcher(world, one, filter, number)),
  );
  const callers = startCallers(world, { perOrganization: PER_ORGANIZATION });
  const runs: Run[] = [];
  /** The database's time is this machine's. */
  const began = { at: performance.now(), time: Date.now() };
  const describeTime = (at: bigint) => {
    const time = Number(at / 1000n) - began.time + began.at;
    const run = runs.findLast(({ from }) => from <= time);
    return run === undefined ? "before the first fault" : `${time <= run.healed ? "during" : "after"} ${run.fault}`;
  };
  const scene: Scene = {
    ...{ world, callers, proxy, random },
    get postgres() {
      return postgres;
    },
    promote: undefined,
    disk: { name: "", fill: async () => {}, empty: async () => {} },
  };

  await sleep(2_000);
  const end = performance.now() + SECONDS * 1_000;
  const chosen = process.env.FAULTS?.split(",").map((name) => name.trim());
  const draw = deck(
    FAULTS.filter(
      ({ name, unless }) => (chosen === undefined || chosen.includes(name)) && unless?.(scene) === undefined,
    ),
    random,
  );
  while (performance.now() < end) {
    const { name, run } = draw();
    const from = performance.now();
    fault = name;
    const entry: Run = { fault: name, from, healed: Number.POSITIVE_INFINITY };
    runs.push(entry);
    await run(scene);
    entry.healed = await postgres.writable();
    await untilUp(services);
    await sleep(1_000 + 2_000 * random());
    fault = `what came after ${name}`;
  }
  await sleep(1_000);
  const stopped = callers.stop();
  await stopped;

  let log = await readLog(postgres, world);
  for (let limit = performance.now() + CATCH_UP_MS; performance.now() < limit; await sleep(500)) {
    log = await readLog(postgres, world);
    if (watchers.every((watcher) => missingOf(watcher, log).length === 0)) break;
  }
  // What comes twice would come now.
  await sleep(500);
  await Promise.all(watchers.map((watcher) => watcher.stop()));
  await Promise.all(services.map((one) => one.stop()));

  await checkDatabase(postgres, world, log);
  for (const watcher of watchers) {
    checkWatcher(world, watcher, log, describeTime);
    for (const at of watcher.told) {
      checks.told.count();
      const run = runs.findLast(({ from }) => from <= at);
      if (!runs.some((one) => one.fault === "promotion" && one.from <= at))
        checks.told.fail(`${watcher.organization.name}, ${watcher.filter.name}: after ${run?.fault}`);
    }
  }
  for (const one of services) {
    checks.logs.count();
    checks.alive.count();
    for (const line of one.leaks) checks.logs.fail(line.slice(0, 300));
    for (const what of one.ended) checks.alive.fail(what);
  }
  for (const run of runs) {
    checks.recovery.count();
    const first = journal.writes
      .filter(({ ended, isDone }) => isDone && ended > run.healed)
      .reduce((least, { ended }) => Math.min(least, ended), Number.POSITIVE_INFINITY);
    run.recoveryMs = first - run.healed;
    if (run.recoveryMs > RECOVERY_MS)
      checks.recovery.fail(`after ${run.fault}: ${(run.recoveryMs / 1000).toFixed(1)} s`);
  }
  await postgres.stop("fast");

  return report();

  function report(): number {
    say(
      `\n${journal.intents.length} writes, ${journal.reads} reads, ${log.length} events; attempts: ${[...journal.outcomes].map(([outcome, count]) => `${outcome} ${count}`).join(", ")}`,
    );
    say("\nfault                                   times   slowest recovery");
    for (const [name, list] of Map.groupBy(runs, (run) => run.fault)) {
      const slowest = Math.max(...list.map(({ recoveryMs = 0 }) => recoveryMs));
      say(`${name.padEnd(40)}${String(list.length).padStart(5)}${`${(slowest / 1000).toFixed(1)} s`.padStart(15)}`);
    }
    say("\ncheck");
    let [passed, failed] = [0, 0];
    for (const [key, check] of Object.entries(checks)) {
      const isOk = check.failures.length === 0;
      if (isOk) passed += 1;
      else failed += 1;
      say(
        `${isOk ? "ok    " : "FAILED"} ${`${key}: ${check.name}`.padEnd(78)}${String(check.looked).padStart(7)}${isOk ? "" : ` looked at, ${check.failures.length} wrong`}`,
      );
      for (const failure of check.failures.slice(0, SHOWN)) say(`    ${failure}`);
    }
    say(`SEED=${SEED}`);
    say(`faults: ${passed} passed, ${failed} failed`);
    return failed === 0 ? 0 : 1;
  }
}

/** Every one as often as its weight says before any comes again, in the order of chance. */
function deck(faults: readonly Fault[], random: () => number): () => Fault {
  let cards: Fault[] = [];
  return () => {
    if (cards.length === 0) {
      cards = faults
        .flatMap((fault) => Array.from({ length: fault.weight }, () => ({ fault, place: random() })))
        .sort((a, b) => a.place - b.place)
        .map(({ fault }) => fault);
    }
    return cards.shift() as Fault;
  };
}

/** mulberry32: the same numbers for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
