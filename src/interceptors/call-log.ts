// The log line of a call. A flood of refusals would fill the disk and hide the rest: the first refusal of a kind in a
// second has its line at once, whole; those that follow are counted, and logged together when the second is over.
import type { Logger } from "pino";

export type Level = "info" | "warn" | "error";

export interface CallLine {
  code: string;
  reason: string | undefined;
  organizationId: string | undefined;
}

/** `isRefusal`: the call cost its caller nothing, and there may be any number of them. */
export type CallLog = (level: Level, line: CallLine & object, isRefusal: boolean) => void;

const SECOND_MS = 1_000;

export function callLog(log: Logger): CallLog {
  /** How many more came in this second, by kind. */
  const counts = new Map<string, number>();
  return (level, line, isRefusal) => {
    if (!isRefusal) {
      log[level](line, "call");
      return;
    }
    const { code, reason, organizationId } = line;
    const kind = `${code} ${reason} ${organizationId}`;
    const count = counts.get(kind);
    if (count !== undefined) {
      counts.set(kind, count + 1);
      return;
    }
    counts.set(kind, 0);
    log[level](line, "call");
    setTimeout(() => {
      const refused = counts.get(kind) ?? 0;
      counts.delete(kind);
      if (refused > 0) log[level]({ code, reason, organizationId, refused }, "calls refused");
    }, SECOND_MS).unref();
  };
}
