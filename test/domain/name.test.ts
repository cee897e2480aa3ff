// Names folded into words: what is the same name, and what is not (rule 159).
import { describe, expect, it } from "vitest";
import { foldedName, foldedWords, nameWords, queryWords, wordsOf } from "../../src/domain/name.ts";

const company = (name: string, tradingNames: unknown = []) => ({
  type: "company" as const,
  name,
  entityData: { tradingNames: tradingNames as never },
});

describe("rule 159: words of names", () => {
  it.each([
    ["María Núñez", ["maria", "nunez"]],
    ["NUÑEZ,MARIA", ["nunez", "maria"]],
    ["Jean-Pierre O'Brien", ["jean", "pierre", "obrien"]],
    ["Jean-Pierre O’Brien", ["jean", "pierre", "obrien"]],
    ["Molinos del Delta S.A.", ["molinos", "del", "delta", "sa"]],
    ["Molinos del Delta S.A", ["molinos", "del", "delta", "sa"]],
    ["J. R. Smith", ["j", "r", "smith"]],
    ["A.B.C.Ltd", ["abc", "ltd"]],
    ["Straße STRASSE", ["strasse", "strasse"]],
    ["Łukasz Ørsted Æther Þór Đorđe", ["lukasz", "orsted", "aether", "thor", "dorde"]],
    ["DIYARBAKIR Diyarbakır İzmir", ["diyarbakir", "diyarbakir", "izmir"]],
    ["Ｆｕｌｌ ﬁne Ⅳ", ["full", "fine", "iv"]],
    ["ΟΔΥΣΣΕΥΣ Οδυσσεύς", ["οδυσσευσ", "οδυσσευσ"]],
    ["Фёдор Достоевский", ["федор", "достоевскии"]],
    ["مُحَمَّد محمد", ["محمد", "محمد"]],
    ["हिन्दी", ["हिन्दी".normalize("NFKD")]],
    ["株式会社トヨタ", ["株式会社トヨタ".normalize("NFKD")]],
    ["Zero\u200dwidth", ["zerowidth"]],
    ["3M & Co.", ["3m", "co"]],
    ["— … !", []],
  ])("folds %j", (name, words) => {
    expect(foldedWords(name)).toEqual(words);
  });

  it("does not take vowel signs of Indic scripts for accents", () => {
    expect(foldedName("कि")).not.toBe(foldedName("का"));
  });

  it("folds what is folded to itself", () => {
    for (const name of ["María Núñez", "S.A.", "İzmir Straße", "हिन्दी", "한국 회사", "Ǆ ﷺ ŉ ᾳ", "ΟΔΥΣΣΕΥΣ"]) {
      const words = foldedWords(name);
      expect(foldedWords(words.join(" "))).toEqual(words);
    }
  });

  it("cuts words at 64 units, never within a character", () => {
    expect(foldedWords("a".repeat(100))).toEqual(["a".repeat(64)]);
    const cut = foldedWords(`a${"\u{20000}".repeat(60)}`)[0] ?? "";
    expect(cut.isWellFormed()).toBe(true);
    expect(cut).toHaveLength(63);
  });

  it("stores at most 300 different words, those of the name first, and those of the trading names of a company", () => {
    const many = Array.from({ length: 400 }, (_, i) => `w${i}`);
    expect(wordsOf(nameWords(company("Acme Acme", many)))).toEqual(["acme", ...many.slice(0, 299)]);
    expect(nameWords(company("Acme", ["Ácme Überfluß", 7]))).toBe(" acme uberfluss");
    expect(nameWords({ ...company("Acme", ["Other"]), type: "person" })).toBe(" acme");
    expect(wordsOf(nameWords(company("!!!")))).toEqual([]);
  });

  it("asks for each word once, the longest first, and not for one that begins another", () => {
    expect(queryWords("ma maria MARÍA nuñ m")).toEqual(["maria", "nun"]);
    expect(queryWords("...")).toEqual([]);
  });

  it("compares whole names in any order of words", () => {
    expect(foldedName("Núñez, María")).toBe(foldedName("MARIA NUNEZ"));
    expect(foldedName("Maria Nunez")).not.toBe(foldedName("Maria Nune"));
  });
});
