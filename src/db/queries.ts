// The hot statements, written by hand, each form one text for ever so that PostgreSQL plans it once. They run on
// the transaction of the entity manager that they are given, under row level security; organization_id is
// named all the same, since it is the first column of every index.

import { type EntityState, type EventType, type ExternalIdState, primaryOf, taxIdKeyOf } from "../domain/entity.ts";
import type { JsonObject, JsonValue } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { type Bound, bytesOf, type Part, partOf, withinBytes } from "./bytes.ts";
import { readHorizon } from "./horizon.ts";
import { jsonbArray } from "./jsonb-array.ts";

/** Where statements run: an entity manager, or a pipelined transaction. */
export interface Statements {
  execute<T>(text: string, values: readonly unknown[]): Promise<T>;
}

/** A transaction whose statements are sent at once. */
export interface Pipeline extends Statements {
  /** Sends a statement whose answer nobody needs: if it fails, the transaction does. */
  send(text: string, values: readonly unknown[]): void;
}

/** Keys to look entities up by: tax ids as their match keys. */
export interface Keys {
  entityIds: string[];
  externalIds: string[];
  taxIdKeys: string[];
}

/** Which entities answer to which key. Of a tax id at most one more than LIMITS.candidates are told. */
export interface Hits {
  externalIds: Map<string, string>;
  taxIdKeys: Map<string, string[]>;
}

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

const ENTITY_COLUMNS = `e.organization_id, e.id, e.version, e.type, e.country_code, e.external_ids, e.name, e.tax_id,
  e.tax_id_check, e.status, e.nationality, e.risk_matrix_id, e.risk_score, e.entity_data, e.attributes, e.metadata,
  e.etag, e.created_at, e.updated_at, e.deleted_at`;

/** Those of them that may be large. */
const WIDE_COLUMNS = ["external_ids", "entity_data", "attributes", "metadata"];
const ENTITY_BYTES = bytesOf("e", WIDE_COLUMNS);
/** What an event holds, as `v`. */
export const EVENT_BYTES = bytesOf("v", ["previous_values", "new_values", "external_ids", "metadata", "reason"]);

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

// --- Reads --------------------------------------------------------------------------------------

/** Adds a value to those of a statement and answers its placeholder. */
type Bind = (value: unknown) => string;

/**
 * What answers to the keys, as (by, key, id). Only kinds of keys that are asked for are in the statement, so
 * that each form has its own plan: starting the parts that would find nothing costs more than a lookup.
 */
function hitsOf({ externalIds, taxIdKeys }: Keys, bind: Bind): string[] {
  const parts: string[] = [];
  if (externalIds.length > 0) {
    parts.push(`select 'external_id' as by, x.external_id as key, x.entity_id as id
      from external_id x where x.organization_id = $1 and x.external_id = any(${bind(externalIds)}::text[])`);
  }
  if (taxIdKeys.length > 0) {
    parts.push(`select 'tax_id' as by, k.key, t.id
      from (select distinct u.key from unnest(${bind(taxIdKeys)}::text[]) as u(key)) k
      cross join lateral (
        select e.id from entity e
        where e.organization_id = $1 and e.tax_id_key = k.key and e.deleted_at is null
        order by e.id limit ${LIMITS.candidates + 1}
      ) t`);
  }
  return parts;
}

/** Asked for twice, a tax id would have each of its entities twice and look ambiguous. */
const distinct = (keys: string[]) => [...new Set(keys)];

/** Which entities the keys name now. */
export async function findHits(db: Statements, organizationId: string, keys: Keys): Promise<Hits> {
  const hits: Hits = { externalIds: new Map(), taxIdKeys: new Map() };
  if (keys.externalIds.length === 0 && keys.taxIdKeys.length === 0) return hits;
  const values: unknown[] = [organizationId];
  const parts = hitsOf({ ...keys, taxIdKeys: distinct(keys.taxIdKeys) }, (value) => `$${values.push(value)}`);
  const rows = await db.execute<{ by: string; key: string; id: string }[]>(parts.join(" union all "), values);
  for (const { by, key, id } of rows) {
    if (by === "external_id") hits.externalIds.set(key, id);
    else hits.taxIdKeys.set(key, [...(hits.taxIdKeys.get(key) ?? []), id]);
  }
  return hits;
}

export interface FoundEntities {
  hits: Hits;
  entities: Map<string, EntityState>;
  /** Those that would have been too much at once: named, and not read. */
  leftOut: ReadonlySet<string>;
}

