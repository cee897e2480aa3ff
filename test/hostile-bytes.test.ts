// Whatever bytes arrive, the process survives, no ended call stays counted, and no caller's fault is logged as a defect.
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { EntityService } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { Health } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../clients/typescript/gen/grpc/reflection/v1/reflection_pb.ts";
import { envelope, FLAG, FRAME, frame, headerBlock, literal, PREFACE, reset } from "./frames.ts";
import { h2Call, KEY, Kinds, rawCall, startServer, type TestServer, withSession } from "./transport-harness.ts";

const SERVICES = [EntityService, Kinds, Health, ServerReflection];
const PATHS = [
  ...SERVICES.flatMap((service) => service.methods.map((method) => `/${service.typeName}/${method.name}`)),
  "/metrics",
  "/entity.v1.EntityService/Juan",
  "/",
  "*",
];
const TYPES = [
  "application/grpc",
  "application/grpc+proto",
  "application/grpc-web+proto",
  "application/grpc-web+json",
  "application/proto",
  "application/json",
  "application/connect+proto",
  "application/connect+json",
  "text/plain",
  "",
];

/** The frames sent in one packet with the headers of a call, on stream `id`. */
const ENDINGS: Record<string, (id: number, block: Buffer) => Buffer[]> = {
  "a reset without an error": (id, block) => [frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block), reset(id, 0)],
  "a reset that cancels": (id, block) => [frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block), reset(id, 8)],
  "a reset with an error": (id, block) => [frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block), reset(id, 2)],
  "a message and a reset": (id, block) => [
    frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block),
    frame(FRAME.DATA, 0, id, envelope(new Uint8Array())),
    reset(id, 8),
  ],
  "a whole request and a reset": (id, block) => [
    frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block),
    frame(FRAME.DATA, FLAG.END_STREAM, id, envelope(new Uint8Array())),
    reset(id, 8),
  ],
  "no body and a reset": (id, block) => [
    frame(FRAME.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, id, block),
    reset(id, 0),
  ],
  "trailers and a reset": (id, block) => [
    frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block),
    frame(FRAME.DATA, 0, id, envelope(new Uint8Array())),
    frame(FRAME.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, id, literal("x-trailer", "1")),
    reset(id, 8),
  ],
  "headers in two frames and a reset": (id, block) => [
    frame(FRAME.HEADERS, 0, id, block.subarray(0, 20)),
    frame(FRAME.CONTINUATION, FLAG.END_HEADERS, id, block.subarray(20)),
    reset(id, 8),
  ],
  "a body longer than it may be": (id, block) => [
    frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block),
    frame(FRAME.DATA, FLAG.END_STREAM, id, envelope(new Uint8Array(), 0, 0xffffffff)),
  ],
  "no room for an answer, and a reset": (id, block) => [
    frame(FRAME.SETTINGS, 0, 0, Buffer.of(0, 4, 0, 0, 0, 0)),
    frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block),
    frame(FRAME.DATA, FLAG.END_STREAM, id, envelope(new Uint8Array())),
    frame(FRAME.PING, 0, 0, Buffer.alloc(8)),
    reset(id, 5),
  ],
  "a goodbye": (id, block) => [
    frame(FRAME.HEADERS, FLAG.END_HEADERS, id, block),
    frame(FRAME.GOAWAY, 0, 0, Buffer.alloc(8)),
    frame(FRAME.DATA, FLAG.END_STREAM, id, envelope(new Uint8Array())),
  ],
};

const folder = mkdtempSync(join(tmpdir(), "entity-hostile-"));
const pem = (name: string) => readFileSync(join(folder, name), "utf8");
const uncaught: unknown[] = [];
const catchIt = (error: unknown) => void uncaught.push(error);
const handlers = {
  async *watchEntities(_: never, { signal }: { signal: AbortSignal }) {
    yield {};
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  },
};

let cleartext: TestServer;
let secure: TestServer;
beforeAll(async () => {
  execFileSync("openssl", [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"],
    ...["-subj", "/CN=localhost", "-keyout", join(folder, "key.pem"), "-out", join(folder, "cert.pem")],
  ]);
  const options = {
    handlers: handlers as never,
    limits: { bodyTimeoutMs: 1_000, streamIdleTimeoutMs: 1_000 },
    answerTimeoutMs: 500,
  };
  cleartext = await startServer(options);
  secure = await startServer({ ...options, tls: { cert: pem("cert.pem"), key: pem("key.pem"), clientCa: undefined } });
  process.on("uncaughtException", catchIt);
  process.on("unhandledRejection", catchIt);
});
afterAll(async () => {
  process.off("uncaughtException", catchIt);
  process.off("unhandledRejection", catchIt);
  await Promise.all([cleartext[Symbol.asyncDispose](), secure[Symbol.asyncDispose]()]);
  rmSync(folder, { recursive: true });
});

