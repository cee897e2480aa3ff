// What arrives at the port, well formed or not, and what leaves it.
import { type ClientHttp2Session, type ClientHttp2Stream, connect, type Settings } from "node:http2";
import { type AddressInfo, createConnection, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { gzipSync } from "node:zlib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { endStreamFromJson, errorFromJsonBytes } from "@connectrpc/connect/protocol-connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { trailerParse } from "@connectrpc/connect/protocol-grpc-web";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  BatchGetEntitiesRequestSchema,
  EntityService,
  GetEntityRequestSchema,
  GetEntityResponseSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { DomainError, invalidField } from "../src/domain/errors.ts";
import { toStatus } from "../src/errors.ts";
import { paged } from "../src/paged.ts";
import { envelope, FLAG, FRAME, frame, headerBlock, PREFACE } from "./frames.ts";
import {
  type Answer,
  grpcRefusal,
  h2Call,
  KEY,
  Kinds,
  READ_KEY,
  type Refusal,
  rawCall,
  refusalOf,
  startServer,
  type TestServer,
  withSession,
} from "./transport-harness.ts";

const GET = "/entity.v1.EntityService/GetEntity";
const GRPC = { ":path": GET, "content-type": "application/grpc", te: "trailers" };
const request = toBinary(
  GetEntityRequestSchema,
  create(GetEntityRequestSchema, { lookup: { by: { case: "entityId", value: "1" } } }),
);

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server[Symbol.asyncDispose]());

const transports: Record<string, (url: string) => Transport> = {
  "gRPC over HTTP/2": (baseUrl) => createGrpcTransport({ baseUrl }),
  "Connect over HTTP/1.1": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1" }),
  "Connect over HTTP/2": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2" }),
  "Connect with JSON": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
  "gRPC-Web over HTTP/1.1": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
  "gRPC-Web over HTTP/2": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "2" }),
};
const headers = { authorization: `Bearer ${KEY}` };

/** A unary gRPC call on a separate connection, as bytes. */
const http2Call = (path: string, authorization: string[]) =>
  Buffer.concat([
    PREFACE,
    frame(FRAME.SETTINGS, 0, 0),
    frame(
      FRAME.HEADERS,
      FLAG.END_HEADERS,
      1,
      headerBlock({
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "a",
        "content-type": "application/grpc",
        authorization,
      }),
    ),
    frame(FRAME.DATA, FLAG.END_STREAM, 1, envelope(new Uint8Array())),
  ]);

async function alive(): Promise<void> {
  const client = createClient(EntityService, createGrpcTransport({ baseUrl: server.url }));
  expect((await client.getEntity({}, { headers })).entity?.name).toBe("answer");
}

