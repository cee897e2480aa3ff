// The Go client against the real service: formatted, vetted, and its tests. The last line counts them.
//
//   npm run test:go                    all of it; needs Go
//   npm run test:go -- -run Watch      arguments of `go test`
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { startStage } from "./stage.ts";

const FOLDER = fileURLToPath(new URL("../../clients/go", import.meta.url));

interface TestEvent {
  Action: "run" | "output" | "pass" | "fail" | "skip" | "build-output" | "build-fail";
  Package?: string;
  Test?: string;
  Output?: string;
}

const say = (line: string) => void process.stdout.write(`${line}\n`);
let passed = 0;
let failed = 0;

function judge(name: string, problem: string | undefined): void {
  if (problem === undefined) passed++;
  else failed++;
  say(problem === undefined ? `  ok      ${name}` : `  FAILED  ${name}: ${problem}`);
}

async function run(file: string, args: string[], env = {}, each = (_line: string) => {}) {
  const child = spawn(file, args, { cwd: FOLDER, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  process.once("exit", () => child.kill("SIGKILL"));
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (line) => {
      said += `${line}\n`;
      each(line);
    });
  }
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0 && said === "") throw new Error(`${file} ${args.join(" ")} ended with ${code}`);
  return { code, said };
}

/** Runs `go test`; a test that is skipped has not been run, which is a failure here. */
async function test(args: readonly string[], env: Record<string, string>): Promise<void> {
  const outputs = new Map<string, string>();
  await run("go", ["test", "-json", "-count=1", ...args, "./..."], env, (line) => {
    if (!line.startsWith("{")) return say(line);
    const { Action, Package = "", Test, Output = "" } = JSON.parse(line) as TestEvent;
    const name = Test ?? Package;
    if (Action.endsWith("output")) outputs.set(name, `${outputs.get(name) ?? ""}${Output}`);
    // That of a package is the sum of its tests, unless it was not built.
    const isJudged = Test !== undefined || Action === "build-fail" || (Action === "fail" && !hasTests.has(Package));
    if (Test !== undefined) hasTests.add(Package);
    if (!isJudged || !["pass", "fail", "skip", "build-fail"].includes(Action)) return;
    judge(name, Action === "pass" ? undefined : `${Action}\n${outputs.get(name) ?? ""}`);
  });
}
const hasTests = new Set<string>();

try {
  const formatted = await run("gofmt", ["-l", "."]);
  judge("gofmt", formatted.said === "" ? undefined : formatted.said);
  const vetted = await run("go", ["vet", "./..."]);
  // It says too what it downloads.
  judge("go vet", vetted.code === 0 ? undefined : vetted.said);
  const stage = await startStage();
  await test(process.argv.slice(2), stage.env);
  const problems = stage.problems();
  judge("the service", problems.length === 0 ? undefined : problems.join("; "));
  await stage.end();
} catch (error) {
  judge("the run", error instanceof Error ? (error.stack ?? error.message) : String(error));
}
say(`go: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
