// What a position may rest on (src/log/durable.ts), against a model of PostgreSQL that begins, commits, rolls back,
// crashes, is copied, restored, dumped and replaced by a standby, in any order. The log of the model is its
// write-ahead log: what was not flushed is lost, and the ids in it are given out again.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { durableEnd, isHere, reachedAtEnd } from "../src/log/durable.ts";
import { BEGINNING, covers, type Snapshot, sees } from "../src/log/snapshot.ts";

const ORGANIZATIONS = 2;

interface LoggedEvent {
  id: number;
  organization: number;
  number: number;
  xid: bigint;
  recordedAt: number;
}
interface EpochRow {
  number: number;
  id: string;
  cluster: string;
  timeline: number;
  startedAt: number;
  xid: bigint;
}
interface StartRow {
  id: string;
  number: number;
  xid: bigint;
  nextXid: bigint;
  nextStartedAt: number;
  certain?: { xid: bigint; snapshot: Snapshot } | undefined;
}
interface MarkRow {
  start: string;
  xid: bigint;
  snapshot: Snapshot;
}
/** What a transaction leaves behind when it commits. */
interface Effects {
  events?: LoggedEvent[];
  epoch?: EpochRow;
  starts?: StartRow[];
  mark?: MarkRow;
}
interface WalRecord {
  /** The next id is above it, once this is replayed. */
  xid: bigint;
  commit?: Effects;
}
interface Files {
  cluster: string;
  /** The dump that the cluster was made from: its rows, but not its ids. */
  base: Effects;
  timeline: number;
  wal: WalRecord[];
  /** Copied while it ran, and so without what was not yet in the log. */
  isTorn: boolean;
}
interface Transaction {
  xid: bigint | undefined;
  events: LoggedEvent[];
}
/** A reader that keeps a copy of an organization's events, and the position of the copy. */
interface Consumer {
  organization: number;
  start: string;
  number: number;
  from: Snapshot;
  has: Set<number>;
  /** Since then a copy of a running cluster has replaced the original: what overlapped at the copy may be lost without an error. */
  mayHaveLost: boolean;
}

/** Math.max does not take bigints. */
const later = (a: bigint, b: bigint) => (a < b ? b : a);

type Rule = "durable" | "raw snapshots" | "not capped" | "any start" | "no mark" | "late start";

class Database {
  readonly #rule: Rule;
  readonly consumers: Consumer[] = [];
  readonly copies: Files[] = [];
  readonly outcomes = { resumed: 0, expired: 0 };
  #ids = 0;
  #clock = 0;
  #cluster = "cluster";
  #timeline = 1;
  #wal: WalRecord[] = [];
  #flushed = 0;
  #nextXid = 3n;
  #startedAt = 0;
  #running: Transaction[] = [];
  #base: Effects = {};

  constructor(rule: Rule) {
    this.#rule = rule;
    const epoch = { number: 1, id: "none", cluster: "none", timeline: 1, startedAt: -1, xid: 0n };
    this.#commit(this.#assign(), { epoch, mark: { start: "none", xid: 0n, snapshot: BEGINNING } });
    this.#begin();
  }

