// The database that the service uses: the embedded server, or the one of DATABASE_URL; migrated, with a
// pool of the run-time role.
import pg from "pg";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../postgres/embedded.ts";
import { clientConfig, type DatabaseAddress, userOf } from "./address.ts";
import { ASIDE_CONNECTIONS, createOrm, migrate, type Orm } from "./orm.ts";
import { probe } from "./probe.ts";
import { assertSafeLogin, RUNTIME_ROLE } from "./roles.ts";

const EMBEDDED_DATABASE = "entity_service";
/** Connections of the embedded server beside those of the pools: migrations, and a pool whose process has just died. */
const SPARE_CONNECTIONS = 40;

export interface Database extends AsyncDisposable {
  orm: Orm;
  /** Resolves, with the reason, when an embedded server ended without being asked; never for another one. */
  lost: Promise<string>;
}

/** A Database with the address of its pool, for pools of other processes. */
export interface OpenedDatabase extends Database {
  address: DatabaseAddress;
  /** Ends an embedded server in good order, whatever the pools have in flight; nothing else. */
  stopServer(): Promise<void>;
}

/** What of the configuration the database needs; src/config.ts says what each is. */
export interface DatabaseConfig {
  databaseUrl: string | undefined;
  migrationDatabaseUrl: string | undefined;
  dataDir: string;
  workers: number;
  poolSize: number;
  statementTimeoutMs: number;
  lockTimeoutMs: number;
  /** Set where the log of all organizations is published. */
  nats?: object | undefined;
}

/** Starts the embedded server where there is no DATABASE_URL, and brings the schema up to date. */
export async function openDatabase(config: DatabaseConfig, log: (line: string) => void): Promise<OpenedDatabase> {
  const embedded = config.databaseUrl === undefined ? await startEmbedded(config, log) : undefined;
  try {
    const { owner, runtime } = embedded === undefined ? await probedAddresses(config) : await addressesIn(embedded);
    const ran = await migrate(owner, { ...migrationOf(config, runtime), log });
    if (embedded !== undefined) await allowLogin(owner);
    if (ran.length > 0) log(`migrated: ${ran.join(", ")}`);
    const orm = createOrm(runtime, config);
    return {
      orm,
      address: runtime,
      lost: embedded === undefined ? new Promise(() => {}) : lossOf(embedded),
      stopServer: async () => embedded?.stop(),
      async [Symbol.asyncDispose]() {
        await orm.close(true);
        await embedded?.stop();
      },
    };
  } catch (error) {
    await embedded?.stop();
    throw error;
  }
}

/** The server has room for the pools of all processes. */
function startEmbedded(config: DatabaseConfig, log: (line: string) => void): Promise<EmbeddedPostgres> {
  const connections = Math.max(100, config.workers * (config.poolSize + ASIDE_CONNECTIONS) + SPARE_CONNECTIONS);
  return startEmbeddedPostgres({
    directory: config.dataDir,
    settings: { max_connections: String(connections) },
    log,
  });
}

async function lossOf(embedded: EmbeddedPostgres): Promise<string> {
  const { expected } = await embedded.exited;
  return expected ? new Promise(() => {}) : "the embedded PostgreSQL ended: see postgres.log in DATA_DIR";
}

/** Brings the schema up to date and ends: the command `migrate`. Returns the migrations that ran. */
export async function migrateOnly(config: DatabaseConfig, log: (line: string) => void): Promise<string[]> {
  if (config.databaseUrl === undefined) {
    await using embedded = await startEmbeddedPostgres({ directory: config.dataDir, log });
    const { owner } = await addressesIn(embedded);
    const ran = await migrate(owner);
    await allowLogin(owner);
    return ran;
  }
  const { owner, runtime } = await probedAddresses(config);
  return migrate(owner, { ...migrationOf(config, runtime), log });
}

/** Each is asked before anything is done: what it says names the variable that has to be changed. */
async function probedAddresses({
  databaseUrl,
  migrationDatabaseUrl,
}: DatabaseConfig): Promise<{ owner: DatabaseAddress; runtime: DatabaseAddress }> {
  const runtime = { url: databaseUrl as string };
  await probe("DATABASE_URL", runtime);
  {
    // Before anything is made that would be its own.
    await using client = await connect(runtime);
    await assertSafeLogin(client);
  }
  if (migrationDatabaseUrl === undefined) return { owner: runtime, runtime };
  const owner = { url: migrationDatabaseUrl };
  await probe("MIGRATION_DATABASE_URL", owner);
  return { owner, runtime };
}

const migrationOf = ({ nats }: DatabaseConfig, runtime: DatabaseAddress) => ({
  // On the embedded server the service logs in as the run-time role.
  runtimeUser: "url" in runtime ? userOf(runtime) : undefined,
  publishes: nats !== undefined,
});

async function addressesIn(embedded: EmbeddedPostgres): Promise<{ owner: DatabaseAddress; runtime: DatabaseAddress }> {
  const server = { host: embedded.socketDir, port: embedded.port };
  await using client = await connect({ ...server, user: embedded.ownerUser, database: "postgres" });
  const { rows } = await client.query("select 1 from pg_database where datname = $1", [EMBEDDED_DATABASE]);
  if (rows.length === 0) await client.query(`create database ${EMBEDDED_DATABASE}`);
  return {
    owner: { ...server, user: embedded.ownerUser, database: EMBEDDED_DATABASE },
    runtime: { ...server, user: RUNTIME_ROLE, database: EMBEDDED_DATABASE },
  };
}

/** On the embedded server the service connects as the run-time role itself. */
async function allowLogin(owner: DatabaseAddress): Promise<void> {
  await using client = await connect(owner);
  await client.query(`alter role ${RUNTIME_ROLE} login`);
}

async function connect(address: DatabaseAddress): Promise<pg.Client & AsyncDisposable> {
  const client = new pg.Client(clientConfig(address));
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}
