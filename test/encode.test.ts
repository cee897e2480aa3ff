// What we encode without the library, against the library.
import { create, type DescMessage, fromBinary, toBinary, toJsonString } from "@bufbuild/protobuf";
import { ListValueSchema, ValueSchema } from "@bufbuild/protobuf/wkt";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  BatchGetEntitiesResponseSchema,
  WatchEntitiesResponseSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { Health } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { PIECE_BYTES } from "../src/transport/answer-limits.ts";
import { frameEncoder } from "../src/transport/encode.ts";
import { jsonEncoder } from "../src/transport/encode-json.ts";
import { json, messageOf, valueToInit } from "./any-message.ts";
import { atOnce, never } from "./frames.ts";
import { SERVICES } from "./services.ts";

const messages = new Map(
  [...SERVICES, Health]
    .flatMap(({ methods }) => methods.map(({ output }): [string, DescMessage] => [output.typeName, output]))
    .concat([
      [ValueSchema.typeName, ValueSchema],
      [ListValueSchema.typeName, ListValueSchema],
    ]),
);

describe("the bytes of a message are the library's, and its JSON", () => {
  test.each([...messages])("%s", (_, desc) => {
    const { frame } = frameEncoder(desc);
    const encodeJson = jsonEncoder(desc, {});
    const inits = desc.typeName.startsWith("google.")
      ? json.value.map((value) => valueToInit(desc, value))
      : messageOf(desc, 3);
    void fc.assert(
      fc.property(inits, (init) => {
        const message = create(desc, init as never);
        const expected = toBinary(desc, message);
        expect(atOnce(encodeJson(message, never)).toString()).toBe(toJsonString(desc, message));
        for (const given of [init, message]) {
          const framed = atOnce(frame(given as never, never));
          expect(framed[0]).toBe(0);
          expect(framed.readUInt32BE(1)).toBe(framed.length - 5);
          expect(framed.subarray(5).equals(expected)).toBe(true);
        }
      }),
      { numRuns: 60 },
    );
  });

  /** A Value or a ListValue that is not empty. */
});

test("a message of several MiB, and a small one behind it", () => {
  const { frame } = frameEncoder(WatchEntitiesResponseSchema);
  const newValues = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`key ${i}`, "é".repeat(60_000)]));
  for (const init of [{ event: { newValues } }, { position: "small" }]) {
    const pieces = frame(init as never, never) as Buffer[];
    expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThanOrEqual(PIECE_BYTES);
    const decoded = fromBinary(WatchEntitiesResponseSchema, atOnce(pieces).subarray(5));
    expect(decoded).toEqual(create(WatchEntitiesResponseSchema, init as never));
  }
});

test("what is no JSON is an error, and the next message is whole all the same", () => {
  const { frame } = frameEncoder(WatchEntitiesResponseSchema);
  expect(() => frame({ position: "first", event: { newValues: { bad: undefined } } } as never, never)).toThrow();
  expect(
    fromBinary(WatchEntitiesResponseSchema, atOnce(frame({ position: "next" } as never, never)).subarray(5)).position,
  ).toBe("next");
});

describe("a long list is written in parts", () => {
  const { frame } = frameEncoder(BatchGetEntitiesResponseSchema);
  const batch = (...lengths: number[]) => ({
    results: lengths.map((length, i) => ({
      result: { case: "entity" as const, value: { id: `${i}`, attributes: { text: "x".repeat(length) } } },
      redirectedFrom: "",
    })),
  });
  const expected = (init: ReturnType<typeof batch>) =>
    Buffer.from(toBinary(BatchGetEntitiesResponseSchema, create(BatchGetEntitiesResponseSchema, init)));

  test.each([
    ["many small ones", Array<number>(4_000).fill(700), 44],
    ["large ones", Array<number>(6).fill(500_000), 6],
    ["a large one among small ones", [10, 600_000, 10, 10], 2],
    ["just as much as a part", [65_536 - 200, 10, 10], 1],
  ])("%s", async (_, lengths, parts) => {
    const init = batch(...lengths);
    const told: number[] = [];
    const pieces = await frame(init as never, async (bytes) => void told.push(bytes));
    const whole = Buffer.concat(pieces);
    expect(whole.subarray(5).equals(expected(init))).toBe(true);
    expect([whole[0], whole.readUInt32BE(1)]).toEqual([0, whole.length - 5]);
    expect(pieces.every(({ length }) => length > 0 && length <= PIECE_BYTES)).toBe(true);
    expect(told.length).toBeGreaterThanOrEqual(parts - 1);
    expect(told.length).toBeLessThanOrEqual(parts + 1);
    expect(told).toEqual(told.toSorted((a, b) => a - b));
    expect(new Set(told).size).toBe(told.length);
    expect(told.at(-1) ?? 0).toBeLessThanOrEqual(whole.length);
  });

  test("in JSON too, which is the library's", async () => {
    const encode = jsonEncoder(BatchGetEntitiesResponseSchema, {});
    const message = create(BatchGetEntitiesResponseSchema, batch(...Array<number>(300).fill(1_000)));
    const told: number[] = [];
    const pieces = await encode(message, async (bytes) => void told.push(bytes));
    expect(Buffer.concat(pieces).toString()).toBe(toJsonString(BatchGetEntitiesResponseSchema, message));
    expect(told).toHaveLength(4);
    expect(told).toEqual(told.toSorted((a, b) => a - b));
  });

  test("others are written in between", async () => {
    const long = batch(...Array<number>(10).fill(100_000));
    const short = batch(3);
    let between = 0;
    const pieces = await frame(long as never, async () => {
      const other = await frame(short as never, never);
      expect(Buffer.concat(other).subarray(5).equals(expected(short))).toBe(true);
      between += 1;
    });
    expect(between).toBeGreaterThan(5);
    expect(Buffer.concat(pieces).subarray(5).equals(expected(long))).toBe(true);
  });

  test("where there is no room for more, the rest is not written, and the next is whole", async () => {
    const long = batch(...Array<number>(10).fill(100_000));
    let told = 0;
    const more = () => {
      told += 1;
      if (told === 3) throw new Error("no room");
      return undefined;
    };
    await expect(frame(long as never, more)).rejects.toThrow("no room");
    expect(told).toBe(3);
    expect(
      atOnce(frame(batch(1) as never, never))
        .subarray(5)
        .equals(expected(batch(1))),
    ).toBe(true);
  });
});
