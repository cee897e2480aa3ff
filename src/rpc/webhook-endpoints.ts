// WebhookService: the endpoints, where events are sent. The dispatcher, in src/webhooks/, does the rest.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Duration, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  WebhookDisabledReason,
  type WebhookEndpoint,
  WebhookEndpointSchema,
  WebhookEndpointState,
  WebhookStatusChanges,
} from "../../clients/typescript/gen/entity/v1/webhook_pb.ts";
import { WebhookService } from "../../clients/typescript/gen/entity/v1/webhook_service_pb.ts";
import { WebhookEndpointRow } from "../db/schema.ts";
import { withoutQuery } from "../domain/administration.ts";
import type { EntityType as EntityTypeName } from "../domain/entity-state.ts";
import type { JsonObject } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { textProblem, trim } from "../domain/text.ts";
import { decodePosition } from "../log/position.ts";
import { storedPosition } from "../webhooks/backlog.ts";
import {
  addEndpoint,
  changeEndpoint,
  type EndpointValues,
  getEndpoint,
  type NewEndpoint,
} from "../webhooks/endpoint-row.ts";
import { newSigningSecret } from "../webhooks/signature.ts";
import { type AllowList, urlProblem } from "../webhooks/url.ts";
import { typeFromProto, typeToProto } from "./entity-fields.ts";
import { closePage, openPage, whole } from "./page.ts";
import { keyOf, parseDisplayName, parseOptionalUuid, parseWebhookEvents, requireUuid } from "./request.ts";
import { parseMask } from "./update-mask.ts";
import { Violations } from "./violations.ts";
import { type Deps, idempotent, organizationOf, readInTurn, recordAdministration, writeInTurn } from "./write.ts";

const STATES = { ENABLED: WebhookEndpointState.ENABLED, DISABLED: WebhookEndpointState.DISABLED } as const;
const STATUS_CHANGES = { ALONE: WebhookStatusChanges.ALONE, ALWAYS: WebhookStatusChanges.ALWAYS } as const;
const REASONS = {
  REQUESTED: WebhookDisabledReason.REQUESTED,
  GONE: WebhookDisabledReason.GONE,
  FAILING: WebhookDisabledReason.FAILING,
} as const;
const MASK = ["url", "display_name", "description", "event_types", "entity_types", "status_changes", "state"] as const;

const DAY_SECONDS = 86_400n;

