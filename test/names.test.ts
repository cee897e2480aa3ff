// ListEntities by words of names, and what of names is stored (rules 159 and 160).
import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, EntityStatus, EntityType, type ListEntitiesRequestSchema } from "../clients/typescript/index.ts";
import { readStatements } from "../src/db/transaction.ts";
import { nameSource } from "../src/entities/name-search.ts";
import { ormOf } from "./audits.ts";
import { byId, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

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
  ])(
    "%j finds by words in any order, by their beginnings, without accents, case and punctuation",
    async (query, names) => {
      expect(await find(home, query)).toEqual(names);
    },
  );
});

describe("rule 159: name_query with the rest of a list", () => {
  const reason = "a reason of some length";

  it("finds by the name of now, of entities that are there, and deleted ones where they are asked for", async () => {
    const home = await service.newOrganization();
    const entity = await newPerson(home.client, { name: "Old Common" });
    expect(await find(home, "old")).toEqual(["Old Common"]);
    await home.client.entities.updateEntity({ lookup: byId(entity), entity: { name: "New Common" } });
    expect(await find(home, "old")).toEqual([]);
    expect(await find(home, "common new")).toEqual(["New Common"]);
    // Another field changes none of it.
    await home.client.entities.updateEntity({ lookup: byId(entity), entity: { nationality: "UY" } });
    expect(await find(home, "common new")).toEqual(["New Common"]);
    await home.client.entities.deleteEntity({ lookup: byId(entity), reason });
    expect(await find(home, "new")).toEqual([]);
    expect(await find(home, "new", { showDeleted: true })).toEqual(["New Common"]);
    await home.client.entities.undeleteEntity({ lookup: byId(entity), reason });
    expect(await find(home, "new")).toEqual(["New Common"]);
  });

  it("follows the trading names", async () => {
    const home = await service.newOrganization();
    const entity = await newCompany(home, "Acme", ["Alpha", "Beta"]);
    const setNames = async (tradingNames: string[]) =>
      home.client.entities.updateEntity({
        lookup: byId(entity),
        entity: { entityData: { kind: { case: "company", value: { tradingNames } } } },
      });
    await setNames(["Béta", "Gamma"]);
    for (const [query, names] of [
      ["alpha", []],
      ["beta acme", ["Acme"]],
      ["gam", ["Acme"]],
    ] as const)
      expect(await find(home, query)).toEqual(names);
  });

  it("rolls back with a write that is refused or only validated", async () => {
    const home = await service.newOrganization();
    const entity = await newPerson(home.client, { name: "Before", externalId: unique("x") });
    await home.client.entities.updateEntity({ lookup: byId(entity), entity: { name: "After" }, validateOnly: true });
    const refused = { lookup: byId(entity), entity: { name: "After" }, etag: entity.id };
    expect(await refusal(home.client.entities.updateEntity(refused))).toMatchObject({ reason: "ETAG_MISMATCH" });
    expect(await find(home, "after")).toEqual([]);
    expect(await find(home, "before")).toEqual(["Before"]);
  });

  it("joins every other filter by AND, in pages of any size", async () => {
    const home = await service.newOrganization();
    const all: Entity[] = [];
    for (let i = 0; i < 12; i++) {
      all.push(
        await newPerson(home.client, {
          name: `Maria ${"abc"[i % 3]}${i}`,
          countryCode: i % 2 ? "AR" : "UY",
          status: i % 4 ? EntityStatus.ACTIVE : EntityStatus.PENDING,
          taxId: `TAX-${i % 5}`,
          externalId: `e-${i}`,
        }),
      );
    }
    await newCompany(home, "Maria S.A.");
    const expected = (test: (i: number) => boolean) => all.filter((_, i) => test(i)).map(({ name }) => name);
    for (const [filter, test] of [
      [{}, () => true],
      [{ countryCodes: ["AR"] }, (i) => i % 2 === 1],
      [{ statuses: [EntityStatus.PENDING] }, (i) => i % 4 === 0],
      [{ taxId: "tax3" }, (i) => i % 5 === 3],
      [{ externalIds: ["e-1", "e-7"] }, (i) => i === 1 || i === 7],
      [{ namePrefix: "Maria a" }, (i) => i % 3 === 0],
      [{ updatedAfter: all[8]?.updatedAt }, (i) => i > 8],
    ] as [Filter, (i: number) => boolean][]) {
      for (const pageSize of [0, 1, 5]) {
        const found = await find(home, "mar", { ...filter, pageSize, type: EntityType.PERSON } as Filter);
        expect(found, JSON.stringify(Object.keys(filter))).toEqual(expected(test));
      }
    }
  });

  it("binds tokens to the query", async () => {
    const home = await service.newOrganization();
    for (const name of ["Maria A", "Maria B"]) await newPerson(home.client, { name });
    const { listEntities: list } = home.client.entities;
    const { nextPageToken: pageToken } = await list({ nameQuery: "maria", pageSize: 1 });
    expect(pageToken).not.toBe("");
    for (const nameQuery of ["", "mari", "Maria"]) {
      expect(await refusal(list({ nameQuery, pageToken }))).toMatchObject({ fields: ["page_token"] });
    }
  });

  it("shows nothing of another organization", async () => {
    const other = await service.newOrganization();
    const name = unique("Canary");
    await newPerson(other.client, { name });
    const home = await service.newOrganization();
    await newPerson(home.client, { name: "Canary of home" });
    expect(await find(home, "canary")).toEqual(["Canary of home"]);
  });

  it.each(["...", " ", "\u0301", "x".repeat(513), "a\u0000b"])("refuses %j", async (nameQuery) => {
    const refused = await refusal(service.client.entities.listEntities({ nameQuery }));
    expect(refused).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["name_query"] });
  });

  it("takes very many words, and very long ones", async () => {
    const home = await service.newOrganization();
    const long = "\ufdfa".repeat(250);
    const many = Array.from({ length: 180 }, (_, i) => i.toString(36)).join(" ");
    for (const name of [long, many]) await newPerson(home.client, { name });
    expect(await find(home, long)).toEqual([long]);
    expect(await find(home, many)).toEqual([many]);
    expect(await find(home, "z".repeat(512))).toEqual([]);
  });
});

