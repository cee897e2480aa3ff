// Transactions and user events. Both carry the entity's id and a copy of its primary external id, which
// ChangeExternalId rewrites: so recorders hold their parties while they copy.

import { type Bound, bytesOf, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import { DomainError, notFound } from "../domain/errors.ts";
import type { JsonObject } from "../domain/json.ts";
import { type Lookup, lookupKeys, resolve } from "../domain/lookup.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { findHits, type Keys, shareEntities } from "./lookups.ts";

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

const MAX_ROUNDS = 5;

/**
 * Rule 50: the entities that the lookups name, locked FOR SHARE in id order until the transaction ends, so
 * that no external id moves between the copy and the commit. Undefined for a side without a lookup.
 * A lookup that names none, several or a deleted one refuses the whole list, with its index.
 */
export async function holdParties(
  db: Statements,
  organizationId: string,
  parties: readonly { lookup: Lookup | undefined; field: string; index: number }[],
): Promise<({ id: string; externalId: string | null } | undefined)[]> {
  const keys: Keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
  for (const { lookup } of parties) if (lookup !== undefined) lookupKeys(lookup, keys);
  const held = new Map<string, { id: string; external_id: string | null; deleted: boolean }>();

  for (let round = 1; round <= MAX_ROUNDS; round++) {
    const hits = await findHits(db, organizationId, keys);
    const ids = parties.map(({ lookup, field, index }) => {
      if (lookup === undefined) return undefined;
      const id = at(field, index, () => resolve(lookup, hits));
      if (id === undefined) throw at(field, index, () => notFound(lookup.by));
      return id;
    });
    const wanted = [...new Set(ids)].filter((id) => id !== undefined && !held.has(id)) as string[];
    if (wanted.length === 0) {
      return parties.map(({ lookup, field, index }, i) => {
        const id = ids[i];
        if (lookup === undefined || id === undefined) return undefined;
        const entity = held.get(id);
        if (entity === undefined) throw at(field, index, () => notFound(lookup.by));
        if (entity.deleted) {
          throw withField(
            new DomainError("ENTITY_DELETED", "The entity is deleted: UndeleteEntity brings it back", {
              entity_id: id,
              allowed: "UndeleteEntity",
            }),
            field,
            index,
          );
        }
        return { id, externalId: entity.external_id };
      });
    }
    const rows = await shareEntities(db, organizationId, wanted);
    for (const row of rows) held.set(row.id, row);
    const missing = wanted.find((id) => !held.has(id));
    if (missing !== undefined) {
      const { lookup, field, index } = parties[ids.indexOf(missing)] as (typeof parties)[number];
      throw withField(notFound(lookup?.by ?? "entity_id"), field, index);
    }
  }
  throw new DomainError("WRITE_CONFLICT", "The lookups kept moving: retry", { retry_after_ms: "100" });
}

/** Runs `work`; a refusal of it, or one that it answers, says which item of the list was at fault. */
function at<T>(field: string, index: number, work: () => T): T {
  try {
    const value = work();
    return value instanceof DomainError ? (withField(value, field, index) as T) : value;
  } catch (error) {
    throw error instanceof DomainError ? withField(error, field, index) : error;
  }
}

function withField(error: DomainError, field: string, index: number): DomainError {
  return new DomainError(error.reason, `${field}: ${error.message}`, {
    ...error.metadata,
    field,
    index: String(index),
  });
}

/** Inserts what is new, and answers what was there already, by external id. */
export async function insertTransactions(
  db: Statements,
  organizationId: string,
  rows: readonly StoredTransaction[],
): Promise<Map<string, StoredTransaction>> {
  // Sorted, so that two lists with the same ids wait for each other instead of deadlocking.
  const sorted = rows.toSorted((a, b) => ((a.externalId ?? a.id) < (b.externalId ?? b.id) ? -1 : 1));
  const inserted = await db.execute<{ id: string }[]>(
    `insert into transaction (organization_id, id, external_id, type, status, amount, currency, origin_entity_id,
       origin_external_id, origin_name, origin_country, destination_entity_id, destination_external_id,
       destination_name, destination_country, transacted_at, details, content_hash)
     select $1::uuid, v.* from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::uuid[],
       $9::text[], $10::text[], $11::text[], $12::uuid[], $13::text[], $14::text[], $15::text[], $16::timestamptz[],
       $17::jsonb[], $18::bytea[]) as v
     on conflict (organization_id, external_id) where external_id is not null do nothing returning id`,
    [
      organizationId,
      sorted.map((t) => t.id),
      sorted.map((t) => t.externalId),
      sorted.map((t) => t.type),
      sorted.map((t) => t.status),
      sorted.map((t) => t.amount),
      sorted.map((t) => t.currency),
      ...([(t) => t.origin, (t) => t.destination] as ((t: StoredTransaction) => StoredParty)[]).flatMap((side) => [
        sorted.map((t) => side(t).entityId),
        sorted.map((t) => side(t).externalId),
        sorted.map((t) => side(t).name),
        sorted.map((t) => side(t).country),
      ]),
      sorted.map((t) => instantToText(t.transactedAt)),
      sorted.map((t) => (t.details === null ? null : JSON.stringify(t.details))),
      sorted.map((t) => t.contentHash),
    ],
  );
  if (inserted.length === rows.length) return new Map();
  const fresh = new Set(inserted.map((row) => row.id));
  const old = await db.execute<unknown[]>(
    `${SELECT_TRANSACTIONS} where t.organization_id = $1 and t.external_id = any($2::text[])`,
    [organizationId, rows.filter((row) => !fresh.has(row.id)).map((row) => row.externalId)],
  );
  return new Map(old.map(toTransaction).map((row) => [row.externalId ?? "", row]));
}

export async function insertUserEvents(
  db: Statements,
  organizationId: string,
  rows: readonly StoredUserEvent[],
): Promise<void> {
  await db.execute(
    `insert into user_event (organization_id, id, entity_id, entity_external_id, event_type, occurred_at, payload)
     select $1::uuid, v.* from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $7::jsonb[]) as v`,
    [
      organizationId,
      rows.map((row) => row.id),
      rows.map((row) => row.entityId),
      rows.map((row) => row.entityExternalId),
      rows.map((row) => row.eventType),
      rows.map((row) => instantToText(row.occurredAt)),
      rows.map((row) => (row.payload === null ? null : JSON.stringify(row.payload))),
    ],
  );
}

// Rows that carry an entity's id and no copy show its current primary (rule 49).
const SELECT_TRANSACTIONS = `
  select t.id, t.external_id, t.type, t.status, t.amount, t.currency, t.transacted_at, t.details, t.content_hash,
    t.origin_entity_id, coalesce(t.origin_external_id, o.external_id) as origin_external_id, t.origin_name, t.origin_country,
    t.destination_entity_id, coalesce(t.destination_external_id, d.external_id) as destination_external_id,
    t.destination_name, t.destination_country,
    ${bytesOf("t", ["details", "type", "status", "origin_name", "destination_name"])} as bytes
  from transaction t
  left join entity o on o.organization_id = t.organization_id and o.id = t.origin_entity_id
  left join entity d on d.organization_id = t.organization_id and d.id = t.destination_entity_id`;

function toTransaction(row: unknown): StoredTransaction {
  const r = row as Record<string, string | null>;
  const party = (side: "origin" | "destination"): StoredParty => ({
    entityId: r[`${side}_entity_id`] ?? null,
    externalId: r[`${side}_external_id`] ?? null,
    name: r[`${side}_name`] ?? null,
    country: r[`${side}_country`] ?? null,
  });
  return {
    id: r.id as string,
    externalId: r.external_id ?? null,
    type: r.type as string,
    status: r.status ?? null,
    amount: r.amount as string,
    currency: r.currency as string,
    origin: party("origin"),
    destination: party("destination"),
    transactedAt: parseInstant(r.transacted_at as string),
    details: r.details as unknown as JsonObject | null,
    contentHash: r.content_hash as unknown as Buffer,
  };
}

/** The transactions of an entity, on either side, newest first. Each side is read from its own index. */
export async function listTransactions(
  db: Statements,
  organizationId: string,
  entityId: string,
  before: Cursor | undefined,
  bound: Bound,
): Promise<Part<StoredTransaction>> {
  const older = before === undefined ? "" : "and (s.transacted_at, s.id) < ($4::timestamptz, $5::uuid)";
  const side = (name: string) =>
    `(select s.id from transaction s where s.organization_id = $1 and s.${name}_entity_id = $2 ${older}
      order by s.transacted_at desc, s.id desc limit $3)`;
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `${SELECT_TRANSACTIONS}
       where t.organization_id = $1 and t.id in (${side("origin")} union ${side("destination")})
       order by t.transacted_at desc, t.id desc limit $3`,
      bound.bytes,
      "transacted_at desc, id desc",
    ),
    [organizationId, entityId, bound.rows, ...(before === undefined ? [] : [instantToText(before.at), before.id])],
  );
  return partOf(rows, toTransaction);
}

