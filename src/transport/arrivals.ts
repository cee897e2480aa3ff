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

export interface Arrival {
  /** It is complete, or over. */
  end(): void;
}

export interface Arrivals {
  add(one: Arriving): Arrival;
}

/** How many of a connection are on their way. */
interface Count {
  arriving: number;
}

const MAX_ARRIVING = 1_000;
/** So many of one connection are many. */
const MANY = 16;
/** Of those that have waited longest, so many are looked at. */
const LOOKED_AT = 64;

/** In a list, since each call comes and goes: a Set would be made anew all the time. */
class Place implements Arrival {
  older: Place | undefined;
  newer: Place | undefined;
  isHeld = true;
  readonly one: Arriving;
  readonly count: Count;
  readonly #leave: (place: Place) => void;

  constructor(one: Arriving, count: Count, leave: (place: Place) => void) {
    this.one = one;
    this.count = count;
    this.#leave = leave;
  }

  end(): void {
    this.#leave(this);
  }
}

export function createArrivals(max = MAX_ARRIVING): Arrivals {
  const counts = new WeakMap<object, Count>();
  let oldest: Place | undefined;
  let newest: Place | undefined;
  let size = 0;

  function countOf(connection: object): Count {
    let count = counts.get(connection);
    if (count === undefined) {
      count = { arriving: 0 };
      counts.set(connection, count);
    }
    return count;
  }

  function enter(place: Place): void {
    place.older = newest;
    if (newest === undefined) oldest = place;
    else newest.newer = place;
    newest = place;
    place.count.arriving += 1;
    size += 1;
  }

  function leave(place: Place): void {
    if (!place.isHeld) return;
    place.isHeld = false;
    const { older, newer } = place;
    if (older === undefined) oldest = newer;
    else older.newer = newer;
    if (newer === undefined) newest = older;
    else newer.older = older;
    place.older = undefined;
    place.newer = undefined;
    place.count.arriving -= 1;
    size -= 1;
  }

  function chosen(): Place | undefined {
    let place = oldest;
    for (let looked = 0; place !== undefined && looked < LOOKED_AT; looked++) {
      if (place.count.arriving >= MANY) return place;
      place = place.newer;
    }
    return oldest;
  }

  return {
    add(one) {
      const place = new Place(one, countOf(one.connection), leave);
      enter(place);
      if (size > max) {
        const late = chosen() as Place;
        leave(late);
        late.one.fail(overloaded("Too many requests are on their way at once"));
      }
      return place;
    },
  };
}
