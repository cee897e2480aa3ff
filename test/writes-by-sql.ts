// Writes of entities by SQL on the real tables, for tests that hold transactions open. Their events are not sealed: the test
// seals them at its end (chains.ts).
import { randomUUID } from "node:crypto";

/** Renames an entity, with its event and without a seal: $1 organization, $2 entity, $3 name, $4 the event's id. */
export const RENAME = `
  with old as (select id, name from entity where organization_id = $1 and id = $2),
  words as (delete from entity_word where organization_id = $1 and entity_id = $2),
  e as (
    update entity x set version = x.version + 1, name = $3, name_words = null, etag = $4,
      updated_at = greatest(clock_timestamp(), x.updated_at + interval '1 microsecond')
    from old where x.organization_id = $1 and x.id = old.id
    returning x.*, old.name as old_name
  )
  insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_ids,
    updated_fields, previous_values, new_values, actor, principal, source, recorded_at)
  select organization_id, $4, id, version, type, 'ATTRIBUTE_CHANGED', '{}', '{name}',
    jsonb_build_object('name', old_name), jsonb_build_object('name', name), 'writer', id, 'torture', updated_at from e`;

/** An id like the service's: time first, then random. */
export function timedId(): string {
  const time = Date.now().toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}
