// `entity-service export` and `import`: what one database exports makes the same state in another one, also where the
// export was killed in the middle.
import { existsSync } from "node:fs";
import { readFile, stat, symlink, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, connect as netConnect, type Socket } from "node:net";
import { gunzipSync } from "node:zlib";
import { fromJson } from "@bufbuild/protobuf";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type EntityClient, EntitySchema, EntityStatus, EntityType } from "../clients/typescript/index.ts";
import { exportEntities } from "../src/cli/export.ts";
import { cli, type Ended, startCli, temporaryFolder } from "./cli-process.ts";
import { byId, newPerson, unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const OFAC = new URL("../../shared/data/ofac-entities.ndjson", import.meta.url);
const REASON = { reason: "because of a test" };

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder[Symbol.asyncDispose]());

const envOf = (service: TestService) => ({
  ENTITY_SERVICE_URL: service.baseUrl,
  ENTITY_SERVICE_API_KEY: service.organization.apiKey,
});
const run = (service: TestService, ...args: string[]): Promise<Ended> =>
  cli(args, { env: envOf(service), cwd: folder.path });
const idsIn = async (file: string): Promise<string[]> =>
  String(await read(file))
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line).externalId);
const read = (file: string) => readFile(`${folder.path}/${file}`);

/** Rule 154: what the two databases must have in common, by the primary external id. */
const stateOf = (service: TestService): Promise<unknown[]> =>
  service.sql(
    `select e.external_id, e.type, e.country_code, e.name, e.tax_id, e.tax_id_check, e.status, e.nationality,
       e.risk_matrix_id, e.entity_data, e.attributes, e.metadata,
       (select jsonb_agg(jsonb_build_array(x.external_id, x.type, x.is_primary) order by x.external_id)
        from external_id x where x.organization_id = e.organization_id and x.entity_id = e.id) as external_ids
     from entity e where e.deleted_at is null and e.merged_into is null and e.external_id is not null order by e.external_id`,
  );

/** Entities with all that an export has to carry, among others that it must not. */
async function fill(client: EntityClient): Promise<{ rows: number; others: number }> {
  const { entities } = client;
  const address = { street: "Rúa 1", additional: { district: "Ñ", floor: null } };
  const person = {
    ...{ firstName: "Ana", dateOfBirth: "1980-02-29", nationality: "BR", address },
    additional: { firstSeen: "2020", nested: { list: [1, null, { a: 1e-7 }], no: null } },
  };
  const first = await newPerson(client, {
    ...{ externalId: " p-1 ", taxId: "529.982.247-25", riskMatrixId: "0198c0de-0000-7000-8000-000000000001" },
    ...{ nationality: "AR", attributes: { a: { b: [] }, ключ: "\u2028", n: 0.1 }, metadata: { source: "x" } },
    entityData: { kind: { case: "person", value: person } },
  });
  await entities.addExternalIds({
    lookup: byId(first),
    externalIds: [
      { externalId: "p-1", type: "crm" },
      { externalId: 'alias "1"', type: "cif" },
      { externalId: "p-1-b" },
    ],
  });
  // Rule 28: its nationality would be calculated from that of the person's data.
  const cleared = await newPerson(client, {
    externalId: "p-2",
    entityData: { kind: { case: "person", value: person } },
  });
  await entities.updateEntity({
    ...{ lookup: byId(cleared), entity: {}, updateMask: { paths: ["nationality"] } },
  });
  for (const status of [EntityStatus.BLOCKED, EntityStatus.SUSPENDED, EntityStatus.REJECTED, EntityStatus.INACTIVE])
    await newPerson(client, { externalId: `status-${status}`, status }, "for a test");
  const company = async (externalId: string, legalName: string, tradingNames: string[]) =>
    (
      await entities.createEntity({
        entity: {
          ...{ externalId, type: EntityType.COMPANY, name: legalName, countryCode: "ES" },
          entityData: { kind: { case: "company", value: { legalName, tradingNames, employees: 0 } } },
        },
      })
    ).entity as { id: string };
  const [survivor, merged, twice] = [
    await company("c-1", "Uno S.A.", ["Uno", "One"]),
    await company("c-2", "Dos S.A.", ["Dos"]),
    await company("c-3", "Tres S.A.", []),
  ];
  await entities.mergeEntities({ primary: byId(merged), secondary: byId(twice), ...REASON });
  await entities.mergeEntities({ primary: byId(survivor), secondary: byId(merged), ...REASON });
  const back = await newPerson(client, { externalId: "p-3" });
  const { mergeId } = await entities.mergeEntities({ primary: byId(first), secondary: byId(back), ...REASON });
  await entities.unmergeEntities({ mergeId, ...REASON });
  // The primary comes from the entity that was merged.
  const bare = await newPerson(client, { name: "Bare" });
  const bringer = await newPerson(client, { externalId: "p-4", taxId: "1" });
  await entities.mergeEntities({ primary: byId(bare), secondary: byId(bringer), ...REASON });
  const changed = await newPerson(client, { externalId: "p-5" });
  await entities.changeExternalId({
    ...{ lookup: byId(changed), newExternalId: "p-5-new", keepPreviousAsAlias: true, ...REASON },
  });
  const deleted = await newPerson(client, { externalId: "gone" });
  await entities.deleteEntity({ lookup: byId(deleted), ...REASON });
  await newPerson(client, { name: "Nobody's" });
  return { rows: 10, others: 1 };
}

