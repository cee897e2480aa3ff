// What the TypeScript client promises beyond single calls: lookups, pages, watches and copies that go on, and all of it over
// fetch. The numbers are those of its README.
import { setTimeout as sleep } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { keepCopy } from "../clients/typescript/copy.ts";
import {
  Code,
  ConnectError,
  type CopyStore,
  createEntityClient,
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityType,
  ErrorInfoSchema,
  errorInfo,
  isReason,
  lookup,
  WatchEntitiesResponseSchema,
} from "../clients/typescript/index.ts";
import { createEntityClient as createWebClient } from "../clients/typescript/web.ts";
import { decodePosition, encodePosition } from "../src/log/position.ts";
import { type Balancer, startBalancer } from "./clients/balancer.ts";
import { serving } from "./clients/scripted-server.ts";
import { envelope } from "./frames.ts";
import { byId, newPerson, unique } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";
import { startOther } from "./wall-harness.ts";

let service: TestService;
let balancer: Balancer;
beforeAll(async () => {
  service = await startService();
  balancer = await startBalancer([service.port]);
});
afterAll(() => service[Symbol.asyncDispose]());

const clientOf = ({ apiKey }: { apiKey: string }, address = balancer.address) =>
  createEntityClient({ baseUrl: `http://${address}`, apiKey });

/** A position that was given before the database was replaced. */
async function expired({ id, client }: TestOrganization): Promise<string> {
  const { watchPosition } = await client.entities.listEntities({});
  return encodePosition(id, { ...decodePosition(id, watchPosition), epoch: crypto.randomUUID() });
}

describe("client 10: short words for what is asked often", () => {
  it("lookups by each key, `upsert`, and `isReason`", async () => {
    const { entities, upsert } = clientOf(await service.newOrganization());
    const ana = {
      externalId: "crm-1",
      type: EntityType.PERSON,
      name: "Ana",
      countryCode: "AR",
      taxId: "20-12345678-6",
    };
    const made = await upsert(ana);
    expect(made).toMatchObject({ created: true, entity: { externalId: "crm-1", name: "Ana" } });
    const blocked = await upsert({ externalId: "crm-1", status: EntityStatus.BLOCKED }, { reason: "Sanctions" });
    expect(blocked).toMatchObject({ created: false, updatedFields: ["status"], entity: { id: made.entity?.id } });
    for (const one of [lookup.id(made.entity?.id ?? ""), lookup.externalId("crm-1"), lookup.taxId("20.12345678.6")]) {
      expect((await entities.getEntity({ lookup: one })).entity?.id).toBe(made.entity?.id);
    }
    const refused = await upsert({ externalId: "crm-1", name: "Eva" }, { etag: made.entity?.etag ?? "" }).catch(
      (error: unknown) => error,
    );
    expect(isReason(refused, "ETAG_MISMATCH")).toBe(true);
    expect(isReason(refused, "NOT_FOUND", "ETAG_MISMATCH")).toBe(true);
    expect(isReason(refused, "NOT_FOUND")).toBe(false);
    expect(isReason(new Error("other"), "NOT_FOUND")).toBe(false);
    const { results } = await entities.batchGetEntities({ lookups: [lookup.externalId("nobody")] });
    expect(isReason(results[0]?.result.value, "NOT_FOUND")).toBe(true);
  });
});

