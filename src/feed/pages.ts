// Reads the log from a position on, a page at a time. The order within a page, and over the pages of one
// range, is that of time: the versions of an entity are in it, whichever of their transactions began first.
import { type FeedRow, type Head, type Range, readHead, readOrdered, readRange, readTimes } from "../db/feed.ts";
import type { Orm } from "../db/orm.ts";
import type { ListedEvent } from "../db/queries.ts";
import { covers, isSame } from "../db/snapshot.ts";
import { readStatements } from "../db/transaction.ts";
import { encodePosition, type Position, positionExpired } from "./position.ts";

/** What a watcher is sent: an event with the position behind it, or a position alone. */
export interface Delivery {
  position: string;
  event?: ListedEvent;
}

/** What a watcher wants of the log; the name says all of it. */
export interface Filter {
  name: string;
  accepts(event: ListedEvent): boolean;
}

/** Some events in order. */
export interface Page {
  size: number;
  /** About what the events hold. */
  bytes: number;
  event(index: number): ListedEvent;
  /** The same object for every watcher. */
  delivery(index: number): Delivery;
  /** All of them, or those that a filter accepts: the same array for every watcher whose filter has the same name. */
  deliveries(filter?: Filter): readonly Delivery[];
  /** Where the log goes on behind the page. */
  end: Position;
  /** There is more before the head that the page was read up to. */
  more: boolean;
}

export interface Pages {
  /** Where the log ends now. */
  head(organizationId: string): Promise<Position>;
  /** The events behind a position, up to `to` or to where the log ends now. Throws POSITION_EXPIRED. */
  read(organizationId: string, position: Position, to?: Position): Promise<Page>;
}

const PAGE_EVENTS = 500;
const EVERYTHING: Filter = { name: "", accepts: () => true };
/** Before every id. */
const NO_ID = "00000000-0000-0000-0000-000000000000";

export function createPages(orm: Orm): Pages {
  async function read(organizationId: string, position: Position, to?: Position): Promise<Page> {
    const { epoch, from } = position;
    // Not even a range that was named before is taken on trust: the database may be another since then.
    const head = await readHead(orm, organizationId);
    const known = position.within?.to ?? to?.from ?? from;
    if (head.epoch.id !== epoch || !covers(head.snapshot, known)) throw positionExpired();
    if (position.within !== undefined) return rest(organizationId, head, { ...position, within: position.within });

    const end = { epoch, from: to === undefined ? head.snapshot : to.from };
    if (isSame(from, end.from)) return pageOf(organizationId, [], end, () => end, false);
    const range: Range = { epoch: head.epoch.number, from, to: end.from };
    const rows = await readStatements(orm, organizationId, (db) => readRange(db, organizationId, range, PAGE_EVENTS));
    if (rows !== undefined) {
      const sorted = rows.sort(inOrder);
      const until = sorted.at(-1)?.event.recordedAt ?? 0n;
      return pageOf(organizationId, sorted, end, (after) => ({ epoch, from, within: { to: end.from, after, until } }));
    }
    // Too many to sort here: by time, which is indexed, a page after the other.
    const times = await readTimes(orm, organizationId, range);
    if (times === undefined) return pageOf(organizationId, [], end, () => end);
    const within = { to: end.from, after: { recordedAt: times.first, id: NO_ID }, until: times.last };
    return rest(organizationId, head, { epoch, from, within });
  }

  /** The next page of a range that was begun. */
  async function rest(
    organizationId: string,
    head: Head,
    { epoch, from, within }: Position & { within: NonNullable<Position["within"]> },
  ): Promise<Page> {
    const { to, after, until } = within;
    const range = { epoch: head.epoch.number, from, to };
    const rows = await readStatements(orm, organizationId, (db) =>
      readOrdered(db, organizationId, range, { after, until, limit: PAGE_EVENTS }),
    );
    const at = (place: typeof after): Position => ({ epoch, from, within: { to, after: place, until } });
    const last = rows.at(-1)?.event;
    const isEnd = rows.length < PAGE_EVENTS || last === undefined;
    return pageOf(organizationId, rows, isEnd ? { epoch, from: to } : at(last), at, true);
  }

  return {
    async head(organizationId) {
      const { epoch, snapshot } = await readHead(orm, organizationId);
      return { epoch: epoch.id, from: snapshot };
    },
    read,
  };
}

function inOrder({ event: a }: FeedRow, { event: b }: FeedRow): number {
  if (a.recordedAt !== b.recordedAt) return a.recordedAt < b.recordedAt ? -1 : 1;
  return a.id < b.id ? -1 : 1;
}

function pageOf(
  organizationId: string,
  rows: readonly FeedRow[],
  end: Position,
  behind: (event: ListedEvent) => Position,
  more = false,
): Page {
  const deliveries = new Array<Delivery | undefined>(rows.length);
  const event = (index: number) => (rows[index] as FeedRow).event;
  const delivery = (index: number) => {
    const given = event(index);
    const position = () => (index === rows.length - 1 ? end : behind(given));
    return (deliveries[index] ??= { position: encodePosition(organizationId, position()), event: given });
  };
  const chosen = new Map<string, readonly Delivery[]>();
  const choose = (accepts: Filter["accepts"]) => {
    const all: Delivery[] = [];
    for (let i = 0; i < rows.length; i++) if (accepts(event(i))) all.push(delivery(i));
    return all;
  };
  return {
    size: rows.length,
    bytes: rows.reduce((sum, row) => sum + row.bytes, 0),
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
