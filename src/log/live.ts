// The live end of one organization's log: one reader for all its watchers, which polls while there are any.
import { setTimeout as sleep } from "node:timers/promises";
import { DomainError } from "../domain/errors.ts";
import type { Page } from "./pages.ts";
import type { Position } from "./position.ts";

/** Milliseconds until the next read, at least, after a page of N events: each read has its cost, which many share. */
const PAUSES = [
  { events: 100, ms: 100 },
  { events: 20, ms: 50 },
];
const SHORTEST_MS = 20;
/** Until the next read where nothing wakes the reader: after events, and when none have come for a while. */
const FIRST_MS = 50;
const LONGEST_MS = 150;
/** Failures of the database in a row before the watchers are told. */
const MAX_FAILURES = 6;
/** Pages that are kept for watchers that have not taken them. A watcher further behind is too slow. */
const MAX_EVENTS = 4_000;
const MAX_BYTES = 8 * 1024 * 1024;

/** What the database may recover from. */
const PASSING = new Set(["DATABASE_UNAVAILABLE", "DEADLINE_EXCEEDED", "WRITE_CONFLICT"]);

export interface LiveLog {
  /** Begins to watch; disposing ends it. */
  join(): LiveReader;
  /** Events were committed: read now. */
  wake(): void;
}

export interface LiveReader extends Disposable {
  /** From where on pages come: a position read after the call. */
  start: Promise<Position>;
  /** The next page; "behind" when it is no longer there; "idle" when none came by `until` (of performance.now()) or the signal was aborted. */
  next(until: number, signal: AbortSignal): Promise<Page | "behind" | "idle">;
  /** Where the log ended when it was last read. Everything up to there is in the pages. */
  head(): Position | undefined;
}

interface Watcher {
  /** The number of the next page that it takes; undefined before its start. */
  next: number | undefined;
  started: PromiseWithResolvers<Position>;
  /** Called when there is a page or a failure. */
  notify: () => void;
  failure: unknown;
}

/** `begin` is handed what ends it before its time. */
async function interruptible(ms: number, begin: (end: () => void) => void): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  begin(resolve);
  await promise;
  clearTimeout(timer);
}

/** The pause between two reads. Commits and new watchers end it, those that come during the read before it too. */
function createPause() {
  let isWoken = false;
  let isJoined = false;
  /** End the pause that is under way: the one when events were committed, the other when a watcher has joined. */
  let wakeUp = () => {};
  let joinedNow = () => {};
  return {
    /** Before a read: whatever came until now is in it. */
    begin(): void {
      isWoken = false;
      isJoined = false;
    },
    woken(): void {
      isWoken = true;
      wakeUp();
    },
    joined(): void {
      isJoined = true;
      joinedNow();
    },
    /** Not before `leastMs`, however often it is woken: what is committed meanwhile is read together. But a watcher that joins cannot begin until the next read. */
    async wait(leastMs: number, ms: number): Promise<void> {
      if (!isJoined) await interruptible(leastMs, (end) => (joinedNow = end));
      if (isJoined || isWoken || ms <= leastMs) return;
      await interruptible(ms - leastMs, (end) => (joinedNow = wakeUp = end));
    },
  };
}

/** The pages that watchers have still to take, numbered on and on. */
function createKeptPages() {
  const pages: Page[] = [];
  /** The number of pages[0]. */
  let first = 0;

  function drop(count: number): void {
    pages.splice(0, count);
    first += count;
  }
  return {
    /** The number of the page that comes next. */
    end: () => first + pages.length,
    /** Undefined where it has not come yet. */
    get: (number: number): Page | "behind" | undefined => (number < first ? "behind" : pages[number - first]),
    push: (page: Page) => void pages.push(page),
    dropBefore(number: number): void {
      if (number > first) drop(number - first);
    },
    /** The oldest first; never the last page. */
    dropOverLimits(): void {
      let events = pages.reduce((sum, one) => sum + one.size, 0);
      let bytes = pages.reduce((sum, one) => sum + one.bytes, 0);
      let count = 0;
      while (count < pages.length - 1 && (events > MAX_EVENTS || bytes > MAX_BYTES)) {
        const page = pages[count] as Page;
        events -= page.size;
        bytes -= page.bytes;
        count += 1;
      }
      drop(count);
    },
  };
}

