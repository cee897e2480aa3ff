// One command on several entities: locked together, decided by one rule, one event for each change. All or nothing.
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readConfig } from "../src/config.ts";
import { createOrm, type Orm } from "../src/db/orm.ts";
import { pipelined } from "../src/db/transaction.ts";
import { newEntity, update } from "../src/domain/entity.ts";
import type { Change, EntityState } from "../src/domain/entity-state.ts";
import { DomainError } from "../src/domain/errors.ts";
import type { Instant } from "../src/domain/time.ts";
import { type Command, type Result, toOneEntity } from "../src/entities/command.ts";
import { runGroup } from "../src/entities/group.ts";
import { writeGroup } from "../src/entities/write-group.ts";
import { eventHash, personalHash, readChained } from "./chains.ts";
import { newOrganizationId } from "./commands.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { startService, type TestService } from "./harness.ts";

let service: TestService;
let orm: Orm;

beforeAll(async () => {
  service = await startService();
  const { host, port } = service.database;
  orm = createOrm(
    { ...service.database, host, port, user: "entity_service", password: RUNTIME_PASSWORD },
    readConfig({}),
  );
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

const author = { principal: "00000000-0000-7000-8000-00000000aaaa", actor: "test", source: "test" };
const byId = ({ id }: EntityState) => ({ lookup: { by: "entity_id" as const, key: id } });
const byExternalId = (key: string) => ({ lookup: { by: "external_id" as const, key } });

const creation = (name: string, externalId: string): Command =>
  toOneEntity({
    author,
    claims: [externalId],
    decide: (_, { now }) => newEntity({ type: "person", countryCode: "AR", name, externalId }, "", now),
  });

async function made(organizationId: string, ...externalIds: string[]): Promise<EntityState[]> {
  const results = await writeGroup(
    orm,
    organizationId,
    externalIds.map((id) => creation(`of ${id}`, id)),
  );
  return results.map((result) => (outcomesOf(result)[0] as { after: EntityState }).after);
}

function outcomesOf(result: Result | undefined) {
  if (result?.kind !== "done") throw new Error(`the command is ${result?.kind}`, { cause: result });
  return result.outcomes;
}

const renamed = (entity: EntityState | null | undefined, name: string): Change | null =>
  update(entity as EntityState, { name }, "");

/** Moves all external ids of the first entity to the second, which keeps its primary. */
function moveIds([from, to]: readonly (EntityState | null)[], now: Instant): Change[] {
  if (!from || !to) throw new Error("both are there");
  const change = renamed(to, "both") as Change;
  const rest = renamed(from, "emptied") as Change;
  const moved = from.externalIds.map((id) => ({ ...id, primary: false, attachedAt: now, trackedSince: now }));
  return [
    { ...rest, values: { ...rest.values, externalIds: [] } },
    { ...change, values: { ...change.values, externalIds: [...to.externalIds, ...moved] } },
  ];
}

const namesIn = async (organizationId: string) =>
  (
    await service.sql<{ name: string }>("select name from entity where organization_id = $1 order by name", [
      organizationId,
    ])
  ).map(({ name }) => name);

test.each([
  ["in this order", false],
  ["in the other order", true],
])("an external id moves from one to the other, %s: one time, an event each", async (_, isReversed) => {
  const organizationId = await newOrganizationId(service);
  const [from, to] = (await made(organizationId, "a", "b")) as [EntityState, EntityState];
  const targets = [byId(from), byExternalId("b")];
  const [result] = await writeGroup(orm, organizationId, [
    {
      author,
      targets: isReversed ? targets.toReversed() : targets,
      claims: ["a"],
      decide: (entities, { now }) =>
        isReversed ? moveIds(entities.toReversed(), now).toReversed() : moveIds(entities, now),
    },
    // A later command of the same group finds the id at its new owner.
    { author, targets: [byExternalId("a")], decide: ([entity]) => [renamed(entity, "found")] },
  ]);
  const outcomes = outcomesOf(result);
  expect(outcomes).toHaveLength(2);
  expect(new Set(outcomes.map(({ after }) => after.updatedAt)).size).toBe(1);
  expect(
    await service.sql(
      `select entity_id as id, entity_version as version, external_ids as ids from entity_event
       where organization_id = $1 and entity_version > 1 order by recorded_at, entity_id <> $2`,
      [organizationId, from.id],
    ),
  ).toEqual([
    { id: from.id, version: "2", ids: [] },
    { id: to.id, version: "2", ids: ["b", "a"] },
    { id: to.id, version: "3", ids: ["b", "a"] },
  ]);
  expect(
    await service.sql("select external_id, entity_id, cause from external_id_past where organization_id = $1", [
      organizationId,
    ]),
  ).toEqual([{ external_id: "a", entity_id: from.id, cause: "MOVED" }]);
  expect(
    await service.sql(
      "select external_id as key, entity_id as id, is_primary as is from external_id where organization_id = $1 order by 1",
      [organizationId],
    ),
  ).toEqual([
    { key: "a", id: to.id, is: false },
    { key: "b", id: to.id, is: true },
  ]);
});

test("rule 125: the event of each is sealed behind the one before of its own entity, in every form of the write", async () => {
  const organizationId = await newOrganizationId(service);
  const [a, b] = (await made(organizationId, "a", "b")) as [EntityState, EntityState];
  const both: Command = {
    author,
    targets: [byId(a), byId(b)],
    decide: (entities) => entities.map((entity) => renamed(entity, `${entity?.version} of both`)),
  };
  for (const isAtomic of [true, false]) {
    await pipelined(orm, organizationId, (db) => runGroup(db, organizationId, [both, both], { isAtomic }));
  }
  const events = await readChained(service.sql, [a.id, b.id]);
  expect(events).toHaveLength(10);
  for (const { id } of [a, b]) {
    let before: Buffer = Buffer.alloc(32);
    for (const event of events.filter(({ entity_id }) => entity_id === id)) {
      expect(event.previous_hash).toEqual(before);
      before = eventHash({ ...event, personal_hash: personalHash(event) });
      expect(event.hash).toEqual(before);
    }
    expect(await service.sql("select audit_head as head from entity where id = $1", [id])).toEqual([{ head: before }]);
  }
});

test("rule 16: an id that stays with the other entity of the command is taken", async () => {
  const organizationId = await newOrganizationId(service);
  const [from, to] = (await made(organizationId, "a", "b")) as [EntityState, EntityState];
  const [result] = await writeGroup(orm, organizationId, [
    {
      author,
      targets: [byId(from), byId(to)],
      claims: ["a"],
      decide: (entities, { now }) => [renamed(entities[0], "kept"), moveIds(entities, now)[1] ?? null],
    },
  ]);
  expect(result).toMatchObject({ kind: "refused", error: { reason: "DUPLICATE_EXTERNAL_ID" } });
  expect(await namesIn(organizationId)).toEqual(["of a", "of b"]);
});

test("each target has its own etag, and its own way to be missing", async () => {
  const organizationId = await newOrganizationId(service);
  const [a, b] = (await made(organizationId, "a", "b")) as [EntityState, EntityState];
  const command = (...targets: Command["targets"]): Command => ({
    author,
    targets,
    claims: ["c"],
    decide: ([first, second], { now }) => [
      renamed(first, "first"),
      second === null
        ? newEntity({ type: "person", countryCode: "AR", name: "made", externalId: "c" }, "", now)
        : renamed(second, "second"),
    ],
  });
  const reasons = (
    await writeGroup(orm, organizationId, [
      command(byId(a), { ...byId(b), etag: randomUUID() }),
      command(byId(a), byExternalId("c")),
      command(byId(a), { ...byExternalId("c"), allowMissing: true }),
    ])
  ).map((result) => (result.kind === "refused" ? result.error.reason : result.kind));
  expect(reasons).toEqual(["ETAG_MISMATCH", "NOT_FOUND", "done"]);
  expect(await namesIn(organizationId)).toEqual(["first", "made", "of b"]);
});

test("a rule that leaves one of them as it is: no event, no new version", async () => {
  const organizationId = await newOrganizationId(service);
  const [a, b] = (await made(organizationId, "a", "b")) as [EntityState, EntityState];
  const [result] = await writeGroup(orm, organizationId, [
    { author, targets: [byId(a), byId(b)], decide: ([, second]) => [null, renamed(second, "changed")] },
  ]);
  const [first, second] = outcomesOf(result);
  expect(first).toEqual({ before: a, after: a, updatedFields: [], redirectedFrom: "" });
  expect(second?.after.version).toBe(2);
});

test("atomic: one refusal of many undoes what the others did, and what they claimed", async () => {
  const organizationId = await newOrganizationId(service);
  const [a] = (await made(organizationId, "a")) as [EntityState];
  const requestId = randomUUID();
  const commands: Command[] = [
    {
      ...creation("new", "n"),
      request: { method: "Test", requestId, hash: Buffer.from("x"), answer: () => Buffer.of() },
    },
    { author, targets: [byId(a)], decide: ([entity]) => [renamed(entity, "changed")] },
    creation("second a", "a"),
  ];
  const run = (isAtomic: boolean) =>
    pipelined(orm, organizationId, (db) => runGroup(db, organizationId, commands, { isAtomic }));
  await expect(run(true)).rejects.toMatchObject({ constructor: DomainError, reason: "DUPLICATE_EXTERNAL_ID" });
  expect(await namesIn(organizationId)).toEqual(["of a"]);
  expect(await service.sql("select from request_record where organization_id = $1", [organizationId])).toEqual([]);
  const results = await run(false);
  expect(results.map((result) => (typeof result === "string" ? result : result.kind))).toEqual([
    "done",
    "done",
    "refused",
  ]);
  expect(await namesIn(organizationId)).toEqual(["changed", "new"]);
});

test("two that name the same two in opposite orders do not deadlock", async () => {
  const organizationId = await newOrganizationId(service);
  const [a, b] = (await made(organizationId, "a", "b")) as [EntityState, EntityState];
  const swap = (first: EntityState, second: EntityState): Command => ({
    author,
    targets: [byId(first), byId(second)],
    decide: ([one, two]) => [renamed(one, `${one?.version}`), renamed(two, `${two?.version}`)],
  });
  const results = await Promise.all(
    Array.from({ length: 20 }, (_, i) => writeGroup(orm, organizationId, [i % 2 === 0 ? swap(a, b) : swap(b, a)])),
  );
  expect(results.flat().map(({ kind }) => kind)).toEqual(Array(20).fill("done"));
  expect(await namesIn(organizationId)).toEqual(["20", "20"]);
});

test("rule 18: a tax id that another entity of the command lets go is free; one that it keeps is taken", async () => {
  const organizationId = await newOrganizationId(service);
  const withTaxId = (name: string, taxId: string): Command =>
    toOneEntity({
      author,
      decide: (_, { now }) => newEntity({ type: "person", countryCode: "AR", name, taxId }, "", now),
    });
  const [result] = await writeGroup(orm, organizationId, [withTaxId("first", "20-1")]);
  const first = (outcomesOf(result)[0] as { after: EntityState }).after;
  const handOver = (letsGo: boolean): Command => ({
    author,
    targets: [byId(first)],
    uniqueTaxIdKey: "201",
    decide: ([entity], { now }) => [
      letsGo ? update(entity as EntityState, { taxId: null }, "") : renamed(entity, "kept"),
      newEntity({ type: "person", countryCode: "AR", name: "second", taxId: "20-1" }, "", now),
    ],
  });
  const [refused] = await writeGroup(orm, organizationId, [handOver(false)]);
  expect(refused).toMatchObject({ kind: "refused", error: { reason: "DUPLICATE_TAX_ID" } });
  expect(await namesIn(organizationId)).toEqual(["first"]);
  const [done] = await writeGroup(orm, organizationId, [handOver(true)]);
  expect(outcomesOf(done).map(({ after }) => after.taxId)).toEqual([null, "20-1"]);
});

test("a rule that changes one entity twice is a defect, and changes nothing", async () => {
  const organizationId = await newOrganizationId(service);
  const [a] = (await made(organizationId, "a")) as [EntityState];
  const [result] = await writeGroup(orm, organizationId, [
    { author, targets: [byId(a), byExternalId("a")], decide: ([one, two]) => [renamed(one, "x"), renamed(two, "y")] },
  ]);
  expect(result).toMatchObject({ kind: "failed", error: { message: "a rule changed one entity twice" } });
  expect(await namesIn(organizationId)).toEqual(["of a"]);
});