describe("client 11: a list", () => {
  it("awaited is a page, and in a loop the items of all pages, or the pages", async () => {
    const organization = await service.newOrganization();
    const { entities } = clientOf(organization);
    const ids: string[] = [];
    for (let i = 0; i < 7; i++) ids.push((await newPerson(organization.client)).id);
    const page = await entities.listEntities({ pageSize: 3 });
    expect(page.entities.map(({ id }) => id)).toEqual(ids.slice(0, 3));
    const all: string[] = [];
    for await (const { id } of entities.listEntities({ pageSize: 3 })) all.push(id);
    expect(all).toEqual(ids);
    const sizes: number[] = [];
    for await (const { entities: some } of entities.listEntities({ pageSize: 3 }).pages()) sizes.push(some.length);
    expect(sizes).toEqual([3, 3, 1]);
    const refused = (async () => {
      for await (const _ of entities.listEntities({ pageToken: "nonsense" }));
    })();
    await expect(refused).rejects.toMatchObject({ code: Code.InvalidArgument });
  });

  it("is one in every service, whatever its items are called", async () => {
    const client = clientOf(service.organization) as unknown as Record<string, Record<string, (r: object) => object>>;
    const lists = SERVICES.flatMap(({ methods }) => methods).filter(
      ({ input, output }) => "pageToken" in input.field && "nextPageToken" in output.field,
    );
    expect(lists.length).toBeGreaterThan(15);
    for (const { localName, output } of lists) {
      const of = Object.values(client).find((calls) => typeof calls === "object" && localName in calls);
      const call = of?.[localName]?.({}) as Promise<unknown> & Partial<AsyncIterable<unknown>>;
      call.catch(() => {});
      const items = output.fields.filter(({ fieldKind, name }) => fieldKind === "list" && name !== "keys");
      // ReplayWebhookDeliveries answers a number; a list with two lists must say which has its items.
      expect({ localName, isList: Symbol.asyncIterator in call }).toEqual({ localName, isList: items.length === 1 });
    }
  });
});

