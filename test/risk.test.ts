// Risk over the wire: matrices and their versions, analyses and their receipts.
import { createHash, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import canonicalize from "canonicalize";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { RiskMatrixService } from "../clients/typescript/gen/entity/v1/risk_matrix_service_pb.ts";
import {
  type Entity,
  type EntitySchema,
  EntityStatus,
  type Evaluation,
  EventType,
  RiskLevel,
  type RiskMatrix,
  RiskRuleError,
  RiskRuleOutcome,
  RiskRuleState,
  timestampDate,
} from "../clients/typescript/index.ts";
import { requestHash } from "../src/rpc/request.ts";
import { byExternalId, byId, byTaxId, current, eventsOf, lastEventOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let organization: TestOrganization;
let client: TestOrganization["client"];

beforeAll(async () => {
  service = await startService();
  organization = await service.newOrganization();
  ({ client } = organization);
});
afterAll(() => service[Symbol.asyncDispose]());

interface Rule {
  id?: string;
  displayName?: string;
  expression: string;
  points?: string;
  state?: RiskRuleState;
}

const rule = ({ id = unique("r"), displayName = "A rule", points = "10.00", ...rest }: Rule) => ({
  ...{ id, displayName, points },
  ...rest,
});

async function newMatrix(rules: Rule[], of = client): Promise<RiskMatrix> {
  const { matrix } = await of.riskMatrices.createRiskMatrix({
    matrix: { displayName: "Customers", rules: rules.map(rule) },
  });
  if (matrix === undefined) throw new Error("no matrix in the answer");
  return matrix;
}

const person = (fields: MessageInitShape<typeof EntitySchema>) => newPerson(client, fields);
const analyze = (entity: { id: string }, more: object = {}) =>
  client.entities.analyzeEntity({ lookup: byId(entity), ...more });
const evaluationsOf = async (entity: { id: string }) =>
  (await client.entities.listEvaluations({ lookup: byId(entity) })).evaluations;
const change = (entity: { id: string }, fields: MessageInitShape<typeof EntitySchema>) =>
  client.entities.updateEntity({ lookup: byId(entity), entity: fields });

/** A matrix of one rule that matches, and a person with it. */
async function given(expression = "true", fields: MessageInitShape<typeof EntitySchema> = {}) {
  const matrix = await newMatrix([{ id: "one", expression, points: "40" }]);
  return { matrix, entity: await person({ ...fields, riskMatrixId: matrix.id }) };
}

/** The word of an enum's value. */
const wordOf = (words: Record<string, number>, value: number) =>
  Object.keys(words).find((word) => words[word] === value);

/** All that the organization has stored. */
const stored = async () =>
  Promise.all(
    ["entity", "entity_event", "evaluation", "request_record", "risk_matrix_version"].map((table) =>
      service.sql(`select * from ${table} where organization_id = $1 order by 1, 2, 3`, [organization.id]),
    ),
  );

describe("matrices", () => {
  it("rule 141: rules or thresholds that change make a version, which is kept; a name makes none", async () => {
    const matrix = await newMatrix([{ id: "one", expression: "true", points: "1.5" }]);
    expect(matrix).toMatchObject({ version: 1, thresholds: { medium: "30.00", high: "60.00", critical: "80.00" } });
    expect(matrix.rules).toMatchObject([{ id: "one", points: "1.50", state: RiskRuleState.ACTIVE }]);
    const update = async (values: object) => {
      const { matrix: after } = await client.riskMatrices.updateRiskMatrix({ riskMatrixId: matrix.id, matrix: values });
      return after as RiskMatrix;
    };
    const renamed = await update({ displayName: "Other", description: "Text" });
    expect(renamed).toMatchObject({ version: 1, displayName: "Other", sha256: matrix.sha256 });
    expect(renamed.etag).not.toBe(matrix.etag);
    const same = await update({ rules: matrix.rules, thresholds: matrix.thresholds });
    expect(same).toEqual(renamed);
    const second = await update({ rules: [rule({ id: "one", expression: "false" })] });
    expect(second).toMatchObject({ version: 2, rules: [{ expression: "false" }] });
    const third = await update({ thresholds: { high: "50.00" } });
    expect(third).toMatchObject({ version: 3, thresholds: { medium: "30.00", high: "50.00", critical: "80.00" } });
    expect(third.rules).toEqual(second.rules);
    for (const [version, expected] of [matrix, second, third].entries()) {
      const { matrix: then } = await client.riskMatrices.getRiskMatrix({
        ...{ riskMatrixId: matrix.id, version: version + 1 },
      });
      expect(then).toMatchObject({
        ...{ version: version + 1, rules: expected.rules, thresholds: expected.thresholds, sha256: expected.sha256 },
      });
    }
    expect(await refusal(client.riskMatrices.getRiskMatrix({ riskMatrixId: matrix.id, version: 4 }))).toMatchObject({
      ...{ reason: "NOT_FOUND", metadata: { lookup: "version" } },
    });
  });

  it("rule 141: its SHA-256 is that of what the contract says", async () => {
    const { id, version, rules, thresholds, sha256 } = await newMatrix([
      {
        id: "b",
        displayName: "\u00dcber",
        expression: "entity.name == '\u00e9'",
        points: "-3",
        state: RiskRuleState.SHADOW,
      },
      { id: "a", expression: "true", state: RiskRuleState.DISABLED },
    ]);
    const document = {
      ...{ riskMatrixId: id, version },
      ...{ medium: thresholds?.medium, high: thresholds?.high, critical: thresholds?.critical },
      rules: rules.map(({ id, displayName, expression, points, state }) => ({
        ...{ id, displayName, expression, points, state: wordOf(RiskRuleState, state) },
      })),
    };
    expect(Buffer.from(sha256)).toEqual(
      createHash("sha256")
        .update(canonicalize(document) as string)
        .digest(),
    );
  });

  it("rule 141: a deleted one is kept with its versions, is in no list, and cannot be changed", async () => {
    const own = (await service.newOrganization()).client;
    const [kept, gone] = [
      await newMatrix([{ expression: "true" }], own),
      await newMatrix([{ expression: "true" }], own),
    ];
    await own.riskMatrices.deleteRiskMatrix({ riskMatrixId: gone.id, etag: gone.etag });
    expect((await own.riskMatrices.listRiskMatrices({})).matrices).toEqual([kept]);
    const { matrix } = await own.riskMatrices.getRiskMatrix({ riskMatrixId: gone.id, version: 1 });
    expect(matrix).toMatchObject({ rules: gone.rules, deletedAt: expect.anything() });
    for (const call of [
      () => own.riskMatrices.updateRiskMatrix({ riskMatrixId: gone.id, matrix: { displayName: "x" } }),
      () => own.riskMatrices.deleteRiskMatrix({ riskMatrixId: gone.id }),
    ]) {
      expect(await refusal(call())).toMatchObject({ reason: "NOT_FOUND", metadata: { lookup: "risk_matrix_id" } });
    }
  });

  it("rule 141: needs risk:admin, and is its organization's alone", async () => {
    const matrix = await newMatrix([{ expression: "true" }]);
    const other = (await service.newOrganization()).client;
    const reader = await organization.clientWith(["entities:read", "entities:write", "admin"]);
    const calls = [
      (of: TestOrganization["client"]) => of.riskMatrices.getRiskMatrix({ riskMatrixId: matrix.id }),
      (of: TestOrganization["client"]) => of.riskMatrices.getRiskMatrix({ riskMatrixId: matrix.id, version: 1 }),
      (of: TestOrganization["client"]) =>
        of.riskMatrices.updateRiskMatrix({ riskMatrixId: matrix.id, matrix: { displayName: "x" } }),
      (of: TestOrganization["client"]) => of.riskMatrices.deleteRiskMatrix({ riskMatrixId: matrix.id }),
    ];
    for (const call of calls) {
      expect((await refusal(call(other))).reason).toBe("NOT_FOUND");
      expect(await refusal(call(reader))).toMatchObject({
        ...{ reason: "PERMISSION_DENIED", metadata: { scope: "risk:admin" } },
      });
    }
    expect((await other.riskMatrices.listRiskMatrices({})).matrices).toEqual([]);
    const foreign = await newPerson(other, { riskMatrixId: matrix.id });
    expect(await refusal(other.entities.analyzeEntity({ lookup: byId(foreign) }))).toMatchObject({
      ...{ reason: "NOT_FOUND", metadata: { lookup: "risk_matrix_id" } },
    });
  });

  it("rule 141: a stale etag is refused, and one more than 100 matrices", async () => {
    const own = (await service.newOrganization()).client;
    const matrix = await newMatrix([{ expression: "true" }], own);
    const stale = own.riskMatrices.updateRiskMatrix({
      ...{ riskMatrixId: matrix.id, matrix: { displayName: "x" }, etag: randomUUID() },
    });
    expect(await refusal(stale)).toMatchObject({ reason: "ETAG_MISMATCH", metadata: { etag: matrix.etag } });
    for (let i = 1; i < 100; i++) await newMatrix([{ expression: "true" }], own);
    expect(await refusal(newMatrix([{ expression: "true" }], own))).toMatchObject({
      ...{ reason: "VALIDATION_ERROR", metadata: { field: "matrix" } },
    });
    const { matrices, nextPageToken } = await own.riskMatrices.listRiskMatrices({ pageSize: 60 });
    const rest = await own.riskMatrices.listRiskMatrices({ pageSize: 60, pageToken: nextPageToken });
    expect(new Set([...matrices, ...rest.matrices].map(({ id }) => id)).size).toBe(100);
    // What is deleted makes room, and is none of those that may not be.
    await own.riskMatrices.deleteRiskMatrix({ riskMatrixId: matrix.id });
    await newMatrix([{ expression: "true" }], own);
    expect((await refusal(newMatrix([{ expression: "true" }], own))).metadata).toMatchObject({ field: "matrix" });
  });

  it.each<[string, object, string]>([
    ["no rules", { rules: [] }, "matrix.rules"],
    ["201 rules", { rules: Array.from({ length: 201 }, () => rule({ expression: "true" })) }, "matrix.rules"],
    ["an id twice", { rules: [1, 2].map(() => rule({ id: "a", expression: "true" })) }, "matrix.rules[1].id"],
    ["an id that is no slug", { rules: [rule({ id: "A b", expression: "true" })] }, "matrix.rules[0].id"],
    ["too many points", { rules: [rule({ expression: "true", points: "100.01" })] }, "matrix.rules[0].points"],
    ["three decimals", { rules: [rule({ expression: "true", points: "1.001" })] }, "matrix.rules[0].points"],
    ["no expression", { rules: [rule({ expression: " " })] }, "matrix.rules[0].expression"],
    ["a long expression", { rules: [rule({ expression: "1".repeat(2001) })] }, "matrix.rules[0].expression"],
    ["thresholds in no order", { thresholds: { medium: "60.00" } }, "matrix.thresholds.high"],
    ["a threshold above 100", { thresholds: { critical: "100.01" } }, "matrix.thresholds.critical"],
  ])("rule 141: %s is refused", async (_, values, field) => {
    const matrix = { displayName: "x", rules: [rule({ expression: "true" })], ...values };
    expect(await refusal(client.riskMatrices.createRiskMatrix({ matrix }))).toMatchObject({
      ...{ reason: "VALIDATION_ERROR", metadata: { field } },
    });
  });

  it("rule 144: an expression that cannot be run is refused with its rule, line and column", async () => {
    const rules = [
      rule({ id: "fine", expression: "true" }),
      rule({ id: "typo", expression: "entity.name == 'x'\n && entity.nme == 'Juana'" }),
      rule({ id: "broken", expression: "entity.name ==", state: RiskRuleState.DISABLED }),
    ];
    const refused = await refusal(client.riskMatrices.createRiskMatrix({ matrix: { displayName: "x", rules } }));
    expect(refused).toMatchObject({
      reason: "VALIDATION_ERROR",
      metadata: { field: "matrix.rules[1].expression", rule: "typo", line: "2", column: "11" },
      fields: ["matrix.rules[1].expression", "matrix.rules[2].expression"],
    });
    expect(JSON.stringify(refused)).not.toContain("Juana");
    const { id: riskMatrixId } = await newMatrix([{ expression: "true" }]);
    const update = client.riskMatrices.updateRiskMatrix({ riskMatrixId, matrix: { rules } });
    expect((await refusal(update)).reason).toBe("VALIDATION_ERROR");
  });
});

describe("a repetition", () => {
  it("rule 39: has the stored answer, although the same rules would be refused by now", async () => {
    const [requestId, kept] = [randomUUID(), [rule({ expression: "true" })]];
    const made = await client.riskMatrices.createRiskMatrix({ matrix: { displayName: "x", rules: kept }, requestId });
    const created = { matrix: { displayName: "x", rules: [rule({ expression: "no.such" })] }, requestId };
    const update = { riskMatrixId: made.matrix?.id ?? "", matrix: { rules: kept }, requestId };
    const changed = await client.riskMatrices.updateRiskMatrix(update);
    const updated = { ...update, matrix: { rules: [rule({ expression: "no.such" })] } };
    // As if a later release refused what this one took.
    const become = (method: string, hash: Buffer) =>
      service.sql("update request_record set request_hash = $1 where request_id = $2 and method = $3", [
        ...[hash, requestId, method],
      ]);
    const createOf = RiskMatrixService.method.createRiskMatrix;
    const updateOf = RiskMatrixService.method.updateRiskMatrix;
    await become(createOf.name, requestHash(createOf.input, create(createOf.input, created)));
    await become(updateOf.name, requestHash(updateOf.input, create(updateOf.input, updated)));
    expect(await client.riskMatrices.createRiskMatrix(created)).toEqual(made);
    expect(await client.riskMatrices.updateRiskMatrix(updated)).toEqual(changed);
    const fresh = client.riskMatrices.updateRiskMatrix({ ...updated, requestId: randomUUID() });
    expect((await refusal(fresh)).reason).toBe("VALIDATION_ERROR");
  });
});

describe("an analysis", () => {
  it("rule 142: SHADOW rules take no steps from those that count, and are listed in their places", async () => {
    const expression = "entity.attributes.list.all(x, x >= 0)";
    const shadows = Array.from({ length: 9 }, () => ({ expression, state: RiskRuleState.SHADOW }));
    const matrix = await newMatrix([...shadows, { id: "counts", expression, points: "7" }]);
    const list = Array.from({ length: 9_000 }, () => 1);
    const entity = await person({ riskMatrixId: matrix.id, attributes: { list } });
    const { evaluation } = await analyze(entity);
    expect(evaluation).toMatchObject({ incomplete: false, riskScore: "7.00" });
    expect(evaluation?.rules.map(({ ruleId }) => ruleId)).toEqual(matrix.rules.map(({ id }) => id));
    expect(evaluation?.rules.filter(({ error }) => error === RiskRuleError.STEPS)).toHaveLength(5);
  });

  it("rule 142: sums the points of the rules that match, and gives the level", async () => {
    const matrix = await newMatrix([
      { id: "mexico", expression: "entity.countryCode == 'MX'", points: "25" },
      { id: "pep", expression: "has(entity.attributes.pep) && entity.attributes.pep", points: "50.5" },
      { id: "young", expression: "entity.name == 'x'", points: "9" },
      { id: "trial", expression: "true", points: "90", state: RiskRuleState.SHADOW },
      { id: "off", expression: "true", points: "90", state: RiskRuleState.DISABLED },
    ]);
    const entity = await person({ countryCode: "MX", riskMatrixId: matrix.id, attributes: { pep: true } });
    const { entity: after, evaluation, changed } = await analyze(entity);
    expect(changed).toBe(true);
    expect(after).toEqual(await current(client, entity));
    expect(after).toMatchObject({ riskScore: "75.50", status: EntityStatus.PENDING });
    expect(evaluation).toMatchObject({
      rawScore: "75.50",
      riskScore: "75.50",
      level: RiskLevel.HIGH,
      incomplete: false,
    });
    expect(evaluation?.rules.map(({ ruleId, outcome, state, points }) => [ruleId, outcome, state, points])).toEqual([
      ["mexico", RiskRuleOutcome.MATCHED, RiskRuleState.ACTIVE, "25.00"],
      ["pep", RiskRuleOutcome.MATCHED, RiskRuleState.ACTIVE, "50.50"],
      ["young", RiskRuleOutcome.NOT_MATCHED, RiskRuleState.ACTIVE, "9.00"],
      ["trial", RiskRuleOutcome.MATCHED, RiskRuleState.SHADOW, "90.00"],
    ]);
  });

  it("rule 143: today is the date of the database's clock, in UTC", async () => {
    const date = async () =>
      (await service.sql("select (clock_timestamp() at time zone 'UTC')::date::text as today"))[0]?.today;
    let today: string;
    let evaluation: Evaluation | undefined;
    // Once more where midnight came between.
    do {
      today = await date();
      const { entity } = await given(`today == '${today}'`);
      ({ evaluation } = await analyze(entity));
    } while (today !== (await date()));
    expect(evaluation).toMatchObject({ riskScore: "40.00", today });
  });

  it("rule 146: a rule without an answer makes it incomplete: stored, answered, and the score stays", async () => {
    const { matrix, entity } = await given("entity.attributes.level > 3", { attributes: { level: 4 } });
    expect((await analyze(entity)).entity?.riskScore).toBe("40.00");
    await change(entity, { attributes: { level: "Juana" } });
    const { entity: after, evaluation, changed } = await analyze(entity);
    expect(changed).toBe(true);
    expect(after?.riskScore).toBe("40.00");
    expect(evaluation).toMatchObject({ incomplete: true, level: RiskLevel.UNSPECIFIED });
    expect(evaluation?.riskScore).toBeUndefined();
    expect(evaluation?.rawScore).toBeUndefined();
    expect(evaluation?.rules).toMatchObject([{ outcome: RiskRuleOutcome.ERROR, error: RiskRuleError.TYPE }]);
    expect(JSON.stringify(evaluation, (_, value) => (typeof value === "bigint" ? `${value}` : value))).not.toContain(
      "Juana",
    );
    expect(await lastEventOf(client, entity)).toMatchObject({
      ...{ type: EventType.EVALUATED, updatedFields: [] },
      metadata: { incomplete: true, level: null, riskMatrixId: matrix.id },
    });
    expect((await evaluationsOf(entity))[0]).toEqual(evaluation);
  });

  it("rule 147: without a matrix, with one that is not there, of a deleted entity, with an etag that is stale", async () => {
    const without = await person({});
    expect(await refusal(analyze(without))).toMatchObject({
      ...{ reason: "RISK_MATRIX_REQUIRED", metadata: { entity_id: without.id } },
    });
    expect(await refusal(analyze(await person({ riskMatrixId: randomUUID() })))).toMatchObject({
      ...{ reason: "NOT_FOUND", metadata: { lookup: "risk_matrix_id" } },
    });
    const { matrix, entity } = await given();
    // The etag is compared before any rule is (rule 13).
    expect((await refusal(analyze(without, { etag: "stale" }))).reason).toBe("ETAG_MISMATCH");
    expect((await refusal(analyze(entity, { etag: "stale" }))).reason).toBe("ETAG_MISMATCH");
    const { entity: after } = await analyze(entity, { etag: entity.etag });
    expect((await refusal(analyze(entity, { etag: entity.etag }))).reason).toBe("ETAG_MISMATCH");
    expect((await analyze(entity, { etag: after?.etag })).changed).toBe(false);
    await client.entities.deleteEntity({ lookup: byId(entity), reason: "no longer" });
    expect((await refusal(analyze(entity))).reason).toBe("ENTITY_DELETED");
    const alive = await person({ riskMatrixId: matrix.id });
    await client.riskMatrices.deleteRiskMatrix({ riskMatrixId: matrix.id });
    expect(await refusal(analyze(alive))).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { lookup: "risk_matrix_id" },
    });
    expect(await refusal(client.entities.analyzeEntity({ lookup: byId({ id: randomUUID() }) }))).toMatchObject({
      ...{ reason: "NOT_FOUND", metadata: { lookup: "entity_id" } },
    });
  });

  it("rule 147: a trial of any matrix writes nothing, and is one with validate_only alone", async () => {
    const { entity } = await given();
    const trial = await newMatrix([{ expression: "true", points: "99" }]);
    expect(await refusal(analyze(entity, { riskMatrixId: trial.id }))).toMatchObject({
      ...{ reason: "VALIDATION_ERROR", metadata: { field: "risk_matrix_id" } },
    });
    const before = await stored();
    const {
      evaluation,
      entity: after,
      changed,
    } = await analyze(entity, { riskMatrixId: trial.id, validateOnly: true });
    expect(changed).toBe(true);
    expect(evaluation).toMatchObject({ id: "", eventId: "", riskMatrixId: trial.id, riskScore: "99.00" });
    expect(after?.riskScore).toBe("99.00");
    expect(await stored()).toEqual(before);
    expect(await current(client, entity)).toEqual(entity);
  });

  it("rule 148: an entity that has not changed is answered the evaluation that there is, and nothing is written", async () => {
    const { matrix, entity } = await given("entity.name == 'Ana Souza'");
    const first = await analyze(entity);
    const before = await stored();
    for (let i = 0; i < 3; i++) expect(await analyze(entity)).toEqual({ ...first, changed: false });
    expect(await stored()).toEqual(before);
    // A change of the entity, of the matrix, or to another matrix makes another one.
    await change(entity, { name: "Ana Lima" });
    const second = await analyze(entity);
    expect(second).toMatchObject({ changed: true, evaluation: { riskScore: "0.00" } });
    await client.riskMatrices.updateRiskMatrix({
      ...{ riskMatrixId: matrix.id, matrix: { rules: [rule({ expression: "true", points: "12" })] } },
    });
    const third = await analyze(entity);
    expect(third).toMatchObject({ changed: true, evaluation: { matrixVersion: 2, riskScore: "12.00" } });
    const other = await newMatrix([{ expression: "true", points: "13" }]);
    await change(entity, { riskMatrixId: other.id });
    expect(await analyze(entity)).toMatchObject({ changed: true, evaluation: { riskScore: "13.00" } });
    expect((await evaluationsOf(entity)).length).toBe(4);
  });

  it("rule 148: on another date it is evaluated again where a rule mentions it, and only there", async () => {
    for (const [expression, changed] of [
      ["today > '2020-01-01'", true],
      ["true", false],
    ] as const) {
      const { entity } = await given(expression);
      await analyze(entity);
      await service.sql("update evaluation set today = '2026-01-01' where entity_id = $1", [entity.id]);
      expect((await analyze(entity)).changed, expression).toBe(changed);
    }
  });

  it("rule 148: by another engine it is evaluated again", async () => {
    const { entity } = await given();
    await analyze(entity);
    await service.sql("update evaluation set engine = 'other' where entity_id = $1", [entity.id]);
    expect((await analyze(entity)).changed).toBe(true);
  });

  it("rule 148: many at once on one version make one evaluation, which all are answered", async () => {
    const { entity } = await given();
    const answers = await Promise.all(Array.from({ length: 32 }, () => analyze(entity)));
    const ids = new Set(answers.map(({ evaluation }) => evaluation?.id));
    expect(ids.size).toBe(1);
    expect(answers.filter(({ changed }) => changed).length).toBe(1);
    expect((await evaluationsOf(entity)).length).toBe(1);
  });

  it("rule 148: an entity that changes meanwhile is evaluated as it is in the end, or the call is WRITE_CONFLICT", async () => {
    const { entity } = await given("entity.attributes.n >= 0.0", { attributes: { n: 0 } });
    let isOver = false;
    const changing = (async () => {
      for (let n = 1; !isOver; n++) {
        await change(entity, { attributes: { n } });
        await sleep(Math.random() * 20);
      }
    })();
    const outcomes: PromiseSettledResult<Awaited<ReturnType<typeof analyze>>>[] = [];
    for (let i = 0; i < 10; i++) {
      outcomes.push(...(await Promise.allSettled(Array.from({ length: 8 }, () => analyze(entity)))));
    }
    isOver = true;
    await changing;
    const events = await eventsOf(client, entity);
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") {
        expect((await refusal(Promise.reject(outcome.reason))).reason).toBe("WRITE_CONFLICT");
        continue;
      }
      // Its event is the next one of the very version that it says.
      const { evaluation } = outcome.value;
      const event = events.find(({ id }) => id === evaluation?.eventId);
      expect(event?.entityVersion).toBe((evaluation?.entityVersion ?? 0n) + 1n);
      const before = events.find(({ entityVersion }) => entityVersion === evaluation?.entityVersion);
      expect(evaluation?.entityHash).toEqual(before?.hash);
    }
    expect(outcomes.some(({ status }) => status === "fulfilled")).toBe(true);
  });

  it("rule 39: a request_id answers the first evaluation again, although the entity is gone meanwhile", async () => {
    const { entity } = await given();
    const request = { lookup: byId(entity), requestId: randomUUID() };
    const first = await client.entities.analyzeEntity(request);
    await client.entities.deleteEntity({ lookup: byId(entity), reason: "no longer" });
    expect(await client.entities.analyzeEntity(request)).toEqual(first);
    expect(first.evaluation?.requestId).toBe(request.requestId);
  });
});

