// The Python client against the real service: its types and its style, and then its tests, in a virtual environment.
// The last line counts them.
//
//   npm run test:python                    all of it; needs python3 with venv
//   npm run test:python -- -k watch        arguments of pytest, which then runs alone
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { pythonWith } from "../../scripts/generate-python.ts";
import { startStage } from "./stage.ts";

const CLIENT = fileURLToPath(new URL("../../clients/python/", import.meta.url));
const STYLE = [
  ["ruff", "check", "--no-cache", "--quiet"],
  ["ruff", "format", "--no-cache", "--check", "--quiet"],
  ["mypy", "--cache-dir", "/dev/null", "src", "tests", "examples"],
];

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
const given = process.argv.slice(2);
let passed = 0;
let failed = 0;
try {
  const python = pythonWith("test", ["--editable", CLIENT]);
  if (given.length === 0) for (const command of STYLE) style(python, command);
  const stage = await startStage();
  await test(python, stage.env);
  judge("the service", stage.problems().join("; "));
  await stage.end();
} catch (error) {
  judge("the run", error instanceof Error ? (error.stack ?? error.message) : String(error));
}
process.stdout.write(`python: ${passed} passed, ${failed} failed\n`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);

function judge(name: string, problem: string): void {
  if (problem === "") passed++;
  else failed++;
  process.stdout.write(problem === "" ? `  ok      ${name}\n` : `  FAILED  ${name}: ${problem}\n`);
}

/** Whether a tool has nothing to say of the client. */
function style(python: string, command: readonly string[]): void {
  const { status, stdout, stderr } = spawnSync(python, ["-m", ...command], { cwd: CLIENT, encoding: "utf8" });
  judge(command.slice(0, 2).join(" "), status === 0 ? "" : `${stdout}${stderr}`);
}

/** Runs the tests, and counts them. */
async function test(python: string, env: Record<string, string>): Promise<void> {
  const child = spawn(python, ["-m", "pytest", "-p", "no:cacheprovider", "--durations=5", ...given], {
    cwd: CLIENT,
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1", ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  process.once("exit", () => child.kill("SIGKILL"));
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
    process.stdout.write(text);
  });
  const [code] = (await once(child, "close")) as [number | null];
  const summary = output.trimEnd().split("\n").at(-1) ?? "";
  const count = (what: string) => Number(new RegExp(`(\\d+) ${what}`).exec(summary)?.[1] ?? 0);
  // One that is skipped has not been run, which is a failure here.
  const notPassed = count("failed") + count("error") + count("skipped");
  passed += count("passed");
  failed += code === 0 ? notPassed : Math.max(1, notPassed);
}
