// Which commands that wait go into one transaction.
import { expect, test } from "vitest";
import { takeGroup, type Waiting } from "../src/entities/waiting.ts";

const listOf = (...bytes: (number | undefined)[]): Waiting[] =>
  bytes.map((size) => ({ command: { bytes: size } }) as unknown as Waiting);
const sizes = (group: readonly Waiting[]) => group.map(({ command }) => command.bytes);
const KIB = 1024;

test("as many as there may be, in their order", () => {
  const list = listOf(1, 2, undefined, 4);
  expect(sizes(takeGroup(list, 3))).toEqual([1, 2, undefined]);
  expect(sizes(list)).toEqual([4]);
});

test("no more bytes of requests than a turn of the event loop decides, but for a single one", () => {
  const list = listOf(500 * KIB, 60 * KIB, 60 * KIB, 60 * KIB, 1);
  expect(sizes(takeGroup(list, 128))).toEqual([500 * KIB]);
  expect(sizes(takeGroup(list, 128))).toEqual([60 * KIB, 60 * KIB]);
  expect(sizes(takeGroup(list, 128))).toEqual([60 * KIB, 1]);
  expect(sizes(takeGroup(list, 128))).toEqual([]);
});

test("what others of the transaction have taken counts: nothing is taken where they have it all", () => {
  const list = listOf(60 * KIB, 1);
  expect(takeGroup(list, 16, 100 * KIB)).toEqual([]);
  expect(sizes(takeGroup(list, 16, 10 * KIB))).toEqual([60 * KIB, 1]);
});
