// Finding one entity by one of three keys. Pure: what the database found comes in as hits.
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

/**
 * The id that the lookup names among the hits, if any. An entity_id names itself, there or not.
 * Throws AMBIGUOUS_TAX_ID_LOOKUP (rule 10), which lists ids and no data.
 */
export function resolve(
  lookup: Lookup,
  hits: { externalIds: ReadonlyMap<string, string>; taxIdKeys: ReadonlyMap<string, readonly string[]> },
): string | undefined {
  if (lookup.by === "entity_id") return lookup.key;
  if (lookup.by === "external_id") return hits.externalIds.get(lookup.key);
  const ids = hits.taxIdKeys.get(lookup.key) ?? [];
  if (ids.length <= 1) return ids[0];
  throw new DomainError("AMBIGUOUS_TAX_ID_LOOKUP", "Several entities have this tax id: use entity_id or external_id", {
    candidates: ids.slice(0, LIMITS.candidates).join(","),
  });
}
