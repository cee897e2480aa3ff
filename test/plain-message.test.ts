// Requests with free values in them are decoded by our own reader where their bytes are as writers write them: it must say
// what the library says, byte for byte, or leave them to it.
import { isDeepStrictEqual } from "node:util";
import { create, type DescMessage, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  ActivityService,
  RecordTransactionsRequestSchema,
  RecordUserEventsRequestSchema,
} from "../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import {
  CreateEntityRequestSchema,
  EntityService,
  UpdateEntityRequestSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { OrganizationService } from "../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { RiskMatrixService } from "../clients/typescript/gen/entity/v1/risk_matrix_service_pb.ts";
import { WebhookService } from "../clients/typescript/gen/entity/v1/webhook_service_pb.ts";
import { assertKinds } from "../src/transport/kindless.ts";
import { plainMessage } from "../src/transport/plain-message.ts";
import { wireOf } from "../src/transport/values.ts";
import { lengthDelimited as field, varint } from "./frames.ts";
import { type Random, randomOf } from "./hostile/random.ts";

const SEED = process.env.TEST_SEED ?? String(Date.now() % 2 ** 31);

type Free = Record<string, never>;

const inputs = [EntityService, ActivityService, RiskMatrixService, OrganizationService, WebhookService]
  .flatMap(({ methods }) => methods)
  .map(({ input }) => input);
const withStructs = inputs.filter((input) => plainMessage(input, new Uint8Array()) !== undefined);

const update = (attributes: unknown, metadata: unknown = undefined) =>
  create(UpdateEntityRequestSchema, {
    lookup: { by: { case: "externalId", value: "crm-1" } },
    entity: {
      name: "María Núñez",
      attributes: attributes as Free,
      ...(metadata !== undefined && { metadata: metadata as Free }),
      entityData: {
        kind: {
          case: "person",
          value: { firstName: "María", additional: attributes as Free, address: { additional: attributes as Free } },
        },
      },
    },
    updateMask: { paths: ["attributes", "metadata"] },
    reason: "a reason",
  });
const record = (all: unknown[]) =>
  create(RecordTransactionsRequestSchema, {
    transactions: all.map((details, i) => ({ id: `t-${i}`, details: details as Free })),
  });

/** What the library reads, as the service lets it; undefined where it is refused. */
function libraryMessage(desc: DescMessage, bytes: Uint8Array): Message | undefined {
  try {
    assertKinds(desc, bytes);
    return fromBinary(desc, bytes, { readUnknownFields: false });
  } catch {
    return undefined;
  }
}

/** Texts of every script, and keys that JavaScript has its own ideas of. */
const key = fc
  .oneof(
    fc.string({ unit: "binary" }),
    fc.string({ unit: "grapheme" }),
    fc.constantFrom("constructor", "toString", "1", "01", "hasOwnProperty", ""),
  )
  // The one that is left to the library.
  .filter((one) => one !== "__proto__");
const value = fc.letrec((tie) => ({
  any: fc.oneof(
    { maxDepth: 4 },
    fc.constant(null),
    fc.boolean(),
    fc.double(),
    fc.string({ unit: "binary" }),
    fc.array(tie("any"), { maxLength: 6 }),
    fc.dictionary(key, tie("any"), { maxKeys: 6 }),
  ),
})).any;
const free = fc.dictionary(key, value, { maxKeys: 8 });

test("a plain message is what the library reads, in entities and in lists", () => {
  fc.assert(
    fc.property(free, free, (a, b) => {
      for (const message of [update(a, b), record([a, b, {}])]) {
        const desc = message.$typeName.includes("Update") ? UpdateEntityRequestSchema : RecordTransactionsRequestSchema;
        const bytes = toBinary(desc as DescMessage, message);
        const read = plainMessage(desc, bytes);
        if (read === undefined) throw new Error("left to the library");
        expect(isDeepStrictEqual(read, libraryMessage(desc, bytes))).toBe(true);
      }
    }),
    { numRuns: 1_500 },
  );
});

