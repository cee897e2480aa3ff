import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalJson, type JsonValue, sameJson } from "../../src/domain/json.ts";

const json = fc.jsonValue({ depthSize: "medium" }) as fc.Arbitrary<JsonValue>;

function withKeysReversed(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(withKeysReversed);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, member]) => [key, withKeysReversed(member)]),
  );
}

describe("canonicalJson", () => {
  it("rule 39: sorts keys at every level and keeps the order of arrays", () => {
    expect(canonicalJson({ b: [{ z: 1, a: null }, "x"], a: true })).toBe('{"a":true,"b":[{"a":null,"z":1},"x"]}');
  });

  it("rule 74: __proto__ is a key like any other", () => {
    expect(canonicalJson(JSON.parse('{"b":1,"__proto__":{"x":1},"constructor":2}'))).toBe(
      '{"__proto__":{"x":1},"b":1,"constructor":2}',
    );
  });

  it("rule 39: reads back as the same value, and does not change with the order of keys", () => {
    fc.assert(
      fc.property(json, (value) => {
        expect(canonicalJson(JSON.parse(canonicalJson(value)))).toBe(canonicalJson(value));
        expect(canonicalJson(withKeysReversed(value))).toBe(canonicalJson(value));
        expect(sameJson(JSON.parse(canonicalJson(value)), value)).toBe(true);
      }),
    );
  });
});

describe("sameJson", () => {
  it.each<[JsonValue, JsonValue]>([
    [
      { a: 1, b: 2 },
      { b: 2, a: 1 },
    ],
    [
      [1, { a: [] }],
      [1, { a: [] }],
    ],
    [0, -0],
    [null, null],
  ])("rule 33: %j and %j are the same", (a, b) => {
    expect(sameJson(a, b)).toBe(true);
  });

  it.each<[JsonValue, JsonValue]>([
    [{ a: 1 }, { a: 1, b: 2 }],
    [{ a: 1, b: 2 }, { a: 1 }],
    [{ a: 1 }, { b: 1 }],
    [{ a: null }, { b: null }],
    [
      [1, 2],
      [2, 1],
    ],
    [[], {}],
    [[], { length: 0 }],
    [{}, null],
    ["1", 1],
    [[1], [1, 1]],
    [{ a: 1 }, JSON.parse('{"__proto__":1}')],
    [JSON.parse('{"__proto__":{}}'), { x: {} }],
    [JSON.parse('{"constructor":{}}'), { x: {} }],
  ])("rule 33: %j and %j differ", (a, b) => {
    expect(sameJson(a, b)).toBe(false);
    expect(sameJson(b, a)).toBe(false);
  });

  it("rule 33: two values are the same exactly if their canonical texts are", () => {
    fc.assert(
      fc.property(json, json, (a, b) => void expect(sameJson(a, b)).toBe(canonicalJson(a) === canonicalJson(b))),
    );
  });
});
