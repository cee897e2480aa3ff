// The processes of a run: the service with its embedded PostgreSQL, the peers; and what /proc knows of them.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { freePort, listening, residentBytes, settingsOfStart } from "../scripts/service-process.ts";
import { RUNTIME_ROLE } from "../src/db/roles.ts";

const EMBEDDED = { database: "entity_service", owner: "entity_owner" };
/** The organization that the first start makes. */
export const DEFAULT_ORGANIZATION = {
  id: "00000000-0000-7000-8000-000000000001",
  apiKey: "bench-0123456789-0123456789-0123456789",
};

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const { PATH, HOME } = process.env;
const ENVIRONMENT = { PATH, HOME, NODE_ENV: "production" };

/** A server to measure. */
export interface Contender extends AsyncDisposable {
  name: string;
  port: number;
  pid: number;
}

export interface DatabaseAddress {
  host: string;
  port: number;
  database: string;
  /** The role of the service, and the superuser. */
  user: string;
  owner: string;
  /** Process id of the postmaster. */
  pid: number;
}

/** The service as `npm start` runs it, on a new embedded server. */
export interface Service extends Contender {
  address: DatabaseAddress;
  /** As superuser: sees every organization. */
  sql(text: string, values?: unknown[]): Promise<any[]>;
}

export interface ServiceOptions {
  /** Flags of node, such as --cpu-prof. */
  nodeFlags?: string[];
  env?: Record<string, string>;
}

