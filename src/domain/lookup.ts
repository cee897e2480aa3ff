// Finding one entity by one of three keys. Pure: what the database found comes in as hits.
import type { EntityState } from "./entity-state.ts";
import { DomainError } from "./errors.ts";
import { LIMITS } from "./limits.ts";

/** A checked lookup: an id in lower case, an external id trimmed, a tax id as its match key. */
export type Lookup =
  | { readonly by: "entity_id"; readonly key: string }
  | { readonly by: "external_id"; readonly key: string }
  | { readonly by: "tax_id"; readonly key: string };

/** Adds the key of a lookup to lists of keys. */
export function lookupKeys(
  lookup: Lookup,
  keys: { entityIds: string[]; externalIds: string[]; taxIdKeys: string[] },
): void {
  if (lookup.by === "entity_id") keys.entityIds.push(lookup.key);
  else if (lookup.by === "external_id") keys.externalIds.push(lookup.key);
  else keys.taxIdKeys.push(lookup.key);
}

/** Which entities match which key: those that were merged into none. */
export interface Hits {
  /** By the ids of merged entities that were asked for, their survivors. */
  survivors: ReadonlyMap<string, string>;
  externalIds: ReadonlyMap<string, string>;
  taxIdKeys: ReadonlyMap<string, readonly string[]>;
  /** By tax id and entity (`tieOf`), the merged entity on whose row it was found, where it is not on the entity's own. */
  taxIdHomes: ReadonlyMap<string, string>;
}

/** What a tax id and one of the entities that it names have in common. */
export const tieOf = (taxIdKey: string, entityId: string): string => `${entityId} ${taxIdKey}`;

/**
 * The id that the lookup names among the hits, if any. An entity_id names itself, there or not, or else its survivor.
 * Throws AMBIGUOUS_TAX_ID_LOOKUP (rule 10), which lists ids and no data.
 */
export function resolve(lookup: Lookup, hits: Omit<Hits, "taxIdHomes">): string | undefined {
  if (lookup.by === "entity_id") return hits.survivors.get(lookup.key) ?? lookup.key;
  if (lookup.by === "external_id") return hits.externalIds.get(lookup.key);
  const ids = hits.taxIdKeys.get(lookup.key) ?? [];
  if (ids.length <= 1) return ids[0];
  throw new DomainError("AMBIGUOUS_TAX_ID_LOOKUP", "Several entities have this tax id: use entity_id or external_id", {
    candidates: ids.slice(0, LIMITS.candidates).join(","),
  });
}

/** Rule 79: the merged entity whose key the lookup has, where that led to its survivor `entity`; else "". */
export function redirectedFrom(
  lookup: Lookup,
  entity: Pick<EntityState, "id" | "externalIds">,
  { taxIdHomes }: Pick<Hits, "taxIdHomes">,
): string {
  if (lookup.by === "entity_id") return lookup.key === entity.id ? "" : lookup.key;
  if (lookup.by === "tax_id") return taxIdHomes.get(tieOf(lookup.key, entity.id)) ?? "";
  return entity.externalIds.find(({ externalId }) => externalId === lookup.key)?.homeId ?? "";
}
