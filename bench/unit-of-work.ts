// Would group commit through MikroORM's own flush cost much? npm run bench:unit-of-work [-- --rounds N]
// One process, the embedded server: groups of updates by writeGroup, and the same groups with managed rows that are read
// with a lock, changed and flushed, each table in one statement (nativeInsertMany and nativeUpdateMany overridden to
// unnest; without that each row would be a statement). In turn, round by round; medians.
import { parseArgs } from "node:util";
import { LockMode, Utils } from "@mikro-orm/core";
import { readConfig } from "../src/config.ts";
import { type Column, columnsOf, rowsTable } from "../src/db/columns.ts";
import { createOrm, forOrganization, type Orm } from "../src/db/orm.ts";
import { EntityEventRow, EntityRow } from "../src/db/schema.ts";
import { newId } from "../src/db/uuid.ts";
import { changedFields, changedValues } from "../src/domain/changed-fields.ts";
import { newEntity, update } from "../src/domain/entity.ts";
import { type EntityState, primaryOf } from "../src/domain/entity-state.ts";
import { parseInstant } from "../src/domain/time.ts";
import { type Author, toOneEntity } from "../src/entities/command.ts";
import { writeGroup } from "../src/entities/write-group.ts";
import { DEFAULT_ORGANIZATION, startService } from "./processes.ts";
import { median } from "./report.ts";

const SIZES = [1, 64];
const GROUPS = 40;

const author: Author = { principal: newId(), actor: "bench", source: "bench" };
const { id: organizationId } = DEFAULT_ORGANIZATION;

type Way = (orm: Orm, ids: readonly string[], name: string) => Promise<void>;

const byHand: Way = async (orm, ids, name) => {
  const results = await writeGroup(
    orm,
    organizationId,
    ids.map((key) =>
      toOneEntity({
        author,
        lookup: { by: "entity_id", key },
        decide: (entity) => update(entity as EntityState, { name }, "bench"),
      }),
    ),
  );
  const refused = results.find(({ kind }) => kind !== "done");
  if (refused !== undefined) throw new Error("an update was refused", { cause: refused });
};

const byFlush: Way = (orm, ids, name) =>
  forOrganization(orm, organizationId).transactional(async (em) => {
    const rows = await em.find(
      EntityRow,
      { organizationId, id: { $in: [...ids] } },
      { lockMode: LockMode.PESSIMISTIC_WRITE, orderBy: { id: "asc" } },
    );
    const [clock] = await em.execute<{ now: string }[]>("select clock_timestamp() as now");
    let now = parseInstant(clock?.now as string);
    for (const row of rows) {
      const before = row as EntityState;
      const change = update(before, { name }, "bench");
      if (change === null) throw new Error("an update changed nothing");
      now += 1n;
      const updatedFields = changedFields(before, change.values);
      const values = changedValues(before, change.values, updatedFields);
      Object.assign(row, change.values, { version: before.version + 1, etag: newId(), updatedAt: now });
      em.persist(
        em.create(EntityEventRow, {
          organizationId,
          id: newId(),
          entityId: row.id,
          entityVersion: row.version,
          entityType: row.type,
          type: change.type,
          externalId: primaryOf(before)?.externalId ?? null,
          externalIds: row.externalIds.map(({ externalId }) => externalId),
          updatedFields: [...updatedFields],
          ...values,
          ...author,
          reason: change.reason,
          metadata: {},
          recordedAt: now,
        } as never),
      );
    }
    await em.flush();
  });

