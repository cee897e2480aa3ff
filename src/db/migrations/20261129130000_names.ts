// What names are searched by, and what entities that may be one are found by. All of it is computed by the service, which
// fills in what was written before.
import { Migration } from "@mikro-orm/migrations";

const TENANT = "organization_id = nullif(current_setting('app.organization_id', true), '')::uuid";

export class Names extends Migration {
  override name = "20261129130000_names";

  override up(): void {
    // name_words: the folded words of all names, each behind a blank; null in a row that was written before. The keys are
    // digests of the folded name together with one more value.
    this.addSql(`
      alter table entity
        add column name_words text collate "C",
        add column name_date_key uuid,
        add column name_number_key uuid`);
    // Partial, as the first migration says of indexes that begin with organization_id.
    for (const key of ["name_date_key", "name_number_key"]) {
      this.addSql(`
        create index entity_${key} on entity (organization_id, ${key}, id)
        where ${key} is not null and deleted_at is null and merged_into is null`);
    }
    this.addSql(`create index entity_unfolded on entity (organization_id, id) where name_words is null`);

    // The form of the id without case and blanks, where it is another one.
    this.addSql(`alter table external_id add column folded text collate "C"`);
    this.addSql(`
      create index external_id_folded on external_id (organization_id, folded, external_id) where folded is not null`);

    // A row for each of the words. Row level security lets an index be used by what cannot leak alone: by comparisons of
    // texts, and by no operator of arrays or of full-text search, so that GIN is of no use here. Nothing refers to it, and
    // it has no foreign key: entities are never removed, and each would be looked up for every word.
    this.addSql(`
      create table entity_word (
        organization_id uuid not null,
        word text collate "C" not null,
        entity_id uuid not null,
        primary key (organization_id, word, entity_id)
      )`);
    this.addSql(`alter table entity_word enable row level security`);
    this.addSql(`alter table entity_word force row level security`);
    this.addSql(`create policy tenant on entity_word to entity_service using (${TENANT}) with check (${TENANT})`);
    this.addSql(`grant select, insert, delete on entity_word to entity_service`);
    this.addSql(`create policy backup on entity_word for select to entity_backup using (true)`);
    this.addSql(`grant select on entity_word to entity_backup`);

    // Whose entities are still to be filled in. The function sees that and nothing else of them.
    this.addSql(`create policy directory on entity for select to entity_directory using (name_words is null)`);
    this.addSql(`grant select (organization_id, name_words) on entity to entity_directory`);
    this.addSql(`
      create function list_unfolded(at_most int) returns table (organization_id uuid)
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select distinct q.organization_id
        from (select e.organization_id from public.entity e where e.name_words is null limit at_most) q
      $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    this.addSql(`revoke all on function list_unfolded(int) from public`);
    this.addSql(`grant execute on function list_unfolded(int) to entity_service`);
    this.addSql(`alter function list_unfolded(int) owner to entity_directory`);
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
