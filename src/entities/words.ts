// The words of names as rows, by whose index names are searched, and the digests by which equal names are found.
import { hash } from "node:crypto";
import type { Pipeline } from "../db/statements.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { nameWords, wordsOf } from "../domain/name.ts";

/** What of an entity its words and keys are made of; its type never changes. */
export const NAME_SOURCES: (keyof EntityState)[] = ["name", "entityData"];

/** Of a key that may be as long as a name, in the size of an index entry; as PostgreSQL reads a uuid. */
export const digestOf = (key: string | null): string | null =>
  key === null ? null : hash("sha256", key, "hex").slice(0, 32);

const INSERT = `insert into entity_word (organization_id, word, entity_id)
  select $1::uuid, v.word, v.entity_id from unnest($2::text[], $3::uuid[]) as v(word, entity_id)`;
/** What is there already stays; a row of an older version may have some of its words or none. */
export const INSERT_MISSING = `${INSERT} on conflict do nothing`;

export function insertWords(db: Pipeline, organizationId: string, entities: readonly EntityState[]): void {
  const [words, ids] = pairsOf(entities.map((entity) => ({ id: entity.id, words: wordsOf(nameWords(entity)) })));
  if (words.length > 0) db.send(INSERT, [organizationId, words, ids]);
}

export function updateWords(
  db: Pipeline,
  organizationId: string,
  changes: readonly { before: EntityState; after: EntityState }[],
): void {
  const renamed = changes.filter(({ before, after }) =>
    NAME_SOURCES.some((source) => before[source] !== after[source]),
  );
  const gone: { id: string; words: string[] }[] = [];
  const there: { id: string; words: string[] }[] = [];
  for (const { before, after } of renamed) {
    const [old, now] = [nameWords(before), nameWords(after)];
    if (old === now) continue;
    const [had, has] = [new Set(wordsOf(old)), new Set(wordsOf(now))];
    gone.push({ id: after.id, words: [...had.difference(has)] });
    there.push({ id: after.id, words: [...has.difference(had)] });
  }
  const [oldWords, oldIds] = pairsOf(gone);
  if (oldWords.length > 0) {
    db.send(
      `delete from entity_word w using unnest($2::text[], $3::uuid[]) as v(word, entity_id)
       where w.organization_id = $1 and w.word = v.word and w.entity_id = v.entity_id`,
      [organizationId, oldWords, oldIds],
    );
  }
  const [words, ids] = pairsOf(there);
  if (words.length > 0) db.send(INSERT_MISSING, [organizationId, words, ids]);
}

/** As two columns. */
export function pairsOf(
  entities: readonly { id: string; words: readonly string[] }[],
): [words: string[], ids: string[]] {
  return [entities.flatMap(({ words }) => words), entities.flatMap(({ id, words }) => words.map(() => id))];
}
