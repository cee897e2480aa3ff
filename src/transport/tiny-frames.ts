// A DATA frame costs the same however little it carries: a connection that sends bodies in crumbs would keep the event
// loop busy for others, 65,000 frames of one byte in what one read of its socket brings.
import { constants, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import type { Tally } from "./tally.ts";

/** So many frames within a second, the first of each stream aside, must carry at least so many bytes each on average. */
const FRAMES = 1_000;
const LEAST_BYTES = 16;
const WINDOW_MS = 1_000;

/** To be called with each stream of the session. Past the limit the session is destroyed with ENHANCE_YOUR_CALM. */
export function limitTinyFrames(session: ServerHttp2Session, tally: Tally): (stream: ServerHttp2Stream) => void {
  let frames = 0;
  let bytes = 0;
  let since = 0;
  let isOver = false;

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

  return (stream) => {
    const push = stream.push;
    let isFirst = true;
    // Where Node hands on what it has read: each frame, before anything is made of it.
    stream.push = (chunk, encoding) => {
      // An honest request is one frame, or more of some size.
      if (chunk !== null && !isFirst) count(chunk.length);
      isFirst = false;
      return isOver && chunk !== null ? true : push.call(stream, chunk, encoding);
    };
  };
}
