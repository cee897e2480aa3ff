// Rules 87 to 107 as pure functions: what a merge makes of two entities, and what undoing it makes of them again.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type {
  EntityState,
  EntityStatus,
  ExternalIdState,
  Layer,
  LayeredValues,
} from "../../src/domain/entity-state.ts";
import type { DomainError } from "../../src/domain/errors.ts";
import type { JsonObject } from "../../src/domain/json.ts";
import { type Contribution, carry, layeredOf, moreSevere, survive, withLayered } from "../../src/domain/layer.ts";
import { LIMITS } from "../../src/domain/limits.ts";
import { conflictsOf, type MergeFacts, merge } from "../../src/domain/merge.ts";
import { type MergeRecord, type UnmergeFacts, unmerge } from "../../src/domain/unmerge.ts";

const at = (n: number) => BigInt(n) * 1_000_000n;

function person(fields: Partial<EntityState> = {}): EntityState {
  return {
    ...{ id: "p", organizationId: "o", version: 1, etag: "e", createdAt: at(1), updatedAt: at(1), deletedAt: null },
    ...{ type: "person", countryCode: "AR", externalIds: [], name: "Ana", taxId: null, taxIdCheck: null },
    ...{ status: "active", nationality: null, riskMatrixId: null, riskScore: null, entityData: null },
    ...{ attributes: {}, metadata: {}, mergedInto: null },
    ...fields,
  };
}

const id = (externalId: string, more: Partial<ExternalIdState> = {}): ExternalIdState => ({
  ...{
    externalId,
    type: "",
    primary: false,
    attachedAt: at(1),
    trackedSince: at(1),
    lastResolvedOn: null,
    homeId: null,
  },
  ...more,
});
const primary = (externalId: string, more: Partial<ExternalIdState> = {}) =>
  id(externalId, { primary: true, trackedSince: null, ...more });

const FACTS: MergeFacts = {
  ...{ lastOrdinal: 0, primaryLayer: undefined, primaryMembers: 0, secondaryMembers: 0, distinctId: undefined },
  rows: { transactions: 2, userEvents: 1 },
};
const COMMAND = { mergeId: "m", reason: "one person", secondaryRedirectedFrom: "" };

const merged = (p: EntityState, s: EntityState, facts: Partial<MergeFacts> = {}) =>
  merge(p, s, COMMAND, { ...FACTS, ...facts }, at(9))[0].values;

function refusalOf(work: () => unknown): { reason: string; metadata: Record<string, string> } {
  try {
    work();
  } catch (error) {
    const { reason, metadata } = error as DomainError;
    return { reason, metadata };
  }
  throw new Error("it should have been refused");
}

