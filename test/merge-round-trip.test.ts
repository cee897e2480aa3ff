// Undone merges leave nothing behind: thousands of real entities are merged in pairs, stars and chains, all merges are
// undone in random order, and every entity is what it was, field by field and row by row.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { fromJson } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, type EntityClient, EntitySchema } from "../clients/typescript/index.ts";
import { taxIdKey } from "../src/domain/tax-id.ts";
import { byExternalId, byId, byTaxId } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";
import { randomOf } from "./hostile/random.ts";
import { brokenMerges } from "./merge-invariants.ts";

const OFAC = new URL("../../shared/data/ofac-entities.ndjson", import.meta.url);
const ENTITIES = 8_293;
const SEED = process.env.TEST_SEED ?? String(Date.now() % 2 ** 31);
/** Each has entities of its own: what one seed does is always the same, however the callers overtake each other. */
const CALLERS = 8;
const MERGES_EACH = 200;
const TRANSACTIONS = 1_000;
const REASON = "the same person, seen by two systems";

/** What the rules say that a merge and its undoing change, in the entity as it is answered; everything else is as before. */
const CHANGED = {
  /** Each is a new version. */
  entity: ["etag", "updatedAt"],
  /** An id that went to the survivor and came back was attached anew (rule 106). */
  externalId: ["attachedAt"],
} as const;
/** The same in its row: the version with its seal, and the copy of the external ids with their times. */
const CHANGED_COLUMNS = ["version", "etag", "updated_at", "audit_head", "external_ids"];

interface Made {
  caller: number;
  mergeId: string;
  primary: Entity;
  secondary: Entity;
}

/** Everything that there is of entities, by id. */
interface Snapshot {
  entities: Map<string, Entity>;
  versions: Map<string, number>;
  rows: unknown[];
  externalIds: unknown[];
  transactions: unknown[];
}

