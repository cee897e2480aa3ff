// Attacks the service, a separate process, from other processes, while a good client measures how it is served.
// First the attacks that once succeeded, one by one, then all attackers at once for SECONDS (600). Every input comes from
// SEED: a find is made again with `-- --replay <attacker>:<seed>:<index>`. `-- cases` or `-- attack` does one part alone.
// `--profile FOLDER` has the service profiled, and prints what ran in its longest turns; that takes memory and time.
// Prints what was sent and what was found; the last line counts the checks that passed and failed.
import { type ChildProcess, fork } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg, setPriority } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { CANARY } from "./answers.ts";
import { ATTACKERS, CASES, type Order, type Report, type Suspect } from "./attack.ts";
import type { Failure } from "./attacker.ts";
import type { GoodCall, GoodReport } from "./good.ts";
import { type Ground, makeGround } from "./ground.ts";
import { ranIn, readProfiles } from "./profile.ts";
import { type Crash, type Memory, type Service, startService, type Turn } from "./service.ts";

const STALL_MS = 100;
const GOOD_P99_MS = 500;
/** What took longer than it may, but not so many times as long, is tried again: the machine may have been another's. */
const AGAIN = 3;
const TRIES = 3;
const MEMORY_LEFT_MIB = 50;
const WARM_UP_SECONDS = 5;
/** What one of the attacks that once succeeded may take at its peak. */
const CASE_MEMORY_MIB = 150;
/** A process that has grown to this is restarted before the next measurement. */
const RENEWED_FROM_MIB = 350;
const SETTLE_MS = 12_000;
/** A little longer than the drain may take. */
const STOP_LIMIT_MS = 25_000;
/** Which attackers run together: one process for each group, each with a separate organization. */
const GROUPS = [
  ["protobuf", "typed", "heavy-protobuf", "heavy-typed", "batches", "bombs"],
  ["json", "heavy-json", "cancels", "odd-heads", "webhooks"],
  ["guesses-http1", "guesses-http2", "paused-readers", "byte-a-second", "watches", "streams-without-a-key"],
];
GROUPS.push(ATTACKERS.map(({ name }) => name).filter((name) => !GROUPS.flat().includes(name)));

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    replay: { type: "string" },
    times: { type: "string", default: "1" },
    main: { type: "string" },
    only: { type: "string" },
    profile: { type: "string" },
  },
});
/** `--only a,b`: those whose names hold one of the words. */
const isWanted = (name: string) =>
  flags.only === undefined || flags.only.split(",").some((word) => name.includes(word));
const seconds = Number(process.env.SECONDS ?? 600);
const seed = flags.replay?.split(":")[1] ?? process.env.SEED ?? String(Date.now() % 1_000_000);
const print = (text: string) => process.stdout.write(`${text}\n`);
const mib = (bytes: number) => Math.round(bytes / 1_048_576);
const ms = (value: number) => (value < 10 ? value.toFixed(1) : String(Math.round(value)));

const children = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of children) child.kill();
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

// --- The parties --------------------------------------------------------------------------------

interface Attack {
  child: ChildProcess;
  inputs: Record<string, number>;
  outcomes: Record<string, Record<string, number>>;
  failures: Failure[];
  done(id: number): Promise<void>;
  order(order: Order): void;
  suspects(from: number, to: number): Promise<Suspect[]>;
}

function startChild(script: string): ChildProcess {
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  children.add(child);
  child.once("exit", () => children.delete(child));
  return child;
}

function startAttack(): Attack {
  const child = startChild("attack.ts");
  // The good client and the service go first where there are fewer cores than processes.
  if (child.pid !== undefined) setPriority(child.pid, 10);
  const waiting = new Map<number, (report: any) => void>();
  let next = 1;
  const attack: Attack = {
    child,
    inputs: {},
    outcomes: {},
    failures: [],
    done: (id) => new Promise((resolve) => waiting.set(id, () => resolve())),
    order: (order) => child.send(order),
    suspects: (from, to) =>
      new Promise((resolve) => {
        const id = next++;
        waiting.set(-id, ({ suspects }) => resolve(suspects));
        child.send({ kind: "suspects", id: -id, from, to } satisfies Order);
        setTimeout(() => resolve([]), 5_000).unref();
      }),
  };
  child.on("message", (report: Report) => {
    if (report.kind !== "tally") {
      waiting.get(report.id)?.(report);
      waiting.delete(report.id);
      return;
    }
    for (const [name, count] of Object.entries(report.inputs)) attack.inputs[name] = (attack.inputs[name] ?? 0) + count;
    for (const [name, counts] of Object.entries(report.outcomes)) {
      const mine = (attack.outcomes[name] ??= {});
      for (const [outcome, count] of Object.entries(counts)) mine[outcome] = (mine[outcome] ?? 0) + count;
    }
    attack.failures.push(...report.failures);
  });
  return attack;
}

