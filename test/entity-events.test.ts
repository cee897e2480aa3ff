// Rules 60 to 63 and 67: the log of changes.
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Designation, type EntityEvent, EntityStatus, EntityType, EventType } from "../clients/typescript/index.ts";
import { reseal } from "./chains.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byExternalId, byId, byTaxId, current, eventsOf, lastEventOf, newPerson, unique } from "./given.ts";
import { captureHeaders, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const micros = (time: { seconds: bigint; nanos: number } | undefined) =>
  (time?.seconds ?? 0n) * 1_000_000n + BigInt(Math.floor((time?.nanos ?? 0) / 1000));
const ids = (events: readonly EntityEvent[]) => events.map((event) => event.id);

describe("what an event tells", () => {
  it("rules 4, 60: external ids come back as they were given, whatever PostgreSQL's arrays mean by their characters", async () => {
    const externalIds = ['"', "\\", '\\"', "{a,b}", "NULL", "a b", "'"].map((text) => `${text}${unique("x")}${text}`);
    const [externalId = "", ...aliases] = externalIds;
    const { entity } = await service.client.entities.createEntity({
      entity: { type: EntityType.PERSON, name: "Ana Souza", countryCode: "AR", externalId },
    });
    await service.client.entities.addExternalIds({
      lookup: byExternalId(externalId),
      externalIds: aliases.map((alias) => ({ externalId: alias })),
      reason: "other systems",
    });
    const event = await lastEventOf(service.client, entity ?? { id: "" });
    expect(event?.externalId).toBe(externalId);
    expect(event?.externalIds.toSorted()).toEqual(externalIds.toSorted());
  });

  it("rule 18a: CREATED has every value that the entity has, and nothing before", async () => {
    const { entity } = await service.client.entities.createEntity({
      entity: {
        type: EntityType.PERSON,
        name: " Ana Souza ",
        countryCode: "ar",
        externalId: unique("x"),
        taxId: "20-12345678-9",
        status: EntityStatus.BLOCKED,
        nationality: "br",
        riskMatrixId: "0190b5c4-7a7e-7c3b-9d2e-3f1a2b3c4d5e",
        entityData: {
          kind: {
            case: "person",
            value: {
              firstName: "Ana",
              address: { city: "Rosario", additional: { barrio: "Centro" } },
              additional: { vip: true },
            },
          },
        },
        attributes: { tier: "gold", gone: null },
        metadata: { batch: 7 },
      },
      reason: "listed",
    });
    const [event] = await eventsOf(service.client, entity ?? { id: "" });
    expect(event).toMatchObject({
      entityId: entity?.id,
      entityVersion: 1n,
      entityType: EntityType.PERSON,
      type: EventType.CREATED,
      event: "entity.created",
      externalId: entity?.externalId,
      externalIds: [entity?.externalId],
      previousValues: {},
      recordedAt: entity?.createdAt,
      reason: "listed",
    });
    expect(event?.newValues).toEqual({
      type: "person",
      countryCode: "AR",
      externalId: entity?.externalId,
      externalIds: [{ externalId: entity?.externalId, designation: "primary", attachedAt: expect.any(String) }],
      name: "Ana Souza",
      taxId: "20-12345678-9",
      taxIdCheck: "checksum_failed",
      status: "blocked",
      nationality: "BR",
      riskMatrixId: "0190b5c4-7a7e-7c3b-9d2e-3f1a2b3c4d5e",
      entityData: { person: { firstName: "Ana", address: { city: "Rosario", barrio: "Centro" }, vip: true } },
      attributes: { tier: "gold" },
      metadata: { batch: 7 },
    });
    expect(event?.updatedFields.toSorted()).toEqual(Object.keys(event?.newValues ?? {}).sort());
  });

  it("rule 18a: a bare entity's CREATED has the few values there are", async () => {
    const person = await newPerson(service.client);
    expect((await lastEventOf(service.client, person)).newValues).toEqual({
      type: "person",
      countryCode: "BR",
      name: "Ana Souza",
      status: "pending",
    });
  });

  it("rules 60, 61: ATTRIBUTE_CHANGED has before and after of exactly the fields that changed, by their top-level names", async () => {
    const person = await newPerson(service.client, {
      attributes: { a: 1, b: 2 },
      entityData: { kind: { case: "person", value: { firstName: "Ana", email: "ana@example.com" } } },
    });
    const answer = await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: {
        name: "Ana Souza",
        status: EntityStatus.ACTIVE,
        attributes: { b: 3, c: { deep: [1, null] } },
        metadata: {},
        entityData: { kind: { case: "person", value: { email: "souza@example.com", additional: { revenue: 5 } } } },
      },
      reason: "yearly review",
    });
    expect(answer.updatedFields.toSorted()).toEqual(["attributes", "entityData", "status"]);
    const event = await lastEventOf(service.client, person);
    expect(event).toMatchObject({
      type: EventType.ATTRIBUTE_CHANGED,
      event: "entity.updated",
      entityVersion: 2n,
      reason: "yearly review",
      updatedFields: answer.updatedFields,
      recordedAt: answer.entity?.updatedAt,
    });
    expect(event.previousValues).toEqual({
      status: "pending",
      attributes: { a: 1, b: 2 },
      entityData: { person: { firstName: "Ana", email: "ana@example.com" } },
    });
    expect(event.newValues).toEqual({
      status: "active",
      attributes: { a: 1, b: 3, c: { deep: [1, null] } },
      entityData: { person: { firstName: "Ana", email: "souza@example.com", revenue: 5 } },
    });
  });

  it("rules 60, 61: the seed's update of status alone is ATTRIBUTE_CHANGED with the seed's words", async () => {
    const person = await newPerson(service.client, { status: EntityStatus.UNDER_REVIEW });
    await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { status: EntityStatus.REJECTED },
      reason: "no",
    });
    expect(await lastEventOf(service.client, person)).toMatchObject({
      type: EventType.ATTRIBUTE_CHANGED,
      updatedFields: ["status"],
      previousValues: { status: "under_review" },
      newValues: { status: "rejected" },
    });
  });

  it("rule 60: a field that had no value is absent before; one that is cleared is null after", async () => {
    const person = await newPerson(service.client);
    await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: {
        taxId: "12-3",
        nationality: "AR",
        attributes: { a: 1 },
        entityData: { kind: { case: "person", value: { firstName: "A" } } },
      },
    });
    const set = await lastEventOf(service.client, person);
    expect(set.previousValues).toEqual({});
    expect(set.newValues).toEqual({
      taxId: "12-3",
      taxIdCheck: "unknown_format",
      nationality: "AR",
      attributes: { a: 1 },
      entityData: { person: { firstName: "A" } },
    });
    await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: {},
      updateMask: { paths: ["tax_id", "nationality", "attributes", "entity_data"] },
    });
    const cleared = await lastEventOf(service.client, person);
    expect(cleared.previousValues).toEqual(set.newValues);
    expect(cleared.newValues).toEqual({
      taxId: null,
      taxIdCheck: null,
      nationality: null,
      attributes: null,
      entityData: null,
    });
  });

  it("rule 61: a nationality recalculated from the data is an updated field", async () => {
    const person = await newPerson(service.client, { nationality: "BR" });
    const answer = await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { entityData: { kind: { case: "person", value: { nationality: "ar" } } } },
    });
    expect(answer.updatedFields.toSorted()).toEqual(["entityData", "nationality"]);
    expect(await lastEventOf(service.client, person)).toMatchObject({
      previousValues: { nationality: "BR" },
      newValues: { nationality: "AR", entityData: { person: { nationality: "ar" } } },
    });
  });

  it("rules 33, 61: values that were the same before are no updated fields, and alone no event", async () => {
    const person = await newPerson(service.client, { attributes: { b: [1, { x: "y" }], a: 1 }, taxId: "12-3" });
    const answer = await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: {
        name: person.name,
        taxId: "12-3",
        attributes: { a: 1, b: [1, { x: "y" }] },
        countryCode: "br",
        type: EntityType.PERSON,
      },
    });
    expect(answer.updatedFields).toEqual([]);
    expect(answer.entity).toEqual(person);
    expect(await eventsOf(service.client, person)).toHaveLength(1);
  });

  it("rules 60, 74: keys such as __proto__ are told like any other", async () => {
    const attributes = JSON.parse('{"__proto__": {"x": 1}, "constructor": "c", "toString": 2}');
    const person = await newPerson(service.client, { attributes });
    const event = await lastEventOf(service.client, person);
    const told = (event.newValues as { attributes: object }).attributes;
    expect(Object.keys(told).sort()).toEqual(["__proto__", "constructor", "toString"]);
    expect(JSON.stringify(told)).toContain('"__proto__":{"x":1}');
  });

  it("rules 60, 77: DELETED and UNDELETED tell deletedAt, and the entity is as before", async () => {
    const person = await newPerson(service.client, { externalId: unique("x") });
    await service.client.entities.deleteEntity({ lookup: byId(person), reason: " customer left " });
    const deleted = await lastEventOf(service.client, person);
    expect(deleted).toMatchObject({
      type: EventType.DELETED,
      event: "entity.deleted",
      updatedFields: ["deletedAt"],
      previousValues: {},
      newValues: { deletedAt: expect.any(String) },
      reason: "customer left",
    });
    await service.client.entities.undeleteEntity({ lookup: byId(person), reason: "customer is back" });
    expect(await lastEventOf(service.client, person)).toMatchObject({
      type: EventType.UNDELETED,
      event: "entity.undeleted",
      entityVersion: 3n,
      updatedFields: ["deletedAt"],
      previousValues: deleted.newValues,
      newValues: { deletedAt: null },
      reason: "customer is back",
    });
  });

  it("rule 60: each event begins where the one before it ended, through every kind of change", async () => {
    const person = await newPerson(service.client, { externalId: unique("x"), attributes: { a: 1 } });
    const lookup = byId(person);
    await service.client.entities.updateEntity({ lookup, entity: { attributes: { b: 2 } } });
    await service.client.entities.changeExternalId({ lookup, newExternalId: unique("y"), reason: "migration" });
    await service.client.entities.addExternalIds({
      lookup,
      externalIds: [{ externalId: unique("z"), designation: Designation.PRIMARY }],
    });
    await service.client.entities.updateEntity({ lookup, entity: { attributes: { a: null, b: null } } });
    await service.client.entities.updateEntity({ lookup, entity: { attributes: { c: 3 } } });
    const events = await eventsOf(service.client, person);
    expect(events.map((event) => event.entityVersion)).toEqual([1n, 2n, 3n, 4n, 5n, 6n]);
    const state: Record<string, unknown> = {};
    for (const event of events) {
      const before = Object.fromEntries(
        event.updatedFields.flatMap((field) => (field in state ? [[field, state[field]]] : [])),
      );
      expect(event.previousValues).toEqual(before);
      for (const [field, value] of Object.entries(event.newValues ?? {})) {
        if (value === null) delete state[field];
        else state[field] = value;
      }
    }
    expect(state).toMatchObject({
      attributes: { c: 3 },
      externalId: (await current(service.client, person)).externalId,
    });
    const times = events.map((event) => micros(event.recordedAt));
    expect(times.every((time, i) => i === 0 || time > (times[i - 1] ?? 0n))).toBe(true);
  });

  it("rule 60: a refused, a no-op and a validated write leave no event", async () => {
    const person = await newPerson(service.client, { externalId: unique("x") });
    const lookup = byId(person);
    await refusal(service.client.entities.updateEntity({ lookup, entity: { name: "B", countryCode: "AR" } }));
    await refusal(service.client.entities.updateEntity({ lookup, entity: { name: "B" }, etag: "stale" }));
    await service.client.entities.updateEntity({ lookup, entity: {} });
    await service.client.entities.updateEntity({ lookup, entity: { name: "B" }, validateOnly: true });
    await service.client.entities.deleteEntity({ lookup, reason: "only a check", validateOnly: true });
    expect(await eventsOf(service.client, person)).toHaveLength(1);
    expect(await service.sql("select from entity_event where entity_id = $1", [person.id])).toHaveLength(1);
  });
});

