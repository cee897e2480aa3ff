// Merges: which entity was merged into which, what each brought, and which two are known to be different.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

export class Merges extends Migration {
  override name = "20261129120000_merges";

  override up(): void {
    // merged_into is a value of the entity, which its events tell. survivor_id follows from it: where the chain of
    // merged_into ends, so that every lookup is one step. layer is what a survivor has by itself, apart from what merged
    // entities have added to it.
    this.addSql(`
      alter table entity
        add column merged_into uuid,
        add column survivor_id uuid,
        add column layer jsonb,
        add constraint entity_merged check ((merged_into is null) = (survivor_id is null)),
        add constraint entity_survives check (survivor_id <> id),
        add constraint entity_merged_into foreign key (organization_id, merged_into) references entity (organization_id, id),
        add constraint entity_survivor foreign key (organization_id, survivor_id) references entity (organization_id, id)`);
    // Partial, as the first migration says of indexes that begin with organization_id.
    this.addSql(`
      create index entity_group on entity (organization_id, survivor_id) where survivor_id is not null`);
    this.addSql(`drop index entity_tax_id_key`);
    this.addSql(`
      create index entity_tax_id_key on entity (organization_id, tax_id_key, id)
      where tax_id_key is not null and deleted_at is null and merged_into is null`);
    this.addSql(`
      create index entity_merged_tax_id_key on entity (organization_id, tax_id_key, survivor_id)
      where tax_id_key is not null and merged_into is not null`);

    // The merged entity that brought the id; null for one of the entity's own.
    this.addSql(`
      alter table external_id
        add column home_id uuid,
        add constraint external_id_home foreign key (organization_id, home_id) references entity (organization_id, id)`);

    // Copies in activity rows are found by the entity whose they are: two that are merged may both have an external id.
    for (const name of ["transaction_origin", "transaction_destination", "user_event"]) {
      this.addSql(`drop index ${name}_external_id`);
    }

    // external_ids are those of the secondary when it was merged. Nothing removes a row.
    this.addSql(`
      create table entity_merge (
        organization_id uuid not null,
        id uuid not null,
        primary_id uuid not null,
        secondary_id uuid not null,
        ordinal int not null check (ordinal > 0),
        external_ids jsonb not null,
        primary_external_id text collate "C",
        reason text not null,
        actor text not null,
        principal uuid not null,
        source text not null,
        request_id uuid,
        merged_at timestamptz not null,
        undone_at timestamptz,
        undone_reason text,
        undone_actor text,
        undone_principal uuid,
        undone_source text,
        primary key (organization_id, id),
        constraint entity_merge_primary foreign key (organization_id, primary_id) references entity (organization_id, id),
        constraint entity_merge_secondary foreign key (organization_id, secondary_id) references entity (organization_id, id),
        constraint entity_merge_two check (primary_id <> secondary_id),
        constraint entity_merge_undone check ((undone_at is null) = (undone_reason is null))
      )`);
    this.addSql(`
      create unique index entity_merge_active on entity_merge (organization_id, secondary_id) where undone_at is null`);
    // Partial, too: whoever reads by them says what they say.
    this.addSql(`
      create unique index entity_merge_ordinal on entity_merge (organization_id, primary_id, ordinal) where ordinal > 0`);
    this.addSql(
      `create index entity_merge_of_secondary on entity_merge (secondary_id, merged_at, id, organization_id)`,
    );
    this.addSql(`
      create index entity_merge_merged_at on entity_merge (organization_id, merged_at, id)
      where merged_at > '-infinity'`);

    // Two entities that somebody knows to be different. Who, when and why are in the events.
    this.addSql(`
      create table entity_distinct (
        organization_id uuid not null,
        id uuid not null,
        low_id uuid not null,
        high_id uuid not null,
        marked_at timestamptz not null,
        mark_event_id uuid not null,
        lifted_at timestamptz,
        lift_event_id uuid,
        primary key (organization_id, id),
        constraint entity_distinct_low foreign key (organization_id, low_id) references entity (organization_id, id),
        constraint entity_distinct_high foreign key (organization_id, high_id) references entity (organization_id, id),
        constraint entity_distinct_order check (low_id < high_id),
        constraint entity_distinct_lifted check ((lifted_at is null) = (lift_event_id is null))
      )`);
    this.addSql(`
      create unique index entity_distinct_active on entity_distinct (organization_id, low_id, high_id)
      where lifted_at is null`);
    this.addSql(`
      create index entity_distinct_active_high on entity_distinct (high_id, low_id, organization_id)
      where lifted_at is null`);
    for (const side of ["low", "high"]) {
      this.addSql(
        `create index entity_distinct_${side} on entity_distinct (${side}_id, marked_at, id, organization_id)`,
      );
    }

    const grants: Record<string, string> = {
      entity_merge: "select, insert, update (undone_at, undone_reason, undone_actor, undone_principal, undone_source)",
      entity_distinct: "select, insert, update (lifted_at, lift_event_id)",
    };
    for (const [table, privileges] of Object.entries(grants)) {
      this.addSql(`alter table ${table} enable row level security`);
      this.addSql(`alter table ${table} force row level security`);
      this.addSql(`create policy tenant on ${table} to entity_service using (${TENANT}) with check (${TENANT})`);
      this.addSql(`grant ${privileges} on ${table} to entity_service`);
      this.addSql(`create policy backup on ${table} for select to entity_backup using (true)`);
      this.addSql(`grant select on ${table} to entity_backup`);
    }
  }
}
