// A unary call, as it is answered from its stream: the implementation within the interceptors, one message back.
import { create, type DescMessage, type DescMethodUnary, isMessage, type MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext, Interceptor, UnaryRequest, UnaryResponse } from "@connectrpc/connect";
import { frameEncoder } from "./encode.ts";
import type { Answer } from "./grpc-call.ts";

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
  const encoder = frameEncoder(method.output);
  const invoke = interceptors.reduceRight<Invoke>((next, each) => each(next as never) as never, innermost);

  return async (call, request) => {
    const { message } = await invoke(call.request(request));
    if (call.isOver) return;
    call.end(encoder.frame(message));
  };
}

/** What is sent are the headers of the context; no interceptor here reads those of the response. */
const NO_HEADERS = new Headers();
