// Requests that have begun and do not come: they are bounded in number, and honest callers are served beside them.
import { type ClientHttp2Session, connect, constants } from "node:http2";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

describe.each(["application/grpc", "application/json"])("as %s", (contentType) => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service[Symbol.asyncDispose]());

  test("thousands without a body are refused in time, and the caller beside them is served", async () => {
    const url = `http://127.0.0.1:${service.port}`;
    const sessions: ClientHttp2Session[] = [];
    let refused = 0;
    const isRefusal = (headers: Record<string, unknown>) =>
      headers["grpc-status"] === "14" || headers[":status"] === 503;
    for (let i = 0; i < 15; i++) {
      const session = connect(url);
      session.on("error", () => {});
      sessions.push(session);
      for (let j = 0; j < 100; j++) {
        const stream = session.request(
          {
            ":method": constants.HTTP2_METHOD_POST,
            ":path": "/entity.v1.EntityService/GetEntity",
            "content-type": contentType,
            authorization: `Bearer ${service.organization.apiKey}`,
            te: "trailers",
          },
          { endStream: false },
        );
        stream.on("error", () => {});
        const look = (headers: Record<string, unknown>) => (refused += isRefusal(headers) ? 1 : 0);
        stream.on("response", look).on("trailers", look).resume();
      }
    }
    await expect.poll(() => refused, { timeout: 30_000 }).toBeGreaterThanOrEqual(450);
    expect(refused).toBeLessThanOrEqual(500);
    expect((await newPerson(service.client)).name).not.toBe("");
    for (const session of sessions) session.destroy();
  });
});
