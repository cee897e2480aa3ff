// Deliveries to a receiver that fails by script: at least once, signed, in the order of an entity, on schedule; and not
// twice, with any number of processes, until one is killed.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { pino } from "pino";
import { describe, expect, test } from "vitest";
import {
  createEntityClient,
  type EntityClient,
  WebhookDeliveryState,
  WebhookDisabledReason,
} from "../clients/typescript/index.ts";
import { MAX_ATTEMPTS } from "../src/domain/webhook.ts";
import { startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { byId, newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import {
  deliveriesOf,
  eventually,
  newEndpoint,
  quietly,
  type Received,
  type Reply,
  startReceiver,
  verify,
} from "./scripted-receiver.ts";
import { startOther } from "./wall-harness.ts";

const HOUR = 3_600_000;

/** A service whose schedule clock the test moves forward. */
async function startWithClock(options: Parameters<typeof startService>[0] = {}) {
  const clock = { offsetMs: 0 };
  const service = await startService({ ...options, webhookClock: () => clock.offsetMs });
  return Object.assign(service, {
    clock,
    /** Sets the clock to `milliseconds` before the time. */
    setBefore(time: { seconds: bigint; nanos: number } | undefined, ms: number) {
      if (time === undefined) throw new Error("no time to set the clock to");
      clock.offsetMs = timestampDate(time as never).getTime() - ms - Date.now();
    },
  });
}

const rename = (client: EntityClient, person: { id: string }, name: string) =>
  client.entities.updateEntity({ lookup: byId(person), entity: { name } });

/** The versions of each entity in the order in which they first arrived. */
function versionsByEntity(requests: readonly Received[]): Map<string, number[]> {
  const versions = new Map<string, number[]>();
  for (const { json, version } of requests) {
    const seen = versions.get(json.entityId) ?? [];
    versions.set(json.entityId, seen);
    if (!seen.includes(version)) seen.push(version);
  }
  return versions;
}

/** The number of repeated deliveries: those that came again after an answer of 200. */
const twice = (requests: readonly Received[]) => requests.length - new Set(requests.map(({ id }) => id)).size;

describe("an attempt that fails is made again, and nothing is lost", () => {
  test.each<[string, Reply, { status?: number; error?: string }]>([
    ["a status of 500", 500, { status: 500 }],
    ["a redirect, which is not followed", { status: 302, headers: { location: "/elsewhere" } }, { status: 302 }],
    ["a connection that is reset", "reset", { error: "CONNECTION_RESET" }],
    ["an answer that is no HTTP", "garbage", { error: "BAD_RESPONSE" }],
    ["no answer in time", "silence", { error: "TIMEOUT" }],
    ["429 with Retry-After", { status: 429, headers: { "retry-after": "7200" } }, { status: 429 }],
  ])("%s", async (_, failure, attempt) => {
    await using service = await startWithClock({
      config: { webhookTimeoutMs: failure === "silence" ? 1_500 : 15_000 },
    });
    await using receiver = await startReceiver(() => failure);
    const { client } = service;
    const endpoint = await newEndpoint(client, receiver.url());
    const person = await newPerson(client);
    await rename(client, person, "Ana Lima");
    await eventually(async () => (await deliveriesOf(client, endpoint))[0]?.attempts.length === 1);
    const [first] = await deliveriesOf(client, endpoint);
    expect(first).toMatchObject({ state: WebhookDeliveryState.PENDING, attempts: [attempt] });
    receiver.answer = () => 200;
    service.setBefore(first?.nextAttemptAt, 0);
    await receiver.count(3);
    await quietly();
    expect(receiver.requests.map(({ path, version }) => [path, version])).toEqual([
      ["/hook", 1],
      ["/hook", 1],
      ["/hook", 2],
    ]);
    const [one, again] = receiver.requests;
    expect([again?.id, again?.body]).toEqual([one?.id, one?.body]);
    for (const request of receiver.requests) verify(endpoint.secret, request);
    const delivered = await deliveriesOf(client, endpoint);
    expect(delivered.map(({ state, attempts }) => [state, attempts.length])).toEqual([
      [WebhookDeliveryState.DELIVERED, 2],
      [WebhookDeliveryState.DELIVERED, 1],
    ]);
  });

  test("eight attempts, at their times, and then the next delivery of the entity", { timeout: 60_000 }, async () => {
    await using service = await startWithClock();
    await using receiver = await startReceiver(({ version }) => (version === 1 ? 503 : 200));
    const { client } = service;
    const endpoint = await newEndpoint(client, receiver.url());
    const [person, other] = [await newPerson(client), await newPerson(client, { name: "Eva" })];
    receiver.answer = ({ json, version }) => (json.entityId === person.id && version === 1 ? 503 : 200);
    await rename(client, person, "Ana Lima");
    const mine = () => receiver.requests.filter(({ json }) => json.entityId === person.id);
    const first = async () => (await deliveriesOf(client, endpoint)).find((one) => one.entityId === person.id);
    /** Milliseconds after the first attempt, and how far the last gap may be stretched. */
    const schedule = [0, 5_000, 300_000, 0.5 * HOUR, 2 * HOUR, 5 * HOUR, 10 * HOUR, 24 * HOUR];
    for (let made = 1; made < MAX_ATTEMPTS; made++) {
      await eventually(async () => (await first())?.attempts.length === made || `attempt ${made} is missing`);
      const delivery = await first();
      const begin = delivery?.attempts[0]?.attemptedAt && timestampDate(delivery.attempts[0].attemptedAt).getTime();
      const due = delivery?.nextAttemptAt && timestampDate(delivery.nextAttemptAt).getTime();
      const after = (due ?? 0) - (begin ?? 0);
      const gap = (schedule[made] ?? 0) - (schedule[made - 1] ?? 0);
      expect(after, `attempt ${made + 1}`).toBeGreaterThanOrEqual((schedule[made] ?? 0) - 1);
      expect(after, `attempt ${made + 1}`).toBeLessThanOrEqual((schedule[made] ?? 0) + gap * 0.1 + 1);
      service.setBefore(delivery?.nextAttemptAt, 2_500);
      await quietly();
      expect(mine(), "too early").toHaveLength(made);
      service.setBefore(delivery?.nextAttemptAt, 0);
    }
    await eventually(() => mine().length === MAX_ATTEMPTS + 1 || `${mine().length} came`);
    expect(mine().map(({ version }) => version)).toEqual([...Array(MAX_ATTEMPTS).fill(1), 2]);
    await eventually(async () => (await first())?.state === WebhookDeliveryState.FAILED);
    const delivery = await first();
    expect(delivery?.attempts.map(({ status }) => status)).toEqual(Array(MAX_ATTEMPTS).fill(503));
    expect(delivery?.finishedAt).toBeDefined();
    // The other entity's deliveries did not wait for it.
    expect(receiver.requests.findIndex(({ json }) => json.entityId === other.id)).toBeLessThan(3);
  });

  test("Retry-After of 429 holds all deliveries of the endpoint back, and of no other endpoint", async () => {
    await using service = await startWithClock();
    await using receiver = await startReceiver();
    const { client } = service;
    receiver.answer = ({ path }) => (path === "/busy" ? { status: 429, headers: { "retry-after": "600" } } : 200);
    await newEndpoint(client, receiver.url("/busy"));
    await newEndpoint(client, receiver.url("/free"));
    await newPerson(client);
    await eventually(() => receiver.to("/busy").length === 1 && receiver.to("/free").length === 1);
    await quietly();
    for (let i = 0; i < 3; i++) await newPerson(client);
    await eventually(() => receiver.to("/free").length === 4);
    await quietly();
    expect(receiver.to("/busy")).toHaveLength(1);
    receiver.answer = () => 200;
    service.clock.offsetMs += 590_000;
    await quietly();
    expect(receiver.to("/busy")).toHaveLength(1);
    service.clock.offsetMs += 20_000;
    await eventually(() => receiver.to("/busy").length === 5 || `${receiver.to("/busy").length} came`);
  });

  test.each(["a replay", "a new url"])("%s ends the hold that a receiver asked for", async (how) => {
    await using service = await startWithClock();
    await using receiver = await startReceiver(() => ({ status: 503, headers: { "retry-after": "86400" } }));
    const { client } = service;
    const endpoint = await newEndpoint(client, receiver.url("/old"));
    await newPerson(client);
    await eventually(async () => (await deliveriesOf(client, endpoint))[0]?.attempts.length === 1);
    receiver.answer = () => 200;
    await newPerson(client, { name: "Eva" });
    await quietly();
    expect(receiver.requests).toHaveLength(1);
    const [first] = (await deliveriesOf(client, endpoint)).slice(-1);
    if (how === "a replay") {
      await client.webhooks.replayWebhookDeliveries({ endpointId: endpoint.id, deliveryIds: [first?.id ?? ""] });
      await eventually(() => receiver.to("/old").length === 3 || `${receiver.to("/old").length} came`, 15_000);
    } else {
      await client.webhooks.updateWebhookEndpoint({ endpointId: endpoint.id, endpoint: { url: receiver.url("/new") } });
      // The first one waits for its next attempt.
      await eventually(() => receiver.to("/new").length === 1 || `${receiver.to("/new").length} came`, 15_000);
    }
  });

  test("a hundred failures in a row disable only after three days, and a success begins anew", {
    timeout: 120_000,
  }, async () => {
    await using service = await startWithClock();
    // Whenever it comes, a retry of those that fail fails too.
    await using receiver = await startReceiver(({ json }) => (isEva(json) ? 200 : 500));
    const isEva = ({ newValues }: Received["json"]) => (newValues as { name: string }).name === "Eva";
    const { client } = service;
    const endpoint = await newEndpoint(client, receiver.url());
    const read = async () => (await client.webhooks.getWebhookEndpoint({ endpointId: endpoint.id })).endpoint;
    const people = await Promise.all(Array.from({ length: 99 }, () => newPerson(client)));
    await receiver.count(99);
    await newPerson(client, { name: "Eva" });
    await eventually(() => receiver.requests.some(({ json }) => isEva(json)));
    const before = receiver.requests.length;
    service.clock.offsetMs += 73 * HOUR;
    // 99 more failures, of which only those since the success count; then the hundredth, too early.
    await receiver.count(before + 99);
    await newPerson(client);
    await receiver.count(before + 100);
    await quietly();
    expect((await read())?.disabledReason).toBe(WebhookDisabledReason.UNSPECIFIED);
    service.clock.offsetMs += 73 * HOUR;
    await eventually(async () => (await read())?.disabledReason === WebhookDisabledReason.FAILING);
    expect(people).toHaveLength(99);
  });

  test("a failing webhook never fails the write (rule 66)", async () => {
    await using service = await startService({ config: { webhookTimeoutMs: 60_000 } });
    await using receiver = await startReceiver(() => "silence");
    const { client } = service;
    await newEndpoint(client, receiver.url());
    const person = await newPerson(client);
    await receiver.count(1);
    for (let i = 0; i < 20; i++) {
      const { entity } = await rename(client, person, `Ana ${i}`);
      expect(entity?.name).toBe(`Ana ${i}`);
    }
  });
});

/** Makes many entities with several changes each, at once; returns the number of events. */
async function manyChanges(client: EntityClient, entities: number, changes: number): Promise<number> {
  await Promise.all(
    Array.from({ length: entities }, async () => {
      const person = await newPerson(client);
      for (let i = 1; i < changes; i++) await rename(client, person, `Ana ${i}`);
    }),
  );
  return entities * changes;
}

describe("order, and each once", () => {
  test("the versions of each entity come in order, whatever fails meanwhile", { timeout: 60_000 }, async () => {
    // A delivery that takes longer on a busy machine would be sent twice.
    await using service = await startWithClock({ config: { webhookTimeoutMs: 3_000 } });
    const failed = new Set<string>();
    const failures: Reply[] = [500, "reset", "garbage", "silence", 302];
    await using receiver = await startReceiver(({ id }) => {
      // Every fourth fails once.
      if (failed.has(id) || Number.parseInt(id.slice(-4), 16) % 4 > 0) return 200;
      failed.add(id);
      return failures[failed.size % failures.length] as Reply;
    });
    const { client } = service;
    const endpoint = await newEndpoint(client, receiver.url());
    const events = await manyChanges(client, 25, 8);
    await eventually(async () => {
      service.clock.offsetMs += 6_000;
      const deliveries = await deliveriesOf(client, endpoint);
      const done = deliveries.filter(({ state }) => state === WebhookDeliveryState.DELIVERED).length;
      return done === events || `${done} of ${events} are delivered`;
    }, 50_000);
    expect(failed.size).toBeGreaterThan(20);
    const versions = [...versionsByEntity(receiver.requests).values()];
    expect(versions).toEqual(Array(25).fill([1, 2, 3, 4, 5, 6, 7, 8]));
    // The next version is sent only after the one before was delivered, which never comes again afterwards.
    const last = new Map<string, number>();
    for (const { json, version } of receiver.requests) {
      expect(version).toBeGreaterThanOrEqual(last.get(json.entityId) ?? 0);
      last.set(json.entityId, version);
    }
    expect(twice(receiver.requests)).toBe(failed.size);
  });

  test("two processes share the work and send nothing twice; the one goes on when the other ends", {
    timeout: 180_000,
  }, async () => {
    await using service = await startService();
    await using receiver = await startReceiver(() => ({ afterMs: 5 }));
    const { client } = service;
    const other = await startOther(service);
    const endpoints: Awaited<ReturnType<typeof newEndpoint>>[] = [];
    const held = "select distinct lease_holder from webhook_endpoint where lease_holder is not null";
    // The next process that looks for work takes an endpoint: by chance one process may be first ten times.
    for (let i = 0; i < 10 || (i < 40 && (await service.sql(held)).length < 2); i++) {
      endpoints.push(await newEndpoint(client, receiver.url(`/${i}`)));
      await newPerson(client);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 400));
    }
    /** Each endpoint got the persons that were created after it: one, two, ... up to the number of endpoints. */
    const early = (endpoints.length * (endpoints.length + 1)) / 2;
    const clients = [client, other.client(service.organization.apiKey)];
    const work = () => Promise.allSettled(clients.map((one) => manyChanges(one, 10, 5)));
    await work();
    await receiver.count(early + 100 * endpoints.length, 50_000);
    expect(await service.sql(held), "both work").toHaveLength(2);
    // One process ends while both are working.
    const working = work();
    await receiver.count(early + 120 * endpoints.length, 50_000);
    await other[Symbol.asyncDispose]();
    await working;
    await eventually(async () => {
      const [row] = await service.sql<{ n: number }>("select count(*)::int as n from entity_event");
      const missing = early + ((row?.n ?? 0) - endpoints.length) * endpoints.length - receiver.requests.length;
      return missing === 0 || `${missing} are missing`;
    }, 50_000);
    const came = receiver.requests.length;
    expect(came).toBeGreaterThan(early + 120 * endpoints.length);
    await quietly();
    expect(receiver.requests).toHaveLength(came);
    for (let i = 0; i < endpoints.length; i++) {
      const mine = receiver.to(`/${i}`);
      expect(twice(mine)).toBe(0);
      for (const versions of versionsByEntity(mine).values())
        expect(versions).toEqual(versions.toSorted((a, b) => a - b));
    }
  });

  test("a process that is killed in the middle loses nothing, and repeats only what was under way", {
    timeout: 180_000,
  }, async () => {
    // However fast or slow the machine is, some are under way when it is killed, and most are still to come.
    await using receiver = await startReceiver(() => (receiver.requests.length > 30 ? "silence" : { afterMs: 50 }));
    await using folder = await temporaryFolder();
    const start = () => startServiceProcess(folder.path, { WEBHOOK_ALLOW: "127.0.0.1" });
    const first = await start();
    const client = createEntityClient({ retries: false, baseUrl: first.baseUrl, apiKey: first.apiKey });
    const endpoint = await newEndpoint(client, receiver.url());
    const events = await manyChanges(client, 40, 3);
    await receiver.count(31);
    await first.kill();
    receiver.answer = () => 200;
    const sent = receiver.requests.length;
    expect(sent).toBeLessThan(events);
    await using second = await start();
    const survivor = createEntityClient({ retries: false, baseUrl: second.baseUrl, apiKey: second.apiKey });
    await eventually(async () => {
      const done = (await deliveriesOf(survivor, endpoint)).filter(
        ({ state }) => state === WebhookDeliveryState.DELIVERED,
      ).length;
      return done === events || `${done} of ${events} are delivered`;
    }, 60_000);
    for (const versions of versionsByEntity(receiver.requests).values()) expect(versions).toEqual([1, 2, 3]);
    expect(new Set(receiver.requests.map(({ id }) => id)).size).toBe(events);
    // 16 in flight, and those whose outcome was not recorded yet.
    expect(twice(receiver.requests)).toBeLessThanOrEqual(40);
  });

  test("a service that ends lets what is under way end, and the next one begins at once", {
    timeout: 120_000,
  }, async () => {
    await using receiver = await startReceiver(() => ({ afterMs: 1_000 }));
    await using folder = await temporaryFolder();
    const start = () => startServiceProcess(folder.path, { WEBHOOK_ALLOW: "127.0.0.1" });
    const first = await start();
    const client = createEntityClient({ retries: false, baseUrl: first.baseUrl, apiKey: first.apiKey });
    const endpoint = await newEndpoint(client, receiver.url());
    await rename(client, await newPerson(client), "Ana Lima");
    await receiver.count(1);
    await first[Symbol.asyncDispose]();
    await using second = await start();
    await receiver.count(2);
    const survivor = createEntityClient({ retries: false, baseUrl: second.baseUrl, apiKey: second.apiKey });
    await eventually(async () =>
      (await deliveriesOf(survivor, endpoint)).every((one) => one.state === WebhookDeliveryState.DELIVERED),
    );
    expect((await deliveriesOf(survivor, endpoint)).map(({ attempts }) => attempts.length)).toEqual([1, 1]);
    expect(receiver.requests.map(({ version }) => version)).toEqual([1, 2]);
  });
});

