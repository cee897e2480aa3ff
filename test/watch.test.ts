// WatchEntities: what watchers receive (section G of the rules, and the contract's table).
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  createEntityClient,
  type EntityClient,
  type EntityEvent,
  EntityStatus,
  EntityType,
  EventType,
  errorInfo,
} from "../clients/typescript/index.ts";
import { decodePosition, encodePosition } from "../src/log/position.ts";
import { covers } from "../src/log/snapshot.ts";
import { byExternalId, byId, eventsOf, lastEventOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { startOther, startProxy } from "./wall-harness.ts";
import { beginning, watching } from "./watchers.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

/** The current position. */
const now = async (client: EntityClient) => (await client.entities.listEntities({ pageSize: 1 })).watchPosition;

/** Creates `count` persons, many in a transaction. */
async function importPersons(client: EntityClient, count: number, name = "Ana"): Promise<void> {
  async function* rows() {
    for (let i = 0; i < count; i++) {
      yield { entity: { type: EntityType.PERSON, name, countryCode: "BR", externalId: unique("row") } };
    }
  }
  let done = 0n;
  for await (const { progress } of client.entities.importEntities(rows())) done = progress?.created ?? 0n;
  expect(done).toBe(BigInt(count));
}

const rename = (client: EntityClient, entity: { id: string }, name: string) =>
  client.entities.updateEntity({ lookup: byId(entity), entity: { name } });

/** The refusal that a watch begins with. */
async function watchRefusal(client: EntityClient, request: Parameters<typeof watching>[1]) {
  return refusal(
    (async () => {
      for await (const _ of client.entities.watchEntities(request ?? {})) return;
    })(),
  );
}

const ids = (events: readonly EntityEvent[]) => events.map(({ id }) => id);

describe("events", () => {
  it("rule 64: entity.updated comes after an effective update, with everything that the log says of it", async () => {
    const { client } = await service.newOrganization();
    const externalId = unique("watch");
    const entity = await newPerson(client, { externalId });
    await using watch = watching(client);
    await watch.started();
    await client.entities.updateEntity({
      lookup: byId(entity),
      entity: { status: EntityStatus.BLOCKED },
      reason: "fraud",
      requestId: randomUUID(),
    });
    await watch.until(() => watch.events().length === 1);
    const [event] = watch.events();
    expect(event).toEqual(await lastEventOf(client, entity));
    expect(event).toMatchObject({
      event: "entity.updated",
      type: EventType.ATTRIBUTE_CHANGED,
      entityId: entity.id,
      externalIds: [externalId],
      updatedFields: ["status"],
      previousValues: { status: "pending" },
      newValues: { status: "blocked" },
      reason: "fraud",
      source: "api",
    });
    expect(event?.actor).not.toBe("");
    expect(event?.requestId).not.toBe("");
    expect(event?.recordedAt).toBeDefined();
  });

  it("rules 64, 77: each kind has its name, and nothing comes of a write that failed, was rehearsed or changed nothing", async () => {
    const { client } = await service.newOrganization();
    await using watch = watching(client);
    await watch.started();
    const reason = "because we must";
    const entity = await newPerson(client);
    await rename(client, entity, "Ana Souza");
    await refusal(client.entities.updateEntity({ lookup: byId(entity), entity: { status: EntityStatus.BLOCKED } }));
    await client.entities.updateEntity({ lookup: byId(entity), entity: { name: "Eva" }, validateOnly: true });
    await client.entities.updateEntity({ lookup: byId(entity), entity: { status: EntityStatus.ACTIVE } });
    await client.entities.assignExternalId({ lookup: byId(entity), externalId: unique("assigned") });
    await client.entities.deleteEntity({ lookup: byId(entity), reason });
    await client.entities.undeleteEntity({ lookup: byId(entity), reason });
    await watch.until(() => watch.events().length >= 5);
    await sleep(300);
    expect(watch.events().map(({ event }) => event)).toEqual([
      "entity.created",
      "entity.updated",
      "entity.updated",
      "entity.deleted",
      "entity.undeleted",
    ]);
    expect(watch.events()).toEqual(await eventsOf(client, entity));
  });

  it("come from the commits of other processes too, soon", async () => {
    const organization = await service.newOrganization();
    await using other = await startOther(service);
    const elsewhere = other.client(organization.apiKey);
    await using watch = watching(organization.client);
    await watch.started();
    for (let i = 1; i <= 3; i++) {
      const entity = await newPerson(elsewhere);
      const from = performance.now();
      await watch.until(() => watch.events().some(({ entityId }) => entityId === entity.id));
      expect(performance.now() - from).toBeLessThan(1_000);
      await sleep(400);
    }
  });

  it("come from this process's own commits at once, without the wait for the next poll", async () => {
    const homes = await Promise.all(Array.from({ length: 16 }, () => service.newOrganization()));
    await using watches = new AsyncDisposableStack();
    const each = homes.map(({ client }) => ({ client, watch: watches.use(watching(client)) }));
    await Promise.all(each.map(({ watch }) => watch.started()));
    // Long enough for the polls to slow down: from then on the next one comes within 150 ms, after 75 as often as not.
    await sleep(1_000);
    const took: number[] = [];
    for (const { client, watch } of each) {
      await newPerson(client);
      const from = performance.now();
      await watch.until(() => watch.events().length === 1);
      took.push(performance.now() - from);
    }
    expect(took.filter((ms) => ms < 75).length, `of ${took.map(Math.round)}`).toBeGreaterThanOrEqual(14);
  });

  it("rules 2, 3: those of another organization never come", async () => {
    const [a, b] = [await service.newOrganization(), await service.newOrganization()];
    await using watchA = watching(a.client);
    await using watchB = watching(b.client, { position: await now(b.client) });
    await Promise.all([watchA.started(), watchB.started()]);
    await Promise.all(Array.from({ length: 20 }, (_, i) => newPerson([a, b][i % 2]?.client ?? a.client)));
    await Promise.all([watchA, watchB].map((watch) => watch.until(() => watch.events().length >= 10)));
    await sleep(200);
    for (const [watch, { client }] of [
      [watchA, a],
      [watchB, b],
    ] as const) {
      const { events } = await client.entities.listEntityEvents({});
      expect(ids(watch.events()).toSorted()).toEqual(ids(events).toSorted());
    }
  });
});

describe("filters", () => {
  it("by type of event, by type of entity, by entity, joined by AND", async () => {
    const { client } = await service.newOrganization();
    const person = await newPerson(client, { externalId: "one" });
    const position = await now(client);
    const company = await newPerson(client, { type: EntityType.COMPANY, externalId: "two" });
    for (const entity of [person, company]) await rename(client, entity, "Other");
    const { ATTRIBUTE_CHANGED, CREATED } = EventType;
    const cases: [Parameters<typeof watching>[1], string[]][] = [
      [{}, ["two created", "one updated", "two updated"]],
      [{ types: [ATTRIBUTE_CHANGED] }, ["one updated", "two updated"]],
      [{ types: [CREATED, ATTRIBUTE_CHANGED] }, ["two created", "one updated", "two updated"]],
      [{ entityTypes: [EntityType.PERSON] }, ["one updated"]],
      [{ entityTypes: [EntityType.COMPANY], types: [CREATED] }, ["two created"]],
      [{ lookup: byId(company) }, ["two created", "two updated"]],
      [{ lookup: byExternalId("one"), types: [CREATED] }, []],
    ];
    for (const [filter, expected] of cases) {
      await using watch = watching(client, { ...filter, position });
      // The checkpoint means that all of them have arrived.
      await watch.started();
      const seen = watch.events().map(({ externalId, event }) => `${externalId} ${event.replace("entity.", "")}`);
      expect(seen, JSON.stringify(filter)).toEqual(expected);
    }
  });

  it("an entity that is watched stays the same one, whatever its external id becomes", async () => {
    const { client } = await service.newOrganization();
    const entity = await newPerson(client, { externalId: "before" });
    await using watch = watching(client, { lookup: byExternalId("before") });
    await watch.started();
    const reason = "because we must";
    await client.entities.changeExternalId({ lookup: byId(entity), newExternalId: "after", reason });
    await newPerson(client, { externalId: "before" });
    await rename(client, entity, "Other");
    await watch.until(() => watch.events().length >= 2);
    expect(watch.events().map(({ entityId, externalId }) => [entityId, externalId])).toEqual([
      [entity.id, "after"],
      [entity.id, "after"],
    ]);
  });

  it("rule 13: what is no filter is refused before anything is sent", async () => {
    const { client } = await service.newOrganization();
    expect(await watchRefusal(client, { types: [99 as EventType] })).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["types[0]"],
    });
    expect(await watchRefusal(client, { entityTypes: [0] })).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity_types[0]"],
    });
    expect(await watchRefusal(client, { lookup: byExternalId("nobody") })).toMatchObject({ reason: "NOT_FOUND" });
    expect(await watchRefusal(client, { lookup: byExternalId("nobody"), position: "x" })).toMatchObject({
      reason: "POSITION_INVALID",
    });
  });
});

