// The requests of one endpoint: deliveries that were fetched wait here for their start, and what came of them for being
// written.
import { type AttemptDeps, type Attempted, attempt } from "./attempt.ts";
import type { HeldLease } from "./held-lease.ts";
import type { Pace } from "./pace.ts";
import type { DueDelivery } from "./queue.ts";

/** Requests of one endpoint at once; and where its last answer took SLOW_MS, or one has been waited for so long. */
const CONCURRENCY = 16;
const SLOW_CONCURRENCY = 2;
const SLOW_MS = 2_000;
/** Deliveries in hand that have not started: more are fetched below the one number, up to the other. */
const FEW_READY = 16;
const MANY_READY = 64;

export interface SendingDeps extends AttemptDeps {
  pace: Pace;
}

export interface SendingOptions {
  /** Whether the endpoint's state allows requests. */
  isServing(): boolean;
  /** Aborts what is under way. */
  signal: AbortSignal;
  /** A delivery was dropped without a request, and is due as before. */
  dropped(): void;
  /** A request has ended, or was not made. */
  ended(): void;
}

export interface Sending {
  /** Deliveries to send, behind those in hand. */
  add(due: readonly DueDelivery[]): void;
  /** Starts as many requests as may be under way. */
  start(): void;
  /** Drops what has not started. */
  dropReady(): void;
  hasReady(): boolean;
  /** Whether so few are ready that more should be fetched; and how many. */
  isLow(): boolean;
  room(): number;
  isUnderWay(): boolean;
  /** The ids of deliveries that are ready or under way. */
  inHand(): string[];
  /** What came of attempts, the oldest first, until it is written. */
  unwritten(): readonly Attempted[];
  /** The first `count` of those are written. */
  written(count: number): void;
  /** Nothing is under way or to be written. */
  isQuiet(): boolean;
  /** When all that is under way now has ended. */
  settled(): Promise<unknown>;
}

export function createSending(
  deps: SendingDeps,
  held: HeldLease,
  { isServing, signal, dropped, ended }: SendingOptions,
): Sending {
  const { organizationId } = held.lease;
  const ready: DueDelivery[] = [];
  const underWay = new Map<string, Promise<void>>();
  /** performance.now() when each request that is under way was sent, the oldest first. */
  const sentAt = new Map<string, number>();
  const unwritten: Attempted[] = [];
  /** How long the last request took. */
  let lastTookMs = 0;

  const maySend = () => isServing() && held.isFresh();

  /** How long the oldest request under way has had no answer. */
  function waitedMs(): number {
    const [oldest] = sentAt.values();
    return oldest === undefined ? 0 : performance.now() - oldest;
  }

  async function send(delivery: DueDelivery): Promise<void> {
    const endpoint = held.endpoint();
    // The pace may have kept it waiting.
    if (endpoint === undefined || !maySend()) return dropped();
    sentAt.set(delivery.id, performance.now());
    const attempted = await attempt(deps, delivery, { endpoint, now: held.now, signal });
    if (attempted !== undefined) unwritten.push(attempted);
  }

  function leave(id: string): void {
    underWay.delete(id);
    const sent = sentAt.get(id);
    if (sent !== undefined) lastTookMs = performance.now() - sent;
    sentAt.delete(id);
    ended();
  }

  return {
    add(due) {
      ready.push(...due);
    },
    start() {
      const endpoint = held.endpoint();
      if (endpoint === undefined) return;
      if (endpoint.isDeleted || held.pausedMs() > 0) {
        // Still due when the pause is over.
        ready.length = 0;
        dropped();
        return;
      }
      const isSlow = lastTookMs >= SLOW_MS || waitedMs() >= SLOW_MS;
      // An endpoint that fails gets one request at a time: its time-outs take no other endpoint's place.
      const places = endpoint.failures > 0 ? 1 : isSlow ? SLOW_CONCURRENCY : CONCURRENCY;
      while (underWay.size < places && maySend()) {
        const delivery = ready.shift();
        if (delivery === undefined) return;
        const sent = deps.pace.run({ organizationId, isSlow }, () => send(delivery)).finally(() => leave(delivery.id));
        underWay.set(delivery.id, sent);
      }
    },
    dropReady() {
      ready.length = 0;
    },
    hasReady: () => ready.length > 0,
    isLow: () => ready.length < FEW_READY,
    room: () => MANY_READY - ready.length,
    isUnderWay: () => underWay.size > 0,
    inHand: () => [...ready.map(({ id }) => id), ...underWay.keys()],
    unwritten: () => unwritten,
    written(count) {
      unwritten.splice(0, count);
    },
    isQuiet: () => underWay.size === 0 && unwritten.length === 0,
    settled: () => Promise.all(underWay.values()),
  };
}
