// Rules 40 to 43: the status of an entity and the reason for it.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EntityStatus, EntityType, ImportOutcome } from "../clients/typescript/index.ts";
import { byExternalId, byId, byTaxId, current, eventsOf, lastEventOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const { PENDING, UNDER_REVIEW, ACTIVE, INACTIVE, SUSPENDED, BLOCKED, REJECTED } = EntityStatus;
const RESTRICTED = [
  { status: BLOCKED, word: "blocked" },
  { status: SUSPENDED, word: "suspended" },
  { status: REJECTED, word: "rejected" },
];
const UNRESTRICTED = [
  { status: UNDER_REVIEW, word: "under_review" },
  { status: ACTIVE, word: "active" },
  { status: INACTIVE, word: "inactive" },
];

describe("a restricted status", () => {
  for (const { status, word } of RESTRICTED) {
    const needed = {
      code: 3,
      reason: "STATUS_REASON_REQUIRED",
      message: `Changing status to '${word}' requires a reason for audit purposes.`,
      metadata: { field: "reason", status: word },
      fields: ["reason"],
    };

    it(`rule 40: changing to ${word} without a reason is refused in the words of the source, and writes nothing`, async () => {
      const person = await newPerson(service.client);
      const call = service.client.entities.updateEntity({ lookup: byId(person), entity: { status } });
      expect(await refusal(call)).toMatchObject(needed);
      expect(await current(service.client, person)).toEqual(person);
      expect(await eventsOf(service.client, person)).toHaveLength(1);
    });

    it.each([" ", "\t\n", "\u00a0", "\ufeff "])(
      `rule 40: ${word} with the blank reason %j is refused`,
      async (reason) => {
        const person = await newPerson(service.client);
        const call = service.client.entities.updateEntity({ lookup: byId(person), entity: { status }, reason });
        expect(await refusal(call)).toMatchObject(needed);
      },
    );

    it(`rule 40: ${word} together with other fields needs the reason too, and refuses them all`, async () => {
      const person = await newPerson(service.client);
      const call = service.client.entities.updateEntity({
        lookup: byId(person),
        entity: { status, name: "Other", attributes: { a: 1 } },
      });
      expect(await refusal(call)).toMatchObject(needed);
      expect(await current(service.client, person)).toEqual(person);
    });

    it(`rule 40: ${word} by update_mask needs the reason too`, async () => {
      const person = await newPerson(service.client);
      const call = service.client.entities.updateEntity({
        lookup: byId(person),
        entity: { status },
        updateMask: { paths: ["status"] },
      });
      expect(await refusal(call)).toMatchObject(needed);
    });

    it(`rule 40: ${word} by external id and by tax id needs the reason too`, async () => {
      const person = await newPerson(service.client, { externalId: unique("x"), taxId: unique("t") });
      for (const lookup of [byExternalId(person.externalId), byTaxId(person.taxId ?? "")]) {
        expect(await refusal(service.client.entities.updateEntity({ lookup, entity: { status } }))).toMatchObject(
          needed,
        );
      }
    });

    it(`rules 15, 40: creating as ${word} needs the reason, and with one it is kept in the event`, async () => {
      expect(await refusal(newPerson(service.client, { status }))).toMatchObject(needed);
      const person = await newPerson(service.client, { status }, "  listed at birth ");
      expect(person.status).toBe(status);
      expect(await lastEventOf(service.client, person)).toMatchObject({
        reason: "listed at birth",
        newValues: { status: word },
      });
    });

    it(`rule 40: an upsert that creates as ${word} needs the reason`, async () => {
      const call = service.client.entities.updateEntity({
        lookup: byExternalId(unique("upsert")),
        entity: { type: EntityType.PERSON, name: "Ana", countryCode: "BR", status },
        allowMissing: true,
      });
      expect(await refusal(call)).toMatchObject(needed);
    });

    it(`rule 40: an imported row to ${word} needs the reason, for a new and for an old entity`, async () => {
      const old = await newPerson(service.client, { externalId: unique("row") });
      const row = (externalId: string, reason: string) => ({
        entity: { externalId, type: EntityType.PERSON, name: "Ana Souza", countryCode: "BR", status },
        reason,
      });
      const fresh = unique("row");
      async function* rows() {
        yield row(old.externalId, "");
        yield row(fresh, "");
        yield row(fresh, "given");
        yield row(old.externalId, "given");
      }
      const results = [];
      for await (const answer of service.client.entities.importEntities(rows())) results.push(...answer.results);
      expect(results.map((result) => result.outcome)).toEqual([
        ImportOutcome.FAILED,
        ImportOutcome.FAILED,
        ImportOutcome.CREATED,
        ImportOutcome.UPDATED,
      ]);
      expect(results[0]?.error?.message).toContain(needed.message);
    });

    it(`rule 40: validate_only of ${word} without a reason is refused`, async () => {
      const person = await newPerson(service.client);
      const call = service.client.entities.updateEntity({
        lookup: byId(person),
        entity: { status },
        validateOnly: true,
      });
      expect(await refusal(call)).toMatchObject(needed);
    });

    it(`rule 41: ${word} again is no change and needs no reason`, async () => {
      const person = await newPerson(service.client, { status }, "once");
      const answer = await service.client.entities.updateEntity({ lookup: byId(person), entity: { status } });
      expect(answer.entity).toEqual(person);
      expect(answer.updatedFields).toEqual([]);
      expect(await eventsOf(service.client, person)).toHaveLength(1);
    });

    it(`rule 41: ${word} sent again beside another change needs no reason and is no updated field`, async () => {
      const person = await newPerson(service.client, { status }, "once");
      const answer = await service.client.entities.updateEntity({
        lookup: byId(person),
        entity: { status, name: "New" },
      });
      expect(answer.updatedFields).toEqual(["name"]);
    });

    it.each(UNRESTRICTED)(`rule 41: leaving ${word} for $word needs no reason`, async (next) => {
      const person = await newPerson(service.client, { status }, "once");
      const answer = await service.client.entities.updateEntity({
        lookup: byId(person),
        entity: { status: next.status },
      });
      expect(answer.entity?.status).toBe(next.status);
    });

    it.each(RESTRICTED.filter((next) => next.status !== status))(
      `rule 41: from ${word} to $word needs a new reason`,
      async (next) => {
        const person = await newPerson(service.client, { status }, "once");
        const change = { lookup: byId(person), entity: { status: next.status } };
        expect(await refusal(service.client.entities.updateEntity(change))).toMatchObject({
          reason: "STATUS_REASON_REQUIRED",
          message: `Changing status to '${next.word}' requires a reason for audit purposes.`,
        });
        const answer = await service.client.entities.updateEntity({ ...change, reason: "again" });
        expect(answer.entity?.status).toBe(next.status);
      },
    );
  }
});

describe("the reason", () => {
  it("rule 40: may be one character long, and is stored trimmed", async () => {
    const person = await newPerson(service.client);
    await service.client.entities.updateEntity({ lookup: byId(person), entity: { status: BLOCKED }, reason: " x " });
    expect((await lastEventOf(service.client, person)).reason).toBe("x");
  });

  it.each(["a", "é", "\u{1f600}"])("rule 40: has at most 4000 code points, of %j", async (character) => {
    const person = await newPerson(service.client);
    const change = { lookup: byId(person), entity: { status: BLOCKED } };
    const tooLong = service.client.entities.updateEntity({ ...change, reason: character.repeat(4001) });
    expect(await refusal(tooLong)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["reason"] });
    await service.client.entities.updateEntity({ ...change, reason: character.repeat(4000) });
    expect((await lastEventOf(service.client, person)).reason).toBe(character.repeat(4000));
  });

  it("rule 40: blanks around it do not count towards the 4000", async () => {
    const person = await newPerson(service.client);
    const reason = ` ${"r".repeat(4000)} `;
    await service.client.entities.updateEntity({ lookup: byId(person), entity: { status: BLOCKED }, reason });
    expect((await lastEventOf(service.client, person)).reason).toBe("r".repeat(4000));
  });

  it("rule 40: too long is refused even where none is needed", async () => {
    const person = await newPerson(service.client);
    const call = service.client.entities.updateEntity({ lookup: byId(person), entity: {}, reason: "r".repeat(4001) });
    expect(await refusal(call)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["reason"] });
  });

  it("rule 13: a bad reason with an unknown entity is VALIDATION_ERROR; a missing one with a known stale etag is ETAG_MISMATCH", async () => {
    const unknown = { by: { case: "entityId" as const, value: "00000000-0000-7000-8000-000000000000" } };
    const tooLong = service.client.entities.updateEntity({
      lookup: unknown,
      entity: { status: BLOCKED },
      reason: "r".repeat(4001),
    });
    expect(await refusal(tooLong)).toMatchObject({ reason: "VALIDATION_ERROR" });
    const missing = service.client.entities.updateEntity({ lookup: unknown, entity: { status: BLOCKED } });
    expect(await refusal(missing)).toMatchObject({ reason: "NOT_FOUND" });
    const person = await newPerson(service.client);
    const stale = service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { status: BLOCKED },
      etag: "stale",
    });
    expect(await refusal(stale)).toMatchObject({ reason: "ETAG_MISMATCH" });
  });

  it("rule 43: of a change of other fields is kept in its event, and is no updated field", async () => {
    const person = await newPerson(service.client);
    const answer = await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { name: "Ana Lima" },
      reason: " married ",
    });
    expect(answer.updatedFields).toEqual(["name"]);
    const event = await lastEventOf(service.client, person);
    expect(event).toMatchObject({ reason: "married", updatedFields: ["name"], newValues: { name: "Ana Lima" } });
    expect(Object.keys(event.newValues ?? {})).toEqual(["name"]);
  });

  it("rule 43: of a change to an unrestricted status is kept in its event", async () => {
    const person = await newPerson(service.client);
    await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { status: ACTIVE },
      reason: "reviewed",
    });
    expect(await lastEventOf(service.client, person)).toMatchObject({ reason: "reviewed", updatedFields: ["status"] });
  });

  it("rule 43: alone is no change: no event, the same etag and time", async () => {
    const person = await newPerson(service.client, { status: BLOCKED }, "first reason");
    for (const entity of [{}, { status: BLOCKED }, undefined]) {
      const answer = await service.client.entities.updateEntity({
        lookup: byId(person),
        entity,
        reason: "second reason",
      });
      expect(answer.entity).toEqual(person);
      expect(answer.previousEntity).toEqual(person);
    }
    const events = await eventsOf(service.client, person);
    expect(events.map((event) => event.reason)).toEqual(["first reason"]);
  });

  it("rule 43: is no field of the entity, by mask neither", async () => {
    const person = await newPerson(service.client);
    const call = service.client.entities.updateEntity({
      lookup: byId(person),
      updateMask: { paths: ["reason"] },
      reason: "why",
    });
    expect(await refusal(call)).toMatchObject({ reason: "VALIDATION_ERROR" });
  });
});

