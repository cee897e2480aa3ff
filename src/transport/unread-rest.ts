// The unread rest of a request that was answered early. Nobody reads it, so its stream would stay open for as long as the
// caller sends. Node by itself resets such a stream at once, and nghttp2 then drops its frames that still wait for the
// connection, including the status: the caller would not learn the reason.
import type { ServerHttp2Stream } from "node:http2";
import { Duplex } from "node:stream";

/** Time for the caller to read an answer while it may still be sending: Node's client loses an unread answer when the reset arrives. */
const UNREAD_MS = 1_000;
/** The longest wait for an answer to leave, on a connection that its caller does not read. */
const LONGEST_MS = 30_000;

/** To be called with each new stream: drops the rest of its request once the answer has left. */
export function keepUntilAnswered(stream: ServerHttp2Stream): void {
  stream.end = endAndDrop;
  // connect-node 2.2.0 leaves the unread rest of an oversized request: its stream never closes, and the session with it.
  // close(NO_ERROR) and resume() cut the answer or do nothing.
  stream.on("finish", giveUpRest);
}

const endAndDrop = function (this: ServerHttp2Stream, ...rest: Parameters<Duplex["end"]>) {
  // Node resets a request that nobody has begun to read. To read and drop the rest prevents that, and takes no memory.
  if (this.readableFlowing === null) this.resume();
  return Duplex.prototype.end.apply(this, rest);
} as ServerHttp2Stream["end"];

function giveUpRest(this: ServerHttp2Stream): void {
  // Most requests are complete; a timer for each would keep its stream in memory.
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

/** Whether frames wait for the connection; those of the answer may be among them. */
function isHeldUp({ session }: ServerHttp2Stream): boolean {
  return session !== undefined && !session.destroyed && (session.state.outboundQueueSize ?? 0) > 0;
}
