// Rows of the log: written by every change, in its transaction; listed; read by time. Under row level security;
// organization_id is named all the same, since it is the first column of every index.

import { type Bound, bytesOf, type Part, partOf, withinBytes } from "../db/bytes.ts";
import { jsonbArray } from "../db/jsonb-array.ts";
import type { Pipeline, Statements } from "../db/statements.ts";
import { type EntityState, type EventType, primaryOf } from "../domain/entity-state.ts";
import type { JsonObject } from "../domain/json.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";

/** What an event holds, as `v`. */
export const EVENT_BYTES = bytesOf("v", ["previous_values", "new_values", "external_ids", "metadata", "reason"]);

/** An event as it was written. Texts that were not given are "". */
export interface ListedEvent {
  id: string;
  entityId: string;
  entityVersion: number;
  entityType: EntityState["type"];
  type: EventType;
  externalId: string;
  externalIds: string[];
  updatedFields: string[];
  previousValues: JsonObject;
  newValues: JsonObject;
  actor: string;
  principal: string;
  source: string;
  reason: string;
  requestId: string;
  metadata: JsonObject;
  recordedAt: Instant;
  occurredAt: Instant | undefined;
}

export interface EventFilter {
  entityId: string | undefined;
  types: string[];
  actor: string | undefined;
  principal: string | undefined;
  requestId: string | undefined;
  from: Instant | undefined;
  to: Instant | undefined;
  /** Only what is older than this event. */
  before: { recordedAt: Instant; id: string; entityVersion: string } | undefined;
  bound: Bound;
}

/** Events, newest first. */
export async function listEvents(
  db: Statements,
  organizationId: string,
  filter: EventFilter,
): Promise<Part<ListedEvent>> {
  const values: unknown[] = [organizationId, filter.bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["v.organization_id = $1"];
  if (filter.entityId !== undefined) where.push(`v.entity_id = ${value(filter.entityId)}::uuid`);
  if (filter.types.length > 0) where.push(`v.type = any(${value(filter.types)}::text[])`);
  if (filter.actor !== undefined) where.push(`v.actor = ${value(filter.actor)}`);
  if (filter.principal !== undefined) where.push(`v.principal = ${value(filter.principal)}::uuid`);
  if (filter.requestId !== undefined) where.push(`v.request_id = ${value(filter.requestId)}::uuid`);
  if (filter.from !== undefined) where.push(`v.recorded_at >= ${value(instantToText(filter.from))}::timestamptz`);
  if (filter.to !== undefined) where.push(`v.recorded_at < ${value(instantToText(filter.to))}::timestamptz`);
  // Of one entity the versions are in the order of time, and have an index that no planner can mistake.
  const order = filter.entityId === undefined ? "v.recorded_at desc, v.id desc" : "v.entity_version desc";
  if (filter.before !== undefined && filter.entityId !== undefined) {
    where.push(`v.entity_version < ${value(filter.before.entityVersion)}::bigint`);
  } else if (filter.before !== undefined) {
    const { recordedAt, id } = filter.before;
    where.push(`(v.recorded_at, v.id) < (${value(instantToText(recordedAt))}::timestamptz, ${value(id)}::uuid)`);
  }
  const rows = await db.execute<Record<string, never>[]>(
    withinBytes(
      `select v.*, ${EVENT_BYTES} as bytes from entity_event v where ${where.join(" and ")} order by ${order} limit $2`,
      filter.bound.bytes,
      order.replaceAll("v.", ""),
    ),
    values,
  );
  return partOf(rows, toListedEvent);
}

/** The event of a row of entity_event. */
export function toListedEvent(row: Record<string, unknown>): ListedEvent {
  return {
    id: row.id as string,
    entityId: row.entity_id as string,
    entityVersion: Number(row.entity_version),
    entityType: row.entity_type as EntityState["type"],
    type: row.type as EventType,
    externalId: (row.external_id as string | null) ?? "",
    externalIds: row.external_ids as string[],
    updatedFields: row.updated_fields as string[],
    previousValues: row.previous_values as JsonObject,
    newValues: row.new_values as JsonObject,
    actor: row.actor as string,
    principal: row.principal as string,
    source: row.source as string,
    reason: (row.reason as string | null) ?? "",
    requestId: (row.request_id as string | null) ?? "",
    metadata: row.metadata as JsonObject,
    recordedAt: parseInstant(row.recorded_at as string),
    occurredAt: row.occurred_at === null ? undefined : parseInstant(row.occurred_at as string),
  };
}

/** A row of the log. `externalId` and `externalIds` are those after the change. */
export interface EventRow {
  id: string;
  entity: EntityState;
  type: EventType;
  updatedFields: readonly string[];
  previousValues: JsonObject;
  newValues: JsonObject;
  actor: string;
  principal: string;
  source: string;
  reason: string;
  requestId: string | undefined;
  metadata: JsonObject;
  occurredAt: Instant | undefined;
}

/** An array as text, for one that is an item of another: those of unnest cannot hold arrays of different lengths. */
const arrayLiteral = (items: readonly string[]) =>
  `{${items.map((item) => `"${item.replaceAll(/["\\]/g, "\\$&")}"`).join(",")}}`;

export function insertEvents(db: Pipeline, organizationId: string, events: EventRow[]): void {
  if (events.length === 0) return;
  db.send(
    `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_id,
       external_ids, updated_fields, previous_values, new_values, actor, principal, source, reason, request_id,
       metadata, recorded_at, occurred_at)
     select $1::uuid, v.id, v.entity_id, v.entity_version, v.entity_type, v.type, v.external_id,
       v.external_ids::text[], v.updated_fields::text[], v.previous_values, v.new_values, v.actor, v.principal, v.source, v.reason, v.request_id, v.metadata,
       v.recorded_at, v.occurred_at
     from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
       $10::jsonb[], $11::jsonb[], $12::text[], $13::uuid[], $14::text[], $15::text[], $16::uuid[], $17::jsonb[],
       $18::timestamptz[], $19::timestamptz[])
       as v(id, entity_id, entity_version, entity_type, type, external_id, external_ids, updated_fields,
         previous_values, new_values, actor, principal, source, reason, request_id, metadata, recorded_at, occurred_at)
     where (select f.started_at = pg_postmaster_start_time() or note_feed_start() from feed_epoch f)`,
    [
      organizationId,
      events.map((e) => e.id),
      events.map((e) => e.entity.id),
      events.map((e) => e.entity.version),
      events.map((e) => e.entity.type),
      events.map((e) => e.type),
      events.map((e) => primaryOf(e.entity)?.externalId ?? null),
      events.map((e) => arrayLiteral(e.entity.externalIds.map((id) => id.externalId))),
      events.map((e) => arrayLiteral(e.updatedFields)),
      jsonbArray(events.map((e) => e.previousValues)),
      jsonbArray(events.map((e) => e.newValues)),
      events.map((e) => e.actor),
      events.map((e) => e.principal),
      events.map((e) => e.source),
      events.map((e) => (e.reason === "" ? null : e.reason)),
      events.map((e) => e.requestId ?? null),
      jsonbArray(events.map((e) => e.metadata)),
      events.map((e) => instantToText(e.entity.updatedAt)),
      events.map((e) => (e.occurredAt === undefined ? null : instantToText(e.occurredAt))),
    ],
  );
}
