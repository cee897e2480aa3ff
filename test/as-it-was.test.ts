// GetEntity(read_time): an entity as it was, equal to what the write of that time answered, and for ever.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fromJson } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  Designation,
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityType,
  type PersonData,
} from "../clients/typescript/index.ts";
import { createOrm } from "../src/db/orm.ts";
import { readStatements } from "../src/db/transaction.ts";
import type { DomainError } from "../src/domain/errors.ts";
import { createPastReader } from "../src/entities/as-it-was.ts";
import { readHistory } from "../src/log/history.ts";
import type { Slots } from "../src/slots.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { asThen, byExternalId, byId, byTaxId, current, eventsOf, newPerson, unique } from "./given.ts";
import { forget, refusal, startService, type TestService } from "./harness.ts";
import { startOther } from "./wall-harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
});
afterAll(() => service[Symbol.asyncDispose]());

const microsOf = ({ seconds, nanos }: Timestamp) => seconds * 1_000_000n + BigInt(Math.floor(nanos / 1000));
const timeOf = (micros: bigint) => ({ seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1000 });
/** The time of the version in micros. */
const madeAt = ({ updatedAt }: Entity) => microsOf(updatedAt as Timestamp);

async function at(entity: { id: string }, micros: bigint, client: EntityClient = service.client): Promise<Entity> {
  const { entity: past } = await client.entities.getEntity({ lookup: byId(entity), readTime: timeOf(micros) });
  return past as Entity;
}

/** What each kind of write answers for one entity, in the order of its versions. */
async function everyWrite(client: EntityClient): Promise<Entity[]> {
  const { entities } = client;
  const answers: (Entity | undefined)[] = [];
  const created = await newPerson(client, {
    externalId: unique("x"),
    taxId: "529.982.247-25",
    status: EntityStatus.PENDING,
    entityData: {
      kind: {
        case: "person",
        value: { firstName: "Ana", address: { city: "Rio", additional: { zone: 3 } }, additional: { ünï: [1, null] } },
      },
    },
    attributes: { deep: { empty: {}, list: [null, { no: null }], number: 0.1, big: 1e-7 }, __proto__x: "kept" },
    metadata: { flag: false, text: "" },
  });
  const lookup = byId(created);
  answers.push(created);
  const update = async (entity: object, paths: string[] = [], reason = "") =>
    answers.push((await entities.updateEntity({ lookup, entity, updateMask: { paths }, reason })).entity);
  await update({ name: "Ana Lima" });
  await update({ attributes: { deep: null as never, other: { a: null } } });
  await update({}, ["tax_id", "attributes", "metadata"]);
  await update({ taxId: "not one", nationality: "BR", riskMatrixId: created.id });
  await update({}, ["entity_data"]);
  await update({ status: EntityStatus.BLOCKED }, [], "sanctions");
  await update({ entityData: { kind: { case: "person", value: { email: "a@example.com", nationality: "PT" } } } });
  await update({}, ["nationality", "risk_matrix_id", "tax_id"]);
  const externalIds = [unique("b"), unique("a")].map((externalId) => ({ externalId, type: "crm" }));
  answers.push((await entities.addExternalIds({ lookup, externalIds, reason: "another system" })).entity);
  const change = (newExternalId: string, keepPreviousAsAlias: boolean) =>
    entities.changeExternalId({ lookup, newExternalId, keepPreviousAsAlias, reason: "migration" });
  answers.push((await change(unique("new"), true)).entity);
  answers.push((await change(externalIds[1]?.externalId ?? "", false)).entity);
  answers.push((await entities.deleteEntity({ lookup, reason: "duplicate" })).entity);
  answers.push((await entities.undeleteEntity({ lookup, reason: "no duplicate" })).entity);
  return (answers as Entity[]).map(asThen);
}