test("of bytes that were changed it reads what the library reads, or leaves them to it", () => {
  let read = 0;
  const change = fc.record({
    at: fc.nat(400),
    byte: fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0x0a, 0x12, 0x1a, 0x2a, 0x32, 0x80, 0x11)),
    how: fc.constantFrom("set", "insert", "remove", "repeat"),
  });
  fc.assert(
    fc.property(free, fc.array(change, { minLength: 1, maxLength: 2 }), (a, changes) => {
      let bytes = Buffer.from(toBinary(UpdateEntityRequestSchema, update(a)));
      for (const { at, byte, how } of changes) {
        const place = at % (bytes.length + 1);
        const [before, behind] = [bytes.subarray(0, place), bytes.subarray(place)];
        if (how === "set") bytes = Buffer.concat([before, Buffer.of(byte), behind.subarray(1)]);
        if (how === "insert") bytes = Buffer.concat([before, Buffer.of(byte), behind]);
        if (how === "remove") bytes = Buffer.concat([before, behind.subarray(1)]);
        if (how === "repeat") bytes = Buffer.concat([before, behind, behind]);
      }
      const plain = plainMessage(UpdateEntityRequestSchema, bytes);
      if (plain === undefined) return;
      read += 1;
      expect(isDeepStrictEqual(plain, libraryMessage(UpdateEntityRequestSchema, bytes))).toBe(true);
    }),
    { numRuns: 30_000 },
  );
  // Else nothing was compared.
  expect(read).toBeGreaterThan(500);
});

/** A message of any form that the wire has: its fields in any order, some twice, more cases of a oneof than one, wrong lengths. */
function anyBytes(desc: DescMessage, random: Random): Buffer {
  if (desc.typeName === "google.protobuf.Struct") return anyStruct(random);
  const fields: Buffer[] = [];
  for (const one of desc.fields) {
    const times = one.fieldKind === "list" ? random.int(0, 2) : random.chance(0.03) ? 2 : random.chance(0.5) ? 1 : 0;
    for (let i = 0; i < times; i++) {
      const wire = wireOf(one);
      const tag = varint((one.number << 3) | wire);
      if (one.message !== undefined) fields.push(tag, withLength(anyBytes(one.message, random), random));
      else if (wire === 2) fields.push(tag, withLength(Buffer.from(random.pick(["", "a", "ñ", "2026"])), random));
      else fields.push(tag, wire === 0 ? varint(random.int(0, 300)) : random.bytes(wire === 1 ? 8 : 4));
    }
  }
  const pairs = Array.from({ length: fields.length / 2 }, (_, i) => Buffer.concat(fields.slice(2 * i, 2 * i + 2)));
  return Buffer.concat(random.chance(0.5) ? pairs : pairs.sort(() => random.next() - 0.5));
}

const withLength = (bytes: Buffer, random: Random) =>
  Buffer.concat([varint(random.chance(0.003) ? bytes.length + random.int(0, 3) : bytes.length), bytes]);

function anyStruct(random: Random): Buffer {
  const values = [TRUE, Buffer.of(0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f), field(3, Buffer.from("x")), field(5)];
  if (random.chance(0.03)) values.push(Buffer.of(), Buffer.of(0xff));
  const entries = Array.from({ length: random.int(0, 2) }, (_, i) =>
    field(1, field(1, Buffer.from(`k${i}`)), field(2, random.pick(values))),
  );
  return Buffer.concat(entries);
}

test("of any bytes for any request it reads what the library reads, or leaves them to it", () => {
  let read = 0;
  for (let i = 0; i < 30_000; i++) {
    const random = randomOf(`${SEED}:${i}`);
    const desc = random.pick(withStructs);
    const bytes = anyBytes(desc, random);
    const plain = plainMessage(desc, bytes);
    if (plain === undefined) continue;
    read += 1;
    if (!isDeepStrictEqual(plain, libraryMessage(desc, bytes))) {
      expect.fail(`TEST_SEED=${SEED}: ${desc.name} of ${bytes.toString("hex")} is not what the library reads`);
    }
  }
  expect(read).toBeGreaterThan(3_000);
});

const numberOf = (desc: DescMessage, name: string) => desc.fields.find((one) => one.name === name)?.number ?? 0;
const ENTITY = numberOf(UpdateEntityRequestSchema, "entity");
const ATTRIBUTES = numberOf(UpdateEntityRequestSchema.field.entity.message as DescMessage, "attributes");
const note = field(1, Buffer.from("note"));
const TRUE = Buffer.of(0x20, 1);
const entry = (...inside: Uint8Array[]) => field(1, ...inside);
const attributes = (...inside: Uint8Array[]) => field(ENTITY, field(ATTRIBUTES, ...inside));
let deep: Uint8Array = TRUE;
for (let i = 0; i < 45; i++) deep = field(6, field(1, deep));

