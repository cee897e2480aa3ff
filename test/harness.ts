// Lends a running service: a separate database from the migrated template, a real port, the generated client.
import { randomUUID } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { ConnectError, type Interceptor } from "@connectrpc/connect";
import pg from "pg";
import { expect, inject } from "vitest";
import {
  BadRequestSchema,
  createEntityClient,
  type EntityClient,
  type EntityClientOptions,
  ErrorInfoSchema,
} from "../clients/typescript/index.ts";
import { type Config, readConfig } from "../src/config.ts";
import { DEFAULT_ORGANIZATION_ID } from "../src/db/across.ts";
import { SCOPES } from "../src/db/api-keys.ts";
import { createOrm, migrate } from "../src/db/orm.ts";
import { externalIdFold, nameDateKey, nameNumberKey } from "../src/domain/duplicates.ts";
import { taxIdCanonicalOf, taxIdKeyOf } from "../src/domain/entity-state.ts";
import { nameWords } from "../src/domain/name.ts";
import { TAX_ID_RULES } from "../src/domain/tax-id.ts";
import { digestOf } from "../src/entities/words.ts";
import { createLogger, type Logger } from "../src/logger.ts";
import { startServer } from "../src/server.ts";
import { brokenChains } from "./chains.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { externalIdProblems } from "./external-id-periods.ts";
import { brokenMerges } from "./merge-invariants.ts";

/** Options of the tests' clients: the deadline is the service's default, which some tests shorten, and what fails is seen. */
export const NO_DEADLINE = { defaultTimeoutMs: 0, retries: false } as const;

export interface TestOrganization {
  id: string;
  /** The secret and the id of a key with all scopes (operator for `default` alone). */
  apiKey: string;
  apiKeyId: string;
  /** A client with that key. */
  client: EntityClient;
  /** A client with a new key of these scopes. */
  clientWith(scopes: string[], options?: Partial<EntityClientOptions>): Promise<EntityClient>;
}

export interface TestService extends AsyncDisposable {
  baseUrl: string;
  port: number;
  /** The organization `default`. */
  organization: TestOrganization;
  client: EntityClient;
  /** Creates another organization. */
  newOrganization(policy?: "MUTABLE_WITH_REASON" | "IMMUTABLE"): Promise<TestOrganization>;
  /** A query as the superuser or owner: sees every organization. */
  sql<T = Record<string, any>>(text: string, values?: unknown[]): Promise<T[]>;
  /** The address of the service's database, for processes and pools that a test starts. */
  database: { host: string; port: number; user: string; password: string; database: string };
}

