// An event as consumers outside of gRPC receive it: JSON in the terms of the API.

import { EVENT_NAMES } from "../domain/entity-state.ts";
import { instantToText } from "../domain/time.ts";
import type { FeedRow } from "../log/source.ts";

export interface EventMessage {
  /** The event's id: the same whenever it is sent again. */
  id: string;
  organizationId: string;
  /** `entity.updated` and the like. */
  event: string;
  /** JSON. What an event does not have (an external id, a reason, a request id, a time of the caller's) is absent. */
  body: string;
}

export function toEventMessage({ organizationId, event }: FeedRow): EventMessage {
  const name = EVENT_NAMES[event.type];
  const body = {
    id: event.id,
    event: name,
    organizationId,
    entityId: event.entityId,
    entityVersion: event.entityVersion,
    entityType: event.entityType,
    externalId: event.externalId ?? undefined,
    externalIds: event.externalIds,
    updatedFields: event.updatedFields,
    previousValues: event.previousValues,
    newValues: event.newValues,
    actor: event.actor,
    principal: event.principal,
    source: event.source,
    reason: event.reason ?? undefined,
    requestId: event.requestId ?? undefined,
    metadata: event.metadata,
    recordedAt: instantToText(event.recordedAt),
    occurredAt: event.occurredAt === null ? undefined : instantToText(event.occurredAt),
    salt: event.salt?.toString("base64"),
    previousHash: event.previousHash?.toString("base64"),
    hash: event.hash?.toString("base64"),
  };
  return { id: event.id, organizationId, event: name, body: JSON.stringify(body) };
}
