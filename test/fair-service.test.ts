// Shares in the running service: held rows, waiting calls, guessed keys and slow receivers of one organization do not
// affect another organization's calls. Judged by order and counts.
import { createServer } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { type AddressInfo, connect as connectTcp } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, type ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import pg from "pg";
import pino from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RetryInfoSchema } from "../clients/typescript/gen/google/rpc/error_details_pb.ts";
import { Health } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { createEntityClient, type EntityClient, EntityType, ErrorInfoSchema } from "../clients/typescript/index.ts";
import { byId, newPerson, tally, together, unique } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { watching } from "./watchers.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

/** Holds the rows of entities, as another writer would, until they are released. */
async function hold(entities: readonly { id: string }[], at: TestService = service) {
  const holder = new pg.Client(at.database);
  await holder.connect();
  await holder.query("begin");
  await holder.query("select 1 from entity where id = any($1) for update", [entities.map(({ id }) => id)]);
  return { [Symbol.asyncDispose]: () => holder.end() };
}

/** Locks the table: no read or write of entities until it is released. */
async function lockEntities(at: TestService) {
  const locker = new pg.Client(at.database);
  await locker.connect();
  await locker.query("begin; lock table entity in access exclusive mode");
  let isHeld = true;
  return {
    async [Symbol.asyncDispose]() {
      if (isHeld) await locker.end();
      isHeld = false;
    },
  };
}

const record = (client: EntityClient, entity: { id: string }) =>
  client.activity.recordUserEvents({
    userEvents: [{ entityId: entity.id, eventType: "login", occurredAt: { seconds: 1_760_000_000n, nanos: 0 } }],
  });
const rename = (client: EntityClient, entity: { id: string }, fields: object = {}) =>
  client.entities.updateEntity({ lookup: byId(entity), entity: { name: unique("name") }, ...fields });

describe("rows of one organization that are held", () => {
  /** What may wait for a row: each kind of write, on one entity. */
  const KINDS: Record<string, (client: EntityClient, entity: { id: string; externalId: string }) => Promise<unknown>> =
    {
      "records of activity": record,
      rehearsals: (client, entity) => rename(client, entity, { validateOnly: true }),
      "writes of entities": (client, entity) => rename(client, entity),
      imports: async (client, { externalId }) => {
        async function* rows() {
          yield { entity: { externalId, type: EntityType.PERSON, name: unique("name"), countryCode: "BR" } };
        }
        for await (const { results } of client.entities.importEntities(rows())) {
          const [result] = results;
          if (result?.error !== undefined) throw new Error("the row was refused");
        }
      },
    };

  test("every kind of another's goes on while all of them wait", { timeout: 60_000 }, async () => {
    const [a, b] = [await service.newOrganization(), await service.newOrganization()];
    const make = ({ client }: TestOrganization) => newPerson(client, { externalId: unique("held") });
    const [theirs, ours] = [await Promise.all([1, 2, 3, 4, 5].map(() => make(a))), await make(b)];
    await using _ = await hold(theirs);
    const kinds = Object.entries(KINDS);
    let isOver = false;
    const waiting = kinds.flatMap(([, write]) =>
      Array.from({ length: 12 }, async (_, i) => {
        while (!isOver) await write(a.client, theirs[i % 5] as (typeof theirs)[0]).catch(() => {});
      }),
    );
    // Their slots are all taken, and the same number of writes waits for each slot.
    await sleep(500);
    for (const [kind, write] of kinds) {
      const begun = performance.now();
      for (let i = 0; i < 5; i += 1) await write(b.client, ours);
      // Without shares each of them would wait for the lock time of the others, or for several.
      expect(performance.now() - begun, kind).toBeLessThan(2_000);
    }
    isOver = true;
    await Promise.all(waiting);
  });

  test("whoever waits for a held row is refused after the lock time, the wait for a turn included", {
    timeout: 60_000,
  }, async () => {
    await using own = await startService({ config: { lockTimeoutMs: 3_000 } });
    const entity = await newPerson(own.client);
    await using _ = await hold([entity], own);
    for (const write of [record, rename]) {
      const took: number[] = [];
      const endings = await together(24, async () => {
        const begun = performance.now();
        await write(own.client, entity).finally(() => took.push(performance.now() - begun));
      });
      expect(tally(endings)).toEqual({ WRITE_CONFLICT: 24 });
      // Three at a time, each for the lock time: without a limit the last would be refused after eight times that.
      expect(Math.max(...took), write.name).toBeLessThan(12_000);
      expect(Math.min(...took), write.name).toBeGreaterThan(2_900);
    }
  });
});

