// What the commands of a group name, locked and read: the entities as the commands so far have left them, and which of them
// each key names now.
import { lockTaxIdKeys } from "../db/locks.ts";
import type { Clock, Pipeline, Statements } from "../db/statements.ts";
import { type EntityState, type Layer, taxIdKeyOf } from "../domain/entity-state.ts";
import { DomainError } from "../domain/errors.ts";
import type { ExternalIdPolicy } from "../domain/external-ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { type Lookup, lookupKeys, redirectedFrom, resolve, tieOf } from "../domain/lookup.ts";
import type { Heads } from "../log/sealing.ts";
import type { Command, LockedTargets, Target } from "./command.ts";
import { findInOrder, type LockedEntity, lockEntities, lockInOrder } from "./lock-entities.ts";
import { type FoundHits, findHits, type Keys, noHits } from "./lookups.ts";
import { claimedTexts, formIndex } from "./tax-id-holders.ts";

export const MAX_LOCK_ROUNDS = 5;

export interface Locked {
  states: Map<string, EntityState>;
  /** As they were locked. */
  heads: Heads;
  /** Of the survivors among them, as the commands so far have left them. */
  layers: Map<string, Layer>;
  /** Ids whose entities are locked, and those that are known not to be there. */
  known: Set<string>;
  hits: MovingHits;
  /** As read once the locks are held. */
  clock: Clock;
  /** Read where a command needs it. */
  policy: ExternalIdPolicy | undefined;
}

/** What the keys name as the commands so far have left it. */
interface MovingHits extends FoundHits {
  /** The tax ids that were asked for and whose forms may name an entity of this key and country. */
  askedBy: (key: string, countryCode: string) => string[];
  /** Tax ids that an entity has lost and that others, not read, may still have. */
  cut: Set<string>;
  /** The same for every tax id that is not an entity's own. */
  isCut: boolean;
}

/** What is named is not what was locked for it: these entities are to be locked, with those that were, so that they stay. */
export class LookupMoved extends Error {
  readonly ids: readonly string[];

  constructor(ids: readonly string[]) {
    super("a lookup names an entity that is not locked");
    this.ids = ids;
  }
}

interface LockOptions {
  /** Entities that another transaction has locked are skipped, not waited for, and are not `known`. */
  skipLocked: boolean;
  /** Those that the transaction has locked already: it waits for no others, and throws LookupMoved where they are named. */
  held?: ReadonlySet<string>;
  /** To be locked beside what is named, where it waits. */
  also?: ReadonlySet<string>;
}

/**
 * Locks what the commands name, and reads it. Where it waits, it waits once, in the order of ids; what was named meanwhile
 * and is not locked then is told by LookupMoved, for a transaction that begins anew with it. For those that merge, or undo
 * that, all that is merged into what they name is locked too: they write those rows.
 */
