// Merges, unmerges and everything else that changes who an id names, in random order, against a model that knows the rules
// and none of the code: after each step every id and tax id names whom it should, with the values that it should, activity
// is listed where it belongs, and the step before can still be read. The invariants of every suite hold at the end.
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type BatchGetEntitiesResult,
  Designation,
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityType,
  errorInfo,
} from "../clients/typescript/index.ts";
import { asThen, byExternalId, byId, byTaxId, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const RUNS = Number(process.env.IDENTITY_RUNS ?? 200);
const SEED = Number(process.env.TEST_SEED ?? Date.now() % 2 ** 31);
/** Those that each sequence begins with, and how many may be created in it. */
const ENTITIES = 4;
const CREATED = 2;
const EXTERNAL_IDS = 6;
const TAX_IDS = 3;

let service: TestService;
let client: EntityClient;
beforeAll(async () => {
  service = await startService();
  ({ client } = service);
});
afterAll(() => service[Symbol.asyncDispose](), 300_000);

// --- What is done -------------------------------------------------------------------------------

type Key = { by: "id" | "external" | "tax"; n: number };
type Path = "name" | "taxId" | "nationality" | "status" | "attributes.a" | "attributes.b";
type Value = string | undefined;
type Step =
  | { kind: "update"; key: Key; path: Path; value: number; clears: boolean }
  | { kind: "replace"; key: Key; value: number }
  | { kind: "create"; external: number; taxId: number }
  | { kind: "assign"; key: Key; external: number }
  | { kind: "change"; key: Key; external: number; keeps: boolean }
  | { kind: "add"; key: Key; external: number; primary: boolean }
  | { kind: "release"; key: Key; external: number }
  | { kind: "delete"; key: Key }
  | { kind: "undelete"; key: Key }
  | { kind: "record"; key: Key }
  | { kind: "merge"; into: number; from: number }
  | { kind: "unmerge"; merge: number };

const n = (count: number) => fc.nat({ max: count - 1 });
const key: fc.Arbitrary<Key> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ by: fc.constant("id" as const), n: n(ENTITIES) }) },
  { weight: 4, arbitrary: fc.record({ by: fc.constant("external" as const), n: n(EXTERNAL_IDS) }) },
  { weight: 2, arbitrary: fc.record({ by: fc.constant("tax" as const), n: n(TAX_IDS) }) },
);
const of = <K extends string>(kind: K) => fc.constant(kind);
const PATHS: Path[] = ["name", "taxId", "nationality", "status", "attributes.a", "attributes.b"];
const mayClear = (path: Path) => path !== "name" && path !== "status";
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      ...{ kind: of("update"), key, path: fc.constantFrom(...PATHS), value: n(3) },
      clears: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: of("replace"), key, value: n(3) }) },
  { weight: 1, arbitrary: fc.record({ kind: of("create"), external: n(EXTERNAL_IDS), taxId: n(TAX_IDS) }) },
  { weight: 1, arbitrary: fc.record({ kind: of("assign"), key, external: n(EXTERNAL_IDS) }) },
  { weight: 2, arbitrary: fc.record({ kind: of("change"), key, external: n(EXTERNAL_IDS), keeps: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: of("add"), key, external: n(EXTERNAL_IDS), primary: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: of("release"), key, external: n(EXTERNAL_IDS) }) },
  { weight: 1, arbitrary: fc.record({ kind: of("delete"), key }) },
  { weight: 1, arbitrary: fc.record({ kind: of("undelete"), key }) },
  { weight: 3, arbitrary: fc.record({ kind: of("record"), key }) },
  { weight: 7, arbitrary: fc.record({ kind: of("merge"), into: n(ENTITIES + CREATED), from: n(ENTITIES + CREATED) }) },
  { weight: 5, arbitrary: fc.record({ kind: of("unmerge"), merge: n(6) }) },
);
const steps = fc.array(step, { minLength: 1, maxLength: 12, size: "max" });

