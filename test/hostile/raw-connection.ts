// HTTP/2 by hand: frames, header blocks without compression, and connections that send whatever they are given.
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

export const FRAME = {
  DATA: 0,
  HEADERS: 1,
  PRIORITY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PUSH_PROMISE: 5,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;
export const FLAG = { END_STREAM: 1, ACK: 1, END_HEADERS: 4, PADDED: 8, PRIORITY: 32 } as const;
export const CANCEL = Buffer.from([0, 0, 0, 8]);

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array()): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream >>> 0, 5);
  return Buffer.concat([head, payload]);
}

/** SETTINGS of the client: ids and values. */
export function settings(values: [id: number, value: number][] = []): Buffer {
  const payload = Buffer.alloc(6 * values.length);
  for (const [index, [id, value]] of values.entries()) {
    payload.writeUInt16BE(id, 6 * index);
    payload.writeUInt32BE(value >>> 0, 6 * index + 2);
  }
  return frame(FRAME.SETTINGS, 0, 0, payload);
}

export function uint32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value >>> 0);
  return buffer;
}

/** An HPACK string without Huffman. */
function text(value: string | Buffer): Buffer {
  const bytes = Buffer.from(value as string, "latin1");
  if (bytes.length < 127) return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  const length = [127];
  let rest = bytes.length - 127;
  for (; rest > 127; rest = Math.floor(rest / 128)) length.push((rest % 128) + 128);
  length.push(rest);
  return Buffer.concat([Buffer.from(length), bytes]);
}

/** A header that the other side is not to remember; with `indexed` it is to. */
export function literal(name: string, value: string, indexed = false): Buffer {
  return Buffer.concat([Buffer.from([indexed ? 0x40 : 0]), text(name), text(value)]);
}

export function headerBlock(headers: Record<string, string>): Buffer {
  return Buffer.concat(Object.entries(headers).map(([name, value]) => literal(name, value)));
}

/** The head of a gRPC call. */
export function callHead(path: string, key?: string, more: Record<string, string> = {}): Buffer {
  return headerBlock({
    ":method": "POST",
    ":scheme": "http",
    ":path": path,
    ":authority": "a",
    "content-type": "application/grpc",
    te: "trailers",
    ...(key !== undefined && { authorization: `Bearer ${key}` }),
    ...more,
  });
}

/** A message of gRPC, with its five bytes before it. */
export function envelope(message: Uint8Array, flags = 0, length = message.length): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(length >>> 0, 1);
  return Buffer.concat([head, message]);
}

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

/** A connection of one's own. Rejects where there is nobody. `reads`: takes what comes, else leaves it lying. */
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

export { sleep };
