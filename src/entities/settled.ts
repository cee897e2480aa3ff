// Waits for writes in flight. A write reads the database's clock long before it commits: until it has, a moment may still
// get a change that nobody sees.
import { setTimeout as sleep } from "node:timers/promises";
import type { Orm } from "../db/orm.ts";
import { RUNTIME_ROLE } from "../db/roles.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements, waitingStatements } from "../db/transaction.ts";
import { DomainError } from "../domain/errors.ts";
import { type Instant, parseInstant } from "../domain/time.ts";
import type { Slots } from "../slots.ts";

export interface Settler {
  /**
   * Waits for the write of the entity that is in flight, if there is one, and answers the database's clock then: every later
   * write has a time that is not earlier. Throws WRITE_CONFLICT where it goes on for longer than the lock time.
   */
  entity(organizationId: string, id: string): Promise<Instant>;
  /** Waits for every write in flight that may attach an external id, to whatever entity. Throws WRITE_CONFLICT. */
  externalIds(organizationId: string, signal: AbortSignal): Promise<void>;
}

export interface SettlerOptions {
  /** For what may wait for a lock. */
  slots: Slots;
  /** For what only reads. */
  readSlots: Slots;
  /** How long a write may go on. */
  lockTimeoutMs: number;
}

const LOOK_MS = 5;

export function createSettler(orm: Orm, { slots, readSlots, lockTimeoutMs }: SettlerOptions): Settler {
  /** One of an entity at a time, however many ask: more locks would only keep its writers waiting. */
  const running = new Map<string, Promise<Instant>>();

  /** Most entities nobody writes: then it is a read. Only who finds one locked waits where writes do. */
  async function share(organizationId: string, id: string): Promise<Instant> {
    const tried = await readSlots(organizationId, () =>
      readStatements(orm, organizationId, (db) => shareOnce(db, organizationId, id, "skip locked")),
    );
    if (tried !== undefined) return tried;
    const held = await slots(organizationId, () =>
      waitingStatements(orm, organizationId, (db) => shareOnce(db, organizationId, id)),
    );
    if (held === undefined) throw new Error("an entity is gone");
    return held;
  }

  return {
    async entity(organizationId, id) {
      const key = `${organizationId} ${id}`;
      const settling = running.get(key) ?? share(organizationId, id).finally(() => running.delete(key));
      running.set(key, settling);
      return settling;
    },

    async externalIds(organizationId, signal) {
      const look = () => readSlots(organizationId, () => readStatements(orm, organizationId, readClaiming), { signal });
      const until = performance.now() + lockTimeoutMs;
      let claiming = await look();
      while (claiming.length > 0) {
        if (performance.now() > until) {
          throw new DomainError("WRITE_CONFLICT", "A write that may be of that time goes on for too long: retry", {
            retry_after_ms: "100",
          });
        }
        await sleep(LOOK_MS, undefined, { signal });
        const still = new Set(await look());
        claiming = claiming.filter((one) => still.has(one));
      }
    },
  };
}

/**
 * Locks the entity for share, against its writers alone, in a transaction of its own, so that the lock is gone at once; and
 * answers the clock behind it. Writers read it under theirs. It leaves nothing that a crash could lose, and need not wait
 * for the disk. Undefined where the entity is locked and was to be skipped then.
 */
async function shareOnce(
  db: Statements,
  organizationId: string,
  id: string,
  skipLocked: "skip locked" | "" = "",
): Promise<Instant | undefined> {
  const [held] = await db.execute<{ now: string }[]>(
    `select clock_timestamp() as now, set_config('synchronous_commit', 'off', true)
     from (select 1 from entity e where e.organization_id = $1 and e.id = $2 for share ${skipLocked}) e`,
    [organizationId, id],
  );
  return held && parseInstant(held.now);
}

/**
 * The transactions of the service that have looked at external ids or written some. Whoever attaches one looks whether it
 * is free before it reads the clock, and holds the lock of that table until its end; no row tells of it before it inserts
 * one. Those of other roles attach none: a backup holds the lock for hours.
 */
async function readClaiming(db: Statements): Promise<string[]> {
  const rows = await db.execute<{ id: string }[]>(
    `select distinct l.virtualtransaction as id
     from pg_locks l join pg_stat_activity a on a.pid = l.pid join pg_roles r on r.oid = a.usesysid
     where l.locktype = 'relation' and l.relation = 'external_id'::regclass and a.datname = current_database()
       and l.mode in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') and l.pid <> pg_backend_pid()
       and not r.rolsuper and pg_has_role(r.oid, $1, 'member')`,
    [RUNTIME_ROLE],
  );
  return rows.map(({ id }) => id);
}
