// The one table reason → status code, and the only file that builds an error of the wire.
import { create } from "@bufbuild/protobuf";
import { anyPack, durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "../clients/typescript/gen/google/rpc/error_details_pb.ts";
import { type Status, StatusSchema } from "../clients/typescript/gen/google/rpc/status_pb.ts";
import { type DomainError, type Reason, withoutStack } from "./domain/errors.ts";

/** `domain` of every google.rpc.ErrorInfo that the service sends. */
export const ERROR_DOMAIN = "entity.v1";

export const CODE: Record<Reason, Code> = {
  VALIDATION_ERROR: Code.InvalidArgument,
  INVALID_LOOKUP: Code.InvalidArgument,
  IMMUTABLE_FIELD: Code.InvalidArgument,
  STATUS_REASON_REQUIRED: Code.InvalidArgument,
  NOT_FOUND: Code.NotFound,
  DUPLICATE_EXTERNAL_ID: Code.AlreadyExists,
  DUPLICATE_TAX_ID: Code.AlreadyExists,
  AMBIGUOUS_TAX_ID_LOOKUP: Code.FailedPrecondition,
  EXTERNAL_ID_IMMUTABLE: Code.FailedPrecondition,
  EXTERNAL_ID_ALREADY_ASSIGNED: Code.FailedPrecondition,
  ENTITY_DELETED: Code.FailedPrecondition,
  REQUEST_ID_REUSED: Code.FailedPrecondition,
  ETAG_MISMATCH: Code.Aborted,
  WRITE_CONFLICT: Code.Aborted,
  UNAUTHENTICATED: Code.Unauthenticated,
  PERMISSION_DENIED: Code.PermissionDenied,
  OVERLOADED: Code.Unavailable,
  MESSAGE_TOO_LARGE: Code.ResourceExhausted,
  DATABASE_UNAVAILABLE: Code.Unavailable,
  COMMIT_UNKNOWN: Code.Unavailable,
  DEADLINE_EXCEEDED: Code.DeadlineExceeded,
  INTERNAL: Code.Internal,
  UNIMPLEMENTED: Code.Unimplemented,
  CANCELLED: Code.Canceled,
  POSITION_INVALID: Code.InvalidArgument,
  POSITION_EXPIRED: Code.OutOfRange,
  WATCH_TOO_SLOW: Code.ResourceExhausted,
};

/**
 * The error as it goes on the wire: status, text, google.rpc.ErrorInfo, google.rpc.BadRequest where fields are at fault.
 * OVERLOADED says when to come back in the two ways that clients act on by themselves: google.rpc.RetryInfo, and the
 * pushback of gRPC's retries.
 */
export function toConnectError(error: DomainError): ConnectError {
  const details: { desc: typeof ErrorInfoSchema | typeof BadRequestSchema | typeof RetryInfoSchema; value: object }[] =
    [{ desc: ErrorInfoSchema, value: { reason: error.reason, domain: ERROR_DOMAIN, metadata: error.metadata } }];
  if (error.violations.length > 0) {
    details.push({ desc: BadRequestSchema, value: { fieldViolations: error.violations.map((v) => ({ ...v })) } });
  }
  const retryAfterMs = error.reason === "OVERLOADED" ? Number(error.metadata.retry_after_ms) : undefined;
  if (retryAfterMs !== undefined)
    details.push({ desc: RetryInfoSchema, value: { retryDelay: durationFromMs(retryAfterMs) } });
  const metadata = retryAfterMs === undefined ? undefined : { "grpc-retry-pushback-ms": String(retryAfterMs) };
  // The stack is that of the cause.
  return withoutStack(() => new ConnectError(error.message, CODE[error.reason], metadata, details as never, error));
}

/** The reason of an error that is ours, as clients see it; undefined for any other. */
export function reasonOf(error: ConnectError): string | undefined {
  return error.findDetails(ErrorInfoSchema).find((info) => info.domain === ERROR_DOMAIN)?.reason;
}

/** The same error as a value inside a response: an item of a batch, a row of an import. */
export function toStatus(error: DomainError): Status {
  const { code, rawMessage, details } = toConnectError(error);
  return create(StatusSchema, {
    code,
    message: rawMessage,
    details: details.flatMap((detail) =>
      "desc" in detail ? [anyPack(detail.desc, create(detail.desc, detail.value))] : [],
    ),
  });
}
