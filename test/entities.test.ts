import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EntityStatus, EntityType } from "../clients/typescript/index.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

describe("CreateEntity", () => {
  it("rule 14: trims the name, upper-cases the country, makes a pending entity", async () => {
    const { entity } = await service.client.entities.createEntity({
      entity: { type: EntityType.PERSON, name: "  Ana  ", countryCode: "ar", externalId: " a-1 " },
    });
    expect(entity).toMatchObject({ name: "Ana", countryCode: "AR", externalId: "a-1", status: EntityStatus.PENDING });
  });

  it("rule 14: refuses an entity without type, name or country, and says so of each", async () => {
    expect(await refusal(service.client.entities.createEntity({ entity: {} }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["entity.type", "entity.country_code", "entity.name"],
    });
  });
});
