// Events and entities as they are stored, for those who hold them against each other. What nobody else reads is read here too.

import { type Bound, type Part, partOf, roughBytesOf, withinBytes } from "../db/bytes.ts";
import { columnsOf, hydrator, selected } from "../db/columns.ts";
import { EntityEventRow, EntityRow } from "../db/schema.ts";
import type { Statements } from "../db/statements.ts";
import type { ChainedEntity } from "../domain/chain.ts";
import type { EntityState } from "../domain/entity-state.ts";
import type { ChainedEvent } from "../domain/seal.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { WIDE_COLUMNS } from "../entities/rows.ts";

/** An event, as far as it can be read. */
export interface ChainedRow {
  place: ChainPlace;
  entityId: string;
  entityVersion: number;
  id: string;
  epoch: number;
  xid: bigint;
  /** Undefined: it holds what no event does. */
  event: ChainedEvent | undefined;
}

// What an entity's events do not tell is left: what follows from them is compared where it is read.
const DERIVED = new Set(["layer", "taxIdKey", "taxIdCanonical", "taxIdRules"]);
const all = (table: Parameters<typeof columnsOf>[0]) =>
  columnsOf(table).map((column) => ({ ...column, isRead: !DERIVED.has(column.property) }));
const EVENT_COLUMNS = all(EntityEventRow);
const ENTITY_COLUMNS = all(EntityRow);
const toEvent = hydrator<typeof EntityEventRow>(EVENT_COLUMNS);
const toEntity = hydrator<typeof EntityRow>(ENTITY_COLUMNS) as unknown as (
  row: unknown,
) => EntityState & Pick<ChainedEntity, "externalId" | "auditHead">;

const EVENT_BYTES = roughBytesOf("v", ["previous_values", "new_values", "external_ids", "metadata", "reason"]);
const ENTITY_BYTES = roughBytesOf("e", WIDE_COLUMNS);

/** A place in the order of entities and their versions, of which nobody knows that they are small. */
export interface ChainPlace {
  entityId: string;
  version: string;
}

/** Before the events of an entity. */
export const beforeAll = (entityId: string): ChainPlace => ({ entityId, version: "-9223372036854775808" });

/** Which events to read, in the order of entities and versions. */
export interface ChainQuery {
  after: ChainPlace;
  /** Undefined: to the end. */
  upTo?: ChainPlace;
  /** This entity alone. */
  entityId?: string | undefined;
  /** Recorded then or later. */
  since?: Instant | undefined;
}