/** The document of a receipt as the contract describes it, from what a caller has. */
function documentOf(one: Evaluation, organizationId: string) {
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
  const at = timestampDate(one.evaluatedAt as NonNullable<typeof one.evaluatedAt>);
  const micros = String(Math.floor((one.evaluatedAt?.nanos ?? 0) / 1000)).padStart(6, "0");
  const decimals = micros.endsWith("000") ? micros.slice(0, 3) : micros;
  return {
    ...{ id: one.id, organizationId, entityId: one.entityId, entityVersion: Number(one.entityVersion) },
    ...{ entityHash: hex(one.entityHash), riskMatrixId: one.riskMatrixId, matrixVersion: one.matrixVersion },
    ...{ matrixSha256: hex(one.matrixSha256), engine: one.engine, today: one.today },
    ...{ rawScore: one.rawScore ?? null, riskScore: one.riskScore ?? null },
    ...{ level: one.level === RiskLevel.UNSPECIFIED ? null : wordOf(RiskLevel, one.level), incomplete: one.incomplete },
    results: one.rules.map(({ ruleId, state, outcome, error, points }) => ({
      ...{ ruleId, points, state: wordOf(RiskRuleState, state), outcome: wordOf(RiskRuleOutcome, outcome) },
      error: error === RiskRuleError.UNSPECIFIED ? null : wordOf(RiskRuleError, error),
    })),
    ...{ actor: one.actor, principal: one.principal, source: one.source, requestId: one.requestId || null },
    evaluatedAt: `${at.toISOString().slice(0, 19)}.${decimals}Z`,
  };
}

