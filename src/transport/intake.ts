// What a turn of the event loop reads. Node makes streams and requests of all that has arrived on all connections before
// anything of ours runs: a flood over very many connections would be one turn of seconds, and memory for each of its
// streams. So reading ends, on every connection, once a turn has had requests for some milliseconds; then connections are
// read again a few at a time, those first that have not been.
import type { Socket } from "node:net";

/** What a socket reads from, which Node's HTTP keeps to itself: a paused socket does not stop it. */
interface Handle {
  /** False where Node itself has stopped it, for want of a reader. */
  reading?: boolean;
  readStart(): number;
  readStop(): number;
}

export interface Intake {
  /** A connection that speaks HTTP: the session or the socket that its requests name, and the socket. */
  track(connection: object, socket: Pick<Socket, "once">): void;
  /** To be called with each request, when it has come. */
  came(connection: object): void;
}

/** Of the connections that wait to be read, so many are in one turn: a part of them, and a number at least. */
const PART = 4;
const LEAST = 16;

/** `budgetMs`: how long requests may come in one turn, from the first one on. */
export function createIntake(budgetMs: number, now: () => number = performance.now.bind(performance)): Intake {
  const handles = new Map<object, Handle>();
  /** Those that are not read, in the order of their turns. */
  const waiting = new Set<object>();
  /** Those of which something came in this turn. */
  const read = new Set<object>();
  let isUnderWay = false;
  let isStopped = false;
  let endsAt = Number.POSITIVE_INFINITY;

  function begin(): void {
    isUnderWay = true;
    endsAt = Number.POSITIVE_INFINITY;
    setImmediate(nextTurn);
  }

  function stop(): void {
    isStopped = true;
    for (const [connection, handle] of handles) {
      if (waiting.has(connection)) continue;
      // What has arrived stays with the system, which tells of it again.
      handle.readStop();
      if (!read.has(connection)) waiting.add(connection);
    }
    for (const connection of read) if (handles.has(connection)) waiting.add(connection);
  }

  function nextTurn(): void {
    isUnderWay = false;
    isStopped = false;
    read.clear();
    let left = Math.max(LEAST, Math.ceil(waiting.size / PART));
    for (const connection of waiting) {
      waiting.delete(connection);
      const handle = handles.get(connection);
      if (handle?.reading !== false) handle?.readStart();
      left -= 1;
      if (left === 0) break;
    }
    if (waiting.size > 0) begin();
  }

  return {
    track(connection, socket) {
      const { _handle: handle } = socket as unknown as { _handle?: Handle };
      if (typeof handle?.readStop !== "function") return;
      handles.set(connection, handle);
      socket.once("close", () => {
        handles.delete(connection);
        waiting.delete(connection);
        read.delete(connection);
      });
    },
    came(connection) {
      if (!isUnderWay) begin();
      if (endsAt === Number.POSITIVE_INFINITY) endsAt = now() + budgetMs;
      read.add(connection);
      if (!isStopped && now() >= endsAt) stop();
    },
  };
}