/** Two that are merged into one, an edit of that one, and one of the two that is parted again: where edits and merges meet. */
const edited: fc.Arbitrary<Step[]> = fc
  .record({
    people: fc.shuffledSubarray([0, 1, 2, 3], { minLength: 3, maxLength: 3 }),
    edit: fc.oneof(
      // What the two have is not to be seen, nor to come back.
      fc.record({ path: fc.constantFrom(...PATHS.filter(mayClear)), value: n(3), clears: fc.constant(true) }),
      fc.record({ path: fc.constantFrom(...PATHS), value: n(3), clears: fc.constant(false) }),
    ),
    isBetween: fc.boolean(),
    first: n(2),
    rest: fc.array(step, { maxLength: 2, size: "max" }),
  })
  .map(({ people: [into = 0, one = 1, other = 2], edit, isBetween, first, rest }): Step[] => {
    const update: Step = { kind: "update", key: { by: "id", n: into }, ...edit };
    const merges: Step[] = [one, other].map((from) => ({ kind: "merge", into, from }));
    const both = isBetween ? [merges[0] as Step, update, merges[1] as Step] : [...merges, update];
    return [...both, ...rest, { kind: "unmerge", merge: first }, { kind: "unmerge", merge: 1 - first }];
  });

// --- What must come of it -----------------------------------------------------------------------

interface Attached {
  external: number;
  home: number;
  primary: boolean;
  at: number;
}
interface Merge {
  primary: number;
  secondary: number;
  ordinal: number;
  had: Attached[];
  primaryWas: number | undefined;
  isUndone: boolean;
}
interface Person {
  own: Record<Path, Value>;
  held: Partial<Record<Path, number>>;
  merges: number;
  mergedInto: number | undefined;
  isDeleted: boolean;
  ids: Attached[];
}

const WORDS = ["active", "suspended", "blocked"];
const SEVERITY: Record<string, number> = { suspended: 2, blocked: 4 };
const wordOf = (path: Path, value: number): string =>
  path === "status"
    ? (WORDS[value] as string)
    : path === "nationality"
      ? (["AR", "BR", "UY"][value] as string)
      : String(value);

/** The rules, by their words. */
class Model {
  people: Person[];
  merges: Merge[] = [];
  rows: number[] = [];
  clock = 0;

  constructor() {
    this.people = Array.from({ length: ENTITIES }, (_, i) => ({
      own: {
        ...{
          name: `n${i}`,
          taxId: i < TAX_IDS ? String(i) : undefined,
          nationality: i % 2 === 0 ? undefined : "UY",
          status: ["pending", "pending", "suspended", "blocked"][i],
        },
        ...{ "attributes.a": i % 2 === 0 ? `a${i}` : undefined, "attributes.b": i > 1 ? `b${i}` : undefined },
      },
      ...{ held: {}, merges: 0, mergedInto: undefined, isDeleted: false },
      ids: i < 3 ? [{ external: i, home: i, primary: true, at: 0 }] : [],
    }));
  }

  mayCreate = () => this.people.length < ENTITIES + CREATED;

  ownerOf = (external: number) => this.people.findIndex(({ ids }) => ids.some((id) => id.external === external));

  /** One of those that there are. */
  among = (i: number) => i % this.people.length;

  person = (i: number) => this.people[i] as Person;

  root(i: number): number {
    const { mergedInto } = this.person(i);
    return mergedInto === undefined ? i : this.root(mergedInto);
  }

  group = (root: number) => this.people.flatMap((_, i) => (this.root(i) === root ? [i] : []));

  /** Those merged into it, directly or not, and itself. */
  below = (i: number): number[] => [i, ...this.people.flatMap((one, j) => (one.mergedInto === i ? this.below(j) : []))];

