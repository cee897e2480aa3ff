// Runs the Connect conformance suite against our transport, with its path for unary calls and without, and against
// stock connect-node. A case that stock passes must pass with ours. Needs Go on the PATH: the suite and its protos
// are a Go module. Prints which cases fail with which server; the last line counts the cases of our two runs.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const MODULE = "connectrpc.com/conformance";
const VERSION = "v1.0.6";
/** A case that fails with ours and not with stock is run again alone this often: some fail by chance, with both. */
const TRIES = 3;
/** More failures than this are not chance. */
const MAX_RETRIED = 20;
/** The suite itself, or the download of its module, may break: so often each is begun. */
const ATTEMPTS = 3;

interface Run {
  name: string;
  passed: number;
  /** Why, by the name of the case. */
  failed: Map<string, string>;
  /** Cases without an outcome: the suite gave up before them. */
  notRun: number;
}

interface Server {
  name: string;
  /** The first argument of server.ts. */
  server: string;
  env?: NodeJS.ProcessEnv;
}

/** All cases, or those that are named. */
type Suite = (server: Server, cases?: string[]) => Promise<Run>;

const root = fileURLToPath(new URL("../..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "conformance-"));
const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill();
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
    { name: "our transport", server: "ours", env: { UNARY_PATH: "on" } },
    { name: "our transport, UNARY_PATH=off", server: "ours", env: { UNARY_PATH: "off" } },
  ];
  const theirs = { name: `stock connect-node ${connectNodeVersion()}`, server: "stock" };
  // Stock mostly waits for calls that hang, so it runs beside the other two.
  const stockRun = report(suite(theirs));
  // It is awaited when ours have been reported: failing before that must not end the process.
  stockRun.catch(() => undefined);
  const ourRuns = [await report(suite(ours[0] as Server)), await report(suite(ours[1] as Server))];
  const stock = await stockRun;
  list(theirs.name, stock.failed);

  let passed = 0;
  let failed = 0;
  for (const [index, run] of ourRuns.entries()) {
    const { passedAgain, worse } = await compare(run, stock, suite, ours[index] as Server, theirs);
    list(run.name, new Map([...run.failed].filter(([name]) => !passedAgain.includes(name))));
    for (const name of worse) process.stdout.write(`  stock connect-node passes ${name}\n`);
    passed += run.passed + passedAgain.length;
    failed += worse.length + run.notRun;
  }
  process.stdout.write(`conformance: ${passed} passed, ${failed} failed\n`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

/**
 * Repeats alone the cases that fail with ours and not with stock; returns those that then pass, and those that fail each
 * time while stock passes them each time.
 */
async function compare(run: Run, stock: Run, suite: Suite, ours: Server, theirs: Server) {
  const passedAgain: string[] = [];
  const worse: string[] = [];
  const alone = [...run.failed].filter(([name]) => !stock.failed.has(name));
  if (alone.length > MAX_RETRIED) return { passedAgain, worse: alone.map(([name]) => name) };
  for (const [name, why] of alone) {
    const outcomes = async (server: Server) => {
      const said: boolean[] = [];
      while (said.length < TRIES) {
        const { passed, failed } = await suite(server, [name]);
        said.push(passed === 1 && failed.size === 0);
      }
      process.stdout.write(`    alone, ${server.name}: ${said.map((ok) => (ok ? "passed" : "FAILED")).join(", ")}\n`);
      return said;
    };
    process.stdout.write(`run again: ${name}\n    it was: ${oneLine(why)}\n`);
    if ((await outcomes(ours)).includes(true)) passedAgain.push(name);
    else if (!(await outcomes(theirs)).includes(false)) worse.push(name);
  }
  return { passedAgain, worse };
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
  return (under, cases = []) =>
    attempted(() =>
      run(under, binary, [
        ...["--mode", "server", "--conf", config, "--parallel", "2", "--max-servers", "2"],
        ...cases.flatMap((name) => ["--run", name]),
        ...["--", process.execPath, server, under.server, descriptors],
      ]),
    );
}

async function run({ name, env }: Server, file: string, args: string[]): Promise<Run> {
  const child = spawn(file, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  await new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
  running.delete(child);
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

function list(name: string, failed: Map<string, string>): void {
  process.stdout.write(`failing with ${name}: ${failed.size === 0 ? "none" : failed.size}\n`);
  for (const [name, why] of [...failed].sort()) process.stdout.write(`  ${name}\n    ${oneLine(why)}\n`);
}

function oneLine(text: string): string {
  return text.replaceAll(/\s+/g, " ").slice(0, 200);
}

function connectNodeVersion(): string {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return dependencies["@connectrpc/connect-node"];
}

/** Says why an attempt failed, and begins again. */
async function attempted<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === ATTEMPTS) throw error;
      process.stdout.write(`attempt ${attempt} failed: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
}

async function go(...args: string[]): Promise<string> {
  try {
    return await attempted(() => command("go", args, { GOBIN: scratch }));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new Error(`the conformance suite is a Go module (${MODULE}): Go must be on the PATH`);
  }
}

async function command(file: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const options = { cwd: scratch, env: { ...process.env, ...env }, timeout: 300_000, maxBuffer: 1e8 };
  return (await promisify(execFile)(file, args, options)).stdout;
}
