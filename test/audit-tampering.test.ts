// Rule 136: whatever is changed in a log of 10,000 events by somebody who may write everything is found and named. Each
// change is made, found, and taken back.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Entity, EntityType } from "../clients/typescript/index.ts";
import { newSigningKey, readSigningKey } from "../src/audit/signing-key.ts";
import { auditOf, makeAll, makeNext, nameOf, ormOf, saveTables, uncheckedBy } from "./audits.ts";
import { reseal } from "./chains.ts";
import { byId, newPerson } from "./given.ts";
import { startService, type TestOrganization, type TestService } from "./harness.ts";

const ENTITIES = 2_000;
const VERSIONS = 5;

const key = readSigningKey(newSigningKey());
const publicKeys = [new Uint8Array(key?.publicKey ?? [])];
let service: TestService;
let saved: Awaited<ReturnType<typeof saveTables>>;
let a: TestOrganization;
let b: TestOrganization;
/** The entity whose rows are changed, its events by version, and another one. */
let victim: { id: string; etag: string };
let events: { id: string; entity_version: string }[];
let other: { id: string };

const eventId = (version: number) => events[version - 1]?.id ?? "";

beforeAll(async () => {
  service = await startService();
  [a, b] = [await service.newOrganization(), await service.newOrganization()];
  for (let round = 0; round < VERSIONS; round++) {
    const rows = Array.from({ length: ENTITIES }, (_, i) => ({
      entity: {
        ...{
          externalId: `e-${i}`,
          type: EntityType.PERSON,
          name: `Ana ${i} ${round}`,
          countryCode: "AR",
          taxId: `20${i}`,
        },
        ...{
          nationality: "AR",
          riskMatrixId: crypto.randomUUID(),
          attributes: { round, text: "ä\u20ac" },
          metadata: { round },
        },
        entityData: { kind: { case: "person" as const, value: { firstName: `Ana ${round}` } } },
      },
      reason: "a reason",
      requestId: crypto.randomUUID(),
      occurredAt: { seconds: 1n, nanos: 1_000 },
    }));
    for await (const { progress } of a.client.entities.importEntities(rowsOf(rows))) expect(progress?.failed).toBe(0n);
  }
  const orm = ormOf(service);
  await makeAll(orm, a.id, key);
  // Three checkpoints: a first, one between and a last.
  for (let i = 0; i < 2; i++) {
    await a.client.entities.createEntity({ entity: { type: EntityType.PERSON, name: "Bea", countryCode: "AR" } });
    await makeNext(orm, a.id, key);
  }
  await orm.close(true);
  [victim, other] = (await service.sql(
    "select id, etag from entity where organization_id = $1 and external_id in ('e-7', 'e-9') order by external_id",
    [a.id],
  )) as [typeof victim, typeof other];
  events = await service.sql(
    "select id, entity_version from entity_event where entity_id = $1 order by entity_version",
    [victim.id],
  );
  saved = await saveTables(service);
}, 120_000);

async function* rowsOf<T>(rows: T[]) {
  yield* rows;
}

afterAll(async () => {
  await saved.drop();
  await service[Symbol.asyncDispose]();
});

const unchecked = (text: string) => uncheckedBy(service, text);
const takeBack = () => saved.takeBack();

interface Named {
  kind: string;
  entity?: string;
  version?: number;
  event?: string;
  checkpoint?: bigint;
}

async function findings(request: Parameters<typeof auditOf>[1] = {}): Promise<Named[]> {
  const audit = await auditOf(a, { publicKeys, ...request });
  return audit.findings.map(({ kind, entityId, entityVersion, eventId: event, checkpoint }) => ({
    kind: nameOf(kind),
    ...(entityId !== "" && { entity: entityId }),
    ...(entityVersion !== 0n && { version: Number(entityVersion) }),
    ...(event !== "" && { event }),
    ...(checkpoint !== 0n && { checkpoint }),
  }));
}

