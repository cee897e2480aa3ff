// Rules 34, 122 to 127 and 134: the event that makes a version gives it its etag, and is sealed.
import { createHash, randomUUID } from "node:crypto";
import { toJson } from "@bufbuild/protobuf";
import canonicalize from "canonicalize";
import fc from "fast-check";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import {
  type Entity,
  type EntityEvent,
  EntityEventSchema,
  EntityStatus,
  EntityType,
  EventType,
} from "../clients/typescript/index.ts";
import { Batch } from "../src/db/batch.ts";
import { NamedStatementClient } from "../src/db/named-statements.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import type { Pipeline } from "../src/db/statements.ts";
import { pipelined } from "../src/db/transaction.ts";
import { update } from "../src/domain/entity.ts";
import type { EntityState } from "../src/domain/entity-state.ts";
import type { JsonObject, JsonValue } from "../src/domain/json.ts";
import { NOTHING_BEFORE, sealOf } from "../src/domain/seal.ts";
import { instantToText } from "../src/domain/time.ts";
import { toOneEntity } from "../src/entities/command.ts";
import { createWriter } from "../src/entities/writer.ts";
import { insertEvents, toEvent } from "../src/log/events.ts";
import { sealEvents, type UnsealedEvent } from "../src/log/sealing.ts";
import { brokenChains, reseal } from "./chains.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byExternalId, byId, current, eventsOf, lastEventOf, newPerson, tally, together, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { watching } from "./watchers.ts";

let service: TestService;
beforeAll(async () => {
  // What waits for a lock waits until the test has seen it.
  service = await startService({
    config: { lockTimeoutMs: 30_000, statementTimeoutMs: 30_000, defaultTimeoutMs: 60_000 },
  });
});
afterAll(() => service[Symbol.asyncDispose]());

const author = { principal: "00000000-0000-7000-8000-00000000aaaa", actor: "ana", source: "test" };

/** A pool as another process has it. */
function ownOrm(): Orm {
  const { host, port, database } = service.database;
  const orm = createOrm(
    { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database },
    { poolSize: 6, statementTimeoutMs: 20_000, lockTimeoutMs: 10_000 },
  );
  onTestFinished(() => orm.close(true));
  return orm;
}

/** What each kind of write answers for one entity, in the order of its versions. */
async function versionsByEveryWrite(externalId: string): Promise<Entity[]> {
  const { entities } = service.client;
  const name = byExternalId(externalId);
  const versions: (Entity | undefined)[] = [];
  const row = { entity: { externalId, type: EntityType.PERSON, name: "Imported", countryCode: "BR" } };
  const created = await newPerson(service.client);
  const lookup = byId(created);
  versions.push(created);
  versions.push((await entities.assignExternalId({ lookup, externalId })).entity);
  versions.push((await entities.updateEntity({ lookup: name, entity: { name: "Eva" }, allowMissing: true })).entity);
  const added = { externalIds: [{ externalId: unique("alias") }], reason: "another system" };
  versions.push((await entities.addExternalIds({ lookup, ...added })).entity);
  const change = { newExternalId: unique("x"), keepPreviousAsAlias: true, reason: "another system" };
  versions.push((await entities.changeExternalId({ lookup, ...change })).entity);
  versions.push((await entities.deleteEntity({ lookup, reason: "a duplicate" })).entity);
  versions.push((await entities.undeleteEntity({ lookup, reason: "no duplicate" })).entity);
  await entities.changeExternalId({ lookup, newExternalId: externalId, reason: "another system" });
  versions.push(await current(service.client, created));
  for await (const _ of entities.importEntities(
    (async function* () {
      yield row;
    })(),
  ));
  versions.push(await current(service.client, created));
  return versions as Entity[];
}

