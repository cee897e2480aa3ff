// The alarms of calls: one timer serves one call after the other, and rings for each at its own time.
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createAlarms } from "../src/transport/alarms.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});

afterEach(() => {
  vi.useRealTimers();
});

/** Somebody whom an alarm rings for: when, in milliseconds since it was set up. */
function sleeper() {
  const start = performance.now();
  const rung: number[] = [];
  return { rung, timeUp: () => void rung.push(performance.now() - start) };
}

const inMs = (ms: number) => performance.now() + ms;

test("it rings once, at the time that was set last", () => {
  const alarm = createAlarms();
  for (const [first, second] of [
    [100, 300],
    [300, 100],
  ] as const) {
    const one = sleeper();
    const own = alarm(one);
    own.ringAt(inMs(first));
    own.ringAt(inMs(second));
    vi.advanceTimersByTime(1_000);
    expect(one.rung).toEqual([second]);
    own.giveBack();
  }
});

test("it can be set again after it has rung, and not to ring at all", () => {
  const one = sleeper();
  const own = createAlarms()(one);
  own.ringAt(inMs(100));
  vi.advanceTimersByTime(150);
  own.ringAt(inMs(100));
  vi.advanceTimersByTime(1_000);
  expect(one.rung).toEqual([100, 250]);
  own.ringAt(inMs(100));
  own.ringAt(Number.POSITIVE_INFINITY);
  vi.advanceTimersByTime(1_000);
  own.ringAt(inMs(100));
  vi.advanceTimersByTime(1_000);
  expect(one.rung).toEqual([100, 250, 2_250]);
});

test("a time that has passed rings at once", () => {
  const one = sleeper();
  createAlarms()(one).ringAt(inMs(-50));
  vi.advanceTimersByTime(1);
  expect(one.rung).toHaveLength(1);
});

test("one that was given back rings for nobody, whatever its former owner does", () => {
  const alarm = createAlarms();
  const [first, second] = [sleeper(), sleeper()];
  const before = alarm(first);
  before.ringAt(inMs(100));
  before.giveBack();
  before.giveBack();
  const after = alarm(second);
  const third = sleeper();
  alarm(third).ringAt(inMs(200));
  before.ringAt(inMs(10));
  after.ringAt(inMs(500));
  before.ringAt(Number.POSITIVE_INFINITY);
  vi.advanceTimersByTime(1_000);
  expect([first.rung, second.rung, third.rung]).toEqual([[], [500], [200]]);
});

test("calls one after the other set no timer each", () => {
  const set = vi.spyOn(globalThis, "setTimeout");
  const alarm = createAlarms();
  for (let i = 0; i < 1_000; i++) {
    const own = alarm(sleeper());
    own.ringAt(inMs(10_000));
    vi.advanceTimersByTime(1);
    own.ringAt(inMs(30_000));
    own.giveBack();
  }
  expect(set.mock.calls.length).toBe(1);
  vi.advanceTimersByTime(30_000);
  // The last of them has fired, and nobody has set it again.
  expect(vi.getTimerCount()).toBe(0);
});

test("thousands at once leave no thousands of timers behind", () => {
  const alarm = createAlarms();
  const all = Array.from({ length: 2_000 }, () => alarm(sleeper()));
  for (const one of all) one.ringAt(inMs(10_000));
  expect(vi.getTimerCount()).toBe(2_000);
  for (const one of all) one.giveBack();
  expect(vi.getTimerCount()).toBeLessThanOrEqual(256);
});

test("for real: at no time before the one that was set", async () => {
  vi.useRealTimers();
  const alarm = createAlarms();
  const times = Array.from({ length: 200 }, (_, i) => 5 + (i % 37) + Math.random());
  const early: number[] = [];
  let rung = 0;
  for (const ms of times) {
    const at = inMs(ms);
    const own = alarm({
      timeUp() {
        rung += 1;
        if (performance.now() < at) early.push(ms);
        own.giveBack();
      },
    });
    own.ringAt(at);
  }
  await sleep(300);
  expect({ rung, early }).toEqual({ rung: times.length, early: [] });
});
