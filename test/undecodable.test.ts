// A request that cannot be decoded is refused with the field's path; the value at fault appears nowhere.
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { codeToHttpStatus, errorFromJsonBytes } from "@connectrpc/connect/protocol-connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { trailerParse } from "@connectrpc/connect/protocol-grpc-web";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CreateEntityRequestSchema } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { envelope } from "./frames.ts";
import {
  type Answer,
  grpcRefusal,
  h2Call,
  type Refusal,
  refusalOf,
  startServer,
  type TestServer,
  withSession,
} from "./transport-harness.ts";

const CANARY = "Juan Perez";
const ENTITIES = "/entity.v1.EntityService";
const KINDS = "/kinds.v1.KindsService";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server[Symbol.asyncDispose]());

/** The refusal, after a check that neither the answer nor the log contains the canary. */
async function refused(
  head: Record<string, string>,
  body: Uint8Array,
  read: (answer: Answer) => Refusal,
  canary = CANARY,
): Promise<Refusal> {
  const before = server.lines.length;
  const answer = await withSession(server.url, (session) => h2Call(session, head, body));
  await expect.poll(() => server.lines.length).toBeGreaterThan(before);
  const refusal = read(answer);
  for (const text of [
    JSON.stringify(answer.headers),
    JSON.stringify(answer.trailers),
    answer.body.toString("latin1"),
    Buffer.from(String(answer.trailers["grpc-status-details-bin"] ?? ""), "base64").toString("latin1"),
    JSON.stringify(refusal),
    server.lines.join("\n"),
  ]) {
    expect(text).not.toContain(canary);
    expect(text).not.toContain(Buffer.from(canary).toString("base64").slice(1, -3));
    expect(text).not.toContain(encodeURIComponent(canary));
  }
  expect(refusal.domain).toBe("entity.v1");
  return refusal;
}

const connectError = (answer: Answer) => {
  const error = errorFromJsonBytes(answer.body, undefined, new ConnectError("unreadable"));
  expect(answer.status).toBe(codeToHttpStatus(error.code));
  return refusalOf(error);
};
const json = (path: string, body: string, canary?: string) =>
  refused({ ":path": path, "content-type": "application/json" }, Buffer.from(body), connectError, canary);

