// Rule 113: an entity with more copies of its external id than one statement may rewrite, and more than others wait for.
import pg from "pg";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Entity, EntityClient } from "../clients/typescript/index.ts";
import { byId, lastEventOf, newPerson, tally, together, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const ROWS = Number(process.env.COPIES ?? 12_000);
let service: TestService;
let client: EntityClient;
beforeAll(async () => {
  service = await startService();
  ({ client } = service);
});
afterAll(() => service[Symbol.asyncDispose]());

/** Transactions of the person, every third with the other one on its other side, and user events. */
async function fill(person: Entity, other: Entity): Promise<void> {
  await service.sql(
    `insert into transaction (organization_id, id, type, amount, currency, origin_entity_id, origin_external_id,
       destination_entity_id, destination_external_id, transacted_at, content_hash)
     select $1, gen_random_uuid(), 'payment', '1', 'ARS',
       case when n % 3 = 1 then $4::uuid else $2::uuid end, case when n % 3 = 1 then $5 else $3 end,
       case n % 3 when 1 then $2::uuid when 2 then $4::uuid end, case n % 3 when 1 then $3 when 2 then $5 end,
       '2026-01-01Z'::timestamptz + n * interval '1 second', ''
     from generate_series(1, ${ROWS}) n`,
    [person.organizationId, person.id, person.externalId, other.id, other.externalId],
  );
  await service.sql(
    `insert into user_event (organization_id, id, entity_id, entity_external_id, event_type, occurred_at)
     select $1, gen_random_uuid(), $2, $3, 'login', '2026-01-01Z' from generate_series(1, ${ROWS}) n`,
    [person.organizationId, person.id, person.externalId],
  );
}

const copiesOf = async (person: Entity, externalId: string) =>
  Number(
    (
      await service.sql(
        `select (select count(*) from transaction where origin_entity_id = $1 and origin_external_id = $2)
           + (select count(*) from transaction where destination_entity_id = $1 and destination_external_id = $2)
           + (select count(*) from user_event where entity_id = $1 and entity_external_id = $2) as n`,
        [person.id, externalId],
      )
    )[0]?.n,
  );

const change = (person: Entity, newExternalId: string) =>
  client.entities.changeExternalId({ lookup: byId(person), newExternalId, reason: "migration" });
const person = () => newPerson(client, { externalId: unique("p") });

it("rules 49, 113: all copies follow, each once, and the event counts them", async () => {
  const [one, other] = [await person(), await person()];
  await fill(one, other);
  const next = unique("next");
  await change(one, next);
  expect(await copiesOf(one, next)).toBe(2 * ROWS);
  expect(await copiesOf(one, one.externalId)).toBe(0);
  expect((await lastEventOf(client, one)).metadata).toMatchObject({
    rewrittenRows: { transactions: ROWS, userEvents: ROWS },
  });
});

it("rule 114: neither a merge nor its undoing writes a row of activity, however many there are, or waits for one", async () => {
  const [one, other] = [await person(), await person()];
  await fill(one, other);
  const rows = () =>
    service.sql(
      "select md5(string_agg(ctid::text || xmin::text || xmax::text, ',' order by id)) as t from transaction where origin_entity_id = any($1)",
      [[one.id, other.id]],
    );
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin");
  await holder.query("select from transaction where origin_entity_id = any($1) for update", [[one.id, other.id]]);
  await holder.query("select from user_event where entity_id = any($1) for update", [[one.id, other.id]]);
  const before = await rows();
  const request = { primary: byId(other), secondary: byId(one), reason: "one person" };
  const { mergeId, rows: counted } = await client.entities.mergeEntities(request);
  expect(counted).toMatchObject({ transactions: BigInt(ROWS), userEvents: BigInt(ROWS) });
  await client.entities.unmergeEntities({ mergeId, reason: "two persons" });
  expect(await rows()).toEqual(before);
  await holder.query("rollback");
  await holder.end();
});

it("rule 113: other entities of the organization are written to meanwhile", async () => {
  const [one, other, third] = [await person(), await person(), await person()];
  await fill(one, other);
  // Stops it half way, with all that it has rewritten.
  const rows = "select id from transaction where origin_entity_id = $1 order by transacted_at desc limit 1";
  const holder = new pg.Client(service.database);
  await holder.connect();
  await holder.query("begin");
  await holder.query(`${rows} for update`, [one.id]);
  let isDone = false;
  const next = unique("next");
  const changed = change(one, next).finally(() => {
    isDone = true;
  });
  // Two go through the lanes of the organization behind it, one after the other.
  for (let i = 0; i < 20; i++) {
    await client.entities.updateEntity({ lookup: byId(third), entity: { name: `n${i}` } });
    if (i === 10) expect(isDone).toBe(false);
  }
  await holder.query("rollback");
  await holder.end();
  expect((await changed).entity?.externalId).toBe(next);
  expect(await copiesOf(one, next)).toBe(2 * ROWS);
});

it("rule 113: two whose entities share transactions do not deadlock", async () => {
  const [one, other] = [await person(), await person()];
  await fill(one, other);
  const [first, second] = [unique("first"), unique("second")];
  const endings = await together(2, (i) => change(i === 0 ? one : other, i === 0 ? first : second));
  expect(tally(endings)).toEqual({ OK: 2 });
  expect(await copiesOf(one, first)).toBe(2 * ROWS);
  expect(await copiesOf(other, second)).toBe((2 * ROWS) / 3);
});
