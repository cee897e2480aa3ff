// Well-formed calls over HTTP/2 and HTTP/1.1, and what the contract says of an answer: a call succeeds, or is refused with a
// typed error that holds nothing of the request, or the connection is refused in shape.

import http from "node:http";
import {
  type ClientHttp2Session,
  type ClientSessionOptions,
  connect,
  constants,
  type IncomingHttpHeaders,
} from "node:http2";
import { gunzipSync } from "node:zlib";
import { fromBinary, fromJson } from "@bufbuild/protobuf";
import { ErrorReason } from "../../clients/typescript/gen/entity/v1/error_pb.ts";
import { BadRequestSchema, ErrorInfoSchema } from "../../clients/typescript/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../clients/typescript/gen/google/rpc/status_pb.ts";

/** Part of every value that a hostile caller makes up: it must appear in no log line and in no error. */
export const CANARY = "Zq7canary";
/** Details of an error go into trailers, which proxies and clients bound: in bytes of protobuf. */
const MAX_DETAILS = 4_096;
const DOMAIN = "entity.v1";

export interface Answer {
  /** HTTP status; 0: none came. */
  http: number;
  headers: IncomingHttpHeaders;
  trailers: IncomingHttpHeaders;
  /** The beginning of the body. */
  body: Buffer;
  size: number;
  /** Code of the RST_STREAM; 0 where the stream ended in order. */
  reset: number;
  /** How the call ended. */
  ended: "answered" | "connection lost" | "left" | "nothing came";
  ms: number;
  /** Where nothing came: what the caller's side knows of the stream and its connection. */
  state?: string;
}

const MAX_KEPT = 256 * 1024;

/** When this process last stood still for over a second, and for how long: a caller that does not read has no answer. */
const stood = { at: 0, ms: 0 };
const TICK_MS = 200;
let lastTick = performance.now();
setInterval(() => {
  const now = performance.now();
  if (now - lastTick > 1_000) Object.assign(stood, { at: lastTick, ms: now - lastTick });
  lastTick = now;
}, TICK_MS).unref();

/**
 * For what a connection has not sent yet, in megabytes. With Node's 10 a client of Node that has a dozen bodies of 1 MB in hand
 * refuses the HEADERS of their answers itself: it resets the stream with ENHANCE_YOUR_CALM, and where a RST_STREAM(NO_ERROR)
 * came in the same read, it emits "end" and nothing else, neither "response" nor "close". A server of Node alone shows it.
 */
const CLIENT_MEMORY = 1_000;

export async function session(port: number, options: ClientSessionOptions = {}): Promise<ClientHttp2Session> {
  const made = connect(`http://127.0.0.1:${port}`, { maxSessionMemory: CLIENT_MEMORY, ...options });
  made.on("error", () => {});
  await new Promise<void>((resolve, reject) => {
    made.once("connect", () => resolve());
    made.once("error", reject);
  });
  return made;
}

export interface Call {
  path: string;
  headers: Record<string, string>;
  body: Uint8Array | Uint8Array[];
  /** Leaves the request open. */
  open?: boolean;
  /** Leaves after this time; the answer is then "left". */
  leaveAfterMs?: number;
  limitMs?: number;
}

const noAnswerYet = (): Answer => ({
  http: 0,
  headers: {},
  trailers: {},
  body: Buffer.alloc(0),
  size: 0,
  reset: 0,
  ended: "answered",
  ms: 0,
});

/** One call over HTTP/2; always resolves. */
export function call(
  on: ClientHttp2Session,
  { path, headers, body, open, leaveAfterMs, limitMs = 30_000 }: Call,
): Promise<Answer> {
  const began = performance.now();
  const answer = noAnswerYet();
  if (on.destroyed || on.closed) return Promise.resolve({ ...answer, ended: "connection lost" });
  return new Promise((resolve) => {
    const stream = on.request({ ":method": "POST", ":path": path, ...headers }, { endStream: false });
    const parts: Buffer[] = [];
    const events: string[] = [];
    const { emit } = stream;
    stream.emit = function (this: typeof stream, name: string, ...rest: unknown[]) {
      if (events.length < 50) events.push(`${name} ${Math.round(performance.now() - began)}`);
      return Reflect.apply(emit, this, [name, ...rest]);
    } as typeof emit;
    const limit = setTimeout(() => {
      // Node's client now and then keeps a stream that it has reset itself.
      if (answer.ended !== "left") {
        answer.ended = "nothing came";
        const { id, pending, closed, rstCode, readableEnded, writableLength, writableFinished } = stream;
        const told = { id, pending, closed, rstCode, readableEnded, writableLength, writableFinished };
        const stoodStill = stood.at > began ? { afterMs: stood.at - began, ms: stood.ms } : undefined;
        answer.state = JSON.stringify({
          ...told,
          events,
          stoodStill,
          stream: stream.state,
          connection: on.state,
        });
      }
      stream.close(constants.NGHTTP2_CANCEL);
      stream.destroy();
    }, limitMs);
    const leave =
      leaveAfterMs === undefined
        ? undefined
        : setTimeout(() => {
            answer.ended = "left";
            stream.close(constants.NGHTTP2_CANCEL);
          }, leaveAfterMs);
    stream.on("response", (received) => {
      answer.headers = received;
      answer.http = Number(received[":status"]);
    });
    stream.on("trailers", (received) => {
      answer.trailers = received;
    });
    stream.on("data", (chunk: Buffer) => {
      if (answer.size < MAX_KEPT) parts.push(chunk);
      answer.size += chunk.length;
    });
    stream.on("error", () => {});
    stream.on("end", () => {
      // A caller that has the whole answer does not wait until the rest of its request is read.
      if (!stream.writableFinished) setTimeout(() => stream.close(), 1_000).unref();
    });
    stream.once("close", () => {
      clearTimeout(limit);
      clearTimeout(leave);
      answer.ms = performance.now() - began;
      answer.body = Buffer.concat(parts);
      answer.reset = stream.rstCode ?? 0;
      const hasStatus = "grpc-status" in answer.trailers || "grpc-status" in answer.headers;
      const isComplete = answer.http !== 0 && (hasStatus || !isGrpc(answer));
      if (answer.ended === "answered" && !isComplete && (on.destroyed || on.closed) && answer.reset !== 2)
        answer.ended = "connection lost";
      resolve(answer);
    });
    const chunks = Array.isArray(body) ? body : [body];
    for (const chunk of chunks) if (chunk.length > 0) stream.write(chunk);
    if (open !== true) stream.end();
  });
}

