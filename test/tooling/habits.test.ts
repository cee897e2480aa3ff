// The check of habits bites: each habit is broken once.
import { spawnSync } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { habitProblems, lengthProblem, unusedExports } from "../../scripts/check-habits.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Put together here, so that this file does not itself do what it plants. */
const text = (...parts: string[]) => parts.join("");

describe("npm run check", () => {
  it.each([
    ["test/a.test.ts", text("it.on", `ly("works", () => {});`), "leaves out all other tests"],
    ["test/a.test.ts", text("describe.sk", `ip("works", () => {});`), "without a comment that says why"],
    ["test/a.test.ts", text("it.concurrent.to", `do("works");`), "without a comment that says why"],
    ["test/a.test.ts", text("context.sk", "ip();"), "without a comment that says why"],
    ["src/a.ts", text("// oxlint-dis", "able-next-line no-cycle"), "silences a check"],
    ["src/a.ts", text("// @ts-ig", "nore"), "silences a check"],
    ["src/a.ts", text("// biome-ignore-", "all lint: no"), "silences a rule for a whole file"],
    ["README.md", text("from regis", "try.example.org"), "names the host of a package registry"],
    [
      "package-lock.json",
      text(`"resolved": "https://www.npm`, `js.com/x.tgz"`),
      "names the host of a package registry",
    ],
    ["README.md", text("in /ho", "me/ada/project"), "names a path of one machine"],
    ["src/a.ts", text(`const folder = "/wo`, `rk/main";`), "names a path of one machine"],
    ["CHANGELOG.md", text("written by a coding ag", "ent"), "speaks of how the text was made"],
  ])("refuses in %s: %s", (path, line, problem) => {
    expect(habitProblems(path, `first\n${line}\n`)).toEqual([expect.stringMatching(`^2: .*${problem}`)]);
  });

  it.each([
    ["test/a.test.ts", text("// Needs a second machine\nit.sk", `ip("works", () => {});`)],
    ["test/a.test.ts", text("it.sk", `ipIf(process.platform !== "linux")("works", () => {});`)],
    ["test/a.test.ts", text("context.sk", `ip("nobody may enter");`)],
    ["src/a.ts", "// biome-ignore lint/suspicious/noExplicitAny: the library says so"],
    ["src/a.ts", "registry.get(name); new http2.Session(); userAgent;"],
    ["README.md", "the folder `/var/lib/entity-service`, or ../../work/x"],
  ])("accepts in %s: %s", (path, line) => {
    expect(habitProblems(path, line)).toEqual([]);
  });

  it("finds an export that nothing uses, and only that", () => {
    const files = new Map([
      [
        "src/a.ts",
        "export function used() {}\nexport const dead = 1;\nexport class Own {}\nnew Own();\nexport interface Shape {}",
      ],
      ["src/b.ts", `import { used } from "./a.ts";`],
      ["test/a.test.ts", `import { dead } from "../src/a.ts";`],
    ]);
    expect(unusedExports(files)).toEqual(["src/a.ts: nobody but tests uses the export dead"]);
  });

  it("refuses a long file of src that does not say why at its head", () => {
    const file = (head: string, lines: number) => `${head}\n${"x();\n".repeat(lines - head.split("\n").length)}`;
    const why = "// What it is.\n// Long because the two halves share their state.";
    expect(lengthProblem("src/a.ts", file("// What it is.", 301))).toMatch(/^src\/a\.ts: 301 lines, over 300/);
    expect(lengthProblem("src/db/a.ts", file("// Long because", 301))).toContain("301 lines");
    expect(lengthProblem("src/a.ts", `${file("// What it is.", 301)}// Long because it is late\n`)).toContain(
      "302 lines",
    );
    expect(lengthProblem("src/a.ts", file("// What it is.", 300))).toBeUndefined();
    expect(lengthProblem("src/a.ts", file(why, 301))).toBeUndefined();
    expect(lengthProblem("test/a.test.ts", file("// What it is.", 301))).toBeUndefined();
  });

  it("refuses a long function of src, of whatever kind, but in a migration", async () => {
    const body = (lines: number) => "  x();\n".repeat(lines - 2);
    const named = (lines: number) => `function x() {\n${body(lines)}}\n`;
    const planted = {
      "src/domain/function.ts": named(151),
      "src/rpc/arrow.ts": `const x = () => {\n${body(151)}};\n`,
      "src/method.ts": `class X {\n  x() {\n${body(151)}  }\n}\n`,
      "src/domain/shorter.ts": named(150),
      "src/db/migrations/long.ts": named(151),
      "test/long.ts": named(151),
    };
    const copy = await mkdtemp(join(tmpdir(), "check-lengths-"));
    try {
      await copyFile(join(root, "oxlint.config.ts"), join(copy, "oxlint.config.ts"));
      for (const [path, text] of Object.entries(planted)) {
        await mkdir(join(copy, path, ".."), { recursive: true });
        await writeFile(join(copy, path), text);
      }
      const { stdout } = spawnSync(
        process.execPath,
        [join(root, "node_modules/oxlint/bin/oxlint"), "--format=json", "."],
        {
          cwd: copy,
          encoding: "utf8",
        },
      );
      const { diagnostics } = JSON.parse(stdout) as { diagnostics: { code?: string; filename: string }[] };
      const long = diagnostics.filter(({ code }) => code?.includes("max-lines-per-function"));
      expect(long.map(({ filename }) => filename).sort()).toEqual([
        "src/domain/function.ts",
        "src/method.ts",
        "src/rpc/arrow.ts",
      ]);
    } finally {
      await rm(copy, { recursive: true, force: true });
    }
  });
});
