// BatchUpdateEntities: many updates in one transaction (rules 151 and 152).
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EntityType } from "../clients/typescript/index.ts";
import { byExternalId, byId, current, eventsOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

describe("rule 152: the answer", () => {
  it("rule 152: says of each item which entity it was, its etag, and what was updated, ignored or created", async () => {
    const person = await newPerson(service.client);
    const externalId = unique("new");
    const { results } = await service.client.entities.batchUpdateEntities({
      requests: [
        { lookup: byId(person), entity: { name: "Bia", riskScore: "1.00" } },
        {
          lookup: byExternalId(externalId),
          entity: { name: "Caio", type: EntityType.PERSON, countryCode: "BR" },
          allowMissing: true,
        },
        { lookup: byExternalId(externalId), entity: { name: "Davi" } },
      ],
    });
    const made = (await service.client.entities.getEntity({ lookup: byExternalId(externalId) })).entity;
    const [, second] = await eventsOf(service.client, made ?? { id: "" });
    expect(results).toMatchObject([
      {
        entityId: person.id,
        redirectedFrom: "",
        etag: (await current(service.client, person)).etag,
        updatedFields: ["name"],
        ignoredFields: ["risk_score"],
        created: false,
      },
      { entityId: made?.id, updatedFields: [], created: true },
      { entityId: made?.id, etag: second?.id, updatedFields: ["name"], created: false },
    ]);
    expect(made).toMatchObject({ name: "Davi", etag: second?.id });
  });
});

describe("rule 151: all or none", () => {
  it("rule 151: the first refusal is that of the batch, with its index and the paths of its fields", async () => {
    const person = await newPerson(service.client);
    const { events: before } = await service.client.entities.listEntityEvents({});
    const item = { lookup: byId(person), entity: { name: "Bia" } };
    expect(
      await refusal(
        service.client.entities.batchUpdateEntities({
          requests: [item, { lookup: byId(person), entity: { countryCode: "AR" } }, item],
        }),
      ),
    ).toMatchObject({
      reason: "IMMUTABLE_FIELD",
      metadata: { index: "1", field: "requests[1].entity.country_code" },
      fields: ["requests[1].entity.country_code"],
    });
    expect((await current(service.client, person)).name).toBe(person.name);
    expect((await service.client.entities.listEntityEvents({})).events).toEqual(before);
  });
});
