// One endpoint, while this process has its lease: events become deliveries, deliveries become requests, and what came
// of them is written, round after round (round.ts). Its states:
//
//              +-------------------------------------------+
//    lease     |         a receiver asks for a pause       |   nothing to do for idleMs()
//    taken --> |  SERVING -----------------------> PAUSED  | -----------------------------+
//              |          <-----------------------         |                              |
//              |         it is over, or lifted             |                              |
//              +-------------------------------------------+                              |
//                 | deleted        | disabled,   ^                                        |
//                 |                | stop()      | enabled again                          |
//                 v                v             |                                        v
//              REMOVING <------> ENDING ---------+                                       LEFT
//                 |    deleted,    |                                                      ^
//                 |    stop()      | nothing is under way or unwritten                    |
//                 +----------------+------------------------------------------------------+
//                   no row is left
//
//   SERVING    fetches, sends, writes
//   PAUSED     writes, but neither fetches nor sends; what is ready is dropped, since it is still due after the pause
//   ENDING     starts nothing; waits for what is under way and writes it
//   REMOVING   removes some deliveries in each round, the endpoint with the last
//   LEFT       this process has nothing more to do with it: the lease was given back, the endpoint is gone, or, from any
//              state, another process has the lease; what is under way is aborted
//
// A round that fails ends no state: after a pause the lease is taken again, and what is unwritten is written again.
// stop() ends every state for good; what is under way at its signal is aborted.
import { setTimeout as sleep } from "node:timers/promises";
import type { Instant } from "../domain/time.ts";
import type { DisabledReason } from "../domain/webhook.ts";
import { createEndpointDatabase, type EndpointDatabaseDeps } from "./endpoint-database.ts";
import { createFetching, type FetchingDeps } from "./fetching.ts";
import { createHeldLease, RENEW_MS } from "./held-lease.ts";
import { round } from "./round.ts";
import { createSending, type SendingDeps } from "./sending.ts";

/** What the endpoints of a process share. */
export interface EndpointDeps extends EndpointDatabaseDeps, FetchingDeps, SendingDeps {
  /** This process, in leases. */
  holder: string;
  /** How far the schedule's clock is ahead of the database's, in milliseconds. */
  clockOffsetMs(): number;
  /** How long an endpoint without work is kept, in milliseconds. */
  idleMs(): number;
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

type EndpointState = "SERVING" | "PAUSED" | "ENDING" | "REMOVING" | "LEFT";

/** Between two rounds that write outcomes; while the process is busy with calls, they gather for longer. */
const GATHER_MS = 10;
const GATHER_BUSY_MS = 250;
/** After a round that failed; doubled after each further one, up to MAX_RETRY_DOUBLINGS times. */
const RETRY_MS = 500;
const MAX_RETRY_DOUBLINGS = 4;

/** Serves the endpoint if its lease is free, until there is nothing to do, it is no longer enabled, or the lease is lost. */
export function runEndpoint(deps: EndpointDeps, organizationId: string, endpointId: string): RunningEndpoint {
  const aborted = new AbortController();
  let isStopping = false;
  let wakeUp = () => {};

  const database = createEndpointDatabase(deps, organizationId);
  const held = createHeldLease(database, { organizationId, endpointId, holder: deps.holder }, deps.clockOffsetMs);
  const fetching = createFetching(deps, database, held);
  const sending = createSending(deps, held, {
    isServing: () => state() === "SERVING",
    signal: aborted.signal,
    dropped: fetching.expectDue,
    ended: () => wakeUp(),
  });
  const disabled = (reason: DisabledReason) => deps.disabled(endpointId, reason);
  const parts = { database, held, fetching, sending, disabled };

  function state(): EndpointState {
    const endpoint = held.endpoint();
    if (endpoint === undefined) return "LEFT";
    if (isStopping || !(endpoint.isEnabled || endpoint.isDeleted)) return "ENDING";
    if (endpoint.isDeleted) return "REMOVING";
    return held.pausedMs() > 0 ? "PAUSED" : "SERVING";
  }

  const hasEnded = () => state() === "ENDING" && sending.isQuiet();
  /** What is fetched would be sent soon. */
  const wantsMore = () => state() !== "ENDING" && held.pausedMs() === 0 && sending.isLow();
  const shouldFetch = () => wantsMore() && fetching.mayFind();

  async function run(): Promise<void> {
    await held.take();
    try {
      let usedAt = performance.now();
      let errors = 0;
      while (state() !== "LEFT" && !hasEnded()) {
        const begun = performance.now();
        try {
          // A round that failed leaves the row in an unknown state.
          if (errors > 0) await held.take();
          const endpoint = held.endpoint();
          if (endpoint === undefined) break;
          const worked = await round(parts, endpoint, wantsMore());
          errors = 0;
          if (worked || !sending.isQuiet()) usedAt = performance.now();
        } catch (error) {
          if (errors === 0) deps.failed(endpointId, error);
          sending.dropReady();
          fetching.expectAll();
          const pauseMs = RETRY_MS * 2 ** Math.min(errors++, MAX_RETRY_DOUBLINGS);
          await sleep(pauseMs, undefined, { signal: aborted.signal }).catch(() => {});
          // The process has no time left: what is not written, another one sends again.
          if (aborted.signal.aborted) break;
          continue;
        }
        if (state() === "LEFT") break;
        sending.start();
        const isIdle = sending.isQuiet() && !sending.hasReady() && !shouldFetch();
        if (isIdle && performance.now() - usedAt > deps.idleMs()) break;
        await untilThereIsSomething(begun);
      }
      if (state() !== "LEFT") await held.giveBack().catch((error) => deps.failed(endpointId, error));
    } finally {
      aborted.abort();
      await sending.settled();
    }
  }

  /** Until there are outcomes to write, places to fill, or news; or the lease is to be renewed. */
  async function untilThereIsSomething(begun: number): Promise<void> {
    const renewAt = begun + RENEW_MS;
    while (!hasEnded()) {
      const time = performance.now();
      const isBusy = deps.pace.isBusy(organizationId);
      const pausedMs = held.pausedMs();
      const hasUnwritten = sending.unwritten().length > 0;
      const gatherMs = isBusy ? GATHER_BUSY_MS : GATHER_MS;
      // A pause holds back requests, and not the removal of an endpoint.
      const hasWork = hasUnwritten || state() === "REMOVING" || shouldFetch();
      const roundAt = hasWork ? begun + gatherMs : renewAt;
      if (time >= roundAt) {
        if (time >= renewAt) fetching.expectAll();
        return;
      }
      // Nothing is under way: there is nothing to gather for.
      if (!isBusy && hasUnwritten && !sending.isUnderWay() && !sending.hasReady()) return;
      if (sending.hasReady() && pausedMs === 0) sending.start();
      const woken = Promise.withResolvers<void>();
      wakeUp = woken.resolve;
      const timer = setTimeout(woken.resolve, pausedMs > 0 ? Math.min(roundAt - time, pausedMs) : roundAt - time);
      await woken.promise;
      clearTimeout(timer);
    }
  }

  const ended = run().catch((error: unknown) => deps.failed(endpointId, error));
  return {
    organizationId,
    wake() {
      fetching.expectAll();
      wakeUp();
    },
    async stop(signal) {
      isStopping = true;
      wakeUp();
      if (signal.aborted) aborted.abort();
      else signal.addEventListener("abort", () => aborted.abort(), { once: true });
      await ended;
    },
    oldest: fetching.oldest,
    ended,
  };
}
