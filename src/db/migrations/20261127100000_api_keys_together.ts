// The owners of several API keys by one statement: find_api_key is planned anew for each of them.
import { Migration } from "@mikro-orm/migrations";

export class ApiKeysTogether extends Migration {
  override name = "20261127100000_api_keys_together";

  override up(): void {
    this.addSql(`
      create function find_api_keys(key_digests bytea[])
      returns table (at int, organization_id uuid, id uuid, scopes text[])
      language sql stable security definer set search_path = pg_catalog, pg_temp
      as $$
        select q.at::int, k.organization_id, k.id, k.scopes
        from unnest(key_digests) with ordinality as q(digest, at) join public.api_key k on k.digest = q.digest
        where k.revoked_at is null and (k.expires_at is null or k.expires_at > clock_timestamp())
      $$`);
    this.addSql(`grant entity_directory to current_user`);
    this.addSql(`grant create on schema public to entity_directory`);
    this.addSql(`revoke all on function find_api_keys(bytea[]) from public`);
    this.addSql(`grant execute on function find_api_keys(bytea[]) to entity_service`);
    this.addSql(`alter function find_api_keys(bytea[]) owner to entity_directory`);
    this.addSql(`revoke create on schema public from entity_directory`);
    this.addSql(`revoke entity_directory from current_user`);
  }
}
