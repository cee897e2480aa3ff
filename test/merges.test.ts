// Rules 78 to 110: two records of one person are merged, found by the keys of both, and parted again.
import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Entity,
  type EntityClient,
  EntityStatus,
  EntityType,
  EventType,
  LostExternalIdCause,
  type MergeEntitiesRequestSchema,
  MergeKept,
  type UnmergeEntitiesRequestSchema,
} from "../clients/typescript/index.ts";
import { asThen, byExternalId, byId, byTaxId, newPerson, tally, together, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
let client: EntityClient;
beforeAll(async () => {
  service = await startService();
  ({ client } = service);
});
afterAll(() => service[Symbol.asyncDispose]());

const REASON = "the same person, seen by two systems";
type Fields = Parameters<typeof newPerson>[1];

const person = (fields: Fields = {}, reason = "") =>
  newPerson(client, { externalId: unique("id"), taxId: unique("T"), ...fields }, reason);

const merge = (
  primary: Entity,
  secondary: Entity,
  more: Omit<MessageInitShape<typeof MergeEntitiesRequestSchema>, "$typeName"> = {},
) => client.entities.mergeEntities({ primary: byId(primary), secondary: byId(secondary), reason: REASON, ...more });

const unmerge = (
  mergeId: string,
  more: Omit<MessageInitShape<typeof UnmergeEntitiesRequestSchema>, "$typeName"> = {},
) => client.entities.unmergeEntities({ mergeId, reason: "two persons after all", ...more });

type Lookup = ReturnType<typeof byId | typeof byExternalId | typeof byTaxId>;
const find = (lookup: Lookup) => client.entities.getEntity({ lookup });

/** What an entity has beside its versions and times. */
const valuesOf = ({ etag: _, updatedAt: __, externalIds, ...values }: Entity) => ({
  ...values,
  externalIds: externalIds.map(({ externalId, type, designation }) => ({ externalId, type, designation })),
});

describe("a merge of two, and its undoing", () => {
  it("rules 78, 79: the id, the external ids and the tax id of the merged one find the survivor, which says so", async () => {
    const [primary, secondary] = [await person(), await person()];
    const { entity, secondary: merged, mergeId } = await merge(primary, secondary);
    expect(merged?.mergedInto).toBe(primary.id);
    expect(entity?.externalIds.map(({ externalId }) => externalId)).toEqual([primary.externalId, secondary.externalId]);
    for (const lookup of [byId(secondary), byExternalId(secondary.externalId), byTaxId(secondary.taxId ?? "")]) {
      const found = await find(lookup);
      expect(found.entity).toEqual(entity);
      expect(found.redirectedFrom).toBe(secondary.id);
    }
    for (const lookup of [byId(primary), byExternalId(primary.externalId), byTaxId(primary.taxId ?? "")]) {
      const found = await find(lookup);
      expect(found.entity).toEqual(entity);
      expect(found.redirectedFrom).toBe("");
    }
    const undone = await unmerge(mergeId);
    expect(valuesOf(undone.entity as Entity)).toEqual(valuesOf(primary));
    expect(valuesOf(undone.secondary as Entity)).toEqual(valuesOf(secondary));
    for (const one of [undone.entity, undone.secondary] as Entity[]) {
      for (const lookup of [byId(one), byExternalId(one.externalId), byTaxId(one.taxId ?? "")]) {
        const found = await find(lookup);
        expect(found.entity).toEqual(one);
        expect(found.redirectedFrom).toBe("");
      }
    }
  });

  it("rule 93: two events of one time, the secondary's first, each in the chain of its entity", async () => {
    const [primary, secondary] = [await person({ taxId: undefined }), await person()];
    const { mergeId } = await merge(primary, secondary);
    await unmerge(mergeId);
    const events = await service.sql(
      `select id, entity_id, type, updated_fields, recorded_at, metadata, reason from entity_event
       where entity_id = any($1) and entity_version > 1 order by id`,
      [[primary.id, secondary.id]],
    );
    expect(events.map(({ entity_id, type, updated_fields }) => [entity_id, type, updated_fields])).toEqual([
      [secondary.id, "MERGED", ["externalId", "externalIds", "mergedInto"]],
      [primary.id, "MERGE_RECEIVED", ["externalIds", "taxId", "taxIdCheck"]],
      [primary.id, "MERGE_RETURNED", ["externalIds", "taxId", "taxIdCheck"]],
      [secondary.id, "UNMERGED", ["externalId", "externalIds", "mergedInto"]],
    ]);
    expect(events[0]?.recorded_at).toEqual(events[1]?.recorded_at);
    expect(events[2]?.recorded_at).toEqual(events[3]?.recorded_at);
    for (const event of events) {
      expect(event.metadata).toMatchObject({ mergeId, primaryId: primary.id, secondaryId: secondary.id });
    }
  });
});

const nameOf = async (entity: { id: string }) => (await find(byId(entity))).entity?.name;
const statusOf = async (entity: { id: string }) => (await find(byId(entity))).entity?.status;
const update = (lookup: ReturnType<typeof byId>, entity: Fields, more: object = {}) =>
  client.entities.updateEntity({ lookup, entity: { ...entity }, ...more });

describe("which entity a lookup names", () => {
  it("rules 12, 78: one step, whatever the chain; chains of chains follow", async () => {
    const [a, b, c, d] = [await person(), await person(), await person(), await person()];
    await merge(b, a);
    await merge(c, b);
    const last = await merge(d, c);
    for (const merged of [a, b, c]) {
      for (const lookup of [byId(merged), byExternalId(merged.externalId), byTaxId(merged.taxId ?? "")]) {
        const found = await find(lookup);
        expect(found.entity?.id).toBe(d.id);
        expect(found.redirectedFrom).toBe(merged.id);
      }
    }
    await unmerge(last.mergeId);
    for (const merged of [a, b])
      expect(await find(byId(merged))).toMatchObject({ entity: { id: c.id }, redirectedFrom: merged.id });
    expect(await find(byExternalId(a.externalId))).toMatchObject({ entity: { id: c.id }, redirectedFrom: a.id });
  });

  it("rules 79, 81: BatchGet answers each way to name a group from one moment", async () => {
    const [primary, secondary] = [await person(), await person()];
    await merge(primary, secondary);
    const lookups = [primary, secondary].flatMap((one) => [
      byId(one),
      byExternalId(one.externalId),
      byTaxId(one.taxId ?? ""),
    ]);
    const { results } = await client.entities.batchGetEntities({ lookups });
    expect(results.map(({ redirectedFrom }) => redirectedFrom)).toEqual(["", "", "", ...Array(3).fill(secondary.id)]);
    expect(new Set(results.map(({ result }) => (result.case === "entity" ? result.value.id : "")))).toEqual(
      new Set([primary.id]),
    );
  });

  it("rule 79: every write says which merged entity was named; the etag is the survivor's", async () => {
    const [primary, secondary] = [await person(), await person()];
    const { entity: merged } = await merge(primary, secondary);
    const { entities } = client;
    const named = [byId(secondary), byExternalId(secondary.externalId), byTaxId(secondary.taxId ?? "")];
    for (const lookup of named) {
      const answers = [
        await entities.updateEntity({ lookup, entity: { name: unique("N") } }),
        await entities.addExternalIds({ lookup, externalIds: [{ externalId: unique("new") }] }),
        await entities.assignExternalId({ lookup, externalId: primary.externalId }),
        await entities.undeleteEntity({ lookup, reason: REASON }),
        await entities.changeExternalId({ lookup, newExternalId: primary.externalId, reason: REASON }),
      ];
      for (const { entity, redirectedFrom } of answers)
        expect([entity?.id, redirectedFrom]).toEqual([primary.id, secondary.id]);
    }
    expect(await refusal(entities.updateEntity({ lookup: byId(secondary), etag: secondary.etag }))).toMatchObject({
      ...{ reason: "ETAG_MISMATCH", metadata: { entity_id: primary.id } },
    });
    expect(merged?.etag).not.toBe(secondary.etag);
    const released = await entities.releaseExternalId({
      ...{ lookup: byId(secondary), externalId: secondary.externalId, reason: REASON, force: true },
    });
    expect(released).toMatchObject({ redirectedFrom: secondary.id, entity: { id: primary.id } });
    expect(await refusal(find(byExternalId(secondary.externalId)))).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 80: a shared tax id is not ambiguous once merged; a differing one still finds the survivor", async () => {
    const taxId = unique("T");
    const [primary, secondary] = [await person({ taxId }), await person({ taxId: `${taxId}.` })];
    expect(await refusal(find(byTaxId(taxId)))).toMatchObject({ reason: "AMBIGUOUS_TAX_ID_LOOKUP" });
    await merge(primary, secondary);
    expect(await find(byTaxId(taxId))).toMatchObject({ entity: { id: primary.id }, redirectedFrom: "" });
    // The survivor changes its own: that of the merged one finds it still.
    await update(byId(primary), { taxId: unique("T") });
    expect(await find(byTaxId(taxId))).toMatchObject({ entity: { id: primary.id }, redirectedFrom: secondary.id });
  });

  it("rule 80: a deleted survivor is found by no tax id of its group", async () => {
    const [primary, secondary] = [await person(), await person()];
    await merge(primary, secondary);
    await client.entities.deleteEntity({ lookup: byId(primary), reason: REASON });
    for (const { taxId = "" } of [primary, secondary]) {
      expect(await refusal(find(byTaxId(taxId)))).toMatchObject({ reason: "NOT_FOUND" });
    }
    expect((await find(byId(secondary))).entity?.deletedAt).toBeDefined();
    await client.entities.undeleteEntity({ lookup: byId(secondary), reason: REASON });
    expect(await find(byTaxId(secondary.taxId ?? ""))).toMatchObject({ redirectedFrom: secondary.id });
  });

  it("rule 80: require_unique_tax_id keeps the duplicate from coming back", async () => {
    const [primary, secondary] = [await person(), await person()];
    await merge(primary, secondary);
    const again = { type: EntityType.PERSON, name: "Ana", countryCode: "BR", taxId: secondary.taxId ?? "" };
    expect(await refusal(client.entities.createEntity({ entity: again, requireUniqueTaxId: true }))).toMatchObject({
      reason: "DUPLICATE_TAX_ID",
    });
  });

  it("rule 82: DeleteEntity refuses a lookup of the merged one, whichever; the survivor's own deletes it", async () => {
    const [primary, secondary] = [await person(), await person()];
    await merge(primary, secondary);
    const remove = (lookup: Lookup) => client.entities.deleteEntity({ lookup, reason: REASON });
    for (const lookup of [byId(secondary), byExternalId(secondary.externalId), byTaxId(secondary.taxId ?? "")]) {
      expect(await refusal(remove(lookup))).toMatchObject({
        ...{ reason: "MERGE_NOT_ALLOWED", metadata: { cause: "REDIRECTED", entity_id: primary.id } },
      });
    }
    expect((await remove(byExternalId(primary.externalId))).changed).toBe(true);
    const back = await client.entities.undeleteEntity({ lookup: byExternalId(secondary.externalId), reason: REASON });
    expect(back).toMatchObject({ changed: true, redirectedFrom: secondary.id });
  });

  it("rule 83: upserts and imports by a carried id write to the survivor", async () => {
    const [primary, secondary] = [await person(), await person()];
    await merge(primary, secondary);
    const upsert = await client.entities.updateEntity({
      ...{ lookup: byExternalId(secondary.externalId), allowMissing: true, entity: { name: "upserted" } },
    });
    expect(upsert).toMatchObject({ created: false, redirectedFrom: secondary.id, entity: { id: primary.id } });
    const rows = async function* () {
      yield {
        entity: { type: EntityType.PERSON, name: "imported", countryCode: "BR", externalId: secondary.externalId },
      };
    };
    for await (const { results } of client.entities.importEntities(rows())) {
      expect(results).toMatchObject([{ entityId: primary.id, redirectedFrom: secondary.id }]);
    }
    expect(await nameOf(primary)).toBe("imported");
  });

  it("rule 84: a request that was answered before the merge is answered so again", async () => {
    const [primary, secondary] = [await person(), await person()];
    const request = { lookup: byId(secondary), entity: { name: "before" }, requestId: randomUUID() };
    const first = await client.entities.updateEntity(request);
    await merge(primary, secondary);
    expect(await client.entities.updateEntity(request)).toEqual(first);
  });

  it("rule 85: lists never show merged entities; filters by their keys find the survivor", async () => {
    const own = await service.newOrganization();
    const made = async (externalId: string, taxId: string) => newPerson(own.client, { externalId, taxId });
    const [primary, secondary, other] = [await made("p", "T1"), await made("s", "T2"), await made("o", "T3")];
    await own.client.entities.mergeEntities({ primary: byId(primary), secondary: byId(secondary), reason: REASON });
    const list = async (filter: object) =>
      (await own.client.entities.listEntities(filter)).entities.map(({ id }) => id);
    expect(await list({ showDeleted: true })).toEqual([primary.id, other.id].sort());
    for (const filter of [{ externalIds: ["s"] }, { taxId: "T2" }, { taxId: "T1", externalIds: ["s", "o"] }]) {
      expect(await list(filter), JSON.stringify(filter)).toEqual([primary.id]);
    }
  });
});

describe("merging", () => {
  it("rule 86: what is missing, stale or deleted says on which side, the primary first", async () => {
    const [primary, secondary, gone] = [await person(), await person(), await person()];
    await client.entities.deleteEntity({ lookup: byId(gone), reason: REASON });
    const nobody = { id: randomUUID() } as Entity;
    const foreign = await newPerson((await service.newOrganization()).client);
    const cases: [() => Promise<unknown>, string, string][] = [
      [() => merge(nobody, nobody), "NOT_FOUND", "primary"],
      [() => merge(primary, nobody), "NOT_FOUND", "secondary"],
      [() => merge(foreign, secondary), "NOT_FOUND", "primary"],
      [() => merge(primary, foreign), "NOT_FOUND", "secondary"],
      [
        () => merge(primary, secondary, { etag: randomUUID(), secondaryEtag: randomUUID() }),
        "ETAG_MISMATCH",
        "primary",
      ],
      [
        () => merge(primary, secondary, { etag: primary.etag, secondaryEtag: randomUUID() }),
        "ETAG_MISMATCH",
        "secondary",
      ],
      [() => merge(gone, secondary), "ENTITY_DELETED", "primary"],
      [() => merge(primary, gone), "ENTITY_DELETED", "secondary"],
    ];
    for (const [call, reason, field] of cases)
      expect(await refusal(call())).toMatchObject({ reason, metadata: { field } });
    expect(await refusal(merge(primary, secondary, { reason: "abc" }))).toMatchObject({
      ...{ reason: "VALIDATION_ERROR", fields: ["reason"] },
    });
    const done = await merge(primary, secondary, { etag: primary.etag, secondaryEtag: secondary.etag });
    expect(done.secondary?.mergedInto).toBe(primary.id);
  });

  it("rule 86: needs the scope entities:merge, and no policy and no unique tax id stands against it", async () => {
    const own = await service.newOrganization("IMMUTABLE");
    const [primary, secondary] = [
      await newPerson(own.client, { externalId: "a", taxId: "T" }),
      await newPerson(own.client, { externalId: "b", taxId: "T" }),
    ];
    const request = { primary: byId(primary), secondary: byId(secondary), reason: REASON };
    const writer = await own.clientWith(["entities:write", "entities:read", "external_ids:change"]);
    expect(await refusal(writer.entities.mergeEntities(request))).toMatchObject({ reason: "PERMISSION_DENIED" });
    const { mergeId } = await own.client.entities.mergeEntities(request);
    expect(await refusal(writer.entities.unmergeEntities({ mergeId, reason: REASON }))).toMatchObject({
      ...{ reason: "PERMISSION_DENIED", metadata: { scope: "entities:merge" } },
    });
    const { secondary: back } = await own.client.entities.unmergeEntities({ mergeId, reason: REASON });
    expect(back?.externalId).toBe("b");
  });

  it("rule 87: neither twice, nor with itself, nor of two types, nor with a redirected secondary", async () => {
    const [primary, secondary, third] = [await person(), await person(), await person()];
    const company = await person({ type: EntityType.COMPANY });
    await merge(primary, secondary);
    const cases: [() => Promise<unknown>, object][] = [
      [() => merge(primary, secondary), { cause: "SAME_ENTITY", entity_id: primary.id }],
      [() => merge(secondary, primary), { cause: "SAME_ENTITY", entity_id: primary.id }],
      [() => merge(primary, primary), { cause: "SAME_ENTITY", entity_id: primary.id }],
      [() => merge(third, secondary), { cause: "SECONDARY_REDIRECTED", entity_id: primary.id }],
      [() => merge(third, company), { cause: "TYPE_DIFFERS", entity_id: company.id }],
    ];
    for (const [call, metadata] of cases)
      expect(await refusal(call())).toMatchObject({ reason: "MERGE_NOT_ALLOWED", metadata });
    // A redirected primary is fine.
    const { entity, redirectedFrom } = await merge(secondary, third);
    expect([entity?.id, redirectedFrom]).toEqual([primary.id, secondary.id]);
  });

  it("rule 88: a group has at most 100 merged entities, and an entity 100 external ids", async () => {
    const own = await service.newOrganization();
    const ids = (prefix: string, count: number) =>
      Array.from({ length: count }, (_, i) => ({ externalId: `${prefix}${i}` }));
    const [p, s] = [await newPerson(own.client), await newPerson(own.client)];
    await own.client.entities.addExternalIds({ lookup: byId(p), externalIds: ids("p", 60) });
    await own.client.entities.addExternalIds({ lookup: byId(s), externalIds: ids("s", 41) });
    const both = { primary: byId(p), secondary: byId(s), reason: REASON };
    expect(await refusal(own.client.entities.mergeEntities(both))).toMatchObject({
      ...{ reason: "MERGE_NOT_ALLOWED", metadata: { cause: "LIMIT", field: "external_ids", limit: "100" } },
    });
    await own.client.entities.releaseExternalId({ lookup: byId(s), externalId: "s1", reason: REASON, force: true });
    expect((await own.client.entities.mergeEntities(both)).entity?.externalIds).toHaveLength(100);
  });

  it("rules 89, 90: conflicts are answered with both values, and what was kept", async () => {
    const data = (email: string) => ({ kind: { case: "person" as const, value: { email, address: { city: email } } } });
    const primary = await person({ entityData: data("a"), attributes: { tier: 1, only: true }, nationality: "AR" });
    const secondary = await person(
      { entityData: data("b"), attributes: { tier: [2] }, status: EntityStatus.BLOCKED, name: "Ana M" },
      "listed",
    );
    const preview = await merge(primary, secondary, { validateOnly: true });
    const { mergeId, ...done } = await merge(primary, secondary);
    expect(preview.mergeId).toBe("");
    expect(preview.conflicts).toEqual(done.conflicts);
    expect(
      done.conflicts.map(({ path, kept, primaryValue, secondaryValue }) => [
        path,
        kept,
        primaryValue?.kind.case,
        secondaryValue?.kind.value,
      ]),
    ).toMatchObject([
      ["name", MergeKept.PRIMARY, "stringValue", "Ana M"],
      ["taxId", MergeKept.PRIMARY, "stringValue", secondary.taxId],
      ["status", MergeKept.SECONDARY, "stringValue", "blocked"],
      ["entityData.email", MergeKept.PRIMARY, "stringValue", "b"],
      ["entityData.address", MergeKept.PRIMARY, "structValue", {}],
      ["attributes.tier", MergeKept.PRIMARY, "numberValue", {}],
    ]);
    expect(done.entity).toMatchObject({
      status: EntityStatus.BLOCKED,
      name: primary.name,
      attributes: { tier: 1, only: true },
    });
    const { events } = await client.entities.listEntityEvents({
      lookup: byId(primary),
      types: [EventType.MERGE_RECEIVED],
    });
    expect(events[0]).toMatchObject({
      reason: REASON,
      updatedFields: ["externalIds", "status"],
      newValues: { status: "blocked" },
    });
    expect((await unmerge(mergeId)).entity?.status).toBe(primary.status);
  });

  it("rules 38, 93: a preview is what the merge answers, and writes nothing", async () => {
    const [primary, secondary] = [await person(), await person()];
    const counts = () =>
      service.sql("select (select count(*) from entity_event) as e, (select count(*) from entity_merge) as m");
    const before = await counts();
    const preview = await merge(primary, secondary, { validateOnly: true });
    expect(await counts()).toEqual(before);
    expect((await find(byId(secondary))).entity).toEqual(secondary);
    const done = await merge(primary, secondary);
    expect(valuesOf(preview.entity as Entity)).toEqual(valuesOf(done.entity as Entity));
    expect(preview.secondary?.mergedInto).toBe(primary.id);
  });

  it("rule 92: crossed merges at once: one wins, the other is SAME_ENTITY; no cycle", async () => {
    for (let i = 0; i < 5; i++) {
      const [a, b] = [await person(), await person()];
      const endings = await together(8, (n) => (n % 2 === 0 ? merge(a, b) : merge(b, a)));
      expect(tally(endings)).toEqual({ OK: 1, MERGE_NOT_ALLOWED: 7 });
      const [one, other] = [await find(byId(a)), await find(byId(b))];
      expect(one.entity).toEqual(other.entity);
      expect([one.redirectedFrom, other.redirectedFrom].filter((from) => from !== "")).toHaveLength(1);
    }
  });

  it("rule 81: whoever waits for the survivor of an entity that is parted from it meanwhile gets that entity", async () => {
    const [primary, secondary, third] = [await person(), await person(), await person()];
    const { mergeId } = await merge(primary, secondary);
    const holder = new pg.Client(service.database);
    await holder.connect();
    const waiting = async (count: number) => {
      const text = "select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock' and datname = $1";
      const [row] = await service.sql<{ n: number }>(text, [service.database.database]);
      return (row?.n ?? 0) >= count;
    };
    // What the undoing writes once it has decided, with both under its locks.
    await holder.query("begin");
    await holder.query("select 1 from external_id where external_id = $1 for update", [secondary.externalId]);
    const parted = unmerge(mergeId);
    await expect.poll(() => waiting(1)).toBe(true);
    const others = [
      client.entities.updateEntity({ lookup: byId(secondary), entity: { nationality: "UY" } }),
      client.entities.mergeEntities({
        primary: byId(third),
        secondary: byId(secondary),
        reason: REASON,
        validateOnly: true,
      }),
    ] as const;
    await expect.poll(() => waiting(3)).toBe(true);
    await holder.query("rollback");
    await holder.end();
    expect((await parted).secondary?.id).toBe(secondary.id);
    const [updated, merged] = await Promise.all(others);
    expect([updated.entity?.id, updated.redirectedFrom, updated.entity?.nationality]).toEqual([secondary.id, "", "UY"]);
    expect([merged.entity?.id, merged.secondary?.id]).toEqual([third.id, secondary.id]);
    expect((await find(byId(primary))).entity?.nationality).not.toBe("UY");
  });

  it("rules 81, 92: crossed, in chains and in rings, while others update, change ids, record and look up", async () => {
    const people = await Promise.all(Array.from({ length: 8 }, () => person()));
    const any = () => people[Math.floor(Math.random() * people.length)] as Entity;
    const merges: string[] = [];
    const calls: (() => Promise<unknown>)[] = [
      async () => merges.push((await merge(any(), any())).mergeId),
      async () => merges.push((await merge(any(), any())).mergeId),
      async () => {
        const [id] = merges.splice(Math.floor(Math.random() * merges.length), 1);
        if (id !== undefined) await unmerge(id);
      },
      () => client.entities.updateEntity({ lookup: byId(any()), entity: { name: unique("n") } }),
      () =>
        client.entities.changeExternalId({
          lookup: byId(any()),
          newExternalId: unique("c"),
          keepPreviousAsAlias: true,
          reason: REASON,
        }),
      () => client.entities.addExternalIds({ lookup: byId(any()), externalIds: [{ externalId: any().externalId }] }),
      () => record(pay({ entityId: any().id }, { destination: { externalId: any().externalId } })),
    ];
    // Nobody is ever not there.
    const allowed = ["OK", "MERGE_NOT_ALLOWED", "DUPLICATE_EXTERNAL_ID", "WRITE_CONFLICT"];
    let isDone = false;
    const looking = (async () => {
      // No lookup without an answer: every id names somebody at any time.
      for (; !isDone; ) {
        for (const one of people) {
          const { entity } = await find(byId(one));
          expect(entity?.mergedInto).toBe("");
          await find(byExternalId(one.externalId));
        }
      }
    })();
    const endings = await together(64, async (i) => {
      const reasons: string[] = [];
      for (let round = 0; round < 6; round++) {
        const [{ reason = "OK" } = {}] = await together(1, () =>
          (calls[(i + round) % calls.length] as () => Promise<unknown>)(),
        );
        reasons.push(reason);
      }
      return reasons;
    });
    isDone = true;
    await looking;
    const reasons = new Set(endings.flatMap(({ answer = [] }) => answer));
    expect([...reasons].filter((reason) => !allowed.includes(reason))).toEqual([]);
    // The invariants of every suite are about the rest: no cycle, nobody lost, copies, homes, chains.
    for (const id of merges.toReversed()) await unmerge(id).catch(() => {});
  });

  it("rule 95: events of the group, newest first, each with its own entity id, over pages; each its own again", async () => {
    const [primary, secondary] = [await person(), await person()];
    await update(byId(secondary), { name: "S2" });
    await update(byId(primary), { name: "P2" });
    const { mergeId } = await merge(primary, secondary);
    await update(byId(secondary), { name: "both" });
    const all = async (lookup: ReturnType<typeof byId>) => {
      const events: [string, EventType][] = [];
      let pageToken = "";
      do {
        const page = await client.entities.listEntityEvents({ lookup, pageSize: 2, pageToken });
        events.push(...page.events.map(({ entityId, type }) => [entityId, type] as [string, EventType]));
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      return events;
    };
    const expected = [
      [primary.id, EventType.ATTRIBUTE_CHANGED],
      [primary.id, EventType.MERGE_RECEIVED],
      [secondary.id, EventType.MERGED],
      [primary.id, EventType.ATTRIBUTE_CHANGED],
      [secondary.id, EventType.ATTRIBUTE_CHANGED],
      [secondary.id, EventType.CREATED],
      [primary.id, EventType.CREATED],
    ];
    for (const one of [primary, secondary]) expect(await all(byId(one))).toEqual(expected);
    await unmerge(mergeId);
    const own = (await all(byId(secondary))).map(([id]) => id);
    expect([new Set(own), own.length]).toEqual([new Set([secondary.id]), 4]);
  });
});

const at = { seconds: 1_700_000_000n, nanos: 0 };
const pay = (origin: object, more: object = {}) => ({
  ...{ type: "payment", amount: "1.00", currency: "ARS", transactedAt: at, origin, ...more },
});
const record = (...transactions: ReturnType<typeof pay>[]) => client.activity.recordTransactions({ transactions });
const transactionsOf = async (lookup: ReturnType<typeof byId>) =>
  (await client.activity.listTransactions({ lookup })).transactions;

describe("activity", () => {
  it("rules 96, 97: rows stay with the entity that was named, and are listed and shown with the survivor", async () => {
    const [primary, secondary] = [await person(), await person()];
    await record(
      pay({ entityId: secondary.id }, { destination: { entityId: primary.id } }),
      pay({ entityId: primary.id }),
    );
    const { mergeId, rows } = await merge(primary, secondary);
    expect(rows).toMatchObject({ transactions: 1n, userEvents: 0n });
    // Recorded through each key of the merged one.
    const named = [{ entityId: secondary.id }, { externalId: secondary.externalId }, { taxId: secondary.taxId }];
    const { results } = await record(...named.map((party) => pay(party)));
    for (const { transaction } of results) {
      expect(transaction?.origin).toMatchObject({ entityId: primary.id, externalId: primary.externalId });
    }
    await client.activity.recordUserEvents({
      userEvents: [{ entityExternalId: secondary.externalId, eventType: "login", occurredAt: at }],
    });
    for (const lookup of [byId(primary), byId(secondary)]) {
      const listed = await transactionsOf(lookup);
      expect(listed).toHaveLength(5);
      for (const { origin } of listed)
        expect(origin).toMatchObject({ entityId: primary.id, externalId: primary.externalId });
      const { userEvents } = await client.activity.listUserEvents({ lookup });
      expect(userEvents).toMatchObject([{ entityId: primary.id, entityExternalId: primary.externalId }]);
    }
    expect((await unmerge(mergeId)).rows).toMatchObject({ transactions: 4n, userEvents: 1n });
    expect(await transactionsOf(byId(primary))).toHaveLength(2);
    const back = await transactionsOf(byId(secondary));
    expect(back).toHaveLength(4);
    for (const { origin } of back)
      expect(origin).toMatchObject({ entityId: secondary.id, externalId: secondary.externalId });
  });

  it("rule 97: each row once, newest first, over pages of a group", async () => {
    const [primary, secondary, third] = [await person(), await person(), await person()];
    const members = [primary, secondary, third];
    const rows = Array.from({ length: 21 }, (_, i) =>
      pay(
        { entityId: members[i % 3]?.id },
        {
          ...(i % 2 === 0 && { destination: { entityId: members[(i + 1) % 3]?.id } }),
          externalId: unique(`t${i}`),
          transactedAt: { seconds: BigInt(1_700_000_000 + i), nanos: 0 },
        },
      ),
    );
    await record(...rows);
    await merge(secondary, third);
    await merge(primary, secondary);
    const seen: string[] = [];
    let pageToken = "";
    do {
      const page = await client.activity.listTransactions({ lookup: byId(third), pageSize: 4, pageToken });
      seen.push(...page.transactions.map(({ externalId }) => externalId));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(seen).toEqual(rows.map((row) => (row as { externalId?: string }).externalId).reverse());
  });

  it("rule 98: recorded again, by whichever key of the group, a transaction is UNCHANGED; other parties are not", async () => {
    const [primary, secondary, other] = [await person(), await person(), await person()];
    const externalId = unique("t");
    await record(pay({ entityId: secondary.id }, { externalId, details: { a: [1.5, "x"] } }));
    const { mergeId } = await merge(primary, secondary);
    const again = (origin: object) => record(pay(origin, { externalId, details: { a: [1.5, "x"] } }));
    for (const party of [{ entityId: secondary.id }, { entityId: primary.id }, { externalId: primary.externalId }]) {
      expect((await again(party)).results).toMatchObject([
        { outcome: 2, transaction: { origin: { entityId: primary.id } } },
      ]);
    }
    expect(await refusal(again({ entityId: other.id }))).toMatchObject({ reason: "VALIDATION_ERROR" });
    await unmerge(mergeId);
    expect(await refusal(again({ entityId: primary.id }))).toMatchObject({ reason: "VALIDATION_ERROR" });
    expect((await again({ entityId: secondary.id })).results).toMatchObject([{ outcome: 2 }]);
  });

  it("rule 96: a deleted survivor is ENTITY_DELETED for the keys of the merged one", async () => {
    const [primary, secondary] = [await person(), await person()];
    await merge(primary, secondary);
    await client.entities.deleteEntity({ lookup: byId(primary), reason: REASON });
    for (const party of [{ entityId: secondary.id }, { externalId: secondary.externalId }]) {
      expect(await refusal(record(pay(party)))).toMatchObject({ reason: "ENTITY_DELETED", metadata: { index: "0" } });
    }
  });

  it("rules 99, 107: a carried id that was the survivor's primary rewrites its own rows alone", async () => {
    const [primary, secondary] = [await person(), await person()];
    await record(pay({ entityId: primary.id }), pay({ entityId: secondary.id }));
    const { mergeId } = await merge(primary, secondary);
    const copies = () =>
      service.sql(
        "select origin_entity_id as id, origin_external_id as copy from transaction where origin_entity_id = any($1) order by 1 = 1, origin_entity_id = $2",
        [[primary.id, secondary.id], secondary.id],
      );
    // The carried id becomes the primary, and then another.
    await client.entities.addExternalIds({
      lookup: byId(primary),
      externalIds: [{ externalId: secondary.externalId, designation: 1 }],
    });
    expect(await copies()).toEqual([
      { id: primary.id, copy: secondary.externalId },
      { id: secondary.id, copy: secondary.externalId },
    ]);
    const next = unique("next");
    await client.entities.changeExternalId({
      lookup: byId(primary),
      newExternalId: next,
      keepPreviousAsAlias: true,
      reason: REASON,
    });
    expect(await copies()).toEqual([
      { id: primary.id, copy: next },
      { id: secondary.id, copy: secondary.externalId },
    ]);
    const undone = await unmerge(mergeId);
    expect(undone.entity?.externalId).toBe(next);
    expect((await transactionsOf(byId(secondary)))[0]?.origin?.externalId).toBe(secondary.externalId);
  });
});

describe("ids and edits while merged", () => {
  it("rule 100: carried ids may be listed, designated and freed like any; they keep their home", async () => {
    const [primary, secondary] = [await person(), await person()];
    await client.entities.addExternalIds({
      lookup: byId(secondary),
      externalIds: [{ externalId: unique("second"), type: "cif" }],
    });
    const { mergeId } = await merge(primary, secondary);
    const { entity } = await client.entities.addExternalIds({
      lookup: byId(primary),
      externalIds: [{ externalId: secondary.externalId, designation: 1, type: "old" }],
    });
    expect(entity?.externalId).toBe(secondary.externalId);
    expect((await find(byExternalId(secondary.externalId))).redirectedFrom).toBe(secondary.id);
    const undone = await unmerge(mergeId);
    // Rule 106: the survivor has the primary again that it had.
    expect(undone.entity?.externalId).toBe(primary.externalId);
    expect(undone.secondary?.externalIds[0]).toMatchObject({ externalId: secondary.externalId, type: "old" });
  });

  it("rules 101, 102, 104: what was edited since stays, what was brought goes, cleared stays cleared", async () => {
    const primary = await person({ taxId: undefined, attributes: { a: 1 } });
    const secondary = await person({ nationality: "UY", attributes: { b: 1, c: 1, d: 1 }, metadata: { m: 1 } });
    const { mergeId } = await merge(primary, secondary);
    await update(byId(primary), { attributes: { b: 2, c: null } });
    await client.entities.updateEntity({ lookup: byId(primary), updateMask: { paths: ["nationality", "metadata"] } });
    const now = (await find(byId(primary))).entity;
    expect(now).toMatchObject({ taxId: secondary.taxId, attributes: { a: 1, b: 2, d: 1 } });
    expect([now?.nationality, now?.metadata]).toEqual([undefined, undefined]);
    const undone = await unmerge(mergeId);
    expect(undone.entity?.attributes).toEqual({ a: 1, b: 2 });
    expect(undone.entity?.taxId).toBeUndefined();
    expect(valuesOf(undone.secondary as Entity)).toEqual(valuesOf(secondary));
    expect(undone.kept.map(({ path }) => path)).toEqual(["attributes.b"]);
  });
});

describe("unmerging", () => {
  it("rule 103: unknown, undone already, and merged since", async () => {
    const [a, b, c] = [await person(), await person(), await person()];
    expect(await refusal(unmerge(randomUUID()))).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { lookup: "merge_id" },
    });
    expect(await refusal(unmerge("x"))).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["merge_id"] });
    const first = await merge(b, a);
    const second = await merge(c, b);
    expect(await refusal(unmerge(first.mergeId))).toMatchObject({
      ...{ reason: "MERGE_NOT_ALLOWED", metadata: { cause: "MERGED_SINCE", merge_id: second.mergeId } },
    });
    expect(await refusal(unmerge(second.mergeId, { etag: randomUUID() }))).toMatchObject({ reason: "ETAG_MISMATCH" });
    await unmerge(second.mergeId);
    expect(await refusal(unmerge(second.mergeId))).toMatchObject({
      ...{ reason: "MERGE_NOT_ALLOWED", metadata: { cause: "UNDONE", merge_id: second.mergeId } },
    });
    await unmerge(first.mergeId);
    for (const one of [a, b, c]) expect(valuesOf((await find(byId(one))).entity as Entity)).toEqual(valuesOf(one));
  });

  it("rule 103: a deleted survivor is ENTITY_DELETED", async () => {
    const [primary, secondary] = [await person(), await person()];
    const { mergeId } = await merge(primary, secondary);
    await client.entities.deleteEntity({ lookup: byId(primary), reason: REASON });
    expect(await refusal(unmerge(mergeId))).toMatchObject({
      reason: "ENTITY_DELETED",
      metadata: { entity_id: primary.id },
    });
  });

  it("rules 103, 104: merges into one survivor are undone in any order", async () => {
    for (const order of [
      [0, 1, 2],
      [2, 0, 1],
      [1, 2, 0],
    ]) {
      const primary = await person({ taxId: undefined });
      const others = [
        await person({ attributes: { a: 1 } }),
        await person({ attributes: { a: 2, b: 2 }, status: EntityStatus.UNDER_REVIEW }),
        await person({ attributes: { b: 3, c: 3 } }),
      ];
      const ids: string[] = [];
      for (const other of others) ids.push((await merge(primary, other)).mergeId);
      for (const i of order) {
        const { secondary } = await unmerge(ids[i] ?? "");
        expect(valuesOf(secondary as Entity)).toEqual(valuesOf(others[i] as Entity));
      }
      expect(valuesOf((await find(byId(primary))).entity as Entity)).toEqual(valuesOf(primary));
    }
  });

  it("rule 105: decided on the merged person, a restriction is carried; what was before is not", async () => {
    const [primary, secondary] = [await person(), await person({ status: EntityStatus.ACTIVE })];
    const { mergeId } = await merge(primary, secondary);
    await update(byId(secondary), { status: EntityStatus.BLOCKED }, { reason: "listed" });
    const preview = await unmerge(mergeId, { validateOnly: true });
    const { carried, secondary: back, entity } = await unmerge(mergeId);
    expect([preview.carried, carried]).toEqual([["status"], ["status"]]);
    expect([back?.status, entity?.status]).toEqual([EntityStatus.BLOCKED, EntityStatus.BLOCKED]);
    const again = await merge(primary, await person());
    expect((await unmerge(again.mergeId)).carried).toEqual([]);
    expect(await statusOf(secondary)).toBe(EntityStatus.BLOCKED);
  });

  it("rule 106: ids that were freed or taken since are lost, each with why", async () => {
    const [primary, secondary, other] = [await person(), await person(), await person()];
    const [freed, taken] = [unique("freed"), unique("taken")];
    await client.entities.addExternalIds({
      lookup: byId(secondary),
      externalIds: [{ externalId: freed }, { externalId: taken }],
    });
    const { mergeId } = await merge(primary, secondary);
    for (const externalId of [freed, taken, secondary.externalId]) {
      await client.entities.releaseExternalId({ lookup: byId(primary), externalId, reason: REASON, force: true });
    }
    await client.entities.addExternalIds({ lookup: byId(other), externalIds: [{ externalId: taken }] });
    // Attached anew by hand, it is the survivor's own.
    await client.entities.addExternalIds({
      lookup: byId(primary),
      externalIds: [{ externalId: secondary.externalId }],
    });
    const { lost, returned, secondary: back, entity } = await unmerge(mergeId);
    expect(returned).toEqual([]);
    expect(Object.fromEntries(lost.map(({ externalId, cause }) => [externalId, cause]))).toEqual({
      [freed]: LostExternalIdCause.RELEASED,
      [taken]: LostExternalIdCause.TAKEN,
      [secondary.externalId]: LostExternalIdCause.TAKEN,
    });
    expect(back?.externalIds).toEqual([]);
    expect(entity?.externalIds.map(({ externalId }) => externalId)).toEqual([primary.externalId, secondary.externalId]);
  });

  it("rule 107: copies in the rows of one that gets another primary back follow it", async () => {
    const [primary, secondary] = [await person(), await person()];
    await client.entities.addExternalIds({ lookup: byId(secondary), externalIds: [{ externalId: unique("second") }] });
    await record(pay({ entityId: secondary.id }));
    const { mergeId } = await merge(primary, secondary);
    await client.entities.releaseExternalId({
      lookup: byId(primary),
      externalId: secondary.externalId,
      reason: REASON,
      force: true,
    });
    const { secondary: back } = await unmerge(mergeId);
    const rows = await service.sql("select origin_external_id as copy from transaction where origin_entity_id = $1", [
      secondary.id,
    ]);
    expect(rows).toEqual([{ copy: back?.externalId }]);
    const { events } = await client.entities.listEntityEvents({ lookup: byId(secondary), types: [EventType.UNMERGED] });
    expect(events[0]?.metadata).toMatchObject({ rewrittenRows: { transactions: 1, userEvents: 0 } });
  });

  it("rule 106: an entity without ids lends the other's primary, and gives it back with its rows' copies", async () => {
    const [primary, secondary] = [await newPerson(client), await person()];
    const { mergeId, entity } = await merge(primary, secondary);
    expect(entity?.externalId).toBe(secondary.externalId);
    await record(pay({ entityId: primary.id }));
    const { entity: after } = await unmerge(mergeId);
    expect(after?.externalIds).toEqual([]);
    expect(
      await service.sql("select origin_external_id as copy from transaction where origin_entity_id = $1", [primary.id]),
    ).toEqual([{ copy: null }]);
  });

  it("rule 109: mark_distinct keeps a matcher from merging them again; both events have its id", async () => {
    const [primary, secondary] = [await person(), await person()];
    const { mergeId } = await merge(primary, secondary);
    const { distinctId } = await unmerge(mergeId, { markDistinct: true });
    expect(await refusal(merge(primary, secondary))).toMatchObject({
      ...{ reason: "MERGE_NOT_ALLOWED", metadata: { cause: "DISTINCT", distinct_id: distinctId } },
    });
    const rows = await service.sql("select type from entity_event where metadata ->> 'distinctId' = $1 order by id", [
      distinctId,
    ]);
    expect(rows).toEqual([{ type: "MERGE_RETURNED" }, { type: "UNMERGED" }]);
  });

  it("rule 110: nothing that it needs is pruned with the log", async () => {
    const own = await service.newOrganization();
    const [primary, secondary] = [
      await newPerson(own.client, { externalId: "p" }),
      await newPerson(own.client, { externalId: "s", attributes: { a: 1 } }),
    ];
    const { mergeId } = await own.client.entities.mergeEntities({
      primary: byId(primary),
      secondary: byId(secondary),
      reason: REASON,
    });
    await own.client.entities.updateEntity({ lookup: byId(primary), entity: { name: "after" } });
    await own.client.organizations.updateOrganization({ organization: { eventRetentionDays: 7 } });
    await service.sql(
      "update entity_event set recorded_at = recorded_at - interval '8 days' where organization_id = $1 and entity_version = 1",
      [own.id],
    );
    await service.sql("select prune_events(1000)");
    expect(
      await service.sql("select from entity_event where organization_id = $1 and entity_version = 1", [own.id]),
    ).toEqual([]);
    const undone = await own.client.entities.unmergeEntities({ mergeId, reason: REASON });
    expect(valuesOf(undone.secondary as Entity)).toEqual(valuesOf(secondary));
    expect(undone.entity?.name).toBe("after");
  });
});

