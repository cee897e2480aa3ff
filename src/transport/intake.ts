// What a turn of the event loop reads. Node makes streams and requests of all that has arrived on all connections before
// anything of ours runs: a flood over very many connections would be one turn of seconds, and memory for each of its
// streams. So reading ends, on every connection, once a turn has had requests for some milliseconds. In the turns behind it
// connections are read again: at once those that had few requests when they were read last, the others some at a time.
// So it is with what ends: a connection's end ends all its calls, and is noticed by reading.
import type { Socket } from "node:net";
import { isHeldUp, type ReadHandle, readHandle, whenEnded } from "./read-handle.ts";

export interface Intake {
  /**
   * A connection that speaks HTTP: the session or the socket that its requests name, and the socket. `open` says how many
   * calls end with it.
   */
  track(connection: object, socket: Pick<Socket, "once">, open?: () => number): void;
  /** To be called with each request, when it has come. */
  came(connection: object): void;
}

interface Connection {
  handle: ReadHandle;
  /** Newer ones have higher numbers. */
  number: number;
  /** Its requests in the turn in which it had some last, and in the one in which it had some before. */
  requests: number;
  before: number;
  /** The turn in which it had some last, and the one in which it was read alone. */
  turn: number;
  alone: number;
}

/** At least so many requests are few, of a connection in one turn. */
const FEW = 8;
/** Of the connections that wait, so many are read in one turn: a part of them, and a number at least. */
const PART = 4;
const LEAST = 16;
/** After the ends of so many calls no other connection is read in the same turn. */
const MOST_ENDED = 100;
/** Until it is looked again whether those that took no answers do. */
const HELD_UP_MS = 50;

/** `budgetMs`: how long requests may come in one turn, from the first one on. */
export function createIntake(budgetMs: number, now: () => number = performance.now.bind(performance)): Intake {
  const connections = new Map<object, Connection>();
  /** Those that are not read, in the order of their turns. */
  const waiting = new Set<Connection>();
  /** Those of which something came in this turn. */
  const read = new Set<Connection>();
  let isUnderWay = false;
  let isStopped = false;
  let endsAt = Number.POSITIVE_INFINITY;
  /** Calls that end in this turn with their connections. */
  let ended = 0;
  let turn = 0;
  let tracks = 0;
  let willLook = false;

  function begin(): void {
    if (isUnderWay) return;
    isUnderWay = true;
    endsAt = Number.POSITIVE_INFINITY;
    setImmediate(nextTurn);
  }

  function stop(): void {
    isStopped = true;
    for (const connection of connections.values()) {
      if (waiting.has(connection)) continue;
      // What has arrived stays with the system, which tells of it again.
      connection.handle.readStop();
      if (!read.has(connection)) waiting.add(connection);
    }
    // Behind those of which nothing was read.
    for (const connection of read) waiting.add(connection);
  }

  function nextTurn(): void {
    isUnderWay = false;
    isStopped = false;
    ended = 0;
    read.clear();
    turn += 1;
    if (waiting.size === 0) return;
    const { none, few, many } = byRequests([...waiting].filter((connection) => !isHeldUp(connection.handle)));
    if (none.length + few.length + many.length === 0) {
      if (!willLook) setTimeout(lookAgain, HELD_UP_MS).unref();
      willLook = true;
      return;
    }
    for (const connection of next(none, few, many)) start(connection);
    begin();
  }

  function lookAgain(): void {
    willLook = false;
    begin();
  }

  /**
   * Some of those that wait, of which there is one at least. Every other turn is for those with few requests, the rest for
   * the others. Since the system may tell of the same ones first each time, and the turn end with them, some turns are for
   * one connection: none waits without end.
   */
  function next(none: Connection[], few: Connection[], many: Connection[]): Connection[] {
    const others = none.length === 0 || (turn % 4 === 0 && many.length > 0) ? many : none;
    const chosen = others.length === 0 || (few.length > 0 && turn % 2 === 1) ? few : others;
    if (turn % 16 >= 12) {
      const longest = chosen.reduce((least, one) => (one.alone < least.alone ? one : least));
      longest.alone = turn;
      return [longest];
    }
    // A newcomer does not wait for all that a flood has opened before it.
    if (chosen === none && turn % 8 < 4) return none.toSorted((a, b) => b.number - a.number).slice(0, LEAST);
    return chosen.slice(0, Math.max(LEAST, Math.ceil(chosen.length / PART)));
  }

  function start(connection: Connection): void {
    waiting.delete(connection);
    if (connection.handle.reading !== false) connection.handle.readStart();
  }

  function end(calls: number): void {
    begin();
    ended += calls;
    if (!isStopped && ended >= MOST_ENDED) stop();
  }

  return {
    track(connection, socket, open) {
      const handle = readHandle(socket);
      if (handle === undefined) return;
      if (open !== undefined) whenEnded(handle, () => end(open()));
      const tracked = { handle, number: ++tracks, requests: 0, before: Number.POSITIVE_INFINITY, turn: -1, alone: 0 };
      connections.set(connection, tracked);
      socket.once("close", () => {
        // A connection that is kept alive may have been tracked anew.
        if (connections.get(connection) === tracked) connections.delete(connection);
        waiting.delete(tracked);
        read.delete(tracked);
      });
    },
    came(connection) {
      begin();
      const at = now();
      if (endsAt === Number.POSITIVE_INFINITY) endsAt = at + budgetMs;
      const tracked = connections.get(connection);
      if (tracked !== undefined) {
        read.add(tracked);
        if (tracked.turn !== turn) {
          if (tracked.requests > 0) tracked.before = tracked.requests;
          Object.assign(tracked, { requests: 0, turn });
        }
        tracked.requests += 1;
      }
      if (!isStopped && at >= endsAt) stop();
    },
  };
}

/** Those that have had no request yet, those that had few when they were read last, and the others. */
function byRequests(waiting: Connection[]): Record<"none" | "few" | "many", Connection[]> {
  const none = waiting.filter(({ requests }) => requests === 0);
  const some = waiting.filter(({ requests }) => requests > 0);
  const most = Math.max(FEW, some.reduce((sum, one) => sum + usual(one), 0) / some.length / 2);
  return { none, few: some.filter((one) => usual(one) <= most), many: some.filter((one) => usual(one) > most) };
}

/** A caller that had to wait once, and so sent much at once, is none that floods. */
const usual = ({ requests, before }: Connection) => Math.min(requests, before);
