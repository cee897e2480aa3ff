// Requests that have begun and do not come: they are bounded in number, and honest callers are served beside them.
import { type ClientHttp2Session, connect, constants } from "node:http2";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { DomainError } from "../src/domain/errors.ts";
import { type Arrival, createArrivals } from "../src/transport/arrivals.ts";
import { newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";

describe("of those on their way", () => {
  function given(max: number) {
    const arrivals = createArrivals(max);
    const refused: string[] = [];
    const arrive = (name: string, connection: object): Arrival =>
      arrivals.add({ connection, fail: ({ reason }: DomainError) => void refused.push(`${name} ${reason}`) });
    return { refused, arrive };
  }

  test("one too many ends the one that has waited longest", () => {
    const { refused, arrive } = given(3);
    const [a] = [arrive("a", {}), arrive("b", {}), arrive("c", {})];
    expect(refused).toEqual([]);
    arrive("d", {});
    expect(refused).toEqual(["a OVERLOADED"]);
    // It is none any more: to end it twice frees no place.
    a.end();
    a.end();
    arrive("e", {});
    expect(refused).toEqual(["a OVERLOADED", "b OVERLOADED"]);
  });

  test("those that are complete take no place", () => {
    const { refused, arrive } = given(2);
    for (let i = 0; i < 10; i++) arrive(`${i}`, {}).end();
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

test("whoever comes and goes, in any order: never more than the bound, and the right one is ended", () => {
  const steps = fc.array(
    fc.oneof(
      { weight: 2, arbitrary: fc.record({ comes: fc.integer({ min: 0, max: 2 }) }) },
      { weight: 1, arbitrary: fc.record({ goes: fc.nat({ max: 200 }) }) },
    ),
    { minLength: 100, maxLength: 300, size: "max" },
  );
  fc.assert(
    fc.property(steps, (all) => {
      const MAX = 25;
      const arrivals = createArrivals(MAX);
      const connections = [{}, {}, {}];
      const ended: number[] = [];
      const places: Arrival[] = [];
      let left: { number: number; connection: number }[] = [];
      const expected: number[] = [];
      for (const step of all) {
        if ("goes" in step) {
          places[step.goes]?.end();
          left = left.filter(({ number }) => number !== step.goes);
          continue;
        }
        const number = places.length;
        left.push({ number, connection: step.comes });
        if (left.length > MAX) {
          const many = (at: number) => left.filter(({ connection }) => connection === at).length >= 16;
          const late = (left.find(({ connection }) => many(connection)) ?? left[0])?.number as number;
          expected.push(late);
          left = left.filter((one) => one.number !== late);
        }
        places.push(
          arrivals.add({ connection: connections[step.comes] as object, fail: () => void ended.push(number) }),
        );
      }
      expect(ended).toEqual(expected);
    }),
  );
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