/** Makes a change, and expects that all of these are found, and nothing else of any other kind. */
async function tampered(change: () => Promise<unknown>, expected: Named[]): Promise<void> {
  try {
    await change();
    const found = await findings();
    expect(found).toEqual(expect.arrayContaining(expected.map((one) => expect.objectContaining(one))));
    const kinds = new Set(expected.map(({ kind }) => kind));
    expect(found.filter(({ kind }) => !kinds.has(kind))).toEqual([]);
  } finally {
    await takeBack();
  }
}

test("rule 136: a log that nobody has touched is right", async () => {
  expect((await service.sql("select count(*)::int as n from entity_event"))[0]?.n).toBe(ENTITIES * VERSIONS + 2);
  expect(await findings()).toEqual([]);
});

/** Another value of each type. */
const OTHER_VALUE: Record<string, (column: string) => string> = {
  uuid: () => "gen_random_uuid()",
  bytea: (column) => `set_byte(${column}, 3, (get_byte(${column}, 3) + 1) % 256)`,
  text: (column) => `${column} || 'x'`,
  "text[]": (column) => `${column} || array['x']`,
  jsonb: (column) => `${column} || '{"x": 1}'`,
  bigint: (column) => `${column} + 90`,
  integer: (column) => `${column} + 1`,
  xid8: (column) => `(${column}::text::bigint + 1)::text::xid8`,
  "timestamp with time zone": (column) => `${column} + interval '1 microsecond'`,
  pg_snapshot: (column) =>
    `(pg_snapshot_xmin(${column})::text || ':' || (pg_snapshot_xmax(${column})::text::bigint + 1)::text || ':')::pg_snapshot`,
};

/** The columns of a table with another value for each. */
const COLUMNS: Record<string, string[]> = {
  entity_event: [
    ...["organization_id", "id", "entity_id", "entity_version", "entity_type", "type", "external_id", "external_ids"],
    ...["updated_fields", "previous_values", "new_values", "actor", "principal", "source", "reason", "request_id"],
    ...["metadata", "recorded_at", "occurred_at", "xid", "epoch", "salt", "personal_hash", "previous_hash", "hash"],
  ],
  entity: [
    ...["organization_id", "id", "version", "type", "country_code", "external_id", "external_ids", "name", "tax_id"],
    ...[
      "tax_id_key",
      "tax_id_canonical",
      "tax_id_rules",
      "tax_id_check",
      "status",
      "nationality",
      "risk_matrix_id",
      "risk_score",
      "entity_data",
    ],
    ...["attributes", "metadata", "etag", "created_at", "updated_at", "deleted_at", "audit_head"],
    ...["merged_into", "survivor_id", "layer"],
    ...["name_words", "name_date_key", "name_number_key"],
  ],
  audit_checkpoint: [
    ...["organization_id", "number", "epoch", "from_position", "to_position", "count", "total", "first_at", "last_at"],
    ...["horizon", "root", "previous_hash", "key_id", "created_at", "body", "signature", "leaves"],
  ],
};

test("rule 136: every column of the tables is among those that are changed here", async () => {
  for (const [table, columns] of Object.entries(COLUMNS)) {
    const rows = await service.sql<{ name: string }>(
      "select attname::text as name from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped",
      [table],
    );
    expect(columns.toSorted(), table).toEqual(rows.map(({ name }) => name).sort());
  }
});

async function otherValue(table: string, column: string): Promise<string> {
  const [row] = await service.sql<{ type: string }>(
    "select format_type(atttypid, null) as type from pg_attribute where attrelid = $1::regclass and attname = $2",
    [table, column],
  );
  const make = OTHER_VALUE[row?.type ?? ""];
  if (make === undefined) throw new Error(`no other value of ${row?.type}`);
  return make(column);
}

