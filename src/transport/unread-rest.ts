// What is left of a request that was answered early: nobody reads it, and its stream would stay open for as long as its
// caller sends, and wait for the window. Left to itself Node resets such a stream at once, and nghttp2 drops frames of it
// that still wait for the connection, the status among them: the caller would never hear why.
import type { ServerHttp2Session, ServerHttp2Stream } from "node:http2";
import { Duplex } from "node:stream";
import { whenRead } from "./when-read.ts";

/**
 * How often a stream is looked at whose answer has left and whose caller may still be sending its request. The first time
 * its caller is asked whether it has read the answer, the second time the stream goes.
 */
const LOOK_MS = 500;
/** The longest that a caller is waited for who does not say that it has read its answer. */
const UNHEARD_MS = 5_000;
/** The longest that an answer is waited for which does not leave, on a connection that its caller does not read. */
const HELD_UP_MS = 30_000;

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
  const answeredAt = performance.now();
  const timer = setInterval(() => {
    if (!this.destroyed && !this.readableEnded) {
      const waitedMs = performance.now() - answeredAt;
      if (isHeldUp(this) ? waitedMs < HELD_UP_MS : waitedMs < UNHEARD_MS && !hasRead(this, answeredAt)) return;
      this.destroy();
    }
    clearInterval(timer);
  }, LOOK_MS).unref();
}

/** Whether frames wait for the connection: those of the answer may be among them. */
function isHeldUp({ session }: ServerHttp2Stream): boolean {
  return session !== undefined && !session.destroyed && (session.state.outboundQueueSize ?? 0) > 0;
}

/** When the caller of a connection was last asked whether it has read what was written before, and whether it has. */
const asked = new WeakMap<ServerHttp2Session, { at: number; isRead: boolean }>();

/**
 * Whether the caller has read what was written at a time; asks it where that is not known. Node's client loses an answer
 * where the reset behind it comes with the same read.
 */
function hasRead({ session }: ServerHttp2Stream, writtenAt: number): boolean {
  if (session === undefined || session.destroyed) return true;
  const of = session as ServerHttp2Session;
  const last = asked.get(of);
  if (last?.isRead && last.at >= writtenAt) return true;
  const now = performance.now();
  const isPending = last?.isRead === false && now - last.at < UNHEARD_MS;
  if (isPending) return false;
  const question = { at: now, isRead: false };
  asked.set(of, question);
  whenRead(of, () => {
    question.isRead = true;
  });
  return false;
}
