// A stream of responses, as it is answered from its HTTP/2 stream: a page at a time where they come in pages, and
// no further than the reader has read. Messages are encoded once, however many streams send the same page.
import type { DescMessage, DescMethodServerStreaming, MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { CallHead } from "../interceptors/credentials.ts";
import { abandon } from "../interceptors/deadline.ts";
import { pagesOf } from "../paged.ts";
import { frameEncoder } from "./encode.ts";
import type { Answer } from "./grpc-call.ts";

/** What is given to a stream at once; the rest of a page waits until that has left. */
const CHUNK_BYTES = 128 * 1024;

/** `watchKey` calls back once the key is refused, and returns how to end that. */
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
    /** Whether there may be more. A function of its own, so that no page is held while the next one is waited for. */
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
/** The frames of a page, as chunks that are asked for one after the other. */
type Frames = (index: number) => Buffer | undefined;

/** The frames of pages. What was encoded is not encoded again while anybody holds the page. */
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
