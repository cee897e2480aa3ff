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
 * The same chunks, or their messages one by one: throws MESSAGE_TOO_LARGE at a binary one of too many values. JSON is
 * looked at where it becomes text. What is longer than it may be, or malformed, goes on as it is, for the library to
 * refuse.
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
  const parts: Uint8Array[] = [];
  let size = 0;
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) {
    parts.push(chunk.value);
    size += chunk.value.length;
    if (size > form.readMaxBytes) {
      yield* parts;
      yield* rest(source);
      return;
    }
  }
  const message = Buffer.concat(parts);
  await check(message, form.encoding === "gzip", form);
  yield message;
}

async function* enveloped(source: AsyncIterator<Uint8Array>, form: Form): AsyncGenerator<Uint8Array, void> {
  let parts: Uint8Array[] = [];
  let size = 0;
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) {
    parts.push(chunk.value);
    size += chunk.value.length;
    if (size < wanted(parts)) continue;
    let all = Buffer.concat(parts);
    while (all.length >= PREFIX_BYTES) {
      const length = all.readUInt32BE(1);
      if (length > form.readMaxBytes) {
        yield all;
        yield* rest(source);
        return;
      }
      if (all.length < PREFIX_BYTES + length) break;
      await check(all.subarray(PREFIX_BYTES, PREFIX_BYTES + length), ((all[0] as number) & 1) === 1, form);
      yield all.subarray(0, PREFIX_BYTES + length);
      all = all.subarray(PREFIX_BYTES + length);
    }
    parts = all.length === 0 ? [] : [all];
    size = all.length;
  }
  yield* parts;
}

/** Bytes until something is to be done: the prefix of the message, then all of it. */
function wanted(parts: readonly Uint8Array[]): number {
  const first = parts[0];
  if (first === undefined || first.length < PREFIX_BYTES) return PREFIX_BYTES;
  return PREFIX_BYTES + Buffer.from(first.buffer, first.byteOffset, first.length).readUInt32BE(1);
}

async function* rest(source: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  for (let chunk = await source.next(); chunk.done !== true; chunk = await source.next()) yield chunk.value;
}

async function check(message: Uint8Array, isCompressed: boolean, { input, readMaxBytes }: Form): Promise<void> {
  if (!isCompressed) return look(input, message);
  const plain = await compressionGzip.decompress(new Uint8Array(message), readMaxBytes).catch(() => undefined);
  if (plain !== undefined) look(input, plain);
}

function look(input: DescMessage, message: Uint8Array): void {
  assertFewValues(input, message);
  assertKinds(input, message);
}
