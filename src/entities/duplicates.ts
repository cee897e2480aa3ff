// Pairs of entities that may be one (rules 161 to 163). Indexes find candidates rule by rule; a pure rule says what the two
// share, and a candidate counts under the first of its reasons alone, so that each pair comes once.

import type { Statements } from "../db/statements.ts";
import { DUPLICATE_RULES, type DuplicateReason, type DuplicateRule, duplicateReasons } from "../domain/duplicates.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { parseUuid } from "../domain/text.ts";
import { countMarks, findDistinctAmong } from "./distinct.ts";
import { LIVE, SOURCES } from "./duplicate-sources.ts";
import { COMPARED_COLUMNS, toState } from "./rows.ts";

/** What one call looks at, at most. */
const MOST: Bounds = { keys: 200_000, chunk: 20_000, candidates: 5_000 };

export interface Bounds {
  /** Values; one of an external id counts as Source.cost says. */
  keys: number;
  /** Values that one statement reads. */
  chunk: number;
  /** Pairs that are compared. */
  candidates: number;
}

/** Values whose entities are read at once. */
const BATCH_KEYS = 500;
/** Entities that share one value are paired with so many of the next ones. */
const NEIGHBOURS = 10;
/** And with one more for each mark of theirs, which may be with one of these; more marks than that are not counted. */
const MARKS = 100;

const NO_ID = "00000000-0000-0000-0000-000000000000";

/** Where suggestions go on: behind this pair of the value of the rule. Ids of zeros: behind the value. */
export interface SuggestionPosition {
  rank: number;
  key: string;
  first: string;
  second: string;
}

/** The position of a token, which anybody can make; undefined for what is none. */
export function parsePosition({ rank, key, ...ids }: Omit<SuggestionPosition, "rank"> & { rank: string }) {
  const rule = DUPLICATE_RULES[Number(rank)];
  const parsed = rule === undefined || SOURCES[rule].keyType === "text" || key === "" ? key : parseUuid(key);
  return rule === undefined || parsed === null ? undefined : { rank: Number(rank), key: parsed, ...ids };
}

export interface Suggestion {
  first: string;
  second: string;
  reasons: DuplicateReason[];
  position: SuggestionPosition;
}

export interface Suggestions {
  rows: Suggestion[];
  /** Set where not everything was looked at: the rest is behind this. */
  end: SuggestionPosition | undefined;
}

interface Candidate {
  key: string;
  first: string;
  second: string;
}

/** Pairs across the organization, behind `after`; at most `rows`. */
export async function suggestDuplicates(
  db: Statements,
  organizationId: string,
  { after, rows }: { after: SuggestionPosition | undefined; rows: number },
  most: Bounds = MOST,
): Promise<Suggestions> {
  const found: Suggestion[] = [];
  let room = { keys: most.keys, candidates: most.candidates };
  for (const [rank, rule] of DUPLICATE_RULES.entries()) {
    if (rank < (after?.rank ?? 0)) continue;
    let at = rank === after?.rank ? after : { rank, key: "", first: NO_ID, second: NO_ID };
    // The value of the page before, whose pairs may not all have been shown.
    let keys = at.first === NO_ID || at.key === "" ? [] : [at.key];
    let isMore = true;
    for (;;) {
      while (keys.length > 0) {
        const batch = keys.slice(0, BATCH_KEYS);
        const limit = Math.min(rows - found.length, room.candidates);
        const candidates = await findPairs(db, organizationId, rule, { keys: batch, after: at, limit });
        found.push(...(await compare(db, organizationId, candidates, rank)));
        const last = candidates.at(-1);
        room = { ...room, candidates: room.candidates - candidates.length };
        if (last === undefined || candidates.length < limit) {
          keys = keys.slice(BATCH_KEYS);
          at = { rank, key: batch.at(-1) ?? at.key, first: NO_ID, second: NO_ID };
        } else {
          keys = keys.slice(keys.indexOf(last.key));
          at = { rank, ...last };
        }
        if (found.length === rows) return { rows: found, end: undefined };
        if (room.candidates <= 0) return { rows: found, end: at };
      }
      if (!isMore) break;
      if (room.keys <= 0) return { rows: found, end: at };
      const chunk = await sharedKeys(db, organizationId, rule, { behind: at.key, limit: most.chunk });
      room = { ...room, keys: room.keys - chunk.count * SOURCES[rule].cost };
      keys = chunk.keys;
      isMore = chunk.count === most.chunk;
      if (keys.length === 0 && isMore) at = { rank, key: chunk.end, first: NO_ID, second: NO_ID };
    }
  }
  return { rows: found, end: undefined };
}

/** Pairs with one entity. */
export async function suggestDuplicatesOf(
  db: Statements,
  organizationId: string,
  entity: EntityState,
  { after, rows }: { after: SuggestionPosition | undefined; rows: number },
  most: Pick<Bounds, "candidates"> = MOST,
): Promise<Suggestions> {
  const found: Suggestion[] = [];
  if (entity.deletedAt !== null) return { rows: found, end: undefined };
  let room = most.candidates;
  for (const [rank, rule] of DUPLICATE_RULES.entries()) {
    if (rank < (after?.rank ?? 0)) continue;
    const { keysOf, members, keyType } = SOURCES[rule];
    const keys = keysOf(entity);
    let second = rank === after?.rank ? after.second : NO_ID;
    for (let isMore = keys.length > 0; isMore; ) {
      const limit = Math.min(rows - found.length, room);
      const others = await db.execute<{ id: string }[]>(
        `select distinct m.id from unnest($2::${keyType}[]) as k(key)
         cross join lateral (
           select q.id from (${members("k.key")}) q
           where q.id <> $3::uuid and q.id > $4::uuid order by q.id limit $5) m
         order by m.id limit $5`,
        [organizationId, keys, entity.id, second, limit],
      );
      const candidates = others.map(({ id }) => ({ key: "", first: entity.id, second: id }));
      found.push(...(await compare(db, organizationId, candidates, rank)));
      isMore = others.length === limit;
      room -= others.length;
      second = others.at(-1)?.id ?? second;
      if (found.length === rows) return { rows: found, end: undefined };
      if (room <= 0) return { rows: found, end: { rank, key: "", first: entity.id, second } };
    }
  }
  return { rows: found, end: undefined };
}

