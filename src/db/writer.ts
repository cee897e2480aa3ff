// Writes that meet commit together: commands that arrive while a unit of work of their organization is
// under way form the next one. Group commit, one level up; each keeps its own answer and its own refusal.
import type { Orm } from "./orm.ts";
import type { Slots } from "./slots.ts";
import type { TransactionOptions } from "./transaction.ts";
import { type Command, type Result, writeGroup, writeGroupUnlessBusy } from "./unit-of-work.ts";

export interface Writer {
  /** What became of the command. Rejects for failures of the service or the database, and when the signal is aborted before its turn. */
  write(organizationId: string, command: Command, options?: TransactionOptions): Promise<Result>;
}

/** Groups of one organization at a time: one decides while the other commits. */
const GROUPS_PER_ORGANIZATION = 2;
const MAX_GROUP = 128;

interface Waiting {
  command: Command;
  signal: AbortSignal | undefined;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

interface Queue {
  waiting: Waiting[];
  running: number;
  /** On entities that others hold: these wait, and keep nobody else waiting. */
  busy: Waiting[];
  isWaiting: boolean;
}

/** `slots` bounds the rehearsals, which run alone. */
export function createWriter(orm: Orm, slots: Slots): Writer {
  const queues = new Map<string, Queue>();

  async function run(organizationId: string, queue: Queue): Promise<void> {
    while (queue.waiting.length > 0) {
      const group = take(queue.waiting);
      if (group.length > 0) await runTogether(organizationId, queue, group);
    }
    queue.running -= 1;
    forget(organizationId, queue);
  }

  async function runTogether(organizationId: string, queue: Queue, group: readonly Waiting[]): Promise<void> {
    try {
      const commands = group.map(({ command }) => command);
      const results = await writeGroupUnlessBusy(orm, organizationId, commands);
      group.forEach((waiting, i) => {
        const result = results[i] as Result | "busy";
        if (result === "busy") queue.busy.push(waiting);
        else waiting.resolve(result);
      });
    } catch (error) {
      for (const { reject } of group) reject(error);
    }
    if (queue.busy.length > 0 && !queue.isWaiting) {
      queue.isWaiting = true;
      void runBusy(organizationId, queue);
    }
  }

  /** One group of an organization waits for locks at a time, with one connection, however many there are. */
  async function runBusy(organizationId: string, queue: Queue): Promise<void> {
    while (queue.busy.length > 0) {
      const group = take(queue.busy);
      try {
        const commands = group.map(({ command }) => command);
        const results = await writeGroup(orm, organizationId, commands);
        group.forEach(({ resolve }, i) => resolve(results[i] as Result));
      } catch (error) {
        for (const { reject } of group) reject(error);
      }
    }
    queue.isWaiting = false;
    forget(organizationId, queue);
  }

  function forget(organizationId: string, queue: Queue): void {
    if (queue.running === 0 && !queue.isWaiting) queues.delete(organizationId);
  }

  return {
    async write(organizationId, command, options = {}) {
      if (options.validateOnly) {
        const [result] = await slots(() => writeGroup(orm, organizationId, [command], options));
        return result as Result;
      }
      let queue = queues.get(organizationId);
      if (queue === undefined) {
        queue = { waiting: [], running: 0, busy: [], isWaiting: false };
        queues.set(organizationId, queue);
      }
      const { waiting } = queue;
      const written = new Promise<Result>((resolve, reject) =>
        waiting.push({ command, signal: options.signal, resolve, reject }),
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

/** The next group. Past its deadline a call is in none; once in one, its caller may leave, the group goes on. */
function take(waiting: Waiting[]): Waiting[] {
  return waiting.splice(0, MAX_GROUP).filter(({ signal, reject }) => {
    if (signal?.aborted) reject(signal.reason);
    return !signal?.aborted;
  });
}
