// The trail: every administrative RPC records who did it, what it was, the values before and after, and never a secret.
import { randomUUID } from "node:crypto";
import { type DescMethod, getOption } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { also_required_scope, required_scope } from "../clients/typescript/gen/entity/v1/options_pb.ts";
import {
  type AdministrationEvent,
  AdministrationEventType,
  type EntityClient,
  ExternalIdPolicy,
  WebhookEndpointState,
} from "../clients/typescript/index.ts";
import { peerOf } from "../src/transport/peer.ts";
import { newPerson, unique } from "./given.ts";
import { captureHeaders, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";

const SCOPES_OF_ADMINISTRATORS = ["admin", "operator", "risk:admin", "webhooks:admin"];
/** The administrative RPCs: they write, and need one of these scopes. */
const ADMINISTRATION = SERVICES.flatMap(({ methods }) => methods as readonly DescMethod[]).filter(
  (method) =>
    SCOPES_OF_ADMINISTRATORS.includes(getOption(method, required_scope)) &&
    method.idempotency !== MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS,
);

let service: TestService;
let organization: TestOrganization;
let admin: EntityClient;
const headers = captureHeaders();
beforeAll(async () => {
  service = await startService();
  organization = await service.newOrganization();
  admin = await service.organization.clientWith(
    ["admin", "operator", "risk:admin", "webhooks:admin", "entities:read", "entities:write"],
    { actorId: "maria", source: "console", interceptors: [headers.interceptor] },
  );
});
afterAll(() => service[Symbol.asyncDispose]());

const trail = async (client: EntityClient, request = {}) =>
  (await client.organizations.listAdministrationEvents({ pageSize: 1000, ...request })).events;
const count = async () => Number((await service.sql("select count(*) as n from administration_event"))[0]?.n);

const newEndpoint = async () =>
  (
    await admin.webhooks.createWebhookEndpoint({
      endpoint: {
        url: "https://example.com/hook?token=hidden",
        displayName: "Ledger",
        state: WebhookEndpointState.DISABLED,
      },
    })
  ).endpoint?.id ?? "";
const newKey = async () =>
  (await admin.organizations.createApiKey({ displayName: "Job", scopes: ["entities:read"] })).apiKey?.id ?? "";

interface Act {
  /** Makes what the act needs; returns its id. */
  given?: () => Promise<string>;
  type: AdministrationEventType;
  call: (id: string, options: { validateOnly: boolean; requestId: string }) => Promise<unknown>;
  /** The id of the subject, from the answer or from what `given` made. */
  subject?: (answer: any) => string;
  previousValues: object;
  newValues: object;
  /** Has no request_id. */
  isOnce?: boolean;
}

const NOW = expect.stringMatching(/^\d{4}-\d\d-\d\dT/);
const ENDPOINT = {
  url: "https://example.com/hook",
  displayName: "Ledger",
  eventTypes: [],
  entityTypes: [],
  statusChanges: "ALONE",
  state: "DISABLED",
};
const SHA256 = expect.stringMatching(/^[0-9a-f]{64}$/);
const MATRIX = {
  displayName: "Customers",
  rules: [{ id: "one", displayName: "One", expression: "true", points: "1" }],
};

async function newMatrix(): Promise<string> {
  return (await admin.riskMatrices.createRiskMatrix({ matrix: MATRIX })).matrix?.id ?? "";
}

/** Each act once. */
const ACTS: Record<string, Act> = {
  CreateOrganization: {
    type: AdministrationEventType.ORGANIZATION_CREATED,
    call: (_, options) =>
      admin.organizations.createOrganization({
        organization: { displayName: "New", eventRetentionDays: 30 },
        ...options,
      }),
    subject: (answer) => answer.organization.id,
    previousValues: {},
    newValues: { displayName: "New", externalIdPolicy: "MUTABLE_WITH_REASON", eventRetentionDays: 30 },
  },
  UpdateOrganization: {
    given: async () => {
      const made = await admin.organizations.createOrganization({ organization: { displayName: "Old" } });
      return made.organization?.id ?? "";
    },
    type: AdministrationEventType.ORGANIZATION_UPDATED,
    call: (organizationId, options) =>
      admin.organizations.updateOrganization({
        organizationId,
        organization: { displayName: "Old", externalIdPolicy: ExternalIdPolicy.IMMUTABLE, eventRetentionDays: 400 },
        ...options,
      }),
    previousValues: { externalIdPolicy: "MUTABLE_WITH_REASON" },
    newValues: { externalIdPolicy: "IMMUTABLE", eventRetentionDays: 400 },
  },
  CreateApiKey: {
    type: AdministrationEventType.API_KEY_CREATED,
    call: (_, { validateOnly }) =>
      admin.organizations.createApiKey({
        displayName: "Job",
        scopes: ["entities:read", "admin"],
        expiresAt: timestampFromDate(new Date("2999-01-01T00:00:00Z")),
        validateOnly,
      }),
    subject: (answer) => answer.apiKey.id,
    previousValues: {},
    newValues: { displayName: "Job", scopes: ["entities:read", "admin"], expiresAt: "2999-01-01T00:00:00.000Z" },
    isOnce: true,
  },
  RevokeApiKey: {
    given: newKey,
    type: AdministrationEventType.API_KEY_REVOKED,
    call: (apiKeyId, options) => admin.organizations.revokeApiKey({ apiKeyId, ...options }),
    previousValues: {},
    newValues: { revokedAt: NOW },
  },
  CreateWebhookEndpoint: {
    type: AdministrationEventType.WEBHOOK_ENDPOINT_CREATED,
    call: (_, { validateOnly }) =>
      admin.webhooks.createWebhookEndpoint({
        endpoint: {
          url: "https://example.com/hook?token=hidden",
          displayName: "Ledger",
          state: WebhookEndpointState.DISABLED,
        },
        validateOnly,
      }),
    subject: (answer) => answer.endpoint.id,
    previousValues: {},
    newValues: ENDPOINT,
    isOnce: true,
  },
  UpdateWebhookEndpoint: {
    given: newEndpoint,
    type: AdministrationEventType.WEBHOOK_ENDPOINT_UPDATED,
    call: (endpointId, options) =>
      admin.webhooks.updateWebhookEndpoint({
        endpointId,
        endpoint: { url: "https://example.com/other?token=hidden", eventTypes: ["entity.created"] },
        ...options,
      }),
    previousValues: { url: "https://example.com/hook", eventTypes: [] },
    newValues: { url: "https://example.com/other", eventTypes: ["entity.created"] },
  },
  CreateRiskMatrix: {
    type: AdministrationEventType.RISK_MATRIX_CREATED,
    call: (_, options) => admin.riskMatrices.createRiskMatrix({ matrix: MATRIX, ...options }),
    subject: (answer) => answer.matrix.id,
    previousValues: {},
    newValues: { displayName: "Customers", version: 1, sha256: SHA256 },
  },
  UpdateRiskMatrix: {
    given: newMatrix,
    type: AdministrationEventType.RISK_MATRIX_UPDATED,
    call: (riskMatrixId, options) =>
      admin.riskMatrices.updateRiskMatrix({
        ...{ riskMatrixId, matrix: { displayName: "Clients", thresholds: { high: "50" } } },
        ...options,
      }),
    previousValues: { displayName: "Customers", version: 1, sha256: SHA256 },
    newValues: { displayName: "Clients", version: 2, sha256: SHA256 },
  },
  DeleteRiskMatrix: {
    given: newMatrix,
    type: AdministrationEventType.RISK_MATRIX_DELETED,
    call: (riskMatrixId, options) => admin.riskMatrices.deleteRiskMatrix({ riskMatrixId, ...options }),
    previousValues: { displayName: "Customers", version: 1, sha256: SHA256 },
    newValues: { displayName: null, version: null, sha256: null },
  },
  DeleteWebhookEndpoint: {
    given: newEndpoint,
    type: AdministrationEventType.WEBHOOK_ENDPOINT_DELETED,
    call: (endpointId, options) => admin.webhooks.deleteWebhookEndpoint({ endpointId, ...options }),
    previousValues: ENDPOINT,
    newValues: Object.fromEntries(Object.keys(ENDPOINT).map((key) => [key, null])),
  },
  RotateWebhookSecret: {
    given: newEndpoint,
    type: AdministrationEventType.WEBHOOK_SECRET_ROTATED,
    call: (endpointId, { validateOnly }) => admin.webhooks.rotateWebhookSecret({ endpointId, validateOnly }),
    previousValues: {},
    newValues: { previousSecretExpiresAt: NOW },
    isOnce: true,
  },
  ReplayWebhookDeliveries: {
    given: newEndpoint,
    type: AdministrationEventType.WEBHOOK_DELIVERIES_REPLAYED,
    call: (endpointId, options) =>
      admin.webhooks.replayWebhookDeliveries({
        endpointId,
        from: timestampFromDate(new Date("2026-01-01T00:00:00Z")),
        to: timestampFromDate(new Date("2026-01-02T00:00:00Z")),
        ...options,
      }),
    previousValues: {},
    newValues: {
      deliveries: 0,
      from: expect.stringContaining("2026-01-01"),
      to: expect.stringContaining("2026-01-02"),
    },
  },
};

describe("the trail", () => {
  it("has an act here for every RPC of the descriptors by which somebody administers", () => {
    expect(Object.keys(ACTS).sort()).toEqual(ADMINISTRATION.map(({ name }) => name).sort());
    const types = Object.values(ACTS).map(({ type }) => type);
    const all = Object.values(AdministrationEventType).filter((type) => typeof type === "number" && type !== 0);
    expect(types.sort()).toEqual(all.sort());
  });

  it.each(Object.entries(ACTS))("%s: who, what, before and after, once", async (_, act) => {
    const id = (await act.given?.()) ?? "";
    const requestId = randomUUID();
    const before = await count();
    await act.call(id, { validateOnly: true, requestId: act.isOnce ? requestId : randomUUID() });
    expect(await count()).toBe(before);
    const answer = await act.call(id, { validateOnly: false, requestId });
    const callId = headers.last.get("x-request-id");
    expect(await count()).toBe(before + 1);
    const subjectId = act.subject?.(answer) ?? id;
    const organizationId =
      act.type <= AdministrationEventType.ORGANIZATION_UPDATED ? subjectId : service.organization.id;
    const [event] = await trail(admin, { organizationId, subjectId });
    const { apiKeys } = await admin.organizations.listApiKeys({ pageSize: 1000 });
    expect(event).toMatchObject({
      ...{ organizationId, subjectId, type: act.type },
      ...{ previousValues: act.previousValues, newValues: act.newValues },
      ...{ actor: "maria", source: "console", peer: "127.0.0.1", callId },
      requestId: act.isOnce ? "" : requestId,
    });
    expect(event?.previousValues).toEqual(act.previousValues);
    expect(event?.newValues).toEqual(act.newValues);
    expect(apiKeys.map((key) => key.id)).toContain(event?.principal);
    if (!act.isOnce) {
      // The same request again gets the first answer and is recorded no second time.
      await act.call(id, { validateOnly: false, requestId });
      expect(await count()).toBe(before + 1);
    }
  });

  it("has nothing of what changed nothing or was refused", async () => {
    const [keyId, endpointId] = [await newKey(), await newEndpoint()];
    await admin.organizations.revokeApiKey({ apiKeyId: keyId });
    const before = await count();
    expect((await admin.organizations.revokeApiKey({ apiKeyId: keyId })).changed).toBe(false);
    await admin.webhooks.updateWebhookEndpoint({ endpointId, endpoint: { displayName: "Ledger" } });
    await admin.organizations.updateOrganization({ organization: {} });
    await refusal(admin.webhooks.deleteWebhookEndpoint({ endpointId, etag: "other" }));
    await refusal(admin.organizations.revokeApiKey({ apiKeyId: randomUUID() }));
    expect(await count()).toBe(before);
  });

  it("goes with the change: where it cannot be written, nothing is changed", async () => {
    const own = await service.newOrganization();
    await service.sql("alter table administration_event add constraint planted check (actor <> 'planted') not valid");
    try {
      const planted = await own.clientWith(["admin"], { actorId: "planted" });
      const before = (await own.client.organizations.listApiKeys({})).apiKeys;
      expect((await refusal(planted.organizations.createApiKey({ displayName: "x", scopes: ["admin"] }))).reason).toBe(
        "INTERNAL",
      );
      expect((await own.client.organizations.listApiKeys({})).apiKeys).toEqual(before);
    } finally {
      await service.sql("alter table administration_event drop constraint planted");
    }
  });

  it("begins with the first key, which the service made", async () => {
    const { apiKeyId, id } = service.organization;
    const events = await trail(admin, { subjectId: apiKeyId });
    expect(events).toMatchObject([
      {
        ...{ organizationId: id, type: AdministrationEventType.API_KEY_CREATED },
        ...{ actor: apiKeyId, principal: apiKeyId, source: "start", callId: "", peer: "" },
      },
    ]);
  });

  it("is the organization's own; an operator reads every one, and stands in it with its own key", async () => {
    const own = await service.newOrganization();
    const events = await trail(own.client);
    expect(events.map(({ type, principal }) => ({ type, principal }))).toEqual([
      { type: AdministrationEventType.API_KEY_CREATED, principal: service.organization.apiKeyId },
      { type: AdministrationEventType.ORGANIZATION_CREATED, principal: service.organization.apiKeyId },
    ]);
    expect(await trail(admin, { organizationId: own.id })).toEqual(events);
    expect((await refusal(trail(own.client, { organizationId: organization.id }))).reason).toBe("NOT_FOUND");
    expect((await refusal(trail(await own.clientWith(["webhooks:admin"])))).reason).toBe("PERMISSION_DENIED");
  });

  it("pages, newest first, each once; by principal and time too", async () => {
    const own = await service.newOrganization();
    for (let i = 0; i < 5; i++) {
      await own.client.organizations.updateOrganization({ organization: { displayName: `name ${i}` } });
    }
    const seen: AdministrationEvent[] = [];
    let pageToken = "";
    do {
      const page = await own.client.organizations.listAdministrationEvents({ pageSize: 2, pageToken });
      expect(page.events.length).toBeLessThanOrEqual(2);
      seen.push(...page.events);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(seen).toEqual(await trail(own.client));
    expect(seen.slice(0, 5).map(({ newValues }) => newValues?.displayName)).toEqual(
      [4, 3, 2, 1, 0].map((i) => `name ${i}`),
    );
    expect(await trail(own.client, { principal: own.apiKeyId })).toEqual(seen.slice(0, 5));
    const [newest, second] = seen;
    expect(await trail(own.client, { from: newest?.recordedAt })).toEqual([newest]);
    expect(await trail(own.client, { from: second?.recordedAt, to: newest?.recordedAt })).toEqual([second]);
  });

  it("a page ends before it is larger than clients take", async () => {
    const own = await service.newOrganization();
    await service.sql(
      `insert into administration_event (organization_id, id, type, subject_id, previous_values, new_values, actor, principal, source)
       select $1, gen_random_uuid(), 'WEBHOOK_ENDPOINT_UPDATED', $1, jsonb_build_object('description', repeat('é', 4096)), '{}', 'a', $1, 'api'
       from generate_series(1, 600)`,
      [own.id],
    );
    let [pageToken, events, pages] = ["", 0, 0];
    do {
      const page = await own.client.organizations.listAdministrationEvents({ pageSize: 1000, pageToken });
      expect(page.events.length).toBeGreaterThan(0);
      expect(page.events.length).toBeLessThan(400);
      [pageToken, events, pages] = [page.nextPageToken, events + page.events.length, pages + 1];
    } while (pageToken !== "");
    expect({ events, pages }).toEqual({ events: 602, pages: 2 });
  });

  it("no role of the service changes or removes what it says, and no secret is in it", async () => {
    const rows = await service.sql("select * from administration_event");
    const text = JSON.stringify(rows);
    expect(rows.length).toBeGreaterThan(20);
    for (const pattern of [/\bes_[A-Za-z0-9_-]{20}/, /whsec_/, /hidden/, service.organization.apiKey]) {
      expect(text).not.toMatch(pattern);
    }
    const digests = await service.sql<{ digest: string }>("select encode(digest, 'hex') as digest from api_key");
    for (const { digest } of digests) expect(text).not.toContain(digest);
  });
});

describe("an RPC through which its caller gets what another scope is for", () => {
  const both = ADMINISTRATION.filter((method) => getOption(method, also_required_scope) !== "");

  it("is one that says where personal data is sent", () => {
    expect(both.map(({ name }) => name).sort()).toEqual(["CreateWebhookEndpoint", "UpdateWebhookEndpoint"]);
  });

  it.each(both)("$name needs both scopes, and names the one that is missing", async (method) => {
    const also = getOption(method, also_required_scope);
    const required = getOption(method, required_scope);
    const endpoint = { url: "https://example.com/", displayName: "x" };
    const call = async (scopes: string[]) => {
      const client = await organization.clientWith(scopes);
      return method.name === "CreateWebhookEndpoint"
        ? client.webhooks.createWebhookEndpoint({ endpoint, validateOnly: true })
        : client.webhooks.updateWebhookEndpoint({ endpointId: randomUUID(), endpoint });
    };
    for (const [held, missing] of [
      [required, also],
      [also, required],
    ] as const) {
      expect(await refusal(call([held]))).toMatchObject({
        ...{ code: Code.PermissionDenied, reason: "PERMISSION_DENIED" },
        metadata: { scope: missing },
      });
    }
    if (method.name === "CreateWebhookEndpoint") await call([required, also]);
    else expect((await refusal(call([required, also]))).reason).toBe("NOT_FOUND");
  });
});

describe("the log", () => {
  it("has the address that each call came from, and believes no header", async () => {
    const lines: string[] = [];
    const log = pino({ level: "info" }, { write: (line: string) => void lines.push(line) });
    await using own = await startService({ log });
    await newPerson(own.client, { externalId: unique("peer") });
    await fetch(`${own.baseUrl}/entity.v1.EntityService/GetEntity`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-forwarded-for": "192.0.2.7" },
      body: "{}",
    });
    const callsOf = () => lines.map((line) => JSON.parse(line)).filter((line) => line.msg === "call");
    await expect.poll(() => callsOf().length).toBe(2);
    const calls = callsOf();
    expect(new Set(calls.map(({ protocol }) => protocol))).toEqual(new Set(["grpc", "connect"]));
    expect(new Set(calls.map(({ peer }) => peer))).toEqual(new Set(["127.0.0.1"]));
  });

  it("has an IPv4 address as it is written, on a socket of IPv6 too, and none of a connection that is gone", () => {
    expect(
      ["::ffff:192.0.2.7", "192.0.2.7", "2001:db8::1", undefined].map((remoteAddress) => peerOf({ remoteAddress })),
    ).toEqual(["192.0.2.7", "192.0.2.7", "2001:db8::1", ""]);
    const ended = {
      get remoteAddress(): string {
        throw new Error("ERR_HTTP2_SOCKET_UNBOUND");
      },
    };
    expect([peerOf(ended), peerOf(undefined)]).toEqual(["", ""]);
  });
});
