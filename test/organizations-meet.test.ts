// Organizations that share a statement that reads, or a transaction, see and change only their own, and what fails or
// waits for one of them fails and delays no other.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, type MockInstance, test, vi } from "vitest";
import { EntityType } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { findApiKeys } from "../src/db/api-keys.ts";
import { Batch } from "../src/db/batch.ts";
import { type Connections, pooled } from "../src/db/kept-connection.ts";
import { NamedStatementClient } from "../src/db/named-statements.ts";
import { createOrm, type Orm, poolOf } from "../src/db/orm.ts";
import { readJoined } from "../src/db/transaction.ts";
import { newEntity, update } from "../src/domain/entity.ts";
import type { EntityState } from "../src/domain/entity-state.ts";
import { DomainError } from "../src/domain/errors.ts";
import type { Lookup } from "../src/domain/lookup.ts";
import { redirectedFrom, resolve } from "../src/domain/lookup.ts";
import { type OneEntityCommand, onlyOutcome, type Result, toOneEntity } from "../src/entities/command.ts";
import { findJoined } from "../src/entities/joined-lookups.ts";
import type { FoundEntities, Keys } from "../src/entities/lookups.ts";
import { createReader } from "../src/entities/reader.ts";
import { writeGroup, writeGroupsUnlessBusy } from "../src/entities/write-group.ts";
import { createWriter, type Writer } from "../src/entities/writer.ts";
import { newOrganizationId } from "./commands.ts";
import { author, creation, requestOf } from "./commands-by-hand.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { forget, startService, type TestService } from "./harness.ts";
import { startProxy } from "./wall-harness.ts";

const ORGANIZATIONS = 64;

let service: TestService;
let orm: Orm;
/** Each with the entities of `fill`. */
let organizations: string[];
let [a, b]: [string, string] = ["", ""];

const openOrm = (
  at: { host?: string; port?: number } = {},
  limits: Partial<ReturnType<typeof readConfig>> = {},
): Orm => {
  const { host, port } = { ...service.database, ...at };
  const address = { ...service.database, host, port, user: "entity_service", password: RUNTIME_PASSWORD };
  return createOrm(address, { ...readConfig({}), ...limits });
};
const disposable = (opened: Orm) => ({ orm: opened, [Symbol.asyncDispose]: () => opened.close(true) });

