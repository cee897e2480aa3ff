// How long does it take to verify a log, and what do others notice? npm run bench:audit [-- --events 1000000]
// A log of real entities, five versions of each, is written by the service's own statements; then the service makes its
// checkpoints, and verifies all of it over VerifyAuditTrail. Prints the times, the resident memory before and while it
// verifies, and how long calls of GetEntity take before and meanwhile. Ends with 1 where something was found, or memory grew.
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { createEntityClient, type EntityClient } from "../clients/typescript/index.ts";
import { createOrm } from "../src/db/orm.ts";
import { pipelined } from "../src/db/transaction.ts";
import { newId } from "../src/db/uuid.ts";
import { changedFields, changedValues } from "../src/domain/changed-fields.ts";
import { newEntity, update } from "../src/domain/entity.ts";
import { type Change, type EntityState, primaryOf } from "../src/domain/entity-state.ts";
import { insertEntities, writeExternalIds } from "../src/entities/rows.ts";
import { insertEvents } from "../src/log/events.ts";
import { type Heads, sealEvents, type UnsealedEvent } from "../src/log/sealing.ts";
import { fromProto } from "../src/rpc/entity-message.ts";
import { Violations } from "../src/rpc/violations.ts";
import { cpuOf, cpuOfDatabase, DEFAULT_ORGANIZATION, memoryOf, startService } from "./processes.ts";
import { openRows } from "./rows.ts";

const VERSIONS = 5;
/** Entities of one transaction. */
const GROUP = 200;
const MICROS = 1_000_000n;
/** How long calls are timed before anything is verified. */
const ALONE_MS = 3_000;
/** What garbage adds to the memory of before. */
const GROWTH_MIB = 80;

const { id: organizationId, apiKey } = DEFAULT_ORGANIZATION;
const author = { principal: newId(), actor: "bench", source: "bench" };
const rows = openRows();

/** An entity with all of its events, the last of which is a second old. */
function makeOne(index: number, heads: Heads): { entity: EntityState; events: UnsealedEvent[] } {
  const { entity: message } = rows.at(index);
  if (message === undefined) throw new Error("a row has no entity");
  const { patch } = fromProto(message, undefined, "2026-01-01", new Violations());
  const start = BigInt(Date.now()) * 1_000n - 3_600n * MICROS;
  const events: UnsealedEvent[] = [];
  let entity: EntityState | null = null;
  const id = newId();
  for (let version = 1; version <= VERSIONS; version++) {
    const now = start + BigInt(version) * MICROS;
    const change: Change | null =
      entity === null
        ? newEntity({ ...patch, externalId: message.externalId }, "", now)
        : update(
            entity,
            { name: `${patch.name} ${version}`, attributes: { replace: false, entries: { version } } },
            "bench",
          );
    if (change === null) throw new Error("an update changed nothing");
    const before: EntityState | null = entity;
    const updatedFields = changedFields(before, change.values);
    const etag = newId();
    entity = { ...change.values, id, organizationId, version, etag, createdAt: start + MICROS, updatedAt: now };
    events.push({
      ...{ organizationId, id: etag, entityId: id, entityVersion: version, entityType: entity.type, type: change.type },
      ...{
        externalId: primaryOf(entity)?.externalId ?? null,
        externalIds: entity.externalIds.map((one) => one.externalId),
      },
      ...{ updatedFields, ...changedValues(before, change.values, updatedFields), ...author },
      ...{ reason: change.reason || null, requestId: null, metadata: {}, recordedAt: now, occurredAt: null },
    });
  }
  if (entity === null) throw new Error("no version was made");
  heads.delete(id);
  return { entity, events };
}

/** Calls without a pause, until it is told to stop: the times that they took. */
async function callMeanwhile({ entities }: EntityClient, externalId: string, isOver: () => boolean): Promise<number[]> {
  const times: number[] = [];
  while (!isOver()) {
    const began = performance.now();
    await entities.getEntity({ lookup: { by: { case: "externalId", value: externalId } } });
    times.push(performance.now() - began);
    await sleep(5);
  }
  return times.sort((a, b) => a - b);
}

