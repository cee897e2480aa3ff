// When deliveries may start: so many at once, and one after the other while the process has calls to answer.
import { setTimeout as sleep } from "node:timers/promises";
import { createSlots } from "../db/slots.ts";

/** Calls in flight from which on deliveries give way. */
const BUSY_CALLS = 8;
/** Milliseconds between the starts of two deliveries meanwhile, for each call in flight; and at most. */
const SPACING_MS = 1;
const MAX_SPACING_MS = 64;

export interface Pace {
  isBusy(): boolean;
  /** Does it when it is its turn. */
  run(work: () => Promise<void>): Promise<void>;
}

export function createPace({ inFlight, concurrency }: { inFlight: () => number; concurrency: number }): Pace {
  const slots = createSlots(concurrency);
  const isBusy = () => inFlight() >= BUSY_CALLS;
  let next = 0;
  return {
    isBusy,
    run: (work) =>
      slots(async () => {
        if (isBusy()) {
          const now = performance.now();
          next = Math.max(now, next) + Math.min(inFlight() * SPACING_MS, MAX_SPACING_MS);
          await sleep(next - now);
        }
        await work();
      }),
  };
}