describe("one port for every protocol", () => {
  test.each(Object.entries(transports))("%s", async (_, transport) => {
    const client = createClient(EntityService, transport(server.url));
    const { entity } = await client.getEntity({ lookup: { by: { case: "entityId", value: "1" } } }, { headers });
    expect(entity?.name).toBe("answer");
  });

  test.each(Object.entries(transports))(
    "%s: a refusal has the reason, the domain and the field",
    async (_, transport) => {
      const client = createClient(EntityService, transport(server.url));
      const error = await client
        .getEntity({}, { headers: { ...headers, "x-actor-id": "a\u00e9" } })
        .catch(ConnectError.from);
      expect(refusalOf(error as ConnectError)).toMatchObject({
        code: Code.InvalidArgument,
        reason: "VALIDATION_ERROR",
        domain: "entity.v1",
        metadata: { field: "x-actor-id" },
        fields: ["x-actor-id"],
      });
    },
  );

  test.each(["gRPC over HTTP/2", "Connect over HTTP/2", "gRPC-Web over HTTP/2"])("%s: streams", async (name) => {
    const client = createClient(EntityService, (transports[name] as (url: string) => Transport)(server.url));
    const rows = async function* () {
      yield { reason: "a" };
      yield { reason: "b" };
    };
    let answers = 0;
    for await (const _ of client.importEntities(rows(), { headers })) answers += 1;
    expect(answers).toBe(2);
  });

  test("the gRPC client of Google", async () => {
    const client = new grpc.Client(`127.0.0.1:${server.port}`, grpc.credentials.createInsecure());
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${KEY}`);
    const name = await new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        GET,
        (bytes: Buffer) => bytes,
        (bytes: Buffer) => fromBinary(GetEntityResponseSchema, bytes),
        Buffer.from(request),
        metadata,
        (error, response) => (error ? reject(error) : resolve(response?.entity?.name)),
      );
    });
    client.close();
    expect(name).toBe("answer");
  });

  test("the errors of single items of a batch and an import, in JSON with their details", async () => {
    const missing = toStatus(new DomainError("NOT_FOUND", "Entity not found"));
    await using own = await startServer({
      handlers: {
        batchGetEntities: () => ({ results: [{ result: { case: "error", value: missing } }] }),
        async *importEntities() {
          yield { results: [{ error: toStatus(invalidField("entity.name", "is required")) }] };
        },
      },
    });
    const post = (method: string, type: string, body: Uint8Array) =>
      withSession(own.url, (session) =>
        h2Call(session, { ":path": `/entity.v1.EntityService/${method}`, "content-type": `application/${type}` }, body),
      );
    const batch = await post("BatchGetEntities", "json", Buffer.from("{}"));
    expect(batch.status).toBe(200);
    const info = { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "NOT_FOUND", domain: "entity.v1" };
    const error = { code: 5, message: "Entity not found", details: [info] };
    expect(JSON.parse(batch.body.toString())).toEqual({ results: [{ error }] });
    const rows = (await post("ImportEntities", "connect+json", envelope(Buffer.from("{}")))).body.toString();
    expect(rows).toContain('"@type":"type.googleapis.com/google.rpc.BadRequest"');
    expect(rows).not.toContain("internal");
  });

  test("the preface of HTTP/2 byte by byte", async () => {
    const socket = createConnection(server.port, "127.0.0.1");
    const received: Buffer[] = [];
    socket.on("data", (chunk) => received.push(chunk));
    socket.setNoDelay(true);
    for (const byte of Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "latin1")) {
      socket.write(Buffer.of(byte));
      await sleep(2);
    }
    await expect.poll(() => Buffer.concat(received)[3]).toBe(4); // a SETTINGS frame
    socket.destroy();
  });

  test("HTTP/1.1 byte by byte, with a method that begins as the preface does", async () => {
    const socket = createConnection(server.port, "127.0.0.1");
    let received = "";
    socket.on("data", (chunk) => {
      received += chunk;
    });
    socket.setNoDelay(true);
    for (const byte of Buffer.from("PUT /x HTTP/1.1\r\nhost: a\r\n\r\n")) {
      socket.write(Buffer.of(byte));
      await sleep(2);
    }
    await expect.poll(() => received).toMatch(/^HTTP\/1.1 404 /);
    socket.destroy();
  });

  test.each([
    ["before the end of its request says that the connection closes, and closes it", "", /^HTTP\/1.1 401 /, true],
    ["after the end of its request leaves the connection open", "1\r\n}\r\n0\r\n\r\n", /^HTTP\/1.1 200 /, false],
  ])("HTTP/1.1: an answer %s", async (_, rest, status, closes) => {
    const socket = createConnection(server.port, "127.0.0.1");
    let received = "";
    let closed = false;
    socket.on("data", (chunk) => {
      received += chunk;
    });
    socket.on("close", () => {
      closed = true;
    });
    // Without a key the answer does not wait for the body.
    const key = closes ? "" : `authorization: Bearer ${KEY}\r\n`;
    const head = `POST ${GET} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n${key}`;
    socket.write(`${head}transfer-encoding: chunked\r\n\r\n1\r\n{\r\n${rest}`);
    await expect.poll(() => received).toMatch(status);
    expect(/^connection: close\r$/im.test(received)).toBe(closes);
    if (closes) await expect.poll(() => closed).toBe(true);
    else await sleep(300);
    expect(closed).toBe(closes);
    socket.destroy();
  });

  test("a connection that says nothing is closed", async () => {
    await using quick = await startServer({ listener: { headersTimeoutMs: 200 } });
    const start = performance.now();
    await rawCall(quick.port, "PRI * HT", 3_000);
    expect(performance.now() - start).toBeLessThan(1_500);
    await rawCall(quick.port, "POST /x HTTP/1.1\r\nhost: a\r\nx-slow: ", 3_000);
    expect(performance.now() - start).toBeLessThan(3_000);
  });

  test.each([0, 1])("an HTTP/2 connection that is idle after %i calls is closed", async (calls) => {
    await using own = await startServer({ listener: { idleTimeoutMs: 200 } });
    const session = connect(own.url);
    const closed = new Promise((resolve) => session.once("close", () => resolve("closed")));
    for (let i = 0; i < calls; i += 1) await h2Call(session, GRPC, envelope(request));
    expect(await Promise.race([closed, sleep(15_000)])).toBe("closed");
  });

  test("an HTTP/2 connection of age is closed when its calls have ended", async () => {
    await using own = await startServer({
      listener: { maxConnectionAgeMs: 200 },
      handlers: { getEntity: () => sleep(500, {}) },
    });
    const session = connect(own.url);
    const closed = new Promise((resolve) => session.once("close", () => resolve("closed")));
    expect((await h2Call(session, GRPC, envelope(request))).trailers["grpc-status"]).toBe("0");
    expect(await Promise.race([closed, sleep(15_000)])).toBe("closed");
  });

  test("an HTTP/2 connection may have 1,000 streams at once", async () => {
    const session = connect(server.url);
    const settings = await new Promise<Settings>((resolve) => session.once("remoteSettings", resolve));
    expect(settings.maxConcurrentStreams).toBe(1_000);
    session.destroy();
  });

  test("an HTTP/2 connection that the caller closes is let go", async () => {
    await using own = await startServer();
    const session = connect(own.url);
    await h2Call(session, GRPC, envelope(request));
    session.close();
    const start = performance.now();
    await own.drain(10_000);
    expect(performance.now() - start).toBeLessThan(5_000);
  });
});

describe("malformed HTTP", () => {
  test.each(["[", "a:b", "x:99999"])(":authority %s is refused", async (authority) => {
    await withSession(server.url, async (session) => {
      const answer = await h2Call(session, { ...GRPC, ":authority": authority }, envelope(request));
      expect(grpcRefusal(answer)).toMatchObject({ code: Code.InvalidArgument, reason: "VALIDATION_ERROR" });
      const json = { ...GRPC, "content-type": "application/json", ":authority": authority };
      expect((await h2Call(session, json, Buffer.from("{}"))).status).toBe(400);
    });
    await alive();
  });

  test.each([
    [
      "HTTP/1.0 without Host",
      "POST /entity.v1.EntityService/GetEntity HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ],
    [
      "HTTP/1.1 without Host",
      "POST /entity.v1.EntityService/GetEntity HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ],
    [
      "an empty Host",
      "POST /entity.v1.EntityService/GetEntity HTTP/1.1\r\nhost: \r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ],
    [
      "Host [",
      "POST /entity.v1.EntityService/GetEntity HTTP/1.1\r\nhost: [\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ],
  ])("%s is refused with 400", async (_, bytes) => {
    expect(await rawCall(server.port, bytes)).toMatch(/^HTTP\/1\.1 400 /);
    await alive();
  });

  /** What every refusal has, in the form of its protocol; `status` is the HTTP status. */
  const refusalIn = (type: string, { headers, trailers, body }: Answer): Refusal => {
    if (/^application\/grpc-web/.test(type)) {
      const trailer = trailerParse(body.subarray(5));
      return refusalOf(findTrailerError(trailer) as ConnectError);
    }
    if (/^application\/grpc/.test(type)) return grpcRefusal({ status: 200, headers, trailers, body });
    const error = new ConnectError("unreadable");
    if (/^application\/connect/.test(type)) return refusalOf(endStreamFromJson(body.subarray(5)).error ?? error);
    return refusalOf(errorFromJsonBytes(body, undefined, error));
  };

  const SHAPES: [type: string, status: number][] = [
    ["application/grpc", 200],
    ["application/grpc+proto", 200],
    ["application/grpc-web+proto", 200],
    ["application/grpc-web+json", 200],
    ["application/proto", 404],
    ["application/json", 404],
    ["application/connect+proto", 200],
    ["application/connect+json", 200],
    ["text/plain", 404],
    ["", 404],
  ];

  test.each(SHAPES)(
    "an unknown RPC is refused in the protocol of its content-type, with what to do: %j",
    async (type, status) => {
      const head = { "content-type": type };
      await withSession(server.url, async (session) => {
        const answer = await h2Call(
          session,
          { ...head, ":path": "/entity.v1.EntityService/getEntitie" },
          envelope(request),
        );
        expect(answer.status).toBe(status);
        const near = refusalIn(type, answer);
        expect(near).toMatchObject({ code: Code.Unimplemented, reason: "UNIMPLEMENTED", domain: "entity.v1" });
        expect(near.message).toMatch(/did you mean \/entity\.v1\.EntityService\/GetEntity\?/);
        for (const path of ["/Juan.Perez/Juan", "/", `/${"x".repeat(5_000)}`]) {
          const far = refusalIn(type, await h2Call(session, { ...head, ":path": path }, envelope(request)));
          expect(far).toMatchObject({ code: Code.Unimplemented, reason: "UNIMPLEMENTED" });
          expect(far.message).not.toMatch(/Juan|xxx|did you mean/);
          expect(far.message).toMatch(/reflection/);
        }
      });
    },
  );

  test.each([
    ["/entity.v1.EntityServce/GetEntity", "/entity.v1.EntityService/GetEntity"],
    ["//entity.v1.EntityService/GetEntity", "/entity.v1.EntityService/GetEntity"],
    ["/entity.v1.EntityService/GETENTITY", "/entity.v1.EntityService/GetEntity"],
    ["/grpc.health.v1.Health/Chek", "/grpc.health.v1.Health/Check"],
  ])("%s: did you mean %s?", async (path, meant) => {
    const answer = await withSession(server.url, (session) =>
      h2Call(session, { ...GRPC, ":path": path }, envelope(request)),
    );
    expect(grpcRefusal(answer).message).toContain(`did you mean ${meant}?`);
  });

  test.each(["text/plain", "application/grpc+xml", "application/x-www-form-urlencoded", ""])(
    "the content type %j is 415, with what to send",
    async (type) => {
      const answer = await withSession(server.url, (session) =>
        h2Call(session, { ...GRPC, "content-type": type }, envelope(request)),
      );
      expect(answer.status).toBe(415);
      expect(refusalIn("", answer)).toMatchObject({ reason: "VALIDATION_ERROR", metadata: { field: "content-type" } });
      expect(refusalIn("", answer).message).toContain("application/grpc");
    },
  );

  test("no RPC is served by GET: the request would stand in the URL", async () => {
    const path = `${GET}?encoding=json&message=%7B%7D&connect=v1`;
    const answer = await withSession(server.url, (session) => h2Call(session, { ":path": path, ":method": "GET" }));
    expect(answer.status).toBe(405);
    expect(answer.headers.allow).toBe("POST");
    expect(refusalIn("", answer)).toMatchObject({
      reason: "VALIDATION_ERROR",
      message: expect.stringContaining("POST"),
    });
    expect(
      (await withSession(server.url, (session) => h2Call(session, { ":path": "/", ":method": "GET" }))).status,
    ).toBe(404);
  });

  test("a stream of requests over HTTP/1.1 is told that it needs HTTP/2", async () => {
    const received = await rawCall(
      server.port,
      `POST /entity.v1.EntityService/ImportEntities HTTP/1.1\r\nhost: a\r\ncontent-type: application/connect+json\r\ncontent-length: 0\r\n\r\n`,
    );
    expect(received).toMatch(/^HTTP\/1\.1 505 /);
    expect(received).toMatch(/^connection: close\r$/im);
    expect(received).toMatch(/needs HTTP\/2/);
  });

  test.each(["2", "1.1"])("two keys are refused over HTTP/%s, whichever of them is valid", async (version) => {
    for (const keys of [
      [KEY, "other"],
      ["other", KEY],
      [KEY, KEY],
    ]) {
      if (version === "2") {
        await using own = await startServer();
        const authorization = keys.map((key) => `Bearer ${key}`);
        await rawCall(own.port, http2Call(GET, authorization));
        await expect.poll(() => own.calls()).toMatchObject([{ code: "UNAUTHENTICATED" }]);
      } else {
        const lines = keys.map((key) => `authorization: Bearer ${key}\r\n`).join("");
        const head = `POST ${GET} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n${lines}content-length: 2\r\n\r\n{}`;
        expect(await rawCall(server.port, head)).toMatch(/^HTTP\/1\.1 401 /);
      }
    }
  });

  test("https against a port without TLS is told so, and one line says it", async () => {
    await using own = await startServer();
    const tries = [1, 2, 3].map(
      () =>
        new Promise<NodeJS.ErrnoException>((resolve) => {
          connectTls({ port: own.port, host: "127.0.0.1" }).on("error", resolve);
        }),
    );
    for (const error of await Promise.all(tries)) expect(error.code).toMatch(/ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION/);
    const told = () => own.lines.filter((line) => line.includes("tls_on_cleartext"));
    await expect.poll(() => told().length, { timeout: 3_000 }).toBe(1);
    expect(JSON.parse(told()[0] as string)).toMatchObject({ level: 40, tls_on_cleartext: 3 });
    expect(own.lines.join("")).toContain("use http");
  });

  test("a header of 16 KiB is refused and the process lives", async () => {
    const header = "x".repeat(16 * 1024);
    const outcome = await withSession(server.url, (session) =>
      h2Call(session, { ...GRPC, "x-long": header }, envelope(request)).then(
        (answer) => answer.status,
        () => "reset",
      ),
    );
    expect(outcome).toBe(431);
    expect(await rawCall(server.port, `POST ${GET} HTTP/1.1\r\nhost: a\r\nx-long: ${header}\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 431 /,
    );
    await alive();
  });

  test("binary metadata that is not base64 is refused", async () => {
    const answer = await withSession(server.url, (session) =>
      h2Call(session, { ...GRPC, "x-juan-bin": "%%%" }, envelope(request)),
    );
    expect(grpcRefusal(answer)).toMatchObject({ code: Code.InvalidArgument, reason: "VALIDATION_ERROR" });
  });
});

