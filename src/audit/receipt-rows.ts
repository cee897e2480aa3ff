// Evaluations and versions of risk matrices as they are stored, for those who hold them against what tells of them.

import { type Bound, type Part, partOf, roughBytesOf, withinBytes } from "../db/bytes.ts";
import { columnsOf, hydrator, selected } from "../db/columns.ts";
import { EvaluationRow, RiskMatrixVersionRow } from "../db/schema.ts";
import type { Statements } from "../db/statements.ts";
import type { Instant } from "../domain/time.ts";
import { parseInstant } from "../domain/time.ts";
import type { MatrixVersion, StoredEvaluation } from "../risk/evaluations.ts";
import { readable } from "./chained-rows.ts";

const EVALUATION_COLUMNS = columnsOf(EvaluationRow);
const toEvaluation: (row: unknown) => StoredEvaluation = hydrator<typeof EvaluationRow>(EVALUATION_COLUMNS);
const EVALUATION_BYTES = roughBytesOf("v", ["results"]);
const VERSION_COLUMNS = columnsOf(RiskMatrixVersionRow);
const toVersion: (row: unknown) => MatrixVersion = hydrator<typeof RiskMatrixVersionRow>(VERSION_COLUMNS);
const VERSION = selected(VERSION_COLUMNS, "r");
const VERSION_BYTES = roughBytesOf("r", ["rules", "thresholds"]);

export interface ReceiptRow {
  id: string;
  /** Undefined: it holds what no evaluation does. */
  evaluation: StoredEvaluation | undefined;
  /** The hash that the version of its matrix has; null where that is not there. */
  versionSha256: Buffer | null;
}

