// All entities as they were at a position of the log, a page at a time: each is read as it is now, and what the position
// does not have is taken back (domain/past.ts). No transaction stays open between two pages, and none sees more than one.

import { type Bound, nextRows, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import type { PastEntity } from "../domain/past.ts";
import { readHorizon } from "../log/horizon.ts";
import { assertHere, kept } from "../log/pages.ts";
import type { Position } from "../log/position.ts";
import { NO_ID, organizationLog } from "../log/source.ts";
import type { Slots } from "../slots.ts";
import { ENTITY_BYTES, ENTITY_COLUMNS, toState } from "./rows.ts";
import { type AsOf, PART_BYTES, type Read, type ReadEntity, SEEN, seenValues, takeBack } from "./take-back.ts";

/** Which entities, by what they were at the position; undefined or empty filters nothing. */
export interface ExportFilter {
  type: string | undefined;
  statuses: readonly string[];
  countryCodes: readonly string[];
  showDeleted: boolean;
}

export interface ExportOptions {
  organizationId: string;
  position: Position;
  /** The id behind which it goes on. */
  after: string | undefined;
  filter: ExportFilter;
  /** Bounds the reads, a page at a time. */
  slots: Slots;
  signal: AbortSignal;
}

export interface ExportPage {
  entities: PastEntity[];
  /** All entities up to this id have come. */
  after: string;
  /** From 0 to 1. */
  done: number;
}

/** Entities that are read at once, and their bytes as they are. */
const PAGE: Bound = { rows: 250, bytes: PART_BYTES };
/** Ids that a page is looked for among: a statement ends in time, however few of them fit the filter. */
const STRETCH_IDS = 5_000;
/** Ids that are counted at once. */
const COUNTED_IDS = 50_000;

/** Throws POSITION_EXPIRED, at any page. */
export async function* exportEntities(
  orm: Orm,
  { organizationId, position, after, filter, slots, signal }: ExportOptions,
): AsyncGenerator<ExportPage, void> {
  const source = organizationLog(orm, organizationId);
  const inTurn = <T>(work: () => Promise<T>) => slots(organizationId, work, { signal });
  const head = await inTurn(async () => {
    const found = await source.head();
    await assertHere(source, found, position);
    return found;
  });
  const read = <T>(work: (db: Statements) => Promise<T>): Promise<T> =>
    inTurn(async () => {
      const [rows, horizon] = await readStatements(orm, organizationId, (db) =>
        // The horizon is read behind the rows: nothing that they lack has gone unnoticed.
        Promise.all([work(db), readHorizon(db, organizationId)]),
      );
      // So is the head: all of the rows are of the database that the position is of.
      await assertHere(source, await source.head(), position);
      return kept(head, position, { rows, horizon });
    });
  const asOf = { organizationId, position, epoch: head.epoch.number };

  const ids = await countIds(read, organizationId, after ?? NO_ID);
  let at = after ?? NO_ID;
  let { looked } = ids;
  let rows = PAGE.rows;
  // What is made meanwhile lies behind the last id, so that there is an end.
  while (at < ids.last) {
    const stretch = await read((db) => readStretch(db, organizationId, at, STRETCH_IDS));
    if (stretch === undefined) break;
    while (at < stretch.last) {
      const options = { ...asOf, after: at, upTo: stretch.last, filter, rows };
      const page = await read((db) => readPage(db, options));
      const isWhole = !page.isCut && page.rows.length < rows;
      at = isWhole ? stretch.last : (page.rows.at(-1)?.entity.id ?? stretch.last);
      rows = nextRows(rows, page, PAGE.rows);
      for await (const { past, upTo } of takeBack(read, asOf, page.rows)) {
        const isLast = upTo === undefined;
        if (isLast && at === stretch.last) looked += stretch.count;
        const entities = past.filter((entity) => fits(entity, filter));
        yield { entities, after: isLast ? at : upTo, done: Math.min(looked / ids.count, ALMOST) };
      }
    }
  }
  yield { entities: [], after: at, done: 1 };
}

/** Only the last page says that all is done. */
const ALMOST = 0.999;

/** The ids behind `after`: how many, at most `limit`, and the last of them. */
async function readStretch(
  db: Statements,
  organizationId: string,
  after: string,
  limit: number,
): Promise<{ last: string; count: number } | undefined> {
  const [row] = await db.execute<{ last: string; count: string }[]>(
    `select e.id as last, count(*) over () as count
     from (select e.id from entity e where e.organization_id = $1 and e.id > $2 order by e.id limit $3) e
     order by e.id desc limit 1`,
    [organizationId, after, limit],
  );
  return row && { last: row.last, count: Number(row.count) };
}

/** All ids, how many of them are not behind `after`, and the last. */
async function countIds(
  read: Read,
  organizationId: string,
  after: string,
): Promise<{ count: number; looked: number; last: string }> {
  let [count, looked, last] = [0, 0, NO_ID];
  for (;;) {
    const [at, limit] = [last, COUNTED_IDS];
    const stretch = await read((db) => readStretch(db, organizationId, at, limit));
    if (stretch === undefined) return { count, looked, last };
    count += stretch.count;
    ({ last } = stretch);
    // As good as it has to be.
    if (last <= after) looked = count;
  }
}

/** Entities that fit the filter, or that have changed since and may have fitted it then. */
async function readPage(
  db: Statements,
  {
    after,
    upTo,
    filter,
    rows: limit,
    ...asOf
  }: AsOf & { after: string; upTo: string; filter: ExportFilter; rows: number },
): Promise<Part<ReadEntity>> {
  const values = seenValues(asOf);
  const value = (item: unknown) => `$${values.push(item)}`;
  const fitting = ["e.merged_into is null"];
  if (!filter.showDeleted) fitting.push("e.deleted_at is null");
  if (filter.statuses.length > 0) fitting.push(`e.status = any(${value(filter.statuses)}::text[])`);
  // Neither changes.
  const where = ["e.organization_id = $1", `e.id > ${value(after)}::uuid`, `e.id <= ${value(upTo)}::uuid`];
  if (filter.type !== undefined) where.push(`e.type = ${value(filter.type)}`);
  if (filter.countryCodes.length > 0) where.push(`e.country_code = any(${value(filter.countryCodes)}::text[])`);
  // By the event, not by a time: clocks step back, and transactions take as long as they are let.
  where.push(`(${fitting.join(" and ")} or last.is_seen is false)`);
  const rows = await db.execute<{ is_seen: boolean }[]>(
    withinBytes(
      `select ${ENTITY_COLUMNS}, ${ENTITY_BYTES} as bytes, last.is_seen
       from entity e left join lateral (
         select ${SEEN} as is_seen from entity_event v
         where v.organization_id = $1 and v.entity_id = e.id and v.entity_version = e.version limit 1) last on true
       where ${where.join(" and ")} order by e.id limit ${value(limit)}`,
      PAGE.bytes,
      "id",
    ),
    values,
  );
  // Pruned, it is not behind the position.
  return partOf(rows, (row: { is_seen: boolean | null }) => ({ entity: toState(row), isSeen: row.is_seen !== false }));
}

/** What the entity must be, beside the type and country that it has always had. */
const fits = (entity: PastEntity, { statuses, showDeleted }: ExportFilter): boolean =>
  entity.mergedInto === null &&
  (showDeleted || entity.deletedAt === null) &&
  (statuses.length === 0 || statuses.includes(entity.status));
