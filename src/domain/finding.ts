// What verification of the log finds: what is wrong, and with what. Nothing of what is in an event is ever in it.

export const FINDING_KINDS = [
  "CHANGED",
  "MISSING",
  "OUT_OF_ORDER",
  "EXTRA",
  "HEAD_DIFFERS",
  "ENTITY_DIFFERS",
  "CHECKPOINT_BROKEN",
  "SIGNATURE_INVALID",
  "EVALUATION_DIFFERS",
  "RISK_MATRIX_DIFFERS",
] as const;
export type FindingKind = (typeof FINDING_KINDS)[number];

/** What is not known, or does not apply, is absent. */
export interface Finding {
  readonly kind: FindingKind;
  readonly entityId?: string | undefined;
  readonly entityVersion?: number | undefined;
  readonly eventId?: string | undefined;
  /** The number of the checkpoint that tells. */
  readonly checkpoint?: number | undefined;
  readonly evaluationId?: string | undefined;
  readonly riskMatrixId?: string | undefined;
  readonly matrixVersion?: number | undefined;
  readonly detail: string;
}
