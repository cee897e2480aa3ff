// Metrics of the pool of connections: how many there are, how many callers wait, and how long each one is held.
import type { EventEmitter } from "node:events";
import { Gauge, Histogram, type Registry } from "prom-client";
import { type Orm, poolOf } from "./orm.ts";

/** Measures from now on. Call once for a pool. */
export async function measurePool(orm: Orm, registry: Registry): Promise<void> {
  const pool = await poolOf(orm);
  new Gauge({
    name: "entity_service_database_connections",
    help: "Connections to the database: used by a call or another task, or idle",
    labelNames: ["state"],
    registers: [registry],
    collect() {
      this.set({ state: "used" }, pool.totalCount - pool.idleCount);
      this.set({ state: "idle" }, pool.idleCount);
    },
  });
  new Gauge({
    name: "entity_service_database_waiting",
    help: "Calls and other tasks that wait for a connection to the database",
    registers: [registry],
    collect() {
      this.set(pool.waitingCount);
    },
  });
  const held = new Histogram({
    name: "entity_service_database_held_seconds",
    help: "Time for which a connection was held: a read, or a transaction with its commit",
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers: [registry],
  });
  const since = new WeakMap<object, number>();
  const events = pool as unknown as EventEmitter;
  events.on("acquire", (client: object) => since.set(client, performance.now()));
  events.on("release", (_error: unknown, client: object) => {
    const from = since.get(client);
    // A kept connection tells of its last use, and then goes back to the pool.
    since.delete(client);
    if (from !== undefined) held.observe((performance.now() - from) / 1_000);
  });
}
