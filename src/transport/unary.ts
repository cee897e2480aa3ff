// A unary call, as it is answered from its stream: one message in, the implementation, one message back.
import type { DescMessage, DescMethodUnary, Message, MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";
import { frameEncoder } from "./encode.ts";
import type { Answer, GrpcOptions } from "./grpc-call.ts";

/** A message, or what one is made of: the encoder takes either. */
type Answered = MessageInitShape<DescMessage>;

/** `check` looks at each request before `serve`; `present` is that of the calls. */
export function unaryAnswer(
  { input, output }: DescMethodUnary,
  serve: (message: never, context: HandlerContext) => Answered | Promise<Answered>,
  { check, present }: { check: (desc: DescMessage, message: Message) => void } & Pick<GrpcOptions, "present">,
): Answer {
  const encoder = frameEncoder(output);
  return async (call, message) => {
    try {
      check(input, message);
      const answered = await serve(message as never, call);
      if (!call.isOver) call.end(encoder.frame(answered));
    } catch (error) {
      // Nobody waits for the answer any more; but what is wrong with the database is for the log. All else is the noise of
      // an implementation that was told to stop.
      if (call.isOver && error instanceof DomainError) present(error, call);
      throw error;
    }
  };
}
