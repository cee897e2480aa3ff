// Faults under load: two processes of the service on one PostgreSQL, callers, watchers and receivers, and one fault after
// the other, drawn by the seed. In the end everything that was seen is compared with the database.
//
//   npm run test:faults                            SECONDS=600 by default; SEED=n draws the same faults again
//   FAULTS="kill,promotion" npm run test:faults    only these
//   npm run test:faults -- --planted               copies with a planted bug each, which a named check must find
import { randomBytes } from "node:crypto";
import { chmodSync, closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createEntityClient } from "../../clients/typescript/index.ts";
import { freePort } from "../../scripts/service-process.ts";
import { startCallers, type World } from "./callers.ts";
import {
  checkAudit,
  checkDatabase,
  checkHealth,
  checkWatcher,
  type LoggedEvent,
  missingOf,
  readLog,
} from "./checker.ts";
import { type CheckName, type Checks, createChecks } from "./checks.ts";
import { FAULTS, type Fault, type Scene, untilUp } from "./faults.ts";
import { createJournal } from "./journal.ts";
import { canariesOf, createOrganization, type Organization } from "./organization.ts";
import { checkPlanted } from "./planted.ts";
import {
  createDatabase,
  createPostgres,
  createStandby,
  DATABASE,
  findBinaries,
  folderOf,
  killPostgres,
  mountSpace,
  PASSWORD,
  type Postgres,
  removeFolder,
  SERVICE_ROLE,
} from "./postgres.ts";
import { startProxy } from "./proxy.ts";
import { checkEndpoint, type Receiver, startReceiver, undelivered } from "./receiver.ts";
import { killServices, type Service, startService } from "./service.ts";
import { FILTERS, startWatcher, type Watcher } from "./watchers.ts";

const SECONDS = Number(process.env.SECONDS ?? 600);
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9));
const PER_ORGANIZATION = 6;
const RECOVERY_MS = 10_000;
/** For webhooks: 5 s after a first attempt that failed, 15 for the lease of a process that died, and a queue. */
const CATCH_UP_MS = Number(process.env.CATCH_UP_MS ?? 45_000);
/** Entities of each organization before the first fault. */
const WARM = 8;
const SHOWN = 12;
/** A request has arrived within this time, in milliseconds. */
const SENT_MS = 100;

interface Run {
  fault: string;
  from: number;
  /** When the database could be written to again. */
  healed: number;
  /** Milliseconds from there to the first write that succeeded. */
  recoveryMs: number;
  /** And until each process reported SERVING, since the database was up again. */
  servingMs: number;
}

const say = (line: string) => void process.stdout.write(`${line}\n`);
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

try {
  process.exitCode = await (process.argv.includes("--planted") ? checkPlanted(say) : faults());
} catch (error) {
  say(error instanceof Error ? (error.stack ?? error.message) : String(error));
  say("faults: 0 passed, 1 failed");
  process.exitCode = 1;
}
process.exit();

