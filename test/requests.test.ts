// Rule 39: request_id makes every write safe to retry.
import { randomUUID } from "node:crypto";
import {
  clone,
  create,
  type DescField,
  type DescMessage,
  type DescMethod,
  type Message,
  toBinary,
} from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ActivityService,
  Designation,
  type EntityClient,
  EntityService,
  EntityStatus,
  EntityType,
  ImportOutcome,
  OrganizationService,
  RiskMatrixService,
  WebhookService,
} from "../clients/typescript/index.ts";
import { byExternalId, byId, current, eventsOf, newPerson, tally, together, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";

let service: TestService;
/** A client of another organization, and one with another key of the same organization. */
let elsewhere: EntityClient;
let otherKey: EntityClient;
let otherOrganizationId: string;
let spareKeyId: string;
beforeAll(async () => {
  service = await startService();
  const organization = await service.newOrganization();
  elsewhere = organization.client;
  otherOrganizationId = organization.id;
  const scopes = [
    "entities:write",
    "entities:read",
    "external_ids:change",
    "entities:merge",
    "activity:write",
    "activity:read",
    "risk:admin",
    "webhooks:admin",
    "admin",
    "operator",
  ];
  otherKey = await service.organization.clientWith(scopes);
  const made = await service.client.organizations.createApiKey({ displayName: "spare", scopes: ["entities:read"] });
  spareKeyId = made.apiKey?.id ?? "";
});
afterAll(() => service[Symbol.asyncDispose]());

const OCCURRED_AT = { seconds: 1_700_000_000n, nanos: 0 };
const NOBODY = "00000000-0000-7000-8000-000000000000";
type Init = Record<string, unknown>;

/** A write RPC: a request that it accepts, and a change that makes it pass the validation and be refused. */
interface Write {
  method: DescMethod;
  given: () => Promise<Init>;
  refused?: Init;
  refusedWith?: string;
  /** Edits that make a request invalid, whatever else it says. */
  invalid?: string[];
}

const person = () => newPerson(service.client, { externalId: unique("p"), taxId: unique("t") });
const WRITES: Write[] = [
  {
    method: EntityService.method.createEntity,
    given: async () => ({
      entity: {
        type: EntityType.PERSON,
        name: "Ana",
        countryCode: "BR",
        externalId: unique("new"),
        status: EntityStatus.BLOCKED,
        attributes: { z: 1, a: { y: 2, b: [1, { d: 1, c: 2 }] }, 10: "x", 9: "y" },
        entityData: { kind: { case: "person", value: { firstName: "Ana", address: { city: "Recife" } } } },
      },
      reason: "listed",
      occurredAt: OCCURRED_AT,
    }),
  },
  {
    method: EntityService.method.updateEntity,
    given: async () => ({
      lookup: byExternalId((await person()).externalId),
      entity: { name: "Other", attributes: { z: 1, a: 2 }, taxId: "1-2", status: EntityStatus.BLOCKED },
      updateMask: { paths: ["name", "attributes"] },
      reason: "correction",
      occurredAt: OCCURRED_AT,
    }),
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.batchUpdateEntities,
    given: async () => {
      const one = await person();
      const entity = { attributes: { z: 1, a: 2 }, taxId: "1-2" };
      return {
        requests: [
          {
            ...{ lookup: byExternalId(one.externalId), entity, updateMask: { paths: ["attributes", "tax_id"] } },
            ...{ reason: "correction", occurredAt: OCCURRED_AT },
          },
          { lookup: byId(one), entity: { name: one.name } },
        ],
      };
    },
    refused: { requests: [{ lookup: byId({ id: NOBODY }) }] },
  },
  {
    method: EntityService.method.changeExternalId,
    given: async () => ({
      lookup: byExternalId((await person()).externalId),
      newExternalId: unique("q"),
      reason: "migration",
    }),
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.assignExternalId,
    given: async () => ({
      lookup: byId(await newPerson(service.client)),
      externalId: unique("q"),
      reason: "onboarding",
    }),
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.addExternalIds,
    given: async () => ({
      lookup: byExternalId((await person()).externalId),
      externalIds: [
        { externalId: unique("a"), type: "cif", designation: Designation.PRIMARY },
        { externalId: unique("b") },
      ],
      reason: "second system",
    }),
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.releaseExternalId,
    given: async () => {
      const { id, externalId } = await person();
      await service.client.entities.deleteEntity({ lookup: byId({ id }), reason: "a duplicate" });
      return { lookup: byId({ id }), externalId, reason: "for the other one" };
    },
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.mergeEntities,
    given: async () => ({
      primary: byId(await person()),
      secondary: byExternalId((await person()).externalId),
      reason: "one person",
    }),
    refused: { secondary: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.unmergeEntities,
    given: async () => {
      const both = { primary: byId(await person()), secondary: byId(await person()), reason: "one person" };
      return {
        mergeId: (await service.client.entities.mergeEntities(both)).mergeId,
        reason: "two persons",
      };
    },
    refused: { mergeId: NOBODY },
  },
  {
    method: EntityService.method.markDistinct,
    given: async () => ({ first: byId(await person()), second: byId(await person()), reason: "namesakes" }),
    refused: { second: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.liftDistinct,
    given: async () => {
      const both = { first: byId(await person()), second: byId(await person()), reason: "namesakes" };
      await service.client.entities.markDistinct(both);
      return { ...both, reason: "one person after all" };
    },
    refused: { first: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.deleteEntity,
    given: async () => ({ lookup: byId(await person()), reason: "customer left" }),
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.undeleteEntity,
    given: async () => {
      const lookup = byId(await person());
      await service.client.entities.deleteEntity({ lookup, reason: "customer left" });
      return { lookup, reason: "customer is back" };
    },
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: EntityService.method.importEntities,
    given: async () => ({
      entity: {
        type: EntityType.PERSON,
        name: "Ana",
        countryCode: "BR",
        externalId: unique("row"),
        attributes: { z: 1, a: 2 },
      },
      reason: "imported",
    }),
  },
  {
    method: ActivityService.method.recordTransactions,
    given: async () => ({
      transactions: [
        {
          externalId: unique("t"),
          type: "payment",
          status: "open",
          amount: "1.00",
          currency: "BRL",
          origin: { externalId: (await person()).externalId, name: "A", country: "BR" },
          destination: { name: "B", country: "BR" },
          transactedAt: OCCURRED_AT,
          details: { z: 1, a: 2 },
        },
      ],
    }),
    refused: {
      transactions: [
        { type: "payment", amount: "1", currency: "BRL", origin: { entityId: NOBODY }, transactedAt: OCCURRED_AT },
      ],
    },
  },
  {
    method: ActivityService.method.recordUserEvents,
    given: async () => ({
      userEvents: [
        {
          entityExternalId: (await person()).externalId,
          eventType: "login",
          occurredAt: OCCURRED_AT,
          payload: { z: 1, a: 2 },
        },
      ],
    }),
    refused: { userEvents: [{ entityId: NOBODY, eventType: "login", occurredAt: OCCURRED_AT }] },
  },
  {
    method: OrganizationService.method.createOrganization,
    given: async () => ({ organization: { displayName: unique("Organization"), externalIdPolicy: 1 } }),
  },
  {
    method: OrganizationService.method.updateOrganization,
    given: async () => ({
      organization: { displayName: unique("Organization") },
      updateMask: { paths: ["display_name"] },
    }),
    refused: { etag: "stale" },
    refusedWith: "ETAG_MISMATCH",
  },
  {
    method: OrganizationService.method.revokeApiKey,
    given: async () => {
      const made = await service.client.organizations.createApiKey({
        displayName: "to revoke",
        scopes: ["entities:read"],
      });
      return { apiKeyId: made.apiKey?.id };
    },
    refused: { apiKeyId: NOBODY },
  },
  {
    method: EntityService.method.analyzeEntity,
    given: async () => ({ lookup: byId(await newPerson(service.client, { riskMatrixId: await riskMatrix() })) }),
    // For a rehearsal alone.
    invalid: ["risk_matrix_id"],
    refused: { lookup: byId({ id: NOBODY }) },
  },
  {
    method: RiskMatrixService.method.createRiskMatrix,
    given: async () => ({ matrix: { displayName: unique("Matrix"), rules: RISK_RULES } }),
    invalid: ["matrix.rules repeated"],
  },
  {
    method: RiskMatrixService.method.updateRiskMatrix,
    given: async () => ({
      riskMatrixId: await riskMatrix(),
      matrix: { displayName: unique("Matrix"), rules: RISK_RULES.map((rule) => ({ ...rule, points: "3" })) },
      updateMask: { paths: ["display_name", "rules"] },
    }),
    invalid: ["matrix.rules repeated"],
    refused: { riskMatrixId: NOBODY },
  },
  {
    method: RiskMatrixService.method.deleteRiskMatrix,
    given: async () => ({ riskMatrixId: await riskMatrix() }),
    refused: { riskMatrixId: NOBODY },
  },
  {
    method: WebhookService.method.updateWebhookEndpoint,
    given: async () => ({
      endpointId: await webhookEndpoint(),
      endpoint: { displayName: unique("Endpoint") },
      updateMask: { paths: ["display_name"] },
    }),
    refused: { endpointId: NOBODY },
  },
  {
    method: WebhookService.method.deleteWebhookEndpoint,
    given: async () => ({ endpointId: await webhookEndpoint() }),
    refused: { endpointId: NOBODY },
  },
  {
    method: WebhookService.method.replayWebhookDeliveries,
    given: async () => ({
      endpointId: await webhookEndpoint(),
      from: OCCURRED_AT,
      to: { seconds: OCCURRED_AT.seconds + 60n, nanos: 0 },
    }),
    refused: { endpointId: NOBODY },
  },
];

const RISK_RULES = [{ id: "one", displayName: "One", expression: "true", points: "2" }];

async function riskMatrix(): Promise<string> {
  const matrix = { displayName: unique("Matrix"), rules: RISK_RULES };
  return (await service.client.riskMatrices.createRiskMatrix({ matrix })).matrix?.id ?? "";
}

async function webhookEndpoint(): Promise<string> {
  const endpoint = { url: "https://example.com/hook", displayName: unique("Endpoint"), eventTypes: ["entity.created"] };
  const made = await service.client.webhooks.createWebhookEndpoint({ endpoint });
  return made.endpoint?.id ?? "";
}

interface Answer {
  bytes: string;
  replayed: boolean;
}

/** Sends a request of any write RPC. An import has one row, whose failure is thrown like any other refusal. */
async function send(client: EntityClient, { method }: Write, request: Init): Promise<Answer> {
  let header = new Headers();
  const options: CallOptions = { onHeader: (headers) => void (header = headers) };
  const family = {
    EntityService: client.entities,
    ActivityService: client.activity,
    OrganizationService: client.organizations,
    RiskMatrixService: client.riskMatrices,
    WebhookService: client.webhooks,
  };
  const call = (
    family as unknown as Record<string, Record<string, (request: unknown, options: CallOptions) => unknown>>
  )[method.parent.name]?.[method.localName];
  if (call === undefined) throw new Error(`no client for ${method.name}`);
  let answer: Message | undefined;
  if (method.methodKind === "bidi_streaming") {
    const rows = (async function* () {
      yield request;
    })();
    for await (const message of call(rows, options) as AsyncIterable<Message>) answer = message;
  } else {
    answer = (await call(request, options)) as Message;
  }
  if (answer === undefined) throw new Error("no answer");
  return {
    bytes: Buffer.from(toBinary(method.output, answer)).toString("base64"),
    replayed: header.get("idempotent-replay") === "true",
  };
}

/** The reason of a refusal; for an import, of the row that failed. */
async function refusalOf(client: EntityClient, write: Write, request: Init): Promise<string> {
  if (write.method.methodKind !== "bidi_streaming") return (await refusal(send(client, write, request))).reason;
  const rows = (async function* () {
    yield request;
  })();
  for await (const { results } of client.entities.importEntities(rows)) {
    expect(results[0]?.outcome).toBe(ImportOutcome.FAILED);
    const info = results[0]?.error?.details.find((detail) => detail.typeUrl.endsWith("ErrorInfo"));
    return /[A-Z][A-Z_]{5,}/.exec(Buffer.from(info?.value ?? []).toString("latin1"))?.[0] ?? "";
  }
  throw new Error("no answer");
}

/** Everything that any write could change. */
async function everything(): Promise<unknown> {
  return service.sql(`select (select count(*) from entity) as entities, (select count(*) from entity_event) as events,
    (select count(*) from external_id) as external_ids, (select count(*) from transaction) as transactions,
    (select count(*) from user_event) as user_events, (select count(*) from organization) as organizations,
    (select max(updated_at) from organization) as organization_time, (select count(*) from api_key where revoked_at is not null) as revoked,
    (select count(*) from administration_event where type like 'WEBHOOK%' and type not like '%CREATED') as webhook_changes,
    (select count(*) from evaluation) as evaluations, (select count(*) from administration_event where type like 'RISK%') as matrix_changes`);
}

describe.each(WRITES.map((write) => ({ ...write, name: write.method.name })))("$name", (write) => {
  it("rule 39: sent again it answers the first answer byte by byte, says so, and does nothing", async () => {
    const request = { ...(await write.given()), requestId: randomUUID() };
    const first = await send(service.client, write, request);
    const before = await everything();
    expect(first.replayed).toBe(false);
    for (let i = 0; i < 3; i++) {
      expect(await send(service.client, write, request)).toEqual({ bytes: first.bytes, replayed: true });
    }
    expect(await everything()).toEqual(before);
  });

  it("rule 39: without a request_id nothing is remembered", async () => {
    const records = () => service.sql("select count(*) as n from request_record");
    const before = await records();
    const answer = await send(service.client, write, await write.given());
    expect(answer.replayed).toBe(false);
    expect(await records()).toEqual(before);
  });

  it("rule 39: the id is a UUID whatever its case; anything else is VALIDATION_ERROR", async () => {
    const requestId = randomUUID();
    const request = { ...(await write.given()), requestId };
    const first = await send(service.client, write, request);
    expect(await send(service.client, write, { ...request, requestId: requestId.toUpperCase() })).toEqual({
      ...first,
      replayed: true,
    });
    expect(await refusalOf(service.client, write, { ...request, requestId: "not-a-uuid" })).toBe("VALIDATION_ERROR");
  });

  it("rule 39: any field that differs makes another request: REQUEST_ID_REUSED, and nothing is done", async () => {
    const request = { ...(await write.given()), requestId: randomUUID() };
    await send(service.client, write, request);
    const before = await everything();
    const message = create(write.method.input, request as never) as Message;
    const changes = [...edits(write.method.input, message)];
    expect(changes.length).toBeGreaterThan(1);
    const wrong: string[] = [];
    for (const [path, edit] of changes) {
      if (write.invalid?.includes(path)) continue;
      const other = clone(write.method.input, message) as Message;
      edit(other as unknown as Init);
      const reason = await refusalOf(service.client, write, other as unknown as Init).catch(
        (error) => `accepted: ${String(error).slice(0, 80)}`,
      );
      if (reason !== "REQUEST_ID_REUSED") wrong.push(`${path}: ${reason}`);
    }
    expect(wrong).toEqual([]);
    expect(await everything()).toEqual(before);
  });

  it("rule 39: of another API key or organization the same id and request are no retry", async () => {
    const request = { ...(await write.given()), requestId: randomUUID() };
    const first = await send(service.client, write, request);
    for (const client of [otherKey, elsewhere]) {
      const again = await send(client, write, request).catch(() => undefined);
      expect(again?.replayed ?? false).toBe(false);
      if (again !== undefined) expect(again).not.toMatchObject({ replayed: true });
    }
    expect(await send(service.client, write, request)).toEqual({ ...first, replayed: true });
  });

  it("rule 39: 32 parallel sends of one id have one effect and 32 equal answers", async () => {
    const requestId = randomUUID();
    const request = { ...(await write.given()), requestId };
    const endings = await together(32, () => send(service.client, write, request));
    expect(tally(endings)).toEqual({ OK: 32 });
    const answers = endings.map((ending) => ending.answer);
    expect(new Set(answers.map((answer) => answer?.bytes)).size).toBe(1);
    expect(answers.filter((answer) => answer?.replayed === false)).toHaveLength(1);
    expect(
      (await service.sql("select from entity_event where request_id = $1 group by recorded_at", [requestId])).length,
    ).toBeLessThanOrEqual(1);
  });

  it("rule 39: of 32 parallel sends, half of another request, one request is done and the other is REQUEST_ID_REUSED", async () => {
    const requestId = randomUUID();
    const requests = [
      { ...(await write.given()), requestId },
      { ...(await write.given()), requestId },
    ];
    const endings = await together(32, async (i) => {
      if (write.method.methodKind !== "bidi_streaming") return send(service.client, write, requests[i % 2] as Init);
      const answer = await send(service.client, write, requests[i % 2] as Init);
      const reason = answer.bytes.length > 200 ? "reused" : "";
      return { ...answer, bytes: reason === "" ? answer.bytes : "reused" };
    });
    const bytes = endings.map((ending) => ending.answer?.bytes ?? ending.reason ?? "");
    for (const half of [0, 1]) expect(new Set(bytes.filter((_, i) => i % 2 === half)).size).toBe(1);
    const reused = bytes.filter((text) => text === "REQUEST_ID_REUSED" || text === "reused");
    expect(reused).toHaveLength(16);
  });

  if (write.refused !== undefined) {
    it("rule 39: a refused call is not remembered: corrected, it works under the same id", async () => {
      const request = { ...(await write.given()), requestId: randomUUID() };
      for (let i = 0; i < 2; i++) {
        const refused = await refusalOf(service.client, write, { ...request, ...write.refused });
        expect(refused).toBe(write.refusedWith ?? "NOT_FOUND");
      }
      expect((await send(service.client, write, request)).replayed).toBe(false);
      expect((await send(service.client, write, request)).replayed).toBe(true);
    });
  }

  it("rules 38, 39: a validated call is not remembered: the real one works under the same id", async () => {
    const request = { ...(await write.given()), requestId: randomUUID() };
    const before = await everything();
    for (let i = 0; i < 2; i++)
      expect((await send(service.client, write, { ...request, validateOnly: true })).replayed).toBe(false);
    expect(await everything()).toEqual(before);
    expect((await send(service.client, write, request)).replayed).toBe(false);
    expect(await everything()).not.toEqual(before);
  });

  it("rule 39: is remembered for 24 hours; after them the id is new, for another request too", async () => {
    const requestId = randomUUID();
    const request = { ...(await write.given()), requestId };
    const first = await send(service.client, write, request);
    const age = (interval: string) =>
      service.sql(
        `update request_record set created_at = clock_timestamp() - interval '${interval}' where request_id = $1`,
        [requestId],
      );
    await age("23 hours 59 minutes");
    expect(await send(service.client, write, request)).toEqual({ ...first, replayed: true });
    await age("24 hours 1 second");
    const fresh = { ...(await write.given()), requestId };
    expect((await send(service.client, write, fresh)).replayed).toBe(false);
    expect((await send(service.client, write, fresh)).replayed).toBe(true);
    expect(await refusalOf(service.client, write, request)).toBe("REQUEST_ID_REUSED");
  });
});

describe("across RPCs", () => {
  it("rule 39: every RPC whose request has a request_id and validate_only is in this file", () => {
    const methods = SERVICES.flatMap((family) => family.methods);
    const writes = methods.filter(({ input }) =>
      ["request_id", "validate_only"].every((name) => input.fields.some((field) => field.name === name)),
    );
    expect(WRITES.map(({ method }) => method.name).sort()).toEqual(writes.map(({ name }) => name).sort());
    const others = methods.filter((method) => !writes.includes(method)).map(({ name }) => name);
    expect(others.filter((name) => !/^(Get|BatchGet|List|Watch|Verify|Suggest|Export)/.test(name))).toEqual([
      // What it has written it finds right the next time.
      "RecheckTaxIds",
      "CreateApiKey",
      "CreateWebhookEndpoint",
      "RotateWebhookSecret",
    ]);
  });

  it("rule 39: one id serves each method once", async () => {
    const requestId = randomUUID();
    for (const write of WRITES) {
      const request = { ...(await write.given()), requestId };
      expect((await send(service.client, write, request)).replayed, write.method.name).toBe(false);
      expect((await send(service.client, write, request)).replayed, write.method.name).toBe(true);
    }
  });

  it("rule 39: a replay is the caller's right still: a key without the scope is refused", async () => {
    const requestId = randomUUID();
    const reader = await service.organization.clientWith(["entities:read"]);
    const entity = { type: EntityType.PERSON, name: "A", countryCode: "BR" };
    await service.client.entities.createEntity({ entity, requestId });
    expect(await refusal(reader.entities.createEntity({ entity, requestId }))).toMatchObject({
      reason: "PERMISSION_DENIED",
    });
  });

  it("rule 13: the validation of the request comes before the replay", async () => {
    const requestId = randomUUID();
    const entity = { type: EntityType.PERSON, name: "A", countryCode: "BR" };
    await service.client.entities.createEntity({ entity, requestId });
    const bad = service.client.entities.createEntity({ entity: { ...entity, countryCode: "BRA" }, requestId });
    expect(await refusal(bad)).toMatchObject({ reason: "VALIDATION_ERROR" });
  });
});

describe("the same request", () => {
  it("rule 39: the keys of a Struct may come in another order, at every depth", async () => {
    const requestId = randomUUID();
    const one = { b: 1, a: { y: [{ q: 1, p: 2 }], x: null }, "\u00e9": "1", Z: 0 };
    const two = { Z: 0, "\u00e9": "1", a: { x: null, y: [{ p: 2, q: 1 }] }, b: 1 };
    const base = { type: EntityType.PERSON, name: "A", countryCode: "BR" };
    const data = (additional: typeof one | typeof two) => ({
      kind: { case: "person" as const, value: { additional } },
    });
    const first = await service.client.entities.createEntity({
      entity: { ...base, attributes: one, metadata: one, entityData: data(one) },
      requestId,
    });
    const second = await service.client.entities.createEntity({
      entity: { ...base, attributes: two, metadata: two, entityData: data(two) },
      requestId,
    });
    expect(second.entity).toEqual(first.entity);
  });

  it("rule 39: the order of a list, the type of a value and an empty map do count", async () => {
    const base = { type: EntityType.PERSON, name: "A", countryCode: "BR" };
    for (const [one, two] of [
      [{ a: [1, 2] }, { a: [2, 1] }],
      [{ a: 1 }, { a: "1" }],
      [{ a: true }, { a: "true" }],
      [{ a: null }, {}],
      [{ a: {} }, { a: [] }],
      [{ a: [[1], 2] }, { a: [1, [2]] }],
      [
        { __proto__: null, a: 1 },
        { a: 1, b: 1 },
      ],
    ] as const) {
      const requestId = randomUUID();
      const call = (attributes: object) =>
        service.client.entities.createEntity({
          entity: { ...base, attributes: attributes as Record<string, never> },
          requestId,
        });
      await call(one);
      expect(await refusal(call(two)), JSON.stringify([one, two])).toMatchObject({
        reason: "REQUEST_ID_REUSED",
        metadata: { request_id: requestId },
      });
    }
  });

  it("rules 39, 74: a key __proto__ counts and is replayed", async () => {
    const requestId = randomUUID();
    const call = (json: string) =>
      service.client.entities.createEntity({
        entity: { type: EntityType.PERSON, name: "A", countryCode: "BR", attributes: JSON.parse(json) },
        requestId,
      });
    const first = await call('{"__proto__": {"a": 1}, "b": 2}');
    expect((await call('{"b": 2, "__proto__": {"a": 1}}')).entity).toEqual(first.entity);
    expect(JSON.stringify(first.entity?.attributes)).toContain("__proto__");
    expect(await refusal(call('{"__proto__": {"a": 2}, "b": 2}'))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
    expect(await refusal(call('{"b": 2}'))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
  });

  it("rule 39: set to empty and unset are different requests where the contract tells them apart", async () => {
    const requestId = randomUUID();
    const target = await person();
    const call = (entity: object) =>
      service.client.entities.updateEntity({
        lookup: byId(target),
        entity,
        updateMask: { paths: ["attributes", "name"] },
        requestId,
      });
    await call({ name: "B" });
    expect(await refusal(call({ name: "B", attributes: {} }))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
  });
});

describe("the first answer, whatever happened since", () => {
  it("rule 39: is answered before the etag is looked at", async () => {
    const target = await person();
    const request = { lookup: byId(target), entity: { name: "B" }, etag: target.etag, requestId: randomUUID() };
    const first = await service.client.entities.updateEntity(request);
    await service.client.entities.updateEntity({ lookup: byId(target), entity: { name: "C" } });
    expect(await service.client.entities.updateEntity(request)).toEqual(first);
    expect((await current(service.client, target)).name).toBe("C");
  });

  it("rule 39: is answered before the lookup: the external id is another's since", async () => {
    const target = await person();
    const request = { lookup: byExternalId(target.externalId), entity: { name: "B" }, requestId: randomUUID() };
    const first = await service.client.entities.updateEntity(request);
    await service.client.entities.changeExternalId({
      lookup: byId(target),
      newExternalId: unique("q"),
      reason: "migration",
    });
    expect(await service.client.entities.updateEntity(request)).toEqual(first);
    const taker = await newPerson(service.client, { externalId: target.externalId });
    expect(await service.client.entities.updateEntity(request)).toEqual(first);
    expect(await current(service.client, taker)).toEqual(taker);
  });

  it("rule 39: is answered for a deleted entity, and for a tax id that is ambiguous since", async () => {
    const target = await person();
    const lookup = { by: { case: "taxId" as const, value: target.taxId ?? "" } };
    const request = { lookup, entity: { name: "B" }, requestId: randomUUID() };
    const first = await service.client.entities.updateEntity(request);
    await newPerson(service.client, { taxId: target.taxId ?? "" });
    expect(await service.client.entities.updateEntity(request)).toEqual(first);
    await service.client.entities.deleteEntity({ lookup: byId(target), reason: "customer left" });
    expect(await service.client.entities.updateEntity(request)).toEqual(first);
  });

  it("rule 39: of ChangeExternalId by the id that it freed", async () => {
    const target = await person();
    const request = {
      lookup: byExternalId(target.externalId),
      newExternalId: unique("q"),
      reason: "migration",
      requestId: randomUUID(),
    };
    const first = await service.client.entities.changeExternalId(request);
    expect(first.changed).toBe(true);
    expect(await service.client.entities.changeExternalId(request)).toEqual(first);
    expect(await eventsOf(service.client, target)).toHaveLength(2);
  });

  it("rule 39: a late retry of a creation after the deletion re-creates nothing", async () => {
    const request = {
      entity: { type: EntityType.PERSON, name: "A", countryCode: "BR", externalId: unique("x") },
      requestId: randomUUID(),
    };
    const first = await service.client.entities.createEntity(request);
    const target = first.entity ?? { id: "" };
    await service.client.entities.deleteEntity({ lookup: byId(target), reason: "customer left" });
    expect((await service.client.entities.createEntity(request)).entity).toEqual(first.entity);
    expect((await current(service.client, target)).deletedAt).toBeDefined();
    const { entities } = await service.client.entities.listEntities({
      externalIds: [request.entity.externalId],
      showDeleted: true,
    });
    expect(entities).toHaveLength(1);
  });

  it("rule 39: a no-op is remembered too: after another change it is still the no-op it was", async () => {
    const target = await person();
    const request = { lookup: byId(target), entity: { name: target.name }, requestId: randomUUID() };
    const first = await service.client.entities.updateEntity(request);
    expect(first.updatedFields).toEqual([]);
    await service.client.entities.updateEntity({ lookup: byId(target), entity: { name: "Z" } });
    expect(await service.client.entities.updateEntity(request)).toEqual(first);
    expect((await current(service.client, target)).name).toBe("Z");
  });

  it("rule 39: an upsert that created is answered as created, though the entity is there now", async () => {
    const request = {
      lookup: byExternalId(unique("up")),
      entity: { type: EntityType.PERSON, name: "A", countryCode: "BR" },
      allowMissing: true,
      requestId: randomUUID(),
    };
    const first = await service.client.entities.updateEntity(request);
    expect(first.created).toBe(true);
    expect(await service.client.entities.updateEntity(request)).toEqual(first);
  });

  it("rule 39: the headers are no part of the request: another actor gets the first answer", async () => {
    const request = { entity: { type: EntityType.PERSON, name: "A", countryCode: "BR" }, requestId: randomUUID() };
    const made = await service.client.organizations.createApiKey({
      displayName: "two actors",
      scopes: ["entities:write"],
    });
    const { createEntityClient } = await import("../clients/typescript/index.ts");
    const as = (actorId: string) =>
      createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: made.secret, actorId });
    const first = await as("alice").entities.createEntity(request);
    expect(await as("bob").entities.createEntity(request)).toEqual(first);
  });
});

describe("a failure in between", () => {
  it("rules 39, 50: a transaction that fails forgets the id with the effect", async () => {
    const target = await person();
    const newExternalId = unique("q");
    const request = { lookup: byId(target), newExternalId, reason: "migration", requestId: randomUUID() };
    await service.sql(
      `alter table entity_event add constraint sabotage check (external_id is distinct from '${newExternalId}')`,
    );
    try {
      await refusal(service.client.entities.changeExternalId(request));
    } finally {
      await service.sql("alter table entity_event drop constraint sabotage");
    }
    expect(await service.sql("select from request_record where request_id = $1", [request.requestId])).toEqual([]);
    expect((await service.client.entities.changeExternalId(request)).changed).toBe(true);
  });

  it("rule 39: a creation that was refused works under its id once the external id is free", async () => {
    const target = await person();
    const request = {
      entity: { type: EntityType.PERSON, name: "A", countryCode: "BR", externalId: target.externalId },
      requestId: randomUUID(),
    };
    expect(await refusal(service.client.entities.createEntity(request))).toMatchObject({
      reason: "DUPLICATE_EXTERNAL_ID",
    });
    await service.client.entities.changeExternalId({
      lookup: byId(target),
      newExternalId: unique("q"),
      reason: "migration",
    });
    expect((await service.client.entities.createEntity(request)).entity?.externalId).toBe(target.externalId);
  });

  it("rule 39: a row of an import that was refused among others works under its id when corrected", async () => {
    const made = Array.from({ length: 5 }, (_, i) => ({
      entity: {
        type: EntityType.PERSON,
        name: "A",
        countryCode: "BR",
        externalId: unique("row"),
        status: i === 2 ? EntityStatus.BLOCKED : EntityStatus.ACTIVE,
      },
      reason: "",
      requestId: randomUUID(),
    }));
    const outcomes = async (rows: typeof made) => {
      async function* stream() {
        yield* rows;
      }
      const found: ImportOutcome[] = [];
      for await (const { results } of service.client.entities.importEntities(stream()))
        found.push(...results.map((result) => result.outcome));
      return found;
    };
    const { CREATED, FAILED } = ImportOutcome;
    expect(await outcomes(made)).toEqual([CREATED, CREATED, FAILED, CREATED, CREATED]);
    expect(await outcomes(made)).toEqual([CREATED, CREATED, FAILED, CREATED, CREATED]);
    expect(await outcomes(made.map((row) => ({ ...row, reason: row === made[2] ? "listed" : "" })))).toEqual([
      CREATED,
      CREATED,
      CREATED,
      CREATED,
      CREATED,
    ]);
    expect(
      await service.sql("select from entity_event where request_id = any($1::uuid[])", [
        made.map((row) => row.requestId),
      ]),
    ).toHaveLength(5);
  });

  it("rule 39: one import may name an id twice: the same row is answered as the first, another is REQUEST_ID_REUSED", async () => {
    const requestId = randomUUID();
    const row = (name: string, externalId: string) => ({
      entity: { type: EntityType.PERSON, name, countryCode: "BR", externalId },
      requestId,
    });
    const id = unique("row");
    async function* rows() {
      yield row("A", id);
      yield row("A", id);
      yield row("B", id);
      yield { ...row("C", unique("row")), requestId: randomUUID() };
    }
    const results = [];
    for await (const answer of service.client.entities.importEntities(rows())) results.push(...answer.results);
    expect(results.map((result) => result.outcome)).toEqual([
      ImportOutcome.CREATED,
      ImportOutcome.CREATED,
      ImportOutcome.FAILED,
      ImportOutcome.CREATED,
    ]);
    expect(results.map((result) => result.row)).toEqual([0n, 1n, 2n, 3n]);
    const { entity } = await service.client.entities.getEntity({ lookup: byExternalId(id) });
    expect(await eventsOf(service.client, entity ?? { id: "" })).toHaveLength(1);
  });
});

// --- Requests that differ in one field, from the descriptors ---------------------------------------

const SAMPLES: Record<string, () => unknown> = {
  entity_id: () => "00000000-0000-7000-8000-0000000000ff",
  endpoint_id: () => "00000000-0000-7000-8000-0000000000ff",
  merge_id: () => "00000000-0000-7000-8000-0000000000ff",
  id: () => "00000000-0000-7000-8000-0000000000ff",
  risk_matrix_id: () => "00000000-0000-4000-8000-0000000000ff",
  organization_id: () => otherOrganizationId,
  api_key_id: () => spareKeyId,
  country_code: () => "UY",
  nationality: () => "UY",
  country: () => "UY",
  currency: () => "USD",
  amount: () => "7.00",
  date_of_birth: () => "1990-02-03",
  incorporation_date: () => "1990-02-03",
  reason: () => "quite another reason",
  points: () => "7",
  medium: () => "7",
  high: () => "37",
  critical: () => "77",
  expression: () => "entity.name == 'x'",
  sha256: () => new Uint8Array(32),
  "RiskRule.id": () => "another",
  designation: () => Designation.UNSPECIFIED,
};

function sample(field: DescField): unknown {
  const named = SAMPLES[`${field.parent.name}.${field.name}`] ?? SAMPLES[field.name];
  if (named !== undefined) return named();
  if (field.fieldKind === "enum" || field.enum !== undefined) return 2;
  if (field.message !== undefined) return create(field.message);
  switch (field.fieldKind === "scalar" ? field.scalar : undefined) {
    case 8:
      return true;
    case 5:
      return 7;
    default:
      return "quite another value";
  }
}

/** Edits of a message, each of which changes one thing that the message says. */
function* edits(desc: DescMessage, message: Message): Generator<[path: string, edit: (message: Init) => void]> {
  const values = message as unknown as Init;
  for (const field of desc.fields) {
    const { localName, name } = field;
    // A page token that was never given is refused before that.
    if (name === "request_id" || name === "page_token") continue;
    const alternative = (value: unknown) =>
      value === sample(field) ? (field.enum === undefined ? `${value}x` : 1) : sample(field);
    if (field.oneof !== undefined) {
      const oneof = field.oneof.localName;
      const now = values[oneof] as { case?: string; value?: unknown };
      if (now.case === localName && field.message !== undefined) {
        for (const [path, edit] of edits(field.message, now.value as Message)) {
          yield [`${name}.${path}`, (m) => edit((m[oneof] as { value: Init }).value)];
        }
      } else {
        yield [
          name,
          (m) =>
            void (m[oneof] = {
              case: localName,
              value: now.case === localName ? alternative(now.value) : sample(field),
            }),
        ];
      }
    } else if (field.fieldKind === "list") {
      const items = values[localName] as unknown[];
      const [first] = items;
      if (field.message !== undefined && first !== undefined) {
        for (const [path, edit] of edits(field.message, first as Message)) {
          // That of a batch is not its items'.
          if (path === "validate_only") continue;
          yield [`${name}[0].${path}`, (m) => edit((m[localName] as Init[])[0] as Init)];
        }
        yield [`${name} repeated`, (m) => void (m[localName] as unknown[]).push(another(field, first as Message))];
      }
      if (items.length > 1) {
        yield [`${name} reversed`, (m) => void (m[localName] as unknown[]).reverse()];
        yield [`${name} shortened`, (m) => void (m[localName] as unknown[]).pop()];
      }
    } else if (field.message?.typeName === "google.protobuf.Struct") {
      yield [
        `${name} with a key more`,
        (m) => void (m[localName] = { ...(m[localName] as Init | undefined), another: 1 }),
      ];
    } else if (field.message?.typeName === "google.protobuf.Timestamp") {
      const now = values[localName] as { seconds: bigint; nanos: number } | undefined;
      const message = field.message;
      yield [
        name,
        (m) =>
          void (m[localName] = create(message, {
            seconds: (now?.seconds ?? 0n) + 1n,
            nanos: now?.nanos ?? 0,
          } as never)),
      ];
    } else if (field.message?.typeName === "google.protobuf.FieldMask") {
      const paths = (values[localName] as { paths: string[] } | undefined)?.paths ?? [];
      const message = field.message;
      yield [
        name,
        (m) =>
          void (m[localName] = create(message, { paths: paths.length > 0 ? paths.slice(0, -1) : ["name"] } as never)),
      ];
    } else if (field.message !== undefined) {
      const message = field.message;
      for (const [path, edit] of edits(message, (values[localName] as Message | undefined) ?? create(message))) {
        yield [
          `${name}.${path}`,
          (m) => {
            m[localName] ??= create(message);
            edit(m[localName] as Init);
          },
        ];
      }
    } else {
      yield [
        name,
        (m) => {
          // At most one of an entity's keys may be given in activity.
          for (const key of ["entityId", "externalId", "entityExternalId", "taxId"]) {
            const isKey =
              ["Party", "UserEvent"].includes(desc.name) &&
              ["entityId", "externalId", "entityExternalId", "taxId"].includes(localName);
            if (isKey && key in m) m[key] = "";
          }
          m[localName] = alternative(values[localName]);
        },
      ];
    }
  }
}

/** Another item of a list, without values that must not repeat. */
function another(field: DescField, item: Message): Message {
  const copy = clone(field.message as DescMessage, item) as Message & { externalId?: string; designation?: number };
  if (copy.designation !== undefined) copy.designation = 0;
  if (field.message?.name !== "UserEvent" && copy.externalId !== undefined) copy.externalId = "quite another item";
  return copy;
}
