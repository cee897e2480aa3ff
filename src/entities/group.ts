// A group of commands in one transaction: lock, decide, write the change with its event, answer. Each is decided by its own
// pure rule on the state that the one before it left, and has its own event and its own answer.

import type { Pipeline } from "../db/statements.ts";
import { newId } from "../db/uuid.ts";
import { changedFields, changedValues } from "../domain/changed-fields.ts";
import { type EntityState, primaryOf, taxIdKeyOf } from "../domain/entity-state.ts";
import { DomainError, notFound } from "../domain/errors.ts";
import type { ExternalIdPolicy } from "../domain/external-ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { type Lookup, lookupKeys, resolve } from "../domain/lookup.ts";
import type { Instant } from "../domain/time.ts";
import { type EventRow, insertEvents } from "../log/events.ts";
import type { Command, Result } from "./command.ts";
import { findHits, type Hits, type Keys, lockEntities, lockTaxIdKeys, readClockAndPolicy } from "./lookups.ts";
import { rewriteCopies } from "./references.ts";
import { claimRequests, forgetRequests, type RequestKey, rememberAnswers } from "./requests.ts";
import { insertEntities, updateEntities, writeExternalIds } from "./rows.ts";

const MAX_LOCK_ROUNDS = 5;

export async function runGroup(
  db: Pipeline,
  organizationId: string,
  commands: readonly Command[],
  skipLocked: boolean,
): Promise<(Result | "later" | "busy")[]> {
  const requests = commands.map(({ author, request }) => request && { ...request, principal: author.principal });
  // Sent together: claims, locks and what is read under them take one round trip.
  const [claims, group] = await Promise.all([
    claimRequests(db, organizationId, requests),
    openGroup(db, organizationId, commands, skipLocked),
  ]);
  const live = claims.filter((claim) => claim === "claimed").length;

  // What comes after a command that has to wait waits too: the order of the commands is kept.
  let stopped = false;
  const results = commands.map((command, i): Result | "later" | "busy" => {
    const claim = claims[i] ?? "later";
    if (claim === "later") stopped = true;
    else if (claim !== "claimed") {
      return "answer" in claim ? { kind: "replayed", answer: claim.answer } : { kind: "refused", error: claim.refused };
    }
    if (stopped) return "later";
    try {
      const result = group.run(command, live === 1);
      stopped = result === "later";
      return result;
    } catch (error) {
      if (!(error instanceof DomainError)) throw error;
      return { kind: "refused", error };
    }
  });
  const [only] = results;
  if (commands.length === 1 && typeof only === "object" && only.kind === "refused") throw only.error;

  await group.write(db);
  const answers: { key: RequestKey; answer: Uint8Array }[] = [];
  const undone: RequestKey[] = [];
  results.forEach((result, i) => {
    const [key, request] = [requests[i], commands[i]?.request];
    if (key === undefined || request === undefined || claims[i] !== "claimed") return;
    if (typeof result === "object" && result.kind === "done")
      answers.push({ key, answer: request.answer(result.outcome) });
    else undone.push(key);
  });
  // Sent, not waited for: should one fail, the transaction does.
  rememberAnswers(db, organizationId, answers).catch(() => {});
  forgetRequests(db, organizationId, undone).catch(() => {});
  return results;
}

