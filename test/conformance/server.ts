// The server under test: node test/conformance/server.ts <our transport | stock> <descriptor set>. Reads a
// ServerCompatRequest from standard input, listens, says where in a ServerCompatResponse, and ends with SIGTERM.
// Stock is connect-node's own adapter on Node's own servers; the service behind them is the same.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createServer as createHttp2Server, createSecureServer, type ServerHttp2Session } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { parseArgs } from "node:util";
import {
  create,
  createFileRegistry,
  createRegistry,
  type DescService,
  type FileRegistry,
  fromBinary,
  type Message,
  setExtension,
  toBinary,
} from "@bufbuild/protobuf";
import { FileDescriptorSetSchema, MethodOptionsSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import { compressionGzip, connectNodeAdapter } from "@connectrpc/connect-node";
import { pino } from "pino";
import { required_scope } from "../../clients/typescript/gen/entity/v1/options_pb.ts";
import { DomainError } from "../../src/domain/errors.ts";
import { toConnectError } from "../../src/errors.ts";
import { createAdapter } from "../../src/transport/adapter.ts";
import { createReadiness } from "../../src/transport/health.ts";
import { listen } from "../../src/transport/listener.ts";
import { conformanceService, message, SERVICE } from "./service.ts";

interface ServerCompatRequest extends Message {
  /** 1: HTTP/1.1, 2: HTTP/2. */
  httpVersion: number;
  useTls: boolean;
  clientTlsCert: Uint8Array;
  messageReceiveLimit: number;
  serverCreds?: { cert: Uint8Array; key: Uint8Array };
}

const HOST = "127.0.0.1";
const SCOPE = "entities:read";
const MINUTE_MS = 60_000;
/** Longer than any delay that the suite asks for, shorter than the time after which it gives up. */
const STALLED_MS = 3_000;
const NO_LIMIT = 64 * 1024 * 1024;

const {
  positionals: [server = "", descriptors = ""],
} = parseArgs({ allowPositionals: true });
const registry = readRegistry(descriptors);
const service = registry.getService(SERVICE);
if (service === undefined) throw new Error(`no service ${SERVICE}`);
const request = (await readRequest()) as ServerCompatRequest;
const port = server === "stock" ? await listenStock(service) : await listenOurs(service);
writeResponse({ host: HOST, port, pemCert: request.serverCreds?.cert ?? new Uint8Array() });
process.once("SIGTERM", () => process.exit(0));
// A suite that is killed does not tell its server.
const suite = process.ppid;
setInterval(() => process.ppid === suite || process.exit(1), 1_000).unref();

/** Gives every RPC a scope, without which our transport refuses it. */
function readRegistry(file: string): FileRegistry {
  const set = fromBinary(FileDescriptorSetSchema, readFileSync(file));
  for (const method of set.file.flatMap((each) => each.service).flatMap((each) => each.method)) {
    method.options ??= create(MethodOptionsSchema);
    setExtension(method.options, required_scope, SCOPE);
  }
  return createFileRegistry(set);
}

async function listenOurs(service: DescService): Promise<number> {
  const log = pino({ level: "silent" });
  const readiness = createReadiness();
  readiness.set(true);
  const maxMessageBytes = request.messageReceiveLimit || NO_LIMIT;
  const adapter = createAdapter({
    services: (router) => router.service(service, conformanceService(registry) as never),
    findCaller: async () => ({ organizationId: "conformance", apiKeyId: "conformance", scopes: new Set([SCOPE]) }),
    present: withoutDetailsOfOurs,
    bareRefusals: true,
    readiness,
    shutdownSignal: new AbortController().signal,
    limits: {
      maxInFlight: 1_000,
      maxWatches: 100,
      maxMessageBytes,
      maxBatchMessageBytes: maxMessageBytes,
      defaultTimeoutMs: MINUTE_MS,
      maxTimeoutMs: MINUTE_MS,
      bodyTimeoutMs: MINUTE_MS,
      streamIdleTimeoutMs: MINUTE_MS,
      unaryPath: process.env.UNARY_PATH !== "off",
    },
    log,
  });
  // The suite knows of no API keys: every call brings one, from here.
  const authorization = "Bearer conformance";
  const listener = await listen({
    host: HOST,
    port: 0,
    tls: request.useTls ? { ...credentials(), clientCa: clientCa() } : undefined,
    request: (request, response) => {
      request.headers.authorization = authorization;
      adapter.request(request, response);
    },
    stream: (stream, headers) => adapter.stream?.(stream, Object.assign(headers, { authorization })) ?? false,
    log,
  });
  return listener.port;
}

/** The errors of the service pass unchanged; those of the transport get no details of the domain. */
function withoutDetailsOfOurs(error: unknown): ConnectError {
  if (!(error instanceof DomainError)) return ConnectError.from(error);
  const { rawMessage, code } = toConnectError(error);
  return new ConnectError(rawMessage, code);
}

async function listenStock(service: DescService): Promise<number> {
  const handler = connectNodeAdapter({
    routes: (router) => router.service(service, conformanceService(registry) as never),
    acceptCompression: [compressionGzip],
    readMaxBytes: request.messageReceiveLimit || NO_LIMIT,
    jsonOptions: { registry: createRegistry(service.file) },
  });
  const isHttp1 = request.httpVersion === 1;
  const tls = () => ({
    ...credentials(),
    ...(clientCa() !== undefined && { ca: clientCa(), requestCert: true, rejectUnauthorized: true }),
  });
  const listening = request.useTls
    ? isHttp1
      ? createHttpsServer(tls(), handler)
      : createSecureServer(tls(), handler)
    : isHttp1
      ? createHttpServer(handler)
      : createHttp2Server(handler);
  // Unread bytes of oversized requests use up the window of their connection. Later calls on it would wait for ever, and
  // the suite with them.
  listening.on("session", (session: ServerHttp2Session) => session.setTimeout(STALLED_MS, () => session.destroy()));
  listening.listen(0, HOST);
  await once(listening, "listening");
  return (listening.address() as AddressInfo).port;
}

function credentials(): { cert: string; key: string } {
  if (request.serverCreds === undefined) throw new Error("TLS without a certificate");
  return { cert: pem(request.serverCreds.cert), key: pem(request.serverCreds.key) };
}

function clientCa(): string | undefined {
  return request.clientTlsCert.length === 0 ? undefined : pem(request.clientTlsCert);
}

function pem(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}

/** Each message of standard input and output is preceded by its length, 32 bits, big-endian. */
async function readRequest(): Promise<Message> {
  let seen = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    seen = Buffer.concat([seen, chunk]);
    if (seen.length >= 4 && seen.length >= 4 + seen.readUInt32BE()) break;
  }
  const body = seen.subarray(4, 4 + seen.readUInt32BE());
  return fromBinary(message(registry, "connectrpc.conformance.v1.ServerCompatRequest"), body);
}

function writeResponse(response: { host: string; port: number; pemCert: Uint8Array }): void {
  const type = message(registry, "connectrpc.conformance.v1.ServerCompatResponse");
  const body = toBinary(type, create(type, response));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  process.stdout.write(Buffer.concat([length, body]));
}
