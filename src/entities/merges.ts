// Merges as they are stored: what the rules need to know of them, and what they leave beside the entities.

import { columnsOf, hydrator, insertOf, type RowOf, selected } from "../db/columns.ts";
import { EntityMergeRow } from "../db/schema.ts";
import type { Pipeline, Statements } from "../db/statements.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { type DomainError, mergeNotAllowed } from "../domain/errors.ts";
import type { Contribution } from "../domain/layer.ts";
import type { ActivityRows, MergeFacts } from "../domain/merge.ts";
import { type Instant, instantToText } from "../domain/time.ts";
import type { MergeRecord, UnmergeFacts } from "../domain/unmerge.ts";
import type { Author } from "./command.ts";
import { ENTITY_COLUMNS, toState } from "./rows.ts";

/** A merge with who, why and when. */
export type Merge = RowOf<typeof EntityMergeRow>;

const COLUMNS = columnsOf(EntityMergeRow);
const MERGE_COLUMNS = selected(COLUMNS, "m");
const toMerge: (row: unknown) => Merge = hydrator<typeof EntityMergeRow>(COLUMNS);
const insertRows = insertOf<Merge>("entity_merge", COLUMNS);

/** Rows of activity that are counted, of each kind: counting is no reason to wait for long. */
const MOST_ROWS = 100_000;

/**
 * What a merge of `secondaryId` into `primaryId` depends on, but for the layer: that is locked with the entity. Of two
 * entities that are locked, and so are their groups: whoever changes one has to lock its survivor.
 */
export async function readMergeFacts(
  db: Statements,
  organizationId: string,
  { primaryId, secondaryId }: { primaryId: string; secondaryId: string },
): Promise<Omit<MergeFacts, "primaryLayer">> {
  const [[found], rows] = await Promise.all([
    db.execute<{ last: number; primary: string; secondary: string; distinct_id: string | null }[]>(
      `with g as materialized (
         select u.id as root, u.id from unnest(array[$2, $3]::uuid[]) as u(id)
         union all
         select e.survivor_id, e.id from entity e
         where e.organization_id = $1 and e.survivor_id = any(array[$2, $3]::uuid[])
       )
       select
         (select coalesce(max(m.ordinal), 0) from entity_merge m
          where m.organization_id = $1 and m.primary_id = $2::uuid and m.ordinal > 0) as last,
         (select count(*) - 1 from g where g.root = $2::uuid) as primary,
         (select count(*) - 1 from g where g.root = $3::uuid) as secondary,
         (select d.id from g
          cross join lateral (
            select d.id, d.high_id from entity_distinct d
            where d.organization_id = $1 and d.low_id = g.id and d.lifted_at is null offset 0) d
          join g other on other.id = d.high_id and other.root <> g.root
          limit 1) as distinct_id`,
      [organizationId, primaryId, secondaryId],
    ),
    countRows(db, organizationId, secondaryId),
  ]);
  if (found === undefined) throw new Error("no answer to a question about two entities");
  return {
    lastOrdinal: found.last,
    primaryMembers: Number(found.primary),
    secondaryMembers: Number(found.secondary),
    distinctId: found.distinct_id ?? undefined,
    rows,
  };
}

/** The ids of an entity and of all that is merged into it, its own first. */
export async function readGroup(db: Statements, organizationId: string, entityId: string): Promise<string[]> {
  const rows = await db.execute<{ id: string }[]>(
    "select e.id from entity e where e.organization_id = $1 and e.survivor_id = $2::uuid",
    [organizationId, entityId],
  );
  return [entityId, ...rows.map(({ id }) => id).sort()];
}

