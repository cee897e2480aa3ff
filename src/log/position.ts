// Where a watch is in the log, as callers keep it. Commits do not follow the order of any number that their rows
// carry: of two that overlap, the one with the lower number may commit later, and a reader that goes on after the
// higher one misses it. So a position names the set of transactions that were committed, which is a snapshot; and
// within what was committed between two of them, how far the watch has come.
import { crc32 } from "node:zlib";
import { DomainError } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import type { Instant } from "../domain/time.ts";
import type { Horizon } from "./horizon.ts";
import { covers, type Snapshot, upTo } from "./snapshot.ts";
import type { LogPlace } from "./source.ts";

export interface Position {
  /** The id of the epoch, that is of the start of the cluster that gave the position: log/durable.ts says what it is good for in another one. */
  epoch: string;
  /** All of this has come. */
  from: Snapshot;
  /** And of what was committed after it up to `to`, in the order of time and id, all up to `after`; the last is of the time `until`. */
  within?: { to: Snapshot; after: LogPlace; until: Instant } | undefined;
}

/** Bytes of one snapshot: a position, and a page token with one in it, stay within the limit of any string. */
const MAX_SNAPSHOT_BYTES = 1_000;
const VERSION = 2;
const CHECKSUM_BYTES = 4;
const UUID_BYTES = 16;
const TIME_BYTES = 8;
/** What may follow the snapshot that all positions have: a range and the place in it, with or without whose it is. */
const NO_RANGE = 0;
const RANGE = 1;
const RANGE_OF_ALL = 2;

/**
 * The text of a position, bound to the organization by its checksum. That is no secret: what it stands before is
 * checked like anything that a caller sends. Base64url of: checksum, version, epoch, `from`, the kind of what follows;
 * of a range `to`, `until`, and the time, the id and perhaps the organization of `after`.
 */
export function encodePosition(organizationId: string, { epoch, from, within }: Position): string {
  const after = within?.after;
  const head = headOf(organizationId, epoch, from, within);
  const start = CHECKSUM_BYTES + head.bytes.length;
  const placeBytes = after === undefined ? 0 : TIME_BYTES + UUID_BYTES * (after.organizationId === undefined ? 1 : 2);
  const bytes = Buffer.allocUnsafe(start + placeBytes);
  head.bytes.copy(bytes, CHECKSUM_BYTES);
  if (after !== undefined) {
    bytes.writeBigInt64BE(after.recordedAt, start);
    writeUuid(bytes, after.id, start + TIME_BYTES);
    if (after.organizationId !== undefined) writeUuid(bytes, after.organizationId, start + TIME_BYTES + UUID_BYTES);
  }
  bytes.writeUInt32BE(crc32(bytes.subarray(start), head.checksum));
  return bytes.toString("base64url");
}

/** Throws POSITION_INVALID: garbage, another organization's, or edited. */
export function decodePosition(organizationId: string, position: string): Position {
  const parsed = parse(Buffer.from(position.slice(0, LIMITS.string), "base64url"));
  // Written again it must be what came: the checksum, a range that begins before it ends, nothing that was passed over.
  if (parsed === undefined || encodePosition(organizationId, parsed) !== position) {
    throw new DomainError("POSITION_INVALID", "The position is not one of this organization", { field: "position" }, [
      { field: "position", description: "must be the position of a message, or the watch_position of a list" },
    ]);
  }
  return parsed;
}

/** Whether everything behind the position is still in the log, of which all up to the horizon may have been pruned. */
export function isKept({ from, within }: Position, horizon: Horizon): boolean {
  if (covers(from, horizon.seen)) return true;
  // A long range is read in the order of time, as it is pruned: a reader ahead of the horizon has lost nothing.
  return within !== undefined && covers(within.to, horizon.seen) && within.after.recordedAt > horizon.recordedAt;
}

/** The refusal of a position from which it is no longer known what is new. */
export function positionExpired(): DomainError {
  return new DomainError(
    "POSITION_EXPIRED",
    "The position is not of the log as it is now: list again, then watch from watch_position",
    { field: "position" },
    [{ field: "position", description: "has expired" }],
  );
}

/** What came after the position is no longer known: it has expired, or it was stored in an older encoding. */
export const isLost = (error: unknown): boolean =>
  error instanceof DomainError && (error.reason === "POSITION_EXPIRED" || error.reason === "POSITION_INVALID");

/** What all positions of a page begin with, and the checksum of that. */
interface PositionHead {
  of: readonly unknown[];
  bytes: Buffer;
  checksum: number;
}

/** The last one: positions are made a page at a time. */
let last: PositionHead | undefined;