describe("rule 89: field by field", () => {
  const STATUSES: EntityStatus[] = ["blocked", "rejected", "suspended", "under_review"];
  const CALM: EntityStatus[] = ["pending", "active", "inactive"];

  it("rule 89: the more severe status, of equals the primary's", () => {
    const ranked = [...STATUSES, ...CALM];
    for (const [i, first] of ranked.entries()) {
      for (const [j, second] of ranked.entries()) {
        const isEqual = CALM.includes(first) && CALM.includes(second);
        const expected = isEqual || i <= j ? first : second;
        expect(moreSevere(first, second), `${first}, ${second}`).toBe(expected);
        expect(merged(person({ status: first }), person({ id: "s", status: second })).status).toBe(expected);
      }
    }
  });

  it.each([
    ["35.00", "7.50", "35.00"],
    ["7.50", "35.00", "35.00"],
    ["9.00", "10.00", "10.00"],
    [null, "0.00", "0.00"],
    ["0.00", null, "0.00"],
    [null, null, null],
  ])("rule 89: of the risk scores %s and %s the higher: %s", (first, second, expected) => {
    expect(merged(person({ riskScore: first }), person({ id: "s", riskScore: second })).riskScore).toBe(expected);
  });

  it("rule 89: tax id, nationality and matrix are the primary's, or the secondary's where it has none", () => {
    const own = { taxId: "20-1", taxIdCheck: "checksum_failed", nationality: "AR", riskMatrixId: "x" } as const;
    const other = { taxId: "20284719531", taxIdCheck: "unknown_format", nationality: "BR", riskMatrixId: "y" } as const;
    expect(merged(person(own), person({ id: "s", ...other }))).toMatchObject(own);
    // The check is made anew: by the rules of the survivor's country.
    expect(merged(person(), person({ id: "s", countryCode: "BR", ...other }))).toMatchObject({
      ...other,
      taxIdCheck: "valid",
    });
  });

  it("rule 89: maps by key, the primary's first; nested values are taken whole, trading names alone unite", () => {
    const p = person({
      type: "company",
      entityData: { legalName: "A", address: { city: "Rosario" }, tradingNames: ["A", "B"] },
      attributes: { a: 1, deep: { x: 1 } },
      metadata: JSON.parse('{"__proto__": "own"}') as JsonObject,
    });
    const s = person({
      ...{ id: "s", type: "company" },
      entityData: { legalName: "B", website: "b.example", address: { street: "S" }, tradingNames: ["B", "C", "C"] },
      attributes: { b: null, deep: { y: 2 } },
      metadata: JSON.parse('{"__proto__": "other", "constructor": 2}') as JsonObject,
    });
    const values = merged(p, s);
    expect(values.entityData).toEqual({
      ...{ legalName: "A", website: "b.example", address: { city: "Rosario" }, tradingNames: ["A", "B", "C"] },
    });
    expect(values.attributes).toEqual({ a: 1, b: null, deep: { x: 1 } });
    expect(JSON.stringify(values.metadata)).toBe('{"__proto__":"own","constructor":2}');
    // What nothing is added to stays the same object: no change is told of it.
    expect(merged(p, person({ id: "s", type: "company" })).entityData).toBe(p.entityData);
  });

  it("rule 89: external ids of the secondary become aliases, with their labels and their homes", () => {
    const s = person({
      ...{ id: "s", externalIds: [primary("s1", { type: "cif" }), id("s2", { homeId: "older" })] },
    });
    expect(merged(person({ externalIds: [primary("p1")] }), s).externalIds).toEqual([
      primary("p1"),
      id("s1", { type: "cif", attachedAt: at(9), trackedSince: at(9), homeId: "s" }),
      id("s2", { attachedAt: at(9), trackedSince: at(9), homeId: "older" }),
    ]);
    expect(merged(person(), s).externalIds[0]).toEqual(primary("s1", { type: "cif", attachedAt: at(9), homeId: "s" }));
  });

  it("rule 91: the secondary keeps its values and loses its ids; no row of activity is rewritten", () => {
    const s = person({ id: "s", name: "S", externalIds: [primary("s1")], status: "blocked", attributes: { a: 1 } });
    const [, change] = merge(person(), s, COMMAND, FACTS, at(9));
    expect(change).toMatchObject({ type: "MERGED", detaches: "MERGED", copied: null });
    expect(change.values).toEqual({ ...s, externalIds: [], mergedInto: "p" });
  });
});

