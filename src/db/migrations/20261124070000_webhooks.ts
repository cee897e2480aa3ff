// Where events are sent, and what became of each that was.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

export class Webhooks extends Migration {
  override name = "20261124070000_webhooks";

  override up(): void {
    // position is how far the log has become deliveries; position_epoch, position_xmax and position_running repeat
    // its snapshot, which tells cheaply whether there is more, position_at the time up to which nothing is missing whatever becomes of
    // it. catch_up_* is the way through the log by time after a position has expired. lease_* says which process
    // sends, by the database's time. deleted_at: hidden, until its deliveries are gone.
    this.addSql(`
      create table webhook_endpoint (
        organization_id uuid not null references organization,
        id uuid not null,
        url text not null,
        display_name text not null,
        description text not null default '',
        event_types text[] not null,
        entity_types text[] not null,
        status_changes text not null check (status_changes in ('ALONE', 'ALWAYS')),
        state text not null check (state in ('ENABLED', 'DISABLED')),
        disabled_reason text check (disabled_reason in ('REQUESTED', 'GONE', 'FAILING')),
        disabled_at timestamptz,
        secret text not null,
        previous_secret text,
        previous_secret_expires_at timestamptz,
        etag uuid not null,
        created_at timestamptz not null default clock_timestamp(),
        updated_at timestamptz not null default clock_timestamp(),
        deleted_at timestamptz,
        position text not null,
        position_epoch uuid not null,
        position_xmax xid8 not null,
        position_running xid8[] not null,
        position_at timestamptz not null default clock_timestamp(),
        catch_up_at timestamptz,
        catch_up_id uuid,
        catch_up_until timestamptz,
        failures int not null default 0,
        failing_since timestamptz,
        paused_until timestamptz,
        lease_holder uuid,
        lease_until timestamptz,
        primary key (organization_id, id),
        check ((state = 'DISABLED') = (disabled_reason is not null)),
        check ((state = 'DISABLED') = (disabled_at is not null)),
        check ((previous_secret is null) = (previous_secret_expires_at is null)),
        check ((catch_up_at is null) = (catch_up_id is null) and (catch_up_at is null) = (catch_up_until is null))
      )`);

    // The id is made of endpoint, event and name: an event that comes again is the same delivery. subject_id is
    // what the order is kept for: the entity. One delivery of a subject at a time is on its way and has a
    // next_attempt_at; the others of it that are pending wait. payload: of events that are not in entity_event.
    this.addSql(`
      create table webhook_delivery (
        organization_id uuid not null,
        id uuid not null,
        endpoint_id uuid not null,
        event_id uuid not null,
        event text not null,
        rank smallint not null,
        subject_id uuid not null,
        entity_version bigint not null,
        recorded_at timestamptz not null,
        payload jsonb,
        state text not null check (state in ('PENDING', 'DELIVERED', 'FAILED')),
        attempt_count int not null default 0,
        attempts jsonb not null default '[]',
        first_attempt_at timestamptz,
        next_attempt_at timestamptz,
        created_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz,
        primary key (organization_id, id),
        check (state = 'PENDING' or next_attempt_at is null),
        check ((state = 'PENDING') = (finished_at is null))
      )`);
    // Those on their way, one of a subject; and by when they are due.
    this.addSql(`
      create unique index webhook_delivery_head on webhook_delivery (organization_id, endpoint_id, subject_id)
      where state = 'PENDING' and next_attempt_at is not null`);
    this.addSql(`
      create index webhook_delivery_due on webhook_delivery (endpoint_id, next_attempt_at, organization_id)
      where state = 'PENDING' and next_attempt_at is not null`);
    // Who is next of a subject.
    this.addSql(`
      create index webhook_delivery_queue on webhook_delivery (endpoint_id, subject_id, entity_version, rank, organization_id)
      where state = 'PENDING'`);
    // What callers list.
    this.addSql(
      `create index webhook_delivery_recorded on webhook_delivery (endpoint_id, recorded_at, id, organization_id)`,
    );
    this.addSql(`
      create index webhook_delivery_failed on webhook_delivery (endpoint_id, recorded_at, id, organization_id)
      where state = 'FAILED'`);
    this.addSql(
      `create index webhook_delivery_subject on webhook_delivery (subject_id, recorded_at, id, organization_id)`,
    );

    const grants: Record<string, string> = {
      webhook_endpoint: "select, insert, update, delete",
      webhook_delivery: "select, insert, update, delete",
    };
    for (const [table, privileges] of Object.entries(grants)) {
      this.addSql(`alter table ${table} enable row level security`);
      this.addSql(`alter table ${table} force row level security`);
      this.addSql(`create policy tenant on ${table} to entity_service using (${TENANT}) with check (${TENANT})`);
      this.addSql(`grant ${privileges} on ${table} to entity_service`);
    }

    // Which endpoints have work that `holder` may do, across organizations: ids alone. `ahead` is how far the
    // schedule's clock is before the database's. Of the log it sees which organization has events of what
    // transaction, of deliveries when each is due, of endpoints no secret and no URL.
    this.addSql(`
      grant select (organization_id, endpoint_id, state, next_attempt_at) on webhook_delivery to entity_directory`);
    this.addSql(`
      grant select (organization_id, id, state, deleted_at, position_epoch, position_xmax, position_running, catch_up_at, paused_until,
        lease_holder, lease_until) on webhook_endpoint to entity_directory`);
    this.addSql(`grant select (number, id) on feed_epoch to entity_directory`);
    for (const table of ["webhook_delivery", "webhook_endpoint"]) {
      this.addSql(`create policy directory on ${table} for select to entity_directory using (true)`);
    }
    // In the order of the indexes: the planner thinks that some row is always near, and would read on from anywhere.
    this.addSql(`
      create function list_webhook_work(holder uuid, ahead interval, page_size int)
      returns table (organization_id uuid, endpoint_id uuid)
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select e.organization_id, e.id
        from public.webhook_endpoint e cross join public.feed_epoch f
        where (e.lease_holder = holder or e.lease_until is null or e.lease_until <= statement_timestamp())
          and (e.deleted_at is not null
            or e.state = 'ENABLED' and (e.paused_until is null or e.paused_until <= statement_timestamp() + ahead)
              and (e.catch_up_at is not null or e.position_epoch <> f.id
                or (select true from public.entity_event v
                  where v.organization_id = e.organization_id and v.epoch = f.number and v.xid >= e.position_xmax
                  order by v.xid limit 1)
                or (select true from public.entity_event v
                  where v.organization_id = e.organization_id and v.epoch = f.number
                    and v.xid = any(e.position_running) order by v.xid limit 1)
                or (select true from public.webhook_delivery d
                  where d.endpoint_id = e.id and d.organization_id = e.organization_id and d.state = 'PENDING'
                    and d.next_attempt_at <= statement_timestamp() + ahead
                  order by d.next_attempt_at limit 1)))
        order by e.lease_until nulls first limit page_size
      $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    this.addSql(`revoke all on function list_webhook_work(uuid, interval, int) from public`);
    this.addSql(`grant execute on function list_webhook_work(uuid, interval, int) to entity_service`);
    this.addSql(`alter function list_webhook_work(uuid, interval, int) owner to entity_directory`);
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
