// Writes that meet commit together: commands that arrive while others are under way form the next transaction, whichever
// organizations they are of. Group commit, one level up; each keeps its own answer and its own refusal. What would delay
// or fail the others goes alone: what is locked, what is much, and what an organization's own statements have failed.

import { type Bell, createBell } from "../bell.ts";
import { type Connections, keptConnection } from "../db/kept-connection.ts";
import type { Orm } from "../db/orm.ts";
import { ORGANIZATIONS_MEET } from "../db/tenant.ts";
import type { TransactionOptions } from "../db/transaction.ts";
import { overloaded } from "../domain/errors.ts";
import { createSlots, type Slots } from "../slots.ts";
import type { Command } from "./command.ts";
import { createLockQueue, type LockQueue } from "./lock-queue.ts";
import {
  type Answered,
  bytesOf,
  dropAborted,
  MAX_GROUP,
  type Told,
  takeGroup,
  tell,
  together,
  type Waiting,
} from "./waiting.ts";
import { writeGroup, writeGroupsUnlessBusy, writeGroupUnlessBusy, writeGroupWaiting } from "./write-group.ts";

export interface Writer {
  /** What became of the command. Rejects for failures of the service or the database, with OVERLOADED where too many of the organization wait, and when the signal is aborted before its turn. */
  write(organizationId: string, command: Command, options?: TransactionOptions): Promise<Answered>;
}

/** Transactions of all organizations together at a time, unless the options say fewer: one decides while others commit. */
const LANES = 4;
/** Groups of one organization at a time, in lanes and alone: with more they are smaller, and cost more. */
const OWN_GROUPS = 2;
/** Commands of one organization in a transaction that others share; one that has more to write goes alone. */
const MAX_SHARE = 16;
/** So long an organization goes alone whose statement has failed a transaction that others shared. */
const ALONE_MS = 1_000;
/** Commands of one organization that wait. */
const MAX_WAITING = 1_000;

export interface WriterOptions {
  /** Bounds the rehearsals and what runs alone, which may wait for locks. */
  slots?: Slots;
  /** Bounds the groups that wait for locks. */
  busySlots?: Slots;
  /** How long a command waits for locked entities: the lock timeout of the database session. */
  lockTimeoutMs?: number;
  /** Rung after each transaction that may have written. */
  bell?: Bell;
  /** Whether organizations share a transaction. */
  joinsOrganizations?: boolean;
  /** Transactions that organizations share at a time, each with a connection of its own. */
  lanes?: number;
}

/** What one organization has to write. */
interface Queue {
  organizationId: string;
  waiting: Waiting[];
  /** Its groups that are under way, in lanes and alone. */
  running: number;
  /** Those of them that are alone; they take what waits. */
  alone: number;
  /** Until then, by performance.now(), it goes alone. */
  aloneUntil: number;
  locked: LockQueue;
}

interface Share {
  queue: Queue;
  group: Waiting[];
}

