// What one caller can make the process hold: bytes that arrive, answers that are not read, streams that are cancelled.
import { EventEmitter, once } from "node:events";
import { connect } from "node:http2";
import { createConnection } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { Registry } from "prom-client";
import { describe, expect, test, vi } from "vitest";
import { listenForAdmin } from "../src/transport/admin.ts";
import { byteBudget } from "../src/transport/byte-budget.ts";
import { createReadiness } from "../src/transport/health.ts";
import { RequestBytes } from "../src/transport/request-bytes.ts";
import { createTally } from "../src/transport/tally.ts";
import { unreadRests } from "../src/transport/unread-rest.ts";
import { envelope, FLAG, FRAME, frame, headerBlock, PREFACE, settings, uint32 } from "./frames.ts";
import { callerOf, grpcRefusal, h2Call, KEY, startServer, withSession } from "./transport-harness.ts";

const GET = "/entity.v1.EntityService/GetEntity";
const LIST = { ":path": "/entity.v1.EntityService/ListEntities", "content-type": "application/grpc" };
const EMPTY = envelope(new Uint8Array());
const head = (type: string) => ({
  ":method": "POST",
  ":path": GET,
  authorization: `Bearer ${KEY}`,
  "content-type": type,
});
const TYPES = ["application/grpc", "application/proto", "application/json", "application/grpc-web+proto"];
const bodyOf = (type: string) =>
  type.endsWith("json") ? Buffer.from("{}") : type.includes("grpc") ? EMPTY : Buffer.alloc(0);

describe("bytes of incomplete requests", () => {
  test("frames of one byte hold little more than what was sent", () => {
    const budget = byteBudget({ total: 1e9, perConnection: 1e9 });
    const connection = {};
    const bytes = new RequestBytes(budget, connection);
    const slab = Buffer.alloc(64 * 1024);
    for (const byte of envelope(new Uint8Array(), 0, 100_000)) bytes.add(Buffer.of(byte));
    for (let i = 0; i < 50_000; i += 1) bytes.add(slab.subarray(i, i + 1));
    expect(bytes.size).toBe(50_005);
    expect(budget.held()).toBeLessThanOrEqual(100_010);
    expect(bytes.take().buffer.byteLength).toBeLessThanOrEqual(100_010);
    expect(budget.held()).toBe(0);
  });

  test("what is announced is not held before it comes", () => {
    const budget = byteBudget({ total: 1e9, perConnection: 1e9 });
    const bytes = new RequestBytes(budget, {});
    bytes.add(envelope(new Uint8Array(), 0, 4_000_000));
    expect(budget.held()).toBeLessThan(2_000);
  });

  test("a connection, and all of them, have a bound; whoever holds nothing gets what it asks for", () => {
    const budget = byteBudget({ total: 100, perConnection: 60 });
    const [one, other, third] = [{}, {}, {}];
    expect(budget.take(one, 50)).toBe(true);
    expect(budget.take(one, 20)).toBe(false);
    expect(budget.take(other, 50)).toBe(true);
    expect(budget.take(third, 10)).toBe(false);
    budget.give(one, 50);
    expect(budget.take(third, 10)).toBe(true);
    expect(byteBudget({ total: 10, perConnection: 10 }).take({}, 1_000)).toBe(true);
  });

  test.each(["application/grpc", "application/proto", "application/connect+proto"])(
    "a request in frames of one byte is served: %s",
    async (type) => {
      await using own = await startServer();
      await withSession(own.url, async (session) => {
        const isStream = type.includes("connect");
        const path = isStream ? "/kinds.v1.KindsService/Repeat" : GET;
        const stream = session.request({ ...head(type), ":path": path });
        let status: number | undefined;
        stream.on("response", (headers) => {
          status = headers[":status"];
        });
        const message = Buffer.from([0x0a, 0x03, 0x12, 0x01, 0x61]);
        const body = type === "application/proto" ? message : isStream ? EMPTY : envelope(message);
        for (const byte of body) {
          stream.write(Buffer.of(byte));
          await sleep(2);
        }
        stream.end();
        stream.resume();
        await new Promise((resolve) => stream.once("close", resolve));
        expect(status).toBe(200);
      });
    },
  );
});

