// Lends a running service: its own database from the migrated template, a real port, the generated client.
import { randomUUID } from "node:crypto";
import { type Interceptor, ConnectError } from "@connectrpc/connect";
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
import { DEFAULT_ORGANIZATION_ID, SCOPES } from "../src/db/api-keys.ts";
import { createOrm } from "../src/db/orm.ts";
import { createLogger, type Logger } from "../src/log.ts";
import { startServer } from "../src/server.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";

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
  /** Makes a further organization. */
  newOrganization(policy?: "MUTABLE_WITH_REASON" | "IMMUTABLE"): Promise<TestOrganization>;
  /** A query as the superuser or owner: sees every organization. */
  sql<T = Record<string, any>>(text: string, values?: unknown[]): Promise<T[]>;
  /** Where the service's database is, for processes and pools of a test's own. */
  database: { host: string; port: number; user: string; password: string; database: string };
}

/** Starts the service on a database of its own. */
export async function startService(options: { config?: Partial<Config>; log?: Logger } = {}): Promise<TestService> {
  const server = inject("databaseServer");
  const name = `test_${randomUUID().replaceAll("-", "")}`;
  const owner = new pg.Client({ ...server, database: "postgres" });
  await owner.connect();
  await owner.query(`create database ${name} template ${server.template}`);
  const admin = new pg.Pool({ ...server, database: name, max: 4 });
  // The pool ends before its connections have: dropping the database meets them.
  admin.on("error", () => {});
  const bootstrapApiKey = `test-${randomUUID()}`;
  const config: Config = {
    ...readConfig({}),
    port: 0,
    bootstrapApiKey,
    logLevel: "silent",
    drainTimeoutMs: 2_000,
    poolSize: 10,
    ...options.config,
  };
  const orm = createOrm(
    { host: server.host, port: server.port, user: "entity_service", password: RUNTIME_PASSWORD, database: name },
    config,
  );
  const running = await startServer(config, options.log ?? createLogger("silent"), {
    database: { orm, lost: new Promise(() => {}), [Symbol.asyncDispose]: async () => {} },
  });
  const baseUrl = `http://127.0.0.1:${running.port}`;
  const sql = async (text: string, values: unknown[] = []) => (await admin.query(text, values)).rows;

  const organization = (id: string, apiKey: string, apiKeyId: string, operator: EntityClient): TestOrganization => ({
    id,
    apiKey,
    apiKeyId,
    client: createEntityClient({ baseUrl, apiKey }),
    async clientWith(scopes, clientOptions) {
      const made = await operator.organizations.createApiKey({ organizationId: id, displayName: "test", scopes });
      return createEntityClient({ baseUrl, apiKey: made.secret, ...clientOptions });
    },
  });
  const operator = createEntityClient({ baseUrl, apiKey: bootstrapApiKey });
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
      await running[Symbol.asyncDispose]();
      await orm.close(true);
      await assertInvariants(sql);
      await admin.end();
      await owner.query(`drop database ${name} with (force)`);
      await owner.end();
    },
  };
}

/** What must be true of every database, whatever a test did to it. */
async function assertInvariants(sql: (text: string) => Promise<Record<string, unknown>[]>): Promise<void> {
  const broken = {
    "the entity's copy of its primary external id": `
      select e.id from entity e left join external_id x
        on x.organization_id = e.organization_id and x.entity_id = e.id and x.is_primary
      where e.external_id is distinct from x.external_id`,
    "one primary as soon as there is any external id": `
      select entity_id from external_id group by organization_id, entity_id having count(*) filter (where is_primary) <> 1`,
    "versions 1 to n without a gap, the last that of the row": `
      select e.id from entity e join entity_event v on v.organization_id = e.organization_id and v.entity_id = e.id
      group by e.organization_id, e.id, e.version
      having count(*) <> e.version or min(v.entity_version) <> 1 or max(v.entity_version) <> e.version`,
    "no copy of an external id in activity rows that is not its entity's primary": `
      select t.id from transaction t join entity e on e.organization_id = t.organization_id
        and (e.id = t.origin_entity_id and t.origin_external_id is distinct from e.external_id and t.origin_external_id is not null
          or e.id = t.destination_entity_id and t.destination_external_id is distinct from e.external_id and t.destination_external_id is not null)`,
  };
  for (const [what, query] of Object.entries(broken)) expect(await sql(query), what).toEqual([]);
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
  expect(infos.map((info) => info.domain), connectError.message).toEqual(["entity.v1"]);
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