describe("etags", () => {
  it("rule 34: the etag of a version is the id of the event that made it, whichever call that was", async () => {
    const versions = await versionsByEveryWrite(unique("x"));
    expect(new Set(versions.map(({ etag }) => etag)).size).toBe(9);
    const events = await eventsOf(service.client, versions[0] as Entity);
    expect(events.map(({ id }) => id)).toEqual(versions.map(({ etag }) => etag));
  });

  it("rule 34: so it is for each of many writes that commit together, of one entity and of several", async () => {
    const persons = await Promise.all(Array.from({ length: 4 }, () => newPerson(service.client)));
    const answers = await together(64, async (i) => {
      const lookup = byId(persons[i % persons.length] as Entity);
      const status = i % 2 === 0 ? EntityStatus.ACTIVE : EntityStatus.INACTIVE;
      const entity = { name: `Ana ${i}`, status };
      return service.client.entities.updateEntity({ lookup, entity, reason: "for review" });
    });
    const versions = answers.flatMap(({ answer }) => (answer?.entity === undefined ? [] : [answer.entity]));
    expect(versions).toHaveLength(64);
    for (const person of persons) {
      const ids = (await eventsOf(service.client, person)).map(({ id }) => id);
      expect(ids).toHaveLength(17);
      const etags = versions.filter(({ id }) => id === person.id).map(({ etag }) => etag);
      expect(ids.toSorted()).toEqual([person.etag, ...etags].sort());
    }
  });
});

const sha256 = (before: Uint8Array, values: unknown[]) =>
  createHash("sha256")
    .update(before)
    .update(canonicalize(values) as string)
    .digest();

const nameOf = (names: Record<string, number>, value: number) =>
  Object.keys(names).find((name) => names[name] === value);

/** The hash of an event, from its message alone, as the contract says it. */
function hashOfMessage(organizationId: string, event: EntityEvent): Buffer {
  const orNull = (text: string) => (text === "" ? null : text);
  const time = (at: EntityEvent["recordedAt"]) =>
    at === undefined ? null : instantToText(at.seconds * 1_000_000n + BigInt(at.nanos / 1_000));
  const personal = sha256(event.salt, [
    orNull(event.externalId),
    event.externalIds,
    event.previousValues ?? {},
    event.newValues ?? {},
    orNull(event.reason),
    event.metadata ?? {},
  ]);
  return sha256(event.previousHash, [
    "entity-event/1",
    organizationId,
    event.id,
    event.entityId,
    Number(event.entityVersion),
    nameOf(EntityType, event.entityType)?.toLowerCase(),
    nameOf(EventType, event.type),
    event.updatedFields,
    event.actor,
    event.principal,
    event.source,
    orNull(event.requestId),
    time(event.recordedAt),
    time(event.occurredAt),
    personal.toString("hex"),
  ]);
}

/** Expects a history that begins with the creation to be whole. */
function expectWhole(events: readonly EntityEvent[], organizationId = service.organization.id): void {
  let before: Buffer = Buffer.alloc(32);
  for (const event of events) {
    expect(event.salt).toHaveLength(16);
    expect(Buffer.from(event.previousHash)).toEqual(before);
    before = hashOfMessage(organizationId, event);
    expect(Buffer.from(event.hash)).toEqual(before);
  }
}

const headOf = async ({ id }: { id: string }) =>
  (await service.sql<{ head: Buffer | null }>("select audit_head as head from entity where id = $1", [id]))[0]?.head;

