// Rules 44 to 59: ChangeExternalId, AssignExternalId, AddExternalIds.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Designation, type Entity, EntityStatus, EventType } from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId, current, eventsOf, lastEventOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestOrganization, type TestService } from "./harness.ts";

let service: TestService;
let immutable: TestOrganization;
beforeAll(async () => {
  service = await startService();
  immutable = await service.newOrganization("IMMUTABLE");
});
afterAll(() => service[Symbol.asyncDispose]());

const REASON = "CRM migration";
const PRIMARY = Designation.PRIMARY;
const change = (request: Parameters<typeof service.client.entities.changeExternalId>[0]) =>
  service.client.entities.changeExternalId(request);
const ids = (entity: Entity | undefined) => entity?.externalIds.map((id) => id.externalId);
const primaries = (entity: Entity | undefined) =>
  entity?.externalIds.filter((id) => id.designation === PRIMARY).map((id) => id.externalId);

/** A refused call leaves the entity, its events and its etag unchanged. */
async function unchangedAfter(entity: Entity, call: Promise<unknown>) {
  const refused = await refusal(call);
  expect(await current(service.client, entity)).toEqual(entity);
  expect((await lastEventOf(service.client, entity)).recordedAt).toEqual(entity.updatedAt);
  return refused;
}

