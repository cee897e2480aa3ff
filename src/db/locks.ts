// Every advisory lock of the service: numbers of our own, the same in every process, and hashes of tax
// ids and of organizations.
import type pg from "pg";
import type { Pipeline, Statements } from "./statements.ts";

/** Held by the process that migrates. */
const MIGRATION = 7_216_354_871;
/** Of the functions that prune events: as in the migration that made them. */
const PRUNING_EVENTS = 7_216_354_872;
/** Of transactions that may attach external ids, together with the hash of their organization. */
const ATTACHING = 72_163_548;

/** Whether the migration lock was free, and is the client's now. */
export async function tryMigrationLock(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query("select pg_try_advisory_lock($1) as taken", [MIGRATION]);
  return rows[0].taken;
}

export async function releaseMigrationLock(client: pg.Client): Promise<void> {
  await client.query("select pg_advisory_unlock($1)", [MIGRATION]);
}

/** The PostgreSQL backends that hold the migration lock of this database: one, or none if it was released meanwhile. */
export async function holdersOfMigrationLock(client: pg.Client): Promise<number[]> {
  const { rows } = await client.query<{ pid: number }>(
    `select l.pid from pg_locks l
     where l.locktype = 'advisory' and l.granted and l.objsubid = 1
       and l.database = (select oid from pg_database where datname = current_database())
       and l.classid::bigint << 32 | l.objid::bigint = $1`,
    [MIGRATION],
  );
  return rows.map(({ pid }) => pid);
}

/** Waits for the end of a step that prunes events and blocks new ones until the transaction ends: what it writes about them holds from its commit on. */
export async function lockPruning(db: Statements): Promise<void> {
  await db.execute("select pg_advisory_xact_lock($1)", [PRUNING_EVENTS]);
}

/** Serialises the transactions that claim a tax id, each until its end. */
export function lockTaxIdKeys(db: Pipeline, organizationId: string, keys: string[]): void {
  db.send(
    `select pg_advisory_xact_lock(hashtextextended(k.key, hashtextextended($1, 0)))
     from (select key from unnest($2::text[]) as u(key) order by key) k`,
    [organizationId, keys],
  );
}

/**
 * SQL that holds a lock until the transaction ends, for which nobody waits: it tells that the transaction may attach external
 * ids of the organization of a parameter. No row tells that before it inserts one.
 */
export const attaching = (organizationId: string): string =>
  `pg_advisory_xact_lock_shared(${ATTACHING}, hashtext(${organizationId}))`;

/** The transactions in progress that hold it. */
export async function readAttaching(db: Statements, organizationId: string): Promise<string[]> {
  const rows = await db.execute<{ id: string }[]>(
    `select l.virtualtransaction as id from pg_locks l
     where l.locktype = 'advisory' and l.granted and l.objsubid = 2
       and l.database = (select oid from pg_database where datname = current_database())
       and l.classid::bigint = ${ATTACHING} and l.objid::bigint = hashtext($1)::bigint & 4294967295`,
    [organizationId],
  );
  return rows.map(({ id }) => id);
}
