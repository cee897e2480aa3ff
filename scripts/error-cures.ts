// What a caller does about each reason, for the reference of errors. The texts of error.proto say when it comes and what its
// metadata has; a reason that has no entry here does not compile.
import type { Reason } from "../src/domain/errors.ts";

/** Whether the same call may succeed without a change: never, when sent again under its request_id, or as a new call. */
export type Again = "no" | "yes" | "after a change";

export interface Cure {
  again: Again;
  what: string;
}

export const CURES: Record<Reason, Cure> = {
  VALIDATION_ERROR: {
    again: "no",
    what: "Mend the fields that the BadRequest names. A defect of the caller: log it, do not repeat it.",
  },
  INVALID_LOOKUP: { again: "no", what: "Name exactly one of entity_id, external_id and tax_id." },
  IMMUTABLE_FIELD: {
    again: "no",
    what: "Leave type and country_code out of updates. Where they are wrong, create another entity and delete this one.",
  },
  STATUS_REASON_REQUIRED: {
    again: "after a change",
    what: "Ask whoever changes the status why, and send it as reason.",
  },
  NOT_FOUND: {
    again: "after a change",
    what: "Create the entity, or send UpdateEntity with allow_missing, which does. Check that the key is of the right organization.",
  },
  DUPLICATE_EXTERNAL_ID: {
    again: "no",
    what: "Look the id up: its entity is the one that is meant, or a duplicate to be merged, or the id is wrong.",
  },
  DUPLICATE_TAX_ID: {
    again: "no",
    what: "Look the tax id up and update that entity; without require_unique_tax_id a second one is created.",
  },
  AMBIGUOUS_TAX_ID_LOOKUP: {
    again: "after a change",
    what: "Use one of the candidates as entity_id. Entities that are one person are merged by MergeEntities.",
  },
  EXTERNAL_ID_IMMUTABLE: {
    again: "no",
    what: "Add the new id with AddExternalIds, or have an administrator change the organization's policy.",
  },
  EXTERNAL_ID_ALREADY_ASSIGNED: {
    again: "no",
    what: "ChangeExternalId replaces the one that is there; AddExternalIds adds another.",
  },
  EXTERNAL_ID_IN_USE: {
    again: "after a change",
    what: "Find out which system still uses the alias. force releases it all the same.",
  },
  RISK_MATRIX_REQUIRED: { again: "after a change", what: "Set risk_matrix_id by UpdateEntity." },
  RISK_EVALUATION_FAILED: {
    again: "after a change",
    what: "Make the rule that is named simpler, or disable it, by UpdateRiskMatrix.",
  },
  ENTITY_DELETED: { again: "after a change", what: "UndeleteEntity brings it back, if that is meant." },
  MERGE_NOT_ALLOWED: { again: "after a change", what: "The cause says what to do; see [merging](../merging.md)." },
  REQUEST_ID_REUSED: { again: "no", what: "Make a new request_id for every new request; keep it for retries alone." },
  ETAG_MISMATCH: {
    again: "after a change",
    what: "Read the entity again, decide again, and send its new etag with a new request_id.",
  },
  WRITE_CONFLICT: { again: "yes", what: "Wait for retry_after_ms and a random part of it, then send the same again." },
  UNAUTHENTICATED: { again: "no", what: "Get a valid API key; read the file of the key again where it rotates." },
  PERMISSION_DENIED: { again: "no", what: "Have an administrator make a key with the scope that is named." },
  OVERLOADED: {
    again: "yes",
    what: "Wait for as long as RetryInfo says and a random part of it, then send the same again.",
  },
  MESSAGE_TOO_LARGE: { again: "no", what: "Send, or ask for, less in one call." },
  DATABASE_UNAVAILABLE: {
    again: "yes",
    what: "Wait, longer each time, and send the same again. A watch goes on from its position.",
  },
  COMMIT_UNKNOWN: {
    again: "yes",
    what: "Send the same with the same request_id. Without one, read the entity first: the write may be there.",
  },
  DEADLINE_EXCEEDED: {
    again: "yes",
    what: "Send a write again with the same request_id, with more time. Where it comes often, ask for less in one call.",
  },
  INTERNAL: {
    again: "no",
    what: "Tell whoever runs the service the request_id of the metadata: its log line has the cause.",
  },
  UNIMPLEMENTED: {
    again: "no",
    what: "Check the path, the method and the content-type; `grpcurl ... list` shows what is served.",
  },
  CANCELLED: { again: "yes", what: "Nothing: it was the caller's own decision. A write may have been done." },
  POSITION_INVALID: { again: "no", what: "Use positions as they came, with a key of the same organization." },
  POSITION_EXPIRED: { again: "after a change", what: "List again, or export, and watch from the position of that." },
  WATCH_TOO_SLOW: {
    again: "after a change",
    what: "Watch again from the position in the metadata; store in larger groups.",
  },
  READ_TIME_EXPIRED: { again: "no", what: "Ask for a time not before the earliest that the metadata names." },
};
