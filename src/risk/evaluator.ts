// Expressions are read and run in one thread of the process, which can be ended: the library cannot be interrupted. What
// waits for it is bounded in number and in bytes, in fair shares of the organizations, who take turns.
import { Worker } from "node:worker_threads";
import { overloaded } from "../domain/errors.ts";
import type { RuleAnswer } from "../domain/risk.ts";
import { createShares } from "../domain/shares.ts";
import type { ExpressionFacts } from "./expressions.ts";
import { type Answers, type Batch, type Done, type Job, PLACE } from "./thread.ts";

/** A matrix as it is run. */
export interface RunMatrix {
  /** Names it and its version, among all organizations. */
  key: string;
  expressions: string[];
}

type Departure = Pick<AbortSignal, "aborted" | "reason">;

export interface Evaluator extends AsyncDisposable {
  /** Rule 144: what is wrong with each expression. */
  check(organizationId: string, expressions: readonly string[]): Promise<ExpressionFacts[]>;
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
const LOOK_MS = 50;
/** Bytes of what waits or is run, of all organizations: entities as JSON, in UTF-16, and expressions to be checked. */
export const QUEUE_BYTES = 32 * 1024 * 1024;
/** Analyses and expressions of one organization that wait. */
const MAX_WAITING = 1_000;
/** Jobs that are sent to the thread at once, and their bytes. */
const MAX_BATCH = { jobs: 32, bytes: 1024 * 1024 };
/** Of the matrices that the thread keeps, and that one batch may name: one of the largest in any case. */
const KEPT_CHARACTERS = 450_000;
/** Charged for what a matrix and each of its rules take beside their characters. */
const OVERHEAD = { matrix: 1_000, rule: 200 };
/** So long an organization steps aside for the others after one of its jobs took too long. */
const ASIDE_MS = 3_000;
/** The heap of the thread: who needs more is cut off like who takes too long. */
const HEAP_MB = 256;

interface Waiting {
  organizationId: string;
  job: Job;
  matrix: RunMatrix | undefined;
  bytes: number;
  signal: Departure | undefined;
  resolve: (done: Done) => void;
  reject: (error: unknown) => void;
}

export function createEvaluator({ clockMs = CLOCK_MS }: { clockMs?: number } = {}): Evaluator {
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
    if (batch.length > 0) thread.run(batch, settled, start);
  }

  const settled = (one: Waiting) => shares.give({ organization: one.organizationId }, one.bytes);

  /** The thread has ended: over `culprit`, unless it could not be started at all. */
  function failed(batch: readonly Waiting[], culprit: { index: number; rule: number } | Error): void {
    thread = undefined;
    const left: Waiting[] = [];
    batch.forEach((one, i) => {
      if (!(culprit instanceof Error) && i !== culprit.index) return left.push(one);
      settled(one);
      one.reject(culprit instanceof Error ? culprit : new TooLong(culprit.rule));
      if (!(culprit instanceof Error)) aside.set(one.organizationId, performance.now() + ASIDE_MS);
    });
    for (const one of left.reverse()) queueOf(one.organizationId).unshift(one);
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
        settled(one);
        one.reject(one.signal.reason);
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
    check: (organizationId, expressions) =>
      Promise.all(
        expressions.map((expression) => add(organizationId, { kind: "check", expression }, undefined)),
      ) as Promise<ExpressionFacts[]>,
    run: (organizationId, matrix, variables, signal) =>
      add(organizationId, { kind: "run", matrix: matrix.key, ...variables }, matrix, signal) as Promise<RuleAnswer[]>,
    async [Symbol.asyncDispose]() {
      isClosed = true;
      await thread?.end();
    },
  };
}

const sum = (sizes: Iterable<number>) => [...sizes].reduce((total, size) => total + size, 0);
const sizeOf = ({ expressions }: RunMatrix) =>
  OVERHEAD.matrix + sum(expressions.map(({ length }) => OVERHEAD.rule + length));

