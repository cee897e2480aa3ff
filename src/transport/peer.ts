// Where a call comes from, for log and trail. Anybody can write headers such as X-Forwarded-For: they are not trusted.
import type { Http2Session } from "node:http2";
import type { Socket } from "node:net";

/** The IP address at the other end, "" where the connection is gone; an IPv4 address in its own form on a socket of IPv6 too. */
export function peerOf(socket: Pick<Socket, "remoteAddress"> | undefined): string {
  try {
    return socket?.remoteAddress?.replace(/^::ffff:(?=\d+\.)/, "") ?? "";
  } catch {
    // The socket of an HTTP/2 session that has ended throws.
    return "";
  }
}

const ofSessions = new WeakMap<Http2Session, string>();

/** The same for an HTTP/2 connection, asked once: its socket stands behind a proxy. */
export function peerOfSession(session: Http2Session | undefined): string {
  if (session === undefined) return "";
  let peer = ofSessions.get(session);
  if (peer === undefined) {
    peer = peerOf(session.socket);
    ofSessions.set(session, peer);
  }
  return peer;
}
