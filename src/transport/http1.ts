// HTTP/1.1 connections: the calls of each, and how they end without losing one.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { LINGER_MS } from "./sessions.ts";

export interface Http1Connections {
  track(socket: Socket): void;
  /** Counts a call of its connection. */
  begin(request: IncomingMessage, response: ServerResponse): void;
  /** From now on the answer of each connection is its last; those that are idle are closed a moment later. */
  retireAll(): void;
}

export function createHttp1Connections(): Http1Connections {
  /** Calls in flight of each connection. */
  const calls = new Map<Socket, number>();
  let draining = false;

  /** After whatever has arrived at the socket was read: timers come first in a turn of the loop, what arrived behind them. */
  const closeIfIdle = (socket: Socket) =>
    setTimeout(() => setImmediate(() => calls.get(socket) === 0 && socket.destroy()), LINGER_MS);

  return {
    track(socket) {
      if (calls.has(socket)) return;
      calls.set(socket, 0);
      socket.once("close", () => calls.delete(socket));
      if (draining) closeIfIdle(socket);
    },
    begin(request, response) {
      const { socket } = request;
      calls.set(socket, (calls.get(socket) ?? 0) + 1);
      const { writeHead } = response;
      response.writeHead = ((...head: Parameters<typeof writeHead>) => {
        if (draining) response.shouldKeepAlive = false;
        if (!request.complete) closeAfterAnswer(socket, response);
        return writeHead.apply(response, head);
      }) as typeof writeHead;
      response.once("close", () => {
        if (!calls.has(socket)) return;
        const left = (calls.get(socket) ?? 1) - 1;
        calls.set(socket, left);
        if (draining && left === 0) socket.end();
      });
    },
    retireAll() {
      draining = true;
      for (const [socket, inFlight] of calls) if (inFlight === 0) closeIfIdle(socket);
    },
  };
}

/**
 * For an answer that comes before the end of its request: the unread rest would hold the connection, and the
 * caller, who may have written all of it, would put its next call behind. So the answer says that the connection
 * closes, and it closes in two steps: at once, the answer would be lost with what is unread (RFC 9112, 9.6).
 */
function closeAfterAnswer(socket: Socket, response: ServerResponse): void {
  response.shouldKeepAlive = false;
  socket.destroySoon = () => {
    socket.end();
    setTimeout(() => socket.destroy(), LINGER_MS).unref();
  };
}
