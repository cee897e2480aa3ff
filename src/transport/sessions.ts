// HTTP/2 connections: their limits, their age, and how they are told to go without losing a call.
import {
  constants,
  type ServerOptions as Http2Options,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import { gatherDataFrames } from "./data-frames.ts";
import type { Guard } from "./guard.ts";
import { isHeldUp, type ReadHandle, readHandle } from "./read-handle.ts";
import type { Tally } from "./tally.ts";
import { unreadRests } from "./unread-rest.ts";
import { whenRead } from "./when-read.ts";

export const MAX_HEADER_BYTES = 16_384;
/** Time for the last bytes of an answer to leave before the unread rest of its request is given up. */
export const LINGER_MS = 100;
/** The longest that a connection is waited for to have heard that no call should come any more. */
const GOAWAY_LIMIT_MS = 5_000;
/** And the shortest, where no call is in flight, on top of its round trip. */
const QUIET_MS = 100;
const SWEEP_MS = 1_000;
const MAX_STREAMS = 1_000;
/**
 * The highest id of a stream: a GOAWAY that names it refuses none. Yet nghttp2 may take no stream that arrives behind it:
 * such a call is not answered when the connection closes, nobody has seen it, and it is safe to send again. A frame
 * written past the session, which would spare that, ends the process by an assertion of Node.
 */
const LAST_STREAM = 2 ** 31 - 1;
/**
 * Node refuses a stream over one of these limits with ENHANCE_YOUR_CALM, and ends the whole connection after
 * maxSessionRejectedStreams; both hit calls that did nothing wrong. So they stand above what an honest caller reaches,
 * and what is too much is refused call by call: by admission, and by the budgets of bytes.
 */
export const HTTP2_LIMITS: Http2Options = {
  // Node counts streams that are being closed too: a caller who cancels a hundred calls at once, and makes a hundred.
  settings: { maxConcurrentStreams: MAX_STREAMS, maxHeaderListSize: MAX_HEADER_BYTES },
  maxSessionInvalidFrames: 50,
  maxSessionRejectedStreams: 1_000,
  // In megabytes; Node's 10 are one large answer that its caller refuses. Above the budgets of unsent answers and of
  // incomplete requests of one connection together, which refuse one call and not all.
  maxSessionMemory: 64,
  // Rapid reset (CVE-2023-44487): both must be set to have effect. Lower ones would end the connection of
  // an honest caller whose short deadlines pass while the service is slow.
  streamResetBurst: 10_000,
  streamResetRate: 1_000,
};

/**
 * What listens to a stream holds its call, with all that was sent. V8 keeps whatever a native handle has held until it next
 * collects the whole heap: a flood of refused calls would make that collection long.
 */
function letGo(stream: ServerHttp2Stream): void {
  stream.removeAllListeners();
  stream.on("error", ignore);
}

const ignore = () => {};

interface Connection {
  calls: number;
  nextId: number;
  /** Whether there was no room for another stream. */
  wasFull: boolean;
  retiring: boolean;
  /** As measured when it began. */
  roundTripMs: number | undefined;
  handle: ReadHandle | undefined;
}

export interface Sessions {
  track(session: ServerHttp2Session): void;
  /** Asks every connection to go, now and as they come. */
  retireAll(): void;
  destroyAll(): void;
  /** Streams that are open. */
  streams(): number;
  /** Those of one connection. */
  calls(session: ServerHttp2Session): number;
}

export function createSessions(options: {
  idleTimeoutMs: number;
  maxConnectionAgeMs: number;
  tally: Tally;
  guard: Guard;
}): Sessions {
  const { idleTimeoutMs, maxConnectionAgeMs, tally, guard } = options;
  const sessions = new Map<ServerHttp2Session, Connection>();
  const streams = new Set<ServerHttp2Stream>();
  const keepUntilAnswered = unreadRests();
  let draining = false;
  const sweep = setInterval(() => {
    for (const stream of streams) if (stream.closed && !stream.destroyed) stream.destroy();
    for (const [session, { handle }] of sessions) if (session.closed) readOn(handle);
  }, SWEEP_MS).unref();

  function track(session: ServerHttp2Session): void {
    session.on("error", () => tally.note("session_failed"));
    const connection: Connection = {
      ...{ calls: 0, nextId: 1, wasFull: false, retiring: false },
      ...{ roundTripMs: undefined, handle: readHandle(session.socket) },
    };
    sessions.set(session, connection);
    let idleSince = performance.now();
    // One timer per connection, which checks again when it fires: many calls begin and end meanwhile.
    const closeWhenIdle = () => {
      const leftMs = connection.calls > 0 ? idleTimeoutMs : idleSince + idleTimeoutMs - performance.now();
      if (leftMs <= 0) retire(session);
      else idle = setTimeout(closeWhenIdle, leftMs).unref();
    };
    let idle = setTimeout(closeWhenIdle, idleTimeoutMs).unref();
    const age = setTimeout(() => retire(session), maxConnectionAgeMs * (0.9 + Math.random() / 5)).unref();
    const gatherFrames = gatherDataFrames(session, tally);
    const onClose = function (this: ServerHttp2Stream) {
      streams.delete(this);
      letGo(this);
      connection.calls -= 1;
      if (connection.calls === 0) idleSince = performance.now();
    };
    session.on("stream", (stream: ServerHttp2Stream) => {
      gatherFrames(stream);
      const refused = refusedBefore(connection, stream.id ?? connection.nextId);
      if (refused > 0) tally.note("stream_refused", refused);
      connection.calls += 1;
      connection.wasFull = connection.calls >= MAX_STREAMS;
      // Node keeps a stream that is reset without an error until its request is read and its answer has left, which may never
      // happen. It is destroyed here if it is not answered yet, and by the sweep if it is.
      stream.on("aborted", destroySoon);
      streams.add(stream);
      stream.on("close", onClose);
      keepUntilAnswered(stream);
    });
    session.once("close", () => {
      sessions.delete(session);
      clearTimeout(idle);
      clearTimeout(age);
    });
    session.ping((error, durationMs) => {
      if (error === null) connection.roundTripMs = durationMs;
    });
    if (draining) retire(session);
  }

  /**
   * Calls in flight are served. The answer to a PING behind the GOAWAY says that its caller has heard it, and that
   * nothing more will come. Node's client answers no PING when it has heard the GOAWAY without a call in flight: then a round trip
   * without a call says the same.
   */
  const retire = guard(
    (session: ServerHttp2Session) => {
      const connection = sessions.get(session);
      if (connection === undefined || session.closed || session.destroyed || connection.retiring) return;
      connection.retiring = true;
      tally.note("goaway_sent");
      session.goaway(constants.NGHTTP2_NO_ERROR, LAST_STREAM);
      const quietMs = Math.min(2 * (connection.roundTripMs ?? QUIET_MS) + QUIET_MS, GOAWAY_LIMIT_MS);
      const quiet = setInterval(() => {
        if (connection.calls === 0) close(session);
      }, quietMs);
      const limit = setTimeout(() => close(session), GOAWAY_LIMIT_MS);
      session.once("close", () => {
        clearInterval(quiet);
        clearTimeout(limit);
      });
      whenRead(session, () => close(session));
    },
    (session) => session.destroy(),
  );

  const close = guard(
    (session: ServerHttp2Session) => {
      if (!session.closed && !session.destroyed) session.close();
    },
    (session) => session.destroy(),
  );

  return {
    track,
    retireAll() {
      draining = true;
      for (const session of sessions.keys()) retire(session);
    },
    destroyAll() {
      clearInterval(sweep);
      for (const session of sessions.keys()) session.destroy();
    },
    streams: () => streams.size,
    calls: (session) => sessions.get(session)?.calls ?? 0,
  };
}

/**
 * Behind a GOAWAY, an error of the protocol ends no session of Node: it reads no more, and does not learn even that its
 * caller has disconnected. Its calls would stay for ever.
 */
function readOn(handle: ReadHandle | undefined): void {
  if (handle !== undefined && !isHeldUp(handle)) handle.readStart();
}

function destroySoon(this: ServerHttp2Stream): void {
  setImmediate(() => this.destroy());
}

/**
 * How many streams were refused before this one. Node tells of none, but their ids are missing; as are those of streams
 * that a caller gave up before it sent them, so they count only where there was no room.
 */
function refusedBefore(connection: Connection, id: number): number {
  const missing = (id - connection.nextId) / 2;
  connection.nextId = id + 2;
  return connection.wasFull ? missing : 0;
}
