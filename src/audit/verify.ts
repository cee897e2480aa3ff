// Rule 132: verification of an organization's log: first the checkpoints, then the chains, and with these what they tell of
// evaluations. It reads beside what goes on, a page at a time: no transaction stays open, and memory does not grow with the
// log.

import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { readStatements } from "../db/transaction.ts";
import type { Absent } from "../domain/chain.ts";
import type { Finding } from "../domain/finding.ts";
import { type Instant, instantToText, parseInstant } from "../domain/time.ts";
import { parseSnapshot, sees } from "../log/snapshot.ts";
import type { Slots } from "../slots.ts";
import {
  bodiesOf,
  firstSince,
  lastCheckpoint,
  listCheckpoints,
  listKeys,
  type Place,
  type StoredCheckpoint,
  startOfAll,
} from "./checkpoints.ts";
import type { Log, MissingEvent } from "./compare-leaves.ts";
import type { ShortTurns } from "./short-turns.ts";
import { readVerifyingKey, type VerifyingKey } from "./signing-key.ts";
import { type SeenEvent, verifyChains } from "./verify-chains.ts";
import { type Expected, verifyCheckpoints } from "./verify-checkpoints.ts";
import { createLists } from "./verify-listed.ts";
import { createReceipts, type Receipts } from "./verify-receipts.ts";

/** A checkpoint that somebody kept. */
export interface KeptCheckpoint {
  number: number;
  body: string;
  signature: Buffer;
}

export interface VerifyOptions {
  organizationId: string;
  /** Undefined: of all. */
  entityIds: readonly string[] | undefined;
  /** Only events that were recorded then or later, and the checkpoints from the first on that has one of them. */
  since: Instant | undefined;
  kept: readonly KeptCheckpoint[];
  /** Those to believe; none: those that the database has, and what is unsigned is only counted. */
  publicKeys: readonly VerifyingKey[];
  /** Bounds the reads of all who verify. */
  slots: Slots;
  signal: AbortSignal;
  /** Shared by all who verify. */
  turns: ShortTurns;
}

export interface VerifyCounts {
  verified: number;
  unsealed: number;
  pruned: number;
  erased: number;
  notInCheckpoint: number;
  checkpoints: number;
  unsignedCheckpoints: number;
  entities: number;
  evaluations: number;
  matrixVersions: number;
}

export interface VerifyStep {
  findings: Finding[];
  counts: VerifyCounts;
  /** About how much is done, from 0 to 1. */
  done: number;
}

/** What one verification knows. */
interface Trail extends Log {
  /** When it began: what comes later is not looked at. */
  last: StoredCheckpoint | undefined;
  counts: VerifyCounts;
  expected: Expected;
  missing: Map<string, MissingEvent & { isNamed: boolean }>;
  horizon(): Promise<Instant | null>;
}

/** Missing events whose entity is looked for; those beyond are named by their ids alone. */
const MAX_MISSING = 10_000;
/** The part of the work that the checkpoints are. */
const CHECKPOINTS_SHARE = 0.15;

/** What is found, as it is found. */
export async function* verifyTrail(orm: Orm, options: VerifyOptions): AsyncGenerator<VerifyStep, void> {
  const { organizationId, slots, signal, publicKeys, turns } = options;
  const read: Trail["read"] = (work) =>
    slots(organizationId, () => readStatements(orm, organizationId, work), { signal });
  const stored = publicKeys.length > 0 ? [] : await read((db) => listKeys(db));
  const known = [...publicKeys, ...stored.flatMap(({ publicKey }) => readVerifyingKey(publicKey) ?? [])];
  const last = await read((db) => lastCheckpoint(db, organizationId));
  const trail: Trail = {
    organizationId,
    read,
    turns,
    last,
    counts: {
      ...{ verified: 0, unsealed: 0, pruned: 0, erased: 0, notInCheckpoint: 0 },
      ...{ checkpoints: 0, unsignedCheckpoints: 0, entities: 0, evaluations: 0, matrixVersions: 0 },
    },
    expected: {
      start: await read((db) => startOfAll(db)),
      keys: new Map(known.map((key) => [key.keyId.toString("hex"), key])),
      mustBeSigned: publicKeys.length > 0,
      turns,
    },
    missing: new Map(),
    horizon: () => read((db) => prunedUpTo(db, organizationId, last)),
  };
  yield stepOf(trail, await checkKept(trail, options.kept), 0);
  // For some entities the checkpoints of their events are enough.
  if (options.entityIds === undefined) yield* checkpointSteps(trail, options.since);
  const receipts = createReceipts({ ...options, read, horizon: trail.horizon });
  yield* chainSteps(trail, options, receipts);
  for await (const findings of receipts.untold()) yield stepOf(trail, findings, 1);
  for await (const findings of receipts.versions()) {
    trail.counts.matrixVersions = receipts.counts.matrixVersions;
    yield stepOf(trail, findings, 1);
  }
  const rest = [...trail.missing.values()].filter(({ isNamed }) => !isNamed);
  yield stepOf(trail, rest.map(missingEvent), 1);
}

