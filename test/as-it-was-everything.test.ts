// Rule 121: a thousand real entities, edited in every way that there is; every state of every one of them, read back.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { fromJson } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, type EntityClient, EntitySchema, EntityStatus, errorInfo } from "../clients/typescript/index.ts";
import { readStatements } from "../src/db/transaction.ts";
import { withShown } from "../src/domain/changed-fields.ts";
import { newEntity } from "../src/domain/entity.ts";
import type { EntityValues } from "../src/domain/entity-state.ts";
import { asKnown } from "../src/domain/past.ts";
import { ENTITY_COLUMNS, toState } from "../src/entities/rows.ts";
import { asThen, byExternalId, byId, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";
import { type OtherServer, startOther } from "./wall-harness.ts";

const OFAC = new URL("../../shared/data/ofac-entities.ndjson", import.meta.url);
const ENTITIES = 1_000;
const UNNAMED = 200;
const EDITS = 6;
const SEED = 20_261_127;
const CALLERS = 32;

const microsOf = ({ seconds, nanos }: Timestamp) => seconds * 1_000_000n + BigInt(nanos / 1000);
const timeOf = (micros: bigint) => ({ seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1000 });
const madeAt = ({ updatedAt }: Entity) => microsOf(updatedAt as Timestamp);

/** The same numbers in each run (mulberry32). */
function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4_294_967_296) * below);
  };
}

/** One edit of each kind, by its entity as it is; undefined where the edit was refused or changed nothing. */
type Edit = (client: EntityClient, entity: Entity, pick: (below: number) => number) => Promise<Entity | undefined>;

const update =
  (entityOf: (entity: Entity, pick: (below: number) => number) => object, paths: string[] = []): Edit =>
  async ({ entities }, entity, pick) => {
    const request = { lookup: byId(entity), entity: entityOf(entity, pick), reason: "review" };
    return (await entities.updateEntity({ ...request, updateMask: { paths } })).entity;
  };

const EDIT: Record<string, Edit> = {
  name: update(({ name }, pick) => ({ name: `${name.slice(0, 400)} ${pick(1000)}` })),
  status: update((_, pick) => ({ status: EntityStatus.UNDER_REVIEW + pick(6) })),
  taxId: update((_, pick) => ({ taxId: `${pick(1e9)}-${pick(9)}` })),
  noTaxId: update(() => ({}), ["tax_id"]),
  nationality: update((_, pick) => ({ nationality: ["AR", "BR", "ZZ"][pick(3)] })),
  noNationality: update(() => ({}), ["nationality"]),
  matrix: update(({ id }) => ({ riskMatrixId: id })),
  noMatrix: update(() => ({}), ["risk_matrix_id"]),
  attributes: update((_, pick) => ({
    attributes: {
      [`k${pick(3)}`]: [null, { deep: { no: null, n: pick(100) / 8 } }],
      remarks: pick(2) === 0 ? null : "x",
    },
  })),
  noAttributes: update(() => ({}), ["attributes"]),
  metadata: update((_, pick) => ({ metadata: { by: pick(10) } }), ["metadata"]),
  address: update(({ entityData }, pick) => ({
    entityData: { kind: { case: entityData?.kind.case ?? "company", value: { address: { city: `C${pick(50)}` } } } },
  })),
  noData: update(() => ({}), ["entity_data"]),
  change: async ({ entities }, entity, pick) => {
    const [newExternalId, keepPreviousAsAlias] = [unique("changed"), pick(2) === 0];
    const change = { newExternalId, keepPreviousAsAlias, reason: "migration" };
    return (await entities.changeExternalId({ lookup: byId(entity), ...change })).entity;
  },
  add: async ({ entities }, entity, pick) => {
    const externalIds = Array.from({ length: 1 + pick(2) }, (_, i) => ({
      externalId: unique(["b", "a"][i] as string),
      type: ["", "crm"][pick(2)] as string,
    }));
    return (await entities.addExternalIds({ lookup: byId(entity), externalIds, reason: "another system" })).entity;
  },
  promote: async ({ entities }, entity) => {
    const alias = entity.externalIds.at(-1)?.externalId;
    if (alias === undefined) return undefined;
    const change = { newExternalId: alias, keepPreviousAsAlias: true, reason: "migration" };
    return (await entities.changeExternalId({ lookup: byId(entity), ...change })).entity;
  },
  assign: async ({ entities }, entity) =>
    (await entities.assignExternalId({ lookup: byId(entity), externalId: unique("assigned") })).entity,
  release: async ({ entities }, entity) => {
    const externalId = entity.externalIds.at(-1)?.externalId;
    if (externalId === undefined) return undefined;
    const release = { externalId, force: true, reason: "no longer used" };
    return (await entities.releaseExternalId({ lookup: byId(entity), ...release })).entity;
  },
  delete: async ({ entities }, entity) =>
    (await entities.deleteEntity({ lookup: byId(entity), reason: "duplicate" })).entity,
  undelete: async ({ entities }, entity) =>
    (await entities.undeleteEntity({ lookup: byId(entity), reason: "no duplicate" })).entity,
};
/** How the rules may refuse them. */
const REFUSALS = ["ENTITY_DELETED", "EXTERNAL_ID_ALREADY_ASSIGNED", "VALIDATION_ERROR"];
const EDITS_BY_NAME = Object.entries(EDIT);