describe("an event", () => {
  const changed = { kind: "CHANGED", entity: () => victim.id, version: 3, event: () => eventId(3) };
  const SPECIAL: Record<string, { value?: () => string; expected: () => Named[] }> = {
    organization_id: {
      value: () => `'${b.id}'`,
      expected: () => [{ kind: "MISSING", entity: victim.id, version: 3, event: eventId(3) }],
    },
    id: {
      expected: () => [
        { kind: "CHANGED", entity: victim.id, version: 3 },
        { kind: "EXTRA", entity: victim.id, version: 3 },
        { kind: "MISSING", event: eventId(3) },
      ],
    },
    entity_id: {
      value: () => `'${other.id}', entity_version = 3000`,
      expected: () => [
        { kind: "CHANGED", entity: other.id, version: 3000, event: eventId(3) },
        { kind: "MISSING", entity: victim.id, version: 3 },
        { kind: "EXTRA", entity: other.id, version: 3000, event: eventId(3) },
      ],
    },
    entity_version: {
      expected: () => [
        { kind: "CHANGED", entity: victim.id, version: 93, event: eventId(3) },
        { kind: "MISSING", entity: victim.id, version: 3 },
        { kind: "EXTRA", entity: victim.id, version: 93, event: eventId(3) },
      ],
    },
    // Where it now stands no checkpoint lists it.
    xid: {
      expected: () => [
        { ...named(changed), checkpoint: 1n },
        { kind: "EXTRA", event: eventId(3) },
      ],
    },
    // Nor has the log come to where it now stands.
    epoch: {
      expected: () => [
        { ...named(changed), checkpoint: 1n },
        { kind: "EXTRA", event: eventId(3) },
      ],
    },
  };
  const named = (one: typeof changed): Named => ({ ...one, entity: one.entity(), event: one.event() });

  test.each(COLUMNS.entity_event as string[])("rule 136: whose %s was changed", async (column) => {
    const { value, expected } = SPECIAL[column] ?? {};
    const other = value?.() ?? (await otherValue("entity_event", column));
    await tampered(
      () => unchecked(`update entity_event set ${column} = ${other} where id = '${eventId(3)}'`),
      expected?.() ?? [named(changed)],
    );
  });

  test("rule 136: one whose hash was made anew for other values is another than its checkpoint lists, and than the next one follows", async () => {
    await tampered(
      async () => {
        await service.sql("update entity_event set reason = 'another' where id = $1", [eventId(3)]);
        await reseal(service.sql, [victim.id]);
      },
      [3, 4, 5].map((version) => ({
        kind: "CHANGED",
        entity: victim.id,
        version,
        event: eventId(version),
        checkpoint: 1n,
      })),
    );
  });

  test("rule 136: one that holds what no event does", async () => {
    await tampered(
      () => service.sql("update entity_event set recorded_at = 'infinity' where id = $1", [eventId(3)]),
      [named(changed)],
    );
    const deep = `${'{"a":'.repeat(6_000)}1${"}".repeat(6_000)}`;
    await tampered(
      () => service.sql("update entity_event set new_values = $2 where id = $1", [eventId(3), deep]),
      [named(changed)],
    );
  });

  test.each([
    ["the first", 1],
    ["one between", 3],
    ["the last", VERSIONS],
  ])("rule 136: that was removed: %s of an entity", async (_, version) => {
    await tampered(
      () => service.sql("delete from entity_event where id = $1", [eventId(version)]),
      [{ kind: "MISSING", entity: victim.id, version, event: eventId(version) }],
    );
  });

  test("rule 136: all of an entity that were removed", async () => {
    await tampered(
      () => service.sql("delete from entity_event where entity_id = $1", [victim.id]),
      [
        ...[1, 2, 3, 4].map((version) => ({ kind: "MISSING", event: eventId(version), checkpoint: 1n })),
        ...[1, 2, 3, 4, 5].map((version) => ({ kind: "MISSING", entity: victim.id, version })),
        { kind: "MISSING", entity: victim.id, version: VERSIONS, event: eventId(VERSIONS) },
      ],
    );
  });

  test("rule 136: all of an entity that were removed with the entity", async () => {
    await tampered(
      () =>
        unchecked(
          `delete from entity_event where entity_id = '${victim.id}'; delete from external_id where entity_id = '${victim.id}';
           delete from entity_word where entity_id = '${victim.id}'; delete from entity where id = '${victim.id}'`,
        ),
      events.map(({ id }) => ({ kind: "MISSING", event: id, checkpoint: 1n })),
    );
  });

  test("rule 136: two that were swapped", async () => {
    await tampered(
      () =>
        service
          .sql(
            `with v as (update entity_event set entity_version = entity_version + 100 where id = any($1) returning id)
           select * from v`,
            [[eventId(2), eventId(3)]],
          )
          .then(() =>
            service.sql(
              "update entity_event set entity_version = case id when $1 then 3 else 2 end where id in ($1, $2)",
              [eventId(2), eventId(3)],
            ),
          ),
      [
        { kind: "CHANGED", entity: victim.id, version: 2, event: eventId(3) },
        { kind: "CHANGED", entity: victim.id, version: 3, event: eventId(2) },
      ],
    );
  });

  test("rule 136: two that were swapped, each with a hash of its own", async () => {
    await tampered(async () => {
      const swap =
        "update entity_event set entity_version = case id when $1 then $3::bigint else $4 end where id in ($1, $2)";
      const ids = [eventId(2), eventId(3)];
      await service.sql(swap, [...ids, 103, 102]);
      await service.sql(swap, [...ids, 3, 2]);
      await reseal(service.sql, [victim.id]);
      // Those behind them as they were.
      await service.sql(
        `update entity_event v set hash = s.hash, previous_hash = s.previous_hash, personal_hash = s.personal_hash
           from saved_entity_event s where s.id = v.id and v.entity_id = $1 and v.entity_version > 3`,
        [victim.id],
      );
      await service.sql("update entity e set audit_head = s.audit_head from saved_entity s where s.id = e.id");
    }, [
      { kind: "CHANGED", event: eventId(2), checkpoint: 1n },
      { kind: "CHANGED", event: eventId(3), checkpoint: 1n },
      { kind: "OUT_OF_ORDER", entity: victim.id, version: 3, event: eventId(2) },
      { kind: "OUT_OF_ORDER", entity: victim.id, version: 4, event: eventId(4) },
    ]);
  });

  /** One more version of the victim, of the transaction of its second one, that is right in its chain. */
  async function addEvent(): Promise<string> {
    const [added] = await service.sql<{ id: string }>(
      `insert into entity_event
       select organization_id, gen_random_uuid(), entity_id, 6, entity_type, type, external_id, external_ids, array['name'],
         jsonb_build_object('name', new_values -> 'name'), '{"name": "Eva"}', actor, principal, source, reason, request_id,
         metadata, recorded_at + interval '1 second', occurred_at,
         (select xid from entity_event where id = $2), epoch, salt, personal_hash, hash, hash
       from entity_event where id = $1 returning id`,
      [eventId(5), eventId(2)],
    );
    await reseal(service.sql, [victim.id]);
    return added?.id ?? "";
  }

  test("rule 136: one that was added with an old transaction, and is beyond its entity", async () => {
    await tampered(async () => {
      const added = await addEvent();
      await service.sql("update entity e set audit_head = s.audit_head from saved_entity s where s.id = e.id");
      const found = await findings();
      expect(found).toEqual([
        { kind: "EXTRA", entity: victim.id, version: 6, event: added, checkpoint: 1n },
        { kind: "EXTRA", entity: victim.id, version: 6, event: added },
      ]);
    }, [{ kind: "EXTRA", entity: victim.id, version: 6 }]);
  });

  test("rule 136: one that was added with an old transaction, and the entity changed with it, so that only its checkpoint tells", async () => {
    await tampered(async () => {
      await addEvent();
      await service.sql(
        `with words as (delete from entity_word where entity_id = '${victim.id}')
           update entity e set version = 6, etag = v.id, updated_at = v.recorded_at, name = 'Eva', name_words = null
           from entity_event v where v.entity_id = e.id and v.entity_version = 6`,
      );
    }, [{ kind: "EXTRA", entity: victim.id, version: 6, checkpoint: 1n }]);
  });
});