beforeAll(async () => {
  service = await startService();
  orm = openOrm();
  organizations = await Promise.all(Array.from({ length: ORGANIZATIONS }, () => newOrganizationId(service)));
  [a, b] = organizations as [string, string];
  const writer = createWriter(orm);
  await Promise.all(organizations.map((organizationId) => fill(writer, organizationId)));
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

/** The same keys in every organization, and some that only it has. All have the organization as their name. */
async function fill(writer: Writer, organizationId: string): Promise<void> {
  const create = (externalId: string, taxId: string) =>
    writer.write(organizationId, toOneEntity(creation(organizationId, externalId, taxId)));
  await Promise.all([
    create("same", "10-1"),
    create("same too", "20-2"),
    create("same three", "20-2"),
    create(`own ${organizationId}`, organizationId),
    ...Array.from({ length: 12 }, (_, i) => create(`filling ${i}`, `30-${i}`)),
  ]);
}

// --- commands ------------------------------------------------------------------------------------------------------

const rename = (externalId: string, name: string, more: Partial<OneEntityCommand> = {}): OneEntityCommand => ({
  author,
  lookup: { by: "external_id", key: externalId },
  decide: (entity) => update(entity as EntityState, { name }, ""),
  ...more,
});

const write = (writer: Writer, organizationId: string, command: OneEntityCommand): Promise<string> =>
  writer.write(organizationId, toOneEntity(command)).then(endOf, (error) => error.reason ?? String(error));

function endOf(result: Result | "busy" | undefined): string {
  if (result === undefined || result === "busy") return result ?? "undone";
  if (result.kind === "refused") return result.error.reason;
  if (result.kind === "failed") return result.error instanceof DomainError ? result.error.reason : String(result.error);
  return result.kind;
}

function outcomeOf(result: Result | undefined) {
  if (result?.kind !== "done") throw new Error(`not done: ${endOf(result)}`);
  return onlyOutcome(result.outcomes);
}

/** Fresh organizations, each with an entity that has the external id "one". */
async function withOne(count: number): Promise<string[]> {
  return Promise.all(
    Array.from({ length: count }, async () => {
      const organizationId = await newOrganizationId(service);
      const [result] = await writeGroup(orm, organizationId, [toOneEntity(creation("new", "one"))]);
      outcomeOf(result);
      return organizationId;
    }),
  );
}

/** The name of the entity "one" of each. */
const namesOf = async (ids: readonly string[]) => {
  const rows = await service.sql<{ organization_id: string; name: string }>(
    "select organization_id, name from entity where organization_id = any($1) and external_id = 'one'",
    [ids],
  );
  const names = new Map(rows.map((row) => [row.organization_id, row.name]));
  return ids.map((id) => names.get(id));
};

/** The transactions that wrote the last events of the organizations. */
const transactionsOf = async (ids: readonly string[]) => {
  const rows = await service.sql<{ organization_id: string; xid: string }>(
    `select distinct on (organization_id) organization_id, xmin::text as xid from entity_event
     where organization_id = any($1) order by organization_id, recorded_at desc`,
    [ids],
  );
  return new Map(rows.map((row) => [row.organization_id, row.xid]));
};

async function connection(role: "owner" | "runtime" = "owner"): Promise<pg.Client & AsyncDisposable> {
  const login = role === "owner" ? {} : { user: "entity_service", password: RUNTIME_PASSWORD };
  const client = new pg.Client({ ...service.database, ...login });
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

// --- reads ---------------------------------------------------------------------------------------------------------

const KINDS = ["entityIds", "externalIds", "taxIdKeys"] as const;
const FORMS = [1, 2, 3, 4, 5, 6, 7].map((bits) => KINDS.filter((_, i) => bits & (1 << i)));
const keysOf = (keys: Partial<Keys>): Keys => ({ entityIds: [], externalIds: [], taxIdKeys: [], ...keys });
const only = (kinds: readonly (keyof Keys)[], keys: Keys): Keys =>
  keysOf(Object.fromEntries(kinds.map((kind) => [kind, keys[kind]])));

/** Keys of an organization: of each kind one that all of them have, and one that only it has. */
async function allKeysOf(organizationId: string): Promise<Keys> {
  const rows = await service.sql<{ id: string }>(
    "select id from entity where organization_id = $1 and external_id in ('same', $2)",
    [organizationId, `own ${organizationId}`],
  );
  return {
    entityIds: rows.map(({ id }) => id),
    externalIds: ["same", "same too", `own ${organizationId}`],
    taxIdKeys: ["101", "202", taxIdKeyOf(organizationId)],
  };
}
const taxIdKeyOf = (taxId: string) => taxId.replaceAll("-", "").toUpperCase();

const find = (keys: Map<string, Keys>) => readJoined(pooled(orm), (db) => findJoined(db, keys));

/** What was found for a key, as the names of the entities: their organizations. */
const summaryOf = ({ hits, entities }: FoundEntities) => ({
  external: [...hits.externalIds.keys()].sort(),
  tax: [...hits.taxIdKeys].map(([key, ids]) => [key, ids.length]).sort(),
  organizations: [...new Set([...entities.values()].flatMap(({ organizationId, name }) => [organizationId, name]))],
  count: entities.size,
});

/** The statement of the form and its values. */
async function statementOf(keys: Map<string, Keys>): Promise<{ text: string; values: unknown[] }> {
  let statement: { text: string; values: unknown[] } | undefined;
  const execute = async (text: string, values: readonly unknown[]) => {
    statement = { text, values: [...values] };
    return [] as never;
  };
  await findJoined({ execute }, keys);
  if (statement === undefined) throw new Error("no statement");
  return statement;
}

describe("rule 2: organizations in one statement that reads", () => {
  test.each(FORMS.map((kinds) => ({ kinds, name: kinds.join(" and ") })))(
    "each finds its own by $name, and nothing by the keys of the other",
    async ({ kinds }) => {
      const [ofA, ofB] = [await allKeysOf(a), await allKeysOf(b)];
      const expected = (organizationId: string) => ({
        external: kinds.includes("externalIds") ? [`own ${organizationId}`, "same", "same too"] : [],
        tax: kinds.includes("taxIdKeys")
          ? [
              ["101", 1],
              ["202", 2],
              [taxIdKeyOf(organizationId), 1],
            ].sort()
          : [],
        organizations: [organizationId],
      });
      const own = await find(
        new Map([
          [a, only(kinds, ofA)],
          [b, only(kinds, ofB)],
        ]),
      );
      for (const id of [a, b]) expect(summaryOf(own.get(id) as FoundEntities)).toMatchObject(expected(id));

      const alone = (id: string) => [`own ${id}`, taxIdKeyOf(id)] as const;
      const foreign = (of: Keys, id: string): Keys =>
        only(kinds, { entityIds: of.entityIds, externalIds: [alone(id)[0]], taxIdKeys: [alone(id)[1]] });
      const swapped = await find(
        new Map([
          [a, foreign(ofB, b)],
          [b, foreign(ofA, a)],
        ]),
      );
      for (const id of [a, b])
        expect(summaryOf(swapped.get(id) as FoundEntities)).toMatchObject({ count: 0, external: [], tax: [] });
    },
  );

  test("the same keys in 64 organizations at once: each gets its own", async () => {
    const reader = createReader(orm);
    const lookups: Lookup[] = [
      { by: "external_id", key: "same" },
      { by: "external_id", key: "same too" },
      { by: "tax_id", key: "101" },
      { by: "tax_id", key: "202" },
    ];
    const send = vi.spyOn(NamedStatementClient.prototype, "sendBehind");
    for (let round = 0; round < 5; round++) {
      const found = await Promise.all(
        organizations.map(async (organizationId, o) => {
          const lookup = lookups[(o + round) % lookups.length] as Lookup;
          return [organizationId, lookup, await reader.find(organizationId, [lookup])] as const;
        }),
      );
      for (const [organizationId, lookup, { hits, entities }] of found) {
        const ids = lookup.by === "tax_id" ? hits.taxIdKeys.get(lookup.key) : [hits.externalIds.get(lookup.key)];
        expect(ids).toHaveLength(lookup.key === "202" ? 2 : 1);
        for (const id of ids ?? []) expect(entities.get(id ?? "")?.name).toBe(organizationId);
        for (const entity of entities.values()) expect(entity.organizationId).toBe(organizationId);
      }
    }
    // They met.
    expect(send.mock.calls.length).toBeLessThan((5 * ORGANIZATIONS) / 2);
    send.mockRestore();
  });

  /** In the transaction that has begun. Before PostgreSQL 16 one of the settings had another name. */
  async function set(client: pg.Client, settings: readonly string[]): Promise<void> {
    const { rows } = await client.query("show server_version_num");
    const isOld = Number(rows[0].server_version_num) < 160_000;
    for (const setting of settings) {
      await client.query(
        `set local ${isOld ? setting.replace("debug_parallel_query", "force_parallel_mode") : setting}`,
      );
    }
  }

  /** What a form answers under settings of the planner, in one transaction as the run-time role. */
  async function answersUnder(
    client: pg.Client,
    settings: readonly string[],
    { text, values }: { text: string; values: unknown[] },
  ) {
    await client.query("begin");
    try {
      await set(client, settings);
      const { rows } = await client.query(text, values);
      return rows.map(({ by, key, id, organization_id, name }) => [by, key, id, organization_id, name].join()).sort();
    } finally {
      await client.query("rollback");
    }
  }

  const SETTINGS = [
    ...[
      "hashjoin",
      "mergejoin",
      "nestloop",
      "seqscan",
      "indexscan",
      "indexonlyscan",
      "bitmapscan",
      "memoize",
      "material",
      "sort",
      "hashagg",
    ].map((name) => [`enable_${name} = off`]),
    ["enable_nestloop = off", "enable_indexscan = off", "enable_bitmapscan = off", "enable_memoize = off"],
    ["enable_seqscan = off", "enable_sort = off", "enable_hashjoin = off"],
    ["plan_cache_mode = force_custom_plan"],
    ["plan_cache_mode = force_generic_plan"],
    ["join_collapse_limit = 1", "from_collapse_limit = 1"],
    [
      "debug_parallel_query = on",
      "parallel_setup_cost = 0",
      "parallel_tuple_cost = 0",
      "min_parallel_table_scan_size = 0",
      "min_parallel_index_scan_size = 0",
    ],
  ];

  /** By an id the entity, or its survivor; by a tax id also those that were merged, with their survivors. */
  const ENTITY_SCANS = { externalIds: 1, entityIds: 2, taxIdKeys: 4 };

  const manyKeys = async () =>
    new Map(await Promise.all(organizations.slice(0, 16).map(async (id) => [id, await allKeysOf(id)] as const)));

  test.each(["without statistics", "after analyze"])(
    "whatever the planner may do, each form answers the same, %s",
    { timeout: 120_000 },
    async (when) => {
      if (when === "after analyze") await service.sql("analyze");
      await using client = await connection("runtime");
      const keys = await manyKeys();
      for (const kinds of FORMS) {
        const statement = await statementOf(new Map([...keys].map(([id, own]) => [id, only(kinds, own)])));
        const usual = await answersUnder(client, [], statement);
        expect(usual.length).toBeGreaterThan(16);
        for (const row of usual) expect(row.split(",").slice(-2)[0]).toBe(row.split(",").at(-1));
        for (const settings of SETTINGS)
          expect(await answersUnder(client, settings, statement), settings.join()).toEqual(usual);
      }
    },
  );

  test("without the condition on the organization row level security still shows no lookup a row of another", async () => {
    await using client = await connection("runtime");
    const keys = await manyKeys();
    for (const kinds of FORMS) {
      const statement = await statementOf(new Map([...keys].map(([id, own]) => [id, only(kinds, own)])));
      const bare = statement.text.replaceAll(/[exmv]\.organization_id = s\.id/g, "s.id is not null");
      expect(bare).not.toBe(statement.text);
      const usual = new Set(await answersUnder(client, [], statement));
      // Rows may be missing: what has been hashed for one organization is kept for the next. The condition prevents it.
      for (const settings of [[], ...SETTINGS]) {
        for (const row of await answersUnder(client, settings, { ...statement, text: bare })) {
          expect(usual.has(row), `${row} under ${settings.join()}`).toBe(true);
        }
      }
    }
  });

  test("every plan sets the organization on the outer side of what looks into the tables, each by what was set", async () => {
    await using client = await connection("runtime");
    const keys = await manyKeys();
    for (const kinds of FORMS) {
      const { text, values } = await statementOf(new Map([...keys].map(([id, own]) => [id, only(kinds, own)])));
      for (const settings of [[], ...SETTINGS]) {
        await client.query("begin");
        await set(client, settings);
        const { rows } = await client.query(`explain (verbose, costs off, format json) ${text}`, values);
        await client.query("rollback");
        const scans = scansOf(rows[0]["QUERY PLAN"][0].Plan);
        const tables = scans.map(({ scan }) => scan["Relation Name"]);
        expect(
          tables.filter((table) => table === "entity"),
          settings.join(),
        ).toHaveLength(kinds.reduce((count, kind) => count + ENTITY_SCANS[kind], 0));
        expect(tables.includes("external_id")).toBe(kinds.includes("externalIds"));
        for (const { scan, path } of scans) {
          const loop = path.find(
            (node, i) =>
              node["Node Type"] === "Nested Loop" &&
              path[i + 1]?.["Parent Relationship"] === "Inner" &&
              setsOrganization(outerOf(node)),
          );
          const what = `${scan["Relation Name"]} under ${settings.join()}`;
          expect(loop, what).toBeDefined();
          expect(setsOrganization(innerOf(loop as Plan)), what).toBe(false);
          // Its own condition: what is kept of it, hashed or sorted, is made anew for the next organization.
          expect(JSON.stringify(scan), what).toContain("= ((set_config('app.organization_id'");
          expect(JSON.stringify(innerOf(loop as Plan)), what).toContain("current_setting('app.organization_id'");
        }
      }
    }
  });
});

interface Plan {
  "Node Type": string;
  "Parent Relationship"?: string;
  "Relation Name"?: string;
  Output?: string[];
  Plans?: Plan[];
}

/** The scans of tables, each with the nodes from the top down to it. */
const scansOf = (plan: Plan, above: Plan[] = []): { scan: Plan; path: Plan[] }[] => {
  const path = [...above, plan];
  const below = (plan.Plans ?? []).flatMap((child) => scansOf(child, path));
  return plan["Relation Name"] === undefined ? below : [{ scan: plan, path }, ...below];
};
const outerOf = (plan: Plan) => plan.Plans?.find((child) => child["Parent Relationship"] === "Outer");
const innerOf = (plan: Plan) => plan.Plans?.find((child) => child["Parent Relationship"] === "Inner");
/** Whether a node sets it. What only reads what another has set is written with one more parenthesis. */
const setsOrganization = (plan: Plan | undefined): boolean =>
  plan !== undefined &&
  (plan.Output?.some((value) => value.startsWith("(set_config('app.organization_id'")) === true ||
    plan.Plans?.some(setsOrganization) === true);

/** Organizations with two entities each, of which one was merged into the other, and the keys of both. */
const withMerged = () =>
  Promise.all(
    [1, 2].map(async () => {
      const { id, client } = await service.newOrganization();
      const create = async (name: string) => {
        const entity = { type: EntityType.PERSON, name, countryCode: "AR", externalId: name, taxId: `T${name}` };
        return (await client.entities.createEntity({ entity })).entity?.id ?? "";
      };
      const [primary, secondary] = [await create("primary"), await create("secondary")];
      const by = (value: string) => ({ by: { case: "entityId" as const, value } });
      await client.entities.mergeEntities({ primary: by(primary), secondary: by(secondary), reason: "one person" });
      const lookups: { lookup: Lookup; from: string }[] = [
        { lookup: { by: "entity_id", key: primary }, from: "" },
        { lookup: { by: "entity_id", key: secondary }, from: secondary },
        { lookup: { by: "external_id", key: "primary" }, from: "" },
        { lookup: { by: "external_id", key: "secondary" }, from: secondary },
        { lookup: { by: "tax_id", key: "TPRIMARY" }, from: "" },
        { lookup: { by: "tax_id", key: "TSECONDARY" }, from: secondary },
      ];
      return { id, primary, secondary, lookups };
    }),
  );

test("rules 78, 79: in one statement every key of a merged entity names its survivor, each in its own organization", async () => {
  const made = await withMerged();
  const keys = made.map(({ id, primary, secondary }): [string, Keys] => [
    id,
    { entityIds: [primary, secondary], externalIds: ["primary", "secondary"], taxIdKeys: ["TPRIMARY", "TSECONDARY"] },
  ]);
  const found = await find(new Map(keys));
  for (const { id, primary, lookups } of made) {
    const { hits, entities } = found.get(id) as FoundEntities;
    expect([...entities.keys()]).toEqual([primary]);
    for (const { lookup, from } of lookups) {
      expect(resolve(lookup, hits), lookup.by).toBe(primary);
      expect(redirectedFrom(lookup, entities.get(primary) as EntityState, hits), lookup.by).toBe(from);
    }
  }
});

test.each([true, false])(
  "rules 78, 79, 83: whether organizations meet or not (%s), reads and writes at once by every key are of the survivor",
  async (joinsOrganizations) => {
    const made = await withMerged();
    const [reader, writer] = [createReader(orm, { joinsOrganizations }), createWriter(orm, { joinsOrganizations })];
    const calls = made.flatMap(({ lookups, ...one }) => lookups.map((each) => ({ ...one, ...each })));
    const found = await Promise.all(calls.map(({ id, lookup }) => reader.find(id, [lookup])));
    calls.forEach(({ lookup, primary, from }, i) => {
      const { hits, entities } = found[i] as FoundEntities;
      expect(resolve(lookup, hits), lookup.by).toBe(primary);
      expect(redirectedFrom(lookup, entities.get(primary) as EntityState, hits), lookup.by).toBe(from);
    });
    const written = await Promise.all(
      calls.map(({ id, lookup }, i) => writer.write(id, toOneEntity(rename("", `name ${i}`, { lookup })))),
    );
    calls.forEach(({ primary, from, lookup }, i) => {
      const { after, redirectedFrom: named } = outcomeOf(written[i]);
      expect([after.id, named], lookup.by).toEqual([primary, from]);
    });
    const rows = await service.sql<{ version: string }>(
      "select version from entity where id = any($1) order by merged_into nulls first",
      [made.map(({ primary }) => primary)],
    );
    // Created, merged, and renamed by each of the keys.
    expect(rows.map(({ version }) => Number(version))).toEqual(made.map(({ lookups }) => 2 + lookups.length));
  },
);

describe("keys that are looked up together", () => {
  test("each has its own owner, a second time too, and one that nobody has has none", async () => {
    const [one, two] = [await service.newOrganization(), await service.newOrganization()];
    const owners = await findApiKeys(orm, [one.apiKey, "es_nobody", two.apiKey, one.apiKey]);
    expect(owners.map((owner) => owner && [owner.organizationId, owner.apiKeyId])).toEqual([
      [one.id, one.apiKeyId],
      null,
      [two.id, two.apiKeyId],
      [one.id, one.apiKeyId],
    ]);
    expect(owners[0]?.scopes).toContain("admin");
    expect(await findApiKeys(orm, [])).toEqual([]);
  });
});

/** In the statement of every lookup by external ids, and in none that the service of this file, in the same process, has on its own. */
const LOOKUP = "from external_id x";
const lookupsOf = ({ mock }: MockInstance<NamedStatementClient["sendBehind"]>) =>
  mock.calls.filter(([, text]) => text.includes(LOOKUP));

describe("reads that meet", () => {
  test("a key that the database refuses fails alone", async () => {
    const reader = createReader(orm);
    const found = await Promise.allSettled([
      reader.find(a, [{ by: "external_id", key: "same" }]),
      reader.find(organizations[2] as string, [{ by: "entity_id", key: "no uuid" }]),
      reader.find(b, [{ by: "external_id", key: "same" }]),
    ]);
    expect(found.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(
      String((found[1] as PromiseRejectedResult).reason.cause ?? (found[1] as PromiseRejectedResult).reason),
    ).toContain("uuid");
  });

  test("the connection is lost in the middle: DATABASE_UNAVAILABLE to all, and the next read finds", async () => {
    await using own = disposable(openOrm());
    const reader = createReader(own.orm);
    const findAll = () =>
      Promise.all(
        organizations.map((id) =>
          reader.find(id, [{ by: "external_id", key: "same" }]).then(
            ({ entities }) => [...entities.values()].map(({ name }) => name).join(),
            (error: DomainError) => error.reason,
          ),
        ),
      );
    await using other = await connection();
    await other.query("begin; lock table entity in access exclusive mode");
    const lost = findAll();
    const [pid] = await waitingOnLocks(1);
    await service.sql("select pg_terminate_backend($1)", [pid]);
    await other.query("rollback");
    const ends = await lost;
    const failed = ends.filter((end) => end === "DATABASE_UNAVAILABLE").length;
    // Those of the next statement have another connection.
    expect(failed).toBeGreaterThan(1);
    ends.forEach((end, i) => end === "DATABASE_UNAVAILABLE" || expect(end).toBe(organizations[i]));
    expect(await findAll()).toEqual(organizations);
  });

  test("a thousand lookups of one organization that wait: another's lone one is in the next statement that is made", async () => {
    const reader = createReader(orm);
    const send = vi.spyOn(NamedStatementClient.prototype, "sendBehind");
    const many = Array.from({ length: 1_000 }, (_, i) => reader.find(a, [{ by: "external_id", key: `nobody ${i}` }]));
    await expect.poll(() => lookupsOf(send).length, { interval: 0 }).toBeGreaterThanOrEqual(2);
    const before = lookupsOf(send).length;
    const lone = reader.find(b, [{ by: "external_id", key: "same" }]);
    expect((await lone).entities.size).toBe(1);
    const sent = lookupsOf(send)
      .slice(before)
      .map(([, , values]) => JSON.stringify(values));
    // Each of the two lanes may have taken before it what it is about to send.
    expect(sent.slice(0, 3).join()).toContain(b);
    await Promise.all(many);
    send.mockRestore();
  });

  test("those that come while a statement is under way share the next one", async () => {
    const reader = createReader(orm);
    const sendBehind = vi.spyOn(NamedStatementClient.prototype, "sendBehind");
    const find = (organizationId: string) => reader.find(organizationId, [{ by: "external_id", key: "same" }]);
    const first = find(a);
    await expect.poll(() => lookupsOf(sendBehind).length, { interval: 0 }).toBe(1);
    const others = await Promise.all([find(a), find(b), find(b)]);
    for (const { entities } of [await first, ...others]) expect(entities.size).toBe(1);
    expect(lookupsOf(sendBehind)).toHaveLength(2);
    sendBehind.mockRestore();
  });

  test("a batch of lookups shares no statement with others", async () => {
    const reader = createReader(orm);
    const sendBehind = vi.spyOn(NamedStatementClient.prototype, "sendBehind");
    const [same, too] = ["same", "same too"].map((key): Lookup => ({ by: "external_id", key })) as [Lookup, Lookup];
    const found = await Promise.all([reader.find(a, [same, too]), reader.find(b, [same]), reader.find(a, [same])]);
    expect(found.map(({ hits }) => hits.externalIds.size)).toEqual([2, 1, 1]);
    expect(lookupsOf(sendBehind)).toHaveLength(2);
    sendBehind.mockRestore();
  });

  test("a statement that is held up holds up no other", async () => {
    const reader = createReader(orm);
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    const { sendBehind: original } = NamedStatementClient.prototype;
    const sendBehind = vi.spyOn(NamedStatementClient.prototype, "sendBehind");
    let isHeld = false;
    sendBehind.mockImplementation(async function (this: NamedStatementClient, ...args) {
      const isFirst = !isHeld && args[1].includes(LOOKUP);
      isHeld ||= isFirst;
      if (isFirst) await released;
      return original.apply(this, args);
    });
    const find = (organizationId: string) => reader.find(organizationId, [{ by: "external_id", key: "same" }]);
    const ended: string[] = [];
    const held = find(a).then(() => ended.push("held"));
    await expect.poll(() => isHeld, { interval: 0 }).toBe(true);
    await Promise.all([find(a), find(b)]);
    ended.push("others");
    await find(b);
    release();
    await held;
    expect(ended).toEqual(["others", "held"]);
    sendBehind.mockRestore();
  });

  test("where organizations do not share a statement, those that left first hold up nobody", async () => {
    const reader = createReader(orm, { joinsOrganizations: false });
    const gone = { aborted: true, reason: new Error("gone") };
    const ends = Promise.allSettled([
      ...organizations.slice(2, 5).map((id) => reader.find(id, [{ by: "external_id", key: "same" }], gone)),
      reader.find(b, [{ by: "external_id", key: "same" }]),
    ]);
    const statuses = (await Promise.race([ends, sleep(2_000, [])])).map(({ status }) => status);
    expect(statuses).toEqual(["rejected", "rejected", "rejected", "fulfilled"]);
  });
});

/** Waits until N backends wait on locks; their process ids. */
async function waitingOnLocks(count: number): Promise<number[]> {
  for (;;) {
    const rows = await service.sql<{ pid: number }>(
      "select pid from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'",
      [service.database.database],
    );
    if (rows.length >= count) return rows.map((row) => row.pid);
    await sleep(5);
  }
}

// --- writes --------------------------------------------------------------------------------------------------------

describe("rule 2: organizations in one transaction", () => {
  test("reads and writes of 64 on the same keys, for some seconds: no answer, row or event of another", {
    timeout: 60_000,
  }, async () => {
    const ids = await Promise.all(Array.from({ length: ORGANIZATIONS }, () => newOrganizationId(service)));
    const [writer, reader] = [createWriter(orm), createReader(orm)];
    const end = performance.now() + 4_000;
    const counts = { reads: 0, writes: 0, updates: 0 };
    const own = (organizationId: string, state: EntityState | null | undefined) => {
      if (state == null) return;
      expect(state.organizationId).toBe(organizationId);
      expect(state.name.split(" ")[0]).toBe(organizationId);
    };
    await Promise.all(
      ids.flatMap((organizationId, o) =>
        [0, 1].map(async (caller) => {
          for (let i = 0; performance.now() < end; i++) {
            const key = `shared ${(i + o) % 5}`;
            const name = `${organizationId} ${caller} ${i}`;
            const upsert: OneEntityCommand = {
              ...creation(name, key, "40-4"),
              lookup: { by: "external_id", key },
              allowMissing: true,
              decide: (entity, { now }) =>
                entity === null
                  ? newEntity({ type: "person", countryCode: "AR", name, externalId: key, taxId: "40-4" }, "", now)
                  : update(entity, { name }, ""),
            };
            const plain = rename(key, name, { request: requestOf(randomUUID()) });
            const written = await writer.write(organizationId, toOneEntity(i < 5 ? upsert : plain));
            const { before, after } = outcomeOf(written);
            own(organizationId, before);
            own(organizationId, after);
            expect(after.name).toBe(name);
            counts[before === null ? "writes" : "updates"]++;
            for (const lookup of [
              { by: "external_id", key },
              { by: "tax_id", key: "404" },
              { by: "entity_id", key: after.id },
            ] as Lookup[]) {
              const { entities, hits } = await reader.find(organizationId, [lookup]);
              expect(entities.size).toBeGreaterThan(0);
              for (const entity of entities.values()) own(organizationId, entity);
              if (lookup.by === "external_id") expect(hits.externalIds.get(key)).toBe(after.id);
              counts.reads++;
            }
          }
        }),
      ),
    );
    expect(counts.writes).toBe(5 * ORGANIZATIONS);
    const [row] = await service.sql(
      `select count(distinct e.id)::int as entities, count(*)::int as events,
         bool_and(split_part(e.name, ' ', 1) = e.organization_id::text) as own_rows,
         bool_and(split_part(v.new_values ->> 'name', ' ', 1) = v.organization_id::text) as own_events,
         (select max(n)::int from (select count(distinct organization_id) as n from entity_event where organization_id = any($1) group by xmin::text) t) as together
       from entity e left join entity_event v on v.organization_id = e.organization_id and v.entity_id = e.id
       where e.organization_id = any($1)`,
      [ids],
    );
    // That each version has its event, and each begins where the one before ended, is what the service looks at in the end.
    expect(row).toMatchObject({
      entities: counts.writes,
      events: counts.writes + counts.updates,
      own_rows: true,
      own_events: true,
    });
    expect(row?.together).toBeGreaterThan(8);
    console.log(`64 organizations: ${JSON.stringify(counts)}, up to ${row?.together} in a transaction`);
  });

  test("were their settings swapped, or one there twice, nothing would be read or written that is not as one by one", async () => {
    const [one, two] = (await withOne(2)) as [string, string];
    const { take, writeTimes } = pooled(orm);
    /** A plant: the setting of the one travels before the statements of the other. */
    const swapped: Connections = {
      writeTimes,
      async take() {
        const taken = await take();
        const { client } = taken;
        const post: typeof client.post = (text, values, ...told) => {
          const isSetting = text.includes("app.organization_id");
          client.post(text, isSetting ? [values[0] === one ? two : one] : values, ...told);
        };
        const [send, query] = [client.send.bind(client), client.query.bind(client)];
        return { ...taken, client: Object.assign(Object.create(client), { post, send, query }) };
      },
    };
    for (const command of [
      creation("foreign", "two"),
      rename("one", "foreign"),
      rename("one", "foreign", { request: requestOf(randomUUID()) }),
    ]) {
      const groups = [one, two].map((organizationId) => ({ organizationId, commands: [toOneEntity(command)] }));
      const results = await writeGroupsUnlessBusy(swapped, groups, () => {});
      for (const [result] of results) expect(["undone", "busy", "NOT_FOUND"]).toContain(endOf(result));
    }
    const rows = await service.sql("select name from entity where organization_id = any($1)", [[one, two]]);
    expect(rows).toEqual([{ name: "new" }, { name: "new" }]);
    // Nor is anything where one has two groups, each decided on a state that the other changes.
    const twice = [1, 2].map((n) => ({ organizationId: one, commands: [toOneEntity(rename("one", `twice ${n}`))] }));
    const undone = await writeGroupsUnlessBusy(pooled(orm), twice, () => {});
    expect(undone.map(([result]) => endOf(result))).toEqual(["undone", "undone"]);
    expect(await namesOf([one])).toEqual(["new"]);
    // And without the plant they are done.
    const groups = [one, two].map((organizationId) => ({
      organizationId,
      commands: [toOneEntity(rename("one", organizationId))],
    }));
    const results = await writeGroupsUnlessBusy(pooled(orm), groups, () => {});
    expect(results.map(([result]) => outcomeOf(result as Result).after.name)).toEqual([one, two]);
  });

  test("16 writes of one share the transaction of the others, 17 go alone", async () => {
    const ids = await withOne(4);
    const [many, ...others] = ids as [string, ...string[]];
    for (const count of [16, 17]) {
      const writer = createWriter(orm);
      const ends = await Promise.all([
        ...Array.from({ length: count }, (_, i) => write(writer, many, rename("one", `${i} of ${count}`))),
        ...others.map((id) => write(writer, id, rename("one", `beside ${count}`))),
      ]);
      expect(new Set(ends)).toEqual(new Set(["done"]));
      const transactions = await transactionsOf(ids);
      const [shared, ...more] = new Set(others.map((id) => transactions.get(id)));
      expect(more).toEqual([]);
      expect(transactions.get(many) === shared, `${count}`).toBe(count === 16);
    }
  });

  test("the usual update is two writes to PostgreSQL, with one Sync each", async () => {
    const [organizationId] = (await withOne(1)) as [string];
    const writer = createWriter(orm);
    // Its statements are prepared.
    await write(writer, organizationId, rename("one", "first"));
    const query = vi.spyOn(pg.Client.prototype, "query");
    expect(await write(writer, organizationId, rename("one", "second"))).toBe("done");
    const sentTo = query.mock.contexts.filter((_, i) => (query.mock.calls[i]?.[0] as unknown) instanceof Batch);
    query.mockRestore();
    expect(sentTo).toHaveLength(2);
    expect(sentTo[0]).toBe(sentTo[1]);
  });

  test("one organization has two transactions at a time, several have more; all is done", async () => {
    await using proxy = await startProxy();
    await using own = disposable(openOrm(proxy));
    const pool = await poolOf(own.orm);
    // Connections are there before anything is counted.
    await Promise.all(Array.from({ length: 8 }, () => pool.query("select pg_sleep(0.05)")));
    const taken = new Set<unknown>();
    let most = 0;
    pool.on("acquire", (client) => (most = Math.max(most, taken.add(client).size)));
    pool.on("release", (_, client) => taken.delete(client));
    /** What each organization writes, a turn of the event loop apart; and how many transactions there were at a time. */
    const atATime = async (ids: readonly string[]): Promise<number> => {
      const writer = createWriter(own.orm);
      most = 0;
      const written: Promise<string>[] = [];
      // However fast the database is, the first are still there when the last come.
      proxy.freeze(true);
      for (let i = 0; i < 60; i++) {
        written.push(write(writer, ids[i % ids.length] as string, creation(`x ${i}`, randomUUID())));
        await new Promise(setImmediate);
      }
      proxy.freeze(false);
      expect(new Set(await Promise.all(written))).toEqual(new Set(["done"]));
      return most;
    };
    const ids = await withOne(8);
    expect(await atATime(ids.slice(0, 1))).toBeLessThanOrEqual(2);
    expect(await atATime(ids)).toBeGreaterThan(2);
  });

  test("nothing of a shared statement or transaction is left on its connection", async () => {
    await using own = disposable(openOrm({}, { poolSize: 2 }));
    const [writer, reader] = [createWriter(own.orm), createReader(own.orm)];
    const ids = await withOne(8);
    for (let round = 0; round < 3; round++) {
      await Promise.all(ids.map((id) => write(writer, id, rename("one", `n${round}`))));
      await Promise.all(ids.map((id) => reader.find(id, [{ by: "external_id", key: "one" }])));
      const pool = await poolOf(own.orm);
      const left = await Promise.all(
        [1, 2].map(() =>
          pool.query(
            "select pg_sleep(0.02), current_setting('app.organization_id', true) as id, current_setting('lock_timeout') as locks, current_setting('plan_cache_mode') as plans, (select count(*)::int from entity) as rows",
          ),
        ),
      );
      for (const { rows } of left) expect(rows[0]).toMatchObject({ id: "", locks: "2s", plans: "auto", rows: 0 });
    }
  });

  test("64 writers on one entity beside 63 other organizations: versions without a gap, each from the state before it", async () => {
    const ids = await withOne(ORGANIZATIONS);
    const [hot, ...others] = ids as [string, ...string[]];
    const writer = createWriter(orm);
    const [own, rest] = await Promise.all([
      Promise.all(
        Array.from({ length: 64 }, (_, w) =>
          Promise.all([0, 1, 2].map((i) => writer.write(hot, toOneEntity(rename("one", `w${w} ${i}`))))),
        ),
      ),
      Promise.all(others.flatMap((id) => [0, 1, 2].map((i) => write(writer, id, rename("one", `other ${i}`))))),
    ]);
    expect(new Set(rest)).toEqual(new Set(["done"]));
    const outcomes = own.flat().map((result) => outcomeOf(result));
    const byVersion = outcomes.toSorted((x, y) => x.after.version - y.after.version);
    expect(byVersion.map(({ after }) => after.version)).toEqual(outcomes.map((_, i) => i + 2));
    byVersion.forEach(({ before }, i) => {
      if (i > 0)
        expect([before?.etag, before?.name]).toEqual([byVersion[i - 1]?.after.etag, byVersion[i - 1]?.after.name]);
    });
  });
});

/** By which the service measures how long something takes; it moves where a test says so. */
function standingClock(): Disposable & { passes(ms: number): void } {
  vi.useFakeTimers({ toFake: ["performance"] });
  return { passes: (ms) => void vi.advanceTimersByTime(ms), [Symbol.dispose]: () => void vi.useRealTimers() };
}

describe("what fails or waits for one organization", () => {
  /** One command of the first, beside one of each other, which are done while that of the first is not. */
  async function besideOthers(ids: readonly string[], writer: Writer, command: OneEntityCommand) {
    const [first, ...others] = ids as [string, ...string[]];
    const name = randomUUID();
    const own = write(writer, first, command);
    const begun = performance.now();
    const rest = await Promise.all(others.map((id) => write(writer, id, rename("one", name))));
    const tookMs = performance.now() - begun;
    expect(rest).toEqual(others.map(() => "done"));
    expect(await namesOf(others)).toEqual(others.map(() => name));
    return { own, others, tookMs };
  }

  test("a refused command: the others are done in its transaction", async () => {
    const ids = await withOne(6);
    const writer = createWriter(orm);
    const { own, others } = await besideOthers(ids, writer, rename("one", "refused", { etag: randomUUID() }));
    expect(await own).toBe("ETAG_MISMATCH");
    expect(new Set((await transactionsOf(others)).values()).size).toBe(1);
    expect(await write(writer, ids[0] as string, rename("nobody", "x"))).toBe("NOT_FOUND");
  });

  test("a rule with a defect: the others are done, it fails, and for a second its organization goes alone", async () => {
    using clock = standingClock();
    const ids = await withOne(6);
    const [first, ...others] = ids as [string, ...string[]];
    const writer = createWriter(orm);
    const broken = rename("one", "x", {
      decide: () => {
        throw new TypeError("a defect");
      },
    });
    const { own } = await besideOthers(ids, writer, broken);
    expect(await own).toContain("a defect");
    const round = async () => {
      const ends = await Promise.all(ids.map((id) => write(writer, id, rename("one", randomUUID()))));
      expect(new Set(ends)).toEqual(new Set(["done"]));
      const transactions = await transactionsOf(ids);
      expect(new Set(others.map((id) => transactions.get(id))).size).toBe(1);
      return transactions.get(first) === transactions.get(others[0] as string);
    };
    expect(await round()).toBe(false);
    clock.passes(999);
    expect(await round()).toBe(false);
    clock.passes(1);
    expect(await round()).toBe(true);
  });

  test("one that is to blame shares no transaction for a second, even where it is the only one: others may come meanwhile", async () => {
    using _ = standingClock();
    const [first, second] = (await withOne(2)) as [string, string];
    const writer = createWriter(orm);
    const broken = rename("one", "x", {
      decide: () => {
        throw new TypeError("a defect");
      },
    });
    await Promise.all([write(writer, first, broken), write(writer, second, rename("one", "beside"))]);
    const post = vi.spyOn(NamedStatementClient.prototype, "post");
    const shared = () => post.mock.calls.filter(([text]) => text.includes("set_config('lock_timeout', $2")).length;
    expect(await write(writer, first, rename("one", "alone"))).toBe("done");
    expect(shared()).toBe(0);
    expect(await write(writer, second, rename("one", "beside"))).toBe("done");
    expect(shared()).toBe(1);
    post.mockRestore();
  });

  test("a status that the database refuses: the others are done, and it fails alone", async () => {
    const ids = await withOne(6);
    const odd = creation("odd");
    const { own } = await besideOthers(ids, createWriter(orm), {
      ...odd,
      decide: (entity, world) => {
        const change = odd.decide(entity, world);
        return change && { ...change, values: { ...change.values, status: "odd" as never } };
      },
    });
    expect(await own).toContain("Error");
  });

  const holds = {
    "a row": {
      hold: "select 1 from entity where organization_id = $1 and external_id = 'one' for update",
      command: () => rename("one", "waited"),
      after: "done",
    },
    "the claim of a request id": {
      hold: `insert into request_record (organization_id, principal, method, request_id, request_hash, created_at)
        values ($1, '00000000-0000-7000-8000-00000000aaaa', 'Test', '00000000-0000-7000-8000-00000000bbbb', 'same', clock_timestamp())`,
      command: () => rename("one", "waited", { request: requestOf("00000000-0000-7000-8000-00000000bbbb") }),
      after: "done",
    },
    "an external id that it inserts": {
      hold: `insert into external_id (organization_id, external_id, entity_id, is_primary, attached_at)
        select $1, 'wanted', id, false, now() from entity where organization_id = $1`,
      command: () => creation("waited", "wanted"),
      after: "done",
    },
  };

  test.each(Object.entries(holds))(
    "another session holds %s: the others do not wait for it",
    async (_, { hold, command, after }) => {
      const ids = await withOne(6);
      const first = ids[0] as string;
      await using other = await connection();
      await other.query("begin");
      await other.query(hold, [first]);
      const { own, tookMs } = await besideOthers(ids, createWriter(orm), command());
      // The lock time of the shared transaction is 50 ms; of one alone it is 2 s.
      expect(tookMs).toBeLessThan(1_000);
      expect(await Promise.race([own, sleep(0, "waits")])).toBe("waits");
      await other.query("rollback");
      expect(await own).toBe(after);
    },
  );

  test("another transaction takes the external id that it inserts: it is refused, and the others are done", async () => {
    const ids = await withOne(6);
    const first = ids[0] as string;
    await using other = await connection();
    await other.query("begin");
    await other.query(holds["an external id that it inserts"].hold, [first]);
    const { own } = await besideOthers(ids, createWriter(orm), creation("refused", "wanted"));
    await waitingOnLocks(1);
    await other.query("commit");
    expect(await own).toBe("DUPLICATE_EXTERNAL_ID");
    const rows = await service.sql<{ id: string }>("select id from entity where organization_id = $1", [first]);
    await forget(
      service,
      rows.map(({ id }) => id),
    );
  });

  test("a statement that takes too long: DEADLINE_EXCEEDED to it, and the others are done", async () => {
    const ids = await withOne(6);
    await using own = disposable(openOrm({}, { statementTimeoutMs: 300 }));
    await service.sql(
      `create function slow() returns trigger language plpgsql as $$begin perform pg_sleep(2); return new; end$$`,
    );
    await service.sql(
      `create trigger slow before update on entity for each row when (new.organization_id = '${ids[0]}') execute function slow()`,
    );
    try {
      const writer = createWriter(own.orm);
      const { own: slow } = await besideOthers(ids, writer, rename("one", "slow"));
      expect(await slow).toBe("DEADLINE_EXCEEDED");
      expect(await namesOf([ids[0] as string])).toEqual(["new"]);
    } finally {
      await service.sql("drop trigger slow on entity; drop function slow");
    }
  });

  test("a thousand commands that wait: another's lone one does not wait for them", async () => {
    const [many, lone] = (await withOne(2)) as [string, string];
    const writer = createWriter(orm);
    let done = 0;
    const all = Array.from({ length: 1_000 }, (_, i) =>
      write(writer, many, rename("one", `n${i}`)).then((end) => (done++, end)),
    );
    await expect.poll(() => done, { interval: 0 }).toBeGreaterThan(0);
    const before = done;
    expect(await write(writer, lone, rename("one", "lone"))).toBe("done");
    // Two transactions of it that are under way, and two that end before that of the other.
    expect(done - before).toBeLessThanOrEqual(4 * 128);
    expect(new Set(await Promise.all(all))).toEqual(new Set(["done"]));
  });
});

describe("the connection is cut at the COMMIT that organizations share", () => {
  test.each([
    ["before" as const, "done"],
    ["after" as const, "replayed"],
  ])("%s it: COMMIT_UNKNOWN to all, and a retry with the same request ids is %s", async (when, again) => {
    await using proxy = await startProxy();
    await using through = disposable(openOrm(proxy));
    const ids = await withOne(6);
    const writer = createWriter(through.orm);
    const requests = ids.map(() => requestOf(randomUUID()));
    const send = () =>
      Promise.all(ids.map((id, i) => write(writer, id, rename("one", "written", { request: requests[i] }))));
    proxy.cutAtCommit(when);
    expect(await send()).toEqual(ids.map(() => "COMMIT_UNKNOWN"));
    expect(proxy.cuts()).toBe(1);
    await expect.poll(() => namesOf(ids)).toEqual(ids.map(() => (when === "before" ? "new" : "written")));
    expect(await send()).toEqual(ids.map(() => again));
    expect(await send()).toEqual(ids.map(() => "replayed"));
    const [row] = await service.sql(
      "select count(*)::int as events from entity_event where organization_id = any($1)",
      [ids],
    );
    expect(row).toEqual({ events: 2 * ids.length });
  });
});
