// The log in NATS JetStream, against a real nats-server: complete and in order, whatever fails in between.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { jetstreamManager } from "@nats-io/jetstream";
import pg from "pg";
import { pino } from "pino";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { createEntityClient } from "../clients/typescript/index.ts";
import { type Config, ConfigError, readConfig } from "../src/config.ts";
import { instantToText, parseInstant } from "../src/domain/time.ts";
import { reseal } from "./chains.ts";
import { type LogLine, startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byId, newPerson, together } from "./given.ts";
import { databaseEnvironment, startService, type TestOrganization, type TestService } from "./harness.ts";
import { type NatsServer, natsServerMissing, type Stored, startNatsServer } from "./nats-server.ts";
import { startOther } from "./wall-harness.ts";
import { type Seen, watchProblems } from "./watch-checker.ts";

/** Enough for a busy machine; nothing here measures speed. */
const WAIT = { timeout: 40_000, interval: 100 };

/** Ends with the test, before what was lent before it. */
function lend<T extends AsyncDisposable>(lent: T): T {
  onTestFinished(() => lent[Symbol.asyncDispose]());
  return lent;
}

const natsOf = (nats: NatsServer, env: Record<string, string> = {}): Partial<Config> => ({
  nats: readConfig({ NATS_URL: nats.url, ...env }).nats,
});

/** What a service logs. */
function logged() {
  const lines: LogLine[] = [];
  const log = pino(
    { level: "info", base: null, formatters: { level: (level) => ({ level }) } },
    { write: (line: string) => void lines.push(JSON.parse(line)) },
  );
  return { log, lines, of: (text: string) => lines.filter(({ msg }) => msg.includes(text)) };
}

/** Creates entities in each organization and changes each of them `changes` times, all at once. */
async function burst(organizations: TestOrganization[], { entities = 10, changes = 5 } = {}): Promise<void> {
  await Promise.all(
    organizations.map(async ({ client }) => {
      const made = await together(entities, () => newPerson(client, { attributes: { a: 1 } }));
      for (const { answer } of made) if (answer === undefined) throw new Error("a write failed");
      await together(entities * changes, (i) =>
        client.entities.updateEntity({
          lookup: byId(made[i % entities]?.answer ?? { id: "" }),
          entity: { name: `Ana ${i}`, attributes: { a: i } },
          reason: i % 3 === 0 ? "a reason" : "",
          ...(i % 5 === 0 ? { requestId: randomUUID(), occurredAt: { seconds: 1_700_000_000n, nanos: 123_000 } } : {}),
        }),
      );
    }),
  );
}

/** A service whose log is in the stream, and its log lines. */
async function givenPublished() {
  const nats = lend(await startNatsServer());
  const { log, of } = logged();
  const service = lend(await startService({ config: natsOf(nats), log }));
  const organization = await service.newOrganization();
  await burst([organization]);
  expect(await problems(service, nats)).toEqual([]);
  return { nats, service, organization, of };
}

/** The expected messages: event id, subject and body. */
async function theLog(service: TestService) {
  const rows = await service.sql<{ row: Record<string, unknown> }>("select to_jsonb(v) as row from entity_event v");
  const time = (value: unknown) => instantToText(parseInstant(value as string));
  return rows.map(({ row }) => {
    const { CREATED, DELETED } = { CREATED: "entity.created", DELETED: "entity.deleted" };
    const event = { CREATED, DELETED }[row.type as string] ?? "entity.updated";
    const body: Record<string, unknown> = {
      id: row.id,
      event,
      organizationId: row.organization_id,
      entityId: row.entity_id,
      entityVersion: row.entity_version,
      entityType: row.entity_type,
      externalIds: row.external_ids,
      updatedFields: row.updated_fields,
      previousValues: row.previous_values,
      newValues: row.new_values,
      actor: row.actor,
      principal: row.principal,
      source: row.source,
      metadata: row.metadata,
      recordedAt: time(row.recorded_at),
    };
    if (row.external_id !== null) body.externalId = row.external_id;
    if (row.reason !== null) body.reason = row.reason;
    if (row.request_id !== null) body.requestId = row.request_id;
    if (row.occurred_at !== null) body.occurredAt = time(row.occurred_at);
    for (const [name, column] of [
      ["salt", "salt"],
      ["previousHash", "previous_hash"],
      ["hash", "hash"],
    ] as const) {
      const digits = (row[column] as string | null)?.slice(2);
      if (digits !== undefined) body[name] = Buffer.from(digits, "hex").toString("base64");
    }
    return { msgId: row.id as string, subject: `entity.v1.${row.organization_id}.${event}`, body };
  });
}

