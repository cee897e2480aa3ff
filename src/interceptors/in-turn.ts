// An answer that many wait for lets all of them go on in the same turn of the event loop, in which nobody else is served.

/**
 * For many that have waited for the same: each goes on behind what the one before did at once, in the order in which they
 * ask, and for `budgetMs` of a turn.
 */
export function createQueue(
  budgetMs: number,
  now: () => number = performance.now.bind(performance),
): () => Promise<void> {
  const waiting: (() => void)[] = [];
  let isUnderWay = false;
  let endsAt = 0;

  function nextTurn(): void {
    endsAt = now() + budgetMs;
    goOn();
  }

  function goOn(): void {
    const next = waiting.shift();
    isUnderWay = next !== undefined;
    if (next === undefined) return;
    // Behind all that promises go on with at once.
    queueMicrotask(() => process.nextTick(() => (now() < endsAt ? goOn() : void setImmediate(nextTurn))));
    next();
  }

  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      if (!isUnderWay) nextTurn();
    });
}
