// Rules 137, 138 and 140: which entity had an external id when.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ExternalIdDetachCause, ExternalIdDetachCauseSchema } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { createOrm, migrate } from "../src/db/orm.ts";
import { pipelined } from "../src/db/transaction.ts";
import type { EntityState } from "../src/domain/entity-state.ts";
import { addExternalIds, releaseExternalId } from "../src/domain/external-ids.ts";
import { type Command, type OneEntityCommand, toOneEntity } from "../src/entities/command.ts";
import { runGroup } from "../src/entities/group.ts";
import { writeGroup } from "../src/entities/write-group.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byExternalId, byId, current, lastEventOf, newPerson, unique } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

const REASON = "CRM migration";

/** The rows of the past of an external id, as the table has them. */
const pastOf = (externalId: string) =>
  service.sql<{ entity_id: string; type: string | null; cause: string; event_id: string; is_until_event: boolean }>(
    `select p.entity_id, p.type, p.cause, p.event_id, p.detached_at = v.recorded_at as is_until_event
     from external_id_past p left join entity_event v on v.organization_id = p.organization_id and v.id = p.event_id
     where p.external_id = $1 order by p.attached_at`,
    [externalId],
  );

describe("the past of an external id", () => {
  it("rule 137: a primary that is changed leaves a period that ends with the event", async () => {
    const { entities } = service.client;
    const person = await newPerson(service.client, { externalId: unique("old") });
    const labelled = [{ externalId: person.externalId, type: "cif" }];
    await entities.addExternalIds({ lookup: byId(person), externalIds: labelled });
    expect(await pastOf(person.externalId)).toEqual([]);
    await entities.changeExternalId({ lookup: byId(person), newExternalId: unique("new"), reason: REASON });
    const { id } = await lastEventOf(service.client, person);
    expect(await pastOf(person.externalId)).toEqual([
      { entity_id: person.id, type: "cif", cause: "CHANGED", event_id: id, is_until_event: true },
    ]);
    // The same id, again and by another: a period each.
    const other = await newPerson(service.client, { externalId: person.externalId });
    await entities.changeExternalId({ lookup: byId(other), newExternalId: unique("new"), reason: REASON });
    expect((await pastOf(person.externalId)).map((row) => row.entity_id)).toEqual([person.id, other.id]);
  });

  it("rule 137: attaching, an alias that stays, deletion and undeletion end no period", async () => {
    const { entities } = service.client;
    const person = await newPerson(service.client);
    const [first, second, third] = [unique("a"), unique("b"), unique("c")];
    const [lookup, reason] = [byId(person), REASON];
    await entities.assignExternalId({ lookup, externalId: first });
    await entities.addExternalIds({ lookup, externalIds: [{ externalId: second, designation: 1 }] });
    await entities.changeExternalId({ lookup, newExternalId: third, reason, keepPreviousAsAlias: true });
    await entities.deleteEntity({ lookup, reason });
    await entities.undeleteEntity({ lookup, reason });
    expect((await current(service.client, person)).externalIds).toHaveLength(3);
    for (const id of [first, second, third]) expect(await pastOf(id)).toEqual([]);
  });

  it("rule 137: a rehearsal ends no period", async () => {
    const person = await newPerson(service.client, { externalId: unique("old") });
    const change = { lookup: byId(person), newExternalId: unique("new"), reason: REASON, validateOnly: true };
    await service.client.entities.changeExternalId(change);
    expect(await pastOf(person.externalId)).toEqual([]);
  });

  it("rule 140: an id is not attached at a time at which it was still another entity's", async () => {
    const other = await newPerson(service.client, { externalId: unique("other") });
    const externalId = unique("left");
    // As if it had left in the meantime, by a clock that is ahead.
    await service.sql(
      `insert into external_id_past select organization_id, $2, updated_at, now() + interval '1 hour', id, null, 'CHANGED', $1
       from entity where id = $1`,
      [other.id, externalId],
    );
    expect(await refusal(newPerson(service.client, { externalId }))).toMatchObject({ reason: "WRITE_CONFLICT" });
    // The time has come.
    await service.sql("update external_id_past set detached_at = now() where external_id = $1", [externalId]);
    expect((await newPerson(service.client, { externalId })).externalId).toBe(externalId);
    await service.sql("delete from external_id_past where external_id = $1", [externalId]);
  });
});

