// Long work of the processor in short turns, so that calls are answered between them, however many such works there are.

/** Milliseconds of one turn of the event loop for all works together: about what a call takes. */
const TURN_MS = 1;

/** Shared by works that take turns. */
export interface ShortTurns {
  /** Asked often: whoever hears yes waits for `next`. */
  isOver(): boolean;
  /** Lets all others go first: calls, and the works that wait already. */
  next(): Promise<void>;
}

export function createShortTurns(): ShortTurns {
  const waiting: (() => void)[] = [];
  let since = 0;
  function start(): void {
    since = performance.now();
    waiting.shift()?.();
    if (waiting.length > 0) setImmediate(start);
  }
  return {
    isOver: () => performance.now() - since > TURN_MS,
    next: () =>
      new Promise((resolve) => {
        if (waiting.push(resolve) === 1) setImmediate(start);
      }),
  };
}
