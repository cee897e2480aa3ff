// Calls that arrive at once begin over several turns of the event loop, one connection after the other.
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import { createTurns } from "../src/transport/turns.ts";

/** Each call takes 4 of the 15 ms that a turn has. */
function calls() {
  let time = 0;
  const begun: string[] = [];
  const turns = createTurns(15, () => time);
  const arrive = (connection: object, name: string) =>
    turns(connection, () => {
      begun.push(name);
      time += 4;
    });
  return { begun, arrive };
}

test("those of one turn begin at once, as long as there are few", async () => {
  const { begun, arrive } = calls();
  const [a, b] = [{}, {}];
  arrive(a, "a1");
  arrive(b, "b1");
  expect(begun).toEqual(["a1", "b1"]);
  await nextTurn();
  arrive(a, "a2");
  expect(begun).toEqual(["a1", "b1", "a2"]);
});

test("a flood of one connection is spread over turns, and the call of another is among the first of the next", async () => {
  const { begun, arrive } = calls();
  const [flood, other] = [{}, {}];
  for (let i = 1; i <= 20; i++) arrive(flood, `f${i}`);
  arrive(other, "o1");
  expect(begun).toEqual(["f1", "f2", "f3", "f4"]);
  await nextTurn();
  expect(begun).toEqual(["f1", "f2", "f3", "f4", "f5", "o1", "f6", "f7"]);
  // What arrives meanwhile gets its turn like the others.
  arrive(other, "o2");
  await nextTurn();
  expect(begun.slice(8)).toEqual(["f8", "o2", "f9", "f10"]);
  for (let i = 0; i < 4; i++) await nextTurn();
  expect(begun.filter((name) => name.startsWith("f"))).toEqual(Array.from({ length: 20 }, (_, i) => `f${i + 1}`));
  expect(begun).toHaveLength(22);
});

test("without a budget one begins in each turn", async () => {
  const begun: number[] = [];
  const turns = createTurns(0);
  for (let i = 0; i < 3; i++) turns({}, () => begun.push(i));
  expect(begun).toEqual([]);
  await nextTurn();
  expect(begun).toEqual([0]);
  await nextTurn();
  await nextTurn();
  expect(begun).toEqual([0, 1, 2]);
});
