// What happens to connections and streams before any call: counted by kind, and logged in one line a second. A flood
// of refusals must not become a flood of lines.
import type { Logger } from "pino";
import { Counter, type Registry } from "prom-client";

/** What is counted, with the words for the log. */
export const KINDS = {
  stream_refused: "streams refused because their connection had 1,000 already",
  session_failed: "HTTP/2 connections ended by an error of the protocol or a limit",
  goaway_sent: "HTTP/2 connections asked to reconnect: age, idleness or the end of the process",
  tls_on_cleartext: "callers that speak TLS to a port without: use http, or set TLS_CERT and TLS_KEY",
  tls_failed: "TLS handshakes that failed",
  headers_too_large: "requests whose headers are over 16 KiB",
  silent: "connections closed because they said nothing",
  tiny_frames: "HTTP/2 connections closed for bodies in thousands of frames of a few bytes",
  pipelined: "HTTP/1.1 connections closed for too many requests at once",
  answer_not_taken: "answers given up because their caller did not read them",
  over_budget: "calls refused because answers that nobody reads hold the memory for them",
} as const;

export type Kind = keyof typeof KINDS;

export interface Tally {
  note(kind: Kind, times?: number): void;
}

const EVERY_MS = 1_000;
/** Part of every rolling update: not worth a warning. */
const ORDINARY: ReadonlySet<Kind> = new Set(["goaway_sent"]);

export function createTally({ log, registry }: { log: Logger; registry?: Registry | undefined }): Tally {
  const counter =
    registry &&
    new Counter({
      name: "entity_service_connection_events_total",
      help: "What happened to connections and streams before any call, by kind",
      labelNames: ["kind"],
      registers: [registry],
    });
  // From 0 on: an alert on the increase of a series that is not there yet misses the first.
  for (const kind of Object.keys(KINDS)) counter?.inc({ kind }, 0);
  let counts = new Map<Kind, number>();
  const tell = () => {
    const kinds = Object.fromEntries(counts);
    const isOrdinary = Array.from(counts.keys()).every((kind) => ORDINARY.has(kind));
    const hints = Array.from(counts.keys(), (kind) => KINDS[kind]);
    log[isOrdinary ? "info" : "warn"]({ ...kinds, hints }, "connections");
    counts = new Map();
  };
  return {
    note(kind, times = 1) {
      counter?.inc({ kind }, times);
      if (counts.size === 0) setTimeout(tell, EVERY_MS).unref();
      counts.set(kind, (counts.get(kind) ?? 0) + times);
    },
  };
}
