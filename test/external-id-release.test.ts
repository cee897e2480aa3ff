// Rules 137 and 139: ReleaseExternalId and ListExternalIdHistory. When aliases were used: alias-use.test.ts.
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Entity,
  type EntityClient,
  EventType,
  ExternalIdDetachCause,
  ExternalIdDetachCauseSchema,
  type ExternalIdPeriod,
} from "../clients/typescript/index.ts";
import {
  byExternalId,
  byId,
  byTaxId,
  current,
  eventsOf,
  lastEventOf,
  newPerson,
  tally,
  together,
  unique,
} from "./given.ts";
import { captureHeaders, forget, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { startOther } from "./wall-harness.ts";

let service: TestService;
let client: EntityClient;
let immutable: TestOrganization;
beforeAll(async () => {
  service = await startService();
  ({ client } = service);
  immutable = await service.newOrganization("IMMUTABLE");
});
afterAll(() => service[Symbol.asyncDispose]());

const REASON = "typing error";

/** A person with a primary and an alias. */
async function withAlias(of: EntityClient = client): Promise<{ person: Entity; alias: string }> {
  const alias = unique("alias");
  const made = await newPerson(of, { externalId: unique("primary"), taxId: unique("T") });
  const { entity } = await of.entities.addExternalIds({
    lookup: byId(made),
    externalIds: [{ externalId: alias, type: "cif" }],
  });
  return { person: entity as Entity, alias };
}

type Release = Parameters<EntityClient["entities"]["releaseExternalId"]>[0];
const release = (request: Release) => client.entities.releaseExternalId({ reason: REASON, ...request });
const idsOf = (entity: Entity | undefined) => entity?.externalIds.map(({ externalId }) => externalId);

/** A refused call leaves the entity and its events unchanged. */
async function unchangedAfter(entity: Entity, call: Promise<unknown>) {
  const [refused, events] = [await refusal(call), await eventsOf(client, entity)];
  expect(await current(client, entity)).toEqual(entity);
  expect(events.at(-1)?.recordedAt).toEqual(entity.updatedAt);
  return refused;
}

const historyOf = async (externalId: string, of = client) =>
  (await of.entities.listExternalIdHistory({ externalId })).periods;
const causesOf = (periods: readonly ExternalIdPeriod[]) =>
  periods.map(({ entityId, cause }) => [entityId, ExternalIdDetachCauseSchema.value[cause]?.localName]);

describe("ReleaseExternalId", () => {
  it("rules 137, 139: the alias finds nobody, its period ends with the event, and another entity may take it", async () => {
    const { person, alias } = await withAlias();
    const { entity, changed } = await release({ lookup: byId(person), externalId: ` ${alias} `, force: true });
    expect(changed).toBe(true);
    expect(idsOf(entity)).toEqual([person.externalId]);
    expect(entity).toEqual(await current(client, person));
    expect(entity?.etag).not.toBe(person.etag);
    expect(await refusal(client.entities.getEntity({ lookup: byExternalId(alias) }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    const event = await lastEventOf(client, person);
    expect(event).toMatchObject({
      type: EventType.EXTERNAL_ID_CHANGED,
      event: "entity.updated",
      reason: REASON,
      updatedFields: ["externalIds"],
      externalIds: [person.externalId],
    });
    const [period, ...others] = await historyOf(alias);
    expect(others).toEqual([]);
    expect(period).toMatchObject({
      entityId: person.id,
      type: "cif",
      attachedAt: person.externalIds[1]?.attachedAt,
      detachedAt: event.recordedAt,
      cause: ExternalIdDetachCause.RELEASED,
      eventId: event.id,
    });
    const other = await newPerson(client, { externalId: alias });
    expect(causesOf(await historyOf(alias))).toEqual([
      [other.id, "UNSPECIFIED"],
      [person.id, "RELEASED"],
    ]);
  });

  it("rule 139: by the alias itself, the primary and the tax id", async () => {
    for (const lookupOf of [
      (_: Entity, alias: string) => byExternalId(alias),
      ({ externalId }: Entity) => byExternalId(externalId),
      ({ taxId }: Entity) => byTaxId(taxId ?? ""),
    ]) {
      const { person, alias } = await withAlias();
      const { entity } = await release({ lookup: lookupOf(person, alias), externalId: alias, force: true });
      expect(idsOf(entity)).toEqual([person.externalId]);
    }
  });

  it("rule 139: an id that another entity has, that nobody has, or that was released, is NOT_FOUND", async () => {
    const { person, alias } = await withAlias();
    const other = await withAlias();
    for (const externalId of [other.alias, other.person.externalId, unique("nobody"), alias.toUpperCase()]) {
      const refused = await unchangedAfter(person, release({ lookup: byId(person), externalId, force: true }));
      expect(refused).toMatchObject({ code: 5, reason: "NOT_FOUND", metadata: { lookup: "external_id" } });
      expect(refused.message).not.toContain(externalId);
    }
    await release({ lookup: byId(person), externalId: alias, force: true });
    expect(await refusal(release({ lookup: byId(person), externalId: alias, force: true }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    // Of the other one nothing is gone.
    expect(await current(client, other.person)).toEqual(other.person);
  });

  it("rule 139: the primary of a live entity is VALIDATION_ERROR", async () => {
    const { person } = await withAlias();
    const call = release({ lookup: byId(person), externalId: person.externalId, force: true });
    expect(await unchangedAfter(person, call)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["external_id"] });
  });

  it.each([
    [{ externalId: "" }, "external_id"],
    [{ externalId: " \t" }, "external_id"],
    [{ externalId: "x".repeat(256) }, "external_id"],
    [{ externalId: "a\u0000b" }, "external_id"],
    [{ reason: "" }, "reason"],
    [{ reason: "  four " }, "reason"],
    [{ reason: "r".repeat(4001) }, "reason"],
  ])("rules 45, 139: %o is VALIDATION_ERROR, whatever the entity", async (fields, field) => {
    const call = release({ lookup: byExternalId(unique("nobody")), externalId: "x", ...fields });
    expect(await refusal(call)).toMatchObject({ code: 3, reason: "VALIDATION_ERROR", fields: [field] });
  });

  it("rule 139: an alias of today is EXTERNAL_ID_IN_USE, with since when it is tracked, and force releases it", async () => {
    const { person, alias } = await withAlias();
    const refused = await unchangedAfter(person, release({ lookup: byId(person), externalId: alias }));
    expect(refused).toMatchObject({ code: 9, reason: "EXTERNAL_ID_IN_USE" });
    const attachedAt = person.externalIds[1]?.attachedAt;
    expect(Date.parse(refused.metadata.tracked_since ?? "")).toBe(
      Math.floor(Number(attachedAt?.seconds) * 1000 + Number(attachedAt?.nanos) / 1e6),
    );
    expect(refused.metadata).toMatchObject({ allowed: "force" });
    expect(refused.metadata).not.toHaveProperty("last_resolved_on");
    expect((await release({ lookup: byId(person), externalId: alias, force: true })).changed).toBe(true);
  });

  it("rule 139: one that became an alias long ago and was used more than 30 days ago needs no force", async () => {
    const { person, alias } = await withAlias();
    // As of a year ago: both tables, and what the entity says of it.
    const age = (table: string, set: string, id: string) =>
      service.sql(`update ${table} set ${set} where ${id} = $1`, [person.id]);
    const before = "now() - interval '1 year'";
    const on = (days: number) => `(now() at time zone 'UTC')::date - ${days}`;
    const use = async (days: number) => {
      await age(
        "external_id",
        `attached_at = ${before}, tracked_since = case when not is_primary then ${before} end, last_resolved_on = case when not is_primary then ${on(days)} end`,
        "entity_id",
      );
      await age(
        "entity",
        `external_ids = jsonb_build_array(external_ids -> 0, jsonb_build_array($2::text, 'cif', false, ${before}, ${before}, ${on(days)}))`.replace(
          "$2::text",
          `'${alias}'`,
        ),
        "id",
      );
    };
    await use(30);
    const refused = await refusal(release({ lookup: byId(person), externalId: alias }));
    expect(refused).toMatchObject({ reason: "EXTERNAL_ID_IN_USE" });
    expect(refused.metadata.last_resolved_on).toMatch(/^\d{4}-\d\d-\d\d$/);
    await use(31);
    // The look-up of the call itself does not count, however often it is tried.
    await release({ lookup: byExternalId(alias), externalId: alias, validateOnly: true });
    expect((await release({ lookup: byExternalId(alias), externalId: alias })).changed).toBe(true);
    await forget(service, [person.id]);
  });

  it("rule 139: under the policy IMMUTABLE it is EXTERNAL_ID_IMMUTABLE, by force too", async () => {
    const { person, alias } = await withAlias(immutable.client);
    const call = immutable.client.entities.releaseExternalId({
      lookup: byId(person),
      externalId: alias,
      reason: REASON,
      force: true,
    });
    expect(await refusal(call)).toMatchObject({ code: 9, reason: "EXTERNAL_ID_IMMUTABLE" });
    expect(await current(immutable.client, person)).toEqual(person);
  });

  it("rule 139: validate_only says what would be and changes nothing", async () => {
    const { person, alias } = await withAlias();
    const would = await release({ lookup: byId(person), externalId: alias, force: true, validateOnly: true });
    expect(idsOf(would.entity)).toEqual([person.externalId]);
    expect(await current(client, person)).toEqual(person);
    expect(causesOf(await historyOf(alias))).toEqual([[person.id, "UNSPECIFIED"]]);
    const refused = await refusal(release({ lookup: byId(person), externalId: alias, validateOnly: true }));
    expect(refused).toMatchObject({ reason: "EXTERNAL_ID_IN_USE" });
  });

  it("rules 35, 139: an etag that is not the current one is ETAG_MISMATCH, before the rule is asked", async () => {
    const { person, alias } = await withAlias();
    const call = release({ lookup: byId(person), externalId: alias, etag: randomUUID() });
    expect(await unchangedAfter(person, call)).toMatchObject({
      reason: "ETAG_MISMATCH",
      metadata: { etag: person.etag },
    });
    await release({ lookup: byId(person), externalId: alias, etag: person.etag, force: true });
  });

  it("rules 39, 139: sent again it is answered again, also when another entity has the id meanwhile", async () => {
    const { person, alias } = await withAlias();
    const headers = captureHeaders();
    const caller = await service.organization.clientWith(["external_ids:change"], {
      interceptors: [headers.interceptor],
    });
    const request = {
      lookup: byExternalId(alias),
      externalId: alias,
      reason: REASON,
      force: true,
      requestId: randomUUID(),
    };
    const first = await caller.entities.releaseExternalId(request);
    await newPerson(client, { externalId: alias });
    expect(await caller.entities.releaseExternalId(request)).toEqual(first);
    expect(headers.last.get("idempotent-replay")).toBe("true");
    expect(await eventsOf(client, person)).toHaveLength(3);
  });

  it("rules 2, 3, 139: the scope is external_ids:change; another organization's entity is NOT_FOUND", async () => {
    const { person, alias } = await withAlias();
    const request = { lookup: byId(person), externalId: alias, reason: REASON, force: true };
    const writer = await service.organization.clientWith(["entities:write", "entities:read"]);
    expect(await refusal(writer.entities.releaseExternalId(request))).toMatchObject({
      reason: "PERMISSION_DENIED",
      metadata: { scope: "external_ids:change" },
    });
    expect(await refusal(immutable.client.entities.releaseExternalId(request))).toMatchObject({ reason: "NOT_FOUND" });
    const without = await service.organization.clientWith(["external_ids:change", "entities:write"]);
    expect(await refusal(without.entities.listExternalIdHistory({ externalId: alias }))).toMatchObject({
      reason: "PERMISSION_DENIED",
      metadata: { scope: "entities:read" },
    });
  });
});

describe("of a deleted entity", () => {
  const at = { seconds: 1n, nanos: 0 };

  it("rule 139: whoever deletes a duplicate gives its id to the entity that stays", async () => {
    const { entities } = client;
    const [kept, duplicate] = [await newPerson(client), await newPerson(client, { externalId: unique("crm") })];
    await entities.deleteEntity({ lookup: byId(duplicate), reason: "a duplicate" });
    const assign = () => entities.assignExternalId({ lookup: byId(kept), externalId: duplicate.externalId });
    expect(await refusal(assign())).toMatchObject({ reason: "DUPLICATE_EXTERNAL_ID" });
    const { entity } = await release({ lookup: byId(duplicate), externalId: duplicate.externalId });
    expect(entity).toMatchObject({ externalId: "", externalIds: [] });
    expect(entity?.deletedAt).toBeDefined();
    expect((await assign()).entity?.externalId).toBe(duplicate.externalId);
    // It comes back as it is now: without the id.
    await entities.undeleteEntity({ lookup: byId(duplicate), reason: "it was none" });
    expect(await current(client, duplicate)).toMatchObject({ externalId: "", externalIds: [] });
    expect(causesOf(await historyOf(duplicate.externalId))).toEqual([
      [kept.id, "UNSPECIFIED"],
      [duplicate.id, "RELEASED"],
    ]);
  });

  it("rules 49, 139: without its primary the oldest alias becomes it, and activity rows follow; without any they have none", async () => {
    const { person, alias } = await withAlias();
    const { activity, entities } = client;
    const origin = { externalId: person.externalId };
    await activity.recordTransactions({
      transactions: [{ type: "t", amount: "1", currency: "ARS", transactedAt: at, origin }],
    });
    await activity.recordUserEvents({ userEvents: [{ eventType: "t", occurredAt: at, entityId: person.id }] });
    const copies = async () => [
      (await activity.listTransactions({ lookup: byId(person) })).transactions[0]?.origin?.externalId,
      (await activity.listUserEvents({ lookup: byId(person) })).userEvents[0]?.entityExternalId,
    ];
    await entities.deleteEntity({ lookup: byId(person), reason: "a duplicate" });
    const { entity } = await release({ lookup: byId(person), externalId: person.externalId });
    expect(entity?.externalId).toBe(alias);
    expect(entity?.externalIds[0]).toMatchObject({ designation: 1, lastResolvedOn: "" });
    expect(entity?.externalIds[0]?.trackedSince).toBeUndefined();
    expect(await copies()).toEqual([alias, alias]);
    expect((await lastEventOf(client, person)).metadata).toEqual({
      rewrittenRows: { transactions: 1, userEvents: 1 },
    });
    await release({ lookup: byId(person), externalId: alias });
    expect(await copies()).toEqual(["", ""]);
  });

  it("rule 139: an alias goes without force, the entity stays deleted, and nothing else may be written", async () => {
    const { person, alias } = await withAlias();
    await client.entities.deleteEntity({ lookup: byId(person), reason: "a duplicate" });
    const { entity } = await release({ lookup: byExternalId(alias), externalId: alias });
    expect(idsOf(entity)).toEqual([person.externalId]);
    const add = client.entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId: alias }] });
    expect(await refusal(add)).toMatchObject({ reason: "ENTITY_DELETED" });
  });
});

describe("ListExternalIdHistory", () => {
  it("rule 137: of an external id: newest first, the period that goes on included, in pages", async () => {
    const externalId = unique("wanders");
    const owners: Entity[] = [];
    for (let i = 0; i < 5; i++) {
      const owner = await newPerson(client, { externalId: unique("own") });
      await client.entities.addExternalIds({ lookup: byId(owner), externalIds: [{ externalId, type: `label ${i}` }] });
      if (i < 4) await release({ lookup: byId(owner), externalId, force: true });
      owners.unshift(owner);
    }
    const all = await historyOf(externalId);
    expect(all.map(({ entityId, type }) => [entityId, type])).toEqual(
      owners.map(({ id }, i) => [id, `label ${4 - i}`]),
    );
    expect(all.map(({ detachedAt, eventId }) => [detachedAt === undefined, eventId === ""])).toEqual([
      [true, true],
      ...Array.from({ length: 4 }, () => [false, false]),
    ]);
    const paged: ExternalIdPeriod[] = [];
    let pageToken = "";
    do {
      const page = await client.entities.listExternalIdHistory({
        externalId: ` ${externalId}\t`,
        pageSize: 2,
        pageToken,
      });
      expect(page.periods.length).toBeLessThanOrEqual(2);
      paged.push(...page.periods);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(paged).toEqual(all);
  });

  it("rule 137: of an entity: every id that it had, those of one moment too, in pages of one", async () => {
    const person = await newPerson(client, { externalId: unique("first") });
    const [a, b, c] = [unique("a"), unique("b"), unique("c")];
    const lookup = byId(person);
    await client.entities.addExternalIds({ lookup, externalIds: [a, b, c].map((externalId) => ({ externalId })) });
    await release({ lookup, externalId: b, force: true });
    await client.entities.changeExternalId({ lookup, newExternalId: a, reason: REASON });
    await client.entities.addExternalIds({ lookup, externalIds: [{ externalId: b }] });
    const { periods } = await client.entities.listExternalIdHistory({ lookup: byExternalId(a) });
    expect(
      periods.map(({ externalId, cause }) => [externalId, ExternalIdDetachCauseSchema.value[cause]?.localName]),
    ).toEqual([
      [b, "UNSPECIFIED"],
      [c, "UNSPECIFIED"],
      [b, "RELEASED"],
      [a, "UNSPECIFIED"],
      [person.externalId, "CHANGED"],
    ]);
    const paged: ExternalIdPeriod[] = [];
    for (let pageToken: string | undefined = ""; pageToken !== undefined; ) {
      const page = await client.entities.listExternalIdHistory({ lookup, pageSize: 1, pageToken });
      paged.push(...page.periods);
      pageToken = page.nextPageToken || undefined;
    }
    expect(paged).toEqual(periods);
  });

  it("rule 137: an id that was never attached has no history; an entity that is not there is NOT_FOUND", async () => {
    expect(await historyOf(unique("never"))).toEqual([]);
    const call = client.entities.listExternalIdHistory({ lookup: byExternalId(unique("never")) });
    expect(await refusal(call)).toMatchObject({ reason: "NOT_FOUND", metadata: { lookup: "external_id" } });
    // What it was called once names it no longer, and still has a history.
    const { person, alias } = await withAlias();
    await release({ lookup: byId(person), externalId: alias, force: true });
    const former = client.entities.listExternalIdHistory({ lookup: byExternalId(alias) });
    expect(await refusal(former)).toMatchObject({ reason: "NOT_FOUND" });
    expect(causesOf(await historyOf(alias))).toEqual([[person.id, "RELEASED"]]);
  });

  it("rules 1, 137: neither, both or a blank one is INVALID_LOOKUP", async () => {
    const { listExternalIdHistory } = client.entities;
    const { person } = await withAlias();
    expect(await refusal(listExternalIdHistory({}))).toMatchObject({ reason: "INVALID_LOOKUP", fields: ["lookup"] });
    for (const request of [{ externalId: "x", lookup: byId(person) }, { externalId: " " }]) {
      expect(await refusal(listExternalIdHistory(request))).toMatchObject({
        reason: "INVALID_LOOKUP",
        fields: ["external_id"],
      });
    }
  });

  it("rule 137: no retention removes a period; its event may be gone", async () => {
    await using own = await startService({ config: { pruneIntervalMs: 100 } });
    const person = await newPerson(own.client, { externalId: unique("old") });
    const change = { lookup: byId(person), newExternalId: unique("new"), reason: REASON };
    await own.client.entities.changeExternalId(change);
    await own.sql("update entity_event set recorded_at = recorded_at - interval '30 days'");
    await own.client.organizations.updateOrganization({ organization: { eventRetentionDays: 7 } });
    await expect.poll(async () => (await own.sql("select from entity_event")).length, { timeout: 10_000 }).toBe(0);
    expect(causesOf(await historyOf(person.externalId, own.client))).toEqual([[person.id, "CHANGED"]]);
  });
});

describe("at once", () => {
  it("rules 52, 139: of 32 releases of one alias one succeeds, the others are NOT_FOUND; one period, one event", async () => {
    const { person, alias } = await withAlias();
    const endings = await together(32, () => release({ lookup: byId(person), externalId: alias, force: true }));
    expect(tally(endings)).toEqual({ OK: 1, NOT_FOUND: 31 });
    expect(causesOf(await historyOf(alias))).toEqual([[person.id, "RELEASED"]]);
    expect(await eventsOf(client, person)).toHaveLength(3);
  });

  it("rule 140: an id that two processes release and take, again and again: whoever has it has it alone", async () => {
    await using other = await startOther(service);
    const callers = [client, other.client(service.organization.apiKey)];
    const externalId = unique("contested");
    const people = await Promise.all(Array.from({ length: 6 }, () => newPerson(client, { externalId: unique("own") })));
    const endings = await Promise.all(
      people.map((person, i) =>
        (async () => {
          const { entities } = callers[i % 2] as EntityClient;
          const lookup = byId(person);
          const counts: Record<string, number> = {};
          for (let round = 0; round < 60; round++) {
            const [taken] = await together(1, () => entities.addExternalIds({ lookup, externalIds: [{ externalId }] }));
            const [gone] = await together(1, () =>
              entities.releaseExternalId({ lookup, externalId, reason: REASON, force: true }),
            );
            for (const one of [`add ${taken?.reason ?? "OK"}`, `release ${gone?.reason ?? "OK"}`]) {
              counts[one] = (counts[one] ?? 0) + 1;
            }
          }
          return counts;
        })(),
      ),
    );
    const total: Record<string, number> = {};
    for (const counts of endings) for (const [key, n] of Object.entries(counts)) total[key] = (total[key] ?? 0) + n;
    console.log(`one id between six entities and two processes: ${JSON.stringify(total)}`);
    const allowed = [
      "add OK",
      "add DUPLICATE_EXTERNAL_ID",
      "add WRITE_CONFLICT",
      "release OK",
      "release NOT_FOUND",
      "release WRITE_CONFLICT",
    ];
    expect(Object.keys(total).filter((key) => !allowed.includes(key))).toEqual([]);
    const periods = [];
    for (let pageToken: string | undefined = ""; pageToken !== undefined; ) {
      const page = await client.entities.listExternalIdHistory({ externalId, pageSize: 1000, pageToken });
      periods.push(...page.periods);
      pageToken = page.nextPageToken || undefined;
    }
    expect(periods.length).toBeGreaterThan(10);
    expect(periods.filter(({ detachedAt }) => detachedAt !== undefined)).toHaveLength(total["release OK"] ?? 0);
    // That none overlap, and that all are what the events tell, is checked of the whole database at the end.
  });

  it("rules 50, 139: recorders that name a party by the alias while it is released: recorded or NOT_FOUND", async () => {
    const { person, alias } = await withAlias();
    const at = { seconds: 1n, nanos: 0 };
    const [records] = await Promise.all([
      together(24, () =>
        client.activity.recordTransactions({
          transactions: [{ type: "t", amount: "1", currency: "ARS", transactedAt: at, origin: { externalId: alias } }],
        }),
      ),
      release({ lookup: byId(person), externalId: alias, force: true }),
    ]);
    const { OK = 0, NOT_FOUND = 0 } = tally(records);
    expect(OK + NOT_FOUND).toBe(24);
    const { transactions } = await client.activity.listTransactions({ lookup: byId(person), pageSize: 1000 });
    expect(transactions.map(({ origin }) => origin?.externalId)).toEqual(Array(OK).fill(person.externalId));
  });
});
