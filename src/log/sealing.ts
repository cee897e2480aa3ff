// Seals events as they are written (rules 122 to 125): each behind the last event of its entity, whose lock is held.
import { randomBytes } from "node:crypto";
import { documentsOf, NOTHING_BEFORE, SALT_BYTES, sealOf } from "../domain/seal.ts";
import type { LoggedEvent, SealedEvent } from "./events.ts";

/** An event that is not sealed yet. */
export type UnsealedEvent = Omit<LoggedEvent, "salt" | "previousHash" | "hash">;

/** The hashes of the last events of entities, by the entities' ids. None: the entity has no event that is sealed. */
export type Heads = Map<string, Buffer>;

/** Seals events in their order, and moves the heads of their entities on. */
export const sealEvents = (events: readonly UnsealedEvent[], heads: Heads): SealedEvent[] =>
  events.map((event) => {
    const documents = documentsOf(event);
    const previousHash = heads.get(event.entityId) ?? NOTHING_BEFORE;
    const { salt, personalHash, hash } = sealOf(event, { salt: newSalt(), previousHash, documents });
    heads.set(event.entityId, hash);
    const { previousValues, newValues, metadata } = documents;
    // Each by its name: V8 takes twice as long for further spreads.
    return { ...event, previousValues, newValues, metadata, salt, personalHash, previousHash, hash };
  });

const SALTS = 256;
let pool = Buffer.alloc(0);
let used = 0;

/** Random bytes; those of a pool are asked for at once. Another pool each time: the last one may not have been sent yet. */
function newSalt(): Buffer {
  if (used === pool.length) [pool, used] = [randomBytes(SALTS * SALT_BYTES), 0];
  used += SALT_BYTES;
  return pool.subarray(used - SALT_BYTES, used);
}
