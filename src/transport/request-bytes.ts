// The bytes of a request that is not complete yet. A chunk as Node gives it holds the whole block that was read from
// the socket: kept as they are, frames of one byte would hold several kilobytes each.
import { DomainError } from "../domain/errors.ts";
import type { ByteBudget } from "./byte-budget.ts";
import { PREFIX_BYTES } from "./encode.ts";

const NONE = Buffer.alloc(0);
const FIRST_BYTES = 512;
const POOLED_BYTES = 4_096;

/** Grows with what arrives, up to twice as much, and no further than the length that the message has announced. */
export class RequestBytes {
  /** Bytes received. */
  size = 0;
  #bytes: Buffer = NONE;
  readonly #budget: ByteBudget;
  readonly #connection: object;

  constructor(budget: ByteBudget, connection: object) {
    this.#budget = budget;
    this.#connection = connection;
  }

  /** Copies the chunk; throws OVERLOADED where the requests that are not complete hold all the memory that is for them. */
  add(chunk: Uint8Array): void {
    const size = this.size + chunk.length;
    if (size > this.#bytes.length) this.#grow(size);
    this.#bytes.set(chunk, this.size);
    this.size = size;
  }

  /** The length that the prefix of an envelope says; undefined until it is here. */
  announced(): number | undefined {
    return this.size < PREFIX_BYTES ? undefined : this.#bytes.readUInt32BE(1);
  }

  /** How many bytes of the envelope, or of its prefix, are still to come. */
  missing(): number {
    const announced = this.announced();
    return (announced === undefined ? PREFIX_BYTES : PREFIX_BYTES + announced) - this.size;
  }

  /** All that was received; begins anew, and counts towards no budget. */
  take(): Buffer {
    const taken = this.size === this.#bytes.length ? this.#bytes : this.#bytes.subarray(0, this.size);
    this.release();
    return taken;
  }

  /** Forgets what was received. */
  release(): void {
    if (this.#bytes.length > 0) this.#budget.give(this.#connection, this.#bytes.length);
    this.#bytes = NONE;
    this.size = 0;
  }

  #grow(size: number): void {
    const announced = this.announced();
    const wanted = Math.max(FIRST_BYTES, this.#bytes.length * 2);
    const most = announced === undefined ? wanted : Math.min(wanted, PREFIX_BYTES + announced);
    const length = Math.max(size, most);
    const more = length - this.#bytes.length;
    if (!this.#budget.take(this.#connection, more)) {
      throw new DomainError("OVERLOADED", "Too many requests are on their way at once: retry", {
        retry_after_ms: "500",
      });
    }
    // Not in Node's pool, where what is small may keep what is large.
    const larger = length < POOLED_BYTES ? Buffer.allocUnsafe(length) : Buffer.allocUnsafeSlow(length);
    if (this.size > 0) larger.set(this.#bytes.subarray(0, this.size));
    this.#bytes = larger;
  }
}
