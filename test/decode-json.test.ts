// Requests in JSON are decoded without the library's messages of free values: it must be what the library decodes, or be
// refused where the library refuses.
import { isDeepStrictEqual } from "node:util";
import {
  create,
  createRegistry,
  type DescMessage,
  fromJsonString,
  type Message,
  toJsonString,
} from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { RecordTransactionsRequestSchema } from "../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import {
  CreateEntityRequestSchema,
  UpdateEntityRequestSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { isObject, type JsonValue } from "../src/domain/json.ts";
import { jsonDecoder } from "../src/transport/decode-json.ts";
import { DETAILS } from "../src/transport/reflection.ts";
import { messageOf } from "./any-message.ts";
import { SERVICES } from "./services.ts";
import { refusalOf } from "./transport-harness.ts";

const options = { registry: createRegistry(...DETAILS, ...SERVICES.map(({ file }) => file)) };
const inputs = new Map(
  SERVICES.flatMap(({ methods }) => methods.map(({ input }): [string, DescMessage] => [input.typeName, input])),
);

/** What the library makes of a text; undefined where it refuses it. */
function libraryMessage(desc: DescMessage, text: string): Message | undefined {
  try {
    return fromJsonString(desc, text, options);
  } catch {
    return undefined;
  }
}

function ours(desc: DescMessage, text: string): Message | undefined {
  try {
    return jsonDecoder(desc, options)(Buffer.from(text));
  } catch {
    return undefined;
  }
}

/** What may stand in the place of a value. */
const WRONG: JsonValue[] = [
  null,
  true,
  0,
  -1.5,
  "",
  "x",
  "1s",
  [],
  [null],
  [{}],
  {},
  { a: 1 },
  { __proto: [{ b: null }] },
];
const change = fc.record({
  at: fc.nat(60),
  how: fc.constantFrom("replace", "remove", "repeat", "snake"),
  value: fc.constantFrom(...WRONG),
});
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

