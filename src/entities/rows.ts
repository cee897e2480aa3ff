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
import { type EntityState, type ExternalIdState, primaryOf, taxIdKeyOf } from "../domain/entity-state.ts";

const COLUMNS = columnsOf(EntityRow);

export const ENTITY_COLUMNS = selected(COLUMNS, "e");

/** Those of them that may be large. */
export const WIDE_COLUMNS = ["external_ids", "entity_data", "attributes", "metadata"];

export const ENTITY_BYTES = bytesOf("e", WIDE_COLUMNS);

/** The state of a row of ENTITY_COLUMNS. */
export const toState: (row: unknown) => EntityState = hydrator<typeof EntityRow>(COLUMNS);

/** The columns that are derived from the state, and the property that each is derived from. */
const DERIVED: Record<string, { from: keyof EntityState; value: (state: EntityState) => string | null }> = {
  externalId: { from: "externalIds", value: (state) => primaryOf(state)?.externalId ?? null },
  taxIdKey: { from: "taxId", value: taxIdKeyOf },
};
const DERIVED_VALUES = Object.fromEntries(Object.entries(DERIVED).map(([property, { value }]) => [property, value]));
/** Updates by the columns that they write. Callers may change them in more combinations than are kept. */
const updates = new Map<string, Write<WrittenEntity>>();
const MAX_UPDATES = 500;
const ID = COLUMNS.find(({ property }) => property === "id") as Column;
const insertRows = insertOf<WrittenEntity>("entity", COLUMNS, { derived: DERIVED_VALUES });

/** An entity as its row is to be. */
export interface WrittenEntity extends EntityState {
  /** The hash of its last event. */
  auditHead: Buffer;
}

export function insertEntities(db: Pipeline, organizationId: string, entities: readonly WrittenEntity[]): void {
  if (entities.length === 0) return;
  db.send(...insertRows(organizationId, entities));
}

/**
 * Writes the columns that differ in any of the states: a document that nobody changed is not sent, not parsed
 * and not stored anew. Each set of columns is a statement with a plan of its own.
 */
export function updateEntities(
  db: Pipeline,
  organizationId: string,
  changes: readonly { before: EntityState; after: WrittenEntity }[],
): void {
  if (changes.length === 0) return;
  const changed = COLUMNS.filter(({ property }) => {
    if (property === "auditHead") return true;
    const from = DERIVED[property]?.from ?? (property as keyof EntityState);
    return changes.some(({ before, after }) => before[from] !== after[from]);
  });
  const entities = changes.map(({ after }) => after);
  db.send(...updateRows(changed)(organizationId, entities));
}

/** The update that writes these columns; its text is made once. */
function updateRows(columns: readonly Column[]): Write<WrittenEntity> {
  const key = columns.map(({ name }) => name).join();
  const update = updates.get(key) ?? updateOf<WrittenEntity>("entity", ID, columns, DERIVED_VALUES);
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
  const demoted: string[] = [];
  const attached: OwnedExternalId[] = [];
  const altered: OwnedExternalId[] = [];
  for (const { entityId, before, after } of changes) {
    const values = new Set(after.map((id) => id.externalId));
    const primary = after.find((id) => id.primary)?.externalId;
    for (const old of before) {
      if (!values.has(old.externalId)) freed.push(old.externalId);
      else if (old.primary && old.externalId !== primary) demoted.push(old.externalId);
    }
    for (const id of after) {
      const old = before.find((other) => other.externalId === id.externalId);
      if (old === undefined) attached.push({ ...id, entityId });
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
    db.send("update external_id set is_primary = false where organization_id = $1 and external_id = any($2::text[])", [
      organizationId,
      demoted,
    ]);
  }
  if (attached.length > 0) {
    // Sorted, so that two groups that insert the same ids wait for each other instead of deadlocking.
    attached.sort((a, b) => (a.externalId < b.externalId ? -1 : 1));
    db.send(...attachRows(organizationId, attached.map(toExternalIdRow)));
  }
  if (altered.length > 0) {
    db.send(
      `update external_id x set type = v.type, is_primary = v.is_primary from ${ALTERED.table}
       where x.organization_id = $1 and x.external_id = v.external_id`,
      [organizationId, ...ALTERED.arraysOf(altered.map(toExternalIdRow))],
    );
  }
}

type WrittenExternalId = Omit<RowOf<typeof ExternalIdRow>, "organizationId">;

const EXTERNAL_ID_COLUMNS = columnsOf(ExternalIdRow);
const attachRows = insertOf<WrittenExternalId>("external_id", EXTERNAL_ID_COLUMNS);
const ALTERED = rowsTable<WrittenExternalId>(
  EXTERNAL_ID_COLUMNS.filter(({ property }) => ["externalId", "type", "isPrimary"].includes(property)),
);

const toExternalIdRow = ({ externalId, entityId, type, primary, attachedAt }: OwnedExternalId): WrittenExternalId => ({
  externalId,
  entityId,
  type: type === "" ? null : type,
  isPrimary: primary,
  attachedAt,
});