export async function readChains(
  db: Statements,
  organizationId: string,
  { after, upTo, entityId, since }: ChainQuery,
  bound: Bound,
): Promise<Part<ChainedRow>> {
  const values: unknown[] = [organizationId, bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["v.organization_id = $1"];
  if (entityId !== undefined) {
    where.push(`v.entity_id = ${value(entityId)}::uuid`, `v.entity_version > ${value(after.version)}::bigint`);
  } else {
    where.push(`(v.entity_id, v.entity_version) > (${value(after.entityId)}::uuid, ${value(after.version)}::bigint)`);
  }
  if (upTo !== undefined) {
    where.push(`(v.entity_id, v.entity_version) <= (${value(upTo.entityId)}::uuid, ${value(upTo.version)}::bigint)`);
  }
  if (since !== undefined) where.push(`v.recorded_at >= ${value(instantToText(since))}::timestamptz`);
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select ${selected(EVENT_COLUMNS, "v")}, ${EVENT_BYTES} as bytes from entity_event v
       where ${where.join(" and ")} order by v.entity_id, v.entity_version limit $2`,
      bound.bytes,
      "entity_id, entity_version",
    ),
    values,
  );
  return partOf(rows, toRow);
}

/** The place of the last of some events behind another; undefined: there are none. */
export async function placeBehind(
  db: Statements,
  organizationId: string,
  after: ChainPlace,
  rows: number,
): Promise<ChainPlace | undefined> {
  const [row] = await db.execute<{ entity_id: string; entity_version: string }[]>(
    `select * from (
       select entity_id, entity_version from entity_event
       where organization_id = $1 and (entity_id, entity_version) > ($2::uuid, $3::bigint)
       order by entity_id, entity_version limit $4) v
     order by entity_id desc, entity_version desc limit 1`,
    [organizationId, after.entityId, after.version, rows],
  );
  return row && { entityId: row.entity_id, version: row.entity_version };
}

/** Some entities, by their ids: as many as the bytes have room for, one at least; null for one that is not there. */
export async function readEntities(
  db: Statements,
  organizationId: string,
  ids: readonly string[],
  bytes: number,
): Promise<Map<string, ChainedEntity | "unreadable" | null>> {
  // The external ids by which an entity is found: its row has a copy of them.
  const rows = await db.execute<{ id: string }[]>(
    withinBytes(
      `select ${selected(ENTITY_COLUMNS, "e")}, (
         select coalesce(jsonb_agg(jsonb_build_array(x.external_id, coalesce(x.type, ''), x.is_primary, x.attached_at, x.home_id)), '[]')
         from external_id x where x.entity_id = e.id and x.organization_id = e.organization_id) as own_ids,
         e.survivor_id is not distinct from (
           select coalesce(p.survivor_id, p.id) from entity p
           where p.organization_id = e.organization_id and p.id = e.merged_into) as is_redirected,
         ${ENTITY_BYTES} as bytes
       from entity e where e.organization_id = $1 and e.id = any($2::uuid[]) order by e.id`,
      bytes,
      "id",
    ),
    [organizationId, ids],
  );
  const { rows: entities, isCut } = partOf(rows, (row: { id: string }) => [row.id, entityOf(row)] as const);
  const found = new Map<string, ChainedEntity | "unreadable" | null>(entities);
  if (!isCut) for (const id of ids) if (!found.has(id)) found.set(id, null);
  return found;
}

/** Some entities behind an id: those of them that have no event, and the last of all that were looked at. */
export async function readWithoutEvents(
  db: Statements,
  organizationId: string,
  after: string,
  rows: number,
): Promise<{ ids: string[]; last: string | undefined }> {
  const found = await db.execute<{ id: string; without: boolean }[]>(
    `select e.id, not exists (select from entity_event v where v.organization_id = $1 and v.entity_id = e.id) as without
     from (select id from entity where organization_id = $1 and id > $2::uuid order by id limit $3) e order by e.id`,
    [organizationId, after, rows],
  );
  return { ids: found.flatMap(({ id, without }) => (without ? [id] : [])), last: found.at(-1)?.id };
}

function toRow(row: { entity_id: string; entity_version: string; id: string; epoch: number; xid: string }): ChainedRow {
  return {
    place: { entityId: row.entity_id, version: row.entity_version },
    entityId: row.entity_id,
    entityVersion: Number(row.entity_version),
    id: row.id,
    epoch: row.epoch,
    xid: BigInt(row.xid),
    event: readable(() => toEvent(row) as ChainedEvent),
  };
}

function entityOf(row: unknown): ChainedEntity | "unreadable" {
  const entity = readable(() => {
    const state = toEntity(row);
    const { own_ids: own, is_redirected: isRedirected } = row as {
      own_ids: Parameters<typeof ownIdOf>[0][];
      is_redirected: boolean;
    };
    const { externalId, auditHead } = state;
    return { state, externalId, auditHead, ownIds: own.map(ownIdOf), isRedirected };
  });
  return entity ?? "unreadable";
}

const ownIdOf = ([externalId, type, primary, attachedAt, homeId]: [
  string,
  string,
  boolean,
  string,
  string | null,
]) => ({
  ...{ externalId, type, primary, homeId },
  attachedAt: parseInstant(attachedAt),
});

/** A time that the calendar does not have and the like: nobody but this service is known to have written the row. */
export function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
