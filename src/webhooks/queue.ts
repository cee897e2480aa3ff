// The queue of an endpoint. Before the first ANALYZE the planner thinks that all of an organization is one row, and would
// read it all instead of probing an index for each of some: hence no joins of the large tables, but scalar subqueries,
// LIMIT and arrays, which leave it no choice.
// `clockOffset` is how far the schedule's clock is ahead of the database's, as an interval: nothing but tests moves it.
import { createHash } from "node:crypto";
import { jsonbArray } from "../db/binary-arrays.ts";
import { type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import type { JsonObject } from "../domain/json.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { EVENT_BYTES, type LoggedEvent, toEvent } from "../log/events.ts";

/** One event for one endpoint. */
export interface NewDelivery {
  id: string;
  eventId: string;
  event: string;
  /** The order among several deliveries of one event. */
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
  logged: LoggedEvent | undefined;
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

/** Adds deliveries, which are in order, to the endpoint's queue; one that is there already stays as it is. releaseNext must follow for the subjects. */
export async function enqueue(
  db: Statements,
  organizationId: string,
  endpointId: string,
  deliveries: readonly NewDelivery[],
  clockOffset: string,
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
      clockOffset,
    ],
  );
}

/** Which of the events the endpoint has passed on its way through the log. */
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

/** Deliveries that are finished begin anew, those that are pending are due now. releaseNext must follow for the subjects that this returns. */
export async function beginAnew(
  db: Statements,
  organizationId: string,
  endpointId: string,
  ids: readonly string[],
  clockOffset: string,
): Promise<{ id: string; subjectId: string }[]> {
  const rows = await db.execute<{ id: string; subject_id: string }[]>(
    `update webhook_delivery set state = 'PENDING', finished_at = null,
       attempt_count = case state when 'PENDING' then attempt_count else 0 end,
       first_attempt_at = case state when 'PENDING' then first_attempt_at end,
       next_attempt_at = case when next_attempt_at is not null then clock_timestamp() + $4::interval end
     where organization_id = $1 and endpoint_id is not distinct from $2 and id = any($3::uuid[])
     returning id, subject_id`,
    [organizationId, endpointId, ids, clockOffset],
  );
  return rows.map((row) => ({ id: row.id, subjectId: row.subject_id }));
}

/** Makes due the next waiting delivery of each subject that has none in flight. */
export async function releaseNext(
  db: Statements,
  organizationId: string,
  endpointId: string,
  subjectIds: Iterable<string>,
  clockOffset: string,
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
    [organizationId, endpointId, subjects, clockOffset],
  );
}

/** The deliveries that are due, the earliest first, without those in hand; at most one per subject. */
export async function readDue(
  db: Statements,
  organizationId: string,
  endpointId: string,
  { inHand, clockOffset, limit }: { inHand: string[]; clockOffset: string; limit: number },
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
    [organizationId, endpointId, inHand, clockOffset, limit],
  );
  return partOf(rows, (row: Record<string, unknown>) => ({
    id: row.delivery_id as string,
    event: row.delivery_event as string,
    subjectId: row.subject_id as string,
    entityVersion: Number(row.delivery_version),
    attempts: row.attempt_count as number,
    firstAttemptAt: row.first_attempt_at === null ? undefined : parseInstant(row.first_attempt_at as string),
    payload: (row.payload as JsonObject | null) ?? undefined,
    logged: row.id === null ? undefined : toEvent(row),
  }));
}

/** Bytes of the events of deliveries that are fetched at once. */
const DUE_BYTES = 1024 * 1024;

/** Attempts that a delivery keeps. */
const KEPT_ATTEMPTS = 50;

/** Writes what attempts came to. One that was written already stays as it is. */
export async function writeOutcomes(
  db: Statements,
  organizationId: string,
  outcomes: readonly AttemptOutcome[],
  clockOffset: string,
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
      clockOffset,
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
