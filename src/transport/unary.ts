// A unary call, as it is answered from its stream: the implementation within the interceptors, one message back.
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  isMessage,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { HandlerContext, Interceptor, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { type Answer, PREFIX_BYTES } from "./grpc-call.ts";

type Invoke = (request: UnaryRequest & { context: HandlerContext }) => Promise<UnaryResponse>;

/** An implementation within interceptors, the first outermost. */
export function unaryAnswer(
  method: DescMethodUnary,
  serve: (message: never, context: HandlerContext) => unknown,
  interceptors: readonly Interceptor[],
): Answer {
  const innermost: Invoke = async (request) => {
    const answered = (await serve(request.message as never, request.context)) as MessageInitShape<DescMessage>;
    const message = isMessage(answered, method.output) ? answered : create(method.output, answered);
    return { stream: false, service: method.parent, method, header: NO_HEADERS, trailer: NO_HEADERS, message };
  };
  const invoke = interceptors.reduceRight<Invoke>((next, each) => each(next as never) as never, innermost);

  return async (call, request) => {
    const { message } = await invoke(call.request(request));
    if (call.isOver) return;
    const bytes = toBinary(method.output, message);
    const framed = Buffer.allocUnsafe(PREFIX_BYTES + bytes.length);
    framed[0] = 0;
    framed.writeUInt32BE(bytes.length, 1);
    framed.set(bytes, PREFIX_BYTES);
    call.end(framed);
  };
}

/** What is sent are the headers of the context; no interceptor here reads those of the response. */
const NO_HEADERS = new Headers();
