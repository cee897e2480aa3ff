// The entities that activity is recorded for: held while a row is written, stored by the one that was named and shown as
// its survivor.
import { createHash } from "node:crypto";
import type { Statements } from "../db/statements.ts";
import { DomainError, notFound } from "../domain/errors.ts";
import { canonicalJson, type JsonObject } from "../domain/json.ts";
import { type Lookup, lookupKeys, resolve, tieOf } from "../domain/lookup.ts";
import type { StoredParty, StoredTransaction } from "./activity.ts";
import type { AliasUse } from "./alias-use.ts";
import { type FoundHits, findHits, type Keys } from "./lookups.ts";

const MAX_ROUNDS = 5;

/** The entity of one side of a transaction, or of a user event. */
export interface HeldParty {
  /** Whose the row is for ever: the entity that was named, also where it was merged into another one. */
  home: string;
  /** The primary external id of `home`, which the row gets a copy of; null where it has none, as all that were merged. */
  copy: string | null;
  /** The survivor, as which it is shown, and its primary external id. */
  id: string;
  externalId: string | null;
}

/**
 * Rules 50, 96: the entities that the lookups name, or their survivors, locked FOR SHARE in id order until the transaction
 * ends, so that no external id moves between the copy and the commit, and nothing is merged or parted: both lock the
 * survivor. Undefined for a side without a lookup. A lookup that names none, several or a deleted one refuses the whole
 * list, with its index. Rule 138: to name a party by an alias is to use that.
 */
export async function holdParties(
  db: Statements,
  organizationId: string,
  parties: readonly { lookup: Lookup | undefined; field: string; index: number }[],
  aliasUse: Pick<AliasUse, "namedParty">,
): Promise<(HeldParty | undefined)[]> {
  const keys: Keys = { entityIds: [], externalIds: [], taxIdKeys: [] };
  for (const { lookup } of parties) if (lookup !== undefined) lookupKeys(lookup, keys);
  const held = new Map<string, { id: string; external_id: string | null; deleted: boolean }>();

  for (let round = 1; round <= MAX_ROUNDS; round++) {
    const hits = await findHits(db, organizationId, keys);
    const ids = parties.map(({ lookup, field, index }) => {
      if (lookup === undefined) return undefined;
      const id = at(field, index, () => resolve(lookup, hits));
      if (id === undefined) throw at(field, index, () => notFound(lookup.by));
      return id;
    });
    const wanted = [...new Set(ids)].filter((id) => id !== undefined && !held.has(id)) as string[];
    if (wanted.length === 0) {
      return parties.map(({ lookup, field, index }, i) => {
        const id = ids[i];
        if (lookup === undefined || id === undefined) return undefined;
        const entity = held.get(id);
        if (entity === undefined) throw at(field, index, () => notFound(lookup.by));
        if (entity.deleted) {
          throw withField(
            new DomainError("ENTITY_DELETED", "The entity is deleted: UndeleteEntity brings it back", {
              entity_id: id,
              allowed: "UndeleteEntity",
            }),
            field,
            index,
          );
        }
        const externalId = entity.external_id;
        aliasUse.namedParty(organizationId, lookup, { id, externalId });
        const home = homeOf(lookup, id, hits);
        return { home, copy: home === id ? externalId : null, id, externalId };
      });
    }
    const rows = await shareEntities(db, organizationId, wanted);
    for (const row of rows) held.set(row.id, row);
    const missing = wanted.find((id) => !held.has(id));
    if (missing !== undefined) {
      const { lookup, field, index } = parties[ids.indexOf(missing)] as (typeof parties)[number];
      throw withField(notFound(lookup?.by ?? "entity_id"), field, index);
    }
  }
  throw new DomainError("WRITE_CONFLICT", "The lookups kept moving: retry", { retry_after_ms: "100" });
}

/** The entity that the key is of, which may have been merged into `id`. */
function homeOf(lookup: Lookup, id: string, hits: FoundHits): string {
  if (lookup.by === "entity_id") return lookup.key;
  const home =
    lookup.by === "external_id" ? hits.externalIdHomes.get(lookup.key) : hits.taxIdHomes.get(tieOf(lookup.key, id));
  return home ?? id;
}

/** Runs `work`; a refusal of it, or one that it answers, says which item of the list was at fault. */
function at<T>(field: string, index: number, work: () => T): T {
  try {
    const value = work();
    return value instanceof DomainError ? (withField(value, field, index) as T) : value;
  } catch (error) {
    throw error instanceof DomainError ? withField(error, field, index) : error;
  }
}

function withField(error: DomainError, field: string, index: number): DomainError {
  return new DomainError(error.reason, `${field}: ${error.message}`, {
    ...error.metadata,
    field,
    index: String(index),
  });
}

/** Locks entities against writers alone, in id order: recorders do not wait for each other. */
async function shareEntities(
  db: Statements,
  organizationId: string,
  ids: string[],
): Promise<{ id: string; external_id: string | null; deleted: boolean }[]> {
  return db.execute(
    `select e.id, e.external_id, e.deleted_at is not null as deleted from entity e
     where e.organization_id = $1 and e.id = any($2::uuid[]) order by e.id for share`,
    [organizationId, ids],
  );
}

/** What the caller says of a party beside its entity. */
type NamedParty = Pick<StoredParty, "name" | "country">;

/** A party as its row has it: by the entity that was named. */
export const storedParty = ({ name, country }: NamedParty, entity: HeldParty | undefined): StoredParty => ({
  ...{ entityId: entity?.home ?? null, externalId: entity?.copy ?? null, name, country },
});

/** A party as callers see it: by its survivor. */
export const shownParty = ({ name, country }: NamedParty, entity: HeldParty | undefined): StoredParty => ({
  ...{ entityId: entity?.id ?? null, externalId: entity?.externalId ?? null, name, country },
});

/** Rule 98: parties that are one entity now are the same, whichever of them was named then and now. */
export function isSame(
  old: StoredTransaction,
  stored: StoredTransaction,
  shown: Omit<StoredTransaction, "contentHash">,
): boolean {
  return old.contentHash.equals(stored.contentHash) || contentHash(old).equals(contentHash(shown));
}

/** What must be equal for a transaction sent again: all that the caller says, whichever key named the parties. */
export function contentHash(transaction: Omit<StoredTransaction, "contentHash">): Buffer {
  const { type, status, amount, currency, transactedAt, details, origin, destination } = transaction;
  const content = { type, status, amount, currency, transactedAt, details, origin, destination };
  const party = ({ entityId, name, country }: StoredParty) => ({ entityId, name, country });
  const plain: JsonObject = {
    ...content,
    transactedAt: String(content.transactedAt),
    origin: party(content.origin),
    destination: party(content.destination),
  };
  return createHash("sha256").update(canonicalJson(plain)).digest();
}
