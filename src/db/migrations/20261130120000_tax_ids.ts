// Tax ids by the canonical form of their country, beside the key that they have. The service computes both; rows that were
// written before have the key alone, until `entity-service tax-ids recheck --apply` has been there.
import { Migration } from "@mikro-orm/migrations";

export class TaxIds extends Migration {
  override name = "20261130120000_tax_ids";

  override up(): void {
    // tax_id_canonical: null where it is no other text than the key, or the country's rules do not know the form.
    // tax_id_rules: the version of the rules by which the row's key and form were made. A process of the release before
    // makes rows of version 1, which is the default; it changes a tax id and leaves the form and the version as they are.
    this.addSql(`
      alter table entity
        add column tax_id_canonical text collate "C",
        add column tax_id_rules smallint not null default 1`);
    // Partial, as the first migration says of indexes that begin with organization_id.
    this.addSql(`
      create index entity_tax_id_canonical on entity (organization_id, tax_id_canonical, id)
      where tax_id_canonical is not null and deleted_at is null and merged_into is null`);
    this.addSql(`
      create index entity_merged_tax_id_canonical on entity (organization_id, tax_id_canonical, survivor_id)
      where tax_id_canonical is not null and merged_into is not null`);
    // Lists have deleted entities too.
    for (const column of ["tax_id_key", "tax_id_canonical"]) {
      this.addSql(`
        create index entity_deleted_${column} on entity (organization_id, ${column}, id)
        where ${column} is not null and deleted_at is not null and merged_into is null`);
    }
    this.addSql(`
      create index entity_older_tax_id on entity (organization_id, id)
      where tax_id_key is not null and tax_id_rules < 2`);

    // Whose entities are of an older version. The function sees that and nothing else of them.
    this.addSql(`
      create policy directory_tax_ids on entity for select to entity_directory
      using (tax_id_key is not null and tax_id_rules < 2)`);
    this.addSql(`grant select (tax_id_key, tax_id_rules) on entity to entity_directory`);
    this.addSql(`
      create function list_older_tax_ids(at_most int) returns table (organization_id uuid)
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select distinct q.organization_id
        from (select e.organization_id from public.entity e
              where e.tax_id_key is not null and e.tax_id_rules < 2 limit at_most) q
      $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    this.addSql(`revoke all on function list_older_tax_ids(int) from public`);
    this.addSql(`grant execute on function list_older_tax_ids(int) to entity_service`);
    this.addSql(`alter function list_older_tax_ids(int) owner to entity_directory`);
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
