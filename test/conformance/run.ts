// Runs the Connect conformance suite against our transport, with its path for unary calls and without, and against
// stock connect-node. A case that stock passes must pass with ours. Needs Go on the PATH: the suite and its protos
// are a Go module. Prints what fails with whom; the last line counts the cases of our two runs.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const MODULE = "connectrpc.com/conformance";
const VERSION = "v1.0.6";
/** How often a case that fails with ours alone is tried again, by itself; a timeout may be late on a busy machine. */
const TRIES = 3;
/** More failures than this are no accident. */
const MAX_RETRIED = 20;

interface Run {
  name: string;
  passed: number;
  /** Why, by the name of the case. */
  failed: Map<string, string>;
  /** Cases without an outcome: the suite gave up before. */
  notRun: number;
}

type Suite = (name: string, server: string, env?: NodeJS.ProcessEnv, cases?: string[]) => Promise<Run>;

const root = fileURLToPath(new URL("../..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "conformance-"));
let running: ChildProcess | undefined;
process.on("exit", () => {
  running?.kill();
  rmSync(scratch, { recursive: true, force: true });
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

try {
  process.exitCode = await conformance();
} catch (error) {
  process.stdout.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.stdout.write("conformance: 0 passed, 1 failed\n");
  process.exitCode = 1;
}

async function conformance(): Promise<number> {
  const suite = await install();
  const ours = [
    await report(suite("our transport", "ours", { UNARY_PATH: "on" })),
    await report(suite("our transport, UNARY_PATH=off", "ours", { UNARY_PATH: "off" })),
  ];
  const stock = await report(suite(`stock connect-node ${connectNodeVersion()}`, "stock"));
  list(stock.name, stock.failed);

  let passed = 0;
  let failed = 0;
  for (const run of ours) {
    const alone = new Map([...run.failed].filter(([name]) => !stock.failed.has(name)));
    const again = await retry(alone, (name) =>
      suite(run.name, "ours", { UNARY_PATH: run === ours[0] ? "on" : "off" }, [name]),
    );
    for (const name of again) run.failed.delete(name);
    list(run.name, run.failed);
    const worse = alone.size - again.length + run.notRun;
    if (worse > 0) process.stdout.write(`  of these ${worse} do not fail with stock connect-node\n`);
    passed += run.passed + again.length;
    failed += worse;
  }
  process.stdout.write(`conformance: ${passed} passed, ${failed} failed\n`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

/** The suite of the wanted version, from the PATH or built here, and the descriptors of its protos. */
async function install(): Promise<Suite> {
  const { Dir } = JSON.parse(await go("mod", "download", "-json", `${MODULE}@${VERSION}`));
  const descriptors = join(scratch, "descriptors.binpb");
  await command(join(root, "node_modules/.bin/buf"), ["build", join(Dir, "proto"), "-o", descriptors]);
  let binary = "connectconformance";
  const installed = await command(binary, ["--version"]).catch(() => "");
  if (installed.trim() !== `connectconformance ${VERSION}`) {
    await go("install", `${MODULE}/cmd/connectconformance@${VERSION}`);
    binary = join(scratch, binary);
  }
  const config = fileURLToPath(new URL("config.yaml", import.meta.url));
  const server = fileURLToPath(new URL("server.ts", import.meta.url));
  return (name, kind, env, cases = []) =>
    run(name, env, binary, [
      ...["--mode", "server", "--conf", config, "--parallel", "2", "--max-servers", "2"],
      ...cases.flatMap((name) => ["--run", name]),
      ...["--", process.execPath, server, kind, descriptors],
    ]);
}

async function run(name: string, env: NodeJS.ProcessEnv | undefined, file: string, args: string[]): Promise<Run> {
  const child = spawn(file, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  running = child;
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  await new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
  const [, passed] = /^(\d+) passed, \d+ failed$/m.exec(output) ?? [];
  if (passed === undefined) throw new Error(`${name}: the suite did not come to its end\n${output.slice(-4_000)}`);
  const failed = new Map<string, string>();
  for (const [, name = "", why = ""] of output.matchAll(/^FAILED: (.+?):\n((?:[\t ].*\n|;.*\n)*)/gm)) {
    failed.set(name, why.trim());
  }
  const [, notRun = "0"] = /^Another (\d+) could not be run/m.exec(output) ?? [];
  return { name, passed: Number(passed), failed, notRun: Number(notRun) };
}

async function report(running: Promise<Run>): Promise<Run> {
  const began = performance.now();
  const run = await running;
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  const notRun = run.notRun === 0 ? "" : `, ${run.notRun} not run`;
  process.stdout.write(`${run.name}: ${run.passed} passed, ${run.failed.size} failed${notRun}, ${seconds} s\n`);
  return run;
}

/** Those of the cases that pass when they are run alone. */
async function retry(cases: Map<string, string>, runAlone: (name: string) => Promise<Run>): Promise<string[]> {
  if (cases.size > MAX_RETRIED) return [];
  const passed: string[] = [];
  for (const [name, why] of cases) {
    for (let tries = 1; tries <= TRIES; tries++) {
      const run = await runAlone(name);
      const ok = run.passed === 1 && run.failed.size === 0;
      process.stdout.write(`  run again, ${tries} of ${TRIES}: ${ok ? "passed" : "FAILED"}: ${name}: it was ${why}\n`);
      if (ok) passed.push(name);
      if (ok) break;
    }
  }
  return passed;
}

function list(name: string, failed: Map<string, string>): void {
  process.stdout.write(`failing with ${name}: ${failed.size === 0 ? "none" : failed.size}\n`);
  for (const [name, why] of [...failed].sort()) process.stdout.write(`  ${name}\n    ${why.replaceAll(/\s+/g, " ")}\n`);
}

function connectNodeVersion(): string {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return dependencies["@connectrpc/connect-node"];
}

async function go(...args: string[]): Promise<string> {
  try {
    return await command("go", args, { GOBIN: scratch });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new Error(`the conformance suite is a Go module (${MODULE}): Go must be on the PATH`);
  }
}

async function command(file: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const options = { cwd: scratch, env: { ...process.env, ...env }, timeout: 300_000, maxBuffer: 1e8 };
  return (await promisify(execFile)(file, args, options)).stdout;
}
