// Checkpoints of the log, and its verification (rules 128 to 135). What is changed by hand is in audit-tampering.test.ts.
import { createHash, generateKeyPairSync, verify as verifySignature } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type AuditCheckpoint, errorInfo } from "../clients/typescript/index.ts";
import { createShortTurns } from "../src/audit/short-turns.ts";
import { newSigningKey, readSigningKey, type SigningKey } from "../src/audit/signing-key.ts";
import { type VerifyStep, verifyTrail } from "../src/audit/verify.ts";
import type { Orm } from "../src/db/orm.ts";
import { createSlots } from "../src/slots.ts";
import { auditOf, checkpointsOf, type Found, kindsOf, makeAll, makeNext, nameOf, ormOf } from "./audits.ts";
import { reseal } from "./chains.ts";
import { byId, newPerson, together } from "./given.ts";
import { forget, refusal, startService, type TestOrganization, type TestService } from "./harness.ts";
import { startOther } from "./wall-harness.ts";

/** Checkpoints of its organizations are made by hand. */
let service: TestService;
let orm: Orm;
beforeAll(async () => {
  service = await startService({ config: { pruneIntervalMs: 86_400_000 } });
  orm = ormOf(service);
});
afterAll(async () => {
  await orm.close(true);
  await service[Symbol.asyncDispose]();
});

const key = readSigningKey(newSigningKey());
const publicKeyOf = (one: SigningKey | undefined) => new Uint8Array(one?.publicKey ?? []);

