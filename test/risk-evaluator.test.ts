// The thread that runs the rules: it is ended when a rule takes too long, and what waits for it is bounded and shared.
import { execFile, spawn } from "node:child_process";
import { performance } from "node:perf_hooks";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { afterEach, describe, expect, it } from "vitest";
import { DomainError } from "../src/domain/errors.ts";
import { createEvaluator, QUEUE_BYTES, TooLong } from "../src/risk/evaluator.ts";

let evaluator = createEvaluator();
afterEach(() => evaluator[Symbol.asyncDispose]());

const entityWith = (attributes: object) =>
  JSON.stringify({ entityData: { person: {}, company: {} }, attributes, metadata: {} });
const EASY = { entity: entityWith({ n: 1 }), today: "2026-11-28" };
const quick = { key: "quick", expressions: ["entity.attributes.n == 1"] };
/** 10,000 steps, each of which compares with every item. */
const slow = {
  key: "slow",
  expressions: ["true", "entity.attributes.list.exists(x, x + 0.5 in entity.attributes.list)"],
};
const HARD = { entity: entityWith({ list: Array.from({ length: 100_000 }, () => 1) }), today: "2026-11-28" };

/** Takes as long to read as anything within the bounds. */
const longToRead = (n: number) =>
  `${Array.from({ length: 56 }, () => "((((((((((((((((1))))))))))))))))").join("+")}==${n}`;

describe("a rule that takes too long", () => {
  it("rule 145: is ended, by its number, and others have their answers from the next thread", async () => {
    evaluator = createEvaluator({ clockMs: 300 });
    const begun = performance.now();
    const cut = evaluator.run("a", slow, HARD).catch((error: unknown) => error);
    const others = Array.from({ length: 50 }, () => evaluator.run("b", quick, EASY));
    const error = await cut;
    expect(error).toBeInstanceOf(TooLong);
    expect((error as TooLong).rule).toBe(1);
    // To its end it would take some half a minute, and a thread takes a while to start where others keep the cores busy.
    expect(performance.now() - begun).toBeLessThan(20_000);
    expect(await Promise.all(others)).toEqual(Array(50).fill([true]));
    expect(await evaluator.run("a", quick, EASY)).toEqual([true]);
  });

  it("rule 145: the event loop goes on meanwhile", async () => {
    evaluator = createEvaluator({ clockMs: 1_500 });
    await evaluator.run("a", quick, EASY);
    let longest = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 5);
    await expect(evaluator.run("a", slow, HARD)).rejects.toThrow(TooLong);
    clearInterval(timer);
    expect(longest).toBeLessThan(1_000);
  });

  it("rule 145: its organization steps aside for the others", async () => {
    evaluator = createEvaluator({ clockMs: 300 });
    const cut = Array.from({ length: 3 }, () => evaluator.run("a", slow, HARD).catch((error: unknown) => error));
    const order: string[] = [];
    void cut[1]?.then(() => order.push("the second of the slow"));
    await evaluator.run("b", quick, EASY).then(() => order.push("the first of the others"));
    for (let i = 0; i < 10; i++) await evaluator.run("b", quick, EASY);
    await Promise.all(cut);
    expect(order[0]).toBe("the first of the others");
    for (const error of await Promise.all(cut)) expect(error).toBeInstanceOf(TooLong);
  });

  it("rule 145: one that takes too much memory ends like one that takes too long", async () => {
    evaluator = createEvaluator({ clockMs: 20_000 });
    // Ropes take nothing until they are searched.
    const text = Array.from({ length: 24 }, () => "entity.attributes.text").join(" + ");
    const greedy = { key: "greedy", expressions: [`entity.attributes.list.map(x, ${text}).all(y, !y.contains('q'))`] };
    const attributes = { text: "x".repeat(40_000), list: Array.from({ length: 4_000 }, () => 1) };
    await expect(evaluator.run("a", greedy, { entity: entityWith(attributes), today: "" })).rejects.toThrow(TooLong);
    expect(await evaluator.run("a", quick, EASY)).toEqual([true]);
  });
});

