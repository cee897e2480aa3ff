// Sends the organizations' events to their endpoints. Every process has a dispatcher; each endpoint is served by one
// of them at a time, which has its lease. A process gives back the lease of an endpoint that has been idle for a while.
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { Registry } from "prom-client";
import type { Bell } from "../bell.ts";
import type { Orm } from "../db/orm.ts";
import { newId } from "../db/uuid.ts";
import { createShares } from "../domain/shares.ts";
import { createPages } from "../log/pages.ts";
import { createSlots } from "../slots.ts";
import { type EndpointDeps, type RunningEndpoint, runEndpoint } from "./endpoint.ts";
import { listWork } from "./lease.ts";
import { webhookMetrics } from "./metrics.ts";
import { createPace } from "./pace.ts";
import type { Sender } from "./send.ts";

export interface DispatcherOptions {
  orm: Orm;
  sender: Sender;
  /** Connections to the database at once. */
  connections: number;
  /** Calls that the process is answering, of one organization or of all: deliveries give way to them. */
  inFlight(organizationId?: string): number;
  bell: Bell;
  /** How far the schedule's clock is ahead of the database's, in milliseconds; tests move it. */
  clockOffsetMs(): number;
  version: string;
  registry: Registry;
  log: Logger;
  /** What the log may know of an error. */
  describe(error: unknown): object;
}

export interface Dispatcher {
  /** Starts nothing more, gives what is under way the time, and gives the leases back. */
  drain(timeoutMs: number): Promise<void>;
}

/** Between two looks for work, of all organizations; longer where the look itself takes long. */
const POLL_MS = 300;
const MAX_POLL_MS = 1_000;
const IDLE_MS = 10_000;
/** Endpoints that one look takes: the next look follows soon, and meanwhile other processes have theirs. */
const TAKEN_AT_ONCE = 4;
const NEXT_LOOK_MS = 50;
/** The look itself, among the organizations. */
const POLL = "poll";
/** Endpoints that one process serves at once, and requests at once: organizations have shares of both. */
const MAX_ENDPOINTS = 200;
const CONCURRENCY = 64;
const LEAST_ENDPOINTS = 2;

/** Starts at once. */
export function createDispatcher(options: DispatcherOptions): Dispatcher {
  const { orm, sender, log, describe, clockOffsetMs } = options;
  const running = new Map<string, RunningEndpoint>();
  const metrics = webhookMetrics(options.registry, () => {
    const times = [...running.values()].map((one) => one.oldest()).filter((time) => time !== undefined);
    const now = Date.now() + clockOffsetMs();
    return Math.max(0, ...times.map((time) => now - Number(time / 1_000n)));
  });
  const deps: EndpointDeps = {
    orm,
    pages: createPages(orm),
    sender,
    holder: newId(),
    clockOffsetMs,
    pace: createPace({ inFlight: options.inFlight, concurrency: CONCURRENCY }),
    connections: createSlots(options.connections),
    // One per organization: reading the log may take long.
    backlogs: createSlots(2),
    // While endpoints wait for a place, an idle one does not keep its own.
    idleMs: () => (running.size < MAX_ENDPOINTS / 2 ? IDLE_MS : 0),
    userAgent: `EntityService/${options.version}`,
    attempted: metrics.attempted,
    expired: (endpointId) =>
      log.warn({ endpointId }, "the position of a webhook endpoint has expired: going through the log by time"),
    disabled: (endpointId, reason) => log.warn({ endpointId, reason }, "webhook endpoint disabled"),
    failed: (endpointId, error) => log.warn({ endpointId, error: describe(error) }, "webhooks wait for the database"),
  };
  const places = createShares(MAX_ENDPOINTS, LEAST_ENDPOINTS);
  const stopped = new AbortController();

  async function poll(): Promise<void> {
    let isFailing = false;
    while (!stopped.signal.aborted) {
      const begin = performance.now();
      let taken = 0;
      try {
        const work = await deps.connections(POLL, () =>
          listWork(orm, { holder: deps.holder, clockOffset: `${clockOffsetMs()} milliseconds`, limit: MAX_ENDPOINTS }),
        );
        for (const { organizationId, endpointId } of work) {
          const one = running.get(endpointId);
          if (one !== undefined) one.wake();
          else if (taken < TAKEN_AT_ONCE && !stopped.signal.aborted && places.take({ organization: organizationId })) {
            taken += 1;
            serve(organizationId, endpointId);
          }
        }
        isFailing = false;
      } catch (error) {
        if (!isFailing) log.warn({ error: describe(error) }, "webhooks wait for the database");
        isFailing = true;
      }
      const took = performance.now() - begin;
      const pause = taken === TAKEN_AT_ONCE ? NEXT_LOOK_MS : Math.min(MAX_POLL_MS, Math.max(POLL_MS, took * 4));
      await sleep(pause, undefined, { signal: stopped.signal }).catch(() => {});
    }
  }

  function serve(organizationId: string, endpointId: string): void {
    const one = runEndpoint(deps, organizationId, endpointId);
    running.set(endpointId, one);
    void one.ended.then(() => {
      running.delete(endpointId);
      places.give({ organization: organizationId });
    });
  }

  // Spares the endpoints that this process serves the wait for the next poll.
  options.bell.hear((organizationId) => {
    for (const one of running.values()) if (one.organizationId === organizationId) one.wake();
  });
  const polling = poll();
  return {
    async drain(timeoutMs) {
      stopped.abort();
      const late = AbortSignal.timeout(timeoutMs);
      await polling;
      await Promise.all([...running.values()].map((one) => one.stop(late)));
    },
  };
}