/** One call over HTTP/1.1; always resolves. */
export function call1(
  port: number,
  { path, headers, body, limitMs = 30_000 }: Call,
  agent?: http.Agent,
): Promise<Answer> {
  const began = performance.now();
  const answer = noAnswerYet();
  return new Promise((resolve) => {
    const parts: Buffer[] = [];
    const done = (ended: Answer["ended"]) => {
      clearTimeout(limit);
      resolve({ ...answer, body: Buffer.concat(parts), ended, ms: performance.now() - began });
    };
    const request = http.request({ host: "127.0.0.1", port, path, method: "POST", headers, agent }, (response) => {
      answer.http = response.statusCode ?? 0;
      answer.headers = response.headers;
      response.on("data", (chunk: Buffer) => {
        if (answer.size < MAX_KEPT) parts.push(chunk);
        answer.size += chunk.length;
      });
      response.on("end", () => done("answered"));
      response.on("error", () => done("connection lost"));
    });
    const limit = setTimeout(() => {
      done("nothing came");
      request.destroy();
    }, limitMs);
    request.on("error", () => done(answer.http === 0 ? "connection lost" : "answered"));
    for (const chunk of Array.isArray(body) ? body : [body]) if (chunk.length > 0) request.write(chunk);
    request.end();
  });
}

const isGrpc = ({ headers }: Answer) => /^application\/grpc(?!-web)/.test(headers["content-type"] ?? "");

/** Refusals below the protocol of a call. INTERNAL_ERROR is none, nor is what shows that our answer broke a rule. */
const RESETS = new Set<number>([
  constants.NGHTTP2_NO_ERROR,
  constants.NGHTTP2_REFUSED_STREAM,
  constants.NGHTTP2_CANCEL,
  constants.NGHTTP2_ENHANCE_YOUR_CALM,
  constants.NGHTTP2_STREAM_CLOSED,
]);

/** How the call ended, in one word for the count. */
export function outcomeOf(answer: Answer): string {
  if (answer.ended !== "answered") return answer.ended;
  const status = answer.trailers["grpc-status"] ?? answer.headers["grpc-status"];
  if (status !== undefined) return status === "0" ? "ok" : `grpc ${String(status)}`;
  return answer.http === 200 ? "ok" : answer.http === 0 ? `reset ${answer.reset}` : `http ${answer.http}`;
}

/** What is wrong with an answer to a call that keeps the rules of HTTP; undefined: nothing. */
export function problemOf(answer: Answer, path: string): string | undefined {
  if (answer.ended === "left") return undefined;
  if (answer.ended === "nothing came")
    return answer.http === 0 ? "no answer within the limit" : "the answer does not end";
  if (answer.ended === "connection lost") return "the connection was lost without an answer";
  if (answer.http === 0) return RESETS.has(answer.reset) ? undefined : `reset with ${resetName(answer.reset)}`;
  const status = answer.trailers["grpc-status"] ?? answer.headers["grpc-status"];
  if (status !== undefined) {
    if (status === "0") return undefined;
    const details = answer.trailers["grpc-status-details-bin"] ?? answer.headers["grpc-status-details-bin"];
    const message = decode(String(answer.trailers["grpc-message"] ?? answer.headers["grpc-message"] ?? ""));
    return problemOfError(
      Number(status),
      message,
      details === undefined ? undefined : Buffer.from(String(details), "base64"),
      path,
    );
  }
  if (isGrpc(answer) && answer.http === 200) {
    return RESETS.has(answer.reset) && answer.reset !== 0
      ? undefined
      : `an answer without grpc-status (${resetName(answer.reset)})`;
  }
  if (/^application\/grpc-web/.test(answer.headers["content-type"] ?? "") && answer.http === 200)
    return problemOfWeb(answer, path);
  if (answer.http === 200) return undefined;
  return problemOfHttp(answer, path);
}

