// gRPC calls without compression, served directly from their HTTP/2 stream: the same gate, checks and implementations as
// any other call, with a fraction of the work around them. The library serves everything else.
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { GrpcCall, type GrpcOptions, type GrpcRoute } from "./grpc-call.ts";

/** The returned function serves a stream and returns true, or ignores it and returns false. `routes`: by path. */
export function grpcPath(
  routes: ReadonlyMap<string, GrpcRoute>,
  options: GrpcOptions,
): (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean {
  /** A valid one, to begin with: callers send the same one with every call. */
  let lastAuthority: string | undefined = "localhost";
  return (stream, headers) => {
    const route = routes.get(headers[":path"] as string);
    const type = headers["content-type"];
    if (route === undefined || headers[":method"] !== "POST") return false;
    if (type !== "application/grpc" && type !== "application/grpc+proto") return false;
    const encoding = headers["grpc-encoding"];
    if (encoding !== undefined && encoding !== "identity") return false;
    // The library's path refuses a malformed authority, as HTTP.
    const authority = headers[":authority"];
    if (authority !== lastAuthority) {
      if (!isAuthority(authority)) return false;
      lastAuthority = authority;
    }
    new GrpcCall(options, route, stream, headers).serve();
    return true;
  };
}

/** A name or an address with a port up to 9999, or up to 65535 as URL has it. */
const isAuthority = (authority: string | undefined) =>
  authority !== undefined && (/^[\w.-]+(:\d{1,4})?$/.test(authority) || URL.canParse(`http://${authority}`));