describe("checkpoints", () => {
  test("rule 128: what is written is in a checkpoint soon, without anybody's doing", async () => {
    await using own = await startService({ config: { auditCheckpointSeconds: 1 } });
    for (let i = 0; i < 3; i++) await newPerson(own.client);
    await until(async () => (await auditOf(own.organization)).counts.notInCheckpoint === 0n);
    const all = await checkpointsOf(own.organization);
    expect(all.map(({ number }) => number)).toEqual(all.map((_, i) => BigInt(i + 1)));
    expect(all.reduce((sum, { leaves }) => sum + leaves.length, 0)).toBe(3 * 64);
    expect(await auditOf(own.organization)).toMatchObject({
      findings: [],
      counts: { verified: 3n, entities: 3n, unsignedCheckpoints: 0n },
      done: 1,
    });
    const [{ count }] = (await own.sql("select count(*)::int from audit_key")) as [{ count: number }];
    expect(count).toBe(1);
  });

  test("rule 128: an event that is committed late, behind later ones, is in the next one; none is in two", async () => {
    const a = await service.newOrganization();
    const early = await newPerson(a.client);
    await using late = await connection();
    await late.query("begin");
    // It has its place in the order of transactions, and commits behind those that come now.
    await late.query("select pg_current_xact_id()");
    await newPerson(a.client);
    await makeAll(orm, a.id, key);
    const sql = async (text: string, values?: unknown[]) => (await late.query(text, values)).rows;
    const [copy] = await sql(
      `insert into entity select organization_id, gen_random_uuid(), version, type, country_code, null, '[]', name, tax_id,
         tax_id_key, tax_id_check, status, nationality, risk_matrix_id, risk_score, entity_data, attributes, metadata,
         gen_random_uuid(), created_at, updated_at, deleted_at, audit_head from entity where id = $1 returning id, etag`,
      [early.id],
    );
    await sql(
      `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_ids,
         updated_fields, previous_values, new_values, actor, principal, source, metadata, recorded_at)
       select organization_id, $3, $2, 1, entity_type, type, external_ids, updated_fields, previous_values, new_values,
         actor, principal, source, metadata, recorded_at from entity_event where entity_id = $1`,
      [early.id, copy.id, copy.etag],
    );
    await reseal(sql, [copy.id]);
    await late.query("commit");
    await newPerson(a.client);
    await makeAll(orm, a.id, key);
    const all = await checkpointsOf(a);
    expect(all.map(({ leaves }) => leaves.length / 64)).toEqual([2, 2]);
    expect(await auditOf(a)).toMatchObject({ findings: [], counts: { verified: 4n, notInCheckpoint: 0n } });
  });

  test("rule 128: two that make them at once make none twice and leave none out", async () => {
    const a = await service.newOrganization();
    const other = ormOf(service);
    let isWriting = true;
    const writing = together(8, async () => {
      while (isWriting) await newPerson(a.client);
    });
    const making = together(4, async (i) => {
      for (let made = 0; made < 5; ) if ((await makeNext(i % 2 === 0 ? orm : other, a.id, key)).isMade) made++;
    });
    for (const { reason } of await making) expect(reason).toBeUndefined();
    isWriting = false;
    await writing;
    await makeAll(orm, a.id, key);
    await other.close(true);
    const { findings, counts } = await auditOf(a);
    expect(findings).toEqual([]);
    expect(counts.notInCheckpoint).toBe(0n);
    const [sums] = await service.sql(
      "select sum(count)::int as listed, max(total)::int as total, count(*)::int as made from audit_checkpoint where organization_id = $1",
      [a.id],
    );
    expect(sums).toMatchObject({ listed: Number(counts.verified), total: Number(counts.verified) });
    expect(sums?.made).toBeGreaterThanOrEqual(4 * 5);
  });

  test("rule 128: a backlog makes several, of whole transactions", async () => {
    const a = await service.newOrganization();
    await copyEvents(await newPerson(a.client), 24_999);
    // As if a hundred were of one transaction each.
    await service.sql(
      "update entity_event set xid = ((xid::text::bigint - (entity_version / 100)) :: text)::xid8 where organization_id = $1",
      [a.id],
    );
    await makeAll(orm, a.id, key);
    const counts = (await checkpointsOf(a)).map(({ leaves }) => leaves.length / 64);
    expect(counts).toHaveLength(3);
    for (const count of counts) expect(count).toBeLessThanOrEqual(10_000);
    expect(counts.slice(0, 2).every((count) => count > 9_900)).toBe(true);
    expect(await auditOf(a)).toMatchObject({ findings: [], counts: { verified: 25_000n, notInCheckpoint: 0n } });
  });

  test("rule 128: a transaction with more events than a checkpoint has makes one of its own", async () => {
    const a = await service.newOrganization();
    await copyEvents(await newPerson(a.client), 11_999);
    await makeAll(orm, a.id, key);
    expect((await checkpointsOf(a)).map(({ leaves }) => leaves.length / 64)).toEqual([1, 11_999]);
    expect(await auditOf(a)).toMatchObject({ findings: [], counts: { verified: 12_000n, notInCheckpoint: 0n } });
  });

  test("rule 128: where the log has another number, as in a restored dump, the checkpoints go on", async () => {
    await using own = await startService();
    const its = ormOf(own);
    const a = own.organization;
    await newPerson(own.client);
    await makeAll(its, a.id, key);
    const person = await newPerson(own.client);
    // What the service does where the cluster is another one; it gives out its ids from the beginning.
    const [{ number }] = (await own.sql(
      "update feed_epoch set number = number + 1, id = gen_random_uuid() returning number",
    )) as [{ number: number }];
    await own.sql(`alter table entity_event alter column epoch set default ${number}`);
    await own.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Bea" } });
    await own.sql("update entity_event set xid = '3' where epoch = $1", [number]);
    await newPerson(own.client);
    await makeAll(its, a.id, key);
    const bodies = (await checkpointsOf(a)).map(({ body }) => JSON.parse(body));
    expect(bodies.map(({ epoch, count, total }) => [epoch, count, total])).toEqual([
      [number - 1, 1, 1],
      [number - 1, 1, 2],
      [number, 2, 4],
    ]);
    expect(await auditOf(a)).toMatchObject({ findings: [], counts: { verified: 4n, notInCheckpoint: 0n } });
    // What is added to a log that has ended is in no checkpoint.
    const move = "update entity_event set epoch = $1, xid = $2 where xid = $3";
    await own.sql(move, [number - 1, "999999999", "3"]);
    expect(kindsOf(await auditOf(a))).toContain("EXTRA");
    await own.sql(move, [number, "3", "999999999"]);
    await its.close(true);
  });

  test("rule 129: are signed with Ed25519 over their bodies, each names the one before, and the roots are those of the leaves", async () => {
    const a = await service.newOrganization();
    for (let i = 0; i < 3; i++) {
      await newPerson(a.client);
      await makeNext(orm, a.id, key);
    }
    const page = await a.client.entities.listAuditCheckpoints({});
    const all = page.checkpoints;
    expect(all.map(({ number, leaves }) => [number, leaves.length])).toEqual([1n, 2n, 3n].map((number) => [number, 0]));
    let previous = "0".repeat(64);
    for (const { body, signature } of all) {
      const publicKey = { key: Buffer.from(key?.publicKey ?? []), format: "der", type: "spki" } as const;
      expect(verifySignature(null, Buffer.from(body), publicKey, signature)).toBe(true);
      expect(JSON.parse(body)).toMatchObject({
        form: "audit-checkpoint/1",
        organization_id: a.id,
        previous_hash: previous,
        key_id: key?.keyId.toString("hex"),
      });
      previous = createHash("sha256").update(body).digest("hex");
    }
  });

  test("rule 129: are listed in pages, behind a number, with leaves where they are asked for", async () => {
    const a = await service.newOrganization();
    for (let i = 0; i < 5; i++) {
      await newPerson(a.client);
      await makeNext(orm, a.id, key);
    }
    const { entities } = a.client;
    const first = await entities.listAuditCheckpoints({ pageSize: 2, afterNumber: 1n });
    expect(first.checkpoints.map(({ number }) => number)).toEqual([2n, 3n]);
    const query = { pageSize: 2, afterNumber: 1n, pageToken: first.nextPageToken };
    const second = await entities.listAuditCheckpoints(query);
    expect(second.checkpoints.map(({ number }) => number)).toEqual([4n, 5n]);
    expect(second.nextPageToken).toBe("");
    expect(await refusal(entities.listAuditCheckpoints({ ...query, includeLeaves: true }))).toMatchObject({
      reason: "VALIDATION_ERROR",
      fields: ["page_token"],
    });
    expect(await refusal(entities.listAuditCheckpoints({ afterNumber: -1n }))).toMatchObject({
      fields: ["after_number"],
    });
  });

  test("rule 131: without a key they are not signed, and are so counted; another key signs the next one", async () => {
    const a = await service.newOrganization();
    const other = readSigningKey(newSigningKey());
    for (const one of [undefined, key, other]) {
      await newPerson(a.client);
      await makeNext(orm, a.id, one);
    }
    const told = (audit: Found) => audit.findings.map(({ kind, checkpoint }) => [nameOf(kind), checkpoint]);
    // By the keys that the database knows.
    const audit = await auditOf(a);
    expect(told(audit)).toEqual([]);
    expect(audit.counts).toMatchObject({ checkpoints: 3n, unsignedCheckpoints: 1n });
    expect(told(await auditOf(a, { publicKeys: [publicKeyOf(key), publicKeyOf(other)] }))).toEqual([
      ["SIGNATURE_INVALID", 1n],
    ]);
    expect(told(await auditOf(a, { publicKeys: [publicKeyOf(other)] }))).toEqual([
      ["SIGNATURE_INVALID", 1n],
      ["SIGNATURE_INVALID", 2n],
    ]);
    const { keys } = await a.client.entities.listAuditCheckpoints({});
    expect(keys.map(({ publicKey }) => publicKey)).toEqual(
      expect.arrayContaining([publicKeyOf(key), publicKeyOf(other)]),
    );
  });
});

