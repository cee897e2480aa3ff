// Expressions are read and run in one thread of the process, which can be ended: the library cannot be interrupted. What
// waits for it is bounded in number and in bytes, in fair shares of the organizations, who take turns.
import { overloaded } from "../domain/errors.ts";
import type { RuleAnswer } from "../domain/risk.ts";
import { createShares } from "../domain/shares.ts";
import type { ExpressionFacts } from "./expressions.ts";
import {
  type Departure,
  KEPT_CHARACTERS,
  openThread,
  type RunMatrix,
  sizeOf,
  sum,
  type Thread,
  type Waiting,
} from "./supervisor.ts";
import type { Checked, Done, Job } from "./thread.ts";

export interface Evaluator extends AsyncDisposable {
  /** Rule 144: what is wrong with each expression. Rejects with TooLong where one of them, or all together, take too long. */
  check(organizationId: string, expressions: readonly string[], signal?: Departure): Promise<ExpressionFacts[]>;
  /**
   * The answers of the expressions about an entity, which is JSON. Rejects with TooLong where they took too long, and with
   * OVERLOADED where too much of the organization waits.
   */
  run(
    organizationId: string,
    matrix: RunMatrix,
    variables: { entity: string; today: string },
    signal?: Departure,
  ): Promise<RuleAnswer[]>;
}

/** A rule, by its index, took too long. */
export class TooLong extends Error {
  override readonly name = "TooLong";
  readonly rule: number;

  constructor(rule: number) {
    super("a rule took too long");
    this.rule = rule;
  }
}

/** The longest that all rules may take over one entity. */
const CLOCK_MS = 1_000;
/** The longest that the expressions of a matrix may take to read, all together. */
const READ_MS = 8_000;
/** Bytes of what waits or is run, of all organizations: entities as JSON, in UTF-16, and expressions to be checked. */
export const QUEUE_BYTES = 32 * 1024 * 1024;
/** Analyses and expressions of one organization that wait. */
const MAX_WAITING = 1_000;
/** Jobs that are sent to the thread at once, and their bytes. */
const MAX_BATCH = { jobs: 32, bytes: 1024 * 1024 };
/** So long an organization steps aside for the others after one of its jobs took too long. */
const ASIDE_MS = 3_000;

export function createEvaluator({ clockMs = CLOCK_MS, readMs = READ_MS } = {}): Evaluator {
  const shares = createShares(QUEUE_BYTES);
  /** In the order of their turns. */
  const queues = new Map<string, Waiting[]>();
  /** Until then, by performance.now(), others come first. */
  const aside = new Map<string, number>();
  let thread: Thread | undefined;
  let isClosed = false;

  function start(): void {
    if (isClosed || queues.size === 0 || thread?.isBusy) return;
    thread ??= openThread(clockMs, failed);
    const batch = next();
    if (batch.length > 0) thread.run(batch, settled, left);
  }

  const settled = (one: Waiting) => shares.give({ organization: one.organizationId }, one.bytes);

  const leave = (one: Waiting) => {
    settled(one);
    one.reject(one.signal?.reason);
  };

  /** The thread has ended: over `culprit`, unless it could not be started at all. */
  function failed(batch: readonly Waiting[], culprit: { index: number; rule: number } | Error): void {
    thread = undefined;
    const rest: Waiting[] = [];
    batch.forEach((one, i) => {
      if (!(culprit instanceof Error) && i !== culprit.index) return rest.push(one);
      settled(one);
      one.reject(culprit instanceof Error ? culprit : new TooLong(culprit.rule));
      if (!(culprit instanceof Error)) aside.set(one.organizationId, performance.now() + ASIDE_MS);
    });
    left(rest);
  }

  /** Those of a batch that were not run have their turns before all others, in their order. */
  function left(rest: readonly Waiting[]): void {
    const behind = [...queues];
    queues.clear();
    for (const one of rest) queueOf(one.organizationId).push(one);
    for (const [organizationId, queue] of behind) queueOf(organizationId).push(...queue);
    start();
  }

  function queueOf(organizationId: string): Waiting[] {
    const queue = queues.get(organizationId) ?? [];
    queues.set(organizationId, queue);
    return queue;
  }

  /** One job of each organization in turn, as many as there is room for. */
  function next(): Waiting[] {
    const batch: Waiting[] = [];
    const named = new Map<string, number>();
    let bytes = 0;
    const now = performance.now();
    for (const [organizationId, until] of aside) if (until <= now) aside.delete(organizationId);
    const isAside = (organizationId: string) => aside.has(organizationId);
    while (queues.size > 0 && batch.length < MAX_BATCH.jobs && bytes < MAX_BATCH.bytes) {
      const names = [...queues.keys()];
      const organizationId = names.find((name) => !isAside(name)) ?? (batch.length === 0 ? names[0] : undefined);
      if (organizationId === undefined) break;
      const queue = queueOf(organizationId);
      const matrix = queue[0]?.matrix;
      if (matrix !== undefined) named.set(matrix.key, sizeOf(matrix));
      if (batch.length > 0 && sum(named.values()) > KEPT_CHARACTERS) break;
      const one = queue.shift();
      // To the end of the turns.
      queues.delete(organizationId);
      if (queue.length > 0) queues.set(organizationId, queue);
      if (one === undefined) continue;
      if (one.signal?.aborted) {
        leave(one);
        continue;
      }
      batch.push(one);
      bytes += one.bytes;
    }
    return batch;
  }

  function add(organizationId: string, job: Job, matrix: RunMatrix | undefined, signal?: Departure): Promise<Done> {
    const text = job.kind === "check" ? job.expression : job.entity;
    const bytes = text.length * 2;
    const isFull = (queues.get(organizationId)?.length ?? 0) >= MAX_WAITING;
    if (isFull || !shares.take({ organization: organizationId }, bytes)) {
      return Promise.reject(overloaded("Too many analyses wait"));
    }
    return new Promise<Done>((resolve, reject) => {
      queueOf(organizationId).push({ organizationId, job, matrix, bytes, signal, resolve, reject });
      start();
    });
  }

  return {
    async check(organizationId, expressions, signal) {
      let refusal: unknown;
      let took = 0;
      // Of no use without the others.
      const all: Departure = {
        get aborted() {
          return refusal !== undefined || signal?.aborted === true;
        },
        get reason() {
          return refusal ?? signal?.reason;
        },
      };
      try {
        const checked = expressions.map(async (expression, i) => {
          const { facts, tookMs } = (await add(
            organizationId,
            { kind: "check", expression },
            undefined,
            all,
          )) as Checked;
          took += tookMs;
          if (took > readMs) throw new TooLong(i);
          return facts;
        });
        return await Promise.all(checked);
      } catch (error) {
        refusal = error;
        const queue = queues.get(organizationId) ?? [];
        for (const one of queue.splice(0)) {
          if (one.signal === all) leave(one);
          else queue.push(one);
        }
        throw error;
      }
    },
    run: (organizationId, matrix, variables, signal) =>
      add(organizationId, { kind: "run", matrix: matrix.key, ...variables }, matrix, signal) as Promise<RuleAnswer[]>,
    async [Symbol.asyncDispose]() {
      isClosed = true;
      await thread?.end();
    },
  };
}