describe("Connect with JSON", () => {
  test.each([
    ["a bool", "CreateEntity", { validateOnly: CANARY }, "validate_only", "must be true or false"],
    ["a string", "CreateEntity", { entity: { name: [CANARY] } }, "entity.name", "must be a string"],
    [
      "a string deep inside",
      "CreateEntity",
      { entity: { entityData: { person: { firstName: { a: CANARY } } } } },
      "entity.entity_data.person.first_name",
      "must be a string",
    ],
    [
      "a type in two places",
      "CreateEntity",
      { entity: { entityData: { person: { address: { street: 5 } } } } },
      "entity.entity_data.person.address.street",
      "must be a string",
    ],
    [
      "an enum",
      "CreateEntity",
      { entity: { type: CANARY } },
      "entity.type",
      "must be one of ENTITY_TYPE_PERSON, ENTITY_TYPE_COMPANY",
    ],
    [
      "an enum by a fraction",
      "CreateEntity",
      { entity: { type: 1.5 } },
      "entity.type",
      "must be one of ENTITY_TYPE_PERSON, ENTITY_TYPE_COMPANY",
    ],
    ["an int32", "ListEntities", { pageSize: CANARY }, "page_size", "must be a whole number of 32 bits"],
    [
      "a timestamp",
      "ListEntities",
      { updatedAfter: CANARY },
      "updated_after",
      "must be a time as in 2026-01-31T12:00:00Z, from year 1 to 9999",
    ],
    [
      "a timestamp in many places",
      "CreateEntity",
      { occurredAt: CANARY },
      "occurred_at",
      "must be a time as in 2026-01-31T12:00:00Z, from year 1 to 9999",
    ],
    [
      "a field mask",
      "GetEntity",
      { readMask: [CANARY] },
      "read_mask",
      "must be field paths in lowerCamelCase, separated by commas",
    ],
    ["a Struct", "CreateEntity", { entity: { attributes: CANARY } }, "entity.attributes", "must be an object"],
    ["a message", "CreateEntity", { entity: CANARY }, "entity", "must be an object"],
    ["a list", "ListEntities", { countryCodes: CANARY }, "country_codes", "must be a list"],
    [
      "an item of a list",
      "ListEntities",
      { countryCodes: ["BR", { a: CANARY }] },
      "country_codes[1]",
      "must be a string",
    ],
    ["a null in a list", "ListEntities", { countryCodes: [null] }, "country_codes[0]", "must not be null"],
    [
      "a lookup of a batch",
      "BatchGetEntities",
      { lookups: [{ taxId: [CANARY] }] },
      "lookups[0].tax_id",
      "must be a string",
    ],
    ["a lone surrogate", "CreateEntity", { reason: "\ud800" }, "reason", "must be a string of valid Unicode"],
    [
      "an unknown key",
      "CreateEntity",
      { entity: { nam: CANARY } },
      "entity.nam",
      "there is no such field: did you mean entity.name?",
    ],
    ["an unknown key at the top", "CreateEntity", { flag: CANARY }, "flag", "there is no such field"],
    [
      "a field that is further in",
      "GetEntity",
      { externalId: CANARY },
      "externalId",
      "there is no such field: did you mean lookup.external_id?",
    ],
    [
      "two letters that changed places",
      "CreateEntity",
      { entity: { naem: CANARY } },
      "entity.naem",
      "there is no such field: did you mean entity.name?",
    ],
    [
      "a key of a company that the contract does not list",
      "CreateEntity",
      { entity: { entityData: { company: { revenue: 5 } } } },
      "entity.entity_data.company.revenue",
      "there is no such field: keys of your own belong in entity.entity_data.company.additional",
    ],
    [
      "an item's field",
      "BatchGetEntities",
      { lookups: [{ taxId: "1" }, { taxId: 10.5 }] },
      "lookups[1].tax_id",
      "must be a string",
    ],
    [
      "a day that no calendar has",
      "CreateEntity",
      { occurredAt: "2024-02-30T00:00:00Z", entity: { attributes: { a: "2024-02-30T00:00:00Z" } } },
      "occurred_at",
      "must be a day of the calendar",
    ],
    [
      "an hour that no day has",
      "ListEntities",
      { updatedAfter: "2024-01-01T24:00:00Z" },
      "updated_after",
      "must be a time of the calendar, with hours from 00 to 23",
    ],
    [
      "an unknown key that is a value",
      "CreateEntity",
      { entity: { [CANARY]: 1 } },
      "entity",
      "has a field that the contract does not have",
    ],
    [
      "two of a oneof",
      "CreateEntity",
      { entity: { entityData: { person: {}, company: {} } } },
      "entity.entity_data.kind",
      "give only one of person, company",
    ],
    [
      "a field by both its names",
      "CreateEntity",
      { require_unique_tax_id: true, requireUniqueTaxId: true },
      "require_unique_tax_id",
      "is given twice",
    ],
  ])("%s", async (_, rpc, body, field, description) => {
    expect(await json(`${ENTITIES}/${rpc}`, JSON.stringify(body))).toMatchObject({
      code: Code.InvalidArgument,
      reason: "VALIDATION_ERROR",
      message: `${field}: ${description}`,
      metadata: { field },
      fields: [field],
    });
  });

  test.each([
    ["an int64", "big", CANARY, "must be a whole number of 64 bits"],
    ["a uint64", "unsigned", -1, "must be a whole number of 64 bits, not negative"],
    ["bytes", "raw", `${CANARY}!`, "must be a string in base64"],
    ["a double", "real", CANARY, "must be a number"],
  ])("%s", async (_, field, value, description) => {
    const refusal = await json(`${KINDS}/Echo`, JSON.stringify({ [field]: value }));
    expect(refusal).toMatchObject({
      reason: "VALIDATION_ERROR",
      message: `${field}: ${description}`,
      metadata: { field },
    });
  });

  test("two keys of a lookup", async () => {
    const body = JSON.stringify({ lookup: { entityId: CANARY, taxId: CANARY } });
    expect(await json(`${ENTITIES}/GetEntity`, body)).toMatchObject({
      code: Code.InvalidArgument,
      reason: "INVALID_LOOKUP",
      message: "lookup: give exactly one of entity_id, external_id, tax_id",
      metadata: { field: "lookup" },
    });
  });

  test.each([
    ["a key twice", `{"reason":"${CANARY}","reason":"${CANARY}"}`, "reason: is given twice"],
    [
      "a key of a Struct twice",
      `{"entity":{"attributes":{"${CANARY}":1,"${CANARY}":2}}}`,
      "A key is given twice in one object of the request",
    ],
    ["no JSON", `{"reason": ${CANARY}}`, "The request is not JSON: a value should be at offset 11"],
    [
      "a comma too many",
      `{"reason":"${CANARY}",}`,
      "The request is not JSON: there is a comma too many before offset 23",
    ],
    ["half a request", `{"reason":"${CANARY}`, "The request is not JSON: it ends before a value"],
    ["another root", `"${CANARY}"`, "The request is not a valid entity.v1.CreateEntityRequest: it must be an object"],
    [
      "an unknown key that may be a tax id",
      '{"entity":{"ESB58378431":1}}',
      "entity: has a field that the contract does not have",
    ],
    [
      "an unknown key at the top that is a value",
      `{"${CANARY}":1}`,
      "The request has a field that the contract does not have",
    ],
    [
      "deep nesting",
      `{"entity":{"attributes":${'{"a":'.repeat(200)}1${"}".repeat(200)}}}`,
      "entity.attributes: must not be nested deeper than 32 levels",
    ],
  ])("%s", async (_, body, message) => {
    expect(await json(`${ENTITIES}/CreateEntity`, body)).toMatchObject({ reason: "VALIDATION_ERROR", message });
  });

  test("1e400 is no number", async () => {
    expect(await json(`${ENTITIES}/ListEntities`, '{"pageSize":1e400}')).toMatchObject({
      metadata: { field: "page_size" },
    });
    expect(await json(`${KINDS}/Echo`, '{"real":1e400}')).toMatchObject({ message: "real: must be a number" });
  });

  test("invalid UTF-8", async () => {
    const body = Buffer.concat([Buffer.from('{"reason":"'), Buffer.of(0xff), Buffer.from('"}')]);
    const refusal = await refused(
      { ":path": `${ENTITIES}/CreateEntity`, "content-type": "application/json" },
      body,
      connectError,
    );
    expect(refusal).toMatchObject({
      reason: "VALIDATION_ERROR",
      message: "The request is not valid UTF-8",
    });
  });

  test("a text that looks like a time of no calendar is a text", async () => {
    const body = JSON.stringify({ reason: "on 2024-02-30T24:00:00Z", lookup: { externalId: "2023-02-29T00:00:00Z" } });
    const head = { ":path": `${ENTITIES}/DeleteEntity`, "content-type": "application/json" };
    const answer = await withSession(server.url, (session) => h2Call(session, head, Buffer.from(body)));
    expect(connectError(answer)).toMatchObject({ reason: "UNIMPLEMENTED" });
  });

  test("what is wrong with a long request is said without its place: nobody else waits for that", async () => {
    // BatchGetEntities may be longer than other requests here.
    const request = (padding: number) =>
      json(
        `${ENTITIES}/BatchGetEntities`,
        JSON.stringify({ lookups: [{ externalId: "a".repeat(padding) }, { externalId: [CANARY] }] }),
      );
    expect(await request(100_000)).toMatchObject({ metadata: { field: "lookups[1].external_id" } });
    const refusal = await request(140_000);
    expect(refusal).toMatchObject({ code: Code.InvalidArgument, reason: "VALIDATION_ERROR" });
    expect(refusal.message).toBe(
      "The request is not a valid entity.v1.BatchGetEntitiesRequest: look at external_id of each entity.v1.EntityLookup",
    );
  });

  test("the status fits the code, also of a long answer to a caller who reads gzip", async () => {
    const head = { ":path": `${ENTITIES}/CreateEntity`, "content-type": "application/json", "accept-encoding": "gzip" };
    const body = Buffer.from(JSON.stringify({ entity: { type: CANARY.repeat(200) } }));
    const answer = await withSession(server.url, (session) => h2Call(session, head, body));
    expect(answer.status).toBe(400);
    expect(connectError(answer)).toMatchObject({ reason: "VALIDATION_ERROR", metadata: { field: "entity.type" } });
    expect(answer.headers["content-length"]).toBe(String(answer.body.length));
  });
});

