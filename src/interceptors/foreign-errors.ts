// The library's own failures as refusals of the contract. Its texts may hold values of the request, so nothing of
// them goes on. Request messages are decoded and refused by us, before it reads any.
import type { DescMessage, DescMethod } from "@bufbuild/protobuf";
import { Code, type ConnectError } from "@connectrpc/connect";
import { callerLeft, DomainError, invalidField } from "../domain/errors.ts";

/** What a failure of the library means. Undefined: a defect, for the log and INTERNAL. */
export function foreignError(error: ConnectError, method: DescMethod): DomainError | undefined {
  const text = error.rawMessage;
  switch (error.code) {
    case Code.InvalidArgument:
      return timeoutRefusal(text) ?? malformed(text, method.input);
    case Code.ResourceExhausted:
      return tooLarge(text);
    case Code.Unimplemented:
      return unimplemented(text);
    case Code.DeadlineExceeded:
      return new DomainError("DEADLINE_EXCEEDED", "The call took longer than its deadline");
    case Code.Canceled:
    case Code.Aborted:
      return callerLeft();
    case Code.Internal:
      if (text.startsWith("received compressed envelope, ")) {
        // The gRPC compression specification asks for INTERNAL, though the caller is at fault.
        return new DomainError("INTERNAL", "The message is flagged as compressed, but the call names no encoding", {
          field: "grpc-encoding",
        });
      }
      return text.startsWith("parse binary: ") || text === "decompression failed"
        ? malformed(text, method.input)
        : undefined;
    default:
      return undefined;
  }
}

function timeoutRefusal(text: string): DomainError | undefined {
  const max = /^timeout [\d.e+]+ms must be <= (\d+)$/.exec(text)?.[1];
  if (max !== undefined) return invalidField("timeout", `must be at most ${max} ms`, { limit: max });
  if (text.startsWith("protocol error: invalid grpc timeout value: ")) {
    return invalidField("grpc-timeout", "must be up to 8 digits and one of the units H, M, S, m, u, n");
  }
  if (text.startsWith("protocol error: invalid connect timeout value: ")) {
    return invalidField("connect-timeout-ms", "must be up to 10 digits");
  }
  return undefined;
}

function tooLarge(text: string): DomainError {
  const [, which, limit = ""] = /configured (read|write)MaxBytes (\d+)/.exec(text) ?? [];
  const message = which === "write" ? "The response is" : "The request message is";
  return new DomainError("MESSAGE_TOO_LARGE", `${message} larger than ${limit} bytes`, { limit_bytes: limit });
}

function unimplemented(text: string): DomainError {
  if (text.startsWith("unknown compression ")) {
    return new DomainError("UNIMPLEMENTED", "The compression is not served: use gzip or identity");
  }
  if (text.startsWith("protocol error: missing input message")) {
    return new DomainError("UNIMPLEMENTED", "The call has no request message: it takes one");
  }
  if (text.startsWith("protocol error: received extra input message")) {
    return new DomainError("UNIMPLEMENTED", "The call has more than one request message: it takes one");
  }
  return new DomainError("UNIMPLEMENTED", "The RPC is not served");
}

function malformed(text: string, request: DescMessage): DomainError {
  if (text === "decompression failed") return refusal("The request cannot be decompressed");
  if (text.startsWith("protocol error: incomplete envelope")) return refusal("The request ends within a message");
  return refusal(`The request is not a valid ${request.typeName}`);
}

/** A refusal of the whole request: no field is at fault. */
function refusal(message: string): DomainError {
  return new DomainError("VALIDATION_ERROR", message);
}