describe("answers that nobody reads", () => {
  const large = { getEntity: () => ({ entity: { id: "1", name: "x".repeat(3_000_000) } }) };

  test.each(TYPES)("hold their place until they are given up: %s", async (type) => {
    await using own = await startServer({ handlers: large, limits: { maxInFlight: 1 }, answerTimeoutMs: 1_500 });
    const session = connect(own.url, { settings: { initialWindowSize: 1_000 } });
    session.on("error", () => {});
    const stream = session.request(head(type));
    const ended = new Promise((resolve) => stream.once("close", () => resolve(stream.rstCode)));
    stream.on("error", () => {});
    stream.end(bodyOf(type));
    stream.once("response", () => stream.pause());
    await new Promise((resolve) => stream.once("response", resolve));
    const refused = await withSession(own.url, (other) => h2Call(other, LIST, EMPTY));
    expect(grpcRefusal(refused)).toMatchObject({ reason: "OVERLOADED" });
    await expect
      .poll(() => own.calls().some((line) => line.reason === "ANSWER_NOT_TAKEN"), { timeout: 10_000 })
      .toBe(true);
    stream.resume();
    expect(await ended).toBe(11);
    const served = await withSession(own.url, (other) => h2Call(other, LIST, EMPTY));
    expect(served.trailers["grpc-status"]).toBe("0");
    await expect.poll(() => own.lines.join(""), { timeout: 3_000 }).toContain('"answer_not_taken":1');
    session.destroy();
  });

  test("over HTTP/1.1 too", async () => {
    await using own = await startServer({
      kinds: {
        async *repeat() {
          for (let i = 0; i < 10; i++) yield { texts: ["x".repeat(4_000_000)] };
        },
      },
      answerTimeoutMs: 700,
    });
    const socket = createConnection(own.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.pause();
    socket.write(
      `POST /kinds.v1.KindsService/Repeat HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ${KEY}\r\ncontent-type: application/connect+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0`,
    );
    await expect
      .poll(() => own.calls().some((line) => line.reason === "ANSWER_NOT_TAKEN"), { timeout: 10_000 })
      .toBe(true);
    socket.destroy();
  });

  test("a caller who reads slowly, but reads, has its answer", async () => {
    await using own = await startServer({ handlers: large, answerTimeoutMs: 1_500 });
    const session = connect(own.url, { settings: { initialWindowSize: 200_000 } });
    const begun = performance.now();
    session.on("error", () => {});
    const stream = session.request(head("application/grpc"));
    let [bytes, status] = [0, ""];
    stream.on("trailers", (trailers) => {
      status = String(trailers["grpc-status"]);
    });
    stream.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      stream.pause();
      setTimeout(() => stream.resume(), 15);
    });
    stream.end(EMPTY);
    await new Promise((resolve) => stream.once("close", resolve));
    expect([status, bytes > 3_000_000]).toEqual(["0", true]);
    expect(performance.now() - begun, "longer than any pause may be").toBeGreaterThan(1_500);
    session.destroy();
  });
});

