// A server that does what a test says, stream by stream: answers, refuses, resets, goes away.
import { once } from "node:events";
import {
  constants,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack, durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Code } from "@connectrpc/connect";
import {
  createEntityClient,
  type EntityClientOptions,
  ErrorInfoSchema,
  GetEntityResponseSchema,
  RetryInfoSchema,
  StatusSchema,
} from "../../clients/typescript/index.ts";
import { envelope } from "../frames.ts";

const NOTHING = Buffer.alloc(0);

/** A server that hands each stream to `answer`, numbered from 0. */
export async function serving(act: (stream: ServerHttp2Stream, index: number) => void) {
  const server: Http2Server = createServer();
  let [streams, connections] = [0, 0];
  const paths: string[] = [];
  const requests: Buffer[] = [];
  const headersOf: IncomingHttpHeaders[] = [];
  server.on("session", (session) => {
    connections++;
    session.on("error", () => {});
  });
  server.on("stream", (stream, headers) => {
    const index = streams++;
    stream.on("error", () => {});
    headersOf.push(headers);
    paths.push(String(headers[":path"]).split("/").at(-1) ?? "");
    stream.on("data", (chunk: Buffer) => (requests[index] = Buffer.concat([requests[index] ?? NOTHING, chunk])));
    act(stream, index);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    baseUrl,
    client: (options: Partial<EntityClientOptions> = {}) => createEntityClient({ baseUrl, apiKey: "k", ...options }),
    seen: () => ({ streams, connections }),
    /** The method of each stream, and its request once it has arrived. */
    paths,
    requests,
    headers: headersOf,
    [Symbol.asyncDispose]: async () => {
      server.close();
    },
  };
}

export function answer(stream: ServerHttp2Stream, message: Uint8Array): void {
  stream.respond({ ":status": 200, "content-type": "application/grpc+proto" }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
  stream.end(envelope(message));
}
export const ENTITY = toBinary(GetEntityResponseSchema, create(GetEntityResponseSchema, { entity: { id: "1" } }));
export const refuse = (stream: ServerHttp2Stream) => stream.close(constants.NGHTTP2_REFUSED_STREAM);
/** Sends a GOAWAY that says that only the first stream was processed. */
export const leave = (stream: ServerHttp2Stream) => stream.session?.goaway(constants.NGHTTP2_NO_ERROR, 1);

export interface Refusal {
  code: Code;
  /** Undefined: without an ErrorInfo, as a proxy refuses. */
  reason?: string;
  metadata?: Record<string, string>;
  /** google.rpc.RetryInfo. */
  retryAfterMs?: number;
}

/** Refuses the call as the service does: in trailers alone. */
export function say(stream: ServerHttp2Stream, { code, reason, metadata = {}, retryAfterMs }: Refusal): void {
  const details =
    reason === undefined
      ? []
      : [anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain: "entity.v1", metadata }))];
  if (retryAfterMs !== undefined) {
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: durationFromMs(retryAfterMs) })));
  }
  const status = toBinary(StatusSchema, create(StatusSchema, { code, message: "refused", details }));
  stream.respond(
    {
      ":status": 200,
      "content-type": "application/grpc+proto",
      "grpc-status": String(code),
      "grpc-message": "refused",
      "grpc-status-details-bin": Buffer.from(status).toString("base64"),
    },
    { endStream: true },
  );
}
