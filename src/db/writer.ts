// Writes that meet commit together: commands that arrive while a unit of work of their organization is
// under way form the next one. Group commit, one level up; each keeps its own answer and its own refusal.
import type { Orm } from "./orm.ts";
import { createSlots, type Slots } from "./slots.ts";
import type { TransactionOptions } from "./transaction.ts";
import { type Command, type Result, writeGroup, writeGroupUnlessBusy } from "./unit-of-work.ts";

export interface Writer {
  /** What became of the command. Rejects for failures of the service or the database, and when the signal is aborted before its turn. */
  write(organizationId: string, command: Command, options?: TransactionOptions): Promise<Answered>;
}

/** A result that is an answer to the caller. */
export type Answered = Exclude<Result, { kind: "failed" }>;

/** Groups of one organization at a time: one decides while the other commits. */
const GROUPS_PER_ORGANIZATION = 2;
const MAX_GROUP = 128;

interface Waiting {
  command: Command;
  resolve: (result: Answered) => void;
  reject: (error: unknown) => void;
}

interface Queue {
  waiting: Waiting[];
  running: number;
  /** On entities that others hold: these wait, and keep nobody else waiting. */
  busy: Waiting[];
  isWaiting: boolean;
}

/** `slots` bounds the rehearsals, which run alone; `committed` is called after each transaction that may have written. */
export function createWriter(
  orm: Orm,
  slots: Slots = createSlots(1),
  committed: (organizationId: string) => void = () => {},
): Writer {
  const queues = new Map<string, Queue>();

  async function run(organizationId: string, queue: Queue): Promise<void> {
    while (queue.waiting.length > 0) {
      await together(queue.waiting.splice(0, MAX_GROUP), (commands) =>
        writeGroupUnlessBusy(orm, organizationId, commands),
      ).then((busy) => queue.busy.push(...busy));
      committed(organizationId);
      if (queue.busy.length > 0 && !queue.isWaiting) {
        queue.isWaiting = true;
        void runBusy(organizationId, queue);
      }
    }
    queue.running -= 1;
    forget(organizationId, queue);
  }

  /** One group of an organization waits for locks at a time, with one connection, however many there are. */
  async function runBusy(organizationId: string, queue: Queue): Promise<void> {
    while (queue.busy.length > 0) {
      await together(queue.busy.splice(0, MAX_GROUP), (commands) => writeGroup(orm, organizationId, commands));
      committed(organizationId);
    }
    queue.isWaiting = false;
    forget(organizationId, queue);
  }

  function forget(organizationId: string, queue: Queue): void {
    if (queue.running === 0 && !queue.isWaiting) queues.delete(organizationId);
  }

  return {
    async write(organizationId, given, options = {}) {
      // Past its deadline a call is in no group. Once in one, its caller may leave, the group goes on.
      const command = { ...given, signal: options.signal };
      if (options.validateOnly) {
        const [result] = await slots(() => writeGroup(orm, organizationId, [command], options));
        if (result?.kind === "failed") throw result.error;
        return result as Answered;
      }
      let queue = queues.get(organizationId);
      if (queue === undefined) {
        queue = { waiting: [], running: 0, busy: [], isWaiting: false };
        queues.set(organizationId, queue);
      }
      const { waiting } = queue;
      const written = new Promise<Answered>((resolve, reject) => waiting.push({ command, resolve, reject }));
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

/** Writes a group and tells each caller its end; those that are busy are handed back. */
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
