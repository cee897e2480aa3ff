// What was written before names were searched is filled in (rule 160). A service of its own: its filler looks again only
// after half a minute.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { fillNames, startNameFiller } from "../src/entities/fill-names.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byId, newPerson } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let orm: Orm;
beforeAll(async () => {
  service = await startService();
  const { host, port, database } = service.database;
  orm = createOrm(
    { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database },
    { poolSize: 2, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 },
  );
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

const find = async (of: TestOrganization, nameQuery: string) =>
  (await of.client.entities.listEntities({ nameQuery })).entities.map(({ name }) => name);

/** As a release before has left them. */
async function unfill(ids: string[]): Promise<void> {
  await service.sql("delete from entity_word where entity_id = any($1)", [ids]);
  await service.sql("update external_id set folded = null where entity_id = any($1)", [ids]);
  await service.sql(
    "update entity set name_words = null, name_date_key = null, name_number_key = null where id = any($1)",
    [ids],
  );
}

describe("rule 160: entities from before are filled in", () => {
  it("fills in what is missing, and none of it is a change", async () => {
    const home = await service.newOrganization();
    const entity = await newPerson(home.client, {
      name: "María Núñez",
      externalId: "Ab C",
      entityData: { kind: { case: "person", value: { dateOfBirth: "1980-02-03" } } },
    });
    const twin = await newPerson(home.client, { name: "Other", externalId: "abc" });
    const stored = () =>
      service.sql(
        `select e.name_words, e.name_date_key, x.folded, e.version, e.etag, e.updated_at, array(select word from entity_word w
           where w.entity_id = e.id order by 1) as words
         from entity e join external_id x on x.entity_id = e.id where e.id = $1`,
        [entity.id],
      );
    const before = await stored();
    expect(before).toMatchObject([{ name_words: " maria nunez", folded: "abc", words: ["maria", "nunez"] }]);
    await unfill([entity.id, twin.id]);
    expect(await find(home, "nunez")).toEqual([]);
    // A write has the words that it adds; the others come with them.
    await home.client.entities.updateEntity({ lookup: byId(twin), entity: { name: "Other Name" } });
    expect(await find(home, "name")).toEqual([]);
    const unfolded = () => service.sql("select * from list_unfolded(10)");
    expect(await unfolded()).toEqual([{ organization_id: home.id }]);
    expect(await fillNames(orm, home.id, 10)).toBe(2);
    expect(await fillNames(orm, home.id, 10)).toBe(0);
    expect(await find(home, "name other")).toEqual(["Other Name"]);
    expect(await stored()).toEqual(before);
    expect(await unfolded()).toEqual([]);
    expect(await find(home, "nunez")).toEqual(["María Núñez"]);
  });

  it("beside what goes on, in every organization, and leaves out what another process fills in", async () => {
    const organizations = [await service.newOrganization(), await service.newOrganization()];
    const ids: string[] = [];
    for (const { client } of organizations) {
      for (let i = 0; i < 3; i++) ids.push((await newPerson(client, { name: `Filled ${i}` })).id);
    }
    await unfill(ids);
    const lines: unknown[] = [];
    const log = { info: (what: object) => lines.push(what), warn: (what: object) => lines.push(what) };
    {
      await using _one = startNameFiller(orm, { log, describe: () => ({}) });
      await using _two = startNameFiller(orm, { log, describe: () => ({}) });
      await vi.waitFor(async () => {
        for (const organization of organizations) expect(await find(organization, "filled")).toHaveLength(3);
      }, 5_000);
      await vi.waitFor(() => expect(lines).not.toEqual([]), 5_000);
      await sleep(50);
    }
    const counts = lines.map((line) => (line as { entities: number }).entities);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(ids.length);
  });
});