describe("messages that are none", () => {
  const call = (body: Uint8Array, more: Record<string, string> = {}, options = {}) =>
    withSession(server.url, async (session) => grpcRefusal(await h2Call(session, { ...GRPC, ...more }, body, options)));

  test.each([
    ["a length prefix of 4 GiB", envelope(new Uint8Array(), 0, 0xffffffff)],
    ["a length prefix over the limit", envelope(new Uint8Array(), 0, 64 * 1024 + 1)],
  ])("%s is answered without waiting for the body", async (_, body) => {
    const start = performance.now();
    expect(await call(body, {}, { end: false })).toMatchObject({
      code: Code.ResourceExhausted,
      reason: "MESSAGE_TOO_LARGE",
      metadata: { limit_bytes: "65536" },
    });
    // The body would be waited for for 5 s.
    expect(performance.now() - start).toBeLessThan(4_000);
  });

  test("batches may be larger", async () => {
    const path = { ":path": "/entity.v1.EntityService/BatchGetEntities" };
    const lookups = [{ by: { case: "externalId" as const, value: "x".repeat(100_000) } }];
    const batch = toBinary(BatchGetEntitiesRequestSchema, create(BatchGetEntitiesRequestSchema, { lookups }));
    const answer = await withSession(server.url, (session) => h2Call(session, { ...GRPC, ...path }, envelope(batch)));
    expect(answer.trailers["grpc-status"]).toBe("0");
    expect(await call(envelope(new Uint8Array(), 0, 262_145), path)).toMatchObject({
      metadata: { limit_bytes: "262144" },
    });
  });

  test("gzip that grows over the limit", async () => {
    const body = envelope(gzipSync(Buffer.alloc(200_000)), 1);
    expect(await call(body, { "grpc-encoding": "gzip" })).toMatchObject({
      reason: "MESSAGE_TOO_LARGE",
      metadata: { limit_bytes: "65536" },
    });
  });

  test.each([
    ["prefix 9, body 2", envelope(Buffer.from("ab"), 0, 9), {}, Code.InvalidArgument, "VALIDATION_ERROR"],
    ["flagged as compressed without an encoding", envelope(request, 1), {}, Code.Internal, "INTERNAL"],
    [
      "broken gzip",
      envelope(Buffer.from("Juan Perez"), 1),
      { "grpc-encoding": "gzip" },
      Code.InvalidArgument,
      "VALIDATION_ERROR",
    ],
    ["zstd", envelope(request, 1), { "grpc-encoding": "zstd" }, Code.Unimplemented, "UNIMPLEMENTED"],
    ["two messages", Buffer.concat([envelope(request), envelope(request)]), {}, Code.Unimplemented, "UNIMPLEMENTED"],
    ["no message", new Uint8Array(), {}, Code.Unimplemented, "UNIMPLEMENTED"],
  ])("%s", async (_, body, more, code, reason) => {
    expect(await call(body, more as Record<string, string>)).toMatchObject({ code, reason, domain: "entity.v1" });
  });

  test("gzip is served", async () => {
    const answer = await withSession(server.url, (session) =>
      h2Call(session, { ...GRPC, "grpc-encoding": "gzip" }, envelope(gzipSync(request), 1)),
    );
    expect(answer.trailers["grpc-status"]).toBe("0");
  });

  test.each([
    ["gRPC", { ...GRPC }],
    ["Connect", { ":path": GET, "content-type": "application/json" }],
  ])("a %s body that never ends is given up", async (_, head) => {
    await using impatient = await startServer({ limits: { bodyTimeoutMs: 300 } });
    const start = performance.now();
    const answer = await withSession(impatient.url, (session) => h2Call(session, head, Buffer.of(0), { end: false }));
    expect(performance.now() - start).toBeLessThan(1_500);
    if (head["content-type"] === "application/grpc") {
      expect(grpcRefusal(answer)).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_EXCEEDED" });
    } else {
      expect(JSON.parse(answer.body.toString())).toMatchObject({ code: "deadline_exceeded" });
      expect(answer.status).toBe(504);
    }
    await impatient.drain(3_000);
    expect(performance.now() - start).toBeLessThan(2_500);
  });

  test("a body is not waited for beyond the caller's deadline", async () => {
    const start = performance.now();
    expect(await call(Buffer.of(0), { "grpc-timeout": "200m" }, { end: false })).toMatchObject({
      reason: "DEADLINE_EXCEEDED",
    });
    expect(performance.now() - start).toBeLessThan(4_000);
  });

  test("a request stream that goes quiet is given up", async () => {
    await using impatient = await startServer({ limits: { streamIdleTimeoutMs: 300 } });
    const answer = await withSession(impatient.url, (session) =>
      h2Call(session, { ...GRPC, ":path": "/entity.v1.EntityService/ImportEntities" }, envelope(new Uint8Array()), {
        end: false,
      }),
    );
    expect(grpcRefusal(answer)).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
  });
});

