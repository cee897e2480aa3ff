// The TypeScript client when things go wrong: streams that are left early; servers that refuse, go away, or do not answer.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:http2";
import { type AddressInfo, createServer as createNetServer } from "node:net";
import { fileURLToPath } from "node:url";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  Code,
  ConnectError,
  createEntityClient,
  EntityService,
  EntityType,
  ErrorInfoSchema,
  errorInfo,
  ImportEntitiesRequestSchema,
  ImportEntitiesResponseSchema,
  RetryInfoSchema,
} from "../clients/typescript/index.ts";
import { answer, ENTITY, leave, refuse, serving } from "./clients/scripted-server.ts";
import { envelope } from "./frames.ts";
import { unique } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

const CLIENT = fileURLToPath(new URL("../clients/typescript/index.ts", import.meta.url));
const NOBODY = { lookup: { by: { case: "externalId" as const, value: "nobody" } } };

describe("a stream that is left", () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service[Symbol.asyncDispose]());

  const inFlight = async () => {
    const text = await (await fetch(`${service.baseUrl}/metrics`)).text();
    return Number(/^entity_service_rpc_in_flight (\d+)/m.exec(text)?.[1]);
  };
  /** How the loop over the answers is left. */
  const LEAVING = {
    break: "break;",
    "a throw": "throw new Error('left');",
    "return of the iterator": "await answers[Symbol.asyncIterator]().return(); break;",
  };
  const STREAMS = EntityService.methods.filter(({ methodKind }) => methodKind !== "unary");
  const CASES = STREAMS.flatMap((method) =>
    Object.entries(LEAVING).map(([how, statement]) => ({ name: method.name, how, method, statement })),
  );

  it.each(CASES)("$name by $how: its process ends, and the server holds nothing", async ({ method, statement }) => {
    // The requests of an import wait for ever, and keep the process alive until they are closed.
    const script = `
      import { createEntityClient, EntityType } from ${JSON.stringify(CLIENT)};
      const { entities } = createEntityClient({ baseUrl: process.env.URL, apiKey: process.env.KEY });
      async function* rows() {
        const held = setInterval(() => {}, 1000);
        try {
          for (let i = 0; ; i++) {
            yield { entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: "left-" + crypto.randomUUID() } };
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
        } finally {
          clearInterval(held);
          console.log("closed");
        }
      }
      const answers = entities.${method.localName}(${method.methodKind === "bidi_streaming" ? "rows()" : "{}"});
      try {
        for await (const answer of answers) { console.log("answered"); ${statement} }
      } catch (error) { if (error.message !== "left") throw error; }
      console.log("left");
    `;
    const env = { PATH: process.env.PATH, URL: service.baseUrl, KEY: service.organization.apiKey };
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const output: string[] = [];
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => output.push(String(chunk)));
    const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
    const [code] = await once(child, "close");
    clearTimeout(timer);
    expect({ code, output: output.join("").split("\n").filter(Boolean).sort() }).toEqual({
      code: 0,
      output: ["answered", ...(method.methodKind === "bidi_streaming" ? ["closed"] : []), "left"].sort(),
    });
    await expect.poll(inFlight).toBe(0);
  });

  it("on a client that goes on, gives its place on the connection back", async () => {
    const { entities } = createEntityClient({ baseUrl: service.baseUrl, apiKey: service.organization.apiKey });
    // More streams than one connection allows.
    for (let i = 0; i < 105; i++) {
      for await (const _ of entities.watchEntities({})) break;
    }
    await expect.poll(inFlight).toBe(0);
    await entities.listEntities({}, { timeoutMs: 5_000.5 });
  });

  it("is the caller's too: its own signal still ends it, and answers come as ever", async () => {
    const { entities } = createEntityClient({ baseUrl: service.baseUrl, apiKey: service.organization.apiKey });
    const abort = new AbortController();
    const watching = (async () => {
      for await (const _ of entities.watchEntities({}, { signal: abort.signal })) abort.abort();
    })();
    await expect(watching).rejects.toMatchObject({ code: Code.Canceled });
    const row = () => ({
      entity: { type: EntityType.PERSON, name: "Ana", countryCode: "AR", externalId: unique("row") },
    });
    const created: (bigint | undefined)[] = [];
    for await (const { progress } of entities.importEntities(
      (async function* () {
        for (let i = 0; i < 700; i++) yield row();
      })(),
    )) {
      created.push(progress?.created);
    }
    expect(created.at(-1)).toBe(700n);
  });
});

