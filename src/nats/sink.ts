// Publishes the log of all organizations to NATS JetStream, in the order of positions. One of the processes that serve
// does it. What was sent and not acknowledged is sent again: JetStream drops duplicates, by the event's id.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Counter, Gauge, type Registry } from "prom-client";
import type { Bell } from "../bell.ts";
import type { Orm } from "../db/orm.ts";
import { DomainError } from "../domain/errors.ts";
import type { Instant } from "../domain/time.ts";
import { createHolds, HOLD_MS } from "../log/hold.ts";
import { createPages, type Page } from "../log/pages.ts";
import { decodePosition, encodePosition, isLost, type Position } from "../log/position.ts";
import { BEGINNING } from "../log/snapshot.ts";
import { wholeLog } from "../log/whole-log.ts";
import type { Logger } from "../logger.ts";
import { toEventMessage } from "./event-message.ts";
import { connectJetStream, type JetStream, type JetStreamOptions } from "./jetstream.ts";

/** The sink's name in the database, to which its positions are bound. */
const SINK = "nats";
/** Between two reads, in milliseconds: after events, and after none. */
const BUSY_MS = 20;
const IDLE_MS = 100;
const KEEP_MS = 1_000;
/** Between two attempts to take a sink that another process holds. */
const STANDBY_MS = 1_000;
/** Between two attempts after failures. */
const SHORTEST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 5_000;

/** Publishes until it is disposed of, whatever fails meanwhile. Disposing gives the sink to another process. */
export function startNatsSink(
  orm: Orm,
  options: JetStreamOptions,
  deps: { log: Logger; registry: Registry; bell: Bell },
): AsyncDisposable {
  const { log, registry } = deps;
  const sinks = createHolds(orm);
  const pages = createPages(orm, wholeLog);
  const holder = randomUUID();
  const stopping = new AbortController();
  const { signal } = stopping;
  let failures = 0;
  /** When the oldest event known to this process and not yet published was recorded, in milliseconds. */
  let oldest: number | undefined;

  const published = new Counter({
    name: "entity_service_nats_published_total",
    help: "Events that NATS JetStream acknowledged",
    registers: [registry],
  });
  const failed = new Counter({
    name: "entity_service_nats_failures_total",
    help: "Attempts to publish to NATS JetStream that failed",
    registers: [registry],
  });
  new Gauge({
    name: "entity_service_nats_lag_seconds",
    help: "Age of the oldest event that waits to be published to NATS JetStream",
    registers: [registry],
    collect() {
      this.set(oldest === undefined ? 0 : Math.max(0, Date.now() - oldest) / 1_000);
    },
  });

  const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {});
  let rung = new AbortController();
  const endPause = () => rung.abort();
  deps.bell.hear(endPause);
  signal.addEventListener("abort", endPause, { once: true });
  /** At most until something is committed here; a ring since the last read counts. */
  const pauseUntilRung = async (ms: number) => {
    await sleep(ms, undefined, { signal: rung.signal }).catch(() => {});
  };

  async function run(): Promise<void> {
    while (!signal.aborted) {
      try {
        const heldUntil = performance.now() + HOLD_MS;
        const taken = await sinks.take(SINK, holder);
        if (taken === undefined) {
          oldest = undefined;
          await pause(STANDBY_MS);
          continue;
        }
        await publishFrom(taken.position, heldUntil);
      } catch (error) {
        if (signal.aborted) break;
        failed.inc();
        failures += 1;
        if (failures === 1) log.warn({ reason: reasonOf(error) }, "events do not reach NATS: they wait");
        await pause(Math.min(LONGEST_WAIT_MS, SHORTEST_WAIT_MS * 2 ** failures) * (0.5 + Math.random() / 2));
      }
    }
  }

  /** Publishes until that fails, another process holds the sink, or the service stops; then releases the sink. */
  async function publishFrom(stored: string | undefined, held: number): Promise<void> {
    let jetStream: JetStream | undefined;
    let position =
      stored === undefined
        ? await beginning()
        : ((await unlessLost(() => decodePosition(SINK, stored))) ?? (await beginningAgain()));
    let heldUntil = held;
    let kept = Promise.resolve();
    /** Stores the position and renews the hold; one after the other, so that no older position comes last. */
    const keep = () => {
      kept = kept
        .catch(() => {})
        .then(async () => {
          const until = performance.now() + HOLD_MS;
          heldUntil = (await sinks.keep(SINK, holder, encodePosition(SINK, position))) ? until : 0;
        });
      return kept;
    };
    // Beside the loop, which may wait for longer than the sink is held. A failure is one of the loop's next `keep`.
    const keeping = setInterval(() => void keep().catch(() => {}), KEEP_MS);
    try {
      while (!signal.aborted && performance.now() < heldUntil) {
        const began = performance.now();
        if (rung.signal.aborted) rung = new AbortController();
        const page = await unlessLost(() => pages.read(SINK, position));
        if (page === undefined) {
          position = await beginningAgain();
          await keep();
          continue;
        }
        const readMs = performance.now() - began;
        if (page.size > 0) {
          oldest ??= oldestOf(page);
          if (jetStream?.isOpen() !== true) jetStream = await connectJetStream(options);
          await jetStream.publish(page.rows.map(toEventMessage), signal);
          published.inc(page.size);
        }
        position = page.end;
        if (page.size > 0) await keep();
        if (failures > 0) log.info("events reach NATS again");
        failures = 0;
        if (page.more) continue;
        oldest = undefined;
        // With very many organizations a read takes its time: never more than a fifth of a processor.
        await pause(Math.max(BUSY_MS, 4 * readMs));
        if (page.size === 0) await pauseUntilRung(IDLE_MS - BUSY_MS);
      }
    } finally {
      clearInterval(keeping);
      // What is still in its buffers must not come after what the next one sends.
      await jetStream?.close().catch(() => {});
      await kept.catch(() => {});
      await sinks.release(SINK, holder).catch(() => {});
    }
  }

  function beginningAgain(): Promise<Position> {
    log.warn("nobody can tell how far the log was published to NATS, as after a restore: all of it is published again");
    return beginning();
  }

  async function beginning(): Promise<Position> {
    return { ...(await pages.head(SINK)), from: BEGINNING };
  }

  const running = run();
  return {
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await running;
    },
  };
}

/** Undefined where it is no longer known what came after the position. */
async function unlessLost<T>(work: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (isLost(error)) return undefined;
    throw error;
  }
}

function oldestOf(page: Page): number {
  let oldest: Instant | undefined;
  for (const { event } of page.rows) if (oldest === undefined || event.recordedAt < oldest) oldest = event.recordedAt;
  return Number((oldest ?? 0n) / 1_000n);
}

/** A reason of the contract, or what the client of NATS says, which names neither credentials nor subjects. */
function reasonOf(error: unknown): string {
  if (error instanceof DomainError) return error.reason;
  return error instanceof Error ? `${error.name}: ${error.message}` : "unknown";
}
