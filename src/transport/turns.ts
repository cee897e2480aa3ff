// Calls and connections begin as they arrive, for some milliseconds of a turn of the event loop; those that arrive beyond that begin in
// the next turns, one connection after the other. A flood that arrives at once keeps nobody else from being served.

/** Begins now, or in one of the next turns. What `begin` throws is thrown to the event loop: it is guarded. */
export type Turns = (connection: object, begin: () => void) => void;

/** `budgetMs`: for how long some may begin in one turn; 0: one in each. */
export function createTurns(budgetMs: number, now: () => number = performance.now.bind(performance)): Turns {
  /** In the order in which the connections are served next. */
  const waiting = new Map<object, (() => void)[]>();
  let isUnderWay = false;
  let endsAt = 0;

  function nextTurn(): void {
    endsAt = now() + budgetMs;
    for (const [connection, calls] of waiting) {
      // Behind the others, until it has no more.
      waiting.delete(connection);
      const begin = calls.shift();
      if (calls.length > 0) waiting.set(connection, calls);
      begin?.();
      if (now() >= endsAt) break;
    }
    if (waiting.size > 0) setImmediate(nextTurn);
    else isUnderWay = false;
  }

  return (connection, begin) => {
    if (!isUnderWay) {
      isUnderWay = true;
      endsAt = now() + budgetMs;
      setImmediate(nextTurn);
    }
    const calls = waiting.get(connection);
    if (calls !== undefined) calls.push(begin);
    else if (now() >= endsAt) waiting.set(connection, [begin]);
    else begin();
  };
}
