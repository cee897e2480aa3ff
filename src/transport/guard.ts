// Nothing that a caller sends may end the process: what Node calls back with a caller's bytes stands behind this.
import type { Logger } from "pino";

/** The same callback, but what it throws is logged and goes to `failed`: the stream or connection is of no more use. */
export type Guard = <A extends unknown[]>(
  callback: (...args: A) => void,
  failed: (...args: A) => void,
) => (...args: A) => void;

/** A caller's own reset is no failure: what is written to a stream that has just ended throws one of these. */
const ENDED = new Set([
  "ERR_HTTP2_INVALID_STREAM",
  "ERR_HTTP2_INVALID_SESSION",
  "ERR_HTTP2_GOAWAY_SESSION",
  "ERR_HTTP2_STREAM_CANCEL",
  "ERR_HTTP2_TRAILERS_NOT_READY",
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_WRITE_AFTER_END",
  "ERR_STREAM_PREMATURE_CLOSE",
]);

export const isEndedByCaller = (error: unknown): boolean =>
  ENDED.has((error as NodeJS.ErrnoException | null)?.code ?? "");

export function createGuard(log: Logger): Guard {
  return (callback, failed) =>
    (...args) => {
      try {
        callback(...args);
      } catch (error) {
        const { name, code } = error as NodeJS.ErrnoException;
        // No message: those of parsers quote what they have read.
        if (!isEndedByCaller(error)) log.error({ name, code }, "a connection could not be served");
        failed(...args);
      }
    };
}
