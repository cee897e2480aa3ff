// Countries by their two letters, compared with those that ICU has a name for.
import { describe, expect, it } from "vitest";
import { countryCodeProblem, parseCountryCode } from "../../src/domain/country.ts";

const LETTERS = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"];
const ALL = LETTERS.flatMap((a) => LETTERS.map((b) => a + b));

describe("parseCountryCode", () => {
  it.each([
    ["ar", "AR"],
    ["Br", "BR"],
    ["ZZ", "ZZ"],
    ["is", "IS"],
    ["xk", "XK"],
    ["qm", "QM"],
    ["yd", "YD"],
  ])("rule 14: %s is %s", (value, code) => {
    expect(parseCountryCode(value)).toBe(code);
    expect(countryCodeProblem(value)).toBeNull();
  });

  it.each(["", "A", "ARG", "A1", "ÑA", "\u0131s", "\u212aR", " A", "AR\n", "ß", "AB", "XAA", "QL"])(
    "rule 14: %j is no country code",
    (value) => {
      expect(parseCountryCode(value)).toBeNull();
      expect(countryCodeProblem(value)).not.toBeNull();
    },
  );

  it.each([
    ["UK", "GB"],
    ["uk", "GB"],
    ["EL", "GR"],
  ])("rule 14: %s is refused with the code to use", (value, code) => {
    expect(parseCountryCode(value)).toBeNull();
    expect(countryCodeProblem(value)).toBe(`is no code of ISO 3166-1 alpha-2: use ${code}`);
  });

  it("rule 14: the countries of today are those that ICU knows by their own code", () => {
    const names = new Intl.DisplayNames("en", { type: "region", fallback: "none" });
    const known = ALL.filter((code) => {
      const canonical = new Intl.Locale(`und-${code}`).region;
      return canonical === code && names.of(code) !== undefined;
    });
    // Reserved for others' use by ISO 3166, or pseudo-locales of ICU.
    const reserved = new Set(["AC", "CP", "CQ", "DG", "EA", "EU", "EZ", "IC", "QO", "TA", "UN", "XA", "XB", "ZZ"]);
    const ours = ALL.filter((code) => parseCountryCode(code) !== null);
    expect(known.filter((code) => !reserved.has(code) && !ours.includes(code))).toEqual([]);
    // AN to ZR: withdrawn, and those that users assign.
    const withoutName = ours.filter((code) => !known.includes(code) && !/^(AA|Q[M-Z]|X[A-Z]|ZZ)$/.test(code));
    expect(withoutName.join(" ")).toBe("AN BU CS CT DD DY FQ FX HV JT MI NH NQ NT PC PU PZ RH SU TP VD WK YD YU ZR");
  });
});
