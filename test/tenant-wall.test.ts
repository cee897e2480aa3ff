// Organization B tries everything of organization A that can be named, in every RPC of every service, found from the
// descriptors. The answer for what is A's must equal, byte for byte, the answer for what does not exist (rules 2, 3);
// and no byte of A's data ever reaches B.
import { randomUUID } from "node:crypto";
import { type DescMethod, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import {
  ActivityService,
  type ListTransactionsResponse,
} from "../clients/typescript/gen/entity/v1/activity_service_pb.ts";
import {
  EntityService,
  type ImportEntitiesResponse,
  ImportOutcome,
  type ListEntitiesResponse,
  ListEntitiesResponseSchema,
} from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { Designation, EntityStatus, EntityType, WebhookEndpointState } from "../clients/typescript/index.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";
import { SERVICES } from "./services.ts";
import {
  type Answer,
  comparable,
  dump,
  everythingIn,
  insertCheckpoints,
  messagesOf,
  openWire,
  refusalIn,
  startOther,
  type Wire,
} from "./wall-harness.ts";

const CANARY = "CANARY";
const METHODS = new Map(
  SERVICES.flatMap((service) => service.methods).map((method) => [method.name, method as DescMethod]),
);

/** Every kind of name: A's, or of nothing at all. */
interface Names {
  entityId: string;
  deletedEntityId: string;
  mergedEntityId: string;
  mergedExternalId: string;
  mergeId: string;
  undoneMergeId: string;
  deletedExternalId: string;
  externalId: string;
  alias: string;
  formerExternalId: string;
  taxId: string;
  sharedTaxId: string;
  organizationId: string;
  apiKeyId: string;
  revokedApiKeyId: string;
  requestId: string;
  /** Another request id of A's, which B uses too. */
  freeRequestId: string;
  etag: string;
  actor: string;
  /** The position of a watch. */
  position: string;
  riskMatrixId: string;
  endpointId: string;
  deletedEndpointId: string;
  deliveryId: string;
}

/** How a call of B ends: */
type Expected =
  /** NOT_FOUND, the same bytes as for the id of nothing. */
  | "NOT_FOUND"
  /** OK, the same bytes as for the id of nothing: a list without anything of A's. */
  | "NOTHING"
  /** Refused for its scope, the same bytes. */
  | "PERMISSION_DENIED"
  /** VALIDATION_ERROR, the same bytes as for an invalid token. */
  | "VALIDATION_ERROR"
  /** Refused for its position, the same bytes as for garbage. */
  | "POSITION_INVALID"
  /** OK: B uses values that A uses too. A's rows stay as they are. */
  | "FREE";

interface Case {
  by: string;
  request: (names: Names) => Record<string, unknown>;
  expect: Expected;
}

let service: TestService;
let a: TestOrganization;
let b: TestOrganization;
let wire: Wire;
let own: Names;
const nothing: Names = {
  entityId: randomUUID(),
  deletedEntityId: randomUUID(),
  mergedEntityId: randomUUID(),
  mergedExternalId: "nobody-merged",
  mergeId: randomUUID(),
  undoneMergeId: randomUUID(),
  deletedExternalId: "nobody-deleted",
  externalId: "nobody",
  alias: "nobody-alias",
  formerExternalId: "nobody-former",
  taxId: "99-77777777-1",
  sharedTaxId: "99-77777777-2",
  organizationId: randomUUID(),
  apiKeyId: randomUUID(),
  revokedApiKeyId: randomUUID(),
  requestId: randomUUID(),
  freeRequestId: randomUUID(),
  etag: randomUUID(),
  actor: "nobody-actor",
  position: Buffer.from("nothing at all").toString("base64url"),
  riskMatrixId: randomUUID(),
  endpointId: randomUUID(),
  deletedEndpointId: randomUUID(),
  deliveryId: randomUUID(),
};
/** B's own, to write to. */
let ownOfB: { entityId: string; bare: string[]; etag: string; endpointId: string; position: string };
/** Ids of A's without a canary, since B uses them too, each once. */
const FREE_IDS = Array.from({ length: 13 }, (_, i) => `plain-${i}`);
let nextFree = 0;
const freeId = () => FREE_IDS[nextFree++] as string;
const tokens = new Map<string, { request: Record<string, unknown>; token: string }>();
/** Every id that A has received. */
const idsOfA = new Set<string>();
const received: string[] = [];

const at = timestampFromDate(new Date("2026-01-02T03:04:05Z"));
const reason = { reason: "because we must" };
const byId = (value: string) => ({ by: { case: "entityId", value } });
const byExternal = (value: string) => ({ by: { case: "externalId", value } });
const byTax = (value: string) => ({ by: { case: "taxId", value } });

/** One call of B, kept for the scan. */
async function callOfB(
  method: DescMethod,
  request: Record<string, unknown> | Record<string, unknown>[],
  headers?: Record<string, string>,
): Promise<Answer> {
  const answer = await wire.call(method, request, headers);
  received.push(everythingIn(answer));
  return answer;
}

/** A list without its watch_position, which depends on the moment: it differs between two calls after any write. */
function untimed(method: DescMethod, answer: Answer): Answer {
  if (method.name !== "ListEntities" || refusalIn(answer) !== undefined) return answer;
  const [list] = messagesOf<ListEntitiesResponse>(method, answer);
  if (list === undefined || list.watchPosition === "") throw new Error("a list without its watch_position");
  const bytes = toBinary(ListEntitiesResponseSchema, { ...list, watchPosition: "" });
  return { ...answer, body: Buffer.from(bytes) };
}

/** A case for each way to name an entity. */
function lookups(rest: Record<string, unknown>, expected: Expected = "NOT_FOUND"): Case[] {
  const one = (by: string, lookup: (names: Names) => unknown): Case => ({
    by,
    request: (names) => ({ lookup: lookup(names), ...rest }),
    expect: expected,
  });
  return [
    one("entity id", (names) => byId(names.entityId)),
    one("upper-case entity id", (names) => byId(names.entityId.toUpperCase())),
    one("id of a deleted entity", (names) => byId(names.deletedEntityId)),
    one("id of a merged entity", (names) => byId(names.mergedEntityId)),
    one("external id of a merged entity", (names) => byExternal(names.mergedExternalId)),
    one("external id", (names) => byExternal(names.externalId)),
    one("alias", (names) => byExternal(names.alias)),
    one("former external id", (names) => byExternal(names.formerExternalId)),
    one("external id of a deleted entity", (names) => byExternal(names.deletedExternalId)),
    one("tax id", (names) => byTax(names.taxId)),
    one("tax id of several entities", (names) => byTax(names.sharedTaxId)),
  ];
}

/** The same cases, and again with every other thing that a write may name. */
function writes(rest: Record<string, unknown>): Case[] {
  return [
    ...lookups(rest),
    ...lookups({ ...rest, validateOnly: true }).map((item) => ({ ...item, by: `${item.by}, validate_only` })),
    {
      by: "entity id and etag",
      request: (names) => ({ lookup: byId(names.entityId), etag: names.etag, ...rest }),
      expect: "NOT_FOUND",
    },
    {
      by: "entity id and request id",
      request: (names) => ({ lookup: byId(names.entityId), requestId: names.requestId, ...rest }),
      expect: "NOT_FOUND",
    },
  ];
}

/** Writes to two entities: one of B's own, and whatever of A's on either side. */
function pairs([first, second]: [string, string], { otherEtag }: { otherEtag: string }): Case[] {
  return [first, second].flatMap((side) => {
    const other = side === first ? second : first;
    return writes(reason).map(({ by, request, ...one }) => ({
      ...one,
      by: `${side} by ${by}`,
      request: (names: Names) => {
        const { lookup, etag, ...rest } = request(names);
        const condition = etag === undefined ? {} : { [side === first ? "etag" : otherEtag]: etag };
        return { ...rest, ...condition, [side]: lookup, [other]: byId(ownOfB.entityId) };
      },
    }));
  });
}

/** A case for each side that a recorded row may name. */
const transaction = (origin: unknown, destination: unknown, more: object = {}) => ({
  transactions: [{ type: "payment", amount: "1", currency: "ARS", transactedAt: at, origin, destination, ...more }],
});
const userEvent = (party: object) => ({ userEvents: [{ eventType: "login", occurredAt: at, ...party }] });
const person = (more: object = {}) => ({ type: EntityType.PERSON, name: "B's own", countryCode: "AR", ...more });

/** An endpoint that gets no requests: nothing is sent in these tests, and no row changes by itself. */
const endpoint = (more: object = {}) => ({
  url: "https://example.com/",
  displayName: "B's own",
  state: WebhookEndpointState.DISABLED,
  ...more,
});
const riskMatrix = (more: object = {}, rule: object = {}) => ({
  displayName: "B's own",
  rules: [{ id: "own", displayName: "B's own", expression: "true", points: "1", ...rule }],
  ...more,
});
const range = { from: at, to: timestampFromDate(new Date("2100-01-01")) };

/** A case for each way to name an endpoint, and again with all optional fields. */
function endpoints(rest: Record<string, unknown>, { etag = true, requestId = true } = {}): Case[] {
  const one = (by: string, request: Case["request"]): Case => ({
    by,
    request: (names) => ({ ...rest, ...request(names) }),
    expect: "NOT_FOUND",
  });
  return [
    one("endpoint id", (names) => ({ endpointId: names.endpointId })),
    one("id of a deleted endpoint", (names) => ({ endpointId: names.deletedEndpointId })),
    one("validate_only", (names) => ({ endpointId: names.endpointId, validateOnly: true })),
    ...(etag ? [one("etag", (names) => ({ endpointId: names.endpointId, etag: names.etag }))] : []),
    ...(requestId
      ? [one("request id", (names) => ({ endpointId: names.endpointId, requestId: names.requestId }))]
      : []),
  ];
}

/** A case for each way to name a matrix, and again with all optional fields. */
function matrices(rest: Record<string, unknown>): Case[] {
  const one = (by: string, more: (names: Names) => object): Case => ({
    by,
    request: (names) => ({ ...rest, riskMatrixId: names.riskMatrixId, ...more(names) }),
    expect: "NOT_FOUND",
  });
  return [
    one("matrix id", () => ({})),
    one("validate_only", () => ({ validateOnly: true })),
    one("etag", (names) => ({ etag: names.etag })),
    one("request id", (names) => ({ requestId: names.requestId })),
  ];
}

/** One entry for each RPC. `paged`: it has page tokens. `stream`: it takes rows. */
const TABLE: Record<string, { cases: Case[]; paged?: boolean }> = {
  // --- EntityService
  CreateEntity: {
    cases: [
      { by: "external id, free to use", request: () => ({ entity: person({ externalId: freeId() }) }), expect: "FREE" },
      {
        by: "tax id as the only one",
        request: () => ({ entity: person({ taxId: "30-11111111-8" }), requireUniqueTaxId: true }),
        expect: "FREE",
      },
      {
        by: "request id",
        request: () => ({ entity: person({ externalId: "b-request" }), requestId: own.freeRequestId }),
        expect: "FREE",
      },
      {
        by: "output-only ids",
        request: () => ({
          entity: person({
            id: own.entityId,
            organizationId: own.organizationId,
            riskMatrixId: nothing.entityId,
            etag: own.etag,
          }),
        }),
        expect: "FREE",
      },
    ],
  },
  GetEntity: {
    cases: [
      ...lookups({}),
      // A tax id names nobody in the past.
      ...lookups({})
        .filter(({ by }) => !by.includes("tax"))
        .map(({ by, request, ...one }) => ({
          ...one,
          by: `${by}, in the past`,
          request: (names: Names) => ({ ...request(names), readTime: timestampFromDate(new Date()) }),
        })),
    ],
  },
  BatchGetEntities: {
    cases: [
      {
        by: "every lookup at once",
        request: (names) => ({
          lookups: [
            byId(names.entityId),
            byExternal(names.externalId),
            byExternal(names.alias),
            byTax(names.taxId),
            byTax(names.sharedTaxId),
            byId(names.deletedEntityId),
          ],
        }),
        expect: "NOTHING",
      },
    ],
  },
  ListEntities: {
    paged: true,
    cases: [
      { by: "external ids", request: (names) => ({ externalIds: [names.externalId, names.alias] }), expect: "NOTHING" },
      { by: "tax id", request: (names) => ({ taxId: names.taxId }), expect: "NOTHING" },
      { by: "form of a tax id", request: () => ({ taxId: `${CANARY}-form` }), expect: "NOTHING" },
      {
        by: "name",
        request: (names) => ({ namePrefix: names === own ? CANARY : "NOBODY", showDeleted: true }),
        expect: "NOTHING",
      },
      {
        by: "words of names",
        request: (names) => ({ nameQuery: names === own ? CANARY : "NOBODY", showDeleted: true }),
        expect: "NOTHING",
      },
    ],
  },
  UpdateEntity: {
    cases: [
      ...writes({ entity: { name: "mine now" } }),
      {
        by: "external id with allow_missing, free to use",
        request: () => ({ lookup: byExternal(freeId()), entity: person(), allowMissing: true }),
        expect: "FREE",
      },
      {
        by: "ids in the entity",
        request: () => ({
          lookup: byId(ownOfB.entityId),
          entity: { id: own.entityId, organizationId: own.organizationId, externalId: own.externalId, name: "B 2" },
        }),
        expect: "FREE",
      },
      {
        by: "external id with allow_missing and etag",
        request: (names) => ({
          lookup: byExternal(names.externalId),
          etag: names.etag,
          entity: person(),
          allowMissing: true,
        }),
        expect: "NOT_FOUND",
      },
    ],
  },
  BatchUpdateEntities: {
    cases: [
      ...writes({ entity: { name: "mine now" } }).map(({ request, ...one }) => ({
        ...one,
        request: (names: Names) => {
          const { requestId, validateOnly, ...item } = request(names);
          return { requests: [{ lookup: byId(ownOfB.entityId), entity: {} }, item], requestId, validateOnly };
        },
      })),
      {
        by: "external id with allow_missing, free to use",
        request: () => ({ requests: [{ lookup: byExternal(freeId()), entity: person(), allowMissing: true }] }),
        expect: "FREE",
      },
    ],
  },
  ChangeExternalId: {
    cases: [
      ...writes({ newExternalId: "b-new", ...reason }),
      {
        by: "new external id, free to use",
        request: () => ({ lookup: byId(ownOfB.entityId), newExternalId: freeId(), ...reason }),
        expect: "FREE",
      },
    ],
  },
  AssignExternalId: {
    cases: [
      ...writes({ externalId: "b-new" }),
      {
        by: "external id, free to use",
        request: () => ({ lookup: byId(ownOfB.bare[0] as string), externalId: freeId() }),
        expect: "FREE",
      },
    ],
  },
  AddExternalIds: {
    cases: [
      ...writes({ externalIds: [{ externalId: "b-new" }] }),
      {
        by: "external ids, free to use",
        request: () => ({
          lookup: byId(ownOfB.bare[1] as string),
          externalIds: [{ externalId: freeId() }, { externalId: freeId(), designation: Designation.PRIMARY }],
        }),
        expect: "FREE",
      },
    ],
  },
  ReleaseExternalId: {
    cases: [
      ...writes({ externalId: "b-new", ...reason }),
      {
        by: "external id of A's, of an entity of B's",
        request: (names) => ({ lookup: byId(ownOfB.entityId), externalId: names.alias, force: true, ...reason }),
        expect: "NOT_FOUND",
      },
    ],
  },
  ListExternalIdHistory: {
    paged: true,
    cases: [
      ...lookups({}),
      ...(["externalId", "alias", "formerExternalId", "deletedExternalId"] as const).map((name) => ({
        by: name,
        request: (names: Names) => ({ externalId: names[name] }),
        expect: "NOTHING" as const,
      })),
    ],
  },
  SuggestDuplicates: {
    paged: true,
    cases: [...lookups({}), { by: "nothing", request: () => ({}), expect: "NOTHING" }],
  },
  // after_entity_id is a place in the order of ids, and finds nothing.
  RecheckTaxIds: {
    cases: [false, true].map((apply) => ({
      by: `apply ${apply}`,
      request: () => ({ apply }),
      expect: "NOTHING" as const,
    })),
  },
  MergeEntities: { cases: pairs(["primary", "secondary"], { otherEtag: "secondaryEtag" }) },
  UnmergeEntities: {
    cases: (["mergeId", "undoneMergeId"] as const).flatMap((name) =>
      [{}, { validateOnly: true }, { markDistinct: true }].map((more) => ({
        by: `${name} ${Object.keys(more)}`,
        request: (names: Names) => ({ mergeId: names[name], ...reason, ...more }),
        expect: "NOT_FOUND" as const,
      })),
    ),
  },
  ListMerges: { paged: true, cases: lookups({}) },
  MarkDistinct: { cases: pairs(["first", "second"], { otherEtag: "secondEtag" }) },
  LiftDistinct: { cases: pairs(["first", "second"], { otherEtag: "secondEtag" }) },
  ListDistinct: { paged: true, cases: lookups({}) },
  AnalyzeEntity: {
    cases: [
      ...writes({}),
      {
        by: "risk matrix",
        request: (names) => ({
          ...{ lookup: byId(ownOfB.entityId), riskMatrixId: names.riskMatrixId, validateOnly: true },
        }),
        expect: "NOT_FOUND",
      },
    ],
  },
  ListEvaluations: { paged: true, cases: lookups({}) },
  DeleteEntity: { cases: writes(reason) },
  UndeleteEntity: { cases: writes(reason) },
  ListEntityEvents: {
    paged: true,
    cases: [
      ...lookups({}),
      { by: "actor", request: (names) => ({ actor: names.actor }), expect: "NOTHING" },
      { by: "principal", request: (names) => ({ principal: names.apiKeyId }), expect: "NOTHING" },
      { by: "request id", request: (names) => ({ requestId: names.requestId }), expect: "NOTHING" },
    ],
  },
  WatchEntities: {
    cases: [
      ...lookups({}),
      { by: "position", request: (names) => ({ position: names.position }), expect: "POSITION_INVALID" },
    ],
  },
  ExportEntities: {
    cases: [
      { by: "position", request: (names) => ({ position: names.position }), expect: "POSITION_INVALID" },
      { by: "no name, all that is there", request: () => ({ position: ownOfB.position }), expect: "NOTHING" },
    ],
  },
  ListAuditCheckpoints: {
    paged: true,
    cases: [{ by: "number", request: () => ({ afterNumber: 1n, includeLeaves: true }), expect: "NOTHING" }],
  },
  VerifyAuditTrail: { cases: lookups({}) },
  ImportEntities: {
    cases: [
      { by: "external id, free to use", request: () => ({ entity: person({ externalId: freeId() }) }), expect: "FREE" },
      {
        by: "request id",
        request: () => ({ entity: person({ externalId: "b-import" }), requestId: own.freeRequestId }),
        expect: "FREE",
      },
      {
        by: "alias, free to use",
        request: () => ({ entity: person({ externalId: freeId() }), externalIds: [{ externalId: freeId() }] }),
        expect: "FREE",
      },
      // A row with an etag needs an entity that exists; a stream ends with OK and reports it in the row.
      {
        by: "external id and etag",
        request: (names) => ({ entity: person({ externalId: names.externalId, etag: names.etag }) }),
        expect: "NOTHING",
      },
    ],
  },

  // --- ActivityService
  RecordTransactions: {
    cases: [
      {
        by: "origin's entity id",
        request: (names) => transaction({ entityId: names.entityId }, { name: "out" }),
        expect: "NOT_FOUND",
      },
      {
        by: "destination's entity id",
        request: (names) => transaction({ name: "out" }, { entityId: names.entityId }),
        expect: "NOT_FOUND",
      },
      {
        by: "origin's external id",
        request: (names) => transaction({ externalId: names.externalId }, undefined),
        expect: "NOT_FOUND",
      },
      {
        by: "destination's alias",
        request: (names) => transaction(undefined, { externalId: names.alias }),
        expect: "NOT_FOUND",
      },
      {
        by: "origin's tax id",
        request: (names) => transaction({ taxId: names.taxId }, undefined),
        expect: "NOT_FOUND",
      },
      {
        by: "a tax id of several",
        request: (names) => transaction({ taxId: names.sharedTaxId }, undefined),
        expect: "NOT_FOUND",
      },
      {
        by: "a deleted entity",
        request: (names) => transaction({ entityId: names.deletedEntityId }, undefined),
        expect: "NOT_FOUND",
      },
      {
        by: "validate_only",
        request: (names) => ({ ...transaction({ entityId: names.entityId }, undefined), validateOnly: true }),
        expect: "NOT_FOUND",
      },
      {
        by: "the transaction's external id, free to use",
        request: () => transaction({ entityId: ownOfB.entityId }, undefined, { externalId: "plain-transaction" }),
        expect: "FREE",
      },
      {
        by: "request id",
        request: () => ({ ...transaction({ entityId: ownOfB.entityId }, undefined), requestId: own.freeRequestId }),
        expect: "FREE",
      },
    ],
  },
  ListTransactions: { paged: true, cases: lookups({}) },
  RecordUserEvents: {
    cases: [
      { by: "entity id", request: (names) => userEvent({ entityId: names.entityId }), expect: "NOT_FOUND" },
      { by: "external id", request: (names) => userEvent({ entityExternalId: names.externalId }), expect: "NOT_FOUND" },
      { by: "alias", request: (names) => userEvent({ entityExternalId: names.alias }), expect: "NOT_FOUND" },
      { by: "tax id", request: (names) => userEvent({ taxId: names.taxId }), expect: "NOT_FOUND" },
      { by: "a tax id of several", request: (names) => userEvent({ taxId: names.sharedTaxId }), expect: "NOT_FOUND" },
      {
        by: "a deleted entity",
        request: (names) => userEvent({ entityId: names.deletedEntityId }),
        expect: "NOT_FOUND",
      },
      {
        by: "request id",
        request: () => ({ ...userEvent({ entityId: ownOfB.entityId }), requestId: own.freeRequestId }),
        expect: "FREE",
      },
    ],
  },
  ListUserEvents: { paged: true, cases: lookups({}) },

  // --- OrganizationService
  CreateOrganization: {
    cases: [
      {
        by: "organization id",
        request: (names) => ({ organization: { id: names.organizationId, displayName: "x" } }),
        expect: "PERMISSION_DENIED",
      },
    ],
  },
  GetOrganization: {
    cases: [
      { by: "organization id", request: (names) => ({ organizationId: names.organizationId }), expect: "NOT_FOUND" },
    ],
  },
  ListOrganizations: { cases: [{ by: "nothing", request: () => ({}), expect: "PERMISSION_DENIED" }] },
  UpdateOrganization: {
    cases: [
      {
        by: "organization id",
        request: (names) => ({ organizationId: names.organizationId, organization: { displayName: "taken" } }),
        expect: "NOT_FOUND",
      },
      {
        by: "organization id and etag",
        request: (names) => ({
          organizationId: names.organizationId,
          organization: { displayName: "taken" },
          etag: names.etag,
        }),
        expect: "NOT_FOUND",
      },
      {
        by: "organization id and request id",
        request: (names) => ({
          organizationId: names.organizationId,
          organization: { displayName: "taken" },
          requestId: names.requestId,
        }),
        expect: "NOT_FOUND",
      },
      {
        by: "validate_only",
        request: (names) => ({
          organizationId: names.organizationId,
          organization: { displayName: "taken" },
          validateOnly: true,
        }),
        expect: "NOT_FOUND",
      },
    ],
  },
  CreateApiKey: {
    cases: [
      {
        by: "organization id",
        request: (names) => ({ organizationId: names.organizationId, displayName: "x", scopes: ["admin"] }),
        expect: "NOT_FOUND",
      },
      {
        by: "validate_only",
        request: (names) => ({
          organizationId: names.organizationId,
          displayName: "x",
          scopes: ["admin"],
          validateOnly: true,
        }),
        expect: "NOT_FOUND",
      },
    ],
  },
  ListAdministrationEvents: {
    paged: true,
    cases: [
      { by: "organization id", request: (names) => ({ organizationId: names.organizationId }), expect: "NOT_FOUND" },
      { by: "subject", request: (names) => ({ subjectId: names.apiKeyId }), expect: "FREE" },
      { by: "principal", request: (names) => ({ principal: names.apiKeyId }), expect: "FREE" },
    ],
  },
  ListApiKeys: {
    paged: true,
    cases: [
      { by: "organization id", request: (names) => ({ organizationId: names.organizationId }), expect: "NOT_FOUND" },
    ],
  },
  RevokeApiKey: {
    cases: [
      { by: "key id", request: (names) => ({ apiKeyId: names.apiKeyId }), expect: "NOT_FOUND" },
      { by: "id of a revoked key", request: (names) => ({ apiKeyId: names.revokedApiKeyId }), expect: "NOT_FOUND" },
      {
        by: "key id and organization id",
        request: (names) => ({ apiKeyId: names.apiKeyId, organizationId: names.organizationId }),
        expect: "NOT_FOUND",
      },
      {
        by: "key id and request id",
        request: (names) => ({ apiKeyId: names.apiKeyId, requestId: names.requestId }),
        expect: "NOT_FOUND",
      },
      {
        by: "validate_only",
        request: (names) => ({ apiKeyId: names.apiKeyId, validateOnly: true }),
        expect: "NOT_FOUND",
      },
    ],
  },

  // --- RiskMatrixService
  CreateRiskMatrix: {
    cases: [
      {
        by: "request id",
        request: (names) => ({ matrix: riskMatrix(), requestId: names.freeRequestId }),
        expect: "FREE",
      },
    ],
  },
  GetRiskMatrix: {
    cases: [
      { by: "id", request: (names) => ({ riskMatrixId: names.riskMatrixId }), expect: "NOT_FOUND" },
      {
        by: "id and version",
        request: (names) => ({ riskMatrixId: names.riskMatrixId, version: 1 }),
        expect: "NOT_FOUND",
      },
    ],
  },
  ListRiskMatrices: { paged: true, cases: [{ by: "nothing", request: () => ({}), expect: "FREE" }] },
  UpdateRiskMatrix: { cases: matrices({ matrix: riskMatrix() }) },
  DeleteRiskMatrix: { cases: matrices({}) },

  // --- WebhookService
  CreateWebhookEndpoint: {
    cases: [
      {
        by: "output-only ids",
        request: () => ({ endpoint: endpoint({ id: own.endpointId, etag: own.etag }) }),
        expect: "FREE",
      },
    ],
  },
  GetWebhookEndpoint: {
    cases: endpoints({}).filter(({ by }) => by.includes("endpoint")),
  },
  ListWebhookEndpoints: { paged: true, cases: [{ by: "nothing", request: () => ({}), expect: "FREE" }] },
  UpdateWebhookEndpoint: { cases: endpoints({ endpoint: endpoint() }) },
  DeleteWebhookEndpoint: { cases: endpoints({}) },
  RotateWebhookSecret: { cases: endpoints({}, { requestId: false }) },
  ListWebhookDeliveries: {
    paged: true,
    cases: [
      ...lookups({}),
      { by: "endpoint id", request: (names) => ({ endpointId: names.endpointId }), expect: "NOT_FOUND" },
      {
        by: "id of a deleted endpoint",
        request: (names) => ({ endpointId: names.deletedEndpointId }),
        expect: "NOT_FOUND",
      },
    ],
  },
  ReplayWebhookDeliveries: {
    paged: true,
    cases: [
      ...endpoints(range, { etag: false }),
      {
        by: "endpoint and delivery id",
        request: (names) => ({ endpointId: names.endpointId, deliveryIds: [names.deliveryId] }),
        expect: "NOT_FOUND",
      },
      {
        by: "delivery id",
        request: (names) => ({ endpointId: ownOfB.endpointId, deliveryIds: [names.deliveryId] }),
        expect: "NOT_FOUND",
      },
    ],
  },
};

beforeAll(async () => {
  service = await startService();
  a = await service.newOrganization();
  b = await service.newOrganization();
  wire = openWire(service.baseUrl, b.apiKey);
  own = await plant(a);
  const bare = async () => (await b.client.entities.createEntity({ entity: person() as never })).entity?.id ?? "";
  const first = await b.client.entities.createEntity({ entity: person({ externalId: "b-first" }) as never });
  const made = await b.client.webhooks.createWebhookEndpoint({ endpoint: endpoint() });
  ownOfB = {
    entityId: first.entity?.id ?? "",
    etag: first.entity?.etag ?? "",
    bare: [await bare(), await bare()],
    endpointId: made.endpoint?.id ?? "",
    position: (await b.client.entities.listEntities({ pageSize: 1 })).watchPosition,
  };
});
afterAll(async () => {
  // No country has that form: it is there to be looked for.
  await service.sql("update entity set tax_id_canonical = null where tax_id_canonical = $1", [`${CANARY}FORM`]);
  await wire[Symbol.asyncDispose]();
  await service[Symbol.asyncDispose]();
});

/** Fills every column of A's rows. */
async function plant(organization: TestOrganization): Promise<Names> {
  const { id: organizationId, apiKeyId } = organization;
  const actor = `${CANARY}-actor`;
  const client = await organization.clientWith(
    [
      "entities:read",
      "entities:write",
      "external_ids:change",
      "entities:merge",
      "activity:read",
      "activity:write",
      "admin",
      "audit:read",
      "risk:admin",
      "webhooks:admin",
    ],
    { actorId: actor, source: `${CANARY}-source` },
  );
  const requestId = randomUUID();
  const freeRequestId = randomUUID();
  const struct = (name: string) => ({
    [`${CANARY}_${name}`]: `${CANARY}-${name}`,
    deep: { list: [`${CANARY}-${name}-deep`] },
  });
  const address = { street: `${CANARY}-street`, city: `${CANARY}-city`, additional: struct("address") };
  await client.organizations.updateOrganization({
    organization: { displayName: `${CANARY}-organization` },
    requestId: randomUUID(),
  });
  const write = { requestId, reason: `${CANARY}-reason`, occurredAt: at };
  const first = await client.entities.createEntity({
    entity: {
      type: EntityType.PERSON,
      name: `${CANARY}-name`,
      countryCode: "AR",
      taxId: `${CANARY}1`,
      externalId: `${CANARY}-former`,
      nationality: "UY",
      riskMatrixId: randomUUID(),
      status: EntityStatus.ACTIVE,
      entityData: {
        kind: {
          case: "person",
          value: {
            firstName: `${CANARY}-first`,
            email: `${CANARY}@example.com`,
            address,
            additional: struct("additional"),
          },
        },
      },
      attributes: struct("attributes"),
      metadata: struct("metadata"),
    },
    ...write,
  });
  const entityId = first.entity?.id ?? "";
  const lookup = byId(entityId) as never;
  const company = await client.entities.createEntity({
    entity: {
      type: EntityType.COMPANY,
      name: `${CANARY}-company`,
      countryCode: "AR",
      taxId: "30-11111111-8",
      externalId: FREE_IDS[0] as string,
    },
  });
  await client.entities.addExternalIds({
    lookup: byId(company.entity?.id ?? "") as never,
    externalIds: FREE_IDS.slice(1).map((externalId) => ({ externalId })),
  });
  await client.activity.recordTransactions({
    requestId,
    transactions: [
      {
        externalId: `${CANARY}-transaction`,
        type: `${CANARY}-type`,
        status: `${CANARY}-status`,
        amount: "77123.45",
        currency: "ARS",
        transactedAt: at,
        origin: { entityId, name: `${CANARY}-origin`, country: "AR" },
        destination: { entityId, name: `${CANARY}-destination`, country: "AR" },
        details: struct("details"),
      },
      {
        externalId: "plain-transaction",
        type: "x",
        amount: "1",
        currency: "ARS",
        transactedAt: at,
        origin: { entityId },
      },
      { type: "x", amount: "2", currency: "ARS", transactedAt: at, origin: { entityId } },
    ],
  });
  await client.activity.recordUserEvents({
    requestId,
    userEvents: [1, 2, 3].map(() => ({
      entityId,
      eventType: `${CANARY}-event`,
      occurredAt: at,
      payload: struct("payload"),
    })),
  });
  const labelled = [{ externalId: `${CANARY}-former`, type: `${CANARY}-label` }];
  await client.entities.addExternalIds({ lookup, externalIds: labelled });
  await client.entities.changeExternalId({ lookup, newExternalId: `${CANARY}-primary`, ...write });
  await client.entities.addExternalIds({
    lookup,
    externalIds: [{ externalId: `${CANARY}-alias`, type: `${CANARY}-label` }],
    ...write,
  });
  await client.entities.updateEntity({ lookup, entity: { status: EntityStatus.BLOCKED }, ...write });
  // A request of every method that B will call with the same id.
  await client.entities.createEntity({
    entity: { type: EntityType.PERSON, name: `${CANARY}-again`, countryCode: "AR" },
    requestId: freeRequestId,
  });
  await client.activity.recordTransactions({
    ...transaction({ entityId }, undefined),
    requestId: freeRequestId,
  } as never);
  await client.activity.recordUserEvents({ ...userEvent({ entityId }), requestId: freeRequestId } as never);
  const rows = async function* () {
    yield {
      entity: { type: EntityType.PERSON, name: `${CANARY}-row`, countryCode: "AR", externalId: `${CANARY}-row` },
      requestId: freeRequestId,
    };
  };
  for await (const _ of client.entities.importEntities(rows())) void _;
  for (const externalId of [`${CANARY}-shared-1`, `${CANARY}-shared-2`, `${CANARY}-SHARED-2`]) {
    await client.entities.createEntity({
      entity: { type: EntityType.PERSON, name: `${CANARY}-twin`, countryCode: "AR", taxId: `${CANARY}2`, externalId },
    });
  }
  // No country has numbers like it.
  const form = "update entity set tax_id_canonical = $2 where organization_id = $1 and tax_id_key = $3";
  await service.sql(form, [organizationId, `${CANARY}FORM`, `${CANARY}2`]);
  const deleted = await client.entities.createEntity({
    entity: { type: EntityType.PERSON, name: `${CANARY}-deleted`, countryCode: "AR", externalId: `${CANARY}-deleted` },
  });
  await client.entities.deleteEntity({ lookup: byId(deleted.entity?.id ?? "") as never, ...write });
  const duplicate = async (name: string) => {
    const externalId = `${CANARY}-${name}`;
    const entity = { type: EntityType.PERSON, name: externalId, countryCode: "AR", externalId };
    return (await client.entities.createEntity({ entity })).entity?.id ?? "";
  };
  const duplicates = [await duplicate("merged"), await duplicate("parted"), await duplicate("distinct")] as const;
  const mergeWith = async (id: string) =>
    (await client.entities.mergeEntities({ primary: lookup, secondary: byId(id) as never, ...write, requestId: "" }))
      .mergeId;
  const mergeId = await mergeWith(duplicates[0]);
  const undoneMergeId = await mergeWith(duplicates[1]);
  await client.entities.unmergeEntities({ mergeId: undoneMergeId, markDistinct: true, ...write });
  await client.entities.markDistinct({ first: lookup, second: byId(duplicates[2]) as never, ...write });
  const key = await client.organizations.createApiKey({ displayName: `${CANARY}-key`, scopes: ["admin"] });
  await client.organizations.revokeApiKey({ apiKeyId: key.apiKey?.id ?? "", requestId });
  const ofA = (name: string) =>
    endpoint({
      url: `https://${CANARY}.example.com/${name}`,
      displayName: `${CANARY}-${name}`,
      description: `${CANARY}-text`,
    });
  const matrixOfA = riskMatrix(
    { displayName: `${CANARY}-matrix`, description: `${CANARY}-text` },
    { id: CANARY.toLowerCase(), displayName: `${CANARY}-rule`, expression: `entity.name != '${CANARY}'` },
  );
  const { matrix } = await client.riskMatrices.createRiskMatrix({ matrix: matrixOfA, requestId: randomUUID() });
  await client.riskMatrices.createRiskMatrix({ matrix: matrixOfA });
  const riskMatrixId = matrix?.id ?? "";
  for (const attributes of [{ again: 1 }, { again: 2 }]) {
    await client.entities.updateEntity({ lookup, entity: { riskMatrixId, attributes }, requestId: randomUUID() });
    await client.entities.analyzeEntity({ lookup });
  }
  const hook = await client.webhooks.createWebhookEndpoint({ endpoint: ofA("hook") });
  const endpointId = hook.endpoint?.id ?? "";
  await client.webhooks.createWebhookEndpoint({ endpoint: ofA("second") });
  const gone = await client.webhooks.createWebhookEndpoint({ endpoint: ofA("gone") });
  await client.webhooks.deleteWebhookEndpoint({ endpointId: gone.endpoint?.id ?? "", requestId });
  await client.webhooks.rotateWebhookSecret({ endpointId });
  await service.sql(
    "update webhook_endpoint set secret = 'whsec_' || $2, previous_secret = 'whsec_old' || $2 where id = $1",
    [endpointId, CANARY],
  );
  await client.webhooks.replayWebhookDeliveries({ endpointId, requestId, ...range, pageSize: 1000 });
  const { deliveries } = await client.webhooks.listWebhookDeliveries({ endpointId });
  // The deleted endpoint is removed after the call.
  await vi.waitFor(async () => {
    expect(await service.sql("select from webhook_endpoint where deleted_at is not null")).toEqual([]);
  }, 5_000);
  const now = await client.entities.getEntity({ lookup });
  await insertCheckpoints(service.sql, organizationId, { count: 2, body: `${CANARY}-body` });

  // Page tokens, which A may have leaked.
  const page = async (
    rpc: string,
    request: Record<string, unknown>,
    call: (request: never) => Promise<{ nextPageToken: string }>,
  ) => {
    const { nextPageToken } = await call({ ...request, pageSize: 1 } as never);
    expect(nextPageToken, rpc).not.toBe("");
    tokens.set(rpc, { request: { ...request, pageSize: 1 }, token: nextPageToken });
  };
  await page("ListEntities", {}, client.entities.listEntities);
  await page("ListEntityEvents", {}, client.entities.listEntityEvents);
  await page("ListExternalIdHistory", { lookup }, client.entities.listExternalIdHistory);
  await page("SuggestDuplicates", {}, client.entities.suggestDuplicates);
  await page("ListMerges", { lookup }, client.entities.listMerges);
  await page("ListDistinct", { lookup }, client.entities.listDistinct);
  await page("ListEvaluations", { lookup }, client.entities.listEvaluations);
  await page("ListRiskMatrices", {}, client.riskMatrices.listRiskMatrices);
  await page("ListAuditCheckpoints", {}, client.entities.listAuditCheckpoints);
  await page("ListTransactions", { lookup }, client.activity.listTransactions);
  await page("ListUserEvents", { lookup }, client.activity.listUserEvents);
  await page("ListApiKeys", {}, client.organizations.listApiKeys);
  await page("ListAdministrationEvents", {}, client.organizations.listAdministrationEvents);
  await page("ListWebhookEndpoints", {}, client.webhooks.listWebhookEndpoints);
  await page("ListWebhookDeliveries", { lookup }, client.webhooks.listWebhookDeliveries);
  await page("ReplayWebhookDeliveries", { endpointId, ...range }, client.webhooks.replayWebhookDeliveries);

  for (const id of JSON.stringify(await dump(service.sql, organizationId)).matchAll(
    /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g,
  ))
    idsOfA.add(id[0]);
  return {
    entityId,
    deletedEntityId: deleted.entity?.id ?? "",
    deletedExternalId: `${CANARY}-deleted`,
    mergedEntityId: duplicates[0],
    mergedExternalId: `${CANARY}-merged`,
    mergeId,
    undoneMergeId,
    externalId: `${CANARY}-primary`,
    alias: `${CANARY}-alias`,
    formerExternalId: `${CANARY}-former`,
    taxId: `${CANARY}-1`,
    sharedTaxId: `${CANARY}-2`,
    organizationId,
    apiKeyId,
    revokedApiKeyId: key.apiKey?.id ?? "",
    requestId,
    freeRequestId,
    etag: now.entity?.etag ?? "",
    actor,
    position: (await client.entities.listEntities({ pageSize: 1 })).watchPosition,
    riskMatrixId,
    endpointId,
    deletedEndpointId: gone.endpoint?.id ?? "",
    deliveryId: deliveries[0]?.id ?? "",
  };
}

test("every column of A's that can hold text holds a canary, so that the scan means something", async () => {
  // Words of the service, and columns that cannot hold text.
  const own = new Set([
    ...[
      "organization.external_id_policy",
      "api_key.digest",
      "api_key.scopes",
      "entity.type",
      "entity.country_code",
      "entity.tax_id_check",
    ],
    ...[
      "entity.status",
      "entity.nationality",
      "entity_event.entity_type",
      "entity_event.type",
      "entity_event.updated_fields",
    ],
    ...[
      "entity.audit_head",
      "entity_event.salt",
      "entity_event.personal_hash",
      "entity_event.previous_hash",
      "entity_event.hash",
    ],
    ...[
      "transaction.amount",
      "transaction.currency",
      "transaction.origin_country",
      "transaction.destination_country",
      "transaction.content_hash",
    ],
    ...["request_record.method", "request_record.request_hash"],
    ...[
      "event_types",
      "entity_types",
      "status_changes",
      "state",
      "disabled_reason",
      "position",
      "position_running",
    ].map((column) => `webhook_endpoint.${column}`),
    ...["event", "payload", "state", "attempts"].map((column) => `webhook_delivery.${column}`),
    ...["administration_event.type", "administration_event.peer", "external_id_past.cause"],
    ...["matrix_sha256", "entity_hash", "engine", "today", "raw_score", "risk_score", "level"].map(
      (column) => `evaluation.${column}`,
    ),
    ...["risk_matrix_version.thresholds", "risk_matrix_version.sha256"],
    ...["root", "previous_hash", "key_id", "signature", "leaves"].map((column) => `audit_checkpoint.${column}`),
  ]);
  const columns = await service.sql<{ table_name: string; column_name: string; data_type: string }>(
    `select c.table_name, c.column_name, c.data_type from information_schema.columns c
     where c.table_schema = 'public' and c.data_type in ('text', 'ARRAY', 'jsonb', 'bytea')
       and exists (select from information_schema.columns o where o.table_schema = 'public' and o.table_name = c.table_name and o.column_name = 'organization_id')`,
  );
  const bare: string[] = [];
  for (const { table_name, column_name, data_type } of columns) {
    const text = data_type === "bytea" ? `encode("${column_name}", 'escape')` : `"${column_name}"::text`;
    const [row] = await service.sql(
      `select count(*)::int as n from "${table_name}" where organization_id = $1 and ${text} ilike '%${CANARY}%'`,
      [a.id],
    );
    if (row?.n === 0) bare.push(`${table_name}.${column_name}`);
  }
  expect(bare.filter((column) => !own.has(column))).toEqual([]);
});

test("every RPC of every service has an entry here", () => {
  expect(Object.keys(TABLE).sort()).toEqual([...METHODS.keys()].sort());
});

test("every RPC with page tokens is marked so", () => {
  const paged = [...METHODS.values()].filter((method) =>
    method.input.fields.some((field) => field.name === "page_token"),
  );
  const operators = ["ListOrganizations"];
  expect(
    paged
      .map((method) => method.name)
      .filter((name) => !operators.includes(name))
      .sort(),
  ).toEqual(
    Object.keys(TABLE)
      .filter((name) => TABLE[name]?.paged)
      .sort(),
  );
});

describe.each(Object.entries(TABLE))("%s with what is A's", (rpc, { cases }) => {
  const method = METHODS.get(rpc) as DescMethod;

  test.each(cases.map((item) => [item.by, item.expect, item] as const))(
    "by %s: %s",
    async (_, expected, { request }) => {
      const before = await dump(service.sql, a.id);
      if (expected === "FREE") {
        const answer = await callOfB(method, request(own));
        expect(refusalIn(answer)).toBeUndefined();
        expect(answer.headers["idempotent-replay"], "an answer of A's").toBeUndefined();
        if (rpc === "ImportEntities") {
          for (const { results } of messagesOf<ImportEntitiesResponse>(method, answer)) {
            expect(results.map((result) => result.outcome)).toEqual([ImportOutcome.CREATED]);
          }
        }
      } else {
        const [foreign, unknown] = [await callOfB(method, request(own)), await callOfB(method, request(nothing))];
        expect(comparable(untimed(method, foreign))).toEqual(comparable(untimed(method, unknown)));
        expect(refusalIn(foreign)?.reason).toBe(expected === "NOTHING" ? undefined : expected);
        if (expected === "NOT_FOUND") {
          expect(refusalIn(foreign)?.message).toMatch(
            /(^|: )(Entity|External id|Merge|Organization|API key|Risk matrix|Webhook endpoint|Webhook delivery) not found$/,
          );
          expect(
            Object.keys(refusalIn(foreign)?.metadata ?? {}).filter(
              (key) => !["lookup", "field", "index"].includes(key),
            ),
          ).toEqual([]);
        }
      }
      expect(await dump(service.sql, a.id), "A's rows").toEqual(before);
    },
  );
});

describe("page tokens of A's", () => {
  test.each(Object.keys(TABLE).filter((rpc) => TABLE[rpc]?.paged))(
    "%s: refused like any token that is none",
    async (rpc) => {
      const method = METHODS.get(rpc) as DescMethod;
      const { request, token } = tokens.get(rpc) as { request: Record<string, unknown>; token: string };
      // If the request names an entity, B names one of its own: only the token is foreign.
      const mine = "lookup" in request ? { ...request, lookup: byId(ownOfB.entityId) } : request;
      const [foreign, garbage] = [
        await callOfB(method, { ...mine, pageToken: token }),
        await callOfB(method, { ...mine, pageToken: Buffer.from("nothing at all").toString("base64url") }),
      ];
      expect(refusalIn(foreign)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["page_token"] });
      expect(comparable(foreign)).toEqual(comparable(garbage));
      // With A's own lookup, only VALIDATION_ERROR or NOT_FOUND.
      if (mine !== request)
        expect(["NOT_FOUND", "VALIDATION_ERROR"]).toContain(
          refusalIn(await callOfB(method, { ...request, pageToken: token }))?.reason,
        );
    },
  );
});