  seen(i: number): Record<Path, Value> {
    const { own, held } = this.person(i);
    const active = this.merges.filter((one) => one.primary === i && !one.isUndone);
    const brought = (path: Path) =>
      active.filter(({ ordinal }) => ordinal > (held[path] ?? 0)).map(({ secondary }) => this.seen(secondary)[path]);
    const values = PATHS.map((path): [Path, Value] => {
      if (path !== "status") return [path, own[path] ?? brought(path).find((value) => value !== undefined)];
      const all = [own.status, ...brought("status")] as string[];
      return [path, all.reduce((a, b) => ((SEVERITY[b] ?? 0) > (SEVERITY[a] ?? 0) ? b : a))];
    });
    return Object.fromEntries(values) as Record<Path, Value>;
  }

  /** The survivor that a key names, and the merged one that led to it; or why there is none. */
  find({ by, n }: Key, ids: readonly string[]): { root: number; from: number | undefined } | string {
    if (by === "id") return { root: this.root(n), from: this.root(n) === n ? undefined : n };
    if (by === "external") {
      for (const [root, { ids: own }] of this.people.entries()) {
        const one = own.find(({ external }) => external === n);
        if (one !== undefined) return { root, from: one.home === root ? undefined : one.home };
      }
      return "NOT_FOUND";
    }
    const holders = this.people.flatMap((one, i) =>
      this.seen(i).taxId === String(n) && !this.person(this.root(i)).isDeleted
        ? [{ i, isMerged: one.mergedInto !== undefined }]
        : [],
    );
    const roots = new Set(holders.map(({ i }) => this.root(i)));
    if (roots.size !== 1) return roots.size === 0 ? "NOT_FOUND" : "AMBIGUOUS_TAX_ID_LOOKUP";
    const [root = 0] = roots;
    if (holders.some(({ i }) => i === root)) return { root, from: undefined };
    const [from] = holders.map(({ i }) => i).sort((a, b) => ((ids[a] ?? "") < (ids[b] ?? "") ? -1 : 1));
    return { root, from };
  }

  sort(root: number): void {
    this.person(root).ids.sort(
      (a, b) => Number(b.primary) - Number(a.primary) || a.at - b.at || a.external - b.external,
    );
  }

  designate(root: number, external: number | undefined): void {
    for (const one of this.person(root).ids) one.primary = one.external === external;
    this.sort(root);
  }

  edit(root: number, path: Path, value: Value): void {
    const person = this.person(root);
    if (this.seen(root)[path] === value) return;
    person.own[path] = value;
    if (person.merges > 0) person.held[path] = person.merges;
  }

  primaryOf = (i: number) => this.person(i).ids.find(({ primary }) => primary)?.external;

  /** "OK", or the reason of the refusal. */
  apply(one: Step, ids: readonly string[]): string {
    this.clock += 1;
    if (one.kind === "merge") return this.merge(this.among(one.into), this.among(one.from));
    if (one.kind === "unmerge") return this.unmerge(this.merges[one.merge]);
    if (one.kind === "create") return this.create(one);
    if (one.kind === "update" && one.clears && !mayClear(one.path)) return "VALIDATION_ERROR";
    const found = this.find(one.key, ids);
    if (typeof found === "string") return found;
    const { root, from } = found;
    const person = this.person(root);
    if (one.kind === "delete") {
      if (from !== undefined) return "MERGE_NOT_ALLOWED";
      person.isDeleted = true;
      return "OK";
    }
    if (one.kind === "undelete") {
      person.isDeleted = false;
      return "OK";
    }
    if (one.kind === "release") {
      const id = person.ids.find(({ external }) => external === one.external);
      if (id === undefined) return "NOT_FOUND";
      if (id.primary && !person.isDeleted) return "VALIDATION_ERROR";
      person.ids = person.ids.filter((other) => other !== id);
      if (id.primary) this.designate(root, person.ids[0]?.external);
      return "OK";
    }
    if (person.isDeleted) return "ENTITY_DELETED";
    if (one.kind === "record") {
      this.rows.push(from ?? root);
      return "OK";
    }
    if (one.kind === "update") {
      this.edit(root, one.path, one.clears ? undefined : wordOf(one.path, one.value));
      return "OK";
    }
    if (one.kind === "replace") {
      this.edit(root, "attributes.a", wordOf("attributes.a", one.value));
      this.edit(root, "attributes.b", undefined);
      return "OK";
    }
    if (one.kind === "assign") {
      const primary = this.primaryOf(root);
      if (primary !== undefined) return primary === one.external ? "OK" : "EXTERNAL_ID_ALREADY_ASSIGNED";
    }
    if (![-1, root].includes(this.ownerOf(one.external))) return "DUPLICATE_EXTERNAL_ID";
    const has = this.ownerOf(one.external) === root;
    if (!has) person.ids.push({ external: one.external, home: root, primary: false, at: this.clock });
    if (one.kind === "change") {
      const previous = this.primaryOf(root);
      if (previous !== one.external && !one.keeps)
        person.ids = person.ids.filter(({ external }) => external !== previous);
      this.designate(root, one.external);
    } else if (one.kind === "assign" || one.primary || person.ids.length === 1) this.designate(root, one.external);
    else this.sort(root);
    return "OK";
  }