async function faults(): Promise<number> {
  say(`SEED=${SEED} SECONDS=${SECONDS}`);
  const random = randomOf(SEED);
  const work = mkdtempSync(join(tmpdir(), "entity-service-faults-"));
  chmodSync(work, 0o755);
  const unmounts: (() => void)[] = [];
  process.on("exit", () => {
    killServices();
    killPostgres();
    for (const unmount of unmounts) unmount();
    if (process.env.KEEP === undefined) removeFolder(work);
    else say(`kept: ${work}`);
  });

  const binaries = findBinaries(work);
  const noStandby = binaries.canReplicate ? undefined : `${binaries.name} has no pg_basebackup`;
  if (noStandby !== undefined && process.env.CI) throw new Error(`the promotion cannot run: ${noStandby}`);
  /** A folder for the database, on a separate file system if one can be mounted. */
  const newSpace = (name: string): Space => {
    const path = folderOf(binaries, join(work, name));
    const unmount = mountSpace(path);
    if (unmount) unmounts.push(unmount);
    return { path: folderOf(binaries, path), isOwn: unmount !== undefined };
  };
  let space = newSpace("space");
  let postgres = await createPostgres(binaries, join(work, "primary"));
  await postgres.start();
  await createDatabase(postgres, space.path);
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
  const [one, two] = [await service("one"), await service("two")];
  const services = [one, two];
  const operator = createEntityClient({ retries: false, baseUrl: one.baseUrl, apiKey: bootstrapKey });
  const organizations: Organization[] = [];
  for (const [index, name] of (["A", "B"] as const).entries()) {
    const own = words[index] as (typeof words)[number];
    organizations.push(await createOrganization(operator, name, own, () => organizations, checks.wall));
  }

  let fault = "no fault";
  const journal = createJournal();
  const world: World = { services, organizations, journal, checks, random: randomOf(SEED + 1), fault: () => fault };
  const receiver = await startReceiver(world);
  const watchers = organizations.flatMap((organization) =>
    FILTERS.map((filter, number) => startWatcher(world, organization, filter, number)),
  );
  const callers = startCallers(world, { perOrganization: PER_ORGANIZATION });
  const runs: Run[] = [];
  const scene: Scene = {
    ...{ world, callers, proxy, random, noStandby },
    get postgres() {
      return postgres;
    },
    async promote(readOnlyMs) {
      const next = newSpace(`space-${runs.length}`);
      const old = postgres;
      const standby = await createStandby(binaries, old, join(work, `standby-${runs.length}`), {
        ...{ from: space.path, to: next.path },
      });
      await sleep(1_000 + 1_000 * random());
      await old.stop("immediate");
      proxy.target = standby.port;
      proxy.cut();
      await sleep(readOnlyMs);
      await standby.sql("select pg_promote()", [], "postgres");
      [postgres, space] = [standby, next];
      rmSync(old.folder, { recursive: true, force: true });
    },
    disk: diskOf(
      () => postgres,
      () => space,
    ),
  };
  say(`${binaries.name}, fsync on${binaries.user ? `, as uid ${binaries.user.uid}` : ""}`);
  say(`disk full: ${scene.disk.how}`);
  if (noStandby !== undefined) say(`promotion: left out, ${noStandby}`);

  // Something to lock, to hold and to lose.
  while (organizations.some((organization) => callers.entityIds(organization).length < WARM)) await sleep(100);
  const delay = monitorEventLoopDelay({ resolution: 20 });
  delay.enable();
  const began = performance.now();
  const chosen = process.env.FAULTS?.split(";").map((name) => name.trim());
  const possible = FAULTS.filter(({ unless }) => unless?.(scene) === undefined);
  const wanted = possible.filter(({ name }) => chosen === undefined || chosen.includes(name));
  if (wanted.length === 0)
    throw new Error(`FAULTS, separated by semicolons, must be of: ${FAULTS.map(({ name }) => name).join("; ")}`);
  const draw = deck(wanted, random);
  while (performance.now() < began + SECONDS * 1_000) {
    const { name, run } = draw();
    fault = name;
    const entry: Run = { fault: name, from: performance.now(), healed: Infinity, recoveryMs: 0, servingMs: 0 };
    runs.push(entry);
    await run(scene);
    entry.healed = await postgres.writable();
    await untilUp(services);
    await recovered(world, entry);
    const [at, lasted] = [entry.from - began, entry.healed - entry.from].map((ms) => (ms / 1000).toFixed(1));
    if (process.env.VERBOSE) say(`${at?.padStart(7)} s  ${name}, ${lasted} s`);
    await sleep(1_000 + 2_000 * random());
    fault = `what came after ${name}`;
  }

  await sleep(1_000);
  for (const watcher of watchers) watcher.hurry();
  await callers.stop();
  const log = await caughtUp(postgres, world, watchers, receiver);
  await Promise.all(watchers.map((watcher) => watcher.stop()));
  await checkAudit(world, CATCH_UP_MS);
  await Promise.all(services.map((each) => each.stop()));
  await receiver[Symbol.asyncDispose]();
  const during = duringFault(runs);
  await checkDatabase(postgres, world, log);
  checkHealth(world, during);
  for (const endpoint of receiver.endpoints) checkEndpoint(world, endpoint, log);
  for (const watcher of watchers) {
    checkWatcher(world, watcher, log, during);
    checkTold(world, watcher, runs);
  }
  checkDrains(world);
  for (const each of services) checkProcess(world, each);
  await proxy[Symbol.asyncDispose]();
  await postgres.stop("fast");
  const [late, latest] = [delay.percentile(99), delay.max].map((ns) => `${Math.round(ns / 1e6)} ms`);
  say(
    `\nthis process itself was late by up to ${latest}, p99 ${late}: what takes seconds here may be the machine's doing`,
  );
  return report(world, runs, log.length);
}

