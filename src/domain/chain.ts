// Rule 132: the events of one entity, in the order of their versions, held against their hashes, against each other, and at
// the end against the entity.

import { changedFields, changedValues } from "./changed-fields.ts";
import { type EntityState, type ExternalIdState, primaryOf } from "./entity-state.ts";
import type { Finding } from "./finding.ts";
import { isObject, type JsonValue, sameJson } from "./json.ts";
import { type ChainedEvent, checkSeal, NOTHING_BEFORE, type SealState } from "./seal.ts";
import type { Instant } from "./time.ts";

/** The row of an entity. */
export interface ChainedEntity {
  readonly state: EntityState;
  /** The copy of its primary external id. */
  readonly externalId: string | null;
  readonly auditHead: Buffer | null;
  /** The external ids by which it is found, in any order. */
  readonly ownIds: readonly OwnId[];
  /** Whether it names as its survivor the one where the entity that it was merged into does. */
  readonly isRedirected: boolean;
}

type OwnId = Pick<ExternalIdState, "externalId" | "type" | "primary" | "attachedAt" | "homeId">;

/** What is known of events that are not there. */
export interface Absent {
  /** Events that were recorded up to this time may have been pruned; null where none were. */
  readonly horizon: Instant | null;
  /** The id of an event that is missing and was not pruned, by its hash; undefined where no checkpoint lists one. */
  idOfMissing(hash: Buffer): string | undefined;
}

export interface ChainCounts {
  /** Events whose seal is right. */
  verified: number;
  unsealed: number;
  /** Versions before the first event that is there. */
  pruned: number;
  /** Among the verified. */
  erased: number;
}

export interface Chain {
  /** The next event. */
  add(event: ChainedEvent): void;
  /** The next event, of which something cannot be read. */
  addUnreadable(event: { id: string; entityVersion: number }): void;
  /** Behind the last event; undefined: there is no such entity. */
  end(entity: ChainedEntity | undefined): { findings: Finding[]; counts: ChainCounts };
}

/** Missing versions, and events beyond the last version, that are named one by one. */
const NAMED = 100;

interface Link {
  id: string;
  version: number;
  /** Undefined where it cannot be read. */
  recordedAt: Instant | undefined;
  previousHash: Buffer | null;
  isSound: boolean;
}

/** Findings of one entity that are kept; then one says that there are more. */
const MAX_FINDINGS = 10_000;

/** What was found of an entity. */
interface Findings {
  all: Finding[];
  add(kind: Finding["kind"], detail: string, event: { id?: string | undefined; version: number }): void;
  /** The versions from one to another are not there; `lastId` is the id of the last of them, where it is known. */
  addMissing(from: number, to: number, lastId: string | undefined): void;
}

function createFindings(entityId: string): Findings {
  const all: Finding[] = [];
  const add: Findings["add"] = (kind, detail, { id, version }) =>
    void (
      all.length <= MAX_FINDINGS &&
      all.push(
        all.length === MAX_FINDINGS
          ? { kind, entityId, detail: "there is more that is wrong with this entity" }
          : { kind, entityId, entityVersion: version, eventId: id, detail },
      )
    );
  return {
    all,
    add,
    addMissing(from, to, lastId) {
      const detail =
        to - from < NAMED ? "the event of this version is not there" : `nor are those from version ${from} on`;
      for (let back = Math.min(to - from, NAMED - 1); back >= 0; back--) {
        add("MISSING", detail, { version: to - back, id: back === 0 ? lastId : undefined });
      }
    },
  };
}

/**
 * `since`: only the events that were recorded then or later are added. Undefined: all are, from that of version 1 on, unless
 * those before were pruned.
 */
