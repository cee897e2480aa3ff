// Waits for writes in flight. A write reads the database's clock long before it commits: until it has, a moment may still
// get a change that nobody sees.
import { setTimeout as sleep } from "node:timers/promises";
import { readAttaching } from "../db/locks.ts";
import type { Orm } from "../db/orm.ts";
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
  /**
   * Waits for the writes of the organization in flight that may attach external ids, to whatever entity: later ones have
   * later times. It keeps no write waiting. Throws WRITE_CONFLICT where one goes on for longer than the lock time.
   */
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
      const look = () =>
        readSlots(
          organizationId,
          () => readStatements(orm, organizationId, (db) => readAttaching(db, organizationId)),
          { signal },
        );
      const until = performance.now() + lockTimeoutMs;
      let attaching = await look();
      while (attaching.length > 0) {
        if (performance.now() > until) {
          throw new DomainError("WRITE_CONFLICT", "A write that may be of that time goes on for too long: retry", {
            retry_after_ms: "100",
          });
        }
        await sleep(LOOK_MS);
        const still = new Set(await look());
        attaching = attaching.filter((one) => still.has(one));
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
