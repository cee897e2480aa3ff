// One entity as it was at a time: found by a key that was its own then, and read backwards from its row (domain/past.ts).

import { nextRows } from "../db/bytes.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { DomainError, invalidField, notFound } from "../domain/errors.ts";
import type { Lookup } from "../domain/lookup.ts";
import { asKnown, type PastEntity, undo } from "../domain/past.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { readHistory } from "../log/history.ts";
import { readHorizon } from "../log/horizon.ts";
import type { AliasUse } from "./alias-use.ts";
import { ENTITY_COLUMNS, toState } from "./rows.ts";
import { createSettler, type SettlerOptions } from "./settled.ts";

/** A key whose entity of a time is known. */
export type PastLookup = Exclude<Lookup, { by: "tax_id" }>;

export interface PastReader {
  /**
   * Rules 115 to 119: the entity that the key named at that time, after its last event of that time or before. Once
   * answered, it stays the answer for ever. Throws VALIDATION_ERROR for a time to come, NOT_FOUND, READ_TIME_EXPIRED, and
   * WRITE_CONFLICT where a write that may be of that time does not end.
   */
  find(organizationId: string, lookup: PastLookup, at: Instant, signal: AbortSignal): Promise<PastAnswer>;
}

export interface PastAnswer {
  entity: PastEntity;
  /** The entity whose key it was, where that had been merged into this one then; else "". */
  redirectedFrom: string;
}

type Read = <T>(work: (db: Statements) => Promise<T>) => Promise<T>;

export interface PastReaderOptions extends SettlerOptions {
  /** Told of each entity that an external id named. */
  named?: AliasUse["named"];
}

/** Each time the key has another entity than the one that was waited for. */
const MAX_ROUNDS = 5;
/** The events that are read at once: few, for a time not long ago, then more. */
const FIRST_EVENTS = 8;
const MOST_EVENTS = 500;
const EVENTS_BYTES = 1024 * 1024;

/** `readSlots` bounds the reads, a page of events at a time; `slots` what may wait for a lock. */
export function createPastReader(orm: Orm, { named = () => {}, ...options }: PastReaderOptions): PastReader {
  const settler = createSettler(orm, options);
  /** Writes of a time longer ago have ended (db/transaction.ts): a minute, by default. */
  const inFlight: Instant = BigInt(orm.writeTimes.settledMs) * 1_000n;

  /** The entity of the key itself, merged or not. */
  async function findHad(
    organizationId: string,
    lookup: PastLookup,
    at: Instant,
    signal: AbortSignal,
  ): Promise<PastEntity> {
    const read: Read = (work) =>
      options.readSlots(organizationId, () => readStatements(orm, organizationId, work), { signal });
    /** The entity that no write of that time is any longer on its way to; null for every one that could get the key. */
    let settled: string | null | undefined;
    for (let round = 1; round <= MAX_ROUNDS; round++) {
      const { now, horizon, entity } = await read((db) => findHolder(db, organizationId, lookup, at));
      if (now < at) throw invalidField("read_time", "is later than the clock of the database");
      const isSettled = now - at >= inFlight;
      if (entity === undefined && (isSettled || settled === null || lookup.by === "entity_id")) {
        if (lookup.by === "external_id" && horizon !== undefined && at < horizon) throw expired(horizon);
        throw notFound(lookup.by);
      }
      if (entity === undefined) {
        await settler.externalIds(organizationId, signal);
        settled = null;
        continue;
      }
      // No other entity gets the id of a creation.
      if (entity.createdAt > at) throw notFound(lookup.by);
      if (horizon !== undefined && at < horizon) throw expired(horizon);
      if (isSettled || settled === entity.id) {
        named(organizationId, lookup, entity);
        return goBack(read, entity, at);
      }
      settled = (await settler.entity(organizationId, entity.id)) > at ? entity.id : undefined;
    }
    throw new DomainError("WRITE_CONFLICT", "The lookup kept moving: retry", { retry_after_ms: "100" });
  }

  return {
    async find(organizationId, lookup, at, signal) {
      let entity = await findHad(organizationId, lookup, at, signal);
      const home = entity.externalIds.find(({ externalId }) => externalId === lookup.key)?.homeId ?? "";
      if (lookup.by === "external_id") return { entity, redirectedFrom: home };
      // The chain as it was then: whoever was merged had a survivor that was not.
      while (entity.mergedInto !== null) {
        entity = await findHad(organizationId, { by: "entity_id", key: entity.mergedInto }, at, signal);
      }
      return { entity, redirectedFrom: entity.id === lookup.key ? "" : lookup.key };
    },
  };
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
  // Periods never overlap, so that of the past ones the last that has begun is the only one that may not have ended.
  external_id: `select x.entity_id as id from external_id x
    where x.organization_id = $1 and x.external_id = $2 and x.attached_at <= $3::timestamptz
    union all
    select p.entity_id from (
      select p.entity_id, p.detached_at from external_id_past p
      where p.organization_id = $1 and p.external_id = $2 and p.attached_at <= $3::timestamptz
      order by p.attached_at desc limit 1) p
    where p.detached_at > $3::timestamptz`,
};

async function findHolder(
  db: Statements,
  organizationId: string,
  { by, key }: PastLookup,
  at: Instant,
): Promise<Holder> {
  const [row] = await db.execute<{ id: string | null; now: string; horizon: string | null }[]>(
    `select c.now, h.recorded_at as horizon, ${ENTITY_COLUMNS}
     from (select clock_timestamp() as now) c
     left join event_horizon h on h.organization_id = $1
     left join (${HOLDERS[by]}) holder on true
     left join entity e on e.organization_id = $1 and e.id = holder.id`,
    [organizationId, key, instantToText(at)],
  );
  if (row === undefined) throw new Error("a clock has no time");
  return {
    entity: row.id === null ? undefined : toState(row),
    now: parseInstant(row.now),
    horizon: row.horizon === null ? undefined : parseInstant(row.horizon),
  };
}

/** Rule 116: a page of events at a time, however many there are. */
async function goBack(read: Read, entity: EntityState, at: Instant): Promise<PastEntity> {
  const { id, organizationId } = entity;
  let past = asKnown(entity);
  let isThere = entity.updatedAt <= at;
  for (let rows = FIRST_EVENTS; !isThere; ) {
    const from = { entityId: id, version: past.version };
    const bound = { rows, bytes: EVENTS_BYTES };
    const part = await read((db) => readHistory(db, organizationId, from, bound));
    rows = nextRows(rows, part, MOST_EVENTS);
    const events = part.rows;
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
