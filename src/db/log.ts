// The log of all organizations as a source of pages, by the two functions that see it; in order of organization, then
// of time, which keeps the versions of each entity in theirs. Only what publishes all of it reads it.
import { instantToText } from "../domain/time.ts";
import { DEFAULT_ORGANIZATION_ID } from "./api-keys.ts";
import {
  COLUMNS,
  type FeedRow,
  NO_ID,
  type Range,
  readHead,
  type Scanned,
  type Source,
  timesOf,
  toRow,
} from "./feed.ts";
import type { Orm } from "./orm.ts";
import type { Statements } from "./queries.ts";
import { BEGINNING, endedBetween, isSame, snapshotToText } from "./snapshot.ts";
import { readStatements } from "./transaction.ts";

/** Rows that one statement looks at: unlike an organization's reader it copies each. */
const SCAN_ROWS = 20_000;
/** The years 1 to 9999. */
const FIRST_TIME = -62_135_596_800_000_000n;
const LAST_TIME = 253_402_300_799_999_999n;

export function wholeLog(orm: Orm): Source {
  // The functions look past the organization; the connections have none otherwise.
  const statements = <T>(work: (db: Statements) => Promise<T>) => readStatements(orm, DEFAULT_ORGANIZATION_ID, work);
  const isBeginning = ({ from }: Range) => isSame(from, BEGINNING);
  const texts = (xids: readonly bigint[]) => xids.map(String);

  return {
    head: () => readHead(orm, DEFAULT_ORGANIZATION_ID),

    async range(range, limit) {
      // From the beginning on it is not transactions that tell what is new.
      if (isBeginning(range)) return undefined;
      const { epoch, from, to } = range;
      const rows = await statements((db) =>
        db.execute<Record<string, unknown>[]>(`select ${COLUMNS} from read_log($1, $2, $3, $4, $5, $6) v`, [
          epoch,
          String(from.xmax),
          String(to.xmax),
          texts(to.running),
          texts(endedBetween(from, to)),
          limit + 1,
        ]),
      );
      return rows.length > limit ? undefined : rows.map(toRow);
    },

    async ends(range) {
      const { epoch, from, to } = range;
      const place = (first: bigint) => ({ recordedAt: first, id: NO_ID, of: { organizationId: NO_ID, first } });
      if (isBeginning(range)) return { before: place(FIRST_TIME), last: LAST_TIME };
      const scan = async (begin: bigint, end: bigint, late: bigint[], size: number) => {
        const [row] = await statements((db) =>
          db.execute<Scanned[]>(
            `select min(recorded_at) as first, max(recorded_at) as last, max(xid)::text as xid, count(*) as rows
             from read_log($1, $2, $3, $4, $5, $6)`,
            [epoch, String(begin), String(end), texts(to.running), texts(late), size],
          ),
        );
        return row;
      };
      const late = await scan(from.xmax, from.xmax, endedBetween(from, to), SCAN_ROWS * 100);
      const times = await timesOf(range, late, (begin, size) => scan(begin, to.xmax, [], size), SCAN_ROWS);
      return times && { before: place(times.first), last: times.last };
    },

    async ordered({ epoch, from, to }, { after, until, limit }): Promise<FeedRow[]> {
      const { organizationId = NO_ID, first = after.recordedAt } = after.of ?? {};
      const rows = await statements((db) =>
        db.execute<Record<string, unknown>[]>(
          `select ${COLUMNS} from read_log_in_order($1, $2, $3, $4, $5, $6, $7, $8, $9) v`,
          [
            epoch,
            isSame(from, BEGINNING) ? null : snapshotToText(from),
            snapshotToText(to),
            instantToText(first),
            organizationId,
            instantToText(after.recordedAt),
            after.id,
            instantToText(until),
            limit,
          ],
        ),
      );
      return rows.map(toRow);
    },
  };
}
