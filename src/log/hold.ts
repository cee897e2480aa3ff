// What one process at a time does with the log of all organizations, and how far it has come: publishing it, or making its
// checkpoints. The process holds it for a while that it keeps renewing. The clock is the database's.
import { readAcross } from "../db/across.ts";
import type { Orm } from "../db/orm.ts";

/** When a hold that is not renewed expires: a process that dies is replaced then. */
export const HOLD_MS = 5_000;

export interface Holds {
  /** Takes what has the name unless another process holds it; then, where its position is, if it has one. */
  take(name: string, holder: string): Promise<{ position: string | undefined } | undefined>;
  /** Renews the hold and stores the position, if it has one; false: another process holds it now. */
  keep(name: string, holder: string, position?: string): Promise<boolean>;
  /** Gives the hold up. */
  release(name: string, holder: string): Promise<void>;
}

export function createHolds(orm: Orm): Holds {
  const execute = <T>(text: string, values: unknown[]) => readAcross(orm, (db) => db.execute<T[]>(text, values));
  const until = "clock_timestamp() + interval '1 millisecond' * $3";
  return {
    async take(name, holder) {
      const [row] = await execute<{ position: string | null }>(
        `insert into feed_sink (name, holder, held_until) values ($1, $2, ${until})
         on conflict (name) do update set holder = excluded.holder, held_until = excluded.held_until
         where feed_sink.held_until < clock_timestamp() returning position`,
        [name, holder, HOLD_MS],
      );
      return row && { position: row.position ?? undefined };
    },
    async keep(name, holder, position) {
      const rows = await execute(
        `update feed_sink set held_until = ${until}, position = coalesce($4, position) where name = $1 and holder = $2 returning 1`,
        [name, holder, HOLD_MS, position ?? null],
      );
      return rows.length === 1;
    },
    async release(name, holder) {
      await execute("update feed_sink set holder = null, held_until = '-infinity' where name = $1 and holder = $2", [
        name,
        holder,
      ]);
    },
  };
}
