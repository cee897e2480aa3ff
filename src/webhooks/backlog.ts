// The part of the log that an endpoint has not reached yet: the next events, as its deliveries, with the place where
// the log goes on after them. The log is the queue; only what is about to be sent becomes a row.

import type { Orm } from "../db/orm.ts";
import { readStatements } from "../db/transaction.ts";
import type { Instant } from "../domain/time.ts";
import { deliveriesOf, type Subscription } from "../domain/webhook.ts";
import { type CatchUp, readEventsByTime } from "../log/by-time.ts";
import type { LoggedEvent } from "../log/events.ts";
import type { LogPages } from "../log/pages.ts";
import { decodePosition, encodePosition, isLost, type Position } from "../log/position.ts";
import { NO_ID } from "../log/source.ts";
import type { LeasedEndpoint, StoredPosition } from "./lease.ts";
import { deliveryId, type NewDelivery } from "./queue.ts";

/** Some of the backlog. */
export interface Batch {
  deliveries: NewDelivery[];
  /** Undefined: unchanged. */
  position: StoredPosition | undefined;
  catchUp: CatchUp | undefined;
  positionAt: Instant;
  /** There is more already. */
  more: boolean;
}

/** Read from the log at once. */
const BOUND = { rows: 500, bytes: 1024 * 1024 };
/** The longest time from an event's recorded_at to its commit: statements and idle transactions have their limits. */
const COMMIT_MARGIN = 60_000_000n;

/** A position as an endpoint keeps it. */
export function storedPosition(organizationId: string, position: Position): StoredPosition {
  return { text: encodePosition(organizationId, position), epoch: position.epoch, snapshot: position.from };
}

/** Deliveries of events to an endpoint, in order. */
export function deliveriesTo(
  endpointId: string,
  subscription: Subscription,
  events: Iterable<LoggedEvent>,
): NewDelivery[] {
  const deliveries: NewDelivery[] = [];
  for (const event of events) {
    deliveriesOf(event, subscription).forEach((name, rank) => {
      deliveries.push({
        id: deliveryId(endpointId, event.id, name),
        eventId: event.id,
        event: name,
        rank,
        subjectId: event.entityId,
        entityVersion: event.entityVersion,
        recordedAt: event.recordedAt,
      });
    });
  }
  return deliveries;
}

/**
 * Reads on from where the endpoint is. Where the position has expired, since the database was restored or old events
 * were removed, or is in an older encoding, what came after it is unknown: the log is gone through again by time, from
 * the position's time on. What was delivered has its row with the same id, and stays delivered; `expired` is called.
 */
export async function readBacklog(
  { orm, pages }: { orm: Orm; pages: LogPages },
  { organizationId, endpointId }: { organizationId: string; endpointId: string },
  endpoint: LeasedEndpoint,
  expired: () => void,
): Promise<Batch> {
  const { catchUp, positionAt } = endpoint;
  const subscription = endpoint as Subscription;
  if (catchUp !== undefined) {
    const { rows: events, isCut } = await readStatements(orm, organizationId, (db) =>
      readEventsByTime(db, organizationId, catchUp, BOUND),
    );
    const last = events.at(-1);
    const more = (isCut || events.length === BOUND.rows) && last !== undefined;
    return {
      deliveries: deliveriesTo(endpointId, subscription, events),
      position: undefined,
      catchUp: more ? { after: { recordedAt: last.recordedAt, id: last.id }, until: catchUp.until } : undefined,
      positionAt,
      more: true,
    };
  }
  try {
    const page = await pages.read(organizationId, decodePosition(organizationId, endpoint.position));
    const events = Array.from({ length: page.size }, (_, i) => page.event(i));
    return {
      deliveries: deliveriesTo(endpointId, subscription, events),
      position: storedPosition(organizationId, page.end),
      catchUp: undefined,
      positionAt: page.end.within === undefined ? endpoint.now : positionAt,
      more: page.more,
    };
  } catch (error) {
    if (!isLost(error)) throw error;
    expired();
    return {
      deliveries: [],
      position: storedPosition(organizationId, await pages.head(organizationId)),
      catchUp: {
        after: { recordedAt: positionAt - COMMIT_MARGIN, id: NO_ID },
        until: endpoint.now + COMMIT_MARGIN,
      },
      positionAt,
      more: true,
    };
  }
}
