// Entities of several organizations in one statement. Each key is looked up on its own, behind the setting of its own
// organization: row level security shows every lookup its own organization and no other (db/tenant.ts, settingOf).
import type { Statements } from "../db/statements.ts";
import { settingOf } from "../db/tenant.ts";
import { addHit, type FoundEntities, type HitRow, type Keys, noneFound, SURVIVOR_OF_M } from "./lookups.ts";
import { ENTITY_COLUMNS, toState } from "./rows.ts";
import { holdersOf } from "./tax-id-holders.ts";

/** How a kind of key finds its entities: in the organization `s.id`, by the text `q.key`. */
const LOOKUPS: Record<keyof Keys, { by: string; found: string }> = {
  externalIds: {
    by: "external_id",
    found: `select e.*, x.home_id as home from external_id x join entity e on e.organization_id = x.organization_id and e.id = x.entity_id
      where x.organization_id = s.id and x.external_id = q.key`,
  },
  entityIds: {
    by: "entity_id",
    found: `select e.*, case when m.survivor_id is not null then m.id end as home from entity m
      cross join lateral (
        select e.* from entity e where e.organization_id = s.id and e.id = ${SURVIVOR_OF_M} offset 0) e
      where m.organization_id = s.id and m.id = q.key::uuid`,
  },
  taxIdKeys: {
    by: "tax_id",
    found: `select e.*, t.home from (${holdersOf("s.id", "q.key")}) t
      cross join lateral (select e.* from entity e where e.organization_id = s.id and e.id = t.id offset 0) e`,
  },
};
const KINDS = Object.keys(LOOKUPS) as (keyof Keys)[];

/** The statement for some kinds of keys, which has two parameters for each: the organizations of the keys, and the keys. */
function statementOf(kinds: readonly (keyof Keys)[]): string {
  const parts = kinds.map((kind, i) => {
    const { by, found } = LOOKUPS[kind];
    return `select '${by}' as by, q.key, e.home, ${ENTITY_COLUMNS}
      from unnest($${2 * i + 1}::text[], $${2 * i + 2}::text[]) as q(organization, key)
      cross join lateral ${settingOf("q.organization")} s
      cross join lateral (${found} offset 0) e`;
  });
  return parts.join(" union all ");
}

/** By the kinds of keys in them. */
const statements = new Map<string, string>();

/** What the keys of each organization name, of one moment. Nothing is left out: ask for few. */
export async function findJoined(
  db: Statements,
  keysOf: ReadonlyMap<string, Keys>,
): Promise<Map<string, FoundEntities>> {
  const values: string[][] = [];
  const kinds = KINDS.filter((kind) => {
    const [organizations, keys]: [string[], string[]] = [[], []];
    for (const [organizationId, own] of keysOf) {
      for (const key of new Set(own[kind])) {
        organizations.push(organizationId);
        keys.push(key);
      }
    }
    if (keys.length > 0) values.push(organizations, keys);
    return keys.length > 0;
  });
  const text = statements.get(kinds.join()) ?? statementOf(kinds);
  statements.set(kinds.join(), text);
  const rows = await db.execute<(HitRow & { organization_id: string })[]>(text, values);
  const found = new Map([...keysOf.keys()].map((organizationId) => [organizationId, noneFound()]));
  for (const row of rows) {
    const own = found.get(row.organization_id);
    if (own === undefined) throw new Error("an entity of an organization that nobody asked for");
    const { hits, entities } = own;
    addHit(hits, row);
    if (!entities.has(row.id)) entities.set(row.id, toState(row));
  }
  return found;
}
