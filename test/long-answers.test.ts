// Answers of several MiB: in every protocol and encoding the same message, in parts between which others are served.
import { connect } from "node:http2";
import { gunzipSync } from "node:zlib";
import { create, createRegistry, fromBinary, fromJsonString, type MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { trailerParse } from "@connectrpc/connect/protocol-grpc-web";
import { createConnectTransport } from "@connectrpc/connect-node";
import { describe, expect, test } from "vitest";
import {
  type BatchGetEntitiesResponse,
  BatchGetEntitiesResponseSchema,
  EntityService,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { DomainError } from "../src/domain/errors.ts";
import { toStatus } from "../src/errors.ts";
import { DETAILS } from "../src/transport/reflection.ts";
import { envelope } from "./frames.ts";
import { type Answer, grpcRefusal, h2Call, KEY, startServer, withSession } from "./transport-harness.ts";

type Init = MessageInitShape<typeof BatchGetEntitiesResponseSchema>;

const PATH = "/entity.v1.EntityService/BatchGetEntities";
const attributes = { list: Array.from({ length: 3_000 }, (_, i) => [i, `text ${i}`, null, { a: true }]) };
const error = toStatus(new DomainError("NOT_FOUND", "entity not found", { lookup: "external_id" }));
/** Some 3.5 MiB of the library's own making. */
const long: Init = {
  results: Array.from({ length: 20 }, (_, i) =>
    i % 7 === 3
      ? { result: { case: "error", value: error } }
      : { result: { case: "entity", value: { id: `${i}`, name: "é\u0001", attributes } }, redirectedFrom: `${i}` },
  ),
};
const whole = create(BatchGetEntitiesResponseSchema, long);

/** The message in an answer of each kind, and whether it was compressed. */
type Read = (answer: Answer) => { message: BatchGetEntitiesResponse; isGzip: boolean };

const binary = (bytes: Uint8Array) => fromBinary(BatchGetEntitiesResponseSchema, new Uint8Array(bytes));
const json = (bytes: Uint8Array) =>
  fromJsonString(BatchGetEntitiesResponseSchema, Buffer.from(bytes).toString(), options);
const options = { registry: createRegistry(...DETAILS) };

function envelopes(body: Buffer): { flags: number; data: Buffer }[] {
  const found: { flags: number; data: Buffer }[] = [];
  for (let at = 0; at < body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    found.push({ flags: body[at] as number, data: body.subarray(at + 5, end) });
    at = end;
  }
  return found;
}

const connectUnary =
  (decode: (bytes: Uint8Array) => BatchGetEntitiesResponse): Read =>
  ({ headers, body }) => {
    expect(headers["content-length"]).toBe(String(body.length));
    const isGzip = headers["content-encoding"] === "gzip";
    return { message: decode(isGzip ? gunzipSync(body) : body), isGzip };
  };

const grpc =
  (decode: (bytes: Uint8Array) => BatchGetEntitiesResponse): Read =>
  ({ body, trailers }) => {
    const [message, end, ...more] = envelopes(body);
    const web = end === undefined ? undefined : trailerParse(end.data).get("grpc-status");
    expect([web ?? trailers["grpc-status"], more]).toEqual(["0", []]);
    const { flags = 0, data = Buffer.alloc(0) } = message ?? {};
    return { message: decode(flags === 1 ? gunzipSync(data) : data), isGzip: flags === 1 };
  };

const EMPTY = envelope(new Uint8Array());
const KINDS: [type: string, body: Uint8Array, accept: string, read: Read][] = [
  ["application/grpc", EMPTY, "grpc-accept-encoding", grpc(binary)],
  ["application/grpc+json", envelope(Buffer.from("{}")), "grpc-accept-encoding", grpc(json)],
  ["application/grpc-web+proto", EMPTY, "grpc-accept-encoding", grpc(binary)],
  ["application/grpc-web+json", envelope(Buffer.from("{}")), "grpc-accept-encoding", grpc(json)],
  ["application/proto", new Uint8Array(), "accept-encoding", connectUnary(binary)],
  ["application/json", Buffer.from("{}"), "accept-encoding", connectUnary(json)],
];
const head = (type: string) => ({
  ":path": PATH,
  "content-type": type,
  ...(type === "application/grpc" && { te: "trailers" }),
});

describe.each(KINDS)("%s", (type, body, accept, read) => {
  test("the same message as the library's, whole", async () => {
    await using server = await startServer({ handlers: { batchGetEntities: () => long } });
    const answer = await withSession(server.url, (session) => h2Call(session, head(type), body));
    const { message, isGzip } = read(answer);
    expect(isGzip).toBe(false);
    expect(message).toEqual(whole);
  });

  test("compressed, where the caller takes that", async () => {
    await using server = await startServer({
      handlers: { batchGetEntities: () => long },
      limits: { unaryPath: false },
    });
    const answer = await withSession(server.url, (session) =>
      h2Call(session, { ...head(type), [accept]: "br, gzip" }, body),
    );
    const { message, isGzip } = read(answer);
    expect(isGzip).toBe(true);
    expect(answer.body.length).toBeLessThan(500_000);
    expect(message).toEqual(whole);
  });

  test("a short one, and an empty one", async () => {
    for (const init of [{ results: [{ redirectedFrom: "short" }] }, {}] satisfies Init[]) {
      await using server = await startServer({ handlers: { batchGetEntities: () => init } });
      const answer = await withSession(server.url, (session) =>
        h2Call(session, { ...head(type), [accept]: "gzip" }, body),
      );
      const { message, isGzip } = read(answer);
      expect(isGzip).toBe(false);
      expect(message).toEqual(create(BatchGetEntitiesResponseSchema, init));
    }
  });

  test("others are served while it is made", async () => {
    const order: string[] = [];
    /** Its attributes take some milliseconds to write. */
    const slow = (i: number) => ({
      get text() {
        for (const until = performance.now() + 4; performance.now() < until; );
        if (i === 19) order.push("the last part");
        return "x".repeat(70_000);
      },
    });
    const results = Array.from({ length: 20 }, (_, i) => ({
      result: { case: "entity" as const, value: { id: `${i}`, attributes: slow(i) } },
    }));
    await using server = await startServer({
      handlers: {
        batchGetEntities: () => {
          setImmediate(() => void order.push("another's turn"));
          return { results };
        },
      },
    });
    const answer = await withSession(server.url, (session) => h2Call(session, head(type), body));
    expect(read(answer).message.results).toHaveLength(20);
    expect(order).toEqual(["another's turn", "the last part"]);
  });

  test("many at once have no more than the budget, are told so, and leave nothing behind", async () => {
    await using server = await startServer({
      handlers: { batchGetEntities: () => long },
      limits: { maxInFlight: 500 },
    });
    // Nobody reads: what is for all is soon taken.
    const sessions = Array.from({ length: 5 }, () => {
      const session = connect(server.url, { settings: { initialWindowSize: 1_000 } });
      session.on("error", () => {});
      for (let i = 0; i < 25; i++) {
        const stream = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...head(type) });
        stream.on("error", () => {});
        stream.end(body);
      }
      return session;
    });
    const refused = () =>
      server.lines.map((line) => JSON.parse(line).over_budget ?? 0).reduce((sum: number, one: number) => sum + one, 0);
    await expect.poll(refused, { timeout: 20_000 }).toBeGreaterThan(10);
    for (const session of sessions) session.destroy();
    await expect
      .poll(
        async () => {
          const answer = await withSession(server.url, (other) => h2Call(other, head(type), body));
          return read(answer).message.results.length;
        },
        { timeout: 10_000 },
      )
      .toBe(20);
  });
});

