// The sender with receivers that are slow, endless, broken, or correct; and its signatures.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createSender, type SenderOptions } from "../src/webhooks/send.ts";
import { errorCode } from "../src/webhooks/send-error.ts";
import { newSigningSecret, sign } from "../src/webhooks/signature.ts";
import { parseAllowList } from "../src/webhooks/url.ts";
import { httpReceiver, onRequest, type Receiver, socketReceiver } from "./webhook-receivers.ts";

const BODY = '{"event":"entity.updated"}';
const allow = parseAllowList("127.0.0.1");

const urlOf = ({ port }: { port: number }) => `http://127.0.0.1:${port}/hook?a=b`;

async function send(receiver: { port: number }, options: Partial<SenderOptions> = {}) {
  await using sender = createSender({ allow, timeoutMs: 5_000, ...options });
  return await sender.send({ url: urlOf(receiver), headers: { "webhook-id": "1" }, body: BODY });
}

/** A receiver that answers every request with these bytes, and leaves the connection open. */
const answering = (bytes: string | Buffer): Promise<Receiver> =>
  socketReceiver((socket) => onRequest(socket, BODY, () => socket.write(bytes)));

describe("an answer", () => {
  it("rule 66: the request is a POST with the body, the headers and nothing that was not asked for", async () => {
    let seen: Pick<IncomingMessage, "method" | "url" | "headers"> | undefined;
    let body = "";
    await using receiver = await httpReceiver((request, response) => {
      seen = request;
      request.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      request.on("end", () => response.writeHead(204).end());
    });
    expect(await send(receiver)).toEqual({ status: 204, latencyMs: expect.any(Number) });
    expect(seen).toMatchObject({ method: "POST", url: "/hook?a=b" });
    expect(seen?.headers).toEqual({
      "webhook-id": "1",
      host: `127.0.0.1:${receiver.port}`,
      connection: "keep-alive",
      "content-length": String(BODY.length),
    });
    expect(body).toBe(BODY);
  });

  it.each([
    ["7", 7_000],
    ["0", 0],
    [" 120 ", 120_000],
    [new Date(Date.now() + 3_600_000).toUTCString(), 3_600_000],
    [new Date(Date.now() - 3_600_000).toUTCString(), 0],
    ["-1", undefined],
    ["1.5", undefined],
    ["soon", undefined],
    ["9".repeat(30), undefined],
    ["2026", 2_026_000],
    ["Sun, 99 Foo 2026 99:99:99 GMT", undefined],
  ])("rule 66: Retry-After %j is read", async (value, expected) => {
    await using receiver = await httpReceiver((_request, response) => {
      response.writeHead(503, { "retry-after": value }).end();
    });
    const result = await send(receiver);
    expect(result).toMatchObject({ status: 503 });
    const { retryAfterMs } = result as { retryAfterMs?: number };
    if (expected === undefined || retryAfterMs === undefined) expect(retryAfterMs).toBe(expected);
    // A date has whole seconds, and some time passes.
    else expect(Math.abs(retryAfterMs - expected)).toBeLessThan(30_000);
  });

  it("rule 66: connections are used again", async () => {
    await using receiver = await httpReceiver((_request, response) => void response.end("thank you"));
    await using sender = createSender({ allow });
    for (let i = 0; i < 5; i++)
      expect(await sender.send({ url: urlOf(receiver), headers: {}, body: BODY })).toMatchObject({ status: 200 });
    expect(receiver.connections()).toBe(1);
  });

  it("rule 66: of the addresses of a name one that answers is enough", async () => {
    await using receiver = await httpReceiver((_request, response) => void response.end());
    for (const addresses of [
      ["127.0.0.2", "127.0.0.1"],
      ["::1", "127.0.0.1"],
      ["127.0.0.1", "::1"],
    ]) {
      const named = parseAllowList("hooks.example.com");
      await using sender = createSender({ allow: named, lookup: async () => addresses, timeoutMs: 5_000 });
      const url = `http://hooks.example.com:${receiver.port}/`;
      expect(await sender.send({ url, headers: {}, body: BODY })).toMatchObject({ status: 200 });
    }
  });

  it("rule 66: a hundred at once, of one caller, each with its own answer and time", async () => {
    let waiting = 0;
    await using receiver = await httpReceiver((request, response) => {
      if (request.url === "/slow") waiting++;
      else response.writeHead(Number(request.url?.slice(1))).end();
    });
    await using sender = createSender({ allow, timeoutMs: 3_000 });
    const { signal } = new AbortController();
    const at = (path: string) =>
      sender.send({ url: `http://127.0.0.1:${receiver.port}/${path}`, headers: {}, body: BODY, signal });
    const statuses = Array.from({ length: 100 }, (_, i) => 200 + i);
    const [slow, ...answers] = await Promise.all([at("slow"), ...statuses.map((status) => at(String(status)))]);
    expect(slow).toMatchObject({ error: "TIMEOUT" });
    expect(answers).toMatchObject(statuses.map((status) => ({ status })));
    expect(waiting).toBe(1);
  });

  it("rule 66: a connection that the receiver closes just then is no failure: the request goes on a new one", async () => {
    let requests = 0;
    await using receiver = await socketReceiver((socket) => {
      let isOld = false;
      onRequest(socket, BODY, () => {
        requests++;
        if (isOld) socket.destroy();
        else socket.write("HTTP/1.1 204 No Content\r\n\r\n");
        isOld = true;
      });
    });
    await using sender = createSender({ allow });
    for (let i = 0; i < 2; i++)
      expect(await sender.send({ url: urlOf(receiver), headers: {}, body: BODY })).toMatchObject({ status: 204 });
    expect({ requests, connections: receiver.connections() }).toEqual({ requests: 3, connections: 2 });
  });

  it.each([
    ["200 headers", `HTTP/1.1 200 OK\r\n${"x-a: b\r\n".repeat(200)}content-length: 0\r\n\r\n`],
    [
      "headers that come before it",
      `${"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(50)}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n`,
    ],
    [
      "a body that claims to be gzip and is none",
      "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    ],
    ["a body that breaks off", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcdegarbage"],
    ["trailers", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-a: b\r\n\r\n"],
  ])("rule 66: the status is what counts: %s", async (_what, bytes) => {
    await using receiver = await answering(bytes);
    expect(await send(receiver)).toMatchObject({ status: 200 });
  });
});

describe("a receiver at its own cost", () => {
  /** Resolves when the sender has closed the connection. */
  const closing = (socket: Socket) => new Promise<void>((resolve) => socket.on("close", () => resolve()));

  it("rule 66: one that never answers, and one whose headers never end, is ended when the time is over", async () => {
    for (const bytes of ["", "H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nx-a: "]) {
      const closed = Promise.withResolvers<void>();
      await using receiver = await socketReceiver((socket) => {
        void closing(socket).then(closed.resolve);
        onRequest(socket, BODY, () => {
          socket.write(bytes);
          const drip = setInterval(() => socket.write(bytes === "" ? "" : "a"), 20);
          socket.on("close", () => clearInterval(drip));
        });
      });
      // Anything appended to "H" one byte at a time is invalid HTTP at once.
      const error = bytes === "H" ? "BAD_RESPONSE" : "TIMEOUT";
      expect(await send(receiver, { timeoutMs: 1_000 })).toMatchObject({ error });
      await closed.promise;
    }
  });

  it("rule 66: one that answers 103 for ever is ended when the time is over", async () => {
    await using receiver = await socketReceiver((socket) => {
      const drip = setInterval(() => socket.write("HTTP/1.1 103 Early Hints\r\n\r\n"), 5);
      socket.on("close", () => clearInterval(drip));
    });
    expect(await send(receiver, { timeoutMs: 200 })).toMatchObject({ error: "TIMEOUT" });
  });

  it("rule 66: one that does not read the request is ended when the time is over", async () => {
    await using receiver = await socketReceiver((socket) => void socket.pause());
    await using sender = createSender({ allow, timeoutMs: 200 });
    const body = "x".repeat(16 * 1024 * 1024);
    expect(await sender.send({ url: urlOf(receiver), headers: {}, body })).toMatchObject({ error: "TIMEOUT" });
  });

  it("rule 66: a body that drips is cut when the time is over; its status counts", async () => {
    const closed = Promise.withResolvers<void>();
    await using receiver = await socketReceiver((socket) => {
      void closing(socket).then(closed.resolve);
      onRequest(socket, BODY, () => {
        socket.write("HTTP/1.1 202 Accepted\r\ncontent-length: 60000\r\n\r\n");
        const drip = setInterval(() => socket.write("a"), 20);
        socket.on("close", () => clearInterval(drip));
      });
    });
    expect(await send(receiver, { timeoutMs: 1_000 })).toMatchObject({ status: 202 });
    await closed.promise;
  });

  it("rule 66: of an endless body 64 KiB are read, and the connection is closed", async () => {
    const sent = Promise.withResolvers<number>();
    await using receiver = await socketReceiver((socket) => {
      void closing(socket).then(() => sent.resolve(socket.bytesWritten));
      onRequest(socket, BODY, () => {
        socket.write("HTTP/1.1 200 OK\r\n\r\n");
        const chunk = Buffer.alloc(64 * 1024);
        const more = () => {
          while (!socket.destroyed && socket.write(chunk));
        };
        socket.on("drain", more);
        more();
      });
    });
    // The time limit is long: only the limit of bytes ends it.
    expect(await send(receiver, { timeoutMs: 50_000 })).toMatchObject({ status: 200 });
    // The system decides how much the two sockets buffer.
    expect(await sent.promise).toBeLessThan(64 * 1024 * 1024);
  });

  it.each([
    ["no HTTP", "hello\r\n\r\n"],
    ["HTTP/2", Buffer.from("0000000400000000000000", "hex")],
    ["TLS", Buffer.from("150303000202", "hex")],
    ["binary", Buffer.from([0, 255, 10, 13, 10, 13, 10, 0])],
    ["no status", "HTTP/1.1 OK\r\n\r\n"],
    ["a status too long", "HTTP/1.1 99999 OK\r\n\r\n"],
    ["two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"],
    ["a length that is none", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"],
    ["NUL in a header", "HTTP/1.1 200 OK\r\nx-a: \0\r\n\r\n"],
    ["a header of 17 KiB", `HTTP/1.1 200 OK\r\nx-a: ${"b".repeat(17 * 1024)}\r\n\r\n`],
    ["20 KiB of headers", `HTTP/1.1 200 OK\r\n${"x-a: b\r\n".repeat(5_000)}\r\n`],
    ["an upgrade", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
  ])("rule 66: an answer that is %s is an error, and nothing else happens", async (_what, bytes) => {
    await using receiver = await answering(bytes);
    expect(await send(receiver)).toMatchObject({ error: "BAD_RESPONSE" });
    await using second = await httpReceiver((_request, response) => void response.end());
    expect(await send(second)).toMatchObject({ status: 200 });
  });

  it("rule 66: a connection that is reset, closed or refused", async () => {
    await using resetting = await socketReceiver((socket) => onRequest(socket, BODY, () => socket.resetAndDestroy()));
    expect(await send(resetting)).toMatchObject({ error: "CONNECTION_RESET" });
    await using closingOne = await socketReceiver((socket) => onRequest(socket, BODY, () => socket.end()));
    expect(await send(closingOne)).toMatchObject({ error: "CONNECTION_RESET" });
    // Half of the headers, then the connection ends.
    await using half = await socketReceiver((socket) =>
      onRequest(socket, BODY, () => socket.end("HTTP/1.1 200 OK\r\nx")),
    );
    expect(await send(half)).toMatchObject({ error: expect.stringMatching(/^(CONNECTION_RESET|BAD_RESPONSE)$/) });
    const gone = await socketReceiver(() => {});
    await gone[Symbol.asyncDispose]();
    expect(await send(gone)).toMatchObject({ error: "CONNECTION_REFUSED" });
  });

  it("rule 66: the caller's signal ends it, and disposing of the sender too", async () => {
    await using receiver = await socketReceiver(() => {});
    const sender = createSender({ allow });
    const controller = new AbortController();
    const message = { url: urlOf(receiver), headers: {}, body: BODY };
    const one = sender.send({ ...message, signal: controller.signal });
    controller.abort();
    expect(await one).toMatchObject({ error: "ABORTED" });
    expect(await sender.send({ ...message, signal: controller.signal })).toMatchObject({ error: "ABORTED" });
    const two = sender.send(message);
    await sender[Symbol.asyncDispose]();
    expect(await two).toMatchObject({ error: "ABORTED" });
    expect(await sender.send(message)).toMatchObject({ error: "ABORTED" });
  });
});

describe("TLS", () => {
  const folder = mkdtempSync(join(tmpdir(), "entity-webhooks-"));
  const trusted = tls.getCACertificates();
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
  const read = (name: string) => readFileSync(join(folder, name), "utf8");
  const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

  beforeAll(() => {
    writeFileSync(join(folder, "san"), "subjectAltName=DNS:hooks.example.com,IP:127.0.0.1");
    openssl("req", "-x509", ...KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2");
    openssl("req", "-new", ...KEY, "-keyout", "key", "-out", "csr", "-subj", "/CN=receiver");
    const signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"];
    openssl("x509", "-req", "-in", "csr", ...signed, "-out", "pem");
    // As an operator would do with NODE_EXTRA_CA_CERTS.
    tls.setDefaultCACertificates([...trusted, read("ca.pem")]);
  });
  afterAll(() => {
    tls.setDefaultCACertificates(trusted);
    rmSync(folder, { recursive: true });
  });

  async function tlsReceiver(options: tls.TlsOptions = {}) {
    const seen: { name: string | false | null; host: string | undefined }[] = [];
    const server = createHttpsServer({ key: read("key"), cert: read("pem"), ...options }, (request, response) => {
      seen.push({ name: (request.socket as tls.TLSSocket).servername ?? null, host: request.headers.host });
      response.writeHead(204).end();
    });
    server.on("tlsClientError", () => {});
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return {
      port: (server.address() as AddressInfo).port,
      seen,
      [Symbol.asyncDispose]: () =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
          server.closeAllConnections();
        }),
    };
  }
  const over = async (host: string, port: number) => {
    const loopback = parseAllowList("127.0.0.0/8");
    await using sender = createSender({ allow: loopback, lookup: async () => ["127.0.0.1"], timeoutMs: 5_000 });
    const message = { url: `https://${host}:${port}/`, headers: {}, body: BODY };
    const first = await sender.send(message);
    return [first, await sender.send(message)];
  };
  const delivered = { status: 204, latencyMs: expect.any(Number) };

  it("rule 66: the connection goes to the checked address with the name of the URL, in TLS and in HTTP", async () => {
    await using receiver = await tlsReceiver();
    expect(await over("hooks.example.com", receiver.port)).toEqual([delivered, delivered]);
    expect(await over("hooks.example.com.", receiver.port)).toEqual([delivered, delivered]);
    expect(await over("127.0.0.1", receiver.port)).toEqual([delivered, delivered]);
    const name = "hooks.example.com";
    expect(receiver.seen.map(({ name }) => name)).toEqual([name, name, name, name, false, false]);
    expect(receiver.seen[0]?.host).toBe(`hooks.example.com:${receiver.port}`);
  });

  it("rule 66: a certificate of another name, or of nobody that is known, gets no request", async () => {
    await using receiver = await tlsReceiver();
    for (const result of await over("other.example.com", receiver.port)) expect(result).toMatchObject({ error: "TLS" });
    expect(await over("127.0.0.2", receiver.port).then(([result]) => result)).not.toMatchObject({ status: 204 });
    tls.setDefaultCACertificates(trusted);
    try {
      expect((await over("hooks.example.com", receiver.port))[0]).toMatchObject({ error: "TLS" });
    } finally {
      tls.setDefaultCACertificates([...trusted, read("ca.pem")]);
    }
    expect(receiver.seen).toEqual([]);
  });

  it("rule 66: no variable of the environment makes it trust everybody", async () => {
    await using receiver = await tlsReceiver();
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
    try {
      expect((await over("other.example.com", receiver.port))[0]).toMatchObject({ error: "TLS" });
    } finally {
      delete process.env.NODE_TLS_REJECT_UNAUTHORIZED;
    }
  });

  it("rule 66: a receiver without TLS, and one of an old version", async () => {
    await using plain = await httpReceiver((_request, response) => void response.end());
    expect((await over("hooks.example.com", plain.port))[0]).toMatchObject({ error: "TLS" });
    await using old = await tlsReceiver({ minVersion: "TLSv1", maxVersion: "TLSv1.1" });
    expect((await over("hooks.example.com", old.port))[0]).toMatchObject({ error: "TLS" });
  });
});

describe("words for errors", () => {
  it.each([
    ["EHOSTUNREACH", "CONNECTION_FAILED"],
    ["ENETUNREACH", "CONNECTION_FAILED"],
    ["EADDRNOTAVAIL", "CONNECTION_FAILED"],
    ["ETIMEDOUT", "TIMEOUT"],
    ["EPIPE", "CONNECTION_RESET"],
    ["ESERVFAIL", "DNS"],
    ["EAI_AGAIN", "DNS"],
    ["ECONNREFUSED", "CONNECTION_REFUSED"],
    ["CERT_HAS_EXPIRED", "TLS"],
    ["DEPTH_ZERO_SELF_SIGNED_CERT", "TLS"],
    ["UNABLE_TO_GET_ISSUER_CERT_LOCALLY", "TLS"],
    ["UNABLE_TO_VERIFY_LEAF_SIGNATURE", "TLS"],
    ["ERR_TLS_CERT_ALTNAME_INVALID", "TLS"],
    ["ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION", "TLS"],
    ["HPE_INVALID_CONSTANT", "BAD_RESPONSE"],
  ])("%s is %s", (code, word) => {
    expect(errorCode(Object.assign(new Error("x"), { code }))).toBe(word);
  });
});

describe("signatures", () => {
  const id = "01a1f948-3d2a-70f6-97d4-47045fc6f9be";
  const now = Math.floor(Date.now() / 1000);
  const verify = (secret: string, signature: string, body = BODY, timestamp = now) =>
    new Webhook(secret).verify(body, {
      "webhook-id": id,
      "webhook-timestamp": String(timestamp),
      "webhook-signature": signature,
    });

  it("rule 66: a library of the standard verifies them, text outside ASCII too", () => {
    const secret = newSigningSecret();
    for (const body of [BODY, '{"name":"Zoë 😀 \\u0000"}', "{}"]) {
      expect(verify(secret, sign([secret], id, now, body), body)).toEqual(JSON.parse(body));
      expect(sign([secret], id, now, body)).toBe(new Webhook(secret).sign(id, new Date(now * 1000), body));
    }
  });

  it("rule 66: one of each secret, so that a receiver may know the old or the new one", () => {
    const [old, fresh] = [newSigningSecret(), newSigningSecret()];
    const signature = sign([fresh, old], id, now, BODY);
    expect(signature).toMatch(/^v1,[\w+/]{43}= v1,[\w+/]{43}=$/);
    for (const secret of [old, fresh]) expect(verify(secret, signature)).toEqual(JSON.parse(BODY));
    expect(() => verify(newSigningSecret(), signature)).toThrow();
  });

  it("rule 66: another body, id or time does not verify", () => {
    const secret = newSigningSecret();
    const signature = sign([secret], id, now, BODY);
    expect(() => verify(secret, signature, `${BODY} `)).toThrow();
    expect(() => verify(secret, signature, BODY, now + 1)).toThrow();
    expect(() => verify(secret, sign([secret], `${id}x`, now, BODY))).toThrow();
  });

  it("rule 66: a secret is whsec_ and 32 random bytes, never twice the same", () => {
    const secrets = Array.from({ length: 100 }, newSigningSecret);
    for (const secret of secrets) {
      expect(secret).toMatch(/^whsec_[\w+/]{43}=$/);
      expect(Buffer.from(secret.slice(6), "base64")).toHaveLength(32);
    }
    expect(new Set(secrets).size).toBe(100);
  });
});
