// Requests that the library serves reach their handlers as they were sent: in every protocol and encoding, one or many.
import { gzipSync } from "node:zlib";
import { create, type Message, type MessageInitShape, toBinary, toJsonString } from "@bufbuild/protobuf";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  CreateEntityRequestSchema,
  ImportEntitiesRequestSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { envelope } from "./frames.ts";
import { h2Call, startServer, type TestServer, withSession } from "./transport-harness.ts";

const SERVICE = "/entity.v1.EntityService";
const received: Message[] = [];
let server: TestServer;
beforeAll(async () => {
  server = await startServer({
    limits: { unaryPath: false },
    handlers: {
      createEntity: (request: Message) => {
        received.push(request);
        return {};
      },
      async *importEntities(requests: AsyncIterable<Message>) {
        for await (const request of requests) {
          received.push(request);
          yield {};
        }
      },
    },
  });
});
afterAll(() => server[Symbol.asyncDispose]());
beforeEach(() => void (received.length = 0));

const call = (head: Record<string, string>, body: Uint8Array) =>
  withSession(server.url, (session) => h2Call(session, head, body));

const entity = (i: number): MessageInitShape<typeof ImportEntitiesRequestSchema>["entity"] => ({
  externalId: `e-${i}`,
  attributes: { number: i, list: [i, null, { deep: `é ${i}` }] },
  metadata: {},
});
const created = create(CreateEntityRequestSchema, { entity: entity(0)!, reason: "why" });
const rows = Array.from({ length: 7 }, (_, i) => create(ImportEntitiesRequestSchema, { entity: entity(i)! }));

const STREAMED: [type: string, encoding: string, endFlag: number | undefined][] = [
  ["application/grpc", "grpc-encoding", undefined],
  ["application/grpc+json", "grpc-encoding", undefined],
  ["application/grpc-web+proto", "grpc-encoding", 0x80],
  ["application/grpc-web+json", "grpc-encoding", 0x80],
  ["application/connect+proto", "connect-content-encoding", 2],
  ["application/connect+json", "connect-content-encoding", 2],
];
const isJson = (type: string) => type.endsWith("json");
const bytesOf = (type: string, row: (typeof rows)[number]) =>
  Buffer.from(
    isJson(type) ? toJsonString(ImportEntitiesRequestSchema, row) : toBinary(ImportEntitiesRequestSchema, row),
  );

describe.each(STREAMED)("%s", (type, encoding, endFlag) => {
  const head = { ":path": `${SERVICE}/ImportEntities`, "content-type": type, te: "trailers" };

  test.each([
    ["all in one piece", false],
    ["some of them compressed", true],
  ])("a stream of requests: %s", async (_, isGzip) => {
    const envelopes = rows.map((row, i) => {
      const bytes = bytesOf(type, row);
      return isGzip && i % 2 === 0 ? envelope(gzipSync(bytes), 1) : envelope(bytes);
    });
    await call({ ...head, ...(isGzip && { [encoding]: "gzip" }) }, Buffer.concat(envelopes));
    expect(received).toEqual(rows);
  });

  test("what ends a stream is no message, whatever is in it, and what comes behind it is not read", async () => {
    const all = rows.map((row) => envelope(bytesOf(type, row)));
    const ends =
      endFlag === undefined
        ? []
        : [
            envelope(Buffer.from('{"metadata":{}}'), endFlag),
            envelope(gzipSync(Buffer.alloc(1_000_000)), endFlag | 1),
            envelope(bytesOf(type, rows[0]!)),
            Buffer.of(0, 0),
          ];
    for (const end of [ends, ends.slice(1)]) {
      received.length = 0;
      await call({ ...head, [encoding]: "gzip" }, Buffer.concat([...all, ...end]));
      expect(received).toEqual(rows);
      await expect.poll(() => server.calls().at(-1)?.code).toBe("OK");
    }
  });

  test("the messages before one that is none arrive", async () => {
    const bad = envelope(Buffer.from(isJson(type) ? '{"entity":5}' : Buffer.of(0x0a, 9)));
    const good = envelope(bytesOf(type, rows[0]!));
    await call(head, Buffer.concat([good, bad, good]));
    expect(received).toEqual([rows[0]]);
    await expect.poll(() => server.calls().at(-1)?.code).toBe("INVALID_ARGUMENT");
  });
});

describe.each(["application/grpc", "application/grpc-web+proto", "application/grpc-web+json"])("%s", (type) => {
  const head = { ":path": `${SERVICE}/CreateEntity`, "content-type": type, te: "trailers" };
  const bytes = Buffer.from(
    isJson(type) ? toJsonString(CreateEntityRequestSchema, created) : toBinary(CreateEntityRequestSchema, created),
  );

  test.each([
    ["as it is", envelope(bytes), {}],
    ["compressed", envelope(gzipSync(bytes), 1), { "grpc-encoding": "gzip" }],
  ])("one request, %s", async (_, body, more) => {
    await call({ ...head, ...more }, body);
    expect(received).toEqual([created]);
  });

  test("two for one answer are refused", async () => {
    await call(head, Buffer.concat([envelope(bytes), envelope(bytes)]));
    expect(received).toEqual([]);
    await expect.poll(() => server.calls().at(-1)?.code).toBe("UNIMPLEMENTED");
  });
});

describe.each(["application/proto", "application/json"])("%s", (type) => {
  const head = { ":path": `${SERVICE}/CreateEntity`, "content-type": type };
  const bytes = Buffer.from(
    isJson(type) ? toJsonString(CreateEntityRequestSchema, created) : toBinary(CreateEntityRequestSchema, created),
  );

  test.each<[string, Uint8Array, Record<string, string>, number]>([
    ["as it is", bytes, {}, 1],
    ["with its length", bytes, { "content-length": String(bytes.length) }, 1],
    ["compressed", gzipSync(bytes), { "content-encoding": "gzip" }, 1],
    ["compressed, with its length", gzipSync(bytes), { "content-encoding": "gzip", "content-length": "+" }, 1],
    ["of no bytes", Buffer.alloc(0), {}, 0],
    ["of no bytes, compressed", Buffer.alloc(0), { "content-encoding": "gzip" }, 0],
  ])("one request, %s", async (_, body, more, count) => {
    const length: Record<string, string> =
      more["content-length"] === "+" ? { "content-length": String(body.length) } : {};
    const { status } = await call({ ...head, ...more, ...length }, body);
    if (count === 1) {
      expect(status).toBe(200);
      expect(received).toEqual([created]);
    } else if (isJson(type)) {
      expect(status).toBe(400);
    } else {
      expect(status).toBe(200);
      expect(received).toEqual([create(CreateEntityRequestSchema)]);
    }
  });

  test("a length over the limit is refused before the body is there", async () => {
    const answer = withSession(server.url, (session) =>
      h2Call(session, { ...head, "content-length": "1000000" }, Buffer.of(1), { end: false }),
    );
    expect((await answer).status).toBe(429);
  });

  test("a body of another length than was said is none", async () => {
    await expect(call({ ...head, "content-length": String(bytes.length + 1) }, bytes)).rejects.toThrow();
    await expect(call({ ...head, "content-length": String(bytes.length - 1) }, bytes)).rejects.toThrow();
    expect(received).toEqual([]);
  });
});
