// What the TypeScript client promises of retries, deadlines and the context of calls; the numbers are those of its README.
import { constants, type ServerHttp2Stream } from "node:http2";
import { inspect } from "node:util";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  Code,
  ConnectError,
  createEntityClient,
  EntityType,
  errorInfo,
  ImportEntitiesResponseSchema,
  isReason,
  ListEntityEventsRequestSchema,
  lookup,
  type Retry,
  UpdateEntityRequestSchema,
} from "../clients/typescript/index.ts";
import { answer, ENTITY, type Refusal, refuse, say, serving } from "./clients/scripted-server.ts";
import { eventsOf, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { startOther, startProxy } from "./wall-harness.ts";

const NOBODY = { lookup: lookup.externalId("nobody") };
const WRITE: MessageInitShape<typeof UpdateEntityRequestSchema> = { ...NOBODY, entity: { name: "Ana" } };
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

const PROXY: Refusal = { code: Code.Unavailable };
const UNAVAILABLE: Refusal = { code: Code.Unavailable, reason: "DATABASE_UNAVAILABLE" };
const CONFLICT: Refusal = { code: Code.Aborted, reason: "WRITE_CONFLICT" };
const OVERLOADED: Refusal = { code: Code.Unavailable, reason: "OVERLOADED", retryAfterMs: 20 };
const UNKNOWN: Refusal = { code: Code.Unavailable, reason: "COMMIT_UNKNOWN" };
const lost = (stream: ServerHttp2Stream) => stream.session?.destroy();

type Act = (stream: ServerHttp2Stream) => void;
const refusing =
  (refusal: Refusal): Act =>
  (stream) =>
    say(stream, refusal);

/** Acts so on the first streams, and answers all others. */
const first = (count: number, act: Act) => (stream: ServerHttp2Stream, index: number) =>
  index < count ? act(stream) : answer(stream, ENTITY);

/** What each call answered or threw. */
async function outcomesOf(calls: Record<string, Promise<unknown>>): Promise<Record<string, unknown>> {
  const outcomes = Object.entries(calls).map(async ([kind, call]) => [
    kind,
    await call.catch((error: unknown) => error),
  ]);
  return Object.fromEntries(await Promise.all(outcomes));
}

/** The request_ids that have arrived. */
const requestIds = ({ requests }: { requests: Buffer[] }) =>
  requests.map((body) => fromBinary(UpdateEntityRequestSchema, body.subarray(5)).requestId);

describe("client 1: a read is sent again", () => {
  it.each<[string, Act]>([
    ["UNAVAILABLE of a proxy", refusing(PROXY)],
    ["DATABASE_UNAVAILABLE", refusing(UNAVAILABLE)],
    ["WRITE_CONFLICT", refusing(CONFLICT)],
    ["OVERLOADED", refusing(OVERLOADED)],
    ["COMMIT_UNKNOWN", refusing(UNKNOWN)],
    ["a lost connection", lost],
  ])("after %s", async (_, act) => {
    await using server = await serving(first(2, act));
    const { entity } = await server.client().entities.getEntity(NOBODY);
    expect(entity?.id).toBe("1");
    expect(server.paths).toEqual(["GetEntity", "GetEntity", "GetEntity"]);
  });

  it("and so is a stream that only reads, until its first message", async () => {
    await using server = await serving(first(2, refusing(UNAVAILABLE)));
    let messages = 0;
    for await (const _ of server.client().entities.watchEntities({})) messages++;
    expect(messages).toBe(1);
    expect(server.seen().streams).toBe(3);
  });

  it("six times at most, or as often as the client says", async () => {
    for (const [attempts, expected] of [
      [undefined, 6],
      [2, 2],
    ]) {
      await using server = await serving(refusing(UNAVAILABLE));
      const client = server.client(attempts === undefined ? {} : { retries: { attempts } });
      await expect(client.entities.getEntity(NOBODY)).rejects.toMatchObject({ code: Code.Unavailable });
      expect(server.seen().streams).toBe(expected);
    }
  });
});

describe("client 2: a write gets a request_id", () => {
  it.each<[string, Act]>([
    ["COMMIT_UNKNOWN", refusing(UNKNOWN)],
    ["UNAVAILABLE of a proxy", refusing(PROXY)],
    ["a lost connection", lost],
    ["WRITE_CONFLICT", refusing(CONFLICT)],
    ["a refused stream", refuse],
  ])("which is the same in every attempt, after %s", async (_, act) => {
    await using server = await serving(first(2, (stream) => void stream.on("end", () => act(stream)).resume()));
    const { entities } = server.client();
    await entities.updateEntity(WRITE);
    await entities.updateEntity(WRITE);
    const ids = requestIds(server);
    expect(ids[0]).toMatch(UUID);
    expect(ids.slice(0, 3)).toEqual([ids[0], ids[0], ids[0]]);
    // Another call is another request, even of the same object.
    expect(ids[3]).toMatch(UUID);
    expect(ids[3]).not.toBe(ids[0]);
    expect(WRITE).not.toHaveProperty("requestId");
  });

  it("unless the caller gives one", async () => {
    await using server = await serving(first(1, refusing(UNKNOWN)));
    const requestId = crypto.randomUUID();
    await server.client().entities.updateEntity({ ...WRITE, requestId });
    expect(requestIds(server)).toEqual([requestId, requestId]);
  });
});

it("client 2: a read gets none: what is called so in ListEntityEvents is a filter", async () => {
  await using server = await serving((stream) => answer(stream, ENTITY));
  await server.client().entities.listEntityEvents({ lookup: lookup.externalId("nobody") });
  expect(fromBinary(ListEntityEventsRequestSchema, (server.requests[0] as Buffer).subarray(5)).requestId).toBe("");
});

describe("client 3: a method without a request_id", () => {
  it.each<[string, Act, number]>([
    ["COMMIT_UNKNOWN", refusing(UNKNOWN), 1],
    ["UNAVAILABLE of a proxy", refusing(PROXY), 1],
    ["a lost connection", lost, 1],
    ["DATABASE_UNAVAILABLE", refusing(UNAVAILABLE), 2],
    ["WRITE_CONFLICT", refusing(CONFLICT), 2],
    ["OVERLOADED", refusing(OVERLOADED), 2],
    ["a refused stream", refuse, 2],
  ])("is sent again where nothing was done alone: after %s", async (_, act, expected) => {
    await using server = await serving(first(1, act));
    const call = server.client().entities.recheckTaxIds({ apply: true });
    await (expected === 1 ? expect(call).rejects.toMatchObject({ code: Code.Unavailable }) : call);
    expect(server.seen().streams).toBe(expected);
  });
});

describe("client 3: an import, of which rows may have been written before its first answer", () => {
  it.each<[string, Act, number]>([
    ["DATABASE_UNAVAILABLE", refusing(UNAVAILABLE), 1],
    ["WRITE_CONFLICT", refusing(CONFLICT), 1],
    ["COMMIT_UNKNOWN", refusing(UNKNOWN), 1],
    ["UNAVAILABLE of a proxy", refusing(PROXY), 1],
    ["a lost connection", lost, 1],
    ["OVERLOADED", refusing(OVERLOADED), 2],
    ["a refused stream", refuse, 2],
  ])("is sent again where it was not let in alone: after %s", async (_, act, expected) => {
    const done = toBinary(ImportEntitiesResponseSchema, create(ImportEntitiesResponseSchema));
    await using server = await serving((stream, index) => (index === 0 ? act(stream) : answer(stream, done)));
    const rows = (async function* () {
      yield { entity: { name: "Ana" } };
    })();
    const answers = server.client().entities.importEntities(rows)[Symbol.asyncIterator]();
    const call = answers.next();
    await (expected === 1 ? expect(call).rejects.toBeInstanceOf(ConnectError) : call);
    expect(server.seen().streams).toBe(expected);
    await answers.return?.();
  });
});

describe("client 4: nothing else is sent again", () => {
  it.each<[string, Refusal]>([
    ["ETAG_MISMATCH", { code: Code.Aborted, reason: "ETAG_MISMATCH" }],
    ["VALIDATION_ERROR", { code: Code.InvalidArgument, reason: "VALIDATION_ERROR" }],
    ["DEADLINE_EXCEEDED", { code: Code.DeadlineExceeded, reason: "DEADLINE_EXCEEDED" }],
    ["INTERNAL", { code: Code.Internal, reason: "INTERNAL" }],
    ["a reason of the future", { code: Code.Unavailable, reason: "BRAND_NEW" }],
    ["ABORTED of a proxy", { code: Code.Aborted }],
    ["RESOURCE_EXHAUSTED of a proxy", { code: Code.ResourceExhausted }],
  ])("not after %s", async (_, refusal) => {
    await using server = await serving(refusing(refusal));
    const { entities } = server.client();
    await expect(entities.getEntity(NOBODY)).rejects.toMatchObject({ code: refusal.code });
    await expect(entities.updateEntity(WRITE)).rejects.toMatchObject({ code: refusal.code });
    expect(server.seen().streams).toBe(2);
  });

  it("not what the caller has left, nor in its pause", async () => {
    await using server = await serving(refusing({ ...OVERLOADED, retryAfterMs: 5_000 }));
    const leaving = new AbortController();
    const retries = { onRetry: () => void setTimeout(() => leaving.abort(), 10) };
    const began = performance.now();
    const call = server.client({ retries }).entities.getEntity(NOBODY, { signal: leaving.signal });
    await expect(call).rejects.toMatchObject({ code: Code.Canceled });
    expect(performance.now() - began).toBeLessThan(2_000);
    expect(server.seen().streams).toBe(1);
  });
});

describe("client 5: OVERLOADED is waited for as long as it says", () => {
  it("and not less", async () => {
    await using server = await serving(first(1, refusing({ ...OVERLOADED, retryAfterMs: 700 })));
    const retries: Retry[] = [];
    const began = performance.now();
    await server.client({ retries: { onRetry: (retry) => retries.push(retry) } }).entities.getEntity(NOBODY);
    expect(performance.now() - began).toBeGreaterThanOrEqual(700);
    expect(retries).toMatchObject([{ method: "GetEntity", retry: 1, error: { code: Code.Unavailable } }]);
    expect(isReason(retries[0]?.error, "OVERLOADED")).toBe(true);
  });

  it("or told at once, where the deadline is before", async () => {
    await using server = await serving(refusing({ ...OVERLOADED, retryAfterMs: 20_000 }));
    const began = performance.now();
    const call = server.client({ defaultTimeoutMs: 10_000 }).entities.getEntity(NOBODY);
    expect(errorInfo(await call.catch((error: unknown) => error))).toMatchObject({
      ...{ reason: "OVERLOADED", retryAfterMs: 20_000 },
    });
    expect(performance.now() - began).toBeLessThan(5_000);
  });
});

describe("client 6: retries never amplify", () => {
  it("a service that refuses all is sent no more than a hundred calls above what the application makes", async () => {
    await using server = await serving(refusing(UNAVAILABLE));
    const { entities } = server.client();
    const calls = 800;
    const outcomes = await Promise.allSettled(Array.from({ length: calls }, () => entities.getEntity(NOBODY)));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toEqual([]);
    expect(server.seen().streams).toBe(calls + 100);
  });

  it("of the calls that succeed every tenth allows one again", async () => {
    let isDown = true;
    await using server = await serving((stream) => (isDown ? say(stream, UNAVAILABLE) : answer(stream, ENTITY)));
    const { entities } = server.client({ retries: { budget: 2 } });
    const call = () => entities.getEntity(NOBODY).catch(() => {});
    await call();
    expect(server.seen().streams).toBe(3);
    await call();
    expect(server.seen().streams).toBe(4);
    isDown = false;
    for (let i = 0; i < 11; i++) await call();
    isDown = true;
    await call();
    expect(server.seen().streams).toBe(4 + 11 + 2);
  });

  it("a retry that helps uses nothing up", async () => {
    await using server = await serving((stream, index) =>
      index % 2 === 0 ? say(stream, UNAVAILABLE) : answer(stream, ENTITY),
    );
    const { entities } = server.client({ retries: { budget: 1 } });
    for (let i = 0; i < 10; i++) await entities.getEntity(NOBODY);
    expect(server.seen().streams).toBe(20);
  });

  it("their pauses are random over all of a range that doubles, so that callers do not come back together", async () => {
    await using server = await serving(refusing(UNAVAILABLE));
    const pauses = new Map<number, number[]>();
    const onRetry = ({ retry, pauseMs }: Retry) => {
      pauses.set(retry, [...(pauses.get(retry) ?? []), pauseMs]);
    };
    const { entities } = server.client({ retries: { budget: 1_000, attempts: 4, onRetry } });
    await Promise.allSettled(Array.from({ length: 300 }, () => entities.getEntity(NOBODY)));
    for (const [retry, bound] of [
      [1, 100],
      [2, 200],
      [3, 400],
    ] as const) {
      const values = pauses.get(retry) ?? [];
      expect(values).toHaveLength(300);
      expect(Math.max(...values)).toBeLessThanOrEqual(bound);
      expect(Math.max(...values)).toBeGreaterThan(0.9 * bound);
      expect(Math.min(...values)).toBeLessThan(0.1 * bound);
    }
  });
});

describe("client 7: what nobody has seen is sent again, whatever the method", () => {
  it("even where there are to be no retries, and those alone", async () => {
    await using refused = await serving(first(2, refuse));
    await refused.client({ retries: false }).entities.createEntity({ entity: {} });
    expect(refused.seen().streams).toBe(3);
    await using server = await serving(refusing(UNAVAILABLE));
    await expect(server.client({ retries: false }).entities.updateEntity(WRITE)).rejects.toBeDefined();
    expect(requestIds(server)).toEqual([""]);
  });

  it("the next address, where there are several", async () => {
    await using gone = await serving(refuse);
    await using here = await serving((stream) => answer(stream, ENTITY));
    await gone[Symbol.asyncDispose]();
    const retries: Retry[] = [];
    const { entities } = createEntityClient({
      ...{ baseUrl: [gone.baseUrl, here.baseUrl], apiKey: "k", retries: { onRetry: (one) => retries.push(one) } },
    });
    for (let i = 0; i < 20; i++) await entities.createEntity({ entity: {} });
    expect(here.seen().streams).toBe(20);
    // An address that does not answer is left out for a second.
    expect(retries.length).toBeLessThanOrEqual(2);
  });
});

describe("client 8: a call ends by its deadline, with all its attempts", () => {
  it("which is 10 s where none is named, and less in each attempt", async () => {
    await using server = await serving((stream, index) => {
      if (index < 2) setTimeout(() => say(stream, PROXY), 150);
      else stream.on("close", () => {});
    });
    await expect(server.client({ defaultTimeoutMs: 2_000 }).entities.getEntity(NOBODY)).rejects.toMatchObject({
      code: Code.DeadlineExceeded,
    });
    const timeouts = server.headers.map((headers) => Number.parseInt(String(headers["grpc-timeout"]), 10));
    // All but what it took to send it.
    expect(timeouts[0]).toBeGreaterThan(1_850);
    expect(timeouts[0]).toBeLessThanOrEqual(2_000);
    expect(timeouts[1]).toBeLessThanOrEqual(1_850);
    expect(timeouts[2]).toBeLessThanOrEqual(1_700);
    await using other = await serving((stream) => answer(stream, ENTITY));
    await other.client().entities.getEntity(NOBODY);
    expect(Number.parseInt(String(other.headers[0]?.["grpc-timeout"]), 10)).toBeGreaterThan(9_900);
  });
});

describe("client 9: who and which trace", () => {
  const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  const OTHER = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-01";
  it("are told with each call: by the client, by `with`, by the options of the call, the nearest first", async () => {
    await using server = await serving((stream) => answer(stream, ENTITY));
    let asked = 0;
    const traceContext = () => ({ traceparent: OTHER, tracestate: `asked=${++asked}` });
    const client = server.client({ actorId: "job", source: "crm", traceContext });
    await client.entities.getEntity(NOBODY);
    const request = client.with({ actorId: "ana", traceparent: TRACE });
    await request.entities.getEntity(NOBODY);
    await request.with({ source: "erp" }).entities.getEntity(NOBODY, { actorId: "eva" });
    await request.entities.getEntity(NOBODY, { headers: { "x-actor-id": "by hand" } });
    const names = ["x-actor-id", "x-source", "traceparent", "tracestate"];
    expect(server.headers.map((headers) => names.map((name) => headers[name]))).toEqual([
      ["job", "crm", OTHER, "asked=1"],
      ["ana", "crm", TRACE, undefined],
      ["eva", "erp", TRACE, undefined],
      ["by hand", "crm", TRACE, undefined],
    ]);
  });

  it("a key may be a function, which is asked before each attempt", async () => {
    await using server = await serving(first(1, refusing(PROXY)));
    let asked = 0;
    await server.client({ apiKey: async () => `key-${++asked}` }).entities.getEntity(NOBODY);
    expect(server.headers.map(({ authorization }) => authorization)).toEqual(["Bearer key-1", "Bearer key-2"]);
  });

  it("a key is sent without the white space around it", async () => {
    await using server = await serving((stream) => answer(stream, ENTITY));
    await server.client({ apiKey: " es_secret\r\n" }).entities.getEntity(NOBODY);
    expect(server.headers.map(({ authorization }) => authorization)).toEqual(["Bearer es_secret"]);
  });

  it.each(["es_se\ncret", "es_se cret", "es_secrét", "", "\n"])(
    "a key that cannot be one is UNAUTHENTICATED, in a watch too, and is not quoted: %j",
    async (apiKey) => {
      await using server = await serving((stream) => answer(stream, ENTITY));
      const client = server.client({ apiKey: () => apiKey });
      const reconnects: unknown[] = [];
      const watching = client.watch({ onReconnect: (error) => reconnects.push(error) })[Symbol.asyncIterator]();
      for (const call of [client.entities.getEntity(NOBODY), watching.next()]) {
        const error = await call.catch((thrown: unknown) => thrown);
        expect(error).toMatchObject({ code: Code.Unauthenticated });
        expect(inspect(error, { depth: 10 })).not.toContain("es_se");
      }
      expect(reconnects).toEqual([]);
      expect(server.seen().streams).toBe(0);
    },
  );

  it("a context that no header can have is refused where the answer is waited for, without its value", async () => {
    await using server = await serving((stream) => answer(stream, ENTITY));
    const { entities, watch } = server.client({ actorId: "Ana\nGil" });
    const rows = (async function* () {
      yield { entity: { name: "Eva" } };
    })();
    const calls = {
      unary: entities.getEntity(NOBODY),
      list: entities.listEntities({}),
      items: entities.listEntities({})[Symbol.asyncIterator]().next(),
      export: entities.exportEntities({})[Symbol.asyncIterator]().next(),
      import: entities.importEntities(rows)[Symbol.asyncIterator]().next(),
      watch: watch()[Symbol.asyncIterator]().next(),
    };
    for (const [kind, outcome] of Object.entries(await outcomesOf(calls))) {
      expect({ kind, outcome }).toMatchObject({ outcome: { code: Code.InvalidArgument } });
      expect(String(outcome)).toContain("actorId");
      expect(inspect(outcome, { depth: 10 })).not.toContain("Gil");
    }
    const source = server.client().entities.getEntity(NOBODY, { source: "c\u2028rm" });
    await expect(source).rejects.toThrow("source has characters");
    expect(server.seen().streams).toBe(0);
  });
});

describe("client 2: at the real service", () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service[Symbol.asyncDispose]());

  it.each(["before", "after"] as const)("a write whose COMMIT is lost %s it was done is done once", async (when) => {
    await using proxy = await startProxy();
    await using other = await startOther(service, { address: proxy });
    const retries: Retry[] = [];
    const { entities } = createEntityClient({
      ...{ baseUrl: other.baseUrl, apiKey: service.organization.apiKey, actorId: "ana" },
      retries: { onRetry: (retry) => retries.push(retry) },
    });
    await entities.listEntities({ pageSize: 1 });
    // The service has COMMITs of its own, of which one may come first.
    for (let tries = 0; tries < 10 && retries.length === 0; tries++) {
      proxy.cutAtCommit(when);
      // Without an external id nothing but its request_id keeps it from being there twice.
      const name = unique("Once");
      const made = await entities.createEntity({ entity: { type: EntityType.PERSON, name, countryCode: "AR" } });
      const id = made.entity?.id ?? "";
      expect((await entities.listEntities({ nameQuery: name })).entities.map((one) => one.id)).toEqual([id]);
      const events = await eventsOf(service.client, { id });
      expect(events).toMatchObject([{ actor: "ana", requestId: expect.stringMatching(UUID) }]);
    }
    expect(retries.map(({ error }) => errorInfo(error)?.reason)).toEqual(["COMMIT_UNKNOWN"]);
  });
});

it("client 7: a stream that is reset for another cause is not one that nobody has seen", async () => {
  await using server = await serving((stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR));
  await expect(server.client().entities.recheckTaxIds({})).rejects.toBeDefined();
  expect(server.seen().streams).toBe(1);
});
