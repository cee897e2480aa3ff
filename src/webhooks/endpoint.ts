// One endpoint, while this process has its lease: events become deliveries, deliveries become requests, and what
// came of them is written. Each round is one transaction, which begins by renewing the lease: it locks the
// endpoint's row, so that rounds, replays and changes of the endpoint follow each other, and fails once another
// process has the lease.
import { setTimeout as sleep } from "node:timers/promises";
import type { Part } from "../db/bytes.ts";
import type { Orm } from "../db/orm.ts";
import type { Statements } from "../db/statements.ts";
import { pipelined, readStatements } from "../db/transaction.ts";
import { newId } from "../db/uuid.ts";
import type { Instant } from "../domain/time.ts";
import {
  afterAttempts,
  type DisabledReason,
  ENDPOINT_DISABLED,
  type EndpointFailures,
  endpointDisabled,
} from "../domain/webhook.ts";
import type { Pages } from "../log/pages.ts";
import type { Slots } from "../slots.ts";
import { type Attempted, attempt } from "./attempt.ts";
import { type Batch, readBacklog } from "./backlog.ts";
import {
  disableEndpoint,
  giveLeaseBack,
  type LeasedEndpoint,
  listListeners,
  removeSome,
  renewLease,
  takeLease,
} from "./lease.ts";
import type { AttemptResult } from "./metrics.ts";
import type { Pace } from "./pace.ts";
import {
  countPending,
  type DueDelivery,
  deliveryId,
  enqueue,
  type NewDelivery,
  readDue,
  releaseNext,
  writeOutcomes,
} from "./queue.ts";
import type { Sender } from "./send.ts";

/** What the endpoints of a process share. */
export interface Shared {
  orm: Orm;
  pages: Pages;
  sender: Sender;
  /** This process, in leases. */
  holder: string;
  /** How far the schedule's clock is ahead of the database's, in milliseconds. */
  clockOffsetMs(): number;
  pace: Pace;
  /** Bounds the connections to the database. */
  connections: Slots;
  /** The same for readers of the log, which may take long. */
  backlogs: Slots;
  /** How long an endpoint without work is kept, in milliseconds. */
  idleMs(): number;
  userAgent: string;
  attempted(result: AttemptResult, latencyMs: number): void;
  expired(endpointId: string): void;
  disabled(endpointId: string, reason: DisabledReason): void;
  failed(endpointId: string, error: unknown): void;
}

export interface RunningEndpoint {
  organizationId: string;
  /** There may be work: look now. */
  wake(): void;
  /** Starts nothing more. Ends when what is under way has, or at the signal, and gives the lease back. */
  stop(signal: AbortSignal): Promise<void>;
  /** When the oldest event that is pending was recorded, at the last look. */
  oldest(): Instant | undefined;
  ended: Promise<void>;
}

/** Requests of one endpoint at once; and where its last answer took SLOW_MS, or one has been waited for so long. */
const CONCURRENCY = 16;
const SLOW_CONCURRENCY = 2;
const SLOW_MS = 2_000;
/** Deliveries in hand that have not started: more are fetched below the one number, up to the other. */
const FEW_READY = 16;
const MANY_READY = 64;
/** Rows that may be pending: beyond that the log waits. */
const MAX_PENDING = 10_000;
/** Between two rounds that write outcomes; while the process is busy with calls, they gather for longer. */
const GATHER_MS = 10;
const GATHER_BUSY_MS = 250;
/** A lease lasts three of these. */
const RENEW_MS = 5_000;
const RETRY_MS = 500;
const DELETED_ROWS = 1_000;

