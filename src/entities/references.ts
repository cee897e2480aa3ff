// Rows that carry copies of an entity's external id.
import type { Statements } from "../db/statements.ts";

/** Rule 49: rewrites the copies of a primary that moved, or removes those of one without a next. Returns the number of rows per table. */
export async function rewriteCopies(
  db: Statements,
  organizationId: string,
  move: { entityId: string; previous: string; next: string | null },
): Promise<{ transactions: number; userEvents: number }> {
  const [row] = await db.execute<{ transactions: string; user_events: string }[]>(
    // In id order: two changers whose entities share transactions would deadlock otherwise.
    `with r as (
       select id from transaction
       where organization_id = $1 and (origin_external_id = $3 or destination_external_id = $3)
       order by id for no key update
     ), t as (
       update transaction x set
         origin_external_id = case when x.origin_external_id = $3 then $4 else x.origin_external_id end,
         destination_external_id = case when x.destination_external_id = $3 then $4 else x.destination_external_id end
       from r where x.organization_id = $1 and x.id = r.id
       returning 1
     ), u as (
       update user_event set entity_external_id = $4
       where organization_id = $1 and (entity_external_id = $3 or entity_id = $2)
       returning 1
     )
     select (select count(*) from t) as transactions, (select count(*) from u) as user_events`,
    [organizationId, move.entityId, move.previous, move.next],
  );
  return { transactions: Number(row?.transactions), userEvents: Number(row?.user_events) };
}