describe("rule 154: an export makes the same state in an empty database", () => {
  it.each(["all.ndjson", "all.ndjson.gz"])("rule 154: merges, deletions, aliases and reasons, %s", async (file) => {
    await using source = await startService();
    await using target = await startService();
    const { rows, others } = await fill(source.client);
    const others_ = file.replace("all", "all.without-external-id");
    const { code, stdout, stderr } = await run(source, "export", file);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(
      new RegExp(`^exported ${rows}, without an external id ${others}, see ${others_}\nposition [\\w-]+\n$`),
    );
    expect(existsSync(`${folder.path}/${file}.state`)).toBe(false);
    const unpack = async (name: string) => {
      const bytes = await read(name);
      return String(name.endsWith(".gz") ? gunzipSync(bytes) : bytes);
    };
    expect(JSON.parse(await unpack(others_))).toMatchObject({ name: "Nobody's", etag: expect.any(String) });
    for (const line of (await unpack(file)).trimEnd().split("\n")) {
      const row = JSON.parse(line);
      for (const field of ["id", "etag", "createdAt", "updatedAt", "taxIdCheck", "riskScore", "mergedInto"])
        expect(row).not.toHaveProperty(field);
      expect(row.reason !== undefined).toBe(/BLOCKED|SUSPENDED|REJECTED/.test(row.status));
    }
    expect((await stat(`${folder.path}/${file}`)).mode & 0o777).toBe(0o600);

    expect(await run(target, "import", file)).toMatchObject({
      ...{ code: 0, stdout: `created ${rows}, updated 0, unchanged 0, failed 0\n` },
    });
    expect(await stateOf(target)).toEqual(await stateOf(source));
    expect(await stateOf(source)).toHaveLength(rows);
    // Again, and where it came from, it changes nothing.
    for (const service of [target, source])
      expect((await run(service, "import", file)).stdout).toBe(`created 0, updated 0, unchanged ${rows}, failed 0\n`);
    // A second export of the same state is the same file.
    expect((await run(target, "export", "again.ndjson")).code).toBe(0);
    const sorted = (text: string) => text.trimEnd().split("\n").sort();
    const plain = (lines: string[]) => lines.map((line) => JSON.parse(line)).map(({ externalIds: _, ...row }) => row);
    expect(plain(sorted(await unpack("again.ndjson")))).toEqual(plain(sorted(await unpack(file))));
  });

  it.skipIf(!existsSync(OFAC))(
    "rule 154: 8,293 real entities (skipped where ../shared/data/ofac-entities.ndjson is not beside the repository)",
    async () => {
      await using source = await startService();
      await using target = await startService();
      const lines = (await readFile(OFAC, "utf8")).trimEnd().split("\n");
      const rows = async function* () {
        for (const [i, line] of lines.entries()) {
          const entity = fromJson(EntitySchema, JSON.parse(line));
          yield { entity, externalIds: i % 7 === 0 ? [{ externalId: `alias-${i}`, type: "list" }] : [] };
        }
      };
      const ids: string[] = [];
      for await (const { results } of source.client.entities.importEntities(rows()))
        ids.push(...results.map(({ entityId }) => entityId));
      const { entities } = source.client;
      let gone = 0;
      for (let i = 0; i + 1 < ids.length; i += 400) {
        const [primary, secondary] = [{ id: ids[i] ?? "" }, { id: ids[i + 1] ?? "" }];
        if (i % 800 === 0) {
          await entities.deleteEntity({ lookup: byId(primary), ...REASON });
        } else {
          const types = await entities.batchGetEntities({ lookups: [byId(primary), byId(secondary)] });
          const [a, b] = types.results.map(({ result }) => (result.case === "entity" ? result.value.type : undefined));
          if (a !== b) continue;
          await entities.mergeEntities({ primary: byId(primary), secondary: byId(secondary), ...REASON });
        }
        gone++;
      }
      expect(gone).toBeGreaterThan(10);
      expect((await run(source, "export", "ofac.ndjson.gz")).stdout).toContain(
        `exported ${ids.length - gone}, without an external id 0\n`,
      );
      expect((await run(target, "import", "ofac.ndjson.gz")).stdout).toBe(
        `created ${ids.length - gone}, updated 0, unchanged 0, failed 0\n`,
      );
      expect(await stateOf(target)).toEqual(await stateOf(source));
    },
    120_000,
  );
});

