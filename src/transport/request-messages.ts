// The request messages of calls that the library serves: decoded by us as they come, and put in the place of the empty ones
// that the library makes.
import type { DescMethod, JsonReadOptions, Message } from "@bufbuild/protobuf";
import { createContextKey, type Interceptor } from "@connectrpc/connect";
import { decodeBinary } from "./decode.ts";
import { jsonDecoder } from "./decode-json.ts";

/** Those that the library has not yet asked for, in their order. Set for each call. */
export const decodedKey = createContextKey<Message[]>([], { description: "decoded" });

type Decode = (bytes: Uint8Array) => Message;

/** Decoders of the requests of each method. */
export function requestDecoders(
  methods: Iterable<DescMethod>,
  options: Partial<JsonReadOptions>,
): (method: DescMethod, isJson: boolean) => Decode {
  const decoders = new Map(
    Array.from(methods, ({ input }) => [
      input,
      { json: jsonDecoder(input, options), binary: (bytes: Uint8Array) => decodeBinary(input, bytes) },
    ]),
  );
  return ({ input }, isJson) => {
    const decoder = decoders.get(input);
    if (decoder === undefined) throw new Error(`${input.typeName} has no decoder`);
    return isJson ? decoder.json : decoder.binary;
  };
}

/** To stand before all that look at messages. */
export const decodedRequests: Interceptor = (next) => (request) => {
  const decoded = request.contextValues.get(decodedKey);
  const take = (): never => {
    const message = decoded.shift();
    if (message === undefined) throw new Error("a message was not decoded");
    return message as never;
  };
  async function* taken(messages: AsyncIterable<Message>) {
    for await (const _ of messages) yield take();
  }
  return next(request.stream ? { ...request, message: taken(request.message) } : { ...request, message: take() });
};
