// WebhookService: what became of deliveries, and their replay.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { type WebhookDeliverySchema, WebhookDeliveryState } from "../../clients/typescript/gen/entity/v1/webhook_pb.ts";
import { WebhookService } from "../../clients/typescript/gen/entity/v1/webhook_service_pb.ts";
import { notFound } from "../domain/errors.ts";
import { instantToText } from "../domain/time.ts";
import { ENDPOINT_DISABLED, type Subscription } from "../domain/webhook.ts";
import { readEventsByTime } from "../log/by-time.ts";
import { NO_ID } from "../log/source.ts";
import { deliveriesTo } from "../webhooks/backlog.ts";
import { endPause, getEndpoint } from "../webhooks/endpoint-row.ts";
import { type ListedDelivery, listDeliveries } from "../webhooks/history.ts";
import { beginAnew, enqueue, findPassed, releaseNext } from "../webhooks/queue.ts";
import { closePage, openPage } from "./page.ts";
import {
  fromTimestamp,
  keyOf,
  parseLookup,
  parseOptionalUuid,
  parseWebhookEvents,
  requireUuid,
  toTimestamp,
} from "./request.ts";
import { Violations } from "./violations.ts";
import { type Deps, findEntityId, idempotent, organizationOf, readInTurn, recordAdministration } from "./write.ts";

const STATES = {
  PENDING: WebhookDeliveryState.PENDING,
  DELIVERED: WebhookDeliveryState.DELIVERED,
  FAILED: WebhookDeliveryState.FAILED,
} as const;

export function webhookDeliveryRpcs(deps: Deps & { webhookClock: () => number }) {
  const clockOffset = () => `${deps.webhookClock()} milliseconds`;

  return {
    async listWebhookDeliveries(request, ctx) {
      const lookup = request.lookup === undefined ? undefined : parseLookup(request.lookup);
      const violations = new Violations();
      const endpointId = parseOptionalUuid(request.endpointId, "endpoint_id", violations);
      const states = request.states.map((state, i) => {
        const name = keyOf(STATES, state);
        if (name === undefined) violations.add(`states[${i}]`, "must be a state of deliveries");
        return name ?? "PENDING";
      });
      const events = parseWebhookEvents(request.eventTypes, "event_types", violations);
      const organizationId = organizationOf(ctx);
      const page = openPage(WebhookService.method.listWebhookDeliveries, request, {
        organizationId,
        cursor: { recordedAt: "instant", id: "id" },
        violations,
      });
      const entityId = lookup === undefined ? undefined : await findEntityId(deps, ctx, lookup);
      const rows = await readInTurn(deps, ctx, organizationId, async (em) => {
        if (endpointId !== undefined) await getEndpoint(em, organizationId, endpointId);
        return listDeliveries(em, organizationId, {
          endpointId,
          states: [...new Set(states)].sort(),
          entityId,
          events,
          from: request.from === undefined ? undefined : fromTimestamp(request.from),
          to: request.to === undefined ? undefined : fromTimestamp(request.to),
          before: page.cursor,
          bound: page.bound,
        });
      });
      const { items, nextPageToken } = closePage(page, rows, {
        present: toProto,
        cursorOf: ({ recordedAt, id }) => ({ recordedAt, id }),
      });
      return { deliveries: items, nextPageToken };
    },

    async replayWebhookDeliveries(request, ctx) {
      const violations = new Violations();
      const endpointId = requireUuid(request.endpointId, "endpoint_id", violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      const ids = request.deliveryIds.map((text, i) => requireUuid(text, `delivery_ids[${i}]`, violations));
      const from = request.from && fromTimestamp(request.from);
      const to = request.to && fromTimestamp(request.to);
      const isRange = from !== undefined && to !== undefined;
      if (ids.length > 0 ? from !== undefined || to !== undefined || request.pageToken !== "" : !isRange) {
        violations.add("delivery_ids", "or else both from and to must be given");
      }
      if (isRange && from >= to) violations.add("to", "must be after from");
      const organizationId = organizationOf(ctx);
      const { replayWebhookDeliveries } = WebhookService.method;
      const range = { ...request, requestId: "", validateOnly: false };
      const page = openPage(replayWebhookDeliveries, range, {
        organizationId,
        cursor: { recordedAt: "instant", id: "id" },
        violations,
      });

      const answer = await idempotent(
        deps,
        ctx,
        { method: replayWebhookDeliveries, request, requestId },
        async (em) => {
          const endpoint = await getEndpoint(em, organizationId, endpointId, { etag: "" });
          let wanted = [...new Set(ids)];
          let nextPageToken = "";
          if (isRange) {
            const after = page.cursor ?? { recordedAt: from, id: NO_ID };
            const read = await readEventsByTime(em, organizationId, { after, until: to }, page.bound);
            const events = closePage(page, read, {
              present: (event) => event,
              cursorOf: ({ recordedAt, id }) => ({ recordedAt, id }),
            });
            nextPageToken = events.nextPageToken;
            const deliveries = deliveriesTo(endpointId, endpoint as unknown as Subscription, events.items);
            // Events that the endpoint has not reached yet come in their turn, after those before them.
            const eventIds = deliveries.map(({ eventId }) => eventId);
            const passed = await findPassed(em, organizationId, endpointId, eventIds);
            const behind = deliveries.filter(({ eventId }) => passed.has(eventId));
            await enqueue(em, organizationId, endpointId, behind, clockOffset());
            wanted = deliveries.map(({ id }) => id);
          }
          // A replay says that the receiver is back, whatever pause it asked for.
          await endPause(em, organizationId, endpointId);
          const begun = await beginAnew(em, organizationId, endpointId, wanted, clockOffset());
          if (!isRange && begun.length < wanted.length) throw notFound("delivery_id", "Webhook delivery");
          const subjects = begun.map(({ subjectId }) => subjectId);
          await releaseNext(em, organizationId, endpointId, subjects, clockOffset());
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
  } satisfies Partial<ServiceImpl<typeof WebhookService>>;
}

function toProto(row: ListedDelivery): MessageInitShape<typeof WebhookDeliverySchema> {
  const isOfEntity = row.event !== ENDPOINT_DISABLED;
  return {
    id: row.id,
    endpointId: row.endpointId,
    eventType: row.event,
    eventId: isOfEntity ? row.eventId : "",
    entityId: isOfEntity ? row.subjectId : "",
    entityVersion: BigInt(row.entityVersion),
    state: STATES[row.state],
    attempts: row.attempts.map(({ at, ...rest }) => ({ ...rest, attemptedAt: toTimestamp(at) })),
    nextAttemptAt: row.nextAttemptAt === undefined ? undefined : toTimestamp(row.nextAttemptAt),
    eventRecordedAt: toTimestamp(row.recordedAt),
    createdAt: toTimestamp(row.createdAt),
    finishedAt: row.finishedAt === undefined ? undefined : toTimestamp(row.finishedAt),
  };
}