describe("a request that is refused before it was read", () => {
  /** The types of the frames of a stream, in order. */
  function framesOf(bytes: Buffer, stream: number): number[] {
    const types: number[] = [];
    for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
      if (bytes.readUInt32BE(at + 5) === stream) types.push(bytes[at + 3] as number);
    }
    return types;
  }

  const headersOf = (key: string, contentType = "application/grpc") =>
    headerBlock({
      ":method": "POST",
      ":scheme": "http",
      ":path": GET,
      ":authority": "a",
      "content-type": contentType,
      te: "trailers",
      authorization: `Bearer ${key}`,
    });

  /** What the PINGs ask in a piece of bytes that begins with a frame. */
  function pingsIn(bytes: Buffer): Buffer[] {
    const asked: Buffer[] = [];
    for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
      const isAsked = bytes[at + 3] === FRAME.PING && ((bytes[at + 4] as number) & FLAG.ACK) === 0;
      if (isAsked) asked.push(bytes.subarray(at + 9, at + 17));
    }
    return asked;
  }

  test.each([
    ["a caller who answers no PING, as one that is too busy to read", false],
    ["a caller who reads", true],
  ])("the reset behind its answer comes when that is read, or after 5 s: %s", async (_, answersPings) => {
    await using own = await startServer();
    const socket = createConnection(own.port, "127.0.0.1");
    socket.on("error", () => {});
    const parts: Buffer[] = [];
    socket.on("data", (bytes) => {
      parts.push(bytes);
      if (!answersPings) return;
      for (const data of pingsIn(bytes)) socket.write(frame(FRAME.PING, FLAG.ACK, 0, data));
    });
    const refused = () => framesOf(Buffer.concat(parts), 1);
    socket.write(Buffer.concat([PREFACE, settings(), frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, headersOf(LATE_KEY))]));
    await expect.poll(refused).toEqual([FRAME.HEADERS]);
    await sleep(2_500);
    expect(refused()).toEqual(answersPings ? [FRAME.HEADERS, FRAME.RST_STREAM] : [FRAME.HEADERS]);
    await expect.poll(refused, { timeout: 5_000 }).toEqual([FRAME.HEADERS, FRAME.RST_STREAM]);
    socket.destroy();
  });

  test("waits for its caller only among so many: one more ends the wait of the longest", () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    try {
      const drop = unreadRests(2);
      /** A stream whose answer has left, and whose caller goes on sending. */
      const answered = () => {
        const stream = Object.assign(new EventEmitter(), { readableEnded: false, destroyed: false, destroy });
        drop(stream as never);
        stream.emit("finish");
        return stream;
      };
      function destroy(this: { destroyed: boolean }) {
        this.destroyed = true;
      }
      const isReset = Array.from({ length: 4 }, answered).map(({ destroyed }) => destroyed);
      expect(isReset).toEqual([true, true, false, false]);
      vi.advanceTimersByTime(1_000);
      expect([answered(), answered(), answered()].map(({ destroyed }) => destroyed)).toEqual([true, false, false]);
    } finally {
      vi.useRealTimers();
    }
  });

  test.each([
    { how: "its key is unknown", path: GET, key: "unknown-0123456789-0123456789-0123456789", status: "16" },
    { how: "its rows are none", path: "/entity.v1.EntityService/ImportEntities", key: KEY, status: "3" },
  ])(
    "beside a flood of those who wait, a refused caller who is still sending learns why: $how",
    async ({ path, key, status }) => {
      await using own = await startServer();
      const flood = Array.from({ length: 11 }, () => createConnection(own.port, "127.0.0.1"));
      let answered = 0;
      for (const socket of flood) {
        socket.on("error", () => {});
        socket.on("data", (bytes) => {
          for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
            if (bytes[at + 3] === FRAME.HEADERS) answered += 1;
          }
        });
        const calls = Array.from({ length: 100 }, (_, i) =>
          frame(FRAME.HEADERS, FLAG.END_HEADERS, 1 + 2 * i, headersOf(LATE_KEY)),
        );
        socket.write(Buffer.concat([PREFACE, settings(), ...calls]));
      }
      await expect.poll(() => answered).toBeGreaterThan(1_024);
      await withSession(own.url, async (session) => {
        const stream = session.request({
          ...{ ...head("application/grpc+json"), ":path": path, te: "trailers" },
          authorization: `Bearer ${key}`,
        });
        stream.on("error", () => {});
        stream.write(envelope(Buffer.from("[]")));
        const told: unknown[] = [];
        stream.on("response", (headers) => told.push(headers["grpc-status"]));
        stream.on("trailers", (headers) => told.push(headers["grpc-status"]));
        stream.resume();
        await once(stream, "close");
        expect(told).toContain(status);
      });
      for (const socket of flood) socket.destroy();
    },
  );

  const LATE_KEY = "late-0123456789-0123456789-0123456789";
  const refusals = {
    "its body does not come in time": { key: KEY, body: Buffer.from([0, 0, 1]), isComplete: false },
    "its key is unknown, its body is on its way": { key: LATE_KEY, body: Buffer.from([0, 0, 1]), isComplete: false },
    "its key is unknown, its body is here": { key: LATE_KEY, body: EMPTY, isComplete: true },
  };

  test.each(
    Object.entries(refusals).flatMap(([how, refusal]) =>
      ["application/grpc", "application/json"].map((type) => [how, type, refusal] as const),
    ),
  )(
    "%s: its answer reaches a caller who is busy for longer than the rest is waited for (%s)",
    async (_, type, refusal) => {
      const large = { getEntity: () => ({ entity: { id: "1", name: "x".repeat(3_000_000) } }) };
      await using own = await startServer({
        handlers: large,
        limits: { bodyTimeoutMs: 700 },
        // At the same time as the time limit of the body.
        findCaller: (secret) => (secret === LATE_KEY ? sleep(700, null) : callerOf(secret)),
      });
      const socket = createConnection(own.port, "127.0.0.1");
      socket.on("error", () => {});
      socket.write(
        Buffer.concat([PREFACE, settings([[4, 2 ** 30]]), frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(2 ** 30))]),
      );
      socket.pause();
      // The call ends while the socket's send buffer is full of other answers.
      socket.write(frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, headersOf(refusal.key, type)));
      socket.write(frame(FRAME.DATA, refusal.isComplete ? FLAG.END_STREAM : 0, 1, refusal.body));
      for (let stream = 3; stream < 21; stream += 2) {
        socket.write(frame(FRAME.HEADERS, FLAG.END_HEADERS, stream, headersOf(KEY)));
        socket.write(frame(FRAME.DATA, FLAG.END_STREAM, stream, EMPTY));
      }
      await sleep(3_000);
      const parts: Buffer[] = [];
      socket.on("data", (bytes) => {
        parts.push(bytes);
        for (const data of pingsIn(bytes)) socket.write(frame(FRAME.PING, FLAG.ACK, 0, data));
      });
      socket.resume();
      const answer = type === "application/grpc" ? [FRAME.HEADERS] : [FRAME.HEADERS, FRAME.DATA];
      const end = refusal.isComplete ? [] : [FRAME.RST_STREAM];
      await expect.poll(() => framesOf(Buffer.concat(parts), 1), { timeout: 5_000 }).toEqual([...answer, ...end]);
      socket.destroy();
    },
  );
});

