// What npm run bench makes of its measurements.
import { describe, expect, it } from "vitest";
import { machineOf, pictureOf, type Row, ratiosOf, tableOf } from "../../bench/report.ts";

/** The service is faster than each peer by as many times as its place in the list. */
const CONTENDERS = ["entity-service", "grpc-js", "go", "guide"];
const rows: Row[] = (["get", "update"] as const).flatMap((operation) =>
  [1, 16, 64].flatMap((concurrency) =>
    [1, 64].flatMap((organizations) =>
      CONTENDERS.map((contender, i) => ({
        ...{ contender, operation, concurrency, organizations, perSecondRange: [1, 2] as [number, number] },
        ...{
          perSecond: 6_000 / (i + 1),
          p50: i + 1,
          p99: 9,
          serverCpu: 100 * (i + 1),
          databaseCpu: 10 * (i + 1),
          memory: 50,
        },
      })),
    ),
  ),
);
const machine = machineOf([0.5, 2.5], 0.031);

describe("the report of npm run bench", () => {
  it("has ratios of which more is better for the service, whatever they are of", () => {
    expect(ratiosOf(rows)).toMatchObject({
      "get.64/guide": 4,
      "get.64/guide.cpu": 4,
      "get.1/grpc-js.p50": 2,
      "update.1/grpc-js.cpu": 2,
      "get.64orgs/go": 3,
      "update.64orgs/go.total": 3,
    });
  });

  it("leaves out what was not measured: ratios, rows and bars", () => {
    const without = rows.filter(({ contender }) => contender !== "go");
    const ratios = ratiosOf(without);
    expect(Object.keys(ratios).filter((name) => /go|pgbench|watched/.test(name))).toEqual([]);
    expect(ratios["update.64orgs/grpc-js"]).toBe(2);
    expect(tableOf(without, ratios)).toMatch(/^update\.64\/go +- +UpdateEntity, 64 in flight: /m);
    expect(pictureOf(without, machine)).not.toContain("grpc-go");
  });

  it("shows every setting with every contender, and what others used", () => {
    const picture = pictureOf(rows, machine);
    expect(picture.match(/<rect /g)).toHaveLength(rows.length);
    expect(picture.match(/in flight from 64 organizations</g)).toHaveLength(6);
    expect(picture).toContain("others used 0.03; load average 0.5 to 2.5");
  });
});
