// What a PING tells: its answer comes from whoever has read all that was sent before it.
import type { ServerHttp2Session } from "node:http2";

/** Calls back when the other side has read what was written so far; never where it does not answer, or the session ends. */
export function whenRead(session: ServerHttp2Session, then: () => void): void {
  // PINGs overtake what else is on its way out: only the second one goes out behind it for certain.
  ping(session, () => ping(session, then));
}

function ping(session: ServerHttp2Session, then: () => void): void {
  if (!session.destroyed) session.ping((error) => error === null && then());
}