describe("ChangeExternalId", () => {
  it("rules 44, 47: gives the entity a trimmed new primary and says so", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    const next = unique("new");
    const answer = await change({ lookup: byId(person), newExternalId: ` \t${next}\n`, reason: REASON });
    expect(answer).toMatchObject({ success: true, changed: true });
    expect(answer.entity).toMatchObject({ id: person.id, externalId: next });
    expect(ids(answer.entity)).toEqual([next]);
    expect(primaries(answer.entity)).toEqual([next]);
    expect(answer.entity).toEqual(await current(service.client, person));
    expect(answer.entity?.etag).not.toBe(person.etag);
    expect(answer.entity?.createdAt).toEqual(person.createdAt);
  });

  it.each(["", " ", "\t\n", "\u00a0"])(
    "rule 44: the blank new external id %j is VALIDATION_ERROR",
    async (newExternalId) => {
      const person = await newPerson(service.client, { externalId: unique("old") });
      const refused = await unchangedAfter(person, change({ lookup: byId(person), newExternalId, reason: REASON }));
      expect(refused).toMatchObject({ code: 3, reason: "VALIDATION_ERROR", fields: ["new_external_id"] });
    },
  );

  it("rule 44: keeps interior blanks, and finds the entity by them exactly", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    const next = `${unique("with")}  two blanks`;
    const { entity } = await change({ lookup: byId(person), newExternalId: next, reason: REASON });
    expect(entity?.externalId).toBe(next);
    const found = await service.client.entities.getEntity({ lookup: byExternalId(` ${next} `) });
    expect(found.entity?.id).toBe(person.id);
    const single = service.client.entities.getEntity({ lookup: byExternalId(next.replace("  ", " ")) });
    expect(await refusal(single)).toMatchObject({ reason: "NOT_FOUND" });
  });

  it("rule 44: 255 code points are an external id, 256 are not", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    const longest = "\u{1f600}".repeat(255);
    const tooLong = change({ lookup: byId(person), newExternalId: `${longest}a`, reason: REASON });
    expect(await unchangedAfter(person, tooLong)).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["new_external_id"],
    });
    const { entity } = await change({ lookup: byId(person), newExternalId: ` ${longest} `, reason: REASON });
    expect(entity?.externalId).toBe(longest);
  });

  it("rule 44: control characters are refused", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    for (const newExternalId of ["a\u0000b", "a\nb", "a\u0007b", "a\u200bb"]) {
      const refused = await refusal(change({ lookup: byId(person), newExternalId, reason: REASON }));
      expect(refused).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["new_external_id"] });
    }
  });

  it.each(["", "    ", "four", "  four  ", "éééé", "\u{1f600}\u{1f600}\u{1f600}\u{1f600}"])(
    "rule 45: the reason %j has less than 5 code points: refused, no-op or not",
    async (reason) => {
      const person = await newPerson(service.client, { externalId: unique("old") });
      for (const newExternalId of [unique("new"), person.externalId]) {
        const refused = await unchangedAfter(person, change({ lookup: byId(person), newExternalId, reason }));
        expect(refused).toMatchObject({ code: 3, reason: "VALIDATION_ERROR", fields: ["reason"] });
      }
    },
  );

  it.each([
    "fives",
    "ééééé",
    "\u{1f600}".repeat(5),
    "r".repeat(4000),
    "\u{1f600}".repeat(4000),
    ` ${"r".repeat(4000)}\n`,
  ])("rule 45: a reason of 5 to 4000 code points after trimming is stored trimmed", async (reason) => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    await change({ lookup: byId(person), newExternalId: unique("new"), reason: `  ${reason} ` });
    const event = await lastEventOf(service.client, person);
    expect(event.reason).toBe(reason.trim());
    expect(event.metadata).toMatchObject({ externalIdChangeReason: reason.trim() });
  });

  it("rule 45: 4001 code points are too many, in a no-op too", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    const refused = await refusal(
      change({ lookup: byId(person), newExternalId: person.externalId, reason: "r".repeat(4001) }),
    );
    expect(refused).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["reason"] });
  });

  it("rules 13, 45: a bad reason with an unknown entity is VALIDATION_ERROR, and names every field at fault", async () => {
    const call = change({ lookup: byExternalId(unique("nobody")), newExternalId: " ", reason: "no" });
    expect(await refusal(call)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["new_external_id", "reason"] });
  });

  it("rule 46: the current primary is a no-op: success, not changed, nothing written", async () => {
    const person = await newPerson(service.client, { externalId: unique("same") });
    const answer = await change({ lookup: byId(person), newExternalId: `  ${person.externalId}\t`, reason: REASON });
    expect(answer).toMatchObject({ success: true, changed: false });
    expect(answer.entity).toEqual(person);
    expect(await current(service.client, person)).toEqual(person);
    expect(await eventsOf(service.client, person)).toHaveLength(1);
  });

  it("rule 46: the no-op frees no alias, with keep_previous_as_alias or without", async () => {
    const person = await newPerson(service.client, { externalId: unique("a") });
    const { entity } = await change({
      lookup: byId(person),
      newExternalId: unique("b"),
      reason: REASON,
      keepPreviousAsAlias: true,
    });
    for (const keepPreviousAsAlias of [true, false]) {
      const answer = await change({
        lookup: byId(person),
        newExternalId: entity?.externalId ?? "",
        reason: REASON,
        keepPreviousAsAlias,
      });
      expect(answer.changed).toBe(false);
      expect(answer.entity).toEqual(entity);
    }
  });

  it("rule 47: an id of another entity, primary or alias, is DUPLICATE_EXTERNAL_ID", async () => {
    const [a, b] = [unique("a"), unique("b")];
    const other = await newPerson(service.client, { externalId: a });
    await change({ lookup: byId(other), newExternalId: b, reason: REASON, keepPreviousAsAlias: true });
    const person = await newPerson(service.client, { externalId: unique("mine") });
    for (const taken of [a, b, ` ${a} `]) {
      const refused = await unchangedAfter(
        person,
        change({ lookup: byId(person), newExternalId: taken, reason: REASON }),
      );
      expect(refused).toMatchObject({
        code: 6,
        reason: "DUPLICATE_EXTERNAL_ID",
        metadata: { field: "new_external_id" },
      });
      expect(refused.message).not.toContain(a);
    }
  });

  it("rules 47, 77: the id of a deleted entity stays taken", async () => {
    const gone = await newPerson(service.client, { externalId: unique("gone") });
    await service.client.entities.deleteEntity({ lookup: byId(gone), reason: "no longer a customer" });
    const person = await newPerson(service.client, { externalId: unique("mine") });
    const refused = await unchangedAfter(
      person,
      change({ lookup: byId(person), newExternalId: gone.externalId, reason: REASON }),
    );
    expect(refused).toMatchObject({ reason: "DUPLICATE_EXTERNAL_ID" });
  });

  it("rules 2, 47: the same id in another organization is no duplicate", async () => {
    const other = await service.newOrganization();
    const there = await newPerson(other.client, { externalId: unique("shared") });
    const person = await newPerson(service.client, { externalId: unique("mine") });
    const answer = await change({ lookup: byId(person), newExternalId: there.externalId, reason: REASON });
    expect(answer.changed).toBe(true);
    expect(await current(other.client, there)).toEqual(there);
  });

  it("rule 47: ids that differ in case or accents are different ids", async () => {
    const id = unique("Straße-É");
    await newPerson(service.client, { externalId: id });
    const person = await newPerson(service.client, { externalId: unique("mine") });
    for (const near of [id.toLowerCase(), id.toUpperCase(), id.normalize("NFD")]) {
      const answer = await change({ lookup: byId(person), newExternalId: near, reason: REASON });
      expect(answer.entity?.externalId).toBe(near);
    }
  });

  it("rule 47: the entity's own alias becomes the primary, with its label, and the old primary is freed", async () => {
    const [a, b] = [unique("a"), unique("b")];
    const person = await newPerson(service.client, { externalId: a });
    await service.client.entities.addExternalIds({
      lookup: byId(person),
      externalIds: [{ externalId: b, type: "cif" }],
    });
    const answer = await change({ lookup: byId(person), newExternalId: b, reason: REASON });
    expect(answer.changed).toBe(true);
    expect(answer.entity?.externalIds).toMatchObject([{ externalId: b, type: "cif", designation: PRIMARY }]);
    expect(await refusal(service.client.entities.getEntity({ lookup: byExternalId(a) }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    const taker = await newPerson(service.client, { externalId: a });
    expect(taker.externalId).toBe(a);
  });

  it("rule 47: the own alias with keep_previous_as_alias swaps the two", async () => {
    const [a, b] = [unique("a"), unique("b")];
    const person = await newPerson(service.client, { externalId: a });
    await change({ lookup: byId(person), newExternalId: b, reason: REASON, keepPreviousAsAlias: true });
    const answer = await change({ lookup: byId(person), newExternalId: a, reason: REASON, keepPreviousAsAlias: true });
    expect(ids(answer.entity)).toEqual([a, b]);
    expect(primaries(answer.entity)).toEqual([a]);
  });

  it("rule 48: the old id is freed: nobody has it, and another entity may take it", async () => {
    const old = unique("old");
    const person = await newPerson(service.client, { externalId: old });
    await change({ lookup: byExternalId(old), newExternalId: unique("new"), reason: REASON });
    expect(await refusal(service.client.entities.getEntity({ lookup: byExternalId(old) }))).toMatchObject({
      reason: "NOT_FOUND",
    });
    const taker = await newPerson(service.client, { externalId: old });
    const found = await service.client.entities.getEntity({ lookup: byExternalId(old) });
    expect(found.entity?.id).toBe(taker.id);
    const back = change({ lookup: byId(person), newExternalId: old, reason: REASON });
    expect(await refusal(back)).toMatchObject({ reason: "DUPLICATE_EXTERNAL_ID" });
  });

  it("rule 48: a freed id may come back to its entity", async () => {
    const old = unique("old");
    const person = await newPerson(service.client, { externalId: old });
    await change({ lookup: byId(person), newExternalId: unique("new"), reason: REASON });
    const { entity } = await change({ lookup: byId(person), newExternalId: old, reason: REASON });
    expect(ids(entity)).toEqual([old]);
  });

  it("rule 48: with keep_previous_as_alias the old id keeps resolving, for reads and for writes", async () => {
    const old = unique("old");
    const person = await newPerson(service.client, { externalId: old });
    const next = unique("new");
    const { entity } = await change({
      lookup: byId(person),
      newExternalId: next,
      reason: REASON,
      keepPreviousAsAlias: true,
    });
    expect(ids(entity)).toEqual([next, old]);
    expect((await service.client.entities.getEntity({ lookup: byExternalId(old) })).entity).toEqual(entity);
    const updated = await service.client.entities.updateEntity({
      lookup: byExternalId(old),
      entity: { name: "By alias" },
    });
    expect(updated.entity).toMatchObject({ id: person.id, name: "By alias", externalId: next });
  });

  it("rule 48: other aliases stay when the primary is freed", async () => {
    const [a, b, c] = [unique("a"), unique("b"), unique("c")];
    const person = await newPerson(service.client, { externalId: a });
    await service.client.entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId: b }] });
    const { entity } = await change({ lookup: byExternalId(b), newExternalId: c, reason: REASON });
    expect(ids(entity)).toEqual([c, b]);
  });

  it("rule 49: an entity without external id gets its first one", async () => {
    const person = await newPerson(service.client);
    const next = unique("first");
    const answer = await change({ lookup: byId(person), newExternalId: next, reason: REASON });
    expect(answer).toMatchObject({ changed: true, entity: { externalId: next } });
    const event = await lastEventOf(service.client, person);
    expect(event.previousValues).toEqual({});
    expect(event.newValues).toMatchObject({ externalId: next });
  });

  it("rule 51: the event has before, after, actor, principal, source, reason and the metadata of the source", async () => {
    const client = await service.organization.clientWith(["external_ids:change"], {
      actorId: "user-7",
      source: "dashboard",
    });
    const old = unique("old");
    const person = await newPerson(service.client, { externalId: old });
    const next = unique("new");
    const occurredAt = { seconds: 1_700_000_000n, nanos: 123_456_000 };
    const { entity } = await client.entities.changeExternalId({
      lookup: byExternalId(old),
      newExternalId: next,
      reason: ` ${REASON} `,
      occurredAt,
    });
    const event = await lastEventOf(service.client, person);
    const attached = (id: Entity | undefined) => id?.externalIds[0]?.attachedAt;
    expect(attached(entity)).toEqual(entity?.updatedAt);
    expect(event).toMatchObject({
      type: EventType.EXTERNAL_ID_CHANGED,
      event: "entity.updated",
      entityId: person.id,
      entityVersion: 2n,
      externalId: next,
      externalIds: [next],
      updatedFields: ["externalId", "externalIds"],
      actor: "user-7",
      source: "change_external_id_endpoint",
      reason: REASON,
      recordedAt: entity?.updatedAt,
      occurredAt,
    });
    expect(event.previousValues).toMatchObject({
      externalId: old,
      externalIds: [{ externalId: old, designation: "primary" }],
    });
    expect(event.newValues).toMatchObject({
      externalId: next,
      externalIds: [{ externalId: next, designation: "primary" }],
    });
    expect(Object.keys(event.newValues ?? {}).sort()).toEqual(["externalId", "externalIds"]);
    expect(event.metadata).toEqual({
      externalIdChangeReason: REASON,
      source: "change_external_id_endpoint",
      rewrittenRows: { transactions: 0, userEvents: 0 },
    });
    expect(event.principal).not.toBe(service.organization.apiKeyId);
    expect(event.principal).toMatch(/^[0-9a-f-]{36}$/);
  });

  it("seed: the three lookups of the source's examples work alike", async () => {
    const [external, tax] = [unique("legacy_key_001"), "20-12345678-9"];
    const person = await newPerson(service.client, { externalId: external, taxId: tax, countryCode: "AR" });
    const lookups = [byId(person), byExternalId(external), byTaxId(" 20 12345678/9 ")];
    for (const [i, lookup] of lookups.entries()) {
      const answer = await change({
        lookup,
        newExternalId: `${external}-${i}`,
        reason: REASON,
        keepPreviousAsAlias: true,
      });
      expect(answer.entity).toMatchObject({ id: person.id, externalId: `${external}-${i}` });
    }
  });

  it("rule 10: an ambiguous tax id names the candidates and writes nothing", async () => {
    const taxId = unique("tax");
    const one = await newPerson(service.client, { externalId: unique("one"), taxId });
    const two = await newPerson(service.client, { externalId: unique("two"), taxId: taxId.toUpperCase() });
    const refused = await unchangedAfter(
      one,
      change({ lookup: byTaxId(taxId), newExternalId: unique("new"), reason: REASON }),
    );
    expect(refused).toMatchObject({ code: 9, reason: "AMBIGUOUS_TAX_ID_LOOKUP" });
    expect(refused.metadata.candidates?.split(",").sort()).toEqual([one.id, two.id].sort());
  });

  it("rule 10: one tax id asked for twice in a call is not ambiguous", async () => {
    const person = await newPerson(service.client, { taxId: unique("t") });
    const lookups = [byTaxId(person.taxId ?? ""), byTaxId(` ${person.taxId}`), byId(person)];
    const { results } = await service.client.entities.batchGetEntities({ lookups });
    expect(results.map(({ result }) => result.case)).toEqual(["entity", "entity", "entity"]);
  });

  it("rule 35: a stale etag is ETAG_MISMATCH with the current one; the current one is taken", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    const updated = await service.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Newer" } });
    const stale = change({ lookup: byId(person), newExternalId: unique("new"), reason: REASON, etag: person.etag });
    expect(await refusal(stale)).toMatchObject({
      code: 10,
      reason: "ETAG_MISMATCH",
      metadata: { etag: updated.entity?.etag },
    });
    const answer = await change({
      lookup: byId(person),
      newExternalId: unique("new"),
      reason: REASON,
      etag: updated.entity?.etag ?? "",
    });
    expect(answer.changed).toBe(true);
  });

  it("rule 13: etag comes before the rule and before uniqueness, the rule before uniqueness", async () => {
    const taken = await newPerson(immutable.client, { externalId: unique("taken") });
    const person = await newPerson(immutable.client, { externalId: unique("mine") });
    const request = { lookup: byId(person), newExternalId: taken.externalId, reason: REASON };
    expect(await refusal(immutable.client.entities.changeExternalId({ ...request, etag: "stale" }))).toMatchObject({
      reason: "ETAG_MISMATCH",
    });
    expect(await refusal(immutable.client.entities.changeExternalId(request))).toMatchObject({
      reason: "EXTERNAL_ID_IMMUTABLE",
    });
    expect(
      await refusal(immutable.client.entities.changeExternalId({ ...request, keepPreviousAsAlias: true })),
    ).toMatchObject({
      reason: "DUPLICATE_EXTERNAL_ID",
    });
  });

  it("rule 38: validate_only answers what would be and writes nothing, and refuses what would be refused", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    const next = unique("new");
    const answer = await change({ lookup: byId(person), newExternalId: next, reason: REASON, validateOnly: true });
    expect(answer).toMatchObject({ success: true, changed: true, entity: { externalId: next } });
    expect(await current(service.client, person)).toEqual(person);
    expect(await eventsOf(service.client, person)).toHaveLength(1);
    const taken = await newPerson(service.client, { externalId: next });
    const refused = change({
      lookup: byId(person),
      newExternalId: taken.externalId,
      reason: REASON,
      validateOnly: true,
    });
    expect(await refusal(refused)).toMatchObject({ reason: "DUPLICATE_EXTERNAL_ID" });
  });

  it("rule 77: a deleted entity is ENTITY_DELETED for all three RPCs", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    await service.client.entities.deleteEntity({ lookup: byId(person), reason: "no longer a customer" });
    const lookup = byId(person);
    const calls = [
      () => change({ lookup, newExternalId: unique("new"), reason: REASON }),
      () => service.client.entities.assignExternalId({ lookup, externalId: unique("new") }),
      () => service.client.entities.addExternalIds({ lookup, externalIds: [{ externalId: unique("new") }] }),
    ];
    for (const call of calls) expect(await refusal(call())).toMatchObject({ code: 9, reason: "ENTITY_DELETED" });
    expect(await eventsOf(service.client, person)).toHaveLength(2);
  });

  it("rule 23: an update and an upsert write no external id, and say that they ignored it", async () => {
    const person = await newPerson(service.client, { externalId: unique("mine") });
    const answer = await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { externalId: unique("other"), name: "New name" },
    });
    expect(answer).toMatchObject({ updatedFields: ["name"], ignoredFields: ["external_id"] });
    expect(answer.entity?.externalIds).toEqual(person.externalIds);
    expect((await lastEventOf(service.client, person)).updatedFields).toEqual(["name"]);
  });
});