export async function lockNamed(
  db: Pipeline,
  organizationId: string,
  commands: readonly Command[],
  { skipLocked, held, also = new Set() }: LockOptions,
): Promise<Locked> {
  const { keys, rows } = keysOf(commands);
  const claimed: string[] = [];
  const uniqueKeys: string[] = [];
  for (const { claims = [], uniqueTaxIdKey } of commands) {
    claimed.push(...claims);
    if (uniqueTaxIdKey !== undefined) uniqueKeys.push(uniqueTaxIdKey);
  }
  if (uniqueKeys.length > 0) lockTaxIdKeys(db, organizationId, claimedTexts(uniqueKeys));
  const wanted = {
    entityIds: [...new Set(keys.entityIds)],
    externalIds: [...new Set([...keys.externalIds, ...claimed])],
    taxIdKeys: [...new Set([...keys.taxIdKeys, ...uniqueKeys])],
  };

  // Without waiting, and where nothing else is asked for, the entities themselves say which external ids they have.
  const waits = !skipLocked && held === undefined;
  const mayTellItself = !waits && claimed.length === 0 && wanted.taxIdKeys.length === 0;
  const needsPolicy = commands.some((command) => command.needsPolicy === true);

  const states = new Map<string, EntityState>();
  const heads: Heads = new Map();
  const layers = new Map<string, Layer>();
  const withGroups = commands.some(({ alone }) => alone !== undefined);
  const isAttaching = claimed.length > 0 || withGroups;
  const known = new Set(skipLocked ? [] : rows);
  /** What is locked and was waited for. */
  const mine = new Set(held);
  for (let round = 1; ; round++) {
    const askedAt = performance.now();
    const all = { rows: [...rows, ...also], withGroups };
    // Under the lock, look again: while we waited, a key may have moved to another entity.
    const inOrder = waits && round === 1 ? lockInOrder(db, organizationId, keys, all) : undefined;
    const [ordered, { entities: locked, now }, found, policy, group] = await Promise.all([
      inOrder,
      lockEntities(db, organizationId, keys, { skipLocked: true, isAttaching, rows }),
      mayTellItself ? undefined : findHits(db, organizationId, wanted, uniqueKeys),
      needsPolicy ? readPolicy(db, organizationId) : undefined,
      waits && withGroups ? findInOrder(db, organizationId, keys, all) : [],
    ]).catch(async (error) => {
      // Those behind a lock that failed say no more than that.
      await inOrder;
      throw error;
    });
    for (const id of ordered ?? []) mine.add(id);
    for (const { state, auditHead, layer } of locked) {
      states.set(state.id, state);
      if (layer !== null) layers.set(state.id, layer);
      if (auditHead !== null) heads.set(state.id, auditHead);
      known.add(state.id);
    }
    const hits = found ?? hitsIn(locked, wanted) ?? (await findHits(db, organizationId, wanted));
    // An id that is not there is known not to be: nothing to lock. One that is may have been merged when the locks were
    // taken, and be merged no longer: then its own row is to be locked yet. (Without waiting, it may be there and held.)
    const isAbsent = (id: string) => !hits.present.has(id) && !hits.survivors.has(id);
    if (!skipLocked) for (const id of keys.entityIds) if (isAbsent(id)) known.add(id);
    const missing = commands.flatMap(({ targets }) =>
      targets.flatMap((target) => {
        const id = target.isRow ? target.lookup.key : unambiguous(target.lookup, hits);
        return id === undefined || known.has(id) ? [] : [id];
      }),
    );
    // What a tax id names by its canonical form alone is known only now: the statement that locks goes by keys.
    const byForm = namedByForm(commands, hits).filter((id) => !known.has(id) && !rows.includes(id));
    if (waits) {
      const moved = [...missing, ...byForm, ...group].filter((id) => !mine.has(id));
      if (moved.length > 0) throw new LookupMoved([...moved, ...mine]);
    }
    if (byForm.length === 0) {
      if (held !== undefined) {
        missing.push(...[...states.keys()].filter((id) => !held.has(id)));
        if (missing.length > 0) throw new LookupMoved([...missing, ...held]);
      }
      if (missing.length === 0 || skipLocked) {
        const askedBy = formIndex(wanted.taxIdKeys);
        const moving = { ...hits, askedBy, cut: new Set<string>(), isCut: false };
        return { states, heads, layers, known, hits: moving, clock: { now, askedAt }, policy };
      }
    }
    if (round === MAX_LOCK_ROUNDS) throw keptMoving();
    rows.push(...byForm);
  }
}

export const keptMoving = () =>
  new DomainError("WRITE_CONFLICT", "The lookup kept moving: retry", { retry_after_ms: "100" });

/** What the targets of the commands are named by; `rows` by the ids of the entities themselves. */
export function keysOf(commands: readonly Command[]): { keys: Keys; rows: string[] } {
  const keys: Keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
  const rows: string[] = [];
  for (const { lookup, isRow } of commands.flatMap(({ targets }) => targets)) {
    if (isRow) rows.push(lookup.key);
    else lookupKeys(lookup, keys);
  }
  return { keys, rows };
}

/**
 * The hits of ids and external ids, where the locked entities have all of them: a row has its external ids as of its last
 * change, and says whether it was merged.
 */
