// Risk over the wire: matrices and their versions, analyses and their receipts.
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Entity, EntityType, RiskLevel, type RiskRuleState } from "../clients/typescript/index.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let organization: TestOrganization;

beforeAll(async () => {
  service = await startService();
  organization = await service.newOrganization();
});
afterAll(() => service[Symbol.asyncDispose]());

interface Rule {
  id?: string;
  displayName?: string;
  expression: string;
  points?: string;
  state?: RiskRuleState;
}

const rule = ({ id = `r${randomUUID()}`, displayName = "A rule", points = "10.00", ...rest }: Rule) => ({
  ...{ id, displayName, points },
  ...rest,
});

async function newMatrix(rules: Rule[], of = organization) {
  const { matrix } = await of.client.riskMatrices.createRiskMatrix({
    matrix: { displayName: "Customers", rules: rules.map(rule) },
  });
  return matrix as NonNullable<typeof matrix>;
}

async function newEntity(entity: Partial<Entity> = {}, of = organization): Promise<Entity> {
  const { entity: made } = await of.client.entities.createEntity({
    entity: { type: EntityType.PERSON, name: "Ana Ruiz", countryCode: "MX", ...entity } as Entity,
  });
  return made as Entity;
}

const lookupOf = ({ id }: { id: string }) => ({ by: { case: "entityId" as const, value: id } });

test("a matrix is made, an entity is analyzed by it, and the receipt is listed", async () => {
  const { client } = organization;
  const matrix = await newMatrix([
    { id: "mexico", expression: "entity.countryCode == 'MX'", points: "25" },
    { id: "pep", expression: "has(entity.attributes.pep) && entity.attributes.pep", points: "50.5" },
  ]);
  const entity = await newEntity({ riskMatrixId: matrix.id, attributes: { pep: true } } as Partial<Entity>);
  const { entity: after, evaluation, changed } = await client.entities.analyzeEntity({ lookup: lookupOf(entity) });
  expect(changed).toBe(true);
  expect(after?.riskScore).toBe("75.50");
  expect(evaluation).toMatchObject({ rawScore: "75.50", riskScore: "75.50", level: RiskLevel.HIGH, incomplete: false });
  const { evaluations } = await client.entities.listEvaluations({ lookup: lookupOf(entity) });
  expect(evaluations).toEqual([evaluation]);
});
