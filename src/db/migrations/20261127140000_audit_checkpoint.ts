// What the log of an organization was, written down again and again and signed, so that nobody can change or remove what a
// checkpoint lists without being noticed. src/domain/checkpoint.ts says what is in one.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

/** The lock of whoever prunes leaves: arbitrary, and beside those of retention. */
const LEAVES_LOCK = 7_216_354_875;

export class AuditCheckpoint extends Migration {
  override name = "20261127140000_audit_checkpoint";

  override up(): void {
    // A checkpoint lists the events of one epoch that to_position sees and from_position does not. body is the text that is
    // signed: all of the other columns but the leaves, which are its events in 64 bytes each. They are null once the
    // events are pruned; all else stays.
    this.addSql(`
      create table audit_checkpoint (
        organization_id uuid not null references organization,
        number bigint not null,
        epoch int not null,
        from_position pg_snapshot not null,
        to_position pg_snapshot not null,
        count bigint not null check (count > 0),
        total bigint not null,
        first_at timestamptz not null,
        last_at timestamptz not null,
        horizon timestamptz,
        root bytea not null,
        previous_hash bytea not null,
        key_id bytea,
        created_at timestamptz not null,
        body text not null,
        signature bytea,
        leaves bytea,
        primary key (organization_id, number),
        check ((key_id is null) = (signature is null))
      )`);
    // Ids and hashes cannot be compressed.
    this.addSql(`alter table audit_checkpoint alter column leaves set storage external`);
    this.addSql(`
      create index audit_checkpoint_leaves on audit_checkpoint (organization_id, last_at) where leaves is not null`);
    this.addSql(`alter table audit_checkpoint enable row level security`);
    this.addSql(`alter table audit_checkpoint force row level security`);
    this.addSql(`create policy tenant on audit_checkpoint to entity_service using (${TENANT}) with check (${TENANT})`);
    this.addSql(`grant select, insert on audit_checkpoint to entity_service`);

    // The public halves of the keys that have signed, of nobody's data: one key signs for all organizations.
    this.addSql(`
      create table audit_key (
        key_id bytea constraint audit_key_pkey primary key,
        public_key bytea not null,
        first_used_at timestamptz not null default clock_timestamp()
      )`);
    this.addSql(`grant select, insert on audit_key to entity_service`);

    // One row: where checkpoints begin. Whatever was committed before has no seal, and is in none.
    this.addSql(`create table audit_start (epoch int not null, position pg_snapshot not null)`);
    this.addSql(`insert into audit_start select number, pg_current_snapshot() from feed_epoch`);
    this.addSql(`grant select on audit_start to entity_service, entity_directory`);

    this.addSql(`create policy backup on audit_checkpoint for select to entity_backup using (true)`);
    this.addSql(`grant select on audit_checkpoint, audit_key, audit_start to entity_backup`);

    // The functions see where each checkpoint ends, and whether it has leaves; they may remove these, where the
    // organization's policy says that the events are old, and change nothing else.
    this.addSql(`create policy directory on audit_checkpoint for select to entity_directory using (true)`);
    this.addSql(`
      create policy retention on audit_checkpoint for update to entity_directory
      using (last_at < clock_timestamp() - interval '24 hours' * (
        select o.event_retention_days from organization o where o.organization_id = audit_checkpoint.organization_id))
      with check (leaves is null)`);
    this.addSql(`
      grant select (organization_id, number, epoch, to_position, created_at, last_at, leaves), update (leaves)
      on audit_checkpoint to entity_directory`);

    // Which organizations have events behind their last checkpoint: those whose last one is old enough (without one, whose
    // first event is), and those that have many. In the order of the index of the feed, as its other readers; those whose
    // last one is oldest first.
    this.addSql(`
      create function list_audit_work(every interval, many int, page_size int) returns table (organization_id uuid)
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select o.organization_id
        from public.organization o
        cross join public.audit_start s
        left join lateral (
          select c.epoch, c.to_position, c.created_at from public.audit_checkpoint c
          where c.organization_id = o.organization_id order by c.number desc limit 1
        ) c on true
        cross join lateral (
          select coalesce(c.epoch, s.epoch) as epoch, coalesce(c.to_position, s.position) as position
        ) p
        where case
          when c.created_at > statement_timestamp() - every then false
          else statement_timestamp() - every >= coalesce(
            (select coalesce(c.created_at, e.recorded_at) from public.entity_event e
             where e.organization_id = o.organization_id and e.epoch = p.epoch and e.xid >= pg_snapshot_xmax(p.position)
             order by e.xid limit 1),
            (select coalesce(c.created_at, e.recorded_at) from public.entity_event e
             where e.organization_id = o.organization_id and e.epoch = p.epoch
               and e.xid = any (array(select pg_snapshot_xip(p.position))) order by e.xid limit 1),
            (select coalesce(c.created_at, e.recorded_at) from public.entity_event e
             where e.organization_id = o.organization_id and e.epoch > p.epoch order by e.epoch, e.xid limit 1))
          end
          or (select true from public.entity_event e
            where e.organization_id = o.organization_id and e.epoch = p.epoch and e.xid >= pg_snapshot_xmax(p.position)
            order by e.xid offset many - 1 limit 1)
        order by c.created_at nulls first limit page_size
      $$`);
    // An event that is older than the last of a checkpoint is still there: so may be one of the checkpoint's own.
    this.addSql(`
      create function prune_checkpoint_leaves(at_most int) returns table (organization_id uuid, pruned bigint)
      language plpgsql volatile strict security definer set search_path = pg_catalog, pg_temp
      as $$
      #variable_conflict use_column
      declare
        one record;
        remaining int := at_most;
        gone bigint;
      begin
        if not pg_try_advisory_xact_lock(${LEAVES_LOCK}) then return; end if;
        for one in
          select h.organization_id as id, h.recorded_at as horizon, (
            select e.recorded_at from public.entity_event e where e.organization_id = h.organization_id
            order by e.recorded_at, e.id limit 1) as oldest
          from public.event_horizon h
        loop
          exit when remaining <= 0;
          with old as (
            update public.audit_checkpoint c set leaves = null
            where c.organization_id = one.id and c.leaves is not null and c.number = any (array(
              select s.number from public.audit_checkpoint s
              where s.organization_id = one.id and s.leaves is not null and s.last_at <= one.horizon
                and (one.oldest is null or s.last_at < one.oldest)
              order by s.last_at limit remaining))
            returning 1)
          select count(*) into gone from old;
          if gone > 0 then
            remaining := remaining - gone;
            organization_id := one.id;
            pruned := gone;
            return next;
          end if;
        end loop;
      end $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    for (const signature of ["list_audit_work(interval, int, int)", "prune_checkpoint_leaves(int)"]) {
      this.addSql(`revoke all on function ${signature} from public`);
      this.addSql(`grant execute on function ${signature} to entity_service`);
      this.addSql(`alter function ${signature} owner to entity_directory`);
    }
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
