/** Limits of values, in code points unless said otherwise. The README shows the same table. */
export const LIMITS = {
  name: 512,
  externalId: 255,
  externalIdsPerEntity: 100,
  externalIdType: 64,
  taxId: 64,
  reason: 4000,
  /** Shortest reason where one is mandatory (ChangeExternalId, DeleteEntity, UndeleteEntity). */
  mandatoryReasonMin: 5,
  /** Any other string. */
  string: 4096,
  structBytes: 64 * 1024,
  structKeys: 200,
  structDepth: 32,
  tradingNames: 200,
  pageSize: 1000,
  pageSizeDefault: 100,
  batch: 1000,
  /** For how long events are kept at least and at most, where they are not kept for ever. */
  retentionDaysMin: 7,
  retentionDaysMax: 36_500,
  webhookEndpoints: 100,
  actor: 255,
  source: 64,
  /** Candidates named by AMBIGUOUS_TAX_ID_LOOKUP. */
  candidates: 20,
} as const;
