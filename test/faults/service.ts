// A process of the service, as an operator's supervisor runs it: restarted whenever it ends.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Health, HealthCheckResponse_ServingStatus } from "../../clients/typescript/gen/grpc/health/v1/health_pb.ts";

export interface Sample {
  at: number;
  isServing: boolean;
}

export interface Service {
  name: string;
  baseUrl: string;
  /** When calls to it may be lost without an error: from a signal until it listens again. */
  down: { from: number; to: number; signal?: NodeJS.Signals }[];
  health: Sample[];
  /** How many lines it has logged. */
  lines: number;
  /** Lines of its log with an error, newest last. */
  errors: string[];
  /** Values that no line may have, and those lines that did. */
  leaks: string[];
  /** How often it ended or hung unexpectedly. */
  ended: string[];
  /** The log lines of a call that failed by a defect; empty if there are none. */
  logOf(requestId: string | undefined): string;
  isUp(): boolean;
  kill(): Promise<void>;
  /** SIGTERM; how long it took, in milliseconds. */
  terminate(): Promise<number>;
  stop(): Promise<void>;
}

export interface ServiceOptions {
  name: string;
  /** The folder with src/main.ts: this one, or a copy with a planted bug. */
  source: string;
  port: number;
  databaseUrl: string;
  work: string;
  bootstrapKey: string;
  /** Values that a log must not contain. */
  secrets: readonly string[];
}

const children = new Set<ChildProcess>();
/** At the end of this process, however it ends. */
export function killServices(): void {
  for (const child of children) child.kill("SIGKILL");
}

export async function startService(options: ServiceOptions): Promise<Service> {
  const { name, source, port, work } = options;
  const baseUrl = `http://127.0.0.1:${port}`;
  const health = createClient(Health, createGrpcTransport({ baseUrl, defaultTimeoutMs: 1_500 }));
  let child: ChildProcess | undefined;
  let isWanted = true;
  let asked = false;
  let exited: Promise<unknown> = Promise.resolve();

  const service: Service = {
    name,
    baseUrl,
    down: [],
    health: [],
    lines: 0,
    errors: [],
    leaks: [],
    ended: [],
    logOf: (requestId) => {
      const line = service.errors.find((one) => requestId && one.includes(requestId) && one.includes('"frames"'));
      return line === undefined ? "" : causesOf(JSON.parse(line).error).join(", by ");
    },
    isUp: () => !service.down.some(({ to }) => to === Number.POSITIVE_INFINITY),
    kill: () => end("SIGKILL").then(() => {}),
    terminate: () => end("SIGTERM"),
    async stop() {
      isWanted = false;
      await end("SIGTERM");
    },
  };

  function run(): void {
    const started = spawn(process.execPath, [join(source, "src/main.ts"), "serve"], {
      cwd: source,
      env: {
        PATH: process.env.PATH,
        HOME: work,
        DATABASE_URL: options.databaseUrl,
        DATA_DIR: join(work, name),
        PORT: String(port),
        BOOTSTRAP_API_KEY: options.bootstrapKey,
        WEBHOOK_ALLOW: "127.0.0.1",
        AUDIT_CHECKPOINT_SECONDS: "1",
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    child = started;
    children.add(started);
    for (const stream of [started.stdout, started.stderr]) {
      let rest = "";
      stream.setEncoding("utf8").on("data", (text: string) => {
        appendFileSync(join(work, `${name}.log`), text);
        const lines = (rest + text).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) read(line);
      });
    }
    exited = once(started, "exit").then(async ([code, signal]) => {
      children.delete(started);
      if (!isWanted) return;
      const now = performance.now();
      if (service.isUp()) service.down.push({ from: now, to: Number.POSITIVE_INFINITY });
      if (!asked) service.ended.push(`${name} ended by itself: ${signal ?? code}`);
      asked = false;
      await sleep(200);
      run();
    });
    void listening(started);
  }

  /** It starts only where it reaches the database: until then calls are refused. */
  async function listening(started: ChildProcess): Promise<void> {
    while (started.exitCode === null && started.signalCode === null) {
      try {
        await health.check({});
        const last = service.down.at(-1);
        if (last !== undefined) last.to = Math.min(last.to, performance.now() + 100);
        return;
      } catch {
        await sleep(50);
      }
    }
  }

  function read(line: string): void {
    service.lines += 1;
    if (options.secrets.some((secret) => line.includes(secret))) service.leaks.push(line);
    if (/"level":(50|60)\b|"level":"(error|fatal)"/.test(line)) service.errors.push(line);
    if (!line.startsWith("{") && line.trim() !== "") service.errors.push(line);
  }

  async function end(signal: NodeJS.Signals): Promise<number> {
    const ending = child;
    const began = performance.now();
    if (ending === undefined || ending.exitCode !== null || ending.signalCode !== null) return 0;
    asked = true;
    service.down.push({ from: began, to: Number.POSITIVE_INFINITY, signal });
    const gone = once(ending, "exit");
    ending.kill(signal);
    const timer = setTimeout(() => {
      service.ended.push(`${name} does not end after ${signal}`);
      ending.kill("SIGKILL");
    }, 30_000);
    await gone;
    clearTimeout(timer);
    return performance.now() - began;
  }

  const sampling = setInterval(async () => {
    const at = performance.now();
    const isServing = await health.check({}).then(
      ({ status }) => status === HealthCheckResponse_ServingStatus.SERVING,
      () => false,
    );
    service.health.push({ at, isServing });
  }, 250);
  sampling.unref();

  service.down.push({ from: performance.now(), to: Number.POSITIVE_INFINITY });
  run();
  const limit = performance.now() + 60_000;
  while (!service.isUp()) {
    if (performance.now() > limit) throw new Error(`${name} did not start: see ${join(work, `${name}.log`)}`);
    await sleep(50);
  }
  service.ended.length = 0;
  return Object.assign(service, {
    async stop() {
      clearInterval(sampling);
      isWanted = false;
      await end("SIGTERM");
      await exited;
    },
  });
}

interface LoggedError {
  name: string;
  code?: string;
  frames: string[];
  cause?: LoggedError;
}

function causesOf({ name, code, frames, cause }: LoggedError): string[] {
  const frame = frames.find((one) => !one.includes("node_modules")) ?? frames[0] ?? "";
  const here = `${[name, code].filter(Boolean).join(" ")} ${frame.replace(/file:\/\/.*?\/(?=src\/)/, "")}`;
  return [here, ...(cause === undefined ? [] : causesOf(cause))];
}
