// Places for what waits: who loses one when there is one too many.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createPlaces, type Place, type Waiting } from "../src/transport/places.ts";

interface Named extends Waiting {
  name: string;
}

describe("of those that wait", () => {
  function given(max: number) {
    const late: string[] = [];
    const places = createPlaces<Named>(max, ({ name }) => void late.push(name));
    return { late, arrive: (name: string, connection: object): Place => places.enter({ name, connection }) };
  }

  test("one too many lets go of the one that has waited longest", () => {
    const { late, arrive } = given(3);
    const [a] = [arrive("a", {}), arrive("b", {}), arrive("c", {})];
    expect(late).toEqual([]);
    arrive("d", {});
    expect(late).toEqual(["a"]);
    // It is none any more: to end it twice frees no place.
    a.leave();
    a.leave();
    arrive("e", {});
    expect(late).toEqual(["a", "b"]);
  });

  test("those that wait no longer have no place", () => {
    const { late, arrive } = given(2);
    for (let i = 0; i < 10; i++) arrive(`${i}`, {}).leave();
    expect(late).toEqual([]);
  });

  test("a connection with many loses its own first", () => {
    const { late, arrive } = given(20);
    arrive("honest", {});
    const flood = {};
    for (let i = 0; i < 25; i++) arrive(`flood ${i}`, flood);
    expect(late).toEqual(Array.from({ length: 6 }, (_, i) => `flood ${i}`));
  });
});

test("whoever comes and goes, in any order: never more than the bound, and the right one loses its place", () => {
  const steps = fc.array(
    fc.oneof(
      { weight: 2, arbitrary: fc.record({ comes: fc.integer({ min: 0, max: 2 }) }) },
      { weight: 1, arbitrary: fc.record({ goes: fc.nat({ max: 200 }) }) },
    ),
    { minLength: 100, maxLength: 300, size: "max" },
  );
  fc.assert(
    fc.property(steps, (all) => {
      const MAX = 25;
      const connections = [{}, {}, {}];
      const ended: string[] = [];
      const room = createPlaces<Named>(MAX, ({ name }) => void ended.push(name));
      const places: Place[] = [];
      let left: { number: number; connection: number }[] = [];
      const expected: string[] = [];
      for (const step of all) {
        if ("goes" in step) {
          places[step.goes]?.leave();
          left = left.filter(({ number }) => number !== step.goes);
          continue;
        }
        const number = places.length;
        left.push({ number, connection: step.comes });
        if (left.length > MAX) {
          const many = (at: number) => left.filter(({ connection }) => connection === at).length >= 16;
          const late = (left.find(({ connection }) => many(connection)) ?? left[0])?.number as number;
          expected.push(`${late}`);
          left = left.filter((one) => one.number !== late);
        }
        places.push(room.enter({ connection: connections[step.comes] as object, name: `${number}` }));
      }
      expect(ended).toEqual(expected);
    }),
  );
});
