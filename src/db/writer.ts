// Writes that meet commit together: commands that arrive while a unit of work of their organization is
// under way form the next one. Group commit, one level up; each keeps its own answer and its own refusal.
import type { Orm } from "./orm.ts";
import type { TransactionOptions } from "./transaction.ts";
import { type Command, type Result, writeGroup } from "./unit-of-work.ts";

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

export function createWriter(orm: Orm): Writer {
  const queues = new Map<string, { waiting: Waiting[]; running: number }>();

  async function run(organizationId: string, queue: { waiting: Waiting[]; running: number }): Promise<void> {
    while (queue.waiting.length > 0) {
      const group = queue.waiting.splice(0, MAX_GROUP);
      try {
        const results = await writeGroup(orm, organizationId, group.map(({ command }) => command));
        group.forEach(({ resolve, reject }, i) => {
          const result = results[i] as Result;
          if (result.kind === "failed") reject(result.error);
          else resolve(result);
        });
      } catch (error) {
        for (const { reject } of group) reject(error);
      }
    }
    queue.running -= 1;
    if (queue.running === 0) queues.delete(organizationId);
  }

  return {
    async write(organizationId, given, options = {}) {
      // Past its deadline a call is in no group. Once in one, its caller may leave, the group goes on.
      const command = { ...given, signal: options.signal };
      if (options.validateOnly) {
        const [result] = await writeGroup(orm, organizationId, [command], options);
        if (result?.kind === "failed") throw result.error;
        return result as Answered;
      }
      let queue = queues.get(organizationId);
      if (queue === undefined) {
        queue = { waiting: [], running: 0 };
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
