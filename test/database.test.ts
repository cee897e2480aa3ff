// The walls in the database itself: its catalogue, roles, migrations, and the driver; and the errors that callers get
// when the database fails during a call.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { SchemaGenerator } from "@mikro-orm/postgresql";
import pg from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import {
  createEntityClient,
  type EntityClient,
  EntityType,
  WebhookEndpointState,
} from "../clients/typescript/index.ts";
import { managerAcross } from "../src/db/across.ts";
import { columnsOf, hydrator, selected } from "../src/db/columns.ts";
import { MIGRATIONS } from "../src/db/migrations/index.ts";
import { CommitUnknownError } from "../src/db/named-statements.ts";
import { createOrm, forOrganization, migrate, type Orm, pendingMigrations, poolOf } from "../src/db/orm.ts";
import { assertSafeRole } from "../src/db/roles.ts";
import {
  EntityEventRow,
  EntityRow,
  ExternalIdPastRow,
  ExternalIdRow,
  TABLES,
  TransactionRow,
  UserEventRow,
} from "../src/db/schema.ts";
import { pipelined, readStatements } from "../src/db/transaction.ts";
import { EVENT_COLUMNS, insertEvents, toEvent } from "../src/log/events.ts";
import { sealEvents, type UnsealedEvent } from "../src/log/sealing.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { captureHeaders, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import {
  type DatabaseProxy,
  dump,
  insertCheckpoints,
  rowCounts,
  startOther,
  startProxy,
  tenantTables,
} from "./wall-harness.ts";

let service: TestService;
let a: TestOrganization;
let b: TestOrganization;
let sql: TestService["sql"];

const person = (more: object = {}) => ({ type: EntityType.PERSON, name: "Ana", countryCode: "AR", ...more });
const byExternal = (value: string) => ({ by: { case: "externalId" as const, value } });

/** A row of every table. */
async function fill(organization: TestOrganization): Promise<void> {
  const { entities, activity, riskMatrices, webhooks } = organization.client;
  await entities.createEntity({
    entity: person({ externalId: "x-1", taxId: "20-12345678-9" }),
    requestId: randomUUID(),
  });
  await entities.createEntity({ entity: person({ externalId: "x-2" }) });
  const change = { lookup: byExternal("x-2"), newExternalId: "x-3", reason: "for a past" };
  await entities.changeExternalId(change);
  await entities.changeExternalId({
    ...change,
    lookup: byExternal("x-3"),
    newExternalId: "x-4",
    keepPreviousAsAlias: true,
  });
  const [into, from, other] = await Promise.all(
    [1, 2, 3].map(async () => {
      const { entity } = await entities.createEntity({ entity: person({}) });
      return { by: { case: "entityId" as const, value: entity?.id ?? "" } };
    }),
  );
  await entities.mergeEntities({ primary: into, secondary: from, reason: "one person" });
  await entities.markDistinct({ first: into, second: other, reason: "namesakes" });
  const rules = [{ id: "one", displayName: "x", expression: "true", points: "1" }];
  const { matrix } = await riskMatrices.createRiskMatrix({ matrix: { displayName: "x", rules } });
  await entities.updateEntity({ lookup: into, entity: { riskMatrixId: matrix?.id ?? "" } });
  await entities.analyzeEntity({ lookup: into });
  const occurredAt = { seconds: 1n, nanos: 0 };
  const origin = { externalId: "x-1" };
  await activity.recordTransactions({
    transactions: [{ type: "t", amount: "1", currency: "ARS", transactedAt: occurredAt, origin }],
  });
  await activity.recordUserEvents({ userEvents: [{ eventType: "t", occurredAt, entityExternalId: "x-1" }] });
  // As if something had been pruned before the first event.
  await sql(
    "insert into event_horizon (organization_id, epoch, xid, snapshot, recorded_at) values ($1, 0, '0', '1:1:', 'epoch')",
    [organization.id],
  );
  await insertCheckpoints(sql, organization.id, { count: 1, body: "x" });
  // Disabled, so that nothing is sent and no row changes.
  const { endpoint } = await webhooks.createWebhookEndpoint({
    endpoint: { url: "https://example.com/", displayName: "x", state: WebhookEndpointState.DISABLED },
  });
  const range = { from: occurredAt, to: { seconds: 253_402_300_799n, nanos: 0 } };
  await webhooks.replayWebhookDeliveries({ endpointId: endpoint?.id ?? "", ...range });
}