/** Moves the events of an entity up to a version, and what the entity has of their times, so many seconds back. */
async function age(entity: { id: string }, seconds: number, upTo = 1_000_000): Promise<void> {
  await service.sql(
    `with aged as (
       update entity_event set recorded_at = recorded_at - $2 * interval '1 second'
       where entity_id = $1 and entity_version <= $3 returning entity_id, entity_version, recorded_at)
     update entity e set
       created_at = (select recorded_at from aged where entity_version = 1),
       updated_at = coalesce((select recorded_at from aged a where a.entity_version = e.version), e.updated_at)
     where e.id = $1`,
    [entity.id, seconds, upTo],
  );
}

/** Runs a transaction of the database's owner until it is given back. */
async function holding(...statements: [text: string, values?: unknown[]][]) {
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin isolation level repeatable read");
  for (const [text, values] of statements) await holder.query(text, values);
  let isHeld = true;
  const giveBack = async () => {
    if (!isHeld) return;
    isHeld = false;
    await holder.query("rollback");
    await holder.end();
  };
  return { giveBack, [Symbol.asyncDispose]: giveBack };
}

/** Holds entities as another writer would. */
const hold = (...entities: { id: string }[]) =>
  holding(["select from entity where id = any($1) order by id for no key update", [entities.map(({ id }) => id)]]);

/** Every write stops behind the reading of its clock, before it writes to the table. */
const stall = (table: "entity_event" | "external_id") => holding([`lock table ${table} in share mode`]);

/** How many sessions of the service have waited for a lock for so long. */
async function sessionsWaiting(forMs = 0): Promise<number> {
  const rows = await service.sql(
    `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
     and application_name = 'entity-service' and clock_timestamp() - query_start >= $1 * interval '1 millisecond'`,
    [forMs],
  );
  return rows.length;
}

/** Resolves when there are `count` of them. */
const waiting = (count: number, forMs = 0) => expect.poll(() => sessionsWaiting(forMs)).toBeGreaterThanOrEqual(count);

/** Resolves when a write has stalled for longer than its first attempt, which shares a transaction, may wait. */
const stalling = () => waiting(1, 100);

const clock = async (): Promise<bigint> => {
  const [row] = await service.sql<{ micros: string }>(
    "select (extract(epoch from clock_timestamp()) * 1000000)::bigint as micros",
  );
  return BigInt(row?.micros ?? "");
};

/** Whether it is still under way after a moment. */
const isPending = async (call: Promise<unknown>) =>
  (await Promise.race([call.then(() => "over"), sleep(150, "pending")])) === "pending";