  create({ external, taxId }: Extract<Step, { kind: "create" }>): string {
    if (this.ownerOf(external) !== -1) return "DUPLICATE_EXTERNAL_ID";
    const own: Person["own"] = {
      ...{ name: "created", taxId: String(taxId), status: "pending", nationality: undefined },
      ...{ "attributes.a": undefined, "attributes.b": "created" },
    };
    const ids = [{ external, home: this.people.length, primary: true, at: this.clock }];
    this.people.push({ own, held: {}, merges: 0, mergedInto: undefined, isDeleted: false, ids });
    return "OK";
  }

  merge(into: number, from: number): string {
    const [p, s] = [this.root(into), this.root(from)];
    if (p === s || s !== from) return "MERGE_NOT_ALLOWED";
    if (this.person(p).isDeleted || this.person(s).isDeleted) return "ENTITY_DELETED";
    const [primary, secondary] = [this.person(p), this.person(s)];
    const ordinal = 1 + Math.max(0, ...this.merges.filter((one) => one.primary === p).map((one) => one.ordinal));
    if (!this.merges.some((one) => one.primary === p && !one.isUndone)) primary.held = {};
    this.merges.push({
      ...{
        primary: p,
        secondary: s,
        ordinal,
        had: secondary.ids.map((id) => ({ ...id })),
        primaryWas: this.primaryOf(p),
      },
      isUndone: false,
    });
    primary.merges = ordinal;
    const isFirst = primary.ids.length === 0;
    primary.ids.push(...secondary.ids.map((id) => ({ ...id, primary: isFirst && id.primary, at: this.clock })));
    this.sort(p);
    secondary.ids = [];
    secondary.mergedInto = p;
    return "OK";
  }

  unmerge(made: Merge | undefined): string {
    if (made === undefined) return "NOT_FOUND";
    const { primary: p, secondary: s, had } = made;
    const [primary, secondary] = [this.person(p), this.person(s)];
    if (made.isUndone || primary.mergedInto !== undefined) return "MERGE_NOT_ALLOWED";
    if (primary.isDeleted) return "ENTITY_DELETED";
    const status = this.seen(p).status as string;
    const isDecided = (SEVERITY[status] ?? 0) > 1 && (primary.held.status ?? 0) >= made.ordinal;
    const below = this.below(s);
    const going = primary.ids.filter(({ home }) => below.includes(home));
    primary.ids = primary.ids.filter((id) => !going.includes(id));
    if (!primary.ids.some((id) => id.primary)) {
      const oldest = primary.ids.toSorted((a, b) => a.at - b.at || a.external - b.external);
      const next =
        primary.ids.find(({ external }) => external === made.primaryWas) ??
        oldest.find(({ home }) => home === p) ??
        oldest[0];
      this.designate(p, next?.external);
    }
    const own = had.filter(({ external }) => going.some((id) => id.external === external));
    const first = own.find((id) => id.primary) ?? own[0];
    secondary.ids = going.map((id) => ({ ...id, at: this.clock }));
    this.designate(s, first?.external);
    const was = this.seen(s).status as string;
    made.isUndone = true;
    secondary.mergedInto = undefined;
    if (isDecided && (SEVERITY[status] ?? 0) > (SEVERITY[was] ?? 0)) this.edit(s, "status", status);
    if (!this.merges.some((one) => one.primary === p && !one.isUndone)) [primary.merges, primary.held] = [0, {}];
    return "OK";
  }
}

