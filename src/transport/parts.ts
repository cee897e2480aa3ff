// A long answer is made in parts, between which the event loop serves others.
import { PIECE_BYTES } from "./answer-limits.ts";

/**
 * To be awaited before the next part is made of an answer that has so many bytes. Throws where there is no room for more of
 * it, or nobody waits for it any more.
 */
export type More = (bytes: number) => Promise<void> | undefined;

/** So much is made at once, or an item of a list that is longer. */
export const PART_BYTES = 64 * 1024;

/**
 * All of what `part` makes, until it `isLast`, in pieces of PIECE_BYTES at most. At once where the first is all; then `more` is
 * not called.
 */
export function inParts(part: () => { bytes: Buffer; isLast: boolean }, more: More): Buffer[] | Promise<Buffer[]> {
  const { bytes, isLast } = part();
  return isLast ? pieces(bytes) : theRest(bytes, part, more);
}

async function theRest(first: Buffer, part: Parameters<typeof inParts>[0], more: More): Promise<Buffer[]> {
  const parts = [first];
  for (let [length, isLast] = [first.length, false]; !isLast; ) {
    await more(length);
    const next = part();
    parts.push(next.bytes);
    length += next.bytes.length;
    isLast = next.isLast;
  }
  return parts.flatMap(pieces);
}

export const lengthOf = (pieces: readonly Uint8Array[]): number =>
  pieces.reduce((bytes, { length }) => bytes + length, 0);

function pieces(bytes: Buffer): Buffer[] {
  if (bytes.length <= PIECE_BYTES) return bytes.length === 0 ? [] : [bytes];
  return Array.from({ length: Math.ceil(bytes.length / PIECE_BYTES) }, (_, i) =>
    bytes.subarray(i * PIECE_BYTES, (i + 1) * PIECE_BYTES),
  );
}
