// gRPC calls without compression, served straight from their HTTP/2 stream: the same gate, checks and implementations as
// any other call, a fraction of the work around them. What is not for it falls through to the library.
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { GrpcCall, type GrpcOptions, type GrpcRoute } from "./grpc-call.ts";

/** Serves the stream and says true, or leaves it alone and says false. `routes`: by path. */
export function grpcPath(
  routes: ReadonlyMap<string, GrpcRoute>,
  options: GrpcOptions,
): (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean {
  /** One that is valid: callers repeat theirs with every call. */
  let lastAuthority: string | undefined = "localhost";
  return (stream, headers) => {
    const route = routes.get(headers[":path"] as string);
    const type = headers["content-type"];
    if (route === undefined || headers[":method"] !== "POST") return false;
    if (type !== "application/grpc" && type !== "application/grpc+proto") return false;
    const encoding = headers["grpc-encoding"];
    if (encoding !== undefined && encoding !== "identity") return false;
    // A malformed authority is for the library's path to refuse, as HTTP.
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
