// One lookup of a key serves the calls of the next seconds; a revoked key stops working within them. Guessed keys have
// a budget of their own: few lookups at once behind a short queue, so that those whose keys are known wait for none.
import { hash } from "node:crypto";
import { callerLeft, overloaded } from "../domain/errors.ts";
import { inTurn } from "../in-turn.ts";
import type { Caller } from "./call.ts";
import type { FindCaller } from "./credentials.ts";

interface Known {
  caller: Caller;
  /** performance.now() when the lookup that found it began. */
  checkedAt: number;
}

interface Lookup {
  key: string;
  secret: string;
  /** The callers that wait for it. */
  callers: (() => boolean)[];
  answer: PromiseWithResolvers<Caller | null>;
  /** forget() was called meanwhile: what it finds may be outdated. */
  isOutdated: boolean;
}

/** A lane of lookups: some at once, the others in order. */
interface Lane {
  waiting: Lookup[];
  running: number;
  max: number;
  /** Keys of one lookup. */
  together: number;
  maxWaiting: number;
  /** performance.now() when disconnected callers were last looked for. */
  sweptAt: number;
}

/** Known keys that are looked up together: with thousands of them in use one grows old every millisecond. */
const TOGETHER = 128;
/** Between two looks for disconnected callers, while the queue is full: each goes through all of it. */
const SWEEP_MS = 20;

/**
 * Remembers what findCallers answered, which is asked for several keys at once: a caller for positiveMs, null for
 * negativeMs, errors never. Keyed by the SHA-256 of the secret, so that no secret stays in memory. Lookups of one key at
 * the same time share one query. Keys that were good within recentMs are looked up by a lane of their own, those that
 * wait together, and again before their time is over. `unknownLookups` other keys are looked up at once, each on its own,
 * `maxWaiting` wait, and one more is refused with OVERLOADED. What waits is dropped when its callers have left. `max`
 * bounds known and unknown keys each on their own, some 400 bytes a key: guessing does not push callers out. After
 * `forget` every key is looked up again.
 */
export function cachedCallers(
  findCallers: (secrets: readonly string[]) => Promise<readonly (Caller | null)[]>,
  {
    positiveMs = 4_000,
    negativeMs = 5_000,
    recentMs = 600_000,
    max = 10_000,
    unknownLookups = 2,
    maxWaiting = 256,
  } = {},
): FindCaller & { forget(): void } {
  const known = new Map<string, Known>();
  /** Until when the key is known to be invalid. */
  const unknown = new Map<string, number>();
  const pending = new Map<string, Lookup>();
  /** Of keys that nobody knows there are as many as somebody makes up. */
  const ownerOf = (key: string) => (known.has(key) ? key : unknown);
  const lanes = {
    known: { waiting: [], running: 0, max: 1, together: TOGETHER, maxWaiting: max, sweptAt: 0 } as Lane,
    unknown: { waiting: [], running: 0, max: unknownLookups, together: 1, maxWaiting, sweptAt: 0 } as Lane,
  };

  function remember<V>(cache: Map<string, V>, key: string, value: V): void {
    cache.delete(key);
    // A Map iterates in the order of insertion: the first key is the oldest.
    const oldest = cache.size >= max ? cache.keys().next().value : undefined;
    if (oldest !== undefined) cache.delete(oldest);
    cache.set(key, value);
  }

  async function run(lane: Lane): Promise<void> {
    lane.running += 1;
    while (lane.waiting.length > 0) {
      const lookups = lane.waiting.splice(0, lane.together).filter((lookup) => !dropIfLeft(lookup));
      if (lookups.length > 0) await find(lookups);
    }
    lane.running -= 1;
  }

  async function find(lookups: readonly Lookup[]): Promise<void> {
    const checkedAt = performance.now();
    try {
      const found = await findCallers(lookups.map(({ secret }) => secret));
      lookups.forEach((lookup, i) => learn(lookup, found[i] ?? null, checkedAt));
    } catch (error) {
      for (const { answer } of lookups) answer.reject(error);
    } finally {
      for (const lookup of lookups) if (pending.get(lookup.key) === lookup) pending.delete(lookup.key);
    }
  }

  function learn({ key, isOutdated, answer }: Lookup, caller: Caller | null, checkedAt: number): void {
    if (!isOutdated && caller !== null) remember(known, key, { caller, checkedAt });
    if (!isOutdated && caller === null) {
      known.delete(key);
      remember(unknown, key, performance.now() + negativeMs);
    }
    answer.resolve(caller);
  }

  function dropIfLeft({ key, callers, answer }: Lookup): boolean {
    if (!callers.every((hasLeft) => hasLeft())) return false;
    pending.delete(key);
    answer.reject(callerLeft());
    return true;
  }

  function lookUp(key: string, secret: string, hasLeft: () => boolean): Promise<Caller | null> {
    const joined = pending.get(key);
    if (joined !== undefined) {
      joined.callers.push(hasLeft);
      return joined.answer.promise.finally(() => inTurn.enter(ownerOf(key)));
    }
    const since = known.get(key)?.checkedAt;
    const lane = since !== undefined && performance.now() - since < recentMs ? lanes.known : lanes.unknown;
    if (lane.waiting.length >= lane.maxWaiting) {
      const now = performance.now();
      if (now - lane.sweptAt >= SWEEP_MS) {
        lane.sweptAt = now;
        lane.waiting = lane.waiting.filter((one) => !dropIfLeft(one));
      }
      if (lane.waiting.length >= lane.maxWaiting) throw overloaded("Too many unknown API keys are looked up");
    }
    const lookup: Lookup = {
      key,
      secret,
      callers: [hasLeft],
      answer: Promise.withResolvers(),
      isOutdated: false,
    };
    // The callers that wait may have disconnected.
    lookup.answer.promise.catch(() => {});
    pending.set(key, lookup);
    lane.waiting.push(lookup);
    if (lane.running < lane.max) void run(lane);
    return lookup.answer.promise.finally(() => inTurn.enter(ownerOf(key)));
  }

  /** The caller where the answer is fresh; one that grows old is asked for again meanwhile. */
  function fresh(key: string, secret: string): Caller | undefined {
    const found = known.get(key);
    if (found === undefined) return undefined;
    const age = performance.now() - found.checkedAt;
    if (age >= positiveMs) return undefined;
    if (age >= positiveMs * 0.75 && !pending.has(key)) lookUp(key, secret, () => false).catch(() => {});
    return found.caller;
  }

  const findCaller = async (secret: string, hasLeft: () => boolean = () => false): Promise<Caller | null> => {
    const key = hash("sha256", secret, "base64");
    const caller = fresh(key, secret);
    if (caller !== undefined) return caller;
    const until = unknown.get(key);
    if (until !== undefined && until > performance.now()) return null;
    unknown.delete(key);
    return lookUp(key, secret, hasLeft);
  };

  const forget = () => {
    for (const [key, { caller }] of known) known.set(key, { caller, checkedAt: performance.now() - positiveMs });
    unknown.clear();
    for (const lookup of pending.values()) lookup.isOutdated = true;
    pending.clear();
  };
  return Object.assign(findCaller, {
    known: (secret: string) => fresh(hash("sha256", secret, "base64"), secret),
    forget,
  });
}