describe("which status may follow which", () => {
  const all = [UNDER_REVIEW, ACTIVE, INACTIVE, SUSPENDED, BLOCKED, REJECTED];
  const named = Object.entries(EntityStatus).flatMap(([name, status]) =>
    typeof status === "number" ? [{ name, status }] : [],
  );
  const given = named.filter(({ status }) => status !== EntityStatus.UNSPECIFIED);
  it.each(given)("rule 42: any of the six may follow $name", async ({ status: from }) => {
    for (const to of all) {
      const person = await newPerson(service.client, { status: from }, "as it began");
      const answer = await service.client.entities.updateEntity({
        lookup: byId(person),
        entity: { status: to },
        reason: "as it went on",
      });
      expect(answer.entity?.status).toBe(to);
      expect(answer.updatedFields).toEqual(from === to ? [] : ["status"]);
    }
  });

  it("rule 42: PENDING for a pending entity is no change", async () => {
    const person = await newPerson(service.client);
    const answer = await service.client.entities.updateEntity({ lookup: byId(person), entity: { status: PENDING } });
    expect(answer.entity).toEqual(person);
    expect(await eventsOf(service.client, person)).toHaveLength(1);
  });

  it.each(given.filter(({ status }) => status !== PENDING))(
    "rule 42: PENDING for an entity that is $name is VALIDATION_ERROR, and refuses the rest of the update",
    async ({ status }) => {
      const person = await newPerson(service.client, { status }, "as it began");
      const call = service.client.entities.updateEntity({
        lookup: byId(person),
        entity: { status: PENDING, name: "Other" },
        reason: "back to the start",
      });
      expect(await refusal(call)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["entity.status"] });
      expect(await current(service.client, person)).toEqual(person);
    },
  );

  it("rules 21, 42: the status cannot be cleared, and a number that is no status is VALIDATION_ERROR", async () => {
    const person = await newPerson(service.client);
    const clear = service.client.entities.updateEntity({
      lookup: byId(person),
      entity: {},
      updateMask: { paths: ["status"] },
    });
    expect(await refusal(clear)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["entity.status"] });
    const unknown = service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { status: 99 as EntityStatus },
    });
    expect(await refusal(unknown)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["entity.status"] });
  });

  it("rule 42: the event has the words of the source, before and after", async () => {
    const person = await newPerson(service.client, { status: UNDER_REVIEW });
    await service.client.entities.updateEntity({
      lookup: byId(person),
      entity: { status: BLOCKED },
      reason: "OFAC match",
    });
    expect(await lastEventOf(service.client, person)).toMatchObject({
      event: "entity.updated",
      updatedFields: ["status"],
      previousValues: { status: "under_review" },
      newValues: { status: "blocked" },
      reason: "OFAC match",
    });
  });
});
