// Numbers in the binary form of protobuf, read where they stand.

/** Not a number of the wire: the bytes end within it, or it is longer than any. */
export const MALFORMED = -1;

/** Reads the one at `place.at`, and moves `at` behind it: its low 32 bits, not negative; or MALFORMED. */
export function readVarint(bytes: Uint8Array, place: { at: number }, end: number): number {
  let value = 0;
  for (let shift = 0; shift < 70 && place.at < end; shift += 7) {
    const byte = bytes[place.at++] as number;
    if (shift < 35) value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return value >>> 0;
  }
  return MALFORMED;
}
