// Writes protobuf's wire format into a buffer that is reused, so that a message takes memory of its own only when it is sent.
// The library's writer creates an array for every nested message.

/** The last three bits of a tag. */
export const WIRE = { varint: 0, fixed64: 1, lengthDelimited: 2 } as const;

const FIRST_BYTES = 16 * 1024;
/** A buffer that a large message made larger than this is released. */
const KEPT_BYTES = 512 * 1024;
/** Node writes longer texts faster than a loop over their characters. */
const SHORT_TEXT = 48;

export class WireWriter {
  /** Bytes written so far. */
  at = 0;
  #bytes = Buffer.allocUnsafeSlow(FIRST_BYTES);

  /** Returns a copy of what was written, and starts over. */
  finish(): Buffer {
    const written = Buffer.allocUnsafe(this.at);
    this.#bytes.copy(written, 0, 0, this.at);
    this.reset();
    return written;
  }

  /** Drops what was written. */
  reset(): void {
    this.at = 0;
    if (this.#bytes.length > KEPT_BYTES) this.#bytes = Buffer.allocUnsafeSlow(FIRST_BYTES);
  }

  #reserve(bytes: number): void {
    const needed = this.at + bytes;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.#bytes.length * 2));
    this.#bytes.copy(larger, 0, 0, this.at);
    this.#bytes = larger;
  }

  /** Writes the prefix of an uncompressed gRPC message. `length32` fills in its length, at the place that this returns. */
  prefix(): number {
    this.#reserve(5);
    this.#bytes[this.at] = 0;
    this.at += 5;
    return this.at - 4;
  }

  /** Fills in the number of bytes written after `place`. */
  length32(place: number): void {
    this.#bytes.writeUInt32BE(this.at - place - 4, place);
  }

  tag(number: number, wire: number): void {
    this.varint(((number << 3) | wire) >>> 0);
  }

  /** From 0 to 2^32 - 1. */
  varint(value: number): void {
    this.#reserve(5);
    const bytes = this.#bytes;
    let rest = value;
    while (rest > 0x7f) {
      bytes[this.at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    bytes[this.at++] = rest;
  }

  /** An int64, int32 or enum; may be negative. */
  int(value: number | bigint): void {
    let high = Number(value);
    if (high >= 0 && high <= Number.MAX_SAFE_INTEGER) {
      this.#reserve(10);
      for (; high > 0x7fffffff; high = Math.floor(high / 0x80)) this.#bytes[this.at++] = (high % 0x80) | 0x80;
      return this.varint(high);
    }
    let rest = BigInt.asUintN(64, BigInt(value));
    this.#reserve(10);
    for (; rest > 0x7fn; rest >>= 7n) this.#bytes[this.at++] = Number(rest & 0x7fn) | 0x80;
    this.#bytes[this.at++] = Number(rest);
  }

  double(value: number): void {
    this.#reserve(8);
    this.at = this.#bytes.writeDoubleLE(value, this.at);
  }

  /** With its length before it. */
  bytes(value: Uint8Array): void {
    this.varint(value.length);
    this.raw(value);
  }

  raw(value: Uint8Array): void {
    this.#reserve(value.length);
    this.#bytes.set(value, this.at);
    this.at += value.length;
  }

  /** With its length before it. */
  text(value: string): void {
    const { length } = value;
    this.#reserve(5 + length * 3);
    if (length <= SHORT_TEXT && this.#ascii(value)) return;
    const place = this.begin();
    this.at += this.#bytes.write(value, this.at, "utf8");
    this.end(place);
  }

  #ascii(value: string): boolean {
    const bytes = this.#bytes;
    let at = this.at;
    bytes[at++] = value.length;
    for (let i = 0; i < value.length; i++) {
      const code = value.charCodeAt(i);
      if (code > 0x7f) return false;
      bytes[at++] = code;
    }
    this.at = at;
    return true;
  }

  /** Begins a part whose length comes before it. `end` fills that in, at the place that this returns. */
  begin(): number {
    this.#reserve(1);
    return this.at++;
  }

  end(place: number): void {
    const length = this.at - place - 1;
    if (length <= 0x7f) {
      this.#bytes[place] = length;
      return;
    }
    // One byte was reserved for the length: a longer part is moved.
    const more = length < 1 << 14 ? 1 : length < 1 << 21 ? 2 : length < 1 << 28 ? 3 : 4;
    this.#reserve(more);
    this.#bytes.copyWithin(place + 1 + more, place + 1, this.at);
    this.at = place;
    this.varint(length);
    this.at += length;
  }
}
