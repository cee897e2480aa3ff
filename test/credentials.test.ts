// Who may call, decided by the headers alone; and what the log and the metrics say about it.
import { connect } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EntityService } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { Health } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { cachedCallers } from "../src/interceptors/cached-callers.ts";
import { callOf } from "../src/interceptors/call.ts";
import { envelope } from "./frames.ts";
import {
  grpcRefusal,
  h2Call,
  KEY,
  READ_KEY,
  refusalOf,
  startServer,
  type TestServer,
  withSession,
} from "./transport-harness.ts";

const path = (rpc: string) => ({ ":path": `/entity.v1.EntityService/${rpc}`, "content-type": "application/grpc" });
const EMPTY = envelope(new Uint8Array());

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server[Symbol.asyncDispose]());

const call = (headers: Record<string, string>, rpc = "GetEntity") =>
  withSession(server.url, async (session) => grpcRefusal(await h2Call(session, { ...path(rpc), ...headers }, EMPTY)));

describe("the key", () => {
  test.each([
    ["none", ""],
    ["Basic", "Basic dXNlcjpwYXNz"],
    ["an empty Bearer", "Bearer "],
    ["two, joined by a comma", `Bearer ${KEY}, Bearer ${KEY}`],
    ["more than 256 characters", `Bearer ${"k".repeat(257)}`],
    ["not ASCII", "Bearer k\u00e9y"],
    ["two words", "Bearer a b"],
  ])("%s is UNAUTHENTICATED without a lookup", async (_, authorization) => {
    const before = server.lookups.length;
    expect(await call({ authorization })).toMatchObject({
      code: Code.Unauthenticated,
      reason: "UNAUTHENTICATED",
      domain: "entity.v1",
    });
    expect(server.lookups.length).toBe(before);
  });

  test("an unknown one is UNAUTHENTICATED", async () => {
    expect(await call({ authorization: "Bearer nobody" })).toMatchObject({ reason: "UNAUTHENTICATED" });
  });

  test("is judged before the body comes", async () => {
    const answer = await withSession(server.url, (session) =>
      h2Call(session, { ...path("GetEntity"), authorization: "" }, new Uint8Array(), { end: false }),
    );
    expect(grpcRefusal(answer).reason).toBe("UNAUTHENTICATED");
  });

  test("cannot be checked while the database is away", async () => {
    await using own = await startServer({
      findCaller: async () => {
        throw Object.assign(new Error("connect"), { code: "ECONNREFUSED" });
      },
    });
    const answer = await withSession(own.url, (session) => h2Call(session, path("GetEntity"), EMPTY));
    expect(grpcRefusal(answer)).toMatchObject({
      code: Code.Unavailable,
      reason: "DATABASE_UNAVAILABLE",
      metadata: { retry_after_ms: "1000" },
    });
    expect(own.lines.join("")).toContain("ECONNREFUSED");
    expect(own.lines.join("")).not.toContain(KEY);
  });

  test("that the database does not answer for is DEADLINE_EXCEEDED once the caller's deadline has passed", async () => {
    await using own = await startServer({ findCaller: () => new Promise(() => {}) });
    const answer = await withSession(own.url, (session) =>
      h2Call(session, { ...path("GetEntity"), "grpc-timeout": "200m" }, EMPTY),
    );
    expect(grpcRefusal(answer)).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
  });
});

describe("the scope", () => {
  test("that the key has not is named", async () => {
    const refusal = await call({ authorization: `Bearer ${READ_KEY}` }, "CreateEntity");
    expect(refusal).toMatchObject({
      code: Code.PermissionDenied,
      reason: "PERMISSION_DENIED",
      metadata: { scope: "entities:write" },
    });
  });

  test("operator is admin as well, and nobody else is", async () => {
    const organizations = {
      ":path": "/entity.v1.OrganizationService/GetOrganization",
      "content-type": "application/grpc",
    };
    await withSession(server.url, async (session) => {
      expect((await h2Call(session, organizations, EMPTY)).trailers["grpc-status"]).toBe("0");
      const other = await h2Call(session, { ...organizations, authorization: `Bearer ${READ_KEY}` }, EMPTY);
      expect(grpcRefusal(other)).toMatchObject({ reason: "PERMISSION_DENIED", metadata: { scope: "admin" } });
    });
  });

  test("an RPC without one is closed", async () => {
    const head = { ":path": "/kinds.v1.KindsService/Closed", "content-type": "application/grpc" };
    const answer = await withSession(server.url, (session) => h2Call(session, head, EMPTY));
    expect(grpcRefusal(answer)).toMatchObject({ reason: "PERMISSION_DENIED" });
  });
});

