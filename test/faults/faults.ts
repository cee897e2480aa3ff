// The faults: each begins, lasts and ends. What they do to the database is over when `run` resolves.
import { setTimeout as sleep } from "node:timers/promises";
import type { Callers, World } from "./callers.ts";
import { type Postgres, SERVICE_ROLE } from "./postgres.ts";
import type { DatabaseProxy } from "./proxy.ts";
import type { Service } from "./service.ts";

export interface Scene {
  world: World;
  callers: Callers;
  proxy: DatabaseProxy;
  /** The current primary. */
  postgres: Postgres;
  random: () => number;
  /** Why there can be no standby; undefined where there can. */
  noStandby: string | undefined;
  /** Puts a standby in the place of the primary, and leaves it a standby for a while. */
  promote(readOnlyMs: number): Promise<void>;
  /** Fills the disk of the database, and empties it again; its name says how. */
  disk: { how: string; fill(): Promise<void>; empty(): Promise<void> };
}

export interface Fault {
  name: string;
  /** Its share of the draws. */
  weight: number;
  /** Why it cannot run here. */
  unless?: (scene: Scene) => string | undefined;
  run(scene: Scene): Promise<void>;
}

type Random = () => number;
const pick = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
const between = (random: Random, least: number, most: number) => least + (most - least) * random();

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
        // Half of the drain time: calls in flight end sooner, and a watcher that does not read must not hold it up.
        if (tookMs > 10_000) world.checks.drain.fail(`${service.name} took ${(tookMs / 1000).toFixed(1)} s to end`);
        await untilUp([service]);
        await sleep(500);
      }
    },
  },
  {
    name: "crash",
    weight: 1,
    async run({ postgres, random }) {
      await postgres.stop("immediate");
      await sleep(between(random, 0, 1_500));
      await postgres.start();
    },
  },
  {
    name: "crash, ids given again",
    weight: 2,
    async run({ world, callers, postgres, random }) {
      // No log that survives a crash has the last rolled-back transactions: their ids are given out again.
      await callers.pause();
      await sleep(between(random, 300, 900));
      // Each search of the webhooks for work ends in a commit, which would make the ids before it durable.
      const holder = await postgres.connect();
      await holder.query("begin");
      await holder.query("lock table webhook_endpoint in share row exclusive mode");
      let isOver = false;
      // One after the other, alone: a group would be rolled back in part and committed. Watchers go on meanwhile.
      const refused = world.organizations.flatMap((organization) =>
        world.services.map(async (service) => {
          while (!isOver) {
            await callers.refusedWrite(organization, service);
            // Few enough that the WAL writer has no reason to flush early.
            await sleep(100);
          }
        }),
      );
      // Until every watcher has a recent position: a checkpoint comes after 5 s without events.
      await sleep(between(random, 5_500, 7_000));
      isOver = true;
      await postgres.stop("immediate");
      await holder.end().catch(() => {});
      const starting = postgres.start();
      callers.resume();
      await Promise.all([starting, ...refused]);
    },
  },
  {
    name: "restart",
    weight: 1,
    async run({ postgres, random }) {
      // A smart one waits for the service's connections to go, which they do not.
      await (random() < 0.5 ? postgres.stop("fast") : postgres.stop("smart", 2_000));
      await sleep(between(random, 0, 1_000));
      await postgres.start();
    },
  },
  {
    name: "lost commits",
    weight: 2,
    async run({ proxy, random }) {
      for (let round = 0; round < 4; round++) {
        proxy.loseCommits(1 + Math.floor(4 * random()));
        await sleep(between(random, 200, 800));
      }
      proxy.loseCommits(0);
    },
  },
  {
    name: "lost answers",
    weight: 2,
    async run({ proxy, random }) {
      for (let round = 0; round < 4; round++) {
        proxy.loseAnswers(1 + Math.floor(4 * random()));
        await sleep(between(random, 200, 800));
      }
      proxy.loseAnswers(0);
    },
  },
  {
    name: "connections ended",
    weight: 1,
    async run({ postgres, random }) {
      for (let round = 0; round < 3; round++) {
        await postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [SERVICE_ROLE]);
        await sleep(between(random, 100, 1_000));
      }
    },
  },
  {
    name: "slow network",
    weight: 1,
    async run({ proxy, random }) {
      proxy.delayMs = between(random, 20, 250);
      await sleep(4_000);
      proxy.delayMs = 0;
    },
  },
  {
    name: "black hole",
    weight: 1,
    async run({ proxy, random }) {
      proxy.set("silent");
      await sleep(between(random, 2_000, 9_000));
      proxy.set("pass");
    },
  },
  {
    name: "database away",
    weight: 1,
    async run({ proxy, random }) {
      proxy.set("refuse");
      await sleep(between(random, 8_000, 12_000));
      proxy.set("pass");
    },
  },
  {
    name: "rows held",
    weight: 1,
    async run({ world, callers, postgres, random }) {
      const organization = pick(random, world.organizations);
      const ids = callers.entityIds(organization).slice(0, 5);
      const from = performance.now();
      const client = await postgres.connect();
      try {
        await client.query("begin");
        await client.query("select 1 from entity where id = any($1::uuid[]) order by id for update", [ids]);
        const recorders = Array.from({ length: 24 }, (_, number) =>
          callers.record(organization, ids[number % ids.length] as string),
        );
        await sleep(between(random, 3_000, 5_000));
        await client.query("rollback");
        const to = performance.now();
        await Promise.all(recorders);
        checkFairness(world, organization.name, from, to);
      } finally {
        await client.end();
      }
    },
  },
  {
    name: "table locked",
    weight: 1,
    async run({ postgres, random }) {
      const client = await postgres.connect();
      try {
        const table = pick(random, [
          "entity",
          "entity_event",
          "external_id",
          "request_record",
          "transaction",
          "user_event",
        ]);
        await client.query("begin");
        await client.query(`lock table ${table} in access exclusive mode`);
        await sleep(between(random, 1_500, 3_500));
        await client.query("rollback");
      } finally {
        await client.end();
      }
    },
  },
  {
    name: "too many connections",
    weight: 1,
    run: ({ postgres, random }) => refuseLogins(postgres, "connection limit 0", "connection limit -1", random),
  },
  {
    name: "login refused",
    weight: 1,
    run: ({ postgres, random }) => refuseLogins(postgres, "nologin", "login", random),
  },
  {
    name: "disk full",
    weight: 1,
    async run({ disk, random }) {
      await disk.fill();
      await sleep(between(random, 3_000, 7_000));
      await disk.empty();
    },
  },
  {
    name: "promotion",
    weight: 2,
    unless: ({ noStandby }) => noStandby,
    run: ({ promote, random }) => promote(between(random, 0, 5_000)),
  },
];

