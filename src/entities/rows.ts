// Rows of entities and of their external ids: what a row holds as a state, and the set-based writes.

import { bytesOf } from "../db/bytes.ts";
import {
  type Column,
  columnsOf,
  hydrator,
  insertOf,
  type RowOf,
  rowsTable,
  selected,
  updateOf,
  type Write,
} from "../db/columns.ts";
import { EntityRow, ExternalIdRow } from "../db/schema.ts";
import type { Pipeline } from "../db/statements.ts";
import { externalIdFold, nameDateKey, nameNumberKey } from "../domain/duplicates.ts";
import {
  type EntityState,
  type ExternalIdState,
  type Layer,
  primaryOf,
  taxIdCanonicalOf,
  taxIdKeyOf,
} from "../domain/entity-state.ts";
import { nameWords } from "../domain/name.ts";
import { TAX_ID_RULES } from "../domain/tax-id.ts";
import { digestOf, insertWords, NAME_SOURCES, updateWords } from "./words.ts";

const COLUMNS = columnsOf(EntityRow);

export const ENTITY_COLUMNS = selected(COLUMNS, "e");

/** The same with what is compared to find entities that may be one, and nothing that may be large beside it. */
export const COMPARED_COLUMNS = selected(COLUMNS, "e", {
  entityData: `(select jsonb_object_agg(d.key, d.value) from jsonb_each(e.entity_data) d
    where d.key in ('dateOfBirth', 'incorporationDate', 'registrationNumber'))`,
  attributes: "'{}'::jsonb",
  metadata: "'{}'::jsonb",
});

/** Those of them that may be large. */
export const WIDE_COLUMNS = ["external_ids", "entity_data", "attributes", "metadata"];

export const ENTITY_BYTES = bytesOf("e", WIDE_COLUMNS);

/** The state of a row of ENTITY_COLUMNS. */
export const toState: (row: unknown) => EntityState = hydrator<typeof EntityRow>(COLUMNS);

/** The columns that are derived from the state, and the properties that each is derived from. */
const DERIVED: Record<string, { from: (keyof EntityState)[]; value: (state: EntityState) => string | number | null }> =
  {
    // An entity is merged into one that was not merged itself; if that happens later, entities/merges.ts moves all of them.
    survivorId: { from: ["mergedInto"], value: (state) => state.mergedInto },
    externalId: { from: ["externalIds"], value: (state) => primaryOf(state)?.externalId ?? null },
    taxIdKey: { from: ["taxId"], value: taxIdKeyOf },
    taxIdCanonical: { from: ["taxId"], value: taxIdCanonicalOf },
    taxIdRules: { from: ["taxId"], value: () => TAX_ID_RULES },
    nameWords: { from: NAME_SOURCES, value: nameWords },
    nameDateKey: { from: NAME_SOURCES, value: (state) => digestOf(nameDateKey(state)) },
    nameNumberKey: { from: NAME_SOURCES, value: (state) => digestOf(nameNumberKey(state)) },
  };
const DERIVED_VALUES = Object.fromEntries(Object.entries(DERIVED).map(([property, { value }]) => [property, value]));
/** The words of a row that was written before there were words come later, all of them: fill-names.ts. */
const UPDATED = { derived: DERIVED_VALUES, leftNull: ["nameWords"] };
/** Updates by the columns that they write. Callers may change them in more combinations than are kept. */
const updates = new Map<string, Write<WrittenEntity>>();
const MAX_UPDATES = 500;
const ID = COLUMNS.find(({ property }) => property === "id") as Column;
const insertRows = insertOf<WrittenEntity>("entity", COLUMNS, { derived: DERIVED_VALUES });

/** An entity as its row is to be. */
export interface WrittenEntity extends EntityState {
  /** The hash of its last event. */
  auditHead: Buffer;
  /** What it has by itself, where others are merged into it. */
  layer: Layer | null;
}

export function insertEntities(db: Pipeline, organizationId: string, entities: readonly WrittenEntity[]): void {
  if (entities.length === 0) return;
  db.send(...insertRows(organizationId, entities));
  insertWords(db, organizationId, entities);
}

/**
 * Writes the columns that differ in any of the states: a document that nobody changed is not sent, not parsed
 * and not stored anew. Each set of columns is a statement with a plan of its own.
 */
export function updateEntities(
  db: Pipeline,
  organizationId: string,
  changes: readonly { before: Omit<WrittenEntity, "auditHead">; after: WrittenEntity }[],
): void {
  if (changes.length === 0) return;
  const changed = COLUMNS.filter(({ property }) => {
    if (property === "auditHead") return true;
    const from = DERIVED[property]?.from ?? [property as Exclude<keyof WrittenEntity, "auditHead">];
    return changes.some(({ before, after }) => from.some((source) => before[source] !== after[source]));
  });
  const entities = changes.map(({ after }) => after);
  db.send(...updateRows(changed)(organizationId, entities));
  updateWords(db, organizationId, changes);
}

