// Evaluations against the events that tell of them, and versions of risk matrices against their hashes and the evaluations
// that were made by them; a page at a time, as the chains.

import type { Part } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import type { EventType } from "../domain/entity-state.ts";
import type { Finding } from "../domain/finding.ts";
import { isObject, type JsonValue, sameJson } from "../domain/json.ts";
import { evaluationDocument, matrixDocument } from "../domain/risk.ts";
import { parseUuid } from "../domain/text.ts";
import type { Instant } from "../domain/time.ts";
import { NO_ID } from "../log/source.ts";
import { evaluationHash, type MatrixVersion, type StoredEvaluation } from "../risk/evaluations.ts";
import { matrixHash } from "../risk/matrices.ts";
import { readable } from "./chained-rows.ts";
import {
  type ReceiptPlace,
  type ReceiptRow,
  readReceipts,
  readTold,
  readVersions,
  readVersionsBy,
  type ToldRow,
  type VersionKey,
  type VersionRow,
} from "./receipt-rows.ts";
import type { ShortTurns } from "./short-turns.ts";

/** A page: what is in memory of evaluations, or of versions, at once. */
const PAGE = { rows: 500, bytes: 1024 * 1024 };
/** Evaluations that one statement passes over. */
const SCAN_ROWS = 2_000;
/** Versions that are remembered: of each, one finding for all of its evaluations. */
const MAX_REMEMBERED = 10_000;

/** What an event says of the evaluation that it is of. */
export interface ToldReceipt {
  entityId: string;
  entityVersion: number;
  eventId: string;
  /** Undefined: it says none. */
  evaluationId: string | undefined;
  sha256: JsonValue | undefined;
}

/** Undefined where an event is of no evaluation, or does not say so any more since it was erased. */
export function receiptIn(event: {
  id: string;
  entityId: string;
  entityVersion: number;
  type: EventType;
  metadata: JsonValue;
}): ToldReceipt | undefined {
  const { id: eventId, entityId, entityVersion, type, metadata } = event;
  if (type !== "EVALUATED" || metadata === null) return undefined;
  const told = isObject(metadata) ? metadata : {};
  const id = typeof told.evaluationId === "string" ? parseUuid(told.evaluationId) : null;
  return { entityId, entityVersion, eventId, evaluationId: id ?? undefined, sha256: told.evaluationSha256 };
}

export interface ReceiptsOptions {
  organizationId: string;
  /** Undefined: of all. */
  entityIds: readonly string[] | undefined;
  /** Only evaluations that were made then or later. */
  since: Instant | undefined;
  /** A read of one round trip, in turn with other work. */
  read<T>(work: (db: Statements) => Promise<T>): Promise<T>;
  turns: ShortTurns;
  /** Up to when events may have been pruned by now. */
  horizon(): Promise<Instant | null>;
}

export interface Receipts {
  /** What is wrong with the evaluations that these events tell of, and with the versions by which they were made. */
  check(told: readonly ToldReceipt[]): Promise<Finding[]>;
  /** Evaluations of which no event tells. A step for each page. */
  untold(): AsyncGenerator<Finding[], void>;
  /** All versions of all matrices, unless it is about some entities: then those of their evaluations have been looked at. */
  versions(): AsyncGenerator<Finding[], void>;
  /** Those that are right. */
  counts: { evaluations: number; matrixVersions: number };
}