interface Good {
  child: ChildProcess;
  calls: GoodCall[];
  missing: number;
  twice: number;
  watches: { at: number; why: string }[];
  lateMs: number;
}

function startGood(ground: Ground): Good {
  const child = startChild("good.ts");
  const good: Good = { child, calls: [], missing: 0, twice: 0, watches: [], lateMs: 0 };
  child.on("message", ({ calls, missing, twice, watches, lateMs }: GoodReport) => {
    good.calls.push(...calls);
    good.missing = missing;
    good.twice += twice;
    good.watches.push(...watches.map((why) => ({ at: Date.now(), why })));
    good.lateMs = Math.max(good.lateMs, lateMs);
  });
  child.send(ground);
  return good;
}

/** The calls of the good client between two times. */
function goodBetween(good: Good, from: number, to: number) {
  const calls = good.calls.filter(({ at }) => at >= from && at <= to);
  const latencies = calls.map((one) => one.ms).sort((a, b) => a - b);
  const at = (share: number) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? 0;
  const errors = new Map<string, number>();
  for (const { what, error } of calls)
    if (error !== undefined) errors.set(`${what} ${error}`, (errors.get(`${what} ${error}`) ?? 0) + 1);
  return {
    calls: calls.length,
    p50: at(0.5),
    p99: at(0.99),
    max: at(1),
    retries: calls.reduce((sum, { retries }) => sum + retries, 0),
    failed: calls.filter(({ error }) => error !== undefined).length,
    errors,
  };
}

const within = (turns: Turn[], from: number, to: number) => turns.filter((turn) => turn.to >= from && turn.from <= to);

/**
 * Turns that the service itself made long. A process that got no CPU finds more to do at once afterwards: only the very
 * long ones of such turns count, since the others show the machine, not the service.
 */
const stallsOf = (turns: Turn[], from: number, to: number) =>
  within(turns, from, to).filter(({ busyMs, wallMs }) => busyMs > (busyMs > wallMs / 2 ? STALL_MS : 3 * STALL_MS));

/** The highest of the resident memory while it is looked at. */
function watchMemory(service: Service) {
  let peak = service.rss();
  const timer = setInterval(() => {
    peak = Math.max(peak, service.rss());
  }, 50);
  return () => {
    clearInterval(timer);
    return peak;
  };
}

// --- The verdict --------------------------------------------------------------------------------

let passed = 0;
let failed = 0;
const findings: string[] = [];

function check(name: string, problem: string | undefined, note = ""): void {
  if (problem === undefined) passed += 1;
  else {
    failed += 1;
    findings.push(`${name}: ${problem}`);
  }
  print(
    `  ${problem === undefined ? "ok    " : "FAILED"}  ${name}${note === "" ? "" : ` (${note})`}${problem === undefined ? "" : `: ${problem}`}`,
  );
}

const replayOf = ({ attacker, index }: { attacker: string; index: number }) => `--replay ${attacker}:${seed}:${index}`;

/** Failures of the same kind together, the first few of each with their inputs. */
function kindsOf(failures: Failure[]): { kind: string; count: number; examples: Failure[] }[] {
  const kinds = new Map<string, Failure[]>();
  for (const failure of failures) {
    const kind = `${failure.attacker}: ${failure.problem}`;
    const known = kinds.get(kind);
    if (known === undefined) kinds.set(kind, [failure]);
    else known.push(failure);
  }
  return [...kinds].map(([kind, all]) => ({
    kind,
    count: all.length,
    examples: all.toSorted((a, b) => (a.input?.length ?? 0) - (b.input?.length ?? 0)).slice(0, 3),
  }));
}