/** Cuts every connection again and again, after ever longer pauses: however slow a machine is, it gets ahead between two. */
function cutting(pauseMs: number): Disposable {
  let timer: NodeJS.Timeout;
  const next = (ms: number) => {
    timer = setTimeout(() => {
      balancer.cut();
      next(ms * 1.1);
    }, ms);
  };
  next(pauseMs);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

/** Renames the entity so often, one after the other. */
async function rename(client: EntityClient, entity: Entity, times: number, pauseMs = 5): Promise<void> {
  for (let i = 0; i < times; i++) {
    await client.entities.updateEntity({ lookup: byId(entity), entity: { name: `Ana ${i}` } });
    await sleep(pauseMs);
  }
}

describe("client 12: a watch", () => {
  it("goes on where it was, however often its connection is cut: every event once, in order", async () => {
    const organization = await service.newOrganization();
    const ana = await newPerson(organization.client);
    const { watchPosition: position } = await organization.client.entities.listEntities({});
    using _ = cutting(50);
    const reconnects: ConnectError[] = [];
    const renaming = rename(organization.client, ana, 120);
    const versions: bigint[] = [];
    const positions = new Set<string>();
    const watch = clientOf(organization).watch({ position, onReconnect: (error) => reconnects.push(error) });
    for await (const { event, position: next } of watch) {
      positions.add(next);
      if (event === undefined) continue;
      versions.push(event.entityVersion);
      if (event.entityVersion === 121n) break;
    }
    await renaming;
    expect(versions).toEqual(Array.from({ length: 120 }, (_, i) => BigInt(i + 2)));
    expect(reconnects.length).toBeGreaterThan(0);
    expect(positions.has("")).toBe(false);
  });

  it("goes on at another process when its own ends", async () => {
    const organization = await service.newOrganization();
    const ana = await newPerson(organization.client);
    const [one, two] = [await startOther(service), await startOther(service)];
    const { watch } = createEntityClient({ baseUrl: [one.baseUrl, two.baseUrl], apiKey: organization.apiKey });
    const names: string[] = [];
    let began = false;
    for await (const { event } of watch()) {
      if (!began) {
        began = true;
        void rename(organization.client, ana, 40, 20);
      }
      names.push(...(event === undefined ? [] : [String((event.newValues as { name?: string })?.name)]));
      if (names.length === 10) void one[Symbol.asyncDispose]();
      if (names.length === 40) break;
    }
    expect(names).toEqual(Array.from({ length: 40 }, (_, i) => `Ana ${i}`));
    await two[Symbol.asyncDispose]();
  });

  it("lists again where its position has expired, if it is told how, and else throws", async () => {
    const organization = await service.newOrganization();
    const position = await expired(organization);
    const { watch, entities } = clientOf(organization);
    const first = async (options: Parameters<typeof watch>[0]) => {
      for await (const message of watch(options)) return message;
      return undefined;
    };
    const refused = await first({ position }).catch((error: unknown) => error);
    expect(isReason(refused, "POSITION_EXPIRED")).toBe(true);
    let listed = 0;
    const relist = async () => {
      listed++;
      return (await entities.listEntities({})).watchPosition;
    };
    expect((await first({ position, relist }))?.position).not.toBe("");
    expect(listed).toBe(1);
    // Not without end.
    const again = await first({ position, relist: async () => position }).catch((error: unknown) => error);
    expect(isReason(again, "POSITION_EXPIRED")).toBe(true);
  });

  it("throws what does not pass: a position that is none, a key that is revoked", async () => {
    const organization = await service.newOrganization();
    const invalid = clientOf(organization).watch({ position: "nonsense" })[Symbol.asyncIterator]().next();
    expect(isReason(await invalid.catch((error: unknown) => error), "POSITION_INVALID")).toBe(true);
    const unknown = clientOf({ apiKey: "es_nobody" }).watch()[Symbol.asyncIterator]().next();
    await expect(unknown).rejects.toMatchObject({ code: Code.Unauthenticated });
  });

  it("ends by its signal without an error, also in the pause before it comes again", async () => {
    const organization = await service.newOrganization();
    for (const when of ["watching", "pausing"] as const) {
      const leaving = new AbortController();
      const address = when === "pausing" ? "127.0.0.1:1" : balancer.address;
      const onReconnect = () => leaving.abort();
      for await (const _ of clientOf(organization, address).watch({ signal: leaving.signal, onReconnect })) {
        leaving.abort();
      }
      expect(leaving.signal.aborted).toBe(true);
    }
  });

  it("gives up a connection that brings nothing, and comes again from the same position", async () => {
    const asked: Buffer[] = [];
    await using server = await serving((stream, index) => {
      stream.on("data", (chunk: Buffer) => asked.push(chunk));
      stream.respond({ ":status": 200, "content-type": "application/grpc+proto" }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
      const message = create(WatchEntitiesResponseSchema, { position: `position-${index}` });
      stream.write(envelope(toBinary(WatchEntitiesResponseSchema, message)));
    });
    const positions: string[] = [];
    for await (const { position } of server.client().watch({ silenceMs: 1_000 })) {
      positions.push(position);
      if (positions.length === 3) break;
    }
    expect(positions).toEqual(["position-0", "position-1", "position-2"]);
    expect(String(asked[1])).toContain("position-0");
    expect(String(asked[2])).toContain("position-1");
  });
});

async function callsInFlight(): Promise<number> {
  const text = await (await fetch(`${service.baseUrl}/metrics`)).text();
  return Number(/^entity_service_rpc_in_flight (\d+)/m.exec(text)?.[1]);
}

/** A copy in memory, as an application would have it in its database. */
function memory() {
  const rows = new Map<string, Entity>();
  const log = { replaced: 0, applied: 0, versions: [] as string[] };
  let position: string | undefined;
  const store: CopyStore = {
    load: async () => position,
    async replace(pages, at) {
      const fresh: Entity[] = [];
      for await (const page of pages) fresh.push(...page);
      rows.clear();
      for (const entity of fresh) rows.set(entity.id, entity);
      position = at;
      log.replaced++;
    },
    async apply(changes, at) {
      for (const { event, entity } of changes) {
        log.versions.push(`${event.entityId} ${event.entityVersion}`);
        if (entity === undefined) rows.delete(event.entityId);
        else rows.set(entity.id, entity);
      }
      log.applied++;
      position = at;
    },
  };
  return { store, rows, log, position: () => position, setPosition: (at: string) => (position = at) };
}

/** Without what no event tells of. */
const shown = (entities: Iterable<Entity>) =>
  [...entities]
    .map((entity) => ({
      ...entity,
      externalIds: entity.externalIds.map((id) => ({ ...id, trackedSince: undefined, lastResolvedOn: "" })),
    }))
    .sort((a, b) => (a.id < b.id ? -1 : 1));

async function all({ client }: TestOrganization): Promise<ReturnType<typeof shown>> {
  const entities: Entity[] = [];
  for await (const entity of client.entities.listEntities({ showDeleted: true, pageSize: 1000 })) entities.push(entity);
  return shown(entities);
}

describe("client 13: a copy", () => {
  it("is made, kept through lost connections and another process, and is what the service shows", async () => {
    const organization = await service.newOrganization();
    const { client } = organization;
    const people: Entity[] = [];
    for (let i = 0; i < 30; i++) people.push(await newPerson(client, { externalId: `copied-${i}` }));
    const { store, rows, log } = memory();
    const over = new AbortController();
    const reasons: string[] = [];
    const onReconnect = (error: ConnectError) =>
      void reasons.push(errorInfo(error)?.reason ?? (Code[error.code] as string));
    const keeping = clientOf(organization).keepCopy({ store, signal: over.signal, onReconnect });
    const cuts = cutting(100);
    await expect.poll(() => log.replaced, { timeout: 30_000 }).toBe(1);
    for (let i = 0; i < 25; i++) {
      const [one, two] = [people[i] as Entity, people[i + 1] as Entity];
      if (i % 5 === 0) await client.entities.deleteEntity({ lookup: byId(one), reason: "gone for good" });
      else if (i % 5 === 2) {
        const merged = await client.entities.mergeEntities({
          ...{ primary: byId(one), secondary: byId(two), reason: "the same person" },
        });
        if (i % 10 === 2) await client.entities.unmergeEntities({ mergeId: merged.mergeId, reason: "not the same" });
      } else if (i % 5 !== 3) await client.entities.updateEntity({ lookup: byId(one), entity: { name: `Eva ${i}` } });
      await newPerson(client, { externalId: `later-${i}` });
      await sleep(20);
    }
    cuts[Symbol.dispose]();
    await expect.poll(() => shown(rows.values()), { timeout: 20_000, interval: 200 }).toEqual(await all(organization));
    expect(reasons.length).toBeGreaterThan(0);
    // Each event was applied once.
    expect(new Set(log.versions).size).toBe(log.versions.length);
    over.abort();
    await keeping;
  });

  it("goes on from its stored position, and is made anew where that has expired", async () => {
    const organization = await service.newOrganization();
    await newPerson(organization.client);
    const { store, rows, log, position, setPosition } = memory();
    const { keepCopy } = clientOf(organization);
    const run = async (done: () => boolean) => {
      const over = new AbortController();
      const keeping = keepCopy({ store, signal: over.signal });
      await expect.poll(done, { timeout: 10_000 }).toBe(true);
      over.abort();
      await keeping;
    };
    await run(() => log.replaced === 1 && log.applied > 0);
    expect(position()).not.toBe("");
    await newPerson(organization.client);
    await run(() => rows.size === 2);
    expect(log.replaced).toBe(1);
    setPosition(await expired(organization));
    rows.set("left over", [...rows.values()][0] as Entity);
    await run(() => log.replaced === 2 && log.applied > 0);
    expect(shown(rows.values())).toEqual(await all(organization));
  });

  it("throws what its store throws, says where a store has not read all, and leaves no call behind", async () => {
    const organization = await service.newOrganization();
    await newPerson(organization.client);
    const { keepCopy } = clientOf(organization);
    const { store } = memory();
    const diskFull = () => Promise.reject(new Error("disk full"));
    await expect(keepCopy({ store: { ...store, apply: diskFull } })).rejects.toThrow("disk full");
    await expect(keepCopy({ store: { ...store, load: async () => "", replace: diskFull } })).rejects.toThrow(
      "disk full",
    );
    await expect(keepCopy({ store: { ...store, load: async () => "", replace: async () => {} } })).rejects.toThrow(
      "has not read all",
    );
    await expect.poll(callsInFlight, { timeout: 5_000 }).toBe(0);
  });
});

/** A service whose exports and watches are these. */
const scripted = (calls: Record<"exportEntities" | "watchEntities", () => AsyncIterable<object>>) =>
  calls as unknown as EntityClient["entities"];

/** A stream that fails before its first message. */
const failing = (error: Error): AsyncIterable<object> => ({
  [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(error) }),
});

describe("client 13: a copy of a service that does what a test says", () => {
  it("hands on what ends its watch while a full batch is applied, and to its caller alone", async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => void unhandled.push(reason);
    process.on("unhandledRejection", note);
    const entities = scripted({
      exportEntities: () => failing(new Error("nobody asks for an export")),
      async *watchEntities() {
        for (let i = 1; i <= 200; i++) yield { position: `${i}` };
        throw new ConnectError("revoked", Code.Unauthenticated);
      },
    });
    const applied: string[] = [];
    const store: CopyStore = {
      load: async () => "0",
      replace: async () => {},
      async apply(_, position) {
        await sleep(20);
        applied.push(position);
      },
    };
    await expect(keepCopy(entities, { store })).rejects.toMatchObject({ code: Code.Unauthenticated });
    process.off("unhandledRejection", note);
    expect(applied).toEqual(["200"]);
    expect(unhandled).toEqual([]);
  });

  it("begins anew at once where its position has expired, and after ever longer pauses where the new one has too", async () => {
    using random = vi.spyOn(Math, "random");
    random.mockReturnValue(0.999);
    const over = new AbortController();
    const times = [performance.now()];
    const info = { desc: ErrorInfoSchema, value: { reason: "POSITION_EXPIRED", domain: "entity.v1" } };
    const entities = scripted({
      async *exportEntities() {
        times.push(performance.now());
        yield { position: "1", after: "", done: 1, entities: [] };
      },
      watchEntities() {
        if (times.length === 5) over.abort();
        return failing(new ConnectError("expired", Code.OutOfRange, undefined, [info]));
      },
    });
    const { store } = memory();
    await keepCopy(entities, { store: { ...store, load: async () => "0" }, signal: over.signal });
    const pauses = times.slice(1).map((at, i) => at - (times[i] as number));
    expect(pauses).toHaveLength(4);
    expect(pauses[0]).toBeLessThan(190);
    for (const [i, least] of [190, 390, 790].entries()) expect(pauses[i + 1]).toBeGreaterThan(least);
  });
});

