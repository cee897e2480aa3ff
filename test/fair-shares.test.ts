// Who gets a place, and whose turn is next: by order and counts, without a database.
import { readdir, readFile } from "node:fs/promises";
import { Code, type ConnectError, type ContextValues, createClient, createContextValues } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import * as fc from "fast-check";
import pino from "pino";
import { describe, expect, test, vi } from "vitest";
import { Health } from "../clients/typescript/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../clients/typescript/gen/grpc/reflection/v1/reflection_pb.ts";
import { createShares, hasShare, type Owner } from "../src/domain/shares.ts";
import { admission } from "../src/interceptors/admission.ts";
import { cachedCallers } from "../src/interceptors/cached-callers.ts";
import { callContext, connectionKey, requestBytesKey } from "../src/interceptors/call.ts";
import { callLog } from "../src/interceptors/call-log.ts";
import { createSlots } from "../src/slots.ts";
import { createPace } from "../src/webhooks/pace.ts";
import { refusalOf, startServer } from "./transport-harness.ts";

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Takes as many places as the owner can get. */
function fill(take: () => boolean): number {
  let count = 0;
  while (take()) count += 1;
  return count;
}

describe("shares", () => {
  test("one has half of the places, and whoever comes finds room at once, the eighth as well", () => {
    const shares = createShares(256);
    const held = Array.from({ length: 8 }, (_, i) => fill(() => shares.take({ organization: `${i}` })));
    expect(held[0]).toBe(128);
    expect(held[1]).toBe(64);
    for (const count of held) expect(count).toBeGreaterThan(0);
  });

  test("those who take turns come to equal parts, with one part free", () => {
    const shares = createShares(100);
    const held = [0, 0, 0];
    for (let i = 0; i < 300; i += 1) {
      if (shares.take({ organization: `${i % 3}` })) held[i % 3] = (held[i % 3] ?? 0) + 1;
    }
    expect(held).toEqual([25, 25, 25]);
  });

  test("one part of an organization leaves places to its other parts", () => {
    const shares = createShares(256);
    const first = fill(() => shares.take({ organization: "a", part: "1" }));
    const second = fill(() => shares.take({ organization: "a", part: "2" }));
    expect(first).toBeGreaterThan(100);
    expect(second).toBeGreaterThan(5);
    expect(first + second).toBeLessThanOrEqual(128);
  });

  test("few places are not divided, and what is given back is free", () => {
    const shares = createShares(2, 4);
    expect(fill(() => shares.take({ organization: "a" }))).toBe(2);
    expect(shares.take({ organization: "b" })).toBe(false);
    shares.give({ organization: "a" });
    expect(shares.take({ organization: "b" })).toBe(true);
    expect(shares.used()).toBe(2);
  });

  test("are those of counts by name, whoever takes and gives how many, and however many names there are", () => {
    const owner: fc.Arbitrary<Owner> = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({ organization: fc.constantFrom("a", "b"), part: fc.constantFrom("1", "2", undefined) }),
      },
      {
        weight: 2,
        arbitrary: fc.record({ organization: fc.nat(150).map(String), part: fc.nat(150).map(String) }),
      },
      { weight: 1, arbitrary: fc.record({ organization: fc.constantFrom<object>({}, { second: true }) }) },
    );
    const give = fc.oneof({ weight: 3, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: fc.nat() });
    const act = fc.record({ owner, size: fc.integer({ min: 1, max: 4 }), give });
    void fc.assert(
      fc.property(
        fc.array(act, { minLength: 300, maxLength: 300 }),
        fc.nat(60),
        fc.integer({ min: 1, max: 4 }),
        (acts, total, least) => {
          const shares = createShares(total, least);
          const held: { owner: Owner; size: number }[] = [];
          const sizeOf = (counts: (owner: Owner) => boolean) =>
            held.reduce((sum, one) => sum + (counts(one.owner) ? one.size : 0), 0);
          for (const { owner, size, give } of acts) {
            if (give !== null && held.length > 0) {
              const [back] = held.splice(give % held.length, 1) as [(typeof held)[0]];
              shares.give(back.owner, back.size);
              continue;
            }
            const isOwn = ({ organization }: Owner) => organization === owner.organization;
            const expected = hasShare({
              ...{ total, least, used: sizeOf(() => true), byOrganization: sizeOf(isOwn) },
              byPart: owner.part === undefined ? undefined : sizeOf((one) => isOwn(one) && one.part === owner.part),
            });
            expect(shares.take(owner, size)).toBe(expected);
            if (expected) held.push({ owner, size });
            expect(shares.used()).toBe(sizeOf(() => true));
          }
        },
      ),
    );
  });

  test("random takes and gives: never more than there are, and empty in the end", () => {
    const shares = createShares(30, 2);
    const held: { organization: string; part: string }[] = [];
    for (let i = 0; i < 5_000; i += 1) {
      const owner = { organization: `${(i * 7919) % 5}`, part: `${(i * 104_729) % 3}` };
      if (i % 3 !== 0 && shares.take(owner)) held.push(owner);
      else if (held.length > 0) shares.give(held.splice((i * 31) % held.length, 1)[0] as (typeof held)[0]);
      expect(shares.used()).toBe(held.length);
      expect(held.length).toBeLessThanOrEqual(30);
    }
    for (const owner of held) shares.give(owner);
    expect(shares.used()).toBe(0);
    expect(fill(() => shares.take({ organization: "a" }))).toBe(15);
  });
});