/** What must not be in the service's output. */
async function judgeLines(
  service: Service,
): Promise<{ lines: number; problems: Map<string, number>; canary: string[]; errors: Map<string, number> }> {
  let lines = 0;
  const problems = new Map<string, number>();
  const errors = new Map<string, number>();
  const canary: string[] = [];
  const count = (map: Map<string, number>, key: string) => map.set(key, (map.get(key) ?? 0) + 1);
  await service.lines((line) => {
    lines += 1;
    if (line.includes(CANARY)) canary.push(line.slice(0, 400));
    try {
      const { level, msg, code, reason, error } = JSON.parse(line);
      if (level !== "error" && level !== "fatal") return;
      const why = [
        error?.name,
        error?.code,
        error?.cause?.name,
        error?.cause?.code,
        ...(error?.frames ?? []).slice(0, 3),
      ];
      count(errors, [level, msg, code, reason, ...why].filter((part) => part !== undefined).join(" "));
    } catch {
      count(problems, line.slice(0, 120));
    }
  });
  return { lines, problems, canary, errors };
}

// --- Cases --------------------------------------------------------------------------------------

async function single(attack: Attack, ground: Ground, attacker: string, index: number, limitMs: number): Promise<void> {
  const id = Math.floor(Math.random() * 1e9) + 1;
  const done = attack.done(id);
  attack.order({ kind: "single", id, ground, party: 0, attacker, index, limitMs });
  await Promise.race([done, sleep(limitMs + 30_000)]);
}

/** Starts it again where it ended. */
async function revive(service: Service): Promise<void> {
  if (service.isAlive()) return;
  await service.restart();
  await sleep(1_500);
}

/** Waits until the good client is served as before, for a limited time. */
async function isCalm(good: Good): Promise<void> {
  for (let i = 0; i < 80; i++) {
    const last = good.calls.filter(({ at }) => at > Date.now() - 1_000);
    if (last.length > 20 && last.every(({ error }) => error === undefined)) return;
    await sleep(200);
  }
}

async function runCases(service: Service, ground: Ground, good: Good): Promise<void> {
  print(`\nAttacks that once succeeded, one by one`);
  const attack = startAttack();
  /** What was wrong, how long it took on a machine that is not ours alone, and what was measured. */
  const run = async (name: string) => {
    // What the former case left behind does not count for this one.
    if (service.rss() > RENEWED_FROM_MIB * 1_048_576) await service.restart();
    await isCalm(good);
    const before = service.rss();
    const crashes = service.crashes.length;
    const failures = attack.failures.length;
    const peak = watchMemory(service);
    const from = Date.now();
    await single(attack, ground, name, 0, 60_000);
    await sleep(1_200);
    const to = Date.now();
    const grown = mib(peak() - before);
    const problems: string[] = [];
    const slow: string[] = [];
    const [crash] = service.crashes.slice(crashes);
    if (crash !== undefined) problems.push(`the process ended (${crash.how}) ${crash.said.join(" ").slice(0, 300)}`);
    const turns = crash === undefined ? within(await service.turns(), from, to) : [];
    const longest = Math.max(0, ...turns.map(({ busyMs }) => busyMs));
    const stalls = stallsOf(turns, from, to);
    const worst = stalls.toSorted((a, b) => b.busyMs - a.busyMs)[0];
    if (worst !== undefined)
      (worst.busyMs > AGAIN * STALL_MS ? problems : slow).push(
        `${stalls.length} stalls of up to ${ms(worst.busyMs)} ms (${ms(worst.gcMs)} of it GC)`,
      );
    if (grown > CASE_MEMORY_MIB) problems.push(`memory grew by ${grown} MiB`);
    // A call that was due meanwhile may still be under way.
    const share = goodBetween(good, from, to);
    if (share.failed > 0)
      problems.push(
        `good: ${share.failed} of ${share.calls} failed, ${[...share.errors]
          .map(([error, count]) => `${error} (${count})`)
          .join("; ")
          .slice(0, 200)}`,
      );
    if (share.p99 > GOOD_P99_MS)
      (share.p99 > AGAIN * GOOD_P99_MS ? problems : slow).push(`good p99 ${ms(share.p99)} ms`);
    if (share.calls === 0 && to - from > 500) problems.push("good: no call ended");
    for (const { kind, count } of kindsOf(attack.failures.slice(failures)))
      problems.push(`${kind.slice(name.length + 2)}${count > 1 ? ` (${count})` : ""}`);
    await revive(service);
    const measured = `${((to - from) / 1000).toFixed(1)} s, +${grown} MiB, longest turn ${longest > 0 ? ms(longest) : "under 50"} ms, good p99 ${ms(share.p99)} max ${ms(share.max)} ms, ${share.retries} retries`;
    return { problems, slow, measured };
  };
  for (const { name } of CASES) {
    if (!isWanted(name)) continue;
    let result = await run(name);
    for (let i = 1; i < TRIES && result.problems.length === 0 && result.slow.length > 0; i++) {
      print(`  slow    ${name} (${result.measured}): ${result.slow.join("; ")}`);
      result = await run(name);
    }
    const { problems, slow, measured } = result;
    const all = [...problems, ...slow];
    check(name, all.length === 0 ? undefined : all.join("; "), measured);
  }
  attack.child.disconnect();
}