  #assign(): bigint {
    return this.#nextXid++;
  }

  #commit(xid: bigint, commit: Effects): void {
    this.#wal.push({ xid, commit });
    this.#flushed = this.#wal.length;
  }

  #begin(): void {
    this.#running = [];
    this.#startedAt = ++this.#clock;
  }

  #state() {
    const effects = [this.#base, ...this.#wal.map(({ commit }) => commit ?? {})];
    const last = <K extends "epoch" | "mark">(key: K) => effects.findLast((one) => one[key] !== undefined)?.[key];
    return {
      events: effects.flatMap(({ events = [] }) => events),
      epoch: last("epoch") as EpochRow,
      mark: last("mark") as MarkRow,
      starts: effects.findLast(({ starts }) => starts !== undefined)?.starts ?? [],
    };
  }

  #snapshot(): Snapshot {
    const running = this.#running.flatMap(({ xid }) => xid ?? []).sort((a, b) => (a < b ? -1 : 1));
    return { xmax: this.#nextXid, running };
  }

  // --- What writers do

  transaction(): void {
    this.#running.push({ xid: undefined, events: [] });
  }

  /** Takes an id; it is in the log at once or later. */
  write(which: number, organization: number, isLogged: boolean): void {
    const one = this.#running[which % Math.max(1, this.#running.length)];
    if (one === undefined) return;
    // On another cluster the number has not moved yet; the old number is below every position.
    if (this.#rule !== "late start" && this.#state().epoch.cluster === this.#cluster) this.#moveEpoch();
    one.xid ??= this.#assign();
    const { number } = this.#state().epoch;
    one.events.push({ id: ++this.#ids, organization, number, xid: one.xid, recordedAt: ++this.#clock });
    if (isLogged) this.#wal.push({ xid: one.xid });
  }

  end(which: number, commits: boolean): void {
    const [one] = this.#running.splice(which % Math.max(1, this.#running.length), 1);
    if (one?.xid === undefined) return;
    if (commits) this.#commit(one.xid, { events: one.events });
    else this.#wal.push({ xid: one.xid });
  }

  /** A transaction with one event, or two that overlap: the one that began first commits last. */
  change(organization: number, areTwo: boolean): void {
    for (let i = 0; i < (areTwo ? 2 : 1); i++) {
      this.transaction();
      this.write(this.#running.length - 1, organization, true);
    }
    this.end(this.#running.length - 1, true);
    if (areTwo) this.end(this.#running.length - 1, true);
  }

  rollBack(count: number): void {
    for (let i = 0; i < count; i++) this.#wal.push({ xid: this.#assign() });
  }

  // --- What happens to the cluster

  #recover({ cluster, base, timeline, wal }: Omit<Files, "isTorn">): void {
    [this.#cluster, this.#base, this.#timeline, this.#wal] = [cluster, base, timeline, [...wal]];
    this.#flushed = wal.length;
    this.#nextXid = wal.reduce((next, { xid }) => (xid >= next ? xid + 1n : next), 3n);
    this.#begin();
  }

  #files = (length: number): Omit<Files, "isTorn"> => ({
    cluster: this.#cluster,
    base: this.#base,
    timeline: this.#timeline,
    wal: this.#wal.slice(0, length),
  });

  /** Part of what was not flushed may be on disk all the same. When only a backend dies, the postmaster lives on. */
  crash(share: number, isOfBackend: boolean): void {
    const startedAt = this.#startedAt;
    this.#recover(this.#files(this.#flushed + Math.floor((this.#wal.length - this.#flushed) * share)));
    if (isOfBackend) this.#startedAt = startedAt;
  }

  restart(): void {
    this.#wal.push({ xid: this.#nextXid - 1n });
    this.#recover(this.#files(this.#wal.length));
  }

  copy(isTorn: boolean): void {
    if (!isTorn) this.restart();
    this.copies.push({ ...this.#files(isTorn ? this.#flushed : this.#wal.length), isTorn });
  }

  restore(which: number): void {
    const files = this.copies[which % Math.max(1, this.copies.length)];
    if (files === undefined) return;
    // The copy equals the original up to a moment at which some transactions were running.
    if (files.isTorn) for (const consumer of this.consumers) consumer.mayHaveLost = true;
    this.#recover(files);
  }

  /** A standby that has replayed part of the log takes over. */
  promote(lag: number): void {
    const length = Math.max(this.#base.epoch === undefined ? 1 : 0, this.#wal.length - lag);
    this.#recover({ ...this.#files(length), timeline: this.#timeline + 1 });
  }

  /** Dumped, and restored in a cluster whose ids begin again. */
  dump(): void {
    this.#recover({ cluster: `cluster ${++this.#ids}`, base: this.#state(), timeline: 1, wal: [] });
  }

  // --- What the service does

  /** As move_feed_epoch() does. */
  #moveEpoch(): void {
    const { epoch, mark, starts } = this.#state();
    if (epoch.startedAt === this.#startedAt) return;
    // The number changes after the last writer of the old one.
    if (epoch.cluster !== this.#cluster) while (this.#running.length > 0) this.end(0, true);
    const xid = this.#assign();
    const isSameLog = epoch.cluster === this.#cluster;
    const isSameTimeline = epoch.timeline === this.#timeline || this.#rule === "no mark";
    const certain = mark.start === epoch.id ? mark : { xid: 0n, snapshot: BEGINNING };
    const ended: StartRow = {
      id: epoch.id,
      number: epoch.number,
      xid: epoch.xid,
      nextXid: xid,
      nextStartedAt: this.#startedAt,
      certain: isSameTimeline ? undefined : { xid: certain.xid, snapshot: certain.snapshot },
    };
    const next: EpochRow = {
      number: isSameLog ? epoch.number : epoch.number + 1,
      id: `start ${++this.#ids}`,
      cluster: this.#cluster,
      timeline: this.#timeline,
      startedAt: this.#startedAt,
      xid,
    };
    this.#commit(xid, { epoch: next, starts: isSameLog ? [...starts, ended] : [] });
    this.mark();
  }

  /** As mark_feed() does. */
  mark(): void {
    const { epoch } = this.#state();
    if (epoch.startedAt !== this.#startedAt) return;
    const snapshot = this.#snapshot();
    const xid = this.#assign();
    this.#commit(xid, { mark: { start: epoch.id, xid, snapshot } });
  }

  #head(organization: number) {
    this.#moveEpoch();
    const { epoch, events } = this.#state();
    const own = events.filter((one) => one.organization === organization && one.number === epoch.number);
    const lastXid = own.reduce((last, { xid }) => later(xid, last), epoch.xid);
    const snapshot = this.#snapshot();
    const isRaw = this.#rule === "raw snapshots" || this.#rule === "not capped";
    return { epoch, snapshot: isRaw ? snapshot : durableEnd(snapshot, lastXid) };
  }

  #ended(organization: number, start: string) {
    const { starts, events } = this.#state();
    const row = starts.find(({ id }) => id === start);
    if (row === undefined) return undefined;
    const last = events
      .filter((one) => one.organization === organization && one.number === row.number)
      .filter(({ xid, recordedAt }) => xid < row.nextXid && recordedAt < row.nextStartedAt)
      .reduce((max, { xid }) => later(xid, max), row.xid);
    return { number: row.number, reached: reachedAtEnd({ lastXid: last, certain: row.certain }) };
  }

  #isHere({ organization, start, number, from }: Consumer, head: { epoch: EpochRow; snapshot: Snapshot }): boolean {
    if (this.#rule === "raw snapshots" || this.#rule === "any start") {
      return number === head.epoch.number && covers(head.snapshot, from);
    }
    return isHere({ start, snapshot: from }, head, this.#ended(organization, start));
  }

  #visible(organization: number): LoggedEvent[] {
    return this.#state().events.filter((one) => one.organization === organization);
  }

  /** A list, and the position that comes with it. */
  list(organization: number): void {
    const { epoch, snapshot } = this.#head(organization);
    const has = new Set(this.#visible(organization).map(({ id }) => id));
    this.consumers.push({
      organization,
      start: epoch.id,
      number: epoch.number,
      from: snapshot,
      has,
      mayHaveLost: false,
    });
  }

  /** Watches on from the consumer's position. Returns what it missed, or has and should not have, without an error. */
  resume(which: number): string | undefined {
    const consumer = this.consumers[which % Math.max(1, this.consumers.length)];
    if (consumer === undefined) return undefined;
    const { organization, from, has } = consumer;
    const head = this.#head(organization);
    if (!this.#isHere(consumer, head)) {
      this.outcomes.expired++;
      this.consumers.splice(this.consumers.indexOf(consumer), 1);
      return undefined;
    }
    this.outcomes.resumed++;
    const log = this.#visible(organization);
    for (const { id, xid, number } of log) {
      if (number === head.epoch.number && sees(head.snapshot, xid) && !sees(from, xid)) has.add(id);
    }
    Object.assign(consumer, { start: head.epoch.id, number: head.epoch.number, from: head.snapshot });
    const missed = log.filter(({ id }) => !has.has(id));
    if (missed.length > 0) return `missed ${missed.map(({ xid }) => xid)}`;
    const ids = new Set(log.map(({ id }) => id));
    const lost = [...has].filter((id) => !ids.has(id));
    return lost.length > 0 && !consumer.mayHaveLost ? `kept ${lost.length} that are lost` : undefined;
  }
}

const nat = (max: number) => fc.nat({ max });
const one = (of: number) => nat(of - 1);
/** Has a name, so that a failed run is readable. */
interface Step {
  name: string;
  run(database: Database): string | undefined;
}
const stepOf =
  <T extends unknown[]>(name: string, run: (database: Database, ...values: T) => unknown) =>
  (...values: T): Step => ({
    name: `${name}(${values})`,
    run: (database) => {
      const problem = run(database, ...values);
      return typeof problem === "string" ? problem : undefined;
    },
  });
const weighted = <T extends unknown[]>(
  weight: number,
  name: string,
  values: fc.Arbitrary<T>,
  run: (database: Database, ...values: T) => unknown,
) => ({ weight, arbitrary: values.map((given) => stepOf(name, run)(...given)) });
const resume = (db: Database, which: number) => db.resume(which);
const step = fc.oneof(
  weighted(6, "begin", fc.tuple(), (db) => db.transaction()),
  weighted(8, "write", fc.tuple(nat(5), one(ORGANIZATIONS), fc.boolean()), (db, ...given) => db.write(...given)),
  weighted(8, "end", fc.tuple(nat(5), nat(3)), (db, which, luck) => db.end(which, luck > 0)),
  weighted(8, "change", fc.tuple(one(ORGANIZATIONS), fc.boolean()), (db, ...given) => db.change(...given)),
  weighted(3, "rollBack", fc.tuple(nat(4)), (db, count) => db.rollBack(count)),
  weighted(6, "list", fc.tuple(one(ORGANIZATIONS)), (db, organization) => db.list(organization)),
  weighted(8, "resume", fc.tuple(nat(5)), resume),
  weighted(3, "mark", fc.tuple(), (db) => db.mark()),
  weighted(3, "crash", fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.boolean()), (db, ...given) =>
    db.crash(...given),
  ),
  weighted(1, "restart", fc.tuple(), (db) => db.restart()),
  weighted(2, "copy", fc.tuple(fc.boolean()), (db, isTorn) => db.copy(isTorn)),
  weighted(2, "restore", fc.tuple(nat(3)), (db, which) => db.restore(which)),
  weighted(2, "promote", fc.tuple(nat(6)), (db, lag) => db.promote(lag)),
  weighted(1, "dump", fc.tuple(), (db) => db.dump()),
);

/** The first problem of a run under a rule; at the end every consumer watches on. */
function problemOf(rule: Rule, steps: readonly Step[], outcomes = { resumed: 0, expired: 0 }): string | undefined {
  const database = new Database(rule);
  const all: Step[] = [...steps, ...Array.from({ length: 10 }, (_, i) => stepOf("resume", resume)(i))];
  for (const next of all) {
    const problem = next.run(database);
    if (problem !== undefined) return problem;
  }
  outcomes.resumed += database.outcomes.resumed;
  outcomes.expired += database.outcomes.expired;
  return undefined;
}

const runs = Number(process.env.MODEL_RUNS ?? 5_000);
const steps = fc.array(step, { minLength: 10, maxLength: 80, size: "max" });
const check = (rule: Rule, numRuns: number, outcomes?: { resumed: number; expired: number }) =>
  fc.check(
    fc.property(steps, (list) => {
      const problem = problemOf(rule, list, outcomes);
      if (problem !== undefined) throw new Error(problem);
    }),
    { numRuns, endOnFailure: rule !== "durable" },
  );

describe("positions in a model of PostgreSQL", () => {
  it("miss nothing, and nobody keeps what was lost without being told", () => {
    const outcomes = { resumed: 0, expired: 0 };
    const result = check("durable", runs, outcomes);
    expect(
      result.failed
        ? `${result.errorInstance}, seed ${result.seed}: ${result.counterexample?.[0].map(({ name }) => name)}`
        : "",
    ).toBe("");
    // Not because every position expires.
    expect(outcomes.resumed).toBeGreaterThan(outcomes.expired);
    expect(outcomes.expired).toBeGreaterThan(runs / 10);
  });

  // The former rule, and the present one without each of its parts.
  it.each<Rule>(["raw snapshots", "not capped", "any start", "no mark", "late start"])("planted: %s", (rule) => {
    expect(String(check(rule, 50_000).errorInstance)).toMatch(/missed \d|kept \d/);
  });
});