test("a caller who leaves while it is made is no error", async () => {
  await using server = await startServer({ handlers: { batchGetEntities: () => long } });
  for (const [type, body] of KINDS) {
    const session = connect(server.url);
    session.on("error", () => {});
    const stream = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...head(type) });
    stream.on("error", () => {});
    stream.end(body);
    await new Promise((resolve) => setTimeout(resolve, 12));
    session.destroy();
  }
  await expect.poll(() => server.calls().length, { timeout: 10_000 }).toBe(KINDS.length);
  expect(server.calls().filter(({ level }) => level >= 50)).toEqual([]);
});

test("what cannot be written is INTERNAL, in the log once, and the next call is served", async () => {
  let isBad = true;
  await using server = await startServer({
    handlers: {
      batchGetEntities: () =>
        isBad ? { results: [{ result: { case: "entity", value: { attributes: { bad: () => {} } } } }] } : long,
    },
    limits: { unaryPath: false },
  });
  const refused = await withSession(server.url, (session) => h2Call(session, head("application/grpc"), EMPTY));
  expect(grpcRefusal(refused)).toMatchObject({ reason: "INTERNAL" });
  await expect.poll(() => server.calls()).toHaveLength(1);
  expect(server.calls()).toMatchObject([{ level: 50, code: "INTERNAL" }]);
  isBad = false;
  const client = createClient(EntityService, createConnectTransport({ baseUrl: server.url, httpVersion: "1.1" }));
  const answer = await client.batchGetEntities({}, { headers: { authorization: `Bearer ${KEY}` } });
  expect(answer.results).toHaveLength(20);
});