/** The update that writes these columns; its text is made once. */
function updateRows(columns: readonly Column[]): Write<WrittenEntity> {
  const key = columns.map(({ name }) => name).join();
  const update = updates.get(key) ?? updateOf<WrittenEntity>("entity", ID, columns, UPDATED);
  if (updates.size < MAX_UPDATES) updates.set(key, update);
  return update;
}

/** The external ids of one entity before and after a group of commands. */
export interface ExternalIdChange {
  entityId: string;
  before: readonly ExternalIdState[];
  after: readonly ExternalIdState[];
}

interface OwnedExternalId extends ExternalIdState {
  entityId: string;
}

/** Frees, demotes, attaches and promotes, in that order, so that no constraint is violated on the way. */
export function writeExternalIds(db: Pipeline, organizationId: string, changes: readonly ExternalIdChange[]): void {
  const freed: string[] = [];
  const demoted: OwnedExternalId[] = [];
  const attached: OwnedExternalId[] = [];
  const altered: OwnedExternalId[] = [];
  for (const { entityId, before, after } of changes) {
    const values = new Map(after.map((id) => [id.externalId, id]));
    for (const old of before) {
      const now = values.get(old.externalId);
      if (now?.attachedAt !== old.attachedAt) freed.push(old.externalId);
      else if (old.primary && !now.primary) demoted.push({ ...now, entityId });
    }
    for (const id of after) {
      const old = before.find((other) => other.externalId === id.externalId);
      // It may have left and come back in the same group.
      if (old?.attachedAt !== id.attachedAt) attached.push({ ...id, entityId });
      else if ((id.primary && !old.primary) || id.type !== old.type) altered.push({ ...id, entityId });
    }
  }
  if (freed.length > 0) {
    db.send("delete from external_id where organization_id = $1 and external_id = any($2::text[])", [
      organizationId,
      freed,
    ]);
  }
  if (demoted.length > 0) {
    db.send(
      `update external_id x set is_primary = false, tracked_since = v.tracked_since from ${DEMOTED.table}
       where x.organization_id = $1 and x.external_id = v.external_id`,
      [organizationId, ...DEMOTED.arraysOf(demoted.map(toExternalIdRow))],
    );
  }
  if (attached.length > 0) {
    // Sorted, so that two groups that insert the same ids wait for each other instead of deadlocking.
    attached.sort((a, b) => (a.externalId < b.externalId ? -1 : 1));
    db.send(...attachRows(organizationId, attached.map(toExternalIdRow)));
    const values = attached.map(({ externalId }) => externalId);
    db.send(VIOLATE_IF_EARLIER, [organizationId, values]);
  }
  if (altered.length > 0) {
    db.send(
      `update external_id x set type = v.type, is_primary = v.is_primary, tracked_since = v.tracked_since,
         last_resolved_on = v.last_resolved_on
       from ${ALTERED.table}
       where x.organization_id = $1 and x.external_id = v.external_id`,
      [organizationId, ...ALTERED.arraysOf(altered.map(toExternalIdRow))],
    );
  }
}

type WrittenExternalId = Omit<RowOf<typeof ExternalIdRow>, "organizationId">;

const EXTERNAL_ID_COLUMNS = columnsOf(ExternalIdRow);
const columnsNamed = (...properties: (keyof WrittenExternalId)[]) =>
  EXTERNAL_ID_COLUMNS.filter(({ property }) => (properties as string[]).includes(property));
const attachRows = insertOf<WrittenExternalId>(
  "external_id",
  columnsNamed("externalId", "entityId", "type", "isPrimary", "attachedAt", "trackedSince", "homeId", "folded"),
);
const DEMOTED = rowsTable<WrittenExternalId>(columnsNamed("externalId", "trackedSince"));
const ALTERED = rowsTable<WrittenExternalId>(
  columnsNamed("externalId", "type", "isPrimary", "trackedSince", "lastResolvedOn"),
);

/**
 * Inserts an id once more, which violates the primary key, where it has left another entity at a later time than it was
 * attached here. So it is tried again, at a time that is later still. That entity may have got the id and lost it since
 * this transaction read the clock; only a statement behind the insert sees it for certain.
 */
const VIOLATE_IF_EARLIER = `insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at)
  select x.organization_id, x.external_id, x.entity_id, x.is_primary, x.attached_at
  from unnest($2::text[]) as v(external_id)
  join external_id_past p on p.organization_id = $1 and p.external_id = v.external_id
  join external_id x on x.organization_id = $1 and x.external_id = v.external_id and x.attached_at < p.detached_at`;

const toExternalIdRow = ({ primary, type, entityId, ...id }: OwnedExternalId): WrittenExternalId => ({
  ...{ externalId: id.externalId, entityId, type: type === "" ? null : type, isPrimary: primary },
  ...{ attachedAt: id.attachedAt, trackedSince: id.trackedSince, lastResolvedOn: id.lastResolvedOn },
  homeId: id.homeId,
  folded: externalIdFold(id.externalId),
});
