// A server of the transport alone: real descriptors, one-line handlers, real sockets.

import { type ClientHttp2Session, connect, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http2";
import { createConnection } from "node:net";
import { create, createFileRegistry, type DescService, setExtension } from "@bufbuild/protobuf";
import {
  FileDescriptorProtoSchema,
  FieldDescriptorProto_Label as Label,
  MethodOptionsSchema,
  FieldDescriptorProto_Type as Type,
} from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { pino } from "pino";
import { EntityService } from "../clients/typescript/gen/entity/v1/entity_service_pb.ts";
import { required_scope } from "../clients/typescript/gen/entity/v1/options_pb.ts";
import { OrganizationService } from "../clients/typescript/gen/entity/v1/organization_service_pb.ts";
import { BadRequestSchema, ErrorInfoSchema } from "../clients/typescript/gen/google/rpc/error_details_pb.ts";
import type { Caller } from "../src/interceptors/call.ts";
import { createAdapter } from "../src/transport/adapter.ts";
import type { HandlerOptions } from "../src/transport/handlers.ts";
import { createReadiness } from "../src/transport/health.ts";
import { type ListenOptions, listen } from "../src/transport/listener.ts";

export const KEY = "test-key-of-all-scopes-0123456789";
export const READ_KEY = "test-key-that-reads-0123456789";

const caller = (...scopes: string[]): Caller => ({
  organizationId: "org-1",
  apiKeyId: "key-1",
  scopes: new Set(scopes),
});
/** The caller of each key of these tests. */
export const callerOf = async (secret: string): Promise<Caller | null> =>
  secret === KEY ? caller(...ALL) : secret === READ_KEY ? caller("entities:read") : null;
const ALL = ["entities:read", "entities:write", "external_ids:change", "operator"];

/** One field and one stream of each kind, in case the contract has none. */
export const Kinds = kindsService();

function kindsService(): DescService {
  const field = (name: string, number: number, type: Type, label = Label.OPTIONAL) => ({
    name,
    number,
    type,
    label,
    jsonName: name,
  });
  const options = create(MethodOptionsSchema);
  setExtension(options, required_scope, "entities:read");
  const method = { inputType: ".kinds.v1.Kinds", outputType: ".kinds.v1.Kinds", options };
  const file = create(FileDescriptorProtoSchema, {
    name: "kinds/v1/kinds.proto",
    package: "kinds.v1",
    syntax: "proto3",
    messageType: [
      {
        name: "Kinds",
        field: [
          field("big", 1, Type.INT64),
          field("raw", 2, Type.BYTES),
          field("real", 3, Type.DOUBLE),
          field("yes", 4, Type.BOOL),
          field("texts", 5, Type.STRING, Label.REPEATED),
          field("unsigned", 6, Type.UINT64),
        ],
      },
    ],
    service: [
      {
        name: "KindsService",
        method: [
          { name: "Echo", ...method },
          { name: "Repeat", ...method, serverStreaming: true },
          { name: "Collect", ...method, clientStreaming: true },
          { name: "Converse", ...method, clientStreaming: true, serverStreaming: true },
          { name: "Closed", inputType: method.inputType, outputType: method.outputType },
        ],
      },
    ],
  });
  const service = createFileRegistry(file, () => undefined).getService("kinds.v1.KindsService");
  if (service === undefined) throw new Error("no service");
  return service;
}

export type Handlers = Record<string, (request: never, context: HandlerContext) => unknown>;

interface ServerOptions {
  handlers?: Handlers;
  kinds?: Handlers;
  endless?: HandlerOptions["endless"];
  limits?: Partial<HandlerOptions["limits"]>;
  findCaller?: HandlerOptions["findCaller"];
  tls?: ListenOptions["tls"];
  listener?: Partial<ListenOptions>;
  answerTimeoutMs?: number;
  keylessStreamMs?: number;
}

export async function startServer(options: ServerOptions = {}) {
  const lines: string[] = [];
  const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(line) });
  const lookups: string[] = [];
  const readiness = createReadiness();
  readiness.set(true);
  const shutdown = new AbortController();
  const adapter = createAdapter({
    services(router) {
      router.service(EntityService, {
        getEntity: () => ({ entity: { id: "1", name: "answer" } }),
        listEntities: () => ({}),
        createEntity: () => ({ entity: { id: "2" } }),
        updateEntity: () => ({}),
        batchGetEntities: () => ({}),
        async *importEntities(requests: AsyncIterable<unknown>) {
          for await (const _ of requests) yield { results: [{}] };
        },
        ...options.handlers,
      } as never);
      router.service(OrganizationService, { getOrganization: () => ({}) });
      router.service(Kinds, {
        echo: () => ({}),
        async *repeat() {
          yield {};
        },
        closed: () => ({}),
        ...options.kinds,
      } as never);
    },
    findCaller: async (secret) => {
      lookups.push(secret);
      if (options.findCaller) return options.findCaller(secret);
      return callerOf(secret);
    },
    readiness,
    shutdownSignal: shutdown.signal,
    endless: options.endless ?? [],
    ...(options.keylessStreamMs !== undefined && { keylessStreamMs: options.keylessStreamMs }),
    large: [EntityService.method.batchGetEntities, EntityService.method.importEntities],
    limits: {
      maxInFlight: 64,
      maxWatches: 64,
      maxMessageBytes: 64 * 1024,
      maxBatchMessageBytes: 256 * 1024,
      defaultTimeoutMs: 5_000,
      maxTimeoutMs: 60_000,
      bodyTimeoutMs: 5_000,
      streamIdleTimeoutMs: 5_000,
      // The same tests judge both paths.
      unaryPath: process.env.UNARY_PATH !== "off",
      ...options.limits,
    },
    ...(options.answerTimeoutMs !== undefined && { answerTimeoutMs: options.answerTimeoutMs }),
    log,
  });
  const listener = await listen({ host: "127.0.0.1", port: 0, tls: options.tls, ...adapter, log, ...options.listener });
  return {
    port: listener.port,
    url: `${options.tls ? "https" : "http"}://127.0.0.1:${listener.port}`,
    drain: listener.drain,
    readiness,
    shutdown,
    lookups,
    lines,
    calls: () => lines.map((line) => JSON.parse(line)).filter((line) => line.msg === "call"),
    [Symbol.asyncDispose]: () => listener[Symbol.asyncDispose](),
  };
}

