// Connections that readers and writers keep: nobody waits for one that is not used, and one that broke fails nobody.
import { createConnection, createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Registry } from "prom-client";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { EntityType } from "../clients/typescript/index.ts";
import { readConfig } from "../src/config.ts";
import { keptConnection } from "../src/db/kept-connection.ts";
import { measurePool } from "../src/db/metrics.ts";
import { createOrm, type Orm, poolOf } from "../src/db/orm.ts";
import { newEntity } from "../src/domain/entity.ts";
import { toOneEntity } from "../src/entities/command.ts";
import { createReader } from "../src/entities/reader.ts";
import { createWriter } from "../src/entities/writer.ts";
import { newOrganizationId } from "./commands.ts";
import { RUNTIME_PASSWORD } from "./database-server.ts";
import { byExternalId, newPerson } from "./given.ts";
import { startService, type TestService } from "./harness.ts";
import { startOther } from "./wall-harness.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service[Symbol.asyncDispose]());

type Opened = { orm: Orm } & AsyncDisposable;

function open(at: { host?: string; port?: number; poolSize?: number } = {}): Opened {
  const { poolSize = 10, ...where } = at;
  const address = { ...service.database, ...where, user: "entity_service", password: RUNTIME_PASSWORD };
  const orm = createOrm(address, { ...readConfig({}), poolSize });
  return { orm, [Symbol.asyncDispose]: () => orm.close(true) };
}

const creation = toOneEntity({
  author: { principal: "00000000-0000-7000-8000-00000000aaaa", actor: "test", source: "test" },
  decide: (_, { now }) => newEntity({ type: "person", countryCode: "AR", name: "kept" }, "", now),
});

/** A read and a write, as often as wanted, through connections that are kept. */
async function callsOn(orm: Orm) {
  const organizationId = await newOrganizationId(service);
  const [reader, writer] = [createReader(orm), createWriter(orm)];
  return {
    read: () => reader.find(organizationId, [{ by: "external_id", key: "nobody" }]),
    write: () => writer.write(organizationId, creation),
  };
}

/** Ends the connections of the pool, and waits until they have heard of it. */
async function terminateAll(orm: Orm): Promise<void> {
  const pool = await poolOf(orm);
  const { rows } = await pool.query(
    "select array_agg(pid) as pids from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database() and application_name = 'entity-service'",
  );
  await service.sql("select pg_terminate_backend(pid) from unnest($1::int[]) pid", [rows[0].pids]);
  // The one that has asked is left.
  await expect.poll(() => pool.totalCount).toBe(1);
}

describe("one that broke", () => {
  test("while it was idle fails nobody: the next read and the next write open another", async () => {
    await using opened = open();
    const { read, write } = await callsOn(opened.orm);
    for (let round = 0; round < 5; round++) {
      await Promise.all([read(), write()]);
      await terminateAll(opened.orm);
      expect((await write()).kind).toBe("done");
      expect((await read()).entities.size).toBe(0);
    }
    const pool = await poolOf(opened.orm);
    await expect.poll(() => pool.totalCount - pool.idleCount).toBe(0);
  });

  test("with the answer to its last statement fails nobody", async () => {
    await using proxy = await openProxy();
    await using opened = open(proxy);
    const { take } = keptConnection(opened.orm);
    const use = async () => {
      const { client, release } = await take();
      try {
        return (await client.send("select 1 as one")).rows;
      } finally {
        release(false);
      }
    };
    for (let round = 0; round < 3; round++) {
      await use();
      proxy.endWithNextAnswer();
      expect(await use()).toEqual([{ one: 1 }]);
      expect(await use()).toEqual([{ one: 1 }]);
    }
  });
});

