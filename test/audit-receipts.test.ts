// Rules 132 and 136, of risk: evaluations that are not what their events tell, and versions of matrices that are not what
// their hashes and their evaluations say, are found and named. Each change is made by somebody who may write everything,
// found, and taken back.
import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RiskRuleState } from "../clients/typescript/index.ts";
import { matrixHash } from "../src/risk/matrices.ts";
import { auditOf, makeAll, nameOf, ormOf, saveTables, uncheckedBy } from "./audits.ts";
import { reseal } from "./chains.ts";
import { byId, newPerson, together } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let saved: Awaited<ReturnType<typeof saveTables>>;
let a: TestOrganization;
let b: TestOrganization;
/** Of `a`: one that was analyzed by versions 1 and 2, and one by version 2. */
let victim: { id: string };
let other: { id: string };
/** Versions 1 and 3 of it were used by nobody else, and by nobody. */
let matrixId: string;

interface Told {
  evaluation: string;
  event: string;
}
/** The evaluations of the victim, and the one of the other. */
let first: Told;
let second: Told;
let others: Told;

const rules = (expression: string) => [
  { id: "one", displayName: "One", expression, points: "40", state: RiskRuleState.ACTIVE },
  { id: "two", displayName: "Two", expression: "false", points: "5", state: RiskRuleState.SHADOW },
];

beforeAll(async () => {
  service = await startService();
  [a, b] = [await service.newOrganization(), await service.newOrganization()];
  const { riskMatrices } = a.client;
  const { matrix } = await riskMatrices.createRiskMatrix({ matrix: { displayName: "M", rules: rules("true") } });
  matrixId = matrix?.id ?? "";
  const next = (expression: string) =>
    riskMatrices.updateRiskMatrix({ riskMatrixId: matrixId, matrix: { rules: rules(expression) } });
  [victim, other] = [
    await newPerson(a.client, { riskMatrixId: matrixId }),
    await newPerson(a.client, { riskMatrixId: matrixId }),
  ];
  const analyze = async ({ id }: { id: string }): Promise<Told> => {
    const { evaluation } = await a.client.entities.analyzeEntity({ lookup: byId({ id }) });
    return { evaluation: evaluation?.id ?? "", event: evaluation?.eventId ?? "" };
  };
  first = await analyze(victim);
  await next("false");
  second = await analyze(victim);
  others = await analyze(other);
  await next("1 == 1");
  const orm = ormOf(service);
  await makeAll(orm, a.id, undefined);
  await orm.close(true);
  saved = await saveTables(service, ["evaluation", "risk_matrix", "risk_matrix_version"]);
}, 60_000);
afterEach(() => saved.takeBack());
afterAll(async () => {
  await saved.drop();
  await service[Symbol.asyncDispose]();
});

const unchecked = (text: string) => uncheckedBy(service, text);

type Named = Record<string, string | number>;

async function findings(request: Parameters<typeof auditOf>[1] = {}, of = a): Promise<Named[]> {
  const audit = await auditOf(of, request);
  return audit.findings.map((finding) => {
    const { kind, entityId, entityVersion, eventId, evaluationId, riskMatrixId, matrixVersion, detail } = finding;
    return {
      kind: nameOf(kind),
      ...(entityId !== "" && { entity: entityId }),
      ...(entityVersion !== 0n && { version: Number(entityVersion) }),
      ...(eventId !== "" && { event: eventId }),
      ...(evaluationId !== "" && { evaluation: evaluationId }),
      ...(riskMatrixId !== "" && { matrix: riskMatrixId, matrixVersion }),
      detail,
    };
  });
}

/** The findings of an evaluation of the victim, by the event that tells of it. */
const differs = ({ evaluation, event }: Told, detail: string): Named => ({
  ...{
    kind: "EVALUATION_DIFFERS",
    entity: victim.id,
    version: event === first.event ? 2 : 3,
    event,
    evaluation,
    detail,
  },
});
const untold = ({ evaluation, event }: Told): Named => ({
  ...{ kind: "EVALUATION_DIFFERS", entity: victim.id, event, evaluation },
  detail: "its event does not tell of it, or is not there",
});
const matrixDiffers = (matrixVersion: number, detail: string): Named => ({
  ...{ kind: "RISK_MATRIX_DIFFERS", matrix: matrixId, matrixVersion, detail },
});
const ANOTHER = "it is not what the hash in its event says";
const GONE = "its event tells of it, and it is not there";
const NOT_ITS_HASH = "it is not what its hash says";

