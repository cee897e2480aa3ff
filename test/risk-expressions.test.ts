// The expressions of rules: what is refused when they are saved, and what they say when they are run.
import { describe, expect, it } from "vitest";
import type { JsonObject } from "../src/domain/json.ts";
import { createExpressions, MAX_STEPS, MAX_TEXT, toInput } from "../src/risk/expressions.ts";

const expressions = createExpressions();
const EMPTY = { entityData: { person: {}, company: {} }, attributes: {}, metadata: {} };

const run = (texts: string[], entity: JsonObject = {}, today = "2026-11-28") =>
  expressions.compile(texts)({ entity: toInput({ ...EMPTY, ...entity }), today }, () => {});
const answer = (text: string, entity?: JsonObject) => run([text], entity)[0];
const problem = (text: string) => expressions.check(text).problem;

describe("what is refused", () => {
  it.each([
    ["entity.name ==", 1, 13],
    ["entity.name == 'a'\n  && entity.nme == 'b'", 2, 12],
    ["'\u{1f600}' == entity.nme", 1, 14],
    ["foo == 1", 1, 1],
    ["entity['nme'] == 'a'", 1, 7],
    ["entity.name.startsWit('a')", 1, 12],
    ["size(1, 2) == 1", 1, 1],
    ["has(entity.name", 1, 4],
  ])("rule 144: %j, by its line and column", (text, line, column) => {
    expect(problem(text)).toMatchObject({ line, column });
  });

  it.each([
    ["an unknown name", "nme == 'a'", "unknown name: nme"],
    ["an unknown function", "entity.name.substring(1) == 'a'", "unknown function: substring"],
    ["copies outside of the heap", "bytes(entity.name) == b'a'", "unknown function: bytes"],
    ["a constant outside of the heap", "[b'a'].map(x, x + x).size() == 1", "constant of bytes"],
    ["an unknown field of entity", "entity.riskScore > 1", "unknown field of entity: riskScore"],
    ["a type of messages", "google.protobuf.Struct{} == 1", "unknown type"],
    ["a loop over a name that is taken", "[1].exists(entity, true)", "a name that is taken"],
    ["a loop in a loop in a loop", "[1].all(a, [1].all(b, [1].all(c, true)))", "loops more than 2 deep"],
    ["more than 1,000 nodes", `[${"1,".repeat(998)}1].size() > ${"1 + ".repeat(3)} 1`, "more than 1000 nodes"],
    ["brackets more than 50 deep", `${"(".repeat(51)}true${")".repeat(51)}`, "brackets more than 50 deep"],
    ["a pattern that is none", "entity.name.matches('[')", "pattern"],
    ["a text that ends nowhere", "entity.name == 'Ana", "no expression"],
    ["a field behind a dot", ".entity.nme == 'a'", "unknown field of entity: nme"],
  ])("rule 144: %s", (_, text, description) => {
    expect(problem(text)?.description).toContain(description);
    expect(problem(text)?.description).not.toContain("Ana");
  });

  it("rule 144: what nests without brackets is refused or has an answer, and throws nothing", () => {
    const nested = [`${"!".repeat(1_999)}1`, `${"-".repeat(1_999)}1`, `${"true?".repeat(300)}1${":2".repeat(300)}`];
    for (const text of nested) {
      if (problem(text) === null) expect(answer(text)).toBe("TYPE");
    }
    expect(problem("a?".repeat(999))).not.toBeNull();
  });

  it("rule 144: what is at the limits is taken", () => {
    expect(problem(`${"(".repeat(50)}true${")".repeat(50)}`)).toBeNull();
    expect(problem("[1].all(a, [1].all(b, b == a)) && [1].all(a, [1].map(b, b * 2).size() == 1)")).toBeNull();
    expect(problem(`[${"1,".repeat(900)}1].size() > 1`)).toBeNull();
  });

  it("rule 148: it is known whether a rule depends on the date", () => {
    expect(expressions.check("today > '2026-01-01'").mentionsToday).toBe(true);
    expect(expressions.check("entity.attributes.exists(k, k == today)").mentionsToday).toBe(true);
    expect(expressions.check("entity.name == 'today'").mentionsToday).toBe(false);
  });
});

