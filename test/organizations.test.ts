// Organizations and keys: who may do what, what is stored of a secret, and how soon a revoked key is refused.
import { createHash, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type DescMethod, getOption } from "@bufbuild/protobuf";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { also_required_scope, required_scope } from "../clients/typescript/gen/entity/v1/options_pb.ts";
import { OrganizationService } from "../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { createEntityClient, type EntityClient, EntityType, ExternalIdPolicy } from "../clients/typescript/index.ts";
import { DEFAULT_ORGANIZATION_ID } from "../src/db/across.ts";
import { SCOPES } from "../src/db/api-keys.ts";
import { captureHeaders, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";
import { comparable, dump, openWire, refusalIn, startOther } from "./wall-harness.ts";

const METHODS = SERVICES.flatMap((service) => service.methods) as DescMethod[];
const policy = { mutable: ExternalIdPolicy.MUTABLE_WITH_REASON, immutable: ExternalIdPolicy.IMMUTABLE };

let service: TestService;
let operator: EntityClient;
let a: TestOrganization;
let b: TestOrganization;

beforeAll(async () => {
  service = await startService();
  operator = service.client;
  a = await service.newOrganization();
  b = await service.newOrganization();
});
afterAll(() => service[Symbol.asyncDispose]());

/** A key of `default` with these scopes: the secret. */
async function keyOf(...scopes: string[]): Promise<string> {
  return (await operator.organizations.createApiKey({ displayName: "k", scopes })).secret;
}
const clientOf = (apiKey: string) => createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey });
const read = (client: EntityClient) => client.organizations.getOrganization({});

describe("scopes", () => {
  test("every RPC has a scope that a key can have", () => {
    expect(METHODS.length).toBeGreaterThan(20);
    for (const method of METHODS) expect(SCOPES, method.name).toContain(getOption(method, required_scope));
  });

  test.each(SCOPES)("%s opens the RPCs that ask for it, and no other", async (scope) => {
    await using wire = openWire(service.baseUrl, await keyOf(scope));
    for (const method of METHODS) {
      const wanted = getOption(method, required_scope);
      // An empty request is refused, if at all, for missing fields; a stream without rows is accepted. Nothing is created.
      const made = ["CreateApiKey", "UpdateOrganization"].includes(method.name) ? { validateOnly: true } : {};
      // A watch ends only at its deadline.
      const headers: Record<string, string> =
        method.methodKind === "server_streaming" ? { "grpc-timeout": "200m" } : {};
      const outcome = refusalIn(await wire.call(method, method.methodKind === "bidi_streaming" ? [] : made, headers));
      const also = getOption(method, also_required_scope);
      const opens = wanted === scope || (wanted === "admin" && scope === "operator");
      if (opens && ["", scope].includes(also)) {
        expect(outcome?.reason, method.name).not.toBe("PERMISSION_DENIED");
        expect(outcome?.reason, method.name).not.toBe("INTERNAL");
      } else {
        expect(outcome, method.name).toMatchObject({
          code: Code.PermissionDenied,
          reason: "PERMISSION_DENIED",
          metadata: { scope: opens ? also : wanted },
        });
      }
    }
  });

  test("all scopes but one: that one's RPCs stay closed", async () => {
    for (const missing of SCOPES) {
      await using wire = openWire(service.baseUrl, await keyOf(...SCOPES.filter((scope) => scope !== missing)));
      for (const method of METHODS) {
        if (getOption(method, required_scope) !== missing || missing === "admin") continue;
        expect(refusalIn(await wire.call(method, {})), `${method.name} without ${missing}`).toMatchObject({
          reason: "PERMISSION_DENIED",
        });
      }
    }
  });

  test("number 65: permission is looked at before the message", async () => {
    await using wire = openWire(service.baseUrl, await keyOf("activity:read"));
    for (const method of METHODS) {
      if (getOption(method, required_scope) === "activity:read") continue;
      expect(refusalIn(await wire.call(method, Buffer.from([0xff]))), method.name).toMatchObject({
        reason: "PERMISSION_DENIED",
      });
    }
  });

  test("a key without scopes, with unknown ones, or with nearly right ones cannot be made", async () => {
    const before = await dump(service.sql);
    for (const scopes of [
      [],
      [""],
      ["*"],
      ["all"],
      ["ADMIN"],
      [" admin"],
      ["entities:*"],
      ["admin", "root"],
      ["entities:read,admin"],
      ["__proto__"],
    ]) {
      expect(
        await refusal(operator.organizations.createApiKey({ displayName: "k", scopes })),
        JSON.stringify(scopes),
      ).toMatchObject({ code: Code.InvalidArgument, reason: "VALIDATION_ERROR" });
    }
    expect(await dump(service.sql)).toEqual(before);
  });

  test("a scope named twice is there once", async () => {
    const { apiKey } = await operator.organizations.createApiKey({
      displayName: "k",
      scopes: ["admin", "admin"],
      validateOnly: true,
    });
    expect(apiKey?.scopes).toEqual(["admin"]);
  });
});

