// Checkpoints among processes: of those that make them, of the command line, and of a script that has nothing of ours.
import { spawnSync } from "node:child_process";
import { chmod, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { AuditCheckpoint } from "../clients/typescript/index.ts";
import { newSigningKey, publicKeyToPem, readSigningKey, type SigningKey } from "../src/audit/signing-key.ts";
import type { Orm } from "../src/db/orm.ts";
import { auditOf, checkpointsOf, kindsOf, makeAll, ormOf, saveTables, uncheckedBy } from "./audits.ts";
import { reseal } from "./chains.ts";
import { cli, type Ended, type ServiceProcess, startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { byId, newPerson, together } from "./given.ts";
import { databaseEnvironment, startService, type TestService } from "./harness.ts";

const SCRIPT = fileURLToPath(new URL("../examples/verify_audit.py", import.meta.url));
const pem = newSigningKey();
const key = readSigningKey(pem);
const publicKeys = [new Uint8Array(key?.publicKey ?? [])];

/** What the script needs. */
const TOOLS = [
  ["python3", "--version"],
  ["openssl", "version"],
].every(([tool, argument]) => spawnSync(tool as string, [argument as string]).status === 0);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let keyFile: string;
let publicKeyFile: string;
beforeAll(async () => {
  folder = await temporaryFolder();
  keyFile = join(folder.path, "key.pem");
  publicKeyFile = join(folder.path, "public.pem");
  await writeFile(keyFile, pem, { mode: 0o600 });
  await writeFile(publicKeyFile, publicKeyToPem(key?.publicKey as Buffer));
});
afterAll(() => folder[Symbol.asyncDispose]());

test("rule 128: two processes of which the one that makes checkpoints is killed leave no event out and list none twice", {
  timeout: 120_000,
}, async () => {
  await using database = await startService();
  const env = {
    ...databaseEnvironment(database),
    ...{ AUDIT_CHECKPOINT_SECONDS: "1", AUDIT_SIGNING_KEY: keyFile, BOOTSTRAP_API_KEY: database.organization.apiKey },
  };
  const start = () => startServiceProcess(folder.path, env);
  const processes: ServiceProcess[] = [await start(), await start()];
  let isWriting = true;
  const persons = await Promise.all(Array.from({ length: 10 }, () => newPerson(database.client)));
  const writing = together(6, async (i) => {
    for (let n = 0; isWriting; n++) {
      const { id } = persons[(i + n) % 10] as { id: string };
      await database.client.entities.updateEntity({ lookup: byId({ id }), entity: { name: `Ana ${i} ${n}` } });
      await sleep(5);
    }
  });
  const holder = async () => {
    const [row] = await database.sql<{ holder: string | null }>(
      "select holder from feed_sink where name = 'audit-checkpoints'",
    );
    return row?.holder ?? undefined;
  };
  const holders = new Set<string | undefined>();
  for (let round = 0; round < 6; round++) {
    const before = await countOf(database);
    await until(async () => (await countOf(database)) > before);
    holders.add(await holder());
    // Which of them it is nobody can tell from outside: each in turn, and both.
    await sleep(Math.random() * 300);
    const killed = round === 4 ? [0, 1] : [round % 2];
    await Promise.all(killed.map((i) => processes[i]?.kill()));
    for (const i of killed) processes[i] = await start();
  }
  const before = await countOf(database);
  await until(async () => (await countOf(database)) > before);
  isWriting = false;
  for (const { reason } of await writing) expect(reason).toBeUndefined();
  expect(holders.size).toBeGreaterThan(1);
  await until(async () => (await auditOf(database.organization)).counts.notInCheckpoint === 0n);
  await Promise.all(processes.map((one) => one[Symbol.asyncDispose]()));
  // Given back, not left to expire.
  expect(await holder()).toBeUndefined();

  const { findings, counts } = await auditOf(database.organization, { publicKeys });
  expect(findings).toEqual([]);
  const all = await checkpointsOf(database.organization);
  expect(all.map(({ number }) => number)).toEqual(all.map((_, i) => BigInt(i + 1)));
  expect(all.reduce((sum, { leaves }) => sum + leaves.length / 64, 0)).toBe(Number(counts.verified));
  expect(new Set(all.flatMap(({ leaves }) => idsIn(leaves))).size).toBe(Number(counts.verified));
});

function idsIn(leaves: Uint8Array): string[] {
  return Array.from({ length: leaves.length / 64 }, (_, i) =>
    Buffer.from(leaves.subarray(i * 64, i * 64 + 16)).toString("hex"),
  );
}

async function countOf({ sql }: TestService): Promise<number> {
  const [row] = await sql<{ n: number }>("select count(*)::int as n from audit_checkpoint");
  return row?.n ?? 0;
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 400; i++) {
    if (await condition()) return;
    await sleep(100);
  }
  throw new Error("it did not come to be");
}

describe("the command line", () => {
  let service: TestService;
  const run = (...args: string[]) =>
    cli(args, {
      env: { ENTITY_SERVICE_URL: service.baseUrl, ENTITY_SERVICE_API_KEY: service.organization.apiKey },
      cwd: folder.path,
    });
  const kept = () => join(folder.path, "checkpoints.ndjson");
  let person: { id: string; etag: string };

  beforeAll(async () => {
    service = await startService();
    const orm = ormOf(service);
    for (let i = 0; i < 4; i++) {
      const attributes = {
        large: 9_007_199_254_740_991,
        part: 0.1,
        small: 1e-7,
        whole: 5,
        text: '\u20ac \ud83d\ude00 "',
        "\ufb01": 1,
        "\ud83d\ude00": [null],
      };
      person = await newPerson(service.client, { externalId: `crm-${i}`, attributes });
      const { entities } = service.client;
      await entities.updateEntity({
        ...{ lookup: byId(person), reason: "Yearly review", requestId: crypto.randomUUID() },
        ...{ entity: { name: "Bea" }, occurredAt: { seconds: 1n, nanos: 500_000 } },
      });
      await makeAll(orm, service.organization.id, key);
    }
    await orm.close(true);
    await newPerson(service.client);
  });
  afterAll(() => service[Symbol.asyncDispose]());

  test("rule 131: audit-key prints the public half of the key, and says what is wrong with one", async () => {
    const env = { ...databaseEnvironment(service) };
    const printed = await cli(["audit-key"], { env: { ...env, AUDIT_SIGNING_KEY: keyFile } });
    expect(printed).toMatchObject({ code: 0, stdout: await readFile(publicKeyFile, "utf8") });
    const refusals: [string | undefined, RegExp][] = [
      [undefined, /there is no key that signs checkpoints: set AUDIT_SIGNING_KEY/],
      [join(folder.path, "nowhere"), /AUDIT_SIGNING_KEY cannot be read \(ENOENT\).*openssl genpkey/],
      [publicKeyFile, /AUDIT_SIGNING_KEY is not a private key of Ed25519/],
    ];
    for (const [file, expected] of refusals) {
      const { code, stderr } = await cli(["audit-key"], { env: { ...env, AUDIT_SIGNING_KEY: file } });
      expect(stderr).toMatch(expected);
      expect(code).toBe(2);
    }
  });

  test("rule 133: checkpoints are printed without leaves, and behind a number", async () => {
    const all = await run("audit-checkpoints");
    expect(all).toMatchObject({ code: 0, stderr: "" });
    const lines = all.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.map(({ number, leaves }) => [number, leaves])).toEqual(
      [1, 2, 3, 4].map((n) => [String(n), undefined]),
    );
    expect(await run("audit-checkpoints", "--after", "3")).toMatchObject({ stdout: `${JSON.stringify(lines[3])}\n` });
    await writeFile(kept(), all.stdout);
  });

  test("rule 133: verify-audit ends with 0 where all is right, and with 1 and a line where something is not", async () => {
    const believing = ["verify-audit", "--checkpoints", kept(), "--public-key", publicKeyFile];
    const right = await run(...believing);
    expect(right).toMatchObject({ code: 0, stdout: "" });
    expect(right.stderr).toBe(
      "verified 9 events of 5 entities, 4 checkpoints (0 unsigned), 0 evaluations and 0 versions of risk matrices; unsealed 0, pruned 0, erased 0, not yet in a checkpoint 1; findings: 0\n",
    );
    expect(await run("verify-audit", "--id", person.id)).toMatchObject({ code: 0, stdout: "" });

    const change = (reason: string) =>
      service.sql("update entity_event set reason = $2 where id = $1", [person.etag, reason]);
    const [before] = await service.sql("select reason from entity_event where id = $1", [person.etag]);
    await change("another");
    const wrong = await run(...believing);
    expect(wrong.code).toBe(1);
    expect(wrong.stdout).toBe(
      `CHANGED  entity ${person.id}  version 1  event ${person.etag}  its hashes are not those of what it holds\n`,
    );
    const json = await run(...believing, "--json");
    expect(JSON.parse(json.stdout)).toMatchObject({ kind: "AUDIT_FINDING_KIND_CHANGED", entityId: person.id });
    await service.sql("update entity_event set reason = $2 where id = $1", [person.etag, before?.reason]);
    expect((await run(...believing)).code).toBe(0);
  });

  test("rule 133: a file that is not the log's own is told, whatever stands in it", async () => {
    const lines = (await readFile(kept(), "utf8")).trim().split("\n");
    const other = join(folder.path, "other.ndjson");
    const verify = async (text: string) => {
      await writeFile(other, text);
      return run("verify-audit", "--checkpoints", other);
    };
    const third = JSON.parse(lines[2] as string);
    const changed = { ...third, body: third.body.replace('"count":2', '"count":3') };
    expect(await verify([lines[0], JSON.stringify(changed), lines[3]].join("\n"))).toMatchObject({
      code: 1,
      stdout: expect.stringMatching(/^CHECKPOINT_BROKEN {2}checkpoint 3 .*\n$/),
    });
    const later = { ...third, number: "7" };
    expect(await verify(JSON.stringify(later))).toMatchObject({
      code: 1,
      stdout: expect.stringContaining("checkpoint 7"),
    });
    expect(await verify("{}x\n")).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("line 1 is no checkpoint"),
    });
  });

  /** The script's answer to what the service exports now. */
  async function script(): Promise<Ended> {
    const [events, checkpoints] = [join(folder.path, "events.ndjson"), join(folder.path, "with-leaves.ndjson")];
    await writeFile(events, (await run("events", "--json", "--limit", "999999999")).stdout);
    await writeFile(checkpoints, (await run("audit-checkpoints", "--leaves")).stdout);
    const { status, stdout, stderr } = spawnSync("python3", [SCRIPT, events, checkpoints, publicKeyFile], {
      encoding: "utf8",
    });
    return { code: status, stdout, stderr };
  }

  test.skipIf(!TOOLS)(
    "rule 136: a script of another language agrees, of an export alone (skipped where python3 or openssl is missing)",
    { timeout: 60_000 },
    async () => {
      expect(await script()).toEqual({
        code: 0,
        stdout: "checkpoints 4, verified 9, not in a checkpoint 1\nfindings 0\n",
        stderr: "",
      });
      const lines = (await readFile(SCRIPT, "utf8")).trim().split("\n");
      expect(lines.length).toBeLessThan(100);

      const [saved] = await service.sql("select * from entity_event where id = $1", [person.etag]);
      await service.sql("update entity_event set reason = 'another' where id = $1", [person.etag]);
      expect(await script()).toMatchObject({
        code: 1,
        stdout: expect.stringMatching(/^CHANGED {2}entity .* version 1 /),
      });
      await reseal(service.sql, [person.id]);
      const resealed = await script();
      expect(resealed.stdout.match(/^CHANGED/gm)).toHaveLength(2);
      await service.sql("update entity_event set reason = $2, personal_hash = $3 where id = $1", [
        ...[person.etag, saved?.reason, saved?.personal_hash],
      ]);
      await reseal(service.sql, [person.id]);
      expect((await script()).code).toBe(0);

      await service.sql("create table kept as select * from entity_event where id = $1", [person.etag]);
      await service.sql("delete from entity_event where id = $1", [person.etag]);
      expect(await script()).toMatchObject({
        code: 1,
        stdout: expect.stringMatching(/^MISSING {2}event [0-9a-f]{32} {2}checkpoint 4\n/),
      });
      await service.sql("insert into entity_event select * from kept");
      await service.sql("drop table kept");

      const body = "update audit_checkpoint set body = replace(body, $1, $2) where number = 4";
      await service.sql(body, ['"count":2', '"count":3']);
      expect((await script()).stdout).toMatch(/CHECKPOINT_BROKEN {2}checkpoint 4 {2}leaves\nSIGNATURE_INVALID/);
      await service.sql(body, ['"count":3', '"count":2']);
      expect((await script()).code).toBe(0);
      expect(kindsOf(await auditOf(service.organization, { publicKeys }))).toEqual([]);
    },
  );
});

