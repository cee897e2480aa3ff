// Raw connections that send whatever they are given.
import { connect, type Socket } from "node:net";
export interface RawConnection extends Disposable {
  socket: Socket;
  /** Bytes that came back. */
  received(): number;
  /** The first 64 KiB of them. */
  head(): Buffer;
  isClosed(): boolean;
  /** Sends, and waits where the other side does not take more; at most `limitMs`. False: the connection is over. */
  send(bytes: Uint8Array, limitMs?: number): Promise<boolean>;
  closed(limitMs: number): Promise<boolean>;
}

/** Opens a raw connection. Rejects if nothing listens. `reads`: reads what arrives; else leaves it unread. */
export async function open(port: number, reads = true): Promise<RawConnection> {
  const socket = connect(port, "127.0.0.1");
  let received = 0;
  let closed = false;
  const parts: Buffer[] = [];
  socket.on("error", () => {});
  socket.once("close", () => {
    closed = true;
  });
  if (reads) {
    socket.on("data", (chunk: Buffer) => {
      if (received < 65_536) parts.push(chunk);
      received += chunk.length;
    });
  } else {
    socket.pause();
  }
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  const until = (event: string, limitMs: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, limitMs);
      const done = () => {
        clearTimeout(timer);
        resolve();
      };
      socket.once(event, done);
      socket.once("close", done);
    });
  return {
    socket,
    received: () => received,
    head: () => Buffer.concat(parts),
    isClosed: () => closed,
    async send(bytes, limitMs = 2_000) {
      if (closed || socket.writableEnded) return false;
      if (!socket.write(bytes)) await until("drain", limitMs);
      return !closed;
    },
    async closed(limitMs) {
      if (!closed) await until("close", limitMs);
      return closed;
    },
    [Symbol.dispose]: () => {
      socket.destroy();
    },
  };
}