// --- Both ---------------------------------------------------------------------------------------

const reason = "because of the test";
const transactedAt = { seconds: 1_700_000_000n, nanos: 0 };

class Run {
  readonly prefix = unique("i");
  readonly model = new Model();
  ids: string[] = [];
  mergeIds: string[] = [];
  /** Each entity after the step before. */
  past: BatchGetEntitiesResult[] | undefined;

  external = (i: number) => `${this.prefix}-${i}`;
  taxId = (value: Value) => (value === undefined ? undefined : `${this.prefix.replaceAll("-", "")}T${value}`);
  lookup({ by, n }: Key) {
    if (by === "id") return byId({ id: this.ids[n] ?? "" });
    return by === "external" ? byExternalId(this.external(n)) : byTaxId(this.taxId(String(n)) ?? "");
  }

  async begin(): Promise<void> {
    for (const one of this.model.people) await this.create(one);
  }

  async create({ own, ids }: Pick<Person, "own" | "ids">): Promise<Entity["updatedAt"]> {
    const taxId = this.taxId(own.taxId);
    const attributes = Object.fromEntries(
      (["a", "b"] as const).flatMap((name) =>
        own[`attributes.${name}`] === undefined ? [] : [[name, own[`attributes.${name}`]]],
      ),
    ) as Record<string, string>;
    const { entity } = await client.entities.createEntity({
      entity: {
        ...{ type: EntityType.PERSON, name: own.name ?? "", countryCode: "AR", attributes },
        ...(own.nationality === undefined ? {} : { nationality: own.nationality }),
        status: statusOf(own.status ?? ""),
        ...(taxId === undefined ? {} : { taxId }),
        ...(ids[0] === undefined ? {} : { externalId: this.external(ids[0].external) }),
      },
      reason,
    });
    this.ids.push(entity?.id ?? "");
    return entity?.updatedAt;
  }