describe("VerifyAuditTrail", () => {
  test("rule 132: needs the scope audit:read, and keys that are keys", async () => {
    const a = await service.newOrganization();
    const client = await a.clientWith(["entities:read"]);
    const run = async () => {
      for await (const _ of client.entities.verifyAuditTrail({})) return;
    };
    expect(await refusal(run())).toMatchObject({ reason: "PERMISSION_DENIED", metadata: { scope: "audit:read" } });
    expect(await refusal(client.entities.listAuditCheckpoints({}))).toMatchObject({ reason: "PERMISSION_DENIED" });
    const rsa = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey.export({ type: "spki", format: "der" });
    for (const bytes of [rsa, Buffer.from("x")]) {
      const verification = auditOf(a, { publicKeys: [new Uint8Array(bytes)] });
      expect(await refusal(verification)).toMatchObject({ reason: "VALIDATION_ERROR", fields: ["public_keys[0]"] });
    }
  });

  test("rule 132: an empty log is right", async () => {
    expect(await auditOf(await service.newOrganization())).toMatchObject({
      findings: [],
      counts: { verified: 0n, entities: 0n, checkpoints: 0n },
      done: 1,
    });
  });

  test("rule 132: of one entity, its events, its row and what checkpoints say of them", async () => {
    const a = await service.newOrganization();
    const [one, other] = [await newPerson(a.client), await newPerson(a.client)];
    await makeAll(orm, a.id, key);
    await a.client.entities.updateEntity({ lookup: byId(one), entity: { name: "Bea" } });
    await makeAll(orm, a.id, key);
    await a.client.entities.updateEntity({ lookup: byId(one), entity: { name: "Clara" } });
    const believed = { lookup: byId(one), publicKeys: [publicKeyOf(key)] };
    expect(await auditOf(a, believed)).toMatchObject({
      findings: [],
      counts: { verified: 3n, entities: 1n, checkpoints: 2n, notInCheckpoint: 1n },
    });
    await service.sql("update entity set name = 'x' where id = $1", [other.id]);
    expect(await auditOf(a, believed)).toMatchObject({ findings: [] });
    await service.sql("update entity set name = $2 where id = $1", [other.id, other.name]);
    await service.sql("update entity_event set xid = '5' where entity_id = $1 and entity_version = 1", [one.id]);
    expect(kindsOf(await auditOf(a, believed))).toEqual(["CHANGED"]);
  });

  test("rule 132: from a time on, what was recorded since and the checkpoints that have it", async () => {
    const a = await service.newOrganization();
    const old = await newPerson(a.client);
    await makeAll(orm, a.id, key);
    const [{ now }] = (await service.sql("select clock_timestamp()::text as now")) as [{ now: string }];
    const from = {
      seconds: BigInt(Math.floor(Date.parse(now) / 1000)),
      nanos: (Date.parse(now) % 1000) * 1_000_000 + 999_999,
    };
    await sleep(5);
    await a.client.entities.updateEntity({ lookup: byId(old), entity: { name: "Bea" } });
    await newPerson(a.client);
    await makeAll(orm, a.id, key);
    const publicKeys = [publicKeyOf(key)];
    expect(await auditOf(a, { from, publicKeys })).toMatchObject({
      findings: [],
      counts: { verified: 2n, entities: 2n, checkpoints: 1n },
    });
    expect(await auditOf(a, { publicKeys })).toMatchObject({ counts: { verified: 3n, checkpoints: 2n } });
  });

  test("rule 132: what is written and pruned meanwhile is no finding", async () => {
    const a = await service.newOrganization();
    const persons = await Promise.all(Array.from({ length: 20 }, () => newPerson(a.client)));
    let isWriting = true;
    const writing = together(16, async (i) => {
      for (let n = 0; isWriting; n++) {
        const person = persons[(i * 7 + n) % 20] as { id: string };
        await a.client.entities.updateEntity({ lookup: byId(person), entity: { name: `Ana ${i} ${n}` } });
        if (n % 10 === 0) await newPerson(a.client);
      }
    });
    for (let n = 0; n < 12; n++) {
      await makeNext(orm, a.id, key);
      const audit = await auditOf(a, { publicKeys: [publicKeyOf(key)] });
      expect(audit.findings).toEqual([]);
    }
    isWriting = false;
    await writing;
  });

  test("rule 132: a deadline and a caller that leaves end a verification, and their places are free again", async () => {
    const a = await service.newOrganization();
    await copyEvents(await newPerson(a.client), 20_000);
    const verify = async (options: { timeoutMs?: number; signal?: AbortSignal }) => {
      for await (const _ of a.client.entities.verifyAuditTrail({}, options));
    };
    for (let i = 0; i < 6; i++) {
      const code = i % 2 === 0 ? Code.DeadlineExceeded : Code.Canceled;
      // The place of the one before is free when its page has been read.
      let error: ConnectError;
      do {
        const began = performance.now();
        const left = new AbortController();
        setTimeout(() => left.abort(), 30);
        error = await verify(i % 2 === 0 ? { timeoutMs: 30 } : { signal: left.signal }).then(
          () => expect.unreachable("it ended before"),
          (refusal: unknown) => ConnectError.from(refusal),
        );
        expect(performance.now() - began).toBeLessThan(1_000);
      } while (errorInfo(error)?.reason === "OVERLOADED");
      expect(error.code).toBe(code);
      // What it was reading is over then.
      await until(async () => (await service.sql(READING)).length === 0);
    }
    expect((await auditOf(a)).findings).toEqual([]);
  });

  test("rule 132: a revoked key ends a verification", async () => {
    const a = await service.newOrganization();
    await newPerson(a.client);
    const { secret, apiKey } = await a.client.organizations.createApiKey({ displayName: "x", scopes: ["audit:read"] });
    await using other = await startOther(service, { config: { lockTimeoutMs: 60_000, statementTimeoutMs: 60_000 } });
    // However fast the machine is, it is not at its end when the key is looked at again.
    await using holder = await connection();
    await holder.query("begin; lock table entity_event in access exclusive mode");
    const verifying = refusal(auditOf({ client: other.client(secret) }));
    const waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    await expect.poll(() => service.sql(waiting)).not.toEqual([]);
    await a.client.organizations.revokeApiKey({ apiKeyId: apiKey?.id ?? "" });
    expect((await verifying).reason).toBe("UNAUTHENTICATED");
    await holder.query("rollback");
  });

  const READING =
    "select 1 from pg_stat_activity where state = 'active' and query like '%entity_event v%' and pid <> pg_backend_pid()";

  test("rule 132: calls are answered while many verify", async () => {
    const organizations = await Promise.all(Array.from({ length: 4 }, () => service.newOrganization()));
    for (const a of organizations) await copyEvents(await newPerson(a.client), 20_000);
    const other = await service.newOrganization();
    const person = await newPerson(other.client);
    let isOver = false;
    const verifying = together(12, (i) => auditOf(organizations[i % 4] as TestOrganization)).finally(() => {
      isOver = true;
    });
    const times: number[] = [];
    while (!isOver) {
      const began = performance.now();
      await other.client.entities.getEntity({ lookup: byId(person) });
      times.push(performance.now() - began);
      await sleep(5);
    }
    const reasons = (await verifying).map(({ reason }) => reason);
    expect(reasons.filter((reason) => reason === undefined).length).toBeGreaterThanOrEqual(3);
    times.sort((x, y) => x - y);
    expect(times.length).toBeGreaterThan(20);
    expect(times[Math.floor(times.length / 2)]).toBeLessThan(100);
  });

  test("rule 132: many keys and many kept checkpoints hold up nobody: one key is tried for each", async () => {
    const a = await service.newOrganization();
    await newPerson(a.client);
    await makeAll(orm, a.id, key);
    const [own] = (await a.client.entities.listAuditCheckpoints({})).checkpoints as [AuditCheckpoint];
    const others = Array.from({ length: 99 }, () => readSigningKey(newSigningKey()));
    const began = performance.now();
    const audit = await auditOf(a, {
      checkpoints: Array.from({ length: 3_000 }, () => own),
      publicKeys: [...others, key].map(publicKeyOf),
    });
    expect(audit.findings).toEqual([]);
    // With every key it would be a minute.
    expect(performance.now() - began).toBeLessThan(10_000);
  });

  test("rule 132: a number that no checkpoint can have is refused", async () => {
    const a = await service.newOrganization();
    for (const number of [0n, -1n, 2n ** 53n, 2n ** 63n - 1n]) {
      const verification = auditOf(a, { checkpoints: [{ number, body: "{}" }] });
      expect(await refusal(verification)).toMatchObject({
        reason: "VALIDATION_ERROR",
        fields: ["checkpoints[0].number"],
      });
    }
    for (const afterNumber of [2n ** 53n, 2n ** 63n - 1n]) {
      expect(await refusal(a.client.entities.listAuditCheckpoints({ afterNumber }))).toMatchObject({
        fields: ["after_number"],
      });
    }
  });

  test("rule 136: an entity with many versions is read a page at a time, and its findings are bounded", async () => {
    const a = await service.newOrganization();
    const person = await newPerson(a.client);
    await copyEvents(person, 20_000);
    const steps = async () => {
      const all: VerifyStep[] = [];
      for await (const step of verifyTrail(orm, {
        ...{ organizationId: a.id, entityIds: [person.id], since: undefined, kept: [], publicKeys: [] },
        ...{ slots: createSlots(1), signal: new AbortController().signal, turns: createShortTurns() },
      })) {
        all.push(step);
      }
      return all;
    };
    const right = await steps();
    expect(right.length).toBeGreaterThan(20);
    expect(right.flatMap(({ findings }) => findings)).toEqual([]);
    await service.sql("update entity_event set reason = 'x' where entity_id = $1", [person.id]);
    const findings = (await steps()).flatMap((step) => step.findings);
    expect(findings).toHaveLength(10_001);
    expect(findings.at(-1)?.detail).toContain("there is more");
    await service.sql("update entity_event set reason = null where entity_id = $1", [person.id]);
  }, 60_000);

  test("rule 132: more verifications at once than there are places for are refused", async () => {
    const a = await service.newOrganization();
    await copyEvents(await newPerson(a.client), 20_000);
    const endings = await together(12, () => auditOf(a));
    const reasons = new Set(endings.map(({ reason }) => reason));
    expect([...reasons].sort()).toEqual(["OVERLOADED", undefined].sort());
    expect((await auditOf(a)).findings).toEqual([]);
  });
});