describe("time", () => {
  it("rule 145: is the thread's own: a job that had none of it is not blamed", async () => {
    const child = spawn(process.execPath, ["test/risk-paused.ts"], { stdio: ["ignore", "pipe", "inherit"] });
    const told = createInterface(child.stdout)[Symbol.asyncIterator]();
    try {
      expect((await told.next()).value).toBe("begun");
      // A fast machine is done with it within a tenth of a second; one that others keep busy has 15 s for all of it.
      await sleep(30);
      child.kill("SIGSTOP");
      // Longer than the 3 s of its clock.
      await sleep(4_500);
      child.kill("SIGCONT");
      expect((await told.next()).value).toBe("answered, after the pause: true");
    } finally {
      child.kill("SIGKILL");
    }
  });
});

describe("the zone", () => {
  it("rule 143: times are in UTC, wherever the process is", async () => {
    const env = { ...process.env, TZ: "Europe/Vienna" };
    const args = ["--import", "./test/risk-zone.ts", "src/main.ts", "--help"];
    const { stdout } = await promisify(execFile)(process.execPath, args, { env });
    expect(stdout).toContain("times: true,true,true");
  });
});

describe("a matrix that is new", () => {
  it("rule 145: is read in its own turn: whoever was before it is not cut off, and each expression has the time", async () => {
    evaluator = createEvaluator({ clockMs: 300 });
    const heavy = { key: "heavy", expressions: Array.from({ length: 60 }, (_, n) => longToRead(1_000 + n)) };
    const first = evaluator.run("c", quick, EASY);
    const [before, read] = [evaluator.run("a", quick, EASY), evaluator.run("b", heavy, EASY)];
    expect(await first).toEqual([true]);
    expect(await before).toEqual([true]);
    expect(await read).toEqual(Array(60).fill(false));
  });
});

describe("turns", () => {
  /** Takes about as long as a batch may, or longer. */
  const LONG = { entity: entityWith({ list: Array.from({ length: 1_500 }, () => 1) }), today: "" };

  it("rule 145: whoever comes later waits for one long job of another organization, not for a batch of them", async () => {
    evaluator = createEvaluator({ clockMs: 20_000 });
    await evaluator.run("a", slow, LONG);
    const order: string[] = [];
    const long = Array.from({ length: 12 }, (_, i) =>
      evaluator.run("a", slow, LONG).then(() => {
        order.push(`long ${i}`);
        if (i === 0) void evaluator.run("b", quick, EASY).then(() => order.push("quick"));
      }),
    );
    await Promise.all(long);
    expect(order.slice(0, 6)).toContain("quick");
    expect(order.filter((one) => one !== "quick")).toEqual(Array.from({ length: 12 }, (_, i) => `long ${i}`));
  });

  it("rule 145: those that a batch leaves come first, in their order", async () => {
    evaluator = createEvaluator({ clockMs: 20_000 });
    await evaluator.run("a", slow, LONG);
    const order: string[] = [];
    const begin = (organization: string, name: string) =>
      evaluator.run(organization, slow, LONG).then(() => order.push(name));
    await Promise.all([begin("a", "a1"), begin("a", "a2"), begin("b", "b1"), begin("a", "a3")]);
    expect(order).toEqual(["a1", "a2", "b1", "a3"]);
  });

  it("rule 145: expressions are not read where one was refused, and wait no more", async () => {
    evaluator = createEvaluator({ clockMs: 20_000 });
    const texts = Array.from({ length: 1_100 }, (_, n) => longToRead(n));
    await expect(evaluator.check("a", texts)).rejects.toMatchObject({ reason: "OVERLOADED" });
    const begun = performance.now();
    expect(await evaluator.run("a", quick, EASY)).toEqual([true]);
    expect(performance.now() - begun).toBeLessThan(5_000);
  });

  it("rules 144, 145: a matrix whose expressions take too long all together is not read to its end", async () => {
    evaluator = createEvaluator({ readMs: 50 });
    // To read them all takes some five seconds; the next thread has to start first.
    const texts = Array.from({ length: 900 }, (_, n) => longToRead(n));
    const [, more] = await Promise.all([
      expect(evaluator.check("a", texts)).rejects.toBeInstanceOf(TooLong),
      // Others are as they were.
      evaluator.check("b", ["true"]),
    ]);
    expect(more).toMatchObject([{ problem: null }]);
    const begun = performance.now();
    expect(await evaluator.run("a", quick, EASY)).toEqual([true]);
    expect(performance.now() - begun).toBeLessThan(4_500);
  });

  it("rules 144, 145: two hundred of the longest to read are within the time of a matrix", async () => {
    evaluator = createEvaluator();
    const texts = Array.from({ length: 200 }, (_, n) => longToRead(n));
    expect(await evaluator.check("a", texts)).toHaveLength(200);
  });

  it("rule 145: expressions are not read for a caller who has left meanwhile", async () => {
    evaluator = createEvaluator({ clockMs: 20_000 });
    const texts = Array.from({ length: 900 }, (_, n) => longToRead(n));
    const signal = { aborted: false, reason: new Error("left") };
    const checked = evaluator.check("a", texts, signal).catch((error: unknown) => error);
    await evaluator.run("b", quick, EASY);
    signal.aborted = true;
    expect(await checked).toBe(signal.reason);
  });
});