// --- The attack ---------------------------------------------------------------------------------

async function runAttack(service: Service, ground: Ground, good: Good): Promise<void> {
  print(`\nAll attackers at once, ${seconds} s`);
  const attacks = GROUPS.map(() => startAttack());
  const orderAll = (seconds: number) =>
    attacks.map((attack, index) => {
      const done = attack.done(0);
      const attackers = (GROUPS[index] ?? []).filter(isWanted);
      attack.order({ kind: "attack", ground, party: index, attackers, seconds });
      return done;
    });
  // Once around, so that one-time costs, such as compiled code, do not count as left behind.
  await Promise.all(orderAll(WARM_UP_SECONDS));
  await sleep(3_000);
  const start = await service.collected();
  const crashesBefore = service.crashes.length;
  const readPeak = watchMemory(service);
  const from = Date.now();
  const suspectsOf = new Map<Turn, Suspect[]>();
  const crashed: { crash: Crash; suspects: Suspect[] }[] = [];
  /** By the second: the growth of the resident memory, and which attackers were under way. */
  const growths: { at: number; grown: number; suspects: Suspect[] }[] = [];
  const ask = async (since: number, until: number) =>
    (await Promise.all(attacks.map((attack) => attack.suspects(since, until)))).flat();
  const running = orderAll(seconds);
  let over = false;
  const watching = (async () => {
    let resident = service.rss();
    let looked = Date.now();
    for (let known = crashesBefore; ; ) {
      const isLast = over;
      const [now, at] = [service.rss(), Date.now()];
      if (mib(now - resident) > MEMORY_LEFT_MIB)
        growths.push({ at: looked, grown: mib(now - resident), suspects: await ask(looked, at) });
      [resident, looked] = [now, at];
      for (const turn of stallsOf(await service.turns(), from, Date.now())) {
        if (![...suspectsOf.keys()].some((one) => one.from === turn.from))
          suspectsOf.set(turn, await ask(turn.from, turn.to));
      }
      for (const crash of service.crashes.slice(known))
        crashed.push({ crash, suspects: await ask(crash.at - 3_000, crash.at) });
      known = service.crashes.length;
      await revive(service);
      if (isLast) return;
      await sleep(1_000);
    }
  })();
  await Promise.race([Promise.all(running), sleep((seconds + 60) * 1_000)]);
  over = true;
  await watching;
  const to = Date.now();
  const peak = readPeak();
  await sleep(SETTLE_MS);
  let end: Memory | undefined = await service.collected();
  // Watches and retries of the last seconds may free their memory a little later.
  for (
    let i = 0;
    i < 3 && end !== undefined && start !== undefined && mib(end.rss - start.rss) > MEMORY_LEFT_MIB;
    i++
  ) {
    await sleep(5_000);
    end = await service.collected();
  }

  printTally(attacks);
  const inputs = attacks.flatMap((attack) => Object.values(attack.inputs)).reduce((sum, count) => sum + count, 0);
  const wall = (to - from) / 1000;
  check(
    "inputs were sent",
    inputs === 0 ? "none" : undefined,
    `${inputs.toLocaleString("en")}, ${Math.round(inputs / wall)} a second`,
  );
  check("the process lives", crashed.length === 0 ? undefined : `it ended ${crashed.length} times`);
  for (const { crash, suspects } of crashed) {
    print(`    ended with ${crash.how}: ${crash.said.join(" | ").slice(0, 600)}`);
    print(`    under way: ${listOf(suspects)}`);
  }
  const stalls = [...suspectsOf].toSorted(([a], [b]) => b.busyMs - a.busyMs);
  const worst = stalls[0]?.[0];
  check(
    `no turn of the event loop is busy for over ${STALL_MS} ms`,
    worst === undefined ? undefined : `${stalls.length} are, up to ${ms(worst.busyMs)} ms`,
  );
  for (const [turn, suspects] of stalls.slice(0, 12)) {
    print(
      `    ${ms(turn.busyMs)} ms on the CPU (${ms(turn.wallMs)} by the clock, ${ms(turn.gcMs)} GC) at ${((turn.from - from) / 1000).toFixed(1)} s: ${listOf(suspects)}`,
    );
  }
  const late = within(await service.turns(), from, to).filter(({ wallMs }) => wallMs > STALL_MS);
  const kept = late.reduce((sum, { wallMs, busyMs }) => sum + wallMs - busyMs, 0);
  print(
    `    ${late.length - stalls.length} more were late for want of a core, for ${ms(kept)} of ${to - from} ms; load ${loadavg()
      .map((load) => load.toFixed(1))
      .join(" ")} on ${cpus().length} cores`,
  );
  const left = start === undefined || end === undefined ? undefined : mib(end.rss - start.rss);
  const heap =
    start === undefined || end === undefined
      ? undefined
      : mib(end.heapUsed + end.external - start.heapUsed - start.external);
  check(
    `memory comes back to within ${MEMORY_LEFT_MIB} MiB of the start`,
    left === undefined
      ? "it was not there to be asked"
      : crashed.length > 0 || left <= MEMORY_LEFT_MIB
        ? undefined
        : `${left} MiB more`,
    `start ${mib(start?.rss ?? 0)}, highest ${mib(peak)}, end ${mib(end?.rss ?? 0)} MiB; of the heap ${heap} MiB, ${mib((end?.heapTotal ?? 0) - (start?.heapTotal ?? 0))} reserved`,
  );
  for (const { at, grown, suspects } of growths.toSorted((a, b) => b.grown - a.grown).slice(0, 5))
    print(`    +${grown} MiB within a second at ${((at - from) / 1000).toFixed(1)} s: ${listOf(suspects)}`);
  judgeGood(good, from, to);
  const failures = attacks.flatMap((attack) => attack.failures);
  const kinds = kindsOf(failures).toSorted((a, b) => b.count - a.count);
  check(
    "every error that attackers see is typed",
    kinds.length === 0 ? undefined : `${failures.length} answers in ${kinds.length} kinds are not as the contract says`,
  );
  for (const { kind, count, examples } of kinds.slice(0, 40)) {
    print(`    ${kind} (${count})`);
    for (const one of examples) print(`      ${replayOf(one)} ${one.input?.slice(0, 260) ?? ""}`);
  }
  keep(failures);
  await confirm(service, ground, attacks[0] as Attack, stalls);
  for (const attack of attacks) attack.child.disconnect();
}