describe("what rules see", () => {
  it.each<[string, JsonObject | undefined, boolean]>([
    ["has(entity.nationality)", undefined, false],
    ["has(entity.entityData.person.firstName)", undefined, false],
    ["has(entity.entityData.company.industry)", undefined, false],
    ["has(entity.attributes.pep) && entity.attributes.pep", { attributes: { pep: true } }, true],
    ["entity.attributes.n > 2", { attributes: { n: 3 } }, true],
    ["entity.attributes.n + 1.0 == 4", { attributes: { n: 3 } }, true],
    ["'x' in entity.attributes.tags", { attributes: { tags: ["y", "x"] } }, true],
    ["today == '2026-11-28'", undefined, true],
    ["timestamp(today + 'T00:00:00Z') > timestamp('2020-01-01T00:00:00Z')", undefined, true],
    ["entity.attributes.exists(k, k == 'n')", { attributes: { n: 3 } }, true],
    ["entity.name.matches('^A.a$')", { name: "Ana" }, true],
  ])("rule 143: %s", (text, entity, expected) => {
    expect(problem(text)).toBeNull();
    expect(answer(text, entity)).toBe(expected);
  });

  it("rule 143: keys of maps are ordinary, whatever JavaScript means by them", () => {
    const attributes = JSON.parse('{"__proto__": "p", "constructor": "c"}') as JsonObject;
    expect(answer("entity.attributes.__proto__ == 'p' && entity.attributes.constructor == 'c'", { attributes })).toBe(
      true,
    );
    for (const key of ["__proto__", "constructor", "toString", "hasOwnProperty"]) {
      expect(answer(`has(entity.attributes.${key})`)).toBe(false);
      expect(answer(`entity.attributes.${key} == 'x'`)).toBe("NO_SUCH_FIELD");
    }
  });
});

describe("what has no answer", () => {
  it.each<[string, string, JsonObject | undefined]>([
    ["NO_SUCH_FIELD", "entity.nationality == 'MX'", undefined],
    ["NO_SUCH_FIELD", "entity.attributes['x'] == 1", undefined],
    ["TYPE", "entity.attributes.n + 1 == 4", { attributes: { n: 3 } }],
    ["TYPE", "entity.name > 3", { name: "Ana" }],
    ["TYPE", "entity.name", { name: "Ana" }],
    ["TYPE", "size(entity.name)", { name: "Ana" }],
    ["OTHER", "int(entity.name) == 1", { name: "Ana" }],
    ["OTHER", "1 / 0 == 1", undefined],
    ["OTHER", "timestamp(entity.name) == timestamp(entity.name)", { name: "field not found" }],
  ])("rule 146: %s for %s", (code, text, entity) => expect(answer(text, entity)).toBe(code));

  const list = (length: number): JsonObject => ({ attributes: { list: Array.from({ length }, (_, i) => i) } });

  it("rule 145: a loop may take 10,000 steps, and not one more", () => {
    const text = "entity.attributes.list.all(x, x >= 0)";
    expect(answer(text, list(MAX_STEPS.rule))).toBe(true);
    expect(answer(text, list(MAX_STEPS.rule + 1))).toBe("STEPS");
  });

  it("rule 145: every kind of loop counts, and loops in loops", () => {
    const over = list(MAX_STEPS.rule + 1);
    for (const text of [
      "exists(x, x < 0)",
      "exists_one(x, x < 0)",
      "map(x, x).size() > 0",
      "filter(x, x > 0).size() > 0",
    ]) {
      expect(answer(`entity.attributes.list.${text}`, over), text).toBe("STEPS");
    }
    const loops = "entity.attributes.list.all(a, entity.attributes.list.all(b, a >= 0 && b >= 0))";
    expect(answer(loops, list(90))).toBe(true);
    expect(answer(loops, list(101))).toBe("STEPS");
  });

  it("rule 145: what was cut off has no answer, although one side of an || is true", () => {
    const over = list(MAX_STEPS.rule + 1);
    expect(answer("entity.attributes.list.exists(x, x < 0) || true", over)).toBe("STEPS");
    expect(answer("!entity.attributes.list.all(x, x >= 0) && false", over)).toBe("STEPS");
  });

  it("rule 145: a text that is put together has at most 1,000,000 characters", () => {
    const doubled = (times: number) => `['ab']${".map(x, x + x)".repeat(times)}.all(x, x.endsWith('b'))`;
    const most = Math.floor(Math.log2(MAX_TEXT)) - 1;
    expect(answer(doubled(most))).toBe(true);
    expect(answer(doubled(most + 1))).toBe("OTHER");
    expect(answer("'a' + 1 == 'a1'")).toBe("TYPE");
  });

  it("rule 145: all rules of a matrix have 50,000 steps together, and each entity anew", () => {
    const texts = Array.from({ length: 7 }, () => "entity.attributes.list.all(x, x >= 0)");
    const matrix = expressions.compile(texts);
    const variables = { entity: toInput({ ...EMPTY, ...list(9_000) }), today: "" };
    const expected = [true, true, true, true, true, "STEPS", "STEPS"];
    expect(matrix(variables, () => {})).toEqual(expected);
    expect(matrix(variables, () => {})).toEqual(expected);
    // A rule without loops has an answer all the same.
    expect(run([...texts, "true"], list(9_000)).at(-1)).toBe(true);
  });
});
