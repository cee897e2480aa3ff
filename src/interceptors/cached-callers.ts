// One lookup of a key serves the calls of the next seconds; a revoked key stops working within them.
import { hash } from "node:crypto";
import type { Caller } from "./call.ts";
import type { FindCaller } from "./credentials.ts";

interface Cached {
  caller: Caller | null;
  expiresAt: number;
}

/**
 * Remembers what findCaller answered: a caller for positiveMs, null for negativeMs, errors never. Keyed by
 * the SHA-256 of the secret, so that no secret stays in memory. Lookups of one key at the same time share
 * one query. `max` bounds known and unknown keys each on their own: guessing does not push callers out.
 * `forget` empties it.
 */
export function cachedCallers(
  findCaller: FindCaller,
  { positiveMs = 4_000, negativeMs = 1_000, max = 10_000 } = {},
): FindCaller & { forget(): void } {
  const known = new Map<string, Cached>();
  const unknown = new Map<string, Cached>();
  let pending = new Map<string, Promise<Caller | null>>();

  const remember = (key: string, caller: Caller | null) => {
    const [cache, lifetimeMs] = caller === null ? [unknown, negativeMs] : [known, positiveMs];
    // A Map iterates in the order of insertion: the first key is the oldest.
    const oldest = cache.size >= max ? cache.keys().next().value : undefined;
    if (oldest !== undefined) cache.delete(oldest);
    cache.set(key, { caller, expiresAt: performance.now() + lifetimeMs });
  };

  const lookUp = async (key: string, secret: string, lookups: typeof pending) => {
    try {
      const caller = await findCaller(secret);
      // A lookup that forget() overtook may have read what was true before.
      if (lookups === pending) remember(key, caller);
      return caller;
    } finally {
      lookups.delete(key);
    }
  };

  const knownCaller = (secret: string): Caller | undefined => {
    const cached = known.get(hash("sha256", secret, "base64"));
    return cached !== undefined && cached.expiresAt > performance.now() ? (cached.caller ?? undefined) : undefined;
  };

  const find = async (secret: string): Promise<Caller | null> => {
    const key = hash("sha256", secret, "base64");
    const cached = known.get(key) ?? unknown.get(key);
    if (cached !== undefined && cached.expiresAt > performance.now()) return cached.caller;
    known.delete(key);
    unknown.delete(key);
    let lookup = pending.get(key);
    if (lookup === undefined) {
      lookup = lookUp(key, secret, pending);
      pending.set(key, lookup);
    }
    return lookup;
  };

  const forget = () => {
    known.clear();
    unknown.clear();
    pending = new Map();
  };
  return Object.assign(find, { known: knownCaller, forget });
}
