// Risk (rules 141 to 149): what a matrix is, what its rules see of an entity, and which score and level their answers make.

import { changedFields, changedValues } from "./changed-fields.ts";
import type { Change, EntityState } from "./entity-state.ts";
import type { JsonObject } from "./json.ts";
import { type Instant, instantToText } from "./time.ts";

export type RiskRuleState = "ACTIVE" | "SHADOW" | "DISABLED";
export type RiskLevel = "LOW" | "MEDIUM" | "HIGH" | "CRITICAL";
/** Why an expression has no answer: never the text of the library, which may hold values. */
export type RiskRuleError = "NO_SUCH_FIELD" | "TYPE" | "STEPS" | "OTHER";
/** What an expression says of an entity. */
export type RuleAnswer = boolean | RiskRuleError;

export interface RiskRule {
  readonly id: string;
  readonly displayName: string;
  readonly expression: string;
  /** A decimal with two places. */
  readonly points: string;
  readonly state: RiskRuleState;
}

/** The lowest scores of the levels, decimals with two places. */
export interface RiskThresholds {
  readonly medium: string;
  readonly high: string;
  readonly critical: string;
}

export const DEFAULT_THRESHOLDS: RiskThresholds = { medium: "30.00", high: "60.00", critical: "80.00" };

/** What ran the expressions. Another one may answer otherwise: then what was analyzed is analyzed anew. */
export const RISK_ENGINE = "cel-es/0.6.1 entity-risk/1";

/** The highest score, in hundredths, as all sums of points are. */
export const MAX_POINTS = 100_00;

/** A decimal of at most two places in hundredths; undefined for any other text. */
export function parseHundredths(text: string): number | undefined {
  const [, sign, whole, places = ""] = /^(-?)(\d{1,5})(?:\.(\d{1,2}))?$/.exec(text) ?? [];
  if (whole === undefined) return undefined;
  const hundredths = Number(whole) * 100 + Number(places.padEnd(2, "0"));
  return sign === "-" && hundredths > 0 ? -hundredths : hundredths;
}

