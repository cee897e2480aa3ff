// Headers of requests that the library is to read otherwise than they were sent.
import { parseTimeout as parseConnectTimeout } from "@connectrpc/connect/protocol-connect";
import { parseTimeout as parseGrpcTimeout } from "@connectrpc/connect/protocol-grpc";
import type { Protocol } from "./error-bodies.ts";

/** A deadline over the maximum is as good as the maximum: the library would refuse it. */
export function capTimeout(header: Headers, maxMs: number): void {
  const isOver = ({ error, timeoutMs }: { error?: unknown; timeoutMs?: number }) =>
    error !== undefined && timeoutMs !== undefined;
  if (isOver(parseGrpcTimeout(header.get("grpc-timeout"), maxMs))) header.set("grpc-timeout", `${maxMs}m`);
  if (isOver(parseConnectTimeout(header.get("connect-timeout-ms"), maxMs))) {
    header.set("connect-timeout-ms", String(maxMs));
  }
}

/** Whether messages are compressed with gzip. A body that is one is unpacked before the library reads of it. */
export function isGzipped(header: Headers, protocol: Protocol | undefined): boolean {
  if (protocol === "grpc" || protocol === "grpc-web") return header.get("grpc-encoding") === "gzip";
  if (protocol === "connect-stream") return header.get("connect-content-encoding") === "gzip";
  if (header.get("content-encoding") !== "gzip") return false;
  header.delete("content-encoding");
  // Who says nothing else takes the answer as the request was.
  if (!header.has("accept-encoding")) header.set("accept-encoding", "gzip");
  return true;
}

/** Of a body of which the library gets another than was sent. A length over the limit is for it to refuse, before the body. */
export function forgetLength(header: Headers, maxBytes: number): void {
  if (Number(header.get("content-length")) <= maxBytes) header.delete("content-length");
}
