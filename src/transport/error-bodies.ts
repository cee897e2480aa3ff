// The library writes some errors without asking an interceptor: what it cannot decode, what is too large,
// a bad timeout. Here each answer is read back as it leaves, and an error that is not ours is replaced.
import { ConnectError } from "@connectrpc/connect";
import { encodeEnvelope, readAllBytes, type UniversalServerResponse } from "@connectrpc/connect/protocol";
import {
  codeToHttpStatus,
  endStreamFlag,
  endStreamFromJson,
  endStreamToJson,
  errorFromJsonBytes,
  errorToJsonBytes,
} from "@connectrpc/connect/protocol-connect";
import { findTrailerError, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { trailerFlag, trailerParse, trailerSerialize } from "@connectrpc/connect/protocol-grpc-web";
import { compressionGzip } from "@connectrpc/connect-node";

/** These are our own answers: no limit but the library's. */
const MAX_BYTES = 0xffffffff;

export type Protocol = "grpc" | "grpc-web" | "connect" | "connect-stream";

/** What to do with an answer: `present` turns an error into one of ours, `ended` learns how the call ended, once. */
export interface ErrorPolicy {
  present(error: ConnectError): ConnectError;
  ended(error: ConnectError | undefined): void;
}

/** The protocol that a content type names, by the library's rules; undefined for one that is not served. */
export function protocolOf(contentType: string): Protocol | undefined {
  if (/^application\/grpc-web\b/i.test(contentType)) return "grpc-web";
  if (/^application\/grpc\b/i.test(contentType)) return "grpc";
  if (/^application\/connect\b/i.test(contentType)) return "connect-stream";
  if (/^application\/(json|proto)\b/i.test(contentType)) return "connect";
  return undefined;
}

/** The response with every error in our shape, in the same protocol. */
export async function withPresentableErrors(
  response: UniversalServerResponse,
  protocol: Protocol,
  policy: ErrorPolicy,
): Promise<UniversalServerResponse> {
  switch (protocol) {
    case "grpc":
      return { ...response, body: thenTrailers(response, policy) };
    case "grpc-web":
      return { ...response, body: eachEnvelope(response, trailerFlag, (data) => grpcWebEnd(data, policy)) };
    case "connect-stream":
      return { ...response, body: eachEnvelope(response, endStreamFlag, (data) => connectEnd(data, policy)) };
    case "connect":
      return connectUnary(response, policy);
  }
}

/** gRPC: the library fills in the trailers when the body has ended, the adapter sends them after that. */
async function* thenTrailers({ body, trailer }: UniversalServerResponse, policy: ErrorPolicy) {
  yield* body ?? [];
  const error = trailer && findTrailerError(trailer);
  if (trailer && error) policy.ended(replaceStatus(trailer, error, policy));
  else policy.ended(undefined);
}

function replaceStatus(trailer: Headers, error: ConnectError, policy: ErrorPolicy): ConnectError {
  const presented = policy.present(error);
  if (presented !== error) setTrailerStatus(trailer, presented);
  return presented;
}

/** gRPC-Web and Connect streams: the end of the call is an envelope of its own. The library yields whole envelopes. */
async function* eachEnvelope(
  { body }: UniversalServerResponse,
  endFlag: number,
  rewrite: (data: Uint8Array) => Uint8Array,
) {
  for await (const envelope of body ?? []) {
    const flags = envelope[0] ?? 0;
    if ((flags & endFlag) === 0) {
      yield envelope;
      continue;
    }
    const data = envelope.subarray(5);
    const compressed = (flags & 1) === 1;
    const plain = compressed ? await compressionGzip.decompress(new Uint8Array(data), MAX_BYTES) : data;
    const rewritten = rewrite(plain);
    yield rewritten === plain ? envelope : encodeEnvelope(endFlag, rewritten);
  }
}

function grpcWebEnd(data: Uint8Array, policy: ErrorPolicy): Uint8Array {
  const trailer = trailerParse(data);
  const error = findTrailerError(trailer);
  if (error === undefined) {
    policy.ended(undefined);
    return data;
  }
  const presented = replaceStatus(trailer, error, policy);
  policy.ended(presented);
  return presented === error ? data : trailerSerialize(trailer);
}

function connectEnd(data: Uint8Array, policy: ErrorPolicy): Uint8Array {
  const { metadata, error } = endStreamFromJson(data);
  const presented = error && policy.present(error);
  policy.ended(presented);
  if (presented === error) return data;
  return new TextEncoder().encode(JSON.stringify(endStreamToJson(metadata, presented, undefined)));
}

async function connectUnary(response: UniversalServerResponse, policy: ErrorPolicy): Promise<UniversalServerResponse> {
  if (response.status === 200) {
    policy.ended(undefined);
    return response;
  }
  const header = new Headers(response.header);
  const error = await readConnectError(response, header);
  const presented = policy.present(error);
  policy.ended(presented);
  // Written again in any case: it was read, and an error is not worth compressing.
  const body = errorToJsonBytes(presented, undefined);
  header.delete("content-encoding");
  header.set("content-length", String(body.byteLength));
  return { status: codeToHttpStatus(presented.code), header, body: once(body) };
}

async function readConnectError({ body }: UniversalServerResponse, header: Headers): Promise<ConnectError> {
  const bytes = await readAllBytes(body ?? once(new Uint8Array()), MAX_BYTES);
  const plain =
    header.get("content-encoding") === "gzip"
      ? await compressionGzip.decompress(new Uint8Array(bytes), MAX_BYTES)
      : bytes;
  return errorFromJsonBytes(plain, undefined, new ConnectError("unreadable error"));
}

async function* once<T>(item: T) {
  yield item;
}