const resetName = (code: number) =>
  Object.entries(constants).find(
    ([name, value]) =>
      value === code &&
      /^NGHTTP2_(NO_ERROR|[A-Z_]+_ERROR|CANCEL|REFUSED_STREAM|STREAM_CLOSED|ENHANCE_YOUR_CALM)$/.test(name) &&
      !name.includes("ERR_"),
  )?.[0] ?? String(code);

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function problemOfError(code: number, message: string, details: Buffer | undefined, path: string): string | undefined {
  // gRPC's specification wants INTERNAL for a message that is compressed by no named encoding.
  if (code === 13 && message.startsWith("The message is flagged as compressed, but")) return undefined;
  if (code === 13 || code === 2 || code === 15) return `status ${code}: ${message.slice(0, 120)}`;
  if (message.includes(CANARY)) return "the message of the error repeats a value of the request";
  // Health and reflection are others' contracts, with statuses alone.
  if (path.startsWith("/grpc.")) return undefined;
  if (details === undefined) return `status ${code} without details: ${message.slice(0, 120)}`;
  if (details.length > MAX_DETAILS) return `details of more than ${MAX_DETAILS} bytes`;
  if (details.includes(CANARY)) return "the details of the error repeat a value of the request";
  try {
    const { details: packed } = fromBinary(StatusSchema, details);
    for (const { typeUrl, value } of packed) {
      if (typeUrl.endsWith("/google.rpc.BadRequest")) fromBinary(BadRequestSchema, value);
      if (!typeUrl.endsWith("/google.rpc.ErrorInfo")) continue;
      const { reason, domain } = fromBinary(ErrorInfoSchema, value);
      return problemOfReason(reason, domain);
    }
  } catch {
    return `status ${code} with details that cannot be decoded`;
  }
  return `status ${code} without ErrorInfo: ${message.slice(0, 120)}`;
}

function problemOfReason(reason: string, domain: string): string | undefined {
  if (domain !== DOMAIN) return `the domain ${domain} in ErrorInfo`;
  if (!(reason in ErrorReason)) return `the reason ${reason}, which is not in error.proto`;
  if (reason === "INTERNAL") return "INTERNAL";
  return undefined;
}

/** A refusal as an HTTP status: the JSON of Connect, or one of the statuses below a call. */
function problemOfHttp({ http: status, headers, body }: Answer, path: string): string | undefined {
  if (body.includes(CANARY)) return "the body of the refusal repeats a value of the request";
  if (/^application\/json/.test(headers["content-type"] ?? "")) {
    try {
      const text = headers["content-encoding"] === "gzip" ? gunzipSync(body) : body;
      const { code, message, details } = JSON.parse(text.toString("utf8"));
      if (["internal", "unknown", "data_loss"].includes(code))
        return `Connect's ${code}: ${String(message).slice(0, 120)}`;
      if (path.startsWith("/grpc.")) return undefined;
      if (body.length > 3 * MAX_DETAILS) return `an error of more than ${3 * MAX_DETAILS} bytes`;
      const info = details?.find(({ type }: { type: string }) => type === "google.rpc.ErrorInfo");
      if (info === undefined) return `Connect's ${code} without ErrorInfo: ${String(message).slice(0, 120)}`;
      const { reason, domain } = info.value
        ? fromBinary(ErrorInfoSchema, Buffer.from(info.value, "base64"))
        : fromJson(ErrorInfoSchema, info.debug);
      return problemOfReason(reason, domain);
    } catch {
      return `HTTP ${status} with a body that is not JSON`;
    }
  }
  return [400, 404, 405, 408, 411, 413, 414, 415, 417, 426, 429, 431, 501, 503, 505].includes(status)
    ? undefined
    : `HTTP ${status}`;
}

/** The trailers of gRPC-Web are the last message of the body. */
function problemOfWeb({ body, size, reset }: Answer, path: string): string | undefined {
  if (size > body.length) return undefined;
  for (let at = 0; at + 5 <= body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    if (((body[at] ?? 0) & 0x80) !== 0) {
      const text = body.subarray(at + 5, end).toString("latin1");
      const value = (name: string) => new RegExp(`^${name}: *(.*?)\\r?$`, "im").exec(text)?.[1];
      const status = value("grpc-status");
      if (status === undefined) return "trailers without grpc-status";
      if (status === "0") return undefined;
      const details = value("grpc-status-details-bin");
      return problemOfError(
        Number(status),
        decode(value("grpc-message") ?? ""),
        details === undefined ? undefined : Buffer.from(details, "base64"),
        path,
      );
    }
    at = end;
  }
  // Cut off, and its caller can tell.
  if (RESETS.has(reset) && reset !== 0) return undefined;
  return `an answer of gRPC-Web without trailers (${resetName(reset)})`;
}