describe("what the owner of the database does", () => {
  let service: TestService;
  let orm: Orm;
  let saved: Awaited<ReturnType<typeof saveTables>>;
  /** Of three checkpoints two events of one entity each. */
  let persons: { id: string }[];
  let kept: AuditCheckpoint[];
  let keptFile: string;

  beforeAll(async () => {
    service = await startService();
    orm = ormOf(service);
    persons = [];
    for (let i = 0; i < 3; i++) {
      const person = await newPerson(service.client, { externalId: `crm-${i}` });
      await service.client.entities.updateEntity({ lookup: byId(person), entity: { name: `Bea ${i}` } });
      await makeAll(orm, service.organization.id, key);
      persons.push(person);
    }
    keptFile = join(folder.path, "kept.ndjson");
    await writeFile(keptFile, await exported("audit-checkpoints"));
    kept = (await service.client.entities.listAuditCheckpoints({})).checkpoints;
    saved = await saveTables(service);
  });
  afterAll(async () => {
    await orm.close(true);
    await saved.drop();
    await service[Symbol.asyncDispose]();
  });

  async function exported(...args: string[]): Promise<string> {
    const env = { ENTITY_SERVICE_URL: service.baseUrl, ENTITY_SERVICE_API_KEY: service.organization.apiKey };
    const { code, stdout } = await cli(args, { env, cwd: folder.path });
    expect(code).toBe(0);
    return stdout;
  }

  /** The kinds that the script finds in an export, with nothing but python3 and openssl. */
  async function foundByScript(publicKey: string, files: string[]): Promise<string[]> {
    const [events, checkpoints] = [join(folder.path, "all.ndjson"), join(folder.path, "leaves.ndjson")];
    await writeFile(events, await exported("events", "--json", "--limit", "999999999"));
    await writeFile(checkpoints, await exported("audit-checkpoints", "--leaves"));
    const { status, stdout, stderr } = spawnSync("python3", [SCRIPT, events, checkpoints, publicKey, ...files], {
      encoding: "utf8",
    });
    expect(stderr).toBe("");
    const kinds = stdout.match(/^[A-Z_]+(?= {2})/gm) ?? [];
    expect(status).toBe(kinds.length > 0 ? 1 : 0);
    return [...new Set(kinds)].sort();
  }

  const foundByService = async (keys: Uint8Array[], checkpoints: AuditCheckpoint[]) =>
    [...new Set(kindsOf(await auditOf(service.organization, { publicKeys: keys, checkpoints })))].sort();

  const unchecked = (text: string) => uncheckedBy(service, text);

  const idOf = (i: number) => persons[i]?.id ?? "";
  const swap = (id: string) =>
    `update entity_event set entity_version = entity_version + 10 where entity_id = '${id}';
     update entity_event set entity_version = 13 - entity_version where entity_id = '${id}'`;
  const removeEntity = (id: string) => {
    const tables = ["entity_event", "external_id", "entity_word"];
    const rows = tables.map((table) => `delete from ${table} where entity_id = '${id}'`);
    return [...rows, `delete from entity where id = '${id}'`].join("; ");
  };
  /** Everything is made anew behind a change: all hashes, and all checkpoints with this key. */
  async function makeAnew(signing: SigningKey | undefined): Promise<void> {
    await service.sql("update entity_event set reason = 'another' where entity_id = $1", [idOf(1)]);
    await reseal(service.sql, [idOf(1)]);
    await service.sql("delete from audit_checkpoint");
    await makeAll(orm, service.organization.id, signing);
  }
  const forged = readSigningKey(newSigningKey());

  const CHANGES: [name: string, change: () => Promise<unknown>, kinds: { service: string[]; script: string[] }][] = [
    ["nothing", async () => {}, { service: [], script: [] }],
    [
      "changes a row",
      () => service.sql("update entity_event set reason = 'another' where entity_id = $1", [idOf(1)]),
      { service: ["CHANGED"], script: ["CHANGED"] },
    ],
    [
      "changes a row and makes all hashes behind it anew",
      async () => {
        await service.sql("update entity_event set reason = 'another' where entity_id = $1", [idOf(1)]);
        await reseal(service.sql, [idOf(1)]);
      },
      { service: ["CHANGED"], script: ["CHANGED"] },
    ],
    [
      "takes the seals of an entity away",
      () =>
        unchecked(
          `update entity_event set salt = null, personal_hash = null, previous_hash = null, hash = null where entity_id = '${idOf(1)}';
           update entity set audit_head = null where id = '${idOf(1)}'`,
        ),
      { service: ["CHANGED"], script: ["CHANGED"] },
    ],
    [
      "adds an event without a seal, as if it were from before there were seals",
      () =>
        unchecked(
          `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_id,
             external_ids, updated_fields, previous_values, new_values, actor, principal, source, metadata, recorded_at)
           select organization_id, gen_random_uuid(), entity_id, 3, entity_type, type, external_id, external_ids,
             updated_fields, new_values, '{"name": "Eva"}', actor, principal, source, metadata, recorded_at + interval '1 second'
           from entity_event where entity_id = '${idOf(1)}' and entity_version = 2;
           delete from entity_word where entity_id = '${idOf(1)}';
           update entity e set version = 3, etag = v.id, updated_at = v.recorded_at, name = 'Eva', name_words = null
           from entity_event v where v.entity_id = e.id and v.entity_version = 3`,
        ),
      { service: ["CHANGED"], script: ["CHANGED"] },
    ],
    [
      "removes an event",
      () => service.sql("delete from entity_event where entity_id = $1 and entity_version = 1", [idOf(1)]),
      { service: ["MISSING"], script: ["MISSING"] },
    ],
    [
      "removes an entity with all that tells of it",
      () => unchecked(removeEntity(idOf(1))),
      { service: ["MISSING"], script: ["MISSING"] },
    ],
    [
      "removes an entity with all that tells of it, and the leaves of its checkpoint",
      () => unchecked(`${removeEntity(idOf(1))}; update audit_checkpoint set leaves = null where number = 2`),
      { service: ["CHECKPOINT_BROKEN"], script: ["CHECKPOINT_BROKEN"] },
    ],
    [
      "swaps two events",
      () => unchecked(swap(idOf(1))),
      { service: ["CHANGED", "HEAD_DIFFERS"], script: ["CHANGED", "OUT_OF_ORDER"] },
    ],
    [
      "forges a checkpoint: changes what it lists",
      () =>
        service.sql(
          "update audit_checkpoint set leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1) where number = 2",
        ),
      { service: ["CHANGED", "CHECKPOINT_BROKEN"], script: ["CHANGED", "CHECKPOINT_BROKEN"] },
    ],
    [
      "makes everything anew with another key",
      () => makeAnew(forged),
      { service: ["CHECKPOINT_BROKEN", "SIGNATURE_INVALID"], script: ["CHECKPOINT_BROKEN", "SIGNATURE_INVALID"] },
    ],
    [
      "makes everything anew with the key itself: only what was kept tells",
      () => makeAnew(key),
      { service: ["CHECKPOINT_BROKEN"], script: ["CHECKPOINT_BROKEN"] },
    ],
    [
      "rolls the database back: only what was kept tells",
      () => unchecked(`${removeEntity(idOf(2))}; delete from audit_checkpoint where number = 3`),
      { service: ["CHECKPOINT_BROKEN"], script: ["CHECKPOINT_BROKEN"] },
    ],
    [
      "rolls the database back, and the log goes on from there",
      async () => {
        await unchecked(`${removeEntity(idOf(2))}; delete from audit_checkpoint where number = 3`);
        await newPerson(service.client);
        await makeAll(orm, service.organization.id, key);
      },
      { service: ["CHECKPOINT_BROKEN"], script: ["CHECKPOINT_BROKEN"] },
    ],
  ];

  test.skipIf(!TOOLS).each(CHANGES)(
    "rule 136: is found by VerifyAuditTrail, and by the script alone: %s",
    { timeout: 60_000 },
    async (_, change, kinds) => {
      try {
        await change();
        expect(await foundByService(publicKeys, kept)).toEqual(kinds.service);
        expect(await foundByScript(publicKeyFile, [keptFile])).toEqual(kinds.script);
      } finally {
        await saved.takeBack();
      }
    },
  );

  test.skipIf(!TOOLS)("rule 136: a key that is not the service's is found by both", { timeout: 60_000 }, async () => {
    const wrong = join(folder.path, "wrong.pem");
    await writeFile(wrong, publicKeyToPem(forged?.publicKey as Buffer));
    expect(await foundByService([new Uint8Array(forged?.publicKey ?? [])], [])).toEqual(["SIGNATURE_INVALID"]);
    expect(await foundByScript(wrong, [])).toEqual(["SIGNATURE_INVALID"]);
  });
});