describe("what waits", () => {
  it("rule 145: is bounded in number for each organization: OVERLOADED", async () => {
    evaluator = createEvaluator();
    const runs = Array.from({ length: 1_100 }, () => evaluator.run("a", quick, EASY).catch((error: unknown) => error));
    const other = evaluator.run("b", quick, EASY);
    const answers = await Promise.all(runs);
    const refused = answers.filter((answer) => answer instanceof DomainError && answer.reason === "OVERLOADED");
    expect(refused.length).toBeGreaterThan(0);
    expect(answers.length - refused.length).toBeGreaterThanOrEqual(1_000);
    expect(await other).toEqual([true]);
  });

  it("rule 145: is bounded in bytes, in fair shares: one organization alone has half of them", async () => {
    evaluator = createEvaluator();
    const entity = entityWith({ text: "x".repeat(60_000) });
    const held = Math.ceil(QUEUE_BYTES / 2 / (entity.length * 2));
    const runs = Array.from({ length: held * 2 }, () =>
      evaluator
        .run("a", { key: "has", expressions: ["has(entity.attributes.text)"] }, { entity, today: "" })
        .catch((error: unknown) => error),
    );
    const other = evaluator.run("b", quick, EASY);
    const answers = await Promise.all(runs);
    const refused = answers.filter((answer) => answer instanceof DomainError && answer.reason === "OVERLOADED");
    expect(Math.abs(answers.length - refused.length - held)).toBeLessThan(40);
    expect(await other).toEqual([true]);
    // All of it is given back.
    expect(await evaluator.run("a", quick, { entity, today: "" })).toEqual(["NO_SUCH_FIELD"]);
  });

  it("rule 145: whose caller has left is not run", async () => {
    evaluator = createEvaluator();
    const reason = new Error("left");
    await expect(evaluator.run("a", quick, EASY, { aborted: true, reason })).rejects.toBe(reason);
  });

  it("rule 145: matrices that have no room in the thread are read anew", async () => {
    evaluator = createEvaluator();
    const large = (n: number) => ({
      key: `large ${n}`,
      expressions: Array.from({ length: 150 }, () =>
        `entity.attributes.n == ${n} /*${"x".repeat(0)}*/`.replace("/**/", ""),
      ),
    });
    for (let i = 0; i < 300; i++) {
      const answers = await evaluator.run("a", large(i % 150), EASY);
      expect(new Set(answers)).toEqual(new Set([i % 150 === 1]));
    }
  });
});
