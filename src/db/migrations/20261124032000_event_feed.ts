// The log becomes a feed: each event knows its transaction and its epoch, so that positions can be snapshots.
import { Migration } from "@mikro-orm/migrations";

export class EventFeed extends Migration {
  override name = "20261124032000_event_feed";

  override up(): void {
    // The transaction that wrote the event; not the row's xmin, which inside a savepoint is another and which
    // a restore replaces. 0, that of the events that are there, is older than every position.
    this.addSql(`alter table entity_event add column xid xid8 not null default '0'`);
    this.addSql(`alter table entity_event alter column xid set default pg_current_xact_id()`);

    // Transaction ids mean something in the cluster that gave them alone. An event carries the number of the
    // epoch that it was written in; those of an older one are before every position of the present one. The
    // number is the column's default, so that no writer has to know it or could have read it too early.
    this.addSql(`alter table entity_event add column epoch int not null default 1`);
    // One row. The id, unlike the number, never comes twice: a dump may be restored twice.
    this.addSql(`create table feed_epoch (number int not null, id uuid not null, cluster text not null)`);
    this.addSql(`grant select on feed_epoch to entity_service`);

    // What is another after a restore: the cluster (a dump in a new one, pg_upgrade), the timeline (a physical
    // restore to a point in time and a promoted replica, which may both lack transactions that somebody has
    // seen), the database (a dump beside the old one), the table (a dump in its place).
    this.addSql(`
      create function feed_cluster() returns text
      language sql volatile set search_path = pg_catalog, pg_temp
      as $$
        select concat_ws('/', c.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), d.oid,
          'public.entity_event'::regclass::oid)
        from pg_control_system() c, pg_database d where d.datname = current_database()
      $$`);
    this.addSql(`insert into feed_epoch select 1, gen_random_uuid(), feed_cluster()`);
    // Changes something only where the cluster has changed. It needs the owner's rights for the default, which
    // it changes behind the last writer of the old epoch: alter table waits for them, and then they for it.
    this.addSql(`
      create function move_feed_epoch() returns void
      language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
      as $$
      declare
        here text := public.feed_cluster();
        next int;
      begin
        if exists (select from public.feed_epoch where cluster = here) then return; end if;
        update public.feed_epoch set number = number + 1, id = gen_random_uuid(), cluster = here
        where cluster <> here returning number into next;
        if next is not null then
          execute format('alter table public.entity_event alter column epoch set default %s', next);
        end if;
      end $$`);
    for (const signature of ["feed_cluster()", "move_feed_epoch()"]) {
      this.addSql(`revoke all on function ${signature} from public`);
      this.addSql(`grant execute on function ${signature} to entity_service`);
    }

    // Full, and beginning with organization_id, which the first migration warns of: nothing looks this table up
    // by its primary key, and no foreign key refers to it.
    this.addSql(`create index entity_event_feed on entity_event (organization_id, epoch, xid)`);
  }
}
