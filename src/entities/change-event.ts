// The event of a change.
import { type changedFields, changedValues } from "../domain/changed-fields.ts";
import { type Change, type EntityState, primaryOf } from "../domain/entity-state.ts";
import type { UnsealedEvent } from "../log/sealing.ts";
import type { Command } from "./command.ts";

/** What the log keeps of a change. Its external ids are those after it. */
export function eventOf(
  { author, request, requestId = request?.requestId, occurredAt }: Command,
  change: Change,
  before: EntityState | null,
  after: EntityState,
  updatedFields: ReturnType<typeof changedFields>,
): UnsealedEvent {
  return {
    organizationId: after.organizationId,
    id: after.etag,
    entityId: after.id,
    entityVersion: after.version,
    entityType: after.type,
    type: change.type,
    externalId: primaryOf(after)?.externalId ?? null,
    externalIds: after.externalIds.map(({ externalId }) => externalId),
    updatedFields,
    ...changedValues(before, change.values, updatedFields),
    actor: author.actor,
    principal: author.principal,
    source: change.source ?? author.source,
    reason: change.reason === "" ? null : change.reason,
    requestId: requestId ?? null,
    metadata: change.metadata ?? {},
    recordedAt: after.updatedAt,
    occurredAt: occurredAt ?? null,
  };
}
