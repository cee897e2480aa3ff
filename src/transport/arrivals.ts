// Requests that have begun and are not complete. Each holds some kilobytes, even if nothing but its headers has come, and
// those of a connection that ends all end in one turn of the event loop. So there is a bound: one more lets go of the one
// that has waited longest, since honest callers send theirs within milliseconds; first of a connection that has many.
import { type DomainError, overloaded } from "../domain/errors.ts";

export interface Arriving {
  /** What it came by. */
  readonly connection: object;
  /** Ends the call: its request took too long to come. */
  fail(error: DomainError): void;
}

export interface Arrivals {
  add(one: Arriving): void;
  /** It is complete, or over. */
  delete(one: Arriving): void;
}

const MAX_ARRIVING = 1_000;
/** So many of one connection are many. */
const MANY = 16;
/** Of those that have waited longest, so many are looked at. */
const LOOKED_AT = 64;

export function createArrivals(max = MAX_ARRIVING): Arrivals {
  /** In the order in which they began. */
  const arriving = new Set<Arriving>();
  const counts = new Map<object, number>();

  function forget(one: Arriving): void {
    if (!arriving.delete(one)) return;
    const left = (counts.get(one.connection) ?? 0) - 1;
    if (left > 0) counts.set(one.connection, left);
    else counts.delete(one.connection);
  }

  function chosen(): Arriving | undefined {
    let oldest: Arriving | undefined;
    let looked = 0;
    for (const one of arriving) {
      oldest ??= one;
      if ((counts.get(one.connection) ?? 0) >= MANY) return one;
      if (++looked === LOOKED_AT) break;
    }
    return oldest;
  }

  return {
    add(one) {
      arriving.add(one);
      counts.set(one.connection, (counts.get(one.connection) ?? 0) + 1);
      if (arriving.size <= max) return;
      const late = chosen() as Arriving;
      forget(late);
      late.fail(overloaded("Too many requests are on their way at once"));
    },
    delete: forget,
  };
}
