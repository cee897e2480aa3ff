// Where a watch is in the log, as callers keep it. A commit is not in the order of any number that its rows
// carry: of two that overlap, the one with the lower number may come later, and who goes on behind the higher
// one misses it. So a position names the set of transactions that were committed, which is a snapshot; and
// within what came between two of them, how far the watch has come.
import { hash } from "node:crypto";
import type { Place } from "../db/feed.ts";
import type { Horizon } from "../db/horizon.ts";
import { covers, type Snapshot, upTo } from "../db/snapshot.ts";
import { DomainError } from "../domain/errors.ts";
import { LIMITS } from "../domain/limits.ts";
import { parseUuid } from "../domain/text.ts";
import type { Instant } from "../domain/time.ts";

export interface Position {
  /** The id of the epoch: snapshots of another one mean nothing here. */
  epoch: string;
  /** All of this has come. */
  from: Snapshot;
  /** And of what was committed after it up to `to`, in the order of time and id, all up to `after`; the last is of the time `until`. */
  within?: { to: Snapshot; after: Place; until: Instant } | undefined;
}

/** Of one snapshot: a position, and a page token with one in it, stay within the limit of any string. */
const MAX_SNAPSHOT_LENGTH = 1_000;
const DIGEST_LENGTH = 16;
const VERSION = "1";

/** The text of a position, bound to the organization. The digest is no secret: what it stands before is checked like anything that a caller sends. */
export function encodePosition(organizationId: string, { epoch, from, within }: Position): string {
  const to = within && shorten(within.to);
  const begin = shorten(from);
  // One that was shortened more than the other must not make a range that ends before it begins.
  const parts = [VERSION, epoch, textOf(to === undefined || covers(to, begin) ? begin : upTo(to.xmax, begin))];
  if (within !== undefined && to !== undefined) {
    const { after, until } = within;
    parts.push(textOf(to), String(after.recordedAt), after.id, String(until));
    if (after.organizationId !== undefined) parts.push(after.organizationId);
  }
  const text = parts.join(" ");
  return Buffer.from(digest(organizationId, text) + text, "latin1").toString("base64url");
}

/** Throws POSITION_INVALID: garbage, another organization's, or edited. */
export function decodePosition(organizationId: string, position: string): Position {
  const decoded = Buffer.from(position.slice(0, LIMITS.string), "base64url").toString("latin1");
  const text = decoded.slice(DIGEST_LENGTH);
  // Decoding passes over what is not base64url: written again, it must be what came.
  const isWhole = Buffer.from(decoded, "latin1").toString("base64url") === position;
  const isOurs = isWhole && decoded.slice(0, DIGEST_LENGTH) === digest(organizationId, text);
  const parsed = isOurs ? parse(text) : undefined;
  if (parsed === undefined) {
    throw new DomainError("POSITION_INVALID", "The position is not one of this organization", { field: "position" }, [
      { field: "position", description: "must be the position of a message, or the watch_position of a list" },
    ]);
  }
  return parsed;
}

/** Whether everything behind the position is still in the log, of which all up to the horizon may have been pruned. */
export function isKept({ from, within }: Position, horizon: Horizon): boolean {
  if (covers(from, horizon.seen)) return true;
  // A long range is read in the order of time, as it is pruned: who is ahead has not lost anything.
  return within !== undefined && covers(within.to, horizon.seen) && within.after.recordedAt > horizon.recordedAt;
}

/** The refusal of a position behind which nobody can tell any more what is new. */
export function positionExpired(): DomainError {
  return new DomainError(
    "POSITION_EXPIRED",
    "The position is not of the log as it is now: list again, then watch from watch_position",
    { field: "position" },
    [{ field: "position", description: "has expired" }],
  );
}

const digest = (organizationId: string, text: string) =>
  hash("sha256", `${organizationId} ${text}`, "base64url").slice(0, DIGEST_LENGTH);

function parse(text: string): Position | undefined {
  const parts = text.split(" ");
  const [version, epoch = "", fromText = "", toText = "", recordedAt = "", id = "", until = "", organizationId] = parts;
  const from = parseSnapshotText(fromText);
  if (version !== VERSION || parseUuid(epoch) !== epoch || from === undefined) return undefined;
  if (parts.length === 3) return { epoch, from };
  const to = parseSnapshotText(toText);
  if (to === undefined || !covers(to, from)) return undefined;
  if (!isTime(recordedAt) || !isTime(until) || parseUuid(id) !== id) return undefined;
  const after: Place = { recordedAt: BigInt(recordedAt), id };
  if (organizationId !== undefined) {
    if (parts.length !== 8 || parseUuid(organizationId) !== organizationId) return undefined;
    after.organizationId = organizationId;
  }
  return { epoch, from, within: { to, after, until: BigInt(until) } };
}

/** The years 1 to 9999, which the database and the contract know. */
const isTime = (text: string) =>
  /^-?\d{1,18}$/.test(text) && BigInt(text) >= -62_135_596_800_000_000n && BigInt(text) < 253_402_300_800_000_000n;

/** The upper end, and how far below it each running one is: `1000-7,3`. */
function textOf({ xmax, running }: Snapshot): string {
  return running.length === 0 ? String(xmax) : `${xmax}-${running.map((xid) => xmax - xid).join(",")}`;
}

/** Of very many running transactions an older set, which ends at one of them: then something comes twice, and nothing is lost. */
function shorten(snapshot: Snapshot): Snapshot {
  const { running } = snapshot;
  const bound = running[Math.floor(running.length * 0.9)];
  return textOf(snapshot).length <= MAX_SNAPSHOT_LENGTH || bound === undefined
    ? snapshot
    : shorten(upTo(bound, snapshot));
}

function parseSnapshotText(text: string): Snapshot | undefined {
  const [, upper, below] = /^([1-9]\d{0,17})(?:-(\d{1,18}(?:,\d{1,18})*))?$/.exec(text) ?? [];
  if (upper === undefined) return undefined;
  const xmax = BigInt(upper);
  const running = (below === undefined ? [] : below.split(",")).map((offset) => xmax - BigInt(offset));
  const isOrdered = running.every((xid, i) => xid > (running[i - 1] ?? 0n) && xid < xmax);
  return isOrdered ? { xmax, running } : undefined;
}