function hitsIn(locked: readonly LockedEntity[], { entityIds, externalIds }: Keys): FoundHits | undefined {
  const hits = noHits();
  const live = new Set<string>();
  for (const { state } of locked) {
    if (state.mergedInto === null) live.add(state.id);
    for (const { externalId } of state.externalIds) hits.externalIds.set(externalId, state.id);
  }
  const isThere = externalIds.every((key) => hits.externalIds.has(key)) && entityIds.every((key) => live.has(key));
  return isThere ? hits : undefined;
}

function namedByForm(commands: readonly Command[], hits: FoundHits): string[] {
  const lookups = commands.flatMap(({ targets }) => targets.flatMap(({ lookup, isRow }) => (isRow ? [] : [lookup])));
  return [...new Set(lookups)].flatMap((lookup) =>
    lookup.by === "tax_id" && hits.byForm.has(lookup.key) ? (unambiguous(lookup, hits) ?? []) : [],
  );
}

/** The id to lock; an ambiguous lookup locks nothing and is refused in its turn. */
function unambiguous(lookup: Lookup, hits: FoundHits): string | undefined {
  return lookup.by === "tax_id" && (hits.taxIdKeys.get(lookup.key)?.length ?? 0) > 1
    ? undefined
    : resolve(lookup, hits);
}

/** The merged entity whose key the target has, else "". */
export const redirectOf = ({ lookup, isRow }: Target, entity: EntityState | null, hits: FoundHits): string =>
  entity === null || isRow ? "" : redirectedFrom(lookup, entity, hits);

/** What the command names, as it was locked. What it names ambiguously is refused in its turn. */
export function targetsIn({ hits, states, layers }: Locked, { targets }: Command): LockedTargets {
  const entities = targets.map(({ lookup, isRow }) => {
    const id = isRow ? lookup.key : unambiguous(lookup, hits);
    return id === undefined ? null : (states.get(id) ?? null);
  });
  return {
    entities,
    layers,
    redirectedFrom: targets.map((target, i) => redirectOf(target, entities[i] ?? null, hits)),
  };
}

/**
 * Later commands of the group find entities by the keys that they have now. Only keys that were asked for count. With
 * `hasMerged` the entity may answer to other tax ids too, which nobody has read here.
 */
export function moveHits(
  hits: MovingHits,
  before: EntityState | null,
  after: EntityState,
  { hasMerged }: { hasMerged: boolean },
): void {
  for (const { externalId } of before?.externalIds ?? []) {
    if (hits.externalIds.get(externalId) === after.id) hits.externalIds.delete(externalId);
  }
  for (const { externalId } of after.externalIds) hits.externalIds.set(externalId, after.id);
  const keyOf = (state: EntityState | null) => (state === null || state.deletedAt !== null ? null : taxIdKeyOf(state));
  const [old, now] = [keyOf(before), keyOf(after)];
  if (hasMerged && before?.deletedAt !== after.deletedAt) hits.isCut = true;
  if (old === now) return;
  // What forms name now is for the next transaction to find.
  for (const [key, state] of [[old, before] as const, [now, after] as const]) {
    if (key === null || state === null) continue;
    for (const asked of hits.askedBy(key, state.countryCode)) if (asked !== key) hits.cut.add(asked);
    if (hits.byForm.has(key)) hits.cut.add(key);
  }
  if (hasMerged && old !== null) hits.cut.add(old);
  if (old !== null) {
    const ids = hits.taxIdKeys.get(old) ?? [];
    // There may be more than were read: the next transaction finds them.
    const left = ids.filter((id) => id !== after.id);
    // And where none is left, there may be others by a form.
    if (ids.length > LIMITS.candidates || left.length === 0) hits.cut.add(old);
    hits.taxIdKeys.set(old, left);
  }
  if (now === null) return;
  hits.taxIdHomes.delete(tieOf(now, after.id));
  hits.taxIdKeys.set(now, [...new Set([...(hits.taxIdKeys.get(now) ?? []), after.id])].sort());
}

/** The organization's policy for the changes of external ids. */
async function readPolicy(db: Statements, organizationId: string): Promise<ExternalIdPolicy> {
  const [row] = await db.execute<{ policy: ExternalIdPolicy }[]>(
    "select external_id_policy as policy from organization where organization_id = $1",
    [organizationId],
  );
  if (row === undefined) throw new Error("the organization of the credentials is gone");
  return row.policy;
}