export function createLive(source: {
  head(): Promise<Position>;
  read(position: Position): Promise<Page>;
  /** The last watcher has left. */
  ended(): void;
}): LiveLog {
  const watchers = new Set<Watcher>();
  const pages = createKeptPages();
  let head: Position | undefined;
  let isRunning = false;
  let isDropping = false;
  const pause = createPause();

  async function run(): Promise<void> {
    isRunning = true;
    let failures = 0;
    let waitMs = FIRST_MS;
    try {
      while (watchers.size > 0) {
        pause.begin();
        const asked = [...watchers].filter(({ next }) => next === undefined);
        let page: Page | undefined;
        try {
          if (head === undefined) head = await source.head();
          else page = await source.read(head);
          failures = 0;
        } catch (error) {
          failures += 1;
          const isPassing = error instanceof DomainError && PASSING.has(error.reason);
          if (!isPassing || failures === MAX_FAILURES) throw error;
          await sleep(50 * 2 ** failures);
          continue;
        }
        if (page !== undefined) {
          head = page.end;
          if (page.size > 0) push(page);
        }
        // Within a range a watcher has no place to begin that it could come to on its own.
        if (head.within === undefined) {
          for (const watcher of asked) {
            watcher.next = pages.end();
            watcher.started.resolve(head);
          }
        }
        if (page?.more) continue;
        const size = page?.size ?? 0;
        waitMs = size > 0 ? FIRST_MS : Math.min(LONGEST_MS, waitMs * 1.2);
        await pause.wait(PAUSES.find(({ events }) => size >= events)?.ms ?? SHORTEST_MS, waitMs);
      }
    } catch (error) {
      for (const watcher of watchers) {
        watcher.failure = error;
        watcher.started.reject(error);
        watcher.notify();
      }
      watchers.clear();
    } finally {
      isRunning = false;
      source.ended();
    }
  }

  function push(page: Page): void {
    pages.push(page);
    dropTaken();
    pages.dropOverLimits();
    for (const watcher of watchers) watcher.notify();
  }

  /** Drops what every watcher has taken: memory that is used for a moment costs the collector next to nothing. */
  function dropTaken(): void {
    let taken = pages.end();
    for (const { next } of watchers) if (next !== undefined && next < taken) taken = next;
    pages.dropBefore(taken);
  }

  /** Once per turn of the event loop, for all watchers that take a page in it: it looks at every watcher. */
  function dropSoon(): void {
    if (isDropping) return;
    isDropping = true;
    setImmediate(() => {
      isDropping = false;
      dropTaken();
    });
  }

  return {
    join() {
      const watcher: Watcher = {
        next: undefined,
        started: Promise.withResolvers(),
        notify: () => {},
        failure: undefined,
      };
      // A watcher that joins may leave before it starts.
      watcher.started.promise.catch(() => {});
      watchers.add(watcher);
      pause.joined();
      if (!isRunning) void run();
      return {
        start: watcher.started.promise,
        async next(until, signal) {
          for (;;) {
            if (watcher.failure !== undefined) throw watcher.failure;
            if (watcher.next === undefined) throw new Error("not started");
            const page = pages.get(watcher.next);
            if (page === "behind") return page;
            if (page !== undefined) {
              watcher.next += 1;
              dropSoon();
              return page;
            }
            const ms = until - performance.now();
            if (ms <= 0 || signal.aborted) return "idle";
            await new Promise<void>((resolve) => {
              const timer = setTimeout(resolve, ms);
              watcher.notify = () => {
                clearTimeout(timer);
                resolve();
              };
              signal.addEventListener("abort", watcher.notify, { once: true });
            });
            signal.removeEventListener("abort", watcher.notify);
            watcher.notify = () => {};
          }
        },
        head: () => head,
        [Symbol.dispose]() {
          watchers.delete(watcher);
          watcher.started.reject(new Error("left"));
          watcher.notify();
        },
      };
    },
    wake: pause.woken,
  };
}
