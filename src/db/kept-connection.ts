// A connection that is kept while it is used: to take one from the pool and to give it back costs timers and a dozen
// functions, as much as a read by itself.
import type { PoolClient } from "pg";
import type { NamedStatementClient } from "./named-statements.ts";
import { type Orm, poolOf, type WriteTimes } from "./orm.ts";

/** Where a transaction gets its connection. */
export interface Connections {
  take(): Promise<TakenConnection>;
  writeTimes: WriteTimes;
}

export interface TakenConnection {
  client: NamedStatementClient;
  /** Gives the connection back; a broken one is closed. */
  release(isBroken: boolean): void;
}

/** Those of the pool. */
export const pooled = (orm: Orm): Connections => ({
  writeTimes: orm.writeTimes,
  async take() {
    const client = await (await poolOf(orm)).connect();
    return { client, release: (isBroken) => client.release(isBroken) };
  },
});

/** Without use for so long, the connection goes back to the pool. */
const IDLE_MS = 250;
/** And after so long in any case, for the pool to close it at its age. */
const KEPT_MS = 60_000;

interface Kept {
  client: NamedStatementClient & PoolClient;
  since: number;
  /** It has ended, which its last user did not notice. */
  isLost(): boolean;
  /** The pool has no other connection for whoever asks next, or somebody waits already. */
  isWanted(): boolean;
  tell(event: "acquire" | "release"): void;
  giveBack(isBroken: boolean): void;
}

/** One connection, for one user at a time. While it is not used nobody waits for it: it is kept where the pool has another. */
export function keptConnection(orm: Orm): Connections {
  let kept: Kept | undefined;
  let isTaken = false;
  let isUsed = false;

  async function open(): Promise<Kept> {
    const pool = await poolOf(orm);
    const client = await pool.connect();
    let isLost = false;
    // While nothing is asked on it: the next user opens another.
    const lost = () => {
      isLost = true;
      if (!isTaken) giveBack(true);
    };
    const isWanted = () =>
      pool.waitingCount > 0 || pool.ending || (pool.totalCount >= pool.options.max && pool.idleCount === 0);
    const spare = () => (!isTaken && isWanted() ? giveBack(false) : undefined);
    const watch = setInterval(() => {
      if (!isTaken && !isUsed) giveBack(false);
      isUsed = false;
    }, IDLE_MS).unref();
    const giveBack = (isBroken: boolean) => {
      // What it gives back another acquires, of which all that are kept hear once more.
      if (kept?.client !== client) return;
      clearInterval(watch);
      client.off("error", lost).off("end", lost);
      pool.off("acquire", spare);
      kept = undefined;
      client.release(isBroken);
    };
    client.on("error", lost).on("end", lost);
    pool.on("acquire", spare);
    kept = {
      client,
      since: performance.now(),
      isLost: () => isLost,
      isWanted,
      // Whoever measures how long connections are used hears of each use.
      tell: (event) =>
        pool.emit(event as never, ...((event === "release" ? [undefined, client] : [client]) as never[])),
      giveBack,
    };
    return kept;
  }

  return {
    writeTimes: orm.writeTimes,
    async take() {
      isTaken = true;
      isUsed = true;
      try {
        const { client, since, isLost, isWanted, tell, giveBack } = kept ?? (await open());
        tell("acquire");
        return {
          client,
          release(isBroken) {
            isTaken = false;
            tell("release");
            const isUnfit = isBroken || isLost();
            if (isUnfit || isWanted() || performance.now() - since > KEPT_MS) giveBack(isUnfit);
          },
        };
      } catch (error) {
        isTaken = false;
        throw error;
      }
    },
  };
}
