// The first schema: roles, tables, the tenant wall, the two functions that look across it.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

export class Init extends Migration {
  override name = "20261120120000_init";

  override up(): void {
    // Roles belong to the cluster, not to the database: another database of it may have made them.
    // entity_service is what the service runs as; entity_directory owns the two functions below.
    this.addSql(`
      do $$
      declare role_name text;
      begin
        foreach role_name in array array['entity_service', 'entity_directory'] loop
          if not exists (select from pg_roles where rolname = role_name) then
            begin
              execute format('create role %I nologin nosuperuser nobypassrls nocreatedb nocreaterole', role_name);
            exception when duplicate_object or unique_violation then null;
            end;
          end if;
        end loop;
      end $$`);

    this.addSql(`
      create table organization (
        organization_id uuid primary key,
        display_name text not null,
        external_id_policy text not null check (external_id_policy in ('MUTABLE_WITH_REASON', 'IMMUTABLE')),
        etag uuid not null,
        created_at timestamptz not null default clock_timestamp(),
        updated_at timestamptz not null default clock_timestamp()
      )`);

    this.addSql(`
      create table api_key (
        organization_id uuid not null references organization,
        id uuid not null,
        digest bytea not null,
        display_name text not null,
        scopes text[] not null,
        created_at timestamptz not null default clock_timestamp(),
        expires_at timestamptz,
        revoked_at timestamptz,
        primary key (organization_id, id),
        constraint api_key_digest unique (digest)
      )`);

    // external_id and external_ids are copies, for reads: of the primary one, which the deferred foreign key
    // below keeps true, and of all, as [id, type, primary, attached at]. The table external_id decides.
    this.addSql(`
      create table entity (
        organization_id uuid not null references organization,
        id uuid not null,
        version bigint not null,
        type text not null check (type in ('person', 'company')),
        country_code text not null,
        external_id text collate "C",
        external_ids jsonb not null default '[]',
        name text collate "C" not null,
        tax_id text,
        tax_id_key text collate "C",
        tax_id_check text check (tax_id_check in ('valid', 'checksum_failed', 'unknown_format')),
        status text not null check (status in ('pending', 'under_review', 'active', 'inactive', 'suspended', 'blocked', 'rejected')),
        nationality text,
        risk_matrix_id uuid,
        risk_score numeric(12, 2),
        entity_data jsonb,
        attributes jsonb not null default '{}',
        metadata jsonb not null default '{}',
        etag uuid not null,
        created_at timestamptz not null,
        updated_at timestamptz not null,
        deleted_at timestamptz,
        primary key (organization_id, id)
      )`);
    // No second full index begins with organization_id: before the first ANALYZE the planner, which then
    // knows nothing, takes such a one for the primary key and reads all of an organization for each row
    // (a foreign key's check did: 620 rows/s imported instead of several thousand). Hence partial ones, and
    // others that begin with the column that is looked up.
    this.addSql(`
      create index entity_tax_id_key on entity (organization_id, tax_id_key, id)
      where tax_id_key is not null and deleted_at is null`);
    this.addSql(`create index entity_name on entity (organization_id, name) where deleted_at is null`);

    // One namespace for primaries and aliases. primary_of repeats entity_id on the primary row alone:
    // unique, it is "one primary per entity"; referenced, it is what the entity's copy must equal.
    this.addSql(`
      create table external_id (
        organization_id uuid not null,
        external_id text collate "C" not null,
        entity_id uuid not null,
        type text,
        is_primary boolean not null,
        primary_of uuid generated always as (case when is_primary then entity_id end) stored,
        attached_at timestamptz not null,
        primary key (organization_id, external_id),
        constraint external_id_entity foreign key (organization_id, entity_id) references entity (organization_id, id),
        constraint external_id_copy unique (primary_of, external_id, organization_id)
      )`);
    this.addSql(`
      create unique index external_id_one_primary on external_id (organization_id, entity_id) where is_primary`);
    this.addSql(`create index external_id_entity on external_id (entity_id, organization_id)`);
    this.addSql(`
      alter table entity add constraint entity_primary_external_id
        foreign key (organization_id, id, external_id)
        references external_id (organization_id, primary_of, external_id)
        deferrable initially deferred`);

    // Append-only: the run-time role may insert and select, no more.
    this.addSql(`
      create table entity_event (
        organization_id uuid not null,
        id uuid not null,
        entity_id uuid not null,
        entity_version bigint not null,
        entity_type text not null,
        type text not null,
        external_id text,
        external_ids text[] not null,
        updated_fields text[] not null,
        previous_values jsonb not null,
        new_values jsonb not null,
        actor text not null,
        principal uuid not null,
        source text not null,
        reason text,
        request_id uuid,
        metadata jsonb not null default '{}',
        recorded_at timestamptz not null,
        occurred_at timestamptz,
        primary key (organization_id, id),
        constraint entity_event_version unique (organization_id, entity_id, entity_version),
        constraint entity_event_entity foreign key (organization_id, entity_id) references entity (organization_id, id)
      )`);
    this.addSql(`create index entity_event_recorded on entity_event (organization_id, recorded_at, id)`);
    this.addSql(`
      create index entity_event_request on entity_event (organization_id, request_id) where request_id is not null`);

    this.addSql(`
      create table transaction (
        organization_id uuid not null,
        id uuid not null,
        external_id text collate "C",
        type text not null,
        status text,
        amount text not null,
        currency text not null,
        origin_entity_id uuid,
        origin_external_id text collate "C",
        origin_name text,
        origin_country text,
        destination_entity_id uuid,
        destination_external_id text collate "C",
        destination_name text,
        destination_country text,
        transacted_at timestamptz not null,
        details jsonb,
        content_hash bytea not null,
        recorded_at timestamptz not null default clock_timestamp(),
        primary key (organization_id, id),
        constraint transaction_origin foreign key (organization_id, origin_entity_id) references entity (organization_id, id),
        constraint transaction_destination foreign key (organization_id, destination_entity_id) references entity (organization_id, id)
      )`);
    this.addSql(`
      create unique index transaction_external_id on transaction (organization_id, external_id)
      where external_id is not null`);
    for (const side of ["origin", "destination"]) {
      this.addSql(
        `create index transaction_${side} on transaction (organization_id, ${side}_entity_id, transacted_at, id) where ${side}_entity_id is not null`,
      );
      this.addSql(
        `create index transaction_${side}_external_id on transaction (organization_id, ${side}_external_id) where ${side}_external_id is not null`,
      );
    }

    this.addSql(`
      create table user_event (
        organization_id uuid not null,
        id uuid not null,
        entity_id uuid not null,
        entity_external_id text collate "C",
        event_type text not null,
        occurred_at timestamptz not null,
        payload jsonb,
        recorded_at timestamptz not null default clock_timestamp(),
        primary key (organization_id, id),
        constraint user_event_entity foreign key (organization_id, entity_id) references entity (organization_id, id)
      )`);
    this.addSql(`create index user_event_entity on user_event (organization_id, entity_id, occurred_at, id)`);
    this.addSql(`
      create index user_event_external_id on user_event (organization_id, entity_external_id)
      where entity_external_id is not null`);

    // The first answer to a request_id, in the transaction of its effect.
    this.addSql(`
      create table request_record (
        organization_id uuid not null,
        principal uuid not null,
        method text not null,
        request_id uuid not null,
        request_hash bytea not null,
        response bytea,
        created_at timestamptz not null,
        primary key (organization_id, principal, method, request_id)
      )`);

    const grants: Record<string, string> = {
      organization: "select, insert, update",
      api_key: "select, insert, update",
      entity: "select, insert, update",
      external_id: "select, insert, update, delete",
      entity_event: "select, insert",
      transaction: "select, insert, update",
      user_event: "select, insert, update",
      request_record: "select, insert, update, delete",
    };
    for (const [table, privileges] of Object.entries(grants)) {
      this.addSql(`alter table ${table} enable row level security`);
      this.addSql(`alter table ${table} force row level security`);
      this.addSql(`create policy tenant on ${table} to entity_service using (${TENANT}) with check (${TENANT})`);
      this.addSql(`grant ${privileges} on ${table} to entity_service`);
    }

    // What needs to look across organizations, and nothing else: whose key is this, and which are there.
    this.addSql(`create policy directory on organization for select to entity_directory using (true)`);
    this.addSql(`create policy directory on api_key for select to entity_directory using (true)`);
    this.addSql(`grant select on organization, api_key to entity_directory`);
    this.addSql(`
      create function find_api_key(key_digest bytea)
      returns table (organization_id uuid, id uuid, scopes text[])
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select k.organization_id, k.id, k.scopes from public.api_key k
        where k.digest = key_digest and k.revoked_at is null and (k.expires_at is null or k.expires_at > clock_timestamp())
      $$`);
    this.addSql(`
      create function list_organizations(after_id uuid, page_size int)
      returns setof public.organization
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select * from public.organization o
        where after_id is null or o.organization_id > after_id
        order by o.organization_id limit page_size
      $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    for (const signature of ["find_api_key(bytea)", "list_organizations(uuid, int)"]) {
      this.addSql(`revoke all on function ${signature} from public`);
      this.addSql(`grant execute on function ${signature} to entity_service`);
      this.addSql(`alter function ${signature} owner to entity_directory`);
    }
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
    this.addSql(`grant usage on schema public to entity_service, entity_directory`);
    this.addSql(`grant select on schema_migration to entity_service`);
  }
}
