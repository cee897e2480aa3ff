// Tax ids by the canonical form of their country (rule 158), in every statement that looks up, claims or locks by one, and
// what is stored of them, computed anew (rules 155 to 157).
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, test } from "vitest";
import { type Entity, EntityType, TaxIdCheck } from "../clients/typescript/index.ts";
import { partnersOf } from "../src/cli/tax-ids.ts";
import type { Orm } from "../src/db/orm.ts";
import { update } from "../src/domain/entity.ts";
import { TAX_ID_RULES } from "../src/domain/tax-id.ts";
import { toOneEntity } from "../src/entities/command.ts";
import { tellOfOlderTaxIds } from "../src/entities/recheck-tax-ids.ts";
import { writeGroup, writeGroupUnlessBusy } from "../src/entities/write-group.ts";
import { ormOf } from "./audits.ts";
import { cli } from "./cli-process.ts";
import { author, creation } from "./commands-by-hand.ts";
import { byId, byTaxId, current, eventsOf, newPerson, tally, together } from "./given.ts";
import { forget, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let orm: Orm;
beforeAll(async () => {
  service = await startService();
  orm = ormOf(service);
});
afterAll(async () => {
  await orm.close(true);
  await forget(service, altered);
  await service[Symbol.asyncDispose]();
});

/** Entities that a test writes to past the service: their history does not tell of it. */
const altered: string[] = [];

async function openTransaction() {
  const { host, port, user, password, database } = service.database;
  const client = new pg.Client({ host, port, user, password, database });
  await client.connect();
  await client.query("begin");
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

const waiters = async (): Promise<number> => {
  const [row] = await service.sql<{ count: number }>(
    "select count(*)::int from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
  );
  return row?.count ?? 0;
};

const make = (of: TestOrganization, countryCode: string, taxId: string, fields: object = {}) =>
  newPerson(of.client, { type: EntityType.COMPANY, countryCode, taxId, ...fields });

const idOf = async (of: TestOrganization, taxId: string): Promise<string> => {
  try {
    return (await of.client.entities.getEntity({ lookup: byTaxId(taxId) })).entity?.id ?? "";
  } catch (error) {
    return (await refusal(Promise.reject(error))).reason;
  }
};
const unique = (of: TestOrganization, countryCode: string, taxId: string) =>
  of.client.entities.createEntity({
    entity: { type: EntityType.COMPANY, name: "Twin", countryCode, taxId },
    requireUniqueTaxId: true,
  });

/** Numbers, each in several ways of writing. Some have a wrong check digit: their form is known all the same. */
const SPELLINGS: [string, string[]][] = [
  ["ES", ["B58378431", "ESB58378431", "es-b.58.378.431"]],
  ["ES", ["B58378430", "ESB58378430"]],
  ["DE", ["136695976", "DE 136 695 976"]],
  ["BE", ["0403.019.261", "403019261", "BE0403019261", "BE 403.019.261"]],
  ["GR", ["094259216", "EL094259216", "GR094259216", "94259216"]],
  ["CZ", ["25123891", "CZ25123891"]],
  ["NL", ["004495445B01", "NL4495445B01", "4495445.B.01"]],
  ["CL", ["12.531.909-2", "CL125319092"]],
];

describe("rule 158: a tax id is found by the canonical form of its country", () => {
  it.each(SPELLINGS.flatMap(([country, all]) => all.map((stored) => [country, stored, all] as const)))(
    "of %s, stored as %s: by every way of writing it, in every RPC",
    async (country, stored, all) => {
      const home = await service.newOrganization();
      const entity = await make(home, country, stored);
      const { entities, activity } = home.client;
      const lookups = all.map(byTaxId);
      const { results } = await entities.batchGetEntities({ lookups: [...lookups, byId(entity)] });
      for (const { result } of results) expect(result).toMatchObject({ case: "entity", value: { id: entity.id } });
      for (const [i, taxId] of all.entries()) {
        const lookup = byTaxId(taxId);
        expect(await idOf(home, taxId), taxId).toBe(entity.id);
        const updated = await entities.updateEntity({ lookup, entity: { name: `Name ${i}` } });
        expect(updated).toMatchObject({ redirectedFrom: "", entity: { id: entity.id, taxId: stored } });
        expect(
          (await entities.listEntities({ taxId })).entities.map(({ id }) => id),
          taxId,
        ).toEqual([entity.id]);
        const occurredAt = timestampFromMs(1_700_000_000_000 + i);
        const recorded = await activity.recordUserEvents({
          userEvents: [{ taxId, eventType: "login", occurredAt }],
        });
        expect(recorded.userEvents).toMatchObject([{ entityId: entity.id }]);
        expect(await refusal(unique(home, country, taxId)), taxId).toMatchObject({ reason: "DUPLICATE_TAX_ID" });
      }
      expect(await refusal(entities.getEntity({ lookup: byTaxId("B58378499") }))).toMatchObject({
        reason: "NOT_FOUND",
      });
    },
  );

  it("an exact key wins, and where it goes the form is tried again", async () => {
    const home = await service.newOrganization();
    const [short, long] = [await make(home, "ES", "B58378431"), await make(home, "ES", "ESB58378431")];
    expect(await idOf(home, "b-58378431")).toBe(short.id);
    expect(await idOf(home, "ESB58378431")).toBe(long.id);
    const list = async (taxId: string, showDeleted = false) =>
      (await home.client.entities.listEntities({ taxId, showDeleted })).entities.map(({ id }) => id);
    expect(await list("B58378431")).toEqual([short.id]);
    await home.client.entities.deleteEntity({ lookup: byId(short), reason: "a duplicate" });
    expect(await idOf(home, "B58378431")).toBe(long.id);
    expect(await list("B58378431")).toEqual([long.id]);
    expect(await list("B58378431", true)).toEqual([short.id]);
    await home.client.entities.undeleteEntity({ lookup: byId(short), reason: "no duplicate" });
    expect(await idOf(home, "B58378431")).toBe(short.id);
    await home.client.entities.updateEntity({ lookup: byId(short), entity: { taxId: "A58818501" } });
    expect(await idOf(home, "B58378431")).toBe(long.id);
    await home.client.entities.updateEntity({ lookup: byId(long), updateMask: { paths: ["tax_id"] }, entity: {} });
    expect(await idOf(home, "B58378431")).toBe("NOT_FOUND");
  });

  it("several by the form are AMBIGUOUS_TAX_ID_LOOKUP with their ids, and nothing is written", async () => {
    const home = await service.newOrganization();
    const made = [await make(home, "BE", "0403.019.261"), await make(home, "BE", "403.019.261")];
    const ids = made.map(({ id }) => id).sort();
    const { entities } = home.client;
    const lookup = byTaxId("BE 0403.019.261");
    for (const call of [
      () => entities.getEntity({ lookup }),
      () => entities.updateEntity({ lookup, entity: { name: "No" } }),
      () => entities.deleteEntity({ lookup, reason: "which one" }),
    ]) {
      const refused = await refusal(call());
      expect(refused).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP", metadata: { candidates: ids.join(",") } });
    }
    expect((await entities.listEntities({ taxId: "BE0403019261" })).entities.map(({ id }) => id)).toEqual(ids);
    for (const entity of made) expect(await current(home.client, entity)).toEqual(entity);
  });

  it("is one country's alone, and one organization's", async () => {
    const [home, other] = [await service.newOrganization(), await service.newOrganization()];
    // What is a number of Spain is none of France, and a number of Denmark may be one of nobody knows where.
    await make(home, "FR", "B58378431");
    await make(home, "PL", "13585628");
    await make(other, "ES", "B58378431");
    for (const taxId of ["ESB58378431", "DK13585628", "FRB58378431"]) expect(await idOf(home, taxId)).toBe("NOT_FOUND");
    await unique(home, "ES", "ESB58378431");
    // Whoever asks without a prefix says nothing of a country.
    const long = await make(home, "DE", "DE136695976");
    expect(await idOf(home, "136695976")).toBe(long.id);
  });

  it("reads of many callers and organizations that meet get theirs", async () => {
    const organizations = await Promise.all([1, 2, 3].map(() => service.newOrganization()));
    const made = await Promise.all(
      organizations.map(
        async (of) => [await make(of, "ES", "ESB58378431"), await make(of, "DE", "136695976")] as const,
      ),
    );
    const asked = ["B58378431", "ESB58378431", "DE136695976", "136695976", "B00000000"];
    const answers = await Promise.all(
      Array.from({ length: 20 }, () =>
        Promise.all(organizations.map((of) => Promise.all(asked.map((taxId) => idOf(of, taxId))))),
      ),
    );
    const expected = made.map(([es, de]) => [es.id, es.id, de.id, de.id, "NOT_FOUND"]);
    for (const answer of answers) expect(answer).toEqual(expected);
  });

  it("rules 79, 80: a merged entity's form finds the survivor, whose own number wins", async () => {
    const home = await service.newOrganization();
    const { entities } = home.client;
    const primary = await make(home, "ES", "A58818501");
    const secondary = await make(home, "ES", "ESB58378431");
    const merged = await entities.mergeEntities({
      primary: byId(primary),
      secondary: byId(secondary),
      reason: "one company",
    });
    expect(await entities.getEntity({ lookup: byTaxId("B58378431") })).toMatchObject({
      entity: { id: primary.id },
      redirectedFrom: secondary.id,
    });
    expect((await entities.listEntities({ taxId: "B-58378431" })).entities.map(({ id }) => id)).toEqual([primary.id]);
    expect(await refusal(unique(home, "ES", "B58378431"))).toMatchObject({ reason: "DUPLICATE_TAX_ID" });
    const updated = await entities.updateEntity({ lookup: byTaxId("B58378431"), entity: { taxId: "es b58378431" } });
    expect(updated).toMatchObject({ entity: { id: primary.id }, redirectedFrom: secondary.id });
    expect(await entities.getEntity({ lookup: byTaxId("B58378431") })).toMatchObject({ redirectedFrom: "" });
    await entities.deleteEntity({ lookup: byId(primary), reason: "gone with all" });
    expect(await idOf(home, "B58378431")).toBe("NOT_FOUND");
    await entities.undeleteEntity({ lookup: byId(primary), reason: "here again" });
    await entities.updateEntity({ lookup: byId(primary), entity: { taxId: "A58818501" } });
    await entities.unmergeEntities({ mergeId: merged.mergeId, reason: "two companies" });
    expect(await entities.getEntity({ lookup: byTaxId("B58378431") })).toMatchObject({
      entity: { id: secondary.id },
      redirectedFrom: "",
    });
  });

  it("rule 18: of many that ask at once to be the only one with a number, however it is written, one is", async () => {
    const home = await service.newOrganization();
    const spellings = ["0403.019.261", "403019261", "BE0403019261", "BE 403.019.261"];
    const endings = await together(24, (i) => unique(home, "BE", spellings[i % spellings.length] ?? ""));
    expect(tally(endings)).toEqual({ OK: 1, DUPLICATE_TAX_ID: 23 });
    const free = await refusal(unique(home, "BE", "0403.019.261"));
    expect(free).toMatchObject({ reason: "DUPLICATE_TAX_ID", fields: ["entity.tax_id"] });
    expect((await unique(home, "BE", "0403.019.262")).entity?.taxIdCheck).toBe(TaxIdCheck.CHECKSUM_FAILED);
  });

  it("rule 81: a write waits for the entity that the form names, and goes where the number has gone meanwhile", async () => {
    const home = await service.newOrganization();
    const [first, second] = [await make(home, "ES", "ESB58378431"), await make(home, "ES", "A58818501")];
    altered.push(first.id, second.id);
    await using holder = await openTransaction();
    await holder.query("select from entity where id = any($1) for update", [[first.id, second.id]]);
    const renamed = home.client.entities.updateEntity({ lookup: byTaxId("B58378431"), entity: { name: "Renamed" } });
    await expect.poll(waiters).toBe(1);
    const set = (entity: Entity, taxId: string, form: string | null) =>
      holder.query("update entity set tax_id = $2, tax_id_key = $2, tax_id_canonical = $3 where id = $1", [
        entity.id,
        taxId,
        form,
      ]);
    await set(first, "A58818501", null);
    await set(second, "ESB58378431", "B58378431");
    await holder.query("commit");
    expect((await renamed).entity?.id).toBe(second.id);
    expect((await current(home.client, first)).name).toBe(first.name);
  });

  it("SuggestDuplicates pairs them within one country, each pair once", async () => {
    const home = await service.newOrganization();
    const made: Entity[] = [];
    for (const [country, taxId] of [
      ["ES", "B58378431"],
      ["ES", "ESB58378431"],
      ["ES", "es b58378431"],
      ["FR", "FR B58378431"],
      ["BE", "403019261"],
      ["BE", "BE0403019261"],
    ] as const) {
      made.push(await make(home, country, taxId, { name: `${country} ${taxId}` }));
    }
    const indexes = new Map(made.map(({ id }, i) => [id, i]));
    const pairsOf = async (of?: Entity) => {
      const request = of === undefined ? {} : { lookup: byId(of) };
      const { suggestions } = await home.client.entities.suggestDuplicates(request);
      return suggestions.map((pair) => {
        expect(pair.reasons).toMatchObject([{ firstPaths: ["taxId"], secondPaths: ["taxId"] }]);
        return [pair.firstEntityId, pair.secondEntityId]
          .map((id) => indexes.get(id) ?? -1)
          .sort()
          .join();
      });
    };
    expect((await pairsOf()).sort()).toEqual(["0,1", "0,2", "1,2", "4,5"]);
    expect((await pairsOf(made[0])).sort()).toEqual(["0,1", "0,2"]);
    expect(await pairsOf(made[3])).toEqual([]);
    expect(await pairsOf(made[5])).toEqual(["4,5"]);
  });

  it("rule 7: decimal digits of any script are digits, and come back as they were sent", async () => {
    const home = await service.newOrganization();
    const entity = await make(home, "AR", "٣٠-٦٨٠٧٤٦٠٣-٢");
    expect(entity).toMatchObject({ taxId: "٣٠-٦٨٠٧٤٦٠٣-٢", taxIdCheck: TaxIdCheck.VALID });
    for (const taxId of ["30680746032", "३०-६८०७४६०३-२", "３０６８０７４６０３２"])
      expect(await idOf(home, taxId)).toBe(entity.id);
    expect(await refusal(unique(home, "AR", "30-68074603-2"))).toMatchObject({ reason: "DUPLICATE_TAX_ID" });
  });
});

describe("rule 158: writes that commit together find by a form what those before them have left", () => {
  const run = { together: writeGroup, "without waiting": writeGroupUnlessBusy };
  const rename = (taxIdKey: string, name: string) =>
    toOneEntity({
      author,
      lookup: { by: "tax_id", key: taxIdKey },
      decide: (entity) => update(entity!, { name }, ""),
    });
  const setTaxId = (id: string, taxId: string | null) =>
    toOneEntity({
      author,
      lookup: { by: "entity_id", key: id },
      decide: (entity) => update(entity!, { taxId }, ""),
    });

  test.each(Object.keys(run) as (keyof typeof run)[])("%s", async (how) => {
    const home = await service.newOrganization();
    const [es, be] = [await make(home, "ES", "ESB58378431"), await make(home, "BE", "0403019261")];
    const results = await run[how](orm, home.id, [
      rename("B58378431", "found by its form"),
      setTaxId(be.id, null),
      rename("403019261", "nobody"),
      setTaxId(es.id, "B58378431"),
      rename("B58378431", "found by its key"),
      setTaxId(be.id, "BE0403019261"),
      rename("403019261", "found by another form"),
      setTaxId(es.id, "A58818501"),
      rename("ESB58378431", "nobody"),
    ]);
    expect(
      results.map((result) =>
        typeof result === "string" ? result : result.kind === "refused" ? result.error.reason : result.kind,
      ),
    ).toEqual(["done", "done", "NOT_FOUND", "done", "done", "done", "done", "done", "NOT_FOUND"]);
    expect((await current(home.client, es)).name).toBe("found by its key");
    expect((await current(home.client, be)).name).toBe("found by another form");
  });

  const claimInBelgium = (name: string, taxId: string) => {
    const command = toOneEntity({ ...creation(name, undefined, taxId), uniqueTaxIdKey: taxId });
    return {
      ...command,
      decide: (...given: Parameters<typeof command.decide>) =>
        command
          .decide(...given)
          .map((change) => change && { ...change, values: { ...change.values, countryCode: "BE" } }),
    };
  };

  test("creations that claim one number in two ways of writing: the second is refused", async () => {
    const home = await service.newOrganization();
    const results = await writeGroup(orm, home.id, [
      claimInBelgium("first", "0403019261"),
      claimInBelgium("second", "403019261"),
      claimInBelgium("third", "BE0403019261"),
    ]);
    expect(results).toMatchObject([
      { kind: "done" },
      { kind: "refused", error: { reason: "DUPLICATE_TAX_ID" } },
      { kind: "refused", error: { reason: "DUPLICATE_TAX_ID" } },
    ]);
  });

  test("in transactions of several processes at once: one is done, the others are refused", async () => {
    const home = await service.newOrganization();
    for (let round = 0; round < 12; round++) {
      const number = `04030192${String(61 + round)}`;
      const ways = [number, number.slice(1), `BE${number}`];
      const results = await Promise.all(ways.map((way) => writeGroup(orm, home.id, [claimInBelgium(way, way)])));
      const ends = results.flat().map((result) => (typeof result === "object" ? result.kind : result));
      expect(ends.sort()).toEqual(["done", "refused", "refused"]);
    }
  });

  test("a claim beside it does not let the form name what the key itself does", async () => {
    const home = await service.newOrganization();
    const [exact, longer] = [await make(home, "BE", "403019261"), await make(home, "BE", "BE0403019261")];
    const results = await writeGroup(orm, home.id, [
      rename("403019261", "by its key"),
      claimInBelgium("claims it", "403019261"),
    ]);
    expect(results).toMatchObject([{ kind: "done" }, { kind: "refused", error: { reason: "DUPLICATE_TAX_ID" } }]);
    expect((await current(home.client, exact)).name).toBe("by its key");
    expect((await current(home.client, longer)).name).toBe(longer.name);
  });
});

describe("rules 155 to 157: what is stored of tax ids, of this version and of one before", () => {
  const stored = (...ids: string[]) =>
    service.sql<{ id: string }>(
      `select id, tax_id_key as key, tax_id_canonical as form, tax_id_check as check, tax_id_rules as rules, version
       from entity where id = any($1) order by id`,
      [ids],
    );
  /** As a release before has left it; `check` as its validators had it. */
  const leave = (entity: Entity, { key = null, check = null }: { key?: string | null; check?: string | null } = {}) => {
    altered.push(entity.id);
    return service.sql(
      `update entity set tax_id_canonical = null, tax_id_rules = 1, tax_id_key = coalesce($2, tax_id_key),
         tax_id_check = coalesce($3, tax_id_check) where id = $1`,
      [entity.id, key, check],
    );
  };
  const recheck = async (of: TestOrganization, apply: boolean) => {
    const changes = [];
    let afterEntityId = "";
    do {
      const step = await of.client.entities.recheckTaxIds({ apply, afterEntityId });
      changes.push(...step.changes);
      afterEntityId = step.lastEntityId;
    } while (afterEntityId !== "");
    return changes;
  };

  it("rule 156: a row has the version of the rules by which its tax id was written", async () => {
    const home = await service.newOrganization();
    const entity = await make(home, "ES", "ESB58378431");
    const plain = await make(home, "ES", "B58378431");
    expect(await stored(entity.id, plain.id)).toMatchObject([
      { form: "B58378431", rules: TAX_ID_RULES },
      { key: "B58378431", form: null, rules: TAX_ID_RULES },
    ]);
    await leave(entity);
    await home.client.entities.updateEntity({ lookup: byId(entity), entity: { name: "Another" } });
    expect(await stored(entity.id)).toMatchObject([{ form: null, rules: 1 }]);
    const older = () => service.sql("select organization_id as id from list_older_tax_ids(100)");
    expect(await older()).toContainEqual({ id: home.id });
    const lines: object[] = [];
    const log = { warn: (what: object) => lines.push(what) };
    await tellOfOlderTaxIds(orm, { log, describe: () => ({}) });
    expect(lines).toMatchObject([{ organizations: expect.arrayContaining([home.id]) }]);
    // Found by its key as before, and it finds what it is the form of.
    expect(await idOf(home, "ESB58378431")).toBe(entity.id);
    await home.client.entities.updateEntity({ lookup: byId(entity), entity: { taxId: "ES-B58378431" } });
    expect(await stored(entity.id)).toMatchObject([{ form: "B58378431", rules: TAX_ID_RULES }]);
    expect(await older()).not.toContainEqual({ id: home.id });
  });

  it("rule 155: a check that the validators no longer share is no change of an update or an import", async () => {
    const home = await service.newOrganization();
    const entity = await make(home, "ES", "B58378431", { externalId: "stale-1" });
    await leave(entity, { check: "unknown_format" });
    const { entities } = home.client;
    const again = { ...{ type: EntityType.COMPANY, name: entity.name, countryCode: "ES" }, taxId: "B58378431" };
    const { updatedFields } = await entities.updateEntity({ lookup: byId(entity), entity: again });
    expect(updatedFields).toEqual([]);
    expect((await entities.updateEntity({ lookup: byId(entity), entity: { name: "New" } })).updatedFields).toEqual([
      "name",
    ]);
    expect((await current(home.client, entity)).taxIdCheck).toBe(TaxIdCheck.UNKNOWN_FORMAT);
    const other = await entities.updateEntity({ lookup: byId(entity), entity: { taxId: "B-58378431" } });
    expect(other.updatedFields).toEqual(["taxId", "taxIdCheck"]);
  });

  it("rules 157, 158: a form that a release before has left behind, with the rules of this one, is told and healed", async () => {
    const home = await service.newOrganization();
    const entity = await make(home, "ES", "ESB58378431");
    altered.push(entity.id);
    // It has written the tax id and its key, and knows of neither the form nor the rules.
    await service.sql("update entity set tax_id_canonical = 'A00000000' where id = $1", [entity.id]);
    expect(await idOf(home, "A00000000")).toBe(entity.id);
    expect((await recheck(home, false)).map(({ entityId }) => entityId)).toEqual([entity.id]);
    await recheck(home, true);
    expect(await stored(entity.id)).toMatchObject([{ form: "B58378431", rules: TAX_ID_RULES }]);
    expect(await idOf(home, "A00000000")).toBe("NOT_FOUND");
    expect(await idOf(home, "B58378431")).toBe(entity.id);
    expect(await recheck(home, true)).toEqual([]);
  });

  it("rule 157: tells by ids what would be, writes nothing; then keys without an event, checks as updates", async () => {
    const home = await service.newOrganization();
    const short = await make(home, "ES", "B58378431");
    const long = await make(home, "ES", "ESB58378431");
    const checked = await make(home, "DE", "136695976");
    const gone = await make(home, "BE", "403019261");
    const [primary, merged] = [await make(home, "BE", "0202239951"), await make(home, "NL", "NL4495445B01")];
    const { entities } = home.client;
    await entities.deleteEntity({ lookup: byId(gone), reason: "closed down" });
    await entities.mergeEntities({ primary: byId(primary), secondary: byId(merged), reason: "one company" });
    const all = [short, long, checked, gone, primary, merged].map(({ id }) => id);
    for (const entity of [short, long, checked, gone, primary, merged])
      await leave(entity, { check: "unknown_format" });
    await service.sql("update entity set tax_id_check = 'valid' where id = any($1)", [[short.id, long.id, primary.id]]);
    const before = await stored(...all);
    const versions = await Promise.all([short, long, checked].map((entity) => current(home.client, entity)));
    expect(await idOf(home, "ES-B58378431")).toBe(long.id);

    const told = await recheck(home, false);
    expect(await stored(...all)).toEqual(before);
    expect(told.map(({ entityId }) => entityId).sort()).toEqual([long.id, checked.id, gone.id, merged.id].sort());
    expect(partnersOf(told)).toEqual({ sharing: new Map([[long.id, [short.id]]]), parting: new Map() });
    expect(told.find(({ entityId }) => entityId === checked.id)).toMatchObject({
      previousTaxIdCheck: TaxIdCheck.UNKNOWN_FORMAT,
      taxIdCheck: TaxIdCheck.VALID,
    });

    expect(await recheck(home, true)).toEqual(told);
    expect(await stored(...all)).toMatchObject(
      [
        { id: short.id, form: null, check: "valid" },
        { id: long.id, form: "B58378431", check: "valid" },
        { id: checked.id, form: null, check: "valid", version: "2" },
        { id: gone.id, form: "0403019261", check: "unknown_format" },
        { id: primary.id, form: null, check: "valid" },
        { id: merged.id, form: "004495445B01", check: "unknown_format" },
      ]
        .map((row) => ({ ...row, rules: TAX_ID_RULES }))
        .sort((a, b) => (a.id < b.id ? -1 : 1)),
    );
    // Keys are no change; the check is one, of its own source.
    expect(await current(home.client, short)).toEqual(versions[0]);
    expect(await current(home.client, long)).toEqual(versions[1]);
    expect((await eventsOf(home.client, checked)).at(-1)).toMatchObject({
      ...{ source: "tax_ids_recheck", updatedFields: ["taxIdCheck"], entityVersion: 2n },
      previousValues: { taxIdCheck: "unknown_format" },
      newValues: { taxIdCheck: "valid" },
    });
    expect(await idOf(home, "4495445B01")).toBe(primary.id);
    expect(await recheck(home, true)).toEqual([]);
  });

  it("rule 157: goes in steps of 500, may stop after any of them, and tells of pairs that are steps apart", async () => {
    const home = await service.newOrganization();
    const first = await make(home, "BE", "403019261");
    const commands = Array.from({ length: 600 }, (_, i) => toOneEntity(creation(`n${i}`, `n${i}`)));
    await writeGroup(orm, home.id, commands);
    const last = await make(home, "BE", "BE0403019261");
    for (const entity of [first, last]) await leave(entity);
    const { entities } = home.client;
    const step = await entities.recheckTaxIds({});
    expect(step).toMatchObject({ entities: 500, changes: [{ entityId: first.id, holders: [] }] });
    expect(step.lastEntityId).not.toBe("");
    const pairs = new Map([
      [first.id, [last.id]],
      [last.id, [first.id]],
    ]);
    expect(partnersOf(await recheck(home, false))).toEqual({ sharing: pairs, parting: new Map() });
    // Stopped after one step, then run from the beginning.
    await entities.recheckTaxIds({ apply: true });
    expect(await stored(first.id, last.id)).toMatchObject([{ form: "0403019261" }, { form: null }]);
    expect((await recheck(home, true)).map(({ entityId }) => entityId)).toEqual([last.id]);
    expect(await idOf(home, "0403019261")).toBe("AMBIGUOUS_TAX_ID_LOOKUP");
    const refused = await refusal(entities.recheckTaxIds({ afterEntityId: "no uuid" }));
    expect(refused).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["after_entity_id"] });
  });

  it("rule 157: two that share a key no longer, and one that another gets", async () => {
    const home = await service.newOrganization();
    const [a, b, c] = [await make(home, "AR", "1-2"), await make(home, "AR", "3-4"), await make(home, "AR", "5-6")];
    // As if the function of a version before had made other keys.
    await leave(a, { key: "34" });
    await leave(c, { key: "12" });
    expect(partnersOf(await recheck(home, false))).toEqual({
      sharing: new Map(),
      parting: new Map([[a.id, [b.id]]]),
    });
    await recheck(home, true);
    for (const [taxId, { id }] of [
      ["12", a],
      ["34", b],
      ["56", c],
    ] as const)
      expect(await idOf(home, taxId)).toBe(id);
  });

  it("rule 157: a tax id that is written meanwhile keeps its own key, and one that is held waits", async () => {
    const home = await service.newOrganization();
    const entity = await make(home, "ES", "ESB58378431");
    await leave(entity);
    await using holder = await openTransaction();
    await holder.query(
      "update entity set tax_id = 'A58818501', tax_id_key = 'A58818501', tax_id_rules = 2 where id = $1",
      [entity.id],
    );
    const rechecked = recheck(home, true);
    await expect.poll(waiters).toBe(1);
    await holder.query("commit");
    await rechecked;
    expect(await stored(entity.id)).toMatchObject([{ key: "A58818501", form: null }]);
  });

  it("rule 157: the command line prints ids and counts, and no tax id", async () => {
    const home = await service.newOrganization();
    const [short, long] = [await make(home, "ES", "B58378431"), await make(home, "ES", "ESB58378431")];
    const checked = await make(home, "DE", "136695976");
    await leave(long);
    await leave(checked, { check: "unknown_format" });
    const env = { ENTITY_SERVICE_URL: service.baseUrl, ENTITY_SERVICE_API_KEY: home.apiKey };
    const lines =
      `${checked.id}  check UNKNOWN_FORMAT -> VALID\n` + `${long.id}  shares its tax id with  ${short.id}\n`;
    const counts = "entities 3, keys 1, checks 1, sharing 1, parting 0\n";
    const told = await cli(["tax-ids", "recheck"], { env });
    expect(told).toEqual({ code: 0, stdout: `${lines}nothing written: ${counts}`, stderr: "" });
    expect(await cli(["tax-ids", "recheck", "--apply"], { env })).toMatchObject({ stdout: `${lines}${counts}` });
    const nothing = "entities 3, keys 0, checks 0, sharing 0, parting 0\n";
    expect(await cli(["tax-ids", "recheck", "--apply"], { env })).toMatchObject({ stdout: nothing });
  });
});
