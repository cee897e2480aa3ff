// Where a call comes from, for log and trail. Headers such as X-Forwarded-For are anybody's to write: not believed.
import type { Socket } from "node:net";

/** The IP address at the other end, "" where the connection is gone; an IPv4 address in its own form on a socket of IPv6 too. */
export const peerOf = (socket: Pick<Socket, "remoteAddress"> | undefined): string =>
  socket?.remoteAddress?.replace(/^::ffff:(?=\d+\.)/, "") ?? "";
