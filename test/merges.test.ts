// Rules 78 to 110: two records of one person are merged, found by the keys of both, and parted again.
import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Entity,
  type EntityClient,
  EntityStatus,
  EventType,
  LostExternalIdCause,
  type MergeEntitiesRequestSchema,
  MergeKept,
  type UnmergeEntitiesRequestSchema,
} from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId, newPerson, unique } from "./given.ts";
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

const find = (lookup: ReturnType<typeof byId | typeof byExternalId | typeof byTaxId>) =>
  client.entities.getEntity({ lookup });

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
