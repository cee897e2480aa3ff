// `webhooks listen`, as a separate process, which gets its requests from the service's sender.
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { afterEach, describe, expect, it } from "vitest";
import { createSender } from "../src/webhooks/send.ts";
import { newSigningSecret, sign } from "../src/webhooks/signature.ts";
import { parseAllowList } from "../src/webhooks/url.ts";
import { cli, startCli } from "./cli-process.ts";
import { socketReceiver } from "./webhook-receivers.ts";

const secret = newSigningSecret();
const statusChanged = {
  event: "entity.status_changed",
  entityId: "01a1f948-2ad7-74b2-b54d-0aafbdcd68d8",
  externalId: "customer-1",
  oldStatus: "active",
  newStatus: "blocked",
  reason: "Failed sanctions screening",
  changedBy: "user-7",
  timestamp: "2026-11-24T15:30:00.000Z",
};
const updated = {
  event: "entity.updated",
  entityId: statusChanged.entityId,
  externalId: null,
  updatedFields: ["name", "taxId"],
  previousValues: { name: "Ana Perez", taxId: "20-12345678-9" },
  newValues: { name: "Ana Paz", taxId: null },
};

let listener: ReturnType<typeof startCli> | undefined;
afterEach(async () => {
  listener?.kill();
  await listener?.ended;
  listener = undefined;
});

/** Starts a listener on any port. `post` sends with the service's sender, and signs unless headers are given. */
async function listen(args: string[], env: Record<string, string> = {}) {
  const process = startCli(["webhooks", "listen", "--port", "0", ...args], { env });
  listener = process;
  const [first] = (await once(process.stderr as NodeJS.ReadableStream, "data")) as [string];
  const url = /listening at (http:\/\/127\.0\.0\.1:\d+)/.exec(first)?.[1] ?? "";
  return {
    first,
    url,
    async post(body: unknown, { key = secret, headers }: { key?: string; headers?: Record<string, string> } = {}) {
      const text = typeof body === "string" ? body : JSON.stringify(body);
      const id = randomUUID();
      const timestamp = Math.floor(Date.now() / 1000);
      const signed = {
        "webhook-id": id,
        "webhook-timestamp": String(timestamp),
        "webhook-signature": sign([newSigningSecret(), key], id, timestamp, text),
      };
      await using sender = createSender({ allow: parseAllowList("127.0.0.1") });
      const result = await sender.send({ url: `${url}/hook`, headers: headers ?? signed, body: text });
      return { id, result };
    },
    /** Stops it; returns the lines that it printed, without the first one of standard error. */
    async stop() {
      process.kill();
      const { stdout, stderr } = await process.ended;
      const linesOf = (text: string) => text.split("\n").slice(0, -1);
      return { stdout: linesOf(stdout), stderr: linesOf(stderr).slice(1) };
    },
  };
}