test("rule 136: an event of a transaction that has not come yet", async () => {
  await tampered(async () => {
    const [last] = await service.sql<{ id: string }>(
      "select id from entity_event where organization_id = $1 order by xid desc limit 1",
      [a.id],
    );
    await service.sql("update entity_event set xid = '9000000000000000000' where id = $1", [last?.id]);
  }, [
    { kind: "CHANGED", checkpoint: 3n },
    { kind: "EXTRA", version: 1 },
  ]);
});

describe("an entity", () => {
  const SPECIAL: Record<string, { value?: () => string; expected: () => Named[] }> = {
    organization_id: {
      value: () => `'${b.id}'`,
      expected: () => [{ kind: "ENTITY_DIFFERS", entity: victim.id }],
    },
    id: {
      expected: () => [
        { kind: "ENTITY_DIFFERS", entity: victim.id },
        // The row that it has become has no event.
        { kind: "MISSING", version: VERSIONS },
      ],
    },
    audit_head: { expected: () => [{ kind: "HEAD_DIFFERS", entity: victim.id, version: 5, event: eventId(5) }] },
    type: { value: () => "'company'", expected: () => [differs()] },
    status: { value: () => "'blocked'", expected: () => [differs()] },
    tax_id_check: { value: () => "'valid'", expected: () => [differs()] },
    risk_score: { value: () => "12.5", expected: () => [differs()] },
    deleted_at: { value: () => "clock_timestamp()", expected: () => [differs()] },
    external_ids: { value: () => `'[["x", "", true, "2026-01-01T00:00:00Z"]]'`, expected: () => [differs()] },
    // None without the other.
    merged_into: { value: () => `'${other.id}', survivor_id = '${other.id}'`, expected: () => [differs()] },
    survivor_id: { value: () => `'${other.id}', merged_into = '${other.id}'`, expected: () => [differs()] },
    // What a survivor has by itself, which no event tells.
    layer: { value: () => "'{}'", expected: () => [] },
    // Derived from tax_id and from the names, and not looked at.
    tax_id_key: { expected: () => [] },
    tax_id_canonical: { value: () => "'X 1'", expected: () => [] },
    tax_id_rules: { value: () => "7", expected: () => [] },
    name_words: { expected: () => [] },
    name_date_key: { value: () => "gen_random_uuid()", expected: () => [] },
    name_number_key: { value: () => "gen_random_uuid()", expected: () => [] },
  };
  const differs = (): Named => ({ kind: "ENTITY_DIFFERS", entity: victim.id });

  test.each(COLUMNS.entity as string[])("rule 136: whose %s was changed", async (column) => {
    const { value, expected } = SPECIAL[column] ?? {};
    const other = value?.() ?? (await otherValue("entity", column));
    await tampered(
      () => unchecked(`update entity set ${column} = ${other} where id = '${victim.id}'`),
      expected?.() ?? [differs()],
    );
  });

  test("rule 136: that is found by the external id of another", async () => {
    await tampered(
      () =>
        unchecked(
          `update external_id set entity_id = '${victim.id}', is_primary = false where entity_id = '${other.id}'`,
        ),
      [differs(), { kind: "ENTITY_DIFFERS", entity: other.id }],
    );
  });

  test("rule 136: whose row is none that an entity has", async () => {
    await tampered(() => unchecked(`update entity set updated_at = 'infinity' where id = '${victim.id}'`), [differs()]);
  });
});