  async send(one: Step): Promise<Entity["updatedAt"]> {
    const { entities, activity } = client;
    if (one.kind === "merge") {
      const [primary, secondary] = [one.into, one.from].map((i) => byId({ id: this.ids[this.model.among(i)] ?? "" }));
      const { mergeId, entity } = await entities.mergeEntities({ primary, secondary, reason });
      this.mergeIds.push(mergeId);
      return entity?.updatedAt;
    }
    if (one.kind === "unmerge") {
      const mergeId = this.mergeIds[one.merge] ?? "00000000-0000-7000-8000-000000000000";
      return (await entities.unmergeEntities({ mergeId, reason })).entity?.updatedAt;
    }
    if (one.kind === "create") {
      const own = { name: "created", taxId: String(one.taxId), status: "pending", "attributes.b": "created" };
      const ids = [{ external: one.external, home: this.ids.length, primary: true, at: 0 }];
      return this.create({ own: own as Person["own"], ids });
    }
    const lookup = this.lookup(one.key);
    switch (one.kind) {
      case "update":
        return (await entities.updateEntity({ lookup, reason, ...this.update(one) })).entity?.updatedAt;
      case "replace": {
        const entity = { attributes: { a: wordOf("attributes.a", one.value) } };
        return (await entities.updateEntity({ lookup, entity, updateMask: { paths: ["attributes"] } })).entity
          ?.updatedAt;
      }
      case "change": {
        const request = { lookup, newExternalId: this.external(one.external), keepPreviousAsAlias: one.keeps, reason };
        return (await entities.changeExternalId(request)).entity?.updatedAt;
      }
      case "assign": {
        const request = { lookup, externalId: this.external(one.external) };
        return (await entities.assignExternalId(request)).entity?.updatedAt;
      }
      case "add": {
        const designation = one.primary ? Designation.PRIMARY : Designation.UNSPECIFIED;
        const externalIds = [{ externalId: this.external(one.external), designation }];
        return (await entities.addExternalIds({ lookup, externalIds })).entity?.updatedAt;
      }
      case "release": {
        const request = { lookup, externalId: this.external(one.external), reason, force: true };
        return (await entities.releaseExternalId(request)).entity?.updatedAt;
      }
      case "delete":
        return (await entities.deleteEntity({ lookup, reason })).entity?.updatedAt;
      case "undelete":
        return (await entities.undeleteEntity({ lookup, reason })).entity?.updatedAt;
      default: {
        const { case: by, value } = lookup.by;
        const row = { type: "payment", amount: "1", currency: "ARS", transactedAt, origin: { [by]: value } };
        await activity.recordTransactions({ transactions: [row] });
        await activity.recordUserEvents({
          userEvents: [
            { eventType: "login", occurredAt: transactedAt, [by === "externalId" ? "entityExternalId" : by]: value },
          ],
        });
        return undefined;
      }
    }
  }

  update({ path, value, clears }: Extract<Step, { kind: "update" }>) {
    const [field = "", name] = path.split(".");
    const is = wordOf(path, value);
    if (name !== undefined) return { entity: { attributes: { [name]: clears ? null : is } } };
    if (clears) return { entity: {}, updateMask: { paths: [field === "taxId" ? "tax_id" : field] } };
    if (path === "status") return { entity: { status: statusOf(is) } };
    return { entity: { [field]: path === "taxId" ? this.taxId(is) : is } };
  }

  async check(): Promise<void> {
    const { model } = this;
    const keys: Key[] = [
      ...this.ids.map((_, n): Key => ({ by: "id", n })),
      ...Array.from({ length: EXTERNAL_IDS }, (_, n): Key => ({ by: "external", n })),
      ...Array.from({ length: TAX_IDS }, (_, n): Key => ({ by: "tax", n })),
    ];
    const { results } = await client.entities.batchGetEntities({ lookups: keys.map((one) => this.lookup(one)) });
    for (const [i, one] of keys.entries()) {
      const { result, redirectedFrom } = results[i] as (typeof results)[number];
      const expected = model.find(one, this.ids);
      const at = JSON.stringify(one);
      if (typeof expected === "string") expect(result.case, at).toBe("error");
      else {
        expect(result.case, at).toBe("entity");
        expect(this.shown(result.value as Entity), at).toEqual(this.expected(expected.root));
        expect(redirectedFrom, at).toBe(expected.from === undefined ? "" : this.ids[expected.from]);
      }
    }
    await this.checkActivity(model.root(model.clock % ENTITIES));
    await this.checkPast(results.slice(0, ENTITIES));
  }

  /** Of one group after each step: the others have their turns. */
  async checkActivity(root: number): Promise<void> {
    const { model } = this;
    const lookup = byId({ id: this.ids[root] ?? "" });
    const primary = model.primaryOf(root);
    const party = { entityId: this.ids[root], externalId: primary === undefined ? "" : this.external(primary) };
    const rows = model.rows.filter((home) => model.group(root).includes(home)).map(() => party);
    const [{ transactions }, { userEvents }] = await Promise.all([
      client.activity.listTransactions({ lookup }),
      client.activity.listUserEvents({ lookup }),
    ]);
    expect(transactions.map(({ origin }) => ({ entityId: origin?.entityId, externalId: origin?.externalId }))).toEqual(
      rows,
    );
    expect(userEvents.map((one) => ({ entityId: one.entityId, externalId: one.entityExternalId }))).toEqual(rows);
  }

