// Reads a report of vitest: node .ci/count.ts <report> <vitest's exit code> <file>. Prints "<passed> <failed>", and on
// standard error the tests that were left out; writes those that failed to the file.
import { readFileSync, writeFileSync } from "node:fs";

interface Report {
  numPassedTests: number;
  numFailedTests: number;
  testResults: { name: string; status: string; assertionResults: { fullName: string; status: string }[] }[];
}

const [path = "", exitCode, namesFile = "/dev/stderr"] = process.argv.slice(2);
writeFileSync(namesFile, "");
const report: Report = JSON.parse(readFileSync(path, "utf8"));
const files = report.testResults;
// A file that fails outside its tests, and a run that fails outside its files, count as one.
const brokenFiles = files.filter(
  ({ status, assertionResults }) => status === "failed" && !assertionResults.some((test) => test.status === "failed"),
);
let failed = report.numFailedTests + brokenFiles.length;
if (exitCode !== "0" && failed === 0) failed = 1;
if (exitCode === "0" && report.numPassedTests === 0) failed = 1;

const failures = files.flatMap(({ assertionResults }) => assertionResults.filter(({ status }) => status === "failed"));
writeFileSync(
  namesFile,
  [...brokenFiles.map(({ name }) => name), ...failures.map(({ fullName }) => fullName)]
    .map((name) => `${name}\n`)
    .join(""),
);

const leftOut = files.flatMap((file) => file.assertionResults.filter((test) => !/passed|failed/.test(test.status)));
if (leftOut.length > 0) process.stderr.write(`${leftOut.length} tests were left out:\n`);
for (const test of leftOut) process.stderr.write(`  ${test.fullName}\n`);
process.stdout.write(`${report.numPassedTests} ${failed}\n`);