/** Locks what the commands name, reads it, and holds the states that they leave. */
async function openGroup(db: Pipeline, organizationId: string, commands: readonly Command[], skipLocked: boolean) {
  const keys: Keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
  const claimed: string[] = [];
  const uniqueKeys: string[] = [];
  for (const { lookup, claims = [], uniqueTaxIdKey } of commands) {
    if (lookup !== undefined) lookupKeys(lookup, keys);
    claimed.push(...claims);
    if (uniqueTaxIdKey !== undefined) uniqueKeys.push(uniqueTaxIdKey);
  }
  if (uniqueKeys.length > 0) lockTaxIdKeys(db, organizationId, uniqueKeys);
  const wanted = {
    entityIds: [],
    externalIds: [...new Set([...keys.externalIds, ...claimed])],
    taxIdKeys: [...new Set([...keys.taxIdKeys, ...uniqueKeys])],
  };

  const states = new Map<string, EntityState>();
  // An id that is not there is known not to be: nothing to lock. (Unless it may be there, and held.)
  const known = new Set(skipLocked ? [] : keys.entityIds);
  let hits: GroupHits;
  let clock: { now: Instant; policy: ExternalIdPolicy };
  for (let round = 1; ; round++) {
    // Under the lock, look again: while we waited, a key may have moved to another entity.
    const [locked, found, time] = await Promise.all([
      lockEntities(db, organizationId, keys, { skipLocked }),
      findHits(db, organizationId, wanted),
      readClockAndPolicy(db, organizationId),
    ]);
    for (const state of locked) {
      states.set(state.id, state);
      known.add(state.id);
    }
    [hits, clock] = [{ ...found, cut: new Set() }, time];
    const complete = commands.every(({ lookup }) => {
      const id = lookup === undefined ? undefined : findOne(lookup, found);
      return id === undefined || known.has(id);
    });
    if (complete || skipLocked) break;
    if (round === MAX_LOCK_ROUNDS) {
      throw new DomainError("WRITE_CONFLICT", "The lookup kept moving: retry", { retry_after_ms: "100" });
    }
  }

  const original = new Map(states);
  const events: EventRow[] = [];
  let time = clock.now - 1n;

  return {
    run(command: Command, alone: boolean): Result | "later" | "busy" {
      const taxIdKeys = [command.lookup?.by === "tax_id" ? command.lookup.key : undefined, command.uniqueTaxIdKey];
      if (taxIdKeys.some((key) => key !== undefined && hits.cut.has(key))) return "later";
      const id = command.lookup === undefined ? undefined : resolve(command.lookup, hits);
      // A command before this one moved the key to an entity that is not locked here, or that was not read.
      if (id !== undefined && !known.has(id)) return skipLocked ? "busy" : "later";
      const before = id === undefined ? null : (states.get(id) ?? null);
      if (before === null && command.lookup !== undefined) {
        if (!command.allowMissing || command.etag !== undefined) throw notFound(command.lookup.by);
      }
      if (before !== null && command.etag !== undefined && command.etag !== before.etag) {
        throw new DomainError("ETAG_MISMATCH", "The entity has changed since it was read: read it again, then retry", {
          etag: before.etag,
          entity_id: before.id,
        });
      }
      let now = time + 1n;
      if (before !== null && now <= before.updatedAt) now = before.updatedAt + 1n;
      const change = command.decide(before, { now, policy: clock.policy });
      if (change === null) {
        if (before === null) throw new Error("a rule made no entity");
        return { kind: "done", outcome: { before, after: before, updatedFields: [] } };
      }

      const after: EntityState = {
        ...change.values,
        id: before?.id ?? newId(),
        organizationId,
        version: (before?.version ?? 0) + 1,
        etag: newId(),
        createdAt: before?.createdAt ?? now,
        updatedAt: now,
      };
      refuseTaken(command, after, before, hits);
      // Rewriting the copies in activity rows is for a transaction of its own.
      const moved =
        before !== null &&
        primaryOf(before) !== undefined &&
        primaryOf(before)?.externalId !== primaryOf(after)?.externalId;
      if (moved && !alone) return "later";

      time = now;
      states.set(after.id, after);
      known.add(after.id);
      moveHits(hits, before, after);
      const updatedFields = changedFields(before, change.values);
      events.push({
        id: newId(),
        entity: after,
        type: change.type,
        updatedFields,
        ...changedValues(before, change.values, updatedFields),
        actor: command.author.actor,
        principal: command.author.principal,
        source: change.source ?? command.author.source,
        reason: change.reason,
        requestId: command.request?.requestId,
        metadata: change.metadata ?? {},
        occurredAt: command.occurredAt,
      });
      return { kind: "done", outcome: { before, after, updatedFields } };
    },

    /** Sends the statements; the transaction waits for them. */
    async write(db: Pipeline): Promise<void> {
      const changed = [...states.values()].filter((state) => original.get(state.id) !== state);
      insertEntities(
        db,
        organizationId,
        changed.filter((state) => !original.has(state.id)),
      );
      writeExternalIds(
        db,
        organizationId,
        changed.map((state) => ({
          entityId: state.id,
          before: original.get(state.id)?.externalIds ?? [],
          after: state.externalIds,
        })),
      );
      updateEntities(
        db,
        organizationId,
        changed.flatMap((after) => {
          const before = original.get(after.id);
          return before === undefined ? [] : [{ before, after }];
        }),
      );
      for (const state of changed) {
        const old = original.get(state.id);
        const [previous, next] = [old && primaryOf(old)?.externalId, primaryOf(state)?.externalId];
        if (previous === undefined || next === undefined || previous === next) continue;
        const rewritten = await rewriteCopies(db, organizationId, { entityId: state.id, previous, next });
        for (const event of events) {
          if (event.entity.id === state.id) event.metadata = { ...event.metadata, rewrittenRows: { ...rewritten } };
        }
      }
      insertEvents(db, organizationId, events);
    },
  };
}

