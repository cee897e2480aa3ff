// Where statements run: the port that db/ gives to every room whose statements are written by hand.
import type { Instant } from "../domain/time.ts";

/** Where statements run: an entity manager, or a pipelined transaction. */
export interface Statements {
  execute<T>(text: string, values: readonly unknown[]): Promise<T>;
}

/** A transaction whose statements are sent at once. */
export interface Pipeline extends Statements {
  /** Sends a statement whose answer is not needed: if it fails, the transaction does. */
  send(text: string, values: readonly unknown[]): void;
  /**
   * Tells which time is being written. Who reads the past relies on it that the commit comes soon behind it: it is refused
   * with WRITE_CONFLICT where it would be too long after the earliest.
   */
  stamp(clock: Clock): void;
}

/** The database's clock as a transaction has read it. */
export interface Clock {
  now: Instant;
  /** performance.now() before it was asked for. */
  askedAt: number;
}