describe("deadlines", () => {
  test.each([
    ["names none", undefined, false],
    ["names one", "3S", true],
  ])("a handler whose caller %s is told so", async (_, timeout, known) => {
    let told: number | undefined;
    await using own = await startServer({
      handlers: {
        getEntity(_request, context) {
          told = context.timeoutMs();
          return {};
        },
      },
    });
    const head = { ...GRPC, ...(timeout !== undefined && { "grpc-timeout": timeout }) };
    await withSession(own.url, (session) => h2Call(session, head, envelope(request)));
    expect(told !== undefined && told > 0 && told <= 3_000).toBe(known);
    if (!known) expect(told).toBeUndefined();
  });

  const call = (timeout: string) =>
    withSession(server.url, async (session) =>
      grpcRefusal(await h2Call(session, { ...GRPC, "grpc-timeout": timeout }, envelope(request))),
    );

  const IMPORT = "/entity.v1.EntityService/ImportEntities";
  const REPEAT = "/kinds.v1.KindsService/Repeat";
  test.each([
    ["unary gRPC", GET, "application/grpc", { "grpc-timeout": "60100m" }, 60_000],
    ["unary gRPC", GET, "application/grpc", { "grpc-timeout": "1H" }, 60_000],
    ["unary gRPC", GET, "application/grpc", { "grpc-timeout": "99999999H" }, 60_000],
    ["a stream of responses", REPEAT, "application/grpc", { "grpc-timeout": "3601S" }, 3_600_000],
    ["a stream of requests", IMPORT, "application/grpc", { "grpc-timeout": "99999999H" }, 3_600_000],
    ["gRPC-Web", GET, "application/grpc-web+proto", { "grpc-timeout": "2H" }, 60_000],
    ["Connect", GET, "application/proto", { "connect-timeout-ms": "60100" }, 60_000],
    ["Connect", GET, "application/json", { "connect-timeout-ms": "9999999999" }, 60_000],
    ["a Connect stream", REPEAT, "application/connect+proto", { "connect-timeout-ms": "9999999999" }, 3_600_000],
  ])(
    "a deadline over the maximum is as good as the maximum: %s, %s, %s, %j",
    async (_, path, type, timeout, maximum) => {
      let told: number | undefined;
      const tell = (_request: never, context: { timeoutMs(): number | undefined }) => {
        told = context.timeoutMs();
      };
      await using own = await startServer({
        handlers: {
          getEntity: (request, context) => {
            tell(request, context);
            return {};
          },
          async *importEntities(requests, context) {
            tell(requests, context);
            yield {};
          },
        },
        kinds: {
          async *repeat(request, context) {
            tell(request, context);
            yield {};
          },
        },
      });
      const body =
        type === "application/json"
          ? Buffer.from("{}")
          : type === "application/proto"
            ? new Uint8Array()
            : envelope(new Uint8Array());
      const answer = await withSession(own.url, (session) =>
        h2Call(session, { ":path": path, "content-type": type, ...(timeout as object) }, body),
      );
      expect(answer.status).toBe(200);
      expect(told).toBeLessThanOrEqual(maximum);
      expect(told).toBeGreaterThan(maximum - 5_000);
    },
  );

  test.each(["abc", "-1S", "1", "999999999S"])("grpc-timeout %s is none", async (timeout) => {
    expect(await call(timeout)).toMatchObject({
      code: Code.InvalidArgument,
      reason: "VALIDATION_ERROR",
      metadata: { field: "grpc-timeout" },
    });
  });

  test("connect-timeout-ms that is no number", async () => {
    const head = { ":path": GET, "content-type": "application/json", "connect-timeout-ms": "Juan" };
    const answer = await withSession(server.url, (session) => h2Call(session, head, Buffer.from("{}")));
    expect(answer.status).toBe(400);
    expect(answer.body.toString()).toContain("connect-timeout-ms");
    expect(answer.body.toString()).not.toContain("Juan");
  });

  test("a deadline that has passed spares the handler", async () => {
    let ran = false;
    await using own = await startServer({
      handlers: {
        getEntity: () => {
          ran = true;
          return {};
        },
      },
    });
    const answer = await withSession(own.url, (session) =>
      h2Call(session, { ...GRPC, "grpc-timeout": "0S" }, envelope(request)),
    );
    expect(grpcRefusal(answer)).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_EXCEEDED" });
    expect(ran).toBe(false);
  });

  test.each([
    ["the caller's", { "grpc-timeout": "200m" }, 5_000],
    ["the default", {}, 200],
  ])("a slow handler is answered for by the deadline, %s, and told to stop", async (_, more, defaultTimeoutMs) => {
    let signal: AbortSignal | undefined;
    await using own = await startServer({
      limits: { defaultTimeoutMs },
      handlers: {
        getEntity: async (_: never, context) => {
          signal = context.signal;
          await sleep(5_000);
          return {};
        },
      },
    });
    const start = performance.now();
    const answer = await withSession(own.url, (session) => h2Call(session, { ...GRPC, ...more }, envelope(request)));
    expect(grpcRefusal(answer)).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_EXCEEDED" });
    expect(performance.now() - start).toBeLessThan(4_000);
    expect(signal?.aborted).toBe(true);
  });

  test("a stream has the deadline that its caller names, and no other", async () => {
    let signal: AbortSignal | undefined;
    await using own = await startServer({
      limits: { defaultTimeoutMs: 100 },
      handlers: {
        async *importEntities(_: never, context: HandlerContextLike) {
          signal = context.signal;
          yield {};
          await sleep(1_500);
          yield {};
        },
      } as never,
    });
    const head = { ...GRPC, ":path": "/entity.v1.EntityService/ImportEntities" };
    const short = await withSession(own.url, (session) => h2Call(session, { ...head, "grpc-timeout": "300m" }));
    expect(grpcRefusal(short)).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
    expect(signal?.aborted).toBe(true);
    const long = await withSession(own.url, (session) => h2Call(session, head));
    expect(long.trailers["grpc-status"]).toBe("0");
  });

  test("a caller who leaves aborts the handler", async () => {
    let signal: AbortSignal | undefined;
    await using own = await startServer({
      handlers: {
        getEntity: async (_: never, context) => {
          signal = context.signal;
          await sleep(3_000);
          return {};
        },
      },
    });
    await withSession(own.url, async (session) => {
      const stream = session.request({ ":method": "POST", ...GRPC, authorization: `Bearer ${KEY}` });
      stream.on("error", () => {});
      stream.end(envelope(request));
      await expect.poll(() => signal).toBeDefined();
      stream.close(8);
      await expect.poll(() => signal?.aborted).toBe(true);
    });
    await expect.poll(() => own.calls()[0]).toMatchObject({ code: "CANCELLED", level: 30 });
  });
});

