// What the operating system, a terminal or npm says about the end of the process.

/** A terminal and npm each pass on one Ctrl-C: what comes within this time of the first signal, and once, is the same word. */
const SAME_WORD_MS = 1_000;

export interface Signals {
  /** Resolves with the first signal that asks for the end. */
  stop: Promise<NodeJS.Signals>;
  /** Resolves when it was asked for again: a third signal, or one more than a second after the first. */
  force: Promise<NodeJS.Signals>;
}

/** Heeds the signals from now on. SIGHUP ends nothing: it comes when a terminal closes, or to rotate certificates. */
export function heedSignals(names: readonly NodeJS.Signals[], source: NodeJS.EventEmitter = process): Signals {
  const stop = Promise.withResolvers<NodeJS.Signals>();
  const force = Promise.withResolvers<NodeJS.Signals>();
  let firstAt: number | undefined;
  let count = 0;
  const heed = (name: NodeJS.Signals) => {
    count += 1;
    firstAt ??= performance.now();
    stop.resolve(name);
    if (count >= 3 || performance.now() - firstAt > SAME_WORD_MS) force.resolve(name);
  };
  for (const name of names) source.on(name, heed);
  source.on("SIGHUP", () => {});
  return { stop: stop.promise, force: force.promise };
}

/** The exit code of a process that was ended before all that it had in hand had ended. */
export const FORCED_EXIT_CODE = 3;

/** What is still open, for the one line of the log that says why the end was forced. */
export type OpenThings = Record<string, number>;

/** Ends in good order, or after the time, or where it is asked to: answers why that was by force, or undefined. */
export async function endWithin(
  end: () => Promise<void>,
  { timeoutMs, force }: { timeoutMs: number; force: Promise<string> },
): Promise<string | undefined> {
  const late = Promise.withResolvers<string>();
  const timer = setTimeout(() => late.resolve(`not ended within ${timeoutMs} ms`), timeoutMs);
  try {
    return await Promise.race([end().then(() => undefined), late.promise, force]);
  } finally {
    clearTimeout(timer);
  }
}