describe("what was kept elsewhere", () => {
  test("rule 133: a checkpoint that was kept is compared, and one that is gone is told", async () => {
    const a = await service.newOrganization();
    for (let i = 0; i < 3; i++) {
      await newPerson(a.client);
      await makeNext(orm, a.id, key);
    }
    const kept = (await a.client.entities.listAuditCheckpoints({})).checkpoints;
    const publicKeys = [publicKeyOf(key)];
    expect((await auditOf(a, { checkpoints: kept, publicKeys })).findings).toEqual([]);

    // The log is cut off: what is left is whole by itself.
    const rows = await service.sql(
      "delete from audit_checkpoint where organization_id = $1 and number = 3 returning *",
      [a.id],
    );
    expect(rows).toHaveLength(1);
    expect((await auditOf(a, { publicKeys })).findings).toEqual([]);
    const cut = await auditOf(a, { checkpoints: kept.slice(2), publicKeys });
    expect(cut.findings.map(({ kind, checkpoint }) => [nameOf(kind), checkpoint])).toEqual([["CHECKPOINT_BROKEN", 3n]]);

    // And written again with another key.
    const forged = readSigningKey(newSigningKey());
    await makeNext(orm, a.id, forged);
    const findings = (audit: Found) => audit.findings.map(({ kind, checkpoint }) => [nameOf(kind), checkpoint]);
    expect(findings(await auditOf(a, { publicKeys }))).toEqual([["SIGNATURE_INVALID", 3n]]);
    expect(findings(await auditOf(a, { checkpoints: kept.slice(2), publicKeys }))).toEqual([
      ["CHECKPOINT_BROKEN", 3n],
      ["SIGNATURE_INVALID", 3n],
    ]);
    // One that was made up is not signed.
    const madeUp = { ...kept[0], number: 3n, body: "{}" };
    expect(kindsOf(await auditOf(a, { checkpoints: [madeUp as never], publicKeys }))).toContain("SIGNATURE_INVALID");
  });
});