/** Waits, with a limit, for readers that are behind, and then for events that should not come. */
async function caughtUp(
  postgres: Postgres,
  world: World,
  watchers: Watcher[],
  { endpoints }: Receiver,
): Promise<LoggedEvent[]> {
  const limit = performance.now() + CATCH_UP_MS;
  let log = await readLog(postgres, world);
  const isThere = () =>
    watchers.every((watcher) => missingOf(watcher, log).length === 0) &&
    endpoints.every((endpoint) => undelivered(endpoint, log).length === 0);
  while (!isThere() && performance.now() < limit) {
    await sleep(500);
    log = await readLog(postgres, world);
  }
  await sleep(1_000);
  return log;
}

/** Describes what happened at a time of performance.now(). */
function duringFault(runs: readonly Run[]) {
  return (at: number): string => {
    const run = runs.findLast(({ from }) => from <= at);
    return run === undefined ? "before the first fault" : `${at <= run.healed ? "during" : "after"} ${run.fault}`;
  };
}

function checkTold({ checks }: World, { organization, filter, told }: Watcher, runs: readonly Run[]): void {
  for (const at of told) {
    checks.told.count();
    // Earlier positions expire once; a watcher that was told has a later one.
    if (runs.some(({ fault, from }) => fault === "promotion" && from <= at)) continue;
    checks.told.fail(`${organization.name}, ${filter.name}: ${duringFault(runs)(at)}`);
  }
}

/** A call that was under way when its process was told to end is answered. */
function checkDrains({ checks, journal, services }: World): void {
  for (const service of services) {
    for (const { from } of service.down.filter(({ signal }) => signal === "SIGTERM")) {
      const crossing = journal.intents.flatMap(({ method, attempts }) =>
        attempts
          .filter((one) => one.service === service && one.began < from - SENT_MS && one.ended > from)
          .map((one) => ({ method, ...one })),
      );
      checks.drain.count(crossing.length);
      for (const { method, outcome, ended } of crossing) {
        if (outcome !== "lost") continue;
        checks.drain.fail(
          `${method}, under way when ${service.name} was told to end, was lost ${(ended - from).toFixed(0)} ms after`,
        );
      }
    }
  }
}

function checkProcess({ checks }: World, service: Service): void {
  checks.logs.count(service.lines);
  checks.alive.count();
  for (const line of service.leaks) checks.logs.fail(line.slice(0, 300));
  for (const what of service.ended) checks.alive.fail(what);
}

/** Waits until writes work and every process says SERVING, and says how long that took. */
async function recovered({ checks, journal, services }: World, run: Run): Promise<void> {
  checks.recovery.count();
  const up = Math.max(run.healed, ...services.map(({ down }) => down.at(-1)?.to ?? 0));
  const firstWrite = () =>
    journal.writes.find(({ isDone, isRehearsal, ended }) => isDone && !isRehearsal && ended > run.healed)?.ended;
  const serving = () =>
    services.map(({ health }) => health.find(({ at, isServing }) => isServing && at >= run.healed)?.at ?? Infinity);
  const limit = performance.now() + 3 * RECOVERY_MS;
  while ((firstWrite() === undefined || Math.max(...serving()) === Infinity) && performance.now() < limit)
    await sleep(50);
  run.recoveryMs = (firstWrite() ?? Infinity) - run.healed;
  run.servingMs = Math.max(0, Math.max(...serving()) - up);
  const what = { "the first write": run.recoveryMs, "SERVING of both": run.servingMs };
  for (const [name, ms] of Object.entries(what)) {
    if (ms > RECOVERY_MS) checks.recovery.fail(`after ${run.fault}: ${(ms / 1000).toFixed(1)} s to ${name}`);
  }
}

