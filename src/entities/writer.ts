// Writes that meet commit together: commands that arrive while a unit of work of their organization is
// under way form the next one. Group commit, one level up; each keeps its own answer and its own refusal.

import { type Bell, createBell } from "../bell.ts";
import type { Orm } from "../db/orm.ts";
import type { TransactionOptions } from "../db/transaction.ts";
import { overloaded } from "../domain/errors.ts";
import { createSlots, type Slots } from "../slots.ts";
import type { Command, Result } from "./command.ts";
import { heldByOthers, writeGroup, writeGroupUnlessBusy, writeGroupWaiting } from "./write-group.ts";

export interface Writer {
  /** What became of the command. Rejects for failures of the service or the database, with OVERLOADED where too many of the organization wait, and when the signal is aborted before its turn. */
  write(organizationId: string, command: Command, options?: TransactionOptions): Promise<Answered>;
}

/** A result that is an answer to the caller. */
export type Answered = Exclude<Result, { kind: "failed" }>;

/** Groups of one organization at a time: one decides while the other commits. */
const GROUPS_PER_ORGANIZATION = 2;
const MAX_GROUP = 128;
/** Commands of one organization that wait. */
const MAX_WAITING = 1_000;

export interface WriterOptions {
  /** Bounds the rehearsals, which run alone and may wait for locks. */
  slots?: Slots;
  /** Bounds the groups that wait for locks. */
  busySlots?: Slots;
  /** How long a command waits for locked entities: the lock timeout of the database session. */
  lockTimeoutMs?: number;
  /** Rung after each transaction that may have written. */
  bell?: Bell;
}

interface Waiting {
  command: Command;
  /** performance.now() when it arrived. */
  since: number;
  resolve: (result: Answered) => void;
  reject: (error: unknown) => void;
}

interface Queue {
  waiting: Waiting[];
  running: number;
  /** Commands on locked entities: these wait, and delay no others. */
  busy: Waiting[];
  isWaiting: boolean;
}

export function createWriter(orm: Orm, options: WriterOptions = {}): Writer {
  const { slots = createSlots(1), busySlots = createSlots(1), lockTimeoutMs = 2_000, bell = createBell() } = options;
  const queues = new Map<string, Queue>();

  async function run(organizationId: string, queue: Queue): Promise<void> {
    while (queue.waiting.length > 0) {
      await together(queue.waiting.splice(0, MAX_GROUP), (commands) =>
        writeGroupUnlessBusy(orm, organizationId, commands),
      ).then((busy) => queue.busy.push(...busy));
      bell.ring(organizationId);
      if (queue.busy.length > 0 && !queue.isWaiting) {
        queue.isWaiting = true;
        void runBusy(organizationId, queue);
      }
    }
    queue.running -= 1;
    forget(organizationId, queue);
  }

  /**
   * One group of an organization waits for locks at a time, with one connection, however many there are. It waits for
   * no longer than its oldest command may; those that came later wait on with the next group.
   */
  async function runBusy(organizationId: string, queue: Queue): Promise<void> {
    while (queue.busy.length > 0) {
      await busySlots(organizationId, async () => {
        const group = queue.busy.splice(0, MAX_GROUP);
        const oldest = Math.min(...group.map(({ since }) => since));
        const busy = await together(group, (commands) =>
          writeGroupWaiting(orm, organizationId, commands, { waitedMs: performance.now() - oldest }),
        );
        for (const one of busy) {
          if (performance.now() - one.since < lockTimeoutMs) queue.busy.push(one);
          else one.resolve({ kind: "refused", error: heldByOthers() });
        }
      });
      bell.ring(organizationId);
    }
    queue.isWaiting = false;
    forget(organizationId, queue);
  }

  function forget(organizationId: string, queue: Queue): void {
    if (queue.running === 0 && !queue.isWaiting) queues.delete(organizationId);
  }

  return {
    async write(organizationId, given, options = {}) {
      // A call past its deadline joins no group. Once it has joined, the group goes on even if its caller disconnects.
      const command = { ...given, signal: given.signal ?? options.signal };
      if (options.validateOnly) {
        const since = performance.now();
        const rehearse = () =>
          writeGroup(orm, organizationId, [command], { ...options, waitedMs: performance.now() - since });
        const [result] = await slots(organizationId, rehearse, options);
        if (result?.kind === "failed") throw result.error;
        return result as Answered;
      }
      let queue = queues.get(organizationId);
      if (queue === undefined) {
        queue = { waiting: [], running: 0, busy: [], isWaiting: false };
        queues.set(organizationId, queue);
      }
      const { waiting, busy } = queue;
      if (waiting.length + busy.length >= MAX_WAITING) {
        for (const list of [waiting, busy]) dropAborted(list);
        if (waiting.length + busy.length >= MAX_WAITING) throw overloaded("Too many writes of the organization wait");
      }
      const written = new Promise<Answered>((resolve, reject) =>
        waiting.push({ command, since: performance.now(), resolve, reject }),
      );
      if (queue.running < GROUPS_PER_ORGANIZATION) {
        queue.running += 1;
        const starting = queue;
        // After the input that has arrived with this call: its commands join at once.
        setImmediate(() => void run(organizationId, starting));
      }
      return written;
    },
  };
}

/** Removes those whose callers have disconnected. */
function dropAborted(list: Waiting[]): void {
  for (const one of list.splice(0)) {
    const { signal } = one.command;
    if (signal?.aborted) one.reject(signal.reason);
    else list.push(one);
  }
}

/** Writes a group and tells each caller its result; busy commands are returned. */
async function together(
  group: readonly Waiting[],
  work: (commands: Command[]) => Promise<(Result | "busy")[]>,
): Promise<Waiting[]> {
  let results: (Result | "busy")[];
  try {
    results = await work(group.map(({ command }) => command));
  } catch (error) {
    for (const { reject } of group) reject(error);
    return [];
  }
  return group.filter(({ resolve, reject }, i) => {
    const result = results[i] as Result | "busy";
    if (result === "busy") return true;
    if (result.kind === "failed") reject(result.error);
    else resolve(result);
    return false;
  });
}