describe("a checkpoint", () => {
  const broken: Named = { kind: "CHECKPOINT_BROKEN", checkpoint: 2n };
  const SPECIAL: Record<string, { value?: () => string; expected: () => Named[] }> = {
    organization_id: { value: () => `'${b.id}'`, expected: () => [{ kind: "CHECKPOINT_BROKEN", checkpoint: 3n }] },
    number: { expected: () => [{ kind: "CHECKPOINT_BROKEN", checkpoint: 92n }] },
    epoch: { expected: () => [broken, { kind: "CHANGED" }, { kind: "EXTRA" }] },
    from_position: { expected: () => [broken] },
    to_position: { expected: () => [broken] },
    horizon: { value: () => "clock_timestamp()", expected: () => [broken] },
    key_id: { expected: () => [broken, { kind: "SIGNATURE_INVALID", checkpoint: 2n }] },
    body: {
      value: () => "replace(body, '\"count\":1', '\"count\":2')",
      expected: () => [broken, { kind: "SIGNATURE_INVALID", checkpoint: 2n }],
    },
    signature: { expected: () => [{ kind: "SIGNATURE_INVALID", checkpoint: 2n }] },
    leaves: { expected: () => [broken, { kind: "EXTRA" }, { kind: "MISSING" }] },
  };

  test.each(COLUMNS.audit_checkpoint as string[])("rule 136: whose %s was changed", async (column) => {
    const { value, expected } = SPECIAL[column] ?? {};
    const other = value?.() ?? (await otherValue("audit_checkpoint", column));
    await tampered(
      () => service.sql(`update audit_checkpoint set ${column} = ${other} where number = 2`),
      expected?.() ?? [broken],
    );
  });

  test("rule 136: that was removed from between", async () => {
    await tampered(
      () => service.sql("delete from audit_checkpoint where number = 2"),
      [{ kind: "CHECKPOINT_BROKEN", checkpoint: 3n }],
    );
  });

  test("rule 136: that was made anew, with the key, for a log that was changed: only one that was kept tells", async () => {
    const kept = (await a.client.entities.listAuditCheckpoints({})).checkpoints;
    try {
      await service.sql("update entity_event set reason = 'another' where id = $1", [eventId(3)]);
      await reseal(service.sql, [victim.id]);
      await service.sql("delete from audit_checkpoint");
      const orm = ormOf(service);
      await makeAll(orm, a.id, key);
      await orm.close(true);
      expect(await findings()).toEqual([]);
      expect(await findings({ checkpoints: kept.slice(0, 1) })).toEqual([
        { kind: "CHECKPOINT_BROKEN", checkpoint: 1n },
      ]);
    } finally {
      await takeBack();
    }
  });
});