describe("slots", () => {
  /** Tasks that end on demand, by name, in the order in which they began. */
  function works(slots: ReturnType<typeof createSlots>) {
    const begun: string[] = [];
    const ends = new Map<string, () => void>();
    const start = (organization: string, name: string, signal?: AbortSignal) =>
      slots(
        organization,
        () => {
          begun.push(name);
          return new Promise<string>((resolve) => ends.set(name, () => resolve(name)));
        },
        { signal },
      );
    return { begun, start, end: (name: string) => ends.get(name)?.() };
  }

  test("with all places of one taken and 1,000 more of it waiting, another begins at once", async () => {
    const { begun, start } = works(createSlots(6));
    for (let i = 0; i < 1_003; i += 1) void start("a", `a${i}`);
    await turn();
    expect(begun).toEqual(["a0", "a1", "a2"]);
    void start("b", "b0");
    await turn();
    expect(begun.at(-1)).toBe("b0");
  });

  test("organizations take turns, each in its own order", async () => {
    const { begun, start, end } = works(createSlots(1));
    void start("a", "a0");
    for (const name of ["a1", "a2", "b1", "b2", "c1"]) void start(name[0] as string, name);
    for (let i = 0; i < 6; i += 1) {
      await turn();
      end(begun.at(-1) as string);
    }
    expect(begun).toEqual(["a0", "a1", "b1", "c1", "a2", "b2"]);
  });

  test("work whose caller has left is dropped before its turn, and keeps no place", async () => {
    const { begun, start, end } = works(createSlots(1));
    void start("a", "a0");
    const leaving = new AbortController();
    const dropped = start("a", "left", leaving.signal);
    const next = start("a", "a1");
    leaving.abort(new Error("gone"));
    await expect(dropped).rejects.toThrow("gone");
    await expect(start("b", "never", AbortSignal.abort(new Error("was gone")))).rejects.toThrow("was gone");
    end("a0");
    await turn();
    end("a1");
    expect(await next).toBe("a1");
    expect(begun).toEqual(["a0", "a1"]);
  });

  test("what waits of one organization is bounded; a failure gives its place back", async () => {
    const slots = createSlots(1, { maxWaiting: 2 });
    const { start, end } = works(slots);
    void start("a", "a0");
    void start("a", "a1");
    void start("a", "a2");
    await expect(start("a", "a3")).rejects.toMatchObject({ reason: "OVERLOADED" });
    void start("b", "b0");
    end("a0");
    await turn();
    await turn();
    const failing = createSlots(1);
    await expect(failing("a", () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(await failing("b", async () => "room")).toBe("room");
  });
});

describe("admission", () => {
  const call = (organizationId: string | undefined, apiKeyId = "key", { connection = {}, bytes = 0 } = {}) => {
    const values = createContextValues().set(connectionKey, connection).set(requestBytesKey, bytes);
    if (organizationId !== undefined) {
      const caller = { organizationId, apiKeyId, scopes: new Set<string>() };
      values.set(callContext, { caller, actor: undefined, source: undefined, peer: "", requestId: "" });
    }
    return values;
  };
  const fillWith = (admit: (call: ContextValues) => void, next: () => ContextValues) =>
    fill(() => {
      try {
        admit(next());
        return true;
      } catch {
        return false;
      }
    });

  test.each([false, true])("one organization and one key leave room to others (endless: %s)", (isEndless) => {
    const { admit } = admission({ maxInFlight: 256, maxWatches: 256 });
    const take = (values: ContextValues) => admit(values, isEndless);
    const first = fillWith(take, () => call("a", "1"));
    expect(first).toBeGreaterThan(64);
    expect(fillWith(take, () => call("a", "2"))).toBeGreaterThan(0);
    expect(fillWith(take, () => call("b"))).toBeGreaterThan(30);
  });

  test("callers without a key have places of their own, divided among connections", () => {
    const { admit, inFlight } = admission({ maxInFlight: 1, maxWatches: 1 });
    const [flood, other] = [{}, {}];
    for (const isEndless of [true, false]) {
      const take = (values: ContextValues) => admit(values, isEndless);
      expect(fillWith(take, () => call(undefined, "", { connection: flood }))).toBeGreaterThanOrEqual(32);
      expect(fillWith(take, () => call(undefined, "", { connection: other }))).toBeGreaterThan(8);
    }
    expect(inFlight()).toBe(0);
    admit(call("a"), false);
    admit(call("a"), true);
  });

  test("the bytes of requests in hand are divided too, and given back with the place", () => {
    const { admit, release } = admission({ maxInFlight: 10_000, maxWatches: 1 });
    const held: ContextValues[] = [];
    const large = (organization: string) => () => {
      const values = call(organization, `${held.length}`, { bytes: 4 * 1024 * 1024 });
      held.push(values);
      return values;
    };
    expect(fillWith((values) => admit(values, false), large("a"))).toBe(16);
    expect(fillWith((values) => admit(values, false), large("b"))).toBe(8);
    for (const values of held) release(values);
    expect(fillWith((values) => admit(values, false), large("b"))).toBe(16);
  });

  test("a place is released once, however often that is said", () => {
    const { admit, release, inFlight } = admission({ maxInFlight: 2, maxWatches: 1 });
    const [one, two] = [call("a"), call("a")];
    admit(one, false);
    admit(two, false);
    release(one);
    release(one);
    expect(inFlight()).toBe(1);
    expect(() => admit(one, false)).toThrow("went away");
  });
});

describe("guessed keys", () => {
  const someone = { organizationId: "o", apiKeyId: "k", scopes: new Set<string>() };

  /** Lookups that answer on demand. */
  function lookups() {
    const asked: string[] = [];
    const answers = new Map<string, (caller: typeof someone | null) => void>();
    return {
      asked,
      answer: (secret: string, caller: typeof someone | null) => answers.get(secret)?.(caller),
      find: (secrets: readonly string[]) => {
        asked.push(...secrets);
        return Promise.all(
          secrets.map((secret) => new Promise<typeof someone | null>((resolve) => answers.set(secret, resolve))),
        );
      },
    };
  }

  test("few are looked up at once, few wait, the others are refused; those who left are dropped", async () => {
    const { asked, answer, find } = lookups();
    const callers = cachedCallers(find, { unknownLookups: 2, maxWaiting: 3 });
    const left = new Set<string>();
    const guess = (secret: string) => {
      const found = callers(secret, () => left.has(secret));
      found.catch(() => {});
      return found;
    };
    for (const secret of ["1", "2", "3", "4", "5"]) void guess(secret);
    expect(asked).toEqual(["1", "2"]);
    await expect(guess("6")).rejects.toMatchObject({ reason: "OVERLOADED", metadata: { retry_after_ms: "500" } });
    left.add("3");
    answer("1", null);
    await turn();
    expect(asked).toEqual(["1", "2", "4"]);
    // A second request for a key that is being looked up joins that lookup.
    const joined = guess("4");
    answer("4", null);
    expect(await joined).toBeNull();
    expect(await guess("4")).toBeNull();
    expect(asked).toEqual(["1", "2", "4", "5"]);
  });

  test("one key's queue of guesses that all left makes room", async () => {
    const { asked, find } = lookups();
    const callers = cachedCallers(find, { unknownLookups: 1, maxWaiting: 2 });
    for (const secret of ["1", "2", "3"]) callers(secret, () => secret !== "1").catch(() => {});
    void callers("4");
    expect(asked).toEqual(["1"]);
  });

  test("a known key waits for no guess: fresh, asked for again before its time, and after it", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    try {
      const { asked, answer, find } = lookups();
      const callers = cachedCallers(find, { positiveMs: 4_000, unknownLookups: 1, maxWaiting: 10 });
      const first = callers("good");
      answer("good", someone);
      await first;
      for (let i = 0; i < 5; i += 1) callers(`guess-${i}`).catch(() => {});
      expect(asked).toEqual(["good", "guess-0"]);
      vi.advanceTimersByTime(3_500);
      expect(callers.known?.("good")).toBe(someone);
      expect(asked.at(-1)).toBe("good");
      answer("good", someone);
      await turn();
      vi.advanceTimersByTime(3_900);
      expect(callers.known?.("good")).toBe(someone);
      answer("good", someone);
      await turn();
      vi.advanceTimersByTime(60_000);
      const again = callers("good");
      answer("good", someone);
      expect(await again).toBe(someone);
      // A key that is revoked meanwhile stays known for at most its time, counted from the start of its lookup.
      vi.advanceTimersByTime(3_000);
      expect(callers.known?.("good")).toBe(someone);
      vi.advanceTimersByTime(1_000);
      expect(callers.known?.("good")).toBeUndefined();
      answer("good", null);
      await turn();
      expect(await callers("good")).toBeNull();
    } finally {
      vi.useRealTimers();
    }
  });

  test("after forget a key that was good is still not among the guesses", async () => {
    const { asked, answer, find } = lookups();
    const callers = cachedCallers(find, { unknownLookups: 1 });
    const first = callers("good");
    answer("good", someone);
    await first;
    for (let i = 0; i < 3; i += 1) callers(`guess-${i}`).catch(() => {});
    callers.forget();
    expect(callers.known?.("good")).toBeUndefined();
    void callers("good");
    expect(asked.at(-1)).toBe("good");
  });
});

describe("webhook sending", () => {
  test("one organization's slow receivers leave places to its quick ones, and to others", async () => {
    const pace = createPace({ inFlight: () => 0, concurrency: 64 });
    const begun: string[] = [];
    const send = (organizationId: string, isSlow: boolean) =>
      void pace.run({ organizationId, isSlow }, () => {
        begun.push(`${organizationId} ${isSlow}`);
        return new Promise(() => {});
      });
    const started = (what: string) => begun.filter((each) => each === what).length;
    for (let i = 0; i < 500; i += 1) send("a", true);
    for (let i = 0; i < 500; i += 1) send("a", false);
    for (let i = 0; i < 500; i += 1) send("b", false);
    await turn();
    expect(started("a true")).toBeGreaterThan(16);
    expect(started("a false")).toBeGreaterThan(2);
    expect(started("b false")).toBeGreaterThan(8);
    expect(begun.length).toBeLessThan(64);
  });

  test("while the process is busy, deliveries of one organization give way one by one; those of another do not wait for them", async () => {
    const pace = createPace({ inFlight: () => 64, concurrency: 64 });
    const begun: string[] = [];
    const send = (organizationId: string) =>
      void pace.run({ organizationId, isSlow: false }, async () => void begun.push(organizationId));
    for (let i = 0; i < 30; i += 1) send("a");
    send("b");
    await turn();
    expect(begun).toEqual(["a", "b"]);
  });

  test("calls of one organization do not hold up a few deliveries of another; many give way", async () => {
    const pace = createPace({
      inFlight: (organizationId) => (organizationId === "quiet" ? 2 : 64),
      concurrency: 1_000,
    });
    let begun = 0;
    const send = () => void pace.run({ organizationId: "quiet", isSlow: false }, async () => void begun++);
    expect(pace.isBusy("noisy")).toBe(true);
    for (let i = 0; i < 200; i += 1) {
      expect(pace.isBusy("quiet")).toBe(false);
      send();
      await turn();
    }
    expect(begun).toBe(200);
    for (let i = 0; i < 10; i += 1) send();
    await turn();
    expect(begun).toBe(201);
    expect(pace.isBusy("quiet")).toBe(true);
  });
});

test("of refusals of one kind the first is logged at once and whole, the others are counted", () => {
  vi.useFakeTimers();
  try {
    const lines: Record<string, unknown>[] = [];
    const log = callLog(pino({ base: undefined }, { write: (line: string) => void lines.push(JSON.parse(line)) }));
    const refused = (reason: string, requestId: string) =>
      log("info", { code: "UNAUTHENTICATED", reason, organizationId: undefined, requestId } as never, true);
    for (let i = 0; i < 1_000; i += 1) refused("UNAUTHENTICATED", `${i}`);
    refused("HTTP_404", "other");
    log("info", { code: "OK", reason: undefined, organizationId: "o" }, false);
    expect(lines.map(({ msg, requestId }) => [msg, requestId])).toEqual([
      ["call", "0"],
      ["call", "other"],
      ["call", undefined],
    ]);
    vi.advanceTimersByTime(1_000);
    expect(lines.slice(3)).toMatchObject([{ msg: "calls refused", reason: "UNAUTHENTICATED", refused: 999 }]);
    refused("UNAUTHENTICATED", "later");
    expect(lines.at(-1)).toMatchObject({ msg: "call", requestId: "later" });
  } finally {
    vi.useRealTimers();
  }
});

describe("streams without a key have an age", () => {
  test.each([
    ["gRPC", createGrpcTransport],
    ["gRPC-Web", (options: { baseUrl: string }) => createGrpcWebTransport({ ...options, httpVersion: "2" })],
    ["Connect", (options: { baseUrl: string }) => createConnectTransport({ ...options, httpVersion: "2" })],
  ])("a health watch by %s", async (_, transport) => {
    await using server = await startServer({ keylessStreamMs: 300 });
    const watch = createClient(Health, transport({ baseUrl: server.url }))
      .watch({})
      [Symbol.asyncIterator]();
    expect((await watch.next()).value).toMatchObject({ status: 1 });
    const error = await watch.next().catch((ended: unknown) => ended);
    expect(refusalOf(error as ConnectError)).toMatchObject({
      code: Code.DeadlineExceeded,
      reason: "DEADLINE_EXCEEDED",
    });
  });

  test("reflection, however long its caller goes on asking", async () => {
    await using server = await startServer({ keylessStreamMs: 300 });
    const client = createClient(ServerReflection, createGrpcTransport({ baseUrl: server.url }));
    async function* asking() {
      for (;;) {
        yield { messageRequest: { case: "listServices" as const, value: "" } };
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    let answers = 0;
    const reading = async () => {
      for await (const _ of client.serverReflectionInfo(asking())) answers += 1;
    };
    const error = await reading().catch((ended: unknown) => ended);
    expect(refusalOf(error as ConnectError)).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
    expect(answers).toBeGreaterThan(0);
  });
});

test("whoever writes events or makes deliveries due rings the bell: watches, webhooks and NATS hear of it at once", async () => {
  const silent: string[] = [];
  for (const folder of ["rpc", "entities"].map((name) => new URL(`../src/${name}/`, import.meta.url))) {
    for (const name of await readdir(folder)) {
      const source = await readFile(new URL(name, folder), "utf8");
      // write-group.ts itself is what the others call.
      const writes = /\b(writeGroup\w*|releaseNext)\(/.test(source) && name !== "write-group.ts";
      if (writes && !source.includes("bell.ring(")) silent.push(name);
    }
  }
  expect(silent).toEqual([]);
});

test("no family of RPCs goes to the database but in its turn", async () => {
  const folder = new URL("../src/rpc/", import.meta.url);
  const direct: string[] = [];
  for (const name of await readdir(folder)) {
    const source = await readFile(new URL(name, folder), "utf8");
    // write.ts has readInTurn and writeInTurn; the reader, the writer and the feed take turns themselves.
    if (name !== "write.ts" && /db\/(transaction|orm)\.ts"|\borm\.em\b/.test(source)) direct.push(name);
    if (/\bwriteGroup\w*\(/.test(source) && !/\w*[sS]lots\(/.test(source)) direct.push(name);
  }
  expect(direct).toEqual([]);
});
