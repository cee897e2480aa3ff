// Which protocol a cleartext connection speaks, by its first bytes.
import type { Socket } from "node:net";

export type Spoken = "h1" | "h2" | "tls";

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
/** The first byte of a TLS record with a handshake; no method of HTTP begins with it. */
const TLS_HANDSHAKE = 0x16;

/** Tells what a connection speaks, with its bytes put back. Silence is given up: `silent`, and the connection is closed. */
export function sniff(
  socket: Socket,
  timeoutMs: number,
  { decide, silent }: { decide: (spoken: Spoken) => void; silent: () => void },
): void {
  let seen = Buffer.alloc(0);
  const timer = setTimeout(() => {
    silent();
    socket.destroy();
  }, timeoutMs).unref();
  const onReadable = () => {
    const chunk: Buffer | null = socket.read();
    if (chunk === null) return;
    seen = Buffer.concat([seen, chunk]);
    const length = Math.min(seen.length, PREFACE.length);
    const matches = seen.subarray(0, length).equals(PREFACE.subarray(0, length));
    if (matches && length < PREFACE.length) return;
    stop();
    socket.unshift(seen);
    decide(matches ? "h2" : seen[0] === TLS_HANDSHAKE ? "tls" : "h1");
  };
  const onEnd = () => socket.destroy();
  const stop = () => {
    clearTimeout(timer);
    socket.off("readable", onReadable);
    socket.off("end", onEnd);
    socket.off("close", stop);
  };
  socket.on("readable", onReadable);
  socket.on("end", onEnd);
  socket.on("close", stop);
}

/** A fatal alert "protocol_version" of TLS 1.2: clients say that the other side speaks no TLS, not that it hung up. */
export const TLS_ALERT = Buffer.from([0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46]);