const seen = ({ body }: { body: Record<string, unknown> }): Seen => ({
  id: body.id as string,
  entityId: body.entityId as string,
  version: body.entityVersion as number,
});

/** Waits until the stream has the whole log; returns what is wrong with it. `twice` permits duplicates. */
async function problems(service: TestService, nats: NatsServer, { stream = "ENTITY_EVENTS", twice = false } = {}) {
  const log = await theLog(service);
  const arrived = async () => new Set((await nats.messages(stream)).map(({ msgId }) => msgId)).size;
  await expect.poll(arrived, WAIT).toBe(log.length);
  // A duplicate would arrive now.
  await sleep(300);
  const messages = await nats.messages(stream);
  const known = new Set<string>();
  const firsts = messages.filter(({ msgId }) => !known.has(msgId) && known.add(msgId));
  const expected = new Map(log.map((event) => [event.msgId, event]));
  for (const { seq: _, ...message } of messages) expect(message).toEqual(expected.get(message.msgId));
  return [
    ...watchProblems([(twice ? firsts : messages).map(seen)], log.map(seen)),
    ...(log.length === 0 ? ["there is no log"] : []),
  ];
}

const versionsOf = (messages: Stored[], { id }: { id: string }) =>
  messages.filter(({ body }) => body.entityId === id).map(({ body }) => body.entityVersion);

/** A connection that writes as the run-time role, in a transaction of the test. */
async function writer(service: TestService, organizationId: string) {
  const { host, port, database } = service.database;
  const client = new pg.Client({ host, port, database, user: "entity_service", password: RUNTIME_PASSWORD });
  await client.connect();
  client.on("error", () => {});
  onTestFinished(() => client.end());
  await client.query("select set_config('app.organization_id', $1, false)", [organizationId]);
  return {
    query: (text: string) => client.query(text),
    /** Renames an entity to each of the names. */
    async rename(entity: { id: string }, names: string[]) {
      for (const name of names) {
        await client.query(
          `with old as (select id, name from entity where id = $1),
             words as (delete from entity_word where entity_id = $1),
             e as (
               update entity x set version = x.version + 1, name = $2, name_words = null, etag = gen_random_uuid(),
                 updated_at = greatest(clock_timestamp(), x.updated_at + interval '1 microsecond')
               from old where x.id = old.id returning x.*, old.name as old_name)
           insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_ids,
             updated_fields, previous_values, new_values, actor, principal, source, recorded_at)
           select organization_id, etag, id, version, type, 'ATTRIBUTE_CHANGED', '{}', '{name}',
             jsonb_build_object('name', old_name), jsonb_build_object('name', name), 'writer', id, 'sql', updated_at from e`,
          [entity.id, name],
        );
      }
      onTestFinished(() => reseal(service.sql, [entity.id]));
    },
  };
}

const names = (count: number) => Array.from({ length: count }, () => `name ${randomUUID()}`);

/** The environment of a service process on the database of a test. */
function environmentOn(service: TestService): Record<string, string> {
  return { ...databaseEnvironment(service), BOOTSTRAP_API_KEY: service.organization.apiKey };
}

/** The number of events that a service, or all its workers, has published. */
async function published(baseUrl: string): Promise<number> {
  const metrics = await (await fetch(`${baseUrl}/metrics`)).text();
  return Number(/^entity_service_nats_published_total (\d+)$/m.exec(metrics)?.[1]);
}

const missing = natsServerMissing();
// A user's machine may lack nats-server; in the continuous integration it is required, and these tests fail without it.
const suite = missing !== undefined && process.env.CI === undefined ? describe.skip : describe;