test("whoever cancels very many calls costs the next ones on the connection nothing", async () => {
  await using own = await startServer({
    handlers: { getEntity: () => sleep(300, {}) },
    limits: { maxInFlight: 2_000 },
  });
  await withSession(own.url, async (session) => {
    for (let round = 0; round < 3; round += 1) {
      const cancelled = Array.from({ length: 300 }, () => {
        const stream = session.request(head("application/grpc"));
        stream.on("error", () => {});
        stream.end(EMPTY);
        return stream;
      });
      await sleep(50);
      for (const stream of cancelled) stream.close(8);
      const answers = await Promise.all(Array.from({ length: 300 }, () => h2Call(session, LIST, EMPTY)));
      expect(answers.filter((answer) => answer.trailers["grpc-status"] !== "0")).toEqual([]);
    }
    expect(session.destroyed).toBe(false);
  });
});

test("a deadline that passes while the key is looked up is DEADLINE_EXCEEDED, and no fault of the database", async () => {
  await using own = await startServer({ findCaller: () => new Promise(() => {}) });
  const answer = await withSession(own.url, (session) => h2Call(session, { ...LIST, "grpc-timeout": "100m" }, EMPTY));
  expect(grpcRefusal(answer)).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
  const json = { ...LIST, "content-type": "application/json", "connect-timeout-ms": "100" };
  expect((await withSession(own.url, (session) => h2Call(session, json, Buffer.from("{}")))).status).toBe(504);
  expect(own.lines.join("")).not.toContain("database unavailable");
});

test("a caller's own x-request-id is in the line of its call, where it is one", async () => {
  await using own = await startServer();
  await withSession(own.url, async (session) => {
    await h2Call(session, { ...LIST, "x-request-id": "abc-1" }, EMPTY);
    await h2Call(session, { ...LIST, "x-request-id": "x".repeat(129) }, EMPTY);
  });
  await expect.poll(() => own.calls().length).toBe(2);
  expect(own.calls().map((line) => line.callerRequestId)).toEqual(["abc-1", undefined]);
});

test("what happens to connections is counted by kind, and told once a second", async () => {
  const registry = new Registry();
  const lines: string[] = [];
  const tally = createTally({ log: pino({}, { write: (line: string) => void lines.push(line) }), registry });
  for (let i = 0; i < 1_000; i += 1) tally.note("stream_refused");
  tally.note("goaway_sent", 2);
  await expect.poll(() => lines.length, { timeout: 3_000 }).toBe(1);
  expect(JSON.parse(lines[0] as string)).toMatchObject({ stream_refused: 1_000, goaway_sent: 2, level: 40 });
  const text = await registry.metrics();
  expect(text).toContain('entity_service_connection_events_total{kind="stream_refused"} 1000');
  expect(text).toContain('entity_service_connection_events_total{kind="session_failed"} 0');
});

test("the admin port answers health and metrics in plain HTTP", async () => {
  const readiness = createReadiness();
  const registry = new Registry();
  const metrics = { registry, text: async () => "a_metric 1\n" };
  await using admin = await listenForAdmin({
    host: "127.0.0.1",
    port: 0,
    readiness,
    metrics,
    log: pino({ level: "silent" }),
  });
  const get = (path: string, method = "GET") => fetch(`http://127.0.0.1:${admin.port}${path}`, { method });
  expect((await get("/health")).status).toBe(503);
  readiness.set(true);
  expect((await get("/health")).status).toBe(200);
  expect(await (await get("/metrics")).text()).toBe("a_metric 1\n");
  expect((await get("/")).status).toBe(404);
  expect((await get("/metrics", "POST")).status).toBe(405);
});
