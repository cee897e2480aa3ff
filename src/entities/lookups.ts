// Entities by the keys that callers have. Each form of a statement is one text for ever, so that
// PostgreSQL plans it once; organization_id is named beside row level security, since it is the first column of every index.

import type { Statements } from "../db/statements.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { LIMITS } from "../domain/limits.ts";
import { type Hits, tieOf } from "../domain/lookup.ts";
import { ENTITY_BYTES, ENTITY_COLUMNS, toState, WIDE_COLUMNS } from "./rows.ts";
import { addFormHit, type FormHits, formHitsOf, holdersOf, settleForms } from "./tax-id-holders.ts";

/** Keys to look entities up by: tax ids as their match keys. */
export interface Keys {
  entityIds: string[];
  externalIds: string[];
  taxIdKeys: string[];
}

/** Which entities match which key, to be added to. A tax id has at most LIMITS.candidates + 1 of them here. */
export interface FoundHits extends Hits {
  survivors: Map<string, string>;
  /** Ids that were asked for, of entities that are there and were merged into none. */
  present: Set<string>;
  externalIds: Map<string, string>;
  taxIdKeys: Map<string, string[]>;
  taxIdHomes: Map<string, string>;
  /** By tax id, what its canonical forms name, where that was asked for. */
  taxIdForms: FormHits;
  /** Tax ids that name what they do by a form alone. */
  byForm: Set<string>;
  /** By external id, the merged entity that brought it. Only where it was asked for. */
  externalIdHomes: Map<string, string>;
}

export const noHits = (): FoundHits => ({
  survivors: new Map(),
  present: new Set(),
  externalIds: new Map(),
  taxIdKeys: new Map(),
  taxIdHomes: new Map(),
  taxIdForms: new Map(),
  byForm: new Set(),
  externalIdHomes: new Map(),
});

/** Adds a value to those of a statement and answers its placeholder. */
export type Bind = (value: unknown) => string;

/**
 * What answers to the keys, as (by, key, id, home): the entity, and where the key is that of an entity that was merged
 * into it, that one. Only kinds of keys that are asked for are in the statement, so that each form has its own plan:
 * starting the parts that would find nothing costs more than a lookup.
 */
export function hitsOf({ externalIds, taxIdKeys }: Keys, bind: Bind): string[] {
  const parts: string[] = [];
  if (externalIds.length > 0) {
    parts.push(`select 'external_id' as by, x.external_id as key, x.entity_id as id, x.home_id as home
      from external_id x where x.organization_id = $1 and x.external_id = any(${bind(externalIds)}::text[])`);
  }
  if (taxIdKeys.length > 0) {
    parts.push(`select 'tax_id' as by, k.key, t.id, t.home
      from (select distinct u.key from unnest(${bind(taxIdKeys)}::text[]) as u(key)) k
      cross join lateral (${holdersOf("$1", "k.key")}) t`);
  }
  return parts;
}

/**
 * As whom the entity `m` answers: one step to the survivor, whatever the chain. CASE and not COALESCE, which row level
 * security takes for what may leak: no row could be joined by it in an index.
 */
export const SURVIVOR_OF_M = "case when m.survivor_id is null then m.id else m.survivor_id end";

/** What lookups by ids name. */
const namedByIds = (entityIds: string) => `
  select 'entity_id' as by, m.id::text as key, ${SURVIVOR_OF_M} as id,
    case when m.survivor_id is not null then m.id end as home
  from entity m where m.organization_id = $1 and m.id = any(${entityIds}::uuid[])`;

/** Asked for twice, a tax id would have each of its entities twice and look ambiguous. */
const distinct = (keys: readonly string[]) => [...new Set(keys)];

/** What answers to the keys, as `hitsOf` has it, to ids too, and to the forms of the tax ids among `formKeys`. */
function allHitsOf(keys: Keys, formKeys: readonly string[], bind: Bind): string[] {
  const parts = hitsOf({ ...keys, taxIdKeys: distinct(keys.taxIdKeys) }, bind);
  if (keys.entityIds.length > 0) parts.push(namedByIds(bind(keys.entityIds)));
  if (formKeys.length > 0) parts.push(formHitsOf(distinct(formKeys), bind));
  return parts;
}

/** Tax ids that no key names: only then their forms are looked for, and everything anew, for it is to be of one moment. */
const unnamed = ({ taxIdKeys }: Keys, hits: FoundHits): string[] => taxIdKeys.filter((key) => !hits.taxIdKeys.has(key));

