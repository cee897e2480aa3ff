// When deliveries may start: at most N at once, divided among organizations, and one after the other per organization
// while the process has calls to answer. A slow receiver holds few places.
import { setTimeout as sleep } from "node:timers/promises";
import { createSlots } from "../slots.ts";

/** Calls in flight from which on deliveries give way. */
const BUSY_CALLS = 8;
/** Milliseconds between the starts of two deliveries meanwhile, for each call in flight; and at most. */
const SPACING_MS = 1;
const MAX_SPACING_MS = 64;

export interface Pace {
  isBusy(): boolean;
  /** Runs it in its turn. Deliveries to slow receivers have a share of their own within the organization's. */
  run(of: { organizationId: string; isSlow: boolean }, work: () => Promise<void>): Promise<void>;
}

export function createPace({ inFlight, concurrency }: { inFlight: () => number; concurrency: number }): Pace {
  const slots = createSlots(concurrency);
  const isBusy = () => inFlight() >= BUSY_CALLS;
  /** When the next delivery of each organization may start. */
  const next = new Map<string, number>();

  async function giveWay(organizationId: string): Promise<void> {
    const now = performance.now();
    if (!isBusy()) {
      next.delete(organizationId);
      return;
    }
    const start = Math.max(now, next.get(organizationId) ?? 0);
    next.set(organizationId, start + Math.min(inFlight() * SPACING_MS, MAX_SPACING_MS));
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