export function webhookEndpointRpcs(deps: Deps & { webhookUrls: AllowList }) {
  return {
    async createWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const endpoint = request.endpoint ?? create(WebhookEndpointSchema);
      // All are asked for: none is left out.
      const values = parseValues(endpoint, new Set(MASK), deps.webhookUrls, violations) as NewEndpoint;
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const head = decodePosition(organizationId, await deps.feed.position(organizationId));
      const position = storedPosition(organizationId, head);
      const secret = newSigningSecret();
      const row = await writeInTurn(deps, ctx, { validateOnly: request.validateOnly }, async (em) => {
        const made = await addEndpoint(em, organizationId, values, { secret, position, now: deps.clock() });
        await recordAdministration(em, ctx, organizationId, {
          ...{ type: "WEBHOOK_ENDPOINT_CREATED", subjectId: made.id },
          ...{ before: {}, after: valuesOf(made) },
        });
        return made;
      });
      return { endpoint: toProto(row, deps.clock()), secret: request.validateOnly ? "" : secret };
    },

    async getWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const id = requireUuid(request.endpointId, "endpoint_id", violations);
      violations.throwIfAny();
      const row = await readInTurn(deps, ctx, organizationOf(ctx), (em) => getEndpoint(em, organizationOf(ctx), id));
      return { endpoint: toProto(row, deps.clock()) };
    },

    async listWebhookEndpoints(request, ctx) {
      const organizationId = organizationOf(ctx);
      const page = openPage(WebhookService.method.listWebhookEndpoints, request, {
        organizationId,
        cursor: { id: "id" },
      });
      const after = page.cursor?.id;
      const rows = await readInTurn(deps, ctx, organizationId, (em) =>
        em.find(
          WebhookEndpointRow,
          { organizationId, deletedAt: null, ...(after === undefined ? {} : { id: { $gt: after } }) },
          { orderBy: { id: "asc" }, limit: page.bound.rows },
        ),
      );
      const { items, nextPageToken } = closePage(page, whole(rows), {
        present: (row) => toProto(row, deps.clock()),
        cursorOf: ({ id }) => ({ id }),
      });
      return { endpoints: items, nextPageToken };
    },

    async updateWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const id = requireUuid(request.endpointId, "endpoint_id", violations);
      const endpoint = request.endpoint ?? create(WebhookEndpointSchema);
      const paths = parseMask(request.updateMask, MASK, violations);
      const given = new Set(paths.size === 0 ? populated(endpoint) : paths);
      const values = parseValues(endpoint, given, deps.webhookUrls, violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();

      return idempotent(
        deps,
        ctx,
        { method: WebhookService.method.updateWebhookEndpoint, request, requestId },
        async (em) => {
          const row = await getEndpoint(em, organizationOf(ctx), id, { etag: request.etag });
          const [before, { etag }] = [valuesOf(row), row];
          changeEndpoint(row, values, deps.clock());
          await em.flush();
          if (row.etag !== etag) {
            await recordAdministration(em, ctx, organizationOf(ctx), {
              ...{ type: "WEBHOOK_ENDPOINT_UPDATED", subjectId: id, requestId },
              ...{ before, after: valuesOf(row) },
            });
          }
          return { endpoint: toProto(row, deps.clock()) };
        },
      );
    },

    async deleteWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const id = requireUuid(request.endpointId, "endpoint_id", violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      return idempotent(
        deps,
        ctx,
        { method: WebhookService.method.deleteWebhookEndpoint, request, requestId },
        async (em) => {
          const row = await getEndpoint(em, organizationOf(ctx), id, { etag: request.etag });
          // The dispatcher removes it, behind its deliveries: there may be too many for a call.
          row.deletedAt = new Date(deps.clock());
          [row.secret, row.previousSecret, row.previousSecretExpiresAt] = ["", null, null];
          await em.flush();
          await recordAdministration(em, ctx, organizationOf(ctx), {
            ...{ type: "WEBHOOK_ENDPOINT_DELETED", subjectId: id, requestId },
            ...{ before: valuesOf(row), after: {} },
          });
          return {};
        },
      );
    },

    async rotateWebhookSecret(request, ctx) {
      const violations = new Violations();
      const id = requireUuid(request.endpointId, "endpoint_id", violations);
      const lifetimeMs = parseLifetime(request.previousSecretLifetime, violations);
      violations.throwIfAny();
      const secret = newSigningSecret();
      const row = await writeInTurn(deps, ctx, { validateOnly: request.validateOnly }, async (em) => {
        const endpoint = await getEndpoint(em, organizationOf(ctx), id, { etag: request.etag });
        const isKept = lifetimeMs > 0;
        endpoint.previousSecret = isKept ? endpoint.secret : null;
        endpoint.previousSecretExpiresAt = isKept ? new Date(deps.clock() + lifetimeMs) : null;
        endpoint.secret = secret;
        await em.flush();
        await recordAdministration(em, ctx, organizationOf(ctx), {
          ...{ type: "WEBHOOK_SECRET_ROTATED", subjectId: id, before: {} },
          after: { previousSecretExpiresAt: endpoint.previousSecretExpiresAt?.toISOString() ?? null },
        });
        return endpoint;
      });
      return { endpoint: toProto(row, deps.clock()), secret: request.validateOnly ? "" : secret };
    },
  } satisfies Partial<ServiceImpl<typeof WebhookService>>;
}

// --- Requests -----------------------------------------------------------------------------------

/** The paths of what is set. */
function populated(endpoint: WebhookEndpoint): string[] {
  return MASK.filter((path) => {
    const value = endpoint[FIELDS[path]];
    return typeof value === "object" ? value.length > 0 : value !== "" && value !== 0;
  });
}