/** A connection as the run-time role. */
async function runtime(database = service.database): Promise<pg.Client & AsyncDisposable> {
  const { host, port, database: name } = database;
  const client = new pg.Client({ host, port, database: name, user: "entity_service", password: RUNTIME_PASSWORD });
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

/** Empty databases, dropped at the end. */
async function emptyDatabase(): Promise<
  { address: { host: string; port: number; user: string; password: string; database: string } } & AsyncDisposable
> {
  const { host, port, user, password } = inject("databaseServer");
  const database = `test_${randomUUID().replaceAll("-", "")}`;
  const owner = new pg.Client({ host, port, user, password, database: "postgres" });
  await owner.connect();
  await owner.query(`create database ${database}`);
  return {
    address: { host, port, user, password, database },
    async [Symbol.asyncDispose]() {
      await owner.query(`drop database ${database} with (force)`);
      await owner.end();
    },
  };
}

beforeAll(async () => {
  service = await startService();
  sql = service.sql;
  a = await service.newOrganization();
  b = await service.newOrganization();
  await fill(a);
  await fill(b);
});
afterAll(() => service[Symbol.asyncDispose]());

const TENANT = "(organization_id = (NULLIF(current_setting('app.organization_id'::text, true), ''::text))::uuid)";
const PRUNABLE_CHECKPOINT =
  "(last_at < (clock_timestamp() - ('24:00:00'::interval * (( SELECT o.event_retention_days FROM organization o WHERE (o.organization_id = audit_checkpoint.organization_id)))::double precision)))";
const PRUNABLE_EVENT =
  "(recorded_at < (clock_timestamp() - ('24:00:00'::interval * (( SELECT o.event_retention_days FROM organization o WHERE (o.organization_id = entity_event.organization_id)))::double precision)))";

describe("the catalogue", () => {
  test("the tables are these; one without organization_id is an exception with a reason", async () => {
    const rows = await sql(
      "select relname, relkind::text from pg_class where relnamespace = 'public'::regnamespace and relkind not in ('i', 'S') order by 1",
    );
    const tables = TABLES.map((table) => table.meta.tableName);
    // schema_migration belongs to the deployment; feed_epoch, feed_start and feed_mark to the database; feed_sink to the
    // sink, which publishes the log of all organizations; audit_key has public keys, which sign for all of them, and audit_start
    // where checkpoints begin. They hold no tenant's data.
    expect(rows).toEqual(
      [...tables, "audit_key", "audit_start", "feed_epoch", "feed_mark", "feed_sink", "feed_start", "schema_migration"]
        .sort()
        .map((relname) => ({ relname, relkind: "r" })),
    );
    expect(await tenantTables(sql)).toEqual(tables.sort());
  });

  test("every table with organization_id has row level security, enabled and forced", async () => {
    const rows = await sql(
      `select relname, relrowsecurity, relforcerowsecurity from pg_class
       where relnamespace = 'public'::regnamespace and relname = any($1)`,
      [await tenantTables(sql)],
    );
    expect(rows.length).toBeGreaterThanOrEqual(8);
    expect(rows.filter((row) => !row.relrowsecurity || !row.relforcerowsecurity)).toEqual([]);
  });

  test("the policies are these, and no other", async () => {
    const rows = await sql(
      "select tablename, policyname, permissive, roles::text, cmd, qual, with_check from pg_policies order by 1, 2",
    );
    const tenant = (await tenantTables(sql)).map((tablename) => ({
      tablename,
      policyname: "tenant",
      permissive: "PERMISSIVE",
      roles: "{entity_service}",
      cmd: "ALL",
      qual: TENANT,
      with_check: TENANT,
    }));
    // The owner of the functions reads all of these tables or the granted columns, to find the organization of a key, all
    // organizations, endpoints with work, and new events of the log.
    const readByFunctions = [
      ...["api_key", "audit_checkpoint", "entity_event", "organization", "request_record"],
      ...["webhook_delivery", "webhook_endpoint"],
    ];
    const directory = readByFunctions.map((tablename) => ({
      tablename,
      policyname: "directory",
      permissive: "PERMISSIVE",
      roles: "{entity_directory}",
      cmd: "SELECT",
      qual: "true",
      with_check: null,
    }));
    // The functions of that role may delete old rows of every organization, and no young ones.
    const may = (
      tablename: string,
      policyname: string,
      cmd: string,
      qual: string,
      with_check: string | null = null,
    ) => ({
      ...{ tablename, policyname, permissive: "PERMISSIVE", roles: "{entity_directory}" },
      ...{ cmd, qual, with_check },
    });
    const pruning = [
      may("audit_checkpoint", "retention", "UPDATE", PRUNABLE_CHECKPOINT, "(leaves IS NULL)"),
      may("entity_event", "retention", "DELETE", PRUNABLE_EVENT),
      may("event_horizon", "retention", "ALL", "true", "true"),
      may("request_record", "retention", "DELETE", "(created_at < (clock_timestamp() - '24:00:00'::interval))"),
      may("webhook_delivery", "retention", "DELETE", "(finished_at < (clock_timestamp() - '24:00:00'::interval))"),
    ];
    // Whose entities are still to be filled in, or are of an older version, and no others.
    const filling = [
      may("entity", "directory", "SELECT", "(name_words IS NULL)"),
      may("entity", "directory_tax_ids", "SELECT", "((tax_id_key IS NOT NULL) AND (tax_id_rules < 2))"),
    ];
    const backup = tenant.map(({ tablename: table }) => ({
      ...may(table, "backup", "SELECT", "true"),
      roles: "{entity_backup}",
    }));
    const order = (row: { tablename: string; policyname: string }) => `${row.tablename} ${row.policyname}`;
    expect(rows.map((row) => ({ ...row, qual: row.qual.replace(/\s+/g, " ") }))).toEqual(
      [...tenant, ...directory, ...filling, ...pruning, ...backup].sort((x, y) => (order(x) < order(y) ? -1 : 1)),
    );
  });

  test.each(["entity_service", "entity_directory", "entity_backup"])(
    "%s owns no table, is in no other role, and bypasses nothing",
    async (role) => {
      const [row] = await sql("select * from pg_roles where rolname = $1", [role]);
      expect(row).toMatchObject({
        rolsuper: false,
        rolbypassrls: false,
        rolcreatedb: false,
        rolcreaterole: false,
        rolreplication: false,
      });
      expect(await sql("select oid::regclass from pg_class where relowner = $1::regrole", [role])).toEqual([]);
      expect(await sql("select roleid::regrole::text from pg_auth_members where member = $1::regrole", [role])).toEqual(
        [],
      );
      expect(await sql("select nspname from pg_namespace where nspowner = $1::regrole", [role])).toEqual([]);
      expect(await sql("select has_schema_privilege($1, 'public', 'create') as may", [role])).toEqual([{ may: false }]);
      expect(await sql("select has_database_privilege($1, current_database(), 'create') as may", [role])).toEqual([
        { may: false },
      ]);
    },
  );

  test.each(["entity_directory", "entity_backup"])("nobody is %s, and it cannot log in", async (role) => {
    expect(await sql("select member::regrole::text from pg_auth_members where roleid = $1::regrole", [role])).toEqual(
      [],
    );
    expect(await sql("select rolcanlogin from pg_roles where rolname = $1", [role])).toEqual([{ rolcanlogin: false }]);
  });

  test("a backup misses no table: entity_backup may read all of each, and change nothing", async () => {
    const tables = await sql<{ name: string; wall: boolean }>(
      "select relname as name, relrowsecurity as wall from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') order by 1",
    );
    expect(tables.length).toBeGreaterThan(10);
    const whole = await sql<{ name: string }>(
      `select tablename as name from pg_policies where policyname = 'backup' and permissive = 'PERMISSIVE'
         and roles = '{entity_backup}' and cmd = 'SELECT' and qual = 'true' order by 1`,
    );
    expect(whole.map(({ name }) => name)).toEqual(tables.filter(({ wall }) => wall).map(({ name }) => name));
    for (const { name } of tables) {
      const rights = await sql<{ right: string }>(
        `select r as right from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) r
         where has_table_privilege('entity_backup', $1, r)`,
        [name],
      );
      expect(
        rights.map(({ right }) => right),
        name,
      ).toEqual(["select"]);
    }
    expect(
      await sql(
        "select sequencename from pg_sequences where schemaname = 'public' and not has_sequence_privilege('entity_backup', 'public.' || quote_ident(sequencename), 'select')",
      ),
    ).toEqual([]);
  });

  test("every key, unique index and foreign key begins with organization_id", async () => {
    const rows = await sql<{ name: string; columns: string[] }>(
      `select i.indexrelid::regclass::text as name, array_agg(a.attname::text order by k.n) as columns
       from pg_index i join pg_class t on t.oid = i.indrelid
       cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, n)
       join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum
       where t.relnamespace = 'public'::regnamespace and i.indisunique and t.relname <> 'schema_migration'
       group by i.indexrelid
       union all
       select c.conname || side, array_agg(a.attname::text order by k.n)
       from pg_constraint c
       cross join lateral (values (' from', c.conrelid, c.conkey), (' to', c.confrelid, c.confkey)) as s(side, relation, keys)
       cross join unnest(s.keys) with ordinality as k(attnum, n)
       join pg_attribute a on a.attrelid = s.relation and a.attnum = k.attnum
       where c.contype = 'f' and c.connamespace = 'public'::regnamespace
       group by c.oid, c.conname, side`,
    );
    expect(rows.length).toBeGreaterThan(20);
    expect(
      rows.filter((row) => row.columns[0] !== "organization_id").sort((x, y) => (x.name < y.name ? -1 : 1)),
    ).toEqual([
      // The organization of a secret is not known before the lookup.
      { name: "api_key_digest", columns: ["digest"] },
      { name: "audit_key_pkey", columns: ["key_id"] },
      // The planner cannot mistake it for the primary key; it includes organization_id all the same.
      { name: "external_id_copy", columns: ["primary_of", "external_id", "organization_id"] },
      { name: "feed_sink_pkey", columns: ["name"] },
      { name: "feed_start_pkey", columns: ["id"] },
    ]);
  });

  test("every index holds organization_id, except that of the secrets and of what is nobody's", async () => {
    const rows = await sql<{ name: string }>(
      `select i.indexrelid::regclass::text as name from pg_index i join pg_class t on t.oid = i.indrelid
       where t.relnamespace = 'public'::regnamespace and t.relname <> 'schema_migration'
         and not exists (select from pg_attribute a where a.attrelid = t.oid and a.attname = 'organization_id' and a.attnum = any(i.indkey::int2[])) order by 1`,
    );
    expect(rows.map(({ name }) => name)).toEqual([
      ...["api_key_digest", "audit_key_pkey", "feed_sink_pkey", "feed_start_pkey"],
    ]);
  });

  test("no foreign key reaches over the wall, nor deletes or changes anything on its own", async () => {
    const rows = await sql<{ name: string; def: string }>(
      "select conname as name, pg_get_constraintdef(oid) as def from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace",
    );
    for (const { name, def } of rows)
      expect(def, name).toMatch(/^FOREIGN KEY \(organization_id\b.*REFERENCES \w+\(organization_id\b/);
    expect(rows.filter(({ def }) => /ON (DELETE|UPDATE)/.test(def))).toEqual([]);
  });

  test("there are no triggers, rules or views, and of functions only nine that see across, four that prune, and those of the feed's epoch", async () => {
    expect(
      await sql(
        "select tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid where not tgisinternal and relnamespace = 'public'::regnamespace",
      ),
    ).toEqual([]);
    expect(await sql("select rulename from pg_rules where schemaname = 'public'")).toEqual([]);
    const rows = await sql(
      `select oid::regprocedure::text as name, prosecdef as definer, proowner::regrole::text as owner, proconfig as settings,
         provolatile::text as volatile, array(select grantee::regrole::text from aclexplode(proacl) where privilege_type = 'EXECUTE' order by 1) as callers,
         array(select 1 from aclexplode(proacl) where grantee = 0) as everybody
       from pg_proc where pronamespace = 'public'::regnamespace order by 1`,
    );
    const common = {
      definer: true,
      owner: "entity_directory",
      settings: ["search_path=pg_catalog, pg_temp"],
      volatile: "s",
      callers: ["entity_directory", "entity_service"],
      everybody: [],
    };
    // These say which cluster this is, to anybody who runs the service; one starts a new epoch on another cluster, which
    // needs the owner's rights. They take no argument and read no tenant's data.
    const owner = service.database.user;
    const ofFeed = { ...common, owner, volatile: "v", callers: [owner, "entity_service"].sort() };
    expect(rows).toEqual([
      { name: "feed_cluster()", ...ofFeed, definer: false },
      { name: "find_api_key(bytea)", ...common },
      { name: "find_api_keys(bytea[])", ...common },
      { name: "last_log_xid(integer,xid8,timestamp with time zone)", ...common },
      { name: "list_audit_work(interval,integer,integer)", ...common },
      { name: "list_older_tax_ids(integer)", ...common },
      { name: "list_organizations(uuid,integer)", ...common },
      { name: "list_unfolded(integer)", ...common },
      { name: "list_webhook_work(uuid,interval,integer)", ...common },
      // The service gets the right to these two only where the log is published.
      {
        name: "log_times(integer,xid8,xid8,xid8[],xid8[],uuid,integer,integer)",
        ...common,
        callers: ["entity_directory"],
      },
      // Records what a standby that takes over must have: changes one row, which says what is committed.
      { name: "mark_feed()", ...ofFeed },
      { name: "move_feed_epoch()", ...ofFeed },
      { name: "note_feed_start()", ...ofFeed },
      // Their argument is the number of rows at once; they and the policies above decide which rows may go.
      { name: "prune_checkpoint_leaves(integer)", ...common, volatile: "v" },
      { name: "prune_events(integer)", ...common, volatile: "v" },
      { name: "prune_request_records(integer)", ...common, volatile: "v" },
      { name: "prune_webhook_deliveries(integer,integer)", ...common, volatile: "v" },
      { name: "read_log(integer,xid8,xid8,xid8[],xid8[],integer)", ...common, callers: ["entity_directory"] },
    ]);
  });

  test("the epoch moves with the cluster alone, whoever asks and however often", async () => {
    await using client = await runtime();
    const before = await sql("select * from feed_epoch");
    await client.query("select move_feed_epoch(), move_feed_epoch()");
    expect(await sql("select * from feed_epoch")).toEqual(before);
    await expect(client.query("update feed_epoch set number = 7")).rejects.toMatchObject({ code: "42501" });
    await expect(client.query("insert into feed_epoch select * from feed_epoch")).rejects.toMatchObject({
      code: "42501",
    });
  });

  test("the functions answer what they must and no more", async () => {
    await using client = await runtime();
    const { fields } = await client.query("select * from find_api_key('\\x00')");
    expect(fields.map((field) => field.name)).toEqual(["organization_id", "id", "scopes"]);
    const several = await client.query("select * from find_api_keys(array['\\x00'::bytea])");
    expect(several.fields.map((field) => field.name)).toEqual(["at", "organization_id", "id", "scopes"]);
    const work = await client.query("select * from list_webhook_work(gen_random_uuid(), '0', 10)");
    expect(work.fields.map((field) => field.name)).toEqual(["organization_id", "endpoint_id"]);
    const audit = await client.query("select * from list_audit_work('1 minute', 10000, 10)");
    expect(audit.fields.map((field) => field.name)).toEqual(["organization_id"]);
    const unfolded = await client.query("select * from list_unfolded(10)");
    expect(unfolded.fields.map((field) => field.name)).toEqual(["organization_id"]);
    const older = await client.query("select * from list_older_tax_ids(10)");
    expect(older.fields.map((field) => field.name)).toEqual(["organization_id"]);
    // A table of the caller's, earlier in its search path, is not what the function reads.
    await client.query(
      "create temp table api_key as select gen_random_uuid() as organization_id, gen_random_uuid() as id, '\\x00'::bytea as digest, array['operator'] as scopes, null::timestamptz as revoked_at, null::timestamptz as expires_at",
    );
    await client.query("set search_path = pg_temp, public");
    expect((await client.query("select * from public.find_api_key('\\x00')")).rows).toEqual([]);
    expect((await client.query("select * from public.find_api_keys(array['\\x00'::bytea])")).rows).toEqual([]);
  });

  test("the grants are exactly these", async () => {
    const rows = await sql<{ grantee: string; relname: string; privileges: string }>(
      `select case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee, c.relname,
         string_agg(lower(a.privilege_type), ', ' order by a.privilege_type) as privileges
       from pg_class c cross join aclexplode(c.relacl) a
       where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner group by 1, 2 order by 1, 2`,
    );
    expect(Object.fromEntries(rows.map((row) => [`${row.grantee} ${row.relname}`, row.privileges]))).toEqual({
      "entity_backup administration_event": "select",
      "entity_backup api_key": "select",
      "entity_backup audit_checkpoint": "select",
      "entity_backup audit_key": "select",
      "entity_backup audit_start": "select",
      "entity_backup entity": "select",
      "entity_backup entity_distinct": "select",
      "entity_backup entity_event": "select",
      "entity_backup entity_merge": "select",
      "entity_backup entity_word": "select",
      "entity_backup evaluation": "select",
      "entity_backup event_horizon": "select",
      "entity_backup external_id": "select",
      "entity_backup external_id_past": "select",
      "entity_backup feed_epoch": "select",
      "entity_backup feed_mark": "select",
      "entity_backup feed_sink": "select",
      "entity_backup feed_start": "select",
      "entity_backup organization": "select",
      "entity_backup request_record": "select",
      "entity_backup risk_matrix": "select",
      "entity_backup risk_matrix_version": "select",
      "entity_backup schema_migration": "select",
      "entity_backup schema_migration_id_seq": "select",
      "entity_backup transaction": "select",
      "entity_backup user_event": "select",
      "entity_backup webhook_delivery": "select",
      "entity_backup webhook_endpoint": "select",
      "entity_directory api_key": "select",
      "entity_directory audit_start": "select",
      "entity_directory entity_event": "delete, select",
      "entity_directory event_horizon": "insert, select, update",
      "entity_directory organization": "select",
      "entity_directory request_record": "delete, select",
      "entity_directory webhook_delivery": "delete, select",
      "entity_service administration_event": "insert, select",
      "entity_service api_key": "insert, select, update",
      "entity_service audit_checkpoint": "insert, select",
      "entity_service audit_key": "insert, select",
      "entity_service audit_start": "select",
      "entity_service entity": "insert, select, update",
      "entity_service entity_distinct": "insert, select",
      "entity_service entity_event": "insert, select",
      "entity_service entity_merge": "insert, select",
      "entity_service entity_word": "delete, insert, select",
      "entity_service evaluation": "insert, select",
      "entity_service event_horizon": "select",
      "entity_service external_id": "delete, insert, select, update",
      "entity_service external_id_past": "insert, select",
      "entity_service feed_epoch": "select",
      "entity_service feed_sink": "insert, select, update",
      "entity_service feed_start": "select",
      "entity_service organization": "insert, select, update",
      "entity_service request_record": "delete, insert, select, update",
      "entity_service risk_matrix": "insert, select, update",
      "entity_service risk_matrix_version": "insert, select",
      "entity_service schema_migration": "select",
      "entity_service transaction": "insert, select, update",
      "entity_service user_event": "insert, select, update",
      "entity_service webhook_delivery": "delete, insert, select, update",
      "entity_service webhook_endpoint": "delete, insert, select, update",
    });
    // By columns: those that the search for work may read across organizations, no secret, no URL, no content of an event.
    const columns = await sql<{ grantee: string; relname: string; columns: string }>(
      `select a.grantee::regrole::text as grantee, t.attrelid::regclass::text as relname,
         string_agg(t.attname || ' ' || lower(a.privilege_type), ', ' order by t.attnum, a.privilege_type) as columns
       from pg_attribute t cross join aclexplode(t.attacl) a
       where t.attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace) group by 1, 2`,
    );
    expect(Object.fromEntries(columns.map((row) => [`${row.grantee} ${row.relname}`, row.columns]))).toEqual({
      // Their leaves are looked at for whether they are there, and removed.
      "entity_directory audit_checkpoint":
        "organization_id select, number select, epoch select, to_position select, last_at select, created_at select, leaves select, leaves update",
      "entity_directory entity": "organization_id select, tax_id_key select, name_words select, tax_id_rules select",
      "entity_directory feed_epoch": "number select, id select",
      // That a merge was undone, and a mark lifted; nothing else of either ever changes.
      "entity_service entity_merge":
        "undone_at update, undone_reason update, undone_actor update, undone_principal update, undone_source update",
      "entity_service entity_distinct": "lifted_at update, lift_event_id update",
      "entity_directory webhook_delivery":
        "organization_id select, endpoint_id select, state select, next_attempt_at select",
      "entity_directory webhook_endpoint":
        "organization_id select, id select, state select, deleted_at select, position_epoch select, position_xmax select, position_running select, catch_up_at select, paused_until select, lease_holder select, lease_until select",
    });
    expect(await sql("select defaclrole from pg_default_acl")).toEqual([]);
  });

  test("schema.ts and the migrations make the same tables and columns", async () => {
    const { host, port, user, password, database } = service.database;
    const orm = createOrm(
      { host, port, user, password, database },
      { poolSize: 2, statementTimeoutMs: 20_000, lockTimeoutMs: 2_000 },
    );
    try {
      const difference = await new SchemaGenerator(orm.em as never).getUpdateSchemaSQL();
      const statements = difference
        .split(/;\s*/)
        .map((text) => text.trim())
        .filter(Boolean);
      expect(statements.length).toBeGreaterThan(10);
      expect(
        statements.filter((text) =>
          /create table|add column|add "|alter column .* (type|set not null|drop not null)|rename/i.test(text),
        ),
      ).toEqual([]);
      // What MikroORM's rows do not declare.
      expect(statements.filter((text) => /drop (table|column)/i.test(text))).toEqual([
        'drop table if exists "audit_key" cascade',
        'drop table if exists "audit_start" cascade',
        'drop table if exists "feed_epoch" cascade',
        'drop table if exists "feed_sink" cascade',
        'drop table if exists "feed_start" cascade',
        'drop table if exists "schema_migration" cascade',
        'alter table "external_id" drop column "primary_of"',
      ]);
      expect(statements.filter((text) => /default/i.test(text))).toEqual([
        'alter table "entity_event" alter column "metadata" drop default',
        'alter table "entity_event" alter column "epoch" drop default',
        'alter table "entity" alter column "external_ids" drop default',
        'alter table "entity" alter column "attributes" drop default',
        'alter table "entity" alter column "metadata" drop default',
        'alter table "webhook_delivery" alter column "attempts" drop default',
      ]);
    } finally {
      await orm.close(true);
    }
  });
});

describe("schema.ts is the one list of columns", () => {
  const TYPED = [EntityRow, ExternalIdRow, ExternalIdPastRow, EntityEventRow, TransactionRow, UserEventRow];

  test.each(TYPED.map((table) => [table.meta.tableName, table] as const))(
    "%s: rows read by hand are those that MikroORM hydrates, to the microsecond",
    async (name, table) => {
      const { host, port, user, password, database } = service.database;
      const orm = createOrm(
        { host, port, user, password, database },
        { poolSize: 2, statementTimeoutMs: 20_000, lockTimeoutMs: 2_000 },
      );
      try {
        const columns = columnsOf(table);
        const read = columns.filter(({ isRead }) => isRead);
        const em = forOrganization(orm, a.id);
        const rows = await em.execute<unknown[]>(`select ${selected(columns, "t")} from "${name}" t`);
        const managed = await em.find(table as typeof EntityRow, {}, { disableIdentityMap: true });
        expect(rows.length).toBeGreaterThan(0);
        const plain = (row: object) =>
          Object.fromEntries(read.map(({ property }) => [property, row[property as never]]));
        const key = (row: object) =>
          JSON.stringify(row, (_, value) => (typeof value === "bigint" ? String(value) : value));
        const sorted = (all: object[]) => all.map(plain).sort((one, two) => (key(one) < key(two) ? -1 : 1));
        expect(sorted(rows.map(hydrator(columns)))).toEqual(sorted(managed));
      } finally {
        await orm.close(true);
      }
    },
  );

  test("what is written as arrays is what is read: every type of column, null and odd texts", async () => {
    const odd = ["", "null", 'a "quoted" \\ one', "{}", "ünïcode 漢字", "a,b", " "];
    const [entity] = await sql<{ id: string }>("select id from entity where organization_id = $1 limit 1", [a.id]);
    const event: UnsealedEvent = {
      organizationId: a.id,
      id: randomUUID(),
      entityId: entity?.id as string,
      entityVersion: 2 ** 40,
      entityType: "person",
      type: "CREATED",
      externalId: null,
      externalIds: odd,
      updatedFields: [],
      previousValues: { text: odd.join(), nested: { list: [1, null, false] } },
      newValues: {},
      actor: 'o"dd',
      principal: randomUUID(),
      source: "test",
      reason: null,
      requestId: null,
      metadata: { none: null },
      recordedAt: 1_767_225_600_123_456n,
      occurredAt: null,
    };
    const second = {
      ...event,
      id: randomUUID(),
      entityVersion: 2 ** 50,
      externalIds: [],
      occurredAt: -62_135_596_800_000_000n,
      reason: "{x}",
    };
    const sealed = sealEvents([event, second], new Map());
    const { host, port, database } = service.database;
    const orm = createOrm(
      { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database },
      { poolSize: 2, statementTimeoutMs: 20_000, lockTimeoutMs: 2_000 },
    );
    try {
      const read = await pipelined(
        orm,
        a.id,
        async (db) => {
          insertEvents(db, a.id, sealed);
          return db.execute<unknown[]>(`select ${EVENT_COLUMNS} from entity_event v where v.id = any($1)`, [
            [event.id, second.id],
          ]);
        },
        { validateOnly: true },
      );
      const byId = new Map(read.map(toEvent).map((row) => [row.id, row]));
      const seals = sealed.map(({ salt, previousHash, hash }) => ({ salt, previousHash, hash }));
      expect([byId.get(event.id), byId.get(second.id)]).toEqual([
        { ...event, ...seals[0] },
        { ...second, ...seals[1] },
      ]);
    } finally {
      await orm.close(true);
    }
  });
});

test("closing ends the connections too where every statement was pipelined", async () => {
  const { host, port, database } = service.database;
  const orm = createOrm(
    { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database },
    { poolSize: 2, statementTimeoutMs: 20_000, lockTimeoutMs: 2_000 },
  );
  const pid = await readStatements(orm, a.id, async (db) => {
    const [row] = await db.execute<{ pid: number }[]>("select pg_backend_pid() as pid where $1", [true]);
    return row?.pid;
  });
  const connections = () => sql("select from pg_stat_activity where pid = $1", [pid]);
  expect(await connections()).toHaveLength(1);
  await orm.close(true);
  await expect.poll(connections, { timeout: 5_000 }).toEqual([]);
});

test("closing ends while MikroORM opens a connection: what was asked on it is answered, and it is closed", async () => {
  const { host, port, database } = service.database;
  for (let round = 0; round < 5; round++) {
    const orm = createOrm(
      { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database },
      { poolSize: 2, statementTimeoutMs: 20_000, lockTimeoutMs: 2_000 },
    );
    // Kysely is there, and has one connection.
    const held = managerAcross(orm).execute("select pg_sleep(0.2)");
    const pool = await poolOf(orm);
    await expect.poll(() => pool.totalCount, { interval: 1 }).toBe(1);
    const asked = managerAcross(orm).execute<{ one: number }[]>("select 1 as one");
    await expect.poll(() => pool.totalCount, { interval: 0 }).toBe(2);
    await orm.close(true);
    expect(await asked).toEqual([{ one: 1 }]);
    await held;
    expect(pool.totalCount).toBe(0);
  }
});

describe("the run-time role, by hand", () => {
  test("rule 62: sees nothing without a setting, of nobody else with another's, and only its own with its own", async () => {
    await using client = await runtime();
    for (const table of await tenantTables(sql)) {
      const count = async () =>
        (
          await client.query(
            `select count(*)::int as n, count(*) filter (where organization_id <> $1)::int as others from "${table}"`,
            [b.id],
          )
        ).rows[0];
      await client.query("reset app.organization_id");
      expect(await count(), `${table}, no setting`).toEqual({ n: 0, others: 0 });
      for (const setting of ["", randomUUID()]) {
        await client.query("select set_config('app.organization_id', $1, false)", [setting]);
        expect(await count(), `${table}, '${setting}'`).toEqual({ n: 0, others: 0 });
      }
      await client.query("select set_config('app.organization_id', $1, false)", [b.id]);
      const own = await count();
      expect(own.n, `${table}, its own`).toBeGreaterThan(0);
      expect(own.others, `${table}, its own`).toBe(0);
    }
  });

  test("cannot write a row for another organization, nor move one there, nor touch one", async () => {
    await using client = await runtime();
    const before = await dump(sql);
    for (const table of await tenantTables(sql)) {
      const columns = (
        await sql<{ name: string }>(
          "select quote_ident(column_name) as name from information_schema.columns where table_schema = 'public' and table_name = $1 and is_generated = 'NEVER'",
          [table],
        )
      ).map((row) => row.name);
      const list = columns.join(", ");
      const [row] = await sql(`select to_jsonb(t) as row from "${table}" t where organization_id = $1`, [a.id]);
      await client.query("select set_config('app.organization_id', $1, false)", [b.id]);
      const insert = client.query(
        `insert into "${table}" (${list}) select ${list} from jsonb_populate_record(null::"${table}", $1)`,
        [row?.row],
      );
      await expect(insert, `insert into ${table}`).rejects.toMatchObject({ code: "42501" });
      const changed = { entity_merge: "undone_source", entity_distinct: "lifted_at" }[table];
      if (changed !== undefined) {
        const touched = `update "${table}" set ${changed} = ${changed} where organization_id = $1`;
        expect((await client.query(touched, [a.id])).rowCount, table).toBe(0);
        await expect(client.query(`update "${table}" set id = id`), table).rejects.toMatchObject({ code: "42501" });
        continue;
      }
      if (
        [
          ...["administration_event", "audit_checkpoint", "entity_event", "entity_word", "event_horizon"],
          ...["evaluation", "external_id_past", "risk_matrix_version"],
        ].includes(table)
      )
        continue;
      const moved = client.query(`update "${table}" set organization_id = $1`, [a.id]);
      await expect(moved, `update ${table}`).rejects.toMatchObject({ code: "42501" });
      const touched = await client.query(
        `update "${table}" set organization_id = organization_id where organization_id = $1`,
        [a.id],
      );
      expect(touched.rowCount, table).toBe(0);
    }
    expect(await dump(sql)).toEqual(before);
  });

  test("rule 62: cannot change, remove or empty the log; can empty nothing", async () => {
    await using client = await runtime();
    await client.query("select set_config('app.organization_id', $1, false)", [a.id]);
    const refused = { code: "42501" };
    await expect(client.query("update entity_event set reason = 'x'")).rejects.toMatchObject(refused);
    await expect(client.query("delete from entity_event")).rejects.toMatchObject(refused);
    await expect(client.query("update administration_event set actor = 'x'")).rejects.toMatchObject(refused);
    await expect(client.query("delete from administration_event")).rejects.toMatchObject(refused);
    await expect(client.query("update external_id_past set entity_id = entity_id")).rejects.toMatchObject(refused);
    await expect(client.query("update evaluation set raw_score = raw_score")).rejects.toMatchObject(refused);
    await expect(client.query("update risk_matrix_version set rules = rules")).rejects.toMatchObject(refused);
    await expect(client.query("update audit_checkpoint set leaves = null")).rejects.toMatchObject(refused);
    await expect(client.query("update audit_key set public_key = ''")).rejects.toMatchObject(refused);
    await expect(client.query("delete from audit_key")).rejects.toMatchObject(refused);
    await expect(client.query("update audit_start set epoch = 7")).rejects.toMatchObject(refused);
    for (const table of await tenantTables(sql)) {
      await expect(client.query(`truncate "${table}"`), table).rejects.toMatchObject(refused);
      await expect(client.query(`truncate "${table}" cascade`), table).rejects.toMatchObject(refused);
      await expect(client.query(`alter table "${table}" disable row level security`), table).rejects.toMatchObject({
        code: "42501",
      });
      await expect(client.query(`drop policy tenant on "${table}"`), table).rejects.toMatchObject({ code: "42501" });
      const removed = ["entity_word", "external_id", "request_record", "webhook_delivery", "webhook_endpoint"];
      if (!removed.includes(table)) {
        await expect(client.query(`delete from "${table}"`), table).rejects.toMatchObject(refused);
      }
    }
    await expect(client.query("set role entity_directory")).rejects.toMatchObject(refused);
    await expect(client.query("create table mine (x int)")).rejects.toMatchObject(refused);
    await expect(client.query("update schema_migration set name = 'x'")).rejects.toMatchObject(refused);
  });

  test("cannot turn row level security off for itself, only into an error", async () => {
    await using client = await runtime();
    await client.query("set row_security = off");
    await expect(client.query("select * from entity")).rejects.toMatchObject({ code: "42501" });
  });

  test("an id that another organization has is no oracle: it can be used", async () => {
    // Both organizations created the external id x-1 and the tax id at the beginning.
    const rows = await sql("select organization_id from external_id where external_id = 'x-1'");
    expect(new Set(rows.map((row) => row.organization_id))).toEqual(new Set([a.id, b.id]));
  });
});

describe("invariants that the database holds by itself", () => {
  const attempt = async (statement: string, values: unknown[] = []) => {
    await using client = await runtime();
    await client.query("begin");
    await client.query("select set_config('app.organization_id', $1, true)", [a.id]);
    await client.query(statement, values);
    await client.query("set constraints all immediate");
    await client.query("commit");
  };

  test.each([
    [
      "the copy of the primary external id cannot differ",
      "update entity set external_id = 'other' where external_id = 'x-1'",
      "23503",
    ],
    [
      "the primary cannot be taken from under its copy",
      "update external_id set is_primary = false where external_id = 'x-1'",
      "23503",
    ],
    [
      "an entity has one primary",
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) select organization_id, 'second', id, true, now() from entity where external_id = 'x-1'",
      "23505",
    ],
    [
      "an external id is one entity's",
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) select organization_id, 'x-1', id, false, now() from entity where external_id = 'x-1'",
      "23505",
    ],
    [
      "a version has one event",
      "insert into entity_event select (jsonb_populate_record(e, jsonb_build_object('id', gen_random_uuid()))).* from entity_event e limit 1",
      "23505",
    ],
    [
      "an event has its entity",
      "insert into entity_event select (jsonb_populate_record(e, jsonb_build_object('id', gen_random_uuid(), 'entity_id', gen_random_uuid()))).* from entity_event e limit 1",
      "23503",
    ],
    ["a status is one of ours", "update entity set status = 'free'", "23514"],
    ["a type is one of ours", "update entity set type = 'free'", "23514"],
  ])("%s", async (_, statement, code) => {
    await expect(attempt(statement)).rejects.toMatchObject({ code });
  });
});

describe("migrations", () => {
  const migrateInProcess = (address: object) =>
    new Promise<{ code: number | null; output: string }>((resolve) => {
      const script = `
        const { migrate } = await import(${JSON.stringify(new URL("../src/db/orm.ts", import.meta.url).href)});
        console.log(JSON.stringify(await migrate(${JSON.stringify(address)})));`;
      const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
        stdio: ["ignore", "pipe", "pipe"],
      });
      let output = "";
      child.stdout.on("data", (chunk) => (output += chunk));
      child.stderr.on("data", (chunk) => (output += chunk));
      child.on("close", (code) => resolve({ code, output }));
    });

  test("four processes at once: one migrates, the others wait and have nothing to do", async () => {
    await using empty = await emptyDatabase();
    const runs = await Promise.all([1, 2, 3, 4].map(() => migrateInProcess(empty.address)));
    expect(runs.map((run) => (run.code === 0 ? "" : run.output))).toEqual(["", "", "", ""]);
    const lists = runs.map((run) => JSON.parse(run.output.trim().split("\n").at(-1) as string) as string[]);
    expect(lists.filter((list) => list.length > 0)).toHaveLength(1);
    await using second = {
      client: new pg.Client(empty.address),
      [Symbol.asyncDispose]: async () => second.client.end(),
    };
    await second.client.connect();
    const { rows } = await second.client.query("select name from schema_migration");
    expect(rows.map((row) => row.name)).toEqual(lists.flat());
    const { rows: locks } = await second.client.query(
      "select 1 from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())",
    );
    expect(locks).toEqual([]);
  });

  test("twice changes nothing", async () => {
    const catalogue = `select md5(string_agg(t, '|' order by t)) as sum from (
      select c.oid || c.relname || coalesce(c.relacl::text, '') || c.relrowsecurity || c.relforcerowsecurity as t from pg_class c where relnamespace = 'public'::regnamespace
      union all select oid || pg_get_constraintdef(oid) from pg_constraint where connamespace = 'public'::regnamespace
      union all select oid || proname || coalesce(proacl::text, '') from pg_proc where pronamespace = 'public'::regnamespace
      union all select policyname || tablename || coalesce(qual, '') from pg_policies) x`;
    const before = [await sql(catalogue), await dump(sql)];
    expect(await migrate(service.database)).toEqual([]);
    expect([await sql(catalogue), await dump(sql)]).toEqual(before);
  });

  test("rule 127: the migration to sealed events rewrites no table, and leaves what is there unsealed", async () => {
    await using empty = await emptyDatabase();
    await migrate(empty.address);
    const client = new pg.Client(empty.address);
    await client.connect();
    try {
      // As it was before.
      await client.query(`
        alter table entity_event drop column salt, drop column personal_hash, drop column previous_hash, drop column hash;
        alter table entity drop column audit_head;
        delete from schema_migration where name = '20261127120000_sealed_events';
        insert into organization values (gen_random_uuid(), 'Old', 'IMMUTABLE', gen_random_uuid());
        insert into entity (organization_id, id, version, type, country_code, name, status, etag, created_at, updated_at)
          select organization_id, gen_random_uuid(), 1, 'person', 'AR', 'Ana', 'pending', gen_random_uuid(), now(), now() from organization;
        insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_ids,
            updated_fields, previous_values, new_values, actor, principal, source, recorded_at)
          select organization_id, etag, id, 1, 'person', 'CREATED', '{}', '{name}', '{}', '{"name":"Ana"}', 'a', id, 'api', now()
          from entity`);
      const tables = async () =>
        (
          await client.query(`select c.relname, pg_relation_filenode(c.oid) as file,
            (select string_agg(ctid::text || xmin::text, ',') from entity) as entities,
            (select string_agg(ctid::text || xmin::text, ',') from entity_event) as events
           from pg_class c where c.relname in ('entity', 'entity_event') order by 1`)
        ).rows;
      const before = await tables();
      expect(await migrate(empty.address)).toEqual(["20261127120000_sealed_events"]);
      expect(await tables()).toEqual(before);
      const { rows } = await client.query(
        "select salt, personal_hash, previous_hash, hash, audit_head from entity_event v join entity e on e.id = v.entity_id",
      );
      expect(rows).toEqual([{ salt: null, personal_hash: null, previous_hash: null, hash: null, audit_head: null }]);
    } finally {
      await client.end();
    }
  });

  test("an owner who is no superuser can migrate, and the service runs for a login role of its own", async () => {
    await using empty = await emptyDatabase();
    const { address } = empty;
    const suffix = address.database.slice(-8);
    const [owner, login] = [`owner_${suffix}`, `login_${suffix}`];
    const admin = new pg.Client(address);
    await admin.connect();
    try {
      await admin.query(`create role ${owner} login createrole password 'p'; create role ${login} login password 'p'`);
      // The superuser of this cluster made the roles before: a createrole owner must be granted them.
      await admin.query(`grant entity_service, entity_directory to ${owner} with admin option`);
      await admin.query(`alter database ${address.database} owner to ${owner}`);
      expect(await migrate({ ...address, user: owner, password: "p" }, { runtimeUser: login })).toHaveLength(
        MIGRATIONS.length,
      );
      const orm = createOrm(
        { ...address, user: login, password: "p" },
        { poolSize: 2, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 },
      );
      try {
        const em = forOrganization(orm, randomUUID());
        await assertSafeRole(em);
        expect(await pendingMigrations(orm)).toEqual([]);
        expect(await em.execute("select current_user as role, session_user as login")).toEqual([
          { role: "entity_service", login },
        ]);
      } finally {
        await orm.close(true);
      }
    } finally {
      await admin.query(
        `revoke entity_service, entity_directory from ${owner} cascade; reassign owned by ${owner} to ${address.user}; drop owned by ${owner}; drop owned by ${login}; drop role ${login}; drop role ${owner}`,
      );
      await admin.end();
    }
  });
});

