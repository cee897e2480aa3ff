// Watchers that only count, in a process of their own. In life those who watch have machines of their own; here they
// share the cores with what is measured, so they do next to nothing: they speak as much HTTP/2 as it takes to ask, walk
// over the frames of the answer and count its messages. A job a line on standard input (JSON), its answer a line on
// standard output.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { EntityService } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";

/** `watch` answers when all are live, `count` when each has had so many events; all with what each has had. */
export type WatchersJob =
  | { kind: "watch"; port: number; apiKey: string; watchers: number }
  | { kind: "count"; events: number; timeoutMs: number }
  | { kind: "stop" };

export interface Counted {
  /** Of each watcher. */
  events: number[];
}

const LIVE_MS = 60_000;
const READ_BYTES = 256 * 1024;

/** Frames of HTTP/2 (RFC 9113) by their type, the flags of those sent here, and a window that never closes. */
const [DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE] = [0, 1, 3, 4, 8];
const [ACK, END_STREAM, END_HEADERS] = [1, 1, 4];
const WINDOW = 2 ** 31 - 1;
const FRAME_HEAD = 9;
/** The prefix of a gRPC message, and of the message WatchEntitiesResponse.position's tag and length. */
const MESSAGE_HEAD = 8;
const PREFIX_BYTES = 5;
const POSITION_TAG = 0x0a;

interface Watcher {
  events: number;
  isLive: boolean;
  socket: Socket;
}

let watchers: Watcher[] = [];
let failure: Error | undefined;

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(FRAME_HEAD);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** Everything that a watcher says: a watch from now on, of everything. */
function request(apiKey: string): Buffer {
  const settings = Buffer.alloc(6);
  settings.writeUInt16BE(4, 0); // SETTINGS_INITIAL_WINDOW_SIZE
  settings.writeUInt32BE(WINDOW, 2);
  const window = Buffer.alloc(4);
  window.writeUInt32BE(WINDOW - 65_535);
  const { parent, name } = EntityService.method.watchEntities;
  const headers = {
    ":method": "POST",
    ":scheme": "http",
    ":authority": "127.0.0.1",
    ":path": `/${parent.typeName}/${name}`,
    "content-type": "application/grpc",
    te: "trailers",
    authorization: `Bearer ${apiKey}`,
  };
  // Of HPACK the plainest form: a literal that is not indexed, without Huffman's code.
  const fields = Object.entries(headers).flatMap(([key, value]) => [
    Buffer.of(0, key.length),
    Buffer.from(key),
    Buffer.of(value.length),
    Buffer.from(value),
  ]);
  return Buffer.concat([
    Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    frame(SETTINGS, 0, 0, settings),
    frame(WINDOW_UPDATE, 0, 0, window),
    frame(HEADERS, END_HEADERS, 1, Buffer.concat(fields)),
    frame(DATA, END_STREAM, 1, Buffer.alloc(PREFIX_BYTES)),
  ]);
}

/** Walks over the messages of a gRPC stream, of which chunks come; says of each whether it is an event. */
function messages(seen: (isEvent: boolean) => void): (bytes: Buffer, from: number, to: number) => void {
  const head = Buffer.alloc(MESSAGE_HEAD);
  let known = 0;
  let skip = 0;
  return (bytes, from, to) => {
    for (let at = from; at < to; ) {
      if (skip > 0) {
        const step = Math.min(skip, to - at);
        skip -= step;
        at += step;
        continue;
      }
      const copied = bytes.copy(head, known, at, Math.min(to, at + MESSAGE_HEAD - known));
      known += copied;
      at += copied;
      if (known < MESSAGE_HEAD) continue;
      known = 0;
      const length = head.readUInt32BE(1);
      const [low, high] = [head.readUInt8(6), head.readUInt8(7)];
      const position = low < 0x80 ? 2 + low : 3 + (low & 0x7f) + (high << 7);
      if (head[0] !== 0 || head[PREFIX_BYTES] !== POSITION_TAG || position > length) {
        throw new Error("what came is no message of a watch");
      }
      skip = PREFIX_BYTES + length - MESSAGE_HEAD;
      // A checkpoint is its position and nothing else.
      seen(position < length);
    }
  };
}

/** Walks over the frames of a connection with one stream. */
function frames(watcher: Watcher): (bytes: Buffer, length: number) => void {
  const read = messages((isEvent) => {
    if (isEvent) watcher.events += 1;
    else watcher.isLive = true;
  });
  const head = Buffer.alloc(FRAME_HEAD);
  let known = 0;
  let rest = 0;
  const begun = () => {
    const [type, flags] = [head.readUInt8(3), head.readUInt8(4)];
    if (type === RST_STREAM || ((type === DATA || type === HEADERS) && (flags & END_STREAM) !== 0)) {
      throw new Error("a watch ended: they could not keep up, or the service failed");
    }
    if (type === SETTINGS && (flags & ACK) === 0) watcher.socket.write(frame(SETTINGS, ACK, 0, Buffer.alloc(0)));
  };
  return (bytes, length) => {
    for (let at = 0; at < length; ) {
      if (known < FRAME_HEAD) {
        const copied = bytes.copy(head, known, at, Math.min(length, at + FRAME_HEAD - known));
        known += copied;
        at += copied;
        if (known < FRAME_HEAD) return;
        rest = head.readUIntBE(0, 3);
        begun();
      }
      const step = Math.min(rest, length - at);
      if (head[3] === DATA) read(bytes, at, at + step);
      at += step;
      rest -= step;
      if (rest === 0) known = 0;
    }
  };
}

async function begin(port: number, apiKey: string, buffer: Buffer): Promise<Watcher> {
  let read: (bytes: Buffer, length: number) => void = () => {};
  const socket = connect({
    port,
    host: "127.0.0.1",
    onread: {
      buffer,
      callback: (length) => {
        try {
          read(buffer, length);
        } catch (error) {
          failure ??= error as Error;
        }
        return true;
      },
    },
  });
  const watcher = { events: 0, isLive: false, socket };
  read = frames(watcher);
  await once(socket, "connect");
  socket.on("error", () => {});
  socket.on("close", () => {
    if (watchers.includes(watcher)) failure ??= new Error("a connection ended");
  });
  socket.write(request(apiKey));
  return watcher;
}

async function until(done: (watcher: Watcher) => boolean, timeoutMs: number): Promise<Counted> {
  const events = () => watchers.map((watcher) => watcher.events);
  for (const from = performance.now(); !watchers.every(done); ) {
    if (failure !== undefined) throw failure;
    if (performance.now() - from > timeoutMs) throw new Error(`the watchers have had ${events().join(", ")} events`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return { events: events() };
}

async function run(job: WatchersJob): Promise<Counted> {
  switch (job.kind) {
    case "watch": {
      // What is read is counted before the next is: one place is enough for all.
      const buffer = Buffer.alloc(READ_BYTES);
      watchers = await Promise.all(Array.from({ length: job.watchers }, () => begin(job.port, job.apiKey, buffer)));
      return until(({ isLive }) => isLive, LIVE_MS);
    }
    case "count": {
      const counted = await until(({ events }) => events >= job.events, job.timeoutMs);
      const wrong = counted.events.find((events) => events !== job.events);
      if (wrong !== undefined) throw new Error(`a watcher has had ${wrong} events of ${job.events}`);
      return counted;
    }
    case "stop": {
      const ending = watchers;
      watchers = [];
      for (const { socket } of ending) socket.destroy();
      return { events: ending.map(({ events }) => events) };
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await run(JSON.parse(line) as WatchersJob).catch((error: unknown) => ({ error: String(error) }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
