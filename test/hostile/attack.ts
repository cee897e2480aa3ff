// A process of attackers: takes turns among them while the attack lasts, and runs single cases again when asked.
import type { Attacker, Failure } from "./attacker.ts";
import { caseOf, sessions } from "./attacker.ts";
import { floodAttackers } from "./attackers/floods.ts";
import { frameAttackers } from "./attackers/frames.ts";
import { holdingAttackers } from "./attackers/holders.ts";
import { jsonAttackers } from "./attackers/json.ts";
import { protobufAttackers } from "./attackers/protobuf.ts";
import { plantedCases } from "./cases.ts";
import type { Ground } from "./ground.ts";

export const ATTACKERS: Attacker[] = [
  ...protobufAttackers,
  ...jsonAttackers,
  ...frameAttackers,
  ...floodAttackers,
  ...holdingAttackers,
];
export const CASES = plantedCases;

export interface Suspect {
  attacker: string;
  index: number;
  /** How long it was under way before the time in question. */
  sinceMs: number;
}

export type Order =
  | { kind: "attack"; ground: Ground; party: number; attackers: string[]; seconds: number }
  | { kind: "single"; id: number; ground: Ground; party: number; attacker: string; index: number; limitMs: number }
  | { kind: "suspects"; id: number; from: number; to: number };

export type Report =
  | {
      kind: "tally";
      inputs: Record<string, number>;
      outcomes: Record<string, Record<string, number>>;
      failures: Failure[];
    }
  | { kind: "done"; id: number }
  | { kind: "suspects"; id: number; suspects: Suspect[] };

const now = () => performance.timeOrigin + performance.now();

if (process.send !== undefined) serve();

function serve(): void {
  let inputs: Record<string, number> = {};
  let outcomes: Record<string, Record<string, number>> = {};
  let failures: Failure[] = [];
  /** Cases with their times; `to` is open while one is under way. */
  const history: { attacker: string; index: number; from: number; to: number }[] = [];
  const tell = (report: Report) => process.send?.(report);
  const flush = () => {
    tell({ kind: "tally", inputs, outcomes, failures });
    inputs = {};
    outcomes = {};
    failures = [];
  };
  setInterval(flush, 500).unref();
  const notesOf = (attacker: string) => ({
    sent: (count: number) => {
      inputs[attacker] = (inputs[attacker] ?? 0) + count;
    },
    ended: (outcome: string) => {
      const mine = (outcomes[attacker] ??= {});
      mine[outcome] = (mine[outcome] ?? 0) + 1;
    },
    failed: (failure: Failure) => failures.push(failure),
  });

  let connections: ReturnType<typeof sessions> | undefined;
  const one = async (
    attacker: Attacker,
    index: number,
    { ground, party, over }: { ground: Ground; party: number; over: AbortSignal },
  ) => {
    connections ??= sessions(ground.port, 4);
    const entry = { attacker: attacker.name, index, from: now(), to: Number.POSITIVE_INFINITY };
    history.push(entry);
    if (history.length > 20_000) history.splice(0, 10_000);
    const notes = notesOf(attacker.name);
    try {
      await attacker.attack(
        caseOf(attacker.name, index, {
          ground,
          party: ground.hostile[party] as Ground["good"],
          over,
          notes,
          next: connections.next,
        }),
      );
    } catch (error) {
      // The port is closed, or the connection ended before it was open.
      notes.ended(`not sent: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}`.slice(0, 60));
    }
    entry.to = now();
  };

  const attack = async ({ ground, party, attackers, seconds }: Extract<Order, { kind: "attack" }>) => {
    const over = new AbortController();
    const mine = ATTACKERS.filter(({ name }) => attackers.includes(name));
    if (mine.length === 0) return tell({ kind: "done", id: 0 });
    const ends = performance.now() + seconds * 1_000;
    const sliceMs = Math.min(5_000, Math.max(1_000, (seconds * 1_000) / (mine.length * 2)));
    const next = new Map<string, number>();
    const underWay = new Set<Promise<void>>();
    for (let turn = 0; performance.now() < ends; turn++) {
      const attacker = mine[turn % mine.length] as Attacker;
      const until = Math.min(ends, performance.now() + sliceMs);
      const began = performance.now();
      let busy = 0;
      for (let count = 0; performance.now() < until; ) {
        const due = 1 + Math.floor(((performance.now() - began) / 1_000) * attacker.perSecond);
        while (count < due && busy < attacker.atOnce) {
          count += 1;
          busy += 1;
          const index = next.get(attacker.name) ?? 0;
          next.set(attacker.name, index + 1);
          const run = one(attacker, index, { ground, party, over: over.signal }).finally(() => {
            busy -= 1;
            underWay.delete(run);
          });
          underWay.add(run);
        }
        // What could not begin in time is left out, not made up for.
        if (busy >= attacker.atOnce) count = Math.max(count, due - attacker.atOnce);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
    over.abort();
    await Promise.race([Promise.all(underWay), new Promise((resolve) => setTimeout(resolve, 15_000))]);
    await connections?.close();
    connections = undefined;
    flush();
    tell({ kind: "done", id: 0 });
  };

  process.on("message", (order: Order) => {
    switch (order.kind) {
      case "attack":
        void attack(order);
        break;
      case "single": {
        const attacker = [...ATTACKERS, ...CASES].find(({ name }) => name === order.attacker);
        const over = new AbortController();
        const timer = setTimeout(() => over.abort(), order.limitMs);
        void (async () => {
          if (attacker !== undefined) await one(attacker, order.index, { ...order, over: over.signal });
          clearTimeout(timer);
          flush();
          tell({ kind: "done", id: order.id });
        })();
        break;
      }
      case "suspects": {
        const suspects = history
          .filter(({ from, to }) => from <= order.to && to >= order.from)
          .map(({ attacker, index, from }) => ({ attacker, index, sinceMs: order.from - from }));
        tell({ kind: "suspects", id: order.id, suspects });
        break;
      }
    }
  });
  process.once("disconnect", () => process.exit(0));
}
