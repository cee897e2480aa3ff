// What a connection reads from, which Node keeps to itself: where Node reads on or not, a paused socket decides nothing.

export interface ReadHandle {
  /** False where Node itself has stopped it, for want of a reader. */
  reading?: boolean;
  /** Bytes that the other side has not taken yet. */
  writeQueueSize?: number;
  readStart(): number;
  readStop(): number;
}

/** Undefined where the socket has none (any more), or where Node has changed what it is. */
export function readHandle(socket: object): ReadHandle | undefined {
  const { _handle: handle } = socket as { _handle?: ReadHandle };
  return typeof handle?.readStop === "function" && typeof handle.readStart === "function" ? handle : undefined;
}

/**
 * Node does not read an HTTP/2 connection while bytes to it are on their way, and begins again by itself. To begin before
 * would have it keep all that comes, without a bound.
 */
export function isHeldUp(handle: ReadHandle): boolean {
  return (handle.writeQueueSize ?? 0) > 0;
}