describe("a consumer can check its copy", () => {
  it("rule 122: of what ListEntityEvents gives, of every kind of write, from the messages alone", async () => {
    const [entity] = (await versionsByEveryWrite(unique("x"))) as [Entity];
    const events = await eventsOf(service.client, entity);
    expect(events).toHaveLength(9);
    expectWhole(events);
    expect(await headOf(entity)).toEqual(Buffer.from(events.at(-1)?.hash ?? []));
  });

  it("rule 122: of what a watch gives, and of JSON, where bytes are base64", async () => {
    const { watchPosition } = await service.client.entities.listEntities({ pageSize: 1 });
    await using watch = watching(service.client, { position: watchPosition });
    const occurredAt = { seconds: 1_600_000_000n, nanos: 123_456_000 };
    const { entity } = await service.client.entities.createEntity({
      entity: {
        type: EntityType.COMPANY,
        name: 'Ünï "x" \\ 漢字 😀',
        countryCode: "AR",
        attributes: { é: [1e-7, -0] },
      },
      requestId: randomUUID().toUpperCase(),
      reason: "\u2028 a new customer",
      occurredAt,
    });
    await watch.until(() => watch.events().length === 1);
    const [event] = watch.events() as [EntityEvent];
    expect(event.id).toBe(entity?.etag);
    expectWhole([event]);
    const json = toJson(EntityEventSchema, event) as { hash: string };
    expect(Buffer.from(json.hash, "base64")).toEqual(hashOfMessage(service.organization.id, event));
  });

  it("rule 122: sees it where any byte of what is hashed is another", async () => {
    const event = await lastEventOf(service.client, await newPerson(service.client, { externalId: unique("x") }));
    const changed = [
      { newValues: { ...event.newValues, name: "Ana  Souza" } },
      { previousValues: { name: "Eva" } },
      { reason: "x" },
      { actor: `${event.actor} ` },
      { recordedAt: event.recordedAt && { ...event.recordedAt, nanos: event.recordedAt.nanos + 1_000 } },
      { externalIds: [] },
    ];
    for (const change of changed) {
      const hash = hashOfMessage(service.organization.id, { ...event, ...change } as EntityEvent);
      expect(hash, Object.keys(change)[0]).not.toEqual(Buffer.from(event.hash));
    }
  });
});

/** Documents of any shape, with the keys and numbers that make trouble. */
function documentsOf(numbers: fc.Arbitrary<number>, mayBeKey: (key: string) => boolean): fc.Arbitrary<JsonObject> {
  const text = fc.string({ unit: "grapheme", maxLength: 20 }).filter((one) => !/[\p{Cc}\p{Cs}\p{Cn}]/u.test(one));
  const odd = [
    "__proto__",
    "constructor",
    "0",
    "10",
    "9",
    "-1",
    "1.5",
    "é",
    "e\u0301",
    "\u20ac",
    "😀",
    "\ufb33",
    "zz",
    '"',
  ];
  const key = fc.oneof(text, fc.constantFrom(...odd)).filter(mayBeKey);
  const { document } = fc.letrec<{ value: JsonValue; document: JsonObject }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.constantFrom(null, true, false),
      text,
      numbers,
      fc.array(tie("value"), { maxLength: 4 }),
      tie("document"),
    ),
    document: fc
      .array(fc.tuple(key, tie("value")), { maxLength: 14 })
      .map((entries) => Object.fromEntries(entries) as JsonObject),
  }));
  return document;
}