describe("as it was", () => {
  it("rule 118: a merged entity was its survivor since, by the chain as it was then, and itself before", async () => {
    const [a, b, c] = [await person(), await person(), await person()];
    const first = await merge(b, a);
    const second = await merge(c, b);
    await unmerge(second.mergeId);
    const read = (lookup: Lookup, readTime: Entity["updatedAt"]) => client.entities.getEntity({ lookup, readTime });
    for (const [when, survivor, from] of [
      [c.updatedAt, a, ""],
      [first.entity?.updatedAt, first.entity, a.id],
      [second.entity?.updatedAt, second.entity, a.id],
    ] as const) {
      const past = await read(byId(a), when);
      expect([past.entity && asThen(past.entity), past.redirectedFrom]).toEqual([
        survivor && asThen(survivor as Entity),
        from,
      ]);
      const byIdOfThen = await read(byExternalId(a.externalId), when);
      expect([byIdOfThen.entity?.id, byIdOfThen.redirectedFrom]).toEqual([survivor?.id, from]);
    }
    expect((await read(byId(b), second.entity?.updatedAt)).redirectedFrom).toBe(b.id);
  });
});

describe("distinct entities, and lists", () => {
  const mark = (first: Entity, second: Entity, more: object = {}) =>
    client.entities.markDistinct({ first: byId(first), second: byId(second), reason: "namesakes", ...more });
  const lift = (first: Entity, second: Entity, more: object = {}) =>
    client.entities.liftDistinct({ first: byId(first), second: byId(second), reason: "one after all", ...more });

  it("rule 111: marked twice or lifted twice is no change; each change is one event on each side", async () => {
    const [a, b] = [await person(), await person()];
    const preview = await mark(a, b, { validateOnly: true });
    expect(preview).toMatchObject({ changed: true, pair: { id: "" } });
    const marked = await mark(a, b);
    expect(marked.changed).toBe(true);
    const [low, high] = [a.id, b.id].sort();
    expect(marked.pair).toMatchObject({ firstId: low, secondId: high });
    expect(await mark(b, a)).toMatchObject({ changed: false, pair: { id: marked.pair?.id } });
    expect(await refusal(merge(a, b))).toMatchObject({ metadata: { cause: "DISTINCT", distinct_id: marked.pair?.id } });
    const lifted = await lift(b, a);
    expect(lifted).toMatchObject({ changed: true, pair: { id: marked.pair?.id } });
    expect(await lift(a, b)).toMatchObject({ changed: false });
    for (const one of [a, b]) {
      const { events } = await client.entities.listEntityEvents({ lookup: byId(one) });
      expect(events.map(({ type, event, updatedFields, reason }) => [type, event, updatedFields, reason])).toEqual([
        [EventType.DISTINCT_LIFTED, "entity.distinct_lifted", [], "one after all"],
        [EventType.DISTINCT_MARKED, "entity.distinct_marked", [], "namesakes"],
        [EventType.CREATED, "entity.created", expect.anything(), ""],
      ]);
      expect(events[1]?.metadata).toEqual({ distinctId: marked.pair?.id, firstId: a.id, secondId: b.id });
    }
    expect((await merge(a, b)).secondary?.mergedInto).toBe(a.id);
  });

  it("rule 111: the mark is between those that were named: it blocks their groups, and outlives an unmerge", async () => {
    const [a, b, c, d] = [await person(), await person(), await person(), await person()];
    const { mergeId } = await merge(b, a);
    await merge(d, c);
    // Of one that was merged: its event is the survivor's.
    const { pair, first } = await mark(a, c);
    expect(first?.id).toBe(b.id);
    expect(new Set([pair?.firstId, pair?.secondId])).toEqual(new Set([a.id, c.id]));
    expect(await refusal(merge(b, d))).toMatchObject({ metadata: { cause: "DISTINCT" } });
    expect((await lift(b, d)).changed).toBe(false);
    await unmerge(mergeId);
    expect(await refusal(merge(a, d))).toMatchObject({ metadata: { cause: "DISTINCT" } });
    expect((await merge(b, d)).entity?.id).toBe(b.id);
    expect(await refusal(merge(b, a))).toMatchObject({ metadata: { cause: "DISTINCT" } });
  });

  it("rule 111: two of one group, or a deleted one, cannot be marked", async () => {
    const [a, b, gone] = [await person(), await person(), await person()];
    await merge(a, b);
    await client.entities.deleteEntity({ lookup: byId(gone), reason: REASON });
    expect(await refusal(mark(a, b))).toMatchObject({
      reason: "MERGE_NOT_ALLOWED",
      metadata: { cause: "SAME_ENTITY" },
    });
    expect(await refusal(mark(a, gone))).toMatchObject({ reason: "ENTITY_DELETED", metadata: { field: "second" } });
    expect(await refusal(mark({ id: randomUUID() } as Entity, a))).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { field: "first" },
    });
    expect(await refusal(mark(a, await person(), { secondEtag: randomUUID() }))).toMatchObject({
      ...{ reason: "ETAG_MISMATCH", metadata: { field: "second" } },
    });
  });

  it("rule 111: a mark and a merge at once: one of them wins", async () => {
    for (let i = 0; i < 5; i++) {
      const [a, b] = [await person(), await person()];
      const endings = await together(2, async (n): Promise<unknown> => (n === 0 ? mark(a, b) : merge(a, b)));
      expect(tally(endings)).toEqual({ OK: 1, MERGE_NOT_ALLOWED: 1 });
    }
  });

  it("rule 111: ListDistinct has the marks of the group, newest first, lifted ones too, over pages", async () => {
    const [a, b, ...others] = [await person(), await person(), await person(), await person(), await person()];
    await mark(a as Entity, others[0] as Entity);
    await mark(b as Entity, others[1] as Entity);
    await mark(others[2] as Entity, a as Entity);
    await lift(a as Entity, others[0] as Entity);
    await merge(a as Entity, b as Entity);
    const found: string[] = [];
    let pageToken = "";
    do {
      const page = await client.entities.listDistinct({ lookup: byId(b as Entity), pageSize: 2, pageToken });
      found.push(...page.pairs.map((pair) => `${[pair.firstId, pair.secondId].sort()} ${pair.liftedAt !== undefined}`));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    const pair = (x: Entity | undefined, y: Entity | undefined, isLifted = false) =>
      `${[x?.id, y?.id].sort()} ${isLifted}`;
    expect(found).toEqual([pair(others[2], a), pair(b, others[1]), pair(a, others[0], true)]);
  });

  it("rule 112: ListMerges has those of the group, and of the organization, newest first, who, why and when", async () => {
    const own = await service.newOrganization();
    const made = () => newPerson(own.client, { externalId: unique("m") });
    const [a, b, c, x, y] = [await made(), await made(), await made(), await made(), await made()];
    const join = async (primary: Entity, secondary: Entity) =>
      (await own.client.entities.mergeEntities({ primary: byId(primary), secondary: byId(secondary), reason: REASON }))
        .mergeId;
    const [first, apart, second] = [await join(b, a), await join(x, y), await join(c, b)];
    await own.client.entities.unmergeEntities({ mergeId: second, reason: "two persons after all" });
    const list = async (lookup?: ReturnType<typeof byId>) => {
      const merges = [];
      let pageToken = "";
      do {
        const page = await own.client.entities.listMerges({ ...(lookup && { lookup }), pageSize: 1, pageToken });
        merges.push(...page.merges);
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      return merges;
    };
    expect((await list()).map(({ id }) => id)).toEqual([second, apart, first]);
    // What was ever merged into it, and what it was merged into.
    expect((await list(byId(c))).map(({ id }) => id)).toEqual([second, first]);
    expect((await list(byId(a))).map(({ id }) => id)).toEqual([second, first]);
    expect((await list(byId(x))).map(({ id }) => id)).toEqual([apart]);
    expect((await list())[0]).toMatchObject({
      ...{
        primaryId: c.id,
        secondaryId: b.id,
        reason: REASON,
        actor: own.apiKeyId,
        principal: own.apiKeyId,
        source: "api",
      },
      ...{ undoneReason: "two persons after all", undoneActor: own.apiKeyId, undonePrincipal: own.apiKeyId },
    });
  });
});
