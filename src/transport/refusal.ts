// The answer to what never becomes a call: no such RPC, no such content type, GET. In the protocol that was asked for, in the
// shape of every other error; and with what to do instead.
import type { ServerResponse } from "node:http";
import type { Http2ServerResponse } from "node:http2";
import type { DescMethod } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import {
  codeToHttpStatus,
  endStreamFlag,
  endStreamToJson,
  errorToJsonBytes,
} from "@connectrpc/connect/protocol-connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { trailerFlag, trailerSerialize } from "@connectrpc/connect/protocol-grpc-web";
import { DomainError } from "../domain/errors.ts";
import type { Protocol } from "./error-bodies.ts";

export type NodeResponse = ServerResponse | Http2ServerResponse;

/** How an error goes to a caller of each protocol; undefined: none was named, so it is read by a person, or a proxy. */
export function writeRefusal(
  response: NodeResponse,
  { protocol, contentType }: { protocol: Protocol | undefined; contentType: string },
  error: ConnectError,
  /** Of HTTP, where the protocol leaves it to us. */
  status = codeToHttpStatus(error.code),
): void {
  const { head, body } = refusalIn(protocol, contentType, error, status);
  response.statusCode = head.status;
  response.setHeader("content-type", head.type);
  for (const [name, value] of head.more) response.setHeader(name, value);
  if (body !== undefined) response.setHeader("content-length", body.length);
  (response as { end(body?: Uint8Array): void }).end(body);
}

function refusalIn(protocol: Protocol | undefined, contentType: string, error: ConnectError, status: number) {
  const statusHeaders = () => {
    const headers = new Headers();
    setTrailerStatus(headers, error);
    return headers;
  };
  switch (protocol) {
    case "grpc":
      return { head: { status: 200, type: "application/grpc+proto", more: statusHeaders() }, body: undefined };
    case "grpc-web": {
      const type = /\+json/i.test(contentType) ? "application/grpc-web+json" : "application/grpc-web+proto";
      const body = encodeEnvelope(trailerFlag, trailerSerialize(statusHeaders()));
      return { head: { status: 200, type, more: new Headers() }, body };
    }
    case "connect-stream": {
      const type = /\+json/i.test(contentType) ? "application/connect+json" : "application/connect+proto";
      const end = JSON.stringify(endStreamToJson(new Headers(), error, undefined));
      const body = encodeEnvelope(endStreamFlag, new TextEncoder().encode(end));
      return { head: { status: 200, type, more: new Headers() }, body };
    }
    default: {
      const body = errorToJsonBytes(error, undefined);
      return { head: { status, type: "application/json", more: new Headers() }, body };
    }
  }
}

export function noSuchRpc(path: string, methods: Iterable<DescMethod>): DomainError {
  const near = nearest(path, Array.from(methods, pathOf));
  const hint = near === undefined ? "server reflection lists what is served" : `did you mean ${near}?`;
  return new DomainError("UNIMPLEMENTED", `There is no such RPC: ${hint}`);
}

export const noSuchType = (): DomainError =>
  new DomainError(
    "VALIDATION_ERROR",
    "The content-type must be application/grpc, application/grpc-web, application/proto or application/json, or application/connect+proto or application/connect+json for a stream",
    { field: "content-type" },
  );

export const notByGet = (): DomainError =>
  new DomainError("VALIDATION_ERROR", "RPCs are called by POST: in a GET the request would stand in the URL");

export const noAuthority = (): DomainError =>
  new DomainError("VALIDATION_ERROR", "The header host, or :authority, must be a host with or without a port", {
    field: "host",
  });

export const needsHttp2 = (): DomainError =>
  new DomainError("UNIMPLEMENTED", "The RPC needs HTTP/2: HTTP/1.1 cannot send and receive at the same time");

const pathOf = (method: DescMethod) => `/${method.parent.typeName}/${method.name}`;

/** Longer ones are nobody's slip. */
const MAX_PATH = 200;
const MAX_SLIPS = 3;

/** The path that is a few letters away, if there is one: slashes and case, a wrong service, a slip in the name. */
function nearest(path: string, known: readonly string[]): string | undefined {
  if (path.length > MAX_PATH) return undefined;
  const wanted = path.toLowerCase().replace(/\/+/g, "/");
  const name = nameOf(wanted);
  let best: string | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const lower = candidate.toLowerCase();
    if (Math.abs(name.length - nameOf(lower).length) > MAX_SLIPS) continue;
    const slips = distance(name, nameOf(lower));
    if (slips > Math.min(MAX_SLIPS, Math.floor(nameOf(lower).length / 3))) continue;
    // The name first; among methods of the same name, the service.
    const score = slips * MAX_PATH + distance(wanted, lower);
    if (score < least) [best, least] = [candidate, score];
  }
  return best;
}

const nameOf = (path: string) => path.slice(path.lastIndexOf("/") + 1);

/** How many letters must be put in, left out or changed (Levenshtein). */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (let i = 1; i <= from.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= to.length; j += 1) {
      const change = (row[j - 1] as number) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[to.length] as number;
}
