// The one way to refuse: a reason of the contract, a text without any value of the request, and the
// metadata that says what to do. src/errors.ts turns it into a status.
import type { ErrorReason } from "../../clients/typescript/gen/entity/v1/error_pb.ts";

/** A reason of proto/entity/v1/error.proto, without its prefix. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED">;

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

/** Nothing in the caller's organization answers to the lookup; `lookup` is its kind, never its value. */
export function notFound(lookup: string, what = "Entity"): DomainError {
  return new DomainError("NOT_FOUND", `${what} not found`, { lookup });
}

/** One field is at fault. */
export function invalidField(field: string, description: string, metadata: Record<string, string> = {}): DomainError {
  return new DomainError("VALIDATION_ERROR", `${field}: ${description}`, { field, ...metadata }, [
    { field, description },
  ]);
}