describe("binary", () => {
  // Field 7 of Entity, its name, claims to be longer than the message.
  const cut = Buffer.concat([Buffer.of(0x0a, 0x0c, 0x3a, 0x7f), Buffer.from(CANARY)]);
  const notUtf8 = toBinary(CreateEntityRequestSchema, create(CreateEntityRequestSchema, { reason: `${CANARY}~` }));
  notUtf8[notUtf8.length - 1] = 0xff;
  const webError = (answer: Answer) => {
    const error = findTrailerError(trailerParse(answer.body.subarray(5)));
    return refusalOf(error ?? new ConnectError("no error"));
  };
  const forms: [string, string, (body: Uint8Array) => Uint8Array, (answer: Answer) => Refusal][] = [
    ["gRPC", "application/grpc", envelope, grpcRefusal],
    ["gRPC-Web", "application/grpc-web+proto", envelope, webError],
    ["Connect", "application/proto", (body) => body, connectError],
  ];

  test.each(forms)("%s: what cannot be decoded", async (_, contentType, wrap, read) => {
    const head = { ":path": `${ENTITIES}/CreateEntity`, "content-type": contentType };
    for (const body of [cut, notUtf8]) {
      expect(await refused(head, wrap(body), read)).toMatchObject({
        code: Code.InvalidArgument,
        reason: "VALIDATION_ERROR",
        message: "The request is not a valid entity.v1.CreateEntityRequest",
      });
    }
  });

  test.each(forms)("%s: what is too large", async (_, contentType, wrap, read) => {
    const head = { ":path": `${ENTITIES}/CreateEntity`, "content-type": contentType };
    const refusal = await refused(head, wrap(new Uint8Array(65_537)), read);
    expect(refusal).toMatchObject({
      code: Code.ResourceExhausted,
      reason: "MESSAGE_TOO_LARGE",
      metadata: { limit_bytes: "65536" },
    });
  });
});