describe("client 14: over fetch", () => {
  it("all is the same, but imports: calls, refusals, pages, retries with a request_id, watches", async () => {
    const organization = await service.newOrganization();
    const bodies: Uint8Array[] = [];
    let failures = 1;
    const flaky: typeof fetch = async (input, init) => {
      if (String(input).includes("UpdateEntity")) {
        bodies.push(init?.body as Uint8Array);
        if (failures-- > 0) throw new TypeError("Failed to fetch");
      }
      return fetch(input, init);
    };
    const client = createWebClient({ baseUrl: service.baseUrl, apiKey: organization.apiKey, fetch: flaky });
    const { entity } = await client
      .with({ actorId: "ana" })
      .upsert({ externalId: unique("web"), type: EntityType.PERSON, name: "Ana", countryCode: "AR" });
    expect(entity?.name).toBe("Ana");
    expect(bodies).toHaveLength(2);
    expect(bodies[1]).toEqual(bodies[0]);
    const refused = await client.entities.getEntity({ lookup: lookup.externalId("nobody") }).catch((e: unknown) => e);
    expect(errorInfo(refused)).toMatchObject({ reason: "NOT_FOUND", metadata: { lookup: "external_id" } });
    const names: string[] = [];
    for await (const { name } of client.entities.listEntities({ pageSize: 1 })) names.push(name);
    expect(names).toEqual(["Ana"]);
    let began = false;
    for await (const { event } of client.watch()) {
      if (!began) await newPerson(organization.client, { name: "Eva" });
      began = true;
      if (event === undefined) continue;
      expect(event.newValues).toMatchObject({ name: "Eva" });
      break;
    }
    const rows = (async function* () {
      yield { entity: { name: "Ana" } };
    })();
    const importing = client.entities.importEntities(rows)[Symbol.asyncIterator]().next();
    await expect(importing).rejects.toThrow("fetch API");
  });
});