/** With two places. */
export function hundredthsToText(hundredths: number): string {
  const digits = String(Math.abs(hundredths)).padStart(3, "0");
  return `${hundredths < 0 ? "-" : ""}${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

/** The rules that are run, in the order in which they are: a SHADOW rule takes no steps from those that count. */
export const rulesToRun = (rules: readonly RiskRule[]): RiskRule[] =>
  (["ACTIVE", "SHADOW"] as const).flatMap((wanted) => rules.filter(({ state }) => state === wanted));

// --- What rules see -----------------------------------------------------------------------------

/** The fields of `entity` in an expression. Without what an analysis or any edit changes by itself. */
export const ENTITY_VARIABLES = [
  ...["id", "type", "countryCode", "externalId", "externalIds", "name", "taxId", "taxIdCheck", "status", "nationality"],
  ...["entityData", "attributes", "metadata", "createdAt"],
] as const;

const UNSEEN: readonly string[] = ["riskScore", "riskMatrixId", "deletedAt", "mergedInto"];

/**
 * Rule 143: the entity in the words of events. What is unset is absent, but the maps are always there, so that has() does
 * not fail on the way to a key of theirs.
 */
export function variablesOf(entity: EntityState): JsonObject {
  const fields = changedFields(null, entity).filter((field) => !UNSEEN.includes(field));
  const { newValues } = changedValues(null, entity, fields);
  const data = entity.entityData ?? {};
  return {
    ...newValues,
    id: entity.id,
    createdAt: instantToText(entity.createdAt),
    entityData: entity.type === "person" ? { person: data, company: {} } : { person: {}, company: data },
    attributes: entity.attributes,
    metadata: entity.metadata,
  };
}

// --- Score --------------------------------------------------------------------------------------

export interface RiskRuleResult {
  readonly ruleId: string;
  readonly state: "ACTIVE" | "SHADOW";
  readonly outcome: "MATCHED" | "NOT_MATCHED" | "ERROR";
  readonly error: RiskRuleError | null;
  readonly points: string;
}

export interface Score {
  /** Null, like the score and the level, where it is incomplete. */
  readonly rawScore: string | null;
  readonly riskScore: string | null;
  readonly level: RiskLevel | null;
  readonly incomplete: boolean;
  readonly results: readonly RiskRuleResult[];
}

/** Rules 142 and 146: `answers` are those of rulesToRun, in its order. */
export function scoreOf(
  { rules, thresholds }: { rules: readonly RiskRule[]; thresholds: RiskThresholds },
  answers: readonly RuleAnswer[],
): Score {
  const answered = new Map(rulesToRun(rules).map((rule, i) => [rule, answers[i]]));
  const results = rules
    .filter((rule) => answered.has(rule))
    .map((rule): RiskRuleResult => {
      const { id, state, points } = rule;
      const answer = answered.get(rule);
      if (answer === undefined) throw new Error("a rule that was to be run has no answer");
      const isError = typeof answer === "string";
      return {
        ruleId: id,
        state: state as RiskRuleResult["state"],
        outcome: isError ? "ERROR" : answer ? "MATCHED" : "NOT_MATCHED",
        error: isError ? answer : null,
        points,
      };
    });
  const counted = results.filter(({ state }) => state === "ACTIVE");
  // A sum without what could not be asked would make somebody look safer than anybody knows.
  if (counted.some(({ outcome }) => outcome === "ERROR")) {
    return { rawScore: null, riskScore: null, level: null, incomplete: true, results };
  }
  const raw = counted.reduce(
    (sum, { outcome, points }) => (outcome === "MATCHED" ? sum + (parseHundredths(points) ?? 0) : sum),
    0,
  );
  const score = Math.min(Math.max(raw, 0), MAX_POINTS);
  return {
    rawScore: hundredthsToText(raw),
    riskScore: hundredthsToText(score),
    level: levelOf(score, thresholds),
    incomplete: false,
    results,
  };
}

/** The thresholds are lower bounds. */
function levelOf(score: number, { medium, high, critical }: RiskThresholds): RiskLevel {
  const reaches = (threshold: string) => score >= (parseHundredths(threshold) ?? Number.POSITIVE_INFINITY);
  if (reaches(critical)) return "CRITICAL";
  if (reaches(high)) return "HIGH";
  return reaches(medium) ? "MEDIUM" : "LOW";
}

// --- Receipts -----------------------------------------------------------------------------------

/** What a matrix says of one version of an entity. */
export interface Evaluated extends Score {
  readonly entityId: string;
  readonly entityVersion: number;
  /** The hash of the entity's last event then, which stands for all that it was. */
  readonly entityHash: Buffer | null;
  readonly riskMatrixId: string;
  readonly matrixVersion: number;
  readonly matrixSha256: Buffer;
  readonly engine: string;
  /** The UTC date that the expressions had. */
  readonly today: string;
}

/** The receipt, but for its event. */
export interface Evaluation extends Evaluated {
  readonly organizationId: string;
  readonly id: string;
  readonly actor: string;
  readonly principal: string;
  readonly source: string;
  readonly requestId: string | null;
  readonly evaluatedAt: Instant;
}

const hex = (bytes: Buffer | null) => bytes?.toString("hex") ?? null;

/** What is hashed of a version of a matrix. */
export const matrixDocument = ({
  id,
  version,
  rules,
  thresholds: { medium, high, critical },
}: {
  id: string;
  version: number;
  rules: readonly RiskRule[];
  thresholds: RiskThresholds;
}): JsonObject => ({
  ...{ riskMatrixId: id, version, medium, high, critical },
  rules: rules.map(({ id, displayName, expression, points, state }) => ({
    ...{ id, displayName, expression, points, state },
  })),
});

/** What is hashed of a receipt: all of it but the event, whose metadata has the hash. */
export const evaluationDocument = (one: Evaluation): JsonObject => ({
  id: one.id,
  organizationId: one.organizationId,
  entityId: one.entityId,
  entityVersion: one.entityVersion,
  entityHash: hex(one.entityHash),
  riskMatrixId: one.riskMatrixId,
  matrixVersion: one.matrixVersion,
  matrixSha256: hex(one.matrixSha256),
  engine: one.engine,
  today: one.today,
  rawScore: one.rawScore,
  riskScore: one.riskScore,
  level: one.level,
  incomplete: one.incomplete,
  results: one.results.map(({ ruleId, state, outcome, error, points }) => ({
    ...{ ruleId, state, outcome, error, points },
  })),
  actor: one.actor,
  principal: one.principal,
  source: one.source,
  requestId: one.requestId,
  evaluatedAt: instantToText(one.evaluatedAt),
});

/** Rule 149: the score is all that an analysis changes, and an incomplete one does not change it. */
export function evaluated(entity: EntityState, evaluation: Evaluation, sha256: string): Change {
  const { id, riskMatrixId, matrixVersion, level, incomplete, riskScore } = evaluation;
  return {
    values: incomplete ? entity : { ...entity, riskScore },
    type: "EVALUATED",
    reason: "",
    metadata: { evaluationId: id, evaluationSha256: sha256, riskMatrixId, matrixVersion, level, incomplete },
  };
}