describe("who, whence, when", () => {
  it("rule 67: without headers actor and principal are the API key, and source is api", async () => {
    const person = await newPerson(service.client);
    expect(await lastEventOf(service.client, person)).toMatchObject({
      actor: service.organization.apiKeyId,
      principal: service.organization.apiKeyId,
      source: "api",
      requestId: "",
      reason: "",
    });
    expect((await lastEventOf(service.client, person)).occurredAt).toBeUndefined();
  });

  it("rule 67: actor is the user of x-actor-id, source is x-source, principal stays the API key", async () => {
    const client = await service.organization.clientWith(["entities:write", "entities:read"], {
      actorId: "user-7",
      source: "dashboard",
    });
    const person = await newPerson(client);
    await client.entities.updateEntity({ lookup: byId(person), entity: { name: "B" } });
    const [created, updated] = await eventsOf(client, person);
    const keys = await service.client.organizations.listApiKeys({ pageSize: 1000 });
    for (const event of [created, updated]) {
      expect(event).toMatchObject({ actor: "user-7", source: "dashboard" });
      expect(event?.principal).not.toBe(service.organization.apiKeyId);
      expect(keys.apiKeys.map((key) => key.id)).toContain(event?.principal);
    }
  });

  it("rule 67: only ChangeExternalId has its own source; the others keep that of the call", async () => {
    const client = await service.organization.clientWith(["entities:write", "entities:read", "external_ids:change"], {
      source: "batch",
    });
    const person = await newPerson(client, { externalId: unique("x") });
    const lookup = byId(person);
    await client.entities.addExternalIds({ lookup, externalIds: [{ externalId: unique("y") }] });
    await client.entities.changeExternalId({ lookup, newExternalId: unique("z"), reason: "migration" });
    await client.entities.deleteEntity({ lookup, reason: "customer left" });
    expect((await eventsOf(client, person)).map((event) => event.source)).toEqual([
      "batch",
      "batch",
      "change_external_id_endpoint",
      "batch",
    ]);
  });

  it("rule 67: occurred_at is kept beside the service's time on any write, to the microsecond, and does not order", async () => {
    const at = { seconds: 1_600_000_000n, nanos: 123_456_789 };
    const kept = { seconds: 1_600_000_000n, nanos: 123_456_000 };
    const lookup = byExternalId(unique("x"));
    const entity = { type: EntityType.PERSON, name: "A", countryCode: "BR" };
    const { entity: person } = await service.client.entities.updateEntity({
      lookup,
      entity,
      allowMissing: true,
      occurredAt: at,
    });
    await service.client.entities.updateEntity({
      lookup,
      entity: { name: "B" },
      occurredAt: { seconds: 1n, nanos: 0 },
    });
    await service.client.entities.changeExternalId({
      lookup,
      newExternalId: unique("y"),
      reason: "migration",
      keepPreviousAsAlias: true,
      occurredAt: at,
    });
    await service.client.entities.addExternalIds({
      lookup,
      externalIds: [{ externalId: unique("z") }],
      occurredAt: at,
    });
    await service.client.entities.deleteEntity({ lookup, reason: "customer left", occurredAt: at });
    await service.client.entities.undeleteEntity({ lookup, reason: "customer is back", occurredAt: at });
    const events = await eventsOf(service.client, person ?? { id: "" });
    expect(events.map((event) => event.occurredAt)).toMatchObject([
      kept,
      { seconds: 1n, nanos: 0 },
      kept,
      kept,
      kept,
      kept,
    ]);
    for (const event of events)
      expect(Math.abs(Number(event.recordedAt?.seconds) - Date.now() / 1000)).toBeLessThan(3600);
    const bare = await newPerson(service.client);
    await service.client.entities.assignExternalId({ lookup: byId(bare), externalId: unique("a"), occurredAt: at });
    expect((await lastEventOf(service.client, bare)).occurredAt).toMatchObject(kept);
  });

  it("rule 67: a time before 1970 is kept exactly", async () => {
    const person = await newPerson(service.client);
    const at = { seconds: -1n, nanos: 999_999_000 };
    await service.client.entities.updateEntity({ lookup: byId(person), entity: { name: "B" }, occurredAt: at });
    expect((await lastEventOf(service.client, person)).occurredAt).toMatchObject(at);
  });

  it("rule 39: the event carries the request_id, in lower case, of the call that made it, and its replay adds none", async () => {
    const headers = captureHeaders();
    const client = await service.organization.clientWith(["entities:write", "entities:read"], {
      interceptors: [headers.interceptor],
    });
    const requestId = "0190B5C4-7A7E-4C3B-9D2E-3F1A2B3C4D5E";
    const person = await newPerson(client);
    const call = () => client.entities.updateEntity({ lookup: byId(person), entity: { name: "B" }, requestId });
    await call();
    await call();
    expect(headers.last.get("idempotent-replay")).toBe("true");
    expect((await eventsOf(client, person)).map((event) => event.requestId)).toEqual(["", requestId.toLowerCase()]);
    for (const asked of [requestId, requestId.toLowerCase()]) {
      const { events } = await client.entities.listEntityEvents({ requestId: asked });
      expect(events.map((event) => event.entityId)).toEqual([person.id]);
    }
  });
});

