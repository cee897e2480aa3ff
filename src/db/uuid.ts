// Ids are UUIDs of version 7 that one process makes in order: rows are listed as they were made, and the indexes that begin
// with ids stay dense.
import { randomFillSync } from "node:crypto";

const POOL_BYTES = 4096;
/** Of one id: 8 for its end, 2 to begin the count of a millisecond with. */
const RANDOM_BYTES = 10;
/** Ids of one millisecond are counted by 12 bits (RFC 9562, 6.2, method 1). */
const COUNTS = 0x1000;
const pool = Buffer.alloc(POOL_BYTES);
let used = POOL_BYTES;
let time = 0;
let count = 0;

/**
 * A new UUIDv7, greater than all that this process has made: 48 bits of milliseconds, 12 that count, 62 random ones. Where
 * a millisecond's count is used up, or the clock has gone back, ids are ahead of the clock until it has caught up.
 */
export function newId(): string {
  if (used + RANDOM_BYTES > POOL_BYTES) {
    randomFillSync(pool);
    used = 0;
  }
  const random = pool.toString("hex", used, used + RANDOM_BYTES);
  used += RANDOM_BYTES;
  const now = Date.now();
  if (now > time) {
    time = now;
    // In the lower half, so that there is always room.
    count = Number.parseInt(random.slice(16), 16) % (COUNTS / 2);
  } else if (++count === COUNTS) {
    time++;
    count = 0;
  }
  const stamp = time.toString(16).padStart(12, "0");
  const counted = count.toString(16).padStart(3, "0");
  const variant = ((Number.parseInt(random[0] as string, 16) & 0x3) | 0x8).toString(16);
  return `${stamp.slice(0, 8)}-${stamp.slice(8)}-7${counted}-${variant}${random.slice(1, 4)}-${random.slice(4, 16)}`;
}
