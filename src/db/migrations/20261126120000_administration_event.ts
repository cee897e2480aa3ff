// Who administered what, and how it was before: written in the transaction of the change, and by no role of the
// service ever changed or deleted.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

export class AdministrationEvents extends Migration {
  override name = "20261126120000_administration_event";

  override up(): void {
    this.addSql(`
      create table administration_event (
        organization_id uuid not null references organization,
        id uuid not null,
        type text collate "C" not null,
        subject_id uuid not null,
        previous_values jsonb not null,
        new_values jsonb not null,
        actor text not null,
        principal uuid not null,
        source text not null,
        request_id uuid,
        call_id uuid,
        peer text,
        recorded_at timestamptz not null default clock_timestamp(),
        primary key (organization_id, id)
      )`);
    this.addSql(
      `create index administration_event_recorded on administration_event (organization_id, recorded_at, id)`,
    );
    this.addSql(`alter table administration_event enable row level security`);
    this.addSql(`alter table administration_event force row level security`);
    this.addSql(
      `create policy tenant on administration_event to entity_service using (${TENANT}) with check (${TENANT})`,
    );
    this.addSql(`grant select, insert on administration_event to entity_service`);
  }
}
