// Reads that meet join: lookups that arrive while a read is under way wait for the next one and share its statement,
// whichever organizations they are of. An idle reader goes at once, a busy one makes one round trip for many.

import { type Connections, keptConnection } from "../db/kept-connection.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { ORGANIZATIONS_MEET } from "../db/tenant.ts";
import { readJoined, readStatements } from "../db/transaction.ts";
import { DomainError, overloaded } from "../domain/errors.ts";
import { type Lookup, lookupKeys } from "../domain/lookup.ts";
import { inTurn } from "../in-turn.ts";
import { createSlots, type Slots } from "../slots.ts";
import type { AliasUse } from "./alias-use.ts";
import { findJoined } from "./joined-lookups.ts";
import { FEW_ROWS, type FoundEntities, findByKeys, findEntities, type Keys, MOST_ROWS } from "./lookups.ts";

export interface Reader {
  /**
   * The matches of the lookups, from one moment; it may hold those of other callers of the organization too. Rejects
   * with OVERLOADED where too many lookups of the organization wait, and when the signal is aborted before its turn.
   */
  find(organizationId: string, lookups: readonly Lookup[], signal?: Departure): Promise<FoundEntities>;
}

type Departure = Pick<AbortSignal, "aborted" | "reason">;

export interface ReaderOptions {
  /** Bounds the lists of lookups, each of which has a statement and a connection of its own. */
  slots?: Slots;
  /** Whether organizations share a statement. */
  joinsOrganizations?: boolean;
  /** Told of each entity that an external id named. */
  named?: AliasUse["named"];
}

/**
 * Statements for single lookups at a time. While the first makes good progress there is no other: those that wait for it
 * share the next, which is cheaper than two. One that is held up, by its connection for example, holds up nobody else.
 */
const READS = 2;
/** A statement without an answer for so long is held up. */
const HELD_UP_MS = 10;
/** Lookups of one statement of one organization; the rest waits for the next. */
const MAX_LOOKUPS = 128;
/** Lookups of one organization that wait. */
const MAX_WAITING = 1_000;

/** So many callers go on together with what was found: each may have an answer of 600 kB to make of it. */
const TOLD_TOGETHER = 4;

interface Waiting {
  organizationId: string;
  lookup: Lookup;
  signal: Departure | undefined;
  resolve: (found: FoundEntities) => void;
  reject: (error: unknown) => void;
}

interface Lane {
  connections: Connections;
  /** By performance.now(), since when its statement is under way; undefined: idle. */
  since: number | undefined;
}

/** With a connection of its own, in the organization's turn. */
type Aside = (
  organizationId: string,
  work: (db: Statements) => Promise<FoundEntities>,
  signal: Departure | undefined,
) => Promise<FoundEntities>;

/** Rule 158: what the forms of a tax id name, and once more its key, for it is to be of one moment. */
const findForms = (aside: Aside, { organizationId, lookup, signal }: Omit<Waiting, "resolve" | "reject">) =>
  aside(organizationId, (db) => findByKeys(db, organizationId, keysOf([lookup]), [lookup.key]), signal);