describe("with the embedded server", () => {
  test("rule 131: the first start makes the key, for its owner alone, and none replaces it", {
    timeout: 90_000,
  }, async () => {
    await using data = await temporaryFolder();
    await chmod(data.path, 0o755);
    const file = join(data.path, "audit-key");
    const service = await startServiceProcess(data.path, { AUDIT_CHECKPOINT_SECONDS: "1" });
    const made = await readFile(file, "utf8");
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(readSigningKey(made)).toBeDefined();
    expect(service.lines().filter(({ msg }) => msg.includes("not signed"))).toEqual([]);
    await service[Symbol.asyncDispose]();
    const again = await startServiceProcess(data.path, {});
    expect(await readFile(file, "utf8")).toBe(made);
    await again[Symbol.asyncDispose]();
    const printed = await cli(["audit-key"], { env: { DATA_DIR: data.path } });
    expect(printed.stdout).toBe(publicKeyToPem(readSigningKey(made)?.publicKey as Buffer));
  });

  test("rule 131: with another database and no key one warning at the start says that nothing is signed", async () => {
    await using database = await startService();
    const env = { ...databaseEnvironment(database), BOOTSTRAP_API_KEY: database.organization.apiKey };
    const service = await startServiceProcess(folder.path, env);
    const lines = service.lines().filter(({ msg }) => msg.includes("not signed"));
    expect(lines).toEqual([
      expect.objectContaining({ level: "warn", msg: expect.stringContaining("AUDIT_SIGNING_KEY") }),
    ]);
    await service[Symbol.asyncDispose]();
  });
});
