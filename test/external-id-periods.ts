// Rule 140, of every database after its tests: the table of the present and that of the past tell together which entity
// had an external id when, and tell nothing that the log does not.
import { expect } from "vitest";

type Sql = (text: string) => Promise<Record<string, unknown>[]>;

/** A period as the tables have it, with the times as texts that can be compared. */
interface Period {
  organizationId: string;
  externalId: string;
  entityId: string;
  type: string | null;
  attachedAt: string;
  /** Null: it goes on. */
  detachedAt: string | null;
  eventId: string | null;
}

const TIME = (column: string) => `to_char(${column}, 'YYYY-MM-DD"T"HH24:MI:SS.US')`;
const PERIODS = `
  select organization_id, external_id, entity_id, type, ${TIME("attached_at")} as attached_at, null as detached_at,
    null::uuid as event_id from external_id
  union all
  select organization_id, external_id, entity_id, type, ${TIME("attached_at")}, ${TIME("detached_at")}, event_id
  from external_id_past`;

export async function assertExternalIdPeriods(sql: Sql): Promise<void> {
  expect(
    await sql(`
      select p.external_id, p.attached_at, q.attached_at as next_attached_at from (${PERIODS}) p join (${PERIODS}) q
        on q.organization_id = p.organization_id and q.external_id = p.external_id
        and (q.attached_at, q.entity_id) > (p.attached_at, p.entity_id)
      where p.detached_at is null or q.attached_at < p.detached_at`),
    "rule 140: no two periods of an external id overlap",
  ).toEqual([]);
  expect(
    await sql(`
      select x.external_id from external_id x join entity e on e.organization_id = x.organization_id and e.id = x.entity_id
      where (x.is_primary, x.tracked_since is null, coalesce(x.last_resolved_on::text, '')) is distinct from (
        select ((c ->> 2)::boolean, c ->> 4 is null, coalesce(c ->> 5, '')) from jsonb_array_elements(e.external_ids) c
        where c ->> 0 = x.external_id and x.tracked_since is not distinct from (c ->> 4)::timestamptz
          and x.attached_at = (c ->> 3)::timestamptz)`),
    "the entity's copy says of an external id when it was attached, since when it is tracked and when it was last resolved",
  ).toEqual([]);
  expect(await differences(sql), "rule 140: the periods are those that the events tell").toEqual([]);
}

/** What the events of each entity tell of its external ids, against the tables. Entities whose log was pruned are left out. */
async function differences(sql: Sql): Promise<string[]> {
  const events = await sql(`
    select organization_id, entity_id, id, entity_version = 1 as is_first, ${TIME("recorded_at")} as recorded_at,
      'externalIds' = any(updated_fields) as has_ids, new_values -> 'externalIds' as ids
    from entity_event order by organization_id, entity_id, entity_version`);
  const told: Period[] = [];
  const open = new Map<string, Map<string, Period>>();
  for (const event of events) {
    const entityId = event.entity_id as string;
    if (event.is_first) open.set(entityId, new Map());
    const its = open.get(entityId);
    if (its === undefined || !event.has_ids) continue;
    const recordedAt = event.recorded_at as string;
    const ids = (event.ids ?? []) as { externalId: string; type?: string; attachedAt: string }[];
    const now = new Map(ids.map((id) => [id.externalId, id]));
    for (const period of its.values()) {
      if (now.has(period.externalId)) continue;
      told.push({ ...period, detachedAt: recordedAt, eventId: event.id as string });
      its.delete(period.externalId);
    }
    for (const { externalId, type = null } of now.values()) {
      its.set(externalId, {
        ...{ organizationId: event.organization_id as string, externalId, entityId, type },
        ...{ attachedAt: its.get(externalId)?.attachedAt ?? recordedAt, detachedAt: null, eventId: null },
      });
    }
  }
  for (const its of open.values()) told.push(...its.values());
  const stored = (await sql(PERIODS))
    .filter((row) => open.has(row.entity_id as string))
    .map((row) => ({
      ...{ organizationId: row.organization_id, externalId: row.external_id, entityId: row.entity_id, type: row.type },
      ...{ attachedAt: row.attached_at, detachedAt: row.detached_at, eventId: row.event_id },
    }));
  const texts = (periods: object[]) => new Set(periods.map((period) => JSON.stringify(period)));
  const [inEvents, inTables] = [texts(told), texts(stored)];
  return [
    ...[...inEvents.difference(inTables)].map((period) => `only in the events: ${period}`),
    ...[...inTables.difference(inEvents)].map((period) => `only in the tables: ${period}`),
  ];
}
