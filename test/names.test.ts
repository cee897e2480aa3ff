// ListEntities by words of names, and what of names is stored (rules 159 and 160).
import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, EntityType, type ListEntitiesRequestSchema } from "../clients/typescript/index.ts";
import { newPerson } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

type Filter = MessageInitShape<typeof ListEntitiesRequestSchema>;

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

async function newCompany(of: TestOrganization, name: string, tradingNames: string[] = []): Promise<Entity> {
  const entityData = { kind: { case: "company" as const, value: { tradingNames } } };
  const { entity } = await of.client.entities.createEntity({
    entity: { type: EntityType.COMPANY, name, countryCode: "AR", entityData },
  });
  if (entity === undefined) throw new Error("no entity in the answer");
  return entity;
}

async function find(of: TestOrganization, nameQuery: string, filter: Filter = {}): Promise<string[]> {
  const names: string[] = [];
  let pageToken = "";
  do {
    const page = await of.client.entities.listEntities({ ...filter, nameQuery, pageToken } as Filter);
    names.push(...page.entities.map(({ name }) => name));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return names;
}

describe("rule 159: ListEntities by name_query", () => {
  let home: TestOrganization;
  beforeAll(async () => {
    home = await service.newOrganization();
    for (const name of ["María Núñez", "Mario Nunes", "NUÑEZ DE LA O, MARIA", "Marianne O'Brien"]) {
      await newPerson(home.client, { name });
    }
    await newCompany(home, "Molinos del Delta S.A.", ["Delta", "Harinas Ñandú"]);
  });

  it.each([
    ["nunez maria", ["María Núñez", "NUÑEZ DE LA O, MARIA"]],
    ["maria nunez", ["María Núñez", "NUÑEZ DE LA O, MARIA"]],
    ["MARÍA   ñu", ["María Núñez", "NUÑEZ DE LA O, MARIA"]],
    ["mari n", ["María Núñez", "Mario Nunes", "NUÑEZ DE LA O, MARIA"]],
    ["m", ["María Núñez", "Mario Nunes", "NUÑEZ DE LA O, MARIA", "Marianne O'Brien", "Molinos del Delta S.A."]],
    ["obrien", ["Marianne O'Brien"]],
    ["o'b", ["Marianne O'Brien"]],
    ["nandu", ["Molinos del Delta S.A."]],
    ["s.a. molinos", ["Molinos del Delta S.A."]],
    ["unez", []],
    ["maria maria mar ma", ["María Núñez", "NUÑEZ DE LA O, MARIA", "Marianne O'Brien"]],
  ])("%j finds by words in any order, by their beginnings, without accents, case and punctuation", async (query, names) => {
    expect(await find(home, query)).toEqual(names);
  });
});