function report({ checks, journal }: World, runs: readonly Run[], events: number): number {
  const outcomes = [...journal.outcomes].map(([outcome, count]) => `${outcome} ${count}`).join(", ");
  say(`\n${journal.intents.length} writes, ${journal.reads} reads, ${events} events; attempts: ${outcomes}`);
  say("\nfault                         times  longest  to the first write  to SERVING, at most");
  for (const [name, list] of Map.groupBy(runs, ({ fault }) => fault)) {
    const seconds = (values: number[]) => `${(Math.max(...values) / 1000).toFixed(1)} s`;
    const columns = [
      seconds(list.map(({ from, healed }) => healed - from)).padStart(9),
      seconds(list.map(({ recoveryMs }) => recoveryMs)).padStart(20),
      seconds(list.map(({ servingMs }) => servingMs)).padStart(21),
    ];
    say(`${name.padEnd(30)}${String(list.length).padStart(5)}${columns.join("")}`);
  }
  say("\n       check                                                              looked at");
  let [passed, failed] = [0, 0];
  for (const [key, { name, looked, failures }] of Object.entries(checks)) {
    const word = failures.length > 0 ? "FAILED" : looked > 0 ? "ok" : "-";
    if (word === "ok") passed += 1;
    if (word === "FAILED") failed += 1;
    const wrong = failures.length === 0 ? "" : `, ${failures.length} wrong`;
    say(`${word.padEnd(6)} ${`${key}: ${name}`.padEnd(70)}${String(looked).padStart(8)}${wrong}`);
    for (const [{ what, more }, times] of kindsOf(failures).slice(0, SHOWN)) {
      say(`         ${times > 1 ? `${times} times like: ` : ""}${what}`);
      if (more() !== "") say(`           ${more()}`);
    }
  }
  say(`SEED=${SEED}`);
  say(`faults: ${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

type Failure = Checks[CheckName]["failures"][number];

/** One failure of each kind, with how often: the others differ only in ids and numbers. */
function kindsOf(failures: readonly Failure[]): [Failure, number][] {
  const kindOf = ({ what, more }: Failure) => `${what} ${more()}`.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}|\d+/g, "#");
  return [...Map.groupBy(failures, kindOf).values()].map((list) => [list[0] as Failure, list.length]);
}

/** Every fault occurs as often as its weight says before any occurs again, in random order. */
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
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

interface Space {
  path: string;
  isOwn: boolean;
}

/** False where the disk is full. */
function writes(file: number, bytes: Buffer): boolean {
  try {
    return writeSync(file, bytes) === bytes.length;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    return false;
  }
}

/** A separate file system is really filled; a shared one is not: triggers raise the error instead. */
function diskOf(postgres: () => Postgres, space: () => Space): Scene["disk"] {
  const filler = () => join(space().path, "filler");
  const tables = ["entity", "entity_event", "transaction", "user_event"];
  if (space().isOwn) {
    return {
      how: "a tmpfs under the database, filled",
      async fill() {
        // Fills the last block while the database goes on writing: the free space changes meanwhile.
        const file = openSync(filler(), "a");
        for (const size of [1_048_576, 4_096]) while (writes(file, Buffer.alloc(size)));
        closeSync(file);
      },
      async empty() {
        rmSync(filler(), { force: true });
      },
    };
  }
  return {
    how: "emulated, by triggers that raise 53100: no file system may be mounted here",
    async fill() {
      await postgres().sql(`create or replace function disk_full() returns trigger language plpgsql as
        $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$`);
      for (const table of tables) {
        await postgres().sql(
          `create trigger disk_full before insert or update on ${table} for each statement execute function disk_full()`,
        );
      }
    },
    async empty() {
      for (const table of tables) await postgres().sql(`drop trigger if exists disk_full on ${table}`);
    },
  };
}
