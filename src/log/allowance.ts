// Memory shared by holders that keep some of it for as long as they like: when none is left, a request waits in a queue
// instead of failing.

export interface Allowance {
  /** Waits for `bytes`, first come, first served; throws what `expired` makes after `waitMs`, or the signal's reason. */
  take(bytes: number, options: { waitMs: number; expired: () => Error; signal: AbortSignal }): Promise<Held>;
}

export interface Held extends Disposable {
  /** What it came to. */
  settle(bytes: number): void;
}

/** One that asks for more than `total` gets it when nobody else has any. */
export function createAllowance(total: number): Allowance {
  let taken = 0;
  const waiting = new Set<{ bytes: number; start: () => void }>();

  const hasRoom = (bytes: number) => taken === 0 || taken + bytes <= total;

  function startNext(): void {
    for (const next of waiting) {
      if (!hasRoom(next.bytes)) return;
      waiting.delete(next);
      next.start();
    }
  }

  function hold(bytes: number): Held {
    let own = bytes;
    taken += own;
    const settle = (now: number) => {
      taken += now - own;
      own = now;
      startNext();
    };
    return { settle, [Symbol.dispose]: () => settle(0) };
  }

  return {
    async take(bytes, { waitMs, expired, signal }) {
      signal.throwIfAborted();
      if (waiting.size === 0 && hasRoom(bytes)) return hold(bytes);
      const { promise, resolve, reject } = Promise.withResolvers<Held>();
      const waiter = { bytes, start: () => resolve(hold(bytes)) };
      waiting.add(waiter);
      // Leaves the queue at once: what it was given later would never be given back.
      const refuse = (reason: unknown) => {
        waiting.delete(waiter);
        reject(reason);
      };
      const timer = setTimeout(() => refuse(expired()), waitMs);
      const leave = () => refuse(signal.reason);
      signal.addEventListener("abort", leave, { once: true });
      try {
        return await promise;
      } finally {
        clearTimeout(timer);
        signal.removeEventListener("abort", leave);
        startNext();
      }
    },
  };
}
