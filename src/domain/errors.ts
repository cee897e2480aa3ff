// The one way to refuse: a reason of the contract, a text without any value of the request, and the
// metadata that says what to do. src/errors.ts turns it into a status.

/** A reason of proto/entity/v1/error.proto, without its prefix. */
export type Reason =
  | "VALIDATION_ERROR"
  | "INVALID_LOOKUP"
  | "IMMUTABLE_FIELD"
  | "STATUS_REASON_REQUIRED"
  | "NOT_FOUND"
  | "DUPLICATE_EXTERNAL_ID"
  | "DUPLICATE_TAX_ID"
  | "AMBIGUOUS_TAX_ID_LOOKUP"
  | "EXTERNAL_ID_IMMUTABLE"
  | "EXTERNAL_ID_ALREADY_ASSIGNED"
  | "EXTERNAL_ID_IN_USE"
  | "RISK_MATRIX_REQUIRED"
  | "RISK_EVALUATION_FAILED"
  | "ENTITY_DELETED"
  | "MERGE_NOT_ALLOWED"
  | "REQUEST_ID_REUSED"
  | "ETAG_MISMATCH"
  | "WRITE_CONFLICT"
  | "UNAUTHENTICATED"
  | "PERMISSION_DENIED"
  | "OVERLOADED"
  | "MESSAGE_TOO_LARGE"
  | "DATABASE_UNAVAILABLE"
  | "COMMIT_UNKNOWN"
  | "DEADLINE_EXCEEDED"
  | "INTERNAL"
  | "UNIMPLEMENTED"
  | "CANCELLED"
  | "POSITION_INVALID"
  | "POSITION_EXPIRED"
  | "WATCH_TOO_SLOW"
  | "READ_TIME_EXPIRED";

/** What is wrong with one field: `field` is a path of the request such as "entity.name". */
export interface Violation {
  field: string;
  description: string;
}

/**
 * A refusal. `message` and `metadata` hold no personal data: they leave the service and reach its log.
 * `violations` are answered as google.rpc.BadRequest.
 */
export class DomainError extends Error {
  override readonly name = "DomainError";
  readonly reason: Reason;
  readonly metadata: Record<string, string>;
  readonly violations: readonly Violation[];

  constructor(
    reason: Reason,
    message: string,
    metadata: Record<string, string> = {},
    violations: readonly Violation[] = [],
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.reason = reason;
    this.metadata = metadata;
    this.violations = violations;
  }
}

/** Nothing in the caller's organization matches the lookup; `lookup` is its kind, never its value. */
export function notFound(lookup: string, what = "Entity", metadata: Record<string, string> = {}): DomainError {
  return new DomainError("NOT_FOUND", `${what} not found`, { lookup, ...metadata });
}

/** Why two entities cannot be merged, or parted. */
export type MergeCause =
  | "SAME_ENTITY"
  | "TYPE_DIFFERS"
  | "SECONDARY_REDIRECTED"
  | "REDIRECTED"
  | "DISTINCT"
  | "LIMIT"
  | "UNDONE"
  | "MERGED_SINCE";

const CURES: Record<MergeCause, string> = {
  SAME_ENTITY: "Both are the same entity, or have been merged already",
  TYPE_DIFFERS: "A person and a company cannot be merged",
  SECONDARY_REDIRECTED: "The secondary has been merged already: name its survivor, if that is what shall be merged",
  REDIRECTED: "The lookup names an entity that has been merged: name its survivor, if that is what shall be deleted",
  DISTINCT: "Two of the entities are marked as distinct: LiftDistinct allows their merge",
  LIMIT: "The merged entity would exceed a limit",
  UNDONE: "The merge has been undone already",
  MERGED_SINCE: "The primary has been merged itself since: undo that merge first",
};

/** `metadata` names what the cause is about. */
export function mergeNotAllowed(cause: MergeCause, metadata: Record<string, string>): DomainError {
  return new DomainError("MERGE_NOT_ALLOWED", CURES[cause], { cause, ...metadata });
}

/** One field is at fault. */
export function invalidField(field: string, description: string, metadata: Record<string, string> = {}): DomainError {
  return new DomainError("VALIDATION_ERROR", `${field}: ${description}`, { field, ...metadata }, [
    { field, description },
  ]);
}

/** The refusal of one item of `list`, as that of the whole request. */
export function inItem(error: DomainError, list: string, index: number): DomainError {
  const at = (field: string) => `${list}[${index}].${field}`;
  const { message } = error;
  const { field, ...metadata } = error.metadata;
  return new DomainError(
    error.reason,
    field !== undefined && message.startsWith(`${field}: `) ? at(message) : message,
    { ...metadata, index: String(index), ...(field === undefined ? {} : { field: at(field) }) },
    error.violations.map((violation) => ({ ...violation, field: at(violation.field) })),
    { cause: error.cause },
  );
}

/**
 * An error without its stack, for refusals that may come in floods: where they were made says nothing that the reason
 * does not, and to capture it costs more than all else that is done for such a call.
 */
export function withoutStack<T>(make: () => T): T {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return make();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

/** The caller disconnected: whatever still works for it stops with this. */
export const callerLeft = (): DomainError =>
  withoutStack(() => new DomainError("CANCELLED", "The caller went away before the answer"));

/** Back-pressure: no room for the call, and nothing of it was done; `what` is too many. Its code is UNAVAILABLE, with google.rpc.RetryInfo. */
export function overloaded(what: string, retryAfterMs = 500): DomainError {
  return withoutStack(() => new DomainError("OVERLOADED", `${what}: retry`, { retry_after_ms: String(retryAfterMs) }));
}
