// Reads the log from a position on, a page at a time. The order within a page, and over the pages of one
// range, is that of time: the versions of an entity are in it, whichever of their transactions began first.
import type { Orm } from "../db/orm.ts";
import { isHere } from "./durable.ts";
import type { LoggedEvent } from "./events.ts";
import { type LogHead, markFeed } from "./head.ts";
import { encodePosition, isKept, type Position, positionExpired } from "./position.ts";
import { BEGINNING, covers, isSame, type Snapshot } from "./snapshot.ts";
import { type FeedRow, type LogPlace, type LogSource, organizationLog, type Range, type Read } from "./source.ts";

/** What a watcher is sent: an event with the position behind it, or a position alone. */
export interface WatchMessage {
  position: string;
  event?: LoggedEvent;
}

/** What a watcher wants of the log; the name says all of it. */
export interface Filter {
  name: string;
  accepts(event: LoggedEvent): boolean;
}

/** Some events in order. */
export interface Page {
  size: number;
  /** What the events hold. */
  bytes: number;
  event(index: number): LoggedEvent;
  /** The events with whose they are. */
  rows: readonly FeedRow[];
  /** The same object for every watcher. */
  delivery(index: number): WatchMessage;
  /** All of them, or those that a filter accepts: the same array for every watcher whose filter has the same name. */
  deliveries(filter?: Filter): readonly WatchMessage[];
  /** Where the log goes on behind the page. */
  end: Position;
  /** There is more before the head that the page was read up to. */
  more: boolean;
}

export interface LogPages {
  /** Where the log ends now. */
  head(organizationId: string): Promise<Position>;
  /** The events behind a position, up to `to` or to where the log ends now. Throws POSITION_EXPIRED. */
  read(organizationId: string, position: Position, to?: Position): Promise<Page>;
}

/** Bytes of a page: it is held until its slowest reader has sent it. */
export const PAGE_BYTES = 1024 * 1024;
const BOUND = { rows: 500, bytes: PAGE_BYTES };
/** Between two marks of how far the log is committed, while it grows. */
const MARK_MS = 1_000;
const EVERYTHING: Filter = { name: "", accepts: () => true };

/** Pages of the logs of organizations; or, with another `sourceOf`, of what it gives for the key of a position. */
export function createPages(orm: Orm, sourceOf: (orm: Orm, key: string) => LogSource = organizationLog): LogPages {
  /** What was last written down as committed, and when this was begun. */
  let marked: { snapshot: Snapshot; at: number } = { snapshot: BEGINNING, at: Number.NEGATIVE_INFINITY };

  async function headOf(source: LogSource): Promise<LogHead> {
    const head = await source.head();
    // Concurrent with the reader, which need not wait: at worst a position is refused after a failover.
    if (performance.now() - marked.at >= MARK_MS && !covers(marked.snapshot, head.snapshot)) {
      marked = { ...marked, at: performance.now() };
      markFeed(orm).then(
        (snapshot) => (marked = { ...marked, snapshot: snapshot ?? marked.snapshot }),
        () => {},
      );
    }
    return head;
  }

  async function read(organizationId: string, position: Position, to?: Position): Promise<Page> {
    const { from } = position;
    const source = sourceOf(orm, organizationId);
    // Not even a range that was named before is taken on trust: the database may be another since then.
    const head = await headOf(source);
    await assertHere(source, head, position);
    if (to !== undefined) await assertHere(source, head, to);
    // What is given out from here on is of this start.
    const epoch = head.epoch.id;
    if (position.within !== undefined) return rest(organizationId, head, { ...position, within: position.within });

    const end = { epoch, from: to === undefined ? head.snapshot : to.from };
    if (isSame(from, end.from)) return pageOf(organizationId, [], end, () => end, false);
    const range: Range = { epoch: head.epoch.number, from, to: end.from };
    const rows = kept(head, position, await source.range(range, BOUND));
    if (rows !== undefined) {
      const sorted = rows.sort(inOrder);
      const until = sorted.at(-1)?.event.recordedAt ?? 0n;
      return pageOf(organizationId, sorted, end, (after) => ({ epoch, from, within: { to: end.from, after, until } }));
    }
    // Too many to sort here: by time, which is indexed, a page after the other.
    const ends = await source.ends(range);
    // All that were there a moment ago have been pruned.
    if (ends === undefined) throw positionExpired();
    const within = { to: end.from, after: ends.before, until: ends.last };
    // Nothing of the range has come yet: what was pruned since it was looked at is missing, however old.
    return rest(organizationId, head, { epoch, from, within }, { epoch, from });
  }

  /** The next page of a range that was begun; `known` is behind all that has come of it. */
  async function rest(
    organizationId: string,
    head: LogHead,
    position: Position & { within: NonNullable<Position["within"]> },
    known: Position = position,
  ): Promise<Page> {
    const { from, within } = position;
    const epoch = head.epoch.id;
    const { to, after, until } = within;
    const range = { epoch: head.epoch.number, from, to };
    const read = await sourceOf(orm, organizationId).ordered(range, { after, until, ...BOUND });
    const { rows, isCut } = kept(head, known, read);
    const at = (place: LogPlace): Position => ({ epoch, from, within: { to, after: place, until } });
    const last = rows.at(-1);
    const isEnd = !isCut || last === undefined;
    return pageOf(organizationId, rows, isEnd ? { epoch, from: to } : at(placeOf(last, after)), at, true);
  }

  return {
    async head(organizationId) {
      const { epoch, snapshot } = await headOf(sourceOf(orm, organizationId));
      return { epoch: epoch.id, from: snapshot };
    },
    read,
  };
}