describe("an organization named where it has no meaning", () => {
  test("number 64: in headers and in the entity", async () => {
    const headers = {
      "x-organization-id": a.id,
      "organization-id": a.id,
      "x-org-id": a.id,
      "app.organization_id": a.id,
    };
    const answer = await callOfB(EntityService.method.getEntity, { lookup: byId(own.entityId) }, headers);
    expect(refusalIn(answer)?.reason).toBe("NOT_FOUND");
    const made = await callOfB(
      EntityService.method.createEntity,
      { entity: person({ organizationId: a.id, externalId: "b-64" }) },
      headers,
    );
    expect(refusalIn(made)).toBeUndefined();
    const rows = await service.sql("select organization_id from entity where external_id = 'b-64'");
    expect(rows).toEqual([{ organization_id: b.id }]);
  });
});

test("one connection serves both organizations and keeps the setting of neither", async () => {
  await using other = await startOther(service, { config: { poolSize: 2 } });
  const [clientA, clientB] = [other.client(a.apiKey), other.client(b.apiKey)];
  await Promise.all(
    Array.from({ length: 60 }, async (_, i) => {
      const client = i % 2 === 0 ? clientA : clientB;
      const { entities } = await client.entities.listEntities({ pageSize: 1000 });
      expect(new Set(entities.map((entity) => entity.organizationId))).toEqual(new Set([i % 2 === 0 ? a.id : b.id]));
    }),
  );
  for (let i = 0; i < 4; i++) {
    const rows = await Promise.all(
      [1, 2].map(() =>
        other.orm.em
          .fork()
          .execute(
            "select current_setting('app.organization_id', true) as organization, (select count(*) from entity) as seen, pg_sleep(0.01)",
          ),
      ),
    );
    for (const [row] of rows as unknown as [{ organization: string | null; seen: string }][]) {
      expect([null, ""]).toContain(row.organization);
      expect(Number(row.seen)).toBe(0);
    }
  }
});

