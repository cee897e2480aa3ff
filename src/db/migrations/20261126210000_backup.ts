// Who may copy everything without being a superuser; and the log of all organizations is read only where it is published.
import { Migration } from "@mikro-orm/migrations";

const TENANT_TABLES = [
  ...["organization", "api_key", "entity", "external_id", "entity_event", "event_horizon", "transaction", "user_event"],
  ...["request_record", "webhook_endpoint", "webhook_delivery", "administration_event"],
];
const OTHER_TABLES = ["feed_epoch", "feed_start", "feed_mark", "feed_sink", "schema_migration"];

const PUBLISHING = [
  "read_log(int, xid8, xid8, xid8[], xid8[], int)",
  "log_times(int, xid8, xid8, xid8[], xid8[], uuid, int, int)",
];

export class Backup extends Migration {
  override name = "20261126210000_backup";

  override up(): void {
    // Like the other roles it belongs to the cluster: another database of it may have made it.
    this.addSql(`
      do $$
      begin
        if not exists (select from pg_roles where rolname = 'entity_backup') then
          begin
            create role entity_backup nologin nosuperuser nobypassrls nocreatedb nocreaterole;
          exception when duplicate_object or unique_violation then null;
          end;
        end if;
      end $$`);
    this.addSql(`grant usage on schema public to entity_backup`);
    for (const table of TENANT_TABLES) {
      this.addSql(`create policy backup on ${table} for select to entity_backup using (true)`);
    }
    this.addSql(`grant select on ${[...TENANT_TABLES, ...OTHER_TABLES].join(", ")} to entity_backup`);
    this.addSql(`grant select on all sequences in schema public to entity_backup`);

    // src/db/roles.ts grants it again where NATS_URL is set.
    this.addSql(`grant entity_directory to current_user`);
    for (const signature of PUBLISHING) this.addSql(`revoke execute on function ${signature} from entity_service`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