describe("retention", () => {
  /** Moves an organization's log back by days, and the policy that prunes it. */
  async function age(a: TestOrganization, days: number, what = "true"): Promise<void> {
    await service.sql(
      `update entity_event set recorded_at = recorded_at - $2 * interval '1 day' where organization_id = $1 and ${what}`,
      [a.id, days],
    );
    await service.sql(
      `update entity e set updated_at = v.recorded_at, created_at = least(e.created_at, (
         select min(f.recorded_at) from entity_event f where f.entity_id = e.id))
       from entity_event v where v.entity_id = e.id and v.entity_version = e.version and e.organization_id = $1`,
      [a.id],
    );
    const rows = await service.sql<{ id: string }>("select id from entity where organization_id = $1", [a.id]);
    await reseal(
      service.sql,
      rows.map(({ id }) => id),
    );
  }
  const keepFor7Days = (a: TestOrganization) =>
    a.client.organizations.updateOrganization({ organization: { eventRetentionDays: 7 } });
  const prune = async () => {
    await service.sql("select * from prune_events(100000)");
    return service.sql<{ organization_id: string; pruned: number }>(
      "select organization_id, pruned::int from prune_checkpoint_leaves(1000)",
    );
  };

  test("rules 130 and 135: what retention removed is counted, and not missed; then its leaves go and all else of its checkpoint stays", async () => {
    const a = await service.newOrganization();
    const [one, other] = [await newPerson(a.client), await newPerson(a.client)];
    await a.client.entities.updateEntity({ lookup: byId(one), entity: { name: "Bea" } });
    await age(a, 30);
    await makeAll(orm, a.id, key);
    await a.client.entities.updateEntity({ lookup: byId(one), entity: { name: "Clara" } });
    await makeAll(orm, a.id, key);
    const publicKeys = [publicKeyOf(key)];
    const kept = (await a.client.entities.listAuditCheckpoints({})).checkpoints;

    expect(await prune()).toEqual([]);
    await keepFor7Days(a);
    expect(await prune()).toEqual([{ organization_id: a.id, pruned: 1 }]);
    const audit = await auditOf(a, { publicKeys, checkpoints: kept });
    expect(audit).toMatchObject({
      findings: [],
      counts: { verified: 1n, pruned: 3n, entities: 2n, checkpoints: 2n, notInCheckpoint: 0n },
    });
    expect((await checkpointsOf(a)).map(({ leaves }) => leaves.length)).toEqual([0, 64]);
    // The next one says how far.
    await newPerson(a.client);
    await makeAll(orm, a.id, key);
    expect(JSON.parse((await checkpointsOf(a)).at(-1)?.body ?? "").horizon).not.toBeNull();

    // What is younger is missing, wherever it stood.
    await service.sql("delete from entity_event where entity_id = $1", [one.id]);
    const missed = await auditOf(a, { publicKeys });
    expect(missed.findings.map(({ kind, entityId, entityVersion }) => [nameOf(kind), entityId, entityVersion])).toEqual(
      [["MISSING", one.id, 3n]],
    );
    await forget(service, [one.id]);
    await forget(service, [other.id]);
  });

  test("rule 135: leaves stay as long as one of their events, however old, is there", async () => {
    const a = await service.newOrganization();
    for (let i = 0; i < 3; i++) await newPerson(a.client);
    await age(a, 30);
    await makeAll(orm, a.id, key);
    await keepFor7Days(a);
    await service.sql("select * from prune_events(2)");
    expect(await service.sql("select * from prune_checkpoint_leaves(1000)")).toEqual([]);
    const publicKeys = [publicKeyOf(key)];
    expect(await auditOf(a, { publicKeys })).toMatchObject({ findings: [], counts: { verified: 1n, pruned: 2n } });
    expect(await prune()).toEqual([{ organization_id: a.id, pruned: 1 }]);
    // One that is put where all were pruned is found.
    const events = "select * from entity_event where organization_id = $1";
    expect(await service.sql(events, [a.id])).toEqual([]);
    expect(await auditOf(a, { publicKeys })).toMatchObject({ findings: [], counts: { verified: 0n, pruned: 3n } });
  });

  test("rule 135: whoever moves the horizon forward hides nothing that is younger than any policy removes", async () => {
    const a = await service.newOrganization();
    const person = await newPerson(a.client);
    await makeAll(orm, a.id, key);
    await service.sql(
      `insert into event_horizon select $1, 1, pg_current_xact_id(), pg_current_snapshot(), clock_timestamp() + interval '1 day'`,
      [a.id],
    );
    await service.sql("delete from entity_event where entity_id = $1", [person.id]);
    const audit = await auditOf(a, { publicKeys: [publicKeyOf(key)] });
    expect(audit.findings.map(({ kind, eventId }) => [nameOf(kind), eventId])).toEqual([["MISSING", person.etag]]);
    await forget(service, [person.id]);
  });

  test("rules 132 and 135: a horizon without a policy hides nothing, and what a checkpoint says of the horizon stays true without one", async () => {
    const a = await service.newOrganization();
    const person = await newPerson(a.client);
    await age(a, 30);
    await makeAll(orm, a.id, key);
    const publicKeys = [publicKeyOf(key)];
    await service.sql("create table removed as select * from entity_event where entity_id = $1", [person.id]);
    await service.sql("delete from entity_event where entity_id = $1", [person.id]);
    await service.sql(
      `insert into event_horizon select $1, 1, pg_current_xact_id(), pg_current_snapshot(), clock_timestamp() - interval '10 days'`,
      [a.id],
    );
    expect(new Set(kindsOf(await auditOf(a, { publicKeys })))).toEqual(new Set(["MISSING"]));
    await service.sql("insert into entity_event select * from removed");
    await service.sql("drop table removed");
    // Removed by a policy that is there no more: the next checkpoint says how far.
    await keepFor7Days(a);
    await prune();
    await newPerson(a.client);
    await makeAll(orm, a.id, key);
    await a.client.organizations.updateOrganization({
      organization: {},
      updateMask: { paths: ["event_retention_days"] },
    });
    expect(await auditOf(a, { publicKeys })).toMatchObject({ findings: [], counts: { verified: 1n, pruned: 1n } });
    await forget(service, [person.id]);
  });
});

