// The trail of administration: written beside the change that it tells of, read newest first.
import type { AdministrationEventName } from "../domain/administration.ts";
import type { JsonObject } from "../domain/json.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { type Bound, bytesOf, type Part, partOf, withinBytes } from "./bytes.ts";
import type { Statements } from "./statements.ts";
import { newId } from "./uuid.ts";

/** Who did it, and through which call. */
export interface Administrator {
  actor: string;
  principal: string;
  source: string;
  requestId: string | undefined;
  callId: string | undefined;
  peer: string | undefined;
}

export interface AdministrationEvent extends Administrator {
  type: AdministrationEventName;
  /** The id of what was administered. */
  subjectId: string;
  previousValues: JsonObject;
  newValues: JsonObject;
}

/** Writes an event down, in the transaction of the change. */
export async function insertAdministrationEvent(
  db: Statements,
  organizationId: string,
  event: AdministrationEvent,
): Promise<void> {
  await db.execute(
    `insert into administration_event (organization_id, id, type, subject_id, previous_values, new_values, actor,
       principal, source, request_id, call_id, peer)
     values ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7, $8, $9, $10, $11, $12)`,
    [
      ...[organizationId, newId(), event.type, event.subjectId],
      ...[JSON.stringify(event.previousValues), JSON.stringify(event.newValues)],
      ...[event.actor, event.principal, event.source],
      ...[event.requestId ?? null, event.callId ?? null, event.peer ?? null],
    ],
  );
}

export interface AdministrationFilter {
  subjectId: string | undefined;
  principal: string | undefined;
  from: Instant | undefined;
  to: Instant | undefined;
  /** The last event of the page before. */
  before: { recordedAt: Instant; id: string } | undefined;
  bound: Bound;
}

export interface ListedAdministrationEvent extends AdministrationEvent {
  id: string;
  recordedAt: Instant;
}

/** Newest first. */
export async function listAdministrationEvents(
  db: Statements,
  organizationId: string,
  filter: AdministrationFilter,
): Promise<Part<ListedAdministrationEvent>> {
  const values: unknown[] = [organizationId, filter.bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["organization_id = $1"];
  if (filter.subjectId !== undefined) where.push(`subject_id = ${value(filter.subjectId)}::uuid`);
  if (filter.principal !== undefined) where.push(`principal = ${value(filter.principal)}::uuid`);
  if (filter.from !== undefined) where.push(`recorded_at >= ${value(instantToText(filter.from))}::timestamptz`);
  if (filter.to !== undefined) where.push(`recorded_at < ${value(instantToText(filter.to))}::timestamptz`);
  if (filter.before !== undefined) {
    const { recordedAt, id } = filter.before;
    where.push(`(recorded_at, id) < (${value(instantToText(recordedAt))}::timestamptz, ${value(id)}::uuid)`);
  }
  const rows = await db.execute<Record<string, unknown>[]>(
    withinBytes(
      `select a.*, ${bytesOf("a", ["previous_values", "new_values"])} as bytes from administration_event a
       where ${where.join(" and ")} order by a.recorded_at desc, a.id desc limit $2`,
      filter.bound.bytes,
      "recorded_at desc, id desc",
    ),
    values,
  );
  return partOf(rows, toEvent);
}

function toEvent(row: Record<string, unknown>): ListedAdministrationEvent {
  return {
    id: row.id as string,
    type: row.type as AdministrationEventName,
    subjectId: row.subject_id as string,
    previousValues: row.previous_values as JsonObject,
    newValues: row.new_values as JsonObject,
    actor: row.actor as string,
    principal: row.principal as string,
    source: row.source as string,
    requestId: (row.request_id as string | null) ?? undefined,
    callId: (row.call_id as string | null) ?? undefined,
    peer: (row.peer as string | null) ?? undefined,
    recordedAt: parseInstant(row.recorded_at as string),
  };
}
