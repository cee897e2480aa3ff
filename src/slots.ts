// Bounds concurrent work. Organizations have shares of the places (domain/shares.ts) and take turns: however much work
// of one is waiting, another gets the next place within its share.
import { overloaded } from "./domain/errors.ts";
import { createShares, type Owner } from "./domain/shares.ts";

export interface SlotOptions {
  /** Aborted before its turn: the work is dropped, and rejects with the reason. */
  signal?: AbortSignal | undefined;
}

/** Does the work when it is the owner's turn. Throws OVERLOADED where too much of it waits. */
export type Slots = <T>(owner: Owner | string, work: () => Promise<T>, options?: SlotOptions) => Promise<T>;

interface Queue {
  owner: Owner;
  /** What starts each that waits, in order. */
  waiting: Set<() => void>;
}

/** At most `count` works at once; at most `maxWaiting` of one owner wait. A string is an organization. */
export function createSlots(count: number, { maxWaiting = Number.POSITIVE_INFINITY } = {}): Slots {
  const shares = createShares(count);
  /** In the order in which the owners had their last turn. */
  const queues = new Map<string, Queue>();

  function startNext(): void {
    for (const [key, queue] of queues) {
      const [start] = queue.waiting;
      // A place may be free and yet out of the share of the first.
      if (start === undefined || !shares.take(queue.owner)) continue;
      leave(key, queue, start);
      if (queues.delete(key)) queues.set(key, queue);
      start();
      // What was given back may be room for several: the shares of all have grown.
      startNext();
      return;
    }
  }

  function leave(key: string, queue: Queue, start: () => void): void {
    queue.waiting.delete(start);
    if (queue.waiting.size === 0) queues.delete(key);
  }

  function turn(key: string, owner: Owner, signal: AbortSignal | undefined): Promise<void> {
    const queue = queues.get(key) ?? { owner, waiting: new Set() };
    if (queue.waiting.size >= maxWaiting) throw overloaded("Too many calls of the organization wait for the database");
    queues.set(key, queue);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const start = () => {
      signal?.removeEventListener("abort", drop);
      resolve();
    };
    const drop = () => {
      leave(key, queue, start);
      reject(signal?.reason);
    };
    queue.waiting.add(start);
    signal?.addEventListener("abort", drop, { once: true });
    return promise;
  }

  return async (of, work, { signal } = {}) => {
    signal?.throwIfAborted();
    const owner = typeof of === "string" ? { organization: of } : of;
    const key = `${owner.organization} ${owner.part ?? ""}`;
    // Works of one owner never overtake each other.
    if (queues.has(key) || !shares.take(owner)) await turn(key, owner, signal);
    try {
      return await work();
    } finally {
      shares.give(owner);
      startNext();
    }
  };
}
