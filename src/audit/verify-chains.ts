// The chains of an organization's entities, a page at a time. What looks wrong is looked at once more, the entity by itself:
// what goes on meanwhile, writes and retention, is no finding.

import type { Part } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import { type Absent, type Chain, type ChainCounts, createChain } from "../domain/chain.ts";
import type { Finding } from "../domain/finding.ts";
import type { Instant } from "../domain/time.ts";
import { NO_ID } from "../log/source.ts";
import {
  beforeAll,
  type ChainedRow,
  type ChainPlace,
  type ChainQuery,
  placeBehind,
  readChains,
  readEntities,
  readWithoutEvents,
} from "./chained-rows.ts";
import type { ShortTurns } from "./short-turns.ts";
import { receiptIn, type ToldReceipt } from "./verify-receipts.ts";

/** A page: what is in memory of a log at once, twice. */
const PAGE = { rows: 500, bytes: 1024 * 1024 };
/** Events, and rows of entities, that one statement passes over. */
const SCAN_ROWS = 5_000;

export interface ChainsOptions {
  organizationId: string;
  /** Undefined: of all. */
  entityIds: readonly string[] | undefined;
  /** Only events that were recorded then or later. */
  since: Instant | undefined;
  /** A read of one round trip, in turn with other work. */
  read<T>(work: (db: Statements) => Promise<T>): Promise<T>;
  turns: ShortTurns;
  /** What is known now of events that are not there. */
  absent(): Promise<Absent>;
}

/** What the entities that have been finished since the last step came to. */
export interface ChainsStep {
  findings: Finding[];
  counts: ChainCounts & { entities: number };
  events: readonly SeenEvent[];
}

/** An event that was read, as a checkpoint may list it. */
export interface SeenEvent extends Pick<ChainedRow, "id" | "entityId" | "entityVersion" | "epoch" | "xid"> {
  hash: Buffer | null;
  /** Undefined where it cannot be read. */
  recordedAt: Instant | undefined;
  /** What it says of the evaluation that it is of. */
  receipt: ToldReceipt | undefined;
}

const toSeen = ({ id, entityId, entityVersion, epoch, xid, event }: ChainedRow): SeenEvent => ({
  ...{ id, entityId, entityVersion, epoch, xid },
  ...{ hash: event?.hash ?? null, recordedAt: event?.recordedAt, receipt: event && receiptIn(event) },
});

/** Verifies the chains, then that no entity is without one. */
export async function* verifyChains(options: ChainsOptions): AsyncGenerator<ChainsStep, void> {
  if (options.entityIds !== undefined) for (const id of options.entityIds) yield* verifyEntity(options, id);
  else {
    yield* verifyAll(options);
    yield* verifyWithoutEvents(options);
  }
}

async function* verifyAll(options: ChainsOptions): AsyncGenerator<ChainsStep, void> {
  const { organizationId, read, since, turns } = options;
  // As it is now: what it does not explain is looked at once more.
  const absent = await options.absent();
  let open: Seen | undefined;
  const query = (one: ChainQuery) => read((db) => readChains(db, organizationId, { ...one, since }, PAGE));
  const pages = since === undefined ? pagesOf(query, { after: beforeAll(NO_ID) }) : pagesSince(options, query);
  for await (const rows of pages) {
    const step = newStep(rows.map(toSeen));
    const ids = new Set([open?.entityId, ...rows.map(({ entityId }) => entityId)]);
    ids.delete(rows.at(-1)?.entityId);
    ids.delete(undefined);
    const entities = readAll(options, [...ids] as string[]);
    // Whoever leaves does not wait for them.
    entities.catch(() => {});
    const ended: Seen[] = [];
    for (const row of rows) {
      if (row.entityId !== open?.entityId) {
        if (open !== undefined) ended.push(open);
        open = { entityId: row.entityId, chain: createChain(row.entityId, { since, absent }), last: row };
      }
      addRow(open, row);
      if (turns.isOver()) await turns.next();
    }
    for (const seen of ended) {
      await finish(options, step, seen, await entities);
      if (turns.isOver()) await turns.next();
    }
    yield step;
  }
  const step = newStep([]);
  if (open !== undefined) await finish(options, step, open, await readAll(options, [open.entityId]));
  yield step;
}

/** An entity whose events are being read. */
interface Seen {
  entityId: string;
  chain: Chain;
  last: ChainedRow;
}

function addRow(seen: Seen, row: ChainedRow): void {
  const { event, id, entityVersion } = row;
  if (event === undefined) seen.chain.addUnreadable({ id, entityVersion });
  else seen.chain.add(event);
  seen.last = row;
}

type Entities = Awaited<ReturnType<typeof readEntities>>;

/** All of these, in as many reads as they take. */
async function readAll({ organizationId, read }: ChainsOptions, ids: readonly string[]): Promise<Entities> {
  const all: Entities = new Map();
  for (let left = ids; left.length > 0; left = left.filter((id) => !all.has(id))) {
    for (const [id, entity] of await read((db) => readEntities(db, organizationId, left, PAGE.bytes)))
      all.set(id, entity);
  }
  return all;
}

