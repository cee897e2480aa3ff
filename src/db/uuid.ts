// Ids are UUIDs of version 7: about in the order of time, which keeps the indexes that begin with them dense.
import { randomFillSync } from "node:crypto";

const POOL_BYTES = 4096;
const pool = Buffer.alloc(POOL_BYTES);
let used = POOL_BYTES;

/** A new UUIDv7: 48 bits of milliseconds, then random bits. */
export function newId(): string {
  if (used + 10 > POOL_BYTES) {
    randomFillSync(pool);
    used = 0;
  }
  const random = pool.toString("hex", used, used + 10);
  used += 10;
  const time = Date.now().toString(16).padStart(12, "0");
  const variant = ((Number.parseInt(random[4] as string, 16) & 0x3) | 0x8).toString(16);
  return `${time.slice(0, 8)}-${time.slice(8)}-7${random.slice(1, 4)}-${variant}${random.slice(5, 8)}-${random.slice(8)}`;
}
