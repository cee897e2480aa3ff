// A unary call, answered from its HTTP/2 stream: one message in, one message out.
import type { DescMessage, DescMethodUnary, Message, MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { DomainError } from "../domain/errors.ts";
import { frameEncoder } from "./encode.ts";
import type { Answer, GrpcOptions } from "./grpc-call.ts";

/** A message or its init shape: the encoder takes either, so that no message is created for the answer. */
type Answered = MessageInitShape<DescMessage>;

/** `check` validates each request before `serve`; `present` as in GrpcOptions. */
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
      if (call.isOver) return;
      const pieces = encoder.frame(answered, (bytes) => call.more(bytes));
      call.end(pieces instanceof Promise ? await pieces : pieces);
    } catch (error) {
      // Nobody waits for the answer any more, but `present` logs failures of the database. Other errors only show that the
      // implementation was told to stop.
      if (call.isOver && error instanceof DomainError) present(error, call);
      throw error;
    }
  };
}
