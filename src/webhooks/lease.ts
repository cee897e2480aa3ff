// An endpoint's row, and which process may work on it: the statements that change the queue run behind one that locks it,
// one transaction after the other. All but listWork run under row level security.

import { readAcross } from "../db/across.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import type { CatchUp } from "../log/by-time.ts";
import type { Snapshot } from "../log/snapshot.ts";

/** What the dispatcher knows of an endpoint: its row, as the last transaction left it. */
export interface LeasedEndpoint {
  url: string;
  secrets: string[];
  eventTypes: string[];
  entityTypes: string[];
  statusChanges: "ALONE" | "ALWAYS";
  position: string;
  /** The way through the log by time that is under way after a position expired. */
  catchUp: CatchUp | undefined;
  /** Nothing that was recorded before this is missing. */
  positionAt: Instant;
  failures: number;
  failingSince: Instant | undefined;
  pausedUntil: Instant | undefined;
  isDeleted: boolean;
  isEnabled: boolean;
  /** Changes with the row: the filters may be others too. */
  etag: string;
  /** The database's time. */
  now: Instant;
}

/** Where the log goes on for an endpoint: the text of a position, with its epoch and its snapshot. */
export interface StoredPosition {
  text: string;
  epoch: string;
  snapshot: Snapshot;
}

/** A lease that is not renewed is free after this; by the database's own time. */
const LEASE = "15 seconds";

/** Endpoints of any organization that have something to do which `holder` may do. */
export async function listWork(
  orm: Orm,
  { holder, clockOffset, limit }: { holder: string; clockOffset: string; limit: number },
): Promise<{ organizationId: string; endpointId: string }[]> {
  const rows = await readAcross(orm, (db) =>
    db.execute<{ organization_id: string; endpoint_id: string }[]>(
      "select * from list_webhook_work($1::uuid, $2::interval, $3::int)",
      [holder, clockOffset, limit],
    ),
  );
  return rows.map((row) => ({ organizationId: row.organization_id, endpointId: row.endpoint_id }));
}

/** Which process has which endpoint. */
export interface Lease {
  organizationId: string;
  endpointId: string;
  holder: string;
}

const RETURNING = `url, secret, case when previous_secret_expires_at > clock_timestamp() then previous_secret end as previous_secret,
  event_types, entity_types, status_changes, position, position_at, catch_up_at, catch_up_id, catch_up_until, failures, failing_since,
  paused_until, deleted_at, state, etag, clock_timestamp() as now`;

/** Takes the lease where it is free, or renews it. Undefined: another process has it, or the endpoint is gone. */
export async function takeLease(
  db: Statements,
  { organizationId, endpointId, holder }: Lease,
): Promise<LeasedEndpoint | undefined> {
  const [row] = await db.execute<Record<string, unknown>[]>(
    `update webhook_endpoint set lease_holder = $3, lease_until = clock_timestamp() + interval '${LEASE}'
     where organization_id = $1 and id = $2
       and (lease_holder = $3 or lease_until is null or lease_until <= clock_timestamp())
     returning ${RETURNING}`,
    [organizationId, endpointId, holder],
  );
  return row === undefined ? undefined : toEndpoint(row);
}

/** What a transaction of the dispatcher changes of the endpoint. */
export interface EndpointChange {
  position: StoredPosition | undefined;
  /** Nothing that was recorded before this is missing. */
  positionAt: Instant;
  catchUp: CatchUp | undefined;
  failures: number;
  failingSince: Instant | undefined;
  /** Undefined: unchanged, since a replay may have lifted a pause meanwhile. */
  pausedUntil: Instant | undefined;
}

