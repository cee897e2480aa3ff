// What is pruned by age: events if the organization says so, and request ids. And what a watch gets if its position is
// before what was pruned.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { toJson } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import pg from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OrganizationSchema } from "../clients/typescript/gen/entity/v1/organization_pb.ts";
import {
  type Entity,
  type EntityClient,
  EntityType,
  errorInfo,
  WebhookEndpointState,
} from "../clients/typescript/index.ts";
import { createOrm } from "../src/db/orm.ts";
import { createPages } from "../src/log/pages.ts";
import { decodePosition } from "../src/log/position.ts";
import { organizationLog } from "../src/log/source.ts";
import { reseal } from "./chains.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byId, current, eventsOf, newPerson } from "./given.ts";
import { captureHeaders, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { startOther } from "./wall-harness.ts";
import { beginning, watching } from "./watchers.ts";

/** The lock of the functions that prune events. */
const EVENTS_LOCK = 7_216_354_872;

/** Its pruner never runs: the tests prune by hand. */
let service: TestService;
beforeAll(async () => {
  service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
});
afterAll(() => service[Symbol.asyncDispose]());

const keepFor = async (client: EntityClient, eventRetentionDays: number | undefined) =>
  client.organizations.updateOrganization({
    organization: { ...(eventRetentionDays !== undefined && { eventRetentionDays }) },
    updateMask: { paths: ["event_retention_days"] },
  });

/** An organization that keeps events for `days` days. */
async function organizationThatKeeps(days: number | undefined, on = service): Promise<TestOrganization> {
  const organization = await on.newOrganization();
  if (days !== undefined) await keepFor(organization.client, days);
  return organization;
}

/** Moves the events of an entity up to a version, and the entity as it was then, `days` days back. */
async function age(entity: { id: string }, days: number, { upTo = 1_000_000, on = service } = {}): Promise<void> {
  await on.sql(
    `with aged as (
       update entity_event set recorded_at = recorded_at - $2 * interval '1 day'
       where entity_id = $1 and entity_version <= $3 returning organization_id, entity_id, entity_version, recorded_at)
     update entity e set updated_at = a.recorded_at from aged a
     where e.organization_id = a.organization_id and e.id = a.entity_id and e.version = a.entity_version`,
    [entity.id, days, upTo],
  );
  await reseal(on.sql, [entity.id]);
}

async function rename(client: EntityClient, entity: Entity, ...names: string[]): Promise<void> {
  for (const name of names) await client.entities.updateEntity({ lookup: byId(entity), entity: { name } });
}

/** Runs one step of the pruner; returns the number of rows by organization. */
async function prune(atMost = 1_000, on = service): Promise<Record<string, number>> {
  const rows = await on.sql<{ id: string; n: number }>(
    "select organization_id as id, pruned::int as n from prune_events($1)",
    [atMost],
  );
  return Object.fromEntries(rows.map(({ id, n }) => [id, n]));
}

const versions = async (client: EntityClient, entity: { id: string }) =>
  (await eventsOf(client, entity)).map((event) => Number(event.entityVersion));

/** A separate connection, closed at the end of the test. */
async function connection(user = service.database.user): Promise<pg.Client & AsyncDisposable> {
  const { host, port, database, password } = service.database;
  const client = new pg.Client({
    ...{ host, port, database, user },
    password: user === "entity_service" ? RUNTIME_PASSWORD : password,
  });
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

describe("the policy", () => {
  it("is absent by default: for ever; set, changed and cleared by update_mask, and said by every answer", async () => {
    const { client, id } = await service.newOrganization();
    const { organizations } = client;
    const get = async () => (await organizations.getOrganization({})).organization;
    expect((await get())?.eventRetentionDays).toBeUndefined();
    const set = await organizations.updateOrganization({ organization: { eventRetentionDays: 400 } });
    expect(set.organization).toEqual(await get());
    expect(toJson(OrganizationSchema, set.organization as never)).toMatchObject({ eventRetentionDays: 400 });
    const { organizations: all } = await service.client.organizations.listOrganizations({ pageSize: 1000 });
    expect(all.find((one) => one.id === id)).toEqual(set.organization);

    expect((await keepFor(client, 400)).organization, "the same again").toEqual(set.organization);
    const other = await organizations.updateOrganization({ organization: { displayName: "Banco" } });
    expect(other.organization, "another field").toMatchObject({ displayName: "Banco", eventRetentionDays: 400 });
    expect((await keepFor(client, undefined)).organization?.eventRetentionDays).toBeUndefined();
    expect((await get())?.eventRetentionDays).toBeUndefined();
    expect((await get())?.etag).not.toBe(other.organization?.etag);
  });

  it("may be given at creation", async () => {
    const { organization } = await service.client.organizations.createOrganization({
      organization: { displayName: "x", eventRetentionDays: 7 },
    });
    expect(organization?.eventRetentionDays).toBe(7);
  });

  it.each([6, 0, -1, 36_501, 2 ** 31 - 1])("of %i days is VALIDATION_ERROR, and nothing changes", async (days) => {
    const { client } = await organizationThatKeeps(30);
    const refused = {
      code: Code.InvalidArgument,
      reason: "VALIDATION_ERROR",
      fields: ["organization.event_retention_days"],
    };
    expect(await refusal(keepFor(client, days))).toMatchObject(refused);
    expect(
      await refusal(client.organizations.updateOrganization({ organization: { eventRetentionDays: days } })),
    ).toMatchObject(refused);
    const making = { organization: { displayName: "x", eventRetentionDays: days } };
    expect(await refusal(service.client.organizations.createOrganization(making))).toMatchObject(refused);
    expect((await client.organizations.getOrganization({})).organization?.eventRetentionDays).toBe(30);
  });

  it("rule 38: rehearsed, sets nothing", async () => {
    const { client } = await service.newOrganization();
    const { organization } = await client.organizations.updateOrganization({
      organization: { eventRetentionDays: 7 },
      validateOnly: true,
    });
    expect(organization?.eventRetentionDays).toBe(7);
    expect((await client.organizations.getOrganization({})).organization?.eventRetentionDays).toBeUndefined();
  });

  it("a change of it waits for the step that is under way, and no other call does", async () => {
    const { client } = await organizationThatKeeps(7);
    await using step = await connection();
    await step.query("begin");
    await step.query("select * from prune_events(1000)");
    let isCleared = false;
    const cleared = keepFor(client, undefined).then(() => {
      isCleared = true;
    });
    await client.organizations.updateOrganization({ organization: { displayName: "meanwhile" } });
    await newPerson(client);
    await sleep(200);
    expect(isCleared).toBe(false);
    await step.query("commit");
    await cleared;
  });

  it("a step waits for a change of it: once it is cleared nothing more goes", async () => {
    const { client, id } = await organizationThatKeeps(7);
    const entity = await newPerson(client);
    await age(entity, 30);
    await using change = await connection();
    await change.query("begin");
    await change.query("select pg_advisory_xact_lock($1)", [EVENTS_LOCK]);
    await change.query("update organization set event_retention_days = null where organization_id = $1", [id]);
    expect(await prune()).toEqual({});
    await change.query("commit");
    expect(await prune()).toEqual({});
    expect(await versions(client, entity)).toEqual([1]);
  });
});

describe("events", () => {
  it("older than the policy go, younger ones stay, and so do those of an organization without one or with a longer one", async () => {
    const [week, year, ever] = await Promise.all([7, 365, undefined].map((days) => organizationThatKeeps(days)));
    const made: [TestOrganization, Entity][] = [];
    for (const organization of [week, year, ever] as TestOrganization[]) {
      const entity = await newPerson(organization.client, { name: "One" });
      await rename(organization.client, entity, "Two", "Three", "Four");
      await age(entity, 2);
      await age(entity, 4.99, { upTo: 3 });
      await age(entity, 0.02, { upTo: 2 });
      made.push([organization, await current(organization.client, entity)]);
    }
    expect(await prune()).toEqual({ [week?.id ?? ""]: 2 });
    const left = await Promise.all(made.map(([{ client }, entity]) => versions(client, entity)));
    expect(left).toEqual([
      [3, 4],
      [1, 2, 3, 4],
      [1, 2, 3, 4],
    ]);
    for (const [{ client }, entity] of made) expect(await current(client, entity), "the entity").toEqual(entity);
    expect(await prune(), "again").toEqual({});
    await keepFor(year?.client as EntityClient, 8);
    expect(await prune(), "a shorter policy").toEqual({});
  });

  it("older than what has gone already go too, whenever they come", async () => {
    const { client, id } = await organizationThatKeeps(7);
    const [young, old] = [await newPerson(client), await newPerson(client)];
    await age(young, 10);
    expect(await prune()).toEqual({ [id]: 1 });
    await age(old, 20);
    expect(await prune()).toEqual({ [id]: 1 });
    expect(await versions(client, old)).toEqual([]);
  });

  it("all of an entity may go: it stays as it is, with its id and its etag, and goes on", async () => {
    const { client } = await organizationThatKeeps(7);
    const entity = await newPerson(client, { externalId: "x-1" });
    await age(entity, 8);
    const before = await current(client, entity);
    await prune();
    expect(await versions(client, entity)).toEqual([]);
    expect(await current(client, entity)).toEqual(before);
    await client.entities.updateEntity({ lookup: byId(entity), entity: { name: "After" }, etag: before.etag });
    await client.entities.deleteEntity({ lookup: byId(entity), reason: "no longer needed" });
    await client.entities.undeleteEntity({ lookup: byId(entity), reason: "needed after all" });
    expect(await versions(client, entity)).toEqual([2, 3, 4]);
  });

  it("ListEntities by the time of the last change answers the same before and after", async () => {
    const { client } = await organizationThatKeeps(7);
    const entities: Entity[] = [];
    for (const days of [40, 30, 20, 3, 0]) {
      const entity = await newPerson(client);
      await age(entity, days);
      entities.push(entity);
    }
    const list = async (days: number, more: object = {}) => {
      const updatedAfter = timestampFromDate(new Date(Date.now() - days * 86_400_000));
      const found: string[] = [];
      let pageToken = "";
      do {
        const page = await client.entities.listEntities({ updatedAfter, pageSize: 2, pageToken, ...more });
        found.push(...page.entities.map(({ id }) => id));
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      return entities.flatMap(({ id }, i) => (found.includes(id) ? [i] : []));
    };
    const all = async () => [await list(100), await list(35), await list(25), await list(10), await list(1)];
    const before = await all();
    expect(before).toEqual([[0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [3, 4], [4]]);
    expect(Object.values(await prune(2))).toEqual([2]);
    expect(await all()).toEqual(before);
    expect(Object.values(await prune())).toEqual([1]);
    expect(await all()).toEqual(before);
    expect(await list(100, { type: EntityType.COMPANY })).toEqual([]);
  });

  it("rule 62: the run-time role may ask for it, and gets no more than the policy allows; not at once, not of a role that it has not", async () => {
    const { client, id } = await organizationThatKeeps(7);
    const entity = await newPerson(client);
    await rename(client, entity, "Two", "Three");
    await age(entity, 6.9);
    await age(entity, 1, { upTo: 1 });
    await using runtime = await connection("entity_service");
    await runtime.query("select set_config('app.organization_id', $1, false)", [id]);
    const refused = { code: "42501" };
    await expect(runtime.query("delete from entity_event")).rejects.toMatchObject(refused);
    await expect(runtime.query("update entity_event set recorded_at = 'epoch'")).rejects.toMatchObject(refused);
    await expect(runtime.query("delete from event_horizon")).rejects.toMatchObject(refused);
    await expect(runtime.query("update event_horizon set xid = '1'")).rejects.toMatchObject(refused);
    await expect(runtime.query("set role entity_directory")).rejects.toMatchObject(refused);
    // Whatever the caller's settings, and however many rows it asks for.
    await runtime.query("set timezone = 'Pacific/Kiritimati'; set search_path = pg_temp, public");
    await runtime.query(
      "create temp table organization as select $1::uuid as organization_id, 0 as n".replace("$1", `'${id}'`),
    );
    const { rows } = await runtime.query("select * from public.prune_events(2147483647)");
    expect(rows).toEqual([{ organization_id: id, pruned: "1" }]);
    expect(await versions(client, entity)).toEqual([2, 3]);
    for (const atMost of [0, -1, null]) {
      await age(entity, 1, { upTo: 2 });
      expect((await runtime.query("select * from public.prune_events($1)", [atMost])).rows, String(atMost)).toEqual([]);
    }
    expect(await prune()).toEqual({ [id]: 1 });
  });

  it("rule 62: not even the functions' owner itself can delete an event that a policy keeps, or change one", async () => {
    const [week, ever] = [await organizationThatKeeps(7), await organizationThatKeeps(undefined)];
    const counts: number[] = [];
    for (const { client } of [week, ever]) {
      const entity = await newPerson(client);
      await rename(client, entity, "Two");
      await age(entity, 5);
      await age(entity, 5, { upTo: 1 });
    }
    await using superuser = await connection();
    await superuser.query("begin");
    await superuser.query("set local role entity_directory");
    const count = async (where = "true") =>
      (await superuser.query(`delete from entity_event where ${where}`)).rowCount ?? 0;
    counts.push(await count(`organization_id = '${ever.id}'`), await count(`organization_id = '${week.id}'`));
    expect(counts).toEqual([0, 1]);
    await expect(superuser.query("update entity_event set reason = 'x'")).rejects.toMatchObject({ code: "42501" });
    await superuser.query("rollback");
    await prune();
  });
});

describe("positions", () => {
  /** Three events, of which the first two are old; and the positions around them. */
  async function given({ isAlone = true } = {}) {
    const organization = await organizationThatKeeps(7);
    const { client } = organization;
    const positions = [await beginning(service, client)];
    const entity = await newPerson(client, { name: "One" });
    const position = async () => (await client.entities.listEntities({})).watchPosition;
    /** Behind the last event: unless the test has one of its own, no older transaction, which would hold positions back. */
    const positionBehind = async () => {
      const isPassed = async () =>
        (
          await service.sql(
            `select pg_snapshot_xmin(pg_current_snapshot()) > max(xid) as passed
             from entity_event where organization_id = $1`,
            [organization.id],
          )
        )[0]?.passed;
      if (isAlone) await expect.poll(isPassed, { timeout: 20_000 }).toBe(true);
      return position();
    };
    positions.push(await positionBehind());
    await rename(client, entity, "Two");
    positions.push(await positionBehind());
    await rename(client, entity, "Three");
    positions.push(await positionBehind());
    await age(entity, 8, { upTo: 2 });
    return { ...organization, entity, positions, position };
  }

  const seen = async (client: EntityClient, position: string) => {
    await using watch = watching(client, { position });
    try {
      await watch.started();
    } catch (error) {
      return errorInfo(error)?.reason;
    }
    return watch.events().map((event) => Number(event.entityVersion));
  };

  it("before what was pruned are POSITION_EXPIRED, behind it they go on", async () => {
    const { client, positions, position } = await given();
    const all = () => Promise.all(positions.map((one) => seen(client, one)));
    expect(await all()).toEqual([[1, 2, 3], [2, 3], [3], []]);
    await prune(1);
    expect(await all()).toEqual(["POSITION_EXPIRED", [2, 3], [3], []]);
    await prune(1);
    expect(await all()).toEqual(["POSITION_EXPIRED", "POSITION_EXPIRED", [3], []]);
    expect(await seen(client, await position())).toEqual([]);
    const error = await refusal(first(client, positions[0] ?? ""));
    expect(error).toMatchObject({ code: Code.OutOfRange, fields: ["position"], metadata: { field: "position" } });
  });

  it("stay expired, whatever is pruned later, and later ones expire in their turn", async () => {
    const { client } = await organizationThatKeeps(7);
    const first = await newPerson(client);
    const { watchPosition } = await client.entities.listEntities({});
    const second = await newPerson(client);
    await age(second, 20);
    await prune();
    expect(await seen(client, watchPosition)).toBe("POSITION_EXPIRED");
    await age(first, 10);
    await prune();
    expect(await versions(client, first)).toEqual([]);
    expect(await seen(client, watchPosition)).toBe("POSITION_EXPIRED");

    const { watchPosition: later } = await client.entities.listEntities({});
    const third = await newPerson(client);
    await age(third, 10);
    await prune();
    expect(await seen(client, later), "also what was written later").toBe("POSITION_EXPIRED");
  });

  it("of other organizations stay what they are", async () => {
    const other = await organizationThatKeeps(undefined);
    const from = await beginning(service, other.client);
    await newPerson(other.client);
    const { client, positions } = await given();
    await prune();
    expect(await seen(client, positions[0] ?? "")).toBe("POSITION_EXPIRED");
    expect(await seen(other.client, from)).toEqual([1]);
  });

  it("within a range go on while they are ahead of what was pruned", async () => {
    const { client, positions, entity } = await given();
    await using watch = watching(client, { position: positions[0] ?? "" });
    await watch.started();
    const [one, two] = watch.messages.map((message) => message.position);
    expect(decodePosition(entity.organizationId, two ?? "").within).toBeDefined();
    await prune(1);
    expect(await seen(client, one ?? ""), "at the last one that was pruned").toBe("POSITION_EXPIRED");
    expect(await seen(client, two ?? "")).toEqual([3]);
  });

  it("a new watch_position is good, though a transaction runs that began before what was pruned", async () => {
    await using old = await connection();
    await old.query("begin; select pg_current_xact_id()");
    const { client, entity, position } = await given({ isAlone: false });
    await prune();
    const now = await position();
    await rename(client, entity, "Four");
    expect(decodePosition(entity.organizationId, now).from.running).not.toEqual([]);
    expect(await seen(client, now)).toEqual([4]);
    await old.query("commit");
    expect(await seen(client, now)).toEqual([4]);
  });

  it("from before the end of a transaction whose events were pruned are POSITION_EXPIRED, though later ones had been seen", async () => {
    const { client, position } = await given();
    const late = await newPerson(client);
    await using old = await connection();
    await old.query("begin");
    // An event that was written long ago by a transaction that ends now.
    await old.query("update entity_event set xid = pg_current_xact_id() where entity_id = $1", [late.id]);
    const entity = await newPerson(client);
    const before = await position();
    await old.query("commit");
    const after = await position();
    await age(late, 20);
    await age(entity, 10);
    await prune();
    expect(await seen(client, before)).toBe("POSITION_EXPIRED");
    expect(await seen(client, after)).toEqual([]);
  });

  it("of an older epoch than what was pruned do not come back, and what was pruned of an older epoch expires none", async () => {
    const { client, entity, position } = await given();
    await service.sql(
      "update entity_event set epoch = 0, xid = '900000000000' where entity_id = $1 and entity_version = 1",
      [entity.id],
    );
    const now = await position();
    await rename(client, entity, "Four");
    await prune(1);
    expect(await seen(client, now)).toEqual([4]);
    await prune();
    const [epoch] = await service.sql<{ number: number }>("select number from feed_epoch");
    const [horizon] = await service.sql<{ epoch: number; behind: boolean }>(
      "select epoch, xid < '900000000000' as behind from event_horizon where organization_id = $1",
      [entity.organizationId],
    );
    expect(horizon).toEqual({ epoch: epoch?.number, behind: true });
    expect(await seen(client, now)).toEqual([4]);
  });

  it("are looked at behind the rows: what is pruned between the two is not passed over in silence", async () => {
    const { client, positions } = await given();
    await using holder = await connection();
    await holder.query("begin; lock table entity_event in access exclusive mode");
    const result = seen(client, positions[0] ?? "");
    // The watch has read the end of the log, and waits for the rows; the search for webhook work may do so too.
    await expect
      .poll(() =>
        service.sql(
          `select 1 from pg_locks l join pg_stat_activity a using (pid)
           where not l.granted and l.relation = 'entity_event'::regclass and a.query not like '%list_webhook_work%'`,
        ),
      )
      .toHaveLength(1);
    await holder.query("select * from prune_events(1000)");
    await holder.query("commit");
    expect(await result).toBe("POSITION_EXPIRED");
  });

  it("are looked at behind the first rows of a long range too: what is pruned before those are read has not come", async () => {
    const { client, id } = await organizationThatKeeps(7);
    const from = await beginning(service, client);
    const rows = async function* () {
      for (let i = 0; i < 800; i++) {
        yield { entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: `${i}` } };
      }
    };
    for await (const _ of client.entities.importEntities(rows())) void _;
    const old = `organization_id = $1 and id in (
      select id from entity_event where organization_id = $1 order by recorded_at, id limit 100)`;
    await service.sql(`update entity_event set recorded_at = recorded_at - interval '8 days' where ${old}`, [id]);
    await service.sql(
      `update entity e set updated_at = v.recorded_at from entity_event v
       where v.organization_id = $1 and v.entity_id = e.id and v.entity_version = e.version`,
      [id],
    );
    await reseal(service.sql);
    const { orm, close } = ownOrm();
    try {
      // Between the estimate of how much there is and the read by time.
      const pages = createPages(orm, (given, key) => {
        const source = organizationLog(given, key);
        return {
          ...source,
          async ends(range) {
            await prune(1_000);
            return source.ends(range);
          },
        };
      });
      await expect(pages.read(id, decodePosition(id, from))).rejects.toMatchObject({ reason: "POSITION_EXPIRED" });
    } finally {
      await close();
    }
  });

  it("of watches that catch up while the log is pruned: each gets every event, or POSITION_EXPIRED", async () => {
    const organization = await organizationThatKeeps(7);
    const { client, id } = organization;
    const from = await beginning(service, client);
    const rows = async function* () {
      for (let i = 0; i < 3_000; i++) {
        yield { entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: `${i}` } };
      }
    };
    for await (const _ of client.entities.importEntities(rows())) void _;
    await service.sql(
      "update entity_event set recorded_at = recorded_at - interval '8 days' where organization_id = $1",
      [id],
    );
    await service.sql("update entity set updated_at = updated_at - interval '8 days' where organization_id = $1", [id]);
    await reseal(service.sql);
    const log = await service.sql<{ id: string }>(
      "select id from entity_event where organization_id = $1 order by recorded_at, id",
      [id],
    );
    const outcomes = { complete: 0, expired: 0 };
    const watches: Promise<void>[] = [];
    expect(log).toHaveLength(3_000);
    let isDone = false;
    const pruneAll = async () => {
      while (Object.keys(await prune(100)).length > 0);
      isDone = true;
    };
    const follow = async () => {
      await using watch = watching(client, { position: from });
      const ended = await Promise.race([watch.ended, watch.started().catch(() => undefined)]);
      const events = watch.events().map((event) => event.id);
      const expired = typeof ended !== "string";
      if (expired) expect(errorInfo((await watch.ended) as Error)?.reason).toBe("POSITION_EXPIRED");
      // The events received are the beginning of the log; all of it, unless the watch was told otherwise.
      expect(events).toEqual(log.slice(0, expired ? events.length : undefined).map((event) => event.id));
      outcomes[expired ? "expired" : "complete"] += 1;
    };
    // Some watches end before it begins, some are under way, some come too late.
    watches.push(follow(), follow());
    await watches[0];
    for (let i = 0; i < 4; i++) watches.push(follow());
    const pruned = pruneAll();
    while (!isDone) {
      watches.push(follow());
      await sleep(20);
    }
    watches.push(follow());
    await Promise.all([pruned, ...watches]);
    expect(outcomes.complete).toBeGreaterThan(0);
    expect(outcomes.expired).toBeGreaterThan(0);
  });

  const first = async (client: EntityClient, position: string) => {
    for await (const message of client.entities.watchEntities({ position })) return message;
    return undefined;
  };
});

describe("request ids", () => {
  it("rule 39: older than 24 hours go, whoever's they are; younger ones stay and are answered as before", async () => {
    const { client, apiKey, id } = await service.newOrganization();
    const other = await service.newOrganization();
    const headers = captureHeaders();
    const { createEntityClient } = await import("../clients/typescript/index.ts");
    const caller = createEntityClient({
      retries: false,
      baseUrl: service.baseUrl,
      apiKey,
      interceptors: [headers.interceptor],
    });
    const request = (requestId: string) => ({
      entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR" },
      requestId,
    });
    const [young, old, others] = [randomUUID(), randomUUID(), randomUUID()];
    const { entity } = await caller.entities.createEntity(request(young));
    await client.entities.createEntity(request(old));
    await other.client.entities.createEntity(request(others));
    const back = (requestId: string, interval: string) =>
      service.sql("update request_record set created_at = now() - $2::interval where request_id = $1", [
        requestId,
        interval,
      ]);
    await back(young, "23 hours 59 minutes");
    await back(old, "24 hours 1 second");
    await back(others, "30 days");
    await using runtime = await connection("entity_service");
    const pruned = await runtime.query("select * from prune_request_records(1000)");
    expect(pruned.rows.toSorted((a, b) => (a.organization_id === id ? -1 : b.organization_id === id ? 1 : 0))).toEqual([
      { organization_id: id, pruned: "1" },
      { organization_id: other.id, pruned: "1" },
    ]);
    const left = await service.sql("select request_id from request_record where request_id = any($1)", [
      [young, old, others],
    ]);
    expect(left).toEqual([{ request_id: young }]);
    expect((await caller.entities.createEntity(request(young))).entity).toEqual(entity);
    expect(headers.last.get("idempotent-replay")).toBe("true");
    await caller.entities.createEntity(request(old));
    expect(headers.last.get("idempotent-replay")).toBeNull();
  });

  it("one that is claimed anew while it would be pruned stays", async () => {
    const { client, apiKeyId } = await service.newOrganization();
    const requestId = randomUUID();
    const request = { entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR" }, requestId };
    await client.entities.createEntity(request);
    await service.sql("update request_record set created_at = now() - interval '25 hours' where request_id = $1", [
      requestId,
    ]);
    await using claimer = await connection();
    await claimer.query("begin");
    await claimer.query("update request_record set created_at = clock_timestamp() where request_id = $1", [requestId]);
    await using pruner = await connection("entity_service");
    const pruned = pruner.query("select * from prune_request_records(1000)");
    await sleep(100);
    await claimer.query("commit");
    expect((await pruned).rows).toEqual([]);
    expect(await service.sql("select principal from request_record where request_id = $1", [requestId])).toEqual([
      { principal: apiKeyId },
    ]);
  });
});

const FAST = { pruneIntervalMs: 100 };
interface Line {
  msg: string;
  rows?: number;
  organization?: string;
  pruned?: string;
}
/** A separate pool with the service's connections. */
function ownOrm() {
  const { host, port, database } = service.database;
  const address = { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database };
  const orm = createOrm(address, { poolSize: 2, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 });
  return { orm, close: () => orm.close(true) };
}

/** A logger, and its lines about pruning. */
function logged() {
  const lines: Line[] = [];
  const log = pino({ level: "info" }, { write: (text: string) => void lines.push(JSON.parse(text)) });
  return { log, lines: () => lines.filter(({ msg }) => /prune/.test(msg)) };
}

describe("the pruner", () => {
  const old = async (on: TestService, client: EntityClient, count: number) => {
    const entity = await newPerson(client, { name: "0" });
    for (let i = 1; i < count; i++) await rename(client, entity, String(i));
    await age(entity, 30, { on });
    return entity;
  };

  it("prunes in steps, all that is old, events and request ids, and says so in a line for each organization; else nothing", async () => {
    const { log, lines } = logged();
    await using own = await startService({ log, config: { ...FAST, pruneRows: 2 } });
    await sleep(400);
    expect(lines()).toEqual([]);
    const { client, id } = await organizationThatKeeps(7, own);
    const requestId = randomUUID();
    const young = await newPerson(client);
    await client.entities.updateEntity({ lookup: byId(young), entity: { name: "Eva" }, requestId });
    await own.sql("update request_record set created_at = now() - interval '25 hours'");
    await expect.poll(() => own.sql("select request_id from request_record")).toEqual([]);
    const entity = await old(own, client, 7);
    await expect.poll(() => versions(client, entity)).toEqual([]);
    await sleep(400);
    expect(await versions(client, young)).toEqual([1, 2]);
    const sum = (what: string) =>
      lines()
        .filter(({ pruned }) => pruned === what)
        .reduce((rows, line) => rows + (line.rows ?? 0), 0);
    expect([sum("events"), sum("request ids")]).toEqual([7, 1]);
    expect(new Set(lines().map(({ organization }) => organization))).toEqual(new Set([id]));
    expect(lines()).toHaveLength(2);
  });

  it("prunes in one process at a time: of two, each row goes once, and none while a third is at it", async () => {
    const [one, two] = [logged(), logged()];
    await using own = await startService({ log: one.log, config: { ...FAST, pruneRows: 3 } });
    await using other = await startOther(own, { log: two.log, config: { ...FAST, pruneRows: 3 } });
    const { client, id } = await organizationThatKeeps(7, own);
    const { host, port, database, user, password } = own.database;
    const third = new pg.Client({ host, port, database, user, password });
    await third.connect();
    try {
      await third.query("begin");
      await third.query("select pg_advisory_xact_lock($1)", [EVENTS_LOCK]);
      const entity = await old(
        own,
        other.client(
          (
            await own.client.organizations.createApiKey({
              organizationId: id,
              displayName: "k",
              scopes: ["entities:write", "entities:read"],
            })
          ).secret,
        ),
        30,
      );
      await sleep(500);
      expect(await versions(client, entity)).toHaveLength(30);
      await third.query("commit");
      await expect.poll(() => versions(client, entity), { timeout: 5_000 }).toEqual([]);
    } finally {
      await third.end();
    }
    await sleep(300);
    const sum = [...one.lines(), ...two.lines()].reduce((rows, line) => rows + (line.rows ?? 0), 0);
    expect(sum).toBe(30);
    expect([...one.lines(), ...two.lines()].filter(({ msg }) => msg !== "pruned")).toEqual([]);
  });

  it("ends with the service, in the middle of its work", async () => {
    await using own = await startService({ config: { pruneIntervalMs: 86_400_000 } });
    const { client } = await organizationThatKeeps(7, own);
    const entity = await old(own, client, 60);
    const other = await startOther(own, { config: { ...FAST, pruneRows: 1 } });
    await expect.poll(async () => (await versions(client, entity)).length).toBeLessThan(60);
    await other[Symbol.asyncDispose]();
    const left = await versions(client, entity);
    expect(left).not.toEqual([]);
    await sleep(200);
    expect(await versions(client, entity)).toEqual(left);
  });

  it("a database that is away is one line with its reason, and afterwards it goes on", async () => {
    const { log, lines } = logged();
    await using own = await startService({ log, config: { ...FAST, lockTimeoutMs: 100 } });
    const { client } = await organizationThatKeeps(7, own);
    const { host, port, database, user, password } = own.database;
    const holder = new pg.Client({ host, port, database, user, password });
    await holder.connect();
    await holder.query("begin; lock table event_horizon in access exclusive mode");
    const entity = await newPerson(client);
    await age(entity, 30, { on: own });
    await expect.poll(lines).toContainEqual(expect.objectContaining({ reason: "WRITE_CONFLICT" }));
    expect(await versions(client, entity)).toEqual([1]);
    await holder.query("commit");
    await holder.end();
    await expect.poll(() => versions(client, entity)).toEqual([]);
  });
});

describe("what became of webhooks", () => {
  /** As many deliveries as entities; none is sent, since the endpoint is disabled. */
  async function deliveries(organization: TestOrganization, on: TestService, count: number): Promise<string[]> {
    const from = timestampFromDate(new Date(Date.now() - 60_000));
    for (let i = 0; i < count; i++) await newPerson(organization.client, { name: String(i) });
    const { webhooks } = organization.client;
    const { endpoint } = await webhooks.createWebhookEndpoint({
      endpoint: { url: "https://example.com/", displayName: "x", state: WebhookEndpointState.DISABLED },
    });
    const to = timestampFromDate(new Date(Date.now() + 60_000));
    await webhooks.replayWebhookDeliveries({ endpointId: endpoint?.id ?? "", from, to });
    const rows = await on.sql("select id from webhook_delivery where organization_id = $1 order by recorded_at", [
      organization.id,
    ]);
    expect(rows.length).toBe(count);
    return rows.map((row) => row.id);
  }
  const finish = (on: TestService, id: string, interval: string) =>
    on.sql(
      `update webhook_delivery set state = 'DELIVERED', next_attempt_at = null, finished_at = now() - $2::interval where id = $1`,
      [id, interval],
    );

  it("goes after so many days, whoever's it is; what is younger or pending stays, and nothing that is younger than a day can go", async () => {
    const organization = await service.newOrganization();
    const [old = "", young = "", pending = "", fresh = ""] = await deliveries(organization, service, 4);
    await finish(service, old, "30 days 1 second");
    await finish(service, young, "29 days 23 hours");
    await finish(service, fresh, "23 hours");
    await using runtime = await connection("entity_service");
    const left = async () =>
      (await service.sql("select id from webhook_delivery where organization_id = $1", [organization.id])).map(
        (row) => row.id,
      );
    const pruned = await runtime.query("select * from prune_webhook_deliveries(1000, 30)");
    expect(pruned.rows).toEqual([{ organization_id: organization.id, pruned: "1" }]);
    expect((await left()).sort()).toEqual([young, pending, fresh].sort());
    await runtime.query("select * from prune_webhook_deliveries(1000, 0)");
    expect((await left()).sort()).toEqual([pending, fresh].sort());
  });

  it("is pruned beside the rest, and kept for WEBHOOK_LOG_DAYS", async () => {
    const { log, lines } = logged();
    await using own = await startService({ log, config: { ...FAST, webhookLogDays: 3 } });
    const [old = "", young = ""] = await deliveries(own.organization, own, 2);
    await finish(own, young, "71 hours");
    await finish(own, old, "73 hours");
    await expect.poll(() => own.sql("select id from webhook_delivery")).toEqual([{ id: young }]);
    await expect.poll(() => lines().map(({ pruned }) => pruned)).toEqual(["webhook deliveries"]);
  });
});
