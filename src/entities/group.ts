// A group of commands in one transaction: lock, decide, write the change with its event, answer. Each is decided by its own
// pure rule on the state that the one before it left, and has its own event and its own answer.

import type { Pipeline } from "../db/statements.ts";
import { newId } from "../db/uuid.ts";
import { changedFields } from "../domain/changed-fields.ts";
import { type Change, type EntityState, type ExternalIdState, type Layer, primaryOf } from "../domain/entity-state.ts";
import { DomainError } from "../domain/errors.ts";
import { carry } from "../domain/layer.ts";
import { resolve } from "../domain/lookup.ts";
import type { Instant } from "../domain/time.ts";
import { insertEvents } from "../log/events.ts";
import { sealEvents, type UnsealedEvent } from "../log/sealing.ts";
import { eventOf } from "./change-event.ts";
import type { Command, Move, Outcome, Result } from "./command.ts";
import { endedPeriods, insertPast, type PastExternalId } from "./external-id-past.ts";
import { type Locked, lockNamed, moveHits, redirectOf, targetsIn } from "./locked.ts";
import { addRewritten, type RewrittenOf, rewriteCopies } from "./references.ts";
import { refuseTaken, refuseUnlessAsNamed } from "./refusals.ts";
import { type Claim, claimRequests, forgetRequests, type RequestKey, rememberAnswers } from "./requests.ts";
import { insertEntities, updateEntities, writeExternalIds } from "./rows.ts";

export interface GroupOptions {
  /** Commands on entities that another transaction has locked are "busy", instead of waiting. */
  skipLocked?: boolean;
  /** Such a command, and all that come after it, are "later" instead. */
  keepsOrder?: boolean;
  /** All of the commands or none: a refusal is thrown, and undoes what the others did. */
  isAtomic?: boolean;
  /** Other organizations share the transaction: what would take long is "later". */
  isShared?: boolean;
  /** Entities to lock beside those that are named. */
  also?: ReadonlySet<string>;
  /** Others wait for its end: throws ManyCopies for a command that would take very long. */
  isShort?: boolean;
}

/** "later": needs a transaction that begins after this one. "busy": another transaction has locked an entity of it. */
export type GroupResult = Result | "later" | "busy";

export async function runGroup(
  db: Pipeline,
  organizationId: string,
  commands: readonly Command[],
  { skipLocked = false, keepsOrder = false, isAtomic = false, isShared = false, isShort = false, also }: GroupOptions,
): Promise<GroupResult[]> {
  const requests = commands.map(({ author, request }) => request && { ...request, principal: author.principal });
  // Sent together: claims, locks and what is read under them take one round trip.
  let [claims, locked] = await Promise.all([
    claimRequests(db, organizationId, requests),
    lockNamed(db, organizationId, commands, { skipLocked, ...(also && { also }) }),
  ]);
  const live = claims.filter((claim) => claim === "claimed").length;
  const mayRewriteCopies = isAtomic || (live === 1 && !isShared);
  const rewritten: RewrittenOf = new Map();
  let group: Group;
  let results: GroupResult[];
  for (;;) {
    const [first] = commands;
    if (first?.alone !== undefined && live === 1) {
      await first.alone.prepare(db, organizationId, targetsIn(locked, first));
    }
    group = new Group(organizationId, locked, { skipLocked: skipLocked && !keepsOrder, mayRewriteCopies });
    results = decide(group, commands, claims);
    if (isAtomic) for (const result of results) if (isRefused(result)) throw result.error;
    // Only what is atomic is decided once more behind its copies: a refusal has to undo these.
    if (!(await group.rewriteCopies(db, rewritten, { isShort: isShort || !isAtomic }))) break;
    // That may have taken minutes: decided once more, it has a time that is not long before its commit.
    locked = await lockNamed(db, organizationId, commands, { skipLocked, ...(also && { also }) });
  }

  group.write(db);
  results.forEach((result, i) => {
    if (typeof result === "object" && result.kind === "done")
      commands[i]?.record?.(db, organizationId, result.outcomes);
  });
  const answers: { key: RequestKey; answer: Uint8Array }[] = [];
  const undone: RequestKey[] = [];
  results.forEach((result, i) => {
    const [key, request] = [requests[i], commands[i]?.request];
    if (key === undefined || request === undefined || claims[i] !== "claimed") return;
    if (typeof result === "object" && result.kind === "done")
      answers.push({ key, answer: request.answer(result.outcomes) });
    else undone.push(key);
  });
  // Sent, not awaited: if one fails, the transaction does.
  rememberAnswers(db, organizationId, answers).catch(() => {});
  forgetRequests(db, organizationId, undone).catch(() => {});
  return results;
}

