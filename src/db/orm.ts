// Opens the database: the run-time connection pool under MikroORM, and the migrations of the owner role.
import { setTimeout as sleep } from "node:timers/promises";
import { MikroORM } from "@mikro-orm/core";
import { Migrator } from "@mikro-orm/migrations";
import type { EntityManager, PostgreSqlConnection } from "@mikro-orm/postgresql";
import pg from "pg";
import { clientConfig, type DatabaseAddress, userOf } from "./address.ts";
import { BoundPostgreSqlDriver } from "./driver.ts";
import { holdersOfMigrationLock, releaseMigrationLock, tryMigrationLock } from "./locks.ts";
import { MIGRATIONS } from "./migrations/index.ts";
import { NamedStatementClient, NoConnectionError } from "./named-statements.ts";
import { CANNOT_WRITE, DatabaseStartError } from "./probe.ts";
import { letBecomeRuntimeRole, letPublish, RUNTIME_ROLE, rolesMissing } from "./roles.ts";
import { TABLES } from "./schema.ts";
import { isRightMissing } from "./sqlstate.ts";
import { sessionOf } from "./tenant.ts";

export type { DatabaseAddress } from "./address.ts";

export interface OrmOptions {
  poolSize: number;
  statementTimeoutMs: number;
  lockTimeoutMs: number;
  /** By default as many statements as a write has at most. */
  longestWriteMs?: number;
}

/** How far apart the time of a write and its commit may be, in milliseconds. */
export interface WriteTimes {
  /** The longest that a statement may take. */
  statementMs: number;
  /** The longest from the reading of the clock to the last look before COMMIT. */
  longestMs: number;
  /** Writes of a time longer ago have ended, whatever has become of them. */
  settledMs: number;
}

/** Statements of the longest time that a write may take behind the reading of its clock. */
const WRITE_STATEMENTS = 9;
/** The longest that a session waits for the next statement of its transaction. */
const IDLE_MS = 10_000;

export type Orm = MikroORM<BoundPostgreSqlDriver> & {
  /** Connections beside the pool, for what must not wait behind calls: the lookup of keys, and readiness. */
  aside: pg.Pool;
  writeTimes: WriteTimes;
};

/** Connections of `aside`: two lookups of unknown keys at once, one of known ones, and the look for readiness. */
export const ASIDE_CONNECTIONS = 4;

const cannotBeWritten = () => new Error("the database cannot be written: a standby, or made read-only");

/** For MikroORM, which passes over the folder of a socket and the settings of TLS in a URL: pg itself reads it as a whole. */
const connection = (address: DatabaseAddress) =>
  "url" in address
    ? { clientUrl: address.url, driverOptions: clientConfig(address) }
    : {
        host: address.host,
        port: address.port,
        user: address.user,
        dbName: address.database,
        password: address.password ?? "",
        driverOptions: {},
      };

