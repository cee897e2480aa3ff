// The statements of webhooks: whose turn it is, the queue of an endpoint, and what became of each delivery. All
// but the first run under row level security; those that change the queue run behind a statement that locks the
// endpoint's row, one transaction after the other. Before the first ANALYZE the planner thinks that all of an
// organization is one row, and would read it all instead of probing an index for each of some: hence no joins of the
// large tables, but scalar subqueries, LIMIT and arrays, which leave it no choice.
import { createHash } from "node:crypto";
import type { JsonObject } from "../domain/json.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { type Bound, bytesOf, type Part, partOf, withinBytes } from "./bytes.ts";
import { jsonbArray } from "./jsonb-array.ts";
import type { Orm } from "./orm.ts";
import { EVENT_BYTES, type ListedEvent, type Statements, toListedEvent } from "./queries.ts";
import type { Snapshot } from "./snapshot.ts";
import { toReason } from "./transaction.ts";

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
  /** Another one: the filters may be others too. */
  etag: string;
  /** The database's time. */
  now: Instant;
}

export interface CatchUp {
  after: { recordedAt: Instant; id: string };
  until: Instant;
}

/** Where the log goes on for an endpoint: the text of a position, with its epoch and its snapshot. */
export interface StoredPosition {
  text: string;
  epoch: string;
  snapshot: Snapshot;
}

/** One event for one endpoint. */
export interface NewDelivery {
  id: string;
  eventId: string;
  event: string;
  /** Of several of one event: in which order. */
  rank: number;
  subjectId: string;
  entityVersion: number;
  recordedAt: Instant;
  payload?: JsonObject;
}

/** A delivery whose turn it is. */
export interface DueDelivery {
  id: string;
  event: string;
  subjectId: string;
  entityVersion: number;
  /** Made so far, of this round: a replay begins another. */
  attempts: number;
  firstAttemptAt: Instant | undefined;
  payload: JsonObject | undefined;
  /** Undefined when it is no longer there, or never was: webhook_endpoint.disabled. */
  logged: ListedEvent | undefined;
}

/** What an attempt came to. */
export interface AttemptOutcome {
  id: string;
  subjectId: string;
  /** 1 for the first of its round. */
  number: number;
  attempt: { at: Instant; status: number; error: string; latencyMs: number };
  state: "PENDING" | "DELIVERED" | "FAILED";
  nextAttemptAt: Instant | null;
}

/** The same for the same event, endpoint and name, for ever; about in the order of time, like the event's. */
export function deliveryId(endpointId: string, eventId: string, event: string): string {
  const digest = createHash("sha256").update(`${endpointId} ${eventId} ${event}`).digest("hex");
  const variant = ((Number.parseInt(digest[3] as string, 16) & 0x3) | 0x8).toString(16);
  return `${eventId.slice(0, 13)}-8${digest.slice(0, 3)}-${variant}${digest.slice(4, 7)}-${digest.slice(8, 20)}`;
}

/** A lease that is not renewed is free after this; by the database's own time. */
const LEASE = "15 seconds";

/** Endpoints of any organization that have something to do which `holder` may do. */
export async function listWork(
  orm: Orm,
  { holder, ahead, limit }: { holder: string; ahead: string; limit: number },
): Promise<{ organizationId: string; endpointId: string }[]> {
  try {
    const rows = await orm.em
      .fork()
      .execute<{ organization_id: string; endpoint_id: string }[]>(
        "select * from list_webhook_work($1::uuid, $2::interval, $3::int)",
        [holder, ahead, limit],
      );
    return rows.map((row) => ({ organizationId: row.organization_id, endpointId: row.endpoint_id }));
  } catch (error) {
    throw toReason(error, "read");
  }
}

// --- The endpoint -------------------------------------------------------------------------------

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

/** The first statement of every transaction of the dispatcher: locks the row, and fails where the lease is another's. */
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
  { reason, etag, ahead }: { reason: "GONE" | "FAILING"; etag: string; ahead: string },
): Promise<void> {
  await db.execute(
    `update webhook_endpoint set state = 'DISABLED', disabled_reason = $3, disabled_at = clock_timestamp() + $5::interval,
       etag = $4::uuid, updated_at = clock_timestamp(), paused_until = null
     where organization_id = $1 and id = $2 and state = 'ENABLED'`,
    [organizationId, endpointId, reason, etag, ahead],
  );
}

/** Endpoints that want to know of the disabling of another one. */
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

// --- The queue ----------------------------------------------------------------------------------

