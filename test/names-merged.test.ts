// Names and suggestions of entities that were merged, parted again, or marked as distinct (rules 85, 111, 159 to 163).
import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  type DuplicateReason,
  DuplicateRule,
  type Entity,
  type EntitySchema,
  EntityType,
  type ListEntitiesRequestSchema,
} from "../clients/typescript/index.ts";
import { createOrm, forOrganization, type Orm } from "../src/db/orm.ts";
import { type SuggestionPosition, suggestDuplicates, suggestDuplicatesOf } from "../src/entities/duplicates.ts";
import { fillNames } from "../src/entities/fill-names.ts";
import { findEntities } from "../src/entities/lookups.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byId, newPerson } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let orm: Orm;
let home: TestOrganization;
beforeAll(async () => {
  service = await startService();
  const { host, port, database } = service.database;
  orm = createOrm(
    { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database },
    { poolSize: 2, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 },
  );
});
beforeEach(async () => {
  home = await service.newOrganization();
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

const reason = "a reason of some length";
const TAX_ID = "20-11111111-2";
type Fields = MessageInitShape<typeof EntitySchema>;

const person = (fields: Fields = {}) => newPerson(home.client, { countryCode: "AR", ...fields });
const namesOf = (tradingNames: string[]) => ({ kind: { case: "company" as const, value: { tradingNames } } });
const company = (name: string, tradingNames: string[] = []) =>
  person({ type: EntityType.COMPANY, name, entityData: namesOf(tradingNames) });
const people = async (count: number, fields: Fields = { taxId: TAX_ID }): Promise<Entity[]> => {
  const made: Entity[] = [];
  for (let i = 0; i < count; i++) made.push(await person({ name: `P ${i}`, ...fields }));
  return made;
};

const merge = async (primary: Entity, secondary: Entity, validateOnly = false): Promise<string> =>
  (
    await home.client.entities.mergeEntities({
      ...{ primary: byId(primary), secondary: byId(secondary), reason, validateOnly },
    })
  ).mergeId;
const unmerge = (mergeId: string) => home.client.entities.unmergeEntities({ mergeId, reason });
const mark = (first: Entity, second: Entity) =>
  home.client.entities.markDistinct({ first: byId(first), second: byId(second), reason });
const lift = (first: Entity, second: Entity) =>
  home.client.entities.liftDistinct({ first: byId(first), second: byId(second), reason });

async function find(nameQuery: string, filter: object = {}): Promise<string[]> {
  const request = { ...filter, nameQuery } as MessageInitShape<typeof ListEntitiesRequestSchema>;
  return (await home.client.entities.listEntities(request)).entities.map(({ name }) => name);
}

/** The pairs of all pages, as places in `of`, with the first of their reasons. */
async function suggest(
  of: readonly Entity[],
  { entity, pageSize = 0 }: { entity?: Entity; pageSize?: number } = {},
): Promise<[number, number, DuplicateReason | undefined][]> {
  const found: [number, number, DuplicateReason | undefined][] = [];
  const place = (id: string) => of.findIndex((one) => one.id === id);
  let pageToken = "";
  do {
    const page = await home.client.entities.suggestDuplicates({
      ...{ pageSize, pageToken, ...(entity && { lookup: byId(entity) }) },
    });
    for (const { firstEntityId, secondEntityId, reasons } of page.suggestions) {
      found.push([place(firstEntityId), place(secondEntityId), reasons[0]]);
    }
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return found;
}
const pairs = async (...args: Parameters<typeof suggest>) => (await suggest(...args)).map(([a, b]) => [a, b]);

describe("rule 85: name_query and merged entities", () => {
  it("rules 85, 159: never shows a merged entity, with show_deleted neither, and shows it again once that is undone", async () => {
    const made = [
      await person({ name: "Alpha Common", externalId: "a" }),
      await person({ name: "Beta Common", externalId: "b", taxId: "T-2" }),
      await person({ name: "Gamma Common", externalId: "c" }),
    ] as const;
    const [alpha, beta, gamma] = made;
    const undo = [await merge(beta, gamma), await merge(alpha, beta)];
    for (const showDeleted of [false, true]) {
      expect(await find("common", { showDeleted })).toEqual(["Alpha Common"]);
      for (const query of ["beta", "gam", "common beta"]) expect(await find(query, { showDeleted })).toEqual([]);
    }
    // Of other filters the keys of the merged find the survivor, the words of whose name are asked for.
    for (const filter of [{ externalIds: ["b"] }, { externalIds: ["c"] }, { taxId: "T2" }]) {
      expect(await find("common", filter)).toEqual(["Alpha Common"]);
      expect(await find("beta", filter)).toEqual([]);
    }
    for (const mergeId of undo.toReversed()) await unmerge(mergeId);
    expect(await find("common")).toEqual(made.map(({ name }) => name));
    expect(await find("gam")).toEqual(["Gamma Common"]);
  });

  it("rules 102, 159: finds a survivor by the trading names that it has now, edited or not, and each by its own in the end", async () => {
    const [one, two, three] = [
      await company("One", ["Alpha"]),
      await company("Two", ["Beta", "Gamma"]),
      await company("Three", ["Delta"]),
    ];
    await merge(one, two, true);
    expect(await find("beta")).toEqual(["Two"]);
    const [first, second] = [await merge(one, two), await merge(one, three)];
    for (const word of ["alpha", "beta", "gamma", "delta", "one beta delta"]) expect(await find(word)).toEqual(["One"]);
    for (const word of ["two", "three"]) expect(await find(word)).toEqual([]);
    await unmerge(first);
    expect(await find("beta")).toEqual(["Two"]);
    expect(await find("delta")).toEqual(["One"]);
    // Edited by hand: what was merged before is no longer united.
    await home.client.entities.updateEntity({
      lookup: byId(three),
      entity: { name: "Uno", entityData: namesOf(["Alpha", "Omega"]) },
    });
    expect(await find("uno omega")).toEqual(["Uno"]);
    for (const word of ["one", "delta"]) expect(await find(word)).toEqual([]);
    await unmerge(second);
    for (const [word, names] of [
      ["delta", ["Three"]],
      ["omega", ["Uno"]],
      ["beta two", ["Two"]],
    ] as const)
      expect(await find(word)).toEqual(names);
  });

  it("rule 160: what was merged before there were words is filled in too, and found once it is parted", async () => {
    const [one, two] = [await company("One", ["Alpha"]), await company("Two", ["Beta"])];
    const mergeId = await merge(one, two);
    const ids = [one.id, two.id];
    await service.sql("delete from entity_word where entity_id = any($1)", [ids]);
    await service.sql(
      "update entity set name_words = null, name_date_key = null, name_number_key = null where id = any($1)",
      [ids],
    );
    expect(await find("beta")).toEqual([]);
    expect(await fillNames(orm, home.id, 100)).toBe(2);
    expect(await find("beta")).toEqual(["One"]);
    await unmerge(mergeId);
    expect(await find("beta")).toEqual(["Two"]);
    expect(await find("alpha")).toEqual(["One"]);
  });
});

describe("rule 161: suggestions and merged entities", () => {
  it("rules 78, 161: never has a merged one; its id asks for its survivor", async () => {
    const made = await people(3);
    expect(await pairs(made)).toEqual([
      [0, 1],
      [0, 2],
      [1, 2],
    ]);
    const mergeId = await merge(made[0]!, made[1]!);
    expect(await pairs(made)).toEqual([[0, 2]]);
    for (const entity of [made[0]!, made[1]!]) expect(await pairs(made, { entity })).toEqual([[0, 2]]);
    expect(await pairs(made, { entity: made[2]! })).toEqual([[2, 0]]);
    await unmerge(mergeId);
    expect(await pairs(made)).toHaveLength(3);
    expect(await pairs(made, { entity: made[1]! })).toEqual([
      [1, 0],
      [1, 2],
    ]);
  });

  it("rules 89, 161: compares what a survivor has by a merge: a tax id, an external id, a date of birth", async () => {
    const born = { entityData: { kind: { case: "person" as const, value: { dateOfBirth: "1980-02-03" } } } };
    const made = [
      await person({ name: "Ana Sosa", externalId: "first" }),
      await person({ name: "Other", externalId: "Crm 1", taxId: TAX_ID, ...born }),
      await person({ name: "X", taxId: "20111111112" }),
      await person({ name: "Y", externalId: "crm1" }),
      await person({ name: "SOSA, Aná", ...born }),
    ] as const;
    const mergeId = await merge(made[0], made[1]);
    const found = await suggest(made);
    expect(found.map(([a, b, why]) => [a, b, why?.rule])).toEqual([
      [0, 2, DuplicateRule.SAME_TAX_ID],
      [0, 3, DuplicateRule.SAME_EXTERNAL_ID],
      [0, 4, DuplicateRule.SAME_NAME_AND_DATE],
    ]);
    expect(found[1]?.[2]?.firstPaths).toEqual(["externalIds[1].externalId"]);
    expect(await suggest(made, { entity: made[1] })).toEqual(found);
    await unmerge(mergeId);
    expect(await pairs(made)).toEqual([
      [1, 2],
      [1, 3],
    ]);
  });
});

describe("rules 111, 161: suggestions and marks", () => {
  it("never has two that are marked as distinct, until that is lifted", async () => {
    const made = await people(3);
    await mark(made[2]!, made[0]!);
    expect(await pairs(made)).toEqual([
      [0, 1],
      [1, 2],
    ]);
    expect(await pairs(made, { entity: made[0]! })).toEqual([[0, 1]]);
    expect(await pairs(made, { entity: made[2]! })).toEqual([[2, 1]]);
    await lift(made[0]!, made[2]!);
    expect(await pairs(made)).toHaveLength(3);
    expect(await pairs(made, { entity: made[2]! })).toHaveLength(2);
  });

  it("rule 111: nor their survivors, as nobody could merge them; after an unmerge it is between the two again", async () => {
    const made = await people(4);
    await mark(made[1]!, made[3]!);
    const undo = [await merge(made[0]!, made[1]!), await merge(made[2]!, made[3]!)];
    expect(await pairs(made)).toEqual([]);
    expect(await pairs(made, { entity: made[3]! })).toEqual([]);
    await unmerge(undo[1]!);
    expect(await pairs(made)).toEqual([
      [0, 2],
      [2, 3],
    ]);
    await unmerge(undo[0]!);
    expect(await pairs(made)).toEqual([
      [0, 1],
      [0, 2],
      [0, 3],
      [1, 2],
      [2, 3],
    ]);
  });

  it("rule 162: each of many is paired with the next 10 that it is not marked as distinct from", async () => {
    const made = await people(16);
    const [first] = made as [Entity, ...Entity[]];
    for (const other of made.slice(2, 5)) await mark(first, other);
    const ofFirst = (await pairs(made)).filter(([a]) => a === 0).map(([, b]) => b);
    expect(ofFirst).toEqual([1, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    expect((await pairs(made)).filter(([a]) => a === 1)).toHaveLength(10);
    expect((await pairs(made, { entity: first })).map(([, b]) => b)).toEqual([1, ...ofFirst.slice(1), 14, 15]);
    const all = await pairs(made);
    for (const pageSize of [1, 7]) expect(await pairs(made, { pageSize })).toEqual(all);
  });

  it("rule 163: what marks leave out counts in what a call looks at: pages are short then, and none is missed", async () => {
    const made = await people(8);
    for (const [a, b] of await pairs(made)) {
      if (a !== undefined && b !== undefined && (a < 6 || b < 7)) await mark(made[a]!, made[b]!);
    }
    const idOf = (id: string) => made.findIndex((one) => one.id === id);
    const most = { keys: 100, chunk: 10, candidates: 5 };
    for (const of of [undefined, made[6]!]) {
      const found: number[][] = [];
      let after: SuggestionPosition | undefined;
      let calls = 0;
      do {
        const em = forOrganization(orm, home.id);
        const bound = { after, rows: 3 };
        const entities =
          of && (await findEntities(em, home.id, { entityIds: [of.id], externalIds: [], taxIdKeys: [] }));
        const state = entities?.entities.get(of?.id ?? "");
        const page =
          state === undefined
            ? await suggestDuplicates(em, home.id, bound, most)
            : await suggestDuplicatesOf(em, home.id, state, bound, most);
        found.push(...page.rows.map(({ first, second }) => [idOf(first), idOf(second)]));
        after = page.rows.length === 3 ? page.rows.at(-1)?.position : page.end;
        calls++;
      } while (after !== undefined);
      expect(found).toEqual([[6, 7]]);
      // 28 pairs of all, 7 of the one, at 5 a call.
      expect(calls).toBeGreaterThanOrEqual(of === undefined ? 6 : 2);
    }
  });
});
