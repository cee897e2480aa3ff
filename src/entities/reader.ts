// Reads that meet join: lookups that arrive while a read of their organization is under way wait for the
// next one and share its statement. An idle reader goes at once, a busy one makes one round trip for many.

import type { Orm } from "../db/orm.ts";
import { readStatements } from "../db/transaction.ts";
import { overloaded } from "../domain/errors.ts";
import { type Lookup, lookupKeys } from "../domain/lookup.ts";
import { type FoundEntities, findEntities, type Keys } from "./lookups.ts";

export interface Reader {
  /**
   * The matches of the lookups, from one moment; it may hold those of other callers of the organization too. Rejects
   * with OVERLOADED where too many lookups of the organization wait, and when the signal is aborted before its turn.
   */
  find(
    organizationId: string,
    lookups: readonly Lookup[],
    signal?: Pick<AbortSignal, "aborted" | "reason">,
  ): Promise<FoundEntities>;
}

/** Concurrent reads of one organization; two, so that one is in flight while the other is decoded. */
const READS_PER_ORGANIZATION = 2;
/** Keys per statement, approximately; the rest waits for the next. */
const MAX_KEYS = 1_000;

/** Reads of one organization that wait. */
const MAX_WAITING = 1_000;

interface Waiting {
  lookups: readonly Lookup[];
  signal: Pick<AbortSignal, "aborted" | "reason"> | undefined;
  resolve: (found: FoundEntities) => void;
  reject: (error: unknown) => void;
}

export function createReader(orm: Orm): Reader {
  const queues = new Map<string, { waiting: Waiting[]; running: number }>();

  async function run(organizationId: string, queue: { waiting: Waiting[]; running: number }): Promise<void> {
    while (queue.waiting.length > 0) {
      const keys: Keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
      const joined: Waiting[] = [];
      let count = 0;
      while (queue.waiting.length > 0 && (count === 0 || mayJoin(queue.waiting[0], count))) {
        const next = queue.waiting.shift() as Waiting;
        if (next.signal?.aborted) {
          next.reject(next.signal.reason);
          continue;
        }
        for (const lookup of next.lookups) lookupKeys(lookup, keys);
        count += next.lookups.length;
        joined.push(next);
      }
      if (joined.length === 0) continue;
      try {
        const found = await readStatements(orm, organizationId, (db) => findEntities(db, organizationId, unique(keys)));
        // Not those whose own entity is among what was too much at once: they go first next time. A batch is answered.
        const again = joined.filter(({ lookups: [one, more] }) => more === undefined && isLeftOut(one, found));
        queue.waiting.unshift(...again);
        for (const waiting of joined) if (!again.includes(waiting)) waiting.resolve(found);
      } catch (error) {
        for (const { reject } of joined) reject(error);
      }
    }
    queue.running -= 1;
    if (queue.running === 0) queues.delete(organizationId);
  }

  return {
    find(organizationId, lookups, signal) {
      let queue = queues.get(organizationId);
      if (queue === undefined) {
        queue = { waiting: [], running: 0 };
        queues.set(organizationId, queue);
      }
      const { waiting } = queue;
      if (waiting.length >= MAX_WAITING) {
        queue.waiting = waiting.filter((one) => {
          if (one.signal?.aborted) one.reject(one.signal.reason);
          return !one.signal?.aborted;
        });
        if (queue.waiting.length >= MAX_WAITING) {
          return Promise.reject(overloaded("Too many reads of the organization wait"));
        }
      }
      const into = queue.waiting;
      const found = new Promise<FoundEntities>((resolve, reject) => into.push({ lookups, signal, resolve, reject }));
      if (queue.running < READS_PER_ORGANIZATION) {
        queue.running += 1;
        const starting = queue;
        // After the input that has arrived with this call: its lookups join at once.
        setImmediate(() => void run(organizationId, starting));
      }
      return found;
    },
  };
}

function isLeftOut(lookup: Lookup | undefined, { hits, leftOut }: FoundEntities): boolean {
  if (leftOut.size === 0 || lookup === undefined) return false;
  const { by, key } = lookup;
  if (by === "entity_id") return leftOut.has(key);
  if (by === "external_id") return leftOut.has(hits.externalIds.get(key) ?? "");
  // Of several matches only the ids are needed.
  const [id, more] = hits.taxIdKeys.get(key) ?? [];
  return id !== undefined && more === undefined && leftOut.has(id);
}

/** A batch goes alone: what it has room for is then its own. */
const mayJoin = (next: Waiting | undefined, count: number) => next?.lookups.length === 1 && count < MAX_KEYS;

function unique(keys: Keys): Keys {
  return {
    entityIds: [...new Set(keys.entityIds)],
    externalIds: [...new Set(keys.externalIds)],
    taxIdKeys: [...new Set(keys.taxIdKeys)],
  };
}
