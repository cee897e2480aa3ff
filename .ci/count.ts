// Reads what .ci/results.ts wrote: node .ci/count.ts <results> <vitest's exit code> <file>. Prints "<passed> <failed>", and on
// standard error the tests that were left out or passed at a further attempt; writes what failed to the file.
import { readFileSync, writeFileSync } from "node:fs";
import type { Results } from "./results.ts";

const [path = "", exitCode, namesFile = "/dev/stderr"] = process.argv.slice(2);
writeFileSync(namesFile, "");
const { passed, failed, leftOut, retried, outside }: Results = JSON.parse(readFileSync(path, "utf8"));
// A run that fails outside its files counts as one.
let count = failed.length;
if (exitCode !== "0" && count === 0) count = 1;
if (exitCode === "0" && passed === 0) count = 1;
writeFileSync(namesFile, [...failed, ...outside].map((text) => `${text}\n`).join(""));

for (const [what, names] of [
  ["left out", leftOut],
  ["tried again", retried],
] as const) {
  if (names.length === 0) continue;
  process.stderr.write(`${names.length} tests were ${what}:\n${names.map((name) => `  ${name}\n`).join("")}`);
}
process.stdout.write(`${passed} ${count}\n`);
