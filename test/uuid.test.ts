// Ids follow each other in the order in which a process makes them, whatever its clock does.
import { afterEach, describe, expect, it, vi } from "vitest";
import { newId } from "../src/db/uuid.ts";

afterEach(() => void vi.useRealTimers());

const isUuid7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const millisecondsOf = (id: string) => Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);

/** Ids, each expected to be a UUIDv7 that is greater than the one before. */
function expectIds(count: number, between: (made: number) => void = () => {}): string[] {
  const ids = Array.from({ length: count }, (_, i) => {
    between(i);
    return newId();
  });
  expect(ids.filter((id) => !isUuid7.test(id)).slice(0, 3)).toEqual([]);
  expect(ids.filter((id, i) => i > 0 && id <= (ids[i - 1] as string)).slice(0, 3)).toEqual([]);
  return ids;
}

describe("ids of one process", () => {
  it("are UUIDs of version 7, each greater than the one before, of any one millisecond too", () => {
    const now = Date.now();
    expect(Math.abs(millisecondsOf(expectIds(100_000)[0] as string) - now)).toBeLessThan(60_000);
    vi.useFakeTimers({ now: Date.now() + 1000, toFake: ["Date"] });
    // More than twelve bits count.
    expectIds(20_000);
  });

  it("go on where the clock goes back, and follow it when it has caught up", () => {
    const start = Date.now() + 10_000;
    vi.useFakeTimers({ now: start, toFake: ["Date"] });
    const ids = expectIds(6000, (made) => vi.setSystemTime(made < 2000 ? start : start - 3_600_000 + made));
    expect(millisecondsOf(ids.at(-1) as string) - start).toBeLessThan(3);
    vi.setSystemTime(start + 50);
    expect(millisecondsOf(newId())).toBe(start + 50);
  });

  it("differ in 62 random bits, and begin a millisecond anywhere in the lower half of the count", () => {
    const start = Date.now() + 60_000;
    vi.useFakeTimers({ toFake: ["Date"] });
    const ids = expectIds(4000, (made) => vi.setSystemTime(start + made));
    expect(new Set(ids.map((id) => id.slice(19))).size).toBe(ids.length);
    const counts = ids.map((id) => Number.parseInt(id.slice(15, 18), 16));
    expect(Math.max(...counts)).toBeLessThan(0x800);
    expect(new Set(counts).size).toBeGreaterThan(1000);
    // Each of the bits is as often set as not: far from 2000 of 4000 by ten deviations is no chance.
    const ends = ids.map((id) => BigInt(`0x${id.slice(19).replace("-", "")}`) & ((1n << 62n) - 1n));
    for (let bit = 0n; bit < 62n; bit++) {
      const set = ends.filter((end) => ((end >> bit) & 1n) === 1n).length;
      expect(Math.abs(set - 2000), `bit ${bit}`).toBeLessThan(320);
    }
  });
});
