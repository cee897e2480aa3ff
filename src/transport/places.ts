// A bounded number of places for what waits for its caller. One too many lets go of the one that has waited longest, since
// honest callers keep none for long; first of a connection that has many.

export interface Waiting {
  /** What it came by. */
  readonly connection: object;
}

export interface Place {
  /** It waits no longer. */
  leave(): void;
}

export interface Places<T extends Waiting> {
  enter(one: T): Place;
}

/** How many of a connection wait. */
interface Count {
  waiting: number;
}

/** So many of one connection are many. */
const MANY = 16;
/** Of those that have waited longest, so many are looked at. */
const LOOKED_AT = 64;

/** In a list, since each call comes and goes: a Set would be made anew all the time. */
class OnePlace<T extends Waiting> implements Place {
  older: OnePlace<T> | undefined;
  newer: OnePlace<T> | undefined;
  isHeld = true;
  readonly one: T;
  readonly count: Count;
  readonly #free: (place: OnePlace<T>) => void;

  constructor(one: T, count: Count, free: (place: OnePlace<T>) => void) {
    this.one = one;
    this.count = count;
    this.#free = free;
  }

  leave(): void {
    this.#free(this);
  }
}

/** `letGo` is called with one that has lost its place, before `enter` returns; it may be the one that enters. */
export function createPlaces<T extends Waiting>(max: number, letGo: (one: T) => void): Places<T> {
  const counts = new WeakMap<object, Count>();
  let oldest: OnePlace<T> | undefined;
  let newest: OnePlace<T> | undefined;
  let size = 0;

  function countOf(connection: object): Count {
    let count = counts.get(connection);
    if (count === undefined) {
      count = { waiting: 0 };
      counts.set(connection, count);
    }
    return count;
  }

  function take(place: OnePlace<T>): void {
    place.older = newest;
    if (newest === undefined) oldest = place;
    else newest.newer = place;
    newest = place;
    place.count.waiting += 1;
    size += 1;
  }

  function free(place: OnePlace<T>): void {
    if (!place.isHeld) return;
    place.isHeld = false;
    const { older, newer } = place;
    if (older === undefined) oldest = newer;
    else older.newer = newer;
    if (newer === undefined) newest = older;
    else newer.older = older;
    place.older = undefined;
    place.newer = undefined;
    place.count.waiting -= 1;
    size -= 1;
  }

  function chosen(): OnePlace<T> | undefined {
    let place = oldest;
    for (let looked = 0; place !== undefined && looked < LOOKED_AT; looked++) {
      if (place.count.waiting >= MANY) return place;
      place = place.newer;
    }
    return oldest;
  }

  return {
    enter(one) {
      const place = new OnePlace(one, countOf(one.connection), free);
      take(place);
      if (size > max) {
        const late = chosen() as OnePlace<T>;
        free(late);
        letGo(late.one);
      }
      return place;
    },
  };
}
