// Transactions and user events. Both carry the entity's id and a copy of its primary external id, which
// ChangeExternalId rewrites: so recorders lock their parties while they copy.

import { type Bound, bytesOf, type Part, partOf, withinBytes } from "../db/bytes.ts";
import { type Column, columnsOf, hydrator, insertOf, selected } from "../db/columns.ts";
import { TransactionRow, UserEventRow } from "../db/schema.ts";
import type { Statements } from "../db/statements.ts";
import type { JsonObject } from "../domain/json.ts";
import { type Instant, instantToText } from "../domain/time.ts";

/** One side of a transaction; all null for a side that was not given. */
export interface StoredParty {
  entityId: string | null;
  externalId: string | null;
  name: string | null;
  country: string | null;
}

export interface StoredTransaction {
  id: string;
  externalId: string | null;
  type: string;
  status: string | null;
  amount: string;
  currency: string;
  origin: StoredParty;
  destination: StoredParty;
  transactedAt: Instant;
  details: JsonObject | null;
  contentHash: Buffer;
}

export interface StoredUserEvent {
  id: string;
  entityId: string;
  entityExternalId: string | null;
  eventType: string;
  occurredAt: Instant;
  payload: JsonObject | null;
}

/** Where the next page begins: rows older than this one. */
export interface Cursor {
  at: Instant;
  id: string;
}

/** Inserts what is new, and answers what was there already, by external id, as it is shown. */
export async function insertTransactions(
  db: Statements,
  organizationId: string,
  rows: readonly StoredTransaction[],
): Promise<Map<string, StoredTransaction>> {
  // Sorted, so that two lists with the same ids wait for each other instead of deadlocking.
  const sorted = rows.toSorted((a, b) => ((a.externalId ?? a.id) < (b.externalId ?? b.id) ? -1 : 1));
  const inserted = await db.execute<{ id: string }[]>(
    ...insertTransactionRows(organizationId, sorted.map(toTransactionRow)),
  );
  if (inserted.length === rows.length) return new Map();
  const fresh = new Set(inserted.map((row) => row.id));
  const old = await db.execute<unknown[]>(
    `${selectTransactions("transaction t")} where t.organization_id = $1 and t.external_id = any($2::text[])`,
    [organizationId, rows.filter((row) => !fresh.has(row.id)).map((row) => row.externalId)],
  );
  return new Map(old.map(toTransaction).map((row) => [row.externalId ?? "", row]));
}

export async function insertUserEvents(
  db: Statements,
  organizationId: string,
  rows: readonly StoredUserEvent[],
): Promise<void> {
  await db.execute(...insertUserEventRows(organizationId, rows));
}

const TRANSACTION_COLUMNS = columnsOf(TransactionRow).filter(isGiven);
const USER_EVENT_COLUMNS = columnsOf(UserEventRow).filter(isGiven);

/** The statement sets the organization, and the database the time at which a row was recorded. */
function isGiven({ property }: Column): boolean {
  return property !== "organizationId" && property !== "recordedAt";
}

const insertTransactionRows = insertOf<ReturnType<typeof toTransactionRow>>("transaction", TRANSACTION_COLUMNS, {
  rest: "on conflict (organization_id, external_id) where external_id is not null do nothing returning id",
});
const insertUserEventRows = insertOf<StoredUserEvent>("user_event", USER_EVENT_COLUMNS);

const toTransactionRow = ({ origin, destination, ...transaction }: StoredTransaction) => ({
  ...transaction,
  originEntityId: origin.entityId,
  originExternalId: origin.externalId,
  originName: origin.name,
  originCountry: origin.country,
  destinationEntityId: destination.entityId,
  destinationExternalId: destination.externalId,
  destinationName: destination.name,
  destinationCountry: destination.country,
});

/**
 * Rules 49, 97: a row shows its entity with the copy that it has, or without one with the current primary; an entity that
 * was merged as its survivor, with the survivor's primary.
 */
const shown = (party: string, { id, copy }: { id: string; copy: string }) => ({
  id: `coalesce(${party}.survivor_id, ${id})`,
  externalId: `case when ${party}.survivor_id is null then coalesce(${copy}, ${party}.external_id)
    else ${party}.survivors_external_id end`,
});
/** A party of the row `row`. Looked up for each row, by OFFSET: what is joined may be read whole before there are statistics. */
const withParty = (party: string, row: string, id: string) => `left join lateral (
    select e.survivor_id, e.external_id, v.external_id as survivors_external_id from entity e
    left join lateral (
      select s.external_id from entity s where s.organization_id = e.organization_id and s.id = e.survivor_id offset 0) v on true
    where e.organization_id = ${row}.organization_id and e.id = ${id} offset 0) ${party} on true`;
