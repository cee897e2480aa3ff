// When aliases were last used (rule 138). A process remembers which aliases named their entities, and writes the day of it
// behind the calls: once for each alias and day. Whether an alias may be released depends on it (rule 139).
import { setTimeout as sleep } from "node:timers/promises";
import { sqlState } from "../db/failures.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { pipelined } from "../db/transaction.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { DomainError } from "../domain/errors.ts";
import type { Lookup } from "../domain/lookup.ts";
import { createShares } from "../domain/shares.ts";
import { dateOf } from "../domain/time.ts";

export interface AliasUse {
  /** An entity was named by a lookup. What is not an alias, or is known to have been used today, is passed over. */
  named(organizationId: string, lookup: Lookup, entity: Pick<EntityState, "id" | "externalIds">): void;
  /** The same, where only the entity's primary external id is known. */
  namedParty(organizationId: string, lookup: Lookup, entity: { id: string; externalId: string | null }): void;
  /** What waits to be written, or is being written. */
  waiting(): { names: number; bytes: number };
  /** Writes what waits, unless a write failed a moment ago. Never rejects. */
  write(): Promise<void>;
  /** Writes what waits, within `timeoutMs` or not at all, and writes nothing afterwards. */
  drain(timeoutMs: number): Promise<void>;
}

export interface AliasUseOptions {
  /** Between two writes. */
  intervalMs: number;
  /** Gets a line for writes that failed, and for names that had no room. */
  log: { warn(what: { reason?: string; code?: string | undefined; names: number }, message: string): void };
}

/** Names that wait, and about what they take in memory. Where there is no more room they are written at once. */
const MAX_NAMES = 100_000;
const MAX_BYTES = 24 * 1024 * 1024;
const sizeOf = (externalId: string) => 2 * externalId.length + 200;
/** Rows of one statement: it locks their entities until it ends. */
const MAX_ROWS = 100;
/** After a write that failed. */
const REST_MS = 1_000;

const TODAY = "(statement_timestamp() at time zone 'UTC')::date";

/**
 * Writes the day to those of $2, of the entities $3, that are still their aliases and lack it, and to the copies in the
 * entities. An entity that another transaction has locked is left out: answers its aliases.
 */
const WRITE = `
  with due as materialized (
    select x.external_id, x.entity_id from unnest($2::text[], $3::uuid[]) as n(external_id, entity_id)
    join external_id x on x.organization_id = $1 and x.external_id = n.external_id and x.entity_id = n.entity_id
    where not x.is_primary and (x.last_resolved_on is null or x.last_resolved_on < ${TODAY})
  ), held as materialized (
    select e.id, e.external_ids from entity e
    where e.organization_id = $1 and e.id = any(array(select d.entity_id from due d))
    order by e.id for no key update skip locked
  ), marked as (
    update external_id x set last_resolved_on = ${TODAY}, tracked_since = coalesce(x.tracked_since, statement_timestamp())
    from due d join held h on h.id = d.entity_id
    where x.organization_id = $1 and x.external_id = d.external_id and x.entity_id = d.entity_id and not x.is_primary
    returning x.external_id, x.entity_id, x.tracked_since
  ), copies as materialized (
    select h.id, jsonb_agg(case when m.external_id is null then c.id
        else jsonb_build_array(c.id -> 0, c.id -> 1, c.id -> 2, c.id -> 3, m.tracked_since, ${TODAY})
          || case when c.id -> 6 is null then '[]' else jsonb_build_array(c.id -> 6) end end order by c.place) as external_ids
    from held h
    cross join lateral jsonb_array_elements(h.external_ids) with ordinality as c(id, place)
    left join marked m on m.entity_id = h.id and m.external_id = c.id ->> 0
    where h.id in (select k.entity_id from marked k)
    group by h.id
  ), copied as (
    update entity e set external_ids = c.external_ids from copies c where e.organization_id = $1 and e.id = c.id
  )
  select d.external_id from due d where not exists (select from held h where h.id = d.entity_id)`;

async function write(
  db: Statements,
  organizationId: string,
  names: readonly (readonly [externalId: string, entityId: string])[],
): Promise<Set<string>> {
  const rows = await db.execute<{ external_id: string }[]>(WRITE, [
    organizationId,
    names.map(([externalId]) => externalId),
    names.map(([, entityId]) => entityId),
  ]);
  return new Set(rows.map((row) => row.external_id));
}

/** At most so many of the names, those first that came first. */
function firstOf(names: ReadonlyMap<string, string>, count: number): [externalId: string, entityId: string][] {
  const first: [string, string][] = [];
  for (const one of names) {
    if (first.push(one) >= count) break;
  }
  return first;
}

