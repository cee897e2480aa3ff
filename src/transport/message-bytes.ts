// The bytes of request messages on their way to the library, which decodes them: looked at before it does.
import type { DescMessage } from "@bufbuild/protobuf";
import { compressionGzip } from "@connectrpc/connect-node";
import { PREFIX_BYTES } from "./encode.ts";
import { assertKinds } from "./kindless.ts";
import { assertFewValues } from "./values.ts";

/** What the headers of a call say of its messages. */
interface Form {
  input: DescMessage;
  contentType: string;
  /** `content-encoding` of a single message; those in envelopes are compressed with gzip or not at all. */
  encoding: string | null;
  readMaxBytes: number;
}

/**
 * The same bytes, their messages one by one: throws MESSAGE_TOO_LARGE at a binary one of too many values. JSON is looked
 * at where it becomes text. Each chunk holds whole messages; what is longer than it may be, or not complete, goes on as it
 * is, for the library to refuse.
 */
export function withFewValues(chunks: AsyncIterable<Uint8Array>, form: Form): AsyncIterable<Uint8Array> {
  const type = form.contentType.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  if (type.endsWith("json")) return chunks;
  const source = chunks[Symbol.asyncIterator]();
  const messages = type === "application/proto" ? single(source, form) : enveloped(source, form);
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => messages.next(),
      // Not by way of the generator, which would wait for a chunk that may never come.
      return: async () => (await source.return?.()) ?? { done: true, value: undefined },
    }),
  };
}

async function* single(source: AsyncIterator<Uint8Array>, form: Form): AsyncGenerator<Uint8Array, void> {
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) {
    if (chunk.value.length <= form.readMaxBytes) await check(chunk.value, form.encoding === "gzip", form);
    yield chunk.value;
  }
}

async function* enveloped(source: AsyncIterator<Uint8Array>, form: Form): AsyncGenerator<Uint8Array, void> {
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) {
    let rest = chunk.value;
    while (rest.length > 0) {
      const end = rest.length < PREFIX_BYTES ? rest.length : PREFIX_BYTES + announced(rest);
      if (end >= PREFIX_BYTES && end <= rest.length && end - PREFIX_BYTES <= form.readMaxBytes)
        await check(rest.subarray(PREFIX_BYTES, end), ((rest[0] as number) & 1) === 1, form);
      yield rest.subarray(0, end);
      rest = rest.subarray(end);
    }
  }
}

const announced = ({ buffer, byteOffset, length }: Uint8Array) =>
  Buffer.from(buffer, byteOffset, length).readUInt32BE(1);

async function check(message: Uint8Array, isCompressed: boolean, { input, readMaxBytes }: Form): Promise<void> {
  if (!isCompressed) return look(input, message);
  const plain = await compressionGzip.decompress(new Uint8Array(message), readMaxBytes).catch(() => undefined);
  if (plain !== undefined) look(input, plain);
}

function look(input: DescMessage, message: Uint8Array): void {
  assertFewValues(input, message);
  assertKinds(input, message);
}
