// Commands of one organization whose entities others have locked: they wait for the locks, and delay no others.
import type { Slots } from "../slots.ts";
import type { Command } from "./command.ts";
import { heldByOthers } from "./refusals.ts";
import { dropAborted, MAX_GROUP, NOBODY, type Told, takeGroup, together, type Waiting } from "./waiting.ts";
import type { writeGroupWaiting } from "./write-group.ts";

/** So long those that have just come wait together: most locks are of a group that is about to commit. */
const TOGETHER_MS = 50;
/** How often, and of how many commands, locked entities are looked at again; less often for each the longer it waits. */
const TICK_MS = 5;
const TRIED_AT_ONCE = 16;
/** So many such looks may wait for their turns: what has just come waits behind them. */
const LOOKS_THAT_WAIT = 8;
const LONGEST_PAUSE_MS = 100;

export interface LockQueue {
  /** Commands that wait, but for those of the group that waits for locks. */
  size(): number;
  /** Whether nothing waits. */
  isIdle(): boolean;
  /** Commands whose entities were locked. Those that have waited for the lock time are refused. */
  add(busy: readonly Waiting[]): void;
  dropAborted(): void;
}

export interface LockQueueOptions {
  organizationId: string;
  /** Writes what waits for its locks, for the lock time less what it has waited. */
  write: (commands: readonly Command[], options: { waitedMs: number }) => ReturnType<typeof writeGroupWaiting>;
  /** Bounds the groups of all organizations that wait for locks. */
  slots: Slots;
  lockTimeoutMs: number;
  /** Tries commands without waiting; what is still locked is added again. */
  tryAgain: (commands: readonly Waiting[]) => void;
  /** Whether a command that is to be tried again waits for its turn yet. */
  waitsForTurn: (one: Waiting) => boolean;
  /** A group that has waited has ended. */
  ended: (told: Told) => void;
}

interface Entry {
  one: Waiting;
  /** Equal for commands that name the same entities by the same keys. */
  targets: string;
  /** By performance.now(). */
  retryAt: number;
}

/**
 * One group waits for locks at a time, with one connection, however many there are: for a moment all that are new, else
 * what has waited longest, and what names the same. Nothing else: what it had locked would be locked for as long as it
 * waits. It waits for no longer than its oldest command may; those that came later wait on with the next group. What
 * names other entities is tried again meanwhile: these may be free by now.
 */
export function createLockQueue(options: LockQueueOptions): LockQueue {
  const { organizationId, write, slots, lockTimeoutMs, tryAgain, waitsForTurn, ended } = options;
  let entries: Entry[] = [];
  let isWaiting = false;
  /** What all of the group name that waits for locks; undefined where it waits for a moment only, or none does. */
  let targets: string | undefined;
  let isMoment = false;
  let wasMoment = false;
  const haveWaited = new WeakSet<Waiting>();
  let retry: NodeJS.Timeout | undefined;
  /** The last of each look that waits for its turn. */
  let looks: Waiting[] = [];

  function add(busy: readonly Waiting[]): void {
    const now = performance.now();
    for (const one of busy) {
      const waitedMs = now - one.since;
      if (waitedMs >= lockTimeoutMs) refuse(one);
      else
        entries.push({ one, targets: targetsOf(one.command), retryAt: now + Math.min(waitedMs / 4, LONGEST_PAUSE_MS) });
    }
    retrySoon();
    if (isWaiting || entries.length === 0) return;
    isWaiting = true;
    void waitForLocks();
  }

  async function waitForLocks(): Promise<void> {
    for (;;) {
      let told: Told = NOBODY;
      await slots(organizationId, async () => {
        // In turns, so that however many come, the others wait too.
        const isNext = wasMoment && entries.some(({ one }) => haveWaited.has(one));
        const group = (isNext ? undefined : takeNew()) ?? takeOldest();
        if (group.length === 0) return;
        for (const one of group) haveWaited.add(one);
        const hasWaited = performance.now() - Math.min(...group.map(({ since }) => since));
        const waitedMs = isMoment ? Math.max(hasWaited, lockTimeoutMs - TOGETHER_MS) : hasWaited;
        told = await together(organizationId, group, (commands) => write(commands, { waitedMs }));
        // They would wait for what is held yet, one group after the other.
        if (told.busy.length > 0) refuseWaited(lockTimeoutMs, (entry) => entry.targets === targets);
        targets = undefined;
        wasMoment = isMoment;
        isMoment = false;
      });
      add(told.busy);
      const isLast = entries.length === 0;
      isWaiting = !isLast;
      ended(told);
      if (isLast) return;
    }
  }

  /** What has not waited yet, unless all of it names the same. */
  function takeNew(): Waiting[] | undefined {
    const fresh = entries.filter(({ one }) => !haveWaited.has(one));
    if (fresh.every((entry) => entry.targets === fresh[0]?.targets)) return undefined;
    isMoment = true;
    return take(fresh);
  }

  /** What has waited longest, and what names the same. */
  function takeOldest(): Waiting[] {
    const byAge = entries.toSorted((a, b) => a.one.since - b.one.since);
    targets = byAge[0]?.targets;
    return take(byAge.filter((entry) => entry.targets === targets));
  }

  function take(of: readonly Entry[], max = MAX_GROUP): Waiting[] {
    const group = takeGroup(
      of.map(({ one }) => one),
      max,
    );
    const isTaken = new Set(group);
    entries = entries.filter(({ one }) => !isTaken.has(one));
    return group;
  }

  function retrySoon(): void {
    const isNeeded = entries.some((entry) => entry.targets !== targets);
    if (isNeeded && retry === undefined) retry = setTimeout(retryOthers, TICK_MS);
  }

  /** Refuses those that have waited for so long. */
  function refuseWaited(ms: number, isMeant: (entry: Entry) => boolean): void {
    const now = performance.now();
    const isOver = (entry: Entry) => now - entry.one.since >= ms && isMeant(entry);
    for (const { one } of entries.filter(isOver)) refuse(one);
    entries = entries.filter((entry) => !isOver(entry));
  }

  function retryOthers(): void {
    retry = undefined;
    // So many, or so much, that their last try has not come.
    refuseWaited(lockTimeoutMs + LONGEST_PAUSE_MS, (entry) => entry.targets !== targets);
    looks = looks.filter(waitsForTurn);
    if (looks.length >= LOOKS_THAT_WAIT) return retrySoon();
    const now = performance.now();
    // What is new waits for the next moment.
    const due = entries
      .filter((entry) => !isMoment || haveWaited.has(entry.one))
      .filter((entry) => entry.targets !== targets && entry.retryAt <= now)
      .sort((a, b) => a.retryAt - b.retryAt);
    const group = take(due, TRIED_AT_ONCE);
    retrySoon();
    looks.push(...group.slice(-1));
    if (group.length > 0) tryAgain(group);
  }

  return {
    size: () => entries.length,
    isIdle: () => !isWaiting && entries.length === 0,
    add,
    dropAborted() {
      const live = entries.map(({ one }) => one);
      dropAborted(live);
      const isLive = new Set(live);
      entries = entries.filter(({ one }) => isLive.has(one));
    },
  };
}

const refuse = (one: Waiting): void => one.resolve({ kind: "refused", error: heldByOthers() });

const targetsOf = ({ targets }: Command): string =>
  JSON.stringify(targets.map(({ lookup }) => [lookup.by, lookup.key]));
