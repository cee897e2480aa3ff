// What a run of vitest came to, as a file for .ci/run: what failed, and what failed at first and why, which vitest's own
// reports leave out, like errors that belong to no test.
import { writeFileSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import type { SerializedError, TestModule } from "vitest/node";

/** `retried` passed at a further attempt. All texts are of one line, but for `outside`: errors with their stacks. */
export interface Results {
  passed: number;
  failed: string[];
  leftOut: string[];
  retried: string[];
  outside: string[];
}

export default class {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const results: Results = { passed: 0, failed: [], leftOut: [], retried: [], outside: unhandled.map(textOf) };
    for (const module of modules) {
      let hasFailed = false;
      for (const test of module.children.allTests()) {
        const name = `${module.relativeModuleId} > ${test.fullName}`;
        const { state } = test.result();
        if (state === "passed") results.passed++;
        else if (state === "failed") results.failed.push(name);
        else results.leftOut.push(name);
        hasFailed ||= state === "failed";
        const errors = test.attempts().flatMap((attempt) => attempt.errors ?? []);
        if (state === "passed" && errors.length > 0) results.retried.push(`${name}: ${lineOf(errors[0])}`);
      }
      // What failed outside its tests.
      if (module.state() === "failed" && !hasFailed) {
        results.failed.push(module.relativeModuleId);
        const suites = [module, ...module.children.allSuites()];
        results.outside.push(...suites.flatMap((suite) => suite.errors().map(textOf)));
      }
    }
    const path = process.env.TEST_RESULTS;
    if (path !== undefined) writeFileSync(path, JSON.stringify(results));
  }
}

const textOf = ({ message, stack }: { message: string; stack?: string | undefined }) => stack ?? message;

/** What the error says, and where in the tests. */
function lineOf(error: { message: string; stack?: string | undefined } | undefined): string {
  const where = error?.stack?.match(/test\/[^\s:]+:\d+/)?.[0] ?? "";
  const text = stripVTControlCharacters(error?.message ?? "").replace(/\s+/g, " ");
  return `${text.slice(0, 300)} (${where})`;
}