const stepOf = ({ counts }: Trail, findings: Finding[], done: number): VerifyStep => ({
  findings,
  counts: { ...counts },
  done,
});

/** Each that was kept is the one that is there. */
async function checkKept(
  { organizationId, read, expected, turns }: Trail,
  kept: readonly KeptCheckpoint[],
): Promise<Finding[]> {
  if (kept.length === 0) return [];
  const findings: Finding[] = [];
  const broken = (checkpoint: number, detail: string) =>
    findings.push({ kind: "CHECKPOINT_BROKEN", checkpoint, detail });
  const numbers = kept.map(({ number }) => number);
  const bodies = await read((db) => bodiesOf(db, organizationId, numbers));
  for (const { number, body, signature } of kept) {
    if (turns.isOver()) await turns.next();
    const own = bodies.get(number);
    if (own === undefined) broken(number, "it was kept, and is not there any more");
    else if (own !== body) broken(number, "it is not the one that was kept");
    const isSigned = signature.length > 0 && expected.keys.get(keyIdIn(body))?.verifies(body, signature);
    if (expected.mustBeSigned && !isSigned) {
      const detail = "the one that was kept is not signed by one of the keys";
      findings.push({ kind: "SIGNATURE_INVALID", checkpoint: number, detail });
    }
  }
  return findings;
}

/** The id of the key that a body names, which may be no body: of many keys one is tried. */
function keyIdIn(body: string): string {
  try {
    const { key_id: id } = JSON.parse(body);
    return typeof id === "string" ? id : "";
  } catch {
    return "";
  }
}

async function* checkpointSteps(trail: Trail, since: Instant | undefined): AsyncGenerator<VerifyStep, void> {
  const { organizationId, read, last, counts, missing, horizon, expected } = trail;
  const first = since === undefined ? 1 : await read((db) => firstSince(db, organizationId, since));
  if (last === undefined || first === undefined) return;
  const [after] =
    first === 1
      ? []
      : (await read((db) => listCheckpoints(db, organizationId, { after: first - 2, withLeaves: false, bound: ONE })))
          .rows;
  for await (const step of verifyCheckpoints({
    organizationId,
    after,
    upTo: last.number,
    read,
    horizon,
    ...expected,
  })) {
    counts.checkpoints += step.checkpoints;
    counts.unsignedCheckpoints += step.unsigned;
    for (const event of step.missing) {
      if (event.hash === null || missing.size >= MAX_MISSING) step.findings.push(missingEvent(event));
      else missing.set(event.hash.toString("hex"), { ...event, isNamed: false });
    }
    yield stepOf(trail, step.findings, (CHECKPOINTS_SHARE * step.number) / last.number);
  }
}

const ONE = { rows: 1, bytes: 1 };

