// The versions of matrices that a process keeps are bounded by what they take, whatever they are.
import { expect, it } from "vitest";
import { chargeOf, KEPT_CHARACTERS } from "../src/risk/evaluations.ts";
import { createKept } from "../src/risk/kept.ts";

const rule = (expression: string) => ({
  ...{ id: "a", displayName: "A rule", expression, points: "1.00", state: "ACTIVE" as const },
});
const large = Array.from({ length: 200 }, () => rule("x".repeat(2_000)));

it("rule 148: however many matrices are read, what is kept of them stays within its bound", async () => {
  const kept = createKept<object>(KEPT_CHARACTERS);
  let most = 0;
  for (let i = 0; i < 1_000; i++) {
    const rules = i % 2 === 0 ? large : [rule("true")];
    await kept.get(`matrix ${i}`, async () => ({ value: rules, charge: chargeOf(rules) }));
    most = Math.max(most, kept.total());
  }
  expect(most).toBeLessThanOrEqual(KEPT_CHARACTERS);
  expect(most).toBeGreaterThan(0.8 * KEPT_CHARACTERS);
  expect(chargeOf(large)).toBeGreaterThan(400_000);
});

it("rule 148: small matrices are charged for more than their characters", () => {
  expect(chargeOf([rule("true")])).toBeGreaterThanOrEqual(1_200);
});

it("rule 148: what was used longest ago makes room, and is read anew; what alone is too much is kept alone", async () => {
  const kept = createKept<string>(10);
  const read: string[] = [];
  const get = (key: string, charge: number) =>
    kept.get(key, async () => {
      read.push(key);
      return { value: key, charge };
    });
  for (const key of ["a", "b", "a", "c"]) expect(await get(key, 4)).toBe(key);
  expect(kept.total()).toBe(8);
  for (const key of ["a", "c", "b"]) await get(key, 4);
  expect(read).toEqual(["a", "b", "c", "b"]);
  await get("huge", 50);
  expect(kept.total()).toBe(50);
  await get("a", 4);
  expect(kept.total()).toBe(4);
  // Read by two at once, it is charged for once.
  await Promise.all([get("d", 3), get("d", 3)]);
  expect(kept.total()).toBe(7);
});