const FIELDS = {
  url: "url",
  display_name: "displayName",
  description: "description",
  event_types: "eventTypes",
  entity_types: "entityTypes",
  status_changes: "statusChanges",
  state: "state",
} as const;

/** The values of the paths that are given; of an enum that says nothing, none. */
function parseValues(
  endpoint: WebhookEndpoint,
  given: ReadonlySet<string>,
  allow: AllowList,
  violations: Violations,
): Partial<EndpointValues> {
  const values: Partial<EndpointValues> = {};
  if (given.has("url")) {
    violations.check("endpoint.url", endpoint.url === "" ? "is required" : urlProblem(endpoint.url, allow));
    values.url = endpoint.url;
  }
  if (given.has("display_name")) {
    values.displayName = parseDisplayName(endpoint.displayName, "endpoint.display_name", violations);
  }
  if (given.has("description")) {
    values.description = trim(endpoint.description);
    const problem = textProblem(values.description, { max: LIMITS.string, multiline: true });
    violations.check("endpoint.description", problem);
  }
  if (given.has("event_types")) {
    values.eventTypes = parseWebhookEvents(endpoint.eventTypes, "endpoint.event_types", violations);
  }
  if (given.has("entity_types")) {
    const types = endpoint.entityTypes.map((type, i) => {
      const name = typeFromProto(type);
      if (name === undefined) violations.add(`endpoint.entity_types[${i}]`, "must be a type of entity");
      return name ?? "";
    });
    values.entityTypes = [...new Set(types)];
  }
  const statusChanges = keyOf(STATUS_CHANGES, endpoint.statusChanges);
  if (given.has("status_changes") && statusChanges !== undefined) values.statusChanges = statusChanges;
  const state = keyOf(STATES, endpoint.state);
  if (given.has("state") && state !== undefined) values.state = state;
  return values;
}

/** In milliseconds; a day where the request does not say. */
function parseLifetime(lifetime: Duration | undefined, violations: Violations): number {
  const { seconds, nanos } = lifetime ?? { seconds: DAY_SECONDS, nanos: 0 };
  const isInRange =
    seconds >= 0n &&
    nanos >= 0 &&
    nanos <= 999_999_999 &&
    seconds * 10n ** 9n + BigInt(nanos) <= 7n * DAY_SECONDS * 10n ** 9n;
  if (!isInRange) violations.add("previous_secret_lifetime", "must be at least 0 and at most 7 days");
  return Number(seconds) * 1000 + Math.floor(nanos / 1e6);
}

// --- Responses ----------------------------------------------------------------------------------

function toProto(row: WebhookEndpointRow, now: number): MessageInitShape<typeof WebhookEndpointSchema> {
  const previous = row.previousSecretExpiresAt;
  return {
    id: row.id,
    url: row.url,
    displayName: row.displayName,
    description: row.description,
    eventTypes: row.eventTypes,
    entityTypes: row.entityTypes.map((type) => typeToProto(type as EntityTypeName)),
    statusChanges: STATUS_CHANGES[row.statusChanges],
    state: STATES[row.state],
    disabledReason: row.disabledReason ? REASONS[row.disabledReason] : WebhookDisabledReason.UNSPECIFIED,
    disabledAt: row.disabledAt ? timestampFromDate(row.disabledAt) : undefined,
    previousSecretExpiresAt: previous && previous.getTime() > now ? timestampFromDate(previous) : undefined,
    etag: row.etag,
    createdAt: timestampFromDate(row.createdAt),
    updatedAt: timestampFromDate(row.updatedAt),
  };
}

/** What the trail records of an endpoint. */
const valuesOf = (row: WebhookEndpointRow): JsonObject => ({
  url: withoutQuery(row.url),
  displayName: row.displayName,
  description: row.description === "" ? null : row.description,
  eventTypes: row.eventTypes,
  entityTypes: row.entityTypes,
  statusChanges: row.statusChanges,
  state: row.state,
});