/** The text with one of its values changed, or a key of it. */
function changed(json: JsonValue, { at, how, value }: Change): string {
  let left = at;
  const walk = (node: JsonValue): string => {
    if (Array.isArray(node)) return `[${node.map(walk).join(",")}]`;
    if (!isObject(node)) return JSON.stringify(node);
    const members = Object.entries(node).flatMap(([key, member]) => {
      const isHere = left-- === 0;
      const name = JSON.stringify(key);
      const written = `${name}:${walk(member)}`;
      if (!isHere) return [written];
      if (how === "remove") return [];
      if (how === "replace") return [`${name}:${JSON.stringify(value)}`];
      if (how === "repeat") return [written, written];
      return [`${JSON.stringify(key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`))}:${walk(member)}`];
    });
    return `{${members.join(",")}}`;
  };
  return walk(json);
}

describe("a request in JSON is what the library decodes", () => {
  test.each([...inputs])("%s", (_, desc) => {
    const decode = jsonDecoder(desc, options);
    void fc.assert(
      fc.property(messageOf(desc, 3), fc.array(change, { maxLength: 3 }), (init, changes) => {
        const text = toJsonString(desc, create(desc, init as never), options);
        expect(isDeepStrictEqual(decode(Buffer.from(text)), libraryMessage(desc, text))).toBe(true);
        for (const one of changes) {
          const other = changed(JSON.parse(text) as JsonValue, one);
          const expected = libraryMessage(desc, other);
          if (!isDeepStrictEqual(ours(desc, other), expected)) expect.fail(`${desc.name} is not the same: ${other}`);
        }
      }),
      { numRuns: 150 },
    );
  });
});

const attributesOf = (attributes: unknown) => JSON.stringify({ entity: { attributes } });

test.each<[string, DescMessage, string]>([
  ["an empty Struct", CreateEntityRequestSchema, attributesOf({})],
  ["no Struct", CreateEntityRequestSchema, attributesOf(null)],
  [
    "a key __proto__",
    CreateEntityRequestSchema,
    '{"entity":{"attributes":{"__proto__":{"a":1},"b":[{"__proto__":2}]}}}',
  ],
  ["a number that is none", CreateEntityRequestSchema, '{"entity":{"attributes":{"a":1e999}}}'],
  ["half of a character", CreateEntityRequestSchema, '{"entity":{"attributes":{"a":"\\ud800"}}}'],
  [
    "the second case of a oneof, by the names of the contract",
    CreateEntityRequestSchema,
    JSON.stringify({ entity: { metadata: { n: 2 }, entity_data: { company: { additional: { n: 3 } } } } }),
  ],
  [
    "Structs in the order of the request, not of the contract",
    CreateEntityRequestSchema,
    '{"entity":{"metadata":{"m":1},"entityData":{"person":{"address":{"additional":{"d":4}},"additional":{"c":3}}},"attributes":{"a":2}}}',
  ],
  [
    "a list with and without them",
    RecordTransactionsRequestSchema,
    JSON.stringify({ transactions: [{ id: "1" }, { id: "2", details: { n: 2 } }, { id: "3", details: {} }] }),
  ],
])("%s: as the library has it", (_, desc, text) => {
  const expected = libraryMessage(desc, text);
  expect(expected).toBeDefined();
  expect(isDeepStrictEqual(jsonDecoder(desc, options)(Buffer.from(text)), expected)).toBe(true);
});

const refusal = (text: string, desc: DescMessage = CreateEntityRequestSchema) => {
  try {
    jsonDecoder(desc, options)(Buffer.from(text));
  } catch (error) {
    return refusalOf(error as ConnectError);
  }
  return undefined;
};

describe("what is nested too deeply is refused with its place, in a long request as well", () => {
  const nested = (levels: number) => `${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`;
  test.each([
    ["92 levels", nested(92), ""],
    ["many thousand", nested(40_000), ""],
    ["in lists", `{"a":${"[".repeat(92)}${"]".repeat(92)}}`, ""],
    ["behind much else", nested(92), "x".repeat(200_000)],
  ])("%s", (_, attributes, reason) => {
    const text = `{"reason":"${reason}","entity":{"attributes":${attributes}}}`;
    expect(refusal(text)).toMatchObject({
      reason: "VALIDATION_ERROR",
      metadata: { field: "entity.attributes", limit: "32" },
    });
  });

  test("the rule names the place in what is not as deep", () => {
    const text = `{"entity":{"attributes":${nested(90)}}}`;
    expect(
      isDeepStrictEqual(ours(CreateEntityRequestSchema, text), libraryMessage(CreateEntityRequestSchema, text)),
    ).toBe(true);
    expect(refusal(text)).toBeUndefined();
  });
});

test("a mask of too many paths is refused before its text is taken apart", () => {
  const mask = (paths: number) => JSON.stringify({ entity: {}, updateMask: Array<string>(paths).fill("name").join() });
  const decode = jsonDecoder(UpdateEntityRequestSchema, options);
  expect(isDeepStrictEqual(decode(Buffer.from(mask(100))), libraryMessage(UpdateEntityRequestSchema, mask(100)))).toBe(
    true,
  );
  for (const paths of [101, 500_000]) {
    expect(refusal(mask(paths), UpdateEntityRequestSchema)).toMatchObject({
      reason: "VALIDATION_ERROR",
      metadata: { field: "update_mask.paths" },
      message: "update_mask.paths: must not have more than 100 items",
    });
  }
});

test("a mask that is longer than its paths may be is refused", () => {
  expect(refusal(JSON.stringify({ updateMask: "A".repeat(409_601) }), UpdateEntityRequestSchema)).toMatchObject({
    reason: "VALIDATION_ERROR",
    message: "update_mask: must not be longer than 409600 characters",
  });
  const text = JSON.stringify({ updateMask: "Aé,aB".repeat(99) });
  expect(
    isDeepStrictEqual(ours(UpdateEntityRequestSchema, text), libraryMessage(UpdateEntityRequestSchema, text)),
  ).toBe(true);
});

test("a key that reads as the library's error takes no longer than another, and is not repeated", () => {
  const text = (key: string) => JSON.stringify({ [key]: 1, more: "x".repeat(140_000) });
  const key = 'duplicate object key "'.repeat(20_000);
  const told = refusal(text(key));
  expect(told).toEqual(refusal(text("b".repeat(key.length))));
  expect(JSON.stringify(told)).not.toContain("duplicate");
  expect(refusal(`{"a":1,"a":2,"more":"${"x".repeat(140_000)}"}`)?.message).toBe(
    "A key is given twice in one object of the request",
  );
});
