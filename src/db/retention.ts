// What is pruned by age, and the loop that does it: in small steps with rests between them, so that calls do not
// notice; by one process at a time, since each function of the database takes a lock.
import { setTimeout as sleep } from "node:timers/promises";
import { DomainError } from "../domain/errors.ts";
import { managerAcross } from "./across.ts";
import { sqlState, toReason } from "./failures.ts";
import type { Orm } from "./orm.ts";

/** The leaves of one checkpoint count for so many small rows. */
const LARGE = 50;

/**
 * Each a function that removes at most `rows` rows, decides itself which are old, and returns whose they were; it removes
 * none while another process runs it.
 */
const prunable = ({ rows, webhookLogDays }: Pick<PrunerOptions, "rows" | "webhookLogDays">) => [
  { what: "events", call: "prune_events($1::int)", rows, more: [] },
  { what: "leaves of checkpoints", call: "prune_checkpoint_leaves($1::int)", rows: Math.ceil(rows / LARGE), more: [] },
  { what: "request ids", call: "prune_request_records($1::int)", rows, more: [] },
  { what: "webhook deliveries", call: "prune_webhook_deliveries($1::int, $2::int)", rows, more: [webhookLogDays] },
];
type Prunable = ReturnType<typeof prunable>[number];

/** Pause between steps: `times` the duration of the step, at least `atLeastMs`. */
const REST = { times: 4, atLeastMs: 20 };

export interface PrunerOptions {
  /** Between two runs, give or take a half. */
  intervalMs: number;
  /** Rows per step. */
  rows: number;
  /** How long the outcomes of webhooks are kept. */
  webhookLogDays: number;
  /** Gets a line for each run that removed something, and for one that failed. */
  log: {
    info(what: { pruned: string; rows: number; organization: string }, message: string): void;
    warn(what: { reason: string; code: string | undefined }, message: string): void;
  };
}

/** Prunes until it is disposed, which waits for the step that is under way. */
export function startPruner(orm: Orm, options: PrunerOptions): AsyncDisposable {
  const { intervalMs, log } = options;
  const stop = new AbortController();
  const { signal } = stop;
  const pause = (ms: number) => sleep(ms, undefined, { signal, ref: false }).catch(() => {});

  /** All that is old now. */
  async function prune({ what, call, rows, more }: Prunable): Promise<void> {
    const removed = new Map<string, number>();
    try {
      for (let isMore = true; isMore && !signal.aborted; ) {
        const from = performance.now();
        const em = managerAcross(orm);
        const found = await em.execute<{ organization_id: string; pruned: number }[]>(
          `select organization_id, pruned::int from ${call}`,
          [rows, ...more],
        );
        let count = 0;
        for (const { organization_id: id, pruned } of found) {
          removed.set(id, (removed.get(id) ?? 0) + pruned);
          count += pruned;
        }
        isMore = count >= rows;
        if (isMore) await pause(Math.max(REST.atLeastMs, REST.times * (performance.now() - from)));
      }
    } finally {
      for (const [organization, count] of removed) log.info({ pruned: what, rows: count, organization }, "pruned");
    }
  }

  async function run(): Promise<void> {
    for (;;) {
      await pause(intervalMs * (0.5 + Math.random()));
      for (const one of prunable(options)) {
        if (signal.aborted) return;
        try {
          await prune(one);
        } catch (error) {
          const reason = toReason(error, "write");
          log.warn(
            { reason: reason instanceof DomainError ? reason.reason : "INTERNAL", code: sqlState(error) },
            `could not prune ${one.what}`,
          );
        }
      }
    }
  }

  const ended = run();
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await ended;
    },
  };
}