suite(`NATS JetStream${missing === undefined ? "" : `: ${missing}`}`, () => {
  it("gets every event of every organization once, field by field, the versions of an entity in their order (rules 60, 61, 64)", async () => {
    const nats = lend(await startNatsServer());
    const service = lend(await startService({ config: natsOf(nats) }));
    const organizations = await Promise.all([1, 2, 3].map(() => service.newOrganization()));
    await burst(organizations, { entities: 20, changes: 10 });
    const [first] = organizations as [TestOrganization];
    const { id } = await newPerson(first.client, { externalId: "crm-1" });
    await first.client.entities.changeExternalId({ lookup: byId({ id }), newExternalId: "crm-2", reason: "migration" });
    await first.client.entities.deleteEntity({ lookup: byId({ id }), reason: "a mistake" });
    expect(await problems(service, nats)).toEqual([]);
    const metrics = await (await fetch(`${service.baseUrl}/metrics`)).text();
    expect(metrics).toContain(`entity_service_nats_published_total ${(await nats.messages()).length}`);
    expect(metrics).toContain("entity_service_nats_failures_total 0");
    await expect
      .poll(async () => (await fetch(`${service.baseUrl}/metrics`)).text(), WAIT)
      .toContain("entity_service_nats_lag_seconds 0\n");
  });

  it("makes the stream where there is none: files, one replica, no limits, two minutes; one that is there stays as it is", async () => {
    const nats = lend(await startNatsServer());
    const service = lend(await startService({ config: natsOf(nats) }));
    await burst([await service.newOrganization()], { entities: 1, changes: 1 });
    expect(await problems(service, nats)).toEqual([]);
    await using connection = await nats.connect();
    const { streams } = await jetstreamManager(connection);
    const { config: made } = await streams.info("ENTITY_EVENTS");
    expect(made).toMatchObject({ subjects: ["entity.v1.>"], storage: "file", num_replicas: 1, retention: "limits" });
    expect(made).toMatchObject({ max_msgs: -1, max_bytes: -1, max_age: 0, max_msg_size: -1, duplicate_window: 120e9 });

    const own = { name: "MINE", subjects: ["entity.v1.>"], max_msgs: 100_000, duplicate_window: 60e9 };
    const other = lend(await startNatsServer());
    await other.makeStream(own);
    await using second = await other.connect();
    const before = (await (await jetstreamManager(second)).streams.info("MINE")).config;
    const publisher = lend(await startService({ config: natsOf(other, { NATS_STREAM: "MINE" }) }));
    await burst([await publisher.newOrganization()], { entities: 1, changes: 1 });
    expect(await problems(publisher, other, { stream: "MINE" })).toEqual([]);
    expect((await (await jetstreamManager(second)).streams.info("MINE")).config).toEqual(before);
  });

  it("gets the whole log of a service that had none, from its beginning, that of earlier epochs too", async () => {
    const nats = lend(await startNatsServer());
    const service = lend(await startService());
    const organizations = await Promise.all(Array.from({ length: 25 }, () => service.newOrganization()));
    const [big, small] = organizations as [TestOrganization, TestOrganization];
    await burst(organizations, { entities: 2, changes: 2 });
    // As if these had been written before the feed, and before the database was restored.
    await service.sql("update entity_event set xid = '0' where entity_version = 1");
    await service.sql("update feed_epoch set cluster = 'another', started_at = '-infinity'");
    await newPerson(big.client);
    await big.client.entities.listEntities({});
    await burst([big], { entities: 10, changes: 60 });
    const other = lend(await startOther(service, { config: natsOf(nats) }));
    expect(await problems(service, nats)).toEqual([]);

    // As much again is written while no process publishes: more events of one organization than are read for
    // their times; and one of a transaction that began before.
    const patient = await writer(service, small.id);
    await patient.query("begin");
    await patient.rename(await newPerson(small.client), names(1));
    await newPerson(big.client);
    await expect.poll(async () => (await nats.messages()).length, WAIT).toBe((await theLog(service)).length);
    await other[Symbol.asyncDispose]();
    await burst(organizations, { entities: 2, changes: 2 });
    await patient.query("commit");
    await burst([big], { entities: 10, changes: 60 });
    lend(await startOther(service, { config: natsOf(nats) }));
    expect(await problems(service, nats)).toEqual([]);
  });

  it("loses nothing of a transaction that is open while others commit, a large one included", async () => {
    const nats = lend(await startNatsServer());
    const service = lend(await startService({ config: natsOf(nats) }));
    const one = await service.newOrganization();
    const two = await service.newOrganization();
    const [small, large, other] = [
      await newPerson(one.client),
      await newPerson(two.client),
      await newPerson(one.client),
    ];
    const patient = await writer(service, one.id);
    const slow = await writer(service, two.id);
    for (const { query } of [patient, slow]) await query("begin");
    await patient.rename(small, names(1));
    await slow.rename(large, names(700));
    const quick = await writer(service, one.id);
    await quick.rename(other, names(3));
    await expect.poll(async () => versionsOf(await nats.messages(), other), WAIT).toEqual([1, 2, 3, 4]);
    await burst([one, two]);
    await patient.query("commit");
    await expect.poll(async () => versionsOf(await nats.messages(), small), WAIT).toEqual([1, 2]);
    await slow.query("commit");
    expect(await problems(service, nats)).toEqual([]);
  });

  it("loses nothing and keeps the order when nats-server is killed and started again, and when it stands still for a while", async () => {
    const nats = lend(await startNatsServer({ credentials: true }));
    const { log, lines, of } = logged();
    const service = lend(await startService({ config: natsOf(nats), log }));
    const organizations = [await service.newOrganization(), await service.newOrganization()];
    let isOver = false;
    const breaking = (async () => {
      for (let i = 0; !isOver; i++) {
        await sleep(150 + Math.random() * 300);
        if (i % 4 === 3) {
          nats.pause();
          await sleep(5_500);
          nats.resume();
        } else {
          await nats.kill();
          await nats.start();
        }
      }
    })();
    for (let i = 0; i < 5; i++) {
      await burst(organizations, { entities: 10, changes: 20 });
      await sleep(1_500);
    }
    isOver = true;
    await breaking;
    expect(await problems(service, nats)).toEqual([]);
    expect(of("events do not reach NATS").length).toBeGreaterThan(0);
    expect(JSON.stringify(lines)).not.toMatch(/s3cret|publisher/);
  }, 120_000);

  it("gets again what was sent and not acknowledged when nats-server was killed", async () => {
    const nats = lend(await startNatsServer());
    const service = lend(await startService({ config: natsOf(nats) }));
    const organization = await service.newOrganization();
    await newPerson(organization.client);
    await expect.poll(async () => (await nats.messages()).length, WAIT).toBe(1);
    nats.pause();
    await burst([organization]);
    // It is in flight by now, in buffers that are lost with the server.
    await sleep(500);
    await nats.kill();
    await nats.start();
    await newPerson(organization.client);
    expect(await problems(service, nats)).toEqual([]);
  });

  it("stops at an event that the stream refuses: none of its entity goes before it, nor anything once it is taken", async () => {
    const nats = lend(await startNatsServer());
    // The stream exists beforehand, and is not changed.
    const config = { name: "MINE", subjects: ["entity.v1.>"], max_msg_size: 8_000, duplicate_window: 180e9 };
    await nats.makeStream(config);
    const { log, lines, of } = logged();
    const service = lend(await startService({ config: natsOf(nats, { NATS_STREAM: "MINE" }), log }));
    const { client, id } = await service.newOrganization();
    const entity = await newPerson(client);
    await expect.poll(async () => (await nats.messages("MINE")).length, WAIT).toBe(1);
    // In one transaction, so that all are in flight together; the fifth version is too large, and so is the next one,
    // which has the previous values.
    const direct = await writer(service, id);
    await direct.query("begin");
    await direct.rename(entity, [...names(3), "x".repeat(8_000), ...names(40)]);
    await direct.query("commit");
    await expect.poll(() => of("events do not reach NATS").length, WAIT).toBe(1);
    await sleep(1_500);
    expect(versionsOf(await nats.messages("MINE"), entity)).toEqual([1, 2, 3, 4]);
    await using connection = await nats.connect();
    const manager = await jetstreamManager(connection);
    expect((await manager.streams.info("MINE")).config).toMatchObject(config);
    await manager.streams.update("MINE", { max_msg_size: 100_000 });
    expect(await problems(service, nats, { stream: "MINE" })).toEqual([]);
    expect(of("events reach NATS again")).toHaveLength(1);
    expect(lines.filter(({ level }) => level === "warn")).toHaveLength(1);
  });

  it("loses nothing when the service is killed in the middle, of a burst and of a long log", async () => {
    const nats = lend(await startNatsServer());
    const database = lend(await startService());
    const folder = lend(await temporaryFolder());
    const organization = await database.newOrganization();
    await burst([database.organization, organization], { entities: 20, changes: 60 });
    const env = { ...environmentOn(database), NATS_URL: nats.url };
    for (let i = 0; i < 5; i++) {
      const service = lend(await startServiceProcess(folder.path, env));
      const writing = burst([
        { ...organization, client: createEntityClient({ retries: false, ...service, ...organization }) },
      ]);
      writing.catch(() => {});
      await sleep(300 * i);
      await service.kill();
      await writing.catch(() => {});
    }
    lend(await startServiceProcess(folder.path, env));
    expect(await problems(database, nats)).toEqual([]);
  }, 120_000);

  it("gets it from one process at a time: another takes over within seconds from one that was killed, at once from one that ends", async () => {
    const nats = lend(await startNatsServer());
    const database = lend(await startService());
    const folder = lend(await temporaryFolder());
    const { client } = await database.newOrganization();
    const env = { ...environmentOn(database), NATS_URL: nats.url };
    const holder = async () =>
      (
        await database.sql(
          "select holder from feed_sink where name <> 'audit-checkpoints' and held_until > clock_timestamp()",
        )
      )[0]?.holder ?? undefined;
    const first = lend(await startServiceProcess(folder.path, env));
    await newPerson(client);
    await expect.poll(async () => (await nats.messages()).length, WAIT).toBe(1);
    const held = await holder();
    const second = lend(await startServiceProcess(folder.path, env));
    await newPerson(client);
    await expect.poll(async () => (await nats.messages()).length, WAIT).toBe(2);
    // Longer than the lease of the sink without renewal, and never without a holder.
    for (const end = performance.now() + 6_000; performance.now() < end; await sleep(20))
      expect(await holder()).toBe(held);
    await expect.poll(() => published(first.baseUrl), WAIT).toBe(2);
    expect(await published(second.baseUrl)).toBe(0);

    await first.kill();
    const killed = performance.now();
    await newPerson(client);
    await expect.poll(async () => (await nats.messages()).length, WAIT).toBe(3);
    expect(performance.now() - killed).toBeGreaterThan(500);
    await expect.poll(() => published(second.baseUrl), WAIT).toBe(1);

    const third = lend(await startServiceProcess(folder.path, env));
    const heldBySecond = await holder();
    await second[Symbol.asyncDispose]();
    await newPerson(client);
    await expect.poll(async () => (await nats.messages()).length, WAIT).toBe(4);
    expect(await holder()).not.toBe(heldBySecond);
    await expect.poll(() => published(third.baseUrl), WAIT).toBe(1);
    await third[Symbol.asyncDispose]();
    expect(await holder()).toBeUndefined();
    expect(await problems(database, nats)).toEqual([]);
  }, 120_000);

  it("is published to by one of the workers of WORKERS=2, and GET /metrics tells of it", async () => {
    const nats = lend(await startNatsServer());
    const database = lend(await startService());
    const folder = lend(await temporaryFolder());
    const { client } = await database.newOrganization();
    const env = { ...environmentOn(database), NATS_URL: nats.url, WORKERS: "2" };
    const service = lend(await startServiceProcess(folder.path, env));
    await burst([await database.newOrganization(), { client } as TestOrganization]);
    expect(await problems(database, nats)).toEqual([]);
    await expect.poll(() => published(service.baseUrl), WAIT).toBe((await nats.messages()).length);
  }, 60_000);

  it("may be away: the service serves and is ready, says so once, and publishes what waits when it is back", async () => {
    const nats = lend(await startNatsServer({ credentials: true }));
    await nats.kill();
    const { log, lines, of } = logged();
    const service = lend(await startService({ config: natsOf(nats), log }));
    const { client } = await service.newOrganization();
    const began = Date.now();
    await newPerson(client);
    await burst([await service.newOrganization()]);
    await expect.poll(() => of("events do not reach NATS").length, WAIT).toBe(1);
    await sleep(2_000);
    const grpc = createGrpcTransport({ baseUrl: service.baseUrl });
    expect((await createClient(Health, grpc).check({})).status).toBe(Status.SERVING);
    const metrics = await (await fetch(`${service.baseUrl}/metrics`)).text();
    expect(Number(/^entity_service_nats_failures_total (\d+)$/m.exec(metrics)?.[1])).toBeGreaterThan(1);
    const lag = Number(/^entity_service_nats_lag_seconds (\S+)$/m.exec(metrics)?.[1]);
    expect(lag).toBeGreaterThan(1.9);
    expect(lag).toBeLessThanOrEqual((Date.now() - began) / 1_000 + 0.1);
    await nats.start();
    expect(await problems(service, nats)).toEqual([]);
    expect(lines.filter(({ level }) => level === "warn").length).toBe(1);
    expect(of("events reach NATS again")).toHaveLength(1);
    expect(JSON.stringify(lines)).not.toMatch(/s3cret|publisher/);
  });

  it("refuses wrong credentials: the log says so without them", async () => {
    const nats = lend(await startNatsServer({ credentials: true }));
    const { log, lines, of } = logged();
    const url = nats.url.replace("s3cret", "wr0ng");
    const service = lend(await startService({ config: { nats: readConfig({ NATS_URL: url }).nats }, log }));
    await newPerson(service.client);
    await expect.poll(() => of("events do not reach NATS").length, WAIT).toBe(1);
    expect(of("events do not reach NATS")[0]?.reason).toMatch(/authorization/i);
    expect(JSON.stringify(lines)).not.toMatch(/wr0ng|publisher/);
  });

  it("gets all of it again, and the log says so, when the database was restored: nothing is skipped", async () => {
    const { nats, service, organization, of } = await givenPublished();
    const before = (await nats.messages()).length;
    // A stream that no longer knows the ids of its messages, as minutes later.
    await using connection = await nats.connect();
    const manager = await jetstreamManager(connection);
    await manager.streams.delete("ENTITY_EVENTS");
    await service.sql("update feed_epoch set cluster = 'another', started_at = '-infinity'");
    await newPerson(organization.client);
    expect(await problems(service, nats)).toEqual([]);
    expect((await nats.messages()).length).toBe(before + 1);
    expect(of("as after a restore")).toHaveLength(1);
  });

  it("gets all of it again, and the log says so, when the stored position is of a form that is written no more", async () => {
    const { nats, service, organization, of } = await givenPublished();
    // As if another process had held it for a second.
    await service.sql(
      `update feed_sink set position = 'MSA5ZmQ4OTRlMQ', holder = gen_random_uuid(), held_until = clock_timestamp() + interval '1 second'`,
    );
    await newPerson(organization.client);
    await expect.poll(() => of("nobody can tell how far").length, WAIT).toBe(1);
    expect(await problems(service, nats)).toEqual([]);
  });
});

