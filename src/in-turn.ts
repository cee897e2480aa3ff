// What goes on at once where something has come, an answer that many wait for or the last byte of a request, comes to many
// in the same turn of the event loop, in which nobody else is served. So each turn has some milliseconds for it; the rest
// goes on in the next ones, each owner's in turn.

/** Work of many owners, of which a turn of the event loop does so much. An owner is what it is called by. */
export interface InTurn {
  /** Does work that is done when it returns: now, or in one of the next turns. It must not throw. */
  run(owner: unknown, work: () => void): void;
  /** For work that goes on in promises: until when to wait; undefined: it may go on at once. */
  enter(owner: unknown): Promise<void> | undefined;
}

/** For so long a turn of the event loop does of it; the last of it may take some 30 ms more. */
const BUDGET_MS = 10;

export function createInTurn(budgetMs: number, now: () => number = performance.now.bind(performance)): InTurn {
  /** In the order in which the owners are next. */
  const waiting = new Map<unknown, (() => void)[]>();
  let endsAt = 0;
  /** There is a next turn to go on in. */
  let isUnderWay = false;
  /** What one goes on with at once, promises included, is not done yet. */
  let isBusy = false;

  function begin(): void {
    if (isUnderWay) return;
    isUnderWay = true;
    endsAt = now() + budgetMs;
    setImmediate(nextTurn);
  }

  function nextTurn(): void {
    isUnderWay = false;
    if (waiting.size === 0) return;
    begin();
    goOn();
  }

  function goOn(): void {
    const [next] = waiting;
    if (next === undefined) return;
    const [owner, works] = next;
    const work = works.shift();
    // Behind the others, until it has no more.
    waiting.delete(owner);
    if (works.length > 0) waiting.set(owner, works);
    busy();
    work?.();
  }

  function busy(): void {
    isBusy = true;
    // Behind all that promises go on with at once.
    queueMicrotask(() => process.nextTick(done));
  }

  function done(): void {
    isBusy = false;
    if (now() < endsAt) goOn();
  }

  function wait(owner: unknown, work: () => void): void {
    const works = waiting.get(owner);
    if (works === undefined) waiting.set(owner, [work]);
    else works.push(work);
  }

  return {
    run(owner, work) {
      begin();
      if (waiting.size > 0 || now() >= endsAt) wait(owner, work);
      else work();
    },

    enter(owner) {
      begin();
      if (isBusy || waiting.size > 0 || now() >= endsAt) return new Promise((resolve) => wait(owner, resolve));
      busy();
      return undefined;
    },
  };
}

/** That of the process: requests that are complete, and answers that have come, share the time of a turn. */
export const inTurn: InTurn = createInTurn(BUDGET_MS);
