// The check of habits bites: each habit is broken once.
import { describe, expect, it } from "vitest";
import { habitProblems, unusedExports } from "../../scripts/check-habits.ts";

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
});
