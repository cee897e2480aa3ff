// Defects of ours: what the log may know of an error, and what becomes of one that nothing has caught.
import type { Logger } from "./logger.ts";

interface Description {
  name: string;
  code?: string;
  constraint?: string;
  frames: string[];
  cause?: Description;
}

/**
 * What the log may know of an error: its class, where it was thrown, SQLSTATE or errno, the constraint. Never
 * its message, detail or parameters: those of the database, of JSON and of decoders quote values.
 */
export function describe(error: unknown, depth = 3): Description {
  if (!(error instanceof Error)) return { name: typeof error, frames: [] };
  const { code, constraint } = error as { code?: unknown; constraint?: unknown };
  const description: Description = { name: error.constructor.name, frames: framesOf(error) };
  if (typeof code === "string" && /^[A-Z0-9_]{1,40}$/.test(code)) description.code = code;
  if (typeof constraint === "string" && /^[\w.]{1,63}$/.test(constraint)) description.constraint = constraint;
  if (error.cause !== undefined && depth > 1) description.cause = describe(error.cause, depth - 1);
  return description;
}

function framesOf(error: Error): string[] {
  const stack = error.stack ?? "";
  // The stack begins with the message, which may itself hold lines that look like frames.
  const end = stack.indexOf(error.message);
  if (end === -1) return [];
  return stack
    .slice(end + error.message.length)
    .split("\n")
    .filter((line) => /^\s+at .+:\d+:\d+\)?$/.test(line))
    .slice(0, 10)
    .map((line) => line.trim());
}

/**
 * Heeds what nothing catches, which Node would print with all that it quotes before it ends the process at once. A promise
 * that is rejected while nobody awaits it has failed for itself alone: it is logged, and every call goes on. What is thrown
 * where nobody catches it may have left something half done: resolves then, with the reason for an end in good order.
 */
export function heedDefects(log: Logger): Promise<string> {
  const defect = Promise.withResolvers<string>();
  process.on("unhandledRejection", (error) => {
    log.error({ error: describe(error) }, "a defect: something failed, and nothing waited for it");
  });
  process.on("uncaughtException", (error) => {
    log.fatal({ error: describe(error) }, "a defect: something was thrown, and nothing caught it");
    defect.resolve("a defect: the log has what was thrown");
  });
  return defect.promise;
}
