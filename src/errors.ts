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
import { type DomainError, type Reason, type Violation, withoutStack } from "./domain/errors.ts";

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
  EXTERNAL_ID_IN_USE: Code.FailedPrecondition,
  RISK_MATRIX_REQUIRED: Code.FailedPrecondition,
  RISK_EVALUATION_FAILED: Code.FailedPrecondition,
  ENTITY_DELETED: Code.FailedPrecondition,
  MERGE_NOT_ALLOWED: Code.FailedPrecondition,
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
  READ_TIME_EXPIRED: Code.OutOfRange,
};

/**
 * The error as it goes on the wire: status, text, google.rpc.ErrorInfo, google.rpc.BadRequest where fields are at fault.
 * OVERLOADED says when to come back in the two ways that clients act on by themselves: google.rpc.RetryInfo, and the
 * pushback of gRPC's retries.
 *
 * Over gRPC all of it is trailers, which clients and proxies bound at a few kB: it stays under 3 kB as it is sent,
 * whatever the rule that refused says. Fields that have no room are counted in `more_violations`.
 */
export function toConnectError(error: DomainError): ConnectError {
  const message = shorten(error.message, MESSAGE_BYTES);
  const { metadata, violations } = withRoom(error);
  const details: { desc: typeof ErrorInfoSchema | typeof BadRequestSchema | typeof RetryInfoSchema; value: object }[] =
    [{ desc: ErrorInfoSchema, value: { reason: error.reason, domain: ERROR_DOMAIN, metadata } }];
  if (violations.length > 0) details.push({ desc: BadRequestSchema, value: { fieldViolations: violations } });
  const retryAfterMs = error.reason === "OVERLOADED" ? Number(error.metadata.retry_after_ms) || undefined : undefined;
  if (retryAfterMs !== undefined)
    details.push({ desc: RetryInfoSchema, value: { retryDelay: durationFromMs(retryAfterMs) } });
  const headers = retryAfterMs === undefined ? undefined : { "grpc-retry-pushback-ms": String(retryAfterMs) };
  // The stack is that of the cause.
  return withoutStack(() => new ConnectError(message, CODE[error.reason], headers, details as never, error));
}

/** Bytes of the text, which is sent twice, once percent-encoded; of one value; of all values together. */
const MESSAGE_BYTES = 200;
const VALUE_BYTES = 160;
const DETAILS_BYTES = 1_250;
/** Tags and lengths of two texts and of what they are in. */
const ITEM_BYTES = 9;
/** Useful only as a whole: left out where they do not fit. */
const WHOLE: ReadonlySet<string> = new Set(["candidates", "position"]);

/** The part of an error that fits: its metadata first, then the fields at fault, in order. */
function withRoom(error: DomainError): { metadata: Record<string, string>; violations: Violation[] } {
  const { more_violations: uncounted = "0", ...given } = error.metadata;
  let room = DETAILS_BYTES;
  const fits = (a: string, b: string) => {
    const bytes = Buffer.byteLength(a) + Buffer.byteLength(b) + ITEM_BYTES;
    if (bytes > room) return false;
    room -= bytes;
    return true;
  };
  const metadata: Record<string, string> = {};
  const wholeFirst = ([a]: [string, string], [b]: [string, string]) => Number(WHOLE.has(b)) - Number(WHOLE.has(a));
  for (const [key, value] of Object.entries(given).sort(wholeFirst)) {
    const shown = WHOLE.has(key) ? value : shorten(value, VALUE_BYTES);
    if (fits(key, shown)) metadata[key] = shown;
  }
  const violations: Violation[] = [];
  for (const { field, description } of error.violations) {
    const shown = { field: shorten(field, VALUE_BYTES), description: shorten(description, VALUE_BYTES) };
    if (!fits(shown.field, shown.description)) break;
    violations.push(shown);
  }
  const more = Number(uncounted) + error.violations.length - violations.length;
  if (more > 0) metadata.more_violations = String(more);
  return { metadata, violations };
}

/** The text, without its end where it is longer. */
function shorten(text: string, bytes: number): string {
  if (Buffer.byteLength(text) <= bytes) return text;
  const cut = Buffer.from(text)
    .subarray(0, bytes - 3)
    .toString();
  // A character that was cut through is one that cannot be read.
  return `${cut.replace(/\ufffd+$/, "")}...`;
}

/** The reason of an error that is ours, as clients see it; undefined for any other. */
export function reasonOf(error: ConnectError): string | undefined {
  return error.findDetails(ErrorInfoSchema).find((info) => info.domain === ERROR_DOMAIN)?.reason;
}

/** Whether an error of ours says which field or header is at fault. */
export function namesField(error: ConnectError): boolean {
  return error.findDetails(ErrorInfoSchema).some(({ metadata }) => metadata.field !== undefined);
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
