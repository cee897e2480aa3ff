// RiskMatrixService: the rules that AnalyzeEntity runs, with all of their versions.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { RiskMatrixService } from "../../clients/typescript/gen/entity/v1/risk_matrix_service_pb.ts";
import {
  type RiskMatrix,
  RiskMatrixSchema,
  RiskRuleState,
  type RiskThresholds as RiskThresholdsMessage,
} from "../../clients/typescript/gen/entity/v1/risk_pb.ts";
import { DomainError } from "../domain/errors.ts";
import type { JsonObject } from "../domain/json.ts";
import { LIMITS } from "../domain/limits.ts";
import {
  DEFAULT_THRESHOLDS,
  hundredthsToText,
  MAX_POINTS,
  parseHundredths,
  type RiskRule,
  type RiskThresholds,
} from "../domain/risk.ts";
import { textProblem, trim } from "../domain/text.ts";
import { departureOf } from "../interceptors/call.ts";
import { type Evaluator, TooLong } from "../risk/evaluator.ts";
import {
  addMatrix,
  type Checked,
  changeMatrix,
  getMatrix,
  listMatrices,
  type Matrix,
  type MatrixValues,
} from "../risk/matrices.ts";
import { closePage, openPage } from "./page.ts";
import { keyOf, parseDisplayName, parseOptionalUuid, requireUuid } from "./request.ts";
import { parseMask } from "./update-mask.ts";
import { Violations } from "./violations.ts";
import { type Deps, idempotent, organizationOf, outcomeOf, readInTurn, recordAdministration } from "./write.ts";

const STATES = {
  ACTIVE: RiskRuleState.ACTIVE,
  SHADOW: RiskRuleState.SHADOW,
  DISABLED: RiskRuleState.DISABLED,
} as const;
const MASK = ["display_name", "description", "rules", "thresholds"] as const;

