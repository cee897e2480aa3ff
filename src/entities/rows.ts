// Rows of entities and of their external ids: what a row holds as a state, and the set-based writes.

import { bytesOf } from "../db/bytes.ts";
import { jsonbArray } from "../db/jsonb-array.ts";
import type { Pipeline } from "../db/statements.ts";
import { type EntityState, type ExternalIdState, primaryOf, taxIdKeyOf } from "../domain/entity-state.ts";
import type { JsonObject, JsonValue } from "../domain/json.ts";
import { instantToText, parseInstant } from "../domain/time.ts";

interface EntityRow {
  organization_id: string;
  id: string;
  version: string;
  type: EntityState["type"];
  country_code: string;
  name: string;
  tax_id: string | null;
  tax_id_check: EntityState["taxIdCheck"];
  status: EntityState["status"];
  nationality: string | null;
  risk_matrix_id: string | null;
  risk_score: string | null;
  entity_data: JsonObject | null;
  attributes: JsonObject;
  metadata: JsonObject;
  etag: string;
  created_at: string;
  updated_at: string;
  deleted_at: string | null;
  external_ids: [externalId: string, type: string, primary: boolean, attachedAt: string][];
}

export const ENTITY_COLUMNS = `e.organization_id, e.id, e.version, e.type, e.country_code, e.external_ids, e.name, e.tax_id,
  e.tax_id_check, e.status, e.nationality, e.risk_matrix_id, e.risk_score, e.entity_data, e.attributes, e.metadata,
  e.etag, e.created_at, e.updated_at, e.deleted_at`;

/** Those of them that may be large. */
export const WIDE_COLUMNS = ["external_ids", "entity_data", "attributes", "metadata"];

export const ENTITY_BYTES = bytesOf("e", WIDE_COLUMNS);

/** The state of a row of ENTITY_COLUMNS. */
export function toState(row: unknown): EntityState {
  const r = row as EntityRow;
  return {
    id: r.id,
    organizationId: r.organization_id,
    version: Number(r.version),
    type: r.type,
    countryCode: r.country_code,
    externalIds: r.external_ids.map(([externalId, type, primary, attachedAt]) => ({
      externalId,
      type,
      primary,
      attachedAt: parseInstant(attachedAt),
    })),
    name: r.name,
    taxId: r.tax_id,
    taxIdCheck: r.tax_id_check,
    status: r.status,
    nationality: r.nationality,
    riskMatrixId: r.risk_matrix_id,
    riskScore: r.risk_score,
    entityData: r.entity_data,
    attributes: r.attributes,
    metadata: r.metadata,
    etag: r.etag,
    createdAt: parseInstant(r.created_at),
    updatedAt: parseInstant(r.updated_at),
    deletedAt: r.deleted_at === null ? null : parseInstant(r.deleted_at),
  };
}

interface Column {
  /** Type of the array parameter. */
  type: string;
  value: (state: EntityState) => unknown;
  /** What of the state it is made of. */
  from: keyof EntityState;
}

const json = (value: (state: EntityState) => JsonValue | undefined, from: keyof EntityState): Column => ({
  type: "jsonb",
  value,
  from,
});

const text = (value: (state: EntityState) => string | null, from: keyof EntityState, type = "text"): Column => ({
  type,
  value,
  from,
});

/** Set at creation, and never again. */
const FIXED_COLUMNS = {
  type: text((s) => s.type, "type"),
  country_code: text((s) => s.countryCode, "countryCode"),
  created_at: text((s) => instantToText(s.createdAt), "createdAt", "timestamptz"),
};

const COLUMNS: Record<string, Column> = {
  version: { type: "bigint", value: (s) => s.version, from: "version" },
  external_id: text((s) => primaryOf(s)?.externalId ?? null, "externalIds"),
  external_ids: json(
    (s) => s.externalIds.map((id) => [id.externalId, id.type, id.primary, instantToText(id.attachedAt)]),
    "externalIds",
  ),
  name: text((s) => s.name, "name"),
  tax_id: text((s) => s.taxId, "taxId"),
  tax_id_key: text(taxIdKeyOf, "taxId"),
  tax_id_check: text((s) => s.taxIdCheck, "taxIdCheck"),
  status: text((s) => s.status, "status"),
  nationality: text((s) => s.nationality, "nationality"),
  risk_matrix_id: text((s) => s.riskMatrixId, "riskMatrixId", "uuid"),
  risk_score: text((s) => s.riskScore, "riskScore", "numeric"),
  entity_data: json((s) => s.entityData ?? undefined, "entityData"),
  attributes: json((s) => s.attributes, "attributes"),
  metadata: json((s) => s.metadata, "metadata"),
  etag: text((s) => s.etag, "etag", "uuid"),
  updated_at: text((s) => instantToText(s.updatedAt), "updatedAt", "timestamptz"),
  deleted_at: text((s) => (s.deletedAt === null ? null : instantToText(s.deletedAt)), "deletedAt", "timestamptz"),
};