describe("start-up", () => {
  const ormOf = (login: { user: string; password: string }) =>
    createOrm({ ...service.database, ...login }, { poolSize: 2, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 });
  const isSafe = async (login: { user: string; password: string }) => {
    await using other = { orm: ormOf(login), [Symbol.asyncDispose]: () => other.orm.close(true) };
    await assertSafeRole(forOrganization(other.orm, a.id));
  };
  /** Sets another role than the one that every connection sets. */
  const asRole = async (role: string) => {
    await using other = { orm: ormOf(service.database), [Symbol.asyncDispose]: () => other.orm.close(true) };
    await forOrganization(other.orm, a.id).transactional(async (em) => {
      await em.execute(`set local role ${role}`);
      await assertSafeRole(em as never);
    });
  };
  const withRole = async (attributes: string, more: string, run: (role: string) => Promise<void>) => {
    const role = `unsafe_${randomUUID().slice(0, 8)}`;
    await sql(`create role ${role} login password 'p' ${attributes}`);
    try {
      await sql(`grant usage on schema public to ${role}`);
      for (const statement of more.split(";").filter(Boolean)) await sql(statement.replaceAll("ROLE", role));
      await run(role);
    } finally {
      await sql(`reassign owned by ${role} to ${service.database.user}`);
      await sql(`drop owned by ${role}`);
      await sql(`drop role ${role}`);
    }
  };

  test("the run-time role is safe", async () => {
    await isSafe({ user: "entity_service", password: RUNTIME_PASSWORD });
  });

  test("a superuser is refused as run-time role, and as the login that becomes it: RESET ROLE would leave the wall", async () => {
    await expect(asRole(service.database.user)).rejects.toThrow(/must not own tables nor bypass/);
    await expect(isSafe(service.database)).rejects.toThrow(
      /is a superuser: .* create role entity_login login password '...'; .*MIGRATION_DATABASE_URL/,
    );
    await using other = { orm: ormOf(service.database), [Symbol.asyncDispose]: () => other.orm.close(true) };
    expect(await forOrganization(other.orm, a.id).execute("select current_user as role")).toEqual([
      { role: "entity_service" },
    ]);
  });

  test.each([
    ["a login that bypasses row level security", "bypassrls", "grant entity_service to ROLE"],
    ["a login that can become a superuser", "", "grant entity_service to ROLE; grant OWNER to ROLE"],
    ["a login that can run programs", "", "grant entity_service, pg_execute_server_program to ROLE"],
    ["a login for backups", "", "grant entity_service, entity_backup to ROLE"],
    ["a login that is entity_directory", "", "grant entity_service, entity_directory to ROLE"],
  ])("%s is refused", async (_, attributes, more) => {
    await withRole(attributes, more.replace("OWNER", `"${service.database.user}"`), async (role) => {
      await expect(isSafe({ user: role, password: "p" })).rejects.toThrow(/one RESET ROLE would leave the wall/);
    });
  });

  test("a login of its own is served", async () => {
    await withRole("", "grant entity_service to ROLE", (role) => isSafe({ user: role, password: "p" }));
  });

  test.each([
    ["a role that bypasses row level security", "bypassrls", ""],
    ["the owner of a table", "", "alter table user_event owner to ROLE"],
  ])("%s is refused", async (_, attributes, more) => {
    await withRole(attributes, more, async (role) => {
      await expect(asRole(role)).rejects.toThrow(/must not own tables nor bypass/);
    });
  });

  test("synchronous_commit off is refused: acknowledged writes could be lost", async () => {
    const name = service.database.database;
    await sql(`alter database ${name} set synchronous_commit = off`);
    try {
      await expect(startOther(service)).rejects.toThrow(/synchronous_commit/);
    } finally {
      await sql(`alter database ${name} reset synchronous_commit`);
    }
    await using other = await startOther(service);
    expect((await other.client(a.apiKey).entities.listEntities({})).entities.length).toBeGreaterThan(0);
  });
});

