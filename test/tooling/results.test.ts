// What .ci/run counts and prints of a run of vitest: a run of a few files of its own, with the project's setup and report.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { FileResults, Results } from "../../.ci/results.ts";

const project = fileURLToPath(new URL("../..", import.meta.url));
const HEAD = `import { setTimeout as sleep } from "node:timers/promises"; import { expect, it } from "vitest";
const refused = (ms, what) => sleep(ms).then(() => Promise.reject(new Error(what)));
`;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "results-"));
  await mkdir(join(folder, "test"));
  await symlink(join(project, "node_modules"), join(folder, "node_modules"));
  const config = {
    root: folder,
    setupFiles: [join(project, "test/rejections.ts")],
    reporters: [join(project, ".ci/results.ts")],
    retry: 1,
  };
  await writeFile(join(folder, "vitest.config.mjs"), `export default { test: ${JSON.stringify(config)} };`);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A run of these files: what vitest ended with, what was written of it, and what is counted and printed. */
async function run(files: Record<string, string>) {
  for (const [name, text] of Object.entries(files)) {
    await writeFile(join(folder, "test", `${name}.test.mjs`), HEAD + text);
  }
  const path = join(folder, "results.json");
  const node = join(project, "node_modules/.bin/node");
  const names = Object.keys(files).map((name) => join(folder, "test", `${name}.test.mjs`));
  const vitest = spawnSync(node, [join(project, "node_modules/vitest/vitest.mjs"), "run", ...names], {
    cwd: folder,
    env: {
      ...process.env,
      TEST_RESULTS: path,
      VITEST: undefined,
      VITEST_WORKER_ID: undefined,
      VITEST_POOL_ID: undefined,
    },
  });
  const results: Results = JSON.parse(await readFile(path, "utf8"));
  const named = join(folder, "names");
  const count = execFileSync(node, [join(project, ".ci/count.ts"), path, String(vitest.status), named], {
    stdio: ["ignore", "pipe", "ignore"],
    encoding: "utf8",
  });
  const file = (name: string) => results.files.find(({ file }) => file === `test/${name}.test.mjs`) as FileResults;
  return { code: vitest.status, file, count: count.trim(), named: await readFile(named, "utf8") };
}

describe("a run of tests", () => {
  it("passes with what is awaited late, left out, or late once with a call in flight", async () => {
    const { code, file, count, named } = await run({
      good: `let attempts = 0;
        it("awaits late", async () => {
          const call = refused(5, "late");
          await sleep(50);
          await expect(call).rejects.toThrow("late");
        });
        // Of the run that is looked at.
        it.skip("is left out", () => {});
        it("is late once", async () => {
          const call = refused(20, "nobody waits for it any more");
          expect(++attempts).toBe(2);
          await expect(call).rejects.toThrow();
        });
        it("takes its time", () => sleep(100));`,
    });
    expect(named).toBe("");
    expect({ code, count }).toEqual({ code: 0, count: "3 0" });
    const { retried, ...others } = file("good");
    expect(others).toMatchObject({ passed: 3, failed: [], leftOut: ["test/good.test.mjs > is left out"], outside: [] });
    expect(retried).toEqual([
      expect.stringMatching(
        /^test\/good\.test\.mjs > is late once: expected 1 to be 2 .*\(test\/good\.test\.mjs:\d+\)$/,
      ),
    ]);
  });

  it("fails, by name and with the reason, with what nobody awaits, throws outside a test, or cannot be loaded", async () => {
    const { code, file, count, named } = await run({
      good: `it("is fine", () => {});`,
      bad: `it("is wrong", () => expect(1).toBe(2));`,
      unheard: `it("lets one go", () => void refused(0, "unheard")); it("takes its time", () => sleep(50));`,
      thrown: `it("throws later", async () => { setTimeout(() => { throw new Error("thrown"); }); await sleep(20); });`,
      unreadable: `import "./nothing.mjs"; it("is not reached", () => {});`,
    });
    expect({ code, count }).toEqual({ code: 1, count: "4 4" });
    expect(file("bad")).toMatchObject({ failed: ["test/bad.test.mjs > is wrong"], outside: [] });
    for (const what of ["bad.test.mjs > is wrong", "unheard.test.mjs", "thrown.test.mjs", "unreadable.test.mjs"]) {
      expect(named).toContain(`test/${what}\n`);
    }
    for (const what of [/Error: unheard/, /Error: thrown/, /nothing\.mjs/]) expect(named).toMatch(what);
  });

  it("says which files to try again where no test failed", async () => {
    const { code, count, named } = await run({
      good: `it("is fine", () => {});`,
      thrown: `it("throws later", async () => { setTimeout(() => { throw new Error("thrown"); }); await sleep(20); });`,
    });
    expect({ code, count }).toEqual({ code: 1, count: "2 1 1 test/thrown.test.mjs" });
    expect(named).toMatch(/Error: thrown/);
  });
});