/** A thread that lives until it takes too long over a job. */
interface Thread {
  isBusy: boolean;
  /** Runs jobs while it is not busy; `settled` is told of each that has its answer, `idle` when all have. */
  run(batch: Waiting[], settled: (one: Waiting) => void, idle: () => void): void;
  end(): Promise<unknown>;
}

function openThread(
  clockMs: number,
  failed: (batch: readonly Waiting[], culprit: { index: number; rule: number } | Error) => void,
): Thread {
  const memory = new SharedArrayBuffer(Object.keys(PLACE).length * Int32Array.BYTES_PER_ELEMENT);
  const place = new Int32Array(memory);
  const worker = new Worker(new URL("./thread.ts", import.meta.url), {
    workerData: memory,
    name: "risk",
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
  // What waits for it keeps the process; it alone does not.
  worker.unref();
  /** The sizes of the matrices that it has, by their keys, the one that was used last at the end. */
  const kept = new Map<string, number>();
  let hasEnded = false;
  let running: { batch: Waiting[]; answered: number; settled: (one: Waiting) => void; idle: () => void } | undefined;
  let clock: NodeJS.Timeout | undefined;

  /** Ends it, and hands back the jobs without an answer. */
  function fail(error: Error | undefined): void {
    if (hasEnded) return;
    hasEnded = true;
    clearInterval(clock);
    const { batch = [], answered = 0 } = running ?? {};
    const index = Atomics.load(place, PLACE.job);
    const isAtJob = Atomics.load(place, PLACE.isBusy) === 1 && index >= answered;
    const culprit = isAtJob
      ? { index: index - answered, rule: Atomics.load(place, PLACE.rule) }
      : (error ?? new Error("the thread of the rules has ended"));
    void worker.terminate();
    failed(batch.slice(answered), culprit);
  }

  worker.on("error", (error) => fail(error as Error));
  worker.on("exit", () => fail(undefined));
  worker.on("message", ({ from, done }: Answers) => {
    if (hasEnded || running === undefined) return;
    const { batch, settled, idle } = running;
    running.answered = from + done.length;
    if (running.answered === batch.length) {
      running = undefined;
      clearInterval(clock);
    }
    done.forEach((one, i) => {
      const waiting = batch[from + i] as Waiting;
      settled(waiting);
      waiting.resolve(one);
    });
    if (running === undefined) idle();
  });

  /** What the thread needs to know beside the jobs; the matrices that were used longest ago make room. */
  function batchOf(waiting: readonly Waiting[]): Batch {
    const batch: Batch = { matrices: [], forget: [], jobs: waiting.map(({ job }) => job) };
    const named = new Set<string>();
    for (const { matrix } of waiting) {
      if (matrix === undefined || named.has(matrix.key)) continue;
      named.add(matrix.key);
      if (!kept.delete(matrix.key)) batch.matrices.push(matrix);
      kept.set(matrix.key, sizeOf(matrix));
    }
    let total = sum(kept.values());
    for (const [key, characters] of kept) {
      if (total <= KEPT_CHARACTERS) break;
      if (named.has(key)) continue;
      kept.delete(key);
      batch.forget.push(key);
      total -= characters;
    }
    return batch;
  }

  return {
    get isBusy() {
      return running !== undefined;
    },
    run(batch, settled, idle) {
      running = { batch, answered: 0, settled, idle };
      worker.postMessage(batchOf(batch));
      let [turn, since] = [Atomics.load(place, PLACE.turn), performance.now()];
      clock = setInterval(() => {
        const now = Atomics.load(place, PLACE.turn);
        // It has not begun yet, or is done and nobody has read its answers.
        if (now !== turn || Atomics.load(place, PLACE.isBusy) === 0) [turn, since] = [now, performance.now()];
        else if (performance.now() - since >= clockMs) fail(undefined);
      }, LOOK_MS);
    },
    end() {
      hasEnded = true;
      clearInterval(clock);
      return worker.terminate();
    },
  };
}
