// Opens the database: the run-time connection pool under MikroORM, and the migrations of the owner role.
import { MikroORM } from "@mikro-orm/core";
import { Migrator } from "@mikro-orm/migrations";
import type { EntityManager, PostgreSqlConnection } from "@mikro-orm/postgresql";
import pg from "pg";
import { BoundPostgreSqlDriver, NamedStatementClient } from "./driver.ts";
import { MIGRATIONS } from "./migrations/index.ts";
import { TABLES } from "./schema.ts";

/** The role that every run-time statement runs as: it owns nothing and cannot bypass row level security. */
export const RUNTIME_ROLE = "entity_service";

/** Where a database is: a URL, or a socket folder with the rest. */
export type DatabaseAddress =
  | { url: string }
  | { host: string; port: number; user: string; database: string; password?: string };

export interface OrmOptions {
  poolSize: number;
  statementTimeoutMs: number;
  lockTimeoutMs: number;
}

export type Orm = MikroORM<BoundPostgreSqlDriver>;

const connection = (address: DatabaseAddress) =>
  "url" in address
    ? { clientUrl: address.url }
    : {
        host: address.host,
        port: address.port,
        user: address.user,
        dbName: address.database,
        password: address.password ?? "",
      };

/** Read by pg as a whole: MikroORM alone would pass over the folder of a socket and the settings of TLS. */
const urlOf = (address: DatabaseAddress) => ("url" in address ? { connectionString: address.url } : {});

/** The pool of run-time connections, each under RUNTIME_ROLE, with its limits of time. Connects lazily. */
export function createOrm(address: DatabaseAddress, options: OrmOptions): Orm {
  const settings: Record<string, string> = {
    timezone: "UTC",
    statement_timeout: String(options.statementTimeoutMs),
    lock_timeout: String(options.lockTimeoutMs),
    idle_in_transaction_session_timeout: "10000",
    // Compiling a statement whose cost is overrated takes longer than all that it reads: 400 ms for a look for webhooks.
    jit: "off",
    role: RUNTIME_ROLE,
  };
  const names = Object.keys(settings);
  const applySettings = `select ${names.map((_, i) => `set_config($${2 * i + 1}, $${2 * i + 2}, false)`).join(", ")}`;
  return new MikroORM({
    ...connection(address),
    driver: BoundPostgreSqlDriver,
    driverOptions: {
      ...urlOf(address),
      Client: NamedStatementClient,
      max: options.poolSize,
      connectionTimeoutMillis: 2_000,
      idleTimeoutMillis: 60_000,
      maxLifetimeSeconds: 1_800,
      // After the server's own limit: for a connection that brings nothing any more, not even that.
      query_timeout: options.statementTimeoutMs + 1_000,
      application_name: "entity-service",
      // Statements are sent without waiting for the answer to the one before.
      pipeline: true,
      // Not MikroORM's onCreateConnection: a connection on which that fails is never given back to the pool.
      onConnect: async (client: NamedStatementClient) => {
        await Promise.all([
          client.query(
            applySettings,
            names.flatMap((name) => [name, settings[name]]),
          ),
          client.prepareOrganization(),
        ]);
      },
    },
    entities: TABLES,
    // The default flushes versioned rows in batches without the version in the update, and loses updates.
    useBatchUpdates: false,
    allowGlobalContext: false,
    ensureDatabase: false,
    debug: false,
    // The service logs once, at its edge; MikroORM's own lines would carry SQL.
    logger: () => {},
  } as never) as unknown as Orm;
}

/** An entity manager whose every transaction sees one organization alone. */
export function forOrganization(orm: Orm, organizationId: string): EntityManager {
  return orm.em.fork({
    session: { variables: { "app.organization_id": organizationId } },
  }) as unknown as EntityManager;
}

/** The pool of run-time connections, for the paths that pipeline. */
export function poolOf(
  orm: Orm,
): Promise<Omit<pg.Pool, "connect"> & { connect(): Promise<NamedStatementClient & pg.PoolClient> }> {
  return (orm.em.getDriver().getConnection() as unknown as PostgreSqlConnection).getNativeClient() as never;
}

/** What of the pool is not in its types. */
interface Waiting {
  _pendingQueue?: { callback: (error: Error) => void }[];
}

/** Refuses whoever waits for a connection of the pool: for when nobody is there to be answered any more. Answers how many. */
export async function dropWaiting(orm: Orm): Promise<number> {
  const waiting = ((await poolOf(orm)) as unknown as Waiting)._pendingQueue?.splice(0) ?? [];
  for (const { callback } of waiting) callback(new Error("the service is ending"));
  return waiting.length;
}

/** Arbitrary, the same in every process: whoever migrates holds this advisory lock. */
const MIGRATION_LOCK = 7_216_354_871;

/**
 * Brings the database up to date as its owner, one process at a time, and lets `runtimeUser` (where it is
 * another) become the run-time role. Returns the names of the migrations that ran.
 */
export async function migrate(owner: DatabaseAddress, runtimeUser?: string): Promise<string[]> {
  const lock = new pg.Client("url" in owner ? { connectionString: owner.url } : owner);
  await lock.connect();
  const orm = new MikroORM({
    ...connection(owner),
    driver: BoundPostgreSqlDriver,
    driverOptions: { ...urlOf(owner), max: 2 },
    entities: TABLES,
    extensions: [Migrator],
    ensureDatabase: false,
    debug: false,
    logger: () => {},
    migrations: { tableName: "schema_migration", migrationsList: MIGRATIONS, snapshot: false, silent: true },
  } as never) as unknown as MikroORM;
  try {
    await lock.query("select pg_advisory_lock($1)", [MIGRATION_LOCK]);
    const ran = await orm.migrator.up();
    if (runtimeUser !== undefined) await letBecomeRuntimeRole(lock, runtimeUser);
    return ran.map((migration) => migration.name);
  } finally {
    await orm.close(true);
    await lock.end();
  }
}

/** The migrations that the database has not yet had. Reads as the run-time role. */
export async function pendingMigrations(em: EntityManager): Promise<string[]> {
  const rows = await em.execute<{ name: string }[]>("select name from schema_migration where name = any($1)", [
    MIGRATIONS.map((migration) => migration.name),
  ]);
  const done = new Set(rows.map((row) => row.name));
  return MIGRATIONS.map((migration) => migration.name).filter((name) => !done.has(name));
}

async function letBecomeRuntimeRole(client: pg.Client, user: string): Promise<void> {
  const { rows } = await client.query(
    "select pg_has_role($1, $2, 'member') as member from pg_roles where rolname = $1",
    [user, RUNTIME_ROLE],
  );
  if (rows[0]?.member === false) {
    await client.query(`grant ${RUNTIME_ROLE} to ${pg.escapeIdentifier(user)}`);
  }
}

/** Throws when the run-time role could see or change what it must not, or when commits would not be durable. */
export async function assertSafeRole(em: EntityManager): Promise<void> {
  const [row] = await em.execute<
    { user: string; superuser: boolean; bypass: boolean; owns: boolean; commit: string }[]
  >(
    `select current_user as "user", r.rolsuper as superuser, r.rolbypassrls as bypass,
            exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                    where c.relowner = r.oid and n.nspname = 'public') as owns,
            current_setting('synchronous_commit') as commit
     from pg_roles r where r.rolname = current_user`,
  );
  if (row === undefined || row.superuser || row.bypass || row.owns) {
    throw new Error(`the run-time role must not own tables nor bypass row level security: connect as ${RUNTIME_ROLE}`);
  }
  if (row.commit === "off") throw new Error("synchronous_commit is off: acknowledged writes could be lost");
}
