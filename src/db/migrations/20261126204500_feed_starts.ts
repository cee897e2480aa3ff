// The feed knows the starts of its cluster, so that a database that went back in time is noticed whatever brought it
// back: docs/positions.md says what rests on this.
import { Migration } from "@mikro-orm/migrations";

const LAST_XID = "last_log_xid(int, xid8, timestamptz)";

export class FeedStarts extends Migration {
  override name = "20261126204500_feed_starts";

  override up(): void {
    // From now on the id is another with every start of the cluster. started_at, database and log tell a reader of the
    // row at little cost that it is not of this start, or not of this log: that of a copy, or of a restored dump. xid is
    // of the transaction that wrote the row. Whoever has a position of before cannot tell what it rests on.
    this.addSql(`
      alter table feed_epoch
        add column started_at timestamptz not null default '-infinity',
        add column database oid not null default 0,
        add column log oid not null default 0,
        add column xid xid8 not null default '0'`);
    this.addSql(`update feed_epoch set id = gen_random_uuid()`);

    // The starts before the present one, as far as this database has seen them: a copy does not know those that
    // came after it was made. xid is of the transaction that began it, next_xid and next_started_at are of the start that
    // followed. Where that one was on another timeline, what had been committed may be lost; then no more is certain than
    // the snapshot of a transaction, certain_xid, that is here.
    this.addSql(`
      create table feed_start (
        id uuid not null constraint feed_start_pkey primary key,
        number int not null,
        xid xid8 not null,
        next_xid xid8 not null,
        next_started_at timestamptz not null,
        certain_xid xid8,
        certain pg_snapshot,
        constraint feed_start_certain check ((certain_xid is null) = (certain is null))
      )`);
    this.addSql(`grant select on feed_start to entity_service`);
    // One row: what had been committed a while ago, in the start of this id.
    this.addSql(`create table feed_mark (start uuid not null, xid xid8 not null, snapshot pg_snapshot not null)`);
    this.addSql(`insert into feed_mark select id, '0', '1:1:' from feed_epoch`);

    // Changes something only where the cluster was started anew, or is another one. One at a time: each finds what the
    // one before it has written. Another number needs the owner's rights for the default, which is changed
    // behind the last writer of the old one: alter table waits for them, and then they for it.
    this.addSql(`
      create or replace function move_feed_epoch() returns void
      language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
      as $$
      declare
        last public.feed_epoch;
        mark public.feed_mark;
        here text := public.feed_cluster();
        began timestamptz := pg_postmaster_start_time();
        own_database oid := (select oid from pg_database where datname = current_database());
        own_log oid := 'public.entity_event'::regclass;
        own_xid xid8;
        is_same_log bool;
        is_same_timeline bool;
        next int;
      begin
        select * into strict last from public.feed_epoch for update;
        if last.cluster = here and last.started_at = began and last.database = own_database and last.log = own_log then
          return;
        end if;
        own_xid := pg_current_xact_id();
        is_same_log := regexp_replace(last.cluster, '^([^/]*)/[^/]*', '\\1') = regexp_replace(here, '^([^/]*)/[^/]*', '\\1');
        is_same_timeline := split_part(last.cluster, '/', 2) = split_part(here, '/', 2);
        next := case when is_same_log then last.number else last.number + 1 end;
        if is_same_log then
          select * into strict mark from public.feed_mark;
          insert into public.feed_start values (last.id, last.number, last.xid, own_xid, began,
            case when is_same_timeline then null when mark.start = last.id then mark.xid else '0' end,
            case when is_same_timeline then null when mark.start = last.id then mark.snapshot else '1:1:' end);
        else
          delete from public.feed_start;
        end if;
        update public.feed_epoch set number = next, id = gen_random_uuid(), cluster = here, started_at = began,
          database = own_database, log = own_log, xid = own_xid;
        if not is_same_log then
          execute format('alter table public.entity_event alter column epoch set default %s', next);
        end if;
        update public.feed_mark set start = (select id from public.feed_epoch), xid = own_xid, snapshot = pg_current_snapshot();
      end $$`);
    // Called by whoever writes to the log in a start that is not yet known: what is written in it must not be taken for
    // what the one before has reached. In another log all positions are expired anyway, and the default cannot be changed by
    // a statement that inserts.
    this.addSql(`
      create function note_feed_start() returns bool
      language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
      as $$
      begin
        if exists (select from public.feed_epoch f
            where regexp_replace(f.cluster, '^([^/]*)/[^/]*', '\\1') = regexp_replace(public.feed_cluster(), '^([^/]*)/[^/]*', '\\1')) then
          perform public.move_feed_epoch();
        end if;
        return true;
      end $$`);
    this.addSql(`revoke all on function note_feed_start() from public`);
    this.addSql(`grant execute on function note_feed_start() to entity_service`);
    // What is committed by now is here from now on, whatever becomes of what is committed later.
    this.addSql(`
      create function mark_feed() returns setof public.feed_mark
      language sql volatile security definer set search_path = pg_catalog, pg_temp
      as $$
        update public.feed_mark set start = f.id, xid = pg_current_xact_id(), snapshot = pg_current_snapshot()
        from public.feed_epoch f where f.started_at = pg_postmaster_start_time() returning feed_mark.*
      $$`);
    this.addSql(`revoke all on function mark_feed() from public`);
    this.addSql(`grant execute on function mark_feed() to entity_service`);

    // The last transaction, of those below one and with events of before a time, that wrote to the log of anybody.
    this.addSql(`
      create function last_log_xid(of_epoch int, below xid8, before timestamptz) returns xid8
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select max(t.xid) from (
          select (
            select e.xid from public.entity_event e
            where e.organization_id = o.organization_id and e.epoch = of_epoch and e.xid < below and e.recorded_at < before
            order by e.xid desc limit 1) as xid
          from public.organization o
          union all
          select h.xid from public.event_horizon h where h.epoch = of_epoch and h.xid < below) t
      $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    this.addSql(`revoke all on function ${LAST_XID} from public`);
    this.addSql(`grant execute on function ${LAST_XID} to entity_service`);
    this.addSql(`alter function ${LAST_XID} owner to entity_directory`);
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