describe("GetEntity with read_time", () => {
  it("rule 115: is equal in every field to what the write answered, from its time until that of the next", async () => {
    const answers = await everyWrite(service.client);
    expect(answers).toHaveLength(14);
    for (const [index, answer] of answers.entries()) {
      expect(await at(answer, madeAt(answer)), `version ${index + 1}`).toEqual(answer);
      const next = answers[index + 1];
      if (next !== undefined) expect(await at(answer, madeAt(next) - 1n), `until version ${index + 2}`).toEqual(answer);
    }
    const last = answers.at(-1) as Entity;
    expect(await at(last, madeAt(last) + 1n)).toEqual(asThen(await current(service.client, last)));
    const events = await eventsOf(service.client, last);
    expect(events.map(({ id }) => id)).toEqual(answers.map(({ etag }) => etag));
  });

  it("rule 115: cuts off what is finer than a microsecond", async () => {
    const [first, second] = await everyWrite(service.client);
    if (first === undefined || second?.updatedAt === undefined) throw new Error("no versions");
    const readTime = { ...second.updatedAt, nanos: second.updatedAt.nanos + 999 };
    const { entity } = await service.client.entities.getEntity({ lookup: byId(first), readTime });
    expect(entity).toEqual(second);
  });

  it("rule 115: later than the clock of the database is VALIDATION_ERROR", async () => {
    const entity = await newPerson(service.client);
    expect(await refusal(at(entity, (await clock()) + 5_000_000n))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["read_time"],
    });
  });

  it("rule 115: waits for a write in flight whose clock was read before, and answers it", async () => {
    const entity = await newPerson(service.client, { externalId: unique("x") });
    await using stalled = await stall("entity_event");
    const write = service.client.entities.updateEntity({ lookup: byId(entity), entity: { name: "Eva" } });
    await stalling();
    const now = await clock();
    const reads = [at(entity, now), at(entity, madeAt(entity))];
    const byName = service.client.entities.getEntity({
      lookup: byExternalId(entity.externalId),
      readTime: timeOf(now),
    });
    const all = Promise.all([Promise.all(reads), byName]);
    await waiting(2);
    expect(await isPending(Promise.race([...reads, byName]))).toBe(true);
    // The write, and one for all three.
    expect(await sessionsWaiting()).toBe(2);
    await stalled.giveBack();
    const [[after, before], named] = await all;
    const written = (await write).entity as Entity;
    expect(written.name).toBe("Eva");
    expect(madeAt(written)).toBeLessThan(now);
    expect(after).toEqual(written);
    expect(named.entity).toEqual(written);
    expect(before).toEqual(entity);
  });

  it("rule 115: does not wait for a write in flight where the moment is longer ago than a write takes", async () => {
    const entity = await newPerson(service.client);
    await age(entity, 120);
    await using held = await hold(entity);
    const aged = await current(service.client, entity);
    expect(await at(entity, madeAt(entity) - 119_000_000n)).toEqual(aged);
    const waits = at(entity, (await clock()) - 59_000_000n).catch(() => {});
    expect(await isPending(waits)).toBe(true);
    await held.giveBack();
    await waits;
    await forget(service, [entity.id]);
  });

  it("rule 115: a write in flight that does not end is WRITE_CONFLICT after the lock time", async () => {
    const entity = await newPerson(service.client);
    await using other = await startOther(service, { config: { lockTimeoutMs: 200 } });
    await using _ = await hold(entity);
    const from = performance.now();
    const refused = await refusal(at(entity, await clock(), other.client(service.organization.apiKey)));
    expect(refused).toMatchObject({ reason: "WRITE_CONFLICT", metadata: { retry_after_ms: expect.any(String) } });
    expect(performance.now() - from).toBeLessThan(1_500);
  });

  it("rule 115: who waits for writes in flight leaves connections to all others", async () => {
    const busy = await Promise.all(Array.from({ length: 30 }, () => newPerson(service.client)));
    // They would be refused before a busy machine has answered all others.
    const config = { poolSize: 10, lockTimeoutMs: 20_000, statementTimeoutMs: 20_000 };
    await using own = await startOther(service, { config });
    const client = own.client(service.organization.apiKey);
    const [free, gone] = [await newPerson(service.client), await newPerson(service.client)];
    await using held = await hold(...busy);
    const now = await clock();
    const reads = busy.map((entity) => at(entity, now, client));
    const leaving = new AbortController();
    const left = client.entities.getEntity(
      { lookup: byId(busy[0] as Entity), readTime: timeOf(now) },
      { signal: leaving.signal },
    );
    await waiting(2);
    leaving.abort();
    await expect(left).rejects.toThrow();
    const others = Promise.all([
      ...busy.map((entity) => current(client, entity)),
      at(free, now, client),
      at(gone, madeAt(gone), client),
      client.entities.updateEntity({ lookup: byId(free), entity: { name: "Eva" } }),
      newPerson(client),
    ]);
    // Those who wait give their connections back after 20 s.
    expect(await Promise.race([others.then(() => "answered"), sleep(15_000, "pending")])).toBe("answered");
    expect(await isPending(Promise.race(reads))).toBe(true);
    await held.giveBack();
    expect(await Promise.all(reads)).toEqual(busy);
  });

  it("rule 117: before the creation is NOT_FOUND, as for an id that is nobody's", async () => {
    const entity = await newPerson(service.client, { externalId: unique("x") });
    const before = madeAt(entity) - 1n;
    expect(await refusal(at(entity, before))).toMatchObject({ reason: "NOT_FOUND", metadata: { lookup: "entity_id" } });
    const byAlias = { lookup: byExternalId(entity.externalId), readTime: timeOf(before) };
    expect(await refusal(service.client.entities.getEntity(byAlias))).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { lookup: "external_id" },
    });
  });

  it("rule 118: an entity that was deleted then is answered with deleted_at", async () => {
    const { entities } = service.client;
    const made = await newPerson(service.client);
    const lookup = byId(made);
    const { entity: deleted } = await entities.deleteEntity({ lookup, reason: "duplicate" });
    await entities.undeleteEntity({ lookup, reason: "no duplicate" });
    expect(deleted?.deletedAt).toEqual(deleted?.updatedAt);
    expect(await at(made, madeAt(deleted as Entity))).toEqual(deleted);
    expect((await at(made, madeAt(deleted as Entity) - 1n)).deletedAt).toBeUndefined();
  });

  it("rule 119: an external id names its entity from the time of its attachment on", async () => {
    const made = await newPerson(service.client);
    const externalId = unique("late");
    const { entity } = await service.client.entities.assignExternalId({ lookup: byId(made), externalId });
    const then = (micros: bigint) =>
      service.client.entities.getEntity({ lookup: byExternalId(externalId), readTime: timeOf(micros) });
    expect((await then(madeAt(entity as Entity))).entity).toEqual(entity);
    expect(await refusal(then(madeAt(entity as Entity) - 1n))).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 120: by tax id is VALIDATION_ERROR, whether it is anybody's or not", async () => {
    const entity = await newPerson(service.client, { taxId: "529.982.247-25" });
    for (const taxId of ["529.982.247-25", "1"]) {
      const call = service.client.entities.getEntity({ lookup: byTaxId(taxId), readTime: timeOf(madeAt(entity)) });
      expect(await refusal(call)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["lookup.tax_id"] });
    }
  });

  it("rule 119: an external id names the entity that had it then, also when it has another one now", async () => {
    const { entities } = service.client;
    const externalId = unique("moving");
    const then = async (micros: bigint) =>
      (await entities.getEntity({ lookup: byExternalId(externalId), readTime: timeOf(micros) })).entity;
    const freed = async (entity: Entity) =>
      (await entities.changeExternalId({ lookup: byId(entity), newExternalId: unique("x"), reason: "migration" }))
        .entity;
    // One after the other has it, the first one twice; nobody has it between.
    const [first, second] = [await newPerson(service.client), await newPerson(service.client)];
    const states: { has: Entity; gone: Entity }[] = [];
    for (const owner of [first, second, first]) {
      const lookup = byId(owner);
      const { entity: had } = await entities.addExternalIds({
        ...{ lookup, reason: "another system" },
        externalIds: [{ externalId, type: "crm", designation: Designation.PRIMARY }],
      });
      states.push({ has: asThen(had as Entity), gone: (await freed(owner)) as Entity });
    }
    for (const { has, gone } of states) {
      expect((await refusal(then(madeAt(has) - 1n))).reason).toBe("NOT_FOUND");
      expect(await then(madeAt(has))).toEqual(has);
      expect(await then(madeAt(gone) - 1n)).toEqual(has);
      expect((await refusal(then(madeAt(gone)))).reason).toBe("NOT_FOUND");
    }
  });

  /** The writes that attach an external id, to an entity that is made or to one that is there. */
  const ATTACH: Record<string, (entities: EntityClient["entities"], id: string, to: Entity) => Promise<unknown>> = {
    CreateEntity: (_, externalId) => newPerson(service.client, { externalId }),
    "UpdateEntity with allow_missing": (entities, externalId) =>
      entities.updateEntity({
        ...{ lookup: byExternalId(externalId), allowMissing: true },
        entity: { type: EntityType.PERSON, countryCode: "BR", name: "Ana" },
      }),
    AssignExternalId: (entities, externalId, to) => entities.assignExternalId({ lookup: byId(to), externalId }),
    AddExternalIds: (entities, externalId, to) =>
      entities.addExternalIds({ lookup: byId(to), externalIds: [{ externalId }] }),
    ChangeExternalId: (entities, newExternalId, to) =>
      entities.changeExternalId({ lookup: byId(to), newExternalId, reason: "migration" }),
  };

  it.each(Object.keys(ATTACH))(
    "rule 119: nobody is the answer only when no write in flight may attach the external id: %s",
    async (name) => {
      const [externalId, to] = [unique("taken"), await newPerson(service.client)];
      await using stalled = await stall("external_id");
      const write = ATTACH[name]?.(service.client.entities, externalId, to);
      await stalling();
      const now = await clock();
      const then = (micros: bigint) =>
        service.client.entities.getEntity({ lookup: byExternalId(externalId), readTime: timeOf(micros) });
      const call = then(now);
      expect(await isPending(call)).toBe(true);
      // Longer ago than a write takes there is nothing to wait for.
      expect((await refusal(then(now - 61_000_000n))).reason).toBe("NOT_FOUND");
      await stalled.giveBack();
      await write;
      const { entity } = await service.client.entities.getEntity({ lookup: byExternalId(externalId) });
      expect(madeAt(entity as Entity)).toBeLessThan(now);
      expect((await call).entity).toEqual(asThen(entity as Entity));
    },
  );

  it("rule 119: a write in flight that may attach the external id and does not end is WRITE_CONFLICT", async () => {
    await using other = await startOther(service, { config: { lockTimeoutMs: 200 } });
    await using _ = await stall("external_id");
    const write = newPerson(service.client, { externalId: unique("stalled") });
    await stalling();
    const request = { lookup: byExternalId(unique("nobody")), readTime: timeOf(await clock()) };
    const call = other.client(service.organization.apiKey).entities.getEntity(request);
    expect(await refusal(call)).toMatchObject({ reason: "WRITE_CONFLICT" });
    await _.giveBack();
    await write;
  });

  it("rule 119: what does not attach external ids of the organization keeps nobody waiting: reads, updates, others", async () => {
    const other = await service.newOrganization();
    const entity = await newPerson(service.client, { externalId: unique("x") });
    await using held = await hold(entity);
    await using reading = await holding(["select from external_id limit 1"]);
    const update = service.client.entities.updateEntity({
      lookup: byExternalId(entity.externalId),
      entity: { name: "Eva" },
    });
    await stalling();
    await using stalled = await stall("external_id");
    const creation = newPerson(other.client, { externalId: unique("x") });
    await waiting(2, 100);
    const call = service.client.entities.getEntity({ lookup: byExternalId("nobody"), readTime: timeOf(await clock()) });
    // Whoever waited would be told WRITE_CONFLICT, or the two before it would.
    expect((await refusal(call)).reason).toBe("NOT_FOUND");
    for (const one of [held, reading, stalled]) await one.giveBack();
    await Promise.all([update, creation]);
  });

  it("rule 138: a lookup in the past is a use of the alias that the entity has now", async () => {
    const made = await newPerson(service.client, { externalId: unique("x") });
    const alias = unique("alias");
    const { entity } = await service.client.entities.addExternalIds({
      ...{ lookup: byId(made), externalIds: [{ externalId: alias }], reason: "another system" },
    });
    await using own = await startOther(service);
    const slots: Slots = (_, work) => work();
    const uses: string[] = [];
    const reader = createPastReader(own.orm, {
      ...{ slots, readSlots: slots, lockTimeoutMs: 1_000 },
      named: (_, { key }, { id }) => uses.push(`${key} of ${id}`),
    });
    const { signal } = new AbortController();
    const at = madeAt(entity as Entity);
    await reader.find(service.organization.id, { by: "external_id", key: alias }, at, signal);
    expect(uses).toEqual([`${alias} of ${made.id}`]);
  });

  it("rule 2: an entity of another organization is as one that does not exist, at any time", async () => {
    const [own, other] = [await service.newOrganization(), await service.newOrganization()];
    const entity = await newPerson(own.client, { externalId: unique("x") });
    await own.client.entities.changeExternalId({
      ...{ lookup: byId(entity), newExternalId: unique("y"), reason: "migration" },
    });
    const readTime = timeOf(madeAt(entity));
    for (const [lookup, unknown] of [
      [byId(entity), byId({ id: randomUUID() })],
      [byExternalId(entity.externalId), byExternalId(unique("nobody"))],
    ] as const) {
      expect((await own.client.entities.getEntity({ lookup, readTime })).entity).toEqual(entity);
      const refused = await refusal(other.client.entities.getEntity({ lookup, readTime }));
      expect(refused).toEqual(await refusal(other.client.entities.getEntity({ lookup: unknown, readTime })));
      expect(refused.reason).toBe("NOT_FOUND");
    }
  });

  it("rule 115: has the paths of a read_mask", async () => {
    const [, , , answer] = await everyWrite(service.client);
    const request = { lookup: byId(answer as Entity), readTime: timeOf(madeAt(answer as Entity)) };
    const readMask = { paths: ["name", "etag", "entity_data.person.address"] };
    const { entity } = await service.client.entities.getEntity({ ...request, readMask });
    const { name = "", etag = "", entityData } = answer ?? {};
    expect(entity).toMatchObject({ id: "", name, etag });
    expect(entity?.attributes).toBeUndefined();
    const [shown, all] = [entity?.entityData?.kind.value, entityData?.kind.value] as [PersonData, PersonData];
    expect([shown.firstName, all.firstName]).toEqual([undefined, "Ana"]);
    expect(shown.address).toEqual(all.address);
    const unknown = service.client.entities.getEntity({ ...request, readMask: { paths: ["shoe_size"] } });
    expect(await refusal(unknown)).toMatchObject({ reason: "VALIDATION_ERROR" });
  });
});