describe("a receipt", () => {
  it("rule 149: is told by one event, whose metadata has its hash: the chain covers it", async () => {
    const by = await organization.clientWith(["entities:write"], { actorId: "maria", source: "nightly" });
    for (const expression of ["true", "entity.nationality == 'MX'"]) {
      const { matrix, entity } = await given(expression);
      const requestId = randomUUID();
      const { evaluation, entity: after } = await by.entities.analyzeEntity({ lookup: byId(entity), requestId });
      const [created, event, ...more] = await eventsOf(client, entity);
      expect(more).toEqual([]);
      const one = evaluation as Evaluation;
      expect(one).toMatchObject({
        actor: "maria",
        source: "nightly",
        requestId,
        eventId: event?.id,
        entityVersion: 1n,
      });
      expect(one.entityHash).toEqual(created?.hash);
      expect(one.matrixSha256).toEqual(matrix.sha256);
      const sha256 = createHash("sha256")
        .update(canonicalize(documentOf(one, organization.id)) as string)
        .digest("hex");
      expect(event).toMatchObject({
        ...{ type: EventType.EVALUATED, event: "entity.evaluated", entityVersion: 2n, actor: "maria", requestId },
        ...{ updatedFields: one.incomplete ? [] : ["riskScore"], recordedAt: one.evaluatedAt },
        metadata: {
          ...{ evaluationId: one.id, evaluationSha256: sha256, riskMatrixId: matrix.id, matrixVersion: 1 },
          ...{ incomplete: one.incomplete, level: one.incomplete ? null : "MEDIUM" },
        },
      });
      expect(after?.etag).toBe(event?.id);
      // Nothing but the score, the version and the time has changed.
      expect({ ...after, riskScore: undefined, etag: "", updatedAt: undefined }).toEqual({
        ...{ ...entity, riskScore: undefined, etag: "", updatedAt: undefined },
      });
    }
  });

  it("rule 149: the service's role can neither change nor remove it, nor a version of a matrix", async () => {
    const privileges = await service.sql<{ name: string; may: boolean }>(
      `select t || ' ' || p as name, has_table_privilege('entity_service', t, p) as may
       from unnest(array['evaluation', 'risk_matrix_version']) t, unnest(array['update', 'delete', 'truncate']) p`,
    );
    expect(privileges.filter(({ may }) => may)).toEqual([]);
  });

  it("rule 149: fails with its event: where it cannot be stored, nothing is", async () => {
    const { entity } = await given();
    await service.sql("alter table evaluation add constraint planted check (source <> 'planted') not valid");
    try {
      const planted = await organization.clientWith(["entities:write"], { source: "planted" });
      expect((await refusal(planted.entities.analyzeEntity({ lookup: byId(entity) }))).reason).toBe("INTERNAL");
      expect(await current(client, entity)).toEqual(entity);
      expect((await eventsOf(client, entity)).length).toBe(1);
    } finally {
      await service.sql("alter table evaluation drop constraint planted");
    }
    expect((await analyze(entity)).changed).toBe(true);
  });

  it("rule 149: an update answers none, and does not touch the score", async () => {
    const { entity } = await given();
    await analyze(entity);
    const { entity: after } = await change(entity, { name: "Ana Lima" });
    expect(after?.riskScore).toBe("40.00");
  });
});

