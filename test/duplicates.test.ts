// SuggestDuplicates: which entities may be one, and why (rules 161 to 163).
import { createHash } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  DuplicateRule,
  type DuplicateSuggestion,
  type Entity,
  type EntityLookupSchema,
  type EntitySchema,
  EntityType,
} from "../clients/typescript/index.ts";
import { createOrm, forOrganization } from "../src/db/orm.ts";
import { type SuggestionPosition, suggestDuplicates } from "../src/entities/duplicates.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byExternalId, byId, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

type Lookup = MessageInitShape<typeof EntityLookupSchema>;

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const born = (dateOfBirth: string) => ({ kind: { case: "person" as const, value: { dateOfBirth } } });
const registered = (registrationNumber?: string, incorporationDate?: string) => ({
  kind: { case: "company" as const, value: { registrationNumber, incorporationDate } },
});
const newCompany = (of: TestOrganization, fields: MessageInitShape<typeof EntitySchema>) =>
  newPerson(of.client, { type: EntityType.COMPANY, name: "Delta S.A.", countryCode: "AR", ...fields });

/** All pages, of which each pair comes once. */
async function suggest(of: TestOrganization, lookup?: Lookup, pageSize = 0): Promise<DuplicateSuggestion[]> {
  const found: DuplicateSuggestion[] = [];
  let pageToken = "";
  do {
    const page = await of.client.entities.suggestDuplicates({ lookup, pageSize, pageToken } as never);
    if (pageSize > 0) expect(page.suggestions.length).toBeLessThanOrEqual(pageSize);
    found.push(...page.suggestions);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  const pairs = found.map(({ firstEntityId, secondEntityId }) => [firstEntityId, secondEntityId].toSorted().join());
  expect(new Set(pairs).size).toBe(pairs.length);
  return found;
}

const NAMES = new Map<number, string>(Object.entries(DuplicateRule).map(([name, number]) => [number, name]));
const shown = (suggestions: readonly DuplicateSuggestion[]) =>
  suggestions.map(({ firstEntityId, secondEntityId, reasons }) => [
    firstEntityId,
    secondEntityId,
    reasons.map(({ rule }) => NAMES.get(rule)).join(),
  ]);

describe("rule 161: SuggestDuplicates", () => {
  let home: TestOrganization;
  const made: Record<string, Entity> = {};
  const id = (name: string) => made[name]?.id ?? "";
  beforeAll(async () => {
    home = await service.newOrganization();
    const persons: Record<string, MessageInitShape<typeof EntitySchema>> = {
      date1: { name: "María Núñez", entityData: born("1980-02-03") },
      tax1: { name: "Ana", taxId: "20-12345678-9" },
      date2: { name: "NUNEZ, maria", entityData: born("1980-02-03") },
      ext1: { name: "Bea", externalId: "Crm 77" },
      tax2: { name: "Anna", taxId: "20.12345678.9", externalId: "CRM77" },
      ext2: { name: "Bea B", externalId: "crm77" },
      otherDate: { name: "María Núñez", entityData: born("1980-02-04") },
      noDate: { name: "María Núñez" },
    };
    for (const [name, fields] of Object.entries(persons)) made[name] = await newPerson(home.client, fields);
    made["number1"] = await newCompany(home, { name: "Molinos S.A.", entityData: registered("IGJ 1-2", "2001-01-01") });
    made["number2"] = await newCompany(home, { name: "MOLINOS SA", entityData: registered("igj12", "2001-01-01") });
    made["number3"] = await newCompany(home, { name: "Molinos SA", entityData: registered(undefined, "2001-01-01") });
    // A sole trader's company: nobody could merge it with the person.
    made["company"] = await newCompany(home, { name: "Ana", taxId: "20123456789" });
  });

  it("tells pairs, the most certain first, each once with all that it shares", async () => {
    expect(shown(await suggest(home))).toEqual([
      [id("tax1"), id("tax2"), "SAME_TAX_ID"],
      [id("ext1"), id("tax2"), "SAME_EXTERNAL_ID"],
      [id("ext1"), id("ext2"), "SAME_EXTERNAL_ID"],
      [id("tax2"), id("ext2"), "SAME_EXTERNAL_ID"],
      [id("number1"), id("number2"), "SAME_NAME_AND_REGISTRATION_NUMBER,SAME_NAME_AND_DATE"],
      ...shown((await suggest(home)).filter(({ reasons }) => reasons[0]?.rule === DuplicateRule.SAME_NAME_AND_DATE)),
    ]);
    const byDate = shown(await suggest(home)).filter(([, , rules]) => rules === "SAME_NAME_AND_DATE");
    expect(byDate.toSorted()).toEqual(
      [
        [id("date1"), id("date2"), "SAME_NAME_AND_DATE"],
        [id("number1"), id("number3"), "SAME_NAME_AND_DATE"],
        [id("number2"), id("number3"), "SAME_NAME_AND_DATE"],
      ].toSorted(),
    );
  });

  it("names the paths of the values, not the values", async () => {
    const [suggestion] = await suggest(home, byId(made["ext1"]!));
    expect(suggestion?.reasons).toMatchObject([
      {
        rule: DuplicateRule.SAME_EXTERNAL_ID,
        firstPaths: ["externalIds[0].externalId"],
        secondPaths: ["externalIds[0].externalId"],
      },
    ]);
    const [byName] = await suggest(home, byId(made["date2"]!));
    expect(byName?.reasons[0]?.firstPaths).toEqual(["name", "entityData.person.dateOfBirth"]);
  });

  it("rule 162: of a lookup every entity that shares something with it", async () => {
    const of = async (lookup: Lookup) => shown(await suggest(home, lookup)).map(([first, second]) => [first, second]);
    expect(await of(byId(made["tax2"]!))).toEqual([
      [id("tax2"), id("tax1")],
      [id("tax2"), id("ext1")],
      [id("tax2"), id("ext2")],
    ]);
    expect(await of(byExternalId("crm77"))).toEqual([
      [id("ext2"), id("ext1")],
      [id("ext2"), id("tax2")],
    ]);
    expect(await of(byId(made["noDate"]!))).toEqual([]);
    expect(await of(byId(made["company"]!))).toEqual([]);
  });

  it("rule 163: pages of any size have the same pairs in the same order", async () => {
    for (const lookup of [undefined, byId(made["tax2"]!)]) {
      const all = shown(await suggest(home, lookup, 1000));
      for (const pageSize of [1, 2, 3]) expect(shown(await suggest(home, lookup, pageSize))).toEqual(all);
    }
  });
});

describe("rules 161 to 163: SuggestDuplicates of what changes, of many, and of others", () => {
  const reason = "a reason of some length";

  it("rule 161: knows what entities are now, and no deleted ones", async () => {
    const home = await service.newOrganization();
    const one = await newPerson(home.client, { name: "Ana", entityData: born("1980-02-03"), externalId: "A 1" });
    const two = await newPerson(home.client, { name: "Bea", entityData: born("1980-02-03"), externalId: "B" });
    const rules = async () => (await suggest(home)).flatMap(({ reasons }) => reasons.map(({ rule }) => rule));
    expect(await rules()).toEqual([]);
    await home.client.entities.updateEntity({ lookup: byId(two), entity: { name: "ANÁ" } });
    expect(await rules()).toEqual([DuplicateRule.SAME_NAME_AND_DATE]);
    await home.client.entities.updateEntity({ lookup: byId(two), entity: { entityData: born("1980-02-04") } });
    expect(await rules()).toEqual([]);
    await home.client.entities.addExternalIds({ lookup: byId(two), externalIds: [{ externalId: "a1" }] });
    expect(await rules()).toEqual([DuplicateRule.SAME_EXTERNAL_ID]);
    const [suggestion] = await suggest(home);
    expect(suggestion?.reasons[0]?.secondPaths).toEqual(["externalIds[1].externalId"]);
    const rename = { lookup: byId(one), newExternalId: "other", reason };
    await home.client.entities.changeExternalId({ ...rename, keepPreviousAsAlias: true });
    expect((await suggest(home))[0]?.reasons[0]?.firstPaths).toEqual(["externalIds[1].externalId"]);
    await home.client.entities.deleteEntity({ lookup: byId(one), reason });
    expect(await rules()).toEqual([]);
    expect(await suggest(home, byId(one))).toEqual([]);
    expect(await suggest(home, byId(two))).toEqual([]);
    await home.client.entities.undeleteEntity({ lookup: byId(one), reason });
    expect(await rules()).toEqual([DuplicateRule.SAME_EXTERNAL_ID]);
    await home.client.entities.changeExternalId({ lookup: byId(one), newExternalId: "third", reason });
    await home.client.entities.releaseExternalId({ lookup: byId(one), externalId: "A 1", reason, force: true });
    expect(await rules()).toEqual([]);
  });

  it("rule 162: pairs each of many with the next 10, and with a lookup with all", async () => {
    const home = await service.newOrganization();
    const made: Entity[] = [];
    for (let i = 0; i < 30; i++) made.push(await newPerson(home.client, { name: `P ${i}`, taxId: "20-11111111-2" }));
    const all = shown(await suggest(home, undefined, 1000));
    expect(all.map(([first, second]) => [first, second])).toEqual(
      made.flatMap((first, i) => made.slice(i + 1, i + 11).map((second) => [first.id, second.id])),
    );
    expect(shown(await suggest(home, undefined, 7))).toEqual(all);
    const others = made.filter((_, i) => i !== 14).map(({ id }) => id);
    expect((await suggest(home, byId(made[14]!), 7)).map(({ secondEntityId }) => secondEntityId)).toEqual(others);
  });

  it("rule 163: looks through any number of values in calls that are bounded, and misses no pair", async () => {
    const home = await service.newOrganization();
    const made: Entity[] = [];
    // Tax ids 0 to 11, in which 2 and 3 are one, and 8 to 10; and external ids that are one but for case.
    for (let i = 0; i < 12; i++) {
      const taxId = `TAX-${10 + (i === 3 ? 2 : i === 9 || i === 10 ? 8 : i)}`;
      made.push(await newPerson(home.client, { name: `P ${i}`, taxId, externalId: `${i % 2 ? "E" : "e"}-${i >> 1}` }));
    }
    const all = shown(await suggest(home)).map(([first, second]) => [first, second]);
    expect(all.map((pair) => pair.map((id) => made.findIndex((entity) => entity.id === id)))).toEqual([
      ...[
        [2, 3],
        [8, 9],
        [8, 10],
        [9, 10],
      ],
      ...[
        [0, 1],
        [4, 5],
        [6, 7],
        [10, 11],
      ],
    ]);
    const { host, port, database } = service.database;
    const orm = createOrm(
      { host, port, user: "entity_service", password: RUNTIME_PASSWORD, database },
      { poolSize: 1, statementTimeoutMs: 5_000, lockTimeoutMs: 2_000 },
    );
    try {
      for (const chunk of [1, 2, 3, 5]) {
        for (const candidates of [1, 2, 100]) {
          const found: string[][] = [];
          let after: SuggestionPosition | undefined;
          let calls = 0;
          do {
            const em = forOrganization(orm, home.id);
            const page = await suggestDuplicates(em, home.id, { after, rows: 3 }, { keys: 4, chunk, candidates });
            expect(page.rows.length).toBeLessThanOrEqual(Math.min(3, candidates));
            found.push(...page.rows.map(({ first, second }) => [first, second]));
            after = page.rows.length === 3 ? page.rows.at(-1)?.position : page.end;
            calls++;
          } while (after !== undefined);
          expect(found).toEqual(all);
          // 12 tax ids at 4 a call alone.
          expect(calls).toBeGreaterThanOrEqual(3);
        }
      }
    } finally {
      await orm.close(true);
    }
  });

  it("rules 2, 3: never pairs with another organization's, nor tells of them", async () => {
    const [home, other] = [await service.newOrganization(), await service.newOrganization()];
    const externalId = unique("Case");
    const same = { name: "Ana", taxId: "20-99999999-1", entityData: born("1980-02-03") };
    const mine = await newPerson(home.client, { ...same, externalId });
    const theirs = await newPerson(other.client, { ...same, externalId: externalId.toUpperCase() });
    for (const of of [home, other]) expect(await suggest(of)).toEqual([]);
    expect(await suggest(home, byId(mine))).toEqual([]);
    expect(await refusal(home.client.entities.suggestDuplicates({ lookup: byId(theirs) }))).toMatchObject({
      reason: "NOT_FOUND",
    });
  });

  it("needs the scope to read entities", async () => {
    const without = await service.organization.clientWith(["activity:read"]);
    expect(await refusal(without.entities.suggestDuplicates({}))).toMatchObject({ reason: "PERMISSION_DENIED" });
  });

  it("trusts no token that somebody made", async () => {
    const { suggestDuplicates: call } = service.client.entities;
    const id = "00000000-0000-7000-8000-000000000001";
    // As page.ts makes them: the digest holds no secret.
    const query = `${service.organization.id} entity.v1.SuggestDuplicatesRequest `;
    const forge = (cursor: string[]) => {
      const text = JSON.stringify(cursor);
      const digest = createHash("sha256")
        .update(JSON.stringify([query, text]))
        .digest("base64url")
        .slice(0, 16);
      return Buffer.from(`${digest}${text}`).toString("base64url");
    };
    for (const cursor of [
      ["2", "no uuid", id, id],
      ["4", "", id, id],
      ["-1", "", id, id],
      ["0", "x", "y", id],
    ]) {
      expect(await refusal(call({ pageToken: forge(cursor) })), cursor.join()).toMatchObject({
        fields: ["page_token"],
      });
    }
    for (const cursor of [
      ["0", "", id, id],
      ["1", "x", id, id],
      ["2", id.toUpperCase(), id, id],
      ["3", "", id, id],
    ]) {
      expect((await call({ pageToken: forge(cursor) })).suggestions).toEqual([]);
    }
  });
});
