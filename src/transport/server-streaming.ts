// A server-streaming call, answered from its HTTP/2 stream: a page at a time if the responses come in pages, and no faster
// than the caller reads. A page is encoded once, however many streams send it.
import type { DescMessage, DescMethodServerStreaming, MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { CallHead } from "../interceptors/credentials.ts";
import { abandon } from "../interceptors/deadline.ts";
import { pagesOf } from "../paged.ts";
import { frameEncoder } from "./encode.ts";
import type { Answer } from "./grpc-call.ts";

/** Bytes written to a stream at once; the rest of a page waits until they have left. */
const CHUNK_BYTES = 128 * 1024;

/** `watchKey` calls back once the key is refused; its result ends the watch. */
export function serverStreamingAnswer(
  method: DescMethodServerStreaming,
  serve: (message: never, context: HandlerContext) => AsyncIterable<Init> | Promise<AsyncIterable<Init>>,
  watchKey: (call: CallHead, refused: (error: Error) => void) => () => void = () => () => {},
): Answer {
  const framesOf = shared(method.output);

  return async (call, request) => {
    const unwatch = watchKey(call, (error) => call.stop(error));
    call.whenOver(unwatch);
    const { pages: each, toMessage } = pagesOf(await serve(request as never, call));
    const pages = each[Symbol.asyncIterator]();
    call.whenOver(() => {
      unwatch();
      abandon(pages);
    });
    /** Returns whether there may be more. A separate function, so that no page stays in memory while the next one is awaited. */
    const sendPage = async () => {
      const page = await pages.next();
      if (page.done === true) {
        call.end();
        return false;
      }
      const frames = framesOf(page.value, toMessage);
      for (let i = 0, chunk = frames(0); chunk !== undefined && !call.isOver; chunk = frames(++i)) {
        if (!call.write(chunk)) await call.drained();
      }
      return !call.isOver;
    };
    while (await sendPage());
  };
}

type Init = MessageInitShape<DescMessage>;
/** The frames of a page, as chunks that are requested in order. */
type Frames = (index: number) => Buffer | undefined;

/** Encodes pages. A page is not encoded again while anybody references it. */
function shared(output: DescMessage): (page: readonly unknown[], toMessage: (item: unknown) => Init) => Frames {
  const encoder = frameEncoder(output);
  const known = new WeakMap<readonly unknown[], Frames>();
  return (page, toMessage) => {
    const before = known.get(page);
    if (before !== undefined) return before;
    const messages = { length: page.length, at: (index: number) => toMessage(page[index]) };
    const chunks: Buffer[] = [];
    let next = 0;
    const frames: Frames = (index) => {
      while (index >= chunks.length && next < page.length) {
        const [chunk, behind] = encoder.frames(messages, next, CHUNK_BYTES);
        chunks.push(chunk);
        next = behind;
      }
      return chunks[index];
    };
    known.set(page, frames);
    return frames;
  };
}
