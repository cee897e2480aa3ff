// The past of external ids: which entity had one, from when to when. And of those of the present that are aliases: since
// when their lookups are recorded, and the day of the last one.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

export class ExternalIdPast extends Migration {
  override name = "20261128120000_external_id_past";

  override up(): void {
    // A row for each time that an id has left an entity; the period that goes on is the row of external_id. No foreign key
    // to the event: retention may remove it. Nothing ever removes a row.
    this.addSql(`
      create table external_id_past (
        organization_id uuid not null,
        external_id text collate "C" not null,
        attached_at timestamptz not null,
        detached_at timestamptz not null,
        entity_id uuid not null,
        type text,
        cause text not null constraint external_id_past_cause check (cause in ('CHANGED', 'RELEASED', 'MERGED', 'UNMERGED', 'MOVED')),
        event_id uuid not null,
        primary key (organization_id, external_id, attached_at),
        constraint external_id_past_entity foreign key (organization_id, entity_id) references entity (organization_id, id),
        constraint external_id_past_period check (attached_at < detached_at)
      )`);
    // Begins with the entity: as the first migration says, the planner could mistake another one for the primary key.
    this.addSql(`
      create index external_id_past_entity on external_id_past (entity_id, attached_at, external_id, organization_id)`);
    this.addSql(`alter table external_id_past enable row level security`);
    this.addSql(`alter table external_id_past force row level security`);
    this.addSql(`create policy tenant on external_id_past to entity_service using (${TENANT}) with check (${TENANT})`);
    this.addSql(`grant select, insert on external_id_past to entity_service`);
    this.addSql(`create policy backup on external_id_past for select to entity_backup using (true)`);
    this.addSql(`grant select on external_id_past to entity_backup`);

    // What the log still tells, once. The owner of the tables is under their wall; the owner of the functions that look
    // across it may read the log, and for this statement may write here.
    this.addSql(`create policy fill on external_id_past for insert to entity_directory with check (true)`);
    this.addSql(`grant insert on external_id_past to entity_directory`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`set local role entity_directory`);
    this.addSql(`
      insert into external_id_past (organization_id, external_id, attached_at, detached_at, entity_id, type, cause, event_id)
      select v.organization_id, p.id ->> 'externalId', (p.id ->> 'attachedAt')::timestamptz, v.recorded_at, v.entity_id,
        p.id ->> 'type', 'CHANGED', v.id
      from entity_event v cross join lateral jsonb_array_elements(
        case jsonb_typeof(v.previous_values -> 'externalIds') when 'array' then v.previous_values -> 'externalIds' end) p(id)
      where v.type = 'EXTERNAL_ID_CHANGED' and (p.id ->> 'attachedAt')::timestamptz < v.recorded_at
        and not coalesce(v.new_values -> 'externalIds', '[]') @> jsonb_build_array(jsonb_build_object('externalId', p.id -> 'externalId'))
      on conflict do nothing`);
    this.addSql(`reset role`);
    this.addSql(`revoke entity_directory from current_user`);
    this.addSql(`revoke insert on external_id_past from entity_directory`);
    this.addSql(`drop policy fill on external_id_past`);

    // Last, since from here on both tables are locked. Null for a primary: its lookups are not recorded. The copy of an
    // alias in its entity has them too, as its fifth and sixth value: what callers read costs no more for it.
    this.addSql(`alter table external_id add column tracked_since timestamptz, add column last_resolved_on date`);
    for (const table of ["external_id", "entity"]) this.addSql(`alter table ${table} no force row level security`);
    this.addSql(`update external_id set tracked_since = now() where not is_primary`);
    this.addSql(`
      update entity e set external_ids = (
        select jsonb_agg(case when (c.id ->> 2)::boolean then c.id else c.id || jsonb_build_array(now()) end order by c.place)
        from jsonb_array_elements(e.external_ids) with ordinality as c(id, place))
      where jsonb_array_length(e.external_ids) > 1`);
    for (const table of ["external_id", "entity"]) this.addSql(`alter table ${table} force row level security`);
  }
}