async function* chainSteps(trail: Trail, options: VerifyOptions, receipts: Receipts): AsyncGenerator<VerifyStep, void> {
  const { organizationId, read, last, counts, missing, horizon, expected } = trail;
  const { entityIds, since } = options;
  const absent = async (): Promise<Absent> => ({
    horizon: await horizon(),
    idOfMissing(hash) {
      const found = missing.get(hash.toString("hex"));
      if (found !== undefined) found.isNamed = true;
      return found?.id;
    },
  });
  const end = last && { epoch: last.epoch, position: parseSnapshot(last.toPosition) };
  const isBefore = (place: Place | undefined, { epoch, xid }: SeenEvent) =>
    place !== undefined && (epoch < place.epoch || (epoch === place.epoch && sees(place.position, xid)));
  const lists =
    entityIds === undefined || last === undefined
      ? undefined
      : createLists({ organizationId, last: last.number, read, ...expected });
  /** The last in the order of transactions, of those that no checkpoint lists. */
  let latest: SeenEvent | undefined;
  for await (const { findings, counts: more, events } of verifyChains({
    organizationId,
    entityIds,
    since,
    read,
    turns: expected.turns,
    absent,
  })) {
    for (const name of Object.keys(more) as (keyof typeof more)[]) counts[name] += more[name];
    for (const event of events) {
      if (isBefore(expected.start, event)) {
        if (event.hash !== null) findings.push(tooEarly(event));
      } else if (!isBefore(end, event)) {
        counts.notInCheckpoint += 1;
        if (latest === undefined || isLater(event, latest)) latest = event;
      } else if (lists !== undefined) findings.push(...(await lists.check(event)));
    }
    findings.push(...(await receipts.check(events.flatMap(({ receipt }) => receipt ?? []))));
    Object.assign(counts, receipts.counts);
    if (lists !== undefined) {
      counts.checkpoints = lists.counts.checkpoints;
      counts.unsignedCheckpoints = lists.counts.unsigned;
    }
    const seen = counts.verified + counts.unsealed + counts.pruned;
    const all = Math.max(seen, (last?.total ?? 0) + counts.notInCheckpoint);
    yield stepOf(trail, findings, CHECKPOINTS_SHARE + (1 - CHECKPOINTS_SHARE) * (seen / Math.max(1, all)));
  }
  // One that is to come would be in a checkpoint when it has: by then nobody would wonder.
  if (latest !== undefined && !isBefore(await read(nowOf), latest)) {
    const { id: eventId, entityId: itsEntity, entityVersion } = latest;
    const detail = "its transaction has not come yet";
    yield stepOf(trail, [{ kind: "EXTRA", entityId: itsEntity, entityVersion, eventId, detail }], 1);
  }
}

const isLater = (a: SeenEvent, b: SeenEvent): boolean => a.epoch > b.epoch || (a.epoch === b.epoch && a.xid > b.xid);

/** All that has begun by now. */
async function nowOf(db: Statements): Promise<Place> {
  const [row] = await db.execute<{ number: number; xmax: string }[]>(
    "select number, pg_snapshot_xmax(pg_current_snapshot())::text as xmax from feed_epoch",
    [],
  );
  return { epoch: row?.number ?? 0, position: { xmax: BigInt(row?.xmax ?? 0), running: [] } };
}

/** Before there were checkpoints there were no seals either. */
const tooEarly = ({ id, entityId, entityVersion }: SeenEvent): Finding => ({
  ...{ kind: "EXTRA", entityId, entityVersion, eventId: id },
  detail: "its transaction is older than seals are",
});

const missingEvent = ({ id, checkpoint }: MissingEvent): Finding => ({
  kind: "MISSING",
  eventId: id,
  checkpoint,
  detail: "its checkpoint lists it, and it is not there",
});

/**
 * Up to when events may have been pruned by now: as far as the last checkpoint says, and where there is a policy, as far as
 * the horizon has come since; no policy prunes before 7 days have passed. Null: none were.
 */
async function prunedUpTo(
  db: Statements,
  organizationId: string,
  last: StoredCheckpoint | undefined,
): Promise<Instant | null> {
  const [row] = await db.execute<{ up_to: string | null }[]>(
    `select greatest($2::timestamptz, case when o.event_retention_days is not null
       then least(h.recorded_at, clock_timestamp() - interval '7 days') end) as up_to
     from organization o left join event_horizon h on h.organization_id = o.organization_id where o.organization_id = $1`,
    [organizationId, last?.horizon == null ? null : instantToText(last.horizon)],
  );
  return row?.up_to == null ? null : parseInstant(row.up_to);
}