describe("rule 87: what is no merge", () => {
  const p = person();
  const s = person({ id: "s" });
  const cases: [string, EntityState, EntityState, Partial<typeof COMMAND>, Partial<MergeFacts>, object][] = [
    ["itself", p, p, {}, {}, { cause: "SAME_ENTITY", entity_id: "p" }],
    // Merging twice: the secondary's lookup leads to the primary.
    ["the same again", p, p, { secondaryRedirectedFrom: "s" }, {}, { cause: "SAME_ENTITY" }],
    ["a redirected one", p, s, { secondaryRedirectedFrom: "x" }, {}, { cause: "SECONDARY_REDIRECTED", entity_id: "s" }],
    ["another type", p, person({ id: "s", type: "company" }), {}, {}, { cause: "TYPE_DIFFERS", entity_id: "s" }],
    ["a distinct one", p, s, {}, { distinctId: "d" }, { cause: "DISTINCT", entity_id: "s", distinct_id: "d" }],
    [
      ...(["a hundred and one", p, s, {}] as const),
      { primaryMembers: 60, secondaryMembers: 40 },
      { cause: "LIMIT", field: "merged_entities", limit: "100" },
    ],
  ];
  it.each(cases)("rule 87: %s", (_, first, second, command, facts, metadata) => {
    const refused = refusalOf(() => merge(first, second, { ...COMMAND, ...command }, { ...FACTS, ...facts }, at(9)));
    expect(refused).toMatchObject({ reason: "MERGE_NOT_ALLOWED", metadata });
  });

  it.each([
    ["primary", person({ deletedAt: at(2) }), s],
    ["secondary", p, person({ id: "s", deletedAt: at(2) })],
  ])("rule 87: a deleted %s is ENTITY_DELETED and named", (field, first, second) => {
    expect(refusalOf(() => merge(first, second, COMMAND, FACTS, at(9)))).toMatchObject({
      ...{ reason: "ENTITY_DELETED", metadata: { field } },
    });
  });

  const keys = (from: number, count: number) =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${from + i}`, i]));
  const ids = (prefix: string, count: number) =>
    Array.from({ length: count }, (_, i) => id(`${prefix}${i}`, { primary: i === 0 }));
  const large = (key: string) => ({
    [key]: Array.from({ length: 10 }, () => "x".repeat(4_000)),
  });

  it.each<[string, Partial<EntityState>, Partial<EntityState>, object | null]>([
    ["200 keys", { attributes: keys(0, 150) }, { attributes: keys(100, 100) }, null],
    ["201 keys", { attributes: keys(0, 150) }, { attributes: keys(149, 52) }, { field: "attributes", limit: "200" }],
    ["201 keys", { metadata: keys(0, 150) }, { metadata: keys(149, 52) }, { field: "metadata", limit: "200" }],
    ["201 keys", { entityData: keys(0, 150) }, { entityData: keys(149, 52) }, { field: "entity_data", limit: "200" }],
    ["80 kB", { metadata: large("a") }, { metadata: large("b") }, { field: "metadata", limit: String(64 * 1024) }],
    ["100 external ids", { externalIds: ids("a", 50) }, { externalIds: ids("b", 50) }, null],
    [
      ...(["101 external ids", { externalIds: ids("a", 50) }, { externalIds: ids("b", 51) }] as const),
      { field: "external_ids", limit: String(LIMITS.externalIdsPerEntity) },
    ],
  ])("rule 88: %s after the union", (_, first, second, expected) => {
    const work = () => merged(person(first), person({ id: "s", ...second }));
    if (expected === null) expect(work).not.toThrow();
    else expect(refusalOf(work).metadata).toEqual({ cause: "LIMIT", ...expected });
  });

  it("rule 88: 201 trading names", () => {
    const names = (from: number, count: number) => Array.from({ length: count }, (_, i) => `n${from + i}`);
    const company = (tradingNames: string[]) => person({ type: "company", entityData: { tradingNames } });
    expect(() => merged(company(names(0, 150)), { ...company(names(100, 100)), id: "s" })).not.toThrow();
    expect(refusalOf(() => merged(company(names(0, 150)), { ...company(names(149, 52)), id: "s" })).metadata).toEqual({
      ...{ cause: "LIMIT", field: "entity_data.company.trading_names", limit: "200" },
    });
  });
});

it("rule 90: conflicts are the paths where both have a value and these differ, with what was kept", () => {
  const p = person({
    ...{
      name: "Ana",
      status: "active",
      riskScore: "1.00",
      taxId: "1",
      nationality: "AR",
      attributes: { a: 1, same: [1] },
    },
    entityData: { email: "a", tradingNames: ["x"] },
  });
  const s = person({
    ...{ id: "s", name: "Ana M", countryCode: "UY", status: "blocked", riskScore: "2.00", taxId: "2" },
    ...{ attributes: { a: 2, same: [1], b: 3 }, entityData: { email: "b", tradingNames: ["y"] } },
  });
  expect(conflictsOf(p, s, merged(p, s))).toEqual([
    { path: "countryCode", primary: "AR", secondary: "UY", kept: "PRIMARY" },
    { path: "name", primary: "Ana", secondary: "Ana M", kept: "PRIMARY" },
    { path: "taxId", primary: "1", secondary: "2", kept: "PRIMARY" },
    { path: "status", primary: "active", secondary: "blocked", kept: "SECONDARY" },
    { path: "riskScore", primary: "1.00", secondary: "2.00", kept: "SECONDARY" },
    { path: "entityData.email", primary: "a", secondary: "b", kept: "PRIMARY" },
    { path: "entityData.tradingNames", primary: ["x"], secondary: ["y"], kept: "BOTH" },
    { path: "attributes.a", primary: 1, secondary: 2, kept: "PRIMARY" },
  ]);
});

// --- Undoing ------------------------------------------------------------------------------------

const RECORD: MergeRecord = {
  ...{ id: "m", primaryId: "p", secondaryId: "s", ordinal: 1, isUndone: false, primaryExternalId: "p1" },
  externalIds: [primary("s1"), id("s2"), id("s3", { homeId: "older" })],
};
const carriedIds = [primary("p1"), id("s1", { homeId: "s" }), id("s2", { homeId: "s" }), id("s3", { homeId: "older" })];
const survivor = (fields: Partial<EntityState> = {}) => person({ externalIds: carriedIds, ...fields });
const secondary = (fields: Partial<EntityState> = {}) => person({ id: "s", mergedInto: "p", name: "S", ...fields });
const facts = (layer: Partial<Layer>, more: Partial<UnmergeFacts> = {}): UnmergeFacts => ({
  ...{ merge: RECORD, remaining: [], members: new Set(["older"]), rows: FACTS.rows, taken: new Set<string>() },
  layer: { own: layeredOf(person()), held: {}, merges: 1, ...layer },
  ...more,
});
const parted = (s: EntityState, t: EntityState, f: UnmergeFacts) =>
  unmerge(s, t, { reason: "two persons", distinctId: undefined }, f, at(20));

describe("rules 103 to 107: undoing a merge", () => {
  it("rule 106: ids go back to their homes, with the primary that was; the survivor has its own again", () => {
    const done = parted(survivor(), secondary(), facts({}));
    expect(done.changes[0].values.externalIds).toEqual([primary("p1")]);
    expect(done.changes[1].values.externalIds).toEqual([
      primary("s1", { attachedAt: at(20) }),
      id("s2", { attachedAt: at(20), trackedSince: at(20) }),
      id("s3", { attachedAt: at(20), trackedSince: at(20), homeId: "older" }),
    ]);
    expect(done).toMatchObject({ returned: ["s1", "s2", "s3"], lost: [], carried: [] });
    expect(done.changes[0]).toMatchObject({ detaches: "UNMERGED", layer: null });
    expect(done.changes[1]).toMatchObject({ copied: "s1" });
  });

  it.each<[string, ExternalIdState[], string | null, string | undefined]>([
    ["the one that it had", [primary("s1", { homeId: "s" }), id("new"), id("p1")], "p1", "p1"],
    [
      "its oldest own one",
      [primary("s1", { homeId: "s" }), id("x", { homeId: "y" }), id("b"), id("a", { attachedAt: at(2) })],
      "gone",
      "b",
    ],
    ["one that another merge brought", [primary("s1", { homeId: "s" }), id("x", { homeId: "y" })], null, "x"],
    ["none", [primary("s1", { homeId: "s" })], null, undefined],
    ["the present one, where that stays", [primary("n"), id("s1", { homeId: "s" }), id("p1")], "p1", "n"],
  ])("rule 106: the survivor's primary is %s", (_, externalIds, primaryExternalId, expected) => {
    const record = { ...RECORD, primaryExternalId };
    const { changes } = parted(survivor({ externalIds }), secondary(), facts({}, { merge: record }));
    expect(changes[0].values.externalIds.find((one) => one.primary)?.externalId).toBe(expected);
    expect(changes[0].values.externalIds.some((one) => one.externalId === "s1")).toBe(false);
  });

  it("rule 106: without its primary the secondary has its oldest one; what is lost says why", () => {
    const externalIds = carriedIds.filter(({ externalId }) => externalId !== "s1");
    const { changes, lost } = parted(survivor({ externalIds }), secondary(), facts({}));
    expect(changes[1].values.externalIds.map((one) => [one.externalId, one.primary])).toEqual([
      ["s2", true],
      ["s3", false],
    ]);
    expect(lost).toEqual([{ externalId: "s1", why: "RELEASED" }]);
    const taken = facts({}, { taken: new Set(["s1"]) });
    expect(parted(survivor({ externalIds }), secondary(), taken).lost).toEqual([{ externalId: "s1", why: "TAKEN" }]);
  });

  it.each<[string, EntityStatus, EntityStatus, number | undefined, EntityStatus, string[]]>([
    ["blocked by hand since", "blocked", "active", 1, "blocked", ["status"]],
    ["suspended by hand since, and blocked itself", "suspended", "blocked", 1, "blocked", []],
    ["blocked before", "blocked", "active", 0, "active", []],
    ["blocked by its own status alone", "blocked", "blocked", undefined, "blocked", []],
    ["set to active by hand", "active", "blocked", 1, "blocked", []],
    ["under review by hand, which decides nothing", "under_review", "active", 1, "active", []],
  ])("rule 105: %s", (_, now, was, held, expected, carried) => {
    const layer = held === undefined ? {} : { held: { status: held } };
    const done = parted(survivor({ status: now }), secondary({ status: was }), facts(layer));
    expect(done.changes[1].values.status).toBe(expected);
    expect(done.carried).toEqual(carried);
  });

  it("rule 108: what was edited since stays, and is listed where the secondary has a value too", () => {
    const own = { ...layeredOf(person()), name: "Ana", attributes: { a: 3, b: 1 } };
    const held = { "attributes.a": 1, name: 0 };
    const s = secondary({ attributes: { a: 2 }, name: "S" });
    const done = parted(survivor({ attributes: { a: 3, b: 1 } }), s, facts({ own, held }));
    expect(done.kept).toEqual([{ path: "attributes.a", survivor: 3, secondary: 2 }]);
    expect(done.changes[0].values.attributes).toEqual({ a: 3, b: 1 });
    expect(done.changes[1].values.attributes).toEqual({ a: 2 });
  });
});

// --- Properties ---------------------------------------------------------------------------------

const value = fc.constantFrom<string | number | string[]>("x", "y", 1);
const map = fc.dictionary(fc.constantFrom("a", "b", "c", "__proto__"), value, { maxKeys: 3 });
const layered: fc.Arbitrary<LayeredValues> = fc.record({
  name: fc.constantFrom("N", "M"),
  taxId: fc.constantFrom(null, "1", "2"),
  status: fc.constantFrom<EntityStatus>("active", "pending", "blocked", "suspended", "under_review"),
  nationality: fc.constantFrom(null, "AR", "BR"),
  riskMatrixId: fc.constantFrom(null, "m"),
  riskScore: fc.constantFrom(null, "1.00", "20.00"),
  entityData: fc.oneof(
    fc.constant(null),
    fc.record({ legalName: fc.constantFrom("A", "B"), tradingNames: fc.subarray(["t", "u", "v"]) }),
  ),
  attributes: map,
  metadata: map,
});
type Edit = { at: number; values: LayeredValues; fields: (keyof LayeredValues)[] };
const FIELDS = ["name", "taxId", "status", "nationality", "riskScore", "entityData", "attributes", "metadata"] as const;
const edit: fc.Arbitrary<Edit> = fc.record({
  at: fc.nat({ max: 4 }),
  values: layered,
  fields: fc.subarray([...FIELDS], { minLength: 1, maxLength: 2 }),
});

/** Merges those of `from` that are `isIn`, one after the other, with edits between them: what one sees in the end. */
function live(
  own: LayeredValues,
  from: readonly LayeredValues[],
  edits: readonly Edit[],
  isIn: (i: number) => boolean,
) {
  let layer: Layer = { own, held: {}, merges: 0 };
  let contributions: Contribution[] = [];
  let seen = own;
  const apply = (step: number) => {
    for (const { at: when, values, fields } of edits) {
      if (when !== step) continue;
      const after = { ...seen, ...Object.fromEntries(fields.map((field) => [field, values[field]])) };
      layer = carry(layer, seen, after);
      expect(survive(layer.own, layer.held, contributions)).toEqual(after);
      seen = after;
    }
  };
  apply(0);
  from.forEach((values, i) => {
    layer = { ...layer, merges: i + 1 };
    if (isIn(i)) contributions = [...contributions, { ordinal: i + 1, values }];
    seen = survive(layer.own, layer.held, contributions);
    apply(i + 1);
  });
  return { seen, layer, contributions };
}

describe("layers", () => {
  it("rule 101: an edit shows what it wrote, whatever was merged before", () => {
    fc.assert(
      fc.property(
        layered,
        fc.array(layered, { maxLength: 3 }),
        fc.array(edit, { maxLength: 4 }),
        (own, from, edits) => {
          live(own, from, edits, () => true);
        },
      ),
    );
  });

  it("rule 104: without a merge everything is as if it had never been, but for what was edited since", () => {
    fc.assert(
      fc.property(
        ...([layered, fc.array(layered, { minLength: 1, maxLength: 4 }), fc.array(edit, { maxLength: 3 })] as const),
        fc.nat({ max: 3 }),
        (own, from, edits, which) => {
          const gone = which % from.length;
          const { layer, contributions } = live(own, from, edits, () => true);
          const left = contributions.filter(({ ordinal }) => ordinal !== gone + 1);
          const undone = survive(layer.own, layer.held, left);
          const edited = new Set(
            edits.filter((one) => one.at > gone && one.at <= from.length).flatMap((one) => one.fields),
          );
          const never = live(own, from, edits, (i) => i !== gone).seen;
          for (const field of FIELDS) if (!edited.has(field)) expect(undone[field], field).toEqual(never[field]);
        },
      ),
      { numRuns: 500 },
    );
  });

  it("rule 104: undone in any order, all of them leave what the survivor has by itself", () => {
    fc.assert(
      fc.property(layered, fc.array(layered, { maxLength: 4 }), (own, from) => {
        const { layer } = live(own, from, [], () => true);
        expect(survive(layer.own, layer.held, [])).toEqual(own);
        expect(withLayered(person(layeredOf(own)), survive(own, {}, []))).toEqual(person(layeredOf(own)));
      }),
    );
  });

  it("rule 89: a merge of what one sees is the merge of all that was merged", () => {
    fc.assert(
      fc.property(
        layered,
        fc.array(layered, { maxLength: 3 }),
        layered,
        fc.array(edit, { maxLength: 3 }),
        (own, from, last, edits) => {
          const { seen, layer, contributions } = live(
            own,
            from,
            edits.filter((one) => one.at <= from.length),
            () => true,
          );
          const all = survive(layer.own, layer.held, [...contributions, { ordinal: from.length + 1, values: last }]);
          expect(survive(seen, {}, [{ ordinal: 1, values: last }])).toEqual(all);
        },
      ),
    );
  });
});
