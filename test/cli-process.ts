// The command line and the service as processes of their own.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../src/main.ts", import.meta.url));

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface CliOptions {
  env?: Record<string, string | undefined>;
  cwd?: string;
  /** Standard input; without it there is none. */
  stdin?: string;
}

/** Starts `entity-service ...args`; nothing of the test's own environment reaches it but PATH and HOME. */
export function startCli(
  args: string[],
  { env = {}, cwd, stdin }: CliOptions = {},
): ChildProcess & { ended: Promise<Ended> } {
  const { PATH, HOME } = process.env;
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { PATH, HOME, ...env },
    ...(cwd === undefined ? {} : { cwd }),
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

export interface ServiceProcess extends AsyncDisposable {
  pid: number;
  port: number;
  baseUrl: string;
  apiKey: string;
  /** SIGKILL, and gone. */
  kill(): Promise<void>;
}

/** `serve` with a PostgreSQL of its own in the folder. */
export async function startServiceProcess(dataDir: string, env: Record<string, string> = {}): Promise<ServiceProcess> {
  const child = startCli(["serve"], { env: { DATA_DIR: dataDir, PORT: "0", ...env } });
  const serving = Promise.withResolvers<number>();
  let log = "";
  const read = (text: string) => {
    log += text;
    const line = log.split("\n").find((text) => text.includes('"msg":"serving"') && text.endsWith("}"));
    if (line === undefined) return;
    child.stdout?.off("data", read);
    serving.resolve((JSON.parse(line) as { port: number }).port);
  };
  child.stdout?.on("data", read);
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
    apiKey: (await readFile(join(dataDir, "bootstrap-key"), "utf8")).trim(),
    kill: () => end("SIGKILL"),
    [Symbol.asyncDispose]: () => end("SIGTERM"),
  };
}