async function snapshotOf({ client, sql }: TestService): Promise<Snapshot> {
  const entities = new Map<string, Entity>();
  let pageToken = "";
  do {
    const page = await client.entities.listEntities({ pageSize: 1000, pageToken, showDeleted: true });
    for (const entity of page.entities) entities.set(entity.id, entity);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  const versions = await sql<{ id: string; version: string }>("select id, version from entity");
  return {
    entities,
    versions: new Map(versions.map(({ id, version }) => [id, Number(version)])),
    rows: await sql("select to_jsonb(e) - $1::text[] as row from entity e order by id", [CHANGED_COLUMNS]),
    externalIds: await sql(
      "select to_jsonb(x) - 'attached_at' as row from external_id x order by organization_id, external_id",
    ),
    transactions: await sql("select to_jsonb(t) as row from transaction t order by id"),
  };
}

/** The entity without what may have changed; `moved` if its external ids were another's for a while. */
function unchangedOf(entity: Entity, moved: boolean): unknown {
  const without = (from: object, names: readonly string[]) =>
    Object.fromEntries(Object.entries(from).filter(([name]) => !names.includes(name)));
  const externalIds = entity.externalIds.map((id) => (moved ? without(id, CHANGED.externalId) : { ...id }));
  return { ...without(entity, CHANGED.entity), externalIds };
}

describe.skipIf(!existsSync(OFAC))(
  `8,293 real entities, TEST_SEED=${SEED} (skipped where ../shared/data/ofac-entities.ndjson is not beside the repository)`,
  () => {
    let service: TestService;
    let client: EntityClient;
    let before: Snapshot;
    const made: Made[] = [];
    const mergesOf = new Map<string, number>();
    const moved = new Set<string>();

    /** Merges, and notes what the entities have been through; `members` are the secondary and its group. */
    async function merge(caller: number, primary: Entity, secondary: Entity, members = [secondary]): Promise<void> {
      const { mergeId } = await client.entities.mergeEntities({
        ...{ primary: byId(primary), secondary: byId(secondary), reason: REASON },
      });
      made.push({ caller, mergeId, primary, secondary });
      for (const { id } of [primary, secondary]) mergesOf.set(id, (mergesOf.get(id) ?? 0) + 1);
      for (const { id } of members) moved.add(id);
    }

    beforeAll(async () => {
      process.stdout.write(`TEST_SEED=${SEED}\n`);
      service = await startService();
      ({ client } = service);
      const lines = (await readFile(OFAC, "utf8")).trimEnd().split("\n");
      const ids: string[] = [];
      const rows = async function* () {
        for (const line of lines) yield { entity: fromJson(EntitySchema, JSON.parse(line)) };
      };
      for await (const { results } of client.entities.importEntities(rows()))
        ids.push(...results.map(({ entityId }) => entityId));
      expect(ids).toHaveLength(ENTITIES);
      const random = randomOf(`${SEED} activity`);
      await client.activity.recordTransactions({
        transactions: Array.from({ length: TRANSACTIONS }, () => ({
          ...{ type: "payment", amount: "1.00", currency: "USD", transactedAt: { seconds: 1_760_000_000n, nanos: 0 } },
          origin: { entityId: random.pick(ids) },
          destination: { entityId: random.pick(ids) },
        })),
      });
      before = await snapshotOf(service);
      expect(before.entities.size).toBe(ENTITIES);
    }, 120_000);
    afterAll(() => service[Symbol.asyncDispose](), 120_000);

    it("rules 80, 87: every pair that shares a tax id is merged, but for a person with a company", async () => {
      const withTaxId = [...before.entities.values()].filter(({ taxId }) => taxId !== undefined);
      const shared = [...Map.groupBy(withTaxId, ({ taxId = "" }) => taxIdKey(taxId)).values()].filter(
        (its) => its.length > 1,
      );
      expect(shared).toHaveLength(10);
      const counts = { merged: 0, refused: 0 };
      for (const its of shared) {
        const taxId = its[0]?.taxId ?? "";
        const lookup = { lookup: byTaxId(taxId) };
        expect((await refusal(client.entities.getEntity(lookup))).reason).toBe("AMBIGUOUS_TAX_ID_LOOKUP");
        for (const primary of its)
          for (const secondary of its.filter(({ type }) => type !== primary.type)) {
            const request = { primary: byId(primary), secondary: byId(secondary), reason: REASON };
            expect(await refusal(client.entities.mergeEntities(request))).toMatchObject({
              metadata: { cause: "TYPE_DIFFERS" },
            });
            counts.refused++;
          }
        for (const ofType of Map.groupBy(its, ({ type }) => type).values()) {
          const [primary, ...others] = ofType as [Entity, ...Entity[]];
          for (const other of others) await merge(CALLERS, primary, other);
          counts.merged += others.length;
          if (ofType.length < its.length || others.length === 0) continue;
          expect((await client.entities.getEntity(lookup)).entity?.id).toBe(primary.id);
        }
      }
      expect(counts.merged).toBe(5);
      expect(counts.refused).toBeGreaterThan(5);
    });

    it("rules 78, 92: pairs, stars and chains of the others, whatever their names; each key finds the survivor", async () => {
      const free = [...before.entities.values()].filter(({ id }) => !mergesOf.has(id));
      // Neighbours by name share more than those that chance brings together.
      free.sort((a, b) => (a.name < b.name ? -1 : 1));
      const share = Math.ceil(free.length / CALLERS);
      const groups = new Map(free.map((entity) => [entity, [entity]]));
      await Promise.all(
        Array.from({ length: CALLERS }, async (_, caller) => {
          const random = randomOf(`${SEED} merges of ${caller}`);
          const survivors = free.slice(caller * share, (caller + 1) * share);
          for (let done = 0; done < MERGES_EACH; ) {
            // Mostly among the same few, so that groups grow.
            const near = random.chance(0.7) ? Math.min(60, survivors.length) : survivors.length;
            const [primary, secondary] = [random.pick(survivors.slice(0, near)), random.pick(survivors.slice(0, near))];
            if (primary === secondary || primary.type !== secondary.type) continue;
            const members = groups.get(secondary) as Entity[];
            if (members.length + (groups.get(primary) as Entity[]).length > 90) continue;
            await merge(caller, primary, secondary, members);
            groups.get(primary)?.push(...members);
            groups.delete(secondary);
            survivors.splice(survivors.indexOf(secondary), 1);
            done++;
          }
        }),
      );
      expect(await brokenMerges(service.sql)).toEqual([]);
      const chained = made.filter(({ primary }) => made.some(({ secondary }) => secondary === primary));
      const largest = Math.max(...[...groups.values()].map(({ length }) => length));
      process.stdout.write(`${made.length} merges, ${chained.length} in chains, the largest group has ${largest}\n`);
      expect(chained.length).toBeGreaterThan(50);
      expect(largest).toBeGreaterThan(5);

      const { entities } = await snapshotOf(service);
      expect(entities.size).toBe(ENTITIES - made.length);
      const of = [...groups].flatMap(([survivor, members]) => members.map((member) => ({ survivor, member })));
      for (let from = 0; from < of.length; from += 500) {
        const some = of.slice(from, from + 500);
        const { results } = await client.entities.batchGetEntities({
          lookups: some.flatMap(({ member }) => [byId(member), byExternalId(member.externalId)]),
        });
        expect(results.map(({ result }) => (result.case === "entity" ? result.value.id : result.case))).toEqual(
          some.flatMap(({ survivor }) => [survivor.id, survivor.id]),
        );
      }
    }, 180_000);

    it("rules 103 to 107: undone in random order, every entity equals what it was", async () => {
      let refused = 0;
      await Promise.all(
        [...Map.groupBy(made, ({ caller }) => caller)].map(async ([caller, its]) => {
          const random = randomOf(`${SEED} unmerges of ${caller}`);
          for (const left = [...its]; left.length > 0; ) {
            const at = random.int(0, left.length - 1);
            const { mergeId, primary, secondary } = left[at] as Made;
            const call = client.entities.unmergeEntities({ mergeId, reason: "two persons after all" });
            const outer = left.find((other) => other.secondary === primary);
            if (outer === undefined) {
              const answer = await call;
              expect([answer.entity?.id, answer.secondary?.id]).toEqual([primary.id, secondary.id]);
              expect([answer.kept, answer.lost, answer.carried]).toEqual([[], [], []]);
              left.splice(at, 1);
              continue;
            }
            const since = { cause: "MERGED_SINCE", merge_id: outer.mergeId };
            expect(await refusal(call)).toMatchObject({ reason: "MERGE_NOT_ALLOWED", metadata: since });
            refused++;
          }
        }),
      );
      process.stdout.write(`${made.length} merges undone, ${refused} refused until the one after was undone\n`);
      expect(refused).toBeGreaterThan(20);

      const after = await snapshotOf(service);
      expect([...after.entities.keys()]).toEqual([...before.entities.keys()]);
      let same = 0;
      for (const [id, entity] of after.entities) {
        const was = before.entities.get(id) as Entity;
        const merges = mergesOf.get(id) ?? 0;
        // Each merge and each undoing is one version of both, and of nobody else.
        expect(after.versions.get(id), id).toBe(1 + 2 * merges);
        if (merges === 0 && !moved.has(id)) {
          expect(entity).toEqual(was);
          same++;
          continue;
        }
        expect(unchangedOf(entity, moved.has(id))).toEqual(unchangedOf(was, moved.has(id)));
        expect(entity.etag).not.toBe(was.etag);
      }
      expect(same).toBeGreaterThan(ENTITIES / 2);
      expect(after.rows).toEqual(before.rows);
      expect(after.externalIds).toEqual(before.externalIds);
      expect(after.transactions).toEqual(before.transactions);
    }, 180_000);
  },
);
