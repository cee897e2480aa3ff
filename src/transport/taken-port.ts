// A port that somebody else still has when the service starts.
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";

const PORT_WAIT_MS = 10_000;

/**
 * Tries again for some seconds where the port is taken: by the process that this one replaces, or, for the default port
 * lies among those that Linux gives to outgoing connections, by one of these.
 */
export async function whilePortIsTaken<T>(log: Logger, port: number, begin: () => Promise<T>): Promise<T> {
  const giveUpAt = performance.now() + PORT_WAIT_MS;
  for (let isFirst = true; ; isFirst = false) {
    try {
      return await begin();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE" || performance.now() > giveUpAt) throw error;
      if (isFirst) log.warn({ port, tryForMs: PORT_WAIT_MS }, "the port is in use: trying again");
      await sleep(250);
    }
  }
}
