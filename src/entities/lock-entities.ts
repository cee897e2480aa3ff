// Entities by the keys that callers have, locked until the transaction ends. As in lookups.ts, each form of a statement is one
// text for ever.
import { attaching } from "../db/locks.ts";
import type { Statements } from "../db/statements.ts";
import type { EntityState, Layer } from "../domain/entity-state.ts";
import { type Instant, parseInstant } from "../domain/time.ts";
import { type Bind, hitsOf, type Keys, SURVIVOR_OF_M } from "./lookups.ts";
import { heldTooLong } from "./refusals.ts";
import { ENTITY_COLUMNS, toState } from "./rows.ts";

/** An entity that nobody else can change before the transaction ends. */
export interface LockedEntity {
  state: EntityState;
  /** The hash of its last event; null where that is not sealed. */
  auditHead: Buffer | null;
  /** What it has by itself, where others are merged into it. */
  layer: Layer | null;
}

/** Entities under their locks, and the database's clock once these are held. */
export interface LockedEntities {
  entities: LockedEntity[];
  now: Instant;
}

/**
 * Locks the entities that the keys name, against writers and recorders, in id order, and reads them. The
 * keys are resolved before the lock: a caller that waited for one must resolve them again. With `skipLocked` those
 * that another transaction has locked are skipped instead of waited for. Where it `isAttaching`, the transaction may attach
 * external ids, which everybody can tell before its clock is read. `rows` are locked themselves, merged or not.
 */
export async function lockEntities(
  db: Statements,
  organizationId: string,
  keys: Keys,
  {
    skipLocked,
    isAttaching,
    rows: rowIds = [],
  }: { skipLocked: boolean; isAttaching: boolean; rows?: readonly string[] },
): Promise<LockedEntities> {
  const one = skipLocked && !isAttaching && rowIds.length === 0 ? theOneOf(keys) : undefined;
  if (one !== undefined) {
    const [row] = await db.execute<(LockedRow & { now: string })[]>(one.text, [organizationId, one.key]);
    return row === undefined
      ? { entities: [], now: await readClock(db) }
      : { entities: [toLocked(row)], now: parseInstant(row.now) };
  }
  const { ids, values } = named(organizationId, keys, rowIds);
  const [rows, now] = await Promise.all([
    ids === ""
      ? []
      : db.execute<LockedRow[]>(
          `select ${LOCKED_COLUMNS} from entity e where e.organization_id = $1 and e.id = any(array(${ids}))
           order by e.id for no key update${skipLocked ? " skip locked" : ""}`,
          values,
        ),
    isAttaching ? readClockAttaching(db, organizationId) : readClock(db),
  ]);
  return { entities: rows.map(toLocked), now };
}

/** A select of the ids that the keys name, and `rowIds`; empty where nothing is asked for. */
function named(organizationId: string, keys: Keys, rowIds: readonly string[]): { ids: string; values: unknown[] } {
  const values: unknown[] = [organizationId];
  const bind: Bind = (value) => `$${values.push(value)}`;
  const parts = hitsOf(keys, bind).map((hits) => `select h.id from (${hits}) h`);
  if (keys.entityIds.length > 0) {
    parts.push(`select ${SURVIVOR_OF_M} as id from entity m
      where m.organization_id = $1 and m.id = any(${bind(keys.entityIds)}::uuid[])`);
  }
  if (rowIds.length > 0) parts.push(`select u.id from unnest(${bind(rowIds)}::uuid[]) as u(id)`);
  return { ids: parts.join(" union all "), values };
}

interface InOrder {
  rows: readonly string[];
  /** With all that is merged into them. */
  withGroups: boolean;
}

function inOrder(organizationId: string, keys: Keys, { rows, withGroups }: InOrder) {
  const { ids, values } = named(organizationId, keys, rows);
  const all = `with named as materialized (${ids})
    select n.id from named n
    union all
    select g.id from named n cross join lateral (
      select g.id from entity g where g.organization_id = $1 and g.survivor_id = n.id offset 0) g`;
  return { ids: ids === "" || !withGroups ? ids : all, values };
}

/** Locks what is named now, and waits for it, in the order of ids: so does everybody who waits for more than one. */
export async function lockInOrder(
  db: Statements,
  organizationId: string,
  keys: Keys,
  what: InOrder,
): Promise<Set<string>> {
  const { ids, values } = inOrder(organizationId, keys, what);
  if (ids === "") return new Set();
  const rows = await db
    .execute<{ id: string }[]>(
      `select e.id from entity e where e.organization_id = $1 and e.id = any(array(${ids}))
       order by e.id for no key update`,
      values,
    )
    .catch(heldTooLong);
  return new Set(rows.map(({ id }) => id));
}

/** What `lockInOrder` would lock now. */
export async function findInOrder(
  db: Statements,
  organizationId: string,
  keys: Keys,
  what: InOrder,
): Promise<string[]> {
  const { ids, values } = inOrder(organizationId, keys, what);
  if (ids === "") return [];
  const rows = await db.execute<{ id: string }[]>(
    `select e.id from entity e where e.organization_id = $1 and e.id = any(array(${ids}))`,
    values,
  );
  return rows.map(({ id }) => id);
}

type LockedRow = { audit_head: Buffer | null; layer: Layer | null };
const LOCKED_COLUMNS = `${ENTITY_COLUMNS}, e.audit_head, e.layer`;
const toLocked = (row: LockedRow): LockedEntity => ({
  state: toState(row),
  auditHead: row.audit_head,
  layer: row.layer,
});

/** The database's clock, now and not at the beginning of the transaction. */
const CLOCK = "clock_timestamp() as now";

/**
 * What most locks are: those of one entity, which the server does for less than those of a list of one. Materialized, the
 * lock comes before the clock.
 */
const lockOfOne = (by: string) => `with locked as materialized (
    select ${LOCKED_COLUMNS} from ${by} for no key update of e skip locked
  ) select *, ${CLOCK} from locked`;
/** The entity by an id that is found first: whatever the size of the tables and the age of the plan, by two keys. */
const lockOfFound = (id: string) => lockOfOne(`entity e where e.organization_id = $1 and e.id = (${id})`);
const LOCK_BY_EXTERNAL_ID = lockOfFound(
  "select x.entity_id from external_id x where x.organization_id = $1 and x.external_id = $2",
);
const LOCK_BY_ID = lockOfFound(`select ${SURVIVOR_OF_M} from entity m where m.organization_id = $1 and m.id = $2`);

/** The statement for a single key, of an id. */
function theOneOf({ entityIds, externalIds, taxIdKeys }: Keys): { text: string; key: string } | undefined {
  if (entityIds.length + externalIds.length !== 1 || taxIdKeys.length > 0) return undefined;
  const [id] = entityIds;
  return id === undefined
    ? { text: LOCK_BY_EXTERNAL_ID, key: externalIds[0] as string }
    : { text: LOCK_BY_ID, key: id };
}

async function readClock(db: Statements): Promise<Instant> {
  const [row] = await db.execute<{ now: string }[]>(`select ${CLOCK}`, []);
  return parseInstant(row?.now ?? "");
}

/** The same behind the lock that tells of attaching. */
async function readClockAttaching(db: Statements, organizationId: string): Promise<Instant> {
  const [row] = await db.execute<{ now: string }[]>(
    `select l.held, ${CLOCK} from (select ${attaching("$1")} as held offset 0) l`,
    [organizationId],
  );
  return parseInstant(row?.now ?? "");
}
