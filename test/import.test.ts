import { once } from "node:events";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { connect as connectHttp2 } from "node:http2";
import { create, fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  createEntityClient,
  Designation,
  type Entity,
  type EntityClient,
  EntitySchema,
  EntityStatus,
  EntityType,
  EventType,
  errorInfo,
  ImportEntitiesRequestSchema,
  ImportEntitiesResponseSchema,
  ImportOutcome,
  type ImportResult,
} from "../clients/typescript/index.ts";
import { cli, startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { envelope } from "./frames.ts";
import { byExternalId, eventsOf } from "./given.ts";
import { refusal, startService, type TestService } from "./harness.ts";

const { CREATED, UPDATED, UNCHANGED, FAILED } = ImportOutcome;

type Row = Parameters<EntityClient["entities"]["importEntities"]>[0] extends AsyncIterable<infer T> ? T : never;

const person = (externalId: string, values: Record<string, unknown> = {}): Row => ({
  entity: { externalId, type: EntityType.PERSON, name: "Ana", countryCode: "AR", ...values },
});

/** The row with more beside its entity. */
const having = (row: Row, rest: Partial<Exclude<Row, { $typeName: string }>>): Row => ({ ...row, ...rest }) as Row;

/** Imports rows; returns their results in the order of the answers, which is the order of the rows. */
async function importAll(client: EntityClient, rows: Iterable<Row> | AsyncIterable<Row>) {
  const results: ImportResult[] = [];
  const counts = { created: 0n, updated: 0n, unchanged: 0n, failed: 0n };
  for await (const response of client.entities.importEntities(
    (async function* () {
      yield* rows;
    })(),
  )) {
    results.push(...response.results);
    const { created = 0n, updated = 0n, unchanged = 0n, failed = 0n } = response.progress ?? {};
    Object.assign(counts, { created, updated, unchanged, failed });
  }
  expect(results.map(({ row }) => row)).toEqual(results.map((_, index) => BigInt(index)));
  return { results, outcomes: results.map(({ outcome }) => outcome), counts };
}

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

describe("rule 154: a row with external ids", () => {
  const { PRIMARY } = Designation;
  const found = async (externalId: string) =>
    (await service.client.entities.getEntity({ lookup: byExternalId(externalId) })).entity as Entity;
  const idsOf = ({ externalIds }: Entity) =>
    externalIds.map(({ externalId, type, designation }) => [externalId, type, designation === PRIMARY]);
  const reasonOf = ({ error }: ImportResult) => error && errorInfo(error)?.reason;

  it("rule 154: creates the entity with all of them, in one event, and is unchanged when it comes again", async () => {
    const row = having(person("a-1", { status: EntityStatus.BLOCKED }), {
      reason: "was blocked there",
      externalIds: [
        { externalId: "a-1", type: "crm", designation: PRIMARY },
        { externalId: "a-2", type: "cif" },
        { externalId: "a-3" },
      ],
    });
    expect((await importAll(service.client, [row, row])).outcomes).toEqual([CREATED, UNCHANGED]);
    const entity = await found("a-2");
    expect(idsOf(entity)).toEqual([
      ["a-1", "crm", true],
      ["a-2", "cif", false],
      ["a-3", "", false],
    ]);
    expect(await eventsOf(service.client, entity)).toMatchObject([
      { type: EventType.CREATED, externalIds: ["a-1", "a-2", "a-3"], reason: "was blocked there" },
    ]);
  });

  it("rule 154: attaches those that are new to an entity that is there, in the event of its other changes", async () => {
    await importAll(service.client, [person("b-1")]);
    const more = having(person("b-1"), { externalIds: [{ externalId: "b-2", type: "erp" }] });
    expect((await importAll(service.client, [more])).outcomes).toEqual([UPDATED]);
    const both = having(person("b-1", { name: "Eva" }), {
      externalIds: [{ externalId: "b-2" }, { externalId: "b-3" }],
    });
    expect((await importAll(service.client, [both])).outcomes).toEqual([UPDATED]);
    const entity = await found("b-3");
    expect(idsOf(entity)).toEqual([
      ["b-1", "", true],
      ["b-2", "erp", false],
      ["b-3", "", false],
    ]);
    const events = await eventsOf(service.client, entity);
    expect(events.map(({ type, updatedFields }) => [type, updatedFields]).slice(1)).toEqual([
      [EventType.EXTERNAL_ID_CHANGED, ["externalIds"]],
      [EventType.ATTRIBUTE_CHANGED, ["externalIds", "name"]],
    ]);
  });

  it("rule 154: makes the external id of the row the primary again where it says so, and only that one", async () => {
    await importAll(service.client, [having(person("c-1"), { externalIds: [{ externalId: "c-2" }] })]);
    const primary = having(person("c-2"), { externalIds: [{ externalId: "c-2", designation: PRIMARY }] });
    expect((await importAll(service.client, [primary])).outcomes).toEqual([UPDATED]);
    expect(idsOf(await found("c-1"))).toEqual([
      ["c-2", "", true],
      ["c-1", "", false],
    ]);
    const other = having(person("c-1"), { externalIds: [{ externalId: "c-3", designation: PRIMARY }] });
    const twice = having(person("c-1"), { externalIds: [{ externalId: "c-3" }, { externalId: " c-3" }] });
    const blank = having(person("c-1"), { externalIds: [{ externalId: " " }] });
    const { results } = await importAll(service.client, [other, twice, blank]);
    expect(results.map(({ error }) => error && errorInfo(error)?.fieldViolations.map(({ field }) => field))).toEqual([
      ["external_ids[0].designation"],
      ["external_ids[1].external_id"],
      ["external_ids[0].external_id"],
    ]);
  });

  it("rule 154: one of another entity's fails the row, of which nothing is written", async () => {
    await importAll(service.client, [person("d-1")]);
    const { results, outcomes } = await importAll(service.client, [
      having(person("d-2"), { externalIds: [{ externalId: "d-3" }, { externalId: "d-1" }] }),
      person("d-4"),
    ]);
    expect(outcomes).toEqual([FAILED, CREATED]);
    expect(reasonOf(results[0] as ImportResult)).toBe("DUPLICATE_EXTERNAL_ID");
    expect(errorInfo(results[0]?.error as never)?.metadata.field).toBe("external_ids[1].external_id");
    for (const externalId of ["d-2", "d-3"]) {
      expect((await refusal(service.client.entities.getEntity({ lookup: byExternalId(externalId) }))).reason).toBe(
        "NOT_FOUND",
      );
    }
  });

  it("rule 154: at most 100 of an entity", async () => {
    const externalIds = Array.from({ length: 100 }, (_, i) => ({ externalId: `e-${i}` }));
    const { results } = await importAll(service.client, [having(person("e"), { externalIds })]);
    expect(reasonOf(results[0] as ImportResult)).toBe("VALIDATION_ERROR");
    expect((await importAll(service.client, [having(person("e-0"), { externalIds })])).outcomes).toEqual([CREATED]);
  });

  it("update_mask: writes its paths, and clears those that the row leaves unset", async () => {
    await importAll(service.client, [person("m-1", { taxId: "1", nationality: "AR" })]);
    const row = having(person("m-1", { name: "Eva" }), { updateMask: { paths: ["tax_id", "nationality"] } });
    expect((await importAll(service.client, [row])).outcomes).toEqual([UPDATED]);
    const { name, taxId, nationality } = await found("m-1");
    expect([name, taxId, nationality]).toEqual(["Ana", undefined, undefined]);
  });

  it("update_only: a row whose entity is not there is NOT_FOUND", async () => {
    await importAll(service.client, [person("u-1")]);
    const { results, outcomes } = await importAll(service.client, [
      having(person("u-1", { name: "Eva" }), { updateOnly: true }),
      having(person("u-2"), { updateOnly: true }),
    ]);
    expect(outcomes).toEqual([UPDATED, FAILED]);
    expect(reasonOf(results[1] as ImportResult)).toBe("NOT_FOUND");
  });
});

describe("ImportEntities", () => {
  it("rows: creates, updates, leaves unchanged what is there already, and says so of each row in order", async () => {
    const first = await importAll(service.client, [person("row-1"), person("row-2", { name: "Eva" })]);
    expect(first.outcomes).toEqual([CREATED, CREATED]);
    const second = await importAll(service.client, [
      person("row-1"),
      person("row-2", { name: "Eva María" }),
      person("row-3"),
    ]);
    expect(second.outcomes).toEqual([UNCHANGED, UPDATED, CREATED]);
    expect(second.counts).toEqual({ created: 1n, updated: 1n, unchanged: 1n, failed: 0n });
    expect(second.results[0]?.entityId).toBe(first.results[0]?.entityId);
    const { entity } = await service.client.entities.getEntity({
      lookup: { by: { case: "externalId", value: "row-2" } },
    });
    expect(entity).toMatchObject({ id: first.results[1]?.entityId, name: "Eva María" });
  });

  it("rows with much in them are written few at a time, small ones together", async () => {
    const rowsOfAnswers = async (rows: Row[]) => {
      const counts: number[] = [];
      const answers = service.client.entities.importEntities(
        (async function* () {
          yield* rows;
        })(),
      );
      for await (const { results } of answers) counts.push(results.length);
      return counts;
    };
    const rows = (prefix: string, attributes: Record<string, string>) =>
      Array.from({ length: 40 }, (_, i) => person(`${prefix}-${i}`, { attributes }));
    const large = await rowsOfAnswers(rows("much", { text: "x".repeat(60_000) }));
    expect(large.reduce((a, b) => a + b)).toBe(40);
    expect(Math.max(...large)).toBeLessThanOrEqual(2);
    const small = await rowsOfAnswers(rows("little", { text: "x" }));
    expect(small.reduce((a, b) => a + b)).toBe(40);
    expect(Math.max(...small)).toBeGreaterThan(2);
  });

  it("a quarter of MAX_IN_FLIGHT may be open; one organization leaves room to others", async () => {
    await using own = await startService({ config: { maxInFlight: 32 } });
    const other = await own.newOrganization();
    const closing: (() => void)[] = [];
    const ends: Promise<unknown>[] = [];
    /** Opens an import that stays open; whether its first row was answered. */
    async function opens(client: EntityClient): Promise<string> {
      const { promise: closed, resolve: close } = Promise.withResolvers<void>();
      closing.push(close);
      const answered = Promise.withResolvers<string>();
      const read = async () => {
        const rows = async function* () {
          yield person(`open-${closing.length}`);
          await closed;
        };
        for await (const _ of client.entities.importEntities(rows())) answered.resolve("open");
      };
      ends.push(read().catch((error: unknown) => answered.resolve(errorInfo(error)?.reason ?? String(error))));
      return answered.promise;
    }
    const outcomes: string[] = [];
    while (outcomes.at(-1) !== "OVERLOADED" && outcomes.length < 32) outcomes.push(await opens(own.client));
    // Of eight places, half.
    expect(outcomes).toEqual(["open", "open", "open", "open", "OVERLOADED"]);
    expect(await opens(other.client)).toBe("open");
    expect(await opens(other.client)).toBe("open");
    expect((await own.client.entities.listEntities({})).entities).toHaveLength(4);
    for (const close of closing) close();
    await Promise.all(ends);
  });

  it("an empty stream ends without an answer and without an error", async () => {
    expect((await importAll(service.client, [])).results).toEqual([]);
  });

  it("a row at fault fails alone, with the reason and the field that UpdateEntity would have answered", async () => {
    const { results, outcomes } = await importAll(service.client, [
      person("fault-1"),
      person("fault-2", { name: "" }),
      person("fault-3", { countryCode: "Argentina" }),
      { ...person("fault-4", { status: 6 }) },
      person("", {}),
      person("fault-1", { type: EntityType.COMPANY }),
      person("fault-5", { name: "x\ud800" }),
      { ...person("fault-6"), requestId: "no uuid" },
      {},
      person("fault-7"),
    ]);
    expect(outcomes).toEqual([CREATED, FAILED, FAILED, FAILED, FAILED, FAILED, CREATED, FAILED, FAILED, CREATED]);
    expect(
      results.map(({ error }) => error && [errorInfo(error)?.reason, errorInfo(error)?.fieldViolations[0]?.field]),
    ).toEqual([
      undefined,
      ["VALIDATION_ERROR", "entity.name"],
      ["VALIDATION_ERROR", "entity.country_code"],
      ["STATUS_REASON_REQUIRED", "reason"],
      ["VALIDATION_ERROR", "entity.external_id"],
      ["IMMUTABLE_FIELD", "entity.type"],
      undefined, // the encoder of the client has put U+FFFD for the lone surrogate
      ["VALIDATION_ERROR", "request_id"],
      ["VALIDATION_ERROR", "entity.external_id"],
      undefined,
    ]);
    for (const { error, entityId } of results) if (error !== undefined) expect(entityId).toBe("");
  });

  it("1,000 rows of one new external id: one creates, the others update it in their order", async () => {
    const { results, outcomes } = await importAll(
      service.client,
      Array.from({ length: 1000 }, (_, i) => person("thousand", { name: `Ana ${Math.floor(i / 2)}` })),
    );
    expect(outcomes).toEqual(
      Array.from({ length: 1000 }, (_, i) => (i === 0 ? CREATED : i % 2 === 1 ? UNCHANGED : UPDATED)),
    );
    expect(new Set(results.map(({ entityId }) => entityId)).size).toBe(1);
    const { entity } = await service.client.entities.getEntity({
      lookup: { by: { case: "externalId", value: "thousand" } },
    });
    expect(entity?.name).toBe("Ana 499");
    const names = await service.sql<{ name: string }>(
      "select new_values->>'name' as name from entity_event where entity_id = $1 order by entity_version",
      [entity?.id],
    );
    expect(names.map(({ name }) => name)).toEqual(Array.from({ length: 500 }, (_, i) => `Ana ${i}`));
  });

  it("what it creates is listed in the order of its rows, and so are the events", async () => {
    const { client, id } = await service.newOrganization();
    const rows = Array.from({ length: 900 }, (_, i) => person(`row-${i}`));
    const { results } = await importAll(client, rows);
    const made = results.map(({ entityId }) => entityId);
    const { entities } = await client.entities.listEntities({ pageSize: 1000 });
    expect(entities.map((entity) => entity.id)).toEqual(made);
    const events = await service.sql<{ entity_id: string }>(
      "select entity_id from entity_event where organization_id = $1 order by id",
      [id],
    );
    expect(events.map((event) => event.entity_id)).toEqual(made);
  });

  it("two imports of the same rows at once: each entity once, and no row is lost", async () => {
    const rows = Array.from({ length: 600 }, (_, i) => person(`both-${i}`));
    const answers = await Promise.all([importAll(service.client, rows), importAll(service.client, rows.toReversed())]);
    expect(answers.map(({ counts }) => counts.failed)).toEqual([0n, 0n]);
    expect(answers.map(({ counts }) => counts.created).reduce((a, b) => a + b)).toBe(600n);
    const [{ count }] = (await service.sql("select count(*) from external_id where external_id like 'both-%'")) as [
      { count: string },
    ];
    expect(count).toBe("600");
  });

  it("rule 38: rows with validate_only are checked and not written, among rows that are", async () => {
    const before = await service.sql("select count(*) from entity_event");
    const { outcomes } = await importAll(service.client, [
      { ...person("dry-1"), validateOnly: true },
      { ...person("dry-2", { name: "" }), validateOnly: true },
      { ...person("row-1", { name: "Other" }), validateOnly: true },
    ]);
    expect(outcomes).toEqual([CREATED, FAILED, UPDATED]);
    expect(await service.sql("select count(*) from entity_event")).toEqual(before);
    const mixed = await importAll(service.client, [
      person("wet-1"),
      { ...person("wet-1", { name: "Rehearsed" }), validateOnly: true },
      { ...person("dry-3"), validateOnly: true },
      person("wet-1"),
    ]);
    expect(mixed.outcomes).toEqual([CREATED, UPDATED, CREATED, UNCHANGED]);
    expect(
      await refusal(service.client.entities.getEntity({ lookup: { by: { case: "externalId", value: "dry-3" } } })),
    ).toMatchObject({
      reason: "NOT_FOUND",
    });
  });

  it("rule 39: a row with a request_id answers as it did first, and is refused with another request", async () => {
    const requestId = "5e0f6c3a-52a5-4b7e-9a39-6a1d0c1f7a01";
    const row: Row = { ...person("replay-1"), requestId };
    const first = await importAll(service.client, [row]);
    const second = await importAll(service.client, [
      row,
      { ...person("replay-1", { name: "Eva" }), requestId },
      person("replay-2"),
    ]);
    expect(second.outcomes).toEqual([CREATED, FAILED, CREATED]);
    expect(second.results[0]?.entityId).toBe(first.results[0]?.entityId);
    expect(errorInfo(second.results[1]?.error)?.reason).toBe("REQUEST_ID_REUSED");
  });

  it("a reader that does not read is waited for: the service takes no more rows, and goes on when it reads", async () => {
    const total = 8_000;
    const session = connectHttp2(service.baseUrl);
    try {
      // Not the generated client, which reads ahead.
      const stream = session.request({
        ":method": "POST",
        ":path": "/entity.v1.EntityService/ImportEntities",
        "content-type": "application/grpc",
        te: "trailers",
        authorization: `Bearer ${service.organization.apiKey}`,
      });
      stream.pause();
      let sent = 0;
      const sending = (async () => {
        for (; sent < total; sent++) {
          const { entity } = person(`slow-${sent % 10}`, { attributes: { padding: "x".repeat(1000) } });
          const message = create(ImportEntitiesRequestSchema, { entity: entity as Entity });
          const row = envelope(toBinary(ImportEntitiesRequestSchema, message));
          await new Promise((resolve) => stream.write(row, resolve));
        }
        stream.end();
      })();
      // The buffers of both ends hold 64 KiB of answers and of rows, and two groups, and no more however long it takes.
      let before = -1;
      for (let quiet = 0; quiet < 4; ) {
        await new Promise((resolve) => setTimeout(resolve, 500));
        quiet = sent === before && sent > 0 ? quiet + 1 : 0;
        before = sent;
      }
      expect(sent).toBeLessThan(5_000);

      const chunks: Buffer[] = [];
      stream.on("data", (chunk: Buffer) => chunks.push(chunk)).resume();
      const [[trailers]] = await Promise.all([once(stream, "trailers"), once(stream, "end"), sending]);
      expect((trailers as Record<string, string>)["grpc-status"]).toBe("0");
      const answers = messagesIn(Buffer.concat(chunks)).map((bytes) => fromBinary(ImportEntitiesResponseSchema, bytes));
      expect(answers.flatMap(({ results }) => results)).toHaveLength(total);
    } finally {
      session.destroy();
    }
  });

  it("a caller that goes away in the middle leaves the service well, and what was answered is there", async () => {
    const gone = new AbortController();
    const answered: ImportResult[] = [];
    const rows = async function* () {
      for (let i = 0; ; i++) yield person(`gone-${i}`);
    };
    const call = async () => {
      for await (const { results } of service.client.entities.importEntities(rows(), { signal: gone.signal })) {
        answered.push(...results);
        if (answered.length >= 300) gone.abort();
      }
    };
    await expect(call()).rejects.toThrow();
    const [{ count }] = (await service.sql("select count(*)::int from entity where external_id like 'gone-%'")) as [
      { count: number },
    ];
    expect(count).toBeGreaterThanOrEqual(answered.length);
    expect((await importAll(service.client, [person("gone-0"), person("after-gone")])).outcomes).toEqual([
      UNCHANGED,
      CREATED,
    ]);
    const idle = async () =>
      (
        await service.sql(
          "select 1 from pg_stat_activity where datname = current_database() and state like 'idle in trans%'",
        )
      ).length;
    await expect.poll(idle, { timeout: 5_000 }).toBe(0);
  });

  it("a message that cannot be decoded ends the stream with VALIDATION_ERROR, after the rows before it were written", async () => {
    const { messages } = await connectStream(service, [
      { entity: { externalId: "json-1", type: "ENTITY_TYPE_PERSON", name: "Ana", countryCode: "AR" } },
      { entity: { externalId: "json-2", type: "ENTITY_TYPE_PERSON", name: "Eva", countryCode: "AR" } },
      { entity: { externalId: "json-3", type: "ENTITY_TYPE_PERSON", nam: "Secret Person", countryCode: "AR" } },
      { entity: { externalId: "json-4", type: "ENTITY_TYPE_PERSON", name: "Zoe", countryCode: "AR" } },
    ]);
    const results = messages.flatMap(({ results = [] }) => results as { outcome: string }[]);
    expect(results.map(({ outcome }) => outcome)).toEqual(["IMPORT_OUTCOME_CREATED", "IMPORT_OUTCOME_CREATED"]);
    const last = messages.at(-1) as { error?: { code: string; message: string; details: { debug?: unknown }[] } };
    expect(last.error?.code).toBe("invalid_argument");
    expect(last.error?.message).toContain("entity.nam");
    expect(JSON.stringify(messages)).not.toContain("Secret");
    const found = await service.sql("select external_id from entity where external_id like 'json-%' order by 1");
    expect(found.map(({ external_id }) => external_id)).toEqual(["json-1", "json-2"]);
  });

  it("rule 2: an import without the scope is refused before any row is read", async () => {
    const reader = await service.organization.clientWith(["entities:read"]);
    const call = importAll(reader, [person("no-scope")]);
    expect(await refusal(call)).toMatchObject({ reason: "PERMISSION_DENIED", metadata: { scope: "entities:write" } });
  });
});

/** ImportEntities in Connect's streaming JSON, with the given messages. */
async function connectStream({ baseUrl, organization }: TestService, rows: unknown[]) {
  const session = connectHttp2(baseUrl);
  try {
    const stream = session.request({
      ":method": "POST",
      ":path": "/entity.v1.EntityService/ImportEntities",
      "content-type": "application/connect+json",
      authorization: `Bearer ${organization.apiKey}`,
    });
    for (const row of rows) stream.write(envelope(Buffer.from(JSON.stringify(row))));
    stream.end();
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    await once(stream, "end");
    const messages = messagesIn(Buffer.concat(chunks));
    return { messages: messages.map((bytes) => JSON.parse(bytes.toString()) as Record<string, unknown>) };
  } finally {
    session.close();
  }
}

function messagesIn(bytes: Buffer): Buffer[] {
  const messages: Buffer[] = [];
  for (let rest = bytes; rest.length > 0; ) {
    const end = 5 + rest.readUInt32BE(1);
    messages.push(rest.subarray(5, end));
    rest = rest.subarray(end);
  }
  return messages;
}

// --- Real data ----------------------------------------------------------------------------------

const OFAC = new URL("../../shared/data/ofac-entities.ndjson", import.meta.url);
/** Fields of the answer that a line cannot have. */
const OUTPUT_ONLY = [
  "id",
  "organization_id",
  "external_ids",
  "tax_id_check",
  "risk_score",
  "etag",
  "created_at",
  "updated_at",
  "deleted_at",
];

type Line = Record<string, unknown> & { external_id: string; tax_id?: string };

describe.skipIf(!existsSync(OFAC))(
  "the OFAC list (skipped where ../shared/data/ofac-entities.ndjson is not beside the repository)",
  () => {
    let ofac: TestService;
    let lines: Line[];
    beforeAll(async () => {
      ofac = await startService();
      lines = (await readFile(OFAC, "utf8"))
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as Line);
    });
    afterAll(() => ofac[Symbol.asyncDispose]());

    const rowsOf = (all: Line[]) => all.map((line): Row => ({ entity: fromJson(EntitySchema, line as never) }));

    it("8,293 entities, none lost, each read back equal to its line, field by field", async () => {
      expect(lines).toHaveLength(8293);
      const { counts } = await importAll(ofac.client, rowsOf(lines));
      expect(counts).toEqual({ created: 8293n, updated: 0n, unchanged: 0n, failed: 0n });
      let compared = 0;
      for (let from = 0; from < lines.length; from += 1000) {
        const page = lines.slice(from, from + 1000);
        const { results } = await ofac.client.entities.batchGetEntities({
          lookups: page.map((line) => ({ by: { case: "externalId", value: line.external_id } })),
        });
        results.forEach(({ result }, i) => {
          expect(writableJson(result.value as Entity)).toEqual(expectedOf(page[i] as Line));
          compared++;
        });
      }
      expect(compared).toBe(8293);
    });

    it("a second run: all unchanged, and no new event", async () => {
      const events = await ofac.sql("select count(*), max(recorded_at) from entity_event");
      const { counts } = await importAll(ofac.client, rowsOf(lines));
      expect(counts).toEqual({ created: 0n, updated: 0n, unchanged: 8293n, failed: 0n });
      expect(await ofac.sql("select count(*), max(recorded_at) from entity_event")).toEqual(events);
    });

    it("rule 10: a tax id that several have is AMBIGUOUS_TAX_ID_LOOKUP with exactly the candidates; any other finds its entity", async () => {
      const byKey = Map.groupBy(
        lines.filter(({ tax_id }) => tax_id !== undefined),
        ({ tax_id = "" }) =>
          tax_id
            .normalize("NFKC")
            .toUpperCase()
            .replaceAll(/[^A-Z0-9]/g, ""),
      );
      const shared = [...byKey.values()].filter((owners) => owners.length > 1);
      expect(shared).toHaveLength(10);
      const ids = new Map(
        (await ofac.sql<{ external_id: string; id: string }>("select external_id, id from entity")).map((row) => [
          row.external_id,
          row.id,
        ]),
      );
      for (const owners of shared) {
        for (const { tax_id = "" } of owners) {
          const refused = await refusal(
            ofac.client.entities.getEntity({ lookup: { by: { case: "taxId", value: tax_id } } }),
          );
          expect(refused.reason).toBe("AMBIGUOUS_TAX_ID_LOOKUP");
          expect(refused.metadata.candidates?.split(",").toSorted()).toEqual(
            owners.map((owner) => ids.get(owner.external_id)).toSorted(),
          );
        }
      }
      const alone = [...byKey.values()].filter((owners) => owners.length === 1).map(([owner]) => owner as Line);
      for (let from = 0; from < alone.length; from += 1000) {
        const page = alone.slice(from, from + 1000);
        const { results } = await ofac.client.entities.batchGetEntities({
          lookups: page.map(({ tax_id = "" }) => ({ by: { case: "taxId", value: tax_id } })),
        });
        expect(results.map(({ result }) => (result.value as Entity).externalId)).toEqual(
          page.map(({ external_id }) => external_id),
        );
      }
    });

    it("kill -9 of the service in the middle: what was answered is there, and the same file again completes it", async () => {
      await using folder = await temporaryFolder();
      const answered = new Map<string, string>();
      {
        const service = await startServiceProcess(folder.path);
        const client = createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: service.apiKey });
        const rows = rowsOf(lines);
        const call = async () => {
          for await (const { results } of client.entities.importEntities(
            (async function* () {
              yield* rows;
            })(),
          )) {
            for (const { row, entityId } of results) answered.set((lines[Number(row)] as Line).external_id, entityId);
            if (answered.size >= 2000) await service.kill();
          }
        };
        await expect(call()).rejects.toThrow();
      }
      expect(answered.size).toBeLessThan(8293);
      await using service = await startServiceProcess(folder.path);
      const client = createEntityClient({ retries: false, baseUrl: service.baseUrl, apiKey: service.apiKey });
      const there = await listAll(client);
      for (const [externalId, id] of answered) expect(there.get(externalId)?.id).toBe(id);

      const again = await cli(["import", OFAC.pathname, "--errors", `${folder.path}/errors`], {
        env: { ENTITY_SERVICE_URL: service.baseUrl, ENTITY_SERVICE_API_KEY: service.apiKey },
      });
      expect(again).toMatchObject({
        code: 0,
        stderr: "",
        stdout: `created ${8293 - there.size}, updated 0, unchanged ${there.size}, failed 0\n`,
      });
      const complete = await listAll(client);
      expect([...complete.keys()].toSorted()).toEqual(lines.map(({ external_id }) => external_id).toSorted());
      // Nothing changed after the creation, so one event of version 1 for each entity is the whole log.
      const versions = new Map<string, bigint[]>();
      for (let pageToken = ""; ; ) {
        const page = await client.entities.listEntityEvents({ pageSize: 1000, pageToken });
        for (const event of page.events)
          versions.set(event.entityId, [...(versions.get(event.entityId) ?? []), event.entityVersion]);
        pageToken = page.nextPageToken;
        if (pageToken === "") break;
      }
      expect(versions.size).toBe(8293);
      expect(new Set([...versions.values()].map(String))).toEqual(new Set(["1"]));
    });
  },
);