/** The user events of an entity, newest first. */
export async function listUserEvents(
  db: Statements,
  organizationId: string,
  entityId: string,
  before: Cursor | undefined,
  bound: Bound,
): Promise<Part<StoredUserEvent>> {
  const older = before === undefined ? "" : "and (u.occurred_at, u.id) < ($4::timestamptz, $5::uuid)";
  const rows = await db.execute<Record<string, string | null>[]>(
    withinBytes(
      `select u.id, u.entity_id, coalesce(u.entity_external_id, e.external_id) as entity_external_id, u.event_type,
       u.occurred_at, u.payload, ${bytesOf("u", ["payload", "event_type"])} as bytes
     from user_event u join entity e on e.organization_id = u.organization_id and e.id = u.entity_id
     where u.organization_id = $1 and u.entity_id = $2 ${older}
     order by u.occurred_at desc, u.id desc limit $3`,
      bound.bytes,
      "occurred_at desc, id desc",
    ),
    [organizationId, entityId, bound.rows, ...(before === undefined ? [] : [instantToText(before.at), before.id])],
  );
  return partOf(rows, (row: Record<string, string | null>) => ({
    id: row.id as string,
    entityId: row.entity_id as string,
    entityExternalId: row.entity_external_id ?? null,
    eventType: row.event_type as string,
    occurredAt: parseInstant(row.occurred_at as string),
    payload: row.payload as unknown as JsonObject | null,
  }));
}