describe("the list", () => {
  it("rule 150: has those of the whole group, newest first, in pages; a merged entity leads to its survivor", async () => {
    const matrix = await newMatrix([{ expression: "true", points: "5" }]);
    const [survivor, merged] = [
      await person({ riskMatrixId: matrix.id, externalId: unique("s"), taxId: unique("S") }),
      await person({ riskMatrixId: matrix.id, externalId: unique("m"), taxId: unique("T") }),
    ];
    const made: (Evaluation | undefined)[] = [];
    for (const entity of [survivor, merged]) made.push((await analyze(entity)).evaluation);
    const { mergeId } = await client.entities.mergeEntities({
      ...{ primary: byId(survivor), secondary: byId(merged), reason: "the same person" },
    });
    for (const lookup of [byId(merged), byExternalId(merged.externalId), byTaxId(merged.taxId ?? "")]) {
      const { redirectedFrom, entity, evaluation } = await client.entities.analyzeEntity({ lookup });
      expect(redirectedFrom, lookup.by.case).toBe(merged.id);
      expect(entity?.id).toBe(survivor.id);
      if (made.length === 2) made.push(evaluation);
      else expect(evaluation).toEqual(made[2]);
    }
    const expected = made.toReversed();
    expect(expected.map((one) => one?.entityId)).toEqual([survivor.id, merged.id, survivor.id]);
    for (const entity of [survivor, merged]) expect(await evaluationsOf(entity)).toEqual(expected);
    const pages: Evaluation[] = [];
    let pageToken = "";
    do {
      const page = await client.entities.listEvaluations({ lookup: byId(survivor), pageSize: 1, pageToken });
      expect(page.evaluations.length).toBe(1);
      pages.push(...page.evaluations);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(pages).toEqual(expected);
    await client.entities.unmergeEntities({ mergeId, reason: "two persons after all" });
    expect(await evaluationsOf(merged)).toEqual([made[1]]);
    expect(await evaluationsOf(survivor)).toEqual([made[2], made[0]]);
  });

  it("rule 150: of an entity that was never analyzed it is empty, of none NOT_FOUND", async () => {
    const entity: Entity = await person({});
    expect(await evaluationsOf(entity)).toEqual([]);
    expect((await refusal(evaluationsOf({ id: randomUUID() }))).reason).toBe("NOT_FOUND");
  });
});
