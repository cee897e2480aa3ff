// `entity-service analyze`, as a process, with the matrix of the examples.
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { fromJson } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, EntityType, RiskMatrixSchema, RiskRuleOutcome } from "../clients/typescript/index.ts";
import { cli } from "./cli-process.ts";
import { byId, newPerson } from "./given.ts";
import { forget, startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let organization: TestOrganization;
beforeAll(async () => {
  service = await startService();
  organization = await service.newOrganization();
});
afterAll(() => service[Symbol.asyncDispose]());

const run = (...args: string[]) =>
  cli(args, { env: { ENTITY_SERVICE_URL: service.baseUrl, ENTITY_SERVICE_API_KEY: organization.apiKey } });

async function exampleMatrix(): Promise<string> {
  const text = await readFile(new URL("../examples/risk-matrix.json", import.meta.url), "utf8");
  const matrix = fromJson(RiskMatrixSchema, JSON.parse(text));
  return (await organization.client.riskMatrices.createRiskMatrix({ matrix })).matrix?.id ?? "";
}

const analyses = async () =>
  Number(
    (await service.sql("select count(*) as n from evaluation where organization_id = $1", [organization.id]))[0]?.n,
  );

describe("analyze", () => {
  it("rule 148: --all analyzes whoever has a matrix, and writes nothing the second time", async () => {
    const riskMatrixId = await exampleMatrix();
    const people: Entity[] = [];
    for (let i = 0; i < 30; i++) {
      people.push(await newPerson(organization.client, { riskMatrixId, attributes: { pep: i % 2 === 0 } }));
    }
    await newPerson(organization.client, {});
    expect(await run("analyze", "--all")).toEqual({
      ...{ code: 0, stderr: "" },
      stdout: "analyzed 30, unchanged 0, failed 0; of the first two 0 incomplete\n",
    });
    expect(await analyses()).toBe(30);
    const again = await run("analyze", "--all");
    expect(again.stdout).toBe("analyzed 0, unchanged 30, failed 0; of the first two 0 incomplete\n");
    expect(await analyses()).toBe(30);
    const { entity } = await organization.client.entities.getEntity({ lookup: byId(people[0] as Entity) });
    expect(Number(entity?.riskScore)).toBeGreaterThan(0);
  });

  it("every rule of the example matches somebody", async () => {
    const riskMatrixId = await exampleMatrix();
    const year = new Date().toISOString().slice(0, 4);
    const { entity: company } = await organization.client.entities.createEntity({
      entity: {
        ...{ type: EntityType.COMPANY, name: "Casino", countryCode: "AR", taxId: "20-12345678-9", riskMatrixId },
        entityData: {
          kind: { case: "company", value: { industry: "Casino hotels", incorporationDate: `${year}-01-01` } },
        },
        attributes: { adverseMedia: ["a paper"], monthlyVolume: 200_000 },
      },
    });
    const person = await newPerson(organization.client, {
      ...{ countryCode: "IR", nationality: "BR", riskMatrixId, attributes: { pep: true } },
    });
    await service.sql("update entity set created_at = '2020-01-01' where id = $1", [person.id]);
    const matched = new Set<string>();
    for (const entity of [company as Entity, person]) {
      const { evaluation } = await organization.client.entities.analyzeEntity({
        ...{ lookup: byId(entity), validateOnly: true },
      });
      expect(evaluation?.incomplete).toBe(false);
      for (const { ruleId, outcome } of evaluation?.rules ?? []) {
        if (outcome === RiskRuleOutcome.MATCHED) matched.add(ruleId);
      }
    }
    const { matrix } = await organization.client.riskMatrices.getRiskMatrix({ riskMatrixId });
    expect([...matched].sort()).toEqual(matrix?.rules.map(({ id }) => id).sort());
    await forget(service, [company?.id ?? "", person.id]);
  });

  it("rule 147: what cannot be analyzed is told by its id, and the others are", async () => {
    const lost = await newPerson(organization.client, { riskMatrixId: randomUUID() });
    const { code, stdout, stderr } = await run("analyze", "--all");
    expect(code).toBe(1);
    expect(stdout).toContain("failed 1;");
    expect(stderr).toBe(`${lost.id}  NOT_FOUND: Risk matrix not found\n`);
  });

  it("prints the evaluation of one, or of a trial that stores nothing", async () => {
    const riskMatrixId = await exampleMatrix();
    const one = await newPerson(organization.client, { riskMatrixId });
    const before = await analyses();
    const trial = await run("analyze", "--id", one.id, "--matrix", riskMatrixId);
    expect(JSON.parse(trial.stdout)).toMatchObject({ entityId: one.id, level: "RISK_LEVEL_LOW" });
    expect(await analyses()).toBe(before);
    const { code, stdout } = await run("analyze", "--id", one.id);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ entityId: one.id, riskMatrixId });
    expect(await analyses()).toBe(before + 1);
  });

  it.each([[[]], [["--all", "--id", randomUUID()]], [["--all", "--matrix", randomUUID()]]])(
    "refuses %j",
    async (args) => expect((await run("analyze", ...args)).code).toBe(2),
  );
});