function headOf(organizationId: string, epoch: string, from: Snapshot, within: Position["within"]): PositionHead {
  const kind = within === undefined ? NO_RANGE : within.after.organizationId === undefined ? RANGE : RANGE_OF_ALL;
  const of = [organizationId, epoch, from, within?.to, within?.until, kind];
  if (last?.of.every((one, i) => one === of[i])) return last;
  const to = within && shorten(within.to);
  const begin = shorten(from);
  const id = Buffer.alloc(UUID_BYTES);
  writeUuid(id, epoch, 0);
  // One that was shortened more than the other must not make a range that ends before it begins.
  const numbers = snapshotBytes(to === undefined || covers(to, begin) ? begin : upTo(to.xmax, begin));
  const parts = [Buffer.of(VERSION), id, Buffer.from(numbers), Buffer.of(kind)];
  if (within !== undefined && to !== undefined) {
    const until = Buffer.alloc(TIME_BYTES);
    until.writeBigInt64BE(within.until);
    parts.push(Buffer.from(snapshotBytes(to)), until);
  }
  const bytes = Buffer.concat(parts);
  last = { of, bytes, checksum: crc32(bytes, crc32(organizationId)) };
  return last;
}

function parse(bytes: Buffer): Position | undefined {
  try {
    return read(new Cursor(bytes));
  } catch (error) {
    // It ended too soon.
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function read(bytes: Cursor): Position | undefined {
  bytes.skip(CHECKSUM_BYTES);
  if (bytes.byte() !== VERSION) return undefined;
  const epoch = bytes.uuid();
  const from = readSnapshot(bytes);
  const kind = bytes.byte();
  if (from === undefined || kind > RANGE_OF_ALL) return undefined;
  if (kind === NO_RANGE) return { epoch, from };
  const to = readSnapshot(bytes);
  if (to === undefined) return undefined;
  const until = bytes.time();
  const after: LogPlace = { recordedAt: bytes.time(), id: bytes.uuid() };
  if (kind === RANGE_OF_ALL) after.organizationId = bytes.uuid();
  return isTime(until) && isTime(after.recordedAt) ? { epoch, from, within: { to, after, until } } : undefined;
}

/** The years 1 to 9999, which the database and the contract know. */
const isTime = (time: Instant) => time >= -62_135_596_800_000_000n && time < 253_402_300_800_000_000n;

/** With very many running transactions an older set, which ends at one of them: events may come twice, none is lost. */
function shorten(snapshot: Snapshot): Snapshot {
  const { running } = snapshot;
  const bound = running[Math.floor(running.length * 0.9)];
  return snapshotBytes(snapshot).length <= MAX_SNAPSHOT_BYTES || bound === undefined
    ? snapshot
    : shorten(upTo(bound, snapshot));
}

/** The upper end, how many are running, and how far below the end each is: numbers of seven bits a byte, the lowest first. */
function snapshotBytes({ xmax, running }: Snapshot): number[] {
  const bytes: number[] = [];
  for (const number of [xmax, BigInt(running.length), ...running.map((xid) => xmax - xid)]) {
    let rest = number;
    for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
    bytes.push(Number(rest));
  }
  return bytes;
}

function readSnapshot(bytes: Cursor): Snapshot | undefined {
  const xmax = bytes.number();
  const count = bytes.number();
  // No position names more, and it would take long to compare them.
  if (count > MAX_SNAPSHOT_BYTES) return undefined;
  const running: bigint[] = [];
  while (running.length < count) running.push(xmax - bytes.number());
  const isOrdered = running.every((xid, i) => xid > (running[i - 1] ?? 0n) && xid < xmax);
  return xmax > 0n && isOrdered ? { xmax, running } : undefined;
}

function writeUuid(bytes: Buffer, id: string, at: number): void {
  bytes.write(id.replaceAll("-", ""), at, UUID_BYTES, "hex");
}

/** Reads one thing after the other. Throws a RangeError at the end. */
class Cursor {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  skip(length: number): number {
    this.#at += length;
    return this.#at - length;
  }

  byte(): number {
    return this.#bytes.readUInt8(this.skip(1));
  }

  time(): Instant {
    return this.#bytes.readBigInt64BE(this.skip(TIME_BYTES));
  }

  uuid(): string {
    const at = this.skip(UUID_BYTES);
    if (this.#at > this.#bytes.length) throw new RangeError("the bytes end within an id");
    const hex = this.#bytes.toString("hex", at, this.#at);
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  }

  /** Below 2^63. */
  number(): bigint {
    let number = 0n;
    for (let shift = 0n; shift < 63n; shift += 7n) {
      const byte = this.byte();
      number |= BigInt(byte & 0x7f) << shift;
      if (byte <= 0x7f) return number;
    }
    throw new RangeError("the number is too large");
  }
}
