// Where a text stops being JSON: reported for every text that JSON.parse refuses, without quoting it.
import fc from "fast-check";
import { expect, test } from "vitest";
import { syntaxProblem } from "../src/interceptors/json-syntax.ts";

test.each([
  ["", "it ends before a value"],
  ["{", "it ends before a key in quotation marks"],
  ['{"a"', "it ends before a colon"],
  ['{"a":}', "a value should be at offset 5"],
  ['{"a":1,}', "there is a comma too many before offset 7"],
  ["[1,2,]", "there is a comma too many before offset 5"],
  ["[1 2]", "a comma or ] should be at offset 3"],
  ["{'a':1}", "a key in quotation marks should be at offset 1"],
  ["[1] x", "the end should be at offset 4"],
  ['["a\n"]', "a value should be at offset 3"],
  ['["\\x"]', "a value should be at offset 2"],
  ["[01]", "a comma or ] should be at offset 2"],
  ["[NaN]", "a value should be at offset 1"],
])("%j", (text, problem) => {
  expect(() => JSON.parse(text)).toThrow();
  expect(syntaxProblem(text)).toBe(problem);
});

test("whatever JSON.parse refuses has an offset in it or ends early, and the search ends", () => {
  const broken = fc.tuple(fc.json({ maxDepth: 4 }), fc.nat(), fc.string({ maxLength: 3 })).map(([json, at, piece]) => {
    const cut = at % (json.length + 1);
    return json.slice(0, cut) + piece + json.slice(cut + (at % 3));
  });
  const refused = broken.filter((text) => {
    try {
      JSON.parse(text);
      return false;
    } catch {
      return true;
    }
  });
  fc.assert(
    fc.property(refused, (text) => {
      const [, offset] = /offset (\d+)$/.exec(syntaxProblem(text)) ?? [];
      if (offset === undefined) expect(syntaxProblem(text)).toMatch(/^it ends before /);
      else expect(Number(offset)).toBeLessThan(text.length);
    }),
    { numRuns: 5_000 },
  );
});

test("a megabyte of brackets or of one string is looked through without recursion", () => {
  expect(syntaxProblem("[".repeat(1_000_000))).toBe("it ends before a value");
  expect(syntaxProblem(`["${"a".repeat(1_000_000)}`)).toBe("it ends before a value");
  expect(syntaxProblem(`[${"\\".repeat(1_000_000)}]`)).toBe("a value should be at offset 1");
});