describe("the caller's word on itself", () => {
  test("reaches the handler", async () => {
    let seen: unknown;
    await using own = await startServer({
      handlers: {
        getEntity: (_: never, context) => {
          seen = callOf(context.values);
          return {};
        },
      },
    });
    const client = createClient(EntityService, createGrpcTransport({ baseUrl: own.url }));
    let requestId: string | null = null;
    await client.getEntity(
      {},
      {
        headers: { authorization: `bearer ${KEY}`, "x-actor-id": " ana@example.com ", "x-source": "crm" },
        onHeader: (h) => {
          requestId = h.get("x-request-id");
        },
      },
    );
    expect(seen).toMatchObject({
      caller: { organizationId: "org-1", apiKeyId: "key-1" },
      actor: "ana@example.com",
      source: "crm",
      requestId,
    });
    expect(requestId).toMatch(/^[0-9a-f-]{36}$/);
    await client.getEntity({}, { headers: { authorization: `Bearer ${KEY}`, "x-source": "s".repeat(65) } });
    expect(seen).toMatchObject({ actor: undefined, source: undefined });
  });

  test.each([
    ["empty", ""],
    ["of 256", "a".repeat(256)],
    ["with a byte beyond ASCII", "a\u00e9"],
  ])("an actor %s is refused", async (_, actor) => {
    expect(await call({ "x-actor-id": actor })).toMatchObject({
      reason: "VALIDATION_ERROR",
      metadata: { field: "x-actor-id" },
    });
  });
});

describe("admission", () => {
  test.each([
    ["unary gRPC", path("GetEntity")],
    ["a stream of responses", path("WatchEntities")],
    ["a stream of requests", path("ImportEntities")],
    ["Connect", { ":path": "/entity.v1.EntityService/GetEntity", "content-type": "application/proto" }],
    ["gRPC-Web", { ":path": "/entity.v1.EntityService/GetEntity", "content-type": "application/grpc-web+proto" }],
  ])("requests that are not complete hold no place: %s", async (_, head) => {
    await using own = await startServer({ limits: { maxInFlight: 1, maxWatches: 1 } });
    await withSession(own.url, async (session) => {
      const open = [1, 2, 3].map(() => {
        const stream = session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...head });
        stream.on("error", () => {});
        stream.write(Buffer.of(0));
        return stream;
      });
      await expect.poll(() => own.lookups.length).toBe(3);
      expect((await h2Call(session, path("ListEntities"), EMPTY)).trailers["grpc-status"]).toBe("0");
      for (const stream of open) stream.close(8);
    });
  });

  test("a call too many is OVERLOADED, health is answered all the while", async () => {
    const answering = Promise.withResolvers<object>();
    let asked = 0;
    await using own = await startServer({
      limits: { maxInFlight: 2 },
      handlers: {
        getEntity: () => {
          asked += 1;
          return answering.promise;
        },
      },
    });
    await withSession(own.url, async (session) => {
      const busy = [1, 2].map(() => h2Call(session, path("GetEntity"), EMPTY));
      await expect.poll(() => asked).toBe(2);
      const refused = await h2Call(session, path("GetEntity"), EMPTY);
      expect(grpcRefusal(refused)).toMatchObject({ code: Code.Unavailable, reason: "OVERLOADED" });
      expect(Number(grpcRefusal(refused).metadata.retry_after_ms)).toBeGreaterThan(0);
      const health = createClient(Health, createGrpcTransport({ baseUrl: own.url }));
      expect((await health.check({})).status).toBe(1);
      answering.resolve({});
      for (const answer of await Promise.all(busy)) expect(answer.trailers["grpc-status"]).toBe("0");
      expect((await h2Call(session, path("ListEntities"), EMPTY)).trailers["grpc-status"]).toBe("0");
    });
  });

  test("callers without a key take nobody's place", async () => {
    await using own = await startServer({ limits: { maxInFlight: 1 } });
    const reflection = {
      ":path": "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
      "content-type": "application/grpc",
    };
    const session = connect(own.url);
    session.on("error", () => {});
    for (let i = 0; i < 5; i += 1) session.request({ ":method": "POST", ...reflection }).on("error", () => {});
    await sleep(100);
    expect((await h2Call(session, path("ListEntities"), EMPTY)).trailers["grpc-status"]).toBe("0");
    session.destroy();
  });

  test.each([
    ["unary gRPC", path("GetEntity")],
    ["Connect", { ":path": "/entity.v1.EntityService/GetEntity", "content-type": "application/proto" }],
  ])("a caller who leaves while its key is looked up has no place: %s", async (_, call) => {
    const looked = Promise.withResolvers<void>();
    let isFirst = true;
    await using own = await startServer({
      limits: { maxInFlight: 1 },
      async findCaller() {
        if (isFirst) {
          isFirst = false;
          await looked.promise;
        }
        return { organizationId: "org-1", apiKeyId: "key-1", scopes: new Set(["entities:read"]) };
      },
    });
    const session = connect(own.url);
    const request = session.request({ ":method": "POST", authorization: "Bearer one", ...call });
    request.on("error", () => {});
    request.end(EMPTY);
    await sleep(100);
    session.destroy();
    await sleep(100);
    looked.resolve();
    await sleep(100);
    await withSession(own.url, async (other) => {
      const answer = await h2Call(other, { ...path("ListEntities"), authorization: "Bearer two" }, EMPTY);
      expect(answer.trailers["grpc-status"]).toBe("0");
    });
  });

  test("the place of a caller who left is free again", async () => {
    await using own = await startServer({
      limits: { maxInFlight: 1 },
      handlers: { getEntity: () => new Promise(() => {}) },
    });
    const session = connect(own.url);
    session.request({ ":method": "POST", authorization: `Bearer ${KEY}`, ...path("GetEntity") }).end(EMPTY);
    await sleep(100);
    session.destroy();
    await sleep(100);
    await withSession(own.url, async (other) => {
      expect((await h2Call(other, path("ListEntities"), EMPTY)).trailers["grpc-status"]).toBe("0");
    });
  });
});

