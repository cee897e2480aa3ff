// What a group refuses of a command whatever its rule says: an entity that is not as it was named, an id that is taken.

import { isStatementTimeout } from "../db/failures.ts";
import { type EntityState, hasTaxId } from "../domain/entity-state.ts";
import { DomainError, notFound } from "../domain/errors.ts";
import type { Command, Move, Target } from "./command.ts";
import type { FoundHits } from "./lookups.ts";

/** Rules 3 and 35: the entity is there, and is the one that the caller has seen. */
export function refuseUnlessAsNamed({ lookup, allowMissing, etag, field }: Target, entity: EntityState | null): void {
  const named: Record<string, string> = field === undefined ? {} : { field };
  if (entity === null) {
    if (!allowMissing || etag !== undefined) throw notFound(lookup.by, "Entity", named);
  } else if (etag !== undefined && etag !== entity.etag) {
    throw new DomainError("ETAG_MISMATCH", "The entity has changed since it was read: read it again, then retry", {
      etag: entity.etag,
      entity_id: entity.id,
      ...named,
    });
  }
}

/** Rules 16, 47, 55 and 18: uniqueness, the last of the checks. What another entity of the command releases is free. */
export function refuseTaken({ claimField, uniqueTaxIdKey }: Command, moves: readonly Move[], hits: FoundHits): void {
  const has = (state: EntityState | null, externalId: string) =>
    state?.externalIds.some((id) => id.externalId === externalId) === true;
  /** Whether the entity still has what it had, once the command is done. */
  const keeps = (id: string, isKept: (after: EntityState) => boolean) =>
    moves.every(({ after }) => after.id !== id || isKept(after));
  for (const { before, after, change } of moves) {
    if (change === null) continue;
    for (const { externalId } of after.externalIds) {
      if (has(before, externalId)) continue;
      const owner = hits.externalIds.get(externalId);
      if (owner === undefined || owner === after.id || !keeps(owner, (state) => has(state, externalId))) continue;
      const { field, index } = claimField?.(externalId) ?? { field: "external_id" };
      throw new DomainError(
        "DUPLICATE_EXTERNAL_ID",
        "Another entity has this external id",
        { field, ...(index === undefined ? {} : { index }) },
        [{ field, description: "is in use by another entity of the organization" }],
      );
    }
    if (uniqueTaxIdKey === undefined) continue;
    const isKept = (state: EntityState) => state.deletedAt === null && hasTaxId(state, uniqueTaxIdKey);
    const holders = [
      ...(hits.taxIdKeys.get(uniqueTaxIdKey) ?? []),
      ...(hits.taxIdForms.get(uniqueTaxIdKey)?.keys() ?? []),
    ];
    if (holders.some((id) => id !== after.id && keeps(id, isKept))) {
      throw new DomainError("DUPLICATE_TAX_ID", "Another entity has this tax id", { field: "entity.tax_id" }, [
        { field: "entity.tax_id", description: "is in use by another entity of the organization" },
      ]);
    }
  }
}

export const heldByOthers = () =>
  new DomainError("WRITE_CONFLICT", "Another write held the rows for too long: retry", { retry_after_ms: "100" });

/** Of a statement that waits for several locks: each came in time, and all of them together did not. */
export function heldTooLong(error: unknown): never {
  throw isStatementTimeout(error) ? heldByOthers() : error;
}