describe("a pruned log", () => {
  const DAY = 86_400;

  /**
   * An entity of an organization that keeps a week, with four versions, the first `old` of them from 30 days before; and one
   * that has not changed for 60.
   */
  async function pruned(old: number) {
    const organization = await service.newOrganization();
    const { client } = organization;
    await client.organizations.updateOrganization({ organization: { eventRetentionDays: 7 } });
    const [entity, unchanged] = [await newPerson(client, { name: "v1" }), await newPerson(client)];
    for (const name of ["v2", "v3", "v4"]) {
      await client.entities.updateEntity({ lookup: byId(entity), entity: { name } });
    }
    await age(entity, 30 * DAY, old);
    await age(unchanged, 60 * DAY);
    const times = (await eventsOf(client, entity)).map(({ recordedAt }) => microsOf(recordedAt as Timestamp));
    await service.sql("select prune_events(1000)");
    return { client, entity, unchanged, times: [0n, ...times] as [bigint, bigint, bigint, bigint, bigint] };
  }

  it("rule 117: a time before what was pruned is READ_TIME_EXPIRED, with the earliest that can be read", async () => {
    const { client, entity, unchanged, times } = await pruned(2);
    const [, created, horizon] = times;
    // Of every entity alike, whether what has become of it can be told or not.
    expect((await refusal(at(unchanged, horizon - 1n, client))).reason).toBe("READ_TIME_EXPIRED");
    expect(await at(unchanged, horizon, client)).toEqual(await current(client, unchanged));
    const refused = await refusal(at(entity, horizon - 1n, client));
    expect(refused).toMatchObject({ code: Code.OutOfRange, reason: "READ_TIME_EXPIRED" });
    const { earliest = "" } = refused.metadata;
    const readTime = fromJson(TimestampSchema, earliest);
    expect(microsOf(readTime)).toBe(horizon);
    const { entity: past } = await client.entities.getEntity({ lookup: byId(entity), readTime });
    expect(past?.name).toBe("v2");
    expect((await refusal(at(entity, created, client))).reason).toBe("READ_TIME_EXPIRED");
    expect((await refusal(at(entity, created - 1n, client))).reason).toBe("NOT_FOUND");
  });

  it("rule 117: where the event that made the version was pruned, etag and updated_at are not told, and all else is", async () => {
    const { client, entity, times } = await pruned(2);
    const now = await current(client, entity);
    const expected = { ...now, name: "v2", etag: "", updatedAt: undefined };
    expect(await at(entity, times[2], client)).toEqual(expected);
    expect(await at(entity, times[3] - 1n, client)).toEqual(expected);
    expect(await at(entity, times[3], client)).toMatchObject({ name: "v3", updatedAt: timeOf(times[3]) });
    expect(await at(entity, times[4], client)).toEqual(now);
  });

  it("rule 117: an entity that has not changed since is told whole, with all its events pruned", async () => {
    const { client, entity, times } = await pruned(4);
    expect(await eventsOf(client, entity)).toEqual([]);
    expect(await at(entity, times[4], client)).toEqual(await current(client, entity));
    expect(await at(entity, await clock(), client)).toEqual(await current(client, entity));
  });

  it("rule 117: an entity that was made later is NOT_FOUND; who had an external id then cannot be told", async () => {
    const { client, times } = await pruned(2);
    const later = await newPerson(client, { externalId: unique("x") });
    expect((await refusal(at(later, times[1], client))).reason).toBe("NOT_FOUND");
    const then = (micros: bigint) =>
      client.entities.getEntity({ lookup: byExternalId(later.externalId), readTime: timeOf(micros) });
    expect((await refusal(then(times[2] - 1n))).reason).toBe("READ_TIME_EXPIRED");
    expect((await refusal(then(times[2]))).reason).toBe("NOT_FOUND");
  });

  it("rule 117: what is pruned while the events are read is refused, or not needed", async () => {
    for (const [offset, expected] of [
      [0n, "READ_TIME_EXPIRED"],
      [40n * 1_000n, "v40"],
    ] as const) {
      const organization = await service.newOrganization();
      const { client } = organization;
      await client.organizations.updateOrganization({ organization: { eventRetentionDays: 7 } });
      const entity = await newPerson(client, { name: "v1" });
      for (let i = 2; i <= 60; i++) {
        await client.entities.updateEntity({ lookup: byId(entity), entity: { name: `v${i}` } });
      }
      await age(entity, 30 * DAY, 40);
      const events = await eventsOf(client, entity);
      const instants = events.map(({ recordedAt }) => microsOf(recordedAt as Timestamp));
      // Just before, or just after, the last of what is going to be pruned.
      const micros = offset === 0n ? (instants[38] as bigint) : (instants[39] as bigint);
      await using own = await startOther(service);
      let turns = 0;
      const readSlots: Slots = async (_, work) => {
        // Behind the row and the first page of events.
        if (++turns === 3) await service.sql("select prune_events(1000)");
        return work();
      };
      const reader = createPastReader(own.orm, { slots: readSlots, readSlots, lockTimeoutMs: 1_000 });
      const lookup = { by: "entity_id" as const, key: entity.id };
      const past = reader.find(organization.id, lookup, micros, new AbortController().signal);
      const outcome = await past.then(({ entity: { name } }) => name).catch((error: DomainError) => error.reason);
      expect(outcome).toBe(expected);
      expect(turns).toBeGreaterThan(3);
    }
  });
});