/** The id to lock; an ambiguous lookup locks nothing and is refused in its turn. */
function findOne(lookup: Lookup, hits: Hits): string | undefined {
  return lookup.by === "tax_id" && (hits.taxIdKeys.get(lookup.key)?.length ?? 0) > 1
    ? undefined
    : resolve(lookup, hits);
}

/** Rules 16, 47, 55 and 18: uniqueness, the last of the checks. */
function refuseTaken(command: Command, after: EntityState, before: EntityState | null, hits: Hits): void {
  for (const { externalId } of after.externalIds) {
    const owner = hits.externalIds.get(externalId);
    if (owner === undefined || owner === after.id || before?.externalIds.some((id) => id.externalId === externalId))
      continue;
    const { field, index } = command.claimField?.(externalId) ?? { field: "external_id" };
    throw new DomainError(
      "DUPLICATE_EXTERNAL_ID",
      "Another entity has this external id",
      { field, ...(index === undefined ? {} : { index }) },
      [{ field, description: "is in use by another entity of the organization" }],
    );
  }
  if (command.uniqueTaxIdKey === undefined) return;
  if ((hits.taxIdKeys.get(command.uniqueTaxIdKey) ?? []).some((id) => id !== after.id)) {
    throw new DomainError("DUPLICATE_TAX_ID", "Another entity has this tax id", { field: "entity.tax_id" }, [
      { field: "entity.tax_id", description: "is in use by another entity of the organization" },
    ]);
  }
}

/** What the keys name as the commands so far have left it. */
interface GroupHits extends Hits {
  /** Tax ids of which an entity is gone and others, not read, may be left. */
  cut: Set<string>;
}

/** Later commands of the group find entities by the keys that they have now. Only keys that were asked for count. */
function moveHits(hits: GroupHits, before: EntityState | null, after: EntityState): void {
  for (const { externalId } of before?.externalIds ?? []) {
    if (hits.externalIds.get(externalId) === after.id) hits.externalIds.delete(externalId);
  }
  for (const { externalId } of after.externalIds) hits.externalIds.set(externalId, after.id);
  const keyOf = (state: EntityState | null) => (state === null || state.deletedAt !== null ? null : taxIdKeyOf(state));
  const [old, now] = [keyOf(before), keyOf(after)];
  if (old === now) return;
  if (old !== null) {
    const ids = hits.taxIdKeys.get(old) ?? [];
    // There may be more than were read: who they are, the next transaction knows.
    if (ids.length > LIMITS.candidates) hits.cut.add(old);
    hits.taxIdKeys.set(
      old,
      ids.filter((id) => id !== after.id),
    );
  }
  if (now !== null) hits.taxIdKeys.set(now, [...(hits.taxIdKeys.get(now) ?? []), after.id].sort());
}
