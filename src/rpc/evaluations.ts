// EntityService: analyze an entity by the rules of its risk matrix, and list the receipts of that.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { type AnalyzeEntityRequest, EntityService } from "../../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import {
  type EvaluationSchema,
  RiskLevel,
  RiskRuleError,
  RiskRuleOutcome,
  RiskRuleState,
} from "../../clients/typescript/gen/entity/v1/risk_pb.ts";
import { newId } from "../db/uuid.ts";
import { refuseDeleted } from "../domain/entity.ts";
import type { EntityState } from "../domain/entity-state.ts";
import { DomainError, notFound, type Reason } from "../domain/errors.ts";
import { type Lookup, redirectedFrom, resolve } from "../domain/lookup.ts";
import {
  type Evaluated,
  type Evaluation,
  evaluated,
  RISK_ENGINE,
  rulesToRun,
  scoreOf,
  variablesOf,
} from "../domain/risk.ts";
import type { Outcome, World } from "../entities/command.ts";
import { departureOf } from "../interceptors/call.ts";
import {
  evaluationHash,
  type FactsReader,
  insertEvaluation,
  listEvaluations,
  type MatrixVersion,
  type StoredEvaluation,
} from "../risk/evaluations.ts";
import { type Evaluator, TooLong } from "../risk/evaluator.ts";
import { presentChange, toProto } from "./entity-message.ts";
import { closePage, openPage } from "./page.ts";
import { parseLookup, parseOptionalUuid, toTimestamp } from "./request.ts";
import { Violations } from "./violations.ts";
import { authorOf, type Deps, existing, findEntityId, organizationOf, parseWrite, readInTurn, write } from "./write.ts";

/** How often an entity that was changed meanwhile is evaluated. */
const MAX_ATTEMPTS = 3;

type EvaluationDeps = Deps & { evaluator: Evaluator; riskFacts: FactsReader };

export function evaluationRpcs(deps: EvaluationDeps) {
  return {
    async analyzeEntity(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const violations = new Violations();
      const trialMatrixId = parseOptionalUuid(request.riskMatrixId, "risk_matrix_id", violations);
      if (trialMatrixId !== undefined && !request.validateOnly) {
        violations.add("risk_matrix_id", "is for trials, with validate_only: an entity is analyzed by its own matrix");
      }
      const common = parseWrite(request, violations);
      violations.throwIfAny();
      for (let attempt = 1; ; attempt++) {
        const analysis = await analyze(deps, ctx, lookup, trialMatrixId);
        if (isAnswer(analysis, request)) return presentFound(analysis);
        const command = commandOf(analysis, ctx, common.requestId);
        try {
          return await write(
            deps,
            ctx,
            { method: EntityService.method.analyzeEntity, request },
            { ...common, lookup, ...command },
            (outcome) => ({ ...presentChange(outcome), evaluation: command.present(outcome, request) }),
          );
        } catch (error) {
          if (!(error instanceof ChangedMeanwhile) || attempt === MAX_ATTEMPTS) throw error;
        }
      }
    },

    async listEvaluations(request, ctx) {
      const lookup = parseLookup(request.lookup);
      const organizationId = organizationOf(ctx);
      const page = openPage(EntityService.method.listEvaluations, request, {
        organizationId,
        cursor: { evaluatedAt: "instant", id: "id" },
      });
      const entityId = await findEntityId(deps, ctx, lookup);
      const evaluations = await readInTurn(deps, ctx, organizationId, (em) =>
        listEvaluations(em, organizationId, entityId, { before: page.cursor, bound: page.bound }),
      );
      const { items, nextPageToken } = closePage(page, evaluations, {
        present: evaluationToProto,
        cursorOf: ({ evaluatedAt, id }) => ({ evaluatedAt, id }),
      });
      return { evaluations: items, nextPageToken };
    },
  } satisfies Partial<ServiceImpl<typeof EntityService>>;
}

// --- Before the write ---------------------------------------------------------------------------

/** What became of an entity in the version that was read. */
type Analysis =
  /** Evaluated before, or now. */
  | { entity: EntityState; redirectedFrom: string; found: StoredEvaluation }
  | { entity: EntityState; evaluated: Evaluated }
  /** A refusal is told by the command: a replay, or a wrong etag, comes first (rule 13). */
  | { entity: EntityState | undefined; refusal: DomainError };

const REFUSALS: readonly Reason[] = [
  ...["NOT_FOUND", "AMBIGUOUS_TAX_ID_LOOKUP", "ENTITY_DELETED", "RISK_MATRIX_REQUIRED", "RISK_EVALUATION_FAILED"],
] as const;

/** The entity or its lookup was changed since it was read. */
class ChangedMeanwhile extends DomainError {
  constructor() {
    super("WRITE_CONFLICT", "The entity kept changing while it was analyzed: retry", { retry_after_ms: "100" });
  }
}

/** Rule 148: reads the entity and evaluates it, without a transaction. */
async function analyze(
  deps: EvaluationDeps,
  ctx: HandlerContext,
  lookup: Lookup,
  trialMatrixId: string | undefined,
): Promise<Analysis> {
  let entity: EntityState | undefined;
  try {
    const { hits, entities } = await deps.reader.find(organizationOf(ctx), [lookup], departureOf(ctx));
    entity = entities.get(resolve(lookup, hits) ?? "");
    if (entity === undefined) throw notFound(lookup.by);
    const result = await evaluate(deps, ctx, entity, trialMatrixId);
    return "found" in result
      ? { entity, redirectedFrom: redirectedFrom(lookup, entity, hits), found: result.found }
      : { entity, evaluated: result };
  } catch (error) {
    if (error instanceof DomainError && REFUSALS.includes(error.reason)) return { entity, refusal: error };
    throw error;
  }
}

