// What the service ran in a turn of its event loop, from the profile that V8 wrote of the whole run (`--profile`).
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Turn } from "./service.ts";

interface Node {
  id: number;
  callFrame: { functionName: string; url: string; lineNumber: number };
  children?: number[];
}

export interface Profile {
  nodes: Node[];
  /** Microseconds of the monotonic clock. */
  startTime: number;
  samples: number[];
  timeDeltas: number[];
}

export interface Ran {
  /** Where it was, the innermost first, joined. */
  stack: string;
  ms: number;
}

const FRAMES = 9;

/** Those of the processes that wrote into the folder. */
export const readProfiles = (folder: string): Profile[] =>
  readdirSync(folder)
    .filter((name) => name.endsWith(".cpuprofile"))
    .map((name) => JSON.parse(readFileSync(join(folder, name), "utf8")));

/** Stacks of the turn by their time, the longest first. `clock`: the monotonic clock at the time 0 of `from` and `to`. */
export function ranIn(profiles: readonly Profile[], { from, to }: Turn, clock: number): Ran[] {
  const found = new Map<string, number>();
  for (const { nodes, startTime, samples, timeDeltas } of profiles) {
    const byId = new Map(nodes.map((node) => [node.id, node]));
    const parents = new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node] as const)));
    let at = startTime;
    for (const [i, sample] of samples.entries()) {
      at += timeDeltas[i] ?? 0;
      const time = at / 1_000 + clock;
      if (time < from || time > to) continue;
      const stack: string[] = [];
      for (let node = byId.get(sample); node !== undefined && stack.length < FRAMES; node = parents.get(node.id))
        if (node.callFrame.functionName !== "(root)") stack.push(placeOf(node));
      const key = stack.join(" < ");
      found.set(key, (found.get(key) ?? 0) + (timeDeltas[i + 1] ?? 0) / 1_000);
    }
  }
  return [...found].map(([stack, ms]) => ({ stack, ms })).toSorted((a, b) => b.ms - a.ms);
}

function placeOf({ callFrame: { functionName, url, lineNumber } }: Node): string {
  const file = url.split("/").slice(-2).join("/");
  return `${functionName || "(anonymous)"}${file === "" ? "" : ` ${file}:${lineNumber + 1}`}`;
}