describe("a long history", () => {
  it("rules 116, 117: is read a page at a time, by number and by bytes, from its index, and as far as it is needed", async () => {
    const { client, id: organizationId } = await service.newOrganization();
    const entity = await newPerson(client, { name: "v1", externalId: unique("x") });
    const COUNT = 12_000;
    // 100 of them have long values.
    await service.sql(
      `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_id, external_ids,
         updated_fields, previous_values, new_values, actor, principal, source, recorded_at)
       select organization_id, gen_random_uuid(), entity_id, n, entity_type, 'ATTRIBUTE_CHANGED', external_id, external_ids,
         case when n % 120 = 0 then '{attributes}'::text[] else '{name}' end,
         case when n % 120 = 0
           then case when n = 120 then '{}' else jsonb_build_object('attributes', jsonb_build_object('n', n - 120, 'text', (select string_agg(md5(n::text || i), '') from generate_series(1, 1500) i))) end
           else jsonb_build_object('name', 'v' || case when n % 120 = 1 and n > 1 then n - 2 else n - 1 end) end,
         '{}', actor, principal, 'planted', recorded_at + n * interval '1 microsecond'
       from entity_event, generate_series(2, $2) n where entity_id = $1`,
      [entity.id, COUNT],
    );
    await service.sql(
      `update entity e set version = $2, name = 'v' || ($2 - 1), attributes = jsonb_build_object('n', $2),
         updated_at = v.recorded_at, etag = v.id
       from entity_event v where e.id = $1 and v.entity_id = e.id and v.entity_version = $2::int`,
      [entity.id, COUNT],
    );
    try {
      const first = madeAt(entity);
      // From the last version on, over pages of many, to the first.
      for (const [version, name, n] of [
        [COUNT - 1, `v${COUNT - 1}`, COUNT - 120],
        [COUNT - 119, `v${COUNT - 119}`, COUNT - 120],
        [5_000, "v5000", 4_920],
        [120, "v119", 120],
        [119, "v119", undefined],
        [1, "v1", undefined],
      ] as const) {
        const past = await at(entity, version === 1 ? first : first + BigInt(version), client);
        expect([past.name, past.attributes?.n]).toEqual([name, n]);
        if (version > 1) expect(madeAt(past)).toBe(first + BigInt(version));
        // Planted without a seal, as those of before are: their ids are no etags.
        expect(past.etag).toBe(version > 1 ? "" : entity.etag);
      }
      expect(await at(entity, first, client)).toEqual(entity);
      // The version of now has the etag that it has, whatever its event was.
      const last = await current(client, entity);
      expect(await at(entity, first + BigInt(COUNT), client)).toEqual(last);
      expect(last.etag).not.toBe("");

      const { host, port, database } = service.database;
      await using orm = createOrm(
        { host, port, database, user: "entity_service", password: RUNTIME_PASSWORD },
        { poolSize: 1, statementTimeoutMs: 10_000, lockTimeoutMs: 1_000 },
      );
      const from = { entityId: entity.id, version: COUNT };
      const bound = { rows: 500, bytes: 100_000 };
      const part = await readStatements(orm, organizationId, (db) => readHistory(db, organizationId, from, bound));
      const sizes = part.rows.map(({ previousValues }) => JSON.stringify(previousValues).length);
      expect(part.isCut).toBe(true);
      // The one that reaches the bytes is the last.
      expect(sizes.slice(0, -1).reduce((sum, size) => sum + size, 0)).toBeLessThan(100_000);
      for (const analysed of [false, true]) {
        if (analysed) await service.sql("analyze");
        let plan = "";
        await readStatements(orm, organizationId, async ({ execute }) => {
          const explain = async <T>(text: string, values: readonly unknown[]): Promise<T> => {
            plan = JSON.stringify(await execute(`explain (analyze, format json) ${text}`, values));
            return [] as T;
          };
          await readHistory({ execute: explain }, organizationId, from, { rows: 8, bytes: 1_000_000 });
        });
        expect(plan).toContain('"Index Name":"entity_event_version"');
        expect(plan).toContain('"Scan Direction":"Backward"');
        expect(plan).not.toContain("Seq Scan");
        // Not one row more than the page has.
        const rows = [...plan.matchAll(/"Actual Rows":([\d.]+)/g)].map(([, count]) => Number(count));
        expect(Math.max(...rows)).toBe(8);
      }
    } finally {
      await forget(service, [entity.id]);
    }
  });
});
