// The service under attack: started as `npm start` does, with the probe in it, its lines in a file.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, closeSync, createReadStream, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort, listening, residentBytes, settingsOfStart } from "../../scripts/service-process.ts";

export const BOOTSTRAP_KEY = "hostile-0123456789-0123456789-0123456789";

/** A turn of the service's event loop: its time, how much of it was on the CPU and how much was collecting garbage. */
export interface Turn {
  from: number;
  to: number;
  wallMs: number;
  busyMs: number;
  gcMs: number;
}

export interface Memory {
  rss: number;
  heapTotal: number;
  heapUsed: number;
  external: number;
  arrayBuffers: number;
}

export interface Crash {
  at: number;
  how: string;
  /** The last lines of its output that are no JSON. */
  said: string[];
}

export interface Service extends AsyncDisposable {
  port: number;
  folder: string;
  pid(): number;
  isAlive(): boolean;
  /** Unexpected ends of the process. */
  crashes: Crash[];
  /** Starts it again, on the same data and the same port; ends it before, where it still runs. */
  restart(): Promise<void>;
  /** Resident memory in bytes; 0 while it is not there. */
  rss(): number;
  turns(): Promise<Turn[]>;
  /** What to add to the monotonic clock of each start for the time of turns. */
  clocks(): Promise<number[]>;
  /** The memory left after garbage collection; undefined if the process does not answer. */
  collected(): Promise<Memory | undefined>;
  /** Lines of its output. */
  lines(each: (line: string) => void): Promise<void>;
  /** SIGTERM, and how long it took to end; it is killed after the limit. */
  stop(limitMs?: number): Promise<{ ms: number; code: number | string }>;
}

const root = fileURLToPath(new URL("../..", import.meta.url));
const probe = fileURLToPath(new URL("probe.ts", import.meta.url));

/**
 * `main`: another checkout's, for instance one with a fault planted. `profile`: the folder into which V8 writes what the
 * process ran, when it ends.
 */
export async function startService(env: Record<string, string> = {}, main = root, profile?: string): Promise<Service> {
  const folder = mkdtempSync(join(tmpdir(), "entity-service-hostile-"));
  // The database of root runs as another user.
  chmodSync(folder, 0o755);
  const port = await freePort();
  const output = join(folder, "output.log");
  const probeFile = join(folder, "probe.ndjson");
  const crashes: Crash[] = [];
  let child: ChildProcess;
  let stopping = false;

  const begin = async () => {
    const log = openSync(output, "a");
    const { flags, env: ofStart } = settingsOfStart();
    const { PATH, HOME, TMPDIR } = process.env;
    const profiling =
      profile === undefined ? [] : ["--cpu-prof", "--cpu-prof-interval", "500", "--cpu-prof-dir", profile];
    const mine = spawn(
      process.execPath,
      [...flags, ...profiling, "--import", probe, join(main, "src/main.ts"), "serve"],
      {
        cwd: main,
        env: {
          PATH,
          HOME,
          ...(TMPDIR !== undefined && { TMPDIR }),
          NODE_ENV: "production",
          ...ofStart,
          BOOTSTRAP_API_KEY: BOOTSTRAP_KEY,
          WEBHOOK_ALLOW: "127.0.0.1",
          ...env,
          HOSTILE_PROBE_FILE: probeFile,
          DATA_DIR: join(folder, "data"),
          PORT: String(port),
        },
        stdio: ["ignore", log, log],
      },
    );
    closeSync(log);
    child = mine;
    mine.once("exit", (code, signal) => {
      if (stopping) return;
      const said = readFileSync(output, "latin1")
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("{"));
      crashes.push({ at: Date.now(), how: String(code ?? signal), said: said.slice(-12) });
    });
    await listening(mine, port);
  };
  // An interrupted run leaves no process behind.
  process.once("exit", () => child?.kill("SIGTERM"));
  await begin();

  const isAlive = () => child.exitCode === null && child.signalCode === null;
  const probed = async () => {
    const found: any[] = [];
    for await (const line of createInterface({ input: createReadStream(probeFile) })) found.push(JSON.parse(line));
    return found;
  };
  const stop = async (limitMs = 40_000) => {
    stopping = true;
    const began = performance.now();
    if (isAlive()) {
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), limitMs);
      await ended;
      clearTimeout(timer);
    }
    return { ms: performance.now() - began, code: child.exitCode ?? String(child.signalCode) };
  };
  return {
    port,
    folder,
    pid: () => child.pid ?? 0,
    isAlive,
    crashes,
    async restart() {
      await stop();
      stopping = false;
      await begin();
    },
    rss: () => (isAlive() ? residentBytes(child.pid ?? 0) : 0),
    turns: async () => (await probed()).filter(({ kind }) => kind === "turn"),
    clocks: async () => (await probed()).filter(({ kind }) => kind === "begin").map(({ clock }) => clock),
    async collected() {
      const before = (await probed()).filter(({ kind }) => kind === "memory").length;
      child.kill("SIGUSR2");
      for (let i = 0; i < 100 && isAlive(); i++) {
        await sleep(100);
        const found = (await probed()).filter(({ kind }) => kind === "memory");
        if (found.length > before) return found.at(-1) as Memory;
      }
      return undefined;
    },
    async lines(each) {
      for await (const line of createInterface({ input: createReadStream(output) })) each(line);
    },
    stop,
    async [Symbol.asyncDispose]() {
      await stop();
      endDatabase(join(folder, "data/postgres/postmaster.pid"));
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The embedded PostgreSQL of a service that was killed. */
function endDatabase(pidFile: string): void {
  try {
    process.kill(Number(readFileSync(pidFile, "utf8").split("\n")[0]), "SIGINT");
  } catch {
    // It has ended, as it should.
  }
}
