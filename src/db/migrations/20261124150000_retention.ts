// What is old goes: the events of an organization whose policy says so, and the request ids of yesterday. Each by
// one function, which decides itself what may go: whoever calls it says only how much at once.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

/** Advisory locks of whoever prunes; of the first src/db/retention.ts has the same number. */
const EVENTS_LOCK = 7_216_354_872;
const REQUESTS_LOCK = 7_216_354_873;

export class Retention extends Migration {
  override name = "20261124150000_retention";

  override up(): void {
    this.addSql(`
      alter table organization add column event_retention_days int
        constraint organization_event_retention_days check (event_retention_days between 7 and 36500)`);

    // How far the log of an organization was pruned, one row where it ever was: events up to this transaction, of
    // those that the snapshot sees, and up to this time. Not the highest transaction alone, behind which one that
    // was running all the while may still write.
    this.addSql(`
      create table event_horizon (
        organization_id uuid primary key references organization,
        epoch int not null,
        xid xid8 not null,
        snapshot pg_snapshot not null,
        recorded_at timestamptz not null
      )`);
    this.addSql(`alter table event_horizon enable row level security`);
    this.addSql(`alter table event_horizon force row level security`);
    this.addSql(`create policy tenant on event_horizon to entity_service using (${TENANT}) with check (${TENANT})`);
    this.addSql(`grant select on event_horizon to entity_service`);

    // By time alone, since organizations do not matter here; beginning with organization_id it could be mistaken
    // for the primary key, as the first migration says.
    this.addSql(`create index request_record_created on request_record (created_at, organization_id)`);

    // The functions' owner, which nobody is and nobody can become, may delete what is old and nothing else, whatever
    // a function says. (clock_timestamp() is no condition of an index: the rows are found by the functions.)
    this.addSql(`
      create policy retention on entity_event for delete to entity_directory
      using (recorded_at < clock_timestamp() - interval '24 hours' * (
        select o.event_retention_days from organization o where o.organization_id = entity_event.organization_id))`);
    this.addSql(`create policy retention on event_horizon to entity_directory using (true) with check (true)`);
    this.addSql(`create policy directory on request_record for select to entity_directory using (true)`);
    this.addSql(`
      create policy retention on request_record for delete to entity_directory
      using (created_at < clock_timestamp() - interval '24 hours')`);
    this.addSql(`grant select, delete on entity_event, request_record to entity_directory`);
    this.addSql(`grant select, insert, update on event_horizon to entity_directory`);

    // One at a time: the snapshots of horizons follow one another, and who changes a policy waits for the end of
    // what was begun under the old one. Organizations in no order, so that none waits for all of another's. First
    // from the horizon on, for what was removed before it is in the index until the next vacuum, and to pass over
    // a million of those takes far longer than the step; then whatever is older than that after all.
    this.addSql(`
      create function prune_events(at_most int) returns table (organization_id uuid, pruned bigint)
      language plpgsql volatile strict security definer set search_path = pg_catalog, pg_temp
      as $$
      #variable_conflict use_column
      declare
        one record;
        gone record;
        remaining int := at_most;
      begin
        if not pg_try_advisory_xact_lock(${EVENTS_LOCK}) then return; end if;
        for one in
          select o.organization_id as id, now() - interval '24 hours' * o.event_retention_days as before,
            case part when 1 then coalesce(h.recorded_at, '-infinity') else '-infinity' end as since
          from public.organization o
          left join public.event_horizon h on h.organization_id = o.organization_id
          cross join (values (1), (2)) as parts(part)
          where o.event_retention_days is not null and (part = 1 or h.organization_id is not null)
          order by part, random()
        loop
          exit when remaining <= 0;
          with old as (
            delete from public.entity_event v where v.ctid = any (array(
              select e.ctid from public.entity_event e
              where e.organization_id = one.id and e.recorded_at >= one.since and e.recorded_at < one.before
              order by e.recorded_at, e.id limit remaining))
            returning v.epoch, v.xid, v.recorded_at)
          select count(*) as rows, max(epoch) as epoch, max(recorded_at) as recorded_at,
            max(xid) filter (where epoch = (select max(epoch) from old)) as xid
          into gone from old;
          if gone.rows > 0 then
            insert into public.event_horizon as h (organization_id, epoch, xid, snapshot, recorded_at)
            values (one.id, gone.epoch, gone.xid, pg_current_snapshot(), gone.recorded_at)
            on conflict on constraint event_horizon_pkey do update set
              epoch = greatest(h.epoch, excluded.epoch),
              xid = case when h.epoch = excluded.epoch then greatest(h.xid, excluded.xid)
                when h.epoch < excluded.epoch then excluded.xid else h.xid end,
              snapshot = excluded.snapshot,
              recorded_at = greatest(h.recorded_at, excluded.recorded_at);
            remaining := remaining - gone.rows;
            organization_id := one.id;
            pruned := gone.rows;
            return next;
          end if;
        end loop;
      end $$`);
    // Rule 39 promises 24 hours. A record that is claimed anew meanwhile is young again, and the policy keeps it.
    this.addSql(`
      create function prune_request_records(at_most int) returns table (organization_id uuid, pruned bigint)
      language plpgsql volatile strict security definer set search_path = pg_catalog, pg_temp
      as $$
      #variable_conflict use_column
      begin
        if not pg_try_advisory_xact_lock(${REQUESTS_LOCK}) then return; end if;
        return query
          with old as (
            delete from public.request_record r where r.ctid = any (array(
              select s.ctid from public.request_record s
              where s.created_at < now() - interval '24 hours' order by s.created_at limit at_most))
            returning r.organization_id)
          select o.organization_id, count(*) from old o group by 1;
      end $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    for (const signature of ["prune_events(int)", "prune_request_records(int)"]) {
      this.addSql(`revoke all on function ${signature} from public`);
      this.addSql(`grant execute on function ${signature} to entity_service`);
      this.addSql(`alter function ${signature} owner to entity_directory`);
    }
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
