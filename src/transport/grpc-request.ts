// The request of a gRPC call: its bytes as they arrive, and the one message that is in them.
import type { ServerHttp2Stream } from "node:http2";
import { type DescMessage, type DescMethod, fromBinary, type Message } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { PREFIX_BYTES } from "./encode.ts";
import { assertKinds } from "./kindless.ts";
import type { RequestBytes } from "./request-bytes.ts";
import { assertFewValues } from "./values.ts";

/** Whose request it is: `received` is called once, when it is complete; `fail` for bytes that are too many. */
interface Receiver {
  /** Nothing is called any more. */
  readonly isOver: boolean;
  received(body: Buffer): void;
  fail(error: unknown): void;
}

const BINARY = { readUnknownFields: false };

/** Collects the request in `bytes`, in whose budget it counts until it is complete; its message has at most `readMaxBytes`. */
export function receive(stream: ServerHttp2Stream, bytes: RequestBytes, readMaxBytes: number, call: Receiver): void {
  stream.on("data", (chunk: Buffer) => {
    if (call.isOver) return;
    try {
      bytes.add(chunk);
    } catch (error) {
      call.fail(error);
      return;
    }
    if (Math.max(bytes.announced() ?? 0, bytes.size - PREFIX_BYTES) > readMaxBytes) {
      const which = `message size is larger than configured readMaxBytes ${readMaxBytes}`;
      call.fail(new ConnectError(which, Code.ResourceExhausted));
    }
  });
  const arrived = () => {
    if (!call.isOver) call.received(bytes.take());
  };
  // A stream without a body says so at once, or never where it ends with its headers.
  if (stream.endAfterHeaders || stream.readableEnded) arrived();
  else stream.on("end", arrived);
}

/** The one message of a complete request; throws what the library would. */
export function messageIn(body: Buffer, method: DescMethod): Message {
  return decode(method.input, envelope(body, method.methodKind.replace("_", "-")));
}

function envelope(body: Buffer, kind: string): Buffer {
  if (body.length === 0) {
    throw new ConnectError(`protocol error: missing input message for ${kind} method`, Code.Unimplemented);
  }
  if (body.length < PREFIX_BYTES) throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
  if (((body[0] as number) & 1) === 1) {
    throw new ConnectError("received compressed envelope, but do not know how to decompress", Code.Internal);
  }
  const length = body.readUInt32BE(1);
  if (body.length < PREFIX_BYTES + length) {
    throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
  }
  if (body.length > PREFIX_BYTES + length) {
    throw new ConnectError(`protocol error: received extra input message for ${kind} method`, Code.Unimplemented);
  }
  return body.subarray(PREFIX_BYTES);
}

function decode(input: DescMessage, bytes: Uint8Array): Message {
  assertFewValues(input, bytes);
  assertKinds(input, bytes);
  try {
    return fromBinary(input, bytes, BINARY);
  } catch (error) {
    // As the library says it; the interceptor of errors knows what may be told of it.
    throw new ConnectError(`parse binary: ${error instanceof Error ? error.message : ""}`, Code.Internal);
  }
}