describe("the last frame of an answer says that it is the last", () => {
  const REPEAT = "/kinds.v1.KindsService/Repeat";
  const tooLarge = envelope(new Uint8Array(), 0, 64 * 1024 + 1);

  test.each([
    ["gRPC that fails before a message", "application/grpc", REPEAT, tooLarge, ["HEADERS END"]],
    [
      "gRPC with a message",
      "application/grpc+json",
      GET,
      envelope(Buffer.from("{}")),
      ["HEADERS", "DATA", "HEADERS END"],
    ],
    ["gRPC-Web that fails", "application/grpc-web+proto", REPEAT, tooLarge, ["HEADERS", "DATA END"]],
    ["a Connect stream that fails", "application/connect+proto", REPEAT, tooLarge, ["HEADERS", "DATA END"]],
    ["Connect that fails", "application/json", GET, Buffer.from("nonsense"), ["HEADERS", "DATA END"]],
    ["Connect", "application/proto", GET, request, ["HEADERS", "DATA END"]],
  ])("%s", async (_, type, path, body, frames) => {
    expect(await framesOf({ ":path": path, "content-type": type }, body)).toEqual(frames);
  });

  test("but not of a stream of requests that is refused: connect-node would never close it, and its process never end", async () => {
    const path = "/entity.v1.EntityService/ImportEntities";
    const refused = { ":path": path, "content-type": "application/grpc", authorization: `Bearer ${READ_KEY}` };
    const frames = await framesOf(refused, envelope(new Uint8Array()));
    expect(frames[0]).toBe("HEADERS");
    expect(frames.at(-1)).toBe("HEADERS END");
    expect(frames.length).toBeGreaterThan(1);
  });

  test("gRPC that fails with headers of its own keeps them apart from its status", async () => {
    await using own = await startServer({
      kinds: {
        async *repeat(_: never, context) {
          context.responseHeader.set("x-own", "1");
          yield* [];
          throw new DomainError("NOT_FOUND", "none");
        },
      },
    });
    const answer = await withSession(own.url, (session) =>
      h2Call(session, { ...GRPC, ":path": REPEAT }, envelope(new Uint8Array())),
    );
    expect(answer.headers).toMatchObject({ "x-own": "1" });
    expect(answer.headers).not.toHaveProperty("grpc-status");
    expect(answer.trailers).toMatchObject({ "grpc-status": "5" });
  });

  /** The frames of headers and data that answer one call, read between the service and its caller. */
  async function framesOf(headers: Record<string, string>, body: Uint8Array): Promise<string[]> {
    let bytes = Buffer.alloc(0);
    const between = createServer((caller) => {
      const service = createConnection(server.port, "127.0.0.1");
      service.on("data", (chunk) => (bytes = Buffer.concat([bytes, chunk])));
      for (const socket of [caller, service]) socket.on("error", () => {});
      caller.pipe(service).pipe(caller);
    });
    await new Promise<void>((resolve) => between.listen(0, "127.0.0.1", resolve));
    const { port } = between.address() as AddressInfo;
    await withSession(`http://127.0.0.1:${port}`, (session) => h2Call(session, headers, body));
    between.close();
    const frames: string[] = [];
    for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
      const name = ["DATA", "HEADERS"][bytes.readUInt8(at + 3)];
      if (name !== undefined) frames.push((bytes.readUInt8(at + 4) & 1) === 1 ? `${name} END` : name);
    }
    return frames;
  }
});

