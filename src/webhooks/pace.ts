// When deliveries may start: at most N at once, divided among organizations. While the process has calls to answer,
// deliveries give way to them: those of one organization start one after the other. Beside calls of other organizations
// some start at once in each second: somebody else's load is no reason for a few deliveries to be late.
import { setTimeout as sleep } from "node:timers/promises";
import { createShares } from "../domain/shares.ts";
import { createSlots } from "../slots.ts";

/** Calls in flight from which on deliveries give way. */
const BUSY_CALLS = 8;
/** Milliseconds between the starts of two deliveries meanwhile, for each call in flight; and at most. */
const SPACING_MS = 1;
const MAX_SPACING_MS = 64;
/** Deliveries in a second that do not give way to calls of other organizations: a single organization has half of them. */
const FREE_STARTS = 400;
const SECOND_MS = 1_000;

export interface Pace {
  /** Whether deliveries of the organization give way now. */
  isBusy(organizationId: string): boolean;
  /** Runs it in its turn. Deliveries to slow receivers have a share of their own within the organization's. */
  run(of: { organizationId: string; isSlow: boolean }, work: () => Promise<void>): Promise<void>;
}

export interface PaceOptions {
  /** Calls in flight, of one organization or of all. */
  inFlight(organizationId?: string): number;
  concurrency: number;
}

export function createPace({ inFlight, concurrency }: PaceOptions): Pace {
  const slots = createSlots(concurrency);
  /** When the next delivery may start, of each organization whose last one gave way. */
  const nextAt = new Map<string, number>();
  /** Of this second; and the organizations that have had their share of it. */
  let free = createShares(FREE_STARTS);
  const spent = new Set<string>();
  let secondEndsAt = 0;

  function beginSecond(now: number): void {
    if (now < secondEndsAt) return;
    secondEndsAt = now + SECOND_MS;
    free = createShares(FREE_STARTS);
    spent.clear();
    for (const [organizationId, at] of nextAt) if (at <= now) nextAt.delete(organizationId);
  }

  function isBusy(organizationId: string): boolean {
    beginSecond(performance.now());
    return inFlight() >= BUSY_CALLS && (inFlight(organizationId) >= BUSY_CALLS || spent.has(organizationId));
  }

  async function giveWay(organizationId: string): Promise<void> {
    if (!isBusy(organizationId)) {
      nextAt.delete(organizationId);
      if (inFlight() < BUSY_CALLS || free.take({ organization: organizationId })) return;
      spent.add(organizationId);
    }
    const now = performance.now();
    const start = Math.max(now, nextAt.get(organizationId) ?? 0);
    nextAt.set(organizationId, start + Math.min(inFlight() * SPACING_MS, MAX_SPACING_MS));
    if (start > now) await sleep(start - now);
  }

  return {
    isBusy,
    run: ({ organizationId, isSlow }, work) =>
      slots({ organization: organizationId, part: isSlow ? "slow" : "quick" }, async () => {
        await giveWay(organizationId);
        await work();
      }),
  };
}
