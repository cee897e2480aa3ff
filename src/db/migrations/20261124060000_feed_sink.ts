// What publishes the whole log elsewhere: where it is, who does it, and the two functions that read all organizations.
import { Migration } from "@mikro-orm/migrations";

const SIGNATURES = [
  "read_log(int, xid8, xid8, xid8[], xid8[], int)",
  "log_times(int, xid8, xid8, xid8[], xid8[], uuid, int, int)",
];

export class FeedSink extends Migration {
  override name = "20261124060000_feed_sink";

  override up(): void {
    // A row for each that the log is published to, of nobody's data: all up to the position has arrived there.
    // Of several processes the holder publishes, until its time is over.
    this.addSql(`
      create table feed_sink (
        name text primary key,
        position text,
        holder uuid,
        held_until timestamptz not null default '-infinity'
      )`);
    this.addSql(`grant select, insert, update on feed_sink to entity_service`);

    this.addSql(`create policy directory on entity_event for select to entity_directory using (true)`);
    this.addSql(`grant select on entity_event to entity_directory`);

    // Both ask the log of one organization after the other, by the indexes that its own readers have: one more
    // index, over all of them, would be paid for by every write of those who publish nothing.
    // What the transactions from one up to another wrote, but for the running; and what the late wrote.
    this.addSql(`
      create function read_log(of_epoch int, from_xid xid8, to_xid xid8, running xid8[], late xid8[], page_size int)
      returns setof public.entity_event
      language plpgsql stable security definer set search_path = pg_catalog, pg_temp
      as $$
      begin
        return query
          select v.* from public.organization o cross join lateral (
            select * from public.entity_event e
            where e.organization_id = o.organization_id and e.epoch = of_epoch
              and e.xid >= from_xid and e.xid < to_xid and e.xid <> all (running)
            order by e.xid limit page_size
          ) v limit page_size;
        if cardinality(late) > 0 then
          return query
            select v.* from public.organization o cross join lateral (
              select * from public.entity_event e
              where e.organization_id = o.organization_id and e.epoch = of_epoch and e.xid = any (late)
              order by e.xid limit page_size
            ) v limit page_size;
        end if;
      end $$`);
    // Which organizations have something of that, behind one of them, and how many rows, up to scan_rows twice; the
    // first time is that of all where there are fewer.
    this.addSql(`
      create function log_times(of_epoch int, from_xid xid8, to_xid xid8, running xid8[], late xid8[],
        after_organization uuid, page_size int, scan_rows int)
      returns table (organization_id uuid, first timestamptz, events bigint)
      language plpgsql stable security definer set search_path = pg_catalog, pg_temp
      as $$
      begin
        return query
          select o.organization_id, t.first, t.events from public.organization o cross join lateral (
            select min(s.recorded_at) as first, count(*) as events from (
              (select e.recorded_at from public.entity_event e
               where e.organization_id = o.organization_id and e.epoch = of_epoch
                 and e.xid >= from_xid and e.xid < to_xid and e.xid <> all (running)
               order by e.xid limit scan_rows)
              union all
              (select e.recorded_at from public.entity_event e
               where e.organization_id = o.organization_id and e.epoch = of_epoch and e.xid = any (late)
               order by e.xid limit scan_rows)
            ) s
          ) t
          where o.organization_id > after_organization and t.events > 0
          order by o.organization_id limit page_size;
      end $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    for (const signature of SIGNATURES) {
      this.addSql(`revoke all on function ${signature} from public`);
      this.addSql(`grant execute on function ${signature} to entity_service`);
      this.addSql(`alter function ${signature} owner to entity_directory`);
    }
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
