// The event feed: what watchers get. A watcher that is behind reads on its own, at its own pace; at the live end all of
// an organization share one reader, and a watcher that falls behind it is disconnected (WATCH_TOO_SLOW).
import { type Bell, createBell } from "../bell.ts";
import type { Orm } from "../db/orm.ts";
import { DomainError } from "../domain/errors.ts";
import { createSlots } from "../slots.ts";
import { createAllowance } from "./allowance.ts";
import { createLive, type LiveLog, type LiveReader } from "./live.ts";
import { createPages, type Filter, PAGE_BYTES, type Page, type WatchMessage } from "./pages.ts";
import { encodePosition, type Position } from "./position.ts";

export interface WatchOptions {
  /** Where to begin; undefined: now. */
  position: Position | undefined;
  /** Undefined: everything. */
  filter: Filter | undefined;
  /** Aborted: the watch ends and lets go of all that it holds. */
  signal: AbortSignal;
}

export interface Feed {
  /** Where the log of the organization ends now: a watch from there gets what is committed later. */
  position(organizationId: string): Promise<string>;
  /**
   * Events and checkpoints, for ever, a page at a time; none is empty. Watchers of the same events at the live end get
   * the same arrays. Throws POSITION_EXPIRED, WATCH_TOO_SLOW.
   */
  watch(organizationId: string, options: WatchOptions): AsyncGenerator<readonly WatchMessage[], void>;
}

const CHECKPOINT_MS = 5_000;
/** Bytes of the pages held by watchers that catch up, each until it is sent; and how long one waits for its next. */
const CATCH_UP_BYTES = 64 * 1024 * 1024;
const CATCH_UP_WAIT_MS = 30_000;

/** `readers`: how many connections live readers, watchers that catch up and requests for a position may each use at once. */
export function createFeed(orm: Orm, { readers, bell = createBell() }: { readers: number; bell?: Bell }): Feed {
  const pages = createPages(orm);
  const lives = new Map<string, LiveLog>();
  const polls = createSlots(readers);
  const catchUps = createSlots(readers);
  const positions = createSlots(readers);
  const room = createAllowance(CATCH_UP_BYTES);

  function join(organizationId: string): LiveReader {
    let live = lives.get(organizationId);
    if (live === undefined) {
      live = createLive({
        head: () => polls(organizationId, () => pages.head(organizationId)),
        read: (position) => polls(organizationId, () => pages.read(organizationId, position)),
        ended: () => lives.delete(organizationId),
      });
      lives.set(organizationId, live);
    }
    return live.join();
  }

  async function* watch(organizationId: string, options: WatchOptions): AsyncGenerator<readonly WatchMessage[], void> {
    const { filter, signal } = options;
    let at = options.position;
    let sent = { position: "", at: performance.now() };
    const due = () => sent.at + CHECKPOINT_MS;
    const mark = (position: string) => {
      sent = { position, at: performance.now() };
      return position;
    };
    const checkpoint = (position: Position) => [{ position: mark(encodePosition(organizationId, position)) }];
    function* marked(deliveries: readonly WatchMessage[]) {
      const last = deliveries.at(-1);
      if (last === undefined) return;
      mark(last.position);
      yield deliveries;
    }
    /** All behind `from`, up to `to` or to the end of the log. */
    async function* catchUp(from: Position, to?: Position) {
      for (let [position, more] = [from, true]; more; ) {
        // Until the next page is asked for, which is when this one has been sent.
        using held = await room.take(PAGE_BYTES, { waitMs: CATCH_UP_WAIT_MS, expired: crowded, signal });
        const page = await catchUps(organizationId, () => pages.read(organizationId, position, to), { signal });
        if (signal.aborted) return;
        held.settle(page.bytes);
        yield* marked(page.deliveries(filter));
        [position, more, at] = [page.end, page.more, page.end];
        if (more && performance.now() >= due()) yield checkpoint(position);
      }
    }

    while (!signal.aborted) {
      if (at !== undefined) yield* catchUp(at);
      using joined = join(organizationId);
      // Not left to the end of this function alone, which a caller that no longer reads may delay.
      signal.addEventListener("abort", () => joined[Symbol.dispose](), { once: true });
      const start = await joined.start;
      // What was committed since this watcher's last page, before the first that it shares.
      if (at !== undefined) yield* catchUp(at, start);
      at = start;
      yield checkpoint(start);
      for (let taken = 0; !signal.aborted; taken++) {
        let page: Page | "behind" | "idle" | undefined = await joined.next(due(), signal);
        if (page === "behind" && taken > 0) throw tooSlow(sent.position);
        // Behind before it began: the way here was long.
        if (page === "behind") break;
        if (page === "idle") {
          if (!signal.aborted) yield checkpoint(joined.head() ?? at);
          continue;
        }
        at = page.end;
        yield* marked(page.deliveries(filter));
        // Not held while the next one is waited for, when its memory would grow old.
        page = undefined;
      }
    }
  }

  bell.hear((organizationId) => lives.get(organizationId)?.wake());
  return {
    position: async (organizationId) =>
      encodePosition(organizationId, await positions(organizationId, () => pages.head(organizationId))),
    watch,
  };
}

function crowded(): DomainError {
  return new DomainError("OVERLOADED", "Too many watchers are behind and read slowly: retry", {
    retry_after_ms: "5000",
  });
}

function tooSlow(position: string): DomainError {
  return new DomainError("WATCH_TOO_SLOW", "Events come faster than they are read: watch again from the position", {
    position,
  });
}
