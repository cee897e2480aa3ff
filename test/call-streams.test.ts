// A call and its HTTP/2 stream: what one holds of the other, when it hears of its end, what a call leaves to the next one.
import diagnostics from "node:diagnostics_channel";
import { connect, type ServerHttp2Stream } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { type Departure, departureOf } from "../src/interceptors/call.ts";
import { GrpcCall } from "../src/transport/grpc-call.ts";
import { callHead, envelope, FLAG, FRAME, frame, PREFACE, settings } from "./frames.ts";
import { grpcRefusal, h2Call, KEY, rawCall, startServer, withSession } from "./transport-harness.ts";

const GET = { ":path": "/entity.v1.EntityService/GetEntity", "content-type": "application/grpc" };
const JSON_GET = { ...GET, "content-type": "application/json" };
const EMPTY = envelope(new Uint8Array());
/** Without our own path for gRPC these calls are the library's. */
const isOurs = process.env.UNARY_PATH !== "off";

/** The streams that servers of this process get, from now on. */
function serverStreams() {
  const streams: ServerHttp2Stream[] = [];
  const add = (message: unknown) => streams.push((message as { stream: ServerHttp2Stream }).stream);
  diagnostics.subscribe("http2.server.stream.created", add);
  return {
    streams,
    [Symbol.dispose]: () => void diagnostics.unsubscribe("http2.server.stream.created", add),
  };
}

const callsOf = (stream: ServerHttp2Stream) =>
  Reflect.ownKeys(stream).filter((key) => Reflect.get(stream, key) instanceof GrpcCall);

/** Node's own, which are made for each stream, aside. */
const listenersOf = (stream: ServerHttp2Stream) =>
  new Map(
    ["error", "aborted", "close", "data", "end", "wantTrailers"].map((name) => [name, stream.rawListeners(name)]),
  );

test.runIf(isOurs)("a stream that has closed holds nothing of its call, and no listener of its own", async () => {
  const asked = Promise.withResolvers<void>();
  const answering = Promise.withResolvers<object>();
  let calls = 0;
  await using own = await startServer({
    handlers: {
      getEntity: () => {
        calls += 1;
        if (calls === 2) asked.resolve();
        return answering.promise;
      },
    },
  });
  using seen = serverStreams();
  await withSession(own.url, async (session) => {
    const answers = [h2Call(session, GET, EMPTY), h2Call(session, GET, EMPTY)];
    await asked.promise;
    expect(seen.streams.map((stream) => callsOf(stream).length)).toEqual([1, 1]);
    const [first, second] = seen.streams.map(listenersOf);
    expect(first?.get("data")).toHaveLength(1);
    for (const [name, listeners] of first ?? []) expect(listeners, name).toEqual(second?.get(name));
    answering.resolve({});
    for (const { trailers } of await Promise.all(answers)) expect(trailers["grpc-status"]).toBe("0");
    // One that fails at the gate, and one whose caller leaves.
    await h2Call(session, { ...GET, authorization: "" }, EMPTY);
    await h2Call(session, { ...GET, "grpc-timeout": "?" }, EMPTY);
    const leaving = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...GET });
    leaving.on("error", () => {});
    await expect.poll(() => seen.streams.length).toBe(5);
    leaving.close(8);
    await expect.poll(() => seen.streams.every(({ destroyed }) => destroyed)).toBe(true);
  });
  expect(seen.streams.map((stream) => callsOf(stream).length)).toEqual([0, 0, 0, 0, 0]);
  // V8 keeps it a while longer, for what is native of it.
  const left = seen.streams.map((stream) => [...listenersOf(stream)].filter(([, listeners]) => listeners.length > 0));
  for (const listeners of left) expect(listeners.map(([name]) => name)).toEqual(["error"]);
});

/** Calls and leaves, or is answered for by the deadline; what the implementation is told by whoever it asks. */
test.each([
  ["gRPC", "leaves", GET, EMPTY],
  ["gRPC", "has a deadline", { ...GET, "grpc-timeout": "1S" }, EMPTY],
  ["Connect", "leaves", JSON_GET, Buffer.from("{}")],
  ["Connect", "has a deadline", { ...JSON_GET, "connect-timeout-ms": "1000" }, Buffer.from("{}")],
])("an implementation that polls learns that its caller is gone, over %s: it %s", async (_, how, headers, body) => {
  let departure: Departure | undefined;
  const before: boolean[] = [];
  const answering = Promise.withResolvers<object>();
  await using own = await startServer({
    handlers: {
      getEntity: (_: never, context) => {
        departure = departureOf(context);
        before.push(departure.aborted);
        return answering.promise;
      },
    },
  });
  await withSession(own.url, async (session) => {
    const stream = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...headers });
    stream.on("error", () => {});
    stream.end(body);
    await expect.poll(() => departure).toBeDefined();
    if (how === "leaves") stream.close(8);
    await expect.poll(() => departure?.aborted).toBe(true);
    answering.resolve({});
  });
  expect(before).toEqual([false]);
  expect(departure?.reason).toBeInstanceOf(Error);
});