test("rule 127: events from before there were seals are counted, and what is added among them is found", async () => {
  const a = await service.newOrganization();
  const person = await newPerson(a.client);
  await a.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Bea" } });
  const unseal = "update entity_event set salt = null, personal_hash = null, previous_hash = null, hash = null";
  await service.sql(`${unseal} where entity_id = $1`, [person.id]);
  await service.sql("update entity set audit_head = null where id = $1", [person.id]);
  // They are older than checkpoints are.
  await service.sql("update entity_event set xid = '1', epoch = 1 where entity_id = $1", [person.id]);
  await a.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Clara" } });
  await makeAll(orm, a.id, key);
  expect((await checkpointsOf(a)).map(({ leaves }) => leaves.length)).toEqual([64]);
  const publicKeys = [publicKeyOf(key)];
  expect(await auditOf(a, { publicKeys })).toMatchObject({ findings: [], counts: { verified: 1n, unsealed: 2n } });
  // One that has a seal, as none of them can.
  await service.sql("update entity_event set xid = '1', epoch = 1 where entity_id = $1 and entity_version = 3", [
    person.id,
  ]);
  expect(new Set(kindsOf(await auditOf(a, { publicKeys })))).toEqual(new Set(["CHANGED", "EXTRA"]));
  await service.sql(
    `update entity_event set xid = (select pg_snapshot_xmax(to_position)::text::bigint - 1 from audit_checkpoint where organization_id = $2)::text::xid8,
       epoch = (select number from feed_epoch) where entity_id = $1 and entity_version = 3`,
    [person.id, a.id],
  );
  expect((await auditOf(a, { publicKeys })).findings).toEqual([]);
  // One that had a seal.
  await newPerson(a.client);
  await a.client.entities.updateEntity({ lookup: byId(person), entity: { name: "Dora" } });
  await makeAll(orm, a.id, key);
  await service.sql(`${unseal} where entity_id = $1 and entity_version = 4`, [person.id]);
  expect(new Set(kindsOf(await auditOf(a, { publicKeys })))).toEqual(new Set(["CHANGED", "HEAD_DIFFERS"]));
  await reseal(service.sql, [person.id]);
});

