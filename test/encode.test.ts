// What we encode without the library, against the library.
import { create, type DescField, type DescMessage, fromBinary, ScalarType, toBinary } from "@bufbuild/protobuf";
import { ListValueSchema, ValueSchema } from "@bufbuild/protobuf/wkt";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { WatchEntitiesResponseSchema } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { Health } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { frameEncoder } from "../src/transport/encode.ts";
import { SERVICES } from "./services.ts";

type Fields = Record<string, unknown>;

const text = fc.oneof(fc.string({ unit: "binary", maxLength: 40 }), fc.string({ unit: "grapheme", maxLength: 400 }));
const json = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    fc.constant(null),
    fc.boolean(),
    text,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(text, tie("value"), { maxKeys: 3 }),
  ),
}));
const struct = fc.dictionary(text, json.value, { maxKeys: 5 });

const scalars: Partial<Record<ScalarType, fc.Arbitrary<unknown>>> = {
  [ScalarType.STRING]: text,
  [ScalarType.BYTES]: fc.uint8Array({ maxLength: 300 }),
  [ScalarType.BOOL]: fc.boolean(),
  [ScalarType.INT32]: fc.integer(),
  [ScalarType.INT64]: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  [ScalarType.UINT32]: fc.nat(),
  [ScalarType.DOUBLE]: fc.double(),
};

function valueToInit(desc: DescMessage, value: unknown): Fields {
  const kind = { case: "stringValue", value: JSON.stringify(value) };
  return desc === ValueSchema ? { kind } : { values: [{ kind }, { kind: { case: "nullValue", value: 0 } }] };
}

/** Values that a field may be set to, as one would write them; undefined as well. */
function valueFor(field: DescField, depth: number): fc.Arbitrary<unknown> {
  const one = field.message
    ? field.message.typeName === "google.protobuf.Struct"
      ? struct
      : field.message.typeName === ValueSchema.typeName
        ? json.value.map((value) => valueToInit(ValueSchema, value))
        : depth === 0
          ? fc.constant(undefined)
          : messageOf(field.message, depth - 1)
    : field.enum
      ? fc.constantFrom(...field.enum.values.map(({ number }) => number), -1, 77)
      : scalars[field.scalar as ScalarType];
  if (one === undefined) throw new Error(`${field} is of a kind that is not tried here`);
  if (field.fieldKind === "map") return fc.dictionary(text, one, { maxKeys: 3 });
  if (field.fieldKind === "list")
    return fc.array(
      one.filter((item) => item !== undefined),
      { maxLength: 3 },
    );
  return one;
}

function messageOf(desc: DescMessage, depth: number): fc.Arbitrary<Fields> {
  const fields = desc.fields.filter(({ oneof }) => oneof === undefined);
  const single = fc.record(
    Object.fromEntries(fields.map((field) => [field.localName, fc.option(valueFor(field, depth), { nil: undefined })])),
  );
  const oneofs = fc.record(
    Object.fromEntries(
      desc.oneofs.map(({ localName, fields: cases }) => [
        localName,
        fc.oneof(
          fc.constant({ case: undefined }),
          ...cases.map((field) =>
            valueFor(field, depth).map((value) =>
              value === undefined ? { case: undefined } : { case: field.localName, value },
            ),
          ),
        ),
      ]),
    ),
  );
  return fc.tuple(single, oneofs).map(([a, b]) => {
    const all = { ...a, ...b };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  });
}

const messages = new Map(
  [...SERVICES, Health]
    .flatMap(({ methods }) => methods.map(({ output }): [string, DescMessage] => [output.typeName, output]))
    .concat([
      [ValueSchema.typeName, ValueSchema],
      [ListValueSchema.typeName, ListValueSchema],
    ]),
);

describe("the bytes of a message are the library's", () => {
  test.each([...messages])("%s", (_, desc) => {
    const { frame } = frameEncoder(desc);
    const inits = desc.typeName.startsWith("google.")
      ? json.value.map((value) => valueToInit(desc, value))
      : messageOf(desc, 3);
    void fc.assert(
      fc.property(inits, (init) => {
        const message = create(desc, init as never);
        const expected = toBinary(desc, message);
        for (const given of [init, message]) {
          const framed = frame(given as never);
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
    const decoded = fromBinary(WatchEntitiesResponseSchema, frame(init as never).subarray(5));
    expect(decoded).toEqual(create(WatchEntitiesResponseSchema, init as never));
  }
});

test("what is no JSON is an error, and the next message is whole all the same", () => {
  const { frame } = frameEncoder(WatchEntitiesResponseSchema);
  expect(() => frame({ position: "first", event: { newValues: { bad: undefined } } } as never)).toThrow();
  expect(fromBinary(WatchEntitiesResponseSchema, frame({ position: "next" } as never).subarray(5)).position).toBe(
    "next",
  );
});
