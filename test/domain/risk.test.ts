import { describe, expect, it } from "vitest";
import { newEntity } from "../../src/domain/entity.ts";
import type { EntityState } from "../../src/domain/entity-state.ts";
import {
  DEFAULT_THRESHOLDS,
  hundredthsToText,
  parseHundredths,
  type RiskRule,
  type RuleAnswer,
  rulesToRun,
  scoreOf,
  variablesOf,
} from "../../src/domain/risk.ts";

const rule = (points: string, state: RiskRule["state"] = "ACTIVE", id = "r"): RiskRule => ({
  ...{ id, displayName: "R", expression: "true", points, state },
});

const score = (rules: RiskRule[], answers: RuleAnswer[], thresholds = DEFAULT_THRESHOLDS) =>
  scoreOf({ rules, thresholds }, answers);

describe("points", () => {
  it.each([
    ["1", 100, "1.00"],
    ["-0", 0, "0.00"],
    ["0.1", 10, "0.10"],
    ["-0.05", -5, "-0.05"],
    ["99.99", 9999, "99.99"],
    ["-100.00", -10000, "-100.00"],
  ])("rule 142: %s is a whole number of hundredths", (text, hundredths, written) => {
    expect(parseHundredths(text)).toBe(hundredths);
    expect(hundredthsToText(hundredths)).toBe(written);
  });

  it.each(["", "1.", ".5", "1.005", "+1", "1e2", "0x1", " 1", "1,5", "NaN", "--1", "1234567"])(
    "rule 142: '%s' is no decimal",
    (text) => expect(parseHundredths(text)).toBeUndefined(),
  );
});

describe("score", () => {
  it("rule 142: sums are exact, where doubles are not", () => {
    const rules = Array.from({ length: 200 }, () => rule("0.10"));
    expect(score(rules, Array(200).fill(true)).riskScore).toBe("20.00");
  });

  it("rule 142: it is clamped to 0.00 and 100.00, and the raw score is kept", () => {
    expect(score([rule("80.00"), rule("40.00")], [true, true])).toMatchObject({
      ...{ rawScore: "120.00", riskScore: "100.00", level: "CRITICAL" },
    });
    expect(score([rule("-30.00"), rule("10.00")], [true, true])).toMatchObject({
      ...{ rawScore: "-20.00", riskScore: "0.00", level: "LOW" },
    });
  });

  it.each([
    ["29.99", "LOW"],
    ["30.00", "MEDIUM"],
    ["59.99", "MEDIUM"],
    ["60.00", "HIGH"],
    ["75.00", "HIGH"],
    ["79.99", "HIGH"],
    ["80.00", "CRITICAL"],
  ])("rule 142: thresholds are lower bounds: %s is %s", (points, level) => {
    expect(score([rule(points)], [true]).level).toBe(level);
  });

  it("rule 142: SHADOW rules are run after the others, and listed in their places", () => {
    const rules = [rule("1.00", "SHADOW", "a"), rule("2.00", "ACTIVE", "b"), rule("4.00", "ACTIVE", "c")];
    expect(rulesToRun(rules).map(({ id }) => id)).toEqual(["b", "c", "a"]);
    const { riskScore, results } = score(rules, [true, false, "STEPS"]);
    expect(riskScore).toBe("2.00");
    expect(results.map(({ ruleId, outcome }) => [ruleId, outcome])).toEqual([
      ...[
        ["a", "ERROR"],
        ["b", "MATCHED"],
        ["c", "NOT_MATCHED"],
      ],
    ]);
  });

  it("rule 142: SHADOW rules are listed and do not count, DISABLED ones are neither", () => {
    const rules = [rule("10.00", "ACTIVE", "a"), rule("50.00", "SHADOW", "b"), rule("20.00", "DISABLED", "c")];
    const { riskScore, results } = score(rules, [true, true]);
    expect(riskScore).toBe("10.00");
    expect(results.map(({ ruleId, outcome }) => [ruleId, outcome])).toEqual([
      ["a", "MATCHED"],
      ["b", "MATCHED"],
    ]);
  });

  it("rule 146: an error of an ACTIVE rule leaves no score and no level, one of a SHADOW rule does not matter", () => {
    const rules = [rule("10.00"), rule("50.00", "SHADOW")];
    expect(score(rules, ["TYPE", true])).toMatchObject({
      ...{ incomplete: true, rawScore: null, riskScore: null, level: null },
    });
    expect(score(rules, [true, "STEPS"])).toMatchObject({ incomplete: false, riskScore: "10.00" });
  });
});

const entity = (fields: Partial<EntityState> = {}): EntityState => ({
  ...newEntity({ type: "person", countryCode: "MX", name: "Ana" }, "", 0n).values,
  ...{ id: "e", organizationId: "o", version: 3, etag: "t", createdAt: 0n, updatedAt: 1_000_000n },
  ...fields,
});

describe("variables", () => {
  it("rule 143: unset fields are absent, and the maps are always there", () => {
    expect(variablesOf(entity())).toEqual({
      ...{ id: "e", type: "person", countryCode: "MX", name: "Ana", status: "pending" },
      createdAt: "1970-01-01T00:00:00.000Z",
      ...{ entityData: { person: {}, company: {} }, attributes: {}, metadata: {} },
    });
  });

  it("rule 143: the score, the matrix, the etag and the time of the last change are not among them", () => {
    const one = entity({ riskScore: "1.00", riskMatrixId: "m" });
    expect(variablesOf(one)).toEqual(variablesOf(entity()));
    expect(variablesOf({ ...one, etag: "u", updatedAt: 2n, version: 9 })).toEqual(variablesOf(one));
  });

  it("rule 143: the data of a company is that of the company", () => {
    const one = entity({ type: "company", entityData: { industry: "banking" } });
    expect(variablesOf(one).entityData).toEqual({ person: {}, company: { industry: "banking" } });
  });
});
