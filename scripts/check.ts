// One command that says whether the tree may land. Stops at the first part that fails, and names it.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const PARTS: { name: string; cure?: string; commands: string[] }[] = [
  {
    name: "format",
    cure: "npm run format",
    commands: ["biome check --linter-enabled=false --error-on-warnings --max-diagnostics=20 ."],
  },
  {
    name: "lint",
    commands: [
      "biome lint --error-on-warnings --diagnostic-level=warn --max-diagnostics=50 .",
      "oxlint --deny-warnings .",
    ],
  },
  { name: "types", commands: ["tsc", "tsc -p clients/console", "tsc -p docs/.vitepress"] },
  {
    name: "contract",
    commands: [
      "node scripts/third-party-protos.ts",
      "buf lint",
      "buf format proto --diff --exit-code",
      "node scripts/check-contract.ts",
    ],
  },
  {
    name: "generated code",
    cure: "npm run generate",
    commands: ["node scripts/check-generated.ts", "node scripts/reference.ts --check"],
  },
  { name: "import directions", commands: ["node scripts/check-imports.ts"] },
  { name: "lock file", cure: "npm run lock", commands: ["node scripts/lock-file.ts"] },
  { name: "habits", commands: ["node scripts/check-habits.ts"] },
  { name: "rules", commands: ["node scripts/check-rules.ts"] },
];

const root = fileURLToPath(new URL("..", import.meta.url));
const env = { ...process.env, PATH: `${root}node_modules/.bin:${process.env.PATH}` };

for (const { name, cure, commands } of PARTS) {
  const began = performance.now();
  let said = "";
  for (const command of commands) {
    const [file = "", ...args] = command.split(" ");
    const ran = spawnSync(file, args, { cwd: root, env, encoding: "utf8", maxBuffer: 1e9, timeout: 120_000 });
    if (ran.status !== 0) {
      const why = ran.error?.message ?? (ran.status === null ? `ended by ${ran.signal}` : `exit code ${ran.status}`);
      process.stdout.write(`\n${ran.stdout}${ran.stderr}\n`);
      process.stdout.write(
        `check FAILED in ${name}: ${command} (${why})${cure === undefined ? "" : `; try ${cure}`}\n`,
      );
      process.exit(1);
    }
    said = command.startsWith("node ") ? ran.stdout.trim() : said;
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  process.stdout.write(`${name.padEnd(18)} ok ${seconds.padStart(5)} s${said === "" ? "" : `  ${said}`}\n`);
}
process.stdout.write("check passed\n");
