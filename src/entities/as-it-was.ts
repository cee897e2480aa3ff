// One entity as it was at a time: found by a key that was its own then, and read backwards from its row (domain/past.ts).

import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements, waitingStatements } from "../db/transaction.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { DomainError, invalidField, notFound } from "../domain/errors.ts";
import type { Lookup } from "../domain/lookup.ts";
import { type PastEntity, undo } from "../domain/past.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { readHistory } from "../log/history.ts";
import { readHorizon } from "../log/horizon.ts";
import type { Slots } from "../slots.ts";
import { ENTITY_COLUMNS, toState } from "./rows.ts";

/** A key whose entity of a time is known. */
export type PastLookup = Exclude<Lookup, { by: "tax_id" }>;

export interface PastReader {
  orm: Orm;
  /** For what may wait for a lock. */
  slots: Slots;
  /** For what only reads. */
  readSlots: Slots;
}

/** No write takes this long from the reading of its clock to its commit. */
const IN_FLIGHT: Instant = 60_000_000n;
/** Each time the key has another entity than the one that was waited for. */
const MAX_ROUNDS = 5;
/** The events that are read at once: few, for a time not long ago, then more. */
const FIRST_EVENTS = 8;
const MOST_EVENTS = 500;
const EVENTS_BYTES = 1024 * 1024;

/**
 * Rules 115 to 119: the entity that the key named at that time, after its last event of that time or before. Once answered,
 * it stays the answer for ever. Throws VALIDATION_ERROR for a time to come, NOT_FOUND, READ_TIME_EXPIRED, and WRITE_CONFLICT
 * where a write that may be of that time does not end.
 */
export async function findAsItWas(
  reader: PastReader,
  organizationId: string,
  { lookup, at, signal }: { lookup: PastLookup; at: Instant; signal: AbortSignal },
): Promise<PastEntity> {
  const { orm, readSlots } = reader;
  const read = <T>(work: (db: Statements) => Promise<T>) =>
    readSlots(organizationId, () => readStatements(orm, organizationId, work), { signal });
  let settled: string | undefined;
  for (let round = 1; round <= MAX_ROUNDS; round++) {
    const found = await read((db) => findHolder(db, organizationId, lookup, at));
    if (found.now < at) throw invalidField("read_time", "is later than the clock of the database");
    const { entity } = found;
    if (entity !== undefined && entity.createdAt > at) throw notFound(lookup.by);
    if (entity === undefined && lookup.by === "entity_id") throw notFound(lookup.by);
    if (found.horizon !== undefined && at < found.horizon) throw expired(found.horizon);
    if (entity === undefined) throw notFound(lookup.by);
    if (found.now - at >= IN_FLIGHT || settled === entity.id) return goBack(read, entity, at);
    if (await settle(reader, organizationId, { id: entity.id, at, signal })) settled = entity.id;
  }
  throw new DomainError("WRITE_CONFLICT", "The lookup kept moving: retry", { retry_after_ms: "100" });
}

/** The entity whose the key was, as it is now. */
interface Holder {
  entity: EntityState | undefined;
  /** The database's clock. */
  now: Instant;
  /** Where the log begins. */
  horizon: Instant | undefined;
}

const HOLDERS: Record<PastLookup["by"], string> = {
  entity_id: "select $2::uuid as id where $3::timestamptz is not null",
  external_id: `select x.entity_id as id from external_id x
    where x.organization_id = $1 and x.external_id = $2 and x.attached_at <= $3::timestamptz`,
};

async function findHolder(
  db: Statements,
  organizationId: string,
  { by, key }: PastLookup,
  at: Instant,
): Promise<Holder> {
  const [row] = await db.execute<{ id: string | null; now: string; is_standby: boolean; horizon: string | null }[]>(
    `select c.now, c.is_standby, h.recorded_at as horizon, ${ENTITY_COLUMNS}
     from (select clock_timestamp() as now, pg_is_in_recovery() as is_standby) c
     left join event_horizon h on h.organization_id = $1
     left join (${HOLDERS[by]}) holder on true
     left join entity e on e.organization_id = $1 and e.id = holder.id`,
    [organizationId, key, instantToText(at)],
  );
  if (row === undefined) throw new Error("a clock has no time");
  // What it has not yet heard of may be of that time.
  if (row.is_standby) {
    throw new DomainError("DATABASE_UNAVAILABLE", "The database is a standby, which may lag behind: retry", {
      retry_after_ms: "500",
    });
  }
  return {
    entity: row.id === null ? undefined : toState(row),
    now: parseInstant(row.now),
    horizon: row.horizon === null ? undefined : parseInstant(row.horizon),
  };
}

/**
 * Waits for the write that holds the entity, whose time may be before `at`: clocks are read under the lock. Whether every
 * later write will be later than `at`. In a statement of its own, so that what follows sees that write, and so that the
 * lock is gone at once. It leaves nothing in the database that a crash could lose: there is nothing to wait for at its
 * commit.
 */
async function settle(
  { orm, slots }: PastReader,
  organizationId: string,
  { id, at, signal }: { id: string; at: Instant; signal: AbortSignal },
): Promise<boolean> {
  const lock = (db: Statements) =>
    db.execute<{ now: string }[]>(
      `select clock_timestamp() as now, set_config('synchronous_commit', 'off', true)
       from (select 1 from entity e where e.organization_id = $1 and e.id = $2 for share) e`,
      [organizationId, id],
    );
  const [held] = await slots(organizationId, () => waitingStatements(orm, organizationId, lock), { signal });
  return held !== undefined && parseInstant(held.now) > at;
}

/** Rule 116: a page of events at a time, however many there are. */
async function goBack(
  read: <T>(work: (db: Statements) => Promise<T>) => Promise<T>,
  entity: EntityState,
  at: Instant,
): Promise<PastEntity> {
  const { id, organizationId } = entity;
  let past: PastEntity = entity;
  let isThere = entity.updatedAt <= at;
  for (let rows = FIRST_EVENTS; !isThere; rows = Math.min(rows * 4, MOST_EVENTS)) {
    const from = { entityId: id, version: past.version };
    const bound = { rows, bytes: EVENTS_BYTES };
    const { rows: events } = await read((db) => readHistory(db, organizationId, from, bound));
    if (events.length === 0) {
      const horizon = await read((db) => readHorizon(db, organizationId));
      if (horizon === undefined) throw new Error("events are missing that were not pruned");
      if (at < horizon.recordedAt) throw expired(horizon.recordedAt);
      return past;
    }
    const undone = undo(new Map([[id, past]]), events, ({ recordedAt }) => recordedAt > at).get(id);
    if (!undone) throw new Error("an entity has a change from before its creation");
    past = undone;
    isThere = past.updatedAt !== null;
  }
  return past;
}

/** Rule 117. */
function expired(horizon: Instant): DomainError {
  return new DomainError("READ_TIME_EXPIRED", "The events since that time are no longer all kept", {
    field: "read_time",
    earliest: instantToText(horizon),
  });
}