describe("a group of commands in one transaction", () => {
  const author = { principal: "00000000-0000-7000-8000-00000000aaaa", actor: "test", source: "test" };
  const command = (id: string, decide: OneEntityCommand["decide"], claims: string[] = []): Command =>
    toOneEntity({ author, lookup: { by: "entity_id", key: id }, claims, decide });
  const add = (id: string, externalId: string) =>
    command(
      id,
      (entity, { now }) =>
        addExternalIds(
          entity as EntityState,
          { externalIds: [{ externalId, type: "", primary: false }], reason: "" },
          now,
        ),
      [externalId],
    );
  const release = (id: string, externalId: string) =>
    command(id, (entity, { now }) =>
      releaseExternalId(entity as EntityState, { externalId, reason: REASON, force: true }, "MUTABLE_WITH_REASON", now),
    );

  it("rule 140: an id that came with the transaction leaves with another one: meanwhile it would be anybody's", async () => {
    const { host, port, database } = service.database;
    const orm = createOrm({ host, port, user: "entity_service", password: RUNTIME_PASSWORD, database }, readConfig({}));
    try {
      const [person, id] = [await newPerson(service.client, { externalId: unique("p") }), unique("id")];
      const organizationId = service.organization.id;
      const [added, released] = await pipelined(orm, organizationId, (db) =>
        runGroup(db, organizationId, [add(person.id, id), release(person.id, id)], {}),
      );
      expect(added).toMatchObject({ kind: "done" });
      expect(released).toBe("later");
      expect(await pastOf(id)).toEqual([]);
    } finally {
      await orm.close(true);
    }
  });

  it("rules 137, 140: an id that leaves, comes back, leaves again and goes to another entity has each of its periods", async () => {
    const { host, port, database } = service.database;
    const orm = createOrm({ host, port, user: "entity_service", password: RUNTIME_PASSWORD, database }, readConfig({}));
    try {
      const [one, other] = [
        await newPerson(service.client, { externalId: unique("one") }),
        await newPerson(service.client, { externalId: unique("other") }),
      ];
      const id = unique("id");
      const group = [add(one.id, id), release(one.id, id), add(one.id, id), release(one.id, id), add(other.id, id)];
      const results = await writeGroup(orm, service.organization.id, [
        ...group,
        release(other.id, id),
        add(one.id, id),
      ]);
      expect(results.map(({ kind }) => kind)).toEqual(Array(7).fill("done"));
      const again = await writeGroup(orm, service.organization.id, [release(one.id, id), add(one.id, id)]);
      expect(again.map(({ kind }) => kind)).toEqual(["done", "done"]);
      expect((await pastOf(id)).map((row) => [row.entity_id, row.cause, row.is_until_event])).toEqual([
        [one.id, "RELEASED", true],
        [one.id, "RELEASED", true],
        [other.id, "RELEASED", true],
        [one.id, "RELEASED", true],
      ]);
      // In the table of the present it is as old as the last of them.
      const [row] = await service.sql(
        `select x.entity_id, x.attached_at = e.updated_at as is_of_last from external_id x
         join entity e on e.organization_id = x.organization_id and e.id = x.entity_id where x.external_id = $1`,
        [id],
      );
      expect(row).toEqual({ entity_id: one.id, is_of_last: true });
    } finally {
      await orm.close(true);
    }
  });
});

const nameOf = (cause: ExternalIdDetachCause) => ExternalIdDetachCauseSchema.value[cause]?.localName ?? "";

