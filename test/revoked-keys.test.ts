// A key that is revoked or expires ends its streams: every streaming RPC of the descriptors, in either direction, in
// every protocol.
import { type DescMethod, getOption } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { required_scope } from "../clients/typescript/gen/entity/v1/options_pb.ts";
import {
  ActivityService,
  createEntityClient,
  EntityService,
  EntityType,
  errorInfo,
  OrganizationService,
  WebhookService,
} from "../clients/typescript/index.ts";
import { byExternalId, unique } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { KEY, Kinds, startServer } from "./transport-harness.ts";

const PROTOCOLS: Record<string, (baseUrl: string) => Transport> = {
  gRPC: (baseUrl) => createGrpcTransport({ baseUrl }),
  "gRPC-Web": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "2" }),
  Connect: (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2" }),
};
/** Every stream of the services, in every protocol. */
const streamsOf = (...services: { methods: readonly DescMethod[] }[]) =>
  services
    .flatMap(({ methods }) => methods.filter(({ methodKind }) => methodKind !== "unary"))
    .flatMap((method) =>
      Object.entries(PROTOCOLS).map(([protocol, transport]) => ({ name: method.name, protocol, method, transport })),
    );
/** Those that come to an end by themselves: audit.test.ts and export.test.ts revoke a key in their middle. */
const ENDING: readonly DescMethod[] = [EntityService.method.verifyAuditTrail, EntityService.method.exportEntities];
const CONTRACT = streamsOf(EntityService, ActivityService, OrganizationService, WebhookService).filter(
  ({ method }) => !ENDING.includes(method),
);

/** Long after the key's end: a stream that outlives it fails the test instead of blocking it. */
const DEADLINE_MS = 12_000;

/** Calls the RPC with an endless request stream, and returns how it ends. */
async function endOf(transport: Transport, method: DescMethod, secret: string): Promise<ConnectError | undefined> {
  const over = Promise.withResolvers<void>();
  const requests = (async function* () {
    yield {};
    if (method.methodKind !== "server_streaming") await over.promise;
  })();
  try {
    const header = { authorization: `Bearer ${secret}` };
    const { message } = await transport.stream(method as never, undefined, DEADLINE_MS, header, requests as never);
    for await (const _ of message);
    return undefined;
  } catch (error) {
    return ConnectError.from(error);
  } finally {
    over.resolve();
  }
}

async function expectUnauthenticated(ended: Promise<ConnectError | undefined>, since: () => number): Promise<void> {
  const error = await ended;
  const afterMs = since();
  expect(error?.code, error?.message).toBe(Code.Unauthenticated);
  expect(errorInfo(error)?.reason).toBe("UNAUTHENTICATED");
  expect(afterMs).toBeGreaterThanOrEqual(0);
  expect(afterMs).toBeLessThan(5_000);
}

describe("a key that is revoked or expires", () => {
  let service: TestService;
  let organization: TestOrganization;
  beforeAll(async () => {
    service = await startService();
    organization = await service.newOrganization();
  });
  afterAll(() => service[Symbol.asyncDispose]());

  const makeKey = (scope: string, expiresAt?: number) =>
    organization.client.organizations.createApiKey({
      displayName: "to end",
      scopes: [scope],
      ...(expiresAt !== undefined && { expiresAt: timestampFromDate(new Date(expiresAt)) }),
    });

  it("is of a contract that streams both ways", () => {
    expect(CONTRACT.map(({ method }) => method.methodKind)).toEqual(
      expect.arrayContaining(["server_streaming", "bidi_streaming"]),
    );
  });

  it.concurrent.each(CONTRACT)("ends $name over $protocol within 5 s", async ({ method, transport }) => {
    const scope = getOption(method, required_scope);
    const expiresAt = Date.now() + 2_000;
    const [revoked, expiring] = await Promise.all([makeKey(scope), makeKey(scope, expiresAt)]);
    const ends = [revoked, expiring].map(({ secret }) => endOf(transport(service.baseUrl), method, secret));
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const revokedAt = Date.now();
    await organization.client.organizations.revokeApiKey({ apiKeyId: revoked.apiKey?.id ?? "" });
    await Promise.all(
      [revokedAt, expiresAt].map((at, i) => expectUnauthenticated(ends[i] as never, () => Date.now() - at)),
    );
  });

  it("writes no further row of an import", async () => {
    const { secret, apiKey } = await makeKey("entities:write");
    const { entities } = createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: secret });
    const [before, after] = [unique("before"), unique("after")];
    const ended = Promise.withResolvers<void>();
    const row = (externalId: string) => ({
      entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId },
    });
    const answers = entities
      .importEntities(
        (async function* () {
          yield row(before);
          await ended.promise;
          yield row(after);
        })(),
      )
      [Symbol.asyncIterator]();
    expect((await answers.next()).value?.progress?.created).toBe(1n);
    await organization.client.organizations.revokeApiKey({ apiKeyId: apiKey?.id ?? "" });
    expect((await refusal(answers.next())).reason).toBe("UNAUTHENTICATED");
    ended.resolve();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const find = (externalId: string) => organization.client.entities.getEntity({ lookup: byExternalId(externalId) });
    expect((await refusal(find(after))).reason).toBe("NOT_FOUND");
    expect((await find(before)).entity?.externalId).toBe(before);
  });
});

describe("of every kind of stream, those that the contract lacks too", () => {
  it.concurrent.each(streamsOf(Kinds))("a refused key ends $name over $protocol", async ({ method, transport }) => {
    let isKnown = true;
    const caller = { organizationId: "o", apiKeyId: "k", scopes: new Set(["entities:read"]) };
    const never = new Promise<never>(() => {});
    await using server = await startServer({
      findCaller: async () => (isKnown ? caller : null),
      limits: { streamIdleTimeoutMs: 60_000 },
      kinds: {
        repeat: async function* () {
          yield {};
          yield never;
        },
        collect: () => never,
        converse: async function* () {
          yield {};
          yield never;
        },
      },
    });
    const end = endOf(transport(server.url), method, KEY);
    await new Promise((resolve) => setTimeout(resolve, 500));
    isKnown = false;
    const revokedAt = Date.now();
    await expectUnauthenticated(end, () => Date.now() - revokedAt);
  });

  it("are three", () => {
    expect(new Set(streamsOf(Kinds).map(({ method }) => method.methodKind)).size).toBe(3);
  });
});