export function createReceipts(options: ReceiptsOptions): Receipts {
  const { organizationId, entityIds, since, read, turns, horizon } = options;
  const counts = { evaluations: 0, matrixVersions: 0 };
  const named = createRemembered();
  const looked = createRemembered();

  function checkVersion({ riskMatrixId, version, matrix }: VersionRow): Finding[] {
    const isRight = matrix !== undefined && isWhole(matrix);
    if (isRight) counts.matrixVersions += 1;
    return isRight ? [] : [differs({ riskMatrixId, version }, "it is not what its hash says")];
  }

  /** The versions of some evaluations, each once. */
  async function checkVersionsOf(evaluations: readonly StoredEvaluation[]): Promise<Finding[]> {
    const findings: Finding[] = [];
    let left = evaluations
      .map(({ riskMatrixId, matrixVersion: version }) => ({ riskMatrixId, version }))
      .filter((key) => looked.isNew(key));
    while (left.length > 0) {
      const keys = left;
      const { rows, isCut } = await read((db) => readVersionsBy(db, organizationId, keys, PAGE.bytes));
      for (const row of rows) {
        findings.push(...checkVersion(row));
        if (turns.isOver()) await turns.next();
      }
      // One that is not there is a finding of its evaluation.
      const come = new Set(rows.map(keyOf));
      left = isCut ? keys.filter((key) => !come.has(keyOf(key))) : [];
    }
    return findings;
  }

  function checkReceipt(told: ToldReceipt, row: ReceiptRow | null): Finding[] {
    const { entityId, entityVersion, eventId, evaluationId } = told;
    const at = { entityId, entityVersion, eventId, evaluationId };
    const detail = problemOf(told, row);
    if (detail !== undefined) return [{ kind: "EVALUATION_DIFFERS", ...at, detail }];
    counts.evaluations += 1;
    const { evaluation, versionSha256 } = row as ReceiptRow & { evaluation: StoredEvaluation };
    const { riskMatrixId, matrixVersion: version, matrixSha256 } = evaluation;
    if (versionSha256?.equals(matrixSha256) || !named.isNew({ riskMatrixId, version })) return [];
    const wrong =
      versionSha256 === null
        ? "an evaluation was made by it, and it is not there"
        : "an evaluation was made by another";
    return [{ ...differs({ riskMatrixId, version }, wrong), ...at }];
  }

  return {
    counts,
    async check(told) {
      const findings: Finding[] = [];
      const known = new Map<string, ToldReceipt[]>();
      for (const one of told) {
        if (one.evaluationId === undefined) findings.push(...checkReceipt(one, null));
        else known.set(one.evaluationId, [...(known.get(one.evaluationId) ?? []), one]);
      }
      for (let left = [...known.keys()]; left.length > 0; ) {
        const ids = left;
        const found = await read((db) => readReceipts(db, organizationId, ids, PAGE.bytes));
        const evaluations: StoredEvaluation[] = [];
        for (const [id, row] of found) {
          for (const one of known.get(id) ?? []) findings.push(...checkReceipt(one, row));
          if (row?.evaluation !== undefined) evaluations.push(row.evaluation);
          if (turns.isOver()) await turns.next();
        }
        if (entityIds !== undefined) findings.push(...(await checkVersionsOf(evaluations)));
        left = ids.filter((id) => !found.has(id));
      }
      return findings;
    },

    async *untold() {
      for (const entityId of entityIds ?? [undefined]) {
        let after: ReceiptPlace = { evaluatedAt: "-infinity", id: NO_ID };
        for (let isMore = true; isMore; ) {
          const from = after;
          const rows = await read((db) => readTold(db, organizationId, { entityId, after: from }, SCAN_ROWS));
          // Asked for behind the rows: the events that they lack were pruned by then.
          const pruned = await horizon();
          yield rows.filter((row) => !row.isTold && mustBeTold(row, { since, pruned })).map(untoldEvaluation);
          isMore = rows.length === SCAN_ROWS;
          after = rows.at(-1)?.place ?? from;
        }
      }
    },

    async *versions() {
      if (entityIds !== undefined) return;
      const order = createVersionOrder();
      for (let after: VersionKey | undefined = { riskMatrixId: NO_ID, version: 0 }; after !== undefined; ) {
        const from: VersionKey = after;
        const { rows, isCut }: Part<VersionRow> = await read((db) => readVersions(db, organizationId, from, PAGE));
        const findings: Finding[] = [];
        for (const row of rows) {
          findings.push(...order.add(row), ...(row.version === 0 ? [] : checkVersion(row)));
          if (turns.isOver()) await turns.next();
        }
        yield findings;
        after = isCut || rows.length === PAGE.rows ? rows.at(-1) : undefined;
      }
      yield order.end();
    },
  };
}

