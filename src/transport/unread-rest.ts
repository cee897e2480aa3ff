// What is left of a request that was answered early: nobody reads it, and its stream would stay open for as long as its
// caller sends, and wait for the window.
import type { ServerHttp2Stream } from "node:http2";

/**
 * Time for an answer whose caller may still be sending its request. Node's client loses an answer that it has not read
 * when the reset behind it arrives: time for one that is busy.
 */
export const UNREAD_MS = 1_000;
/** The longest that an answer is waited for which does not leave, on a connection that its caller does not read. */
const LONGEST_MS = 30_000;

/** To be called when the answer is written: gives up the rest of the request once the answer has left. */
export function giveUpRest(stream: ServerHttp2Stream): void {
  // A timer for each call would hold its stream for as long.
  if (stream.readableEnded || stream.destroyed) return;
  const until = performance.now() + LONGEST_MS;
  const timer = setInterval(() => {
    if (!stream.destroyed && !stream.readableEnded) {
      // A reset takes frames with it that wait for the connection, the status among them.
      if (isHeldUp(stream) && performance.now() < until) return;
      stream.destroy();
    }
    clearInterval(timer);
  }, UNREAD_MS).unref();
}

function isHeldUp({ session }: ServerHttp2Stream): boolean {
  return session !== undefined && !session.destroyed && (session.state.outboundQueueSize ?? 0) > 0;
}