test("rules 132, 134: a merged entity that redirects elsewhere, or whose external id has another home, is found by any key", async () => {
  const group = await service.newOrganization();
  const { entities } = group.client;
  const [one, two, three] = (await Promise.all(
    ["one", "two", "three"].map((externalId) => newPerson(group.client, { externalId })),
  )) as [Entity, Entity, Entity];
  const reason = "the same person";
  await entities.mergeEntities({ primary: byId(two), secondary: byId(three), reason });
  await entities.mergeEntities({ primary: byId(one), secondary: byId(two), reason });
  const differing = async (lookup?: ReturnType<typeof byId>) => {
    const { findings: found, counts } = await auditOf(group, lookup === undefined ? {} : { lookup });
    expect(counts.entities).toBe(3n);
    return found.map(({ kind, entityId, detail }) => `${nameOf(kind)} ${entityId} ${detail}`);
  };
  const home = (id: string) =>
    service.sql("update external_id set home_id = $2 where external_id = 'three' and entity_id = $1", [one.id, id]);
  const survivor = (id: string) => service.sql("update entity set survivor_id = $2 where id = $1", [three.id, id]);
  expect([await differing(), await differing(byId(three))]).toEqual([[], []]);
  await home(two.id);
  expect(await differing(byId(three))).toEqual([
    expect.stringMatching(`^ENTITY_DIFFERS ${one.id} it is found by other`),
  ]);
  await home(three.id);
  await survivor(two.id);
  expect(await differing()).toEqual([expect.stringMatching(`^ENTITY_DIFFERS ${three.id} survivor_id is not`)]);
  await survivor(one.id);
  expect(await differing()).toEqual([]);
});

test("rule 136: all is as it was", async () => {
  expect(await findings()).toEqual([]);
  await a.client.entities.updateEntity({ lookup: byId(victim), entity: { name: "Zoe" } });
  expect(await findings()).toEqual([]);
});
