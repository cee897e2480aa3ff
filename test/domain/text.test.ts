import { existsSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { countryCodeProblem } from "../../src/domain/country.ts";
import { canonicalJson, type JsonObject, type JsonValue } from "../../src/domain/json.ts";
import { LIMITS } from "../../src/domain/limits.ts";
import {
  dateProblem,
  identifierProblem,
  nameProblem,
  parseUuid,
  structProblem,
  textProblem,
  trim,
  uuidProblem,
} from "../../src/domain/text.ts";

const anyText = fc.string({ unit: "binary", maxLength: 60 });
// Any UTF-16 code units, lone surrogates too.
const anyUnits = fc
  .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 60 })
  .map((units) => String.fromCharCode(...units));
const family = "\u{1f468}\u200d\u{1f469}\u200d\u{1f467}\u200d\u{1f466}"; // 7 code points, 11 units

/** Marks of the direction of text, which make it look like another. */
const DIRECTIONS = ["\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"];

describe("textProblem", () => {
  it.each([
    ["NUL", "a\u0000b", "control"],
    ["a C0 control", "a\u001bb", "control"],
    ["DEL", "a\u007f", "control"],
    ["a C1 control", "a\u0085b", "control"],
    ["a lone high surrogate", "a\ud800b", "surrogate"],
    ["a lone low surrogate", "\udc00", "surrogate"],
    ["surrogates the wrong way round", "\udc00\ud800", "surrogate"],
    ["U+FFFE", "\ufffe", "noncharacter"],
    ["U+FFFF", "\uffff", "noncharacter"],
    ["U+FDD0", "\ufdd0", "noncharacter"],
    ["U+FDEF", "\ufdef", "noncharacter"],
    ["U+1FFFE", "\u{1fffe}", "noncharacter"],
    ["U+10FFFF", "\u{10ffff}", "noncharacter"],
  ])("rule 73: refuses %s, on one line or on several", (_, value, word) => {
    expect(textProblem(value, { max: 10 })).toContain(word);
    expect(textProblem(value, { max: 10, multiline: true })).toContain(word);
  });

  it.each(["\t", "\n", "\r", "\r\n"])("rule 73: %j only in text of several lines", (value) => {
    expect(textProblem(`a${value}b`, { max: 10 })).toContain("control");
    expect(textProblem(`a${value}b`, { max: 10, multiline: true })).toBeNull();
  });

  it.each(["", "Łódź", "日本", "عربي", family, "\ufdcf\ufdf0\ufffd", "\u00a0"])("rule 73: accepts %j", (value) => {
    expect(textProblem(value, { max: 20 })).toBeNull();
  });

  it("rule 73: counts code points, and says the limit", () => {
    expect(textProblem(family, { max: 7 })).toBeNull();
    expect(textProblem(family, { max: 6 })).toBe("must not be longer than 6 characters");
    expect(textProblem("\u{1f600}".repeat(4096), { max: 4096 })).toBeNull();
    expect(textProblem("\u{1f600}".repeat(4097), { max: 4096 })).toContain("4096");
    expect(textProblem("a".repeat(11), { max: 10 })).toContain("10");
    expect(textProblem("a".repeat(10), { max: 10 })).toBeNull();
    expect(textProblem("e\u0301".repeat(32 * 1024), { max: 4096 })).toContain("4096");
  });

  it("rule 73: never throws, and accepts nothing over the limit or ill-formed", () => {
    fc.assert(
      fc.property(fc.oneof(anyText, anyUnits), fc.nat(60), fc.boolean(), (value, max, multiline) => {
        const problem = textProblem(value, { max, multiline });
        if (problem === null) expect([[...value].length <= max, value.isWellFormed()]).toEqual([true, true]);
        if ([...value].length > max) expect(problem).toContain(String(max));
        identifierProblem(value);
        nameProblem(value);
      }),
    );
  });

  it("rule 75: says nothing of the value", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[A-Z]{3}[0-9]{4}$/), (secret) => {
        for (const bad of ["\u0000", "\ud800", "\uffff", "\u202e", "\u2028", "x".repeat(600)]) {
          for (const problem of [
            textProblem(secret + bad, { max: 20 }),
            identifierProblem(secret + bad),
            nameProblem(secret + bad),
          ]) {
            expect(problem ?? "").not.toContain(secret);
          }
          expect(JSON.stringify(structProblem({ [secret + bad]: secret + bad }) ?? "")).not.toContain(secret);
        }
      }),
    );
  });
});

