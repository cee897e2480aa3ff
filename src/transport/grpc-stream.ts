// Passes the events of a stream on to its call, through one reference that is removed when the stream closes. Until the next
// full garbage collection Node's handle keeps a closed stream alive, with everything that its listeners reference: if those
// were closures over the call, they would keep the call, its headers and its messages as well.
import type { ServerHttp2Stream } from "node:http2";

/** The call of a stream. Nothing is called after `closed`. */
export interface StreamUser {
  /** Some bytes of the request. */
  requestChunk(chunk: Buffer): void;
  requestEnded(): void;
  /** All that was written has left, and the trailers may be sent. */
  trailersWanted(): void;
  closed(): void;
}

const user = Symbol("user");
type UsedStream = ServerHttp2Stream & { [user]?: StreamUser | undefined };

/** Links a call to its stream, and reports when that closes. */
export function link(stream: UsedStream, call: StreamUser): void {
  stream[user] = call;
  stream.on("close", onClose);
}

/** Reports the request, as it arrives. */
export function readRequest(stream: UsedStream): void {
  stream.on("data", onData);
  // A stream without a body emits "end" at once, or never if it ends with its headers.
  if (stream.endAfterHeaders || stream.readableEnded) stream[user]?.requestEnded();
  else stream.on("end", onEnd);
}

/** Reports when the trailers may be sent. */
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
