// A DATA frame costs the same however little it carries: a connection that sends bodies in crumbs would keep the event
// loop busy for others, 65,000 frames of one byte in what one read of its socket brings. So what a turn of the loop
// brings of a body is handed on in one piece, and a connection of nothing but crumbs ends.
import { constants, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { Readable } from "node:stream";
import type { Tally } from "./tally.ts";

/** FRAMES frames within a second must carry at least LEAST_BYTES bytes each on average. */
const FRAMES = 1_000;
const LEAST_BYTES = 16;
const WINDOW_MS = 1_000;
/** Not counted, per stream: an honest request is one frame, or a prefix and its message, or more of some size. */
const UNCOUNTED = 2;
/** Frames of this size are worth their cost. */
const LARGE_BYTES = 4_096;

const { push } = Readable.prototype;

/** To be called with each stream of the session. Past the limit the session is destroyed with ENHANCE_YOUR_CALM. */
export function gatherDataFrames(session: ServerHttp2Session, tally: Tally): (stream: ServerHttp2Stream) => void {
  let frames = 0;
  let bytes = 0;
  let since = 0;
  let isOver = false;
  const gathering = new Set<() => void>();

  function count(size: number): void {
    if (frames === 0 || performance.now() - since > WINDOW_MS) {
      [frames, bytes, since] = [0, 0, performance.now()];
    }
    frames += 1;
    bytes += size;
    if (frames < FRAMES) return;
    frames = 0;
    if (bytes >= FRAMES * LEAST_BYTES) return;
    isOver = true;
    tally.note("tiny_frames");
    // Not here, in the middle of what nghttp2 reads.
    setImmediate(() => session.destroy(constants.NGHTTP2_ENHANCE_YOUR_CALM as never));
  }

  function handOn(): void {
    for (const flush of gathering) flush();
  }

  // Instead of Node's own `push`, which is called with each frame before anything is made of it. Most requests are one
  // frame: what it takes to gather is made with the second.
  function pushFirst(this: ServerHttp2Stream, chunk: Buffer | null): boolean {
    if (chunk !== null) {
      if (isOver) return true;
      this.push = pushSecond;
    }
    return push.call(this, chunk);
  }

  function pushSecond(this: ServerHttp2Stream, chunk: Buffer | null): boolean {
    if (chunk === null) return push.call(this, null);
    this.push = gatherer(this);
    return this.push(chunk);
  }

  /** Takes the frames from the second on. */
  function gatherer(stream: ServerHttp2Stream): (chunk: Buffer | null) => boolean {
    let received = 1;
    let gathered: Buffer[] = [];
    let size = 0;
    const flush = (): void => {
      gathering.delete(flush);
      const chunks = gathered;
      [gathered, size] = [[], 0];
      if (!stream.destroyed) push.call(stream, Buffer.concat(chunks));
    };
    return (chunk) => {
      if (chunk === null) {
        if (size > 0) flush();
        return push.call(stream, null);
      }
      received += 1;
      if (received > UNCOUNTED) count(chunk.length);
      if (isOver) return true;
      if (size === 0 && chunk.length >= LARGE_BYTES) return push.call(stream, chunk);
      gathered.push(chunk);
      size += chunk.length;
      if (gathering.size === 0) setImmediate(handOn);
      gathering.add(flush);
      // As the stream itself would say it: then no more is read until its reader has taken some.
      return stream.readableLength + size < stream.readableHighWaterMark;
    };
  }

  return (stream) => {
    stream.push = pushFirst;
  };
}