/** Adds deliveries, which are in order, to the endpoint's queue; one that is there already stays as it is. releaseNext must follow for the subjects. */
export async function enqueue(
  db: Statements,
  organizationId: string,
  endpointId: string,
  deliveries: readonly NewDelivery[],
  ahead: string,
): Promise<void> {
  if (deliveries.length === 0) return;
  const seen = new Set<string>();
  const isFirst = deliveries.map(({ subjectId }) => !seen.has(subjectId) && seen.add(subjectId) !== undefined);
  await db.execute(
    `insert into webhook_delivery (organization_id, endpoint_id, id, event_id, event, rank, subject_id,
       entity_version, recorded_at, payload, state, next_attempt_at)
     select $1::uuid, $2::uuid, v.id, v.event_id, v.event, v.rank, v.subject_id, v.entity_version, v.recorded_at,
       v.payload, 'PENDING',
       case when v.is_first and (
         select w.id from webhook_delivery w
         where w.organization_id = $1 and w.endpoint_id = $2 and w.subject_id = v.subject_id and w.state = 'PENDING'
         limit 1) is null
       then clock_timestamp() + $12::interval end
     from unnest($3::uuid[], $4::uuid[], $5::text[], $6::int2[], $7::uuid[], $8::int8[], $9::timestamptz[],
       $10::jsonb[], $11::bool[])
       as v(id, event_id, event, rank, subject_id, entity_version, recorded_at, payload, is_first)
     on conflict (organization_id, id) do nothing`,
    [
      organizationId,
      endpointId,
      deliveries.map(({ id }) => id),
      deliveries.map(({ eventId }) => eventId),
      deliveries.map(({ event }) => event),
      deliveries.map(({ rank }) => rank),
      deliveries.map(({ subjectId }) => subjectId),
      deliveries.map(({ entityVersion }) => entityVersion),
      deliveries.map(({ recordedAt }) => instantToText(recordedAt)),
      jsonbArray(deliveries.map(({ payload }) => payload)),
      isFirst,
      ahead,
    ],
  );
}

/** Which of the events the endpoint has come past on its way through the log. */
export async function findPassed(
  db: Statements,
  organizationId: string,
  endpointId: string,
  eventIds: readonly string[],
): Promise<Set<string>> {
  const rows = await db.execute<{ id: string }[]>(
    `select v.id from webhook_endpoint e
     join (select id, number from feed_epoch union all select id, number from feed_start) f on f.id = e.position_epoch
     join entity_event v on v.organization_id = $1 and v.id = any($3::uuid[])
     where e.organization_id = $1 and e.id = $2 and e.catch_up_at is null
       and (v.epoch < f.number
         or v.epoch = f.number and v.xid < e.position_xmax and v.xid <> all(e.position_running))`,
    [organizationId, endpointId, eventIds],
  );
  return new Set(rows.map((row) => row.id));
}

/** Deliveries that are finished begin anew, those that are pending are due now. releaseNext must follow for their subjects, which are told. */
export async function beginAnew(
  db: Statements,
  organizationId: string,
  endpointId: string,
  ids: readonly string[],
  ahead: string,
): Promise<{ id: string; subjectId: string }[]> {
  const rows = await db.execute<{ id: string; subject_id: string }[]>(
    `update webhook_delivery set state = 'PENDING', finished_at = null,
       attempt_count = case state when 'PENDING' then attempt_count else 0 end,
       first_attempt_at = case state when 'PENDING' then first_attempt_at end,
       next_attempt_at = case when next_attempt_at is not null then clock_timestamp() + $4::interval end
     where organization_id = $1 and endpoint_id is not distinct from $2 and id = any($3::uuid[])
     returning id, subject_id`,
    [organizationId, endpointId, ids, ahead],
  );
  return rows.map((row) => ({ id: row.id, subjectId: row.subject_id }));
}

/** Of each subject of which nothing is on its way: the next one that waits is due. */
export async function releaseNext(
  db: Statements,
  organizationId: string,
  endpointId: string,
  subjectIds: Iterable<string>,
  ahead: string,
): Promise<void> {
  const subjects = [...new Set(subjectIds)];
  if (subjects.length === 0) return;
  await db.execute(
    `update webhook_delivery set next_attempt_at = clock_timestamp() + $4::interval
     where organization_id = $1 and id = any(array(
       select next.id
       from unnest($3::uuid[]) as s(id)
       cross join lateral (
         select w.id from webhook_delivery w
         where w.organization_id = $1 and w.endpoint_id = $2 and w.subject_id = s.id and w.state = 'PENDING'
         order by w.entity_version, w.rank limit 1) as next
       where (
         select h.id from webhook_delivery h
         where h.organization_id = $1 and h.endpoint_id = $2 and h.subject_id = s.id and h.state = 'PENDING'
           and h.next_attempt_at is not null
         limit 1) is null))`,
    [organizationId, endpointId, subjects, ahead],
  );
}