/** The messages of a body, each in a frame. */
function messagesOf(body: Buffer): { texts: string[] }[] {
  const messages: { texts: string[] }[] = [];
  for (let at = 0; at < body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    expect(body[at]).toBe(0);
    expect(end).toBeLessThanOrEqual(body.length);
    messages.push(fromBinary(KindsMessage, body.subarray(at + 5, end)) as unknown as { texts: string[] });
    at = end;
  }
  return messages;
}
const KindsMessage = (Kinds.methods[0] as (typeof Kinds.methods)[number]).output;

describe("streams of responses", () => {
  const repeat = { ...GRPC, ":path": "/kinds.v1.KindsService/Repeat" };

  test("one without an end is ended by the shutdown, with a word", async () => {
    const endless = Kinds.methods.filter((method) => method.name === "Repeat");
    let begun = false;
    let stopped = false;
    await using own = await startServer({
      endless,
      kinds: {
        async *repeat(_: never, context) {
          begun = true;
          context.signal.addEventListener("abort", () => {
            stopped = true;
          });
          yield {};
          await sleep(30_000, undefined, { ref: false });
        },
      },
    });
    await withSession(own.url, async (session) => {
      const answer = h2Call(session, repeat, envelope(new Uint8Array()));
      await expect.poll(() => begun).toBe(true);
      own.shutdown.abort();
      expect(grpcRefusal(await answer)).toMatchObject({
        code: Code.Unavailable,
        reason: "DATABASE_UNAVAILABLE",
        message: "The service is shutting down: retry",
      });
    });
    expect(stopped).toBe(true);
  });

  /** A stream of pages of items. */
  const pagesOf = (pages: () => AsyncIterable<readonly string[]>, toMessage = (text: string) => ({ texts: [text] })) =>
    ({ repeat: () => paged(pages(), toMessage) }) as never;

  test("pages come as their messages, each in a frame of its own, however large", async () => {
    const texts = Array.from({ length: 40 }, (_, i) => `${i} ${"é".repeat(i * 500)}`);
    await using own = await startServer({
      kinds: pagesOf(async function* () {
        yield texts.slice(0, 1);
        yield texts.slice(1, 30);
        yield [];
        yield texts.slice(30);
      }),
    });
    const answer = await withSession(own.url, (session) => h2Call(session, repeat, envelope(new Uint8Array())));
    expect(answer.headers).toMatchObject({ ":status": 200, "content-type": "application/grpc+proto" });
    expect(answer.trailers["grpc-status"]).toBe("0");
    expect(messagesOf(answer.body).map((message) => message.texts[0])).toEqual(texts);
    const [, web] = await Promise.all([
      alive(),
      withSession(own.url, (session) =>
        h2Call(session, { ...repeat, "content-type": "application/connect+json" }, envelope(Buffer.from("{}"))),
      ),
    ]);
    expect(web.body.toString()).toContain(texts[39]);
  });

  test("a page that several streams share is made and encoded once", async () => {
    const page = ["a", "b", "c"];
    let made = 0;
    await using own = await startServer({
      limits: { unaryPath: true },
      kinds: pagesOf(
        async function* () {
          yield page;
        },
        (text) => {
          made += 1;
          return { texts: [text] };
        },
      ),
    });
    await withSession(own.url, async (session) => {
      for (let i = 0; i < 3; i++) {
        const answer = await h2Call(session, repeat, envelope(new Uint8Array()));
        expect(messagesOf(answer.body).map(({ texts }) => texts)).toEqual([["a"], ["b"], ["c"]]);
      }
    });
    expect(made).toBe(3);
  });

  test("no more is made than its caller reads, within a page too", async () => {
    let made = 0;
    await using own = await startServer({
      kinds: pagesOf(
        async function* () {
          yield Array.from({ length: 500 }, (_, i) => String(i));
        },
        (text) => {
          made += 1;
          return { texts: [text.padEnd(20_000, "x")] };
        },
      ),
    });
    await withSession(own.url, async (session) => {
      const stream = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...repeat });
      stream.end(envelope(new Uint8Array()));
      stream.pause();
      await expect.poll(() => made).toBeGreaterThan(0);
      await sleep(300);
      expect(made).toBeLessThan(50);
      const chunks: Buffer[] = [];
      for await (const chunk of stream) chunks.push(chunk);
      expect(messagesOf(Buffer.concat(chunks)).map(({ texts }) => parseInt(texts[0] ?? "", 10))).toEqual(
        Array.from({ length: 500 }, (_, i) => i),
      );
    });
  });

  test("what fails after some messages ends with a word behind them, and with the trailers of the handler", async () => {
    await using own = await startServer({
      kinds: {
        async *repeat(_: never, context) {
          context.responseHeader.set("x-own", "1");
          context.responseTrailer.set("x-behind", "2");
          yield { texts: ["a"] };
          throw new DomainError("NOT_FOUND", "none");
        },
      },
    });
    const answer = await withSession(own.url, (session) => h2Call(session, repeat, envelope(new Uint8Array())));
    expect(messagesOf(answer.body)).toHaveLength(1);
    expect(answer.headers).toMatchObject({ "x-own": "1", "x-request-id": expect.stringMatching(/^[\da-f-]{36}$/) });
    expect(answer.trailers).toMatchObject({ "x-behind": "2" });
    expect(grpcRefusal(answer)).toMatchObject({ code: Code.NotFound, reason: "NOT_FOUND" });
    await expect.poll(() => own.calls()[0]).toMatchObject({ code: "NOT_FOUND", reason: "NOT_FOUND" });
  });

  test.each([
    ["two messages", Buffer.concat([envelope(Buffer.alloc(0)), envelope(Buffer.alloc(0))]), "UNIMPLEMENTED"],
    ["no message", Buffer.alloc(0), "UNIMPLEMENTED"],
    ["half a message", envelope(Buffer.from("ab"), 0, 9), "VALIDATION_ERROR"],
    ["a message that is none", envelope(Buffer.of(0xff)), "VALIDATION_ERROR"],
    ["one that is too large", envelope(new Uint8Array(), 0, 64 * 1024 + 1), "MESSAGE_TOO_LARGE"],
  ])("a request of %s is refused before the handler", async (_, body, reason) => {
    let ran = false;
    await using own = await startServer({
      kinds: {
        async *repeat() {
          ran = true;
          yield {};
        },
      },
    });
    const answer = await withSession(own.url, (session) => h2Call(session, repeat, body));
    expect(grpcRefusal(answer).reason).toBe(reason);
    expect(ran).toBe(false);
  });

  test("a request that is compressed is served", async () => {
    const answer = await withSession(server.url, (session) =>
      h2Call(session, { ...repeat, "grpc-encoding": "gzip" }, envelope(gzipSync(Buffer.alloc(0)), 1)),
    );
    expect(answer.trailers["grpc-status"]).toBe("0");
    expect(messagesOf(answer.body)).toHaveLength(1);
  });

  test("the deadline that its caller names ends it behind what has come, and tells the handler; there is no other", async () => {
    let signal: AbortSignal | undefined;
    let pauseMs = 5_000;
    await using own = await startServer({
      limits: { defaultTimeoutMs: 100, bodyTimeoutMs: 100 },
      kinds: {
        async *repeat(_: never, context) {
          signal = context.signal;
          yield {};
          await sleep(pauseMs);
          yield {};
        },
      },
    });
    await withSession(own.url, async (session) => {
      const start = performance.now();
      const short = await h2Call(session, { ...repeat, "grpc-timeout": "300m" }, envelope(new Uint8Array()));
      expect(performance.now() - start).toBeLessThan(4_000);
      expect(grpcRefusal(short)).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_EXCEEDED" });
      expect(messagesOf(short.body)).toHaveLength(1);
      expect(signal?.aborted).toBe(true);
      // Longer than the default, and than a body is waited for.
      pauseMs = 300;
      const long = await h2Call(session, repeat, envelope(new Uint8Array()));
      expect(long.trailers["grpc-status"]).toBe("0");
      expect(messagesOf(long.body)).toHaveLength(2);
      const hour = await h2Call(session, { ...repeat, "grpc-timeout": "1H" }, envelope(new Uint8Array()));
      expect(hour.trailers["grpc-status"]).toBe("0");
      const day = await h2Call(session, { ...repeat, "grpc-timeout": "24H" }, envelope(new Uint8Array()));
      expect(day.trailers["grpc-status"]).toBe("0");
    });
  });

  test("one without an end whose key is refused later ends with the reason, and its handler is told", async () => {
    let isRevoked = false;
    let signal: AbortSignal | undefined;
    const caller = { organizationId: "org-1", apiKeyId: "key-1", scopes: new Set(["entities:read"]) };
    await using own = await startServer({
      endless: Kinds.methods.filter((method) => method.name === "Repeat"),
      findCaller: async () => (isRevoked ? null : caller),
      kinds: {
        async *repeat(_: never, context) {
          signal = context.signal;
          yield {};
          await sleep(4_000);
        },
      },
    });
    await withSession(own.url, async (session) => {
      const answer = h2Call(session, repeat, envelope(new Uint8Array()));
      await expect.poll(() => signal).toBeDefined();
      isRevoked = true;
      const start = performance.now();
      expect(grpcRefusal(await answer)).toMatchObject({ code: Code.Unauthenticated, reason: "UNAUTHENTICATED" });
      expect(performance.now() - start).toBeLessThan(2_500);
      expect(signal?.aborted).toBe(true);
    });
    await expect.poll(() => own.calls()[0]).toMatchObject({ code: "UNAUTHENTICATED", reason: "UNAUTHENTICATED" });
  });

  test("one without an end that begins during the shutdown is told so", async () => {
    await using own = await startServer({ endless: Kinds.methods.filter((method) => method.name === "Repeat") });
    own.shutdown.abort();
    const answer = await withSession(own.url, (session) => h2Call(session, repeat, envelope(new Uint8Array())));
    expect(grpcRefusal(answer)).toMatchObject({ code: Code.Unavailable, reason: "DATABASE_UNAVAILABLE" });
  });

  /** Begins the stream without reading it; the returned function leaves it. */
  const unread: [string, (own: TestServer) => () => void][] = [
    ["cancels", (own) => beginUnread(own, (_, stream) => stream.close(8))],
    ["hangs up", (own) => beginUnread(own, (session) => session.destroy())],
    [
      "hangs up over HTTP/1.1",
      (own) => {
        const socket = createConnection(own.port, "127.0.0.1").pause();
        socket.on("error", () => {});
        const head = `POST ${repeat[":path"]} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ${KEY}\r\n`;
        socket.write(`${head}content-type: application/connect+json\r\ncontent-length: 7\r\n\r\n\0\0\0\0\x02{}`);
        return () => socket.destroy();
      },
    ],
  ];
  function beginUnread(own: TestServer, leave: (session: ClientHttp2Session, stream: ClientHttp2Stream) => void) {
    const session = connect(own.url);
    session.on("error", () => {});
    const stream = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...repeat });
    stream.on("error", () => {});
    stream.end(envelope(new Uint8Array()));
    stream.pause();
    return () => leave(session, stream);
  }

  test.each(unread)("one that its caller does not read lets its handler go when the caller %s", async (_, begin) => {
    let sent = 0;
    let ended = false;
    await using own = await startServer({
      kinds: {
        async *repeat() {
          try {
            for (;;) {
              sent += 1;
              yield { texts: ["x".repeat(50_000)] };
            }
          } finally {
            ended = true;
          }
        },
      },
    });
    const leave = begin(own);
    await expect.poll(() => sent).toBeGreaterThan(0);
    await sleep(300);
    expect(ended).toBe(false);
    leave();
    await expect.poll(() => ended).toBe(true);
    await expect.poll(() => own.calls()[0]?.code).toBe("CANCELLED");
  });
});

