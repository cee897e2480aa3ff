// WebhookService: where events are sent, and what became of them. The dispatcher, in src/webhooks/, does the rest.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { LockMode } from "@mikro-orm/core";
import type { EntityManager } from "@mikro-orm/postgresql";
import {
  WebhookDeliverySchema,
  WebhookDeliveryState,
  WebhookDisabledReason,
  type WebhookEndpoint,
  WebhookEndpointSchema,
  WebhookEndpointState,
  WebhookStatusChanges,
} from "../../clients/typescript/gen/entity/v1/webhook_pb.ts";
import {
  DeleteWebhookEndpointRequestSchema,
  DeleteWebhookEndpointResponseSchema,
  ListWebhookDeliveriesRequestSchema,
  ListWebhookEndpointsRequestSchema,
  ReplayWebhookDeliveriesRequestSchema,
  ReplayWebhookDeliveriesResponseSchema,
  UpdateWebhookEndpointRequestSchema,
  UpdateWebhookEndpointResponseSchema,
  type WebhookService,
} from "../../clients/typescript/gen/entity/v1/webhook_service_pb.ts";
import { WebhookEndpointRow } from "../db/schema.ts";
import { newId } from "../db/uuid.ts";
import { withoutQuery } from "../domain/administration.ts";
import type { EntityType as EntityTypeName } from "../domain/entity-state.ts";
import { DomainError, invalidField, notFound } from "../domain/errors.ts";
import type { JsonObject } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { nameProblem, textProblem, trim } from "../domain/text.ts";
import { instantToText } from "../domain/time.ts";
import { ENDPOINT_DISABLED, type Subscription, WEBHOOK_EVENTS } from "../domain/webhook.ts";
import { readEventsByTime } from "../log/by-time.ts";
import { decodePosition } from "../log/position.ts";
import { NO_ID } from "../log/source.ts";
import { deliveriesTo, storedPosition } from "../webhooks/backlog.ts";
import { type ListedDelivery, listDeliveries } from "../webhooks/history.ts";
import { beginAnew, enqueue, findPassed, releaseNext } from "../webhooks/queue.ts";
import { newSecret } from "../webhooks/signature.ts";
import { type AllowList, urlProblem } from "../webhooks/url.ts";
import { typeFromProto, typeToProto } from "./entity-fields.ts";
import { boundOf, pageOf, whole } from "./page.ts";
import {
  fromPageToken,
  fromTimestamp,
  parseLookup,
  parseOptionalUuid,
  parsePageSize,
  queryOf,
  requireUuid,
  toPageToken,
  toTimestamp,
} from "./request.ts";
import { Violations } from "./violations.ts";
import {
  type Deps,
  findEntityId,
  idempotent,
  organizationOf,
  readInTurn,
  recordAdministration,
  writeInTurn,
} from "./write.ts";

const STATES = { ENABLED: WebhookEndpointState.ENABLED, DISABLED: WebhookEndpointState.DISABLED } as const;
const STATUS_CHANGES = { ALONE: WebhookStatusChanges.ALONE, ALWAYS: WebhookStatusChanges.ALWAYS } as const;
const REASONS = {
  REQUESTED: WebhookDisabledReason.REQUESTED,
  GONE: WebhookDisabledReason.GONE,
  FAILING: WebhookDisabledReason.FAILING,
} as const;
const DELIVERY_STATES = {
  PENDING: WebhookDeliveryState.PENDING,
  DELIVERED: WebhookDeliveryState.DELIVERED,
  FAILED: WebhookDeliveryState.FAILED,
} as const;

const EVENT_TYPES: readonly string[] = [...WEBHOOK_EVENTS, ENDPOINT_DISABLED];
const MASK = ["url", "display_name", "description", "event_types", "entity_types", "status_changes", "state"] as const;
/** What a caller may say of an endpoint. */
type Values = Pick<
  WebhookEndpointRow,
  "url" | "displayName" | "description" | "eventTypes" | "entityTypes" | "statusChanges" | "state"
>;

const DAY_SECONDS = 86_400n;