/** More versions of an entity, by hand and in one transaction: all of them right. */
async function copyEvents(entity: { id: string }, count: number): Promise<void> {
  await using one = await connection();
  const sql = async (text: string, values?: unknown[]) => (await one.query(text, values)).rows;
  await sql("begin");
  await sql(
    `insert into entity_event (organization_id, id, entity_id, entity_version, entity_type, type, external_ids,
       updated_fields, previous_values, new_values, actor, principal, source, metadata, recorded_at)
     select organization_id, gen_random_uuid(), entity_id, 1 + n, entity_type, 'ATTRIBUTE_CHANGED', external_ids,
       array['name'], jsonb_build_object('name', case n when 1 then new_values ->> 'name' else 'Ana ' || n - 1 end),
       jsonb_build_object('name', 'Ana ' || n), actor, principal, source, metadata, recorded_at + n * interval '1 microsecond'
     from entity_event, generate_series(1, $2::int) n where entity_id = $1`,
    [entity.id, count],
  );
  await sql(
    `with words as (delete from entity_word where entity_id = $1)
     update entity e set version = v.entity_version, etag = v.id, updated_at = v.recorded_at, name = v.new_values ->> 'name', name_words = null
     from entity_event v where v.entity_id = e.id and e.id = $1 and v.entity_version = $2`,
    [entity.id, count + 1],
  );
  await reseal(sql, [entity.id]);
  await sql("commit");
  await service.sql("analyze entity_event");
}

async function connection(): Promise<pg.Client & AsyncDisposable> {
  const client = new pg.Client(service.database);
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (await condition()) return;
    await sleep(100);
  }
  throw new Error("it did not come to be");
}