describe("telemetry", () => {
  test("one line a call, of the caller and the outcome", async () => {
    await using own = await startServer();
    const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    await withSession(own.url, async (session) => {
      await h2Call(session, { ...path("GetEntity"), traceparent: `00-${trace}-00f067aa0ba902b7-01` }, EMPTY);
      await h2Call(session, { ...path("GetEntity"), authorization: "", traceparent: "00-junk" }, EMPTY);
      await h2Call(session, { ...path("Juan") }, EMPTY);
      await h2Call(session, path("GetEntity"), envelope(new Uint8Array(), 0, 70_000));
    });
    await expect.poll(() => own.calls().length).toBe(4);
    const [ok, unauthenticated, unknown, large] = own.calls();
    expect(ok).toMatchObject({
      level: 30,
      method: "entity.v1.EntityService/GetEntity",
      protocol: "grpc",
      code: "OK",
      organizationId: "org-1",
      apiKeyId: "key-1",
      traceId: trace,
    });
    expect(ok.requestId).toMatch(/^[0-9a-f-]{36}$/);
    expect(unauthenticated).toMatchObject({ level: 30, code: "UNAUTHENTICATED", reason: "UNAUTHENTICATED" });
    expect(unauthenticated).not.toHaveProperty("traceId");
    expect(unknown).toMatchObject({ method: "unknown", code: "UNIMPLEMENTED" });
    expect(large).toMatchObject({ level: 40, code: "RESOURCE_EXHAUSTED", reason: "MESSAGE_TOO_LARGE" });
    expect(own.lines.join("")).not.toContain("Juan");
  });

  test.each(["1.1", "2"])("GET /metrics over HTTP/%s", async (version) => {
    await using own = await startServer();
    await withSession(own.url, async (session) => {
      await h2Call(session, path("GetEntity"), EMPTY);
      await h2Call(session, path("Juan"), EMPTY);
      await h2Call(session, { ...path("GetEntity"), authorization: "" }, EMPTY);
    });
    const text =
      version === "1.1"
        ? await (await fetch(`${own.url}/metrics`)).text()
        : (
            await withSession(own.url, (session) => h2Call(session, { ":method": "GET", ":path": "/metrics" }))
          ).body.toString();
    expect(text).toContain(
      'entity_service_rpc_duration_seconds_count{method="entity.v1.EntityService/GetEntity",code="OK"} 1',
    );
    expect(text).toContain(
      'entity_service_rpc_errors_total{method="entity.v1.EntityService/GetEntity",reason="UNAUTHENTICATED"} 1',
    );
    expect(text).toContain("entity_service_rpc_in_flight 0");
    expect(text).toContain("process_cpu_seconds_total");
    expect(text).not.toContain("Juan");
  });
});

