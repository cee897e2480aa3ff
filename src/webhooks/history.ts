// What became of deliveries, as callers list it.

import { type Bound, bytesOf, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import type { AttemptOutcome } from "./queue.ts";

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