/** Sends the bytes on a separate connection, and closes it a moment later. */
async function send(server: TestServer, bytes: Buffer, waitMs = 30): Promise<void> {
  const socket: Socket =
    server === secure
      ? connectTls({ port: server.port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["h2"] })
      : createConnection(server.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.resume();
  socket.write(bytes);
  await sleep(waitMs);
  socket.destroy();
}

const inFlight = async (server: TestServer) => {
  const { body } = await withSession(server.url, (session) =>
    h2Call(session, { ":method": "GET", ":path": "/metrics" }),
  );
  return Number(/^entity_service_rpc_in_flight (\d+)/m.exec(body.toString())?.[1]);
};

/** Calls are served, no ended call is counted, and nothing was logged as our fault. */
afterEach(async () => {
  for (const server of [cleartext, secure]) {
    const answer = await withSession(server.url, (session) =>
      h2Call(session, { ":path": PATHS[0], "content-type": "application/grpc" }, envelope(new Uint8Array())),
    );
    expect(answer.status).toBe(200);
    await expect.poll(() => inFlight(server), { timeout: 5_000 }).toBe(0);
    const defects = server.lines.map((line) => JSON.parse(line)).filter((line) => line.level >= 50);
    server.lines.length = 0;
    expect(defects.slice(0, 3)).toEqual([]);
  }
  expect(uncaught).toEqual([]);
});

test("127 bytes: headers that expect 100-continue, and a reset in the same packet", async () => {
  const block = headerBlock({
    ":method": "POST",
    ":scheme": "http",
    ":path": "/",
    ":authority": "a",
    expect: "100-continue",
  });
  const bytes = Buffer.concat([
    PREFACE,
    frame(FRAME.SETTINGS, 0, 0),
    frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, block),
    reset(1, 8),
  ]);
  expect(bytes).toHaveLength(127);
  await send(cleartext, bytes);
  await send(secure, bytes);
});

describe("a body in frames of", () => {
  /** The answer on a connection that sends the request of ImportEntities in frames of `bytesEach` bytes. */
  async function answerTo(bytesEach: number, frames: number): Promise<Buffer> {
    const block = headerBlock({
      ":method": "POST",
      ":scheme": "http",
      ":path": "/entity.v1.EntityService/ImportEntities",
      ":authority": "a",
      "content-type": "application/grpc",
      te: "trailers",
      authorization: `Bearer ${KEY}`,
    });
    // One message that never ends.
    const prefix = Buffer.of(0, 0, 1, 0, 0);
    const crumbs = Array.from({ length: frames }, () => frame(FRAME.DATA, 0, 1, Buffer.alloc(bytesEach, 0x0a)));
    const head = [PREFACE, frame(FRAME.SETTINGS, 0, 0), frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, block)];
    const { port } = new URL(cleartext.url);
    const socket = createConnection({ port: Number(port), host: "127.0.0.1" });
    socket.on("error", () => {});
    const received: Buffer[] = [];
    socket.on("data", (bytes) => received.push(bytes));
    socket.write(Buffer.concat([...head, frame(FRAME.DATA, 0, 1, prefix)]));
    await sleep(100);
    socket.write(Buffer.concat(crumbs));
    await Promise.race([once(socket, "close"), sleep(1_000)]);
    socket.destroy();
    return Buffer.concat(received);
  }
  /** The code of the GOAWAY, whose frame has no payload but two numbers. */
  const goaway = (answer: Buffer) => {
    const at = answer.indexOf(Buffer.of(0, 0, 8, FRAME.GOAWAY, 0, 0, 0, 0, 0));
    return at === -1 ? undefined : answer.readUInt32BE(at + 9 + 4);
  };
  const ENHANCE_YOUR_CALM = 11;

  test("one byte: thousands of them end the connection, hundreds do not", async () => {
    expect(goaway(await answerTo(1, 5_000))).toBe(ENHANCE_YOUR_CALM);
    expect(goaway(await answerTo(1, 900))).toBeUndefined();
  });

  test("twenty bytes: as good as any", async () => {
    expect(goaway(await answerTo(20, 3_000))).toBeUndefined();
  });
});