describe("webhooks listen", () => {
  it("prints a line for each delivery that verifies, and answers 204", async () => {
    const listening = await listen(["--secret", secret]);
    expect(listening.first).toMatch(/^entity-service: listening at http:\/\/127\.0\.0\.1:\d+\n$/);
    const one = await listening.post(statusChanged);
    const two = await listening.post(updated);
    expect([one.result, two.result]).toMatchObject([{ status: 204 }, { status: 204 }]);
    const { stdout, stderr } = await listening.stop();
    expect(stdout.map((line) => line.replace(/^\d{4}-\d\d-\d\dT[\d:.]+Z/, "TIME"))).toEqual([
      `TIME  ${statusChanged.entityId} customer-1  entity.status_changed  active to blocked  by user-7  reason "Failed sanctions screening"  id ${one.id}  verified  answered 204`,
      `TIME  ${updated.entityId}  entity.updated  name,taxId  id ${two.id}  verified  answered 204`,
    ]);
    expect(stderr).toEqual([]);
  });

  it("answers 401 to another secret, another body and no signature, and says so", async () => {
    const listening = await listen([], { ENTITY_SERVICE_WEBHOOK_SECRET: secret });
    const answers = [
      await listening.post(updated, { key: newSigningSecret() }),
      await listening.post(updated, { headers: {} }),
      await listening.post(updated, {
        headers: { "webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": sign([secret], "1", 1, "{}") },
      }),
      await listening.post(updated),
    ];
    expect(answers.map(({ result }) => "status" in result && result.status)).toEqual([401, 401, 401, 204]);
    const { stdout, stderr } = await listening.stop();
    expect(stdout).toHaveLength(1);
    expect(stderr).toEqual([
      "entity-service: answered 401: the signature does not hold (No matching signature found)",
      "entity-service: answered 401: the signature does not hold (Missing required headers)",
      "entity-service: answered 401: the signature does not hold (Message timestamp too old)",
    ]);
  });

  it("without a secret prints that nothing was verified", async () => {
    const listening = await listen([], { ENTITY_SERVICE_WEBHOOK_SECRET: "" });
    expect(listening.first).toContain("without a secret nothing is verified");
    expect((await listening.post(updated, { headers: {} })).result).toMatchObject({ status: 204 });
    const { stdout } = await listening.stop();
    expect(stdout).toEqual([expect.stringMatching(/ {2}id "" {2}not verified {2}answered 204$/)]);
  });

  it("--answer rehearses failures, of what verifies alone", async () => {
    const listening = await listen(["--secret", secret, "--answer", "503"]);
    expect((await listening.post(updated)).result).toMatchObject({ status: 503 });
    expect((await listening.post(updated, { headers: {} })).result).toMatchObject({ status: 401 });
    expect((await listening.stop()).stdout).toEqual([expect.stringMatching(/ {2}verified {2}answered 503$/)]);
  });

  it("--json prints the whole delivery, one a line", async () => {
    const listening = await listen(["--secret", secret, "--json"]);
    const { id } = await listening.post(updated);
    const { stdout } = await listening.stop();
    expect(stdout.map((line) => JSON.parse(line))).toEqual([
      {
        receivedAt: expect.stringMatching(/^\d{4}-.*Z$/),
        check: "verified",
        answer: 204,
        id,
        timestamp: expect.stringMatching(/^\d{10}$/),
        body: updated,
      },
    ]);
  });

  it("keeps its lines whatever comes: line ends in texts, another shape, no JSON, no text", async () => {
    const listening = await listen([]);
    const bodies = [
      { ...statusChanged, reason: "a\nb\u001b[2J", externalId: "x\ny", changedBy: "a b" },
      "null",
      "[1]",
      '{"event":{},"updatedFields":[1]}',
      "no JSON\n",
      "",
    ];
    for (const body of bodies) expect((await listening.post(body)).result).toMatchObject({ status: 204 });
    const { stdout, stderr } = await listening.stop();
    expect(stdout).toHaveLength(bodies.length);
    expect(stdout[0]).toContain(
      '"x\\ny"  entity.status_changed  active to blocked  by "a b"  reason "a\\nb\\u001b[2J"',
    );
    expect(stderr).toEqual([]);
  });

  it("refuses what is no delivery: another method, a body that is too large", async () => {
    const listening = await listen([]);
    expect((await fetch(listening.url)).status).toBe(405);
    expect((await listening.post("x".repeat(1024 * 1024 + 1))).result).toMatchObject({ status: 413 });
    expect((await listening.post("x".repeat(1024 * 1024))).result).toMatchObject({ status: 204 });
    expect((await listening.stop()).stderr).toEqual([
      expect.stringMatching(/answered 405/),
      expect.stringMatching(/answered 413/),
    ]);
  });

  it.each([
    [["--port", "65536"]],
    [["--port", "x"]],
    [["--answer", "199"]],
    [["--answer", "600"]],
    [["--secret", "whsec_no*base64"]],
    [["--secret", "whsec_"]],
  ])("%j cannot be used: exit code 2 and the reason on standard error, without a secret", async (args) => {
    const { code, stdout, stderr } = await cli(["webhooks", "listen", ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).not.toBe("");
    expect(stderr).not.toContain("no*");
  });

  it("a port that is taken: says so", async () => {
    await using other = await socketReceiver(() => {});
    const { code, stderr } = await cli(["webhooks", "listen", "--port", String(other.port)]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^entity-service: .*EADDRINUSE.*\n$/);
  });

  it("--help has an example, and the variable that lets the service reach it", async () => {
    const { stdout } = await cli(["webhooks", "listen", "--help"]);
    expect(stdout).toContain("Examples:");
    expect(stdout).toContain("WEBHOOK_ALLOW");
    expect((await cli(["--help"])).stdout).toContain("webhooks");
  });
});
