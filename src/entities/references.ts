// Rows that carry copies of an entity's external id.
import type { Statements } from "../db/statements.ts";

/** The rows of an entity whose copies are replaced: those whose own entity it is, whatever that was merged into. */
export interface CopyMove {
  entityId: string;
  previous: string;
  next: string | null;
}

/** The rows that one statement rewrites: many more would not end within its time. */
const STEP = 5_000;

/** Where the next step goes on: behind this row, in the order of time and id. */
interface Place {
  at: string;
  id: string;
}

/**
 * Transactions in the order of their times and ids, both sides of one in one step: two changers whose entities share
 * transactions would deadlock otherwise. Each side is read from its own index.
 */
const TRANSACTIONS = (isFirst: boolean): string => {
  const side = (name: string) => `(
      select t.id, t.transacted_at as at from transaction t
      where t.organization_id = $1 and t.${name}_entity_id = $2 and t.${name}_external_id = $3
        ${isFirst ? "" : "and (t.transacted_at, t.id) > ($5::timestamptz, $6::uuid)"}
      order by t.transacted_at, t.id limit ${STEP})`;
  const rewritten = (name: string) =>
    `${name}_external_id = case when x.${name}_entity_id = $2 and x.${name}_external_id = $3 then $4 else x.${name}_external_id end`;
  return `with due as materialized (
      select d.id, d.at from (${side("origin")} union ${side("destination")}) d order by d.at, d.id limit ${STEP}
    ), held as materialized (
      select t.id from transaction t where t.organization_id = $1 and t.id = any(array(select d.id from due d))
      order by t.transacted_at, t.id for no key update of t
    ), done as (
      update transaction x set ${rewritten("origin")}, ${rewritten("destination")}
      where x.organization_id = $1 and x.id = any(array(select h.id from held h))
    )
    select count(*) over () as count, d.at::text as at, d.id from due d order by d.at desc, d.id desc limit 1`;
};

/** User events have one entity each: nobody else rewrites them. Those without a copy get one too. */
const USER_EVENTS = (isFirst: boolean): string => `with due as materialized (
    select u.id, u.occurred_at as at from user_event u
    where u.organization_id = $1 and u.entity_id = $2
      and (u.entity_external_id = $3 or $4::text is not null and u.entity_external_id is null)
      ${isFirst ? "" : "and (u.occurred_at, u.id) > ($5::timestamptz, $6::uuid)"}
    order by u.occurred_at, u.id limit ${STEP}
  ), done as (
    update user_event x set entity_external_id = $4
    where x.organization_id = $1 and x.id = any(array(select d.id from due d))
  )
  select count(*) over () as count, d.at::text as at, d.id from due d order by d.at desc, d.id desc limit 1`;

const STEPS = [TRANSACTIONS, USER_EVENTS].map((text) => ({ first: text(true), further: text(false) }));

/** There are more copies than a transaction in which others wait may rewrite. */
export class ManyCopies extends Error {
  constructor() {
    super("more copies of an external id than others can wait for");
  }
}

/** Rows of each table. */
export interface Rewritten {
  transactions: number;
  userEvents: number;
}

/** Copies that a transaction has rewritten, by the ids of their entities. */
export type RewrittenOf = Map<string, Rewritten>;

/** Adds rows of an entity, and answers all of it. */
export function addRewritten(all: RewrittenOf, entityId: string, { transactions, userEvents }: Rewritten): Rewritten {
  const before = all.get(entityId) ?? { transactions: 0, userEvents: 0 };
  const sum = { transactions: before.transactions + transactions, userEvents: before.userEvents + userEvents };
  all.set(entityId, sum);
  return sum;
}

/**
 * Rules 49, 99: rewrites the copies of a primary that moved, or removes those of one without a next. Returns the number of
 * rows per table, and whether they are more than one step. Where others wait for the transaction it is `isShort`, and
 * throws ManyCopies then.
 */
export async function rewriteCopies(
  db: Statements,
  organizationId: string,
  { entityId, previous, next }: CopyMove,
  { isShort }: { isShort: boolean },
): Promise<Rewritten & { areMany: boolean }> {
  const [transactions = 0, userEvents = 0] = await Promise.all(
    STEPS.map(async ({ first, further }) => {
      let rows = 0;
      let place: Place | undefined;
      for (;;) {
        const values = [organizationId, entityId, previous, next];
        const [last]: (Place & { count: string })[] = await (place === undefined
          ? db.execute<(Place & { count: string })[]>(first, values)
          : db.execute<(Place & { count: string })[]>(further, [...values, place.at, place.id]));
        if (last === undefined) return rows;
        rows += Number(last.count);
        if (Number(last.count) < STEP) return rows;
        if (isShort) throw new ManyCopies();
        place = { at: last.at, id: last.id };
      }
    }),
  );
  return { transactions, userEvents, areMany: transactions > STEP || userEvents > STEP };
}