describe.each(["cleartext", "TLS"])("in one packet with the headers of any call, over %s", (port) => {
  test.each(Object.keys(ENDINGS))("%s", async (ending) => {
    const server = port === "TLS" ? secure : cleartext;
    const calls: Buffer[][] = [[]];
    for (const path of PATHS) {
      for (const type of TYPES) {
        for (const more of [{}, { expect: "100-continue" }]) {
          const block = headerBlock({
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "a",
            ...(type !== "" && { "content-type": type }),
            authorization: `Bearer ${KEY}`,
            te: "trailers",
            ...more,
          });
          const last = calls.at(-1) as Buffer[];
          last.push(
            ...(ENDINGS[ending]?.(1 + 2 * (last.length / (ENDINGS[ending]?.(1, block).length ?? 1)), block) ?? []),
          );
          if (last.length > 200) calls.push([]);
        }
      }
    }
    // Each in a separate packet after the preface, and many in one.
    for (const call of calls) await send(server, Buffer.concat([PREFACE, frame(FRAME.SETTINGS, 0, 0), ...call]));
  });
});

test.each(["GET", "CONNECT", "OPTIONS", "HEAD", "PUT", "PRI"])("the method %s and a reset", async (method) => {
  for (const headers of [
    { ":method": method, ":scheme": "http", ":path": "/metrics", ":authority": "a" },
    { ":method": method, ":authority": "a" },
    { ":method": method, ":scheme": "http", ":path": PATHS[0] as string, ":authority": "[" },
  ]) {
    for (const server of [cleartext, secure]) {
      const call = [frame(FRAME.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 1, headerBlock(headers)), reset(1, 8)];
      await send(server, Buffer.concat([PREFACE, frame(FRAME.SETTINGS, 0, 0), ...call]), 10);
      await send(server, Buffer.concat([PREFACE, frame(FRAME.SETTINGS, 0, 0), call[0] as Buffer]), 10);
    }
  }
});

test.each([
  "GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\nhttp2-settings: AAMAAABk\r\n\r\n",
  "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
  "POST /entity.v1.EntityService/GetEntity HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
  "POST /entity.v1.EntityService/GetEntity HTTP/1.1\r\nhost: a\r\nexpect: Juan\r\ncontent-length: 2\r\n\r\n{}",
  "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n{}",
  "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(150),
  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
])("HTTP/1.1 %j, cut off or not", async (text) => {
  for (const server of [cleartext, secure]) {
    for (const waitMs of [0, 30]) await send(server, Buffer.from(text, "latin1"), waitMs);
  }
});

test("streams of every protocol and kind that are reset at random moments leave no call behind", async () => {
  const random = mulberry32(20_261_126);
  for (const server of [cleartext, secure]) {
    const session = connectHttp2(server.url, { rejectUnauthorized: false });
    session.on("error", () => {});
    for (let round = 0; round < 3; round += 1) {
      for (const path of PATHS) {
        for (const type of TYPES) {
          const stream = session.request({
            ":method": "POST",
            ":path": path,
            authorization: `Bearer ${KEY}`,
            ...(type !== "" && { "content-type": type }),
          });
          stream.on("error", () => {});
          stream.resume();
          if (random() < 0.8)
            stream.write(/json/.test(type) && !/connect/.test(type) ? "{}" : envelope(new Uint8Array()));
          if (random() < 0.8) stream.end();
          setTimeout(() => stream.close([0, 2, 8][Math.floor(random() * 3)]), random() * 20);
        }
      }
      await sleep(20);
    }
    // While the connection is open: its end would end the remaining calls.
    await sleep(100);
    await expect.poll(() => inFlight(server), { timeout: 10_000 }).toBe(0);
    session.destroy();
  }
});

test.each<[string, Buffer]>([
  ["headers that nobody can read", frame(FRAME.HEADERS, FLAG.END_HEADERS, 3, Buffer.alloc(7, 0xff))],
  ["data of a stream that never was", frame(FRAME.DATA, 0, 9, Buffer.of(0))],
  ["more data of a stream that has ended", frame(FRAME.DATA, 0, 1, Buffer.of(0))],
  ["a window of nothing", frame(FRAME.WINDOW_UPDATE, 0, 0, Buffer.alloc(4))],
])("a watch, a goodbye and %s leave no call behind", async (_, last) => {
  const watch = { ":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Watch", ":authority": "a" };
  for (const server of [cleartext, secure]) {
    const bytes = [
      ...[PREFACE, frame(FRAME.SETTINGS, 0, 0)],
      frame(
        FRAME.HEADERS,
        FLAG.END_HEADERS,
        1,
        headerBlock({ ...watch, "content-type": "application/grpc-web+proto" }),
      ),
      frame(FRAME.DATA, FLAG.END_STREAM, 1, envelope(new Uint8Array())),
      ...[frame(FRAME.GOAWAY, 0, 0, Buffer.alloc(8)), last],
    ];
    await send(server, Buffer.concat(bytes));
    await expect.poll(() => inFlight(server), { timeout: 5_000 }).toBe(0);
  }
});