describe("ListEntityEvents", () => {
  let organization: TestOrganization;
  const made: EntityEvent[] = [];
  beforeAll(async () => {
    organization = await service.newOrganization();
    const scopes = ["entities:write", "entities:read", "external_ids:change"];
    const alice = await organization.clientWith(scopes, { actorId: "alice" });
    const bob = await organization.clientWith(scopes, { actorId: "bob" });
    for (const [i, client] of [alice, bob, alice].entries()) {
      const person = await newPerson(client, { externalId: `p${i}`, taxId: `tax-${i}` });
      await bob.entities.updateEntity({
        lookup: byId(person),
        entity: { name: "B" },
        requestId: `00000000-0000-4000-8000-00000000000${i}`,
      });
      await alice.entities.updateEntity({ lookup: byId(person), entity: { name: "C" } });
      await client.entities.changeExternalId({ lookup: byId(person), newExternalId: `q${i}`, reason: "migration" });
    }
    const { events } = await organization.client.entities.listEntityEvents({ pageSize: 1000 });
    made.push(...events);
  });

  it("rule 63: without a lookup answers the whole organization, newest first, and no other organization", async () => {
    expect(made).toHaveLength(12);
    const times = made.map((event) => micros(event.recordedAt));
    expect(times).toEqual(times.toSorted((a, b) => (a > b ? -1 : 1)));
    const all = await service.client.entities.listEntityEvents({ pageSize: 1000 });
    expect(all.events.filter((event) => ids(made).includes(event.id))).toEqual([]);
  });

  it("rule 63: every combination of the filters answers what a look at all events answers", async () => {
    const [first] = made.toReversed();
    const person = made.find((event) => event.externalId === "q1")?.entityId ?? "";
    const middle = made[5]?.recordedAt;
    const filters: [string, object, (event: EntityEvent) => boolean][] = [
      ["lookup", { lookup: byId({ id: person }) }, (event) => event.entityId === person],
      [
        "types",
        { types: [EventType.ATTRIBUTE_CHANGED, EventType.CREATED] },
        (event) => event.type !== EventType.EXTERNAL_ID_CHANGED,
      ],
      ["actor", { actor: "bob" }, (event) => event.actor === "bob"],
      ["principal", { principal: first?.principal }, (event) => event.principal === first?.principal],
      ["request_id", { requestId: "00000000-0000-4000-8000-000000000001" }, (event) => event.requestId.endsWith("1")],
      ["from", { from: middle }, (event) => micros(event.recordedAt) >= micros(middle)],
      ["to", { to: middle }, (event) => micros(event.recordedAt) < micros(middle)],
    ];
    for (let mask = 0; mask < 2 ** filters.length; mask++) {
      const used = filters.filter((_, bit) => mask & (1 << bit));
      const expected = made.filter((event) => used.every(([, , matches]) => matches(event)));
      const request = Object.assign({ pageSize: 1000 }, ...used.map(([, part]) => part));
      const { events } = await organization.client.entities.listEntityEvents(request);
      expect(ids(events), used.map(([name]) => name).join("+")).toEqual(ids(expected));
    }
  });

  it("rule 63: from is inclusive, to is exclusive, to the microsecond", async () => {
    const [event] = made.slice(4);
    const at = event?.recordedAt ?? { seconds: 0n, nanos: 0 };
    const next = { seconds: at.seconds, nanos: at.nanos + 1000 };
    const list = async (from: typeof at, to: typeof at) =>
      ids((await organization.client.entities.listEntityEvents({ from: { ...from }, to: { ...to } })).events);
    expect(await list(at, next)).toEqual([event?.id]);
    expect(await list(at, at)).toEqual([]);
    expect(await list(next, at)).toEqual([]);
  });

  it("rule 63: pages of any size are the whole list, newest first, none twice, of the organization and of an entity", async () => {
    const person = made.find((event) => event.externalId === "q2")?.entityId ?? "";
    for (const [lookup, all] of [
      [undefined, made],
      [byId({ id: person }), made.filter((event) => event.entityId === person)],
    ] as const) {
      for (const pageSize of [1, 2, 3, 4, 5, 12, 1000]) {
        const found: string[] = [];
        let pageToken = "";
        do {
          const page = await organization.client.entities.listEntityEvents({
            ...(lookup && { lookup }),
            pageSize,
            pageToken,
          });
          expect(page.events.length).toBeLessThanOrEqual(pageSize);
          found.push(...ids(page.events));
          pageToken = page.nextPageToken;
        } while (pageToken !== "");
        expect(found).toEqual(ids(all));
      }
    }
  });

  it("rule 63: what is written between two pages neither repeats nor hides an older event", async () => {
    const person = await newPerson(organization.client);
    for (const name of ["B", "C", "D", "E"])
      await organization.client.entities.updateEntity({ lookup: byId(person), entity: { name } });
    const first = await organization.client.entities.listEntityEvents({ lookup: byId(person), pageSize: 2 });
    await organization.client.entities.updateEntity({ lookup: byId(person), entity: { name: "F" } });
    const rest = await organization.client.entities.listEntityEvents({
      lookup: byId(person),
      pageSize: 10,
      pageToken: first.nextPageToken,
    });
    expect([...first.events, ...rest.events].map((event) => event.entityVersion)).toEqual([5n, 4n, 3n, 2n, 1n]);
  });

  it("rules 63, 76: events of one and the same time are paged without loss, the organization's", async () => {
    const same = await service.newOrganization();
    const people = await Promise.all(Array.from({ length: 7 }, () => newPerson(same.client)));
    await service.sql("update entity_event set recorded_at = '2026-01-01' where organization_id = $1", [same.id]);
    await service.sql("update entity set updated_at = '2026-01-01' where organization_id = $1", [same.id]);
    await reseal(
      service.sql,
      people.map(({ id }) => id),
    );
    const found: string[] = [];
    let pageToken = "";
    do {
      const page = await same.client.entities.listEntityEvents({ pageSize: 2, pageToken });
      found.push(...page.events.map((event) => event.entityId));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(found.toSorted()).toEqual(people.map((person) => person.id).sort());
  });

  it("rule 76: a negative page size, a made-up token and the token of another query are VALIDATION_ERROR; a huge size is capped", async () => {
    const list = (request: object) => organization.client.entities.listEntityEvents(request);
    expect(await refusal(list({ pageSize: -1 }))).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["page_size"] });
    const { nextPageToken } = await list({ pageSize: 1 });
    for (const request of [
      { pageToken: "bm9uc2Vuc2U" },
      { pageToken: `${nextPageToken}A` },
      { pageToken: nextPageToken, actor: "bob" },
      { pageToken: nextPageToken, types: [EventType.CREATED] },
    ]) {
      expect(await refusal(list(request))).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["page_token"] });
    }
    expect(await refusal(service.client.entities.listEntityEvents({ pageToken: nextPageToken }))).toMatchObject({
      reason: "VALIDATION_ERROR",
    });
    expect((await list({ pageSize: 2_000_000_000 })).nextPageToken).toBe("");
  });

  it("rule 63: an entity is found by any lookup, before and after its external id changed, with its whole history", async () => {
    const person = made.find((event) => event.externalId === "q0")?.entityId ?? "";
    const expected = ids(made.filter((event) => event.entityId === person));
    for (const lookup of [byId({ id: person }), byExternalId("q0"), byTaxId("TAX0")]) {
      expect(ids((await organization.client.entities.listEntityEvents({ lookup })).events)).toEqual(expected);
    }
    const history = await organization.client.entities.listEntityEvents({ lookup: byExternalId("q0") });
    expect(history.events.map((event) => event.externalId)).toEqual(["q0", "p0", "p0", "p0"]);
    expect(await refusal(organization.client.entities.listEntityEvents({ lookup: byExternalId("p0") }))).toMatchObject({
      reason: "NOT_FOUND",
    });
  });

  it("rule 63: a freed id that another entity took answers that one's history alone", async () => {
    const taker = await newPerson(organization.client, { externalId: "p1" });
    const { events } = await organization.client.entities.listEntityEvents({ lookup: byExternalId("p1") });
    expect(events.map((event) => event.entityId)).toEqual([taker.id]);
  });

  it("rule 63: a deleted entity's history is still there", async () => {
    const person = await newPerson(organization.client, { externalId: unique("gone") });
    await organization.client.entities.deleteEntity({ lookup: byId(person), reason: "customer left" });
    const { events } = await organization.client.entities.listEntityEvents({ lookup: byExternalId(person.externalId) });
    expect(events.map((event) => event.type)).toEqual([EventType.DELETED, EventType.CREATED]);
  });

  it("rules 1, 3, 4: bad and unknown lookups are refused as everywhere", async () => {
    const list = (lookup: object) => organization.client.entities.listEntityEvents({ lookup });
    const other = await newPerson(service.client);
    expect(await refusal(list({}))).toMatchObject({ reason: "INVALID_LOOKUP" });
    expect(await refusal(list(byExternalId("  ")))).toMatchObject({ reason: "INVALID_LOOKUP" });
    expect(await refusal(list(byId({ id: "nonsense" })))).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(await refusal(list(byId(other)))).toMatchObject({
      code: 5,
      reason: "NOT_FOUND",
      message: "Entity not found",
    });
  });

  it("rule 63: bad filters are VALIDATION_ERROR, and an unknown actor answers nothing", async () => {
    const list = (request: object) => organization.client.entities.listEntityEvents(request);
    expect(await refusal(list({ principal: "nonsense" }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["principal"],
    });
    expect(await refusal(list({ requestId: "nonsense" }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["request_id"],
    });
    expect(await refusal(list({ types: [EventType.UNSPECIFIED] }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["types[0]"],
    });
    expect(await refusal(list({ types: [99] }))).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["types[0]"] });
    expect((await list({ actor: "nobody" })).events).toEqual([]);
  });
});

