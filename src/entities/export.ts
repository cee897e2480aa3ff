// All entities as they were at a position of the log, a page at a time: each is read as it is now, and what the position
// does not have is taken back (domain/past.ts). No transaction stays open between two pages, and none sees more than one.

import { type Bound, bytesOf, nextRows, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { asKnown, type PastEntity, type PastEvent, undo } from "../domain/past.ts";
import { instantToText } from "../domain/time.ts";
import { PAST_COLUMNS, toPastEvent } from "../log/history.ts";
import { readHorizon } from "../log/horizon.ts";
import { assertHere, kept } from "../log/pages.ts";
import type { Position } from "../log/position.ts";
import { snapshotToText } from "../log/snapshot.ts";
import { NO_ID, organizationLog } from "../log/source.ts";
import type { Slots } from "../slots.ts";
import { ENTITY_BYTES, ENTITY_COLUMNS, toState } from "./rows.ts";

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

/** Entities that are read at once, and the bytes of them and of the events that are taken back. */
const PAGE: Bound = { rows: 250, bytes: 256 * 1024 };
/** Ids that a page is looked for among: a statement ends in time, however few of them fit the filter. */
const STRETCH_IDS = 5_000;
/** Ids that are counted at once. */
const COUNTED_IDS = 50_000;
/** Events of one entity that are taken back at once: few at first, since most have few. */
const FIRST_EVENTS = 4;
const EVENTS: Bound = { rows: 500, bytes: 256 * 1024 };

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
      if (at === stretch.last) looked += stretch.count;
      const entities = (await takeBack(read, asOf, page.rows)).filter((entity) => fits(entity, filter));
      yield { entities, after: at, done: Math.min(looked / ids.count, ALMOST) };
    }
  }
  yield { entities: [], after: at, done: 1 };
}

/** Only the last page says that all is done. */
const ALMOST = 0.999;

type Read = <T>(work: (db: Statements) => Promise<T>) => Promise<T>;

interface AsOf {
  organizationId: string;
  position: Position;
  /** The number of the log that the position is of. */
  epoch: number;
}

/** Whether the position has the event `v`; the values of `seenValues` are at $2. */
const SEEN = `case when v.epoch = $2
  then pg_visible_in_snapshot(v.xid, $3::pg_snapshot)
    or ($4::pg_snapshot is not null and pg_visible_in_snapshot(v.xid, $4::pg_snapshot)
      and (v.recorded_at, v.id) <= ($5::timestamptz, $6::uuid))
  else v.epoch < $2 end`;

const seenValues = ({ organizationId, epoch, position: { from, within } }: AsOf): unknown[] => [
  organizationId,
  epoch,
  snapshotToText(from),
  within === undefined ? null : snapshotToText(within.to),
  within === undefined ? null : instantToText(within.after.recordedAt),
  within === undefined ? null : within.after.id,
];

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

interface ReadEntity {
  entity: EntityState;
  /** Whether the position has the event that made this version. */
  isSeen: boolean;
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

/** The entities at the position, without those that were made later. */
async function takeBack(read: Read, asOf: AsOf, rows: readonly ReadEntity[]): Promise<PastEntity[]> {
  let past = new Map<string, PastEntity | null>(rows.map(({ entity }) => [entity.id, asKnown(entity)]));
  let open = rows.filter(({ isSeen }) => !isSeen).map(({ entity }) => entity.id);
  let budget = EVENTS.rows;
  let limit = FIRST_EVENTS;
  while (open.length > 0) {
    limit = Math.min(limit, budget);
    // What a statement measures is bounded by the events that it may answer, not by what is open.
    const asked = open.slice(0, Math.floor(budget / limit));
    const from = asked.map((id) => ({ id, version: past.get(id)?.version ?? 0 }));
    const part = await read((db) => readUnseen(db, asOf, from, limit));
    // An event that the position has ends it, whichever are before that: versions are made one after the other.
    const reached = new Set<string>();
    const given = new Map<string, number>();
    const taken = part.rows.filter(({ entityId, entityVersion, isSeen }) => {
      given.set(entityId, (given.get(entityId) ?? 0) + 1);
      const isBehind = !reached.has(entityId);
      if (isSeen || entityVersion === 1) reached.add(entityId);
      return isBehind;
    });
    past = undo(past, taken, ({ isSeen }) => !isSeen);
    const cutAt = part.isCut ? part.rows.at(-1)?.entityId : undefined;
    // Of one that has no more events the rest was pruned, and is not behind the position.
    const isOpen = (id: string) =>
      !reached.has(id) && ((cutAt !== undefined && id >= cutAt) || given.get(id) === limit);
    const still = asked.filter(isOpen);
    open = [...still, ...open.slice(asked.length)];
    budget = nextRows(budget, part, EVENTS.rows);
    // Those that are next have few, until they are known to have many.
    if (still.length === 0) limit = FIRST_EVENTS;
    else if (!part.isCut) limit *= 4;
  }
  return [...past.values()].filter((entity) => entity !== null);
}

interface SeenEvent extends PastEvent {
  isSeen: boolean;
}

/** The events that made these versions and the ones before, newest first, of one entity after the other; of each `limit`. */
async function readUnseen(
  db: Statements,
  asOf: AsOf,
  from: readonly { id: string; version: number }[],
  limit: number,
): Promise<Part<SeenEvent>> {
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select v.* from unnest($7::uuid[], $8::bigint[]) as p(id, version) cross join lateral (
         select ${PAST_COLUMNS}, ${bytesOf("v", ["updated_fields", "previous_values"])} as bytes, ${SEEN} as is_seen
         from entity_event v
         where v.organization_id = $1 and v.entity_id = p.id and v.entity_version <= p.version
         order by v.entity_version desc limit $9) v
       order by v.entity_id, v.entity_version desc`,
      EVENTS.bytes,
      "entity_id, entity_version desc",
    ),
    [...seenValues(asOf), from.map(({ id }) => id), from.map(({ version }) => version), limit],
  );
  return partOf(rows, (row: { is_seen: boolean }) => ({ ...toPastEvent(row), isSeen: row.is_seen }));
}
