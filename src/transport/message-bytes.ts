// The bytes of request messages on their way to the library: unpacked and decoded here, each in its turn of the event loop.
// The library gets an empty message for each.
import { endStreamFlag } from "@connectrpc/connect/protocol-connect";
import { trailerFlag } from "@connectrpc/connect/protocol-grpc-web";
import { compressionGzip } from "@connectrpc/connect-node";
import { PREFIX_BYTES } from "./encode.ts";

/** What the headers of a call say of its messages, and who lets them go on. */
interface Form {
  contentType: string;
  /** Takes the bytes of each message; throws the refusal, as ConnectError. */
  decode: (message: Uint8Array) => void;
  /** Whether what is compressed is compressed with gzip, as the headers say; anything else the library refuses. */
  isGzip: boolean;
  readMaxBytes: number;
  /** Until when a message waits before it is decoded; undefined: it goes on at once. */
  turn: () => Promise<void> | undefined;
  /** Few are unpacked at once: nothing else would bound what they hold, nor how many are decoded in one turn. */
  unpacking: <T>(work: () => Promise<T>) => Promise<T>;
}

export const COMPRESSED = 1;

/**
 * An empty message for each, one by one and without compression. Each chunk holds whole messages; what is longer than it may
 * be, or not complete, goes on as it is, for the library to refuse.
 */
export function emptyMessages(chunks: AsyncIterable<Uint8Array>, form: Form): AsyncIterable<Uint8Array> {
  const type = typeOf(form.contentType);
  const source = chunks[Symbol.asyncIterator]();
  const empty = type.endsWith("json") ? EMPTY_JSON : EMPTY_BINARY;
  const isSingle = type === "application/proto" || type === "application/json";
  const messages = isSingle ? single(source, form, empty) : enveloped(source, form, empty, endFlagOf(type));
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => messages.next(),
      // Not by way of the generator, which would wait for a chunk that may never come.
      return: async () => (await source.return?.()) ?? { done: true, value: undefined },
    }),
  };
}

const EMPTY_JSON = Buffer.from("{}");
const EMPTY_BINARY = Buffer.alloc(0);

/** Without its parameters. */
export const typeOf = (contentType: string): string => contentType.split(";", 1)[0]?.trim().toLowerCase() ?? "";

/** Of an envelope without a message, which ends a stream: what comes behind it is not read. */
const endFlagOf = (type: string): number =>
  type.startsWith("application/connect") ? endStreamFlag : type.startsWith("application/grpc-web") ? trailerFlag : 0;

type Source = AsyncIterator<Uint8Array>;

/** The body is the message, an empty one too. */
async function* single(source: Source, form: Form, empty: Uint8Array): AsyncGenerator<Uint8Array, void> {
  const chunk = await source.next();
  const body = chunk.done === true ? EMPTY_BINARY : chunk.value;
  if (body.length > form.readMaxBytes) return yield body;
  const isPacked = form.isGzip && body.length > 0;
  if (!isPacked) await form.turn();
  form.decode(isPacked ? await unpacked(body, form) : body);
  yield empty;
}

async function* enveloped(
  source: Source,
  form: Form,
  empty: Uint8Array,
  endFlag: number,
): AsyncGenerator<Uint8Array, void> {
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) {
    let rest = chunk.value;
    while (rest.length > 0) {
      await form.turn();
      const end = rest.length < PREFIX_BYTES ? rest.length : PREFIX_BYTES + announced(rest);
      const isWhole = end >= PREFIX_BYTES && end <= rest.length && end - PREFIX_BYTES <= form.readMaxBytes;
      const flags = rest[0] as number;
      const isCompressed = (flags & COMPRESSED) !== 0;
      let envelope = rest.subarray(0, end);
      if (isWhole && (flags & endFlag) !== 0) return;
      if (isWhole && (form.isGzip || !isCompressed)) {
        const message = envelope.subarray(PREFIX_BYTES);
        form.decode(isCompressed ? await unpacked(message, form) : message);
        envelope = Buffer.concat([prefix(flags & ~COMPRESSED, empty.length), empty]);
      }
      yield envelope;
      rest = rest.subarray(end);
    }
  }
}

const announced = ({ buffer, byteOffset, length }: Uint8Array) =>
  Buffer.from(buffer, byteOffset, length).readUInt32BE(1);

/** What stands before a message of gRPC: its flags, and how long it is. */
export function prefix(flags: number, length: number): Buffer {
  const bytes = Buffer.alloc(PREFIX_BYTES);
  bytes[0] = flags;
  bytes.writeUInt32BE(length, 1);
  return bytes;
}

/** Throws as the library does where it cannot be unpacked, or is too large then. */
function unpacked(message: Uint8Array, { readMaxBytes, turn, unpacking }: Form): Promise<Uint8Array> {
  return unpacking(async () => {
    const plain = await compressionGzip.decompress(new Uint8Array(message), readMaxBytes);
    await turn();
    return plain;
  });
}