/** The pool of run-time connections, each under RUNTIME_ROLE, with its limits of time. Connects lazily. */
export function createOrm(address: DatabaseAddress, options: OrmOptions): Orm {
  const settings: Record<string, string> = {
    timezone: "UTC",
    statement_timeout: String(options.statementTimeoutMs),
    lock_timeout: String(options.lockTimeoutMs),
    idle_in_transaction_session_timeout: String(IDLE_MS),
    // Compiling a statement whose cost is overestimated takes longer than its reads: 400 ms for a look for webhooks.
    jit: "off",
    role: RUNTIME_ROLE,
  };
  const names = Object.keys(settings);
  // And is it the primary? A standby never enters the pool: a primary does not become one under its connections.
  const applySettings = `select ${names.map((_, i) => `set_config($${2 * i + 1}, $${2 * i + 2}, false)`).join(", ")},
    ${CANNOT_WRITE} as cannot_write`;
  const aside = new pg.Pool({
    ...clientConfig(address),
    max: ASIDE_CONNECTIONS,
    connectionTimeoutMillis: 2_000,
    idleTimeoutMillis: 60_000,
    maxLifetimeSeconds: 1_800,
    query_timeout: options.statementTimeoutMs + 1_000,
    application_name: "entity-service",
    onConnect: async (client: pg.ClientBase) => {
      const { rows } = await client.query(
        applySettings,
        names.flatMap((name) => [name, settings[name]]),
      );
      if (rows[0].cannot_write) throw new NoConnectionError(cannotBeWritten());
    },
  });
  // Emitted for an idle connection that breaks; the next query opens another.
  aside.on("error", () => {});
  let pool: pg.Pool | undefined;
  const { driverOptions, ...where } = connection(address);
  const orm = new MikroORM({
    ...where,
    driver: BoundPostgreSqlDriver,
    driverOptions: {
      ...driverOptions,
      onPoolCreated: (made: pg.Pool) => {
        pool = made;
        // Kysely ends it once more, which pg refuses.
        const end = made.end.bind(made);
        let ending: Promise<void> | undefined;
        Object.assign(made, { end: () => (ending ??= end()) });
      },
      Client: NamedStatementClient,
      max: options.poolSize,
      connectionTimeoutMillis: 2_000,
      idleTimeoutMillis: 60_000,
      maxLifetimeSeconds: 1_800,
      // After the server's own limit: for a connection on which nothing arrives any longer, not even that error.
      query_timeout: options.statementTimeoutMs + 1_000,
      application_name: "entity-service",
      // Statements are sent without waiting for the answer to the one before.
      pipeline: true,
      // Not MikroORM's onCreateConnection: a connection on which that fails is never given back to the pool.
      onConnect: async (client: NamedStatementClient) => {
        try {
          const { rows } = await client.query(
            applySettings,
            names.flatMap((name) => [name, settings[name]]),
          );
          if (rows[0].cannot_write) throw cannotBeWritten();
        } catch (cause) {
          throw new NoConnectionError(cause);
        }
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
  } as never) as unknown as MikroORM<BoundPostgreSqlDriver>;
  const close = orm.close.bind(orm);
  const { statementTimeoutMs: statementMs, longestWriteMs: longestMs = WRITE_STATEMENTS * statementMs } = options;
  return Object.assign(orm, {
    aside,
    // COMMIT may be late behind the look, and is a statement itself.
    writeTimes: { statementMs, longestMs, settledMs: longestMs + IDLE_MS + statementMs },
    async close(force?: boolean) {
      if (!aside.ended) await aside.end();
      // Kysely ends it only where a statement went through Kysely, which those that pipeline do not; and forgets it before
      // its last connection is open, which is then never given back, so that the pool never ends.
      await pool?.end();
      await close(force);
    },
  });
}

/** An entity manager whose every transaction sees one organization alone. */
export function forOrganization(orm: Orm, organizationId: string): EntityManager {
  return orm.em.fork({ session: sessionOf(organizationId) }) as unknown as EntityManager;
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

/** Rejects all that wait for a connection of the pool, for when no caller is left to be answered. Returns how many. */
export async function dropWaiting(orm: Orm): Promise<number> {
  const waiting = ((await poolOf(orm)) as unknown as Waiting)._pendingQueue?.splice(0) ?? [];
  for (const { callback } of waiting) callback(new Error("the service is ending"));
  return waiting.length;
}

const LOCK_RETRY_MS = 200;
const LOCK_LINE_MS = 10_000;

export interface MigrateOptions {
  /** The login that runs the service: another one than the owner, or the owner itself. */
  runtimeUser?: string | undefined;
  /** The log of all organizations is published: the run-time role may read it. */
  publishes?: boolean;
  /** For another process that migrates, in milliseconds. */
  waitMs?: number;
  log?: (line: string) => void;
}

/**
 * Brings the database up to date as its owner, one process at a time, and lets `runtimeUser` become the run-time role.
 * Returns the names of the migrations that ran. Throws DatabaseStartError where a right is missing, or the lock.
 */
export async function migrate(owner: DatabaseAddress, options: MigrateOptions = {}): Promise<string[]> {
  const { runtimeUser, publishes = false, waitMs = 300_000, log = () => {} } = options;
  const lock = new pg.Client(clientConfig(owner));
  await lock.connect();
  const { driverOptions, ...where } = connection(owner);
  const orm = new MikroORM({
    ...where,
    driver: BoundPostgreSqlDriver,
    driverOptions: { ...driverOptions, max: 2 },
    entities: TABLES,
    extensions: [Migrator],
    ensureDatabase: false,
    debug: false,
    logger: () => {},
    migrations: { tableName: "schema_migration", migrationsList: MIGRATIONS, snapshot: false, silent: true },
  } as never) as unknown as MikroORM;
  try {
    await takeMigrationLock(lock, waitMs, log);
    const ran = await orm.migrator.up();
    if (runtimeUser !== undefined) await letBecomeRuntimeRole(lock, runtimeUser);
    if (publishes) await letPublish(lock);
    await releaseMigrationLock(lock);
    return ran.map((migration) => migration.name);
  } catch (error) {
    if (error instanceof DatabaseStartError || !isRightMissing(error)) throw error;
    throw new DatabaseStartError(rolesMissing(userOf(owner) ?? "that owns the tables"), { cause: error });
  } finally {
    await orm.close(true);
    await lock.end();
  }
}

/** Never waits in silence: the holder may be a process that hangs, or a pooler that kept its session. */
async function takeMigrationLock(client: pg.Client, waitMs: number, log: (line: string) => void): Promise<void> {
  const from = performance.now();
  let nextLine = 0;
  for (;;) {
    if (await tryMigrationLock(client)) return;
    const waited = performance.now() - from;
    if (waited >= waitMs) {
      const holders = await holdersOfMigrationLock(client);
      throw new DatabaseStartError(
        `another process has been migrating this database for ${Math.round(waited / 1_000)} s, PostgreSQL's process ${holders.join(", ")}: start again when it has ended, or end it with select pg_terminate_backend(pid)`,
      );
    }
    if (waited >= nextLine) {
      log("waits for another process that is migrating the database");
      nextLine += LOCK_LINE_MS;
    }
    await sleep(LOCK_RETRY_MS);
  }
}

/** Whether the database can be written and has every migration: then it can be served. Asked beside the pool. */
export async function isServable(orm: Orm): Promise<boolean> {
  const { rows } = await orm.aside.query(`select ${CANNOT_WRITE} as cannot_write`);
  return rows[0]?.cannot_write === false && (await pendingMigrations(orm)).length === 0;
}

/** The migrations that the database has not yet had. Reads as the run-time role, beside the pool. */
export async function pendingMigrations({ aside }: Orm): Promise<string[]> {
  const { rows } = await aside.query("select name from schema_migration where name = any($1)", [
    MIGRATIONS.map((migration) => migration.name),
  ]);
  const done = new Set(rows.map((row) => row.name));
  return MIGRATIONS.map((migration) => migration.name).filter((name) => !done.has(name));
}
