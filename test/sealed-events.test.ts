// Rule 34: the event that makes a version gives it its etag.
import { afterAll, beforeAll, expect, it } from "vitest";
import { type Entity, EntityStatus, EntityType } from "../clients/typescript/index.ts";
import { byExternalId, byId, eventsOf, newPerson, together, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

/** What each kind of write answers for one entity, in the order of its versions. */
async function versionsByEveryWrite(externalId: string): Promise<Entity[]> {
  const { entities } = service.client;
  const name = byExternalId(externalId);
  const versions: (Entity | undefined)[] = [];
  const row = { entity: { externalId, type: EntityType.PERSON, name: "Imported", countryCode: "BR" } };
  const created = await newPerson(service.client);
  const lookup = byId(created);
  versions.push(created);
  versions.push((await entities.assignExternalId({ lookup, externalId })).entity);
  versions.push((await entities.updateEntity({ lookup: name, entity: { name: "Eva" }, allowMissing: true })).entity);
  const added = { externalIds: [{ externalId: unique("alias") }], reason: "another system" };
  versions.push((await entities.addExternalIds({ lookup, ...added })).entity);
  const change = { newExternalId: unique("x"), keepPreviousAsAlias: true, reason: "another system" };
  versions.push((await entities.changeExternalId({ lookup, ...change })).entity);
  versions.push((await entities.deleteEntity({ lookup, reason: "a duplicate" })).entity);
  versions.push((await entities.undeleteEntity({ lookup, reason: "no duplicate" })).entity);
  await entities.changeExternalId({ lookup, newExternalId: externalId, reason: "another system" });
  versions.push((await entities.getEntity({ lookup })).entity);
  for await (const _ of entities.importEntities(
    (async function* () {
      yield row;
    })(),
  ));
  versions.push((await entities.getEntity({ lookup })).entity);
  return versions as Entity[];
}

it("rule 34: the etag of a version is the id of the event that made it, whichever call that was", async () => {
  const versions = await versionsByEveryWrite(unique("x"));
  expect(new Set(versions.map(({ etag }) => etag)).size).toBe(9);
  const events = await eventsOf(service.client, versions[0] as Entity);
  expect(events.map(({ id }) => id)).toEqual(versions.map(({ etag }) => etag));
});

it("rule 34: so it is for each of many writes that commit together, of one entity and of several", async () => {
  const persons = await Promise.all(Array.from({ length: 4 }, () => newPerson(service.client)));
  const answers = await together(64, async (i) => {
    const lookup = byId(persons[i % persons.length] as Entity);
    const status = i % 2 === 0 ? EntityStatus.ACTIVE : EntityStatus.INACTIVE;
    return service.client.entities.updateEntity({ lookup, entity: { name: `Ana ${i}`, status }, reason: "for review" });
  });
  const versions = answers.flatMap(({ answer }) => (answer?.entity === undefined ? [] : [answer.entity]));
  expect(versions).toHaveLength(64);
  for (const person of persons) {
    const ids = (await eventsOf(service.client, person)).map(({ id }) => id);
    expect(ids).toHaveLength(17);
    const etags = versions.filter(({ id }) => id === person.id).map(({ etag }) => etag);
    expect(ids.toSorted()).toEqual([person.etag, ...etags].sort());
  }
});
