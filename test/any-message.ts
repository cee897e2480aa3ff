// Messages of any type of the contract, for property tests of what encodes and decodes them.
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import * as fc from "fast-check";

type Fields = Record<string, unknown>;

export const text = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.string({ unit: "grapheme", maxLength: 400 }),
);
export const json = fc.letrec((tie) => ({
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
export const struct = fc.dictionary(text, json.value, { maxKeys: 5 });

const scalars: Partial<Record<ScalarType, fc.Arbitrary<unknown>>> = {
  [ScalarType.STRING]: text,
  [ScalarType.BYTES]: fc.uint8Array({ maxLength: 300 }),
  [ScalarType.BOOL]: fc.boolean(),
  [ScalarType.INT32]: fc.integer(),
  [ScalarType.INT64]: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  [ScalarType.UINT32]: fc.nat(),
  [ScalarType.DOUBLE]: fc.double(),
};

export function valueToInit(desc: DescMessage, value: unknown): Fields {
  const kind = { case: "stringValue", value: JSON.stringify(value) };
  return desc === ValueSchema ? { kind } : { values: [{ kind }, { kind: { case: "nullValue", value: 0 } }] };
}

const nanos = fc.integer({ min: 0, max: 999_999_999 });
/** Of messages that JSON has a form of its own for: what has one. */
const special: Record<string, fc.Arbitrary<Fields>> = {
  "google.protobuf.Timestamp": fc.record({ seconds: fc.bigInt({ min: 0n, max: 253_402_300_799n }), nanos }),
  "google.protobuf.Duration": fc.record({ seconds: fc.bigInt({ min: 0n, max: 315_576_000_000n }), nanos }),
  "google.protobuf.FieldMask": fc.record({ paths: fc.array(fc.constantFrom("name", "tax_id", "entity_data.person")) }),
  "google.protobuf.Any": fc.constant({}),
};

/** Values that a field may be set to, as one would write them; undefined as well. */
function valueFor(field: DescField, depth: number): fc.Arbitrary<unknown> {
  const one = field.message
    ? field.message.typeName === "google.protobuf.Struct"
      ? struct
      : field.message.typeName === ValueSchema.typeName
        ? json.value.map((value) => valueToInit(ValueSchema, value))
        : special[field.message.typeName] !== undefined
          ? special[field.message.typeName]
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

/** Init shapes of a message, nested as deep as `depth`. */
export function messageOf(desc: DescMessage, depth: number): fc.Arbitrary<Fields> {
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
