// Long work of the processor in short turns, so that calls are answered between them.
import { setImmediate as nextTurn } from "node:timers/promises";

/** Milliseconds of one turn. */
const TURN_MS = 5;

export interface ShortTurns {
  isOver(): boolean;
  /** Lets others go first. */
  next(): Promise<void>;
}

export function createShortTurns(): ShortTurns {
  let since = performance.now();
  return {
    isOver: () => performance.now() - since > TURN_MS,
    async next() {
      await nextTurn();
      since = performance.now();
    },
  };
}