function listOf(suspects: Suspect[]): string {
  const names = new Map<string, Suspect[]>();
  for (const one of suspects.toSorted((a, b) => a.sinceMs - b.sinceMs))
    names.set(one.attacker, [...(names.get(one.attacker) ?? []), one]);
  return [...names]
    .map(
      ([name, all]) =>
        `${name}:${all
          .slice(0, 3)
          .map(({ index }) => index)
          .join(",")}${all.length > 3 ? `+${all.length - 3}` : ""}`,
    )
    .join(" ");
}

/** Repeats alone the latest cases of each attacker that were under way at a stall, to find the cause. */
async function confirm(service: Service, ground: Ground, attack: Attack, stalls: [Turn, Suspect[]][]): Promise<void> {
  if (stalls.length === 0) return;
  print("  What was under way at the stalls, again and alone:");
  const until = performance.now() + Math.min(90_000, 20_000 + seconds * 200);
  const tried = new Set<string>();
  let found = 0;
  for (const [, suspects] of stalls) {
    const latest = Map.groupBy(
      suspects.toSorted((a, b) => a.sinceMs - b.sinceMs),
      ({ attacker }) => attacker,
    );
    for (const one of [...latest.values()].flatMap((all) => all.slice(0, 2))) {
      const name = `${one.attacker}:${one.index}`;
      if (tried.has(name) || performance.now() > until || !service.isAlive()) continue;
      tried.add(name);
      const from = Date.now();
      await single(attack, ground, one.attacker, one.index, 3_000);
      await sleep(50);
      const [worst] = stallsOf(await service.turns(), from, Date.now()).toSorted((a, b) => b.busyMs - a.busyMs);
      if (worst === undefined) continue;
      found += 1;
      print(`    ${ms(worst.busyMs)} ms (${ms(worst.gcMs)} GC): ${replayOf(one)}`);
    }
  }
  print(`    ${found} of ${tried.size} stall alone`);
}

