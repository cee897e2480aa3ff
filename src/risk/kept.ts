// What was read and never changes, for as long as there is room: what was used longest ago makes it.

/** A value, and what is charged for it. */
export interface Charged<T> {
  value: T;
  charge: number;
}

export interface Kept<T> {
  get(key: string, read: () => Promise<Charged<T>>): Promise<T>;
  /** Of all that is kept: at most the bound, or the charge of the last value alone. */
  total(): number;
}

export function createKept<T>(bound: number): Kept<T> {
  /** The one that was used last at the end. */
  const kept = new Map<string, Charged<T>>();
  let total = 0;
  const remove = (key: string) => {
    total -= kept.get(key)?.charge ?? 0;
    kept.delete(key);
  };
  return {
    async get(key, read) {
      const known = kept.get(key) ?? (await read());
      // Another one may have read it meanwhile.
      remove(key);
      kept.set(key, known);
      total += known.charge;
      for (const oldest of kept.keys()) {
        if (total <= bound || oldest === key) break;
        remove(oldest);
      }
      return known.value;
    },
    total: () => total,
  };
}