describe("checkpoints", () => {
  it("the first comes at once; then one every 5 s while nothing else does, each further on", async () => {
    const organization = await service.newOrganization();
    const { client } = organization;
    await using watch = watching(client, { types: [EventType.DELETED] });
    await watch.started();
    const from = performance.now();
    // None of these fits the filter; the position moves on all the same.
    const [entity] = await Promise.all([newPerson(client), newPerson(client)]);
    await watch.until((messages) => messages.length === 2, 7_000);
    const took = performance.now() - from;
    expect(took).toBeGreaterThan(4_000);
    expect(took).toBeLessThan(6_000);
    expect(watch.events()).toEqual([]);
    const [first, second] = watch.messages.map(({ position }) => decodePosition(organization.id, position));
    expect(second?.from.xmax).toBeGreaterThan(first?.from.xmax ?? 0n);
    await using later = watching(client, { position: watch.position() });
    await rename(client, entity, "Other");
    await later.until(() => later.events().length > 0);
    expect(later.events().map(({ event }) => event)).toEqual(["entity.updated"]);
  });
});

describe("positions", () => {
  it("behind every message the rest goes on, whether its transaction had one event or a hundred", async () => {
    const { client } = await service.newOrganization();
    await using watch = watching(client);
    await watch.started();
    await importPersons(client, 120);
    const entity = await newPerson(client);
    for (let i = 0; i < 5; i++) await rename(client, entity, `Name ${i}`);
    await watch.until(() => watch.events().length === 126);
    const all = ids(watch.events());
    for (const at of [0, 1, 57, 119, 120, 123, 126]) {
      await using rest = watching(client, { position: watch.messages[at]?.position ?? "" });
      await rest.started();
      expect(ids(rest.events()), `behind message ${at}`).toEqual(all.slice(at));
    }
  });

  it("a watch from long ago gets everything in pages, in order, and may be broken off and resumed within", async () => {
    const { client } = await service.newOrganization();
    const entity = await newPerson(client);
    const position = await now(client);
    await importPersons(client, 700);
    await rename(client, entity, "Between");
    await importPersons(client, 700, "Eva");
    await rename(client, entity, "Last");
    await using watch = watching(client, { position });
    await watch.started();
    const all = watch.events();
    expect(all).toHaveLength(1402);
    const { events } = await client.entities.listEntityEvents({ pageSize: 1000 });
    expect(ids(all.slice(-1000))).toEqual(ids(events.toReversed()));
    for (const at of [10, 499, 500, 501, 1_000, 1_401]) {
      await using rest = watching(client, { position: watch.messages[at]?.position ?? "" });
      await rest.started();
      expect(ids(rest.events()), `behind message ${at}`).toEqual(ids(all.slice(at + 1)));
    }
    // A large number of live events comes in pages too.
    await using live = watching(client);
    await live.started();
    await importPersons(client, 1_300);
    await live.until(() => live.events().length === 1_300);
    expect(new Set(ids(live.events())).size).toBe(1_300);
  });

  it("garbage, an edited one and another organization's: POSITION_INVALID", async () => {
    const [a, b] = [await service.newOrganization(), await service.newOrganization()];
    const position = await now(a.client);
    const edited = Array.from(position, (_, i) => {
      const other = position[i] === "A" ? "B" : "A";
      return `${position.slice(0, i)}${other}${position.slice(i + 1)}`;
    });
    const garbage = ["x", "=", " ", "AAAA", "%00", `${position}A`, `${position}=`, ` ${position}`, position.slice(1)];
    const bytes = Buffer.from(position, "base64url");
    const numbers = bytes.subarray(21, -1);
    // A valid checksum is not enough: anybody can compute it, so the content is checked too.
    const forged = [
      ["nothing", 4],
      ["another version", 4, [9], bytes.subarray(5)],
      ["the end within the epoch", 12],
      ["no snapshot", 21],
      ["a snapshot from before every transaction", 21, [0, 0, 0]],
      ["running transactions that are not there", 21, [5, 3, 2, 1]],
      ["running transactions that are not in order", 21, [5, 2, 1, 2, 0]],
      ["running transactions from before every transaction", 21, [5, 1, 6, 0]],
      ["very many running transactions", 21, [5, ...Array(8).fill(0xff), 0x7f]],
      ["a number that is too large", 21, Array(12).fill(0xff)],
      ["a number in more bytes than it takes", 21, [0x85, 0x00, 0, 0]],
      ["another kind", 21, numbers, [3]],
      ["a range that ends before it begins", 21, numbers, [1, 1, 0], Array(32).fill(0)],
      ["the end within a range", 21, numbers, [1], numbers, Array(31).fill(0)],
      ["a time of nobody's calendar", 21, numbers, [1], numbers, Array(16).fill(0x7f), Array(16).fill(0)],
      ["more than a position", 21, numbers, [0], [0]],
    ].map(([, length, ...rest]) => {
      const made = Buffer.concat([
        bytes.subarray(0, length as number),
        ...rest.map((one) => Buffer.from(one as number[])),
      ]);
      made.writeUInt32BE(crc32(made.subarray(4), crc32(a.id)));
      return made.toString("base64url");
    });
    for (const text of [...edited.filter((_, i) => i % 9 === 0), ...garbage, ...forged]) {
      expect(await watchRefusal(a.client, { position: text }), text).toMatchObject({
        code: Code.InvalidArgument,
        reason: "POSITION_INVALID",
        fields: ["position"],
      });
    }
    expect(await watchRefusal(b.client, { position })).toMatchObject({ reason: "POSITION_INVALID" });
    expect(await watchRefusal(a.client, { position: "A".repeat(4097) })).toMatchObject({
      reason: "VALIDATION_ERROR",
      metadata: { limit: "4096" },
    });
  });

  it("one of the future and one of another epoch: POSITION_EXPIRED, never a silent skip", async () => {
    const { client, id } = await service.newOrganization();
    const position = decodePosition(id, await now(client));
    const { from } = position;
    const place = { after: { recordedAt: 1n, id: randomUUID() }, until: 2n };
    const bad = {
      future: { ...position, from: { ...from, xmax: from.xmax + 1_000_000n } },
      "one that has seen what is not committed": { ...position, from: { xmax: from.xmax + 1n, running: [] } },
      "the future within a range": { ...position, within: { to: { xmax: from.xmax + 9_999n, running: [] }, ...place } },
      "another epoch": { ...position, epoch: randomUUID() },
      "another epoch within a range": { ...position, epoch: randomUUID(), within: { to: from, ...place } },
    };
    for (const [what, one] of Object.entries(bad)) {
      expect(await watchRefusal(client, { position: encodePosition(id, one) }), what).toMatchObject({
        code: Code.OutOfRange,
        reason: "POSITION_EXPIRED",
      });
    }
  });

  it("one that would name very many running transactions names an older set instead: nothing is lost, it is not refused", async () => {
    const { client, id } = await service.newOrganization();
    const first = decodePosition(id, await now(client));
    const many = (count: number) => {
      const running = Array.from({ length: count }, (_, i) => first.from.xmax + BigInt(i * 2));
      return { xmax: first.from.xmax + 100_000n, running };
    };
    const within = { to: many(2_900), after: { recordedAt: 1n << 50n, id }, until: 1n << 51n };
    const text = encodePosition(id, { ...first, from: many(3_000), within });
    expect(text.length).toBeLessThanOrEqual(4_096);
    const decoded = decodePosition(id, text);
    expect(decoded.from.running.length).toBeGreaterThan(100);
    // All that the decoded position claims to have seen was seen, so the original covers it; and the range is one.
    expect(covers(many(3_000), decoded.from)).toBe(true);
    expect(covers(decoded.within?.to ?? decoded.from, decoded.from)).toBe(true);
    const few = { ...first, from: { ...many(90), xmax: first.from.xmax + 200n } };
    expect(decodePosition(id, encodePosition(id, few))).toEqual(few);
  });
});

