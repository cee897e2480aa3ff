// The bytes of an incomplete request. A chunk from Node references the whole block that was read from the socket: kept as it
// is, each frame of one byte would hold several kilobytes.
import { DomainError } from "../domain/errors.ts";
import type { ByteBudget } from "./byte-budget.ts";
import { PREFIX_BYTES } from "./encode.ts";

const NONE = Buffer.alloc(0);
const FIRST_BYTES = 512;
const POOLED_BYTES = 4_096;

/** Grows with the bytes received, to at most twice their size, and not beyond the announced length of the message. */
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

  /** Copies the chunk; throws OVERLOADED if incomplete requests use up their budget. */
  add(chunk: Uint8Array): void {
    const size = this.size + chunk.length;
    if (size > this.#bytes.length) this.#grow(size);
    this.#bytes.set(chunk, this.size);
    this.size = size;
  }

  /** The length in the prefix of the envelope; undefined until that has arrived. */
  announced(): number | undefined {
    return this.size < PREFIX_BYTES ? undefined : this.#bytes.readUInt32BE(1);
  }

  /** Bytes of the envelope, or of its prefix, that have not arrived yet. */
  missing(): number {
    const announced = this.announced();
    return (announced === undefined ? PREFIX_BYTES : PREFIX_BYTES + announced) - this.size;
  }

  /** Returns the bytes received, which no longer count in the budget, and starts over. */
  take(): Buffer {
    const taken = this.size === this.#bytes.length ? this.#bytes : this.#bytes.subarray(0, this.size);
    this.release();
    return taken;
  }

  /** Drops the bytes received. */
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
    // Not from Node's pool, where a small buffer may keep a large block.
    const larger = length < POOLED_BYTES ? Buffer.allocUnsafe(length) : Buffer.allocUnsafeSlow(length);
    if (this.size > 0) larger.set(this.#bytes.subarray(0, this.size));
    this.#bytes = larger;
  }
}