const counted = async (request: Parameters<typeof auditOf>[1] = {}) => {
  const { counts, done } = await auditOf(a, request);
  return { evaluations: Number(counts.evaluations), versions: Number(counts.matrixVersions), done };
};

test("rule 132: receipts that nobody has touched are right, and counted: of all, of one entity, since a time", async () => {
  expect(await findings()).toEqual([]);
  expect(await counted()).toEqual({ evaluations: 3, versions: 3, done: 1 });
  expect(await findings({ lookup: byId(victim) })).toEqual([]);
  expect(await counted({ lookup: byId(victim) })).toEqual({ evaluations: 2, versions: 2, done: 1 });
  const [{ at }] = (await service.sql("select evaluated_at::text as at from evaluation where id = $1", [
    second.evaluation,
  ])) as [{ at: string }];
  const from = {
    seconds: BigInt(Math.floor(Date.parse(at) / 1_000)),
    nanos: Number(at.match(/\.(\d+)/)?.[1]?.padEnd(9, "0") ?? 0),
  };
  expect(await findings({ from })).toEqual([]);
  expect(await counted({ from })).toEqual({ evaluations: 2, versions: 3, done: 1 });
  expect(await findings({}, b)).toEqual([]);
});

/** Each column with another value, and what is found; by default that it is not what its event says. */
const EVALUATION_COLUMNS: Record<string, { value: string; expected?: () => Named[] }> = {
  organization_id: {
    value: "(select organization_id from organization where organization_id <> evaluation.organization_id limit 1)",
    expected: () => [differs(first, GONE)],
  },
  id: {
    value: "'00000000-0000-7000-8000-000000000001'",
    expected: () => [differs(first, GONE), untold({ ...first, evaluation: "00000000-0000-7000-8000-000000000001" })],
  },
  entity_id: { value: "gen_random_uuid()" },
  entity_version: { value: "9223372036854775807" },
  entity_hash: { value: "set_byte(entity_hash, 3, 255 - get_byte(entity_hash, 3))" },
  risk_matrix_id: { value: "gen_random_uuid()" },
  matrix_version: { value: "2" },
  matrix_sha256: { value: "set_byte(matrix_sha256, 3, 255 - get_byte(matrix_sha256, 3))" },
  engine: { value: "engine || 'x'" },
  today: { value: "today || 'x'" },
  raw_score: { value: "'0.00'" },
  risk_score: { value: "'0.00'" },
  level: { value: "'LOW'" },
  incomplete: { value: "true, raw_score = null, risk_score = null, level = null" },
  results: { value: `results || '[{"x": 1}]'` },
  actor: { value: "actor || 'x'" },
  principal: { value: "gen_random_uuid()" },
  source: { value: "source || 'x'" },
  request_id: { value: "gen_random_uuid()" },
  evaluated_at: { value: "evaluated_at + interval '1 microsecond'" },
  event_id: {
    value: "gen_random_uuid()",
    expected: () => [differs(first, "it names another event than the one that tells of it")],
  },
};

async function columnsOf(table: string): Promise<string[]> {
  const rows = await service.sql<{ name: string }>(
    "select attname::text as name from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped",
    [table],
  );
  return rows.map(({ name }) => name).sort();
}

