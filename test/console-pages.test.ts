// The pages as they are served: their headers, what is answered while the console is built, and what attackers get.
import { mkdtempSync } from "node:fs";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { connect } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readConfig } from "../src/config.ts";
import { startService, type TestService } from "./harness.ts";
import { h2Call, rawCall, withSession } from "./transport-harness.ts";

interface Answer {
  status: number;
  headers: Record<string, unknown>;
  body: Buffer;
}

const dataDir = mkdtempSync(join(tmpdir(), "console-pages-"));
let service: TestService;

beforeAll(async () => {
  service = await startService({ config: { console: true, dataDir } });
});
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await rm(dataDir, { recursive: true, force: true });
});

function overHttp1(path: string, headers: Record<string, string> = {}, method = "GET"): Promise<Answer> {
  return new Promise((resolve, reject) => {
    httpRequest({ host: "127.0.0.1", port: service.port, path, headers, method }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
      );
    })
      .on("error", reject)
      .end();
  });
}

const overHttp2 = (path: string, headers: Record<string, string> = {}, method = "GET"): Promise<Answer> =>
  withSession(service.baseUrl, (session) => h2Call(session, { ...headers, ":path": path, ":method": method }));

async function temporaryFolder(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), "console-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** The most CPU time that the event loop's turns took between two looks, in milliseconds: others may share the machine. */
function watchTurns(): { end(): number } {
  let most = 0;
  let last = process.threadCpuUsage();
  const look = () => {
    const { user, system } = process.threadCpuUsage(last);
    most = Math.max(most, (user + system) / 1_000);
    last = process.threadCpuUsage();
  };
  const timer = setInterval(look, 1);
  return {
    end() {
      clearInterval(timer);
      look();
      return most;
    },
  };
}

const WAYS = { "HTTP/1.1": overHttp1, h2c: overHttp2 };

/** The console once it is built. */
async function built(): Promise<Answer> {
  for (let i = 0; i < 300; i++) {
    const answer = await overHttp1("/console");
    if (answer.status !== 503) return answer;
    await sleep(100);
  }
  throw new Error("the console was not built");
}

async function assets(): Promise<string[]> {
  const { body } = await built();
  return [...body.toString().matchAll(/(?:src|href)="(\/console\/assets\/[^"]+)"/g)].map(([, path = ""]) => path);
}

test("while the console is built a page says so and reloads by itself, and the event loop is not held up", async () => {
  await using folder = await temporaryFolder();
  await using fresh = await startService({ config: { console: true, dataDir: folder.path } });
  const get = () => fetch(`${fresh.baseUrl}/console`);
  const turns = watchTurns();
  const began = performance.now();
  const first = await get();
  expect(first.status).toBe(503);
  expect(first.headers.get("refresh")).toBe("1");
  expect(first.headers.get("cache-control")).toBe("no-store");
  expect(await first.text()).toContain("is being built");
  while ((await get()).status === 503 && performance.now() - began < 30_000) await sleep(50);
  expect((await get()).status).toBe(200);
  const most = Math.round(turns.end());
  console.info(
    `built in ${Math.round(performance.now() - began)} ms, a turn of the event loop took ${most} ms of CPU at most`,
  );
  expect(most).toBeLessThan(100);

  // The next process finds it built.
  await using next = await startService({ config: { console: true, dataDir: folder.path } });
  const again = performance.now();
  while ((await fetch(`${next.baseUrl}/console`)).status === 503 && performance.now() - again < 30_000) await sleep(20);
  console.info(`found built in ${Math.round(performance.now() - again)} ms`);
  expect((await readdir(join(folder.path, "console"))).length).toBe(1);
});

test("where it cannot be built a page says so, the log says why, and all else is served", async () => {
  await using folder = await temporaryFolder();
  // A file where the folder should be.
  await writeFile(join(folder.path, "console"), "");
  const lines: string[] = [];
  const log = pino({ level: "info" }, { write: (line: string) => void lines.push(line) });
  await using broken = await startService({ config: { console: true, dataDir: folder.path }, log });
  const get = () => fetch(`${broken.baseUrl}/console`);
  let text = "";
  for (let i = 0; i < 300 && !text.includes("could not be built"); i++) {
    text = await (await get()).text();
    await sleep(50);
  }
  expect(text).toContain("could not be built");
  expect(lines.join("")).toContain("the console could not be built");
  expect((await fetch(broken.baseUrl)).status).toBe(200);
});