describe("the driver", () => {
  let orm: Orm;
  beforeAll(() => {
    orm = createOrm(
      { ...service.database, user: "entity_service", password: RUNTIME_PASSWORD },
      { poolSize: 1, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 },
    );
  });
  afterAll(() => orm.close(true));
  const one = async (text: string, values: unknown[]) =>
    (await forOrganization(orm, a.id).execute<Record<string, unknown>[]>(text, values))[0];

  test.each([
    "?",
    "??",
    "$1",
    "$2 ?",
    "\\",
    "\\?",
    "\\\\?",
    "it's",
    "'; drop table entity; --",
    '"',
    "%s :name",
    "é\u{1f600}\u{10ffff}",
    "\t\r\n",
    "null",
    "{}",
    "{a,b}",
    '{"a":1}',
    "",
  ])("brings %j there and back, as a value and in an array", async (value) => {
    expect(await one("select ?::text as v, ?::text as w", [value, `${value}2`])).toEqual({ v: value, w: `${value}2` });
    expect(await one("select $1::text as v, $2::text[] as w", [value, [value, null, value]])).toEqual({
      v: value,
      w: [value, null, value],
    });
    expect(await one("select $1::jsonb as v", [{ [value]: [value] }])).toEqual({ v: { [value]: [value] } });
  });

  test.each([
    [[]],
    [["a"]],
    [["name", "entity_data.person", "2026-01-01", "x:1", "é"]],
    [["NULL", "null", "nullable", "x_NULL"]],
    [["a", "b c", ""]],
    [["a,b", "{c}", "d"]],
    [["a", null]],
    [[null]],
  ])("reads the array %j as it is", async (array) => {
    expect(await one("select $1::text[] as v", [array])).toEqual({ v: array });
  });

  test("compiles no statements: the few rows that they read are there long before", async () => {
    expect(await orm.em.fork().execute("select current_setting('jit') as jit")).toEqual([{ jit: "off" }]);
  });

  test("keeps an escaped question mark as the operator of jsonb", async () => {
    expect(await one("select ('{\"a\":1}'::jsonb \\? ?) as v, '{\"b\":1}'::jsonb \\? 'a' as w", ["a"])).toEqual({
      v: true,
      w: false,
    });
  });

  test("refuses NUL and lone surrogates in the database as well: nothing is cut off", async () => {
    await expect(one("select ?::text as v", ["a\0b"])).rejects.toMatchObject({ code: "22021" });
    await expect(one("select ?::jsonb as v", ['{"a":"\\u0000"}'])).rejects.toMatchObject({ code: "22P05" });
    expect(await one("select 1 as v", [])).toEqual({ v: 1 });
  });

  test("leaves identifiers to MikroORM, which quotes them", async () => {
    expect(
      await one("select ?? as v from organization where ?? = ?", ["organization_id", "organization_id", a.id]),
    ).toEqual({ v: a.id });
    await expect(one("select ?? from organization where 1 = ?", ['x" from entity --', 1])).rejects.toMatchObject({
      code: "42703",
    });
  });

  test("sends values apart from the statement, which is planned under a name", async () => {
    const canary = `value-${randomUUID()}`;
    const [row] = await forOrganization(orm, a.id).transactional(async (em) => {
      await em.execute("select count(*) from entity where name = ?", [canary]);
      return em.execute<{ text: string; n: string }[]>(
        "select string_agg(statement, ';') as text, count(*) as n from pg_prepared_statements",
      );
    });
    expect(row?.text).toContain("where name = $1");
    expect(row?.text).not.toContain(canary);
  });

  test("a COMMIT that is answered ROLLBACK is an error", async () => {
    const before = await rowCounts(sql);
    const silent = forOrganization(orm, a.id).transactional(async (em) => {
      await em.execute(
        "insert into user_event select (jsonb_populate_record(u, jsonb_build_object('id', gen_random_uuid()))).* from user_event u limit 1",
      );
      await em.execute("select 1 / 0").catch(() => {});
    });
    await expect(silent).rejects.toThrow(/not committed: ROLLBACK/);
    expect(await rowCounts(sql)).toEqual(before);
    expect(await one("select 1 as v", [])).toEqual({ v: 1 });
  });

  test("a deferred constraint that fails at COMMIT is the constraint's error, not an unknown commit", async () => {
    const failing = forOrganization(orm, a.id).transactional((em) =>
      em.execute("update entity set external_id = 'nobody has this' where external_id = 'x-1'"),
    );
    const error = await failing.catch((caught: unknown) => caught);
    expect(error).not.toBeInstanceOf(CommitUnknownError);
    expect(error).toMatchObject({ code: "23503" });
  });

  test("nothing of a transaction is left on its connection", async () => {
    for (const work of [async () => {}, async () => Promise.reject(new Error("stop"))]) {
      await forOrganization(orm, a.id)
        .transactional(work)
        .catch(() => {});
      const [row] = await orm.em
        .fork()
        .execute<Record<string, unknown>[]>(
          "select current_setting('app.organization_id', true) as setting, count(*)::int as n from entity",
        );
      expect([null, ""]).toContain(row?.setting);
      expect(row?.n).toBe(0);
    }
    // Reads outside of the service's transactions too.
    await forOrganization(orm, a.id).execute("select 1");
    const [row] = await orm.em.fork().execute<Record<string, unknown>[]>("select count(*)::int as n from entity");
    expect(row?.n).toBe(0);
  });
});

