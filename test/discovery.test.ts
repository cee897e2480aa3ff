// Health, reflection and TLS: what tools and orchestrators use.
import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:http2";
import { request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { type DescService, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  Health,
  HealthCheckResponse_ServingStatus as Status,
} from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../clients/typescript/gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../clients/typescript/gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { envelope } from "./frames.ts";
import { grpcRefusal, h2Call, KEY, refusalOf, startServer, type TestServer } from "./transport-harness.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server[Symbol.asyncDispose]());

describe("health", () => {
  test("of the process, of each service, and of one that is not here", async () => {
    const health = createClient(Health, createGrpcTransport({ baseUrl: server.url }));
    for (const service of ["", "entity.v1.EntityService", "grpc.health.v1.Health"]) {
      expect((await health.check({ service })).status).toBe(Status.SERVING);
    }
    const error = await health.check({ service: "nobody" }).catch(ConnectError.from);
    expect(refusalOf(error as ConnectError)).toMatchObject({ code: Code.NotFound, reason: "NOT_FOUND" });
    expect((await health.list({})).statuses["entity.v1.EntityService"]?.status).toBe(Status.SERVING);
  });

  test("a watch tells each change, and ends with the shutdown after its last word", async () => {
    await using own = await startServer();
    const health = createClient(Health, createGrpcTransport({ baseUrl: own.url }));
    const seen: Status[] = [];
    const unknown: Status[] = [];
    const follow = async (service: string, into: Status[]) => {
      for await (const { status } of health.watch({ service })) into.push(status);
    };
    const watching = [follow("", seen), follow("nobody", unknown)].map((each) => each.catch(ConnectError.from));
    await expect.poll(() => seen).toEqual([Status.SERVING]);
    await expect.poll(() => unknown).toEqual([Status.SERVICE_UNKNOWN]);
    own.readiness.set(false);
    await expect.poll(() => seen).toEqual([Status.SERVING, Status.NOT_SERVING]);
    own.readiness.set(true);
    await expect.poll(() => seen.length).toBe(3);
    own.readiness.set(false);
    own.shutdown.abort();
    for (const error of await Promise.all(watching)) {
      expect(refusalOf(error as ConnectError)).toMatchObject({
        code: Code.Unavailable,
        reason: "DATABASE_UNAVAILABLE",
      });
    }
    expect(seen).toEqual([Status.SERVING, Status.NOT_SERVING, Status.SERVING, Status.NOT_SERVING]);
    const start = performance.now();
    await own.drain(5_000);
    expect(performance.now() - start).toBeLessThan(4_000);
  });
});

test("reflection that a tool left open does not hold up the drain", async () => {
  const own = await startServer();
  const session = connect(own.url);
  session.on("error", () => {});
  const path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
  const left = h2Call(session, { ":path": path, "content-type": "application/grpc" }, undefined, { end: false });
  await sleep(100);
  own.shutdown.abort();
  const start = performance.now();
  await own.drain(5_000);
  expect(performance.now() - start).toBeLessThan(4_000);
  expect(grpcRefusal(await left).reason).toBe("DATABASE_UNAVAILABLE");
});

test("a stream of reflection answers 200 questions, and is told to open another", async () => {
  const client = createClient(ServerReflection, createGrpcTransport({ baseUrl: server.url }));
  async function* asking() {
    for (;;) yield { messageRequest: { case: "fileContainingSymbol" as const, value: "entity.v1.Entity" } };
  }
  let answers = 0;
  const reading = async () => {
    for await (const _ of client.serverReflectionInfo(asking())) answers += 1;
  };
  const error = await reading().catch((ended: unknown) => ended);
  expect(refusalOf(error as ConnectError)).toMatchObject({
    code: Code.InvalidArgument,
    reason: "VALIDATION_ERROR",
    message: "message_request: a stream answers at most 200 questions: open another",
  });
  expect(answers).toBe(200);
});

test("streams of reflection that send nothing but their headers take places: one connection has not all of them", async () => {
  const session = connect(server.url);
  session.on("error", () => {});
  const left = new AbortController();
  const answers: string[] = [];
  for (let i = 0; i < 80; i++) {
    const head = {
      ":path": "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
      "content-type": "application/grpc",
    };
    const stream = session.request({ ":method": "POST", te: "trailers", ...head }, { signal: left.signal });
    stream.on("error", () => {});
    stream.on("response", (headers) => answers.push(String(headers["grpc-status"] ?? "")));
  }
  // UNAVAILABLE, before anything was sent.
  await expect.poll(() => answers.filter((status) => status === "14").length).toBe(80 - 32);
  // A new connection gets a place.
  const client = createClient(ServerReflection, createGrpcTransport({ baseUrl: server.url }));
  async function* once() {
    yield { messageRequest: { case: "listServices" as const, value: "" } };
  }
  const said: string[] = [];
  for await (const { messageResponse } of client.serverReflectionInfo(once())) said.push(String(messageResponse.case));
  expect(said).toEqual(["listServicesResponse"]);
  left.abort();
  session.destroy();
});

describe.each<[string, typeof ServerReflection]>([
  ["v1", ServerReflection],
  ["v1alpha", ServerReflectionAlpha as unknown as typeof ServerReflection],
])("reflection %s", (_, service: DescService) => {
  type Ask =
    Parameters<
      ReturnType<typeof createClient<typeof ServerReflection>>["serverReflectionInfo"]
    >[0] extends AsyncIterable<infer T>
      ? T
      : never;
  const ask = async (messageRequest: unknown) => {
    const client = createClient(service as typeof ServerReflection, createGrpcTransport({ baseUrl: server.url }));
    const requests = (async function* () {
      yield { host: "here", messageRequest } as Ask;
    })();
    for await (const response of client.serverReflectionInfo(requests)) {
      expect(response.validHost).toBe("here");
      expect(response.originalRequest?.messageRequest.case).toBe((messageRequest as { case: string }).case);
      return response.messageResponse;
    }
    throw new Error("no answer");
  };
  const filesOf = (answer: Awaited<ReturnType<typeof ask>>) =>
    answer.case === "fileDescriptorResponse"
      ? answer.value.fileDescriptorProto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes).name)
      : [];

  test("lists the services", async () => {
    const answer = await ask({ case: "listServices", value: "" });
    const names = answer.case === "listServicesResponse" ? answer.value.service.map(({ name }) => name) : [];
    expect(names).toEqual(
      expect.arrayContaining([
        "entity.v1.EntityService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
      ]),
    );
  });

  test.each([
    "entity.v1.EntityService",
    "entity.v1.EntityService.GetEntity",
    "entity.v1.GetEntityRequest",
    "entity.v1.GetEntityRequest.lookup",
  ])("finds %s", async (symbol) => {
    const files = filesOf(await ask({ case: "fileContainingSymbol", value: symbol }));
    expect(files[0]).toBe("entity/v1/entity_service.proto");
    expect(files).toEqual(
      expect.arrayContaining([
        "entity/v1/entity.proto",
        "entity/v1/options.proto",
        "google/protobuf/descriptor.proto",
        "google/rpc/status.proto",
      ]),
    );
  });

  test("finds files and extensions", async () => {
    expect(filesOf(await ask({ case: "fileByFilename", value: "entity/v1/entity.proto" }))[0]).toBe(
      "entity/v1/entity.proto",
    );
    const extension = { containingType: "google.protobuf.MethodOptions", extensionNumber: 50301 };
    expect(filesOf(await ask({ case: "fileContainingExtension", value: extension }))[0]).toBe(
      "entity/v1/options.proto",
    );
    const all = await ask({ case: "allExtensionNumbersOfType", value: "google.protobuf.MethodOptions" });
    expect(all).toMatchObject({ case: "allExtensionNumbersResponse", value: { extensionNumber: [50301, 50302] } });
  });

  test.each([
    { case: "fileContainingSymbol", value: "nobody" },
    { case: "fileByFilename", value: "nobody.proto" },
    { case: "fileContainingExtension", value: { containingType: "nobody", extensionNumber: 1 } },
    { case: "allExtensionNumbersOfType", value: "nobody" },
  ])("says what is not here: $case", async (request) => {
    expect(await ask(request)).toMatchObject({ case: "errorResponse", value: { errorCode: Code.NotFound } });
  });
});