async function refuseLogins(postgres: Postgres, off: string, on: string, random: Random): Promise<void> {
  await postgres.sql(`alter role ${SERVICE_ROLE} ${off}`);
  await postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [SERVICE_ROLE]);
  await sleep(between(random, 3_000, 7_000));
  await postgres.sql(`alter role ${SERVICE_ROLE} ${on}`);
}

/** No other organization waits longer than the lock time of one statement, which is 2 s. */
const FAIR_MS = 4_000;

function checkFairness({ journal, checks }: World, holder: string, from: number, to: number): void {
  const others = journal.writes.filter(
    ({ organization, began }) => organization.name !== holder && began >= from && began <= to,
  );
  checks.fair.count(others.length);
  const slow = others.filter(({ began, ended }) => ended - began > FAIR_MS);
  if (slow.length === 0) return;
  const kinds = [...new Set(slow.map(({ method, isRehearsal }) => `${method}${isRehearsal ? " (rehearsal)" : ""}`))];
  const worst = Math.max(...slow.map(({ began, ended }) => ended - began));
  checks.fair.fail(
    `${slow.length} of ${others.length} calls of the other organization took over ${FAIR_MS / 1000} s, up to ${(worst / 1000).toFixed(1)} s: ${kinds.join(", ")}`,
  );
}

export async function untilUp(services: readonly Service[]): Promise<void> {
  while (services.some((service) => !service.isUp())) await sleep(50);
}
