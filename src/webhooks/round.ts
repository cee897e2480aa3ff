// One round of an endpoint: a transaction that renews the lease, writes what came of attempts, puts events of the log
// into the queue, and reads what is due after that. Renewing comes first: it locks the endpoint's row, so that rounds,
// replays and changes of the endpoint follow each other, and finds nothing once another process has the lease.
import type { Part } from "../db/bytes.ts";
import type { Statements } from "../db/statements.ts";
import { newId } from "../db/uuid.ts";
import { afterAttempts, type DisabledReason, ENDPOINT_DISABLED, endpointDisabled } from "../domain/webhook.ts";
import type { Attempted } from "./attempt.ts";
import type { Batch } from "./backlog.ts";
import type { EndpointDatabase } from "./endpoint-database.ts";
import type { Fetching } from "./fetching.ts";
import type { HeldLease } from "./held-lease.ts";
import {
  disableEndpoint,
  type EndpointChange,
  type LeasedEndpoint,
  listListeners,
  removeSome,
  renewLease,
  takeLease,
} from "./lease.ts";
import {
  type DueDelivery,
  deliveryId,
  enqueue,
  type NewDelivery,
  readDue,
  releaseNext,
  writeOutcomes,
} from "./queue.ts";
import type { Sending } from "./sending.ts";

/** How many deliveries of a deleted endpoint one round removes. */
const REMOVED_ROWS = 1_000;

export interface RoundParts {
  database: EndpointDatabase;
  held: HeldLease;
  fetching: Fetching;
  sending: Sending;
  /** The round has disabled the endpoint. */
  disabled(reason: DisabledReason): void;
}

/** Does one round; with `wantsMore` it fetches too. Returns whether there was anything to do. */
export async function round(parts: RoundParts, endpoint: LeasedEndpoint, wantsMore: boolean): Promise<boolean> {
  if (endpoint.isDeleted) return remove(parts);
  const { held, fetching, sending } = parts;
  await fetching.count();
  const batch = wantsMore ? await fetching.readLog(endpoint) : undefined;
  const attempted = [...sending.unwritten()];
  const { disable, ...failures } = afterAttempts(
    endpoint,
    attempted.map(({ outcome, verdict }) => ({ ...outcome.attempt, verdict })),
    held.now(),
  );
  const limit = wantsMore ? sending.room() : 0;
  if (wantsMore) fetching.readsDue();
  let after: { row: LeasedEndpoint; due: Part<DueDelivery> };
  try {
    after = await commit(parts, endpoint, { attempted, batch, failures, disable, limit });
  } catch (error) {
    if (error instanceof EndpointChanged) {
      fetching.expectEvents();
      await held.take();
    } else if (error instanceof LeaseLost) held.lost();
    else throw error;
    return true;
  }
  const { row, due } = after;
  const isDisabledNow = disable !== undefined && row.isEnabled;
  held.renewed(isDisabledNow ? { ...row, isEnabled: false } : row);
  sending.written(attempted.length);
  sending.add(due.rows);
  fetching.committed(batch, attempted.filter(({ outcome }) => outcome.state !== "PENDING").length);
  if (wantsMore) fetching.foundDue({ count: due.rows.length, limit, isCut: due.isCut });
  if (isDisabledNow) parts.disabled(disable);
  return batch !== undefined || attempted.length > 0 || due.rows.length > 0;
}

interface Work {
  attempted: readonly Attempted[];
  batch: Batch | undefined;
  failures: Pick<EndpointChange, "failures" | "failingSince" | "pausedUntil">;
  disable: DisabledReason | undefined;
  /** How many due deliveries to read. */
  limit: number;
}

/** The transaction. Throws LeaseLost or EndpointChanged, and has changed nothing then. */
function commit({ database, held, sending }: RoundParts, endpoint: LeasedEndpoint, work: Work) {
  const { organizationId, endpointId } = held.lease;
  const { batch, limit } = work;
  const inHand = sending.inHand();
  const outcomes = work.attempted.map(({ outcome }) => outcome);
  const deliveries = batch?.deliveries ?? [];
  const subjects = [...outcomes, ...deliveries].map(({ subjectId }) => subjectId);
  const { position, positionAt = endpoint.positionAt } = batch ?? {};
  const catchUp = batch === undefined ? endpoint.catchUp : batch.catchUp;
  return database.transaction(async (db) => {
    // The queue grows from nothing to very many rows and back: a plan is good for the moment.
    db.send("set local plan_cache_mode = 'force_custom_plan'", []);
    const clockOffset = held.clockOffset();
    // Sent together, each behind the one before.
    const [row, , , , due] = await Promise.all([
      renewLease(db, held.lease, { position, positionAt, catchUp, ...work.failures }).then(
        (renewed) => renewed ?? Promise.reject(new LeaseLost()),
      ),
      writeOutcomes(db, organizationId, outcomes, clockOffset),
      enqueue(db, organizationId, endpointId, deliveries, clockOffset),
      releaseNext(db, organizationId, endpointId, subjects, clockOffset),
      limit === 0
        ? { rows: [], isCut: false }
        : readDue(db, organizationId, endpointId, { inHand, clockOffset, limit }),
    ]);
    // Events that the previous filters chose are chosen again; an endpoint that was enabled again begins without failures.
    if (row.etag !== endpoint.etag) throw new EndpointChanged();
    if (work.disable !== undefined && row.isEnabled) await disableAndTell(db, held, work.disable);
    return { row, due };
  });
}

/** Disables the endpoint, and tells the organization's other endpoints that name this event. */
async function disableAndTell(db: Statements, held: HeldLease, reason: DisabledReason): Promise<void> {
  const { organizationId, endpointId } = held.lease;
  await disableEndpoint(db, held.lease, { reason, etag: newId(), clockOffset: held.clockOffset() });
  const at = held.now();
  const eventId = newId();
  for (const listener of await listListeners(db, organizationId, endpointId)) {
    const delivery: NewDelivery = {
      id: deliveryId(listener, eventId, ENDPOINT_DISABLED),
      eventId,
      event: ENDPOINT_DISABLED,
      rank: 0,
      // A subject of its own: no order is kept between endpoints that are disabled.
      subjectId: eventId,
      entityVersion: 0,
      recordedAt: at,
      payload: endpointDisabled(endpointId, reason, at),
    };
    await enqueue(db, organizationId, listener, [delivery], held.clockOffset());
  }
}

/** Removes some deliveries of a deleted endpoint, in the end the endpoint itself. */
async function remove({ database, held, sending }: RoundParts): Promise<boolean> {
  const endpoint = await database.transaction(async (db) => {
    // Behind the lease, which locks the row: two that remove would each think that the other's rows are gone.
    const row = await takeLease(db, held.lease);
    return row !== undefined && (await removeSome(db, held.lease, REMOVED_ROWS)) ? row : undefined;
  });
  sending.written(sending.unwritten().length);
  if (endpoint === undefined) held.lost();
  else held.renewed(endpoint);
  return true;
}

/** Another process has the endpoint now. */
class LeaseLost extends Error {
  override readonly name = "LeaseLost";
}

/** The endpoint was changed between two rounds. */
class EndpointChanged extends Error {
  override readonly name = "EndpointChanged";
}
