// Requests that have begun and do not come: they are bounded in number, and honest callers are served beside them.
import { type ClientHttp2Session, connect, constants } from "node:http2";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { DomainError } from "../src/domain/errors.ts";
import { type Arriving, createArrivals } from "../src/transport/arrivals.ts";
import { newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

describe("of those on their way", () => {
  function given(max: number) {
    const arrivals = createArrivals(max);
    const refused: string[] = [];
    const arrive = (name: string, connection: object): Arriving => {
      const one = {
        connection,
        fail: ({ reason }: DomainError) => void refused.push(`${name} ${reason}`),
      };
      arrivals.add(one);
      return one;
    };
    return { arrivals, refused, arrive };
  }

  test("one too many ends the one that has waited longest", () => {
    const { arrivals, refused, arrive } = given(3);
    const [a] = [arrive("a", {}), arrive("b", {}), arrive("c", {})];
    expect(refused).toEqual([]);
    arrive("d", {});
    expect(refused).toEqual(["a OVERLOADED"]);
    // It is none any more: to end it twice frees no place.
    arrivals.delete(a);
    arrivals.delete(a);
    arrive("e", {});
    expect(refused).toEqual(["a OVERLOADED", "b OVERLOADED"]);
  });

  test("those that are complete take no place", () => {
    const { arrivals, refused, arrive } = given(2);
    for (let i = 0; i < 10; i++) arrivals.delete(arrive(`${i}`, {}));
    expect(refused).toEqual([]);
  });

  test("a connection with many loses its own first", () => {
    const { refused, arrive } = given(20);
    arrive("honest", {});
    const flood = {};
    for (let i = 0; i < 25; i++) arrive(`flood ${i}`, flood);
    expect(refused).toEqual(Array.from({ length: 6 }, (_, i) => `flood ${i} OVERLOADED`));
  });
});

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
    await expect.poll(() => refused, { timeout: 8_000 }).toBeGreaterThanOrEqual(450);
    expect(refused).toBeLessThanOrEqual(500);
    expect((await newPerson(service.client)).name).not.toBe("");
    for (const session of sessions) session.destroy();
  });
});