describe("given back", () => {
  test("after it was idle, in less than a second", async () => {
    await using opened = open();
    const { read, write } = await callsOn(opened.orm);
    const pool = await poolOf(opened.orm);
    const used = () => pool.totalCount - pool.idleCount;
    // Of the intervals at which use is looked for.
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    try {
      for (let round = 0; round < 2; round++) {
        await Promise.all([read(), write()]);
        expect(used()).toBe(2);
        vi.advanceTimersByTime(999);
        expect(used()).toBe(0);
      }
    } finally {
      vi.useRealTimers();
    }
  });

  test("when the pool ends: it closes in time, idle or used", async () => {
    const opened = open();
    const { read, write } = await callsOn(opened.orm);
    await Promise.all([read(), write(), read(), write()]);
    const ends = Promise.allSettled([read(), write()]);
    const begun = performance.now();
    await opened.orm.close(true);
    expect(performance.now() - begun).toBeLessThan(1_500);
    await ends;
  });

  test("where somebody waits, though reads and writes come without pause: with POOL_SIZE 2 lists and imports go on", async () => {
    await using other = await startOther(service, { config: { poolSize: 2 } });
    const client = other.client(service.organization.apiKey);
    const { externalId } = await newPerson(client, { externalId: "without-pause" });
    async function* rowsOf(i: number) {
      yield { entity: { type: EntityType.PERSON, name: "imported", countryCode: "AR", externalId: `import-${i}` } };
    }
    let ended = false;
    const withoutPause = (call: () => Promise<unknown>) =>
      Promise.all(
        Array.from({ length: 16 }, async () => {
          while (!ended) await call();
        }),
      );
    let name = 0;
    const busy = Promise.all([
      withoutPause(() => client.entities.getEntity({ lookup: byExternalId(externalId) })),
      withoutPause(() =>
        client.entities.updateEntity({ lookup: byExternalId(externalId), entity: { name: `n${name++}` } }),
      ),
    ]);
    try {
      for (let i = 0; i < 20; i++) {
        const begun = performance.now();
        const { entities } = await client.entities.listEntities({ pageSize: 1 });
        expect(entities).toHaveLength(1);
        for await (const { results } of client.entities.importEntities(rowsOf(i))) expect(results).toHaveLength(1);
        expect(performance.now() - begun).toBeLessThan(2_000);
      }
    } finally {
      ended = true;
      await busy;
    }
  });

  test("once, where several are kept and several ask at the same moment", async () => {
    await using opened = open({ poolSize: 3 });
    const users = [keptConnection(opened.orm), keptConnection(opened.orm)];
    const pool = await poolOf(opened.orm);
    for (let round = 0; round < 5; round++) {
      const taken = await Promise.all(users.map(({ take }) => take()));
      for (const { release } of taken) release(false);
      expect(pool.totalCount - pool.idleCount).toBe(2);
      // The first takes the last that is free, the others get those that were kept.
      await Promise.all([1, 2, 3].map(() => pool.query("select 1")));
      expect([pool.totalCount, pool.idleCount]).toEqual([3, 3]);
    }
  });

  test("where another has the last connection of the pool, at once: it does not wait for the idle one to be noticed", async () => {
    await using other = await startOther(service, { config: { poolSize: 2 } });
    const client = other.client(service.organization.apiKey);
    const { externalId } = await newPerson(client, { externalId: "one-after-the-other" });
    const took: number[] = [];
    for (let i = 0; i < 8; i++) {
      await client.entities.getEntity({ lookup: byExternalId(externalId) });
      await client.entities.updateEntity({ lookup: byExternalId(externalId), entity: { name: `n${i}` } });
      const begun = performance.now();
      await Promise.all([client.entities.listEntities({ pageSize: 1 }), client.entities.listEntities({ pageSize: 2 })]);
      took.push(performance.now() - begun);
    }
    // The median: the machine may be busy once.
    expect(took.sort((a, b) => a - b)[4]).toBeLessThan(150);
  });
});

test("the held seconds are those of each use, not those of the keeping", async () => {
  await using opened = open();
  const { orm } = opened;
  const registry = new Registry();
  await measurePool(orm, registry);
  const { read, write } = await callsOn(orm);
  // A timer may be early by what its turn has taken before.
  let usedMs = 0;
  for (let i = 0; i < 5; i++) {
    const begun = performance.now();
    await read();
    await write();
    usedMs += performance.now() - begun;
    await sleep(100);
  }
  const pool = await poolOf(orm);
  await expect.poll(() => pool.totalCount - pool.idleCount).toBe(0);
  const values = (await registry.getSingleMetric("entity_service_database_held_seconds")?.get())?.values ?? [];
  const heldOf = (end: string) =>
    (values as { metricName?: string; value: number }[]).find(({ metricName }) => metricName?.endsWith(end))?.value;
  expect(heldOf("_count")).toBe(10);
  expect(heldOf("_sum")).toBeLessThan(usedMs / 1_000);
});

/** Stands between a pool and the server; after a word of ours the server seems to end the connection. */
async function openProxy() {
  const { host, port } = service.database;
  const text = "SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0RProcessInterrupts\0\0";
  const ended = Buffer.concat([Buffer.from("E"), Buffer.alloc(4), Buffer.from(text)]);
  ended.writeInt32BE(ended.length - 1, 1);
  const sockets = new Set<Socket>();
  let isArmed = false;
  const server = createServer((near) => {
    const far = host.startsWith("/") ? createConnection(`${host}/.s.PGSQL.${port}`) : createConnection(port, host);
    const end = () => {
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) sockets.add(socket.on("error", end).on("close", end));
    near.on("data", (chunk) => far.write(chunk));
    far.on("data", (chunk) => {
      if (!isArmed) return near.write(chunk);
      isArmed = false;
      // In one piece with the answer.
      near.end(Buffer.concat([chunk, ended]));
      return far.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    host: "127.0.0.1",
    port: (server.address() as { port: number }).port,
    endWithNextAnswer: () => {
      isArmed = true;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
