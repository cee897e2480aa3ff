// WatchEntities: what everybody who needs to know is told (section G of the rules, and the contract's table).
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EntityStatus, EventType } from "../clients/typescript/index.ts";
import { byId, lastEventOf, newPerson, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { watching } from "./watchers.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

describe("WatchEntities", () => {
  it("rule 64: sends entity.updated after an effective update, with everything that the log says of it", async () => {
    const { client } = await service.newOrganization();
    const externalId = unique("watch");
    const entity = await newPerson(client, { externalId });
    await using watch = watching(client);
    await watch.started();
    await client.entities.updateEntity({
      lookup: byId(entity),
      entity: { status: EntityStatus.BLOCKED },
      reason: "fraud",
    });
    await watch.until((messages) => messages.length >= 2);
    const [event] = watch.events();
    expect(event).toEqual(await lastEventOf(client, entity));
    expect(event).toMatchObject({
      event: "entity.updated",
      type: EventType.ATTRIBUTE_CHANGED,
      externalIds: [externalId],
      updatedFields: ["status"],
      previousValues: { status: "pending" },
      newValues: { status: "blocked" },
      reason: "fraud",
    });
  });
});
