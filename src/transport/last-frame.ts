// How an answer that the library has made ends on its HTTP/2 stream.
import type { ServerHttp2Stream } from "node:http2";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";

/**
 * Node would end every answer with an empty frame, a turn of the loop later, for trailers that may come. connect-go
 * gives up the rest of an oversized request as soon as it reads of the error: an answer that is still open then is
 * reset, because the request is shorter than it said it was, and the error is lost. So the last frame says that it
 * is the last; where a gRPC call fails before its first message, and without headers of its own, the only one.
 */
export function endWithLastFrame(stream: ServerHttp2Stream, { header, trailer }: UniversalServerResponse): void {
  const { respond } = stream;
  stream.respond = (headers, options) => {
    const failed = trailer !== undefined && findTrailerError(trailer) !== undefined;
    if (failed && [...new Headers(header).keys()].every((name) => /^(content-type$|grpc-)/.test(name))) {
      respond.call(stream, { ...headers, ...Object.fromEntries(trailer) }, { endStream: true });
    } else {
      respond.call(stream, headers, { ...options, waitForTrailers: trailer !== undefined });
    }
  };
}
