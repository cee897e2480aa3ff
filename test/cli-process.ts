// The command line and the service, each as a separate process.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort } from "../scripts/service-process.ts";

const MAIN = fileURLToPath(new URL("../src/main.ts", import.meta.url));

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface CliOptions {
  env?: Record<string, string | undefined>;
  cwd?: string;
  /** Standard input; empty by default. */
  stdin?: string | Uint8Array;
  /** Starts a process group, as a terminal does. */
  detached?: boolean;
}

/** Starts `entity-service ...args` with PATH and HOME of the test's environment and nothing else of it. */
export function startCli(
  args: string[],
  { env = {}, cwd, stdin, detached = false }: CliOptions = {},
): ChildProcess & { ended: Promise<Ended> } {
  const { PATH, HOME } = process.env;
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { PATH, HOME, ...env },
    ...(cwd === undefined ? {} : { cwd }),
    detached,
    stdio: [stdin === undefined ? "ignore" : "pipe", "pipe", "pipe"],
  });
  child.stdin?.end(stdin);
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (text: string) => {
      output[name] += text;
    });
  }
  const ended = once(child, "close").then(([code]) => ({ code: code as number | null, ...output }));
  return Object.assign(child, { ended });
}

/** Runs a command to its end. */
export const cli = (args: string[], options?: CliOptions): Promise<Ended> => startCli(args, options).ended;

/** Lends a folder. */
export async function temporaryFolder(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), "entity-service-cli-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** What a log line may have. */
export interface LogLine {
  msg: string;
  level: string;
  worker?: number;
  [field: string]: unknown;
}

export interface ServiceProcess extends AsyncDisposable {
  pid: number;
  port: number;
  baseUrl: string;
  apiKey: string;
  /** Sends SIGKILL and waits for the end. */
  kill(): Promise<void>;
  /** What it has logged so far. */
  lines(): LogLine[];
  /** Resolves when it and every process that shares its output have ended. */
  ended: Promise<Ended>;
}

/** `serve` with an embedded PostgreSQL in the folder, unless DATABASE_URL is given. */
export async function startServiceProcess(
  dataDir: string,
  env: Record<string, string> = {},
  options: Pick<CliOptions, "detached"> = {},
): Promise<ServiceProcess> {
  // Workers listen some time after their primary has chosen a port: one that nobody is given meanwhile.
  const PORT = env.WORKERS === undefined ? "0" : String(await freePort());
  const child = startCli(["serve"], { env: { DATA_DIR: dataDir, PORT, ...env }, ...options });
  const serving = Promise.withResolvers<number>();
  let log = "";
  const lines = () =>
    log
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line) as LogLine);
  let isServing = false;
  child.stdout?.on("data", (text: string) => {
    log += text;
    if (isServing || !text.includes("\n")) return;
    const line = lines().find(({ msg }) => msg === "serving");
    isServing = line !== undefined;
    if (line !== undefined) serving.resolve(line.port as number);
  });
  void child.ended.then(({ code, stderr }) =>
    serving.reject(new Error(`the service ended with ${code}: ${stderr || log}`)),
  );
  const port = await serving.promise;
  const end = async (signal: "SIGTERM" | "SIGKILL") => {
    child.kill(signal);
    await child.ended;
  };
  return {
    pid: child.pid as number,
    port,
    baseUrl: `http://127.0.0.1:${port}`,
    apiKey: env.BOOTSTRAP_API_KEY ?? (await readFile(join(dataDir, "bootstrap-key"), "utf8")).trim(),
    kill: () => end("SIGKILL"),
    lines,
    ended: child.ended,
    [Symbol.asyncDispose]: () => end("SIGTERM"),
  };
}

/** The child processes of a process: workers, and the embedded server. */
export function childrenOf(pid: number): number[] {
  const table = execFileSync("ps", ["-A", "-o", "ppid=,pid="], { encoding: "utf8" });
  return table
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([parent]) => parent === pid)
    .map(([, child]) => child as number);
}
