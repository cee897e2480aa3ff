// Pairs of entities that are known to be different (rule 111), as they are stored.

import { columnsOf, hydrator, insertOf, type RowOf, selected } from "../db/columns.ts";
import { EntityDistinctRow } from "../db/schema.ts";
import type { Pipeline, Statements } from "../db/statements.ts";
import { type Instant, instantToText } from "../domain/time.ts";

export type DistinctPair = RowOf<typeof EntityDistinctRow>;

const COLUMNS = columnsOf(EntityDistinctRow);
const PAIR_COLUMNS = selected(COLUMNS, "d");
const toPair: (row: unknown) => DistinctPair = hydrator<typeof EntityDistinctRow>(COLUMNS);
const insertRows = insertOf<DistinctPair>("entity_distinct", COLUMNS);

/** Two entities in the order of their ids. */
export const ordered = (a: string, b: string): { lowId: string; highId: string } =>
  a < b ? { lowId: a, highId: b } : { lowId: b, highId: a };

/** The mark of the two that holds. */
export async function findDistinct(
  db: Statements,
  organizationId: string,
  { lowId, highId }: { lowId: string; highId: string },
): Promise<DistinctPair | undefined> {
  const [row] = await db.execute<unknown[]>(
    `select ${PAIR_COLUMNS} from entity_distinct d
     where d.organization_id = $1 and d.low_id = $2 and d.high_id = $3 and d.lifted_at is null`,
    [organizationId, lowId, highId],
  );
  return row === undefined ? undefined : toPair(row);
}

export function recordDistinct(db: Pipeline, organizationId: string, pair: DistinctPair): void {
  db.send(...insertRows(organizationId, [pair]));
}

export function recordLifted(db: Pipeline, organizationId: string, { id, liftedAt, liftEventId }: DistinctPair): void {
  db.send(
    "update entity_distinct set lifted_at = $3::timestamptz, lift_event_id = $4 where organization_id = $1 and id = $2",
    [organizationId, id, liftedAt && instantToText(liftedAt), liftEventId],
  );
}

/** The marks of an entity and of those that are merged into it, newest first. Each side is read from its own index. */
export async function listDistinct(
  db: Statements,
  organizationId: string,
  entityId: string,
  { before, rows }: { before: { markedAt: Instant; id: string } | undefined; rows: number },
): Promise<DistinctPair[]> {
  const older = before === undefined ? "" : "and (d.marked_at, d.id) < ($4::timestamptz, $5::uuid)";
  const side = (name: string) => `(
    select d.id from (select $2::uuid as id union all
      select g.id from entity g where g.organization_id = $1 and g.survivor_id = $2::uuid) m
    cross join lateral (
      select d.id, d.marked_at from entity_distinct d where d.${name}_id = m.id and d.organization_id = $1 ${older}
      order by d.marked_at desc, d.id desc limit $3) d
    order by d.marked_at desc, d.id desc limit $3)`;
  const found = await db.execute<unknown[]>(
    `select d.* from (${side("low")} union ${side("high")}) x
     cross join lateral (
       select ${PAIR_COLUMNS} from entity_distinct d where d.organization_id = $1 and d.id = x.id offset 0) d
     order by d.marked_at desc, d.id desc limit $3`,
    [organizationId, entityId, rows, ...(before === undefined ? [] : [instantToText(before.markedAt), before.id])],
  );
  return found.map(toPair);
}
