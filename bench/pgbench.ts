// pgbench with the statements of our UpdateEntity of one: what PostgreSQL alone would do, with a client of C,
// no RPC and no JSON. The texts are those that the unit of work sends, recorded while it updates an entity;
// only their parameters become variables of pgbench.
import { execFile } from "node:child_process";
import { accessSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { readConfig } from "../src/config.ts";
import type { NamedStatementClient } from "../src/db/named-statements.ts";
import { createOrm, poolOf } from "../src/db/orm.ts";
import { update } from "../src/domain/entity.ts";
import { type Author, toOneEntity } from "../src/entities/command.ts";
import { writeGroupUnlessBusy } from "../src/entities/write-group.ts";
import { fromProto } from "../src/rpc/entity-message.ts";
import { Violations } from "../src/rpc/violations.ts";
import { cpuOfDatabase, type DatabaseAddress } from "./processes.ts";
import { externalIdOf, FIRST_ENTITY, updateOf, visitOf } from "./requests.ts";

export interface Statement {
  text: string;
  values: unknown[];
}

export interface PgbenchOptions {
  address: DatabaseAddress;
  organizationId: string;
  author: Author;
  script: string;
  clients: number;
  /** Entities `from` to `to`, at random. */
  from: number;
  to: number;
  /** Or a single update, to `value`. */
  limit: { seconds: number } | { value: number };
}

export interface PgbenchResult {
  transactions: number;
  transactionsPerSecond: number;
  p50: number;
  p99: number;
  databaseCpu: number;
}

const run = promisify(execFile);

/** Where pgbench is: on the path, or where Debian has it. */
export function findPgbench(): string | undefined {
  const folders = [
    ...(process.env.PATH ?? "").split(delimiter),
    ...[18, 17, 16, 15].map((v) => `/usr/lib/postgresql/${v}/bin`),
  ];
  return folders
    .map((folder) => join(folder, "pgbench"))
    .find((file) => {
      try {
        accessSync(file);
        return true;
      } catch {
        return false;
      }
    });
}

/** Updates entity `index` as UpdateEntity does and answers the statements that went to the database. */
export async function recordUpdate(
  address: DatabaseAddress,
  organizationId: string,
  author: Author,
  index: number,
  value: number,
): Promise<Statement[]> {
  const orm = createOrm(
    { host: address.host, port: address.port, user: address.user, database: address.database },
    readConfig({}),
  );
  try {
    const pool = await poolOf(orm);
    const statements: Statement[] = [];
    pool.on("acquire", (acquired) => {
      const client = acquired as unknown as NamedStatementClient;
      const post = client.post.bind(client);
      client.post = (text, values, ...told) => {
        statements.push({ text, values: [...values] });
        post(text, values, ...told);
      };
    });
    const violations = new Violations();
    const request = updateOf(index, value);
    if (request.entity === undefined) throw new Error("an update has no entity");
    const { patch } = fromProto(request.entity, request.updateMask, "2026-01-01", violations);
    violations.throwIfAny();
    const [result] = await writeGroupUnlessBusy(orm, organizationId, [
      toOneEntity({
        author,
        lookup: { by: "external_id", key: externalIdOf(index) },
        decide: (entity) => (entity === null ? null : update(entity, patch, request.reason)),
      }),
    ]);
    if (result === undefined || typeof result === "string" || result.kind !== "done")
      throw new Error("the update that was to be recorded was refused");
    if (!statements.some(({ text }) => text === "commit")) throw new Error("the update was not recorded");
    return statements;
  } finally {
    await orm.close(true);
  }
}

/** The statements as a script of pgbench, for the variables that runPgbench sets. */
export function scriptOf(statements: readonly Statement[], index: number): string {
  const lines = [`\\set key random(:from, :to)`, `\\set value random(:low, :high)`];
  for (const { text, values } of statements) {
    if (text.includes("entity_word")) continue;
    const names = columnsOf(text);
    // Two clients may want the same entity: here the second waits, as in the service a busy command does.
    const waiting = text.trim().replace(" skip locked", "");
    const sql = waiting.replace(/\$(\d+)/g, (_, digits: string) => {
      const position = Number(digits) - 1;
      const value = values[position];
      const column = names[position - 1];
      if (position === 0) return ":organization";
      if (column === undefined) return lookupOf(value, index);
      const expression = (text.includes("entity_event") ? EVENT : ENTITY)[column];
      if (expression === undefined) throw new Error(`bench/pgbench.ts does not know the column ${column}`);
      return `(${expression})`;
    });
    // What is read is kept in variables, for the statements after it.
    lines.push(/\bfor no key update\b/.test(text) ? `${sql} \\gset before_` : `${sql};`);
  }
  return `${lines.join("\n")}\n`;
}

/** The columns that $2, $3, ... are written to. */
function columnsOf(text: string): string[] {
  const inserted = /^insert into \w+ \(organization_id, ([^)]*)\)/.exec(text)?.[1];
  if (inserted !== undefined) return inserted.split(",").map((name) => name.trim());
  const columns: string[] = [];
  for (const [, name, position] of text.matchAll(/\b(\w+) = (?:case when t\.\w+ is not null then )?\$(\d+)::/g))
    columns[Number(position) - 2] = name as string;
  return columns;
}

const EXTERNAL_ID = "'bench-' || :key";

function lookupOf(value: unknown, index: number): string {
  if (value === externalIdOf(index)) return `(${EXTERNAL_ID})`;
  throw new Error("bench/pgbench.ts does not know a parameter of the statements");
}

