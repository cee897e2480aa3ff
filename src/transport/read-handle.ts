// What a connection reads from, which Node keeps to itself: where Node reads on or not, a paused socket decides nothing.

export interface ReadHandle {
  /** False where Node itself has stopped it, for want of a reader. */
  reading?: boolean;
  /** Bytes that the other side has not taken yet. */
  writeQueueSize?: number;
  readStart(): number;
  readStop(): number;
  /** Node's, for what nobody below it has taken: of an HTTP/2 connection that is its end alone, which has no bytes. */
  onread?: (bytes?: ArrayBuffer) => unknown;
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

/** Calls back when the other side has ended the connection, or it broke: before Node closes what it has carried. */
export function whenEnded(handle: ReadHandle, ended: () => void): void {
  const { onread } = handle;
  if (onread === undefined) return;
  handle.onread = function (this: unknown, bytes) {
    if (bytes === undefined) ended();
    return onread.call(this, bytes);
  };
}