test.each([1, 2, 3, 4, 5, 6])("random frames, seed %i", async (seed) => {
  const random = mulberry32(seed);
  const pick = <T>(from: readonly T[]) => from[Math.floor(random() * from.length)] as T;
  const bytes = (most: number) => Buffer.from(Array.from({ length: random() * most }, () => random() * 256));
  const block = () => {
    const headers = headerBlock({
      ":method": pick(["POST", "POST", "POST", "GET", "CONNECT"]),
      ":scheme": "http",
      ":path": pick(PATHS),
      ":authority": pick(["a", "a", "[", "a:1"]),
      ...(random() < 0.9 && { "content-type": pick(TYPES) }),
      ...(random() < 0.8 && { authorization: `Bearer ${KEY}` }),
      ...(random() < 0.2 && { expect: "100-continue" }),
      ...(random() < 0.2 && { "grpc-timeout": pick(["1m", "5m", "0S", "x", "99999999H"]) }),
      ...(random() < 0.2 && { "grpc-encoding": pick(["gzip", "identity", "zstd"]) }),
      ...(random() < 0.1 && { "content-length": pick(["0", "5", "x", "999999"]) }),
      ...(random() < 0.1 && { "x-actor-id": "\u00e9" }),
    });
    // A broken block ends the connection, so most blocks are whole.
    if (random() < 0.03) headers[Math.floor(random() * headers.length)] = random() * 256;
    return headers;
  };
  for (let connection = 0; connection < 40; connection += 1) {
    const parts = [
      PREFACE,
      frame(FRAME.SETTINGS, 0, 0, random() < 0.3 ? Buffer.of(0, 4, 0, 0, 0, random() * 50) : undefined),
    ];
    let last = -1;
    const id = () => (last < 1 || random() < 0.3 ? (last += 2) : 1 + 2 * Math.floor((random() * (last + 1)) / 2));
    for (let i = 0; i < 60; i += 1) {
      const kind = random();
      if (kind < 0.35 || last < 1)
        parts.push(
          frame(FRAME.HEADERS, FLAG.END_HEADERS | (random() < 0.3 ? FLAG.END_STREAM : 0), (last += 2), block()),
        );
      else if (kind < 0.6)
        parts.push(
          frame(
            FRAME.DATA,
            random() < 0.5 ? FLAG.END_STREAM : 0,
            id(),
            random() < 0.7 ? envelope(new Uint8Array()) : bytes(40),
          ),
        );
      else if (kind < 0.8) parts.push(reset(id(), pick([0, 1, 2, 5, 7, 8, 11])));
      else if (kind < 0.86)
        parts.push(frame(FRAME.WINDOW_UPDATE, 0, random() < 0.5 ? 0 : id(), Buffer.of(0, 0, random() * 4, 255)));
      else if (kind < 0.9) parts.push(frame(FRAME.PING, 0, 0, Buffer.alloc(8)));
      else if (kind < 0.94)
        parts.push(frame(FRAME.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, id(), literal("x-trailer", "1")));
      else if (kind < 0.97) parts.push(frame(FRAME.PRIORITY, 0, id(), Buffer.of(0, 0, 0, 0, 16)));
      else if (kind < 0.98) parts.push(frame(FRAME.GOAWAY, 0, 0, Buffer.alloc(8)));
      else if (kind < 0.99) parts.push(frame(random() * 12, random() * 256, id(), bytes(30)));
    }
    const whole = Buffer.concat(parts);
    const cut = random() < 0.3 ? whole.subarray(0, Math.floor(random() * whole.length)) : whole;
    await send(connection % 4 === 0 ? secure : cleartext, cut, random() < 0.5 ? 5 : 25);
  }
});

test("random bytes behind the beginnings of HTTP/1.1", async () => {
  const random = mulberry32(7);
  const start = "POST /entity.v1.EntityService/GetEntity HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
  for (let i = 0; i < 60; i += 1) {
    const bytes = Buffer.from(`${start}content-length: 40\r\n\r\n{"lookup":{}}${start}`, "latin1");
    for (let j = 0; j < 4; j += 1) bytes[Math.floor(random() * bytes.length)] = random() * 256;
    await send(cleartext, bytes, 5);
  }
  expect(await rawCall(cleartext.port, "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")).toMatch(/^HTTP\/1\.1 200 /);
});

/** Numbers from 0 to 1, the same for the same seed. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