function printTally(attacks: Attack[]): void {
  print(`  ${"attacker".padEnd(24)}${"inputs".padStart(10)}  how they ended`);
  for (const attack of attacks) {
    for (const [name, count] of Object.entries(attack.inputs).sort()) {
      const outcomes = Object.entries(attack.outcomes[name] ?? {}).sort(([, a], [, b]) => b - a);
      const ended = outcomes.slice(0, 8).map(([outcome, times]) => `${outcome} ${times}`);
      print(`  ${name.padEnd(24)}${count.toLocaleString("en").padStart(10)}  ${ended.join(", ")}`);
    }
  }
}

function judgeGood(good: Good, from: number, to: number): void {
  const share = goodBetween(good, from, to);
  check(
    `the good client's p99 is below ${GOOD_P99_MS} ms`,
    share.p99 < GOOD_P99_MS && share.calls > 0 ? undefined : `${ms(share.p99)} ms`,
    `${share.calls} calls, p50 ${ms(share.p50)}, p99 ${ms(share.p99)}, max ${ms(share.max)} ms; it was late itself by up to ${ms(good.lateMs)} ms`,
  );
  check(
    "the good client is refused nothing",
    share.failed === 0 ? undefined : `${share.failed} of ${share.calls}`,
    `${share.retries} retries after a delay that was asked for`,
  );
  for (const [error, count] of [...share.errors].sort(([, a], [, b]) => b - a).slice(0, 20))
    print(`    ${error} (${count})`);
  const watches = good.watches.filter(({ at }) => at >= from && at <= to);
  check(
    "the good client's watch misses nothing",
    good.missing + good.twice === 0 ? undefined : `${good.missing} updates never came, ${good.twice} came twice`,
    `${watches.length} times watched again`,
  );
  for (const why of new Set(watches.map(({ why }) => why))) print(`    ended: ${why}`);
}

/** Writes the inputs of failures to files, for debugging. */
function keep(failures: Failure[]): void {
  if (failures.length === 0) return;
  const folder = fileURLToPath(new URL("../../.hostile", import.meta.url));
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `failures-${seed}.ndjson`);
  writeFileSync(file, failures.map((one) => `${JSON.stringify(one)}\n`).join(""));
  print(`    kept in .hostile/failures-${seed}.ndjson`);
}

async function judgeEnd(service: Service, crashes: number): Promise<void> {
  print("\nThe end");
  const { ms: took, code } = await service.stop(STOP_LIMIT_MS);
  check(
    "SIGTERM ends it in good order",
    code === 0 ? undefined : `it ended with ${code} after ${ms(took)} ms`,
    `${ms(took)} ms`,
  );
  const { lines, problems, canary, errors } = await judgeLines(service);
  // Output of a process that ends in this way is not JSON; it was counted above.
  const loud = [...problems].filter(([line]) => line.trim() !== "");
  check(
    "every line of the output is JSON",
    loud.length === 0 || crashes > 0
      ? undefined
      : `${loud.length} kinds of lines are not: ${loud
          .slice(0, 3)
          .map(([line]) => line)
          .join(" | ")}`,
    `${lines.toLocaleString("en")} lines`,
  );
  check("no line repeats a value of a request", canary.length === 0 ? undefined : `${canary.length} do: ${canary[0]}`);
  check(
    "no line has the level error",
    errors.size === 0 ? undefined : `${[...errors.values()].reduce((a, b) => a + b, 0)} do`,
  );
  for (const [error, count] of [...errors].sort(([, a], [, b]) => b - a).slice(0, 20)) print(`    ${error} (${count})`);
}

