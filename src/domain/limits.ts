/**
 * Limits of values, in code points unless said otherwise. docs/operate/limits.md shows the same table, and the proto says
 * each at its field. Lists of a request are limited by `max_items` in the proto.
 */
export const LIMITS = {
  name: 512,
  externalId: 255,
  externalIdsPerEntity: 100,
  /** Entities that are merged into one, directly or not. */
  mergedEntities: 100,
  tradingNames: 200,
  externalIdType: 64,
  /** For so long after its last known use an alias counts as in use. */
  externalIdInUseDays: 30,
  taxId: 64,
  reason: 4000,
  /** Shortest reason where one is mandatory (ChangeExternalId, ReleaseExternalId, DeleteEntity, UndeleteEntity). */
  mandatoryReasonMin: 5,
  /** Any other string. */
  string: 4096,
  structBytes: 64 * 1024,
  structKeys: 200,
  structDepth: 32,
  pageSize: 1000,
  pageSizeDefault: 100,
  batch: 1000,
  /** Paths of a field mask. */
  maskPaths: 100,
  /** Values of a request message, fields and items of lists and maps at any depth: what decoding costs goes by them. */
  messageValues: 100_000,
  /** Fields at fault that an error names; the rest it counts. */
  violations: 20,
  /** Where a page ends early: what its items take as a message. */
  pageBytes: 3 * 1024 * 1024,
  /** What the items of a batch take at most; those beyond are refused one by one. Clients of gRPC take 4 MiB. */
  batchAnswerBytes: 3.5 * 1024 * 1024,
  /** For how long events are kept at least and at most, where they are not kept for ever. */
  retentionDaysMin: 7,
  retentionDaysMax: 36_500,
  webhookEndpoints: 100,
  riskMatrices: 100,
  /** Code points of the expression of a rule, and of its id. */
  riskExpression: 2000,
  riskRuleId: 64,
  actor: 255,
  source: 64,
  /** Candidates named by AMBIGUOUS_TAX_ID_LOOKUP. */
  candidates: 20,
} as const;