describe("an evaluation", () => {
  test("rule 136: all of its columns are changed here", async () => {
    expect(Object.keys(EVALUATION_COLUMNS).sort()).toEqual(await columnsOf("evaluation"));
  });

  test.each(Object.keys(EVALUATION_COLUMNS))("rule 136: whose %s was changed", async (column) => {
    const { value, expected } = EVALUATION_COLUMNS[column] as (typeof EVALUATION_COLUMNS)[string];
    await unchecked(`update evaluation set ${column} = ${value} where id = '${first.evaluation}'`);
    expect(await findings()).toEqual(expected?.() ?? [differs(first, ANOTHER)]);
    // It is of another entity now, or of another organization; its event still tells of it.
    expect((await findings({ lookup: byId(victim) }))[0]).toEqual((expected?.() ?? [differs(first, ANOTHER)])[0]);
    expect(await findings({ lookup: byId(other) })).toEqual([]);
  });

  test.each([
    ["a result with one value more", `jsonb_set(results, '{0,x}', '1')`],
    ["other points", `jsonb_set(results, '{0,points}', '"40.01"')`],
    ["another outcome", `jsonb_set(results, '{0,outcome}', '"NOT_MATCHED"')`],
    ["no results", "'{}'"],
    ["no list of them", "'null'"],
  ])("rule 136: that has %s", async (_what, value) => {
    await unchecked(`update evaluation set results = ${value} where id = '${first.evaluation}'`);
    expect(await findings()).toEqual([differs(first, ANOTHER)]);
  });

  test("rule 136: that holds what none does", async () => {
    await unchecked(`update evaluation set evaluated_at = 'infinity' where id = '${first.evaluation}'`);
    expect(await findings()).toEqual([differs(first, ANOTHER)]);
    expect(await findings({ lookup: byId(victim) })).toEqual([differs(first, ANOTHER)]);
  });

  test("rule 136: that was removed", async () => {
    await service.sql("delete from evaluation where id = $1", [second.evaluation]);
    expect(await findings()).toEqual([differs(second, GONE)]);
    expect(await findings({ lookup: byId(victim) })).toEqual([differs(second, GONE)]);
  });

  test("rule 136: two that were swapped are two that are not what their events say", async () => {
    const copy = (to: string, from: string) =>
      `update evaluation e set raw_score = s.raw_score, risk_score = s.risk_score, level = s.level, results = s.results
       from saved_evaluation s where e.id = '${to}' and s.id = '${from}';`;
    await unchecked(copy(first.evaluation, second.evaluation) + copy(second.evaluation, first.evaluation));
    expect(await findings()).toEqual(expect.arrayContaining([differs(first, ANOTHER), differs(second, ANOTHER)]));
  });

  /** A copy of the first one, with other values. */
  const add = (values: Record<string, string>) =>
    unchecked(
      `insert into evaluation select (jsonb_populate_record(e, jsonb_build_object(${Object.entries(values)
        .map(([name, value]) => `'${name}', ${value}`)
        .join(", ")}))).* from evaluation e where id = '${first.evaluation}'`,
    );
  const ADDED = "00000000-0000-7000-8000-000000000002";

  test.each([
    ["that names the event of another", {}],
    ["that names no event", { event_id: "gen_random_uuid()" }],
    ["of a time that the calendar lacks", { evaluated_at: "'infinity'" }],
    [
      "of a version behind which there is none",
      { event_id: "gen_random_uuid()", entity_version: "9223372036854775807" },
    ],
  ])("rule 136: one that was added, %s", async (_what, values) => {
    await add({ id: `'${ADDED}'`, entity_version: "77", ...values });
    for (const request of [{}, { lookup: byId(victim) }]) {
      expect(await findings(request)).toMatchObject([
        { kind: "EVALUATION_DIFFERS", entity: victim.id, evaluation: ADDED, detail: untold(first).detail },
      ]);
    }
  });

  test("rule 132: one that was added, of a time before that from which on is verified, is no finding", async () => {
    await add({ id: `'${ADDED}'`, entity_version: "77" });
    const from = { seconds: BigInt(Math.floor(Date.now() / 1_000) + 60) };
    expect(await findings({ from })).toEqual([]);
    expect(await findings({ from: { seconds: from.seconds - 3_600n } })).toHaveLength(1);
  });

  test("rules 132 and 135: one whose event was pruned is no finding, and one whose event was removed is", async () => {
    await service.sql("delete from entity_event where id = $1", [first.event]);
    expect(await findings()).toEqual(expect.arrayContaining([untold(first)]));
    await service.sql("update organization set event_retention_days = 7 where organization_id = $1", [a.id]);
    await service.sql(`update evaluation set evaluated_at = evaluated_at - interval '9 d' where id = $1`, [
      first.evaluation,
    ]);
    const horizon = `insert into event_horizon (organization_id, epoch, xid, snapshot, recorded_at)
      values ('${a.id}', 0, '1', pg_current_snapshot(), clock_timestamp() - interval '8 d')`;
    await service.sql(horizon);
    try {
      expect((await findings()).filter(({ kind }) => kind === "EVALUATION_DIFFERS")).toEqual([]);
    } finally {
      await service.sql("delete from event_horizon where organization_id = $1", [a.id]);
      await service.sql("update organization set event_retention_days = null where organization_id = $1", [a.id]);
    }
  });

  test("rule 136: whose event was made anew, for it was changed, is right, and the event is found", async () => {
    await service.sql("update entity_event set metadata = metadata || $2::jsonb where id = $1", [
      first.event,
      { evaluationId: "no id", evaluationSha256: 7 },
    ]);
    await reseal(service.sql, [victim.id]);
    const found = await findings();
    expect(found.filter(({ kind }) => kind === "EVALUATION_DIFFERS")).toEqual([
      { kind: "EVALUATION_DIFFERS", entity: victim.id, version: 2, event: first.event, detail: GONE },
      untold(first),
    ]);
    expect(found).toEqual(expect.arrayContaining([expect.objectContaining({ kind: "CHANGED", event: first.event })]));
  });
});