describe("a list and a watch from its watch_position", () => {
  it("miss nothing while others write: the copy is the original", async () => {
    const { client } = await service.newOrganization();
    const entities = await Promise.all(Array.from({ length: 40 }, () => newPerson(client)));
    let isOver = false;
    const write = async (n: number) => {
      for (let i = 0; !isOver; i++) {
        const entity = entities[(i * 7 + n) % entities.length] as { id: string };
        await rename(client, entity, `Name ${n} ${i}`);
        if (i % 5 === 0) await newPerson(client);
      }
    };
    const writers = [1, 2, 3, 4].map(write);
    await sleep(100);

    const copy = new Map<string, string>();
    const positions = new Set<string>();
    let pageToken = "";
    do {
      const page = await client.entities.listEntities({ pageSize: 10, pageToken });
      for (const { id, name } of page.entities) copy.set(id, name);
      positions.add(page.watchPosition);
      pageToken = page.nextPageToken;
      await sleep(20);
    } while (pageToken !== "" && copy.size < 300);
    expect([...positions], "that of the first page, on every page").toHaveLength(1);
    await using watch = watching(client, { position: [...positions][0] ?? "" });
    await watch.started();
    await sleep(300);
    isOver = true;
    await Promise.all(writers);
    // The last event of the log: once it has arrived, all have.
    const last = await newPerson(client);
    await watch.until(() => watch.events().some(({ entityId }) => entityId === last.id));
    for (const { entityId, newValues } of watch.events()) {
      const { name } = newValues as { name?: string };
      if (name !== undefined) copy.set(entityId, name);
    }
    const original = new Map<string, string>();
    pageToken = "";
    do {
      const page = await client.entities.listEntities({ pageSize: 1000, pageToken });
      for (const { id, name } of page.entities) original.set(id, name);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(Object.fromEntries(copy)).toEqual(Object.fromEntries(original));
    expect(watch.events().length).toBeGreaterThan(1);
  });
});

describe("the end of a watch", () => {
  it("a revoked key ends it within 5 s, here and on other processes", async () => {
    const organization = await service.newOrganization();
    const key = await service.client.organizations.createApiKey({
      organizationId: organization.id,
      displayName: "to be revoked",
      scopes: ["entities:read"],
    });
    await using other = await startOther(service);
    await using here = watching(createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: key.secret }));
    await using there = watching(other.client(key.secret));
    await Promise.all([here.started(), there.started()]);
    const from = performance.now();
    await organization.client.organizations.revokeApiKey({ apiKeyId: key.apiKey?.id ?? "" });
    for (const watch of [here, there]) {
      const error = await watch.ended;
      expect(errorInfo(error)?.reason).toBe("UNAUTHENTICATED");
      expect(error?.code).toBe(Code.Unauthenticated);
    }
    expect(performance.now() - from).toBeLessThan(5_000);
  });

  it("a process that drains ends it with UNAVAILABLE, and another one goes on from the position", async () => {
    const organization = await service.newOrganization();
    const draining = await startOther(service, { config: { drainTimeoutMs: 10_000 } });
    await using watch = watching(draining.client(organization.apiKey));
    await watch.started();
    const first = await newPerson(organization.client);
    await watch.until(() => watch.events().length === 1);
    const from = performance.now();
    const drained = draining[Symbol.asyncDispose]();
    const error = await watch.ended;
    expect(error?.code).toBe(Code.Unavailable);
    expect(errorInfo(error)?.reason).toBe("DATABASE_UNAVAILABLE");
    await drained;
    expect(performance.now() - from).toBeLessThan(5_000);
    const second = await newPerson(organization.client);
    await using rest = watching(organization.client, { position: watch.position() });
    await rest.started();
    expect([watch, rest].map((one) => one.events().map(({ entityId }) => entityId))).toEqual([[first.id], [second.id]]);
  });

  it("a reader who does not read is ended with WATCH_TOO_SLOW and its position, and costs the others nothing", async () => {
    const organization = await service.newOrganization();
    const { client } = organization;
    const position = await now(client);
    // A separate connection, as another process would have.
    const sleeper = createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: organization.apiKey });
    const stream = sleeper.entities.watchEntities({ position })[Symbol.asyncIterator]();
    const isCheckpoint = (await stream.next()).value?.event === undefined;
    expect(isCheckpoint).toBe(true);
    await using steady = watching(client, { position });
    await steady.started();
    // More than its buffers and the pages kept for it.
    await importPersons(client, 7_000, "A name that takes some room on the wire ".repeat(4));
    await steady.until(() => steady.events().length === 7_000);

    const seen: string[] = [];
    const { reason, code, metadata } = await refusal(
      (async () => {
        for (let next = await stream.next(); !next.done; next = await stream.next()) {
          if (next.value.event !== undefined) seen.push(next.value.event.id);
        }
      })(),
    );
    expect({ reason, code }).toEqual({ reason: "WATCH_TOO_SLOW", code: Code.ResourceExhausted });
    expect(seen.length).toBeLessThan(6_000);
    await using rest = watching(client, { position: metadata.position ?? "" });
    await rest.started();
    expect([...seen, ...ids(rest.events())]).toEqual(ids(steady.events()));
  });

  it("too many watches: OVERLOADED, while other calls go on, and a place is free when one ends", async () => {
    await using own = await startService({ config: { maxWatches: 2, maxInFlight: 4 } });
    await using first = watching(own.client);
    await using second = watching(own.client);
    await Promise.all([first.started(), second.started()]);
    expect(await watchRefusal(own.client, {})).toMatchObject({ reason: "OVERLOADED", code: Code.Unavailable });
    await newPerson(own.client);
    await second.stop();
    const again = async () => {
      await using third = watching(own.client);
      return await third.started();
    };
    await expect.poll(() => again().catch(() => ""), { timeout: 10_000 }).not.toBe("");
  });

  it("a database that is away for a moment ends nothing; one that stays away ends it with UNAVAILABLE", async () => {
    const organization = await service.newOrganization();
    await using proxy = await startProxy();
    await using other = await startOther(service, { address: proxy });
    await using watch = watching(other.client(organization.apiKey));
    await watch.started();
    await proxy.refuse();
    await sleep(300);
    await proxy.accept();
    await newPerson(organization.client);
    await watch.until(() => watch.events().length === 1);
    await proxy.refuse();
    const error = await watch.ended;
    expect(errorInfo(error)?.reason).toBe("DATABASE_UNAVAILABLE");
    await proxy.accept();
    await newPerson(organization.client);
    await using rest = watching(other.client(organization.apiKey), { position: watch.position() });
    await rest.until(() => rest.events().length === 1);
  });

  it("many come and go at any moment: nothing is left of them", async () => {
    const organization: TestOrganization = await service.newOrganization();
    const { client } = organization;
    const position = await beginning(service, client);
    let isOver = false;
    const writing = (async () => {
      while (!isOver) await newPerson(client);
    })();
    await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const watch = watching(client, i % 2 === 0 ? { position } : {});
        await sleep(i * 10);
        await watch.stop();
      }),
    );
    isOver = true;
    await writing;
    await expect
      .poll(async () => (await (await fetch(`${service.baseUrl}/metrics`)).text()).match(/in_flight (\d+)/)?.[1], {
        timeout: 10_000,
      })
      .toBe("0");
  });
});