/** Rows whose columns fit in FOUND_BYTES, however large they are: measuring would cost a lookup more than it saves. */
const FEW_ROWS = 40;
/** What entities that are found at once hold, but for the last of them. */
const FOUND_BYTES = 4 * 1024 * 1024;

/** The entities that the keys name, of one moment, with the hits that led to them. */
export async function findEntities(db: Statements, organizationId: string, keys: Keys): Promise<FoundEntities> {
  const hits: Hits = { externalIds: new Map(), taxIdKeys: new Map() };
  const entities = new Map<string, EntityState>();
  const leftOut = new Set<string>();
  const values: unknown[] = [organizationId];
  const bind: Bind = (value) => `$${values.push(value)}`;
  const parts = hitsOf({ ...keys, taxIdKeys: distinct(keys.taxIdKeys) }, bind);
  if (keys.entityIds.length > 0) {
    parts.push(
      `select 'entity_id' as by, u.id::text as key, u.id from unnest(${bind(keys.entityIds)}::uuid[]) as u(id)`,
    );
  }
  if (parts.length === 0) return { hits, entities, leftOut };
  const mostRows = keys.entityIds.length + keys.externalIds.length + keys.taxIdKeys.length * (LIMITS.candidates + 1);
  const found = (measure: string) => `select hit.by, hit.key, ${ENTITY_COLUMNS} ${measure}
     from (${parts.join(" union all ")}) hit join entity e on e.organization_id = $1 and e.id = hit.id`;
  const rows = await db.execute<{ by: string; key: string; id: string; is_left_out?: boolean }[]>(
    mostRows <= FEW_ROWS ? found("") : withoutMost(found(`, ${ENTITY_BYTES} as bytes`)),
    values,
  );
  for (const row of rows) {
    if (row.by === "external_id") hits.externalIds.set(row.key, row.id);
    if (row.by === "tax_id") hits.taxIdKeys.set(row.key, [...(hits.taxIdKeys.get(row.key) ?? []), row.id]);
    if (row.is_left_out) leftOut.add(row.id);
    else if (!entities.has(row.id)) entities.set(row.id, toState(row));
  }
  for (const id of entities.keys()) leftOut.delete(id);
  return { hits, entities, leftOut };
}

/** The rows of `select`, each with its `bytes`, without their wide columns behind the row that reaches FOUND_BYTES. */
function withoutMost(select: string): string {
  const wide = WIDE_COLUMNS.map((name) => `case when not e.is_left_out then e.${name} end as ${name}`);
  const narrow = ENTITY_COLUMNS.split(",").filter((name) => !WIDE_COLUMNS.includes(name.trim().replace("e.", "")));
  return `select e.by, e.key, ${[...narrow, ...wide].join(", ")}, e.is_left_out
    from (
      select q.*, sum(q.bytes) over (rows unbounded preceding) - q.bytes >= ${FOUND_BYTES} as is_left_out
      from (${select}) q) e`;
}

/** Filters of a list; undefined or empty filters nothing. */
export interface EntityFilter {
  after: string | undefined;
  bound: Bound;
  type: string | undefined;
  statuses: string[];
  countryCodes: string[];
  taxIdKey: string | undefined;
  externalIds: string[] | undefined;
  namePrefix: string;
  updatedAfter: Instant | undefined;
  showDeleted: boolean;
}

/** Entities by id. */
export async function listEntities(
  db: Statements,
  organizationId: string,
  filter: EntityFilter,
): Promise<Part<EntityState>> {
  const { updatedAfter } = filter;
  const entities = await listBy(db, organizationId, filter, { byLog: true });
  if (updatedAfter === undefined) return entities;
  // Read behind the list: it tells whether the log still reached back so far.
  const horizon = await readHorizon(db, organizationId);
  if (horizon === undefined || horizon.recordedAt <= updatedAfter) return entities;
  return listBy(db, organizationId, filter, { byLog: false });
}