export function trackAliasUse(orm: Orm, { intervalMs, log }: AliasUseOptions): AliasUse {
  /** By organization and external id: the entity that it named. */
  const waiting = new Map<string, Map<string, string>>();
  // What is being written counts too: it comes back where that fails.
  const shares = createShares(MAX_BYTES);
  let names = 0;
  let dropped = 0;
  let isEnded = false;
  let writing: Promise<void> | undefined;
  /** performance.now() before which nothing is written: a write has failed. */
  let notBefore = 0;

  function remember(organizationId: string, externalId: string, entityId: string): void {
    const own = waiting.get(organizationId);
    // An id that has moved: the last entity that it named.
    if (own?.has(externalId)) own.set(externalId, entityId);
    else if (isEnded) return;
    else if (names >= MAX_NAMES || !shares.take({ organization: organizationId }, sizeOf(externalId))) {
      dropped += 1;
      void writeNow();
    } else {
      names += 1;
      // A copy: a part of a request would keep all of it in memory.
      put(organizationId, Buffer.from(externalId).toString(), entityId);
    }
  }

  function put(organizationId: string, externalId: string, entityId: string): void {
    const own = waiting.get(organizationId) ?? new Map<string, string>();
    waiting.set(organizationId, own.set(externalId, entityId));
  }

  /** What waits now, an organization after the other. */
  async function writeAll(signal?: AbortSignal): Promise<void> {
    let failure: { reason: string; code: string | undefined } | undefined;
    for (const [organizationId, own] of [...waiting]) {
      // What comes back, and what comes meanwhile, is behind these.
      for (let left = own.size; left > 0 && !signal?.aborted; left -= MAX_ROWS) {
        const part = firstOf(own, Math.min(left, MAX_ROWS)).sort(([a], [b]) => (a < b ? -1 : 1));
        for (const [externalId] of part) own.delete(externalId);
        let isLeft = (_: string) => true;
        try {
          const locked = await pipelined(orm, organizationId, (db) => write(db, organizationId, part));
          isLeft = (externalId) => locked.has(externalId);
        } catch (error) {
          failure = { reason: error instanceof DomainError ? error.reason : "INTERNAL", code: sqlState(error) };
          // Nothing more of this organization: others may fare better.
          left = 0;
        }
        for (const [externalId, entityId] of part) {
          if (isLeft(externalId) && !own.has(externalId)) own.set(externalId, entityId);
          else {
            names -= 1;
            shares.give({ organization: organizationId }, sizeOf(externalId));
          }
        }
      }
      if (own.size === 0) waiting.delete(organizationId);
      if (failure?.reason === "DATABASE_UNAVAILABLE" || signal?.aborted) break;
    }
    if (failure !== undefined) {
      notBefore = performance.now() + REST_MS;
      log.warn({ ...failure, names }, "could not write when aliases were last used: trying again");
    }
    if (dropped > 0) log.warn({ names: dropped }, "no room to remember when aliases were last used");
    dropped = 0;
  }

  async function writeNow(signal?: AbortSignal): Promise<void> {
    if (writing === undefined && waiting.size > 0 && performance.now() >= notBefore) {
      writing = writeAll(signal).finally(() => {
        writing = undefined;
      });
    }
    await writing;
  }

  const timer = setInterval(() => void writeNow(), intervalMs).unref();
  // By the clock of this process, to pass over most; the day that is written is the database's.
  const isToday = (date: string | null) => date !== null && date >= dateOf(Date.now());

  return {
    named(organizationId, lookup, { id, externalIds }) {
      if (lookup.by !== "external_id") return;
      const named = externalIds.find(({ externalId }) => externalId === lookup.key);
      if (named === undefined || named.primary || isToday(named.lastResolvedOn)) return;
      remember(organizationId, lookup.key, id);
    },
    namedParty(organizationId, lookup, { id, externalId }) {
      if (lookup.by === "external_id" && lookup.key !== externalId) remember(organizationId, lookup.key, id);
    },
    write: () => writeNow(),
    waiting: () => ({ names, bytes: shares.used() }),
    async drain(timeoutMs) {
      isEnded = true;
      clearInterval(timer);
      const signal = AbortSignal.timeout(timeoutMs);
      const all = async () => {
        await writing;
        notBefore = 0;
        await writeNow(signal);
      };
      await Promise.race([all(), sleep(timeoutMs, undefined, { ref: false })]);
    },
  };
}