export type TestServer = Awaited<ReturnType<typeof startServer>>;

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  trailers: IncomingHttpHeaders;
  body: Buffer;
}

/** One HTTP/2 request with raw bytes. `end: false` leaves the request open, as an endless body does. */
export function h2Call(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
  body: Uint8Array = new Uint8Array(),
  { end = true } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const stream = session.request(
      { ":method": "POST", authorization: `Bearer ${KEY}`, ...headers },
      { endStream: false },
    );
    const answer: Answer = { status: 0, headers: {}, trailers: {}, body: Buffer.alloc(0) };
    stream.on("response", (received) => {
      answer.headers = received;
      answer.status = Number(received[":status"]);
    });
    stream.on("trailers", (received) => {
      answer.trailers = received;
    });
    stream.on("data", (chunk: Buffer) => {
      answer.body = Buffer.concat([answer.body, chunk]);
    });
    stream.on("error", reject);
    stream.on("end", () => {
      resolve(answer);
      stream.close();
    });
    if (body.length > 0) stream.write(body);
    if (end) stream.end();
  });
}

export async function withSession<T>(url: string, use: (session: ClientHttp2Session) => Promise<T>): Promise<T> {
  const session = connect(url, { rejectUnauthorized: false });
  session.on("error", () => {});
  try {
    return await use(session);
  } finally {
    session.destroy();
  }
}

/** Sends raw bytes to the port; resolves with all that came back until the connection closed or went quiet. */
export function rawCall(port: number, bytes: string | Buffer, quietMs = 300): Promise<string> {
  return new Promise((resolve) => {
    let received = "";
    const socket = createConnection(port, "127.0.0.1", () => socket.write(bytes));
    const done = () => {
      socket.destroy();
      resolve(received);
    };
    // Where this process itself stood still, what came meanwhile is read first.
    const quiet = () => {
      const seen = received.length;
      setTimeout(() => (received.length === seen ? done() : socket.setTimeout(quietMs, quiet)), quietMs);
    };
    socket.setTimeout(quietMs, quiet);
    socket.on("data", (chunk) => {
      received += chunk.toString("latin1");
    });
    socket.on("close", done);
    socket.on("error", done);
  });
}

export interface Refusal {
  code: number;
  message: string;
  reason: string | undefined;
  domain: string | undefined;
  metadata: Record<string, string>;
  fields: string[];
}

/** The error of a gRPC answer. Throws if there is none. */
export function grpcRefusal(answer: Answer): Refusal {
  const headers = new Headers();
  for (const [name, value] of Object.entries({ ...answer.headers, ...answer.trailers })) {
    if (!name.startsWith(":")) headers.set(name, String(value));
  }
  const error = findTrailerError(headers);
  if (error === undefined) throw new Error("the call succeeded");
  return refusalOf(error);
}

export function refusalOf(error: import("@connectrpc/connect").ConnectError): Refusal {
  const [info] = error.findDetails(ErrorInfoSchema);
  const fields = error
    .findDetails(BadRequestSchema)
    .flatMap((detail) => detail.fieldViolations.map((each) => each.field));
  return {
    code: error.code,
    message: error.rawMessage,
    reason: info?.reason,
    domain: info?.domain,
    metadata: info?.metadata ?? {},
    fields,
  };
}