export function webhookRpcs(deps: Deps & { webhookUrls: AllowList; webhookClock: () => number }) {
  const aheadOf = () => `${deps.webhookClock()} milliseconds`;

  return {
    async createWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const endpoint = request.endpoint ?? create(WebhookEndpointSchema);
      const values = parseValues(endpoint, new Set(MASK), deps.webhookUrls, violations);
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const head = decodePosition(organizationId, await deps.feed.position(organizationId));
      const position = storedPosition(organizationId, head);
      const secret = newSecret();
      const row = await writeInTurn(
        deps,
        ctx,
        { organizationId: organizationId, validateOnly: request.validateOnly },
        async (em) => {
          // One after the other, for the count; entities refer to the row meanwhile.
          await em.execute("select from organization where organization_id = $1 for no key update", [organizationId]);
          const there = await em.count(WebhookEndpointRow, { organizationId, deletedAt: null });
          if (there >= LIMITS.webhookEndpoints) {
            throw invalidField("endpoint", `is one too many: at most ${LIMITS.webhookEndpoints} of an organization`);
          }
          const made = em.create(WebhookEndpointRow, {
            organizationId,
            id: newId(),
            ...values,
            statusChanges: values.statusChanges ?? "ALONE",
            state: values.state ?? "ENABLED",
            ...(values.state === "DISABLED"
              ? { disabledReason: "REQUESTED", disabledAt: new Date(deps.clock()) }
              : { disabledReason: null, disabledAt: null }),
            secret,
            etag: newId(),
            position: position.text,
            positionEpoch: position.epoch,
            positionXmax: String(position.snapshot.xmax),
            positionRunning: position.snapshot.running.map(String),
          } as never);
          await em.persist(made).flush();
          await recordAdministration(em, ctx, organizationId, {
            ...{ type: "WEBHOOK_ENDPOINT_CREATED", subjectId: made.id },
            ...{ before: {}, after: valuesOf(made) },
          });
          return made;
        },
      );
      return { endpoint: toProto(row, deps.clock()), secret: request.validateOnly ? "" : secret };
    },

    async getWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const id = parseId(request.endpointId, violations);
      violations.throwIfAny();
      const row = await readInTurn(deps, ctx, organizationOf(ctx), (em) => findEndpoint(em, organizationOf(ctx), id));
      return { endpoint: toProto(row, deps.clock()) };
    },

    async listWebhookEndpoints(request, ctx) {
      const pageSize = parsePageSize(request.pageSize);
      const organizationId = organizationOf(ctx);
      const query = queryOf(ListWebhookEndpointsRequestSchema, request, organizationId);
      const after = fromPageToken(query, request.pageToken, ["id"])?.[0];
      const rows = await readInTurn(deps, ctx, organizationId, (em) =>
        em.find(
          WebhookEndpointRow,
          { organizationId, deletedAt: null, ...(after === undefined ? {} : { id: { $gt: after } }) },
          { orderBy: { id: "asc" }, limit: pageSize + 1 },
        ),
      );
      const { items, nextPageToken } = pageOf(whole(rows), {
        query,
        pageSize,
        item: WebhookEndpointSchema,
        present: (row) => toProto(row, deps.clock()),
        cursor: ({ id }) => [id],
      });
      return { endpoints: items, nextPageToken };
    },

    async updateWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const id = parseId(request.endpointId, violations);
      const endpoint = request.endpoint ?? create(WebhookEndpointSchema);
      const paths = new Set<string>(request.updateMask?.paths);
      for (const path of paths) {
        if (!(MASK as readonly string[]).includes(path)) {
          violations.add("update_mask", `has a path that cannot be written: use ${MASK.join(", ")}`);
        }
      }
      const given = new Set(paths.size === 0 ? populated(endpoint) : paths);
      const values = parseValues(endpoint, given, deps.webhookUrls, violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();

      return idempotent(
        deps,
        ctx,
        { input: UpdateWebhookEndpointRequestSchema, output: UpdateWebhookEndpointResponseSchema, request, requestId },
        async (em) => {
          const row = await findEndpoint(em, organizationOf(ctx), id, { etag: request.etag });
          const [before, told] = [JSON.stringify(row), valuesOf(row)];
          Object.assign(row, changesOf(row, values, new Date(deps.clock())));
          if (JSON.stringify(row) !== before) {
            await save(em, row, deps.clock());
            await recordAdministration(em, ctx, organizationOf(ctx), {
              ...{ type: "WEBHOOK_ENDPOINT_UPDATED", subjectId: id, requestId },
              ...{ before: told, after: valuesOf(row) },
            });
          }
          return { endpoint: toProto(row, deps.clock()) };
        },
      );
    },

    async deleteWebhookEndpoint(request, ctx) {
      const violations = new Violations();
      const id = parseId(request.endpointId, violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      return idempotent(
        deps,
        ctx,
        { input: DeleteWebhookEndpointRequestSchema, output: DeleteWebhookEndpointResponseSchema, request, requestId },
        async (em) => {
          const row = await findEndpoint(em, organizationOf(ctx), id, { etag: request.etag });
          // The dispatcher removes it, behind its deliveries: there may be too many for a call.
          row.deletedAt = new Date(deps.clock());
          row.etag = newId();
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
      const id = parseId(request.endpointId, violations);
      const { seconds, nanos } = request.previousSecretLifetime ?? { seconds: DAY_SECONDS, nanos: 0 };
      const isInRange =
        seconds >= 0n &&
        nanos >= 0 &&
        nanos <= 999_999_999 &&
        seconds * 10n ** 9n + BigInt(nanos) <= 7n * DAY_SECONDS * 10n ** 9n;
      if (!isInRange) violations.add("previous_secret_lifetime", "must be at least 0 and at most 7 days");
      violations.throwIfAny();
      const lifetimeMs = Number(seconds) * 1000 + Math.floor(nanos / 1e6);
      const secret = newSecret();
      const row = await writeInTurn(deps, ctx, { validateOnly: request.validateOnly }, async (em) => {
        const endpoint = await findEndpoint(em, organizationOf(ctx), id, { etag: request.etag });
        const isKept = lifetimeMs > 0;
        endpoint.previousSecret = isKept ? endpoint.secret : null;
        endpoint.previousSecretExpiresAt = isKept ? new Date(deps.clock() + lifetimeMs) : null;
        endpoint.secret = secret;
        await save(em, endpoint, deps.clock());
        await recordAdministration(em, ctx, organizationOf(ctx), {
          ...{ type: "WEBHOOK_SECRET_ROTATED", subjectId: id, before: {} },
          after: { previousSecretExpiresAt: endpoint.previousSecretExpiresAt?.toISOString() ?? null },
        });
        return endpoint;
      });
      return { endpoint: toProto(row, deps.clock()), secret: request.validateOnly ? "" : secret };
    },

    async listWebhookDeliveries(request, ctx) {
      const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
      const pageSize = parsePageSize(request.pageSize);
      const violations = new Violations();
      const endpointId = parseOptionalUuid(request.endpointId, "endpoint_id", violations);
      const states = request.states.map((state, i) => {
        const name = keyOf(DELIVERY_STATES, state);
        if (name === undefined) violations.add(`states[${i}]`, "must be a state of deliveries");
        return name ?? "PENDING";
      });
      const events = parseEventTypes(request.eventTypes, "event_types", violations);
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const query = queryOf(ListWebhookDeliveriesRequestSchema, request, organizationId);
      const cursor = fromPageToken(query, request.pageToken, ["instant", "id"]);
      const entityId = lookup === undefined ? undefined : await findEntityId(deps, ctx, lookup);
      const rows = await readInTurn(deps, ctx, organizationId, async (em) => {
        if (endpointId !== undefined) await findEndpoint(em, organizationId, endpointId);
        return listDeliveries(em, organizationId, {
          endpointId,
          states: [...new Set(states)].sort(),
          entityId,
          events,
          from: request.from === undefined ? undefined : fromTimestamp(request.from),
          to: request.to === undefined ? undefined : fromTimestamp(request.to),
          before: cursor && { recordedAt: BigInt(cursor[0] ?? "0"), id: cursor[1] ?? "" },
          bound: boundOf(pageSize),
        });
      });
      const { items, nextPageToken } = pageOf(rows, {
        query,
        pageSize,
        item: WebhookDeliverySchema,
        present: deliveryToProto,
        cursor: ({ recordedAt, id }) => [String(recordedAt), id],
      });
      return { deliveries: items, nextPageToken };
    },

    async replayWebhookDeliveries(request, ctx) {
      const violations = new Violations();
      const endpointId = parseId(request.endpointId, violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      const ids = request.deliveryIds.map((text, i) => requireUuid(text, `delivery_ids[${i}]`, violations));
      const from = request.from && fromTimestamp(request.from);
      const to = request.to && fromTimestamp(request.to);
      const pageSize = parsePageSize(request.pageSize);
      const isRange = from !== undefined && to !== undefined;
      if (ids.length > 0 ? from !== undefined || to !== undefined || request.pageToken !== "" : !isRange) {
        violations.add("delivery_ids", "or else both from and to must be given");
      }
      if (isRange && from >= to) violations.add("to", "must be after from");
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const range = { ...request, requestId: "", validateOnly: false };
      const query = queryOf(ReplayWebhookDeliveriesRequestSchema, range, organizationId);
      const cursor = fromPageToken(query, request.pageToken, ["instant", "id"]);

      const answer = await idempotent(
        deps,
        ctx,
        {
          input: ReplayWebhookDeliveriesRequestSchema,
          output: ReplayWebhookDeliveriesResponseSchema,
          request,
          requestId,
        },
        async (em) => {
          const endpoint = await findEndpoint(em, organizationId, endpointId, { etag: "" });
          let wanted = [...new Set(ids)];
          let nextPageToken = "";
          if (isRange) {
            const after = { recordedAt: BigInt(cursor?.[0] ?? from), id: cursor?.[1] ?? NO_ID };
            const events = await readEventsByTime(em, organizationId, { after, until: to }, boundOf(pageSize));
            const page = events.rows.slice(0, pageSize);
            const deliveries = deliveriesTo(endpointId, endpoint as unknown as Subscription, page);
            // What the endpoint has not come to yet comes in its turn, behind what is before it.
            const eventIds = deliveries.map(({ eventId }) => eventId);
            const passed = await findPassed(em, organizationId, endpointId, eventIds);
            const behind = deliveries.filter(({ eventId }) => passed.has(eventId));
            await enqueue(em, organizationId, endpointId, behind, aheadOf());
            wanted = deliveries.map(({ id }) => id);
            const last = page.at(-1);
            if ((events.isCut || events.rows.length > page.length) && last !== undefined) {
              nextPageToken = toPageToken(query, [String(last.recordedAt), last.id]);
            }
          }
          // Whoever replays says that the receiver is back, whatever it asked for.
          endpoint.pausedUntil = null;
          await em.flush();
          const begun = await beginAnew(em, organizationId, endpointId, wanted, aheadOf());
          if (!isRange && begun.length < wanted.length) throw notFound("delivery_id", "Webhook delivery");
          const subjects = begun.map(({ subjectId }) => subjectId);
          await releaseNext(em, organizationId, endpointId, subjects, aheadOf());
          await recordAdministration(em, ctx, organizationId, {
            ...{ type: "WEBHOOK_DELIVERIES_REPLAYED", subjectId: endpointId, requestId, before: {} },
            after: {
              deliveries: begun.length,
              ...(isRange && { from: instantToText(from), to: instantToText(to) }),
            },
          });
          return { deliveries: begun.length, nextPageToken };
        },
      );
      deps.bell.ring(organizationId);
      return answer;
    },
  } satisfies ServiceImpl<typeof WebhookService>;
}

// --- Requests -----------------------------------------------------------------------------------

const parseId = (text: string, violations: Violations) => requireUuid(text, "endpoint_id", violations);

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
): Partial<Values> {
  const values: Partial<Values> = {};
  if (given.has("url")) {
    violations.check("endpoint.url", endpoint.url === "" ? "is required" : urlProblem(endpoint.url, allow));
    values.url = endpoint.url;
  }
  if (given.has("display_name")) {
    values.displayName = trim(endpoint.displayName);
    const problem = values.displayName === "" ? "is required" : nameProblem(values.displayName, LIMITS.name);
    violations.check("endpoint.display_name", problem);
  }
  if (given.has("description")) {
    values.description = trim(endpoint.description);
    const problem = textProblem(values.description, { max: LIMITS.string, multiline: true });
    violations.check("endpoint.description", problem);
  }
  if (given.has("event_types")) {
    values.eventTypes = parseEventTypes(endpoint.eventTypes, "endpoint.event_types", violations);
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

function parseEventTypes(types: readonly string[], field: string, violations: Violations): string[] {
  types.forEach((type, i) => {
    if (!EVENT_TYPES.includes(type)) violations.add(`${field}[${i}]`, `must be one of ${EVENT_TYPES.join(", ")}`);
  });
  return [...new Set(types)];
}

const keyOf = <T extends Record<string, number>>(table: T, value: number): (keyof T & string) | undefined =>
  (Object.keys(table) as (keyof T & string)[]).find((key) => table[key] === value);

// --- The unit of work ---------------------------------------------------------------------------

/** The endpoint, locked where `lock` is given: against the dispatcher too, which begins every transaction with its row. */
async function findEndpoint(
  em: EntityManager,
  organizationId: string,
  id: string,
  lock?: { etag: string },
): Promise<WebhookEndpointRow> {
  const row = await em.findOne(
    WebhookEndpointRow,
    { organizationId, id, deletedAt: null },
    lock === undefined ? {} : { lockMode: LockMode.PESSIMISTIC_WRITE },
  );
  if (row === null) throw notFound("endpoint_id", "Webhook endpoint");
  if (lock !== undefined && lock.etag !== "" && lock.etag !== row.etag) {
    throw new DomainError("ETAG_MISMATCH", "The endpoint has changed since it was read: read it again, then retry", {
      etag: row.etag,
    });
  }
  return row;
}

/** What the values change; a change of the state brings more with it. */
function changesOf(row: WebhookEndpointRow, values: Partial<Values>, now: Date): Partial<WebhookEndpointRow> {
  // Another receiver asked for the pause.
  if (values.url !== undefined && values.url !== row.url) row.pausedUntil = null;
  if (values.state === undefined || values.state === row.state) return values;
  if (values.state === "DISABLED") return { ...values, disabledReason: "REQUESTED", disabledAt: now };
  // It begins with a clean slate, and goes on where it stopped.
  return { ...values, disabledReason: null, disabledAt: null, failures: 0, failingSince: null, pausedUntil: null };
}

async function save(em: EntityManager, row: WebhookEndpointRow, now: number): Promise<void> {
  row.etag = newId();
  row.updatedAt = new Date(Math.max(now, row.updatedAt.getTime() + 1));
  await em.flush();
}

/** What the trail tells of an endpoint. */
const valuesOf = (row: WebhookEndpointRow): JsonObject => ({
  url: withoutQuery(row.url),
  displayName: row.displayName,
  description: row.description === "" ? null : row.description,
  eventTypes: row.eventTypes,
  entityTypes: row.entityTypes,
  statusChanges: row.statusChanges,
  state: row.state,
});

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

function deliveryToProto(row: ListedDelivery): MessageInitShape<typeof WebhookDeliverySchema> {
  const isOfEntity = row.event !== ENDPOINT_DISABLED;
  return {
    id: row.id,
    endpointId: row.endpointId,
    eventType: row.event,
    eventId: isOfEntity ? row.eventId : "",
    entityId: isOfEntity ? row.subjectId : "",
    entityVersion: BigInt(row.entityVersion),
    state: DELIVERY_STATES[row.state],
    attempts: row.attempts.map(({ at, ...rest }) => ({ ...rest, attemptedAt: toTimestamp(at) })),
    nextAttemptAt: row.nextAttemptAt === undefined ? undefined : toTimestamp(row.nextAttemptAt),
    eventRecordedAt: toTimestamp(row.recordedAt),
    createdAt: toTimestamp(row.createdAt),
    finishedAt: row.finishedAt === undefined ? undefined : toTimestamp(row.finishedAt),
  };
}
