// A DATA frame costs the same however little it carries: a connection that sends bodies in crumbs would keep the event
// loop busy: one read of its socket may bring 65,000 frames of one byte. So the frames of a body that arrive in one turn of
// the loop are passed on in one piece, and a connection that sends nothing but crumbs is closed.
import { constants, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { Readable } from "node:stream";
import type { Tally } from "./tally.ts";

/** FRAMES frames within a second must carry at least LEAST_BYTES bytes each on average. */
const FRAMES = 1_000;
const LEAST_BYTES = 16;
const WINDOW_MS = 1_000;
/** Frames per stream that are not counted: an honest request is one frame, a prefix and its message, or larger frames. */
const UNCOUNTED = 2;
/** Frames of this size are passed on at once. */
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
    // Not at once: nghttp2 is still reading.
    setImmediate(() => session.destroy(constants.NGHTTP2_ENHANCE_YOUR_CALM as never));
  }

  function handOn(): void {
    for (const flush of gathering) flush();
  }

  // These replace the stream's `push`, which Node calls with each frame. Most requests are one frame: the state that
  // gathering needs is created with the second.
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
      // The same answer as the stream's own `push`: Node pauses reading on false.
      return stream.readableLength + size < stream.readableHighWaterMark;
    };
  }

  return (stream) => {
    stream.push = pushFirst;
  };
}
