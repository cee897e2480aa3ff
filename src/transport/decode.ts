// Request messages from their bytes in the binary form, within what they may hold.
import { type DescMessage, fromBinary, type Message } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { assertKinds } from "./kindless.ts";
import { plainMessage } from "./plain-message.ts";
import { assertFewValues } from "./values.ts";

const BINARY = { readUnknownFields: false };

/** Throws a ConnectError: MESSAGE_TOO_LARGE, a Value without a kind, or what the library throws at bytes that are no message. */
export function decodeBinary(desc: DescMessage, bytes: Uint8Array): Message {
  assertFewValues(desc, bytes);
  const plain = plainMessage(desc, bytes);
  if (plain !== undefined) return plain;
  assertKinds(desc, bytes);
  try {
    return fromBinary(desc, bytes, BINARY);
  } catch (error) {
    // The library's error; `presentable` decides what the caller gets to see of it.
    throw new ConnectError(`parse binary: ${error instanceof Error ? error.message : ""}`, Code.Internal);
  }
}
