// The service behind nginx, as docs/operate/proxy.md configures it: the document's own block, with the addresses, files and
// times of this test.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Code } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { authorization, entityClientOver } from "../clients/typescript/client.ts";
import { EntityType, errorInfo, ImportOutcome, lookup } from "../clients/typescript/index.ts";
import { blocksOf } from "../scripts/documents/blocks.ts";
import { freePort, listening } from "../scripts/service-process.ts";
import { unique } from "./given.ts";
import { NO_DEADLINE, startService, type TestService } from "./harness.ts";
import { type OtherServer, startOther } from "./wall-harness.ts";

const DOCUMENT = "docs/operate/proxy.md";
/** <!-- nginx --> */
const MARKER = "nginx";
/** The document's hour, here: a watch says something every 5 s. */
const HOUR_MS = 6_000;

const isThere = (() => {
  try {
    execFileSync("nginx", ["-v"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

/** Replaces what must be there, so that the document cannot leave the test behind. */
function replaced(text: string, changes: [string, string][]): string {
  let result = text;
  for (const [from, to] of changes) {
    expect(result, `${DOCUMENT} has no ${from}`).toContain(from);
    result = result.replaceAll(from, to);
  }
  return result;
}

// A user's machine may lack it; the continuous integration must not.
describe.skipIf(!isThere && process.env.CI === undefined)("behind nginx (skipped where nginx is missing)", () => {
  const folder = mkdtempSync(join(tmpdir(), "entity-nginx-"));
  const file = (name: string) => join(folder, name);
  const lines: string[] = [];
  const log = pino({ level: "info" }, { write: (line: string) => void lines.push(line) });
  let service: TestService;
  let ports: [number, number];
  let processes: (OtherServer | undefined)[];
  let nginx: ChildProcess;
  let baseUrl: string;

  const startAt = (index: 0 | 1) =>
    startOther(service, { log, config: { port: ports[index], drainTimeoutMs: 5_000, streamIdleTimeoutMs: 4_000 } });

  beforeAll(async () => {
    service = await startService();
    ports = [await freePort(), await freePort()];
    processes = [await startAt(0), await startAt(1)];
    const certificate = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    execFileSync(
      "openssl",
      [...certificate, ...["-days", "1", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"]],
      { cwd: folder, stdio: "ignore" },
    );
    const text = readFileSync(fileURLToPath(new URL(`../${DOCUMENT}`, import.meta.url)), "utf8");
    const block = blocksOf(DOCUMENT, text).find(({ marker }) => marker === MARKER);
    const port = await freePort();
    const servers = replaced(block?.text ?? "", [
      ["10.0.0.11:50051", `127.0.0.1:${ports[0]}`],
      ["10.0.0.12:50051", `127.0.0.1:${ports[1]}`],
      ["listen 443 ", `listen 127.0.0.1:${port} `],
      ["/etc/nginx/tls/", `${folder}/`],
      ...["client_body", "grpc_read", "grpc_send", "proxy_read"].map((name): [string, string] => [
        `${name}_timeout 1h`,
        `${name}_timeout ${HOUR_MS}ms`,
      ]),
    ]);
    const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((kind) => `${kind}_temp_path ${folder};`);
    const http = ["access_log off;", ...places, servers].join("\n");
    const main = `worker_processes 1;\ndaemon off;\npid ${file("pid")};\nerror_log stderr warn;\nevents {}\n`;
    writeFileSync(file("nginx.conf"), `${main}http {\n${http}\n}\n`);
    const errors: string[] = [];
    nginx = spawn("nginx", ["-p", folder, "-c", file("nginx.conf"), "-e", "stderr"], { stdio: ["ignore", 1, "pipe"] });
    nginx.stderr?.on("data", (chunk) => errors.push(String(chunk)));
    await listening(nginx, port).catch((error) => {
      throw new Error(errors.join(""), { cause: error });
    });
    baseUrl = `https://localhost:${port}`;
  });
  afterAll(async () => {
    if (nginx?.exitCode === null) {
      nginx.kill("SIGQUIT");
      const limit = setTimeout(() => nginx.kill("SIGTERM"), 2_000);
      await once(nginx, "exit");
      clearTimeout(limit);
    }
    for (const running of processes ?? []) await running?.[Symbol.asyncDispose]();
    await service?.[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true });
  });

  const trusting = { rejectUnauthorized: false };
  const keyOf = () => service.organization.apiKey;
  const TRANSPORTS = {
    gRPC: () => createGrpcTransport({ baseUrl, nodeOptions: trusting, interceptors: [authorization(keyOf())] }),
    "gRPC-Web over HTTP/1.1": () =>
      createGrpcWebTransport({
        ...{ baseUrl, httpVersion: "1.1", nodeOptions: trusting, interceptors: [authorization(keyOf())] },
      } as const),
    "Connect over HTTP/1.1": () =>
      createConnectTransport({
        ...{ baseUrl, httpVersion: "1.1", nodeOptions: trusting, interceptors: [authorization(keyOf())] },
      } as const),
    "Connect over HTTP/2": () =>
      createConnectTransport({
        ...{ baseUrl, httpVersion: "2", nodeOptions: trusting, interceptors: [authorization(keyOf())] },
      } as const),
  };
  const clientBy = (protocol: keyof typeof TRANSPORTS = "gRPC", options = {}) =>
    entityClientOver(TRANSPORTS[protocol](), { ...NO_DEADLINE, ...options });
  const person = (more = {}) => ({ type: EntityType.PERSON, name: "Ana", countryCode: "AR", ...more });
  const row = () => ({ entity: person({ externalId: unique("row") }) });

  const EVERY = Object.keys(TRANSPORTS) as (keyof typeof TRANSPORTS)[];

  it.each(EVERY)("%s: calls with one request, typed errors, and streams of answers as they come", async (protocol) => {
    const { entities } = clientBy(protocol);
    const { entity } = await entities.createEntity({ entity: person() });
    expect(entity?.name).toBe("Ana");
    const error = await entities.getEntity({ lookup: { by: { case: "externalId", value: "nobody" } } }).catch((e) => e);
    expect(error).toMatchObject({ code: Code.NotFound });
    expect(errorInfo(error)?.reason).toBe("NOT_FOUND");
    // A watch: the first message, and the event of a write that comes a moment later.
    const watching = entities.watchEntities({})[Symbol.asyncIterator]();
    expect((await watching.next()).done).toBe(false);
    const { entity: watched } = await entities.createEntity({ entity: person() });
    const began = performance.now();
    for (;;) {
      const { value, done } = await watching.next();
      expect(done).not.toBe(true);
      if (value?.event?.entityId === watched?.id) break;
    }
    expect(performance.now() - began).toBeLessThan(1_500);
    await watching.return?.();
  });

  // Together, as they wait.
  it.concurrent("streams go on for longer than the times of nginx, while something comes", {
    timeout: 30_000,
  }, async () => {
    const { entities } = clientBy();
    const watch = async () => {
      const began = performance.now();
      for await (const _ of entities.watchEntities({})) if (performance.now() - began > HOUR_MS) return;
    };
    const results: ImportOutcome[] = [];
    const answered = Promise.withResolvers<void>();
    const rows = async function* () {
      for (let i = 0; i < 300; i++) yield row();
      // Answers come before the requests have ended.
      await answered.promise;
      for (let i = 0; i < 4; i++) {
        await sleep(HOUR_MS / 3);
        yield row();
      }
    };
    const load = async () => {
      for await (const { results: some } of entities.importEntities(rows())) {
        answered.resolve();
        results.push(...some.map(({ outcome }) => outcome));
      }
    };
    await Promise.all([watch(), load()]);
    expect(results).toEqual(Array(304).fill(ImportOutcome.CREATED));
  });

  it.concurrent("an import without a row is ended by the service, which says so", async () => {
    const abort = new AbortController();
    const silent = async function* () {
      yield row();
      await sleep(60_000, undefined, { signal: abort.signal }).catch(() => {});
    };
    const load = async () => {
      for await (const _ of clientBy().entities.importEntities(silent()));
    };
    const error = await load().catch((thrown) => thrown);
    abort.abort();
    expect(errorInfo(error)?.reason).toBe("DEADLINE_EXCEEDED");
    expect(error.message).toContain("No message arrived");
  });

  it("deadlines are the caller's, and reach the service, which says when they are over", async () => {
    const watching = async () => {
      // In the header alone: the client's own clock would be first.
      for await (const _ of clientBy().entities.watchEntities({}, { headers: { "grpc-timeout": "400m" } }));
    };
    const began = performance.now();
    expect(errorInfo(await watching().catch((thrown) => thrown))?.reason).toBe("DEADLINE_EXCEEDED");
    expect(performance.now() - began).toBeLessThan(2_000);
  });

  it.each(["gRPC", "Connect over HTTP/1.1"] as const)(
    "%s: large messages pass, and what is too large is refused by the service",
    async (protocol) => {
      const { entities } = clientBy(protocol);
      const large = (length: number) => ({ entity: person({ attributes: { note: "x".repeat(length) } }) });
      const ids = Array.from({ length: 300 }, () => unique("large"));
      const requests = ids.map((id) => ({ ...large(4_000), lookup: lookup.externalId(id), allowMissing: true }));
      await entities.batchUpdateEntities({ requests });
      const { results } = await entities.batchGetEntities({ lookups: ids.map(lookup.externalId) });
      expect(results.map(({ result }) => result.case)).toEqual(ids.map(() => "entity"));
      const tooLarge = await entities.createEntity(large(3_000_000)).catch((thrown) => thrown);
      expect(errorInfo(tooLarge)?.reason).toBe("MESSAGE_TOO_LARGE");
      const many = Array.from({ length: 200 }, (_, i) => lookup.externalId(`${i}\n${"x".repeat(300)}`));
      const invalid = await entities.batchGetEntities({ lookups: many }).catch((thrown) => thrown);
      expect(invalid).toMatchObject({ code: Code.InvalidArgument });
      expect(errorInfo(invalid)).toBeDefined();
    },
  );

  it("who says that it calls for another address is not believed", async () => {
    const forged = "203.0.113.77";
    const { entities } = clientBy();
    await entities.listEntities({}, { headers: { "x-forwarded-for": forged, "x-real-ip": forged } });
    await expect
      .poll(() => lines.some((line) => line.includes('"ListEntities"') || line.includes("/ListEntities")))
      .toBe(true);
    expect(lines.filter((line) => line.includes(forged))).toEqual([]);
    expect(new Set(lines.map((line) => JSON.parse(line).peer).filter(Boolean))).toEqual(new Set(["127.0.0.1"]));
  });

  it("a rolling restart fails no call", { timeout: 30_000 }, async () => {
    const clients = [
      clientBy("gRPC", { retries: {}, defaultTimeoutMs: 10_000 }),
      clientBy("Connect over HTTP/1.1", { retries: {}, defaultTimeoutMs: 10_000 }),
    ];
    let over = false;
    const failures: unknown[] = [];
    let calls = 0;
    const call = async (client: (typeof clients)[0]) => {
      while (!over) {
        const name = unique("rolling");
        const entity = person({ name, externalId: name });
        try {
          await client.entities.createEntity({ entity });
          await client.entities.getEntity({ lookup: lookup.externalId(name) });
        } catch (error) {
          failures.push(error);
        }
        calls += 2;
        await sleep(5);
      }
    };
    const calling = Promise.all([...clients, ...clients].map(call));
    for (const index of [0, 1] as const) {
      await sleep(300);
      await processes[index]?.[Symbol.asyncDispose]();
      await sleep(300);
      processes[index] = await startAt(index);
    }
    await sleep(300);
    over = true;
    await calling;
    expect(failures).toEqual([]);
    expect(calls).toBeGreaterThan(100);
  });
});