async function finish(options: ChainsOptions, step: ChainsStep, seen: Seen, entities: Entities): Promise<void> {
  const entity = entities.get(seen.entityId);
  // The row was read behind the events: of the same version it is what they make of it, or somebody has changed it.
  const isSame = entity != null && entity !== "unreadable" && entity.state.version === seen.last.entityVersion;
  const ended = isSame ? seen.chain.end(entity) : undefined;
  if (ended?.findings.length === 0) add(step, { ...ended, counts: { ...ended.counts, entities: 1 } });
  else await addAlone(options, step, seen.entityId);
}

/** Events that come while the entity is verified are verified with it, so many times at most. */
const MAX_ROUNDS = 5;

/** Adds what an entity by itself comes to; its events have been seen. */
async function addAlone(options: ChainsOptions, step: ChainsStep, entityId: string): Promise<void> {
  for await (const one of verifyEntity(options, entityId)) add(step, one);
}

/** One entity by itself: a step for each page, and one for what they came to. */
async function* verifyEntity(options: ChainsOptions, entityId: string): AsyncGenerator<ChainsStep, void> {
  const { organizationId, read, since, turns } = options;
  let seen: Seen | undefined;
  let entity: ReturnType<Entities["get"]>;
  const query = (one: ChainQuery) => read((db) => readChains(db, organizationId, { ...one, entityId, since }, PAGE));
  for (let round = 0, isNew = true; isNew && round < MAX_ROUNDS; round++) {
    isNew = false;
    for await (const rows of pagesOf(query, { after: seen?.last.place ?? beforeAll(entityId) })) {
      // Asked for behind the events: what they lack was pruned by then.
      const chain = seen?.chain ?? createChain(entityId, { since, absent: await options.absent() });
      seen ??= { entityId, chain, last: rows[0] as ChainedRow };
      for (const row of rows) {
        addRow(seen, row);
        if (turns.isOver()) await turns.next();
      }
      yield newStep(rows.map(toSeen));
      isNew = true;
    }
    entity = (await readAll(options, [entityId])).get(entityId);
    isNew &&= entity != null && entity !== "unreadable" && entity.state.version > (seen?.last.entityVersion ?? 0);
  }
  const step = newStep([]);
  if (entity === "unreadable") {
    step.findings.push({ kind: "ENTITY_DIFFERS", entityId, detail: "it holds what no entity does" });
    yield step;
    return;
  }
  const chain = seen?.chain ?? createChain(entityId, { since, absent: await options.absent() });
  const { findings, counts } = chain.end(entity ?? undefined);
  add(step, { findings, counts: { ...counts, entities: entity == null ? 0 : 1 } });
  yield step;
}

/** Entities whose last event is not there, and none that would have been seen: all were pruned, or are missing. */
async function* verifyWithoutEvents(options: ChainsOptions): AsyncGenerator<ChainsStep, void> {
  const { organizationId, read } = options;
  for (let after = NO_ID; ; ) {
    const { ids, last } = await read((db) => readWithoutEvents(db, organizationId, after, SCAN_ROWS));
    if (last === undefined) return;
    const step = newStep([]);
    for (const id of ids) await addAlone(options, step, id);
    yield step;
    after = last;
  }
}

/** Pages one after the other; the next one is read while one is looked at. */
async function* pagesOf(
  read: (query: ChainQuery) => Promise<Part<ChainedRow>>,
  query: ChainQuery,
): AsyncGenerator<ChainedRow[], void> {
  let next: Promise<Part<ChainedRow>> | undefined = read(query);
  while (next !== undefined) {
    const { rows, isCut }: Part<ChainedRow> = await next;
    const last = rows.at(-1);
    next =
      last !== undefined && (isCut || rows.length === PAGE.rows) ? read({ ...query, after: last.place }) : undefined;
    // Whoever leaves does not wait for it.
    next?.catch(() => {});
    if (rows.length > 0) yield rows;
  }
}

/** The few that were recorded since a time, of many: a statement passes over so many and no more. */
async function* pagesSince(
  { organizationId, read }: ChainsOptions,
  query: (query: ChainQuery) => Promise<Part<ChainedRow>>,
): AsyncGenerator<ChainedRow[], void> {
  for (let after: ChainPlace = beforeAll(NO_ID); ; ) {
    const from = after;
    const upTo = await read((db) => placeBehind(db, organizationId, from, SCAN_ROWS));
    if (upTo === undefined) return;
    yield* pagesOf(query, { after: from, upTo });
    after = upTo;
  }
}

const newStep = (events: readonly SeenEvent[]): ChainsStep => ({
  findings: [],
  counts: { verified: 0, unsealed: 0, pruned: 0, erased: 0, entities: 0 },
  events,
});

function add(step: ChainsStep, { findings, counts }: Pick<ChainsStep, "findings" | "counts">): void {
  step.findings.push(...findings);
  for (const name of Object.keys(counts) as (keyof typeof counts)[]) step.counts[name] += counts[name];
}
