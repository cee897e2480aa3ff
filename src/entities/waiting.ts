// Commands whose callers wait for their results, and what tells these.

import { inTurn } from "../in-turn.ts";
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

/** Commands in one transaction. */
export const MAX_GROUP = 128;
/** Bytes of the requests of one group, but for one that has more: what they decide is decided in one turn of the event loop. */
const GROUP_BYTES = 128 * 1024;

/** The first of the list that one transaction may have: `max` of them, and GROUP_BYTES less those that it has `taken`. */
export function takeGroup(list: Waiting[], max: number, taken = 0): Waiting[] {
  let bytes = taken;
  let count = 0;
  for (const { command } of list.slice(0, max)) {
    bytes += command.bytes ?? 0;
    if (bytes > GROUP_BYTES && (count > 0 || taken > 0)) break;
    count += 1;
  }
  return list.splice(0, count);
}

export const bytesOf = (group: readonly Waiting[]): number =>
  group.reduce((bytes, { command }) => bytes + (command.bytes ?? 0), 0);

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
  organizationId: string,
  group: readonly Waiting[],
  work: (commands: Command[]) => Promise<(Result | Undone)[]>,
): Promise<Told> {
  try {
    return tell(organizationId, group, await work(group.map(({ command }) => command)));
  } catch (error) {
    for (const { reject } of group) reject(error);
    return { ...NOBODY, ended: group.length };
  }
}

/** Whose command has no result yet, and how many have one: what these have written is committed, or may be. */
export interface Told {
  busy: Waiting[];
  long: Waiting[];
  undone: Waiting[];
  ended: number;
}

export const NOBODY: Readonly<Told> = { busy: [], long: [], undone: [], ended: 0 };

/** Tells each caller its result. */
export function tell(
  organizationId: string,
  group: readonly Waiting[],
  results: readonly (Result | Undone | undefined)[],
): Told {
  const told: Told = { busy: [], long: [], undone: [], ended: 0 };
  const answered: (() => void)[] = [];
  group.forEach((one, i) => {
    const result = results[i];
    if (result === undefined) return void told.undone.push(one);
    if (typeof result === "string") return void told[result].push(one);
    told.ended += 1;
    if (result.kind === "failed") one.reject(result.error);
    else answered.push(() => one.resolve(result));
  });
  void inTheirTurn(organizationId, answered);
  return told;
}

async function inTheirTurn(organizationId: string, answered: readonly (() => void)[]): Promise<void> {
  for (const goOn of answered) {
    const turn = inTurn.enter(organizationId);
    if (turn !== undefined) await turn;
    goOn();
  }
}