function decide(group: Group, commands: readonly Command[], claims: readonly Claim[]): GroupResult[] {
  // What comes after a command that has to wait waits too: the order of the commands is kept.
  let stopped = false;
  return commands.map((command, i): GroupResult => {
    const claim = claims[i] ?? "later";
    if (claim === "later") stopped = true;
    else if (claim !== "claimed") {
      return "answer" in claim ? { kind: "replayed", answer: claim.answer } : { kind: "refused", error: claim.refused };
    }
    if (stopped) return "later";
    try {
      const result = group.run(command);
      stopped = result === "later";
      return result;
    } catch (error) {
      if (!(error instanceof DomainError)) throw error;
      return { kind: "refused", error };
    }
  });
}

const isRefused = (result: GroupResult) => typeof result === "object" && result.kind === "refused";

/** Decides one command after the other on the states that those before it left, and holds what is to be written. */
export class Group {
  readonly #organizationId: string;
  readonly #locked: Locked;
  readonly #options: { skipLocked: boolean; mayRewriteCopies: boolean };
  /** The states as they were locked. */
  readonly #original: ReadonlyMap<string, EntityState>;
  readonly #events: UnsealedEvent[] = [];
  readonly #past: PastExternalId[] = [];
  /** Layers as they were locked. */
  readonly #originalLayers: ReadonlyMap<string, Layer>;
  /** By the ids of entities: the external ids that their copies have, where these are not the primaries before. */
  readonly #copied = new Map<string, string | null>();
  /** The time of the last change. */
  #time: Instant;

  constructor(organizationId: string, locked: Locked, options: { skipLocked: boolean; mayRewriteCopies: boolean }) {
    this.#organizationId = organizationId;
    this.#locked = locked;
    this.#options = options;
    this.#original = new Map(locked.states);
    this.#originalLayers = new Map(locked.layers);
    this.#time = locked.clock.now - 1n;
  }

