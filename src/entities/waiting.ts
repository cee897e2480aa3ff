// Commands whose callers wait for their results, and what tells these.

import type { Command, Result } from "./command.ts";
import type { Undone } from "./write-group.ts";

/** A result that is an answer to the caller. */
export type Answered = Exclude<Result, { kind: "failed" }>;

export interface Waiting {
  command: Command;
  /** performance.now() when it arrived. */
  since: number;
  resolve: (result: Answered) => void;
  reject: (error: unknown) => void;
}

/** Removes those whose callers have disconnected. */
export function dropAborted(list: Waiting[]): void {
  for (const one of list.splice(0)) {
    const { signal } = one.command;
    if (signal?.aborted) one.reject(signal.reason);
    else list.push(one);
  }
}

/** Writes a group and tells each caller its result; those that have none are returned. */
export async function together(
  group: readonly Waiting[],
  work: (commands: Command[]) => Promise<(Result | Undone)[]>,
): Promise<Told> {
  try {
    return tell(group, await work(group.map(({ command }) => command)));
  } catch (error) {
    for (const { reject } of group) reject(error);
    return { busy: [], long: [], undone: [] };
  }
}

/** Whose command has no result yet. */
export interface Told {
  busy: Waiting[];
  long: Waiting[];
  undone: Waiting[];
}

/** Tells each caller its result. */
export function tell(group: readonly Waiting[], results: readonly (Result | Undone | undefined)[]): Told {
  const told: Told = { busy: [], long: [], undone: [] };
  group.forEach((one, i) => {
    const result = results[i];
    if (result === undefined) told.undone.push(one);
    else if (typeof result === "string") told[result].push(one);
    else if (result.kind === "failed") one.reject(result.error);
    else one.resolve(result);
  });
  return told;
}
