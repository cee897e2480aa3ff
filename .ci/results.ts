// What a run of vitest came to, as a file for .ci/count.ts: what failed, and what failed at first and why, which vitest's
// own reports leave out, like errors that belong to no test.
import { writeFileSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import type { SerializedError, TestModule } from "vitest/node";

export interface Results {
  files: FileResults[];
  /** Errors of no file, with their stacks. */
  outside: string[];
}

/** Tests by their names. */
export interface FileResults {
  file: string;
  passed: number;
  failed: string[];
  leftOut: string[];
  /** Those that passed at a further attempt, and what the first one said. */
  retried: string[];
  /** Errors of no test, with their stacks. */
  outside: string[];
}

type Failure = Pick<SerializedError, "message"> & { stack?: string | undefined };

export default class {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const path = process.env.TEST_RESULTS;
    if (path === undefined) return;
    const thrownIn = Map.groupBy(unhandled, (error) => error.VITEST_TEST_PATH as string | undefined);
    const files = modules.map((module) => {
      const thrown = thrownIn.get(module.moduleId) ?? [];
      thrownIn.delete(module.moduleId);
      return resultsOf(module, thrown);
    });
    const results: Results = { files, outside: [...thrownIn.values()].flat().map(textOf) };
    writeFileSync(path, JSON.stringify(results));
  }
}

function resultsOf(module: TestModule, thrown: SerializedError[]): FileResults {
  const suites = [module, ...module.children.allSuites()];
  const outside = [...suites.flatMap((suite) => suite.errors()), ...thrown].map(textOf);
  const results: FileResults = {
    file: module.relativeModuleId,
    passed: 0,
    failed: [],
    leftOut: [],
    retried: [],
    outside,
  };
  for (const test of module.children.allTests()) {
    const name = `${module.relativeModuleId} > ${test.fullName}`;
    const { state } = test.result();
    if (state === "failed") results.failed.push(name);
    else if (state !== "passed") results.leftOut.push(name);
    else {
      results.passed++;
      const [first] = test.attempts().flatMap((attempt) => attempt.errors ?? []);
      if (first !== undefined) results.retried.push(`${name}: ${lineOf(first)}`);
    }
  }
  return results;
}

const textOf = ({ message, stack }: Failure) => stack ?? message;

/** What the error says, and where in the tests. */
function lineOf({ message, stack }: Failure): string {
  const text = stripVTControlCharacters(message).replace(/\s+/g, " ");
  return `${text.slice(0, 300)} (${stack?.match(/test\/[^\s:]+:\d+/)?.[0] ?? ""})`;
}