describe("identifierProblem", () => {
  it.each([
    "\u200b",
    "\u2060",
    "\ufeff",
    "\u200c",
    "\u200d",
    "\u00ad",
    "\u200e",
    "\u200f",
    "\u061c",
    ...DIRECTIONS,
    "\u3164",
    "\u180e",
    "\u2062",
    "\ufe0f",
    "\u2800",
    "\u034f",
    "\u{e0041}",
    "\u2028",
    "\u2029",
    "\n",
    "\t",
    "\u0000",
    "\ud800",
  ])("rule 14: refuses %j", (mark) => {
    expect(identifierProblem(`user${mark}_1`)).not.toBeNull();
  });

  it.each(["user_1", "CIF B-98525348", "\u0430cme", "Łódź/1", "\u{1f600}", "__proto__"])(
    "rule 14: accepts %j",
    (value) => {
      expect(identifierProblem(value)).toBeNull();
    },
  );

  it("rule 14: at most 255 characters, or as many as the field has", () => {
    expect(identifierProblem("\u{1f600}".repeat(255))).toBeNull();
    expect(identifierProblem("a".repeat(256))).toBe("must not be longer than 255 characters");
    expect(identifierProblem("a".repeat(65), LIMITS.taxId)).toBe("must not be longer than 64 characters");
  });
});

describe("nameProblem", () => {
  it.each([...DIRECTIONS, "\n", "\u2028", "\u2029", "\u0000"])("rule 73: refuses %j in a name", (mark) => {
    expect(nameProblem(`Ana${mark} Pérez`)).not.toBeNull();
  });

  it.each(["می\u200cخواهم", "क्\u200dष", family, "\u200fשלום", "José\u00a0Luis", "O'Brien & Co., Ltd."])(
    "rule 73: keeps what scripts need: %j",
    (value) => {
      expect(nameProblem(value)).toBeNull();
    },
  );

  it.each(["\u3164", "\u2800", "\u200b", "\u200c\u200d", "\ufe0f", "\u00ad\u2062", "\u0301", "\u{e0041}"])(
    "rule 14: %j shows nothing and is no name",
    (value) => {
      expect(nameProblem(value)).toBe("must have a character that shows, such as a letter or a digit");
      expect(nameProblem(`${value}A`)).toBeNull();
    },
  );

  it("rule 73: at most 512 characters", () => {
    expect(nameProblem("a".repeat(512))).toBeNull();
    expect(nameProblem("a".repeat(513))).toContain("512");
  });
});

it("rule 44: trims the white space of Unicode, not what is inside", () => {
  expect(trim(" \u00a0\u3000\ufeff\t\na b\u2029 ")).toBe("a b");
  expect(trim(" \u2003\n")).toBe("");
});

describe("dateProblem", () => {
  it.each([
    "1965",
    "1965-03",
    "0001",
    "9999-12",
    "1990-03-01",
    "2000-02-29",
    "2024-02-29",
    "0001-01-01",
    "9999-12-31",
    "2023-04-30",
    "1600-02-29",
  ])("rule 27: accepts %s", (value) => {
    expect(dateProblem(value)).toBeNull();
  });

  it.each([
    "0000",
    "965",
    "1965-",
    "1965-3",
    "1965-00",
    "1965-13",
    "196503",
    "1965-03-",
    "1965--01",
    "2023-02-30",
    "2023-02-29",
    "1900-02-29",
    "0000-00-00",
    "0000-01-01",
    "2023-00-10",
    "2023-13-01",
    "2023-01-00",
    "2023-01-32",
    "2023-04-31",
    "2023-06-31",
    "2023-09-31",
    "2023-11-31",
    "1990-03-01T00:00:00-03:00",
    "1990-03-01Z",
    "1990-3-1",
    "01-03-1990",
    "19900301",
    "+1990-03-01",
    "10000-01-01",
    " 1990-03-01",
    "1990-03-01\n",
    "",
    "\u0661\u0669\u0669\u0660-01-01",
  ])("rule 27: refuses %j", (value) => {
    expect(dateProblem(value)).not.toBeNull();
  });

  it("rule 27: a limit includes its own day", () => {
    expect(dateProblem("2024-05-06", { notAfter: "2024-05-06" })).toBeNull();
    expect(dateProblem("2024-05-07", { notAfter: "2024-05-06" })).toBe("must not be in the future");
    expect(dateProblem("9999-12-31")).toBeNull();
  });

  it("rule 27: a month and a year are in the future until they have begun", () => {
    const notAfter = "2024-05-06";
    for (const begun of ["2024", "2024-05", "2024-04", "2023-12"]) expect(dateProblem(begun, { notAfter })).toBeNull();
    for (const later of ["2025", "2024-06"]) expect(dateProblem(later, { notAfter })).toBe("must not be in the future");
  });

  it("rule 27: knows the days that the calendar has", () => {
    for (let day = Date.UTC(1896, 0, 1); day < Date.UTC(2105, 0, 1); day += 86_400_000) {
      if (dateProblem(new Date(day).toISOString().slice(0, 10)) !== null) expect.fail(new Date(day).toISOString());
    }
  });
});