const ID = text((s) => s.id, "id", "uuid");

/** The states as arrays, one for each column, and the table `v` that they are in a statement whose $1 is the organization. */
function tableOf(
  columns: Record<string, Column>,
  states: readonly EntityState[],
): { table: string; arrays: unknown[] } {
  const all = Object.values(columns);
  return {
    table: `unnest(${all.map(({ type }, i) => `$${i + 2}::${type}[]`).join(", ")}) as v(${Object.keys(columns).join(", ")})`,
    arrays: all.map(({ type, value }) => {
      const values = states.map(value);
      return type === "jsonb" ? jsonbArray(values as (JsonValue | undefined)[]) : values;
    }),
  };
}

export function insertEntities(db: Pipeline, organizationId: string, states: readonly EntityState[]): void {
  if (states.length === 0) return;
  const { table, arrays } = tableOf({ id: ID, ...FIXED_COLUMNS, ...COLUMNS }, states);
  const names = ["id", ...Object.keys(FIXED_COLUMNS), ...Object.keys(COLUMNS)];
  db.send(
    `insert into entity (organization_id, ${names.join(", ")})
     select $1::uuid, ${names.map((name) => `v.${name}`).join(", ")} from ${table}`,
    [organizationId, ...arrays],
  );
}

/**
 * Writes the columns that differ in any of the states: a document that nobody changed is not sent, not parsed
 * and not stored anew. Each set of columns is a statement with a plan of its own.
 */
export function updateEntities(
  db: Pipeline,
  organizationId: string,
  changes: readonly { before: EntityState; after: EntityState }[],
): void {
  if (changes.length === 0) return;
  const changed = Object.entries(COLUMNS).filter(([, { from }]) =>
    changes.some(({ before, after }) => before[from] !== after[from]),
  );
  const { table, arrays } = tableOf(
    { id: ID, ...Object.fromEntries(changed) },
    changes.map(({ after }) => after),
  );
  db.send(
    `update entity e set ${changed.map(([name]) => `${name} = v.${name}`).join(", ")} from ${table}
     where e.organization_id = $1 and e.id = v.id`,
    [organizationId, ...arrays],
  );
}

/** The external ids of one entity before and after a group of commands. */
export interface ExternalIdChange {
  entityId: string;
  before: readonly ExternalIdState[];
  after: readonly ExternalIdState[];
}

/** Frees, demotes, attaches and promotes, in that order, so that no constraint is hurt on the way. */
export function writeExternalIds(db: Pipeline, organizationId: string, changes: readonly ExternalIdChange[]): void {
  const freed: string[] = [];
  const demoted: string[] = [];
  const attached: (ExternalIdState & { entityId: string })[] = [];
  const altered: ExternalIdState[] = [];
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
      else if ((id.primary && !old.primary) || id.type !== old.type) altered.push(id);
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
    db.send(
      `insert into external_id (organization_id, external_id, entity_id, type, is_primary, attached_at)
       select $1::uuid, v.* from unnest($2::text[], $3::uuid[], $4::text[], $5::boolean[], $6::timestamptz[]) as v`,
      [
        organizationId,
        attached.map((id) => id.externalId),
        attached.map((id) => id.entityId),
        attached.map((id) => (id.type === "" ? null : id.type)),
        attached.map((id) => id.primary),
        attached.map((id) => instantToText(id.attachedAt)),
      ],
    );
  }
  if (altered.length > 0) {
    db.send(
      `update external_id x set type = v.type, is_primary = v.is_primary
       from unnest($2::text[], $3::text[], $4::boolean[]) as v(external_id, type, is_primary)
       where x.organization_id = $1 and x.external_id = v.external_id`,
      [
        organizationId,
        altered.map((id) => id.externalId),
        altered.map((id) => (id.type === "" ? null : id.type)),
        altered.map((id) => id.primary),
      ],
    );
  }
}
