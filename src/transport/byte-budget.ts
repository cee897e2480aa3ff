// Memory that callers can make the process hold is bounded in bytes: in all, and for each connection, so that one
// of them cannot use up what is for all.

export interface ByteBudget {
  /** Takes `bytes` on behalf of a connection; false, and nothing is taken, where that would exceed a bound. */
  take(connection: object, bytes: number): boolean;
  /** Takes them even so: for what is in memory already. */
  add(connection: object, bytes: number): void;
  give(connection: object, bytes: number): void;
  /** Whether a bound is reached. */
  isSpent(connection: object): boolean;
  /** Bytes taken and not given back. */
  held(): number;
}

/** The first to take anything gets it, however much: a budget smaller than one message would serve nobody. */
export function byteBudget(bounds: { total: number; perConnection: number }): ByteBudget {
  const byConnection = new WeakMap<object, number>();
  let total = 0;
  const of = (connection: object) => byConnection.get(connection) ?? 0;
  const add = (connection: object, bytes: number) => {
    total += bytes;
    byConnection.set(connection, of(connection) + bytes);
  };
  return {
    take(connection, bytes) {
      const own = of(connection);
      if (own > 0 && own + bytes > bounds.perConnection) return false;
      if (total > 0 && total + bytes > bounds.total) return false;
      add(connection, bytes);
      return true;
    },
    add,
    give: (connection, bytes) => add(connection, -bytes),
    isSpent: (connection) => total >= bounds.total || of(connection) >= bounds.perConnection,
    held: () => total,
  };
}
