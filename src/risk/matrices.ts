// Matrices as their organization administers them, in MikroORM's unit of work, and their versions.
import { createHash } from "node:crypto";
import { LockMode } from "@mikro-orm/core";
import type { EntityManager } from "@mikro-orm/postgresql";
import type { Bound, Part } from "../db/bytes.ts";
import { lockOrganization } from "../db/organizations.ts";
import { RiskMatrixRow, RiskMatrixVersionRow } from "../db/schema.ts";
import { newId } from "../db/uuid.ts";
import { DomainError, invalidField, notFound } from "../domain/errors.ts";
import { canonicalJson } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import { matrixDocument, type RiskRule, type RiskThresholds } from "../domain/risk.ts";

/** What a caller may say of a matrix. */
export interface MatrixValues {
  displayName: string;
  description: string;
  rules: readonly RiskRule[];
  thresholds: RiskThresholds;
}

/** A matrix, and one of its versions. */
export interface Matrix {
  row: RiskMatrixRow;
  version: RiskMatrixVersionRow;
}

/** What evaluations have of a version. */
export const matrixHash = (version: Parameters<typeof matrixDocument>[0]): Buffer =>
  createHash("sha256")
    .update(canonicalJson(matrixDocument(version)))
    .digest();

/** Whether the rules, which were checked, depend on the date. */
export interface Checked {
  mentionsToday: boolean;
}

/** Adds a matrix with its version 1. Throws VALIDATION_ERROR where the organization has as many as it may. */
export async function addMatrix(
  em: EntityManager,
  organizationId: string,
  { displayName, description, rules, thresholds }: MatrixValues,
  checked: Checked,
): Promise<Matrix> {
  // One after the other, for the count.
  await lockOrganization(em, organizationId);
  const there = await em.count(RiskMatrixRow, { organizationId, deletedAt: null });
  if (there >= LIMITS.riskMatrices) {
    throw invalidField("matrix", `is one too many: at most ${LIMITS.riskMatrices} of an organization`);
  }
  const row = em.create(RiskMatrixRow, {
    ...{ organizationId, id: newId(), displayName, description },
    ...{ version: 1, deletedAt: null },
  });
  await em.persist(row).flush();
  return { row, version: await addVersion(em, row, { rules, thresholds }, checked) };
}

async function addVersion(
  em: EntityManager,
  { organizationId, id, version }: RiskMatrixRow,
  { rules, thresholds }: Pick<MatrixValues, "rules" | "thresholds">,
  { mentionsToday }: Checked,
): Promise<RiskMatrixVersionRow> {
  const sha256 = matrixHash({ id, version, rules, thresholds });
  const made = em.create(RiskMatrixVersionRow, {
    ...{ organizationId, riskMatrixId: id, version, rules, thresholds, mentionsToday, sha256 },
  });
  await em.persist(made).flush();
  return made;
}

/**
 * A matrix in a version, by default its last. `lock` is for a change: it is kept from other writers, one that was deleted
 * is NOT_FOUND, and one with another etag is ETAG_MISMATCH.
 */
export async function getMatrix(
  em: EntityManager,
  organizationId: string,
  id: string,
  { version, lock }: { version?: number; lock?: { etag: string } } = {},
): Promise<Matrix> {
  const row = await em.findOne(
    RiskMatrixRow,
    { organizationId, id, ...(lock === undefined ? {} : { deletedAt: null }) },
    lock === undefined ? {} : { lockMode: LockMode.PESSIMISTIC_WRITE },
  );
  if (row === null) throw notFound("risk_matrix_id", "Risk matrix");
  if (lock !== undefined && lock.etag !== "" && lock.etag !== row.etag) {
    throw new DomainError("ETAG_MISMATCH", "The matrix has changed since it was read: read it again, then retry", {
      etag: row.etag,
    });
  }
  const found = await em.findOne(RiskMatrixVersionRow, {
    ...{ organizationId, riskMatrixId: id, version: version ?? row.version },
  });
  if (found === null) throw notFound("version", "Version of the risk matrix");
  return { row, version: found };
}

/** Matrices by id, behind `after`, each in its last version; the one that reaches the bytes is the last. */
export async function listMatrices(
  em: EntityManager,
  organizationId: string,
  { after, bound }: { after: string | undefined; bound: Bound },
): Promise<Part<Matrix>> {
  const found = await em.find(
    RiskMatrixRow,
    { organizationId, deletedAt: null, ...(after === undefined ? {} : { id: { $gt: after } }) },
    { orderBy: { id: "asc" }, limit: bound.rows },
  );
  const rows: Matrix[] = [];
  let bytes = 0;
  for (const { id } of found) {
    if (bytes >= bound.bytes) break;
    const matrix = await getMatrix(em, organizationId, id);
    rows.push(matrix);
    bytes += Buffer.byteLength(JSON.stringify(matrix.version.rules));
  }
  return { rows, isCut: rows.length < found.length, bytes };
}

/** Sets the values; other rules or thresholds make the next version (rule 141). Its etag tells whether anything changed. */
export async function changeMatrix(
  em: EntityManager,
  { row, version }: Matrix,
  values: Partial<MatrixValues>,
  checked: Checked,
): Promise<Matrix> {
  const { rules = version.rules, thresholds = version.thresholds, ...shown } = values;
  const before = { id: row.id, version: row.version, rules: version.rules, thresholds: version.thresholds };
  const isSame =
    canonicalJson(matrixDocument(before)) === canonicalJson(matrixDocument({ ...before, rules, thresholds }));
  Object.assign(row, shown);
  if (!isSame) row.version += 1;
  await em.flush();
  return isSame ? { row, version } : { row, version: await addVersion(em, row, { rules, thresholds }, checked) };
}