describe("the scope operator", () => {
  test("is for keys of `default` alone, and only an operator gives it", async () => {
    expect(
      await refusal(
        operator.organizations.createApiKey({ organizationId: a.id, displayName: "k", scopes: ["operator"] }),
      ),
    ).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["scopes"] });
    expect(
      await refusal(a.client.organizations.createApiKey({ displayName: "k", scopes: ["admin", "operator"] })),
    ).toMatchObject({ reason: "VALIDATION_ERROR" });
    const admin = clientOf(await keyOf("admin"));
    for (const organizationId of ["", DEFAULT_ORGANIZATION_ID]) {
      expect(
        await refusal(admin.organizations.createApiKey({ organizationId, displayName: "k", scopes: ["operator"] })),
      ).toMatchObject({ code: Code.PermissionDenied, reason: "PERMISSION_DENIED", metadata: { scope: "operator" } });
    }
    const second = await operator.organizations.createApiKey({ displayName: "k", scopes: ["operator"] });
    expect(
      (await clientOf(second.secret).organizations.listOrganizations({})).organizations.length,
    ).toBeGreaterThanOrEqual(3);
  });

  test("passes where admin is asked for, in every organization; and opens no data", async () => {
    const only = clientOf(await keyOf("operator"));
    expect((await only.organizations.getOrganization({ organizationId: a.id })).organization?.id).toBe(a.id);
    expect((await only.organizations.listApiKeys({ organizationId: b.id })).apiKeys.map((key) => key.id)).toContain(
      b.apiKeyId,
    );
    const made = await only.organizations.createApiKey({
      organizationId: b.id,
      displayName: "by the operator",
      scopes: ["admin"],
    });
    expect(made.apiKey?.organizationId).toBe(b.id);
    expect((await read(clientOf(made.secret))).organization?.id).toBe(b.id);
    expect(
      (await only.organizations.revokeApiKey({ organizationId: b.id, apiKeyId: made.apiKey?.id ?? "" })).changed,
    ).toBe(true);
    expect(await refusal(only.entities.listEntities({}))).toMatchObject({ reason: "PERMISSION_DENIED" });
  });

  test("an admin of an organization without it lists, makes and reaches no other", async () => {
    const before = await dump(service.sql);
    await using wire = openWire(service.baseUrl, a.apiKey);
    for (const [method, request] of [
      [OrganizationService.method.getOrganization, {}],
      [OrganizationService.method.updateOrganization, { organization: { displayName: "x" } }],
      [OrganizationService.method.createApiKey, { displayName: "x", scopes: ["admin"] }],
      [OrganizationService.method.listApiKeys, {}],
      [OrganizationService.method.revokeApiKey, { apiKeyId: b.apiKeyId }],
    ] as const) {
      const answers = [];
      for (const organizationId of [b.id, DEFAULT_ORGANIZATION_ID, randomUUID()])
        answers.push(await wire.call(method, { ...request, organizationId }));
      expect(refusalIn(answers[0] as never), method.name).toMatchObject({
        code: Code.NotFound,
        reason: "NOT_FOUND",
        message: "Organization not found",
        metadata: { lookup: "organization_id" },
      });
      for (const answer of answers) expect(comparable(answer)).toEqual(comparable(answers[0] as never));
    }
    expect(refusalIn(await wire.call(OrganizationService.method.listOrganizations, {}))).toMatchObject({
      reason: "PERMISSION_DENIED",
    });
    expect(
      refusalIn(await wire.call(OrganizationService.method.createOrganization, { organization: { displayName: "x" } })),
    ).toMatchObject({ reason: "PERMISSION_DENIED" });
    expect(refusalIn(await wire.call(OrganizationService.method.revokeApiKey, { apiKeyId: b.apiKeyId }))).toMatchObject(
      { reason: "NOT_FOUND", message: "API key not found" },
    );
    expect(await dump(service.sql)).toEqual(before);
  });

  test.each(["x", "default", "00000000", `{${randomUUID()}}`, "' or true --"])(
    "an organization id that is no UUID is refused, to operators and admins: %s",
    async (organizationId) => {
      for (const client of [operator, a.client]) {
        const refusals = [
          client.organizations.getOrganization({ organizationId }),
          client.organizations.updateOrganization({ organizationId, organization: { displayName: "x" } }),
          client.organizations.createApiKey({ organizationId, displayName: "x", scopes: ["admin"] }),
          client.organizations.listApiKeys({ organizationId }),
          client.organizations.revokeApiKey({ organizationId, apiKeyId: randomUUID() }),
        ].map(refusal);
        for (const refused of await Promise.all(refusals))
          expect(refused).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["organization_id"] });
      }
    },
  );

  test("rule 13: what is wrong with the request comes before whether there is such an organization", async () => {
    for (const organizationId of [randomUUID(), b.id]) {
      expect(
        await refusal(
          a.client.organizations.updateOrganization({ organizationId, organization: { displayName: " " } }),
        ),
      ).toMatchObject({ reason: "VALIDATION_ERROR" });
      expect(
        await refusal(a.client.organizations.createApiKey({ organizationId, displayName: "", scopes: [] })),
      ).toMatchObject({ reason: "VALIDATION_ERROR" });
      expect(await refusal(a.client.organizations.listApiKeys({ organizationId, pageSize: -1 }))).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
      expect(await refusal(a.client.organizations.revokeApiKey({ organizationId, apiKeyId: "x" }))).toMatchObject({
        reason: "VALIDATION_ERROR",
      });
    }
    expect(await refusal(operator.organizations.getOrganization({ organizationId: randomUUID() }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    const refusals = [
      operator.organizations.updateOrganization({ organizationId: randomUUID(), organization: { displayName: "x" } }),
      operator.organizations.createApiKey({ organizationId: randomUUID(), displayName: "x", scopes: ["admin"] }),
      operator.organizations.listApiKeys({ organizationId: randomUUID() }),
    ].map(refusal);
    for (const refused of await Promise.all(refusals))
      expect(refused).toMatchObject({ reason: "NOT_FOUND", message: "Organization not found" });
  });
});

describe("organizations", () => {
  test("are made with a name and the default policy, without keys, and read back", async () => {
    const { organization: made } = await operator.organizations.createOrganization({
      organization: { displayName: "  Banco  " },
    });
    expect(made).toMatchObject({ displayName: "Banco", externalIdPolicy: policy.mutable });
    expect(made?.id).toMatch(/^[0-9a-f-]{36}$/);
    expect(Math.abs(timestampDate(made?.createdAt as never).getTime() - Date.now())).toBeLessThan(60_000);
    expect((await operator.organizations.getOrganization({ organizationId: made?.id ?? "" })).organization).toEqual(
      made,
    );
    expect((await operator.organizations.listApiKeys({ organizationId: made?.id ?? "" })).apiKeys).toEqual([]);
    expect(
      (await operator.organizations.getOrganization({ organizationId: made?.id.toUpperCase() ?? "" })).organization,
    ).toEqual(made);
  });

  test("output-only fields at creation are not taken", async () => {
    const id = randomUUID();
    const { organization: made } = await operator.organizations.createOrganization({
      organization: { id, displayName: "x", etag: id },
    });
    expect([made?.id, made?.etag]).not.toContain(id);
  });

  test.each([
    ["blank", " "],
    ["513", "x".repeat(513)],
    ["two lines", "a\nb"],
    ["NUL", "a\0"],
    ["an override", "a\u202eb"],
  ])("a name that is none: %s", async (_, displayName) => {
    expect(await refusal(operator.organizations.createOrganization({ organization: { displayName } }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["organization.display_name"],
    });
    expect(
      await refusal(
        a.client.organizations.updateOrganization({
          organization: { displayName },
          updateMask: { paths: ["display_name"] },
        }),
      ),
    ).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect(await refusal(a.client.organizations.createApiKey({ displayName, scopes: ["admin"] }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["display_name"],
    });
  });

  test("validate_only makes none, and answers what would be", async () => {
    const before = await dump(service.sql);
    expect(
      (
        await operator.organizations.createOrganization({
          organization: { displayName: "x" },
          validateOnly: true,
          requestId: randomUUID(),
        })
      ).organization?.displayName,
    ).toBe("x");
    expect(
      (
        await a.client.organizations.updateOrganization({
          organization: { displayName: "y" },
          validateOnly: true,
          requestId: randomUUID(),
        })
      ).organization?.displayName,
    ).toBe("y");
    expect(
      (await a.client.organizations.createApiKey({ displayName: "z", scopes: ["admin"], validateOnly: true })).secret,
    ).toBe("");
    expect(
      (await a.client.organizations.revokeApiKey({ apiKeyId: a.apiKeyId, validateOnly: true, requestId: randomUUID() }))
        .apiKey?.revokedAt,
    ).toBeDefined();
    expect(await dump(service.sql)).toEqual(before);
    expect((await read(a.client)).organization?.id).toBe(a.id);
  });

  test("a request_id makes creation, update and revocation safe to retry", async () => {
    const headers = captureHeaders();
    const client = createEntityClient({
      retries: false,
      baseUrl: service.baseUrl,
      apiKey: service.organization.apiKey,
      interceptors: [headers.interceptor],
    });
    const key = await operator.organizations.createApiKey({
      organizationId: b.id,
      displayName: "k",
      scopes: ["admin"],
    });
    for (const call of [
      (requestId: string, displayName = "once") =>
        client.organizations.createOrganization({ organization: { displayName }, requestId }),
      (requestId: string, displayName = "once") =>
        client.organizations.updateOrganization({ organizationId: b.id, organization: { displayName }, requestId }),
      (requestId: string, other?: string) =>
        client.organizations.revokeApiKey({
          organizationId: b.id,
          apiKeyId: other === undefined ? (key.apiKey?.id ?? "") : randomUUID(),
          requestId,
        }),
    ]) {
      const requestId = randomUUID();
      const first = await call(requestId);
      expect(headers.last.get("idempotent-replay")).toBeNull();
      const after = await dump(service.sql);
      expect(await call(requestId)).toEqual(first);
      expect(headers.last.get("idempotent-replay")).toBe("true");
      expect(await refusal(call(requestId, "other"))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
      expect(await dump(service.sql)).toEqual(after);
    }
  });

  test("of ten creations at once with one request_id there is one organization", async () => {
    const requestId = randomUUID();
    const displayName = `race ${requestId}`;
    const made = await Promise.all(
      Array.from({ length: 10 }, () =>
        operator.organizations.createOrganization({ organization: { displayName }, requestId }),
      ),
    );
    expect(new Set(made.map(({ organization: o }) => o?.id)).size).toBe(1);
    expect(
      await service.sql("select count(*)::int as n from organization where display_name = $1", [displayName]),
    ).toEqual([{ n: 1 }]);
  });

  test("update: the populated fields, or exactly the mask; nothing can be cleared; nothing else is a path", async () => {
    const { organizations } = a.client;
    const before = (await organizations.getOrganization({})).organization;
    const renamed = (await organizations.updateOrganization({ organization: { displayName: "A 2" } })).organization;
    expect(renamed).toMatchObject({ displayName: "A 2", externalIdPolicy: before?.externalIdPolicy });
    expect(renamed?.etag).not.toBe(before?.etag);
    expect(renamed?.createdAt).toEqual(before?.createdAt);
    expect(timestampDate(renamed?.updatedAt as never) > timestampDate(before?.updatedAt as never)).toBe(true);
    const masked = (
      await organizations.updateOrganization({
        organization: { displayName: "A 3", externalIdPolicy: policy.immutable },
        updateMask: { paths: ["external_id_policy"] },
      })
    ).organization;
    expect(masked).toMatchObject({ displayName: "A 2", externalIdPolicy: policy.immutable });
    for (const request of [
      { organization: {} },
      {},
      { organization: { displayName: " A 2 ", externalIdPolicy: policy.immutable } },
      { organization: { id: b.id, etag: "x" } },
    ]) {
      expect((await organizations.updateOrganization(request as never)).organization, "no change").toEqual(masked);
    }
    for (const paths of [
      ["id"],
      ["etag"],
      ["*"],
      ["displayName"],
      ["created_at"],
      ["__proto__"],
      ["display_name", "nope"],
    ]) {
      expect(
        await refusal(organizations.updateOrganization({ organization: { displayName: "x" }, updateMask: { paths } })),
        String(paths),
      ).toMatchObject({ reason: "VALIDATION_ERROR" });
    }
    for (const path of ["display_name", "external_id_policy"]) {
      expect(
        await refusal(organizations.updateOrganization({ organization: {}, updateMask: { paths: [path] } })),
      ).toMatchObject({ reason: "VALIDATION_ERROR", fields: [`organization.${path}`] });
    }
    await organizations.updateOrganization({ organization: { externalIdPolicy: policy.mutable } });
  });

  test("update: the etag is a condition; of two with one etag, one wins", async () => {
    const { organizations } = a.client;
    const { organization: now } = await organizations.getOrganization({});
    const etag = now?.etag ?? "";
    expect(
      await refusal(organizations.updateOrganization({ organization: { displayName: "x" }, etag: randomUUID() })),
    ).toMatchObject({ code: Code.Aborted, reason: "ETAG_MISMATCH", metadata: { etag } });
    const race = await Promise.allSettled(
      Array.from({ length: 8 }, (_, i) =>
        organizations.updateOrganization({ organization: { displayName: `race ${i}` }, etag }),
      ),
    );
    expect(race.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    for (const lost of race)
      if (lost.status === "rejected") expect((await refusal(Promise.reject(lost.reason))).reason).toBe("ETAG_MISMATCH");
  });

  test("rule 53: the policy IMMUTABLE bites at once, of one's own organization alone", async () => {
    const strict = await service.newOrganization("IMMUTABLE");
    const make = async (o: TestOrganization) =>
      o.client.entities.createEntity({
        entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: "p-1" },
      });
    await make(strict);
    const change = {
      lookup: { by: { case: "externalId" as const, value: "p-1" } },
      newExternalId: "p-2",
      reason: "because we must",
    };
    expect(await refusal(strict.client.entities.changeExternalId(change))).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "EXTERNAL_ID_IMMUTABLE",
      metadata: { allowed: "keep_previous_as_alias" },
    });
    await make(b);
    expect((await b.client.entities.changeExternalId(change)).changed).toBe(true);
    await strict.client.organizations.updateOrganization({ organization: { externalIdPolicy: policy.mutable } });
    expect((await strict.client.entities.changeExternalId(change)).changed).toBe(true);
  });

  test("lists: by id, in pages, each once", async () => {
    const all = (await operator.organizations.listOrganizations({ pageSize: 1000 })).organizations;
    const rows = await service.sql("select organization_id as id from organization order by organization_id");
    expect(all.map((organization) => organization.id)).toEqual(rows.map((row) => row.id));
    const paged: string[] = [];
    let pageToken = "";
    do {
      const page = await operator.organizations.listOrganizations({ pageSize: 2, pageToken });
      expect(page.organizations.length).toBeLessThanOrEqual(2);
      paged.push(...page.organizations.map((organization) => organization.id));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(paged).toEqual(all.map((organization) => organization.id));
  });
});

describe("keys", () => {
  test("the secret is shown once and kept nowhere: not in any table, not as a plain hash of part of it", async () => {
    const { apiKey, secret } = await a.client.organizations.createApiKey({ displayName: "once", scopes: ["admin"] });
    expect(secret).toMatch(/^es_[A-Za-z0-9_-]{43}$/);
    await read(clientOf(secret));
    const everything = JSON.stringify(await dump(service.sql));
    const forms = [
      secret,
      secret.slice(3),
      Buffer.from(secret).toString("hex"),
      Buffer.from(secret).toString("base64"),
      Buffer.from(secret.slice(3), "base64url").toString("hex"),
    ];
    for (const form of forms) expect(everything).not.toContain(form);
    const [row] = await service.sql("select encode(digest, 'hex') as digest from api_key where id = $1", [apiKey?.id]);
    expect(row?.digest).toBe(createHash("sha256").update(secret).digest("hex"));
    const { apiKeys } = await a.client.organizations.listApiKeys({ pageSize: 1000 });
    const listed = apiKeys.find((key) => key.id === apiKey?.id);
    expect(listed).toEqual(apiKey);
    const text = JSON.stringify(apiKeys, (_, value) => (typeof value === "bigint" ? String(value) : value));
    for (const form of [...forms, row?.digest as string]) expect(text).not.toContain(form);
    const { secret: second } = await a.client.organizations.createApiKey({ displayName: "once", scopes: ["admin"] });
    expect(second).not.toBe(secret);
  });

  test("the digest is no key", async () => {
    const [row] = await service.sql("select encode(digest, 'hex') as digest from api_key where id = $1", [a.apiKeyId]);
    expect(await refusal(read(clientOf(row?.digest as string)))).toMatchObject({ reason: "UNAUTHENTICATED" });
  });

  test("lists: by id, in pages, each once, revoked ones too, one's own alone", async () => {
    const { apiKey } = await b.client.organizations.createApiKey({ displayName: "gone", scopes: ["admin"] });
    await b.client.organizations.revokeApiKey({ apiKeyId: apiKey?.id ?? "" });
    const ids: string[] = [];
    let pageToken = "";
    do {
      const page = await b.client.organizations.listApiKeys({ pageSize: 1, pageToken });
      ids.push(...page.apiKeys.map((key) => key.id));
      for (const key of page.apiKeys) expect(key.organizationId).toBe(b.id);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    const rows = await service.sql("select id from api_key where organization_id = $1 order by id", [b.id]);
    expect(ids).toEqual(rows.map((row) => row.id));
    expect(ids).toContain(apiKey?.id);
    // A token of one organization is invalid for another, for an operator too.
    const { nextPageToken } = await operator.organizations.listApiKeys({ organizationId: b.id, pageSize: 1 });
    expect(
      await refusal(
        operator.organizations.listApiKeys({ organizationId: a.id, pageSize: 1, pageToken: nextPageToken }),
      ),
    ).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["page_token"] });
  });

  test("an end in the past is refused, one in some seconds bites then", async () => {
    for (const ms of [-1, -60_000]) {
      expect(
        await refusal(
          a.client.organizations.createApiKey({
            displayName: "k",
            scopes: ["admin"],
            expiresAt: timestampFromDate(new Date(Date.now() + ms)),
          }),
        ),
      ).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["expires_at"] });
    }
    // Time for the calls before it, on a machine that is busy.
    const expiresAt = new Date(Date.now() + 3_000);
    const { apiKey, secret } = await a.client.organizations.createApiKey({
      displayName: "k",
      scopes: ["admin"],
      expiresAt: timestampFromDate(expiresAt),
    });
    expect(timestampDate(apiKey?.expiresAt as never)).toEqual(expiresAt);
    const client = clientOf(secret);
    expect((await read(client)).organization?.id).toBe(a.id);
    await expect
      .poll(async () => (await read(client).catch(() => undefined)) === undefined, { timeout: 8_500, interval: 100 })
      .toBe(true);
    expect(Date.now() - expiresAt.getTime()).toBeLessThan(5_000);
    expect(await refusal(read(client))).toMatchObject({ reason: "UNAUTHENTICATED" });
  });

  test("a revoked key is dead at once here, and within 5 s on another process; revoking it again is no change", async () => {
    await using second = await startOther(service);
    const { apiKey, secret } = await a.client.organizations.createApiKey({ displayName: "k", scopes: ["admin"] });
    const [here, there] = [clientOf(secret), second.client(secret)];
    expect((await read(here)).organization?.id).toBe(a.id);
    expect((await read(there)).organization?.id).toBe(a.id);
    const first = await a.client.organizations.revokeApiKey({ apiKeyId: apiKey?.id.toUpperCase() ?? "" });
    const start = performance.now();
    expect(first.changed).toBe(true);
    expect(first.apiKey?.revokedAt).toBeDefined();
    expect(await refusal(read(here))).toMatchObject({ reason: "UNAUTHENTICATED" });
    let dead = false;
    while (!dead && performance.now() - start < 6_000) {
      dead = await read(there).then(
        () => false,
        () => true,
      );
      await sleep(50);
    }
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(await refusal(read(there))).toMatchObject({ reason: "UNAUTHENTICATED" });
    const again = await a.client.organizations.revokeApiKey({ apiKeyId: apiKey?.id ?? "" });
    expect(again.changed).toBe(false);
    expect(again.apiKey).toEqual(first.apiKey);
  });

  test("a key may end itself, and is then dead", async () => {
    const { apiKey, secret } = await a.client.organizations.createApiKey({ displayName: "k", scopes: ["admin"] });
    const self = clientOf(secret);
    expect((await self.organizations.revokeApiKey({ apiKeyId: apiKey?.id ?? "" })).changed).toBe(true);
    expect(await refusal(read(self))).toMatchObject({ reason: "UNAUTHENTICATED" });
  });

  test("number 62: unknown, expired and revoked are one and the same to the caller", async () => {
    const make = async () => a.client.organizations.createApiKey({ displayName: "k", scopes: ["admin"] });
    const [revoked, expired] = [await make(), await make()];
    await a.client.organizations.revokeApiKey({ apiKeyId: revoked.apiKey?.id ?? "" });
    await service.sql("update api_key set expires_at = now() - interval '1 second' where id = $1", [
      expired.apiKey?.id,
    ]);
    const answers = [];
    for (const secret of [`es_${"A".repeat(43)}`, revoked.secret, expired.secret]) {
      await using wire = openWire(service.baseUrl, secret);
      answers.push(await wire.call(OrganizationService.method.getOrganization, {}));
    }
    expect(refusalIn(answers[0] as never)).toMatchObject({
      code: Code.Unauthenticated,
      reason: "UNAUTHENTICATED",
      message: "The API key is unknown, expired or revoked",
      metadata: {},
    });
    for (const answer of answers) expect(comparable(answer)).toEqual(comparable(answers[0] as never));
  });

  test("an admin gives no key to another organization by any field", async () => {
    const { apiKey, secret } = await a.client.organizations.createApiKey({
      organizationId: a.id,
      displayName: "k",
      scopes: ["entities:read"],
    });
    expect(apiKey?.organizationId).toBe(a.id);
    expect(
      (await clientOf(secret).entities.listEntities({})).entities.every((entity) => entity.organizationId === a.id),
    ).toBe(true);
    expect(await refusal(clientOf(secret).organizations.listApiKeys({}))).toMatchObject({
      reason: "PERMISSION_DENIED",
    });
  });

  test("revoking what is no id, and an unknown one", async () => {
    for (const apiKeyId of ["", "x", `{${a.apiKeyId}}`])
      expect(await refusal(a.client.organizations.revokeApiKey({ apiKeyId }))).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["api_key_id"],
      });
    expect(await refusal(a.client.organizations.revokeApiKey({ apiKeyId: randomUUID() }))).toMatchObject({
      code: Code.NotFound,
      reason: "NOT_FOUND",
      metadata: { lookup: "api_key_id" },
    });
  });
});

