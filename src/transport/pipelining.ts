// HTTP/1.1 lets a caller send requests without waiting for answers. Node takes all that arrive at once; here those of
// a connection are served one after the other, and a connection with too many unanswered ones is closed.
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** Serves the request when those before it on its connection have their answers. */
export type Pipelining = (request: IncomingMessage, response: ServerResponse, serve: () => void) => void;

/** At most `max` requests of a connection wait; at one too many `exceeded` is called, and the connection closed. */
export function createPipelining(max: number, exceeded: () => void): Pipelining {
  const connections = new WeakMap<Socket, (() => void)[]>();

  return ({ socket }, response, serve) => {
    // What else was read with the request that was one too many.
    if (socket.destroyed) return;
    const waiting = connections.get(socket);
    if (waiting !== undefined && waiting.length >= max) {
      exceeded();
      waiting.length = 0;
      socket.destroy();
      return;
    }
    response.once("close", () => {
      const next = connections.get(socket)?.shift();
      if (next === undefined || socket.destroyed) connections.delete(socket);
      else next();
    });
    if (waiting !== undefined) waiting.push(serve);
    else {
      connections.set(socket, []);
      serve();
    }
  };
}