describe("an organization of the policy IMMUTABLE", () => {
  it("rule 53: refuses to free an id, and says what is allowed", async () => {
    const person = await newPerson(immutable.client, { externalId: unique("old") });
    const call = immutable.client.entities.changeExternalId({
      lookup: byId(person),
      newExternalId: unique("new"),
      reason: REASON,
    });
    const refused = await refusal(call);
    expect(refused).toMatchObject({ code: 9, reason: "EXTERNAL_ID_IMMUTABLE" });
    expect(refused.metadata.allowed).toContain("keep_previous_as_alias");
    expect(await current(immutable.client, person)).toEqual(person);
  });

  it("rule 53: moves the primary with keep_previous_as_alias and by AddExternalIds", async () => {
    const [a, b, c] = [unique("a"), unique("b"), unique("c")];
    const person = await newPerson(immutable.client, { externalId: a });
    const first = await immutable.client.entities.changeExternalId({
      lookup: byId(person),
      newExternalId: b,
      reason: REASON,
      keepPreviousAsAlias: true,
    });
    expect(ids(first.entity)).toEqual([b, a]);
    const second = await immutable.client.entities.addExternalIds({
      lookup: byId(person),
      externalIds: [{ externalId: c, designation: PRIMARY }],
    });
    expect(ids(second.entity)?.[0]).toBe(c);
    expect(ids(second.entity)?.sort()).toEqual([a, b, c].sort());
  });

  it("rule 53: refuses to free the primary even where the new one is an own alias", async () => {
    const [a, b] = [unique("a"), unique("b")];
    const person = await newPerson(immutable.client, { externalId: a });
    await immutable.client.entities.addExternalIds({ lookup: byId(person), externalIds: [{ externalId: b }] });
    const call = immutable.client.entities.changeExternalId({ lookup: byId(person), newExternalId: b, reason: REASON });
    expect(await refusal(call)).toMatchObject({ reason: "EXTERNAL_ID_IMMUTABLE" });
  });

  it("rules 46, 53: the current primary is a no-op, and a first id frees nothing", async () => {
    const person = await newPerson(immutable.client, { externalId: unique("same") });
    const same = await immutable.client.entities.changeExternalId({
      lookup: byId(person),
      newExternalId: person.externalId,
      reason: REASON,
    });
    expect(same).toMatchObject({ success: true, changed: false });
    const bare = await newPerson(immutable.client);
    const first = await immutable.client.entities.changeExternalId({
      lookup: byId(bare),
      newExternalId: unique("first"),
      reason: REASON,
    });
    expect(first.changed).toBe(true);
  });

  it("rule 53: the policy is that of the moment: an organization that becomes IMMUTABLE refuses from then on", async () => {
    const organization = await service.newOrganization();
    const person = await newPerson(organization.client, { externalId: unique("old") });
    const request = () => ({ lookup: byId(person), newExternalId: unique("new"), reason: REASON });
    expect((await organization.client.entities.changeExternalId(request())).changed).toBe(true);
    await organization.client.organizations.updateOrganization({ organization: { externalIdPolicy: 2 } });
    expect(await refusal(organization.client.entities.changeExternalId(request()))).toMatchObject({
      reason: "EXTERNAL_ID_IMMUTABLE",
    });
    await organization.client.organizations.updateOrganization({ organization: { externalIdPolicy: 1 } });
    expect((await organization.client.entities.changeExternalId(request())).changed).toBe(true);
  });
});

