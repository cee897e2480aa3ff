// Watchers that only count, in a process of their own: over raw HTTP/2, as cheap as can be, for in life those who
// watch have machines of their own, and here they share the cores with what is measured. A job a line on standard
// input (JSON), its answer a line on standard output.
import { once } from "node:events";
import { type ClientHttp2Session, connect, type IncomingHttpHeaders } from "node:http2";
import { createInterface } from "node:readline";
import { create, toBinary } from "@bufbuild/protobuf";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { EntityService, WatchEntitiesRequestSchema } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { errorInfo } from "../clients/typescript/index.ts";

/** `watch` answers when all are live, `count` when each has had so many events; all with what each has had. */
export type WatchersJob =
  | { kind: "watch"; port: number; apiKey: string; watchers: number; position?: string }
  | { kind: "count"; events: number; timeoutMs: number }
  | { kind: "stop" };

export interface Counted {
  /** Events of each watcher. */
  events: number[];
  /** Streams that were begun again because they were too slow. */
  resumed: number;
}

const PREFIX_BYTES = 5;
/** The tags of WatchEntitiesResponse.position and of its event. */
const POSITION_TAG = 0x0a;
const EVENT_TAG = 0x12;
const WINDOW_BYTES = 4 * 1024 * 1024;

interface Watcher {
  events: number;
  streams: number;
  isLive: boolean;
  session: ClientHttp2Session;
}

/** Called for each chunk of a gRPC stream; tells of each message whether it is an event. Copies nothing but what is split. */
function eachMessage(seen: (isEvent: boolean) => void): (chunk: Buffer) => void {
  let rest = Buffer.alloc(0);
  let skip = 0;
  return (chunk) => {
    let at = Math.min(skip, chunk.length);
    skip -= at;
    let bytes = chunk;
    if (rest.length > 0) {
      bytes = Buffer.concat([rest, chunk]);
      rest = Buffer.alloc(0);
    }
    while (at < bytes.length) {
      // The prefix, the position and the tag behind it.
      const position = positionLength(bytes, at + PREFIX_BYTES);
      const length = position === undefined ? 0 : bytes.readUInt32BE(at + 1);
      if (position === undefined || (position < length && at + PREFIX_BYTES + position >= bytes.length)) {
        rest = Buffer.from(bytes.subarray(at));
        return;
      }
      if (bytes[at] !== 0 || position > length) throw new Error("not a message of a watch");
      const isEvent = position < length;
      if (isEvent && bytes[at + PREFIX_BYTES + position] !== EVENT_TAG) throw new Error("not an event");
      seen(isEvent);
      at += PREFIX_BYTES + length;
    }
    skip += at - bytes.length;
  };
}

/** Bytes of the field of the position, which begins at `at`; undefined while they are not all there. */
function positionLength(bytes: Buffer, at: number): number | undefined {
  const [tag, low, high] = [bytes[at], bytes[at + 1], bytes[at + 2]];
  if (tag === undefined || low === undefined || high === undefined) return undefined;
  if (tag !== POSITION_TAG) throw new Error("a message without a position");
  return low < 0x80 ? 2 + low : 3 + (low & 0x7f) + (high << 7);
}

let watchers: Watcher[] = [];
let failure: Error | undefined;

function begin(watcher: Watcher, apiKey: string, position: string): void {
  const message = toBinary(WatchEntitiesRequestSchema, create(WatchEntitiesRequestSchema, { position }));
  const body = Buffer.alloc(PREFIX_BYTES + message.length);
  body.writeUInt32BE(message.length, 1);
  body.set(message, PREFIX_BYTES);
  const { method } = EntityService;
  const stream = watcher.session.request({
    ":method": "POST",
    ":path": `/${method.watchEntities.parent.typeName}/${method.watchEntities.name}`,
    "content-type": "application/grpc",
    te: "trailers",
    authorization: `Bearer ${apiKey}`,
  });
  watcher.streams += 1;
  const headers = new Headers();
  const ended = (received: IncomingHttpHeaders) => {
    for (const [name, value] of Object.entries(received))
      if (name.startsWith("grpc-")) headers.set(name, String(value));
  };
  const read = eachMessage((isEvent) => {
    if (isEvent) watcher.events += 1;
    else watcher.isLive = true;
  });
  stream.on("response", ended);
  stream.on("trailers", ended);
  stream.on("data", read);
  stream.on("error", () => {});
  stream.on("close", () => {
    if (watcher.session.destroyed) return;
    const error = findTrailerError(headers);
    const info = error && errorInfo(error);
    if (info?.reason === "WATCH_TOO_SLOW") begin(watcher, apiKey, info.metadata.position ?? "");
    else failure = error ?? new Error("a watch ended");
  });
  stream.end(body);
}

async function until(done: (watcher: Watcher) => boolean, timeoutMs: number): Promise<Counted> {
  for (const from = performance.now(); !watchers.every(done); ) {
    if (failure !== undefined) throw failure;
    if (performance.now() - from > timeoutMs) {
      throw new Error(`the watchers have had ${watchers.map(({ events }) => events).join(", ")} events`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    events: watchers.map(({ events }) => events),
    resumed: watchers.reduce((sum, { streams }) => sum + streams - 1, 0),
  };
}

async function run(job: WatchersJob): Promise<Counted> {
  if (job.kind === "watch") {
    for (let i = 0; i < job.watchers; i++) {
      const session = connect(`http://127.0.0.1:${job.port}`, { settings: { initialWindowSize: WINDOW_BYTES } });
      await once(session, "connect");
      session.setLocalWindowSize(WINDOW_BYTES);
      const watcher = { events: 0, streams: 0, isLive: false, session };
      watchers.push(watcher);
      begin(watcher, job.apiKey, job.position ?? "");
    }
    return until(({ isLive }) => isLive, 60_000);
  }
  if (job.kind === "stop") {
    for (const { session } of watchers) session.destroy();
    watchers = [];
    return until(() => true, 0);
  }
  const counted = await until(({ events }) => events >= job.events, job.timeoutMs);
  const wrong = counted.events.find((events) => events !== job.events);
  if (wrong !== undefined) throw new Error(`a watcher has had ${wrong} events of ${job.events}`);
  return counted;
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await run(JSON.parse(line) as WatchersJob).catch((error: unknown) => ({ error: String(error) }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
