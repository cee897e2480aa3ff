// Our histogram of durations against the library's.
import * as fc from "fast-check";
import { Histogram, Registry } from "prom-client";
import { expect, test } from "vitest";
import { Durations } from "../src/interceptors/durations.ts";

const about = { name: "a_seconds", help: "For a test" };
const bounds = [0.001, 0.0025, 0.5, 1, 60];

/** As another process gets it; without exemplars, of which there are none. */
const sent = (metrics: unknown): unknown =>
  JSON.parse(JSON.stringify(metrics, (name, value) => (name === "exemplar" ? undefined : value)));

test("what is read is what the library's histogram says, as text and for other processes", async () => {
  const observation = fc.record({
    method: fc.constantFrom("a.v1.A/Get", "a.v1.A/List"),
    code: fc.constantFrom("OK", "NOT_FOUND", "INTERNAL"),
    seconds: fc.oneof(fc.constantFrom(0, ...bounds), fc.double({ min: 0, max: 100, noNaN: true })),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(observation, { maxLength: 30 }), async (observations) => {
      const [ours, theirs] = [new Registry(), new Registry()];
      const durations = new Durations({ ...about, bounds, registry: ours });
      const library = new Histogram({
        ...about,
        labelNames: ["method", "code"],
        buckets: bounds,
        registers: [theirs],
      });
      for (const { method, code, seconds } of observations) {
        durations.count(method, code, seconds);
        library.observe({ method, code }, seconds);
      }
      expect(await ours.metrics()).toBe(await theirs.metrics());
      expect(sent(await ours.getMetricsAsJSON())).toEqual(sent(await theirs.getMetricsAsJSON()));
    }),
  );
});