/** Some evaluations, by their ids: as many as the bytes have room for, one at least; null for one that is not there. */
export async function readReceipts(
  db: Statements,
  organizationId: string,
  ids: readonly string[],
  bytes: number,
): Promise<Map<string, ReceiptRow | null>> {
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select ${selected(EVALUATION_COLUMNS, "v")}, ${EVALUATION_BYTES} as bytes, r.sha256 as version_sha256
       from evaluation v left join lateral (
         select r.sha256 from risk_matrix_version r
         where r.organization_id = $1 and r.risk_matrix_id = v.risk_matrix_id and r.version = v.matrix_version
         offset 0) r on true
       where v.organization_id = $1 and v.id = any($2::uuid[]) order by v.id`,
      bytes,
      "id",
    ),
    [organizationId, ids],
  );
  const { rows: receipts, isCut } = partOf(
    rows,
    (row: { id: string; version_sha256: Buffer | null }): ReceiptRow => ({
      id: row.id,
      evaluation: readable(() => toEvaluation(row)),
      versionSha256: row.version_sha256,
    }),
  );
  const found = new Map<string, ReceiptRow | null>(receipts.map((receipt) => [receipt.id, receipt]));
  if (!isCut) for (const id of ids) if (!found.has(id)) found.set(id, null);
  return found;
}

/** A place among the evaluations of an organization, or of one entity. */
export interface ReceiptPlace {
  evaluatedAt: string;
  id: string;
}

/** An evaluation, and whether its event tells of it, as far as that is known: an erased event may. */
export interface ToldRow {
  place: ReceiptPlace;
  entityId: string;
  eventId: string;
  /** Undefined: no time of the calendar. */
  evaluatedAt: Instant | undefined;
  isTold: boolean;
}

/** Evaluations behind a place: by their ids, or those of one entity in the order of their times. */
export async function readTold(
  db: Statements,
  organizationId: string,
  { entityId, after }: { entityId: string | undefined; after: ReceiptPlace },
  rows: number,
): Promise<ToldRow[]> {
  const [where, order] =
    entityId === undefined
      ? ["v.id > $2::uuid", "v.id"]
      : ["v.entity_id = $3::uuid and (v.evaluated_at, v.id) > ($4::timestamptz, $2::uuid)", "v.evaluated_at, v.id"];
  // Counted, which asks for all: whoever asks for any is given a plan that may look for it in the whole log.
  const told = (at: string) =>
    `(select count(*) from entity_event e where e.organization_id = $1 and ${at} and e.type = 'EVALUATED'
       and (e.metadata is null or e.metadata ->> 'evaluationId' = v.id::text)) > 0`;
  // By its event, and by its place in the chain: of these one may have been changed, which is another finding. No version is
  // so high that there is none behind it. A plan for any limit might read all of the table for a page.
  const found = await db.execute<
    { id: string; entity_id: string; event_id: string; evaluated_at: string; is_told: boolean }[]
  >(
    `select v.id, v.entity_id, v.event_id, v.evaluated_at, (${told("e.id = v.event_id")}
       or ${told("e.entity_id = v.entity_id and e.entity_version = least(v.entity_version, 1000000000000000) + 1")}) as is_told
     from (
       select v.id, v.entity_id, v.entity_version, v.event_id, v.evaluated_at from evaluation v
       where v.organization_id = $1 and ${where} order by ${order} limit ${rows}) v
     order by ${order}`,
    [organizationId, after.id, ...(entityId === undefined ? [] : [entityId, after.evaluatedAt])],
  );
  return found.map((row) => ({
    place: { evaluatedAt: row.evaluated_at, id: row.id },
    entityId: row.entity_id,
    eventId: row.event_id,
    evaluatedAt: readable(() => parseInstant(row.evaluated_at)),
    isTold: row.is_told,
  }));
}

/** Which version of which matrix. */
export interface VersionKey {
  riskMatrixId: string;
  version: number;
}

export interface VersionRow extends VersionKey {
  /** Undefined: it holds what no version does. */
  matrix: MatrixVersion | undefined;
  /** The last version of the matrix. */
  last: number;
}

const toVersionRow = (row: { matrix_id: string; version: number | null; last: number }): VersionRow => ({
  riskMatrixId: row.matrix_id,
  version: row.version ?? 0,
  matrix: readable(() => toVersion(row)),
  last: row.last,
});

/** Versions of all matrices behind one, in the order of matrices and versions; a matrix without any has one of version 0. */
export async function readVersions(
  db: Statements,
  organizationId: string,
  after: VersionKey,
  bound: Bound,
): Promise<Part<VersionRow>> {
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select m.id as matrix_id, m.version as last, ${VERSION}, ${VERSION_BYTES} as bytes
       from risk_matrix m left join lateral (
         select r.* from risk_matrix_version r
         where r.organization_id = $1 and r.risk_matrix_id = m.id and (m.id > $2::uuid or r.version > $3::int)
         order by r.version limit $4) r on true
       where m.organization_id = $1 and m.id >= $2::uuid and (m.id > $2::uuid or r.version is not null)
       order by m.id, r.version limit $4`,
      bound.bytes,
      "matrix_id, version",
    ),
    [organizationId, after.riskMatrixId, after.version, bound.rows],
  );
  return partOf(rows, toVersionRow);
}

/** Those of some versions that are there: as many as the bytes have room for, one at least. */
export async function readVersionsBy(
  db: Statements,
  organizationId: string,
  keys: readonly VersionKey[],
  bytes: number,
): Promise<Part<VersionRow>> {
  const rows = await db.execute<unknown[]>(
    withinBytes(
      `select p.id as matrix_id, p.version as last, ${VERSION}, ${VERSION_BYTES} as bytes
       from unnest($2::uuid[], $3::int[]) as p(id, version) cross join lateral (
         select r.* from risk_matrix_version r
         where r.organization_id = $1 and r.risk_matrix_id = p.id and r.version = p.version offset 0) r
       order by p.id, p.version`,
      bytes,
      "matrix_id, version",
    ),
    [organizationId, keys.map(({ riskMatrixId }) => riskMatrixId), keys.map(({ version }) => version)],
  );
  return partOf(rows, toVersionRow);
}