describe("a column is added under a running service", () => {
  test("0A000: reads and writes on live connections go on", async () => {
    await using own = await startService({ config: { poolSize: 2 } });
    const { entities, organizations } = own.client;
    const each = async (n: number) => {
      await entities.createEntity({ entity: person({ externalId: `m-${n}` }), requestId: randomUUID() });
      await entities.updateEntity({ lookup: byExternal("m-0"), entity: { name: `Ana ${n}` } });
      await entities.listEntityEvents({});
      await entities.listEntityEvents({ lookup: byExternal("m-0") });
      await entities.listEntities({ showDeleted: true });
      await organizations.getOrganization({});
      await organizations.listOrganizations({});
      await organizations.listApiKeys({});
    };
    // Often enough that every connection has planned every statement.
    for (let n = 0; n < 8; n++) await each(n);
    for (const table of await tenantTables(own.sql)) await own.sql(`alter table "${table}" add column added text`);
    for (let n = 8; n < 12; n++) await each(n);
    const { events } = await entities.listEntityEvents({ lookup: byExternal("m-0") });
    expect(events).toHaveLength(13);
  });
});

describe("the connection is lost", () => {
  let proxy: DatabaseProxy;
  const lines: string[] = [];
  const log = pino({ level: "info" }, { write: (line: string) => void lines.push(line) });
  beforeAll(async () => {
    proxy = await startProxy();
  });
  afterAll(() => proxy[Symbol.asyncDispose]());

  const writes: [string, (client: EntityClient, requestId: string, id: string) => Promise<unknown>][] = [
    [
      "CreateEntity",
      (client, requestId, id) => client.entities.createEntity({ entity: person({ externalId: id }), requestId }),
    ],
    [
      "UpdateEntity",
      (client, requestId, id) =>
        client.entities.updateEntity({
          lookup: byExternal(id),
          entity: person({ name: "Eva" }),
          allowMissing: true,
          requestId,
        }),
    ],
    [
      "RecordUserEvents",
      (client, requestId, id) =>
        client.activity.recordUserEvents({
          userEvents: [{ eventType: id, occurredAt: { seconds: 1n }, entityExternalId: "x-1" }],
          requestId,
        }),
    ],
  ];

  describe.each(["before", "after"] as const)("at the COMMIT, %s the database took it", (when) => {
    test.each(writes)("%s is COMMIT_UNKNOWN, and the retry with its request_id is exact", async (_, call) => {
      await using other = await startOther(service, { address: proxy, log });
      const headers = captureHeaders();
      const client = createEntityClient({
        retries: false,
        baseUrl: other.baseUrl,
        apiKey: a.apiKey,
        interceptors: [headers.interceptor],
      });
      const [requestId, id] = [randomUUID(), `commit-${randomUUID()}`];
      const before = await rowCounts(sql);
      await client.entities.getEntity({ lookup: byExternal("x-1") });
      const cuts = proxy.cuts();
      // Not the COMMIT that reads the key: the key is cached by now.
      proxy.cutAtCommit(when);
      const lost = await refusal(call(client, requestId, id));
      expect(proxy.cuts()).toBe(cuts + 1);
      expect(lost).toMatchObject({ code: Code.Unavailable, reason: "COMMIT_UNKNOWN" });
      await sleep(100);
      const between = await rowCounts(sql);
      expect(JSON.stringify(between) === JSON.stringify(before)).toBe(when === "before");
      const first = await call(client, requestId, id);
      expect(headers.last.get("idempotent-replay")).toBe(when === "after" ? "true" : null);
      const after = await rowCounts(sql);
      if (when === "after") expect(after).toEqual(between);
      expect(await call(client, requestId, id)).toEqual(first);
      expect(headers.last.get("idempotent-replay")).toBe("true");
      expect(await rowCounts(sql)).toEqual(after);
      expect(lines.join("")).not.toContain(id);
    });
  });

  test("an import whose COMMIT is lost ends with COMMIT_UNKNOWN, and run again is complete", async () => {
    await using other = await startOther(service, { address: proxy, log });
    const client = other.client(a.apiKey);
    await client.entities.getEntity({ lookup: byExternal("x-1") });
    const rows = async function* () {
      for (let i = 0; i < 10; i++) yield { entity: person({ externalId: `import-${i}` }) };
    };
    const run = async () => {
      let last: unknown;
      for await (const { progress } of client.entities.importEntities(rows())) last = progress;
      return last;
    };
    proxy.cutAtCommit("after");
    expect(await refusal(run())).toMatchObject({ reason: "COMMIT_UNKNOWN" });
    const { created, unchanged, failed } = (await run()) as { created: bigint; unchanged: bigint; failed: bigint };
    expect([created + unchanged, failed]).toEqual([10n, 0n]);
    expect(unchanged).toBeGreaterThan(0n);
  });

  test("refused: DATABASE_UNAVAILABLE at once, and afterwards all is well without a restart", async () => {
    await using other = await startOther(service, { address: proxy, log });
    const client = other.client(a.apiKey);
    const read = () => client.entities.getEntity({ lookup: byExternal("x-1") });
    const write = () => client.entities.createEntity({ entity: person() });
    await read();
    await proxy.refuse();
    await sleep(50);
    try {
      for (const call of [
        read,
        write,
        () => client.activity.listTransactions({ lookup: byExternal("x-1") }),
        () => client.organizations.getOrganization({}),
      ]) {
        const start = performance.now();
        expect(await refusal(call())).toMatchObject({
          code: Code.Unavailable,
          reason: "DATABASE_UNAVAILABLE",
          metadata: { retry_after_ms: expect.any(String) },
        });
        expect(performance.now() - start).toBeLessThan(2_500);
      }
      // A key that is not cached yet cannot be checked.
      expect(await refusal(other.client(b.apiKey).entities.getEntity({ lookup: byExternal("x-1") }))).toMatchObject({
        reason: "DATABASE_UNAVAILABLE",
      });
    } finally {
      await proxy.accept();
    }
    expect((await read()).entity?.name).toBe("Ana");
    expect((await write()).entity?.name).toBe("Ana");
  });

  test("pg_terminate_backend of all, idle and at work: DATABASE_UNAVAILABLE for those at work, then all is well", async () => {
    await using other = await startOther(service, {
      log,
      config: { lockTimeoutMs: 20_000, statementTimeoutMs: 20_000 },
    });
    const client = other.client(a.apiKey);
    const read = () => client.entities.getEntity({ lookup: byExternal("x-1") });
    await Promise.all([1, 2, 3, 4, 5].map(read));
    const kill = () =>
      sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename = 'entity_service'",
      );
    // Idle connections: the process survives, and the next call gets a new connection (or is told to retry).
    await kill();
    await expect.poll(() => read().catch(() => undefined)).toBeDefined();
    // Busy connections: waiting for a lock.
    const holder = new pg.Client(service.database);
    await holder.connect();
    try {
      await holder.query("begin; lock table entity in access exclusive mode");
      const calls = [read(), client.entities.updateEntity({ lookup: byExternal("x-1"), entity: { name: "Eva" } })].map(
        (call) => refusal(call),
      );
      await expect
        .poll(() =>
          sql(
            // For longer than a transaction that organizations share would wait: that attempt is over.
            `select count(*)::int as n from pg_stat_activity where datname = current_database()
             and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '200 ms'`,
          ),
        )
        .toEqual([{ n: 2 }]);
      await kill();
      for (const call of calls) expect(await call).toMatchObject({ reason: "DATABASE_UNAVAILABLE" });
    } finally {
      await holder.query("rollback");
      await holder.end();
    }
    expect((await read()).entity?.name).toBe("Ana");
  });

  test("frozen: nothing comes, the caller is answered by its deadline; and afterwards all is well", async () => {
    await using other = await startOther(service, {
      address: proxy,
      log,
      config: { poolSize: 2, defaultTimeoutMs: 700 },
    });
    const client = other.client(a.apiKey);
    const read = () => client.entities.getEntity({ lookup: byExternal("x-1") });
    await Promise.all([read(), read()]);
    proxy.freeze(true);
    try {
      const start = performance.now();
      const answers = await Promise.all([1, 2, 3, 4].map(() => refusal(read())));
      for (const answer of answers) expect(["DEADLINE_EXCEEDED", "DATABASE_UNAVAILABLE"]).toContain(answer.reason);
      expect(performance.now() - start).toBeLessThan(2_000);
    } finally {
      proxy.freeze(false);
    }
    await expect.poll(async () => (await read().catch(() => undefined))?.entity?.name).toBe("Ana");
  });

  test("connections that bring nothing any more, for ever: their places are free again, and all is well", async () => {
    await using other = await startOther(service, {
      address: proxy,
      log,
      config: { poolSize: 2, statementTimeoutMs: 1_000, lockTimeoutMs: 500 },
    });
    const client = other.client(a.apiKey);
    const read = () => client.entities.getEntity({ lookup: byExternal("x-1") });
    const write = () => client.entities.createEntity({ entity: person() });
    await Promise.all([read(), write(), read(), write()]);
    proxy.abandon();
    const answers = await Promise.all([refusal(read()), refusal(write())]);
    expect(answers.map((answer) => answer.reason)).toEqual(["DATABASE_UNAVAILABLE", "DATABASE_UNAVAILABLE"]);
    await expect.poll(async () => (await read().catch(() => undefined))?.entity?.name).toBe("Ana");
    expect((await write()).entity?.name).toBe("Ana");
  });

  test("a connection that breaks, again and again: no place in the pool is lost", async () => {
    await using other = await startOther(service, { address: proxy, log, config: { poolSize: 2 } });
    const client = other.client(a.apiKey);
    const read = () => client.entities.getEntity({ lookup: byExternal("x-1") });
    const write = (requestId: string) => client.entities.createEntity({ entity: person(), requestId });
    await read();
    for (let i = 0; i < 4; i++) {
      await proxy.refuse();
      // With and without time to notice before the next call.
      if (i % 2 === 0) await sleep(30);
      expect((await refusal(Promise.all([read(), write(randomUUID())]))).reason).toBe("DATABASE_UNAVAILABLE");
      await proxy.accept();
      const requestId = randomUUID();
      proxy.cutAtCommit("after");
      await write(requestId).catch(() => {});
      await expect.poll(async () => (await write(requestId).catch(() => undefined))?.entity?.name).toBe("Ana");
    }
    await Promise.all([read(), read(), read()]);
  });

  test("no connection is free: DATABASE_UNAVAILABLE within about 2 s, health and the process go on", async () => {
    await using other = await startOther(service, {
      log,
      config: { poolSize: 2, lockTimeoutMs: 20_000, statementTimeoutMs: 20_000 },
    });
    const client = other.client(a.apiKey);
    const read = () => client.entities.getEntity({ lookup: byExternal("x-1") });
    await read();
    const holder = new pg.Client(service.database);
    await holder.connect();
    await holder.query("begin; lock table entity in access exclusive mode");
    // For longer than a transaction that organizations share would wait.
    const waiting = () =>
      sql<{ n: number }>(
        `select count(*)::int as n from pg_stat_activity where datname = current_database()
         and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '200 ms'`,
      );
    // One after the other: at the same time they would share a transaction and its connection.
    const blocked = [client.entities.createEntity({ entity: person() })];
    await expect.poll(waiting).toEqual([{ n: 1 }]);
    blocked.push(client.entities.createEntity({ entity: person() }));
    try {
      await expect.poll(waiting).toEqual([{ n: 2 }]);
      const start = performance.now();
      expect(await refusal(read())).toMatchObject({ code: Code.Unavailable, reason: "DATABASE_UNAVAILABLE" });
      const took = performance.now() - start;
      expect(took).toBeGreaterThan(1_000);
      expect(took).toBeLessThan(3_000);
    } finally {
      await holder.query("rollback");
      await holder.end();
    }
    for (const call of blocked) expect((await call).entity?.name).toBe("Ana");
    expect((await read()).entity?.name).toBe("Ana");
  });

  test("a row that somebody holds: WRITE_CONFLICT after the lock time, nothing written, and then all is well", async () => {
    await using other = await startOther(service, { log, config: { lockTimeoutMs: 300 } });
    const client = other.client(a.apiKey);
    const holder = new pg.Client(service.database);
    await holder.connect();
    await holder.query("begin");
    await holder.query("select 1 from entity where external_id = 'x-1' for update");
    const before = await dump(sql);
    try {
      expect(
        await refusal(
          client.entities.updateEntity({ lookup: byExternal("x-1"), entity: { name: "Eva" }, requestId: randomUUID() }),
        ),
      ).toMatchObject({
        code: Code.Aborted,
        reason: "WRITE_CONFLICT",
        metadata: { retry_after_ms: expect.any(String) },
      });
    } finally {
      await holder.query("rollback");
      await holder.end();
    }
    expect(await dump(sql)).toEqual(before);
    expect(
      (await client.entities.updateEntity({ lookup: byExternal("x-1"), entity: { name: "Ana" } })).entity?.name,
    ).toBe("Ana");
  });

  test("a statement that takes too long: DEADLINE_EXCEEDED, and nothing of it goes on", async () => {
    await using other = await startOther(service, { log, config: { statementTimeoutMs: 300, lockTimeoutMs: 20_000 } });
    const holder = new pg.Client(service.database);
    await holder.connect();
    await holder.query("begin; lock table entity in access exclusive mode");
    try {
      const error = await refusal(other.client(a.apiKey).entities.getEntity({ lookup: byExternal("x-1") }));
      expect(error).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_EXCEEDED" });
      expect(
        await sql("select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"),
      ).toEqual([]);
    } finally {
      await holder.query("rollback");
      await holder.end();
    }
  });

  test("rule 75: none of this told the log any value", () => {
    const all = lines.join("");
    expect(all).toContain("COMMIT_UNKNOWN");
    for (const value of ["Ana", "Eva", "x-1", "20-12345678-9", a.apiKey]) expect(all).not.toContain(value);
    expect(all).not.toMatch(/select |insert |update entity/i);
  });

  test("refusals are ConnectErrors with nothing of the database in them", async () => {
    await using other = await startOther(service, { address: proxy, log });
    const client = other.client(a.apiKey);
    await client.entities.getEntity({ lookup: byExternal("x-1") });
    await proxy.refuse();
    const error = await client.entities.getEntity({ lookup: byExternal("x-1") }).catch((caught: unknown) => caught);
    await proxy.accept();
    expect(error).toBeInstanceOf(ConnectError);
    expect((error as ConnectError).rawMessage).toBe("The database does not answer: retry");
  });
});
