// The bytes of request messages on their way to the library, which decodes them: unpacked and looked at before it does,
// and each in its turn of the event loop.
import type { DescMessage } from "@bufbuild/protobuf";
import { compressionGzip } from "@connectrpc/connect-node";
import { PREFIX_BYTES } from "./encode.ts";
import { assertKinds } from "./kindless.ts";
import { assertFewValues } from "./values.ts";

/** What the headers of a call say of its messages, and who lets them go on. */
interface Form {
  input: DescMessage;
  contentType: string;
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
 * The same messages, one by one, without compression: throws MESSAGE_TOO_LARGE at a binary one of too many values. JSON is
 * looked at where it becomes text. Each chunk holds whole messages; what is longer than it may be, or not complete, goes on
 * as it is, for the library to refuse.
 */
export function plainMessages(chunks: AsyncIterable<Uint8Array>, form: Form): AsyncIterable<Uint8Array> {
  const type = typeOf(form.contentType);
  const source = chunks[Symbol.asyncIterator]();
  const look = type.endsWith("json") ? () => {} : (message: Uint8Array) => assertDecodable(form.input, message);
  const isSingle = type === "application/proto" || type === "application/json";
  const messages = isSingle ? single(source, form, look) : enveloped(source, form, look);
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => messages.next(),
      // Not by way of the generator, which would wait for a chunk that may never come.
      return: async () => (await source.return?.()) ?? { done: true, value: undefined },
    }),
  };
}

/** Without its parameters. */
export const typeOf = (contentType: string): string => contentType.split(";", 1)[0]?.trim().toLowerCase() ?? "";

type Look = (message: Uint8Array) => void;

async function* single(source: AsyncIterator<Uint8Array>, form: Form, look: Look): AsyncGenerator<Uint8Array, void> {
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) {
    if (chunk.value.length > form.readMaxBytes) yield chunk.value;
    else {
      if (!form.isGzip) await form.turn();
      const message = form.isGzip ? await unpacked(chunk.value, form) : chunk.value;
      look(message);
      yield message;
    }
  }
}

async function* enveloped(source: AsyncIterator<Uint8Array>, form: Form, look: Look): AsyncGenerator<Uint8Array, void> {
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) {
    await form.turn();
    let rest = chunk.value;
    while (rest.length > 0) {
      const end = rest.length < PREFIX_BYTES ? rest.length : PREFIX_BYTES + announced(rest);
      const isWhole = end >= PREFIX_BYTES && end <= rest.length && end - PREFIX_BYTES <= form.readMaxBytes;
      const flags = rest[0] as number;
      let envelope = rest.subarray(0, end);
      if (isWhole) {
        let message = envelope.subarray(PREFIX_BYTES);
        if ((flags & COMPRESSED) !== 0 && form.isGzip) {
          message = await unpacked(message, form);
          envelope = Buffer.concat([prefix(flags & ~COMPRESSED, message.length), message]);
        }
        if ((flags & COMPRESSED) === 0 || form.isGzip) look(message);
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

function assertDecodable(input: DescMessage, message: Uint8Array): void {
  assertFewValues(input, message);
  assertKinds(input, message);
}
