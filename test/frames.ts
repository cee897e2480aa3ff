// HTTP/2 by hand, for what no client would send: frames, uncompressed header blocks, and the envelopes of gRPC.
export const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

export const FRAME = {
  DATA: 0,
  HEADERS: 1,
  PRIORITY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PUSH_PROMISE: 5,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;
export const FLAG = { END_STREAM: 1, ACK: 1, END_HEADERS: 4, PADDED: 8, PRIORITY: 32 } as const;
/** The payload of a RST_STREAM that cancels. */
export const CANCEL = Buffer.from([0, 0, 0, 8]);

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array()): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream >>> 0, 5);
  return Buffer.concat([head, payload]);
}

export const reset = (stream: number, code: number) => frame(FRAME.RST_STREAM, 0, stream, uint32(code));

/** SETTINGS of the client: ids and values. */
export function settings(values: [id: number, value: number][] = []): Buffer {
  const payload = Buffer.alloc(6 * values.length);
  for (const [index, [id, value]] of values.entries()) {
    payload.writeUInt16BE(id, 6 * index);
    payload.writeUInt32BE(value >>> 0, 6 * index + 2);
  }
  return frame(FRAME.SETTINGS, 0, 0, payload);
}

export function uint32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value >>> 0);
  return buffer;
}

/** An HPACK string without Huffman. */
function text(value: string | Buffer): Buffer {
  const bytes = Buffer.from(value as string, "latin1");
  if (bytes.length < 127) return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  const length = [127];
  let rest = bytes.length - 127;
  for (; rest > 127; rest = Math.floor(rest / 128)) length.push((rest % 128) + 128);
  length.push(rest);
  return Buffer.concat([Buffer.from(length), bytes]);
}

/** A header that the peer must not add to its table; with `indexed` it must. */
export function literal(name: string, value: string, indexed = false): Buffer {
  return Buffer.concat([Buffer.from([indexed ? 0x40 : 0]), text(name), text(value)]);
}

/** A name with several values is repeated. */
export function headerBlock(headers: Record<string, string | readonly string[] | undefined>): Buffer {
  const fields = Object.entries(headers).flatMap(([name, values = []]) =>
    [values].flat().map((value) => literal(name, value)),
  );
  return Buffer.concat(fields);
}

/** The headers of a gRPC call. */
export function callHead(path: string, key?: string, more: Record<string, string> = {}): Buffer {
  return headerBlock({
    ":method": "POST",
    ":scheme": "http",
    ":path": path,
    ":authority": "a",
    "content-type": "application/grpc",
    te: "trailers",
    ...(key !== undefined && { authorization: `Bearer ${key}` }),
    ...more,
  });
}

/** A message of gRPC, with its flags and its length before it. */
export function envelope(message: Uint8Array, flags = 0, length = message.length): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(length >>> 0, 1);
  return Buffer.concat([head, message]);
}

/** A number in protobuf's binary form. */
export const varint = (value: number): Buffer =>
  value < 0x80 ? Buffer.of(value) : Buffer.concat([Buffer.of((value & 0x7f) | 0x80), varint(value >>> 7)]);

/** A length-delimited field. */
export const lengthDelimited = (number: number, ...inside: Uint8Array[]): Buffer => {
  const bytes = Buffer.concat(inside);
  return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
};

/** The bytes of what `frameEncoder` gives for a message that it writes at once. */
export function atOnce(pieces: Buffer[] | Promise<Buffer[]>): Buffer {
  if (pieces instanceof Promise) throw new Error("it is written in parts");
  return Buffer.concat(pieces);
}

export const never = () => {
  throw new Error("it is written in parts");
};