test("the same id in both organizations: each has its own, and its own activity", async () => {
  // A's `plain-3` is an alias of its company; B has used several of A's ids above.
  const taken = FREE_IDS.slice(0, nextFree);
  expect(taken.length).toBeGreaterThan(5);
  for (const externalId of taken) {
    const [ofA, ofB] = await Promise.all(
      [a, b].map((o) =>
        o.client.entities.getEntity({ lookup: byExternal(externalId) as never }).catch(() => undefined),
      ),
    );
    expect(ofA?.entity?.organizationId).toBe(a.id);
    if (ofB !== undefined) expect(ofB.entity?.organizationId).toBe(b.id);
  }
  // Moving B's id rewrites only B's copies.
  const made = await b.client.entities.createEntity({ entity: person({ externalId: `${"plain"}-move` }) as never });
  await a.client.entities.createEntity({ entity: person({ externalId: "plain-move" }) as never });
  const both = [a, b].map((o) =>
    o.client.activity.recordTransactions(transaction({ externalId: "plain-move" }, undefined) as never),
  );
  await Promise.all(both);
  await b.client.entities.changeExternalId({
    lookup: byId(made.entity?.id ?? "") as never,
    newExternalId: "b-moved",
    ...reason,
  });
  const list = async (o: TestOrganization, externalId: string): Promise<ListTransactionsResponse> =>
    o.client.activity.listTransactions({ lookup: byExternal(externalId) as never });
  expect((await list(b, "b-moved")).transactions[0]?.origin?.externalId).toBe("b-moved");
  expect((await list(a, "plain-move")).transactions[0]?.origin?.externalId).toBe("plain-move");
  const copies = await service.sql(
    "select organization_id, origin_external_id from transaction where origin_external_id in ('plain-move', 'b-moved')",
  );
  expect(copies).toEqual(
    expect.arrayContaining([
      { organization_id: a.id, origin_external_id: "plain-move" },
      { organization_id: b.id, origin_external_id: "b-moved" },
    ]),
  );
});

