// GetEntity(read_time): an entity as it was, equal to what the write of that time answered, and for ever.
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Entity, type EntityClient, EntityStatus } from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId, current, eventsOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
});
afterAll(() => service[Symbol.asyncDispose]());

const microsOf = ({ seconds, nanos }: Timestamp) => seconds * 1_000_000n + BigInt(Math.floor(nanos / 1000));
const timeOf = (micros: bigint) => ({ seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1000 });
/** The time of the version in micros. */
const madeAt = ({ updatedAt }: Entity) => microsOf(updatedAt as Timestamp);

async function at(entity: { id: string }, micros: bigint, client: EntityClient = service.client): Promise<Entity> {
  const { entity: past } = await client.entities.getEntity({ lookup: byId(entity), readTime: timeOf(micros) });
  return past as Entity;
}

/** What each kind of write answers for one entity, in the order of its versions. */
async function everyWrite(client: EntityClient): Promise<Entity[]> {
  const { entities } = client;
  const answers: (Entity | undefined)[] = [];
  const created = await newPerson(client, {
    externalId: unique("x"),
    taxId: "529.982.247-25",
    status: EntityStatus.PENDING,
    entityData: {
      kind: {
        case: "person",
        value: { firstName: "Ana", address: { city: "Rio", additional: { zone: 3 } }, additional: { ünï: [1, null] } },
      },
    },
    attributes: { deep: { empty: {}, list: [null, { no: null }], number: 0.1, big: 1e-7 }, __proto__x: "kept" },
    metadata: { flag: false, text: "" },
  });
  const lookup = byId(created);
  answers.push(created);
  const update = async (entity: object, paths: string[] = [], reason = "") =>
    answers.push((await entities.updateEntity({ lookup, entity, updateMask: { paths }, reason })).entity);
  await update({ name: "Ana Lima" });
  await update({ attributes: { deep: null as never, other: { a: null } } });
  await update({}, ["tax_id", "attributes", "metadata"]);
  await update({ taxId: "not one", nationality: "BR", riskMatrixId: created.id });
  await update({}, ["entity_data"]);
  await update({ status: EntityStatus.BLOCKED }, [], "sanctions");
  await update({ entityData: { kind: { case: "person", value: { email: "a@example.com", nationality: "PT" } } } });
  await update({}, ["nationality", "risk_matrix_id", "tax_id"]);
  const externalIds = [unique("b"), unique("a")].map((externalId) => ({ externalId, type: "crm" }));
  answers.push((await entities.addExternalIds({ lookup, externalIds, reason: "another system" })).entity);
  const change = (newExternalId: string, keepPreviousAsAlias: boolean) =>
    entities.changeExternalId({ lookup, newExternalId, keepPreviousAsAlias, reason: "migration" });
  answers.push((await change(unique("new"), true)).entity);
  answers.push((await change(externalIds[1]?.externalId ?? "", false)).entity);
  answers.push((await entities.deleteEntity({ lookup, reason: "duplicate" })).entity);
  answers.push((await entities.undeleteEntity({ lookup, reason: "no duplicate" })).entity);
  return answers as Entity[];
}

describe("GetEntity with read_time", () => {
  it("rule 115: is equal in every field to what the write answered, from its time until that of the next", async () => {
    const answers = await everyWrite(service.client);
    expect(answers).toHaveLength(14);
    for (const [index, answer] of answers.entries()) {
      expect(await at(answer, madeAt(answer)), `version ${index + 1}`).toEqual(answer);
      const next = answers[index + 1];
      if (next !== undefined) expect(await at(answer, madeAt(next) - 1n), `until version ${index + 2}`).toEqual(answer);
    }
    const last = answers.at(-1) as Entity;
    expect(await at(last, madeAt(last) + 1n)).toEqual(await current(service.client, last));
    const events = await eventsOf(service.client, last);
    expect(events.map(({ id }) => id)).toEqual(answers.map(({ etag }) => etag));
  });

  it("rule 115: cuts off what is finer than a microsecond", async () => {
    const [first, second] = await everyWrite(service.client);
    if (first === undefined || second?.updatedAt === undefined) throw new Error("no versions");
    const readTime = { ...second.updatedAt, nanos: second.updatedAt.nanos + 999 };
    const { entity } = await service.client.entities.getEntity({ lookup: byId(first), readTime });
    expect(entity).toEqual(second);
  });

  it("rule 115: later than the clock of the database is VALIDATION_ERROR", async () => {
    const entity = await newPerson(service.client);
    const [{ micros }] = (await service.sql(
      "select (extract(epoch from clock_timestamp()) * 1000000)::bigint as micros",
    )) as [{ micros: string }];
    expect(await refusal(at(entity, BigInt(micros) + 5_000_000n))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["read_time"],
    });
  });

  it("rule 117: before the creation is NOT_FOUND, as for an id that is nobody's", async () => {
    const entity = await newPerson(service.client, { externalId: unique("x") });
    const before = madeAt(entity) - 1n;
    expect(await refusal(at(entity, before))).toMatchObject({ reason: "NOT_FOUND", metadata: { lookup: "entity_id" } });
    const byAlias = { lookup: byExternalId(entity.externalId), readTime: timeOf(before) };
    expect(await refusal(service.client.entities.getEntity(byAlias))).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { lookup: "external_id" },
    });
  });

  it("rule 118: an entity that was deleted then is answered with deleted_at", async () => {
    const { entities } = service.client;
    const made = await newPerson(service.client);
    const lookup = byId(made);
    const { entity: deleted } = await entities.deleteEntity({ lookup, reason: "duplicate" });
    await entities.undeleteEntity({ lookup, reason: "no duplicate" });
    expect(deleted?.deletedAt).toEqual(deleted?.updatedAt);
    expect(await at(made, madeAt(deleted as Entity))).toEqual(deleted);
    expect((await at(made, madeAt(deleted as Entity) - 1n)).deletedAt).toBeUndefined();
  });

  it("rule 119: an external id names its entity from the time of its attachment on", async () => {
    const made = await newPerson(service.client);
    const externalId = unique("late");
    const { entity } = await service.client.entities.assignExternalId({ lookup: byId(made), externalId });
    const then = (micros: bigint) =>
      service.client.entities.getEntity({ lookup: byExternalId(externalId), readTime: timeOf(micros) });
    expect((await then(madeAt(entity as Entity))).entity).toEqual(entity);
    expect(await refusal(then(madeAt(entity as Entity) - 1n))).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 120: by tax id is VALIDATION_ERROR, whether it is anybody's or not", async () => {
    const entity = await newPerson(service.client, { taxId: "529.982.247-25" });
    for (const taxId of ["529.982.247-25", "1"]) {
      const call = service.client.entities.getEntity({ lookup: byTaxId(taxId), readTime: timeOf(madeAt(entity)) });
      expect(await refusal(call)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["lookup.tax_id"] });
    }
  });
});
