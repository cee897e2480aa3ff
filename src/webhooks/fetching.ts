// What there is to fetch for an endpoint: deliveries of its queue that are due, then, where those leave room, events of
// the log. Each is READ until there is news of it.
import type { Orm } from "../db/orm.ts";
import type { Instant } from "../domain/time.ts";
import type { LogPages } from "../log/pages.ts";
import type { Slots } from "../slots.ts";
import { type Batch, readBacklog } from "./backlog.ts";
import type { EndpointDatabase } from "./endpoint-database.ts";
import { type HeldLease, RENEW_MS } from "./held-lease.ts";
import type { LeasedEndpoint } from "./lease.ts";
import { countPending } from "./queue.ts";

/** Rows that may be pending: beyond that the log waits. */
const MAX_PENDING = 10_000;

export interface FetchingDeps {
  orm: Orm;
  pages: LogPages;
  /** Bounds the readers of the log, which may take long. */
  backlogs: Slots;
  /** The endpoint's position has expired. */
  expired(endpointId: string): void;
}

export interface Fetching {
  /** There may be more of both. */
  expectAll(): void;
  expectDue(): void;
  expectEvents(): void;
  /** Whether a look may find something. A full queue keeps the log waiting. */
  mayFind(): boolean;
  /** Counts what is pending, unless that was done recently. */
  count(): Promise<void>;
  /** The next events of the log, if it is their turn. */
  readLog(endpoint: LeasedEndpoint): Promise<Batch | undefined>;
  /** The queue is about to be read: what is announced from now on is news. */
  readsDue(): void;
  /** What was read of the queue, out of `limit`; `isCut`: there was more than fits into one answer. */
  foundDue(found: { count: number; limit: number; isCut: boolean }): void;
  /** The batch is in the queue, and some of the queue's deliveries are finished. */
  committed(batch: Batch | undefined, finished: number): void;
  /** When the oldest event that is pending was recorded, as last counted. */
  oldest(): Instant | undefined;
}

/** UNREAD: may have more than was read. */
type Progress = "UNREAD" | "READ";

export function createFetching(deps: FetchingDeps, database: EndpointDatabase, held: HeldLease): Fetching {
  const { organizationId, endpointId } = held.lease;
  let log: Progress = "UNREAD";
  let due: Progress = "UNREAD";
  /** SHORT: the last look at the queue found less than it had room for, so that it is the log's turn. */
  let lastLook: "FULL" | "SHORT" = "FULL";
  let pending: { count: number; oldest: Instant | undefined } = { count: 0, oldest: undefined };
  let countedAt = 0;

  const mayReadLog = () => log === "UNREAD" && pending.count < MAX_PENDING;

  return {
    expectAll() {
      log = "UNREAD";
      due = "UNREAD";
    },
    expectDue() {
      due = "UNREAD";
    },
    expectEvents() {
      log = "UNREAD";
    },
    mayFind: () => due === "UNREAD" || mayReadLog(),
    async count() {
      const time = performance.now();
      if (countedAt > 0 && time - countedAt < RENEW_MS) return;
      countedAt = time;
      pending = await database.statements((db) => countPending(db, organizationId, endpointId, MAX_PENDING));
    },
    async readLog(endpoint) {
      if (lastLook === "FULL" || !mayReadLog()) return undefined;
      log = "READ";
      // This may take longer than the lease lasts, and holds none of the connections that others wait for.
      const keeping = setInterval(() => void held.keep().catch(() => {}), RENEW_MS);
      try {
        return await deps.backlogs(organizationId, () =>
          readBacklog(deps, held.lease, endpoint, () => deps.expired(endpointId)),
        );
      } finally {
        clearInterval(keeping);
      }
    },
    readsDue() {
      due = "READ";
    },
    foundDue({ count, limit, isCut }) {
      lastLook = count < limit && !isCut ? "SHORT" : "FULL";
      if (lastLook === "FULL") due = "UNREAD";
    },
    committed(batch, finished) {
      pending.count += (batch?.deliveries.length ?? 0) - finished;
      if (batch?.more) log = "UNREAD";
    },
    oldest: () => pending.oldest,
  };
}