describe("an export that is interrupted", () => {
  const ROWS = 400;
  let source: TestService;
  beforeAll(async () => {
    source = await startService();
    const rows = async function* () {
      for (let i = 0; i < ROWS; i++) {
        // Some 60 KiB each, so that there are several steps.
        const text = String.fromCodePoint(97 + (i % 26)).repeat(4_000);
        const attributes = Object.fromEntries(Array.from({ length: 15 }, (_, key) => [`k${key}`, text]));
        const entity = {
          type: EntityType.PERSON,
          name: `n ${i}`,
          countryCode: "AR",
          externalId: `big-${i}`,
          attributes,
        };
        yield { entity, externalIds: [{ externalId: `big-${i}-alias`, type: "t" }] };
      }
    };
    for await (const { results } of source.client.entities.importEntities(rows()))
      expect(results.every(({ error }) => error === undefined)).toBe(true);
    for (let i = 0; i < 3; i++) await newPerson(source.client, { name: `without ${i}` });
    return () => source[Symbol.asyncDispose]();
  }, 60_000);

  const stateFile = async (file: string) => {
    try {
      return JSON.parse(String(await read(`${file}.state`))) as { run: string; rows: number; rowBytes: number };
    } catch {
      return undefined;
    }
  };

  /** Stands before the source, and lets so many bytes of an answer through: who reads it is still at it then. */
  async function stoppedAfter(bytes: number) {
    let goesOn = false;
    const stopped = new Set<Socket>();
    const server = createServer((near) => {
      const far = netConnect(source.port, "127.0.0.1");
      let passed = 0;
      near.pipe(far);
      far.on("data", (chunk) => {
        passed += chunk.length;
        near.write(chunk);
        if (passed > bytes && !goesOn) stopped.add(far.pause());
      });
      for (const socket of [near, far]) {
        socket.on("error", () => {});
        socket.on("close", () => void (near.destroy(), far.destroy()));
      }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    return {
      env: { ...envOf(source), ENTITY_SERVICE_URL: `http://127.0.0.1:${port}` },
      goOn() {
        goesOn = true;
        for (const socket of stopped) socket.resume();
      },
      async [Symbol.asyncDispose]() {
        await new Promise((resolve) => server.close(resolve));
      },
    };
  }

  /** An export that has written some steps, and waits for more behind `slow`. */
  async function begunBehind(slow: { env: ReturnType<typeof envOf> }, file: string) {
    const child = startCli(["export", file], { env: slow.env, cwd: folder.path });
    await expect.poll(async () => (await stateFile(file))?.rows ?? 0, { timeout: 30_000 }).toBeGreaterThan(0);
    return child;
  }

  async function killedInTheMiddle(file: string): Promise<void> {
    await using slow = await stoppedAfter(8_000_000);
    const child = await begunBehind(slow, file);
    child.kill("SIGKILL");
    await child.ended;
  }

  it.each(["killed.ndjson", "killed.ndjson.gz"])(
    "killed in the middle, edits meanwhile: the same command goes on, and all is of the first moment, %s",
    async (file) => {
      await using target = await startService();
      const { client } = source;
      const [edited, deleted] = [
        await newPerson(client, { externalId: unique("edited") }),
        await newPerson(client, { externalId: unique("deleted") }),
      ];
      const before = await stateOf(source);
      await killedInTheMiddle(file);
      const step = await stateFile(file);
      expect(step?.rows).toBeLessThan(ROWS);
      // As if it had been killed while it wrote.
      await writeFile(`${folder.path}/${file}`, "half a row", { flag: "a" });

      await client.entities.updateEntity({ lookup: byId(edited), entity: { name: "edited meanwhile" } });
      await client.entities.deleteEntity({ lookup: byId(deleted), ...REASON });
      await newPerson(client, { externalId: unique("meanwhile") });
      const { code, stdout } = await run(source, "export", file);
      expect({ code, stdout }).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(`exported ${before.length}, `),
      });
      expect((await run(target, "import", file)).stdout).toBe(
        `created ${before.length}, updated 0, unchanged 0, failed 0\n`,
      );
      expect(await stateOf(target)).toEqual(before);
    },
    60_000,
  );

  it("a disk that is full when the state is written ends it, and no row is written twice", async () => {
    const file = `${folder.path}/full.ndjson`;
    let calls = 0;
    const { entities } = source.client;
    const fills = async function* (request: Parameters<typeof entities.exportEntities>[0]) {
      calls++;
      for await (const message of entities.exportEntities(request)) {
        yield message;
        // Behind the first step the state's file is a disk that is full.
        await symlink("/dev/full", `${file}.state.new`).catch(() => {});
      }
    };
    const client = { ...source.client, entities: { ...entities, exportEntities: fills } } as EntityClient;
    const options = { file, type: undefined, statuses: [], countryCodes: [], reason: undefined };
    await expect(exportEntities(client, options)).rejects.toThrow("ENOSPC");
    expect(calls).toBe(1);
    const { rows } = await exportEntities(source.client, options);
    const lines = String(await readFile(file))
      .trimEnd()
      .split("\n");
    expect(lines).toHaveLength(rows);
    expect(new Set(lines).size).toBe(rows);
  });

  it("of two exports to one file the second ends with an error, also while the first one hangs, and the first is whole", async () => {
    await using slow = await stoppedAfter(8_000_000);
    const first = await begunBehind(slow, "two.ndjson");
    first.kill("SIGSTOP");
    const two = await run(source, "export", "two.ndjson");
    first.kill("SIGCONT");
    slow.goOn();
    const one = await first.ended;
    expect(two).toEqual({
      ...{ code: 1, stdout: "" },
      stderr: "entity-service: another export writes to two.ndjson: let it end, or stop it\n",
    });
    expect(one.code).toBe(0);
    const lines = await idsIn("two.ndjson");
    expect(one.stdout).toContain(`exported ${lines.length}, `);
    expect(new Set(lines).size).toBe(lines.length);
    for (const left of ["state", "state.new", "lock"])
      expect(existsSync(`${folder.path}/two.ndjson.${left}`)).toBe(false);
  });

  it("of exports to one file that begin at once, or go on with it at once, one writes", async () => {
    const begin = (env: ReturnType<typeof envOf>) =>
      Array.from({ length: 4 }, () => startCli(["export", "race.ndjson"], { env, cwd: folder.path }));
    await using slow = await stoppedAfter(8_000_000);
    const begun = begin(slow.env);
    await expect.poll(() => begun.filter(({ exitCode }) => exitCode === 1).length, { timeout: 60_000 }).toBe(3);
    const ahead = begun.find(({ exitCode }) => exitCode === null);
    expect(ahead, "the one that has the file").toBeDefined();
    await expect.poll(async () => (await stateFile("race.ndjson"))?.rows ?? 0, { timeout: 30_000 }).toBeGreaterThan(0);
    ahead?.kill("SIGKILL");
    await ahead?.ended;
    const endings = await Promise.all(begin(envOf(source)).map(({ ended }) => ended));
    expect(endings.filter(({ code }) => code === 0)).toHaveLength(1);
    for (const { code, stderr } of endings) {
      if (code !== 0) expect(stderr).toMatch(/another export writes to race\.ndjson|race\.ndjson is there already/);
    }
    const lines = await idsIn("race.ndjson");
    expect(endings.find(({ code }) => code === 0)?.stdout).toContain(`exported ${lines.length}, `);
    expect(new Set(lines).size).toBe(lines.length);
    expect(existsSync(`${folder.path}/race.ndjson.lock`)).toBe(false);
  });

  it("a file of the same name that another has written is not gone on with", async () => {
    await killedInTheMiddle("same.ndjson");
    const mine = "mine\n".repeat(2_000_000);
    await writeFile(`${folder.path}/same.ndjson`, mine);
    expect(await run(source, "export", "same.ndjson")).toMatchObject({
      ...{ code: 1, stderr: "entity-service: same.ndjson is there already: remove it, or give another name\n" },
    });
    expect(String(await read("same.ndjson")) === mine).toBe(true);
  });

  it("what is there is never overwritten, and a state of other filters, or none, is refused", async () => {
    await writeFile(`${folder.path}/there.ndjson`, "mine");
    expect(await run(source, "export", "there.ndjson")).toMatchObject({
      ...{ code: 1, stderr: "entity-service: there.ndjson is there already: remove it, or give another name\n" },
    });
    await killedInTheMiddle("f.ndjson");
    expect((await run(source, "export", "f.ndjson", "--type", "person")).stderr).toContain("with other filters");
    await writeFile(`${folder.path}/f.ndjson.state`, '{"rows": 1}');
    expect((await run(source, "export", "f.ndjson")).stderr).toContain("is no state of an export");
    expect(await run(source, "export", "x.ndjson", "--status", "ASLEEP")).toMatchObject({ code: 2 });
    expect(String(await read("there.ndjson"))).toBe("mine");
    // What has not begun leaves nothing.
    const env = { ...envOf(source), ENTITY_SERVICE_API_KEY: "none" };
    expect((await cli(["export", "none.ndjson"], { env, cwd: folder.path })).stderr).toContain("UNAUTHENTICATED");
    expect(existsSync(`${folder.path}/none.ndjson.state`)).toBe(false);
  });

  it("filters, and standard output with nothing else in it", async () => {
    await using own = await startService();
    const wanted = [{ externalId: "wanted-1" }, { externalId: "wanted-2" }, {}];
    const others = [{ countryCode: "AR" }, { status: EntityStatus.INACTIVE }];
    for (const fields of wanted) await newPerson(own.client, { countryCode: "BR", ...fields });
    for (const [i, fields] of others.entries())
      await newPerson(own.client, { countryCode: "BR", externalId: `other-${i}`, ...fields }, "for a test");
    const filters = ["--country", "BR", "--type", "person", "--status", "pending"];
    const { code, stdout, stderr } = await run(own, "export", "-", ...filters);
    expect(code).toBe(0);
    const lines = stdout.trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line).externalId)).toEqual(["wanted-1", "wanted-2"]);
    expect(stderr).toMatch(/^exported 2, without an external id 1, see stdout.without-external-id.ndjson\nposition /);
  });
});