/** pgbench keeps null as an empty text. */
const orNull = (name: string, type = "text") => `nullif(:before_${name}, '')::${type}`;
const ATTRIBUTES = ":before_attributes::jsonb || jsonb_build_object('visit', :value::text)";
const NAME = "'Bench ' || :value";
/** Ids of version 7, as the service makes them: PostgreSQL 18 has them too. */
const NEW_ID = "uuidv7()";
/** As long as a hash, and the same in both statements: what is hashed the service computes, and not the database. */
const HASH = "sha256(convert_to(:before_id || :before_now || :value::text, 'UTF8'))";

const ENTITY: Record<string, string> = {
  id: ":before_id",
  version: ":before_version::bigint + 1",
  external_id: EXTERNAL_ID,
  name: NAME,
  tax_id: orNull("tax_id"),
  tax_id_key:
    "case when :before_tax_id::text <> '' then regexp_replace(upper(:before_tax_id::text), '[^A-Z0-9]', '', 'g') end",
  tax_id_check: orNull("tax_id_check"),
  status: ":before_status",
  nationality: orNull("nationality"),
  risk_matrix_id: orNull("risk_matrix_id", "uuid"),
  risk_score: orNull("risk_score", "numeric"),
  entity_data: orNull("entity_data", "jsonb"),
  attributes: ATTRIBUTES,
  metadata: ":before_metadata",
  etag: NEW_ID,
  updated_at: ":before_now",
  deleted_at: orNull("deleted_at", "timestamptz"),
  external_ids: ":before_external_ids",
  audit_head: HASH,
  // The words of names are left out, as by the peers.
  name_words: "name_words",
  name_date_key: "name_date_key",
  name_number_key: "name_number_key",
};

const EVENT: Record<string, string> = {
  id: NEW_ID,
  entity_id: ":before_id",
  entity_version: ":before_version::bigint + 1",
  entity_type: ":before_type",
  type: "'ATTRIBUTE_CHANGED'",
  external_id: EXTERNAL_ID,
  external_ids: `'{"' || ${EXTERNAL_ID} || '"}'`,
  updated_fields: `'{"name","attributes"}'`,
  previous_values: "jsonb_build_object('name', :before_name::text, 'attributes', :before_attributes::jsonb)",
  new_values: `jsonb_build_object('name', ${NAME}, 'attributes', ${ATTRIBUTES})`,
  actor: ":actor",
  principal: ":principal",
  source: ":source",
  reason: "'measured'",
  request_id: "null",
  metadata: "'{}'",
  recorded_at: ":before_now",
  occurred_at: "null",
  salt: "uuid_send(gen_random_uuid())",
  personal_hash: HASH,
  previous_hash: orNull("audit_head", "bytea"),
  hash: HASH,
};

/** Runs the script. Throws when a transaction failed. */
export async function runPgbench(options: PgbenchOptions): Promise<PgbenchResult> {
  const { address, organizationId, author, limit } = options;
  const pgbench = findPgbench();
  if (pgbench === undefined) throw new Error("there is no pgbench");
  const folder = await mkdtemp(join(tmpdir(), "entity-service-pgbench-"));
  try {
    await writeFile(join(folder, "update.sql"), options.script);
    const low = "value" in limit ? limit.value : visitOf(Date.now() % 1_000_000_000);
    const variables: Record<string, string | number> = {
      organization: organizationId,
      ...author,
      from: FIRST_ENTITY + options.from,
      to: FIRST_ENTITY + options.to,
      low,
      high: "value" in limit ? low : 9_999_999_999,
    };
    const before = cpuOfDatabase(address.pid);
    const { stdout } = await run(
      pgbench,
      [
        ...[
          "-h",
          address.host,
          "-p",
          String(address.port),
          "-U",
          address.user,
          "-n",
          "-M",
          "prepared",
          "-f",
          "update.sql",
        ],
        ...["-c", String(options.clients), "-j", String(Math.min(2, options.clients)), "-l"],
        ...("seconds" in limit ? ["-T", String(limit.seconds)] : ["-t", "1"]),
        ...Object.entries(variables).flatMap(([name, value]) => ["-D", `${name}=${value}`]),
        address.database,
      ],
      { cwd: folder, env: { PATH: process.env.PATH, LC_ALL: "C" } },
    );
    const cpu = cpuOfDatabase(address.pid) - before;
    const number = (pattern: RegExp) => Number(pattern.exec(stdout)?.[1]);
    const transactions = number(/transactions actually processed: (\d+)/);
    if (!(transactions > 0) || number(/failed transactions: (\d+)/) !== 0) throw new Error(`pgbench failed: ${stdout}`);
    const latencies: number[] = [];
    for (const name of await readdir(folder)) {
      if (!name.startsWith("pgbench_log.")) continue;
      for (const line of (await readFile(join(folder, name), "utf8")).split("\n")) {
        // client, transaction, microseconds, ...
        if (line !== "") latencies.push(Number(line.split(" ")[2]) / 1000);
      }
    }
    latencies.sort((a, b) => a - b);
    return {
      transactions,
      transactionsPerSecond: number(/tps = ([\d.]+) \(without initial/),
      p50: latencies[Math.floor(latencies.length * 0.5)] ?? Number.NaN,
      p99: latencies[Math.floor(latencies.length * 0.99)] ?? Number.NaN,
      databaseCpu: cpu / transactions,
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