async function main(count: number): Promise<void> {
  await using service = await startService({ env: { AUDIT_CHECKPOINT_SECONDS: "1" } });
  const { host, port, user, database } = service.address;
  const orm = createOrm(
    { host, port, user, database },
    { poolSize: 3, statementTimeoutMs: 60_000, lockTimeoutMs: 60_000 },
  );
  const seconds = (since: number) => ((performance.now() - since) / 1_000).toFixed(1);
  const print = (line: string) => process.stdout.write(`${line}\n`);

  let began = performance.now();
  for (let from = 0; from < count / VERSIONS; from += GROUP) {
    const heads: Heads = new Map();
    const made = Array.from({ length: GROUP }, (_, i) => makeOne(from + i, heads));
    const events = sealEvents(
      made.flatMap((one) => one.events),
      heads,
    );
    await pipelined(orm, organizationId, async (db) => {
      const entities = made.map(({ entity }) => ({
        ...entity,
        ...{ layer: null, auditHead: heads.get(entity.id) as Buffer },
      }));
      insertEntities(db, organizationId, entities);
      const changes = entities.map(({ id, externalIds: after }) => ({ entityId: id, before: [], after }));
      writeExternalIds(db, organizationId, changes);
      insertEvents(db, organizationId, events);
    });
  }
  await orm.close(true);
  print(`written in ${seconds(began)} s`);
  await service.sql("vacuum analyze entity, entity_event, external_id");

  began = performance.now();
  const listed = async () => {
    const [row] = await service.sql(
      "select max(total)::int as total, count(*)::int as checkpoints from audit_checkpoint",
    );
    return row as { total: number | null; checkpoints: number };
  };
  while ((await listed()).total !== count) await sleep(200);
  print(`${(await listed()).checkpoints} checkpoints, the last of them after ${seconds(began)} s`);

  const client = createEntityClient({ retries: false, baseUrl: `http://127.0.0.1:${service.port}`, apiKey });
  const before = memoryOf(service.pid);
  let peak = before;
  let isOver = false;
  const sampling = (async () => {
    for (; !isOver; await sleep(100)) peak = Math.max(peak, memoryOf(service.pid));
  })();
  const externalId = rows.at(7).entity?.externalId ?? "";
  const until = performance.now() + ALONE_MS;
  const alone = await callMeanwhile(client, externalId, () => performance.now() > until);
  const calling = callMeanwhile(client, externalId, () => isOver);
  const cpu = () => [cpuOf(service.pid), cpuOfDatabase(service.address.pid)] as const;
  const cpuBefore = cpu();
  began = performance.now();
  let findings = 0;
  let counts = "";
  for await (const message of client.entities.verifyAuditTrail({})) {
    findings += message.findings.length;
    counts = `verified ${message.counts?.verified}, of ${message.counts?.entities} entities, ${message.counts?.checkpoints} checkpoints`;
  }
  const took = performance.now() - began;
  const [own, databases] = cpu().map((micros, i) => (micros - (cpuBefore[i] ?? 0)) / count);
  isOver = true;
  const [times] = await Promise.all([calling, sampling]);
  const at = (part: number, of = times) => (of[Math.floor(of.length * part)] ?? 0).toFixed(1);
  print(
    `${counts} in ${(took / 1_000).toFixed(1)} s, ${((took * 1_000) / count).toFixed(1)} µs an event (CPU: service ${own?.toFixed(1)}, database ${databases?.toFixed(1)}); findings ${findings}`,
  );
  print(
    `resident memory ${before} MiB before, ${peak} MiB at most; GetEntity p50 ${at(0.5, alone)} ms before, and meanwhile p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, most ${at(0.9999)} ms`,
  );
  if (findings > 0 || peak > before + GROWTH_MIB) process.exitCode = 1;
}

const { values } = parseArgs({ options: { events: { type: "string", default: "1000000" } } });
await main(Number(values.events));