/** What ran in the longest turns of a service that was profiled and has ended. */
async function printProfile(service: Service, folder: string, from: number): Promise<void> {
  const [turns, [clock = 0]] = [within(await service.turns(), from, Date.now()), await service.clocks()];
  const profiles = readProfiles(folder);
  print(`\nWhat ran in the longest turns`);
  for (const turn of turns.toSorted((a, b) => b.busyMs - a.busyMs).slice(0, 25)) {
    print(
      `  ${ms(turn.busyMs)} ms on the CPU (${ms(turn.wallMs)} by the clock, ${ms(turn.gcMs)} GC) at ${new Date(turn.from).toISOString()}`,
    );
    for (const { stack, ms: took } of ranIn(profiles, turn, clock).slice(0, 25))
      print(`    ${ms(took).padStart(5)}  ${stack}`);
  }
}

// --- The run ------------------------------------------------------------------------------------

async function replay(which: string): Promise<void> {
  const [attacker = "", , index = "0"] = which.split(":");
  if (![...ATTACKERS, ...CASES].some(({ name }) => name === attacker))
    throw new Error(`there is no attacker ${attacker}`);
  await using service = await startService({}, flags.main);
  const ground = await makeGround(service.port, seed, 1);
  const attack = startAttack();
  await service.collected();
  for (let i = 0; i < Number(flags.times); i++) {
    const before = service.rss();
    const peak = watchMemory(service);
    const from = Date.now();
    await single(attack, ground, attacker, Number(index), 20_000);
    await sleep(600);
    const stalls = service.isAlive() ? stallsOf(await service.turns(), from, Date.now()) : [];
    print(
      `inputs ${JSON.stringify(attack.inputs)}, ended ${JSON.stringify(attack.outcomes)}, memory +${mib(peak() - before)} MiB`,
    );
    for (const turn of stalls) print(`stall: ${ms(turn.busyMs)} ms on the CPU (${ms(turn.gcMs)} GC)`);
    for (const { problem, input } of attack.failures.splice(0)) print(`failed: ${problem}\n  ${input ?? ""}`);
    for (const { how, said } of service.crashes) print(`ended with ${how}: ${said.join("\n  ")}`);
    if (!service.isAlive()) break;
  }
  attack.child.disconnect();
  await service.stop(STOP_LIMIT_MS);
  await judgeLines(service).then(({ errors, canary, problems }) => {
    for (const [error, count] of errors) print(`error line: ${error} (${count})`);
    for (const line of canary.slice(0, 3)) print(`repeats a value: ${line}`);
    for (const [line] of [...problems].slice(0, 10)) print(`no JSON: ${line}`);
  });
}

async function main(): Promise<void> {
  print(
    `SEED=${seed} SECONDS=${seconds}, as ${process.getuid?.() === 0 ? "root" : "an ordinary user"}, Node ${process.version}`,
  );
  await using service = await startService({}, flags.main, flags.profile);
  const ground = await makeGround(service.port, seed, GROUPS.length);
  const good = startGood(ground);
  await sleep(2_500);
  const began = Date.now();
  const part = positionals[0];
  const calm = goodBetween(good, Date.now() - 2_000, Date.now());
  print(`the good client before all: ${calm.calls} calls, p50 ${ms(calm.p50)}, p99 ${ms(calm.p99)} ms`);
  if (part !== "attack") await runCases(service, ground, good);
  const ended = service.crashes.length;
  if (part !== "cases") await runAttack(service, ground, good);
  good.child.disconnect();
  await judgeEnd(service, Math.max(ended, service.crashes.length));
  if (flags.profile !== undefined) await printProfile(service, flags.profile, began);
}

try {
  if (flags.replay !== undefined) await replay(flags.replay);
  else await main();
} catch (error) {
  print(error instanceof Error ? (error.stack ?? error.message) : String(error));
  failed += 1;
}
if (findings.length > 0) print(`\nSEED=${seed}\n${findings.map((one) => `  ${one}`).join("\n")}`);
if (flags.replay === undefined) print(`hostile: ${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
for (const child of children) child.kill();
