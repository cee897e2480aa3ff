// What must hold, by name: how often it was checked, and what was found.

export interface Check {
  name: string;
  /** Counts one more check. */
  count(times?: number): void;
  /** `more` is asked for at the end: a log may be late. */
  fail(what: string, more?: () => string): void;
  looked: number;
  failures: { what: string; more: () => string }[];
}

/** The names are those that the planted bugs expect. */
export const CHECKS = {
  acknowledged: "what was acknowledged is there, with its values",
  once: "nothing happened twice",
  unknown: "an outcome that was unknown is what the retry said",
  refused: "what was refused or rehearsed left nothing",
  versions: "the versions of an entity have no gap",
  fold: "the events of an entity fold to its row",
  chains: "every event is sealed, behind the one before of its entity",
  audit: "every event is in one checkpoint, and all of them verify",
  copies: "the copies of an external id agree",
  merges: "what is merged, and what is parted again, is whole",
  readBack: "an acknowledged write is read back",
  watched: "every watcher got the log, or was told",
  streams: "a stream is in the order of versions, and has nothing twice",
  told: "nobody is told to list again but after a failover",
  delivered: "every webhook came",
  deliveryOrder: "webhooks of an entity come in its order",
  signatures: "webhooks are signed",
  wall: "no value of one organization reaches another",
  logs: "no log holds a name or a tax id",
  typed: "every refusal is typed, and one that fits",
  health: "SERVING only while writes work",
  recovery: "writes work within 10 s of the database",
  fair: "rows that one organization holds do not stall the other",
  alive: "no process ended by itself",
  drain: "a process that is told to end does, within its drain time",
} as const;

export type CheckName = keyof typeof CHECKS;
export type Checks = Record<CheckName, Check>;

export function createChecks(): Checks {
  return Object.fromEntries(
    Object.entries(CHECKS).map(([key, name]) => {
      const check: Check = {
        name,
        looked: 0,
        failures: [],
        count: (times = 1) => void (check.looked += times),
        fail: (what, more = () => "") => void check.failures.push({ what, more }),
      };
      return [key, check];
    }),
  ) as Checks;
}
