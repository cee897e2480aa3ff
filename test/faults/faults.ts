// The faults: each begins, lasts, ends, and says since when the database can be written to again.
import { setTimeout as sleep } from "node:timers/promises";
import type { Callers, World } from "./callers.ts";
import type { Organization } from "./organization.ts";
import type { Postgres } from "./postgres.ts";
import type { Proxy } from "./proxy.ts";
import type { Service } from "./service.ts";

export interface Scene {
  world: World;
  callers: Callers;
  proxy: Proxy;
  /** The primary of now. */
  postgres: Postgres;
  random: () => number;
  /** Puts the standby in the place of the primary; undefined where there can be none. */
  promote: (() => Promise<void>) | undefined;
  /** Fills the disk of the database, and empties it again. */
  disk: { name: string; fill(): Promise<void>; empty(): Promise<void> };
}

export interface Fault {
  name: string;
  /** Its share of the draws. */
  weight: number;
  /** A reason not to run it here. */
  unless?: (scene: Scene) => string | undefined;
  run(scene: Scene): Promise<void>;
}

const pick = <T>(random: () => number, items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
const between = (random: () => number, least: number, most: number) => least + (most - least) * random();

export const FAULTS: readonly Fault[] = [
  {
    name: "kill",
    weight: 2,
    async run({ world, random }) {
      await pick(random, world.services).kill();
    },
  },
  {
    name: "rolling restart",
    weight: 1,
    async run({ world }) {
      for (const service of world.services) {
        world.checks.drain.count();
        const tookMs = await service.terminate();
        // Calls in flight end within a second or two; a reader that does not read must not hold it up.
        if (tookMs > 6_000) world.checks.drain.fail(`${service.name} took ${(tookMs / 1000).toFixed(1)} s to end`);
        while (!service.isUp()) await sleep(50);
        await sleep(500);
      }
    },
  },
  {
    name: "crash of PostgreSQL",
    weight: 2,
    async run({ postgres, random }) {
      await postgres.stop("immediate");
      await sleep(between(random, 0, 1_500));
      await postgres.start();
    },
  },
  {
    name: "crash of PostgreSQL, ids given again",
    weight: 3,
    async run({ world, callers, postgres, random }) {
      // What was rolled back last is in no log that a crash leaves: its ids are given out again.
      await callers.pause();
      await sleep(between(random, 300, 900));
      for (let round = 0; round < 6; round++) {
        await Promise.all(
          world.organizations.map((one: Organization) => callers.refusedWrite(one, pick(random, world.services))),
        );
      }
      await sleep(between(random, 150, 400));
      await postgres.stop("immediate");
      const starting = postgres.start();
      callers.resume();
      await starting;
    },
  },
];

/** Two of which one is up: a fault of one process is over when it serves again. */
export async function untilUp(services: readonly Service[]): Promise<void> {
  while (services.some((service) => !service.isUp())) await sleep(50);
}