test("rule 136: an evaluation that cannot be hashed is not that of an event that was made anew without a hash", async () => {
  await service.sql("update entity_event set metadata = metadata - 'evaluationSha256' where id = $1", [first.event]);
  await reseal(service.sql, [victim.id]);
  expect(await findings({ lookup: byId(victim) })).toContainEqual(differs(first, ANOTHER));
  await service.sql("update evaluation set results = '7' where id = $1", [first.evaluation]);
  expect(await findings({ lookup: byId(victim) })).toContainEqual(differs(first, ANOTHER));
});

describe("many", () => {
  test("rule 136: evaluations that were added are all named, a page after the other", async () => {
    const count = 4_500;
    await unchecked(
      `insert into evaluation select (jsonb_populate_record(e, jsonb_build_object(
         'id', md5(i::text)::uuid, 'entity_version', 1000 + i, 'evaluated_at', now() + i / 3 * interval '1 ms'))).*
       from evaluation e, generate_series(1, ${count}) i where id = '${first.evaluation}'`,
    );
    for (const request of [{}, { lookup: byId(victim) }]) {
      const found = await findings(request);
      expect(new Set(found.map(({ evaluation }) => evaluation)).size).toBe(count);
      expect(found).toHaveLength(count);
    }
    expect(await findings({ lookup: byId(other) })).toEqual([]);
  });

  test("rule 136: versions of more bytes and rows than a page has are all looked at", async () => {
    const own = await service.newOrganization();
    const id = crypto.randomUUID();
    await service.sql(
      `insert into risk_matrix (organization_id, id, display_name, description, version, etag)
       values ($1, $2, 'M', '', 1203, $2)`,
      [own.id, id],
    );
    const thresholds = { medium: "30.00", high: "60.00", critical: "80.00" };
    const add = (from: number, to: number, expression: () => string) => {
      const made = Array.from({ length: to - from + 1 }, (_, i) => {
        const [one] = rules(expression());
        const all = [{ ...one, points: "40.00", state: "ACTIVE" as const }] as Parameters<
          typeof matrixHash
        >[0]["rules"];
        const sha256 = matrixHash({ id, version: from + i, rules: all, thresholds }).toString("hex");
        return { version: from + i, rules: all, sha256 };
      });
      return service.sql(
        `insert into risk_matrix_version (organization_id, risk_matrix_id, version, rules, thresholds, mentions_today, sha256)
         select $1, $2, v.version, v.rules, $3, false, decode(v.sha256, 'hex')
         from jsonb_to_recordset($4) as v(version int, rules jsonb, sha256 text)`,
        [own.id, id, thresholds, JSON.stringify(made)],
      );
    };
    await add(1, 1_200, () => "true");
    await add(1_201, 1_203, () => randomBytes(600_000).toString("base64"));
    expect(await findings({}, own)).toEqual([]);
    expect((await auditOf(own)).counts.matrixVersions).toBe(1_203n);
    await unchecked(
      `update risk_matrix_version set rules = jsonb_set(rules, '{0,points}', '"9.00"')
       where risk_matrix_id = '${id}' and version in (500, 501, 1000, 1202);
       delete from risk_matrix_version where risk_matrix_id = '${id}' and version between 700 and 710`,
    );
    const found = (await findings({}, own)).map(({ matrixVersion, detail }) => `${matrixVersion} ${detail}`);
    expect(found).toEqual([
      ...[`500 ${NOT_ITS_HASH}`, `501 ${NOT_ITS_HASH}`, "700 it is not there, nor are those up to version 710"],
      ...[`1000 ${NOT_ITS_HASH}`, `1202 ${NOT_ITS_HASH}`],
    ]);
  });

  test("rule 132: evaluations of more bytes than a page has, and those that are written meanwhile, are right", async () => {
    const own = await service.newOrganization();
    const many = Array.from({ length: 200 }, (_, i) => ({
      ...{ id: `r${randomBytes(31).toString("hex")}`, displayName: "R", expression: `${i} == ${i}`, points: "0.01" },
    }));
    const { matrix } = await own.client.riskMatrices.createRiskMatrix({ matrix: { displayName: "M", rules: many } });
    let made = 0;
    const analyze = async () => {
      const person = await newPerson(own.client, { riskMatrixId: matrix?.id ?? "" });
      await own.client.entities.analyzeEntity({ lookup: byId(person) });
      made += 1;
    };
    await together(8, async () => {
      while (made < 120) await analyze();
    });
    let isWriting = true;
    const writing = together(4, async () => {
      while (isWriting) await analyze();
    });
    for (let i = 0; i < 5; i++) expect(await findings({}, own)).toEqual([]);
    isWriting = false;
    for (const { reason } of await writing) expect(reason).toBeUndefined();
    expect((await auditOf(own)).counts.evaluations).toBe(BigInt(made));
  }, 30_000);
});

