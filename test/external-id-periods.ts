// Rule 140, of every database after its tests: the table of the present and that of the past tell together which entity
// had an external id when, and tell nothing that the log does not.

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

/** What is wrong with the periods of external ids, and with the copies of those that go on. */
export async function externalIdProblems(sql: Sql): Promise<string[]> {
  const periods = (await sql(PERIODS)).map(toPeriod);
  // One after the other, each that goes on last.
  const ordered = periods.toSorted((p, q) => (keyOf(p) < keyOf(q) ? -1 : 1));
  const overlaps = ordered.flatMap((next, i) => {
    const before = ordered[i - 1];
    const isSame = before?.organizationId === next.organizationId && before.externalId === next.externalId;
    const isOver = before !== undefined && before.detachedAt !== null && before.detachedAt <= next.attachedAt;
    return isSame && !isOver ? [`${next.externalId} is ${before?.entityId}'s and ${next.entityId}'s at once`] : [];
  });
  const copies = await sql(`
    select x.external_id from external_id x join entity e on e.organization_id = x.organization_id and e.id = x.entity_id
    where not exists (select from jsonb_array_elements(e.external_ids) c
      where c ->> 0 = x.external_id and (c ->> 2)::boolean = x.is_primary and (c ->> 3)::timestamptz = x.attached_at
        and (c ->> 4)::timestamptz is not distinct from x.tracked_since
        and (c ->> 5)::date is not distinct from x.last_resolved_on
        and (c ->> 6)::uuid is not distinct from x.home_id)
      or x.is_primary <> (x.tracked_since is null) or x.is_primary and x.last_resolved_on is not null`);
  return [
    ...overlaps,
    ...copies.map((row) => `${row.external_id}: its entity's copy has other times, or a primary is tracked`),
    ...(await differences(sql, periods)),
  ];
}

const keyOf = ({ organizationId, externalId, attachedAt, detachedAt }: Period) =>
  JSON.stringify([organizationId, externalId, attachedAt, detachedAt ?? "z"]);

const toPeriod = (row: Record<string, unknown>): Period => ({
  organizationId: row.organization_id as string,
  externalId: row.external_id as string,
  entityId: row.entity_id as string,
  type: row.type as string | null,
  attachedAt: row.attached_at as string,
  detachedAt: row.detached_at as string | null,
  eventId: row.event_id as string | null,
});

/** What the events of each entity tell, against the tables. Entities whose first events were pruned are left out. */
async function differences(sql: Sql, periods: readonly Period[]): Promise<string[]> {
  const events = await sql(`
    select organization_id, entity_id, id, entity_version = 1 as is_first, ${TIME("recorded_at")} as recorded_at,
      new_values -> 'externalIds' as ids
    from entity_event where entity_version = 1 or 'externalIds' = any(updated_fields)
    order by organization_id, entity_id, entity_version`);
  const told: Period[] = [];
  const open = new Map<string, Map<string, Period>>();
  for (const event of events) {
    const [organizationId, entityId] = [event.organization_id as string, event.entity_id as string];
    if (event.is_first) open.set(entityId, new Map());
    const its = open.get(entityId);
    if (its === undefined) continue;
    const recordedAt = event.recorded_at as string;
    const now = new Map(
      ((event.ids ?? []) as { externalId: string; type?: string }[]).map(({ externalId, type }) => [externalId, type]),
    );
    for (const period of its.values()) {
      if (now.has(period.externalId)) continue;
      told.push({ ...period, detachedAt: recordedAt, eventId: event.id as string });
      its.delete(period.externalId);
    }
    for (const [externalId, type = null] of now) {
      const attachedAt = its.get(externalId)?.attachedAt ?? recordedAt;
      its.set(externalId, { organizationId, externalId, entityId, type, attachedAt, detachedAt: null, eventId: null });
    }
  }
  for (const its of open.values()) told.push(...its.values());
  const texts = (all: readonly Period[]) => new Set(all.map((period) => JSON.stringify(period)));
  const [inEvents, inTables] = [texts(told), texts(periods.filter(({ entityId }) => open.has(entityId)))];
  return [
    ...[...inEvents.difference(inTables)].map((period) => `told by the events alone: ${period}`),
    ...[...inTables.difference(inEvents)].map((period) => `in the tables alone: ${period}`),
  ];
}