describe("what is hashed is what is stored", () => {
  const small = fc.oneof(
    fc.constantFrom(-0, 5e-324, 1e-7, 2 ** 53 - 1, 0.1 + 0.2, 123456789.125, -1.5e-300),
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true, min: -1, max: 1 }),
  );
  const anyNumber = fc.oneof(
    small,
    fc.constantFrom(1.7976931348623157e308, 1e21, 1e20, 1e300, 2 ** 53 + 2, 1e16),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
  );

  it("rule 124: whatever is in the documents, rows read from PostgreSQL give the hashes again, written one by one or together", async () => {
    const person = await newPerson(service.client);
    const stored = await lastEventOf(service.client, person);
    const orm = ownOrm();
    const any = documentsOf(anyNumber, () => true);
    const organizationId = service.organization.id;
    const eventOf = ([previousValues, newValues, metadata]: JsonObject[], i: number) =>
      ({
        organizationId,
        id: randomUUID(),
        entityId: person.id,
        entityVersion: i + 2,
        entityType: "person",
        type: "ATTRIBUTE_CHANGED",
        externalId: null,
        externalIds: [],
        updatedFields: ["attributes"],
        previousValues,
        newValues,
        metadata,
        actor: "ana",
        principal: stored.principal,
        source: "test",
        reason: null,
        requestId: null,
        recordedAt: 1_795_183_623_464_000n + BigInt(i),
        occurredAt: null,
      }) as UnsealedEvent;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(any, any, any), { minLength: 1, maxLength: 4 }), async (list) => {
        const sealed = sealEvents(list.map(eventOf), new Map());
        const write = async (db: Pipeline) => {
          insertEvents(db, organizationId, sealed);
          const rows = await db.execute<Record<string, unknown>[]>(
            `select v.*, v.previous_values::text as text from entity_event v where v.source = 'test' order by v.entity_version`,
            [],
          );
          return rows.map((row) => ({ row, event: toEvent(row) }));
        };
        // Undone: they are no history of the entity.
        const read = await pipelined(orm, organizationId, write, { validateOnly: true });
        expect(read).toHaveLength(sealed.length);
        let previousHash = NOTHING_BEFORE;
        for (const { row, event } of read) {
          const seal = sealOf(event, { salt: event.salt as Buffer, previousHash });
          expect(seal).toEqual({
            ...{ salt: row.salt, personalHash: row.personal_hash, previousHash: row.previous_hash, hash: row.hash },
          });
          const values = ["previous_values", "new_values", "metadata"].map((name) => row[name]);
          const [before, after, more] = values;
          expect(sha256(row.salt as Buffer, [null, [], before, after, null, more])).toEqual(row.personal_hash);
          expect(canonicalize(JSON.parse(row.text as string))).toBe(canonicalize(before));
          previousHash = seal.hash;
        }
      }),
      { numRuns: 400 },
    );
  });

  it("rule 124: so do the messages of what callers can send", async () => {
    const mayBeKey = (key: string) => key.length > 0 && !/["'.]/.test(key);
    const document = documentsOf(small, mayBeKey);
    await fc.assert(
      fc.asyncProperty(document, document, async (attributes, metadata) => {
        const person = await newPerson(service.client, { attributes });
        await service.client.entities.updateEntity({ lookup: byId(person), entity: { metadata } });
        expectWhole(await eventsOf(service.client, person));
      }),
      { numRuns: 60 },
    );
  });
});

