// The request of a gRPC call: its bytes as they arrive, and the one message in them.
import type { DescMethod, Message } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { decodeBinary } from "./decode.ts";
import { PREFIX_BYTES } from "./encode.ts";
import type { RequestBytes } from "./request-bytes.ts";

/** Adds a chunk of the request. Throws what `add` throws, and RESOURCE_EXHAUSTED for a message over `readMaxBytes`. */
export function addChunk(bytes: RequestBytes, chunk: Buffer, readMaxBytes: number): void {
  bytes.add(chunk);
  if (Math.max(bytes.announced() ?? 0, bytes.size - PREFIX_BYTES) > readMaxBytes) {
    const which = `message size is larger than configured readMaxBytes ${readMaxBytes}`;
    throw new ConnectError(which, Code.ResourceExhausted);
  }
}

/** The one message of a complete request; throws what the library would throw. */
export function messageIn(body: Buffer, method: DescMethod): Message {
  return decodeBinary(method.input, envelope(body, method));
}

function envelope(body: Buffer, { methodKind }: DescMethod): Buffer {
  if (body.length === 0) {
    const kind = methodKind.replace("_", "-");
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
    const kind = methodKind.replace("_", "-");
    throw new ConnectError(`protocol error: received extra input message for ${kind} method`, Code.Unimplemented);
  }
  return body.subarray(PREFIX_BYTES);
}