async function evaluate(
  { riskFacts, evaluator }: EvaluationDeps,
  ctx: HandlerContext,
  entity: EntityState,
  trialMatrixId: string | undefined,
): Promise<Evaluated | { found: StoredEvaluation }> {
  const { id, organizationId } = entity;
  refuseDeleted(entity);
  const riskMatrixId = trialMatrixId ?? entity.riskMatrixId;
  if (riskMatrixId === null) {
    throw new DomainError(
      "RISK_MATRIX_REQUIRED",
      "The entity has no risk matrix: set its risk_matrix_id by UpdateEntity",
      { entity_id: id },
    );
  }
  const facts = await riskFacts.read(organizationId, id, riskMatrixId);
  if (facts?.matrix === undefined) throw notFound("risk_matrix_id", "Risk matrix");
  const { matrix, found, today, auditHead } = facts;
  if (found !== undefined && facts.version === entity.version) return { found };
  const answers = await evaluator
    .run(
      organizationId,
      runnable(organizationId, matrix),
      { entity: JSON.stringify(variablesOf(entity)), today },
      departureOf(ctx),
    )
    .catch((error: unknown) => {
      throw error instanceof TooLong ? evaluationFailed(matrix, error.rule) : error;
    });
  return {
    ...scoreOf(matrix, answers),
    ...{ entityId: id, entityVersion: entity.version },
    // Of a later version the write will say that the entity has changed.
    entityHash: auditHead,
    ...{ riskMatrixId, matrixVersion: matrix.version, matrixSha256: matrix.sha256, engine: RISK_ENGINE, today },
  };
}

const runnable = (organizationId: string, { riskMatrixId, version, rules }: MatrixVersion) => ({
  key: `${organizationId} ${riskMatrixId} ${version}`,
  expressions: rulesToRun(rules).map(({ expression }) => expression),
});

function evaluationFailed({ riskMatrixId, version, rules }: MatrixVersion, at: number): DomainError {
  return new DomainError("RISK_EVALUATION_FAILED", "A rule took too long: make it simpler, or disable it", {
    risk_matrix_id: riskMatrixId,
    matrix_version: String(version),
    rule: rulesToRun(rules)[at]?.id ?? "",
  });
}

// --- The write ----------------------------------------------------------------------------------

/** Whether there is nothing to write, and nothing to remember. */
const isAnswer = (
  analysis: Analysis,
  { etag, requestId }: AnalyzeEntityRequest,
): analysis is Extract<Analysis, { found: StoredEvaluation }> =>
  "found" in analysis && requestId === "" && (etag === "" || etag === analysis.entity.etag);

const presentFound = ({ entity, redirectedFrom, found }: Extract<Analysis, { found: StoredEvaluation }>) => ({
  ...{ entity: toProto(entity), changed: false, redirectedFrom },
  evaluation: evaluationToProto(found),
});

/** Rule 149: one event, and the receipt beside it, unless the entity is another one by now. */
function commandOf(analysis: Analysis, ctx: HandlerContext, requestId: string | undefined) {
  const id = newId();
  const { actor, principal, source } = authorOf(ctx);
  const organizationId = organizationOf(ctx);
  const receipt = (of: Evaluated, evaluatedAt: Evaluation["evaluatedAt"]): Evaluation => ({
    ...of,
    ...{ organizationId, id, actor, principal, source, requestId: requestId ?? null, evaluatedAt },
  });
  const made = ({ after }: Outcome): StoredEvaluation | undefined =>
    "evaluated" in analysis ? { ...receipt(analysis.evaluated, after.updatedAt), eventId: after.etag } : undefined;
  return {
    decide: (state: EntityState | null, { now }: World) => {
      const entity = existing(state);
      if (entity.id !== analysis.entity?.id || entity.version !== analysis.entity.version) throw new ChangedMeanwhile();
      if ("refusal" in analysis) throw analysis.refusal;
      if ("found" in analysis) return null;
      const evaluation = receipt(analysis.evaluated, now);
      return evaluated(entity, evaluation, evaluationHash(evaluation));
    },
    record: (db: Parameters<typeof insertEvaluation>[0], _organizationId: string, [outcome]: readonly Outcome[]) => {
      const evaluation = outcome && made(outcome);
      if (evaluation !== undefined) insertEvaluation(db, organizationId, evaluation);
    },
    present: (outcome: Outcome, { validateOnly }: AnalyzeEntityRequest) => {
      const evaluation = "found" in analysis ? analysis.found : made(outcome);
      const isTrial = validateOnly && !("found" in analysis);
      return evaluation && evaluationToProto(isTrial ? { ...evaluation, id: "", eventId: "" } : evaluation);
    },
  };
}

// --- Responses ----------------------------------------------------------------------------------

function evaluationToProto(one: StoredEvaluation): MessageInitShape<typeof EvaluationSchema> {
  const { organizationId: _, results, level, ...rest } = one;
  return {
    ...rest,
    entityVersion: BigInt(one.entityVersion),
    entityHash: one.entityHash ?? new Uint8Array(),
    rawScore: one.rawScore ?? undefined,
    riskScore: one.riskScore ?? undefined,
    level: RiskLevel[level ?? "UNSPECIFIED"],
    rules: results.map(({ ruleId, state, outcome, error, points }) => ({
      ...{ ruleId, points, state: RiskRuleState[state], outcome: RiskRuleOutcome[outcome] },
      error: RiskRuleError[error ?? "UNSPECIFIED"],
    })),
    requestId: one.requestId ?? "",
    evaluatedAt: toTimestamp(one.evaluatedAt),
  };
}
