// Rule 122: what is hashed of an event. EntityEvent in the contract says the same to those who verify their copies, so none of
// it can change: another form would be "entity-event/2", beside this one.
import { hash as digest } from "node:crypto";
import type { EntityType, EventType } from "./entity-state.ts";
import { canonicalJson, type JsonObject, JsonText } from "./json.ts";
import { type Instant, instantToText } from "./time.ts";

const FORM = "entity-event/1";
export const SALT_BYTES = 16;
const HASH_BYTES = 32;

/** The previous hash of the first event of an entity, or of the first that is sealed. */
export const NOTHING_BEFORE: Buffer = Buffer.alloc(HASH_BYTES);

/** What of an event is hashed: all that the service writes of it. What it does not have is null. */
export interface Sealable {
  readonly organizationId: string;
  readonly id: string;
  readonly entityId: string;
  readonly entityVersion: number;
  readonly entityType: EntityType;
  readonly type: EventType;
  readonly externalId: string | null;
  readonly externalIds: readonly string[];
  readonly updatedFields: readonly string[];
  readonly previousValues: JsonObject;
  readonly newValues: JsonObject;
  readonly actor: string;
  readonly principal: string;
  readonly source: string;
  readonly reason: string | null;
  readonly requestId: string | null;
  readonly metadata: JsonObject;
  readonly recordedAt: Instant;
  readonly occurredAt: Instant | null;
}

/** The documents of an event in the form of RFC 8785: the text that is hashed, and the text that is stored. */
export type Documents = Record<"previousValues" | "newValues" | "metadata", JsonText>;

export interface Seal {
  salt: Buffer;
  personalHash: Buffer;
  previousHash: Buffer;
  hash: Buffer;
}

export const documentsOf = ({ previousValues, newValues, metadata }: Sealable): Documents => ({
  previousValues: new JsonText(canonicalJson(previousValues)),
  newValues: new JsonText(canonicalJson(newValues)),
  metadata: new JsonText(canonicalJson(metadata)),
});

/** Seals an event behind the one with `previousHash`. The salt is SALT_BYTES random bytes that no other event has. */
export function sealOf(
  event: Sealable,
  { salt, previousHash, documents = documentsOf(event) }: { salt: Buffer; previousHash: Buffer; documents?: Documents },
): Seal {
  const personalHash = personalHashOf(event, documents, salt);
  return { salt, personalHash, previousHash, hash: hashOf(event, { previousHash, personalHash }) };
}

/** An event as it is stored, sealed or not. */
export type ChainedEvent = Sealable & {
  readonly salt: Buffer | null;
  readonly personalHash: Buffer | null;
  readonly previousHash: Buffer | null;
  readonly hash: Buffer | null;
};

export type SealState = "SOUND" | "ERASED" | "UNSEALED" | "CHANGED";

/** What the hashes of an event say of it; and the hash that it should have, where it can be computed. */
export function checkSeal(event: ChainedEvent): { state: SealState; hash: Buffer | undefined } {
  const { salt, personalHash, previousHash, hash } = event;
  if (salt === null && personalHash === null && previousHash === null && hash === null) {
    return { state: "UNSEALED", hash: undefined };
  }
  if (personalHash === null || previousHash === null || hash === null) return { state: "CHANGED", hash: undefined };
  try {
    const isErased = salt === null && isEmptied(event);
    if (salt === null && !isErased) return { state: "CHANGED", hash: undefined };
    const computed =
      salt === null
        ? { personalHash, hash: hashOf(event, { previousHash, personalHash }) }
        : sealOf(event, { salt, previousHash, documents: documentsOf(event) });
    const isSound = computed.personalHash.equals(personalHash) && computed.hash.equals(hash);
    return { state: isSound ? (isErased ? "ERASED" : "SOUND") : "CHANGED", hash: computed.hash };
  } catch {
    // What the service has never written: nested too deep, a time that has no text.
    return { state: "CHANGED", hash: undefined };
  }
}

/** All that can be erased is gone. */
const isEmptied = (event: ChainedEvent): boolean =>
  [event.externalId, event.externalIds, event.previousValues, event.newValues, event.reason, event.metadata].every(
    (value: unknown) => value === null,
  );

/** SHA-256(salt ‖ JCS([external_id, external_ids, previous_values, new_values, reason, metadata])): all that can be erased. */
function personalHashOf({ externalId, externalIds, reason }: Sealable, documents: Documents, salt: Buffer): Buffer {
  const { previousValues, newValues, metadata } = documents;
  const ids = `${JSON.stringify(externalId)},${JSON.stringify(externalIds)}`;
  const why = JSON.stringify(reason);
  return sha256(salt, `[${ids},${previousValues.text},${newValues.text},${why},${metadata.text}]`);
}

/**
 * SHA-256(previous_hash ‖ JCS(["entity-event/1", organization_id, id, entity_id, entity_version, entity_type, type,
 * updated_fields, actor, principal, source, request_id, recorded_at, occurred_at, hex(personal_hash)])). Can be computed
 * of an event whose personal values were erased, too.
 */
export function hashOf(
  event: Omit<Sealable, keyof Documents | "externalId" | "externalIds" | "reason">,
  { previousHash, personalHash }: { previousHash: Buffer; personalHash: Buffer },
): Buffer {
  // No objects and no numbers but the version: what JSON.stringify writes is in the form of RFC 8785.
  const text = JSON.stringify([
    FORM,
    event.organizationId,
    event.id,
    event.entityId,
    event.entityVersion,
    event.entityType,
    event.type,
    event.updatedFields,
    event.actor,
    event.principal,
    event.source,
    event.requestId,
    instantToText(event.recordedAt),
    event.occurredAt === null ? null : instantToText(event.occurredAt),
    personalHash.toString("hex"),
  ]);
  return sha256(previousHash, text);
}

/** What is hashed is put together here, unless it is longer. */
const scratch = Buffer.alloc(16 * 1024);
/** A unit of UTF-16 is at most so many bytes of UTF-8. */
const MAX_BYTES = 3;

/** Of the bytes and the text's UTF-8 behind them. */
function sha256(before: Buffer, text: string): Buffer {
  const isShort = before.length + MAX_BYTES * text.length <= scratch.length;
  const bytes = isShort ? scratch : Buffer.allocUnsafe(before.length + Buffer.byteLength(text));
  bytes.set(before);
  const length = before.length + bytes.write(text, before.length);
  // Asked for as a buffer it takes twice as long.
  return Buffer.from(digest("sha256", bytes.subarray(0, length), "binary"), "latin1");
}