/** What is wrong with the evaluation that an event tells of; undefined: nothing. */
function problemOf({ sha256, eventId }: ToldReceipt, row: ReceiptRow | null): string | undefined {
  if (row === null) return "its event tells of it, and it is not there";
  const { evaluation } = row;
  const hash = evaluation && hashOf(evaluation);
  if (evaluation === undefined || hash === undefined || hash !== sha256) {
    return "it is not what the hash in its event says";
  }
  return evaluation.eventId === eventId ? undefined : "it names another event than the one that tells of it";
}

/** Undefined where it holds what the service has never written. */
function hashOf(evaluation: StoredEvaluation): string | undefined {
  const { results } = evaluation;
  return readable(() => {
    const isWhole = sameJson(results as never, evaluationDocument(evaluation).results as JsonValue);
    return isWhole ? evaluationHash(evaluation) : undefined;
  });
}

function isWhole({ riskMatrixId: id, version, rules, thresholds, sha256 }: MatrixVersion): boolean {
  const isSame = readable(() => {
    const { medium, high, critical, rules: hashed } = matrixDocument({ id, version, rules, thresholds });
    const isHashed = sameJson([rules, thresholds] as never, [hashed, { medium, high, critical }] as JsonValue);
    return isHashed && matrixHash({ id, version, rules, thresholds }).equals(sha256);
  });
  return isSame === true;
}

/** Whether its event cannot have been pruned, and none but those since a time are looked at. */
const mustBeTold = (
  { evaluatedAt: at }: ToldRow,
  { since, pruned }: { since: Instant | undefined; pruned: Instant | null },
): boolean => at === undefined || ((since === undefined || at >= since) && (pruned === null || at > pruned));

const untoldEvaluation = ({ place, entityId, eventId }: ToldRow): Finding => ({
  ...{ kind: "EVALUATION_DIFFERS", entityId, eventId, evaluationId: place.id },
  detail: "its event does not tell of it, or is not there",
});

const differs = ({ riskMatrixId, version }: VersionKey, detail: string): Finding => ({
  ...{ kind: "RISK_MATRIX_DIFFERS", riskMatrixId, matrixVersion: version, detail },
});

const keyOf = ({ riskMatrixId, version }: VersionKey): string => `${riskMatrixId} ${version}`;

/** Versions that have been met; after very many, some are met anew. */
function createRemembered() {
  const met = new Set<string>();
  return {
    isNew(key: VersionKey): boolean {
      if (met.has(keyOf(key))) return false;
      if (met.size >= MAX_REMEMBERED) met.clear();
      met.add(keyOf(key));
      return true;
    },
  };
}

/** That versions follow each other from 1 to the last one of their matrix. */
function createVersionOrder() {
  let before: VersionRow | undefined;
  const missing = (riskMatrixId: string, from: number, to: number): Finding[] => {
    if (from > to) return [];
    const more = from < to ? `, nor are those up to version ${to}` : "";
    return [differs({ riskMatrixId, version: from }, `it is not there${more}`)];
  };
  const end = () => (before === undefined ? [] : missing(before.riskMatrixId, before.version + 1, before.last));
  return {
    add(row: VersionRow): Finding[] {
      const isNext = before?.riskMatrixId === row.riskMatrixId;
      const findings = isNext ? [] : end();
      findings.push(...missing(row.riskMatrixId, (isNext ? (before?.version ?? 0) : 0) + 1, row.version - 1));
      if (row.version > row.last) findings.push(differs(row, "it is beyond the last version of its matrix"));
      before = row;
      return findings;
    },
    end,
  };
}