describe("bootstrap", () => {
  const keys = () =>
    service.sql<{ id: string }>("select id from api_key where organization_id = $1 order by id", [
      DEFAULT_ORGANIZATION_ID,
    ]);

  test("BOOTSTRAP_API_KEY is added where the database lacks it, with all scopes; a second start makes no second key", async () => {
    const before = await keys();
    const bootstrapApiKey = `bootstrap_${randomUUID()}`;
    {
      await using other = await startOther(service, { config: { bootstrapApiKey } });
      const { apiKeys } = await other.client(bootstrapApiKey).organizations.listApiKeys({ pageSize: 1000 });
      expect(apiKeys.at(-1)).toMatchObject({ organizationId: DEFAULT_ORGANIZATION_ID, scopes: [...SCOPES] });
    }
    const after = await keys();
    expect(after).toHaveLength(before.length + 1);
    for (const config of [{ bootstrapApiKey }, { bootstrapApiKey }, {}]) {
      await using _ = await startOther(service, { config });
    }
    expect(await keys()).toEqual(after);
    expect(JSON.stringify(await dump(service.sql))).not.toContain(bootstrapApiKey);
  });

  test("of four processes that start at once, one makes the key", async () => {
    const before = await keys();
    const bootstrapApiKey = `bootstrap_${randomUUID()}`;
    const servers = await Promise.all(
      [1, 2, 3, 4].map(() => startOther(service, { config: { bootstrapApiKey, poolSize: 2 } })),
    );
    for (const server of servers) await server[Symbol.asyncDispose]();
    expect(await keys()).toHaveLength(before.length + 1);
  });

  test("a start does not bring a revoked bootstrap key back", async () => {
    const bootstrapApiKey = `bootstrap_${randomUUID()}`;
    {
      await using other = await startOther(service, { config: { bootstrapApiKey } });
      const { apiKeys } = await other.client(bootstrapApiKey).organizations.listApiKeys({ pageSize: 1000 });
      await operator.organizations.revokeApiKey({ apiKeyId: apiKeys.at(-1)?.id ?? "" });
    }
    await using again = await startOther(service, { config: { bootstrapApiKey } });
    expect(await refusal(read(again.client(bootstrapApiKey)))).toMatchObject({ reason: "UNAUTHENTICATED" });
  });
});
