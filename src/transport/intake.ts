// What a turn of the event loop reads. Node makes streams and requests of all that has arrived on all connections before
// anything of ours runs: a flood over very many connections would be one turn of seconds, and memory for each of its
// streams. So reading ends, on every connection, once a turn has had requests for some milliseconds, and goes on in the next.
import type { Socket } from "node:net";

/** What a socket reads from, which Node's HTTP keeps to itself: a paused socket does not stop it. */
interface Handle {
  /** False where Node itself has stopped it, for want of a reader. */
  reading?: boolean;
  readStart(): number;
  readStop(): number;
}

export interface Intake {
  /** A connection that speaks HTTP. */
  track(socket: Pick<Socket, "once">): void;
  /** To be called with each request, when it has come. */
  came(): void;
}

/** `budgetMs`: how long requests may come in one turn, from the first one on. */
export function createIntake(budgetMs: number, now: () => number = performance.now.bind(performance)): Intake {
  /** By the order in which they are read next. */
  const handles = new Set<Handle>();
  let isCounting = false;
  let isStopped = false;
  let endsAt = 0;

  function nextTurn(): void {
    isCounting = false;
    if (!isStopped) return;
    isStopped = false;
    for (const handle of handles) if (handle.reading !== false) handle.readStart();
  }

  return {
    track(socket) {
      const { _handle: handle } = socket as unknown as { _handle?: Handle };
      if (typeof handle?.readStop !== "function") return;
      handles.add(handle);
      socket.once("close", () => handles.delete(handle));
    },
    came() {
      if (!isCounting) {
        isCounting = true;
        endsAt = now() + budgetMs;
        setImmediate(nextTurn);
      } else if (!isStopped && now() >= endsAt) {
        isStopped = true;
        // What has arrived stays with the system, whose turn it is to tell of it again.
        for (const handle of handles) handle.readStop();
      }
    },
  };
}
