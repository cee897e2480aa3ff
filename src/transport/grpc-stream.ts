// The events of a call's stream, passed on to the call over one link, which is cut when the stream closes. Node's handle
// makes every collection but a full one keep a closed stream, with all that its listeners reach: as closures over the
// call they would keep the call, its headers and its messages too.
import type { ServerHttp2Stream } from "node:http2";

/** The call of a stream; not called once the stream has closed. */
export interface StreamUser {
  /** Some bytes of the request. */
  requestChunk(chunk: Buffer): void;
  requestEnded(): void;
  /** Everything but the trailers has left. */
  trailersWanted(): void;
  closed(): void;
}

const user = Symbol("user");
type UsedStream = ServerHttp2Stream & { [user]?: StreamUser | undefined };

/** Links the call to its stream: from now on it is told when that closes. */
export function link(stream: UsedStream, call: StreamUser): void {
  stream[user] = call;
  stream.on("close", onClose);
}

/** Passes the request on, as it arrives. */
export function readRequest(stream: UsedStream): void {
  stream.on("data", onData);
  // A stream without a body emits "end" at once, or never where it ends with its headers.
  if (stream.endAfterHeaders || stream.readableEnded) stream[user]?.requestEnded();
  else stream.on("end", onEnd);
}

/** Asks for the trailers when all that was written has left. */
export function awaitTrailers(stream: UsedStream): void {
  stream.on("wantTrailers", onWantTrailers);
}

function onData(this: UsedStream, chunk: Buffer): void {
  this[user]?.requestChunk(chunk);
}

function onEnd(this: UsedStream): void {
  this[user]?.requestEnded();
}

function onWantTrailers(this: UsedStream): void {
  this[user]?.trailersWanted();
}

function onClose(this: UsedStream): void {
  const call = this[user];
  this[user] = undefined;
  call?.closed();
}