describe("work whose caller has left", () => {
  test("is not begun: writes, rehearsals, records, lists and lookups that wait for their turn", {
    timeout: 30_000,
  }, async () => {
    await using own = await startService({ config: { poolSize: 2, lockTimeoutMs: 5_000, statementTimeoutMs: 10_000 } });
    const { client } = own;
    const entity = await newPerson(client);
    const kinds: ((name: string, signal: AbortSignal) => Promise<unknown>)[] = [
      (_, signal) => client.entities.listEntities({}, { signal }),
      (_, signal) => client.entities.getEntity({ lookup: byId(entity) }, { signal }),
      (name, signal) => client.entities.updateEntity({ lookup: byId(entity), entity: { name } }, { signal }),
      (name, signal) =>
        client.entities.updateEntity({ lookup: byId(entity), entity: { name }, validateOnly: true }, { signal }),
      (eventType, signal) =>
        client.activity.recordUserEvents(
          { userEvents: [{ entityId: entity.id, eventType, occurredAt: { seconds: 1_760_000_000n, nanos: 0 } }] },
          { signal },
        ),
    ];
    await using locked = await lockEntities(own);
    // These take all slots.
    const first = kinds.map((call) => call("stayed", AbortSignal.timeout(60_000)).catch(() => {}));
    await sleep(300);
    const leaving = new AbortController();
    const left = kinds.flatMap((call) => Array.from({ length: 20 }, () => call("left", leaving.signal)));
    const ends = Promise.allSettled(left);
    await sleep(300);
    leaving.abort();
    expect(new Set((await ends).map(({ status }) => status))).toEqual(new Set(["rejected"]));
    await sleep(100);
    await locked[Symbol.asyncDispose]();
    await Promise.all(first);
    const names = await own.sql("select new_values ->> 'name' as name from entity_event");
    expect(names.map(({ name }) => name)).not.toContain("left");
    expect(await own.sql("select 1 from user_event where event_type = 'left'")).toEqual([]);
  });
});

describe("guessed keys", () => {
  const guess = (own: TestService) =>
    createEntityClient({ retries: false, baseUrl: own.baseUrl, apiKey: unique("guess") });

  test("use connections of their own: with the whole pool held, keys are looked up and the service is ready", async () => {
    await using own = await startService({
      config: { poolSize: 2, lockTimeoutMs: 10_000, statementTimeoutMs: 12_000 },
    });
    const organization = await own.newOrganization();
    await using locked = await lockEntities(own);
    const held = together(8, () => own.client.entities.listEntities({}));
    await sleep(300);
    expect(await refusal(guess(own).entities.listEntities({}))).toMatchObject({ code: Code.Unauthenticated });
    // A valid key that this process has not looked up yet.
    const late = organization.client.entities.listEntities({}, { timeoutMs: 1_000 });
    await expect(late).rejects.toMatchObject({ code: Code.DeadlineExceeded });
    // Two readiness checks later.
    await sleep(4_500);
    const health = createClient(Health, createGrpcTransport({ baseUrl: own.baseUrl }));
    expect((await health.check({})).status).toBe(1);
    await locked[Symbol.asyncDispose]();
    await held;
  });

  test("a flood of them leaves a known caller served, and fills no log", { timeout: 60_000 }, async () => {
    const lines: string[] = [];
    const log = pino({ level: "info" }, { write: (line: string) => void lines.push(line) });
    await using own = await startService({ log });
    await newPerson(own.client);
    const from = lines.length;
    const begun = performance.now();
    const flood = together(20, async () => {
      const codes = new Set<string>();
      for (let i = 0; i < 40; i += 1) {
        const answer = await fetch(`${own.baseUrl}/entity.v1.EntityService/ListEntities`, {
          method: "POST",
          headers: { "content-type": "application/json", authorization: `Bearer ${unique("guess")}` },
          body: "{}",
        });
        codes.add(((await answer.json()) as { code: string }).code);
      }
      return [...codes];
    });
    const served = await together(50, () => own.client.entities.listEntities({}));
    expect(tally(served)).toEqual({ OK: 50 });
    const codes = new Set((await flood).flatMap(({ answer = [] }) => answer));
    expect([...codes].sort().filter((code) => code !== "unavailable")).toEqual(["unauthenticated"]);
    const seconds = (performance.now() - begun) / 1_000;
    const refusals = lines.slice(from).filter((line) => /UNAUTHENTICATED|OVERLOADED/.test(line));
    // One line and one sum a second, for each of two kinds.
    expect(refusals.length).toBeLessThanOrEqual(4 * (seconds + 2));
  });
});