  /** Throws the command's refusal, which leaves nothing of it behind. */
  run(command: Command): GroupResult {
    const { hits, known, states, policy, layers } = this.#locked;
    const { targets, uniqueTaxIdKey } = command;
    const taxIdKeys = [
      ...targets.map(({ lookup }) => (lookup.by === "tax_id" ? lookup.key : undefined)),
      uniqueTaxIdKey,
    ];
    if (taxIdKeys.some((key) => key !== undefined && (hits.isCut || hits.cut.has(key)))) return "later";
    const ids = targets.map(({ lookup, isRow }) => (isRow ? lookup.key : resolve(lookup, hits)));
    // A command before this one moved the key to an entity that is not locked here, or that was not read.
    if (ids.some((id) => id !== undefined && !known.has(id))) return this.#options.skipLocked ? "busy" : "later";
    const entities = ids.map((id) => (id === undefined ? null : (states.get(id) ?? null)));
    targets.forEach((target, i) => {
      const entity = entities[i] ?? null;
      if (entity !== null) command.named?.(target.lookup, entity);
      refuseUnlessAsNamed(target, entity);
    });

    const now = entities.reduce(
      (time, entity) => (entity !== null && time <= entity.updatedAt ? entity.updatedAt + 1n : time),
      this.#time + 1n,
    );
    const redirects = targets.map((target, i) => redirectOf(target, entities[i] ?? null, hits));
    const decided = command.decide(entities, { now, policy, redirectedFrom: redirects });
    // Ids of events in their order.
    const eventIds = decided.flatMap((change) => (change === null ? [] : [newId()]));
    if (command.isReversed) eventIds.reverse();
    const moves = Array.from({ length: Math.max(entities.length, decided.length) }, (_, i) =>
      this.#moveOf(entities[i] ?? null, decided[i] ?? null, now, eventIds),
    );
    const changed = moves.flatMap(({ after, change }) => (change === null ? [] : [after.id]));
    if (new Set(changed).size < changed.length) throw new Error("a rule changed one entity twice");
    refuseTaken(command, moves, hits);
    // Rewriting the copies in activity rows is for a transaction of its own.
    if (!this.#options.mayRewriteCopies && moves.some(changesPrimary)) return "later";
    // An id that came and went would not be in the table: nothing would keep another writer from having it meanwhile.
    if (moves.some((move) => this.#detachesNew(move))) return "later";

    const events: UnsealedEvent[] = [];
    const outcomes = moves.map(({ before, after, change }, i): Outcome => {
      const from = redirects[i] ?? "";
      if (change === null) return { before, after, updatedFields: [], redirectedFrom: from };
      const updatedFields = changedFields(before, change.values);
      this.#time = now;
      states.set(after.id, after);
      known.add(after.id);
      moveHits(hits, before, after, { hasMerged: layers.has(after.id) });
      this.#moveLayer({ before, after, change });
      if (change.copied !== undefined) this.#copied.set(after.id, change.copied);
      const event = eventOf(command, change, before, after, updatedFields);
      events.push(event);
      this.#past.push(...endedPeriods({ before, after, change }, moves, event.id));
      return { before, after, updatedFields, redirectedFrom: from };
    });
    this.#events.push(...(command.isReversed ? events.toReversed() : events));
    return { kind: "done", outcomes };
  }

  /** Rule 101: every change of a survivor goes through its layer, whichever rule made it. */
  #moveLayer({ before, after, change }: Move): void {
    const { layers } = this.#locked;
    const layer = layers.get(after.id);
    const next =
      change?.layer !== undefined ? change.layer : layer && before !== null ? carry(layer, before, after) : undefined;
    if (next === null) layers.delete(after.id);
    else if (next !== undefined) layers.set(after.id, next);
  }

  /** Whether an external id leaves that a command of this group has attached. */
  #detachesNew({ before, after }: Move): boolean {
    if (before === null || before.externalIds === after.externalIds) return false;
    const isOf = (state: EntityState | undefined, { externalId, attachedAt }: ExternalIdState) =>
      state?.externalIds.some((id) => id.externalId === externalId && id.attachedAt === attachedAt) === true;
    return before.externalIds.some((id) => !isOf(after, id) && !isOf(this.#original.get(before.id), id));
  }

  #moveOf(before: EntityState | null, change: Change | null, now: Instant, eventIds: string[]): Move {
    if (change === null) {
      if (before === null) throw new Error("a rule made no entity");
      return { before, after: before, change };
    }
    const after: EntityState = {
      ...change.values,
      id: before?.id ?? newId(),
      organizationId: this.#organizationId,
      version: (before?.version ?? 0) + 1,
      // Its event's id.
      etag: eventIds.shift() as string,
      createdAt: before?.createdAt ?? now,
      updatedAt: now,
    };
    return { before, after, change };
  }

  get #changed() {
    return [...this.#locked.states.values()]
      .map((after) => ({ before: this.#original.get(after.id) ?? null, after }))
      .filter(({ before, after }) => before !== after);
  }

  /**
   * Rewrites the copies of the primaries that have changed, before anything else is written. Events count them together
   * with those that the transaction has `rewritten` before. Answers whether there were many.
   */
  async rewriteCopies(db: Pipeline, rewritten: RewrittenOf, { isShort }: { isShort: boolean }): Promise<boolean> {
    let areMany = false;
    for (const { before, after } of this.#changed) {
      const copied = this.#copied.get(after.id);
      const previous = copied === undefined ? before && primaryOf(before)?.externalId : copied;
      const next = primaryOf(after)?.externalId ?? null;
      if (previous == null || previous === next) continue;
      const move = { entityId: after.id, previous, next };
      const done = await rewriteCopies(db, this.#organizationId, move, { isShort });
      areMany ||= done.areMany;
      const all = addRewritten(rewritten, after.id, done);
      for (const event of this.#events) {
        if (event.entityId === after.id) event.metadata = { ...event.metadata, rewrittenRows: { ...all } };
      }
    }
    return areMany;
  }

  /** Sends the statements; the transaction waits for them. */
  write(db: Pipeline): void {
    const organizationId = this.#organizationId;
    const changed = this.#changed;
    if (changed.length > 0) db.stamp(this.#locked.clock);
    // Only now is all of the events known.
    const heads = new Map(this.#locked.heads);
    const events = sealEvents(this.#events, heads);
    const written = changed.map(({ before, after }) => ({
      before,
      after: { ...after, auditHead: heads.get(after.id) as Buffer, layer: this.#locked.layers.get(after.id) ?? null },
    }));
    const made = written.flatMap(({ before, after }) => (before === null ? [after] : []));
    insertEntities(db, organizationId, made);
    writeExternalIds(
      db,
      organizationId,
      changed.map(({ before, after }) => ({
        entityId: after.id,
        before: before?.externalIds ?? [],
        after: after.externalIds,
      })),
    );
    const updated = written.flatMap(({ before, after }) => {
      const layer = this.#originalLayers.get(after.id) ?? null;
      return before === null ? [] : [{ before: { ...before, layer }, after }];
    });
    updateEntities(db, organizationId, updated);
    insertPast(db, organizationId, this.#past);
    insertEvents(db, organizationId, events);
  }
}

const changesPrimary = ({ before, after }: Move): boolean => {
  const old = before === null ? undefined : primaryOf(before);
  return old !== undefined && old.externalId !== primaryOf(after)?.externalId;
};
