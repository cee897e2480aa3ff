// Rules 128 to 130: what a checkpoint of an organization's log says. AuditCheckpoint in the contract says the same to those
// who verify what they keep, so none of it can change: another form would be "audit-checkpoint/2", beside this one.
import { hash as digest } from "node:crypto";
import { canonicalJson } from "./json.ts";
import { type Instant, instantToText } from "./time.ts";

const FORM = "audit-checkpoint/1";
const HASH_BYTES = 32;

/** Events of one checkpoint at most, but for those of one transaction, which are never parted. */
export const CHECKPOINT_EVENTS = 10_000;

/** The previous hash of the first checkpoint. */
export const NO_CHECKPOINT_BEFORE: Buffer = Buffer.alloc(HASH_BYTES);

/** A checkpoint without its leaves and its signature. */
export interface Checkpoint {
  readonly organizationId: string;
  /** From 1 on, without a gap. */
  readonly number: number;
  /** The number of the log that all of its events carry. */
  readonly epoch: number;
  /** PostgreSQL's text of snapshots: it has the events of transactions that the second sees and the first does not. */
  readonly fromPosition: string;
  readonly toPosition: string;
  readonly count: number;
  /** Its own events and those of all checkpoints before it. */
  readonly total: number;
  /** The earliest and the latest time at which one of its events was recorded. */
  readonly firstAt: Instant;
  readonly lastAt: Instant;
  /** Up to when events had been pruned; null where none had been. */
  readonly horizon: Instant | null;
  readonly root: Buffer;
  /** The hash of the body of the checkpoint before it. */
  readonly previousHash: Buffer;
  /** The key that signed it; null where it is not signed. */
  readonly keyId: Buffer | null;
  readonly createdAt: Instant;
}

/** What is signed: all of a checkpoint but its leaves, in the form of RFC 8785. */
export const bodyOf = (checkpoint: Checkpoint): string =>
  canonicalJson({
    form: FORM,
    organization_id: checkpoint.organizationId,
    number: checkpoint.number,
    epoch: checkpoint.epoch,
    from_position: checkpoint.fromPosition,
    to_position: checkpoint.toPosition,
    count: checkpoint.count,
    total: checkpoint.total,
    first_at: instantToText(checkpoint.firstAt),
    last_at: instantToText(checkpoint.lastAt),
    horizon: checkpoint.horizon === null ? null : instantToText(checkpoint.horizon),
    root: checkpoint.root.toString("hex"),
    previous_hash: checkpoint.previousHash.toString("hex"),
    key_id: checkpoint.keyId?.toString("hex") ?? null,
    created_at: instantToText(checkpoint.createdAt),
  });

export const bodyHash = (body: string): Buffer => hashOf(Buffer.from(body));

// --- Leaves -------------------------------------------------------------------------------------

/** An event as a checkpoint lists it. */
export interface Leaf {
  readonly id: string;
  readonly recordedAt: Instant;
  /** The transaction that wrote it. */
  readonly xid: bigint;
  /** Null for an event that is not sealed: that it was there is all that is listed of it. */
  readonly hash: Buffer | null;
}

/** Bytes of a leaf: id 16, recorded_at in microseconds since 1970 8, xid 8, hash 32; numbers with the highest byte first. */
export const LEAF_BYTES = 64;
const [TIME_AT, XID_AT, HASH_AT] = [16, 24, 32];

/** Leaves behind one another, in the order of their transactions, then of their ids. */
export function leavesToBytes(leaves: readonly Leaf[]): Buffer {
  const bytes = Buffer.alloc(leaves.length * LEAF_BYTES);
  leaves.forEach(({ id, recordedAt, xid, hash }, i) => {
    const at = i * LEAF_BYTES;
    bytes.write(id.replaceAll("-", ""), at, TIME_AT, "hex");
    bytes.writeBigInt64BE(recordedAt, at + TIME_AT);
    bytes.writeBigUInt64BE(xid, at + XID_AT);
    hash?.copy(bytes, at + HASH_AT, 0, HASH_BYTES);
  });
  return bytes;
}

/** The time of the leaf at an index. */
export const leafTimeAt = (bytes: Buffer, index: number): Instant => bytes.readBigInt64BE(index * LEAF_BYTES + TIME_AT);

/** The transaction of the leaf at an index. */
export const leafXidAt = (bytes: Buffer, index: number): bigint => bytes.readBigUInt64BE(index * LEAF_BYTES + XID_AT);

/** Whether the leaf at an index stands behind the one before it. */
export function isBehindBefore(bytes: Buffer, index: number): boolean {
  const [before, at] = [(index - 1) * LEAF_BYTES, index * LEAF_BYTES];
  const byXid = bytes.compare(bytes, at + XID_AT, at + HASH_AT, before + XID_AT, before + HASH_AT);
  return byXid < 0 || (byXid === 0 && bytes.compare(bytes, at, at + TIME_AT, before, before + TIME_AT) < 0);
}

/** The leaf at an index. */
export function leafAt(bytes: Buffer, index: number): Leaf {
  const at = index * LEAF_BYTES;
  const hash = bytes.subarray(at + HASH_AT, at + LEAF_BYTES);
  return {
    id: bytes.toString("hex", at, at + TIME_AT).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"),
    recordedAt: bytes.readBigInt64BE(at + TIME_AT),
    xid: bytes.readBigUInt64BE(at + XID_AT),
    hash: hash.equals(NOT_SEALED) ? null : hash,
  };
}

const NOT_SEALED = Buffer.alloc(HASH_BYTES);

/** The order of leaves. */
export const inOrderOfLeaves = (a: Pick<Leaf, "xid" | "id">, b: Pick<Leaf, "xid" | "id">): number =>
  a.xid !== b.xid ? (a.xid < b.xid ? -1 : 1) : a.id < b.id ? -1 : a.id > b.id ? 1 : 0;

// --- The tree -----------------------------------------------------------------------------------

/** The Merkle tree of RFC 9162, section 2.1.1, as entries are added to it. */
export interface MerkleTree {
  add(entry: Uint8Array): void;
  /** The root over all that was added; nothing can be added after it. */
  root(): Buffer;
}

export function merkleTree(): MerkleTree {
  /** Roots of complete trees, the largest first: of as many leaves as the bits of their number say. */
  const roots: Buffer[] = [];
  let size = 0;
  const join = () => {
    const right = roots.pop() as Buffer;
    roots.push(sha256(1, roots.pop() as Buffer, right));
  };
  return {
    add(entry) {
      roots.push(sha256(0, entry));
      size += 1;
      for (let bits = size; bits % 2 === 0; bits /= 2) join();
    },
    root() {
      if (roots.length === 0) return hashOf(Buffer.alloc(0));
      while (roots.length > 1) join();
      return roots[0] as Buffer;
    },
  };
}

/** What is hashed is put together here. */
const scratch = Buffer.alloc(1 + 2 * LEAF_BYTES);

/** The hash over a byte and what follows it. */
function sha256(first: number, a: Uint8Array, b?: Uint8Array): Buffer {
  const length = 1 + a.length + (b?.length ?? 0);
  const bytes = length <= scratch.length ? scratch.subarray(0, length) : Buffer.alloc(length);
  bytes[0] = first;
  bytes.set(a, 1);
  if (b !== undefined) bytes.set(b, 1 + a.length);
  return hashOf(bytes);
}

// Asked for as a buffer it takes twice as long.
const hashOf = (bytes: Uint8Array): Buffer => Buffer.from(digest("sha256", bytes, "binary"), "latin1");