describe("NATS_URL", () => {
  it.each([
    ["nats://127.0.0.1:4222", { servers: ["nats://127.0.0.1:4222"], stream: "ENTITY_EVENTS" }],
    ["nats://ada:l%40ve@one:4222", { servers: ["nats://one:4222"], user: "ada", password: "l@ve" }],
    ["nats://t0ken@one", { servers: ["nats://one"], token: "t0ken", user: undefined }],
    ["tls://one:1,tls://two:2", { servers: ["tls://one:1", "tls://two:2"], token: undefined }],
  ])("%s is understood", (url, nats) => {
    expect(readConfig({ NATS_URL: url }).nats).toMatchObject(nats);
  });

  it.each(["http://s3cret@one", "nats://", "s3cret", "nats://s3cret%@one", "nats://one,", "nats://one/s3cret"])(
    "%s is refused, without the value in the text",
    (url) => {
      expect(() => readConfig({ NATS_URL: url })).toThrow(ConfigError);
      expect(() => readConfig({ NATS_URL: url })).toThrow(/^NATS_URL must be(?!.*s3cret)/);
    },
  );

  it("of no service means none, and the name of a stream has no dots or spaces", () => {
    expect(readConfig({ NATS_STREAM: "MINE" }).nats).toBeUndefined();
    expect(() => readConfig({ NATS_STREAM: "a.b" })).toThrow(ConfigError);
  });
});
