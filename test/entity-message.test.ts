// What answers are made of: entities as they are stored, on the wire.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CompanyDataSchema, EntitySchema, PersonDataSchema } from "../clients/typescript/gen/entity/v1/entity_pb.ts";
import { GetEntityResponseSchema } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import type { EntityState } from "../src/domain/entity-state.ts";
import type { JsonObject } from "../src/domain/json.ts";
import { DATA_PATHS } from "../src/rpc/entity-fields.ts";
import { toProto } from "../src/rpc/entity-message.ts";
import { parseReadMask } from "../src/rpc/read-mask.ts";
import { fromTimestamp, toTimestamp } from "../src/rpc/request.ts";
import { frameEncoder } from "../src/transport/encode.ts";
import { atOnce, never } from "./frames.ts";

/** Microseconds of the years 1 to 9999. */
const [FIRST, LAST] = [-62_135_596_800_000_000n, 253_402_300_799_999_999n];
const instant = fc.oneof(
  fc.bigInt({ min: FIRST, max: LAST }),
  fc.constantFrom(FIRST, LAST, 0n, -1n, 1n, 999_999n, 1_000_000n, -1_000_000n),
  fc.bigInt({ min: -10n, max: 10n }).map((more) => BigInt(Number.MAX_SAFE_INTEGER) + more),
);

const text = fc.string({ unit: "grapheme", maxLength: 30 });
const nullable = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null });
/** Keys that no object should be asked for are keys like any other. */
const key = fc.oneof(text, fc.constantFrom("__proto__", "constructor", "toString", "kind", "additional"));
const json = fc.letrec<{ value: JsonObject[string] }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 2 },
    fc.constant(null),
    fc.boolean(),
    text,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.array(tie("value"), { maxLength: 2 }),
    fc.dictionary(key, tie("value"), { maxKeys: 2 }),
  ),
}));
const struct = fc.dictionary(key, json.value, { maxKeys: 3 });
const some = (names: readonly string[]) =>
  fc
    .uniqueArray(fc.tuple(fc.constantFrom(...names), text), { selector: ([name]) => name })
    .map(Object.fromEntries<string>);
const withOthers = (listed: fc.Arbitrary<JsonObject>) =>
  fc.tuple(listed, struct).map(([own, others]) => ({ ...others, ...own }));
const address = withOthers(some(["street", "city", "postalCode"]));
const dataOf = {
  person: withOthers(fc.record({ firstName: text, dateOfBirth: text, email: text, address }, { requiredKeys: [] })),
  company: withOthers(
    fc.record(
      { legalName: text, tradingNames: fc.array(text, { maxLength: 3 }), employees: fc.nat(1_000_000), address },
      { requiredKeys: [] },
    ),
  ),
};
const externalId = fc.record({
  ...{ externalId: text, type: text, primary: fc.boolean(), attachedAt: instant },
  ...{
    trackedSince: nullable(instant),
    lastResolvedOn: nullable(fc.constant("2026-11-28")),
    homeId: nullable(fc.uuid()),
  },
});
const state = fc.constantFrom<EntityState["type"]>("person", "company").chain((type) =>
  fc.record<EntityState>({
    ...{ id: text, organizationId: text, etag: text, name: text, countryCode: text, version: fc.nat() },
    ...{ type: fc.constant(type), entityData: nullable(dataOf[type]), attributes: struct, metadata: struct },
    externalIds: fc.array(externalId, { maxLength: 3 }),
    ...{ taxId: nullable(text), nationality: nullable(text), riskMatrixId: nullable(text), riskScore: nullable(text) },
    taxIdCheck: fc.constantFrom(null, "valid", "checksum_failed", "unknown_format"),
    status: fc.constantFrom("pending", "active", "blocked"),
    ...{ createdAt: instant, updatedAt: instant, deletedAt: nullable(instant), mergedInto: nullable(fc.uuid()) },
  }),
);
const mask = fc
  .uniqueArray(fc.constantFrom(...EntitySchema.fields.map(({ name }) => name), ...DATA_PATHS), { maxLength: 5 })
  .map((paths) => parseReadMask({ paths } as FieldMask));

describe("an answer is encoded from what its message would be made of", () => {
  const { frame } = frameEncoder(GetEntityResponseSchema);

  test("whatever is stored, whole or by a read mask: the bytes are those of the library's message", () => {
    void fc.assert(
      fc.property(state, mask, (entity, readMask) => {
        const answer = { entity: toProto(entity, readMask) };
        const expected = toBinary(GetEntityResponseSchema, create(GetEntityResponseSchema, answer));
        expect(Buffer.from(expected).equals(atOnce(frame(answer, never)).subarray(5))).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  test("keys of entity_data are where they belong, whatever they are called", () => {
    void fc.assert(
      fc.property(state, (entity) => {
        const { entity: read } = fromBinary(
          GetEntityResponseSchema,
          atOnce(frame({ entity: toProto(entity) }, never)).subarray(5),
        );
        const kind = read?.entityData?.kind;
        if (entity.entityData === null) {
          expect(kind).toBeUndefined();
          return;
        }
        expect(kind?.case).toBe(entity.type);
        const { additional = {}, ...listed } = (kind?.value ?? {}) as { additional?: JsonObject };
        for (const name of Object.keys(entity.entityData)) {
          expect(Object.hasOwn(additional, name), name).toBe(!LISTED[entity.type].includes(name));
        }
        expect(listed).toMatchObject({ $typeName: `entity.v1.${entity.type === "person" ? "Person" : "Company"}Data` });
      }),
    );
  });
});

test("a read mask into entity_data picks what it names, and that alone", () => {
  const read = (entity: EntityState, paths: string[]) => {
    const init = { entity: toProto(entity, parseReadMask({ paths } as FieldMask)) };
    return create(GetEntityResponseSchema, init).entity?.entityData?.kind;
  };
  void fc.assert(
    fc.property(state, (entity) => {
      const whole = read(entity, ["entity_data"]);
      const schema = entity.type === "person" ? PersonDataSchema : CompanyDataSchema;
      for (const { name, localName } of schema.fields) {
        const picked = read(entity, [`entity_data.${entity.type}.${name}`]);
        if (whole === undefined) expect(picked).toBeUndefined();
        else {
          const value = (whole.value as unknown as Record<string, unknown>)[localName];
          expect(picked).toEqual({ case: entity.type, value: create(schema, { [localName]: value }) });
        }
      }
    }),
  );
});

const LISTED = {
  person: ["firstName", "lastName", "middleName", "dateOfBirth", "nationality", "email", "phone", "address"],
  company: [
    "legalName",
    "registrationNumber",
    "incorporationDate",
    "industry",
    "website",
    "tradingNames",
    "employees",
    "address",
  ],
};

test("times are exact to the microsecond from the year 1 to 9999, their nanos never negative", () => {
  void fc.assert(
    fc.property(instant, (value) => {
      const { seconds, nanos } = toTimestamp(value);
      expect(nanos).toBeGreaterThanOrEqual(0);
      expect(nanos).toBeLessThan(1_000_000_000);
      expect(fromTimestamp({ $typeName: "google.protobuf.Timestamp", seconds, nanos })).toBe(value);
    }),
    { numRuns: 1_000 },
  );
});
