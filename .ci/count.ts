// Reads what .ci/results.ts wrote: node .ci/count.ts <results> <vitest's exit code> <file>. Writes what failed to the file, and
// tells on standard error which tests were left out or passed at a further attempt. Prints "<passed> <failed>", and where
// nothing failed but files outside their tests, how many of these files' tests passed, and the files: vitest does not try
// them again.
import { readFileSync, writeFileSync } from "node:fs";
import type { FileResults, Results } from "./results.ts";

const [path = "", exitCode, namesFile = "/dev/stderr"] = process.argv.slice(2);
writeFileSync(namesFile, "");
const { files, outside }: Results = JSON.parse(readFileSync(path, "utf8"));
const all = (what: "failed" | "leftOut" | "retried" | "outside") => files.flatMap((file) => file[what]);
const passedOf = (some: FileResults[]) => some.reduce((sum, { passed }) => sum + passed, 0);
const failed = all("failed");
const broken = files.filter((file) => file.outside.length > 0 && file.failed.length === 0);
const passed = passedOf(files);

// A run that fails outside its files counts as one.
let count = failed.length + broken.length;
if (count === 0 && (exitCode !== "0" || passed === 0)) count = 1;
const names = [...failed, ...broken.map(({ file }) => file), ...all("outside"), ...outside];
writeFileSync(namesFile, names.map((name) => `${name}\n`).join(""));

for (const [what, tests] of [
  ["left out", all("leftOut")],
  ["tried again", all("retried")],
] as const) {
  if (tests.length === 0) continue;
  process.stderr.write(`${tests.length} tests were ${what}:\n${tests.map((name) => `  ${name}\n`).join("")}`);
}
const again = failed.length === 0 && outside.length === 0 ? broken : [];
const second = again.length === 0 ? "" : ` ${passedOf(again)} ${again.map(({ file }) => file).join(" ")}`;
process.stdout.write(`${passed} ${count}${second}\n`);
