// SuggestDuplicates: which entities may be one, and why (rules 161 to 163).
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
import { byExternalId, byId, newPerson } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

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