/** Does the work for every item, some at once. */
async function forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  await Promise.all(
    Array.from({ length: CALLERS }, async () => {
      for (let item = left.pop(); item !== undefined; item = left.pop()) await work(item);
    }),
  );
}

describe.skipIf(!existsSync(OFAC))(
  "every state of 1,000 entities (skipped where ../shared/data/ofac-entities.ndjson is not beside the repository)",
  () => {
    let service: TestService;
    let other: OtherServer;
    let reading: EntityClient;
    /** What the writes answered, by entity, oldest first. */
    const versions = new Map<string, Entity[]>();
    /** How often each edit changed something. */
    const edits = new Map<string, number>();

    beforeAll(async () => {
      service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
      other = await startOther(service, { config: { poolSize: 10 } });
      reading = other.client(service.organization.apiKey);
      const lines = (await readFile(OFAC, "utf8")).split("\n").slice(0, ENTITIES);
      const ids: string[] = [];
      const rows = async function* () {
        for (const line of lines) yield { entity: fromJson(EntitySchema, JSON.parse(line)) };
      };
      for await (const { results } of service.client.entities.importEntities(rows())) {
        ids.push(...results.map(({ entityId }) => entityId));
      }
      for (let i = 0; i < UNNAMED; i++) ids.push((await newPerson(service.client)).id);
      const random = randomOf(SEED);
      const seeded = ids.map((id) => ({ id, pick: randomOf(random(1 << 30)) }));
      await forEach(seeded, async ({ id, pick }) => {
        let entity = (await service.client.entities.getEntity({ lookup: byId({ id }) })).entity as Entity;
        const its = [asThen(entity)];
        versions.set(id, its);
        for (let i = 0; i < EDITS; i++) {
          const [name, edit] = EDITS_BY_NAME[pick(EDITS_BY_NAME.length)] as [string, Edit];
          const after = await edit(service.client, entity, pick).catch((error) => {
            if (!REFUSALS.includes(errorInfo(error)?.reason ?? "")) throw error;
            return undefined;
          });
          if (after === undefined || after.etag === entity.etag) continue;
          edits.set(name, (edits.get(name) ?? 0) + 1);
          its.push(asThen(after));
          entity = after;
        }
      });
    }, 180_000);
    afterAll(async () => {
      await other[Symbol.asyncDispose]();
      await service[Symbol.asyncDispose]();
    });

    const then = async (lookup: ReturnType<typeof byId> | ReturnType<typeof byExternalId>, micros: bigint) =>
      (await reading.entities.getEntity({ lookup, readTime: timeOf(micros) })).entity;

    it("rule 121: have been edited in every way", () => {
      expect(versions.size).toBe(ENTITIES + UNNAMED);
      expect([...edits.keys()].sort()).toEqual(Object.keys(EDIT).sort());
      for (const [name, count] of edits) expect(count, name).toBeGreaterThan(20);
    });

    it("rule 121: at the time of each event the entity is what the write answered, by its id and by each external id", async () => {
      let [compared, named] = [0, 0];
      await forEach([...versions.values()], async (its) => {
        for (const version of its) {
          expect(await then(byId(version), madeAt(version))).toEqual(version);
          compared++;
          for (const { externalId } of version.externalIds) {
            expect(await then(byExternalId(externalId), madeAt(version))).toEqual(version);
            named++;
          }
        }
      });
      process.stdout.write(
        `${compared} states by id, ${named} by external id, edits ${JSON.stringify(Object.fromEntries(edits))}\n`,
      );
      expect(compared).toBeGreaterThan(4 * ENTITIES);
      expect(named).toBeGreaterThan(compared);
    }, 180_000);

    it("rule 119: an external id that has left its entity names nobody from then on, and it before", async () => {
      let gone = 0;
      await forEach([...versions.values()], async (its) => {
        for (const [i, version] of its.entries()) {
          const previous = its[i - 1];
          const kept = new Set(version.externalIds.map(({ externalId }) => externalId));
          for (const { externalId } of previous?.externalIds ?? []) {
            if (kept.has(externalId)) continue;
            gone++;
            expect(await then(byExternalId(externalId), madeAt(version) - 1n)).toEqual(previous);
            expect((await refusal(then(byExternalId(externalId), madeAt(version)))).reason).toBe("NOT_FOUND");
          }
        }
      });
      expect(gone).toBeGreaterThan(50);
    }, 180_000);

    /** The values of the rows, and those that the complete histories come to. */
    async function folded(): Promise<{ complete: number; rows: number }> {
      const { id: organizationId } = service.organization;
      const states = await readStatements(other.orm, organizationId, async (db) =>
        (
          await db.execute<unknown[]>(`select ${ENTITY_COLUMNS} from entity e where organization_id = $1`, [
            organizationId,
          ])
        ).map(toState),
      );
      const events = await service.sql("select * from entity_event order by entity_version");
      const byEntity = Map.groupBy(events, ({ entity_id }) => entity_id as string);
      let complete = 0;
      for (const state of states) {
        const its = byEntity.get(state.id) ?? [];
        if (its[0]?.entity_version !== "1") continue;
        complete++;
        let values: EntityValues = newEntity({ type: "person", countryCode: "ZZ", name: "?" }, "", 0n).values;
        for (const { updated_fields, new_values } of its) values = withShown(values, updated_fields, new_values);
        expect(asKnown(state)).toMatchObject(values);
      }
      return { complete, rows: states.length };
    }

    it("rule 121: forward, the events of every complete history come to its row", async () => {
      expect(await folded()).toEqual({ complete: ENTITIES + UNNAMED, rows: ENTITIES + UNNAMED });
    });

    it("rules 117, 121: with half of the log pruned, what is left of it tells the same, and what is not is refused", async () => {
      const [row] = await service.sql<{ micros: string }>(`
        select (extract(epoch from recorded_at) * 1000000)::bigint as micros from entity_event
        order by recorded_at offset (select count(*) / 2 from entity_event) limit 1`);
      const horizon = BigInt(row?.micros ?? "");
      // As prune_events does, for which nothing of it is old enough.
      await service.sql(
        `with gone as (
           delete from entity_event where recorded_at <= 'epoch'::timestamptz + $1 * interval '1 microsecond'
           returning organization_id, epoch, xid, recorded_at)
         insert into event_horizon select organization_id, max(epoch), max(xid), pg_current_snapshot(), max(recorded_at)
         from gone group by organization_id`,
        [String(horizon)],
      );
      const counts = { whole: 0, withoutMaker: 0, refused: 0 };
      await forEach([...versions.values()], async (its) => {
        for (const [i, version] of its.entries()) {
          const [from, next] = [madeAt(version), its[i + 1]];
          if (from > horizon) {
            expect(await then(byId(version), from)).toEqual(version);
            counts.whole++;
            continue;
          }
          if (from < horizon) {
            expect(await refusal(then(byId(version), from))).toMatchObject({ reason: "READ_TIME_EXPIRED" });
            counts.refused++;
          }
          if (next === undefined || madeAt(next) > horizon) {
            const isLast = next === undefined;
            const past = isLast ? version : { ...version, etag: "", updatedAt: undefined };
            expect(await then(byId(version), horizon)).toEqual(past);
            counts[isLast ? "whole" : "withoutMaker"]++;
          }
        }
      });
      process.stdout.write(`with half of the log pruned: ${JSON.stringify(counts)}\n`);
      for (const [what, count] of Object.entries(counts)) expect(count, what).toBeGreaterThan(100);
      const { complete } = await folded();
      expect(complete).toBeLessThan(ENTITIES + UNNAMED);
    }, 180_000);
  },
);
