import { describe, expect, it } from "vitest";
import { instantToText, parseInstant } from "../../src/domain/time.ts";

describe("an instant", () => {
  it.each([
    ["2026-11-24 09:05:11+00", "2026-11-24T09:05:11.000Z"],
    ["2026-11-24 09:05:11.5+00", "2026-11-24T09:05:11.500Z"],
    ["2026-11-24T09:05:11.000001+00:00", "2026-11-24T09:05:11.000001Z"],
    ["2026-11-24 09:05:11.123456+00", "2026-11-24T09:05:11.123456Z"],
    ["2026-11-24T09:05:12Z", "2026-11-24T09:05:12.000Z"],
    ["0001-01-01 00:00:00+00", "0001-01-01T00:00:00.000Z"],
    ["0099-12-31 23:59:59.999999+00", "0099-12-31T23:59:59.999999Z"],
    ["1969-12-31 23:59:59.999999+00", "1969-12-31T23:59:59.999999Z"],
    ["2024-02-29 12:00:00+00", "2024-02-29T12:00:00.000Z"],
    ["9999-12-31 23:59:59.999999+00", "9999-12-31T23:59:59.999999Z"],
  ])("%s is read to the microsecond", (text, written) => {
    expect(instantToText(parseInstant(text))).toBe(written);
    expect(instantToText(parseInstant(written))).toBe(written);
  });

  it("counts from 1970", () => {
    expect(parseInstant("1970-01-01 00:00:00+00")).toBe(0n);
    expect(parseInstant("1970-01-01 00:00:01.000002+00")).toBe(1_000_002n);
    expect(parseInstant("1969-12-31 23:59:59.999999+00")).toBe(-1n);
  });

  it.each([
    "",
    "infinity",
    "2026-11-24",
    "2026-11-24 09:05:11",
    "2026-11-24 09:05:11.+00",
    "2026-11-24 09:05:11.1234567+00",
    "2026-11-24 09:05:11+01",
    "2026-11-24 09:05:11+00 BC",
    "2026-13-24 09:05:11+00",
    "20261-11-24 09:05:11+00",
  ])("%j is none, whatever was read before", (text) => {
    parseInstant("2026-11-24 09:05:11+00");
    expect(() => parseInstant(text)).toThrow("not a UTC timestamp");
    expect(() => parseInstant(text)).toThrow("not a UTC timestamp");
  });
});