export function createChain(
  entityId: string,
  { since, absent }: { since: Instant | undefined; absent: Absent },
): Chain {
  const found = createFindings(entityId);
  const told = createTold();
  const counts: ChainCounts = { verified: 0, unsealed: 0, pruned: 0, erased: 0 };
  let first: Link | undefined;
  /** The last events, the latest at the end. */
  const links: Link[] = [];
  /** The hash that the last sealed event has, and the one that it should have: the next one has one of them as previous hash. */
  let head: Buffer[] | undefined;

  const idOfMissing = (hash: Buffer | null) => (hash === null ? undefined : absent.idOfMissing(hash));

  function checkOrder(event: Link, state: SealState): void {
    const before = links.at(-1);
    const isGap = before !== undefined && event.version > before.version + 1;
    if (isGap) found.addMissing(before.version + 1, event.version - 1, idOfMissing(event.previousHash));
    if (state === "UNSEALED" && head !== undefined) {
      found.add("CHANGED", "it has no seal, unlike a version before", event);
    }
    // Nothing that a changed event says is worth a second finding, nor what follows it.
    if (state === "CHANGED" || before?.isSound === false) return;
    if (before !== undefined && !isBefore(before, event)) {
      found.add("OUT_OF_ORDER", "it was not recorded after the version before", event);
    }
    const isBegun = before === undefined && event.version > 1;
    if (state === "UNSEALED" || isGap || isBegun) return;
    const expected = head ?? [NOTHING_BEFORE];
    if (!expected.some((hash) => event.previousHash?.equals(hash))) {
      found.add("OUT_OF_ORDER", "its previous hash is not that of the version before", event);
    }
  }

  function add(link: Link, state: SealState, hashes: Buffer[]): void {
    checkOrder(link, state);
    first ??= link;
    if (state !== "UNSEALED") head = hashes;
    links.push(link);
    if (links.length > 2 * NAMED) links.splice(0, NAMED);
  }

  /** What is before the first event: pruned, or missing. */
  function endBefore({ version, previousHash }: Link, entity: ChainedEntity | undefined): void {
    const { horizon } = absent;
    const missing = idOfMissing(previousHash);
    // The first version is of the time of the creation.
    const wasPruned = horizon !== null && (entity === undefined || entity.state.createdAt <= horizon);
    if (!wasPruned) found.addMissing(1, version - 1, missing);
    else if (missing !== undefined) found.addMissing(version - 1, version - 1, missing);
    else counts.pruned += version - 1;
  }

  /** No event is left: all were pruned, or are missing. */
  function endWithout({ state, auditHead }: ChainedEntity): void {
    const { horizon } = absent;
    if (since !== undefined && state.updatedAt < since) return;
    const missing = idOfMissing(auditHead);
    if (horizon !== null && state.updatedAt <= horizon && missing === undefined) {
      counts.pruned += state.version;
      return;
    }
    const from = horizon !== null && state.createdAt <= horizon ? state.version : 1;
    found.addMissing(from, state.version, missing ?? (auditHead === null ? undefined : state.etag));
  }

  function endWith(entity: ChainedEntity, last: Link): void {
    const { version, etag } = entity.state;
    if (version !== last.version && etag === last.id) {
      found.add("ENTITY_DIFFERS", "version is not that of its last event", { version });
    } else if (version > last.version) {
      const { auditHead } = entity;
      const id = idOfMissing(auditHead) ?? (auditHead === null ? undefined : etag);
      found.addMissing(last.version + 1, version, id);
    } else if (version < last.version) {
      const beyond = links.filter((link) => link.version > version).slice(-NAMED);
      for (const link of beyond) found.add("EXTRA", "it is beyond the last version of its entity", link);
    } else {
      const isHead =
        head === undefined ? entity.auditHead === null : head.some((hash) => entity.auditHead?.equals(hash));
      // Events that are wrong tell nothing of the entity.
      const differences =
        found.all.length > 0 ? [] : differencesOf(entity, { first, last, told, isSealed: head !== undefined });
      if (!isHead) found.add("HEAD_DIFFERS", "the audit head of the entity is not the hash of its last event", last);
      for (const detail of differences) found.add("ENTITY_DIFFERS", detail, { version });
    }
  }

  return {
    add(event) {
      const { id, entityVersion: version, recordedAt, previousHash, hash } = event;
      const seal = checkSeal(event);
      const { state } = seal;
      const link = { id, version, recordedAt, previousHash, isSound: state !== "CHANGED" };
      if (state === "CHANGED") found.add("CHANGED", "its hashes are not those of what it holds", link);
      const hashes = [hash, seal.hash].filter((one) => one !== null && one !== undefined);
      add(link, state, hashes);
      if (state === "UNSEALED") counts.unsealed += 1;
      else if (state !== "CHANGED") counts.verified += 1;
      if (state === "ERASED") counts.erased += 1;
      if (state !== "CHANGED") told.add(event, state === "ERASED");
    },
    addUnreadable({ id, entityVersion: version }) {
      const link = { id, version, recordedAt: undefined, previousHash: null, isSound: false };
      found.add("CHANGED", "it holds what no event does", link);
      add(link, "CHANGED", []);
    },
    end(entity) {
      const last = links.at(-1);
      if (first !== undefined && since === undefined && first.version > 1) endBefore(first, entity);
      if (entity === undefined) {
        found.add("ENTITY_DIFFERS", "there is no entity of these events", { version: last?.version ?? 0 });
      } else if (last !== undefined) endWith(entity, last);
      else endWithout(entity);
      return { findings: found.all, counts };
    },
  };
}