test("buf curl lists the methods and calls without proto files", async () => {
  const buf = async (...args: string[]) =>
    (await promisify(execFile)("npx", ["buf", "curl", "--http2-prior-knowledge", ...args], { encoding: "utf8" }))
      .stdout;
  expect(await buf("--protocol", "grpc", "--list-methods", server.url)).toContain("entity.v1.EntityService/GetEntity");
  const called = await buf(
    "--protocol",
    "grpc",
    "-H",
    `authorization: Bearer ${KEY}`,
    "-d",
    '{"lookup":{"entityId":"1"}}',
    `${server.url}/entity.v1.EntityService/GetEntity`,
  );
  expect(JSON.parse(called)).toMatchObject({ entity: { name: "answer" } });
}, 60_000);

describe("TLS", () => {
  const folder = mkdtempSync(join(tmpdir(), "entity-tls-"));
  const file = (name: string) => join(folder, name);
  const pem = (name: string) => readFileSync(file(name), "utf8");
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
  beforeAll(() => {
    writeFileSync(file("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost");
    openssl(
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-keyout",
      "ca.key",
      "-out",
      "ca.pem",
      "-subj",
      "/CN=ca",
      "-days",
      "2",
    );
    for (const name of ["server", "client"]) {
      openssl(
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        `${name}.key`,
        "-out",
        `${name}.csr`,
        "-subj",
        `/CN=${name}`,
      );
      openssl(
        "x509",
        "-req",
        "-in",
        `${name}.csr`,
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        `${name}.pem`,
        "-days",
        "2",
        "-extfile",
        "san",
      );
    }
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const get = { ":path": "/entity.v1.EntityService/GetEntity", "content-type": "application/grpc" };
  const call = (url: string, tls: object) =>
    new Promise((resolve, reject) => {
      const session = connect(url, tls);
      session.on("error", reject);
      h2Call(session, get, envelope(new Uint8Array()))
        .then((answer) => resolve(answer.trailers["grpc-status"]), reject)
        .finally(() => session.destroy());
    });
  const overHttp1 = (url: string, tls: object) =>
    new Promise((resolve, reject) => {
      const headers = { "content-type": "application/json", authorization: `Bearer ${KEY}` };
      const options = { ...tls, method: "POST", headers, ALPNProtocols: ["http/1.1"] };
      const request = httpsRequest(`${url}${get[":path"]}`, options, (response) => resolve(response.statusCode));
      request.on("error", reject);
      request.end("{}");
    });

  test("serves HTTP/2 and HTTP/1.1, and drains", async () => {
    const own = await startServer({ tls: { cert: pem("server.pem"), key: pem("server.key"), clientCa: undefined } });
    const tls = { ca: pem("ca.pem") };
    expect(await call(own.url, tls)).toBe("0");
    expect(await overHttp1(own.url, tls)).toBe(200);
    const idle = connect(own.url, tls);
    await h2Call(idle, get, envelope(new Uint8Array()));
    const start = performance.now();
    await own.drain(5_000);
    expect(performance.now() - start).toBeLessThan(4_000);
  });

  test("with a client authority, lets in its certificates alone", async () => {
    await using own = await startServer({
      tls: { cert: pem("server.pem"), key: pem("server.key"), clientCa: pem("ca.pem") },
    });
    const tls = { ca: pem("ca.pem") };
    const certified = { ...tls, cert: pem("client.pem"), key: pem("client.key") };
    expect(await call(own.url, certified)).toBe("0");
    expect(await overHttp1(own.url, certified)).toBe(200);
    await expect(call(own.url, tls)).rejects.toThrow();
    await expect(overHttp1(own.url, tls)).rejects.toThrow();
  });
});