describe("AssignExternalId", () => {
  const assign = (request: Parameters<typeof service.client.entities.assignExternalId>[0]) =>
    service.client.entities.assignExternalId(request);

  it("rule 54: gives an entity that has none its external id, trimmed, and audits it", async () => {
    const person = await newPerson(service.client, { taxId: unique("t") });
    const value = unique("first");
    const answer = await assign({
      lookup: byTaxId(person.taxId ?? ""),
      externalId: ` ${value} `,
      reason: " onboarding ",
    });
    expect(answer).toMatchObject({ changed: true, entity: { externalId: value } });
    expect(primaries(answer.entity)).toEqual([value]);
    const event = await lastEventOf(service.client, person);
    expect(event).toMatchObject({
      type: EventType.EXTERNAL_ID_CHANGED,
      event: "entity.updated",
      source: "api",
      reason: "onboarding",
      externalId: value,
      updatedFields: ["externalId", "externalIds"],
      previousValues: {},
      newValues: { externalId: value },
    });
    expect((await service.client.entities.getEntity({ lookup: byExternalId(value) })).entity).toEqual(answer.entity);
  });

  it("rule 54: needs no reason", async () => {
    const person = await newPerson(service.client);
    expect((await assign({ lookup: byId(person), externalId: unique("first") })).changed).toBe(true);
    expect((await lastEventOf(service.client, person)).reason).toBe("");
  });

  it("rule 54: the same value again is a no-op", async () => {
    const person = await newPerson(service.client, { externalId: unique("x") });
    const answer = await assign({
      lookup: byExternalId(person.externalId),
      externalId: ` ${person.externalId}`,
      reason: "again",
    });
    expect(answer.changed).toBe(false);
    expect(answer.entity).toEqual(person);
    expect(await eventsOf(service.client, person)).toHaveLength(1);
  });

  it("rule 54: a different value is EXTERNAL_ID_ALREADY_ASSIGNED, free or taken, and writes nothing", async () => {
    const other = await newPerson(service.client, { externalId: unique("other") });
    const person = await newPerson(service.client, { externalId: unique("x") });
    for (const externalId of [unique("free"), other.externalId]) {
      const refused = await unchangedAfter(person, assign({ lookup: byId(person), externalId }));
      expect(refused).toMatchObject({ code: 9, reason: "EXTERNAL_ID_ALREADY_ASSIGNED" });
      expect(refused.metadata.allowed).toMatch(/ChangeExternalId/);
    }
  });

  it("rules 47, 54: one of another entity is DUPLICATE_EXTERNAL_ID", async () => {
    const other = await newPerson(service.client, { externalId: unique("other") });
    const person = await newPerson(service.client);
    const refused = await unchangedAfter(person, assign({ lookup: byId(person), externalId: other.externalId }));
    expect(refused).toMatchObject({ code: 6, reason: "DUPLICATE_EXTERNAL_ID", metadata: { field: "external_id" } });
  });

  it.each(["", "  ", "x".repeat(256), "a\u0000b"])("rules 44, 54: %j is VALIDATION_ERROR", async (externalId) => {
    const person = await newPerson(service.client);
    expect(await unchangedAfter(person, assign({ lookup: byId(person), externalId }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["external_id"],
    });
  });

  it("rules 38, 54: validate_only assigns nothing", async () => {
    const person = await newPerson(service.client);
    const value = unique("first");
    const answer = await assign({ lookup: byId(person), externalId: value, validateOnly: true });
    expect(answer).toMatchObject({ changed: true, entity: { externalId: value } });
    expect(await current(service.client, person)).toEqual(person);
    expect((await newPerson(service.client, { externalId: value })).externalId).toBe(value);
  });
});

describe("AddExternalIds", () => {
  const add = (request: Parameters<typeof service.client.entities.addExternalIds>[0]) =>
    service.client.entities.addExternalIds(request);

  it("rules 55, 56: adds a list; the primary stays and the rest are aliases, in the order of the time attached", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const [z, a] = [unique("z"), unique("a")];
    await add({ lookup: byId(person), externalIds: [{ externalId: ` ${z} ` }] });
    const { entity, changed } = await add({ lookup: byId(person), externalIds: [{ externalId: a }] });
    expect(changed).toBe(true);
    expect(ids(entity)).toEqual([person.externalId, z, a]);
    expect(primaries(entity)).toEqual([person.externalId]);
    expect(entity?.externalId).toBe(person.externalId);
    for (const id of [z, a]) {
      expect((await service.client.entities.getEntity({ lookup: byExternalId(id) })).entity).toEqual(entity);
    }
    const times = (entity?.externalIds ?? []).map(
      ({ attachedAt }) => (attachedAt?.seconds ?? 0n) * 1_000_000_000n + BigInt(attachedAt?.nanos ?? 0),
    );
    expect(times).toEqual(times.toSorted((x, y) => (x < y ? -1 : 1)));
    expect(new Set(times).size).toBe(3);
  });

  it("rule 55: never removes what is not listed", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const [a, b] = [unique("a"), unique("b")];
    await add({ lookup: byId(person), externalIds: [{ externalId: a }] });
    const { entity } = await add({ lookup: byId(person), externalIds: [{ externalId: b }] });
    expect(ids(entity)).toEqual([person.externalId, a, b]);
  });

  it("rules 33, 55: re-listing own ids changes nothing and writes no event", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const a = unique("a");
    const { entity } = await add({ lookup: byId(person), externalIds: [{ externalId: a, type: "cif" }] });
    const again = await add({
      lookup: byId(person),
      externalIds: [{ externalId: a }, { externalId: ` ${person.externalId} ` }],
      reason: "once more",
    });
    expect(again.changed).toBe(false);
    expect(again.entity).toEqual(entity);
    const designated = await add({
      lookup: byId(person),
      externalIds: [{ externalId: person.externalId, designation: PRIMARY }],
    });
    expect(designated.changed).toBe(false);
    expect(await eventsOf(service.client, person)).toHaveLength(2);
  });

  it("rule 55: own ids beside new ones are fine, and keep their time", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const a = unique("a");
    const { entity } = await add({
      lookup: byId(person),
      externalIds: [{ externalId: a }, { externalId: person.externalId }],
    });
    expect(ids(entity)).toEqual([person.externalId, a]);
    expect(entity?.externalIds[0]?.attachedAt).toEqual(person.externalIds[0]?.attachedAt);
  });

  it("rule 55: the same value twice in one list, trimmed, is VALIDATION_ERROR", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const a = unique("a");
    const call = add({
      lookup: byId(person),
      externalIds: [{ externalId: a }, { externalId: unique("b") }, { externalId: ` ${a}` }],
    });
    expect(await unchangedAfter(person, call)).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["external_ids[2].external_id"],
    });
    const own = add({
      lookup: byId(person),
      externalIds: [{ externalId: person.externalId }, { externalId: person.externalId }],
    });
    expect(await unchangedAfter(person, own)).toMatchObject({ reason: "VALIDATION_ERROR" });
  });

  it("rule 55: one of another entity, primary or alias, refuses the whole list and says which", async () => {
    const alias = unique("alias");
    const other = await newPerson(service.client, { externalId: unique("other") });
    await add({ lookup: byId(other), externalIds: [{ externalId: alias }] });
    const person = await newPerson(service.client, { externalId: unique("m") });
    const free = unique("free");
    for (const taken of [alias, other.externalId]) {
      const call = add({
        lookup: byId(person),
        externalIds: [{ externalId: free }, { externalId: person.externalId }, { externalId: taken }],
      });
      expect(await unchangedAfter(person, call)).toMatchObject({
        code: 6,
        reason: "DUPLICATE_EXTERNAL_ID",
        metadata: { index: "2", field: "external_ids[2].external_id" },
      });
    }
    expect(await refusal(service.client.entities.getEntity({ lookup: byExternalId(free) }))).toMatchObject({
      reason: "NOT_FOUND",
    });
  });

  it("rule 55: an empty list, a blank item and a list over 100 are VALIDATION_ERROR", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const empty = add({ lookup: byId(person), externalIds: [] });
    expect(await unchangedAfter(person, empty)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["external_ids"] });
    const blank = add({ lookup: byId(person), externalIds: [{ externalId: unique("a") }, { externalId: "  " }] });
    expect(await unchangedAfter(person, blank)).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["external_ids[1].external_id"],
    });
    const long = add({
      lookup: byId(person),
      externalIds: Array.from({ length: 101 }, (_, i) => ({ externalId: unique(`n${i}`) })),
    });
    expect(await unchangedAfter(person, long)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["external_ids"] });
  });

  it("rule 56: two designated PRIMARY are VALIDATION_ERROR", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const call = add({
      lookup: byId(person),
      externalIds: [
        { externalId: unique("a"), designation: PRIMARY },
        { externalId: unique("b"), designation: PRIMARY },
      ],
    });
    expect(await unchangedAfter(person, call)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["external_ids"] });
  });

  it("rule 56: without any id before, the first item becomes the primary when none is designated", async () => {
    const person = await newPerson(service.client);
    const [z, a] = [unique("z"), unique("a")];
    const { entity } = await add({ lookup: byId(person), externalIds: [{ externalId: z }, { externalId: a }] });
    expect(entity?.externalId).toBe(z);
    expect(primaries(entity)).toEqual([z]);
    expect(ids(entity)).toEqual([z, a]);
  });

  it("rule 56: another one designated becomes the primary and the old one stays attached", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const a = unique("a");
    const { entity } = await add({ lookup: byId(person), externalIds: [{ externalId: a, designation: PRIMARY }] });
    expect(ids(entity)).toEqual([a, person.externalId]);
    expect(primaries(entity)).toEqual([a]);
    expect((await service.client.entities.getEntity({ lookup: byExternalId(person.externalId) })).entity).toEqual(
      entity,
    );
    const event = await lastEventOf(service.client, person);
    expect(event).toMatchObject({
      type: EventType.EXTERNAL_ID_CHANGED,
      externalId: a,
      externalIds: [a, person.externalId],
      updatedFields: ["externalId", "externalIds"],
      previousValues: { externalId: person.externalId },
      newValues: { externalId: a },
      source: "api",
    });
  });

  it("rules 56, 60: adding an alias is an event of externalIds alone", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const a = unique("a");
    await add({ lookup: byId(person), externalIds: [{ externalId: a, type: "cif" }], reason: " second system " });
    const event = await lastEventOf(service.client, person);
    expect(event).toMatchObject({
      updatedFields: ["externalIds"],
      reason: "second system",
      externalIds: [person.externalId, a],
    });
    expect(event.previousValues).toMatchObject({
      externalIds: [{ externalId: person.externalId, designation: "primary" }],
    });
    expect(event.newValues).toMatchObject({
      externalIds: [
        { externalId: person.externalId, designation: "primary" },
        { externalId: a, type: "cif" },
      ],
    });
  });

  it("rule 56: the database itself refuses a second primary of an entity", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const a = unique("a");
    await add({ lookup: byId(person), externalIds: [{ externalId: a }] });
    const second = service.sql("update external_id set is_primary = true where external_id = $1", [a]);
    await expect(second).rejects.toMatchObject({ code: "23505", constraint: "external_id_one_primary" });
  });

  it("rule 16: the database itself refuses one external id for two entities, and lets an entity's copy not drift", async () => {
    const one = await newPerson(service.client, { externalId: unique("one") });
    const two = await newPerson(service.client, { externalId: unique("two") });
    const steal = service.sql(
      "insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at) values ($1, $2, $3, false, now())",
      [service.organization.id, one.externalId, two.id],
    );
    await expect(steal).rejects.toMatchObject({ code: "23505" });
    const drift = service.sql("update entity set external_id = $1 where id = $2", [one.externalId, two.id]);
    await expect(drift).rejects.toMatchObject({ code: "23503" });
  });

  describe("the three examples of the source", () => {
    it("seed: by entity token, with a primary and another", async () => {
      const person = await newPerson(service.client);
      const [your, other] = [unique("yourExternalEntityId"), unique("yourOtherExternalEntityId")];
      const { entity } = await add({
        lookup: byId(person),
        externalIds: [{ externalId: your, designation: PRIMARY }, { externalId: other }],
      });
      expect(ids(entity)).toEqual([your, other]);
      expect(primaries(entity)).toEqual([your]);
    });

    it("seed: by external id, which is listed as the primary again", async () => {
      const [your, other] = [unique("yourExternalEntityId"), unique("yourOtherExternalEntityId")];
      await newPerson(service.client, { externalId: your });
      const { entity } = await add({
        lookup: byExternalId(your),
        externalIds: [{ externalId: your, designation: PRIMARY }, { externalId: other }],
      });
      expect(ids(entity)).toEqual([your, other]);
      expect(primaries(entity)).toEqual([your]);
    });

    it("rule 58, seed: by external id, which loses its rank in the same call", async () => {
      const [your, other] = [unique("yourExternalEntityId"), unique("yourOtherExternalEntityId")];
      const person = await newPerson(service.client, { externalId: your });
      const { entity, changed } = await add({
        lookup: byExternalId(your),
        externalIds: [{ externalId: your }, { externalId: other, designation: PRIMARY }],
      });
      expect(changed).toBe(true);
      expect(entity?.id).toBe(person.id);
      expect(ids(entity)).toEqual([other, your]);
      expect(primaries(entity)).toEqual([other]);
    });
  });

  it("rule 58: an alias as lookup may become the primary in the same call", async () => {
    const [a, b] = [unique("a"), unique("b")];
    const person = await newPerson(service.client, { externalId: a });
    await add({ lookup: byId(person), externalIds: [{ externalId: b }] });
    const { entity } = await add({ lookup: byExternalId(b), externalIds: [{ externalId: b, designation: PRIMARY }] });
    expect(ids(entity)).toEqual([b, a]);
  });

  it("rule 58: ChangeExternalId may name by the id that it frees", async () => {
    const [a, b] = [unique("a"), unique("b")];
    const person = await newPerson(service.client, { externalId: a });
    const { entity } = await change({ lookup: byExternalId(a), newExternalId: b, reason: REASON });
    expect(entity).toMatchObject({ id: person.id, externalId: b });
  });

  it("rule 59: labels are kept as sent and returned; a new label is a change, none leaves it", async () => {
    const [a, b] = [unique("a"), unique("b")];
    const person = await newPerson(service.client, { externalId: a });
    const first = await add({ lookup: byId(person), externalIds: [{ externalId: b, type: " CIF " }] });
    expect(first.entity?.externalIds[1]).toMatchObject({ externalId: b, type: " CIF " });
    const none = await add({ lookup: byId(person), externalIds: [{ externalId: b }] });
    expect(none.changed).toBe(false);
    const other = await add({
      lookup: byId(person),
      externalIds: [
        { externalId: b, type: "crm" },
        { externalId: a, type: "core" },
      ],
    });
    expect(other.changed).toBe(true);
    expect(other.entity?.externalIds).toMatchObject([
      { externalId: a, type: "core", designation: PRIMARY },
      { externalId: b, type: "crm" },
    ]);
    expect((await lastEventOf(service.client, person)).updatedFields).toEqual(["externalIds"]);
    expect(await current(service.client, person)).toEqual(other.entity);
  });

  it("rule 59: a label has at most 64 code points", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const tooLong = add({ lookup: byId(person), externalIds: [{ externalId: unique("a"), type: "t".repeat(65) }] });
    expect(await unchangedAfter(person, tooLong)).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["external_ids[0].type"],
    });
    const { entity } = await add({
      lookup: byId(person),
      externalIds: [{ externalId: unique("a"), type: "\u{1f600}".repeat(64) }],
    });
    expect(entity?.externalIds[1]?.type).toBe("\u{1f600}".repeat(64));
  });

  it("limit: an entity has at most 100, by AddExternalIds and by ChangeExternalId with keep_previous_as_alias", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const list = (count: number) => Array.from({ length: count }, () => ({ externalId: unique("n") }));
    const { entity } = await add({ lookup: byId(person), externalIds: list(98) });
    expect(entity?.externalIds).toHaveLength(99);
    expect(await refusal(add({ lookup: byId(person), externalIds: list(2) }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      metadata: { limit: "100" },
    });
    const full = await add({ lookup: byId(person), externalIds: list(1) });
    expect(full.entity?.externalIds).toHaveLength(100);
    const keep = change({
      lookup: byId(person),
      newExternalId: unique("new"),
      reason: REASON,
      keepPreviousAsAlias: true,
    });
    expect(await refusal(keep)).toMatchObject({ reason: "VALIDATION_ERROR" });
    const relisted = await add({
      lookup: byId(person),
      externalIds: (full.entity?.externalIds ?? []).map(({ externalId }) => ({ externalId })),
    });
    expect(relisted.changed).toBe(false);
    const freed = await change({ lookup: byId(person), newExternalId: unique("new"), reason: REASON });
    expect(freed.entity?.externalIds).toHaveLength(100);
    expect(new Set(ids(freed.entity)).size).toBe(100);
  });

  it("ordering: a read, a list and an answer show the external ids in one order, the primary first", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    await add({
      lookup: byId(person),
      externalIds: [{ externalId: unique("c") }, { externalId: unique("b") }, { externalId: unique("a") }],
    });
    const { entity } = await add({
      lookup: byId(person),
      externalIds: [{ externalId: unique("p"), designation: PRIMARY }],
    });
    expect(entity?.externalIds[0]?.designation).toBe(PRIMARY);
    expect(entity?.externalIds[1]?.externalId).toBe(person.externalId);
    expect((await current(service.client, person)).externalIds).toEqual(entity?.externalIds);
    const listed = await service.client.entities.listEntities({ externalIds: [person.externalId] });
    expect(listed.entities.map((item) => item.externalIds)).toEqual([entity?.externalIds]);
    expect((await lastEventOf(service.client, person)).externalIds).toEqual(ids(entity));
  });

  it("rule 38: validate_only adds nothing", async () => {
    const person = await newPerson(service.client, { externalId: unique("m") });
    const answer = await add({
      lookup: byId(person),
      externalIds: [{ externalId: unique("a"), designation: PRIMARY }],
      validateOnly: true,
    });
    expect(answer.changed).toBe(true);
    expect(await current(service.client, person)).toEqual(person);
    expect(await eventsOf(service.client, person)).toHaveLength(1);
  });

  it("rule 77: an entity that was deleted and came back has its ids as they were", async () => {
    const person = await newPerson(service.client, { externalId: unique("m"), status: EntityStatus.ACTIVE });
    const { entity } = await add({ lookup: byId(person), externalIds: [{ externalId: unique("a"), type: "cif" }] });
    await service.client.entities.deleteEntity({ lookup: byId(person), reason: "by mistake" });
    const back = await service.client.entities.undeleteEntity({
      lookup: byExternalId(person.externalId),
      reason: "it was a mistake",
    });
    expect(back.entity?.externalIds).toEqual(entity?.externalIds);
  });
});
