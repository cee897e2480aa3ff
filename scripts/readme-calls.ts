// The calls of the README, and its commands about external ids and merges, made for real. Without --write: fails where an
// answer is not that of the README, ids, etags and times aside. With --write: puts the answers into the README. Needs a new
// service with examples/entities.ndjson imported, at ENTITY_SERVICE_URL with ENTITY_SERVICE_API_KEY.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const file = new URL("../README.md", import.meta.url);
const root = fileURLToPath(new URL("..", import.meta.url));
const url = process.env.ENTITY_SERVICE_URL ?? "http://127.0.0.1:50051";
const BLOCK =
  /```console\n(\$ (?:call|curl|npm run --silent cli -- (?:external-ids|entities)) (?:[^\n]*\\\n)*[^\n]*\n)([\s\S]*?)```/g;
// README's own definition of `call`, at this service.
const define = /^\$ (call\(\) \{.*\})$/m.exec(readFileSync(file, "utf8"))?.[1];
if (define === undefined) throw new Error("the README does not define call()");

function answerTo(command: string): string {
  const script = `${define}\n${command.slice(2)}`.replaceAll("http://127.0.0.1:50051", url);
  const { stdout, stderr } = spawnSync("bash", ["-c", script], {
    cwd: root,
    encoding: "utf8",
    timeout: 60_000,
    env: { ...process.env, npm_config_loglevel: "silent" },
  });
  return `${(stdout + stderr).trimEnd()}\n`;
}

/** Encoded details hold ids too. */
const masked = (text: string) =>
  text
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "ID")
    .replaceAll(/"(salt|previousHash|hash)": "[\w+/=]+"/g, '"$1": "BYTES"')
    .replaceAll(/\s+/g, " ")
    .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, "TIME");

let failed = 0;
let made = 0;
const filled = readFileSync(file, "utf8").replaceAll(BLOCK, (_, command: string, expected: string) => {
  const answer = answerTo(command);
  made += 1;
  if (!process.argv.includes("--write") && masked(answer) !== masked(expected)) {
    failed += 1;
    process.stdout.write(`${command}README says:\n${expected}the service says:\n${answer}\n`);
  }
  return `\`\`\`console\n${command}${answer}\`\`\``;
});
if (process.argv.includes("--write")) writeFileSync(file, filled);
process.stdout.write(`${made - failed} of ${made} calls of the README are answered as it says\n`);
process.exitCode = failed === 0 && made >= 6 ? 0 : 1;