describe.each<[string, Uint8Array]>([
  ["an entity in two parts", Buffer.concat([attributes(entry(note, field(2, TRUE))), attributes(entry(note))])],
  [
    "attributes in two parts",
    field(ENTITY, field(ATTRIBUTES, entry(note, field(2, TRUE))), field(ATTRIBUTES, entry(field(2, TRUE)))),
  ],
  ["a key twice", attributes(entry(note, field(2, TRUE)), entry(note, field(2, Buffer.of(0x20, 0))))],
  ["a value twice", attributes(entry(note, field(2, TRUE), field(2, Buffer.of(0x20, 0))))],
  ["two kinds in a value", attributes(entry(note, field(2, TRUE, field(3, Buffer.from("x")))))],
  ["a list in two parts", attributes(entry(note, field(2, field(6, field(1, TRUE)), field(6, field(1, TRUE)))))],
  ["a value before its key", attributes(entry(field(2, TRUE), note))],
  ["no key", attributes(entry(field(2, TRUE)))],
  ["the key __proto__", attributes(entry(field(1, Buffer.from("__proto__")), field(2, TRUE)))],
  ["a long varint", attributes(entry(note, field(2, Buffer.of(0x20, 0x81, 0x00))))],
  ["an unknown field", attributes(entry(note, field(2, TRUE)), field(99, TRUE))],
  ["an unknown field of the request", Buffer.concat([attributes(entry(note, field(2, TRUE))), field(999, TRUE)])],
  ["a value without a kind", attributes(entry(note, field(2)))],
  ["no value", attributes(entry(note))],
  ["a text that is no UTF-8", attributes(entry(note, field(2, field(3, Buffer.of(0xff)))))],
  ["more levels than are kept", attributes(entry(note, field(2, deep)))],
  [
    "an item that goes on behind its list",
    attributes(entry(note, field(2, Buffer.of(0x32, 2, 0x0a, 9))), Buffer.of(0x11, 0, 0, 0, 0, 0, 0, 0, 0)),
  ],
  ["a byte too few", attributes(entry(note, field(2, TRUE))).subarray(0, -1)],
])("%s", (_, bytes) => {
  test("is left to the library", () => {
    expect(plainMessage(UpdateEntityRequestSchema, bytes)).toBeUndefined();
  });
});

describe.each<[string, DescMessage, string]>([
  ["a person who is replaced by a company, malformed", CreateEntityRequestSchema, "0a0972070a034a01ff1200"],
  ["a company that is replaced by a person, malformed", CreateEntityRequestSchema, "0a09720712034a01ff0a00"],
  ["a person who is replaced, with a value without a kind", CreateEntityRequestSchema, "0a0a72080a044a020a001200"],
  ["an address that is replaced, malformed", CreateEntityRequestSchema, "0a0b72090a0542033201ff1200"],
  [
    "a path that goes on behind the end of its mask, another value",
    UpdateEntityRequestSchema,
    "1a010a0a15000000000000000000120a7a080a060a001202200112027a00",
  ],
  [
    "a path that goes on behind the end of its mask, a value without a kind",
    UpdateEntityRequestSchema,
    "1a010a12117a0f0a0d0a096162636465666768691200",
  ],
  [
    "what goes on behind the end of a time",
    RecordUserEventsRequestSchema,
    "0a173201312202c3b132003a0c0a0a0a06f09d92b312021a000a023a00",
  ],
])("%s: what the library reads, or forgets, is not what is there", (_, desc, hex) => {
  test("is left to the library", () => {
    expect(plainMessage(desc, Buffer.from(hex, "hex"))).toBeUndefined();
  });
});

test("no request with free values is left out, and none without is looked at", () => {
  const holdsStructs = (desc: DescMessage, seen: DescMessage[] = []): boolean =>
    desc.typeName === "google.protobuf.Struct" ||
    (!seen.includes(desc) &&
      desc.fields.some(({ message }) => message !== undefined && holdsStructs(message, [...seen, desc])));
  expect(withStructs.map(({ name }) => name)).toEqual(
    inputs.filter((one) => holdsStructs(one)).map(({ name }) => name),
  );
  expect(withStructs.length).toBeGreaterThan(5);
});