test("OVERLOADED is UNAVAILABLE, and says when to come back in every way that clients act on", async () => {
  await using own = await startService({ config: { maxWatches: 1 } });
  await using first = watching(own.client);
  await first.started();
  const stream = own.client.entities.watchEntities({})[Symbol.asyncIterator]();
  const error = await stream.next().then(
    () => undefined,
    (refused: unknown) => refused as ConnectError,
  );
  expect(error?.code).toBe(Code.Unavailable);
  expect(error?.findDetails(ErrorInfoSchema)[0]).toMatchObject({
    reason: "OVERLOADED",
    metadata: { retry_after_ms: "500" },
  });
  expect(error?.findDetails(RetryInfoSchema)[0]?.retryDelay).toMatchObject({ seconds: 0n, nanos: 500_000_000 });
  expect(error?.metadata.get("grpc-retry-pushback-ms")).toBe("500");
});

describe("callers without a key", () => {
  test("open few streams, on one connection and on many, and everybody else is served", async () => {
    const session = connectHttp2(service.baseUrl);
    const codes: string[] = [];
    const streams = Array.from({ length: 90 }, () => {
      const stream = session.request({
        ":method": "POST",
        ":path": "/grpc.health.v1.Health/Watch",
        "content-type": "application/grpc",
        te: "trailers",
      });
      stream.on("error", () => {});
      stream.on("response", (headers) => codes.push(String(headers["grpc-status"] ?? "open")));
      stream.end(Buffer.alloc(5));
      return stream;
    });
    await expect.poll(() => codes.length).toBe(90);
    const open = codes.filter((code) => code === "open").length;
    expect(open).toBeGreaterThan(4);
    expect(open).toBeLessThanOrEqual(32);
    expect(codes.filter((code) => code === String(Code.Unavailable))).toHaveLength(90 - open);
    expect((await service.client.entities.listEntities({})).nextPageToken).toBe("");
    for (const stream of streams) stream.destroy();
    session.destroy();
  });

  test("who pipelines over HTTP/1.1 is served one by one, and closed with too many waiting", async () => {
    const request =
      "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    const answers = (count: number) =>
      new Promise<number>((resolve) => {
        let text = "";
        const socket = connectTcp(service.port, "127.0.0.1", () => socket.write(request.repeat(count)));
        socket.on("data", (chunk) => {
          text += chunk;
          if (text.split("HTTP/1.1 200").length - 1 === count) socket.destroy();
        });
        socket.on("error", () => {});
        socket.on("close", () => resolve(text.split("HTTP/1.1 200").length - 1));
      });
    expect(await answers(20)).toBe(20);
    expect(await answers(5_000)).toBeLessThan(100);
  });
});

describe("webhooks", () => {
  test("thirty receivers of one organization that do not answer leave another's deliveries alone", {
    timeout: 60_000,
  }, async () => {
    await using own = await startService();
    const [a, b] = [await own.newOrganization(), await own.newOrganization()];
    let slowNow = 0;
    let slowMost = 0;
    const slow = createServer((request, response) => {
      slowNow += 1;
      slowMost = Math.max(slowMost, slowNow);
      request.resume();
      response.on("close", () => {
        slowNow -= 1;
      });
    });
    const got: string[] = [];
    const fast = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk) => {
        body += chunk;
      });
      request.on("end", () => {
        got.push(JSON.parse(body).entityId);
        response.end();
      });
    });
    for (const server of [slow, fast]) await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const urlOf = (server: typeof slow, path = "") =>
      `http://127.0.0.1:${(server.address() as AddressInfo).port}/${path}`;
    for (let i = 0; i < 30; i += 1) {
      await a.client.webhooks.createWebhookEndpoint({ endpoint: { url: urlOf(slow, `${i}`), displayName: `s${i}` } });
    }
    await b.client.webhooks.createWebhookEndpoint({ endpoint: { url: urlOf(fast), displayName: "fast" } });
    for (let i = 0; i < 20; i += 1) await newPerson(a.client);
    await expect.poll(() => slowNow, { timeout: 20_000 }).toBeGreaterThan(16);
    // The organization holds its full share by now, for the whole time-out of 15 s.
    for (let i = 0; i < 5; i += 1) {
      const { id } = await newPerson(b.client);
      await expect.poll(() => got, { timeout: 5_000 }).toContain(id);
    }
    expect(slowMost).toBeLessThanOrEqual(32);
    for (const server of [slow, fast]) {
      server.closeAllConnections();
      server.close();
    }
  });
});