/** The next values, and those among them that several entities may share: the last one too, of which more may follow. */
async function sharedKeys(
  db: Statements,
  organizationId: string,
  rule: DuplicateRule,
  { behind, limit }: { behind: string; limit: number },
): Promise<{ count: number; end: string; keys: string[] }> {
  const { keys, mayBeShared } = SOURCES[rule];
  const also = mayBeShared === undefined ? "" : `or ${mayBeShared("q.key")}`;
  const [row] = await db.execute<{ count: number; end: string | null; keys: string[] }[]>(
    `with chunk as materialized (select s.key, row_number() over () as n from (${keys(behind !== "", limit)} limit ${limit}) s)
     select (select count(*)::int from chunk) as count,
       (select c.key::text from chunk c order by c.n desc limit 1) as end,
       array(select q.key::text from (select c.key, min(c.n) as n, count(*) as rows from chunk c group by c.key) q
         where q.rows > 1 ${also} order by q.n) as keys`,
    [organizationId, ...(behind === "" ? [] : [behind])],
  );
  if (row === undefined || row.end === null) return { count: 0, end: behind, keys: [] };
  const isFull = row.count === limit;
  return { count: row.count, end: row.end, keys: isFull ? [...new Set([...row.keys, row.end])] : row.keys };
}

/** Pairs of the values, in their order; of the first value those behind `after`, if it is that one's. */
async function findPairs(
  db: Statements,
  organizationId: string,
  rule: DuplicateRule,
  { keys, after, limit }: { keys: readonly string[]; after: SuggestionPosition; limit: number },
): Promise<Candidate[]> {
  const { members, keyType } = SOURCES[rule];
  const [first, second] = keys[0] === after.key ? [after.first, after.second] : [NO_ID, NO_ID];
  // Each part is read in its order and only as far as the limit: a value may have a million entities.
  return db.execute<Candidate[]>(
    `select q.key::text, q.first, q.second from (
       select k.key, k.n, a.id as first, b.id as second
       from unnest($2::${keyType}[]) with ordinality as k(key, n)
       cross join lateral (
         select m.id from (${members("k.key")}) m
         where m.id >= case when k.n = 1 then $3::uuid else '${NO_ID}' end order by m.id offset 0) a
       cross join lateral (
         select m.id from (${members("k.key")}) m where m.id > a.id order by m.id
         limit ${NEIGHBOURS} + (${countMarks("a.id", MARKS)})) b
       where k.n > 1 or (a.id, b.id) > ($3::uuid, $4::uuid)
       limit $5) q
     order by q.n, q.first, q.second`,
    [organizationId, keys, first, second, limit],
  );
}

/** Candidates whose entities are held at once: each may have 100 external ids. */
const COMPARED = 100;

/**
 * The candidates that may be one, with all that they share. Those that an earlier rule has found are left out, and those that
 * somebody marked as distinct: here, so that they count in what a call looks at.
 */
async function compare(
  db: Statements,
  organizationId: string,
  candidates: readonly Candidate[],
  rank: number,
): Promise<Suggestion[]> {
  const rule = DUPLICATE_RULES[rank] as DuplicateRule;
  const found: Suggestion[] = [];
  for (let from = 0; from < candidates.length; from += COMPARED) {
    const some = candidates.slice(from, from + COMPARED);
    const ids = [...new Set(some.flatMap(({ first, second }) => [first, second]))];
    const [states, distinct] = await Promise.all([
      readCompared(db, organizationId, ids),
      findDistinctAmong(db, organizationId, ids),
    ]);
    for (const candidate of some) {
      if (distinct.has(candidate.first, candidate.second)) continue;
      const [first, second] = [states.get(candidate.first), states.get(candidate.second)];
      const reasons = first === undefined || second === undefined ? [] : duplicateReasons(first, second);
      if (reasons[0]?.rule !== rule || !isFirstShared(rule, candidate.key, first, second)) continue;
      found.push({ first: candidate.first, second: candidate.second, reasons, position: { ...candidate, rank } });
    }
  }
  return found;
}

/** Whether a pair that shares several values of a rule is to be told of at this one; without a value it comes once anyway. */
function isFirstShared(
  rule: DuplicateRule,
  key: string,
  first: EntityState | undefined,
  second: EntityState | undefined,
): boolean {
  if (key === "" || first === undefined || second === undefined) return true;
  const [values, others] = [SOURCES[rule].keysOf(first), SOURCES[rule].keysOf(second)];
  const shared = values.filter((value) => others.includes(value));
  return shared.length <= 1 || shared[0] === key;
}

async function readCompared(
  db: Statements,
  organizationId: string,
  ids: readonly string[],
): Promise<Map<string, EntityState>> {
  const rows = await db.execute<unknown[]>(
    `select ${COMPARED_COLUMNS} from entity e where e.organization_id = $1 and e.id = any($2::uuid[]) and ${LIVE}`,
    [organizationId, ids],
  );
  return new Map(rows.map(toState).map((state) => [state.id, state]));
}