describe("cached callers", () => {
  const someone = { organizationId: "o", apiKeyId: "k", scopes: new Set<string>() };
  const each =
    (find: (secret: string) => Promise<typeof someone | null>): Parameters<typeof cachedCallers>[0] =>
    (secrets) =>
      Promise.all(secrets.map(find));

  test("known keys that grow old while one is looked up are looked up together, and each has its own answer", async () => {
    const asked: (readonly string[])[] = [];
    const owners = new Map(["a", "b", "c", "d"].map((apiKeyId) => [apiKeyId, { ...someone, apiKeyId }]));
    const find = cachedCallers(
      async (secrets) => {
        asked.push(secrets);
        await sleep(10);
        return secrets.map((secret) => owners.get(secret) ?? null);
      },
      { positiveMs: 20 },
    );
    for (const secret of owners.keys()) await find(secret);
    await sleep(30);
    asked.length = 0;
    owners.delete("c");
    const ids = await Promise.all(["a", "b", "c", "d", "nobody"].map((secret) => find(secret)));
    expect(ids.map((caller) => caller?.apiKeyId)).toEqual(["a", "b", undefined, "d", undefined]);
    expect(asked.map((secrets) => secrets.join()).sort()).toEqual(["a", "b,c,d", "nobody"]);
  });

  test("one lookup serves the calls of its lifetime, and calls at the same time", async () => {
    let lookups = 0;
    const lookUp = async (secret: string) => {
      lookups += 1;
      await sleep(10);
      return secret === "good" ? someone : null;
    };
    const find = cachedCallers(each(lookUp), { positiveMs: 1_500, negativeMs: 500 });
    await Promise.all([find("good"), find("good"), find("good")]);
    expect(await find("good")).toBe(someone);
    expect(lookups).toBe(1);
    await find("bad");
    await find("bad");
    expect(lookups).toBe(2);
    await sleep(510);
    await find("bad");
    expect(lookups).toBe(3);
    await sleep(1_010);
    await find("good");
    expect(lookups).toBe(4);
  });

  test("forget, also of a lookup under way", async () => {
    let answer: typeof someone | null = someone;
    const find = cachedCallers(
      each(async () => {
        const read = answer;
        await sleep(20);
        return read;
      }),
    );
    const before = find("key");
    answer = null;
    find.forget();
    expect(await before).toBe(someone);
    expect(await find("key")).toBeNull();
  });

  test("failures are not remembered, and guesses do not push callers out", async () => {
    let lookups = 0;
    let fail = true;
    const find = cachedCallers(
      each(async (secret) => {
        lookups += 1;
        if (fail) throw new Error("away");
        return secret === "good" ? someone : null;
      }),
      { max: 3 },
    );
    await expect(find("good")).rejects.toThrow("away");
    fail = false;
    expect(await find("good")).toBe(someone);
    for (let i = 0; i < 10; i += 1) await find(`guess-${i}`);
    lookups = 0;
    await find("good");
    expect(lookups).toBe(0);
    await find("guess-0");
    expect(lookups).toBe(1);
  });
});

test("a Connect caller over HTTP/1.1 is judged before its body as well", async () => {
  const client = createClient(EntityService, createConnectTransport({ baseUrl: server.url, httpVersion: "1.1" }));
  const error = await client.createEntity({ reason: "x".repeat(10_000) }).catch(ConnectError.from);
  expect(refusalOf(error as ConnectError)).toMatchObject({ code: Code.Unauthenticated, reason: "UNAUTHENTICATED" });
});
