// Risk matrices with all of their versions, and the receipts of what they said of entities.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

export class Risk extends Migration {
  override name = "20261130100000_risk";

  override up(): void {
    this.addSql(`
      create table risk_matrix (
        organization_id uuid not null references organization,
        id uuid not null,
        display_name text not null,
        description text not null,
        version int not null check (version > 0),
        etag uuid not null,
        created_at timestamptz not null default clock_timestamp(),
        updated_at timestamptz not null default clock_timestamp(),
        deleted_at timestamptz,
        primary key (organization_id, id)
      )`);
    // Nothing changes or removes a version: evaluations name it.
    this.addSql(`
      create table risk_matrix_version (
        organization_id uuid not null,
        risk_matrix_id uuid not null,
        version int not null check (version > 0),
        rules jsonb not null,
        thresholds jsonb not null,
        mentions_today boolean not null,
        sha256 bytea not null,
        created_at timestamptz not null default clock_timestamp(),
        primary key (organization_id, risk_matrix_id, version),
        constraint risk_matrix_version_matrix foreign key (organization_id, risk_matrix_id)
          references risk_matrix (organization_id, id)
      )`);
    // Nor an evaluation. It made the next version of its entity, which is why there is one of each at most.
    this.addSql(`
      create table evaluation (
        organization_id uuid not null,
        id uuid not null,
        entity_id uuid not null,
        entity_version bigint not null,
        entity_hash bytea,
        risk_matrix_id uuid not null,
        matrix_version int not null,
        matrix_sha256 bytea not null,
        engine text not null,
        today text not null,
        raw_score text,
        risk_score text,
        level text check (level in ('LOW', 'MEDIUM', 'HIGH', 'CRITICAL')),
        incomplete boolean not null,
        results jsonb not null,
        actor text not null,
        principal uuid not null,
        source text not null,
        request_id uuid,
        evaluated_at timestamptz not null,
        event_id uuid not null,
        primary key (organization_id, id),
        constraint evaluation_entity foreign key (organization_id, entity_id) references entity (organization_id, id),
        constraint evaluation_matrix foreign key (organization_id, risk_matrix_id, matrix_version)
          references risk_matrix_version (organization_id, risk_matrix_id, version),
        constraint evaluation_incomplete check (
          incomplete = (raw_score is null) and incomplete = (risk_score is null) and incomplete = (level is null))
      )`);
    // Partial, as the first migration says of indexes that begin with organization_id; the other does not.
    this.addSql(`
      create unique index evaluation_of_entity on evaluation (organization_id, entity_id, entity_version)
      where entity_version > 0`);
    this.addSql(`
      create index evaluation_evaluated_at on evaluation (entity_id, evaluated_at, id, organization_id)`);

    const grants: Record<string, string> = {
      risk_matrix: "select, insert, update",
      risk_matrix_version: "select, insert",
      evaluation: "select, insert",
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