/** Only the filters that are used are in the statement, so that each form has its own plan. */
async function listBy(
  db: Statements,
  organizationId: string,
  filter: EntityFilter,
  { byLog }: { byLog: boolean },
): Promise<Part<EntityState>> {
  const values: unknown[] = [organizationId, filter.bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["e.organization_id = $1"];
  if (filter.after !== undefined) where.push(`e.id > ${value(filter.after)}::uuid`);
  if (!filter.showDeleted) where.push("e.deleted_at is null");
  if (filter.type !== undefined) where.push(`e.type = ${value(filter.type)}`);
  if (filter.statuses.length > 0) where.push(`e.status = any(${value(filter.statuses)}::text[])`);
  if (filter.countryCodes.length > 0) where.push(`e.country_code = any(${value(filter.countryCodes)}::text[])`);
  if (filter.taxIdKey !== undefined) where.push(`e.tax_id_key = ${value(filter.taxIdKey)}`);
  if (filter.externalIds !== undefined) {
    where.push(`e.id in (select x.entity_id from external_id x
      where x.organization_id = $1 and x.external_id = any(${value(filter.externalIds)}::text[]))`);
  }
  if (filter.namePrefix !== "") {
    // A range and not LIKE, which is not leakproof and so would not use the index under row level security.
    where.push(`e.name >= ${value(filter.namePrefix)}`);
    const end = afterPrefix(filter.namePrefix);
    if (end !== undefined) where.push(`e.name < ${value(end)}`);
  }
  if (filter.updatedAfter !== undefined) {
    // Every change has an event of the same time, and the log is indexed by time; entities are not.
    const after = value(instantToText(filter.updatedAfter));
    where.push(
      byLog
        ? `e.id in (select v.entity_id from entity_event v
           where v.organization_id = $1 and v.recorded_at > ${after}::timestamptz)`
        : `e.updated_at > ${after}::timestamptz`,
    );
  }
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select ${ENTITY_COLUMNS}, ${ENTITY_BYTES} as bytes
       from entity e where ${where.join(" and ")} order by e.id limit $2`,
      filter.bound.bytes,
      "id",
    ),
    values,
  );
  return partOf(rows, toState);
}

/** The first text in code point order (collation "C") after all that begin with `prefix`, if there is one. */
function afterPrefix(prefix: string): string | undefined {
  const points = [...prefix];
  for (let last = points.pop(); last !== undefined; last = points.pop()) {
    const next = (last.codePointAt(0) ?? 0) + 1;
    // Surrogates are no characters: the one after U+D7FF is U+E000.
    if (next <= 0x10ffff) return points.join("") + String.fromCodePoint(next === 0xd800 ? 0xe000 : next);
  }
  return undefined;
}

/** An event as it was written. Texts that were not given are "". */
export interface ListedEvent {
  id: string;
  entityId: string;
  entityVersion: number;
  entityType: EntityState["type"];
  type: EventType;
  externalId: string;
  externalIds: string[];
  updatedFields: string[];
  previousValues: JsonObject;
  newValues: JsonObject;
  actor: string;
  principal: string;
  source: string;
  reason: string;
  requestId: string;
  metadata: JsonObject;
  recordedAt: Instant;
  occurredAt: Instant | undefined;
}

export interface EventFilter {
  entityId: string | undefined;
  types: string[];
  actor: string | undefined;
  principal: string | undefined;
  requestId: string | undefined;
  from: Instant | undefined;
  to: Instant | undefined;
  /** Only what is older than this event. */
  before: { recordedAt: Instant; id: string; entityVersion: string } | undefined;
  bound: Bound;
}

/** Events, newest first. */
export async function listEvents(
  db: Statements,
  organizationId: string,
  filter: EventFilter,
): Promise<Part<ListedEvent>> {
  const values: unknown[] = [organizationId, filter.bound.rows];
  const value = (item: unknown) => `$${values.push(item)}`;
  const where = ["v.organization_id = $1"];
  if (filter.entityId !== undefined) where.push(`v.entity_id = ${value(filter.entityId)}::uuid`);
  if (filter.types.length > 0) where.push(`v.type = any(${value(filter.types)}::text[])`);
  if (filter.actor !== undefined) where.push(`v.actor = ${value(filter.actor)}`);
  if (filter.principal !== undefined) where.push(`v.principal = ${value(filter.principal)}::uuid`);
  if (filter.requestId !== undefined) where.push(`v.request_id = ${value(filter.requestId)}::uuid`);
  if (filter.from !== undefined) where.push(`v.recorded_at >= ${value(instantToText(filter.from))}::timestamptz`);
  if (filter.to !== undefined) where.push(`v.recorded_at < ${value(instantToText(filter.to))}::timestamptz`);
  // Of one entity the versions are in the order of time, and have an index that no planner can mistake.
  const order = filter.entityId === undefined ? "v.recorded_at desc, v.id desc" : "v.entity_version desc";
  if (filter.before !== undefined && filter.entityId !== undefined) {
    where.push(`v.entity_version < ${value(filter.before.entityVersion)}::bigint`);
  } else if (filter.before !== undefined) {
    const { recordedAt, id } = filter.before;
    where.push(`(v.recorded_at, v.id) < (${value(instantToText(recordedAt))}::timestamptz, ${value(id)}::uuid)`);
  }
  const rows = await db.execute<Record<string, never>[]>(
    withinBytes(
      `select v.*, ${EVENT_BYTES} as bytes from entity_event v where ${where.join(" and ")} order by ${order} limit $2`,
      filter.bound.bytes,
      order.replaceAll("v.", ""),
    ),
    values,
  );
  return partOf(rows, toListedEvent);
}

/** The event of a row of entity_event. */
export function toListedEvent(row: Record<string, unknown>): ListedEvent {
  return {
    id: row.id as string,
    entityId: row.entity_id as string,
    entityVersion: Number(row.entity_version),
    entityType: row.entity_type as EntityState["type"],
    type: row.type as EventType,
    externalId: (row.external_id as string | null) ?? "",
    externalIds: row.external_ids as string[],
    updatedFields: row.updated_fields as string[],
    previousValues: row.previous_values as JsonObject,
    newValues: row.new_values as JsonObject,
    actor: row.actor as string,
    principal: row.principal as string,
    source: row.source as string,
    reason: (row.reason as string | null) ?? "",
    requestId: (row.request_id as string | null) ?? "",
    metadata: row.metadata as JsonObject,
    recordedAt: parseInstant(row.recorded_at as string),
    occurredAt: row.occurred_at === null ? undefined : parseInstant(row.occurred_at as string),
  };
}

// --- Locking reads ------------------------------------------------------------------------------

/**
 * Locks the entities that the keys name, against writers and recorders, in id order, and reads them. The
 * keys are resolved before the lock: who waited for one must resolve them again. With `skipLocked` those
 * that somebody else holds are left out instead of waited for.
 */
export async function lockEntities(
  db: Statements,
  organizationId: string,
  keys: Keys,
  { skipLocked }: { skipLocked: boolean },
): Promise<EntityState[]> {
  const values: unknown[] = [organizationId];
  const bind: Bind = (value) => `$${values.push(value)}`;
  const parts = hitsOf(keys, bind).map((hits) => `select h.id from (${hits}) h`);
  if (keys.entityIds.length > 0) parts.push(`select u.id from unnest(${bind(keys.entityIds)}::uuid[]) as u(id)`);
  if (parts.length === 0) return [];
  const rows = await db.execute<unknown[]>(
    `select ${ENTITY_COLUMNS} from entity e
     where e.organization_id = $1 and e.id = any(array(${parts.join(" union all ")}))
     order by e.id for no key update${skipLocked ? " skip locked" : ""}`,
    values,
  );
  return rows.map(toState);
}

/** Locks entities against writers alone, in id order: recorders do not wait for each other. */
export async function shareEntities(
  db: Statements,
  organizationId: string,
  ids: string[],
): Promise<{ id: string; external_id: string | null; deleted: boolean }[]> {
  return db.execute(
    `select e.id, e.external_id, e.deleted_at is not null as deleted from entity e
     where e.organization_id = $1 and e.id = any($2::uuid[]) order by e.id for share`,
    [organizationId, ids],
  );
}

/** The database's clock, now and not at the beginning of the transaction, and the organization's policy. */
export async function readClockAndPolicy(
  db: Statements,
  organizationId: string,
): Promise<{ now: Instant; policy: "MUTABLE_WITH_REASON" | "IMMUTABLE" }> {
  const [row] = await db.execute<{ now: string; policy: "MUTABLE_WITH_REASON" | "IMMUTABLE" }[]>(
    `select clock_timestamp() as now, external_id_policy as policy from organization where organization_id = $1`,
    [organizationId],
  );
  if (row === undefined) throw new Error("the organization of the credentials is gone");
  return { now: parseInstant(row.now), policy: row.policy };
}

/** Serialises those who want a tax id for themselves, until the transaction ends. */
export function lockTaxIdKeys(db: Pipeline, organizationId: string, keys: string[]): void {
  db.send(
    `select pg_advisory_xact_lock(hashtextextended(k.key, hashtextextended($1, 0)))
     from (select key from unnest($2::text[]) as u(key) order by key) k`,
    [organizationId, keys],
  );
}

// --- Set-based writes ---------------------------------------------------------------------------

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

/** A row of the log. `externalId` and `externalIds` are those after the change. */
export interface EventRow {
  id: string;
  entity: EntityState;
  type: EventType;
  updatedFields: readonly string[];
  previousValues: JsonObject;
  newValues: JsonObject;
  actor: string;
  principal: string;
  source: string;
  reason: string;
  requestId: string | undefined;
  metadata: JsonObject;
  occurredAt: Instant | undefined;
}

/** An array as text, for one that is an item of another: those of unnest cannot hold arrays of different lengths. */
const arrayLiteral = (items: readonly string[]) =>
  `{${items.map((item) => `"${item.replaceAll(/["\\]/g, "\\$&")}"`).join(",")}}`;

export function insertEvents(db: Pipeline, organizationId: string, events: EventRow[]): void {
  if (events.length === 0) return;
  db.send(
    `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_id,
       external_ids, updated_fields, previous_values, new_values, actor, principal, source, reason, request_id,
       metadata, recorded_at, occurred_at)
     select $1::uuid, v.id, v.entity_id, v.entity_version, v.entity_type, v.type, v.external_id,
       v.external_ids::text[], v.updated_fields::text[], v.previous_values, v.new_values, v.actor, v.principal, v.source, v.reason, v.request_id, v.metadata,
       v.recorded_at, v.occurred_at
     from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
       $10::jsonb[], $11::jsonb[], $12::text[], $13::uuid[], $14::text[], $15::text[], $16::uuid[], $17::jsonb[],
       $18::timestamptz[], $19::timestamptz[])
       as v(id, entity_id, entity_version, entity_type, type, external_id, external_ids, updated_fields,
         previous_values, new_values, actor, principal, source, reason, request_id, metadata, recorded_at, occurred_at)
     where (select f.started_at = pg_postmaster_start_time() or note_feed_start() from feed_epoch f)`,
    [
      organizationId,
      events.map((e) => e.id),
      events.map((e) => e.entity.id),
      events.map((e) => e.entity.version),
      events.map((e) => e.entity.type),
      events.map((e) => e.type),
      events.map((e) => primaryOf(e.entity)?.externalId ?? null),
      events.map((e) => arrayLiteral(e.entity.externalIds.map((id) => id.externalId))),
      events.map((e) => arrayLiteral(e.updatedFields)),
      jsonbArray(events.map((e) => e.previousValues)),
      jsonbArray(events.map((e) => e.newValues)),
      events.map((e) => e.actor),
      events.map((e) => e.principal),
      events.map((e) => e.source),
      events.map((e) => (e.reason === "" ? null : e.reason)),
      events.map((e) => e.requestId ?? null),
      jsonbArray(events.map((e) => e.metadata)),
      events.map((e) => instantToText(e.entity.updatedAt)),
      events.map((e) => (e.occurredAt === undefined ? null : instantToText(e.occurredAt))),
    ],
  );
}

/** Rule 49: rewrites the copies of a primary that moved. Returns the number of rows per table. */
export async function rewriteCopies(
  db: Statements,
  organizationId: string,
  move: { entityId: string; previous: string; next: string },
): Promise<{ transactions: number; userEvents: number }> {
  const [row] = await db.execute<{ transactions: string; user_events: string }[]>(
    // In id order: two changers whose entities share transactions would deadlock otherwise.
    `with r as (
       select id from transaction
       where organization_id = $1 and (origin_external_id = $3 or destination_external_id = $3)
       order by id for no key update
     ), t as (
       update transaction x set
         origin_external_id = case when x.origin_external_id = $3 then $4 else x.origin_external_id end,
         destination_external_id = case when x.destination_external_id = $3 then $4 else x.destination_external_id end
       from r where x.organization_id = $1 and x.id = r.id
       returning 1
     ), u as (
       update user_event set entity_external_id = $4
       where organization_id = $1 and (entity_external_id = $3 or entity_id = $2)
       returning 1
     )
     select (select count(*) from t) as transactions, (select count(*) from u) as user_events`,
    [organizationId, move.entityId, move.previous, move.next],
  );
  return { transactions: Number(row?.transactions), userEvents: Number(row?.user_events) };
}