/** Starts the service on a separate database. */
export async function startService(
  options: { config?: Partial<Config>; log?: Logger; webhookClock?: () => number; longestWriteMs?: number } = {},
): Promise<TestService> {
  const server = inject("databaseServer");
  const name = `test_${randomUUID().replaceAll("-", "")}`;
  const owner = new pg.Client({ ...server, database: "postgres" });
  await owner.connect();
  await owner.query(`create database ${name} template ${server.template}`);
  // As a start with NATS_URL does.
  if (options.config?.nats !== undefined) await migrate({ ...server, database: name }, { publishes: true });
  const admin = new pg.Pool({ ...server, database: name, max: 4 });
  // The pool ends before its connections do: dropping the database then ends them with an error.
  admin.on("error", () => {});
  const bootstrapApiKey = `test-${randomUUID()}`;
  const config: Config = {
    // The same tests judge both paths of gRPC.
    ...readConfig({ UNARY_PATH: process.env.UNARY_PATH }),
    port: 0,
    bootstrapApiKey,
    logLevel: "silent",
    drainTimeoutMs: 2_000,
    lameDuckMs: 0,
    poolSize: 10,
    // Receivers of tests are on this machine.
    webhookAllow: "127.0.0.1",
    auditSigningKey: server.keyFile,
    // Most tests compare what is there before and after.
    auditCheckpointSeconds: undefined,
    ...options.config,
  };
  const orm = createOrm(
    { host: server.host, port: server.port, user: "entity_service", password: RUNTIME_PASSWORD, database: name },
    { ...config, ...(options.longestWriteMs !== undefined && { longestWriteMs: options.longestWriteMs }) },
  );
  const running = await startServer(config, options.log ?? createLogger("silent"), {
    database: { orm, lost: new Promise(() => {}), [Symbol.asyncDispose]: async () => {} },
    ...(options.webhookClock === undefined ? {} : { webhookClock: options.webhookClock }),
  });
  const baseUrl = `http://127.0.0.1:${running.port}`;
  const sql = async (text: string, values: unknown[] = []) => (await admin.query(text, values)).rows;

  const organization = (id: string, apiKey: string, apiKeyId: string, operator: EntityClient): TestOrganization => ({
    id,
    apiKey,
    apiKeyId,
    client: createEntityClient({ baseUrl, apiKey, ...NO_DEADLINE }),
    async clientWith(scopes, clientOptions) {
      const made = await operator.organizations.createApiKey({ organizationId: id, displayName: "test", scopes });
      return createEntityClient({ baseUrl, apiKey: made.secret, ...NO_DEADLINE, ...clientOptions });
    },
  });
  const operator = createEntityClient({ baseUrl, apiKey: bootstrapApiKey, ...NO_DEADLINE });
  const [bootstrapKey] = await sql("select id from api_key");
  const home = organization(DEFAULT_ORGANIZATION_ID, bootstrapApiKey, bootstrapKey.id, operator);

  return {
    baseUrl,
    port: running.port,
    organization: home,
    client: home.client,
    sql: sql as TestService["sql"],
    database: { host: server.host, port: server.port, user: server.user, password: server.password, database: name },
    async newOrganization(policy = "MUTABLE_WITH_REASON") {
      const { organization: made } = await operator.organizations.createOrganization({
        organization: { displayName: "Test", externalIdPolicy: policy === "IMMUTABLE" ? 2 : 1 },
      });
      const id = made?.id ?? "";
      const key = await operator.organizations.createApiKey({
        organizationId: id,
        displayName: "all",
        scopes: SCOPES.filter((scope) => scope !== "operator"),
      });
      return organization(id, key.secret, key.apiKey?.id ?? "", operator);
    },
    async [Symbol.asyncDispose]() {
      using _ = tellsWhenSlow(owner, name);
      await running[Symbol.asyncDispose]();
      await orm.close(true);
      // What autovacuum last counted may be of another time: a plan for ten rows takes a minute over ten thousand.
      await sql("analyze entity, entity_event, entity_word, external_id, external_id_past, entity_merge");
      await assertInvariants(sql);
      await admin.end();
      // The pool does not wait for its connections to close; one that the drop ends would throw after all.
      for (let i = 0; i < 100; i++) {
        const { rows } = await owner.query("select 1 from pg_stat_activity where datname = $1", [name]);
        if (rows.length === 0) break;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      await owner.query(`drop database ${name} with (force)`);
      await owner.end();
    },
  };
}

/** Prints what the database does for a service that takes long to end: all that a hook's time limit tells is that it did. */
function tellsWhenSlow(owner: pg.Client, database: string): Disposable {
  const timer = setInterval(async () => {
    const query = `select state, wait_event_type, wait_event, now() - query_start as since, left(query, 300) as query
      from pg_stat_activity where datname = $1`;
    const seen = await owner.query(query, [database]).catch((error: unknown) => ({ rows: error }));
    console.error(`${database} takes long to end`, seen.rows);
  }, 20_000);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** For a process that serves the same database: it logs in as the run-time role and migrates as the owner. */
export function databaseEnvironment({ database }: TestService): {
  DATABASE_URL: string;
  MIGRATION_DATABASE_URL: string;
} {
  const { host, port, user, password, database: name } = database;
  const url = (...login: string[]) =>
    `postgres://${login.map(encodeURIComponent).join(":")}@${encodeURIComponent(host)}:${port}/${name}`;
  return { DATABASE_URL: url("entity_service", RUNTIME_PASSWORD), MIGRATION_DATABASE_URL: url(user, password) };
}

/** Removes entities whose rows a test has changed by SQL, before the invariants are checked. */
export async function forget(service: TestService, ids: readonly string[]): Promise<void> {
  await service.sql(
    `with x as (delete from external_id where entity_id = any($1)), p as (delete from external_id_past where entity_id = any($1)), m as (delete from entity_merge where primary_id = any($1) or secondary_id = any($1)), v as (delete from entity_event where entity_id = any($1)), w as (delete from entity_word where entity_id = any($1)), r as (delete from evaluation where entity_id = any($1))
     delete from entity where id = any($1)`,
    [ids],
  );
}

/** Entities of the present rules whose keys are not those of their tax ids. */
async function brokenTaxIds(sql: (text: string) => Promise<Record<string, unknown>[]>): Promise<unknown[]> {
  const rows = await sql(
    `select id, tax_id as "taxId", country_code as "countryCode", tax_id_key as key, tax_id_canonical as form
     from entity where tax_id_rules = ${TAX_ID_RULES}`,
  );
  return rows.filter((row) => {
    const entity = row as unknown as Parameters<typeof taxIdCanonicalOf>[0];
    return row["key"] !== taxIdKeyOf(entity) || row["form"] !== taxIdCanonicalOf(entity);
  });
}

/** Entities whose words or keys are not those of their names, and external ids whose fold is not theirs. */
async function brokenNames(sql: (text: string) => Promise<Record<string, unknown>[]>): Promise<unknown[]> {
  const entities = await sql(
    `select id, type, name, entity_data as "entityData", name_words, replace(name_date_key::text, '-', '') as date_key,
       replace(name_number_key::text, '-', '') as number_key from entity where name_words is not null`,
  );
  const ids = await sql(
    `select external_id, folded from external_id x where exists (
       select from entity e where e.organization_id = x.organization_id and e.id = x.entity_id and e.name_words is not null)`,
  );
  return [
    ...entities.filter((row) => {
      const entity = row as unknown as Parameters<typeof nameWords>[0];
      const [date, number] = [digestOf(nameDateKey(entity)), digestOf(nameNumberKey(entity))];
      return row["name_words"] !== nameWords(entity) || row["date_key"] !== date || row["number_key"] !== number;
    }),
    ...ids.filter((row) => row["folded"] !== externalIdFold(String(row["external_id"]))),
  ];
}

/** What must be true of every database, whatever a test did to it. */
async function assertInvariants(
  sql: (text: string, values?: unknown[]) => Promise<Record<string, unknown>[]>,
): Promise<void> {
  const broken = {
    "the entity's copy of its primary external id": `
      select e.id from entity e left join external_id x
        on x.organization_id = e.organization_id and x.entity_id = e.id and x.is_primary
      where e.external_id is distinct from x.external_id`,
    "the entity's copy of all its external ids": `
      select e.id from entity e where
        (select coalesce(jsonb_agg(jsonb_build_array(x.external_id, coalesce(x.type, ''), x.is_primary) order by x.external_id), '[]')
         from external_id x where x.organization_id = e.organization_id and x.entity_id = e.id)
        is distinct from
        (select coalesce(jsonb_agg(jsonb_build_array(c -> 0, c -> 1, c -> 2) order by (c ->> 0) collate "C"), '[]')
         from jsonb_array_elements(e.external_ids) c)`,
    "one primary as soon as there is any external id": `
      select entity_id from external_id group by organization_id, entity_id having count(*) filter (where is_primary) <> 1`,
    "versions 1 to n without a gap, the last that of the row; those before the horizon may be pruned": `
      select e.id from entity e join entity_event v on v.organization_id = e.organization_id and v.entity_id = e.id
      left join event_horizon h on h.organization_id = e.organization_id
      group by e.organization_id, e.id, e.version, h.organization_id
      having count(*) <> e.version - min(v.entity_version) + 1 or max(v.entity_version) <> e.version
        or min(v.entity_version) <> 1 and h.organization_id is null`,
    "an entity has events, unless the log was pruned": `
      select e.id from entity e where not exists (
          select from entity_event v where v.organization_id = e.organization_id and v.entity_id = e.id)
        and not exists (select from event_horizon h where h.organization_id = e.organization_id)`,
    "no copy of an external id in activity rows that is not its entity's primary": `
      select t.id from transaction t join entity e on e.organization_id = t.organization_id
        and e.merged_into is null and (e.id = t.origin_entity_id and t.origin_external_id is distinct from e.external_id and t.origin_external_id is not null
          or e.id = t.destination_entity_id and t.destination_external_id is distinct from e.external_id and t.destination_external_id is not null)`,
    "of the pending deliveries of an entity to an endpoint exactly one on its way": `
      select d.subject_id from webhook_delivery d join webhook_endpoint e on e.id = d.endpoint_id and e.deleted_at is null
      where d.state = 'PENDING' group by d.endpoint_id, d.subject_id having count(d.next_attempt_at) <> 1`,
    "no copy of an external id in user events that is not its entity's primary": `
      select u.id from user_event u join entity e on e.organization_id = u.organization_id and e.id = u.entity_id
      where e.merged_into is null and u.entity_external_id is not null and u.entity_external_id is distinct from e.external_id`,
    "no copy of an external id on a side that is no entity": `
      select id from transaction where origin_entity_id is null and origin_external_id is not null
        or destination_entity_id is null and destination_external_id is not null`,
    "the last event is of the time and the ids of the row": `
      select e.id from entity e join entity_event v
        on v.organization_id = e.organization_id and v.entity_id = e.id and v.entity_version = e.version
      where v.recorded_at <> e.updated_at or v.external_id is distinct from e.external_id
        or v.external_ids[1] is distinct from e.external_id`,
    "the etag is the id of the event that made the version": `
      select e.id from entity e join entity_event v
        on v.organization_id = e.organization_id and v.entity_id = e.id and v.entity_version = e.version
      where v.id <> e.etag`,
    "time goes forward with the versions": `
      select v.id from entity_event v join entity_event w
        on w.organization_id = v.organization_id and w.entity_id = v.entity_id and w.entity_version = v.entity_version + 1
      where w.recorded_at <= v.recorded_at`,
    "a request that is remembered has its answer": `select request_id from request_record where response is null`,
    "the words of an entity are those of its row, unless that is still to be filled in": `
      select id from (
        select e.organization_id, e.id, w.word from entity e cross join unnest(string_to_array(ltrim(e.name_words), ' ')) w(word)
        except all select organization_id, entity_id, word from entity_word) missing
      union all
      select entity_id from (
        select w.organization_id, w.entity_id, w.word from entity_word w
        join entity e on e.organization_id = w.organization_id and e.id = w.entity_id and e.name_words is not null
        except all
        select e.organization_id, e.id, w.word from entity e cross join unnest(string_to_array(ltrim(e.name_words), ' ')) w(word)) extra`,
    "a word is one of an entity": `
      select entity_id from entity_word w where not exists (
        select from entity e where e.organization_id = w.organization_id and e.id = w.entity_id)`,
    "an external id belongs to an entity": `
      select external_id from external_id x where not exists (
        select from entity e where e.organization_id = x.organization_id and e.id = x.entity_id)`,
  };
  for (const [what, query] of Object.entries(broken)) expect(await sql(query), what).toEqual([]);
  expect(await brokenTaxIds(sql), "what tax ids are found by is what their rules say").toEqual([]);
  expect(await brokenNames(sql), "what names are searched and compared by is what their entity says").toEqual([]);
  expect(
    await brokenChains(sql),
    "rules 122 to 125: every event is sealed, behind the one before of its entity",
  ).toEqual([]);
  expect(await externalIdProblems(sql), "rule 140: the periods of external ids are those that the events tell").toEqual(
    [],
  );
  expect(await brokenMerges(sql), "rules 78 to 111: merged entities").toEqual([]);
  expect(await brokenHistories(sql), "the events rebuild the row, each beginning where the one before ended").toEqual(
    [],
  );
}

/** Rule 18a: replays the events of every entity; compares each previous value, and the result, with the row. */
async function brokenHistories(sql: (text: string) => Promise<Record<string, unknown>[]>): Promise<string[]> {
  const rows = await sql("select * from entity");
  const externalIds = await sql("select entity_id, external_id, is_primary from external_id");
  const events = await sql("select * from entity_event order by organization_id, entity_id, entity_version");
  // The other entities' first events were pruned.
  const whole = new Set(events.flatMap((event) => (event.entity_version === "1" ? [event.entity_id] : [])));
  const played = new Map<string, Record<string, unknown>>();
  const broken: string[] = [];
  const check = (what: string, actual: unknown, expected: unknown) => {
    if (!isDeepStrictEqual(actual, expected)) broken.push(what);
  };
  for (const event of events.filter((one) => whole.has(one.entity_id))) {
    const at = `${event.entity_id} version ${event.entity_version}`;
    const state = played.get(event.entity_id as string) ?? {};
    played.set(event.entity_id as string, state);
    const [previous, next] = [event.previous_values, event.new_values] as Record<string, unknown>[];
    const fields = event.updated_fields as string[];
    check(`${at}: new values are those of updated_fields`, Object.keys(next ?? {}).sort(), fields.toSorted());
    for (const field of fields) {
      check(`${at}: ${field} before`, previous?.[field], state[field]);
      if (isDeepStrictEqual(previous?.[field], next?.[field])) broken.push(`${at}: ${field} did not change`);
      if (next?.[field] === null) delete state[field];
      else state[field] = next?.[field];
    }
    for (const field of Object.keys(previous ?? {})) {
      if (!fields.includes(field)) broken.push(`${at}: ${field} before, which is no updated field`);
    }
  }
  for (const row of rows.filter((one) => whole.has(one.id))) {
    const state = played.get(row.id as string) ?? {};
    const map = (value: unknown) => (Object.keys((value ?? {}) as object).length === 0 ? undefined : value);
    const own = externalIds.filter((id) => id.entity_id === row.id);
    const values = {
      type: row.type,
      countryCode: row.country_code,
      externalId: row.external_id,
      name: row.name,
      taxId: row.tax_id,
      taxIdCheck: row.tax_id_check,
      status: row.status,
      nationality: row.nationality,
      riskMatrixId: row.risk_matrix_id,
      riskScore: row.risk_score,
      mergedInto: row.merged_into,
      attributes: map(row.attributes),
      metadata: map(row.metadata),
      entityData: row.entity_data === null ? undefined : { [row.type as string]: row.entity_data },
    };
    for (const [field, value] of Object.entries(values)) check(`${row.id}: ${field}`, state[field], value ?? undefined);
    check(
      `${row.id}: externalIds`,
      ((state.externalIds ?? []) as Record<string, unknown>[])
        .map((id) => [id.externalId, id.designation === "primary"])
        .sort(),
      own.map((id) => [id.external_id, id.is_primary]).sort(),
    );
    check(`${row.id}: deletedAt`, state.deletedAt === undefined, row.deleted_at === null);
  }
  return broken;
}

export interface Refusal {
  code: number;
  reason: string;
  message: string;
  metadata: Record<string, string>;
  fields: string[];
}

/** The refusal that a call ends with; fails when it succeeds or ends without a reason of the contract. */
export async function refusal(call: Promise<unknown>): Promise<Refusal> {
  let error: unknown;
  try {
    await call;
  } catch (thrown) {
    error = thrown;
  }
  expect(error, "the call should have been refused").toBeInstanceOf(ConnectError);
  const connectError = error as ConnectError;
  const infos = connectError.findDetails(ErrorInfoSchema);
  expect(
    infos.map((info) => info.domain),
    connectError.message,
  ).toEqual(["entity.v1"]);
  return {
    code: connectError.code,
    reason: infos[0]?.reason ?? "",
    message: connectError.rawMessage,
    metadata: { ...infos[0]?.metadata },
    fields: connectError.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations.map((v) => v.field)),
  };
}

/** Collects the response headers of the calls of a client: `interceptors: [headers.interceptor]`. */
export function captureHeaders(): { last: Headers; interceptor: Interceptor } {
  const captured = {
    last: new Headers(),
    interceptor: ((next) => async (request) => {
      const response = await next(request);
      captured.last = response.header;
      return response;
    }) as Interceptor,
  };
  return captured;
}
