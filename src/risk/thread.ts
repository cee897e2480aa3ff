// The thread in which expressions are read and run. It does one thing after the other and says where it is in memory that
// it shares with the process, which ends it where one of them takes too long (supervisor.ts).
import { readlinkSync } from "node:fs";
import { constants, setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import type { RuleAnswer } from "../domain/risk.ts";
import { createExpressions, type ExpressionFacts, type RunRules, toInput } from "./expressions.ts";

/** Where the thread is, in the shared memory. */
export const PLACE = { isBusy: 0, turn: 1, job: 2, rule: 3 };

export type Job =
  | { kind: "check"; expression: string }
  /** `entity` is JSON. */
  | { kind: "run"; matrix: string; entity: string; today: string };

/** Jobs in their order, with the expressions of matrices that they are the first to name, and matrices to forget before. */
export interface Batch {
  matrices: { key: string; expressions: string[] }[];
  forget: string[];
  jobs: Job[];
}

/** What an expression is, and how long it took to read, in milliseconds of the thread's own time. */
export interface Checked {
  facts: ExpressionFacts;
  tookMs: number;
}

export type Done = Checked | RuleAnswer[];

/** Answers of jobs, from the one with the index `from` on. */
export interface Answers {
  from: number;
  done: Done[];
  /** The thread is free: it gives back the jobs that have no answer. */
  isLast: boolean;
}

/** What is done is told at least so often: nobody waits for a long job that comes behind. */
const TELL_MS = 5;
/** After so long it leaves the rest of a batch to later turns: those of whom has long jobs come one by one. */
const WORK_MS = 50;

function serve(port: NonNullable<typeof parentPort>, place: Int32Array): void {
  const expressions = createExpressions();
  /** Those that nobody has asked for yet are not read: whose they are, is whose time that takes. */
  const matrices = new Map<string, { expressions: string[]; run?: RunRules }>();
  const enter = (job: number, rule: number) => {
    Atomics.store(place, PLACE.job, job);
    Atomics.store(place, PLACE.rule, rule);
    Atomics.add(place, PLACE.turn, 1);
  };
  const doneOf = (job: Job, i: number): Done => {
    enter(i, 0);
    if (job.kind === "check") {
      const begun = ownMs();
      const facts = expressions.check(job.expression);
      return { facts, tookMs: ownMs() - begun };
    }
    const matrix = matrices.get(job.matrix);
    if (matrix === undefined) throw new Error("a matrix is not there");
    if (matrix.run === undefined) {
      // Each by itself has the time: a matrix within its bounds can always be read.
      matrix.run = expressions.compile(matrix.expressions, (rule) => enter(i, rule));
      enter(i, 0);
    }
    const variables = { entity: toInput(JSON.parse(job.entity)), today: job.today };
    return matrix.run(variables, (rule) => Atomics.store(place, PLACE.rule, rule));
  };
  port.on("message", (batch: Batch) => {
    Atomics.store(place, PLACE.isBusy, 1);
    for (const key of batch.forget) matrices.delete(key);
    for (const { key, expressions } of batch.matrices) matrices.set(key, { expressions });
    let answers: Answers = { from: 0, done: [], isLast: false };
    const begunAt = performance.now();
    let toldAt = begunAt;
    for (const [i, job] of batch.jobs.entries()) {
      answers.done.push(doneOf(job, i));
      const now = performance.now();
      if (now - begunAt >= WORK_MS || i === batch.jobs.length - 1) break;
      if (now - toldAt < TELL_MS) continue;
      port.postMessage(answers);
      [answers, toldAt] = [{ from: i + 1, done: [], isLast: false }, now];
    }
    // Before the answers: whoever reads them may send the next batch.
    Atomics.store(place, PLACE.isBusy, 0);
    port.postMessage({ ...answers, isLast: true });
  });
}

function ownMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1_000;
}

/** Calls come first where cores are few. Linux has priorities of threads; elsewhere it is as all others. */
function giveWay(): void {
  try {
    const [, , thread] = readlinkSync("/proc/thread-self").split("/");
    setPriority(Number(thread), constants.priority.PRIORITY_BELOW_NORMAL);
  } catch {
    // No such priorities, or none that may be set.
  }
}

if (parentPort !== null) {
  giveWay();
  serve(parentPort, new Int32Array(workerData as SharedArrayBuffer));
}