/** The activity of an entity and of those that were merged into it, by the ids of `members` or, by default, as they are stored. */
async function countRows(
  db: Statements,
  organizationId: string,
  entityId: string,
  members?: readonly string[],
): Promise<ActivityRows> {
  const group =
    members === undefined
      ? "array(select $2::uuid union all select e.id from entity e where e.organization_id = $1 and e.survivor_id = $2::uuid)"
      : "array(select $2::uuid union all select u.id from unnest($3::uuid[]) as u(id))";
  const [row] = await db.execute<{ transactions: string; user_events: string }[]>(
    `select
       (select count(*) from (
          (select 1 from transaction t where t.organization_id = $1 and t.origin_entity_id = any(${group}) limit ${MOST_ROWS})
          union all
          (select 1 from transaction t where t.organization_id = $1 and t.destination_entity_id = any(${group})
             and (t.origin_entity_id is null or t.origin_entity_id <> all(${group})) limit ${MOST_ROWS})
          limit ${MOST_ROWS}) c) as transactions,
       (select count(*) from (
          select 1 from user_event u where u.organization_id = $1 and u.entity_id = any(${group}) limit ${MOST_ROWS}
        ) c) as user_events`,
    members === undefined ? [organizationId, entityId] : [organizationId, entityId, members],
  );
  return { transactions: Number(row?.transactions), userEvents: Number(row?.user_events) };
}

/** Writes a merge down; those that were merged into the secondary get the primary as their survivor. */
export function recordMerge(
  db: Pipeline,
  organizationId: string,
  merge: Omit<Merge, "organizationId" | `undone${string}`>,
) {
  const undone = { undoneAt: null, undoneReason: null, undoneActor: null, undonePrincipal: null, undoneSource: null };
  db.send(...insertRows(organizationId, [{ ...merge, ...undone, organizationId }]));
  db.send("update entity set survivor_id = $2 where organization_id = $1 and survivor_id = $3", [
    organizationId,
    merge.primaryId,
    merge.secondaryId,
  ]);
}

/** Undefined where the organization has no such merge. What says which entities it is of never changes. */
export async function findMerge(db: Statements, organizationId: string, id: string): Promise<Merge | undefined> {
  const [row] = await db.execute<unknown[]>(
    `select ${MERGE_COLUMNS} from entity_merge m where m.organization_id = $1 and m.id = $2`,
    [organizationId, id],
  );
  return row === undefined ? undefined : toMerge(row);
}

export const toRecord = ({ undoneAt, ...merge }: Merge): MergeRecord => ({ ...merge, isUndone: undoneAt !== null });

/** The merge by which an entity is merged now. */
async function findActiveMerge(
  db: Statements,
  organizationId: string,
  secondaryId: string,
): Promise<Merge | undefined> {
  const [row] = await db.execute<unknown[]>(
    `select ${MERGE_COLUMNS} from entity_merge m
     where m.organization_id = $1 and m.secondary_id = $2 and m.undone_at is null`,
    [organizationId, secondaryId],
  );
  return row === undefined ? undefined : toMerge(row);
}

/** Rule 103: only a merge that holds, into an entity that was not merged itself, can be undone. */
export async function refusalOf(
  db: Statements,
  organizationId: string,
  made: MergeRecord,
  survivor: EntityState,
): Promise<DomainError | undefined> {
  if (made.isUndone) return mergeNotAllowed("UNDONE", { merge_id: made.id });
  if (survivor.mergedInto === null) return undefined;
  const since = await findActiveMerge(db, organizationId, survivor.id);
  if (since === undefined) throw new Error("an entity is merged by no merge");
  return mergeNotAllowed("MERGED_SINCE", { merge_id: since.id });
}

/** What undoing a merge depends on beside the layer. Under the locks of its two entities. */
export async function readUnmergeFacts(
  db: Statements,
  organizationId: string,
  { id, primaryId, secondaryId, externalIds }: MergeRecord,
): Promise<Omit<UnmergeFacts, "merge" | "layer">> {
  const [merged, contributions, attached] = await Promise.all([
    db.execute<{ id: string; merged_into: string }[]>(
      "select e.id, e.merged_into from entity e where e.organization_id = $1 and e.survivor_id = $2",
      [organizationId, primaryId],
    ),
    db.execute<{ ordinal: number }[]>(
      `select m.ordinal, ${ENTITY_COLUMNS} from entity_merge m
       cross join lateral (
         select e.* from entity e where e.organization_id = $1 and e.id = m.secondary_id offset 0) e
       where m.organization_id = $1 and m.primary_id = $2 and m.ordinal > 0 and m.undone_at is null and m.id <> $3
       order by m.ordinal`,
      [organizationId, primaryId, id],
    ),
    // An empty list would be planned as if nothing were asked, by any index.
    externalIds.length === 0
      ? []
      : db.execute<{ external_id: string }[]>(
          "select x.external_id from external_id x where x.organization_id = $1 and x.external_id = any($2::text[])",
          [organizationId, externalIds.map(({ externalId }) => externalId)],
        ),
  ]);
  const members = membersOf(secondaryId, merged);
  return {
    members,
    remaining: contributions.map((row): Contribution => ({ ordinal: row.ordinal, values: toState(row) })),
    taken: new Set(attached.map((row) => row.external_id)),
    rows: await countRows(db, organizationId, secondaryId, [...members]),
  };
}