export function createWriter(orm: Orm, options: WriterOptions = {}): Writer {
  const { slots = createSlots(1), busySlots = createSlots(1), lockTimeoutMs = 2_000, bell = createBell() } = options;
  const { joinsOrganizations = ORGANIZATIONS_MEET, lanes = LANES } = options;
  const queues = new Map<string, Queue>();
  /** Queues with commands that wait for a lane, in the order of their turns. */
  const turns = new Set<Queue>();
  const idle = Array.from({ length: lanes }, () => keptConnection(orm));

  function start(queue: Queue): void {
    if (queue.alone > 0) return startAlone(queue);
    turns.add(queue);
    // A lane that has a group of it takes the rest when that has ended.
    if (queue.running >= OWN_GROUPS) return;
    const lane = idle.pop();
    // After the input that has arrived with this call: its commands join at once.
    if (lane !== undefined) setImmediate(() => void runLane(lane));
  }

  function nextShares(): Share[] {
    const { shares, alone } = takeShares(turns, joinsOrganizations);
    for (const queue of alone) startAlone(queue);
    return shares;
  }

  async function runLane(lane: Connections): Promise<void> {
    for (let shares = nextShares(); shares.length > 0; shares = nextShares()) {
      for (const { queue } of shares) queue.running += 1;
      let blamed: string | undefined;
      const results = await writeGroupsUnlessBusy(
        lane,
        shares.map(({ queue, group }) => ({
          organizationId: queue.organizationId,
          commands: group.map(({ command }) => command),
        })),
        (organizationId) => {
          blamed = organizationId;
        },
      );
      shares.forEach(({ queue, group }, i) => {
        const told = tell(queue.organizationId, group, results[i] ?? []);
        queue.waiting.unshift(...told.undone);
        // Not awaited: the lane goes on for the others.
        if (told.undone.length > 0) startAlone(queue, queue.organizationId === blamed);
        settle(queue, told);
        queue.running -= 1;
        forget(queue);
      });
    }
    idle.push(lane);
  }

  /** Groups in transactions of their own, until nothing of the organization waits. */
  function startAlone(queue: Queue, isBlamed = false): void {
    turns.delete(queue);
    // Until its own attempt ends, and then for a while.
    if (isBlamed) queue.aloneUntil = Number.POSITIVE_INFINITY;
    if (queue.alone >= OWN_GROUPS) return;
    queue.alone += 1;
    queue.running += 1;
    void runAlone(queue);
  }

  async function runAlone(queue: Queue): Promise<void> {
    const { organizationId } = queue;
    while (queue.waiting.length > 0) {
      const told = await together(organizationId, takeGroup(queue.waiting, MAX_GROUP), (commands) =>
        writeGroupUnlessBusy(orm, organizationId, commands),
      );
      settle(queue, told);
      if (queue.aloneUntil === Number.POSITIVE_INFINITY) queue.aloneUntil = performance.now() + ALONE_MS;
    }
    queue.alone -= 1;
    queue.running -= 1;
    forget(queue);
  }

  /** A group has ended; what was locked waits for its locks. */
  function settle({ organizationId, locked }: Queue, told: Told): void {
    locked.add(told.busy);
    goOn(organizationId, told);
  }

  /** Rings for what may have been written: however often others are tried that wait for locks, nobody looks for it. */
  function goOn(organizationId: string, { long, ended }: Told): void {
    for (const one of long) void runLong(orm, slots, bell, organizationId, one);
    if (ended > 0) bell.ring(organizationId);
  }

  function newQueue(organizationId: string): Queue {
    const locked = createLockQueue({
      ...{ organizationId, slots: busySlots, lockTimeoutMs },
      write: (commands, waited) => writeGroupWaiting(orm, organizationId, commands, waited),
      tryAgain(commands) {
        queue.waiting.push(...commands);
        start(queue);
      },
      waitsForTurn: (one) => queue.waiting.includes(one),
      ended(told) {
        goOn(organizationId, told);
        forget(queue);
      },
    });
    const queue: Queue = { organizationId, waiting: [], running: 0, alone: 0, aloneUntil: 0, locked };
    return queue;
  }

  function forget(queue: Queue): void {
    const isIdle = queue.running === 0 && queue.locked.isIdle() && queue.waiting.length === 0;
    if (isIdle && queue.aloneUntil <= performance.now()) queues.delete(queue.organizationId);
  }

  return {
    async write(organizationId, given, options = {}) {
      // A call past its deadline joins no group. Once it has joined, the group goes on even if its caller disconnects.
      const command = { ...given, signal: given.signal ?? options.signal };
      if (options.validateOnly || command.alone !== undefined) {
        const since = performance.now();
        const run = () =>
          writeGroup(orm, organizationId, [command], { ...options, waitedMs: performance.now() - since });
        const [result] = await slots(organizationId, run, options);
        if (!options.validateOnly) bell.ring(organizationId);
        if (result?.kind === "failed") throw result.error;
        return result as Answered;
      }
      let queue = queues.get(organizationId);
      if (queue === undefined) {
        queue = newQueue(organizationId);
        queues.set(organizationId, queue);
      }
      const { waiting, locked } = queue;
      if (waiting.length + locked.size() >= MAX_WAITING) {
        dropAborted(waiting);
        locked.dropAborted();
        if (waiting.length + locked.size() >= MAX_WAITING) throw overloaded("Too many writes of the organization wait");
      }
      const written = new Promise<Answered>((resolve, reject) =>
        waiting.push({ command, since: performance.now(), resolve, reject }),
      );
      start(queue);
      return written;
    },
  };
}

/** What takes long keeps nobody waiting but those who want its entity: it runs where rehearsals do. */
async function runLong(
  orm: Orm,
  slots: Slots,
  bell: Bell,
  organizationId: string,
  { command, resolve, reject }: Waiting,
): Promise<void> {
  try {
    const [result] = await slots(organizationId, () => writeGroup(orm, organizationId, [command]));
    bell.ring(organizationId);
    if (result?.kind === "failed") throw result.error;
    resolve(result as Answered);
  } catch (error) {
    reject(error);
  }
}

/** Takes what goes into one transaction: a share of each organization in turn, or all of one where no other waits. */
function takeShares(turns: Set<Queue>, joinsOrganizations: boolean): { shares: Share[]; alone: Queue[] } {
  const shares: Share[] = [];
  const alone: Queue[] = [];
  const ready = [...turns].filter(({ running }) => running < OWN_GROUPS);
  const isOnly = ready.length === 1;
  let room = MAX_GROUP;
  let taken = 0;
  for (const queue of ready) {
    turns.delete(queue);
    // One to blame goes alone even where no other waits: whoever comes meanwhile would wait for its lane.
    if ((!isOnly && queue.waiting.length > MAX_SHARE) || performance.now() < queue.aloneUntil) {
      alone.push(queue);
      continue;
    }
    const group = takeGroup(queue.waiting, isOnly ? MAX_GROUP : MAX_SHARE, taken);
    taken += bytesOf(group);
    // For the next transaction: twice in one it would decide on states that it has changed itself.
    if (queue.waiting.length > 0) turns.add(queue);
    if (group.length === 0) continue;
    shares.push({ queue, group });
    room -= group.length;
    if (!joinsOrganizations || room < MAX_SHARE) break;
  }
  return { shares, alone };
}