describe("rule 159: what a page costs is bounded", () => {
  const COUNT = 41_000;
  let home: TestOrganization;
  beforeAll(async () => {
    home = await service.newOrganization();
    // All have "common" and "usual"; every 7,000th has "rare" too, and the last one alone "unique"; 5,000 each have "left"
    // and "right".
    await service.sql(
      `with made as (
         insert into entity (organization_id, id, version, type, country_code, name, name_words, status, etag, created_at, updated_at)
         select $1, ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid, 1, 'person', 'AR', 'Common ' || n,
           ' common usual' || case when n % 7000 = 0 then ' rare' else '' end || case when n = $2 then ' unique' else '' end
             || case when n <= 5000 then ' left' when n > $2 - 5000 then ' right' else '' end,
           'active', gen_random_uuid(), now(), now()
         from generate_series(1, $2::int) n returning id, name_words)
       insert into entity_word (organization_id, word, entity_id)
       select $1, w, id from made cross join unnest(string_to_array(ltrim(name_words), ' ')) w`,
      [home.id, COUNT],
    );
  });
  afterAll(async () => {
    // As the superuser may: what could refer to each of them is not looked for.
    await service.sql(
      `begin; set local session_replication_role = replica; delete from entity_word where organization_id = '${home.id}';
       delete from entity where organization_id = '${home.id}'; commit`,
    );
  });
  const query = async (nameQuery: string, pageToken = "", filter: Filter = {}) => {
    const page = await home.client.entities.listEntities({ ...filter, nameQuery, pageToken, pageSize: 2 } as Filter);
    return { names: page.entities.map(({ name }) => name), next: page.nextPageToken };
  };

  it("reads a page of words that everybody has", async () => {
    const first = await query("usual common");
    expect(first.names).toEqual(["Common 1", "Common 2"]);
    expect((await query("usual common", first.next)).names).toEqual(["Common 3", "Common 4"]);
  });

  it("reads the rows of each of several words once", async () => {
    const words = ["right", "left"];
    await using orm = ormOf(service);
    for (const analysed of [false, true]) {
      // As where very many words are more common: nothing is known of these two.
      await service.sql("alter table entity_word alter column word set statistics 1");
      if (analysed) await service.sql("analyze entity, entity_word");
      await readStatements(orm, home.id, async ({ execute }) => {
        const values: unknown[] = [home.id];
        const bind = (value: unknown) => `$${values.push(value)}`;
        const { from, order } = await nameSource({ execute }, home.id, { words, after: undefined, bind });
        const found = await execute(
          `explain (analyze, format json) select e.id from ${from} order by ${order}`,
          values,
        );
        const scans = [...JSON.stringify(found).matchAll(/"entity_word_[a-z]+".*?"Actual Loops":([\d.]+)/g)];
        expect(scans.map(([, loops]) => Number(loops))).toEqual([1, 1]);
      });
    }
  });

  it("looks at 10,000 entities where nothing else helps, and goes on behind them", async () => {
    const pages: string[][] = [];
    let next = "";
    do {
      // A country that nobody has.
      const page = await query("c u", next, { countryCodes: ["UY"] });
      pages.push(page.names);
      next = page.next;
    } while (next !== "");
    expect(pages).toEqual([[], [], [], [], []]);
  });

  it("finds the few of a rare word by its index, whatever the others are", async () => {
    const first = await query("common rar");
    expect(first.names).toEqual(["Common 7000", "Common 14000"]);
    const second = await query("common rar", first.next);
    expect(second.names).toEqual(["Common 21000", "Common 28000"]);
    expect((await query("common rar", second.next)).names).toEqual(["Common 35000"]);
    expect(await query("unique common rare")).toEqual({ names: [], next: "" });
    expect(await query("unique common")).toEqual({ names: [`Common ${COUNT}`], next: "" });
  });
});