/** The deliveries that are due, the earliest first, without those in hand; each the only one of its subject. */
export async function readDue(
  db: Statements,
  organizationId: string,
  endpointId: string,
  { inHand, ahead, limit }: { inHand: string[]; ahead: string; limit: number },
): Promise<Part<DueDelivery>> {
  const rows = await db.execute<Record<string, unknown>[]>(
    withinBytes(
      `select d.id as delivery_id, d.event as delivery_event, d.subject_id, d.entity_version as delivery_version,
       d.attempt_count, d.first_attempt_at, d.payload, d.next_attempt_at as due_at, d.recorded_at as due_recorded_at,
       v.*, ${EVENT_BYTES} as bytes
     from (
       select * from webhook_delivery
       where organization_id = $1 and endpoint_id = $2 and state = 'PENDING'
         and next_attempt_at <= statement_timestamp() + $4::interval and id <> all($3::uuid[])
       order by next_attempt_at limit $5) d
     left join lateral (
       select * from entity_event where organization_id = $1 and id = d.event_id order by id limit 1) v on true
     order by d.next_attempt_at, d.recorded_at`,
      DUE_BYTES,
      "due_at, due_recorded_at",
    ),
    [organizationId, endpointId, inHand, ahead, limit],
  );
  return partOf(rows, (row: Record<string, unknown>) => ({
    id: row.delivery_id as string,
    event: row.delivery_event as string,
    subjectId: row.subject_id as string,
    entityVersion: Number(row.delivery_version),
    attempts: row.attempt_count as number,
    firstAttemptAt: row.first_attempt_at === null ? undefined : parseInstant(row.first_attempt_at as string),
    payload: (row.payload as JsonObject | null) ?? undefined,
    logged: row.id === null ? undefined : toListedEvent(row),
  }));
}

/** Of the events of deliveries that are fetched at once. */
const DUE_BYTES = 1024 * 1024;

/** Attempts that a delivery keeps. */
const KEPT_ATTEMPTS = 50;

/** Writes what attempts came to. One that was written already stays as it is. */
export async function writeOutcomes(
  db: Statements,
  organizationId: string,
  outcomes: readonly AttemptOutcome[],
  ahead: string,
): Promise<void> {
  if (outcomes.length === 0) return;
  await db.execute(
    `update webhook_delivery d
     set (state, attempt_count, attempts, first_attempt_at, next_attempt_at, finished_at) = (
       select o.state, o.number,
         case when jsonb_array_length(d.attempts) < ${KEPT_ATTEMPTS} then d.attempts else d.attempts - 0 end || o.attempt,
         coalesce(d.first_attempt_at, o.at), o.next_attempt_at,
         case when o.state <> 'PENDING' then clock_timestamp() + $8::interval end
       from unnest($2::uuid[], $3::int[], $4::jsonb[], $5::text[], $6::timestamptz[], $7::timestamptz[])
         as o(id, number, attempt, state, at, next_attempt_at)
       where o.id = d.id)
     where d.organization_id = $1 and d.id = any($2::uuid[]) and d.finished_at is null
       and d.attempt_count = ($3::int[])[array_position($2::uuid[], d.id)] - 1`,
    [
      organizationId,
      outcomes.map(({ id }) => id),
      outcomes.map(({ number }) => number),
      jsonbArray(outcomes.map(({ attempt: { at, ...rest } }) => ({ at: instantToText(at), ...rest }))),
      outcomes.map(({ state }) => state),
      outcomes.map(({ attempt }) => instantToText(attempt.at)),
      outcomes.map(({ nextAttemptAt }) => (nextAttemptAt === null ? null : instantToText(nextAttemptAt))),
      ahead,
    ],
  );
}

/** How many deliveries of the endpoint are pending, up to `limit`, and about the oldest of their events. */
export async function countPending(
  db: Statements,
  organizationId: string,
  endpointId: string,
  limit: number,
): Promise<{ count: number; oldest: Instant | undefined }> {
  const [row] = await db.execute<{ count: string; oldest: string | null }[]>(
    `select count(*) as count, min(recorded_at) as oldest from (
       select recorded_at from webhook_delivery
       where organization_id = $1 and endpoint_id = $2 and state = 'PENDING' limit $3) d`,
    [organizationId, endpointId, limit],
  );
  const oldest = row?.oldest ?? null;
  return { count: Number(row?.count ?? 0), oldest: oldest === null ? undefined : parseInstant(oldest) };
}

