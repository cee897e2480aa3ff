// A google.protobuf.Value without a kind: refused with the field's path in every protocol, and nothing is deleted.
import { create, fromBinary, fromJson, toBinary } from "@bufbuild/protobuf";
import { StructSchema, ValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorFromJsonBytes } from "@connectrpc/connect/protocol-connect";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { RecordTransactionsRequestSchema } from "../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import { EntityService, UpdateEntityRequestSchema } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { assertKinds } from "../src/transport/kindless.ts";
import { envelope, lengthDelimited as field } from "./frames.ts";
import { startService, type TestService } from "./harness.ts";
import { grpcRefusal, h2Call, refusalOf, withSession } from "./transport-harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const nothing = new Uint8Array();
const key = field(1, Buffer.from("note"));
/** Values as they are on the wire, in `attributes` (field 15 of Entity) under the key "note". */
const number = (name: string) => UpdateEntityRequestSchema.fields.find((one) => one.name === name)?.number ?? 0;
const entityNumber = number("entity");
const attributes = UpdateEntityRequestSchema.field.entity?.message?.fields.find(({ name }) => name === "attributes");
const update = (externalId: string, entry: Uint8Array) =>
  Buffer.concat([
    toBinary(
      UpdateEntityRequestSchema,
      create(UpdateEntityRequestSchema, { lookup: { by: { case: "externalId", value: externalId } } }),
    ),
    field(entityNumber, field(attributes?.number ?? 0, field(1, entry))),
  ]);
const list = (value: Uint8Array) => field(6, field(1, value));
const struct = (entry: Uint8Array) => field(5, field(1, entry));
/** Unknown field 99: a varint, and a group with something in it. */
const unknown = Buffer.of(0x98, 0x06, 0x01);
const group = Buffer.of(0x9b, 0x06, 0x08, 0x01, 0x9c, 0x06);

const KINDLESS: [string, Uint8Array][] = [
  ["an empty value", Buffer.concat([key, field(2, nothing)])],
  ["no value", key],
  ["only an unknown field", Buffer.concat([key, field(2, unknown)])],
  ["behind a group", Buffer.concat([key, group, field(2, group)])],
  ["in a list", Buffer.concat([key, field(2, list(nothing))])],
  ["in a struct", Buffer.concat([key, field(2, struct(Buffer.concat([key, field(2, nothing)])))])],
  ["in a struct, no value", Buffer.concat([key, field(2, struct(key))])],
  ["given twice, the first without a kind", Buffer.concat([key, field(2, nothing), field(2, Buffer.of(0x20, 0x01))])],
];

test.each(KINDLESS)("%s: VALIDATION_ERROR, and the stored key stays", async (_, entry) => {
  const { client, apiKey } = service.organization;
  const externalId = crypto.randomUUID();
  await client.entities.createEntity({
    entity: { externalId, type: 1, name: "Ana", countryCode: "AR", attributes: { note: "kept" } },
  });
  const body = update(externalId, entry);
  const head = { ":path": `/${EntityService.typeName}/UpdateEntity`, authorization: `Bearer ${apiKey}` };
  const refused = { reason: "VALIDATION_ERROR", metadata: { field: "entity.attributes" }, code: Code.InvalidArgument };
  await withSession(service.baseUrl, async (session) => {
    const grpc = await h2Call(session, { ...head, "content-type": "application/grpc" }, envelope(body));
    expect(grpcRefusal(grpc)).toMatchObject(refused);
    const connect = await h2Call(session, { ...head, "content-type": "application/proto" }, body);
    expect(refusalOf(errorFromJsonBytes(connect.body, undefined, new ConnectError("unreadable")))).toMatchObject(
      refused,
    );
  });
  const { entity } = await client.entities.getEntity({ lookup: { by: { case: "externalId", value: externalId } } });
  expect(entity?.attributes).toEqual({ note: "kept" });
});

test("the path of an item of a list", () => {
  const details = field(RecordTransactionsRequestSchema.fields[0]?.message?.field.details?.number ?? 0, field(1, key));
  const body = field(RecordTransactionsRequestSchema.fields[0]?.number ?? 0, details);
  expect(() => assertKinds(RecordTransactionsRequestSchema, body)).toThrow(
    "transactions.details: has a value without a kind",
  );
});

test.each([
  ["a number of 8 bytes", "0a04a9ff050004000c92000101"],
  ["a varint", "0a0380038a7a8a0a010b"],
])(
  "%s that goes on behind the end of its entry is malformed: the decoder would read a value without a kind",
  (_, hex) => {
    expect(() => assertKinds(StructSchema, Buffer.from(hex, "hex"))).toThrow("malformed");
  },
);

test("whatever has kinds passes, and whatever bytes come the search ends", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (json) => {
      const value = fromJson(StructSchema, JSON.parse(JSON.stringify(json)) as Record<string, never>);
      assertKinds(StructSchema, toBinary(StructSchema, value));
    }),
    { numRuns: 2_000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      let refused = false;
      try {
        assertKinds(StructSchema, bytes);
      } catch {
        refused = true;
      }
      // What the decoder says about the same bytes, if it accepts them.
      let decoded: ReturnType<typeof fromBinary<typeof StructSchema>>;
      try {
        decoded = fromBinary(StructSchema, bytes);
      } catch {
        return;
      }
      const values = Object.values(decoded.fields);
      if (values.some(({ kind }) => kind.case === undefined)) expect(refused).toBe(true);
    }),
    { numRuns: 20_000 },
  );
  expect(() => assertKinds(ValueSchema, nothing)).toThrow("without a kind");
});