describe("a call that nobody has seen", () => {
  it.each([
    ["a refused stream", refuse],
    ["a stream after the last that a GOAWAY names", leave],
  ])("%s is sent again, whatever the method", async (_, unseen) => {
    await using server = await serving((stream, index) => (index === 1 ? unseen(stream) : answer(stream, ENTITY)));
    const { entities } = server.client();
    expect((await entities.getEntity(NOBODY)).entity?.id).toBe("1");
    expect((await entities.createEntity({ entity: {} })).entity?.id).toBe("1");
    expect(server.paths).toEqual(["GetEntity", "CreateEntity", "CreateEntity"]);
  });

  it("a stream of requests too, from its first request", async () => {
    const received: Buffer[] = [];
    await using server = await serving((stream, index) => {
      if (index === 0) return void setTimeout(refuse, 100, stream);
      stream.on("data", (chunk: Buffer) => received.push(chunk));
      stream.on("end", () =>
        answer(stream, toBinary(ImportEntitiesResponseSchema, create(ImportEntitiesResponseSchema))),
      );
    });
    const rows = ["a", "b", "c"].map((name) => ({ entity: { name } }));
    let answers = 0;
    for await (const _ of server.client().entities.importEntities(
      (async function* () {
        for (const row of rows) {
          yield row;
          await new Promise((resolve) => setTimeout(resolve, 60));
        }
      })(),
    ))
      answers++;
    expect(answers).toBe(1);
    const sent = rows.map((row) =>
      envelope(toBinary(ImportEntitiesRequestSchema, create(ImportEntitiesRequestSchema, row))),
    );
    expect(Buffer.concat(received)).toEqual(Buffer.concat(sent));
  });

  it("is given up after three times where there are no retries, as UNAVAILABLE", async () => {
    await using server = await serving(refuse);
    const failed = server.client({ retries: false }).entities.getEntity(NOBODY);
    await expect(failed).rejects.toMatchObject({ code: Code.Unavailable });
    expect(server.seen().streams).toBe(3);
  });

  it("is one that was refused, not one that was reset: that may have been done", async () => {
    for (const code of [constants.NGHTTP2_INTERNAL_ERROR, constants.NGHTTP2_CANCEL]) {
      await using server = await serving((stream) => stream.close(code));
      await expect(server.client().entities.recheckTaxIds({})).rejects.toBeInstanceOf(ConnectError);
      expect(server.seen().streams).toBe(1);
    }
  });

  it("where nobody listens is UNAVAILABLE, and soon", async () => {
    await using server = await serving(refuse);
    const client = server.client();
    await server[Symbol.asyncDispose]();
    await expect(client.entities.getEntity(NOBODY)).rejects.toMatchObject({ code: Code.Unavailable });
  });
});

describe("a server that says nothing", () => {
  it("is waited for until the deadline, which is 10 s where none is named", async () => {
    const silent = createNetServer((socket) => void socket.on("error", () => {}));
    silent.listen(0, "127.0.0.1");
    await once(silent, "listening");
    const baseUrl = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const headers: (string | null)[] = [];
    const client = (defaultTimeoutMs?: number) =>
      createEntityClient({
        ...{ baseUrl, apiKey: "k" },
        ...(defaultTimeoutMs !== undefined && { defaultTimeoutMs }),
        interceptors: [
          (next) => (request) => {
            headers.push(request.header.get("grpc-timeout"));
            return next(request);
          },
        ],
      });
    await expect(client(300).entities.getEntity(NOBODY)).rejects.toMatchObject({ code: Code.DeadlineExceeded });
    const abort = new AbortController();
    const waiting = client().entities.getEntity(NOBODY, { signal: abort.signal });
    const other = client(0).entities.getEntity(NOBODY, { signal: abort.signal });
    setTimeout(() => abort.abort(), 100);
    await expect(waiting).rejects.toMatchObject({ code: Code.Canceled });
    await expect(other).rejects.toMatchObject({ code: Code.Canceled });
    expect(headers.map((text) => text && Math.round(Number.parseInt(text, 10) / 100) * 100)).toEqual([
      300,
      10_000,
      null,
    ]);
    silent.close();
  });
});

it("many large requests that are refused before they are sent are each told why", async () => {
  await using service = await startService();
  const client = createEntityClient({ baseUrl: service.baseUrl, apiKey: "es_nobody" });
  const attributes = { note: "x".repeat(1_000_000) };
  const entity = { type: EntityType.PERSON, name: "Ana", countryCode: "AR", attributes };
  const create = () => client.entities.createEntity({ entity });
  // Six times as much as Node's client keeps for a session by default.
  const refusals = await Promise.allSettled(Array.from({ length: 60 }, create));
  for (const refusal of refusals) {
    expect(refusal).toMatchObject({ status: "rejected", reason: { code: Code.Unauthenticated } });
  }
});

describe("errorInfo", () => {
  const info = { reason: "OVERLOADED", domain: "entity.v1" };
  const withDetails = (...details: ConstructorParameters<typeof ConnectError>[3] & object) =>
    errorInfo(new ConnectError("busy", Code.Unavailable, undefined, details));

  it("says after which time a retry makes sense, where the service does", () => {
    const error = { desc: ErrorInfoSchema, value: info };
    const retryInfo = { desc: RetryInfoSchema, value: { retryDelay: { seconds: 1n, nanos: 500_000_000 } } };
    expect(withDetails(error, retryInfo)?.retryAfterMs).toBe(1_500);
    expect(
      withDetails({ desc: ErrorInfoSchema, value: { ...info, metadata: { retry_after_ms: "1000" } } }),
    ).toMatchObject({
      reason: "OVERLOADED",
      retryAfterMs: 1_000,
    });
    expect(withDetails(error)).not.toHaveProperty("retryAfterMs");
  });
});