/** Which entities the keys name now; of `claimed` ones also what their forms name, whatever the keys do. */
export async function findHits(
  db: Statements,
  organizationId: string,
  keys: Keys,
  claimed: readonly string[] = [],
): Promise<FoundHits> {
  const find = async (formKeys: readonly string[]) => {
    const hits = noHits();
    const values: unknown[] = [organizationId];
    const parts = allHitsOf(keys, formKeys, (value) => `$${values.push(value)}`);
    if (parts.length === 0) return hits;
    const rows = await db.execute<HitRow[]>(parts.join(" union all "), values);
    for (const row of rows) addHit(hits, row);
    settleForms(hits);
    return hits;
  };
  const hits = await find(claimed);
  const missing = unnamed(keys, hits).filter((key) => !claimed.includes(key));
  return missing.length === 0 ? hits : find([...claimed, ...missing]);
}

/** What answers to a key. */
export interface HitRow {
  by: string;
  key: string;
  id: string;
  /** The merged entity that the key is of; null for the entity's own. */
  home: string | null;
}

/** Adds what answers to a key. */
export function addHit(hits: FoundHits, { by, key, id, home }: HitRow): void {
  if (by === "external_id") {
    hits.externalIds.set(key, id);
    if (home !== null) hits.externalIdHomes.set(key, home);
  } else if (by === "tax_id_form") addFormHit(hits.taxIdForms, { key, id, home });
  else if (by === "tax_id") {
    hits.taxIdKeys.set(key, [...(hits.taxIdKeys.get(key) ?? []), id]);
    if (home !== null) hits.taxIdHomes.set(tieOf(key, id), home);
  } else if (home !== null) hits.survivors.set(key, id);
  else hits.present.add(id);
}

export interface FoundEntities {
  hits: FoundHits;
  entities: Map<string, EntityState>;
  /** Those that would have been too much at once: named, and not read. */
  leftOut: ReadonlySet<string>;
}

export const noneFound = (): FoundEntities & { leftOut: Set<string> } => ({
  hits: noHits(),
  entities: new Map(),
  leftOut: new Set(),
});

/** Rows whose columns fit in FOUND_BYTES, however large they are: measuring would cost a lookup more than it saves. */
export const FEW_ROWS = 40;

/** The most rows that a key of each kind names. */
export const MOST_ROWS: Record<keyof Keys, number> = {
  entityIds: 1,
  externalIds: 1,
  taxIdKeys: LIMITS.candidates + 1,
};

/** Bytes of the entities that are found at once, except for the last of them. */
const FOUND_BYTES = 4 * 1024 * 1024;

/** The entities that the keys name, of one moment, with the hits that led to them. */
export async function findEntities(db: Statements, organizationId: string, keys: Keys): Promise<FoundEntities> {
  const found = await findByKeys(db, organizationId, keys);
  const missing = unnamed(keys, found.hits);
  return missing.length === 0 ? found : findByKeys(db, organizationId, keys, missing);
}

/** The same in one statement: without the forms of tax ids, but for those among `formKeys`. */
export async function findByKeys(
  db: Statements,
  organizationId: string,
  keys: Keys,
  formKeys: readonly string[] = [],
): Promise<FoundEntities> {
  const { hits, entities, leftOut } = noneFound();
  const values: unknown[] = [organizationId];
  const bind: Bind = (value) => `$${values.push(value)}`;
  const parts = allHitsOf(keys, formKeys, bind);
  if (parts.length === 0) return { hits, entities, leftOut };
  const taxIds = keys.taxIdKeys.length + formKeys.length;
  const mostRows = keys.entityIds.length + keys.externalIds.length + taxIds * MOST_ROWS.taxIdKeys;
  const found = (measure: string) => `select hit.by, hit.key, hit.home, ${ENTITY_COLUMNS} ${measure}
     from (${parts.join(" union all ")}) hit join entity e on e.organization_id = $1 and e.id = hit.id`;
  const rows = await db.execute<(HitRow & { is_left_out?: boolean })[]>(
    mostRows <= FEW_ROWS ? found("") : withoutMost(found(`, ${ENTITY_BYTES} as bytes`)),
    values,
  );
  for (const row of rows) {
    addHit(hits, row);
    if (row.is_left_out) leftOut.add(row.id);
    else if (!entities.has(row.id)) entities.set(row.id, toState(row));
  }
  settleForms(hits);
  for (const id of entities.keys()) leftOut.delete(id);
  return { hits, entities, leftOut };
}

/** The rows of `select`, each with its `bytes`, without their wide columns behind the row that reaches FOUND_BYTES. */
function withoutMost(select: string): string {
  const wide = WIDE_COLUMNS.map((name) => `case when not e.is_left_out then e.${name} end as ${name}`);
  const narrow = ENTITY_COLUMNS.split(",").filter((name) => !WIDE_COLUMNS.includes(name.trim().replace("e.", "")));
  return `select e.by, e.key, e.home, ${[...narrow, ...wide].join(", ")}, e.is_left_out
    from (
      select q.*, sum(q.bytes) over (rows unbounded preceding) - q.bytes >= ${FOUND_BYTES} as is_left_out
      from (${select}) q) e`;
}