export function createReader(
  orm: Orm,
  { slots = createSlots(2), joinsOrganizations = ORGANIZATIONS_MEET, named = () => {} }: ReaderOptions = {},
): Reader {
  /** Lookups that wait, by organization, in the order of their turns. */
  const queues = new Map<string, Waiting[]>();
  const aside: Aside = (organizationId, work, signal) =>
    slots(organizationId, async () => {
      if (signal?.aborted) throw signal.reason;
      const found = await readStatements(orm, organizationId, work);
      // It may be several MiB: the next is not read before something is made of it.
      await inTurn.enter(organizationId);
      return found;
    });
  const lanes = Array.from({ length: READS }, (): Lane => ({ connections: keptConnection(orm), since: undefined }));
  let isWatching = false;

  /** To be called where lookups wait. */
  function start(): void {
    const running = lanes.filter(({ since }) => since !== undefined);
    const idle = lanes.find(({ since }) => since === undefined);
    if (idle === undefined) return;
    const leftMs = Math.max(...running.map(({ since = 0 }) => since + HELD_UP_MS - performance.now()));
    if (leftMs > 0) watch(leftMs);
    else {
      idle.since = performance.now();
      // After the input that has arrived with this call: its lookups join at once.
      setImmediate(() => void run(idle));
    }
  }

  function watch(ms: number): void {
    if (isWatching) return;
    isWatching = true;
    setTimeout(() => {
      isWatching = false;
      if (queues.size > 0) start();
    }, ms).unref();
  }

  async function run(lane: Lane): Promise<void> {
    for (let joined = next(); joined.length > 0; joined = next()) {
      lane.since = performance.now();
      await answer(lane.connections, joined);
      // The other, where it is not held up any more, goes on for both.
      if (queues.size > 0 && lanes.some((other) => other !== lane && makesProgress(other))) break;
    }
    lane.since = undefined;
    if (queues.size > 0) start();
  }

  const makesProgress = ({ since }: Lane) => since !== undefined && performance.now() - since < HELD_UP_MS;

  /** Those of one statement: of organizations in turn, one lookup each; of a single one, as many as there are. */
  function next(): Waiting[] {
    const joined: Waiting[] = [];
    const isShared = joinsOrganizations && queues.size > 1;
    let rows = 0;
    let [organizationId] = queues.keys();
    while (organizationId !== undefined && (isShared ? rows < FEW_ROWS : joined.length < MAX_LOOKUPS)) {
      const queue = queues.get(organizationId) ?? [];
      const one = queue.shift();
      queues.delete(organizationId);
      if (queue.length > 0) queues.set(organizationId, queue);
      if (one?.signal?.aborted) one.reject(one.signal.reason);
      else if (one !== undefined) {
        joined.push(one);
        rows += MOST_ROWS[kindOf(one.lookup)];
      }
      // Those that have left make no statement: the next organization does.
      if (isShared || joined.length === 0) [organizationId] = queues.keys();
      else if (queue.length === 0) organizationId = undefined;
    }
    return joined;
  }

  function queueOf(organizationId: string): Waiting[] {
    const queue = queues.get(organizationId) ?? [];
    queues.set(organizationId, queue);
    return queue;
  }

  /** Tells each what was found. What was too much for one statement is found first next time. */
  async function answer(connections: Connections, joined: readonly Waiting[]): Promise<void> {
    const organizations = Map.groupBy(joined, (one) => one.organizationId);
    try {
      const found = await read(connections, organizations);
      for (const [i, one] of joined.entries()) {
        if (i % TOLD_TOGETHER === 0) await inTurn.enter(one.organizationId);
        const its = found.get(one.organizationId) as FoundEntities;
        if (isLeftOut(one.lookup, its)) queueOf(one.organizationId).unshift(one);
        else if (one.lookup.by === "tax_id" && !its.hits.taxIdKeys.has(one.lookup.key)) {
          // Its forms are tried aside: others that wait here do not wait for that.
          findForms(aside, one).then(one.resolve, one.reject);
        } else {
          tell(one.organizationId, one.lookup, its);
          one.resolve(its);
        }
      }
    } catch (error) {
      const isOfAll = error instanceof DomainError && error.reason === "DATABASE_UNAVAILABLE";
      if (organizations.size === 1 || isOfAll) for (const { reject } of joined) reject(error);
      // What fails for one of them fails for no other.
      else for (const own of organizations.values()) await answer(connections, own);
    }
  }

  function tell(organizationId: string, lookup: Lookup, { hits, entities }: FoundEntities): void {
    if (lookup.by !== "external_id") return;
    const entity = entities.get(hits.externalIds.get(lookup.key) ?? "");
    if (entity !== undefined) named(organizationId, lookup, entity);
  }

  async function read(
    connections: Connections,
    organizations: ReadonlyMap<string, readonly Waiting[]>,
  ): Promise<Map<string, FoundEntities>> {
    const keys = new Map<string, Keys>();
    for (const [organizationId, own] of organizations) {
      keys.set(organizationId, keysOf(own.map(({ lookup }) => lookup)));
    }
    if (keys.size > 1) return readJoined(connections, (db) => findJoined(db, keys));
    const [[organizationId, own]] = keys as unknown as [[string, Keys]];
    const work = (db: Statements) => findByKeys(db, organizationId, own);
    return new Map([[organizationId, await readStatements(orm, organizationId, work, connections)]]);
  }

  return {
    async find(organizationId, lookups, signal) {
      const [lookup, more] = lookups;
      if (lookup === undefined || more !== undefined) {
        const work = (db: Statements) => findEntities(db, organizationId, keysOf(lookups));
        const found = await aside(organizationId, work, signal);
        for (const one of lookups) tell(organizationId, one, found);
        return found;
      }
      const queue = queueOf(organizationId);
      if (queue.length >= MAX_WAITING) {
        dropAborted(queue);
        if (queue.length >= MAX_WAITING) throw overloaded("Too many reads of the organization wait");
      }
      const found = new Promise<FoundEntities>((resolve, reject) =>
        queue.push({ organizationId, lookup, signal, resolve, reject }),
      );
      start();
      return found;
    },
  };
}

const KINDS = { entity_id: "entityIds", external_id: "externalIds", tax_id: "taxIdKeys" } as const;
const kindOf = ({ by }: Lookup): keyof Keys => KINDS[by];

function keysOf(lookups: readonly Lookup[]): Keys {
  const keys: Keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
  for (const lookup of lookups) lookupKeys(lookup, keys);
  if (lookups.length === 1) return keys;
  return {
    entityIds: [...new Set(keys.entityIds)],
    externalIds: [...new Set(keys.externalIds)],
    taxIdKeys: [...new Set(keys.taxIdKeys)],
  };
}

function dropAborted(queue: Waiting[]): void {
  for (const one of queue.splice(0)) {
    if (one.signal?.aborted) one.reject(one.signal.reason);
    else queue.push(one);
  }
}

function isLeftOut({ by, key }: Lookup, { hits, leftOut }: FoundEntities): boolean {
  if (leftOut.size === 0) return false;
  if (by === "entity_id") return leftOut.has(hits.survivors.get(key) ?? key);
  if (by === "external_id") return leftOut.has(hits.externalIds.get(key) ?? "");
  // Of several matches only the ids are needed.
  const [id, more] = hits.taxIdKeys.get(key) ?? [];
  return id !== undefined && more === undefined && leftOut.has(id);
}
