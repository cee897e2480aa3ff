// The lease of one endpoint as this process holds it: the endpoint's row as it was last read, and the time on the
// schedule's clock, which runs on from the database's time in that row.
import type { Instant } from "../domain/time.ts";
import type { EndpointDatabase } from "./endpoint-database.ts";
import { giveLeaseBack, type Lease, type LeasedEndpoint, takeLease } from "./lease.ts";

/** How often a lease is renewed, in milliseconds; it lasts three times as long. */
export const RENEW_MS = 5_000;

export interface HeldLease {
  readonly lease: Lease;
  /** The endpoint as it was last read. Undefined while another process holds the lease, or once the endpoint is gone. */
  endpoint(): LeasedEndpoint | undefined;
  /** Takes the lease where it is free or ours, and reads the endpoint. */
  take(): Promise<void>;
  /** Renews the lease; the endpoint stays as it was read. */
  keep(): Promise<void>;
  /** A transaction that locked the row has committed, and left it like this. */
  renewed(endpoint: LeasedEndpoint): void;
  /** Another process holds the lease, or the endpoint is gone. */
  lost(): void;
  /** Lets other processes take the lease at once. */
  giveBack(): Promise<void>;
  /** A lease close to expiry may already belong to another process. */
  isFresh(): boolean;
  /** The time on the schedule's clock. */
  now(): Instant;
  /** How far that clock is ahead of the database's, as an interval. */
  clockOffset(): string;
  /** How long the endpoint is paused from now on, in milliseconds; 0 when it is not. */
  pausedMs(): number;
}

/** `clockOffsetMs`: how far the schedule's clock is ahead of the database's, in milliseconds. */
export function createHeldLease(database: EndpointDatabase, lease: Lease, clockOffsetMs: () => number): HeldLease {
  let endpoint: LeasedEndpoint | undefined;
  /** performance.now() when the row was read, from whose time the clock runs on, and when the lease was last renewed. */
  let readAt = 0;
  let renewedAt = 0;

  function set(row: LeasedEndpoint | undefined): void {
    endpoint = row;
    readAt = renewedAt = performance.now();
  }
  const read = () => database.statements((db) => takeLease(db, lease));
  const now = () => (endpoint?.now ?? 0n) + BigInt(Math.round((performance.now() - readAt + clockOffsetMs()) * 1_000));

  return {
    lease,
    endpoint: () => endpoint,
    async take() {
      set(await read());
    },
    async keep() {
      if ((await read()) !== undefined) renewedAt = performance.now();
    },
    renewed: set,
    lost() {
      endpoint = undefined;
    },
    giveBack: () => database.transaction((db) => giveLeaseBack(db, lease)),
    isFresh: () => performance.now() - renewedAt < 2 * RENEW_MS,
    now,
    clockOffset: () => `${clockOffsetMs()} milliseconds`,
    pausedMs: () => Math.max(0, Number((endpoint?.pausedUntil ?? 0n) - now()) / 1_000),
  };
}