describe("streams", () => {
  const streamError = (answer: Answer) =>
    refusalOf(
      errorFromJsonBytes(
        Buffer.from(JSON.stringify(JSON.parse(answer.body.subarray(5).toString()).error)),
        undefined,
        new ConnectError("unreadable"),
      ),
    );

  test.each([
    ["of requests", `${ENTITIES}/ImportEntities`, { entity: { name: [CANARY] } }, "entity.name"],
    ["of responses", `${KINDS}/Repeat`, { yes: CANARY }, "yes"],
  ])("a stream %s, Connect with JSON", async (_, path, message, field) => {
    const head = { ":path": path, "content-type": "application/connect+json" };
    const refusal = await refused(head, envelope(Buffer.from(JSON.stringify(message))), streamError);
    expect(refusal).toMatchObject({ code: Code.InvalidArgument, reason: "VALIDATION_ERROR", metadata: { field } });
  });

  test.each([`${ENTITIES}/ImportEntities`, `${KINDS}/Repeat`])("%s in gRPC", async (path) => {
    const body = envelope(Buffer.concat([Buffer.of(0x0a, 0x7f), Buffer.from(CANARY)]));
    const refusal = await refused({ ":path": path, "content-type": "application/grpc" }, body, grpcRefusal);
    expect(refusal).toMatchObject({ code: Code.InvalidArgument, reason: "VALIDATION_ERROR" });
  });
});

describe("what handlers throw", () => {
  test.each(["application/grpc", "application/json"])(
    "an answer that cannot be written is INTERNAL, %s",
    async (type) => {
      await using own = await startServer({ handlers: { getEntity: () => ({ entity: { type: CANARY } }) } });
      const body = type === "application/json" ? Buffer.from("{}") : envelope(new Uint8Array());
      const head = { ":path": `${ENTITIES}/GetEntity`, "content-type": type };
      const answer = await withSession(own.url, (session) => h2Call(session, head, body));
      const refusal = type === "application/json" ? connectError(answer) : grpcRefusal(answer);
      expect(refusal).toMatchObject({ code: Code.Internal, reason: "INTERNAL", message: "internal error" });
      expect(refusal.metadata.request_id).toBe(answer.headers["x-request-id"]);
      expect(answer.body.toString() + JSON.stringify(answer.trailers) + own.lines.join("")).not.toContain(CANARY);
    },
  );

  test("a defect is INTERNAL with the request id of its log line, and its text is nowhere", async () => {
    const failure = Object.assign(new Error(`duplicate key (${CANARY})\n    at ${CANARY} (a.ts:1:1)`), {
      code: "23505",
      constraint: "entity_pkey",
      detail: CANARY,
      parameters: [CANARY],
    });
    await using own = await startServer({
      handlers: {
        getEntity: () => {
          throw failure;
        },
        async *importEntities() {
          yield {};
          throw failure;
        },
      },
    });
    for (const rpc of ["GetEntity", "ImportEntities"]) {
      const head = { ":path": `${ENTITIES}/${rpc}`, "content-type": "application/grpc" };
      const refusal = grpcRefusal(
        await withSession(own.url, (session) => h2Call(session, head, envelope(new Uint8Array()))),
      );
      expect(refusal).toMatchObject({ code: Code.Internal, reason: "INTERNAL", message: "internal error" });
      const line = own.lines
        .map((text) => JSON.parse(text))
        .find((each) => each.error && each.requestId === refusal.metadata.request_id);
      expect(line.error).toMatchObject({ name: "Error", code: "23505", constraint: "entity_pkey" });
      expect(line.error.frames[0]).toContain("undecodable.test.ts");
    }
    expect(own.lines.join("")).not.toContain(CANARY);
    expect(own.calls()[0]).toMatchObject({ code: "INTERNAL", level: 50 });
  });
});