const ORIGIN = shown("o", { id: "t.origin_entity_id", copy: "t.origin_external_id" });
const DESTINATION = shown("d", { id: "t.destination_entity_id", copy: "t.destination_external_id" });
const EVENT_ENTITY = shown("e", { id: "u.entity_id", copy: "u.entity_external_id" });

/** `source` has the rows as `t`. */
const selectTransactions = (source: string) => `
  select ${selected(TRANSACTION_COLUMNS, "t", {
    originEntityId: ORIGIN.id,
    originExternalId: ORIGIN.externalId,
    destinationEntityId: DESTINATION.id,
    destinationExternalId: DESTINATION.externalId,
  })},
    ${bytesOf("t", ["details", "type", "status", "origin_name", "destination_name"])} as bytes
  from ${source}
  ${withParty("o", "t", "t.origin_entity_id")}
  ${withParty("d", "t", "t.destination_entity_id")}`;

/** `source` has the rows as `u`. */
const selectUserEvents = (source: string) => `
  select ${selected(USER_EVENT_COLUMNS, "u", {
    entityId: EVENT_ENTITY.id,
    entityExternalId: EVENT_ENTITY.externalId,
  })}, ${bytesOf("u", ["payload", "event_type"])} as bytes
  from ${source}
  ${withParty("e", "u", "u.entity_id")}`;

/** The rows of a table with these ids, each by its key. */
const byIds = (table: string, row: string, ids: string) => `(${ids}) x cross join lateral (
    select r.* from ${table} r where r.organization_id = $1 and r.id = x.id offset 0) ${row}`;

const readTransaction = hydrator<typeof TransactionRow>(TRANSACTION_COLUMNS);
const toUserEvent: (row: unknown) => StoredUserEvent = hydrator<typeof UserEventRow>(USER_EVENT_COLUMNS);

function toTransaction(row: unknown): StoredTransaction {
  const t = readTransaction(row);
  return {
    id: t.id,
    externalId: t.externalId,
    type: t.type,
    status: t.status,
    amount: t.amount,
    currency: t.currency,
    origin: {
      entityId: t.originEntityId,
      externalId: t.originExternalId,
      name: t.originName,
      country: t.originCountry,
    },
    destination: {
      entityId: t.destinationEntityId,
      externalId: t.destinationExternalId,
      name: t.destinationName,
      country: t.destinationCountry,
    },
    transactedAt: t.transactedAt,
    details: t.details,
    contentHash: t.contentHash,
  };
}

/** The entity $2 and all that were merged into it. */
const GROUP = `(select $2::uuid as id union all
  select g.id from entity g where g.organization_id = $1 and g.survivor_id = $2::uuid) m`;

/** The transactions of an entity and of those that were merged into it, on either side, newest first. Each side of each is read from its own index. */
export async function listTransactions(
  db: Statements,
  organizationId: string,
  entityId: string,
  before: Cursor | undefined,
  bound: Bound,
): Promise<Part<StoredTransaction>> {
  const older = before === undefined ? "" : "and (s.transacted_at, s.id) < ($4::timestamptz, $5::uuid)";
  const side = (name: string) =>
    `(select s.id from ${GROUP} cross join lateral (
        select s.id, s.transacted_at from transaction s
        where s.organization_id = $1 and s.${name}_entity_id = m.id ${older}
        order by s.transacted_at desc, s.id desc limit $3) s
      order by s.transacted_at desc, s.id desc limit $3)`;
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `${selectTransactions(byIds("transaction", "t", `${side("origin")} union ${side("destination")}`))}
       order by t.transacted_at desc, t.id desc limit $3`,
      bound.bytes,
      "transacted_at desc, id desc",
    ),
    [organizationId, entityId, bound.rows, ...(before === undefined ? [] : [instantToText(before.at), before.id])],
  );
  return partOf(rows, toTransaction);
}

/** The user events of an entity and of those that were merged into it, newest first. */
export async function listUserEvents(
  db: Statements,
  organizationId: string,
  entityId: string,
  before: Cursor | undefined,
  bound: Bound,
): Promise<Part<StoredUserEvent>> {
  const older = before === undefined ? "" : "and (u.occurred_at, u.id) < ($4::timestamptz, $5::uuid)";
  const ids = `select s.id from ${GROUP} cross join lateral (
      select u.id, u.occurred_at from user_event u
      where u.organization_id = $1 and u.entity_id = m.id ${older}
      order by u.occurred_at desc, u.id desc limit $3) s
    order by s.occurred_at desc, s.id desc limit $3`;
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `${selectUserEvents(byIds("user_event", "u", ids))}
       order by u.occurred_at desc, u.id desc limit $3`,
      bound.bytes,
      "occurred_at desc, id desc",
    ),
    [organizationId, entityId, bound.rows, ...(before === undefined ? [] : [instantToText(before.at), before.id])],
  );
  return partOf(rows, toUserEvent);
}
