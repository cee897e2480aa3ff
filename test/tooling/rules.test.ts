// The check of rules bites: each thing that it looks for is broken once.
import { describe, expect, it } from "vitest";
import { citations, parseRules, ruleProblems, titlesOf } from "../../scripts/check-rules.ts";

/** Put together here, so that this file does not itself cite what it plants. */
const text = (...parts: string[]) => parts.join("");
const rule = (what: string) => text("ru", "le ", what);
const rules = (what: string) => text("ru", "les ", what);

const DOCUMENT =
  "- **1.** One.\n- **2.** *Not in force yet, comes with x.* Two.\n- **3a.** Three.\n- **4 to 6.** Four.\n";
const files = (more: Record<string, string>) =>
  new Map(
    Object.entries({
      "docs/rules.md": DOCUMENT,
      "test/a.test.ts": `describe("${rules("1, 3a")}", () => { it("${rules("4 to 6")}: it works", () => {}); });`,
      ...more,
    }),
  );

describe("npm run check", () => {
  it("reads which rules there are, and which are in force", () => {
    const { inForce, toCome, problems } = parseRules(DOCUMENT);
    expect([...inForce]).toEqual(["1", "3a", "4", "5", "6"]);
    expect([...toCome]).toEqual(["2"]);
    expect(problems).toEqual([]);
    expect(parseRules(`${DOCUMENT}- **5.** Again.\n`).problems).toEqual([
      `docs/rules.md: ${rule("5")} is listed twice`,
    ]);
  });

  it("accepts rules that are tested, and citations of what there is", () => {
    expect(ruleProblems(files({ "src/a.ts": `// ${rules("1 and 2")}: ${rule("3a")}` }))).toEqual([]);
  });

  it.each([
    [`it("${rules("4, 6")}", () => {});`, ["1", "3a", "5"]],
    [`// it("${rule("1")}"\nit("${rules("3a to 6")}", () => {});`, ["1"]],
    [`it.sk${""}ip("${rule("1")}", () => {}); it("${rules("3a, 4, 5, 6")}", () => {});`, ["1"]],
    [`it("works", () => { expect(1, "${rule("1")}"); }); it("${rules("3a to 6")}", () => {});`, ["1"]],
  ])("refuses a rule that no title names: %j", (test, missing) => {
    expect(ruleProblems(files({ "test/a.test.ts": test }))).toEqual(
      missing.map((number) => `docs/rules.md: ${rule(number)} has no test: no title of test/ names its number`),
    );
  });

  it.each([
    ["README.md", `\n(${rule("7")})`, "7", 2],
    ["src/a.ts", `/** ${text("Ru", "le ")}99: it does. */`, "99", 1],
    ["proto/a.proto", `// ${rules("1,\n// 4 and 8")}`, "8", 1],
    ["test/b.test.ts", `it("${rules("4 to 7")}", () => {});`, "7", 1],
    ["test/b.ts", `// ${rules("1, 3")}`, "3", 1],
  ])("refuses in %s a rule that is not there: %j", (path, content, number, line) => {
    expect(ruleProblems(files({ [path]: content }))).toEqual([
      `${path}:${line}: ${rule(number)} is cited and is not in docs/rules.md`,
    ]);
  });

  it("reads lists and ranges", () => {
    const cited = citations(`${rules("1, 4 to 8, 18a and 20")}; ${rule("3")} to all, 5 others, the ${rules("of")} 7`);
    expect(cited.map(({ number }) => number)).toEqual(["1", "4", "5", "6", "7", "8", "18a", "20", "3"]);
  });

  it("finds the titles of tests, whatever is around them", () => {
    const source = [
      `it("one", () => {});`,
      "test.each([[1, `(`], [2, ')'], [/[(/]/, 3]])(`two`, () => {});",
      `describe.each<[string, () => void]>([])("three", () => {});`,
      `it.skipIf(process.platform !== "linux").each(rows)(\n  'four', // "five"\n  () => {});`,
      `/x/.test("six"); expect(it, "seven"); it(name, () => {});`,
    ];
    expect(titlesOf(source.join("\n"))).toEqual(["one", "two", "three", "four"]);
  });
});
