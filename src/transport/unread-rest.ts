// The unread rest of a request that was answered early. Nobody reads it, so its stream would stay open for as long as the
// caller sends. Node by itself resets such a stream at once, and nghttp2 then drops its frames that still wait for the
// connection, including the status: the caller would not learn the reason.
import type { ServerHttp2Session, ServerHttp2Stream } from "node:http2";
import { Duplex } from "node:stream";
import { createPlaces, type Waiting } from "./places.ts";
import { whenRead } from "./when-read.ts";

/**
 * Interval of the checks of a stream whose answer has left and whose caller may still be sending. The first check asks the
 * caller whether it has read the answer, a later one closes the stream.
 */
const LOOK_MS = 500;
/** The longest wait for a caller to confirm that it has read its answer. */
const UNHEARD_MS = 5_000;
/** The longest wait for an answer to leave, on a connection that its caller does not read. */
const HELD_UP_MS = 30_000;

/** Streams that wait for their caller at once; a flood of refused calls would hold some 4 KiB for each. */
const MAX_WAITING = 1_024;

interface Rest extends Waiting {
  stream: ServerHttp2Stream;
}

/**
 * The returned function is to be called with each new stream: it drops the rest of its request once the answer has left.
 * At most `maxWaiting` streams wait for their caller to have read it; one more ends the wait of another.
 */
export function unreadRests(maxWaiting = MAX_WAITING): (stream: ServerHttp2Stream) => void {
  // One that has just been answered is not: its status may not have left.
  const places = createPlaces<Rest>(maxWaiting, ({ stream }) => stream.destroy());
  function giveUpRest(this: ServerHttp2Stream): void {
    // Most requests are complete; a timer for each would keep its stream in memory.
    if (this.readableEnded || this.destroyed) return;
    const place = places.enter({ connection: this.session ?? this, stream: this });
    waitUntilRead(this, () => place.leave());
  }
  return (stream) => {
    stream.end = endAndDrop;
    // connect-node 2.2.0 leaves the unread rest of an oversized request: its stream never closes, and the session with it.
    // close(NO_ERROR) and resume() cut the answer or do nothing.
    stream.on("finish", giveUpRest);
  };
}

const endAndDrop = function (this: ServerHttp2Stream, ...rest: Parameters<Duplex["end"]>) {
  // Node resets a request that nobody has begun to read. To read and drop the rest prevents that, and takes no memory.
  if (this.readableFlowing === null) this.resume();
  return Duplex.prototype.end.apply(this, rest);
} as ServerHttp2Stream["end"];

/** Destroys the stream when its caller has read the answer, or has had the time for it. */
function waitUntilRead(stream: ServerHttp2Stream, ended: () => void): void {
  const answeredAt = performance.now();
  const timer = setInterval(() => {
    if (!stream.destroyed && !stream.readableEnded) {
      const waitedMs = performance.now() - answeredAt;
      if (isHeldUp(stream) ? waitedMs < HELD_UP_MS : waitedMs < UNHEARD_MS && !hasRead(stream, answeredAt)) return;
      stream.destroy();
    }
    clearInterval(timer);
    ended();
  }, LOOK_MS).unref();
}

/** Whether frames wait for the connection; those of the answer may be among them. */
function isHeldUp({ session }: ServerHttp2Stream): boolean {
  return session !== undefined && !session.destroyed && (session.state.outboundQueueSize ?? 0) > 0;
}

/** The last question to each connection whether its caller has read what was written before, and whether it was answered. */
const asked = new WeakMap<ServerHttp2Session, { at: number; isRead: boolean }>();

/**
 * Whether the caller has read what was written by then; asks it if that is unknown. Node's client loses an answer if the
 * reset arrives in the same read.
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
