// What the tests of checkpoints share: an audit to its end, and checkpoints that are made when a test says so.
import {
  type AuditCheckpoint,
  type AuditCounts,
  type AuditFinding,
  type AuditFindingKind,
  AuditFindingKindSchema,
  type EntityClient,
} from "../clients/typescript/index.ts";
import { makeCheckpoint } from "../src/audit/make.ts";
import { createShortTurns } from "../src/audit/short-turns.ts";
import type { SigningKey } from "../src/audit/signing-key.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import type { TestOrganization, TestService } from "./harness.ts";

/** What an audit came to. */
export interface Found {
  findings: AuditFinding[];
  counts: AuditCounts;
  done: number;
}

export async function auditOf(
  { client }: { client: EntityClient },
  request: Parameters<EntityClient["entities"]["verifyAuditTrail"]>[0] = {},
): Promise<Found> {
  const findings: AuditFinding[] = [];
  let last: { counts?: AuditCounts | undefined; done: number } | undefined;
  for await (const message of client.entities.verifyAuditTrail(request)) {
    findings.push(...message.findings);
    last = message;
  }
  if (last?.counts === undefined) throw new Error("an audit without counts");
  return { findings, counts: last.counts, done: last.done };
}

export const nameOf = (kind: AuditFindingKind): string => AuditFindingKindSchema.value[kind]?.localName ?? "";
export const kindsOf = ({ findings }: Found): string[] => findings.map(({ kind }) => nameOf(kind));

/** All checkpoints, with their leaves. */
export async function checkpointsOf({ client }: TestOrganization): Promise<AuditCheckpoint[]> {
  const all: AuditCheckpoint[] = [];
  for (let pageToken = ""; ; ) {
    const page = await client.entities.listAuditCheckpoints({ includeLeaves: true, pageSize: 1000, pageToken });
    all.push(...page.checkpoints);
    pageToken = page.nextPageToken;
    if (pageToken === "") return all;
  }
}

/** Connections to the service's database, as the service has them. */
export function ormOf({ database: { host, port, database } }: TestService): Orm {
  return createOrm(
    { host, port, database, user: "entity_service", password: RUNTIME_PASSWORD },
    { poolSize: 3, statementTimeoutMs: 20_000, lockTimeoutMs: 2_000 },
  );
}

const turns = createShortTurns();

/** Makes the next checkpoint, if there is something to list. */
export const makeNext = (orm: Orm, organizationId: string, key: SigningKey | undefined) =>
  makeCheckpoint(orm, organizationId, { key, turns });

/** Makes checkpoints until there is nothing to list. */
export async function makeAll(orm: Orm, organizationId: string, key: SigningKey | undefined): Promise<void> {
  while ((await makeNext(orm, organizationId, key)).isMade);
}

/** As somebody whom neither triggers nor foreign keys stop. */
export const uncheckedBy = ({ sql }: TestService, text: string) =>
  sql(`begin; set local session_replication_role = replica; ${text}; commit`);

const TABLES = ["entity_event", "entity", "entity_word", "external_id", "audit_checkpoint"];

/** Saves what is verified, and more, as saved_TABLE, to be taken back after each change. */
export async function saveTables(service: TestService, more: readonly string[] = []) {
  const { sql } = service;
  const tables = [...TABLES, ...more];
  for (const table of tables) await sql(`create table saved_${table} as select * from ${table}`);
  const [last] = await sql<{ xid: string }>("select pg_current_xact_id()::text as xid");
  /** Only rows that were written since: to write 10,000 anew after each of a hundred changes keeps a disk busy for minutes. */
  const restoreOf = async (table: string) => {
    const columns = await sql<{ name: string; isKey: boolean }>(
      `select quote_ident(attname) as name, coalesce(attnum = any(indkey), false) as "isKey"
       from pg_attribute left join pg_index on indrelid = attrelid and indisprimary
       where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum`,
      [table],
    );
    const names = columns.map(({ name }) => name).join(", ");
    const keys = columns.filter(({ isKey }) => isKey).map(({ name }) => `t.${name} = s.${name}`);
    if (keys.length === 0) throw new Error(`${table} has no primary key`);
    return `delete from ${table} where xmin::text::bigint > ${last?.xid};
      insert into ${table} (${names}) select ${names} from saved_${table} s
      where not exists (select from ${table} t where ${keys.join(" and ")})`;
  };
  return {
    async takeBack(): Promise<void> {
      await uncheckedBy(service, (await Promise.all(tables.map(restoreOf))).join("; "));
    },
    drop: () => sql(`drop table ${tables.map((table) => `saved_${table}`).join(", ")}`),
  };
}