/** Throws POSITION_EXPIRED where some of what is said to have come is not in the log, or means something else there. */
export async function assertHere(
  source: LogSource,
  head: LogHead,
  { epoch: start, from, within }: Position,
): Promise<void> {
  const known = { start, snapshot: within?.to ?? from };
  const ended = start === head.epoch.id ? undefined : await source.ended(start);
  if (!isHere(known, head, ended)) throw positionExpired();
}

/** The rows, unless some that were behind the position may have been pruned. */
export function kept<T>(head: { epoch: { number: number } }, position: Position, { rows, horizon }: Read<T>): T {
  // What was pruned of an older epoch was before every position.
  if (horizon?.epoch === head.epoch.number && !isKept(position, horizon)) throw positionExpired();
  return rows;
}

/** The place of a row in the order that `after` is a place of. */
function placeOf(
  { organizationId, event: { recordedAt, id } }: FeedRow,
  { organizationId: isOfAll }: LogPlace,
): LogPlace {
  return { recordedAt, id, ...(isOfAll === undefined ? {} : { organizationId }) };
}

function inOrder({ event: a }: FeedRow, { event: b }: FeedRow): number {
  if (a.recordedAt !== b.recordedAt) return a.recordedAt < b.recordedAt ? -1 : 1;
  return a.id < b.id ? -1 : 1;
}

function pageOf(
  organizationId: string,
  rows: readonly FeedRow[],
  end: Position,
  behind: (event: LoggedEvent) => Position,
  more = false,
): Page {
  const deliveries = new Array<WatchMessage | undefined>(rows.length);
  const event = (index: number) => (rows[index] as FeedRow).event;
  const delivery = (index: number) => {
    const given = event(index);
    const position = () => (index === rows.length - 1 ? end : behind(given));
    return (deliveries[index] ??= { position: encodePosition(organizationId, position()), event: given });
  };
  const chosen = new Map<string, readonly WatchMessage[]>();
  const choose = (accepts: Filter["accepts"]) => {
    const all: WatchMessage[] = [];
    for (let i = 0; i < rows.length; i++) if (accepts(event(i))) all.push(delivery(i));
    return all;
  };
  return {
    size: rows.length,
    bytes: rows.reduce((sum, row) => sum + row.bytes, 0),
    rows,
    event,
    delivery,
    deliveries({ name, accepts } = EVERYTHING) {
      const before = chosen.get(name);
      if (before !== undefined) return before;
      const all = choose(accepts);
      chosen.set(name, all);
      return all;
    },
    end,
    more,
  };
}