test("connections that break at any moment leave the process alive", async () => {
  const session = connect(server.url);
  await new Promise((resolve) => session.once("remoteSettings", resolve));
  session.destroy();
  const head =
    "POST /entity.v1.EntityService/ImportEntities HTTP/1.1\r\nhost: a\r\ncontent-type: application/connect+json\r\n";
  const openings = [
    "",
    "PRI",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nJuan Perez Juan Perez",
    "\0\xff\r\n\r\n",
    "POST / HTTP/9\r\n\r\n",
    `${head}content-length: 900\r\n\r\nabc`,
    `${head}transfer-encoding: chunked\r\n\r\nzz\r\n`,
  ];
  for (const opening of openings) {
    for (const waitMs of [0, 20]) {
      const socket = createConnection(server.port, "127.0.0.1");
      socket.on("error", () => {});
      socket.write(Buffer.from(opening, "latin1"));
      await sleep(waitMs);
      socket.resetAndDestroy();
    }
  }
  const other = connect(server.url);
  other.on("error", () => {});
  for (let i = 0; i < 20; i += 1) {
    const stream = other.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...GRPC });
    stream.on("error", () => {});
    stream.write(Buffer.of(0, 0));
    if (i % 2 === 0) stream.close(i);
  }
  await sleep(30);
  other.destroy();
  await sleep(50);
  await alive();
});

