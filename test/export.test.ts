// ExportEntities: all entities as they were at a position of the log, however long they take to read.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Entity, EntityClient } from "../clients/typescript/index.ts";
import { asThen, byId, newPerson, unique } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
});
afterAll(() => service[Symbol.asyncDispose]());

type Query = Parameters<EntityClient["entities"]["exportEntities"]>[0];

/** An export read to its end. */
async function exported(client: EntityClient, query: Query = {}) {
  const entities: Entity[] = [];
  const positions = new Set<string>();
  let done = 0;
  for await (const message of client.entities.exportEntities(query)) {
    entities.push(...message.entities);
    positions.add(message.position);
    expect(message.done).toBeGreaterThanOrEqual(done);
    ({ done } = message);
  }
  expect(done).toBe(1);
  expect(positions.size).toBe(1);
  return { entities, position: [...positions][0] ?? "" };
}

const names = (entities: readonly Entity[]) => entities.map(({ name }) => name);

describe("ExportEntities", () => {
  let organization: TestOrganization;
  let client: EntityClient;
  beforeAll(async () => {
    organization = await service.newOrganization();
    ({ client } = organization);
  });

  it("rule 153: sends what was there at the position, whatever has happened since", async () => {
    const make = (name: string) => newPerson(client, { name, externalId: unique(name) });
    const [kept, edited, deleted, merged, survivor, gone] = [
      await make("kept"),
      await make("edited"),
      await make("deleted"),
      await make("merged"),
      await make("survivor"),
      await make("gone"),
    ];
    const why = { reason: "because of a test" };
    const deletion = await client.entities.deleteEntity({ lookup: byId(gone), ...why });
    const before = [kept, edited, deleted, merged, survivor].map(asThen);
    const { position, entities } = await exported(client);
    expect(entities).toEqual(before);

    await client.entities.updateEntity({ lookup: byId(edited), entity: { name: "other", taxId: "1" } });
    await client.entities.updateEntity({ lookup: byId(edited), entity: { name: "another" } });
    await client.entities.deleteEntity({ lookup: byId(deleted), ...why });
    await client.entities.mergeEntities({ primary: byId(survivor), secondary: byId(merged), ...why });
    await client.entities.undeleteEntity({ lookup: byId(gone), ...why });
    await make("new");
    expect((await exported(client, { position })).entities).toEqual(before);
    expect((await exported(client, { position, showDeleted: true })).entities).toEqual([
      ...before,
      asThen(deletion.entity as Entity),
    ]);
    expect(names((await exported(client)).entities)).toEqual(["kept", "another", "survivor", "gone", "new"]);
    // From the last id that was kept.
    expect((await exported(client, { position, after: deleted.id })).entities).toEqual(before.slice(3));
    expect((await exported(client, { position, after: "ffffffff-ffff-4fff-bfff-ffffffffffff" })).entities).toEqual([]);
  });
});