test("the answer of an implementation whose caller has left is dropped, and the call counts once", async () => {
  const answering = Promise.withResolvers<object>();
  let called = 0;
  await using own = await startServer({
    limits: { maxInFlight: 1 },
    handlers: {
      getEntity: () => {
        called += 1;
        return called === 1 ? answering.promise : {};
      },
    },
  });
  await withSession(own.url, async (session) => {
    const leaving = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...GET });
    leaving.on("error", () => {});
    leaving.end(EMPTY);
    await expect.poll(() => called).toBe(1);
    leaving.close(8);
    await expect.poll(() => own.calls().length).toBe(1);
    answering.resolve({});
    // Its place is free, and is given back once: the next call has it, and no more than it.
    for (let i = 0; i < 3; i++) expect((await h2Call(session, GET, EMPTY)).trailers["grpc-status"]).toBe("0");
  });
  expect(own.calls().map(({ code }) => code)).toEqual(["CANCELLED", "OK", "OK", "OK"]);
  expect(own.lines.filter((line) => JSON.parse(line).level >= 50)).toEqual([]);
});

test("each call has its own deadline, whatever those before it on the connection had", async () => {
  await using own = await startServer({
    limits: { defaultTimeoutMs: 1_500, bodyTimeoutMs: 1_000 },
    handlers: { getEntity: (_: never, { requestHeader }) => sleep(Number(requestHeader.get("x-ms")), {}) },
  });
  await withSession(own.url, async (session) => {
    const call = async (ms: number, more = {}) => {
      const start = performance.now();
      const answer = await h2Call(session, { ...GET, "x-ms": String(ms), ...more }, EMPTY);
      return { answer, ms: performance.now() - start };
    };
    for (const { answer } of [await call(0), await call(1, { "grpc-timeout": "5S" })])
      expect(answer.trailers["grpc-status"]).toBe("0");
    const short = await call(4_000, { "grpc-timeout": "100m" });
    expect(grpcRefusal(short.answer).code).toBe(Code.DeadlineExceeded);
    expect(short.ms).toBeLessThan(1_500);
    // Past the deadline of the one before, and not its own.
    expect((await call(400)).answer.trailers["grpc-status"]).toBe("0");
    const default_ = await call(4_000);
    expect(grpcRefusal(default_.answer).code).toBe(Code.DeadlineExceeded);
    expect(default_.ms).toBeGreaterThan(1_450);
    expect(default_.ms).toBeLessThan(4_000);
    expect((await call(1_800, { "grpc-timeout": "8S" })).answer.trailers["grpc-status"]).toBe("0");
  });
});

test.runIf(isOurs)(
  "a refusal whose caller goes on sending is not taken for one that nobody reads, whatever its deadline",
  async () => {
    await using own = await startServer();
    const head = frame(FRAME.HEADERS, FLAG.END_HEADERS, 1, callHead(GET[":path"], KEY, { "grpc-timeout": "100m" }));
    const tooLarge = frame(FRAME.DATA, 0, 1, envelope(new Uint8Array(), 0, 70_000));
    // The rest of the request is given up after a second, and what happened to connections is logged a second later.
    await rawCall(own.port, Buffer.concat([PREFACE, settings(), head, tooLarge]), 2_300);
    expect(own.calls().map(({ code }) => code)).toEqual(["RESOURCE_EXHAUSTED"]);
    expect(own.lines.join("")).not.toContain("answer_not_taken");
  },
);

test("a connection is idle from the end of its last call on, however long that took", async () => {
  const idleTimeoutMs = 300;
  let idleSince = 0;
  await using own = await startServer({
    listener: { idleTimeoutMs },
    handlers: {
      async getEntity(_: never, { requestHeader }) {
        await sleep(Number(requestHeader.get("x-ms")));
        idleSince = performance.now();
        return {};
      },
    },
  });
  const session = connect(own.url);
  session.on("error", () => {});
  let closedAt: number | undefined;
  session.once("close", () => {
    closedAt = performance.now();
  });
  // It looks while calls come and go, and while one is under way.
  for (const ms of [0, 200, 200, 700]) {
    const { trailers } = await h2Call(session, { ...GET, "x-ms": String(ms) }, EMPTY);
    expect(trailers["grpc-status"]).toBe("0");
  }
  await expect.poll(() => closedAt, { timeout: 3_000 }).toBeDefined();
  expect((closedAt ?? 0) - idleSince).toBeGreaterThan(idleTimeoutMs - 50);
});
