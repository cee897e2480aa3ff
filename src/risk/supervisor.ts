// The thread of the rules as the process sees it: it is given jobs in batches, with what it has not read yet, and
// ended where one of them takes too long or too much.
import { Worker } from "node:worker_threads";
import { type Answers, type Batch, type Done, type Job, PLACE } from "./thread.ts";

/** A matrix as it is run. */
export interface RunMatrix {
  /** Names it and its version, among all organizations. */
  key: string;
  expressions: string[];
}

export type Departure = Pick<AbortSignal, "aborted" | "reason">;

export interface Waiting {
  organizationId: string;
  job: Job;
  matrix: RunMatrix | undefined;
  bytes: number;
  signal: Departure | undefined;
  resolve: (done: Done) => void;
  reject: (error: unknown) => void;
}

const LOOK_MS = 50;
/** A job may take so many times its own time where others have the cores. */
const WALL_TIMES = 5;
/** The heap of the thread: who needs more is cut off like who takes too long. */
const HEAP_MB = 256;

/** Of the matrices that the thread keeps, and that one batch may name: one of the largest in any case. */
export const KEPT_CHARACTERS = 450_000;
/** Charged for what a matrix and each of its rules take beside their characters. */
const OVERHEAD = { matrix: 1_000, rule: 200 };
export const sum = (sizes: Iterable<number>) => [...sizes].reduce((total, size) => total + size, 0);
export const sizeOf = ({ expressions }: RunMatrix) =>
  OVERHEAD.matrix + sum(expressions.map(({ length }) => OVERHEAD.rule + length));

/** A thread that lives until it takes too long over a job. */
export interface Thread {
  isBusy: boolean;
  /** Runs jobs while it is not busy: `settled` is told of each that has its answer, `left` in the end of those without. */
  run(batch: Waiting[], settled: (one: Waiting) => void, left: (rest: Waiting[]) => void): void;
  end(): Promise<unknown>;
}

export function openThread(
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
  let running:
    | { batch: Waiting[]; answered: number; settled: (one: Waiting) => void; left: (rest: Waiting[]) => void }
    | undefined;
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
  worker.on("message", ({ from, done, isLast }: Answers) => {
    if (hasEnded || running === undefined) return;
    const { batch, settled, left } = running;
    running.answered = from + done.length;
    if (isLast) {
      running = undefined;
      clearInterval(clock);
    }
    done.forEach((one, i) => {
      const waiting = batch[from + i] as Waiting;
      settled(waiting);
      waiting.resolve(one);
    });
    if (isLast) left(batch.slice(from + done.length));
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

  /** The turn of the job at which the thread is; none where it has not begun, or nobody has read its answers yet. */
  const turnNow = () => (Atomics.load(place, PLACE.isBusy) === 1 ? Atomics.load(place, PLACE.turn) : undefined);

  /** Ends the thread where one turn takes too long, by the time that the thread itself has had. */
  function look(): () => void {
    let seen: { turn: number | undefined; since: number; had: number | undefined } | undefined;
    return () => {
      const turn = turnNow();
      const now = performance.now();
      if (turn === undefined || seen?.turn !== turn) {
        seen = { turn, since: now, had: undefined };
        return;
      }
      const at = seen;
      if (now - at.since >= clockMs * WALL_TIMES) return fail(undefined);
      worker.cpuUsage().then(
        ({ user, system }) => {
          // Of another turn already?
          if (turnNow() !== turn || seen !== at) return;
          const had = (user + system) / 1_000;
          at.had ??= had;
          if (had - at.had >= clockMs) fail(undefined);
        },
        () => {
          // It has ended.
        },
      );
    };
  }

  return {
    get isBusy() {
      return running !== undefined;
    },
    run(batch, settled, left) {
      running = { batch, answered: 0, settled, left };
      worker.postMessage(batchOf(batch));
      clock = setInterval(look(), LOOK_MS);
    },
    end() {
      hasEnded = true;
      clearInterval(clock);
      return worker.terminate();
    },
  };
}
