// Commands in one transaction, as if one after the other: all of them or none. Their entities are locked first, in the order
// of ids, so that batches wait for each other and do not deadlock; then the commands are run a part at a time.

import { UniqueViolation } from "../db/failures.ts";
import type { Orm } from "../db/orm.ts";
import type { Pipeline } from "../db/statements.ts";
import { pipelined, type TransactionOptions } from "../db/transaction.ts";
import { DomainError } from "../domain/errors.ts";
import { type Command, type Outcome, onlyOutcome } from "./command.ts";
import { Group, type GroupResult } from "./group.ts";
import { keptMoving, keysOf, LookupMoved, lockNamed, MAX_LOCK_ROUNDS } from "./locked.ts";
import { findHits } from "./lookups.ts";
import { heldTooLong } from "./refusals.ts";
import { claimRequests, type RequestKey, rememberAnswers } from "./requests.ts";
import { collision, MAX_COLLISIONS } from "./write-group.ts";

/** Commands that are decided at once: so many entities are in memory, and so long the process does nothing else. */
const PART = 50;
/** Entities that one statement locks. It may have to wait for each of them, and has a time of its own. */
const LOCKED_AT_ONCE = 100;

export interface Batch<T> {
  /** Each of one entity, or of one that it makes, and without a request of its own. */
  commands: readonly Command[];
  /** As that of a command. */
  request?: (RequestKey & { answer: (results: readonly T[]) => Uint8Array }) | undefined;
  /** What is to be told of an outcome, which is not kept. */
  present: (outcome: Outcome, index: number) => T;
  /** The refusal of the batch for that of a command. */
  refusal: (error: DomainError, index: number) => DomainError;
  /** Aborted, nothing of the batch is done. */
  signal: Pick<AbortSignal, "aborted" | "reason">;
}

type BatchResult<T> = { kind: "done"; results: readonly T[] } | { kind: "replayed"; answer: Uint8Array };

/** Throws the refusal of the first command that is refused, and any failure. */
export async function writeBatch<T>(
  orm: Orm,
  organizationId: string,
  batch: Batch<T>,
  options: TransactionOptions,
): Promise<BatchResult<T>> {
  /** Entities to lock beside those that are named at the beginning. */
  const alsoLocked = new Set<string>();
  let rounds = 0;
  let collisions = 0;
  for (;;) {
    try {
      return await pipelined(orm, organizationId, (db) => runBatch(db, organizationId, batch, alsoLocked), options);
    } catch (error) {
      if (error instanceof LookupMoved) {
        if (++rounds === MAX_LOCK_ROUNDS) throw keptMoving();
        for (const id of error.ids) alsoLocked.add(id);
      } else if (error instanceof UniqueViolation) {
        if (++collisions > MAX_COLLISIONS) throw collision(error);
      } else throw error;
    }
  }
}

async function runBatch<T>(
  db: Pipeline,
  organizationId: string,
  { commands, request, present, refusal, signal }: Batch<T>,
  alsoLocked: ReadonlySet<string>,
): Promise<BatchResult<T>> {
  const [claim] = await claimRequests(db, organizationId, [request]);
  if (typeof claim === "object") {
    if ("refused" in claim) throw claim.refused;
    return { kind: "replayed", answer: claim.answer };
  }
  const held = await holdNamed(db, organizationId, commands, alsoLocked);
  const results: T[] = [];
  while (results.length < commands.length) {
    if (signal.aborted) throw signal.reason;
    const begun = results.length;
    const part = commands.slice(begun, begun + PART);
    const group = new Group(organizationId, await lockNamed(db, organizationId, part, { skipLocked: false, held }), {
      skipLocked: false,
      mayRewriteCopies: false,
    });
    for (const command of part) {
      const index = results.length;
      const result = runIn(group, command, (error) => refusal(error, index));
      // What it names depends on what those before it wrote, and only the database can tell: the next part begins here.
      if (result === "later") break;
      const outcome = onlyOutcome(result);
      held.add(outcome.after.id);
      results.push(present(outcome, index));
    }
    if (results.length === begun) throw new Error("a command of a batch cannot be decided");
    group.write(db);
  }
  if (request !== undefined) {
    // Sent, not awaited: if it fails, the transaction does.
    rememberAnswers(db, organizationId, [{ key: request, answer: request.answer(results) }]).catch(() => {});
  }
  return { kind: "done", results };
}

/**
 * Locks what the commands name now, in the order of ids, and waits for it; of `alsoLocked` also what is merged, and what is
 * merged into it: nobody moves it then.
 */
async function holdNamed(
  db: Pipeline,
  organizationId: string,
  commands: readonly Command[],
  alsoLocked: ReadonlySet<string>,
): Promise<Set<string>> {
  const { keys } = keysOf(commands);
  const { survivors, present, externalIds, taxIdKeys } = await findHits(db, organizationId, keys);
  const named = [...survivors.values(), ...present, ...externalIds.values(), ...[...taxIdKeys.values()].flat()];
  const members = await membersOf(db, organizationId, [...alsoLocked]);
  const ids = [...new Set([...named, ...alsoLocked, ...members])].sort();
  const steps = Array.from({ length: Math.ceil(ids.length / LOCKED_AT_ONCE) }, (_, i) =>
    db.execute<{ id: string }[]>(
      `select e.id from entity e where e.organization_id = $1 and e.id = any($2::uuid[])
       order by e.id for no key update`,
      [organizationId, ids.slice(i * LOCKED_AT_ONCE, (i + 1) * LOCKED_AT_ONCE)],
    ),
  );
  const locked = await Promise.all(steps).catch(heldTooLong);
  return new Set(locked.flat().map(({ id }) => id));
}

async function membersOf(db: Pipeline, organizationId: string, survivorIds: readonly string[]): Promise<string[]> {
  if (survivorIds.length === 0) return [];
  const rows = await db.execute<{ id: string }[]>(
    "select e.id from entity e where e.organization_id = $1 and e.survivor_id = any($2::uuid[])",
    [organizationId, survivorIds],
  );
  return rows.map(({ id }) => id);
}

function runIn(group: Group, command: Command, refusal: (error: DomainError) => DomainError) {
  let result: GroupResult;
  try {
    result = group.run(command);
  } catch (error) {
    throw error instanceof DomainError ? refusal(error) : error;
  }
  if (result === "later") return result;
  if (result === "busy" || result.kind !== "done") throw new Error("a command of a batch was neither done nor refused");
  return result.outcomes;
}
