// A stream of responses, as it is answered from its HTTP/2 stream: a page at a time where they come in pages, and
// no further than the reader has read. Messages are encoded once, however many streams send the same page.
import {
  create,
  type DescMessage,
  type DescMethodServerStreaming,
  isMessage,
  type Message,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { HandlerContext, Interceptor, StreamRequest, StreamResponse } from "@connectrpc/connect";
import type { CallHead } from "../interceptors/credentials.ts";
import { abandon } from "../interceptors/deadline.ts";
import { pagesOf } from "../paged.ts";
import { type Answer, PREFIX_BYTES } from "./grpc-call.ts";

type Invoke = (request: StreamRequest & { context: HandlerContext }) => Promise<StreamResponse>;

/** What is given to a stream at once; the rest of a page waits until that has left. */
const CHUNK_BYTES = 128 * 1024;

/** An implementation within interceptors, the first outermost. `watchKey` calls back once the key is refused, and returns how to end that. */
export function serverStreamingAnswer(
  method: DescMethodServerStreaming,
  serve: (message: never, context: HandlerContext) => unknown,
  interceptors: readonly Interceptor[],
  watchKey: (call: CallHead, refused: (error: Error) => void) => () => void = () => () => {},
): Answer {
  const innermost: Invoke = async (request) => {
    for await (const message of request.message as AsyncIterable<never>) {
      const answered = (await serve(message, request.context)) as AsyncIterable<Message>;
      return {
        stream: true,
        service: method.parent,
        method,
        header: NO_HEADERS,
        trailer: NO_HEADERS,
        message: answered,
      };
    }
    throw new Error("an interceptor took the request");
  };
  const invoke = interceptors.reduceRight<Invoke>((next, each) => each(next as never) as never, innermost);
  const framesOf = shared(method.output);

  return async (call, request) => {
    const unwatch = watchKey(call, (error) => call.stop(error));
    call.whenOver(unwatch);
    const { message: messages } = await invoke(call.request(once(request)));
    const pages = pagesOf(messages)[Symbol.asyncIterator]();
    call.whenOver(() => {
      unwatch();
      abandon(pages);
    });
    for (;;) {
      const page = await pages.next();
      if (page.done === true) return call.end();
      const frames = framesOf(page.value);
      for (let i = 0, chunk = frames(0); chunk !== undefined && !call.isOver; chunk = frames(++i)) {
        if (!call.write(chunk)) await call.drained();
      }
      if (call.isOver) return;
    }
  };
}

/** The frames of a page, as chunks that are asked for one after the other. */
type Frames = (index: number) => Buffer | undefined;

/** The frames of pages. A page that was encoded is not encoded again while anybody holds it. */
function shared(output: DescMessage): (page: readonly MessageInitShape<DescMessage>[]) => Frames {
  const known = new WeakMap<readonly MessageInitShape<DescMessage>[], Frames>();
  return (page) => {
    let frames = known.get(page);
    if (frames === undefined) {
      const chunks: Buffer[] = [];
      let next = 0;
      frames = (index) => {
        while (index >= chunks.length && next < page.length) {
          const messages: Uint8Array[] = [];
          for (let bytes = 0; bytes < CHUNK_BYTES && next < page.length; next++) {
            const message = encode(output, page[next] as MessageInitShape<DescMessage>);
            messages.push(message);
            bytes += PREFIX_BYTES + message.length;
          }
          chunks.push(framed(messages));
        }
        return chunks[index];
      };
      known.set(page, frames);
    }
    return frames;
  };
}

function encode(output: DescMessage, message: MessageInitShape<DescMessage>): Uint8Array {
  return toBinary(output, isMessage(message, output) ? message : create(output, message));
}

function framed(messages: readonly Uint8Array[]): Buffer {
  const size = messages.reduce((sum, { length }) => sum + PREFIX_BYTES + length, 0);
  const bytes = Buffer.allocUnsafeSlow(size);
  let at = 0;
  for (const message of messages) {
    bytes[at] = 0;
    bytes.writeUInt32BE(message.length, at + 1);
    bytes.set(message, at + PREFIX_BYTES);
    at += PREFIX_BYTES + message.length;
  }
  return bytes;
}

async function* once<T>(message: T): AsyncGenerator<T, void> {
  yield message;
}

/** What is sent are the headers of the context; no interceptor here reads those of the response. */
const NO_HEADERS = new Headers();