const isBefore = (a: Link, b: Link): boolean =>
  a.recordedAt === undefined || b.recordedAt === undefined || a.recordedAt < b.recordedAt;

/** What the events of an entity make of it. */
interface Told {
  add(event: ChainedEvent, isErased: boolean): void;
  /** The fields that are not as told; those too that nothing was told of, if all was. */
  othersIn(state: EntityState, isComplete: boolean): string[];
}

function createTold(): Told {
  /** Undefined where the value was erased. */
  const values = new Map<string, JsonValue | undefined>();
  return {
    add({ updatedFields, newValues }, isErased) {
      for (const field of updatedFields) values.set(field, isErased ? undefined : shownIn(newValues, field));
    },
    othersIn(state, isComplete) {
      const shown = changedValues(null, state, changedFields(null, state)).newValues;
      const fields = new Set([...values.keys(), ...(isComplete ? Object.keys(shown) : [])]);
      return [...fields].filter((field) => {
        const value = values.has(field) ? values.get(field) : null;
        return value !== undefined && !sameJson(value, shownIn(shown, field));
      });
    },
  };
}

/** How a row differs from what its events say, the last of which made its version. */
function differencesOf(
  { state, externalId, ownIds, isRedirected }: ChainedEntity,
  { first, last, told, isSealed }: { first: Link | undefined; last: Link; told: Told; isSealed: boolean },
): string[] {
  const differences: string[] = [];
  const isComplete = first?.version === 1;
  const others = told.othersIn(state, isComplete);
  if (others.length > 0) differences.push(`not what its events make of it: ${others.join(", ")}`);
  if (isComplete && state.createdAt !== first.recordedAt) {
    differences.push("created_at is not the time of its first event");
  }
  if (state.updatedAt !== last.recordedAt) differences.push("updated_at is not the time of its last event");
  // Before there were seals the etag was no event's id.
  if (isSealed && state.etag !== last.id) differences.push("etag is not the id of its last event");
  if (externalId !== (primaryOf(state)?.externalId ?? null)) {
    differences.push("external_id is not its primary external id");
  }
  const { externalIds } = state;
  if (ownIds.length !== externalIds.length || !externalIds.every((id) => isAmong(ownIds, id))) {
    differences.push("it is found by other external ids than it has");
  }
  if (!isRedirected) differences.push("survivor_id is not that of the entity that it was merged into");
  return differences;
}

const isAmong = (ids: readonly OwnId[], { externalId, type, primary, attachedAt, homeId }: OwnId): boolean =>
  ids.some(
    (id) =>
      id.externalId === externalId &&
      id.type === type &&
      id.primary === primary &&
      id.attachedAt === attachedAt &&
      id.homeId === homeId,
  );

const shownIn = (object: JsonValue, field: string): JsonValue =>
  isObject(object) && Object.hasOwn(object, field) ? (object[field] ?? null) : null;