describe("the chain", () => {
  it("rule 125: events of one entity that commit together follow each other", async () => {
    const person = await newPerson(service.client);
    await together(32, (i) =>
      service.client.entities.updateEntity({ lookup: byId(person), entity: { name: `Ana ${i}` } }),
    );
    const rows = await service.sql<{ xid: string }>("select xid::text as xid from entity_event where entity_id = $1", [
      person.id,
    ]);
    expect(rows).toHaveLength(33);
    // Some did commit together.
    expect(new Set(rows.map(({ xid }) => xid)).size).toBeLessThan(33);
    const events = await eventsOf(service.client, person);
    expectWhole(events);
    expect(await headOf(person)).toEqual(Buffer.from(events.at(-1)?.hash ?? []));
  });

  it("rule 125: many writes of two processes, in several transactions at a time, leave one chain for each entity", async () => {
    const homes = [service.organization, await service.newOrganization()];
    const persons = await Promise.all(
      homes.flatMap((home) =>
        [1, 2, 3].map(async () => ({ home, person: await newPerson(home.client, { externalId: unique("x") }) })),
      ),
    );
    const writer = createWriter(ownOrm());
    const turns = Array.from({ length: 10 }, (_, turn) => turn);
    const endings = await together(24, async (i) => {
      const { home, person } = persons[i % persons.length] as (typeof persons)[number];
      for (const turn of turns) {
        const name = `Ana ${i} ${turn}`;
        if (i % 4 < 2) await home.client.entities.updateEntity({ lookup: byId(person), entity: { name } });
        else {
          const lookup = { by: "external_id", key: person.externalId } as const;
          const decide = (one: EntityState | null) => update(one as EntityState, { name }, "");
          expect(await writer.write(home.id, toOneEntity({ author, lookup, decide }))).toMatchObject({ kind: "done" });
        }
      }
    });
    expect(tally(endings)).toEqual({ OK: 24 });
    for (const { home, person } of persons) {
      const events = await eventsOf(home.client, person);
      expect(events).toHaveLength(41);
      expectWhole(events, home.id);
      expect(await headOf(person)).toEqual(Buffer.from(events.at(-1)?.hash ?? []));
    }
    const [{ transactions } = { transactions: 0 }] = await service.sql<{ transactions: number }>(
      "select count(distinct xid)::int as transactions from entity_event where entity_id = any($1)",
      [persons.map(({ person }) => person.id)],
    );
    expect(transactions).toBeGreaterThan(20);
  });

  it("rules 34, 125: a write that waited for another process's has its event behind that one's, and a later time", async () => {
    const person = await newPerson(service.client);
    onTestFinished(() => reseal(service.sql, [person.id]));
    const other = new pg.Client(service.database);
    await other.connect();
    onTestFinished(() => other.end());
    await other.query("begin");
    await other.query("update entity set audit_head = sha256('x') where id = $1", [person.id]);
    const writing = service.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Eva" } });
    const waiters =
      "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query ~ 'for no key update'";
    await vi.waitUntil(async () => (await service.sql(waiters)).length > 0, { timeout: 20_000 });
    const [clock] = (await other.query("select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now")).rows;
    await other.query("commit");
    await writing;
    const event = await lastEventOf(service.client, person);
    expect(Buffer.from(event.previousHash)).toEqual(createHash("sha256").update("x").digest());
    const { seconds, nanos } = event.recordedAt as { seconds: bigint; nanos: number };
    expect(seconds * 1_000_000n + BigInt(nanos / 1_000)).toBeGreaterThan(BigInt(clock.now));
  });

  it("rules 34, 125: the statement that locks one entity reads its head under the lock, and the clock behind it", async () => {
    const person = await newPerson(service.client, { externalId: unique("x") });
    for (const lookup of [byId(person), byExternalId(person.externalId)]) {
      const statements = vi.spyOn(NamedStatementClient.prototype, "post");
      onTestFinished(() => void vi.restoreAllMocks());
      await service.client.entities.updateEntity({ lookup, entity: { name: unique("Ada") } });
      const sent = statements.mock.calls.find(([text]) => text.includes("for no key update"));
      statements.mockRestore();
      const [text = "", values = []] = sent ?? [];
      const bound = text.replaceAll(/\$(\d)/g, (_, i) => `'${values[Number(i) - 1]}'`);
      const [row] = await service.sql(`explain (verbose, format json) ${bound}`);
      const { Plan: plan } = row?.["QUERY PLAN"]?.[0] ?? {};
      const [locks] = plan.Plans;
      expect([plan["Node Type"], locks["Node Type"]]).toEqual(["CTE Scan", "LockRows"]);
      expect(plan.Output).toEqual(expect.arrayContaining(["clock_timestamp()", "locked.audit_head"]));
      expect(locks.Output).toContain("e.audit_head");
      expect(JSON.stringify(locks)).not.toContain("clock_timestamp");
    }
  });

  it("rule 125: rows of an import are sealed, those that make an entity and those that change one", async () => {
    const names = Array.from({ length: 50 }, () => unique("row"));
    const rows = [...names, ...names, names[0] as string].map((externalId, i) => ({
      entity: { externalId, type: EntityType.PERSON, name: `Imported ${i}`, countryCode: "BR" },
    }));
    const ids: string[] = [];
    for await (const { results } of service.client.entities.importEntities(
      (async function* () {
        yield* rows;
      })(),
    ))
      ids.push(...results.map(({ entityId }) => entityId));
    expect(new Set(ids).size).toBe(50);
    for (const [i, id] of ids.slice(0, 50).entries()) {
      const events = await eventsOf(service.client, { id });
      expect(events).toHaveLength(i === 0 ? 3 : 2);
      expectWhole(events);
      expect(await headOf({ id })).toEqual(Buffer.from(events.at(-1)?.hash ?? []));
    }
  });

  it("rule 125: a refusal, a rehearsal, a write that changes nothing and a replay leave the head as it is", async () => {
    const { entities } = service.client;
    const person = await newPerson(service.client, { externalId: unique("x") });
    const lookup = byId(person);
    const requestId = randomUUID();
    await entities.updateEntity({ lookup, entity: { name: "Eva" }, requestId });
    const head = await headOf(person);
    await entities.updateEntity({ lookup, entity: { name: "Eva" }, requestId });
    await entities.updateEntity({ lookup, entity: { name: "Eva" } });
    await entities.updateEntity({ lookup, entity: { name: "Rehearsed" }, validateOnly: true });
    await expect(entities.updateEntity({ lookup, entity: { name: "Ana" }, etag: person.etag })).rejects.toThrow();
    expect(await headOf(person)).toEqual(head);
    await entities.updateEntity({ lookup, entity: { name: "Ada" } });
    const events = await eventsOf(service.client, person);
    expect(events).toHaveLength(3);
    expectWhole(events);
  });

  it("rules 125, 134: the rows that another primary rewrote are counted under the hash of its event", async () => {
    const externalId = unique("x");
    const person = await newPerson(service.client, { externalId });
    await service.client.activity.recordUserEvents({
      userEvents: [1, 2].map(() => ({
        entityExternalId: externalId,
        eventType: "login",
        occurredAt: person.createdAt,
      })),
    });
    await service.client.entities.changeExternalId({
      lookup: byId(person),
      newExternalId: unique("x"),
      reason: "another system",
    });
    const events = await eventsOf(service.client, person);
    expect(events.at(-1)?.metadata).toMatchObject({ rewrittenRows: { transactions: 0, userEvents: 2 } });
    expectWhole(events);
    const uncounted = { ...events.at(-1), metadata: { ...events.at(-1)?.metadata, rewrittenRows: {} } } as EntityEvent;
    expect(hashOfMessage(service.organization.id, uncounted)).not.toEqual(Buffer.from(uncounted.hash));
  });

  it("rule 127: events from before are given without seals; the next one begins the chain", async () => {
    const person = await newPerson(service.client);
    onTestFinished(() => reseal(service.sql, [person.id]));
    await service.sql(
      "update entity_event set salt = null, personal_hash = null, previous_hash = null, hash = null where entity_id = $1",
      [person.id],
    );
    await service.sql("update entity set audit_head = null where id = $1", [person.id]);
    await service.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Eva" } });
    await service.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Ada" } });
    const [old, ...sealed] = (await eventsOf(service.client, person)) as [EntityEvent, ...EntityEvent[]];
    expect([old.salt, old.previousHash, old.hash].map((bytes) => bytes.length)).toEqual([0, 0, 0]);
    expect(sealed).toHaveLength(2);
    expectWhole(sealed);
  });

  it.each<[string, string, string[]]>([
    [
      "the first event is missing",
      "delete from entity_event where entity_id = $1 and entity_version = 1",
      ["missing", "follow"],
    ],
    [
      "one in the middle is missing",
      "delete from entity_event where entity_id = $1 and entity_version = 2",
      ["missing", "follow"],
    ],
    [
      "the last is missing",
      "delete from entity_event where entity_id = $1 and entity_version = 4",
      ["the event of its version is missing"],
    ],
    [
      "the last is missing, and the row says so",
      `with gone as (delete from entity_event where entity_id = $1 and entity_version = 4)
       update entity set version = 3 where id = $1`,
      ["head"],
    ],
    ["all are missing", "delete from entity_event where entity_id = $1", ["has no event"]],
    [
      "the entity is missing",
      `with ids as (delete from external_id where entity_id = $1)
       delete from entity where id = $1`,
      ["is no entity"],
    ],
    [
      "two are the other way round",
      `update entity_event set entity_version = 5 - entity_version
       where entity_id = $1 and entity_version in (2, 3)`,
      ["follow", "hash"],
    ],
    [
      "one was added",
      `insert into entity_event select (jsonb_populate_record(v, jsonb_build_object(
         'id', gen_random_uuid(), 'entity_version', 5, 'previous_hash', v.hash::text))).* from entity_event v
       where entity_id = $1 and entity_version = 4`,
      ["salt", "hash", "the event of its version is missing"],
    ],
    [
      "one is of another entity",
      `update entity_event v set previous_hash = w.hash from entity_event w
       where v.entity_id = $1 and v.entity_version = 2 and w.entity_id <> $1 and w.entity_version = 1`,
      ["follow", "hash"],
    ],
    [
      "a seal was taken off",
      "update entity_event set salt = null, hash = null where entity_id = $1 and entity_version = 3",
      ["not sealed"],
    ],
  ])("rules 122, 125: it is found where %s", async (_, change, words) => {
    const organization = await service.newOrganization();
    const [person, beside] = await Promise.all([newPerson(organization.client), newPerson(organization.client)]);
    for (const name of ["Eva", "Ada", "Ida"]) {
      await organization.client.entities.updateEntity({ lookup: byId(person), entity: { name } });
    }
    const client = new pg.Client(service.database);
    await client.connect();
    onTestFinished(() => client.end());
    const broken = () => brokenChains(async (text, values) => (await client.query(text, values)).rows);
    await client.query("begin");
    await client.query("set local session_replication_role = replica");
    expect(await broken()).toEqual([]);
    await client.query("alter table entity_event drop constraint entity_event_version");
    await client.query(change, [person.id]);
    const found = await broken();
    for (const word of words) expect(found.join("; ")).toContain(word);
    for (const one of found) expect(one).toContain(person.id);
    expect(found.join()).not.toContain(beside.id);
    await client.query("rollback");
  });

  it("rules 122, 123: a change of any column of the log is found, but of those of the database", async () => {
    const organization = await service.newOrganization();
    const person = await newPerson(organization.client, { externalId: unique("x"), attributes: { a: 1 } });
    await organization.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Eva" } });
    const client = new pg.Client(service.database);
    await client.connect();
    onTestFinished(() => client.end());
    await client.query("set session_replication_role = replica");
    const columns = await service.sql<{ name: string; type: string }>(
      `select attname as name, format_type(atttypid, null) as type from pg_attribute
       where attrelid = 'entity_event'::regclass and attnum > 0 and not attisdropped`,
    );
    const others: Record<string, string> = {
      uuid: "gen_random_uuid()",
      bigint: "7",
      "text[]": "array['x']",
      jsonb: `'{"x":1}'`,
      bytea: "sha256('x')",
      "timestamp with time zone": "'2020-01-01'",
      xid8: "'7'",
      integer: "7",
      text: "'x'",
    };
    const silent: string[] = [];
    for (const { name, type } of columns) {
      await client.query("begin");
      await client.query(
        `update entity_event set ${name} = ${others[type]} where entity_id = $1 and entity_version = 2`,
        [person.id],
      );
      const found = await brokenChains(async (text, values) => (await client.query(text, values)).rows);
      if (found.length === 0) silent.push(name);
      await client.query("rollback");
    }
    expect(silent.sort()).toEqual(["epoch", "xid"]);
  });

  it.each([
    ["of attributes", (n: number) => ({ attributes: { n } }), ["with", "update", "insert"]],
    // Its words follow in the same write (rule 159).
    ["of the name", (n: number) => ({ name: `Eva${n}` }), ["with", "update", "delete", "insert", "insert"]],
  ] as const)(
    "rule 126: an update %s is as many statements and round trips as it was before there were seals",
    async (_, entityOf, verbs) => {
      const person = await newPerson(service.client, { externalId: unique("x") });
      const update = (n: number) => service.client.entities.updateEntity({ lookup: byId(person), entity: entityOf(n) });
      let n = 1;
      await update(n);
      const statements = vi.spyOn(NamedStatementClient.prototype, "post");
      const queries = vi.spyOn(pg.Client.prototype, "query");
      onTestFinished(() => void vi.restoreAllMocks());
      // Once more where the service looked for work of webhooks, or for the key, at the same time.
      await vi.waitFor(
        async () => {
          statements.mockClear();
          queries.mockClear();
          await update(++n);
          const texts = statements.mock.calls.map(([text]) => text);
          const ofEntities = texts.filter((text) => /\b(entity|entity_event|entity_word)\b/.test(text));
          expect(ofEntities.map((text) => /^\w+/.exec(text)?.[0])).toEqual(verbs);
          // With begin, two settings and commit.
          expect(texts).toHaveLength(verbs.length + 4);
          expect(queries.mock.calls.filter(([sent]) => (sent as unknown) instanceof Batch)).toHaveLength(2);
          expect(queries).toHaveBeenCalledTimes(2);
        },
        { timeout: 20_000, interval: 20 },
      );
    },
  );
});
