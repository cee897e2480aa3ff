// Receipts of analyses, as they are stored, and what is read of an entity and its matrix before one is made.
import { createHash } from "node:crypto";
import { type Bound, bytesOf, type Part, partOf, withinBytes } from "../db/bytes.ts";
import { columnsOf, hydrator, insertOf, type RowOf, selected } from "../db/columns.ts";
import type { Orm } from "../db/orm.ts";
import { EvaluationRow, RiskMatrixVersionRow } from "../db/schema.ts";
import type { Pipeline, Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import { overloaded } from "../domain/errors.ts";
import { canonicalJson } from "../domain/json.ts";
import { type Evaluation, evaluationDocument, RISK_ENGINE, type RiskRule } from "../domain/risk.ts";
import { type Instant, instantToText } from "../domain/time.ts";
import type { Slots } from "../slots.ts";
import { createKept, type Kept } from "./kept.ts";

export type StoredEvaluation = RowOf<typeof EvaluationRow>;
export type MatrixVersion = RowOf<typeof RiskMatrixVersionRow>;

const COLUMNS = columnsOf(EvaluationRow);
const EVALUATION_COLUMNS = selected(COLUMNS, "v");
const toEvaluation: (row: unknown) => StoredEvaluation = hydrator<typeof EvaluationRow>(COLUMNS);
const insertRows = insertOf<StoredEvaluation>("evaluation", COLUMNS);
const VERSION_COLUMNS = columnsOf(RiskMatrixVersionRow);
const toVersion: (row: unknown) => MatrixVersion = hydrator<typeof RiskMatrixVersionRow>(VERSION_COLUMNS);

export const insertEvaluation = (db: Pipeline, organizationId: string, evaluation: StoredEvaluation): void =>
  db.send(...insertRows(organizationId, [evaluation]));

/** What the event of an evaluation has in its metadata. */
export const evaluationHash = (evaluation: Evaluation): string =>
  createHash("sha256")
    .update(canonicalJson(evaluationDocument(evaluation)))
    .digest("hex");

/** The evaluations of an entity and of those that are merged into it, newest first. */
export async function listEvaluations(
  db: Statements,
  organizationId: string,
  entityId: string,
  { before, bound }: { before: { evaluatedAt: Instant; id: string } | undefined; bound: Bound },
): Promise<Part<StoredEvaluation>> {
  const older = before === undefined ? "" : "and (v.evaluated_at, v.id) < ($4::timestamptz, $5::uuid)";
  const order = "order by v.evaluated_at desc, v.id desc limit $3";
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select ${EVALUATION_COLUMNS}, ${bytesOf("v", ["results"])} as bytes
       from (select $2::uuid as id union all
         select g.id from entity g where g.organization_id = $1 and g.survivor_id = $2::uuid) m
       cross join lateral (
         select v.* from evaluation v where v.entity_id = m.id and v.organization_id = $1 ${older} ${order}) v
       ${order}`,
      bound.bytes,
      "evaluated_at desc, id desc",
    ),
    [
      organizationId,
      entityId,
      bound.rows,
      ...(before === undefined ? [] : [instantToText(before.evaluatedAt), before.id]),
    ],
  );
  return partOf(rows, toEvaluation);
}

// --- Before an evaluation -----------------------------------------------------------------------

/** What an analysis needs to know beside the entity. */
export interface Facts {
  /** The version of the entity that the rest is of. */
  version: number;
  /** The hash of its last event. */
  auditHead: Buffer | null;
  /** The UTC date, by the database's clock. */
  today: string;
  /** The last version of the matrix; undefined where there is none, or it was deleted. */
  matrix: MatrixVersion | undefined;
  /** What was said already of this version of the entity, by this version of the matrix (rule 148). */
  found: StoredEvaluation | undefined;
}

export interface FactsReader {
  /** Undefined where the entity is not there. */
  read(organizationId: string, entityId: string, riskMatrixId: string): Promise<Facts | undefined>;
}

/** Entities of one statement. */
const MAX_JOINED = 128;
/** Those of one organization that wait. */
const MAX_WAITING = 1_000;
/** Characters of the rules of matrices that are kept, with what each takes beside: a version never changes. */
export const KEPT_CHARACTERS = 4_000_000;
const OVERHEAD = { version: 1_000, rule: 200 };

interface Waiting {
  entityId: string;
  riskMatrixId: string;
  resolve: (facts: Facts | undefined) => void;
  reject: (error: unknown) => void;
}

/** Reads that meet are one statement. */
export function createFactsReader(orm: Orm, slots: Slots): FactsReader {
  const queues = new Map<string, Waiting[]>();
  const versions = createKept<MatrixVersion>(KEPT_CHARACTERS);

  async function run(organizationId: string, queue: Waiting[]): Promise<void> {
    while (queue.length > 0) {
      await slots(organizationId, async () => {
        const joined = queue.splice(0, MAX_JOINED);
        try {
          const facts = await readStatements(orm, organizationId, (db) =>
            readFacts(db, organizationId, joined, versions),
          );
          joined.forEach((one, i) => one.resolve(facts[i]));
        } catch (error) {
          for (const one of joined) one.reject(error);
        }
      });
    }
    queues.delete(organizationId);
  }

  return {
    read(organizationId, entityId, riskMatrixId) {
      const queue = queues.get(organizationId) ?? [];
      if (queue.length >= MAX_WAITING) return Promise.reject(overloaded("Too many analyses wait"));
      return new Promise((resolve, reject) => {
        queue.push({ entityId, riskMatrixId, resolve, reject });
        if (queues.has(organizationId)) return;
        queues.set(organizationId, queue);
        // After the input that has arrived with this call.
        setImmediate(() => {
          run(organizationId, queue).catch((error: unknown) => {
            queues.delete(organizationId);
            for (const one of queue.splice(0)) one.reject(error);
          });
        });
      });
    },
  };
}

async function readFacts(
  db: Statements,
  organizationId: string,
  asked: readonly Pick<Waiting, "entityId" | "riskMatrixId">[],
  versions: Kept<MatrixVersion>,
): Promise<(Facts | undefined)[]> {
  const rows = await db.execute<Record<string, unknown>[]>(
    `select u.at, e.version as current_version, e.audit_head, m.version as last_version, ${EVALUATION_COLUMNS},
       (clock_timestamp() at time zone 'UTC')::date::text as date
     from unnest($2::uuid[], $3::uuid[]) with ordinality as u(id, matrix_id, at)
     cross join lateral (
       select e.version, e.audit_head from entity e where e.organization_id = $1 and e.id = u.id offset 0) e
     left join lateral (
       select m.version from risk_matrix m
       where m.organization_id = $1 and m.id = u.matrix_id and m.deleted_at is null offset 0) m on true
     left join lateral (
       select v.* from evaluation v
       where v.entity_id = u.id and v.organization_id = $1
       order by v.evaluated_at desc, v.id desc limit 1) v on true`,
    [organizationId, asked.map(({ entityId }) => entityId), asked.map(({ riskMatrixId }) => riskMatrixId)],
  );
  const byPlace = new Map(rows.map((row) => [Number(row.at), row]));
  const facts: (Facts | undefined)[] = [];
  for (const [i, { riskMatrixId }] of asked.entries()) {
    const row = byPlace.get(i + 1);
    const matrix =
      typeof row?.last_version === "number"
        ? await versionOf(db, organizationId, riskMatrixId, row.last_version, versions)
        : undefined;
    facts.push(row === undefined ? undefined : factsOf(row, matrix));
  }
  return facts;
}

function factsOf(row: Record<string, unknown>, matrix: MatrixVersion | undefined): Facts {
  const today = row.date as string;
  const last = row.id === null ? undefined : toEvaluation(row);
  const version = Number(row.current_version);
  // It made the version behind the one that it is of.
  const isSame =
    last !== undefined &&
    last.entityVersion >= version - 1 &&
    last.riskMatrixId === matrix?.riskMatrixId &&
    last.matrixVersion === matrix.version &&
    last.engine === RISK_ENGINE &&
    (last.today === today || !matrix.mentionsToday);
  return {
    version,
    auditHead: row.audit_head as Buffer | null,
    today,
    matrix,
    found: isSame ? last : undefined,
  };
}

const versionOf = (
  db: Statements,
  organizationId: string,
  riskMatrixId: string,
  version: number,
  versions: Kept<MatrixVersion>,
) =>
  versions.get(`${organizationId} ${riskMatrixId} ${version}`, () =>
    readVersion(db, organizationId, riskMatrixId, version),
  );

async function readVersion(db: Statements, organizationId: string, riskMatrixId: string, version: number) {
  const [row] = await db.execute<unknown[]>(
    `select ${selected(VERSION_COLUMNS, "r")} from risk_matrix_version r
     where r.organization_id = $1 and r.risk_matrix_id = $2 and r.version = $3`,
    [organizationId, riskMatrixId, version],
  );
  if (row === undefined) throw new Error("a version of a matrix is not there");
  const value = toVersion(row);
  return { value, charge: chargeOf(value.rules) };
}

/** What a version takes, in characters. */
export const chargeOf = (rules: readonly Pick<RiskRule, "expression" | "displayName">[]): number =>
  rules.reduce(
    (sum, { expression, displayName }) => sum + OVERHEAD.rule + expression.length + displayName.length,
    OVERHEAD.version,
  );
