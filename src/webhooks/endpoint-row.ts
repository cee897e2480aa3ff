// An endpoint's row as its organization administers it, in MikroORM's unit of work; lease.ts is the dispatcher's way to it.
import { LockMode } from "@mikro-orm/core";
import type { EntityManager } from "@mikro-orm/postgresql";
import { lockOrganization } from "../db/organizations.ts";
import { WebhookEndpointRow } from "../db/schema.ts";
import type { Statements } from "../db/statements.ts";
import { newId } from "../db/uuid.ts";
import { DomainError, invalidField, notFound } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import type { StoredPosition } from "./lease.ts";

/** What a caller may say of an endpoint. */
export type EndpointValues = Pick<
  WebhookEndpointRow,
  "url" | "displayName" | "description" | "eventTypes" | "entityTypes" | "statusChanges" | "state"
>;

/** What one begins with: the rest has a default. */
export type NewEndpoint = Partial<EndpointValues> &
  Pick<EndpointValues, "url" | "displayName" | "eventTypes" | "entityTypes">;

/**
 * Adds an endpoint, to which the log goes on from `position`; `now` in milliseconds since 1970. Throws VALIDATION_ERROR
 * where the organization has as many as it may.
 */
export async function addEndpoint(
  em: EntityManager,
  organizationId: string,
  values: NewEndpoint,
  { secret, position, now }: { secret: string; position: StoredPosition; now: number },
): Promise<WebhookEndpointRow> {
  // One after the other, for the count.
  await lockOrganization(em, organizationId);
  const there = await em.count(WebhookEndpointRow, { organizationId, deletedAt: null });
  if (there >= LIMITS.webhookEndpoints) {
    throw invalidField("endpoint", `is one too many: at most ${LIMITS.webhookEndpoints} of an organization`);
  }
  const row = em.create(WebhookEndpointRow, {
    organizationId,
    id: newId(),
    ...values,
    statusChanges: values.statusChanges ?? "ALONE",
    state: values.state ?? "ENABLED",
    ...(values.state === "DISABLED"
      ? { disabledReason: "REQUESTED", disabledAt: new Date(now) }
      : { disabledReason: null, disabledAt: null }),
    secret,
    position: position.text,
    positionEpoch: position.epoch,
    positionXmax: String(position.snapshot.xmax),
    positionRunning: position.snapshot.running.map(String),
  });
  await em.persist(row).flush();
  return row;
}

/**
 * The endpoint, locked where `lock` is given: against the dispatcher too, which begins every transaction with its row.
 * Throws NOT_FOUND, and ETAG_MISMATCH where `lock` has an etag that is not the row's.
 */
export async function getEndpoint(
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

/** Sets the values, and what a change of the url or the state brings with it. Nothing is written before the flush. */
export function changeEndpoint(row: WebhookEndpointRow, values: Partial<EndpointValues>, now: number): void {
  // Another receiver asked for the pause.
  if (values.url !== undefined && values.url !== row.url) row.pausedUntil = null;
  if (values.state === "DISABLED" && row.state !== "DISABLED") {
    row.disabledReason = "REQUESTED";
    row.disabledAt = new Date(now);
  } else if (values.state === "ENABLED" && row.state !== "ENABLED") {
    // It begins with a clean slate, and goes on where it stopped.
    row.disabledReason = null;
    row.disabledAt = null;
    row.failures = 0;
    row.failingSince = null;
    row.pausedUntil = null;
  }
  Object.assign(row, values);
}

/** Lets deliveries go on. By a statement: the dispatcher's state is no change of the endpoint, whose etag and time stay. */
export async function endPause(db: Statements, organizationId: string, id: string): Promise<void> {
  await db.execute("update webhook_endpoint set paused_until = null where organization_id = $1 and id = $2", [
    organizationId,
    id,
  ]);
}
