// What must be true of merged entities in every database after its tests: computed again from the rows, by the rules alone.
import { isDeepStrictEqual } from "node:util";
import type { Layer, LayeredValues } from "../src/domain/entity-state.ts";
import { survive } from "../src/domain/layer.ts";

type Sql = (text: string) => Promise<Record<string, unknown>[]>;

const QUERIES: Record<string, string> = {
  "rule 78: the survivor is where the chain of merged_into ends": `
    with recursive chain as (
      select e.organization_id, e.id, e.merged_into as at from entity e where e.merged_into is not null
      -- Not "union all": a cycle would never end.
      union
      select c.organization_id, c.id, e.merged_into from chain c
      join entity e on e.organization_id = c.organization_id and e.id = c.at where e.merged_into is not null
    ), root as (
      select c.organization_id, c.id, c.at from chain c
      join entity e on e.organization_id = c.organization_id and e.id = c.at where e.merged_into is null
    )
    select e.id from entity e left join root r on r.organization_id = e.organization_id and r.id = e.id
    where e.survivor_id is distinct from r.at`,
  "rule 106: the home of an external id is one of the group": `
    select x.external_id from external_id x where x.home_id is not null and not exists (
      select from entity e where e.organization_id = x.organization_id and e.id = x.home_id and e.survivor_id = x.entity_id)`,
  "rule 91: a merged entity has no external id, and is live": `
    select e.id from entity e where e.merged_into is not null and (e.external_id is not null or e.external_ids <> '[]'
      or e.deleted_at is not null
      or exists (select from external_id x where x.organization_id = e.organization_id and x.entity_id = e.id))`,
  "rule 110: whatever is merged is so by one merge that holds, and nothing else is": `
    select coalesce(e.id, m.secondary_id) from (select * from entity where merged_into is not null) e
    full join (select * from entity_merge where undone_at is null) m
      on m.organization_id = e.organization_id and m.secondary_id = e.id and m.primary_id = e.merged_into
    where e.id is null or m.id is null`,
  "rule 104: whoever has something merged into it has a layer, and nobody else": `
    select e.id from entity e where (e.layer is not null) <> exists (
      select from entity_merge m where m.organization_id = e.organization_id and m.primary_id = e.id and m.undone_at is null)`,
  "rule 88: at most 100 are merged into one": `
    select e.survivor_id from entity e where e.survivor_id is not null group by e.organization_id, e.survivor_id having count(*) > 100`,
  "rule 111: no two that are marked as distinct are one": `
    select d.id from entity_distinct d
    join entity low on low.organization_id = d.organization_id and low.id = d.low_id
    join entity high on high.organization_id = d.organization_id and high.id = d.high_id
    where d.lifted_at is null and coalesce(low.survivor_id, low.id) = coalesce(high.survivor_id, high.id)`,
  "rule 93: both events of a merge, and of its undoing, have its time": `
    select m.id from entity_merge m
    cross join lateral (values (m.merged_at, 'MERGED', m.secondary_id), (m.merged_at, 'MERGE_RECEIVED', m.primary_id),
      (m.undone_at, 'UNMERGED', m.secondary_id), (m.undone_at, 'MERGE_RETURNED', m.primary_id)) as w(at, type, entity_id)
    where w.at is not null
      and not exists (select from event_horizon h where h.organization_id = m.organization_id and h.recorded_at > w.at)
      and not exists (select from entity_event v where v.organization_id = m.organization_id and v.entity_id = w.entity_id
        and v.type = w.type and v.recorded_at = w.at and v.metadata ->> 'mergeId' = m.id::text)`,
};

/** What is wrong with the merged entities of a database. */
export async function brokenMerges(sql: Sql): Promise<string[]> {
  const broken: string[] = [];
  for (const [what, query] of Object.entries(QUERIES)) {
    for (const row of await sql(query)) broken.push(`${what}: ${Object.values(row)[0]}`);
  }
  return [...broken, ...(await unlikeTheirLayers(sql))];
}

const COLUMNS =
  "e.name, e.tax_id, e.status, e.nationality, e.risk_matrix_id, e.risk_score, e.entity_data, e.attributes, e.metadata";

const valuesOf = (row: Record<string, unknown>) =>
  ({
    ...{ name: row.name, taxId: row.tax_id, status: row.status, nationality: row.nationality },
    ...{ riskMatrixId: row.risk_matrix_id, riskScore: row.risk_score },
    ...{ entityData: row.entity_data, attributes: row.attributes, metadata: row.metadata },
  }) as LayeredValues;

/** Rule 102: what one sees of a survivor follows from its layer and from the rows of those that are merged into it. */
async function unlikeTheirLayers(sql: Sql): Promise<string[]> {
  const survivors = await sql(`select e.id, e.layer, ${COLUMNS} from entity e where e.layer is not null`);
  const contributions = await sql(`
    select m.primary_id, m.ordinal, ${COLUMNS} from entity_merge m
    join entity e on e.organization_id = m.organization_id and e.id = m.secondary_id
    where m.undone_at is null order by m.ordinal`);
  return survivors.flatMap((row) => {
    const layer = row.layer as Layer;
    const own = contributions
      .filter((one) => one.primary_id === row.id)
      .map((one) => ({ ordinal: Number(one.ordinal), values: valuesOf(one) }));
    if (own.some(({ ordinal }) => ordinal > layer.merges)) return [`${row.id}: its layer is older than a merge`];
    const expected = survive(layer.own, layer.held, own);
    return isDeepStrictEqual(plain(valuesOf(row)), plain(expected)) ? [] : [`${row.id}: is not what its layer says`];
  });
}

const plain = (value: unknown) => JSON.parse(JSON.stringify(value)) as unknown;