describe("parseUuid", () => {
  it("rule 4: one id has one spelling, lower case", () => {
    expect(parseUuid("0190F1E2-1111-7ABC-8DEF-0123456789AB")).toBe("0190f1e2-1111-7abc-8def-0123456789ab");
    expect(parseUuid("00000000-0000-0000-0000-000000000000")).toBe("00000000-0000-0000-0000-000000000000");
    expect(uuidProblem("ffffffff-ffff-ffff-ffff-ffffffffffff")).toBeNull();
  });

  it.each([
    "",
    "x",
    "{0190f1e2-1111-7abc-8def-0123456789ab}",
    "0190f1e211117abc8def0123456789ab",
    "0190f1e2-1111-7abc-8def-0123456789a",
    "0190f1e2-1111-7abc-8def-0123456789abc",
    "0190f1e2-1111-7abc-8def-0123456789ag",
    "0190f1e2-1111-7abc-8def-0123456789ab\n",
    "urn:uuid:0190f1e2-1111-7abc-8def-0123456789ab",
    "0190f1e21-111-7abc-8def-0123456789ab",
  ])("rule 4: %j is no UUID", (value) => {
    expect(parseUuid(value)).toBeNull();
    expect(uuidProblem(value)).not.toBeNull();
  });
});

describe("structProblem", () => {
  const nested = (levels: number): JsonObject => {
    let value: JsonValue = 1;
    for (let level = 0; level < levels; level++) value = { a: value };
    return value as JsonObject;
  };
  const keys = (count: number): JsonObject => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 1]));

  it.each<[string, JsonObject, string, string]>([
    ["NaN", { a: { b: [1, Number.NaN] } }, "a.b[1]", "finite"],
    ["Infinity", { a: Number.POSITIVE_INFINITY }, "a", "finite"],
    ["-Infinity", { a: Number.NEGATIVE_INFINITY }, "a", "finite"],
    ["2^53", { a: 2 ** 53 }, "a", "string"],
    ["-2^53", { a: -(2 ** 53) }, "a", "string"],
    ["1e300", { a: 1e300 }, "a", "string"],
    ["NUL in a value", { a: ["x", "a\u0000b"] }, "a[1]", "control"],
    ["a lone surrogate in a value", { a: "\ud800" }, "a", "surrogate"],
    ["a lone surrogate in a key", { a: { "\ud800": 1 } }, "a.*", "surrogate"],
    ["NUL in a key", { "a\u0000": 1 }, "*", "control"],
    ["a line end in a key", { "a\n": 1 }, "*", "control"],
    ["an empty key", { a: { "": 1 } }, "a.*", "empty key"],
    ["a key with a dot", { "a.b": 1 }, "*", "dot"],
    ["a key with a quotation mark", { 'a"b': 1 }, "*", "quotation"],
    ["a key of 129 characters", { ["k".repeat(129)]: 1 }, "*", "128"],
    ["a string of 4097 characters", { a: "x".repeat(4097) }, "a", "4096"],
    ["33 levels", nested(33), Array(33).fill("a").join("."), "32 levels"],
    [
      "33 levels of arrays",
      { a: JSON.parse(`${"[".repeat(32)}1${"]".repeat(32)}`) },
      `a${"[0]".repeat(32)}`,
      "32 levels",
    ],
    ["201 keys", keys(201), "", "200 keys"],
    ["201 keys inside", { a: [keys(201)] }, "a[0]", "200 keys"],
    ["200,000 keys", keys(200_000), "", "200 keys"],
    ["more than 64 KiB of strings", { a: Array(17).fill("x".repeat(4096)) }, "", "65536 bytes"],
    ["more than 64 KiB of small numbers", { a: Array(40_000).fill(1) }, "", "65536 bytes"],
    [
      "a bad value under a key that may be personal data",
      { "20-12345678-9": { "Ana Pérez": Number.NaN } },
      "*.*",
      "finite",
    ],
    [
      "a bad value under __proto__",
      JSON.parse('{"__proto__":{"constructor":1e300}}'),
      "__proto__.constructor",
      "string",
    ],
  ])("rule 73: refuses %s and says where", (_, value, path, words) => {
    const problem = structProblem(value);
    expect(problem?.path).toBe(path);
    expect(problem?.description).toContain(words);
  });

  it.each<[string, JsonObject]>([
    ["nothing", {}],
    ["-0, 2^53-1, fractions", { a: -0, b: Number.MAX_SAFE_INTEGER, c: Number.MIN_SAFE_INTEGER, d: 1.5e-300, e: 0.1 }],
    ["null, booleans, several lines", { a: null, b: true, c: false, d: "x\n\ty\r\n" }],
    ["32 levels", nested(32)],
    ["an empty object at level 32", { a: JSON.parse(`${"[".repeat(31)}{}${"]".repeat(31)}`) }],
    ["200 keys", keys(200)],
    ["a key of 128 code points, of any script", { ["\u{1f600}".repeat(128)]: 1, "Ключ ключа": 2, $ne: null }],
    ["4096 code points", { a: "\u{1f600}".repeat(4096) }],
  ])("rule 73: accepts %s", (_, value) => {
    expect(structProblem(value)).toBeNull();
  });

  it("rule 74: __proto__, constructor and prototype are ordinary keys", () => {
    const value = JSON.parse(
      '{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}},"prototype":1}',
    ) as JsonObject;
    expect(structProblem(value)).toBeNull();
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  it("rule 73: 10,000 levels overflow no stack", () => {
    expect(structProblem(nested(10_000))?.description).toContain("32 levels");
    let list: JsonValue = [];
    for (let level = 0; level < 10_000; level++) list = [list];
    expect(structProblem({ a: list })?.description).toContain("32 levels");
  });

  it("rule 73: counts the bytes of the JSON text in UTF-8, exactly", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.stringMatching(/^[a-zé€😀\\]{1,9}$/u), fc.jsonValue()), (value) => {
        const json = value as JsonObject;
        if (structProblem(json) !== null) return;
        const bytes = Buffer.byteLength(JSON.stringify(json));
        expect(structProblem(json, { ...LIMITS, structBytes: bytes })).toBeNull();
        expect(structProblem(json, { ...LIMITS, structBytes: bytes - 1 })?.description).toContain("bytes");
      }),
    );
    const escapes: JsonObject = {
      a: '"\\\t\n\r/\u00e9\u20ac\u{1f600}\u2028',
      b: [-0, 1.5e-7, 1e20 / 1e10, [], {}, [[]]],
    };
    const bytes = Buffer.byteLength(JSON.stringify(escapes));
    expect(structProblem(escapes, { ...LIMITS, structBytes: bytes })).toBeNull();
    expect(structProblem(escapes, { ...LIMITS, structBytes: bytes - 1 })).not.toBeNull();
  });

  it("rule 73: never throws on any JSON, and leaves it as it was", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.oneof(anyText, anyUnits), fc.jsonValue({ stringUnit: "binary" })), (value) => {
        const before = canonicalJson(value as JsonObject);
        structProblem(value as JsonObject);
        expect(canonicalJson(value as JsonObject)).toBe(before);
      }),
    );
  });

  const ofac = new URL("../../../shared/data/ofac-entities.ndjson", import.meta.url);
  it.skipIf(!existsSync(ofac))("rule 73: accepts the attributes, names and ids of 8,293 real entities", () => {
    const refused: unknown[] = [];
    for (const line of readFileSync(ofac, "utf8").trim().split("\n")) {
      const entity = JSON.parse(line) as {
        external_id: string;
        name: string;
        country_code: string;
        tax_id?: string;
        attributes?: JsonObject;
        entity_data?: JsonObject;
      };
      const problem =
        structProblem(entity.attributes ?? {}) ??
        structProblem(entity.entity_data ?? {}) ??
        identifierProblem(entity.external_id) ??
        identifierProblem(entity.tax_id ?? "", LIMITS.taxId) ??
        nameProblem(entity.name) ??
        countryCodeProblem(entity.country_code);
      if (problem) refused.push([entity.external_id, problem]);
    }
    expect(refused).toEqual([]);
  });
});