interface HandlerContextLike {
  signal: AbortSignal;
}

test("a port that is taken is said so", async () => {
  await expect(startServer({ listener: { port: server.port } })).rejects.toMatchObject({ code: "EADDRINUSE" });
});

describe("drain", () => {
  test("a call in flight ends, idle connections do not hold it up, health says so first", async () => {
    let begun = 0;
    const own = await startServer({
      handlers: {
        getEntity: () => {
          begun += 1;
          return sleep(1_500, { entity: { name: "late" } });
        },
      },
    });
    const idle = connect(own.url);
    await h2Call(idle, { ...GRPC, ":path": "/entity.v1.EntityService/ListEntities" }, envelope(new Uint8Array()));
    const keepAlive = createConnection(own.port, "127.0.0.1");
    let greeting = "";
    keepAlive.on("data", (chunk) => {
      greeting += chunk;
    });
    keepAlive.write("GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n");
    await expect.poll(() => greeting).toMatch(/404/);

    const client = createClient(EntityService, createGrpcTransport({ baseUrl: own.url }));
    const http1 = createClient(EntityService, createConnectTransport({ baseUrl: own.url, httpVersion: "1.1" }));
    const inFlight = [client.getEntity({}, { headers }), http1.getEntity({}, { headers })];
    await expect.poll(() => begun).toBe(2);
    own.readiness.set(false);
    const health = await withSession(own.url, (session) =>
      h2Call(session, { ...GRPC, ":path": "/grpc.health.v1.Health/Check" }, envelope(new Uint8Array())),
    );
    expect(health.body.subarray(5)).toEqual(Buffer.of(8, 2)); // NOT_SERVING
    const start = performance.now();
    await own.drain(15_000);
    expect(performance.now() - start).toBeLessThan(8_000);
    for (const call of inFlight) expect((await call).entity?.name).toBe("late");
    await expect(client.getEntity({}, { headers })).rejects.toThrow();
    idle.destroy();
    keepAlive.destroy();
  });

  test("what remains at the deadline is cut off", async () => {
    const own = await startServer({ handlers: { getEntity: () => sleep(8_000, {}) } });
    const call = createClient(EntityService, createGrpcTransport({ baseUrl: own.url })).getEntity({}, { headers });
    call.catch(() => {});
    await sleep(100);
    const start = performance.now();
    await own.drain(300);
    expect(performance.now() - start).toBeLessThan(5_000);
    await expect(call).rejects.toThrow();
  });

  test("oversized requests leave no stream behind", async () => {
    const own = await startServer();
    const session = connect(own.url);
    session.on("error", () => {});
    const big = envelope(new Uint8Array(100_000));
    for (let i = 0; i < 30; i += 1) {
      expect(grpcRefusal(await h2Call(session, GRPC, big, { end: i % 2 === 0 })).reason).toBe("MESSAGE_TOO_LARGE");
    }
    const http1 = createClient(EntityService, createConnectTransport({ baseUrl: own.url, httpVersion: "1.1" }));
    const error = await http1.createEntity({ reason: "x".repeat(100_000) }, { headers }).catch(ConnectError.from);
    expect(refusalOf(error as ConnectError).reason).toBe("MESSAGE_TOO_LARGE");
    const start = performance.now();
    await own.drain(10_000);
    expect(performance.now() - start).toBeLessThan(5_000);
    session.destroy();
  });

  test.each([
    ["that is complete", true],
    ["that is left open", false],
  ])("a large answer to a slow reader of a request %s is not cut", async (_, complete) => {
    await using own = await startServer({
      handlers: {
        async *importEntities() {
          yield { results: [{ error: { message: "n".repeat(3_000_000) } }] };
        },
      },
    });
    await withSession(own.url, async (session) => {
      const path = "/entity.v1.EntityService/ImportEntities";
      const stream = session.request({ ":method": "POST", ...GRPC, ":path": path, authorization: `Bearer ${KEY}` });
      if (complete) stream.end();
      stream.pause();
      await sleep(700);
      let received = 0;
      for await (const chunk of stream) received += chunk.length;
      expect(received).toBeGreaterThan(3_000_000);
    });
  });
});