  /** One entity as it was after the step before, whatever has become of it. */
  async checkPast(now: BatchGetEntitiesResult[]): Promise<void> {
    const i = this.model.clock % ENTITIES;
    const then = this.past?.[i];
    if (then !== undefined) {
      const at = this.past?.map(({ result }) => (result.value as Entity).updatedAt).reduce(later);
      const past = await client.entities.getEntity({ lookup: byId({ id: this.ids[i] ?? "" }), readTime: at });
      expect(past.redirectedFrom).toBe(then.redirectedFrom);
      expect(past.entity && asThen(past.entity)).toEqual(asThen(then.result.value as Entity));
    }
    this.past = now;
  }

  shown(entity: Entity) {
    return {
      ...{
        id: entity.id,
        name: entity.name,
        taxId: entity.taxId,
        nationality: entity.nationality,
        status: entity.status,
      },
      attributes: entity.attributes ?? {},
      isDeleted: entity.deletedAt !== undefined,
      ids: entity.externalIds.map(({ externalId, designation }) => [externalId, designation === Designation.PRIMARY]),
    };
  }

  expected(root: number): ReturnType<Run["shown"]> {
    const { "attributes.a": a, "attributes.b": b, ...seen } = this.model.seen(root);
    const { isDeleted, ids } = this.model.person(root);
    return {
      ...{ id: this.ids[root] ?? "", name: seen.name ?? "", nationality: seen.nationality, isDeleted },
      ...{ taxId: this.taxId(seen.taxId), status: statusOf(seen.status ?? "") },
      attributes: { ...(a !== undefined && { a }), ...(b !== undefined && { b }) },
      ids: ids.map(({ external, primary }) => [this.external(external), primary]),
    };
  }
}

const later = (a: Entity["updatedAt"], b: Entity["updatedAt"]) => (timeOf(b) > timeOf(a) ? b : a);
const timeOf = (at: Entity["updatedAt"]) => (at?.seconds ?? 0n) * 1_000_000_000n + BigInt(at?.nanos ?? 0);

const statusOf = (word: string): EntityStatus =>
  ({
    pending: EntityStatus.PENDING,
    active: EntityStatus.ACTIVE,
    suspended: EntityStatus.SUSPENDED,
    blocked: EntityStatus.BLOCKED,
  })[word] ?? EntityStatus.UNSPECIFIED;

/** So many sequences run at once, each on entities of its own: most of a call is waiting. */
const AT_ONCE = 8;

test("rules 78 to 107: whatever is done in whichever order, every key names whom it should, as it should, then and now", {
  timeout: 60_000 + RUNS * 2_000,
}, async () => {
  const sequence = fc.oneof({ weight: 3, arbitrary: steps }, { weight: 1, arbitrary: edited });
  await fc.assert(
    fc.asyncProperty(fc.array(sequence, { minLength: 1, maxLength: AT_ONCE, size: "max" }), async (sequences) => {
      const endings = await Promise.allSettled(sequences.map(play));
      for (const ending of endings) if (ending.status === "rejected") throw ending.reason;
    }),
    // The arrays have half of AT_ONCE on average.
    { numRuns: Math.ceil(RUNS / (AT_ONCE / 2)), seed: SEED, endOnFailure: process.env.SHRINK === "no" },
  );
});

async function play(steps: readonly Step[]): Promise<void> {
  const run = new Run();
  await run.begin();
  for (const one of steps) {
    if (one.kind === "create" && !run.model.mayCreate()) continue;
    const expected = run.model.apply(one, run.ids);
    const outcome = await run.send(one).then(() => "OK", reasonOf);
    expect(outcome, JSON.stringify(one)).toBe(expected);
    await run.check();
  }
}

function reasonOf(error: unknown): string {
  const info = errorInfo(error);
  if (info === undefined) throw error;
  return info.reason;
}