describe("a version of a matrix", () => {
  const change = (version: number, set: string) =>
    unchecked(`update risk_matrix_version set ${set} where risk_matrix_id = '${matrixId}' and version = ${version}`);

  test.each([
    ["an expression", `rules = jsonb_set(rules, '{0,expression}', '"false"')`],
    ["points", `rules = jsonb_set(rules, '{1,points}', '"6.00"')`],
    ["a value that no rule has", `rules = jsonb_set(rules, '{0,x}', '1')`],
    ["no rules", `rules = '7'`],
    ["a threshold", `thresholds = thresholds || '{"high": "61.00"}'`],
    ["a threshold that there is not", `thresholds = thresholds || '{"x": "61.00"}'`],
  ])("rule 136: that was changed by SQL: %s", async (_what, set) => {
    await change(1, set);
    expect(await findings()).toEqual([matrixDiffers(1, NOT_ITS_HASH)]);
    expect(await findings({ lookup: byId(victim) })).toEqual([matrixDiffers(1, NOT_ITS_HASH)]);
    expect(await findings({ lookup: byId(other) })).toEqual([]);
    expect((await counted()).versions).toBe(2);
  });

  test("rule 136: that was changed and hashed anew is not the one that its evaluations were made by: named once", async () => {
    const [row] = await service.sql(
      "select rules, thresholds from risk_matrix_version where risk_matrix_id = $1 and version = 2",
      [matrixId],
    );
    const { rules: all, thresholds } = row as Pick<Parameters<typeof matrixHash>[0], "rules" | "thresholds">;
    const changed = all.map((rule) => ({ ...rule, points: "1.00" }));
    const sha256 = matrixHash({ id: matrixId, version: 2, rules: changed, thresholds });
    await service.sql(
      "update risk_matrix_version set rules = $3, sha256 = $4 where risk_matrix_id = $1 and version = $2",
      [matrixId, 2, JSON.stringify(changed), sha256],
    );
    const finding = matrixDiffers(2, "an evaluation was made by another");
    const by = { entity: victim.id, version: 3, ...second };
    const byOther = { entity: other.id, version: 2, ...others };
    // Whichever of the two entities comes first.
    const found = await findings();
    expect(found).toHaveLength(1);
    expect([
      { ...finding, ...by },
      { ...finding, ...byOther },
    ]).toContainEqual(found[0]);
    expect(await findings({ lookup: byId(other) })).toEqual([{ ...finding, ...byOther }]);
  });

  test("rule 136: whose hash was changed is found by itself and by its evaluation", async () => {
    await change(1, "sha256 = '\\x00'");
    expect(await findings()).toEqual([
      { ...matrixDiffers(1, "an evaluation was made by another"), entity: victim.id, version: 2, ...first },
      matrixDiffers(1, NOT_ITS_HASH),
    ]);
  });

  test("rule 136: that was removed, with evaluations or without", async () => {
    const remove = (versions: string) =>
      unchecked(`delete from risk_matrix_version where risk_matrix_id = '${matrixId}' and version in (${versions})`);
    await remove("3");
    expect(await findings()).toEqual([matrixDiffers(3, "it is not there")]);
    await saved.takeBack();
    await remove("1");
    const byFirst = { ...matrixDiffers(1, "an evaluation was made by it, and it is not there"), entity: victim.id };
    expect(await findings()).toEqual([{ ...byFirst, version: 2, ...first }, matrixDiffers(1, "it is not there")]);
    await remove("2, 3");
    expect(await findings()).toEqual(
      expect.arrayContaining([matrixDiffers(1, "it is not there, nor are those up to version 3")]),
    );
  });

  test("rule 136: that was added, or moved to another place", async () => {
    await change(3, "version = 4");
    expect(await findings()).toEqual([
      matrixDiffers(3, "it is not there"),
      matrixDiffers(4, "it is beyond the last version of its matrix"),
      matrixDiffers(4, NOT_ITS_HASH),
    ]);
  });
});