test.each([
  // The cluster is another one, and so is the epoch. Earlier events belong to the old epoch.
  ["expired, as after a restore", "update feed_epoch set cluster = 'another', started_at = '-infinity'"],
  ["of a form that is written no more", "update webhook_endpoint set position = 'MSA5ZmQ4OTRlMQ'"],
])(
  "a position that is %s: the log is gone through again, and what was delivered is not sent again",
  async (_, lose) => {
    const lines: string[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
    await using service = await startService({ log });
    await using receiver = await startReceiver();
    const { client } = service;
    const endpoint = await newEndpoint(client, receiver.url());
    const person = await newPerson(client);
    await rename(client, person, "b");
    await receiver.count(2);
    await eventually(async () =>
      (await deliveriesOf(client, endpoint)).every(({ state }) => state === WebhookDeliveryState.DELIVERED),
    );
    await client.webhooks.updateWebhookEndpoint({ endpointId: endpoint.id, endpoint: { state: 2 } });
    await rename(client, person, "c");
    await eventually(
      async () => (await service.sql("select from webhook_endpoint where lease_holder is not null")).length === 0,
    );
    await service.sql(lose);
    await client.webhooks.updateWebhookEndpoint({ endpointId: endpoint.id, endpoint: { state: 1 } });
    await receiver.count(3);
    await rename(client, person, "d");
    await receiver.count(4);
    await quietly();
    expect(receiver.requests.map(({ version }) => version)).toEqual([1, 2, 3, 4]);
    expect(lines.filter((line) => line.includes("has expired"))).toHaveLength(1);
    expect(lines.join("")).not.toMatch(/whsec_|127\.0\.0\.1|Ana/);
  },
);

test("more than one page of events that are there already, and none of them twice", { timeout: 60_000 }, async () => {
  await using service: TestService = await startService();
  await using receiver = await startReceiver();
  const { client } = service;
  const endpoint = await newEndpoint(client, receiver.url(), { state: 2 });
  const events = await manyChanges(client, 200, 6);
  await client.webhooks.updateWebhookEndpoint({ endpointId: endpoint.id, endpoint: { state: 1 } });
  await receiver.count(events, 50_000);
  await quietly();
  expect(receiver.requests).toHaveLength(events);
  for (const versions of versionsByEntity(receiver.requests).values()) expect(versions).toEqual([1, 2, 3, 4, 5, 6]);
});

test("deliveries give way to calls, and go on all the same", async () => {
  await using service = await startService();
  await using receiver = await startReceiver();
  const { client } = service;
  await newEndpoint(client, receiver.url());
  let isWriting = true;
  const writers = Array.from({ length: 100 }, async () => {
    const person = await newPerson(client);
    for (let i = 0; isWriting; i++) await rename(client, person, `Ana ${i}`);
  });
  const begun = performance.now();
  await expect.poll(() => receiver.requests.length, { message: "they go on", timeout: 20_000 }).toBeGreaterThan(5);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const meanwhile = receiver.requests.length;
  const seconds = (performance.now() - begun) / 1_000;
  isWriting = false;
  await Promise.all(writers);
  expect(meanwhile / seconds, "they give way").toBeLessThan(100);
});