export function riskMatrixRpcs(deps: Deps & { evaluator: Evaluator }) {
  return {
    async createRiskMatrix(request, ctx) {
      const violations = new Violations();
      const matrix = request.matrix ?? create(RiskMatrixSchema);
      // All are asked for: none is left out.
      const values = parseValues(matrix, new Set(MASK), violations) as MatrixValues;
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const checked = await outcomeOf(checkRules(deps.evaluator, ctx, values.rules));
      return idempotent(
        deps,
        ctx,
        { method: RiskMatrixService.method.createRiskMatrix, request, requestId },
        async (em) => {
          const made = await addMatrix(em, organizationId, values, checked());
          await recordAdministration(em, ctx, organizationId, {
            ...{ type: "RISK_MATRIX_CREATED", subjectId: made.row.id, requestId },
            ...{ before: {}, after: valuesOf(made) },
          });
          return { matrix: toProto(made) };
        },
      );
    },

    async getRiskMatrix(request, ctx) {
      const violations = new Violations();
      const id = requireUuid(request.riskMatrixId, "risk_matrix_id", violations);
      if (request.version < 0) violations.add("version", "must not be negative");
      violations.throwIfAny();
      const version = request.version === 0 ? undefined : request.version;
      const organizationId = organizationOf(ctx);
      const matrix = await readInTurn(deps, ctx, organizationId, (em) =>
        getMatrix(em, organizationId, id, version === undefined ? {} : { version }),
      );
      return { matrix: toProto(matrix) };
    },

    async listRiskMatrices(request, ctx) {
      const organizationId = organizationOf(ctx);
      const page = openPage(RiskMatrixService.method.listRiskMatrices, request, {
        organizationId,
        cursor: { id: "id" },
      });
      const { cursor, bound } = page;
      const matrices = await readInTurn(deps, ctx, organizationId, (em) =>
        listMatrices(em, organizationId, { after: cursor?.id, bound }),
      );
      const { items, nextPageToken } = closePage(page, matrices, {
        present: toProto,
        cursorOf: ({ row }) => ({ id: row.id }),
      });
      return { matrices: items, nextPageToken };
    },

    async updateRiskMatrix(request, ctx) {
      const violations = new Violations();
      const id = requireUuid(request.riskMatrixId, "risk_matrix_id", violations);
      const matrix = request.matrix ?? create(RiskMatrixSchema);
      const paths = parseMask(request.updateMask, MASK, violations);
      const values = parseValues(matrix, new Set(paths.size === 0 ? populated(matrix) : paths), violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      const checked = values.rules && (await outcomeOf(checkRules(deps.evaluator, ctx, values.rules)));
      return idempotent(
        deps,
        ctx,
        { method: RiskMatrixService.method.updateRiskMatrix, request, requestId },
        async (em) => {
          const facts = checked?.();
          const found = await getMatrix(em, organizationId, id, { lock: { etag: request.etag } });
          const [before, { etag }] = [valuesOf(found), found.row];
          const after = await changeMatrix(em, found, values, facts ?? found.version);
          if (after.row.etag !== etag) {
            await recordAdministration(em, ctx, organizationId, {
              ...{ type: "RISK_MATRIX_UPDATED", subjectId: id, requestId },
              ...{ before, after: valuesOf(after) },
            });
          }
          return { matrix: toProto(after) };
        },
      );
    },

    async deleteRiskMatrix(request, ctx) {
      const violations = new Violations();
      const id = requireUuid(request.riskMatrixId, "risk_matrix_id", violations);
      const requestId = parseOptionalUuid(request.requestId, "request_id", violations);
      violations.throwIfAny();
      const organizationId = organizationOf(ctx);
      return idempotent(
        deps,
        ctx,
        { method: RiskMatrixService.method.deleteRiskMatrix, request, requestId },
        async (em) => {
          const found = await getMatrix(em, organizationId, id, { lock: { etag: request.etag } });
          found.row.deletedAt = new Date(deps.clock());
          await em.flush();
          await recordAdministration(em, ctx, organizationId, {
            ...{ type: "RISK_MATRIX_DELETED", subjectId: id, requestId },
            ...{ before: valuesOf(found), after: {} },
          });
          return {};
        },
      );
    },
  } satisfies ServiceImpl<typeof RiskMatrixService>;
}

// --- Requests -----------------------------------------------------------------------------------

/** The paths of what is set. */
function populated(matrix: RiskMatrix): string[] {
  const { displayName, description, rules, thresholds } = matrix;
  const isSet = [displayName !== "", description !== "", rules.length > 0, thresholds !== undefined];
  return MASK.filter((_, i) => isSet[i]);
}

/** The values of the paths that are given. */
function parseValues(matrix: RiskMatrix, given: ReadonlySet<string>, violations: Violations): Partial<MatrixValues> {
  const values: Partial<MatrixValues> = {};
  if (given.has("display_name")) {
    values.displayName = parseDisplayName(matrix.displayName, "matrix.display_name", violations);
  }
  if (given.has("description")) {
    values.description = trim(matrix.description);
    const problem = textProblem(values.description, { max: LIMITS.string, multiline: true });
    violations.check("matrix.description", problem);
  }
  if (given.has("rules")) values.rules = parseRules(matrix.rules, violations);
  if (given.has("thresholds")) values.thresholds = parseThresholds(matrix.thresholds, violations);
  return values;
}

const RULE_ID = new RegExp(`^[a-z][a-z0-9_-]{0,${LIMITS.riskRuleId - 1}}$`);

function parseRules(rules: RiskMatrix["rules"], violations: Violations): RiskRule[] {
  if (rules.length === 0) violations.add("matrix.rules", "must have at least 1 item");
  const ids = new Set<string>();
  return rules.map(({ id, displayName, expression, points, state }, i) => {
    const at = `matrix.rules[${i}]`;
    if (!RULE_ID.test(id)) {
      violations.add(`${at}.id`, `must be a letter of a-z and then a-z, 0-9, - and _, at most ${LIMITS.riskRuleId}`);
    } else if (ids.has(id)) violations.add(`${at}.id`, "is that of another rule of the matrix");
    ids.add(id);
    const problem = textProblem(expression, { max: LIMITS.riskExpression, multiline: true });
    violations.check(`${at}.expression`, trim(expression) === "" ? "is required" : problem);
    return {
      id,
      displayName: parseDisplayName(displayName, `${at}.display_name`, violations),
      expression,
      points: parseDecimal(points, `${at}.points`, [-MAX_POINTS, MAX_POINTS], violations),
      state: keyOf(STATES, state) ?? "ACTIVE",
    };
  });
}

function parseThresholds(thresholds: RiskThresholdsMessage | undefined, violations: Violations): RiskThresholds {
  const parse = (name: keyof RiskThresholds) => {
    const given = thresholds?.[name] ?? "";
    return parseDecimal(
      given === "" ? DEFAULT_THRESHOLDS[name] : given,
      `matrix.thresholds.${name}`,
      [0, MAX_POINTS],
      violations,
    );
  };
  const [medium, high, critical] = [parse("medium"), parse("high"), parse("critical")];
  const isAbove = (a: string, b: string) => Number(a) > Number(b);
  if (!isAbove(high, medium)) violations.add("matrix.thresholds.high", "must be above medium");
  if (!isAbove(critical, high)) violations.add("matrix.thresholds.critical", "must be above high");
  return { medium, high, critical };
}

/** With two places. */
function parseDecimal(text: string, field: string, [least, most]: [number, number], violations: Violations): string {
  const hundredths = parseHundredths(text);
  if (hundredths === undefined || hundredths < least || hundredths > most) {
    const range = `from ${hundredthsToText(least)} to ${hundredthsToText(most)}`;
    violations.add(field, `must be a decimal ${range} with at most two places`);
  }
  return hundredthsToText(hundredths ?? 0);
}

/** Rule 144. Throws VALIDATION_ERROR for rules that cannot be run. */
async function checkRules(evaluator: Evaluator, ctx: HandlerContext, rules: readonly RiskRule[]): Promise<Checked> {
  const facts = await evaluator
    .check(
      organizationOf(ctx),
      rules.map(({ expression }) => expression),
      departureOf(ctx),
    )
    .catch((error: unknown) => {
      if (!(error instanceof TooLong)) throw error;
      throw new DomainError("VALIDATION_ERROR", "matrix.rules: the expressions take too long to read", {
        field: "matrix.rules",
      });
    });
  const problems = facts.flatMap(({ problem }, i) =>
    problem === null ? [] : [{ ...problem, rule: rules[i]?.id ?? "", field: `matrix.rules[${i}].expression` }],
  );
  const [first] = problems;
  if (first !== undefined) {
    const described = problems.slice(0, LIMITS.violations).map(({ field, line, column, description }) => ({
      field,
      description: `line ${line}, column ${column}: ${description}`,
    }));
    const more = problems.length - described.length;
    throw new DomainError(
      "VALIDATION_ERROR",
      `${first.field}: ${described[0]?.description}`,
      {
        ...{ field: first.field, rule: first.rule, line: String(first.line), column: String(first.column) },
        ...(more === 0 ? {} : { more_violations: String(more) }),
      },
      described,
    );
  }
  return { mentionsToday: facts.some(({ mentionsToday }, i) => mentionsToday && rules[i]?.state !== "DISABLED") };
}

// --- Responses ----------------------------------------------------------------------------------

function toProto({ row, version }: Matrix): MessageInitShape<typeof RiskMatrixSchema> {
  return {
    id: row.id,
    displayName: row.displayName,
    description: row.description,
    version: version.version,
    rules: version.rules.map((rule) => ({ ...rule, state: STATES[rule.state] })),
    thresholds: version.thresholds,
    sha256: version.sha256,
    etag: row.etag,
    createdAt: timestampFromDate(row.createdAt),
    updatedAt: timestampFromDate(row.updatedAt),
    deletedAt: row.deletedAt ? timestampFromDate(row.deletedAt) : undefined,
  };
}

/** What the trail records of a matrix: its rules are in its version, which is kept. */
const valuesOf = ({ row, version }: Matrix): JsonObject => ({
  displayName: row.displayName,
  description: row.description === "" ? null : row.description,
  version: version.version,
  sha256: version.sha256.toString("hex"),
});
