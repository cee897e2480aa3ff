// JSON lines to standard output. What goes into them is decided at the edge: never a value of a request.
import { type Logger, pino } from "pino";

export type { Logger };

/** The lines of a worker carry its number. */
export function createLogger(level: string, worker?: number): Logger {
  return pino({
    level,
    base: worker === undefined ? undefined : { worker },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  });
}