describe("the history of a group", () => {
  it("rule 137: a survivor has the periods of all that is merged into it, until they are parted; page by page as at once", async () => {
    const { entities } = service.client;
    const [top, middle, low] = [unique("top"), unique("middle"), unique("low")];
    const [a, b, c] = [
      await newPerson(service.client, { externalId: top }),
      await newPerson(service.client, { externalId: middle }),
      await newPerson(service.client, { externalId: low }),
    ];
    // One that was gone before there was a group.
    const gone = unique("gone");
    await entities.addExternalIds({ lookup: byId(c), externalIds: [{ externalId: gone }] });
    await entities.releaseExternalId({ lookup: byId(c), externalId: gone, reason: REASON, force: true });
    await entities.mergeEntities({ primary: byId(b), secondary: byId(c), reason: REASON });
    const { mergeId } = await entities.mergeEntities({ primary: byId(a), secondary: byId(b), reason: REASON });

    const periodsOf = async (lookup: ReturnType<typeof byId | typeof byExternalId>, pageSize = 1000) => {
      const found: (string | boolean)[][] = [];
      let pageToken = "";
      do {
        const page = await entities.listExternalIdHistory({ lookup, pageSize, pageToken });
        for (const { externalId, entityId, cause, detachedAt } of page.periods) {
          found.push([externalId, entityId, nameOf(cause), detachedAt === undefined]);
        }
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      return found;
    };
    const merged = [
      [middle, a.id, "UNSPECIFIED", true],
      [low, a.id, "UNSPECIFIED", true],
      [low, b.id, "MERGED", false],
      [gone, c.id, "RELEASED", false],
      [low, c.id, "MERGED", false],
      [middle, b.id, "MERGED", false],
      [top, a.id, "UNSPECIFIED", true],
    ];
    for (const one of [a, b, c]) {
      for (const pageSize of [1000, 3, 1]) expect(await periodsOf(byId(one), pageSize)).toEqual(merged);
    }
    expect(await periodsOf(byExternalId(low))).toEqual(merged);

    await entities.unmergeEntities({ mergeId, reason: REASON });
    expect(await periodsOf(byId(a))).toEqual([
      [middle, a.id, "UNMERGED", false],
      [low, a.id, "UNMERGED", false],
      [top, a.id, "UNSPECIFIED", true],
    ]);
    expect(await periodsOf(byId(c))).toEqual([
      [middle, b.id, "UNSPECIFIED", true],
      [low, b.id, "UNSPECIFIED", true],
      ...merged.slice(2, 6),
    ]);
  });
});

describe("a database from before", () => {
  it("rules 137, 138: the past is filled from the log, aliases are tracked from the migration on", async () => {
    await using before = await startService();
    const { entities } = before.client;
    const [old, kept, next] = [unique("old"), unique("kept"), unique("next")];
    const person = await newPerson(before.client, { externalId: old });
    const [lookup, reason] = [byId(person), REASON];
    await entities.changeExternalId({ lookup, newExternalId: kept, reason });
    await entities.changeExternalId({ lookup, newExternalId: next, reason, keepPreviousAsAlias: true });
    await newPerson(before.client, { externalId: old });
    const expected = await before.sql("select * from external_id_past");
    expect(expected).toHaveLength(1);

    await before.sql("drop table external_id_past");
    await before.sql("alter table external_id drop column tracked_since, drop column last_resolved_on");
    await before.sql(`
      update entity e set external_ids = (
        select jsonb_agg(jsonb_build_array(c.id -> 0, c.id -> 1, c.id -> 2, c.id -> 3) order by c.place)
        from jsonb_array_elements(e.external_ids) with ordinality as c(id, place))
      where external_ids <> '[]'`);
    await before.sql("delete from schema_migration where name = '20261128120000_external_id_past'");
    const [clock] = await before.sql<{ now: string }>("select now()::text as now");
    expect(await migrate(before.database)).toEqual(["20261128120000_external_id_past"]);

    expect(await before.sql("select * from external_id_past")).toEqual(expected);
    expect(
      await before.sql(
        "select external_id, tracked_since > $1::timestamptz as is_tracked from external_id where entity_id = $2 order by 1",
        [clock?.now, person.id],
      ),
    ).toEqual([
      { external_id: kept, is_tracked: true },
      { external_id: next, is_tracked: null },
    ]);
    const shown = (await current(before.client, person)).externalIds.map((id) => [id.externalId, id.trackedSince]);
    expect(shown).toEqual([
      [next, undefined],
      [kept, expect.objectContaining({ seconds: expect.any(BigInt) })],
    ]);
    // What callers change afterwards goes on from there.
    await entities.changeExternalId({ lookup, newExternalId: kept, reason });
    expect(await before.sql("select external_id from external_id_past order by detached_at")).toEqual([
      { external_id: old },
      { external_id: next },
    ]);
  });
});