describe.each(Object.entries(WAYS))("over %s", (_, get) => {
  test("GET / says what this is, with links, and needs no key", async () => {
    const answer = await get("/");
    expect(answer.status).toBe(200);
    expect(answer.headers["content-type"]).toBe("text/html; charset=utf-8");
    const text = answer.body.toString();
    for (const part of ["EntityService", 'href="/console"', 'href="/metrics"', "docs/", "grpcurl"])
      expect(text).toContain(part);
    expect((await get("/pages.css")).headers["content-type"]).toBe("text/css; charset=utf-8");
    expect((await get("/icon.svg")).headers["content-type"]).toBe("image/svg+xml");
  });

  test("every page has a policy without anything inline or from elsewhere", async () => {
    for (const path of ["/", "/console", "/console/", "/console/nothing", ...(await assets())]) {
      const { headers } = await get(path);
      const policy = String(headers["content-security-policy"]);
      expect(policy.split("; ")).toEqual(
        expect.arrayContaining([
          "default-src 'none'",
          "script-src 'self'",
          "style-src 'self'",
          "frame-ancestors 'none'",
        ]),
      );
      expect(policy).not.toMatch(/unsafe|https?:|\*|data:/);
      expect(headers["x-content-type-options"]).toBe("nosniff");
      expect(headers["referrer-policy"]).toBe("no-referrer");
    }
    const pages = await Promise.all(["/", "/console"].map((path) => get(path)));
    for (const { body } of pages)
      expect(body.toString()).not.toMatch(/<style|style=|<script(?![^>]* src=)|\son\w+=|https?:/);
  });

  test("assets are kept for ever under a name of their content; the page is asked for anew, and mostly unchanged", async () => {
    const page = await get("/console");
    expect(page.headers["cache-control"]).toBe("no-cache");
    const etag = String(page.headers["etag"]);
    const unchanged = await get("/console", { "if-none-match": `"other", W/${etag}` });
    expect([unchanged.status, unchanged.body.length]).toEqual([304, 0]);
    expect((await get("/console", { "if-none-match": '"other"' })).status).toBe(200);
    for (const path of await assets()) {
      const plain = await get(path);
      expect(plain.headers["cache-control"]).toBe("public, max-age=31536000, immutable");
      const zipped = await get(path, { "accept-encoding": "br, gzip" });
      expect(zipped.headers["content-encoding"]).toBe("gzip");
      expect(gunzipSync(zipped.body)).toEqual(plain.body);
      const head = await get(path, {}, "HEAD");
      expect([head.status, head.body.length, head.headers["content-length"]]).toEqual([
        200,
        0,
        String(plain.body.length),
      ]);
    }
  });

  test.each([
    "/console/../package.json",
    "/console/%2e%2e/%2e%2e/package.json",
    "/console/..%2f..%2fpackage.json",
    "/console/assets/",
    "/console/index.html.gz",
    "/console/__proto__",
    "/console/constructor",
    `/console/${"a".repeat(4_000)}`,
  ])("%s is no page", async (path) => {
    await built();
    const answer = await get(path);
    expect(answer.status).toBe(404);
    expect(answer.body.toString()).toContain("There is no such page");
  });

  test("anything but GET and HEAD is refused as everywhere else, in JSON", async () => {
    for (const [path, method] of [
      ["/", "POST"],
      ["/console", "DELETE"],
      ["/console", "PUT"],
    ] as const) {
      const answer = await get(path, {}, method);
      expect(answer.status).toBe(404);
      expect(JSON.parse(answer.body.toString()).code).toBe("unimplemented");
    }
  });
});

test("two requests in one packet are answered on one connection", async () => {
  const received = await rawCall(
    service.port,
    "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /pages.css HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    3_000,
  );
  expect(received.match(/^HTTP\/1\.1 200 /gm)).toHaveLength(2);
});

test("callers who do not read their answers hold no copies of them, and take nothing from others", async () => {
  const [script = ""] = (await assets()).filter((path) => path.endsWith(".js"));
  const sessions = Array.from({ length: 4 }, () => connect(service.baseUrl, { settings: { initialWindowSize: 0 } }));
  try {
    globalThis.gc?.();
    const before = process.memoryUsage().rss;
    const statuses = await Promise.all(
      sessions.flatMap((session) => {
        session.on("error", () => {});
        return Array.from(
          { length: 100 },
          () =>
            new Promise<number>((resolve) => {
              const stream = session.request({ ":method": "GET", ":path": script });
              stream.on("error", () => resolve(0));
              stream.on("response", (headers) => resolve(Number(headers[":status"])));
            }),
        );
      }),
    );
    expect(new Set(statuses)).toEqual(new Set([200, 503]));
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * 1024 * 1024);
    expect((await overHttp1("/")).status).toBe(200);
    // What strangers hold is that of pages, not of calls.
    await service.client.entities.listEntities({ pageSize: 1 });
  } finally {
    for (const session of sessions) session.destroy();
  }
  for (let i = 0; i < 50 && (await overHttp1(script)).status !== 200; i++) await sleep(50);
  expect((await overHttp1(script)).status).toBe(200);
});

test("the console is on with the embedded database, and by CONSOLE=on with another; off, / says how", async () => {
  expect(readConfig({}).console).toBe(true);
  expect(readConfig({ CONSOLE: "off" }).console).toBe(false);
  const DATABASE_URL = "postgres://user@host/name";
  expect(readConfig({ DATABASE_URL }).console).toBe(false);
  expect(readConfig({ DATABASE_URL, CONSOLE: "on" }).console).toBe(true);
  await using without = await startService({ config: { console: false, dataDir } });
  expect((await fetch(`${without.baseUrl}/console`)).status).toBe(404);
  expect((await (await fetch(without.baseUrl)).text()).includes("CONSOLE=on")).toBe(true);
});

test("GET / links to the documents where DOCS_URL says that they are", async () => {
  for (const DOCS_URL of ["docs.example.com", "javascript:alert(1)", "https://"])
    expect(() => readConfig({ DOCS_URL })).toThrow("DOCS_URL must be a URL of http or https");
  const { docsUrl } = readConfig({ DOCS_URL: 'https://docs.example.com/a"b<c>?d=$&e=1' });
  await using told = await startService({ config: { docsUrl, dataDir } });
  const page = await (await fetch(told.baseUrl)).text();
  expect(page).toContain('<a href="https://docs.example.com/a%22b%3Cc%3E?d=$&amp;e=1">Documentation</a>');
});