/** Serves the endpoint if its lease is free, until there is nothing to do, it is no longer enabled, or the lease is lost. */
export function runEndpoint(shared: Shared, organizationId: string, endpointId: string): RunningEndpoint {
  const lease = { organizationId, endpointId, holder: shared.holder };
  const clockOffset = () => `${shared.clockOffsetMs()} milliseconds`;
  const given = new AbortController();
  const ready: DueDelivery[] = [];
  const underWay = new Map<string, Promise<void>>();
  /** When the requests that are under way were sent, the oldest first; and how long the last one took. */
  const sentAt = new Map<string, number>();
  let lastTookMs = 0;
  let done: Attempted[] = [];
  let endpoint: LeasedEndpoint | undefined;
  /** The database's time when the row was read, and performance.now() then. */
  let readAt = 0;
  let pending: { count: number; oldest: Instant | undefined } = { count: 0, oldest: undefined };
  let countedAt = 0;
  let isStopping = false;
  let mayHaveEvents = true;
  let mayHaveDue = true;
  /** The last look found fewer deliveries due than it had room for: the log may follow. */
  let wasShort = false;
  let wakeUp = () => {};

  const now = (): Instant =>
    (endpoint?.now ?? 0n) + BigInt(Math.round((performance.now() - readAt + shared.clockOffsetMs()) * 1_000));

  async function run(): Promise<void> {
    endpoint = await take();
    try {
      let usedAt = performance.now();
      let errors = 0;
      while (endpoint !== undefined && !(isEnding() && isQuiet())) {
        const begun = performance.now();
        try {
          // What was in the row when a round failed, nobody knows; what is in `done` is written again.
          if (errors > 0) endpoint = await take();
          if (endpoint === undefined) break;
          const worked = await round(endpoint);
          errors = 0;
          if (worked || !isQuiet()) usedAt = performance.now();
        } catch (error) {
          if (errors === 0) shared.failed(endpointId, error);
          ready.length = 0;
          [mayHaveEvents, mayHaveDue] = [true, true];
          await sleep(RETRY_MS * 2 ** Math.min(errors++, 4), undefined, { signal: given.signal }).catch(() => {});
          // The time that the end of the process leaves is over: others take what is not written.
          if (given.signal.aborted) break;
          continue;
        }
        if (endpoint === undefined) break;
        start(endpoint);
        const isIdle = isQuiet() && ready.length === 0 && !hasRoom();
        if (isIdle && performance.now() - usedAt > shared.idleMs()) break;
        await untilThereIsSomething(begun);
      }
      if (endpoint !== undefined) await giveBack();
    } finally {
      // Of a lease that was lost, or an endpoint that is gone.
      given.abort();
      await Promise.all(underWay.values());
    }
  }

  const isQuiet = () => underWay.size === 0 && done.length === 0;
  const pausedMs = () => Math.max(0, Number((endpoint?.pausedUntil ?? 0n) - now()) / 1_000);
  /** What is fetched would be sent soon. */
  const wantsMore = () => pausedMs() === 0 && !isEnding() && ready.length < FEW_READY;
  /** And there may be something to fetch. A queue that is full waits for what is in it. */
  const hasRoom = () => wantsMore() && (mayHaveDue || (mayHaveEvents && pending.count < MAX_PENDING));
  /** Starts nothing more; what is under way is waited for, under the lease. */
  const isEnding = () => isStopping || (endpoint !== undefined && !endpoint.isEnabled && !endpoint.isDeleted);

  async function take(): Promise<LeasedEndpoint | undefined> {
    const row = await shared.connections(organizationId, () =>
      readStatements(shared.orm, organizationId, (db) => takeLease(db, lease)),
    );
    readAt = performance.now();
    return row;
  }

  /** One transaction. Whether there was anything to do. */
  async function round(current: LeasedEndpoint): Promise<boolean> {
    if (current.isDeleted) return remove();
    const fetches = wantsMore();
    await count();
    let batch: Batch | undefined;
    if (fetches && mayHaveEvents && wasShort && pending.count < MAX_PENDING) {
      mayHaveEvents = false;
      // As long as it may take: with the lease kept, and nobody else kept waiting.
      const keeping = setInterval(() => void take().catch(() => {}), RENEW_MS);
      try {
        batch = await shared.backlogs(organizationId, () =>
          readBacklog(shared, lease, current, () => shared.expired(endpointId)),
        );
      } finally {
        clearInterval(keeping);
      }
    }
    const written = [...done];
    const { disable, ...failures } = afterAttempts(
      current,
      written.map(({ outcome, verdict }) => ({ ...outcome.attempt, verdict })),
      now(),
    );
    const inHand = [...ready.map(({ id }) => id), ...underWay.keys()];
    if (fetches) mayHaveDue = false;
    const limit = fetches ? MANY_READY - ready.length : 0;
    let after: { row: LeasedEndpoint; due: Part<DueDelivery> };
    try {
      after = await shared.connections(organizationId, () =>
        write(current, { written, batch, failures, disable }, { inHand, limit }),
      );
    } catch (error) {
      if (error instanceof EndpointChanged) mayHaveEvents = true;
      else if (!(error instanceof LeaseLost)) throw error;
      endpoint = error instanceof EndpointChanged ? await take() : undefined;
      return true;
    }
    readAt = performance.now();
    const { row } = after;
    const { rows: due, isCut } = after.due;
    endpoint = row;
    done = done.slice(written.length);
    const finished = written.filter(({ outcome }) => outcome.state !== "PENDING");
    pending.count += (batch?.deliveries.length ?? 0) - finished.length;
    if (disable !== undefined && row.isEnabled) {
      shared.disabled(endpointId, disable);
      endpoint = { ...row, isEnabled: false };
    }
    ready.push(...due);
    if (fetches) wasShort = due.length < limit && !isCut;
    mayHaveDue ||= fetches && !wasShort;
    mayHaveEvents ||= batch?.more ?? false;
    return batch !== undefined || written.length > 0 || due.length > 0;
  }

  /** Outcomes, new deliveries, and what is due after them. */
  function write(
    current: LeasedEndpoint,
    {
      written,
      batch,
      failures,
      disable,
    }: {
      written: readonly Attempted[];
      batch: Batch | undefined;
      failures: EndpointFailures;
      disable: DisabledReason | undefined;
    },
    { inHand, limit }: { inHand: string[]; limit: number },
  ) {
    const outcomes = written.map(({ outcome }) => outcome);
    const deliveries = batch?.deliveries ?? [];
    const subjects = [...outcomes, ...deliveries].map(({ subjectId }) => subjectId);
    const { position, positionAt = current.positionAt } = batch ?? {};
    const catchUp = batch === undefined ? current.catchUp : batch.catchUp;
    return pipelined(shared.orm, organizationId, async (db) => {
      // The queue grows from nothing to very many rows and back: a plan is good for the moment.
      db.send("set local plan_cache_mode = 'force_custom_plan'", []);
      // Sent together, each behind the one before.
      const [row, , , , due] = await Promise.all([
        renewLease(db, lease, { position, positionAt, catchUp, ...failures }).then(
          (renewed) => renewed ?? Promise.reject(new LeaseLost()),
        ),
        writeOutcomes(db, organizationId, outcomes, clockOffset()),
        enqueue(db, organizationId, endpointId, deliveries, clockOffset()),
        releaseNext(db, organizationId, endpointId, subjects, clockOffset()),
        limit === 0
          ? { rows: [], isCut: false }
          : readDue(db, organizationId, endpointId, { inHand, clockOffset: clockOffset(), limit }),
      ]);
      // What was chosen by the filters of before is chosen again; and who was enabled anew begins without failures.
      if (row.etag !== current.etag) throw new EndpointChanged();
      if (disable !== undefined && row.isEnabled) await tellDisabled(db, disable);
      return { row, due };
    });
  }

  async function tellDisabled(db: Statements, reason: DisabledReason): Promise<void> {
    await disableEndpoint(db, lease, { reason, etag: newId(), clockOffset: clockOffset() });
    const at = now();
    const eventId = newId();
    for (const listener of await listListeners(db, organizationId, endpointId)) {
      const delivery: NewDelivery = {
        id: deliveryId(listener, eventId, ENDPOINT_DISABLED),
        eventId,
        event: ENDPOINT_DISABLED,
        rank: 0,
        // One of its own: no order is kept between endpoints that are disabled.
        subjectId: eventId,
        entityVersion: 0,
        recordedAt: at,
        payload: endpointDisabled(endpointId, reason, at),
      };
      await enqueue(db, organizationId, listener, [delivery], clockOffset());
    }
  }

  /** May a request go out now? Of a lease that has nearly run out, nobody knows whose it is. */
  const maySend = () =>
    endpoint !== undefined &&
    !endpoint.isDeleted &&
    !isEnding() &&
    pausedMs() === 0 &&
    performance.now() - readAt < 2 * RENEW_MS;

  /** For how long the oldest request that is under way has had no answer. */
  function waitedMs(): number {
    const [oldest] = sentAt.values();
    return oldest === undefined ? 0 : performance.now() - oldest;
  }

  function start(current: LeasedEndpoint): void {
    if (current.isDeleted || pausedMs() > 0) {
      // Still due when the pause is over.
      ready.length = 0;
      mayHaveDue = true;
      return;
    }
    // One that fails is tried one by one: its time-outs take the places of no others.
    const isSlow = lastTookMs >= SLOW_MS || waitedMs() >= SLOW_MS;
    const places = current.failures > 0 ? 1 : isSlow ? SLOW_CONCURRENCY : CONCURRENCY;
    while (underWay.size < places && maySend()) {
      const delivery = ready.shift();
      if (delivery === undefined) return;
      const sent = shared.pace
        .run({ organizationId, isSlow }, async () => {
          // Its turn may have come late.
          if (endpoint === undefined || !maySend()) {
            mayHaveDue = true;
            return;
          }
          sentAt.set(delivery.id, performance.now());
          const attempted = await attempt(shared, delivery, { endpoint, now, signal: given.signal });
          if (attempted !== undefined) done.push(attempted);
        })
        .finally(() => {
          underWay.delete(delivery.id);
          const sent = sentAt.get(delivery.id);
          if (sent !== undefined) lastTookMs = performance.now() - sent;
          sentAt.delete(delivery.id);
          wakeUp();
        });
      underWay.set(delivery.id, sent);
    }
  }

  /** Until there are outcomes to write, places to fill, or news; or the lease is to be renewed. */
  async function untilThereIsSomething(begun: number): Promise<void> {
    const renewAt = begun + RENEW_MS;
    for (;;) {
      if (isEnding() && isQuiet()) return;
      const time = performance.now();
      const paused = pausedMs();
      const gatherMs = shared.pace.isBusy() ? GATHER_BUSY_MS : GATHER_MS;
      const dueAt = done.length > 0 || hasRoom() ? begun + gatherMs : renewAt;
      if (time >= dueAt) {
        if (time >= renewAt) [mayHaveDue, mayHaveEvents] = [true, true];
        return;
      }
      // Nothing is under way: nothing to gather for.
      if (!shared.pace.isBusy() && done.length > 0 && underWay.size === 0 && ready.length === 0) return;
      if (ready.length > 0 && endpoint !== undefined && paused === 0) start(endpoint);
      const woken = Promise.withResolvers<void>();
      wakeUp = woken.resolve;
      const timer = setTimeout(woken.resolve, paused > 0 ? Math.min(dueAt - time, paused) : dueAt - time);
      await woken.promise;
      clearTimeout(timer);
    }
  }

  async function count(): Promise<void> {
    const time = performance.now();
    if (countedAt > 0 && time - countedAt < RENEW_MS) return;
    countedAt = time;
    pending = await shared.connections(organizationId, () =>
      readStatements(shared.orm, organizationId, (db) => countPending(db, organizationId, endpointId, MAX_PENDING)),
    );
  }

  async function remove(): Promise<boolean> {
    const more = await shared.connections(organizationId, () =>
      pipelined(shared.orm, organizationId, async (db) =>
        // Behind the lease, which locks the row: two that remove would each think that the other's rows are gone.
        (await takeLease(db, lease)) === undefined ? false : removeSome(db, lease, DELETED_ROWS),
      ),
    );
    readAt = performance.now();
    done = [];
    if (!more) endpoint = undefined;
    return true;
  }

  async function giveBack(): Promise<void> {
    await shared
      .connections(organizationId, () => pipelined(shared.orm, organizationId, (db) => giveLeaseBack(db, lease)))
      .catch((error) => shared.failed(endpointId, error));
  }

  const ended = run().catch((error: unknown) => shared.failed(endpointId, error));
  return {
    organizationId,
    wake() {
      [mayHaveEvents, mayHaveDue] = [true, true];
      wakeUp();
    },
    async stop(signal) {
      isStopping = true;
      wakeUp();
      if (signal.aborted) given.abort();
      else signal.addEventListener("abort", () => given.abort(), { once: true });
      await ended;
    },
    oldest: () => pending.oldest,
    ended,
  };
}

/** Another process has the endpoint now. */
class LeaseLost extends Error {
  override readonly name = "LeaseLost";
}

/** The endpoint was changed between two rounds. */
class EndpointChanged extends Error {
  override readonly name = "EndpointChanged";
}
