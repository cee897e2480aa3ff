// Certificates are renewed under a running service: changed files are read again, at once on SIGHUP, and files that
// cannot be used change nothing.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "node:tls";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startServiceProcess, temporaryFolder } from "./cli-process.ts";
import { startService } from "./harness.ts";

const folder = mkdtempSync(join(tmpdir(), "entity-tls-"));
const file = (name: string) => join(folder, name);
const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

beforeAll(() => {
  for (const name of ["first", "second", "third"]) {
    openssl(
      "req",
      "-x509",
      ...KEY,
      "-keyout",
      `${name}.key`,
      "-out",
      `${name}.pem`,
      "-subj",
      `/CN=${name}`,
      "-days",
      "2",
    );
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Puts the files of that name into the service's paths, each at once: half a file would be one more that cannot be used. */
function put(name: string, parts = ["pem", "key"], as = "used"): void {
  for (const part of parts) {
    copyFileSync(file(`${name}.${part}`), file("next"));
    renameSync(file("next"), file(`${as}.${part}`));
  }
}

/** The name in the certificate that a new connection gets; rejects if the connection is refused. */
const nameAt = (port: number, client?: string) =>
  new Promise<string>((resolve, reject) => {
    const own = client && { cert: readFileSync(file(`${client}.pem`)), key: readFileSync(file(`${client}.key`)) };
    const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false, ALPNProtocols: ["h2"], ...own });
    // The server accepts or refuses the client's certificate after the handshake: its first frame means yes.
    socket.once("data", () => {
      resolve(socket.getPeerCertificate().subject.CN as string);
      socket.destroy();
    });
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("closed")));
    socket.once("secureConnect", () => socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"));
  });

describe("files of TLS that change", () => {
  const files = { cert: file("used.pem"), key: file("used.key"), clientCa: undefined as string | undefined };
  const start = async (tls = files) => {
    const lines: Record<string, unknown>[] = [];
    const log = pino({ level: "info" }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    const service = await startService({ log, config: { tls, tlsReloadMs: 100 } });
    return { service, errors: () => lines.filter(({ level, msg }) => level === 50 && String(msg).startsWith("TLS")) };
  };

  it("are used for new connections; the others go on", async () => {
    put("first");
    const { service, errors } = await start();
    await using _ = service;
    expect(await nameAt(service.port)).toBe("first");
    const open = connect({
      host: "127.0.0.1",
      port: service.port,
      rejectUnauthorized: false,
      ALPNProtocols: ["http/1.1"],
    });
    put("second");
    await expect.poll(() => nameAt(service.port), { timeout: 10_000 }).toBe("second");
    // The certificate is replaced first, the key a while later: meanwhile they do not match.
    const health =
      "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    const answer = new Promise((resolve) => open.once("data", (data) => resolve(String(data).split("\r\n")[0])));
    open.write(health);
    expect(await answer).toBe("HTTP/1.1 200 OK");
    expect(open.getPeerCertificate().subject.CN).toBe("first");
    open.destroy();
    expect(errors().every(({ code }) => String(code).startsWith("ERR_"))).toBe(true);
  });

  it("that cannot be used change nothing, and are logged once each", async () => {
    put("first");
    const { service, errors } = await start();
    await using _ = service;
    put("second", ["pem"]);
    await expect.poll(() => errors().length, { timeout: 10_000 }).toBe(1);
    writeFileSync(file("none.pem"), "no certificate");
    put("none", ["pem"]);
    await expect.poll(() => errors().length, { timeout: 10_000 }).toBe(2);
    rmSync(file("used.pem"));
    await expect.poll(() => errors().length, { timeout: 10_000 }).toBe(3);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(errors().length).toBe(3);
    expect(await nameAt(service.port)).toBe("first");
    put("third");
    await expect.poll(() => nameAt(service.port), { timeout: 10_000 }).toBe("third");
  });

  it("say who is let in, too", async () => {
    put("first");
    put("second", ["pem"], "clients");
    const { service } = await start({ ...files, clientCa: file("clients.pem") });
    await using _ = service;
    expect(await nameAt(service.port, "second")).toBe("first");
    await expect(nameAt(service.port, "third")).rejects.toThrow();
    put("third", ["pem"], "clients");
    await expect.poll(() => nameAt(service.port, "third").catch(() => ""), { timeout: 10_000 }).toBe("first");
    await expect(nameAt(service.port, "second")).rejects.toThrow();
    await expect(nameAt(service.port)).rejects.toThrow();
  });

  it.each(["1", "2"])("are read at once on SIGHUP, which ends nothing (WORKERS=%s)", async (WORKERS) => {
    put("first");
    await using data = await temporaryFolder();
    await using service = await startServiceProcess(data.path, {
      ...{ WORKERS, TLS_CERT: files.cert, TLS_KEY: files.key, TLS_RELOAD_MS: "3600000" },
    });
    put("second");
    process.kill(service.pid, "SIGHUP");
    // The name at each worker in turn.
    const names = async () => new Set(await Promise.all(Array.from({ length: 8 }, () => nameAt(service.port))));
    await expect.poll(names, { timeout: 10_000 }).toEqual(new Set(["second"]));
    const told = () => service.lines().filter(({ msg }) => msg.startsWith("TLS")).length;
    await expect.poll(told).toBe(Number(WORKERS));
  });
});
