// What is left of a request that was answered early: nobody reads it, and its stream would stay open for as long as its
// caller sends, and wait for the window. Left to itself Node resets such a stream at once, and nghttp2 drops frames of it
// that still wait for the connection, the status among them: the caller would never hear why.
import type { ServerHttp2Stream } from "node:http2";
import { Duplex } from "node:stream";

/**
 * Time for an answer whose caller may still be sending its request. Node's client loses an answer that it has not read
 * when the reset behind it arrives: time for one that is busy.
 */
const UNREAD_MS = 1_000;
/** The longest that an answer is waited for which does not leave, on a connection that its caller does not read. */
const LONGEST_MS = 30_000;

/** To be called with each stream as it comes: the rest of its request goes when its answer has left. */
export function keepUntilAnswered(stream: ServerHttp2Stream): void {
  stream.end = endAndDrop;
  // connect-node 2.2.0 leaves the unread rest of an oversized request: its stream never closes, and the session with it.
  // close(NO_ERROR) and resume() cut the answer or do nothing.
  stream.on("finish", giveUpRest);
}

const endAndDrop = function (this: ServerHttp2Stream, ...rest: Parameters<Duplex["end"]>) {
  // Node resets a request that nobody has begun to read. Reading and dropping the rest prevents that, and holds no memory.
  if (this.readableFlowing === null) this.resume();
  return Duplex.prototype.end.apply(this, rest);
} as ServerHttp2Stream["end"];

function giveUpRest(this: ServerHttp2Stream): void {
  // A timer for each call would hold its stream for as long.
  if (this.readableEnded || this.destroyed) return;
  const until = performance.now() + LONGEST_MS;
  const timer = setInterval(() => {
    if (!this.destroyed && !this.readableEnded) {
      if (isHeldUp(this) && performance.now() < until) return;
      this.destroy();
    }
    clearInterval(timer);
  }, UNREAD_MS).unref();
}

/** Whether frames wait for the connection: those of the answer may be among them. */
function isHeldUp({ session }: ServerHttp2Stream): boolean {
  return session !== undefined && !session.destroyed && (session.state.outboundQueueSize ?? 0) > 0;
}
