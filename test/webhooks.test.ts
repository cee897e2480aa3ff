// WebhookService: endpoints and their secrets, what is sent to whom, replays, and the end of an endpoint.
import { randomUUID } from "node:crypto";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createEntityClient,
  EntityStatus,
  EntityType,
  WebhookDeliveryState,
  WebhookDisabledReason,
  WebhookEndpointState,
  WebhookStatusChanges,
} from "../clients/typescript/index.ts";
import { instantToText } from "../src/domain/time.ts";
import { byId, eventsOf, lastEventOf, newPerson } from "./given.ts";
import { captureHeaders, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import {
  deliveriesOf,
  eventually,
  newEndpoint,
  quietly,
  type ScriptedReceiver,
  startReceiver,
  verify,
} from "./scripted-receiver.ts";

let service: TestService;
let receiver: ScriptedReceiver;
/** An organization for this test alone. */
let own: TestOrganization;
let paths = 0;
const path = () => `/${++paths}`;
const nowhere = "https://example.com/hook";
const { ENABLED, DISABLED } = WebhookEndpointState;

beforeAll(async () => {
  service = await startService();
  receiver = await startReceiver();
  own = await service.newOrganization();
});
afterAll(async () => {
  await receiver[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

/** Waits for N requests to the path. */
const arrived = (at: string, count: number) =>
  eventually(() => receiver.to(at).length >= count || `${receiver.to(at).length} of ${count} came`);
const told = (at: string) => receiver.to(at).map(({ json, version }) => [json.event, version]);
const all = { from: { seconds: 0n, nanos: 0 }, to: timestampFromDate(new Date("2100-01-01")) };

describe("endpoints", () => {
  test("one that was made has the defaults, and its secret is answered by nothing else", async () => {
    const { client } = await service.newOrganization();
    const { endpoint, secret } = await client.webhooks.createWebhookEndpoint({
      endpoint: { url: nowhere, displayName: "  Ledger ", eventTypes: ["entity.deleted", "entity.deleted"] },
    });
    expect(endpoint).toMatchObject({
      url: nowhere,
      displayName: "Ledger",
      description: "",
      eventTypes: ["entity.deleted"],
      entityTypes: [],
      statusChanges: WebhookStatusChanges.ALONE,
      state: ENABLED,
      disabledReason: WebhookDisabledReason.UNSPECIFIED,
    });
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    const endpointId = endpoint?.id ?? "";
    const got = await client.webhooks.getWebhookEndpoint({ endpointId });
    expect(got.endpoint).toEqual(endpoint);
    const { endpoints } = await client.webhooks.listWebhookEndpoints({});
    expect(endpoints).toEqual([endpoint]);
    const updated = await client.webhooks.updateWebhookEndpoint({ endpointId, endpoint: { description: "x" } });
    const answers = [got, endpoints, updated].map((answer) =>
      JSON.stringify(answer, (_, value) => (typeof value === "bigint" ? String(value) : value)),
    );
    for (const answer of answers) expect(answer).not.toContain("whsec_");
  });

  test.each([
    ["no url", { displayName: "x" }, "endpoint.url"],
    ["no name", { url: nowhere, displayName: " " }, "endpoint.display_name"],
    ["http", { url: "http://example.com/", displayName: "x" }, "endpoint.url"],
    ["an address of a private network", { url: "https://10.0.0.1/", displayName: "x" }, "endpoint.url"],
    ["a user in the url", { url: "https://me@example.com/", displayName: "x" }, "endpoint.url"],
    [
      "an event that there is not",
      { url: nowhere, displayName: "x", eventTypes: ["entity.vanished"] },
      "endpoint.event_types[0]",
    ],
    [
      "no type of entity",
      { url: nowhere, displayName: "x", entityTypes: [EntityType.UNSPECIFIED] },
      "endpoint.entity_types[0]",
    ],
    ["a name that is too long", { url: nowhere, displayName: "x".repeat(513) }, "endpoint.display_name"],
  ])("refused: %s", async (_, endpoint, field) => {
    expect(await refusal(own.client.webhooks.createWebhookEndpoint({ endpoint }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: [field],
    });
  });

  test("an organization has at most 100, and one that was deleted makes room", async () => {
    const { client } = await service.newOrganization();
    const endpoint = { url: nowhere, displayName: "x", state: DISABLED };
    const make = () => client.webhooks.createWebhookEndpoint({ endpoint });
    await Promise.all(Array.from({ length: 99 }, make));
    // One of two at once is the hundredth.
    const ends = await Promise.allSettled([make(), make()]);
    expect(ends.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    expect(await refusal(make())).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["endpoint"] });
    const { endpoints, nextPageToken } = await client.webhooks.listWebhookEndpoints({ pageSize: 60 });
    const rest = await client.webhooks.listWebhookEndpoints({ pageSize: 60, pageToken: nextPageToken });
    expect(new Set([...endpoints, ...rest.endpoints].map(({ id }) => id)).size).toBe(100);
    expect(rest.nextPageToken).toBe("");
    await client.webhooks.deleteWebhookEndpoint({ endpointId: endpoints[0]?.id ?? "" });
    await make();
  });

  test("validate_only makes nothing and answers no secret", async () => {
    const { client } = await service.newOrganization();
    const made = await client.webhooks.createWebhookEndpoint({
      endpoint: { url: nowhere, displayName: "x" },
      validateOnly: true,
    });
    expect(made.secret).toBe("");
    expect((await client.webhooks.listWebhookEndpoints({})).endpoints).toEqual([]);
    const endpoint = await newEndpoint(client, nowhere);
    const rotated = await client.webhooks.rotateWebhookSecret({ endpointId: endpoint.id, validateOnly: true });
    expect(rotated.secret).toBe("");
    await client.webhooks.deleteWebhookEndpoint({ endpointId: endpoint.id, validateOnly: true });
    const { endpoint: now } = await client.webhooks.getWebhookEndpoint({ endpointId: endpoint.id });
    expect(now?.etag).toBe(endpoint.etag);
  });

  test("an update writes what is populated or named, moves the etag, and a stale one is refused", async () => {
    const { client } = own;
    const made = await newEndpoint(client, nowhere, {
      eventTypes: ["entity.deleted"],
      entityTypes: [EntityType.PERSON],
    });
    const update = (request: object) => client.webhooks.updateWebhookEndpoint({ endpointId: made.id, ...request });
    const { endpoint: first } = await update({
      endpoint: { url: "https://example.com/other", statusChanges: WebhookStatusChanges.ALWAYS },
      etag: made.etag,
    });
    expect(first).toMatchObject({
      url: "https://example.com/other",
      displayName: "test",
      eventTypes: ["entity.deleted"],
      statusChanges: WebhookStatusChanges.ALWAYS,
    });
    expect(first?.etag).not.toBe(made.etag);
    expect(await refusal(update({ endpoint: { displayName: "x" }, etag: made.etag }))).toMatchObject({
      reason: "ETAG_MISMATCH",
      metadata: { etag: first?.etag },
    });
    const { endpoint: cleared } = await update({ updateMask: { paths: ["event_types", "entity_types"] } });
    expect(cleared).toMatchObject({ eventTypes: [], entityTypes: [], url: "https://example.com/other" });
    const { endpoint: same } = await update({ endpoint: { displayName: "test" } });
    expect(same).toEqual(cleared);
    expect(await refusal(update({ updateMask: { paths: ["url"] } }))).toMatchObject({ fields: ["endpoint.url"] });
    expect(await refusal(update({ updateMask: { paths: ["secret"] } }))).toMatchObject({ fields: ["update_mask"] });
  });

  test("a repeated request_id gets the first answer (rule 39)", async () => {
    const headers = captureHeaders();
    const client = await own.clientWith(["webhooks:admin", "entities:read"], { interceptors: [headers.interceptor] });
    const { id: endpointId } = await newEndpoint(client, nowhere);
    const request = { endpointId, endpoint: { displayName: "once" }, requestId: randomUUID() };
    const first = await client.webhooks.updateWebhookEndpoint(request);
    await client.webhooks.updateWebhookEndpoint({ endpointId, endpoint: { displayName: "later" } });
    expect(await client.webhooks.updateWebhookEndpoint(request)).toEqual(first);
    expect(headers.last.get("idempotent-replay")).toBe("true");
    const removal = { endpointId, requestId: randomUUID() };
    await client.webhooks.deleteWebhookEndpoint(removal);
    await client.webhooks.deleteWebhookEndpoint(removal);
    expect(await refusal(client.webhooks.deleteWebhookEndpoint({ endpointId }))).toMatchObject({ reason: "NOT_FOUND" });
  });

  test("a key without the scope webhooks:admin is refused", async () => {
    const client = await own.clientWith(["entities:read", "entities:write", "admin"]);
    expect(await refusal(client.webhooks.listWebhookEndpoints({}))).toMatchObject({
      reason: "PERMISSION_DENIED",
      metadata: { scope: "webhooks:admin" },
    });
  });
});

describe("what is sent", () => {
  test("a creation, an update, a deletion and its undoing, with the seeds' words (rule 64)", async () => {
    const { client } = await service.newOrganization();
    const at = path();
    const { secret } = await newEndpoint(client, receiver.url(at));
    const person = await newPerson(client, { externalId: "x-1", status: EntityStatus.ACTIVE });
    await client.entities.updateEntity({
      lookup: byId(person),
      entity: { name: "Ana Lima", status: EntityStatus.BLOCKED },
      reason: "Sanctions",
    });
    await client.entities.deleteEntity({ lookup: byId(person), reason: "left us" });
    await client.entities.undeleteEntity({ lookup: byId(person), reason: "came back" });
    await arrived(at, 4);
    expect(told(at)).toEqual([
      ["entity.created", 1],
      ["entity.updated", 2],
      ["entity.deleted", 3],
      ["entity.undeleted", 4],
    ]);
    for (const request of receiver.to(at)) verify(secret, request);
    const [created, updated] = receiver.to(at);
    expect(updated?.json).toEqual({
      event: "entity.updated",
      entityId: person.id,
      externalId: "x-1",
      updatedFields: ["name", "status"],
      previousValues: { name: "Ana Souza", status: "active" },
      newValues: { name: "Ana Lima", status: "blocked" },
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      entityVersion: 2,
      timestamp: expect.any(String),
      changedBy: expect.stringMatching(/^[0-9a-f-]{36}$/),
      reason: "Sanctions",
      source: "api",
      // Of a chain: rule 122.
      previousHash: created?.json.hash,
      hash: expect.stringMatching(/^[A-Za-z0-9+/]{43}=$/),
    });
    expect(updated?.headers).toMatchObject({
      "content-type": "application/json",
      "user-agent": expect.stringMatching(/^EntityService\/\d/),
    });
    expect(Math.abs(Number(updated?.headers["webhook-timestamp"]) - Date.now() / 1000)).toBeLessThan(10);
  });

  test("a change of the status alone is entity.status_changed, with the time of the event (rules 65, 66, 67)", async () => {
    const organization = await service.newOrganization();
    const at = path();
    await newEndpoint(organization.client, receiver.url(at), { eventTypes: ["entity.status_changed"] });
    const client = await organization.clientWith(["entities:read", "entities:write"], { actorId: "user-7" });
    const person = await newPerson(client, { externalId: "x-1", status: EntityStatus.ACTIVE });
    const block = { lookup: byId(person), entity: { status: EntityStatus.BLOCKED }, reason: "Failed screening" };
    await client.entities.updateEntity(block);
    await arrived(at, 1);
    const event = await lastEventOf(client, person);
    const [request] = receiver.to(at);
    expect(request?.json).toEqual({
      event: "entity.status_changed",
      entityId: person.id,
      externalId: "x-1",
      oldStatus: "active",
      newStatus: "blocked",
      reason: "Failed screening",
      changedBy: "user-7",
      timestamp: expect.any(String),
      id: event.id,
      entityVersion: 2,
      source: "api",
      previousHash: Buffer.from(event.previousHash).toString("base64"),
      hash: Buffer.from(event.hash).toString("base64"),
    });
    const { seconds = 0n, nanos = 0 } = event.recordedAt ?? {};
    expect(request?.json.timestamp).toBe(instantToText(seconds * 1_000_000n + BigInt(nanos) / 1_000n));
    // A write that changes nothing sends nothing (rule 33), and neither does one that is refused.
    await client.entities.updateEntity(block);
    await refusal(client.entities.updateEntity({ lookup: byId(person), entity: { status: EntityStatus.REJECTED } }));
    await quietly();
    expect(told(at)).toHaveLength(1);
  });

  test("a combined change is entity.updated, and with ALWAYS entity.status_changed behind it (rule 65)", async () => {
    const { client } = await service.newOrganization();
    const [alone, always] = [path(), path()];
    await newEndpoint(client, receiver.url(alone));
    await newEndpoint(client, receiver.url(always), { statusChanges: WebhookStatusChanges.ALWAYS });
    const person = await newPerson(client, { status: EntityStatus.ACTIVE });
    await client.entities.updateEntity({
      lookup: byId(person),
      entity: { name: "Ana Lima", status: EntityStatus.INACTIVE },
    });
    await client.entities.updateEntity({ lookup: byId(person), entity: { status: EntityStatus.ACTIVE } });
    await arrived(alone, 3);
    await arrived(always, 4);
    expect(told(alone)).toEqual([
      ["entity.created", 1],
      ["entity.updated", 2],
      ["entity.status_changed", 3],
    ]);
    expect(told(always)).toEqual([
      ["entity.created", 1],
      ["entity.updated", 2],
      ["entity.status_changed", 2],
      ["entity.status_changed", 3],
    ]);
  });

  test("only the events and the types of entities that an endpoint asks for, from its creation on", async () => {
    const { client } = await service.newOrganization();
    const old = await newPerson(client);
    const [companies, deletions] = [path(), path()];
    await newEndpoint(client, receiver.url(companies), { entityTypes: [EntityType.COMPANY] });
    const endpoint = await newEndpoint(client, receiver.url(deletions), { eventTypes: ["entity.deleted"] });
    await newPerson(client);
    const { entity: company } = await client.entities.createEntity({
      entity: { type: EntityType.COMPANY, name: "Molinos S.A.", countryCode: "AR" },
    });
    await client.entities.deleteEntity({ lookup: byId(old), reason: "left us" });
    await arrived(companies, 1);
    await arrived(deletions, 1);
    await quietly();
    expect(receiver.to(companies).map(({ json }) => [json.event, json.entityId])).toEqual([
      ["entity.created", company?.id],
    ]);
    expect(receiver.to(deletions).map(({ json }) => [json.event, json.entityId])).toEqual([["entity.deleted", old.id]]);
    // A change of the filters applies to later events.
    await client.webhooks.updateWebhookEndpoint({
      endpointId: endpoint.id,
      endpoint: { eventTypes: ["entity.created"] },
    });
    await newPerson(client);
    await arrived(deletions, 2);
    expect(told(deletions)[1]).toEqual(["entity.created", 1]);
  });

  test("nothing of one organization goes to another's endpoint", async () => {
    const [a, b] = [await service.newOrganization(), await service.newOrganization()];
    const [ofA, ofB] = [path(), path()];
    await newEndpoint(a.client, receiver.url(ofA));
    await newEndpoint(b.client, receiver.url(ofB));
    const person = await newPerson(a.client);
    await arrived(ofA, 1);
    await quietly();
    expect(receiver.to(ofA).map(({ json }) => json.entityId)).toEqual([person.id]);
    expect(receiver.to(ofB)).toEqual([]);
  });
});

describe("secrets", () => {
  test("after a rotation both sign for the time that was asked for, then the new one alone", async () => {
    const { client } = await service.newOrganization();
    const at = path();
    const endpoint = await newEndpoint(client, receiver.url(at));
    const rotated = await client.webhooks.rotateWebhookSecret({
      endpointId: endpoint.id,
      previousSecretLifetime: { seconds: 600n, nanos: 0 },
      etag: endpoint.etag,
    });
    expect(rotated.secret).not.toBe(endpoint.secret);
    const expiresAt = rotated.endpoint?.previousSecretExpiresAt;
    if (expiresAt === undefined) throw new Error("no end of the secret before");
    expect(Math.abs(timestampDate(expiresAt).getTime() - Date.now() - 600_000)).toBeLessThan(30_000);
    const again = client.webhooks.rotateWebhookSecret({ endpointId: endpoint.id, etag: endpoint.etag });
    expect(await refusal(again)).toMatchObject({ reason: "ETAG_MISMATCH" });
    const person = await newPerson(client);
    await arrived(at, 1);
    for (const secret of [endpoint.secret, rotated.secret]) verify(secret, receiver.to(at)[0] as never);
    await service.sql("update webhook_endpoint set previous_secret_expires_at = now() where id = $1", [endpoint.id]);
    await client.entities.updateEntity({ lookup: byId(person), entity: { name: "Eva" } });
    await arrived(at, 2);
    verify(rotated.secret, receiver.to(at)[1] as never);
    expect(() => verify(endpoint.secret, receiver.to(at)[1] as never)).toThrow();
    const { endpoint: now } = await client.webhooks.getWebhookEndpoint({ endpointId: endpoint.id });
    expect(now?.previousSecretExpiresAt).toBeUndefined();
  });

  test("the lifetime is a day when none is given, at least none, at most seven days", async () => {
    const { id: endpointId, secret } = await newEndpoint(own.client, nowhere);
    const rotate = (previousSecretLifetime?: { seconds: bigint; nanos: number }) =>
      own.client.webhooks.rotateWebhookSecret({
        endpointId,
        ...(previousSecretLifetime && { previousSecretLifetime }),
      });
    const { endpoint } = await rotate();
    const hours =
      ((endpoint?.previousSecretExpiresAt && timestampDate(endpoint.previousSecretExpiresAt).getTime()) ?? 0) -
      Date.now();
    expect(hours / 3_600_000).toBeCloseTo(24, 1);
    const at_once = await rotate({ seconds: 0n, nanos: 0 });
    expect(at_once.endpoint?.previousSecretExpiresAt).toBeUndefined();
    const rows = await service.sql("select secret, previous_secret from webhook_endpoint where id = $1", [endpointId]);
    expect(rows).toEqual([{ secret: at_once.secret, previous_secret: null }]);
    expect(secret).not.toBe(at_once.secret);
    await rotate({ seconds: 604_800n, nanos: 0 });
    for (const [seconds, nanos] of [
      [604_800n, 1],
      [-1n, 0],
      [0n, -1],
      [0n, 1_000_000_000],
    ] as const) {
      expect(await refusal(rotate({ seconds, nanos }))).toMatchObject({ fields: ["previous_secret_lifetime"] });
    }
  });
});

describe("deliveries", () => {
  test("are listed newest first, by endpoint, state, entity, event and time, in pages", async () => {
    const { client } = await service.newOrganization();
    const [good, bad] = [path(), path()];
    receiver.answer = ({ path: to }) => (to === bad ? 500 : 200);
    const first = await newEndpoint(client, receiver.url(good));
    const second = await newEndpoint(client, receiver.url(bad));
    const [ana, eva] = [await newPerson(client), await newPerson(client)];
    await client.entities.updateEntity({ lookup: byId(ana), entity: { name: "Ana Lima" } });
    await arrived(good, 3);
    await arrived(bad, 2);
    const list = async (request: Parameters<typeof client.webhooks.listWebhookDeliveries>[0]) =>
      (await client.webhooks.listWebhookDeliveries(request)).deliveries;
    await eventually(async () => (await list({ states: [WebhookDeliveryState.DELIVERED] })).length === 3);
    await eventually(async () => (await list({ endpointId: second.id })).flatMap((one) => one.attempts).length === 2);
    const delivered = await list({ endpointId: first.id });
    expect(delivered.map((one) => [one.eventType, one.entityId, one.entityVersion])).toEqual([
      ["entity.updated", ana.id, 2n],
      ["entity.created", eva.id, 1n],
      ["entity.created", ana.id, 1n],
    ]);
    const [newest] = delivered;
    const event = await lastEventOf(client, ana);
    expect(newest).toMatchObject({
      id: receiver.to(good)[2]?.id,
      endpointId: first.id,
      eventId: event.id,
      eventRecordedAt: event.recordedAt,
      state: WebhookDeliveryState.DELIVERED,
      attempts: [{ status: 200, error: "", latencyMs: expect.any(Number) }],
    });
    expect(newest?.nextAttemptAt).toBeUndefined();
    expect(newest?.finishedAt).toBeDefined();
    const pending = await list({ endpointId: second.id });
    expect(
      pending.map((one) => [one.state, one.attempts.map(({ status }) => status), one.nextAttemptAt === undefined]),
    ).toEqual([
      // Waits behind the delivery of the same entity.
      [WebhookDeliveryState.PENDING, [], true],
      [WebhookDeliveryState.PENDING, [500], false],
      [WebhookDeliveryState.PENDING, [500], false],
    ]);
    expect((await list({ lookup: byId(eva) })).map((one) => one.endpointId).sort()).toEqual(
      [first.id, second.id].sort(),
    );
    expect(
      (await list({ eventTypes: ["entity.updated"], states: [WebhookDeliveryState.PENDING] })).map(({ id }) => id),
    ).toEqual([pending[0]?.id]);
    const since = { ...(event.recordedAt && { from: event.recordedAt }) };
    expect(await list({ endpointId: first.id, ...since })).toEqual([newest]);
    expect(await list({ endpointId: first.id, ...(event.recordedAt && { to: event.recordedAt }) })).toEqual(
      delivered.slice(1),
    );
    const pages = [];
    for (let pageToken = ""; ; ) {
      const page = await client.webhooks.listWebhookDeliveries({ pageSize: 2, pageToken });
      pages.push(...page.deliveries);
      pageToken = page.nextPageToken;
      if (pageToken === "") break;
    }
    expect(pages.map(({ id }) => id)).toEqual((await list({})).map(({ id }) => id));
    expect(pages).toHaveLength(6);
    receiver.answer = () => 200;
  });

  test("a replay by ids sends the same again under the same ids, in the order of the versions", async () => {
    const { client } = await service.newOrganization();
    const at = path();
    const endpoint = await newEndpoint(client, receiver.url(at));
    const person = await newPerson(client);
    for (const name of ["b", "c", "d"]) await client.entities.updateEntity({ lookup: byId(person), entity: { name } });
    await arrived(at, 4);
    await eventually(async () =>
      (await deliveriesOf(client, endpoint)).every(({ state }) => state === WebhookDeliveryState.DELIVERED),
    );
    const before = [...receiver.to(at)];
    const ids = before.map(({ id }) => id);
    const request = { endpointId: endpoint.id, deliveryIds: ids.toReversed(), requestId: randomUUID() };
    expect((await client.webhooks.replayWebhookDeliveries(request)).deliveries).toBe(4);
    await client.webhooks.replayWebhookDeliveries(request);
    await arrived(at, 8);
    await quietly();
    const again = receiver.to(at).slice(4);
    expect(again.map(({ id, body }) => [id, body])).toEqual(before.map(({ id, body }) => [id, body]));
    for (const one of again) verify(endpoint.secret, one);
    expect((await deliveriesOf(client, endpoint)).map((one) => one.attempts.length)).toEqual([2, 2, 2, 2]);
    const unknown = { endpointId: endpoint.id, deliveryIds: [...ids, randomUUID()] };
    // Deliveries of another endpoint are not found either.
    const second = { endpointId: (await newEndpoint(client, nowhere)).id, deliveryIds: ids };
    for (const wrong of [unknown, second]) {
      expect(await refusal(client.webhooks.replayWebhookDeliveries(wrong))).toMatchObject({
        reason: "NOT_FOUND",
        metadata: { lookup: "delivery_id" },
      });
    }
    await quietly();
    expect(receiver.to(at)).toHaveLength(8);
  });

  test("a replay of what an endpoint has not come to yet does not overtake what is before it (rule 66)", async () => {
    const { client } = await service.newOrganization();
    const person = await newPerson(client);
    const at = path();
    const endpoint = await newEndpoint(client, receiver.url(at), { state: WebhookEndpointState.DISABLED });
    for (const name of ["b", "c", "d"]) await client.entities.updateEntity({ lookup: byId(person), entity: { name } });
    const from = (await lastEventOf(client, person)).recordedAt as never;
    await client.webhooks.replayWebhookDeliveries({ endpointId: endpoint.id, ...all, from });
    await client.webhooks.updateWebhookEndpoint({
      endpointId: endpoint.id,
      endpoint: { state: WebhookEndpointState.ENABLED },
    });
    await arrived(at, 3);
    await quietly();
    expect(receiver.to(at).map(({ version }) => version)).toEqual([2, 3, 4]);
  });

  test("a replay ends a pause, and is no change of the endpoint: its etag and its time stay", async () => {
    const { client } = await service.newOrganization();
    const { id: endpointId } = await newEndpoint(client, nowhere, { state: WebhookEndpointState.DISABLED });
    const { endpoint: before } = await client.webhooks.getWebhookEndpoint({ endpointId });
    await service.sql("update webhook_endpoint set paused_until = now() + interval '1 hour' where id = $1", [
      endpointId,
    ]);
    const now = Date.now();
    const [from, to] = [timestampFromDate(new Date(now - 60_000)), timestampFromDate(new Date(now))];
    await client.webhooks.replayWebhookDeliveries({ endpointId, from, to });
    expect(await service.sql("select paused_until from webhook_endpoint where id = $1", [endpointId])).toEqual([
      { paused_until: null },
    ]);
    expect((await client.webhooks.getWebhookEndpoint({ endpointId })).endpoint).toEqual(before);
  });

  test("a replay of a range sends every event of it that the filters accept, from before the endpoint too", async () => {
    const { client } = await service.newOrganization();
    const [person, company] = [await newPerson(client), await newPerson(client, { type: EntityType.COMPANY })];
    for (let i = 0; i < 5; i++)
      await client.entities.updateEntity({ lookup: byId(person), entity: { name: `Ana ${i}` } });
    const events = await eventsOf(client, person);
    const at = path();
    const endpoint = await newEndpoint(client, receiver.url(at), { entityTypes: [EntityType.PERSON] });
    await client.entities.updateEntity({ lookup: byId(person), entity: { name: "Ana last" } });
    await arrived(at, 1);
    const range = { endpointId: endpoint.id, ...all, to: (await lastEventOf(client, person)).recordedAt as never };
    let replayed = 0;
    for (let pageToken = ""; ; ) {
      const page = await client.webhooks.replayWebhookDeliveries({ ...range, pageSize: 2, pageToken });
      replayed += page.deliveries;
      pageToken = page.nextPageToken;
      if (pageToken === "") break;
    }
    expect(replayed).toBe(events.length);
    await arrived(at, 1 + events.length);
    await quietly();
    expect(receiver.to(at).map(({ version }) => version)).toEqual([7, 1, 2, 3, 4, 5, 6]);
    expect(receiver.to(at).every(({ json }) => json.entityId !== company.id)).toBe(true);
  });

  test.each([
    ["neither ids nor a range", {}, "delivery_ids"],
    ["both", { deliveryIds: [randomUUID()], ...all }, "delivery_ids"],
    ["half a range", { from: all.from }, "delivery_ids"],
    ["a range that ends before it begins", { from: all.to, to: all.from }, "to"],
    ["an id that is none", { deliveryIds: ["x"] }, "delivery_ids[0]"],
    ["more than 1000", { deliveryIds: Array.from({ length: 1001 }, () => randomUUID()) }, "delivery_ids"],
  ])("a replay is refused: %s", async (_, request, field) => {
    const { id: endpointId } = await newEndpoint(own.client, nowhere, { state: DISABLED });
    expect(await refusal(own.client.webhooks.replayWebhookDeliveries({ endpointId, ...request }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: [field],
    });
  });
});

describe("the end of an endpoint", () => {
  test("a disabled one gets nothing, and goes on where it stopped", async () => {
    const { client } = await service.newOrganization();
    const at = path();
    const { id: endpointId } = await newEndpoint(client, receiver.url(at));
    const person = await newPerson(client);
    await arrived(at, 1);
    const { endpoint: off } = await client.webhooks.updateWebhookEndpoint({
      endpointId,
      endpoint: { state: DISABLED },
    });
    expect(off).toMatchObject({ state: DISABLED, disabledReason: WebhookDisabledReason.REQUESTED });
    expect(off?.disabledAt).toBeDefined();
    for (const name of ["b", "c"]) await client.entities.updateEntity({ lookup: byId(person), entity: { name } });
    await quietly();
    expect(told(at)).toHaveLength(1);
    const { endpoint: on } = await client.webhooks.updateWebhookEndpoint({ endpointId, endpoint: { state: ENABLED } });
    expect(on).toMatchObject({ state: ENABLED, disabledReason: WebhookDisabledReason.UNSPECIFIED });
    expect(on?.disabledAt).toBeUndefined();
    await arrived(at, 3);
    expect(receiver.to(at).map(({ version }) => version)).toEqual([1, 2, 3]);
  });

  test("is not that of the key that made it: revoked, what happens is sent all the same", async () => {
    const organization = await service.newOrganization();
    const { apiKey, secret: key } = await organization.client.organizations.createApiKey({
      displayName: "maker",
      scopes: ["webhooks:admin", "entities:read"],
    });
    const at = path();
    const { secret } = await newEndpoint(
      createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: key }),
      receiver.url(at),
    );
    await organization.client.organizations.revokeApiKey({ apiKeyId: apiKey?.id ?? "" });
    await newPerson(organization.client);
    await arrived(at, 1);
    verify(secret, receiver.to(at)[0] as never);
  });

  test("410 disables the endpoint, and those who want to know are told", async () => {
    const { client } = await service.newOrganization();
    const [gone, listener, other] = [path(), path(), path()];
    receiver.answer = ({ path: to }) => (to === gone ? 410 : 200);
    const endpoint = await newEndpoint(client, receiver.url(gone));
    const { secret } = await newEndpoint(client, receiver.url(listener), { eventTypes: ["webhook_endpoint.disabled"] });
    await newEndpoint(client, receiver.url(other), { eventTypes: ["entity.deleted"] });
    await newPerson(client);
    await arrived(listener, 1);
    const { endpoint: now } = await client.webhooks.getWebhookEndpoint({ endpointId: endpoint.id });
    expect(now).toMatchObject({ state: DISABLED, disabledReason: WebhookDisabledReason.GONE });
    expect(now?.etag).not.toBe(endpoint.etag);
    const [request] = receiver.to(listener);
    verify(secret, request as never);
    expect(request?.json).toEqual({
      event: "webhook_endpoint.disabled",
      endpointId: endpoint.id,
      reason: "gone",
      timestamp: expect.any(String),
    });
    const [delivery] = await deliveriesOf(client, endpoint);
    expect(delivery).toMatchObject({ state: WebhookDeliveryState.FAILED, attempts: [{ status: 410 }] });
    await newPerson(client);
    await quietly();
    expect([receiver.to(gone).length, receiver.to(listener).length, receiver.to(other).length]).toEqual([1, 1, 0]);
    receiver.answer = () => 200;
  });

  test("a deleted one gets nothing more, and it and its deliveries are gone", async () => {
    const { client } = await service.newOrganization();
    const at = path();
    const endpoint = await newEndpoint(client, receiver.url(at));
    const person = await newPerson(client);
    await arrived(at, 1);
    await client.webhooks.deleteWebhookEndpoint({ endpointId: endpoint.id });
    await client.entities.updateEntity({ lookup: byId(person), entity: { name: "Eva" } });
    const calls = [
      () => client.webhooks.getWebhookEndpoint({ endpointId: endpoint.id }),
      () => client.webhooks.listWebhookDeliveries({ endpointId: endpoint.id }),
      () => client.webhooks.rotateWebhookSecret({ endpointId: endpoint.id }),
      () => client.webhooks.replayWebhookDeliveries({ endpointId: endpoint.id, ...all }),
    ];
    for (const call of calls) {
      expect(await refusal(call())).toMatchObject({ reason: "NOT_FOUND", metadata: { lookup: "endpoint_id" } });
    }
    expect((await client.webhooks.listWebhookDeliveries({})).deliveries).toEqual([]);
    expect((await client.webhooks.listWebhookEndpoints({})).endpoints).toEqual([]);
    await eventually(async () => {
      const rows = await service.sql(
        "select id from webhook_endpoint where id = $1 union all select id from webhook_delivery where endpoint_id = $1",
        [endpoint.id],
      );
      return rows.length === 0 || `${rows.length} rows are left`;
    });
    await quietly();
    expect(told(at)).toHaveLength(1);
  });
});
