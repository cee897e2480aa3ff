// Entities by the words of their names, for a list in the order of ids. What a call costs is bounded: words that few
// entities have are looked up by the index of words; where every word is common, that many entities are looked at in turn.

import type { Statements } from "../db/statements.ts";

/** A word with so many rows in the index of words is looked up alone: its entities are compared with the others. */
const VERY_FEW_ROWS = 2_000;
/** Rows that one word may have to be looked up at all. */
const FEW_ROWS = 10_000;
/** Entities that are looked at where every word has more. */
const WALKED_ENTITIES = 10_000;
/** Words that are looked up; all others are compared with what was found. The longest are the rarest, as a rule. */
const INDEXED_WORDS = 5;

type Bind = (value: unknown) => string;

/** Where a statement finds entities, as `e`, and their order. */
export interface NameSource {
  from: string;
  order: string;
  /** Set where not all entities are looked at: the one where the next page goes on, if there are more. */
  end: ((db: Statements) => Promise<string | undefined>) | undefined;
}

/** The condition that an entity `e` has all of the words. */
export const hasWords = (words: readonly string[], bind: Bind): string =>
  // Words are letters, digits and marks: nothing of them is special to LIKE.
  `e.name_words like all(${bind(words.map((word) => `% ${word}%`))}::text[])`;

/** Chooses by how many rows the words have; what is found is the same either way. */
export async function nameSource(
  db: Statements,
  organizationId: string,
  { words, after, bind }: { words: readonly string[]; after: string | undefined; bind: Bind },
): Promise<NameSource> {
  const [rarest, ...others] = await rareWords(db, organizationId, words.slice(0, INDEXED_WORDS));
  const behind = (id: string) => (after === undefined ? "" : `and ${id} > ${bind(after)}::uuid`);
  if (rarest === undefined) {
    const walk = `from entity e where e.organization_id = $1 ${behind("e.id")} order by e.id`;
    return {
      from: `(select * ${walk} limit ${WALKED_ENTITIES}) e`,
      order: "e.id",
      end: (again) => lastOfWalk(again, organizationId, after),
    };
  }
  const having = (word: string) =>
    `select w.entity_id from entity_word w where w.organization_id = $1
     and w.word >= ${bind(word)} and w.word < ${bind(afterWord(word))}`;
  // INTERSECT reads each once, whatever the planner thinks of how many there are.
  const all = [rarest, ...others].map((word) => `${having(word)} ${behind("w.entity_id")}`).join(" intersect ");
  return {
    // OFFSET keeps the two apart: entities are fetched one by one, in the order of ids, until the page is full.
    from: `(select distinct q.entity_id as id from (${all}) q order by 1) n
      cross join lateral (select * from entity e where e.organization_id = $1 and e.id = n.id offset 0) e`,
    order: "n.id",
    end: undefined,
  };
}

/** Those of the words that are looked up, the rarest first. The rest are compared with what these find. */
async function rareWords(db: Statements, organizationId: string, words: readonly string[]): Promise<string[]> {
  for (const limit of [VERY_FEW_ROWS, FEW_ROWS]) {
    const counts = await countRows(db, organizationId, words, limit);
    const rare = words
      .map((word, i) => ({ word, count: counts[i] ?? 0 }))
      .filter(({ count }) => count <= limit)
      .toSorted((a, b) => a.count - b.count)
      .map(({ word }) => word);
    if (rare.length > 0) return limit === VERY_FEW_ROWS ? rare.slice(0, 1) : rare;
  }
  return [];
}

/** How many rows the words have that begin so, each up to one more than `limit`: on every page, whatever is behind it. */
async function countRows(
  db: Statements,
  organizationId: string,
  words: readonly string[],
  limit: number,
): Promise<number[]> {
  const rows = await db.execute<{ count: number }[]>(
    `select (select count(*)::int from (
       select from entity_word w where w.organization_id = $1 and w.word >= v.word and w.word < v.word_end
       limit $4::int + 1) q) as count
     from unnest($2::text[], $3::text[]) with ordinality as v(word, word_end, n) order by v.n`,
    [organizationId, words, words.map(afterWord), limit],
  );
  return rows.map(({ count }) => count);
}

async function lastOfWalk(
  db: Statements,
  organizationId: string,
  after: string | undefined,
): Promise<string | undefined> {
  const [last] = await db.execute<{ id: string }[]>(
    `select e.id from entity e where e.organization_id = $1 ${after === undefined ? "" : "and e.id > $2::uuid"}
     order by e.id offset ${WALKED_ENTITIES - 1} limit 1`,
    [organizationId, ...(after === undefined ? [] : [after])],
  );
  return last?.id;
}

/** The first text in code point order after all that begin with the word, whose last letter is never the last of Unicode. */
function afterWord(word: string): string {
  const points = [...word];
  const next = (points.pop()?.codePointAt(0) ?? 0) + 1;
  return points.join("") + String.fromCodePoint(next === 0xd800 ? 0xe000 : next);
}
