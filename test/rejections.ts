// Promises that reject and are handled by nobody fail the file, as vitest has it, with two exceptions that chance decides:
// one that its test awaits later, and what an attempt that failed, and was made again, left behind.
import { setImmediate as turn } from "node:timers/promises";
import { afterAll, beforeEach, onTestFailed } from "vitest";

const unhandled = new Map<Promise<unknown>, unknown>();
let hasFailed = false;

const note = (reason: unknown, promise: Promise<unknown>) => void unhandled.set(promise, reason);
process.on("unhandledRejection", note);
process.on("rejectionHandled", (promise) => unhandled.delete(promise));

beforeEach(() => {
  onTestFailed(() => {
    hasFailed = true;
  });
});

afterAll(async () => {
  await turn();
  // What still comes is vitest's.
  process.off("unhandledRejection", note);
  if (hasFailed || unhandled.size === 0) return;
  throw new AggregateError(
    [...unhandled.values()],
    `rejected, and nobody looked: ${[...unhandled.values()].join("; ")}`,
  );
});
