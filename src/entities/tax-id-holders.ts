// Which entities a tax id names: those that have its key, and where there are none, those whose country takes both for one
// number (rule 158). What has the key itself costs nothing more than before there were forms.
import { LIMITS } from "../domain/limits.ts";
import { tieOf } from "../domain/lookup.ts";
import { canonicalTaxId, type TaxIdForm, taxIdForms } from "../domain/tax-id.ts";

/** What matches, of the row of an alias. */
type Match = (row: string) => string;

/**
 * Rule 80: the live entities that a tax id names, by id, and the merged entity that has it where they do not have it
 * themselves. Each part goes by an index of its own.
 */
export const holdersOf = (organizationId: string, taxIdKey: string): string =>
  holdersBy(organizationId, [(row) => `${row}.tax_id_key = ${taxIdKey}`]);

/** The same by a form, in its country where it has one. A key that is its own canonical form is stored as the key alone. */
const holdersOfForm = (organizationId: string, form: string, country: string): string =>
  holdersBy(organizationId, matchesOfForm(form, country));

const matchesOfForm = (form: string, country: string): Match[] => [
  (row) => `${row}.tax_id_canonical = ${form} and (${country} is null or ${row}.country_code = ${country})`,
  (row) => `${row}.tax_id_key = ${form} and ${row}.country_code = ${country}`,
];

function holdersBy(organizationId: string, matches: readonly Match[]): string {
  const most = LIMITS.candidates + 1;
  const parts = matches.map(
    (matching) => `
      (select e.id, null::uuid as home, true as is_own from entity e
       where e.organization_id = ${organizationId} and ${matching("e")} and e.deleted_at is null
         and e.merged_into is null
       order by e.id limit ${most})
      union all
      (select distinct on (m.survivor_id) m.survivor_id, m.id, false from entity m
       cross join lateral (
         select from entity v where v.organization_id = ${organizationId} and v.id = m.survivor_id and v.deleted_at is null
         offset 0) v
       where m.organization_id = ${organizationId} and ${matching("m")} and m.merged_into is not null
       order by m.survivor_id, m.id limit ${most})`,
  );
  return `
    select c.id, case when not bool_or(c.is_own) then min(c.home::text)::uuid end as home from (
      ${parts.join(" union all ")}) c
    group by c.id order by c.id limit ${most}`;
}

/** Forms of the keys that were asked for last: a call asks for those of its keys several times. */
const lastForms = new Map<string, readonly TaxIdForm[]>();
/** Keys; each has a dozen short forms at most. */
const MAX_LAST = 4_000;

/** Keys with the forms that each may stand for. */
const formsOf = (keys: readonly string[]): (TaxIdForm & { key: string })[] =>
  keys.flatMap((key) => {
    const forms = lastForms.get(key) ?? taxIdForms(key);
    if (lastForms.size >= MAX_LAST) lastForms.clear();
    lastForms.set(key, forms);
    return forms.map((form) => ({ key, ...form }));
  });

/** What the forms of the keys name, as (by, key, id, home); an entity more than once where several of them do. */
export function formHitsOf(keys: readonly string[], bind: (value: unknown) => string): string {
  const forms = formsOf(keys);
  const columns = [forms.map(({ key }) => key), forms.map(({ form }) => form), forms.map((one) => one.countryCode)];
  return `select 'tax_id_form' as by, k.key, t.id, t.home
    from unnest(${columns.map((column) => `${bind(column)}::text[]`).join(", ")}) as k(key, form, country)
    cross join lateral (${holdersOfForm("$1", "k.form", "k.country")}) t`;
}

/** By tax id, what its forms name: each entity with the merged one that it was found by, null for itself. */
export type FormHits = Map<string, Map<string, string | null>>;

export function addFormHit(hits: FormHits, { key, id, home }: { key: string; id: string; home: string | null }): void {
  const holders = hits.get(key) ?? new Map<string, string | null>();
  hits.set(key, holders);
  if (holders.get(id) !== null) holders.set(id, home);
}

/** Lets the forms name what no key does. */
export function settleForms(hits: {
  taxIdKeys: Map<string, string[]>;
  taxIdHomes: Map<string, string>;
  taxIdForms: FormHits;
  byForm: Set<string>;
}): void {
  for (const [key, holders] of hits.taxIdForms) {
    if ((hits.taxIdKeys.get(key)?.length ?? 0) > 0) continue;
    hits.byForm.add(key);
    hits.taxIdKeys.set(key, [...holders.keys()].sort().slice(0, LIMITS.candidates + 1));
    for (const [id, home] of holders) if (home !== null) hits.taxIdHomes.set(tieOf(key, id), home);
  }
}

/** Texts of which two tax ids that one lookup could name have one in common: the key, and its forms. */
export const claimedTexts = (keys: readonly string[]): string[] => [
  ...new Set(formsOf(keys).flatMap(({ key, form }) => [key, form])),
];

/**
 * Tells which of `keys` may name an entity of this key and country by their forms. They are made once, and only where it
 * asks: a group may have many keys and many entities.
 */
export function formIndex(keys: readonly string[]): (key: string, countryCode: string) => string[] {
  let byForm: Map<string, (TaxIdForm & { key: string })[]> | undefined;
  return (key, countryCode) => {
    if (keys.length === 0) return [];
    byForm ??= Map.groupBy(formsOf(keys), ({ form }) => form);
    const named = byForm.get(canonicalTaxId(key, countryCode) ?? key) ?? [];
    return named.flatMap((one) => (one.countryCode === null || one.countryCode === countryCode ? [one.key] : []));
  };
}

/** For a list, where candidates are no matter: all that have the key, and their survivors. */
export const listedByKey = (key: string, { showDeleted }: { showDeleted: boolean }): string =>
  listedBy([(row) => `${row}.tax_id_key = ${key}`], showDeleted);

/** The same by the forms of a key. */
export function listedByForms(
  key: string,
  { showDeleted, bind }: { showDeleted: boolean; bind: (value: unknown) => string },
): string {
  const forms = taxIdForms(key);
  const columns = [forms.map(({ form }) => form), forms.map(({ countryCode }) => countryCode)];
  const [form, country] = ["k.form", "k.country"];
  return `select l.id from unnest(${columns.map((column) => `${bind(column)}::text[]`).join(", ")}) as k(form, country)
    cross join lateral (${listedBy(matchesOfForm(form, country), showDeleted)}) l(id)`;
}

/** Rule 85: each part by its own index. */
const listedBy = (matches: readonly Match[], showDeleted: boolean): string =>
  matches
    .flatMap((matching) => [
      ...["is null", ...(showDeleted ? ["is not null"] : [])].map(
        (deleted) => `
      select o.id from entity o where o.organization_id = $1 and ${matching("o")} and o.merged_into is null
        and o.deleted_at ${deleted}`,
      ),
      `
      select m.survivor_id from entity m
      where m.organization_id = $1 and ${matching("m")} and m.merged_into is not null`,
    ])
    .join(" union ");