describe("append-only", () => {
  const statements = [
    "update entity_event set reason = 'forged'",
    "update entity_event set recorded_at = now() where id = gen_random_uuid()",
    "delete from entity_event",
    "delete from entity_event where false",
    "truncate entity_event",
    "truncate entity cascade",
  ];
  it.each(statements)("rule 62: the run-time role is refused %j by the database", async (statement) => {
    const person = await newPerson(service.client);
    const before = await service.sql("select * from entity_event order by id");
    const client = new pg.Client({ ...service.database, user: "entity_service", password: RUNTIME_PASSWORD });
    await client.connect();
    try {
      await client.query("select set_config('app.organization_id', $1, false)", [service.organization.id]);
      expect((await client.query("select from entity_event where entity_id = $1", [person.id])).rowCount).toBe(1);
      await expect(client.query(statement)).rejects.toMatchObject({ code: "42501" });
    } finally {
      await client.end();
    }
    expect(await service.sql("select * from entity_event order by id")).toEqual(before);
  });

  it("rule 62: nor can it give itself the right, become the owner, or turn the wall off", async () => {
    const client = new pg.Client({ ...service.database, user: "entity_service", password: RUNTIME_PASSWORD });
    await client.connect();
    try {
      for (const statement of [
        "alter table entity_event disable row level security",
        "alter table entity_event owner to entity_service",
        "drop table entity_event",
        "create trigger t before insert on entity_event execute function pg_catalog.suppress_redundant_updates_trigger()",
        `set role ${pg.escapeIdentifier(service.database.user)}`,
        "set role entity_directory",
        "set session_replication_role = replica",
      ]) {
        await expect(client.query(statement), statement).rejects.toMatchObject({ code: "42501" });
      }
      await client.query("grant delete on entity_event to entity_service").catch(() => {});
      await expect(client.query("delete from entity_event where false")).rejects.toMatchObject({ code: "42501" });
    } finally {
      await client.end();
    }
  });

  it("rule 62: it can neither see another organization's events nor write one for it", async () => {
    const other = await service.newOrganization();
    await newPerson(other.client);
    const client = new pg.Client({ ...service.database, user: "entity_service", password: RUNTIME_PASSWORD });
    await client.connect();
    try {
      expect((await client.query("select from entity_event")).rowCount).toBe(0);
      await client.query("select set_config('app.organization_id', $1, false)", [service.organization.id]);
      expect((await client.query("select from entity_event where organization_id = $1", [other.id])).rowCount).toBe(0);
      const forged = client.query(
        `insert into entity_event select $1::uuid, gen_random_uuid(), v.entity_id, 2, v.entity_type, v.type, v.external_id,
           v.external_ids, v.updated_fields, v.previous_values, v.new_values, v.actor, v.principal, v.source
         from entity_event v limit 1`,
        [other.id],
      );
      await expect(forged).rejects.toMatchObject({ code: "42501" });
    } finally {
      await client.end();
    }
    expect(await service.sql("select from entity_event where organization_id = $1", [other.id])).toHaveLength(1);
  });
});
