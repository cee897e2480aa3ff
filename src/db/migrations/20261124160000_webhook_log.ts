// What became of webhooks is forgotten by age, as request ids are.
import { Migration } from "@mikro-orm/migrations";

/** The lock of whoever prunes: arbitrary, and beside those of retention. */
const DELIVERIES_LOCK = 7_216_354_874;

export class WebhookLog extends Migration {
  override name = "20261124160000_webhook_log";

  override up(): void {
    // By time alone, like that of request ids.
    this.addSql(`
      create index webhook_delivery_finished on webhook_delivery (finished_at, organization_id)
      where finished_at is not null`);

    // What is pending has no finished_at; and a day is left to whoever asks what was sent, whatever a function says.
    this.addSql(`
      create policy retention on webhook_delivery for delete to entity_directory
      using (finished_at < clock_timestamp() - interval '24 hours')`);
    this.addSql(`grant select, delete on webhook_delivery to entity_directory`);
    this.addSql(`
      create function prune_webhook_deliveries(at_most int, days int) returns table (organization_id uuid, pruned bigint)
      language plpgsql volatile strict security definer set search_path = pg_catalog, pg_temp
      as $$
      #variable_conflict use_column
      begin
        if not pg_try_advisory_xact_lock(${DELIVERIES_LOCK}) then return; end if;
        return query
          with old as (
            delete from public.webhook_delivery w where w.ctid = any (array(
              select s.ctid from public.webhook_delivery s
              where s.finished_at < now() - interval '24 hours' * days order by s.finished_at limit at_most))
            returning w.organization_id)
          select o.organization_id, count(*) from old o group by 1;
      end $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    this.addSql(`revoke all on function prune_webhook_deliveries(int, int) from public`);
    this.addSql(`grant execute on function prune_webhook_deliveries(int, int) to entity_service`);
    this.addSql(`alter function prune_webhook_deliveries(int, int) owner to entity_directory`);
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
