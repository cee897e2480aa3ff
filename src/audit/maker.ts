// Makes checkpoints of the logs of all organizations (rule 128), never in a writer's transaction. One of the processes that
// serve does it, the one with the hold: two that both believe they have it write no checkpoint twice.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { Counter, Gauge, type Registry } from "prom-client";
import { readAcross } from "../db/across.ts";
import type { Orm } from "../db/orm.ts";
import { CHECKPOINT_EVENTS } from "../domain/checkpoint.ts";
import { createHolds } from "../log/hold.ts";
import { makeCheckpoint } from "./make.ts";
import { createShortTurns } from "./short-turns.ts";
import type { SigningKey } from "./signing-key.ts";

/** The name of the hold. */
const HOLD = "audit-checkpoints";
/** Between two looks for work; the look takes at most a fiftieth of the time. */
const POLL_MS = 5_000;
const LOOK_SHARE = 50;
/** Between two attempts to take the hold of another process, and after a failure. */
const STANDBY_MS = 1_000;
const FAILED_MS = 5_000;
/** A hold of this age is renewed. */
const RENEW_MS = 1_000;
/** Organizations of one look, and checkpoints of one of them before the next one has its turn. */
const ORGANIZATIONS = 100;
const IN_A_ROW = 5;

export interface MakerOptions {
  /** How old the last checkpoint of an organization is before the next one is made; undefined: none is made here. */
  everySeconds: number | undefined;
  /** Undefined: checkpoints are not signed. */
  key: SigningKey | undefined;
  registry: Registry;
  log: Logger;
  /** What the log may know of an error. */
  describe(error: unknown): object;
}

/** Makes checkpoints until it is disposed of, whatever fails meanwhile. Disposing gives the hold to another process. */
export function startMaker(orm: Orm, options: MakerOptions): AsyncDisposable {
  const { everySeconds, key, registry, log, describe } = options;
  if (everySeconds === undefined) return { async [Symbol.asyncDispose]() {} };
  const holds = createHolds(orm);
  const holder = randomUUID();
  const turns = createShortTurns();
  const stopping = new AbortController();
  const { signal } = stopping;
  let renewedAt = 0;
  let isFailing = false;
  /** When the last look began after which nothing was left to do; undefined while another process makes the checkpoints. */
  let doneAt: number | undefined;
  const pollMs = Math.min(POLL_MS, (everySeconds * 1_000) / 4);
  const pause = (ms: number) => sleep(ms, undefined, { signal, ref: false }).catch(() => {});

  const made = new Counter({
    name: "entity_service_audit_checkpoints_total",
    help: "Checkpoints of the audit log that this process made",
    registers: [registry],
  });
  new Gauge({
    name: "entity_service_audit_behind_seconds",
    help: "For how long some organization has had events that are due to be in a checkpoint, in the process that makes them",
    registers: [registry],
    aggregator: "max",
    collect() {
      this.set(doneAt === undefined ? 0 : Math.max(0, performance.now() - doneAt - 2 * pollMs) / 1_000);
    },
  });

  /** Renews the hold where it is time to. */
  async function isHeld(): Promise<boolean> {
    if (signal.aborted) return false;
    if (performance.now() - renewedAt < RENEW_MS) return true;
    const began = performance.now();
    if (!(await holds.keep(HOLD, holder))) return false;
    renewedAt = began;
    return true;
  }

  /** Pauses and keeps the hold. */
  async function rest(ms: number): Promise<void> {
    const until = performance.now() + ms;
    while (performance.now() < until && (await isHeld()))
      await pause(Math.max(1, Math.min(RENEW_MS, until - performance.now())));
  }

  /** The checkpoints of one organization that are due, some of them. How many were made. */
  async function makeSome(organizationId: string): Promise<number> {
    for (let count = 0; count < IN_A_ROW; count++) {
      if (!(await isHeld())) return count;
      const next = await makeCheckpoint(orm, organizationId, { key, turns });
      if (next.isMade) made.inc();
      if (!next.isMore) return count + (next.isMade ? 1 : 0);
    }
    return IN_A_ROW;
  }

  /** One look for work, and the work. An organization that fails holds up no other. */
  async function makeDue(): Promise<void> {
    const began = performance.now();
    const rows = await readAcross(orm, (db) =>
      db.execute<{ organization_id: string }[]>("select organization_id from list_audit_work($1::interval, $2, $3)", [
        `${everySeconds} seconds`,
        CHECKPOINT_EVENTS,
        ORGANIZATIONS,
      ]),
    );
    const lookMs = performance.now() - began;
    let count = 0;
    const failures: unknown[] = [];
    for (const { organization_id: organizationId } of rows) {
      try {
        count += await makeSome(organizationId);
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
    isFailing = false;
    // Work that nobody can do is none: events of an epoch that has not come.
    if (count === 0) doneAt = began;
    await rest(count === 0 ? Math.max(pollMs, lookMs * LOOK_SHARE) : lookMs);
  }

  async function makeWhileHeld(): Promise<void> {
    try {
      while (await isHeld()) await makeDue();
    } finally {
      await holds.release(HOLD, holder).catch(() => {});
    }
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      try {
        const began = performance.now();
        if ((await holds.take(HOLD, holder)) === undefined) {
          doneAt = undefined;
          await pause(STANDBY_MS);
          continue;
        }
        renewedAt = began;
        doneAt ??= began;
        await makeWhileHeld();
      } catch (error) {
        if (signal.aborted) break;
        if (!isFailing) log.warn({ error: describe(error) }, "checkpoints of the audit log cannot be made: they wait");
        isFailing = true;
        await pause(FAILED_MS);
      }
    }
  }

  const running = run();
  return {
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await running;
    },
  };
}
