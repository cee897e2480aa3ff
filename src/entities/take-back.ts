// Entities as they were at a position of the log, from what they are: what the position does not have is taken back.

import { type Bound, bytesOf, nextRows, type Part, partOf, withinBytes } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { asKnown, type PastEntity, type PastEvent, undo } from "../domain/past.ts";
import { instantToText } from "../domain/time.ts";
import { PAST_COLUMNS, toPastEvent } from "../log/history.ts";
import type { Position } from "../log/position.ts";
import { snapshotToText } from "../log/snapshot.ts";

/** What entities and what is read to take them back may take at once. */
export const PART_BYTES = 256 * 1024;
/** Events of one entity that are taken back at once: few at first, since most have few. */
const FIRST_EVENTS = 4;
const EVENTS: Bound = { rows: 500, bytes: PART_BYTES };

export type Read = <T>(work: (db: Statements) => Promise<T>) => Promise<T>;

export interface AsOf {
  organizationId: string;
  position: Position;
  /** The number of the log that the position is of. */
  epoch: number;
}

/** Whether the position has the event `v`; the values of `seenValues` are at $2. */
export const SEEN = `case when v.epoch = $2
  then pg_visible_in_snapshot(v.xid, $3::pg_snapshot)
    or ($4::pg_snapshot is not null and pg_visible_in_snapshot(v.xid, $4::pg_snapshot)
      and (v.recorded_at, v.id) <= ($5::timestamptz, $6::uuid))
  else v.epoch < $2 end`;

export const seenValues = ({ organizationId, epoch, position: { from, within } }: AsOf): unknown[] => [
  organizationId,
  epoch,
  snapshotToText(from),
  within === undefined ? null : snapshotToText(within.to),
  within === undefined ? null : instantToText(within.after.recordedAt),
  within === undefined ? null : within.after.id,
];

export interface ReadEntity {
  entity: EntityState;
  /** Whether the position has the event that made this version. */
  isSeen: boolean;
}

interface TakenBack {
  /** Without entities that were made later. */
  past: PastEntity[];
  /** The last of the entities that are done; undefined: all of them are. */
  upTo?: string;
}

/**
 * The entities at the position, in parts: what they were may take far more than what they are. The bytes bound each part;
 * what was read beyond it is read again for the next, and not kept meanwhile.
 */
export async function* takeBack(read: Read, asOf: AsOf, page: readonly ReadEntity[]): AsyncGenerator<TakenBack, void> {
  let rest = page;
  let budget = EVENTS.rows;
  let limit = FIRST_EVENTS;
  for (;;) {
    let past = new Map<string, PastEntity | null>(rest.map(({ entity }) => [entity.id, asKnown(entity)]));
    let open = rest.filter(({ isSeen }) => !isSeen).map(({ entity }) => entity.id);
    let bytes = 0;
    const ready = () => (open[0] === undefined ? rest.length : rest.findIndex(({ entity }) => entity.id === open[0]));
    while (open.length > 0 && (bytes < PART_BYTES || ready() === 0)) {
      limit = Math.min(limit, budget);
      // What a statement measures is bounded by the events that it may answer, not by what is open.
      const asked = open.slice(0, bytes < PART_BYTES ? Math.floor(budget / limit) : 1);
      const from = asked.map((id) => ({ id, version: past.get(id)?.version ?? 0 }));
      const part = await read((db) => readUnseen(db, asOf, from, limit));
      const { taken, isOpen } = taking(part, limit);
      past = undo(past, taken, ({ isSeen }) => !isSeen);
      const still = asked.filter(isOpen);
      open = [...still, ...open.slice(asked.length)];
      bytes += part.bytes ?? 0;
      budget = nextRows(budget, part, EVENTS.rows);
      // Those that are next have about as many as those before.
      if (still.length === 0) limit = Math.max(FIRST_EVENTS, Math.ceil(limit / 4));
      else if (!part.isCut) limit *= 4;
    }
    const done = rest.slice(0, ready());
    rest = rest.slice(done.length);
    const upTo = rest.length === 0 ? undefined : done.at(-1)?.entity.id;
    yield { past: done.flatMap(({ entity }) => past.get(entity.id) ?? []), ...(upTo !== undefined && { upTo }) };
    if (upTo === undefined) return;
  }
}

/** Which of some events, at most `limit` of an entity, are to be taken back, and which entities may have more of them. */
function taking({ rows, isCut }: Part<SeenEvent>, limit: number) {
  // An event that the position has ends it, whichever are before that: versions are made one after the other.
  const reached = new Set<string>();
  const given = new Map<string, number>();
  const taken = rows.filter(({ entityId, entityVersion, isSeen }) => {
    given.set(entityId, (given.get(entityId) ?? 0) + 1);
    const isBehind = !reached.has(entityId);
    if (isSeen || entityVersion === 1) reached.add(entityId);
    return isBehind;
  });
  const cutAt = isCut ? rows.at(-1)?.entityId : undefined;
  // Of one that has no more events the rest was pruned, and is not behind the position.
  const isOpen = (id: string) => !reached.has(id) && ((cutAt !== undefined && id >= cutAt) || given.get(id) === limit);
  return { taken, isOpen };
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