/** Every entity by its external id; fails on a duplicate. */
async function listAll(client: EntityClient): Promise<Map<string, Entity>> {
  const all = new Map<string, Entity>();
  for (let pageToken = ""; ; ) {
    const page = await client.entities.listEntities({ pageSize: 1000, pageToken });
    for (const entity of page.entities) {
      expect(all.has(entity.externalId)).toBe(false);
      all.set(entity.externalId, entity);
    }
    pageToken = page.nextPageToken;
    if (pageToken === "") return all;
  }
}

function writableJson(entity: Entity): Record<string, unknown> {
  const json = toJson(EntitySchema, create(EntitySchema, entity), { useProtoFieldName: true }) as Record<
    string,
    unknown
  >;
  return Object.fromEntries(Object.entries(json).filter(([key]) => !OUTPUT_ONLY.includes(key)));
}

/** The line, with the two values that the rules derive: the status (15) and the nationality (28). */
function expectedOf(line: Line): Record<string, unknown> {
  const nested = (line.entity_data as { person?: { nationality?: string } } | undefined)?.person?.nationality;
  const derived = nested !== undefined && /^[A-Z]{2}$/.test(nested) ? { nationality: nested } : {};
  return { status: "ENTITY_STATUS_PENDING", ...derived, ...line };
}