/** The first statement of every transaction of the dispatcher: locks the row. Undefined if another process holds the lease. */
export async function renewLease(
  db: Statements,
  { organizationId, endpointId, holder }: Lease,
  change: EndpointChange,
): Promise<LeasedEndpoint | undefined> {
  const { position, catchUp } = change;
  const [row] = await db.execute<Record<string, unknown>[]>(
    `update webhook_endpoint set lease_until = clock_timestamp() + interval '${LEASE}',
       position = coalesce($4, position), position_epoch = coalesce($5::uuid, position_epoch),
       position_xmax = coalesce($6::xid8, position_xmax), position_running = coalesce($7::xid8[], position_running),
       position_at = $8::timestamptz,
       catch_up_at = $9::timestamptz, catch_up_id = $10::uuid, catch_up_until = $11::timestamptz,
       failures = $12::int, failing_since = $13::timestamptz, paused_until = coalesce($14::timestamptz, paused_until)
     where organization_id = $1 and id = $2 and lease_holder = $3
     returning ${RETURNING}`,
    [
      organizationId,
      endpointId,
      holder,
      position?.text ?? null,
      position?.epoch ?? null,
      position === undefined ? null : String(position.snapshot.xmax),
      position === undefined ? null : position.snapshot.running.map(String),
      instantToText(change.positionAt),
      orNull(catchUp?.after.recordedAt),
      catchUp?.after.id ?? null,
      orNull(catchUp?.until),
      change.failures,
      orNull(change.failingSince),
      orNull(change.pausedUntil),
    ],
  );
  return row === undefined ? undefined : toEndpoint(row);
}

/** Lets others take the endpoint at once. */
export async function giveLeaseBack(db: Statements, { organizationId, endpointId, holder }: Lease): Promise<void> {
  await db.execute(
    `update webhook_endpoint set lease_holder = null, lease_until = null
     where organization_id = $1 and id = $2 and lease_holder = $3`,
    [organizationId, endpointId, holder],
  );
}

/** Disables the endpoint; its deliveries stay as they are. */
export async function disableEndpoint(
  db: Statements,
  { organizationId, endpointId }: Lease,
  { reason, etag, clockOffset }: { reason: "GONE" | "FAILING"; etag: string; clockOffset: string },
): Promise<void> {
  await db.execute(
    `update webhook_endpoint set state = 'DISABLED', disabled_reason = $3, disabled_at = clock_timestamp() + $5::interval,
       etag = $4::uuid, updated_at = clock_timestamp(), paused_until = null
     where organization_id = $1 and id = $2 and state = 'ENABLED'`,
    [organizationId, endpointId, reason, etag, clockOffset],
  );
}

/** Endpoints that ask for the disabling of others. */
export async function listListeners(db: Statements, organizationId: string, endpointId: string): Promise<string[]> {
  const rows = await db.execute<{ id: string }[]>(
    `select id from webhook_endpoint
     where organization_id = $1 and id <> $2 and deleted_at is null and 'webhook_endpoint.disabled' = any(event_types)`,
    [organizationId, endpointId],
  );
  return rows.map((row) => row.id);
}

/** Removes some deliveries of a deleted endpoint, and the endpoint itself with the last. Whether there are more. */
export async function removeSome(
  db: Statements,
  { organizationId, endpointId }: { organizationId: string; endpointId: string },
  limit: number,
): Promise<boolean> {
  const removed = await db.execute<unknown[]>(
    `delete from webhook_delivery where organization_id = $1 and id = any(array(
       select id from webhook_delivery where organization_id = $1 and endpoint_id = $2 limit $3)) returning id`,
    [organizationId, endpointId, limit],
  );
  if (removed.length === limit) return true;
  await db.execute("delete from webhook_endpoint where organization_id = $1 and id = $2", [organizationId, endpointId]);
  return false;
}

function toEndpoint(row: Record<string, unknown>): LeasedEndpoint {
  const instant = (name: string) => (row[name] === null ? undefined : parseInstant(row[name] as string));
  const [after, until] = [instant("catch_up_at"), instant("catch_up_until")];
  return {
    url: row.url as string,
    secrets: [row.secret, row.previous_secret].filter((secret) => secret !== null) as string[],
    eventTypes: row.event_types as string[],
    entityTypes: row.entity_types as string[],
    statusChanges: row.status_changes as "ALONE" | "ALWAYS",
    position: row.position as string,
    catchUp:
      after === undefined || until === undefined
        ? undefined
        : { after: { recordedAt: after, id: row.catch_up_id as string }, until },
    positionAt: parseInstant(row.position_at as string),
    failures: row.failures as number,
    failingSince: instant("failing_since"),
    pausedUntil: instant("paused_until"),
    isDeleted: row.deleted_at !== null,
    isEnabled: row.state === "ENABLED",
    etag: row.etag as string,
    now: parseInstant(row.now as string),
  };
}

const orNull = (instant: Instant | undefined) => (instant === undefined ? null : instantToText(instant));