/** Those that are merged into an entity, directly or not. */
function membersOf(entityId: string, merged: readonly { id: string; merged_into: string }[]): Set<string> {
  const into = Map.groupBy(merged, (row) => row.merged_into);
  const members = new Set<string>();
  const add = (id: string) => {
    for (const member of into.get(id) ?? []) {
      members.add(member.id);
      add(member.id);
    }
  };
  add(entityId);
  return members;
}

/** Writes down that a merge was undone; `members` follow the secondary. */
export function recordUnmerge(
  db: Pipeline,
  organizationId: string,
  undone: { merge: MergeRecord; members: ReadonlySet<string>; author: Author; reason: string; at: Instant },
): void {
  const { merge, members, author, reason, at } = undone;
  db.send(
    `update entity_merge set undone_at = $3::timestamptz, undone_reason = $4, undone_actor = $5, undone_principal = $6,
       undone_source = $7 where organization_id = $1 and id = $2`,
    [organizationId, merge.id, instantToText(at), reason, author.actor, author.principal, author.source],
  );
  if (members.size === 0) return;
  db.send("update entity set survivor_id = $2 where organization_id = $1 and id = any($3::uuid[])", [
    organizationId,
    merge.secondaryId,
    [...members],
  ]);
}

/** Merges, newest first: of the organization, or of an entity and of all that were ever merged into it. */
export async function listMerges(
  db: Statements,
  organizationId: string,
  {
    entityId,
    before,
    rows,
  }: { entityId: string | undefined; before: { mergedAt: Instant; id: string } | undefined; rows: number },
): Promise<Merge[]> {
  const values: unknown[] = [organizationId, rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const older = (alias: string, cursor: readonly [string, string] | undefined) =>
    cursor === undefined
      ? ""
      : `and (${alias}.merged_at, ${alias}.id) < (${cursor[0]}::timestamptz, ${cursor[1]}::uuid)`;
  const of = entityId === undefined ? undefined : `${value(entityId)}::uuid`;
  const cursor = before && ([value(instantToText(before.mergedAt)), value(before.id)] as const);
  const order = (alias: string) => `order by ${alias}.merged_at desc, ${alias}.id desc limit $2`;
  // Whatever was merged into one of them, undone or not, belongs to the history of the entity. Each side is read from its
  // own index; the ordinals of a primary are in the order of time.
  const text =
    of === undefined
      ? `select ${MERGE_COLUMNS} from entity_merge m
         where m.organization_id = $1 and m.merged_at > '-infinity' ${older("m", cursor)} ${order("m")}`
      : `with recursive g as (
           select ${of} as id
           union
           select m.secondary_id from g cross join lateral (
             select m.secondary_id from entity_merge m where m.organization_id = $1 and m.primary_id = g.id and m.ordinal > 0 offset 0) m
         ), x as (
           select x.* from g cross join lateral (
             select x.id, x.merged_at from entity_merge x
             where x.organization_id = $1 and x.primary_id = g.id and x.ordinal > 0 ${older("x", cursor)}
             order by x.ordinal desc limit $2) x
           union
           (select x.id, x.merged_at from entity_merge x
            where x.secondary_id = ${of} and x.organization_id = $1 ${older("x", cursor)} ${order("x")})
         )
         select m.* from (select x.* from x ${order("x")}) x
         cross join lateral (
           select ${MERGE_COLUMNS} from entity_merge m where m.organization_id = $1 and m.id = x.id offset 0) m
         ${order("m")}`;
  return (await db.execute<unknown[]>(text, values)).map(toMerge);
}
