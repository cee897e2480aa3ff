// Calls that arrive at once begin over several turns of the event loop, one connection after the other.
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import { createInTurn } from "../src/in-turn.ts";
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

test("those that are told the same go on one behind the other, and no more in a turn than it has time for", async () => {
  let time = 0;
  const done: string[] = [];
  const inTurn = createInTurn(15, () => time);
  const told = Promise.resolve();
  const goOn = async (name: string) => {
    await told.finally(() => inTurn.enter("key"));
    await undefined;
    time += 4;
    await undefined;
    done.push(name);
  };
  const all = Promise.all(Array.from({ length: 9 }, (_, i) => goOn(`${i}`)));
  await nextTurn();
  expect(done).toEqual(["0", "1", "2", "3"]);
  await nextTurn();
  expect(done).toEqual(["0", "1", "2", "3", "4", "5", "6", "7"]);
  await all;
  // And whoever comes later waits for nobody.
  await goOn("later");
  expect(done.slice(8)).toEqual(["8", "later"]);
});

test("what is under way is finished before more of the same owner's begins; another owner has its turn as well", async () => {
  let time = 0;
  const done: string[] = [];
  const inTurn = createInTurn(15, () => time);
  const parts = async (owner: string, name: string) => {
    await inTurn.enter(owner);
    for (let part = 1; part <= 3; part++) {
      time += 10;
      done.push(`${name}${part}`);
      await inTurn.enter(owner, true);
    }
  };
  await Promise.all([parts("one", "a"), parts("one", "b"), parts("one", "c"), parts("other", "x")]);
  expect(done.filter((name) => !name.startsWith("x"))).toEqual(
    ["a", "b", "c"].flatMap((name) => [1, 2, 3].map((part) => `${name}${part}`)),
  );
  expect(done.indexOf("x3")).toBeLessThan(done.indexOf("c1"));
});

test("work that is done when it returns shares the turn with it; another owner's is among the first of the next", async () => {
  let time = 0;
  const done: string[] = [];
  const inTurn = createInTurn(15, () => time);
  const work = (owner: string, name: string) =>
    inTurn.run(owner, () => {
      done.push(name);
      time += 6;
    });
  for (let i = 1; i <= 6; i++) work("flood", `f${i}`);
  work("other", "o1");
  const entered = inTurn.enter("third")?.then(() => done.push("t1"));
  expect(done).toEqual(["f1", "f2", "f3"]);
  await nextTurn();
  expect(done).toEqual(["f1", "f2", "f3", "f4", "o1", "t1", "f5"]);
  await entered;
  await nextTurn();
  expect(done.slice(7)).toEqual(["f6"]);
  // Nothing waits any more.
  work("flood", "later");
  expect(done.at(-1)).toBe("later");
  await nextTurn();
  expect(inTurn.enter("flood")).toBeUndefined();
});

test("an owner of much small work does not wait behind each piece of another's large work", async () => {
  let time = 0;
  const done: string[] = [];
  const inTurn = createInTurn(15, () => time);
  const work = (owner: string, ms: number) =>
    inTurn.run(owner, () => {
      done.push(owner);
      time += ms;
    });
  for (let i = 0; i < 4; i++) work("large", 40);
  for (let i = 0; i < 6; i++) work("small", 1);
  for (let i = 0; i < 3; i++) await nextTurn();
  expect(done.slice(0, 9)).toEqual(["large", "large", ...Array<string>(6).fill("small"), "large"]);
});

test("what arrives one by one in a turn has the same budget as what arrives together", async () => {
  let time = 0;
  const done: number[] = [];
  const inTurn = createInTurn(15, () => time);
  const arrive = async (name: number) => {
    await inTurn.enter("one");
    time += 10;
    done.push(name);
  };
  const all: Promise<void>[] = [];
  for (let i = 1; i <= 4; i++) {
    all.push(arrive(i));
    // As the event loop does between two sockets that it reads.
    await new Promise<void>((resolve) => process.nextTick(resolve));
  }
  expect(done).toEqual([1, 2]);
  await nextTurn();
  expect(done).toEqual([1, 2, 3, 4]);
  await Promise.all(all);
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
