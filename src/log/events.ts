// Rows of the log: written by every change, in its transaction; listed; read by time. Under row level security;
// organization_id is named all the same, since it is the first column of every index.

import { type Bound, bytesOf, type Part, partOf, withinBytes } from "../db/bytes.ts";
import { columnsOf, hydrator, insertOf, type RowOf, selected } from "../db/columns.ts";
import { EntityEventRow } from "../db/schema.ts";
import type { Pipeline, Statements } from "../db/statements.ts";
import type { Documents, Seal } from "../domain/seal.ts";
import { type Instant, instantToText } from "../domain/time.ts";

/** What an event holds, as `v`. */
export const EVENT_BYTES = bytesOf("v", ["previous_values", "new_values", "external_ids", "metadata", "reason"]);

type Row = RowOf<typeof EntityEventRow>;

/** An event as it is read: what it does not have is null. */
export type LoggedEvent = Omit<Row, "personalHash" | "xid" | "epoch">;

/** An event as it is written. */
export type SealedEvent = Omit<LoggedEvent, keyof Documents | keyof Seal> & Documents & Seal;

const COLUMNS = columnsOf(EntityEventRow);
/** What the database does not set by itself. */
const WRITTEN = COLUMNS.filter(({ property }) => property !== "xid" && property !== "epoch");
const insertRows = insertOf<SealedEvent>("entity_event", WRITTEN, {
  // The start of the cluster is known before its first event is there.
  rest: "where (select f.started_at = pg_postmaster_start_time() or note_feed_start() from feed_epoch f)",
});

export const EVENT_COLUMNS = selected(COLUMNS, "v");

/** The event of a row of entity_event. */
export const toEvent: (row: unknown) => LoggedEvent = hydrator<typeof EntityEventRow>(COLUMNS);

export interface EventFilter {
  /** With those that were merged into it. */
  entityId: string | undefined;
  types: string[];
  actor: string | undefined;
  principal: string | undefined;
  requestId: string | undefined;
  from: Instant | undefined;
  to: Instant | undefined;
  /** Only what is older than this event. */
  before: { recordedAt: Instant; id: string; entityId: string; entityVersion: string } | undefined;
  bound: Bound;
}

/** Events, newest first. */
export async function listEvents(
  db: Statements,
  organizationId: string,
  filter: EventFilter,
): Promise<Part<LoggedEvent>> {
  const values: unknown[] = [organizationId, filter.bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["v.organization_id = $1"];
  if (filter.types.length > 0) where.push(`v.type = any(${value(filter.types)}::text[])`);
  if (filter.actor !== undefined) where.push(`v.actor = ${value(filter.actor)}`);
  if (filter.principal !== undefined) where.push(`v.principal = ${value(filter.principal)}::uuid`);
  if (filter.requestId !== undefined) where.push(`v.request_id = ${value(filter.requestId)}::uuid`);
  if (filter.from !== undefined) where.push(`v.recorded_at >= ${value(instantToText(filter.from))}::timestamptz`);
  if (filter.to !== undefined) where.push(`v.recorded_at < ${value(instantToText(filter.to))}::timestamptz`);
  if (filter.before !== undefined) {
    const { recordedAt, id } = filter.before;
    where.push(`(v.recorded_at, v.id) < (${value(instantToText(recordedAt))}::timestamptz, ${value(id)}::uuid)`);
  }
  const order = "v.recorded_at desc, v.id desc";
  let source = "entity_event v";
  if (filter.entityId !== undefined) {
    // The versions of one entity are in the order of time, and have an index that the planner cannot mistake. That of the
    // cursor goes on behind its version; the others of the group are few, and had their events before they were merged.
    const entityId = `${value(filter.entityId)}::uuid`;
    const version = filter.before && `${value(filter.before.entityVersion)}::bigint`;
    const last = filter.before && `${value(filter.before.entityId)}::uuid`;
    const behind =
      version === undefined
        ? ""
        : `and v.entity_version < case when m.id = ${last} then ${version} else ${Number.MAX_SAFE_INTEGER} end`;
    source = `(
      select v.* from (select ${entityId} as id union all
        select g.id from entity g where g.organization_id = $1 and g.survivor_id = ${entityId}) m
      cross join lateral (
        select v.* from entity_event v where ${where.join(" and ")} and v.entity_id = m.id ${behind}
        order by v.entity_version desc limit $2) v
      order by ${order} limit $2) v`;
  }
  const rows = await db.execute<Record<string, never>[]>(
    withinBytes(
      `select ${EVENT_COLUMNS}, ${EVENT_BYTES} as bytes from ${source} where ${where.join(" and ")} order by ${order} limit $2`,
      filter.bound.bytes,
      order.replaceAll("v.", ""),
    ),
    values,
  );
  return partOf(rows, toEvent);
}

/** All of one organization. */
export function insertEvents(db: Pipeline, organizationId: string, events: readonly SealedEvent[]): void {
  if (events.length === 0) return;
  db.send(...insertRows(organizationId, events));
}