/** Starts the service in a new folder, which goes with it. */
export async function startService({ nodeFlags = [], env = {} }: ServiceOptions = {}): Promise<Service> {
  const folder = await mkdtemp(join(tmpdir(), "entity-service-bench-"));
  const port = await freePort();
  const { flags, env: ofStart } = settingsOfStart();
  const child = start([...flags, ...nodeFlags, path("../src/main.ts"), "serve"], {
    ...ofStart,
    // A log line per call is the production default; the peers write none, so neither does it.
    LOG_LEVEL: "warn",
    BOOTSTRAP_API_KEY: DEFAULT_ORGANIZATION.apiKey,
    ...env,
    DATA_DIR: folder,
    PORT: String(port),
  });
  await listening(child, port);
  const [pid, , , databasePort, host = ""] = (await readFile(join(folder, "postgres/postmaster.pid"), "utf8")).split(
    "\n",
  );
  const address = {
    host,
    port: Number(databasePort),
    database: EMBEDDED.database,
    user: RUNTIME_ROLE,
    owner: EMBEDDED.owner,
    pid: Number(pid),
  };
  const pool = new pg.Pool({ host, port: address.port, database: address.database, user: address.owner, max: 2 });
  pool.on("error", () => {});
  return {
    name: "entity-service",
    port,
    pid: child.pid as number,
    address,
    sql: async (text, values = []) => (await pool.query(text, values)).rows,
    async [Symbol.asyncDispose]() {
      await pool.end();
      await end(child);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Starts the service of another checkout on the service's database. */
export async function startSecond(main: string, address: DatabaseAddress): Promise<Contender> {
  const port = await freePort();
  const { user, database, host } = address;
  const { flags, env } = settingsOfStart(main);
  const child = start([...flags, main, "serve"], {
    ...env,
    LOG_LEVEL: "warn",
    DATABASE_URL: `postgres://${user}@localhost/${database}?host=${encodeURIComponent(host)}&port=${address.port}`,
    MIGRATION_DATABASE_URL: `postgres://${address.owner}@localhost/${database}?host=${encodeURIComponent(host)}&port=${address.port}`,
    PORT: String(port),
  });
  await listening(child, port);
  return { name: main, port, pid: child.pid as number, [Symbol.asyncDispose]: () => end(child) };
}

/** Starts a peer on the service's database: `program`, or its server.ts. */
export async function startPeer(name: string, address: DatabaseAddress, program?: string): Promise<Contender> {
  const port = await freePort();
  const env = {
    PORT: String(port),
    DATABASE_HOST: address.host,
    DATABASE_PORT: String(address.port),
    DATABASE_NAME: address.database,
    DATABASE_USER: address.user,
  };
  const child = program === undefined ? start([path(`peers/${name}/server.ts`)], env) : start([], env, program);
  await listening(child, port);
  return { name, port, pid: child.pid as number, [Symbol.asyncDispose]: () => end(child) };
}

function start(args: string[], env: Record<string, string>, program = process.execPath): ChildProcess {
  const child = spawn(program, args, {
    env: { ...ENVIRONMENT, ...env },
    stdio: ["ignore", "ignore", "inherit"],
  });
  // A run that is interrupted leaves nobody behind.
  const stop = () => child.kill("SIGTERM");
  process.once("exit", stop);
  child.once("exit", () => process.off("exit", stop));
  return child;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  await once(child, "exit");
}

/** A script beside this file that takes jobs, one after the other, as a process of its own. */
export function startJobs<Job, Answer>(
  script: string,
): AsyncDisposable & { pid: number; run(job: Job): Promise<Answer> } {
  const child = spawn(process.execPath, [path(script)], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    pid: child.pid as number,
    async run(job) {
      child.stdin.write(`${JSON.stringify(job)}\n`);
      const line = await lines.next();
      if (line.done === true) throw new Error(`${script} ended`);
      const answer = JSON.parse(line.value) as Answer | { error: string };
      if (typeof answer === "object" && answer !== null && "error" in answer) throw new Error(answer.error);
      return answer as Answer;
    },
    async [Symbol.asyncDispose]() {
      child.kill();
    },
  };
}

// --- /proc --------------------------------------------------------------------------------------

/** Linux has had 100 ticks a second for user space since 2.4, whatever the kernel's own. */
const TICK_US = 10_000;

interface Stat {
  parent: number;
  /** Microseconds of CPU, its own and of children that it has waited for. */
  own: number;
  ended: number;
}

function statOf(pid: number | string): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The name of the process, in parentheses, may hold anything.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const ticks = (index: number) => Number(fields[index]) * TICK_US;
  return { parent: Number(fields[1]), own: ticks(11) + ticks(12), ended: ticks(13) + ticks(14) };
}

/** Microseconds of CPU that a process has used. */
export function cpuOf(pid: number): number {
  return statOf(pid)?.own ?? 0;
}

/** Microseconds of CPU of the postmaster and of all its processes, those that have ended included. */
export function cpuOfDatabase(postmaster: number): number {
  let sum = 0;
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = statOf(name);
    if (stat === undefined) continue;
    if (Number(name) === postmaster) sum += stat.own + stat.ended;
    else if (stat.parent === postmaster) sum += stat.own;
  }
  return sum;
}

/** Microseconds of CPU of these processes and of all that they started, those that have ended included. */
function cpuOfTrees(roots: readonly number[]): number {
  const stats = new Map<number, Stat>();
  for (const name of readdirSync("/proc")) {
    const stat = /^\d+$/.test(name) ? statOf(name) : undefined;
    if (stat !== undefined) stats.set(Number(name), stat);
  }
  const belongs = (pid: number): boolean => {
    const parent = stats.get(pid)?.parent;
    return roots.includes(pid) || (parent !== undefined && belongs(parent));
  };
  let sum = 0;
  for (const [pid, { own, ended }] of stats) if (belongs(pid)) sum += own + ended;
  return sum;
}

/** Microseconds of CPU that the machine has used, and that its host took from it. */
function cpuOfMachine(): number {
  const [, user, nice, system, , , irq, softirq, steal] = readFileSync("/proc/stat", "latin1").split(/ +|\n/, 9);
  return [user, nice, system, irq, softirq, steal].reduce((sum, ticks) => sum + Number(ticks) * TICK_US, 0);
}

/** Cores that others than these processes, and all that they start, use from now until it is asked. */
export function watchOthers(roots: readonly number[]): () => number {
  const now = () => ({ time: performance.now(), ours: cpuOfTrees(roots), all: cpuOfMachine() });
  const before = now();
  return () => {
    const after = now();
    const others = after.all - before.all - (after.ours - before.ours);
    return Math.max(0, others / 1000 / (after.time - before.time));
  };
}

/** Resident memory in MiB. */
export const memoryOf = (pid: number) => Math.round(residentBytes(pid) / 1024 ** 2);
