// The log of all organizations as a source of pages, for what publishes all of it. The little that came since the last
// read is one statement, of a function that sees across organizations. If it is more, the functions tell whose it is,
// and it is read as the organization's own readers do, one organization after the other: each is in order of time.

import { DEFAULT_ORGANIZATION_ID, readAcross } from "../db/across.ts";
import { withinBytes } from "../db/bytes.ts";
import type { Orm } from "../db/orm.ts";
import { type Instant, parseInstant } from "../domain/time.ts";
import { type LastXids, readEnded, readHead } from "./head.ts";
import { BEGINNING, endedBetween, isSame } from "./snapshot.ts";
import {
  allWithin,
  COLUMNS,
  type FeedRow,
  type LogPlace,
  type LogSource,
  NO_ID,
  organizationLog,
  type Range,
} from "./source.ts";

/** Organizations that one statement looks for, and rows of each that it looks at. */
const ORGANIZATIONS = 20;
const SCAN_ROWS = 500;
/** The years 1 to 9999. */
const FIRST_TIME = -62_135_596_800_000_000n;
const LAST_TIME = 253_402_300_799_999_999n;

const LAST_XIDS: LastXids = {
  present: "last_log_xid(f.number, '18446744073709551615', 'infinity')",
  ended: "last_log_xid(s.number, s.next_xid, s.next_started_at)",
  values: [],
};

interface Found {
  organizationId: string;
  /** The time of its first event in the range; undefined where it has too many to tell at once. */
  first: Instant | undefined;
}

/** What a policy has pruned is not in it, and nobody is told: no policy prunes before 7 days have passed. */
export function wholeLog(orm: Orm): LogSource {
  const execute = <T>(text: string, values: unknown[]) => readAcross(orm, (db) => db.execute<T[]>(text, values));
  const texts = (xids: readonly bigint[]) => xids.map(String);
  const valuesOf = ({ epoch, from, to }: Range) => [
    epoch,
    String(from.xmax),
    String(to.xmax),
    texts(to.running),
    texts(endedBetween(from, to)),
  ];

  /** The next organizations that have events in the range. */
  async function nextOrganizations(range: Range, after: string): Promise<Found[]> {
    if (isSame(range.from, BEGINNING)) {
      const rows = await execute<{ id: string }>("select organization_id as id from list_organizations($1, $2)", [
        after,
        ORGANIZATIONS,
      ]);
      return rows.map(({ id }) => ({ organizationId: id, first: FIRST_TIME }));
    }
    const rows = await execute<{ organization_id: string; first: string; events: string }>(
      "select * from log_times($1, $2, $3, $4, $5, $6, $7, $8)",
      [...valuesOf(range), after, ORGANIZATIONS, SCAN_ROWS],
    );
    return rows.map(({ organization_id: organizationId, first, events }) => ({
      organizationId,
      first: Number(events) < SCAN_ROWS ? parseInstant(first) : undefined,
    }));
  }

  /** The place before the first event of one of them. */
  async function begin(range: Range, { organizationId, first }: Found): Promise<LogPlace> {
    const before = { recordedAt: first ?? FIRST_TIME, id: NO_ID };
    const ends = first === undefined ? await organizationLog(orm, organizationId).ends(range) : { before };
    return { ...before, ...ends?.before, organizationId };
  }

  return {
    head: () => readHead(orm, DEFAULT_ORGANIZATION_ID, LAST_XIDS),
    ended: (start) => readEnded(orm, DEFAULT_ORGANIZATION_ID, start, LAST_XIDS),

    async range(range, bound) {
      // From the beginning on there are events that no transaction of this epoch has written.
      if (isSame(range.from, BEGINNING)) return { rows: undefined };
      const rows = await execute<Record<string, unknown>>(
        withinBytes(`select ${COLUMNS} from read_log($1, $2, $3, $4, $5, $6) v`, bound.bytes),
        [...valuesOf(range), bound.rows + 1],
      );
      return { rows: allWithin([rows], bound) };
    },

    async ends(range) {
      const [first] = await nextOrganizations(range, NO_ID);
      const before = first === undefined ? { recordedAt: FIRST_TIME, id: NO_ID } : await begin(range, first);
      // Behind the last event of the range there are only those that came since.
      return { before: { organizationId: NO_ID, ...before }, last: LAST_TIME };
    },

    async ordered(range, { after, until, ...bound }) {
      const rows: FeedRow[] = [];
      let bytes = 0;
      /** Whether there is room for more, and nothing left of this one. */
      const read = async (place: LogPlace): Promise<boolean> => {
        const log = organizationLog(orm, place.organizationId ?? NO_ID);
        const room = { rows: bound.rows - rows.length, bytes: bound.bytes - bytes };
        const { rows: part } = await log.ordered(range, { after: place, until, ...room });
        rows.push(...part.rows);
        bytes += part.rows.reduce((sum, row) => sum + row.bytes, 0);
        return !part.isCut && bytes < bound.bytes;
      };
      let hasRoom = await read(after);
      let last = after.organizationId ?? NO_ID;
      while (hasRoom) {
        const next = await nextOrganizations(range, last);
        if (next.length === 0) return { rows: { rows, isCut: false } };
        for (const organization of next) {
          if (!hasRoom) break;
          hasRoom = await read(await begin(range, organization));
          last = organization.organizationId;
        }
      }
      return { rows: { rows, isCut: true } };
    },
  };
}