test("B reads all that it can read, and no byte that it ever received is of A's", async () => {
  for (const rpc of [
    ...["ListEntities", "ListEntityEvents", "ListAuditCheckpoints", "GetOrganization", "ListApiKeys"],
    ...["ListAdministrationEvents", "ListWebhookEndpoints", "ListWebhookDeliveries", "ListRiskMatrices"],
  ]) {
    const method = METHODS.get(rpc) as DescMethod;
    const all =
      rpc === "ListEntities"
        ? { pageSize: 1000, showDeleted: true }
        : rpc === "GetOrganization"
          ? {}
          : { pageSize: 1000 };
    expect(refusalIn(await callOfB(method, all))).toBeUndefined();
  }
  for (const entityId of [ownOfB.entityId, ...ownOfB.bare]) {
    await callOfB(ActivityService.method.listTransactions, { lookup: byId(entityId) });
    await callOfB(ActivityService.method.listUserEvents, { lookup: byId(entityId) });
  }
  expect(received.length).toBeGreaterThan(200);
  const leaks = received.filter((text) => text.toUpperCase().includes(CANARY) || text.includes("77123.45"));
  expect(leaks).toEqual([]);
  // The request id that B uses too.
  idsOfA.delete(own.freeRequestId);
  // The key of the operator, which administers both.
  idsOfA.delete(service.organization.apiKeyId);
  for (const id of idsOfA)
    expect(
      received.filter((text) => text.includes(id)).map((text) => text.slice(0, 300)),
      id,
    ).toEqual([]);
});
