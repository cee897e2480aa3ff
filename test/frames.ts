// Frames of HTTP/2 as bytes, for what no client would send.
export const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
export const TYPE = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  push: 5,
  ping: 6,
  goaway: 7,
  window: 8,
  more: 9,
};
export const END_STREAM = 1;
export const END_HEADERS = 4;

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array()): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream >>> 0, 5);
  return Buffer.concat([head, payload]);
}

/** HPACK without its tables: a length of more than 126 takes a second byte. */
export function literal(name: string, value: string): Buffer {
  const text = (value: string) => {
    const bytes = Buffer.from(value, "latin1");
    const length = bytes.length < 127 ? [bytes.length] : [127, bytes.length - 127];
    return Buffer.concat([Buffer.from(length), bytes]);
  };
  return Buffer.concat([Buffer.of(0), text(name), text(value)]);
}

export const headerBlock = (headers: Record<string, string | readonly string[] | undefined>) =>
  Buffer.concat(
    Object.entries(headers).flatMap(([name, values = []]) => [values].flat().map((value) => literal(name, value))),
  );

export const reset = (stream: number, code: number) => frame(TYPE.reset, 0, stream, Buffer.of(0, 0, 0, code));
