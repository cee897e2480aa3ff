// What goes on at once where something has come, an answer that many wait for or the last byte of a request, comes to many
// in the same turn of the event loop, in which nobody else is served. So each turn has some milliseconds for it; the rest
// goes on in the next ones, first that of the owner who has had the least time.

/** Work of many owners, of which a turn of the event loop does so much. An owner is what it is called by. */
export interface InTurn {
  /** Does work that is done when it returns: now, or in one of the next turns. It must not throw. */
  run(owner: unknown, work: () => void): void;
  /**
   * For work that goes on in promises: until when to wait; undefined: it may go on at once. `isUnderWay`: before what the owner
   * has not begun, so that little of it is held half done.
   */
  enter(owner: unknown, isUnderWay?: boolean): Promise<void> | undefined;
}

/** For so long a turn of the event loop does of it; the last of it may take some 30 ms more. */
const BUDGET_MS = 10;

interface Queue {
  works: (() => void)[];
  /** Time that it has had, in the time of those that wait: whoever has had least is next. */
  had: number;
}

export function createInTurn(budgetMs: number, now: () => number = performance.now.bind(performance)): InTurn {
  const waiting = new Map<unknown, Queue>();
  /** What the owner had who was served last: whoever comes has had as much. */
  let hadByNow = 0;
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
    const next = leastServed(waiting);
    if (next === undefined) return;
    const [owner, queue] = next;
    hadByNow = queue.had;
    const work = queue.works.shift();
    if (queue.works.length === 0) waiting.delete(owner);
    busy(queue);
    work?.();
  }

  function busy(queue?: Queue): void {
    isBusy = true;
    const beganAt = now();
    const done = () => {
      isBusy = false;
      const time = now();
      if (queue !== undefined) queue.had += time - beganAt;
      if (time < endsAt) goOn();
    };
    // Behind all that promises go on with at once.
    queueMicrotask(() => process.nextTick(done));
  }

  function wait(owner: unknown, work: () => void, isUnderWay = false): void {
    const queue = waiting.get(owner);
    if (queue === undefined) waiting.set(owner, { works: [work], had: hadByNow });
    else if (isUnderWay) queue.works.unshift(work);
    else queue.works.push(work);
  }

  return {
    run(owner, work) {
      begin();
      if (waiting.size > 0 || now() >= endsAt) wait(owner, work);
      else work();
    },

    enter(owner, isUnderWay) {
      begin();
      if (isBusy || waiting.size > 0 || now() >= endsAt) {
        return new Promise((resolve) => wait(owner, resolve, isUnderWay));
      }
      busy();
      return undefined;
    },
  };
}

/** Of several that have had the least, the one that has waited longest. */
function leastServed(waiting: ReadonlyMap<unknown, Queue>): [owner: unknown, queue: Queue] | undefined {
  let least: [unknown, Queue] | undefined;
  for (const one of waiting) if (least === undefined || one[1].had < least[1].had) least = one;
  return least;
}

/** That of the process: requests that are complete, and answers that have come, share the time of a turn. */
export const inTurn: InTurn = createInTurn(BUDGET_MS);