/** One statement a table, as the statements by hand are. */
function flushInSets(orm: Orm): void {
  orm.config.set("useBatchUpdates", true);
  // The epoch of an event is the database's to say.
  orm.config.set("validateRequired", false);
  orm.config.set("batchSize", 1_000);
  const driver = orm.em.getDriver();
  const columnsIn = (entity: unknown, rows: readonly Record<string, unknown>[]) => {
    const { tableName } = orm.getMetadata().find(entity as never) as unknown as { tableName: string };
    const schema = [EntityRow, EntityEventRow].find((table) => table.meta.tableName === tableName) as typeof EntityRow;
    const named = new Set(rows.flatMap((row) => Object.keys(row)));
    return { tableName, columns: columnsOf(schema).filter(({ property }) => named.has(property)) };
  };
  /** MikroORM has made them the database's already. */
  const arraysOf = (columns: readonly Column[], rows: readonly Record<string, unknown>[]) => [
    organizationId,
    ...columns
      .filter(({ property }) => property !== "organizationId")
      .map(({ property }) => rows.map((row) => row[property] ?? null)),
  ];
  Object.assign(driver, {
    async nativeInsertMany(entity: unknown, rows: Record<string, unknown>[], options: { ctx: never }) {
      const { tableName, columns } = columnsIn(entity, rows);
      const own = columns.filter(({ property }) => property !== "organizationId");
      const { table, select } = rowsTable(own);
      return driver.execute(
        `insert into ${tableName} (organization_id, ${own.map(({ name }) => name).join(", ")}) select $1::uuid, ${select} from ${table}`,
        arraysOf(columns, rows),
        "run",
        options.ctx,
      );
    },
    async nativeUpdateMany(
      entity: unknown,
      where: unknown[],
      rows: Record<string, unknown>[],
      options: { ctx: never },
    ) {
      const keyed = rows.map((row, i) => {
        const key = Utils.asArray(where[i]).flat() as [string, string] | [{ organizationId: string; id: string }];
        const id = typeof key[0] === "object" ? key[0].id : key[1];
        return { ...row, id };
      });
      const { tableName, columns } = columnsIn(entity, keyed);
      const set = columns.filter(({ property }) => property !== "id").map(({ name }) => `${name} = v.${name}`);
      return driver.execute(
        `update ${tableName} t set ${set.join(", ")} from ${rowsTable(columns).table} where t.organization_id = $1 and t.id = v.id`,
        arraysOf(columns, keyed),
        "run",
        options.ctx,
      );
    },
  });
}

async function main({ rounds }: { rounds: number }): Promise<void> {
  await using service = await startService();
  const open = () => createOrm(service.address, readConfig({}));
  const [hand, flush] = [open(), open()];
  flushInSets(flush);
  try {
    const made = await writeGroup(
      hand,
      organizationId,
      Array.from({ length: 64 }, (_, i) =>
        toOneEntity({
          author,
          decide: (_, { now }) =>
            newEntity(
              {
                type: "person",
                countryCode: "AR",
                name: `0 ${i}`,
                attributes: { replace: true, entries: { segment: "retail", tags: ["a", "b"], score: 7 } },
              },
              "bench",
              now,
            ),
        }),
      ),
    );
    const ids = made.map((result) => (result.kind === "done" ? (result.outcomes[0]?.after.id as string) : "")).sort();
    let turn = 0;
    const measure = async (way: Way, orm: Orm, size: number) => {
      const [began, cpu] = [performance.now(), process.cpuUsage()];
      for (let i = 0; i < GROUPS; i++) await way(orm, ids.slice(0, size), `name ${turn++}`);
      const { user, system } = process.cpuUsage(cpu);
      return { ms: (performance.now() - began) / GROUPS, microsOfCpu: (user + system) / (GROUPS * size) };
    };
    for (const size of SIZES) {
      const all = {
        hand: [] as { ms: number; microsOfCpu: number }[],
        flush: [] as { ms: number; microsOfCpu: number }[],
      };
      for (let round = -1; round < rounds; round++) {
        const [one, other] = [await measure(byHand, hand, size), await measure(byFlush, flush, size)];
        // The first is to warm up.
        if (round < 0) continue;
        all.hand.push(one);
        all.flush.push(other);
      }
      for (const [name, measured] of Object.entries(all)) {
        const [ms, micros] = [median(measured.map((one) => one.ms)), median(measured.map((one) => one.microsOfCpu))];
        console.log(
          `groups of ${size}, by ${name}: ${ms.toFixed(2)} ms a group, ${((1_000 * size) / ms).toFixed(0)} updates/s, ${micros.toFixed(0)} us of CPU an update`,
        );
      }
    }
    const [{ n }] = (await service.sql("select count(*)::int as n from entity_event")) as [{ n: number }];
    console.log(`${turn} groups, ${n} events`);
  } finally {
    await hand.close(true);
    await flush.close(true);
  }
}

const { values } = parseArgs({ options: { rounds: { type: "string", default: "7" } } });
await main({ rounds: Number(values.rounds) });