/** Events by time, behind `after` and before `until`, whatever their epoch. */
export async function readEventsByTime(
  db: Statements,
  organizationId: string,
  { after, until }: CatchUp,
  bound: Bound,
): Promise<Part<ListedEvent>> {
  const rows = await db.execute<Record<string, unknown>[]>(
    withinBytes(
      `select v.*, ${EVENT_BYTES} as bytes from entity_event v
     where v.organization_id = $1 and (v.recorded_at, v.id) > ($2::timestamptz, $3::uuid) and v.recorded_at < $4::timestamptz
     order by v.recorded_at, v.id limit $5`,
      bound.bytes,
      "recorded_at, id",
    ),
    [organizationId, instantToText(after.recordedAt), after.id, instantToText(until), bound.rows],
  );
  return partOf(rows, toListedEvent);
}

// --- What callers list --------------------------------------------------------------------------

export type DeliveryState = AttemptOutcome["state"];

/** A delivery as callers see it. */
export interface ListedDelivery {
  id: string;
  endpointId: string;
  eventId: string;
  event: string;
  subjectId: string;
  entityVersion: number;
  state: DeliveryState;
  attempts: { at: Instant; status: number; error: string; latencyMs: number }[];
  nextAttemptAt: Instant | undefined;
  recordedAt: Instant;
  createdAt: Instant;
  finishedAt: Instant | undefined;
}

export interface DeliveryFilter {
  endpointId: string | undefined;
  states: readonly DeliveryState[];
  entityId: string | undefined;
  events: readonly string[];
  from: Instant | undefined;
  to: Instant | undefined;
  /** Only what is older than this. */
  before: { recordedAt: Instant; id: string } | undefined;
  bound: Bound;
}

/** Deliveries of the endpoints that are there, those of the newest events first. */
export async function listDeliveries(
  db: Statements,
  organizationId: string,
  filter: DeliveryFilter,
): Promise<Part<ListedDelivery>> {
  const values: unknown[] = [organizationId, filter.bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["w.organization_id = $1 and w.endpoint_id = e.id"];
  // Literals, which the partial indexes of those few are found by.
  if (filter.states.length > 0) where.push(`w.state in (${filter.states.map((state) => `'${state}'`).join(", ")})`);
  if (filter.entityId !== undefined) where.push(`w.subject_id = ${value(filter.entityId)}::uuid`);
  if (filter.events.length > 0) where.push(`w.event = any(${value(filter.events)}::text[])`);
  if (filter.from !== undefined) where.push(`w.recorded_at >= ${value(instantToText(filter.from))}::timestamptz`);
  if (filter.to !== undefined) where.push(`w.recorded_at < ${value(instantToText(filter.to))}::timestamptz`);
  if (filter.before !== undefined) {
    const { recordedAt, id } = filter.before;
    where.push(`(w.recorded_at, w.id) < (${value(instantToText(recordedAt))}::timestamptz, ${value(id)}::uuid)`);
  }
  const endpoint = filter.endpointId === undefined ? "" : `and e.id = ${value(filter.endpointId)}::uuid`;
  const rows = await db.execute<Record<string, unknown>[]>(
    withinBytes(
      `select d.*, ${bytesOf("d", ["attempts"])} as bytes from webhook_endpoint e
     cross join lateral (
       select * from webhook_delivery w where ${where.join(" and ")}
       order by w.recorded_at desc, w.id desc limit $2) d
     where e.organization_id = $1 and e.deleted_at is null ${endpoint}
     order by d.recorded_at desc, d.id desc limit $2`,
      filter.bound.bytes,
      "recorded_at desc, id desc",
    ),
    values,
  );
  const instant = (text: unknown) => (text === null ? undefined : parseInstant(text as string));
  return partOf(rows, (row: Record<string, unknown>) => ({
    id: row.id as string,
    endpointId: row.endpoint_id as string,
    eventId: row.event_id as string,
    event: row.event as string,
    subjectId: row.subject_id as string,
    entityVersion: Number(row.entity_version),
    state: row.state as DeliveryState,
    attempts: (row.attempts as { at: string; status: number; error: string; latencyMs: number }[]).map((one) => ({
      ...one,
      at: parseInstant(one.at),
    })),
    nextAttemptAt: instant(row.next_attempt_at),
    recordedAt: parseInstant(row.recorded_at as string),
    createdAt: parseInstant(row.created_at as string),
    finishedAt: instant(row.finished_at),
  }));
}
